/* SPDX-License-Identifier: MIT */
/* A record verifies as it was written, where it was written, and not else. */
#include "damage/lab.h"
#include "log/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct lab_log log_;
static struct bkv_record record;

static bool verifies(const uint8_t *bytes, uint64_t size, uint64_t seed, uint64_t offset)
{
    return bkv_record_verify(bytes, size, seed, offset, &record);
}

static uint64_t seed_of(uint32_t partition, uint64_t id)
{
    return bkv_segment_seed(lab_manifest_1.database_id, partition, id);
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    static uint8_t value[5000];
    for (size_t i = 0; i < sizeof value; i++)
        value[i] = (uint8_t)(i * 7);
    for (size_t size = 0; size < sizeof value; size = size * 2 + 1) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
        size_t at = lab_log_raw(&log_, BKV_RECORD_PUT, 77, "key", 3, value, size);
        const uint8_t *bytes = log_.data + at;
        uint64_t whole = bkv_record_size(3, size);
        assert_int_equal(log_.size - at, whole);
        assert_true(verifies(bytes, whole, seed_of(0, 1), at));
        assert_int_equal(record.sequence, 77);
        assert_int_equal(record.key_size, 3);
        assert_int_equal(record.value_size, size);
        assert_memory_equal(bkv_record_key(bytes), "key", 3);
        assert_memory_equal(bkv_record_value(bytes, &record), value, size);
        free(log_.data);
    }
}

static void a_deadline_lies_before_the_key(void **state)
{
    (void)state;
    const uint64_t deadlines[] = {0, 1, 1234567890123, UINT64_MAX - 1};
    for (size_t i = 0; i < sizeof deadlines / sizeof *deadlines; i++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
        size_t at = lab_log_put_until(&log_, 5, deadlines[i], "key", "value");
        const uint8_t *bytes = log_.data + at;
        uint64_t whole = log_.size - at;
        assert_true(verifies(bytes, whole, seed_of(0, 1), at));
        assert_int_equal(whole, bkv_record_size(3, 5 + BKV_RECORD_DEADLINE));
        assert_int_equal(whole, bkv_record_size_of(&record));
        assert_int_equal(record.flags, BKV_RECORD_EXPIRES);
        assert_int_equal(bkv_record_deadline(bytes), deadlines[i]);
        assert_memory_equal(bkv_record_key(bytes), "key", 3);
        assert_memory_equal(bkv_record_value(bytes, &record), "value", 5);
        free(log_.data);
    }
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    size_t at = lab_log_put(&log_, 1, "key", "value");
    assert_int_equal(bkv_record_deadline(log_.data + at), UINT64_MAX);
    free(log_.data);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    size_t ats[4] = {lab_log_put(&log_, 1, "key", "a value of some length"),
                     lab_log_delete(&log_, 2, "key"), lab_log_mark(&log_, 3, 1, 64),
                     lab_log_put_until(&log_, 4, 1234567890123, "key", "a value")};
    size_t ends[4] = {ats[1], ats[2], ats[3], log_.size};
    for (int n = 0; n < 4; n++) {
        for (size_t i = ats[n]; i < ends[n]; i++) {
            for (unsigned bit = 0; bit < 8; bit++) {
                log_.data[i] ^= (uint8_t)(1u << bit);
                assert_false(verifies(log_.data + ats[n], ends[n] - ats[n], seed_of(0, 1), ats[n]));
                log_.data[i] ^= (uint8_t)(1u << bit);
            }
        }
        assert_true(verifies(log_.data + ats[n], ends[n] - ats[n], seed_of(0, 1), ats[n]));
    }
    free(log_.data);
}

