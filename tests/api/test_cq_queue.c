/* SPDX-License-Identifier: MIT */
/* Completion queues as such: callbacks, room, waiting, the descriptor, threads,
 * forks, what serves them. */
#include "api/queue.h"

#include <sys/syscall.h>

/* --- callbacks --------------------------------------------------------------------- */

struct called {
    pid_t thread;
    unsigned calls;
    int last_status;
    char last_error[200];
    unsigned again; /* operations that it submits yet */
    bool forbidden; /* it tries what it may not */
    bitkv *close;   /* to be closed */
};

static struct called called;
static char called_buffer[16];

static void on_completion(bitkv_cq *cq, const bitkv_completion *c)
{
    called.calls++;
    assert_int_equal(gettid(), called.thread);
    assert_ptr_equal(c->user_data, &called);
    called.last_status = c->status;
    (void)snprintf(called.last_error, sizeof called.last_error, "%s", c->error);
    if (c->status < 0)
        assert_string_equal(bitkv_error_context(), c->error);
    if (called.forbidden) {
        bitkv_completion other;
        assert_int_equal(bitkv_cq_poll(cq, &other, 1), BITKV_ERR_INVALID);
        assert_int_equal(bitkv_cq_wait(cq, &other, 1, -1), BITKV_ERR_INVALID);
        assert_int_equal(bitkv_cq_destroy(cq), BITKV_ERR_INVALID);
        context_has("callback");
        assert_int_equal(bitkv_cq_cancel(cq, c->id), BITKV_NOT_FOUND);
    }
    if (called.close != NULL) {
        ok(bitkv_close(called.close));
        called.close = NULL;
    }
    if (called.again > 0) {
        called.again--;
        bitkv_op more = op_get("k", called_buffer, sizeof called_buffer);
        more.callback = on_completion;
        more.user_data = &called;
        (void)submit_all(cq, &more, 1);
    }
}

static bitkv_op calling(bitkv_op op)
{
    op.callback = on_completion;
    op.user_data = &called;
    return op;
}

static void reset_called(void)
{
    called = (struct called){.thread = gettid()};
}

static void reap_calls(bitkv_cq *cq, unsigned count)
{
    while (called.calls < count) {
        unsigned before = called.calls;
        bitkv_completion c;
        assert_int_equal(bitkv_cq_wait(cq, &c, 1, PATIENCE_MS), 0);
        assert_int_equal(called.calls, before + 1); /* max is 1 */
    }
}

