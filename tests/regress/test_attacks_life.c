/* SPDX-License-Identifier: MIT */
/* What compaction, batches, expiry, snapshots, backups and followers could be made
 * to do wrong to each other: found by reading the code with ill will. */
#include "api/fixture.h"

#include "io/io.h"

#include <errno.h>
#include <stdatomic.h>

static char target[PATH_SIZE];
static char older[PATH_SIZE];
static struct bkv_io_ops ops;

static int set_up(void **state)
{
    make_directory(state);
    inside(target, directory, "backup");
    inside(older, directory, "older");
    ops = bkv_io_kernel;
    bkv_io = &ops;
    return 0;
}

static int tear_down(void **state)
{
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

#define LIFE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static int count_unfinished(void *user, const bitkv_segment_info *info)
{
    *(unsigned *)user += info->phase == BITKV_SEGMENT_SEALED;
    return 0;
}

static void wait_finished(bitkv *db)
{
    unsigned sealed;
    do {
        sealed = 0;
        ok(bitkv_segments(db, BITKV_ALL_PARTITIONS, count_unfinished, &sealed));
        if (sealed > 0)
            sleep_ms(1);
    } while (sealed > 0);
}

/* --- backups ------------------------------------------------------------------------ */

/* The backup lies on another file system than the database. */
static int refuse_links_from_the_database(int from_dirfd, const char *from, int to_dirfd,
                                          const char *to)
{
    struct stat source;
    struct stat database;
    if (fstat(from_dirfd, &source) == 0 && stat(path, &database) == 0 &&
        source.st_ino == database.st_ino) {
        errno = EXDEV;
        return -1;
    }
    return bkv_io_kernel.linkat(from_dirfd, from, to_dirfd, to);
}

enum { IMPORTED = 300, IMPORTED_SIZE = 1000 };

static void import(bitkv *db, unsigned char with)
{
    unsigned char value[IMPORTED_SIZE];
    memset(value, with, sizeof value);
    for (uint32_t key = 0; key < IMPORTED; key++) {
        ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
        wait_finished(db); /* marks in the same places */
    }
}

static void import_and_back_up(unsigned char with)
{
    bitkv *db = open_small(BITKV_IO_AUTO);
    import(db, with);
    ok(bitkv_backup(db, target, NULL));
    ok(bitkv_close(db));
}

/* A database is put back to an older state, and the import that went wrong made
 * once more: same keys, same sizes, other values. The hints of its segments are
 * those of the wrong import, byte for byte; so the backup of that was taken for
 * one that has these segments already, and kept the wrong values. */
static void a_backup_after_a_rollback_has_the_new_values(void **state)
{
    (void)state;
    ops.linkat = refuse_links_from_the_database;
    bitkv *db = open_small(BITKV_IO_AUTO);
    put_text(db, "key", "value");
    ok(bitkv_close(db));
    copy_tree(path, older);
    import_and_back_up('x');
    remove_tree(path);
    copy_tree(older, path);
    import_and_back_up('y');
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.read_only = true;
    db = NULL;
    ok(bitkv_open(&db, target, &o));
    for (uint32_t key = 0; key < IMPORTED; key++) {
        char value[IMPORTED_SIZE];
        ok(bitkv_get_into(db, &key, sizeof key, value, sizeof value, NULL));
        assert_int_equal(value[0], 'y');
    }
    ok(bitkv_close(db));
}

/* --- followers ---------------------------------------------------------------------- */

static bitkv *writer;
static unsigned listings_until; /* the writer goes on before this listing */

static void put_numbered(bitkv *db, const char *kind, unsigned n, size_t size, int with)
{
    char key[32];
    char value[1000];
    memset(value, with, sizeof value);
    (void)snprintf(key, sizeof key, "%s-%u", kind, n);
    ok(bitkv_put(db, key, strlen(key), value, size));
}

static unsigned count_numbered(bitkv *db, const char *kind, unsigned count)
{
    unsigned there = 0;
    for (unsigned i = 0; i < count; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%s-%u", kind, i);
        int rc = bitkv_exists(db, key, strlen(key));
        assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
        there += rc == BITKV_OK;
    }
    return there;
}

enum { OLD = 100, FILLERS = 150, TOGETHER = 64 };

/* A batch in a segment of partition 0 that is new since it was listed, and in
 * partition 1, which is compacted then. */
static void go_on(void)
{
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    for (unsigned i = 0; i < FILLERS; i++)
        put_numbered(writer, "filler", i, 1000, 1);
    for (unsigned i = 0; i < TOGETHER; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "together-%u", i);
        ok(bitkv_batch_put(batch, key, strlen(key), "value", 5));
    }
    ok(bitkv_write(writer, batch, BITKV_DURABILITY_NONE));
    bitkv_batch_destroy(batch);
    for (unsigned i = 0; i < OLD; i++)
        put_numbered(writer, "old", i, 100, 2);
    ok(bitkv_compact(writer, 1, NULL, NULL));
}

static DIR *on_fdopendir(int fd)
{
    if (listings_until > 0 && --listings_until == 0)
        go_on();
    return bkv_io_kernel.fdopendir(fd);
}

/* A refresh listed one directory after the other. What compaction had made of a
 * batch's part in the second partition was taken as it was, though the list of the
 * first was too old to have the file with the other part. */
