/* SPDX-License-Identifier: MIT */
/* The timed loops: operations of one phase on one or several threads. */
#ifndef BENCH_LOOPS_H
#define BENCH_LOOPS_H

#include "engine.h"
#include "histogram.h"
#include "workload.h"

enum bench_loop {
    BENCH_LOOP_PUT,
    BENCH_LOOP_GET,
    BENCH_LOOP_MISS,
    BENCH_LOOP_MIXED,
    BENCH_LOOP_DELETE,
    BENCH_LOOP_VERIFY, /* whole values; a version of 0 must be absent */
};

struct bench_outcome {
    uint64_t operations;
    uint64_t duration_ns;    /* from the first thread's start to the last one's end */
    uint64_t caller_cpu_ns;  /* processor time of the threads that called */
    uint64_t process_cpu_ns; /* and of all: with the engine's own threads */
    uint64_t wrong;          /* values, or absences, that are not as they must be */
    uint64_t failed;         /* calls that reported an error */
    char complaint[256];     /* about the first of them; "" if none */
};

/*
 * Run ops[t] on thread t. With `histogram`, every operation is timed by
 * itself, and the outcome's duration is not comparable with one without.
 */
struct bench_outcome bench_loop_run(const struct bench_engine *engine, void *db,
                                    const struct bench_workload *workload, enum bench_loop loop,
                                    unsigned threads, struct bench_op *const *ops,
                                    const size_t *counts, struct bench_histogram *histogram);

#endif
