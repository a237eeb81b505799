/* SPDX-License-Identifier: MIT */
#include "fault/faults.h"

#include "base/memory.h"
#include "damage/lab.h"
#include "io/io.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* It is changed beside the library's threads. */
static struct {
    _Atomic int kind;
    _Atomic uint32_t first, count;
    _Atomic int error;
    _Atomic int death; /* exit status; 0: calls fail */
} plan = {.kind = FAULT_COUNT};

#define LEFT_MAPPED_MAX 4096u
static _Atomic uint32_t left_mapped;

/* Stands for every kind. */
#define FAULT_ALL (FAULT_COUNT + 1)

static _Atomic uint32_t calls;
static _Atomic uint32_t fired;
static _Atomic uint32_t piece;
static _Atomic uint64_t whim; /* state of the random sizes of pieces; 0: all the same */
static _Atomic bool cold;

const char *fault_name(enum fault_kind kind)
{
    static const char *const names[] = {
#define FAULT_NAME(name) #name,
        FAULT_KINDS(FAULT_NAME)
#undef FAULT_NAME
    };
    return names[kind];
}

static bool fails(enum fault_kind kind)
{
    int planned = atomic_load(&plan.kind);
    if ((int)kind != planned && planned != FAULT_ALL)
        return false;
    uint32_t n = atomic_fetch_add(&calls, 1);
    if (n < plan.first || n - plan.first >= plan.count)
        return false;
    if (plan.death != 0)
        _exit(plan.death);
    atomic_fetch_add(&fired, 1);
    errno = plan.error;
    return true;
}

static size_t shorten(size_t size)
{
    uint32_t most = atomic_load(&piece);
    if (most == 0)
        return size;
    uint64_t state = atomic_load(&whim);
    if (state != 0) { /* threads may share a number: it need not be a good one */
        most = 1 + (uint32_t)(lab_random(&state) % most);
        atomic_store(&whim, state);
    }
    return size > most ? most : size;
}

static int on_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    return fails(FAULT_openat) ? -1 : bkv_io_kernel.openat(dirfd, path, flags, mode);
}

static ssize_t on_pread(int fd, void *data, size_t size, off_t offset)
{
    return fails(FAULT_pread) ? -1 : bkv_io_kernel.pread(fd, data, shorten(size), offset);
}

static ssize_t on_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (!fails(FAULT_pwrite))
        return bkv_io_kernel.pwrite(fd, data, shorten(size), offset);
    /* A disk that fills up takes a part first. */
    if (plan.error == ENOSPC && size > 1)
        (void)bkv_io_kernel.pwrite(fd, data, size / 2, offset);
    errno = plan.error;
    return -1;
}

static int on_fallocate(int fd, off_t offset, off_t size)
{
    return fails(FAULT_fallocate) ? -1 : bkv_io_kernel.fallocate(fd, offset, size);
}

static int on_ftruncate(int fd, off_t size)
{
    return fails(FAULT_ftruncate) ? -1 : bkv_io_kernel.ftruncate(fd, size);
}

static int on_fdatasync(int fd)
{
    (void)fd;
    return fails(FAULT_fdatasync) ? -1 : 0;
}

static int on_fsync(int fd)
{
    (void)fd;
    return fails(FAULT_fsync) ? -1 : 0;
}

static int on_fstat(int fd, struct stat *status)
{
    return fails(FAULT_fstat) ? -1 : bkv_io_kernel.fstat(fd, status);
}

static int on_fstatfs(int fd, struct statfs *status)
{
    return fails(FAULT_fstatfs) ? -1 : bkv_io_kernel.fstatfs(fd, status);
}

static int on_flock(int fd, int operation)
{
    return fails(FAULT_flock) ? -1 : bkv_io_kernel.flock(fd, operation);
}

static int on_renameat(int dirfd, const char *from, const char *to)
{
    return fails(FAULT_renameat) ? -1 : bkv_io_kernel.renameat(dirfd, from, to);
}

static int on_renameat2(int dirfd, const char *from, const char *to, unsigned flags)
{
    return fails(FAULT_renameat2) ? -1 : bkv_io_kernel.renameat2(dirfd, from, to, flags);
}

static int on_linkat(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
    return fails(FAULT_linkat) ? -1 : bkv_io_kernel.linkat(from_dirfd, from, to_dirfd, to);
}

static ssize_t on_copy_file_range(int from, off_t from_offset, int to, off_t to_offset, size_t size)
{
    return fails(FAULT_copy_file_range)
               ? -1
               : bkv_io_kernel.copy_file_range(from, from_offset, to, to_offset, shorten(size));
}

static int on_rmdirat(int dirfd, const char *path)
{
    return fails(FAULT_rmdirat) ? -1 : bkv_io_kernel.rmdirat(dirfd, path);
}

static int on_unlinkat(int dirfd, const char *path)
{
    return fails(FAULT_unlinkat) ? -1 : bkv_io_kernel.unlinkat(dirfd, path);
}

static int on_mkdirat(int dirfd, const char *path, mode_t mode)
{
    return fails(FAULT_mkdirat) ? -1 : bkv_io_kernel.mkdirat(dirfd, path, mode);
}

