/* SPDX-License-Identifier: MIT */
/*
 * Read-only openers beside a writer: another process, which the followers share
 * nothing with but the directory, and a table in shared memory that says which
 * version of each key has been begun and which has been acknowledged.
 *
 * A key's versions count up; each seventh is a delete. So what a follower finds
 * after a refresh must be a version between the one that was acknowledged before
 * and the one that is begun now, and none may go back.
 */
#include "api/fixture.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define KEYS    600u
#define GROUPS  8u
#define MEMBERS 6u
#define VALUE   700u

struct shared {
    _Atomic uint64_t begun[KEYS], acked[KEYS];
    _Atomic uint64_t group_begun[GROUPS], group_acked[GROUPS];
    _Atomic uint64_t operations, openings;
    _Atomic bool stop, pause, paused;
    _Atomic uint64_t keys, live_bytes; /* when paused */
    uint64_t seed;
    bitkv_io_mode mode;
    bool compact, reopen;
};

static struct shared *shared;
static uint64_t seen[KEYS];
static uint64_t group_seen[GROUPS];

static int make_shared(void **state)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    shared->compact = shared->reopen = true;
    shared->seed = env_number("BITKV_SEED", 1);
    memset(seen, 0, sizeof seen);
    memset(group_seen, 0, sizeof group_seen);
    return make_directory(state);
}

static int drop_shared(void **state)
{
    (void)munmap(shared, sizeof *shared);
    return remove_directory(state);
}

#define FOLLOW(name) cmocka_unit_test_setup_teardown(name, make_shared, drop_shared)

/* --- the writer ------------------------------------------------------------------- */

struct item {
    uint32_t key;
    uint32_t group;
    uint64_t version;
};

static bool deletes(uint64_t version)
{
    return version % 7 == 0;
}

static size_t value_of(uint8_t value[VALUE], uint32_t key, uint32_t group, uint64_t version)
{
    struct item item = {.key = key, .group = group, .version = version};
    size_t size = sizeof item + mix(key * 31 + version) % (VALUE - sizeof item);
    fill(value, size, version * 100003 + key);
    memcpy(value, &item, sizeof item);
    return size;
}

static bitkv_options writer_options(void)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 3;
    o.max_file_size = 64 << 10;
    o.io_mode = shared->mode;
    o.sync_interval_ms = 50;
    o.auto_compact = shared->compact;
    return o;
}

