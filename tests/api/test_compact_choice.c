/* SPDX-License-Identifier: MIT */
/* Which files compaction takes together, and which it leaves: seen by what is left. */
#include "api/compaction.h"

#define WAIT_MS 20000u

static void put_for(bitkv *db, uint32_t key, uint64_t ttl_ms, size_t size)
{
    static const char value[2000];
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = ttl_ms;
    ok(bitkv_put_if(db, &key, sizeof key, value, size, &o, NULL));
}

/* All but the one that is written: only what is finished is taken. */
static void await_finished(bitkv *db)
{
    const struct bkv_segment *s = atomic_load(&db->partitions[0]->first);
    for (; s != NULL; s = atomic_load(&s->next)) {
        for (unsigned ms = 0; atomic_load(&s->phase) == BKV_PHASE_SEALED; ms++) {
            assert_true(ms < 20000);
            sleep_ms(1);
        }
    }
}

static void a_rate_that_no_disk_has_holds_nothing_up(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.compact_bytes_per_second = UINT64_C(1) << 60;
    bitkv *db = open_with(&o);
    uint64_t until = now_ms() + WAIT_MS;
    for (uint32_t version = 1; statistics_of(db).compactions_total == 0; version++) {
        put_all(db, 200, version, 1000);
        assert_true(now_ms() < until);
    }
    ok(bitkv_close(db));
}

/* A run takes so many and no more, however little is left of each. */
static void many_files_of_which_little_is_left_go_in_several_runs(void **state)
{
    (void)state;
    enum { FILES = 150 };
    quick_syncs(true);
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t n = 0; n < FILES; n++) {
        put_version(db, 1000 + n, 1, 100);
        put_version(db, 1, n, 60000);
    }
    await_finished(db);
    compact(db);
    assert_true(statistics_of(db).compactions_total >= FILES / BKV_RUN_MAX);
    assert_true(count_files("data_", ".db") < 10);
    for (uint32_t n = 0; n < FILES; n++)
        expect_version(db, 1000 + n, 1, 100);
    expect_version(db, 1, FILES - 1, 60000);
    ok(bitkv_close(db));
    quick_syncs(false);
}

/* Small files, nothing of which is dead, and behind them none that is written: by the
 * options of now they would be a few. */
static void make_small_files(void)
{
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t key = 0; key < 3000; key++)
        put_version(db, key, 1, 1000);
    for (unsigned n = 0; n < 2; n++)
        put_version(db, 0, 1, 1000);
    await_finished(db);
    compact(db); /* the last one is full then, since something in it is dead */
    ok(bitkv_close(db));
    assert_true(count_files("data_", ".db") > 40);
}

static bitkv_options larger(uint64_t retention)
{
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.max_file_size = 8 << 20;
    o.feed_retention_bytes = retention;
    return o;
}

static void small_files_become_few_up_to_the_last(void **state)
{
    (void)state;
    quick_syncs(true);
    make_small_files();
    bitkv_options o = larger(0);
    bitkv *db = open_with(&o);
    uint64_t until = now_ms() + WAIT_MS;
    while (statistics_of(db).segments > 20 && now_ms() < until)
        sleep_ms(5);
    assert_true(statistics_of(db).segments <= 20);
    expect_all(db, 3000, 1, 1000);
    ok(bitkv_close(db));
    quick_syncs(false);
}

static void small_files_that_feeds_may_read_stay(void **state)
{
    (void)state;
    quick_syncs(true);
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 3000, 1, 1000);
    ok(bitkv_close(db));
    bitkv_options o = larger(UINT64_C(1) << 40);
    db = open_with(&o);
    uint64_t segments = statistics_of(db).segments;
    sleep_ms(1500); /* it has looked */
    assert_int_equal(statistics_of(db).segments, segments);
    assert_int_equal(statistics_of(db).compactions_total, 0);
    ok(bitkv_close(db));
    quick_syncs(false);
}

/* Of a file whose keys will all expire each is looked at until they all have. */
static void keys_that_are_still_to_expire_stay(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t key = 0; key < 200; key++)
        put_for(db, key, 3600000, 1000);
    for (uint32_t key = 0; key < 200; key += 2)
        put_for(db, key, 3600000, 500);
    await_finished(db);
    compact(db);
    assert_int_equal(records_of(db, UINT32_MAX).puts, 200);
    for (uint32_t key = 0; key < 200; key++)
        ok(bitkv_exists(db, &key, sizeof key));
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_rate_that_no_disk_has_holds_nothing_up),
        TEST(many_files_of_which_little_is_left_go_in_several_runs),
        TEST(small_files_become_few_up_to_the_last),
        TEST(small_files_that_feeds_may_read_stay),
        TEST(keys_that_are_still_to_expire_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
