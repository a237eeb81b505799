/* SPDX-License-Identifier: MIT */
/* The file that says how far a log was durable: what it says is read back, and any byte
 * that is another makes it none. */
#include "damage/lab.h"
#include "fault/faults.h"
#include "log/durable.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NAME "partition_1/durable"

static char path[LAB_PATH];
static struct bkv_dir *dir;
static uint8_t id[16];
static const struct bkv_durable place = {.segment_id = 7, .offset = 4711};

static int setup(void **state)
{
    (void)state;
    char folder[LAB_PATH];
    lab_directory(path, "durable");
    lab_join(folder, path, "partition_1");
    assert_int_equal(mkdir(folder, 0700), 0);
    dir = lab_dir_open(path);
    memset(id, 0x5a, sizeof id);
    assert_int_equal(bkv_durable_write(dir, 1, id, &place), BITKV_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_dir_close(dir);
    lab_remove(path);
    return 0;
}

static bool is_found(uint32_t partition)
{
    bool found = true;
    struct bkv_durable got = {0};
    assert_int_equal(bkv_durable_read(dir, partition, id, &found, &got), BITKV_OK);
    if (found) {
        assert_int_equal(got.segment_id, place.segment_id);
        assert_int_equal(got.offset, place.offset);
    }
    return found;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    assert_true(is_found(1));
    assert_false(is_found(0)); /* there is none */
    memset(id, 1, sizeof id);
    assert_false(is_found(1));
}

static void one_that_was_changed_is_none(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0}, changed = {.count = 0};
    lab_image_read(&image, path, 0);
    struct lab_file *file = lab_image_find(&image, NAME);
    assert_int_equal(file->size, BKV_DURABLE_SIZE);
    for (size_t i = 0; i < BKV_DURABLE_SIZE; i++) {
        file->data[i] ^= 1;
        lab_image_write(&image, path);
        lab_dir_close(dir);
        dir = lab_dir_open(path);
        assert_false(is_found(1));
        file->data[i] ^= 1;
    }
    for (size_t size = 0; size <= BKV_DURABLE_SIZE + 1; size++) {
        lab_image_copy(&changed, &image);
        lab_file_resize(lab_image_find(&changed, NAME), size);
        lab_image_write(&changed, path);
        lab_dir_close(dir);
        dir = lab_dir_open(path);
        assert_int_equal(is_found(1), size == BKV_DURABLE_SIZE);
        lab_image_free(&changed);
    }
    lab_image_free(&image);
}

/* Of another partition, whole as it is. */
static void one_of_elsewhere_is_none(void **state)
{
    (void)state;
    char from[LAB_PATH], folder[LAB_PATH], to[LAB_PATH];
    lab_join(from, path, NAME);
    lab_join(folder, path, "partition_0");
    lab_join(to, path, "partition_0/durable");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(rename(from, to), 0);
    assert_false(is_found(0));
}

static void one_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    bool found;
    struct bkv_durable got;
    fault_install();
    fault_arm(FAULT_openat, 0, 1, EACCES);
    assert_true(bkv_durable_read(dir, 1, id, &found, &got) < 0);
    assert_false(found);
    fault_arm(FAULT_pread, 0, 1, EIO);
    assert_int_equal(bkv_durable_read(dir, 1, id, &found, &got), BITKV_ERR_IO);
    assert_false(found);
    fault_disarm();
    fault_uninstall();
    assert_true(is_found(1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_written_is_read),
        TEST(one_that_was_changed_is_none),
        TEST(one_of_elsewhere_is_none),
        TEST(one_that_cannot_be_read_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
