/* SPDX-License-Identifier: MIT */
/*
 * From SEALED to FINISHED: the worker's job for a segment that is full.
 *
 *   1. sync it (and all before it): what follows may claim that it is durable
 *   2. trim the file to what is used
 *   3. write its hint, from one pass over the records
 *   4. let go of the descriptor; from now on the cache may close it
 *
 * Failure modes: the sync fails: the segment stays SEALED, the partition
 * refuses writes. Trimming or the hint fails (no space, most likely): both
 * only cost time or space later, so the segment is FINISHED all the same, and
 * the next opening writes the hint.
 */
#include "partition/state.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/schedule.h"
#include "io/io.h"
#include "log/filename.h"
#include "log/hint.h"
#include "log/scan.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* Records of one slice: some tenths of a millisecond. */
#define SLICE_RECORDS 4096u

/* A hint that left out what does not verify would hide the damage from every
 * opening that follows. */
static int copy_entries(struct bkv_partition *p, const struct bkv_file *file,
                        struct bkv_scanner *scanner, struct bkv_hint_writer *writer)
{
    uint64_t slice_begun = bkv_now_ns();
    for (uint32_t n = 1;; n++) {
        struct bkv_scan_item item;
        int rc = bkv_scanner_next(scanner, &item);
        if (rc != BITKV_OK)
            return rc;
        if (item.kind == BKV_SCAN_END && item.size == 0)
            return BITKV_OK;
        if (item.kind != BKV_SCAN_RECORD)
            return bkv_error(BITKV_ERR_CORRUPT,
                             "no hint for %s: at offset %llu, %llu bytes are damaged", file->name,
                             (unsigned long long)item.offset, (unsigned long long)item.size);
        if (!bkv_record_is_keyless(&item.record)) {
            struct bkv_hash hash =
                bkv_hash(&p->store->manifest.hash_key, item.key, item.record.key_size);
            struct bkv_entry entry =
                bkv_entry(&hash, (enum bkv_record_type)item.record.type, item.offset, item.size);
            rc = bkv_hint_add(writer, &entry, item.record.sequence, item.deadline);
            if (rc != BITKV_OK)
                return rc;
        }
        if (n % SLICE_RECORDS == 0)
            bkv_worker_yield(p, &slice_begun);
    }
}

static int write_hint(struct bkv_partition *p, struct bkv_segment *segment,
                      const struct bkv_file *file)
{
    uint64_t size = atomic_load(&segment->size);
    struct bkv_hint_info info = bkv_hint_info_of(p, segment);
    struct bkv_hint_writer writer;
    int rc = bkv_hint_begin(&writer, &p->store->dir, &info);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_scanner scanner;
    rc = bkv_scanner_begin(&scanner, file, segment->seed, BKV_SEGMENT_HEADER, size);
    if (rc == BITKV_OK)
        rc = copy_entries(p, file, &scanner, &writer);
    bkv_scanner_end(&scanner);
    if (rc != BITKV_OK) {
        bkv_hint_abandon(&writer);
        return rc;
    }
    uint64_t hint_bytes;
    rc = bkv_hint_finish(&writer, size, segment->last_sequence, &hint_bytes);
    if (rc == BITKV_OK) {
        atomic_store(&segment->hint_bytes, hint_bytes);
        segment->summary = writer.info.summary;
    }
    return rc;
}

static int trim(struct bkv_segment *segment, const struct bkv_file *file)
{
    uint64_t size = atomic_load(&segment->size);
    uint64_t file_size = 0;
    int rc = bkv_file_size(file, &file_size);
    /* What recovery found is trimmed already, and perhaps shared with a backup:
     * not even its times are touched. */
    if (rc == BITKV_OK && file_size != size)
        rc = bkv_file_truncate(file, size);
    if (rc == BITKV_OK)
        atomic_store(&segment->disk_bytes, size);
    return rc;
}

static int finish(struct bkv_partition *p, struct bkv_segment *segment, const struct bkv_file *file)
{
    int rc = bkv_sync_full(p, segment);
    if (rc != BITKV_OK)
        return rc;
    BKV_SCHEDULE_POINT("seal.synced");
    BKV_ASSERT(atomic_load(&segment->hint_bytes) == 0); /* or it would be FINISHED */
    rc = trim(segment, file);
    if (rc == BITKV_OK)
        rc = write_hint(p, segment, file);
    if (rc != BITKV_OK)
        bkv_log(p->store, BITKV_LOG_WARNING, "%s; the next opening will take longer",
                bitkv_error_context());
    return BITKV_OK;
}

/* A segment of this opening has its file at hand, one that recovery found has
 * to be opened: a reader's descriptor, if there is one, cannot trim. */
static int finish_with_file(struct bkv_partition *p, struct bkv_segment *segment)
{
    struct bkv_mapping *mapping = atomic_load(&segment->open);
    if (atomic_load(&segment->written)) {
        int rc = finish(p, segment, &mapping->file);
        if (rc == BITKV_OK && mapping->base != NULL) {
            /* Nobody writes there any more, by mistake either. */
            (void)bkv_io->mprotect(mapping->base, mapping->size, PROT_READ);
            bkv_advise_random(mapping);
            bkv_file_close(&mapping->file);
        }
        return rc;
    }
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDWR);
    if (rc != BITKV_OK)
        return rc;
    rc = finish(p, segment, &file);
    bkv_file_close(&file);
    return rc;
}

int bkv_seal_next(struct bkv_partition *p, bool *did)
{
    bkv_lock(&p->lock);
    struct bkv_segment *segment = p->sealed_first;
    bkv_unlock(&p->lock);
    *did = segment != NULL;
    if (segment == NULL)
        return BITKV_OK;
    int rc = finish_with_file(p, segment);
    if (rc != BITKV_OK)
        return rc;
    bkv_lock(&p->lock);
    if (atomic_load(&segment->written))
        p->sealed_count--;
    struct bkv_segment *next = segment->next;
    while (next != NULL && atomic_load(&next->phase) == BKV_PHASE_FINISHED)
        next = next->next;
    p->sealed_first = next != NULL && atomic_load(&next->phase) == BKV_PHASE_SEALED ? next : NULL;
    /* Last of all: from here on compaction may take it away. */
    atomic_store_explicit(&segment->phase, BKV_PHASE_FINISHED, memory_order_release);
    bkv_unlock(&p->lock);
    bkv_segments_trim(p);
    return BITKV_OK;
}
