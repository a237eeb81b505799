/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints that cannot be written: the KeyDir outgrows the image while that is taken,
 * or a compaction that memory was lacking for stands before it. Nothing is lost by it,
 * and a later one is written.
 */
#include "api/compaction.h"

#include "fault/faults.h"
#include "io/io.h"
#include "keydir/internal.h"
#include "partition/state.h"

#include <stdatomic.h>

static struct bkv_io_ops ops; /* the faulty ones, but for openat */
static int (*faulty_openat)(int dirfd, const char *name, int flags, mode_t mode);

static struct {
    _Atomic bool hold; /* the next checkpoint that is begun */
    _Atomic unsigned begun;
} seam;

static int holding_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) != 0 && strstr(name, "keydir.ckp") != NULL) {
        atomic_fetch_add(&seam.begun, 1);
        while (atomic_load(&seam.hold))
            sleep_ms(1);
    }
    return faulty_openat(dirfd, name, flags, mode);
}

enum { KEYS = 6000, HOT = 3 };

static struct {
    bitkv *db;
    _Atomic bool due;
} starving;

/* From here on there is none: not for copies of tables that a snapshot needs, either. */
static void starve(void)
{
    struct bkv_partition *p = starving.db->partitions[0];
    fault_arm_memory(0, UINT32_MAX);
    bkv_lock(&p->lock);
    while (bkv_arena_page(&p->keydir->arena) != NULL)
        ;
    bkv_unlock(&p->lock);
}

/* When what compaction has made gets its name; the log goes on in a new file by then. */
static int starving_renameat(int dirfd, const char *from, const char *to)
{
    if (strstr(to, "data_") != NULL && atomic_exchange(&starving.due, false)) {
        put_version(starving.db, HOT, 3, 600);
        starve();
    }
    return bkv_io_kernel.renameat(dirfd, from, to);
}

static int setup(void **state)
{
    fault_install();
    ops = *bkv_io;
    faulty_openat = ops.openat;
    ops.openat = holding_openat;
    ops.renameat = starving_renameat;
    bkv_io = &ops;
    atomic_store(&seam.hold, false);
    atomic_store(&seam.begun, 0);
    return make_directory(state);
}

static int teardown(void **state)
{
    atomic_store(&seam.hold, false);
    fault_disarm();
    fault_uninstall();
    return remove_directory(state);
}

#define CHECKPOINT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void await(const _Atomic unsigned *count, unsigned wanted)
{
    uint64_t until = now_ms() + 60000;
    while (atomic_load(count) < wanted) {
        assert_true(now_ms() < until);
        sleep_ms(1);
    }
}

/* --- the image ------------------------------------------------------------------------------ */

/* So many that a table, which cannot be split while it is taken, gets too large. */
enum { FEW = 10, MANY = 40000 };

static void put_range(bitkv *db, uint32_t first, uint32_t end)
{
    for (uint32_t key = first; key < end; key++)
        ok(bitkv_put(db, &key, sizeof key, &key, sizeof key));
}

static void expect_range(bitkv *db, uint32_t end)
{
    for (uint32_t key = 0; key < end; key++) {
        uint32_t value = 0;
        size_t size = 0;
        ok(bitkv_get_into(db, &key, sizeof key, &value, sizeof value, &size));
        assert_int_equal(value, key);
    }
    assert_int_equal(statistics_of(db).keys, end);
}

/* So often was it said. */
static _Atomic unsigned outgrown, unmoved;

static void on_log(void *user, bitkv_log_level level, const char *message)
{
    (void)user;
    if (level == BITKV_LOG_WARNING && strstr(message, "outgrew") != NULL)
        atomic_fetch_add(&outgrown, 1);
    if (level == BITKV_LOG_WARNING && strstr(message, "no checkpoint: the KeyDir of") != NULL)
        atomic_fetch_add(&unmoved, 1);
}

static void a_keydir_that_outgrows_its_image_is_saved_later(void **state)
{
    (void)state;
    static const char large[1u << 20];
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    o.max_file_size = 64u << 20;
    o.checkpoint_interval_bytes = sizeof large;
    o.log = on_log;
    atomic_store(&outgrown, 0);
    bitkv *db = open_with(&o);
    put_range(db, 0, FEW);
    atomic_store(&seam.hold, true);
    ok(bitkv_put(db, "large", 5, large, sizeof large));
    await(&seam.begun, 1);
    put_range(db, FEW, MANY);
    assert_int_equal(statistics_of(db).checkpoints_total, 0);
    atomic_store(&seam.hold, false);
    await(&outgrown, 1);
    ok(bitkv_put(db, "large", 5, large, sizeof large)); /* reason enough for another */
    uint64_t until = now_ms() + 60000;
    while (statistics_of(db).checkpoints_total == 0) {
        assert_true(now_ms() < until);
        sleep_ms(1);
    }
    assert_int_equal(atomic_load(&outgrown), 1);
    ok(bitkv_del(db, "large", 5));
    expect_range(db, MANY);
    ok(bitkv_close(db));
    o.strict_recovery = true;
    db = open_with(&o);
    assert_true(statistics_of(db).recovery.checkpoint_keys > 0);
    expect_range(db, MANY);
    ok(bitkv_close(db));
}

/* --- behind a compaction --------------------------------------------------------------------- */

static void make_two_versions(const bitkv_options *options)
{
    bitkv *db = open_with(options);
    for (uint32_t version = 1; version <= 2; version++) {
        for (uint32_t key = 0; key < KEYS; key++)
            put_version(db, key, version, 60);
    }
    ok(bitkv_close(db));
}

/* Of a key whose table the snapshot has a copy of already: that takes no memory. */
static void put_until_a_checkpoint_fails(bitkv *db)
{
    uint64_t until = now_ms() + 60000;
    atomic_store(&unmoved, 0);
    while (atomic_load(&unmoved) == 0) {
        put_version(db, HOT, 3, 600);
        assert_true(now_ms() < until);
    }
}

static void expect_versions(bitkv *db)
{
    for (uint32_t key = 0; key < KEYS; key++)
        expect_version(db, key, key == HOT ? 3 : 2, key == HOT ? 600 : 60);
    assert_int_equal(statistics_of(db).keys, KEYS);
}

/* Its locations and its list of files would not fit each other. */
static void no_checkpoint_is_written_of_half_a_compaction(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    make_two_versions(&o);
    o.max_file_size = 64u << 20;
    o.checkpoint_interval_bytes = 200u << 10;
    o.log = on_log;
    bitkv *db = open_with(&o);
    bitkv_snapshot *snapshot;
    ok(bitkv_snapshot_create(&snapshot, db));
    starving.db = db;
    atomic_store(&starving.due, true);
    fails(BITKV_ERR_NO_MEMORY, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_false(atomic_load(&starving.due));
    uint64_t written = statistics_of(db).checkpoints_total;
    put_until_a_checkpoint_fails(db);
    assert_int_equal(statistics_of(db).checkpoints_total, written);
    fault_disarm();
    expect_versions(db);
    compact(db);
    expect_versions(db);
    ok(bitkv_snapshot_destroy(snapshot));
    ok(bitkv_close(db));
    db = open_with(&o);
    expect_versions(db);
    assert_int_equal(statistics_of(db).recovery.damaged_regions, 0);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHECKPOINT_TEST(a_keydir_that_outgrows_its_image_is_saved_later),
        CHECKPOINT_TEST(no_checkpoint_is_written_of_half_a_compaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
