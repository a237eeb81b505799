/* SPDX-License-Identifier: MIT */
/* Scanning: what is visited, and what a callback may do. */
#include "api/fixture.h"

#define COUNT 500u

struct seen {
    bitkv *db;
    unsigned calls;
    unsigned visits[COUNT];
    unsigned stop_after;
    int answer;
    unsigned flags;
    uint32_t partitions;
};

static bitkv *open_filled(uint32_t partitions)
{
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.partitions = partitions;
    bitkv *db = open_with(&o);
    static char value[1000];
    for (uint32_t i = 0; i < COUNT; i++) {
        fill(value, sizeof value, i);
        ok(bitkv_put(db, &i, sizeof i, value, i));
    }
    return db;
}

static int look(void *user, const bitkv_record *record)
{
    struct seen *s = user;
    char value[1000];
    uint32_t key;
    assert_int_equal(record->key_size, sizeof key);
    memcpy(&key, record->key, sizeof key);
    assert_in_range(key, 0, COUNT - 1);
    assert_int_equal(record->value_size, key);
    assert_in_range(record->partition, 0, s->partitions - 1);
    if (s->flags == BITKV_SCAN_KEYS) {
        assert_null(record->value);
    } else {
        fill(value, sizeof value, key);
        assert_int_equal(memcmp(record->value, value, key), 0);
    }
    assert_int_not_equal(record->sequence, 0);
    s->visits[key]++;
    s->calls++;
    return s->calls == s->stop_after ? s->answer : 0;
}

static void every_live_record_is_visited_once(void **state)
{
    (void)state;
    for (unsigned flags = BITKV_SCAN_ALL; flags <= BITKV_SCAN_KEYS; flags++) {
        remove_tree(path);
        bitkv *db = open_filled(3);
        struct seen s = {.db = db, .flags = flags, .partitions = 3};
        ok(bitkv_scan(db, flags, look, &s));
        for (uint32_t i = 0; i < COUNT; i++)
            assert_int_equal(s.visits[i], 1);
        for (uint32_t i = 0; i < COUNT; i += 2)
            ok(bitkv_del(db, &i, sizeof i));
        struct seen rest = {.db = db, .flags = flags, .partitions = 3};
        ok(bitkv_scan(db, flags, look, &rest));
        for (uint32_t i = 0; i < COUNT; i++)
            assert_int_equal(rest.visits[i], i % 2);
        ok(bitkv_close(db));
    }
}

static int fail_if_called(void *user, const bitkv_record *record)
{
    (void)user;
    (void)record;
    return -77;
}

static void an_empty_database_has_nothing_to_visit(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    ok(bitkv_scan(db, BITKV_SCAN_ALL, fail_if_called, NULL));
    put_text(db, "k", "v");
    ok(bitkv_del(db, "k", 1));
    ok(bitkv_scan(db, BITKV_SCAN_ALL, fail_if_called, NULL));
    fails(BITKV_ERR_INVALID, bitkv_scan(db, 2, fail_if_called, NULL));
    fails(BITKV_ERR_INVALID, bitkv_scan(db, UINT32_MAX, fail_if_called, NULL));
    ok(bitkv_close(db));
}

/* Whatever it says: also what the library itself could have said. */
static void what_a_callback_returns_ends_the_scan_and_is_returned(void **state)
{
    (void)state;
    bitkv *db = open_filled(4);
    static const int answers[] = {1,
                                  -1,
                                  42,
                                  -1000,
                                  BITKV_ERR_CORRUPT,
                                  BITKV_ERR_IO,
                                  BITKV_ERR_CLOSED,
                                  BITKV_NOT_FOUND,
                                  BITKV_ERR_NO_MEMORY};
    for (unsigned i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct seen s = {.db = db, .stop_after = 1 + i, .answer = answers[i], .partitions = 4};
        assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, look, &s), answers[i]);
        assert_int_equal(s.calls, 1 + i);
    }
    ok(bitkv_close(db));
}

static int rewrite(void *user, const bitkv_record *record)
{
    struct seen *s = user;
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    if (key < COUNT)
        s->visits[key]++;
    uint32_t other = key + 1000000;
    char value[1000];
    size_t size;
    assert_int_equal(
        bitkv_get_into(s->db, record->key, record->key_size, value, sizeof value, &size), BITKV_OK);
    ok(bitkv_put(s->db, record->key, record->key_size, "replaced", 8));
    if (key < COUNT && s->calls++ < COUNT)
        ok(bitkv_put(s->db, &other, sizeof other, "new", 3));
    return 0;
}

