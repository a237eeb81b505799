/* SPDX-License-Identifier: MIT */
/*
 * Groups: what a batch writes to each partition. This header is what src/db
 * sees of it; batch.c has the design.
 */
#ifndef BKV_PARTITION_BATCH_H
#define BKV_PARTITION_BATCH_H

#include "base/hash.h"

#include <bitkv.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bkv_partition;

struct bkv_group_record {
    struct bkv_hash hash;
    uint64_t old;    /* batch.c's: where the key was; 0: nowhere */
    uint64_t offset; /* in the group's bytes */
    uint64_t size;   /* padding included */
    uint32_t crc;    /* over everything but sequence and place */
    bool is_put;
};

/* One partition's part of a batch: no key twice. */
struct bkv_group {
    struct bkv_partition *partition;
    struct bkv_group_record *records;
    uint32_t count;
    uint8_t *bytes; /* room for the header, then the records, as in the log */
    uint64_t size;  /* of all */
    bool expires;   /* a record of it does */

    /* batch.c's */
    uint64_t header_size;
    uint64_t position; /* of the log, behind it */
    uint32_t held;     /* keys that have their place in the KeyDir */
    bool written;      /* behind the tail */
    bool erased;       /* and taken back: its bytes are gone, it cannot be written again */
    bool by_mapping;
    bool wake;
};

/* Bytes of the header of group `index` of `count`. */
uint64_t bkv_group_header_size(size_t index, size_t count);

struct bkv_group_entry {
    const void *key, *value;
    size_t key_size, value_size;
    uint64_t deadline; /* milliseconds since 1970; UINT64_MAX: never */
    bool is_put;
};

/* Bytes of a record, padding included. */
uint64_t bkv_group_record_size(const struct bkv_group_entry *entry);
/* Puts a record together at its offset in the group's bytes. */
void bkv_group_add(struct bkv_group *group, struct bkv_group_record *record,
                   const struct bkv_group_entry *entry);

/*
 * Writes all groups, or nothing. They are of different partitions, in order of
 * their index. In the caller's epoch section, which it may leave meanwhile.
 *
 * BITKV_ERR_LIMIT if one is larger than a segment; else as a put. With
 * BITKV_DURABILITY_SYNC it returns when all of it is durable.
 */
int bkv_groups_write(struct bkv_group *groups, size_t count, bitkv_durability durability);

#endif
