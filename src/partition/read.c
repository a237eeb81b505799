/* SPDX-License-Identifier: MIT */
/*
 * Reading: KeyDir, record, checksum, key, value; no lock, no system call while
 * the record is in memory.
 *
 * The caller's epoch section keeps alive what the KeyDir points at. Three
 * things can come between the KeyDir's answer and the record:
 *
 *   the segment is closed        leave the section, pin the file, look again
 *   the KeyDir gave another      (see keydir.h) the key does not match: look
 *   key's location               again under the lock
 *   the record does not verify   it is damaged, or could not be read: an
 *                                error, never "not found", never served
 *
 * A record whose deadline has passed counts as absent. Only a record that has
 * one costs a look at the clock, and only one that verifies is believed to have
 * expired.
 */
#include "partition/state.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "io/residency.h"
#include "partition/record_read.h"

#include <inttypes.h>
#include <string.h>

/* Records up to this size are read onto the stack when there is no mapping. */
#define SMALL_RECORD 4096u

/* Of a record, in a pipeline; what follows the processor fetches by itself. */
#define PREFETCH_BYTES 256u

/* --- counters ---------------------------------------------------------------------- */

static inline void count(struct bkv_partition *p, const struct bkv_epoch_slot *slot, int rc)
{
    unsigned index = bkv_epoch_slot_index(slot);
    bool mine = index < BKV_STRIPES - 1;
    struct bkv_stripe *stripe = &p->stripes[mine ? index : BKV_STRIPES - 1];
    if (BKV_LIKELY(mine)) {
        uint64_t gets = atomic_load_explicit(&stripe->gets, memory_order_relaxed);
        atomic_store_explicit(&stripe->gets, gets + 1, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&stripe->gets, 1, memory_order_relaxed);
    }
    if (rc == BITKV_NOT_FOUND)
        atomic_fetch_add_explicit(&stripe->misses, 1, memory_order_relaxed);
    else if (BKV_UNLIKELY(rc < 0 && rc != BITKV_ERR_BUFFER_TOO_SMALL))
        atomic_fetch_add_explicit(&stripe->errors, 1, memory_order_relaxed);
}

/* --- one record ------------------------------------------------------------------------ */

static int damaged(const struct bkv_located *t)
{
    return bkv_record_damaged(t->partition->store->dir.path, t->partition->index, t->segment->id,
                              t->offset, t->size, bkv_mapping_faulted(t->mapping));
}

static inline bool expired(const struct bkv_located *t, const uint8_t *bytes)
{
    uint64_t deadline = bkv_record_deadline(bytes);
    return BKV_UNLIKELY(deadline != UINT64_MAX) &&
           deadline <= bkv_store_now_ms(t->partition->store);
}

static inline void see(struct bkv_sink *sink, uint64_t location, uint64_t sequence,
                       uint64_t deadline)
{
    if (BKV_UNLIKELY(sink->seen != NULL))
        *sink->seen =
            (struct bkv_seen){.location = location, .sequence = sequence, .deadline = deadline};
}

/* The KeyDir has nothing. */
static inline int absent(struct bkv_sink *sink)
{
    see(sink, 0, 0, UINT64_MAX);
    return BITKV_NOT_FOUND;
}

/* The record that lies there is none of this key: its place is all that counts. */
static inline int other_key(const struct bkv_located *t, struct bkv_sink *sink)
{
    see(sink, t->location, 0, UINT64_MAX);
    return BKV_OTHER_KEY;
}

/* What `exists` goes by: the head of a record names the key, and has not expired. */
static inline bool is_there(const struct bkv_located *t, const uint8_t *bytes, const void *key,
                            size_t key_size, struct bkv_sink *sink)
{
    if (!bkv_record_is_of(bytes, t->size, key, key_size) || expired(t, bytes))
        return false;
    see(sink, t->location, bkv_record_peek(bytes).sequence, bkv_record_deadline(bytes));
    return true;
}

/* `exists` compares the key first: if it is the one, the value need not be
 * read. If not, or if it has expired, the checksum tells that from damage. */
