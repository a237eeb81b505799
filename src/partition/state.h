/* SPDX-License-Identifier: MIT */
/*
 * The state of a partition, for the files of this folder.
 *
 *                 rotate            worker: synced, trimmed, hint written
 *   (spare) --> ACTIVE ----> SEALED ----------------------------> FINISHED
 *    worker     tail.c                      seal.c
 *
 * Who may touch what:
 *
 *   lock        (spin, nanoseconds) the tail, sequence numbers, the KeyDir's
 *               writer side, the lists of segments, the writers' counters
 *   sync_mutex  who syncs, and how far the log is known to be durable
 *   open_mutex  opening and closing of segment files
 *   worker      everything that is marked "worker's"
 *   layout      which segments locations are in, as a whole: checkpoints keep it
 *               as it is, compaction changes it
 *   nobody      readers: atomics, inside of an epoch section
 *
 * Locks are taken in the order layout_mutex, sync_mutex, open_mutex, lock; no system call is
 * made under `lock` but those that make room for the very next append.
 *
 * Invariants:
 *   I1  Records lie in the log in order of their sequence numbers, without
 *       gaps within a stream segment or between two neighbours.
 *   I2  The KeyDir is changed after the record is whole in the log, never
 *       before; from then on readers can see it.
 *   I3  A location in the KeyDir is of a record that lies whole below its
 *       segment's `size`. Whatever a file says it is longer than a header, and
 *       below that size: indexes that claim others are refused.
 *   I4  The sum of `live_bytes` over all segments is the sum of the sizes of
 *       all locations in the KeyDir, once it is settled.
 *   I5  Everything below `flushed` was synced, directory entries included. What
 *       lies below `synced` recovery takes for decided: of each batch in it all
 *       parts are flushed, and of each batch that lies before one of those.
 *   I6  A segment that was written in this opening and is not FINISHED is
 *       open, with its descriptor.
 *   I7  After a failed sync `failed` is set for good, and nothing is
 *       appended any more.
 *   I8  The open mapping of a segment spans its `size`, however long the file is,
 *       and all mappings of a database have a base, or none has.
 */
#ifndef BKV_PARTITION_STATE_H
#define BKV_PARTITION_STATE_H

#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "base/lock.h"
#include "io/mapping.h"
#include "keydir/keydir.h"
#include "log/hint.h"
#include "log/location.h"
#include "log/record.h"
#include "partition/partition.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

enum bkv_segment_phase {
    BKV_PHASE_ACTIVE,
    BKV_PHASE_SEALED,
    BKV_PHASE_FINISHED,
};

struct bkv_segment {
    struct bkv_mapping *_Atomic open; /* NULL: closed; readers load it in an epoch section */
    uint64_t seed;                    /* of record checksums */
    uint64_t id;
    uint32_t number;            /* index in the table, part of locations */
    _Atomic uint8_t referenced; /* read since the clock hand last passed */
    _Atomic uint8_t phase;      /* enum bkv_segment_phase */
    _Atomic bool entry_synced;  /* its directory entry is durable */
    _Atomic bool written;       /* in this opening; set before the first append */
    uint8_t kind;               /* enum bkv_segment_kind */
    _Atomic uint32_t refs;      /* of the structure; the table has one */
    _Atomic uint32_t feeds;     /* of those, of feeds: nobody waits for them */
    uint64_t base_sequence;
    uint64_t last_sequence;     /* valid once sealed */
    uint64_t end_position;      /* likewise: of the log; 0 if an earlier opening wrote it */
    struct bkv_summary summary; /* valid once FINISHED with a hint */
    _Atomic uint64_t size;      /* bytes used, header included */
    _Atomic uint64_t live_bytes;
    _Atomic uint64_t disk_bytes; /* reserved, or the file's size */
    _Atomic uint64_t hint_bytes; /* 0: no hint */
    bool lasting;                /* under lock; no record of it has a deadline. False: may have */
    struct bkv_segment *_Atomic next; /* in order of the log */
    struct bkv_segment *next_unsynced;
    uint32_t kept_open; /* under open_mutex: snapshots of a follower that may need it */

