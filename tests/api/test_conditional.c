/* SPDX-License-Identifier: MIT */
/* What bitkv.h promises of writes that depend on what is there, alone and with
 * many threads at one key. */
#include "api/fixture.h"

#include "base/clock.h"
#include "base/memory.h"

#include <pthread.h>
#include <stdatomic.h>

static bitkv_put_options options_for(bitkv_condition condition)
{
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.condition = condition;
    return o;
}

static int put_on(bitkv *db, bitkv_condition condition, const char *key, const char *value,
                  uint64_t *version)
{
    bitkv_put_options o = options_for(condition);
    if (condition == BITKV_IF_VERSION)
        o.version = *version;
    return bitkv_put_if(db, key, strlen(key), value, strlen(value), &o, version);
}

static bitkv_key_info info_of(bitkv *db, const char *key)
{
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    ok(bitkv_info(db, key, strlen(key), &info));
    return info;
}

static void expire(bitkv *db, const char *key)
{
    ok(bitkv_touch(db, key, strlen(key), 1));
    bkv_clock_elapse(1);
    fails(BITKV_NOT_FOUND, bitkv_exists(db, key, strlen(key)));
}

/* --- conditions -------------------------------------------------------------------- */

static void conditions_decide(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        uint64_t version = 7;
        fails(BITKV_NOT_FOUND, put_on(db, BITKV_IF_PRESENT, "k", "1", &version));
        fails(BITKV_NOT_FOUND, put_on(db, BITKV_IF_VERSION, "k", "1", &version));
        fails(BITKV_NOT_FOUND, bitkv_del_if(db, "k", 1, 7, BITKV_DURABILITY_DEFAULT));
        assert_int_equal(version, 7); /* left alone by what fails */
        fails(BITKV_NOT_FOUND, bitkv_exists(db, "k", 1));
        ok(put_on(db, BITKV_IF_ABSENT, "k", "2", &version));
        uint64_t first = version;
        assert_int_equal(first, info_of(db, "k").version);
        fails(BITKV_ERR_CONFLICT, put_on(db, BITKV_IF_ABSENT, "k", "3", &version));
        context_has("there");
        expect_text(db, "k", "2");
        ok(put_on(db, BITKV_IF_PRESENT, "k", "4", &version));
        assert_true(version > first);
        fails(BITKV_ERR_CONFLICT, put_on(db, BITKV_IF_VERSION, "k", "5", &first));
        context_has("version");
        expect_text(db, "k", "4");
        ok(put_on(db, BITKV_IF_VERSION, "k", "6", &version));
        expect_text(db, "k", "6");
        put_text(db, "k", "7"); /* a plain put counts as a write, too */
        fails(BITKV_ERR_CONFLICT, put_on(db, BITKV_IF_VERSION, "k", "8", &version));
        fails(BITKV_ERR_CONFLICT, bitkv_del_if(db, "k", 1, version, BITKV_DURABILITY_DEFAULT));
        expect_text(db, "k", "7");
        ok(bitkv_del_if(db, "k", 1, info_of(db, "k").version, BITKV_DURABILITY_DEFAULT));
        fails(BITKV_NOT_FOUND, bitkv_exists(db, "k", 1));
        ok(put_on(db, BITKV_ALWAYS, "k", "9", &version));
        assert_int_equal(version, info_of(db, "k").version);
        assert_int_equal(statistics_of(db).errors_total, 0);
        ok(bitkv_close(db));
    }
}

static void versions_outlive_the_opening(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    uint64_t version;
    ok(put_on(db, BITKV_ALWAYS, "k", "1", &version));
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_AUTO);
    uint64_t same = version;
    ok(put_on(db, BITKV_IF_VERSION, "k", "2", &version));
    assert_true(version > same);
    fails(BITKV_ERR_CONFLICT, put_on(db, BITKV_IF_VERSION, "k", "3", &same));
    ok(bitkv_close(db));
}

