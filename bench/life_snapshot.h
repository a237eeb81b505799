/* SPDX-License-Identifier: MIT */
/*
 * What only BitKV's snapshots have: how long creating one takes, and a writer waits
 * meanwhile; and iterating by one thread and by two. In a library without them,
 * nothing is measured.
 */
#ifndef BENCH_LIFE_SNAPSHOT_H
#define BENCH_LIFE_SNAPSHOT_H

#include "engine.h"
#include "options.h"

/* Of the database in child_directory, which is not open. */
bool bench_life_snapshots(const struct bench_options *options, uint64_t keys,
                          const struct bench_sums *expected);

static inline bool bench_life_sums_right(const struct bench_sums *sums,
                                         const struct bench_sums *expected, bool keys_only)
{
    return sums->records == expected->records && sums->keys == expected->keys &&
           (keys_only || sums->values == expected->values);
}

#endif
