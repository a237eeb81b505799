/* SPDX-License-Identifier: MIT */
/*
 * A completion queue from inside: what its files share.
 *
 *   cq.c          life, reaping, waiting, the descriptor
 *   cq_submit.c   operations in: what can be done at once is done
 *   cq_pending.c  operations that wait: cold reads, syncs; cancellation
 *
 * Who may touch what: everything is the queue's thread's, but
 *
 *   inbox, producers, event_fd, user_fd, sleeping    any thread that completes
 *                                                    a pending operation
 *   db                                               bitkv_close() clears it
 *   next, before                                     under the mutex of cq.c
 *
 * Invariants:
 *   Q1  An accepted operation is in exactly one place: `ready`, or `pending`.
 *       Nobody else completes it twice, since only the owner moves it.
 *   Q2  outstanding = ready + pending <= capacity: `ready` has room for all.
 *   Q3  `db` is used in an epoch section in which it was seen not NULL and not
 *       closing; so are the descriptors of its files.
 *   Q4  A pending operation that another thread works on (pool, sync) comes
 *       back through the inbox, canceled or not.
 */
#ifndef BKV_DB_CQ_H
#define BKV_DB_CQ_H

#include "db/db.h"
#include "io/pool.h"

struct bkv_ring;

/* The text of a failure. */
struct bkv_text {
    struct bkv_text *next;
    char text[];
};

struct bkv_ready {
    bitkv_completion completion;
    bitkv_completion_cb callback;
    struct bkv_text *error; /* NULL: none, or no memory for it */
    bool allocated;         /* completion.value is */
};

struct bkv_pending;

struct bkv_waiter {
    struct bkv_sync_waiter base;
    struct bkv_pending *pending;
    struct bkv_partition *partition;
};

struct bkv_pending {
    bitkv_cq *cq;
    struct bkv_pending *next, *before; /* in cq->pending */
    struct bkv_pending *link;          /* in the backlog, the inbox, or the free list */
    enum bkv_pending_state {
        BKV_PENDING_RING,    /* the kernel has it */
        BKV_PENDING_BACKLOG, /* waits for room in the ring */
        BKV_PENDING_POOL,    /* the pool has it */
        BKV_PENDING_SYNC,    /* partitions have its waiters */
    } state;
    bool canceled;

    /* the operation */
    bitkv_op op;
    uint64_t id;
    void *key_copy; /* or NULL */

    /* what other threads found */
    _Atomic int status;
    struct bkv_text *error;

    /* a cold read */
    struct bkv_task task;
    struct bkv_cold cold;
    struct bkv_hash hash;
    uint8_t *bytes;
    uint64_t got;
    unsigned attempts;

    /* a sync */
    _Atomic uint32_t left; /* waiters that have not been called */
    uint32_t waiter_count;
    struct bkv_waiter *waiters; /* `one`, or an array */
    struct bkv_waiter one;
};

struct bitkv_cq {
    int owner; /* thread id */
    uint32_t fork_generation;
    struct bitkv *_Atomic db; /* NULL once it is closed */
    char *path;               /* of the database, for messages */
    uint32_t capacity;
    bool reaping;    /* a callback runs */
    bool destroying; /* callbacks may not submit any more */
    uint64_t next_id;
    size_t outstanding;
    long major_faults; /* of the owner, when a slow group was last looked at */

    struct bkv_ready *ready; /* a ring of `capacity` */
    uint32_t ready_first, ready_count;
    struct bkv_text *handed_out; /* texts of what was reaped last */

    struct bkv_pending *pending; /* all that wait */
    struct bkv_pending *backlog_first, *backlog_last;
    struct bkv_pending *free;
    struct bkv_pending *patient; /* the only one, a write that we may sync ourselves */

    struct bkv_ring *ring; /* NULL: threads */
    bool watching;         /* the ring watches event_fd */
    bitkv_backend backend;
    const char *backend_reason;
    char reason_text[96];

    struct bkv_pending *_Atomic inbox;
    _Atomic uint32_t producers; /* that are just putting something into it */
    _Atomic bool sleeping;
    int event_fd;        /* wakes the sleeping owner */
    _Atomic int user_fd; /* bitkv_cq_fd(); -1: never asked for */

    struct bitkv_cq *next, *before; /* queues of the database */
};

/* --- cq.c ------------------------------------------------------------------------ */

/* Enters a section in which the queue's database stays open; `db` NULL and
 * BITKV_ERR_CLOSED if it is not. */
int bkv_cq_enter(bitkv_cq *cq, struct bitkv **db, struct bkv_epoch_slot **slot);
/* The calling thread owns the queue, and is no forked child? */
int bkv_cq_check(const bitkv_cq *cq);
/* A place in `ready`, zeroed but for id, kind and user_data (Q2: there is one). */
struct bkv_ready *bkv_cq_complete(bitkv_cq *cq, const bitkv_op *op, uint64_t id);
/* Takes the last one back: it is pending instead. */
void bkv_cq_uncomplete(bitkv_cq *cq);
/* Sets the status; a failure takes the thread's error context along. */
void bkv_cq_set_status(struct bkv_ready *ready, int status);
/* The same with a text that was kept; NULL: there was no memory for it. */
void bkv_cq_set_status_text(struct bkv_ready *ready, int status, struct bkv_text *text);
/* The thread's error context; NULL if there is no memory. */
struct bkv_text *bkv_text_of_error(void);
/* Tells whoever polls the descriptor. */
void bkv_cq_signal_user(bitkv_cq *cq);
/* Around fork(), after it in parent and child: as bkv_mapping_before_fork(). */
void bkv_cq_before_fork(void);
void bkv_cq_after_fork(void);
/* bitkv_close(): no call and no worker runs any more. */
void bkv_cq_detach_all(struct bitkv *db);

/* --- cq_pending.c ------------------------------------------------------------------ */

/* The sink of a get, into the completion. */
struct bkv_sink bkv_cq_sink(const bitkv_op *op, struct bkv_ready *ready);
/* What a get has come to. */
void bkv_cq_fill(struct bkv_ready *ready, const bitkv_op *op, const struct bkv_sink *sink, int rc);

/* A get that would block goes on without the thread. In the section of the
 * locate. */
void bkv_pending_cold(bitkv_cq *cq, struct bitkv *db, const bitkv_op *op, uint64_t id,
                      const struct bkv_hash *hash, const struct bkv_located *found);
/* A write that waits until `partition` is synced up to `position`. */
void bkv_pending_write(bitkv_cq *cq, const bitkv_op *op, uint64_t id,
                       struct bkv_partition *partition, uint64_t position);
/* A sync of all partitions. */
void bkv_pending_sync(bitkv_cq *cq, struct bitkv *db, const bitkv_op *op, uint64_t id);

/* The owner will not run the sync of the patient one. */
void bkv_pending_urge(bitkv_cq *cq);
/* Moves what has completed to `ready`. */
void bkv_pending_collect(bitkv_cq *cq);
/* Hands what was queued to the kernel. */
void bkv_pending_flush(bitkv_cq *cq);
/* Sleeps until something may have completed; negative: no limit. */
void bkv_pending_sleep(bitkv_cq *cq, int64_t timeout_ns);
/* Cancels one, or all with BITKV_CQ_ALL; BITKV_NOT_FOUND if none was pending. */
int bkv_pending_cancel(bitkv_cq *cq, uint64_t id);
/* The owner has ended, and with it its ring's requests. */
void bkv_pending_orphan(bitkv_cq *cq);

#endif
