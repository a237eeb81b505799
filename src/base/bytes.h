/* SPDX-License-Identifier: MIT */
/* Fixed-width little-endian integers at any alignment: the only integers on
 * disk. Compilers turn each into one move. */
#ifndef BKV_BASE_BYTES_H
#define BKV_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#define BKV_LE16(x) __builtin_bswap16(x)
#define BKV_LE32(x) __builtin_bswap32(x)
#define BKV_LE64(x) __builtin_bswap64(x)
#else
#define BKV_LE16(x) (x)
#define BKV_LE32(x) (x)
#define BKV_LE64(x) (x)
#endif

static inline uint16_t bkv_get16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return BKV_LE16(v);
}

static inline uint32_t bkv_get32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return BKV_LE32(v);
}

static inline uint64_t bkv_get64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return BKV_LE64(v);
}

static inline void bkv_put16(void *p, uint16_t v)
{
    v = BKV_LE16(v);
    memcpy(p, &v, sizeof v);
}

static inline void bkv_put32(void *p, uint32_t v)
{
    v = BKV_LE32(v);
    memcpy(p, &v, sizeof v);
}

static inline void bkv_put64(void *p, uint64_t v)
{
    v = BKV_LE64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint64_t bkv_align_up(uint64_t n, uint64_t power_of_two)
{
    return (n + power_of_two - 1) & ~(power_of_two - 1);
}

static inline uint64_t bkv_min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t bkv_max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
