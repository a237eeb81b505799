/* SPDX-License-Identifier: MIT */
/*
 * The edges of writing: the file is cut under the tail's mapping, ids and descriptors run
 * out, a record fits into the last byte of a segment that gets no space, memory lacks
 * for a copy of the KeyDir, the worker cannot finish a segment. Each call says what it
 * could not do; when the world is right again the same database goes on, and an opening
 * finds everything that was acknowledged.
 */
#include "api/compaction.h"
#include "fault/faults.h"

#include "base/memory.h"
#include "partition/state.h"

#include <pthread.h>
#include <stdatomic.h>

/* --- the seam: the faulty calls, and what else a test wants done ------------------------ */

static struct bkv_io_ops ops;
static const struct bkv_io_ops *faulty;
static _Atomic int openat_error;        /* of data files that are opened for reading */
static void (*_Atomic at_openat)(void); /* before the first of these by `caller` */
static pthread_t caller;
static _Atomic bool hold_syncs; /* of all threads but `caller` */
static _Atomic unsigned syncs_held;
static _Atomic bool no_hints;       /* ENOSPC from the second write of one on */
static _Atomic unsigned no_outputs; /* writes of outputs that find no space */
static _Atomic bool no_reserve;     /* it cannot be opened */
static _Atomic bool narrow;         /* the file system says it is full */
static void (*_Atomic at_ftruncate)(int fd);

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&no_reserve) && strstr(name, "reserve") != NULL) {
        errno = EACCES;
        return -1;
    }
    int error = atomic_load(&openat_error);
    if (error == 0 || strstr(name, "data_") == NULL || (flags & O_ACCMODE) != O_RDONLY)
        return faulty->openat(dirfd, name, flags, mode);
    void (*what)(void) = NULL;
    if (pthread_equal(pthread_self(), caller))
        what = atomic_exchange(&at_openat, NULL);
    if (what != NULL)
        what();
    errno = error;
    return -1;
}

static int on_fdatasync(int fd)
{
    if (atomic_load(&hold_syncs) && !pthread_equal(pthread_self(), caller)) {
        atomic_fetch_add(&syncs_held, 1);
        while (atomic_load(&hold_syncs))
            sleep_ms(1);
    }
    return faulty->fdatasync(fd);
}

static bool is_of(int fd, const char *part)
{
    char link[64], name[PATH_SIZE];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, name, sizeof name - 1);
    name[size > 0 ? size : 0] = '\0';
    return strstr(name, part) != NULL;
}

static ssize_t on_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (atomic_load(&no_outputs) > 0 && is_of(fd, ".db.tmp")) {
        atomic_fetch_sub(&no_outputs, 1);
        errno = ENOSPC;
        return -1;
    }
    if (atomic_load(&no_hints) && offset > 4096 && is_of(fd, "/hint_")) {
        errno = ENOSPC;
        return -1;
    }
    return faulty->pwrite(fd, data, size, offset);
}

static int on_fstatfs(int fd, struct statfs *status)
{
    int rc = faulty->fstatfs(fd, status);
    if (atomic_load(&narrow))
        status->f_bavail = 0;
    return rc;
}

static int on_ftruncate(int fd, off_t size)
{
    void (*what)(int) = atomic_exchange(&at_ftruncate, NULL);
    if (what != NULL)
        what(fd);
    return faulty->ftruncate(fd, size);
}

static int setup(void **state)
{
    fault_install();
    faulty = bkv_io;
    ops = *faulty;
    ops.openat = on_openat;
    ops.fdatasync = on_fdatasync;
    ops.pwrite = on_pwrite;
    ops.fstatfs = on_fstatfs;
    ops.ftruncate = on_ftruncate;
    bkv_io = &ops;
    return make_directory(state);
}

