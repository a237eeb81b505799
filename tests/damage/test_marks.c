/* SPDX-License-Identifier: MIT */
/*
 * The rule that tells rot from a torn tail: before the last mark that
 * verifies the log was durable, so what does not verify is rot, skipped and
 * reported, and what follows is kept. Behind it, it is the unsynced tail of a
 * crash: cut there, and all that follows with it, even if it verifies.
 *
 * Logs are built record by record. "a" to "h" stand for keys of partition 0.
 */
#include "damage/lab.h"

#include "log/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_path(path, "marks");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(path);
    return 0;
}

static void hole(struct lab_log *log, size_t from, size_t to, bool garbage)
{
    for (size_t i = from; i < to; i++)
        log->data[i] = garbage ? (uint8_t)(i * 151 + 7) : 0;
}

/* The database of the image is open, as if it had crashed in that state. */
static bitkv *open_image(struct lab_image *image, struct lab_open how)
{
    lab_image_write(image, path);
    bitkv *db;
    int rc = lab_open(&db, path, how);
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static bitkv *reopen(bitkv *db)
{
    assert_int_equal(bitkv_close(db), BITKV_OK);
    int rc = lab_open(&db, path, (struct lab_open){0});
    if (rc != BITKV_OK)
        fail_msg("reopen: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void expect_strict_refusal(struct lab_image *image)
{
    bitkv *db;
    lab_image_write(image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_ERR_CORRUPT);
    assert_null(db);
    assert_string_not_equal(bitkv_error_context(), "");
}

static void expect_strict_acceptance(struct lab_image *image)
{
    bitkv *db;
    lab_image_write(image, path);
    int rc = lab_open(&db, path, (struct lab_open){.strict = true});
    if (rc != BITKV_OK)
        fail_msg("strict open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void logs_without_any_mark_or_hint_are_replayed_and_can_be_synced(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    for (uint64_t id = 1; id <= 4; id++) {
        char key[8] = {(char)('a' + id), 0};
        lab_log_begin(&log, M, 0, id, id);
        (void)lab_log_put(&log, id, key, "value");
        lab_log_end(&log, &image);
    }
    bitkv *db = open_image(&image, (struct lab_open){0});
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    for (int i = 0; i < 2; i++) {
        lab_expect(db, "b", "value");
        lab_expect(db, "e", "value");
        db = reopen(db);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void a_hole_before_the_mark_is_rot_and_what_follows_is_kept(void **state)
{
    (void)state;
    for (int garbage = 0; garbage < 2; garbage++) {
        struct lab_image image = {.count = 0};
        struct lab_log log;
        lab_add_manifest(&image, M);
        lab_log_begin(&log, M, 0, 1, 1);
        (void)lab_log_put(&log, 1, "a", "1");
        size_t from = lab_log_put(&log, 2, "b", "2");
        size_t to = lab_log_put(&log, 3, "c", "3");
        (void)lab_log_mark(&log, 4, 1, log.size);
        (void)lab_log_put(&log, 5, "d", "5");
        hole(&log, from, to, garbage);
        lab_log_end(&log, &image);

        bitkv *db = open_image(&image, (struct lab_open){0});
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.damaged_regions, 1);
        assert_int_equal(r.damaged_bytes, to - from);
        assert_int_equal(r.torn_tails, 0);
        lab_expect(db, "a", "1");
        lab_expect(db, "b", NULL);
        lab_expect(db, "c", "3");
        lab_expect(db, "d", "5");
        lab_put(db, "e", "6");
        db = reopen(db);
        lab_expect(db, "c", "3");
        lab_expect(db, "d", "5");
        lab_expect(db, "e", "6");
        assert_int_equal(bitkv_close(db), BITKV_OK);
        expect_strict_refusal(&image);
        lab_image_free(&image);
    }
}

static void a_hole_behind_the_mark_cuts_all_that_follows_though_it_verifies(void **state)
{
    (void)state;
    for (int garbage = 0; garbage < 2; garbage++) {
        struct lab_image image = {.count = 0};
        struct lab_log log;
        lab_add_manifest(&image, M);
        lab_log_begin(&log, M, 0, 1, 1);
        (void)lab_log_put(&log, 1, "a", "1");
        (void)lab_log_mark(&log, 2, 1, log.size);
        size_t from = lab_log_put(&log, 3, "b", "3");
        size_t to = lab_log_put(&log, 4, "c", "4");
        hole(&log, from, to, garbage);
        lab_log_end(&log, &image);
        lab_log_begin(&log, M, 0, 2, 5);
        (void)lab_log_put(&log, 5, "a", "5");
        (void)lab_log_put(&log, 6, "d", "6");
        lab_log_end(&log, &image);

        bitkv *db = open_image(&image, (struct lab_open){0});
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.torn_tails, 1);
        assert_int_equal(r.damaged_regions, 0);
        lab_expect(db, "a", "1");
        lab_expect(db, "b", NULL);
        lab_expect(db, "c", NULL);
        lab_expect(db, "d", NULL);
        lab_put(db, "e", "new");
        for (int i = 0; i < 3; i++) {
            /* Nothing that was dropped reappears, and what is new stays. */
            db = reopen(db);
            r = lab_recovery(db);
            assert_int_equal(r.torn_tails, 0);
            assert_int_equal(r.damaged_regions, 0);
            lab_expect(db, "a", "1");
            lab_expect(db, "b", NULL);
            lab_expect(db, "c", NULL);
            lab_expect(db, "d", NULL);
            lab_expect(db, "e", "new");
        }
        assert_int_equal(bitkv_close(db), BITKV_OK);
        expect_strict_acceptance(&image);
        lab_image_free(&image);
    }
}

static int note_sequence(void *user, const bitkv_record *record)
{
    if (record->key_size == 1 && *(const char *)record->key == 'z')
        *(uint64_t *)user = record->sequence;
    return 0;
}

static void sequence_numbers_go_on_behind_a_cut(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_mark(&log, 2, 1, log.size);
    (void)lab_log_put(&log, 3, "b", "3");
    size_t from = lab_log_put(&log, 4, "c", "4");
    hole(&log, from, log.size, true);
    (void)lab_log_put(&log, 5, "d", "5");
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    lab_put(db, "z", "new");
    uint64_t sequence = 0;
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, note_sequence, &sequence), BITKV_OK);
    assert_int_equal(sequence, 4);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void a_mark_in_a_later_segment_speaks_for_the_earlier_ones(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    size_t from = lab_log_put(&log, 1, "a", "1");
    size_t to = lab_log_put(&log, 2, "b", "2");
    hole(&log, from, to, true);
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 0, 2, 3);
    size_t offset = lab_log_put(&log, 3, "c", "3");
    (void)lab_log_mark(&log, 4, 2, offset);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.damaged_regions, 1);
    assert_int_equal(r.torn_tails, 0);
    lab_expect(db, "a", NULL);
    lab_expect(db, "b", "2");
    lab_expect(db, "c", "3");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    expect_strict_refusal(&image);
    lab_image_free(&image);
}