static inline int examine(const struct bkv_located *t, const uint8_t *bytes, const void *key,
                          size_t key_size, struct bkv_sink *sink)
{
    struct bkv_record record;
    if (sink->kind == BKV_SINK_NONE && is_there(t, bytes, key, key_size, sink))
        return BITKV_OK;
    if (BKV_UNLIKELY(!bkv_record_verify(bytes, t->size, t->segment->seed, t->offset, &record)))
        return damaged(t);
    if (BKV_UNLIKELY(record.type != BKV_RECORD_PUT || record.key_size != key_size ||
                     memcmp(bkv_record_key(bytes), key, key_size) != 0))
        return other_key(t, sink);
    see(sink, t->location, record.sequence, bkv_record_deadline(bytes));
    if (BKV_UNLIKELY(expired(t, bytes)))
        return BITKV_NOT_FOUND;
    return bkv_deliver(sink, t->mapping, bkv_record_value(bytes, &record), record.value_size);
}

/* Only whether the key is there: as much as holds it is read, and more only if
 * it is not the one. */
static bool key_is_there(const struct bkv_located *t, const void *key, size_t key_size,
                         struct bkv_sink *sink, uint8_t *buffer, size_t capacity)
{
    /* With a deadline; without one, some of the value comes along. */
    uint64_t size = bkv_min64(t->size, BKV_RECORD_HEADER + BKV_RECORD_DEADLINE + key_size);
    BKV_DEBUG_ASSERT(size > BKV_RECORD_HEADER); /* I3 */
    if (size > capacity ||
        bkv_file_read_exact(&t->mapping->file, buffer, size, t->offset) != BITKV_OK)
        return false;
    return is_there(t, buffer, key, key_size, sink);
}

/* With `wait` false: BKV_COLD if it is not all in memory. */
static int examine_unmapped(const struct bkv_located *t, const void *key, size_t key_size,
                            struct bkv_sink *sink, bool wait)
{
    uint8_t stack[SMALL_RECORD];
    uint8_t *bytes = stack;
    if (wait && sink->kind == BKV_SINK_NONE &&
        key_is_there(t, key, key_size, sink, stack, sizeof stack))
        return BITKV_OK;
    if (t->size > sizeof stack) {
        bytes = bkv_malloc(t->size);
        if (bytes == NULL)
            return bkv_no_memory_for(t->size);
    }
    int rc = BKV_COLD;
    if (wait)
        rc = bkv_file_read_exact(&t->mapping->file, bytes, t->size, t->offset);
    else if (bkv_file_read_nowait(&t->mapping->file, bytes, t->size, t->offset))
        rc = BITKV_OK;
    if (rc == BITKV_OK)
        rc = examine(t, bytes, key, key_size, sink);
    if (bytes != stack)
        bkv_mfree(bytes);
    return rc;
}

static inline int examine_target(const struct bkv_located *t, const void *key, size_t key_size,
                                 struct bkv_sink *sink)
{
    if (BKV_LIKELY(t->mapping->base != NULL)) {
        BKV_ASSERT(t->offset + t->size <= t->mapping->size); /* I8 */
        return examine(t, t->mapping->base + t->offset, key, key_size, sink);
    }
    return examine_unmapped(t, key, key_size, sink, true);
}

static inline struct bkv_located target_of(struct bkv_partition *p, uint64_t location)
{
    struct bkv_segment *segment = bkv_table_get(&p->table, bkv_location_segment(location));
    if (atomic_load_explicit(&segment->referenced, memory_order_relaxed) == 0)
        atomic_store_explicit(&segment->referenced, 1, memory_order_relaxed);
    return (struct bkv_located){
        .partition = p,
        .segment = segment,
        .mapping = atomic_load_explicit(&segment->open, memory_order_acquire),
        .offset = bkv_location_offset(location),
        .size = bkv_location_size(location),
        .location = location,
    };
}

/* --- the slow ways --------------------------------------------------------------------------- */

/* A mapping of before a segment grew does not. */
static inline bool spans(const struct bkv_mapping *mapping, uint64_t location)
{
    return mapping->base == NULL ||
           bkv_location_offset(location) + bkv_location_size(location) <= mapping->size;
}

/* The segment is closed, or was opened since. Comes back with the key looked
 * up again, since the world went on while the section was left. */
