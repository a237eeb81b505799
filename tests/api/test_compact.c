/* SPDX-License-Identifier: MIT */
/*
 * bitkv_compact(): what it gives back, what it must keep, and what it says when
 * it cannot. Threads are in test_compact_threads.c, when it runs by itself in
 * test_compact_auto.c.
 */
#include "api/compaction.h"

#include "base/epoch.h"

#include <malloc.h>
#include <pthread.h>

/* --- space ---------------------------------------------------------------------------- */

/* What is left of dead bytes: marks of the syncs that the compaction itself has made. */
#define MARKS_MOST 4096u

/* Data files of the database, but for the one that waits to be the next. */
static void expect_files(bitkv *db)
{
    bitkv_statistics s = statistics_of(db);
    assert_in_range(count_files("data_", ".db"), s.segments, s.segments + 1);
    assert_in_range(count_files("hint_", ".ht"), 0, s.segments);
    assert_int_equal(count_files("", ".tmp"), 0);
}

static void space_is_given_back_when_the_call_returns(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        for (uint32_t round = 0; round < 12; round++) {
            for (uint32_t version = 0; version < 8; version++)
                put_all(db, 200, round * 8 + version, 1000);
            bitkv_statistics before = statistics_of(db);
            uint64_t used = disk_use(path);
            compact(db);
            uint64_t left = disk_use(path);
            bitkv_statistics after = statistics_of(db);
            expect_files(db);
            assert_true(after.dead_bytes < MARKS_MOST);
            assert_int_equal(after.live_bytes, before.live_bytes);
            assert_true(after.disk_bytes < after.live_bytes + after.live_bytes / 8 + SEGMENT_BYTES);
            assert_true(used > 5 * after.live_bytes);
            /* one more may be reserved for what comes next; files take whole blocks */
            assert_true(left < after.live_bytes + 2 * SEGMENT_BYTES + after.segments * 8192);
        }
        expect_all(db, 200, 95, 1000);
        ok(bitkv_close(db));
        db = open_by_hand(mode);
        expect_all(db, 200, 95, 1000);
        ok(bitkv_close(db));
    }
}

static void a_database_whose_keys_are_all_deleted_takes_next_to_nothing(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        put_all(db, 500, 1, 3000);
        delete_all(db, 0, 500);
        compact(db);
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.live_bytes, 0);
        assert_true(s.dead_bytes < MARKS_MOST);
        assert_true(s.disk_bytes < 8192);
        assert_int_equal(records_of(db, UINT32_MAX).tombstones, 0);
        compact(db); /* nothing is left to do */
        ok(bitkv_close(db));
        assert_true(disk_use(path) < 64 << 10);
        db = open_by_hand(mode);
        expect_absent(db, 0, 500);
        assert_int_equal(statistics_of(db).recovery.damaged_regions, 0);
        put_all(db, 5, 2, 100);
        compact(db);
        ok(bitkv_close(db));
        db = open_by_hand(mode);
        expect_all(db, 5, 2, 100);
        expect_absent(db, 5, 500);
        ok(bitkv_close(db));
    }
}

static void nothing_is_done_where_nothing_is_to_be_gained(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    compact(db); /* empty */
    put_all(db, 300, 1, 1000);
    compact(db);
    compact(db); /* of the mark that the first one has left */
    uint64_t done = statistics_of(db).compactions_total;
    compact(db);
    compact(db);
    assert_int_equal(statistics_of(db).compactions_total, done);
    ok(bitkv_close(db));
}