#define must(call)                                                                                 \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        if (rc_ != BITKV_OK && rc_ != BITKV_NOT_FOUND) {                                           \
            print_error("writer: %s: %d %s\n", #call, rc_, bitkv_error_context());                 \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void write_key(bitkv *db, uint32_t key)
{
    uint8_t value[VALUE];
    uint64_t version = atomic_load(&shared->begun[key]) + 1;
    atomic_store(&shared->begun[key], version);
    if (deletes(version))
        must(bitkv_del(db, &key, sizeof key));
    else
        must(bitkv_put(db, &key, sizeof key, value, value_of(value, key, 0, version)));
    atomic_store(&shared->acked[key], version);
}

static void write_group(bitkv *db, uint32_t group)
{
    uint8_t value[VALUE];
    bitkv_batch *batch;
    uint64_t version = atomic_load(&shared->group_begun[group]) + 1;
    atomic_store(&shared->group_begun[group], version);
    must(bitkv_batch_create(&batch));
    for (uint32_t m = 0; m < MEMBERS; m++) {
        uint32_t key = 1000000 + group * MEMBERS + m;
        must(bitkv_batch_put(batch, &key, sizeof key, value, value_of(value, key, group, version)));
    }
    must(bitkv_write(db, batch, BITKV_DURABILITY_DEFAULT));
    bitkv_batch_destroy(batch);
    atomic_store(&shared->group_acked[group], version);
}

static void rest_if_asked(bitkv *db)
{
    if (!atomic_load(&shared->pause))
        return;
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    atomic_store(&shared->keys, s.keys);
    atomic_store(&shared->live_bytes, s.live_bytes);
    atomic_store(&shared->paused, true);
    while (atomic_load(&shared->pause) && !atomic_load(&shared->stop))
        sleep_ms(1);
    atomic_store(&shared->paused, false);
}

static void writer(void)
{
    bitkv_options o = writer_options();
    struct chance c = {shared->seed + 1000 * atomic_load(&shared->openings)};
    while (!atomic_load(&shared->stop)) {
        bitkv *db;
        atomic_fetch_add(&shared->openings, 1);
        must(bitkv_open(&db, path, &o));
        uint64_t operations = shared->reopen ? 2000 + below(&c, 8000) : UINT64_MAX;
        for (uint64_t i = 0; i < operations && !atomic_load(&shared->stop); i++) {
            if (one_in(&c, 20))
                write_group(db, (uint32_t)below(&c, GROUPS));
            else
                write_key(db, (uint32_t)below(&c, KEYS));
            if (shared->compact && one_in(&c, 400))
                must(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
            rest_if_asked(db);
            atomic_fetch_add(&shared->operations, 1);
        }
        must(bitkv_close(db));
    }
    _exit(0);
}

static pid_t start_writer(void)
{
    uint64_t before = atomic_load(&shared->operations);
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        writer();
    while (atomic_load(&shared->operations) == before)
        sleep_ms(1);
    return child;
}

static void stop_writer(pid_t child)
{
    atomic_store(&shared->stop, true);
    assert_int_equal(wait_child(child), 0);
    atomic_store(&shared->stop, false);
}

/* --- the follower ----------------------------------------------------------------- */

static bitkv *follow(bitkv_io_mode mode, uint32_t open_segments)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.read_only = true;
    o.io_mode = mode;
    o.max_open_segments = open_segments;
    return open_with(&o);
}

/* Version that is there; 0: none is. */
static uint64_t version_of(bitkv *db, uint32_t key, uint32_t group)
{
    uint8_t got[VALUE];
    uint8_t wanted[VALUE];
    size_t size = 0;
    int rc = bitkv_get_into(db, &key, sizeof key, got, sizeof got, &size);
    if (rc == BITKV_NOT_FOUND)
        return 0;
    ok(rc);
    struct item item;
    assert_true(size >= sizeof item);
    memcpy(&item, got, sizeof item);
    assert_int_equal(item.key, key);
    assert_int_equal(size, value_of(wanted, key, group, item.version));
    assert_memory_equal(got, wanted, size);
    return item.version;
}

struct bounds {
    uint64_t acked[KEYS];
    uint64_t group_acked[GROUPS];
};

static void note_bounds(struct bounds *bounds)
{
    for (uint32_t k = 0; k < KEYS; k++)
        bounds->acked[k] = atomic_load(&shared->acked[k]);
    for (uint32_t g = 0; g < GROUPS; g++)
        bounds->group_acked[g] = atomic_load(&shared->group_acked[g]);
}

static void check_key(bitkv *db, const struct bounds *bounds, uint32_t k)
{
    uint64_t version = version_of(db, k, 0);
    uint64_t from = bounds->acked[k] > seen[k] ? bounds->acked[k] : seen[k];
    uint64_t to = atomic_load(&shared->begun[k]);
    if (version != 0) {
        assert_false(deletes(version));
        assert_in_range(version, from, to);
        seen[k] = version;
        return;
    }
    uint64_t first = (from + 6) / 7 * 7; /* the delete that may explain it */
    if (first > to) {
        print_error("key %u is not there: versions %llu to %llu\n", k, (unsigned long long)from,
                    (unsigned long long)to);
        fail();
    }
    seen[k] = first;
}

static bool group_is_even(bitkv *db, uint32_t g, uint64_t *version)
{
    bool even = true;
    for (uint32_t m = 0; m < MEMBERS; m++) {
        uint64_t one = version_of(db, 1000000 + g * MEMBERS + m, g);
        even = even && (m == 0 || one == *version);
        *version = one;
    }
    return even;
}

static void check_group(bitkv *db, const struct bounds *bounds, uint32_t g, unsigned tries)
{
    uint64_t version = 0;
    bool even = false;
    for (unsigned i = 0; i < tries && !even; i++)
        even = group_is_even(db, g, &version);
    assert_true(even);
    assert_in_range(version,
                    bounds->group_acked[g] > group_seen[g] ? bounds->group_acked[g] : group_seen[g],
                    atomic_load(&shared->group_begun[g]));
    group_seen[g] = version;
}

/* A get may refresh by itself, in the midst of a group. */
static void check_all(bitkv *db, const struct bounds *bounds, unsigned tries)
{
    for (uint32_t g = 0; g < GROUPS; g++)
        check_group(db, bounds, g, tries);
    for (uint32_t k = 0; k < KEYS; k++)
        check_key(db, bounds, k);
    for (uint32_t g = 0; g < GROUPS; g++)
        check_group(db, bounds, g, tries);
}

static int count_record(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(uint64_t *)user;
    return 0;
}

/* The writer stands still: everything has to be the same. */
static void compare(bitkv *db)
{
    struct bounds bounds;
    uint64_t count = 0;
    atomic_store(&shared->pause, true);
    while (!atomic_load(&shared->paused))
        sleep_ms(1);
    note_bounds(&bounds);
    ok(bitkv_refresh(db));
    check_all(db, &bounds, 1);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.keys, atomic_load(&shared->keys));
    assert_int_equal(s.live_bytes, atomic_load(&shared->live_bytes));
    ok(bitkv_scan(db, BITKV_SCAN_ALL, count_record, &count));
    assert_int_equal(count, s.keys);
    assert_int_equal(s.errors_total, 0);
    atomic_store(&shared->pause, false);
}

