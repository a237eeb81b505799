/* SPDX-License-Identifier: MIT */
/*
 * Files of a database: named relative to its directory, opened without
 * following symbolic links, retried over EINTR and short transfers, and with
 * errors that name file and offset.
 *
 * Must not know what is in the files.
 */
#ifndef BKV_IO_FILE_H
#define BKV_IO_FILE_H

#include <bitkv.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* "partition_1023/data_18446744073709551615.db" and its kin. */
#define BKV_NAME_SIZE 64u

/* A database's directory. */
struct bkv_dir {
    int fd;                      /* held for the lock; -1 when closed */
    char *path;                  /* for messages */
    mode_t file_mode, dir_mode;  /* of what is created */
    _Atomic uint64_t open_files; /* descriptors held through bkv_file */
};

struct bkv_file {
    int fd; /* -1: none */
    struct bkv_dir *dir;
    char name[BKV_NAME_SIZE];
};

#define BKV_FILE_NONE ((struct bkv_file){.fd = -1})

/* All return BITKV_OK or a code with context. */

/* `flags` as of open(2), without mode; BITKV_NOT_FOUND if the file is absent. */
int bkv_file_open(struct bkv_file *file, struct bkv_dir *dir, const char *name, int flags);
void bkv_file_close(struct bkv_file *file);
int bkv_file_size(const struct bkv_file *file, uint64_t *size);
/* Tells files of one file system apart, as long as both are there. */
int bkv_file_inode(const struct bkv_file *file, uint64_t *inode);
/* Reads up to `size` bytes; less only at the end of the file. */
int bkv_file_read(const struct bkv_file *file, void *data, size_t size, uint64_t offset,
                  size_t *got);
/* BITKV_ERR_CORRUPT if the file ends before. */
int bkv_file_read_exact(const struct bkv_file *file, void *data, size_t size, uint64_t offset);
/* The same for what is in memory: false if it would wait, or cannot be read. */
bool bkv_file_read_nowait(const struct bkv_file *file, void *data, size_t size, uint64_t offset);
int bkv_file_write(const struct bkv_file *file, const void *data, size_t size, uint64_t offset);
/* Makes [offset, offset + size) exist on disk; grows the file. */
int bkv_file_reserve(const struct bkv_file *file, uint64_t offset, uint64_t size);
int bkv_file_truncate(const struct bkv_file *file, uint64_t size);
/* The code of a sync that was made and has failed: never the one that says that there
 * was no descriptor to make it with, after which it may be made again. */
static inline int bkv_sync_code(int code)
{
    return code == BITKV_ERR_TOO_MANY_FILES ? BITKV_ERR_IO : code;
}
/* Data, and the metadata needed to read it. */
int bkv_file_sync(const struct bkv_file *file);

/* A descriptor of a directory, retried over EINTR; -1 with errno. */
int bkv_dir_descriptor(int at, const char *name, int flags);
/* The entries of the directory itself, or of a subdirectory (NULL: itself). */
int bkv_dir_sync(struct bkv_dir *dir, const char *sub);
/* Absent is fine. */
int bkv_dir_unlink(struct bkv_dir *dir, const char *name);
int bkv_dir_rename(struct bkv_dir *dir, const char *from, const char *to);
/* Calls `entry` for each name in the subdirectory (NULL: the directory itself)
 * but "." and ".."; stops at the first non-zero result, which is returned.
 * BITKV_NOT_FOUND if there is no such directory. */
typedef int (*bkv_dir_entry_fn)(void *user, const char *name);
int bkv_dir_list(struct bkv_dir *dir, const char *sub, void *user, bkv_dir_entry_fn entry);

/* Small whole files. Replaces `name` so that after any crash there is either
 * the old one or the new: a temporary file is written, synced and renamed,
 * then the directory `sub` that holds it is synced. */
int bkv_file_replace(struct bkv_dir *dir, const char *sub, const char *name, const void *data,
                     size_t size);

#endif
