/* SPDX-License-Identifier: MIT */
/*
 * Writing: a put or delete from the caller's thread to the log and the KeyDir.
 *
 * Before the lock: the caller has prefetched the KeyDir's lines, and the record is put
 * together with the long part of its checksum. Under the lock, some tens of
 * nanoseconds: room, the copy into the tail, sequence and checksum, the
 * KeyDir. After it: waiting for a sync, if asked for.
 *
 * The order under the lock is what the store's promises rest on:
 *
 *   1. everything that can fail (KeyDir memory, file space)
 *   2. the record, whole
 *   3. the KeyDir, which can't fail any more (I2): for a put the few places
 *      of deferred keys, for which the table's lines need not have come yet
 *
 * One lock per partition also keeps records in order: none is acknowledged
 * while an earlier one is unfinished, so the log is always a prefix.
 *
 * Writes that depend on what is there bring the location that they have looked
 * at; the lock's holder compares it with the KeyDir's, before step 1
 * (condition.c). So a plain put reads nothing, and a delete only where the
 * record may have expired.
 *
 * Failure modes: a step of 1 fails: nothing has changed. pwrite fails in 2:
 * the tail does not move, and what was written is made zeros again. The
 * mapping faults in 2: the partition refuses writes from then on.
 */
#include "partition/state.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"

#include <string.h>

/* Records up to this size are put together on the stack. */
#define SMALL_RECORD 2048u

/* Log bytes after which a writer looks whether the worker should. */
#define WAKE_BYTES (BKV_FAULT_AHEAD_BYTES / 16)

/* Milliseconds that a writer waits for a descriptor: as long as the worker has
 * some to give back, and at least, for what the workers of siblings do. */
#define DESCRIPTOR_WAITS_MAX 30000u
#define DESCRIPTOR_WAITS_MIN 200u

struct draft {
    uint8_t *bytes; /* header and deadline, or for small records all of it */
    uint64_t head;  /* bytes of the former */
    uint64_t size;  /* of the whole record, padding included */
    uint32_t crc;   /* over everything but sequence and place */
    bool small;
    bool is_put;
    bool expires;
    const void *key, *value;
    size_t key_size, value_size;
};

static uint32_t crc_zeros(uint32_t crc, uint64_t size)
{
    static const uint8_t zeros[4096];
    for (; size > sizeof zeros; size -= sizeof zeros)
        crc = bkv_crc32c(crc, zeros, sizeof zeros);
    return bkv_crc32c(crc, zeros, (size_t)size);
}

/* Puts the record together in `buffer` of SMALL_RECORD bytes. `deadline`: UINT64_MAX
 * if it does not expire. */
static struct draft make_draft(uint8_t *buffer, enum bkv_record_type type, uint64_t deadline,
                               const void *key, size_t key_size, const void *value,
                               size_t value_size)
{
    struct bkv_record record = {
        .value_size = (uint32_t)value_size,
        .key_size = (uint16_t)key_size,
        .type = (uint8_t)type,
        .flags = deadline != UINT64_MAX ? BKV_RECORD_EXPIRES : 0,
    };
    struct draft d = {
        .bytes = buffer,
        .head = BKV_RECORD_HEADER + bkv_record_prefix(record.flags),
        .size = bkv_record_size_of(&record),
        .is_put = type == BKV_RECORD_PUT,
        .expires = record.flags != 0,
        .key = key,
        .value = value,
        .key_size = key_size,
        .value_size = value_size,
    };
    bkv_record_begin(buffer, &record);
    if (record.flags != 0)
        bkv_put64(buffer + BKV_RECORD_HEADER, deadline);
    d.small = d.size <= SMALL_RECORD;
    uint64_t used = d.head + key_size + value_size;
    d.crc = bkv_record_crc_begin(buffer);
    if (d.small) {
        uint8_t *body = buffer + d.head;
        if (key_size > 0) /* a mark has none */
            memcpy(body, key, key_size);
        if (value_size > 0)
            memcpy(body + key_size, value, value_size);
        memset(buffer + used, 0, d.size - used);
        d.crc = bkv_crc32c(d.crc, buffer + BKV_RECORD_HEADER, d.size - BKV_RECORD_HEADER);
    } else {
        d.crc = bkv_crc32c(d.crc, buffer + BKV_RECORD_HEADER, d.head - BKV_RECORD_HEADER);
        d.crc = bkv_crc32c(d.crc, key, key_size);
        d.crc = bkv_crc32c(d.crc, value, value_size);
        d.crc = crc_zeros(d.crc, d.size - used);
    }
    return d;
}

