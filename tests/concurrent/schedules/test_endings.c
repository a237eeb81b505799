/* SPDX-License-Identifier: MIT */
/*
 * Closing against every call; syncs that fail, beside those who share them; the
 * worker's preparations against writers who do not wait for it.
 */
#include "concurrent/schedules/fixture.h"

#include "base/memory.h"
#include "db/db.h"
#include "keydir/internal.h"
#include "partition/state.h"

#include <pthread.h>

static int result;
static int close_result;

static void explore(const struct schedule *schedule)
{
    assert_true(schedule_explore(schedule) > 1);
}

/* --- closing ----------------------------------------------------------------------
 *
 * The call has entered, and not yet seen whether the database is being closed, when
 * the other thread may close it; or it has seen that it is not; or it is made while
 * closing waits. It is carried out, or refused; closing waits for it; nothing that was
 * acknowledged is missing at the next opening. */

static bitkv_snapshot *snapshot;
static bitkv_iterator *iterator;
static bitkv_feed *feed;
static bitkv_cq *cq;

static void open_one(void)
{
    db = open_with(&options);
    version++;
    ok(put_number(HOT, version, BITKV_DURABILITY_NONE));
    ok(put_number(HOT + 1, version, BITKV_DURABILITY_NONE));
    result = close_result = 1000;
}

static void close_it(void)
{
    close_result = bitkv_close(db);
}

static void expect_closed(void)
{
    ok(close_result);
    db = NULL;
    if (result != BITKV_OK)
        fails(BITKV_ERR_CLOSED, result);
}

static void expect_kept(void)
{
    expect_closed();
    options.strict_recovery = true;
    db = open_with(&options);
    expect_number(HOT, version);
    ok(bitkv_close(db));
    db = NULL;
}

static void call_get(void)
{
    uint32_t number = 0;
    result = get_number(db, HOT, &number);
    if (result == BITKV_OK && number != version)
        result = BITKV_ERR_CORRUPT;
}

static void call_put(void)
{
    result = put_number(HOT, version + 1000000, BITKV_DURABILITY_NONE);
}

static void call_durable_put(void)
{
    result = put_number(HOT, version + 1000000, BITKV_DURABILITY_SYNC);
}

static void expect_put(void)
{
    expect_closed();
    db = open_with(&options);
    expect_number(HOT, result == BITKV_OK ? version + 1000000 : version);
    ok(bitkv_close(db));
    db = NULL;
}

static void call_add(void)
{
    uint32_t key = HOT + 2;
    result = bitkv_add(db, &key, sizeof key, 1, NULL);
}

static void call_sync(void)
{
    result = bitkv_sync(db);
}

static void call_snapshot(void)
{
    result = bitkv_snapshot_create(&snapshot, db);
    uint32_t key = HOT;
    if (result == BITKV_OK)
        result = bitkv_snapshot_exists(snapshot, &key, sizeof key);
    (void)bitkv_snapshot_destroy(snapshot);
}

static void call_scan(void)
{
    result = bitkv_snapshot_create(&snapshot, db);
    if (result == BITKV_OK)
        result = bitkv_iterator_create(&iterator, snapshot, NULL);
    else
        iterator = NULL;
    (void)bitkv_snapshot_destroy(snapshot);
    for (unsigned i = 0; i < 3 && result == BITKV_OK; i++) {
        bitkv_record record;
        result = bitkv_iterator_next(iterator, &record);
    }
    if (result == BITKV_NOT_FOUND)
        result = BITKV_OK;
    (void)bitkv_iterator_destroy(iterator);
}

static void call_compact(void)
{
    result = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
}

static void call_backup(void)
{
    result = bitkv_backup(db, backup_path, NULL);
}

static void call_feed(void)
{
    bitkv_change change;
    result = bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST);
    if (result == BITKV_OK)
        result = bitkv_feed_next(feed, &change);
    (void)bitkv_feed_close(feed);
}

static void call_queue(void)
{
    uint32_t key = HOT;
    bitkv_completion done;
    const bitkv_op batch[] = {
        {.kind = BITKV_OP_GET, .key = &key, .key_size = sizeof key},
        {.kind = BITKV_OP_PUT,
         .key = &key,
         .key_size = sizeof key,
         .durability = BITKV_DURABILITY_SYNC},
    };
    result = bitkv_cq_create(&cq, db, NULL);
    if (result != BITKV_OK)
        return;
    int n = bitkv_cq_submit(cq, batch, 2, NULL);
    result = n < 0 ? n : BITKV_OK;
    for (int i = 0; i < n; i++) {
        if (bitkv_cq_wait(cq, &done, 1, -1) != 1)
            result = BITKV_ERR_INVALID; /* each completes once */
        if (done.status != BITKV_OK)
            result = done.status;
        bitkv_free(done.value);
    }
    (void)bitkv_cq_destroy(cq);
}

