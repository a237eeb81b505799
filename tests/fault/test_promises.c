/* SPDX-License-Identifier: MIT */
/*
 * Promises of docs/durability.md about what a failing or hostile surrounding may
 * do: lost data acknowledges nothing, an opening without what it needs never opens
 * empty, faults under mappings are errors, links lead nowhere, and keys that were
 * chosen to collide do not.
 */
#include "api/queue.h"

#include "base/hash.h"
#include "damage/lab.h"
#include "fault/faults.h"
#include "log/manifest.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define LARGE 20000u

static int begin(void **state)
{
    (void)make_directory(state);
    fault_install();
    return 0;
}

static int end(void **state)
{
    fault_uninstall();
    return remove_directory(state);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, begin, end)

/* --- after a failed sync ---------------------------------------------------------- */

static int wants_deletion(void *user, bitkv_update_step *step)
{
    (void)user;
    (void)step;
    return BITKV_UPDATE_DELETE;
}

static void expect_all_refused(bitkv *db)
{
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    int64_t sum;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put(db, "new", 3, "1", 1));
    /* Put and never synced: if it was lost, it could be put. */
    o.condition = BITKV_IF_ABSENT;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put_if(db, "put", 3, "2", 1, &o, NULL));
    o.condition = BITKV_IF_VERSION;
    o.version = 999;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put_if(db, "put", 3, "2", 1, &o, NULL));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_del_if(db, "put", 3, 999, BITKV_DURABILITY_NONE));
    /* Deleted and never synced: if the tombstone was lost, it is there again. */
    fails(BITKV_ERR_SYNC_FAILED, bitkv_del(db, "deleted", 7));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_del_if(db, "deleted", 7, 1, BITKV_DURABILITY_NONE));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_touch(db, "deleted", 7, 1000));
    o.condition = BITKV_IF_PRESENT;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put_if(db, "deleted", 7, "2", 1, &o, NULL));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_update(db, "deleted", 7, wants_deletion, NULL, 0));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_add(db, "put", 3, 1, &sum));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_del(batch, "deleted", 7));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    bitkv_batch_destroy(batch);
    bitkv_cq *cq = queue_of(db, 0);
    assert_int_equal(one(cq, op_key(BITKV_OP_DEL, "deleted")).status, BITKV_ERR_SYNC_FAILED);
    assert_int_equal(one(cq, op_put("put", "2")).status, BITKV_ERR_SYNC_FAILED);
    assert_int_equal(one(cq, (bitkv_op){.kind = BITKV_OP_SYNC}).status, BITKV_ERR_SYNC_FAILED);
    ok(bitkv_cq_destroy(cq));
    expect_text(db, "put", "1"); /* reads go on */
    fails(BITKV_NOT_FOUND, bitkv_exists(db, "deleted", 7));
}

static void what_rests_on_a_failed_sync_is_not_acknowledged(void **state)
{
    (void)state;
    static const int errors[] = {EIO, ENOSPC, EINTR, EMFILE};
    for (unsigned e = 0; e < 4; e++) {
        for_both_modes(mode)
        {
            bitkv *db = open_small(mode);
            put_text(db, "deleted", "1");
            ok(bitkv_sync(db));
            put_text(db, "put", "1");
            ok(bitkv_del(db, "deleted", 7));
            fault_arm(FAULT_fdatasync, 0, 1, errors[e]);
            fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
            assert_int_equal(fault_fired(), 1);
            expect_all_refused(db);
            /* And the disk was not asked again, by anyone. */
            fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
            assert_int_equal(fault_calls(), 1);
            fault_disarm();
        }
    }
}

/* A write that could not be made for want of a descriptor is tried again; not with
 * what was left of it when it was taken back. */
static void a_batch_that_was_taken_back_is_not_written_again(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.partitions = 2;
        bitkv *db = open_with(&o);
        bitkv_batch *batch;
        for (uint32_t key = 100; key < 120; key++) /* each partition has its file */
            ok(bitkv_put(db, &key, sizeof key, "", 0));
        ok(bitkv_batch_create(&batch));
        for (uint32_t key = 0; key < 20; key++)
            ok(bitkv_batch_put(batch, &key, sizeof key, &key, sizeof key));
        for (uint32_t n = 0; n < 3; n++) {
            fault_arm(FAULT_pwrite, n, 1, ENFILE);
            int rc = bitkv_write(db, batch, BITKV_DURABILITY_SYNC);
            assert_int_equal(fault_fired(), 1);
            fault_disarm();
            assert_true(rc < 0);
            for (uint32_t key = 0; key < 20; key++)
                fails(BITKV_NOT_FOUND, bitkv_exists(db, &key, sizeof key));
        }
        ok(bitkv_write(db, batch, BITKV_DURABILITY_SYNC));
        bitkv_batch_destroy(batch);
        for (uint32_t key = 0; key < 20; key++) {
            uint32_t value = 99;
            size_t size;
            ok(bitkv_get_into(db, &key, sizeof key, &value, sizeof value, &size));
            assert_int_equal(value, key);
        }
        ok(bitkv_close(db));
    }
}

