/* SPDX-License-Identifier: MIT */
/*
 * A partition: a log, the KeyDir over it, one worker thread; nothing shared
 * with its siblings but what struct bkv_store holds. This header is all that
 * src/db sees of it.
 */
#ifndef BKV_PARTITION_PARTITION_H
#define BKV_PARTITION_PARTITION_H

#include "base/bytes.h"
#include "base/clock.h"
#include "base/epoch.h"
#include "base/hash.h"
#include "base/limits.h"
#include "io/file.h"
#include "log/manifest.h"

#include <bitkv.h>

#include <pthread.h>
#include <stdatomic.h>

/* What the partitions of an open database have in common. Constant while they
 * are open. */
struct bkv_store {
    struct bkv_dir dir;
    struct bkv_manifest manifest;
    struct bkv_partition **partitions; /* all, in order of their index */
    bitkv_options options;             /* checked, with every default filled in */
    struct bkv_clock clock;            /* by which records expire */
    bool mapped;                       /* BITKV_IO_MMAP runs, else BITKV_IO_PWRITE */
    uint32_t open_segments_max;        /* of one partition */
    uint32_t sealed_max;               /* full segments of one that wait for their sync */
    uint64_t readers_max;              /* descriptors of all, up to which cold reads take some */
    pthread_mutex_t refresh_mutex;     /* one refresh at a time; taken before all others */
    _Atomic uint64_t refreshes;        /* that have begun */
    bool torn; /* under refresh_mutex: the last one has not come to all partitions */
};

/* The time that deadlines of records are compared with: one that is not larger
 * has passed. Milliseconds since 1970; any thread. */
static inline uint64_t bkv_store_now_ms(const struct bkv_store *store)
{
    return bkv_clock_ms(&store->clock);
}

