/* SPDX-License-Identifier: MIT */
/*
 * The file `durable` of a partition: up to which place its log was durable. It says
 * what a mark says, while recovery has to remove the marks that do (proof.c).
 *
 *  0  8    magic
 *  8  u32  format version
 * 12  u32  partition
 * 16  16   database id
 * 32  u64  segment id
 * 40  u64  offset
 * 48  u32  CRC-32C of bytes 0-47
 */
#ifndef BKV_LOG_DURABLE_H
#define BKV_LOG_DURABLE_H

#include "io/file.h"

#include <stdbool.h>
#include <stdint.h>

#define BKV_DURABLE_MAGIC "BITKVDUR"
#define BKV_DURABLE_SIZE  52u

struct bkv_durable {
    uint64_t segment_id, offset;
};

/* Durable when it returns. */
int bkv_durable_write(struct bkv_dir *dir, uint32_t partition, const uint8_t database_id[16],
                      const struct bkv_durable *place);
/* *found: there is one of this partition that verifies. Only a system error is a failure. */
int bkv_durable_read(struct bkv_dir *dir, uint32_t partition, const uint8_t database_id[16],
                     bool *found, struct bkv_durable *place);

#endif
