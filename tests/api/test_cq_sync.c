/* SPDX-License-Identifier: MIT */
/* Durable operations of completion queues: syncs that are shared, that fail,
 * and that nobody waits for any more. */
#include "api/queue.h"

#define MANY 512u

static bitkv_op ops[MANY];
static bitkv_completion done[MANY];
static char names[MANY][12];

static bitkv_op durable(unsigned i)
{
    (void)snprintf(names[i], sizeof names[i], "key-%u", i);
    bitkv_op op = op_put(names[i], "value");
    op.durability = BITKV_DURABILITY_SYNC;
    return op;
}

static bitkv *open_parts(uint32_t partitions, bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.partitions = partitions;
    return open_with(&o);
}

static void many_share_a_sync(void **state)
{
    (void)state;
    atomic_store(&seam.sync_ms, 1);
    for_both_modes(mode)
    {
        bitkv *db = open_parts(1, mode);
        bitkv_cq *cq = queue_of(db, 0);
        for (unsigned i = 0; i < 64; i++)
            ops[i] = durable(i);
        for (unsigned round = 0; round < 20; round++) {
            uint64_t before = statistics_of(db).syncs_total;
            reap_into(cq, done, submit_all(cq, ops, 64), 64);
            for (unsigned i = 0; i < 64; i++)
                assert_int_equal(done[i].status, BITKV_OK);
            /* One may begin with the first put, the second has all others. */
            assert_in_range(statistics_of(db).syncs_total - before, 1, 16);
        }
        /* While one runs, all others wait for one more. */
        atomic_store(&seam.hold_syncs, true);
        uint64_t before = statistics_of(db).syncs_total;
        uint64_t first = submit_all(cq, ops, 1);
        await_held(1);
        for (unsigned i = 1; i < 64; i++)
            (void)submit_all(cq, ops + i, 1);
        bitkv_completion c;
        assert_int_equal(bitkv_cq_wait(cq, &c, 1, 20), 0);
        assert_int_equal(statistics_of(db).syncs_total, before);
        atomic_store(&seam.hold_syncs, false);
        reap_into(cq, done, first, 64);
        assert_in_range(statistics_of(db).syncs_total - before, 1, 6);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
    }
}

