/* SPDX-License-Identifier: MIT */
/*
 * Recovery, first part: the KeyDir checkpoint. It is taken only if it fits the
 * files that are there (see log/checkpoint.h) and verifies as a whole;
 * otherwise the KeyDir is built from hints and data, as if there were none.
 */
#include "partition/recovery.h"

#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"

#include <inttypes.h>
#include <string.h>

struct load {
    struct bkv_recover *r;
    struct bkv_checkpoint_reader reader;
    struct bkv_segment **by_number; /* those of the table */
    uint64_t *limit;                /* records lie below, by number */
    uint64_t *live;                 /* bytes, by number */
    uint32_t numbers;
};

#define REJECT(load, ...) bkv_error(BITKV_ERR_CORRUPT, __VA_ARGS__)

static struct bkv_found *find_id(struct bkv_recover *r, uint64_t id)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->found[i].id == id)
            return &r->found[i];
    }
    return NULL;
}

/* A row of the table against the file it is about. */
static int match_row(struct load *load, const struct bkv_checkpoint_segment *row)
{
    const struct bkv_checkpoint_info *info = &load->reader.info;
    struct bkv_found *found = find_id(load->r, row->id);
    if (found == NULL || found->state != BKV_SEGMENT_VALID ||
        found->base_sequence != row->base_sequence)
        return REJECT(load,
                      "the checkpoint of partition %u knows data_%" PRIu64
                      ".db, which is missing or another",
                      load->r->p->index, row->id);
    if (row->size < BKV_SEGMENT_HEADER || row->size > found->file_size)
        return REJECT(load,
                      "the checkpoint of partition %u knows %" PRIu64 " bytes of data_%" PRIu64
                      ".db, which has %" PRIu64,
                      load->r->p->index, row->size, row->id, found->file_size);
    if (found->checkpoint_size != 0)
        return REJECT(load, "the checkpoint of partition %u has data_%" PRIu64 ".db twice",
                      load->r->p->index, row->id);
    if (row->number >= load->numbers || load->by_number[row->number] != NULL)
        return REJECT(load,
                      "the checkpoint of partition %u has segment number %u twice or out of "
                      "range",
                      load->r->p->index, row->number);
    if (row->id == info->end_segment && row->size != info->end_offset)
        return REJECT(load, "the checkpoint of partition %u contradicts itself about its end",
                      load->r->p->index);
    found->segment->number = row->number;
    found->checkpoint_size = row->size;
    found->checkpoint_last = row->last_sequence;
    load->by_number[row->number] = found->segment;
    load->limit[row->number] = row->size;
    return BITKV_OK;
}

static int match_table(struct load *load)
{
    struct bkv_recover *r = load->r;
    const struct bkv_checkpoint_info *info = &load->reader.info;
    for (uint32_t i = 0; i < info->segments; i++) {
        int rc = match_row(load, &load->reader.table[i]);
        if (rc != BITKV_OK)
            return rc;
    }
    for (size_t i = 0; i < r->count; i++) {
        const struct bkv_found *f = &r->found[i];
        if (f->id < info->next_segment_id && f->checkpoint_size == 0 &&
            f->base_sequence < info->start_sequence && f->state == BKV_SEGMENT_VALID)
            return REJECT(load, "the checkpoint of partition %u does not know data_%" PRIu64 ".db",
                          r->p->index, f->id);
    }
    if (info->next_segment_id == 0 || info->next_segment_id > BKV_SEGMENT_ID_MAX)
        return REJECT(load, "the checkpoint of partition %u has no sound next segment id",
                      r->p->index);
    const struct bkv_found *start = find_id(r, info->start_segment);
    const struct bkv_found *end = find_id(r, info->end_segment);
    if (start == NULL || end == NULL || start->checkpoint_size == 0 || end->checkpoint_size == 0 ||
        info->start_offset < BKV_SEGMENT_HEADER || info->start_offset > start->checkpoint_size ||
        info->start_offset % BKV_RECORD_ALIGNMENT != 0 || info->start_sequence == 0 || end < start)
        return REJECT(load, "the checkpoint of partition %u has no sound start or end",
                      r->p->index);
    /* All that it knows was durable, so that no cut can take what the image points at. */
    for (const struct bkv_found *f = end + 1; f < r->found + r->count; f++) {
        if (f->checkpoint_size != 0)
            return REJECT(load,
                          "the checkpoint of partition %u knows data_%" PRIu64
                          ".db, which begins behind its end",
                          r->p->index, f->id);
    }
    return BITKV_OK;
}

static bool check_location(void *user, uint64_t location)
{
    struct load *load = user;
    uint32_t number = bkv_location_segment(location);
    uint64_t offset = bkv_location_offset(location);
    uint64_t size = bkv_location_size(location);
    if (number >= load->numbers || offset < BKV_SEGMENT_HEADER || size <= BKV_RECORD_HEADER ||
        offset + size > load->limit[number])
        return false;
    load->live[number] += size;
    return true;
}

/* The KeyDir knows no files: it gives bare codes. */
static int refused_by_keydir(const struct load *load, int code)
{
    return bkv_error(code,
                     "the KeyDir does not take the checkpoint of partition %u near offset "
                     "%" PRIu64,
                     load->r->p->index, load->reader.stream.offset);
}

