/* SPDX-License-Identifier: MIT */
/* CRC-32C: published values, and the two implementations agree. */
#include "base/bytes.h"
#include "base/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void known_vectors(void **state)
{
    (void)state;
    uint8_t b[32];
    assert_int_equal(bkv_crc32c(0, "123456789", 9), 0xe3069283u);
    /* RFC 3720, B.4 */
    memset(b, 0, sizeof b);
    assert_int_equal(bkv_crc32c(0, b, sizeof b), 0x8a9136aau);
    memset(b, 0xff, sizeof b);
    assert_int_equal(bkv_crc32c(0, b, sizeof b), 0x62a8ab43u);
    for (unsigned i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(bkv_crc32c(0, b, sizeof b), 0x46dd794eu);
    for (unsigned i = 0; i < 32; i++)
        b[i] = (uint8_t)(31 - i);
    assert_int_equal(bkv_crc32c(0, b, sizeof b), 0x113fdb5cu);
    assert_int_equal(bkv_crc32c(0, "", 0), 0);
}

static uint8_t data[70000];

static void fill(void)
{
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void the_processor_and_the_tables_agree_at_every_length_and_alignment(void **state)
{
    (void)state;
    fill();
    for (size_t from = 0; from < 9; from++)
        for (size_t size = 0; size < 1200; size++)
            assert_int_equal(bkv_crc32c(7, data + from, size),
                             bkv_crc32c_portable(7, data + from, size));
    assert_int_equal(bkv_crc32c(0, data, sizeof data), bkv_crc32c_portable(0, data, sizeof data));
}

static void values_chain(void **state)
{
    (void)state;
    fill();
    uint32_t whole = bkv_crc32c(0, data, 3000);
    for (size_t cut = 0; cut <= 3000; cut += 7)
        assert_int_equal(bkv_crc32c(bkv_crc32c(0, data, cut), data + cut, 3000 - cut), whole);
}

static void words_are_their_little_endian_bytes(void **state)
{
    (void)state;
    uint8_t b[24];
    bkv_put64(b, 0x0123456789abcdefu);
    bkv_put64(b + 8, 5);
    bkv_put64(b + 16, UINT64_MAX);
    assert_int_equal(bkv_crc32c_words(99, 0x0123456789abcdefu, 5, UINT64_MAX),
                     bkv_crc32c_portable(99, b, sizeof b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_vectors),
        cmocka_unit_test(the_processor_and_the_tables_agree_at_every_length_and_alignment),
        cmocka_unit_test(values_chain),
        cmocka_unit_test(words_are_their_little_endian_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
