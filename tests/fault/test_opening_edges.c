/* SPDX-License-Identifier: MIT */
/*
 * The edges of openings, and of what begins with them: a thread that cannot be started,
 * a file that is listed and not there, a disk that fails in the middle of a large
 * checkpoint or log, a compactor without memory. What cannot be read fails the opening,
 * which leaves everything as it was; the next one has all.
 */
#include "api/compaction.h"
#include "fault/faults.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdatomic.h>

static struct bkv_io_ops ops;
static const struct bkv_io_ops *faulty;
static _Atomic bool vanished; /* data files that are opened, though they were listed */

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&vanished) && strstr(name, "data_") != NULL) {
        errno = ENOENT;
        return -1;
    }
    return faulty->openat(dirfd, name, flags, mode);
}

static int setup(void **state)
{
    fault_install();
    faulty = bkv_io;
    ops = *faulty;
    ops.openat = on_openat;
    bkv_io = &ops;
    return make_directory(state);
}

static int teardown(void **state)
{
    fault_disarm();
    bkv_alloc_set_hook(NULL, NULL);
    atomic_store(&vanished, false);
    fault_uninstall();
    return remove_directory(state);
}

#define EDGE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* --- threads ------------------------------------------------------------------------- */

/* tests/CMakeLists.txt links this in place of pthread_create(). */
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);

static _Atomic unsigned threads_left; /* that can be started */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument)
{
    if (atomic_load(&threads_left) == 0)
        return EAGAIN;
    atomic_fetch_sub(&threads_left, 1);
    return __real_pthread_create(thread, attributes, run, argument);
}

static _Atomic unsigned told; /* "no compaction ..." */

static void on_log(void *user, bitkv_log_level level, const char *message)
{
    (void)user, (void)level;
    if (strstr(message, "no compaction") != NULL)
        atomic_fetch_add(&told, 1);
}

