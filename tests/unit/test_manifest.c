/* SPDX-License-Identifier: MIT */
/* The MANIFEST: round trip; every bit and every length is checked. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

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

/* The C library's, so that it can fail. */
static unsigned entropy_from; /* which call fails, counted down; 0: none */
int getentropy(void *out, size_t size)
{
    if (entropy_from > 0 && --entropy_from == 0) {
        errno = ENOSYS;
        return -1;
    }
    return getrandom(out, size, 0) == (ssize_t)size ? 0 : -1;
}

static void without_randomness_there_is_no_database(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 2; n++) {
        struct bkv_manifest manifest;
        entropy_from = n;
        assert_int_not_equal(bkv_manifest_init(&manifest, 1), BITKV_OK);
        assert_non_null(strstr(bitkv_error_context(), "random"));
    }
}

/* What there is beside a MANIFEST that is missing. */
static int missing_beside(const char *name, const char *entry)
{
    struct lab_image only = {.count = 0};
    char full[80];
    (void)snprintf(full, sizeof full, "%s%s%s", name, entry[0] != '\0' ? "/" : "", entry);
    (void)lab_image_add(&only, full, "x", 1);
    lab_image_write(&only, path);
    lab_image_free(&only);
    struct bkv_dir *dir = lab_dir_open(path);
    int rc = bkv_manifest_missing(dir);
    lab_dir_close(dir);
    return rc;
}

static void data_without_a_manifest_is_told_from_a_directory_that_is_empty(void **state)
{
    (void)state;
    assert_int_equal(missing_beside("partition_0", "data_1.db"), BITKV_ERR_CORRUPT);
    assert_int_equal(missing_beside("partition_99", "data_7.db"), BITKV_ERR_CORRUPT);
    /* More than a partition's number can be, but a digit may have been added. */
    assert_int_equal(missing_beside("partition_123456", "data_7.db"), BITKV_ERR_CORRUPT);
    assert_int_equal(missing_beside("partition_0", "hint_1.ht"), BITKV_OK);
    assert_int_equal(missing_beside("partition_", "data_1.db"), BITKV_OK);
    assert_int_equal(missing_beside("partition_1x", "data_1.db"), BITKV_OK);
    assert_int_equal(missing_beside("data_1.db", ""), BITKV_OK);
    char name[80];
    (void)snprintf(name, sizeof name, "partition_%060d", 1); /* longer than any name of ours */
    assert_int_equal(missing_beside(name, "data_1.db"), BITKV_OK);
    /* What is not even a directory can't be listed, so it may have data. */
    int rc = missing_beside("partition_0", "");
    assert_true(rc != BITKV_OK && rc != BITKV_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_length_will_do),
        cmocka_unit_test(newer_versions_and_absurd_counts_are_refused_by_name),
        cmocka_unit_test(two_databases_have_nothing_in_common),
        cmocka_unit_test(without_randomness_there_is_no_database),
        cmocka_unit_test(data_without_a_manifest_is_told_from_a_directory_that_is_empty),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
