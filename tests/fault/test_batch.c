/* SPDX-License-Identifier: MIT */
/*
 * A batch that fails in the middle leaves nothing behind: not for readers, not
 * in the log. Memory, space and writes fail at every point; after each failure a
 * record is put, shorter than what the batch had written behind the tail, and the
 * process dies: what it leaves must open as if the batch had never been.
 */
#include "base/memory.h"
#include "damage/lab.h"
#include "fault/faults.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define PARTITIONS 3u
#define OLD        300u /* keys that are there before */
#define NEW        3000u

static uint64_t segment_size = 256u << 10;
static char path[LAB_PATH];
static char left[LAB_PATH]; /* what a dead process has left */

static struct {
    uint32_t first, count;
    _Atomic uint32_t asked, refused;
} plan;

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    uint32_t n = atomic_fetch_add(&plan.asked, 1);
    if (n < plan.first || n - plan.first >= plan.count)
        return true;
    atomic_fetch_add(&plan.refused, 1);
    return false;
}

static int setup(void **state)
{
    (void)state;
    lab_path(path, "batch");
    lab_path(left, "batch_left");
    fault_install();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bkv_alloc_set_hook(NULL, NULL);
    fault_disarm();
    fault_uninstall();
    lab_remove(path);
    lab_remove(left);
    return 0;
}

static bitkv *open_at(const char *where, bitkv_io_mode mode, bool strict)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = PARTITIONS;
    o.max_file_size = segment_size;
    o.io_mode = mode;
    o.strict_recovery = strict;
    o.durability = BITKV_DURABILITY_NONE;
    bitkv *db;
    int rc = bitkv_open(&db, where, &o);
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static bitkv *open_filled(bitkv_io_mode mode)
{
    lab_remove(path);
    bitkv *db = open_at(path, mode, false);
    for (uint32_t key = 0; key < OLD; key++)
        assert_int_equal(bitkv_put(db, &key, sizeof key, &key, sizeof key), BITKV_OK);
    return db;
}

/* Overwrites, deletes and new keys. */
static bitkv_batch *make_batch(uint32_t keys)
{
    bitkv_batch *batch;
    assert_int_equal(bitkv_batch_create(&batch), BITKV_OK);
    for (uint32_t key = 0; key < keys; key++) {
        uint32_t value[4] = {key + 1, 1, 2, 3};
        int rc = key % 5 == 0 ? bitkv_batch_del(batch, &key, sizeof key)
                              : bitkv_batch_put(batch, &key, sizeof key, value, sizeof value);
        assert_int_equal(rc, BITKV_OK);
    }
    return batch;
}

static void check_old(bitkv *db, uint32_t keys)
{
    for (uint32_t key = 0; key < keys; key++) {
        uint32_t value = UINT32_MAX;
        size_t size;
        int rc = bitkv_get_into(db, &key, sizeof key, &value, sizeof value, &size);
        assert_int_equal(rc, key < OLD ? BITKV_OK : BITKV_NOT_FOUND);
        if (key < OLD)
            assert_int_equal(value, key);
    }
}

static void check_new(bitkv *db, uint32_t keys)
{
    for (uint32_t key = 0; key < keys; key++) {
        uint32_t value[4];
        size_t size;
        int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
        assert_int_equal(rc, key % 5 == 0 ? BITKV_NOT_FOUND : BITKV_OK);
        if (rc == BITKV_OK)
            assert_int_equal(value[0], key + 1);
    }
}

/* The process dies now: what it leaves opens without a finding. */
static void check_left(bitkv_io_mode mode, uint32_t keys)
{
    static struct lab_image image;
    lab_image_read(&image, path, SIZE_MAX / 2);
    lab_remove(left);
    lab_image_write(&image, left);
    lab_image_free(&image);
    for (unsigned p = 0; p < PARTITIONS; p++) {
        char folder[LAB_PATH + 32];
        (void)snprintf(folder, sizeof folder, "%s/partition_%u", left, p);
        (void)mkdir(folder, 0700);
    }
    bitkv *db = open_at(left, mode, true);
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.torn_tails, 0);
    assert_int_equal(r.damaged_regions, 0);
    check_old(db, keys);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void check_failed(bitkv *db, bitkv_io_mode mode, uint32_t keys)
{
    check_old(db, keys);
    check_left(mode, keys);
    for (uint32_t i = 0; i < 12; i++) { /* one for each partition, most likely */
        uint32_t key = 1000000 + i;
        assert_int_equal(bitkv_put(db, &key, sizeof key, "", 0), BITKV_OK);
    }
    check_left(mode, keys);
    check_old(db, keys);
}

/* From the first-th allocation on there is none; returns how many of them failed a
 * batch of that many keys. */
