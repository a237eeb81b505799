/* SPDX-License-Identifier: MIT */
#include "fault/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

char disk_path[LAB_PATH];
char disk_restored[LAB_PATH];

/* --- the disk ------------------------------------------------------------------ */

/* Files are known by inode, so that a rename moves them. A number that the
 * file system uses again is another inode: `current` is the last of it. */
struct inode {
    ino_t number;
    uint8_t *data;
    size_t size;
    uint8_t *dropped; /* as it was when a sync of it failed; NULL: none has */
    size_t dropped_size;
    bool current;
};

struct entry {
    ino_t directory; /* directories are never removed here: by number */
    char name[NAME_MAX + 1];
    ino_t number;
    size_t inode; /* index, of a file */
    bool is_directory;
};

static pthread_mutex_t disk_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct inode inodes[4096];
static size_t inode_count;
static struct entry entries[4096];
static size_t entry_count;

static void disk_clear(void)
{
    for (size_t i = 0; i < inode_count; i++) {
        free(inodes[i].data);
        free(inodes[i].dropped);
    }
    inode_count = entry_count = 0;
}

static struct inode *inode_begin(ino_t number)
{
    for (size_t i = 0; i < inode_count; i++) {
        if (inodes[i].number == number)
            inodes[i].current = false;
    }
    assert_true(inode_count < sizeof inodes / sizeof inodes[0]);
    inodes[inode_count] = (struct inode){.number = number, .current = true};
    return &inodes[inode_count++];
}

static struct inode *inode_of(ino_t number)
{
    for (size_t i = 0; i < inode_count; i++) {
        if (inodes[i].number == number && inodes[i].current)
            return &inodes[i];
    }
    return inode_begin(number);
}

/* The page is as it was when its sync failed: nothing has made it dirty since. */
static bool taken_for_clean(const struct inode *inode, const uint8_t *page, size_t at, size_t size)
{
    return inode->dropped != NULL && at + size <= inode->dropped_size &&
           memcmp(inode->dropped + at, page, size) == 0;
}

/* The disk gets `data`, but for what it believes to have. */
static void keep_pages(struct inode *inode, uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size; at += 4096) {
        size_t n = size - at < 4096 ? size - at : 4096;
        if (!taken_for_clean(inode, data + at, at, n))
            continue;
        size_t had = inode->size > at ? inode->size - at : 0;
        memset(data + at, 0, n);
        memcpy(data + at, inode->data + at, had < n ? had : n);
    }
    free(inode->data);
    inode->data = data;
    inode->size = size;
}

static bool read_inode(int fd, ino_t *number, uint8_t **data, size_t *size)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return false;
    *number = status.st_ino;
    *data = malloc((size_t)status.st_size + 1);
    ssize_t n = pread(fd, *data, (size_t)status.st_size, 0);
    *size = n > 0 ? (size_t)n : 0;
    return true;
}

void disk_keep_file(int fd)
{
    ino_t number;
    uint8_t *data;
    size_t size;
    if (!read_inode(fd, &number, &data, &size))
        return;
    (void)pthread_mutex_lock(&disk_mutex);
    keep_pages(inode_of(number), data, size);
    (void)pthread_mutex_unlock(&disk_mutex);
}

static void drop_file(int fd)
{
    ino_t number;
    uint8_t *data;
    size_t size;
    if (!read_inode(fd, &number, &data, &size))
        return;
    (void)pthread_mutex_lock(&disk_mutex);
    struct inode *inode = inode_of(number);
    free(inode->dropped);
    inode->dropped = data;
    inode->dropped_size = size;
    (void)pthread_mutex_unlock(&disk_mutex);
}

static void keep_directory(int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISDIR(status.st_mode))
        return;
    (void)pthread_mutex_lock(&disk_mutex);
    size_t kept = 0;
    for (size_t i = 0; i < entry_count; i++) {
        if (entries[i].directory != status.st_ino)
            entries[kept++] = entries[i];
    }
    entry_count = kept;
    DIR *folder = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (const struct dirent *e; (e = readdir(folder)) != NULL;) {
        struct stat one;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(fd, e->d_name, &one, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        struct entry *entry = &entries[entry_count++];
        *entry = (struct entry){.directory = status.st_ino,
                                .number = one.st_ino,
                                .inode = (size_t)(inode_of(one.st_ino) - inodes),
                                .is_directory = S_ISDIR(one.st_mode)};
        (void)snprintf(entry->name, sizeof entry->name, "%s", e->d_name);
    }
    (void)closedir(folder);
    (void)pthread_mutex_unlock(&disk_mutex);
}

