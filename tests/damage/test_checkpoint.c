/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints whose checksums are right and that do not fit the files: each is told
 * apart, refused under strict recovery, and otherwise costs no more than the time to
 * read the log.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/checkpoint.h"
#include "log/format.h"
#include "log/location.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

/* Places in the header, and in a row of the table. */
enum {
    START_SEGMENT = 32,
    START_OFFSET = 40,
    START_SEQUENCE = 48,
    END_SEGMENT = 56,
    END_OFFSET = 64,
    NEXT_ID = 72,
    TABLE = 88,
    SEGMENTS = 96,
    GROUPS = 100,
    GROUPS_CRC = 104,
    HEADER_CRC = 108,
    ROW_ID = 0,
    ROW_BASE = 8,
    ROW_SIZE = 16,
    ROW_NUMBER = 32,
};

static char path[LAB_PATH];
static struct lab_image closed; /* three files, and a checkpoint that knows them */

static int setup(void **state)
{
    (void)state;
    static struct lab_image image;
    bitkv *db;
    lab_sync_off();
    lab_path(path, "checkpoint");
    lab_add_manifest(&image, M);
    for (uint64_t id = 1; id <= 3; id++) {
        struct lab_log log;
        char key[2] = {(char)('a' + id - 1), 0};
        lab_log_begin(&log, M, 0, id, id);
        (void)lab_log_put(&log, id, key, "1");
        lab_log_end(&log, &image);
    }
    lab_image_write(&image, path);
    lab_image_free(&image);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.by_hand = true}), BITKV_OK);
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_read(&closed, path, SIZE_MAX / 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&closed);
    lab_sync_on();
    lab_remove(path);
    return 0;
}

static struct lab_file *begin(struct lab_image *image)
{
    lab_image_copy(image, &closed);
    return lab_image_find(image, "partition_0/keydir.ckp");
}

static uint8_t *row(struct lab_file *ckp, unsigned n)
{
    return ckp->data + bkv_get64(ckp->data + TABLE) + (size_t)n * BKV_CHECKPOINT_SEGMENT;
}

static void seal(struct lab_file *ckp)
{
    uint64_t table = bkv_get64(ckp->data + TABLE);
    bkv_put32(ckp->data + GROUPS_CRC,
              bkv_crc32c(0, ckp->data + BKV_CHECKPOINT_HEADER, table - BKV_CHECKPOINT_HEADER));
    uint32_t crc = bkv_crc32c(0, ckp->data, HEADER_CRC);
    bkv_put32(ckp->data + HEADER_CRC, bkv_crc32c(crc, ckp->data + table, ckp->size - table));
}

static void expect_all(bitkv *db)
{
    lab_expect(db, "a", "1");
    lab_expect(db, "b", "1");
    lab_expect(db, "c", "1");
}

/* Not used, whatever it says; and the reason is told. */
static void expect_refused(struct lab_image *image, struct lab_file *ckp, const char *why)
{
    bitkv *db;
    seal(ckp);
    lab_image_write(image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_ERR_CORRUPT);
    if (strstr(bitkv_error_context(), why) == NULL)
        fail_msg("\"%s\" instead of \"%s\"", bitkv_error_context(), why);
    for (unsigned writable = 0; writable < 2; writable++) {
        assert_int_equal(lab_open(&db, path, (struct lab_open){.read_only = writable == 0}),
                         BITKV_OK);
        assert_int_equal(lab_recovery(db).rejected_checkpoints, 1);
        expect_all(db);
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_OK);
    assert_int_equal(lab_recovery(db).rejected_checkpoints, 0);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(image);
}

static void an_untouched_checkpoint_is_used(void **state)
{
    (void)state;
    struct lab_image image;
    bitkv *db;
    seal(begin(&image));
    lab_image_write(&image, path);
    lab_image_free(&image);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_OK);
    assert_int_equal(lab_recovery(db).checkpoint_keys, 3);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

struct change {
    unsigned at;
    uint64_t value;
    const char *why;
};

static void a_header_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct change changes[] = {
        {NEXT_ID, 0, "next segment id"},
        {NEXT_ID, UINT64_MAX, "next segment id"},
        {START_SEGMENT, 77, "start or end"},
        {END_SEGMENT, 77, "start or end"},
        {START_OFFSET, 8, "start or end"},
        {START_OFFSET, 1u << 20, "start or end"},
        {START_OFFSET, BKV_SEGMENT_HEADER + 4, "start or end"},
        {START_SEQUENCE, 0, "start or end"},
        {END_OFFSET, BKV_SEGMENT_HEADER, "contradicts itself"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct lab_image image;
        struct lab_file *ckp = begin(&image);
        bkv_put64(ckp->data + changes[i].at, changes[i].value);
        expect_refused(&image, ckp, changes[i].why);
    }
}

static void a_row_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct change changes[] = {
        {ROW_ID, 9, "missing or another"},   {ROW_BASE, 7, "missing or another"},
        {ROW_SIZE, 8, "bytes of data_1.db"}, {ROW_SIZE, 1u << 30, "bytes of data_1.db"},
        {ROW_ID, 2, "missing or another"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct lab_image image;
        struct lab_file *ckp = begin(&image);
        bkv_put64(row(ckp, 0) + changes[i].at, changes[i].value);
        expect_refused(&image, ckp, changes[i].why);
    }
}