static void await_told(void)
{
    for (unsigned ms = 0; atomic_load(&told) == 0; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
}

static void an_opening_needs_a_thread_for_each_partition(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.partitions = 3;
    atomic_store(&threads_left, UINT32_MAX);
    bitkv *db = open_with(&o);
    put_all(db, 100, 1, 100);
    ok(bitkv_close(db));
    for (unsigned n = 0; n < 3; n++) {
        atomic_store(&threads_left, n);
        db = NULL;
        int rc = bitkv_open(&db, path, &o);
        assert_true(rc < 0);
        assert_null(db);
        context_has("thread");
    }
    atomic_store(&threads_left, UINT32_MAX);
    db = open_with(&o);
    expect_all(db, 100, 1, 100);
    ok(bitkv_close(db));
}

static bitkv_options compacting(void)
{
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.log = on_log;
    atomic_store(&told, 0);
    return o;
}

static void a_compactor_that_cannot_be_started_is_told_and_costs_space_only(void **state)
{
    (void)state;
    bitkv_options o = compacting();
    atomic_store(&threads_left, UINT32_MAX);
    bitkv *db = open_with(&o);
    atomic_store(&threads_left, 0);
    for (uint32_t version = 1; version <= 10; version++)
        put_all(db, 100, version, 1000);
    await_told();
    expect_all(db, 100, 10, 1000);
    atomic_store(&threads_left, UINT32_MAX);
    for (uint32_t version = 11; statistics_of(db).compactions_total == 0; version++) {
        put_all(db, 100, version, 1000);
        assert_true(version < 1000);
    }
    ok(bitkv_close(db));
}

/* --- memory ---------------------------------------------------------------------------- */

static pthread_t opener;

static bool by_the_opener_only(size_t size, void *user)
{
    (void)size, (void)user;
    return pthread_equal(pthread_self(), opener);
}

static void a_compactor_without_memory_says_so_and_tries_again(void **state)
{
    (void)state;
    bitkv_options o = compacting();
    atomic_store(&threads_left, UINT32_MAX);
    bitkv *db = open_with(&o);
    opener = pthread_self();
    bkv_alloc_set_hook(by_the_opener_only, NULL);
    for (uint32_t version = 1; version <= 10; version++)
        put_all(db, 100, version, 1000);
    await_told();
    bkv_alloc_set_hook(NULL, NULL);
    expect_all(db, 100, 10, 1000);
    for (unsigned ms = 0; statistics_of(db).compactions_total == 0; ms++) {
        assert_true(ms < 30000);
        sleep_ms(1);
        bkv_compactor_wake(db->partitions[0]);
    }
    expect_all(db, 100, 10, 1000);
    ok(bitkv_close(db));
}

/* --- files ----------------------------------------------------------------------------- */

/* A writer would have put something in their place by now. */
static void files_that_stay_away_fail_a_follower_s_opening(void **state)
{
    (void)state;
    atomic_store(&threads_left, UINT32_MAX);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_all(db, 200, 1, 1000);
    ok(bitkv_close(db));
    remove_files("keydir");
    o.read_only = true;
    atomic_store(&vanished, true);
    db = NULL;
    int rc = bitkv_open(&db, path, &o);
    assert_true(rc < 0);
    assert_null(db);
    atomic_store(&vanished, false);
    db = open_with(&o);
    expect_all(db, 200, 1, 1000);
    ok(bitkv_close(db));
}

static void die_with_segments(const bitkv_options *o)
{
    die_with_keys(o, 300, 1000);
}

static void one_that_is_to_be_copied_may_be_gone(void **state)
{
    (void)state;
    atomic_store(&threads_left, UINT32_MAX);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    die_with_segments(&o);
    remove_files("hint");
    char name[PATH_SIZE];
    int fd = open(in_partition(name, "sync_failed"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    bitkv *db = NULL;
    atomic_store(&vanished, true);
    fails(BITKV_ERR_IO, bitkv_open(&db, path, &o));
    atomic_store(&vanished, false);
    db = open_with(&o);
    assert_int_equal(statistics_of(db).keys, 300);
    ok(bitkv_close(db));
}

/* Whatever cannot be read in the middle of it; each read in turn. */
static void open_with_failing_reads(const bitkv_options *o, uint64_t keys)
{
    uint32_t fired = 1;
    for (uint32_t n = 0; fired > 0; n++) {
        bitkv *db = NULL;
        fault_arm(FAULT_pread, n, 1, EIO);
        int rc = bitkv_open(&db, path, o);
        fired = fault_fired();
        fault_disarm();
        if (rc != BITKV_OK) { /* of a mere copy something else may be read instead */
            assert_null(db);
            assert_true(rc == BITKV_ERR_IO || (o->strict_recovery && rc == BITKV_ERR_CORRUPT));
            continue;
        }
        assert_int_equal(statistics_of(db).keys, keys);
        ok(bitkv_close(db));
    }
}

static void every_read_of_an_opening_may_fail(void **state)
{
    (void)state;
    enum { KEYS = 30000, SIZE = 10 };
    atomic_store(&threads_left, UINT32_MAX);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.max_file_size = 8 << 20;
    bitkv *db = open_with(&o);
    put_all(db, KEYS, 1, SIZE);
    ok(bitkv_close(db));
    o.read_only = true; /* or the first that succeeds would write a checkpoint anew */
    open_with_failing_reads(&o, KEYS);
    remove_files("keydir");
    open_with_failing_reads(&o, KEYS);
    char name[PATH_SIZE]; /* a tail that is torn, which is measured */
    int fd = open(in_partition(name, "data_1.db"), O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    static char garbage[6 << 20];
    memset(garbage, 0xa5, sizeof garbage);
    assert_int_equal(write(fd, garbage, sizeof garbage), (ssize_t)sizeof garbage);
    (void)close(fd);
    open_with_failing_reads(&o, KEYS);
    o.read_only = false;
    db = open_with(&o);
    expect_all(db, KEYS, 1, SIZE);
    ok(bitkv_close(db));
}

/* A checkpoint covers the file, so nobody has looked at its hint. */
static void a_hint_that_rots_under_a_checkpoint_is_written_anew(void **state)
{
    (void)state;
    atomic_store(&threads_left, UINT32_MAX);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_all(db, 100, 3, 1000);
    put_version(db, 101, 1, 70000); /* which makes a file of its own, the last */
    ok(bitkv_close(db));
    char folder[PATH_SIZE], name[PATH_SIZE];
    DIR *dir = opendir(inside(folder, path, "partition_0"));
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (strncmp(e->d_name, "hint_", 5) == 0)
            flip_byte(in_partition(name, e->d_name), 20);
    }
    (void)closedir(dir);
    db = open_with(&o);
    expect_all(db, 100, 3, 1000);
    put_version(db, 100, 1, 1000);
    const struct bkv_segment *first = atomic_load(&db->partitions[0]->first);
    for (unsigned ms = 0; atomic_load(&first->hint_bytes) == 0; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
    ok(bitkv_close(db));
    db = open_with(&o);
    expect_all(db, 100, 3, 1000);
    ok(bitkv_exists(db, &(uint32_t){100}, sizeof(uint32_t)));
    ok(bitkv_close(db));
}

/* A snapshot of a file that is closed opens it. */
static void a_snapshot_s_file_that_cannot_be_opened_is_an_error(void **state)
{
    (void)state;
    atomic_store(&threads_left, UINT32_MAX);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_all(db, 200, 1, 1000);
    ok(bitkv_close(db));
    db = open_with(&o);
    bitkv_snapshot *snapshot;
    ok(bitkv_snapshot_create(&snapshot, db));
    uint32_t key = 0;
    char value[1000];
    size_t size;
    fault_arm(FAULT_openat, 0, UINT32_MAX, EIO);
    fails(BITKV_ERR_IO,
          bitkv_snapshot_get_into(snapshot, &key, sizeof key, value, sizeof value, &size));
    fault_disarm();
    ok(bitkv_snapshot_get_into(snapshot, &key, sizeof key, value, sizeof value, &size));
    ok(bitkv_snapshot_destroy(snapshot));
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* before threads of others have left their slots to new ones */
        EDGE(a_compactor_without_memory_says_so_and_tries_again),
        EDGE(an_opening_needs_a_thread_for_each_partition),
        EDGE(a_compactor_that_cannot_be_started_is_told_and_costs_space_only),
        EDGE(files_that_stay_away_fail_a_follower_s_opening),
        EDGE(one_that_is_to_be_copied_may_be_gone),
        EDGE(every_read_of_an_opening_may_fail),
        EDGE(a_snapshot_s_file_that_cannot_be_opened_is_an_error),
        EDGE(a_hint_that_rots_under_a_checkpoint_is_written_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
