/* SPDX-License-Identifier: MIT */
/*
 * Opening a large database: one process fills it and closes it or is killed
 * with SIGKILL, another opens it. The page cache is warm, as it is after a
 * crash of the program or its upgrade; nothing here says what a cold disk
 * does.
 *
 * Of the killed, one setting has the default options, in which checkpoints
 * bound what is replayed, and one never writes a checkpoint, so that all keys
 * come from the log and the hints of its sealed segments.
 */
#include "child.h"
#include "clock.h"
#include "tasks.h"

#include <bitkv.h>
#include <stdio.h>
#include <stdlib.h>

/* Every so many keys is read back after the opening. */
#define VERIFY_STRIDE 7u

const char *const bench_reopen_settings[BENCH_REOPEN_SETTINGS] = {"reopen-clean", "reopen-kill",
                                                                  "reopen-kill-no-checkpoint"};

static int open_db(const struct bench_options *options, bitkv **db)
{
    bitkv_options db_options;

    bitkv_options_init(&db_options);
    if (options->child_setting == BENCH_REOPEN_KILL_NO_CHECKPOINT)
        db_options.checkpoint_interval_bytes = UINT64_MAX / 2;
    return bitkv_open(db, options->child_directory, &db_options);
}

int bench_task_reopen_fill(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct bench_workload workload;
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    uint64_t value[(BENCH_VALUE_SIZE_MAX + 7) / 8];
    bitkv *db;

    (void)engine;
    (void)bench_workload_init(&workload, options->large_keys, options->key_size,
                              options->value_size, options->seed, false);
    if (open_db(options, &db) != BITKV_OK) {
        (void)bench_report_error("open: %s", bitkv_error_context());
        return EXIT_FAILURE;
    }
    for (uint64_t id = 0; id < workload.keys; id++) {
        bench_key(&workload, id, key);
        bench_value(&workload, bench_stamp(id, 1), value);
        if (bitkv_put(db, key, workload.key_size, value, workload.value_size) != BITKV_OK) {
            (void)bench_report_error("put: %s", bitkv_error_context());
            return EXIT_FAILURE;
        }
    }
    if (options->child_setting != BENCH_REOPEN_CLEAN)
        bench_report_ready_and_wait();
    if (bitkv_close(db) != BITKV_OK) {
        (void)bench_report_error("close: %s", bitkv_error_context());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

static void report(const char *setting, const char *what, double value)
{
    char name[96];

    (void)snprintf(name, sizeof(name), "%s.%s", setting, what);
    bench_report_figure(name, value);
}

static bool get_right(bitkv *db, const struct bench_workload *workload, uint64_t id)
{
    const struct bench_op op = {(uint32_t)id, 1};
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    uint64_t value[(BENCH_VALUE_SIZE_MAX + 7) / 8];
    size_t size = 0;

    bench_key(workload, id, key);
    return bitkv_get_into(db, key, workload->key_size, value, sizeof(value), &size) == BITKV_OK &&
           bench_value_right(workload, op, value, size, true);
}

/* What recovery did, and how fast: the whole, and what had to be replayed. */
static void report_recovery(const char *setting, const bitkv_statistics *statistics, double seconds)
{
    const bitkv_recovery *recovery = &statistics->recovery;
    const double replayed = (double)(recovery->hint_records + recovery->log_records);

    report(setting, "seconds", seconds);
    report(setting, "keys", (double)statistics->keys);
    report(setting, "checkpoint_keys", (double)recovery->checkpoint_keys);
    report(setting, "hint_records", (double)recovery->hint_records);
    report(setting, "log_records", (double)recovery->log_records);
    report(setting, "log_bytes", (double)recovery->log_bytes);
    report(setting, "keys_per_second", (double)statistics->keys / seconds);
    report(setting, "replayed_per_second", replayed / seconds);
}

int bench_task_reopen(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct bench_workload workload;
    const char *setting = bench_reopen_settings[options->child_setting];
    bitkv_statistics statistics;
    uint64_t wrong = 0;
    uint64_t start_ns;
    double seconds;
    bitkv *db;

    (void)engine;
    (void)bench_workload_init(&workload, options->large_keys, options->key_size,
                              options->value_size, options->seed, false);
    start_ns = bench_now_ns();
    if (open_db(options, &db) != BITKV_OK) {
        (void)bench_report_error("%s: open: %s", setting, bitkv_error_context());
        return EXIT_FAILURE;
    }
    wrong += !get_right(db, &workload, workload.keys / 2);
    seconds = (double)(bench_now_ns() - start_ns) * 1e-9;

    bitkv_statistics_init(&statistics);
    if (bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics) != BITKV_OK) {
        (void)bench_report_error("%s: stats: %s", setting, bitkv_error_context());
        return EXIT_FAILURE;
    }
    report_recovery(setting, &statistics, seconds);
    if (statistics.keys != workload.keys)
        bench_report_wrong(statistics.keys > workload.keys ? statistics.keys - workload.keys
                                                           : workload.keys - statistics.keys,
                           "keys after reopening: lost or too many");
    for (uint64_t id = 0; id < workload.keys; id += VERIFY_STRIDE)
        wrong += !get_right(db, &workload, id);
    wrong += !get_right(db, &workload, workload.keys - 1);
    if (wrong != 0)
        bench_report_wrong(wrong, setting);
    if (bitkv_close(db) != BITKV_OK) {
        (void)bench_report_error("%s: close: %s", setting, bitkv_error_context());
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