static void records_larger_than_a_segment_are_given_back_too(void **state)
{
    (void)state;
    static const size_t sizes[] = {70000, 200000, 300000, 500000}; /* to 8 x a segment */
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        for (uint32_t key = 0; key < 4; key++) {
            put_version(db, key, 1, sizes[key]);
            put_version(db, key, 2, sizes[key]);
            put_version(db, 10 + key, 1, sizes[key]);
        }
        delete_all(db, 10, 14);
        compact(db);
        bitkv_statistics s = statistics_of(db);
        assert_true(s.dead_bytes < MARKS_MOST);
        assert_true(disk_use(path) < s.live_bytes + 2 * SEGMENT_BYTES + s.segments * 8192);
        for (int reopened = 0; reopened < 2; reopened++) {
            for (uint32_t key = 0; key < 4; key++)
                expect_version(db, key, 2, sizes[key]);
            expect_absent(db, 10, 14);
            ok(bitkv_close(db));
            db = open_by_hand(mode);
        }
        ok(bitkv_close(db));
    }
}

static void segments_of_an_opening_with_larger_ones_are_compacted(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.max_file_size = 4 << 20;
    bitkv *db = open_with(&o);
    for (uint32_t version = 0; version < 4; version++)
        put_all(db, 3000, version, 1000);
    ok(bitkv_close(db));
    db = open_by_hand(BITKV_IO_AUTO);
    compact(db);
    bitkv_statistics s = statistics_of(db);
    assert_true(s.dead_bytes < MARKS_MOST);
    expect_all(db, 3000, 3, 1000);
    ok(bitkv_close(db));
    db = open_by_hand(BITKV_IO_AUTO);
    expect_all(db, 3000, 3, 1000);
    ok(bitkv_close(db));
}

/* --- tombstones ------------------------------------------------------------------------- */

/* One run, of just these neighbours in the log. */
static void run_of(bitkv *db, unsigned first, unsigned count)
{
    struct bkv_partition *p = db->partitions[0];
    struct bkv_run run = {.before = NULL};
    struct bkv_pace pace = {.thorough = true};
    (void)pthread_mutex_lock(&p->compact_mutex);
    struct bkv_segment *s = atomic_load(&p->first);
    for (unsigned i = 0; i < first; i++) {
        run.before = s;
        s = atomic_load(&s->next);
    }
    for (; run.count < count; s = atomic_load(&s->next)) {
        assert_int_equal(atomic_load(&s->phase), BKV_PHASE_FINISHED);
        run.segments[run.count++] = s;
        run.input_bytes += atomic_load(&s->size);
    }
    ok(bkv_compact_run(p, &run, &pace));
    (void)pthread_mutex_unlock(&p->compact_mutex);
}

/* What is written now goes to a segment of its own. */
static void next_segment(bitkv *db)
{
    struct bkv_partition *p = db->partitions[0];
    bkv_lock(&p->lock);
    bkv_tail_seal(p);
    bkv_unlock(&p->lock);
    for (bool any = true; any; sleep_ms(1)) {
        bkv_worker_wake(p);
        bkv_lock(&p->lock);
        any = p->sealed_first != NULL;
        bkv_unlock(&p->lock);
    }
}

static void a_tombstone_stays_as_long_as_an_older_file_has_its_key(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        put_all(db, 10, 1, 100); /* file 0: keys 0 to 9 */
        next_segment(db);
        for (uint32_t key = 10; key < 20; key++)
            put_version(db, key, 1, 100); /* file 1: 10 to 19 */
        delete_all(db, 0, 5);
        delete_all(db, 10, 15);
        next_segment(db);
        put_version(db, 100, 1, 10);
        next_segment(db);

        run_of(db, 1, 1); /* older: file 0 with keys 0 to 4 */
        for (uint32_t key = 0; key < 5; key++)
            assert_int_equal(records_of(db, key).tombstones, 1);
        for (uint32_t key = 10; key < 15; key++) {
            assert_int_equal(records_of(db, key).tombstones, 0);
            assert_int_equal(records_of(db, key).puts, 0);
        }
        run_of(db, 1, 1); /* once more: as it was */
        assert_int_equal(records_of(db, UINT32_MAX).tombstones, 5);
        for (int reopened = 0; reopened < 2; reopened++) {
            expect_absent(db, 0, 5);
            expect_absent(db, 10, 15);
            ok(bitkv_close(db));
            remove_files("keydir");
            db = open_by_hand(mode);
        }
        run_of(db, 0, 1); /* the values go; the tombstones are needed no more */
        run_of(db, 1, 1);
        assert_int_equal(records_of(db, UINT32_MAX).tombstones, 0);
        expect_absent(db, 0, 5);
        ok(bitkv_close(db));
        remove_files("keydir");
        db = open_by_hand(mode);
        expect_absent(db, 0, 5);
        expect_absent(db, 10, 15);
        for (uint32_t key = 5; key < 10; key++)
            expect_version(db, key, 1, 100);
        ok(bitkv_close(db));
    }
}

