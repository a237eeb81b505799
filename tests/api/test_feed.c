/* SPDX-License-Identifier: MIT */
/*
 * Change feeds: each acknowledged write once, in order, whatever runs beside;
 * positions that lead on after a reopening, and never astray; what compaction and
 * retention do to them.
 */
#include "api/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define POSITION_MAX 8300u /* of BITKV_PARTITIONS_MAX */

static bitkv_feed *feed_at(bitkv *db, const void *position, size_t size)
{
    bitkv_feed *feed = NULL;
    ok(bitkv_feed_open(&feed, db, position, size));
    assert_non_null(feed);
    return feed;
}

static bitkv_feed *oldest(bitkv *db)
{
    return feed_at(db, NULL, BITKV_FEED_OLDEST);
}

/* Nothing is compacted: that files are small is reason enough otherwise. */
static bitkv *open_all(bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.feed_retention_bytes = UINT64_MAX;
    return open_with(&o);
}

static void expect_put(bitkv_feed *feed, const char *key, const char *value)
{
    bitkv_change change;
    ok(bitkv_feed_next(feed, &change));
    assert_int_equal(change.kind, BITKV_CHANGE_PUT);
    assert_int_equal(change.key_size, strlen(key));
    assert_memory_equal(change.key, key, change.key_size);
    assert_int_equal(change.value_size, strlen(value));
    assert_memory_equal(change.value, value, change.value_size);
}

static void expect_delete(bitkv_feed *feed, const char *key)
{
    bitkv_change change;
    ok(bitkv_feed_next(feed, &change));
    assert_int_equal(change.kind, BITKV_CHANGE_DELETE);
    assert_int_equal(change.key_size, strlen(key));
    assert_memory_equal(change.key, key, change.key_size);
    assert_null(change.value);
    assert_int_equal(change.value_size, 0);
}

static void expect_nothing(bitkv_feed *feed)
{
    bitkv_change change;
    fails(BITKV_NOT_FOUND, bitkv_feed_next(feed, &change));
}

struct position {
    uint8_t bytes[POSITION_MAX];
    size_t size;
};

static struct position position_of(const bitkv_feed *feed)
{
    struct position position = {.size = 0};
    ok(bitkv_feed_position(feed, position.bytes, sizeof position.bytes, &position.size));
    return position;
}

/* Numbers as keys, all in one partition; the value belongs to number and round. */
static void put_numbers(bitkv *db, uint32_t first, uint32_t count, size_t size, uint64_t round)
{
    char *value = malloc(size + 1);
    for (uint32_t i = first; i < first + count; i++) {
        fill(value, size, round << 32 | i);
        ok(bitkv_put(db, &i, sizeof i, value, size));
    }
    free(value);
}

static void expect_numbers(bitkv_feed *feed, uint32_t first, uint32_t count, size_t size,
                           uint64_t round)
{
    char *value = malloc(size + 1);
    for (uint32_t i = first; i < first + count; i++) {
        bitkv_change change;
        ok(bitkv_feed_next(feed, &change));
        assert_int_equal(change.key_size, sizeof i);
        assert_memory_equal(change.key, &i, sizeof i);
        fill(value, size, round << 32 | i);
        assert_int_equal(change.value_size, size);
        assert_memory_equal(change.value, value, size);
    }
    free(value);
}

/* --- what comes, and in which order ------------------------------------------------ */

