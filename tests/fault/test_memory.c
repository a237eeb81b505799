/* SPDX-License-Identifier: MIT */
/*
 * Every allocation of a fixed workload fails once, and all from some point on.
 * The promises are those of a failed system call: an error with a context,
 * nothing lost, nothing leaked (a sanitizer build watches that).
 *
 * BITKV_FAULT_EVERY=1 takes every allocation; by default later ones are
 * sampled.
 */
#include "base/memory.h"
#include "damage/lab.h"
#include "fault/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];

static struct {
    uint32_t first, count;
    _Atomic uint32_t asked, refused;
} plan;

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    uint32_t n = atomic_fetch_add(&plan.asked, 1);
    if (n < plan.first || n - plan.first >= plan.count)
        return true;
    atomic_fetch_add(&plan.refused, 1);
    return false;
}

static int setup(void **state)
{
    (void)state;
    lab_path(path, "memory");
    fault_install(); /* for its quick syncs */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bkv_alloc_set_hook(NULL, NULL);
    fault_uninstall();
    lab_remove(path);
    return 0;
}

static bool run(uint32_t first, uint32_t count, bitkv_io_mode mode)
{
    unsigned descriptors = lab_descriptors();
    lab_remove(path);
    struct fault_model model = {.failures = 0};
    plan.first = first;
    plan.count = count;
    atomic_store(&plan.asked, 0);
    atomic_store(&plan.refused, 0);
    bkv_alloc_set_hook(on_allocation, NULL);
    fault_workload(&model, path, mode);
    bkv_alloc_set_hook(NULL, NULL);
    if (model.failures > 0 && atomic_load(&plan.refused) == 0)
        fail_msg("calls failed though no allocation did");
    fault_check(&model, path, mode);
    if (lab_descriptors() != descriptors)
        fail_msg("allocation %u: descriptors leaked", first);
    return atomic_load(&plan.refused) > 0;
}

static void sweep(uint32_t count, bitkv_io_mode mode)
{
    uint32_t step = 1;
    for (uint32_t n = 0; run(n, count, mode); n += step) {
        if (!lab_flag("BITKV_FAULT_EVERY") && n >= 40)
            step = 1 + n / 20 * lab_slowness();
    }
}

static void an_allocation_that_fails_costs_no_more_than_its_operation(void **state)
{
    (void)state;
    sweep(1, BITKV_IO_MMAP);
    sweep(1, BITKV_IO_PWRITE);
}

static void memory_that_stays_short_loses_nothing(void **state)
{
    (void)state;
    sweep(UINT32_MAX, BITKV_IO_MMAP);
    sweep(UINT32_MAX, BITKV_IO_PWRITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allocation_that_fails_costs_no_more_than_its_operation),
        cmocka_unit_test(memory_that_stays_short_loses_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