static int teardown(void **state)
{
    fault_disarm();
    atomic_store(&openat_error, 0);
    atomic_store(&hold_syncs, false);
    atomic_store(&no_hints, false);
    atomic_store(&narrow, false);
    atomic_store(&no_reserve, false);
    atomic_store(&no_outputs, 0);
    bkv_alloc_set_hook(NULL, NULL);
    fault_uninstall();
    return remove_directory(state);
}

#define EDGE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static struct bkv_partition *first_partition(bitkv *db)
{
    return db->partitions[0];
}

static const struct bkv_segment *first_segment(bitkv *db)
{
    return atomic_load(&first_partition(db)->first);
}

static void await_first_finished(bitkv *db)
{
    for (unsigned ms = 0; atomic_load(&first_segment(db)->phase) != BKV_PHASE_FINISHED; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
}

static void reopen_and_expect(const bitkv_options *o, uint32_t keys, uint32_t version, size_t size)
{
    bitkv *db = open_with(o);
    expect_all(db, keys, version, size);
    ok(bitkv_close(db));
}

/* --- under the mapping ----------------------------------------------------------------------- */

static void cut_file(const char *name)
{
    char full[PATH_SIZE];
    assert_int_equal(truncate(in_partition(full, name), 4096), 0);
}

/* The worker has made room ahead of the tail, and is done with it. */
static void await_reserved(bitkv *db, uint64_t bytes)
{
    struct bkv_partition *p = first_partition(db);
    uint64_t before = 0, now = 0;
    for (unsigned ms = 0; now < p->tail.offset + bytes || now != before; ms += 50) {
        assert_true(ms < 20000);
        sleep_ms(50);
        before = now;
        now = atomic_load(&p->tail.reserved);
    }
}

/* What lies in the cut part is lost, whoever did it; nothing is acknowledged that rests
 * on it, and the process goes on. */
static void a_write_into_a_file_that_was_cut_is_an_error(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_MMAP);
    o.max_file_size = 8 << 20;
    bitkv *db = open_with(&o);
    put_all(db, 600, 1, 1000); /* by now through the mapping */
    await_reserved(db, 64 << 10);
    fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC); /* it would be as long again */
    cut_file("data_1.db");
    uint32_t key = 1000;
    fails(BITKV_ERR_IO, bitkv_put(db, &key, sizeof key, "value", 5));
    context_has("data_1.db");
    fails(BITKV_ERR_IO, bitkv_put(db, &key, sizeof key, "value", 5));
    context_has("reopen");
    key = 0;
    fails(BITKV_ERR_IO, bitkv_del(db, &key, sizeof key));
    expect_version(db, 0, 1, 1000); /* of the part that is there */
    assert_true(bitkv_close(db) != BITKV_OK);
    fault_disarm();
    db = open_with(&o);
    expect_version(db, 0, 1, 1000);
    put_version(db, 0, 2, 1000);
    ok(bitkv_close(db));
}

/* A reader has met it before; the sync that comes then cannot know what it has synced. */
static void a_sync_of_a_file_that_was_cut_fails(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_MMAP);
    bitkv *db = open_with(&o);
    put_all(db, 10, 1, 1000);
    cut_file("data_1.db");
    uint32_t key = 9;
    char value[1000];
    size_t size;
    fails(BITKV_ERR_IO, bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
    context_has("under the mapping");
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put(db, &key, sizeof key, "value", 5));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
}

/* --- segments ----------------------------------------------------------------------------------
 */

#define LARGE_SIZE (70u << 10) /* does not fit into a segment */

static void a_large_value_behind_an_empty_segment_finds_no_space(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_PWRITE);
    bitkv *db = open_with(&o);
    uint32_t key = 0;
    fault_arm(FAULT_pwrite, 1, 1, ENOSPC); /* its header is there then */
    fails(BITKV_ERR_NO_SPACE, bitkv_put(db, &key, sizeof key, "value", 5));
    fault_arm(FAULT_pwrite, 0, 1, ENOSPC);
    static char value[LARGE_SIZE];
    fails(BITKV_ERR_NO_SPACE, bitkv_put(db, &key, sizeof key, value, sizeof value));
    fault_disarm();
    put_all(db, 2, 1, LARGE_SIZE);
    expect_all(db, 2, 1, LARGE_SIZE);
    ok(bitkv_close(db));
    reopen_and_expect(&o, 2, 1, LARGE_SIZE);
}

