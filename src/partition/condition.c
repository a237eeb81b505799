/* SPDX-License-Identifier: MIT */
/*
 * Writes that depend on what is there: conditional puts and deletes, counters,
 * other deadlines.
 *
 *   1. look      read the record, without a lock, in the caller's epoch section
 *   2. decide    by what was seen
 *   3. write     under the lock, if the KeyDir still has the location that was
 *                seen (or still nothing); else from 1 again
 *
 * In one epoch section a location names one record only: a segment, and with it
 * its number, is not given to anything else before its readers have left. So
 * "the same location" means "nobody has written the key". What leaves the
 * section in between (a segment has to be opened, a writer waits for a
 * descriptor) looks again: bkv_seen is of the section that the look ends in.
 *
 * A record that has expired counts as absent, with its location as what is
 * expected. That one which had not expires before the lock is taken, is a
 * change like another's write.
 *
 * Two keys of one fingerprint are one to the KeyDir: a put of the one takes the
 * other's place, here as everywhere (keydir.h). A condition sees the key that is
 * asked for as absent then.
 *
 * Progress: a write that has to look again was overtaken by another's write of
 * the same key, or by compaction, or by the end of a deadline: some writer gets
 * on, though it need not be this one. Nobody waits for a writer that sleeps.
 *
 * Failure modes: a record that cannot be read, or does not verify: the write
 * that depends on it fails; an unconditional delete goes on. Those of puts, also
 * where the condition does not hold: after a failed sync there is no conflict.
 */
#include "partition/state.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"

#include <inttypes.h>

/* Attempts that go on at once; afterwards the processor is shared politely. */
#define IMPATIENT_ATTEMPTS 4u
#define PAUSES_MAX         64u

static void be_polite(unsigned attempt)
{
    if (attempt < IMPATIENT_ATTEMPTS)
        return;
    for (unsigned i = 0; i < bkv_min64(attempt, PAUSES_MAX); i++)
        bkv_spin_pause();
}

/* What a write may rely on after a look that ended so. */
static struct bkv_expected expect(const struct bkv_seen *seen, int looked, unsigned waits)
{
    return (struct bkv_expected){
        .present = looked == BITKV_OK,
        .location = seen->location,
        .deadline = seen->deadline,
        .waits = waits,
    };
}

static int count_failure(struct bkv_partition *p, int rc)
{
    if (rc < 0 && rc != BITKV_ERR_CONFLICT)
        atomic_fetch_add_explicit(&p->write_errors, 1, memory_order_relaxed);
    return rc;
}

/* A call that would write ends without it, by what is there. After a failed sync that
 * may be gone tomorrow, or what has been deleted be back: nobody is told then that his
 * key is there, or that it is absent. */
static int end_unwritten(struct bkv_partition *p, int rc)
{
    int refused = bkv_write_check(p);
    return count_failure(p, refused != BITKV_OK ? refused : rc);
}

/* Of a record that is written now. `present`: of the key, that may be kept. */
static uint64_t deadline_of(const struct bkv_store *store, uint64_t ttl_ms, uint64_t present)
{
    if (ttl_ms == BITKV_TTL_KEEP)
        return present;
    if (ttl_ms == 0)
        ttl_ms = store->options.default_ttl_ms;
    if (ttl_ms == 0 || ttl_ms == BITKV_TTL_NONE)
        return UINT64_MAX;
    return bkv_store_now_ms(store) + ttl_ms;
}

/* --- conditions -------------------------------------------------------------------- */

static int conflict(const char *what)
{
    return bkv_error(BITKV_ERR_CONFLICT, "%s", what);
}

static int decide(const struct bkv_change *change, int looked, const struct bkv_seen *seen)
{
    if (looked < 0)
        return looked;
    bool present = looked == BITKV_OK;
    switch (change->condition) {
    case BITKV_ALWAYS:
        return BITKV_OK;
    case BITKV_IF_ABSENT:
        return present ? conflict("the key is there") : BITKV_OK;
    case BITKV_IF_PRESENT:
        return looked;
    default:
        break;
    }
    BKV_DEBUG_ASSERT(change->condition == BITKV_IF_VERSION); /* there are no others: db/ looked */
    if (present && seen->sequence != change->version)
        return bkv_error(BITKV_ERR_CONFLICT,
                         "the key has version %" PRIu64 ", %" PRIu64 " was expected",
                         seen->sequence, change->version);
    return looked;
}

