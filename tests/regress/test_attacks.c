/* SPDX-License-Identifier: MIT */
/* Acknowledged writes that could be lost, and openings that never ended: found
 * by reading the code with ill will. */
#include "api/scratch.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/epoch.h"
#include "io/io.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

static char directory[PATH_SIZE];
static char path[PATH_SIZE];
static char value[64 << 10];

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

static bitkv_options one_partition(uint64_t max_file_size)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 1;
    o.max_file_size = max_file_size;
    o.durability = BITKV_DURABILITY_NONE;
    return o;
}

static const char *file_of(char out[PATH_SIZE], const char *name)
{
    char partition[PATH_SIZE];
    inside(partition, path, "partition_0");
    return inside(out, partition, name);
}

static void has(bitkv *db, const char *key, size_t size)
{
    void *got;
    size_t got_size;
    ok(bitkv_get(db, key, strlen(key), &got, &got_size));
    assert_int_equal(got_size, size);
    assert_memory_equal(got, value, size);
    bitkv_free(got);
}

/* --- a power cut: of each file, what its last sync has seen ------------------- */

static struct bkv_io_ops ops;

static int keep_synced(int fd)
{
    char link[64];
    char from[PATH_SIZE];
    char to[PATH_SIZE + 8];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, from, sizeof from - 1);
    if (n < 0)
        return -1;
    from[n] = '\0';
    /* Put in place whole: the process may end in the midst of the worker's. */
    static _Atomic unsigned copies;
    char fresh[PATH_SIZE + 32];
    (void)snprintf(fresh, sizeof fresh, "%s.copy_%u", from, atomic_fetch_add(&copies, 1));
    (void)snprintf(to, sizeof to, "%s.synced", from);
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    (void)pthread_mutex_lock(&one_at_a_time);
    bool copied = copy_file(from, fresh) && rename(fresh, to) == 0;
    (void)pthread_mutex_unlock(&one_at_a_time);
    return copied ? 0 : -1;
}

static void cut_power(unsigned segments)
{
    for (unsigned id = 1; id <= segments; id++) {
        char name[32];
        char file[PATH_SIZE];
        char synced[PATH_SIZE + 8];
        (void)snprintf(name, sizeof name, "data_%u.db", id);
        file_of(file, name);
        (void)snprintf(synced, sizeof synced, "%s.synced", file);
        if (rename(synced, file) != 0)
            (void)unlink(file);
        (void)snprintf(name, sizeof name, "hint_%u.ht", id);
        (void)unlink(file_of(file, name));
    }
}

/* The first segment ended in a mark that no sync had taken in, the second began
 * with the record behind it: a gap, and the log was cut there. */
static void a_synced_write_in_a_new_segment_survives_the_mark_before_it(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        remove_tree(path);
        (void)fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            ops = bkv_io_kernel;
            ops.fdatasync = keep_synced;
            bkv_io = &ops;
            bitkv_options o = one_partition(64 << 10);
            o.io_mode = (bitkv_io_mode)mode;
            bitkv *db;
            int rc = bitkv_open(&db, path, &o);
            if (rc == BITKV_OK)
                rc = bitkv_put_with(db, "a", 1, value, 40 << 10, BITKV_DURABILITY_SYNC);
            if (rc == BITKV_OK)
                rc = bitkv_put_with(db, "b", 1, value, 40 << 10, BITKV_DURABILITY_SYNC);
            if (rc == BITKV_OK)
                rc = bitkv_put_with(db, "c", 1, value, 63 << 10, BITKV_DURABILITY_SYNC);
            if (rc == BITKV_OK)
                rc = bitkv_put_with(db, "d", 1, value, sizeof value, BITKV_DURABILITY_SYNC);
            _exit(-rc);
        }
        assert_int_equal(wait_child(child), 0);
        cut_power(16);
        bitkv_options o = one_partition(64 << 10);
        o.io_mode = (bitkv_io_mode)mode;
        o.strict_recovery = true;
        bitkv *db;
        ok(bitkv_open(&db, path, &o));
        has(db, "a", 40 << 10);
        has(db, "b", 40 << 10);
        has(db, "c", 63 << 10);
        has(db, "d", sizeof value);
        ok(bitkv_close(db));
    }
}

/* --- a write that fails half-way ------------------------------------------------- */

static bool half_next;

static ssize_t half_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (!half_next)
        return bkv_io_kernel.pwrite(fd, data, size, offset);
    if (size < 8192) { /* the rest of the piece: no more today */
        half_next = false;
        errno = EIO;
        return -1;
    }
    return bkv_io_kernel.pwrite(fd, data, 8192, offset);
}

