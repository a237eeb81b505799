/* SPDX-License-Identifier: MIT */
/* Batches: what they contain, what they leave behind, what is refused. */
#include "api/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define MANY 500u

static bitkv *open_partitions(uint32_t partitions, bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.partitions = partitions;
    return open_with(&o);
}

static bitkv_batch *new_batch(void)
{
    bitkv_batch *batch = NULL;
    ok(bitkv_batch_create(&batch));
    assert_non_null(batch);
    return batch;
}

static void add_text(bitkv_batch *batch, const char *key, const char *value)
{
    ok(bitkv_batch_put(batch, key, strlen(key), value, strlen(value)));
}

static void add_number(bitkv_batch *batch, uint32_t key, uint32_t version)
{
    uint32_t value[8] = {key, version};
    ok(bitkv_batch_put(batch, &key, sizeof key, value, sizeof value));
}

static void expect_number(bitkv *db, uint32_t key, uint32_t version)
{
    uint32_t value[8];
    size_t size = 0;
    ok(bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size));
    assert_int_equal(size, sizeof value);
    assert_int_equal(value[0], key);
    assert_int_equal(value[1], version);
}

static void puts_and_deletes_over_all_partitions(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(4, mode);
        bitkv_batch *batch = new_batch();
        for (uint32_t version = 1; version <= 5; version++) {
            bitkv_batch_clear(batch);
            for (uint32_t key = 0; key < MANY; key++)
                add_number(batch, key, version);
            assert_int_equal(bitkv_batch_count(batch), MANY);
            ok(bitkv_write(db, batch, (bitkv_durability)(version % 4)));
            for (uint32_t key = 0; key < MANY; key++)
                expect_number(db, key, version);
        }
        bitkv_batch_clear(batch);
        for (uint32_t key = 0; key < MANY; key += 2)
            ok(bitkv_batch_del(batch, &key, sizeof key));
        ok(bitkv_write(db, batch, BITKV_DURABILITY_DEFAULT));
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.keys, MANY / 2);
        assert_int_equal(s.puts_total, 5 * MANY);
        assert_int_equal(s.deletes_total, MANY / 2);
        assert_int_equal(s.live_bytes, MANY / 2 * 56); /* 20 + 4 + 32 */
        for (int again = 0; again < 2; again++) {
            for (uint32_t key = 0; key < MANY; key++) {
                if (key % 2 == 0)
                    fails(BITKV_NOT_FOUND, bitkv_exists(db, &key, sizeof key));
                else
                    expect_number(db, key, 5);
            }
            ok(bitkv_close(db));
            db = open_partitions(4, mode);
            assert_int_equal(statistics_of(db).live_bytes, MANY / 2 * 56);
        }
        bitkv_batch_destroy(batch);
        ok(bitkv_close(db));
    }
}

static void the_last_entry_of_a_key_counts(void **state)
{
    (void)state;
    bitkv *db = open_partitions(3, BITKV_IO_AUTO);
    bitkv_batch *batch = new_batch();
    add_text(batch, "a", "1");
    add_text(batch, "a", "2");
    ok(bitkv_batch_del(batch, "a", 1));
    add_text(batch, "a", "3");
    add_text(batch, "b", "1");
    ok(bitkv_batch_del(batch, "b", 1));
    ok(bitkv_batch_del(batch, "never", 5));
    assert_int_equal(bitkv_batch_count(batch), 7);
    put_text(db, "b", "0");
    for (int again = 0; again < 3; again++) {
        ok(bitkv_write(db, batch, BITKV_DURABILITY_DEFAULT)); /* as often as one likes */
        expect_text(db, "a", "3");
        fails(BITKV_NOT_FOUND, bitkv_exists(db, "b", 1));
        fails(BITKV_NOT_FOUND, bitkv_exists(db, "never", 5));
        assert_int_equal(statistics_of(db).keys, 1);
    }
    bitkv_batch_destroy(batch);
    ok(bitkv_close(db));
    db = open_partitions(3, BITKV_IO_AUTO);
    expect_text(db, "a", "3");
    assert_int_equal(statistics_of(db).keys, 1);
    ok(bitkv_close(db));
}

