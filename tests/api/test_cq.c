/* SPDX-License-Identifier: MIT */
/* Completion queues: what operations do, whether their records are in memory or
 * have to be read from disk. */
#include "api/queue.h"

#define MANY 1000

struct numbered {
    char key[16];
    char value[32];
    char got[32];
};

static struct numbered numbered[MANY];
static bitkv_op ops[4 * MANY];
static bitkv_completion done[4 * MANY];

static void number_them(unsigned round)
{
    for (unsigned i = 0; i < MANY; i++) {
        (void)snprintf(numbered[i].key, sizeof numbered[i].key, "key-%u", i);
        (void)snprintf(numbered[i].value, sizeof numbered[i].value, "value-%u-%u", round, i);
        memset(numbered[i].got, '?', sizeof numbered[i].got);
    }
}

/* Puts, gets, questions, deletions, gets: each kind as one batch. */
static void run_batch_of(bitkv_cq *cq, unsigned count, uint64_t *next_id)
{
    for (unsigned step = 0; step < 5; step++) {
        for (unsigned i = 0; i < count; i++) {
            struct numbered *n = &numbered[i];
            bitkv_op by_step[] = {
                op_put(n->key, n->value),
                op_get(n->key, n->got, sizeof n->got),
                op_key(BITKV_OP_EXISTS, n->key),
                op_key(BITKV_OP_DEL, n->key),
                op_get(n->key, n->got, sizeof n->got),
            };
            ops[i] = by_step[step];
            ops[i].user_data = n;
        }
        uint64_t first = submit_all(cq, ops, count);
        assert_int_equal(first, *next_id);
        *next_id += count;
        assert_int_equal(bitkv_cq_pending(cq), count);
        reap_into(cq, done, first, count);
        for (unsigned i = 0; i < count; i++) {
            assert_ptr_equal(done[i].user_data, &numbered[i]);
            assert_int_equal(done[i].kind, ops[i].kind);
            if (step == 1) {
                expect_got(&done[i], numbered[i].value);
                assert_ptr_equal(done[i].value, numbered[i].got);
            } else {
                assert_int_equal(done[i].status, step == 4 ? BITKV_NOT_FOUND : BITKV_OK);
                assert_string_equal(done[i].error, "");
                assert_null(done[i].value);
            }
        }
        expect_empty(cq);
    }
}

