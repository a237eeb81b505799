/* SPDX-License-Identifier: MIT */
/*
 * How long can one put or get take while the store grows from nothing? Every
 * operation is timed: puts of new keys, each followed by a get of a random
 * key that is there. Then as many overwrites and gets at constant size are the
 * control: they append, rotate, fault and sync as much, only the KeyDir no
 * longer grows.
 *
 * The machine interferes: a thread is preempted, a virtual processor taken
 * away. An operation above SLOW_NS therefore asks the kernel whether the
 * thread was switched out against its will since the last such question, and
 * the longest operation that was not is reported beside the longest of all.
 * Growth is the same in every run, interference is not; so what growth itself
 * costs shows in every run.
 */
#include "child.h"
#include "clock.h"
#include "machine.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define SLOW_NS 20000.0

struct operations {
    struct bench_histogram histogram;
    uint64_t ticks_max_own; /* of those that were not preempted */
    uint64_t above_1_ms, above_1_ms_own;
    uint64_t position_max_own; /* how many keys there were at that one, */
    bool slept_max_own;        /* and whether it waited for something */
};

struct growth {
    const struct bench_engine *engine;
    void *session;
    const char *phase;
    struct bench_workload workload;
    struct operations puts, gets;
    uint64_t slow_ticks, ms_ticks;
    struct rusage usage; /* at the last slow operation */
    uint64_t wrong;
};

static void account(struct growth *growth, struct operations *operations, uint64_t ticks,
                    uint64_t position)
{
    struct rusage before;

    bench_histogram_add(&operations->histogram, ticks);
    if (ticks < growth->slow_ticks)
        return;
    before = growth->usage;
    (void)getrusage(RUSAGE_THREAD, &growth->usage);
    operations->above_1_ms += ticks > growth->ms_ticks;
    if (growth->usage.ru_nivcsw != before.ru_nivcsw)
        return;
    operations->above_1_ms_own += ticks > growth->ms_ticks;
    if (ticks > operations->ticks_max_own) {
        operations->ticks_max_own = ticks;
        operations->position_max_own = position;
        operations->slept_max_own = growth->usage.ru_nvcsw != before.ru_nvcsw;
    }
}

static bool put(struct growth *growth, uint64_t id, uint32_t version)
{
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    uint64_t value[(BENCH_VALUE_SIZE_MAX + 7) / 8];
    uint64_t ticks;
    int status;

    bench_key(&growth->workload, id, key);
    bench_value(&growth->workload, bench_stamp(id, version), value);
    ticks = bench_tick_begin();
    status = growth->engine->put(growth->session, key, growth->workload.key_size, value,
                                 growth->workload.value_size);
    account(growth, &growth->puts, bench_tick_end() - ticks, id);
    if (status != BENCH_OK)
        return bench_report_error("%s: put: %s", growth->phase, bench_error());
    growth->workload.versions[id] = version;
    return true;
}

static bool get(struct growth *growth, uint64_t id, uint64_t position)
{
    const struct bench_op op = {(uint32_t)id, growth->workload.versions[id]};
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    const void *value = NULL;
    size_t size = 0;
    uint64_t ticks;
    int status;

    bench_key(&growth->workload, id, key);
    ticks = bench_tick_begin();
    status = growth->engine->get(growth->session, key, growth->workload.key_size, &value, &size);
    account(growth, &growth->gets, bench_tick_end() - ticks, position);
    if (status == BENCH_FAILED)
        return bench_report_error("%s: get: %s", growth->phase, bench_error());
    if (status != BENCH_OK || !bench_value_right(&growth->workload, op, value, size, false))
        growth->wrong++;
    return true;
}

