/* SPDX-License-Identifier: MIT */
/*
 * The worker: what must not sit in a caller's path.
 *
 *   urgent, done also in between the slices of the longer jobs:
 *       syncs for those who wait without a thread of their own, space and
 *       pages ahead of the tail, the KeyDir's next chunk of memory, the spare
 *       segment, the interval's sync when it is due
 *   longer:
 *       finishing sealed segments, checkpoints
 *
 * Compaction has a thread of its own (compactor.c), which the worker tells when
 * there may be something to do.
 *
 * It sleeps on a futex until a writer has something for it, or until the
 * interval's sync is due; a database that nobody writes to has no timer.
 *
 * Failure modes: a job that fails is logged and its state left as it was; it
 * is tried again when there is new work, but for a failed sync, after which
 * the partition only waits to be closed.
 */
#include "partition/state.h"

#include "base/clock.h"
#include "base/error.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>

/* In longer jobs: this much rest for each unit of work, so that callers on the
 * same processors and memory hardly notice. */
#define FIRST_LOOK_NS 1000000000u
#define YIELD_FACTOR  16u

/* How soon segments are looked at again whose readers have not left, and those of
 * which there are views. */
#define RECLAIM_NS      10000000u
#define RECLAIM_HELD_NS 1000000000u

void bkv_worker_wake(struct bkv_partition *p)
{
    /* Release: what the worker is woken for is visible to it. */
    if (atomic_exchange_explicit(&p->wake, 1, memory_order_acq_rel) == 0)
        bkv_futex_wake(&p->wake, 1);
}

static void sync_if_due(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    bool armed = p->sync_armed;
    bkv_unlock(&p->lock);
    if (!armed) {
        p->sync_due_ns = 0;
        return;
    }
    uint64_t now = bkv_now_ns();
    if (p->sync_due_ns == 0)
        p->sync_due_ns = now + (uint64_t)p->store->options.sync_interval_ms * 1000000u;
    if (now < p->sync_due_ns)
        return;
    p->sync_due_ns = 0;
    (void)bkv_partition_sync(p); /* a failure is logged there, and kept */
}

void bkv_worker_urgent(struct bkv_partition *p)
{
    bkv_sync_serve(p);
    bkv_keydir_prepare_memory(p->keydir);
    bkv_tail_ahead(p);
    bkv_spare_prepare(p);
    sync_if_due(p);
}

/* Are writers faster than we, or will they soon have to wait for us? */
static bool behind(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    bool more = p->sealed_count > 1 || p->sealed_count >= p->store->sealed_max;
    bkv_unlock(&p->lock);
    return more;
}

void bkv_worker_yield(struct bkv_partition *p, uint64_t *slice_begun_ns)
{
    bkv_worker_urgent(p);
    if (!atomic_load_explicit(&p->stopping, memory_order_acquire) && !behind(p)) {
        uint64_t worked = bkv_now_ns() - *slice_begun_ns;
        bkv_futex_wait(&p->wake, 0, worked * YIELD_FACTOR + 1);
        if (atomic_exchange_explicit(&p->wake, 0, memory_order_seq_cst) != 0)
            bkv_worker_urgent(p);
    }
    *slice_begun_ns = bkv_now_ns();
}

static uint64_t checkpoint_interval(const struct bkv_partition *p)
{
    uint64_t option = p->store->options.checkpoint_interval_bytes;
    if (option != 0)
        return option;
    return bkv_max64(BKV_CHECKPOINT_BYTES_MIN, 4 * bkv_keydir_memory(p->keydir));
}

static void checkpoint_if_due(struct bkv_partition *p)
{
    uint64_t appended = atomic_load(&p->appended);
    if (appended - p->checkpoint_tail < checkpoint_interval(p))
        return;
    if (bkv_checkpoint_write(p) != BITKV_OK) {
        bkv_log(p->store, BITKV_LOG_WARNING, "no checkpoint: %s", bitkv_error_context());
        p->checkpoint_tail = appended; /* not again before as much was written */
    }
}

static bool failed(const struct bkv_partition *p)
{
    return atomic_load(&p->failed) != 0;
}

/* Files of compacted segments: as soon as their readers have left. */
static void reclaim_if_due(struct bkv_partition *p)
{
    bool asked = atomic_exchange(&p->reclaim_asked, false);
    if (!asked && (p->reclaim_due_ns == 0 || bkv_now_ns() < p->reclaim_due_ns))
        return;
    enum bkv_retirement left = bkv_removed_reclaim(p);
    uint64_t soon = left == BKV_RETIRED_READ ? RECLAIM_NS : RECLAIM_HELD_NS;
    p->reclaim_due_ns = left == BKV_RETIRED_NONE ? 0 : bkv_now_ns() + soon;
}

/* Has so much died that the compactor should look? */
static bool much_died(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    bool much = p->died >= p->store->options.max_file_size / 4;
    if (much)
        p->died = 0;
    bkv_unlock(&p->lock);
    return much;
}

/* What an earlier opening has left to be compacted, or has expired since: nothing that
 * is written here need ever lead to it. Not at once, for openings that are short. */
static void look_first(struct bkv_partition *p)
{
    if (p->first_look_ns == 0 || bkv_now_ns() < p->first_look_ns)
        return;
    p->first_look_ns = 0;
    bkv_compactor_wake(p);
}

