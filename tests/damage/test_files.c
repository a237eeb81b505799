/* SPDX-License-Identifier: MIT */
/*
 * Files that are missing, left over, foreign, stale or swapped; and tails of
 * every kind behind the last record.
 */
#include "damage/lab.h"

#include "log/format.h"
#include "log/record.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_sync_off();
    lab_path(path, "files");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_sync_on();
    lab_remove(path);
    return 0;
}

static bitkv *open_now(void)
{
    bitkv *db;
    int rc = lab_open(&db, path, (struct lab_open){.by_hand = true});
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static bitkv *open_image(struct lab_image *image)
{
    lab_image_write(image, path);
    return open_now();
}

static bitkv *reopen(bitkv *db)
{
    assert_int_equal(bitkv_close(db), BITKV_OK);
    return open_now();
}

/* Three segments with hints for the first two: a=3, b=2, c=3, d gone. */
static void make(struct lab_image *image)
{
    struct lab_log log;
    image->count = 0;
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_put(&log, 2, "d", "1");
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 1);
    lab_log_begin(&log, M, 0, 2, 3);
    (void)lab_log_put(&log, 3, "b", "2");
    (void)lab_log_delete(&log, 4, "d");
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 2);
    lab_log_begin(&log, M, 0, 3, 5);
    (void)lab_log_put(&log, 5, "a", "3");
    (void)lab_log_put(&log, 6, "c", "3");
    (void)lab_log_mark(&log, 7, 3, log.size);
    lab_log_end(&log, image);
}

static void expect_all(bitkv *db)
{
    lab_expect(db, "a", "3");
    lab_expect(db, "b", "2");
    lab_expect(db, "c", "3");
    lab_expect(db, "d", NULL);
}

static void make_closed(struct lab_image *image)
{
    make(image);
    bitkv *db = open_image(image);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(image);
    lab_image_read(image, path, SIZE_MAX / 2);
}

/* --- missing ------------------------------------------------------------------------- */

static void a_database_without_its_manifest_is_refused_not_begun_anew(void **state)
{
    (void)state;
    struct lab_image image;
    make_closed(&image);
    lab_image_drop(&image, "MANIFEST");
    lab_image_write(&image, path);
    bitkv *db;
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 1;
    assert_int_equal(bitkv_open(&db, path, &options), BITKV_ERR_CORRUPT);
    assert_non_null(strstr(bitkv_error_context(), "MANIFEST"));
    lab_image_free(&image);
}

static void a_missing_partition_directory_is_refused(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    lab_add_manifest(&image, &lab_manifest_2);
    (void)lab_image_add(&image, "partition_1/x", "", 0);
    lab_image_write(&image, path);
    bitkv *db;
    assert_int_equal(lab_open(&db, path, (struct lab_open){0}), BITKV_ERR_CORRUPT);
    assert_non_null(strstr(bitkv_error_context(), "partition_0"));
    lab_image_free(&image);
}

static void missing_hints_and_checkpoints_cost_nothing_but_time(void **state)
{
    (void)state;
    static const char *const names[] = {"partition_0/hint_1.ht", "partition_0/hint_2.ht",
                                        "partition_0/keydir.ckp"};
    for (size_t without = 0; without < 8; without++) {
        struct lab_image image;
        make_closed(&image);
        for (size_t i = 0; i < 3; i++) {
            if ((without >> i & 1) != 0)
                lab_image_drop(&image, names[i]);
        }
        bitkv *db = open_image(&image);
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.damaged_regions + r.torn_tails + r.rejected_hints, 0);
        expect_all(db);
        db = reopen(db);
        expect_all(db);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        /* What was missing has been made anew. */
        char full[LAB_PATH];
        for (size_t i = 0; i < 3; i++) {
            lab_join(full, path, names[i]);
            assert_true(lab_exists(full));
        }
        lab_image_free(&image);
    }
}

static void a_missing_data_file_is_reported(void **state)
{
    (void)state;
    for (int closed = 0; closed < 2; closed++) {
        for (int which = 1; which <= 3; which++) {
            struct lab_image image;
            if (closed)
                make_closed(&image);
            else
                make(&image);
            char name[64];
            (void)snprintf(name, sizeof name, "partition_0/data_%d.db", which);
            lab_image_drop(&image, name);
            struct lab_log_lines lines = {0};
            bitkv *db;
            lab_image_write(&image, path);
            assert_int_equal(lab_open(&db, path, (struct lab_open){.lines = &lines}), BITKV_OK);
            bitkv_recovery r = lab_recovery(db);
            if (which < 3 || closed) {
                assert_true(r.damaged_regions + r.rejected_checkpoints > 0);
                assert_true(lines.warnings > 0);
            }
            lab_expect(db, "a", which == 3 ? "1" : "3");
            lab_expect(db, "b", which == 2 ? NULL : "2");
            assert_int_equal(bitkv_close(db), BITKV_OK);
            lab_image_free(&image);
        }
    }
}

