/* SPDX-License-Identifier: MIT */
/*
 * fio, where it is installed: what the disk, the file system and io_uring give
 * to a program that does nothing but read.
 */
#ifndef BENCH_FIO_H
#define BENCH_FIO_H

#include "histogram.h"

#include <stdbool.h>
#include <stddef.h>

struct bench_fio_result {
    double reads_per_second;
    struct bench_percentiles latency; /* of each read, submission included */
};

struct bench_fio_job {
    const char *files; /* names with colons between */
    unsigned depth;
    bool direct;
    unsigned two_pages; /* in a hundred: reads of 8 KiB rather than of 4 */
    size_t reads;
};

/*
 * Random reads through io_uring, no block twice. False if there is no fio, or
 * it failed: then `why` says so.
 */
bool bench_fio_run(const struct bench_fio_job *job, struct bench_fio_result *result,
                   const char **why);

#endif