static void rows_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    struct lab_image image;
    struct lab_file *ckp = begin(&image);
    memcpy(row(ckp, 1), row(ckp, 0), ROW_NUMBER);
    expect_refused(&image, ckp, "twice");
    ckp = begin(&image);
    bkv_put32(row(ckp, 1) + ROW_NUMBER, bkv_get32(row(ckp, 0) + ROW_NUMBER));
    expect_refused(&image, ckp, "segment number");
    ckp = begin(&image);
    bkv_put32(row(ckp, 1) + ROW_NUMBER, UINT32_MAX);
    expect_refused(&image, ckp, "segment number");
    ckp = begin(&image); /* one file less */
    memmove(row(ckp, 0), row(ckp, 1), 2 * (size_t)BKV_CHECKPOINT_SEGMENT);
    bkv_put32(ckp->data + SEGMENTS, 2);
    lab_file_resize(ckp, ckp->size - BKV_CHECKPOINT_SEGMENT);
    expect_refused(&image, ckp, "does not know data_1.db");
}

/* The end moves to an earlier file, and stays behind the start or not. */
static void an_end_before_what_is_known_is_refused(void **state)
{
    (void)state;
    struct lab_image image;
    for (unsigned start = 0; start < 2; start++) {
        struct lab_file *ckp = begin(&image);
        uint64_t size = bkv_get64(row(ckp, 0) + ROW_SIZE);
        bkv_put64(ckp->data + END_SEGMENT, 1);
        bkv_put64(ckp->data + END_OFFSET, size);
        if (start == 0) {
            bkv_put64(ckp->data + START_SEGMENT, 1);
            bkv_put64(ckp->data + START_OFFSET, size);
        }
        expect_refused(&image, ckp, start == 0 ? "behind its end" : "start or end");
    }
}

/* A start or an end that is a file, but none of the table's. */
static void a_place_that_the_table_lacks_is_refused(void **state)
{
    (void)state;
    for (unsigned end = 0; end < 2; end++) {
        struct lab_image image;
        struct lab_file *ckp = begin(&image);
        struct lab_log log;
        lab_log_begin(&log, M, 0, 90, 4);
        (void)lab_log_put(&log, 4, "a", "1");
        lab_log_end(&log, &image);
        ckp = lab_image_find(&image, "partition_0/keydir.ckp");
        bkv_put64(ckp->data + (end != 0 ? END_SEGMENT : START_SEGMENT), 90);
        expect_refused(&image, ckp, "start or end");
    }
}

/* The first slot of the image that has a key. */
static uint8_t *first_slot(struct lab_file *ckp)
{
    uint8_t *at = ckp->data + BKV_CHECKPOINT_HEADER + 8;
    while (bkv_get64(at) < 2)
        at += 16;
    return at;
}

static void a_location_that_is_none_is_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct lab_image image;
        struct lab_file *ckp = begin(&image);
        uint8_t *word = first_slot(ckp) + 8;
        uint64_t old = bkv_get64(word);
        uint64_t upper = old >> BKV_LOCATION_BITS << BKV_LOCATION_BITS;
        uint32_t number = bkv_location_segment(old & ((1ull << BKV_LOCATION_BITS) - 1));
        static const struct {
            uint32_t beyond;
            uint64_t offset;
            uint32_t code;
        } odd[] = {{50, 64, 3}, {0, 8, 3}, {0, 64, 2}, {0, 64, 200}};
        bkv_put64(word, upper | bkv_location(number + odd[i].beyond, odd[i].offset, odd[i].code));
        expect_refused(&image, ckp, "KeyDir does not take");
    }
}

static void groups_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const uint32_t pages[] = {0, 2, 61, 62, UINT32_MAX};
    struct lab_image image;
    struct lab_file *ckp;
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        ckp = begin(&image);
        bkv_put32(ckp->data + BKV_CHECKPOINT_HEADER, pages[i]);
        expect_refused(&image, ckp, "group of");
    }
    ckp = begin(&image);
    bkv_put32(ckp->data + BKV_CHECKPOINT_HEADER + 4, 2); /* keys */
    expect_refused(&image, ckp, "KeyDir does not take");
    ckp = begin(&image);
    bkv_put32(ckp->data + GROUPS, 0);
    expect_refused(&image, ckp, "checkpoint of partition 0");
    ckp = begin(&image);
    bkv_put32(ckp->data + GROUPS, 100);
    expect_refused(&image, ckp, "100 groups");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_untouched_checkpoint_is_used),
        cmocka_unit_test(a_header_that_does_not_fit_is_refused),
        cmocka_unit_test(a_row_that_does_not_fit_is_refused),
        cmocka_unit_test(rows_that_contradict_each_other_are_refused),
        cmocka_unit_test(an_end_before_what_is_known_is_refused),
        cmocka_unit_test(a_place_that_the_table_lacks_is_refused),
        cmocka_unit_test(a_location_that_is_none_is_refused),
        cmocka_unit_test(groups_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
