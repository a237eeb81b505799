/* SPDX-License-Identifier: MIT */
/* Hints: round trip; bound to their segment; every bit and length checked. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/hint.h"

#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT 1000u

static char path[LAB_PATH];
static struct lab_image image;
static struct lab_file *file;

static struct bkv_hint_info info_of(void)
{
    struct bkv_hint_info info = {.partition = 0, .segment_id = 9, .data_size = 65536};
    memcpy(info.database_id, lab_manifest_1.database_id, 16);
    return info;
}

static struct bkv_entry entry_of(unsigned i)
{
    struct bkv_hash hash = bkv_hash(&lab_manifest_1.hash_key, &i, sizeof i);
    return bkv_entry(&hash, i % 5 == 0 ? BKV_RECORD_DELETE : BKV_RECORD_PUT, 64 + 8ull * i,
                     24 + 8ull * (i % 50));
}

/* Few entries for the sweeps, many for the round trip. */
static void make(unsigned count)
{
    lab_image_free(&image);
    (void)lab_image_add(&image, "partition_0/x", "", 0);
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_hint_info info = info_of();
    struct bkv_hint_writer writer;
    uint64_t size;
    assert_int_equal(bkv_hint_begin(&writer, dir, &info), BITKV_OK);
    for (unsigned i = 0; i < count; i++) {
        struct bkv_entry entry = entry_of(i);
        assert_int_equal(bkv_hint_add(&writer, &entry, 100 + i, i % 7 == 0 ? 1000 + i : UINT64_MAX),
                         BITKV_OK);
    }
    assert_int_equal(bkv_hint_finish(&writer, 65536, 100 + count, &size), BITKV_OK);
    assert_int_equal(size, BKV_HINT_HEADER + count * BKV_HINT_ENTRY);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
    lab_image_free(&image);
    lab_image_read(&image, path, 0);
    lab_image_drop(&image, "partition_0/x");
    file = lab_image_find(&image, "partition_0/hint_9.ht");
}

static int setup(void **state)
{
    (void)state;
    lab_path(path, "hints");
    make(3);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

static int open_it(const struct bkv_hint_info *info)
{
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_hint_reader reader;
    int rc = bkv_hint_open(&reader, dir, info);
    if (rc == BITKV_OK)
        bkv_hint_close(&reader);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
    return rc;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    make(COUNT);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_hint_info info = info_of();
    struct bkv_hint_reader reader;
    assert_int_equal(bkv_hint_open(&reader, dir, &info), BITKV_OK);
    assert_int_equal(reader.info.count, COUNT);
    assert_int_equal(reader.info.data_size, 65536);
    assert_int_equal(reader.info.last_sequence, 100 + COUNT);
    unsigned seen = 0;
    for (;;) {
        struct bkv_entry entries[64];
        size_t count;
        assert_int_equal(bkv_hint_take(&reader, entries, 64, &count), BITKV_OK);
        if (count == 0)
            break;
        for (size_t i = 0; i < count; i++, seen++) {
            struct bkv_entry expected = entry_of(seen);
            assert_memory_equal(&entries[i], &expected, sizeof expected);
            struct bkv_hash hash = bkv_hash(&lab_manifest_1.hash_key, &seen, sizeof seen);
            struct bkv_hash known = bkv_entry_hash(&entries[i]);
            assert_int_equal(known.lo, hash.lo);
            assert_int_equal(bkv_hash_tag(&known), bkv_hash_tag(&hash));
            assert_int_equal(bkv_entry_type(&entries[i]),
                             seen % 5 == 0 ? BKV_RECORD_DELETE : BKV_RECORD_PUT);
            assert_int_equal(bkv_location_offset(bkv_entry_location(&entries[i])), 64 + 8 * seen);
        }
    }
    assert_int_equal(seen, COUNT);
    bkv_hint_close(&reader);
    lab_dir_close(dir);
    make(3);
}

static void no_bit_may_change(void **state)
{
    (void)state;
    struct bkv_hint_info info = info_of();
    for (size_t i = 0; i < file->size; i++) {
        file->data[i] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
        file->data[i] ^= (uint8_t)(1u << i % 8);
    }
    assert_int_equal(open_it(&info), BITKV_OK);
}

static void no_other_length_will_do(void **state)
{
    (void)state;
    struct bkv_hint_info info = info_of();
    size_t size = file->size;
    lab_file_resize(file, size + 64);
    for (file->size = 0; file->size < size + 64; file->size++)
        assert_int_equal(open_it(&info), file->size == size ? BITKV_OK : BITKV_ERR_CORRUPT);
    file->size = size;
}

static void it_serves_its_own_segment_only(void **state)
{
    (void)state;
    struct bkv_hint_info info = info_of();
    info.segment_id = 10;
    assert_int_equal(open_it(&info), BITKV_NOT_FOUND);
    char before[80];
    memcpy(before, file->name, sizeof before);
    (void)snprintf(file->name, sizeof file->name, "partition_0/hint_10.ht");
    assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
    memcpy(file->name, before, sizeof before);
    info = info_of();
    info.database_id[3] ^= 1;
    assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
    info = info_of();
    info.data_size = 65535; /* the segment is shorter than the hint says */
    assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
}

static void an_absurd_count_is_refused_though_its_checksum_is_right(void **state)
{
    (void)state;
    struct bkv_hint_info info = info_of();
    static const uint64_t counts[] = {0, 2, 4, UINT64_MAX, UINT64_MAX / 16 + 1, 1ull << 60};
    uint8_t header[BKV_HINT_HEADER];
    memcpy(header, file->data, sizeof header);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        bkv_put64(file->data + 48, counts[i]);
        bkv_put32(file->data + 116, bkv_crc32c(0, file->data, 116));
        assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
    }
    memcpy(file->data, header, sizeof header);
}