    /* follow.c's */
    bool followed;          /* taken in as a whole, but for what is appended to the last one */
    bool leaving;           /* replaced: nothing lies in it any more */
    uint64_t inode;         /* of its file when it was last taken from; 0: not known */
    _Atomic uint64_t shown; /* up to there it is taken in; changes under the lock */

    /* compaction's */
    bool unfit;             /* met damage: left as it is */
    uint64_t kept_bytes;    /* tombstones that were found to be needed */
    uint64_t kept_at;       /* `removals` of the partition then */
    uint64_t removal;       /* number of its own removal */
    uint64_t removal_stamp; /* no reader of before is left once it has passed */
    struct bkv_segment *next_removed;
};

/* Whoever leaves the epoch section in which he found a segment, but goes on with
 * it, holds a reference: then its file stays, too. */
static inline void bkv_segment_ref(struct bkv_segment *segment)
{
    (void)atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
}
void bkv_segment_unref(struct bkv_segment *segment); /* NULL is ignored */

/* Up to where the segment's records can be found by their keys. Under the lock. */
static inline uint64_t bkv_segment_committed(const struct bkv_store *store,
                                             const struct bkv_segment *segment)
{
    return atomic_load_explicit(store->options.read_only ? &segment->shown : &segment->size,
                                memory_order_relaxed);
}

/* Two levels, so that the table grows without moving and readers need no lock.
 * 512 x 512 numbers are BKV_SEGMENTS_MAX. */
#define BKV_TABLE_FANOUT 512u

struct bkv_table {
    struct bkv_segment *_Atomic *_Atomic chunks[BKV_TABLE_FANOUT];
};

/* Where the log goes on. */
struct bkv_tail {
    struct bkv_segment *segment; /* NULL: none yet */
    uint8_t *base;               /* of the mapping; NULL with pwrite */
    struct bkv_mapping *mapping;
    uint64_t offset;           /* of the next record */
    uint64_t limit;            /* the segment does not grow beyond */
    uint64_t wake_at;          /* offset at which the worker should look again */
    bool by_mapping;           /* appends go through the mapping now */
    _Atomic uint64_t reserved; /* file space exists below */
    _Atomic uint64_t faulted;  /* pages are in memory, writable, below */
};

/* Up to where a read-only opening has read. */
struct bkv_followed {
    struct bkv_segment *segment; /* NULL: there was nothing */
    uint64_t offset;             /* in it */
    uint64_t sequence;           /* the last one */
    bool proven;                 /* the record before is known, and has to stay */
    uint64_t proof_offset;
    uint8_t proof[BKV_RECORD_HEADER];
    uint64_t doubt;           /* the opening's: of the reading before */
    uint64_t opened_sequence; /* at the opening, */
    uint64_t dropped_id;      /* which left out files of ids up to this one */
};

/* Counters of readers, striped over threads: a thread with a small slot index
 * has a stripe of its own and needs no locked instruction. */
#define BKV_STRIPES 16u

struct bkv_stripe {
    _Alignas(64) _Atomic uint64_t gets;
    _Atomic uint64_t misses;
    _Atomic uint64_t errors;
};

struct bkv_retired {
    struct bkv_mapping *mapping;
    uint64_t stamp;
    struct bkv_retired *next;
};

/* A set of partitions, by index. */
#define BKV_PEER_WORDS ((BITKV_PARTITIONS_MAX + 63u) / 64u)

struct bkv_peers {
    uint64_t words[BKV_PEER_WORDS];
};

static inline void bkv_peers_add(struct bkv_peers *peers, uint32_t index)
{
    peers->words[index / 64] |= 1ull << index % 64;
}

struct bkv_partition {
    /* read by everyone, written at opening */
    struct bkv_store *store;
    struct bkv_keydir *keydir;
    uint32_t index;
    struct bkv_file directory; /* held, so that no sync fails for want of a descriptor */
    struct bkv_table table;

