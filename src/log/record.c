/* SPDX-License-Identifier: MIT */
#include "log/record.h"

#include <assert.h>
#include <string.h>

static_assert(BKV_RECORD_SEQUENCE + 8 == BKV_RECORD_HEADER, "header fields are contiguous");
static_assert(BITKV_KEY_SIZE_MAX == UINT16_MAX, "a key's size fits its field");
static_assert((uint64_t)BKV_SEGMENT_SIZE_MAX <= (8ull << BKV_OFFSET_UNIT_BITS),
              "every offset of an ordinary segment fits a location");
static_assert(BKV_SEGMENTS_MAX ==
                  1u << (BKV_LOCATION_BITS - BKV_OFFSET_UNIT_BITS - BKV_SIZE_CODE_BITS),
              "every segment number fits a location");

void bkv_record_begin(uint8_t header[BKV_RECORD_HEADER], const struct bkv_record *record)
{
    memset(header, 0, BKV_RECORD_HEADER);
    bkv_put32(header + BKV_RECORD_VALUE_SIZE, record->value_size);
    bkv_put16(header + BKV_RECORD_KEY_SIZE, record->key_size);
    header[BKV_RECORD_TYPE] = record->type;
    header[BKV_RECORD_FLAGS] = record->flags;
}
