/* SPDX-License-Identifier: MIT */
/*
 * Operations that wait.
 *
 *   cold read   ring: the kernel reads into the operation's memory, the owner
 *               reaps, verifies and delivers. More than the ring holds wait in
 *               a backlog. pool: a thread reads, the owner does the rest.
 *   durable     the partition's worker runs a sync, shared by all who wait
 *   write       (sync.c), and calls the operation's waiter
 *
 * Who completes an operation in another thread pushes it on the inbox, a stack
 * that takes any number of producers (Treiber, 1986) and is emptied in one
 * exchange, and wakes the owner if he sleeps: he says so, then looks at the
 * inbox; they push, then look whether he said so; sequential consistency on
 * both sides, so one of them sees the other.
 *
 * Failure modes: a short read goes on behind what came; EINTR and EAGAIN are
 * tried again, a few times, then a thread does it; any other error completes
 * the operation with it. No memory for a pending operation: it completes with
 * BITKV_ERR_NO_MEMORY, but a durable write, which is in the log already, is
 * synced by its own thread.
 */
#include "db/cq.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "db/backend.h"
#include "db/call.h"
#include "io/io.h"
#include "io/ring.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

/* Of a read that the kernel interrupts or puts off, before a thread takes it. */
#define RING_ATTEMPTS_MAX 8u

/* Results of the ring that are taken while others wait to be reaped: those of
 * gets from memory should not wait for a burst of reads to be verified. */
#define RESULTS_BESIDE 4u

/* What a sync may take; who cannot wait that long leaves it to the worker. */
#define SYNC_TIME_NS 20000000

#define CONTAINER(pointer, type, member)                                                           \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* --- the inbox: any thread ---------------------------------------------------------- */

static void wake(bitkv_cq *cq)
{
    if (atomic_load_explicit(&cq->sleeping, memory_order_seq_cst))
        (void)!eventfd_write(cq->event_fd, 1);
    bkv_cq_signal_user(cq);
}

/* The operation, and the queue when the producers are through, may be gone
 * when this returns. */
static void push(struct bkv_pending *pending)
{
    bitkv_cq *cq = pending->cq;
    atomic_fetch_add_explicit(&cq->producers, 1, memory_order_relaxed);
    struct bkv_pending *first = atomic_load_explicit(&cq->inbox, memory_order_relaxed);
    do
        pending->link = first;
    while (!atomic_compare_exchange_weak_explicit(&cq->inbox, &first, pending, memory_order_seq_cst,
                                                  memory_order_relaxed));
    wake(cq);
    atomic_fetch_sub_explicit(&cq->producers, 1, memory_order_release);
}

/* The first failure counts; its text is the calling thread's. */
static void note_status(struct bkv_pending *pending, int rc)
{
    int none = BITKV_OK;
    if (rc != BITKV_OK && atomic_compare_exchange_strong(&pending->status, &none, rc) && rc < 0)
        pending->error = bkv_text_of_error();
}

/* --- the list of what is pending ------------------------------------------------------- */

static struct bkv_pending *begin_pending(bitkv_cq *cq, const bitkv_op *op, uint64_t id)
{
    struct bkv_pending *pending = cq->free;
    if (pending != NULL)
        cq->free = pending->link;
    else
        pending = bkv_malloc(sizeof *pending);
    if (pending == NULL)
        return NULL;
    *pending = (struct bkv_pending){.cq = cq, .op = *op, .id = id, .next = cq->pending};
    if (cq->pending != NULL)
        cq->pending->before = pending;
    cq->pending = pending;
    return pending;
}

static void end_pending(struct bkv_pending *pending)
{
    bitkv_cq *cq = pending->cq;
    if (cq->patient == pending)
        cq->patient = NULL;
    if (pending->before != NULL)
        pending->before->next = pending->next;
    else
        cq->pending = pending->next;
    if (pending->next != NULL)
        pending->next->before = pending->before;
    bkv_cold_end(&pending->cold);
    bkv_mfree(pending->bytes);
    bkv_mfree(pending->key_copy);
    if (pending->waiters != &pending->one)
        bkv_mfree(pending->waiters);
    pending->link = cq->free;
    cq->free = pending;
}

/* To `ready`, with a status and its text. */
static void complete_with(struct bkv_pending *pending, int rc, struct bkv_text *text)
{
    bkv_cq_set_status_text(bkv_cq_complete(pending->cq, &pending->op, pending->id), rc, text);
    end_pending(pending);
}