static void against_closing(const char *name, void (*call)(void), void (*check)(void))
{
    struct schedule s = {
        .name = name,
        .setup = open_one,
        .actors = {call, close_it},
        .points = {"call.entered", "call.begun", "close.refused", "close.alone", "close.detached"},
        .check = check,
        .first_begins = true,
    };
    explore(&s);
}

static void closing_waits_for_calls_or_refuses_them(void **state)
{
    (void)state;
    against_closing("close against get", call_get, expect_kept);
    against_closing("close against put", call_put, expect_put);
    against_closing("close against a durable put", call_durable_put, expect_put);
    against_closing("close against add", call_add, expect_kept);
    against_closing("close against sync", call_sync, expect_kept);
}

static void closing_leaves_shells_of_what_is_open(void **state)
{
    (void)state;
    against_closing("close against a snapshot", call_snapshot, expect_kept);
    against_closing("close against an iterator", call_scan, expect_kept);
    against_closing("close against a feed", call_feed, expect_kept);
    against_closing("close against a queue", call_queue, expect_closed);
}

static void closing_ends_long_calls(void **state)
{
    (void)state;
    against_closing("close against compaction", call_compact, expect_kept);
    against_closing("close against a backup", call_backup, expect_kept);
}

static void open_follower(void)
{
    open_one();
    ok(bitkv_close(db));
    bitkv_options o = options;
    o.read_only = true;
    db = open_with(&o);
}

static void call_refresh(void)
{
    result = bitkv_refresh(db);
}

static void closing_waits_for_a_refresh(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "close against refresh",
        .setup = open_follower,
        .actors = {call_refresh, close_it},
        .points = {"call.entered", "call.begun", "close.refused", "close.alone", "close.detached"},
        .check = expect_closed,
        .first_begins = true,
    };
    explore(&s);
}

/* --- group commit ------------------------------------------------------------------- */

#define CONTENT_MAX (64u << 10)

static int results[2];
static _Atomic unsigned syncs; /* of data files, in this run */
static unsigned failing;       /* which of them fails */
static unsigned char *content; /* of the log, as the last good sync found it */
static size_t content_size;

static int watched_sync(int fd)
{
    if (atomic_fetch_add(&syncs, 1) + 1 == failing) {
        errno = EIO;
        return -1;
    }
    ssize_t size = pread(fd, content, CONTENT_MAX, 0);
    if (size > 0)
        content_size = (size_t)size;
    return 0;
}

static void open_for_syncs(void)
{
    version++;
    remove_tree(path);
    db = open_with(&options);
    ops.fdatasync = watched_sync;
    atomic_store(&syncs, 0);
    content_size = 0;
    results[0] = results[1] = 1000;
}

static void durable_put_0(void)
{
    results[0] = put_number(0, version, BITKV_DURABILITY_SYNC);
}

static void durable_put_1(void)
{
    results[1] = put_number(1, version, BITKV_DURABILITY_SYNC);
}

static bool was_synced(uint32_t key)
{
    struct number wanted = number_of(key, version);
    return memmem(content, content_size, &wanted, sizeof wanted) != NULL;
}

static void expect_no_early_acknowledgement(void)
{
    unsigned acknowledged = 0;
    for (uint32_t i = 0; i < 2; i++) {
        acknowledged += results[i] == BITKV_OK;
        if (results[i] == BITKV_OK)
            assert_true(was_synced(i));
        else
            fails(BITKV_ERR_SYNC_FAILED, results[i]);
    }
    bool failed = atomic_load(&syncs) >= failing;
    assert_true(failed || acknowledged == 2);
    if (failed)
        fails(BITKV_ERR_SYNC_FAILED, put_number(2, version, BITKV_DURABILITY_NONE));
    ops.fdatasync = no_sync;
    (void)bitkv_close(db);
    db = NULL;
}

/* Both wait for one sync, or the second comes while the first runs, and asks for one
 * of its own. Who is acknowledged was on the disk when a sync that succeeded began;
 * after a failure nobody is, and nothing is written any more. */
