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
 * Batches (batch.c): their parts lie in the logs of several partitions, and a log
 * that is synced alone could survive a power cut with a part whose siblings do
 * not. So a round has two steps. It flushes this log, and then those of all
 * peers, up to the last batch they have: those with which this partition shares
 * a batch that is not acknowledged, and their peers in turn, since what comes
 * before a batch in a peer's log decides about that, too. Only then it
 * acknowledges, and writes the mark. A flush waits for no peer, so there is no
 * circle to wait in; it may be run by the round of a peer, while ours waits.
 *
 * Failure modes: two. Without a descriptor for a segment that recovery found, the
 * round is given back, and what waits for it is told: no call has said anything
 * about the disk. After a failed fdatasync nothing is known about what it
 * covered, and a second one proves nothing, so the partition refuses to append
 * until it is reopened (I7). Waiters get the error, reads go on. That of a peer's
 * flush is ours likewise.
 */
#include "partition/state.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/schedule.h"
#include "io/io.h"
#include "log/filename.h"

#include <errno.h>
#include <fcntl.h>

/* How long a patient waiter is left alone. */
#define PATIENCE_NS 1000000u
/* How often a sync asks for a descriptor, some 200 us apart. */
#define DESCRIPTOR_TRIES 500u

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
    p->since_sync = 0;
    /* Pages that a sync has cleaned take a fault at the next store. */
    atomic_store_explicit(&p->tail.faulted, p->tail.offset, memory_order_relaxed);
    bkv_unlock(&p->lock);
    return r;
}

/* Nothing of the round is known to be synced, and nothing to have failed: the next one
 * takes it over. The tail's segment may be in the new list by now, as its first. */
static void give_back(struct bkv_partition *p, const struct round *r)
{
    bkv_lock(&p->lock);
    if (p->unsynced_first != r->last) {
        r->last->next_unsynced = p->unsynced_first;
        if (p->unsynced_last == NULL)
            p->unsynced_last = r->last;
    }
    p->unsynced_first = r->first;
    bkv_unlock(&p->lock);
}

/* The worker tries it again when the interval is over. */
static void arm_again(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    p->sync_armed = true;
    bkv_unlock(&p->lock);
    bkv_worker_wake(p);
}

/* That there are no descriptors says nothing about the disk: readers give theirs up
 * first, and others of the process may. */
static int open_found(struct bkv_partition *p, const char *name, struct bkv_file *file)
{
    int rc = bkv_file_open(file, &p->store->dir, name, O_RDONLY);
    for (unsigned i = 0; rc == BITKV_ERR_TOO_MANY_FILES && i < DESCRIPTOR_TRIES; i++) {
        bkv_segments_spare_descriptors(p);
        rc = bkv_file_open(file, &p->store->dir, name, O_RDONLY);
    }
    return rc;
}

/* A segment that recovery found gets a descriptor for this. */
static int sync_found(struct bkv_partition *p, const struct bkv_segment *segment)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    struct bkv_file file;
    int rc = open_found(p, name, &file);
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

int bkv_directory_sync(struct bkv_partition *p)
{
    if (bkv_io->fsync(p->directory.fd) != 0)
        return bkv_sync_code(bkv_error_sys(errno, "cannot sync directory %s/%s", p->store->dir.path,
                                           p->directory.name));
    return BITKV_OK;
}