static void a_record_that_fills_a_segment_needs_all_of_its_space(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_MMAP);
    bitkv *db = open_with(&o);
    static char value[SEGMENT_BYTES - 1000];
    uint32_t key = 0;
    fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC);
    fails(BITKV_ERR_NO_SPACE, bitkv_put(db, &key, sizeof key, value, sizeof value));
    fault_disarm();
    put_all(db, 2, 1, sizeof value);
    ok(bitkv_close(db));
    reopen_and_expect(&o, 2, 1, sizeof value);
}

static void a_folder_that_is_gone_is_an_error_of_the_put(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    uint32_t key = 0;
    fault_arm(FAULT_openat, 0, UINT32_MAX, ENOENT);
    fails(BITKV_ERR_IO, bitkv_put(db, &key, sizeof key, "value", 5));
    fault_disarm();
    put_all(db, 10, 1, 100);
    ok(bitkv_close(db));
    reopen_and_expect(&o, 10, 1, 100);
}

static void ids_may_be_used_up(void **state)
{
    (void)state;
    enum { KEYS = 100 };
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    struct bkv_partition *p = first_partition(db);
    put_all(db, KEYS, 1, 1000);
    put_all(db, KEYS, 2, 1000);
    bkv_lock(&p->lock);
    uint64_t next = p->next_id;
    p->next_id = BKV_SEGMENT_ID_MAX + 1;
    bkv_unlock(&p->lock);
    fails(BITKV_ERR_LIMIT, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    context_has("ids");
    static char value[SEGMENT_BYTES - 1000];
    uint32_t key = KEYS;
    int rc = BITKV_OK;
    for (unsigned i = 0; i < 5 && rc == BITKV_OK; i++) /* a spare may be there */
        rc = bitkv_put(db, &key, sizeof key, value, sizeof value);
    fails(BITKV_ERR_LIMIT, rc);
    expect_all(db, KEYS, 2, 1000);
    bkv_lock(&p->lock);
    p->next_id = next + 10;
    bkv_unlock(&p->lock);
    put_all(db, KEYS, 3, 1000);
    compact(db);
    ok(bitkv_close(db));
    reopen_and_expect(&o, KEYS, 3, 1000);
}

static void numbers_may_be_used_up(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    struct bkv_partition *p = first_partition(db);
    struct bkv_segment *segment = bkv_segment_new(p, 77);
    assert_non_null(segment);
    segment->number = BKV_SEGMENTS_MAX;
    fails(BITKV_ERR_LIMIT, bkv_segment_number_at(p, segment));
    context_has("max_file_size");
    bkv_segment_unref(segment);
    ok(bitkv_close(db));
}

/* With so few that not one full segment may wait. */
static void descriptors_for_full_segments_may_be_used_up(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_all(db, 10, 1, 1000);
    uint32_t most = db->store.sealed_max;
    db->store.sealed_max = 0;
    static char value[LARGE_SIZE];
    uint32_t key = 20;
    fails(BITKV_ERR_TOO_MANY_FILES, bitkv_put(db, &key, sizeof key, value, sizeof value));
    fails(BITKV_ERR_TOO_MANY_FILES, bitkv_put(db, &key, sizeof key, value, SEGMENT_BYTES - 1000));
    db->store.sealed_max = most;
    put_all(db, 10, 2, LARGE_SIZE);
    ok(bitkv_close(db));
    reopen_and_expect(&o, 10, 2, LARGE_SIZE);
}

/* --- copies of the KeyDir ------------------------------------------------------------------------
 */

static _Atomic bool scarce;

static bool unless_scarce(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&scarce);
}

