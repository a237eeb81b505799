/* SPDX-License-Identifier: MIT */
#include "life.h"

#include "async.h"
#include "child.h"
#include "clock.h"
#include "machine.h"
#include "tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRESS_EVERY 65536u
#define METER_EVERY_US 200000u

/* ------------------------------------------------------------------ */
/* Sizes                                                               */
/* ------------------------------------------------------------------ */

uint64_t bench_life_scaled(const struct bench_options *options, double count, uint64_t least)
{
    const uint64_t scaled = (uint64_t)(count * options->scale);

    return scaled < least ? least : scaled;
}

uint64_t bench_life_keys(const struct bench_options *options, double bytes)
{
    return bench_life_scaled(options, bytes / (double)(options->key_size + options->value_size),
                             1000);
}

void bench_life_warm(const struct bench_options *options, uint64_t keys)
{
    bench_machine_warm_memory(2 * (size_t)keys * (options->key_size + options->value_size + 64u) +
                              ((size_t)128 << 20));
}

/* ------------------------------------------------------------------ */
/* A database of BitKV's                                               */
/* ------------------------------------------------------------------ */

bool bench_life_begin(struct bench_life *life, const struct bench_options *options,
                      const char *phase, uint64_t keys)
{
    *life = (struct bench_life){.phase = phase};
    if (!bench_workload_init(&life->workload, keys, options->key_size, options->value_size,
                             options->seed, false))
        return bench_report_error("out of memory");
    return true;
}

bool bench_life_end(struct bench_life *life, bool done)
{
    if (life->db != NULL)
        done = bench_life_close(life) && done;
    if (life->wrong != 0)
        bench_report_wrong(life->wrong, life->phase);
    bench_workload_free(&life->workload);
    return done;
}

bool bench_life_open(struct bench_life *life, const char *directory, bool auto_compact,
                     uint32_t partitions)
{
    bitkv_options options;

    if (mkdir(directory, 0700) != 0 && errno != EEXIST)
        return bench_report_error("%s: cannot make a directory: %s", life->phase, strerror(errno));
    bitkv_options_init(&options);
    options.auto_compact = auto_compact;
    options.partitions = partitions;
    if (bitkv_open(&life->db, directory, &options) != BITKV_OK)
        return bench_report_error("%s: open: %s", life->phase, bitkv_error_context());
    return true;
}

bool bench_life_close(struct bench_life *life)
{
    const int code = bitkv_close(life->db);

    life->db = NULL;
    return code == BITKV_OK ||
           bench_report_error("%s: close: %s", life->phase, bitkv_error_context());
}

bool bench_life_put(struct bench_life *life, uint64_t id, uint32_t version)
{
    uint64_t key[BENCH_LIFE_KEY_WORDS];
    uint64_t value[BENCH_LIFE_VALUE_WORDS];

    bench_key(&life->workload, id, key);
    bench_value(&life->workload, bench_stamp(id, version), value);
    return bitkv_put(life->db, key, life->workload.key_size, value, life->workload.value_size) ==
               BITKV_OK ||
           bench_report_error("%s: put: %s", life->phase, bitkv_error_context());
}

bool bench_life_get(struct bench_life *life, uint64_t id, uint64_t index)
{
    const struct bench_op op = {(uint32_t)id, BENCH_OP_AT_LEAST | 1u};
    uint64_t key[BENCH_LIFE_KEY_WORDS];
    uint64_t value[BENCH_LIFE_VALUE_WORDS];
    size_t size = 0;
    int code;

    bench_key(&life->workload, id, key);
    code = bitkv_get_into(life->db, key, life->workload.key_size, value, sizeof(value), &size);
    if (code < 0)
        return bench_report_error("%s: get: %s", life->phase, bitkv_error_context());
    if (code != BITKV_OK ||
        !bench_value_right(&life->workload, op, value, size, index % BENCH_FULL_COMPARE == 0))
        life->wrong++;
    return true;
}

bool bench_life_fill(struct bench_life *life)
{
    for (uint64_t id = 0; id < life->workload.keys; id++) {
        if (!bench_life_put(life, id, 1))
            return false;
        if (id % PROGRESS_EVERY == 0)
            bench_life_progress(life->phase, "filling", id, life->workload.keys);
    }
    return true;
}

bool bench_life_overwrite(struct bench_life *life, uint64_t count, uint32_t version)
{
    struct bench_workload *workload = &life->workload;

    for (uint64_t i = 0; i < count; i++) {
        if (!bench_life_put(life, bench_random_below(&workload->random, workload->keys), version))
            return false;
        if (i % PROGRESS_EVERY == 0)
            bench_life_progress(life->phase, "overwriting", i, count);
    }
    return true;
}

bool bench_life_settle(struct bench_life *life)
{
    if (bitkv_sync(life->db) != BITKV_OK)
        return bench_report_error("%s: sync: %s", life->phase, bitkv_error_context());
    bench_async_settle();
    return true;
}

bool bench_life_verify(struct bench_life *life)
{
    for (uint64_t id = 0; id < life->workload.keys; id++) {
        if (!bench_life_get(life, id, id))
            return false;
        if (id % PROGRESS_EVERY == 0)
            bench_life_progress(life->phase, "verifying", id, life->workload.keys);
    }
    return true;
}

