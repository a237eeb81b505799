/* SPDX-License-Identifier: MIT */
/* The clock of deadlines is the wall clock of its start, and goes on by itself. */
#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void it_starts_with_the_wall_clock(void **state)
{
    (void)state;
    struct bkv_clock clock;
    uint64_t before = bkv_wall_ms();
    bkv_clock_start(&clock);
    uint64_t now = bkv_clock_ms(&clock);
    assert_in_range(now, before - 1, bkv_wall_ms() + 1);
}

static void it_goes_on_and_never_back(void **state)
{
    (void)state;
    struct bkv_clock clock;
    bkv_clock_start(&clock);
    uint64_t first = bkv_clock_ms(&clock);
    uint64_t last = first;
    for (int i = 0; i < 30; i++) {
        bkv_sleep_us(1000);
        uint64_t now = bkv_clock_ms(&clock);
        assert_true(now >= last);
        last = now;
    }
    assert_true(last - first >= 29);
    bkv_clock_elapse(1000);
    assert_in_range(bkv_clock_ms(&clock), last + 1000, last + 11000);
}

static void a_step_of_the_wall_clock_is_seen_by_the_next_only(void **state)
{
    (void)state;
    const int64_t steps[] = {86400000, -86400000};
    for (int i = 0; i < 2; i++) {
        struct bkv_clock old;
        struct bkv_clock next;
        bkv_clock_start(&old);
        uint64_t before = bkv_clock_ms(&old);
        bkv_clock_step_wall(steps[i]);
        bkv_clock_start(&next);
        assert_in_range(bkv_clock_ms(&old), before, before + 10000);
        uint64_t expected = before + (uint64_t)steps[i];
        assert_in_range(bkv_clock_ms(&next), expected, expected + 10000);
        bkv_clock_step_wall(-steps[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_with_the_wall_clock),
        cmocka_unit_test(it_goes_on_and_never_back),
        cmocka_unit_test(a_step_of_the_wall_clock_is_seen_by_the_next_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
