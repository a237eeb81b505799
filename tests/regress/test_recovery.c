/* SPDX-License-Identifier: MIT */
/* Bugs of recovery that were found by other tests, each with one of its own. */
#include "api/scratch.h"

#include "damage/lab.h"
#include "io/io.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

static char directory[PATH_SIZE];
static char path[PATH_SIZE];
static char value[32 << 10];

static int setup(void **state)
{
    (void)state;
    make_scratch(directory);
    inside(path, directory, "db");
    memset(value, 'v', sizeof value);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_tree(directory);
    return 0;
}

static bitkv_options small_segments(bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 1;
    o.max_file_size = 64 << 10;
    o.io_mode = mode;
    o.durability = BITKV_DURABILITY_NONE;
    return o;
}

static _Atomic bool opened;

static int sync_never_ends(int fd)
{
    while (atomic_load(&opened))
        (void)pause();
    return bkv_io_kernel.fdatasync(fd);
}

/* A child that dies without closing, with segments that were never synced: none has a
 * hint, however slowly it dies. */
static void die_with_segments(bitkv_io_mode mode, unsigned count)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv_options o = small_segments(mode);
        struct bkv_io_ops ops = bkv_io_kernel;
        ops.fdatasync = sync_never_ends;
        bkv_io = &ops;
        bitkv *db;
        int rc = bitkv_open(&db, path, &o);
        atomic_store(&opened, true);
        for (unsigned i = 0; i < count && rc == BITKV_OK; i++)
            rc = bitkv_put(db, &i, sizeof i, value, sizeof value);
        _exit(-rc);
    }
    assert_int_equal(wait_child(child), 0);
}

/* Segments that recovery found unsynced have no descriptor: the sync that took
 * them in trapped. Reading first gives them one that cannot write. */
static void syncing_after_a_crash_takes_in_the_segments_that_it_left(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        bitkv_io_mode mode = round % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
        remove_tree(path);
        die_with_segments(mode, 40);
        bitkv_options o = small_segments(mode);
        bitkv *db;
        ok(bitkv_open(&db, path, &o));
        for (unsigned i = 0; i < 40 && round >= 4; i++)
            ok(bitkv_exists(db, &i, sizeof i));
        ok(bitkv_sync(db));
        ok(bitkv_close(db));
        o.strict_recovery = true;
        ok(bitkv_open(&db, path, &o));
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
        assert_int_equal(s.keys, 40);
        ok(bitkv_close(db));
    }
}

/* Without a checkpoint the replay began inside of the first segment's header,
 * took it for a torn record and cut the whole log. */
static void a_crash_before_the_first_checkpoint_loses_nothing(void **state)
{
    (void)state;
    for (unsigned count = 1; count <= 5; count += 2) {
        for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
            remove_tree(path);
            die_with_segments((bitkv_io_mode)mode, count);
            bitkv_options o = small_segments((bitkv_io_mode)mode);
            o.strict_recovery = true;
            bitkv *db;
            ok(bitkv_open(&db, path, &o));
            for (unsigned i = 0; i < count; i++)
                ok(bitkv_exists(db, &i, sizeof i));
            ok(bitkv_close(db));
        }
    }
}

/* The segment that is begun right after a checkpoint was written, in a file
 * that was there before, has the sequence number that the checkpoint ends at. */
static void a_segment_begun_after_the_checkpoint_does_not_invalidate_it(void **state)
{
    (void)state;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv_options o = small_segments(BITKV_IO_MMAP);
        o.sync_interval_ms = 100;
        o.checkpoint_interval_bytes = 32 << 10;
        bitkv *db;
        int rc = bitkv_open(&db, path, &o);
        /* The worker will look again in 100 ms ... */
        if (rc == BITKV_OK)
            rc = bitkv_put_with(db, "a", 1, "1", 1, BITKV_DURABILITY_INTERVAL);
        sleep_ms(30);
        if (rc == BITKV_OK)
            rc = bitkv_put(db, "b", 1, value, sizeof value);
        if (rc == BITKV_OK)
            rc = bitkv_put(db, "c", 1, value, 8 << 10);
        /* ... and finds nothing to sync, but a checkpoint to be written. */
        if (rc == BITKV_OK)
            rc = bitkv_sync(db);
        sleep_ms(400);
        if (rc == BITKV_OK)
            rc = bitkv_put(db, "d", 1, value, sizeof value);
        _exit(-rc);
    }
    assert_int_equal(wait_child(child), 0);
    bitkv_options o = small_segments(BITKV_IO_MMAP);
    o.strict_recovery = true;
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    assert_int_equal(s.recovery.rejected_checkpoints, 0);
    assert_int_equal(s.keys, 4);
    ok(bitkv_close(db));
}

