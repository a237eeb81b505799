/* SPDX-License-Identifier: MIT */
/*
 * One loop for all engines, and one body for all loops: loop_body() is inlined
 * into each case of loop_run() with its kind and its timing constant.
 */
#include "loops.h"

#include "clock.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct worker {
    const struct bench_engine *engine;
    const struct bench_workload *workload;
    void *db;
    void *session;
    const struct bench_op *ops;
    size_t count;
    enum bench_loop loop;
    struct bench_histogram *histogram; /* NULL if operations are not timed */
    pthread_barrier_t *barrier;
    uint64_t start_ns, end_ns;
    uint64_t cpu_ns;
    uint64_t wrong, failed;
    char complaint[256];
};

static __attribute__((noinline)) void complain(struct worker *worker, struct bench_op op,
                                               int status)
{
    if (worker->engine->stores_nothing)
        return;
    if (status == BENCH_FAILED)
        worker->failed++;
    else
        worker->wrong++;
    if (worker->complaint[0] != '\0')
        return;
    if (status == BENCH_FAILED)
        (void)snprintf(worker->complaint, sizeof(worker->complaint), "id %u: %s", op.id,
                       bench_error());
    else
        (void)snprintf(worker->complaint, sizeof(worker->complaint), "id %u, version %u%s: %s",
                       op.id, op.what & BENCH_OP_VERSION,
                       (op.what & BENCH_OP_AT_LEAST) != 0 ? " or later" : "",
                       status == BENCH_ABSENT ? "absent" : "wrong value, or should be absent");
}

static inline __attribute__((always_inline)) void loop_body(struct worker *worker,
                                                            enum bench_loop loop, bool timed)
{
    const struct bench_engine *engine = worker->engine;
    const struct bench_workload *workload = worker->workload;
    void *session = worker->session;
    const size_t key_size = workload->key_size;
    const size_t value_size = workload->value_size;
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    uint64_t value[(BENCH_VALUE_SIZE_MAX + 7) / 8];

    for (size_t i = 0; i < worker->count; i++) {
        const struct bench_op op = worker->ops[i];
        const void *got = NULL;
        size_t got_size = 0;
        uint64_t ticks = 0;
        int status;

        bench_key(workload, loop == BENCH_LOOP_MISS ? op.id | BENCH_ID_ABSENT : op.id, key);
        if (loop == BENCH_LOOP_PUT || (loop == BENCH_LOOP_MIXED && (op.what & BENCH_OP_PUT) != 0)) {
            bench_value(workload, bench_stamp(op.id, op.what & BENCH_OP_VERSION), value);
            if (timed)
                ticks = bench_tick_begin();
            status = engine->put(session, key, key_size, value, value_size);
            if (timed)
                bench_histogram_add(worker->histogram, bench_tick_end() - ticks);
            if (__builtin_expect(status != BENCH_OK, 0))
                complain(worker, op, status);
        } else if (loop == BENCH_LOOP_DELETE) {
            if (timed)
                ticks = bench_tick_begin();
            status = engine->del(session, key, key_size);
            if (timed)
                bench_histogram_add(worker->histogram, bench_tick_end() - ticks);
            if (__builtin_expect(status != BENCH_OK, 0))
                complain(worker, op, status);
        } else {
            if (timed)
                ticks = bench_tick_begin();
            status = engine->get(session, key, key_size, &got, &got_size);
            if (timed)
                bench_histogram_add(worker->histogram, bench_tick_end() - ticks);
            if (loop == BENCH_LOOP_MISS ||
                (loop == BENCH_LOOP_VERIFY && (op.what & BENCH_OP_VERSION) == 0)) {
                if (__builtin_expect(status != BENCH_ABSENT, 0))
                    complain(worker, op, status);
            } else if (__builtin_expect(status != BENCH_OK, 0)) {
                complain(worker, op, status);
            } else if (__builtin_expect(!bench_value_right(workload, op, got, got_size,
                                                           loop == BENCH_LOOP_VERIFY ||
                                                               i % BENCH_FULL_COMPARE == 0),
                                        0)) {
                complain(worker, op, status);
            }
        }
    }
}

