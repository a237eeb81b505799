/* SPDX-License-Identifier: MIT */
/*
 * Compaction beside everything else: writers, deleters, readers, other
 * compactions, a closing.
 *
 * Each key has one writer, who counts its versions: he publishes a version as
 * begun before, and as acknowledged after the call. What a reader finds lies
 * between what was acknowledged before his call and what had begun after it.
 *
 *   BITKV_MS  how long, 1500 by default
 */
#include "api/compaction.h"

#include <pthread.h>
#include <stdatomic.h>

#define WRITERS 2u
#define READERS 2u
#define KEYS    600u

struct progress {
    _Atomic uint32_t begun, acknowledged;
};

static struct progress keys[KEYS];
static _Atomic bool over;
static _Atomic unsigned troubles, compactions;
static bitkv *shared;

/* Every fifth version of a key is that it is deleted. */
static bool is_delete(uint32_t version)
{
    return version % 5 == 0;
}

static size_t size_of(uint32_t key, uint32_t version)
{
    uint64_t h = mix((uint64_t)key << 32 | version);
    return 8 + (h % 400 == 0 ? 90000 : h % 900);
}

static void trouble(const char *what, uint32_t key, uint32_t low, uint32_t high, int rc)
{
    if (atomic_fetch_add(&troubles, 1) < 5)
        print_error("%s: key %u, versions %u to %u, %s (%s)\n", what, key, low, high,
                    bitkv_error_name(rc), rc < 0 ? bitkv_error_context() : "");
}

static int write_one(uint32_t key, uint32_t version, unsigned char *value)
{
    if (is_delete(version))
        return bitkv_del(shared, &key, sizeof key);
    size_t size = size_of(key, version);
    fill(value, size, (uint64_t)key << 32 | version);
    memcpy(value, &version, sizeof version);
    return bitkv_put(shared, &key, sizeof key, value, size);
}

static void *write_on(void *argument)
{
    struct chance c = {.state = (uintptr_t)argument + 77};
    unsigned char *value = malloc(100000);
    while (!atomic_load(&over)) {
        uint32_t key =
            (uint32_t)below(&c, KEYS / WRITERS) * WRITERS + (uint32_t)(uintptr_t)argument;
        uint32_t version = atomic_load(&keys[key].acknowledged) + 1;
        atomic_store(&keys[key].begun, version);
        int rc = write_one(key, version, value);
        if (rc != BITKV_OK)
            trouble("a write failed", key, version, version, rc);
        atomic_store(&keys[key].acknowledged, version);
    }
    free(value);
    return NULL;
}

static bool deleted_between(uint32_t low, uint32_t high)
{
    return high / 5 > low / 5 || is_delete(low);
}

static void read_one(uint32_t key, unsigned char *wanted)
{
    uint32_t low = atomic_load(&keys[key].acknowledged), version = 0;
    bitkv_view view;
    int rc = bitkv_get_view(shared, &key, sizeof key, &view);
    uint32_t high = atomic_load(&keys[key].begun);
    if (rc == BITKV_NOT_FOUND) {
        if (!deleted_between(low, high))
            trouble("a key is lost", key, low, high, rc);
        return;
    }
    if (rc != BITKV_OK) {
        trouble("a get failed", key, low, high, rc);
        return;
    }
    memcpy(&version, view.data, sizeof version);
    size_t size = size_of(key, version);
    fill(wanted, size, (uint64_t)key << 32 | version);
    memcpy(wanted, &version, sizeof version);
    if (version < low || version > high || is_delete(version))
        trouble("an old or deleted version", key, low, high, (int)version);
    else if (view.size != size || memcmp(view.data, wanted, size) != 0)
        trouble("a value that is not whole", key, low, high, rc);
    bitkv_view_release(&view);
}

static void *read_on(void *argument)
{
    struct chance c = {.state = (uintptr_t)argument + 99};
    unsigned char *wanted = malloc(100000);
    while (!atomic_load(&over))
        read_one((uint32_t)below(&c, KEYS), wanted);
    free(wanted);
    return NULL;
}

static void *compact_on(void *unused)
{
    (void)unused;
    while (!atomic_load(&over)) {
        int rc = bitkv_compact(shared, BITKV_ALL_PARTITIONS, NULL, NULL);
        if (rc != BITKV_OK)
            trouble("a compaction failed", 0, 0, 0, rc);
        atomic_fetch_add(&compactions, 1);
    }
    return NULL;
}

static unsigned start(pthread_t *threads, unsigned from, unsigned count, void *(*run)(void *))
{
    for (uintptr_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[from + i], NULL, run, (void *)i), 0);
    return from + count;
}