static void follow_for(bitkv *db, uint64_t ms, unsigned tries)
{
    static struct bounds bounds;
    uint64_t end = now_ms() + ms;
    unsigned rounds = 0;
    while (now_ms() < end) {
        note_bounds(&bounds);
        ok(bitkv_refresh(db));
        check_all(db, &bounds, tries);
        rounds++;
    }
    assert_true(rounds > 0);
}

static uint64_t duration(void)
{
    return env_number("BITKV_MS", 1500);
}

/* --- tests -------------------------------------------------------------------------- */

static void what_was_acknowledged_is_seen_after_a_refresh(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        shared->mode = mode;
        bitkv_options o = writer_options();
        bitkv *db = open_with(&o);
        put_text(db, "a", "1");
        put_text(db, "b", "1");
        bitkv *follower = follow(mode, 0);
        expect_text(follower, "a", "1");
        put_text(db, "a", "2");
        put_text(db, "c", "1");
        ok(bitkv_del(db, "b", 1));
        expect_text(follower, "a", "1"); /* as it was */
        expect_text(follower, "b", "1");
        ok(bitkv_refresh(follower));
        expect_text(follower, "a", "2");
        expect_text(follower, "c", "1");
        fails(BITKV_NOT_FOUND, bitkv_exists(follower, "b", 1));
        fails(BITKV_ERR_READ_ONLY, bitkv_put(follower, "a", 1, "3", 1));
        ok(bitkv_refresh(db)); /* of the writer: nothing to do */
        ok(bitkv_close(db));
        ok(bitkv_refresh(follower));
        expect_text(follower, "a", "2");
        db = open_with(&o);
        put_text(db, "a", "3");
        ok(bitkv_refresh(follower));
        expect_text(follower, "a", "3");
        ok(bitkv_close(follower));
        ok(bitkv_close(db));
    }
}

