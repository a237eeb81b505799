/* SPDX-License-Identifier: MIT */
/*
 * What the schedules share: a database of one partition that nobody compacts unasked,
 * a disk whose syncs cost nothing, and results that actors leave for the check, since
 * they cannot fail a test themselves.
 */
#ifndef TESTS_CONCURRENT_SCHEDULES_FIXTURE_H
#define TESTS_CONCURRENT_SCHEDULES_FIXTURE_H

#include "api/fixture.h"

#include "concurrent/schedule.h"
#include "io/io.h"

#include <stdatomic.h>

#define HOT 7u /* the key of the race */

static bitkv *db;
static bitkv_options options;
static struct bkv_io_ops ops;
static char backup_path[PATH_SIZE];
static unsigned version; /* of the run: values of different runs differ */

static inline int no_sync(int fd)
{
    (void)fd;
    return 0;
}

static inline int setup(void **state)
{
    (void)make_directory(state);
    inside(backup_path, directory, "backup");
    ops = bkv_io_kernel;
    ops.fdatasync = no_sync;
    ops.fsync = no_sync;
    bkv_io = &ops;
    db = NULL;
    version = 0;
    options = one_partition(BITKV_IO_MMAP);
    options.auto_compact = false;
    options.sync_interval_ms = 3600000;
    return 0;
}

static inline int teardown(void **state)
{
    schedule_report();
    schedule_release(); /* a test that failed may hold the worker still */
    (void)bitkv_close(db);
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

static inline void reopen(void)
{
    ok(bitkv_close(db));
    options.strict_recovery = true;
    db = open_with(&options);
}

/* --- keys are numbers, values tell of the key and a number ---------------------------- */

struct number {
    uint32_t key, number;
    unsigned char rest[120];
};

static inline struct number number_of(uint32_t key, uint32_t number)
{
    struct number n = {.key = key, .number = number};
    fill(n.rest, sizeof n.rest, (uint64_t)key << 32 | number);
    return n;
}

static inline int put_number(uint32_t key, uint32_t number, bitkv_durability durability)
{
    struct number value = number_of(key, number);
    return bitkv_put_with(db, &key, sizeof key, &value, sizeof value, durability);
}

/* The number of a value; 0: it is none of this key. */
static inline uint32_t number_in(uint32_t key, const void *bytes, size_t size)
{
    struct number got;
    if (size != sizeof got)
        return 0;
    memcpy(&got, bytes, size);
    struct number wanted = number_of(key, got.number);
    return memcmp(&wanted, &got, sizeof got) == 0 ? got.number : 0;
}

static inline int get_number(bitkv *from, uint32_t key, uint32_t *number)
{
    struct number bytes;
    size_t size = 0;
    int rc = bitkv_get_into(from, &key, sizeof key, &bytes, sizeof bytes, &size);
    *number = rc == BITKV_OK ? number_in(key, &bytes, size) : 0;
    return rc;
}

static inline void expect_number(uint32_t key, uint32_t wanted)
{
    uint32_t number;
    ok(get_number(db, key, &number));
    assert_int_equal(number, wanted);
}

static inline void expect_gone(uint32_t key)
{
    uint32_t number;
    fails(BITKV_NOT_FOUND, get_number(db, key, &number));
}

#define SCHEDULE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