/* A snapshot shares the KeyDir with the writer, who needs a copy of each part that he
 * changes: memory may lack for it at any put, deletion, or second snapshot. */
static void memory_may_lack_for_what_a_snapshot_keeps(void **state)
{
    (void)state;
    enum { KEYS = 20000, SIZE = 20 };
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.max_file_size = 4 << 20;
    bitkv *db = open_with(&o);
    put_all(db, KEYS, 1, SIZE);
    bitkv_snapshot *first, *second;
    ok(bitkv_snapshot_create(&first, db));
    bkv_alloc_set_hook(unless_scarce, NULL);
    atomic_store(&scarce, true);
    static uint32_t version[KEYS];
    unsigned refused_puts = 0, refused_deletes = 0, refused_snapshots = 0;
    for (uint32_t key = 0; key < KEYS && (refused_puts < 5 || refused_deletes < 5); key++) {
        version[key] = 1;
        int rc = key % 3 == 0 ? bitkv_del(db, &key, sizeof key)
                              : bitkv_put(db, &key, sizeof key, "changed", 7);
        if (rc != BITKV_OK)
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
        else
            version[key] = key % 3 == 0 ? 0 : 2;
        refused_puts += rc != BITKV_OK && key % 3 != 0;
        refused_deletes += rc != BITKV_OK && key % 3 == 0;
        rc = refused_puts + refused_deletes > 0 ? bitkv_snapshot_create(&second, db) : BITKV_OK;
        refused_snapshots += rc == BITKV_ERR_NO_MEMORY;
    }
    assert_true(refused_puts >= 5 && refused_deletes >= 5 && refused_snapshots > 0);
    atomic_store(&scarce, false);
    bkv_alloc_set_hook(NULL, NULL);
    for (uint32_t key = 0; key < KEYS; key++) {
        char value[SIZE];
        size_t size = 0;
        int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
        if (version[key] == 0 && key % 3 == 0 && rc == BITKV_NOT_FOUND)
            version[key] = 3; /* it was deleted, or has not been come to */
        else
            ok(rc);
        assert_true(version[key] != 2 || size == 7);
        ok(bitkv_snapshot_get_into(first, &key, sizeof key, value, sizeof value, &size));
        assert_int_equal(size, SIZE);
    }
    ok(bitkv_snapshot_destroy(first));
    ok(bitkv_close(db));
    db = open_with(&o);
    for (uint32_t key = 0; key < KEYS; key++)
        assert_int_equal(bitkv_exists(db, &key, sizeof key),
                         version[key] == 3 ? BITKV_NOT_FOUND : BITKV_OK);
    ok(bitkv_close(db));
}

/* --- syncs
 * ------------------------------------------------------------------------------------------- */

static void await_held_sync(void)
{
    for (unsigned ms = 0; atomic_load(&syncs_held) == 0; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
}

/* A process dies, none of whose segments was synced, so none has a hint. The opening that
 * comes then has no descriptors for them; its worker is held in the sync of the first. */
static bitkv *open_after_crash(const bitkv_options *o, const uint32_t *keys, unsigned count,
                               size_t size)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv *db;
        char *value = calloc(1, size);
        int rc = bitkv_open(&db, path, o);
        atomic_store(&hold_syncs, true);
        for (unsigned i = 0; i < count && rc == BITKV_OK; i++)
            rc = bitkv_put(db, &keys[i], sizeof keys[i], value, size);
        _exit(-rc);
    }
    assert_int_equal(wait_child(child), 0);
    atomic_store(&syncs_held, 0);
    caller = pthread_self();
    atomic_store(&hold_syncs, true);
    return open_with(o);
}

static bitkv_options without_mapping(uint32_t partitions)
{
    bitkv_options o = by_hand(BITKV_IO_PWRITE);
    o.partitions = partitions;
    o.sync_interval_ms = 60000;
    return o;
}

enum { FOUND_KEYS = 300, FOUND_SIZE = 1000 };

