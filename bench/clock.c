/* SPDX-License-Identifier: MIT */
/* Calibration of the tick clock. */
#include "clock.h"

double bench_ticks_per_ns(void)
{
    static double ticks_per_ns;

    if (ticks_per_ns <= 0.0) {
        const uint64_t start_ns = bench_now_ns();
        const uint64_t start_ticks = bench_tick_begin();
        uint64_t now_ns;

        do {
            now_ns = bench_now_ns();
        } while (now_ns - start_ns < 50000000u);
        ticks_per_ns = (double)(bench_tick_end() - start_ticks) / (double)(now_ns - start_ns);
    }
    return ticks_per_ns;
}
