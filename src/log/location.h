/* SPDX-License-Identifier: MIT */
/*
 * Where a record lies, in the 57 bits that a KeyDir slot has for it:
 *
 *   bits  0-11  size code, 12 bits
 *   bits 12-38  offset in the segment in units of 8 bytes, 27 bits (1 GiB)
 *   bits 39-56  segment number, 18 bits
 *
 * The size is exact, so that one read fetches the record and dead bytes are
 * known without reading. 12 bits do that because record sizes are rounded to
 * what a small floating-point number can hold, 8 significant bits of units of
 * 8 bytes: exact to 2 KiB, padded by at most 1/128 above.
 *
 * A segment number is an index into the partition's table of open segments,
 * good for this opening; segment ids, on disk, count up for ever.
 */
#ifndef BKV_LOG_LOCATION_H
#define BKV_LOG_LOCATION_H

#include "base/limits.h"

#include <stdint.h>

#define BKV_LOCATION_BITS    57u
#define BKV_SIZE_CODE_BITS   12u
#define BKV_OFFSET_UNIT_BITS 27u

/* Code of the smallest representable size that holds `size` bytes. */
static inline uint32_t bkv_size_code(uint64_t size)
{
    uint64_t units = (size + 7) / 8;
    if (units < 256)
        return (uint32_t)units;
    unsigned exponent = 63u - (unsigned)__builtin_clzll(units) - 7u;
    uint64_t mantissa = (units + ((1ull << exponent) - 1)) >> exponent; /* 128-256 */
    if (mantissa == 256) {
        mantissa = 128;
        exponent++;
    }
    return (uint32_t)((exponent + UINT64_C(1)) * 128 + (mantissa - 128));
}

static inline uint64_t bkv_size_of_code(uint32_t code)
{
    if (code < 256)
        return (uint64_t)code * 8;
    unsigned exponent = code / 128 - 1;
    return ((uint64_t)(code % 128 + 128) << exponent) * 8;
}

static inline uint64_t bkv_location(uint32_t segment_number, uint64_t offset, uint32_t size_code)
{
    return (uint64_t)segment_number << (BKV_SIZE_CODE_BITS + BKV_OFFSET_UNIT_BITS) |
           (offset / 8) << BKV_SIZE_CODE_BITS | size_code;
}

static inline uint32_t bkv_location_segment(uint64_t location)
{
    return (uint32_t)(location >> (BKV_SIZE_CODE_BITS + BKV_OFFSET_UNIT_BITS));
}

static inline uint64_t bkv_location_offset(uint64_t location)
{
    return ((location >> BKV_SIZE_CODE_BITS) & ((1u << BKV_OFFSET_UNIT_BITS) - 1u)) * 8;
}

static inline uint64_t bkv_location_size(uint64_t location)
{
    return bkv_size_of_code((uint32_t)location & ((1u << BKV_SIZE_CODE_BITS) - 1u));
}

#endif
