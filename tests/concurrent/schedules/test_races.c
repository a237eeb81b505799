/* SPDX-License-Identifier: MIT */
/*
 * Calls against what moves beneath them: compaction, which gives records another place
 * and unlinks files; the growing KeyDir; the cache that closes files. Every
 * interleaving of the named points.
 */
#include "concurrent/schedules/fixture.h"

#define NEIGHBOURS 12u

static int result; /* of the actor's call */
static uint32_t result_number;
static int other_result; /* of the one that it races with */

/* The hot key lies in a segment of which much is dead. */
static void make_work(void)
{
    version++;
    ok(put_number(HOT, version, BITKV_DURABILITY_NONE));
    for (uint32_t i = 0; i < NEIGHBOURS; i++)
        ok(put_number(100 + i, version, BITKV_DURABILITY_NONE));
    result = other_result = 1000;
}

/* The same, in a full file that is closed. */
static void make_work_and_reopen(void)
{
    static const char large[30000];
    make_work();
    for (uint32_t i = 0; i < 3; i++)
        ok(bitkv_put_with(db, &i, sizeof i, large, sizeof large, BITKV_DURABILITY_NONE));
    reopen();
}

static void compact_all(void)
{
    other_result = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
}

static void expect_neighbours(void)
{
    for (uint32_t i = 0; i < NEIGHBOURS; i++)
        expect_number(100 + i, version);
}

static void explore(const struct schedule *schedule)
{
    if (db == NULL)
        db = open_with(&options);
    assert_true(schedule_explore(schedule) > 1);
}

static void for_each_mode(void (*test)(void))
{
    test();
    ok(bitkv_close(db));
    db = NULL;
    remove_tree(path);
    options.io_mode = BITKV_IO_PWRITE;
    options.strict_recovery = false;
    test();
}

/* --- a get -------------------------------------------------------------------------- */

static void get_hot(void)
{
    result = get_number(db, HOT, &result_number);
}

static void expect_got(void)
{
    ok(result);
    assert_int_equal(result_number, version);
    ok(other_result);
    expect_neighbours();
}

/* The get has the location, or the segment, of a file that compaction has replaced,
 * is about to unlink, or has. It finds the value all the same: the file is kept. */
static void get_beside_unlink(void)
{
    static const struct schedule s = {
        .name = "get against compaction's unlink",
        .setup = make_work,
        .actors = {get_hot, compact_all},
        .points = {"get.found", "get.located", "compact.named", "compact.replaced",
                   "removal.closed", "removal.unlinked"},
        .check = expect_got,
    };
    explore(&s);
}

static void a_get_finds_what_compaction_unlinks(void **state)
{
    (void)state;
    for_each_mode(get_beside_unlink);
}

/* The get leaves its section to open the file, which is replaced and unlinked before
 * it does, or between that and looking the key up again. */
static void open_beside_unlink(void)
{
    static const struct schedule s = {
        .name = "opening a file against compaction's unlink",
        .setup = make_work_and_reopen,
        .actors = {get_hot, compact_all},
        .points = {"get.paused", "get.pinned", "compact.named", "compact.replaced",
                   "removal.unlinked"},
        .check = expect_got,
    };
    explore(&s);
}

static void a_get_opens_what_compaction_unlinks(void **state)
{
    (void)state;
    for_each_mode(open_beside_unlink);
}

/* --- writes -------------------------------------------------------------------------- */

static void put_hot(void)
{
    result = put_number(HOT, version + 1000000, BITKV_DURABILITY_NONE);
}

static void expect_put(void)
{
    ok(result);
    ok(other_result);
    expect_number(HOT, version + 1000000);
    expect_neighbours();
    reopen(); /* and the log says the same */
    expect_number(HOT, version + 1000000);
    expect_neighbours();
}

/* Compaction has copied the old record and moves the key, or has moved it, when the
 * put takes effect: the put is what counts, in the KeyDir and in the log. */
static void put_beside_relocation(void)
{
    static const struct schedule s = {
        .name = "put against relocation",
        .setup = make_work,
        .actors = {put_hot, compact_all},
        .points = {"write.drafted", "write.appended", "write.shown", "compact.named",
                   "compact.moved_some", "compact.replaced"},
        .check = expect_put,
    };
    explore(&s);
}

static void a_put_survives_a_relocation(void **state)
{
    (void)state;
    for_each_mode(put_beside_relocation);
}

static void del_hot(void)
{
    uint32_t key = HOT;
    result = bitkv_del(db, &key, sizeof key);
}