/* Half a record stayed behind the log's end; the log went on in the next
 * segment, the process died, and the opening took the half for the end. */
static int fail_half_way_and_die(void)
{
    struct bkv_io_ops faulty = bkv_io_kernel;
    faulty.pwrite = half_pwrite;
    bkv_io = &faulty;
    bitkv_options o = one_partition(64 << 10);
    o.io_mode = BITKV_IO_PWRITE;
    o.auto_compact = false;
    bitkv *db;
    int rc = bitkv_open(&db, path, &o);
    if (rc == BITKV_OK)
        rc = bitkv_put(db, "a", 1, value, 20000);
    half_next = true;
    if (rc == BITKV_OK && bitkv_put(db, "b", 1, value, 30000) != BITKV_ERR_IO)
        rc = BITKV_ERR_INVALID;
    half_next = false;
    if (rc == BITKV_OK)
        rc = bitkv_put(db, "c", 1, value, 50000);
    return rc;
}

static void half_a_record_is_not_taken_for_the_logs_end(void **state)
{
    (void)state;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(-fail_half_way_and_die());
    assert_int_equal(wait_child(child), 0);
    bitkv_options o = one_partition(64 << 10);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    has(db, "a", 20000);
    has(db, "c", 50000);
    fails(BITKV_NOT_FOUND, bitkv_exists(db, "b", 1));
    ok(bitkv_close(db));
}

/* --- files that are older than the others ----------------------------------------- */

static void put_and_die(uint64_t max_file_size, const char *keys, size_t size)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv_options o = one_partition(max_file_size);
        bitkv *db;
        int rc = bitkv_open(&db, path, &o);
        for (; *keys != '\0' && rc == BITKV_OK; keys++)
            rc = bitkv_put(db, keys, 1, value, size);
        _exit(-rc);
    }
    assert_int_equal(wait_child(child), 0);
}

static void check_keys(uint64_t max_file_size, const char *keys, size_t size)
{
    bitkv_options o = one_partition(max_file_size);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    for (; *keys != '\0'; keys++) {
        char key[2] = {*keys, '\0'};
        has(db, key, size);
    }
    ok(bitkv_close(db));
}

/* The checkpoint knew more of the segment than there was, and was refused. Once
 * the segment had grown again it was taken for good, and what was written in
 * between was overlooked. */
static void a_checkpoint_that_was_refused_does_not_come_back(void **state)
{
    (void)state;
    bitkv_options o = one_partition(1 << 20);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    for (const char *key = "abcd"; *key != '\0'; key++)
        ok(bitkv_put(db, key, 1, value, 1000));
    ok(bitkv_close(db));
    char file[PATH_SIZE];
    assert_int_equal(truncate(file_of(file, "data_1.db"), 2500), 0);
    put_and_die(1 << 20, "efghijkl", 1000);
    check_keys(1 << 20, "abefghijkl", 1000);
}

static void a_hint_that_was_refused_does_not_come_back(void **state)
{
    (void)state;
    bitkv_options o = one_partition(64 << 10);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    for (const char *key = "abcde"; *key != '\0'; key++)
        ok(bitkv_put(db, key, 1, value, 14 << 10));
    ok(bitkv_close(db));
    char file[PATH_SIZE];
    assert_int_equal(truncate(file_of(file, "data_1.db"), 40 << 10), 0);
    /* The second file: the worker may have taken an id for a spare first. */
    assert_true(unlink(file_of(file, "data_2.db")) == 0 || unlink(file_of(file, "data_3.db")) == 0);
    assert_int_equal(unlink(file_of(file, "keydir.ckp")), 0);
    put_and_die(1 << 20, "fghijk", 14 << 10);
    check_keys(1 << 20, "abfghijk", 14 << 10);
}

/* --- files by a stranger ----------------------------------------------------------- */

