/* SPDX-License-Identifier: MIT */
/*
 * Every system call of a fixed workload fails once, and from then on, with
 * every errno that it may plausibly have. Nothing crashes, nothing lies,
 * descriptors are given back; and when the fault is gone the database opens
 * and has everything that was acknowledged.
 *
 * BITKV_FAULT_EVERY=1 takes every call; by default later ones are sampled.
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

struct run {
    enum fault_kind kind;
    uint32_t first, count;
    int error;
    bitkv_io_mode mode;
};

/* True if the fault came about. */
static bool run(struct run r)
{
    unsigned descriptors = lab_descriptors();
    lab_remove(path);
    struct fault_model model = {.failures = 0};
    if (lab_flag("BITKV_TEST_VERBOSE"))
        (void)fprintf(stderr, "%s %u+%u errno %d mode %d\n", fault_name(r.kind), r.first, r.count,
                      r.error, (int)r.mode);
    fault_arm(r.kind, r.first, r.count, r.error);
    fault_workload(&model, path, r.mode);
    uint32_t fired = fault_fired();
    fault_disarm();
    fault_check(&model, path, r.mode);
    if (lab_descriptors() != descriptors)
        fail_msg("%s %u: descriptors leaked", fault_name(r.kind), r.first);
    if (model.failures > 0 && fired == 0)
        fail_msg("calls failed without a fault");
    return fired > 0;
}

static void sweep(enum fault_kind kind, int error, uint32_t count, bitkv_io_mode mode)
{
    uint32_t step = 1;
    for (uint32_t n = 0;; n += step) {
        struct run r = {.kind = kind, .first = n, .count = count, .error = error, .mode = mode};
        if (!run(r))
            return;
        if (!lab_flag("BITKV_FAULT_EVERY") && n >= 8)
            step = 1 + n / 4 * lab_slowness();
    }
}

static const struct {
    enum fault_kind kind;
    int errors[4];
} table[] = {
    {FAULT_openat, {EMFILE, EIO, ENOSPC, EACCES}},
    {FAULT_pread, {EIO}},
    {FAULT_pwrite, {ENOSPC, EIO}},
    {FAULT_fallocate, {ENOSPC, EIO}},
    {FAULT_ftruncate, {EIO}},
    {FAULT_fdatasync, {EIO, ENOSPC}},
    {FAULT_fsync, {EIO}},
    {FAULT_fstat, {EIO}},
    {FAULT_flock, {ENOLCK}},
    {FAULT_renameat, {EIO, ENOSPC}},
    {FAULT_unlinkat, {EIO, EACCES}},
    {FAULT_mkdirat, {ENOSPC, EACCES}},
    {FAULT_mmap, {ENOMEM}},
    {FAULT_mprotect, {ENOMEM}},
    {FAULT_madvise, {EINVAL}},
    {FAULT_fdopendir, {ENOMEM}},
    {FAULT_readdir, {EIO}},
};

static void sweep_all(uint32_t count)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        for (size_t e = 0; e < 4 && table[i].errors[e] != 0; e++) {
            sweep(table[i].kind, table[i].errors[e], count, BITKV_IO_MMAP);
            sweep(table[i].kind, table[i].errors[e], count, BITKV_IO_PWRITE);
        }
    }
    sweep(FAULT_fstatfs, EIO, count, BITKV_IO_AUTO);
}

static void a_call_that_fails_once_costs_no_more_than_its_operation(void **state)
{
    (void)state;
    sweep_all(1);
}

static void calls_that_fail_from_then_on_lose_nothing(void **state)
{
    (void)state;
    sweep_all(UINT32_MAX);
}

static void interrupted_calls_are_made_again(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_openat,    FAULT_pread, FAULT_pwrite,
                                            FAULT_fallocate, FAULT_flock, FAULT_ftruncate};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
            lab_remove(path);
            struct fault_model model = {.failures = 0};
            for (uint32_t n = 0; n < 30; n += 3) {
                fault_arm(kinds[i], n, 2, EINTR);
                fault_workload(&model, path, (bitkv_io_mode)mode);
                if (model.failures > 0)
                    fail_msg("%s %u with EINTR: %s", fault_name(kinds[i]), n,
                             bitkv_error_context());
            }
            fault_disarm();
            fault_check(&model, path, (bitkv_io_mode)mode);
        }
    }
}

static void transfers_in_pieces_make_a_whole(void **state)
{
    (void)state;
    static const uint32_t pieces[] = {1u << 12, 777};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
            lab_remove(path);
            struct fault_model model = {.failures = 0};
            fault_short_transfers(pieces[i]);
            fault_workload(&model, path, (bitkv_io_mode)mode);
            assert_int_equal(model.failures, 0);
            fault_check(&model, path, (bitkv_io_mode)mode);
            fault_disarm();
        }
    }
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
        cmocka_unit_test(interrupted_calls_are_made_again),
        cmocka_unit_test(transfers_in_pieces_make_a_whole),
        cmocka_unit_test(after_a_failed_sync_writes_are_refused_until_reopened_and_reads_go_on),
        cmocka_unit_test(a_full_disk_is_an_error_of_the_put_and_writing_resumes),
        cmocka_unit_test(half_a_record_ends_neither_the_log_nor_the_writing),
        cmocka_unit_test(a_directory_that_can_t_be_listed_is_not_an_empty_one),
        cmocka_unit_test(a_call_that_fails_once_costs_no_more_than_its_operation),
        cmocka_unit_test(calls_that_fail_from_then_on_lose_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