static void writes_come_once_and_in_order(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        bitkv_feed *feed = oldest(db);
        expect_nothing(feed);
        put_text(db, "a", "1");
        put_text(db, "b", "");
        put_text(db, "a", "2");
        ok(bitkv_del(db, "b", 1));
        fails(BITKV_NOT_FOUND, bitkv_del(db, "c", 1)); /* writes nothing */
        ok(bitkv_sync(db));                            /* a mark */
        expect_put(feed, "a", "1");
        expect_put(feed, "b", "");
        expect_put(feed, "a", "2");
        expect_delete(feed, "b");
        expect_nothing(feed);
        expect_nothing(feed);
        put_text(db, "c", "3");
        expect_put(feed, "c", "3");
        expect_nothing(feed);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

static void versions_and_deadlines_are_those_of_the_keys(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    bitkv_feed *feed = oldest(db);
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = 1;
    uint64_t version = 0;
    ok(bitkv_put_if(db, "short", 5, "v", 1, &o, &version));
    sleep_ms(5);
    fails(BITKV_NOT_FOUND, bitkv_exists(db, "short", 5));
    bitkv_change change;
    ok(bitkv_feed_next(feed, &change)); /* expired, but written */
    assert_int_equal(change.version, version);
    assert_int_equal(change.kind, BITKV_CHANGE_PUT);
    assert_true(change.deadline_ms != UINT64_MAX);
    put_text(db, "long", "v");
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    ok(bitkv_info(db, "long", 4, &info));
    ok(bitkv_feed_next(feed, &change));
    assert_int_equal(change.version, info.version);
    assert_int_equal(change.deadline_ms, UINT64_MAX);
    ok(bitkv_touch(db, "long", 4, 100000));
    ok(bitkv_info(db, "long", 4, &info));
    ok(bitkv_feed_next(feed, &change));
    assert_int_equal(change.version, info.version);
    assert_int_equal(change.deadline_ms, info.deadline_ms);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

static void batches_come_without_their_headers(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    bitkv_feed *feed = oldest(db);
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_put(batch, "x", 1, "1", 1));
    ok(bitkv_batch_del(batch, "y", 1));
    ok(bitkv_write(db, batch, BITKV_DURABILITY_SYNC));
    bitkv_change change;
    ok(bitkv_feed_next(feed, &change));
    bool put_first = change.kind == BITKV_CHANGE_PUT;
    ok(bitkv_feed_next(feed, &change));
    assert_int_equal(change.kind, put_first ? BITKV_CHANGE_DELETE : BITKV_CHANGE_PUT);
    expect_nothing(feed);
    bitkv_batch_destroy(batch);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

static void segments_and_jumbo_records_follow_each_other(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        bitkv_feed *feed = oldest(db);
        put_numbers(db, 0, 500, 1000, 1);
        put_numbers(db, 500, 3, 200000, 1); /* each larger than a segment */
        put_numbers(db, 503, 1, 3, 1);
        put_numbers(db, 504, 2, 3000000, 1); /* larger than a window */
        put_numbers(db, 506, 200, 1000, 1);
        assert_true(statistics_of(db).segments > 10);
        expect_numbers(feed, 0, 500, 1000, 1);
        expect_numbers(feed, 500, 3, 200000, 1);
        expect_numbers(feed, 503, 1, 3, 1);
        expect_numbers(feed, 504, 2, 3000000, 1);
        expect_numbers(feed, 506, 200, 1000, 1);
        expect_nothing(feed);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

static void the_end_is_where_nothing_old_comes(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    bitkv_feed *empty = feed_at(db, NULL, BITKV_FEED_END);
    put_text(db, "old", "1");
    bitkv_feed *feed = feed_at(db, NULL, BITKV_FEED_END);
    expect_nothing(feed);
    put_numbers(db, 0, 300, 1000, 1);
    expect_numbers(feed, 0, 300, 1000, 1);
    expect_nothing(feed);
    expect_put(empty, "old", "1");
    expect_numbers(empty, 0, 300, 1000, 1);
    ok(bitkv_feed_close(feed));
    ok(bitkv_feed_close(empty));
    ok(bitkv_close(db));
}

static void partitions_take_turns(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 4;
    o.feed_retention_bytes = UINT64_MAX;
    bitkv *db = open_with(&o);
    put_numbers(db, 0, 400, 10, 1);
    bitkv_feed *feed = oldest(db);
    uint64_t last[4] = {0};
    unsigned seen[4] = {0};
    bitkv_change change;
    for (unsigned i = 0; i < 400; i++) {
        ok(bitkv_feed_next(feed, &change));
        assert_true(change.partition < 4);
        assert_true(change.version > last[change.partition]);
        last[change.partition] = change.version;
        seen[change.partition]++;
        if (i == 100) {
            for (unsigned p = 0; p < 4; p++)
                assert_in_range(seen[p], 20, 30);
        }
    }
    expect_nothing(feed);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

/* --- positions ------------------------------------------------------------------------- */

static void positions_lead_on_after_every_change(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        put_numbers(db, 0, 200, 1000, 1);
        for (uint32_t at = 0; at <= 200; at += 7) {
            bitkv_feed *feed = oldest(db);
            expect_numbers(feed, 0, at, 1000, 1);
            struct position position = position_of(feed);
            ok(bitkv_feed_close(feed));
            if (at % 3 == 0) {
                ok(bitkv_close(db));
                db = open_all(mode);
            }
            feed = feed_at(db, position.bytes, position.size);
            expect_numbers(feed, at, 200 - at, 1000, 1);
            expect_nothing(feed);
            ok(bitkv_feed_close(feed));
        }
        ok(bitkv_close(db));
    }
}

static void a_position_at_the_end_leads_on_in_a_later_opening(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    struct position position;
    for (uint32_t round = 0; round < 20; round++) {
        bitkv_feed *feed = round == 0 ? oldest(db) : feed_at(db, position.bytes, position.size);
        expect_nothing(feed);
        put_numbers(db, 0, 1 + round * 10, 1000, round);
        expect_numbers(feed, 0, 1 + round * 10, 1000, round);
        expect_nothing(feed);
        position = position_of(feed);
        if (round % 2 == 0)
            ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
        if (round % 2 != 0)
            ok(bitkv_feed_close(feed));
        db = open_all(round % 4 < 2 ? BITKV_IO_PWRITE : BITKV_IO_MMAP);
    }
    ok(bitkv_close(db));
}

static void wrong_positions_are_refused(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    put_text(db, "a", "1");
    bitkv_feed *feed = oldest(db);
    expect_put(feed, "a", "1");
    struct position good = position_of(feed);
    assert_int_equal(good.size, 36 + 8);
    size_t size = 0;
    uint8_t small[43];
    fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_feed_position(feed, NULL, 0, &size));
    assert_int_equal(size, good.size);
    fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_feed_position(feed, small, sizeof small, &size));
    fails(BITKV_ERR_INVALID, bitkv_feed_position(feed, small, sizeof small, NULL));
    fails(BITKV_ERR_INVALID, bitkv_feed_position(feed, NULL, 44, &size));
    bitkv_feed *none = feed;
    for (size_t i = 0; i < good.size * 8; i++) {
        struct position bad = good;
        bad.bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, db, bad.bytes, bad.size));
        assert_null(none);
    }
    for (size_t i = 0; i <= good.size + 8; i++) {
        if (i != good.size)
            fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, db, good.bytes, i));
    }
    struct chance chance = {7};
    for (size_t i = 0; i < 2000; i++) {
        struct position bad = {.size = below(&chance, 100)};
        for (size_t k = 0; k < bad.size; k++)
            bad.bytes[k] = (uint8_t)draw(&chance);
        if (one_in(&chance, 2))
            memcpy(bad.bytes, good.bytes, 32);
        fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, db, bad.bytes, bad.size));
    }
    fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, db, NULL, 5));
    fails(BITKV_ERR_INVALID, bitkv_feed_open(NULL, db, NULL, 0));
    fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, NULL, NULL, 0));
    fails(BITKV_ERR_INVALID, bitkv_feed_next(NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_feed_next(feed, NULL));
    ok(bitkv_feed_close(NULL));
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
    remove_tree(path);
    db = open_all(BITKV_IO_AUTO);
    fails(BITKV_ERR_INVALID, bitkv_feed_open(&none, db, good.bytes, good.size));
    context_has("another database");
    ok(bitkv_close(db));
}