/* With the failure that the calling thread has just met. */
static void complete_failed(struct bkv_pending *pending, int rc)
{
    complete_with(pending, rc, bkv_text_of_error());
}

static int closed_before(void)
{
    return bkv_error(BITKV_ERR_CLOSED, "the database was closed before the read began");
}

static void complete_canceled(struct bkv_pending *pending)
{
    bkv_mfree(pending->error);
    complete_failed(pending, bkv_error(BITKV_ERR_CANCELED, "canceled by bitkv_cq_cancel"));
}

/* --- delivering a get ---------------------------------------------------------------------- */

struct bkv_sink bkv_cq_sink(const bitkv_op *op, struct bkv_ready *ready)
{
    struct bkv_sink sink = {.buffer = op->buffer, .capacity = op->buffer_size};
    if (op->kind == BITKV_OP_EXISTS) {
        sink.kind = BKV_SINK_NONE;
    } else if ((op->flags & BITKV_OP_VIEW) != 0) {
        sink.kind = BKV_SINK_VIEW;
        sink.view = &ready->completion.view;
    } else {
        sink.kind = op->buffer != NULL ? BKV_SINK_BUFFER : BKV_SINK_ALLOCATE;
    }
    return sink;
}

void bkv_cq_fill(struct bkv_ready *ready, const bitkv_op *op, const struct bkv_sink *sink, int rc)
{
    bkv_cq_set_status(ready, rc);
    if (op->kind == BITKV_OP_EXISTS)
        return;
    ready->completion.value_size = sink->size;
    if (rc == BITKV_OK && sink->kind != BKV_SINK_VIEW) {
        ready->completion.value = sink->buffer;
        ready->allocated = sink->kind == BKV_SINK_ALLOCATE;
    }
}

/* A follower's file was gone: once more, in this thread. */
static int get_anew(struct bkv_pending *pending, struct bitkv *db, struct bkv_epoch_slot *slot,
                    struct bkv_sink *sink)
{
    return bkv_partition_get(bkv_route(db, &pending->hash), slot, &pending->hash, pending->op.key,
                             pending->op.key_size, sink);
}

/* A get that could not be read counts as one, as a synchronous one does. */
static void fail_read(struct bkv_pending *pending, int rc, struct bkv_text *text)
{
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    if (bkv_cq_enter(pending->cq, &db, &slot) == BITKV_OK) {
        bkv_partition_count_get(bkv_route(db, &pending->hash), slot, rc);
        bkv_epoch_exit(slot);
    }
    complete_with(pending, rc, text);
}

/* BKV_OTHER_KEY as the status: it could not even be read. */
static void deliver(struct bkv_pending *pending, int rc)
{
    bitkv_cq *cq = pending->cq;
    struct bkv_ready *ready = bkv_cq_complete(cq, &pending->op, pending->id);
    struct bkv_sink sink = bkv_cq_sink(&pending->op, ready);
    if (rc == BITKV_OK)
        rc = bkv_cold_deliver(&pending->cold, cq->path, pending->bytes, pending->op.key,
                              pending->op.key_size, &sink);
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    if (bkv_cq_enter(cq, &db, &slot) == BITKV_OK) {
        if (rc == BKV_OTHER_KEY)
            rc = get_anew(pending, db, slot, &sink);
        else
            bkv_partition_count_get(bkv_route(db, &pending->hash), slot, rc);
        bkv_epoch_exit(slot);
    } else if (rc == BKV_OTHER_KEY || rc == BITKV_ERR_CORRUPT) {
        /* If the kernel had put the read off until the descriptor was closed,
         * that is no damage. */
        rc = bkv_error(BITKV_ERR_CLOSED, "the database was closed during the read");
    }
    bkv_cq_fill(ready, &pending->op, &sink, rc);
    end_pending(pending);
}

/* --- cold reads: by a thread of the pool --------------------------------------------------- */

/* Calls of the database's end before it closes, so this one is a call. */
static int read_here(struct bkv_pending *pending)
{
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    int rc = bkv_cq_enter(pending->cq, &db, &slot);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_cold_read(&pending->cold, slot, pending->bytes);
    bkv_epoch_exit(slot);
    return rc;
}

static void run_task(struct bkv_task *task, bool canceled)
{
    struct bkv_pending *pending = CONTAINER(task, struct bkv_pending, task);
    note_status(pending, canceled ? closed_before() : read_here(pending));
    push(pending);
}

