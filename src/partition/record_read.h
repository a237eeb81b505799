/* SPDX-License-Identifier: MIT */
/* What the two ways of reading a record, from memory (read.c) and from disk
 * (cold.c), have in common: where the value goes, and what went wrong. */
#ifndef BKV_PARTITION_RECORD_READ_H
#define BKV_PARTITION_RECORD_READ_H

#include "partition/partition.h"

struct bkv_mapping;

/* Hands the value over. It lies in `mapping`, if that is not NULL. */
int bkv_deliver(struct bkv_sink *sink, struct bkv_mapping *mapping, const uint8_t *value,
                uint32_t size);

int bkv_no_memory_for(uint64_t size);
int bkv_record_damaged(const char *path, uint32_t partition, uint64_t segment_id, uint64_t offset,
                       uint64_t size, bool unreadable);

#endif