static void *on_mmap(size_t size, int protection, int flags, int fd)
{
    return fails(FAULT_mmap) ? MAP_FAILED : bkv_io_kernel.mmap(size, protection, flags, fd);
}

static int on_mprotect(void *base, size_t size, int protection)
{
    return fails(FAULT_mprotect) ? -1 : bkv_io_kernel.mprotect(base, size, protection);
}

static int on_madvise(void *base, size_t size, int advice)
{
    return fails(FAULT_madvise) ? -1 : bkv_io_kernel.madvise(base, size, advice);
}

static DIR *on_fdopendir(int fd)
{
    return fails(FAULT_fdopendir) ? NULL : bkv_io_kernel.fdopendir(fd);
}

static struct dirent *on_readdir(DIR *directory)
{
    return fails(FAULT_readdir) ? NULL : bkv_io_kernel.readdir(directory);
}

/* Whatever close(2) returns, the descriptor is gone. */
static int on_close(int fd)
{
    bool failed = fails(FAULT_close);
    int error = errno;
    int result = bkv_io_kernel.close(fd);
    errno = error;
    return failed ? -1 : result;
}

static int on_closedir(DIR *directory)
{
    bool failed = fails(FAULT_closedir);
    int error = errno;
    int result = bkv_io_kernel.closedir(directory);
    errno = error;
    return failed ? -1 : result;
}

/* What stays mapped is a leak that nobody can mend. Not so many that the process
 * runs out of it. */
static int on_munmap(void *base, size_t size)
{
    if (!fails(FAULT_munmap))
        return bkv_io_kernel.munmap(base, size);
    if (atomic_fetch_add(&left_mapped, 1) >= LEFT_MAPPED_MAX)
        (void)bkv_io_kernel.munmap(base, size);
    errno = plan.error;
    return -1;
}

static int on_mincore(void *base, size_t size, unsigned char *in_memory)
{
    if (fails(FAULT_mincore))
        return -1;
    int result = bkv_io_kernel.mincore(base, size, in_memory);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (atomic_load(&cold))
        memset(in_memory, 0, (size + page - 1) / page);
    return result;
}

static ssize_t on_pread_nowait(int fd, void *data, size_t size, off_t offset)
{
    if (fails(FAULT_pread_nowait))
        return -1;
    if (!atomic_load(&cold))
        return bkv_io_kernel.pread_nowait(fd, data, size, offset);
    errno = EAGAIN;
    return -1;
}

/* The kernel has read it all: what is taken away of the answer is read again. */
static ssize_t on_ring_read(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)data;
    (void)size;
    (void)offset;
    if (fails(FAULT_ring_read))
        return -plan.error;
    return result > 0 ? (ssize_t)shorten((size_t)result) : result;
}

static struct bkv_io_ops faulty;

void fault_install(void)
{
    faulty = bkv_io_kernel;
#define FAULT_SET(name) faulty.name = on_##name;
    FAULT_KINDS(FAULT_SET)
#undef FAULT_SET
    fault_disarm();
    bkv_io = &faulty;
}

void fault_uninstall(void)
{
    atomic_store(&cold, false);
    bkv_io = &bkv_io_kernel;
}

static void arm(int kind, uint32_t first, uint32_t count, int error, int death)
{
    atomic_store(&plan.kind, FAULT_COUNT);
    plan.first = first;
    plan.count = count;
    plan.error = error;
    plan.death = death;
    atomic_store(&calls, 0);
    atomic_store(&fired, 0);
    atomic_store(&plan.kind, kind);
}

void fault_arm(enum fault_kind kind, uint32_t first, uint32_t count, int error)
{
    arm((int)kind, first, count, error, 0);
}

void fault_arm_all(uint32_t first, uint32_t count, int error)
{
    arm(FAULT_ALL, first, count, error, 0);
}

void fault_arm_death(uint32_t first, int status)
{
    arm(FAULT_ALL, first, 1, 0, status);
}

void fault_disarm(void)
{
    atomic_store(&plan.kind, FAULT_COUNT);
    atomic_store(&piece, 0);
    bkv_alloc_set_hook(NULL, NULL);
}

uint32_t fault_fired(void)
{
    return atomic_load(&fired);
}

uint32_t fault_calls(void)
{
    return atomic_load(&calls);
}

void fault_short_transfers(uint32_t size)
{
    fault_random_transfers(size, 0);
}

void fault_random_transfers(uint32_t size, uint64_t random)
{
    atomic_store(&whim, random);
    atomic_store(&piece, size);
}

void fault_cold(bool set)
{
    atomic_store(&cold, set);
}

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    uint32_t n = atomic_fetch_add(&calls, 1);
    if (n < plan.first || n - plan.first >= plan.count)
        return true;
    atomic_fetch_add(&fired, 1);
    return false;
}

void fault_arm_memory(uint32_t first, uint32_t count)
{
    arm(FAULT_COUNT, first, count, 0, 0);
    bkv_alloc_set_hook(on_allocation, NULL);
}