static void a_sync_acknowledges_nothing_that_came_after_it_began(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_parts(1, mode);
        bitkv_cq *cq = queue_of(db, 0);
        ops[0] = durable(0);
        ops[1] = durable(1);
        atomic_store(&seam.hold_syncs, true);
        unsigned before = atomic_load(&seam.syncs);
        uint64_t first = submit_all(cq, ops, 1);
        await_held(1);
        (void)submit_all(cq, ops + 1, 1);
        atomic_store(&seam.sync_ms, 20);
        atomic_store(&seam.hold_syncs, false);
        reap_into(cq, done, first, 2);
        assert_true(atomic_load(&seam.syncs) - before >= 2);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void what_has_completed_is_durable(void **state)
{
    (void)state;
    bitkv *db = open_parts(4, BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 0);
    for (unsigned i = 0; i < MANY; i++) {
        ops[i] = durable(i);
        ops[i].durability = BITKV_DURABILITY_NONE;
    }
    reap_into(cq, done, submit_all(cq, ops, MANY), MANY);
    assert_true(statistics_of(db).unsynced_bytes > 0);
    unsigned before = atomic_load(&seam.syncs);
    bitkv_completion c = one(cq, (bitkv_op){.kind = BITKV_OP_SYNC});
    assert_int_equal(c.status, BITKV_OK);
    assert_true(atomic_load(&seam.syncs) >= before + 4); /* of each partition */
    for (unsigned i = 0; i < 100; i++) { /* nothing is left to be synced, or only marks */
        c = one(cq, (bitkv_op){.kind = BITKV_OP_SYNC});
        assert_int_equal(c.status, BITKV_OK);
    }
    /* A delete too; one of nothing has nothing to wait for. */
    bitkv_op del = op_key(BITKV_OP_DEL, names[0]);
    del.durability = BITKV_DURABILITY_SYNC;
    before = atomic_load(&seam.syncs);
    c = one(cq, del);
    assert_int_equal(c.status, BITKV_OK);
    assert_true(atomic_load(&seam.syncs) > before);
    c = one(cq, del);
    assert_int_equal(c.status, BITKV_NOT_FOUND);
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

static void a_failed_sync_is_told_to_all_who_wait(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_parts(1, mode);
        bitkv_cq *cq = queue_of(db, 0);
        atomic_store(&seam.hold_syncs, true);
        for (unsigned i = 0; i < 64; i++)
            ops[i] = durable(i);
        ops[40] = (bitkv_op){.kind = BITKV_OP_SYNC};
        ops[41] = op_key(BITKV_OP_DEL, names[3]);
        ops[41].durability = BITKV_DURABILITY_SYNC;
        uint64_t first = submit_all(cq, ops, 64);
        await_held(1);
        atomic_store(&seam.fail_syncs, EIO);
        atomic_store(&seam.hold_syncs, false);
        reap_into(cq, done, first, 64);
        for (unsigned i = 0; i < 64; i++)
            assert_int_equal(done[i].status, BITKV_ERR_SYNC_FAILED);
        atomic_store(&seam.fail_syncs, 0);
        bitkv_completion c = one(cq, durable(100));
        assert_int_equal(c.status, BITKV_ERR_SYNC_FAILED);
        assert_non_null(strstr(c.error, "reopen"));
        c = one(cq, op_put("k", "v"));
        assert_int_equal(c.status, BITKV_ERR_SYNC_FAILED);
        c = one(cq, (bitkv_op){.kind = BITKV_OP_SYNC});
        assert_int_equal(c.status, bitkv_sync(db));
        assert_int_equal(c.status, BITKV_ERR_SYNC_FAILED);
        char got[8];
        c = one(cq, op_get("key-1", got, sizeof got)); /* reads go on */
        assert_int_equal(c.status, BITKV_OK);
        ok(bitkv_cq_destroy(cq));
        assert_int_equal(bitkv_close(db), BITKV_ERR_SYNC_FAILED);
        db = open_parts(1, mode);
        ok(bitkv_close(db));
    }
}

static void who_waits_for_a_sync_is_canceled(void **state)
{
    (void)state;
    for (uint32_t partitions = 1; partitions <= 4; partitions += 3) {
        bitkv *db = open_parts(partitions, BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        for (unsigned round = 0; round < 40; round++) {
            bool hold = round % 2 == 0;
            atomic_store(&seam.hold_syncs, hold);
            for (unsigned i = 0; i < 64; i++) {
                ops[i] = durable(i);
                if (i % 5 == 4)
                    ops[i] = (bitkv_op){.kind = BITKV_OP_SYNC};
            }
            uint64_t first = submit_all(cq, ops, 64);
            if (hold)
                await_held(1);
            else if (round % 4 == 1)
                sleep_ms(round / 8);
            int rc = bitkv_cq_cancel(cq, round % 3 == 0 ? BITKV_CQ_ALL : first + 7);
            if (hold)
                assert_int_equal(rc, BITKV_OK);
            if (hold && round % 3 == 0) { /* at once, with the sync still under way */
                reap_into(cq, done, first, 64);
                for (unsigned i = 0; i < 64; i++)
                    assert_int_equal(done[i].status, BITKV_ERR_CANCELED);
                atomic_store(&seam.hold_syncs, false);
            } else {
                atomic_store(&seam.hold_syncs, false);
                reap_into(cq, done, first, 64);
                for (unsigned i = 0; i < 64; i++) {
                    if (done[i].status == BITKV_ERR_CANCELED)
                        assert_true(round % 3 == 0 || i == 7);
                    else
                        assert_int_equal(done[i].status, BITKV_OK);
                }
                if (hold && round % 3 != 0)
                    assert_int_equal(done[7].status, BITKV_ERR_CANCELED);
            }
            expect_empty(cq);
            for (unsigned i = 0; i < 64; i++) { /* what was written stays written */
                if (i % 5 != 4)
                    expect_text(db, names[i], "value");
            }
        }
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void *close_it(void *user)
{
    ok(bitkv_close(user));
    return NULL;
}

static void *let_syncs_go(void *user)
{
    (void)user;
    sleep_ms(5);
    atomic_store(&seam.hold_syncs, false);
    return NULL;
}

static void closing_completes_who_waits(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 30; round++) {
        bitkv *db = open_parts(1 + round % 3, BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        bool hold = round % 3 == 0;
        atomic_store(&seam.hold_syncs, hold);
        for (unsigned i = 0; i < 64; i++) {
            ops[i] = durable(i);
            if (i % 8 == 5)
                ops[i] = (bitkv_op){.kind = BITKV_OP_SYNC};
        }
        uint64_t first = submit_all(cq, ops, 64);
        pthread_t helper, closer;
        assert_int_equal(pthread_create(&helper, NULL, let_syncs_go, NULL), 0);
        if (round % 2 == 0) {
            ok(bitkv_close(db));
            reap_into(cq, done, first, 64);
        } else {
            assert_int_equal(pthread_create(&closer, NULL, close_it, db), 0);
            reap_into(cq, done, first, 64);
            assert_int_equal(pthread_join(closer, NULL), 0);
        }
        assert_int_equal(pthread_join(helper, NULL), 0);
        for (unsigned i = 0; i < 64; i++)
            assert_true(done[i].status == BITKV_OK || done[i].status == BITKV_ERR_CLOSED);
        expect_empty(cq);
        ok(bitkv_cq_destroy(cq));
        db = open_parts(0, BITKV_IO_AUTO);
        for (unsigned i = 0; i < 64; i++) {
            if (ops[i].kind == BITKV_OP_PUT)
                expect_text(db, names[i], "value");
        }
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void destroying_leaves_no_waiter_behind(void **state)
{
    (void)state;
    bitkv *db = open_parts(3, BITKV_IO_AUTO);
    for (unsigned round = 0; round < 100; round++) {
        bitkv_cq *cq = queue_of(db, 64);
        for (unsigned i = 0; i < 64; i++) {
            ops[i] = durable(i);
            if (i % 8 == 5)
                ops[i] = (bitkv_op){.kind = BITKV_OP_SYNC};
        }
        (void)submit_all(cq, ops, 64);
        if (round % 3 == 0)
            sleep_ms(1);
        ok(bitkv_cq_destroy(cq));
    }
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(many_share_a_sync),
        CQ_TEST(a_sync_acknowledges_nothing_that_came_after_it_began),
        CQ_TEST(what_has_completed_is_durable),
        CQ_TEST(a_failed_sync_is_told_to_all_who_wait),
        CQ_TEST(who_waits_for_a_sync_is_canceled),
        CQ_TEST(closing_completes_who_waits),
        CQ_TEST(destroying_leaves_no_waiter_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