static void a_position_beyond_the_end_of_the_log_is_told(void **state)
{
    (void)state;
    char copy[PATH_SIZE];
    inside(copy, directory, "copy");
    bitkv *db = open_all(BITKV_IO_AUTO);
    put_numbers(db, 0, 10, 100, 1);
    ok(bitkv_close(db));
    copy_tree(path, copy); /* what a power cut left of it */
    db = open_all(BITKV_IO_AUTO);
    put_numbers(db, 10, 10, 100, 1);
    bitkv_feed *feed = oldest(db);
    expect_numbers(feed, 0, 20, 100, 1);
    struct position position = position_of(feed);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
    remove_tree(path);
    assert_int_equal(rename(copy, path), 0);
    db = open_all(BITKV_IO_AUTO);
    fails(BITKV_ERR_BEHIND, bitkv_feed_open(&feed, db, position.bytes, position.size));
    context_has("power cut");
    assert_null(feed);
    ok(bitkv_close(db));
}

/* --- compaction -------------------------------------------------------------------------- */

static void a_position_is_behind_once_its_changes_are_gone(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.auto_compact = false;
        bitkv *db = open_with(&o);
        bitkv_feed *feed = oldest(db);
        struct position start = position_of(feed);
        put_numbers(db, 0, 300, 1000, 1);
        expect_numbers(feed, 0, 150, 1000, 1);
        struct position middle = position_of(feed);
        put_numbers(db, 0, 300, 1000, 2);
        bitkv_feed *slow = oldest(db);
        bitkv_change change;
        ok(bitkv_feed_next(slow, &change));
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        bitkv_feed *none;
        fails(BITKV_ERR_BEHIND, bitkv_feed_open(&none, db, start.bytes, start.size));
        fails(BITKV_ERR_BEHIND, bitkv_feed_open(&none, db, middle.bytes, middle.size));
        assert_null(none);
        /* An open one still has the file that it was in. */
        uint32_t key = 150;
        int rc;
        while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK) {
            assert_memory_equal(change.key, &key, sizeof key);
            key++;
        }
        assert_int_equal(rc, BITKV_ERR_BEHIND);
        assert_true(key > 150 && key < 300);
        fails(BITKV_ERR_BEHIND, bitkv_feed_next(feed, &change));
        fails(BITKV_ERR_BEHIND, bitkv_feed_next(feed, &change));
        ok(bitkv_feed_close(feed));
        ok(bitkv_feed_close(slow));
        /* The oldest that is left, and what comes. */
        feed = oldest(db);
        while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK)
            ;
        assert_int_equal(rc, BITKV_NOT_FOUND);
        put_text(db, "new", "1");
        expect_put(feed, "new", "1");
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
        /* A later opening knows of it, too. */
        db = open_with(&o);
        fails(BITKV_ERR_BEHIND, bitkv_feed_open(&none, db, middle.bytes, middle.size));
        feed = oldest(db);
        while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK)
            assert_true(change.version > 300); /* of the last file, which was being written */
        assert_int_equal(rc, BITKV_NOT_FOUND);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

