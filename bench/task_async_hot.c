/* SPDX-License-Identifier: MIT */
/*
 * Values in memory, through a completion queue: batches of gets and of
 * overwrites, beside single ones in the same process. First all gets, while
 * the log is as it was filled, then all puts.
 *
 * What a batch takes as a whole, from its submission to the last completion,
 * is from passes of their own, so that reading clocks is no part of the
 * throughput.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "machine.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

const unsigned bench_async_hot_depths[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 0};

struct hot {
    struct bench_async async;
    const struct bench_options *options;
    struct bench_histogram histogram;
};

static void warm(const struct bench_options *options)
{
    bench_machine_warm_memory(2 * (size_t)options->keys *
                                  (options->key_size + options->value_size + 64u) +
                              ((size_t)128 << 20));
}

/* One pass of operations: single ones if depth is 0. */
static bool pass(struct hot *hot, enum bench_order order, unsigned depth, bool timed)
{
    const char *what = order == BENCH_ORDER_GET ? "get" : "put";
    struct bench_histogram *histogram = timed ? &hot->histogram : NULL;
    struct bench_op *ops;
    size_t count;
    char name[64], cpu_name[96];
    uint64_t start_ns, cpu_ns;
    bool done;

    if (!bench_workload_order(&hot->async.workload, order, hot->options->keys, 1, &ops, &count))
        return bench_report_error("out of memory");
    if (order == BENCH_ORDER_OVERWRITE) {
        /* What earlier passes have left to be written and sealed is theirs. */
        (void)bitkv_sync(hot->async.db);
        bench_async_settle();
        warm(hot->options);
    }
    hot->histogram = (struct bench_histogram){0};
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    start_ns = bench_now_ns();
    done = depth == 0
               ? bench_async_single(&hot->async, ops, count, BITKV_DURABILITY_DEFAULT, histogram)
               : bench_async_batches(&hot->async, ops, count, depth, histogram);
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    if (depth == 0)
        (void)snprintf(name, sizeof(name), "async-hot.%s.single", what);
    else
        (void)snprintf(name, sizeof(name), "async-hot.%s.%u", what, depth);
    if (done && timed) {
        bench_async_report_latency(name, &hot->histogram);
        bench_async_report_wrong(&hot->async, name);
    } else if (done) {
        bench_async_report_rate(&hot->async, name, count, start_ns);
        (void)snprintf(cpu_name, sizeof(cpu_name), "%s.cpu_ns", name);
        bench_report_figure(cpu_name, (double)cpu_ns / (double)count);
    }
    free(ops);
    return done;
}

/* All depths; those that are timed as a whole there and back again, so that
 * what changes meanwhile hits all alike. */
static bool passes(struct hot *hot, enum bench_order order, bool timed)
{
    unsigned count = 0;

    while (bench_async_hot_depths[count] != 0)
        count++;
    if (!pass(hot, order, 0, timed))
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (!pass(hot, order, bench_async_hot_depths[i], timed))
            return false;
    }
    if (timed)
        return true;
    for (unsigned i = count; i > 0; i--) {
        if (!pass(hot, order, bench_async_hot_depths[i - 1], timed))
            return false;
    }
    return pass(hot, order, 0, timed);
}

int bench_task_async_hot(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct hot hot;
    bool done;

    (void)engine;
    hot.options = options;
    done = bench_async_begin(&hot.async, options, options->keys, options->value_size) &&
           bench_async_open(&hot.async, BITKV_BACKEND_AUTO);
    if (done)
        warm(options);
    done = done && bench_async_fill(&hot.async) && passes(&hot, BENCH_ORDER_GET, false) &&
           (!options->latency || passes(&hot, BENCH_ORDER_GET, true)) &&
           passes(&hot, BENCH_ORDER_OVERWRITE, false) &&
           (!options->latency || passes(&hot, BENCH_ORDER_OVERWRITE, true)) &&
           bench_async_verify(&hot.async, "async-hot: verification");
    done = bench_async_end(&hot.async, done);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
