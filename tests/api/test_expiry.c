/* SPDX-License-Identifier: MIT */
/* What bitkv.h promises of keys that expire. Time passes, and clocks are
 * stepped, by the seams of base/clock.h. */
#include "api/fixture.h"

#include "base/clock.h"
#include "base/memory.h"

#include <signal.h>

static void put_for(bitkv *db, const char *key, const char *value, uint64_t ttl_ms)
{
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = ttl_ms;
    ok(bitkv_put_if(db, key, strlen(key), value, strlen(value), &o, NULL));
}

static bitkv_key_info info_of(bitkv *db, const char *key)
{
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    ok(bitkv_info(db, key, strlen(key), &info));
    return info;
}

struct sought {
    const char *key;
    unsigned times;
};

static int seek(void *user, const bitkv_record *record)
{
    struct sought *sought = user;
    sought->times += record->key_size == strlen(sought->key) &&
                     memcmp(record->key, sought->key, record->key_size) == 0;
    return 0;
}

static unsigned scan_shows(bitkv *db, const char *key, unsigned flags)
{
    struct sought sought = {.key = key};
    ok(bitkv_scan(db, flags, seek, &sought));
    return sought.times;
}

static int by_queue(bitkv *db, bitkv_op_kind kind, const char *key)
{
    bitkv_cq *cq;
    ok(bitkv_cq_create(&cq, db, NULL));
    bitkv_op op = {.kind = kind, .key = key, .key_size = strlen(key)};
    assert_int_equal(bitkv_cq_submit(cq, &op, 1, NULL), 1);
    bitkv_completion done;
    assert_int_equal(bitkv_cq_wait(cq, &done, 1, -1), 1);
    bitkv_free(done.value);
    ok(bitkv_cq_destroy(cq));
    return done.status;
}

/* Every way to ask says the same. */
static void expect_all(bitkv *db, const char *key, int status)
{
    size_t n = strlen(key);
    void *value;
    char buffer[64];
    bitkv_view view;
    fails(status, bitkv_get(db, key, n, &value, NULL));
    bitkv_free(value);
    fails(status, bitkv_get_into(db, key, n, buffer, sizeof buffer, NULL));
    fails(status, bitkv_get_view(db, key, n, &view));
    bitkv_view_release(&view);
    fails(status, bitkv_exists(db, key, n));
    bitkv_get_item items[2] = {{.key = key, .key_size = n}, {.key = "no", .key_size = 2}};
    ok(bitkv_multi_get(db, items, 2));
    assert_int_equal(items[0].status, status);
    bitkv_free(items[0].value);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    fails(status, bitkv_info(db, key, n, &info));
    assert_int_equal(scan_shows(db, key, BITKV_SCAN_ALL), status == BITKV_OK);
    assert_int_equal(scan_shows(db, key, BITKV_SCAN_KEYS), status == BITKV_OK);
    assert_int_equal(by_queue(db, BITKV_OP_GET, key), status);
    assert_int_equal(by_queue(db, BITKV_OP_EXISTS, key), status);
}

static void a_key_is_there_until_its_deadline_and_not_from_then_on(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_for(db, "k", "v", 100000);
        put_for(db, "stays", "v", BITKV_TTL_NONE);
        put_text(db, "plain", "v");
        expect_all(db, "k", BITKV_OK);
        bitkv_key_info info = info_of(db, "k");
        assert_in_range(info.remaining_ms, 90000, 100000);
        assert_int_equal(info.value_size, 1);
        bkv_clock_elapse(info.remaining_ms - 5000);
        expect_all(db, "k", BITKV_OK);
        bkv_clock_elapse(5000); /* at the deadline now, or a moment behind it */
        expect_all(db, "k", BITKV_NOT_FOUND);
        bkv_clock_elapse(1000ull * 3600 * 24 * 365 * 100);
        expect_all(db, "k", BITKV_NOT_FOUND);
        expect_all(db, "stays", BITKV_OK);
        expect_all(db, "plain", BITKV_OK);
        assert_true(info_of(db, "stays").remaining_ms == UINT64_MAX);
        assert_true(info_of(db, "plain").deadline_ms == UINT64_MAX);
        ok(bitkv_close(db));
    }
}