static void retention_keeps_the_end_of_the_log(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    o.feed_retention_bytes = 400000;
    bitkv *db = open_with(&o);
    bitkv_feed *feed = oldest(db);
    struct position start = position_of(feed);
    put_numbers(db, 0, 300, 1000, 1); /* about 310 KB */
    expect_numbers(feed, 0, 150, 1000, 1);
    struct position middle = position_of(feed);
    ok(bitkv_feed_close(feed));
    put_numbers(db, 0, 200, 1000, 2);
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_true(statistics_of(db).compactions_total > 0);
    fails(BITKV_ERR_BEHIND, bitkv_feed_open(&feed, db, start.bytes, start.size));
    feed = feed_at(db, middle.bytes, middle.size); /* 350 writes behind */
    expect_numbers(feed, 150, 150, 1000, 1);
    expect_numbers(feed, 0, 200, 1000, 2);
    expect_nothing(feed);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

/* A feed that lies does not hold up bitkv_compact(), and its file goes when it does. */
static void a_lying_feed_keeps_one_file(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    bitkv *db = open_with(&o);
    put_numbers(db, 0, 300, 1000, 1);
    bitkv_feed *feed = oldest(db);
    bitkv_change change;
    ok(bitkv_feed_next(feed, &change));
    put_numbers(db, 0, 300, 1000, 2);
    uint64_t begun = now_ms();
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_true(now_ms() - begun < 400 || UNDER_TSAN || UNDER_ASAN);
    char folder[PATH_SIZE];
    inside(folder, path, "partition_0");
    unsigned files = count_names(folder, "data_", ".db");
    uint64_t segments = statistics_of(db).segments;
    assert_true(files >= segments + 1);
    ok(bitkv_feed_close(feed));
    for (unsigned i = 0; i < 1000 && count_names(folder, "data_", ".db") >= files; i++)
        sleep_ms(5);
    assert_true(count_names(folder, "data_", ".db") < files);
    ok(bitkv_close(db));
}

/* --- against a model ------------------------------------------------------------------------ */

#define WRITERS 3u
#define KEYS    200u

struct writer {
    bitkv *db;
    unsigned index;
    unsigned operations;
    uint64_t writes; /* that were acknowledged as made */
    pthread_t thread;
};

/* Each writer has keys of its own, so that the last of its writes is known. */
static void *write_some(void *argument)
{
    struct writer *w = argument;
    struct chance chance = {1000 + w->index};
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    char value[3000];
    for (unsigned i = 0; i < w->operations; i++) {
        uint32_t key = w->index * KEYS + (uint32_t)below(&chance, KEYS);
        size_t size = below(&chance, one_in(&chance, 10) ? sizeof value : 200);
        fill(value, size, draw(&chance));
        uint64_t what = below(&chance, 10);
        if (what == 0) {
            bitkv_batch_clear(batch);
            for (unsigned k = 0; k < 5; k++) {
                uint32_t other = w->index * KEYS + (key + k) % KEYS;
                if (k == 3)
                    ok(bitkv_batch_del(batch, &other, sizeof other));
                else
                    ok(bitkv_batch_put(batch, &other, sizeof other, value, size));
            }
            ok(bitkv_write(w->db, batch, BITKV_DURABILITY_NONE));
            w->writes += 5;
        } else if (what < 3) {
            int rc = bitkv_del(w->db, &key, sizeof key);
            assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
            w->writes += rc == BITKV_OK;
        } else {
            ok(bitkv_put(w->db, &key, sizeof key, value, size));
            w->writes++;
        }
    }
    bitkv_batch_destroy(batch);
    return NULL;
}

/* What a reader of the feed has made of it. */
struct replica {
    uint64_t sum[WRITERS * KEYS]; /* of the value; 0: absent */
    uint64_t version[WRITERS * KEYS];
    uint64_t last[BITKV_PARTITIONS_MAX];
    uint64_t changes;
};

static uint64_t sum_of(const void *bytes, size_t size)
{
    uint64_t sum = mix(size + 1);
    for (size_t i = 0; i < size; i++)
        sum = mix(sum ^ ((const uint8_t *)bytes)[i]);
    return sum | 1;
}

static void apply(struct replica *r, const bitkv_change *change)
{
    uint32_t key;
    assert_int_equal(change->key_size, sizeof key);
    memcpy(&key, change->key, sizeof key);
    assert_true(key < WRITERS * KEYS);
    assert_true(change->version > r->last[change->partition]); /* once, in order */
    r->last[change->partition] = change->version;
    r->sum[key] = change->kind == BITKV_CHANGE_PUT ? sum_of(change->value, change->value_size) : 0;
    r->version[key] = change->version;
    r->changes++;
}

static int compare(void *user, const bitkv_record *record)
{
    struct replica *r = user;
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    assert_true(r->sum[key] == sum_of(record->value, record->value_size));
    assert_int_equal(r->version[key], record->sequence);
    r->sum[key] = 0;
    return 0;
}

static void expect_replica(bitkv *db, struct replica *r)
{
    ok(bitkv_scan(db, BITKV_SCAN_ALL, compare, r));
    for (unsigned i = 0; i < WRITERS * KEYS; i++)
        assert_true(r->sum[i] == 0);
}

static void *compact_on(void *argument)
{
    void **arguments = argument;
    bitkv *db = arguments[0];
    const _Atomic bool *stop = arguments[1];
    while (!atomic_load(stop)) {
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        sleep_ms(3);
    }
    return NULL;
}

static int take_over(void *user, const bitkv_record *record)
{
    struct replica *r = user;
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    r->sum[key] = sum_of(record->value, record->value_size);
    r->version[key] = record->sequence;
    return 0;
}

/* What a reader does who has fallen behind. */
static bitkv_feed *begin_anew(bitkv *db, struct replica *r, bitkv_feed *feed)
{
    if (feed != NULL)
        ok(bitkv_feed_close(feed));
    feed = feed_at(db, NULL, BITKV_FEED_END);
    memset(r, 0, sizeof *r);
    ok(bitkv_scan(db, BITKV_SCAN_ALL, take_over, r));
    return feed;
}

/* As long as there are changes, and half a second longer: the writers are done.
 * Returns how often it had to begin anew. */
static unsigned follow(bitkv *db, struct replica *r, bitkv_feed *feed, unsigned pause_ms)
{
    struct chance chance = {7};
    unsigned anew = 0;
    for (unsigned quiet = 0; quiet < 50;) {
        bitkv_change change;
        int rc = bitkv_feed_next(feed, &change);
        if (rc == BITKV_OK) {
            apply(r, &change);
            quiet = 0;
        } else if (rc == BITKV_ERR_BEHIND) {
            feed = begin_anew(db, r, feed);
            anew++;
        } else {
            fails(BITKV_NOT_FOUND, rc);
            quiet += bitkv_feed_wait(feed, 10) == BITKV_NOT_FOUND;
        }
        if (one_in(&chance, 500)) { /* another reader goes on */
            struct position position = position_of(feed);
            ok(bitkv_feed_close(feed));
            sleep_ms(pause_ms);
            rc = bitkv_feed_open(&feed, db, position.bytes, position.size);
            if (rc == BITKV_ERR_BEHIND) {
                feed = begin_anew(db, r, NULL);
                anew++;
            } else {
                ok(rc);
            }
        }
    }
    ok(bitkv_feed_close(feed));
    return anew;
}

/* `all`: nothing is compacted that the feed has not read. */
static unsigned run_model(bitkv_io_mode mode, uint32_t partitions, bool all)
{
    bitkv_options o = one_partition(mode);
    o.partitions = partitions;
    o.feed_retention_bytes = all ? UINT64_MAX : 128 << 10;
    bitkv *db = open_with(&o);
    struct writer writers[WRITERS];
    static struct replica replica;
    memset(&replica, 0, sizeof replica);
    bitkv_feed *feed = oldest(db);
    _Atomic bool stop = false;
    void *arguments[2] = {db, &stop};
    pthread_t compactor;
    assert_int_equal(pthread_create(&compactor, NULL, compact_on, arguments), 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){
            .db = db, .index = i, .operations = UNDER_TSAN || UNDER_ASAN ? 4000 : 20000};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_some, &writers[i]), 0);
    }
    unsigned anew = follow(db, &replica, feed, all ? 0 : 20);
    uint64_t writes = 0;
    for (unsigned i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        writes += writers[i].writes;
    }
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(compactor, NULL), 0);
    if (all)
        assert_int_equal(replica.changes, writes);
    expect_replica(db, &replica);
    ok(bitkv_close(db));
    return anew;
}