/* An older file that cannot be asked may have anything. */
static void what_an_expired_value_replaced_does_not_come_back(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        uint32_t key = 1;
        put_version(db, key, 1, 100);
        next_segment(db);
        bitkv_put_options briefly;
        bitkv_put_options_init(&briefly);
        briefly.ttl_ms = 1;
        ok(bitkv_put_if(db, &key, sizeof key, "short", 5, &briefly, NULL));
        put_version(db, 2, 1, 100);
        next_segment(db);
        sleep_ms(20);
        run_of(db, 1, 1);
        assert_int_equal(records_of(db, key).tombstones, 1);
        ok(bitkv_close(db));
        remove_files("keydir");
        db = open_by_hand(mode);
        expect_absent(db, key, key + 1);
        expect_version(db, 2, 1, 100);
        ok(bitkv_close(db));
    }
}

static void without_an_older_hint_tombstones_stay(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 10, 1, 100);
    next_segment(db);
    delete_all(db, 0, 5);
    next_segment(db);
    put_version(db, 100, 1, 10);
    remove_files("hint_1.");
    run_of(db, 1, 1);
    assert_int_equal(records_of(db, UINT32_MAX).tombstones, 5);
    ok(bitkv_close(db));
    remove_files("keydir");
    remove_files("hint");
    db = open_by_hand(BITKV_IO_AUTO);
    expect_absent(db, 0, 5);
    ok(bitkv_close(db));
}

/* --- figures ---------------------------------------------------------------------------- */

static uint64_t expected_live(uint32_t keys, size_t size)
{
    return keys * bkv_record_size(sizeof(uint32_t), size);
}

static void live_bytes_are_exact_whatever_an_opening_reads(void **state)
{
    (void)state;
    static const char *const removed[] = {"nothing", "keydir", "hint", "keydir", "nothing"};
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        for (uint32_t version = 0; version < 5; version++)
            put_all(db, 400, version, 500 + version * 100);
        delete_all(db, 300, 400);
        assert_int_equal(statistics_of(db).live_bytes, expected_live(300, 900));
        compact(db);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(statistics_of(db).live_bytes, expected_live(300, 900));
            assert_int_equal(statistics_of(db).keys, 300);
            expect_all(db, 300, 4, 900);
            ok(bitkv_close(db));
            remove_files(removed[i]);
            if (i == 2)
                remove_files("keydir"); /* and no hints: only the log */
            db = open_by_hand(mode);
        }
        put_all(db, 300, 5, 200);
        compact(db);
        assert_int_equal(statistics_of(db).live_bytes, expected_live(300, 200));
        ok(bitkv_close(db));
    }
}

static size_t memory_in_use(void)
{
    return mallinfo2().uordblks;
}

