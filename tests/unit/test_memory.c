/* SPDX-License-Identifier: MIT */
/* Growable arrays. */
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static size_t refusals;

static bool refuse(size_t size, void *user)
{
    (void)size;
    (void)user;
    refusals++;
    return false;
}

static void a_growable_array_keeps_what_is_in_it(void **state)
{
    (void)state;
    uint32_t *items = NULL;
    size_t capacity = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        assert_true(bkv_grow(&items, i, 1, sizeof *items, &capacity));
        assert_true(capacity > i);
        items[i] = i;
    }
    for (uint32_t i = 0; i < 10000; i++)
        assert_int_equal(items[i], i);
    bkv_mfree(items);
}

static void there_is_room_for_as_many_as_asked_for(void **state)
{
    (void)state;
    uint64_t *items = NULL;
    size_t capacity = 0;
    assert_true(bkv_grow(&items, 0, 1000, sizeof *items, &capacity));
    assert_true(capacity >= 1000);
    size_t before = capacity;
    assert_true(bkv_grow(&items, before, 1, sizeof *items, &capacity));
    assert_true(capacity >= 2 * before); /* so that n elements cost O(n) */
    bkv_mfree(items);
}

static void what_fits_allocates_nothing(void **state)
{
    (void)state;
    uint64_t *items = NULL;
    size_t capacity = 0;
    assert_true(bkv_grow(&items, 0, 0, sizeof *items, &capacity)); /* nothing, in nothing */
    assert_null(items);
    assert_true(bkv_grow(&items, 0, 1, sizeof *items, &capacity));
    refusals = 0;
    bkv_alloc_set_hook(refuse, NULL);
    assert_true(bkv_grow(&items, 0, capacity, sizeof *items, &capacity));
    assert_true(bkv_grow(&items, capacity, 0, sizeof *items, &capacity));
    bkv_alloc_set_hook(NULL, NULL);
    assert_int_equal(refusals, 0);
    bkv_mfree(items);
}

static void without_memory_nothing_changes(void **state)
{
    (void)state;
    uint64_t *items = NULL;
    size_t capacity = 0;
    assert_true(bkv_grow(&items, 0, 1, sizeof *items, &capacity));
    items[0] = 7;
    const uint64_t *place = items;
    size_t before = capacity;
    bkv_alloc_set_hook(refuse, NULL);
    assert_false(bkv_grow(&items, capacity, 1, sizeof *items, &capacity));
    bkv_alloc_set_hook(NULL, NULL);
    assert_ptr_equal(items, place);
    assert_int_equal(capacity, before);
    assert_int_equal(items[0], 7);
    bkv_mfree(items);
}

/* Each of the sums and products, and that nothing is asked for that is too small. */
static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    static const struct {
        size_t count, more, element, capacity;
    } cases[] = {
        {1, SIZE_MAX, 1, 1},
        {SIZE_MAX / 2 + 1, 1, 1, SIZE_MAX / 2 + 1},
        {SIZE_MAX / 2, 1, 1, SIZE_MAX / 2},
        {0, SIZE_MAX / 8 + 1, 8, 0},
    };
    refusals = 0;
    bkv_alloc_set_hook(refuse, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t *items = NULL;
        size_t capacity = cases[i].capacity;
        assert_false(bkv_grow(&items, cases[i].count, cases[i].more, cases[i].element, &capacity));
        assert_int_equal(capacity, cases[i].capacity);
        assert_null(items);
    }
    bkv_alloc_set_hook(NULL, NULL);
    assert_int_equal(refusals, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_growable_array_keeps_what_is_in_it),
        cmocka_unit_test(there_is_room_for_as_many_as_asked_for),
        cmocka_unit_test(what_fits_allocates_nothing),
        cmocka_unit_test(without_memory_nothing_changes),
        cmocka_unit_test(sizes_that_overflow_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
