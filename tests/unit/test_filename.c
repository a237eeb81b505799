/* SPDX-License-Identifier: MIT */
/* Names of files: made and parsed; only the exact spelling counts. */
#include "base/limits.h"
#include "log/filename.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void names_are_parsed_as_they_are_made(void **state)
{
    (void)state;
    static const uint64_t ids[] = {1, 9, 10, 12345, BKV_SEGMENT_ID_MAX - 1, BKV_SEGMENT_ID_MAX};
    char name[BKV_NAME_SIZE];
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        uint64_t id = 0;
        bkv_name_data(name, 1023, ids[i]);
        assert_int_equal(bkv_name_parse(strchr(name, '/') + 1, &id), BKV_FILE_DATA);
        assert_int_equal(id, ids[i]);
        bkv_name_hint(name, 0, ids[i]);
        assert_int_equal(bkv_name_parse(strchr(name, '/') + 1, &id), BKV_FILE_HINT);
        assert_int_equal(id, ids[i]);
    }
    uint64_t id;
    bkv_name_checkpoint(name, 7);
    assert_string_equal(name, "partition_7/keydir.ckp");
    assert_int_equal(bkv_name_parse("keydir.ckp", &id), BKV_FILE_CHECKPOINT);
    bkv_name_doubt(name, 7);
    assert_string_equal(name, "partition_7/sync_failed");
    assert_int_equal(bkv_name_parse("sync_failed", &id), BKV_FILE_DOUBT);
    assert_int_equal(bkv_name_parse("sync_failed.tmp", &id), BKV_FILE_OTHER);
    assert_int_equal(bkv_name_parse("keydir.ckp.tmp", &id), BKV_FILE_TEMPORARY);
    assert_int_equal(bkv_name_parse("hint_12.ht.tmp", &id), BKV_FILE_TEMPORARY);
    assert_int_equal(bkv_name_parse("data_12.db.tmp", &id), BKV_FILE_TEMPORARY);
    bkv_name_durable(name, 7);
    assert_string_equal(name, "partition_7/durable");
    assert_int_equal(bkv_name_parse("durable", &id), BKV_FILE_DURABLE);
    assert_int_equal(bkv_name_parse("durable.tmp", &id), BKV_FILE_TEMPORARY);
    bkv_name_reserve(name, 7);
    assert_string_equal(name, "partition_7/reserve.tmp");
    assert_int_equal(bkv_name_parse("reserve.tmp", &id), BKV_FILE_TEMPORARY);
}

static void partitions_are_parsed_as_they_are_named(void **state)
{
    (void)state;
    char name[BKV_NAME_SIZE];
    uint32_t number = 99;
    static const uint32_t numbers[] = {0, 1, 9, 10, BITKV_PARTITIONS_MAX - 1};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        bkv_name_partition(name, numbers[i]);
        assert_true(bkv_name_parse_partition(name, &number));
        assert_int_equal(number, numbers[i]);
    }
    static const char *const foreign[] = {
        "partition_",  "partition_00", "partition_01", "partition_x",          "partition_1x",
        "partition_-", "partition",    "Partition_1",  "partition_4294967296", "",
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        assert_false(bkv_name_parse_partition(foreign[i], &number));
    bkv_name_partition(name, BITKV_PARTITIONS_MAX);
    assert_false(bkv_name_parse_partition(name, &number));
}

static void what_is_not_ours_is_left_alone(void **state)
{
    (void)state;
    static const char *const foreign[] = {
        "",
        "data",
        "data_",
        "data_.db",
        "data_0.db",
        "data_01.db",
        "data_+1.db",
        "data_x1.db",
        "data_:.db", /* the character behind 9 */
        "data_1:.db",
        "data_-1.db",
        "data_ 1.db",
        "data_1.db~",
        "data_1.db.bak",
        "data_1.DB",
        "data_1",
        "xdata_1.db",
        "data_1x.db",
        "data_9223372036854775808.db", /* one more than an id can be */
        "data_18446744073709551616.db",
        "data_99999999999999999999.db",
        "hint_1.db",
        "hint_0.ht",
        "hint_1.ht.tmp2",
        "data_1.db.tmp2",
        "keydir",
        "keydir.ckp2",
        "keydir.ckp.tmp~",
        "MANIFEST",
        "data_0x1.db",
        "data_1.db/",
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        uint64_t id = 0;
        if (bkv_name_parse(foreign[i], &id) != BKV_FILE_OTHER)
            fail_msg("'%s' was taken for one of ours", foreign[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_parsed_as_they_are_made),
        cmocka_unit_test(partitions_are_parsed_as_they_are_named),
        cmocka_unit_test(what_is_not_ours_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
