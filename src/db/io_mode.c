/* SPDX-License-Identifier: MIT */
/*
 * Mapped tail or pwrite? A mapped tail needs a file system on which fallocate
 * guarantees the blocks (or a copy could end in SIGBUS on a full disk) and
 * shared writable mappings are coherent with the page cache. Both hold on the
 * ones listed; elsewhere pwrite is the safe choice: on copy-on-write file
 * systems a reserved block is not the one that is written, on network and
 * user-space ones mappings are not coherent or not there.
 */
#include "db/io_mode.h"

#include "base/error.h"
#include "io/io.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef F2FS_SUPER_MAGIC
#define F2FS_SUPER_MAGIC 0xF2F52010
#endif

static const struct {
    uint32_t magic;
    const char *name;
} suitable[] = {
    {EXT4_SUPER_MAGIC, "ext4"}, /* ext2 and ext3 have the same number: fallocate tells */
    {XFS_SUPER_MAGIC, "xfs"},   {TMPFS_MAGIC, "tmpfs"},
    {F2FS_SUPER_MAGIC, "f2fs"}, {OVERLAYFS_SUPER_MAGIC, "overlayfs"},
};

int bkv_io_mode_choose(const struct bkv_dir *dir, bitkv_io_mode wanted, bool *mapped, char *reason,
                       size_t reason_size)
{
    if (wanted != BITKV_IO_AUTO) {
        *mapped = wanted == BITKV_IO_MMAP;
        (void)snprintf(reason, reason_size, "asked for by option io_mode");
        return BITKV_OK;
    }
    struct statfs status;
    if (bkv_io->fstatfs(dir->fd, &status) != 0)
        return bkv_error_sys(errno, "cannot get the file system's type of %s", dir->path);
    uint32_t magic = (uint32_t)status.f_type;
    for (size_t i = 0; i < sizeof suitable / sizeof suitable[0]; i++) {
        if (suitable[i].magic == magic) {
            *mapped = true;
            (void)snprintf(reason, reason_size, "%s reserves space and maps coherently",
                           suitable[i].name);
            return BITKV_OK;
        }
    }
    *mapped = false;
    (void)snprintf(reason, reason_size,
                   "file system type 0x%x is not known to reserve space for a mapped tail", magic);
    return BITKV_OK;
}