static void every_kind_singly_and_in_batches(void **state)
{
    (void)state;
    static const unsigned counts[] = {1, 2, 31, 32, 33, 64, 100, MANY};
    for_both_modes(mode)
    {
        for_hot_and_cold(cold)
        {
            bitkv *db = open_small(mode);
            bitkv_cq *cq = queue_of(db, 0);
            uint64_t next_id = 1;
            for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++) {
                number_them(i);
                run_batch_of(cq, counts[i], &next_id);
            }
            if (cold)
                assert_true(atomic_load(&seam.ring_reads) + atomic_load(&seam.pool_reads) > 0);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

static void a_value_goes_where_the_operation_says(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        for_hot_and_cold(cold)
        {
            bitkv *db = open_small(mode);
            bitkv_cq *cq = queue_of(db, 0);
            put_text(db, "k", "value");
            put_text(db, "empty", "");
            char buffer[8] = "???????";

            bitkv_completion c = one(cq, op_get("k", buffer, sizeof buffer));
            expect_got(&c, "value");
            assert_ptr_equal(c.value, buffer);
            assert_memory_equal(buffer, "value??", 7); /* and no more than that */
            assert_null(c.view.pin);

            c = one(cq, op_get("k", buffer, 5));
            expect_got(&c, "value");

            c = one(cq, op_get("k", buffer, 4));
            assert_int_equal(c.status, BITKV_ERR_BUFFER_TOO_SMALL);
            assert_int_equal(c.value_size, 5);
            assert_null(c.value);
            assert_non_null(strstr(c.error, "5"));

            c = one(cq, op_get("k", NULL, 0));
            expect_got(&c, "value");
            assert_string_equal(c.value, "value"); /* with a NUL */
            bitkv_free(c.value);

            bitkv_op view = op_get("k", NULL, 0);
            view.flags = BITKV_OP_VIEW;
            c = one(cq, view);
            assert_int_equal(c.status, BITKV_OK);
            assert_null(c.value);
            assert_int_equal(c.view.size, 5);
            assert_memory_equal(c.view.data, "value", 5);
            put_text(db, "k", "other");
            assert_memory_equal(c.view.data, "value", 5);
            bitkv_view_release(&c.view);

            c = one(cq, op_get("empty", buffer, 1));
            expect_got(&c, "");
            c = one(cq, op_get("empty", NULL, 0));
            expect_got(&c, "");
            assert_string_equal(c.value, "");
            bitkv_free(c.value);

            c = one(cq, op_get("absent", NULL, 0));
            assert_int_equal(c.status, BITKV_NOT_FOUND);
            assert_null(c.value);
            view.key = "absent";
            view.key_size = 6;
            c = one(cq, view);
            assert_int_equal(c.status, BITKV_NOT_FOUND);
            assert_null(c.view.pin);
            c = one(cq, op_key(BITKV_OP_DEL, "absent"));
            assert_int_equal(c.status, BITKV_NOT_FOUND);
            c = one(cq, op_key(BITKV_OP_EXISTS, "absent"));
            assert_int_equal(c.status, BITKV_NOT_FOUND);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

static void what_is_wrong_is_its_own_completions(void **state)
{
    (void)state;
    static char long_key[BITKV_KEY_SIZE_MAX + 1];
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        put_text(db, "k", "v");
        char got[8];
        bitkv_op bad[] = {
            {.kind = (bitkv_op_kind)0, .key = "k", .key_size = 1},
            {.kind = (bitkv_op_kind)6, .key = "k", .key_size = 1},
            {.kind = (bitkv_op_kind)-1, .key = "k", .key_size = 1},
            {.kind = BITKV_OP_GET, .key = "k", .key_size = 1, .flags = 4},
            {.kind = BITKV_OP_GET, .key = NULL, .key_size = 1},
            {.kind = BITKV_OP_GET, .key = "k", .key_size = 0},
            {.kind = BITKV_OP_GET, .key = long_key, .key_size = sizeof long_key},
            {.kind = BITKV_OP_GET, .key = "k", .key_size = 1, .buffer_size = 1},
            {.kind = BITKV_OP_EXISTS, .key = "k", .key_size = 0},
            {.kind = BITKV_OP_PUT, .key = NULL, .key_size = 1},
            {.kind = BITKV_OP_PUT, .key = "k", .key_size = 1, .value_size = 1},
            {.kind = BITKV_OP_PUT,
             .key = "k",
             .key_size = 1,
             .value = "v",
             .value_size = (size_t)BITKV_VALUE_SIZE_MAX + 1},
            {.kind = BITKV_OP_PUT, .key = "k", .key_size = 1, .durability = (bitkv_durability)77},
            {.kind = BITKV_OP_DEL, .key = "k", .key_size = SIZE_MAX},
        };
        static const char *const texts[] = {
            "bitkv_op_kind", "bitkv_op_kind", "bitkv_op_kind",  "flags 0x4", "NULL",
            "1 to",          "1 to",          "buffer is NULL", "1 to",      "NULL",
            "value is NULL", "value has 0",   "durability",     "1 to",
        };
        size_t count = sizeof bad / sizeof bad[0];
        for (size_t i = 0; i < count; i++) {
            ops[2 * i] = bad[i];
            ops[2 * i + 1] = op_get("k", got, sizeof got);
        }
        reap_into(cq, done, submit_all(cq, ops, 2 * count), 2 * count);
        for (size_t i = 0; i < 2 * count; i++) {
            if (i % 2 == 1) {
                assert_int_equal(done[i].status, BITKV_OK);
                continue;
            }
            assert_int_equal(done[i].status, BITKV_ERR_INVALID);
            assert_null(done[i].value);
        }
        /* Texts are valid until the queue is reaped next: one by one. */
        for (size_t i = 0; i < count; i++) {
            bitkv_completion c = one(cq, bad[i]);
            if (strstr(c.error, texts[i]) == NULL)
                print_error("%zu: \"%s\" does not say \"%s\"\n", i, c.error, texts[i]);
            assert_non_null(strstr(c.error, texts[i]));
        }
        expect_empty(cq);
        expect_text(db, "k", "v");
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void a_copied_key_may_change_at_once(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        number_them(0);
        char key[16], value[32];
        for (unsigned i = 0; i < 100; i++) {
            (void)stpcpy(key, numbered[i].key);
            (void)stpcpy(value, numbered[i].value);
            bitkv_op two[] = {op_put(key, value),
                              op_get(key, numbered[i].got, sizeof numbered[i].got),
                              op_key(BITKV_OP_EXISTS, key)};
            two[0].flags = two[1].flags = two[2].flags = BITKV_OP_COPY;
            (void)submit_all(cq, two, 3);
            memset(key, 'x', sizeof key);
            memset(value, 'x', sizeof value);
            memset(two, 'x', sizeof two);
        }
        reap_into(cq, done, 1, 300);
        for (unsigned i = 0; i < 300; i++) {
            assert_int_equal(done[i].status, BITKV_OK);
            if (i % 3 == 1)
                expect_got(&done[i], numbered[i / 3].value);
        }
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

/* put 0, get, put 1, get, del, get, again and again: in batches of `size`. */
static void in_order(bitkv_cq *cq, unsigned size)
{
    static char values[300][16];
    static char got[300][16];
    unsigned count = 300;
    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(values[i], sizeof values[i], "v%u", i);
        memset(got[i], 0, sizeof got[i]);
        unsigned step = i % 6;
        ops[i] = step == 0 || step == 2 ? op_put("same", values[i])
                 : step == 4            ? op_key(BITKV_OP_DEL, "same")
                                        : op_get("same", got[i], sizeof got[i]);
    }
    uint64_t first = 0;
    for (unsigned at = 0; at < count; at += size) {
        uint64_t id = submit_all(cq, ops + at, size < count - at ? size : count - at);
        first = at == 0 ? id : first;
    }
    reap_into(cq, done, first, count);
    for (unsigned i = 0; i < count; i++) {
        unsigned step = i % 6;
        if (step == 1 || step == 3)
            expect_got(&done[i], values[i - 1]);
        else
            assert_int_equal(done[i].status, step == 5 ? BITKV_NOT_FOUND : BITKV_OK);
    }
}

static void operations_take_effect_in_their_order(void **state)
{
    (void)state;
    static const unsigned sizes[] = {1, 2, 5, 32, 37, 300};
    for_both_modes(mode)
    {
        for_hot_and_cold(cold)
        {
            bitkv *db = open_small(mode);
            bitkv_cq *cq = queue_of(db, 0);
            for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
                in_order(cq, sizes[i]);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

static void values_of_any_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 100000, 3 << 20, 9 << 20};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    for_both_modes(mode)
    {
        for_hot_and_cold(cold)
        {
            bitkv_options o = one_partition(mode);
            o.max_file_size = 16 << 20;
            bitkv *db = open_with(&o);
            bitkv_cq *cq = queue_of(db, 0);
            unsigned char *values[SIZES];
            char keys[SIZES][8];
            for (unsigned i = 0; i < SIZES; i++) {
                values[i] = malloc(sizes[i] + 1);
                assert_non_null(values[i]);
                fill(values[i], sizes[i], i);
                (void)snprintf(keys[i], sizeof keys[i], "%u", i);
                ops[i] = (bitkv_op){.kind = BITKV_OP_PUT,
                                    .key = keys[i],
                                    .key_size = strlen(keys[i]),
                                    .value = values[i],
                                    .value_size = sizes[i]};
                ops[SIZES + i] = op_get(keys[i], NULL, 0);
                ops[2 * SIZES + i] = op_get(keys[i], NULL, 0);
                ops[2 * SIZES + i].flags = BITKV_OP_VIEW;
            }
            reap_into(cq, done, submit_all(cq, ops, (size_t)3 * SIZES), (size_t)3 * SIZES);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
            for (unsigned i = 0; i < SIZES; i++) {
                assert_int_equal(done[i].status, BITKV_OK);
                assert_int_equal(done[SIZES + i].value_size, sizes[i]);
                assert_memory_equal(done[SIZES + i].value, values[i], sizes[i]);
                bitkv_free(done[SIZES + i].value);
                bitkv_view *view = &done[2 * SIZES + i].view; /* outlives it all */
                assert_int_equal(view->size, sizes[i]);
                assert_memory_equal(view->data, values[i], sizes[i]);
                bitkv_view_release(view);
                free(values[i]);
            }
        }
    }
}

static void statistics_count_as_they_do_for_calls(void **state)
{
    (void)state;
    for_hot_and_cold(cold)
    {
        bitkv *db = open_small(BITKV_IO_AUTO);
        bitkv_cq *cq = queue_of(db, 0);
        char got[8];
        bitkv_op batch[] = {
            op_put("a", "1"),          op_put("b", "2"),
            op_put("a", "3"),          op_get("a", got, sizeof got),
            op_get("b", NULL, 0),      op_get("absent", NULL, 0),
            op_get("a", got, 0),       op_key(BITKV_OP_EXISTS, "b"),
            op_key(BITKV_OP_DEL, "b"), op_key(BITKV_OP_DEL, "absent"),
        };
        reap_into(cq, done, submit_all(cq, batch, 10), 10);
        bitkv_free(done[4].value);
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.puts_total, 3);
        assert_int_equal(s.gets_total, 5);
        assert_int_equal(s.gets_miss_total, 1);
        assert_int_equal(s.deletes_total, 1);
        assert_int_equal(s.errors_total, 0);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static void a_read_only_database_is_read(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "k", "v");
        ok(bitkv_close(db));
        bitkv_options o = one_partition(mode);
        o.read_only = true;
        for_hot_and_cold(cold)
        {
            db = open_with(&o);
            bitkv_cq *cq = queue_of(db, 0);
            char got[8];
            bitkv_completion c = one(cq, op_get("k", got, sizeof got));
            expect_got(&c, "v");
            c = one(cq, op_put("k", "w"));
            assert_int_equal(c.status, BITKV_ERR_READ_ONLY);
            assert_non_null(strstr(c.error, "read-only"));
            c = one(cq, op_key(BITKV_OP_DEL, "k"));
            assert_int_equal(c.status, BITKV_ERR_READ_ONLY);
            ok(bitkv_sync(db));
            c = one(cq, (bitkv_op){.kind = BITKV_OP_SYNC}); /* nobody works there */
            assert_int_equal(c.status, BITKV_OK);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(every_kind_singly_and_in_batches),
        CQ_TEST(a_value_goes_where_the_operation_says),
        CQ_TEST(what_is_wrong_is_its_own_completions),
        CQ_TEST(a_copied_key_may_change_at_once),
        CQ_TEST(operations_take_effect_in_their_order),
        CQ_TEST(values_of_any_size),
        CQ_TEST(statistics_count_as_they_do_for_calls),
        CQ_TEST(a_read_only_database_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
