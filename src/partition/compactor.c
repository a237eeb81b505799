/* SPDX-License-Identifier: MIT */
/*
 * When and how fast runs are made: by a thread of the partition's, which the
 * worker starts when the first segment is full, and by bitkv_compact() in the
 * caller's thread. One run at a time (compact_mutex).
 *
 * The thread looks for a run when a segment was finished, when much has died,
 * when records have expired, and after each run. Between slices it rests, the
 * longer the less there is to do: eight units for one of work as long as the
 * dead share is below where compaction begins, none from the threshold on. The
 * share is looked at again while a run goes on, as writers do not stop for it.
 * Besides, it keeps to the options' rate and hours of the day, which it does not
 * leave for any pressure: they are the operator's word.
 *
 * Failure modes: a run fails: it is logged, and tried again no sooner than
 * RETRY_NS later. No thread can be started: logged, tried at the next segment.
 */
#include "partition/compact.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/epoch.h"
#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define REST_FACTOR    8u
#define REST_NS_MAX    20000000u
#define RETRY_NS       UINT64_C(5000000000)
#define REMOVAL_WAITS  500u
#define SEAL_TRIES     20u
#define LOOK_BYTES     (4u << 20)
#define WINDOW_LOOK_NS UINT64_C(30000000000)

/* --- pace -------------------------------------------------------------------------- */

struct background {
    struct bkv_partition *p;
    double rest_factor;
    uint64_t unlooked_bytes; /* of input, since rest_factor was found */
    uint64_t slice_begun_ns;
    uint64_t run_begun_ns, run_bytes; /* for the rate */
};

static bool stopping(const struct bkv_partition *p)
{
    return atomic_load_explicit(&p->stopping, memory_order_acquire);
}

/* Somebody waits for this run to end: bitkv_compact(), which asks for no patience,
 * and with it bitkv_close(). */
static bool hurried(const struct bkv_partition *p)
{
    return stopping(p) || atomic_load_explicit(&p->hands, memory_order_relaxed) > 0;
}

static void rest(struct bkv_partition *p, uint64_t ns)
{
    uint64_t until = bkv_now_ns() + ns;
    for (uint64_t now; (now = bkv_now_ns()) < until && !hurried(p);)
        bkv_sleep_us((uint32_t)(bkv_min64(until - now, REST_NS_MAX) / 1000) + 1);
}

/* How long until `bytes` may have been read at `rate` a second. */
static uint64_t ahead_ns(uint64_t bytes, uint64_t rate, uint64_t since_ns)
{
    uint64_t due = (uint64_t)((double)bytes / (double)rate * 1e9);
    uint64_t elapsed = bkv_now_ns() - since_ns;
    return due > elapsed ? due - elapsed : 0;
}

static double rest_factor(const struct bkv_partition *p, const struct bkv_look *look)
{
    double threshold = p->store->options.fragmentation_threshold;
    double begin = threshold * BKV_COMPACT_BEGIN;
    double share = bkv_look_share(look);
    if (atomic_load(&p->out_of_space))
        return 0.0;
    if (share <= begin)
        return REST_FACTOR;
    return share >= threshold ? 0.0 : REST_FACTOR / 2.0 * (threshold - share) / (threshold - begin);
}

static void look_again(struct background *b, uint64_t bytes)
{
    struct bkv_look look;
    b->unlooked_bytes += bytes;
    if (b->unlooked_bytes < LOOK_BYTES)
        return;
    bkv_look_around(b->p, &look);
    b->rest_factor = rest_factor(b->p, &look);
    b->unlooked_bytes = 0;
}

static int background_slice(void *user, uint64_t bytes)
{
    struct background *b = user;
    struct bkv_partition *p = b->p;
    if (stopping(p))
        return bkv_error(BITKV_ERR_CLOSED, "closed during a compaction");
    if (atomic_load(&p->failed) != 0)
        return bkv_error(BITKV_ERR_SYNC_FAILED, "partition %u refuses writes", p->index);
    uint64_t rate = p->store->options.compact_bytes_per_second;
    b->run_bytes += bytes;
    look_again(b, bytes);
    uint64_t worked = bkv_now_ns() - b->slice_begun_ns;
    uint64_t pause = bkv_min64((uint64_t)((double)worked * b->rest_factor), REST_NS_MAX);
    if (rate != 0)
        pause = bkv_max64(pause, ahead_ns(b->run_bytes, rate, b->run_begun_ns));
    if (pause > 0)
        rest(p, pause);
    b->slice_begun_ns = bkv_now_ns();
    return BITKV_OK;
}

/* --- hours of the day ---------------------------------------------------------------- */

static bool in_window(const bitkv_options *o)
{
    if (o->compact_from_minute == o->compact_until_minute)
        return true;
    time_t now = time(NULL);
    struct tm local;
    /* It knows every year that fits into an int, and the kernel's clock ends in 2262. */
    const struct tm *known = localtime_r(&now, &local);
    BKV_ASSERT(known != NULL);
    (void)known;
    uint32_t minute = (uint32_t)local.tm_hour * 60 + (uint32_t)local.tm_min;
    if (o->compact_from_minute < o->compact_until_minute)
        return minute >= o->compact_from_minute && minute < o->compact_until_minute;
    return minute >= o->compact_from_minute || minute < o->compact_until_minute;
}

