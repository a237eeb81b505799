/* SPDX-License-Identifier: MIT */
/* What completion queues, their syncs and their reads could be made to do wrong:
 * found by reading the code with ill will. */
#include "api/queue.h"

#include <sys/resource.h>

static uint64_t processor_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Nothing is to be done: nobody may be busy. */
static void expect_rest(void)
{
    uint64_t before = processor_ms();
    sleep_ms(600);
    assert_in_range(processor_ms() - before, 0, 200);
}

static bitkv_op durable(const char *key)
{
    bitkv_op op = op_put(key, "value");
    op.durability = BITKV_DURABILITY_SYNC;
    return op;
}

/* Who waits for a single durable write syncs it himself. The worker, who would
 * have come to his aid after a while, kept the time of that for ever, took it
 * for due, and never slept again. */
static void a_worker_rests_after_a_sync_that_another_made(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 0);
    for (unsigned i = 0; i < 3; i++) {
        bitkv_completion c;
        bitkv_op op = durable("key");
        uint64_t first = submit_all(cq, &op, 1);
        struct timespec t = {.tv_nsec = 300000}; /* the worker has looked, and is patient */
        (void)nanosleep(&t, NULL);
        reap_into(cq, &c, first, 1);
        assert_int_equal(c.status, BITKV_OK);
        expect_rest();
    }
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

/* The same with the interval's time, which was still to come when a sync failed. */
static void a_worker_rests_after_a_failed_sync(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.sync_interval_ms = 50;
    bitkv *db = open_with(&o);
    ok(bitkv_put_with(db, "a", 1, "b", 1, BITKV_DURABILITY_INTERVAL));
    sleep_ms(10); /* the worker knows */
    atomic_store(&seam.fail_syncs, EIO);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put_with(db, "a", 1, "c", 1, BITKV_DURABILITY_SYNC));
    sleep_ms(100);
    expect_rest();
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(a_worker_rests_after_a_sync_that_another_made),
        CQ_TEST(a_worker_rests_after_a_failed_sync),
    };
    return cmocka_run_group_tests_name("attacks_async", tests, NULL, NULL);
}
