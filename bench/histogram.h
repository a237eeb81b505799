/* SPDX-License-Identifier: MIT */
/*
 * A log-linear histogram of durations in ticks: 64 buckets to each power of
 * two, so that a percentile is exact within 1.6 %. The maximum is exact.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define BENCH_HISTOGRAM_SUB_BITS 6u
#define BENCH_HISTOGRAM_BUCKETS  ((64u - BENCH_HISTOGRAM_SUB_BITS + 1u) << BENCH_HISTOGRAM_SUB_BITS)

struct bench_histogram {
    uint64_t count;
    uint64_t ticks_max;
    uint64_t buckets[BENCH_HISTOGRAM_BUCKETS];
};

struct bench_percentiles {
    uint64_t samples;
    double p50_ns, p99_ns, p999_ns, p9999_ns, max_ns;
};

static inline void bench_histogram_add(struct bench_histogram *histogram, uint64_t ticks)
{
    const unsigned sub = BENCH_HISTOGRAM_SUB_BITS;
    uint64_t index = ticks;

    if (ticks >> sub != 0) {
        const unsigned top = 63u - (unsigned)__builtin_clzll(ticks);
        const unsigned shift = top - sub;

        index = ((uint64_t)(shift + 1u) << sub) + ((ticks >> shift) - (1u << sub));
    }
    histogram->buckets[index]++;
    histogram->count++;
    if (ticks > histogram->ticks_max)
        histogram->ticks_max = ticks;
}

void bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from);
/* Upper bound of the bucket in which the share (0 to 1) of the samples ends. */
double bench_histogram_percentile_ns(const struct bench_histogram *histogram, double share);
struct bench_percentiles bench_histogram_percentiles(const struct bench_histogram *histogram);

#endif