/* Under the mutex, so it fails no test by itself. */
static bool restore_directory(ino_t directory, const char *to)
{
    bool done = mkdir(to, 0700) == 0;
    for (size_t i = 0; done && i < entry_count; i++) {
        const struct entry *e = &entries[i];
        if (e->directory != directory)
            continue;
        char full[LAB_PATH + NAME_MAX];
        (void)snprintf(full, sizeof full, "%s/%s", to, e->name);
        if (e->is_directory) {
            done = restore_directory(e->number, full);
            continue;
        }
        int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        const struct inode *inode = &inodes[e->inode];
        done = fd >= 0 &&
               (inode->size == 0 || write(fd, inode->data, inode->size) == (ssize_t)inode->size);
        (void)close(fd);
    }
    return done;
}

/* The power is cut now; what is left lies in `disk_restored`. */
void disk_cut(void)
{
    lab_remove(disk_restored);
    struct stat status;
    assert_int_equal(stat(disk_path, &status), 0);
    /* Its entry in the parent is durable, or all is lost. */
    char parent[LAB_PATH];
    (void)snprintf(parent, sizeof parent, "%s", disk_path);
    *strrchr(parent, '/') = '\0';
    struct stat above;
    assert_int_equal(stat(parent, &above), 0);
    (void)pthread_mutex_lock(&disk_mutex);
    bool there = false;
    for (size_t i = 0; i < entry_count; i++)
        there =
            there || (entries[i].directory == above.st_ino && entries[i].number == status.st_ino);
    bool done = restore_directory(status.st_ino, disk_restored);
    (void)pthread_mutex_unlock(&disk_mutex);
    if (!there)
        fail_msg("the entry of %s is not durable", disk_path);
    assert_true(done);
}

/* --- what the disk may have besides ------------------------------------------------ */

/* Each name that came or went since the directory's last sync, and each page
 * since the file's, may have reached the disk or not. */

static uint64_t mix_seed;

static bool coin(void)
{
    return lab_random(&mix_seed) % 2 == 0;
}

static const struct inode *durable_inode(ino_t number)
{
    for (size_t i = 0; i < inode_count; i++) {
        if (inodes[i].number == number && inodes[i].current)
            return &inodes[i];
    }
    return NULL;
}

static bool write_file(const char *to, const uint8_t *data, size_t size)
{
    int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool done = fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t)size);
    (void)close(fd);
    return done;
}

/* Page by page the durable or the present content. */
static bool mix_file(const char *from, const struct inode *durable, const char *to)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0)
        return false;
    size_t old = durable != NULL ? durable->size : 0, now = (size_t)status.st_size;
    size_t most = old > now ? old : now, size = coin() ? old : now;
    uint8_t *mixed = calloc(1, most + 1), *present = calloc(1, most + 1);
    bool done = pread(fd, present, now, 0) == (ssize_t)now;
    if (old > 0)
        memcpy(mixed, durable->data, old);
    unsigned how = (unsigned)(lab_random(&mix_seed) % 3); /* nothing new, all, some */
    for (size_t at = 0; at < most && how > 0; at += 4096) {
        if (how == 1 || coin())
            memcpy(mixed + at, present + at, most - at < 4096 ? most - at : 4096);
    }
    done = done && write_file(to, mixed, size);
    free(mixed);
    free(present);
    (void)close(fd);
    return done;
}

static const struct entry *durable_entry(ino_t directory, const char *name)
{
    for (size_t i = 0; i < entry_count; i++) {
        if (entries[i].directory == directory && strcmp(entries[i].name, name) == 0)
            return &entries[i];
    }
    return NULL;
}

static bool mix_present(const char *from, const char *to, ino_t directory)
{
    bool done = true;
    DIR *folder = opendir(from);
    for (const struct dirent *e; done && (e = readdir(folder)) != NULL;) {
        char source[LAB_PATH + NAME_MAX], target[LAB_PATH + NAME_MAX];
        struct stat one;
        (void)snprintf(source, sizeof source, "%s/%s", from, e->d_name);
        (void)snprintf(target, sizeof target, "%s/%s", to, e->d_name);
        if (stat(source, &one) != 0 || !S_ISREG(one.st_mode))
            continue;
        const struct entry *known = durable_entry(directory, e->d_name);
        bool same = known != NULL && known->number == one.st_ino;
        if (same || coin())
            done = mix_file(source, durable_inode(one.st_ino), target);
    }
    (void)closedir(folder);
    return done;
}

static bool mix_directory(const char *from, const char *to, ino_t directory)
{
    bool done = mkdir(to, 0700) == 0;
    for (size_t i = 0; done && i < entry_count; i++) {
        const struct entry *e = &entries[i];
        char source[LAB_PATH + NAME_MAX], target[LAB_PATH + NAME_MAX];
        if (e->directory != directory)
            continue;
        (void)snprintf(source, sizeof source, "%s/%s", from, e->name);
        (void)snprintf(target, sizeof target, "%s/%s", to, e->name);
        if (e->is_directory)
            done = mix_directory(source, target, e->number);
        else if (coin()) /* replaced by what is present, if that is there */
            done = write_file(target, inodes[e->inode].data, inodes[e->inode].size);
    }
    return done && mix_present(from, to, directory);
}

