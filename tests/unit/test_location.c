/* SPDX-License-Identifier: MIT */
/* Size codes and locations. */
#include "log/location.h"
#include "log/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_size_fits_its_code_with_little_padding(void **state)
{
    (void)state;
    uint64_t before = 0;
    /* Every size to 1 MiB, then around every step up to the largest record. */
    uint64_t limit = BKV_RECORD_HEADER + BITKV_KEY_SIZE_MAX + (uint64_t)BITKV_VALUE_SIZE_MAX;
    for (uint64_t size = 1; size <= limit; size += size < (1u << 20) ? 1 : size / 1021) {
        uint32_t code = bkv_size_code(size);
        uint64_t padded = bkv_size_of_code(code);
        assert_true(code < 1u << BKV_SIZE_CODE_BITS);
        assert_true(padded >= size);
        assert_true(padded % 8 == 0);
        if (padded - size > (size <= 2048 ? 7 : size / 128 + 7))
            fail_msg("%llu is padded to %llu", (unsigned long long)size,
                     (unsigned long long)padded);
        assert_true(padded >= before);
        before = padded;
        assert_int_equal(bkv_size_code(padded), code);
    }
    uint64_t largest = bkv_record_size(BITKV_KEY_SIZE_MAX, BITKV_VALUE_SIZE_MAX);
    assert_true(largest >= limit);
    assert_int_equal(bkv_size_of_code(bkv_size_code(largest)), largest);
}

static void every_code_is_its_size_s_code_and_they_ascend(void **state)
{
    (void)state;
    uint32_t last =
        bkv_size_code(BKV_RECORD_HEADER + BITKV_KEY_SIZE_MAX + (uint64_t)BITKV_VALUE_SIZE_MAX);
    uint64_t before = 0;
    for (uint32_t code = 1; code <= last; code++) {
        uint64_t size = bkv_size_of_code(code);
        assert_int_equal(bkv_size_code(size), code);
        if (code > 1)
            assert_true(bkv_size_code(size - 7) <= code);
        assert_true(size > before);
        assert_int_equal(bkv_size_code(before + 1), code);
        before = size;
    }
}

static void locations_keep_their_parts(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {0, 1, 511, 512, BKV_SEGMENTS_MAX - 1};
    static const uint64_t offsets[] = {0, 64, 4096, 123456, BKV_SEGMENT_SIZE_MAX - 8};
    for (size_t n = 0; n < 5; n++) {
        for (size_t o = 0; o < 5; o++) {
            for (uint64_t size = 24; size < 1u << 30; size = size * 3 + 1) {
                uint32_t code = bkv_size_code(size);
                uint64_t location = bkv_location(numbers[n], offsets[o], code);
                assert_int_equal(location >> BKV_LOCATION_BITS, 0);
                assert_int_equal(bkv_location_segment(location), numbers[n]);
                assert_int_equal(bkv_location_offset(location), offsets[o]);
                assert_int_equal(bkv_location_size(location), bkv_size_of_code(code));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_fits_its_code_with_little_padding),
        cmocka_unit_test(every_code_is_its_size_s_code_and_they_ascend),
        cmocka_unit_test(locations_keep_their_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