    /* the writers' */
    _Alignas(64) struct bkv_lock lock;
    uint64_t died;       /* bytes, since the compactor was last told */
    bool sync_armed;     /* the worker knows that something waits for the interval */
    uint64_t since_sync; /* bytes appended since the last sync began */
    struct bkv_tail tail;
    uint64_t next_sequence;
    _Atomic uint64_t appended; /* log position: bytes of user records, ever */
    _Atomic int failed;        /* code of a failed sync */
    _Atomic uint64_t puts, deletes, write_errors, bytes_written;
    struct bkv_segment *_Atomic first; /* all segments; compaction alone takes some out */
    struct bkv_segment *last;
    struct bkv_segment *unsynced_first, *unsynced_last;
    struct bkv_segment *sealed_first; /* where the worker has to go on */
    uint32_t sealed_count;            /* of this opening: each holds a descriptor */
    /* Partitions that share batches with this one which no sync has acknowledged
     * yet; those that a round is just syncing. */
    struct bkv_peers peers, peers_syncing;
    _Atomic uint64_t batch_end; /* log position behind the last such batch */
    uint64_t next_id;
    _Atomic uint32_t next_number;
    uint64_t removals; /* segments that were taken out so far */
    struct bkv_hold *holds;
    uint32_t *free_numbers; /* of segments that are gone */
    uint32_t free_count, free_capacity;
    struct bkv_segment *removed; /* taken out, and not yet given up; newest first */
    uint32_t leaving;            /* those on their way from there: their files are being unlinked */

    /* the spare segment: made by the worker, taken under `lock` */
    struct bkv_spare *_Atomic spare;

    /* group commit */
    _Alignas(64) pthread_mutex_t sync_mutex;
    pthread_cond_t sync_done;
    bool sync_running;  /* a round, which ends with `synced` */
    bool flush_running; /* its part, or a peer's for us, which ends with `flushed` */
    bool flushed_new;   /* no mark says how far yet */
    struct bkv_flushed {
        uint64_t segment_id, offset; /* of `position` */
    } flushed_place;
    _Atomic uint64_t flushed; /* log position: on the disk below, if not yet acknowledged */
    struct bkv_sync_waiter *_Atomic waiters; /* under sync_mutex; others only look for NULL */
    _Atomic uint64_t synced;
    _Atomic uint64_t syncs;

    /* open segments */
    pthread_mutex_t open_mutex;
    _Atomic uint32_t open_count;
    uint32_t clock_hand;
    struct bkv_retired *retired;

    /* compaction */
    pthread_mutex_t compact_mutex; /* one run at a time; taken before all others */
    pthread_mutex_t layout_mutex;
    pthread_t compactor;
    bool compactor_started;        /* worker's */
    _Atomic uint32_t compact_wake; /* futex word */
    _Atomic uint32_t hands;        /* calls that wait for their turn: nobody rests */
    _Atomic uint32_t seal_failures;
    _Atomic uint64_t reserve_bytes; /* kept for compaction; 0: none */
    _Atomic bool lending;           /* a deletion takes what the reserve has lent it */
    _Atomic bool reserve_owed;      /* used up: freed space is its first */
    _Atomic bool out_of_space;      /* a write found none: any garbage is worth a run */
    _Atomic bool reclaim_asked;     /* segments have been taken out, or a hold has ended */
    struct bkv_unmoved *unmoved;    /* under layout_mutex: a run that memory was lacking for */
    _Atomic uint64_t compactions, compact_read, compact_written, expired;

    struct bkv_followed followed; /* read-only; under the store's refresh_mutex */
    _Atomic bool log_went_on;     /* since a read-only opening, which judged its end too early */

