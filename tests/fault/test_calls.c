/* SPDX-License-Identifier: MIT */
/*
 * What a failed call leads to, where it is more than an error of the operation: failed
 * syncs, full disks, half-written records, directories that cannot be listed.
 * (test_loops.c makes every call fail.)
 */
#include "damage/lab.h"
#include "fault/faults.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_path(path, "faults");
    fault_install();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_uninstall();
    lab_remove(path);
    return 0;
}

static bitkv *open_small(bitkv_io_mode mode)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 1;
    options.max_file_size = 64u << 10;
    options.io_mode = mode;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, path, &options), BITKV_OK);
    return db;
}

static void after_a_failed_sync_writes_are_refused_until_reopened_and_reads_go_on(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_fdatasync, FAULT_fsync};
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        for (size_t i = 0; i < 2; i++) {
            lab_remove(path);
            bitkv *db = open_small((bitkv_io_mode)mode);
            assert_int_equal(bitkv_put_with(db, "a", 1, "1", 1, BITKV_DURABILITY_NONE), BITKV_OK);
            fault_arm(kinds[i], 0, 1, EIO);
            assert_int_equal(bitkv_sync(db), BITKV_ERR_SYNC_FAILED);
            assert_int_equal(fault_fired(), 1);
            assert_non_null(strstr(bitkv_error_context(), "reopen"));
            fault_disarm();
            assert_int_equal(bitkv_put(db, "b", 1, "2", 1), BITKV_ERR_SYNC_FAILED);
            assert_int_equal(bitkv_del(db, "a", 1), BITKV_ERR_SYNC_FAILED);
            assert_int_equal(bitkv_sync(db), BITKV_ERR_SYNC_FAILED);
            lab_expect(db, "a", "1");
            lab_expect(db, "b", NULL);
            bitkv_statistics s;
            bitkv_statistics_init(&s);
            assert_int_equal(bitkv_stats(db, 0, &s), BITKV_OK);
            assert_int_equal(s.writes_refused, 1);
            assert_int_equal(bitkv_close(db), BITKV_ERR_SYNC_FAILED);
            db = open_small((bitkv_io_mode)mode);
            lab_expect(db, "a", "1");
            lab_put(db, "b", "2");
            assert_int_equal(bitkv_sync(db), BITKV_OK);
            assert_int_equal(bitkv_close(db), BITKV_OK);
        }
    }
}

static void a_full_disk_is_an_error_of_the_put_and_writing_resumes(void **state)
{
    (void)state;
    static char value[30000];
    memset(value, 'v', sizeof value);
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        lab_remove(path);
        bitkv_options options;
        bitkv_options_init(&options);
        options.partitions = 1;
        options.max_file_size = 64u << 10;
        options.io_mode = (bitkv_io_mode)mode;
        bitkv *db;
        assert_int_equal(bitkv_open(&db, path, &options), BITKV_OK);
        lab_put(db, "a", "1");
        fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC);
        unsigned stored = 0;
        int rc = BITKV_OK;
        char key[16];
        while (rc == BITKV_OK && stored < 100) {
            int n = snprintf(key, sizeof key, "key%u", stored);
            rc = bitkv_put(db, key, (size_t)n, value, sizeof value);
            stored += rc == BITKV_OK;
        }
        assert_int_equal(rc, BITKV_ERR_NO_SPACE);
        assert_string_not_equal(bitkv_error_context(), "");
        for (int i = 0; i < 3; i++)
            assert_int_equal(bitkv_put(db, key, strlen(key), value, sizeof value),
                             BITKV_ERR_NO_SPACE);
        assert_int_equal(bitkv_exists(db, key, strlen(key)), BITKV_NOT_FOUND);
        lab_expect(db, "a", "1");
        assert_int_equal(bitkv_del(db, "a", 1), BITKV_OK); /* there is room for that */
        lab_expect(db, "a", NULL);
        fault_disarm();
        assert_int_equal(bitkv_put(db, key, strlen(key), value, sizeof value), BITKV_OK);
        assert_int_equal(bitkv_exists(db, key, strlen(key)), BITKV_OK);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        assert_int_equal(bitkv_open(&db, path, &options), BITKV_OK);
        lab_expect(db, "a", NULL);
        for (unsigned i = 0; i <= stored; i++) {
            int n = snprintf(key, sizeof key, "key%u", i);
            assert_int_equal(bitkv_exists(db, key, (size_t)n), BITKV_OK);
        }
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* A write stops halfway. What it left must not pass for the log's end, should that
 * go on in another file; and a shortage of space must not outlast itself. */
