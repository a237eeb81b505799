/* SPDX-License-Identifier: MIT */
/* Time. Monotonic for intervals; the wall clock for what people read, and, once
 * at each opening, for the deadlines of records. */
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

/* Milliseconds since 1970 that no stepping of the wall clock moves: its time
 * when this was started, and what has passed since, sleep of the machine
 * included. */
struct bkv_clock {
    uint64_t offset_ns; /* of the wall clock from the time since boot; modulo 2^64 */
};

void bkv_clock_start(struct bkv_clock *clock);
/* Never goes back. Any thread. */
uint64_t bkv_clock_ms(const struct bkv_clock *clock);

/* For tests, which cannot set the system's clocks: the wall clock is stepped,
 * seen by what is started afterwards; or time passes, seen by all. */
void bkv_clock_step_wall(int64_t ms);
void bkv_clock_elapse(uint64_t ms);

#endif