/* --- left over, foreign -------------------------------------------------------------------- */

static void leftovers_are_removed_and_foreign_files_left_alone(void **state)
{
    (void)state;
    struct lab_image image;
    make(&image);
    static const char *const leftovers[] = {"partition_0/hint_3.ht.tmp",
                                            "partition_0/keydir.ckp.tmp", "partition_0/data_9.db",
                                            "partition_0/data_10.db", "partition_0/hint_77.ht"};
    static const char *const foreign[] = {"README",
                                          "partition_0/notes.txt",
                                          "partition_0/data_4.db.bak",
                                          "partition_0/data_04.db",
                                          "partition_0/hint_4.ht~",
                                          "partition_9/x",
                                          "partition_notes"};
    static const uint8_t zeros[5000];
    for (size_t i = 0; i < 5; i++) /* data_9 is empty, data_10 prepared and never used */
        (void)lab_image_add(&image, leftovers[i], zeros, i == 2 ? 0 : sizeof zeros);
    for (size_t i = 0; i < 7; i++)
        (void)lab_image_add(&image, foreign[i], "not ours", 8);
    bitkv *db = open_image(&image);
    bitkv_recovery r = lab_recovery(db);
    assert_int_equal(r.removed_files, 5);
    assert_int_equal(r.damaged_regions, 0);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    char full[LAB_PATH];
    for (size_t i = 0; i < 5; i++) {
        lab_join(full, path, leftovers[i]);
        assert_false(lab_exists(full));
    }
    for (size_t i = 0; i < 7; i++) {
        lab_join(full, path, foreign[i]);
        assert_true(lab_exists(full));
    }
    lab_image_free(&image);
}

static void read_only_opening_changes_nothing(void **state)
{
    (void)state;
    struct lab_image image;
    make(&image);
    static const uint8_t zeros[100];
    (void)lab_image_add(&image, "partition_0/hint_3.ht.tmp", zeros, sizeof zeros);
    (void)lab_image_add(&image, "partition_0/data_9.db", zeros, sizeof zeros);
    struct lab_file *last = lab_image_find(&image, "partition_0/data_3.db");
    lab_file_resize(last, last->size + 100);
    memset(last->data + last->size - 60, 0x77, 60);
    lab_image_write(&image, path);
    bitkv *db;
    assert_int_equal(lab_open(&db, path, (struct lab_open){.read_only = true}), BITKV_OK);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    struct lab_image after = {.count = 0};
    lab_image_read(&after, path, SIZE_MAX / 2);
    assert_int_equal(after.count, image.count);
    for (size_t i = 0; i < image.count; i++) {
        const struct lab_file *now = lab_image_find(&after, image.files[i].name);
        assert_int_equal(now->size, image.files[i].size);
        assert_memory_equal(now->data, image.files[i].data, now->size);
    }
    lab_image_free(&after);
    lab_image_free(&image);
}

static bool is_there(uint64_t id)
{
    char name[64], full[LAB_PATH];
    (void)snprintf(name, sizeof name, "partition_0/data_%" PRIu64 ".db", id);
    lab_join(full, path, name);
    return lab_exists(full);
}

static void an_id_is_never_used_twice(void **state)
{
    (void)state;
    struct lab_image image;
    make(&image);
    (void)lab_image_add(&image, "partition_0/data_41.db", "", 0); /* empty: removed */
    bitkv *db = open_image(&image);
    static char value[50000];
    memset(value, 'v', sizeof value - 1);
    lab_put(db, "x", value);
    lab_put(db, "y", value);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    assert_false(is_there(41));
    uint64_t next = 42; /* compaction may have used some up by now */
    while (next < 60 && !is_there(next))
        next++;
    assert_true(next < 60);
    db = open_now();
    expect_all(db);
    lab_expect(db, "y", value);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

static void a_directory_in_a_file_s_place_is_an_error_not_a_crash(void **state)
{
    (void)state;
    static const char *const names[] = {"MANIFEST", "partition_0/data_1.db",
                                        "partition_0/hint_1.ht", "partition_0/keydir.ckp",
                                        "partition_0/hint_1.ht.tmp"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct lab_image image;
        make(&image);
        lab_image_write(&image, path);
        char full[LAB_PATH];
        lab_join(full, path, names[i]);
        (void)unlink(full);
        assert_int_equal(mkdir(full, 0700), 0);
        bitkv *db;
        int rc = lab_open(&db, path, (struct lab_open){0});
        if (rc == BITKV_OK) {
            expect_all(db);
            (void)bitkv_close(db);
        } else {
            assert_string_not_equal(bitkv_error_context(), "");
        }
        lab_image_free(&image);
    }
}

static void a_segment_of_another_database_is_reported_and_left_alone(void **state)
{
    (void)state;
    struct bkv_manifest other = lab_manifest_1;
    other.database_id[5] ^= 1;
    struct lab_image image;
    struct lab_log log;
    make(&image);
    lab_log_begin(&log, &other, 0, 4, 8);
    (void)lab_log_put(&log, 8, "a", "theirs");
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image);
    assert_int_equal(lab_recovery(db).damaged_regions, 1);
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    char full[LAB_PATH];
    lab_join(full, path, "partition_0/data_4.db");
    assert_true(lab_exists(full));
    lab_image_free(&image);
}