static void an_expired_key_counts_as_absent(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    uint64_t version;
    ok(put_on(db, BITKV_ALWAYS, "k", "1", &version));
    expire(db, "k");
    version = 2; /* that of the record */
    fails(BITKV_NOT_FOUND, put_on(db, BITKV_IF_PRESENT, "k", "2", NULL));
    fails(BITKV_NOT_FOUND, put_on(db, BITKV_IF_VERSION, "k", "2", &version));
    fails(BITKV_NOT_FOUND, bitkv_del_if(db, "k", 1, version, BITKV_DURABILITY_DEFAULT));
    ok(put_on(db, BITKV_IF_ABSENT, "k", "3", NULL));
    expect_text(db, "k", "3");
    assert_true(info_of(db, "k").remaining_ms == UINT64_MAX);
    ok(bitkv_close(db));
}

static void a_deadline_can_be_kept(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_put_options o = options_for(BITKV_ALWAYS);
    o.ttl_ms = 10000;
    ok(bitkv_put_if(db, "k", 1, "1", 1, &o, NULL));
    uint64_t deadline = info_of(db, "k").deadline_ms;
    o.ttl_ms = BITKV_TTL_KEEP;
    ok(bitkv_put_if(db, "k", 1, "2", 1, &o, NULL));
    assert_int_equal(info_of(db, "k").deadline_ms, deadline);
    ok(bitkv_put_if(db, "none", 4, "2", 1, &o, NULL));
    assert_true(info_of(db, "none").deadline_ms == UINT64_MAX);
    o.condition = BITKV_IF_PRESENT;
    ok(bitkv_put_if(db, "k", 1, "3", 1, &o, NULL));
    assert_int_equal(info_of(db, "k").deadline_ms, deadline);
    expect_text(db, "k", "3");
    o.ttl_ms = 0;
    ok(bitkv_put_if(db, "k", 1, "3", 1, &o, NULL));
    assert_true(info_of(db, "k").deadline_ms == UINT64_MAX);
    ok(bitkv_close(db));
}

static void what_is_wrong_is_refused(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    put_text(db, "k", "v");
    bitkv_put_options o = options_for((bitkv_condition)4);
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    o = options_for(BITKV_ALWAYS);
    o.reserved[3] = 1;
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    o = options_for(BITKV_ALWAYS);
    o.durability = (bitkv_durability)4;
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    o = options_for(BITKV_ALWAYS);
    o.struct_size++;
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 0, "w", 1, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, NULL, 1, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_put_if(NULL, "k", 1, "w", 1, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_del_if(db, "k", 1, 1, (bitkv_durability)4));
    fails(BITKV_ERR_INVALID, bitkv_add(db, NULL, 1, 1, NULL));
    fails(BITKV_ERR_INVALID, bitkv_add(NULL, "k", 1, 1, NULL));
    fails(BITKV_ERR_INVALID, bitkv_touch(db, "k", 0, 1));
    fails(BITKV_ERR_INVALID, bitkv_touch(NULL, "k", 1, 1));
    fails(BITKV_ERR_INVALID, bitkv_update(db, "k", 1, NULL, NULL, BITKV_DURABILITY_DEFAULT));
    bitkv_put_options_init(NULL);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void conditional_writes_wait_for_their_sync(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_put_options o = options_for(BITKV_IF_ABSENT);
    o.durability = BITKV_DURABILITY_SYNC;
    uint64_t version;
    ok(bitkv_put_if(db, "k", 1, "v", 1, &o, &version));
    assert_int_equal(statistics_of(db).syncs_total, 1);
    ok(bitkv_del_if(db, "k", 1, version, BITKV_DURABILITY_SYNC));
    assert_int_equal(statistics_of(db).syncs_total, 2);
    fails(BITKV_NOT_FOUND, bitkv_del_if(db, "k", 1, version, BITKV_DURABILITY_SYNC));
    assert_int_equal(statistics_of(db).syncs_total, 2);
    ok(bitkv_close(db));
}

/* The segments of an earlier opening are closed: a look has to leave its section
 * to open them. */
static void keys_in_closed_segments_can_be_asked_about(void **state)
{
    (void)state;
    static char value[20 << 10];
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 1;
        bitkv *db = open_with(&o);
        uint64_t versions[40];
        bitkv_put_options put = options_for(BITKV_IF_ABSENT);
        for (unsigned i = 0; i < 40; i++)
            ok(bitkv_put_if(db, &i, sizeof i, value, sizeof value, &put, &versions[i]));
        ok(bitkv_close(db));
        db = open_with(&o);
        for (unsigned i = 0; i < 40; i++) {
            fails(BITKV_ERR_CONFLICT, bitkv_put_if(db, &i, sizeof i, "w", 1, &put, NULL));
            bitkv_put_options same = options_for(BITKV_IF_VERSION);
            same.version = versions[i] + 1;
            fails(BITKV_ERR_CONFLICT, bitkv_put_if(db, &i, sizeof i, "w", 1, &same, NULL));
            same.version = versions[i];
            if (i % 2 == 0)
                ok(bitkv_put_if(db, &i, sizeof i, "w", 1, &same, NULL));
            else
                ok(bitkv_del_if(db, &i, sizeof i, versions[i], BITKV_DURABILITY_DEFAULT));
        }
        for (unsigned i = 0; i < 40; i++)
            fails(i % 2 == 0 ? BITKV_OK : BITKV_NOT_FOUND, bitkv_exists(db, &i, sizeof i));
        ok(bitkv_close(db));
    }
}