static void expect_deleted(void)
{
    ok(result);
    ok(other_result);
    expect_gone(HOT);
    reopen();
    expect_gone(HOT);
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL)); /* its tombstone, too */
    reopen();
    expect_gone(HOT);
    expect_neighbours();
}

/* The key is deleted while its record is copied and moved: it does not return. */
static void del_beside_relocation(void)
{
    static const struct schedule s = {
        .name = "delete against relocation",
        .setup = make_work,
        .actors = {del_hot, compact_all},
        .points = {"write.drafted", "write.shown", "compact.named", "compact.moved_some",
                   "compact.replaced"},
        .check = expect_deleted,
    };
    explore(&s);
}

static void a_delete_survives_a_relocation(void **state)
{
    (void)state;
    for_each_mode(del_beside_relocation);
}

/* --- conditional writes ---------------------------------------------------------------- */

#define COUNTER 8u

static void begin_counting(void)
{
    uint32_t key = COUNTER;
    make_work();
    (void)bitkv_del(db, &key, sizeof key);
    ok(bitkv_add(db, &key, sizeof key, 40, NULL));
}

static void add_one(void)
{
    uint32_t key = COUNTER;
    result = bitkv_add(db, &key, sizeof key, 1, NULL);
}

static void add_other(void)
{
    uint32_t key = COUNTER;
    other_result = bitkv_add(db, &key, sizeof key, 1, NULL);
}

static void expect_sum(int64_t wanted)
{
    uint32_t key = COUNTER;
    int64_t sum = 0;
    ok(result);
    ok(other_result);
    ok(bitkv_get_into(db, &key, sizeof key, &sum, sizeof sum, NULL));
    assert_int_equal(sum, wanted);
}

static void expect_one_more(void)
{
    expect_sum(41);
}

static void expect_two_more(void)
{
    expect_sum(42);
}

/* Both have read 40 before either writes: the second to write looks again. */
static void no_addition_is_lost(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "add against add",
        .setup = begin_counting,
        .actors = {add_one, add_other},
        .points = {"get.located", "condition.looked"},
        .check = expect_two_more,
    };
    explore(&s);
}

/* The counter's record moves between the look and the write. */
static void an_addition_survives_a_relocation(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "add against relocation",
        .setup = begin_counting,
        .actors = {add_one, compact_all},
        .points = {"get.located", "condition.looked", "compact.named", "compact.replaced"},
        .check = expect_one_more,
    };
    explore(&s);
}

/* --- the KeyDir grows ----------------------------------------------------------------- */

#define FIRST_KEYS 1000u
#define NEW_KEYS   400u

static bitkv_snapshot *snapshot;

static void begin_small(void)
{
    ok(bitkv_close(db));
    db = NULL;
    remove_tree(path);
    db = open_with(&options);
    for (uint32_t i = 0; i < FIRST_KEYS; i++)
        ok(bitkv_put(db, &i, sizeof i, &i, sizeof i));
    result = other_result = 1000;
}

static void put_new_keys(void)
{
    other_result = BITKV_OK;
    for (uint32_t i = 0; i < NEW_KEYS && other_result == BITKV_OK; i++) {
        uint32_t key = FIRST_KEYS + i;
        other_result = bitkv_put(db, &key, sizeof key, &key, sizeof key);
    }
}

static void take_snapshot(void)
{
    result = bitkv_snapshot_create(&snapshot, db);
}

static int count_record(void *user, const bitkv_record *record)
{
    uint32_t *counts = user;
    uint32_t key;
    assert_int_equal(record->key_size, sizeof key);
    memcpy(&key, record->key, sizeof key);
    assert_in_range(key, 0, FIRST_KEYS + NEW_KEYS - 1);
    assert_int_equal(counts[key]++, 0);
    return 0;
}

/* What was put came one after the other: the snapshot has those up to some. */
static void expect_prefix(void)
{
    uint32_t counts[FIRST_KEYS + NEW_KEYS] = {0};
    uint32_t end = 0;
    ok(result);
    ok(other_result);
    ok(bitkv_snapshot_scan(snapshot, BITKV_SCAN_ALL, count_record, counts));
    while (end < FIRST_KEYS + NEW_KEYS && counts[end] == 1)
        end++;
    assert_in_range(end, FIRST_KEYS, FIRST_KEYS + NEW_KEYS);
    for (uint32_t i = 0; i < FIRST_KEYS + NEW_KEYS; i++) {
        assert_int_equal(counts[i], i < end);
        fails(i < end ? BITKV_OK : BITKV_NOT_FOUND, bitkv_snapshot_exists(snapshot, &i, sizeof i));
        ok(bitkv_exists(db, &i, sizeof i));
    }
    ok(bitkv_snapshot_destroy(snapshot));
}

