/* SPDX-License-Identifier: MIT */
/*
 * Rot that was skipped, and a torn tail that takes the proof along that it was rot
 * (proof.c). Recovery may die at any call, find no space, and find what an earlier one
 * has left: what was durable stays, what was cut stays away, and the rot is told as rot.
 *
 * The log: a, b (rot), c, and up to here it was durable; d, which did not reach the disk,
 * then e, and the mark that is the proof. d is as large as a mark, so that one in its
 * place leads on to e.
 */
#include "api/scratch.h"

#include "damage/lab.h"
#include "fault/faults.h"
#include "log/durable.h"
#include "log/inspect.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#define M         (&lab_manifest_1)
#define DIED      77
#define FILE_NAME "partition_0/durable"

enum layout { ONE_FILE, TWO_FILES, LAYOUTS };

static char path[LAB_PATH];
static uint64_t durable; /* in data_1.db */

static int setup(void **state)
{
    (void)state;
    lab_path(path, "proof");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm();
    fault_uninstall();
    lab_remove(path);
    return 0;
}

static void spoil(struct lab_log *log, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        log->data[i] = (uint8_t)(i * 151 + 7);
}

static void make_log(enum layout layout, bool with_tail)
{
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    size_t from = lab_log_put(&log, 2, "b", "2");
    size_t to = lab_log_put(&log, 3, "c", "3");
    spoil(&log, from, to);
    durable = log.size;
    if (layout == TWO_FILES) { /* d was to be in one between them */
        lab_log_end(&log, &image);
        lab_log_begin(&log, M, 0, 3, 5);
    } else if (with_tail) {
        from = lab_log_put(&log, 4, "d", "as large as them");
        assert_int_equal(log.size - from, 40);
        spoil(&log, from, log.size);
    }
    if (with_tail) {
        (void)lab_log_put(&log, 5, "e", "5");
        (void)lab_log_mark(&log, 6, 1, durable);
    }
    lab_log_end(&log, &image);
    lab_image_write(&image, path);
    lab_image_free(&image);
}

static bitkv *open_it(void)
{
    bitkv *db;
    int rc = lab_open(&db, path, (struct lab_open){.by_hand = true});
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void expect_kept(bitkv *db)
{
    lab_expect(db, "a", "1");
    lab_expect(db, "b", NULL);
    lab_expect(db, "c", "3");
    lab_expect(db, "d", NULL);
    lab_expect(db, "e", NULL);
}

static void lose_checkpoint(void)
{
    char name[LAB_PATH];
    lab_join(name, path, "partition_0/keydir.ckp");
    assert_int_equal(unlink(name), 0);
}

/* Now, after another opening, and when the log goes on behind it. */
static void expect_kept_from_now_on(void)
{
    bitkv *db = open_it();
    expect_kept(db);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lose_checkpoint();
    db = open_it();
    expect_kept(db);
    assert_int_equal(lab_recovery(db).torn_tails, 0);
    lab_put(db, "f", "6");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    db = open_it();
    expect_kept(db);
    lab_expect(db, "f", "6");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static bool there(void)
{
    char name[LAB_PATH];
    lab_join(name, path, FILE_NAME);
    return lab_exists(name);
}

/* In a child, which is not to be missed. Returns false when it came through. */
static bool dies_at(uint32_t n)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv *db;
        fault_install();
        fault_arm_death(n, DIED);
        int rc = lab_open(&db, path, (struct lab_open){.by_hand = true});
        _exit(rc == BITKV_OK ? 0 : 1);
    }
    int status = wait_child(child);
    assert_true(status == 0 || status == DIED);
    return status == DIED;
}

static void an_opening_may_die_at_any_call(void **state)
{
    (void)state;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        unsigned left = 0;
        bool died = true;
        for (uint32_t n = 0; died; n++) {
            make_log((enum layout)layout, true);
            died = dies_at(n);
            left += there();
            expect_kept_from_now_on();
            assert_false(there());
        }
        assert_true(left > 2); /* it was of use */
    }
}

static void and_so_may_the_one_that_comes_after_it(void **state)
{
    (void)state;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        for (uint32_t n = 6; n < 40; n += 2) {
            bool died = true;
            for (uint32_t again = n % 4; died; again += 4) {
                make_log((enum layout)layout, true);
                (void)dies_at(n);
                died = dies_at(again);
                expect_kept_from_now_on();
            }
        }
    }
}

/* --- no space ----------------------------------------------------------------------- */

static void open_without_space(uint32_t from, uint32_t count)
{
    fault_install();
    fault_arm(FAULT_pwrite, from, count, ENOSPC);
    bitkv *db = open_it();
    assert_int_equal(fault_fired(), count);
    fault_disarm();
    expect_kept(db);
    assert_int_equal(lab_recovery(db).damaged_regions, 1);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    fault_uninstall();
}