/* --- counters ------------------------------------------------------------------------- */

static void counters_count(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    int64_t sum = 99;
    ok(bitkv_add(db, "n", 1, 5, &sum));
    assert_int_equal(sum, 5);
    ok(bitkv_add(db, "n", 1, -7, &sum));
    assert_int_equal(sum, -2);
    uint8_t bytes[8];
    ok(bitkv_get_into(db, "n", 1, bytes, sizeof bytes, NULL));
    const uint8_t expected[8] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    assert_memory_equal(bytes, expected, 8);
    ok(bitkv_add(db, "n", 1, INT64_MIN + 2, &sum));
    assert_true(sum == INT64_MIN);
    uint64_t version = info_of(db, "n").version;
    fails(BITKV_ERR_LIMIT, bitkv_add(db, "n", 1, -1, &sum));
    assert_true(sum == INT64_MIN);
    ok(bitkv_add(db, "n", 1, 0, NULL));
    assert_true(info_of(db, "n").version > version);
    ok(bitkv_add(db, "n", 1, INT64_MAX, &sum));
    ok(bitkv_add(db, "n", 1, INT64_MAX, &sum));
    assert_int_equal(sum, INT64_MAX - 1);
    fails(BITKV_ERR_LIMIT, bitkv_add(db, "n", 1, 2, &sum));
    const char *others[] = {"", "1234567", "123456789"};
    for (unsigned i = 0; i < 3; i++) {
        put_text(db, "t", others[i]);
        fails(BITKV_ERR_INVALID, bitkv_add(db, "t", 1, 1, &sum));
        expect_text(db, "t", others[i]);
    }
    assert_int_equal(sum, INT64_MAX - 1);
    ok(bitkv_close(db));
}

static void counters_keep_their_deadline(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    int64_t sum;
    ok(bitkv_add(db, "n", 1, 5, &sum));
    ok(bitkv_touch(db, "n", 1, 10000));
    uint64_t deadline = info_of(db, "n").deadline_ms;
    bkv_clock_elapse(5000);
    ok(bitkv_add(db, "n", 1, 1, &sum));
    assert_int_equal(sum, 6);
    assert_int_equal(info_of(db, "n").deadline_ms, deadline);
    bkv_clock_elapse(5000);
    ok(bitkv_add(db, "n", 1, 1, &sum));
    assert_int_equal(sum, 1); /* from 0 again, and without a deadline */
    assert_true(info_of(db, "n").deadline_ms == UINT64_MAX);
    ok(bitkv_close(db));
}

/* --- updates ------------------------------------------------------------------------------ */

struct script {
    bitkv *db;
    int answer;
    unsigned calls;
    bool interfere; /* another writer comes between, once */
    bitkv_update_step seen;
    char value[32];
};

static int follow(void *user, bitkv_update_step *step)
{
    struct script *script = user;
    assert_int_equal(step->attempt, script->calls);
    script->calls++;
    script->seen = *step;
    if (step->present) {
        assert_int_equal(((const char *)step->value)[step->value_size], '\0');
        (void)snprintf(script->value, sizeof script->value, "%s+", (const char *)step->value);
    } else {
        assert_null(step->value);
        (void)snprintf(script->value, sizeof script->value, "new");
    }
    if (script->interfere && script->calls == 1)
        put_text(script->db, "k", "other");
    step->new_value = script->value;
    step->new_value_size = strlen(script->value);
    return script->answer;
}