static void a_callback_runs_when_its_thread_reaps(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        put_text(db, "k", "v");
        reset_called();
        called.forbidden = true;
        bitkv_op some[] = {
            calling(op_get("k", called_buffer, sizeof called_buffer)),
            calling(op_get("absent", called_buffer, sizeof called_buffer)),
            calling(op_get("k", called_buffer, 0)),
            calling((bitkv_op){.kind = (bitkv_op_kind)9}),
        };
        (void)submit_all(cq, some, 4);
        sleep_ms(10);
        assert_int_equal(called.calls, 0);
        reap_calls(cq, 4);
        expect_empty(cq);

        reset_called();
        called.again = 100;
        (void)submit_all(cq, some, 1);
        reap_calls(cq, 101);
        expect_empty(cq);

        /* Beside completions that are stored. */
        reset_called();
        bitkv_op mixed[] = {some[0], op_key(BITKV_OP_EXISTS, "k"), some[0]};
        (void)submit_all(cq, mixed, 3);
        bitkv_completion c[3];
        int stored = 0;
        while (bitkv_cq_pending(cq) > 0) {
            int n = bitkv_cq_wait(cq, c, 3, PATIENCE_MS);
            assert_true(n >= 0);
            stored += n;
        }
        assert_int_equal(stored, 1);
        assert_int_equal(called.calls, 2);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void destroying_calls_what_is_outstanding(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        put_text(db, "k", "v");
        reset_called();
        called.forbidden = true;
        for (unsigned i = 0; i < 50; i++) {
            bitkv_op op = calling(op_get("k", called_buffer, sizeof called_buffer));
            bitkv_op allocated = op_get("k", NULL, 0); /* nobody takes them */
            bitkv_op view = allocated;
            view.flags = BITKV_OP_VIEW;
            (void)submit_all(cq, &op, 1);
            (void)submit_all(cq, &allocated, 1);
            (void)submit_all(cq, &view, 1);
        }
        ok(bitkv_cq_destroy(cq));
        assert_int_equal(called.calls, 50);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static unsigned endless_calls, endless_refused;

static void on_endless(bitkv_cq *cq, const bitkv_completion *c)
{
    (void)c;
    bitkv_op more = op_key(BITKV_OP_EXISTS, "k");
    more.callback = on_endless;
    endless_calls++;
    int n = bitkv_cq_submit(cq, &more, 1, NULL);
    if (n != 1) {
        assert_int_equal(n, BITKV_ERR_CLOSED);
        context_has("destroyed");
        endless_refused++;
    }
}

static void destroying_ends_though_callbacks_submit(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        put_text(db, "k", "v");
        endless_calls = endless_refused = 0;
        bitkv_op op = op_key(BITKV_OP_EXISTS, "k");
        op.callback = on_endless;
        for (unsigned i = 0; i < 3; i++)
            (void)submit_all(cq, &op, 1);
        bitkv_completion c;
        for (unsigned i = 0; i < 10; i++)
            assert_int_equal(bitkv_cq_wait(cq, &c, 1, PATIENCE_MS), 0);
        ok(bitkv_cq_destroy(cq));
        assert_int_equal(endless_calls, 13);
        assert_int_equal(endless_refused, 3);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void a_callback_may_close_the_database(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        for (int destroying = 0; destroying < 2; destroying++) {
            bitkv *db = open_small(BITKV_IO_AUTO);
            bitkv_cq *cq = queue_of(db, 0);
            put_text(db, "k", "v");
            reset_called();
            called.close = db;
            char got[20][8];
            bitkv_op op = calling(op_get("k", called_buffer, sizeof called_buffer));
            (void)submit_all(cq, &op, 1);
            bitkv_op rest[20];
            for (unsigned i = 0; i < 20; i++)
                rest[i] = op_get("k", got[i], sizeof got[i]);
            uint64_t first = submit_all(cq, rest, 20);
            if (!destroying) {
                unsigned reaped = 0;
                bitkv_completion c[32];
                while (bitkv_cq_pending(cq) > 0) {
                    int n = bitkv_cq_wait(cq, c, 32, PATIENCE_MS);
                    assert_true(n >= 0);
                    for (int i = 0; i < n; i++) {
                        if (c[i].status == BITKV_OK)
                            assert_memory_equal(got[c[i].id - first], "v", 1);
                        else
                            assert_int_equal(c[i].status, BITKV_ERR_CLOSED);
                    }
                    reaped += (unsigned)n;
                }
                assert_int_equal(reaped, 20);
                assert_int_equal(bitkv_cq_submit(cq, rest, 1, NULL), BITKV_ERR_CLOSED);
                context_has("closed");
                expect_empty(cq);
                assert_int_equal(bitkv_cq_cancel(cq, BITKV_CQ_ALL), BITKV_NOT_FOUND);
            }
            ok(bitkv_cq_destroy(cq));
            assert_int_equal(called.calls, 1);
            assert_null(called.close);
            remove_tree(path);
        }
    }
}

/* --- room -------------------------------------------------------------------------------- */

static void a_full_queue_accepts_what_it_can(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        for (uint32_t capacity = 1; capacity <= 40; capacity += 3) {
            bitkv *db = open_small(BITKV_IO_AUTO);
            bitkv_cq *cq = queue_of(db, capacity);
            put_text(db, "k", "v");
            bitkv_op op[100];
            bitkv_completion c[100];
            for (unsigned i = 0; i < 100; i++)
                op[i] = op_key(BITKV_OP_EXISTS, "k");
            uint64_t first = 0;
            assert_int_equal(bitkv_cq_submit(cq, op, 100, &first), capacity);
            assert_int_equal(first, 1);
            assert_int_equal(bitkv_cq_pending(cq), capacity);
            assert_int_equal(bitkv_cq_submit(cq, op, 1, NULL), BITKV_ERR_QUEUE_FULL);
            context_has("reap");
            assert_int_equal(bitkv_cq_submit(cq, op, 0, NULL), 0);
            assert_int_equal(bitkv_cq_submit(cq, NULL, 0, NULL), 0);
            assert_int_equal(bitkv_cq_submit(cq, NULL, 1, NULL), BITKV_ERR_INVALID);
            uint64_t next = capacity + 1;
            for (unsigned reaped = 0; reaped < 200;) { /* round and round */
                int n = bitkv_cq_wait(cq, c, 1 + reaped % 5, PATIENCE_MS);
                assert_true(n > 0);
                reaped += (unsigned)n;
                assert_int_equal(bitkv_cq_submit(cq, op, 100, &first), n);
                assert_int_equal(first, next);
                next += (uint64_t)n;
                assert_int_equal(bitkv_cq_pending(cq), capacity);
            }
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
            remove_tree(path);
        }
    }
}

static void waiting_ends_in_time(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 0);
    bitkv_completion c;
    assert_int_equal(bitkv_cq_wait(cq, &c, 1, -1), 0); /* nothing is pending */
    fails(BITKV_ERR_INVALID, bitkv_cq_poll(cq, NULL, 1));
    fails(BITKV_ERR_INVALID, bitkv_cq_poll(cq, &c, 0));
    fails(BITKV_ERR_INVALID, bitkv_cq_wait(cq, &c, 0, 0));
    fails(BITKV_ERR_INVALID, bitkv_cq_poll(NULL, &c, 1));
    atomic_store(&seam.hold_syncs, true);
    bitkv_op op = op_put("k", "v");
    op.durability = BITKV_DURABILITY_SYNC;
    (void)submit_all(cq, &op, 1);
    assert_int_equal(bitkv_cq_poll(cq, &c, 1), 0);
    uint64_t begun = now_ms();
    assert_int_equal(bitkv_cq_wait(cq, &c, 1, 0), 0);
    assert_int_equal(bitkv_cq_wait(cq, &c, 1, 50), 0);
    assert_true(now_ms() - begun >= 49);
    assert_int_equal(bitkv_cq_pending(cq), 1);
    atomic_store(&seam.hold_syncs, false);
    assert_int_equal(bitkv_cq_wait(cq, &c, 1, PATIENCE_MS), 1);
    assert_int_equal(c.status, BITKV_OK);
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_cq_destroy(NULL));
    assert_int_equal(bitkv_cq_pending(NULL), 0);
    ok(bitkv_close(db));
}

