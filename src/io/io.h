/* SPDX-License-Identifier: MIT */
/*
 * The seam: every system call on a file goes through this table, so that a
 * test can fail, shorten, reorder, drop and count each one. The functions have
 * the meaning, results and errno of the calls they are named after.
 *
 * Stores into mapped files are no calls; a test that must see them provides
 * the memory in `mmap`.
 */
#ifndef BKV_IO_IO_H
#define BKV_IO_IO_H

#include <dirent.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

struct bkv_io_ops {
    int (*openat)(int dirfd, const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *data, size_t size, off_t offset);
    ssize_t (*pwrite)(int fd, const void *data, size_t size, off_t offset);
    /* preadv2(2) with RWF_NOWAIT: fails with EAGAIN rather than wait. */
    ssize_t (*pread_nowait)(int fd, void *data, size_t size, off_t offset);
    /* What a read of an io_uring is taken to have returned: the kernel has done
     * it, so a test can only change the answer. */
    ssize_t (*ring_read)(void *data, size_t size, off_t offset, ssize_t result);
    int (*fallocate)(int fd, off_t offset, off_t size);
    int (*ftruncate)(int fd, off_t size);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*fstat)(int fd, struct stat *status);
    int (*fstatfs)(int fd, struct statfs *status);
    int (*flock)(int fd, int operation);
    int (*renameat)(int dirfd, const char *from, const char *to);
    /* Of renameat2(2), within a directory. */
    int (*renameat2)(int dirfd, const char *from, const char *to, unsigned flags);
    int (*linkat)(int from_dirfd, const char *from, int to_dirfd, const char *to);
    ssize_t (*copy_file_range)(int from, off_t from_offset, int to, off_t to_offset, size_t size);
    int (*unlinkat)(int dirfd, const char *path);
    int (*rmdirat)(int dirfd, const char *path); /* unlinkat(2) with AT_REMOVEDIR */
    int (*mkdirat)(int dirfd, const char *path, mode_t mode);
    void *(*mmap)(size_t size, int protection, int flags, int fd);
    int (*munmap)(void *base, size_t size);
    int (*mprotect)(void *base, size_t size, int protection);
    int (*madvise)(void *base, size_t size, int advice);
    int (*mincore)(void *base, size_t size, unsigned char *in_memory);
    DIR *(*fdopendir)(int fd);
    struct dirent *(*readdir)(DIR *directory);
    int (*closedir)(DIR *directory);
};

/* The kernel's own. */
extern const struct bkv_io_ops bkv_io_kernel;

/* What is in force. To be replaced only while no database is open. */
extern const struct bkv_io_ops *_Atomic bkv_io; /* tests change it beside threads */

#endif
