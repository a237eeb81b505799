/* SPDX-License-Identifier: MIT */
/*
 * Completion queues: life, reaping, waiting.
 *
 * A queue may outlive its database. bitkv_close() lets calls in progress end,
 * the pool and the workers complete what they have, then cuts the queue off:
 * `db` becomes NULL. What the kernel still reads for the queue, it reads into
 * the queue's memory, from files that it holds itself, and the owner reaps it
 * whenever he comes. So closing waits for no queue's owner, and can be called
 * by any thread, the owner's callbacks included.
 *
 * Failure modes: no ring for this queue: threads serve it. No memory or
 * descriptor for the queue: creating it fails.
 */
#include "db/cq.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "db/call.h"
#include "io/ring.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How often it is asked whether a thread has ended, 0.2 ms apart. */
#define FORGOTTEN_WITHIN_TRIES 2000u

/* Links between databases and queues, of all databases. */
static pthread_mutex_t links = PTHREAD_MUTEX_INITIALIZER;

/* A child of fork() goes on in the same thread, with another id. */
static int thread_id(uint32_t generation)
{
    static _Thread_local int id;
    static _Thread_local uint32_t id_generation;
    if (BKV_UNLIKELY(id_generation != generation)) {
        id = (int)gettid();
        id_generation = generation;
    }
    return id;
}

/* --- checks ----------------------------------------------------------------------- */

int bkv_cq_check(const bitkv_cq *cq)
{
    if (BKV_UNLIKELY(cq == NULL))
        return bkv_error(BITKV_ERR_INVALID, "no completion queue");
    if (BKV_UNLIKELY(bkv_forked(cq->fork_generation)))
        return bkv_error(BITKV_ERR_FORKED, "this completion queue was created before a fork");
    if (BKV_UNLIKELY(cq->owner != thread_id(cq->fork_generation)))
        return bkv_error(BITKV_ERR_INVALID, "a completion queue is for the thread that created it");
    return BITKV_OK;
}

int bkv_cq_enter(bitkv_cq *cq, struct bitkv **db, struct bkv_epoch_slot **slot)
{
    *db = NULL;
    *slot = bkv_epoch_enter();
    if (BKV_UNLIKELY(*slot == NULL))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for another thread");
    BKV_SCHEDULE_POINT("call.entered");
    struct bitkv *open = atomic_load_explicit(&cq->db, memory_order_seq_cst);
    if (BKV_LIKELY(open != NULL && !atomic_load_explicit(&open->closing, memory_order_seq_cst))) {
        *db = open;
        BKV_SCHEDULE_POINT("call.begun");
        return BITKV_OK;
    }
    bkv_epoch_exit(*slot);
    return bkv_error(BITKV_ERR_CLOSED, "the queue's database was closed");
}

/* --- completions ------------------------------------------------------------------- */

struct bkv_text *bkv_text_of_error(void)
{
    size_t size = strlen(bitkv_error_context()) + 1;
    struct bkv_text *text = bkv_malloc(sizeof *text + size);
    if (text != NULL) {
        text->next = NULL;
        memcpy(text->text, bitkv_error_context(), size);
    }
    return text;
}

struct bkv_ready *bkv_cq_complete(bitkv_cq *cq, const bitkv_op *op, uint64_t id)
{
    BKV_ASSERT(cq->ready_count < cq->capacity); /* Q2 */
    /* An empty ring begins anew: a queue that is reaped often stays in cache. */
    if (cq->ready_count == 0)
        cq->ready_first = 0;
    uint32_t at = cq->ready_first + cq->ready_count++;
    struct bkv_ready *ready = &cq->ready[at < cq->capacity ? at : at - cq->capacity];
    *ready = (struct bkv_ready){
        .completion = {.id = id, .user_data = op->user_data, .kind = op->kind, .error = ""},
        .callback = op->callback,
    };
    return ready;
}

void bkv_cq_uncomplete(bitkv_cq *cq)
{
    cq->ready_count--;
}

void bkv_cq_set_status_text(struct bkv_ready *ready, int status, struct bkv_text *text)
{
    ready->completion.status = status;
    ready->error = text;
    if (status < 0)
        ready->completion.error = text != NULL ? text->text : bitkv_strerror(status);
}

void bkv_cq_set_status(struct bkv_ready *ready, int status)
{
    if (BKV_LIKELY(status >= 0))
        ready->completion.status = status;
    else
        bkv_cq_set_status_text(ready, status, bkv_text_of_error());
}

static void free_texts(bitkv_cq *cq)
{
    while (cq->handed_out != NULL) {
        struct bkv_text *next = cq->handed_out->next;
        bkv_mfree(cq->handed_out);
        cq->handed_out = next;
    }
}

