/* SPDX-License-Identifier: MIT */
/*
 * Segments without a header, beside what compaction has made of them or of others: the
 * hint tells what such a file stands for. (test_files.c has those that stand alone.)
 */
#include "api/compaction.h"

#include "damage/lab.h"

#define M (&lab_manifest_1)

static void spoil_header(const char *name)
{
    unsigned char garbage[BKV_SEGMENT_HEADER];
    memset(garbage, 0xa5, sizeof garbage);
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, garbage, sizeof garbage, 0), (ssize_t)sizeof garbage);
    (void)close(fd);
}

/* Those of the copy that are not there any more come back, without their headers. */
static unsigned bring_back(const char *copy)
{
    unsigned count = 0;
    for (unsigned id = 1; id < 100; id++) {
        char file[32], hint[32], now[PATH_SIZE], from[PATH_SIZE], command[2 * PATH_SIZE + 16];
        char folder[PATH_SIZE];
        (void)snprintf(file, sizeof file, "data_%u.db", id);
        (void)snprintf(hint, sizeof hint, "hint_%u.ht", id);
        inside(folder, copy, "partition_0");
        if (access(inside(from, folder, hint), F_OK) != 0 ||
            access(in_partition(now, file), F_OK) == 0)
            continue;
        (void)snprintf(command, sizeof command, "cp %s %s", from, in_partition(now, hint));
        assert_int_equal(system(command), 0);
        (void)snprintf(command, sizeof command, "cp %s %s", inside(from, folder, file),
                       in_partition(now, file));
        assert_int_equal(system(command), 0);
        spoil_header(now);
        count++;
    }
    return count;
}

/* A crash had left them, and then they rotted: nothing of them counts. */
static void what_was_compacted_does_not_come_back(void **state)
{
    (void)state;
    char copy[PATH_SIZE];
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 200, 1, 1000);
    for (uint32_t key = 0; key < 200; key++)
        put_version(db, key, 2, 1000);
    ok(bitkv_close(db)); /* the hints are there */
    copy_tree(path, inside(copy, directory, "copy"));
    db = open_by_hand(BITKV_IO_AUTO);
    delete_all(db, 0, 20);
    compact(db);
    ok(bitkv_close(db));
    remove_files("keydir");
    assert_true(bring_back(copy) > 0);
    db = open_by_hand(BITKV_IO_AUTO);
    expect_absent(db, 0, 20);
    for (uint32_t key = 20; key < 200; key++)
        expect_version(db, key, 2, 1000);
    ok(bitkv_close(db));
}

/* It lies before what compaction has made of others. */
static void a_header_before_what_was_compacted_may_be_lost(void **state)
{
    (void)state;
    char name[PATH_SIZE];
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t key = 1000; key < 1100; key++)
        put_version(db, key, 1, 1000);
    for (uint32_t version = 1; version <= 3; version++)
        put_all(db, 200, version, 1000);
    compact(db);
    ok(bitkv_close(db));
    remove_files("keydir");
    spoil_header(in_partition(name, "data_1.db"));
    db = open_by_hand(BITKV_IO_AUTO);
    assert_true(statistics_of(db).recovery.damaged_regions > 0);
    for (uint32_t key = 1000; key < 1100; key++)
        expect_version(db, key, 1, 1000);
    expect_all(db, 200, 3, 1000);
    ok(bitkv_close(db));
}

/* Its hint has no entries, and so no first number. */
static void a_header_of_a_file_with_nothing_but_a_mark_may_be_lost(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    lab_log_end(&log, &image);
    lab_add_hint(&image, M, 0, 1);
    lab_log_begin(&log, M, 0, 2, 2);
    (void)lab_log_mark(&log, 2, 1, 64);
    lab_log_end(&log, &image);
    lab_add_hint(&image, M, 0, 2);
    lab_log_begin(&log, M, 0, 3, 3);
    (void)lab_log_put(&log, 3, "b", "2");
    lab_log_end(&log, &image);
    lab_add_hint(&image, M, 0, 3);
    lab_image_write(&image, path);
    lab_image_free(&image);
    char name[PATH_SIZE];
    spoil_header(in_partition(name, "data_2.db"));
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    expect_text(db, "a", "1");
    expect_text(db, "b", "2");
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_compacted_does_not_come_back),
        TEST(a_header_before_what_was_compacted_may_be_lost),
        TEST(a_header_of_a_file_with_nothing_but_a_mark_may_be_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
