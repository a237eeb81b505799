/* SPDX-License-Identifier: MIT */
/* The MANIFEST: round trip; every bit and every length is checked. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_image image;
static struct lab_file *file;
static struct bkv_manifest read_;

static int setup(void **state)
{
    (void)state;
    lab_path(path, "manifest");
    lab_add_manifest(&image, &lab_manifest_2);
    file = &image.files[0];
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

static int read_back(void)
{
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    int rc = bkv_manifest_read(dir, &read_);
    lab_dir_close(dir);
    return rc;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    assert_int_equal(file->size, BKV_MANIFEST_SIZE);
    assert_int_equal(read_back(), BITKV_OK);
    assert_int_equal(read_.partitions, 2);
    assert_int_equal(read_.created_ms, lab_manifest_2.created_ms);
    assert_memory_equal(read_.database_id, lab_manifest_2.database_id, 16);
    assert_memory_equal(&read_.hash_key, &lab_manifest_2.hash_key, 16);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    for (size_t i = 0; i < file->size; i++) {
        file->data[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(read_back(), BITKV_ERR_CORRUPT);
        assert_non_null(strstr(bitkv_error_context(), "MANIFEST"));
        file->data[i] ^= (uint8_t)(1u << i % 8);
    }
}

static void no_other_length_will_do(void **state)
{
    (void)state;
    for (size_t size = 0; size < 2 * BKV_MANIFEST_SIZE; size++) {
        if (size == BKV_MANIFEST_SIZE)
            continue;
        struct lab_file whole = *file;
        file->data = malloc(512);
        memset(file->data, 0, 512);
        memcpy(file->data, whole.data, BKV_MANIFEST_SIZE);
        file->size = size;
        assert_int_equal(read_back(), BITKV_ERR_CORRUPT);
        free(file->data);
        *file = whole;
    }
}

static void seal(void)
{
    bkv_put32(file->data + 124, bkv_crc32c(0, file->data, 124));
}

static void newer_versions_and_absurd_counts_are_refused_by_name(void **state)
{
    (void)state;
    bkv_put32(file->data + 8, BKV_FORMAT_VERSION + 1);
    seal();
    assert_int_equal(read_back(), BITKV_ERR_FORMAT);
    bkv_put32(file->data + 8, BKV_FORMAT_VERSION);
    static const uint32_t counts[] = {0, BITKV_PARTITIONS_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        bkv_put32(file->data + 12, counts[i]);
        seal();
        assert_int_equal(read_back(), BITKV_ERR_CORRUPT);
    }
    bkv_put32(file->data + 12, 2);
    seal();
    assert_int_equal(read_back(), BITKV_OK);
}

static void two_databases_have_nothing_in_common(void **state)
{
    (void)state;
    struct bkv_manifest a;
    struct bkv_manifest b;
    assert_int_equal(bkv_manifest_init(&a, 3), BITKV_OK);
    assert_int_equal(bkv_manifest_init(&b, 3), BITKV_OK);
    assert_memory_not_equal(a.database_id, b.database_id, 16);
    assert_memory_not_equal(&a.hash_key, &b.hash_key, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_length_will_do),
        cmocka_unit_test(newer_versions_and_absurd_counts_are_refused_by_name),
        cmocka_unit_test(two_databases_have_nothing_in_common),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
