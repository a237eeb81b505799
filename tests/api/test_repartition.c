/* SPDX-License-Identifier: MIT */
/*
 * Another number of partitions: the same contents, whatever is in the way is
 * left alone, and what an interrupted run leaves is removed.
 */
#include "api/fixture.h"

#include "io/io.h"

static char beside[PATH_SIZE];

static int set_up(void **state)
{
    make_directory(state);
    inside(beside, directory, "db.repartition");
    return 0;
}

static int tear_down(void **state)
{
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

#define REPARTITION_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static bool is_there(const char *name)
{
    struct stat status;
    return lstat(name, &status) == 0;
}

enum { KEYS = 500 };

/* Some are overwritten, some deleted, one is large, one empty. */
static void create(uint32_t partitions)
{
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = partitions;
    bitkv *db = open_with(&o);
    static char value[100000];
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t key = round * 100; key < KEYS; key++) {
            fill(value, 500, key + round);
            ok(bitkv_put(db, &key, sizeof key, value, 300 + key % 200));
        }
    }
    for (uint32_t key = 0; key < KEYS; key += 7)
        ok(bitkv_del(db, &key, sizeof key));
    fill(value, sizeof value, 12345);
    ok(bitkv_put(db, "large", 5, value, sizeof value));
    ok(bitkv_put(db, "empty", 5, NULL, 0));
    ok(bitkv_close(db));
}

static void expect_contents(uint32_t partitions)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.create_if_missing = false;
    o.strict_recovery = true;
    o.partitions = partitions;
    bitkv *db = open_with(&o);
    static char value[100000];
    static char expected[100000];
    size_t size;
    uint64_t keys = 2;
    for (uint32_t key = 0; key < KEYS; key++) {
        if (key % 7 == 0) {
            assert_int_equal(bitkv_exists(db, &key, sizeof key), BITKV_NOT_FOUND);
            continue;
        }
        keys++;
        fill(expected, 500, key + (key >= 100));
        ok(bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size));
        assert_int_equal(size, 300 + key % 200);
        assert_memory_equal(value, expected, size);
    }
    fill(expected, sizeof expected, 12345);
    ok(bitkv_get_into(db, "large", 5, value, sizeof value, &size));
    assert_int_equal(size, sizeof expected);
    assert_memory_equal(value, expected, size);
    ok(bitkv_get_into(db, "empty", 5, value, sizeof value, &size));
    assert_int_equal(size, 0);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.partitions, partitions);
    assert_int_equal(s.keys, keys);
    assert_int_equal(s.recovery.log_records + s.recovery.hint_records, 0); /* closed well */
    ok(bitkv_close(db));
}

static void contents_stay_the_same(void **state)
{
    (void)state;
    create(1);
    static const uint32_t counts[] = {8, 3, 3, 1, 40};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        ok(bitkv_repartition(path, counts[i], NULL));
        assert_false(is_there(beside));
        char name[PATH_SIZE];
        assert_false(is_there(inside(name, path, "REPARTITION")));
        expect_contents(counts[i]);
    }
}

static void a_database_that_was_not_closed_is_taken_as_it_is(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    die_with_keys(&o, 400, 900);
    ok(bitkv_repartition(path, 4, NULL));
    bitkv *db = open_with(NULL);
    assert_int_equal(statistics_of(db).keys, 400);
    ok(bitkv_close(db));
}

/* What does not verify would be left behind, and the database that has the rest of it
 * erased: it is for its owner to say that what is lost is lost. */
static void a_damaged_database_is_left_alone(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    bitkv *db = open_with(&o);
    static char value[1000];
    for (uint32_t key = 0; key < KEYS; key++)
        ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
    ok(bitkv_close(db));
    char name[PATH_SIZE];
    int fd = open(inside(name, path, "partition_0/data_1.db"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "rot", 3, 2000), 3);
    (void)close(fd);
    assert_int_equal(unlink(inside(name, path, "partition_0/keydir.ckp")), 0);
    assert_int_equal(unlink(inside(name, path, "partition_0/hint_1.ht")), 0);
    fails(BITKV_ERR_CORRUPT, bitkv_repartition(path, 5, NULL));
    assert_non_null(strstr(bitkv_error_context(), "data_1.db"));
    assert_false(is_there(beside));
    db = open_with(&o);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.partitions, 1);
    assert_int_equal(s.keys, KEYS - 1);
    assert_int_equal(s.recovery.damaged_regions, 1);
    ok(bitkv_close(db));
}

