/* SPDX-License-Identifier: MIT */
/*
 * A follower's refresh, every call and every allocation of which fails in turn, and
 * files that change while it reads them: it fails as a whole or takes a part in, no
 * key has a value that it never had, and the next refresh brings everything.
 *
 * What the writer does meanwhile is made by hand: files of an earlier state are
 * overwritten in place by those of a later one.
 */
#include "fault/refresh.h"

static void expect_after(bitkv *db)
{
    for (unsigned k = 0; k < 140; k++)
        lab_expect(db, keys[k], k == 9 || k == 10 ? NULL : k < 6 ? "2" : "1");
    lab_expect(db, other_key, "2");
}

static bool cut; /* a file has lost its end */

static bool may_be(int rc)
{
    return rc == BITKV_ERR_IO || rc == BITKV_ERR_STALE || rc == BITKV_ERR_NO_MEMORY ||
           (cut && rc == BITKV_ERR_CORRUPT);
}

/* Either what was, or what is; and what was not new is there. */
static void expect_either(bitkv *db)
{
    for (unsigned k = 0; k < 140; k++) {
        int rc;
        const char *value = lab_get(db, keys[k], &rc);
        if (rc == BITKV_NOT_FOUND)
            assert_true(k == 9 || k == 10 || k >= 20);
        else if (rc == BITKV_OK)
            assert_true(strcmp(value, "1") == 0 || (k < 6 && strcmp(value, "2") == 0));
        else if (!may_be(rc))
            fail_msg("get: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    }
}

/* --- failures -------------------------------------------------------------------------------- */

/* What a fault of the refresh may look like. */
static void check_refresh(bitkv *db, int rc, int wanted, uint32_t fired)
{
    if (rc != BITKV_OK && rc != wanted && rc != BITKV_ERR_STALE)
        fail_msg("refresh: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    assert_true(rc == BITKV_OK || fired > 0);
    if (rc == BITKV_OK)
        expect_after(db);
    else
        expect_either(db);
}

/* Then everything is well. */
static void check_next(bitkv *db)
{
    int rc = bitkv_refresh(db);
    if (rc != BITKV_OK)
        fail_msg("refresh again: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    expect_after(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static const bitkv_io_mode modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};

static void a_call_that_fails_costs_one_refresh(void **state)
{
    (void)state;
    make_images();
    for (unsigned m = 0; m < 2; m++) {
        for (uint32_t n = 0, fired = 1; fired > 0; n++) {
            bitkv *db = follow_before(modes[m]);
            expect_either(db); /* files are open now */
            go_on();
            fault_arm_all(n, 1, EIO);
            int rc = bitkv_refresh(db);
            fired = fault_fired();
            fault_disarm();
            check_refresh(db, rc, BITKV_ERR_IO, fired);
            bitkv_snapshot *snapshot; /* of no half of it */
            assert_int_equal(bitkv_snapshot_create(&snapshot, db), BITKV_OK);
            assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
            check_next(db);
        }
    }
}

/* Compaction has removed it between its listing and its opening. */
static void a_file_that_is_gone_is_looked_for_again(void **state)
{
    (void)state;
    make_images();
    for (uint32_t count = 1; count <= 1000; count += 999) {
        for (uint32_t n = 0, fired = 1; fired > 0; n++) {
            bitkv *db = follow_before(BITKV_IO_PWRITE);
            go_on();
            fault_arm(FAULT_openat, n, count, ENOENT);
            int rc = bitkv_refresh(db);
            fired = fault_fired();
            fault_disarm();
            check_refresh(db, rc, BITKV_ERR_STALE, fired);
            check_next(db);
        }
    }
}

/* Pages of the KeyDir that a change could take without an allocation. */
static void drain(const bitkv *db)
{
    for (uint32_t i = 0; i < db->partition_count; i++) {
        struct arena *arena = &db->partitions[i]->keydir->arena;
        fault_arm_memory(0, UINT32_MAX);
        while (bkv_arena_page(arena) != NULL)
            ;
        fault_disarm();
    }
}

static void refresh_without_memory(uint32_t n, uint32_t count, bool snapshot, uint32_t *fired)
{
    bitkv *db = follow_before(BITKV_IO_MMAP);
    bitkv_snapshot *taken = NULL;
    expect_either(db);
    if (snapshot)
        assert_int_equal(bitkv_snapshot_create(&taken, db), BITKV_OK);
    drain(db);
    go_on();
    fault_arm_memory(n, count);
    int rc = bitkv_refresh(db);
    *fired = fault_fired();
    fault_disarm();
    check_refresh(db, rc, BITKV_ERR_NO_MEMORY, *fired);
    if (snapshot) {
        size_t size;
        char value[8];
        assert_int_equal(
            bitkv_snapshot_get_into(taken, keys[0], strlen(keys[0]), value, sizeof value, &size),
            BITKV_OK);
        assert_int_equal(value[0], '1');
        assert_int_equal(bitkv_snapshot_destroy(taken), BITKV_OK);
    }
    check_next(db);
}

static void an_allocation_that_fails_costs_one_refresh(void **state)
{
    (void)state;
    make_images();
    for (unsigned snapshot = 0; snapshot < 2; snapshot++) {
        for (uint32_t n = 0, fired = 1; fired > 0; n++)
            refresh_without_memory(n, 1, snapshot != 0, &fired);
        for (uint32_t n = 0, fired = 1; fired > 0; n++)
            refresh_without_memory(n, UINT32_MAX, snapshot != 0, &fired);
    }
}

/* What is the first to change something: a subtable is copied for the snapshot only
 * once, and only that takes memory. */
enum first { FIRST_DELETE, FIRST_MOVE, FIRST_EXPIRY, FIRST_PUT, FIRST_FILE, FIRSTS };

static void make_first(enum first first)
{
    struct lab_log log;
    begin_images();
    add_other(&before, false);
    add_other(&after, false);
    (void)lab_image_add(&before, "partition_0/notes.txt", "", 0); /* there is a directory */
    if (first != FIRST_FILE)
        add_stream(&before, 0, 1, 1, 10, 0, "1");
    if (first == FIRST_MOVE || first == FIRST_EXPIRY)
        begin_compacted(&log, 2, 1, 10);
    else
        lab_log_begin(&log, M, 0, 1, 1);
    if (first != FIRST_EXPIRY)
        put_range(&log, 1, 10, 0, "1");
    if (first == FIRST_DELETE)
        (void)lab_log_delete(&log, 11, keys[9]);
    if (first == FIRST_PUT)
        (void)lab_log_put(&log, 11, keys[9], "2");
    lab_log_end(&log, &after);
}

static void expect_first(bitkv *db, enum first first)
{
    for (unsigned k = 0; k < 9; k++)
        lab_expect(db, keys[k], first == FIRST_EXPIRY ? NULL : "1");
    bool none = first == FIRST_EXPIRY || first == FIRST_DELETE;
    lab_expect(db, keys[9], none ? NULL : first == FIRST_PUT ? "2" : "1");
}

static void a_change_that_memory_lacks_for_is_made_by_the_next_refresh(void **state)
{
    (void)state;
    for (enum first first = 0; first < FIRSTS; first++) {
        make_first(first);
        for (uint32_t n = 0, fired = 1; fired > 0; n++) {
            bitkv_snapshot *snapshot;
            bitkv *db = follow_before(BITKV_IO_PWRITE);
            assert_int_equal(bitkv_snapshot_create(&snapshot, db), BITKV_OK);
            drain(db);
            go_on();
            fault_arm_memory(n, UINT32_MAX);
            int rc = bitkv_refresh(db);
            fired = fault_fired();
            fault_disarm();
            assert_true(rc == BITKV_OK || (rc == BITKV_ERR_NO_MEMORY && fired > 0));
            assert_int_equal(bitkv_snapshot_exists(snapshot, keys[9], strlen(keys[9])),
                             first == FIRST_FILE ? BITKV_NOT_FOUND : BITKV_OK);
            assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
            assert_int_equal(bitkv_refresh(db), BITKV_OK);
            expect_first(db, first);
            assert_int_equal(bitkv_close(db), BITKV_OK);
        }
    }
}

/* --- files that change meanwhile ------------------------------------------------------------- */

static struct bkv_io_ops ops;
static uint32_t opened, open_due;
static off_t cut_to;

/* Takes the log's end away. */
static int cut_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (opened++ == open_due) {
        char full[LAB_PATH];
        lab_join(full, path, "partition_0/data_2.db");
        assert_int_equal(truncate(full, cut_to), 0);
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

/* At every moment; what a follower has taken in it keeps. */
static void a_log_that_is_cut_during_a_refresh_is_noticed(void **state)
{
    (void)state;
    make_images();
    ops = bkv_io_kernel;
    ops.openat = cut_openat;
    cut_to = (off_t)lab_image_find(&after, "partition_0/data_2.db")->size - 1000;
    unsigned stale = 0;
    for (open_due = 0, opened = UINT32_MAX; opened > open_due; open_due++) {
        bitkv *db = follow_before(BITKV_IO_PWRITE);
        go_on();
        opened = 0;
        bkv_io = &ops;
        int rc = bitkv_refresh(db);
        fault_install();
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_STALE);
        stale += rc == BITKV_ERR_STALE;
        cut = true;
        expect_either(db);
        cut = false;
        lab_expect(db, keys[11], "1");
        go_on(); /* as if it had been written again */
        check_next(db);
    }
    assert_true(stale > 0);
}

/* --- states that no writer makes ------------------------------------------------------------- */

static void refresh_and_close(int wanted, const char *context)
{
    bitkv *db = refresh_to_after(wanted, context);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void a_log_that_goes_on_elsewhere_is_not_followed(void **state)
{
    (void)state;
    struct lab_log log;
    begin_images(); /* a compacted file behind a gap */
    add_begun(&before);
    add_begun(&after);
    begin_compacted(&log, 2, 50, 60);
    put_range(&log, 50, 55, 20, "1");
    lab_log_end(&log, &after);
    refresh_and_close(BITKV_ERR_STALE, "data_2.db");

    begin_images(); /* a file with the numbers that the empty last one was to have */
    add_begun(&before);
    add_stream(&before, 0, 2, 11, 10, 0, "");
    add_begun(&after);
    add_stream(&after, 0, 2, 11, 10, 0, "");
    add_stream(&after, 0, 3, 11, 15, 20, "1");
    refresh_and_close(BITKV_ERR_STALE, "data_2.db");

    begin_images(); /* the tail was no tail: the log goes on, but not up to the next file */
    add_begun(&before);
    lab_file_resize(lab_image_find(&before, "partition_0/data_1.db"), 64 + 9 * 24 + 10);
    add_stream(&before, 0, 2, 20, 22, 20, "1");
    add_begun(&after);
    add_stream(&after, 0, 2, 20, 22, 20, "1");
    bitkv *db = follow_before(BITKV_IO_PWRITE);
    go_on();
    assert_int_equal(bitkv_refresh(db), BITKV_ERR_STALE);
    lab_expect(db, keys[8], "1");
    lab_expect(db, keys[20], NULL);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void files_that_are_no_part_of_the_log_yet_are_left_alone(void **state)
{
    (void)state;
    static const uint8_t zeros[4096];
    begin_images();
    add_begun(&before);
    add_begun(&after);
    (void)lab_image_add(&after, "partition_0/data_2.db", zeros, sizeof zeros); /* prepared */
    (void)lab_image_add(&after, "partition_0/data_3.db", "odd", 3);
    (void)lab_image_add(&after, "partition_0/notes.txt", "odd", 3);
    (void)lab_image_add(&after, "partition_0/hint_4.ht.tmp", "odd", 3);
    refresh_and_close(BITKV_OK, NULL);

    struct lab_log log; /* of another version */
    lab_log_begin(&log, M, 0, 5, 11);
    bkv_put32(log.data + 8, BKV_FORMAT_VERSION + 1);
    bkv_put32(log.data + 60, bkv_crc32c(0, log.data, 60));
    lab_log_end(&log, &after);
    refresh_and_close(BITKV_ERR_FORMAT, "data_5.db");
}

/* A header that claims more peers than it has, and one that has none. */
static void a_batch_whose_header_is_unsound_is_not_taken_in(void **state)
{
    (void)state;
    for (uint32_t claimed = 0; claimed <= 2; claimed++) {
        struct lab_log log;
        begin_images();
        add_begun(&before);
        add_other(&after, false);
        lab_log_begin(&log, M, 0, 1, 1);
        put_range(&log, 1, 10, 0, "1");
        uint8_t value[BKV_BATCH_FIXED + BKV_BATCH_PEER] = {0};
        bkv_put32(value, 1);
        bkv_put32(value + 4, claimed);
        bkv_put32(value + 8, UINT32_MAX); /* no such partition */
        (void)lab_log_raw(&log, BKV_RECORD_BATCH, 11, NULL, 0, value,
                          claimed == 0 ? BKV_BATCH_FIXED : sizeof value);
        (void)lab_log_put(&log, 12, keys[20], "1");
        lab_log_end(&log, &after);
        bitkv *db = refresh_to_after(BITKV_OK, NULL);
        lab_expect(db, keys[20], claimed == 0 ? "1" : NULL);
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* The other partition has some of its part, or its header at a later place. The rest
 * of the log waits: a file behind it, and what compaction makes of that. */
static void a_batch_waits_for_the_rest_of_its_parts(void **state)
{
    (void)state;
    for (unsigned way = 0; way < 3; way++) {
        struct lab_log log;
        begin_images();
        add_begun(&before);
        add_stream(&after, 0, 1, 1, 10, 0, "1");
        lab_log_begin(&log, M, 1, 1, 1);
        (void)lab_log_put(&log, 1, other_key, "1");
        if (way == 1)
            put_group(&log, 2, 5, 0, 1, 11); /* and none of the five */
        lab_log_end(&log, &after);
        lab_log_begin(&log, M, 0, 2, 11);
        put_group(&log, 11, 1, 1, 5, 2);
        (void)lab_log_put(&log, 12, keys[20], "1");
        lab_log_end(&log, &after);
        if (way == 2)
            begin_compacted(&log, 3, 13, 14);
        else
            lab_log_begin(&log, M, 0, 3, 13);
        put_range(&log, 13, 14, 21, "1");
        lab_log_end(&log, &after);
        bitkv *db = refresh_to_after(BITKV_OK, NULL);
        lab_expect(db, keys[20], NULL);
        lab_expect(db, keys[21], NULL);
        lab_expect(db, other_key, "1");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* --- hints of compacted files ---------------------------------------------------------------- */

enum odd { ODD_NONE, ODD_MISSING, ODD_ROTTEN, ODD_SHORT, ODD_BEFORE, ODD_EMPTY, ODD_BEYOND, ODDS };

static void seal_hint(struct lab_file *hint)
{
    bkv_put32(hint->data + 112,
              bkv_crc32c(0, hint->data + BKV_HINT_HEADER, hint->size - BKV_HINT_HEADER));
    bkv_put32(hint->data + 116, bkv_crc32c(0, hint->data, 116));
}

static void set_entry(struct lab_file *hint, uint64_t offset, uint32_t size_code)
{
    uint8_t *packed = hint->data + BKV_HINT_HEADER + 8;
    uint64_t upper = bkv_get64(packed) >> 39 << 39;
    bkv_put64(packed, upper | offset / 8 << 12 | size_code);
}

static void make_odd(struct lab_image *image, const char *name, enum odd odd)
{
    struct lab_file *hint = lab_image_find(image, name);
    if (odd == ODD_SHORT)
        bkv_put64(hint->data + 40, bkv_get64(hint->data + 40) - 24);
    if (odd == ODD_BEFORE)
        set_entry(hint, 8, 3);
    if (odd == ODD_EMPTY)
        set_entry(hint, 64, 1);
    if (odd == ODD_BEYOND)
        set_entry(hint, 64, 200);
    seal_hint(hint);
    if (odd == ODD_ROTTEN)
        hint->data[hint->size - 1] ^= 1;
    if (odd == ODD_MISSING)
        lab_image_drop(image, name);
}

/* What it says is not believed, but looked up in the data. */
static void a_hint_that_points_nowhere_is_not_followed(void **state)
{
    (void)state;
    for (enum odd odd = ODD_NONE; odd < ODDS; odd++) {
        struct lab_log log;
        begin_images();
        add_begun(&before);
        add_stream(&before, 0, 2, 11, 15, 10, "1");
        begin_compacted(&log, 3, 1, 10);
        put_range(&log, 1, 10, 0, "1");
        lab_log_end(&log, &after);
        lab_add_hint(&after, M, 0, 3);
        make_odd(&after, "partition_0/hint_3.ht", odd);
        add_stream(&after, 0, 2, 11, 16, 10, "1");
        add_other(&after, false);
        bitkv *db = refresh_to_after(BITKV_OK, NULL);
        for (unsigned k = 0; k < 16; k++)
            lab_expect(db, keys[k], "1");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* Compacted files are durable before they have their names. */
static void a_compacted_file_with_rot_is_not_followed(void **state)
{
    (void)state;
    struct lab_log log;
    begin_images();
    add_begun(&before);
    add_stream(&before, 0, 2, 11, 15, 10, "1");
    begin_compacted(&log, 3, 1, 10);
    put_range(&log, 1, 10, 0, "1");
    log.data[log.size - 30] ^= 1;
    lab_log_end(&log, &after);
    add_stream(&after, 0, 2, 11, 16, 10, "1");
    add_other(&after, false);
    bitkv *db = follow_before(BITKV_IO_MMAP);
    for (unsigned k = 0; k < 10; k++)
        lab_expect(db, keys[k], "1");
    go_on();
    assert_int_equal(bitkv_refresh(db), BITKV_ERR_STALE);
    assert_non_null(strstr(bitkv_error_context(), "data_3.db"));
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* --- another database ------------------------------------------------------------------------ */

static void a_manifest_that_is_another_is_not_followed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct bkv_manifest other = *M;
        begin_images();
        add_begun(&before);
        bitkv *db = follow_before(BITKV_IO_PWRITE);
        other.partitions -= i == 0;
        other.database_id[3] ^= i == 1;
        lab_image_drop(&after, "MANIFEST");
        lab_add_manifest(&after, &other);
        struct lab_file *file = lab_image_find(&after, "MANIFEST");
        if (i == 2) { /* of another version */
            bkv_put32(file->data + 8, BKV_FORMAT_VERSION + 1);
            bkv_put32(file->data + 124, bkv_crc32c(0, file->data, 124));
        }
        file->data[100] ^= i == 3;
        write_over(file);
        assert_int_equal(bitkv_refresh(db), BITKV_ERR_STALE);
        lab_expect(db, keys[0], "1");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_call_that_fails_costs_one_refresh, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_gone_is_looked_for_again, setup, teardown),
        cmocka_unit_test_setup_teardown(an_allocation_that_fails_costs_one_refresh, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_change_that_memory_lacks_for_is_made_by_the_next_refresh,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_that_is_cut_during_a_refresh_is_noticed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_log_that_goes_on_elsewhere_is_not_followed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(files_that_are_no_part_of_the_log_yet_are_left_alone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_batch_whose_header_is_unsound_is_not_taken_in, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_batch_waits_for_the_rest_of_its_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hint_that_points_nowhere_is_not_followed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_compacted_file_with_rot_is_not_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_manifest_that_is_another_is_not_followed, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
