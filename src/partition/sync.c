/* SPDX-License-Identifier: MIT */
/*
 * Group commit. Whoever needs the log durable up to some position either finds
 * it so, or waits for a sync that is running, or runs one: in its own thread,
 * since a hand-over to another costs as much as a fast device's sync. A sync
 * covers everything appended when it starts, so those who came during the last
 * one share the next (Helland et al., "Group commit timers and high volume
 * transaction systems", 1987, without the timer: a lone writer waits for one
 * sync and no more).
 *
 * A sync writes out every segment with unsynced data, oldest first, and the
 * directory, if it has entries that were not. Then a mark is appended, which
 * tells recovery how far the log was durable.
 *
 * A mark is not waited for, or every sync would ask for another; the next
 * round takes it along. A checkpoint, which claims that all of the log is
 * durable, asks for one round more, which leaves no mark. A hint claims that
 * for a full segment only, where no mark can come any more: its round ends
 * there and leaves the tail alone. (With the tail's pages in it, writers took
 * a fault for each that they had still to fill, and waited up to 17 ms.)
 *
 * Failure mode: one. After a failed fdatasync nothing is known about what it
 * covered, and a second one proves nothing, so the partition refuses to append
 * until it is reopened (I7). Waiters get the error, reads go on.
 */
#include "partition/state.h"

#include "base/clock.h"
#include "base/error.h"
#include "io/io.h"
#include "log/filename.h"

#include <errno.h>
#include <fcntl.h>

/* How long a patient waiter is left alone. */
#define PATIENCE_NS 1000000u

struct round {
    struct bkv_segment *first, *last; /* detached; first == NULL: nothing to sync */
    uint64_t position;                /* of the log */
    uint64_t segment_id, offset;      /* the same, for the mark */
};

void bkv_unsynced_add(struct bkv_partition *p, struct bkv_segment *segment)
{
    if (p->unsynced_last == segment)
        return;
    segment->next_unsynced = NULL;
    if (p->unsynced_last != NULL)
        p->unsynced_last->next_unsynced = segment;
    else
        p->unsynced_first = segment;
    p->unsynced_last = segment;
}

/* Takes over the list's part up to `segment`, which is full; no part, if that
 * was synced already. */
static struct round begin_round_upto(struct bkv_partition *p, struct bkv_segment *segment)
{
    struct round r = {0};
    bkv_lock(&p->lock);
    const struct bkv_segment *s = p->unsynced_first;
    while (s != NULL && s != segment)
        s = s->next_unsynced;
    if (s != NULL) {
        r = (struct round){
            .first = p->unsynced_first,
            .last = segment,
            .position = segment->end_position,
            .segment_id = segment->id,
            .offset = atomic_load_explicit(&segment->size, memory_order_relaxed),
        };
        p->unsynced_first = segment->next_unsynced;
        if (p->unsynced_first == NULL)
            p->unsynced_last = NULL;
    }
    bkv_unlock(&p->lock);
    return r;
}

/* Takes the list over. Only the tail's segment can be added to the new list
 * while the old one is walked, and it is the old one's last: its link is not
 * followed. */
static struct round begin_round(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    struct round r = {
        .first = p->unsynced_first,
        .last = p->unsynced_last,
        .position = atomic_load_explicit(&p->appended, memory_order_relaxed),
    };
    if (r.last != NULL) {
        r.segment_id = r.last->id;
        r.offset = atomic_load_explicit(&r.last->size, memory_order_relaxed);
    }
    p->unsynced_first = p->unsynced_last = NULL;
    p->sync_armed = false;
    p->since_sync = 0;
    /* Pages that a sync has cleaned take a fault at the next store. */
    atomic_store_explicit(&p->tail.faulted, p->tail.offset, memory_order_relaxed);
    bkv_unlock(&p->lock);
    return r;
}

/* A segment that recovery found gets a descriptor for this. */
static int sync_found(struct bkv_partition *p, const struct bkv_segment *segment)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = bkv_file_sync(&file);
    bkv_file_close(&file);
    return rc;
}

static int sync_written(struct bkv_segment *segment)
{
    const struct bkv_mapping *mapping = atomic_load_explicit(&segment->open, memory_order_acquire);
    BKV_ASSERT(mapping != NULL && mapping->file.fd >= 0); /* I6 */
    int rc = bkv_file_sync(&mapping->file);
    if (rc == BITKV_OK && bkv_mapping_faulted(mapping))
        rc = bkv_error(BITKV_ERR_IO, "I/O error under the mapping of %s", mapping->file.name);
    return rc;
}