/* --- the descriptor --------------------------------------------------------------------------- */

/* As an event loop does it. */
static unsigned reap_by_descriptor(bitkv_cq *cq, int fd, unsigned count, size_t max)
{
    unsigned reaped = 0;
    bitkv_completion c[16];
    while (reaped < count) {
        assert_true(readable(fd, PATIENCE_MS));
        int n = bitkv_cq_poll(cq, c, max);
        assert_true(n >= 0);
        for (int i = 0; i < n; i++)
            assert_int_equal(c[i].status, BITKV_OK);
        reaped += (unsigned)n;
    }
    return reaped;
}

static void expect_quiet(bitkv_cq *cq, int fd)
{
    bitkv_completion c;
    assert_int_equal(bitkv_cq_pending(cq), 0);
    assert_int_equal(bitkv_cq_poll(cq, &c, 1), 0);
    sleep_ms(2); /* one who woke us may be on his last steps */
    assert_int_equal(bitkv_cq_poll(cq, &c, 1), 0);
    assert_false(readable(fd, 5));
}

static void the_descriptor_is_readable_while_something_is_left(void **state)
{
    (void)state;
    bitkv_op sync = {.kind = BITKV_OP_SYNC};
    for_hot_and_cold(cold)
    {
        for (int late = 0; late < 2; late++) {
            bitkv *db = open_small(BITKV_IO_AUTO);
            bitkv_cq *cq = queue_of(db, 0);
            put_text(db, "k", "v");
            bitkv_op op[64];
            for (unsigned i = 0; i < 64; i++) {
                op[i] = op_key(BITKV_OP_EXISTS, "k");
                if (i % 9 == 8)
                    op[i] = sync;
                if (i % 9 == 4) {
                    op[i] = op_put("other", "v");
                    op[i].durability = BITKV_DURABILITY_SYNC;
                }
            }
            int fd = -1;
            if (late)
                (void)submit_all(cq, op, 64);
            fd = bitkv_cq_fd(cq);
            assert_true(fd >= 0);
            assert_int_equal(bitkv_cq_fd(cq), fd);
            assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
            if (!late) {
                assert_false(readable(fd, 5));
                (void)submit_all(cq, op, 64);
            }
            assert_int_equal(reap_by_descriptor(cq, fd, 64, 7), 64);
            expect_quiet(cq, fd);
            for (unsigned i = 0; i < 200; i++) {
                (void)submit_all(cq, op + i % 64, 1);
                (void)reap_by_descriptor(cq, fd, 1, 1);
            }
            expect_quiet(cq, fd);
            /* Left where it is, it stays readable. */
            (void)submit_all(cq, op, 2);
            assert_true(readable(fd, PATIENCE_MS));
            sleep_ms(5);
            (void)reap_by_descriptor(cq, fd, 1, 1);
            (void)reap_by_descriptor(cq, fd, 1, 1);
            expect_quiet(cq, fd);
            ok(bitkv_cq_destroy(cq));
            assert_int_equal(fcntl(fd, F_GETFD), -1);
            ok(bitkv_close(db));
            remove_tree(path);
        }
    }
}