static void two_segments_that_changed_names_are_noticed(void **state)
{
    (void)state;
    struct lab_image image;
    make_closed(&image);
    struct lab_file *one = lab_image_find(&image, "partition_0/data_1.db");
    struct lab_file *two = lab_image_find(&image, "partition_0/data_2.db");
    uint8_t *data = one->data;
    one->data = two->data;
    two->data = data;
    size_t size = one->size;
    one->size = two->size;
    two->size = size;
    struct lab_log_lines lines = {0};
    bitkv *db;
    lab_image_write(&image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.lines = &lines}), BITKV_OK);
    assert_true(lab_recovery(db).damaged_regions >= 2);
    lab_expect(db, "a", "3");
    lab_expect(db, "c", "3");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

/* --- tails --------------------------------------------------------------------------------- */

/* Appends bytes behind the last record and opens twice: what was there stays,
 * what was appended is never served, and writing goes on. */
static void check_tail(struct lab_image *image, const void *bytes, size_t size, bool torn)
{
    struct lab_image copy;
    lab_image_copy(&copy, image);
    struct lab_file *last = lab_image_find(&copy, "partition_0/data_3.db");
    size_t before = last->size;
    lab_file_resize(last, before + size);
    if (bytes != NULL)
        memcpy(last->data + before, bytes, size);
    bitkv *db;
    lab_image_write(&copy, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_OK);
    assert_int_equal(lab_recovery(db).torn_tails, torn);
    expect_all(db);
    lab_put(db, "new", "1");
    for (int i = 0; i < 2; i++) {
        db = reopen(db);
        assert_int_equal(lab_recovery(db).torn_tails, 0);
        expect_all(db);
        lab_expect(db, "new", "1");
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&copy);
}

static void tails_of_every_kind_are_cut(void **state)
{
    (void)state;
    for (int closed = 0; closed < 2; closed++) {
        struct lab_image image;
        if (closed)
            make_closed(&image);
        else
            make(&image);
        check_tail(&image, NULL, 0, false);
        check_tail(&image, NULL, 1, false);
        check_tail(&image, NULL, 4096 - 7, false);
        uint8_t garbage[300];
        memset(garbage, 0xa5, sizeof garbage);
        for (size_t size = 1; size < sizeof garbage; size += 37)
            check_tail(&image, garbage, size, true);

        /* half a record */
        struct lab_log log;
        size_t end = lab_image_find(&image, "partition_0/data_3.db")->size;
        lab_log_begin(&log, M, 0, 3, 5);
        lab_log_bytes(&log, NULL, end - log.size);
        (void)lab_log_put(&log, 100, "a", "a value that never became whole");
        for (size_t size = 4; size < log.size - end; size += 9)
            check_tail(&image, log.data + end, size, true);
        free(log.data);

        /* stale copies of records that verify elsewhere: of another offset,
         * segment, partition, database */
        struct bkv_manifest other = lab_manifest_1;
        other.database_id[0] ^= 1;
        for (int kind = 0; kind < 4; kind++) {
            lab_log_begin(&log, kind == 3 ? &other : M, kind == 2 ? 1 : 0, kind == 1 ? 2 : 3, 1);
            lab_log_bytes(&log, NULL, end - log.size + (kind == 0 ? 64 : 0));
            size_t at = lab_log_put(&log, 8, "a", "stale");
            check_tail(&image, log.data + at, log.size - at, true);
            free(log.data);
        }
        lab_image_free(&image);
    }
}

/* Nor behind what is appended in its place: it verifies, and its number would be
 * the next. */