static void a_put_is_acknowledged_after_a_sync_of_its_own(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "group commit against a failed sync",
        .setup = open_for_syncs,
        .actors = {durable_put_0, durable_put_1},
        .points = {"write.drafted", "write.shown", "sync.begun", "sync.ran"},
        .check = expect_no_early_acknowledgement,
    };
    content = malloc(CONTENT_MAX);
    assert_non_null(content);
    for (failing = 1; failing <= 3; failing++)
        explore(&s);
    free(content);
}

/* --- the worker's preparations -------------------------------------------------------- */

#define LARGE 9000u

static void put_large(uint32_t first, uint32_t end)
{
    static unsigned char value[LARGE];
    for (uint32_t key = first; key < end; key++) {
        fill(value, sizeof value, key);
        ok(bitkv_put_with(db, &key, sizeof key, value, sizeof value, BITKV_DURABILITY_NONE));
    }
}

static void expect_large(uint32_t end)
{
    static unsigned char value[LARGE];
    static unsigned char wanted[LARGE];
    for (uint32_t key = 0; key < end; key++) {
        size_t size = 0;
        fill(wanted, sizeof wanted, key);
        ok(bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size));
        assert_int_equal(size, sizeof wanted);
        assert_memory_equal(value, wanted, size);
    }
}

/* What the process would leave behind if it were killed now. */
static void expect_large_in_a_copy(uint32_t end)
{
    char copy[PATH_SIZE];
    bitkv *live = db;
    inside(copy, directory, "copy");
    copy_tree(path, copy);
    bitkv_options o = options;
    o.strict_recovery = true;
    ok(bitkv_open(&db, copy, &o));
    expect_large(end);
    ok(bitkv_close(db));
    db = live;
    remove_tree(copy);
}

/* The worker has made the spare segment and not yet shown it, when writers fill the
 * tail, and make their next segments themselves: with larger ids than the spare's,
 * which comes after them in the log. */
static void a_spare_that_comes_late_is_used_later(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        options.io_mode = mode;
        options.strict_recovery = false;
        db = open_with(&options);
        schedule_hold("spare.made");
        put_large(0, 5); /* more than half of a segment: the worker comes */
        assert_true(schedule_await());
        put_large(5, 18);
        expect_large_in_a_copy(18);
        schedule_release();
        put_large(18, 40);
        expect_large_in_a_copy(40);
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        expect_large(40);
        reopen();
        expect_large(40);
        ok(bitkv_close(db));
        db = NULL;
    }
}

/* The worker is in the middle of finishing a full segment, its file not yet trimmed,
 * its hint not written: writers go on, read what is in it, and a kill loses nothing. */
static void writers_go_on_while_a_segment_is_finished(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        options.io_mode = mode;
        options.strict_recovery = false;
        db = open_with(&options);
        schedule_hold("seal.synced");
        put_large(0, 8);
        assert_true(schedule_await());
        put_large(8, 30);
        expect_large(30);
        expect_large_in_a_copy(30);
        schedule_release();
        reopen();
        expect_large(30);
        ok(bitkv_close(db));
        db = NULL;
    }
}

/* The worker faults in what the KeyDir will need next, and the KeyDir takes it before. */
static void memory_may_be_taken_while_it_is_prepared(void **state)
{
    (void)state;
    enum { KEYS = 300000 };
    options.max_file_size = 64 << 20;
    db = open_with(&options);
    schedule_hold("arena.counting");
    for (uint32_t key = 0; key < KEYS; key++)
        ok(bitkv_put(db, &key, sizeof key, NULL, 0));
    schedule_release();
    for (uint32_t key = 0; key < KEYS; key++)
        ok(bitkv_exists(db, &key, sizeof key));
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.keys, KEYS);
}

/* --- copies of the KeyDir ---------------------------------------------------------------- */

static _Atomic bool scarce;
static int compacted;

static bool unless_scarce(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&scarce);
}

/* Nor are there pages that the KeyDir has in store. */
static void be_scarce(void)
{
    bkv_alloc_set_hook(unless_scarce, NULL);
    atomic_store(&scarce, true);
    struct arena *arena = &db->partitions[0]->keydir->arena;
    bkv_lock(&db->partitions[0]->lock);
    while (bkv_arena_page(arena) != NULL)
        ;
    bkv_unlock(&db->partitions[0]->lock);
}

static void end_scarcity(void)
{
    atomic_store(&scarce, false);
    bkv_alloc_set_hook(NULL, NULL);
}

static void *compact_in_thread(void *unused)
{
    (void)unused;
    compacted = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    return NULL;
}

/* All keys have moved, and a put comes that a snapshot's part of the KeyDir has to be
 * copied for, without memory: the run ends when there is some. */
