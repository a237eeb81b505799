/* SPDX-License-Identifier: MIT */
#include "io/file.h"

#include "base/assert.h"
#include "base/error.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PATH(dir, name) (dir)->path, (name)

/* NONBLOCK: a FIFO of that name must not hold the opening up for ever. */
#define ALWAYS (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)

int bkv_file_open(struct bkv_file *file, struct bkv_dir *dir, const char *name, int flags)
{
    BKV_ASSERT(strlen(name) < sizeof file->name);
    int fd;
    do
        fd = bkv_io->openat(dir->fd, name, flags | ALWAYS, dir->file_mode);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        *file = BKV_FILE_NONE;
        int code = bkv_error_sys(errno, "cannot open %s/%s", PATH(dir, name));
        return errno == ENOENT ? BITKV_NOT_FOUND : code;
    }
    file->fd = fd;
    file->dir = dir;
    (void)snprintf(file->name, sizeof file->name, "%s", name);
    atomic_fetch_add_explicit(&dir->open_files, 1, memory_order_relaxed);
    return BITKV_OK;
}

void bkv_file_close(struct bkv_file *file)
{
    if (file->fd < 0)
        return;
    (void)bkv_io->close(file->fd); /* what must be durable was synced before */
    atomic_fetch_sub_explicit(&file->dir->open_files, 1, memory_order_relaxed);
    file->fd = -1;
}

int bkv_file_size(const struct bkv_file *file, uint64_t *size)
{
    struct stat status;
    if (bkv_io->fstat(file->fd, &status) != 0)
        return bkv_error_sys(errno, "cannot stat %s/%s", PATH(file->dir, file->name));
    if (!S_ISREG(status.st_mode))
        return bkv_error(BITKV_ERR_CORRUPT, "%s/%s is not a regular file",
                         PATH(file->dir, file->name));
    *size = (uint64_t)status.st_size;
    return BITKV_OK;
}

int bkv_file_inode(const struct bkv_file *file, uint64_t *inode)
{
    struct stat status;
    if (bkv_io->fstat(file->fd, &status) != 0)
        return bkv_error_sys(errno, "cannot stat %s/%s", PATH(file->dir, file->name));
    *inode = (uint64_t)status.st_ino;
    return BITKV_OK;
}

int bkv_file_read(const struct bkv_file *file, void *data, size_t size, uint64_t offset,
                  size_t *got)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n =
            bkv_io->pread(file->fd, (char *)data + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bkv_error_sys(errno, "cannot read %s/%s at offset %" PRIu64,
                                 PATH(file->dir, file->name), offset + done);
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *got = done;
    return BITKV_OK;
}

int bkv_file_read_exact(const struct bkv_file *file, void *data, size_t size, uint64_t offset)
{
    size_t got;
    int rc = bkv_file_read(file, data, size, offset, &got);
    if (rc == BITKV_OK && got < size)
        rc = bkv_error(BITKV_ERR_CORRUPT, "%s/%s ends at offset %" PRIu64 ", %zu bytes early",
                       PATH(file->dir, file->name), offset + got, size - got);
    return rc;
}

