/* SPDX-License-Identifier: MIT */
#include "io/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static int kernel_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return openat(dirfd, path, flags, mode);
}

static int kernel_fallocate(int fd, off_t offset, off_t size)
{
    return fallocate(fd, 0, offset, size);
}

static int kernel_renameat(int dirfd, const char *from, const char *to)
{
    return renameat(dirfd, from, dirfd, to);
}

static int kernel_renameat2(int dirfd, const char *from, const char *to, unsigned flags)
{
    return renameat2(dirfd, from, dirfd, to, flags);
}

static int kernel_linkat(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
    return linkat(from_dirfd, from, to_dirfd, to, 0);
}

static ssize_t kernel_copy_file_range(int from, off_t from_offset, int to, off_t to_offset,
                                      size_t size)
{
    return copy_file_range(from, &from_offset, to, &to_offset, size, 0);
}

static int kernel_rmdirat(int dirfd, const char *path)
{
    return unlinkat(dirfd, path, AT_REMOVEDIR);
}

static int kernel_unlinkat(int dirfd, const char *path)
{
    return unlinkat(dirfd, path, 0);
}

static void *kernel_mmap(size_t size, int protection, int flags, int fd)
{
    return mmap(NULL, size, protection, flags, fd, 0);
}

static int kernel_fstat(int fd, struct stat *status)
{
    return fstat(fd, status);
}

static ssize_t kernel_pread_nowait(int fd, void *data, size_t size, off_t offset)
{
    struct iovec part = {.iov_base = data, .iov_len = size};
    return preadv2(fd, &part, 1, offset, RWF_NOWAIT);
}

static ssize_t kernel_ring_read(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)data, (void)size, (void)offset;
    return result;
}

const struct bkv_io_ops bkv_io_kernel = {
    .openat = kernel_openat,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .pread_nowait = kernel_pread_nowait,
    .ring_read = kernel_ring_read,
    .fallocate = kernel_fallocate,
    .ftruncate = ftruncate,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fstat = kernel_fstat,
    .fstatfs = fstatfs,
    .flock = flock,
    .renameat = kernel_renameat,
    .renameat2 = kernel_renameat2,
    .linkat = kernel_linkat,
    .copy_file_range = kernel_copy_file_range,
    .unlinkat = kernel_unlinkat,
    .rmdirat = kernel_rmdirat,
    .mkdirat = mkdirat,
    .mmap = kernel_mmap,
    .munmap = munmap,
    .mprotect = mprotect,
    .madvise = madvise,
    .mincore = mincore,
    .fdopendir = fdopendir,
    .readdir = readdir,
    .closedir = closedir,
};

const struct bkv_io_ops *_Atomic bkv_io = &bkv_io_kernel;