/* --- openings that lack something ---------------------------------------------------- */

static void make_closed(bitkv_io_mode mode)
{
    static const char value[LARGE];
    bitkv *db = open_small(mode);
    put_text(db, "key", "value");
    for (uint32_t i = 0; i < 8; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    ok(bitkv_close(db));
}

/* What opens under the fault that is armed is complete; what does not says why.
 * Returns whether the fault came about. */
static bool expect_opening(bool read_only, int code, uint32_t *refused)
{
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 0;
    o.read_only = read_only;
    bitkv *db;
    int rc = bitkv_open(&db, path, &o);
    bool fired = fault_fired() > 0;
    fault_disarm();
    if (rc == BITKV_OK) {
        expect_text(db, "key", "value");
        assert_int_equal(statistics_of(db).keys, 9);
        ok(bitkv_close(db));
    } else {
        assert_int_equal(rc, code);
        assert_null(db);
        assert_string_not_equal(bitkv_error_context(), "");
        ++*refused;
    }
    return fired;
}

static void an_opening_without_descriptors_says_so_and_never_opens_empty(void **state)
{
    (void)state;
    struct rlimit before, few;
    make_closed(BITKV_IO_AUTO);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (int read_only = 0; read_only < 2; read_only++) {
        unsigned refused = 0;
        bool opened = false;
        for (rlim_t more = 0; !opened; more++) {
            int next = dup(0);
            assert_true(next >= 0 && more < 64);
            (void)close(next);
            few = before;
            few.rlim_cur = (rlim_t)next + more;
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
            bitkv_options o = one_partition(BITKV_IO_AUTO);
            o.partitions = 0;
            o.read_only = read_only != 0;
            bitkv *db;
            int rc = bitkv_open(&db, path, &o);
            assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
            opened = rc == BITKV_OK;
            refused += !opened;
            if (!opened)
                assert_int_equal(rc, BITKV_ERR_TOO_MANY_FILES);
            else
                expect_text(db, "key", "value");
            ok(bitkv_close(db));
        }
        assert_true(refused > 0);
    }
}

/* Wherever in it, of whichever directory. */
static void a_listing_that_ends_early_is_no_short_directory(void **state)
{
    (void)state;
    static const int errors[] = {EIO, ENOMEM, EBADF, ENOENT};
    make_closed(BITKV_IO_AUTO);
    for (unsigned e = 0; e < 4; e++) {
        for (int read_only = 0; read_only < 2; read_only++) {
            bool fired = true;
            uint32_t refused = 0;
            for (uint32_t n = 0; fired; n++) {
                fault_arm(FAULT_readdir, n, 1, errors[e]);
                fired = expect_opening(read_only != 0,
                                       errors[e] == ENOMEM ? BITKV_ERR_NO_MEMORY : BITKV_ERR_IO,
                                       &refused);
            }
            assert_true(refused > 3);
        }
    }
}

static void what_may_not_be_read_is_not_absent(void **state)
{
    (void)state;
    static const int errors[] = {EACCES, EPERM};
    make_closed(BITKV_IO_AUTO);
    for (unsigned e = 0; e < 2; e++) {
        for (int read_only = 0; read_only < 2; read_only++) {
            bool fired = true;
            uint32_t refused = 0;
            for (uint32_t n = 0; fired; n++) {
                fault_arm(FAULT_openat, n, 1, errors[e]);
                fired = expect_opening(read_only != 0, BITKV_ERR_PERMISSION, &refused);
            }
            assert_true(refused > 1);
        }
    }
}

/* --- faults under mappings -------------------------------------------------------------- */

static void expect_read_error(int rc, const char *call)
{
    if (rc != BITKV_ERR_IO && rc != BITKV_ERR_CORRUPT)
        fail_msg("%s: %s", call, bitkv_error_name(rc));
    assert_string_not_equal(bitkv_error_context(), "");
}

static int count_record(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(unsigned *)user;
    return 0;
}

/* The file that has the first keys is cut under its mapping: the pages behind that
 * are SIGBUS, as those that the device cannot read. */
static void a_fault_under_a_mapping_is_an_error_of_every_read(void **state)
{
    (void)state;
    static char value[LARGE];
    static char buffer[LARGE];
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.auto_compact = false;
    o.feed_retention_bytes = UINT64_C(1) << 40;
    bitkv *db = open_with(&o);
    for (uint32_t i = 0; i < 8; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    ok(bitkv_close(db));
    db = open_with(&o);
    uint32_t lost = 1, kept = 7;
    size_t size;
    ok(bitkv_get_into(db, &lost, sizeof lost, buffer, sizeof buffer, &size)); /* it is mapped */
    bitkv_snapshot *snapshot;
    ok(bitkv_snapshot_create(&snapshot, db));
    char name[PATH_SIZE];
    assert_int_equal(truncate(inside(name, path, "partition_0/data_1.db"), 4096), 0);

    void *got;
    bitkv_view view;
    bitkv_get_item item = {.key = &lost, .key_size = sizeof lost};
    expect_read_error(bitkv_get(db, &lost, sizeof lost, &got, &size), "get");
    assert_null(got);
    expect_read_error(bitkv_get_into(db, &lost, sizeof lost, buffer, sizeof buffer, &size), "into");
    expect_read_error(bitkv_get_view(db, &lost, sizeof lost, &view), "view");
    expect_read_error(bitkv_multi_get(db, &item, 1), "multi_get");
    expect_read_error(bitkv_snapshot_get(snapshot, &lost, sizeof lost, &got, &size), "snapshot");
    ok(bitkv_snapshot_destroy(snapshot));
    unsigned seen = 0;
    expect_read_error(bitkv_scan(db, BITKV_SCAN_ALL, count_record, &seen), "scan");
    assert_true(seen >= 5 && seen < 8); /* the others are visited */
    bitkv_cq *cq = queue_of(db, 0);
    bitkv_op op = {.kind = BITKV_OP_GET, .key = &lost, .key_size = sizeof lost};
    bitkv_completion c = one(cq, op);
    if (c.status != BITKV_ERR_IO && c.status != BITKV_ERR_CORRUPT)
        fail_msg("queue: %s", bitkv_error_name(c.status));
    ok(bitkv_cq_destroy(cq));
    bitkv_feed *feed;
    bitkv_change change;
    int rc;
    ok(bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST));
    for (unsigned i = 0; (rc = bitkv_feed_next(feed, &change)) == BITKV_OK; i++)
        assert_true(i < 8);
    expect_read_error(rc, "feed");
    ok(bitkv_feed_close(feed));
    char target[PATH_SIZE];
    expect_read_error(bitkv_backup(db, inside(target, directory, "backup"), NULL), "backup");
    ok(bitkv_get_into(db, &kept, sizeof kept, buffer, sizeof buffer, &size));
    put_text(db, "more", "1");
    ok(bitkv_close(db));
}

/* --- links -------------------------------------------------------------------------------- */

/* Where a file of the database is to be made, somebody has put a link. */
static void nothing_is_written_through_a_link(void **state)
{
    (void)state;
    static const char *const names[] = {"MANIFEST.tmp",
                                        "partition_0/data_3.db",
                                        "partition_0/hint_1.ht",
                                        "partition_0/hint_1.ht.tmp",
                                        "partition_0/keydir.ckp",
                                        "partition_0/keydir.ckp.tmp",
                                        "partition_0/data_1.db.tmp"};
    char victim[PATH_SIZE], link[PATH_SIZE];
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        remove_tree(path);
        make_closed(BITKV_IO_AUTO);
        int fd = open(inside(victim, directory, "victim"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "precious", 8), 8);
        (void)close(fd);
        uint64_t before = fingerprint(victim);
        (void)unlink(inside(link, path, names[i]));
        assert_int_equal(symlink(victim, link), 0);
        bitkv_options o = one_partition(BITKV_IO_AUTO);
        bitkv *db;
        if (bitkv_open(&db, path, &o) == BITKV_OK) {
            static const char value[LARGE];
            expect_text(db, "key", "value");
            for (uint32_t k = 0; k < 8; k++)
                (void)bitkv_put(db, &k, sizeof k, value, sizeof value);
            (void)bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
            expect_text(db, "key", "value");
            (void)bitkv_close(db);
        } else {
            assert_string_not_equal(bitkv_error_context(), "");
        }
        if (fingerprint(victim) != before)
            fail_msg("%s: the file that it led to was changed", names[i]);
    }
}

