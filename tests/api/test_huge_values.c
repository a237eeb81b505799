/* SPDX-License-Identifier: MIT */
/* The largest value there is. Needs 3 GiB of room, and is labelled slow. */
#include "api/fixture.h"

#include <sys/statvfs.h>

static void a_value_of_1_gib_is_stored_and_one_byte_more_is_refused(void **state)
{
    (void)state;
    struct statvfs space;
    if (statvfs(directory, &space) != 0 || (uint64_t)space.f_bavail * space.f_frsize < 3ull << 30)
        skip();
    size_t size = BITKV_VALUE_SIZE_MAX;
    unsigned char *value = malloc(size + 1);
    assert_non_null(value);
    fill(value, size, 1);
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "before", "1");
        ok(bitkv_put(db, "gib", 3, value, size));
        fails(BITKV_ERR_INVALID, bitkv_put(db, "gib", 3, value, size + 1));
        put_text(db, "after", "2");
        ok(bitkv_close(db));
        db = open_small(mode);
        bitkv_view view;
        ok(bitkv_get_view(db, "gib", 3, &view));
        assert_int_equal(view.size, size);
        assert_int_equal(memcmp(view.data, value, size), 0);
        bitkv_view_release(&view);
        expect_text(db, "before", "1");
        expect_text(db, "after", "2");
        ok(bitkv_close(db));
    }
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_value_of_1_gib_is_stored_and_one_byte_more_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