static int load_group(struct load *load)
{
    struct bkv_keydir *keydir = load->r->p->keydir;
    struct bkv_reader *stream = &load->reader.stream;
    uint8_t header[BKV_KEYDIR_GROUP_HEADER_SIZE];
    int rc = bkv_reader_take(stream, header, sizeof header);
    if (rc != BITKV_OK)
        return rc;
    uint32_t pages = bkv_get32(header);
    void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
    if (pages == 0 || pages > BKV_KEYDIR_GROUP_PAGES_MAX ||
        bkv_reader_left(stream) < (uint64_t)pages * BKV_KEYDIR_PAGE_SIZE)
        return REJECT(load, "the checkpoint of partition %u has a group of %u pages",
                      load->r->p->index, pages);
    rc = bkv_keydir_load_group(keydir, pages, memory);
    if (rc != BITKV_OK)
        return refused_by_keydir(load, rc);
    for (uint32_t i = 0; rc == BITKV_OK && i < pages; i++)
        rc = bkv_reader_take(stream, memory[i], BKV_KEYDIR_PAGE_SIZE);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_keydir_load_group_finish(keydir, bkv_get32(header + 4), check_location, load);
    return rc == BITKV_OK ? BITKV_OK : refused_by_keydir(load, rc);
}

static int load_groups(struct load *load)
{
    struct bkv_keydir *keydir = load->r->p->keydir;
    uint32_t groups = load->reader.info.groups;
    /* No more than the file explains. */
    if (groups > bkv_reader_left(&load->reader.stream) / BKV_KEYDIR_PAGE_SIZE)
        return REJECT(load, "the checkpoint of partition %u claims %u groups", load->r->p->index,
                      groups);
    int rc = bkv_keydir_load_begin(keydir, groups);
    if (rc != BITKV_OK)
        return refused_by_keydir(load, rc);
    for (uint32_t i = 0; rc == BITKV_OK && i < groups; i++)
        rc = load_group(load);
    if (rc == BITKV_OK)
        rc = bkv_checkpoint_groups_verify(&load->reader);
    if (rc != BITKV_OK) {
        bkv_keydir_load_abort(keydir);
        return rc;
    }
    rc = bkv_keydir_load_end(keydir);
    BKV_ASSERT(rc == BITKV_OK); /* as many groups as it was told */
    return rc;
}

/* The image is in: what it covers need not be replayed. */
static void adopt(struct load *load)
{
    struct bkv_recover *r = load->r;
    const struct bkv_checkpoint_info *info = &load->reader.info;
    for (uint32_t n = 0; n < load->numbers; n++) {
        if (load->by_number[n] != NULL)
            atomic_store(&load->by_number[n]->live_bytes, load->live[n]);
    }
    size_t start = (size_t)(find_id(r, info->start_segment) - r->found);
    size_t end = (size_t)(find_id(r, info->end_segment) - r->found);
    r->start = (struct bkv_place){.file = start, .offset = info->start_offset};
    r->durable = (struct bkv_place){.file = end, .offset = info->end_offset};
    r->last_sequence = info->start_sequence - 1;
    r->adopted = true;
    for (size_t i = 0; i < start; i++)
        r->found[i].covered = r->found[i].checkpoint_size != 0;
    if (info->next_segment_id - 1 > r->max_id)
        r->max_id = info->next_segment_id - 1;
    r->p->recovery.checkpoint_keys = bkv_keydir_count(r->p->keydir);
    atomic_store(&r->p->checkpoint_bytes, load->reader.file_size);
}

static void forget(struct bkv_recover *r)
{
    for (size_t i = 0; i < r->count; i++) {
        r->found[i].checkpoint_size = 0;
        r->found[i].checkpoint_last = 0;
    }
}

/* Above all that the table gives; those that are out of range are rejected by
 * match_row(). */
static uint32_t numbers_of(const struct bkv_checkpoint_reader *reader)
{
    uint32_t numbers = 1;
    for (uint32_t i = 0; i < reader->info.segments; i++) {
        uint32_t number = reader->table[i].number;
        if (number >= numbers && number < BKV_SEGMENTS_MAX)
            numbers = number + 1;
    }
    return numbers;
}

static int load_opened(struct load *load)
{
    load->numbers = numbers_of(&load->reader);
    load->by_number = bkv_calloc(load->numbers, sizeof *load->by_number);
    load->limit = bkv_calloc(load->numbers, sizeof *load->limit);
    load->live = bkv_calloc(load->numbers, sizeof *load->live);
    int rc = BITKV_OK;
    if (load->by_number == NULL || load->limit == NULL || load->live == NULL)
        rc = bkv_error(BITKV_ERR_NO_MEMORY, "no memory to load a checkpoint");
    if (rc == BITKV_OK)
        rc = match_table(load);
    if (rc == BITKV_OK)
        rc = load_groups(load);
    if (rc == BITKV_OK)
        adopt(load);
    else
        forget(load->r);
    bkv_mfree(load->by_number);
    bkv_mfree(load->limit);
    bkv_mfree(load->live);
    return rc;
}

int bkv_recover_checkpoint(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    struct load load = {.r = r};
    int rc =
        bkv_checkpoint_open(&load.reader, &p->store->dir, p->index, p->store->manifest.database_id);
    if (rc == BITKV_NOT_FOUND)
        return BITKV_OK;
    if (rc == BITKV_OK) {
        rc = load_opened(&load);
        bkv_checkpoint_close(&load.reader);
    }
    if (rc != BITKV_ERR_CORRUPT)
        return rc;
    if (bkv_recover_doubts(r, "checkpoint", 0))
        return BKV_READ_AGAIN;
    p->recovery.rejected_checkpoints++;
    r->checkpoint_rejected = true;
    if (p->store->options.strict_recovery)
        return rc;
    bkv_log(p->store, BITKV_LOG_WARNING, "checkpoint not used: %s", bitkv_error_context());
    return BITKV_OK;
}