static void the_shortest_time_to_live_passes(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    put_for(db, "k", "v", 1);
    sleep_ms(2); /* real time counts, too */
    expect_all(db, "k", BITKV_NOT_FOUND);
    put_text(db, "k", "w"); /* and what comes next has no deadline */
    expect_all(db, "k", BITKV_OK);
    expect_text(db, "k", "w");
    ok(bitkv_close(db));
}

static void times_to_live_have_bounds(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = BITKV_TTL_MAX;
    ok(bitkv_put_if(db, "k", 1, "v", 1, &o, NULL));
    expect_all(db, "k", BITKV_OK);
    assert_true(info_of(db, "k").deadline_ms > BITKV_TTL_MAX);
    assert_true(info_of(db, "k").deadline_ms < BITKV_TTL_MAX * 2);
    o.ttl_ms = BITKV_TTL_MAX + 1;
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    context_has("time to live");
    o.ttl_ms = BITKV_TTL_KEEP - 1;
    fails(BITKV_ERR_INVALID, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
    fails(BITKV_ERR_INVALID, bitkv_touch(db, "k", 1, BITKV_TTL_MAX + 1));
    context_has("BITKV_TTL_MAX");
    fails(BITKV_ERR_INVALID, bitkv_touch(db, "k", 1, BITKV_TTL_KEEP));
    context_has("BITKV_TTL_KEEP");
    fails(BITKV_ERR_INVALID, bitkv_touch(db, "k", 1, BITKV_TTL_KEEP));
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void a_default_applies_to_all_that_ask_for_nothing_else(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_text(db, "before", "v");
    ok(bitkv_close(db));
    o.default_ttl_ms = 5000;
    db = open_with(&o);
    put_text(db, "put", "v");
    ok(bitkv_put_with(db, "with", 4, "v", 1, BITKV_DURABILITY_NONE));
    ok(bitkv_put_if(db, "if", 2, "v", 1, NULL, NULL));
    put_for(db, "zero", "v", 0);
    put_for(db, "longer", "v", 50000);
    put_for(db, "never", "v", BITKV_TTL_NONE);
    int64_t sum;
    ok(bitkv_add(db, "sum", 3, 1, &sum));
    bitkv_cq *cq;
    ok(bitkv_cq_create(&cq, db, NULL));
    bitkv_op op = {
        .kind = BITKV_OP_PUT, .key = "queue", .key_size = 5, .value = "v", .value_size = 1};
    assert_int_equal(bitkv_cq_submit(cq, &op, 1, NULL), 1);
    ok(bitkv_cq_destroy(cq));
    const char *which[] = {"put", "with", "if", "zero", "sum", "queue"};
    for (unsigned i = 0; i < 6; i++) {
        expect_all(db, which[i], BITKV_OK);
        assert_in_range(info_of(db, which[i]).remaining_ms, 1000, 5000);
    }
    bkv_clock_elapse(5000);
    for (unsigned i = 0; i < 6; i++)
        expect_all(db, which[i], BITKV_NOT_FOUND);
    expect_all(db, "longer", BITKV_OK);
    expect_all(db, "never", BITKV_OK);
    expect_all(db, "before", BITKV_OK);
    ok(bitkv_close(db));
}

static void touching_gives_another_time_to_live(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_for(db, "k", "value", 10000);
        uint64_t version = info_of(db, "k").version;
        bkv_clock_elapse(5000);
        ok(bitkv_touch(db, "k", 1, 10000));
        assert_true(info_of(db, "k").version > version);
        bkv_clock_elapse(8000);
        expect_text(db, "k", "value");
        ok(bitkv_touch(db, "k", 1, BITKV_TTL_NONE));
        bkv_clock_elapse(1000000);
        expect_text(db, "k", "value");
        ok(bitkv_touch(db, "k", 1, 1000));
        bkv_clock_elapse(1000);
        fails(BITKV_NOT_FOUND, bitkv_touch(db, "k", 1, 1000));
        fails(BITKV_NOT_FOUND, bitkv_touch(db, "none", 4, 1000));
        expect_all(db, "k", BITKV_NOT_FOUND);
        ok(bitkv_close(db));
    }
}

static void values_of_all_sizes_keep_deadlines(void **state)
{
    (void)state;
    static char value[200 << 10];
    static char got[sizeof value];
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        bitkv_put_options o;
        bitkv_put_options_init(&o);
        o.ttl_ms = 10000;
        const size_t sizes[] = {0,    1,    2000, 2011,  2012,        2013,
                                2020, 2021, 5000, 65000, sizeof value};
        size_t count = sizeof sizes / sizeof *sizes;
        for (size_t i = 0; i < count; i++) { /* the last ones are larger than a segment */
            fill(value, sizes[i], i);
            ok(bitkv_put_if(db, &sizes[i], sizeof sizes[i], value, sizes[i], &o, NULL));
            ok(bitkv_touch(db, &sizes[i], sizeof sizes[i], 20000));
        }
        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < count; i++) {
                size_t size;
                fill(value, sizes[i], i);
                ok(bitkv_get_into(db, &sizes[i], sizeof sizes[i], got, sizeof got, &size));
                assert_int_equal(size, sizes[i]);
                assert_memory_equal(got, value, size);
            }
            if (round == 0) {
                bkv_clock_elapse(15000);
                ok(bitkv_close(db));
                db = open_small(mode);
            }
        }
        bkv_clock_elapse(5000);
        for (size_t i = 0; i < count; i++)
            fails(BITKV_NOT_FOUND, bitkv_exists(db, &sizes[i], sizeof sizes[i]));
        ok(bitkv_close(db));
    }
}