static void thousands_of_compactions_use_nothing_up(void **state)
{
    (void)state;
    uint64_t rounds = env_number("BITKV_ROUNDS", UNDER_ASAN || UNDER_TSAN ? 200 : 1500);
    size_t memory = 0;
    unsigned descriptors = 0;
    quick_syncs(true);
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint64_t round = 0; round < rounds; round++) {
        put_all(db, 20, (uint32_t)round, 4000);
        compact(db);
        if (round == rounds / 4) {
            memory = memory_in_use();
            descriptors = count_descriptors();
        }
    }
    struct bkv_partition *p = db->partitions[0];
    assert_true(atomic_load(&p->next_number) < 64);
    assert_true(p->free_count < 64);
    assert_in_range(count_descriptors(), 0, descriptors + 3);
    if (!UNDER_ASAN && !UNDER_TSAN)
        assert_true(memory_in_use() < memory + (256u << 10));
    expect_all(db, 20, (uint32_t)rounds - 1, 4000);
    ok(bitkv_close(db));
    quick_syncs(false);
}

/* --- damage -------------------------------------------------------------------------------- */

/* False if the first partition has no such key. */
static bool live_location(bitkv *db, uint32_t key, char name[PATH_SIZE], uint64_t *offset)
{
    struct bkv_partition *p = db->partitions[0];
    struct bkv_hash hash = bkv_hash(&db->hash_key, &key, sizeof key);
    uint64_t location;
    bkv_lock(&p->lock);
    ok(bkv_settle(p));
    bool found = bkv_keydir_find(p->keydir, &hash, &location);
    bkv_unlock(&p->lock);
    if (!found)
        return false;
    char file[BKV_NAME_SIZE];
    bkv_name_data(file, 0, bkv_table_get(&p->table, bkv_location_segment(location))->id);
    inside(name, path, file);
    *offset = bkv_location_offset(location);
    return true;
}

static void a_damaged_live_record_keeps_its_file_and_no_other(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        char name[PATH_SIZE];
        uint64_t offset;
        bitkv *db = open_by_hand(mode);
        put_all(db, 300, 1, 1000);
        for (uint32_t key = 0; key < 300; key++) {
            if (key % 10 != 0)
                put_version(db, key, 2, 1000);
        }
        ok(bitkv_close(db)); /* its bytes are changed behind the back of a new opening */
        db = open_by_hand(mode);
        put_version(db, 1000, 1, 10);
        assert_true(live_location(db, 150, name, &offset));
        flip_byte(name, offset + 200);
        uint64_t dead = statistics_of(db).dead_bytes;
        fails(BITKV_ERR_CORRUPT, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        context_has("does not verify");
        assert_true(statistics_of(db).dead_bytes < dead / 3);
        for (unsigned again = 0; again < 2; again++) {
            uint32_t key = 150;
            void *value;
            fails(BITKV_ERR_CORRUPT, bitkv_get(db, &key, sizeof key, &value, NULL));
            for (key = 0; key < 300; key++) {
                if (key != 150)
                    expect_version(db, key, key % 10 == 0 ? 1 : 2, 1000);
            }
            compact(db); /* the file is known: left out without a word */
        }
        assert_int_equal(access(name, F_OK), 0);
        ok(bitkv_close(db));
        db = open_by_hand(mode);
        for (uint32_t key = 0; key < 300; key++) {
            if (key != 150)
                expect_version(db, key, key % 10 == 0 ? 1 : 2, 1000);
        }
        ok(bitkv_close(db));
    }
}

