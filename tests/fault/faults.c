/* SPDX-License-Identifier: MIT */
#include "fault/faults.h"

#include "io/io.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    _Atomic int kind;
    uint32_t first, count;
    int error;
    int death; /* exit status; 0: calls fail */
} plan = {.kind = FAULT_COUNT};

/* Stands for every kind. */
#define FAULT_ALL (FAULT_COUNT + 1)

static _Atomic uint32_t calls;
static _Atomic uint32_t fired;
static _Atomic uint32_t piece;

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
    return most != 0 && size > most ? most : size;
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
}

uint32_t fault_fired(void)
{
    return atomic_load(&fired);
}

void fault_short_transfers(uint32_t size)
{
    atomic_store(&piece, size);
}

/* --- the workload -------------------------------------------------------------- */

#define VALUE_MAX 90000u

static char value_buffer[VALUE_MAX + 1];

/* Every eighth is larger than a segment. */
static size_t make_value(unsigned key, unsigned version)
{
    size_t size = version % 8 == 7 ? 80000 : 5000 + (version * 37) % 4000;
    int n = snprintf(value_buffer, sizeof value_buffer, "key %u version %u ", key, version);
    memset(value_buffer + n, 'a' + (int)(version % 26), size - (size_t)n);
    return size;
}

static unsigned version_of(unsigned key, const char *value, size_t size)
{
    unsigned k = 0;
    unsigned v = 0;
    if (sscanf(value, "key %u version %u ", &k, &v) != 2 || k != key)
        fail_msg("key %u has a value that is not its own", key);
    if (make_value(key, v) != size || memcmp(value_buffer, value, size) != 0)
        fail_msg("key %u version %u is not what was put", key, v);
    return v;
}

static void note_failure(struct fault_model *m, int rc, const char *call)
{
    m->failures++;
    if (strcmp(bitkv_error_name(rc), "BITKV_UNKNOWN") == 0 || bitkv_error_context()[0] == '\0')
        fail_msg("%s: code %d, context '%s'", call, rc, bitkv_error_context());
}

static size_t make_key(char key[16], unsigned n)
{
    return (size_t)snprintf(key, 16, "key%u", n);
}

static void settle(struct fault_model *m, unsigned key, unsigned version, int rc)
{
    if (rc == BITKV_OK) {
        m->known[key] = m->doubtful[key] = version;
        m->in_doubt[key] = false;
    } else {
        m->doubtful[key] = version != 0 ? version : m->doubtful[key];
        m->in_doubt[key] = true;
    }
}

static void put(struct fault_model *m, bitkv *db, unsigned key, bitkv_durability durability)
{
    char name[16];
    size_t name_size = make_key(name, key);
    unsigned version = ++m->next_version;
    size_t size = make_value(key, version);
    int rc = bitkv_put_with(db, name, name_size, value_buffer, size, durability);
    if (rc != BITKV_OK)
        note_failure(m, rc, "put");
    if (rc == BITKV_OK || rc == BITKV_ERR_SYNC_FAILED)
        settle(m, key, version, rc);
}

static void del(struct fault_model *m, bitkv *db, unsigned key)
{
    char name[16];
    size_t name_size = make_key(name, key);
    int rc = bitkv_del(db, name, name_size);
    if (rc < 0)
        note_failure(m, rc, "del");
    if (rc == BITKV_NOT_FOUND && m->known[key] != 0 && !m->in_doubt[key])
        fail_msg("key %u was there, and del does not find it", key);
    if (rc == BITKV_OK || rc == BITKV_NOT_FOUND)
        settle(m, key, 0, BITKV_OK);
    else if (rc == BITKV_ERR_SYNC_FAILED)
        settle(m, key, 0, rc);
}

static void expect(const struct fault_model *m, unsigned key, unsigned version)
{
    if (m->in_doubt[key] ? version != 0 && (version < m->known[key] || version > m->doubtful[key])
                         : version != m->known[key])
        fail_msg("key %u has version %u, and should have %u%s", key, version, m->known[key],
                 m->in_doubt[key] ? " or a later one" : "");
}

static void get(struct fault_model *m, bitkv *db, unsigned key, bool must)
{
    char name[16];
    size_t name_size = make_key(name, key);
    void *value;
    size_t size = 0;
    int rc = bitkv_get(db, name, name_size, &value, &size);
    if (rc < 0) {
        if (must)
            fail_msg("get key %u: %s: %s", key, bitkv_error_name(rc), bitkv_error_context());
        note_failure(m, rc, "get");
        return;
    }
    expect(m, key, rc == BITKV_OK ? version_of(key, value, size) : 0);
    bitkv_free(value);
}

static int on_record(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(unsigned *)user;
    return 0;
}

static int open_it(bitkv **db, const char *path, bitkv_io_mode mode)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 1;
    options.max_file_size = 64u << 10;
    options.io_mode = mode;
    options.max_open_segments = 2;
    options.checkpoint_interval_bytes = 150000;
    return bitkv_open(db, path, &options);
}

static void work(struct fault_model *m, bitkv *db)
{
    for (unsigned key = 0; key < FAULT_KEYS; key++)
        put(m, db, key, BITKV_DURABILITY_NONE);
    put(m, db, 1, BITKV_DURABILITY_SYNC);
    for (unsigned key = 0; key < FAULT_KEYS; key += 5)
        get(m, db, key, false);
    for (unsigned key = 0; key < FAULT_KEYS; key += 7)
        del(m, db, key);
    int rc = bitkv_sync(db);
    if (rc != BITKV_OK)
        note_failure(m, rc, "sync");
    unsigned seen = 0;
    rc = bitkv_scan(db, BITKV_SCAN_ALL, on_record, &seen);
    if (rc != BITKV_OK)
        note_failure(m, rc, "scan");
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_OK);
    for (unsigned key = 0; key < FAULT_KEYS; key += 3)
        put(m, db, key, BITKV_DURABILITY_INTERVAL);
    for (unsigned key = 0; key < FAULT_KEYS; key++)
        get(m, db, key, false);
}

void fault_workload(struct fault_model *m, const char *path, bitkv_io_mode mode)
{
    for (int round = 0; round < 2; round++) {
        bitkv *db;
        int rc = open_it(&db, path, mode);
        if (rc != BITKV_OK) {
            note_failure(m, rc, "open");
            assert_null(db);
            continue;
        }
        work(m, db);
        rc = bitkv_close(db);
        if (rc != BITKV_OK)
            note_failure(m, rc, "close");
    }
}

void fault_check(const struct fault_model *model, const char *path, bitkv_io_mode mode)
{
    struct fault_model m = *model;
    bitkv *db;
    int rc = open_it(&db, path, mode);
    if (rc != BITKV_OK)
        fail_msg("open without faults: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_OK);
    assert_int_equal(statistics.recovery.damaged_regions, 0);
    for (unsigned key = 0; key < FAULT_KEYS; key++)
        get(&m, db, key, true);
    put(&m, db, 0, BITKV_DURABILITY_SYNC);
    assert_int_equal(m.failures, model->failures);
    get(&m, db, 0, true);
    rc = bitkv_close(db);
    if (rc != BITKV_OK)
        fail_msg("close without faults: %s: %s", bitkv_error_name(rc), bitkv_error_context());
}