int bkv_file_write(const struct bkv_file *file, const void *data, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = bkv_io->pwrite(file->fd, (const char *)data + done, size - done,
                                   (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return bkv_error_sys(n < 0 ? errno : EIO, "cannot write %s/%s at offset %" PRIu64,
                                 PATH(file->dir, file->name), offset + done);
        done += (size_t)n;
    }
    return BITKV_OK;
}

bool bkv_file_read_nowait(const struct bkv_file *file, void *data, size_t size, uint64_t offset)
{
    ssize_t n;
    do
        n = bkv_io->pread_nowait(file->fd, data, size, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n >= 0 && (size_t)n == size;
}

int bkv_file_reserve(const struct bkv_file *file, uint64_t offset, uint64_t size)
{
    int result;
    do
        result = bkv_io->fallocate(file->fd, (off_t)offset, (off_t)size);
    while (result != 0 && errno == EINTR);
    if (result != 0)
        return bkv_error_sys(errno, "cannot reserve %" PRIu64 " bytes of %s/%s at offset %" PRIu64,
                             size, PATH(file->dir, file->name), offset);
    return BITKV_OK;
}

int bkv_file_truncate(const struct bkv_file *file, uint64_t size)
{
    int result;
    do
        result = bkv_io->ftruncate(file->fd, (off_t)size);
    while (result != 0 && errno == EINTR);
    if (result != 0)
        return bkv_error_sys(errno, "cannot trim %s/%s to %" PRIu64 " bytes",
                             PATH(file->dir, file->name), size);
    return BITKV_OK;
}

int bkv_file_sync(const struct bkv_file *file)
{
    /* Not retried, not even over EINTR: after a failed sync the kernel may
     * have dropped the dirty pages, and a second one that succeeds proves
     * nothing (Rebello et al., "Can applications recover from fsync
     * failures?", ATC 2020). */
    if (bkv_io->fdatasync(file->fd) != 0)
        return bkv_sync_code(
            bkv_error_sys(errno, "cannot sync %s/%s", PATH(file->dir, file->name)));
    return BITKV_OK;
}

int bkv_dir_descriptor(int at, const char *name, int flags)
{
    int fd;
    do
        fd = bkv_io->openat(at, name, flags | O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (fd < 0 && errno == EINTR);
    return fd;
}

int bkv_dir_sync(struct bkv_dir *dir, const char *sub)
{
    const char *name = sub != NULL ? sub : ".";
    int fd = bkv_dir_descriptor(dir->fd, name, 0);
    if (fd < 0)
        return bkv_error_sys(errno, "cannot open directory %s/%s", PATH(dir, name));
    int rc = BITKV_OK;
    if (bkv_io->fsync(fd) != 0)
        rc = bkv_sync_code(bkv_error_sys(errno, "cannot sync directory %s/%s", PATH(dir, name)));
    (void)bkv_io->close(fd);
    return rc;
}

int bkv_dir_unlink(struct bkv_dir *dir, const char *name)
{
    if (bkv_io->unlinkat(dir->fd, name) != 0 && errno != ENOENT)
        return bkv_error_sys(errno, "cannot remove %s/%s", PATH(dir, name));
    return BITKV_OK;
}

int bkv_dir_rename(struct bkv_dir *dir, const char *from, const char *to)
{
    if (bkv_io->renameat(dir->fd, from, to) != 0)
        return bkv_error_sys(errno, "cannot rename %s/%s to %s", PATH(dir, from), to);
    return BITKV_OK;
}

int bkv_dir_list(struct bkv_dir *dir, const char *sub, void *user, bkv_dir_entry_fn entry)
{
    const char *name = sub != NULL ? sub : ".";
    int fd = bkv_dir_descriptor(dir->fd, name, O_NOFOLLOW);
    if (fd < 0) {
        int code = bkv_error_sys(errno, "cannot open directory %s/%s", PATH(dir, name));
        return errno == ENOENT ? BITKV_NOT_FOUND : code;
    }
    DIR *stream = bkv_io->fdopendir(fd);
    if (stream == NULL) {
        int rc = bkv_error_sys(errno, "cannot list directory %s/%s", PATH(dir, name));
        (void)bkv_io->close(fd);
        return rc;
    }
    int rc = BITKV_OK;
    while (rc == BITKV_OK) {
        errno = 0;
        const struct dirent *found = bkv_io->readdir(stream);
        if (found == NULL) {
            /* A listing cut short would look like missing segments. */
            if (errno != 0)
                rc = bkv_error_sys(errno, "cannot list directory %s/%s", PATH(dir, name));
            break;
        }
        if (strcmp(found->d_name, ".") != 0 && strcmp(found->d_name, "..") != 0)
            rc = entry(user, found->d_name);
    }
    (void)bkv_io->closedir(stream);
    return rc;
}

int bkv_file_replace(struct bkv_dir *dir, const char *sub, const char *name, const void *data,
                     size_t size)
{
    char temporary[BKV_NAME_SIZE];
    (void)snprintf(temporary, sizeof temporary, "%s.tmp", name);
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (rc != BITKV_OK)
        return rc < 0 ? rc : BITKV_ERR_IO;
    rc = bkv_file_write(&file, data, size, 0);
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&file);
    bkv_file_close(&file);
    if (rc == BITKV_OK)
        rc = bkv_dir_rename(dir, temporary, name);
    if (rc == BITKV_OK)
        rc = bkv_dir_sync(dir, sub);
    return rc;
}