/* Goes by the head of the record, but for a version that is another's: what is
 * not verified must not pass for a conflict. Nor must a damaged deadline be kept,
 * in a record that verifies. */
static int look_and_decide(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                           const struct bkv_hash *hash, const struct bkv_change *change,
                           struct bkv_expected *expected)
{
    struct bkv_seen seen = {0};
    struct bkv_sink sink = {.kind = BKV_SINK_NONE, .seen = &seen};
    if (change->ttl_ms == BITKV_TTL_KEEP)
        sink.kind = BKV_SINK_VERIFY;
    int looked = bkv_partition_look(p, slot, hash, change->key, change->key_size, &sink);
    if (looked == BITKV_OK && change->condition == BITKV_IF_VERSION &&
        seen.sequence != change->version) {
        sink.kind = BKV_SINK_VERIFY;
        looked = bkv_partition_look(p, slot, hash, change->key, change->key_size, &sink);
    }
    *expected = expect(&seen, looked, expected->waits);
    return decide(change, looked, &seen);
}

static int write_if(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                    const struct bkv_hash *hash, const struct bkv_change *change,
                    struct bkv_write *write)
{
    struct bkv_expected expected = {0};
    for (unsigned attempt = 0;; attempt++) {
        int rc = look_and_decide(p, slot, hash, change, &expected);
        if (rc != BITKV_OK)
            return end_unwritten(p, rc);
        if (!write->deletes)
            write->deadline = deadline_of(p->store, change->ttl_ms,
                                          expected.present ? expected.deadline : UINT64_MAX);
        BKV_SCHEDULE_POINT("condition.looked");
        rc = bkv_write(p, hash, write, &expected);
        if (rc != BKV_CHANGED)
            return rc;
        be_polite(attempt);
    }
}

int bkv_partition_put_if(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, const struct bkv_change *change,
                         uint64_t *version)
{
    struct bkv_write write = {
        .key = change->key,
        .key_size = change->key_size,
        .value = change->value,
        .value_size = change->value_size,
        .durability = change->durability,
    };
    int rc;
    if (change->condition == BITKV_ALWAYS && change->ttl_ms != BITKV_TTL_KEEP) {
        write.deadline = deadline_of(p->store, change->ttl_ms, UINT64_MAX);
        rc = bkv_write(p, hash, &write, NULL);
    } else {
        rc = write_if(p, slot, hash, change, &write);
    }
    if (rc == BITKV_OK)
        *version = write.sequence;
    return rc;
}

int bkv_partition_del_if(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, const struct bkv_change *change)
{
    struct bkv_write write = {
        .key = change->key,
        .key_size = change->key_size,
        .deadline = UINT64_MAX,
        .deletes = true,
        .durability = change->durability,
    };
    return write_if(p, slot, hash, change, &write);
}

/* A key that has expired is not there, but gets its tombstone: or a clock that is
 * set back before the next opening would bring back what was deleted. */
int bkv_del_looking(struct bkv_partition *p, const struct bkv_hash *hash, struct bkv_write *write)
{
    struct bkv_epoch_slot *slot = bkv_epoch_here();
    struct bkv_expected expected = {0};
    BKV_ASSERT(slot != NULL);
    for (unsigned attempt = 0;; attempt++) {
        struct bkv_seen seen = {0};
        struct bkv_sink sink = {.kind = BKV_SINK_NONE, .seen = &seen};
        int looked = bkv_partition_look(p, slot, hash, write->key, write->key_size, &sink);
        if (looked < 0) /* no reason not to delete it */
            return bkv_write(p, hash, write, NULL);
        bool expired = looked == BITKV_NOT_FOUND && seen.deadline != UINT64_MAX;
        if (looked == BITKV_NOT_FOUND && !expired)
            return end_unwritten(p, looked);
        expected = expect(&seen, looked, expected.waits);
        int rc = bkv_write(p, hash, write, &expected);
        if (rc != BKV_CHANGED)
            return rc == BITKV_OK ? looked : rc;
        be_polite(attempt);
    }
}