/* A message for the log callback, if there is one. */
void bkv_log(const struct bkv_store *store, bitkv_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

struct bkv_partition;

/* Files have changed while they were read, or do not fit together yet: to be read
 * again. No code for callers of the library; the context says what it was. */
#define BKV_READ_AGAIN 5

/* Of a read-only opening: takes in what was written since, in all partitions. Not in
 * an epoch section. BITKV_ERR_STALE. */
int bkv_store_refresh(struct bkv_store *store);
/* Between them no refresh changes anything: what is noted of several partitions is of
 * one moment. Of other openings nothing. Not in an epoch section, but one may be
 * entered then. A failure: the last refresh was torn, and could not be completed; it
 * is to be ended all the same. */
int bkv_store_moment_begin(struct bkv_store *store);
void bkv_store_moment_end(struct bkv_store *store);
/* The first one, of an opening: what looked like a torn tail may have been a record
 * on its way. A log that does not fit together has been judged by the recovery, and
 * is served as far as that got. */
int bkv_store_catch_up(struct bkv_store *store);
/* As bkv_store_refresh(), unless one has begun and ended since the number was `refreshes`; best
 * effort. */
void bkv_store_refresh_since(struct bkv_store *store, uint64_t refreshes);
/* BITKV_ERR_STALE: the directory that was opened has another database by now, or none. */
int bkv_store_check_identity(struct bkv_store *store);

/* Starts the partition's thread, which recovers it; several may be started
 * before the first is awaited. */
int bkv_partition_start(struct bkv_partition **out, struct bkv_store *store, uint32_t index);
/* The stages of opening: when all partitions have reached the first one, what is to
 * become of batches that lie in several is decided for all
 * (bkv_partitions_decide()); when all have reached the second one, they may write. */
enum bkv_opening {
    BKV_OPENING_BEGUN,
    BKV_OPENING_READ,      /* the log is read, no file is changed */
    BKV_OPENING_RECOVERED, /* it serves, but nobody has appended anything */
};
/* Waits until the stage is reached, and returns how it went so far. */
int bkv_partition_await(struct bkv_partition *partition, enum bkv_opening stage);
void bkv_partition_leave(struct bkv_partition *partition, enum bkv_opening stage);
/* All have reached BKV_OPENING_READ, and may not have left it. BITKV_ERR_NO_MEMORY. */
int bkv_partitions_decide(struct bkv_partition *const *partitions, uint32_t count);
/* Seals what is open, stops the thread and frees all. `clean`: sync, trim and
 * checkpoint first; their first error is returned. No operation may run. */
int bkv_partition_stop(struct bkv_partition *partition, bool clean);

/* Writers stand still between the two. Of several partitions in order of their
 * index; some microseconds, no system call. */
void bkv_partition_lock(struct bkv_partition *partition);
void bkv_partition_unlock(struct bkv_partition *partition);

/* Keeps the files of all segments that the partition has at its beginning, and
 * what is needed to read them by location: compaction may replace them, but
 * takes nothing away before it has ended. */
struct bkv_hold {
    uint64_t removals; /* of the partition, when it began */
    struct bkv_hold *next, *previous;
};
void bkv_hold_begin(struct bkv_partition *partition, struct bkv_hold *hold); /* locked */
void bkv_hold_end(struct bkv_partition *partition, struct bkv_hold *hold);   /* not locked */

/* --- snapshots: snapshot.c --------------------------------------------------- */

/* What the partition held at one moment. */
struct bkv_partition_snapshot {
    struct bkv_keydir_snapshot *keydir; /* NULL: there is none */
    struct bkv_hold hold;
    bool taken;
    /* A follower's: all segments, the first `open` of them kept open. */
    struct bkv_segment **segments;
    uint32_t count, capacity, open;
};

/* Memory for one. Not locked. BITKV_ERR_NO_MEMORY. */
int bkv_partition_snapshot_reserve(struct bkv_partition *partition,
                                   struct bkv_partition_snapshot *snapshot);
/* Locked. BKV_OUTGROWN: release it, and reserve anew. BITKV_ERR_NO_MEMORY. */
#define BKV_OUTGROWN 2
/* After the locks. BITKV_NOT_FOUND: a follower's writer has unlinked a file
 * meanwhile: release it, refresh, and begin anew. */
int bkv_partition_snapshot_open(struct bkv_partition *partition,
                                struct bkv_partition_snapshot *snapshot);
int bkv_partition_snapshot_take(struct bkv_partition *partition,
                                struct bkv_partition_snapshot *snapshot);
/* Not locked: of one in any state, that nobody reads any more. */
void bkv_partition_snapshot_release(struct bkv_partition *partition,
                                    struct bkv_partition_snapshot *snapshot);
/* Its parts, to share the work. */
uint32_t bkv_partition_snapshot_tables(const struct bkv_partition_snapshot *snapshot);

/* --- every record of a snapshot: walk.c ------------------------------------------ */

/* A record that is shown; what the callback of a scan is given in truth. */
struct bkv_shown {
    bitkv_record record;
    uint64_t deadline; /* milliseconds since 1970; UINT64_MAX: it never expires */
};
static inline uint64_t bkv_shown_deadline(const bitkv_record *record)
{
    return ((const struct bkv_shown *)record)->deadline;
}

/* For one thread at a time. What it has shown lies in memory of its own, or in
 * mappings that it keeps: both outlive the database. */
struct bkv_walk;

/* With `flags` of bitkv_scan_flags, those whose keys begin with the prefix, which
 * is copied. BITKV_ERR_NO_MEMORY. */
int bkv_walk_create(struct bkv_walk **out, unsigned flags, const void *prefix, size_t prefix_size);
void bkv_walk_destroy(struct bkv_walk *walk);
/* From here on it goes through the snapshot's tables `first`, first + step, ... */
void bkv_walk_begin(struct bkv_walk *walk, struct bkv_partition *partition,
                    const struct bkv_partition_snapshot *snapshot, uint32_t first, uint32_t step);
/* In an epoch section, which it may leave and enter again. BITKV_OK: the next
 * record, valid until the next call; BITKV_NOT_FOUND: there are no more;
 * BKV_WALK_PAUSE: none yet, call again, in another section; BITKV_ERR_NO_MEMORY:
 * as if it had not been called. */
#define BKV_WALK_PAUSE 2
int bkv_walk_next(struct bkv_walk *walk, struct bkv_epoch_slot *slot, struct bkv_shown *shown);
/* The first of the records that could not be shown: its code, the text in the
 * thread's context. BITKV_OK if there was none. */
int bkv_walk_failure(const struct bkv_walk *walk);

/* The record that a read went by. */
struct bkv_seen {
    uint64_t location; /* 0: the KeyDir has none. Of this section; also of a record
                        * that has expired, or is another key's of the same fingerprint */
    uint64_t sequence; /* of a key that is there */
    uint64_t deadline; /* of any; UINT64_MAX: never */
};

/* Where the value that was read goes. */
struct bkv_sink {
    enum bkv_sink_kind {
        BKV_SINK_NONE,     /* only whether the key is there */
        BKV_SINK_VERIFY,   /* the same, and the record is verified */
        BKV_SINK_BUFFER,   /* into buffer, of size capacity */
        BKV_SINK_ALLOCATE, /* buffer is allocated, with a NUL byte behind the value */
        BKV_SINK_VIEW,     /* view is filled in */
    } kind;
    void *buffer;
    size_t capacity;
    bitkv_view *view;
    size_t size;           /* out: of the value, also if it did not fit */
    struct bkv_seen *seen; /* out; NULL: nobody asks */
};

/* The calls run in the caller's thread, inside of its epoch section `slot`,
 * which they may leave and enter again. */
int bkv_partition_get(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, const void *key, size_t key_size,
                      struct bkv_sink *sink);
/* The same as of a snapshot's moment. */
int bkv_partition_get_at(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                         const struct bkv_partition_snapshot *snapshot, const struct bkv_hash *hash,
                         const void *key, size_t key_size, struct bkv_sink *sink);
/* The same for somebody who is going to write: not counted as a read. */
int bkv_partition_look(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                       const struct bkv_hash *hash, const void *key, size_t key_size,
                       struct bkv_sink *sink);
/* Writes: prefetch the KeyDir's lines before (bkv_partition_prefetch_put() or
 * _slot()). With `unsynced` they do not wait for a sync: *unsynced receives the position
 * that has to be synced yet, 0 if none has to. */
int bkv_partition_put(struct bkv_partition *partition, const struct bkv_hash *hash, const void *key,
                      size_t key_size, const void *value, size_t value_size,
                      bitkv_durability durability, uint64_t *unsynced);
/* A record of another database, with its own deadline. */
int bkv_partition_put_until(struct bkv_partition *partition, const struct bkv_hash *hash,
                            const bitkv_record *record, uint64_t deadline,
                            bitkv_durability durability);
int bkv_partition_del(struct bkv_partition *partition, const struct bkv_hash *hash, const void *key,
                      size_t key_size, bitkv_durability durability, uint64_t *unsynced);
int bkv_partition_sync(struct bkv_partition *partition);
/* Compacts all that has anything to give up, in the caller's thread; `slice` as of
 * struct bkv_pace. Not in an epoch section. */
int bkv_partition_compact(struct bkv_partition *partition, int (*slice)(void *user, uint64_t bytes),
                          void *user);
/* Bytes of the data files. In an epoch section. */
uint64_t bkv_partition_compactable(struct bkv_partition *partition);
/* Adds its figures to `statistics`; gauges of the whole database are left. */
void bkv_partition_stats(struct bkv_partition *partition, bitkv_statistics *statistics);

/* --- condition.c: writes that depend on what is there ------------------------------- */

#define BKV_COUNTER_SIZE 8u

/* Milliseconds until then; UINT64_MAX if never. */
static inline uint64_t bkv_remaining_ms(const struct bkv_store *store, uint64_t deadline)
{
    if (deadline == UINT64_MAX)
        return UINT64_MAX;
    return deadline - bkv_min64(deadline, bkv_store_now_ms(store));
}

struct bkv_change {
    const void *key, *value;
    size_t key_size, value_size;
    uint64_t ttl_ms;  /* as in bitkv_put_options */
    uint64_t version; /* of BITKV_IF_VERSION */
    bitkv_condition condition;
    bitkv_durability durability;
};

/* As the calls of bitkv.h that are named so. `version` and `result`: set if
 * BITKV_OK. */
int bkv_partition_put_if(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, const struct bkv_change *change,
                         uint64_t *version);
int bkv_partition_del_if(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                         const struct bkv_hash *hash, const struct bkv_change *change);
int bkv_partition_touch(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                        const struct bkv_hash *hash, const void *key, size_t key_size,
                        uint64_t ttl_ms);
int bkv_partition_info(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                       const struct bkv_hash *hash, const void *key, size_t key_size,
                       bitkv_key_info *info);
int bkv_partition_add(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, const void *key, size_t key_size, int64_t delta,
                      int64_t *result);

/* --- gets in a pipeline: each stage for all keys, then the next --------------------
 *
 *   prefetch_index -> prefetch_slot -> locate -> read_found (or try_found)
 *
 * all in one epoch section. The get takes effect when it is located. */

/* Where a record was found. */
struct bkv_located {
    struct bkv_partition *partition;
    struct bkv_segment *segment; /* NULL: the key is not there */
    struct bkv_mapping *mapping; /* NULL: the segment is closed */
    uint64_t offset, size;       /* of the record */
    uint64_t location;
};

void bkv_partition_prefetch_index(struct bkv_partition *partition, const struct bkv_hash *hash);
void bkv_partition_prefetch_slot(struct bkv_partition *partition, const struct bkv_hash *hash);
/* The lines that a put or a delete will look at. */
void bkv_partition_prefetch_put(struct bkv_partition *partition, const struct bkv_hash *hash);
/* Looks the key up, and prefetches the record. */
void bkv_partition_locate(struct bkv_partition *partition, const struct bkv_hash *hash,
                          struct bkv_located *found);
/* The rest of bkv_partition_get(). */
int bkv_partition_read_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                             const struct bkv_hash *hash, const void *key, size_t key_size,
                             struct bkv_sink *sink);