/* --- threads and processes -----------------------------------------------------------------------
 */

struct queue_use {
    bitkv *db;
    bitkv_cq *cq;
    unsigned pending;
    bool allocated;
};

static void *use_it_elsewhere(void *user)
{
    const struct queue_use *use = user;
    bitkv_op op = op_key(BITKV_OP_EXISTS, "k");
    bitkv_completion c;
    fails(BITKV_ERR_INVALID, bitkv_cq_submit(use->cq, &op, 1, NULL));
    context_has("thread");
    fails(BITKV_ERR_INVALID, bitkv_cq_poll(use->cq, &c, 1));
    fails(BITKV_ERR_INVALID, bitkv_cq_wait(use->cq, &c, 1, -1));
    fails(BITKV_ERR_INVALID, bitkv_cq_cancel(use->cq, BITKV_CQ_ALL));
    fails(BITKV_ERR_INVALID, bitkv_cq_fd(use->cq));
    fails(BITKV_ERR_INVALID, bitkv_cq_destroy(use->cq));
    context_has("still runs");
    return NULL;
}

static void a_queue_is_its_threads(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    struct queue_use use = {.db = db, .cq = queue_of(db, 0)};
    put_text(db, "k", "v");
    in_thread(use_it_elsewhere, &use);
    bitkv_completion c = one(use.cq, op_key(BITKV_OP_EXISTS, "k"));
    assert_int_equal(c.status, BITKV_OK);
    expect_empty(use.cq);
    ok(bitkv_cq_destroy(use.cq));
    ok(bitkv_close(db));
}

static void *leave_a_queue(void *user)
{
    static char got[300][8];
    struct queue_use *use = user;
    use->cq = queue_of(use->db, 0);
    for (unsigned i = 0; i < use->pending; i++) {
        bitkv_op op = op_get("k", got[i % 300], sizeof got[0]);
        if (use->allocated)
            op = op_get("k", NULL, 0);
        if (i % 7 == 6)
            op = (bitkv_op){.kind = BITKV_OP_SYNC};
        (void)submit_all(use->cq, &op, 1);
    }
    return NULL;
}

