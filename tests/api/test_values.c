/* SPDX-License-Identifier: MIT */
/* Putting, getting, deleting: every size and every way to read. */
#include "api/fixture.h"

#include "log/format.h"
#include "log/record.h"

static void check_every_way(bitkv *db, const void *key, size_t key_size, const void *value,
                            size_t size)
{
    void *copy;
    size_t got = 12345;
    ok(bitkv_get(db, key, key_size, &copy, &got));
    assert_int_equal(got, size);
    assert_non_null(copy);
    assert_int_equal(((char *)copy)[size], 0);
    assert_true(size == 0 || memcmp(copy, value, size) == 0);
    bitkv_free(copy);
    ok(bitkv_get(db, key, key_size, &copy, NULL));
    bitkv_free(copy);

    bitkv_view view;
    ok(bitkv_get_view(db, key, key_size, &view));
    assert_int_equal(view.size, size);
    assert_true(size == 0 || memcmp(view.data, value, size) == 0);
    bitkv_view_release(&view);
    assert_null(view.data);
    assert_null(view.pin);
    assert_int_equal(view.size, 0);

    unsigned char *exact = malloc(size + 1);
    ok(bitkv_get_into(db, key, key_size, size > 0 ? exact : NULL, size, &got));
    assert_int_equal(got, size);
    assert_true(size == 0 || memcmp(exact, value, size) == 0);
    if (size > 0) {
        got = 0;
        fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_get_into(db, key, key_size, exact, size - 1, &got));
        assert_int_equal(got, size);
        fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_get_into(db, key, key_size, NULL, 0, NULL));
    }
    free(exact);
    ok(bitkv_exists(db, key, key_size));
}

static void values_of_every_size_come_back_byte_by_byte(void **state)
{
    (void)state;
    static unsigned char value[300000];
    fill(value, sizeof value, 7);
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        static const size_t around[] = {0,    8,     64,    256,   2028,  2048,   4076,  4096,
                                        8192, 16384, 32768, 65400, 65536, 131072, 262144};
        for (size_t i = 0; i < sizeof around / sizeof around[0]; i++) {
            uint64_t exact = around[i];
            ok(bitkv_put(db, &exact, sizeof exact, value, around[i]));
            for (size_t size = around[i] > 9 ? around[i] - 9 : 0; size < around[i] + 10;
                 size += 1 + around[i] / 9000) {
                uint64_t key = size;
                ok(bitkv_put(db, &key, sizeof key, value, size));
                check_every_way(db, &key, sizeof key, value, size);
            }
        }
        for (int pass = 0; pass < 2; pass++) {
            for (size_t i = 0; i < sizeof around / sizeof around[0]; i++) {
                uint64_t key = around[i];
                check_every_way(db, &key, sizeof key, value, around[i]);
            }
            ok(bitkv_close(db));
            db = open_small(pass == 0 ? BITKV_IO_PWRITE : BITKV_IO_MMAP);
        }
        ok(bitkv_close(db));
    }
}

static void a_record_may_end_exactly_where_the_segment_ends(void **state)
{
    (void)state;
    static unsigned char value[70000];
    fill(value, sizeof value, 9);
    for_both_modes(mode)
    {
        /* One record of each size around what a fresh segment has room for, and
         * around what is left behind a first one; finely where it just does not fit. */
        for (unsigned with_first = 0; with_first < 2; with_first++) {
            for (int64_t delta = -1100; delta <= 1100;
                 delta += delta >= 0 && delta < 24 ? 4 : 100) {
                remove_tree(path);
                bitkv *db = open_small(mode);
                uint64_t room = (64 << 10) - BKV_SEGMENT_HEADER;
                if (with_first != 0) {
                    ok(bitkv_put(db, "first", 5, value, 30000));
                    room -= bkv_record_size(5, 30000);
                }
                size_t size = (size_t)((int64_t)room - (int64_t)BKV_RECORD_HEADER - 3 + delta);
                ok(bitkv_put(db, "key", 3, value, size));
                put_text(db, "next", "1");
                check_every_way(db, "key", 3, value, size);
                ok(bitkv_close(db));
                db = open_small(mode);
                check_every_way(db, "key", 3, value, size);
                expect_text(db, "next", "1");
                ok(bitkv_close(db));
            }
        }
    }
}