static int get_pinned(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, uint64_t location, const void *key,
                      size_t key_size, struct bkv_sink *sink)
{
    for (;;) {
        struct bkv_segment *segment = bkv_table_get(&p->table, bkv_location_segment(location));
        struct bkv_mapping *pinned;
        bkv_segment_ref(segment);
        bkv_epoch_pause(slot);
        BKV_SCHEDULE_POINT("get.paused");
        int rc = bkv_segment_pin(p, segment, &pinned);
        BKV_SCHEDULE_POINT("get.pinned");
        bkv_epoch_resume(slot);
        bkv_segment_unref(segment);
        bool found = bkv_keydir_find(p->keydir, hash, &location);
        bool same = found && bkv_table_get(&p->table, bkv_location_segment(location)) == segment;
        if (rc == BITKV_OK && same && !spans(pinned, location)) {
            bkv_mapping_unref(pinned); /* a refresh has come between */
            continue;
        }
        if (rc != BITKV_OK) {
            if (!found || same)
                return found ? rc : absent(sink);
            continue; /* it lies elsewhere by now */
        }
        if (same) {
            struct bkv_located t = target_of(p, location);
            t.mapping = pinned;
            rc = examine_target(&t, key, key_size, sink);
            bkv_mapping_unref(pinned);
            return rc;
        }
        bkv_mapping_unref(pinned);
        if (!found)
            return absent(sink);
    }
}

/* With the lock held nothing changes hands. The pause tells who has located more keys
 * (pipeline.h): they would be got as of a moment before this one. */
static bool find_settled(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, uint64_t *location)
{
    bkv_epoch_pause(slot);
    bkv_epoch_resume(slot);
    bkv_lock(&p->lock);
    bool there = bkv_keydir_find(p->keydir, hash, location);
    bkv_unlock(&p->lock);
    return there;
}

/* The record was of another key. Either the slot changed hands under our eyes,
 * or two keys have one fingerprint: the lock tells which. */
static int get_settled(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                       const struct bkv_hash *hash, const void *key, size_t key_size,
                       struct bkv_sink *sink)
{
    for (;;) {
        uint64_t location;
        if (!find_settled(p, slot, hash, &location))
            return absent(sink);
        struct bkv_located t = target_of(p, location); /* still in the section: not reclaimed */
        if (t.mapping != NULL) {
            int rc = examine_target(&t, key, key_size, sink);
            return rc == BKV_OTHER_KEY ? BITKV_NOT_FOUND : rc;
        }
        /* Opens the segment, but looks the key up without the lock again. */
        int rc = get_pinned(p, slot, hash, location, key, key_size, sink);
        if (rc != BKV_OTHER_KEY)
            return rc;
    }
}

/* --- the operations ---------------------------------------------------------- */

/* A batch that failed was taken back while we looked at the place that it had for
 * the key (batch.c): no damage, then. */
static bool was_taken_back(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                           const struct bkv_hash *hash)
{
    uint64_t location;
    return !find_settled(found->partition, slot, hash, &location) || location != found->location;
}

/* The end of every get from memory. */
static inline int finish(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, const void *key, size_t key_size,
                         struct bkv_sink *sink, int rc)
{
    if (BKV_UNLIKELY(rc == BKV_OTHER_KEY ||
                     (rc == BITKV_ERR_CORRUPT && was_taken_back(found, slot, hash))))
        rc = get_settled(found->partition, slot, hash, key, key_size, sink);
    return rc;
}

/* What is left once the KeyDir has answered. */
static inline int look_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                             const struct bkv_hash *hash, const void *key, size_t key_size,
                             struct bkv_sink *sink)
{
    int rc;
    if (found->segment == NULL)
        rc = absent(sink);
    else if (BKV_LIKELY(found->mapping != NULL))
        rc = examine_target(found, key, key_size, sink);
    else
        rc = get_pinned(found->partition, slot, hash, found->location, key, key_size, sink);
    return finish(found, slot, hash, key, key_size, sink, rc);
}

static inline int read_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                             const struct bkv_hash *hash, const void *key, size_t key_size,
                             struct bkv_sink *sink)
{
    int rc = look_found(found, slot, hash, key, key_size, sink);
    count(found->partition, slot, rc);
    return rc;
}

static inline struct bkv_located find(struct bkv_partition *p, const struct bkv_hash *hash)
{
    uint64_t location;
    if (!bkv_keydir_find(p->keydir, hash, &location))
        return (struct bkv_located){.partition = p};
    BKV_SCHEDULE_POINT("get.found");
    struct bkv_located found = target_of(p, location);
    BKV_SCHEDULE_POINT("get.located");
    return found;
}

int bkv_partition_get(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, const void *key, size_t key_size,
                      struct bkv_sink *sink)
{
    struct bkv_located found = find(p, hash);
    return read_found(&found, slot, hash, key, key_size, sink);
}

