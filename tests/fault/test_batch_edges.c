/* SPDX-License-Identifier: MIT */
/*
 * Batches that cannot even be taken back, and parts that recovery cannot read: what the
 * disk then holds is not known, so nothing is written behind it; and neither this opening
 * nor the next shows a part of the batch. (test_batch.c has those that fail and leave
 * nothing behind.)
 */
#include "api/fixture.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "damage/lab.h"
#include "db/db.h"
#include "fault/faults.h"
#include "io/io.h"
#include "keydir/internal.h"
#include "log/format.h"
#include "partition/state.h"

#include <stdatomic.h>

#define M (&lab_manifest_1)

enum { PARTITIONS = 3, OLD = 60 };

static struct bkv_io_ops ops;          /* the faulty ones, but for syncs */
static _Atomic uint32_t syncs_to_fail; /* of the next ones */

static int failing_fdatasync(int fd)
{
    (void)fd;
    uint32_t left = atomic_load(&syncs_to_fail);
    if (left == 0)
        return 0;
    atomic_store(&syncs_to_fail, left - 1);
    errno = EIO;
    return -1;
}

static int setup(void **state)
{
    fault_install();
    ops = *bkv_io;
    ops.fdatasync = failing_fdatasync;
    bkv_io = &ops;
    atomic_store(&syncs_to_fail, 0);
    return make_directory(state);
}

static int teardown(void **state)
{
    fault_disarm();
    fault_uninstall();
    return remove_directory(state);
}

#define BATCH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* --- a database of several partitions --------------------------------------------------------- */

/* Nothing is synced or compacted unasked. */
static bitkv *open_mode(bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.max_file_size = 1u << 20;
    o.partitions = PARTITIONS;
    o.auto_compact = false;
    o.sync_interval_ms = 3600000;
    return open_with(&o);
}

static bitkv *open_filled(bitkv_io_mode mode)
{
    bitkv *db = open_mode(mode);
    for (uint32_t key = 0; key < OLD; key++)
        ok(bitkv_put(db, &key, sizeof key, &key, sizeof key));
    return db;
}

static bitkv_batch *make_batch(bool deletes)
{
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    for (uint32_t key = 0; key < OLD; key++) {
        uint32_t fresh = OLD + key;
        if (deletes) {
            ok(bitkv_batch_del(batch, &key, sizeof key));
        } else {
            ok(bitkv_batch_put(batch, &key, sizeof key, "new", 3));
            ok(bitkv_batch_put(batch, &fresh, sizeof fresh, "new", 3));
        }
    }
    return batch;
}

static uint32_t partition_of(const bitkv *db, uint32_t key)
{
    struct bkv_hash hash = bkv_hash(&db->store.manifest.hash_key, &key, sizeof key);
    return bkv_hash_partition(&hash, PARTITIONS);
}

/* Nothing of the batch; what was there before, but for what `lost` had. */
static void expect_old(bitkv *db, uint32_t lost)
{
    for (uint32_t key = 0; key < 2 * OLD; key++) {
        uint32_t value = 0;
        size_t size = 0;
        int rc = bitkv_get_into(db, &key, sizeof key, &value, sizeof value, &size);
        if (key >= OLD) {
            assert_int_equal(rc, BITKV_NOT_FOUND);
        } else if (partition_of(db, key) != lost) {
            expect_code(rc, BITKV_OK, "get", __FILE__, __LINE__);
            assert_int_equal(size, sizeof key);
            assert_int_equal(value, key);
        } else {
            assert_int_not_equal(rc, BITKV_OK);
        }
    }
}

static void expect_refused(bitkv *db)
{
    for (uint32_t key = 0; key < OLD; key++) {
        fails(BITKV_ERR_IO, bitkv_put(db, &key, sizeof key, "newer", 5));
        fails(BITKV_ERR_IO, bitkv_del(db, &key, sizeof key));
    }
    assert_int_equal(statistics_of(db).writes_refused, PARTITIONS);
}