static void a_hole_that_begins_exactly_at_the_mark_s_offset_is_the_tail(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    size_t durable = log.size;
    /* Appended while the sync ran; the mark comes behind it. */
    size_t from = lab_log_put(&log, 2, "b", "2");
    size_t to = log.size;
    (void)lab_log_mark(&log, 3, 1, durable);
    (void)lab_log_put(&log, 4, "c", "4");
    assert_int_equal(from, durable);
    hole(&log, from, to, true);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.damaged_regions, 0);
    assert_int_equal(r.torn_tails, 1);
    lab_expect(db, "a", "1");
    lab_expect(db, "b", NULL);
    lab_expect(db, "c", NULL);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    expect_strict_acceptance(&image);
    lab_image_free(&image);
}

static void a_hole_across_the_mark_s_offset_is_rot_up_to_there_and_tail_behind(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    size_t from = lab_log_put(&log, 2, "b", "2");
    size_t durable = log.size;
    (void)lab_log_put(&log, 3, "c", "3");
    size_t to = log.size;
    (void)lab_log_mark(&log, 4, 1, durable);
    (void)lab_log_put(&log, 5, "d", "5");
    hole(&log, from, to, true);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.damaged_regions, 1);
    assert_int_equal(r.damaged_bytes, durable - from);
    assert_int_equal(r.torn_tails, 1);
    lab_expect(db, "a", "1");
    lab_expect(db, "d", NULL);
    lab_put(db, "e", "new");
    db = reopen(db);
    lab_expect(db, "d", NULL);
    lab_expect(db, "e", "new");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void records_missing_between_two_segments(bool durable)
{
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    lab_log_end(&log, &image); /* 2 and 3 were here, and read as the file's end */
    lab_log_begin(&log, M, 0, 2, 4);
    size_t offset = lab_log_put(&log, 4, "d", "4");
    if (durable)
        (void)lab_log_mark(&log, 5, 2, offset);
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 0, 3, durable ? 6 : 5);
    (void)lab_log_put(&log, durable ? 6 : 5, "e", "5");
    lab_log_end(&log, &image);

    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.damaged_regions, durable);
    assert_int_equal(r.torn_tails, !durable);
    lab_expect(db, "a", "1");
    lab_expect(db, "d", durable ? "4" : NULL);
    lab_expect(db, "e", durable ? "5" : NULL);
    lab_put(db, "f", "new");
    db = reopen(db);
    lab_expect(db, "d", durable ? "4" : NULL);
    lab_expect(db, "e", durable ? "5" : NULL);
    lab_expect(db, "f", "new");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    if (durable)
        expect_strict_refusal(&image);
    else
        expect_strict_acceptance(&image);
    lab_image_free(&image);
}

