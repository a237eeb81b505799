/* SPDX-License-Identifier: MIT */
/* The scanner: every record, damage between them, zeros at the end; large
 * records over its window; hostile files at a bounded price. */
#include "base/limits.h"
#include "damage/lab.h"
#include "log/scan.h"

#include <fcntl.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_log log_;
static struct bkv_dir *dir;
static struct bkv_file file;
static struct bkv_scanner scanner;
static struct bkv_scan_item item;

static int setup(void **state)
{
    (void)state;
    lab_path(path, "scanner");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(path);
    return 0;
}

static void begin(void)
{
    struct lab_image image = {.count = 0};
    lab_log_end(&log_, &image);
    lab_image_write(&image, path);
    size_t size = image.files[0].size;
    lab_image_free(&image);
    dir = lab_dir_open(path);
    assert_int_equal(bkv_file_open(&file, dir, "partition_0/data_1.db", O_RDONLY), BITKV_OK);
    uint64_t seed = bkv_segment_seed(lab_manifest_1.database_id, 0, 1);
    assert_int_equal(bkv_scanner_begin(&scanner, &file, seed, BKV_SEGMENT_HEADER, size), BITKV_OK);
}

static void end(void)
{
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    lab_dir_close(dir);
}

static void next(enum bkv_scan_kind kind, uint64_t offset, uint64_t size)
{
    assert_int_equal(bkv_scanner_next(&scanner, &item), BITKV_OK);
    assert_int_equal(item.kind, kind);
    assert_int_equal(item.offset, offset);
    assert_int_equal(item.size, size);
}

static void records_come_in_order_with_key_and_value(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    size_t a = lab_log_put(&log_, 1, "a", "value of a");
    size_t b = lab_log_delete(&log_, 2, "bb");
    size_t c = lab_log_mark(&log_, 3, 1, 64);
    size_t z = log_.size;
    begin();
    next(BKV_SCAN_RECORD, a, b - a);
    assert_memory_equal(item.key, "a", 1);
    assert_memory_equal(item.value, "value of a", 10);
    assert_int_equal(item.record.sequence, 1);
    next(BKV_SCAN_RECORD, b, c - b);
    assert_int_equal(item.record.type, BKV_RECORD_DELETE);
    next(BKV_SCAN_RECORD, c, z - c);
    next(BKV_SCAN_END, z, 0);
    next(BKV_SCAN_END, z, 0);
    end();
}

static void it_resynchronises_behind_damage_at_any_place(void **state)
{
    (void)state;
    for (unsigned hit = 0; hit < 120; hit++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
        size_t at[5];
        for (unsigned i = 0; i < 4; i++)
            at[i] = lab_log_put(&log_, i + 1, "key", "some value");
        at[4] = log_.size;
        size_t place = at[0] + hit;
        size_t z = log_.size;
        assert_true(place < z);
        log_.data[place] ^= 0x55;
        begin();
        for (unsigned i = 0; i < 4; i++)
            next(place >= at[i] && place < at[i + 1] ? BKV_SCAN_DAMAGE : BKV_SCAN_RECORD, at[i],
                 at[i + 1] - at[i]);
        next(BKV_SCAN_END, z, 0);
        end();
    }
}

static void zeros_end_a_log_and_what_follows_them_is_damage(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    size_t a = lab_log_put(&log_, 1, "a", "1");
    size_t z = log_.size;
    lab_log_bytes(&log_, NULL, 5u << 20);
    begin();
    next(BKV_SCAN_RECORD, a, z - a);
    next(BKV_SCAN_END, z, 5u << 20);
    end();
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    (void)lab_log_put(&log_, 1, "a", "1");
    lab_log_bytes(&log_, NULL, 3u << 20);
    size_t b = lab_log_put(&log_, 2, "b", "2");
    size_t y = log_.size;
    begin();
    next(BKV_SCAN_RECORD, a, z - a);
    next(BKV_SCAN_DAMAGE, z, b - z);
    next(BKV_SCAN_RECORD, b, y - b);
    next(BKV_SCAN_END, y, 0);
    end();
}

static void odd_ends_are_damage(void **state)
{
    (void)state;
    for (size_t odd = 1; odd < 40; odd++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
        size_t a = lab_log_put(&log_, 1, "a", "1");
        size_t z = log_.size;
        lab_log_bytes(&log_, "garbage garbage garbage garbage garbage ", odd);
        begin();
        next(BKV_SCAN_RECORD, a, z - a);
        next(BKV_SCAN_DAMAGE, z, odd);
        next(BKV_SCAN_END, z + odd, 0);
        end();
    }
}

