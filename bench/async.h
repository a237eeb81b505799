/* SPDX-License-Identifier: MIT */
/*
 * What the asynchronous phases share: a database with a completion queue, and
 * the two ways of driving it.
 *
 *   batches   submit some, reap all of them, go on: what a server does with
 *             the requests that have come in together
 *   flight    so many are in flight at any time: what has been reaped is
 *             replaced by the next
 *
 * Keys and values lie side by side as closely as they can, as they would in a
 * program that is meant to be fast.
 */
#ifndef BENCH_ASYNC_H
#define BENCH_ASYNC_H

#include "histogram.h"
#include "options.h"
#include "workload.h"

#include <bitkv.h>

/* Most operations in flight. */
#define BENCH_ASYNC_DEPTH_MAX 256u

struct bench_async_slot {
    struct bench_op op;
    uint64_t ticks; /* when it was submitted */
};

struct bench_async {
    const char *directory;
    bitkv_backend backend;
    bitkv *db;
    bitkv_cq *cq;
    struct bench_workload workload;
    size_t key_stride, value_stride; /* in words */
    uint64_t *keys, *values;         /* a key and a value for each slot */
    struct bench_async_slot slots[BENCH_ASYNC_DEPTH_MAX];
    bitkv_op ops[BENCH_ASYNC_DEPTH_MAX];
    bitkv_completion completions[BENCH_ASYNC_DEPTH_MAX];
    uint64_t judged, wrong;
};

/* Memory for the workload and the slots. All these return false after they
 * have reported what went wrong. */
bool bench_async_begin(struct bench_async *async, const struct bench_options *options,
                       uint64_t keys, size_t value_size);
/* Closes what is open, frees the memory; returns false as well if `done` is. */
bool bench_async_end(struct bench_async *async, bool done);

/* The database with its queue; the backend is only asked for. */
bool bench_async_open(struct bench_async *async, bitkv_backend backend);
bool bench_async_close(struct bench_async *async);
/* What serves the queue. */
bool bench_async_has_backend(const struct bench_async *async, bitkv_backend backend);

/* Every key once, in the order of the ids. */
bool bench_async_fill(struct bench_async *async);
/* Records that nobody reads, until all those before lie in segments that are
 * full: the last one of a partition is mapped in another way. */
bool bench_async_seal(struct bench_async *async);
/* Every key, whole. */
bool bench_async_verify(struct bench_async *async, const char *when);

/* One at a time, without the queue; histogram may be NULL. */
bool bench_async_single(struct bench_async *async, const struct bench_op *ops, size_t count,
                        bitkv_durability durability, struct bench_histogram *histogram);
/* The histogram, unless NULL, receives the time of each batch. */
bool bench_async_batches(struct bench_async *async, const struct bench_op *ops, size_t count,
                         unsigned depth, struct bench_histogram *histogram);
/* The histogram receives each operation's, from submission to reaping. */
bool bench_async_flight(struct bench_async *async, const struct bench_op *ops, size_t count,
                        unsigned depth, bitkv_durability durability,
                        struct bench_histogram *histogram);

/* Makes ops[slot] of an operation. */
void bench_async_prepare(struct bench_async *async, unsigned slot, bitkv_op *op,
                         struct bench_op what, bitkv_durability durability);
/* Judges a completion; false, reported, if it failed. */
bool bench_async_judge(struct bench_async *async, const bitkv_completion *completion);

/* The wrong values since the last time. */
void bench_async_report_wrong(struct bench_async *async, const char *name);
/* Operations a second since then, as a figure; and the wrong values. */
void bench_async_report_rate(struct bench_async *async, const char *name, size_t count,
                             uint64_t start_ns);
/* As figures NAME.p50_ns, p99_ns, p999_ns and max_ns, so that there are medians
 * of them. */
void bench_async_report_latency(const char *name, const struct bench_histogram *histogram);

/* One id of every `spacing` of them, in random order (malloc'd): far enough
 * from each other for no page to be read twice. The record of a smaller id was
 * written before. */
struct bench_op *bench_async_apart(struct bench_workload *workload, uint64_t keys, unsigned spacing,
                                   size_t *count);

/* --- the page cache --- */

/* Throws the data out of the page cache: of the kernel as a whole where that
 * is permitted, else file by file. Nobody may have them mapped. Returns which
 * it was; NULL, reported, if neither is possible. */
const char *bench_async_drop_caches(const char *directory);
/* Reads all data files: whatever is behind this machine's disk has them then. */
void bench_async_read_files(const char *directory);
/* Names of all data files with colons between; malloc'd. */
char *bench_async_files(const char *directory);
/* Waits until the process has nothing more to do in the background. */
void bench_async_settle(void);

#endif