static void a_gap_between_two_segments_is_judged_by_the_marks(void **state)
{
    (void)state;
    records_missing_between_two_segments(true);
    records_missing_between_two_segments(false);
}

static void a_gap_inside_of_a_segment_is_judged_by_the_marks(void **state)
{
    (void)state;
    for (int durable = 0; durable < 2; durable++) {
        struct lab_image image = {.count = 0};
        struct lab_log log;
        lab_add_manifest(&image, M);
        lab_log_begin(&log, M, 0, 1, 1);
        (void)lab_log_put(&log, 1, "a", "1");
        (void)lab_log_put(&log, 3, "c", "3"); /* 2 is nowhere */
        if (durable)
            (void)lab_log_mark(&log, 4, 1, log.size);
        lab_log_end(&log, &image);
        bitkv *db = open_image(&image, (struct lab_open){0});
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.damaged_regions, durable);
        assert_int_equal(r.torn_tails, !durable);
        lab_expect(db, "a", "1");
        lab_expect(db, "c", durable ? "3" : NULL);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        lab_image_free(&image);
    }
}

/* Who follows the changes has to know that some are lost. */
static void a_feed_tells_of_a_gap_and_goes_on_behind_it(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_put(&log, 4, "c", "3"); /* 2 and 3 are nowhere */
    (void)lab_log_mark(&log, 5, 1, log.size);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_feed *feed;
    bitkv_change change;
    assert_int_equal(bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST), BITKV_OK);
    assert_int_equal(bitkv_feed_next(feed, &change), BITKV_OK);
    assert_int_equal(change.version, 1);
    assert_int_equal(bitkv_feed_next(feed, &change), BITKV_ERR_CORRUPT);
    assert_non_null(strstr(bitkv_error_context(), "lacks changes 2 to 3"));
    assert_int_equal(bitkv_feed_next(feed, &change), BITKV_OK);
    assert_int_equal(change.version, 4);
    assert_int_equal(bitkv_feed_next(feed, &change), BITKV_NOT_FOUND);
    assert_int_equal(bitkv_feed_close(feed), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void a_synced_log_whose_beginning_is_missing_is_reported(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 2, 3); /* data_1.db is gone */
    (void)lab_log_put(&log, 3, "c", "3");
    (void)lab_log_mark(&log, 4, 2, log.size);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    assert_int_equal(lab_recovery(db).damaged_regions, 1);
    lab_expect(db, "c", "3");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    expect_strict_refusal(&image);
    lab_image_free(&image);
}