/* --- deleting ------------------------------------------------------------------------ */

static int delete_absent(void *user, bitkv_update_step *step)
{
    (void)user;
    return step->present ? BITKV_ERR_INVALID : BITKV_UPDATE_DELETE;
}

static void what_has_expired_is_not_there_to_be_deleted_and_never_returns(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        for (int way = 0; way < 3; way++) {
            remove_tree(path);
            bitkv *db = open_small(mode);
            put_for(db, "k", "v", 1000);
            put_for(db, "alive", "v", 1000000);
            bkv_clock_elapse(1000);
            if (way == 1)
                assert_int_equal(by_queue(db, BITKV_OP_DEL, "k"), BITKV_NOT_FOUND);
            else if (way == 2)
                fails(BITKV_NOT_FOUND,
                      bitkv_update(db, "k", 1, delete_absent, NULL, BITKV_DURABILITY_DEFAULT));
            else
                fails(BITKV_NOT_FOUND, bitkv_del(db, "k", 1));
            assert_int_equal(statistics_of(db).deletes_total, 0);
            fails(BITKV_NOT_FOUND, bitkv_del(db, "k", 1));
            ok(bitkv_del(db, "alive", 5));
            assert_int_equal(statistics_of(db).deletes_total, 1);
            fails(BITKV_NOT_FOUND, bitkv_del(db, "alive", 5));
            assert_int_equal(statistics_of(db).keys, 0);
            ok(bitkv_close(db));
            bkv_clock_step_wall(-1000000); /* to before it was put */
            db = open_small(mode);
            expect_all(db, "k", BITKV_NOT_FOUND);
            expect_all(db, "alive", BITKV_NOT_FOUND);
            ok(bitkv_close(db));
            bkv_clock_step_wall(1000000);
        }
    }
}

static void deletes_of_what_an_earlier_opening_wrote(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "plain", "v");
        put_for(db, "gone", "v", 1000);
        put_for(db, "there", "v", 100000);
        ok(bitkv_close(db));
        bkv_clock_elapse(1000);
        db = open_small(mode);
        ok(bitkv_del(db, "plain", 5));
        fails(BITKV_NOT_FOUND, bitkv_del(db, "gone", 4));
        ok(bitkv_del(db, "there", 5));
        assert_int_equal(statistics_of(db).deletes_total, 2);
        ok(bitkv_close(db));
    }
}

