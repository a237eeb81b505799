/* SPDX-License-Identifier: MIT */
/*
 * Backups and repartitioning with the process dying in place of every system call:
 * the database is whole, the target what it was or the new backup, the directory one
 * of both, and the next run goes through and leaves nothing behind. (test_loops.c
 * makes every call fail.)
 */
#include "damage/lab.h"
#include "fault/faults.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 40, DIED = 66 };

static char folder[LAB_PATH], path[LAB_PATH], target[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_path(folder, "backup-faults");
    lab_join(path, folder, "db");
    lab_join(target, folder, "backup");
    fault_install(); /* no power is cut here: syncs are not made */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_uninstall();
    lab_remove(folder);
    return 0;
}

static bitkv *open_it(const char *where, bool read_only)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.max_file_size = 64u << 10;
    options.read_only = read_only;
    options.strict_recovery = true;
    bitkv *db = NULL;
    int rc = bitkv_open(&db, where, &options);
    if (rc != BITKV_OK)
        fail_msg("open %s: %s: %s", where, bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void put_version(bitkv *db, unsigned version)
{
    static char value[4000];
    for (unsigned key = 0; key < KEYS; key++) {
        memset(value, 'a' + (int)(version % 26), sizeof value);
        memcpy(value, &version, sizeof version);
        assert_int_equal(bitkv_put(db, &key, sizeof key, value, sizeof value), BITKV_OK);
    }
}

/* All keys have one version, which is returned. */
static unsigned version_of(const char *where)
{
    bitkv *db = open_it(where, true);
    unsigned version = 0;
    for (unsigned key = 0; key < KEYS; key++) {
        char value[4000];
        size_t size;
        unsigned found;
        int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
        if (rc != BITKV_OK)
            fail_msg("%s, key %u: %s: %s", where, key, bitkv_error_name(rc), bitkv_error_context());
        memcpy(&found, value, sizeof found);
        if (key > 0)
            assert_int_equal(found, version);
        version = found;
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    return version;
}

/* A database of version 2, a backup of version 1. */
static void prepare(bool earlier)
{
    lab_remove(folder);
    (void)mkdir(folder, 0700);
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 2;
    options.max_file_size = 64u << 10;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, path, &options), BITKV_OK);
    put_version(db, 1);
    if (earlier)
        assert_int_equal(bitkv_backup(db, target, NULL), BITKV_OK);
    put_version(db, 2);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static unsigned partitions_of(const char *where)
{
    bitkv *db = open_it(where, true);
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    return s.partitions;
}

static bool there(const char *name)
{
    char full[LAB_PATH];
    lab_join(full, folder, name);
    return lab_exists(full);
}

/* --- backups --------------------------------------------------------------------- */

static void expect_backup(bool earlier, bool done)
{
    assert_int_equal(version_of(path), 2);
    if (done || there("backup")) {
        unsigned version = version_of(target);
        if (done ? version != 2 : version != 2 && !(earlier && version == 1))
            fail_msg("the backup is of version %u", version);
    } else {
        assert_false(earlier);
    }
    bitkv *db = open_it(path, true);
    int rc = bitkv_backup(db, target, NULL);
    if (rc != BITKV_OK)
        fail_msg("the next backup: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    assert_int_equal(bitkv_close(db), BITKV_OK);
    assert_int_equal(version_of(target), 2);
    assert_false(there("backup.partial"));
}

static int back_up_under_faults(bool links)
{
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.no_links = !links;
    return bitkv_backup(open_it(path, true), target, &options);
}

/* In a child, which is not to be missed. Returns false when it came through. */
static bool dies_at(uint32_t n, int (*work)(bool), bool argument)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fault_arm_death(n, DIED);
        int rc = work(argument);
        if (rc != BITKV_OK)
            (void)fprintf(stderr, "%s: %s\n", bitkv_error_name(rc), bitkv_error_context());
        _exit(rc == BITKV_OK ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DIED);
    return WEXITSTATUS(status) == DIED;
}

static uint32_t step_after(uint32_t n)
{
    return lab_flag("BITKV_FAULT_EVERY") ? 1 : n < 12 ? 1 : 5 * lab_slowness();
}

static void a_backup_that_dies_anywhere_leaves_the_earlier_or_the_new_one(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        bool earlier = (variant & 1) != 0;
        bool links = (variant & 2) != 0;
        bool died = true;
        for (uint32_t n = 0; died; n += step_after(n)) {
            prepare(earlier);
            died = dies_at(n, back_up_under_faults, links);
            expect_backup(earlier, !died);
        }
    }
}

static int repartition_under_faults(bool unused)
{
    (void)unused;
    return bitkv_repartition(path, 3, NULL);
}

static void expect_repartitioned(bool done)
{
    unsigned partitions = partitions_of(path);
    assert_true(partitions == 3 || (partitions == 2 && !done));
    assert_int_equal(version_of(path), 2);
    int rc = bitkv_repartition(path, 3, NULL);
    if (rc != BITKV_OK)
        fail_msg("the next run: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    assert_int_equal(partitions_of(path), 3);
    assert_int_equal(version_of(path), 2);
    assert_false(there("db.repartition"));
    assert_false(there("db/REPARTITION"));
}

static void a_repartitioning_that_dies_anywhere_leaves_one_of_both(void **state)
{
    (void)state;
    bool died = true;
    for (uint32_t n = 0; died; n += step_after(n)) {
        prepare(false);
        died = dies_at(n, repartition_under_faults, false);
        expect_repartitioned(!died);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backup_that_dies_anywhere_leaves_the_earlier_or_the_new_one),
        cmocka_unit_test(a_repartitioning_that_dies_anywhere_leaves_one_of_both),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
