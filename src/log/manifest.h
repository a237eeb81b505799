/* SPDX-License-Identifier: MIT */
/* The MANIFEST: what a database is. Written once, at creation, as the last
 * step: where there is none, there is no database. */
#ifndef BKV_LOG_MANIFEST_H
#define BKV_LOG_MANIFEST_H

#include "base/hash.h"
#include "io/file.h"

#include <stdint.h>

struct bkv_manifest {
    uint32_t partitions;
    uint8_t database_id[16];
    struct bkv_hash_key hash_key;
    uint64_t created_ms;
};

/* Fresh identity and secret from the kernel's random generator. */
int bkv_manifest_init(struct bkv_manifest *manifest, uint32_t partitions);
int bkv_manifest_write(struct bkv_dir *dir, const struct bkv_manifest *manifest);
/* BITKV_NOT_FOUND, BITKV_ERR_CORRUPT, BITKV_ERR_FORMAT, or a system error. */
int bkv_manifest_read(struct bkv_dir *dir, struct bkv_manifest *manifest);
/* When there is none: BITKV_OK if there are no data files either, and
 * BITKV_ERR_CORRUPT, which names the partition, if there are: such a directory
 * must not be taken for an empty one. */
int bkv_manifest_missing(struct bkv_dir *dir);

#endif