/* --- clocks --------------------------------------------------------------------------- */

static void a_wall_clock_that_is_stepped_changes_nothing_until_the_next_opening(void **state)
{
    (void)state;
    const int64_t day = 86400000;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_for(db, "k", "v", 3600000);
        bkv_clock_step_wall(day); /* forward: nothing expires */
        expect_all(db, "k", BITKV_OK);
        assert_in_range(info_of(db, "k").remaining_ms, 3500000, 3600000);
        bkv_clock_step_wall(-2 * day); /* back: nothing lives longer */
        assert_in_range(info_of(db, "k").remaining_ms, 3500000, 3600000);
        put_for(db, "gone", "v", 1000);
        bkv_clock_elapse(1000);
        expect_all(db, "gone", BITKV_NOT_FOUND);
        ok(bitkv_close(db));

        db = open_small(mode); /* a day back: what had expired has not, by that clock */
        expect_all(db, "gone", BITKV_OK);
        assert_true(info_of(db, "k").remaining_ms > (uint64_t)day);
        ok(bitkv_close(db));

        bkv_clock_step_wall(2 * day);
        db = open_small(mode); /* a day forward */
        expect_all(db, "k", BITKV_NOT_FOUND);
        ok(bitkv_close(db));
        bkv_clock_step_wall(-day);
    }
}

/* --- openings --------------------------------------------------------------------------- */

static void write_and_die(const bitkv_options *options, unsigned count)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        static char value[1000];
        bitkv *db;
        int rc = bitkv_open(&db, path, options);
        bitkv_put_options o;
        bitkv_put_options_init(&o);
        for (unsigned i = 0; i < count && rc == BITKV_OK; i++) {
            o.ttl_ms = i % 3 == 0 ? BITKV_TTL_NONE : i % 3 == 1 ? 100000 : 200000;
            rc = bitkv_put_if(db, &i, sizeof i, value, sizeof value, &o, NULL);
        }
        if (rc == BITKV_OK)
            (void)kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(wait_child(child), 1000 + SIGKILL);
}

static void expect_thirds(bitkv *db, unsigned count, const bool there[3])
{
    for (unsigned i = 0; i < count; i++)
        fails(there[i % 3] ? BITKV_OK : BITKV_NOT_FOUND, bitkv_exists(db, &i, sizeof i));
}

static void remove_ending(const char *ending)
{
    char partition[PATH_SIZE];
    inside(partition, path, "partition_0");
    DIR *dir = opendir(partition);
    assert_non_null(dir);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char name[PATH_SIZE];
        size_t size = strlen(entry->d_name);
        if (size > strlen(ending) && strcmp(entry->d_name + size - strlen(ending), ending) == 0)
            assert_int_equal(unlink(inside(name, partition, entry->d_name)), 0);
    }
    (void)closedir(dir);
}

/* By log after the kill, then by checkpoint, by hints, and by log again. */
static void deadlines_survive_however_the_index_is_rebuilt(void **state)
{
    (void)state;
    const unsigned count = 400; /* several segments */
    const bool all[3] = {true, true, true};
    const bool later[3] = {true, false, true};
    const bool end[3] = {true, false, false};
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        write_and_die(&o, count);
        bitkv *db = open_with(&o);
        assert_true(statistics_of(db).recovery.log_records > 0);
        expect_thirds(db, count, all);
        ok(bitkv_close(db));

        bkv_clock_elapse(100000);
        db = open_with(&o);
        assert_int_equal(statistics_of(db).recovery.checkpoint_keys, count);
        expect_thirds(db, count, later);
        ok(bitkv_close(db));

        remove_ending(".ckp");
        db = open_with(&o);
        assert_true(statistics_of(db).recovery.hint_records > 0);
        expect_thirds(db, count, later);
        ok(bitkv_close(db));

        remove_ending(".ckp");
        remove_ending(".ht");
        bkv_clock_elapse(100000);
        db = open_with(&o);
        assert_int_equal(statistics_of(db).recovery.hint_records, 0);
        assert_int_equal(statistics_of(db).recovery.checkpoint_keys, 0);
        expect_thirds(db, count, end);
        ok(bitkv_close(db));
    }
}