/* Its place is free from now on, and taken again by the next completion. */
static const struct bkv_ready *take_ready(bitkv_cq *cq)
{
    const struct bkv_ready *ready = &cq->ready[cq->ready_first];
    cq->ready_first = cq->ready_first + 1 < cq->capacity ? cq->ready_first + 1 : 0;
    cq->ready_count--;
    cq->outstanding--;
    return ready;
}

/* With a copy: the callback may submit, and complete in the same place. */
static void call_back(bitkv_cq *cq, const struct bkv_ready *taken)
{
    struct bkv_ready ready = *taken;
    if (ready.completion.status < 0)
        bkv_error_context_set(ready.completion.error);
    cq->reaping = true;
    ready.callback(cq, &ready.completion);
    cq->reaping = false;
    bkv_mfree(ready.error);
}

/* *taken counts those with a callback, too. */
static int reap(bitkv_cq *cq, bitkv_completion *completions, size_t max, size_t *taken)
{
    int stored = 0;
    free_texts(cq);
    for (*taken = 0; *taken < max && cq->ready_count > 0; ++*taken) {
        const struct bkv_ready *ready = take_ready(cq);
        if (ready->callback != NULL) {
            call_back(cq, ready);
            continue;
        }
        completions[stored++] = ready->completion;
        if (BKV_UNLIKELY(ready->error != NULL)) {
            ready->error->next = cq->handed_out;
            cq->handed_out = ready->error;
        }
    }
    return stored;
}

/* --- reaping -------------------------------------------------------------------------- */

void bkv_cq_signal_user(bitkv_cq *cq)
{
    int fd = atomic_load_explicit(&cq->user_fd, memory_order_acquire);
    if (fd >= 0)
        (void)!eventfd_write(fd, 1);
}

static int check_reap(bitkv_cq *cq, const bitkv_completion *completions, size_t max)
{
    int rc = bkv_cq_check(cq);
    if (rc != BITKV_OK)
        return rc;
    if (BKV_UNLIKELY(cq->reaping))
        return bkv_error(BITKV_ERR_INVALID, "a callback of the queue may not reap it");
    if (BKV_UNLIKELY(completions == NULL || max == 0))
        return bkv_error(BITKV_ERR_INVALID, "no place for completions");
    return BITKV_OK;
}

/* Reset before looking, set again if something is left: nothing is missed. */
static int collect_and_reap(bitkv_cq *cq, bitkv_completion *completions, size_t max, size_t *taken)
{
    int fd = atomic_load_explicit(&cq->user_fd, memory_order_relaxed);
    eventfd_t count;
    if (BKV_UNLIKELY(fd >= 0))
        (void)!eventfd_read(fd, &count);
    bkv_pending_collect(cq);
    int stored = reap(cq, completions, max, taken);
    bkv_pending_flush(cq); /* what callbacks submitted */
    if (BKV_UNLIKELY(fd >= 0) &&
        (cq->ready_count > 0 || (cq->ring != NULL && bkv_ring_has_results(cq->ring))))
        bkv_cq_signal_user(cq);
    return stored;
}

int bitkv_cq_poll(bitkv_cq *cq, bitkv_completion *completions, size_t max)
{
    int rc = check_reap(cq, completions, max);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    size_t taken;
    int stored = collect_and_reap(cq, completions, max, &taken);
    if (BKV_UNLIKELY(cq->patient != NULL))
        bkv_pending_urge(cq);
    return stored;
}

int bitkv_cq_wait(bitkv_cq *cq, bitkv_completion *completions, size_t max, int timeout_ms)
{
    int rc = check_reap(cq, completions, max);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    uint64_t deadline = timeout_ms > 0 ? bkv_now_ns() + (uint64_t)timeout_ms * 1000000u : 0;
    for (;;) {
        size_t taken;
        int stored = collect_and_reap(cq, completions, max, &taken);
        if (taken > 0 || cq->outstanding == 0)
            return stored;
        if (timeout_ms == 0) {
            bkv_pending_urge(cq);
            return 0;
        }
        int64_t left = -1;
        if (timeout_ms > 0) {
            uint64_t now = bkv_now_ns();
            if (now >= deadline)
                return 0;
            left = (int64_t)(deadline - now);
        }
        bkv_pending_sleep(cq, left);
    }
}

size_t bitkv_cq_pending(const bitkv_cq *cq)
{
    return cq != NULL ? cq->outstanding : 0;
}

int bitkv_cq_cancel(bitkv_cq *cq, uint64_t id)
{
    int rc = bkv_cq_check(cq);
    if (rc == BITKV_OK)
        rc = bkv_pending_cancel(cq, id);
    if (rc == BITKV_OK && cq->ready_count > 0)
        bkv_cq_signal_user(cq);
    return rc;
}

