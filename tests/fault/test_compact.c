/* SPDX-License-Identifier: MIT */
/*
 * Compaction while system calls and allocations fail: at any point, once and
 * from then on. The call says so or succeeds, the database goes on serving
 * everything, a later compaction works (unless a sync has failed), and so does
 * an opening.
 *
 * BITKV_FAULT_EVERY=1 takes every call; by default later ones are sampled.
 */
#include "api/compaction.h"
#include "fault/faults.h"

#include "base/memory.h"
#include "damage/lab.h"

#include <stdatomic.h>

#define KEYS    120u
#define DELETED 30u /* the first of them */

static char base[PATH_SIZE];

static size_t size_of(uint32_t key)
{
    return key == 77 ? 80000 : 900 + key * 13;
}

/* Some files, with values of all ages and tombstones in them; closed. */
static int make_base(void **state)
{
    (void)make_directory(state);
    fault_install(); /* for its quick syncs */
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    for (uint32_t version = 1; version <= 3; version++) {
        for (uint32_t key = 0; key < KEYS; key++) {
            if (version < 3 || key % 3 != 0)
                put_version(db, key, version, size_of(key));
        }
    }
    delete_all(db, 0, DELETED);
    ok(bitkv_close(db));
    inside(base, directory, "base");
    copy_tree(path, base);
    return 0;
}

static int remove_base(void **state)
{
    fault_uninstall();
    return remove_directory(state);
}

static void expect_content(bitkv *db)
{
    expect_absent(db, 0, DELETED);
    for (uint32_t key = DELETED; key < KEYS; key++)
        expect_version(db, key, key % 3 != 0 ? 3 : 2, size_of(key));
    assert_int_equal(statistics_of(db).keys, KEYS - DELETED);
}

static bitkv *open_copy(bitkv_io_mode mode)
{
    remove_tree(path);
    copy_tree(base, path);
    return open_by_hand(mode);
}

static bool refused(bitkv *db)
{
    return statistics_of(db).writes_refused > 0;
}

/* With the fault gone: of what it left behind. */
static void check_aftermath(bitkv *db, bitkv_io_mode mode, int rc)
{
    if (rc != BITKV_OK && bitkv_error_context()[0] == '\0')
        fail_msg("%s without a context", bitkv_error_name(rc));
    expect_content(db);
    if (!refused(db)) {
        compact(db);
        expect_content(db);
        put_version(db, 1000, 1, 10);
    }
    int closed = bitkv_close(db);
    assert_true(closed == BITKV_OK || closed == BITKV_ERR_SYNC_FAILED);
    db = open_by_hand(mode);
    (void)bitkv_del(db, &(uint32_t){1000}, sizeof(uint32_t));
    expect_content(db);
    compact(db);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.recovery.damaged_regions, 0);
    assert_true(s.dead_bytes < 4096);
    expect_content(db);
    ok(bitkv_close(db));
    assert_int_equal(count_files("", ".tmp"), 0);
}

/* --- system calls ------------------------------------------------------------------------- */

static bool run(enum fault_kind kind, uint32_t first, uint32_t count, int error, bitkv_io_mode mode)
{
    unsigned descriptors = lab_descriptors();
    if (lab_flag("BITKV_TEST_VERBOSE"))
        (void)fprintf(stderr, "%s %u+%u errno %d mode %d\n", fault_name(kind), first, count, error,
                      (int)mode);
    bitkv *db = open_copy(mode);
    fault_arm(kind, first, count, error);
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    uint32_t fired = fault_fired();
    fault_disarm();
    if (rc != BITKV_OK && fired == 0)
        fail_msg("%s without a fault: %s", bitkv_error_name(rc), bitkv_error_context());
    /* It says nothing of what is on the disk. */
    if (error == EMFILE && refused(db))
        fail_msg("%s %u: without a descriptor the partition refuses writes", fault_name(kind),
                 first);
    check_aftermath(db, mode, rc);
    if (lab_descriptors() != descriptors)
        fail_msg("%s %u: descriptors leaked", fault_name(kind), first);
    return fired > 0;
}

static void sweep(enum fault_kind kind, int error, uint32_t count, bitkv_io_mode mode)
{
    uint32_t step = 1;
    for (uint32_t n = 0; run(kind, n, count, error, mode); n += step) {
        if (!lab_flag("BITKV_FAULT_EVERY") && n >= 4)
            step = 1 + n / 2 * lab_slowness();
    }
}

static const struct {
    enum fault_kind kind;
    int errors[3];
} table[] = {
    {FAULT_openat, {EMFILE, EIO, ENOSPC}},
    {FAULT_pread, {EIO}},
    {FAULT_pwrite, {ENOSPC, EIO}},
    {FAULT_fallocate, {ENOSPC}},
    {FAULT_ftruncate, {EIO}},
    {FAULT_fdatasync, {EIO}},
    {FAULT_fsync, {EIO}},
    {FAULT_fstat, {EIO}},
    {FAULT_renameat, {EIO, ENOSPC}},
    {FAULT_unlinkat, {EIO}},
    {FAULT_mmap, {ENOMEM}},
    {FAULT_mprotect, {ENOMEM}},
    {FAULT_madvise, {EINVAL}},
};

