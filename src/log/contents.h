/* SPDX-License-Identifier: MIT */
/*
 * What data files a directory has, in short: so many, of so many bytes, and a digest of
 * their names and sizes. A finished backup is never changed; its marker says what it had,
 * so that a file that a copy has left out, or cut, is noticed though all that is there
 * verifies.
 */
#ifndef BKV_LOG_CONTENTS_H
#define BKV_LOG_CONTENTS_H

#include "io/file.h"

#include <stdbool.h>
#include <stdint.h>

struct bkv_contents {
    uint64_t files, bytes;
    uint32_t digest; /* CRC-32C of partition (u32), id, size (u64) of each, in their order */
};

/* Of the data files of all partitions. One whose folder is missing has none. With `sync`
 * each is synced before: that a full segment was trimmed is not durable by itself. */
int bkv_contents_sum(struct bkv_dir *dir, uint32_t partitions, bool sync,
                     struct bkv_contents *contents);

static inline bool bkv_contents_same(const struct bkv_contents *a, const struct bkv_contents *b)
{
    return a->files == b->files && a->bytes == b->bytes && a->digest == b->digest;
}

/* Is this backup as it was made? *known: its marker says what it had; false for any other
 * database. Then `had`, and what it `has`. */
int bkv_contents_compare(struct bkv_dir *dir, uint32_t partitions, bool *known,
                         struct bkv_contents *had, struct bkv_contents *has);

#endif