bool bench_life_statistics(struct bench_life *life, bitkv_statistics *statistics)
{
    bitkv_statistics_init(statistics);
    return bitkv_stats(life->db, BITKV_ALL_PARTITIONS, statistics) == BITKV_OK ||
           bench_report_error("%s: stats: %s", life->phase, bitkv_error_context());
}

/* ------------------------------------------------------------------ */
/* The disk                                                            */
/* ------------------------------------------------------------------ */

static uint64_t walked_bytes; /* nftw() hands nothing to its callback */

static int add_blocks(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)path, (void)walk;
    /* What is unlinked in the middle of the walk has no status, and takes nothing. */
    if (kind != FTW_NS)
        walked_bytes += (uint64_t)status->st_blocks * 512u;
    return 0;
}

uint64_t bench_life_disk_bytes(const char *directory)
{
    walked_bytes = 0;
    (void)nftw(directory, add_blocks, 16, FTW_PHYS);
    return walked_bytes;
}

uint64_t bench_life_written_bytes(void)
{
    FILE *file = fopen("/proc/self/io", "r");
    char line[128];
    uint64_t bytes = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "write_bytes: %" SCNu64, &bytes) == 1)
            break;
    }
    if (file != NULL)
        (void)fclose(file);
    return bytes;
}

static bool write_all(int fd, uint64_t bytes)
{
    static unsigned char block[1 << 20];

    memset(block, 0x5a, sizeof(block)); /* not zeros, which some devices do not store */
    for (uint64_t at = 0; at < bytes; at += sizeof(block)) {
        if (pwrite(fd, block, sizeof(block), (off_t)at) != (ssize_t)sizeof(block))
            return false;
    }
    return fdatasync(fd) == 0;
}

double bench_life_disk_rate(const char *directory, uint64_t bytes)
{
    char path[4096];
    uint64_t start_ns;
    bool done;
    int fd;

    bytes = (bytes + (1u << 20) - 1) >> 20 << 20;
    (void)snprintf(path, sizeof(path), "%s/disk-rate", directory);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)bytes) != 0 || fsync(fd) != 0) {
        (void)bench_report_error("cannot make %s: %s", path, strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return 0.0;
    }
    bench_machine_warm_memory(bytes);
    start_ns = bench_now_ns();
    done = write_all(fd, bytes);
    start_ns = bench_now_ns() - start_ns;
    if (!done)
        (void)bench_report_error("cannot write %s: %s", path, strerror(errno));
    (void)close(fd);
    (void)unlink(path);
    return done ? (double)bytes * 1e9 / (double)start_ns : 0.0;
}

static void *meter_main(void *user)
{
    struct bench_life_meter *meter = user;

    while (!atomic_load(&meter->stop)) {
        const uint64_t bytes = bench_life_disk_bytes(meter->directory);

        meter->samples++;
        meter->sum += (double)bytes;
        if (bytes > meter->most)
            meter->most = bytes;
        (void)usleep(METER_EVERY_US);
    }
    return NULL;
}

bool bench_life_meter_start(struct bench_life_meter *meter, const char *directory)
{
    memset(meter, 0, sizeof(*meter));
    meter->directory = directory;
    if (pthread_create(&meter->thread, NULL, meter_main, meter) != 0)
        return bench_report_error("cannot start a thread");
    return true;
}

void bench_life_meter_stop(struct bench_life_meter *meter)
{
    atomic_store(&meter->stop, true);
    (void)pthread_join(meter->thread, NULL);
}

/* ------------------------------------------------------------------ */
/* Telling                                                             */
/* ------------------------------------------------------------------ */

void bench_life_progress(const char *phase, const char *what, uint64_t done, uint64_t total)
{
    static uint64_t told_ns;
    uint64_t now_ns;

    if (!isatty(STDERR_FILENO))
        return;
    now_ns = bench_now_ns();
    if (now_ns - told_ns < 500000000u)
        return;
    told_ns = now_ns;
    (void)fprintf(stderr, "\r\033[K%s: %s, %.0f %%", phase, what,
                  100.0 * (double)done / (double)(total == 0 ? 1 : total));
    (void)fflush(stderr);
}

void bench_life_figure(const char *phase, const char *what, double value)
{
    char name[96];

    (void)snprintf(name, sizeof(name), "%s.%s", phase, what);
    bench_report_figure(name, value);
}

/* ------------------------------------------------------------------ */
/* Whom it is compared with                                            */
/* ------------------------------------------------------------------ */

bool bench_life_has(enum bench_phase phase, const struct bench_engine *engine)
{
    const bool overwrite =
        phase == BENCH_PHASE_OVERWRITE_UNIFORM || phase == BENCH_PHASE_OVERWRITE_ZIPF;

    if (engine->stores_nothing)
        return false;
    if (overwrite && strcmp(engine->name, "rocksdb") == 0)
        return true;
    if (phase == BENCH_PHASE_SNAPSHOT && engine->scan != NULL)
        return true;
    return strcmp(engine->name, "bitkv") == 0;
}