/* --- what is known of a key ------------------------------------------------------------ */

int bkv_partition_info(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                       const struct bkv_hash *hash, const void *key, size_t key_size,
                       bitkv_key_info *info)
{
    struct bkv_seen seen = {0};
    struct bkv_sink sink = {.kind = BKV_SINK_VERIFY, .seen = &seen};
    int rc = bkv_partition_get(p, slot, hash, key, key_size, &sink);
    if (rc != BITKV_OK)
        return rc;
    info->version = seen.sequence;
    info->value_size = sink.size;
    info->deadline_ms = seen.deadline;
    info->remaining_ms = bkv_remaining_ms(p->store, seen.deadline);
    return BITKV_OK;
}

/* --- the value stays, or is counted ----------------------------------------------------- */

int bkv_partition_touch(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                        const struct bkv_hash *hash, const void *key, size_t key_size,
                        uint64_t ttl_ms)
{
    struct bkv_expected expected = {0};
    for (unsigned attempt = 0;; attempt++) {
        struct bkv_seen seen = {0};
        /* A copy, no view: the writer's lock is no place to wait for a page. */
        struct bkv_sink sink = {.kind = BKV_SINK_ALLOCATE, .seen = &seen};
        int rc = bkv_partition_look(p, slot, hash, key, key_size, &sink);
        if (rc != BITKV_OK)
            return end_unwritten(p, rc);
        struct bkv_write write = {
            .key = key,
            .key_size = key_size,
            .value = sink.buffer,
            .value_size = sink.size,
            .deadline = deadline_of(p->store, ttl_ms, UINT64_MAX),
        };
        expected = expect(&seen, rc, expected.waits);
        rc = bkv_write(p, hash, &write, &expected);
        bkv_mfree(sink.buffer);
        if (rc != BKV_CHANGED)
            return rc;
        be_polite(attempt);
    }
}

/* The counter that a look has found, 0 if none. */
static int counter_of(int looked, const struct bkv_sink *sink, const uint8_t *bytes, int64_t *value)
{
    *value = 0;
    if (looked == BITKV_NOT_FOUND)
        return BITKV_OK;
    if (looked == BITKV_ERR_BUFFER_TOO_SMALL ||
        (looked == BITKV_OK && sink->size != BKV_COUNTER_SIZE))
        return bkv_error(BITKV_ERR_INVALID,
                         "the value has %zu bytes and is no counter, which has %u", sink->size,
                         BKV_COUNTER_SIZE);
    if (looked == BITKV_OK)
        *value = (int64_t)bkv_get64(bytes);
    return looked;
}

int bkv_partition_add(struct bkv_partition *p, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, const void *key, size_t key_size, int64_t delta,
                      int64_t *result)
{
    struct bkv_expected expected = {0};
    for (unsigned attempt = 0;; attempt++) {
        uint8_t bytes[BKV_COUNTER_SIZE];
        struct bkv_seen seen = {0};
        struct bkv_sink sink = {
            .kind = BKV_SINK_BUFFER, .buffer = bytes, .capacity = sizeof bytes, .seen = &seen};
        int looked = bkv_partition_look(p, slot, hash, key, key_size, &sink);
        int64_t value;
        int rc = counter_of(looked, &sink, bytes, &value);
        if (rc == BITKV_OK && __builtin_add_overflow(value, delta, &value))
            rc = bkv_error(BITKV_ERR_LIMIT, "the counter would overflow");
        if (rc != BITKV_OK)
            return end_unwritten(p, rc);
        bkv_put64(bytes, (uint64_t)value);
        struct bkv_write write = {
            .key = key,
            .key_size = key_size,
            .value = bytes,
            .value_size = sizeof bytes,
            .deadline = looked == BITKV_OK ? seen.deadline : deadline_of(p->store, 0, UINT64_MAX),
        };
        expected = expect(&seen, looked, expected.waits);
        BKV_SCHEDULE_POINT("condition.looked");
        rc = bkv_write(p, hash, &write, &expected);
        if (rc == BITKV_OK)
            *result = value;
        if (rc != BKV_CHANGED)
            return rc;
        be_polite(attempt);
    }
}