static int sync_segment(struct bkv_partition *p, struct bkv_segment *segment)
{
    int rc = atomic_load(&segment->written) ? sync_written(segment) : sync_found(p, segment);
    if (rc == BITKV_OK && !atomic_load(&segment->entry_synced)) {
        rc = bkv_directory_sync(p);
        if (rc == BITKV_OK)
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
    bkv_doubt_raise(p);
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

/* --- flushes ------------------------------------------------------------------------------ */

/* Under sync_mutex, which it leaves meanwhile; no flush may be running. Up to the
 * end of `full`, or NULL: of the log. */
static int lead_flush(struct bkv_partition *p, struct bkv_segment *full)
{
    p->flush_running = true;
    (void)pthread_mutex_unlock(&p->sync_mutex);
    struct round r = full != NULL ? begin_round_upto(p, full) : begin_round(p);
    BKV_SCHEDULE_POINT("sync.begun");
    int rc = run_round(p, &r);
    BKV_SCHEDULE_POINT("sync.ran");
    if (rc == BITKV_ERR_TOO_MANY_FILES) {
        give_back(p, &r);
        if (full == NULL)
            arm_again(p);
    } else if (rc != BITKV_OK) {
        rc = fail(p);
    }
    (void)pthread_mutex_lock(&p->sync_mutex);
    p->flush_running = false;
    if (rc == BITKV_OK && r.first != NULL) {
        p->flushed_new = true;
        p->flushed_place = (struct bkv_flushed){.segment_id = r.segment_id, .offset = r.offset};
        atomic_fetch_add_explicit(&p->syncs, 1, memory_order_relaxed);
    }
    if (rc == BITKV_OK && r.position > atomic_load_explicit(&p->flushed, memory_order_relaxed))
        atomic_store_explicit(&p->flushed, r.position, memory_order_release);
    (void)pthread_cond_broadcast(&p->sync_done);
    return rc;
}

/* One flush of one's own, after what is running. Under sync_mutex. */
static int own_flush(struct bkv_partition *p, struct bkv_segment *full)
{
    while (p->flush_running)
        (void)pthread_cond_wait(&p->sync_done, &p->sync_mutex);
    return atomic_load(&p->failed) != 0 ? refuse(p) : lead_flush(p, full);
}

/* Returns when the log is on the disk up to there, whatever of it is acknowledged. */
static int flush_upto(struct bkv_partition *p, uint64_t upto)
{
    int rc = BITKV_OK;
    if (atomic_load_explicit(&p->flushed, memory_order_acquire) >= upto)
        return BITKV_OK;
    (void)pthread_mutex_lock(&p->sync_mutex);
    while (rc == BITKV_OK && atomic_load_explicit(&p->flushed, memory_order_relaxed) < upto) {
        if (atomic_load(&p->failed) != 0)
            rc = refuse(p);
        else if (p->flush_running)
            (void)pthread_cond_wait(&p->sync_done, &p->sync_mutex);
        else
            rc = lead_flush(p, NULL);
    }
    (void)pthread_mutex_unlock(&p->sync_mutex);
    return rc;
}

/* --- peers ------------------------------------------------------------------------------ */

void bkv_sync_bind(struct bkv_partition *p, const struct bkv_peers *peers, uint64_t position)
{
    for (uint32_t i = 0; i < BKV_PEER_WORDS; i++)
        p->peers.words[i] |= peers->words[i];
    atomic_store_explicit(&p->batch_end, position, memory_order_release);
}

static void add_peers(struct bkv_peers *to, const struct bkv_peers *from)
{
    for (uint32_t i = 0; i < BKV_PEER_WORDS; i++)
        to->words[i] |= from->words[i];
}

/* The lowest of `peers` that is not among `done`; false if there is none. */
static bool next_peer(const struct bkv_peers *peers, const struct bkv_peers *done, uint32_t *index)
{
    for (uint32_t i = 0; i < BKV_PEER_WORDS; i++) {
        uint64_t open = peers->words[i] & ~done->words[i];
        if (open != 0) {
            *index = i * 64 + (uint32_t)__builtin_ctzll(open);
            return true;
        }
    }
    return false;
}

/* Those of all batches so far are this round's. Returns whether there are any. */
static bool take_peers(struct bkv_partition *p, struct bkv_peers *peers)
{
    bkv_lock(&p->lock);
    add_peers(&p->peers_syncing, &p->peers);
    p->peers = (struct bkv_peers){0};
    *peers = p->peers_syncing;
    bkv_unlock(&p->lock);
    uint32_t any;
    return next_peer(peers, &(struct bkv_peers){0}, &any);
}

static void release_peers(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    p->peers_syncing = (struct bkv_peers){0};
    bkv_unlock(&p->lock);
}

/* What has to be flushed with this log: its peers, and theirs. A batch that comes
 * meanwhile may be taken along: it ends before what `batch_end` says then. */
static int flush_peers(struct bkv_partition *p, struct bkv_peers *peers)
{
    struct bkv_peers done = {0};
    uint32_t index;
    bkv_peers_add(&done, p->index);
    while (next_peer(peers, &done, &index)) {
        struct bkv_partition *peer = p->store->partitions[index];
        bkv_peers_add(&done, index);
        bkv_lock(&peer->lock);
        add_peers(peers, &peer->peers);
        add_peers(peers, &peer->peers_syncing);
        bkv_unlock(&peer->lock);
        int rc = flush_upto(peer, atomic_load_explicit(&peer->batch_end, memory_order_acquire));
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

/* The second step of a round: what is flushed may count. */
static int settle_batches(struct bkv_partition *p)
{
    struct bkv_peers peers;
    if (!take_peers(p, &peers))
        return BITKV_OK;
    int rc = flush_peers(p, &peers);
    if (rc == BITKV_ERR_TOO_MANY_FILES) {
        arm_again(p); /* for the same peers */
        return rc;
    }
    if (rc != BITKV_OK)
        return fail(p);
    release_peers(p);
    return BITKV_OK;
}

/* --- rounds --------------------------------------------------------------------------- */

static void disarm(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    p->sync_armed = false;
    bkv_unlock(&p->lock);
}

/* Under sync_mutex, which it leaves meanwhile; none may be running. Up to the
 * end of `full`, or NULL: of the log. */
static int lead_round(struct bkv_partition *p, struct bkv_segment *full, bool mark)
{
    p->sync_running = true;
    if (full == NULL)
        disarm(p);
    int rc = own_flush(p, full);
    uint64_t position = atomic_load_explicit(&p->flushed, memory_order_relaxed);
    struct bkv_flushed place = p->flushed_place;
    bool fresh = p->flushed_new;
    p->flushed_new = false;
    (void)pthread_mutex_unlock(&p->sync_mutex);
    if (rc == BITKV_OK)
        rc = settle_batches(p);
    if (rc == BITKV_OK && fresh && mark)
        bkv_append_mark(p, place.segment_id, place.offset);
    (void)pthread_mutex_lock(&p->sync_mutex);
    p->sync_running = false;
    p->flushed_new |= fresh && rc == BITKV_ERR_TOO_MANY_FILES;
    if (rc == BITKV_OK && position > atomic_load_explicit(&p->synced, memory_order_relaxed))
        atomic_store_explicit(&p->synced, position, memory_order_release);
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
