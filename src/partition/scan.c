/* SPDX-License-Identifier: MIT */
/*
 * Visiting every live record. The KeyDir hands out its entries a subtable at a
 * time, under the lock for some microseconds; the records are then read
 * without it.
 *
 * Between the two, a key may be overwritten (the record at hand is one that it
 * had during the scan: delivered) or deleted (likewise). What the scan owes is
 * in bitkv.h. A record whose deadline has passed when it is read is left out:
 * if the whole of it verifies, also where only keys are asked for.
 *
 * Failure modes: a record that does not verify is skipped, the others are
 * visited, and the scan ends with the first such error.
 */
#include "partition/state.h"

#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scan {
    struct bkv_partition *p;
    unsigned flags;
    bitkv_scan_cb scan_cb;
    void *user;
    uint8_t *buffer; /* for records that are not mapped */
    size_t capacity;
    struct bkv_scan_failure *failure;
};

static void keep_error(struct scan *scan, int rc)
{
    struct bkv_scan_failure *failure = scan->failure;
    if (failure->code != BITKV_OK)
        return;
    failure->code = rc;
    (void)snprintf(failure->context, sizeof failure->context, "%s", bitkv_error_context());
}

/* The bytes of a record: in the mapping, or read into the buffer. With `keys`
 * only as much as holds the key is read. */
static int fetch(struct scan *scan, const struct bkv_mapping *mapping, uint64_t offset,
                 uint64_t size, bool keys, const uint8_t **bytes)
{
    if (mapping->base != NULL) {
        if (offset + size > mapping->size)
            return bkv_error(BITKV_ERR_CORRUPT, "a location points behind its segment");
        *bytes = mapping->base + offset;
        return BITKV_OK;
    }
    if (keys)
        size = bkv_min64(size, BKV_RECORD_HEADER + BKV_RECORD_DEADLINE + BITKV_KEY_SIZE_MAX);
    if (size > scan->capacity) {
        uint8_t *larger = bkv_realloc(scan->buffer, size);
        if (larger == NULL)
            return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a record of %" PRIu64 " bytes",
                             size);
        scan->buffer = larger;
        scan->capacity = size;
    }
    *bytes = scan->buffer;
    return bkv_file_read_exact(&mapping->file, scan->buffer, size, offset);
}

/* With keys only, the key itself is the proof: it has to hash to the entry. */
static bool verify(struct scan *scan, const struct bkv_keydir_entry *entry, const uint8_t *bytes,
                   const struct bkv_segment *segment, bool keys, struct bkv_record *record)
{
    uint64_t size = bkv_location_size(entry->location);
    if (!keys)
        return bkv_record_verify(bytes, size, segment->seed, bkv_location_offset(entry->location),
                                 record) &&
               record->type == BKV_RECORD_PUT;
    *record = bkv_record_peek(bytes);
    if (record->type != BKV_RECORD_PUT || !bkv_record_plausible(record) ||
        bkv_record_size_of(record) != size)
        return false;
    struct bkv_hash hash =
        bkv_hash(&scan->p->store->manifest.hash_key, bkv_record_key(bytes), record->key_size);
    return bkv_keydir_entry_is(entry, &hash);
}

static int read_record(struct scan *scan, const struct bkv_keydir_entry *entry,
                       const struct bkv_segment *segment, const struct bkv_mapping *mapping,
                       bool keys, const uint8_t **bytes, struct bkv_record *record)
{
    uint64_t offset = bkv_location_offset(entry->location);
    uint64_t size = bkv_location_size(entry->location);
    int rc = fetch(scan, mapping, offset, size, keys, bytes);
    if (rc == BITKV_OK && !verify(scan, entry, *bytes, segment, keys, record)) {
        char name[BKV_NAME_SIZE];
        bkv_name_data(name, scan->p->index, segment->id);
        rc = bkv_error(bkv_mapping_faulted(mapping) ? BITKV_ERR_IO : BITKV_ERR_CORRUPT,
                       "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": record does not verify",
                       scan->p->store->dir.path, name, offset, size);
    }
    return rc;
}

static bool expired(const struct scan *scan, const uint8_t *bytes)
{
    uint64_t deadline = bkv_record_deadline(bytes);
    return deadline != UINT64_MAX && deadline <= bkv_store_now_ms(scan->p->store);
}