/* The same, but BKV_COLD if that would probably wait for the disk. `stamp`: of
 * io/residency.h. */
#define BKV_COLD 3
int bkv_partition_try_found(const struct bkv_located *found, struct bkv_epoch_slot *slot,
                            const struct bkv_hash *hash, const void *key, size_t key_size,
                            struct bkv_sink *sink, uint32_t stamp);

/* --- cold.c: a record that has to be read from disk ------------------------------ */

/* What was located, looked up again with the lock held: now the record is the key's,
 * and that of no key whose slot it got, nor of a batch that may yet fail. A read that
 * is delivered when the world has gone on cannot look again by itself: it would find
 * what its own queue has put since. */
void bkv_partition_settle(struct bkv_located *found, struct bkv_epoch_slot *slot,
                          const struct bkv_hash *hash);

/* Holds what is needed to read and verify it: from the beginning on it does not
 * depend on what becomes of the key. */
struct bkv_cold {
    struct bkv_partition *partition;
    struct bkv_segment *segment; /* a reference, if it has to be opened; else NULL */
    struct bkv_mapping *mapping; /* a reference; NULL: see segment */
    int fd;                      /* to read by; -1: by bkv_cold_read() only */
    uint64_t location;
    uint64_t offset, size; /* in the file */
    uint64_t seed, segment_id;
    uint64_t now_ms; /* of the locate: the get's moment */
    uint32_t partition_index;
};