static void a_compacted_part_of_a_batch_is_not_seen_alone(void **state)
{
    (void)state;
    ops.fdopendir = on_fdopendir;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 2;
    o.auto_compact = false;
    writer = open_with(&o);
    for (unsigned i = 0; i < OLD; i++)
        put_numbered(writer, "old", i, 100, 1);
    o.read_only = true;
    bitkv *follower = open_with(&o);
    assert_int_equal(count_numbered(follower, "old", OLD), OLD);
    listings_until = 3; /* each is listed twice: the first of the second partition */
    ok(bitkv_refresh(follower));
    assert_int_equal(listings_until, 0);
    assert_int_equal(count_numbered(follower, "old", OLD), OLD);
    unsigned together = count_numbered(follower, "together", TOGETHER);
    assert_true(together == 0 || together == TOGETHER);
    ok(bitkv_refresh(follower));
    assert_int_equal(count_numbered(follower, "together", TOGETHER), TOGETHER);
    ok(bitkv_close(follower));
    ok(bitkv_close(writer));
}

/* --- empty segments ----------------------------------------------------------------- */

static _Atomic bool no_more_space;

static int on_fallocate(int fd, off_t offset, off_t size)
{
    if (no_more_space && offset > 0) {
        errno = ENOSPC;
        return -1;
    }
    return bkv_io_kernel.fallocate(fd, offset, size);
}

static unsigned partition_of(bitkv *db, const char *key)
{
    bitkv_statistics before;
    bitkv_statistics after;
    bitkv_statistics_init(&before);
    bitkv_statistics_init(&after);
    ok(bitkv_stats(db, 0, &before));
    put_text(db, key, "probe");
    ok(bitkv_stats(db, 0, &after));
    return after.puts_total == before.puts_total;
}

static void find_key(bitkv *db, unsigned partition, char key[32])
{
    static unsigned n;
    do
        (void)snprintf(key, 32, "key-%u", n++);
    while (partition_of(db, key) != partition);
}

enum { MIB = 1 << 20, JUMBO = 17 * MIB };

static void expect_bytes(bitkv *db, const char *key, size_t size, int with)
{
    void *value = NULL;
    size_t got = 0;
    ok(bitkv_get(db, key, strlen(key), &value, &got));
    assert_int_equal(got, size);
    assert_int_equal(((unsigned char *)value)[size - 1], with);
    bitkv_free(value);
}

/* A batch that finds no room in the second partition leaves the first one with an
 * empty segment; a record that needs one of its own seals it as that, and begins
 * with the same sequence number. */
static void leave_empty_segment(bitkv *db, const char *first, const char *second, const char *big)
{
    char *bytes = malloc(JUMBO);
    memset(bytes, 'a', JUMBO);
    for (unsigned i = 0; i < 15; i++)
        ok(bitkv_put(db, first, strlen(first), bytes, MIB));
    sleep_ms(100); /* a spare */
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_put(batch, first, strlen(first), bytes, 2 * MIB));
    ok(bitkv_batch_put(batch, second, strlen(second), bytes, 15 * MIB));
    no_more_space = true;
    assert_int_equal(bitkv_write(db, batch, BITKV_DURABILITY_NONE), BITKV_ERR_NO_SPACE);
    no_more_space = false;
    bitkv_batch_destroy(batch);
    ok(bitkv_put(db, big, strlen(big), bytes, JUMBO));
    free(bytes);
}

/* After a crash the empty one was taken for the later of the two, and gone on in.
 * An output that stood for the other stood for its base sequence, too: the next
 * opening removed it, with all that had been acknowledged since. */
static void what_follows_an_empty_segment_is_kept(void **state)
{
    (void)state;
    ops.fallocate = on_fallocate;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 2;
    o.max_file_size = 16 * MIB;
    o.auto_compact = false; /* nothing goes while it is copied */
    bitkv *db = open_with(&o);
    char first[32];
    char second[32];
    char big[32];
    find_key(db, 0, first);
    find_key(db, 1, second);
    find_key(db, 0, big);
    leave_empty_segment(db, first, second, big);
    copy_tree(path, target); /* as if it had been killed */
    ok(bitkv_close(db));

    o.strict_recovery = true;
    o.auto_compact = true;
    ok(bitkv_open(&db, target, &o));
    expect_bytes(db, first, MIB, 'a');
    expect_bytes(db, big, JUMBO, 'a');
    ok(bitkv_put_with(db, big, strlen(big), "z", 1, BITKV_DURABILITY_SYNC));
    ok(bitkv_put_with(db, second, strlen(second), "z", 1, BITKV_DURABILITY_SYNC));
    for (unsigned i = 0; i < 500 && statistics_of(db).compactions_total < 1; i++)
        sleep_ms(10);
    assert_true(statistics_of(db).compactions_total > 0);
    sleep_ms(200);
    ok(bitkv_close(db));
    ok(bitkv_open(&db, target, &o));
    expect_bytes(db, first, MIB, 'a');
    expect_bytes(db, big, 1, 'z');
    expect_bytes(db, second, 1, 'z');
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LIFE_TEST(a_backup_after_a_rollback_has_the_new_values),
        LIFE_TEST(a_compacted_part_of_a_batch_is_not_seen_alone),
        LIFE_TEST(what_follows_an_empty_segment_is_kept),
    };
    return cmocka_run_group_tests_name("attacks_life", tests, NULL, NULL);
}
