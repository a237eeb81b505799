/* SPDX-License-Identifier: MIT */
/*
 * What an inspection (log/inspect.h) says of databases that are not what was
 * written: each kind of damage by its file, its place and its severity, and
 * nothing of those that are sound.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/checkpoint.h"
#include "log/filename.h"
#include "log/format.h"
#include "log/inspect.h"
#include "log/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct lab_image image;
static struct lab_log log_;
static size_t second; /* offset of a record in data_1.db */

#define DATA "partition_0/data_1.db"

static struct {
    unsigned count[3]; /* by severity */
    char file[80], message[256];
    uint64_t offset, length; /* of the last one */
} found;
static struct bkv_inspect_result result;

static void on_finding(void *user, enum bkv_inspect_severity severity, const char *file,
                       uint64_t offset, uint64_t length, const char *message)
{
    (void)user;
    found.count[severity]++;
    (void)snprintf(found.file, sizeof found.file, "%s", file);
    (void)snprintf(found.message, sizeof found.message, "%s", message);
    found.offset = offset;
    found.length = length;
}

static int inspect(void)
{
    lab_image_write(&image, path);
    memset(&found, 0, sizeof found);
    const struct bkv_inspect_options options = {.on_finding = on_finding, .result = &result};
    return bkv_inspect(path, &options);
}

static void expect(enum bkv_inspect_severity severity, const char *file, const char *says)
{
    int rc = inspect();
    assert_int_equal(rc, severity == BKV_INSPECT_ERROR ? BITKV_ERR_CORRUPT : BITKV_OK);
    assert_int_equal(found.count[severity], 1);
    assert_string_equal(found.file, file);
    if (strstr(found.message, says) == NULL)
        fail_msg("'%s' does not say '%s'", found.message, says);
    assert_int_equal(result.findings, severity == BKV_INSPECT_INFO ? 0 : 1);
}

