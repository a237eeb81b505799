/* SPDX-License-Identifier: MIT */
#include "base/crc32c.h"

#include "base/bytes.h"

#include <stdbool.h>

/* --- tables: slicing by 8 (Kounavis and Berry, 2005) ------------------ */

#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t table[8][256];

static __attribute__((constructor)) void make_tables(void)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1u) ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
        table[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++) {
        for (int k = 1; k < 8; k++)
            table[k][n] = (table[k - 1][n] >> 8) ^ table[0][table[k - 1][n] & 0xff];
    }
}

static inline uint32_t step8(uint32_t crc, unsigned char byte)
{
    return (crc >> 8) ^ table[0][(crc ^ byte) & 0xff];
}

static inline uint32_t step64(uint32_t crc, uint64_t word)
{
    word ^= crc;
    crc = 0;
    for (int k = 0; k < 8; k++)
        crc ^= table[7 - k][(word >> (8 * k)) & 0xff];
    return crc;
}

uint32_t bkv_crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const unsigned char *p = data;
    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8)
        crc = step64(crc, bkv_get64(p));
    for (; size > 0; size--, p++)
        crc = step8(crc, *p);
    return ~crc;
}

static uint32_t words_portable(uint32_t crc, uint64_t a, uint64_t b, uint64_t c)
{
    return ~step64(step64(step64(~crc, a), b), c);
}

/* --- the processor's instruction --------------------------------------- */

#if defined(__x86_64__)

#include <nmmintrin.h>

#define HARDWARE         __attribute__((target("sse4.2")))
#define HAVE_HARDWARE()  (__builtin_cpu_supports("sse4.2") != 0)
#define CRC64(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define CRC8(crc, byte)  _mm_crc32_u8((crc), (byte))

#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)

#include <arm_acle.h>

#define HARDWARE
#define HAVE_HARDWARE()  true
#define CRC64(crc, word) __crc32cd((crc), (word))
#define CRC8(crc, byte)  __crc32cb((crc), (byte))

#endif

#ifdef HARDWARE

static HARDWARE uint32_t crc_hardware(uint32_t crc, const unsigned char *p, size_t size)
{
    /* Four at a time: the loop's own instructions keep the processor from
     * looking further ahead, to the cache misses of the next record. */
    crc = ~crc;
    for (; size >= 32; size -= 32, p += 32) {
        crc = CRC64(crc, bkv_get64(p));
        crc = CRC64(crc, bkv_get64(p + 8));
        crc = CRC64(crc, bkv_get64(p + 16));
        crc = CRC64(crc, bkv_get64(p + 24));
    }
    for (; size >= 8; size -= 8, p += 8)
        crc = CRC64(crc, bkv_get64(p));
    for (; size > 0; size--, p++)
        crc = CRC8(crc, *p);
    return ~crc;
}

static HARDWARE uint32_t words_hardware(uint32_t crc, uint64_t a, uint64_t b, uint64_t c)
{
    crc = ~crc;
    crc = CRC64(crc, a);
    crc = CRC64(crc, b);
    crc = CRC64(crc, c);
    return ~crc;
}

uint32_t bkv_crc32c(uint32_t crc, const void *data, size_t size)
{
    return HAVE_HARDWARE() ? crc_hardware(crc, data, size) : bkv_crc32c_portable(crc, data, size);
}

uint32_t bkv_crc32c_words(uint32_t crc, uint64_t a, uint64_t b, uint64_t c)
{
    return HAVE_HARDWARE() ? words_hardware(crc, a, b, c) : words_portable(crc, a, b, c);
}

#else

uint32_t bkv_crc32c(uint32_t crc, const void *data, size_t size)
{
    return bkv_crc32c_portable(crc, data, size);
}

uint32_t bkv_crc32c_words(uint32_t crc, uint64_t a, uint64_t b, uint64_t c)
{
    return words_portable(crc, a, b, c);
}

#endif
