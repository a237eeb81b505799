/* SPDX-License-Identifier: MIT */
/* Compaction by itself: that it comes, that it keeps to the options, and when it
 * does not come. */
#include "api/compaction.h"

/* About `rounds` times 200 KB, all but the last of it dead. */
static void overwrite(bitkv *db, uint32_t rounds)
{
    for (uint32_t version = 1; version <= rounds; version++)
        put_all(db, 200, version, 1000);
}

static void dead_space_is_given_back_by_itself(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        bitkv *db = open_with(&o);
        overwrite(db, 40);
        uint64_t until = now_ms() + 20000;
        while (statistics_of(db).fragmentation > 0.6 && now_ms() < until)
            sleep_ms(10);
        bitkv_statistics s = statistics_of(db);
        assert_true(s.fragmentation <= 0.6);
        assert_true(s.compactions_total > 0);
        assert_true(s.compaction_bytes_read > s.compaction_bytes_written);
        expect_all(db, 200, 40, 1000);
        ok(bitkv_close(db));
        db = open_with(&o);
        expect_all(db, 200, 40, 1000);
        ok(bitkv_close(db));
    }
}

/* What is older costs more to look through than a tombstone is worth: it stays unseen,
 * or its key would be back once it is gone. */
static void a_tombstone_that_is_not_worth_looking_for_stays(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        bitkv *db = open_with(&o);
        put_all(db, 2000, 1, 100);
        for (uint32_t version = 1; version <= 700; version++) {
            put_version(db, 3000, version, 1000);
            if (version == 100)
                delete_all(db, 7, 8); /* a tombstone among dead records */
        }
        uint64_t until = now_ms() + 20000;
        while (statistics_of(db).dead_bytes > 150000 && now_ms() < until)
            sleep_ms(10);
        assert_true(statistics_of(db).dead_bytes <= 150000);
        ok(bitkv_close(db));
        remove_files("keydir");
        db = open_with(&o);
        expect_absent(db, 7, 8);
        expect_version(db, 6, 1, 100);
        expect_version(db, 3000, 700, 1000);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

/* Whoever opens the database next, and only reads, has it in order all the same. */
static void what_an_opening_leaves_the_next_one_gives_back(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    overwrite(db, 10);
    ok(bitkv_close(db));
    o.auto_compact = true;
    db = open_with(&o);
    uint64_t until = now_ms() + 20000;
    while (statistics_of(db).fragmentation > 0.6 && now_ms() < until)
        sleep_ms(10);
    assert_true(statistics_of(db).fragmentation <= 0.6);
    expect_all(db, 200, 10, 1000);
    ok(bitkv_close(db));
}

/* Of an opening with small files, and nothing of them is dead: each costs a descriptor
 * and a mapping all the same. */
static void many_small_files_become_few(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = by_hand(mode);
        bitkv *db = open_with(&o);
        put_all(db, 6000, 1, 1000);
        ok(bitkv_close(db));
        unsigned before = count_files("data_", ".db");
        assert_true(before > 90);
        o.auto_compact = true;
        o.max_file_size = 16u << 20;
        db = open_with(&o);
        uint64_t until = now_ms() + 20000;
        while (count_files("data_", ".db") > before / 2 && now_ms() < until)
            sleep_ms(10);
        assert_true(count_files("data_", ".db") <= before / 2);
        expect_all(db, 6000, 1, 1000);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static int note_active(void *user, const bitkv_segment_info *info)
{
    if (info->phase == BITKV_SEGMENT_ACTIVE)
        *(uint64_t *)user = info->id;
    return 0;
}

static uint64_t active_segment(bitkv *db)
{
    uint64_t id = 0;
    ok(bitkv_segments(db, 0, note_active, &id));
    return id;
}

/* The tombstones fit into the segment that is being written: none is finished, which
 * would be a reason to look by itself. */
static void what_batches_kill_is_given_back_by_itself(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_all(db, 600, 1, 1000);
    compact(db); /* returns when all that is full is sealed: nothing is left to look at */
    sleep_ms(100);
    bitkv_statistics before = statistics_of(db);
    uint64_t active = active_segment(db);
    bitkv_batch *batch = NULL;
    ok(bitkv_batch_create(&batch));
    for (uint32_t key = 0; key < 300; key++)
        ok(bitkv_batch_del(batch, &key, sizeof key));
    ok(bitkv_write(db, batch, BITKV_DURABILITY_INTERVAL)); /* which wakes the worker */
    bitkv_batch_destroy(batch);
    assert_true(active == 0 ||
                active_segment(db) == active); /* 0: a mark was dead, and it sealed */
    uint64_t until = now_ms() + 20000;
    while (statistics_of(db).compactions_total == before.compactions_total && now_ms() < until)
        sleep_ms(10);
    assert_true(statistics_of(db).compactions_total > before.compactions_total);
    expect_absent(db, 0, 300);
    ok(bitkv_close(db));
}

static void expect_nothing_happens(const bitkv_options *o)
{
    bitkv *db = open_with(o);
    overwrite(db, 10);
    uint64_t dead = statistics_of(db).dead_bytes;
    sleep_ms(400);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.compactions_total, 0);
    assert_int_equal(s.compaction_bytes_read, 0);
    assert_true(s.dead_bytes >= dead);
    compact(db); /* by hand at any time */
    assert_true(statistics_of(db).dead_bytes < SEGMENT_BYTES);
    expect_all(db, 200, 10, 1000);
    ok(bitkv_close(db));
    remove_tree(path);
}

static void nothing_happens_by_itself_where_it_is_not_wanted(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    unsigned threads = count_threads();
    bitkv *db = open_with(&o);
    overwrite(db, 5);
    assert_in_range(count_threads(), threads, threads + 1); /* the worker */
    ok(bitkv_close(db));
    remove_tree(path);
    expect_nothing_happens(&o);
}

static uint32_t minutes_from_now(unsigned minutes)
{
    time_t now = time(NULL);
    struct tm local;
    assert_non_null(localtime_r(&now, &local));
    return ((uint32_t)local.tm_hour * 60 + (uint32_t)local.tm_min + minutes) % 1440;
}

static void hours_of_the_day_are_kept(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.compact_from_minute = minutes_from_now(120);
    o.compact_until_minute = minutes_from_now(180);
    expect_nothing_happens(&o);
    o.compact_from_minute = minutes_from_now(120); /* all day but for this hour */
    o.compact_until_minute = minutes_from_now(1440 - 60);
    expect_nothing_happens(&o);

    o.compact_from_minute = minutes_from_now(1440 - 60);
    o.compact_until_minute = minutes_from_now(60);
    bitkv *db = open_with(&o);
    overwrite(db, 40);
    uint64_t until = now_ms() + 20000;
    while (statistics_of(db).compactions_total == 0 && now_ms() < until)
        sleep_ms(10);
    assert_true(statistics_of(db).compactions_total > 0);
    ok(bitkv_close(db));
}

/* What a run has read is counted at its end. */
static void the_rate_is_kept(void **state)
{
    (void)state;
    static const struct {
        uint64_t rate;
        uint32_t rounds;
    } cases[] = {{1 << 20, 12}, {100 << 10, 2}};
    for (unsigned i = 0; i < 2; i++) {
        bitkv_options o = one_partition(BITKV_IO_AUTO);
        o.compact_bytes_per_second = cases[i].rate;
        bitkv *db = open_with(&o);
        uint64_t begun = now_ms();
        overwrite(db, cases[i].rounds);
        while (statistics_of(db).compactions_total == 0 && now_ms() - begun < 30000)
            sleep_ms(5);
        sleep_ms(1500);
        uint64_t elapsed = now_ms() - begun;
        uint64_t read = statistics_of(db).compaction_bytes_read;
        uint64_t most = cases[i].rate * elapsed / 1000;
        print_message("%llu of at most %llu bytes\n", (unsigned long long)read,
                      (unsigned long long)most);
        assert_true(read > 0);
        assert_true(read <= most + most / 10);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

/* It is `minute` of the day here, now. */
static void be_where_it_is(unsigned minute)
{
    char zone[32];
    struct tm utc;
    time_t now = time(NULL);
    assert_non_null(gmtime_r(&now, &utc));
    int west = utc.tm_hour * 60 + utc.tm_min - (int)minute;
    (void)snprintf(zone, sizeof zone, "HERE%c%02d:%02d:30", west < 0 ? '-' : '+', abs(west) / 60,
                   abs(west) % 60);
    assert_int_equal(setenv("TZ", zone, 1), 0);
    tzset();
}

static bool compacts_from_to(uint32_t from, uint32_t until)
{
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    overwrite(db, 5);
    ok(bitkv_close(db));
    o.auto_compact = true;
    o.compact_from_minute = from;
    o.compact_until_minute = until;
    db = open_with(&o);
    uint64_t end = now_ms() + 1600; /* it looks after a second */
    while (statistics_of(db).compactions_total == 0 && now_ms() < end)
        sleep_ms(10);
    bool any = statistics_of(db).compactions_total > 0;
    expect_all(db, 200, 5, 1000);
    ok(bitkv_close(db));
    remove_tree(path);
    return any;
}

static void hours_over_midnight_are_kept(void **state)
{
    (void)state;
    be_where_it_is(30);
    assert_true(compacts_from_to(23 * 60, 60));
    be_where_it_is(23 * 60 + 30);
    assert_true(compacts_from_to(23 * 60, 60));
    be_where_it_is(12 * 60);
    assert_false(compacts_from_to(23 * 60, 60));
    assert_true(compacts_from_to(11 * 60, 13 * 60));
    be_where_it_is(14 * 60);
    assert_false(compacts_from_to(11 * 60, 13 * 60));
    (void)unsetenv("TZ");
    tzset();
}

/* What feeds may want is the log's end, as far as it is as it was written: what has been
 * compacted before has lost changes anyhow, and everything before it has. */
static void retention_ends_where_something_was_compacted(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    overwrite(db, 5);
    compact(db);
    overwrite(db, 2);
    ok(bitkv_close(db));
    o.feed_retention_bytes = 100u << 20;
    db = open_with(&o);
    uint64_t dead = statistics_of(db).dead_bytes;
    compact(db);
    assert_true(statistics_of(db).dead_bytes > dead / 4); /* of what was not compacted yet */
    expect_all(db, 200, 2, 1000);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(dead_space_is_given_back_by_itself),
        TEST(a_tombstone_that_is_not_worth_looking_for_stays),
        TEST(what_an_opening_leaves_the_next_one_gives_back),
        TEST(many_small_files_become_few),
        TEST(what_batches_kill_is_given_back_by_itself),
        TEST(nothing_happens_by_itself_where_it_is_not_wanted),
        TEST(hours_of_the_day_are_kept),
        TEST(hours_over_midnight_are_kept),
        TEST(retention_ends_where_something_was_compacted),
        TEST(the_rate_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
