/* SPDX-License-Identifier: MIT */
/*
 * Puts that are to survive a power cut: one call at a time, and so many in
 * flight through a completion queue, where those that wait share their syncs.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

/* Of keys that are there; more would only fill the log. */
#define SYNCED_KEYS_MAX 100000u

const unsigned bench_async_synced_depths[] = {1, 4, 16, 64, 256, 0};

/* One call at a time if depth is 0. */
static bool pass(struct bench_async *async, unsigned depth, uint64_t puts)
{
    static struct bench_histogram histogram;
    const uint64_t wanted = depth > 4 ? puts * depth / 4 : puts;
    struct bench_op *ops;
    size_t count;
    char name[64];
    uint64_t start_ns;
    bool done;

    if (!bench_workload_order(&async->workload, BENCH_ORDER_OVERWRITE, wanted, 1, &ops, &count))
        return bench_report_error("out of memory");
    histogram = (struct bench_histogram){0};
    start_ns = bench_now_ns();
    done = depth == 0
               ? bench_async_single(async, ops, count, BITKV_DURABILITY_SYNC, &histogram)
               : bench_async_flight(async, ops, count, depth, BITKV_DURABILITY_SYNC, &histogram);
    if (depth == 0)
        (void)snprintf(name, sizeof(name), "async-synced.put_with");
    else
        (void)snprintf(name, sizeof(name), "async-synced.%u", depth);
    if (done) {
        bench_async_report_rate(async, name, count, start_ns);
        bench_async_report_latency(name, &histogram);
    }
    free(ops);
    return done;
}

int bench_task_async_synced(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct bench_async async;
    const uint64_t keys = options->keys < SYNCED_KEYS_MAX ? options->keys : SYNCED_KEYS_MAX;
    bool done;

    (void)engine;
    done = bench_async_begin(&async, options, keys, options->value_size) &&
           bench_async_open(&async, BITKV_BACKEND_AUTO) && bench_async_fill(&async);
    if (done && bitkv_sync(async.db) != BITKV_OK)
        done = bench_report_error("sync: %s", bitkv_error_context());
    done = done && pass(&async, 0, options->synced_puts);
    for (unsigned i = 0; done && bench_async_synced_depths[i] != 0; i++)
        done = pass(&async, bench_async_synced_depths[i], options->synced_puts);
    done = done && bench_async_verify(&async, "async-synced: verification");
    done = bench_async_end(&async, done);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