static void an_empty_batch_writes_nothing(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_AUTO);
    bitkv_batch *batch = new_batch();
    ok(bitkv_write(db, batch, BITKV_DURABILITY_SYNC));
    add_text(batch, "a", "1");
    bitkv_batch_clear(batch);
    assert_int_equal(bitkv_batch_count(batch), 0);
    ok(bitkv_write(db, batch, BITKV_DURABILITY_SYNC));
    assert_int_equal(statistics_of(db).bytes_written, 0);
    bitkv_batch_destroy(batch);
    bitkv_batch_destroy(NULL);
    bitkv_batch_clear(NULL);
    assert_int_equal(bitkv_batch_count(NULL), 0);
    ok(bitkv_close(db));
}

static void what_is_wrong_is_refused(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_AUTO);
    bitkv_batch *batch = new_batch();
    fails(BITKV_ERR_INVALID, bitkv_batch_create(NULL));
    fails(BITKV_ERR_INVALID, bitkv_batch_put(NULL, "a", 1, "1", 1));
    fails(BITKV_ERR_INVALID, bitkv_batch_put(batch, "a", 0, "1", 1));
    fails(BITKV_ERR_INVALID, bitkv_batch_put(batch, NULL, 1, "1", 1));
    fails(BITKV_ERR_INVALID, bitkv_batch_put(batch, "a", 1, NULL, 1));
    fails(BITKV_ERR_INVALID, bitkv_batch_put(batch, "a", 1, "1", (size_t)BITKV_VALUE_SIZE_MAX + 1));
    fails(BITKV_ERR_INVALID, bitkv_batch_del(batch, "a", BITKV_KEY_SIZE_MAX + 1));
    assert_int_equal(bitkv_batch_count(batch), 0);
    ok(bitkv_batch_put(batch, "a", 1, NULL, 0));
    fails(BITKV_ERR_INVALID, bitkv_write(db, NULL, BITKV_DURABILITY_NONE));
    fails(BITKV_ERR_INVALID, bitkv_write(NULL, batch, BITKV_DURABILITY_NONE));
    fails(BITKV_ERR_INVALID, bitkv_write(db, batch, (bitkv_durability)9));
    ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    expect_text(db, "a", "");
    ok(bitkv_close(db));
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 2;
    o.read_only = true;
    db = open_with(&o);
    fails(BITKV_ERR_READ_ONLY, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    ok(bitkv_close(db));
    bitkv_batch_destroy(batch);
}

/* 64 KiB a segment. What does not fit leaves the other keys alone, too. */
static void a_part_fits_a_segment_or_is_refused(void **state)
{
    (void)state;
    static char value[70000];
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(2, mode);
        bitkv_batch *batch = new_batch();
        for (uint32_t key = 0; key < 40; key++)
            ok(bitkv_batch_put(batch, &key, sizeof key, "x", 1));
        ok(bitkv_batch_put(batch, "large", 5, value, 60000));
        for (int n = 0; n < 5; n++)
            ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE)); /* a segment each */
        ok(bitkv_batch_put(batch, "large", 5, value, 65500));
        uint64_t before = statistics_of(db).puts_total;
        fails(BITKV_ERR_LIMIT, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        context_has("max_file_size");
        assert_int_equal(statistics_of(db).puts_total, before);
        size_t size = 0;
        fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_get_into(db, "large", 5, NULL, 0, &size));
        assert_int_equal(size, 60000);
        ok(bitkv_close(db));
        db = open_partitions(2, mode);
        assert_int_equal(statistics_of(db).keys, 41);
        assert_int_equal(statistics_of(db).recovery.damaged_regions, 0);
        ok(bitkv_close(db));
        bitkv_batch_destroy(batch);
    }
}

/* A process that dies leaves whole batches; hints, logs, segments of all kinds. */
static void batches_survive_the_process(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        (void)fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            bitkv *db = open_partitions(5, mode);
            bitkv_batch *batch = new_batch();
            for (uint32_t version = 1; version <= 60; version++) {
                bitkv_batch_clear(batch);
                for (uint32_t key = 0; key < MANY; key++)
                    add_number(batch, key, version);
                ok(bitkv_write(db, batch,
                               version % 9 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE));
            }
            _exit(0);
        }
        assert_int_equal(wait_child(child), 0);
        for (int read_only = 1; read_only >= 0; read_only--) {
            bitkv_options o = one_partition(mode);
            o.partitions = 5;
            o.read_only = read_only != 0;
            bitkv *db = open_with(&o);
            bitkv_statistics s = statistics_of(db);
            assert_int_equal(s.keys, MANY);
            assert_int_equal(s.recovery.torn_tails, 0);
            assert_int_equal(s.recovery.damaged_regions, 0);
            for (uint32_t key = 0; key < MANY; key++)
                expect_number(db, key, 60);
            ok(bitkv_close(db));
        }
    }
}

