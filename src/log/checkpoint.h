/* SPDX-License-Identifier: MIT */
/*
 * KeyDir checkpoints: the KeyDir as it was in memory, so that an opening need
 * not replay the whole log. There is one per partition, replaced atomically.
 *
 *   0  8    magic
 *   8  u32  format version
 *  12  u32  partition
 *  16  16   database id
 *  32  u64  start segment id   what comes behind (start segment, start offset)
 *  40  u64  start offset       is not in the image for sure and is replayed;
 *  48  u64  start sequence     that of the first record there
 *  56  u64  end segment id     what the image knows lies before (end segment,
 *  64  u64  end offset         end offset), which was durable
 *  72  u64  next segment id
 *  80  u64  keys
 *  88  u64  table offset in this file
 *  96  u32  segments in the table
 * 100  u32  groups
 * 104  u32  CRC-32C of the groups, bytes 112 to the table
 * 108  u32  CRC-32C of bytes 0-107, then of the table
 * 112       groups, as src/keydir writes them
 *           table: 40 bytes a segment, u64 id, u64 base sequence, u64 size,
 *           u64 last sequence, u32 number, u32 zero
 *
 * It is bound to its segments: one that is missing, shorter than the image
 * needs or not in the table although it is older makes the checkpoint void.
 */
#ifndef BKV_LOG_CHECKPOINT_H
#define BKV_LOG_CHECKPOINT_H

#include "io/file.h"
#include "log/stream.h"

#include <stdint.h>

#define BKV_CHECKPOINT_HEADER  112u
#define BKV_CHECKPOINT_SEGMENT 40u

struct bkv_checkpoint_info {
    uint32_t partition;
    uint8_t database_id[16];
    uint64_t start_segment, start_offset, start_sequence;
    uint64_t end_segment, end_offset;
    uint64_t next_segment_id;
    uint64_t keys;
    uint32_t segments;
    uint32_t groups;
};

struct bkv_checkpoint_segment {
    uint64_t id, base_sequence, size, last_sequence;
    uint32_t number;
};

struct bkv_checkpoint_writer {
    struct bkv_dir *dir;
    uint32_t partition;
    struct bkv_file file;
    struct bkv_writer stream; /* where the groups go */
};

/* begin, the groups into `stream`, then finish or abandon. The file takes the
 * old one's place at finish, durably. */
int bkv_checkpoint_begin(struct bkv_checkpoint_writer *writer, struct bkv_dir *dir,
                         uint32_t partition);
int bkv_checkpoint_finish(struct bkv_checkpoint_writer *writer,
                          const struct bkv_checkpoint_info *info,
                          const struct bkv_checkpoint_segment *segments, uint64_t *file_size);
void bkv_checkpoint_abandon(struct bkv_checkpoint_writer *writer);

struct bkv_checkpoint_reader {
    struct bkv_checkpoint_info info;
    struct bkv_checkpoint_segment *table;
    struct bkv_file file;
    uint32_t groups_crc;
    uint64_t file_size;
    struct bkv_reader stream; /* where the groups come from */
};

/* Verifies header and table; the groups' checksum is compared by
 * bkv_checkpoint_groups_verify() once they were read. BITKV_OK,
 * BITKV_NOT_FOUND, BITKV_ERR_CORRUPT, or a system error. */
int bkv_checkpoint_open(struct bkv_checkpoint_reader *reader, struct bkv_dir *dir,
                        uint32_t partition, const uint8_t database_id[16]);
int bkv_checkpoint_groups_verify(const struct bkv_checkpoint_reader *reader);
void bkv_checkpoint_close(struct bkv_checkpoint_reader *reader);

#endif