static void loop_run(struct worker *worker)
{
    const bool timed = worker->histogram != NULL;

    worker->cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    worker->start_ns = bench_now_ns();
    switch (worker->loop) {
    case BENCH_LOOP_PUT:
        timed ? loop_body(worker, BENCH_LOOP_PUT, true) : loop_body(worker, BENCH_LOOP_PUT, false);
        break;
    case BENCH_LOOP_GET:
        timed ? loop_body(worker, BENCH_LOOP_GET, true) : loop_body(worker, BENCH_LOOP_GET, false);
        break;
    case BENCH_LOOP_MISS:
        timed ? loop_body(worker, BENCH_LOOP_MISS, true)
              : loop_body(worker, BENCH_LOOP_MISS, false);
        break;
    case BENCH_LOOP_MIXED:
        timed ? loop_body(worker, BENCH_LOOP_MIXED, true)
              : loop_body(worker, BENCH_LOOP_MIXED, false);
        break;
    case BENCH_LOOP_DELETE:
        timed ? loop_body(worker, BENCH_LOOP_DELETE, true)
              : loop_body(worker, BENCH_LOOP_DELETE, false);
        break;
    case BENCH_LOOP_VERIFY:
        loop_body(worker, BENCH_LOOP_VERIFY, false);
        break;
    }
    worker->end_ns = bench_now_ns();
    worker->cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - worker->cpu_ns;
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;

    worker->session = worker->engine->session_begin(worker->db);
    if (worker->barrier != NULL)
        (void)pthread_barrier_wait(worker->barrier);
    if (worker->session == NULL) {
        complain(worker, (struct bench_op){0, 0}, BENCH_FAILED);
        worker->start_ns = worker->end_ns = bench_now_ns();
        return NULL;
    }
    loop_run(worker);
    worker->engine->session_end(worker->session);
    return NULL;
}

static void collect(struct bench_outcome *outcome, const struct worker *workers, unsigned threads,
                    struct bench_histogram *histogram)
{
    uint64_t start_ns = UINT64_MAX;
    uint64_t end_ns = 0;

    for (unsigned t = 0; t < threads; t++) {
        const struct worker *worker = &workers[t];

        if (worker->start_ns < start_ns)
            start_ns = worker->start_ns;
        if (worker->end_ns > end_ns)
            end_ns = worker->end_ns;
        outcome->operations += worker->count;
        outcome->caller_cpu_ns += worker->cpu_ns;
        outcome->wrong += worker->wrong;
        outcome->failed += worker->failed;
        if (worker->complaint[0] != '\0' && outcome->complaint[0] == '\0')
            memcpy(outcome->complaint, worker->complaint, sizeof(outcome->complaint));
        if (histogram != NULL)
            bench_histogram_merge(histogram, worker->histogram);
    }
    outcome->duration_ns = end_ns - start_ns;
}

struct bench_outcome bench_loop_run(const struct bench_engine *engine, void *db,
                                    const struct bench_workload *workload, enum bench_loop loop,
                                    unsigned threads, struct bench_op *const *ops,
                                    const size_t *counts, struct bench_histogram *histogram)
{
    struct bench_outcome outcome = {0};
    struct worker *workers = calloc(threads, sizeof(*workers));
    uint64_t process_cpu_ns;
    pthread_t handles[BENCH_THREADS_MAX];
    pthread_barrier_t barrier;
    unsigned started = 0;

    if (workers == NULL)
        goto err_no_memory;
    (void)bench_ticks_per_ns();
    for (unsigned t = 0; t < threads; t++) {
        workers[t] = (struct worker){.engine = engine,
                                     .workload = workload,
                                     .db = db,
                                     .ops = ops[t],
                                     .count = counts[t],
                                     .loop = loop};
        if (histogram != NULL) {
            workers[t].histogram = calloc(1, sizeof(*histogram));
            if (workers[t].histogram == NULL)
                goto err_no_memory;
        }
    }
    process_cpu_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (threads == 1) {
        (void)worker_main(&workers[0]);
    } else {
        (void)pthread_barrier_init(&barrier, NULL, threads);
        for (started = 0; started < threads; started++) {
            workers[started].barrier = &barrier;
            if (pthread_create(&handles[started], NULL, worker_main, &workers[started]) != 0) {
                /* The others wait at the barrier for ever: nothing to save. */
                (void)fprintf(stderr, "bitkv-bench: cannot start a thread\n");
                abort();
            }
        }
        for (unsigned t = 0; t < threads; t++)
            (void)pthread_join(handles[t], NULL);
        (void)pthread_barrier_destroy(&barrier);
    }
    outcome.process_cpu_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - process_cpu_ns;
    collect(&outcome, workers, threads, histogram);
    goto done;

err_no_memory:
    outcome.failed = 1;
    (void)snprintf(outcome.complaint, sizeof(outcome.complaint), "out of memory");
done:
    for (unsigned t = 0; workers != NULL && t < threads; t++)
        free(workers[t].histogram);
    free(workers);
    return outcome;
}