static void damage_in_one_partition_does_not_keep_the_others(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.partitions = 4;
    bitkv *db = open_with(&o);
    for (uint32_t version = 0; version < 4; version++)
        put_all(db, 400, version, 1000);
    ok(bitkv_close(db));
    db = open_with(&o);
    uint32_t key = 0;
    char name[PATH_SIZE];
    uint64_t offset;
    while (!live_location(db, key, name, &offset)) /* of the first one's */
        key++;
    flip_byte(name, offset + 200);
    fails(BITKV_ERR_CORRUPT, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    context_has("does not verify");
    for (uint32_t i = 1; i < 4; i++) {
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        ok(bitkv_stats(db, i, &s));
        assert_true(s.dead_bytes < MARKS_MOST);
    }
    ok(bitkv_close(db));
}

static void expect_hint_trouble_costs_nothing(bitkv_io_mode mode, bool missing)
{
    bitkv *db = open_by_hand(mode);
    for (uint32_t version = 0; version < 3; version++)
        put_all(db, 300, version, 1000);
    ok(bitkv_close(db));
    db = open_by_hand(mode);
    char name[PATH_SIZE], hint[32];
    unsigned id = 3; /* a number may be passed over, by a worker that comes late */
    do
        (void)snprintf(hint, sizeof hint, "hint_%u.ht", id++);
    while (access(in_partition(name, hint), F_OK) != 0 && id < 20);
    if (missing)
        assert_int_equal(unlink(name), 0);
    else
        flip_byte(name, 200);
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    assert_true(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT);
    assert_true(rc == BITKV_OK || bitkv_error_context()[0] != '\0');
    expect_all(db, 300, 2, 1000);
    assert_true(statistics_of(db).dead_bytes < 2 * SEGMENT_BYTES);
    ok(bitkv_close(db));
    remove_files("keydir");
    db = open_by_hand(mode);
    expect_all(db, 300, 2, 1000);
    compact(db);
    assert_true(statistics_of(db).dead_bytes < MARKS_MOST);
    expect_all(db, 300, 2, 1000);
    ok(bitkv_close(db));
}

static void a_missing_or_damaged_hint_costs_nothing_but_time(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        expect_hint_trouble_costs_nothing(mode, true);
        remove_tree(path);
        expect_hint_trouble_costs_nothing(mode, false);
    }
}

/* --- the call itself ------------------------------------------------------------------------- */

struct hearing {
    unsigned calls, cancel_at;
    uint64_t done;
    bool wrong;
};

static int on_progress(void *user, uint64_t done, uint64_t total)
{
    struct hearing *h = user;
    h->wrong |= done > total || done < h->done;
    h->done = done;
    return ++h->calls == h->cancel_at;
}

static void progress_is_told_and_can_cancel_at_any_point(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    int rc = BITKV_ERR_CANCELED;
    for (unsigned at = 1; rc != BITKV_OK; at++) {
        struct hearing h = {.cancel_at = at};
        put_all(db, 600, at, 400);
        delete_all(db, 500, 600);
        rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, on_progress, &h);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_CANCELED);
        assert_true(rc == BITKV_OK ? h.calls <= at : h.calls == at);
        assert_false(h.wrong);
        expect_all(db, 500, at, 400);
        expect_absent(db, 500, 600);
        assert_true(at < 1000);
        if (at % 8 == 0) {
            ok(bitkv_close(db));
            assert_int_equal(count_files("", ".tmp"), 0);
            remove_files("keydir");
            db = open_by_hand(BITKV_IO_AUTO);
        }
    }
    assert_true(statistics_of(db).dead_bytes < MARKS_MOST);
    expect_files(db);
    ok(bitkv_close(db));
}

/* The callback may use the database. */
static int use_the_database(void *user, uint64_t done, uint64_t total)
{
    bitkv *db = user;
    (void)total;
    put_version(db, 5, (uint32_t)done, 100);
    expect_version(db, 5, (uint32_t)done, 100);
    expect_version(db, 7, 3, 1000);
    return 0;
}

static void the_callback_may_read_and_write(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t version = 0; version < 4; version++)
        put_all(db, 300, version, 1000);
    ok(bitkv_compact(db, 0, use_the_database, db));
    ok(bitkv_close(db));
}

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    fails(BITKV_ERR_INVALID, bitkv_compact(NULL, 0, NULL, NULL));
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.partitions = 2;
    bitkv *db = open_with(&o);
    put_all(db, 100, 1, 100);
    fails(BITKV_ERR_INVALID, bitkv_compact(db, 2, NULL, NULL));
    context_has("partition 2");
    ok(bitkv_compact(db, 1, NULL, NULL));
    ok(bitkv_close(db));
    o.read_only = true;
    db = open_with(&o);
    uint64_t before = fingerprint(path);
    fails(BITKV_ERR_READ_ONLY, bitkv_compact(db, 0, NULL, NULL));
    ok(bitkv_close(db));
    assert_int_equal(fingerprint(path), before);
}