/* --- into the log ------------------------------------------------------------------- */

static void copy_to(uint8_t *to, const struct draft *d)
{
    if (d->small) {
        memcpy(to, d->bytes, d->size);
        return;
    }
    uint64_t used = d->head + d->key_size + d->value_size;
    memcpy(to, d->bytes, d->head);
    memcpy(to + d->head, d->key, d->key_size);
    if (d->value_size > 0)
        memcpy(to + d->head + d->key_size, d->value, d->value_size);
    memset(to + used, 0, d->size - used);
}

static int append_mapped(struct bkv_partition *p, const struct draft *d)
{
    struct bkv_tail *tail = &p->tail;
    uint8_t *to = tail->base + tail->offset;
    copy_to(to, d);
    bkv_record_finish(to, d->crc, p->next_sequence, tail->segment->seed, tail->offset);
    if (BKV_UNLIKELY(bkv_mapping_faulted(tail->mapping))) {
        atomic_store(&p->failed, BITKV_ERR_IO);
        return bkv_error(BITKV_ERR_IO,
                         "I/O error under the mapping of %s at offset %llu; partition %u refuses "
                         "writes until reopened",
                         tail->mapping->file.name, (unsigned long long)tail->offset, p->index);
    }
    return BITKV_OK;
}

/* A write that failed may have left a part of the record behind the tail. Should
 * the log go on in another segment and the process die, an opening would take
 * those bytes for the end of the log, so they go. Where there was no space for
 * more, what was written can be written again. */
static void erase_part(struct bkv_partition *p, uint8_t *bytes, uint64_t size)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    memcpy(context, bitkv_error_context(), strlen(bitkv_error_context()) + 1);
    memset(bytes, 0, size);
    int rc = bkv_file_write(&p->tail.mapping->file, bytes, size, p->tail.offset);
    if (rc != BITKV_OK && rc != BITKV_ERR_NO_SPACE)
        atomic_store(&p->failed, BITKV_ERR_IO);
    bkv_error_context_set(context);
}

static int append_written(struct bkv_partition *p, const struct draft *d)
{
    struct bkv_tail *tail = &p->tail;
    uint8_t *bytes = d->bytes;
    if (!d->small) {
        bytes = bkv_malloc(d->size);
        if (bytes == NULL)
            return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a record of %llu bytes",
                             (unsigned long long)d->size);
        copy_to(bytes, d);
    }
    bkv_record_finish(bytes, d->crc, p->next_sequence, tail->segment->seed, tail->offset);
    int rc = bkv_file_write(&tail->mapping->file, bytes, d->size, tail->offset);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        erase_part(p, bytes, d->size);
    if (bytes != d->bytes)
        bkv_mfree(bytes);
    return rc;
}

/* Through the mapping, or with pwrite? (tail.c says why.) */
static bool by_mapping(struct bkv_partition *p, uint64_t size, bitkv_durability durability)
{
    struct bkv_tail *tail = &p->tail;
    p->since_sync += size;
    bool now = tail->base != NULL && durability != BITKV_DURABILITY_SYNC &&
               p->since_sync > BKV_MAPPED_FROM_BYTES;
    if (BKV_UNLIKELY(now && !tail->by_mapping))
        tail->wake_at = 0; /* the worker has to come and fault pages in */
    tail->by_mapping = now;
    return now;
}

static int append(struct bkv_partition *p, const struct draft *d, bitkv_durability durability,
                  uint64_t *location);