/* A subtable is split, or copied for the snapshot, while the snapshot has reserved its
 * room, or has just been taken. */
static void a_snapshot_is_whole_while_the_keydir_grows(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "snapshot against growth of the KeyDir",
        .setup = begin_small,
        .actors = {take_snapshot, put_new_keys},
        .points = {"snapshot.reserved", "snapshot.taken", "split.first", "split.counted",
                   "keydir.copied"},
        .check = expect_prefix,
    };
    explore(&s);
}

static void get_all_first(void)
{
    result = BITKV_OK;
    for (uint32_t i = 0; i < FIRST_KEYS && result == BITKV_OK; i++)
        result = bitkv_exists(db, &i, sizeof i);
}

static void expect_all_found(void)
{
    ok(result);
    ok(other_result);
}

/* The writer stands in the middle of a split, under the lock: every key is found. */
static void a_get_finds_its_key_in_the_middle_of_a_split(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "get against a split of the KeyDir",
        .setup = begin_small,
        .actors = {get_all_first, put_new_keys},
        .points = {"split.first", "split.counted"},
        .check = expect_all_found,
    };
    explore(&s);
}

/* --- a backup -------------------------------------------------------------------------- */

static void back_up(void)
{
    result = bitkv_backup(db, backup_path, NULL);
}

static void make_work_for_backup(void)
{
    remove_tree(backup_path);
    make_work();
}

static void expect_backup(void)
{
    bitkv *copy = NULL;
    bitkv_options o = options;
    uint32_t number;
    o.strict_recovery = o.read_only = true;
    ok(result);
    ok(other_result);
    ok(bitkv_open(&copy, backup_path, &o));
    ok(get_number(copy, HOT, &number));
    assert_int_equal(number, version);
    for (uint32_t i = 0; i < NEIGHBOURS; i++) {
        ok(get_number(copy, 100 + i, &number));
        assert_int_equal(number, version);
    }
    ok(bitkv_close(copy));
    expect_neighbours();
}

/* The backup has listed a file that is replaced before it is linked: it is kept. */
static void a_backup_has_the_files_that_compaction_replaces(void **state)
{
    (void)state;
    static const struct schedule s = {
        .name = "backup against compaction",
        .setup = make_work_for_backup,
        .actors = {back_up, compact_all},
        .points = {"backup.noted", "compact.named", "compact.replaced"},
        .check = expect_backup,
    };
    explore(&s);
}

/* --- a batch that fails ---------------------------------------------------------------- */

#define NEW_KEY 9u /* which only the batch has */

/* Of a batch the disk takes all but the checksum that makes it count. */
static ssize_t refuse_checksum(int fd, const void *data, size_t size, off_t offset)
{
    if (size == sizeof(uint32_t)) {
        errno = ENOSPC;
        return -1;
    }
    return bkv_io_kernel.pwrite(fd, data, size, offset);
}

static ssize_t nothing_is_cached(int fd, void *data, size_t size, off_t offset)
{
    (void)fd, (void)data, (void)size, (void)offset;
    errno = EAGAIN;
    return -1;
}

static void write_batch_that_fails(void)
{
    bitkv_batch *batch = NULL;
    uint32_t key = NEW_KEY;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_put(batch, &key, sizeof key, "value", 5));
    other_result = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
    bitkv_batch_destroy(batch);
}

static void get_new_key(void)
{
    result = get_number(db, NEW_KEY, &result_number);
}

/* A queue is its thread's. */
static void get_new_key_by_queue(void)
{
    bitkv_cq *cq = NULL;
    uint32_t key = NEW_KEY;
    uint64_t id;
    bitkv_completion done = {.status = BITKV_ERR_INVALID};
    bitkv_op op = {.kind = BITKV_OP_GET, .key = &key, .key_size = sizeof key};
    bool got = bitkv_cq_create(&cq, db, NULL) == BITKV_OK &&
               bitkv_cq_submit(cq, &op, 1, &id) == 1 && bitkv_cq_wait(cq, &done, 1, -1) == 1;
    result = got ? done.status : 1000;
    (void)bitkv_cq_destroy(cq);
}

static void expect_nothing_of_the_batch(void)
{
    fails(BITKV_ERR_NO_SPACE, other_result);
    fails(BITKV_NOT_FOUND, result); /* no damage, nor a value */
}

static void write_hot_batch_that_fails(void)
{
    bitkv_batch *batch = NULL;
    uint32_t key = HOT;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_put(batch, &key, sizeof key, "value", 5));
    other_result = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
    bitkv_batch_destroy(batch);
}

static void expect_what_was_before_the_batch(void)
{
    fails(BITKV_ERR_NO_SPACE, other_result);
    ok(result);
    assert_int_equal(result_number, version);
}