static void what_was_cut_does_not_come_back(void **state)
{
    (void)state;
    struct lab_image image;
    make(&image);
    lab_image_drop(&image, "partition_0/data_3.db");
    struct lab_log log;
    lab_log_begin(&log, M, 0, 3, 5);
    (void)lab_log_put(&log, 5, "a", "3");
    (void)lab_log_put(&log, 6, "c", "3");
    (void)lab_log_mark(&log, 7, 3, log.size);
    size_t torn = lab_log_put(&log, 8, "x", "1");
    (void)lab_log_put(&log, 9, "a", "unsynced");
    log.data[torn] ^= 1;
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image);
    assert_int_equal(lab_recovery(db).torn_tails, 1);
    expect_all(db);
    lab_put(db, "x", "1");
    struct lab_image crashed;
    lab_image_read(&crashed, path, 64);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    db = open_image(&crashed);
    lab_expect(db, "x", "1");
    expect_all(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&crashed);
    lab_image_free(&image);
}

static void a_record_of_an_old_sequence_is_not_taken_for_new(void **state)
{
    (void)state;
    struct lab_image image;
    make(&image);
    struct lab_file *last = lab_image_find(&image, "partition_0/data_3.db");
    struct lab_log log;
    lab_log_begin(&log, M, 0, 3, 5);
    lab_log_bytes(&log, NULL, last->size - log.size);
    size_t at = lab_log_put(&log, 5, "a", "old, but it verifies");
    check_tail(&image, log.data + at, log.size - at, true);
    free(log.data);
    lab_image_free(&image);
}

/* --- stale hints and checkpoints --------------------------------------------- */

static void an_older_checkpoint_of_the_same_database_is_caught_up(void **state)
{
    (void)state;
    struct lab_image image;
    make_closed(&image);
    struct lab_image old;
    lab_image_copy(&old, &image);
    bitkv *db = open_image(&image);
    static char value[30000];
    memset(value, 'v', sizeof value - 1);
    for (int i = 0; i < 12; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "key%d", i % 5);
        value[0] = (char)('a' + i);
        lab_put(db, key, value);
    }
    lab_put(db, "a", "4");
    assert_int_equal(bitkv_del(db, "b", 1), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
    lab_image_read(&image, path, SIZE_MAX / 2);
    for (int hints = 0; hints < 2; hints++) {
        struct lab_image mixed;
        lab_image_copy(&mixed, &image);
        const struct lab_file *ckp = lab_image_find(&old, "partition_0/keydir.ckp");
        lab_image_drop(&mixed, "partition_0/keydir.ckp");
        (void)lab_image_add(&mixed, ckp->name, ckp->data, ckp->size);
        for (size_t i = 0; hints == 0 && i < mixed.count;) {
            if (strstr(mixed.files[i].name, "/hint_") != NULL)
                lab_image_drop(&mixed, mixed.files[i].name);
            else
                i++;
        }
        db = open_image(&mixed);
        for (int round = 0; round < 2; round++) {
            bitkv_recovery r = lab_recovery(db);
            assert_int_equal(r.damaged_regions + r.torn_tails, 0);
            lab_expect(db, "a", "4");
            lab_expect(db, "b", NULL);
            lab_expect(db, "c", "3");
            value[0] = 'a' + 11;
            lab_expect(db, "key1", value);
            value[0] = 'a' + 9;
            lab_expect(db, "key4", value);
            db = reopen(db);
        }
        assert_int_equal(bitkv_close(db), BITKV_OK);
        lab_image_free(&mixed);
    }
    lab_image_free(&image);
    lab_image_free(&old);
}

static void a_checkpoint_newer_than_the_data_is_refused(void **state)
{
    (void)state;
    struct lab_image image;
    make_closed(&image);
    struct lab_image old;
    lab_image_copy(&old, &image);
    bitkv *db = open_image(&image);
    lab_put(db, "a", "4");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
    lab_image_read(&image, path, SIZE_MAX / 2);
    const struct lab_file *ckp = lab_image_find(&image, "partition_0/keydir.ckp");
    lab_image_drop(&old, "partition_0/keydir.ckp");
    (void)lab_image_add(&old, ckp->name, ckp->data, ckp->size);
    db = open_image(&old);
    assert_int_equal(lab_recovery(db).rejected_checkpoints, 1);
    expect_all(db);
    /* Once the log is as long again it would seem to fit: it is gone by then. */
    lab_put(db, "b", "5");
    struct lab_image crashed;
    lab_image_read(&crashed, path, SIZE_MAX / 2);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    db = open_image(&crashed);
    lab_expect(db, "a", "3");
    lab_expect(db, "b", "5");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&crashed);
    lab_image_free(&image);
    lab_image_free(&old);
}

