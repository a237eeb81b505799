/* SPDX-License-Identifier: MIT */
/*
 * Values on disk. Every pass begins with a page cache that has been dropped
 * and a database that has just been opened, and reads no record twice, nor,
 * as far as that can be arranged, a page: one call at a time, then so many in
 * flight through a completion queue, on io_uring and on threads. fio does the
 * same with pages of the same files.
 *
 * A record is shorter than a page; one in four lies on two, for which the
 * kernel reads both. So fio is run with 8 KiB for one read in four, too. The disk of a
 * virtual machine may have a cache of its own behind it: all files are read
 * once before the first pass, so that no pass finds it any warmer than the
 * others do.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "fio.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_SIZE 1000u
/* One in so many records is read. */
#define SPACING 64u
/* In a hundred: records that lie on two pages. */
#define TWO_PAGES 25u

const unsigned bench_async_cold_depths[] = {1, 4, 16, 32, 64, 128, 0};

struct cold {
    struct bench_async async;
    struct bench_op *ops;
    size_t count;
    char *files;
    struct bench_histogram histogram;
};

/* Bytes that this process has caused to be read from disk. */
static uint64_t bytes_read(void)
{
    FILE *file = fopen("/proc/self/io", "r");
    char line[128];
    uint64_t bytes = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "read_bytes: ", 12) == 0)
            bytes = strtoull(line + 12, NULL, 10);
    }
    if (file != NULL)
        (void)fclose(file);
    return bytes;
}

static void report(struct cold *cold, const char *name, uint64_t start_ns, uint64_t start_cpu_ns,
                   uint64_t start_bytes)
{
    const double count = (double)cold->count;
    const uint64_t cpu_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - start_cpu_ns;
    char figure[96];

    bench_async_report_rate(&cold->async, name, cold->count, start_ns);
    bench_async_report_latency(name, &cold->histogram);
    (void)snprintf(figure, sizeof(figure), "%s.cpu_ns", name);
    bench_report_figure(figure, (double)cpu_ns / count);
    (void)snprintf(figure, sizeof(figure), "%s.disk_bytes", name);
    bench_report_figure(figure, (double)(bytes_read() - start_bytes) / count);
}

/* One call at a time if depth is 0. */
static bool pass(struct cold *cold, bitkv_backend backend, unsigned depth)
{
    const char *title = backend == BITKV_BACKEND_THREADS ? "threads" : "io_uring";
    uint64_t start_ns, start_cpu_ns, start_bytes;
    char name[64];
    bool done;

    if (bench_async_drop_caches(cold->async.directory) == NULL ||
        !bench_async_open(&cold->async, backend))
        return false;
    if (depth != 0 && !bench_async_has_backend(&cold->async, backend)) {
        bench_report_text("async-cold.backend", "%s is not to be had here", title);
        return bench_async_close(&cold->async);
    }
    bench_async_settle();
    if (depth == 0)
        (void)snprintf(name, sizeof(name), "async-cold.single");
    else
        (void)snprintf(name, sizeof(name), "async-cold.%s.%u", title, depth);
    cold->histogram = (struct bench_histogram){0};
    start_bytes = bytes_read();
    start_cpu_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    start_ns = bench_now_ns();
    done = depth == 0 ? bench_async_single(&cold->async, cold->ops, cold->count,
                                           BITKV_DURABILITY_DEFAULT, &cold->histogram)
                      : bench_async_flight(&cold->async, cold->ops, cold->count, depth,
                                           BITKV_DURABILITY_DEFAULT, &cold->histogram);
    if (done)
        report(cold, name, start_ns, start_cpu_ns, start_bytes);
    return bench_async_close(&cold->async) && done;
}

/* False if it is not worth trying again. */
static bool fio_pass(struct cold *cold, const char *title, struct bench_fio_job job)
{
    struct bench_fio_result result = {0};
    const char *why;
    char name[64], figure[96];

    job.files = cold->files;
    job.reads = cold->count;
    if (cold->files == NULL || bench_async_drop_caches(cold->async.directory) == NULL)
        return false;
    if (!bench_fio_run(&job, &result, &why)) {
        bench_report_text("async-cold.fio", "%s", why);
        return false;
    }
    (void)snprintf(name, sizeof(name), "async-cold.%s.%u", title, job.depth);
    bench_report_figure(name, result.reads_per_second);
    (void)snprintf(figure, sizeof(figure), "%s.p50_ns", name);
    bench_report_figure(figure, result.latency.p50_ns);
    (void)snprintf(figure, sizeof(figure), "%s.p99_ns", name);
    bench_report_figure(figure, result.latency.p99_ns);
    (void)snprintf(figure, sizeof(figure), "%s.p999_ns", name);
    bench_report_figure(figure, result.latency.p999_ns);
    (void)snprintf(figure, sizeof(figure), "%s.max_ns", name);
    bench_report_figure(figure, result.latency.max_ns);
    return true;
}

/* Backends and fio take turns at each depth; single calls come first and last. */
static bool measure(struct cold *cold)
{
    bool fio = true;

    if (!pass(cold, BITKV_BACKEND_AUTO, 0))
        return false;
    for (unsigned i = 0; bench_async_cold_depths[i] != 0; i++) {
        const unsigned depth = bench_async_cold_depths[i];

        if (!pass(cold, BITKV_BACKEND_IO_URING, depth) || !pass(cold, BITKV_BACKEND_THREADS, depth))
            return false;
        fio =
            fio && fio_pass(cold, "fio", (struct bench_fio_job){.depth = depth}) &&
            fio_pass(cold, "fio-direct", (struct bench_fio_job){.depth = depth, .direct = true}) &&
            fio_pass(cold, "fio-records",
                     (struct bench_fio_job){.depth = depth, .two_pages = TWO_PAGES});
    }
    return pass(cold, BITKV_BACKEND_AUTO, 0);
}

static bool prepare(struct cold *cold)
{
    const char *how;

    cold->ops =
        bench_async_apart(&cold->async.workload, cold->async.workload.keys, SPACING, &cold->count);
    if (cold->ops == NULL)
        return bench_report_error("out of memory");
    how = bench_async_drop_caches(cold->async.directory);
    if (how == NULL)
        return false;
    bench_report_text("async-cold.cache", "%s", how);
    bench_async_read_files(cold->async.directory);
    cold->files = bench_async_files(cold->async.directory);
    return true;
}

int bench_task_async_cold(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct cold cold;
    bool done;

    (void)engine;
    done = bench_async_begin(&cold.async, options, options->cold_reads * SPACING, VALUE_SIZE) &&
           bench_async_open(&cold.async, BITKV_BACKEND_AUTO) && bench_async_fill(&cold.async) &&
           bench_async_seal(&cold.async);
    if (cold.async.db != NULL)
        done = bench_async_close(&cold.async) && done;
    done = done && prepare(&cold) && measure(&cold);
    free(cold.ops);
    free(cold.files);
    done = bench_async_end(&cold.async, done);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