/* The directory itself may be called by a link: it is the same database, with one
 * lock. */
static void a_directory_has_one_lock_whatever_it_is_called(void **state)
{
    (void)state;
    char link[PATH_SIZE];
    make_closed(BITKV_IO_AUTO);
    assert_int_equal(symlink(path, inside(link, directory, "link")), 0);
    bitkv *db, *other;
    ok(bitkv_open(&db, link, NULL));
    expect_text(db, "key", "value");
    fails(BITKV_ERR_LOCKED, bitkv_open(&other, path, NULL));
    fails(BITKV_ERR_LOCKED, bitkv_open(&other, link, NULL));
    ok(bitkv_close(db));
    ok(bitkv_open(&db, path, NULL));
    fails(BITKV_ERR_LOCKED, bitkv_open(&other, link, NULL));
    ok(bitkv_close(db));
}

/* --- keys that were chosen to collide ----------------------------------------------------------
 */

enum { PARTITIONS = 16, FLOOD = 2000 };

static struct bkv_hash_key secret_of(const char *database)
{
    struct bkv_manifest manifest;
    struct bkv_dir *dir = lab_dir_open(database);
    ok(bkv_manifest_read(dir, &manifest));
    lab_dir_close(dir);
    return manifest.hash_key;
}

/* The largest share of keys in one partition. */
static uint64_t crowd_of(bitkv *db)
{
    uint64_t most = 0;
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        ok(bitkv_stats(db, p, &s));
        most = s.keys > most ? s.keys : most;
    }
    return most;
}

