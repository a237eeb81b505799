/* SPDX-License-Identifier: MIT */
/*
 * When the log is synced, seen through the table of system calls: each
 * fdatasync, fsync and creation of a file gets a number.
 */
#include "api/fixture.h"

#include "io/io.h"

#include <pthread.h>
#include <stdatomic.h>

static struct bkv_io_ops ops;
static _Atomic uint64_t events; /* a clock */
static _Atomic uint64_t data_syncs, last_data_sync;
static _Atomic uint64_t directory_syncs, last_directory_sync;
static _Atomic uint64_t last_creation;
static _Atomic int sync_errno;

static int on_fdatasync(int fd)
{
    int error = atomic_load(&sync_errno);
    if (error != 0) {
        errno = error;
        return -1;
    }
    int result = bkv_io_kernel.fdatasync(fd);
    (void)atomic_fetch_add(&data_syncs, 1);
    atomic_store(&last_data_sync, atomic_fetch_add(&events, 1) + 1);
    return result;
}

static int on_fsync(int fd)
{
    int result = bkv_io_kernel.fsync(fd);
    (void)atomic_fetch_add(&directory_syncs, 1);
    atomic_store(&last_directory_sync, atomic_fetch_add(&events, 1) + 1);
    return result;
}

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) != 0 && strstr(name, "/data_") != NULL)
        atomic_store(&last_creation, atomic_fetch_add(&events, 1) + 1);
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static int count_calls(void **state)
{
    ops = bkv_io_kernel;
    ops.fdatasync = on_fdatasync;
    ops.fsync = on_fsync;
    ops.openat = on_openat;
    bkv_io = &ops;
    atomic_store(&sync_errno, 0);
    return make_directory(state);
}

static int count_no_more(void **state)
{
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

static void a_synced_put_returns_after_its_sync(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        for (unsigned i = 0; i < 20; i++) {
            uint64_t before = atomic_load(&data_syncs);
            if (i % 2 == 0)
                ok(bitkv_put_with(db, "k", 1, "v", 1, BITKV_DURABILITY_SYNC));
            else
                ok(bitkv_del_with(db, "k", 1, BITKV_DURABILITY_SYNC));
            assert_true(atomic_load(&data_syncs) > before);
        }
        ok(bitkv_close(db));
    }
}

static void options_can_ask_for_it_too(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    for (int way = 0; way < 2; way++) {
        remove_tree(path);
        o.durability = way == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE;
        o.sync_on_write = way == 1;
        bitkv *db = open_with(&o);
        uint64_t before = atomic_load(&data_syncs);
        put_text(db, "k", "v");
        assert_true(atomic_load(&data_syncs) > before);
        before = atomic_load(&data_syncs);
        ok(bitkv_del(db, "k", 1));
        assert_true(atomic_load(&data_syncs) > before);
        before = atomic_load(&data_syncs);
        ok(bitkv_put_with(db, "k", 1, "w", 1, BITKV_DURABILITY_NONE));
        if (way == 1) /* every write, whatever it asks for */
            assert_true(atomic_load(&data_syncs) > before);
        ok(bitkv_close(db));
    }
}

/* Of a file that is new, the entry has to be durable as well. */
static void the_directory_is_synced_before_a_put_in_a_new_file_is_acknowledged(void **state)
{
    (void)state;
    static char value[50000];
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        for (uint32_t i = 0; i < 20; i++) { /* one segment each, every fifth its own */
            ok(bitkv_put_with(db, &i, sizeof i, value, sizeof value, BITKV_DURABILITY_SYNC));
            if (i % 5 == 0) {
                static char jumbo[90000];
                ok(bitkv_put_with(db, "j", 1, jumbo, sizeof jumbo, BITKV_DURABILITY_SYNC));
            }
            uint64_t entry = atomic_load(&last_directory_sync);
            /* A spare that was made meanwhile is nobody's business. */
            if (entry < atomic_load(&last_creation))
                sleep_ms(30);
            assert_true(atomic_load(&last_directory_sync) > 0);
        }
        ok(bitkv_close(db));
    }
    /* The first segment has no spare: here the order is exact. */
    remove_tree(path);
    bitkv *db = open_small(BITKV_IO_MMAP);
    ok(bitkv_put_with(db, "k", 1, "v", 1, BITKV_DURABILITY_SYNC));
    assert_true(atomic_load(&last_directory_sync) > atomic_load(&last_creation));
    assert_true(atomic_load(&last_data_sync) > atomic_load(&last_creation));
    ok(bitkv_close(db));
}