static void give_to_pool(struct bkv_pending *pending, struct bitkv *db)
{
    struct bkv_pool *pool;
    int rc = bkv_backend_pool(db, &pool);
    pending->state = BKV_PENDING_POOL;
    pending->task.run = run_task;
    if (rc == BITKV_OK)
        rc = bkv_pool_submit(pool, &pending->task);
    if (rc != BITKV_OK)
        complete_failed(pending, rc);
}

/* --- cold reads: by the ring ---------------------------------------------------------------- */

/* In a section of the open database, whose descriptor this is (Q3). */
static void give_to_ring(struct bkv_pending *pending)
{
    bitkv_cq *cq = pending->cq;
    if (!bkv_ring_has_room(cq->ring)) {
        pending->state = BKV_PENDING_BACKLOG;
        pending->link = NULL;
        if (cq->backlog_last != NULL)
            cq->backlog_last->link = pending;
        else
            cq->backlog_first = pending;
        cq->backlog_last = pending;
        return;
    }
    pending->state = BKV_PENDING_RING;
    bkv_ring_read(cq->ring, pending->cold.fd, pending->bytes + pending->got,
                  (uint32_t)(pending->cold.size - pending->got),
                  pending->cold.offset + pending->got, pending);
}

static void give_to_backend(struct bkv_pending *pending, struct bitkv *db)
{
    if (pending->cq->ring != NULL && pending->cold.fd >= 0 && pending->attempts < RING_ATTEMPTS_MAX)
        give_to_ring(pending);
    else
        give_to_pool(pending, db);
}

static struct bkv_pending *take_backlog(bitkv_cq *cq)
{
    struct bkv_pending *pending = cq->backlog_first;
    if (pending != NULL) {
        cq->backlog_first = pending->link;
        if (cq->backlog_first == NULL)
            cq->backlog_last = NULL;
    }
    return pending;
}

/* The rest of a read, or one that has waited for room. */
static void go_on(struct bkv_pending *pending)
{
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    int rc = bkv_cq_enter(pending->cq, &db, &slot);
    if (rc != BITKV_OK) {
        complete_failed(pending, rc);
        return;
    }
    give_to_backend(pending, db);
    bkv_epoch_exit(slot);
}

static bool is_open(bitkv_cq *cq)
{
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    if (bkv_cq_enter(cq, &db, &slot) != BITKV_OK)
        return false;
    bkv_epoch_exit(slot);
    return true;
}

static int read_error(const struct bkv_pending *pending, int error)
{
    return bkv_error_sys(error, "cannot read segment %llu of partition %u in %s at offset %llu",
                         (unsigned long long)pending->cold.segment_id,
                         pending->cold.partition_index, pending->cq->path,
                         (unsigned long long)pending->cold.offset);
}

static void on_ring_result(struct bkv_pending *pending, int result)
{
    uint64_t left = pending->cold.size - pending->got;
    if (pending->canceled) {
        complete_canceled(pending);
        return;
    }
    ssize_t got = bkv_io->ring_read(pending->bytes + pending->got, left,
                                    (off_t)(pending->cold.offset + pending->got), result);
    if (got == -EINTR || got == -EAGAIN || got == -ECANCELED) {
        pending->attempts++;
        go_on(pending);
    } else if (got == -EBADF && !is_open(pending->cq)) { /* bkv_ring_void() */
        complete_failed(pending, closed_before());
    } else if (got < 0) {
        int rc = read_error(pending, (int)-got);
        fail_read(pending, rc, bkv_text_of_error());
    } else if (got > 0 && (uint64_t)got < left) {
        pending->got += (uint64_t)got;
        go_on(pending);
    } else {
        if (got == 0) /* the file ends here: what is missing does not verify */
            memset(pending->bytes + pending->got, 0, left);
        deliver(pending, BITKV_OK);
    }
}

static void collect_ring(bitkv_cq *cq)
{
    void *user;
    int result;
    eventfd_t count;
    unsigned most = cq->ready_count > 0 ? RESULTS_BESIDE : UINT_MAX;
    for (unsigned n = 0; n < most && bkv_ring_next(cq->ring, &user, &result); n++) {
        if (user == cq) { /* the watch */
            cq->watching = false;
            (void)!eventfd_read(cq->event_fd, &count);
        } else {
            on_ring_result(user, result);
        }
    }
    while (cq->backlog_first != NULL && bkv_ring_has_room(cq->ring))
        go_on(take_backlog(cq));
}