static void half_a_record_ends_neither_the_log_nor_the_writing(void **state)
{
    (void)state;
    static const char large[50000];
    static const uint32_t failures[] = {1, UINT32_MAX}; /* erasing it works, or not */
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        for (size_t i = 0; i < 2; i++) {
            lab_remove(path);
            bitkv *db = open_small((bitkv_io_mode)mode);
            assert_int_equal(bitkv_put_with(db, "a", 1, large, 20000, BITKV_DURABILITY_NONE),
                             BITKV_OK);
            fault_short_transfers(16);
            fault_arm(FAULT_pwrite, 1, failures[i], ENOSPC);
            assert_int_equal(bitkv_put_with(db, "b", 1, large, 1000, BITKV_DURABILITY_SYNC),
                             BITKV_ERR_NO_SPACE);
            assert_true(fault_fired() > 0);
            fault_disarm();
            fault_short_transfers(0);
            lab_expect(db, "b", NULL);
            assert_int_equal(bitkv_put_with(db, "c", 1, large, sizeof large, BITKV_DURABILITY_NONE),
                             BITKV_OK);
            struct lab_image crashed;
            lab_image_read(&crashed, path, 64u << 10);
            assert_int_equal(bitkv_close(db), BITKV_OK);
            if (failures[i] == 1)
                lab_image_write(&crashed, path);
            lab_image_free(&crashed);
            db = open_small((bitkv_io_mode)mode);
            assert_int_equal(bitkv_exists(db, "a", 1), BITKV_OK);
            assert_int_equal(bitkv_exists(db, "b", 1), BITKV_NOT_FOUND);
            assert_int_equal(bitkv_exists(db, "c", 1), BITKV_OK);
            assert_int_equal(bitkv_close(db), BITKV_OK);
        }
    }
}

static void a_directory_that_can_t_be_listed_is_not_an_empty_one(void **state)
{
    (void)state;
    lab_remove(path);
    bitkv *db = open_small(BITKV_IO_AUTO);
    lab_put(db, "a", "1");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    for (uint32_t n = 0; n < 4; n++) {
        fault_arm(FAULT_readdir, n, 1, EIO);
        assert_int_equal(bitkv_open(&db, path, NULL), BITKV_ERR_IO);
        assert_null(db);
    }
    /* Nor is it one if the MANIFEST is gone. */
    char manifest[LAB_PATH];
    lab_join(manifest, path, "MANIFEST");
    assert_int_equal(remove(manifest), 0);
    for (int kind = FAULT_openat; kind <= FAULT_readdir; kind++) {
        for (uint32_t n = 0; n < 12; n++) {
            fault_arm((enum fault_kind)kind, n, 1, EIO);
            int rc = bitkv_open(&db, path, NULL);
            fault_disarm();
            if (rc == BITKV_OK)
                fail_msg("%s %u: data was taken for none", fault_name((enum fault_kind)kind), n);
            assert_false(lab_exists(manifest));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_a_failed_sync_writes_are_refused_until_reopened_and_reads_go_on),
        cmocka_unit_test(a_full_disk_is_an_error_of_the_put_and_writing_resumes),
        cmocka_unit_test(half_a_record_ends_neither_the_log_nor_the_writing),
        cmocka_unit_test(a_directory_that_can_t_be_listed_is_not_an_empty_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
