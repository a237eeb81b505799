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

/* Less than a second; a signal may end it sooner. */
static inline void bkv_sleep_us(uint32_t us)
{
    struct timespec t = {.tv_sec = 0, .tv_nsec = (long)us * 1000};
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

#endif