static const uint32_t *all_keys(void)
{
    static uint32_t keys[FOUND_KEYS];
    for (uint32_t i = 0; i < FOUND_KEYS; i++)
        keys[i] = i;
    return keys;
}

static void a_segment_that_is_gone_cannot_be_synced(void **state)
{
    (void)state;
    bitkv_options o = without_mapping(1);
    bitkv *db = open_after_crash(&o, all_keys(), FOUND_KEYS, FOUND_SIZE);
    await_held_sync();
    atomic_store(&openat_error, ENOENT);
    atomic_store(&hold_syncs, false);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
    atomic_store(&openat_error, 0);
    uint32_t key = 0;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put(db, &key, sizeof key, "value", 5));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
}

static bitkv *putting_db;
static size_t putting_size;

static void *put_meanwhile(void *unused)
{
    (void)unused;
    put_version(putting_db, 7777, 1, putting_size);
    return NULL;
}

static void put_in_thread(void)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, put_meanwhile, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* The sync finds no descriptor for what recovery found, and gives the round back, while
 * writers go on in the same segment, or in the next. */
static void a_sync_without_descriptors_forgets_nothing_of_what_comes_meanwhile(void **state)
{
    (void)state;
    for (unsigned next = 0; next < 2; next++) {
        remove_tree(path);
        bitkv_options o = without_mapping(1);
        putting_size = next ? SEGMENT_BYTES - 1000 : 500;
        putting_db = open_after_crash(&o, all_keys(), FOUND_KEYS, FOUND_SIZE);
        await_held_sync();
        atomic_store(&at_openat, put_in_thread);
        atomic_store(&openat_error, EMFILE);
        atomic_store(&hold_syncs, false);
        fails(BITKV_ERR_TOO_MANY_FILES, bitkv_sync(putting_db));
        assert_null(atomic_load(&at_openat));
        atomic_store(&openat_error, 0);
        ok(bitkv_sync(putting_db));
        struct bkv_partition *p = first_partition(putting_db);
        assert_true(atomic_load(&p->synced) >= atomic_load(&p->appended));
        ok(bitkv_close(putting_db));
        putting_db = open_with(&o);
        expect_version(putting_db, 7777, 1, putting_size);
        assert_int_equal(statistics_of(putting_db).keys, FOUND_KEYS + 1);
        ok(bitkv_close(putting_db));
    }
}

/* Of two partitions only the second has segments without descriptors; a batch makes a sync
 * of the first depend on it. Neither is made, and both are made later. */
static void a_batch_waits_for_its_peer_s_descriptors(void **state)
{
    (void)state;
    bitkv_options o = without_mapping(2);
    bitkv *db = open_with(&o);
    static uint32_t of[2][FOUND_KEYS];
    unsigned count[2] = {0};
    for (uint32_t key = 0; count[0] < FOUND_KEYS || count[1] < FOUND_KEYS; key++) {
        struct bkv_hash hash = bkv_hash(&db->store.manifest.hash_key, &key, sizeof key);
        uint32_t p = bkv_hash_partition(&hash, 2);
        if (count[p] < FOUND_KEYS)
            of[p][count[p]++] = key;
    }
    ok(bitkv_close(db));
    db = open_after_crash(&o, of[1], FOUND_KEYS, FOUND_SIZE);
    await_held_sync();
    atomic_store(&openat_error, EMFILE);
    atomic_store(&hold_syncs, false);
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    for (unsigned p = 0; p < 2; p++)
        ok(bitkv_batch_put(batch, &of[p][0], sizeof of[p][0], "in a batch", 10));
    ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    bitkv_batch_destroy(batch);
    fails(BITKV_ERR_TOO_MANY_FILES, bitkv_sync(db));
    atomic_store(&openat_error, 0);
    ok(bitkv_sync(db));
    ok(bitkv_close(db));
    db = open_with(&o);
    for (unsigned p = 0; p < 2; p++) {
        char value[FOUND_SIZE];
        size_t size;
        ok(bitkv_get_into(db, &of[p][0], sizeof of[p][0], value, sizeof value, &size));
        assert_int_equal(size, 10);
    }
    assert_int_equal(statistics_of(db).keys, FOUND_KEYS + 1);
    ok(bitkv_close(db));
}