static void expect_new(bitkv *db, bitkv_batch *batch)
{
    ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
    for (uint32_t key = 0; key < 2 * OLD; key++) {
        char value[8];
        size_t size = 0;
        ok(bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size));
        assert_int_equal(size, 3);
        assert_memory_equal(value, "new", 3);
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Bytes that were to be erased may come back, and are no records of anything else. */
static void a_batch_that_cannot_be_taken_back_ends_writing(void **state)
{
    (void)state;
    static const uint32_t failures[] = {1, UINT32_MAX}; /* of the syncs, while it is */
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t n = 1; n <= PARTITIONS; n++) {
            remove_tree(path);
            bitkv *db = open_filled(BITKV_IO_PWRITE);
            bitkv_batch *batch = make_batch(false);
            fault_arm(FAULT_pwrite, n, 1, EIO);
            atomic_store(&syncs_to_fail, failures[i]);
            fails(BITKV_ERR_IO, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
            assert_int_equal(fault_fired(), 1);
            fault_disarm();
            atomic_store(&syncs_to_fail, 0);
            context_has("write"); /* what led there, not what came of it */
            expect_old(db, UINT32_MAX);
            expect_refused(db);
            expect_old(db, UINT32_MAX);
            assert_int_not_equal(bitkv_close(db), BITKV_OK);
            db = open_mode(BITKV_IO_PWRITE);
            expect_old(db, UINT32_MAX);
            expect_new(db, batch);
            bitkv_batch_destroy(batch);
            ok(bitkv_close(db));
        }
    }
}

/* Until the logs are written through mappings: not before much has come without a sync. */
static void write_much(bitkv *db)
{
    static const char value[60000];
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        for (uint32_t n = 0, key = 1000; n <= BKV_MAPPED_FROM_BYTES / sizeof value; key++) {
            if (partition_of(db, key) != i)
                continue;
            ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
            n++;
        }
        /* And until the worker has made room up to the end: it would make the file longer. */
        const struct bkv_tail *tail = &db->partitions[i]->tail;
        uint64_t until = now_ms() + 60000;
        while (atomic_load(&tail->reserved) < tail->limit && now_ms() < until)
            sleep_ms(1);
        assert_true(atomic_load(&tail->reserved) >= tail->limit);
    }
}

/* Somebody has cut the file that one of the parts goes to. */
static void a_part_that_meets_an_error_of_the_mapping_fails_all(void **state)
{
    (void)state;
    for (uint32_t cut = 0; cut < PARTITIONS; cut++) {
        char name[PATH_SIZE];
        char file[64];
        remove_tree(path);
        bitkv *db = open_filled(BITKV_IO_MMAP);
        bitkv_batch *batch = make_batch(false);
        write_much(db);
        (void)snprintf(file, sizeof file, "partition_%u/data_1.db", cut);
        assert_int_equal(truncate(inside(name, path, file), 0), 0);
        fails(BITKV_ERR_IO, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        context_has(file);
        expect_old(db, cut);
        expect_refused(db);
        assert_int_not_equal(bitkv_close(db), BITKV_OK);
        db = open_mode(BITKV_IO_MMAP);
        expect_old(db, cut);
        expect_new(db, batch);
        bitkv_batch_destroy(batch);
        ok(bitkv_close(db));
    }
}

/* Pages of the KeyDir that a change could take without an allocation. */
static void drain(const bitkv *db)
{
    for (uint32_t i = 0; i < db->partition_count; i++) {
        struct bkv_partition *p = db->partitions[i];
        fault_arm_memory(0, UINT32_MAX);
        bkv_lock(&p->lock);
        while (bkv_arena_page(&p->keydir->arena) != NULL)
            ;
        bkv_unlock(&p->lock);
        fault_disarm();
    }
}

/* A deletion takes memory while a snapshot needs what is deleted. */
static void deletions_that_memory_lacks_for_fail_all(void **state)
{
    (void)state;
    unsigned failures = 0;
    bool done = false;
    for (uint32_t n = 0; !done; n++) {
        remove_tree(path);
        bitkv *db = open_filled(BITKV_IO_AUTO);
        bitkv_batch *batch = make_batch(true);
        bitkv_snapshot *snapshot;
        ok(bitkv_snapshot_create(&snapshot, db));
        drain(db);
        fault_arm_memory(n, UINT32_MAX);
        int rc = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
        fault_disarm();
        done = rc == BITKV_OK;
        if (!done) {
            failures++;
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
            expect_old(db, UINT32_MAX);
            ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        }
        for (uint32_t key = 0; key < OLD; key++) {
            fails(BITKV_NOT_FOUND, bitkv_exists(db, &key, sizeof key));
            ok(bitkv_snapshot_exists(snapshot, &key, sizeof key));
        }
        ok(bitkv_snapshot_destroy(snapshot));
        bitkv_batch_destroy(batch);
        ok(bitkv_close(db));
    }
    assert_true(failures > 0);
}

/* --- recovery --------------------------------------------------------------------------------- */

/* A key before, a part of `values`, one of which is larger than what recovery reads at
 * once, and a key behind. */
static void make_part(struct lab_image *image, uint64_t gap)
{
    struct lab_log log;
    uint8_t header[BKV_BATCH_FIXED] = {0};
    char *large = calloc(1, (600u << 10) + 1);
    memset(large, 'l', 600u << 10);
    bkv_put32(header, 3);
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "before", "1");
    (void)lab_log_raw(&log, BKV_RECORD_BATCH, 2, NULL, 0, header, sizeof header);
    (void)lab_log_put(&log, 3, "a", "2");
    (void)lab_log_put(&log, 4 + gap, "large", large);
    (void)lab_log_put(&log, 5 + gap, "b", "2");
    (void)lab_log_put(&log, 6 + gap, "behind", "1");
    lab_log_end(&log, image);
    free(large);
}