/* A power cut before the first sync may take the first file and leave a later one:
 * then that is behind a hole, and no part of any prefix. */
static void a_log_that_was_never_synced_and_has_no_beginning_is_cut(void **state)
{
    (void)state;
    for (int blank = 0; blank < 2; blank++) {
        struct lab_image image = {.count = 0};
        struct lab_log log;
        lab_add_manifest(&image, M);
        if (blank)
            lab_image_add(&image, "partition_0/data_1.db", "", 0);
        lab_log_begin(&log, M, 0, 2, 3);
        (void)lab_log_put(&log, 3, "c", "3");
        lab_log_end(&log, &image);
        bitkv *db = open_image(&image, (struct lab_open){.strict = true});
        assert_int_equal(lab_recovery(db).damaged_regions, 0);
        assert_int_equal(lab_recovery(db).torn_tails, 1);
        lab_expect(db, "c", NULL);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        lab_image_free(&image);
    }
}

/* --- headers of segments ------------------------------------------------------------ */

/* Three segments; the header of one becomes zeros, as a page that rotted, or
 * that never reached the disk. */
static void make_three(struct lab_image *image, bool marked, bool hinted)
{
    struct lab_log log;
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_put(&log, 2, "b", "2");
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 2, 3);
    (void)lab_log_put(&log, 3, "c", "3");
    (void)lab_log_put(&log, 4, "a", "4");
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 3, 5);
    (void)lab_log_put(&log, 5, "d", "5");
    if (marked)
        (void)lab_log_mark(&log, 6, 3, log.size);
    lab_log_end(&log, image);
    if (hinted)
        for (uint64_t id = 1; id <= 2; id++)
            lab_add_hint(image, M, 0, id);
}

static void a_segment_whose_header_rotted_is_reported_and_its_records_stay(void **state)
{
    (void)state;
    for (int zeros = 0; zeros < 2; zeros++) {
        for (int hinted = 0; hinted < 2; hinted++) {
            for (int which = 1; which <= 3; which++) {
                struct lab_image image = {.count = 0};
                make_three(&image, true, hinted);
                char name[64];
                (void)snprintf(name, sizeof name, "partition_0/data_%d.db", which);
                if (zeros)
                    memset(lab_image_find(&image, name)->data, 0, BKV_SEGMENT_HEADER);
                else
                    lab_image_find(&image, name)->data[20] ^= 0x40;
                bitkv *db = open_image(&image, (struct lab_open){0});
                assert_true(lab_recovery(db).damaged_regions >= 1);
                for (int i = 0; i < 2; i++) {
                    lab_expect(db, "a", "4");
                    lab_expect(db, "b", "2");
                    lab_expect(db, "c", "3");
                    lab_expect(db, "d", "5");
                    db = reopen(db);
                }
                assert_int_equal(bitkv_close(db), BITKV_OK);
                expect_strict_refusal(&image);
                lab_image_free(&image);
            }
        }
    }
}

static void a_header_that_never_reached_the_disk_is_the_tail(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_mark(&log, 2, 1, log.size);
    (void)lab_log_put(&log, 3, "b", "3");
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 0, 2, 4);
    (void)lab_log_put(&log, 4, "c", "4");
    memset(log.data, 0, BKV_SEGMENT_HEADER);
    lab_log_end(&log, &image);
    expect_strict_acceptance(&image);
    bitkv *db = open_image(&image, (struct lab_open){0});
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.damaged_regions, 0);
    assert_int_equal(r.torn_tails, 1);
    lab_expect(db, "a", "1");
    lab_expect(db, "b", "3");
    lab_expect(db, "c", NULL);
    lab_put(db, "d", "new");
    db = reopen(db);
    lab_expect(db, "b", "3");
    lab_expect(db, "c", NULL);
    lab_expect(db, "d", "new");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void a_segment_that_is_all_garbage_takes_no_other_with_it(void **state)
{
    (void)state;
    for (int which = 1; which <= 3; which++) {
        struct lab_image image = {.count = 0};
        make_three(&image, false, false);
        char name[64];
        (void)snprintf(name, sizeof name, "partition_0/data_%d.db", which);
        struct lab_file *file = lab_image_find(&image, name);
        for (size_t i = 0; i < file->size; i++)
            file->data[i] = (uint8_t)(i * 91 + 3);
        bitkv *db = open_image(&image, (struct lab_open){0});
        bitkv_recovery r = lab_recovery(db);
        assert_true(r.damaged_regions >= 1);
        if (which > 1)
            lab_expect(db, "b", "2");
        assert_int_equal(bitkv_close(db), BITKV_OK);
        char full[LAB_PATH];
        lab_join(full, path, name);
        assert_true(lab_exists(full)); /* evidence is not destroyed */
        expect_strict_refusal(&image);
        lab_image_free(&image);
    }
}

