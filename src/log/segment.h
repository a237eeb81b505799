/* SPDX-License-Identifier: MIT */
/* The header of a segment file. */
#ifndef BKV_LOG_SEGMENT_H
#define BKV_LOG_SEGMENT_H

#include "io/file.h"
#include "log/format.h"

#include <stdbool.h>
#include <stdint.h>

struct bkv_segment_header {
    uint32_t partition;
    uint8_t kind;
    uint64_t id;
    uint64_t base_sequence;
    uint64_t last_sequence; /* of a compacted segment; 0: not known */
    uint8_t database_id[16];
};

void bkv_segment_header_encode(uint8_t bytes[BKV_SEGMENT_HEADER],
                               const struct bkv_segment_header *header);

enum bkv_segment_state {
    BKV_SEGMENT_VALID,
    BKV_SEGMENT_BLANK,   /* shorter than a header, or a header of zeros: prepared, never used */
    BKV_SEGMENT_FOREIGN, /* a valid header of another database, partition or id */
    BKV_SEGMENT_DAMAGED, /* no valid header */
    BKV_SEGMENT_NEWER,   /* of a format that this library does not know */
};

/* Reads and judges the header of a file that should be `expected`'s; takes
 * base_sequence, last_sequence and kind from it. Only a system error is a failure. */
int bkv_segment_header_read(const struct bkv_file *file, struct bkv_segment_header *expected,
                            enum bkv_segment_state *state);

#endif