static void it_sums_up_what_dies_when(void **state)
{
    (void)state;
    struct bkv_summary s = {0};
    bkv_summary_add(&s, BKV_RECORD_DELETE, 24, UINT64_MAX);
    bkv_summary_add(&s, BKV_RECORD_PUT, 100, UINT64_MAX);
    static const uint64_t deadlines[] = {500, 300, 700, 400};
    for (size_t i = 0; i < 4; i++)
        bkv_summary_add(&s, BKV_RECORD_PUT, 8, deadlines[i]);
    assert_int_equal(s.tombstone_bytes, 24);
    assert_int_equal(s.permanent_bytes, 100);
    assert_int_equal(s.expiring_bytes, 32);
    assert_int_equal(s.expires_min, 300);
    assert_int_equal(s.expires_max, 700);
}

/* With checksums that are right. */
static void another_version_or_place_is_refused(void **state)
{
    (void)state;
    struct bkv_hint_info info = info_of();
    static const struct {
        size_t at;
        const char *says;
    } fields[] = {
        {8, "version"}, {12, "another segment"}, {16, "another segment"}, {24, "another segment"}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        uint8_t header[BKV_HINT_HEADER];
        memcpy(header, file->data, sizeof header);
        file->data[fields[i].at] ^= 2;
        bkv_put32(file->data + 116, bkv_crc32c(0, file->data, 116));
        assert_int_equal(open_it(&info), BITKV_ERR_CORRUPT);
        assert_non_null(strstr(bitkv_error_context(), fields[i].says));
        memcpy(file->data, header, sizeof header);
    }
    assert_int_equal(open_it(&info), BITKV_OK);
}

static void without_its_partition_it_is_not_begun(void **state)
{
    (void)state;
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_hint_info info = info_of();
    struct bkv_hint_writer writer;
    info.partition = 5;
    assert_int_equal(bkv_hint_begin(&writer, dir, &info), BITKV_ERR_IO);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
}

static void an_abandoned_hint_leaves_nothing(void **state)
{
    (void)state;
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_hint_info info = info_of();
    info.segment_id = 77;
    struct bkv_hint_writer writer;
    assert_int_equal(bkv_hint_begin(&writer, dir, &info), BITKV_OK);
    bkv_hint_abandon(&writer);
    struct lab_image after = {.count = 0};
    lab_image_read(&after, path, 0);
    assert_int_equal(after.count, 1);
    lab_image_free(&after);
    lab_dir_close(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_bit_may_change),
        cmocka_unit_test(no_other_length_will_do),
        cmocka_unit_test(it_serves_its_own_segment_only),
        cmocka_unit_test(an_absurd_count_is_refused_though_its_checksum_is_right),
        cmocka_unit_test(an_abandoned_hint_leaves_nothing),
        cmocka_unit_test(it_sums_up_what_dies_when),
        cmocka_unit_test(another_version_or_place_is_refused),
        cmocka_unit_test(without_its_partition_it_is_not_begun),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