static unsigned memory_fails(uint32_t first, uint32_t keys)
{
    unsigned failures = 0;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        for (uint32_t n = first;; n += keys > NEW ? 1 + 4 * (n - first) : 1) {
            bitkv *db = open_filled((bitkv_io_mode)mode);
            bitkv_batch *batch = make_batch(keys);
            plan.first = n;
            plan.count = UINT32_MAX;
            atomic_store(&plan.asked, 0);
            atomic_store(&plan.refused, 0);
            bkv_alloc_set_hook(on_allocation, NULL);
            int rc = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
            bkv_alloc_set_hook(NULL, NULL);
            if (rc != BITKV_OK) {
                failures++;
                assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
                assert_string_not_equal(bitkv_error_context(), "");
                check_failed(db, (bitkv_io_mode)mode, keys);
                assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_NONE), BITKV_OK);
            }
            check_new(db, keys);
            bitkv_batch_destroy(batch);
            assert_int_equal(bitkv_close(db), BITKV_OK);
            if (rc == BITKV_OK)
                break;
        }
    }
    return failures;
}

/* Of the call itself: six blocks, in either mode. */
#define BLOCKS 6u

static void memory_fails_at_every_point(void **state)
{
    (void)state;
    assert_true(memory_fails(0, NEW) >= 2 * BLOCKS); /* the workers ask, too */
}

/* So many keys that the KeyDirs need memory in the middle. */
static void memory_fails_in_the_keydir(void **state)
{
    (void)state;
    uint64_t before = segment_size;
    segment_size = 64u << 20;
    assert_true(memory_fails(BLOCKS, 100000) >= 2);
    segment_size = before;
}

/* `kind` fails once, at the n-th call of the batch. */
static unsigned calls_fail(bitkv_io_mode mode, enum fault_kind kind, int error, int code,
                           bitkv_durability durability)
{
    unsigned failures = 0;
    for (uint32_t n = 0;; n++) {
        bitkv *db = open_filled(mode);
        bitkv_batch *batch = make_batch(NEW);
        fault_arm(kind, n, 1, error);
        int rc = bitkv_write(db, batch, durability);
        bool fired = fault_fired() > 0;
        fault_disarm();
        if (rc != BITKV_OK) {
            failures++;
            assert_int_equal(rc, code);
            check_failed(db, mode, NEW);
            assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_NONE), BITKV_OK);
        }
        check_new(db, NEW);
        bitkv_batch_destroy(batch);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        if (!fired || n > 20)
            return failures;
    }
}

/* One for each partition, and the one that closes the batch. */
static void writes_fail_at_every_point(void **state)
{
    (void)state;
    assert_int_equal(
        calls_fail(BITKV_IO_PWRITE, FAULT_pwrite, EIO, BITKV_ERR_IO, BITKV_DURABILITY_NONE),
        PARTITIONS + 1);
    assert_int_equal(
        calls_fail(BITKV_IO_MMAP, FAULT_pwrite, ENOSPC, BITKV_ERR_NO_SPACE, BITKV_DURABILITY_NONE),
        PARTITIONS + 1);
}

static void no_space_for_the_last_partition_fails_all(void **state)
{
    (void)state;
    static char value[100000];
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        bitkv *db = open_filled((bitkv_io_mode)mode);
        bitkv_batch *batch = make_batch(OLD);
        for (uint32_t key = 0; key < 2; key++) /* another segment for somebody */
            assert_int_equal(bitkv_batch_put(batch, &key, sizeof key, value, sizeof value),
                             BITKV_OK);
        int rc = BITKV_OK;
        fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC);
        for (int i = 0; i < 8 && rc == BITKV_OK; i++)
            rc = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
        assert_int_equal(rc, BITKV_ERR_NO_SPACE);
        fault_disarm();
        assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_SYNC), BITKV_OK);
        bitkv_batch_destroy(batch);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        db = open_at(path, (bitkv_io_mode)mode, true);
        size_t size = 0;
        uint32_t key = 1;
        assert_int_equal(bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size),
                         BITKV_OK);
        assert_int_equal(size, sizeof value);
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* One partition's failed sync is that of all who share batches with it. */
static void a_sync_that_fails_fails_the_peers(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < PARTITIONS; n++) {
        bitkv *db = open_filled(BITKV_IO_AUTO);
        bitkv_batch *batch = make_batch(OLD);
        assert_int_equal(bitkv_sync(db), BITKV_OK);
        fault_arm(FAULT_fdatasync, n, 1, EIO);
        assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_SYNC), BITKV_ERR_SYNC_FAILED);
        fault_disarm();
        assert_int_equal(bitkv_sync(db), BITKV_ERR_SYNC_FAILED);
        assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_NONE), BITKV_ERR_SYNC_FAILED);
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s), BITKV_OK);
        assert_int_equal(s.writes_refused, PARTITIONS);
        bitkv_batch_destroy(batch);
        assert_int_equal(bitkv_close(db), BITKV_ERR_SYNC_FAILED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_fails_at_every_point),
        cmocka_unit_test(memory_fails_in_the_keydir),
        cmocka_unit_test(writes_fail_at_every_point),
        cmocka_unit_test(no_space_for_the_last_partition_fails_all),
        cmocka_unit_test(a_sync_that_fails_fails_the_peers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
