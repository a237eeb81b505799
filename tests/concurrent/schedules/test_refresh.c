/* SPDX-License-Identifier: MIT */
/*
 * A follower's refresh, held in its midst, against what reads several things at once: a
 * feed, a backup, a snapshot. And what a get has at hand when a refresh lengthens the
 * file it has just opened.
 */
#include "concurrent/schedules/fixture.h"

#include <pthread.h>

#define KEYS 400u

static bitkv *follower;
static int refreshed, backed_up, snapshot_taken;
static bitkv_snapshot *snapshot;

static void *refresh_it(void *unused)
{
    (void)unused;
    refreshed = bitkv_refresh(follower);
    return NULL;
}

static void put_range(uint32_t first, uint32_t end)
{
    for (uint32_t key = first; key < end; key++)
        ok(put_number(key, key + 1, BITKV_DURABILITY_NONE));
}

static unsigned count_keys(bitkv *in)
{
    unsigned count = 0;
    uint32_t number;
    for (uint32_t key = 0; key < KEYS; key++)
        count += get_number(in, key, &number) == BITKV_OK && number == key + 1;
    return count;
}

/* The writer has some keys, the follower has them, and then the writer has all. */
static void begin(uint32_t partitions, bitkv_io_mode mode)
{
    options.partitions = partitions;
    options.io_mode = mode;
    options.max_file_size = 1 << 20;
    db = open_with(&options);
    put_range(0, KEYS / 4);
    bitkv_options o = options;
    o.read_only = true;
    follower = open_with(&o);
    put_range(KEYS / 4, KEYS);
}

static pthread_t hold_refresh(void)
{
    pthread_t thread;
    schedule_hold("follow.grown");
    assert_int_equal(pthread_create(&thread, NULL, refresh_it, NULL), 0);
    assert_true(schedule_await());
    return thread;
}

static void end_refresh(pthread_t thread)
{
    schedule_release();
    assert_int_equal(pthread_join(thread, NULL), 0);
    ok(refreshed);
    assert_int_equal(count_keys(follower), KEYS);
}

static void end(void)
{
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
    db = NULL;
    remove_tree(path);
}

/* Reads all there is; each change can be found by its key. */
static unsigned drain(bitkv_feed *feed)
{
    unsigned count = 0;
    bitkv_change change;
    int rc;
    while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK) {
        uint32_t key, number;
        memcpy(&key, change.key, sizeof key);
        ok(get_number(follower, key, &number));
        assert_int_equal(number, key + 1);
        count++;
    }
    fails(BITKV_NOT_FOUND, rc);
    return count;
}

/* The segment was longer already, and the KeyDir had not come to it: a feed delivered
 * what no get could find, and one that began at the end left changes out. */
static void a_feed_and_the_gets_beside_it_see_the_same(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_feed *from_oldest, *from_end;
        begin(1, mode);
        ok(bitkv_feed_open(&from_oldest, follower, NULL, BITKV_FEED_OLDEST));
        pthread_t thread = hold_refresh();
        unsigned before = drain(from_oldest);
        ok(bitkv_feed_open(&from_end, follower, NULL, BITKV_FEED_END));
        unsigned there = count_keys(follower);
        assert_int_equal(drain(from_end), 0);
        end_refresh(thread);
        assert_int_equal(before + drain(from_oldest), KEYS);
        assert_int_equal(drain(from_end), KEYS - there);
        ok(bitkv_feed_close(from_oldest));
        ok(bitkv_feed_close(from_end));
        end();
    }
}

static void *back_up(void *unused)
{
    (void)unused;
    backed_up = bitkv_backup(follower, backup_path, NULL);
    return NULL;
}

/* What compaction has made was in the list with nothing in it, and replaced its inputs in
 * the backup; or one partition was refreshed, and another not. */
static void a_backup_is_of_one_moment_of_a_follower(void **state)
{
    (void)state;
    for (unsigned compacted = 0; compacted < 2; compacted++) {
        begin(compacted ? 1 : 3, BITKV_IO_AUTO);
        if (compacted) {
            put_range(0, KEYS);
            ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        }
        pthread_t other;
        pthread_t thread = hold_refresh();
        assert_int_equal(pthread_create(&other, NULL, back_up, NULL), 0);
        sleep_ms(100);
        end_refresh(thread);
        assert_int_equal(pthread_join(other, NULL), 0);
        ok(backed_up);
        bitkv_options o = options;
        o.create_if_missing = false;
        o.strict_recovery = true;
        bitkv *backup = NULL;
        ok(bitkv_open(&backup, backup_path, &o));
        assert_int_equal(count_keys(backup), KEYS);
        ok(bitkv_close(backup));
        remove_tree(backup_path);
        end();
    }
}

static void *take_snapshot(void *unused)
{
    (void)unused;
    snapshot_taken = bitkv_snapshot_create(&snapshot, follower);
    return NULL;
}

static void a_snapshot_is_of_one_moment_of_a_follower(void **state)
{
    (void)state;
    begin(3, BITKV_IO_AUTO);
    pthread_t other;
    pthread_t thread = hold_refresh();
    assert_int_equal(pthread_create(&other, NULL, take_snapshot, NULL), 0);
    sleep_ms(100);
    end_refresh(thread);
    assert_int_equal(pthread_join(other, NULL), 0);
    ok(snapshot_taken);
    for (uint32_t key = 0; key < KEYS; key++) {
        struct number value;
        size_t size;
        ok(bitkv_snapshot_get_into(snapshot, &key, sizeof key, &value, sizeof value, &size));
    }
    ok(bitkv_snapshot_destroy(snapshot));
    end();
}

/* --- a get beside it ------------------------------------------------------------------- */

static int result;
static uint32_t result_number;

static void *get_hot(void *unused)
{
    (void)unused;
    result = get_number(follower, HOT, &result_number);
    return NULL;
}

/* It has opened the file as long as that was, and then the key lies behind. */
static void a_get_opens_a_file_once_more_that_has_grown_since(void **state)
{
    (void)state;
    options.max_file_size = 32 << 20;
    db = open_with(&options);
    ok(put_number(HOT, 1, BITKV_DURABILITY_NONE));
    bitkv_options o = options;
    o.read_only = true;
    follower = open_with(&o);
    pthread_t thread;
    schedule_hold("get.pinned"); /* nothing is open yet */
    assert_int_equal(pthread_create(&thread, NULL, get_hot, NULL), 0);
    assert_true(schedule_await());
    for (uint32_t n = 2; n < 60000; n++) /* behind what was reserved then */
        ok(put_number(HOT, n, BITKV_DURABILITY_NONE));
    ok(bitkv_refresh(follower));
    schedule_release();
    assert_int_equal(pthread_join(thread, NULL), 0);
    ok(result);
    assert_int_equal(result_number, 59999);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCHEDULE_TEST(a_feed_and_the_gets_beside_it_see_the_same),
        SCHEDULE_TEST(a_backup_is_of_one_moment_of_a_follower),
        SCHEDULE_TEST(a_snapshot_is_of_one_moment_of_a_follower),
        SCHEDULE_TEST(a_get_opens_a_file_once_more_that_has_grown_since),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