static int open_part(bitkv **db, bool read_only)
{
    return lab_open(db, path,
                    (struct lab_open){.by_hand = true,
                                      .read_only = read_only,
                                      .max_file_size = (uint64_t)4 << 20});
}

static void expect_part(bitkv *db, bool whole)
{
    expect_text(db, "before", "1");
    assert_int_equal(bitkv_exists(db, "a", 1), whole ? BITKV_OK : BITKV_NOT_FOUND);
    assert_int_equal(bitkv_exists(db, "large", 5), whole ? BITKV_OK : BITKV_NOT_FOUND);
    assert_int_equal(bitkv_exists(db, "b", 1), whole ? BITKV_OK : BITKV_NOT_FOUND);
    assert_int_equal(bitkv_exists(db, "behind", 6), whole ? BITKV_OK : BITKV_NOT_FOUND);
}

static void a_part_that_cannot_be_read_now_fails_the_opening(void **state)
{
    (void)state;
    static struct lab_image image;
    unsigned failures = 0;
    make_part(&image, 0);
    for (int read_only = 0; read_only < 2; read_only++) {
        for (uint32_t n = 0, fired = 1; fired > 0; n++) {
            bitkv *db = NULL;
            lab_image_write(&image, path);
            fault_arm(FAULT_pread, n, 1, EIO);
            int rc = open_part(&db, read_only != 0);
            fired = fault_fired();
            fault_disarm();
            failures += rc != BITKV_OK;
            if (rc != BITKV_OK) {
                assert_int_equal(rc, BITKV_ERR_IO);
                ok(open_part(&db, read_only != 0));
            }
            expect_part(db, true);
            ok(bitkv_close(db));
        }
    }
    assert_true(failures > 0);
    lab_image_free(&image);
}

/* Somebody has made it so: each record verifies. */
static void a_part_whose_records_do_not_follow_each_other_is_none(void **state)
{
    (void)state;
    static struct lab_image image;
    make_part(&image, 1);
    for (int read_only = 1; read_only >= 0; read_only--) {
        bitkv *db = NULL;
        lab_image_write(&image, path);
        ok(open_part(&db, read_only != 0));
        assert_int_equal(lab_recovery(db).torn_tails, 1);
        expect_part(db, false);
        if (!read_only)
            put_text(db, "a", "3");
        ok(bitkv_close(db));
    }
    bitkv *db = NULL;
    ok(open_part(&db, true));
    assert_int_equal(lab_recovery(db).torn_tails, 0);
    expect_text(db, "a", "3");
    ok(bitkv_close(db));
    lab_image_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BATCH_TEST(a_batch_that_cannot_be_taken_back_ends_writing),
        BATCH_TEST(a_part_that_meets_an_error_of_the_mapping_fails_all),
        BATCH_TEST(deletions_that_memory_lacks_for_fail_all),
        BATCH_TEST(a_part_that_cannot_be_read_now_fails_the_opening),
        BATCH_TEST(a_part_whose_records_do_not_follow_each_other_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