static _Atomic int cut_after = -1; /* calls that change the disk */
static _Atomic int cut_result;     /* 0: not cut; 1: done; -1: failed */

static void mix(void)
{
    struct stat status;
    lab_remove(disk_restored);
    (void)pthread_mutex_lock(&disk_mutex);
    bool done =
        stat(disk_path, &status) == 0 && mix_directory(disk_path, disk_restored, status.st_ino);
    (void)pthread_mutex_unlock(&disk_mutex);
    atomic_store(&cut_result, done ? 1 : -1);
}

static void cut_if_due(void)
{
    if (atomic_load(&cut_after) >= 0 && atomic_fetch_sub(&cut_after, 1) == 0)
        mix();
}

void disk_mix_after(uint64_t seed, int calls)
{
    mix_seed = seed;
    atomic_store(&cut_result, 0);
    atomic_store(&cut_after, calls);
}

void disk_mix_now(void)
{
    atomic_store(&cut_after, -1);
    if (atomic_load(&cut_result) == 0)
        mix();
    assert_int_equal(atomic_load(&cut_result), 1);
}

/* --- the seam ------------------------------------------------------------------------- */

/* A file whose inode number is used again begins anew, before a sync of its directory
 * can take it for the one that had the number. */
static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    struct stat status;
    if ((flags & (O_EXCL | O_TRUNC)) == 0)
        return bkv_io_kernel.openat(dirfd, name, flags, mode);
    (void)pthread_mutex_lock(&disk_mutex);
    int fd = bkv_io_kernel.openat(dirfd, name, flags, mode);
    if (fd >= 0 && fstat(fd, &status) == 0)
        (void)inode_begin(status.st_ino);
    (void)pthread_mutex_unlock(&disk_mutex);
    return fd;
}

static _Atomic unsigned syncs_to_fail;

void disk_fail_syncs(unsigned count)
{
    atomic_store(&syncs_to_fail, count);
}

static int on_fdatasync(int fd)
{
    if (atomic_load(&syncs_to_fail) > 0) {
        atomic_fetch_sub(&syncs_to_fail, 1);
        drop_file(fd);
        errno = EIO;
        return -1;
    }
    cut_if_due();
    disk_keep_file(fd);
    cut_if_due();
    return 0;
}

static int on_fsync(int fd)
{
    cut_if_due();
    disk_keep_file(fd);
    keep_directory(fd);
    cut_if_due();
    return 0;
}

static int on_renameat(int fd, const char *from, const char *to)
{
    cut_if_due();
    int rc = bkv_io_kernel.renameat(fd, from, to);
    cut_if_due();
    return rc;
}

static int on_unlinkat(int fd, const char *name)
{
    int rc = bkv_io_kernel.unlinkat(fd, name);
    cut_if_due();
    return rc;
}

struct bkv_io_ops disk_ops;

int disk_setup(void **state)
{
    (void)state;
    char parent[LAB_PATH];
    lab_directory(parent, "power"); /* of its own: its listing stays short */
    (void)snprintf(disk_path, sizeof disk_path, "%.400s/db", parent);
    lab_path(disk_restored, "restored");
    atomic_store(&cut_after, -1);
    disk_ops = bkv_io_kernel;
    disk_ops.openat = on_openat;
    disk_ops.fdatasync = on_fdatasync;
    disk_ops.fsync = on_fsync;
    disk_ops.renameat = on_renameat;
    disk_ops.unlinkat = on_unlinkat;
    bkv_io = &disk_ops;
    return 0;
}

void disk_fresh(void)
{
    lab_remove(disk_path);
    disk_clear();
}

int disk_teardown(void **state)
{
    (void)state;
    bkv_io = &bkv_io_kernel;
    disk_clear();
    lab_remove(disk_restored);
    *strrchr(disk_path, '/') = '\0';
    lab_remove(disk_path);
    return 0;
}

/* The power comes back: the database is what was left, all of it durable. */
void disk_power_returns(void)
{
    static struct lab_image image;
    lab_image_read(&image, disk_restored, SIZE_MAX / 2);
    disk_fresh();
    lab_image_write(&image, disk_path);
    lab_image_free(&image);
    static const char *const folders[] = {"..", ".", "partition_0", "partition_1"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char name[LAB_PATH];
        lab_join(name, disk_path, folders[i]);
        int folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0 && i == 3)
            break; /* a database of one partition */
        assert_true(folder >= 0);
        keep_directory(folder);
        DIR *list = fdopendir(folder);
        for (const struct dirent *e; i > 0 && (e = readdir(list)) != NULL;) {
            int fd = openat(folder, e->d_name, O_RDONLY | O_CLOEXEC);
            assert_true(fd >= 0);
            disk_keep_file(fd);
            (void)close(fd);
        }
        (void)closedir(list);
    }
}