/* A location of a snapshot does not change: it need not be looked up again, and
 * a record of another key is one with the same fingerprint. */
static int examine_at(struct bkv_located *found, struct bkv_epoch_slot *slot, const void *key,
                      size_t key_size, struct bkv_sink *sink)
{
    struct bkv_mapping *pinned = NULL;
    if (BKV_UNLIKELY(found->mapping == NULL)) {
        bkv_epoch_pause(slot);
        int rc = bkv_segment_pin(found->partition, found->segment, &pinned); /* held: it stays */
        bkv_epoch_resume(slot);
        if (rc != BITKV_OK)
            return rc;
        found->mapping = pinned;
    }
    int rc = examine_target(found, key, key_size, sink);
    bkv_mapping_unref(pinned);
    return rc == BKV_OTHER_KEY ? BITKV_NOT_FOUND : rc;
}

int bkv_partition_get_at(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                         const struct bkv_partition_snapshot *snapshot, const struct bkv_hash *hash,
                         const void *key, size_t key_size, struct bkv_sink *sink)
{
    uint64_t location;
    int rc = BITKV_NOT_FOUND;
    if (bkv_keydir_snapshot_find(snapshot->keydir, hash, &location)) {
        struct bkv_located found = target_of(p, location);
        rc = examine_at(&found, slot, key, key_size, sink);
    }
    count(p, slot, rc);
    return rc;
}

int bkv_partition_look(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                       const struct bkv_hash *hash, const void *key, size_t key_size,
                       struct bkv_sink *sink)
{
    struct bkv_located found = find(p, hash);
    return look_found(&found, slot, hash, key, key_size, sink);
}

/* --- in a pipeline ------------------------------------------------------------------------- */

void bkv_partition_prefetch_index(struct bkv_partition *p, const struct bkv_hash *hash)
{
    bkv_keydir_prefetch_table(p->keydir, hash);
}

void bkv_partition_prefetch_slot(struct bkv_partition *p, const struct bkv_hash *hash)
{
    bkv_keydir_prefetch_line(p->keydir, hash);
}

void bkv_partition_prefetch_put(struct bkv_partition *p, const struct bkv_hash *hash)
{
    bkv_keydir_prefetch_put(p->keydir, hash);
}

void bkv_partition_locate(struct bkv_partition *p, const struct bkv_hash *hash,
                          struct bkv_located *found)
{
    *found = find(p, hash);
    const struct bkv_mapping *mapping = found->mapping;
    if (found->segment == NULL || mapping == NULL || mapping->base == NULL)
        return;
    uint64_t end = bkv_min64(found->offset + bkv_min64(found->size, PREFETCH_BYTES), mapping->size);
    for (uint64_t line = found->offset & ~63ull; line < end; line += 64)
        __builtin_prefetch(mapping->base + line);
}

int bkv_partition_read_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                             const struct bkv_hash *hash, const void *key, size_t key_size,
                             struct bkv_sink *sink)
{
    return read_found(found, slot, hash, key, key_size, sink);
}

int bkv_partition_try_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                            const struct bkv_hash *hash, const void *key, size_t key_size,
                            struct bkv_sink *sink, uint32_t stamp)
{
    struct bkv_mapping *mapping = found->mapping;
    if (found->segment == NULL)
        return read_found(found, slot, hash, key, key_size, sink);
    if (mapping == NULL)
        return BKV_COLD;
    if (BKV_LIKELY(mapping->base != NULL)) {
        if (!bkv_resident(mapping, found->offset, found->size, stamp)) /* it is inside: I8 */
            return BKV_COLD;
        return read_found(found, slot, hash, key, key_size, sink);
    }
    int rc = examine_unmapped(found, key, key_size, sink, false);
    if (rc == BKV_COLD)
        return rc;
    rc = finish(found, slot, hash, key, key_size, sink, rc);
    count(found->partition, slot, rc);
    return rc;
}

void bkv_partition_settle(struct bkv_located *found, struct bkv_epoch_slot *slot,
                          const struct bkv_hash *hash)
{
    struct bkv_partition *p = found->partition;
    uint64_t location;
    bool there = find_settled(p, slot, hash, &location);
    *found = there ? target_of(p, location) : (struct bkv_located){.partition = p};
}

void bkv_partition_count_get(struct bkv_partition *p, const struct bkv_epoch_slot *slot, int rc)
{
    count(p, slot, rc);
}