/* --- readers -----------------------------------------------------------------------------------
 */

static void views_stay_valid_over_compactions_and_closing(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        bitkv_view views[100];
        unsigned char wanted[1000];
        put_all(db, 100, 1, 1000);
        for (uint32_t key = 0; key < 100; key++)
            ok(bitkv_get_view(db, &key, sizeof key, &views[key]));
        for (uint32_t round = 2; round < 6; round++) {
            put_all(db, 100, round, 1000);
            compact(db);
        }
        expect_files(db); /* files of views are gone by name */
        for (int closed = 0; closed < 2; closed++) {
            for (uint32_t key = 0; key < 100; key++) {
                fill(wanted, sizeof wanted, (uint64_t)key << 32 | 1);
                assert_memory_equal(views[key].data, wanted, sizeof wanted);
            }
            if (closed == 0)
                ok(bitkv_close(db));
        }
        for (uint32_t key = 0; key < 100; key++)
            bitkv_view_release(&views[key]);
    }
}

static void *compact_in_a_thread(void *db)
{
    return bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL) == BITKV_OK ? db : NULL;
}

/* One who is in an epoch section may have the inputs' numbers and mappings at hand. */
static void inputs_stay_until_the_readers_of_that_moment_have_left(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        for (uint32_t version = 0; version < 4; version++)
            put_all(db, 200, version, 1000);
        char name[PATH_SIZE];
        in_partition(name, "data_1.db");
        struct bkv_epoch_slot *reader = bkv_epoch_enter();
        assert_non_null(reader);
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, compact_in_a_thread, db), 0);
        sleep_ms(300); /* a compaction takes some ten */
        bool stayed = access(name, F_OK) == 0;
        bkv_epoch_exit(reader);
        void *done;
        assert_int_equal(pthread_join(thread, &done), 0);
        assert_non_null(done);
        assert_true(stayed);
        assert_int_equal(access(name, F_OK), -1);
        ok(bitkv_close(db));
    }
}

/* Only a damaged directory has such a key, and it is not absent. */
static void a_get_whose_file_was_removed_by_hand_is_an_error(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = by_hand(mode);
        o.max_open_segments = 1;
        bitkv *db = open_with(&o);
        put_all(db, 400, 1, 1000);
        ok(bitkv_sync(db));
        ok(bitkv_close(db));
        db = open_with(&o);
        expect_version(db, 399, 1, 1000); /* another segment is the one that is open */
        char name[PATH_SIZE];
        assert_int_equal(unlink(in_partition(name, "data_1.db")), 0);
        void *value;
        size_t size;
        uint32_t key = 0;
        fails(BITKV_ERR_IO, bitkv_get(db, &key, sizeof key, &value, &size));
        context_has("data_1.db is gone");
        expect_version(db, 399, 1, 1000);
        ok(bitkv_close(db));
    }
}