static void make_file(const char *name)
{
    char file[PATH_SIZE];
    int fd = open(file_of(file, name), O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
}

/* The next id came round to 0, which no name is read with. */
static void an_absurd_file_name_does_not_hide_what_is_written_next(void **state)
{
    (void)state;
    static const char *const names[] = {
        "data_18446744073709551615.db",     "hint_18446744073709551615.ht",
        "hint_18446744073709551615.ht.tmp", "data_18446744073709551615.bak",
        "data_18446744073709551614.db",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        remove_tree(path);
        bitkv_options o = one_partition(64 << 10);
        bitkv *db;
        ok(bitkv_open(&db, path, &o));
        ok(bitkv_close(db));
        make_file(names[i]);
        put_and_die(64 << 10, "ab", 40 << 10);
        check_keys(64 << 10, "ab", 40 << 10);
    }
}

/* Of the two numbers only one had a segment: the other's records trapped. */
static void a_checkpoint_with_a_segment_under_two_numbers_is_refused(void **state)
{
    (void)state;
    bitkv_options o = one_partition(64 << 10);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    ok(bitkv_put(db, "a", 1, value, 1000));
    ok(bitkv_close(db));
    char file[PATH_SIZE];
    static uint8_t bytes[256 << 10];
    int fd = open(file_of(file, "keydir.ckp"), O_RDWR);
    assert_true(fd >= 0);
    ssize_t size = read(fd, bytes, sizeof bytes - 40);
    assert_true(size > 152);
    uint64_t table = bkv_get64(bytes + 88);
    assert_int_equal(bkv_get32(bytes + 96), 1);
    assert_int_equal((uint64_t)size, table + 40);
    memcpy(bytes + table + 40, bytes + table, 40);
    bkv_put32(bytes + table + 40 + 32, bkv_get32(bytes + table + 32) + 1);
    bkv_put32(bytes + 96, 2);
    bkv_put32(bytes + 108, bkv_crc32c(bkv_crc32c(0, bytes, 108), bytes + table, 80));
    assert_int_equal(pwrite(fd, bytes, (size_t)size + 40, 0), size + 40);
    (void)close(fd);
    check_keys(64 << 10, "a", 1000);
}

static void a_fifo_in_the_place_of_a_file_is_not_waited_for(void **state)
{
    (void)state;
    static const char *const names[] = {"data_7.db", "keydir.ckp"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        remove_tree(path);
        bitkv_options o = one_partition(64 << 10);
        bitkv *db;
        ok(bitkv_open(&db, path, &o));
        ok(bitkv_close(db));
        char file[PATH_SIZE];
        (void)unlink(file_of(file, names[i]));
        assert_int_equal(mkfifo(file, 0600), 0);
        (void)alarm(20);
        int rc = bitkv_open(&db, path, &o);
        (void)alarm(0);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT);
        ok(bitkv_close(db));
    }
}

/* --- closing under calls ------------------------------------------------------------- */

#define ROUNDS 100000u

static _Atomic unsigned go, done, violations;
static _Atomic bool closing, released;

static void wait_for(const _Atomic unsigned *counter, unsigned wanted)
{
    for (unsigned i = 1; atomic_load(counter) != wanted; i++) {
        if (i % 1000 == 0)
            (void)sched_yield();
    }
}

/* What every call does, with a memory that bitkv_close() would free. */
static void *call_again_and_again(void *nothing)
{
    for (unsigned round = 1; round <= ROUNDS; round++) {
        wait_for(&go, round);
        for (volatile unsigned delay = 0; delay < round % 40; delay++)
            ;
        struct bkv_epoch_slot *slot = bkv_epoch_enter();
        if (!atomic_load(&closing)) {
            for (unsigned i = 0; i < 300; i++)
                violations += atomic_load_explicit(&released, memory_order_relaxed);
        }
        bkv_epoch_exit(slot);
        atomic_store(&done, round);
    }
    return nothing;
}

/* The slot of a call that had just begun lay in a store buffer still. */
static void closing_waits_for_a_call_that_has_just_begun(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, call_again_and_again, NULL), 0);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        atomic_store(&closing, false);
        atomic_store(&released, false);
        atomic_store(&go, round);
        for (volatile unsigned delay = 0; delay < round / 40 % 60; delay++)
            ;
        atomic_store(&closing, true);
        bkv_epoch_wait(bkv_epoch_stamp());
        atomic_store(&released, true);
        wait_for(&done, round);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(violations, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_synced_write_in_a_new_segment_survives_the_mark_before_it),
        TEST(half_a_record_is_not_taken_for_the_logs_end),
        TEST(a_checkpoint_that_was_refused_does_not_come_back),
        TEST(a_hint_that_was_refused_does_not_come_back),
        TEST(an_absurd_file_name_does_not_hide_what_is_written_next),
        TEST(a_checkpoint_with_a_segment_under_two_numbers_is_refused),
        TEST(a_fifo_in_the_place_of_a_file_is_not_waited_for),
        TEST(closing_waits_for_a_call_that_has_just_begun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