/* --- beginning ---------------------------------------------------------------------------- */

static int copy_key(struct bkv_pending *pending)
{
    if ((pending->op.flags & BITKV_OP_COPY) == 0)
        return BITKV_OK;
    pending->key_copy = bkv_malloc(pending->op.key_size);
    if (pending->key_copy == NULL)
        return BITKV_ERR_NO_MEMORY;
    memcpy(pending->key_copy, pending->op.key, pending->op.key_size);
    pending->op.key = pending->key_copy;
    return BITKV_OK;
}

static void complete_without_memory(bitkv_cq *cq, const bitkv_op *op, uint64_t id)
{
    int rc = bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a pending operation");
    bkv_cq_set_status(bkv_cq_complete(cq, op, id), rc);
}

void bkv_pending_cold(bitkv_cq *cq, struct bitkv *db, const bitkv_op *op, uint64_t id,
                      const struct bkv_hash *hash, const struct bkv_located *found)
{
    struct bkv_pending *pending = begin_pending(cq, op, id);
    if (pending == NULL) {
        complete_without_memory(cq, op, id);
        return;
    }
    pending->hash = *hash;
    bkv_cold_begin(&pending->cold, found);
    BKV_SCHEDULE_POINT("cold.begun");
    pending->bytes = bkv_malloc(found->size);
    if (pending->bytes == NULL || copy_key(pending) != BITKV_OK) {
        end_pending(pending);
        complete_without_memory(cq, op, id);
        return;
    }
    give_to_backend(pending, db);
}

static void on_synced(struct bkv_sync_waiter *base, int rc)
{
    struct bkv_pending *pending = CONTAINER(base, struct bkv_waiter, base)->pending;
    note_status(pending, rc);
    if (atomic_fetch_sub_explicit(&pending->left, 1, memory_order_acq_rel) == 1)
        push(pending);
}

static void wait_for(struct bkv_pending *pending, struct bkv_waiter *waiter,
                     struct bkv_partition *partition, uint64_t position)
{
    *waiter = (struct bkv_waiter){
        .base = {.position = position,
                 .done = on_synced,
                 .patient = pending->cq->patient == pending},
        .pending = pending,
        .partition = partition,
    };
    bkv_partition_sync_later(partition, &waiter->base);
}

void bkv_pending_write(bitkv_cq *cq, const bitkv_op *op, uint64_t id,
                       struct bkv_partition *partition, uint64_t position)
{
    struct bkv_pending *pending = begin_pending(cq, op, id);
    if (pending == NULL) {
        int rc = bkv_partition_sync(partition);
        bkv_cq_set_status(bkv_cq_complete(cq, op, id), rc);
        return;
    }
    pending->state = BKV_PENDING_SYNC;
    pending->waiters = &pending->one;
    pending->waiter_count = 1;
    atomic_store_explicit(&pending->left, 1, memory_order_relaxed);
    /* Whoever has a descriptor may not come before it tells him to. */
    if (cq->outstanding == 1 && atomic_load_explicit(&cq->user_fd, memory_order_relaxed) < 0)
        cq->patient = pending;
    wait_for(pending, &pending->one, partition, position);
}

void bkv_pending_sync(bitkv_cq *cq, struct bitkv *db, const bitkv_op *op, uint64_t id)
{
    struct bkv_pending *pending = begin_pending(cq, op, id);
    struct bkv_waiter *waiters = bkv_calloc(db->partition_count, sizeof *waiters);
    if (pending == NULL || waiters == NULL) {
        if (pending != NULL)
            end_pending(pending);
        bkv_mfree(waiters);
        complete_without_memory(cq, op, id);
        return;
    }
    uint32_t count = db->partition_count;
    pending->state = BKV_PENDING_SYNC;
    pending->waiters = waiters;
    pending->waiter_count = count;
    atomic_store_explicit(&pending->left, count + 1, memory_order_relaxed); /* we, too */
    uint32_t over = 1;                                                      /* we are */
    for (uint32_t i = 0; i < count; i++) {
        struct bkv_partition *p = db->partitions[i];
        uint64_t position = bkv_partition_position(p);
        if (bkv_partition_synced(p, position)) { /* always, if it is read-only: it has no worker */
            waiters[i].partition = p;
            over++;
        } else {
            wait_for(pending, &waiters[i], p, position);
        }
    }
    if (atomic_fetch_sub_explicit(&pending->left, over, memory_order_acq_rel) == over)
        push(pending);
}