static void an_empty_database_can_be_followed(void **state)
{
    (void)state;
    bitkv_options o = writer_options();
    bitkv *db = open_with(&o);
    bitkv *follower = follow(BITKV_IO_MMAP, 0);
    ok(bitkv_refresh(follower));
    fails(BITKV_NOT_FOUND, bitkv_exists(follower, "a", 1));
    put_text(db, "a", "1");
    ok(bitkv_refresh(follower));
    expect_text(follower, "a", "1");
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

/* Space is reserved in steps: a mapping of before one is too short after it. */
static void a_segment_grows_beyond_its_mapping(void **state)
{
    (void)state;
    static uint8_t value[100000];
    static uint8_t got[100000];
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.max_file_size = 64 << 20;
    bitkv *db = open_with(&o);
    put_text(db, "a", "1");
    bitkv *follower = follow(BITKV_IO_MMAP, 0);
    expect_text(follower, "a", "1");
    for (uint32_t i = 0; i < 60; i++) {
        size_t size;
        fill(value, sizeof value, i);
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
        ok(bitkv_refresh(follower));
        ok(bitkv_get_into(follower, &i, sizeof i, got, sizeof got, &size));
        assert_memory_equal(got, value, size);
        expect_text(follower, "a", "1");
    }
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

/* Compaction drops what has expired, and says so nowhere. */
/* Its writer unlinks every file that it points into. */
static void a_followers_snapshot_shows_its_moment(void **state)
{
    (void)state;
    char value[300];
    memset(value, 'o', sizeof value);
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.auto_compact = false;
    bitkv *db = open_with(&o);
    for (uint32_t key = 0; key < 1000; key++)
        ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
    bitkv_options read_only = o;
    read_only.read_only = true;
    read_only.max_open_segments = 1;
    bitkv *follower = open_with(&read_only);
    bitkv_snapshot *snapshot;
    ok(bitkv_snapshot_create(&snapshot, follower));
    memset(value, 'n', sizeof value);
    for (uint32_t key = 0; key < 1000; key++)
        ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
    ok(bitkv_compact(db, 0, NULL, NULL));
    ok(bitkv_refresh(follower));
    for (uint32_t key = 0; key < 1000; key++) {
        char got[300];
        size_t size;
        ok(bitkv_snapshot_get_into(snapshot, &key, sizeof key, got, sizeof got, &size));
        assert_int_equal(got[0], 'o');
        ok(bitkv_get_into(follower, &key, sizeof key, got, sizeof got, &size));
        assert_int_equal(got[0], 'n');
    }
    ok(bitkv_snapshot_destroy(snapshot));
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

static void what_compaction_has_dropped_is_dropped(void **state)
{
    (void)state;
    uint8_t value[VALUE] = {0};
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.auto_compact = false;
    o.default_ttl_ms = 300;
    bitkv *db = open_with(&o);
    for (uint32_t i = 0; i < 500; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    bitkv *follower = follow(BITKV_IO_MMAP, 0);
    assert_int_equal(statistics_of(follower).keys, 500);
    sleep_ms(350);
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_true(statistics_of(db).keys < 400);
    ok(bitkv_refresh(follower));
    assert_int_equal(statistics_of(follower).keys, statistics_of(db).keys);
    assert_int_equal(statistics_of(follower).live_bytes, statistics_of(db).live_bytes);
    assert_int_equal(statistics_of(follower).segments, statistics_of(db).segments);
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

static void follows_a_writer(bitkv_io_mode mode, uint32_t open_segments, unsigned tries)
{
    shared->mode = mode;
    pid_t child = start_writer();
    bitkv *db = follow(mode, open_segments);
    for (int i = 0; i < 4; i++) {
        follow_for(db, duration() / 4, tries);
        compare(db);
    }
    assert_int_equal(statistics_of(db).recovery.damaged_regions, 0);
    assert_int_equal(statistics_of(db).recovery.torn_tails, 0);
    ok(bitkv_close(db));
    stop_writer(child);
}

static void a_mapped_log_is_followed(void **state)
{
    (void)state;
    shared->compact = false;
    follows_a_writer(BITKV_IO_MMAP, 0, 1);
}

static void a_written_log_is_followed(void **state)
{
    (void)state;
    shared->compact = false;
    follows_a_writer(BITKV_IO_PWRITE, 0, 1);
}

static void compaction_is_followed(void **state)
{
    (void)state;
    follows_a_writer(BITKV_IO_MMAP, 0, 20);
}

static void files_that_are_gone_are_looked_for_elsewhere(void **state)
{
    (void)state;
    shared->reopen = false;
    follows_a_writer(BITKV_IO_PWRITE, 1, 20);
}

static void openings_meet_a_writer_in_any_state(void **state)
{
    (void)state;
    pid_t child = start_writer();
    uint64_t end = now_ms() + duration();
    static struct bounds bounds;
    while (now_ms() < end) {
        note_bounds(&bounds);
        bitkv *db = follow(BITKV_IO_AUTO, 0);
        check_all(db, &bounds, 20);
        bitkv_recovery r = statistics_of(db).recovery;
        assert_int_equal(r.damaged_regions, 0);
        /* On a loaded machine the writer may stand still in the midst of a record. */
        for (uint64_t until = now_ms() + 20000; r.torn_tails > 0 && now_ms() < until;) {
            ok(bitkv_refresh(db));
            r = statistics_of(db).recovery;
        }
        assert_int_equal(r.torn_tails, 0);
        assert_int_equal(r.rejected_hints, 0);
        assert_int_equal(r.rejected_checkpoints, 0);
        ok(bitkv_close(db));
    }
    stop_writer(child);
}

static void a_killed_writer_and_the_next_are_followed(void **state)
{
    (void)state;
    if (UNDER_TSAN) /* which cannot fork beside threads that have ended */
        skip();
    pid_t child = start_writer();
    bitkv *db = follow(BITKV_IO_AUTO, 0);
    uint64_t end = now_ms() + duration();
    while (now_ms() < end) {
        follow_for(db, 30 + mix(now_ms()) % 60, 20);
        (void)kill(child, SIGKILL);
        assert_int_equal(wait_child(child), 1000 + SIGKILL);
        follow_for(db, 1, 1);
        shared->seed++;
        child = start_writer();
        compare(db);
    }
    ok(bitkv_close(db));
    stop_writer(child);
}

static void nothing_in_the_directory_is_changed(void **state)
{
    (void)state;
    static struct bounds bounds;
    pid_t child = start_writer();
    sleep_ms(100);
    (void)kill(child, SIGKILL);
    assert_int_equal(wait_child(child), 1000 + SIGKILL);
    uint64_t before = fingerprint(path);
    bitkv *db = follow(BITKV_IO_AUTO, 1);
    note_bounds(&bounds);
    ok(bitkv_refresh(db));
    check_all(db, &bounds, 1);
    assert_int_equal(fingerprint(path), before);
    ok(bitkv_close(db));
    assert_int_equal(fingerprint(path), before);
}

/* --- what cannot be followed ------------------------------------------------------------- */

static void another_directory_is_not_followed(void **state)
{
    (void)state;
    char aside[PATH_SIZE];
    inside(aside, directory, "aside");
    bitkv_options o = writer_options();
    bitkv *db = open_with(&o);
    put_text(db, "a", "1");
    ok(bitkv_close(db));
    bitkv *follower = follow(BITKV_IO_AUTO, 0);
    assert_int_equal(rename(path, aside), 0);
    fails(BITKV_ERR_STALE, bitkv_refresh(follower));
    copy_tree(aside, path);
    fails(BITKV_ERR_STALE, bitkv_refresh(follower));
    expect_text(follower, "a", "1");
    remove_tree(path);
    assert_int_equal(rename(aside, path), 0);
    ok(bitkv_refresh(follower));
    expect_text(follower, "a", "1");
    ok(bitkv_close(follower));
}

/* What is not held open cannot be served on, but that is no fault of the disk. */
static void reads_of_a_database_that_was_removed_say_so(void **state)
{
    (void)state;
    char aside[PATH_SIZE];
    inside(aside, directory, "aside");
    bitkv *db = open_small(BITKV_IO_PWRITE);
    uint8_t value[VALUE] = {0};
    for (uint32_t i = 0; i < 300; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    ok(bitkv_close(db));
    bitkv *follower = follow(BITKV_IO_PWRITE, 1);
    remove_tree(path);
    unsigned stale = 0;
    for (uint32_t i = 0; i < 300; i++) {
        size_t size;
        int rc = bitkv_get_into(follower, &i, sizeof i, value, sizeof value, &size);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_STALE);
        stale += rc == BITKV_ERR_STALE;
    }
    assert_true(stale > 0);
    ok(bitkv_close(follower));
}

static void a_followers_feed_waits_for_the_writer(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    put_text(db, "a", "1");
    bitkv *follower = follow(BITKV_IO_AUTO, 0);
    bitkv_feed *feed;
    bitkv_change change;
    ok(bitkv_feed_open(&feed, follower, NULL, BITKV_FEED_END));
    fails(BITKV_NOT_FOUND, bitkv_feed_wait(feed, 50));
    put_text(db, "b", "2");
    ok(bitkv_feed_wait(feed, 5000));
    ok(bitkv_feed_next(feed, &change));
    assert_memory_equal(change.key, "b", 1);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

static void a_log_that_was_cut_is_not_followed(void **state)
{
    (void)state;
    char name[PATH_SIZE];
    bitkv *db = open_small(BITKV_IO_PWRITE);
    put_text(db, "a", "1");
    bitkv *follower = follow(BITKV_IO_PWRITE, 0);
    put_text(db, "a", "2");
    ok(bitkv_refresh(follower));
    assert_int_equal(truncate(inside(name, path, "partition_0/data_1.db"), 64 + 32), 0);
    fails(BITKV_ERR_STALE, bitkv_refresh(follower));
    context_has("data_1.db");
    ok(bitkv_close(follower));
    (void)bitkv_close(db);
    follower = follow(BITKV_IO_PWRITE, 0); /* a new opening takes what there is */
    ok(bitkv_close(follower));
}

static void a_lost_file_is_an_error_and_no_miss(void **state)
{
    (void)state;
    char name[PATH_SIZE];
    bitkv *db = open_small(BITKV_IO_PWRITE);
    uint8_t value[VALUE] = {0};
    for (uint32_t i = 0; i < 300; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    ok(bitkv_close(db));
    bitkv *follower = follow(BITKV_IO_PWRITE, 1);
    assert_int_equal(unlink(inside(name, path, "partition_0/data_1.db")), 0);
    uint32_t key = 299;
    (void)bitkv_exists(follower, &key, sizeof key);
    key = 0;
    size_t size;
    int rc = bitkv_get_into(follower, &key, sizeof key, value, sizeof value, &size);
    assert_int_equal(rc, BITKV_ERR_IO);
    fails(BITKV_ERR_STALE, bitkv_refresh(follower));
    ok(bitkv_close(follower));
}

/* --- threads ----------------------------------------------------------------------------- */

struct getter {
    bitkv *db;
    _Atomic bool *stop;
    uint64_t seed;
    _Atomic uint64_t wrong;
};

static void *get_on(void *user)
{
    struct getter *g = user;
    struct chance c = {g->seed};
    uint64_t last[KEYS] = {0};
    uint8_t got[VALUE];
    while (!atomic_load(g->stop)) {
        uint32_t key = (uint32_t)below(&c, KEYS);
        size_t size = 0;
        struct item item = {0};
        int rc = bitkv_get_into(g->db, &key, sizeof key, got, sizeof got, &size);
        memcpy(&item, got, sizeof item);
        if (rc == BITKV_NOT_FOUND)
            continue;
        if (rc != BITKV_OK) {
            print_error("getter: %s\n", bitkv_error_context());
            atomic_fetch_add(&g->wrong, 1);
        } else if (item.key != key || item.version < last[key]) {
            atomic_fetch_add(&g->wrong, 1);
        } else {
            last[key] = item.version;
        }
    }
    return NULL;
}

static void getters_run_beside_refreshes(void **state)
{
    (void)state;
    _Atomic bool stop = false;
    struct getter getters[2];
    pthread_t threads[2];
    pid_t child = start_writer();
    bitkv *db = follow(BITKV_IO_AUTO, 2);
    for (int i = 0; i < 2; i++) {
        getters[i] = (struct getter){.db = db, .stop = &stop, .seed = (uint64_t)i * 77};
        assert_int_equal(pthread_create(&threads[i], NULL, get_on, &getters[i]), 0);
    }
    uint64_t end = now_ms() + duration();
    uint64_t count = 0;
    while (now_ms() < end) {
        ok(bitkv_refresh(db));
        ok(bitkv_scan(db, BITKV_SCAN_KEYS, count_record, &count));
        (void)statistics_of(db);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(getters[i].wrong, 0);
    }
    ok(bitkv_close(db));
    stop_writer(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLLOW(what_was_acknowledged_is_seen_after_a_refresh),
        FOLLOW(an_empty_database_can_be_followed),
        FOLLOW(a_segment_grows_beyond_its_mapping),
        FOLLOW(a_followers_snapshot_shows_its_moment),
        FOLLOW(what_compaction_has_dropped_is_dropped),
        FOLLOW(a_mapped_log_is_followed),
        FOLLOW(a_written_log_is_followed),
        FOLLOW(compaction_is_followed),
        FOLLOW(files_that_are_gone_are_looked_for_elsewhere),
        FOLLOW(openings_meet_a_writer_in_any_state),
        FOLLOW(a_killed_writer_and_the_next_are_followed),
        FOLLOW(nothing_in_the_directory_is_changed),
        FOLLOW(another_directory_is_not_followed),
        FOLLOW(reads_of_a_database_that_was_removed_say_so),
        FOLLOW(a_followers_feed_waits_for_the_writer),
        FOLLOW(a_log_that_was_cut_is_not_followed),
        FOLLOW(a_lost_file_is_an_error_and_no_miss),
        FOLLOW(getters_run_beside_refreshes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