static void a_synced_batch_syncs_its_partitions(void **state)
{
    (void)state;
    bitkv *db = open_partitions(4, BITKV_IO_AUTO);
    bitkv_batch *batch = new_batch();
    for (uint32_t key = 0; key < MANY; key++)
        add_number(batch, key, 1);
    ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    assert_true(statistics_of(db).unsynced_bytes > 0);
    ok(bitkv_write(db, batch, BITKV_DURABILITY_SYNC));
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.unsynced_bytes, 0);
    assert_int_equal(s.syncs_total, 4); /* the peers' syncs are theirs, too */
    bitkv_batch_destroy(batch);
    ok(bitkv_close(db));
}

/* A thousand keys, with readers that must find each of them at every moment. */
static _Atomic bool stop_reading;

static void *read_all(void *user)
{
    bitkv *db = user;
    for (uint32_t key = 0; !atomic_load(&stop_reading); key = (key + 1) % MANY) {
        uint32_t value[8];
        size_t size = 0;
        if (bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size) != BITKV_OK ||
            value[0] != key)
            return (void *)(uintptr_t) "a key is not there, or another's";
        uint32_t absent = key + 1000000;
        int rc = bitkv_exists(db, &absent, sizeof absent);
        if (rc != BITKV_NOT_FOUND && rc != BITKV_OK)
            return (void *)(uintptr_t) "an error for a key that comes and goes";
    }
    return NULL;
}

static void readers_see_no_gap(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(3, mode);
        bitkv_batch *batch = new_batch();
        for (uint32_t key = 0; key < MANY; key++)
            add_number(batch, key, 0);
        ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        pthread_t threads[2];
        atomic_store(&stop_reading, false);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_all, db), 0);
        for (uint32_t version = 1; version < 150; version++) {
            bitkv_batch_clear(batch);
            for (uint32_t key = 0; key < MANY; key++) {
                uint32_t other = key + 1000000;
                add_number(batch, key, version);
                if (version % 2 == 0)
                    add_number(batch, other, version);
                else
                    ok(bitkv_batch_del(batch, &other, sizeof other));
            }
            ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        }
        atomic_store(&stop_reading, true);
        for (int i = 0; i < 2; i++) {
            void *said = NULL;
            assert_int_equal(pthread_join(threads[i], &said), 0);
            if (said != NULL)
                fail_msg("%s", (const char *)said);
        }
        bitkv_batch_destroy(batch);
        ok(bitkv_close(db));
    }
}

/* Threads whose batches overlap in all partitions, with syncs of each other's. */
static void *write_batches(void *user)
{
    bitkv *db = user;
    bitkv_batch *batch = new_batch();
    for (uint32_t n = 0; n < 60; n++) {
        bitkv_batch_clear(batch);
        for (uint32_t key = n; key < n + 1 + n % 7 * 3; key++)
            add_number(batch, key, n);
        ok(bitkv_write(db, batch, n % 3 == 0 ? BITKV_DURABILITY_NONE : BITKV_DURABILITY_SYNC));
    }
    bitkv_batch_destroy(batch);
    return NULL;
}

static void syncs_of_peers_do_not_wait_for_each_other(void **state)
{
    (void)state;
    bitkv *db = open_partitions(6, BITKV_IO_AUTO);
    pthread_t threads[6];
    for (int i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_batches, db), 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    ok(bitkv_sync(db));
    assert_int_equal(statistics_of(db).unsynced_bytes, 0);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(puts_and_deletes_over_all_partitions),
        TEST(the_last_entry_of_a_key_counts),
        TEST(an_empty_batch_writes_nothing),
        TEST(what_is_wrong_is_refused),
        TEST(a_part_fits_a_segment_or_is_refused),
        TEST(batches_survive_the_process),
        TEST(a_synced_batch_syncs_its_partitions),
        TEST(readers_see_no_gap),
        TEST(syncs_of_peers_do_not_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
