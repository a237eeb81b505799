/* SPDX-License-Identifier: MIT */
/* Time. Monotonic for intervals; the wall clock only for what people read:
 * no decision of the store rests on it. */
#ifndef BKV_BASE_CLOCK_H
#define BKV_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t bkv_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t bkv_wall_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

#endif
