/* SPDX-License-Identifier: MIT */
/*
 * First in, first out, one lock. Threads are started when a task finds none
 * idle, up to the limit, and stay until the pool is destroyed. Signals are the
 * host's: the threads block them all.
 *
 * Failure modes: a thread that cannot be started: those that run do the work;
 * without any, the submission fails.
 */
#include "io/pool.h"

#include "base/error.h"
#include "base/memory.h"

#include <bitkv.h>

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

struct bkv_pool {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct bkv_task *first, *last;
    uint32_t queued, idle, threads, threads_max;
    bool stopping;
    pthread_t thread[];
};

int bkv_pool_create(struct bkv_pool **out, uint32_t threads_max)
{
    struct bkv_pool *pool = bkv_calloc(1, sizeof *pool + threads_max * sizeof pool->thread[0]);
    if (pool == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a pool of threads");
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->work, NULL);
    pool->threads_max = threads_max;
    *out = pool;
    return BITKV_OK;
}

/* Under the mutex. */
static struct bkv_task *take(struct bkv_pool *pool)
{
    struct bkv_task *task = pool->first;
    if (task != NULL) {
        pool->first = task->next;
        if (pool->first == NULL)
            pool->last = NULL;
        pool->queued--;
    }
    return task;
}

static void *serve(void *user)
{
    struct bkv_pool *pool = user;
    (void)prctl(PR_SET_NAME, "bitkv-io", 0, 0, 0);
    (void)pthread_mutex_lock(&pool->mutex);
    while (!pool->stopping) {
        struct bkv_task *task = take(pool);
        if (task == NULL) {
            pool->idle++;
            (void)pthread_cond_wait(&pool->work, &pool->mutex);
            pool->idle--;
            continue;
        }
        (void)pthread_mutex_unlock(&pool->mutex);
        task->run(task, false);
        (void)pthread_mutex_lock(&pool->mutex);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* Under the mutex. */
static void start_thread(struct bkv_pool *pool)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&pool->thread[pool->threads], NULL, serve, pool) == 0)
        pool->threads++;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int bkv_pool_submit(struct bkv_pool *pool, struct bkv_task *task)
{
    (void)pthread_mutex_lock(&pool->mutex);
    if (pool->idle <= pool->queued && pool->threads < pool->threads_max)
        start_thread(pool);
    bool accepted = pool->threads > 0;
    if (accepted) {
        task->next = NULL;
        if (pool->last != NULL)
            pool->last->next = task;
        else
            pool->first = task;
        pool->last = task;
        pool->queued++;
        (void)pthread_cond_signal(&pool->work);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return accepted ? BITKV_OK : bkv_error(BITKV_ERR_NO_MEMORY, "cannot start a thread");
}

bool bkv_pool_withdraw(struct bkv_pool *pool, struct bkv_task *task)
{
    (void)pthread_mutex_lock(&pool->mutex);
    struct bkv_task *before = NULL, *t = pool->first;
    while (t != NULL && t != task) {
        before = t;
        t = t->next;
    }
    if (t != NULL) {
        if (before != NULL)
            before->next = t->next;
        else
            pool->first = t->next;
        if (pool->last == t)
            pool->last = before;
        pool->queued--;
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return t != NULL;
}

void bkv_pool_destroy(struct bkv_pool *pool)
{
    if (pool == NULL)
        return;
    (void)pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    struct bkv_task *canceled = pool->first;
    pool->first = pool->last = NULL;
    pool->queued = 0;
    (void)pthread_cond_broadcast(&pool->work);
    (void)pthread_mutex_unlock(&pool->mutex);
    while (canceled != NULL) {
        struct bkv_task *next = canceled->next;
        canceled->run(canceled, true);
        canceled = next;
    }
    for (uint32_t i = 0; i < pool->threads; i++)
        (void)pthread_join(pool->thread[i], NULL);
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->mutex);
    bkv_mfree(pool);
}
