/* SPDX-License-Identifier: MIT */
/*
 * Random operations through completion queues against a model. Each queue has a
 * thread and keys of its own, so what every operation must say is known when it
 * is submitted, however late it completes. The thread's synchronous calls go
 * in between: they see what was submitted before.
 *
 * The configuration is drawn for each round: backend, mode, room, segments, and
 * whether everything looks as if it were on disk only. The database is closed
 * and opened again between rounds.
 *
 *   BITKV_MS=n    milliseconds (default 6000)
 *   BITKV_SEED=n  repeats a run, but for what the threads' timing does
 */
#include "api/queue.h"

#define THREADS   3u
#define KEYS      40u /* of each thread */
#define WINDOW    128u
#define VALUE_MAX 6000u

/* A value is made from a number; 0: no value. */
struct expected {
    bitkv_op_kind kind;
    bool taken;
    bool may_be_canceled;
    unsigned how; /* of a get */
    int status;
    uint64_t number;
    uint32_t key;
    unsigned char *buffer;
    size_t buffer_size;
    unsigned char copied[8];
};

struct worker {
    uint32_t index;
    bitkv *db;
    bitkv_cq *cq;
    struct chance chance;
    uint64_t model[KEYS];
    unsigned char keys[KEYS][8];
    struct expected slots[WINDOW];
    uint32_t free_slots[WINDOW];
    uint32_t free_count;
    uint32_t capacity;
    uint64_t numbers;
    uint64_t operations;
    unsigned troubles;
};

static struct worker workers[THREADS];

#define expect(w, condition)                                                                       \
    do {                                                                                           \
        if (!(condition) && (w)->troubles++ < 3)                                                   \
            print_error("%s:%d: %s (thread %u, %s)\n", __FILE__, __LINE__, #condition, (w)->index, \
                        bitkv_error_context());                                                    \
    } while (0)

static size_t size_of(uint64_t number)
{
    uint64_t h = mix(number ^ 0x55);
    return h % 16 == 0 ? h / 16 % VALUE_MAX : h / 16 % 200;
}

static bool is_value(const void *data, size_t size, uint64_t number)
{
    unsigned char value[VALUE_MAX];
    if (number == 0 || size != size_of(number))
        return false;
    fill(value, size, number);
    return memcmp(data, value, size) == 0;
}

/* --- completions ------------------------------------------------------------------ */

static void check_get(struct worker *w, const struct expected *e, const bitkv_completion *c)
{
    expect(w, c->value_size == size_of(e->number));
    if (e->how == 2) {
        bitkv_view view = c->view;
        expect(w, is_value(view.data, view.size, e->number));
        bitkv_view_release(&view);
        return;
    }
    expect(w, is_value(c->value, c->value_size, e->number));
    if (e->how == 1) {
        expect(w, ((char *)c->value)[c->value_size] == '\0');
        bitkv_free(c->value);
    } else {
        expect(w, c->value == e->buffer);
    }
}

static void check_completion(struct worker *w, const bitkv_completion *c)
{
    struct expected *e = c->user_data;
    expect(w, e->taken); /* once */
    expect(w, c->kind == e->kind);
    bool canceled = e->may_be_canceled && c->status == BITKV_ERR_CANCELED;
    if (!canceled && c->status != e->status)
        print_error("kind %d of key %u: %s, not %s: %s\n", (int)e->kind, e->key,
                    bitkv_error_name(c->status), bitkv_error_name(e->status), c->error);
    expect(w, canceled || c->status == e->status);
    expect(w, (c->status < 0) == (c->error[0] != '\0'));
    if (c->status == BITKV_ERR_BUFFER_TOO_SMALL)
        expect(w, c->value_size == size_of(e->number));
    if (e->kind == BITKV_OP_GET && c->status == BITKV_OK)
        check_get(w, e, c);
    else
        expect(w, c->value == NULL && c->view.pin == NULL);
    free(e->buffer);
    e->buffer = NULL;
    e->taken = false;
    w->free_slots[w->free_count++] = (uint32_t)(e - w->slots);
    w->operations++;
}

static _Thread_local struct worker *this_worker;

static void on_done(bitkv_cq *cq, const bitkv_completion *c)
{
    expect(this_worker, cq == this_worker->cq);
    check_completion(this_worker, c);
}

static void reap_some(struct worker *w, int timeout_ms)
{
    bitkv_completion c[64];
    int n = bitkv_cq_wait(w->cq, c, 1 + below(&w->chance, 64), timeout_ms);
    expect(w, n >= 0);
    for (int i = 0; i < n; i++)
        check_completion(w, &c[i]);
}

static void reap_all(struct worker *w)
{
    uint64_t begun = now_ms();
    while (bitkv_cq_pending(w->cq) > 0 && now_ms() - begun < PATIENCE_MS)
        reap_some(w, 1000);
    expect(w, bitkv_cq_pending(w->cq) == 0);
    expect(w, w->free_count == WINDOW);
}

/* --- operations ---------------------------------------------------------------------- */