static int update(struct script *script)
{
    script->calls = 0;
    return bitkv_update(script->db, "k", 1, follow, script, BITKV_DURABILITY_DEFAULT);
}

static void updates_do_what_the_callback_says(void **state)
{
    (void)state;
    struct script s = {.db = open_small(BITKV_IO_AUTO)};
    s.answer = BITKV_UPDATE_LEAVE;
    ok(update(&s));
    s.answer = BITKV_UPDATE_DELETE;
    fails(BITKV_NOT_FOUND, update(&s));
    fails(BITKV_NOT_FOUND, bitkv_exists(s.db, "k", 1));
    s.answer = BITKV_UPDATE_PUT;
    ok(update(&s));
    assert_false(s.seen.present);
    expect_text(s.db, "k", "new");
    ok(bitkv_touch(s.db, "k", 1, 10000));
    bitkv_key_info info = info_of(s.db, "k");
    ok(update(&s));
    assert_true(s.seen.present);
    assert_int_equal(s.seen.version, info.version);
    assert_in_range(s.seen.remaining_ms, 1, 10000);
    expect_text(s.db, "k", "new+");
    assert_int_equal(info_of(s.db, "k").deadline_ms, info.deadline_ms); /* kept, unless set */
    s.answer = -1000;
    fails(-1000, update(&s));
    s.answer = 3;
    fails(BITKV_ERR_INVALID, update(&s));
    expect_text(s.db, "k", "new+");
    s.answer = BITKV_UPDATE_DELETE;
    ok(update(&s));
    fails(BITKV_NOT_FOUND, bitkv_exists(s.db, "k", 1));
    put_text(s.db, "k", "old");
    expire(s.db, "k");
    s.answer = BITKV_UPDATE_PUT;
    ok(update(&s));
    assert_false(s.seen.present); /* expired */
    expect_text(s.db, "k", "new");
    ok(bitkv_close(s.db));
}

static void an_update_is_asked_again_if_another_writer_came_between(void **state)
{
    (void)state;
    struct script s = {.db = open_small(BITKV_IO_AUTO), .interfere = true};
    s.answer = BITKV_UPDATE_PUT;
    ok(update(&s)); /* it was absent, then it was there */
    assert_int_equal(s.calls, 2);
    expect_text(s.db, "k", "other+");
    ok(update(&s)); /* it had one value, then another */
    assert_int_equal(s.calls, 2);
    expect_text(s.db, "k", "other+");
    s.answer = BITKV_UPDATE_DELETE;
    ok(update(&s));
    assert_int_equal(s.calls, 2);
    fails(BITKV_NOT_FOUND, bitkv_exists(s.db, "k", 1));
    ok(bitkv_close(s.db));
}

static int close_inside(void *user, bitkv_update_step *step)
{
    (void)step;
    fails(BITKV_ERR_INVALID, bitkv_close(user));
    return BITKV_UPDATE_LEAVE;
}

static void a_callback_cannot_close_its_database(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    ok(bitkv_update(db, "k", 1, close_inside, db, BITKV_DURABILITY_DEFAULT));
    ok(bitkv_close(db));
}

struct slow {
    bitkv *db;
    _Atomic bool inside;
    int result;
};

static int slowly(void *user, bitkv_update_step *step)
{
    struct slow *slow = user;
    atomic_store(&slow->inside, true);
    sleep_ms(100);
    step->new_value = "v";
    step->new_value_size = 1;
    return BITKV_UPDATE_PUT;
}

static void *update_slowly(void *user)
{
    struct slow *slow = user;
    slow->result = bitkv_update(slow->db, "k", 1, slowly, slow, BITKV_DURABILITY_DEFAULT);
    return NULL;
}

static void closing_waits_for_an_update_which_then_writes_nothing(void **state)
{
    (void)state;
    struct slow slow = {.db = open_small(BITKV_IO_AUTO)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, update_slowly, &slow), 0);
    while (!atomic_load(&slow.inside))
        sleep_ms(1);
    ok(bitkv_close(slow.db));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(slow.result, BITKV_ERR_CLOSED);
    bitkv *db = open_small(BITKV_IO_AUTO);
    fails(BITKV_NOT_FOUND, bitkv_exists(db, "k", 1));
    ok(bitkv_close(db));
}

