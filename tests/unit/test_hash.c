/* SPDX-License-Identifier: MIT */
/* SipHash with 128-bit output, against the published vectors and libsodium;
 * the bits that partitions and the KeyDir take are independent. */
#include "base/bytes.h"
#include "base/hash.h"

#include <sodium.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct bkv_hash_key key_of(const uint8_t bytes[16])
{
    return (struct bkv_hash_key){.k0 = bkv_get64(bytes), .k1 = bkv_get64(bytes + 8)};
}

static void published_vectors_of_siphash_2_4_128(void **state)
{
    (void)state;
    /* vectors.h of the reference implementation: key 00..0f, input 00..len-1 */
    static const uint8_t expected[4][16] = {
        {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02,
         0x93},
        {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc,
         0x45},
        {0x81, 0x77, 0x22, 0x8d, 0xa4, 0xa4, 0x5d, 0xc7, 0xfc, 0xa3, 0x8b, 0xde, 0xf6, 0x0a, 0xff,
         0xe4},
        {0x9c, 0x70, 0xb6, 0x0c, 0x52, 0x67, 0xa9, 0x4e, 0x5f, 0x33, 0xb6, 0xb0, 0x29, 0x85, 0xed,
         0x51},
    };
    uint8_t bytes[16];
    for (unsigned i = 0; i < 16; i++)
        bytes[i] = (uint8_t)i;
    struct bkv_hash_key key = key_of(bytes);
    for (size_t n = 0; n < 4; n++) {
        struct bkv_hash hash = bkv_siphash128(&key, bytes, n, 2, 4);
        assert_int_equal(hash.lo, bkv_get64(expected[n]));
        assert_int_equal(hash.hi, bkv_get64(expected[n] + 8));
    }
}

static void a_second_opinion_agrees_at_every_length(void **state)
{
    (void)state;
    assert_true(sodium_init() >= 0);
    uint8_t secret[16];
    uint8_t input[300];
    uint8_t out[16];
    for (size_t n = 0; n < sizeof input; n++) {
        randombytes_buf(secret, sizeof secret);
        randombytes_buf(input, sizeof input);
        struct bkv_hash_key key = key_of(secret);
        struct bkv_hash hash = bkv_siphash128(&key, input, n, 2, 4);
        assert_int_equal(crypto_shorthash_siphashx24(out, input, n, secret), 0);
        assert_int_equal(hash.lo, bkv_get64(out));
        assert_int_equal(hash.hi, bkv_get64(out + 8));
    }
}

/* SipHash-1-3: what is on disk rests on these values. */
static void the_hash_of_the_store_does_not_change(void **state)
{
    (void)state;
    const struct bkv_hash_key key = {.k0 = 0x0706050403020100u, .k1 = 0x0f0e0d0c0b0a0908u};
    struct bkv_hash one = bkv_hash(&key, "key", 3);
    struct bkv_hash same = bkv_siphash128(&key, "key", 3, 1, 3);
    assert_int_equal(one.lo, same.lo);
    assert_int_equal(one.hi, same.hi);
    assert_int_equal(one.lo, 0x6aa73c1fd2804bc7u);
    assert_int_equal(one.hi, 0x0496e1dcbf6d810bu);
}

static void one_bit_of_the_input_changes_half_of_the_output(void **state)
{
    (void)state;
    const struct bkv_hash_key key = {.k0 = 1, .k1 = 2};
    unsigned flips[128] = {0};
    const unsigned rounds = 4000;
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t input[2] = {i * UINT64_C(0x9e3779b97f4a7c15), i};
        struct bkv_hash a = bkv_hash(&key, input, sizeof input);
        input[i % 2] ^= 1ull << (i / 2 % 64);
        struct bkv_hash b = bkv_hash(&key, input, sizeof input);
        for (unsigned bit = 0; bit < 64; bit++) {
            flips[bit] += (unsigned)((a.lo ^ b.lo) >> bit & 1);
            flips[64 + bit] += (unsigned)((a.hi ^ b.hi) >> bit & 1);
        }
    }
    for (unsigned bit = 0; bit < 128; bit++) /* six standard deviations */
        assert_in_range(flips[bit], rounds / 2 - 190, rounds / 2 + 190);
}

static void partitions_are_stable_in_range_and_balanced(void **state)
{
    (void)state;
    const struct bkv_hash_key key = {.k0 = 3, .k1 = 4};
    static const uint32_t counts[] = {1, 2, 3, 7, 64, 1000, 1024};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        static unsigned share[1024];
        memset(share, 0, sizeof share);
        unsigned keys = counts[c] * 400;
        for (unsigned i = 0; i < keys; i++) {
            struct bkv_hash hash = bkv_hash(&key, &i, sizeof i);
            uint32_t p = bkv_hash_partition(&hash, counts[c]);
            assert_true(p < counts[c]);
            assert_int_equal(p, bkv_hash_partition(&hash, counts[c]));
            share[p]++;
        }
        for (uint32_t p = 0; p < counts[c]; p++)
            assert_in_range(share[p], 280, 520); /* six deviations of 20 */
    }
}

static void neither_tag_nor_fingerprint_knows_the_partition(void **state)
{
    (void)state;
    /* Keys of one partition of 1024: their tags and fingerprints are as spread
     * as those of all keys. */
    const struct bkv_hash_key key = {.k0 = 5, .k1 = 6};
    unsigned found = 0;
    unsigned tag_bits[BKV_HASH_TAG_BITS] = {0};
    unsigned lo_bits[64] = {0};
    for (uint64_t i = 0; found < 1000; i++) {
        struct bkv_hash hash = bkv_hash(&key, &i, sizeof i);
        if (bkv_hash_partition(&hash, 1024) != 77)
            continue;
        found++;
        for (unsigned b = 0; b < BKV_HASH_TAG_BITS; b++)
            tag_bits[b] += bkv_hash_tag(&hash) >> b & 1;
        for (unsigned b = 0; b < 64; b++)
            lo_bits[b] += (unsigned)(hash.lo >> b & 1);
    }
    for (unsigned b = 0; b < BKV_HASH_TAG_BITS; b++)
        assert_in_range(tag_bits[b], 400, 600);
    for (unsigned b = 0; b < 64; b++)
        assert_in_range(lo_bits[b], 400, 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors_of_siphash_2_4_128),
        cmocka_unit_test(a_second_opinion_agrees_at_every_length),
        cmocka_unit_test(the_hash_of_the_store_does_not_change),
        cmocka_unit_test(one_bit_of_the_input_changes_half_of_the_output),
        cmocka_unit_test(partitions_are_stable_in_range_and_balanced),
        cmocka_unit_test(neither_tag_nor_fingerprint_knows_the_partition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