static void a_queue_may_be_destroyed_after_its_thread(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        for (unsigned i = 0; i < 12; i++) {
            bitkv_options o = one_partition(BITKV_IO_AUTO);
            o.ring_depth = i % 3 == 0 ? 1 : 64;
            o.io_threads = 1 + i % 3;
            bitkv *db = open_with(&o);
            put_text(db, "k", "v");
            struct queue_use use = {.db = db, .pending = 100 * (i % 3), .allocated = i % 2 == 1};
            in_thread(leave_a_queue, &use);
            if (i % 4 < 2)
                ok(bitkv_close(db));
            ok(bitkv_cq_destroy(use.cq));
            if (i % 4 >= 2)
                ok(bitkv_close(db));
            remove_tree(path);
        }
    }
}

#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            print_error("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition,                        \
                        bitkv_error_context());                                                    \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void *destroy_elsewhere(void *user)
{
    check(bitkv_cq_destroy(user) == BITKV_ERR_INVALID);
    return NULL;
}

static void in_a_child(bitkv_cq *cq)
{
    bitkv_op op = op_key(BITKV_OP_EXISTS, "k");
    bitkv_completion c;
    check(bitkv_cq_submit(cq, &op, 1, NULL) == BITKV_ERR_FORKED);
    check(bitkv_cq_poll(cq, &c, 1) == BITKV_ERR_FORKED);
    check(bitkv_cq_wait(cq, &c, 1, -1) == BITKV_ERR_FORKED);
    check(bitkv_cq_cancel(cq, BITKV_CQ_ALL) == BITKV_ERR_FORKED);
    check(bitkv_cq_fd(cq) == BITKV_ERR_FORKED);
    check(bitkv_cq_destroy(cq) == BITKV_ERR_FORKED);
    if (UNDER_TSAN) /* which lets a forked child start no threads */
        _exit(0);
    /* And one of the child's own. */
    char other[PATH_SIZE];
    bitkv *db = NULL;
    bitkv_cq *own = NULL;
    inside(other, directory, "child");
    check(bitkv_open(&db, other, NULL) == BITKV_OK);
    check(bitkv_cq_create(&own, db, NULL) == BITKV_OK);
    bitkv_op put = op_put("k", "v");
    put.durability = BITKV_DURABILITY_SYNC;
    check(bitkv_cq_submit(own, &put, 1, NULL) == 1);
    check(bitkv_cq_submit(own, &op, 1, NULL) == 1);
    int reaped = 0;
    while (reaped < 2) {
        int n = bitkv_cq_wait(own, &c, 1, PATIENCE_MS);
        check(n == 1 && c.status == BITKV_OK);
        reaped += n;
    }
    pthread_t thread;
    check(pthread_create(&thread, NULL, destroy_elsewhere, own) == 0);
    check(pthread_join(thread, NULL) == 0);
    check(bitkv_cq_destroy(own) == BITKV_OK);
    check(bitkv_close(db) == BITKV_OK);
    _exit(0);
}

static void a_forked_child_has_no_queue(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        put_text(db, "k", "v");
        bitkv_op op = op_key(BITKV_OP_EXISTS, "k");
        uint64_t first = submit_all(cq, &op, 1);
        (void)fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            in_a_child(cq);
        assert_int_equal(wait_child(child), 0);
        bitkv_completion c = {.id = 0};
        reap_into(cq, &c, first, 1);
        assert_int_equal(c.status, BITKV_OK);
        c = one(cq, op);
        assert_int_equal(c.status, BITKV_OK);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

/* --- options, and what serves -------------------------------------------------------------------
 */

static void options_have_bounds(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = (bitkv_cq *)1;
    bitkv_cq_options o;
    bitkv_cq_options_init(&o);
    assert_int_equal(o.capacity, 4096);
    bitkv_cq_options_init(NULL);
    fails(BITKV_ERR_INVALID, bitkv_cq_create(NULL, db, NULL));
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, NULL, NULL));
    assert_null(cq);
    o.capacity = 0;
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, db, &o));
    context_has("capacity");
    o.capacity = (1u << 20) + 1;
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, db, &o));
    o.capacity = 1;
    o.reserved[3] = 1;
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, db, &o));
    o.reserved[3] = 0;
    o.struct_size = 0;
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, db, &o));
    o.struct_size = sizeof o + 8;
    fails(BITKV_ERR_INVALID, bitkv_cq_create(&cq, db, &o));
    o.struct_size = offsetof(bitkv_cq_options, reserved);
    ok(bitkv_cq_create(&cq, db, &o));
    ok(bitkv_cq_destroy(cq));
    o.capacity = 1u << 20;
    ok(bitkv_cq_create(&cq, db, &o));
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));

    bitkv_options d = one_partition(BITKV_IO_AUTO);
    d.backend = (bitkv_backend)77;
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &d));
    context_has("backend");
    d.backend = BITKV_BACKEND_AUTO;
    d.io_threads = 1025;
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &d));
    context_has("io_threads");
    d.io_threads = 1;
    d.ring_depth = 32769;
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &d));
    context_has("ring_depth");
}

