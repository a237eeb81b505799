/* SPDX-License-Identifier: MIT */
/* What the two ways of reading a record, from memory (read.c) and from disk
 * (cold.c), have in common: where the value goes, and what went wrong. */
#ifndef BKV_PARTITION_RECORD_READ_H
#define BKV_PARTITION_RECORD_READ_H

#include "log/record.h"
#include "partition/partition.h"

#include <string.h>

struct bkv_mapping;

/* Hands the value over. It lies in `mapping`, if that is not NULL. */
int bkv_deliver(struct bkv_sink *sink, struct bkv_mapping *mapping, const uint8_t *value,
                uint32_t size);

/* Does the head of a record of `size` bytes name this key? What `exists` goes
 * by: the value is not looked at. */
static inline bool bkv_record_is_of(const uint8_t *bytes, uint64_t size, const void *key,
                                    size_t key_size)
{
    struct bkv_record record = bkv_record_peek(bytes);
    return record.type == BKV_RECORD_PUT && record.key_size == key_size &&
           BKV_RECORD_HEADER + bkv_record_prefix(record.flags) + key_size <= size &&
           memcmp(bkv_record_key(bytes), key, key_size) == 0;
}

int bkv_no_memory_for(uint64_t size);
int bkv_record_damaged(const char *path, uint32_t partition, uint64_t segment_id, uint64_t offset,
                       uint64_t size, bool unreadable);

#endif