static void no_other_place_will_do(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    size_t at = lab_log_put(&log_, 1, "key", "value");
    const uint8_t *bytes = log_.data + at;
    size_t size = log_.size - at;
    assert_true(verifies(bytes, size, seed_of(0, 1), at));
    for (uint64_t offset = 0; offset < 4096; offset += 8) {
        if (offset != at)
            assert_false(verifies(bytes, size, seed_of(0, 1), offset));
    }
    for (uint64_t id = 2; id < 2000; id++)
        assert_false(verifies(bytes, size, seed_of(0, id), at));
    for (uint32_t partition = 1; partition < BITKV_PARTITIONS_MAX; partition++)
        assert_false(verifies(bytes, size, seed_of(partition, 1), at));
    uint8_t other[16];
    memcpy(other, lab_manifest_1.database_id, sizeof other);
    for (unsigned i = 0; i < 8; i++) {
        other[i] ^= 1;
        assert_false(verifies(bytes, size, bkv_segment_seed(other, 0, 1), at));
        other[i] ^= 1;
    }
    assert_false(verifies(bytes, size + 8, seed_of(0, 1), at));
    assert_false(verifies(bytes, 16, seed_of(0, 1), at));
    free(log_.data);
}

static void zeros_never_verify(void **state)
{
    (void)state;
    static const uint8_t zeros[4096];
    for (uint64_t size = 0; size <= sizeof zeros; size += 8) {
        assert_false(verifies(zeros, size, 0, 0));
        assert_false(verifies(zeros, size, seed_of(0, 1), 64));
    }
}

static void impossible_headers_are_told_before_anything_is_computed(void **state)
{
    (void)state;
    struct bkv_record r = {.type = BKV_RECORD_PUT, .key_size = 1};
    assert_true(bkv_record_plausible(&r));
    r.value_size = BITKV_VALUE_SIZE_MAX;
    assert_true(bkv_record_plausible(&r));
    r.value_size++;
    assert_false(bkv_record_plausible(&r));
    r = (struct bkv_record){.type = BKV_RECORD_PUT};
    assert_false(bkv_record_plausible(&r)); /* no key */
    r = (struct bkv_record){.type = BKV_RECORD_DELETE, .key_size = 1, .value_size = 1};
    assert_false(bkv_record_plausible(&r));
    r = (struct bkv_record){.type = BKV_RECORD_MARK, .key_size = 1, .value_size = BKV_MARK_SIZE};
    assert_false(bkv_record_plausible(&r));
    for (unsigned type = 0; type < 256; type++) {
        r = (struct bkv_record){.type = (uint8_t)type, .key_size = 1};
        assert_int_equal(bkv_record_plausible(&r),
                         type == BKV_RECORD_PUT || type == BKV_RECORD_DELETE);
        r.flags = BKV_RECORD_EXPIRES; /* of a put only */
        assert_int_equal(bkv_record_plausible(&r), type == BKV_RECORD_PUT);
        for (unsigned flags = 2; flags < 256; flags++) {
            r.flags = (uint8_t)flags;
            assert_false(bkv_record_plausible(&r));
        }
    }
    r = (struct bkv_record){.type = BKV_RECORD_MARK, .value_size = BKV_MARK_SIZE};
    assert_true(bkv_record_plausible(&r));
    r.flags = BKV_RECORD_EXPIRES;
    assert_false(bkv_record_plausible(&r));
    r = (struct bkv_record){.type = BKV_RECORD_BATCH, .value_size = BKV_BATCH_FIXED};
    assert_true(bkv_record_plausible(&r));
    r.value_size += BKV_BATCH_PEERS_MAX * BKV_BATCH_PEER;
    assert_true(bkv_record_plausible(&r));
    r.value_size += BKV_BATCH_PEER;
    assert_false(bkv_record_plausible(&r));
    r.value_size = BKV_BATCH_FIXED + 1;
    assert_false(bkv_record_plausible(&r));
    r.value_size = BKV_BATCH_FIXED - 1;
    assert_false(bkv_record_plausible(&r));
    r = (struct bkv_record){.type = BKV_RECORD_BATCH, .value_size = BKV_BATCH_FIXED, .key_size = 1};
    assert_false(bkv_record_plausible(&r));
    r = (struct bkv_record){.type = BKV_RECORD_BATCH, .value_size = BKV_BATCH_FIXED, .flags = 1};
    assert_false(bkv_record_plausible(&r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(a_deadline_lies_before_the_key),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_place_will_do),
        cmocka_unit_test(zeros_never_verify),
        cmocka_unit_test(impossible_headers_are_told_before_anything_is_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
