/* SPDX-License-Identifier: MIT */
/*
 * copy_file_range() shares the blocks where the file system can (XFS, Btrfs)
 * and saves the way through user memory where it cannot. It is refused between
 * some file systems and by old kernels, so the first refusal of a file goes on
 * with read and write, from where it was.
 *
 * Failure modes: a refusal is none; every other error is the copy's, and the
 * caller removes what is there of it.
 */
#include "io/copy.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Small enough that progress is told, and a cancel heard, some times a second. */
#define KERNEL_PIECE (8u << 20)
#define MEMORY_PIECE (1u << 20)
#define ZERO_PIECE   (64u << 10) /* smaller: reserved space is left out */

static uint64_t piece(uint64_t left, uint64_t most)
{
    return left < most ? left : most;
}

static bool refused(int error)
{
    return error == EXDEV || error == ENOSYS || error == EINVAL || error == EOPNOTSUPP ||
           error == EPERM || error == EBADF || error == ETXTBSY;
}

static int too_short(const struct bkv_file *from, uint64_t at, uint64_t size)
{
    return bkv_error(BITKV_ERR_CORRUPT, "%s/%s ends at offset %" PRIu64 ", %" PRIu64 " bytes early",
                     from->dir->path, from->name, at, size - at);
}

/* *done receives how far it came: up to `size`, or to where it was refused. */
static int copy_in_kernel(const struct bkv_file *from, const struct bkv_file *to, uint64_t size,
                          uint64_t *done, bkv_copy_progress progress, void *user)
{
    while (*done < size) {
        ssize_t n = bkv_io->copy_file_range(from->fd, (off_t)*done, to->fd, (off_t)*done,
                                            (size_t)piece(size - *done, KERNEL_PIECE));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && refused(errno))
            return BITKV_OK;
        if (n < 0)
            return bkv_error_sys(errno, "cannot copy %s/%s to %s", from->dir->path, from->name,
                                 to->dir->path);
        if (n == 0) /* the end, or a file system that has it so: reading tells */
            return BITKV_OK;
        *done += (uint64_t)n;
        int rc = progress(user, (uint64_t)n);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

static int read_piece(const struct bkv_file *from, uint64_t at, uint64_t size, uint64_t most,
                      void *buffer, size_t *got)
{
    int rc = bkv_file_read(from, buffer, (size_t)piece(size - at, most), at, got);
    return rc == BITKV_OK && *got == 0 ? too_short(from, at, size) : rc;
}

static int copy_through(const struct bkv_file *from, const struct bkv_file *to, uint64_t at,
                        uint64_t size, void *buffer, bkv_copy_progress progress, void *user)
{
    while (at < size) {
        size_t got = 0;
        int rc = read_piece(from, at, size, MEMORY_PIECE, buffer, &got);
        if (rc == BITKV_OK)
            rc = bkv_file_write(to, buffer, got, at);
        if (rc == BITKV_OK)
            rc = progress(user, got);
        if (rc != BITKV_OK)
            return rc;
        at += got;
    }
    return BITKV_OK;
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static int rewrite_pieces(const struct bkv_file *from, const struct bkv_file *to, uint64_t size,
                          uint8_t *buffer)
{
    size_t got = 0;
    for (uint64_t at = 0; at < size; at += got) {
        int rc = read_piece(from, at, size, ZERO_PIECE, buffer, &got);
        if (rc == BITKV_OK && !all_zero(buffer, got))
            rc = bkv_file_write(to, buffer, got, at);
        if (rc != BITKV_OK)
            return rc;
    }
    return bkv_file_truncate(to, size);
}

int bkv_file_rewrite(const struct bkv_file *from, const struct bkv_file *to, uint64_t size)
{
    uint8_t *buffer = bkv_malloc(ZERO_PIECE);
    if (buffer == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to copy %s", from->name);
    int rc = rewrite_pieces(from, to, size, buffer);
    bkv_mfree(buffer);
    return rc;
}

int bkv_file_copy(const struct bkv_file *from, const struct bkv_file *to, uint64_t size,
                  bkv_copy_progress progress, void *user)
{
    uint64_t done = 0;
    int rc = copy_in_kernel(from, to, size, &done, progress, user);
    if (rc != BITKV_OK || done == size)
        return rc;
    void *buffer = bkv_malloc(MEMORY_PIECE);
    if (buffer == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to copy %s", from->name);
    rc = copy_through(from, to, done, size, buffer, progress, user);
    bkv_mfree(buffer);
    return rc;
}

int bkv_file_link(const struct bkv_dir *from, const struct bkv_dir *to, const char *name,
                  bool *linked)
{
    *linked = bkv_io->linkat(from->fd, name, to->fd, name) == 0;
    if (*linked || errno == EXDEV || errno == EPERM || errno == EMLINK || errno == EOPNOTSUPP ||
        errno == ENOSYS)
        return BITKV_OK;
    return bkv_error_sys(errno, "cannot link %s/%s into %s", from->path, name, to->path);
}

static int status_of(const struct bkv_file *file, struct stat *status)
{
    if (bkv_io->fstat(file->fd, status) != 0)
        return bkv_error_sys(errno, "cannot stat %s/%s", file->dir->path, file->name);
    return BITKV_OK;
}

int bkv_file_same(const struct bkv_file *a, const struct bkv_file *b, bool *same)
{
    struct stat x;
    struct stat y;
    int rc = status_of(a, &x);
    if (rc == BITKV_OK)
        rc = status_of(b, &y);
    if (rc == BITKV_OK)
        *same = x.st_dev == y.st_dev && x.st_ino == y.st_ino;
    return rc;
}

int bkv_file_equal(const struct bkv_file *a, const struct bkv_file *b, uint64_t size,
                   bkv_copy_progress progress, void *user, bool *equal)
{
    uint8_t *buffer = bkv_malloc(2 * (size_t)MEMORY_PIECE);
    int rc = BITKV_OK;
    *equal = true;
    if (buffer == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to compare %s", a->name);
    for (uint64_t at = 0; at < size && rc == BITKV_OK && *equal; at += MEMORY_PIECE) {
        size_t want = (size_t)piece(size - at, MEMORY_PIECE);
        rc = bkv_file_read_exact(a, buffer, want, at);
        if (rc == BITKV_OK)
            rc = bkv_file_read_exact(b, buffer + MEMORY_PIECE, want, at);
        if (rc == BITKV_OK)
            rc = progress(user, want);
        *equal = rc == BITKV_OK && memcmp(buffer, buffer + MEMORY_PIECE, want) == 0;
    }
    bkv_mfree(buffer);
    return rc == BITKV_ERR_CORRUPT ? BITKV_OK : rc;
}

int bkv_file_shared(const struct bkv_file *file, bool *shared)
{
    struct stat status;
    int rc = status_of(file, &status);
    if (rc == BITKV_OK)
        *shared = status.st_nlink > 1;
    return rc;
}
