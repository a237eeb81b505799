/* SPDX-License-Identifier: MIT */
/*
 * The clock that records expire by.
 *
 * Deadlines are wall time, because they have to mean something in the next
 * process and after the next boot. But a wall clock can be set. So it is read
 * once, when the clock is started, and carried on by the time since boot, which
 * nobody sets and which goes on while the machine sleeps.
 *
 * Failure modes: a wall clock before 1970 counts as 1970. Both clocks are in
 * the kernel's shared page; without one a reading is a system call, and costs
 * more, not else.
 */
#include "base/clock.h"

#include <stdatomic.h>

static _Atomic uint64_t wall_step_ms, elapsed_ms; /* of tests; modulo 2^64 */

static uint64_t read_ns(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return t.tv_sec < 0 ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t wall_ns(void)
{
    uint64_t ms = atomic_load_explicit(&wall_step_ms, memory_order_relaxed) +
                  atomic_load_explicit(&elapsed_ms, memory_order_relaxed);
    return read_ns(CLOCK_REALTIME) + ms * 1000000u;
}

static uint64_t boot_ns(void)
{
    return read_ns(CLOCK_BOOTTIME) +
           atomic_load_explicit(&elapsed_ms, memory_order_relaxed) * 1000000u;
}

void bkv_clock_start(struct bkv_clock *clock)
{
    clock->offset_ns = wall_ns() - boot_ns();
}

uint64_t bkv_clock_ms(const struct bkv_clock *clock)
{
    return (boot_ns() + clock->offset_ns) / 1000000u;
}

void bkv_clock_step_wall(int64_t ms)
{
    (void)atomic_fetch_add(&wall_step_ms, (uint64_t)ms);
}

void bkv_clock_elapse(uint64_t ms)
{
    (void)atomic_fetch_add(&elapsed_ms, ms);
}
