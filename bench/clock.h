/* SPDX-License-Identifier: MIT */
/*
 * Two clocks: nanoseconds of CLOCK_MONOTONIC for whole phases, and ticks for
 * single operations: the time stamp counter where it is constant (about 20 ns
 * a pair of readings), else CLOCK_MONOTONIC again.
 */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

static inline uint64_t bench_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Processor time of the calling thread, and of the whole process. */
static inline uint64_t bench_cpu_ns(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The fences keep the operation between the readings. */
static inline uint64_t bench_tick_begin(void)
{
#if defined(__x86_64__)
    _mm_lfence();
    const uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
#else
    return bench_now_ns();
#endif
}

static inline uint64_t bench_tick_end(void)
{
#if defined(__x86_64__)
    unsigned processor;
    const uint64_t ticks = __rdtscp(&processor);
    _mm_lfence();
    return ticks;
#else
    return bench_now_ns();
#endif
}

/* Ticks a nanosecond, measured once. */
double bench_ticks_per_ns(void);

#endif