/* --- failures -------------------------------------------------------------------------------- */

static bool none(size_t size, void *user)
{
    (void)user;
    return size < 3000; /* values; the store's own structures may have some */
}

static int put_something(void *user, bitkv_update_step *step)
{
    (void)user;
    step->new_value = "x";
    step->new_value_size = 1;
    return BITKV_UPDATE_PUT;
}

static void memory_that_is_missing_changes_nothing(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        static const char value[5000];
        ok(bitkv_put(db, "k", 1, value, sizeof value));
        uint64_t version = info_of(db, "k").version;
        bkv_alloc_set_hook(none, NULL);
        int touched = bitkv_touch(db, "k", 1, 1000);
        int updated = bitkv_update(db, "k", 1, put_something, NULL, BITKV_DURABILITY_DEFAULT);
        bkv_alloc_set_hook(NULL, NULL);
        assert_int_equal(touched, BITKV_ERR_NO_MEMORY);
        assert_int_equal(updated, BITKV_ERR_NO_MEMORY);
        bitkv_key_info info = info_of(db, "k");
        assert_int_equal(info.version, version);
        assert_int_equal(info.value_size, sizeof value);
        assert_true(info.deadline_ms == UINT64_MAX);
        ok(bitkv_close(db));
    }
}

/* --- many threads at one key ----------------------------------------------------------------- */

#define THREADS 6u

struct racer {
    bitkv *db;
    unsigned index, rounds;
    unsigned won;
};

static void race(struct racer racers[THREADS], void *(*run)(void *), bitkv *db, unsigned rounds)
{
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){.db = db, .index = i, .rounds = rounds};
        assert_int_equal(pthread_create(&threads[i], NULL, run, &racers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static int add_one(void *user, bitkv_update_step *step)
{
    uint64_t *sum = user;
    *sum = 0;
    if (step->present)
        memcpy(sum, step->value, sizeof *sum);
    ++*sum;
    step->new_value = sum;
    step->new_value_size = sizeof *sum;
    return BITKV_UPDATE_PUT;
}

/* Three ways to add to one counter, at once. */
static void *count(void *user)
{
    const struct racer *racer = user;
    for (unsigned i = 0; i < racer->rounds; i++) {
        uint64_t sum;
        int rc = BITKV_OK;
        if (racer->index % 3 == 0) {
            rc = bitkv_add(racer->db, "n", 1, 1, NULL);
        } else if (racer->index % 3 == 1) {
            rc = bitkv_update(racer->db, "n", 1, add_one, &sum, BITKV_DURABILITY_DEFAULT);
        } else {
            do { /* compare and set, by hand */
                bitkv_key_info info;
                bitkv_key_info_init(&info);
                bitkv_put_options o = options_for(BITKV_IF_VERSION);
                sum = 0;
                rc = bitkv_info(racer->db, "n", 1, &info);
                if (rc == BITKV_OK)
                    rc = bitkv_get_into(racer->db, "n", 1, &sum, sizeof sum, NULL);
                if (rc == BITKV_NOT_FOUND)
                    o.condition = BITKV_IF_ABSENT;
                else if (rc != BITKV_OK)
                    return NULL;
                o.version = info.version;
                sum++;
                rc = bitkv_put_if(racer->db, "n", 1, &sum, sizeof sum, &o, NULL);
            } while (rc == BITKV_ERR_CONFLICT);
        }
        if (rc != BITKV_OK)
            return NULL; /* the sum tells */
    }
    return NULL;
}

static void no_addition_is_lost(void **state)
{
    (void)state;
    const unsigned rounds = UNDER_TSAN ? 1000 : 5000;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode); /* segments of 64 KiB: they are left all the time */
        struct racer racers[THREADS];
        race(racers, count, db, rounds);
        int64_t sum;
        ok(bitkv_add(db, "n", 1, 0, &sum));
        assert_int_equal(sum, THREADS * rounds);
        ok(bitkv_close(db));
    }
}