static void a_replica_is_the_database(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        assert_int_equal(run_model(mode, 3, true), 0);
    }
}

static void a_replica_that_falls_behind_begins_anew(void **state)
{
    (void)state;
    unsigned anew = 0;
    for_both_modes(mode)
    {
        anew += run_model(mode, 2, false);
    }
    assert_true(anew > 0);
}

/* --- the end of the database, of the process, of the thread ------------------------------------
 */

static void a_feed_outlives_its_database(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        put_numbers(db, 0, 200, 1000, 1);
        bitkv_feed *feed = oldest(db);
        bitkv_feed *unread = oldest(db);
        expect_numbers(feed, 0, 50, 1000, 1);
        ok(bitkv_close(db));
        bitkv_change change;
        fails(BITKV_ERR_CLOSED, bitkv_feed_next(feed, &change));
        fails(BITKV_ERR_CLOSED, bitkv_feed_wait(feed, 0));
        struct position position = position_of(feed);
        ok(bitkv_feed_close(feed));
        ok(bitkv_feed_close(unread));
        db = open_all(mode);
        feed = feed_at(db, position.bytes, position.size);
        expect_numbers(feed, 50, 150, 1000, 1);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

static void *wait_for_end(void *argument)
{
    return (void *)(intptr_t)bitkv_feed_wait(argument, -1);
}

static void closing_ends_a_wait(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    bitkv_feed *feed = oldest(db);
    expect_nothing(feed);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_end, feed), 0);
    sleep_ms(30);
    ok(bitkv_close(db));
    void *result;
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, BITKV_ERR_CLOSED);
    ok(bitkv_feed_close(feed));
}