/* The KeyDir has a place for the batch's key, whose bytes the batch then erases: who
 * found that place, and reads there later, has met no damage. */
static void a_get_meets_no_damage_in_a_batch_that_is_taken_back(void **state)
{
    (void)state;
    static const struct schedule gets = {
        .name = "get against a batch that fails",
        .actors = {get_new_key, write_batch_that_fails},
        .points = {"get.found", "get.located", "batch.held"},
        .check = expect_nothing_of_the_batch,
    };
    static const struct schedule cold_gets = {
        .name = "cold get against a batch that fails",
        .actors = {get_new_key_by_queue, write_batch_that_fails},
        .points = {"call.begun", "cold.begun", "batch.held"},
        .check = expect_nothing_of_the_batch,
    };
    static const struct schedule overwriting = {
        .name = "get against a batch that fails to overwrite",
        .actors = {get_hot, write_hot_batch_that_fails},
        .points = {"get.found", "get.located", "batch.held"},
        .check = expect_what_was_before_the_batch,
    };
    options.io_mode = BITKV_IO_PWRITE;
    options.backend = BITKV_BACKEND_THREADS;
    options.max_open_segments = 1;
    db = open_with(&options);
    make_work_and_reopen(); /* the value lies in a file that is closed */
    ops.pwrite = refuse_checksum;
    explore(&overwriting);
    explore(&gets);
    ops.pread_nowait = nothing_is_cached;
    explore(&cold_gets);
}

/* --- eviction --------------------------------------------------------------------------- */

static bitkv_view view;

#define FULL_SEGMENTS 4u

/* Some full segments, all closed; no more than one may be open. */
static void fill_segments(void)
{
    static const char large[20000];
    version++;
    ok(put_number(HOT, version, BITKV_DURABILITY_NONE));
    for (uint32_t i = 0; i < FULL_SEGMENTS * 3; i++)
        ok(bitkv_put_with(db, &i, sizeof i, large, i == HOT ? 0 : sizeof large,
                          BITKV_DURABILITY_NONE));
    ok(put_number(HOT, version, BITKV_DURABILITY_NONE));
    for (uint32_t i = 20; i < 23; i++)
        ok(bitkv_put_with(db, &i, sizeof i, large, sizeof large, BITKV_DURABILITY_NONE));
    reopen();
    result = other_result = 1000;
}

static void view_hot(void)
{
    uint32_t key = HOT;
    result = bitkv_get_view(db, &key, sizeof key, &view);
}

static void read_others(void)
{
    other_result = BITKV_OK;
    for (uint32_t key = 0; key < HOT && other_result == BITKV_OK; key += 6) {
        void *value;
        other_result = bitkv_get(db, &key, sizeof key, &value, NULL);
        bitkv_free(value);
    }
}

/* The view stays as it is, with its file closed, compacted and unlinked. */
static void expect_view(void)
{
    ok(result);
    ok(other_result);
    assert_int_equal(number_in(HOT, view.data, view.size), version);
    read_others();
    ok(put_number(HOT, version + 1, BITKV_DURABILITY_NONE));
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_int_equal(number_in(HOT, view.data, view.size), version);
    bitkv_view_release(&view);
}

/* The cache closes the file between the pin and the look at the record, or before. */
static void view_beside_eviction(void)
{
    static const struct schedule s = {
        .name = "eviction against a pinned read",
        .setup = fill_segments,
        .actors = {view_hot, read_others},
        .points = {"get.paused", "get.pinned", "evict.closed"},
        .check = expect_view,
    };
    options.max_open_segments = 1;
    explore(&s);
}

static void a_view_survives_eviction(void **state)
{
    (void)state;
    for_each_mode(view_beside_eviction);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCHEDULE_TEST(a_get_finds_what_compaction_unlinks),
        SCHEDULE_TEST(a_get_opens_what_compaction_unlinks),
        SCHEDULE_TEST(a_put_survives_a_relocation),
        SCHEDULE_TEST(a_delete_survives_a_relocation),
        SCHEDULE_TEST(no_addition_is_lost),
        SCHEDULE_TEST(an_addition_survives_a_relocation),
        SCHEDULE_TEST(a_snapshot_is_whole_while_the_keydir_grows),
        SCHEDULE_TEST(a_get_finds_its_key_in_the_middle_of_a_split),
        SCHEDULE_TEST(a_backup_has_the_files_that_compaction_replaces),
        SCHEDULE_TEST(a_get_meets_no_damage_in_a_batch_that_is_taken_back),
        SCHEDULE_TEST(a_view_survives_eviction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
