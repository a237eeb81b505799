/* SPDX-License-Identifier: MIT */
/*
 * Memory a key: growth of RssAnon, the resident memory that belongs to no
 * file, from before the database is opened; so heap, tables, threads' stacks
 * and the engine's fixed costs are all in it. The process does nothing else
 * and keeps no table of its own.
 *
 * Besides the final figure, the largest on the way from a tenth of the keys on
 * is reported: a table that doubles looks good just before it does.
 */
#include "child.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

/* The larger settings have small values to save disk; values are not in
 * memory that is counted here anyway. */
const struct bench_memory_setting bench_memory_settings[] = {
    {"small-16", false, 16, 100},
    {"small-200", false, 200, 100},
    {"large-16", true, 16, 8},
    {"large-200", true, 200, 8},
};
const unsigned bench_memory_setting_count =
    sizeof(bench_memory_settings) / sizeof(bench_memory_settings[0]);

static double per_key(uint64_t base, uint64_t keys)
{
    const uint64_t now = bench_rss_anon();

    return now > base ? (double)(now - base) / (double)keys : 0.0;
}

static void report(const char *setting, const char *what, double value)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "memory.%s.%s", setting, what);
    bench_report_figure(name, value);
}

static bool fill(const struct bench_engine *engine, void *session,
                 const struct bench_workload *workload, uint64_t base, double *peak)
{
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    uint64_t value[(BENCH_VALUE_SIZE_MAX + 7) / 8];

    *peak = 0.0;
    for (uint64_t id = 0; id < workload->keys; id++) {
        bench_key(workload, id, key);
        bench_value(workload, bench_stamp(id, 1), value);
        if (engine->put(session, key, workload->key_size, value, workload->value_size) != BENCH_OK)
            return bench_report_error("put: %s", bench_error());
        if (id >= workload->keys / 10 && id % (workload->keys / 200) == 0) {
            const double now = per_key(base, id + 1);

            if (now > *peak)
                *peak = now;
        }
    }
    return true;
}

int bench_task_memory(const struct bench_options *options, const struct bench_engine *engine)
{
    const struct bench_memory_setting *setting = &bench_memory_settings[options->child_setting];
    const uint64_t keys = setting->large ? options->large_keys : options->keys;
    const struct bench_setup setup = {.directory = options->child_directory,
                                      .keys = keys,
                                      .key_size = setting->key_size,
                                      .value_size = setting->value_size};
    static struct bench_workload workload;
    uint64_t base;
    double peak;
    void *db, *session;

    (void)bench_workload_init(&workload, keys, setting->key_size, setting->value_size,
                              options->seed, false);
    (void)bench_rss_anon(); /* the first call allocates */
    base = bench_rss_anon();
    db = engine->open(&setup);
    session = db == NULL ? NULL : engine->session_begin(db);
    if (session == NULL) {
        (void)bench_report_error("open: %s", bench_error());
        return EXIT_FAILURE;
    }
    report(setting->name, "empty_bytes", per_key(base, 1));
    if (!fill(engine, session, &workload, base, &peak))
        return EXIT_FAILURE;
    report(setting->name, "bytes_per_key", per_key(base, keys));
    report(setting->name, "bytes_per_key_peak", peak);

    /* Again after a clean reopening, in the same process: what it gives back
     * and takes again. */
    engine->session_end(session);
    if (engine->close(db) != BENCH_OK || (db = engine->open(&setup)) == NULL) {
        (void)bench_report_error("reopen: %s", bench_error());
        return EXIT_FAILURE;
    }
    report(setting->name, "bytes_per_key_reopened", per_key(base, keys));
    if (engine->close(db) != BENCH_OK) {
        (void)bench_report_error("close: %s", bench_error());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