/* --- collecting ------------------------------------------------------------------------------ */

static void finish(struct bkv_pending *pending)
{
    int rc = atomic_load_explicit(&pending->status, memory_order_relaxed);
    if (pending->canceled) {
        complete_canceled(pending);
    } else if (pending->state == BKV_PENDING_SYNC) {
        complete_with(pending, rc, pending->error);
    } else if (rc != BITKV_OK && rc != BKV_OTHER_KEY) {
        fail_read(pending, rc, pending->error);
    } else {
        deliver(pending, rc);
    }
}

static void collect_inbox(bitkv_cq *cq)
{
    struct bkv_pending *stack = atomic_exchange_explicit(&cq->inbox, NULL, memory_order_seq_cst);
    struct bkv_pending *list = NULL;
    while (stack != NULL) { /* oldest first */
        struct bkv_pending *next = stack->link;
        stack->link = list;
        list = stack;
        stack = next;
    }
    while (list != NULL) {
        struct bkv_pending *next = list->link;
        finish(list);
        list = next;
    }
}

void bkv_pending_collect(bitkv_cq *cq)
{
    if (atomic_load_explicit(&cq->inbox, memory_order_relaxed) != NULL)
        collect_inbox(cq);
    if (cq->ring != NULL && bkv_ring_in_flight(cq->ring) > 0) {
        collect_ring(cq);
        bkv_pending_flush(cq);
    }
}

/* The kernel does not hear us any more (a seccomp filter that came after the
 * queue): what it has not seen is the pool's. In the section of `db`; NULL if
 * that is closed. */
static void give_up_ring(bitkv_cq *cq, struct bitkv *db)
{
    void *user;
    while (bkv_ring_take_back(cq->ring, &user)) {
        struct bkv_pending *pending = user;
        if (user == cq) { /* the watch */
            cq->watching = false;
        } else if (pending != NULL && pending->canceled) {
            complete_canceled(pending);
        } else if (pending != NULL && db != NULL) {
            pending->attempts = RING_ATTEMPTS_MAX;
            pending->got = 0; /* it reads from the beginning */
            give_to_pool(pending, db);
        } else if (pending != NULL) {
            complete_failed(pending, closed_before());
        }
    }
}

/* In a section of the open database, or descriptors could be closed, and name
 * other files, before the kernel gets to see them (Q3). */
void bkv_pending_flush(bitkv_cq *cq)
{
    if (cq->ring == NULL || bkv_ring_queued(cq->ring) == 0)
        return;
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    bool open = bkv_cq_enter(cq, &db, &slot) == BITKV_OK;
    if (!open)
        bkv_ring_void(cq->ring);
    if (bkv_ring_submit(cq->ring) != 0) /* what it only puts off goes with the next */
        give_up_ring(cq, db);
    if (open)
        bkv_epoch_exit(slot);
    if (BKV_UNLIKELY(bkv_ring_queued(cq->ring) > 0))
        bkv_cq_signal_user(cq); /* who waits at the descriptor has to come for that */
}

static void sleep_on_descriptor(bitkv_cq *cq, int64_t timeout_ns)
{
    struct pollfd ready = {.fd = cq->event_fd, .events = POLLIN};
    struct timespec t = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    eventfd_t count;
    if (ppoll(&ready, 1, timeout_ns < 0 ? NULL : &t, NULL) > 0)
        (void)!eventfd_read(cq->event_fd, &count);
}

void bkv_pending_urge(bitkv_cq *cq)
{
    struct bkv_pending *patient = cq->patient;
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    cq->patient = NULL;
    if (patient == NULL || bkv_cq_enter(cq, &db, &slot) != BITKV_OK)
        return;
    bkv_partition_sync_urge(patient->one.partition, &patient->one.base);
    bkv_epoch_exit(slot);
}

/* Who waits for nothing but one durable write may as well run its sync: a
 * hand-over to the worker and back costs as much as a fast device's sync. */
static void sync_here(bitkv_cq *cq)
{
    struct bkv_pending *patient = cq->patient;
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    cq->patient = NULL;
    if (bkv_cq_enter(cq, &db, &slot) != BITKV_OK)
        return; /* who closes completes it */
    bkv_partition_sync_upto(patient->one.partition, patient->one.base.position);
    bkv_epoch_exit(slot);
}