static void *claim(void *user)
{
    struct racer *racer = user;
    bitkv_put_options o = options_for(BITKV_IF_ABSENT);
    for (unsigned i = 0; i < racer->rounds; i++) {
        int rc =
            bitkv_put_if(racer->db, &i, sizeof i, &racer->index, sizeof racer->index, &o, NULL);
        if (rc == BITKV_OK) {
            unsigned owner;
            racer->won +=
                bitkv_get_into(racer->db, &i, sizeof i, &owner, sizeof owner, NULL) == BITKV_OK &&
                owner == racer->index;
        }
    }
    return NULL;
}

static void of_those_who_claim_a_key_one_gets_it(void **state)
{
    (void)state;
    const unsigned keys = 5000;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        struct racer racers[THREADS];
        race(racers, claim, db, keys);
        unsigned won = 0;
        for (unsigned i = 0; i < THREADS; i++)
            won += racers[i].won;
        assert_int_equal(won, keys);
        ok(bitkv_close(db));
    }
}

/* Counters over many segments, one of which at a time may be open: who looks has
 * to leave its section and come back, while others write. */
#define COUNTERS 60u

static void *count_many(void *user)
{
    const struct racer *racer = user;
    struct chance chance = {.state = racer->index};
    for (unsigned i = 0; i < racer->rounds; i++) {
        uint32_t key = (uint32_t)below(&chance, COUNTERS);
        if (bitkv_add(racer->db, &key, sizeof key, 1, NULL) != BITKV_OK)
            return NULL;
        if (one_in(&chance, 20)) { /* so that the segments fill */
            static const char large[8000];
            if (bitkv_put(racer->db, &racer->index, 3, large, sizeof large) != BITKV_OK)
                return NULL;
        }
    }
    return NULL;
}

static void no_addition_is_lost_where_segments_are_closed(void **state)
{
    (void)state;
    const unsigned rounds = UNDER_TSAN ? 500 : 3000;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 1;
        bitkv *db = open_with(&o);
        struct racer racers[THREADS];
        race(racers, count_many, db, rounds);
        int64_t total = 0;
        for (uint32_t key = 0; key < COUNTERS; key++) {
            int64_t sum;
            ok(bitkv_add(db, &key, sizeof key, 0, &sum));
            total += sum;
        }
        assert_int_equal(total, THREADS * rounds);
        ok(bitkv_close(db));
    }
}

/* Takes and gives back a lock that is a key; `won` counts what nobody else may
 * touch meanwhile. */
static unsigned guarded;

static void *take_turns(void *user)
{
    struct racer *racer = user;
    for (unsigned i = 0; i < racer->rounds;) {
        bitkv_put_options o = options_for(BITKV_IF_ABSENT);
        uint64_t version;
        if (bitkv_put_if(racer->db, "lock", 4, "", 0, &o, &version) != BITKV_OK)
            continue;
        guarded++; /* a race, unless the lock is one */
        i++;
        if (bitkv_del_if(racer->db, "lock", 4, version, BITKV_DURABILITY_DEFAULT) == BITKV_OK)
            racer->won++;
    }
    return NULL;
}

static void a_key_can_be_a_lock(void **state)
{
    (void)state;
    const unsigned rounds = UNDER_TSAN ? 200 : 1000;
    bitkv *db = open_small(BITKV_IO_AUTO);
    struct racer racers[THREADS];
    guarded = 0;
    race(racers, take_turns, db, rounds);
    assert_int_equal(guarded, THREADS * rounds);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(racers[i].won, rounds);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(conditions_decide),
        TEST(versions_outlive_the_opening),
        TEST(an_expired_key_counts_as_absent),
        TEST(a_deadline_can_be_kept),
        TEST(what_is_wrong_is_refused),
        TEST(conditional_writes_wait_for_their_sync),
        TEST(keys_in_closed_segments_can_be_asked_about),
        TEST(counters_count),
        TEST(counters_keep_their_deadline),
        TEST(updates_do_what_the_callback_says),
        TEST(an_update_is_asked_again_if_another_writer_came_between),
        TEST(a_callback_cannot_close_its_database),
        TEST(closing_waits_for_an_update_which_then_writes_nothing),
        TEST(no_addition_is_lost),
        TEST(no_addition_is_lost_where_segments_are_closed),
        TEST(memory_that_is_missing_changes_nothing),
        TEST(of_those_who_claim_a_key_one_gets_it),
        TEST(a_key_can_be_a_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