static bitkv_op begin_op(struct worker *w, bitkv_op_kind kind, unsigned char copies[][8])
{
    struct expected *e = &w->slots[w->free_slots[--w->free_count]];
    uint32_t key = (uint32_t)below(&w->chance, KEYS);
    *e = (struct expected){.kind = kind, .taken = true, .key = key};
    bitkv_op op = {.kind = kind, .key = w->keys[key], .key_size = 8, .user_data = e};
    if (one_in(&w->chance, 3)) {
        op.flags = BITKV_OP_COPY;
        op.key = memcpy(copies[e - w->slots], w->keys[key], 8);
    }
    if (one_in(&w->chance, 4))
        op.callback = on_done;
    return op;
}

static bitkv_op get_op(struct worker *w, unsigned char copies[][8])
{
    bitkv_op op = begin_op(w, BITKV_OP_GET, copies);
    struct expected *e = op.user_data;
    e->number = w->model[e->key];
    e->status = e->number != 0 ? BITKV_OK : BITKV_NOT_FOUND;
    e->how = (unsigned)below(&w->chance, 3);
    if (e->how == 2)
        op.flags |= BITKV_OP_VIEW;
    if (e->how == 0) {
        e->buffer_size = one_in(&w->chance, 8) ? 1 + below(&w->chance, 100) : VALUE_MAX;
        e->buffer = malloc(e->buffer_size);
        op.buffer = e->buffer;
        op.buffer_size = e->buffer_size;
        if (e->number != 0 && size_of(e->number) > e->buffer_size)
            e->status = BITKV_ERR_BUFFER_TOO_SMALL;
    }
    return op;
}

static bitkv_op random_op(struct worker *w, unsigned char copies[][8],
                          unsigned char values[][VALUE_MAX], unsigned at)
{
    uint64_t what = below(&w->chance, 100);
    bitkv_op op;
    if (what < 50)
        return get_op(w, copies);
    if (what < 58) {
        op = begin_op(w, BITKV_OP_EXISTS, copies);
    } else if (what < 88) {
        op = begin_op(w, BITKV_OP_PUT, copies);
        struct expected *e = op.user_data;
        w->model[e->key] = ++w->numbers * THREADS + w->index + 1;
        op.value_size = size_of(w->model[e->key]);
        fill(values[at], op.value_size, w->model[e->key]);
        op.value = values[at];
        op.flags |= BITKV_OP_COPY; /* gone after the batch */
        if ((op.flags & BITKV_OP_COPY) != 0 && op.key == w->keys[e->key])
            op.key = memcpy(copies[e - w->slots], w->keys[e->key], 8);
        op.durability = one_in(&w->chance, 16) ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE;
        return op;
    } else if (what < 98) {
        op = begin_op(w, BITKV_OP_DEL, copies);
    } else {
        op = begin_op(w, BITKV_OP_SYNC, copies);
        return op;
    }
    struct expected *e = op.user_data;
    e->status = w->model[e->key] != 0 ? BITKV_OK : BITKV_NOT_FOUND;
    if (op.kind == BITKV_OP_DEL) {
        w->model[e->key] = 0;
        op.durability = one_in(&w->chance, 16) ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE;
    }
    return op;
}

/* The model is ahead of what was not accepted, so there is always room. */
static void submit_batch(struct worker *w)
{
    static _Thread_local unsigned char copies[WINDOW][8];
    static _Thread_local unsigned char values[WINDOW][VALUE_MAX];
    bitkv_op ops[WINDOW];
    size_t room = w->capacity - bitkv_cq_pending(w->cq);
    size_t most = room < w->free_count ? room : w->free_count;
    if (most == 0)
        return;
    size_t count = 1 + below(&w->chance, one_in(&w->chance, 4) ? most : most < 4 ? most : 4);
    for (size_t i = 0; i < count; i++)
        ops[i] = random_op(w, copies, values, (unsigned)i);
    uint64_t first = 0;
    int n = bitkv_cq_submit(w->cq, ops, count, &first);
    expect(w, n == (int)count);
    memset(copies, 0xff, sizeof copies);
    memset(values, 0xff, sizeof values);
    if (!one_in(&w->chance, 12))
        return;
    /* Whichever is canceled had its effect already, if it is a write. */
    uint64_t which = one_in(&w->chance, 4) ? BITKV_CQ_ALL : first + below(&w->chance, count);
    for (unsigned i = 0; i < WINDOW; i++)
        w->slots[i].may_be_canceled |=
            w->slots[i].taken &&
            (which == BITKV_CQ_ALL || &w->slots[i] == ops[which - first].user_data);
    int rc = bitkv_cq_cancel(w->cq, which);
    expect(w, rc == BITKV_OK || rc == BITKV_NOT_FOUND);
}