static struct draft make_mark(uint8_t *buffer, uint8_t value[BKV_MARK_SIZE], uint64_t segment_id,
                              uint64_t offset)
{
    bkv_put64(value, segment_id);
    bkv_put64(value + 8, offset);
    return make_draft(buffer, BKV_RECORD_MARK, UINT64_MAX, NULL, 0, value, BKV_MARK_SIZE);
}

/* A segment that is sealed has a record, or the next one would begin with the same
 * sequence number, which tells what comes first, and what an output stands for.
 * This mark says nothing. */
static int fill_empty_tail(struct bkv_partition *p)
{
    struct bkv_segment *tail = p->tail.segment;
    if (tail == NULL || p->tail.offset > BKV_SEGMENT_HEADER)
        return BITKV_OK;
    uint8_t value[BKV_MARK_SIZE];
    uint8_t buffer[SMALL_RECORD];
    uint64_t location;
    const struct bkv_segment *first = atomic_load(&p->first);
    struct draft d = make_mark(buffer, value, first->id, 0);
    int rc = append(p, &d, BITKV_DURABILITY_SYNC, &location);
    if (rc == BITKV_OK)
        bkv_unsynced_add(p, tail);
    return rc;
}

/* Under the lock: the record is in the log when this returns BITKV_OK. */
static int append(struct bkv_partition *p, const struct draft *d, bitkv_durability durability,
                  uint64_t *location)
{
    struct bkv_tail *tail = &p->tail;
    int rc;
    if (BKV_UNLIKELY(d->size > p->store->options.max_file_size - BKV_SEGMENT_HEADER)) {
        struct bkv_jumbo jumbo = {
            .head = d->bytes,
            .head_size = d->head,
            .crc = d->crc,
            .key = d->key,
            .key_size = d->key_size,
            .value = d->value,
            .value_size = d->value_size,
            .size = d->size,
        };
        rc = fill_empty_tail(p);
        if (rc == BITKV_OK)
            rc = bkv_tail_write_jumbo(p, &jumbo, location);
        if (rc != BITKV_OK)
            return rc;
    } else {
        bool deletes = !d->is_put && d->key_size > 0; /* a mark has no key */
        rc = deletes ? bkv_tail_ensure_delete(p, d->size) : bkv_tail_ensure(p, d->size);
        if (rc != BITKV_OK)
            return rc;
        rc = by_mapping(p, d->size, durability) ? append_mapped(p, d) : append_written(p, d);
        if (rc != BITKV_OK)
            return rc;
        *location = bkv_location(tail->segment->number, tail->offset, bkv_size_code(d->size));
        tail->offset += d->size;
        atomic_store_explicit(&tail->segment->size, tail->offset, memory_order_relaxed);
    }
    if (BKV_UNLIKELY(d->expires))
        tail->segment->lasting = false;
    p->next_sequence++;
    bkv_add_relaxed(&p->bytes_written, d->size);
    return BITKV_OK;
}

/* --- accounting ------------------------------------------------------------------------ */

/* Past the middle of the segment the worker makes the next one (tail.c). */
static uint64_t next_wake(const struct bkv_tail *tail)
{
    uint64_t next = tail->offset + WAKE_BYTES, late = tail->limit / 2 + 1;
    return tail->offset < late ? bkv_min64(next, late) : next;
}

/* Under the lock, after an append: what has to be synced, and when. Returns
 * whether the worker should be woken. */
static bool note_append(struct bkv_partition *p, uint64_t size, bitkv_durability durability)
{
    struct bkv_tail *tail = &p->tail;
    bkv_add_relaxed(&p->appended, size);
    bkv_unsynced_add(p, tail->segment);
    bool wake = false;
    if (BKV_UNLIKELY(durability == BITKV_DURABILITY_INTERVAL && !p->sync_armed)) {
        p->sync_armed = true;
        wake = true;
    }
    if (BKV_UNLIKELY(tail->offset >= tail->wake_at)) {
        tail->wake_at = next_wake(tail);
        wake = true;
    }
    return wake;
}

static int refuse(const struct bkv_partition *p)
{
    int code = atomic_load(&p->failed);
    return bkv_error(code,
                     "partition %u met a failed sync or write and refuses writes; reopen the "
                     "database",
                     p->index);
}

