/* SPDX-License-Identifier: MIT */
/*
 * Files from one directory to another: a second name for the same bytes, or the
 * same bytes once more.
 */
#ifndef BKV_IO_COPY_H
#define BKV_IO_COPY_H

#include "io/file.h"

/* Told of each piece that was copied; what it returns other than 0 ends the
 * copying, and is its result. */
typedef int (*bkv_copy_progress)(void *user, uint64_t bytes);

/* The first `size` bytes of `from` to the same places of `to`, not synced: by
 * the kernel where the file systems let it, else through memory.
 * BITKV_ERR_CORRUPT if `from` is shorter. */
int bkv_file_copy(const struct bkv_file *from, const struct bkv_file *to, uint64_t size,
                  bkv_copy_progress progress, void *user);

/* The same through memory, whose pages `to` has to write: of `from`, the disk need not
 * have what is read. Zeros are left out: they are a hole of `to`, which was empty. */
int bkv_file_rewrite(const struct bkv_file *from, const struct bkv_file *to, uint64_t size);

/* Gives `name` of `from` the same name in `to`. *linked = false, and no error,
 * if the two cannot share a file: other file systems, no hard links there, no
 * permission for them, too many already. */
int bkv_file_link(const struct bkv_dir *from, const struct bkv_dir *to, const char *name,
                  bool *linked);

/* One file under both? */
int bkv_file_same(const struct bkv_file *a, const struct bkv_file *b, bool *same);

/* Are the first `size` bytes of both the same? Not if one is shorter. `progress`
 * as above. */
int bkv_file_equal(const struct bkv_file *a, const struct bkv_file *b, uint64_t size,
                   bkv_copy_progress progress, void *user, bool *equal);

/* Does the file have further names? Then it is shared, and not ours to change. */
int bkv_file_shared(const struct bkv_file *file, bool *shared);

#endif