/* The worker makes the next segment's file ahead: if its name cannot be synced, a later
 * sync of the folder proves nothing. */
static void a_name_that_could_not_be_synced_ahead_is_a_failed_sync(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_MMAP);
    o.sync_interval_ms = 60000;
    bitkv *db = open_with(&o);
    fault_arm(FAULT_fsync, 0, 1, EIO);
    put_all(db, 45, 1, 1000); /* more than half of the first */
    for (unsigned ms = 0; fault_fired() == 0; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
    fault_disarm();
    for (unsigned ms = 0; atomic_load(&first_partition(db)->failed) == 0; ms++) {
        assert_true(ms < 20000);
        sleep_ms(1);
    }
    uint32_t key = 0;
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put(db, &key, sizeof key, "value", 5));
    fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
    expect_all(db, 45, 1, 1000);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
    reopen_and_expect(&o, 45, 1, 1000);
}

/* --- the end of a segment
 * ------------------------------------------------------------------------------- */

#define END_OF_58 (64 + 58 * 1024) /* records of 1,000 bytes, and a key of 4 */

static void zero_the_end(int fd)
{
    static const char zeros[2000];
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, END_OF_58), (ssize_t)sizeof zeros);
    for (off_t at = END_OF_58 + (off_t)sizeof zeros; at < status.st_size;
         at += (off_t)sizeof zeros) {
        size_t size = (size_t)(status.st_size - at);
        size = size < sizeof zeros ? size : sizeof zeros;
        assert_int_equal(pwrite(fd, zeros, size, at), (ssize_t)size);
    }
}

/* Zeros verify as the end of a log; in a segment that is known to be longer they are
 * damage, and a hint would hide it. */
static void a_segment_whose_end_became_zeros_gets_no_hint(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_PWRITE);
    bitkv *db = open_with(&o);
    atomic_store(&at_ftruncate, zero_the_end);
    put_all(db, 100, 1, 1000);
    await_first_finished(db);
    assert_int_equal(atomic_load(&first_segment(db)->hint_bytes), 0);
    unsigned corrupt = 0;
    for (uint32_t key = 0; key < 100; key++) {
        char value[1000];
        size_t size;
        int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT);
        corrupt += rc == BITKV_ERR_CORRUPT;
    }
    assert_true(corrupt > 0);
    ok(bitkv_close(db));
}

static void a_segment_that_cannot_be_trimmed_is_done_all_the_same(void **state)
{
    (void)state;
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    fault_arm(FAULT_ftruncate, 0, 1, EIO);
    put_all(db, 100, 1, 1000);
    await_first_finished(db);
    assert_int_equal(atomic_load(&first_segment(db)->hint_bytes), 0);
    fault_disarm();
    ok(bitkv_close(db));
    db = open_with(&o); /* which does what was left */
    await_first_finished(db);
    assert_true(atomic_load(&first_segment(db)->hint_bytes) > 0);
    expect_all(db, 100, 1, 1000);
    ok(bitkv_close(db));
}

/* Of a segment with many records the worker writes the hint in slices, and looks after
 * writers between them: if it has to hurry, or not. */
static void a_large_hint_may_find_no_space(void **state)
{
    (void)state;
    enum { KEYS = 60000, SIZE = 20 };
    for (unsigned variant = 0; variant < 3; variant++) {
        remove_tree(path);
        bitkv_options o = by_hand(BITKV_IO_MMAP);
        o.max_file_size = 2 << 20;
        bitkv *db = open_with(&o);
        atomic_store(&no_hints, variant == 0);
        if (variant == 2)
            db->store.sealed_max = 1;
        for (uint32_t key = 0; key < KEYS; key++)
            put_version(db, key, 1, SIZE);
        await_first_finished(db);
        assert_int_equal(atomic_load(&first_segment(db)->hint_bytes) > 0, variant != 0);
        atomic_store(&no_hints, false);
        ok(bitkv_close(db));
        reopen_and_expect(&o, KEYS, 1, SIZE);
    }
}