static int full(const struct bkv_partition *p, int rc)
{
    return bkv_error(rc, "the KeyDir of partition %u cannot take another key", p->index);
}

static int prepare(struct bkv_partition *p, const struct bkv_hash *hash)
{
    if (BKV_UNLIKELY(atomic_load_explicit(&p->failed, memory_order_relaxed) != 0))
        return refuse(p);
    uint64_t dead;
    int rc = bkv_keydir_defer_prepare(p->keydir, hash, &dead);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return full(p, rc);
    bkv_account_dead(p, dead);
    return BITKV_OK;
}

int bkv_settle(struct bkv_partition *p)
{
    uint64_t dead;
    int rc;
    while ((rc = bkv_keydir_settle_one(p->keydir, &dead)) > 0)
        bkv_account_dead(p, dead);
    return rc == 0 ? BITKV_OK : full(p, rc);
}

static int finish(struct bkv_partition *p, uint64_t position, bool wake,
                  bitkv_durability durability, uint64_t *unsynced)
{
    if (BKV_UNLIKELY(wake))
        bkv_worker_wake(p);
    if (durability != BITKV_DURABILITY_SYNC)
        return BITKV_OK;
    if (unsynced == NULL)
        return bkv_sync_upto(p, position);
    *unsynced = position;
    return BITKV_OK;
}

static int count_error(struct bkv_partition *p, int rc)
{
    if (rc < 0)
        atomic_fetch_add_explicit(&p->write_errors, 1, memory_order_relaxed);
    return rc;
}

static bitkv_durability effective(const struct bkv_partition *p, bitkv_durability durability)
{
    if (durability == BITKV_DURABILITY_DEFAULT || p->store->options.sync_on_write)
        return p->store->options.durability;
    return durability;
}

/* No descriptor for the next segment, but the worker is about to give back those
 * of full ones: writers have outrun it, and wait, out of their epoch section,
 * which keeps what was closed from being given back. False if that does not
 * help. */
static bool descriptor_may_come(struct bkv_partition *p, int rc, unsigned *attempts)
{
    if (BKV_LIKELY(rc != BITKV_ERR_TOO_MANY_FILES))
        return false;
    bkv_lock(&p->lock);
    bool any = p->sealed_first != NULL;
    bkv_unlock(&p->lock);
    if (++*attempts > (any ? DESCRIPTOR_WAITS_MAX : DESCRIPTOR_WAITS_MIN))
        return false;
    bkv_worker_wake(p);
    struct bkv_epoch_slot *slot = bkv_epoch_here();
    BKV_ASSERT(slot != NULL); /* of the call that writes */
    bkv_epoch_pause(slot);
    bkv_segments_trim(p);
    bkv_sleep_us(1000);
    bkv_epoch_resume(slot);
    return true;
}

/* --- the operations ------------------------------------------------------------------------ */

/* What an operation does after the lock. */
struct outcome {
    uint64_t position; /* of the log, to be synced up to */
    uint64_t sequence; /* of the record */
    bool wake;         /* the worker has something to do */
};

/* Under the lock: is what the writer has looked at still so? */
static bool holds(const struct bkv_partition *p, const struct bkv_hash *hash,
                  const struct bkv_expected *expected)
{
    uint64_t location = 0;
    (void)bkv_keydir_find(p->keydir, hash, &location);
    if (expected->lasting_will_do &&
        (location == 0 || bkv_table_get(&p->table, bkv_location_segment(location))->lasting))
        return true;
    if (location != expected->location)
        return false; /* also 0, of one that has looked at nothing */
    return !expected->present || expected->deadline == UINT64_MAX ||
           expected->deadline > bkv_store_now_ms(p->store);
}