static void sweep_all(uint32_t count)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        for (size_t e = 0; e < 3 && table[i].errors[e] != 0; e++) {
            sweep(table[i].kind, table[i].errors[e], count, BITKV_IO_MMAP);
            sweep(table[i].kind, table[i].errors[e], count, BITKV_IO_PWRITE);
        }
    }
}

static void a_call_that_fails_once_ends_no_more_than_the_compaction(void **state)
{
    (void)state;
    sweep_all(1);
}

static void calls_that_fail_from_then_on_lose_nothing(void **state)
{
    (void)state;
    sweep_all(UINT32_MAX);
}

/* --- a full disk ---------------------------------------------------------------------------- */

static void expect_full(bitkv_io_mode mode, enum fault_kind kind, uint32_t first, bool *fired)
{
    bitkv *db = open_copy(mode);
    uint64_t dead = statistics_of(db).dead_bytes;
    fault_arm(kind, first, UINT32_MAX, ENOSPC);
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    *fired = fault_fired() > 0;
    if (rc != BITKV_OK)
        assert_int_equal(rc, BITKV_ERR_NO_SPACE);
    expect_content(db);
    assert_int_equal(count_files("data_", ".tmp"), 0);
    bitkv_statistics s = statistics_of(db);
    assert_true(rc == BITKV_OK || s.dead_bytes <= dead + 4096);
    assert_in_range(count_files("data_", ".db"), s.segments, s.segments + 1);
    assert_int_equal(s.writes_refused, 0);
    fault_disarm();
    check_aftermath(db, mode, rc);
}

static void a_full_disk_leaves_everything_as_it_was(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_pwrite, FAULT_fallocate, FAULT_renameat};
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        for (unsigned i = 0; i < 3; i++) {
            bool fired = true;
            for (uint32_t n = 0; fired; n += 1 + n / 10)
                expect_full((bitkv_io_mode)mode, kinds[i], n, &fired);
        }
    }
}

/* Of one that the worker keeps where the file system has little space: what finds
 * none is done again. Returns whether that was so. */
static bool use_reserve(bitkv_io_mode mode, uint32_t first, bool *fired)
{
    bitkv *db = open_copy(mode);
    struct bkv_partition *p = db->partitions[0];
    fault_arm(FAULT_fstatfs, 0, UINT32_MAX, EIO); /* nothing says that there is any */
    (void)pthread_mutex_lock(&p->compact_mutex);
    bkv_reserve_prepare(p);
    (void)pthread_mutex_unlock(&p->compact_mutex);
    fault_disarm();
    assert_int_equal(count_files("reserve", ".tmp"), 1);
    fault_arm(FAULT_pwrite, first, 1, ENOSPC);
    compact(db);
    *fired = fault_fired() > 0;
    fault_disarm();
    bool used = count_files("reserve", ".tmp") == 0;
    expect_content(db);
    ok(bitkv_close(db));
    return used;
}

static void a_full_disk_is_compacted_into_the_reserve(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        bool fired = true;
        unsigned used = 0;
        for (uint32_t n = 0; fired; n++)
            used += use_reserve((bitkv_io_mode)mode, n, &fired);
        assert_true(used > 0);
    }
}

/* --- memory ------------------------------------------------------------------------------------
 */

static struct {
    uint32_t first, count;
    _Atomic uint32_t asked, refused;
} memory;

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    uint32_t n = atomic_fetch_add(&memory.asked, 1);
    if (n < memory.first || n - memory.first >= memory.count)
        return true;
    atomic_fetch_add(&memory.refused, 1);
    return false;
}

static bool run_without_memory(uint32_t first, uint32_t count, bitkv_io_mode mode)
{
    unsigned descriptors = lab_descriptors();
    bitkv *db = open_copy(mode);
    memory.first = first;
    memory.count = count;
    atomic_store(&memory.asked, 0);
    atomic_store(&memory.refused, 0);
    bkv_alloc_set_hook(on_allocation, NULL);
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    bkv_alloc_set_hook(NULL, NULL);
    uint32_t failures = atomic_load(&memory.refused);
    if (rc != BITKV_OK && failures == 0)
        fail_msg("%s though memory was there", bitkv_error_name(rc));
    check_aftermath(db, mode, rc);
    if (lab_descriptors() != descriptors)
        fail_msg("allocation %u: descriptors leaked", first);
    return failures > 0;
}

static void an_allocation_that_fails_ends_no_more_than_the_compaction(void **state)
{
    (void)state;
    for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
        for (uint32_t n = 0; run_without_memory(n, 1, (bitkv_io_mode)mode); n++)
            ;
        for (uint32_t n = 0; run_without_memory(n, UINT32_MAX, (bitkv_io_mode)mode); n++)
            ;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_that_fails_once_ends_no_more_than_the_compaction),
        cmocka_unit_test(calls_that_fail_from_then_on_lose_nothing),
        cmocka_unit_test(a_full_disk_leaves_everything_as_it_was),
        cmocka_unit_test(a_full_disk_is_compacted_into_the_reserve),
        cmocka_unit_test(an_allocation_that_fails_ends_no_more_than_the_compaction),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
