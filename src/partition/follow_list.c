/* SPDX-License-Identifier: MIT */
/*
 * Following, step 1: which files make up the log now.
 *
 * A directory is listed until two listings agree, since one that runs beside a
 * rename may show neither the old name nor the new. Headers are read of files
 * that are not known yet only. Then, as at an opening: in order of the log, and
 * what a compacted segment stands for leaves.
 *
 * What is known has to be there, unless it was superseded; and the last record
 * that was taken in has to lie where it lay.
 */
#include "partition/follow.h"

#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/segment.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LISTINGS_MAX 16u

struct ids {
    uint64_t *items;
    size_t count, capacity;
};

struct listing {
    struct ids data, hints;
    bool checkpoint;
};

static int no_memory(void)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list a partition");
}

static int add_id(struct ids *ids, uint64_t id)
{
    if (!bkv_grow(&ids->items, ids->count, 1, sizeof *ids->items, &ids->capacity))
        return no_memory();
    ids->items[ids->count++] = id;
    return BITKV_OK;
}

static int on_entry(void *user, const char *name)
{
    struct listing *listing = user;
    uint64_t id = 0;
    enum bkv_file_kind kind = bkv_name_parse(name, &id);
    if (kind == BKV_FILE_DATA)
        return add_id(&listing->data, id);
    if (kind == BKV_FILE_HINT)
        return add_id(&listing->hints, id);
    listing->checkpoint |= kind == BKV_FILE_CHECKPOINT;
    return BITKV_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void sort_ids(struct ids *ids)
{
    if (ids->count > 0)
        qsort(ids->items, ids->count, sizeof *ids->items, by_number);
}

static bool has_id(const struct ids *ids, uint64_t id)
{
    return ids->count > 0 &&
           bsearch(&id, ids->items, ids->count, sizeof *ids->items, by_number) != NULL;
}

static void listing_free(struct listing *listing)
{
    bkv_mfree(listing->data.items);
    bkv_mfree(listing->hints.items);
    *listing = (struct listing){0};
}

static int list_once(struct bkv_partition *p, struct listing *listing)
{
    char name[BKV_NAME_SIZE];
    bkv_name_partition(name, p->index);
    int rc = bkv_dir_list(&p->store->dir, name, listing, on_entry);
    if (rc == BITKV_NOT_FOUND)
        return bkv_error(BKV_READ_AGAIN, "%s is missing", name);
    sort_ids(&listing->data);
    sort_ids(&listing->hints);
    return rc;
}

static bool same_data(const struct listing *a, const struct listing *b)
{
    return a->data.count == b->data.count &&
           (a->data.count == 0 ||
            memcmp(a->data.items, b->data.items, a->data.count * sizeof *a->data.items) == 0);
}

static int list_stable(struct bkv_partition *p, struct listing *out)
{
    int rc = list_once(p, out);
    for (unsigned i = 0; i < LISTINGS_MAX && rc == BITKV_OK; i++) {
        struct listing next = {0};
        rc = list_once(p, &next);
        bool same = rc == BITKV_OK && same_data(out, &next);
        listing_free(out);
        *out = next;
        if (same)
            return BITKV_OK;
    }
    return rc != BITKV_OK
               ? rc
               : bkv_error(BKV_READ_AGAIN, "the files of partition %" PRIu32 " change", p->index);
}

/* --- items --------------------------------------------------------------------------- */

static int add_item(struct bkv_follow *f, const struct bkv_follow_item *item)
{
    if (!bkv_grow(&f->items, f->count, 1, sizeof *f->items, &f->capacity))
        return no_memory();
    f->items[f->count++] = *item;
    return BITKV_OK;
}

static int add_known(struct bkv_follow *f, const struct listing *listing)
{
    int rc = BITKV_OK;
    for (struct bkv_segment *s = f->p->first; s != NULL && rc == BITKV_OK; s = s->next) {
        bool compacted = s->kind == BKV_SEGMENT_COMPACTED;
        struct bkv_follow_item item = {
            .id = s->id,
            .base_sequence = s->base_sequence,
            .range_last = compacted ? s->last_sequence : 0,
            .compacted = compacted,
            .hint = has_id(&listing->hints, s->id),
            .listed = has_id(&listing->data, s->id),
            .segment = s,
        };
        rc = add_item(f, &item);
    }
    return rc;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct bkv_follow_item *)a)->id;
    uint64_t y = ((const struct bkv_follow_item *)b)->id;
    return x < y ? -1 : x > y;
}