static void a_run_whose_keys_have_moved_ends_when_memory_is_there(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    options.strict_recovery = false;
    db = open_with(&options);
    for (uint32_t key = 0; key < KEYS; key++)
        ok(put_number(key, 1, BITKV_DURABILITY_NONE));
    for (uint32_t n = 2; n < 1000; n++)
        ok(put_number(HOT, n, BITKV_DURABILITY_NONE));
    bitkv_snapshot *held;
    ok(bitkv_snapshot_create(&held, db));
    pthread_t thread;
    schedule_hold("compact.moved_some");
    assert_int_equal(pthread_create(&thread, NULL, compact_in_thread, NULL), 0);
    assert_true(schedule_await());
    be_scarce();
    unsigned put = 0;
    while (put < 3 && put_number(15000 + put, 2, BITKV_DURABILITY_NONE) == BITKV_OK)
        put++;
    schedule_release();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(compacted == BITKV_OK || compacted == BITKV_ERR_NO_MEMORY);
    end_scarcity();
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    for (uint32_t key = 0; key < KEYS; key++)
        expect_number(key, key == HOT ? 999 : key >= 15000 && key < 15000 + put ? 2 : 1);
    ok(bitkv_snapshot_destroy(held));
    reopen();
    for (uint32_t key = 0; key < KEYS; key++)
        expect_number(key, key == HOT ? 999 : key >= 15000 && key < 15000 + put ? 2 : 1);
}

static int taken;
static bitkv_snapshot *second;

static void *snapshot_in_thread(void *unused)
{
    (void)unused;
    taken = bitkv_snapshot_create(&second, db);
    return NULL;
}

/* It has its memory when a put comes that needs some for the first snapshot. */
static void a_second_snapshot_may_find_no_memory_for_the_first(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    db = open_with(&options);
    for (uint32_t key = 0; key < KEYS; key++)
        ok(put_number(key, 1, BITKV_DURABILITY_NONE));
    bitkv_snapshot *first;
    ok(bitkv_snapshot_create(&first, db));
    pthread_t thread;
    schedule_hold("snapshot.reserved");
    assert_int_equal(pthread_create(&thread, NULL, snapshot_in_thread, NULL), 0);
    assert_true(schedule_await());
    be_scarce();
    ok(put_number(HOT, 2, BITKV_DURABILITY_NONE));
    schedule_release();
    assert_int_equal(pthread_join(thread, NULL), 0);
    end_scarcity();
    fails(BITKV_ERR_NO_MEMORY, taken);
    expect_number(HOT, 2);
    ok(bitkv_snapshot_create(&second, db));
    ok(bitkv_snapshot_destroy(first));
    ok(bitkv_snapshot_destroy(second));
}

static void *close_in_thread(void *argument)
{
    (void)argument;
    close_it();
    return NULL;
}

/* Closing comes while the worker is at it: it waits, and the next opening finds no
 * leftover. */
static void closing_waits_for_the_worker(void **state)
{
    (void)state;
    static const char *const points[] = {"spare.made", "seal.synced"};
    for (unsigned i = 0; i < 2; i++) {
        pthread_t thread;
        remove_tree(path);
        options.strict_recovery = false;
        db = open_with(&options);
        schedule_hold(points[i]);
        put_large(0, 12);
        assert_true(schedule_await());
        assert_int_equal(pthread_create(&thread, NULL, close_in_thread, NULL), 0);
        sleep_ms(20);
        schedule_release();
        assert_int_equal(pthread_join(thread, NULL), 0);
        ok(close_result);
        options.strict_recovery = true;
        db = open_with(&options);
        assert_int_equal(statistics_of(db).recovery.removed_files, 0);
        expect_large(12);
        ok(bitkv_close(db));
        db = NULL;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCHEDULE_TEST(closing_waits_for_calls_or_refuses_them),
        SCHEDULE_TEST(closing_leaves_shells_of_what_is_open),
        SCHEDULE_TEST(closing_ends_long_calls),
        SCHEDULE_TEST(closing_waits_for_a_refresh),
        SCHEDULE_TEST(a_put_is_acknowledged_after_a_sync_of_its_own),
        SCHEDULE_TEST(a_spare_that_comes_late_is_used_later),
        SCHEDULE_TEST(writers_go_on_while_a_segment_is_finished),
        SCHEDULE_TEST(memory_may_be_taken_while_it_is_prepared),
        SCHEDULE_TEST(a_run_whose_keys_have_moved_ends_when_memory_is_there),
        SCHEDULE_TEST(a_second_snapshot_may_find_no_memory_for_the_first),
        SCHEDULE_TEST(closing_waits_for_the_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
