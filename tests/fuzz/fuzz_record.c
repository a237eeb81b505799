/* SPDX-License-Identifier: MIT */
/*
 * One record in memory, and where the KeyDir would say it lies. First byte: 1 mends
 * its checksum; then its offset in units of 8 bytes (u16), a bit to flip (u16), and
 * the bytes. Small enough for millions of executions.
 *
 * What verifies must lie within its size, be encoded as the writer would encode it,
 * and verify in no other place and with no bit changed.
 */
#include "fuzz/fuzz.h"

#include "damage/lab.h"
#include "log/record.h"

#include <stdlib.h>
#include <string.h>

#define OTHER_ID 6u

static uint64_t seed_of(uint64_t segment_id)
{
    return bkv_segment_seed(lab_manifest_2.database_id, 1, segment_id);
}

static void check_location(uint64_t offset, uint64_t size)
{
    uint64_t location = bkv_location(3, offset, bkv_size_code(size));
    FUZZ_CHECK(bkv_location_segment(location) == 3 && bkv_location_offset(location) == offset &&
                   bkv_location_size(location) == size,
               "%llu bytes at %llu", (unsigned long long)size, (unsigned long long)offset);
}

static void check_fields(const uint8_t *bytes, uint64_t size, const struct bkv_record *record)
{
    const uint8_t *value = bkv_record_value(bytes, record);
    FUZZ_CHECK(value >= bytes && value + record->value_size <= bytes + size, "ends behind itself");
    bool expires = (record->flags & BKV_RECORD_EXPIRES) != 0;
    FUZZ_CHECK(expires || bkv_record_deadline(bytes) == UINT64_MAX, "a deadline from nowhere");
    FUZZ_CHECK(bkv_record_is_keyless(record) == (record->key_size == 0), "a key of the log's own");
}

static void check_encoding(const uint8_t *bytes, uint64_t size, const struct bkv_record *record,
                           uint64_t offset)
{
    uint8_t header[BKV_RECORD_HEADER];
    bkv_record_begin(header, record);
    uint32_t crc = bkv_crc32c(bkv_record_crc_begin(header), bytes + BKV_RECORD_HEADER,
                              size - BKV_RECORD_HEADER);
    bkv_record_finish(header, crc, record->sequence, seed_of(5), offset);
    FUZZ_CHECK(memcmp(header, bytes, sizeof header) == 0, "it is written otherwise");
}

/* `bytes` are changed, and changed back. */
static void check_others(uint8_t *bytes, uint64_t size, uint64_t offset, uint16_t flip)
{
    struct bkv_record record;
    FUZZ_CHECK(!bkv_record_verify(bytes, size, seed_of(5), offset ^ 8, &record), "at any offset");
    FUZZ_CHECK(!bkv_record_verify(bytes, size, seed_of(OTHER_ID), offset, &record),
               "in any segment");
    uint64_t bit = flip % (size * 8);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    FUZZ_CHECK(!bkv_record_verify(bytes, size, seed_of(5), offset, &record),
               "with bit %llu changed", (unsigned long long)bit);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    uint64_t offset = (uint64_t)fuzz_u16(&in) * 8;
    uint16_t flip = fuzz_u16(&in);
    if (in.size < BKV_RECORD_HEADER)
        return 0;
    uint8_t *bytes = malloc(in.size); /* exact: a read behind it is seen */
    FUZZ_CHECK(bytes != NULL, "out of memory");
    memcpy(bytes, in.data, in.size);
    struct bkv_record record = bkv_record_peek(bytes);
    uint64_t whole = bkv_record_plausible(&record) ? bkv_record_size_of(&record) : in.size;
    if (whole <= in.size) {
        check_location(offset, bkv_size_of_code(bkv_size_code(whole)));
        if ((flags & 1) != 0) {
            uint32_t crc = bkv_record_crc_begin(bytes);
            crc = bkv_crc32c(crc, bytes + BKV_RECORD_HEADER, whole - BKV_RECORD_HEADER);
            bkv_record_finish(bytes, crc, record.sequence, seed_of(5), offset);
        }
        if (bkv_record_verify(bytes, whole, seed_of(5), offset, &record)) {
            check_fields(bytes, whole, &record);
            check_encoding(bytes, whole, &record, offset);
            check_others(bytes, whole, offset, flip);
        }
    }
    FUZZ_CHECK(!bkv_record_verify(bytes, BKV_RECORD_HEADER - 1, seed_of(5), offset, &record),
               "in less than a header");
    free(bytes);
    return 0;
}
