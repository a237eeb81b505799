/* SPDX-License-Identifier: MIT */
/*
 * The constants of the on-disk format; docs/format.md describes it byte by
 * byte. All integers are little-endian.
 */
#ifndef BKV_LOG_FORMAT_H
#define BKV_LOG_FORMAT_H

#include <bitkv.h>

#include <stdint.h>

#define BKV_FORMAT_VERSION 2u

/* --- records ------------------------------------------------------------- */
/*
 *  0  u32  crc         CRC-32C of bytes 4-11, the body, sequence, seed, offset
 *  4  u32  value_size
 *  8  u16  key_size
 * 10  u8   type
 * 11  u8   flags
 * 12  u64  sequence
 * 20       body        deadline (with BKV_RECORD_EXPIRES), key, value, zero padding
 */
#define BKV_RECORD_CRC        0u
#define BKV_RECORD_VALUE_SIZE 4u
#define BKV_RECORD_KEY_SIZE   8u
#define BKV_RECORD_TYPE       10u
#define BKV_RECORD_FLAGS      11u
#define BKV_RECORD_SEQUENCE   12u
#define BKV_RECORD_HEADER     20u

/* Of a PUT only: the body begins with a u64, milliseconds since 1970, from which
 * on the record counts as absent. */
#define BKV_RECORD_EXPIRES  1u
#define BKV_RECORD_DEADLINE 8u

/* Records begin at multiples of 8 bytes. */
#define BKV_RECORD_ALIGNMENT 8u

enum bkv_record_type {
    BKV_RECORD_NONE = 0, /* never written: zero fill is no record */
    BKV_RECORD_PUT = 1,
    BKV_RECORD_DELETE = 2, /* tombstone */
    BKV_RECORD_MARK = 3,   /* all before (segment id, offset) is durable */
    BKV_RECORD_BATCH = 4,  /* the records behind it are a partition's part of a batch */
};

/* Value of a mark: u64 segment id, u64 offset. It has no key. */
#define BKV_MARK_SIZE 16u

/* Value of a batch's header: u32 number of records that follow, in the same
 * segment; u32 number of peers; of each peer u32 partition, u32 number of
 * records, u64 sequence of the header there. It has no key. The participant
 * with the lowest index has all others for peers, each of those has it alone. */
#define BKV_BATCH_FIXED     8u
#define BKV_BATCH_PEER      16u
#define BKV_BATCH_PEERS_MAX (BITKV_PARTITIONS_MAX - 1u)

/* --- segments -------------------------------------------------------------- */
/*
 *  0  8    magic
 *  8  u32  format version
 * 12  u32  partition
 * 16  u64  segment id
 * 24  16   database id
 * 40  u64  base sequence: no record of the segment has a smaller one
 * 48  u8   kind
 * 49  3    zero
 * 52  u64  last sequence; 0 in a stream segment
 * 60  u32  CRC-32C of bytes 0-59
 */
#define BKV_SEGMENT_MAGIC  "BITKVSEG"
#define BKV_SEGMENT_HEADER 64u

enum bkv_segment_kind {
    BKV_SEGMENT_STREAM = 0, /* written by puts and deletes, every sequence number in order */
    /* what compaction left of all records from base to last sequence, in order;
     * in the place of every segment that lies within these bounds */
    BKV_SEGMENT_COMPACTED = 1,
};

/* --- hints ------------------------------------------------------------------- */
/*
 *  0  8    magic
 *  8  u32  format version
 * 12  u32  partition
 * 16  u64  segment id
 * 24  16   database id
 * 40  u64  bytes of the segment that are described: all of it
 *  48  u64  number of entries
 *  56  u64  sequence of the first entry; 0 if there is none
 *  64  u64  last sequence in the segment, marks included
 *  72  u64  bytes of tombstones
 *  80  u64  bytes of values that never expire, with all that belongs to them
 *  88  u64  bytes of those that do
 *  96  u64  their earliest deadline
 * 104  u64  their latest deadline
 * 112  u32  CRC-32C of the entries
 * 116  u32  CRC-32C of bytes 0-115
 * 120       entries of 16 bytes, in order of the log: u64 hash.lo, u64 packed
 */
#define BKV_HINT_MAGIC  "BITKVHNT"
#define BKV_HINT_HEADER 120u
#define BKV_HINT_ENTRY  16u

/* --- checkpoints ---------------------------------------------------------------- */
#define BKV_CHECKPOINT_MAGIC "BITKVCKP"

/* --- manifest --------------------------------------------------------------------- */
/*
 *   0  8    magic
 *   8  u32  format version
 *  12  u32  partitions
 *  16  16   database id
 *  32  16   hash key
 *  48  u64  creation, milliseconds since 1970 (for people)
 *  56  68   zero
 * 124  u32  CRC-32C of bytes 0-123
 */
#define BKV_MANIFEST_MAGIC "BITKVMAN"
#define BKV_MANIFEST_SIZE  128u

#endif
