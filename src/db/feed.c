/* SPDX-License-Identifier: MIT */
/*
 * Change feeds: a cursor for each partition (partition/feed.c), merged in turn.
 *
 * A feed outlives its database. What the two share is a `home`, counted, that
 * knows the database as long as it is open: a call looks there in an epoch
 * section, and is a long call from then on, for which closing waits. Closing
 * takes the address out, and waits until nobody can be looking at it any more. So
 * there is no list of feeds, and no lock.
 *
 * Waiting is polling, ever more slowly: it costs the sleeper some wake-ups, and
 * writers nothing at all. They are the ones who are in a hurry.
 *
 * A position, as bytes, little-endian:
 *
 *    0  4   magic
 *    4  u32 version, 1
 *    8  16  database id
 *   24  u32 partitions
 *   28  u32 zero
 *   32  u64 of each partition: the sequence number of the last record passed
 *   ..  u32 CRC-32C of all before
 *
 * Failure modes: those of the cursors, handed on. A partition that is behind is
 * told by every call from then on: the others must not hide it.
 */
#include "db/feed.h"

#include "db/call.h"
#include "db/long_call.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/memory.h"
#include "partition/feed.h"

#include <inttypes.h>
#include <string.h>

#define POSITION_MAGIC      "BKVP"
#define POSITION_VERSION    1u
#define POSITION_ID         8u
#define POSITION_PARTITIONS 24u
#define POSITION_ZERO       28u
#define POSITION_SEQUENCES  32u

/* Between two looks of a waiting feed. */
#define WAIT_US_MIN 20u
#define WAIT_US_MAX 4000u
/* Of a follower, which goes through directories each time. */
#define WAIT_US_FOLLOWER 20000u

struct bkv_feed_home {
    struct bitkv *_Atomic db; /* NULL: closed */
    _Atomic uint32_t refs;    /* of the feeds; the database has one */
};

struct bitkv_feed {
    struct bkv_feed_home *home;
    uint32_t fork_generation;
    uint32_t count; /* of partitions */
    uint32_t turn;  /* whose it is */
    uint8_t database_id[16];
    struct bkv_feed_cursor cursors[];
};

/* --- the home ------------------------------------------------------------------- */

static void home_unref(struct bkv_feed_home *home)
{
    if (atomic_fetch_sub_explicit(&home->refs, 1, memory_order_acq_rel) == 1)
        bkv_mfree(home);
}

/* The database's, with a reference for a feed; NULL without memory. */
static struct bkv_feed_home *home_of(struct bitkv *db)
{
    struct bkv_feed_home *home = atomic_load(&db->feed_home);
    if (home == NULL) {
        struct bkv_feed_home *fresh = bkv_calloc(1, sizeof *fresh);
        if (fresh == NULL)
            return NULL;
        atomic_init(&fresh->db, db);
        atomic_init(&fresh->refs, 1);
        if (atomic_compare_exchange_strong(&db->feed_home, &home, fresh))
            home = fresh;
        else
            bkv_mfree(fresh); /* another thread has opened the first feed */
    }
    (void)atomic_fetch_add_explicit(&home->refs, 1, memory_order_relaxed);
    return home;
}

void bkv_feed_detach_all(struct bitkv *db)
{
    struct bkv_feed_home *home = atomic_load(&db->feed_home);
    if (home == NULL)
        return;
    atomic_store_explicit(&home->db, NULL, memory_order_seq_cst);
    bkv_epoch_wait(bkv_epoch_stamp()); /* somebody may just be looking whether it is open */
    home_unref(home);
}

/* --- calls ------------------------------------------------------------------------ */

static int check(const bitkv_feed *feed)
{
    if (BKV_UNLIKELY(feed == NULL))
        return bkv_error(BITKV_ERR_INVALID, "no feed");
    if (BKV_UNLIKELY(bkv_forked(feed->fork_generation)))
        return bkv_error(BITKV_ERR_FORKED, "this feed was opened before a fork");
    return BITKV_OK;
}