static void check_all(void)
{
    unsigned char *wanted = malloc(100000);
    for (uint32_t key = 0; key < KEYS; key++)
        read_one(key, wanted);
    free(wanted);
    assert_int_equal(atomic_load(&troubles), 0);
}

static void run_together(const bitkv_options *o, unsigned compactors)
{
    pthread_t threads[16];
    memset(keys, 0, sizeof keys);
    atomic_store(&over, false);
    atomic_store(&troubles, 0);
    atomic_store(&compactions, 0);
    shared = open_with(o);
    unsigned count = start(threads, 0, WRITERS, write_on);
    count = start(threads, count, READERS, read_on);
    count = start(threads, count, compactors, compact_on);
    sleep_ms((unsigned)env_number("BITKV_MS", 1500));
    for (unsigned i = 0; i < 3000 && statistics_of(shared).compactions_total == 0; i++)
        sleep_ms(10); /* a busy machine */
    atomic_store(&over, true);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    check_all();
    assert_true(compactors == 0 || atomic_load(&compactions) > 0);
    bitkv_statistics s = statistics_of(shared);
    assert_true(s.compactions_total > 0);
    compact(shared);
    check_all();
    ok(bitkv_close(shared));
    shared = open_with(o);
    check_all();
    ok(bitkv_close(shared));
    remove_files("keydir");
    shared = open_with(o);
    check_all();
    ok(bitkv_close(shared));
}

static void nobody_notices_compactions(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.fragmentation_threshold = 0.1;
        o.max_open_segments = mode == BITKV_IO_PWRITE ? 1 : 0;
        o.checkpoint_interval_bytes = 300000;
        run_together(&o, 1);
    }
}

static void several_may_compact_at_a_time(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 2;
    o.fragmentation_threshold = 0.2;
    run_together(&o, 3);
}

static void the_background_alone_keeps_order(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.fragmentation_threshold = 0.05;
    run_together(&o, 0);
}

/* --- closing ------------------------------------------------------------------------------ */

static _Atomic int result;

static int slow_progress(void *user, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    atomic_store((_Atomic bool *)user, true);
    sleep_ms(2);
    return 0;
}

static _Atomic bool begun;

static void *compact_slowly(void *db)
{
    atomic_store(&result, bitkv_compact(db, BITKV_ALL_PARTITIONS, slow_progress, &begun));
    return NULL;
}

static void closing_ends_a_compaction(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        pthread_t thread;
        bitkv *db = open_by_hand(round % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE);
        put_all(db, 3000, 1 + 2 * round, 400);
        put_all(db, 3000, 2 + 2 * round, 400);
        atomic_store(&begun, false);
        assert_int_equal(pthread_create(&thread, NULL, compact_slowly, db), 0);
        while (!atomic_load(&begun))
            sleep_ms(1);
        sleep_ms(round * 5);
        uint64_t from = now_ms();
        ok(bitkv_close(db));
        assert_true(now_ms() - from < 10000);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(atomic_load(&result), BITKV_ERR_CLOSED);
        assert_int_equal(count_files("", ".tmp"), 0);
        db = open_by_hand(BITKV_IO_AUTO);
        expect_all(db, 3000, 2 + 2 * round, 400);
        ok(bitkv_close(db));
    }
}

/* A limit for the background is none for who asks for it now, nor for closing. */
static void a_slow_background_holds_up_neither_calls_nor_closing(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.compact_bytes_per_second = 1000;
    bitkv *db = open_with(&o);
    for (uint32_t version = 0; version < 6; version++)
        put_all(db, 400, version, 1000);
    sleep_ms(100); /* it is at it, and rests */
    uint64_t from = now_ms();
    compact(db);
    assert_true(now_ms() - from < 5000);
    assert_true(statistics_of(db).dead_bytes < SEGMENT_BYTES);
    for (uint32_t version = 6; version < 9; version++)
        put_all(db, 400, version, 1000);
    sleep_ms(100);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, compact_slowly, db), 0);
    sleep_ms(5);
    from = now_ms();
    ok(bitkv_close(db));
    assert_true(now_ms() - from < 5000);
    assert_int_equal(pthread_join(thread, NULL), 0);
    db = open_with(&o);
    expect_all(db, 400, 8, 1000);
    from = now_ms();
    ok(bitkv_close(db));
    assert_true(now_ms() - from < 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nobody_notices_compactions),
        TEST(several_may_compact_at_a_time),
        TEST(the_background_alone_keeps_order),
        TEST(closing_ends_a_compaction),
        TEST(a_slow_background_holds_up_neither_calls_nor_closing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