/* A file that is being prepared, or is not ours, is none yet. */
static int add_new(struct bkv_follow *f, uint64_t id, bool hint)
{
    struct bkv_partition *p = f->p;
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    struct bkv_segment_header header = {.partition = p->index, .id = id};
    memcpy(header.database_id, p->store->manifest.database_id, sizeof header.database_id);
    enum bkv_segment_state state;
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc == BITKV_NOT_FOUND)
        return BKV_READ_AGAIN;
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_segment_header_read(&file, &header, &state);
    bkv_file_close(&file);
    if (rc != BITKV_OK)
        return rc;
    if (state == BKV_SEGMENT_NEWER)
        return bkv_error(BITKV_ERR_FORMAT, "%s/%s was written by another version",
                         p->store->dir.path, name);
    if (state != BKV_SEGMENT_VALID)
        return BITKV_OK;
    struct bkv_follow_item item = {
        .id = id,
        .base_sequence = header.base_sequence,
        .range_last = header.kind == BKV_SEGMENT_COMPACTED ? header.last_sequence : 0,
        .compacted = header.kind == BKV_SEGMENT_COMPACTED,
        .hint = hint,
        .listed = true,
    };
    return add_item(f, &item);
}

static int add_unknown(struct bkv_follow *f, const struct listing *listing)
{
    size_t known = f->count;
    int rc = BITKV_OK;
    if (known > 0)
        qsort(f->items, known, sizeof *f->items, by_id);
    for (size_t i = 0; i < listing->data.count && rc == BITKV_OK; i++) {
        struct bkv_follow_item key = {.id = listing->data.items[i]};
        if (known == 0 || bsearch(&key, f->items, known, sizeof key, by_id) == NULL)
            rc = add_new(f, key.id, has_id(&listing->hints, key.id));
    }
    return rc;
}

/* As recovery.c has it. */
static int by_sequence(const void *a, const void *b)
{
    const struct bkv_follow_item *x = a;
    const struct bkv_follow_item *y = b;
    if (x->base_sequence != y->base_sequence)
        return x->base_sequence < y->base_sequence ? -1 : 1;
    if (x->range_last != y->range_last)
        return x->range_last > y->range_last ? -1 : 1;
    return x->id > y->id ? -1 : x->id < y->id;
}

static int drop_superseded(struct bkv_follow *f)
{
    uint64_t covered = 0;
    size_t kept = 0;
    if (f->count > 0)
        qsort(f->items, f->count, sizeof *f->items, by_sequence);
    for (size_t i = 0; i < f->count; i++) {
        struct bkv_follow_item item = f->items[i];
        if (item.base_sequence <= covered && covered != 0)
            continue;
        if (item.compacted)
            covered = item.range_last;
        if (!item.listed)
            return bkv_error(BKV_READ_AGAIN,
                             "data_%" PRIu64 ".db of partition %" PRIu32 " is gone, and nothing "
                             "stands in its place",
                             item.id, f->p->index);
        f->items[kept++] = item;
    }
    f->count = kept;
    return BITKV_OK;
}

/* Outputs of a partition are named in order of their ids. */
static void note_outputs(struct bkv_follow *f)
{
    f->newest_output = 0;
    f->output_new = false;
    for (size_t i = 0; i < f->count; i++) {
        const struct bkv_follow_item *item = &f->items[i];
        if (!item->compacted)
            continue;
        f->output_new |= item->segment == NULL;
        if (item->id > f->newest_output)
            f->newest_output = item->id;
    }
}

/* --- is it the log that was read so far? ------------------------------------------- */

static bool counts(const struct bkv_follow *f, const struct bkv_segment *segment)
{
    for (size_t i = f->count; i-- > 0;) {
        if (f->items[i].segment == segment)
            return true;
    }
    return false;
}

static int check_proof(const struct bkv_follow *f)
{
    struct bkv_partition *p = f->p;
    const struct bkv_followed *at = &p->followed;
    if (!at->proven || !counts(f, at->segment))
        return BITKV_OK; /* a segment that was replaced was durable */
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, at->segment->id);
    uint8_t head[BKV_RECORD_HEADER] = {0};
    struct bkv_file file;
    size_t got = 0;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc == BITKV_NOT_FOUND)
        return BKV_READ_AGAIN;
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_read(&file, head, sizeof head, at->proof_offset, &got);
    bkv_file_close(&file);
    if (rc != BITKV_OK || memcmp(head, at->proof, sizeof head) == 0)
        return rc;
    return bkv_error(BKV_READ_AGAIN,
                     "%s was cut or written anew: the record at offset %" PRIu64 " is not there "
                     "any more",
                     name, at->proof_offset);
}

int bkv_follow_list(struct bkv_follow *f)
{
    struct listing listing = {0};
    f->count = 0;
    int rc = list_stable(f->p, &listing);
    f->checkpoint = listing.checkpoint;
    if (rc == BITKV_OK)
        rc = add_known(f, &listing);
    if (rc == BITKV_OK)
        rc = add_unknown(f, &listing);
    if (rc == BITKV_OK)
        rc = drop_superseded(f);
    if (rc == BITKV_OK)
        rc = check_proof(f);
    note_outputs(f);
    listing_free(&listing);
    return rc;
}