static void without_space_for_the_file_there_is_the_mark(void **state)
{
    (void)state;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        make_log((enum layout)layout, true);
        open_without_space(0, 1);
        assert_false(there());
        expect_kept_from_now_on();
    }
}

static void without_space_for_the_mark_there_is_the_file(void **state)
{
    (void)state;
    for (int layout = 0; layout < LAYOUTS; layout++) {
        make_log((enum layout)layout, true);
        open_without_space(1, 1);
        assert_true(there());
        expect_kept_from_now_on(); /* by the checkpoint, which may go */
        lose_checkpoint();
        expect_kept_from_now_on();
        assert_false(there());
    }
}

/* --- what it says ---------------------------------------------------------------------- */

static void write_file(uint32_t partition, uint64_t segment_id, uint64_t offset)
{
    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_durable place = {.segment_id = segment_id, .offset = offset};
    assert_int_equal(bkv_durable_write(dir, 0, M->database_id, &place), BITKV_OK);
    lab_dir_close(dir);
    char name[LAB_PATH];
    lab_join(name, path, FILE_NAME);
    if (partition != 0)
        flip_byte(name, 12);
}

/* As if the power had been cut between what was cut and the mark. */
static bitkv_recovery recovery_with(uint32_t partition, uint64_t segment_id, uint64_t offset)
{
    make_log(ONE_FILE, false);
    write_file(partition, segment_id, offset);
    bitkv *db = open_it();
    bitkv_recovery r = lab_recovery(db);
    lab_expect(db, "a", "1");
    lab_expect(db, "c", r.damaged_regions > 0 ? "3" : NULL);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    return r;
}

static void only_one_that_verifies_and_is_of_the_log_is_believed(void **state)
{
    (void)state;
    assert_int_equal(recovery_with(0, 1, 600).damaged_regions, 1);
    assert_int_equal(recovery_with(0, 2, 600).torn_tails, 1);
    assert_int_equal(recovery_with(0, 1, 64).torn_tails, 1);
    assert_int_equal(recovery_with(1, 1, 600).torn_tails, 1);
}

static unsigned errors, warnings;

static void on_finding(void *user, enum bkv_inspect_severity severity, const char *file,
                       uint64_t offset, uint64_t length, const char *message)
{
    (void)user, (void)file, (void)offset, (void)length, (void)message;
    errors += severity == BKV_INSPECT_ERROR;
    warnings += severity == BKV_INSPECT_WARNING;
}

static void inspect(void)
{
    struct bkv_inspect_result result;
    struct bkv_inspect_options options = {.on_finding = on_finding, .result = &result};
    errors = warnings = 0;
    (void)bkv_inspect(path, &options);
}

static void a_check_believes_it_likewise(void **state)
{
    (void)state;
    make_log(ONE_FILE, false);
    inspect();
    assert_int_equal(errors, 0);
    assert_int_equal(warnings, 1);
    write_file(0, 1, durable);
    inspect();
    assert_int_equal(errors, 1);
    assert_int_equal(warnings, 0);
    write_file(1, 1, durable);
    inspect();
    assert_int_equal(errors, 1); /* the file itself */
    assert_int_equal(warnings, 1);
}

/* An older one, of when there was no space for a mark; the log has gone on since. */
static void what_is_proven_since_is_not_forgotten(void **state)
{
    (void)state;
    for (uint64_t id = 1; id <= 2; id++) {
        bool died = true;
        for (uint32_t n = 0; died; n++) {
            make_log(ONE_FILE, true);
            write_file(0, id, 64);
            died = dies_at(n);
            expect_kept_from_now_on();
        }
    }
}

/* Also the one that is to be marked, which was there a moment ago. */
static void a_file_that_is_gone_fails_the_opening(void **state)
{
    (void)state;
    uint32_t fired = 1;
    for (uint32_t n = 0; fired > 0; n++) {
        bitkv *db = NULL;
        make_log(TWO_FILES, true);
        fault_install();
        fault_arm(FAULT_openat, n, 1, ENOENT);
        int rc = lab_open(&db, path, (struct lab_open){.by_hand = true});
        fired = fault_fired();
        fault_disarm();
        if (rc == BITKV_OK)
            assert_int_equal(bitkv_close(db), BITKV_OK);
        fault_uninstall();
        expect_kept_from_now_on();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_opening_may_die_at_any_call, setup, teardown),
        cmocka_unit_test_setup_teardown(and_so_may_the_one_that_comes_after_it, setup, teardown),
        cmocka_unit_test_setup_teardown(without_space_for_the_file_there_is_the_mark, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(without_space_for_the_mark_there_is_the_file, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(only_one_that_verifies_and_is_of_the_log_is_believed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_check_believes_it_likewise, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_is_gone_fails_the_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_proven_since_is_not_forgotten, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
