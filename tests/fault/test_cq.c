/* SPDX-License-Identifier: MIT */
/*
 * Queues that lack descriptors, or are interrupted by signals: what cannot be done
 * completes with its error, exactly once, and nothing is lost. (test_loops.c has
 * memory that fails, and the answers of the kernel.)
 */
#include "api/queue.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#define KEYS 24u

static char names[KEYS][8];

static bitkv *open_filled(bitkv_io_mode mode, bitkv_backend backend)
{
    static const char value[5000] = "value";
    bitkv_options o = one_partition(mode);
    o.backend = backend;
    o.io_threads = 2;
    o.ring_depth = 4;
    o.max_open_segments = 3;
    bitkv *db = open_with(&o);
    for (unsigned i = 0; i < KEYS; i++) {
        (void)snprintf(names[i], sizeof names[i], "k%u", i);
        ok(bitkv_put(db, names[i], strlen(names[i]), value, i % 2 == 0 ? 5 : sizeof value));
    }
    return db;
}

/* One of everything. */
static void use_a_queue(bitkv *db)
{
    enum { MANY = KEYS, OPS = 4 * MANY + 2 };
    static char got[KEYS][5000];
    bitkv_op ops[OPS];
    bitkv_completion done[OPS];
    bitkv_cq *cq = NULL;
    ok(bitkv_cq_create(&cq, db, NULL));
    for (unsigned i = 0; i < KEYS; i++) {
        ops[i] = op_get(names[i], got[i], sizeof got[i]);
        ops[KEYS + i] = op_get(names[i], NULL, 0);
        ops[(size_t)2 * KEYS + i] = op_get(names[i], NULL, 0);
        ops[(size_t)2 * KEYS + i].flags = BITKV_OP_VIEW | BITKV_OP_COPY;
        ops[(size_t)3 * KEYS + i] = op_put("durable", "d");
        ops[(size_t)3 * KEYS + i].durability = BITKV_DURABILITY_SYNC;
    }
    ops[OPS - 2] = (bitkv_op){.kind = BITKV_OP_SYNC};
    ops[OPS - 1] = (bitkv_op){.kind = (bitkv_op_kind)99};
    forget_pages(db);
    uint64_t first = 0;
    assert_int_equal(bitkv_cq_submit(cq, ops, OPS, &first), OPS);
    (void)bitkv_cq_cancel(cq, first + 3);
    reap_into(cq, done, first, OPS);
    for (unsigned i = 0; i < OPS; i++) {
        int status = done[i].status;
        if (i == OPS - 1)
            assert_int_equal(status, BITKV_ERR_INVALID);
        else if (status != BITKV_OK && !(i == 3 && status == BITKV_ERR_CANCELED))
            expect_code(status, BITKV_OK, done[i].error, __FILE__, __LINE__);
        /* Results go on living: they are the receiver's. */
        if (status == BITKV_OK && done[i].kind == BITKV_OP_GET) {
            size_t size = i % KEYS % 2 == 0 ? 5 : 5000;
            assert_int_equal(done[i].value_size, size);
            const void *data = i / KEYS == 2 ? done[i].view.data : done[i].value;
            assert_memory_equal(data, "value", 5);
        }
        if (i / KEYS == 1)
            bitkv_free(done[i].value);
        bitkv_view_release(&done[i].view);
    }
    expect_empty(cq);
    ok(bitkv_cq_destroy(cq));
}

static void a_queue_gets_by_with_few_descriptors(void **state)
{
    (void)state;
    struct rlimit before, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for_hot_and_cold(cold)
    {
        bitkv *db = open_filled(BITKV_IO_AUTO, BITKV_BACKEND_AUTO);
        bool created = false, with_fd = false;
        for (rlim_t more = 0; more < 12; more++) {
            int next = dup(0);
            assert_true(next >= 0);
            (void)close(next);
            few = before;
            few.rlim_cur = (rlim_t)next + more;
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
            bitkv_cq *cq;
            int rc = bitkv_cq_create(&cq, db, NULL);
            if (rc == BITKV_OK) {
                created = true;
                char got[5000];
                for (unsigned i = 0; i < KEYS; i += 2) {
                    forget_pages(db);
                    bitkv_completion c = one(cq, op_get(names[i], got, sizeof got));
                    if (c.status != BITKV_ERR_TOO_MANY_FILES)
                        expect_got(&c, "value");
                }
                rc = bitkv_cq_fd(cq);
                with_fd |= rc >= 0;
                if (rc < 0)
                    assert_int_equal(rc, BITKV_ERR_TOO_MANY_FILES);
                ok(bitkv_cq_destroy(cq));
            } else {
                assert_int_equal(rc, BITKV_ERR_TOO_MANY_FILES);
                assert_null(cq);
            }
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        }
        assert_true(created && with_fd);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static _Atomic unsigned signals;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

static void signals_interrupt_no_operation(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = on_signal}, before; /* no SA_RESTART */
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    atomic_store(&seam.sync_ms, 1);
    for_hot_and_cold(cold)
    {
        bitkv *db = open_filled(BITKV_IO_AUTO, BITKV_BACKEND_AUTO);
        assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
        for (unsigned i = 0; i < 30; i++)
            use_a_queue(db);
        assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
        ok(bitkv_close(db));
        remove_tree(path);
    }
    assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
    assert_true(atomic_load(&signals) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(a_queue_gets_by_with_few_descriptors),
        CQ_TEST(signals_interrupt_no_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
