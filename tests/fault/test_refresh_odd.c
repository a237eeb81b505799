/* SPDX-License-Identifier: MIT */
/*
 * Files that no writer makes, or seldom: batches whose headers and parts do not fit,
 * ranges that contradict each other. A refresh takes in what holds, or says that it cannot.
 */
#include "fault/refresh.h"

/* Somebody has made it: the header claims more of the other part than there is. */
static void a_batch_that_claims_more_of_its_peer_than_there_is_waits(void **state)
{
    (void)state;
    struct lab_log log;
    begin_images();
    add_begun(&before);
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 10, 0, "1");
    put_group(&log, 11, 1, 1, 1, 2);
    (void)lab_log_put(&log, 12, keys[20], "1");
    lab_log_end(&log, &after);
    lab_log_begin(&log, M, 1, 1, 1);
    (void)lab_log_put(&log, 1, other_key, "1");
    put_group(&log, 2, 1, 0, 50, 11);
    (void)lab_log_put(&log, 3, other_key, "2");
    lab_log_end(&log, &after);
    bitkv *db = refresh_to_after(BITKV_OK, NULL);
    lab_expect(db, other_key, "1");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* Behind a whole batch with a peer there is the beginning of one without. */
static void the_beginning_of_a_batch_takes_no_other_along(void **state)
{
    (void)state;
    struct lab_log log;
    uint8_t value[BKV_BATCH_FIXED] = {0};
    begin_images();
    add_begun(&before);
    lab_log_begin(&log, M, 1, 1, 1);
    (void)lab_log_put(&log, 1, other_key, "1");
    put_group(&log, 2, 1, 0, 1, 11);
    (void)lab_log_put(&log, 3, other_key, "2");
    lab_log_end(&log, &after);
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 10, 0, "1");
    put_group(&log, 11, 1, 1, 1, 2);
    (void)lab_log_put(&log, 12, keys[20], "1");
    bkv_put32(value, 2);
    (void)lab_log_raw(&log, BKV_RECORD_BATCH, 13, NULL, 0, value, sizeof value);
    (void)lab_log_put(&log, 14, keys[21], "1"); /* one of two */
    lab_log_end(&log, &after);
    bitkv *db = refresh_to_after(BITKV_OK, NULL);
    lab_expect(db, keys[20], "1");
    lab_expect(db, keys[21], NULL);
    lab_expect(db, other_key, "2");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* The follower has seen nothing yet, and what comes first is compaction's. */
static void a_log_may_begin_with_what_compaction_has_made(void **state)
{
    (void)state;
    struct lab_log log;
    begin_images();
    (void)lab_image_add(&before, "partition_0/notes.txt", "nothing yet", 11);
    add_other(&before, false);
    begin_compacted(&log, 3, 1, 12);
    put_range(&log, 1, 10, 0, "1");
    lab_log_end(&log, &after);
    add_other(&after, false);
    bitkv *db = refresh_to_after(BITKV_OK, NULL);
    lab_expect(db, other_key, "1");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* Headers that somebody has made: a file that begins before the log does, one that stands
 * for a part of another, and one that says it begins with nothing. */
static void files_with_odd_ranges_do_no_harm(void **state)
{
    (void)state;
    struct lab_log log;
    for (unsigned odd = 0; odd < 3; odd++) {
        begin_images();
        lab_log_begin(&log, M, 0, 1, odd == 2 ? 0 : odd == 0 ? 5 : 1);
        put_range(&log, odd == 0 ? 5 : 1, odd == 0 ? 14 : 10, 0, "1");
        lab_log_end(&log, &before);
        add_other(&before, false);
        lab_log_begin(&log, M, 0, 1, odd == 2 ? 0 : odd == 0 ? 5 : 1);
        put_range(&log, odd == 0 ? 5 : 1, odd == 0 ? 14 : 10, 0, "1");
        lab_log_end(&log, &after);
        add_other(&after, false);
        begin_compacted(&log, 2, odd == 2 ? 11 : 1, odd == 0 ? 14 : odd == 1 ? 5 : 12);
        if (odd < 2)
            put_range(&log, odd == 0 ? 5 : 1, odd == 0 ? 14 : 5, 0, "1");
        lab_log_end(&log, &after);
        bitkv *db = follow_before(BITKV_IO_MMAP);
        go_on();
        int rc = bitkv_refresh(db);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_STALE);
        (void)bitkv_refresh(db);
        for (unsigned k = 0; k < 10; k++) {
            const char *value = lab_get(db, keys[k], &rc);
            assert_true(rc != BITKV_OK || strcmp(value, "1") == 0);
        }
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_batch_that_claims_more_of_its_peer_than_there_is_waits,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(the_beginning_of_a_batch_takes_no_other_along, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_log_may_begin_with_what_compaction_has_made, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(files_with_odd_ranges_do_no_harm, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