/* Keys that go to one place in one database are spread over another: its secret is its
 * own, and who does not know it cannot choose collisions. Who does is refused when the
 * place is full. */
static void keys_that_collide_in_one_database_do_not_in_another(void **state)
{
    (void)state;
    static uint64_t keys[FLOOD];
    static bool stored[FLOOD];
    char other[PATH_SIZE];
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = PARTITIONS;
    bitkv *known = open_with(&o);
    bitkv *db;
    ok(bitkv_open(&db, inside(other, directory, "other"), &o));
    struct bkv_hash_key secret = secret_of(path);
    uint64_t candidate = 0;
    for (unsigned i = 0; i < FLOOD; candidate++) {
        struct bkv_hash hash = bkv_hash(&secret, &candidate, sizeof candidate);
        if (bkv_hash_partition(&hash, PARTITIONS) == 0 && hash.lo >> 56 == 0)
            keys[i++] = candidate;
    }
    unsigned taken = 0;
    for (unsigned i = 0; i < FLOOD; i++) {
        ok(bitkv_put(db, &keys[i], sizeof keys[i], "1", 1));
        int put = bitkv_put(known, &keys[i], sizeof keys[i], "1", 1);
        if (put != BITKV_OK)
            assert_int_equal(put, BITKV_ERR_LIMIT);
        stored[i] = put == BITKV_OK;
        taken += stored[i];
    }
    assert_true(taken > 0);
    assert_true(crowd_of(db) < 2 * FLOOD / PARTITIONS);
    for (unsigned i = 0; i < FLOOD; i++) {
        fails(stored[i] ? BITKV_OK : BITKV_NOT_FOUND,
              bitkv_exists(known, &keys[i], sizeof keys[i]));
        ok(bitkv_exists(db, &keys[i], sizeof keys[i]));
    }
    int rc = bitkv_close(known); /* no checkpoint of what has no place yet */
    assert_true(rc == BITKV_OK || rc == BITKV_ERR_LIMIT);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(what_rests_on_a_failed_sync_is_not_acknowledged),
        PROMISE(a_batch_that_was_taken_back_is_not_written_again),
        PROMISE(an_opening_without_descriptors_says_so_and_never_opens_empty),
        PROMISE(a_listing_that_ends_early_is_no_short_directory),
        PROMISE(what_may_not_be_read_is_not_absent),
        PROMISE(a_fault_under_a_mapping_is_an_error_of_every_read),
        PROMISE(nothing_is_written_through_a_link),
        PROMISE(a_directory_has_one_lock_whatever_it_is_called),
        PROMISE(keys_that_collide_in_one_database_do_not_in_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
