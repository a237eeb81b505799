/* SPDX-License-Identifier: MIT */
/*
 * What an attacker found in followers, backups that replace others, and the choice of
 * what to compact, each with a test of its own. (The races of a refresh are among the
 * schedules: concurrent/schedules/test_refresh.c.)
 */
#include "api/compaction.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>

static const bitkv_io_mode modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};

/* --- files that were written anew ---------------------------------------------------------- */

static void leave_doubt(void)
{
    char name[PATH_SIZE];
    int fd = open(in_partition(name, "sync_failed"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
}

static unsigned drain(bitkv_feed *feed)
{
    unsigned count = 0;
    bitkv_change change;
    int rc;
    while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK)
        count++;
    fails(BITKV_NOT_FOUND, rc);
    return count;
}

/* After a failed sync the writer's opening replaces a segment by a copy; a follower that
 * had the old file open took every new key in it for damaged. */
static void a_follower_reads_the_file_that_took_the_place_of_another(void **state)
{
    (void)state;
    enum { OLD = 200, ALL = 400 };
    for (unsigned variant = 0; variant < 8; variant++) {
        remove_tree(path);
        bitkv_options o = by_hand(modes[variant & 1]);
        o.max_file_size = 4 << 20;
        if ((variant & 4) != 0) {
            die_with_keys(&o, OLD, 100); /* with space behind its end */
        } else {
            bitkv *db = open_with(&o);
            put_all(db, OLD, 1, 100);
            ok(bitkv_close(db));
        }
        bitkv_options f = by_hand(modes[(variant >> 1) & 1]);
        f.read_only = true;
        f.max_file_size = o.max_file_size;
        bitkv *follower = open_with(&f);
        for (uint32_t key = 0; key < OLD; key++) {
            void *value;
            ok(bitkv_get(follower, &key, sizeof key, &value, NULL)); /* it is open now */
            bitkv_free(value);
        }
        bitkv_feed *feed;
        ok(bitkv_feed_open(&feed, follower, NULL, BITKV_FEED_OLDEST));
        assert_int_equal(drain(feed), OLD);
        leave_doubt();
        bitkv *db = open_with(&o);
        for (uint32_t key = OLD - 50; key < ALL; key++)
            put_version(db, key, 2, 100);
        ok(bitkv_refresh(follower));
        for (uint32_t key = OLD - 50; key < ALL; key++)
            expect_version(follower, key, 2, 100);
        assert_int_equal(drain(feed), ALL - OLD + 50);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(follower));
        ok(bitkv_close(db));
    }
}

/* --- backups that replace ----------------------------------------------------------------------
 */

static char target[PATH_SIZE];
static _Atomic bool coming_between; /* before the target's lock is taken */

/* The earlier backup is opened, so it is a database of its own, and worked in. */
static void work_in_target(void)
{
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.create_if_missing = false;
    bitkv *db = NULL;
    ok(bitkv_open(&db, target, &o));
    ok(bitkv_put_with(db, "work", 4, "of hours", 8, BITKV_DURABILITY_SYNC));
    ok(bitkv_close(db));
}

static int on_flock(int fd, int operation)
{
    struct stat of_fd, of_target;
    if ((operation & LOCK_EX) != 0 && fstat(fd, &of_fd) == 0 && stat(target, &of_target) == 0 &&
        of_fd.st_ino == of_target.st_ino && atomic_exchange(&coming_between, false))
        work_in_target();
    return bkv_io_kernel.flock(fd, operation);
}

static bitkv *make_earlier(void)
{
    inside(target, directory, "backup");
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 100, 1, 100);
    ok(bitkv_backup(db, target, NULL));
    put_all(db, 100, 2, 100);
    return db;
}

/* The marker was looked at before the lock was had. */
static void a_backup_that_becomes_a_database_meanwhile_is_not_replaced(void **state)
{
    (void)state;
    bitkv *db = make_earlier();
    static struct bkv_io_ops ops;
    ops = bkv_io_kernel;
    ops.flock = on_flock;
    bkv_io = &ops;
    atomic_store(&coming_between, true);
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    assert_false(atomic_load(&coming_between));
    bkv_io = &bkv_io_kernel;
    ok(bitkv_close(db));
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    ok(bitkv_open(&db, target, &o));
    expect_text(db, "work", "of hours");
    expect_all(db, 100, 1, 100);
    ok(bitkv_close(db));
}

static char moved[PATH_SIZE], strangers[PATH_SIZE];
static bool moving;

static int move_target(void *user, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    if (!moving)
        return 0;
    moving = false;
    assert_int_equal(rename(target, moved), 0);
    assert_int_equal(mkdir(target, 0700), 0);
    int fd = open(strangers, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    return 0;
}

/* By name the stranger's directory was exchanged, and the earlier backup emptied. */
static void a_target_that_is_moved_away_stays_what_it_is(void **state)
{
    (void)state;
    bitkv *db = make_earlier();
    inside(moved, directory, "moved");
    inside(strangers, target, "file");
    moving = true;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.progress = move_target;
    fails(BITKV_ERR_LOCKED, bitkv_backup(db, target, &options));
    assert_false(moving);
    assert_int_equal(access(strangers, F_OK), 0);
    ok(bitkv_close(db));
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.create_if_missing = false;
    o.strict_recovery = true;
    ok(bitkv_open(&db, moved, &o));
    expect_all(db, 100, 1, 100);
    ok(bitkv_close(db));
}

/* --- what to compact
 * ------------------------------------------------------------------------------ */

static bitkv *filling;
static pthread_t choosing;
static _Atomic bool filled;

/* One record more in the segment that is written, which is full then. */
static void *fill_tail(void *unused)
{
    (void)unused;
    const struct bkv_segment *tail = filling->partitions[0]->tail.segment;
    put_version(filling, 1, 2, 100);
    put_version(filling, 2, 2, 60000);
    while (atomic_load(&tail->phase) != BKV_PHASE_FINISHED)
        sleep_ms(1);
    return NULL;
}

static bool fill_at_first_allocation(size_t size, void *user)
{
    (void)size, (void)user;
    if (pthread_equal(pthread_self(), choosing) && !atomic_exchange(&filled, true)) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, fill_tail, NULL), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    return true;
}

/* Its last record was written after the log's end had been looked at, but before the
 * walk came to it: its age was 0, and divided by. */
static void a_segment_may_fill_while_compaction_chooses(void **state)
{
    (void)state;
    filling = open_by_hand(BITKV_IO_AUTO);
    put_version(filling, 0, 1, 100);
    put_version(filling, 0, 2, 100);
    choosing = pthread_self();
    atomic_store(&filled, false);
    struct bkv_partition *p = filling->partitions[0];
    struct bkv_look look;
    struct bkv_run run;
    bitkv *db = filling;
    compact(db);                       /* this thread has been in a section since */
    put_version(filling, 3, 1, 30000); /* nearly all of it is soon dead */
    put_version(filling, 3, 2, 30000);
    put_version(filling, 3, 3, 100);
    bkv_alloc_set_hook(fill_at_first_allocation, NULL);
    int rc = bkv_run_choose(p, &look, &run);
    bkv_alloc_set_hook(NULL, NULL);
    assert_true(atomic_load(&filled));
    assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
    expect_version(filling, 1, 2, 100);
    ok(bitkv_close(filling));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_follower_reads_the_file_that_took_the_place_of_another),
        TEST(a_backup_that_becomes_a_database_meanwhile_is_not_replaced),
        TEST(a_target_that_is_moved_away_stays_what_it_is),
        TEST(a_segment_may_fill_while_compaction_chooses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
