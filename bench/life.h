/* SPDX-License-Identifier: MIT */
/*
 * What the phases of the life of data share: filling, what a directory takes,
 * what the process has written, and how far a long phase has come.
 */
#ifndef BENCH_LIFE_H
#define BENCH_LIFE_H

#include "options.h"
#include "workload.h"

#include <bitkv.h>
#include <pthread.h>
#include <stdatomic.h>

#define BENCH_LIFE_KEY_WORDS   ((BENCH_KEY_SIZE_MAX + 7) / 8)
#define BENCH_LIFE_VALUE_WORDS ((BENCH_VALUE_SIZE_MAX + 7) / 8)

/* --- sizes -------------------------------------------------------------------- */

/* `count` by --scale, at least `least`. */
uint64_t bench_life_scaled(const struct bench_options *options, double count, uint64_t least);
/* So many keys are `bytes` of keys and values, by --scale. */
uint64_t bench_life_keys(const struct bench_options *options, double bytes);
/* As other phases do before they are timed, for so many keys. */
void bench_life_warm(const struct bench_options *options, uint64_t keys);

/* --- a database of BitKV's ----------------------------------------------------- */

struct bench_life {
    bitkv *db;
    struct bench_workload workload;
    const char *phase; /* for messages */
    uint64_t wrong;
};

/* Without versions: of what is read, the id is known, and some version. */
bool bench_life_begin(struct bench_life *life, const struct bench_options *options,
                      const char *phase, uint64_t keys);
/* Reports what was wrong. */
bool bench_life_end(struct bench_life *life, bool done);
/* `auto_compact` aside the defaults; partitions 0 for the default. The directory is
 * made. */
bool bench_life_open(struct bench_life *life, const char *directory, bool auto_compact,
                     uint32_t partitions);
bool bench_life_close(struct bench_life *life);
bool bench_life_put(struct bench_life *life, uint64_t id, uint32_t version);
/* Judges what it gets, every 64th of `index` as a whole. */
bool bench_life_get(struct bench_life *life, uint64_t id, uint64_t index);
/* Every id once, in sequence. */
bool bench_life_fill(struct bench_life *life);
/* As many puts of random ids. */
bool bench_life_overwrite(struct bench_life *life, uint64_t count, uint32_t version);
/* Syncs, and waits until nothing is done in the background. */
bool bench_life_settle(struct bench_life *life);
/* Reads every key. */
bool bench_life_verify(struct bench_life *life);
bool bench_life_statistics(struct bench_life *life, bitkv_statistics *statistics);

/* --- the disk -------------------------------------------------------------------- */

/* What all files of a directory take, as allocated (du). One thread at a time. */
uint64_t bench_life_disk_bytes(const char *directory);
/* Bytes that this process has made dirty in the page cache, or written past it. */
uint64_t bench_life_written_bytes(void);
/* Bytes a second of writing a new, preallocated file in calls of 1 MiB, and one
 * fdatasync; 0 after a message. */
double bench_life_disk_rate(const char *directory, uint64_t bytes);

/* Looks at what a directory takes, again and again. */
struct bench_life_meter {
    const char *directory;
    pthread_t thread;
    atomic_bool stop;
    uint64_t samples;
    uint64_t most;
    double sum;
};
bool bench_life_meter_start(struct bench_life_meter *meter, const char *directory);
void bench_life_meter_stop(struct bench_life_meter *meter);
static inline double bench_life_meter_mean(const struct bench_life_meter *meter)
{
    return meter->samples == 0 ? 0.0 : meter->sum / (double)meter->samples;
}

/* --- telling ---------------------------------------------------------------------- */

/* On a terminal only, and twice a second at most. */
void bench_life_progress(const char *phase, const char *what, uint64_t done, uint64_t total);
/* A figure named PHASE.WHAT. */
void bench_life_figure(const char *phase, const char *what, double value);

#endif