static void another_database_s_checkpoint_or_hint_is_refused(void **state)
{
    (void)state;
    struct lab_image image;
    make_closed(&image);
    static const char *const names[] = {"partition_0/keydir.ckp", "partition_0/hint_1.ht"};
    for (size_t i = 0; i < 2; i++) {
        struct lab_image copy;
        lab_image_copy(&copy, &image);
        /* The same files, but the database has another identity. */
        struct bkv_manifest other = lab_manifest_1;
        other.database_id[1] ^= 1;
        struct lab_image theirs = {.count = 0};
        lab_add_manifest(&theirs, &other);
        struct lab_log log;
        lab_log_begin(&log, &other, 0, 1, 1);
        (void)lab_log_put(&log, 1, "a", "theirs");
        (void)lab_log_put(&log, 2, "d", "theirs");
        lab_log_end(&log, &theirs);
        const struct lab_file *file = lab_image_find(&copy, names[i]);
        (void)lab_image_add(&theirs, names[i], file->data, file->size);
        bitkv *db = open_image(&theirs);
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.rejected_hints + r.rejected_checkpoints, 1);
        lab_expect(db, "a", "theirs");
        lab_expect(db, "b", NULL);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        lab_image_free(&theirs);
        lab_image_free(&copy);
    }
    lab_image_free(&image);
}

static void a_hint_that_describes_less_than_its_segment_is_refused(void **state)
{
    (void)state;
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    lab_log_end(&log, &image);
    lab_add_hint(&image, M, 0, 1);
    struct lab_image old;
    lab_image_copy(&old, &image);
    lab_image_free(&image);
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_put(&log, 2, "a", "2");
    (void)lab_log_put(&log, 3, "b", "2");
    lab_log_end(&log, &image);
    const struct lab_file *hint = lab_image_find(&old, "partition_0/hint_1.ht");
    (void)lab_image_add(&image, hint->name, hint->data, hint->size);
    bitkv *db = open_image(&image);
    assert_int_equal(lab_recovery(db).rejected_hints, 1);
    for (int i = 0; i < 2; i++) {
        lab_expect(db, "a", "2");
        lab_expect(db, "b", "2");
        db = reopen(db);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
    lab_image_free(&old);
}

static void a_hint_never_hides_damage(void **state)
{
    (void)state;
    /* Rot met when a segment's hint would be written: it has none, so that
     * each opening meets and reports the rot again. */
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    size_t at = lab_log_put(&log, 2, "a", "2");
    log.data[at + 6] ^= 4;
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 0, 2, 3);
    (void)lab_log_put(&log, 3, "b", "3");
    (void)lab_log_mark(&log, 4, 2, log.size);
    lab_log_end(&log, &image);
    bitkv *db = open_image(&image);
    assert_true(lab_recovery(db).damaged_regions >= 1);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    char full[LAB_PATH];
    lab_join(full, path, "partition_0/hint_1.ht");
    assert_false(lab_exists(full));
    lab_join(full, path, "partition_0/keydir.ckp");
    assert_int_equal(unlink(full), 0);
    db = open_now();
    assert_true(lab_recovery(db).damaged_regions >= 1);
    lab_expect(db, "a", "1");
    lab_expect(db, "b", "3");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_database_without_its_manifest_is_refused_not_begun_anew),
        cmocka_unit_test(a_missing_partition_directory_is_refused),
        cmocka_unit_test(missing_hints_and_checkpoints_cost_nothing_but_time),
        cmocka_unit_test(a_missing_data_file_is_reported),
        cmocka_unit_test(leftovers_are_removed_and_foreign_files_left_alone),
        cmocka_unit_test(read_only_opening_changes_nothing),
        cmocka_unit_test(an_id_is_never_used_twice),
        cmocka_unit_test(a_directory_in_a_file_s_place_is_an_error_not_a_crash),
        cmocka_unit_test(a_segment_of_another_database_is_reported_and_left_alone),
        cmocka_unit_test(two_segments_that_changed_names_are_noticed),
        cmocka_unit_test(tails_of_every_kind_are_cut),
        cmocka_unit_test(what_was_cut_does_not_come_back),
        cmocka_unit_test(a_record_of_an_old_sequence_is_not_taken_for_new),
        cmocka_unit_test(an_older_checkpoint_of_the_same_database_is_caught_up),
        cmocka_unit_test(a_checkpoint_newer_than_the_data_is_refused),
        cmocka_unit_test(another_database_s_checkpoint_or_hint_is_refused),
        cmocka_unit_test(a_hint_that_describes_less_than_its_segment_is_refused),
        cmocka_unit_test(a_hint_never_hides_damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
