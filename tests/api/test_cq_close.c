/* SPDX-License-Identifier: MIT */
/*
 * Closing a database while its queues are at work: from the owner's thread, from
 * another one, from a callback, at any moment. Every accepted operation
 * completes exactly once; what completes with a value has the right one.
 *
 *   BITKV_MS=n    milliseconds for each test (default 1000)
 *   BITKV_SEED=n  for the moments
 */
#include "api/queue.h"

#define KEYS   300u
#define BATCH  48u
#define QUEUES 3u

static uint32_t names[KEYS];
static struct chance chance;
static bitkv_options options;

static size_t size_of(uint32_t key)
{
    return 1 + mix(key) % 3000;
}

static void fill_once(void)
{
    unsigned char value[3000];
    bitkv *db = open_with(&options);
    for (uint32_t i = 0; i < KEYS; i++) {
        names[i] = i;
        fill(value, size_of(i), i);
        ok(bitkv_put(db, &names[i], sizeof i, value, size_of(i)));
    }
    ok(bitkv_close(db));
}

static void random_options(void)
{
    static const uint32_t depths[] = {1, 2, 8, 0};
    options.backend = one_in(&chance, 2) ? BITKV_BACKEND_THREADS : BITKV_BACKEND_AUTO;
    options.ring_depth = depths[below(&chance, 4)];
    options.io_threads = 1 + (uint32_t)below(&chance, 4);
    options.max_open_segments = (uint32_t)below(&chance, 4);
    options.io_mode = one_in(&chance, 3) ? BITKV_IO_PWRITE : BITKV_IO_AUTO;
    atomic_store(&seam.all_cold, !one_in(&chance, 4));
}

struct user {
    bitkv *db;
    struct chance chance;
    uint64_t until_op; /* closes before this one; 0: others do */
    bool by_callback;
    bool leaves; /* does not destroy its queue */
    bitkv_cq *cq;
    uint64_t accepted, completed;
    unsigned troubles;
    _Atomic bool *go;
};