static void call_synchronously(struct worker *w)
{
    uint32_t key = (uint32_t)below(&w->chance, KEYS);
    if (one_in(&w->chance, 3)) {
        unsigned char value[VALUE_MAX];
        w->model[key] = ++w->numbers * THREADS + w->index + 1;
        fill(value, size_of(w->model[key]), w->model[key]);
        expect(w, bitkv_put(w->db, w->keys[key], 8, value, size_of(w->model[key])) == BITKV_OK);
        return;
    }
    void *value = NULL;
    size_t size = 0;
    int rc = bitkv_get(w->db, w->keys[key], 8, &value, &size);
    expect(w, rc == (w->model[key] != 0 ? BITKV_OK : BITKV_NOT_FOUND));
    if (rc == BITKV_OK)
        expect(w, is_value(value, size, w->model[key]));
    bitkv_free(value);
}

static void *work(void *user)
{
    struct worker *w = user;
    this_worker = w;
    w->cq = queue_of(w->db, w->capacity);
    bool polls = one_in(&w->chance, 3);
    int fd = polls ? bitkv_cq_fd(w->cq) : -1;
    uint64_t rounds = 50 + below(&w->chance, 400);
    for (uint64_t i = 0; i < rounds && w->troubles == 0; i++) {
        submit_batch(w);
        if (one_in(&w->chance, 6))
            call_synchronously(w);
        if (one_in(&w->chance, 20))
            forget_pages(w->db);
        bool full = w->free_count < 8 || bitkv_cq_pending(w->cq) == w->capacity;
        if (full && polls)
            expect(w, readable(fd, PATIENCE_MS));
        if (full || one_in(&w->chance, 3))
            reap_some(w, full && !polls ? PATIENCE_MS : 0);
    }
    reap_all(w);
    expect(w, bitkv_cq_destroy(w->cq) == BITKV_OK);
    return NULL;
}

/* --- rounds -------------------------------------------------------------------------------- */

static void check_all(bitkv *db)
{
    uint64_t keys = 0;
    for (uint32_t t = 0; t < THREADS; t++) {
        workers[t].db = db;
        for (uint32_t i = 0; i < KEYS; i++) {
            keys += workers[t].model[i] != 0;
            void *value;
            size_t size;
            int rc = bitkv_get(db, workers[t].keys[i], 8, &value, &size);
            assert_int_equal(rc, workers[t].model[i] != 0 ? BITKV_OK : BITKV_NOT_FOUND);
            if (rc == BITKV_OK)
                assert_true(is_value(value, size, workers[t].model[i]));
            bitkv_free(value);
        }
    }
    assert_int_equal(statistics_of(db).keys, keys);
}

static bitkv_options random_options(struct chance *chance)
{
    static const uint32_t depths[] = {1, 2, 16, 0};
    bitkv_options o = one_partition(one_in(chance, 3) ? BITKV_IO_PWRITE : BITKV_IO_AUTO);
    o.partitions = 2;
    o.backend = one_in(chance, 2) ? BITKV_BACKEND_THREADS : BITKV_BACKEND_AUTO;
    o.max_open_segments = (uint32_t)below(chance, 6);
    o.ring_depth = depths[below(chance, 4)];
    o.io_threads = (uint32_t)below(chance, 4);
    return o;
}

static void queues_do_what_a_model_does(void **state)
{
    (void)state;
    static const uint32_t capacities[] = {1, 4, 33, WINDOW};
    uint64_t seed = env_number("BITKV_SEED", now_ms() * 0x9e3779b9u + (uint64_t)getpid());
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    struct chance chance = {seed};
    memset(workers, 0, sizeof workers);
    uint64_t rounds = 0, operations = 0;
    for (uint64_t end = now_ms() + env_number("BITKV_MS", 6000); now_ms() < end; rounds++) {
        bitkv_options o = random_options(&chance);
        atomic_store(&seam.all_cold, !one_in(&chance, 4));
        if (one_in(&chance, 25))
            remove_tree(path);
        if (access(path, F_OK) != 0) {
            for (unsigned t = 0; t < THREADS; t++)
                memset(workers[t].model, 0, sizeof workers[t].model);
        }
        bitkv *db = open_with(&o);
        unsigned threads = 1 + (unsigned)below(&chance, THREADS);
        pthread_t running[THREADS];
        for (uint32_t t = 0; t < THREADS; t++) {
            struct worker *w = &workers[t];
            w->index = t;
            w->capacity = capacities[below(&chance, 4)];
            w->chance.state = draw(&chance);
            w->free_count = WINDOW;
            for (uint32_t i = 0; i < WINDOW; i++)
                w->free_slots[i] = i;
            for (uint32_t i = 0; i < KEYS; i++)
                (void)snprintf((char *)w->keys[i], sizeof w->keys[i], "%u-%u", t, i);
        }
        check_all(db);
        for (unsigned t = 0; t < threads; t++)
            assert_int_equal(pthread_create(&running[t], NULL, work, &workers[t]), 0);
        for (unsigned t = 0; t < threads; t++) {
            assert_int_equal(pthread_join(running[t], NULL), 0);
            assert_int_equal(workers[t].troubles, 0);
        }
        check_all(db);
        ok(bitkv_close(db));
    }
    for (unsigned t = 0; t < THREADS; t++)
        operations += workers[t].operations;
    print_message("%llu operations in %llu rounds\n", (unsigned long long)operations,
                  (unsigned long long)rounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(queues_do_what_a_model_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