static void records_larger_than_the_window_verify(void **state)
{
    (void)state;
    size_t size = 3 * BKV_SCAN_WINDOW_BYTES + 12345;
    uint8_t *value = malloc(size);
    assert_non_null(value);
    for (size_t i = 0; i < size; i++)
        value[i] = (uint8_t)(i * 31);
    for (int damaged = 0; damaged < 2; damaged++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
        size_t a = lab_log_raw(&log_, BKV_RECORD_PUT, 1, "large", 5, value, size);
        size_t b = lab_log_put(&log_, 2, "b", "2");
        size_t z = log_.size;
        if (damaged)
            log_.data[b - 20000] ^= 1;
        begin();
        next(damaged ? BKV_SCAN_DAMAGE : BKV_SCAN_RECORD, a, b - a);
        if (!damaged) {
            assert_memory_equal(item.key, "large", 5);
            assert_null(item.value);
        }
        next(BKV_SCAN_RECORD, b, z - b);
        next(BKV_SCAN_END, z, 0);
        end();
    }
    free(value);
}

/* --- hostile files -------------------------------------------------------------------- */

/* Bytes that the scanner read, as the seam saw them. */
static uint64_t bytes_read;

static ssize_t count_pread(int fd, void *data, size_t size, off_t offset)
{
    ssize_t n = bkv_io_kernel.pread(fd, data, size, offset);
    bytes_read += n > 0 ? (uint64_t)n : 0;
    return n;
}

static uint64_t scan_all(void)
{
    struct bkv_io_ops counting = bkv_io_kernel;
    counting.pread = count_pread;
    bytes_read = 0;
    begin();
    bkv_io = &counting;
    do
        assert_int_equal(bkv_scanner_next(&scanner, &item), BITKV_OK);
    while (item.kind != BKV_SCAN_END);
    bkv_io = &bkv_io_kernel;
    end();
    return bytes_read;
}

/* A header that claims a record of  bytes, and does not verify. */
static void claim(uint8_t header[BKV_RECORD_HEADER], uint32_t size)
{
    struct bkv_record record = {.type = BKV_RECORD_PUT, .key_size = 1, .value_size = size};
    bkv_record_begin(header, &record);
}

static void headers_that_all_claim_the_rest_of_the_file_cost_a_few_passes(void **state)
{
    (void)state;
    const size_t size = 8u << 20;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    while (log_.size < size) {
        uint8_t header[24] = {0};
        claim(header, (uint32_t)(size - log_.size > 4096 ? size - log_.size - 4096 : 8));
        lab_log_bytes(&log_, header, sizeof header);
    }
    /* 350,000 claims of 4 MiB on average would be 1.4 TiB. */
    assert_true(scan_all() < 40 * (uint64_t)size);
}

static void valid_records_in_between_do_not_make_it_dearer(void **state)
{
    (void)state;
    const size_t size = 8u << 20;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    for (uint64_t sequence = 1; log_.size < size; sequence++) {
        uint8_t header[24] = {0};
        claim(header, (uint32_t)(size - log_.size > 4096 ? size - log_.size - 4096 : 8));
        lab_log_bytes(&log_, header, sizeof header);
        (void)lab_log_put(&log_, sequence, "k", "");
    }
    assert_true(scan_all() < 40 * (uint64_t)size);
}

static void a_file_that_shrinks_meanwhile_is_an_error(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    (void)lab_log_put(&log_, 1, "a", "1");
    lab_log_bytes(&log_, NULL, 4u << 20);
    begin();
    char full[LAB_PATH];
    lab_join(full, path, "partition_0/data_1.db");
    assert_int_equal(truncate(full, 100), 0);
    int rc = bkv_scanner_next(&scanner, &item);
    assert_true(rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_IO);
    end();
}

static void a_file_that_became_shorter_is_an_error(void **state)
{
    (void)state;
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    (void)lab_log_put(&log_, 1, "a", "1");
    begin();
    char full[LAB_PATH];
    lab_join(full, path, "partition_0/data_1.db");
    assert_int_equal(truncate(full, BKV_SEGMENT_HEADER + 8), 0);
    bool there = true;
    assert_int_equal(bkv_scanner_try(&scanner, &item, &there), BITKV_ERR_CORRUPT);
    assert_false(there);
    assert_int_equal(bkv_scanner_next(&scanner, &item), BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_scanner_renew(&scanner), BITKV_OK); /* it is as long as it is */
    assert_int_equal(bkv_scanner_try(&scanner, &item, &there), BITKV_OK);
    assert_false(there);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_in_order_with_key_and_value),
        cmocka_unit_test(it_resynchronises_behind_damage_at_any_place),
        cmocka_unit_test(zeros_end_a_log_and_what_follows_them_is_damage),
        cmocka_unit_test(odd_ends_are_damage),
        cmocka_unit_test(records_larger_than_the_window_verify),
        cmocka_unit_test(headers_that_all_claim_the_rest_of_the_file_cost_a_few_passes),
        cmocka_unit_test(valid_records_in_between_do_not_make_it_dearer),
        cmocka_unit_test(a_file_that_shrinks_meanwhile_is_an_error),
        cmocka_unit_test(a_file_that_became_shorter_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