static void read_only_openings_see_expiry_too(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_for(db, "k", "v", 1000);
    ok(bitkv_close(db));
    o.read_only = true;
    db = open_with(&o);
    expect_all(db, "k", BITKV_OK);
    fails(BITKV_ERR_READ_ONLY, bitkv_touch(db, "k", 1, 1000));
    fails(BITKV_ERR_READ_ONLY, bitkv_add(db, "k", 1, 1, NULL));
    fails(BITKV_ERR_READ_ONLY, bitkv_del_if(db, "k", 1, 1, BITKV_DURABILITY_DEFAULT));
    fails(BITKV_ERR_READ_ONLY, bitkv_put_if(db, "k", 1, "w", 1, NULL, NULL));
    bkv_clock_elapse(1000);
    expect_all(db, "k", BITKV_NOT_FOUND);
    ok(bitkv_close(db));
}

/* --- figures, and damage ------------------------------------------------------------------- */

static void reads_of_expired_keys_are_misses(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    put_for(db, "k", "v", 1000);
    char buffer[8];
    ok(bitkv_get_into(db, "k", 1, buffer, sizeof buffer, NULL));
    bkv_clock_elapse(1000);
    fails(BITKV_NOT_FOUND, bitkv_get_into(db, "k", 1, buffer, sizeof buffer, NULL));
    fails(BITKV_NOT_FOUND, bitkv_exists(db, "k", 1));
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.gets_total, 3);
    assert_int_equal(s.gets_miss_total, 2);
    assert_int_equal(s.errors_total, 0);
    assert_int_equal(s.keys, 1); /* until it is compacted */
    ok(bitkv_close(db));
}

/* The first record of a database of one partition. */
static void flip_bit(long offset, unsigned char bit)
{
    char name[PATH_SIZE];
    inside(name, path, "partition_0/data_1.db");
    FILE *file = fopen(name, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 64 + offset, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, 64 + offset, SEEK_SET), 0);
    assert_int_equal(fputc(byte ^ bit, file), byte ^ bit);
    assert_int_equal(fclose(file), 0);
}

static void a_damaged_deadline_hides_no_key(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_for(db, "k", "v", BITKV_TTL_MAX / 2); /* one bit makes the deadline a past one */
        ok(bitkv_close(db));
        db = open_small(mode);
        flip_bit(20 + 7, 0x20);
        struct sought left = {.key = "k"};
        fails(BITKV_ERR_CORRUPT, bitkv_exists(db, "k", 1));
        fails(BITKV_ERR_CORRUPT, bitkv_scan(db, BITKV_SCAN_KEYS, seek, &left));
        fails(BITKV_ERR_CORRUPT, bitkv_touch(db, "k", 1, 1000));
        bitkv_key_info info;
        bitkv_key_info_init(&info);
        fails(BITKV_ERR_CORRUPT, bitkv_info(db, "k", 1, &info));
        bitkv_put_options o;
        bitkv_put_options_init(&o);
        o.ttl_ms = BITKV_TTL_KEEP;
        fails(BITKV_ERR_CORRUPT, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
        ok(bitkv_del(db, "k", 1)); /* a delete needs no look */
        fails(BITKV_NOT_FOUND, bitkv_exists(db, "k", 1));
        ok(bitkv_close(db));
    }
}