    /* the worker */
    pthread_t thread;
    bool thread_started;
    _Atomic uint32_t wake; /* futex word: 1 when there is work */
    _Atomic bool stopping;
    bool stop_clean;
    uint64_t sync_due_ns;     /* worker's; 0: nothing waits */
    uint64_t reclaim_due_ns;  /* worker's: when to look at `removed` again; 0: not */
    uint64_t first_look_ns;   /* worker: the compactor looks at what the opening found; 0: it has */
    uint64_t serve_due_ns;    /* worker's: when patience with a waiter ends; 0: nobody has any */
    uint64_t checkpoint_tail; /* worker's: `appended` at the last checkpoint */
    _Atomic bool checkpoint_valid; /* there is one on disk that fits */
    _Atomic uint64_t checkpoint_bytes;
    _Atomic uint64_t checkpoints;
    int stop_result;

    /* opening */
    pthread_mutex_t open_wait_mutex;
    pthread_cond_t open_wait;
    enum bkv_opening stage;         /* that was reached */
    enum bkv_opening leave;         /* that may be left */
    struct bkv_recover *recovering; /* until the first may be left */
    int open_result;
    char open_context[BKV_ERROR_CONTEXT_SIZE];
    bitkv_recovery recovery;

    struct bkv_stripe stripes[BKV_STRIPES];
};

static inline struct bkv_segment *bkv_table_get(const struct bkv_table *table, uint32_t number)
{
    BKV_DEBUG_ASSERT(number < BKV_SEGMENTS_MAX);
    struct bkv_segment *_Atomic *chunk =
        atomic_load_explicit(&table->chunks[number / BKV_TABLE_FANOUT], memory_order_acquire);
    return atomic_load_explicit(&chunk[number % BKV_TABLE_FANOUT], memory_order_acquire);
}

/* For any number, also one that is not in use: NULL. */
static inline struct bkv_segment *bkv_segment_at(const struct bkv_table *table, uint32_t number)
{
    if (atomic_load_explicit(&table->chunks[number / BKV_TABLE_FANOUT], memory_order_acquire) ==
        NULL)
        return NULL;
    return bkv_table_get(table, number);
}

/* --- hints ------------------------------------------------------------------ */

/* What a hint of this partition has to say of segment `id`, if that has `size` bytes. */
static inline struct bkv_hint_info bkv_hint_info_for(const struct bkv_partition *p, uint64_t id,
                                                     uint64_t size)
{
    struct bkv_hint_info info = {.partition = p->index, .segment_id = id, .data_size = size};
    memcpy(info.database_id, p->store->manifest.database_id, sizeof info.database_id);
    return info;
}

static inline struct bkv_hint_info bkv_hint_info_of(const struct bkv_partition *p,
                                                    const struct bkv_segment *segment)
{
    return bkv_hint_info_for(p, segment->id, atomic_load(&segment->size));
}

/* --- accounting: under `lock`, or before anybody else is there ------------- */

/* One writer at a time: no locked instruction needed. Readers only count with it,
 * and order nothing by it. */