static void *read_to_the_end(void *feed)
{
    bitkv_change change;
    int rc;
    while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK || rc == BITKV_NOT_FOUND)
        ;
    return (void *)(intptr_t)rc;
}

static void closing_ends_the_reading(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        remove_tree(path);
        bitkv *db = open_all(both_modes[round % 2]);
        pthread_t threads[3];
        bitkv_feed *feeds[3];
        for (unsigned i = 0; i < 3; i++) {
            feeds[i] = oldest(db);
            assert_int_equal(pthread_create(&threads[i], NULL, read_to_the_end, feeds[i]), 0);
        }
        put_numbers(db, 0, 100 * (round % 4), 1000, 1);
        ok(bitkv_feed_close(oldest(db)));
        ok(bitkv_close(db));
        for (unsigned i = 0; i < 3; i++) {
            void *result;
            assert_int_equal(pthread_join(threads[i], &result), 0);
            assert_int_equal((intptr_t)result, BITKV_ERR_CLOSED);
            ok(bitkv_feed_close(feeds[i]));
        }
    }
}

static void waiting_ends_with_a_write_or_in_time(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    bitkv_feed *feed = oldest(db);
    expect_nothing(feed);
    uint64_t begun = now_ms();
    fails(BITKV_NOT_FOUND, bitkv_feed_wait(feed, 0));
    fails(BITKV_NOT_FOUND, bitkv_feed_wait(feed, 30));
    assert_true(now_ms() - begun >= 29);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_end, feed), 0);
    sleep_ms(20);
    put_text(db, "a", "1");
    void *result;
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, BITKV_OK);
    ok(bitkv_feed_wait(feed, -1));
    expect_put(feed, "a", "1");
    expect_nothing(feed);
    fails(BITKV_NOT_FOUND, bitkv_feed_wait(feed, 1));
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

