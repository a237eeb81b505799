/* SPDX-License-Identifier: MIT */
/*
 * What an opening puts right is put right for good: a power cut after it, which
 * leaves only what was synced, brings nothing back that the opening has told to
 * be gone, and takes nothing that it has shown.
 */
#include "fault/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BIG_FILES   (1u << 20)
#define SMALL_FILES (64u << 10)

static bitkv *open_at(const char *where, bitkv_io_mode mode, uint64_t max_file_size)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 1;
    options.max_file_size = max_file_size;
    options.io_mode = mode;
    options.auto_compact = false;
    options.durability = BITKV_DURABILITY_NONE;
    bitkv *db;
    int rc = bitkv_open(&db, where, &options);
    if (rc != BITKV_OK)
        fail_msg("open %s: %s: %s", where, bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void put(bitkv *db, const char *key, char byte, size_t size)
{
    static char value[8192];
    memset(value, byte, size);
    assert_int_equal(bitkv_put(db, key, strlen(key), value, size), BITKV_OK);
}

static void expect_absent(bitkv *db, const char *key)
{
    assert_int_equal(bitkv_exists(db, key, strlen(key)), BITKV_NOT_FOUND);
}

static void expect_there(bitkv *db, const char *key)
{
    assert_int_equal(bitkv_exists(db, key, strlen(key)), BITKV_OK);
}

/* --- a tail that is cut ---------------------------------------------------------------- */

static void zero_values_of(struct lab_image *image, char byte)
{
    bool found = false;
    for (size_t f = 0; f < image->count; f++) {
        struct lab_file *file = &image->files[f];
        for (size_t i = 0; i + 64 <= file->size; i++) {
            size_t run = 0;
            while (i + run < file->size && file->data[i + run] == (uint8_t)byte)
                run++;
            if (run >= 64) {
                memset(file->data + i, 0, run);
                found = true;
            }
            i += run;
        }
    }
    assert_true(found);
}

/* A database that was closed, and then had "first" and "second" put, of which only the
 * second reached the disk before a power cut. */
static void power_took_the_first_of_two(bitkv_io_mode mode)
{
    struct lab_image image;
    disk_fresh();
    bitkv *db = open_at(disk_path, mode, BIG_FILES);
    for (unsigned i = 0; i < 20; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "old %u", i);
        put(db, key, 'o', 4000);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    db = open_at(disk_path, mode, BIG_FILES);
    put(db, "first", '1', 5000);
    put(db, "second", '2', 5000);
    lab_image_read(&image, disk_path, SIZE_MAX / 2);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    zero_values_of(&image, '1');
    lab_remove(disk_restored);
    lab_image_write(&image, disk_restored);
    lab_image_free(&image);
    disk_power_returns();
}

/* The files are full by then, so that the cut one is not written to, and synced, again:
 * if it had its old length again, the next mark would say of its hole that it is rot,
 * and of what follows that it counts. */
static void what_an_opening_cut_stays_cut(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        power_took_the_first_of_two((bitkv_io_mode)mode);
        bitkv *db = open_at(disk_path, (bitkv_io_mode)mode, SMALL_FILES);
        bitkv_recovery recovery = lab_recovery(db);
        assert_int_equal(recovery.torn_tails, 1);
        expect_absent(db, "first");
        expect_absent(db, "second");
        put(db, "third", '3', 100);
        assert_int_equal(bitkv_sync(db), BITKV_OK);
        disk_cut();
        assert_int_equal(bitkv_close(db), BITKV_OK);

        disk_power_returns();
        db = open_at(disk_path, (bitkv_io_mode)mode, SMALL_FILES);
        recovery = lab_recovery(db);
        assert_int_equal(recovery.damaged_regions, 0);
        expect_absent(db, "second");
        expect_there(db, "third");
        expect_there(db, "old 19");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* --- a compaction that died before its directory was synced ----------------------------- */

static char output[LAB_PATH]; /* the name that was made last; "": none yet */
static unsigned removed, removed_early;
static bool output_durable;

static int on_first_rename(int fd, const char *from, const char *to)
{
    int rc = bkv_io_kernel.renameat(fd, from, to);
    if (rc == 0 && output[0] == '\0' && strstr(to, "data_") != NULL) {
        (void)snprintf(output, sizeof output, "%s", to);
        lab_remove(disk_restored);
        lab_copy(disk_path, disk_restored);
    }
    return rc;
}

static int (*sync_of_disk)(int fd);
static int (*unlink_of_disk)(int fd, const char *name);

static int on_sync(int fd)
{
    char partition[LAB_PATH];
    struct stat synced, wanted;
    lab_join(partition, disk_path, "partition_0");
    assert_int_equal(stat(partition, &wanted), 0);
    assert_int_equal(fstat(fd, &synced), 0);
    output_durable = output_durable || synced.st_ino == wanted.st_ino;
    return sync_of_disk(fd);
}

static int on_removal(int fd, const char *name)
{
    /* Not what the process had in the making, which goes as well. */
    if (strcmp(name, "partition_0/data_1.db") == 0 || strcmp(name, "partition_0/data_2.db") == 0) {
        removed++;
        removed_early += !output_durable;
    }
    return unlink_of_disk(fd, name);
}

static const char *in(char path[LAB_PATH], const char *root)
{
    (void)snprintf(path, LAB_PATH, "%.400s/%.100s", root, output);
    return path;
}

/* The output is there beside its inputs; the directory does not know it yet. */
static void a_compaction_died_at_its_rename(bitkv_io_mode mode)
{
    char from[LAB_PATH], to[LAB_PATH], aside[LAB_PATH];
    disk_fresh();
    output[0] = '\0';
    struct bkv_io_ops before = disk_ops;
    disk_ops.renameat = on_first_rename;
    bitkv *db = open_at(disk_path, mode, SMALL_FILES);
    for (unsigned i = 0; i < 100; i++) {
        put(db, "overwritten", (char)('a' + i % 26), 3000);
        put(db, i % 2 == 0 ? "even" : "odd", (char)('a' + i % 26), 500);
    }
    assert_int_equal(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    disk_ops = before;
    assert_string_not_equal(output, "");

    lab_path(aside, "aside");
    assert_int_equal(rename(in(from, disk_restored), aside), 0);
    disk_power_returns();
    assert_int_equal(rename(aside, in(to, disk_path)), 0);
    int fd = open(to, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    disk_keep_file(fd); /* its contents were synced before */
    (void)close(fd);
}

static void inputs_go_when_the_name_of_their_output_is_durable(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        a_compaction_died_at_its_rename((bitkv_io_mode)mode);
        struct bkv_io_ops before = disk_ops;
        sync_of_disk = disk_ops.fsync;
        unlink_of_disk = disk_ops.unlinkat;
        disk_ops.fsync = on_sync;
        disk_ops.unlinkat = on_removal;
        removed = removed_early = 0;
        output_durable = false;
        bitkv *db = open_at(disk_path, (bitkv_io_mode)mode, SMALL_FILES);
        disk_ops = before;
        assert_int_equal(removed, 2);
        assert_int_equal(removed_early, 0);
        expect_there(db, "overwritten");
        expect_there(db, "even");
        expect_there(db, "odd");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* --- a sync that failed ------------------------------------------------------------------ */

static bool holds(bitkv *db, const char *key)
{
    int rc = bitkv_exists(db, key, strlen(key));
    assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
    return rc == BITKV_OK;
}

static const char *const doubtful[] = {"before", "lost 1", "lost 2"};

static bool is_marked(void)
{
    char name[LAB_PATH];
    lab_join(name, disk_path, "partition_0/sync_failed");
    return lab_exists(name);
}

/* The kernel takes for clean what the disk does not have. */
static void a_sync_failed(bitkv_io_mode mode)
{
    disk_fresh();
    bitkv *db = open_at(disk_path, mode, SMALL_FILES);
    put(db, "before", 'b', 5000);
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    put(db, "lost 1", '1', 5000);
    put(db, "lost 2", '2', 100);
    assert_false(is_marked());
    disk_fail_syncs(1);
    assert_int_equal(bitkv_sync(db), BITKV_ERR_SYNC_FAILED);
    assert_true(is_marked());
    assert_int_equal(bitkv_close(db), BITKV_ERR_SYNC_FAILED);
}

/* What a new opening shows of it, and what is acknowledged behind it, is on the disk. */
static void expect_shown_is_durable(bitkv_io_mode mode)
{
    bool seen[3];
    bitkv *db = open_at(disk_path, mode, SMALL_FILES);
    assert_false(is_marked());
    for (unsigned i = 0; i < 3; i++)
        seen[i] = holds(db, doubtful[i]);
    assert_true(seen[0]);
    put(db, "after", 'a', 5000);
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    disk_cut();
    assert_int_equal(bitkv_close(db), BITKV_OK);

    disk_power_returns();
    db = open_at(disk_path, mode, SMALL_FILES);
    bitkv_recovery recovery = lab_recovery(db);
    assert_int_equal(recovery.damaged_regions, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(holds(db, doubtful[i]), seen[i]);
    expect_there(db, "after");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void what_is_seen_after_a_failed_sync_is_on_the_disk(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        a_sync_failed((bitkv_io_mode)mode);
        expect_shown_is_durable((bitkv_io_mode)mode);
    }
}

static int (*open_of_disk)(int dirfd, const char *name, int flags, mode_t mode);

static int no_space_for_copies(int dirfd, const char *name, int flags, mode_t mode)
{
    if (strstr(name, ".db.tmp") == NULL)
        return open_of_disk(dirfd, name, flags, mode);
    errno = ENOSPC;
    return -1;
}

/* Without room to write it anew, nothing may rest on it: until there is. */
static void without_room_what_is_doubtful_is_only_read(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        a_sync_failed((bitkv_io_mode)mode);
        struct bkv_io_ops before = disk_ops;
        open_of_disk = disk_ops.openat;
        disk_ops.openat = no_space_for_copies;
        bitkv *db = open_at(disk_path, (bitkv_io_mode)mode, SMALL_FILES);
        disk_ops = before;
        expect_there(db, "before");
        assert_int_equal(bitkv_put(db, "x", 1, "y", 1), BITKV_ERR_SYNC_FAILED);
        assert_int_equal(bitkv_sync(db), BITKV_ERR_SYNC_FAILED);
        assert_true(is_marked());
        (void)bitkv_close(db);
        expect_shown_is_durable((bitkv_io_mode)mode);
    }
}

static int refuse_rename(int fd, const char *from, const char *to)
{
    (void)fd, (void)from, (void)to;
    errno = EIO;
    return -1;
}

static int refuse_removal(int fd, const char *name)
{
    if (strstr(name, "sync_failed") == NULL)
        return bkv_io_kernel.unlinkat(fd, name);
    errno = EIO;
    return -1;
}

static void expect_no_opening(bitkv_io_mode mode)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.io_mode = mode;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, disk_path, &options), BITKV_ERR_IO);
}

/* An opening that fails meanwhile leaves it to the next one. */
static void the_next_opening_writes_anew_what_one_could_not(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        a_sync_failed((bitkv_io_mode)mode);
        struct bkv_io_ops before = disk_ops;
        disk_ops.renameat = refuse_rename;
        expect_no_opening((bitkv_io_mode)mode);
        disk_ops = before;
        disk_fail_syncs(1);
        expect_no_opening((bitkv_io_mode)mode);
        disk_ops.unlinkat = refuse_removal;
        expect_no_opening((bitkv_io_mode)mode);
        disk_ops = before;
        assert_true(is_marked());
        expect_shown_is_durable((bitkv_io_mode)mode);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_an_opening_cut_stays_cut),
        cmocka_unit_test(what_is_seen_after_a_failed_sync_is_on_the_disk),
        cmocka_unit_test(without_room_what_is_doubtful_is_only_read),
        cmocka_unit_test(the_next_opening_writes_anew_what_one_could_not),
        cmocka_unit_test(inputs_go_when_the_name_of_their_output_is_durable),
    };
    return cmocka_run_group_tests(tests, disk_setup, disk_teardown);
}