struct job {
    bitkv *db;
    unsigned thread, count;
};

static void *put_synced(void *argument)
{
    const struct job *job = argument;
    for (unsigned i = 0; i < job->count; i++) {
        uint32_t key[2] = {job->thread, i};
        if (bitkv_put_with(job->db, key, sizeof key, "v", 1, BITKV_DURABILITY_SYNC) != BITKV_OK)
            return (void *)1;
    }
    return NULL;
}

static int slow_fdatasync(int fd)
{
    sleep_ms(2); /* as a disk is */
    return on_fdatasync(fd);
}

static void writers_that_wait_share_a_sync(void **state)
{
    (void)state;
    enum { THREADS = 8, PUTS = 40 };
    ops.fdatasync = slow_fdatasync;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.max_file_size = 1 << 20;
    bitkv *db = open_with(&o);
    uint64_t before = atomic_load(&data_syncs);
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.db = db, .thread = i, .count = PUTS};
        assert_int_equal(pthread_create(&threads[i], NULL, put_synced, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *result;
        (void)pthread_join(threads[i], &result);
        assert_null(result);
    }
    uint64_t syncs = atomic_load(&data_syncs) - before;
    print_message("%llu syncs for %u puts\n", (unsigned long long)syncs, THREADS * PUTS);
    assert_in_range(syncs, PUTS / 2, THREADS * PUTS / 2);
    ok(bitkv_close(db));
}

static void interval_syncs_by_itself_and_in_time(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.sync_interval_ms = 150;
    for_both_modes(mode)
    {
        o.io_mode = mode;
        bitkv *db = open_with(&o);
        for (unsigned i = 0; i < 3; i++) {
            uint64_t before = atomic_load(&data_syncs);
            uint64_t begun = now_ms();
            ok(bitkv_put_with(db, "k", 1, "v", 1, BITKV_DURABILITY_INTERVAL));
            ok(bitkv_put_with(db, "l", 1, "v", 1, BITKV_DURABILITY_INTERVAL));
            assert_true(now_ms() - begun > 100 || atomic_load(&data_syncs) == before);
            while (atomic_load(&data_syncs) == before && now_ms() - begun < 3000)
                sleep_ms(2);
            uint64_t took = now_ms() - begun;
            assert_in_range(took, 100, 2000); /* a busy machine is late */
            sleep_ms(5);
            assert_int_equal(atomic_load(&data_syncs), before + 1); /* one for both */
            /* the sync returns before its worker has noted it */
            for (int k = 0; k < 2000 && statistics_of(db).unsynced_bytes != 0; k++)
                sleep_ms(1);
            assert_int_equal(statistics_of(db).unsynced_bytes, 0);
        }
        /* and an idle database makes none */
        uint64_t before = atomic_load(&data_syncs);
        sleep_ms(400);
        assert_int_equal(atomic_load(&data_syncs), before);
        ok(bitkv_close(db));
    }
}

/* A stream of interval writes does not push the sync before it. */
static void interval_syncs_go_on_under_a_stream_of_writes(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.sync_interval_ms = 50;
    o.max_file_size = 8 << 20;
    bitkv *db = open_with(&o);
    uint64_t before = atomic_load(&data_syncs);
    uint64_t begun = now_ms();
    /* As long as it takes, on a busy machine: but the writes never pause. */
    for (uint32_t i = 0; atomic_load(&data_syncs) - before < 4 && now_ms() - begun < 10000; i++) {
        ok(bitkv_put_with(db, &i, sizeof i, "v", 1, BITKV_DURABILITY_INTERVAL));
        (void)usleep(200);
    }
    uint64_t took = now_ms() - begun;
    assert_in_range(atomic_load(&data_syncs) - before, 4, took / 50 + 2);
    ok(bitkv_close(db));
}