/* Under the lock, in the order of the head of this file. */
static int put_locked(struct bkv_partition *p, const struct bkv_hash *hash, const struct draft *d,
                      bitkv_durability durability, struct outcome *outcome)
{
    uint64_t location = 0;
    int rc = prepare(p, hash);
    if (BKV_LIKELY(rc == BITKV_OK))
        rc = append(p, d, durability, &location);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    BKV_SCHEDULE_POINT("write.appended");
    bkv_account(p, location, true);
    bkv_account_dead(p, bkv_keydir_defer(p->keydir, hash, location));
    outcome->wake = note_append(p, d->size, durability);
    outcome->position = atomic_load_explicit(&p->appended, memory_order_relaxed);
    outcome->sequence = p->next_sequence - 1;
    bkv_add_relaxed(&p->puts, 1);
    return BITKV_OK;
}

/* `counts`: the key is there, as far as users know. */
static int del_locked(struct bkv_partition *p, const struct bkv_hash *hash, const struct draft *d,
                      bitkv_durability durability, bool counts, struct outcome *outcome)
{
    uint64_t location = 0;
    if (BKV_UNLIKELY(atomic_load_explicit(&p->failed, memory_order_relaxed) != 0))
        return refuse(p);
    int rc = bkv_settle(p);
    if (rc != BITKV_OK)
        return rc;
    if (!bkv_keydir_find(p->keydir, hash, &location))
        return BITKV_NOT_FOUND;
    rc = bkv_keydir_prepare_remove(p->keydir, hash);
    if (rc != BITKV_OK)
        return bkv_error(rc,
                         "no memory to keep a snapshot of the KeyDir of partition %u from a delete",
                         p->index);
    rc = append(p, d, durability, &location);
    if (rc != BITKV_OK)
        return rc;
    uint64_t old = bkv_keydir_remove(p->keydir, hash);
    BKV_ASSERT(old != 0);
    bkv_account_dead(p, old);
    outcome->wake = note_append(p, d->size, durability);
    outcome->position = atomic_load_explicit(&p->appended, memory_order_relaxed);
    outcome->sequence = p->next_sequence - 1;
    bkv_add_relaxed(&p->deletes, counts);
    return BITKV_OK;
}

static inline int attempt(struct bkv_partition *p, const struct bkv_hash *hash,
                          const struct draft *d, bitkv_durability durability,
                          const struct bkv_expected *expected, struct outcome *outcome)
{
    int rc;
    BKV_SCHEDULE_POINT("write.drafted");
    bkv_lock(&p->lock);
    if (expected != NULL && !holds(p, hash, expected))
        rc = BKV_CHANGED;
    else if (d->is_put)
        rc = put_locked(p, hash, d, durability, outcome);
    else
        rc = del_locked(p, hash, d, durability, expected == NULL || expected->present, outcome);
    bkv_unlock(&p->lock);
    return rc;
}

static inline int perform(struct bkv_partition *p, const struct bkv_hash *hash,
                          const struct draft *d, struct bkv_write *write,
                          struct bkv_expected *expected)
{
    struct outcome outcome = {0};
    unsigned own_waits = 0;
    unsigned *waits = expected != NULL ? &expected->waits : &own_waits;
    bitkv_durability durability = effective(p, write->durability);
    int rc;
    while (rc = attempt(p, hash, d, durability, expected, &outcome),
           BKV_UNLIKELY(descriptor_may_come(p, rc, waits))) {
        if (expected != NULL)
            return BKV_CHANGED; /* the section was left: what it saw proves nothing */
    }
    if (BKV_LIKELY(rc == BITKV_OK)) {
        write->sequence = outcome.sequence;
        BKV_SCHEDULE_POINT("write.shown");
        rc = finish(p, outcome.position, outcome.wake, durability, write->unsynced);
    }
    return count_error(p, rc);
}

static inline int write_as(struct bkv_partition *p, const struct bkv_hash *hash,
                           enum bkv_record_type type, struct bkv_write *write,
                           struct bkv_expected *expected)
{
    uint8_t buffer[SMALL_RECORD];
    struct draft d = make_draft(buffer, type, write->deadline, write->key, write->key_size,
                                write->value, write->value_size);
    return perform(p, hash, &d, write, expected);
}

int bkv_write(struct bkv_partition *p, const struct bkv_hash *hash, struct bkv_write *write,
              struct bkv_expected *expected)
{
    return write_as(p, hash, write->deletes ? BKV_RECORD_DELETE : BKV_RECORD_PUT, write, expected);
}