static void count_warnings(void *user, bitkv_log_level level, const char *message)
{
    (void)message;
    *(unsigned *)user += level >= BITKV_LOG_WARNING;
}

static uint64_t torn_tails_of(bitkv *db)
{
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    return s.recovery.torn_tails;
}

/* A read-only opening that found a writer in the midst of a record, for longer than
 * it cared to wait, told of a crash, and never took that back. */
static void a_record_on_its_way_is_no_torn_tail(void **state)
{
    (void)state;
    unsigned warnings = 0;
    bitkv_options o = small_segments(BITKV_IO_PWRITE);
    bitkv *db;
    bitkv *follower;
    ok(bitkv_open(&db, path, &o));
    ok(bitkv_put(db, "a", 1, "1", 1));
    char name[PATH_SIZE];
    inside(name, path, "partition_0/data_1.db");
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    off_t end = 64 + 24; /* behind the header and one record */
    assert_int_equal(pwrite(fd, "half", 4, end + 8), 4);
    o.read_only = true;
    o.log = count_warnings;
    o.log_user = &warnings;
    ok(bitkv_open(&follower, path, &o));
    assert_int_equal(torn_tails_of(follower), 1); /* nothing has explained it yet */
    assert_int_equal(warnings, 0);
    assert_int_equal(pwrite(fd, "\0\0\0\0", 4, end + 8), 4);
    (void)close(fd);
    ok(bitkv_put(db, "b", 1, "2", 1));
    ok(bitkv_refresh(follower));
    ok(bitkv_exists(follower, "b", 1));
    assert_int_equal(torn_tails_of(follower), 0);
    assert_int_equal(warnings, 0);
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
}

#define M (&lab_manifest_1)

/* One small record, durable; a file of one large record without its first page; and
 * perhaps one behind it. */
static void make_headless(bool more, bool hint, bool zeros)
{
    static char large[20001];
    memset(large, 'x', sizeof large - 1);
    struct lab_image image = {.count = 0};
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_mark(&log, 2, 1, log.size);
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 0, 2, 3);
    (void)lab_log_put(&log, 3, "b", large);
    lab_log_end(&log, &image);
    if (hint)
        lab_add_hint(&image, M, 0, 2);
    struct lab_file *file = lab_image_find(&image, "partition_0/data_2.db");
    memset(file->data, zeros ? 0 : 'z', 4096);
    if (more) {
        lab_log_begin(&log, M, 0, 3, 4);
        (void)lab_log_put(&log, 4, "c", "1");
        (void)lab_log_mark(&log, 5, 3, log.size);
        lab_log_end(&log, &image);
    }
    lab_image_write(&image, path);
    lab_image_free(&image);
}

static bool file_2_is_there(void)
{
    char name[PATH_SIZE];
    return lab_exists(inside(name, path, "partition_0/data_2.db"));
}

/* It was damage to a strict opening, and to the others at every time. */
static void a_large_record_without_its_first_page_is_a_torn_tail(void **state)
{
    (void)state;
    bitkv *db;
    make_headless(false, false, true);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true, .read_only = true}),
                     BITKV_OK);
    lab_expect(db, "a", "1");
    ok(bitkv_close(db));
    assert_true(file_2_is_there());
    for (int again = 0; again < 2; again++) {
        ok(lab_open(&db, path, (struct lab_open){.strict = true}));
        assert_int_equal(lab_recovery(db).torn_tails, again == 0);
        assert_int_equal(lab_recovery(db).damaged_regions, 0);
        assert_false(file_2_is_there());
        lab_expect(db, "a", "1");
        lab_expect(db, "b", NULL);
        lab_put(db, "d", "1");
        ok(bitkv_close(db));
    }
}

/* That is rot: the log goes on behind it, or its hint says that it was durable. */
static void a_durable_record_without_its_first_page_is_damage(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        bitkv *db;
        make_headless(how == 0, how == 1, how != 2);
        assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = true}), BITKV_ERR_CORRUPT);
        for (int again = 0; again < 3; again++) {
            ok(lab_open(&db, path, (struct lab_open){.by_hand = true}));
            assert_true(lab_recovery(db).damaged_regions > 0);
            assert_int_equal(lab_recovery(db).torn_tails, 0);
            lab_expect(db, "a", "1");
            lab_expect(db, "c", how == 0 ? "1" : NULL);
            ok(bitkv_close(db));
            assert_true(file_2_is_there());
        }
    }
}

/* --- a sync without descriptors ------------------------------------------------------------- */

