/* SPDX-License-Identifier: MIT */
/* The header of a segment is read as it was written, and judged otherwise. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/segment.h"

#include <fcntl.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_image image;
static struct bkv_segment_header read_;

static int setup(void **state)
{
    (void)state;
    lab_path(path, "header");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(path);
    return 0;
}

static struct bkv_segment_header ours(void)
{
    struct bkv_segment_header h = {
        .partition = 3, .kind = BKV_SEGMENT_STREAM, .id = 42, .base_sequence = 1234567};
    memcpy(h.database_id, lab_manifest_1.database_id, 16);
    return h;
}

static enum bkv_segment_state judge(const uint8_t *bytes, size_t size)
{
    image.count = 0;
    (void)lab_image_add(&image, "file", bytes, size);
    lab_image_write(&image, path);
    lab_image_free(&image);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_file file;
    enum bkv_segment_state state;
    read_ = ours();
    read_.base_sequence = 0;
    assert_int_equal(bkv_file_open(&file, dir, "file", O_RDONLY), BITKV_OK);
    assert_int_equal(bkv_segment_header_read(&file, &read_, &state), BITKV_OK);
    bkv_file_close(&file);
    lab_dir_close(dir);
    return state;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    struct bkv_segment_header h = ours();
    uint8_t bytes[BKV_SEGMENT_HEADER + 8] = {0};
    bkv_segment_header_encode(bytes, &h);
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_VALID);
    assert_int_equal(read_.base_sequence, 1234567);
    assert_int_equal(judge(bytes, BKV_SEGMENT_HEADER), BKV_SEGMENT_VALID);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    struct bkv_segment_header h = ours();
    uint8_t bytes[BKV_SEGMENT_HEADER];
    bkv_segment_header_encode(bytes, &h);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_DAMAGED);
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t size = 1; size < sizeof bytes; size++)
        assert_int_equal(judge(bytes, size), BKV_SEGMENT_DAMAGED);
}

static void zeros_and_nothing_are_blank(void **state)
{
    (void)state;
    static const uint8_t zeros[200];
    for (size_t size = 0; size < sizeof zeros; size += 13)
        assert_int_equal(judge(zeros, size), BKV_SEGMENT_BLANK);
}

static void headers_of_others_are_foreign(void **state)
{
    (void)state;
    uint8_t bytes[BKV_SEGMENT_HEADER];
    struct bkv_segment_header h = ours();
    h.partition = 4;
    bkv_segment_header_encode(bytes, &h);
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_FOREIGN);
    h = ours();
    h.id = 43;
    bkv_segment_header_encode(bytes, &h);
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_FOREIGN);
    h = ours();
    h.database_id[15] ^= 1;
    bkv_segment_header_encode(bytes, &h);
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_FOREIGN);
}

static void what_is_newer_is_said_to_be(void **state)
{
    (void)state;
    uint8_t bytes[BKV_SEGMENT_HEADER];
    struct bkv_segment_header h = ours();
    bkv_segment_header_encode(bytes, &h);
    bkv_put32(bytes + 8, BKV_FORMAT_VERSION + 1);
    bkv_put32(bytes + 60, bkv_crc32c(0, bytes, 60));
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_NEWER);
    h.kind = 200;
    bkv_segment_header_encode(bytes, &h);
    assert_int_equal(judge(bytes, sizeof bytes), BKV_SEGMENT_NEWER);
}

static enum bkv_segment_state judge_compacted(uint64_t base, uint64_t last)
{
    uint8_t bytes[BKV_SEGMENT_HEADER];
    struct bkv_segment_header h = ours();
    h.kind = BKV_SEGMENT_COMPACTED;
    h.base_sequence = base;
    h.last_sequence = last;
    bkv_segment_header_encode(bytes, &h);
    return judge(bytes, sizeof bytes);
}

static void a_range_of_sequences_is_one(void **state)
{
    (void)state;
    assert_int_equal(judge_compacted(10, 10), BKV_SEGMENT_VALID);
    assert_int_equal(read_.base_sequence, 10);
    assert_int_equal(read_.last_sequence, 10);
    assert_int_equal(read_.kind, BKV_SEGMENT_COMPACTED);
    assert_int_equal(judge_compacted(10, UINT64_MAX / 2), BKV_SEGMENT_VALID);
    assert_int_equal(judge_compacted(10, 9), BKV_SEGMENT_DAMAGED);
    assert_int_equal(judge_compacted(10, UINT64_MAX / 2 + 1), BKV_SEGMENT_DAMAGED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(zeros_and_nothing_are_blank),
        cmocka_unit_test(headers_of_others_are_foreign),
        cmocka_unit_test(what_is_newer_is_said_to_be),
        cmocka_unit_test(a_range_of_sequences_is_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