static void none_syncs_nothing(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.sync_interval_ms = 10;
    bitkv *db = open_with(&o);
    uint64_t before = atomic_load(&data_syncs);
    for (uint32_t i = 0; i < 100; i++)
        ok(bitkv_put_with(db, &i, sizeof i, "v", 1, BITKV_DURABILITY_NONE));
    sleep_ms(200);
    assert_int_equal(atomic_load(&data_syncs), before);
    ok(bitkv_close(db));
    assert_true(atomic_load(&data_syncs) > before); /* but closing does */
}

static void a_barrier_covers_everything_and_is_free_if_nothing_waits(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.partitions = 3;
    bitkv *db = open_with(&o);
    uint64_t before = atomic_load(&data_syncs);
    ok(bitkv_sync(db));
    assert_int_equal(atomic_load(&data_syncs), before);
    for (uint32_t i = 0; i < 100; i++)
        ok(bitkv_put(db, &i, sizeof i, "v", 1));
    ok(bitkv_sync(db));
    assert_int_equal(atomic_load(&data_syncs), before + 3);
    assert_int_equal(statistics_of(db).unsynced_bytes, 0);
    ok(bitkv_sync(db));
    assert_int_equal(atomic_load(&data_syncs), before + 3);
    ok(bitkv_close(db));
}

static void a_clean_reopening_has_nothing_to_sync(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    uint64_t before = atomic_load(&data_syncs);
    ok(bitkv_sync(db));
    ok(bitkv_close(db));
    assert_int_equal(atomic_load(&data_syncs), before);
}

static void what_a_crash_left_unsynced_is_synced_by_the_next_barrier(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.sync_interval_ms = 3600000;
    die_with_keys(&o, 3, 100);
    bitkv *db = open_with(&o);
    uint64_t before = atomic_load(&data_syncs);
    ok(bitkv_sync(db));
    assert_true(atomic_load(&data_syncs) > before);
    ok(bitkv_close(db));
}

static void after_a_failed_sync_the_partition_refuses_writes_until_reopened(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "before", "1");
        atomic_store(&sync_errno, EIO);
        fails(BITKV_ERR_SYNC_FAILED, bitkv_put_with(db, "k", 1, "v", 1, BITKV_DURABILITY_SYNC));
        context_has("data_1.db");
        atomic_store(&sync_errno, 0); /* a second sync would prove nothing */
        fails(BITKV_ERR_SYNC_FAILED, bitkv_put(db, "l", 1, "v", 1));
        fails(BITKV_ERR_SYNC_FAILED, bitkv_del(db, "before", 6));
        fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
        expect_text(db, "before", "1");
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.writes_refused, 1);
        assert_true(s.errors_total >= 3);
        fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
        db = open_small(mode);
        put_text(db, "l", "w");
        expect_text(db, "before", "1");
        assert_int_equal(statistics_of(db).writes_refused, 0);
        ok(bitkv_close(db));
    }
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, count_calls, count_no_more)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_synced_put_returns_after_its_sync),
        TEST(options_can_ask_for_it_too),
        TEST(the_directory_is_synced_before_a_put_in_a_new_file_is_acknowledged),
        TEST(writers_that_wait_share_a_sync),
        TEST(interval_syncs_by_itself_and_in_time),
        TEST(interval_syncs_go_on_under_a_stream_of_writes),
        TEST(none_syncs_nothing),
        TEST(a_barrier_covers_everything_and_is_free_if_nothing_waits),
        TEST(a_clean_reopening_has_nothing_to_sync),
        TEST(what_a_crash_left_unsynced_is_synced_by_the_next_barrier),
        TEST(after_a_failed_sync_the_partition_refuses_writes_until_reopened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
