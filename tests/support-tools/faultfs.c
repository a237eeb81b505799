/* SPDX-License-Identifier: MIT */
/*
 * A file system in user space that passes everything on to a directory, and fails
 * as a test wants it: what reaches the library has gone through the kernel, be it
 * by a system call, by io_uring or by a page fault, which becomes a SIGBUS.
 *
 *   faultfs BACKING MOUNTPOINT FD      FD: a memfd with a struct faultfs
 *
 * Runs in the foreground until it is unmounted. A short transfer, or EINTR, is
 * given to calls only that ask for it themselves, not to the page cache, for which
 * the kernel would take it as the end of the file, or as lost.
 */
#define FUSE_USE_VERSION 31

#include "support-tools/faultfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static struct faultfs *shared;
static int root;

/* --- faults ------------------------------------------------------------------- */

static uint64_t draw(uint64_t n)
{
    uint64_t x = atomic_fetch_add(&shared->seed, 1) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) % n;
}

/* 0, or the error that the call is to have. */
static int fault(enum faultfs_kind kind, bool may_interrupt)
{
    const struct faultfs_rule *rule = &shared->rules[kind];
    uint32_t one_in = atomic_load(&rule->one_in);
    atomic_fetch_add(&shared->calls, 1);
    if (one_in == 0 || draw(one_in) != 0)
        return 0;
    int error = atomic_load(&rule->errors[draw(4)]);
    if (error == 0 || (error == -EINTR && !may_interrupt))
        return 0;
    if (error == -EINTR)
        atomic_fetch_add(&shared->interrupted, 1);
    else
        atomic_fetch_add(&shared->failed[kind], 1);
    return error;
}

static size_t shorten(size_t size, bool may)
{
    uint32_t one_in = atomic_load(&shared->short_one_in);
    if (!may || one_in == 0 || size < 2 || draw(one_in) != 0)
        return size;
    atomic_fetch_add(&shared->shortened, 1);
    return 1 + draw(size - 1);
}

/* --- names --------------------------------------------------------------------- */

static const char *below(const char *path)
{
    return path[1] != '\0' ? path + 1 : ".";
}

static int result_of(int rc)
{
    return rc < 0 ? -errno : 0;
}

static int fs_getattr(const char *path, struct stat *status, struct fuse_file_info *fi)
{
    if (fi != NULL)
        return result_of(fstat((int)fi->fh, status));
    return result_of(fstatat(root, below(path), status, AT_SYMLINK_NOFOLLOW));
}

static int fs_mkdir(const char *path, mode_t mode)
{
    return result_of(mkdirat(root, below(path), mode));
}

static int fs_rmdir(const char *path)
{
    return result_of(unlinkat(root, below(path), AT_REMOVEDIR));
}

static int fs_unlink(const char *path)
{
    int error = fault(FAULTFS_UNLINK, false);
    return error != 0 ? error : result_of(unlinkat(root, below(path), 0));
}

static int fs_rename(const char *from, const char *to, unsigned flags)
{
    int error = fault(FAULTFS_RENAME, false);
    return error != 0 ? error : result_of(renameat2(root, below(from), root, below(to), flags));
}

static int fs_link(const char *from, const char *to)
{
    int error = fault(FAULTFS_LINK, false);
    return error != 0 ? error : result_of(linkat(root, below(from), root, below(to), 0));
}

static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)fi;
    return result_of(fchmodat(root, below(path), mode, 0));
}

static int fs_statfs(const char *path, struct statvfs *status)
{
    (void)path;
    return result_of(fstatvfs(root, status));
}

static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t add, off_t offset,
                      struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    (void)path;
    (void)offset;
    (void)flags;
    int error = fault(FAULTFS_LIST, false);
    if (error != 0)
        return error;
    int fd = openat((int)fi->fh, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL)
        return -errno;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        struct stat status = {.st_ino = e->d_ino, .st_mode = (mode_t)e->d_type << 12};
        (void)add(buffer, e->d_name, &status, 0, (enum fuse_fill_dir_flags)0);
    }
    (void)closedir(dir);
    return 0;
}

static int fs_opendir(const char *path, struct fuse_file_info *fi)
{
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fi->fh = (uint64_t)fd;
    return result_of(fd);
}