#define expect(condition)                                                                          \
    do {                                                                                           \
        if (!(condition) && u->troubles++ < 3)                                                     \
            print_error("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition,                        \
                        bitkv_error_context());                                                    \
    } while (0)

static void check_completion(struct user *u, const bitkv_completion *c)
{
    unsigned char value[3000];
    u->completed++;
    if (c->kind == BITKV_OP_GET && c->status == BITKV_OK) {
        uint32_t key = *(uint32_t *)c->user_data;
        const void *data = c->view.pin != NULL ? c->view.data : c->value;
        fill(value, size_of(key), key);
        expect(c->value_size == size_of(key) && memcmp(data, value, size_of(key)) == 0);
        bitkv_view view = c->view;
        if (view.pin != NULL)
            bitkv_view_release(&view);
        else
            bitkv_free(c->value);
        return;
    }
    expect(c->status == BITKV_OK || c->status == BITKV_ERR_CLOSED ||
           c->status == BITKV_ERR_CANCELED);
}

static _Thread_local struct user *this_user;

static void on_done(bitkv_cq *cq, const bitkv_completion *c)
{
    struct user *u = this_user;
    (void)cq;
    check_completion(u, c);
    if (u->by_callback && u->until_op > 0 && u->completed >= u->until_op) {
        u->until_op = 0;
        expect(bitkv_close(u->db) == BITKV_OK);
    }
}

static bitkv_op random_op(struct user *u)
{
    uint32_t *key = &names[below(&u->chance, KEYS)];
    bitkv_op op = {.kind = BITKV_OP_GET, .key = key, .key_size = sizeof *key, .user_data = key};
    switch (below(&u->chance, 16)) {
    case 0:
        op.kind = BITKV_OP_SYNC;
        break;
    case 1:
        op = (bitkv_op){.kind = BITKV_OP_PUT,
                        .key = "other",
                        .key_size = 5,
                        .value = "v",
                        .value_size = 1,
                        .durability = BITKV_DURABILITY_SYNC};
        break;
    case 2:
        op.kind = BITKV_OP_EXISTS;
        break;
    default:
        if (one_in(&u->chance, 4))
            op.flags = BITKV_OP_VIEW;
        break;
    }
    if (u->by_callback || one_in(&u->chance, 8))
        op.callback = on_done;
    return op;
}

static void reap_some(struct user *u, int timeout_ms)
{
    bitkv_completion c[BATCH];
    int n = bitkv_cq_wait(u->cq, c, 1 + below(&u->chance, BATCH), timeout_ms);
    expect(n >= 0);
    for (int i = 0; i < n; i++)
        check_completion(u, &c[i]);
}

static void reap_rest(struct user *u)
{
    uint64_t begun = now_ms();
    while (bitkv_cq_pending(u->cq) > 0 && now_ms() - begun < PATIENCE_MS)
        reap_some(u, 1000);
    expect(bitkv_cq_pending(u->cq) == 0);
    expect(u->completed == u->accepted);
}

static void *use_until_closed(void *user)
{
    struct user *u = user;
    this_user = u;
    int rc = bitkv_cq_create(&u->cq, u->db, NULL);
    if (u->go != NULL)
        atomic_store(u->go, true);
    if (rc != BITKV_OK)
        return NULL;
    if (one_in(&u->chance, 2))
        expect(bitkv_cq_fd(u->cq) >= 0);
    for (;;) {
        bitkv_op ops[BATCH];
        size_t count = 1 + below(&u->chance, BATCH);
        for (size_t i = 0; i < count; i++)
            ops[i] = random_op(u);
        if (!u->by_callback && u->until_op > 0 && u->accepted >= u->until_op) {
            u->until_op = 0;
            expect(bitkv_close(u->db) == BITKV_OK);
        }
        uint64_t first;
        int n = bitkv_cq_submit(u->cq, ops, count, &first);
        if (n == BITKV_ERR_CLOSED)
            break;
        expect(n == (int)count || n == BITKV_ERR_QUEUE_FULL ||
               (n > 0 && bitkv_cq_pending(u->cq) == 4096));
        u->accepted += n > 0 ? (uint64_t)n : 0;
        if (n > 0 && one_in(&u->chance, 16))
            (void)bitkv_cq_cancel(u->cq, first + below(&u->chance, (uint64_t)n));
        if (!one_in(&u->chance, 3) || n < (int)count)
            reap_some(u, one_in(&u->chance, 2) ? -1 : 0);
    }
    if (u->leaves)
        return NULL;
    if (one_in(&u->chance, 2))
        reap_rest(u);
    expect(bitkv_cq_destroy(u->cq) == BITKV_OK);
    return NULL;
}

static void begin(void)
{
    uint64_t seed = env_number("BITKV_SEED", now_ms() * 0x9e3779b9u + (uint64_t)getpid());
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    chance.state = seed;
    options = one_partition(BITKV_IO_AUTO);
    options.partitions = 2;
    fill_once();
}

static uint64_t the_end(void)
{
    return now_ms() + env_number("BITKV_MS", 1000);
}

static void by_the_owner(bool callback)
{
    begin();
    unsigned descriptors = 0;
    for (uint64_t end = the_end(); now_ms() < end;) {
        random_options();
        struct user u = {.db = open_with(&options),
                         .until_op = 1 + below(&chance, 600),
                         .by_callback = callback,
                         .chance.state = draw(&chance)};
        (void)use_until_closed(&u);
        this_user = NULL;
        assert_int_equal(u.troubles, 0);
        descriptors = descriptors == 0 ? count_descriptors() : descriptors;
        assert_int_equal(count_descriptors(), descriptors);
    }
}

static void by_the_owners_thread(void **state)
{
    (void)state;
    by_the_owner(false);
}

static void by_a_callback(void **state)
{
    (void)state;
    by_the_owner(true);
}

static void by_another_thread(void **state)
{
    (void)state;
    begin();
    unsigned descriptors = 0;
    for (uint64_t end = the_end(); now_ms() < end;) {
        random_options();
        bitkv *db = open_with(&options);
        struct user users[QUEUES];
        pthread_t threads[QUEUES];
        _Atomic bool going[QUEUES];
        for (unsigned i = 0; i < QUEUES; i++) {
            atomic_init(&going[i], false);
            users[i] = (struct user){.db = db,
                                     .chance.state = draw(&chance),
                                     .leaves = one_in(&chance, 4),
                                     .go = &going[i]};
            assert_int_equal(pthread_create(&threads[i], NULL, use_until_closed, &users[i]), 0);
        }
        for (unsigned i = 0; i < QUEUES; i++) { /* the handle is theirs until then */
            while (!atomic_load(&going[i]))
                (void)sched_yield();
        }
        struct timespec t = {.tv_nsec = (long)below(&chance, 8000000)};
        (void)nanosleep(&t, NULL);
        ok(bitkv_close(db));
        for (unsigned i = 0; i < QUEUES; i++) {
            assert_int_equal(pthread_join(threads[i], NULL), 0);
            this_user = &users[i];
            if (users[i].leaves)
                ok(bitkv_cq_destroy(users[i].cq));
            this_user = NULL;
            assert_int_equal(users[i].troubles, 0);
        }
        descriptors = descriptors == 0 ? count_descriptors() : descriptors;
        assert_int_equal(count_descriptors(), descriptors);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(by_the_owners_thread),
        CQ_TEST(by_a_callback),
        CQ_TEST(by_another_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