static void a_segment_can_be_filled_to_the_last_byte(void **state)
{
    (void)state;
    static unsigned char value[2048];
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        /* 65,536 - 64 = 65,472 bytes: 31 records of 2,048 and one of 1,984 */
        for (uint32_t i = 0; i < 31; i++)
            ok(bitkv_put(db, &i, 4, value, 2048 - 24));
        uint32_t last = 31;
        ok(bitkv_put(db, &last, 4, value, 1984 - 24));
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.segments, 1);
        assert_int_equal(s.live_bytes, 65536 - 64);
        ok(bitkv_close(db));
        db = open_small(mode);
        assert_int_equal(statistics_of(db).keys, 32);
        put_text(db, "one more", "1");
        assert_int_equal(statistics_of(db).segments, 2);
        ok(bitkv_close(db));
        db = open_small(mode);
        assert_int_equal(statistics_of(db).keys, 33);
        for (uint32_t i = 0; i < 32; i++)
            ok(bitkv_exists(db, &i, 4));
        ok(bitkv_close(db));
    }
}

static void keys_are_any_bytes_from_1_to_65535(void **state)
{
    (void)state;
    static unsigned char key[BITKV_KEY_SIZE_MAX + 1];
    fill(key, sizeof key, 3);
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        static const size_t sizes[] = {1, 2, 255, 256, 65534, 65535};
        for (size_t i = 0; i < 6; i++)
            ok(bitkv_put(db, key, sizes[i], &sizes[i], sizeof sizes[i]));
        for (size_t i = 0; i < 6; i++)
            check_every_way(db, key, sizes[i], &sizes[i], sizeof sizes[i]);
        fails(BITKV_ERR_INVALID, bitkv_put(db, key, 65536, "v", 1));
        context_has("65535");
        fails(BITKV_ERR_INVALID, bitkv_put(db, key, 0, "v", 1));
        fails(BITKV_ERR_INVALID, bitkv_put(db, NULL, 3, "v", 1));
        assert_int_equal(statistics_of(db).keys, 6);
        /* NUL bytes are bytes */
        ok(bitkv_put(db, "a\0b", 3, "1", 1));
        ok(bitkv_put(db, "a\0c", 3, "2", 1));
        ok(bitkv_put(db, "a", 1, "3", 1));
        ok(bitkv_put(db, "a\0", 2, "4", 1));
        check_every_way(db, "a\0b", 3, "1", 1);
        check_every_way(db, "a\0c", 3, "2", 1);
        check_every_way(db, "a", 1, "3", 1);
        check_every_way(db, "a\0", 2, "4", 1);
        ok(bitkv_close(db));
    }
}

static void an_empty_value_is_not_an_absent_one(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        ok(bitkv_put(db, "empty", 5, NULL, 0));
        check_every_way(db, "empty", 5, "", 0);
        assert_int_equal(bitkv_exists(db, "absent", 6), BITKV_NOT_FOUND);
        ok(bitkv_close(db));
        db = open_small(mode);
        check_every_way(db, "empty", 5, "", 0);
        ok(bitkv_del(db, "empty", 5));
        assert_int_equal(bitkv_del(db, "empty", 5), BITKV_NOT_FOUND);
        ok(bitkv_close(db));
        db = open_small(mode);
        assert_int_equal(bitkv_exists(db, "empty", 5), BITKV_NOT_FOUND);
        ok(bitkv_close(db));
    }
}

static void absence_is_no_failure_and_leaves_outputs_empty(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    void *value = &value;
    size_t size = 77;
    bitkv_view view = {.data = "x", .size = 1};
    char buffer[4];
    assert_int_equal(bitkv_get(db, "k", 1, &value, &size), BITKV_NOT_FOUND);
    assert_null(value);
    assert_int_equal(bitkv_get_view(db, "k", 1, &view), BITKV_NOT_FOUND);
    assert_null(view.data);
    assert_null(view.pin);
    assert_int_equal(bitkv_get_into(db, "k", 1, buffer, 4, &size), BITKV_NOT_FOUND);
    assert_int_equal(bitkv_exists(db, "k", 1), BITKV_NOT_FOUND);
    assert_int_equal(bitkv_del(db, "k", 1), BITKV_NOT_FOUND);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.bytes_written, 0);
    assert_int_equal(s.errors_total, 0);
    ok(bitkv_close(db));
}