static void cold_gets_of_a_queue_find_what_was_there_when_they_were_submitted(void **state)
{
    (void)state;
    static const bitkv_backend backends[] = {BITKV_BACKEND_AUTO, BITKV_BACKEND_THREADS};
    static unsigned char got[300][1000];
    static bitkv_completion done[300];
    for (unsigned i = 0; i < 2; i++) {
        bitkv_options o = by_hand(BITKV_IO_PWRITE);
        o.max_open_segments = 1;
        o.backend = backends[i];
        bitkv *db = open_with(&o);
        bitkv_cq *cq;
        ok(bitkv_cq_create(&cq, db, NULL));
        for (uint32_t round = 1; round < 12; round++) {
            uint32_t names[300];
            put_all(db, 300, round, 1000);
            for (uint32_t key = 0; key < 300; key++) {
                names[key] = key;
                bitkv_op op = {.kind = BITKV_OP_GET,
                               .flags = BITKV_OP_COPY,
                               .key = &names[key],
                               .key_size = sizeof key,
                               .buffer = got[key],
                               .buffer_size = sizeof got[key],
                               .user_data = &names[key]};
                assert_int_equal(bitkv_cq_submit(cq, &op, 1, NULL), 1);
            }
            if (round % 2 == 0)
                delete_all(db, 0, 150); /* behind the gets */
            compact(db);
            for (int reaped = 0; reaped < 300;) {
                int n = bitkv_cq_wait(cq, done, 300, 10000);
                assert_true(n > 0);
                for (int k = 0; k < n; k++) {
                    unsigned char wanted[1000];
                    uint32_t key = *(uint32_t *)done[k].user_data;
                    expect_code(done[k].status, BITKV_OK, done[k].error, __FILE__, __LINE__);
                    fill(wanted, sizeof wanted, (uint64_t)key << 32 | round);
                    assert_memory_equal(got[key], wanted, sizeof wanted);
                }
                reaped += n;
            }
        }
        ok(bitkv_cq_destroy(cq));
        compact(db);
        expect_files(db);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

struct visit {
    bitkv *db;
    unsigned seen[400];
    unsigned records, wrong;
};

static int compact_within(void *user, const bitkv_record *record)
{
    struct visit *v = user;
    unsigned char wanted[1000];
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    v->seen[key]++;
    fill(wanted, sizeof wanted, (uint64_t)key << 32 | 4);
    v->wrong +=
        record->value_size != sizeof wanted || memcmp(record->value, wanted, sizeof wanted) != 0;
    if (v->records++ % 100 == 0)
        return bitkv_compact(v->db, BITKV_ALL_PARTITIONS, NULL, NULL);
    return 0;
}

static void a_scan_visits_every_key_once_whatever_is_compacted_meanwhile(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_by_hand(mode);
        struct visit v = {.db = db};
        for (uint32_t version = 0; version < 5; version++)
            put_all(db, 400, version, 1000);
        ok(bitkv_scan(db, BITKV_SCAN_ALL, compact_within, &v));
        assert_int_equal(v.records, 400);
        assert_int_equal(v.wrong, 0);
        for (unsigned key = 0; key < 400; key++)
            assert_int_equal(v.seen[key], 1);
        compact(db);
        expect_files(db);
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(space_is_given_back_when_the_call_returns),
        TEST(a_database_whose_keys_are_all_deleted_takes_next_to_nothing),
        TEST(nothing_is_done_where_nothing_is_to_be_gained),
        TEST(records_larger_than_a_segment_are_given_back_too),
        TEST(segments_of_an_opening_with_larger_ones_are_compacted),
        TEST(a_tombstone_stays_as_long_as_an_older_file_has_its_key),
        TEST(what_an_expired_value_replaced_does_not_come_back),
        TEST(without_an_older_hint_tombstones_stay),
        TEST(live_bytes_are_exact_whatever_an_opening_reads),
        TEST(thousands_of_compactions_use_nothing_up),
        TEST(a_damaged_live_record_keeps_its_file_and_no_other),
        TEST(damage_in_one_partition_does_not_keep_the_others),
        TEST(a_missing_or_damaged_hint_costs_nothing_but_time),
        TEST(progress_is_told_and_can_cancel_at_any_point),
        TEST(the_callback_may_read_and_write),
        TEST(wrong_calls_are_refused),
        TEST(views_stay_valid_over_compactions_and_closing),
        TEST(inputs_stay_until_the_readers_of_that_moment_have_left),
        TEST(a_get_whose_file_was_removed_by_hand_is_an_error),
        TEST(cold_gets_of_a_queue_find_what_was_there_when_they_were_submitted),
        TEST(a_scan_visits_every_key_once_whatever_is_compacted_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