/* --- the reserve
 * ------------------------------------------------------------------------------------------ */

#define MIB (1u << 20)

static bitkv *open_narrow(bitkv_options *o, size_t segment)
{
    *o = by_hand(BITKV_IO_MMAP);
    o->max_file_size = segment;
    atomic_store(&narrow, true);
    bitkv *db = open_with(o);
    for (uint32_t version = 1; version <= 6; version++)
        put_all(db, 10, version, segment / 12);
    for (const struct bkv_segment *s = first_segment(db); s->phase != BKV_PHASE_ACTIVE;
         s = atomic_load(&s->next)) {
        while (atomic_load(&s->phase) != BKV_PHASE_FINISHED)
            sleep_ms(1);
    }
    return db;
}

static uint64_t reserve_of(bitkv *db)
{
    return atomic_load(&first_partition(db)->reserve_bytes);
}

static void a_reserve_that_cannot_be_made_is_made_later(void **state)
{
    (void)state;
    bitkv_options o;
    bitkv *db = open_narrow(&o, MIB);
    struct bkv_partition *p = first_partition(db);
    fault_arm(FAULT_openat, 0, 1, EACCES);
    bkv_reserve_prepare(p);
    assert_int_equal(fault_fired(), 1);
    assert_int_equal(reserve_of(db), 0);
    fault_arm(FAULT_fallocate, 0, 3, ENOSPC); /* less will do, for the time being */
    bkv_reserve_prepare(p);
    assert_int_equal(reserve_of(db), 6 * (MIB / 8));
    fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC);
    bkv_reserve_prepare(p);
    assert_int_equal(reserve_of(db), 6 * (MIB / 8));
    fault_disarm();
    bkv_reserve_prepare(p);
    assert_int_equal(reserve_of(db), 9 * (MIB / 8));
    compact(db);
    expect_all(db, 10, 6, MIB / 12);
    ok(bitkv_close(db));
    reopen_and_expect(&o, 10, 6, MIB / 12);
}

static void a_deletion_that_cannot_borrow_is_told_that_the_disk_is_full(void **state)
{
    (void)state;
    bitkv_options o;
    bitkv *db = open_narrow(&o, MIB);
    bkv_reserve_prepare(first_partition(db));
    bkv_spare_discard(first_partition(db));
    fault_arm(FAULT_fallocate, 0, UINT32_MAX, ENOSPC);
    uint32_t key = 100;
    int rc = BITKV_OK;
    static char value[MIB / 12];
    for (unsigned i = 0; i < 100 && rc == BITKV_OK; i++) /* until nothing is left */
        rc = bitkv_put(db, &key, sizeof key, value, sizeof value);
    fails(BITKV_ERR_NO_SPACE, rc);
    rc = BITKV_OK;
    for (; key < 200000 && rc == BITKV_OK; key++)
        rc = bitkv_put(db, &key, sizeof key, NULL, 0);
    fails(BITKV_ERR_NO_SPACE, rc);
    uint64_t reserve = reserve_of(db);
    assert_true(reserve >= 9 * (MIB / 8));
    key = 0;
    atomic_store(&no_reserve, true);
    fails(BITKV_ERR_NO_SPACE, bitkv_del(db, &key, sizeof key));
    atomic_store(&no_reserve, false);
    fault_disarm();
    ok(bitkv_del(db, &key, sizeof key));
    expect_absent(db, 0, 1);
    ok(bitkv_close(db));
}