static void bad_arguments_are_named_and_change_nothing(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    void *value = &value;
    bitkv_view view = {.data = "x", .size = 1};
    char buffer[4];
    fails(BITKV_ERR_INVALID, bitkv_put(db, "k", 1, NULL, 1));
    fails(BITKV_ERR_INVALID, bitkv_put(db, "k", 1, buffer, BITKV_VALUE_SIZE_MAX + 1ull));
    fails(BITKV_ERR_INVALID, bitkv_put(db, "k", 1, buffer, SIZE_MAX));
    fails(BITKV_ERR_INVALID, bitkv_put_with(db, "k", 1, "w", 1, (bitkv_durability)4));
    fails(BITKV_ERR_INVALID, bitkv_put_with(db, "k", 1, "w", 1, (bitkv_durability)-1));
    fails(BITKV_ERR_INVALID, bitkv_del_with(db, "k", 1, (bitkv_durability)9));
    fails(BITKV_ERR_INVALID, bitkv_del(db, NULL, 1));
    fails(BITKV_ERR_INVALID, bitkv_del(db, "k", 0));
    fails(BITKV_ERR_INVALID, bitkv_get(db, "k", 1, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_get(db, NULL, 1, &value, NULL));
    assert_null(value);
    fails(BITKV_ERR_INVALID, bitkv_get_into(db, "k", 1, NULL, 4, NULL));
    fails(BITKV_ERR_INVALID, bitkv_get_view(db, "k", 1, NULL));
    fails(BITKV_ERR_INVALID, bitkv_get_view(db, "k", 0, &view));
    assert_null(view.data);
    fails(BITKV_ERR_INVALID, bitkv_exists(db, "k", 0));
    fails(BITKV_ERR_INVALID, bitkv_multi_get(db, NULL, 1));
    ok(bitkv_multi_get(db, NULL, 0));
    fails(BITKV_ERR_INVALID, bitkv_scan(db, BITKV_SCAN_ALL, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_stats(db, BITKV_ALL_PARTITIONS, NULL));
    /* no handle */
    fails(BITKV_ERR_INVALID, bitkv_put(NULL, "k", 1, "v", 1));
    fails(BITKV_ERR_INVALID, bitkv_get(NULL, "k", 1, &value, NULL));
    fails(BITKV_ERR_INVALID, bitkv_get_into(NULL, "k", 1, buffer, 4, NULL));
    fails(BITKV_ERR_INVALID, bitkv_get_view(NULL, "k", 1, &view));
    fails(BITKV_ERR_INVALID, bitkv_del(NULL, "k", 1));
    fails(BITKV_ERR_INVALID, bitkv_exists(NULL, "k", 1));
    fails(BITKV_ERR_INVALID, bitkv_sync(NULL));
    fails(BITKV_ERR_INVALID, bitkv_multi_get(NULL, NULL, 0));
    ok(bitkv_close(NULL));
    bitkv_free(NULL);
    bitkv_view_release(NULL);
    view = (bitkv_view){0};
    bitkv_view_release(&view);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void multi_get_gives_each_item_its_own_status(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "one", "1");
        put_text(db, "long", "0123456789");
        ok(bitkv_put(db, "empty", 5, NULL, 0));
        char small[4];
        char large[16];
        bitkv_get_item items[] = {
            {.key = "one", .key_size = 3},
            {.key = "absent", .key_size = 6, .buffer = large, .buffer_size = sizeof large},
            {.key = "long", .key_size = 4, .buffer = small, .buffer_size = sizeof small},
            {.key = NULL, .key_size = 4},
            {.key = "long", .key_size = 0},
            {.key = "one", .key_size = 3}, /* again */
            {.key = "empty", .key_size = 5},
            {.key = "empty", .key_size = 5, .buffer = small, .buffer_size = 0},
            {.key = "long", .key_size = 4, .buffer = large, .buffer_size = sizeof large},
        };
        fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_multi_get(db, items, 9));
        assert_int_equal(items[0].status, BITKV_OK);
        assert_int_equal(items[0].value_size, 1);
        assert_memory_equal(items[0].value, "1", 2);
        assert_int_equal(items[1].status, BITKV_NOT_FOUND);
        assert_null(items[1].value);
        assert_int_equal(items[2].status, BITKV_ERR_BUFFER_TOO_SMALL);
        assert_int_equal(items[2].value_size, 10);
        assert_null(items[2].value);
        assert_int_equal(items[3].status, BITKV_ERR_INVALID);
        assert_null(items[3].value);
        assert_int_equal(items[4].status, BITKV_ERR_INVALID);
        assert_memory_equal(items[5].value, "1", 2);
        assert_ptr_not_equal(items[5].value, items[0].value);
        assert_int_equal(items[6].status, BITKV_OK);
        assert_non_null(items[6].value);
        assert_int_equal(items[7].status, BITKV_OK);
        assert_ptr_equal(items[7].value, small);
        assert_int_equal(items[7].value_size, 0);
        assert_ptr_equal(items[8].value, large);
        assert_memory_equal(large, "0123456789", 10);
        bitkv_free(items[0].value);
        bitkv_free(items[5].value);
        bitkv_free(items[6].value);
        /* found or absent is a success */
        bitkv_get_item two[2] = {{.key = "absent", .key_size = 6}, {.key = "one", .key_size = 3}};
        ok(bitkv_multi_get(db, two, 2));
        bitkv_free(two[1].value);
        ok(bitkv_close(db));
    }
}

