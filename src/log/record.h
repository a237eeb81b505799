/* SPDX-License-Identifier: MIT */
/*
 * Records: how they are encoded, and how one proves itself.
 *
 * The CRC covers everything: sizes, type, flags, key, value, padding, sequence
 * number, and the place: the segment's seed (from database id, partition and
 * segment id) and the offset. So a record that was copied from another
 * segment, another offset or another database does not verify, nor does a copy
 * of one inside of a value.
 *
 * The place comes last in the CRC: the long part can be computed before a
 * writer takes the lock and knows the place.
 */
#ifndef BKV_LOG_RECORD_H
#define BKV_LOG_RECORD_H

#include "base/bytes.h"
#include "base/crc32c.h"
#include "log/format.h"
#include "log/location.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bkv_record {
    uint32_t value_size;
    uint16_t key_size;
    uint8_t type;
    uint8_t flags;
    uint64_t sequence;
};

/* What ties records to a segment. */
static inline uint64_t bkv_segment_seed(const uint8_t database_id[16], uint32_t partition,
                                        uint64_t segment_id)
{
    return bkv_get64(database_id) ^ ((uint64_t)partition << 48) ^ segment_id;
}

/* Bytes between header and key. */
static inline uint32_t bkv_record_prefix(uint8_t flags)
{
    return (flags & BKV_RECORD_EXPIRES) * BKV_RECORD_DEADLINE;
}

/* Bytes that a record without flags takes in the log, padding included. */
static inline uint64_t bkv_record_size(uint64_t key_size, uint64_t value_size)
{
    return bkv_size_of_code(bkv_size_code(BKV_RECORD_HEADER + key_size + value_size));
}

/* The same of any record. */
static inline uint64_t bkv_record_size_of(const struct bkv_record *record)
{
    return bkv_record_size((uint64_t)record->key_size + bkv_record_prefix(record->flags),
                           record->value_size);
}

/* Header with crc and sequence still open: bytes 0-3 and 12-19 are zero. */
void bkv_record_begin(uint8_t header[BKV_RECORD_HEADER], const struct bkv_record *record);
/* CRC of bytes 4-11 of the header: the start value for the body's. */
static inline uint32_t bkv_record_crc_begin(const uint8_t *header)
{
    return bkv_crc32c(0, header + BKV_RECORD_VALUE_SIZE, 8);
}
/* Fills in the sequence and, from the CRC over header and body, the crc. */
static inline void bkv_record_finish(uint8_t *header, uint32_t crc, uint64_t sequence,
                                     uint64_t seed, uint64_t offset)
{
    bkv_put64(header + BKV_RECORD_SEQUENCE, sequence);
    bkv_put32(header + BKV_RECORD_CRC, bkv_crc32c_words(crc, sequence, seed, offset));
}

/* Header fields as they stand, unverified. */
static inline struct bkv_record bkv_record_peek(const uint8_t *header)
{
    return (struct bkv_record){
        .value_size = bkv_get32(header + BKV_RECORD_VALUE_SIZE),
        .key_size = bkv_get16(header + BKV_RECORD_KEY_SIZE),
        .type = header[BKV_RECORD_TYPE],
        .flags = header[BKV_RECORD_FLAGS],
        .sequence = bkv_get64(header + BKV_RECORD_SEQUENCE),
    };
}

/* Could this header be one of ours? Rejects most of what is none, sizes beyond
 * the limits and all zero fill, before anything is computed from them. */
static inline bool bkv_record_plausible(const struct bkv_record *record)
{
    switch (record->type) {
    case BKV_RECORD_PUT:
        return (record->flags & ~BKV_RECORD_EXPIRES) == 0 && record->key_size > 0 &&
               record->value_size <= BITKV_VALUE_SIZE_MAX;
    case BKV_RECORD_DELETE:
        return record->flags == 0 && record->key_size > 0 && record->value_size == 0;
    case BKV_RECORD_MARK:
        return record->flags == 0 && record->key_size == 0 && record->value_size == BKV_MARK_SIZE;
    case BKV_RECORD_BATCH:
        return record->flags == 0 && record->key_size == 0 &&
               record->value_size >= BKV_BATCH_FIXED &&
               (record->value_size - BKV_BATCH_FIXED) % BKV_BATCH_PEER == 0 &&
               (record->value_size - BKV_BATCH_FIXED) / BKV_BATCH_PEER <= BKV_BATCH_PEERS_MAX;
    default:
        return false;
    }
}

/* A record of the log's own: no key, in no hint. */
static inline bool bkv_record_is_keyless(const struct bkv_record *record)
{
    return record->type == BKV_RECORD_MARK || record->type == BKV_RECORD_BATCH;
}

/* Verifies a record of `size` bytes (as located, padding included) that lies
 * whole in memory. */
static inline bool bkv_record_verify(const uint8_t *bytes, uint64_t size, uint64_t seed,
                                     uint64_t offset, struct bkv_record *record)
{
    if (size < BKV_RECORD_HEADER)
        return false;
    *record = bkv_record_peek(bytes);
    if (!bkv_record_plausible(record) || bkv_record_size_of(record) != size)
        return false;
    uint32_t crc = bkv_record_crc_begin(bytes);
    crc = bkv_crc32c(crc, bytes + BKV_RECORD_HEADER, size - BKV_RECORD_HEADER);
    return bkv_crc32c_words(crc, record->sequence, seed, offset) ==
           bkv_get32(bytes + BKV_RECORD_CRC);
}

static inline const uint8_t *bkv_record_key(const uint8_t *bytes)
{
    return bytes + BKV_RECORD_HEADER + bkv_record_prefix(bytes[BKV_RECORD_FLAGS]);
}

static inline const uint8_t *bkv_record_value(const uint8_t *bytes, const struct bkv_record *record)
{
    return bkv_record_key(bytes) + record->key_size;
}

/* When the record expires, in milliseconds since 1970; UINT64_MAX: never. */
static inline uint64_t bkv_record_deadline(const uint8_t *bytes)
{
    return (bytes[BKV_RECORD_FLAGS] & BKV_RECORD_EXPIRES) != 0
               ? bkv_get64(bytes + BKV_RECORD_HEADER)
               : UINT64_MAX;
}

#endif