/* It is left over then, and goes at the next opening. */
static void a_reserve_that_cannot_be_removed_goes_later(void **state)
{
    (void)state;
    bitkv_options o;
    bitkv *db = open_narrow(&o, SEGMENT_BYTES);
    bkv_reserve_prepare(first_partition(db));
    assert_true(reserve_of(db) > 0);
    fault_arm(FAULT_unlinkat, 0, UINT32_MAX, EACCES);
    assert_false(bkv_reserve_release(first_partition(db)));
    assert_true(reserve_of(db) > 0);
    (void)bitkv_close(db);
    fault_disarm();
    assert_int_equal(count_files("reserve", ".tmp"), 1);
    reopen_and_expect(&o, 10, 6, SEGMENT_BYTES / 12);
    assert_int_equal(count_files("reserve", ".tmp"), 0);
}

/* Compaction has used the reserve, and what it freed is still looked at: the reserve waits
 * for it for a while, but keeps nobody from closing. */
static void a_view_holds_the_reserve_up_for_a_while_only(void **state)
{
    (void)state;
    for (unsigned closing = 0; closing < 2; closing++) {
        remove_tree(path);
        bitkv_options o = one_partition(BITKV_IO_MMAP);
        atomic_store(&narrow, true);
        bitkv *db = open_with(&o);
        struct bkv_partition *p = first_partition(db);
        put_version(db, 1000, 1, 500);
        bitkv_view view;
        ok(bitkv_get_view(db, &(uint32_t){1000}, sizeof(uint32_t), &view));
        put_version(db, 1000, 2, 500); /* dead, but for the view */
        for (uint32_t version = 1; reserve_of(db) == 0; version++) {
            put_all(db, 10, version, 5000); /* until there are some full ones, and a look */
            assert_true(version < 10000);
        }
        atomic_store(&no_outputs, 1);
        for (uint32_t version = 1; !atomic_load(&p->reserve_owed); version++) {
            static const char value[5000];
            uint32_t key = version % 10;
            int rc = bitkv_put(db, &key, sizeof key, value, sizeof value);
            assert_true(rc == BITKV_OK || rc == BITKV_ERR_NO_SPACE);
            assert_true(version < 1000000);
        }
        for (unsigned ms = 0; !closing && atomic_load(&p->reserve_owed); ms++) {
            assert_true(ms < 20000);
            sleep_ms(1);
        }
        ok(bitkv_close(db));
        assert_int_equal(view.size, 500);
        bitkv_view_release(&view);
        db = open_with(&o);
        expect_version(db, 1000, 2, 500);
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EDGE(a_write_into_a_file_that_was_cut_is_an_error),
        EDGE(a_sync_of_a_file_that_was_cut_fails),
        EDGE(a_large_value_behind_an_empty_segment_finds_no_space),
        EDGE(a_record_that_fills_a_segment_needs_all_of_its_space),
        EDGE(a_folder_that_is_gone_is_an_error_of_the_put),
        EDGE(ids_may_be_used_up),
        EDGE(numbers_may_be_used_up),
        EDGE(descriptors_for_full_segments_may_be_used_up),
        EDGE(memory_may_lack_for_what_a_snapshot_keeps),
        EDGE(a_segment_that_is_gone_cannot_be_synced),
        EDGE(a_sync_without_descriptors_forgets_nothing_of_what_comes_meanwhile),
        EDGE(a_batch_waits_for_its_peer_s_descriptors),
        EDGE(a_name_that_could_not_be_synced_ahead_is_a_failed_sync),
        EDGE(a_segment_whose_end_became_zeros_gets_no_hint),
        EDGE(a_segment_that_cannot_be_trimmed_is_done_all_the_same),
        EDGE(a_large_hint_may_find_no_space),
        EDGE(a_reserve_that_cannot_be_made_is_made_later),
        EDGE(a_deletion_that_cannot_borrow_is_told_that_the_disk_is_full),
        EDGE(a_reserve_that_cannot_be_removed_goes_later),
        EDGE(a_view_holds_the_reserve_up_for_a_while_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
