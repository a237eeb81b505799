/* SPDX-License-Identifier: MIT */
/* Markers: round trip; one that is not whole, or of the other kind, is none. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"
#include "log/marker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_image image;
static struct lab_file *file;

static int setup(void **state)
{
    (void)state;
    lab_path(path, "marker");
    (void)lab_image_add(&image, "x", "", 0);
    lab_image_write(&image, path);
    lab_image_free(&image);
    struct bkv_dir *dir = lab_dir_open(path);
    int rc = bkv_marker_write(dir, BKV_MARKER_BACKUP, lab_manifest_1.database_id, NULL);
    lab_dir_close(dir);
    lab_image_read(&image, path, 0);
    file = lab_image_find(&image, bkv_marker_name(BKV_MARKER_BACKUP));
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

static bool found(enum bkv_marker kind)
{
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    bool there = true;
    uint8_t id[16] = {0};
    assert_int_equal(bkv_marker_read(dir, kind, &there, id, NULL), BITKV_OK);
    if (there)
        assert_memory_equal(id, lab_manifest_1.database_id, 16);
    lab_dir_close(dir);
    return there;
}

static void what_was_written_is_found_until_it_is_removed(void **state)
{
    (void)state;
    assert_true(found(BKV_MARKER_BACKUP));
    assert_false(found(BKV_MARKER_REPARTITION));
    struct bkv_dir *dir = lab_dir_open(path);
    bool there = true;
    uint8_t id[16];
    assert_int_equal(bkv_marker_remove(dir, BKV_MARKER_BACKUP), BITKV_OK);
    assert_int_equal(bkv_marker_read(dir, BKV_MARKER_BACKUP, &there, id, NULL), BITKV_OK);
    assert_false(there);
    lab_dir_close(dir);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    for (size_t i = 0; i < file->size; i++) {
        file->data[i] ^= (uint8_t)(1u << i % 8);
        assert_false(found(BKV_MARKER_BACKUP));
        file->data[i] ^= (uint8_t)(1u << i % 8);
    }
    assert_true(found(BKV_MARKER_BACKUP));
}

static void no_other_length_will_do(void **state)
{
    (void)state;
    size_t whole = file->size;
    for (size_t size = 0; size < whole + 3; size++) {
        uint8_t bytes[256] = {0};
        memcpy(bytes, file->data, whole);
        lab_file_resize(file, size);
        assert_int_equal(found(BKV_MARKER_BACKUP), size == whole);
        lab_file_resize(file, whole);
        memcpy(file->data, bytes, whole);
    }
}

static void a_marker_is_of_its_kind(void **state)
{
    (void)state;
    bkv_put32(file->data + 12, BKV_MARKER_REPARTITION);
    bkv_put32(file->data + 60, bkv_crc32c(0, file->data, 60));
    assert_false(found(BKV_MARKER_BACKUP));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_found_until_it_is_removed),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_length_will_do),
        cmocka_unit_test(a_marker_is_of_its_kind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