static void report(const struct growth *growth, const char *what,
                   const struct operations *operations)
{
    char name[96];

    (void)snprintf(name, sizeof(name), "growth.%s.%s.p9999_ns", growth->phase, what);
    bench_report_figure(name, bench_histogram_percentile_ns(&operations->histogram, 0.9999));
    (void)snprintf(name, sizeof(name), "growth.%s.%s.p99999_ns", growth->phase, what);
    bench_report_figure(name, bench_histogram_percentile_ns(&operations->histogram, 0.99999));
    (void)snprintf(name, sizeof(name), "growth.%s.%s.max_ns", growth->phase, what);
    bench_report_figure(name, (double)operations->histogram.ticks_max / bench_ticks_per_ns());
    (void)snprintf(name, sizeof(name), "growth.%s.%s.max_own_ns", growth->phase, what);
    bench_report_figure(name, (double)operations->ticks_max_own / bench_ticks_per_ns());
    (void)snprintf(name, sizeof(name), "growth.%s.%s.max_own_at_key", growth->phase, what);
    bench_report_figure(name, (double)operations->position_max_own);
    (void)snprintf(name, sizeof(name), "growth.%s.%s.max_own_slept", growth->phase, what);
    bench_report_figure(name, (double)operations->slept_max_own);
    (void)snprintf(name, sizeof(name), "growth.%s.%s.above_1_ms", growth->phase, what);
    bench_report_figure(name, (double)operations->above_1_ms);
    (void)snprintf(name, sizeof(name), "growth.%s.%s.above_1_ms_own", growth->phase, what);
    bench_report_figure(name, (double)operations->above_1_ms_own);
}

static bool run(struct growth *growth, const char *phase, bool growing)
{
    const uint64_t keys = growth->workload.keys;

    growth->phase = phase;
    growth->puts = (struct operations){0};
    growth->gets = (struct operations){0};
    (void)getrusage(RUSAGE_THREAD, &growth->usage);
    for (uint64_t i = 0; i < keys; i++) {
        const uint64_t id = growing ? i : bench_random_below(&growth->workload.random, keys);
        const uint64_t there = growing ? i + 1 : keys;

        if (!put(growth, id, growth->workload.versions[id] + 1) ||
            !get(growth, bench_random_below(&growth->workload.random, there), there))
            return false;
    }
    report(growth, "put", &growth->puts);
    report(growth, "get", &growth->gets);
    if (growth->wrong != 0)
        bench_report_wrong(growth->wrong, phase);
    growth->wrong = 0;
    return true;
}

int bench_task_growth(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct growth growth;
    const struct bench_setup setup = {.directory = options->child_directory,
                                      .keys = options->large_keys,
                                      .key_size = options->key_size,
                                      .value_size = options->value_size};
    void *db;
    bool done;

    if (!bench_workload_init(&growth.workload, options->large_keys, options->key_size,
                             options->value_size, options->seed, true)) {
        (void)bench_report_error("out of memory");
        return EXIT_FAILURE;
    }
    /* Faulted now, so that the harness's own table is no part of it. */
    for (uint64_t i = 0; i < options->large_keys; i += 512)
        ((volatile uint32_t *)growth.workload.versions)[i] = 0;
    /* Puts of both rounds, and the KeyDir. */
    bench_machine_warm_memory(2 * (size_t)options->large_keys *
                              (options->key_size + options->value_size + 64u));
    db = engine->open(&setup);
    growth.engine = engine;
    growth.session = db == NULL ? NULL : engine->session_begin(db);
    if (growth.session == NULL) {
        (void)bench_report_error("open: %s", bench_error());
        return EXIT_FAILURE;
    }
    growth.slow_ticks = (uint64_t)(SLOW_NS * bench_ticks_per_ns());
    growth.ms_ticks = (uint64_t)(1e6 * bench_ticks_per_ns());
    done = run(&growth, "growing", true) && run(&growth, "control", false);
    engine->session_end(growth.session);
    if (engine->close(db) != BENCH_OK)
        done = bench_report_error("close: %s", bench_error());
    bench_workload_free(&growth.workload);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
