/* SPDX-License-Identifier: MIT */
/* Checkpoint files: round trip; every bit and length checked; what absurd
 * counts may cost is bounded by the file. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/memory.h"
#include "damage/lab.h"
#include "log/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_image image;
static struct lab_file *file;
static const char groups[] = "the groups are any bytes as far as the file is concerned";

static int setup(void **state)
{
    (void)state;
    lab_path(path, "checkpoints");
    (void)lab_image_add(&image, "partition_0/x", "", 0);
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_checkpoint_writer writer;
    assert_int_equal(bkv_checkpoint_begin(&writer, dir, 0), BITKV_OK);
    assert_int_equal(bkv_writer_add(&writer.stream, groups, sizeof groups), BITKV_OK);
    struct bkv_checkpoint_segment table[2] = {{1, 1, 1000, 20, 0}, {7, 21, 888, 33, 4}};
    struct bkv_checkpoint_info info = {.start_segment = 7,
                                       .start_offset = 96,
                                       .start_sequence = 22,
                                       .end_segment = 7,
                                       .end_offset = 888,
                                       .next_segment_id = 8,
                                       .keys = 5,
                                       .segments = 2,
                                       .groups = 1};
    memcpy(info.database_id, lab_manifest_1.database_id, 16);
    uint64_t size;
    assert_int_equal(bkv_checkpoint_finish(&writer, &info, table, &size), BITKV_OK);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
    lab_image_free(&image);
    lab_image_read(&image, path, 0);
    lab_image_drop(&image, "partition_0/x");
    file = lab_image_find(&image, "partition_0/keydir.ckp");
    assert_int_equal(file->size, size);
    assert_int_equal(size, BKV_CHECKPOINT_HEADER + sizeof groups + 2 * BKV_CHECKPOINT_SEGMENT);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

/* Header, table and groups. */
static int read_all(struct bkv_checkpoint_info *info, const uint8_t database_id[16])
{
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_checkpoint_reader reader;
    int rc = bkv_checkpoint_open(&reader, dir, 0, database_id);
    if (rc == BITKV_OK) {
        char bytes[sizeof groups];
        rc = bkv_reader_take(&reader.stream, bytes, sizeof bytes);
        if (rc == BITKV_OK)
            rc = bkv_checkpoint_groups_verify(&reader);
        if (rc == BITKV_OK) {
            *info = reader.info;
            assert_memory_equal(bytes, groups, sizeof bytes);
            assert_int_equal(reader.table[1].id, 7);
            assert_int_equal(reader.table[1].base_sequence, 21);
            assert_int_equal(reader.table[1].size, 888);
            assert_int_equal(reader.table[1].last_sequence, 33);
            assert_int_equal(reader.table[1].number, 4);
        }
        bkv_checkpoint_close(&reader);
    }
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
    return rc;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    assert_int_equal(read_all(&info, lab_manifest_1.database_id), BITKV_OK);
    assert_int_equal(info.start_segment, 7);
    assert_int_equal(info.start_offset, 96);
    assert_int_equal(info.start_sequence, 22);
    assert_int_equal(info.end_segment, 7);
    assert_int_equal(info.end_offset, 888);
    assert_int_equal(info.next_segment_id, 8);
    assert_int_equal(info.keys, 5);
    assert_int_equal(info.segments, 2);
    assert_int_equal(info.groups, 1);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    for (size_t i = 0; i < file->size; i++) {
        file->data[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(read_all(&info, lab_manifest_1.database_id), BITKV_ERR_CORRUPT);
        assert_string_not_equal(bitkv_error_context(), "");
        file->data[i] ^= (uint8_t)(1u << i % 8);
    }
}

static void no_other_length_will_do(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    size_t size = file->size;
    lab_file_resize(file, size + 64);
    for (file->size = 0; file->size < size + 64; file->size++) {
        if (file->size != size)
            assert_int_equal(read_all(&info, lab_manifest_1.database_id), BITKV_ERR_CORRUPT);
    }
    file->size = size;
}

static void another_database_s_is_refused(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    uint8_t id[16];
    memcpy(id, lab_manifest_1.database_id, sizeof id);
    id[9] ^= 1;
    assert_int_equal(read_all(&info, id), BITKV_ERR_CORRUPT);
}

static size_t largest;

static bool note_size(size_t size, void *user)
{
    (void)user;
    if (size > largest)
        largest = size;
    return true;
}

static void absurd_counts_cost_no_memory(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    uint8_t header[BKV_CHECKPOINT_HEADER];
    memcpy(header, file->data, sizeof header);
    static const uint32_t counts[] = {0, 3, 1u << 18, UINT32_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (int with_table = 0; with_table < 2; with_table++) {
            bkv_put32(file->data + 96, counts[i]);
            /* Also with the table where it would have to be. */
            if (with_table)
                bkv_put64(file->data + 88, file->size - (uint64_t)counts[i] * 40);
            uint32_t crc = bkv_crc32c(0, file->data, 108);
            crc = bkv_crc32c(crc, file->data + file->size - 80, 80);
            bkv_put32(file->data + 108, crc);
            largest = 0;
            bkv_alloc_set_hook(note_size, NULL);
            int rc = read_all(&info, lab_manifest_1.database_id);
            bkv_alloc_set_hook(NULL, NULL);
            assert_int_equal(rc, BITKV_ERR_CORRUPT);
            assert_true(largest <= 256u << 10);
            memcpy(file->data, header, sizeof header);
        }
    }
}

/* Of the right size, but where the header is. */
static void a_table_inside_the_header_is_refused(void **state)
{
    (void)state;
    struct bkv_checkpoint_info info;
    uint8_t header[BKV_CHECKPOINT_HEADER];
    memcpy(header, file->data, sizeof header);
    size_t size = file->size;
    bkv_put64(file->data + 88, BKV_CHECKPOINT_HEADER - 1);
    file->size = BKV_CHECKPOINT_HEADER - 1 + 2 * BKV_CHECKPOINT_SEGMENT;
    assert_int_equal(read_all(&info, lab_manifest_1.database_id), BITKV_ERR_CORRUPT);
    assert_non_null(strstr(bitkv_error_context(), "table"));
    file->size = size;
    memcpy(file->data, header, sizeof header);
}

static void groups_are_whole_or_nothing(void **state)
{
    (void)state;
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_checkpoint_reader reader;
    assert_int_equal(bkv_checkpoint_open(&reader, dir, 0, lab_manifest_1.database_id), BITKV_OK);
    char bytes[sizeof groups];
    assert_int_equal(bkv_checkpoint_groups_verify(&reader), BITKV_ERR_CORRUPT); /* none is read */
    assert_int_equal(bkv_reader_take(&reader.stream, bytes, sizeof bytes - 1), BITKV_OK);
    assert_int_equal(bkv_checkpoint_groups_verify(&reader), BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_reader_take(&reader.stream, bytes, 2), BITKV_ERR_CORRUPT); /* too many */
    assert_int_equal(bkv_reader_take(&reader.stream, bytes, 1), BITKV_OK);
    assert_int_equal(bkv_checkpoint_groups_verify(&reader), BITKV_OK);
    bkv_checkpoint_close(&reader);
    lab_dir_close(dir);
}

static void without_its_partition_it_is_not_begun(void **state)
{
    (void)state;
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_checkpoint_writer writer;
    assert_int_equal(bkv_checkpoint_begin(&writer, dir, 5), BITKV_ERR_IO);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_length_will_do),
        cmocka_unit_test(another_database_s_is_refused),
        cmocka_unit_test(absurd_counts_cost_no_memory),
        cmocka_unit_test(a_table_inside_the_header_is_refused),
        cmocka_unit_test(groups_are_whole_or_nothing),
        cmocka_unit_test(without_its_partition_it_is_not_begun),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
