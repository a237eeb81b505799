/* SPDX-License-Identifier: MIT */
#include "histogram.h"

#include "clock.h"

void bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from)
{
    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->count += from->count;
    if (from->ticks_max > into->ticks_max)
        into->ticks_max = from->ticks_max;
}

static double bucket_upper_ticks(unsigned index)
{
    const unsigned sub = BENCH_HISTOGRAM_SUB_BITS;
    const unsigned shift = index >> sub;
    const uint64_t within = index & ((1u << sub) - 1u);

    if (shift == 0)
        return (double)within;
    return (double)((((1ull << sub) + within + 1u) << (shift - 1u)) - 1u);
}

double bench_histogram_percentile_ns(const struct bench_histogram *histogram, double share)
{
    const double wanted = share * (double)histogram->count;
    double seen = 0.0;
    double ticks = (double)histogram->ticks_max;

    for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++) {
        seen += (double)histogram->buckets[i];
        if (histogram->buckets[i] != 0 && seen >= wanted) {
            if (bucket_upper_ticks(i) < ticks)
                ticks = bucket_upper_ticks(i);
            break;
        }
    }
    return ticks / bench_ticks_per_ns();
}

struct bench_percentiles bench_histogram_percentiles(const struct bench_histogram *histogram)
{
    return (struct bench_percentiles){
        .samples = histogram->count,
        .p50_ns = bench_histogram_percentile_ns(histogram, 0.50),
        .p99_ns = bench_histogram_percentile_ns(histogram, 0.99),
        .p999_ns = bench_histogram_percentile_ns(histogram, 0.999),
        .p9999_ns = bench_histogram_percentile_ns(histogram, 0.9999),
        .max_ns = (double)histogram->ticks_max / bench_ticks_per_ns(),
    };
}
