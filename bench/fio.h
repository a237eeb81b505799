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

/*
 * Random reads of 4 KiB of these files (names with colons between), no block
 * twice, through io_uring. False if there is no fio, or it failed: then `why`
 * says so.
 */
bool bench_fio_run(const char *files, unsigned depth, bool direct, size_t reads,
                   struct bench_fio_result *result, const char **why);

#endif