static int nothing(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(unsigned *)user;
    return 0;
}

static int scan_again(void *user, const bitkv_record *record)
{
    struct seen *s = user;
    unsigned inner = 0;
    (void)record;
    ok(bitkv_scan(s->db, BITKV_SCAN_KEYS, nothing, &inner));
    assert_int_equal(inner, COUNT);
    return ++s->calls == 3;
}

static void a_callback_may_use_the_database(void **state)
{
    (void)state;
    bitkv *db = open_filled(2);
    struct seen nested = {.db = db};
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, scan_again, &nested), 1);
    struct seen s = {.db = db};
    ok(bitkv_scan(db, BITKV_SCAN_ALL, rewrite, &s));
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(s.visits[i], 1);
        char value[8];
        ok(bitkv_get_into(db, &i, sizeof i, value, sizeof value, NULL));
        assert_memory_equal(value, "replaced", 8);
    }
    ok(bitkv_close(db));
}

struct closing {
    bitkv *outer, *inner;
    int result;
};

static int close_inner(void *user, const bitkv_record *record)
{
    struct closing *c = user;
    (void)record;
    c->result = bitkv_close(c->outer);
    return 5;
}

static int close_from_within(void *user, const bitkv_record *record)
{
    struct closing *c = user;
    (void)record;
    if (c->inner == NULL)
        return close_inner(user, record);
    return bitkv_scan(c->inner, BITKV_SCAN_ALL, close_inner, c);
}

static void closing_from_a_callback_is_refused(void **state)
{
    (void)state;
    bitkv *db = open_filled(2);
    struct closing c = {.outer = db};
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, close_from_within, &c), 5);
    assert_int_equal(c.result, BITKV_ERR_INVALID);
    ok(bitkv_exists(db, &(uint32_t){1}, 4)); /* it is open, and works */
    ok(bitkv_close(db));
}

/* Also if the callback is that of a scan of another database in between. */
static void closing_from_a_callback_inside_of_another_scan_is_refused(void **state)
{
    (void)state;
    bitkv *db = open_filled(1);
    char name[PATH_SIZE];
    bitkv *other;
    ok(bitkv_open(&other, inside(name, directory, "other"), NULL));
    put_text(other, "k", "v");
    struct closing c = {.outer = db, .inner = other};
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, close_from_within, &c), 5);
    assert_int_equal(c.result, BITKV_ERR_INVALID);
    ok(bitkv_close(other));
    ok(bitkv_close(db));
}

static int close_another(void *user, const bitkv_record *record)
{
    (void)record;
    return bitkv_close(user) == BITKV_OK ? 7 : 8;
}

static void another_database_may_be_closed_from_a_callback(void **state)
{
    (void)state;
    bitkv *db = open_filled(1);
    char name[PATH_SIZE];
    bitkv *other;
    ok(bitkv_open(&other, inside(name, directory, "other"), NULL));
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_ALL, close_another, other), 7);
    ok(bitkv_close(db));
}

static int ascend(void *user, const bitkv_record *record)
{
    uint64_t *sequences = user;
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    sequences[key] = record->sequence;
    return 0;
}

static void sequences_ascend_with_the_writes_also_over_a_reopening(void **state)
{
    (void)state;
    bitkv *db = open_filled(1);
    static uint64_t sequences[COUNT + 1];
    ok(bitkv_scan(db, BITKV_SCAN_ALL, ascend, sequences));
    for (uint32_t i = 1; i < COUNT; i++)
        assert_true(sequences[i] > sequences[i - 1]);
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_PWRITE);
    uint32_t key = COUNT;
    ok(bitkv_put(db, &key, sizeof key, "v", 1));
    ok(bitkv_scan(db, BITKV_SCAN_ALL, ascend, sequences));
    assert_true(sequences[COUNT] > sequences[COUNT - 1]);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_live_record_is_visited_once),
        TEST(an_empty_database_has_nothing_to_visit),
        TEST(what_a_callback_returns_ends_the_scan_and_is_returned),
        TEST(a_callback_may_use_the_database),
        TEST(closing_from_a_callback_is_refused),
        TEST(closing_from_a_callback_inside_of_another_scan_is_refused),
        TEST(another_database_may_be_closed_from_a_callback),
        TEST(sequences_ascend_with_the_writes_also_over_a_reopening),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