/* One file of three records and a batch's header, with its hint. */
static int setup(void **state)
{
    (void)state;
    lab_path(path, "inspected");
    lab_image_free(&image);
    lab_add_manifest(&image, &lab_manifest_1);
    lab_log_begin(&log_, &lab_manifest_1, 0, 1, 1);
    (void)lab_log_put(&log_, 1, "a", "1");
    second = lab_log_put(&log_, 2, "b", "2");
    static const uint8_t batch[BKV_BATCH_FIXED];
    (void)lab_log_raw(&log_, BKV_RECORD_BATCH, 3, NULL, 0, batch, sizeof batch);
    (void)lab_log_delete(&log_, 4, "c");
    lab_log_end(&log_, &image);
    lab_add_hint(&image, &lab_manifest_1, 0, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

static struct lab_file *hint(void)
{
    return lab_image_find(&image, "partition_0/hint_1.ht");
}

/* Header and entries verify again. */
static void seal_hint(void)
{
    struct lab_file *file = hint();
    uint32_t entries = bkv_crc32c(0, file->data + BKV_HINT_HEADER, file->size - BKV_HINT_HEADER);
    bkv_put64(file->data + 48, (file->size - BKV_HINT_HEADER) / BKV_HINT_ENTRY);
    bkv_put32(file->data + 112, entries);
    bkv_put32(file->data + 116, bkv_crc32c(0, file->data, 116));
}

static void of_a_sound_database_nothing_is_said(void **state)
{
    (void)state;
    assert_int_equal(inspect(), BITKV_OK);
    assert_int_equal(result.findings, 0);
    assert_int_equal(result.records, 2);
    assert_int_equal(result.tombstones, 1);
    assert_int_equal(result.marks, 1);
    assert_int_equal(result.segments, 1);
    assert_int_equal(result.hints, 1);
    assert_int_equal(result.bytes, lab_image_find(&image, DATA)->size);
    /* And nobody need listen. */
    const struct bkv_inspect_options silent = {.result = NULL};
    assert_int_equal(bkv_inspect(path, &silent), BITKV_OK);
    lab_image_find(&image, DATA)->data[second + 21] ^= 1;
    lab_image_write(&image, path);
    assert_int_equal(bkv_inspect(path, &silent), BITKV_ERR_CORRUPT);
}

static void a_hint_that_tells_of_other_records_is_found(void **state)
{
    (void)state;
    hint()->data[BKV_HINT_HEADER + BKV_HINT_ENTRY] ^= 1; /* the hash */
    seal_hint();
    expect(BKV_INSPECT_ERROR, DATA, "another entry");
    assert_int_equal(found.offset, second);
    hint()->data[BKV_HINT_HEADER + BKV_HINT_ENTRY] ^= 1;
    hint()->data[BKV_HINT_HEADER + BKV_HINT_ENTRY + 8] ^= 1; /* the size */
    seal_hint();
    expect(BKV_INSPECT_ERROR, DATA, "another entry");
    hint()->data[BKV_HINT_HEADER + BKV_HINT_ENTRY + 8] ^= 1;
    size_t size = hint()->size;
    lab_file_resize(hint(), size + BKV_HINT_ENTRY);
    seal_hint();
    expect(BKV_INSPECT_ERROR, DATA, "records that are not there");
    lab_file_resize(hint(), size - BKV_HINT_ENTRY);
    seal_hint();
    expect(BKV_INSPECT_ERROR, DATA, "another entry"); /* none */
    hint()->data[0] ^= 1;
    expect(BKV_INSPECT_ERROR, "partition_0/hint_1.ht", "magic");
}

static void rewrite_header(const struct bkv_segment_header *header)
{
    bkv_segment_header_encode(lab_image_find(&image, DATA)->data, header);
}

static void headers_are_judged(void **state)
{
    (void)state;
    lab_image_drop(&image, "partition_0/hint_1.ht");
    struct lab_file *file = lab_image_find(&image, DATA);
    struct bkv_segment_header header = {.id = 1, .base_sequence = 1, .kind = BKV_SEGMENT_STREAM};
    memcpy(header.database_id, lab_manifest_1.database_id, 16);
    header.kind = 99;
    rewrite_header(&header);
    expect(BKV_INSPECT_ERROR, DATA, "unknown format version");
    header.kind = BKV_SEGMENT_STREAM;
    header.id = 2;
    rewrite_header(&header);
    expect(BKV_INSPECT_ERROR, DATA, "another database");
    header.id = 1;
    rewrite_header(&header);
    file->data[9] ^= 1;
    expect(BKV_INSPECT_ERROR, DATA, "damaged segment header");
    assert_int_equal(result.records, 2); /* which are verified for all that */
    memset(file->data, 0, file->size);
    expect(BKV_INSPECT_INFO, DATA, "prepared");
}

/* Without a mark or anything else that proves it was durable, what does not
 * verify is the tail of a crash. */
static void damage_is_an_error_only_where_the_log_was_durable(void **state)
{
    (void)state;
    lab_image_drop(&image, "partition_0/hint_1.ht");
    struct lab_file *file = lab_image_find(&image, DATA);
    file->data[second + 21] ^= 1;
    expect(BKV_INSPECT_WARNING, DATA, "tail of a crash");
    assert_int_equal(found.offset, second);

    struct bkv_segment_header header = {
        .id = 1, .base_sequence = 1, .last_sequence = 4, .kind = BKV_SEGMENT_COMPACTED};
    memcpy(header.database_id, lab_manifest_1.database_id, 16);
    rewrite_header(&header);
    expect(BKV_INSPECT_ERROR, DATA, "damaged");
    header.kind = BKV_SEGMENT_STREAM;
    header.last_sequence = 0;
    rewrite_header(&header);

    /* A later file with a mark: of this one, short of the damage and behind it. */
    for (int behind = 0; behind < 2; behind++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 2, 5);
        (void)lab_log_mark(&log_, 5, 1, behind ? second + 8 : second);
        (void)lab_log_mark(&log_, 6, 1, 10); /* an older one changes nothing */
        lab_log_end(&log_, &image);
        expect(behind ? BKV_INSPECT_ERROR : BKV_INSPECT_WARNING, DATA, behind ? "damaged" : "tail");
        lab_image_drop(&image, "partition_0/data_2.db");
    }
    /* A later file that was durable itself; and an earlier one, which proves nothing. */
    for (uint64_t sequence = 5; sequence <= 6; sequence++) {
        lab_log_begin(&log_, &lab_manifest_1, 0, 2, sequence == 5 ? 5 : 0);
        (void)lab_log_put(&log_, sequence == 5 ? 5 : 0, "x", "y");
        lab_log_end(&log_, &image);
        lab_add_hint(&image, &lab_manifest_1, 0, 2);
        expect(sequence == 5 ? BKV_INSPECT_ERROR : BKV_INSPECT_WARNING, DATA,
               sequence == 5 ? "damaged" : "tail");
        lab_image_drop(&image, "partition_0/hint_2.ht");
        lab_image_drop(&image, "partition_0/data_2.db");
    }
}

static void checkpoint_of(uint64_t id, uint64_t size)
{
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_checkpoint_writer writer;
    assert_int_equal(bkv_checkpoint_begin(&writer, dir, 0), BITKV_OK);
    static const uint8_t groups[10000];
    assert_int_equal(bkv_writer_add(&writer.stream, groups, sizeof groups), BITKV_OK);
    struct bkv_checkpoint_segment table = {.id = id, .size = size};
    struct bkv_checkpoint_info info = {.segments = 1, .groups = 1};
    memcpy(info.database_id, lab_manifest_1.database_id, 16);
    uint64_t written;
    assert_int_equal(bkv_checkpoint_finish(&writer, &info, &table, &written), BITKV_OK);
    lab_dir_close(dir);
    lab_image_free(&image);
    lab_image_read(&image, path, 1 << 20);
}

static void a_checkpoint_is_held_against_the_files(void **state)
{
    (void)state;
    static const char name[] = "partition_0/keydir.ckp";
    uint64_t size = lab_image_find(&image, DATA)->size;
    checkpoint_of(1, size);
    assert_int_equal(inspect(), BITKV_OK);
    assert_int_equal(result.checkpoints, 1);
    assert_int_equal(result.findings, 0);
    lab_image_find(&image, name)->data[BKV_CHECKPOINT_HEADER + 5000] ^= 1;
    expect(BKV_INSPECT_ERROR, name, "checksum of the groups");
    checkpoint_of(1, size + 1);
    expect(BKV_INSPECT_ERROR, name, "missing");
    checkpoint_of(2, size);
    expect(BKV_INSPECT_ERROR, name, "missing");
}

/* The record is damaged, and its hint's entry has nothing to be compared with: that is
 * one finding, and says nothing of the records behind it. */
static void one_damaged_record_is_one_finding(void **state)
{
    (void)state;
    lab_image_find(&image, DATA)->data[second + 21] ^= 1;
    expect(BKV_INSPECT_ERROR, DATA, "damaged");
    assert_int_equal(found.offset, second);
}

static void add_file(uint64_t id, uint64_t first, bool with_hint)
{
    lab_log_begin(&log_, &lab_manifest_1, 0, id, first);
    (void)lab_log_put(&log_, first, "d", "4");
    (void)lab_log_put(&log_, first + 1, "e", "5");
    lab_log_end(&log_, &image);
    if (with_hint)
        lab_add_hint(&image, &lab_manifest_1, 0, id);
}

/* Nothing in the files that are there is wrong, but numbers are missing between them. */
static void a_data_file_that_is_gone_is_told(void **state)
{
    (void)state;
    add_file(2, 5, true);
    add_file(3, 7, true);
    assert_int_equal(inspect(), BITKV_OK);
    lab_image_drop(&image, "partition_0/data_2.db");
    lab_image_drop(&image, "partition_0/hint_2.ht");
    expect(BKV_INSPECT_ERROR, "partition_0/data_3.db", "missing");
    lab_image_drop(&image, "partition_0/hint_3.ht");
    expect(BKV_INSPECT_WARNING, "partition_0/data_3.db", "missing");
    lab_image_drop(&image, "partition_0/data_3.db");
    assert_int_equal(inspect(), BITKV_OK); /* as if there had been no other */
    add_file(2, 5, true);
    lab_image_drop(&image, DATA);
    expect(BKV_INSPECT_ERROR, "partition_0/data_2.db", "missing");
}

/* Such as what compaction has made of a file, and has not come to remove; one that tells
 * of nothing may lie anywhere. */
static void add_alike(uint64_t id, uint64_t first, uint64_t last)
{
    lab_log_begin(&log_, &lab_manifest_1, 0, id, first);
    for (uint64_t n = first; n <= last; n++)
        (void)lab_log_put(&log_, n, "d", "4");
    lab_log_end(&log_, &image);
}

static void of_files_that_begin_alike_the_longest_counts(void **state)
{
    (void)state;
    static const uint64_t lasts[] = {9, 6, 9, 12, 4, 4, 4, 9};
    for (uint64_t i = 0; i < sizeof lasts / sizeof lasts[0]; i++)
        add_alike(2 + i, 5, lasts[i]);
    add_alike(20, 13, 14);
    assert_int_equal(inspect(), BITKV_OK);
    assert_int_equal(result.findings, 0);
    lab_image_drop(&image, "partition_0/data_5.db"); /* to 12 */
    expect(BKV_INSPECT_WARNING, "partition_0/data_20.db", "missing");
}

static void what_is_missing_is_told(void **state)
{
    (void)state;
    struct bkv_inspect_options options = {.on_finding = on_finding, .result = &result};
    assert_int_equal(bkv_inspect("no/such/directory", &options), BITKV_ERR_NO_DATABASE);
    assert_int_equal(bkv_inspect("/dev/null", &options), BITKV_ERR_IO);
    lab_image_drop(&image, BKV_MANIFEST_NAME);
    assert_int_equal(inspect(), BITKV_ERR_CORRUPT); /* there is data */
    lab_image_drop(&image, DATA);
    assert_int_equal(inspect(), BITKV_ERR_NO_DATABASE);
    lab_add_manifest(&image, &lab_manifest_2);
    expect(BKV_INSPECT_ERROR, "partition_1", "missing"); /* partition_0 has a hint */
    lab_image_find(&image, BKV_MANIFEST_NAME)->data[0] ^= 1;
    assert_int_equal(inspect(), BITKV_ERR_CORRUPT);
    assert_string_equal(found.file, BKV_MANIFEST_NAME);
}

static void a_partition_that_is_no_directory_ends_it(void **state)
{
    (void)state;
    lab_image_free(&image);
    lab_add_manifest(&image, &lab_manifest_2);
    (void)lab_image_add(&image, "partition_0", "x", 1);
    int rc = inspect();
    assert_true(rc != BITKV_OK && rc != BITKV_ERR_CORRUPT && rc != BITKV_NOT_FOUND);
}

static void what_is_not_of_the_log_is_passed_over(void **state)
{
    (void)state;
    (void)lab_image_add(&image, "partition_0/letter.txt", "x", 1);
    (void)lab_image_add(&image, "partition_0/data_2.db.tmp", "x", 1);
    assert_int_equal(inspect(), BITKV_OK);
    assert_int_equal(result.findings, 0);
}

static void a_database_that_is_being_written_is_not_inspected(void **state)
{
    (void)state;
    lab_image_write(&image, path);
    struct bkv_dir *dir = lab_dir_open(path);
    assert_int_equal(flock(dir->fd, LOCK_EX | LOCK_NB), 0);
    const struct bkv_inspect_options options = {.result = NULL};
    assert_int_equal(bkv_inspect(path, &options), BITKV_ERR_LOCKED);
    lab_dir_close(dir);
    assert_int_equal(bkv_inspect(path, &options), BITKV_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(of_a_sound_database_nothing_is_said),
        TEST(a_hint_that_tells_of_other_records_is_found),
        TEST(headers_are_judged),
        TEST(damage_is_an_error_only_where_the_log_was_durable),
        TEST(a_checkpoint_is_held_against_the_files),
        TEST(one_damaged_record_is_one_finding),
        TEST(a_data_file_that_is_gone_is_told),
        TEST(of_files_that_begin_alike_the_longest_counts),
        TEST(what_is_missing_is_told),
        TEST(a_partition_that_is_no_directory_ends_it),
        TEST(what_is_not_of_the_log_is_passed_over),
        TEST(a_database_that_is_being_written_is_not_inspected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