/* Begins a long call on the feed's database, out of the epoch section. */
static int enter(const bitkv_feed *feed, struct bkv_long_call *call)
{
    int rc = check(feed);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    if (slot == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for another thread");
    struct bitkv *db = atomic_load_explicit(&feed->home->db, memory_order_seq_cst);
    rc = db != NULL ? bkv_long_begin(call, db)
                    : bkv_error(BITKV_ERR_CLOSED, "the feed's database was closed");
    if (rc == BITKV_OK)
        bkv_long_leave(call);
    bkv_epoch_exit(slot);
    return rc;
}

/* --- positions ---------------------------------------------------------------------- */

static size_t position_size(uint32_t partitions)
{
    return POSITION_SEQUENCES + 8u * (size_t)partitions + 4u;
}

static int bad_position(const char *what)
{
    return bkv_error(BITKV_ERR_INVALID, "this is no position in this database: %s", what);
}

static int check_position(const struct bitkv *db, const uint8_t *bytes, size_t size)
{
    if (size < POSITION_SEQUENCES + 4u || memcmp(bytes, POSITION_MAGIC, 4) != 0)
        return bad_position("not the bytes of bitkv_feed_position()");
    if (bkv_get32(bytes + 4) != POSITION_VERSION || bkv_get32(bytes + POSITION_ZERO) != 0)
        return bad_position("of a version that this library does not know");
    if (bkv_crc32c(0, bytes, size - 4) != bkv_get32(bytes + size - 4))
        return bad_position("its checksum is wrong");
    if (memcmp(bytes + POSITION_ID, db->store.manifest.database_id, 16) != 0)
        return bad_position("it is of another database");
    if (bkv_get32(bytes + POSITION_PARTITIONS) != db->partition_count ||
        size != position_size(db->partition_count))
        return bad_position("it has another number of partitions");
    return BITKV_OK;
}

int bitkv_feed_position(const bitkv_feed *feed, void *buffer, size_t capacity, size_t *size)
{
    int rc = check(feed);
    if (rc != BITKV_OK)
        return rc;
    if (size == NULL || (buffer == NULL && capacity > 0))
        return bkv_error(BITKV_ERR_INVALID, "bitkv_feed_position: no place for the %s",
                         size == NULL ? "size" : "position");
    *size = position_size(feed->count);
    if (capacity < *size)
        return bkv_error(BITKV_ERR_BUFFER_TOO_SMALL, "the position has %zu bytes, the buffer %zu",
                         *size, capacity);
    uint8_t *bytes = buffer;
    memset(bytes, 0, *size);
    memcpy(bytes, POSITION_MAGIC, 4);
    bkv_put32(bytes + 4, POSITION_VERSION);
    memcpy(bytes + POSITION_ID, feed->database_id, 16);
    bkv_put32(bytes + POSITION_PARTITIONS, feed->count);
    for (uint32_t i = 0; i < feed->count; i++)
        bkv_put64(bytes + POSITION_SEQUENCES + 8u * (size_t)i, feed->cursors[i].sequence);
    bkv_put32(bytes + *size - 4, bkv_crc32c(0, bytes, *size - 4));
    return BITKV_OK;
}

/* --- opening and closing ---------------------------------------------------------------- */

/* `db` NULL: it is closed. */
static void release(bitkv_feed *feed, struct bitkv *db)
{
    for (uint32_t i = 0; i < feed->count; i++)
        bkv_feed_end(db != NULL ? db->partitions[i] : NULL, &feed->cursors[i]);
    home_unref(feed->home);
    bkv_mfree(feed);
}

static bitkv_feed *make_feed(struct bitkv *db)
{
    uint32_t count = db->partition_count;
    bitkv_feed *feed = bkv_calloc(1, sizeof *feed + count * sizeof *feed->cursors);
    if (feed == NULL)
        return NULL;
    feed->home = home_of(db);
    if (feed->home == NULL) {
        bkv_mfree(feed);
        return NULL;
    }
    feed->fork_generation = db->fork_generation;
    feed->count = count;
    memcpy(feed->database_id, db->store.manifest.database_id, 16);
    return feed;
}

/* bytes NULL: `size` says where. */
static int begin(struct bkv_partition *p, struct bkv_feed_cursor *cursor, const uint8_t *bytes,
                 size_t size, uint32_t index)
{
    if (bytes != NULL)
        return bkv_feed_begin_after(p, cursor,
                                    bkv_get64(bytes + POSITION_SEQUENCES + 8u * (size_t)index));
    if (size == BITKV_FEED_OLDEST)
        bkv_feed_begin_oldest(p, cursor);
    else
        bkv_feed_begin_end(p, cursor);
    return BITKV_OK;
}

static int open_feed(struct bitkv *db, const uint8_t *bytes, size_t size, bitkv_feed **out)
{
    int rc = bytes != NULL ? check_position(db, bytes, size) : BITKV_OK;
    if (rc != BITKV_OK)
        return rc;
    bitkv_feed *feed = make_feed(db);
    if (feed == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a feed");
    for (uint32_t i = 0; i < feed->count && rc == BITKV_OK; i++)
        rc = begin(db->partitions[i], &feed->cursors[i], bytes, size, i);
    if (rc != BITKV_OK)
        release(feed, db);
    else
        *out = feed;
    return rc;
}

int bitkv_feed_open(bitkv_feed **feed, bitkv *db, const void *position, size_t position_size)
{
    if (feed == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_feed_open: no place for the feed");
    *feed = NULL;
    if (position == NULL && position_size != BITKV_FEED_OLDEST && position_size != BITKV_FEED_END)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_feed_open: no position, and its size is %zu",
                         position_size);
    struct bkv_long_call call;
    int rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bkv_long_leave(&call);
    rc = open_feed(db, position, position_size, feed);
    bkv_long_end(&call);
    return rc;
}

int bitkv_feed_close(bitkv_feed *feed)
{
    if (feed == NULL)
        return BITKV_OK;
    struct bkv_long_call call;
    int rc = enter(feed, &call);
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        return rc;
    release(feed, rc == BITKV_OK ? call.db : NULL);
    if (rc == BITKV_OK)
        bkv_long_end(&call);
    return BITKV_OK;
}

/* --- reading ------------------------------------------------------------------------------ */

/* One change, of the partition whose turn it is or the next that has any. */
static int next_change(bitkv_feed *feed, struct bitkv *db, bitkv_change *change)
{
    for (uint32_t i = 0; i < feed->count; i++) {
        uint32_t index = feed->turn;
        struct bkv_feed_cursor *cursor = &feed->cursors[index];
        int rc = BITKV_NOT_FOUND;
        if (bkv_feed_stirred(db->partitions[index], cursor))
            rc = bkv_feed_next(db->partitions[index], cursor, change);
        if (rc == BITKV_ERR_BEHIND)
            return rc;
        feed->turn = index + 1 < feed->count ? index + 1 : 0;
        if (rc != BITKV_NOT_FOUND)
            return rc;
    }
    return BITKV_NOT_FOUND;
}

int bitkv_feed_next(bitkv_feed *feed, bitkv_change *change)
{
    if (change == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_feed_next: no place for the change");
    struct bkv_long_call call;
    int rc = enter(feed, &call);
    if (rc != BITKV_OK)
        return rc;
    rc = next_change(feed, call.db, change);
    bkv_long_end(&call);
    return rc;
}

static bool any_stirred(const bitkv_feed *feed, const struct bitkv *db)
{
    for (uint32_t i = 0; i < feed->count; i++) {
        if (bkv_feed_stirred(db->partitions[i], &feed->cursors[i]))
            return true;
    }
    return false;
}

/* Nobody stirs the partitions of a follower but a refresh. */
static int follow(struct bitkv *db)
{
    return db->store.options.read_only ? bkv_store_refresh(&db->store) : BITKV_OK;
}

static int wait_for_change(const bitkv_feed *feed, struct bitkv *db, int timeout_ms)
{
    uint64_t begun = bkv_now_ns();
    uint32_t pause_us = WAIT_US_MIN;
    uint32_t pause_most = db->store.options.read_only ? WAIT_US_FOLLOWER : WAIT_US_MAX;
    while (!any_stirred(feed, db)) {
        int rc = follow(db);
        if (rc != BITKV_OK || any_stirred(feed, db))
            return rc;
        if (atomic_load_explicit(&db->closing, memory_order_relaxed))
            return bkv_error(BITKV_ERR_CLOSED, "the feed's database is being closed");
        uint64_t waited_us = (bkv_now_ns() - begun) / 1000;
        uint64_t limit_us = timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000;
        if (waited_us >= limit_us)
            return BITKV_NOT_FOUND;
        bkv_sleep_us((uint32_t)bkv_min64(pause_us, limit_us - waited_us));
        pause_us = pause_us * 2 < pause_most ? pause_us * 2 : pause_most;
    }
    return BITKV_OK;
}

int bitkv_feed_wait(bitkv_feed *feed, int timeout_ms)
{
    struct bkv_long_call call;
    int rc = enter(feed, &call);
    if (rc != BITKV_OK)
        return rc;
    rc = wait_for_change(feed, call.db, timeout_ms);
    bkv_long_end(&call);
    return rc;
}
