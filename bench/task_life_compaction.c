/* SPDX-License-Identifier: MIT */
/*
 * How fast bitkv_compact() is, by what it reads: each file is half dead, at random
 * places. With the files in the page cache, and with the page cache dropped; beside
 * what the disk takes of a plain file, measured after each.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "life.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

#define INPUT_BYTES 2e9
#define DISK_BYTES  (1u << 30)
/* Overwritten all the time: of these next to nothing is alive. */
#define DYING_KEYS 1024u

static bool fill_half_dead(struct bench_life *life)
{
    uint64_t *random = &life->workload.random;

    for (uint64_t id = 0, dying = 0; id < life->workload.keys;) {
        const bool dies = (bench_random(random) >> 63) != 0;

        if (!bench_life_put(life, dies ? life->workload.keys + dying++ % DYING_KEYS : id++, 1))
            return false;
        if (id % 65536 == 0)
            bench_life_progress(life->phase, "filling", id, life->workload.keys);
    }
    return true;
}

static bool measure(struct bench_life *life, const char *what)
{
    bitkv_statistics before, after;
    uint64_t start_ns, cpu_ns, bytes;
    char name[64];

    if (!bench_life_statistics(life, &before))
        return false;
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    start_ns = bench_now_ns();
    if (bitkv_compact(life->db, BITKV_ALL_PARTITIONS, NULL, NULL) != BITKV_OK)
        return bench_report_error("%s: %s", life->phase, bitkv_error_context());
    start_ns = bench_now_ns() - start_ns;
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    if (!bench_life_statistics(life, &after))
        return false;
    bytes = after.compaction_bytes_read - before.compaction_bytes_read;
    bench_life_figure(life->phase, what, (double)bytes * 1e9 / (double)start_ns);
    (void)snprintf(name, sizeof(name), "%s.written", what);
    bench_life_figure(life->phase, name,
                      (double)(after.compaction_bytes_written - before.compaction_bytes_written) *
                          1e9 / (double)start_ns);
    (void)snprintf(name, sizeof(name), "%s.cpu_share", what);
    bench_life_figure(life->phase, name, (double)cpu_ns / (double)start_ns);
    (void)snprintf(name, sizeof(name), "%s.dead", what);
    bench_life_figure(life->phase, name, before.fragmentation);
    return true;
}

/* Closed in between in either case: files that are mapped are not dropped. */
static bool pass(const struct bench_options *options, bool drop)
{
    const char *what = drop ? "dropped" : "cached";
    const uint64_t keys = bench_life_keys(options, INPUT_BYTES / 2);
    struct bench_life life;
    char directory[4096];
    double disk = 0.0;
    bool done;

    (void)snprintf(directory, sizeof(directory), "%s/%s", options->child_directory, what);
    done = bench_life_begin(&life, options, "compaction-speed", keys) &&
           bench_life_open(&life, directory, false, 0) && fill_half_dead(&life) &&
           bench_life_settle(&life) && bench_life_close(&life);
    if (done && drop) {
        const char *how = bench_async_drop_caches(directory);

        done = how != NULL;
        if (done)
            bench_report_text("compaction-speed.cache", "%s", how);
    }
    done = done && bench_life_open(&life, directory, false, 0);
    if (done) {
        bench_async_settle();
        bench_life_warm(options, keys);
    }
    done = done && measure(&life, what) && bench_life_verify(&life);
    done = bench_life_end(&life, done);
    bench_remove_tree(directory);
    if (done)
        disk = bench_life_disk_rate(options->child_directory,
                                    bench_life_scaled(options, DISK_BYTES, 16u << 20));
    if (disk > 0.0)
        bench_life_figure("compaction-speed", "disk", disk);
    return done && disk > 0.0;
}

int bench_task_compaction_speed(const struct bench_options *options,
                                const struct bench_engine *engine)
{
    (void)engine;
    return pass(options, false) && pass(options, true) ? EXIT_SUCCESS : EXIT_FAILURE;
}