int bkv_partition_put(struct bkv_partition *p, const struct bkv_hash *hash, const void *key,
                      size_t key_size, const void *value, size_t value_size,
                      bitkv_durability durability,
                      uint64_t *unsynced) // NOLINT(readability-non-const-parameter): written to
{
    uint64_t deadline = UINT64_MAX;
    if (BKV_UNLIKELY(p->store->options.default_ttl_ms != 0))
        deadline = bkv_store_now_ms(p->store) + p->store->options.default_ttl_ms;
    struct bkv_write write = {
        .key = key,
        .key_size = key_size,
        .value = value,
        .value_size = value_size,
        .deadline = deadline,
        .durability = durability,
        .unsynced = unsynced,
    };
    return write_as(p, hash, BKV_RECORD_PUT, &write, NULL);
}

int bkv_partition_put_until(struct bkv_partition *p, const struct bkv_hash *hash,
                            const bitkv_record *record, uint64_t deadline,
                            bitkv_durability durability)
{
    struct bkv_write write = {
        .key = record->key,
        .key_size = record->key_size,
        .value = record->value,
        .value_size = record->value_size,
        .deadline = deadline,
        .durability = durability,
    };
    return write_as(p, hash, BKV_RECORD_PUT, &write, NULL);
}

int bkv_partition_del(struct bkv_partition *p, const struct bkv_hash *hash, const void *key,
                      size_t key_size, bitkv_durability durability, uint64_t *unsynced)
{
    struct bkv_write write = {
        .key = key,
        .key_size = key_size,
        .deadline = UINT64_MAX,
        .deletes = true,
        .durability = durability,
    };
    write.unsynced = unsynced;
    struct bkv_expected expected = {
        .lasting_will_do = true, .present = true, .deadline = UINT64_MAX};
    int rc = write_as(p, hash, BKV_RECORD_DELETE, &write, &expected);
    return BKV_LIKELY(rc != BKV_CHANGED) ? rc : bkv_del_looking(p, hash, &write);
}

/* Best effort: a mark that finds no room is left out. Then recovery takes less
 * for durable than was, which is safe. It is not itself waited for, or every
 * sync would ask for another. */
void bkv_append_mark(struct bkv_partition *p, uint64_t segment_id, uint64_t offset)
{
    uint8_t value[BKV_MARK_SIZE];
    uint8_t buffer[SMALL_RECORD];
    struct draft d = make_mark(buffer, value, segment_id, offset);
    uint64_t location;
    bkv_lock(&p->lock);
    const struct bkv_tail *tail = &p->tail;
    if (atomic_load_explicit(&p->failed, memory_order_relaxed) == 0 && tail->segment != NULL &&
        tail->offset + d.size <= tail->limit &&
        append(p, &d, BITKV_DURABILITY_SYNC, &location) == BITKV_OK)
        bkv_unsynced_add(p, tail->segment);
    bkv_unlock(&p->lock);
}

/* --- for batch.c ------------------------------------------------------------------------- */

int bkv_write_check(struct bkv_partition *p)
{
    return BKV_LIKELY(atomic_load_explicit(&p->failed, memory_order_relaxed) == 0) ? BITKV_OK
                                                                                   : refuse(p);
}

bool bkv_tail_by_mapping(struct bkv_partition *p, uint64_t size, bitkv_durability durability)
{
    return by_mapping(p, size, durability);
}

bool bkv_note_append(struct bkv_partition *p, uint64_t size, bitkv_durability durability)
{
    return note_append(p, size, durability);
}

int bkv_keydir_full(const struct bkv_partition *p, int rc)
{
    return full(p, rc);
}

bitkv_durability bkv_effective_durability(const struct bkv_partition *p,
                                          bitkv_durability durability)
{
    return effective(p, durability);
}

bool bkv_descriptor_may_come(struct bkv_partition *p, int rc, unsigned *attempts)
{
    return descriptor_may_come(p, rc, attempts);
}

int bkv_count_write_error(struct bkv_partition *p, int rc)
{
    return count_error(p, rc);
}