static void work(struct bkv_partition *p)
{
    bool more = true;
    reclaim_if_due(p); /* also after a failure */
    while (more && !failed(p)) {
        bkv_worker_urgent(p);
        reclaim_if_due(p); /* writers may fill segments without end */
        if (bkv_seal_next(p, &more) != BITKV_OK) {
            atomic_fetch_add(&p->seal_failures, 1);
            bkv_log(p->store, BITKV_LOG_WARNING, "a full segment stays open: %s",
                    bitkv_error_context());
            more = false;
        }
        if (more || much_died(p))
            bkv_compactor_wake(p);
    }
    if (!failed(p)) {
        look_first(p);
        checkpoint_if_due(p);
    } else {
        p->first_look_ns = 0;
        p->sync_due_ns = 0; /* it will not come any more: nothing to get up for */
        bkv_sync_serve(p);  /* tells them */
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || b == 0 ? a + b : bkv_min64(a, b);
}

/* When the worker has to come again by itself; 0: never. */
static uint64_t next_due_ns(const struct bkv_partition *p)
{
    return earlier(earlier(p->reclaim_due_ns, p->first_look_ns),
                   earlier(p->sync_due_ns, p->serve_due_ns));
}

/* Sleeps until there is work or something is due. */
static void rest(struct bkv_partition *p)
{
    uint64_t due = next_due_ns(p);
    uint64_t timeout = 0;
    if (due != 0) {
        uint64_t now = bkv_now_ns();
        if (now >= due)
            return;
        timeout = due - now;
    }
    bkv_futex_wait(&p->wake, 0, timeout);
}

/* The last work of a clean close: everything durable, trimmed, checkpointed. */
static int close_cleanly(struct bkv_partition *p)
{
    bool more = true;
    int rc = BITKV_OK;
    while (more && rc == BITKV_OK)
        rc = bkv_seal_next(p, &more);
    if (rc == BITKV_OK)
        rc = bkv_partition_sync(p);
    if (rc == BITKV_OK && !(p->checkpoint_valid && p->checkpoint_tail == atomic_load(&p->appended)))
        rc = bkv_checkpoint_write(p);
    struct bkv_tail *tail = &p->tail;
    if (tail->segment != NULL && tail->offset < tail->limit && rc == BITKV_OK)
        rc = bkv_file_truncate(&tail->mapping->file, tail->offset);
    return rc;
}

/* The opener waits for each stage of all partitions. */
static void reach(struct bkv_partition *p, enum bkv_opening stage, int rc)
{
    (void)pthread_mutex_lock(&p->open_wait_mutex);
    p->stage = stage;
    p->open_result = rc;
    if (rc != BITKV_OK)
        (void)snprintf(p->open_context, sizeof p->open_context, "%s", bitkv_error_context());
    (void)pthread_cond_broadcast(&p->open_wait);
    (void)pthread_mutex_unlock(&p->open_wait_mutex);
}

/* False: the opening has failed elsewhere. */
static bool wait_for_leave(struct bkv_partition *p, enum bkv_opening stage)
{
    (void)pthread_mutex_lock(&p->open_wait_mutex);
    while (p->leave < stage && !atomic_load_explicit(&p->stopping, memory_order_acquire))
        (void)pthread_cond_wait(&p->open_wait, &p->open_wait_mutex);
    bool may = p->leave >= stage;
    (void)pthread_mutex_unlock(&p->open_wait_mutex);
    return may;
}

/* Whether there is something to work on. */
static bool recover(struct bkv_partition *p)
{
    struct bkv_recover *r;
    int rc = bkv_recover_begin(p, &r);
    reach(p, BKV_OPENING_READ, rc);
    if (rc != BITKV_OK)
        return false;
    bool may = wait_for_leave(p, BKV_OPENING_READ);
    rc = bkv_recover_end(p, r, may);
    if (may)
        reach(p, BKV_OPENING_RECOVERED, rc);
    return may && rc == BITKV_OK && !p->store->options.read_only &&
           wait_for_leave(p, BKV_OPENING_RECOVERED);
}

void *bkv_worker_main(void *partition)
{
    struct bkv_partition *p = partition;
    char name[16];
    (void)snprintf(name, sizeof name, "bitkv-%u", p->index);
    (void)prctl(PR_SET_NAME, name, 0, 0, 0);
    if (!recover(p))
        return NULL;
    if (p->store->options.auto_compact)
        p->first_look_ns = bkv_now_ns() + FIRST_LOOK_NS;
    while (!atomic_load_explicit(&p->stopping, memory_order_acquire)) {
        atomic_store_explicit(&p->wake, 0, memory_order_seq_cst);
        work(p);
        if (!atomic_load_explicit(&p->stopping, memory_order_acquire))
            rest(p);
    }
    bkv_compactor_stop(p);
    if (p->stop_clean) {
        p->stop_result = close_cleanly(p);
        if (p->stop_result != BITKV_OK)
            (void)snprintf(p->open_context, sizeof p->open_context, "%s", bitkv_error_context());
    }
    (void)bkv_removed_reclaim(p); /* no call is left, so no reader */
    bkv_spare_discard(p);
    return NULL;
}