static int sync_segment(struct bkv_partition *p, struct bkv_segment *segment)
{
    int rc = atomic_load(&segment->written) ? sync_written(segment) : sync_found(p, segment);
    if (rc == BITKV_OK && !atomic_load(&segment->entry_synced)) {
        if (bkv_io->fsync(p->directory.fd) != 0)
            return bkv_error_sys(errno, "cannot sync directory %s/%s", p->store->dir.path,
                                 p->directory.name);
        atomic_store(&segment->entry_synced, true);
    }
    return rc;
}

static int run_round(struct bkv_partition *p, const struct round *r)
{
    for (struct bkv_segment *s = r->first; s != NULL; s = s == r->last ? NULL : s->next_unsynced) {
        int rc = sync_segment(p, s);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

static int fail(struct bkv_partition *p)
{
    atomic_store(&p->failed, BITKV_ERR_SYNC_FAILED);
    int rc = bkv_error(BITKV_ERR_SYNC_FAILED, "%.300s; partition %u refuses writes until reopened",
                       bitkv_error_context(), p->index);
    bkv_log(p->store, BITKV_LOG_ERROR, "sync failed: %s", bitkv_error_context());
    return rc;
}

int bkv_sync_failed(struct bkv_partition *p)
{
    return fail(p);
}

static int refuse(const struct bkv_partition *p)
{
    return bkv_error(BITKV_ERR_SYNC_FAILED,
                     "an earlier sync of partition %u failed; reopen the database", p->index);
}

/* --- waiters without a thread ---------------------------------------------------- */

/* Takes those out whose wait is over: all of them if `all`. Under sync_mutex. */
static struct bkv_sync_waiter *take_waiters(struct bkv_partition *p, bool all)
{
    uint64_t synced = atomic_load_explicit(&p->synced, memory_order_relaxed);
    struct bkv_sync_waiter *first = atomic_load_explicit(&p->waiters, memory_order_relaxed);
    struct bkv_sync_waiter *taken = NULL;
    for (struct bkv_sync_waiter **link = &first; *link != NULL;) {
        struct bkv_sync_waiter *w = *link;
        if (!all && w->position > synced) {
            link = &w->next;
            continue;
        }
        *link = w->next;
        w->next = taken; /* the newest came first: now it is the last */
        taken = w;
    }
    atomic_store_explicit(&p->waiters, first, memory_order_relaxed);
    return taken;
}

/* Not under a lock: the waiter may be gone after its call. */
static void complete(struct bkv_sync_waiter *waiters, int rc)
{
    while (waiters != NULL) {
        struct bkv_sync_waiter *next = waiters->next;
        waiters->done(waiters, rc);
        waiters = next;
    }
}

/* With `all` those who would have to wait longer, too: with `rc`. What goes wrong
 * is no matter of those whose position is synced, and who only have not been
 * called yet. Under sync_mutex, which it leaves meanwhile. */
static void complete_waiters(struct bkv_partition *p, int rc, bool all)
{
    struct bkv_sync_waiter *over = take_waiters(p, false);
    struct bkv_sync_waiter *others = all ? take_waiters(p, true) : NULL;
    if (over == NULL && others == NULL)
        return;
    (void)pthread_mutex_unlock(&p->sync_mutex);
    complete(over, BITKV_OK);
    complete(others, rc);
    (void)pthread_mutex_lock(&p->sync_mutex);
}

void bkv_partition_sync_later(struct bkv_partition *p, struct bkv_sync_waiter *waiter)
{
    waiter->since_ns = bkv_now_ns();
    (void)pthread_mutex_lock(&p->sync_mutex);
    waiter->next = atomic_load_explicit(&p->waiters, memory_order_relaxed);
    atomic_store_explicit(&p->waiters, waiter, memory_order_relaxed);
    (void)pthread_mutex_unlock(&p->sync_mutex);
    bkv_worker_wake(p);
}

void bkv_partition_sync_urge(struct bkv_partition *p, struct bkv_sync_waiter *waiter)
{
    (void)pthread_mutex_lock(&p->sync_mutex);
    waiter->patient = false;
    (void)pthread_mutex_unlock(&p->sync_mutex);
    bkv_worker_wake(p);
}

bool bkv_partition_sync_forget(struct bkv_partition *p, struct bkv_sync_waiter *waiter)
{
    bool found = false;
    (void)pthread_mutex_lock(&p->sync_mutex);
    struct bkv_sync_waiter *before = NULL;
    struct bkv_sync_waiter *w = atomic_load_explicit(&p->waiters, memory_order_relaxed);
    while (w != NULL && w != waiter) {
        before = w;
        w = w->next;
    }
    found = w != NULL;
    if (found && before != NULL)
        before->next = w->next;
    else if (found)
        atomic_store_explicit(&p->waiters, w->next, memory_order_relaxed);
    (void)pthread_mutex_unlock(&p->sync_mutex);
    return found;
}

uint64_t bkv_partition_position(struct bkv_partition *p)
{
    return atomic_load_explicit(&p->appended, memory_order_acquire);
}

bool bkv_partition_synced(struct bkv_partition *p, uint64_t position)
{
    return atomic_load_explicit(&p->synced, memory_order_acquire) >= position;
}

/* --- rounds --------------------------------------------------------------------------- */

/* Under sync_mutex, which it leaves meanwhile; none may be running. Up to the
 * end of `full`, or NULL: of the log. */
static int lead_round(struct bkv_partition *p, struct bkv_segment *full, bool mark)
{
    p->sync_running = true;
    (void)pthread_mutex_unlock(&p->sync_mutex);
    struct round r = full != NULL ? begin_round_upto(p, full) : begin_round(p);
    int rc = run_round(p, &r);
    rc = rc != BITKV_OK ? fail(p) : BITKV_OK;
    if (rc == BITKV_OK && r.first != NULL) {
        atomic_fetch_add_explicit(&p->syncs, 1, memory_order_relaxed);
        if (mark)
            bkv_append_mark(p, r.segment_id, r.offset);
    }
    (void)pthread_mutex_lock(&p->sync_mutex);
    p->sync_running = false;
    if (rc == BITKV_OK && r.position > atomic_load_explicit(&p->synced, memory_order_relaxed))
        atomic_store_explicit(&p->synced, r.position, memory_order_release);
    (void)pthread_cond_broadcast(&p->sync_done);
    complete_waiters(p, rc, rc != BITKV_OK);
    return rc;
}

/* The last position that a waiter waits for; 0: nobody waits, or with patience
 * only. */
static uint64_t last_waited_for(struct bkv_partition *p)
{
    uint64_t last = 0, now = bkv_now_ns();
    p->serve_due_ns = 0;
    (void)pthread_mutex_lock(&p->sync_mutex);
    complete_waiters(p, BITKV_OK, false); /* a round may have run before they came */
    for (const struct bkv_sync_waiter *w = atomic_load_explicit(&p->waiters, memory_order_relaxed);
         w != NULL; w = w->next) {
        if (w->patient && now - w->since_ns < PATIENCE_NS)
            p->serve_due_ns = w->since_ns + PATIENCE_NS;
        else
            last = w->position > last ? w->position : last;
    }
    (void)pthread_mutex_unlock(&p->sync_mutex);
    return last;
}

void bkv_sync_serve(struct bkv_partition *p)
{
    p->serve_due_ns = 0; /* also if nobody waits any more: the worker would not rest */
    if (atomic_load_explicit(&p->waiters, memory_order_relaxed) == NULL)
        return;
    int rc = BITKV_OK;
    for (uint64_t last; rc == BITKV_OK && (last = last_waited_for(p)) > 0;)
        rc = bkv_sync_upto(p, last);
    if (rc != BITKV_OK)
        bkv_sync_abandon(p, rc);
}

void bkv_sync_abandon(struct bkv_partition *p, int rc)
{
    (void)pthread_mutex_lock(&p->sync_mutex);
    complete_waiters(p, rc, true);
    (void)pthread_mutex_unlock(&p->sync_mutex);
}

int bkv_sync_upto(struct bkv_partition *p, uint64_t upto)
{
    int rc = BITKV_OK;
    (void)pthread_mutex_lock(&p->sync_mutex);
    while (rc == BITKV_OK && atomic_load_explicit(&p->synced, memory_order_relaxed) < upto) {
        if (atomic_load(&p->failed) != 0)
            rc = refuse(p);
        else if (p->sync_running)
            (void)pthread_cond_wait(&p->sync_done, &p->sync_mutex);
        else
            rc = lead_round(p, NULL, true);
    }
    (void)pthread_mutex_unlock(&p->sync_mutex);
    return rc;
}

/* One round of one's own, after what is running. */
static int own_round(struct bkv_partition *p, struct bkv_segment *full, bool mark)
{
    (void)pthread_mutex_lock(&p->sync_mutex);
    while (p->sync_running)
        (void)pthread_cond_wait(&p->sync_done, &p->sync_mutex);
    int rc = atomic_load(&p->failed) != 0 ? refuse(p) : lead_round(p, full, mark);
    (void)pthread_mutex_unlock(&p->sync_mutex);
    return rc;
}

int bkv_sync_all(struct bkv_partition *p)
{
    int rc = bkv_sync_upto(p, atomic_load(&p->appended));
    return rc == BITKV_OK ? own_round(p, NULL, false) : rc;
}

int bkv_sync_full(struct bkv_partition *p, struct bkv_segment *segment)
{
    return own_round(p, segment, true);
}

void bkv_partition_sync_upto(struct bkv_partition *p, uint64_t position)
{
    (void)bkv_sync_upto(p, position); /* a failure is the waiters' */
}

int bkv_partition_sync(struct bkv_partition *p)
{
    return bkv_sync_upto(p, atomic_load_explicit(&p->appended, memory_order_acquire));
}