/* In the section of the locate; `found` is settled. */
void bkv_cold_begin(struct bkv_cold *cold, const struct bkv_located *found);
/* Opens the segment if need be, reads the record into `bytes`; blocks. In an
 * epoch section that it leaves meanwhile. BKV_OTHER_KEY, read-only only: the file
 * is gone, so the key lies elsewhere by now; get it anew. */
int bkv_cold_read(struct bkv_cold *cold, struct bkv_epoch_slot *slot, void *bytes);
/* Verifies and delivers what was read. Needs no open database: `path` is its
 * directory's, for messages. */
#define BKV_OTHER_KEY 2
int bkv_cold_deliver(const struct bkv_cold *cold, const char *path, const void *bytes,
                     const void *key, size_t key_size, struct bkv_sink *sink);
void bkv_cold_end(struct bkv_cold *cold);
/* Counts a get that was delivered so. In an epoch section. */
void bkv_partition_count_get(struct bkv_partition *partition, const struct bkv_epoch_slot *slot,
                             int rc);

/* --- waiting for a sync without a thread: sync.c ------------------------------------- */

struct bkv_sync_waiter {
    uint64_t position; /* of the log: what is to be durable */
    /* Called once, by the thread that ran the sync: the worker, or a writer.
     * The waiter may be gone when it returns. */
    void (*done)(struct bkv_sync_waiter *waiter, int rc);
    /* Leave it alone for a millisecond: who waits may well run the sync itself
     * (bkv_partition_sync_upto()), or says when not (.._sync_urge()). */
    bool patient;
    uint64_t since_ns; /* of its registration */
    struct bkv_sync_waiter *next;
};

/* Where the log ends now. */
uint64_t bkv_partition_position(struct bkv_partition *partition);
/* Syncs in this thread; waiters up to there have been called when it returns,
 * or are about to be. */
void bkv_partition_sync_upto(struct bkv_partition *partition, uint64_t position);
/* Is it durable up to there? */
bool bkv_partition_synced(struct bkv_partition *partition, uint64_t position);
void bkv_partition_sync_later(struct bkv_partition *partition, struct bkv_sync_waiter *waiter);
/* It is not patient any more. No effect on one whose wait is over. */
void bkv_partition_sync_urge(struct bkv_partition *partition, struct bkv_sync_waiter *waiter);
/* Takes the waiter back. False: its call has been made, or is about to be. */
bool bkv_partition_sync_forget(struct bkv_partition *partition, struct bkv_sync_waiter *waiter);

#endif