/* --- the order of segments (trap 2) -------------------------------------------------------- */

static void the_highest_sequence_wins_whatever_the_files_are_called(void **state)
{
    (void)state;
    static const uint64_t ids[][3] = {{1, 2, 3}, {3, 2, 1}, {7, 9, 8}, {100, 5, 20}};
    for (size_t n = 0; n < sizeof ids / sizeof ids[0]; n++) {
        for (int hinted = 0; hinted < 8; hinted++) {
            struct lab_image image = {.count = 0};
            struct lab_log log;
            lab_add_manifest(&image, M);
            uint64_t sequence = 1;
            for (int i = 0; i < 3; i++) {
                char value[8];
                (void)snprintf(value, sizeof value, "%d", i);
                lab_log_begin(&log, M, 0, ids[n][i], sequence);
                (void)lab_log_put(&log, sequence++, "a", value);
                if (i == 0)
                    (void)lab_log_put(&log, sequence++, "b", value);
                if (i == 1)
                    (void)lab_log_delete(&log, sequence++, "b");
                lab_log_end(&log, &image);
                if ((hinted >> i) & 1)
                    lab_add_hint(&image, M, 0, ids[n][i]);
            }
            bitkv *db = open_image(&image, (struct lab_open){0});
            for (int i = 0; i < 2; i++) {
                lab_expect(db, "a", "2");
                lab_expect(db, "b", NULL);
                db = reopen(db);
            }
            lab_put(db, "a", "newest");
            db = reopen(db);
            lab_expect(db, "a", "newest");
            assert_int_equal(bitkv_close(db), BITKV_OK);
            lab_image_free(&image);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logs_without_any_mark_or_hint_are_replayed_and_can_be_synced),
        cmocka_unit_test(a_hole_before_the_mark_is_rot_and_what_follows_is_kept),
        cmocka_unit_test(a_hole_behind_the_mark_cuts_all_that_follows_though_it_verifies),
        cmocka_unit_test(sequence_numbers_go_on_behind_a_cut),
        cmocka_unit_test(a_mark_in_a_later_segment_speaks_for_the_earlier_ones),
        cmocka_unit_test(a_hole_that_begins_exactly_at_the_mark_s_offset_is_the_tail),
        cmocka_unit_test(a_hole_across_the_mark_s_offset_is_rot_up_to_there_and_tail_behind),
        cmocka_unit_test(a_gap_between_two_segments_is_judged_by_the_marks),
        cmocka_unit_test(a_gap_inside_of_a_segment_is_judged_by_the_marks),
        cmocka_unit_test(a_feed_tells_of_a_gap_and_goes_on_behind_it),
        cmocka_unit_test(a_synced_log_whose_beginning_is_missing_is_reported),
        cmocka_unit_test(a_log_that_was_never_synced_and_has_no_beginning_is_cut),
        cmocka_unit_test(a_segment_whose_header_rotted_is_reported_and_its_records_stay),
        cmocka_unit_test(a_header_that_never_reached_the_disk_is_the_tail),
        cmocka_unit_test(a_segment_that_is_all_garbage_takes_no_other_with_it),
        cmocka_unit_test(the_highest_sequence_wins_whatever_the_files_are_called),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