/* BITKV_TEST_BACKEND, set by the build: what must serve, and a word of why. */
static void the_backend_is_told_with_its_reason(void **state)
{
    (void)state;
    const char *reason = NULL;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 0);
    bitkv_statistics s = statistics_of(db);
    bitkv_backend backend = bitkv_cq_backend(cq, &reason);
    assert_int_equal(bitkv_cq_backend(cq, NULL), backend);
    assert_non_null(reason);
    print_message("backend %d: %s\n", (int)backend, reason);
    assert_true(backend == BITKV_BACKEND_IO_URING || backend == BITKV_BACKEND_THREADS);
    assert_int_equal(s.backend, backend);
    assert_string_equal(s.backend_reason, reason);
    const char *wanted = getenv("BITKV_TEST_REASON");
    if (wanted != NULL) {
        assert_int_equal(backend, BITKV_BACKEND_THREADS);
        assert_non_null(strstr(reason, wanted));
    }
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));

    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.backend = BITKV_BACKEND_THREADS;
    db = open_with(&o);
    cq = queue_of(db, 0);
    assert_int_equal(bitkv_cq_backend(cq, &reason), BITKV_BACKEND_THREADS);
    assert_non_null(strstr(reason, "option backend"));
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

static void nothing_is_left_open(void **state)
{
    (void)state;
    unsigned descriptors = 0, threads = 0;
    for_hot_and_cold(cold)
    {
        for (unsigned i = 0; i < 5; i++) {
            bitkv *db = open_small(BITKV_IO_AUTO);
            put_text(db, "k", "v");
            bitkv_cq *cq[8];
            for (unsigned q = 0; q < 8; q++) {
                cq[q] = queue_of(db, 0);
                assert_true(bitkv_cq_fd(cq[q]) >= 0);
                bitkv_op op = op_key(BITKV_OP_EXISTS, "k");
                (void)submit_all(cq[q], &op, 1);
            }
            for (unsigned q = 0; q < 4; q++)
                ok(bitkv_cq_destroy(cq[(size_t)2 * q]));
            ok(bitkv_close(db));
            for (unsigned q = 0; q < 4; q++)
                ok(bitkv_cq_destroy(cq[(size_t)2 * q + 1]));
            if (descriptors == 0) {
                descriptors = count_descriptors();
                threads = count_threads();
            }
            assert_int_equal(count_descriptors(), descriptors);
            assert_true(count_threads() <= threads);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(a_callback_runs_when_its_thread_reaps),
        CQ_TEST(destroying_calls_what_is_outstanding),
        CQ_TEST(destroying_ends_though_callbacks_submit),
        CQ_TEST(a_callback_may_close_the_database),
        CQ_TEST(a_full_queue_accepts_what_it_can),
        CQ_TEST(waiting_ends_in_time),
        CQ_TEST(the_descriptor_is_readable_while_something_is_left),
        CQ_TEST(a_queue_is_its_threads),
        CQ_TEST(a_queue_may_be_destroyed_after_its_thread),
        CQ_TEST(a_forked_child_has_no_queue),
        CQ_TEST(options_have_bounds),
        CQ_TEST(the_backend_is_told_with_its_reason),
        CQ_TEST(nothing_is_left_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