int bitkv_cq_fd(bitkv_cq *cq)
{
    int rc = bkv_cq_check(cq);
    if (rc != BITKV_OK)
        return rc;
    int fd = atomic_load_explicit(&cq->user_fd, memory_order_relaxed);
    if (fd >= 0)
        return fd;
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return bkv_error_sys(errno, "cannot make the queue's descriptor");
    int error = cq->ring != NULL ? bkv_ring_signal(cq->ring, fd) : 0;
    if (error != 0) {
        (void)close(fd);
        return bkv_error_sys(error, "cannot have the ring signal a descriptor");
    }
    atomic_store_explicit(&cq->user_fd, fd, memory_order_seq_cst);
    if (cq->outstanding > 0)
        bkv_cq_signal_user(cq); /* something may have completed before */
    return fd;
}

bitkv_backend bitkv_cq_backend(const bitkv_cq *cq, const char **reason)
{
    if (cq == NULL)
        return BITKV_BACKEND_AUTO;
    if (reason != NULL)
        *reason = cq->backend_reason;
    return cq->backend;
}

/* --- life ------------------------------------------------------------------------------- */

void bitkv_cq_options_init_sized(bitkv_cq_options *options, size_t struct_size)
{
    if (options == NULL)
        return;
    bitkv_cq_options defaults = {.struct_size = struct_size, .capacity = BKV_CQ_CAPACITY_DEFAULT};
    memset(options, 0, struct_size);
    memcpy(options, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
}

static int check_options(bitkv_cq_options *out, const bitkv_cq_options *given)
{
    bitkv_cq_options_init(out);
    if (given == NULL)
        return BITKV_OK;
    if (given->struct_size < offsetof(bitkv_cq_options, reserved) ||
        given->struct_size > sizeof *out)
        return bkv_error(BITKV_ERR_INVALID,
                         "queue options of %zu bytes: call bitkv_cq_options_init() first",
                         given->struct_size);
    memcpy(out, given, given->struct_size);
    if (out->capacity < 1 || out->capacity > BKV_CQ_CAPACITY_MAX)
        return bkv_error(BITKV_ERR_INVALID, "queue option capacity is %u, not within 1 to %u",
                         out->capacity, BKV_CQ_CAPACITY_MAX);
    for (size_t i = 0; i < sizeof out->reserved / sizeof out->reserved[0]; i++) {
        if (out->reserved[i] != 0)
            return bkv_error(BITKV_ERR_INVALID, "a reserved queue option is not zero: call "
                                                "bitkv_cq_options_init() first");
    }
    return BITKV_OK;
}

static void open_ring(bitkv_cq *cq, const struct bitkv *db)
{
    cq->backend = db->backend;
    (void)snprintf(cq->reason_text, sizeof cq->reason_text, "%s", db->backend_reason);
    cq->backend_reason = cq->reason_text;
    if (cq->backend != BITKV_BACKEND_IO_URING)
        return;
    int error = bkv_ring_open(&cq->ring, db->store.options.ring_depth);
    if (error == 0)
        return;
    cq->backend = BITKV_BACKEND_THREADS;
    (void)snprintf(cq->reason_text, sizeof cq->reason_text,
                   "the kernel refused this queue a ring: %s", strerrordesc_np(error));
    bkv_log(&db->store, BITKV_LOG_WARNING, "a completion queue is served by threads: %s",
            cq->backend_reason);
}

/* What a queue has of its own. */
static void release(bitkv_cq *cq)
{
    int fd = atomic_load(&cq->user_fd);
    bkv_ring_close(cq->ring);
    if (fd >= 0)
        (void)close(fd);
    if (cq->event_fd >= 0)
        (void)close(cq->event_fd);
    free_texts(cq);
    while (cq->free != NULL) {
        struct bkv_pending *next = cq->free->link;
        bkv_mfree(cq->free);
        cq->free = next;
    }
    bkv_mfree(cq->ready);
    bkv_mfree(cq->path);
    bkv_mfree(cq);
}

static int make(bitkv_cq **out, struct bitkv *db, const bitkv_cq_options *options)
{
    bitkv_cq *cq = bkv_calloc(1, sizeof *cq);
    if (cq == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a completion queue");
    atomic_init(&cq->user_fd, -1);
    cq->fork_generation = db->fork_generation;
    cq->owner = thread_id(cq->fork_generation);
    cq->capacity = options->capacity;
    cq->next_id = 1;
    cq->ready = bkv_calloc(options->capacity, sizeof *cq->ready);
    cq->path = bkv_strdup(db->store.dir.path);
    cq->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = BITKV_OK;
    if (cq->ready == NULL || cq->path == NULL)
        rc = bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a completion queue");
    else if (cq->event_fd < 0)
        rc = bkv_error_sys(errno, "cannot make a completion queue's descriptor");
    if (rc != BITKV_OK) {
        release(cq);
        return rc;
    }
    open_ring(cq, db);
    *out = cq;
    return BITKV_OK;
}

static void attach(bitkv_cq *cq, struct bitkv *db)
{
    (void)pthread_mutex_lock(&links);
    cq->next = db->queues;
    if (cq->next != NULL)
        cq->next->before = cq;
    db->queues = cq;
    atomic_store(&cq->db, db);
    (void)pthread_mutex_unlock(&links);
}

static void detach(bitkv_cq *cq)
{
    (void)pthread_mutex_lock(&links);
    struct bitkv *db = atomic_load(&cq->db);
    if (db != NULL) {
        if (cq->before != NULL)
            cq->before->next = cq->next;
        else
            db->queues = cq->next;
        if (cq->next != NULL)
            cq->next->before = cq->before;
        atomic_store(&cq->db, NULL);
    }
    (void)pthread_mutex_unlock(&links);
}

void bkv_cq_detach_all(struct bitkv *db)
{
    (void)pthread_mutex_lock(&links);
    bool any = db->queues != NULL;
    while (db->queues != NULL) {
        bitkv_cq *cq = db->queues;
        db->queues = cq->next;
        cq->next = cq->before = NULL;
        atomic_store_explicit(&cq->db, NULL, memory_order_seq_cst);
    }
    (void)pthread_mutex_unlock(&links);
    if (any) /* an owner may just be looking whether the database is open (Q3) */
        bkv_epoch_wait(bkv_epoch_stamp());
}

void bkv_cq_before_fork(void)
{
    (void)pthread_mutex_lock(&links);
}

void bkv_cq_after_fork(void)
{
    (void)pthread_mutex_unlock(&links);
}

int bitkv_cq_create(bitkv_cq **cq, bitkv *db, const bitkv_cq_options *options)
{
    if (cq == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_cq_create: no place for the queue");
    *cq = NULL;
    bitkv_cq_options checked;
    int rc = check_options(&checked, options);
    struct bkv_epoch_slot *slot = NULL;
    if (rc == BITKV_OK)
        rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    rc = make(cq, db, &checked);
    if (rc == BITKV_OK)
        attach(*cq, db);
    bkv_epoch_exit(slot);
    return rc;
}

/* pthread_join() returns a moment before the kernel has forgotten the thread. */
static bool thread_lives(int id)
{
    for (unsigned i = 0; i < FORGOTTEN_WITHIN_TRIES; i++) {
        if (syscall(SYS_tgkill, getpid(), id, 0) != 0 && errno == ESRCH)
            return false;
        bkv_sleep_us(200);
    }
    return true;
}

/* A result that nobody took. */
static void discard(const struct bkv_ready *ready)
{
    bitkv_view view = ready->completion.view;
    if (view.pin != NULL)
        bitkv_view_release(&view);
    if (ready->allocated)
        bitkv_free(ready->completion.value);
    bkv_mfree(ready->error);
}

static void drain(bitkv_cq *cq)
{
    while (cq->ready_count > 0) {
        const struct bkv_ready *ready = take_ready(cq);
        if (ready->callback != NULL)
            call_back(cq, ready);
        else
            discard(ready);
    }
}

int bitkv_cq_destroy(bitkv_cq *cq)
{
    if (cq == NULL)
        return BITKV_OK;
    if (bkv_forked(cq->fork_generation))
        return bkv_error(BITKV_ERR_FORKED, "this completion queue was created before a fork");
    bool orphan = cq->owner != thread_id(cq->fork_generation);
    if (orphan && thread_lives(cq->owner))
        return bkv_error(BITKV_ERR_INVALID, "the thread that the completion queue belongs to still "
                                            "runs: destroy it there");
    if (cq->reaping)
        return bkv_error(BITKV_ERR_INVALID, "a callback of the queue may not destroy it");
    cq->destroying = true;
    if (orphan)
        bkv_pending_orphan(cq);
    (void)bkv_pending_cancel(cq, BITKV_CQ_ALL);
    bkv_pending_collect(cq);
    while (cq->pending != NULL) {
        bkv_pending_sleep(cq, -1);
        bkv_pending_collect(cq);
    }
    drain(cq);
    detach(cq);
    while (atomic_load_explicit(&cq->producers, memory_order_acquire) > 0)
        (void)sched_yield(); /* one who woke us, on its last steps */
    release(cq);
    return BITKV_OK;
}