static struct bkv_io_ops wanting_ops;
static _Atomic bool wanting;    /* no data file can be opened */
static _Atomic bool first_sync; /* the worker is at it, and waits for the test */
static _Atomic unsigned syncs;  /* since there are descriptors again */

static int open_if_wanted(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&wanting) && strstr(name, "data_") != NULL) {
        errno = EMFILE;
        return -1;
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static int sync_when_told(int fd)
{
    if (!atomic_exchange(&first_sync, true))
        while (!atomic_load(&wanting))
            (void)usleep(100);
    atomic_fetch_add(&syncs, 1);
    return bkv_io_kernel.fdatasync(fd);
}

/* Segments that recovery found are opened to be synced: with no descriptor for a
 * tenth of a second, the partition refused writes for good. */
static void a_sync_without_descriptors_can_be_made_later(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        remove_tree(path);
        die_with_segments((bitkv_io_mode)mode, 8);
        wanting_ops = bkv_io_kernel;
        wanting_ops.openat = open_if_wanted;
        wanting_ops.fdatasync = sync_when_told;
        atomic_store(&first_sync, false);
        bkv_io = &wanting_ops;
        bitkv_options o = small_segments((bitkv_io_mode)mode);
        bitkv *db;
        ok(bitkv_open(&db, path, &o));
        while (!atomic_load(&first_sync))
            (void)usleep(100);
        atomic_store(&wanting, true);
        assert_int_equal(bitkv_sync(db), BITKV_ERR_TOO_MANY_FILES);
        ok(bitkv_put(db, "a", 1, "1", 1));
        atomic_store(&syncs, 0);
        atomic_store(&wanting, false);
        ok(bitkv_sync(db));
        assert_true(atomic_load(&syncs) >= 3);
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
        assert_int_equal(s.writes_refused, 0);
        ok(bitkv_close(db));
        bkv_io = &bkv_io_kernel;
        o.strict_recovery = true;
        ok(bitkv_open(&db, path, &o));
        ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
        assert_int_equal(s.keys, 9);
        ok(bitkv_close(db));
    }
}

/* Rot, that a mark said was durable, and a tail that takes the mark with it: what was
 * written behind them went with the next death of the process, for nothing told the
 * rot from a tail any more. */
static void what_is_written_behind_rot_survives_though_the_mark_was_cut(void **state)
{
    (void)state;
    for (int garbage = 0; garbage < 2; garbage++) {
        struct lab_image image = {.count = 0};
        struct lab_log log;
        lab_add_manifest(&image, &lab_manifest_1);
        lab_log_begin(&log, &lab_manifest_1, 0, 1, 1);
        (void)lab_log_put(&log, 1, "a", "1");
        size_t rot = lab_log_put(&log, 2, "b", "2");
        size_t end = lab_log_put(&log, 3, "c", "3");
        if (garbage == 0)
            end = log.size;
        size_t tail = lab_log_put(&log, 4, "d", "4");
        (void)lab_log_mark(&log, 5, 1, end);
        log.data[rot + 4] ^= 1;
        log.data[tail + 4] ^= 1;
        if (garbage != 0) /* the rot reaches up to where the log was durable */
            log.data[end + 4] ^= 1;
        lab_log_end(&log, &image);
        lab_image_write(&image, path);
        lab_image_free(&image);

        bitkv *db;
        ok(lab_open(&db, path, (struct lab_open){.by_hand = true}));
        assert_int_equal(lab_recovery(db).damaged_regions, 1);
        assert_int_equal(lab_recovery(db).torn_tails, 1);
        lab_put(db, "e", "5");
        lab_image_read(&image, path, 64); /* what the death of the process leaves */
        ok(bitkv_close(db));
        lab_image_write(&image, path);
        lab_image_free(&image);

        ok(lab_open(&db, path, (struct lab_open){.by_hand = true}));
        lab_expect(db, "a", "1");
        if (garbage == 0)
            lab_expect(db, "c", "3");
        lab_expect(db, "e", "5");
        ok(bitkv_close(db));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_large_record_without_its_first_page_is_a_torn_tail),
        TEST(a_durable_record_without_its_first_page_is_damage),
        TEST(a_record_on_its_way_is_no_torn_tail),
        TEST(syncing_after_a_crash_takes_in_the_segments_that_it_left),
        TEST(a_sync_without_descriptors_can_be_made_later),
        TEST(what_is_written_behind_rot_survives_though_the_mark_was_cut),
        TEST(a_crash_before_the_first_checkpoint_loses_nothing),
        TEST(a_segment_begun_after_the_checkpoint_does_not_invalidate_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