static int visit(struct scan *scan, const struct bkv_keydir_entry *entry,
                 const struct bkv_segment *segment, const struct bkv_mapping *mapping)
{
    bool keys = (scan->flags & BITKV_SCAN_KEYS) != 0;
    const uint8_t *bytes = NULL;
    struct bkv_record record = {0};
    int rc = read_record(scan, entry, segment, mapping, keys, &bytes, &record);
    bool gone = rc == BITKV_OK && expired(scan, bytes);
    if (gone && keys) /* a damaged deadline must not hide a key */
        rc = read_record(scan, entry, segment, mapping, false, &bytes, &record);
    if (rc != BITKV_OK) {
        keep_error(scan, rc);
        return BITKV_OK;
    }
    if (gone)
        return BITKV_OK;
    struct bkv_shown shown = {.deadline = bkv_record_deadline(bytes)};
    shown.record = (bitkv_record){
        .key = bkv_record_key(bytes),
        .key_size = record.key_size,
        .value_size = record.value_size,
        .sequence = record.sequence,
        .partition = scan->p->index,
    };
    if (!keys)
        shown.record.value = bkv_record_value(bytes, &record);
    return scan->scan_cb(scan->user, &shown.record);
}

static int by_location(const void *a, const void *b)
{
    uint64_t x = ((const struct bkv_keydir_entry *)a)->location;
    uint64_t y = ((const struct bkv_keydir_entry *)b)->location;
    return x < y ? -1 : x > y;
}

/* In order of location: forward through the files, each pinned once. */
static int visit_entries(struct scan *scan, const struct bkv_keydir_entries *entries,
                         const _Atomic bool *stop)
{
    struct bkv_mapping *pinned = NULL;
    uint32_t pinned_number = UINT32_MAX;
    int rc = BITKV_OK;
    for (size_t i = 0; i < entries->count && rc == BITKV_OK; i++) {
        const struct bkv_keydir_entry *entry = &entries->items[i];
        uint32_t number = bkv_location_segment(entry->location);
        struct bkv_segment *segment = bkv_table_get(&scan->p->table, number);
        if (atomic_load_explicit(stop, memory_order_relaxed)) {
            rc = bkv_error(BITKV_ERR_CLOSED, "closed during a scan");
            break;
        }
        if (number != pinned_number) {
            bkv_mapping_unref(pinned);
            pinned = NULL;
            pinned_number = UINT32_MAX;
            int opened = bkv_segment_pin(scan->p, segment, &pinned);
            if (opened != BITKV_OK) {
                keep_error(scan, opened);
                continue;
            }
            pinned_number = number;
        }
        rc = visit(scan, entry, segment, pinned);
    }
    bkv_mapping_unref(pinned);
    return rc;
}

int bkv_partition_scan(struct bkv_partition *p, unsigned flags, bitkv_scan_cb scan_cb, void *user,
                       const _Atomic bool *stop, struct bkv_scan_failure *failure)
{
    struct scan scan = {
        .p = p, .flags = flags, .scan_cb = scan_cb, .user = user, .failure = failure};
    struct bkv_keydir_entries entries = {0};
    struct bkv_hold hold;
    uint64_t cursor = 0;
    int rc = BITKV_OK;
    bkv_lock(&p->lock);
    bkv_hold_begin(p, &hold); /* locations are read after the lock is given back */
    bkv_unlock(&p->lock);
    do {
        bkv_lock(&p->lock);
        rc = bkv_settle(p);
        if (rc == BITKV_OK)
            rc = bkv_keydir_scan(p->keydir, &cursor, &entries);
        bkv_unlock(&p->lock);
        if (rc != BITKV_OK)
            rc = bkv_error(rc, "no memory to scan partition %" PRIu32, p->index);
        if (rc == BITKV_OK && entries.count > 0) {
            qsort(entries.items, entries.count, sizeof *entries.items, by_location);
            rc = visit_entries(&scan, &entries, stop);
        }
    } while (rc == BITKV_OK && cursor != 0);
    bkv_hold_end(p, &hold);
    bkv_keydir_entries_free(&entries);
    bkv_mfree(scan.buffer);
    return rc;
}