/* What is returned, and the context beside it, are about the same item. */
static void the_context_of_multi_get_belongs_to_what_it_returns(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "long", "0123456789");
    char small[4];
    bitkv_get_item items[] = {
        {.key = "long", .key_size = 4, .buffer = small, .buffer_size = sizeof small},
        {.key = NULL, .key_size = 4},
    };
    fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_multi_get(db, items, 2));
    context_has("buffer");
    bitkv_get_item turned[] = {items[1], items[0]};
    fails(BITKV_ERR_INVALID, bitkv_multi_get(db, turned, 2));
    context_has("key");
    ok(bitkv_close(db));
}

static void views_stay_as_they_are_whatever_happens(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    static unsigned char value[5000];
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 1;
        bitkv *db = open_with(&o);
        bitkv_view views[COUNT];
        for (uint32_t i = 0; i < COUNT; i++) {
            fill(value, sizeof value, i);
            ok(bitkv_put(db, &i, sizeof i, value, sizeof value - i));
            ok(bitkv_get_view(db, &i, sizeof i, &views[i]));
        }
        static unsigned char jumbo[100000];
        fill(jumbo, sizeof jumbo, 99);
        bitkv_view large;
        ok(bitkv_put(db, "jumbo", 5, jumbo, sizeof jumbo));
        ok(bitkv_get_view(db, "jumbo", 5, &large));
        for (uint32_t i = 0; i < COUNT; i++) {
            if (i % 2 == 0)
                ok(bitkv_put(db, &i, sizeof i, "new", 3));
            else
                ok(bitkv_del(db, &i, sizeof i));
        }
        bitkv_view last; /* in the segment that is being written */
        put_text(db, "last", "word");
        ok(bitkv_get_view(db, "last", 4, &last));
        ok(bitkv_close(db));
        for (uint32_t i = 0; i < COUNT; i++) {
            fill(value, sizeof value, i);
            assert_int_equal(views[i].size, sizeof value - i);
            assert_memory_equal(views[i].data, value, views[i].size);
        }
        /* another opening goes on in the same files */
        db = open_with(&o);
        for (uint32_t i = 0; i < COUNT; i++)
            ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
        assert_memory_equal(large.data, jumbo, sizeof jumbo);
        assert_memory_equal(last.data, "word", 4);
        bitkv_view_release(&large);
        bitkv_view_release(&last);
        for (uint32_t i = 0; i < COUNT; i++)
            bitkv_view_release(&views[i]);
        ok(bitkv_close(db));
    }
}

static void views_held_across_closing_give_their_descriptors_back(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        unsigned before = count_descriptors();
        bitkv *db = open_small(mode);
        put_text(db, "k", "value");
        bitkv_view view;
        ok(bitkv_get_view(db, "k", 1, &view));
        ok(bitkv_close(db));
        assert_memory_equal(view.data, "value", 5);
        bitkv_view_release(&view);
        assert_int_equal(count_descriptors(), before);
    }
}

static void errors_have_names_and_messages(void **state)
{
    (void)state;
#define CHECK(name, value, text)                                                                   \
    assert_int_equal(BITKV_##name, value);                                                         \
    assert_string_equal(bitkv_strerror(value), text);                                              \
    assert_string_equal(bitkv_error_name(value), "BITKV_" #name);
    BITKV_ERROR_MAP(CHECK)
#undef CHECK
    assert_string_equal(bitkv_strerror(-999), "unknown error");
    assert_string_equal(bitkv_strerror(42), "unknown error");
    assert_non_null(bitkv_error_name(-999));
    assert_non_null(bitkv_error_context());
    assert_string_equal(bitkv_version(), "0.1.0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(values_of_every_size_come_back_byte_by_byte),
        TEST(a_record_may_end_exactly_where_the_segment_ends),
        TEST(a_segment_can_be_filled_to_the_last_byte),
        TEST(keys_are_any_bytes_from_1_to_65535),
        TEST(an_empty_value_is_not_an_absent_one),
        TEST(absence_is_no_failure_and_leaves_outputs_empty),
        TEST(bad_arguments_are_named_and_change_nothing),
        TEST(multi_get_gives_each_item_its_own_status),
        TEST(the_context_of_multi_get_belongs_to_what_it_returns),
        TEST(views_stay_as_they_are_whatever_happens),
        TEST(views_held_across_closing_give_their_descriptors_back),
        TEST(errors_have_names_and_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
