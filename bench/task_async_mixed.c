/* SPDX-License-Identifier: MIT */
/*
 * Gets of values in memory, while others on the same queue wait for the disk:
 * those that need not wait shall not. A number of cold gets is pending all the
 * time, replaced as they complete; meanwhile hot ones are submitted, singly
 * and in batches, and timed until they have been reaped.
 *
 * The hot records are those written last, and are read once before.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

#define VALUE_SIZE   1000u
#define SPACING      32u
#define HOT_KEYS     20000u
#define COLD_PENDING 32u
#define HOT_BATCH    32u

struct mixed {
    struct bench_async async;
    uint64_t cold_keys;
    struct bench_op *ops; /* the cold ones */
    size_t count;
    size_t next; /* of them */
    unsigned vacant[COLD_PENDING];
    unsigned vacancies;
    struct bench_histogram histogram;
};

/* Submits cold ones for all that have completed; not timed. */
static bool replace(struct mixed *mixed, size_t end)
{
    struct bench_async *async = &mixed->async;
    unsigned fresh = 0;

    while (mixed->vacancies > 0 && mixed->next < end)
        bench_async_prepare(async, mixed->vacant[--mixed->vacancies], &async->ops[fresh++],
                            mixed->ops[mixed->next++], BITKV_DURABILITY_DEFAULT);
    if (fresh > 0 && bitkv_cq_submit(async->cq, async->ops, fresh, NULL) != (int)fresh)
        return bench_report_error("submit: %s", bitkv_error_context());
    return true;
}

/* Reaps once; counts the hot ones among it. */
static bool reap(struct mixed *mixed, uint64_t submitted_ticks, unsigned *hot)
{
    struct bench_async *async = &mixed->async;
    const int taken = bitkv_cq_wait(async->cq, async->completions, BENCH_ASYNC_DEPTH_MAX, -1);
    const uint64_t ticks = bench_tick_end();

    if (taken < 0)
        return bench_report_error("wait: %s", bitkv_error_context());
    for (int i = 0; i < taken; i++) {
        const struct bench_async_slot *slot = async->completions[i].user_data;
        const unsigned index = (unsigned)(slot - async->slots);

        if (index < COLD_PENDING) {
            mixed->vacant[mixed->vacancies++] = index;
        } else {
            bench_histogram_add(&mixed->histogram, ticks - submitted_ticks);
            ++*hot;
        }
        if (!bench_async_judge(async, &async->completions[i]))
            return false;
    }
    return true;
}

static struct bench_op random_hot(struct mixed *mixed)
{
    struct bench_workload *workload = &mixed->async.workload;
    const uint64_t id = mixed->cold_keys + bench_random_below(&workload->random, HOT_KEYS);

    return (struct bench_op){(uint32_t)id, workload->versions[id]};
}

/* Hot ones until the cold ones up to `end` have been submitted. */
static bool pass(struct mixed *mixed, const char *backend, const char *what, unsigned batch,
                 size_t end)
{
    struct bench_async *async = &mixed->async;
    const size_t begin = mixed->next;
    const uint64_t start_ns = bench_now_ns();
    size_t done = 0;
    unsigned ignored = 0;
    char name[64], figure[96];

    mixed->histogram = (struct bench_histogram){0};
    while (mixed->next < end) {
        unsigned hot = 0;
        uint64_t ticks;

        if (!replace(mixed, end))
            return false;
        for (unsigned i = 0; i < batch; i++)
            bench_async_prepare(async, COLD_PENDING + i, &async->ops[i], random_hot(mixed),
                                BITKV_DURABILITY_DEFAULT);
        ticks = bench_tick_begin();
        if (bitkv_cq_submit(async->cq, async->ops, batch, NULL) != (int)batch)
            return bench_report_error("submit: %s", bitkv_error_context());
        while (hot < batch) {
            if (!reap(mixed, ticks, &hot))
                return false;
        }
        done += batch;
    }
    (void)snprintf(name, sizeof(name), "async-mixed.%s.%s", backend, what);
    bench_async_report_latency(name, &mixed->histogram);
    (void)snprintf(figure, sizeof(figure), "%s.cold", name);
    bench_report_figure(figure, (double)(end - begin) * 1e9 / (double)(bench_now_ns() - start_ns));
    bench_async_report_rate(async, name, done, start_ns);
    while (bitkv_cq_pending(async->cq) > 0) {
        if (!reap(mixed, 0, &ignored))
            return false;
    }
    return true;
}

static bool warm_hot(struct mixed *mixed)
{
    const struct bench_workload *workload = &mixed->async.workload;

    for (uint64_t id = mixed->cold_keys; id < workload->keys; id++) {
        const struct bench_op op = {(uint32_t)id, workload->versions[id]};

        if (!bench_async_single(&mixed->async, &op, 1, BITKV_DURABILITY_DEFAULT, NULL))
            return false;
    }
    return true;
}

static bool passes(struct mixed *mixed, bitkv_backend backend)
{
    const char *title = backend == BITKV_BACKEND_THREADS ? "threads" : "io_uring";
    bool done = true;

    if (bench_async_drop_caches(mixed->async.directory) == NULL ||
        !bench_async_open(&mixed->async, backend))
        return false;
    if (!bench_async_has_backend(&mixed->async, backend)) {
        bench_report_text("async-mixed.backend", "%s is not to be had here", title);
        return bench_async_close(&mixed->async);
    }
    bench_async_settle();
    mixed->next = 0;
    mixed->vacancies = COLD_PENDING;
    for (unsigned i = 0; i < COLD_PENDING; i++)
        mixed->vacant[i] = i;
    done = warm_hot(mixed) && pass(mixed, title, "one", 1, mixed->count / 2) &&
           pass(mixed, title, "batch", HOT_BATCH, mixed->count);
    return bench_async_close(&mixed->async) && done;
}

int bench_task_async_mixed(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct mixed mixed;
    bool done;

    (void)engine;
    mixed.cold_keys = options->cold_reads * SPACING;
    done = bench_async_begin(&mixed.async, options, mixed.cold_keys + HOT_KEYS, VALUE_SIZE) &&
           bench_async_open(&mixed.async, BITKV_BACKEND_AUTO) && bench_async_fill(&mixed.async) &&
           bench_async_seal(&mixed.async);
    if (mixed.async.db != NULL)
        done = bench_async_close(&mixed.async) && done;
    mixed.ops = bench_async_apart(&mixed.async.workload, mixed.cold_keys, SPACING, &mixed.count);
    if (done && mixed.ops == NULL)
        done = bench_report_error("out of memory");
    done = done && passes(&mixed, BITKV_BACKEND_IO_URING) && passes(&mixed, BITKV_BACKEND_THREADS);
    free(mixed.ops);
    done = bench_async_end(&mixed.async, done);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