static inline void bkv_add_relaxed(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* A location comes into the KeyDir, or leaves it (I4). */
static inline void bkv_account(const struct bkv_partition *p, uint64_t location, bool live)
{
    struct bkv_segment *segment = bkv_table_get(&p->table, bkv_location_segment(location));
    uint64_t size = bkv_location_size(location);
    bkv_add_relaxed(&segment->live_bytes, live ? size : 0 - size);
}

/* A write has made it leave: a reason for the compactor to look, in time. `location`
 * may be 0: nothing died. */
static inline void bkv_account_dead(struct bkv_partition *p, uint64_t location)
{
    if (location == 0)
        return;
    bkv_account(p, location, false);
    p->died += bkv_location_size(location);
}

/* --- segments.c: the table and the cache of open segments ----------------- */

/* A segment in memory, not yet in the table. */
struct bkv_segment *bkv_segment_new(struct bkv_partition *p, uint64_t id);
/* Gives it a number and appends it to the log's order. Under `lock` (or before
 * anybody else is there). BITKV_ERR_LIMIT, BITKV_ERR_NO_MEMORY: then no number
 * is used up. */
int bkv_segment_install(struct bkv_partition *p, struct bkv_segment *segment);
/* The same with the number that the segment has already: for recovery. */
int bkv_segment_install_at(struct bkv_partition *p, struct bkv_segment *segment);
/* The first half of both: a number, and a place in the table. */
int bkv_segment_number(struct bkv_partition *p, struct bkv_segment *segment);
int bkv_segment_number_at(struct bkv_partition *p, struct bkv_segment *segment);
/* The number may be given to another segment. Under `lock`. */
void bkv_segment_number_free(struct bkv_partition *p, uint32_t number);
/* For good: it leaves the table. False without memory: try later. */
bool bkv_segment_close_file(struct bkv_partition *p, struct bkv_segment *segment);
bool bkv_segment_close(struct bkv_partition *p, struct bkv_segment *segment);
/* Unmaps what was closed and nobody can be using any more: a file that is unlinked
 * takes space until then. Who has the rest? */
enum bkv_retirement {
    BKV_RETIRED_NONE,
    BKV_RETIRED_HELD, /* views and reads under way: for as long as their users like */
    BKV_RETIRED_READ, /* calls: try again soon */
};
enum bkv_retirement bkv_segments_reclaim(struct bkv_partition *p);
/* Takes the last one, which follows `before`, out again and frees it. */
void bkv_segment_uninstall_last(struct bkv_partition *p, struct bkv_segment *before);
/* A reference to the open file, opening it and closing others if need be. Not
 * in an epoch section. If the file is gone, a follower has refreshed: look where
 * the record lies now. */
int bkv_segment_pin(struct bkv_partition *p, struct bkv_segment *segment,
                    struct bkv_mapping **mapping);
/* The file has become longer: the segment's size, before a location points there.
 * A mapping that is too short is closed. BITKV_ERR_NO_MEMORY. */
int bkv_segment_grow(struct bkv_partition *p, struct bkv_segment *segment, uint64_t size);
/* A descriptor to read the open segment by, other than through its mapping; -1
 * if none can be had. It lives as long as the mapping and the database. */
int bkv_segment_reader(struct bkv_partition *p, const struct bkv_segment *segment,
                       struct bkv_mapping *mapping);
/* Opens it and keeps it so: nobody keeps its file from a follower's writer, who may
 * unlink it. BITKV_NOT_FOUND: he has. Not in an epoch section. */
int bkv_segment_keep_open(struct bkv_partition *p, struct bkv_segment *segment);
void bkv_segment_let_close(struct bkv_partition *p, struct bkv_segment *segment);
/* Makes a fresh mapping, with a descriptor that can write, the segment's own
 * (consumes the reference). */
void bkv_segment_set_open(struct bkv_partition *p, struct bkv_segment *segment,
                          struct bkv_mapping *mapping);
/* A sealed segment is read here and there: a page fault should read the page,
 * not the 2 MiB around it. */
void bkv_advise_random(const struct bkv_mapping *mapping);
/* Closes least recently used segments above the limit, and what was retired. */
void bkv_segments_trim(struct bkv_partition *p);
/* For who met too few descriptors: closes what may be closed, and waits a little for
 * its readers. The caller is in no section. */
void bkv_segments_spare_descriptors(struct bkv_partition *p);
void bkv_segments_free(struct bkv_partition *p);
/* As if there had never been any; after the above. */
void bkv_segments_forget(struct bkv_partition *p);

/* --- tail.c: the segment that is written ------------------------------------ */

struct bkv_spare {
    struct bkv_segment *segment;
    struct bkv_mapping *mapping;
    uint64_t reserved;
};

/* Room for a record of `size` bytes at the tail, in this segment or a new one.
 * Under `lock`. */
int bkv_tail_ensure(struct bkv_partition *p, uint64_t size);
/* The same for a tombstone, which on a full disk may take from the reserve. */
int bkv_tail_ensure_delete(struct bkv_partition *p, uint64_t size);
/* Goes on in a segment that recovery left behind. */
int bkv_tail_resume(struct bkv_partition *p, struct bkv_segment *segment);
/* The active segment becomes SEALED; there is no tail afterwards. Under `lock`. */
void bkv_tail_seal(struct bkv_partition *p);
/* A record that needs a segment of its own. */
struct bkv_jumbo {
    const uint8_t *head; /* header, and deadline if it has one */
    uint64_t head_size;
    uint32_t crc; /* over everything but sequence and place */
    const void *key, *value;
    size_t key_size, value_size;
    uint64_t size; /* of the whole, padding included */
};
/* Under `lock`. */
int bkv_tail_write_jumbo(struct bkv_partition *p, const struct bkv_jumbo *record,
                         uint64_t *location);
/* The worker's part: reserve and fault in what comes next. */
void bkv_tail_ahead(struct bkv_partition *p);
/* The worker's part: have the next segment ready. */
void bkv_spare_prepare(struct bkv_partition *p);
void bkv_spare_discard(struct bkv_partition *p);

/* --- sync.c: group commit ------------------------------------------------------ */

/* Returns when everything appended up to log position `upto` is durable. */
int bkv_sync_upto(struct bkv_partition *p, uint64_t upto);
/* The same for everything that is in the log now, marks included. */
int bkv_sync_all(struct bkv_partition *p);
/* Runs rounds as long as somebody waits for one without a thread of his own. */
void bkv_sync_serve(struct bkv_partition *p);
/* Completes those that still wait, with `rc`. */
void bkv_sync_abandon(struct bkv_partition *p, int rc);
/* Of a full segment and what lies before it. */
int bkv_sync_full(struct bkv_partition *p, struct bkv_segment *segment);
/* Under the locks of all `peers`, of which this is one: a batch of theirs lies
 * before `position`. */
void bkv_sync_bind(struct bkv_partition *p, const struct bkv_peers *peers, uint64_t position);
/* What a sync elsewhere has failed to make durable, or to take back, is not known:
 * the partition is as after a failed sync of its log. Returns the code for it. */
int bkv_sync_failed(struct bkv_partition *p);
/* The partition's own directory, by the descriptor that it keeps: a lack of descriptors
 * must not look like a failed sync. */
int bkv_directory_sync(struct bkv_partition *p);
/* Under `lock`: there is data in `segment` that is not synced. */
void bkv_unsynced_add(struct bkv_partition *p, struct bkv_segment *segment);

/* --- write.c --------------------------------------------------------------------- */

/* Moves deferred keys to the KeyDir's table: required of whatever looks at the
 * KeyDir as a whole, or removes a key. Under `lock`. BITKV_ERR_NO_MEMORY. */
int bkv_settle(struct bkv_partition *p);
/* What a write wants to be so still, under the lock, as it was when its caller
 * looked (bkv_partition_look()) in the epoch section that it is in: a location
 * means the same record only as long as that is not left. */
struct bkv_expected {
    bool lasting_will_do; /* nothing, or any record of a segment without deadlines, will do */
    bool present;         /* it had not expired: nor has it now */
    uint64_t location;    /* of the key's slot; 0: it has none */
    uint64_t deadline;    /* of that record */
    unsigned waits;       /* for descriptors, so far; begin with 0 */
};
/* A write's result: nothing was done, something else is there, or the section
 * was left meanwhile. Look again. */
#define BKV_CHANGED 4

/* What is to be written. */
struct bkv_write {
    const void *key, *value; /* value: NULL for a delete */
    size_t key_size, value_size;
    uint64_t deadline; /* UINT64_MAX: none */
    bool deletes;
    bitkv_durability durability;
    uint64_t *unsynced; /* as bkv_partition_put() */
    uint64_t sequence;  /* out: of the new record */
};
/* As bkv_partition_put() and bkv_partition_del(), if `expected` holds; with NULL,
 * whatever is there. */
int bkv_write(struct bkv_partition *p, const struct bkv_hash *hash, struct bkv_write *write,
              struct bkv_expected *expected);

/* For batch.c: steps of every write, under `lock` but for the last three. */
int bkv_write_check(struct bkv_partition *p);
bool bkv_tail_by_mapping(struct bkv_partition *p, uint64_t size, bitkv_durability durability);
bool bkv_note_append(struct bkv_partition *p, uint64_t size, bitkv_durability durability);
int bkv_keydir_full(const struct bkv_partition *p, int rc);
bitkv_durability bkv_effective_durability(const struct bkv_partition *p,
                                          bitkv_durability durability);
bool bkv_descriptor_may_come(struct bkv_partition *p, int rc, unsigned *attempts);
int bkv_count_write_error(struct bkv_partition *p, int rc);
/* Appends the mark that says how far the log is durable. Takes `lock`. */
void bkv_append_mark(struct bkv_partition *p, uint64_t segment_id, uint64_t offset);

/* --- condition.c ----------------------------------------------------------------- */

/* A delete that has to look at what it deletes: that may have expired. */
int bkv_del_looking(struct bkv_partition *p, const struct bkv_hash *hash, struct bkv_write *write);

/* --- seal.c, checkpoint.c: the worker's longer jobs ----------------------------------- */

/* Syncs, trims and hints the oldest SEALED segment, if there is one. */
int bkv_seal_next(struct bkv_partition *p, bool *did);
int bkv_checkpoint_write(struct bkv_partition *p);

/* --- compactor.c: see compact.h ----------------------------------------------------- */

/* Worker's: there may be something to compact. */
void bkv_compactor_wake(struct bkv_partition *p);
void bkv_compactor_stop(struct bkv_partition *p);
/* install.c, under layout_mutex: the end of a run that memory was lacking for, if
 * there is one. What needs the list of segments and the KeyDir's locations to fit
 * each other has it made first. BITKV_ERR_NO_MEMORY. */
int bkv_install_go_on(struct bkv_partition *p);
/* When nobody else is there: forgets it. Its output, which no list has; or NULL. */
struct bkv_segment *bkv_install_give_up(struct bkv_partition *p);
/* Unlinks, unmaps and frees the segments that were replaced and that nobody can be
 * using any more. Who has others that no hold keeps? */
enum bkv_retirement bkv_removed_reclaim(struct bkv_partition *p);

/* --- worker.c ---------------------------------------------------------------------------- */

void *bkv_worker_main(void *partition);
void bkv_worker_wake(struct bkv_partition *p);
/* To be called now and then in longer jobs of the worker: does what the writers
 * wait for. */
void bkv_worker_urgent(struct bkv_partition *p);
/* Between two slices of a job that nobody waits for: the same, and a rest, but
 * not when the database is being closed or the worker has fallen behind. */
void bkv_worker_yield(struct bkv_partition *p, uint64_t *slice_begun_ns);

/* What a thread of the library's own keeps out: the host's signals are not for it.
 * SIGBUS is: the guard needs it. */
void bkv_thread_signals(sigset_t *blocked);

/* --- own.c --------------------------------------------------------------------------------------
 */

/* Before the file of a segment is changed: if backups share it, a copy of its
 * first `size` bytes takes its place. */
int bkv_segment_own(struct bkv_partition *p, uint64_t id, uint64_t size);

/* A copy, which was synced, takes the place of a segment's file. */
int bkv_segment_renew(struct bkv_partition *p, uint64_t id);

/* --- doubt.c ------------------------------------------------------------------------------------
 */

/* A sync has failed: the next opening is told. */
void bkv_doubt_raise(struct bkv_partition *p);

/* --- recovery.c ---------------------------------------------------------------------------- */

/* Reads the log, changes no file; *r is for the second step, and NULL on failure. */
int bkv_recover_begin(struct bkv_partition *p, struct bkv_recover **r);
/* Once it is decided for all partitions: with `go_on` applies, repairs and makes
 * ready to write. Frees `r`. */
int bkv_recover_end(struct bkv_partition *p, struct bkv_recover *r, bool go_on);

#endif