/* --- files ----------------------------------------------------------------------- */

static int open_file(const char *path, int flags, mode_t mode, struct fuse_file_info *fi)
{
    int error = fault(FAULTFS_OPEN, true);
    if (error != 0)
        return error;
    /* A file that is mapped for writing is read by the kernel, too. */
    int access = (flags & O_ACCMODE) == O_WRONLY ? O_RDWR : flags & O_ACCMODE;
    int fd = openat(root, below(path), access | (flags & (O_CREAT | O_EXCL | O_TRUNC)) | O_CLOEXEC,
                    mode);
    if (fd < 0)
        return -errno;
    fi->fh = (uint64_t)fd;
    fi->direct_io = atomic_load(&shared->direct);
    return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
    return open_file(path, fi->flags & ~(O_CREAT | O_EXCL), 0, fi);
}

static int fs_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    return open_file(path, fi->flags | O_CREAT, mode, fi);
}

static int fs_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    return result_of(close((int)fi->fh));
}

static int fs_read(const char *path, char *data, size_t size, off_t offset,
                   struct fuse_file_info *fi)
{
    (void)path;
    bool asked = atomic_load(&shared->direct);
    int error = fault(FAULTFS_READ, asked);
    if (error != 0)
        return error;
    ssize_t n = pread((int)fi->fh, data, shorten(size, asked), offset);
    return n < 0 ? -errno : (int)n;
}

static int fs_write(const char *path, const char *data, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    (void)path;
    int error = fault(FAULTFS_WRITE, !fi->writepage);
    if (error != 0)
        return error;
    ssize_t n = pwrite((int)fi->fh, data, shorten(size, !fi->writepage), offset);
    return n < 0 ? -errno : (int)n;
}

/* The kernel's own way would be through the page cache, also where files have none. */
static ssize_t fs_copy(const char *path_in, struct fuse_file_info *in, off_t from,
                       const char *path_out, struct fuse_file_info *out, off_t to, size_t size,
                       int flags)
{
    (void)path_in;
    (void)path_out;
    int error = fault(FAULTFS_WRITE, true);
    if (error != 0)
        return error;
    ssize_t n = copy_file_range((int)in->fh, &from, (int)out->fh, &to, shorten(size, true),
                                (unsigned)flags);
    return n < 0 ? -errno : n;
}

static int fs_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path;
    (void)data_only;
    (void)fi; /* what is below needs none: no power is cut */
    return fault(FAULTFS_SYNC, false);
}

static int fs_fallocate(const char *path, int mode, off_t offset, off_t size,
                        struct fuse_file_info *fi)
{
    (void)path;
    int error = fault(FAULTFS_ALLOCATE, true);
    return error != 0 ? error : result_of(fallocate((int)fi->fh, mode, offset, size));
}

static int fs_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    int error = fault(FAULTFS_TRUNCATE, false);
    if (error != 0)
        return error;
    if (fi != NULL)
        return result_of(ftruncate((int)fi->fh, size));
    int fd = openat(root, below(path), O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : result_of(ftruncate(fd, size));
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = fs_init,
    .getattr = fs_getattr,
    .mkdir = fs_mkdir,
    .rmdir = fs_rmdir,
    .unlink = fs_unlink,
    .rename = fs_rename,
    .link = fs_link,
    .chmod = fs_chmod,
    .statfs = fs_statfs,
    .opendir = fs_opendir,
    .readdir = fs_readdir,
    .releasedir = fs_release,
    .open = fs_open,
    .create = fs_create,
    .release = fs_release,
    .read = fs_read,
    .write = fs_write,
    .copy_file_range = fs_copy,
    .fsync = fs_fsync,
    .fsyncdir = fs_fsync,
    .fallocate = fs_fallocate,
    .truncate = fs_truncate,
};

int main(int argc, char **argv)
{
    if (argc != 4) {
        (void)fprintf(stderr, "usage: faultfs BACKING MOUNTPOINT FD\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);
    root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (shared == MAP_FAILED || root < 0) {
        perror("faultfs");
        return 1;
    }
    char foreground[] = "-f", *arguments[] = {argv[0], foreground, argv[2], NULL};
    return fuse_main(3, arguments, &operations, NULL);
}