/* --- the thread ------------------------------------------------------------------------ */

/* The first section of this thread needs memory, the others do not. */
static int have_slot(const struct bkv_partition *p)
{
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    if (slot == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to compact partition %u", p->index);
    bkv_epoch_exit(slot);
    return BITKV_OK;
}

/* One run, if one is due. *wait_ns: until it should look again; 0: when woken. */
static bool run_once(struct bkv_partition *p, uint64_t *wait_ns)
{
    struct bkv_look look = {0};
    struct bkv_run run = {.count = 0};
    *wait_ns = 0;
    if (!in_window(&p->store->options)) {
        *wait_ns = WINDOW_LOOK_NS;
        return false;
    }
    (void)pthread_mutex_lock(&p->compact_mutex);
    bkv_reserve_prepare(p);
    int rc = have_slot(p);
    if (rc == BITKV_OK)
        rc = bkv_compact_go_on(p);
    if (rc == BITKV_OK)
        rc = bkv_run_choose(p, &look, &run);
    bool found = rc == BITKV_OK;
    if (found) {
        uint64_t now = bkv_now_ns();
        struct background b = {
            .p = p,
            .rest_factor = rest_factor(p, &look),
            .slice_begun_ns = now,
            .run_begun_ns = now,
        };
        struct bkv_pace pace = {.slice = background_slice, .user = &b};
        rc = bkv_compact_run(p, &run, &pace);
    } else if (rc == BITKV_NOT_FOUND && look.next_due_ms != 0) {
        uint64_t now_ms = bkv_store_now_ms(p->store);
        *wait_ns = bkv_max64(1, look.next_due_ms - bkv_min64(now_ms, look.next_due_ms)) * 1000000u;
    }
    (void)pthread_mutex_unlock(&p->compact_mutex);
    if (rc < 0) {
        *wait_ns = RETRY_NS;
        if (!stopping(p))
            bkv_log(p->store, BITKV_LOG_WARNING, "no compaction: %s", bitkv_error_context());
    }
    return found && rc == BITKV_OK;
}

/* The worker does what is left, when it has time: it may have looked too early. */
static void give_up_inputs(struct bkv_partition *p)
{
    if (bkv_removed_reclaim(p) == BKV_RETIRED_NONE)
        return;
    atomic_store(&p->reclaim_asked, true);
    bkv_worker_wake(p);
}

/* What the run has freed is there when the worker has unlinked the inputs. */
static void restore_reserve(struct bkv_partition *p)
{
    for (unsigned i = 0; i < REMOVAL_WAITS && bkv_removed_pending(p) && !stopping(p); i++)
        bkv_sleep_us(1000);
    (void)pthread_mutex_lock(&p->compact_mutex);
    bkv_reserve_prepare(p);
    (void)pthread_mutex_unlock(&p->compact_mutex);
}

static void *compactor_main(void *partition)
{
    struct bkv_partition *p = partition;
    char name[16];
    (void)snprintf(name, sizeof name, "bitkv-c%u", p->index);
    (void)prctl(PR_SET_NAME, name, 0, 0, 0);
    while (!stopping(p)) {
        uint64_t wait_ns = 0;
        atomic_store_explicit(&p->compact_wake, 0, memory_order_seq_cst);
        while (!stopping(p) && atomic_load(&p->failed) == 0 && run_once(p, &wait_ns)) {
            give_up_inputs(p);
            if (atomic_load(&p->reserve_owed))
                restore_reserve(p);
        }
        atomic_store(&p->reserve_owed, false); /* there is no more to be had: writers may try */
        if (wait_ns == RETRY_NS)               /* whatever wakes us: not at once */
            rest(p, 1000000000u);
        if (!stopping(p))
            bkv_futex_wait(&p->compact_wake, 0, wait_ns);
    }
    return NULL;
}

void bkv_compactor_wake(struct bkv_partition *p)
{
    if (!p->store->options.auto_compact)
        return;
    if (!p->compactor_started) {
        sigset_t all;
        sigset_t before;
        bkv_thread_signals(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        int error = pthread_create(&p->compactor, NULL, compactor_main, p);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        p->compactor_started = error == 0;
        if (error != 0)
            bkv_log(p->store, BITKV_LOG_WARNING,
                    "no compaction in partition %u: cannot start a thread: %s", p->index,
                    strerror(error));
        return;
    }
    if (atomic_exchange_explicit(&p->compact_wake, 1, memory_order_acq_rel) == 0)
        bkv_futex_wake(&p->compact_wake, 1);
}

void bkv_compactor_stop(struct bkv_partition *p)
{
    if (p->compactor_started) {
        atomic_store_explicit(&p->compact_wake, 1, memory_order_release);
        bkv_futex_wake(&p->compact_wake, 1);
        (void)pthread_join(p->compactor, NULL);
        p->compactor_started = false;
    }
    (void)bkv_reserve_release(p);
}

/* --- by hand --------------------------------------------------------------------------------- */

/* Dead bytes in the segment that is written: it is sealed, so that they can go. */
static uint64_t seal_tail(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    const struct bkv_segment *tail = p->tail.segment;
    if (tail != NULL && atomic_load(&p->failed) == 0 &&
        atomic_load(&tail->size) - BKV_SEGMENT_HEADER > atomic_load(&tail->live_bytes))
        bkv_tail_seal(p);
    uint64_t end = p->tail.segment != NULL ? p->tail.segment->base_sequence : p->next_sequence;
    bkv_unlock(&p->lock);
    return end;
}

/* Until the worker has finished what is sealed and begins below `end`. What writers
 * fill meanwhile is not waited for: it may never end. */
static int wait_for_seal(struct bkv_partition *p, uint64_t end, const struct bkv_pace *pace)
{
    uint32_t failures = atomic_load(&p->seal_failures);
    for (;;) {
        bkv_lock(&p->lock);
        bool any = p->sealed_first != NULL && p->sealed_first->base_sequence < end;
        bkv_unlock(&p->lock);
        if (!any)
            return BITKV_OK;
        if (atomic_load(&p->failed) != 0)
            return bkv_error(BITKV_ERR_SYNC_FAILED,
                             "partition %u met a failed sync or write and "
                             "is not compacted; reopen the database",
                             p->index);
        if (atomic_load(&p->seal_failures) - failures >= SEAL_TRIES)
            return bkv_error(BITKV_ERR_IO,
                             "a full segment of partition %u cannot be finished, the log says "
                             "why; it is not compacted",
                             p->index);
        int rc = bkv_pace_slice(pace, 0);
        if (rc != BITKV_OK)
            return rc;
        bkv_worker_wake(p);
        bkv_sleep_us(1000);
    }
}

static bool any_unfit(const struct bkv_run *run)
{
    bool any = false;
    for (uint32_t i = 0; i < run->count; i++)
        any |= run->segments[i]->unfit;
    return any;
}

/* The next run behind *after, which moves on, but where damage was met: then once
 * more, without the file that has it. */
static int run_by_hand(struct bkv_partition *p, uint64_t end, const struct bkv_pace *pace,
                       uint64_t *after, bool *found)
{
    struct bkv_run run = {.count = 0};
    atomic_fetch_add(&p->hands, 1);
    (void)pthread_mutex_lock(&p->compact_mutex);
    atomic_fetch_sub(&p->hands, 1);
    bkv_reserve_prepare(p);
    int rc = bkv_compact_go_on(p);
    if (rc == BITKV_OK)
        rc = bkv_run_next(p, *after, end, &run);
    *found = rc == BITKV_OK;
    if (*found) {
        uint64_t last = run.segments[run.count - 1]->last_sequence;
        rc = bkv_compact_run(p, &run, pace);
        /* None was unfit when it was chosen; of a run that came through they may be gone. */
        if (rc != BITKV_ERR_CORRUPT || !any_unfit(&run))
            *after = last;
    }
    (void)pthread_mutex_unlock(&p->compact_mutex);
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

/* A damaged file keeps no other from being compacted; the first is told. */
static int run_all(struct bkv_partition *p, uint64_t end, const struct bkv_pace *pace)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    uint64_t after = 0;
    bool found = true;
    int result = BITKV_OK;
    while (found) {
        int rc = run_by_hand(p, end, pace, &after, &found);
        if (rc == BITKV_ERR_CORRUPT && result == BITKV_OK)
            (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
        if (rc != BITKV_OK)
            result = rc;
        if (rc != BITKV_OK && rc != BITKV_ERR_CORRUPT)
            return rc;
    }
    if (result != BITKV_OK)
        bkv_error_context_set(context);
    return result;
}

/* It is there when the call returns, if readers let go. */
static void give_space_back(struct bkv_partition *p)
{
    for (unsigned i = 0; i < REMOVAL_WAITS && bkv_removed_pending(p); i++) {
        if (bkv_removed_reclaim(p) == BKV_RETIRED_READ || bkv_removed_pending(p))
            bkv_sleep_us(1000);
    }
}

int bkv_partition_compact(struct bkv_partition *p, int (*slice)(void *user, uint64_t bytes),
                          void *user)
{
    struct bkv_pace pace = {.slice = slice, .user = user, .thorough = true};
    uint64_t end = seal_tail(p);
    int rc = wait_for_seal(p, end, &pace);
    if (rc == BITKV_OK)
        rc = run_all(p, end, &pace);
    give_space_back(p);
    return rc;
}

uint64_t bkv_partition_compactable(struct bkv_partition *p)
{
    uint64_t bytes = 0;
    for (const struct bkv_segment *s = atomic_load(&p->first); s != NULL; s = atomic_load(&s->next))
        bytes += atomic_load(&s->size) - BKV_SEGMENT_HEADER;
    return bytes;
}