static void a_forked_child_has_no_feed(void **state)
{
    (void)state;
    bitkv *db = open_all(BITKV_IO_AUTO);
    put_text(db, "a", "1");
    bitkv_feed *feed = oldest(db);
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv_change change;
        size_t size;
        bool good = bitkv_feed_next(feed, &change) == BITKV_ERR_FORKED &&
                    bitkv_feed_wait(feed, -1) == BITKV_ERR_FORKED &&
                    bitkv_feed_position(feed, NULL, 0, &size) == BITKV_ERR_FORKED &&
                    bitkv_feed_close(feed) == BITKV_ERR_FORKED;
        _exit(good ? 0 : 1);
    }
    assert_int_equal(wait_child(child), 0);
    expect_put(feed, "a", "1");
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

static void read_only_databases_have_feeds(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        put_numbers(db, 0, 200, 1000, 1);
        ok(bitkv_close(db));
        bitkv_options o = one_partition(mode);
        o.read_only = true;
        db = open_with(&o);
        bitkv_feed *feed = oldest(db);
        expect_numbers(feed, 0, 200, 1000, 1);
        expect_nothing(feed);
        fails(BITKV_NOT_FOUND, bitkv_feed_wait(feed, 5));
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

/* --- damage
 * --------------------------------------------------------------------------------------- */

static void flip(const char *name, off_t at)
{
    char file[PATH_SIZE];
    inside(file, path, name);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void damage_is_told_once_and_passed(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_all(mode);
        put_numbers(db, 0, 200, 1000, 1); /* records of 1024 bytes */
        ok(bitkv_sync(db));
        flip("partition_0/data_1.db", 64 + 10 * 1024 + 500);
        flip("partition_0/data_1.db", 64 + 62 * 1024 + 500); /* the last one of the file */
        bitkv_feed *feed = oldest(db);
        expect_numbers(feed, 0, 10, 1000, 1);
        bitkv_change change;
        fails(BITKV_ERR_CORRUPT, bitkv_feed_next(feed, &change));
        context_has("data_1.db at offset 10304");
        expect_numbers(feed, 11, 51, 1000, 1);
        fails(BITKV_ERR_CORRUPT, bitkv_feed_next(feed, &change));
        context_has("data_1.db at offset 63552");
        expect_numbers(feed, 63, 137, 1000, 1);
        expect_nothing(feed);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

/* --- what it takes
 * ------------------------------------------------------------------------------------ */

static uint64_t resident_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long total = 0, resident = 0, shared = 0;
    assert_int_equal(fscanf(f, "%llu %llu %llu", &total, &resident, &shared), 3);
    (void)fclose(f);
    return (resident - shared) * 4;
}

static void memory_and_descriptors_stay_constant(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.feed_retention_bytes = UINT64_MAX;
        o.max_open_segments = 8;
        unsigned before = count_descriptors();
        bitkv *db = open_with(&o);
        bitkv_feed *feed = oldest(db);
        uint64_t memory = 0;
        for (uint64_t round = 0; round < 60; round++) {
            put_numbers(db, 0, 500, 1000, round);
            expect_numbers(feed, 0, 500, 1000, round);
            expect_nothing(feed);
            if (round == 10)
                memory = resident_kb();
        }
        /* The worker has to have synced the full segments first. */
        for (unsigned i = 0; i < 4000 && count_descriptors() > before + 16; i++)
            sleep_ms(5);
        assert_true(count_descriptors() <= before + 16);
        if (!UNDER_ASAN && !UNDER_TSAN)
            assert_true(resident_kb() < memory + 4096);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(writes_come_once_and_in_order),
        TEST(versions_and_deadlines_are_those_of_the_keys),
        TEST(batches_come_without_their_headers),
        TEST(segments_and_jumbo_records_follow_each_other),
        TEST(the_end_is_where_nothing_old_comes),
        TEST(partitions_take_turns),
        TEST(positions_lead_on_after_every_change),
        TEST(a_position_at_the_end_leads_on_in_a_later_opening),
        TEST(wrong_positions_are_refused),
        TEST(a_position_beyond_the_end_of_the_log_is_told),
        TEST(a_position_is_behind_once_its_changes_are_gone),
        TEST(retention_keeps_the_end_of_the_log),
        TEST(a_lying_feed_keeps_one_file),
        TEST(a_replica_is_the_database),
        TEST(a_replica_that_falls_behind_begins_anew),
        TEST(a_feed_outlives_its_database),
        TEST(closing_ends_a_wait),
        TEST(closing_ends_the_reading),
        TEST(waiting_ends_with_a_write_or_in_time),
        TEST(a_forked_child_has_no_feed),
        TEST(read_only_databases_have_feeds),
        TEST(damage_is_told_once_and_passed),
        TEST(memory_and_descriptors_stay_constant),
    };
    return cmocka_run_group_tests_name("feed", tests, NULL, NULL);
}