static void options_and_permissions_carry_over(void **state)
{
    (void)state;
    create(1);
    char name[PATH_SIZE];
    assert_int_equal(chmod(path, 0750), 0);
    assert_int_equal(chmod(inside(name, path, "MANIFEST"), 0640), 0);
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    options.max_file_size = 64 << 10;
    options.io_mode = BITKV_IO_PWRITE;
    ok(bitkv_repartition(path, 2, &options));
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0750);
    assert_int_equal(stat(name, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    assert_true(count_names(inside(name, path, "partition_0"), "data_", ".db") > 1);
    expect_contents(2);
}

static void a_database_in_use_is_left_alone(void **state)
{
    (void)state;
    create(2);
    bitkv_options o;
    bitkv_options_init(&o);
    bitkv *db = open_with(&o);
    fails(BITKV_ERR_LOCKED, bitkv_repartition(path, 3, NULL));
    ok(bitkv_close(db));
    expect_contents(2);
    o.read_only = true; /* who only reads learns of it at his next refresh */
    db = open_with(&o);
    ok(bitkv_repartition(path, 3, NULL));
    fails(BITKV_ERR_STALE, bitkv_refresh(db));
    ok(bitkv_close(db));
    expect_contents(3);
}

static void what_is_in_the_way_is_left_alone(void **state)
{
    (void)state;
    create(2);
    char name[PATH_SIZE];
    fails(BITKV_ERR_INVALID, bitkv_repartition(path, 0, NULL));
    fails(BITKV_ERR_INVALID, bitkv_repartition(path, 1025, NULL));
    fails(BITKV_ERR_INVALID, bitkv_repartition(NULL, 1, NULL));
    fails(BITKV_ERR_NO_DATABASE, bitkv_repartition(inside(name, directory, "none"), 1, NULL));

    assert_int_equal(mkdir(beside, 0700), 0); /* empty: nobody's */
    int fd = open(inside(name, beside, "notes"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    fails(BITKV_ERR_EXISTS, bitkv_repartition(path, 3, NULL));
    context_has("in the way");
    assert_true(is_there(name));
    remove_tree(beside);

    /* Another database of that name. */
    bitkv *db = NULL;
    ok(bitkv_open(&db, beside, NULL));
    ok(bitkv_put(db, "k", 1, "v", 1));
    ok(bitkv_close(db));
    uint64_t before = fingerprint(beside);
    fails(BITKV_ERR_EXISTS, bitkv_repartition(path, 3, NULL));
    assert_true(fingerprint(beside) == before);
    remove_tree(beside);

    fd = open(inside(name, path, "notes"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    before = fingerprint(path);
    fails(BITKV_ERR_EXISTS, bitkv_repartition(path, 3, NULL));
    context_has("notes");
    assert_true(fingerprint(path) == before);
    assert_false(is_there(beside));
    (void)unlink(name);
    expect_contents(2);
}

static int stop_at(void *user, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    return --*(int *)user == 0;
}

static void a_canceled_run_changes_nothing(void **state)
{
    (void)state;
    create(2);
    uint64_t before = fingerprint(path);
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    int left;
    options.progress = stop_at;
    options.user = &left;
    for (int at = 1; at < 2 * KEYS * 6 / 7; at += 100) {
        left = at;
        fails(BITKV_ERR_CANCELED, bitkv_repartition(path, 5, &options));
        assert_false(is_there(beside));
        assert_true(fingerprint(path) == before);
    }
    left = 0;
    ok(bitkv_repartition(path, 5, &options));
    expect_contents(5);
}

/* --- what the file system refuses ------------------------------------------------- */

static struct bkv_io_ops ops;
static int exchange_error;

static int on_renameat2(int dirfd, const char *from, const char *to, unsigned flags)
{
    if (exchange_error == 0)
        return bkv_io_kernel.renameat2(dirfd, from, to, flags);
    errno = exchange_error;
    return -1;
}

static int on_fallocate(int fd, off_t offset, off_t size)
{
    (void)fd, (void)offset, (void)size;
    errno = ENOSPC;
    return -1;
}

static void where_nothing_can_be_swapped_nothing_is_changed(void **state)
{
    (void)state;
    create(2);
    uint64_t before = fingerprint(path);
    static const int errors[] = {EINVAL, EBUSY, EACCES, ENOSYS};
    static const int codes[] = {BITKV_ERR_INVALID, BITKV_ERR_INVALID, BITKV_ERR_PERMISSION,
                                BITKV_ERR_INVALID};
    for (size_t i = 0; i < 4; i++) {
        ops = bkv_io_kernel;
        ops.renameat2 = on_renameat2;
        bkv_io = &ops;
        exchange_error = errors[i];
        fails(codes[i], bitkv_repartition(path, 3, NULL));
        assert_false(is_there(beside));
        assert_true(fingerprint(path) == before);
    }
    ops = bkv_io_kernel;
    ops.fallocate = on_fallocate;
    fails(BITKV_ERR_NO_SPACE, bitkv_repartition(path, 3, NULL));
    bkv_io = &bkv_io_kernel;
    assert_false(is_there(beside));
    assert_true(fingerprint(path) == before);
    expect_contents(2);
}

/* --- who opens meanwhile ------------------------------------------------------------ */

/* The first lock that is asked for comes only after the swap. */
static bool swapped;

static int on_flock(int fd, int operation)
{
    if (!swapped) {
        swapped = true;
        bkv_io = &bkv_io_kernel;
        ok(bitkv_repartition(path, 7, NULL));
    }
    return bkv_io_kernel.flock(fd, operation);
}

static void who_locks_the_old_directory_too_late_gets_the_new_one(void **state)
{
    (void)state;
    create(2);
    ops = bkv_io_kernel;
    ops.flock = on_flock;
    swapped = false;
    bkv_io = &ops;
    expect_contents(7);
    assert_true(swapped);
}

static void deadlines_stay(void **state)
{
    (void)state;
    bitkv_key_info before;
    bitkv_key_info after;
    bitkv_key_info_init(&before);
    bitkv_key_info_init(&after);
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_put_options for_an_hour;
    bitkv_put_options_init(&for_an_hour);
    for_an_hour.ttl_ms = 3600 * 1000;
    ok(bitkv_put_if(db, "key", 3, "value", 5, &for_an_hour, NULL));
    ok(bitkv_info(db, "key", 3, &before));
    ok(bitkv_close(db));
    ok(bitkv_repartition(path, 3, NULL));
    bitkv_options o;
    bitkv_options_init(&o);
    ok(bitkv_open(&db, path, &o));
    ok(bitkv_info(db, "key", 3, &after));
    assert_int_equal(after.deadline_ms, before.deadline_ms);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        REPARTITION_TEST(contents_stay_the_same),
        REPARTITION_TEST(deadlines_stay),
        REPARTITION_TEST(a_database_that_was_not_closed_is_taken_as_it_is),
        REPARTITION_TEST(a_damaged_database_is_left_alone),
        REPARTITION_TEST(options_and_permissions_carry_over),
        REPARTITION_TEST(a_database_in_use_is_left_alone),
        REPARTITION_TEST(what_is_in_the_way_is_left_alone),
        REPARTITION_TEST(a_canceled_run_changes_nothing),
        REPARTITION_TEST(where_nothing_can_be_swapped_nothing_is_changed),
        REPARTITION_TEST(who_locks_the_old_directory_too_late_gets_the_new_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