/* What goes by the head of a record does not pass damage on. */
static void damage_is_no_conflict_and_no_deadline_to_be_kept(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_for(db, "k", "v", 1000000);
        uint64_t version = info_of(db, "k").version;
        ok(bitkv_close(db));
        db = open_small(mode);
        bitkv_put_options o;
        bitkv_put_options_init(&o);
        flip_bit(20 + 7, 0x20); /* far away, now */
        o.ttl_ms = BITKV_TTL_KEEP;
        fails(BITKV_ERR_CORRUPT, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
        fails(BITKV_ERR_CORRUPT, bitkv_add(db, "k", 1, 1, NULL));
        flip_bit(20 + 7, 0x20);
        flip_bit(12, 0x40);
        o.ttl_ms = 0;
        o.condition = BITKV_IF_VERSION;
        o.version = version;
        fails(BITKV_ERR_CORRUPT, bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
        fails(BITKV_ERR_CORRUPT, bitkv_del_if(db, "k", 1, version, BITKV_DURABILITY_DEFAULT));
        assert_int_equal(statistics_of(db).errors_total, 4);
        flip_bit(12, 0x40);
        ok(bitkv_put_if(db, "k", 1, "w", 1, &o, NULL));
        ok(bitkv_close(db));
    }
}

/* Time passes between the look at a key and the write. */
static bool pass_time(size_t size, void *user)
{
    if (size == *(const size_t *)user)
        bkv_clock_elapse(10000);
    return true;
}

static void a_key_that_expires_in_the_middle_of_a_touch_is_absent(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    char value[331] = "";
    size_t copy = sizeof value + 1;
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = 10000;
    ok(bitkv_put_if(db, "k", 1, value, sizeof value, &o, NULL));
    bkv_alloc_set_hook(pass_time, &copy);
    int rc = bitkv_touch(db, "k", 1, 1000000);
    bkv_alloc_set_hook(NULL, NULL);
    assert_int_equal(rc, BITKV_NOT_FOUND);
    expect_all(db, "k", BITKV_NOT_FOUND);
    ok(bitkv_close(db));
}

/* --- cold reads of a queue ---------------------------------------------------------------------
 */

static void cold_reads_go_by_the_moment_of_their_submission(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    static char value[50 << 10];
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = 10000;
    ok(bitkv_put_if(db, "k", 1, value, sizeof value, &o, NULL));
    ok(bitkv_put(db, "next", 4, value, sizeof value)); /* "k" lies in a full segment */
    ok(bitkv_close(db));
    for (int late = 0; late < 2; late++) {
        bitkv_options options = one_partition(BITKV_IO_AUTO);
        db = open_with(&options);
        bitkv_cq *cq;
        ok(bitkv_cq_create(&cq, db, NULL));
        /* Its segment is closed: no submission reads that at once. */
        bitkv_op ops[2] = {{.kind = BITKV_OP_GET, .key = "k", .key_size = 1},
                           {.kind = BITKV_OP_EXISTS, .key = "k", .key_size = 1}};
        assert_int_equal(bitkv_cq_submit(cq, ops, 2, NULL), 2);
        bkv_clock_elapse(10000);
        for (int i = 0; i < 2; i++) {
            bitkv_completion done;
            assert_int_equal(bitkv_cq_wait(cq, &done, 1, -1), 1);
            assert_int_equal(done.status, late ? BITKV_NOT_FOUND : BITKV_OK);
            bitkv_free(done.value);
        }
        if (late)
            assert_int_equal(statistics_of(db).gets_miss_total, 2);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_key_is_there_until_its_deadline_and_not_from_then_on),
        TEST(the_shortest_time_to_live_passes),
        TEST(times_to_live_have_bounds),
        TEST(a_default_applies_to_all_that_ask_for_nothing_else),
        TEST(touching_gives_another_time_to_live),
        TEST(values_of_all_sizes_keep_deadlines),
        TEST(what_has_expired_is_not_there_to_be_deleted_and_never_returns),
        TEST(deletes_of_what_an_earlier_opening_wrote),
        TEST(a_wall_clock_that_is_stepped_changes_nothing_until_the_next_opening),
        TEST(deadlines_survive_however_the_index_is_rebuilt),
        TEST(read_only_openings_see_expiry_too),
        TEST(reads_of_expired_keys_are_misses),
        TEST(a_damaged_deadline_hides_no_key),
        TEST(damage_is_no_conflict_and_no_deadline_to_be_kept),
        TEST(a_key_that_expires_in_the_middle_of_a_touch_is_absent),
        TEST(cold_reads_go_by_the_moment_of_their_submission),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