void bkv_pending_sleep(bitkv_cq *cq, int64_t timeout_ns)
{
    if (cq->patient != NULL && (timeout_ns < 0 || timeout_ns >= SYNC_TIME_NS))
        sync_here(cq);
    else
        bkv_pending_urge(cq);
    uint32_t own = cq->watching ? 1 : 0; /* of the ring: the watch */
    bool ring = cq->ring != NULL && bkv_ring_in_flight(cq->ring) > own;
    if (ring && !cq->watching) {
        bkv_ring_watch(cq->ring, cq->event_fd, cq);
        cq->watching = true;
        bkv_pending_flush(cq);
    }
    if (ring && bkv_ring_queued(cq->ring) > 0) { /* the kernel puts them off */
        bkv_sleep_us(200);
        return;
    }
    atomic_store_explicit(&cq->sleeping, true, memory_order_seq_cst);
    if (atomic_load_explicit(&cq->inbox, memory_order_seq_cst) == NULL) {
        if (ring)
            bkv_ring_wait(cq->ring, timeout_ns);
        else
            sleep_on_descriptor(cq, timeout_ns);
    }
    atomic_store_explicit(&cq->sleeping, false, memory_order_relaxed);
}

/* --- canceling --------------------------------------------------------------- */

static void drop_from_backlog(bitkv_cq *cq, struct bkv_pending *pending)
{
    struct bkv_pending *before = NULL;
    for (struct bkv_pending *b = cq->backlog_first; b != pending; b = b->link)
        before = b;
    if (before != NULL)
        before->link = pending->link;
    else
        cq->backlog_first = pending->link;
    if (cq->backlog_last == pending)
        cq->backlog_last = before;
}

static bool withdraw_task(struct bkv_pending *pending, struct bitkv *db)
{
    struct bkv_pool *pool;
    return bkv_backend_pool(db, &pool) == BITKV_OK && bkv_pool_withdraw(pool, &pending->task);
}

/* Those not forgotten are called; the last one of all pushes. */
static bool withdraw_waiters(struct bkv_pending *pending)
{
    uint32_t forgotten = 0;
    for (uint32_t i = 0; i < pending->waiter_count; i++) {
        struct bkv_waiter *w = &pending->waiters[i];
        forgotten += bkv_partition_sync_forget(w->partition, &w->base);
    }
    return forgotten > 0 &&
           atomic_fetch_sub_explicit(&pending->left, forgotten, memory_order_acq_rel) == forgotten;
}

/* Takes back what nobody has begun. Without the database nothing can be: it
 * has come back, or is about to. */
static bool withdraw(struct bkv_pending *pending)
{
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    if (bkv_cq_enter(pending->cq, &db, &slot) != BITKV_OK)
        return false;
    bool gone =
        pending->state == BKV_PENDING_POOL ? withdraw_task(pending, db) : withdraw_waiters(pending);
    bkv_epoch_exit(slot);
    return gone;
}

static void cancel(struct bkv_pending *pending)
{
    bitkv_cq *cq = pending->cq;
    if (pending->canceled)
        return;
    pending->canceled = true;
    switch (pending->state) {
    case BKV_PENDING_BACKLOG:
        drop_from_backlog(cq, pending);
        complete_canceled(pending);
        break;
    case BKV_PENDING_RING:
        bkv_ring_cancel(cq->ring, pending);
        break;
    case BKV_PENDING_POOL:
    case BKV_PENDING_SYNC:
        if (withdraw(pending))
            complete_canceled(pending);
        break;
    }
}

int bkv_pending_cancel(bitkv_cq *cq, uint64_t id)
{
    bool found = false;
    bkv_pending_collect(cq); /* what has completed is not canceled */
    for (struct bkv_pending *p = cq->pending, *next; p != NULL; p = next) {
        next = p->next;
        if (id == BITKV_CQ_ALL || p->id == id) {
            found = true;
            cancel(p);
        }
    }
    bkv_pending_flush(cq);
    return found ? BITKV_OK : BITKV_NOT_FOUND;
}

void bkv_pending_orphan(bitkv_cq *cq)
{
    bkv_ring_close(cq->ring);
    cq->ring = NULL;
    for (struct bkv_pending *p = cq->pending, *next; p != NULL; p = next) {
        next = p->next;
        if (p->state == BKV_PENDING_RING) /* the kernel gave it up with its thread */
            complete_canceled(p);
    }
}
