/* SPDX-License-Identifier: MIT */
/* What crews on failing disks found in batches. */
#include "api/fixture.h"

#include "base/hash.h"
#include "db/db.h"
#include "io/io.h"

#include <stdatomic.h>

/* Writes that fail, counted from now; and syncs, that none is forgotten. */
static struct {
    _Atomic unsigned writes, syncs;
    unsigned fail_from, fail_to;
} seam;

static struct bkv_io_ops ops;

static ssize_t seam_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    unsigned number = ++seam.writes;
    if (number >= seam.fail_from && number < seam.fail_to) {
        errno = EIO;
        return -1;
    }
    return bkv_io_kernel.pwrite(fd, data, size, offset);
}

static int seam_fdatasync(int fd)
{
    seam.syncs++;
    return bkv_io_kernel.fdatasync(fd);
}

static void install(void)
{
    ops = bkv_io_kernel;
    ops.pwrite = seam_pwrite;
    ops.fdatasync = seam_fdatasync;
    bkv_io = &ops;
}

static void fail_writes(unsigned first, unsigned count)
{
    seam.writes = 0;
    seam.syncs = 0;
    seam.fail_from = first;
    seam.fail_to = first + count;
}

static bitkv *open_two(void)
{
    bitkv_options o = one_partition(BITKV_IO_PWRITE);
    o.partitions = 2;
    o.auto_compact = false;
    return open_with(&o);
}

/* The n-th key, from 1 on, of a partition. */
static uint32_t key_in(const bitkv *db, uint32_t partition, uint32_t n)
{
    for (uint32_t key = 0;; key++) {
        struct bkv_hash hash = bkv_hash(&db->hash_key, &key, sizeof key);
        if (bkv_hash_partition(&hash, 2) == partition && --n == 0)
            return key;
    }
}

static int write_both(bitkv *db, uint32_t a, uint32_t b, const char *value)
{
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    ok(bitkv_batch_put(batch, &a, sizeof a, value, strlen(value)));
    ok(bitkv_batch_put(batch, &b, sizeof b, value, strlen(value)));
    int rc = bitkv_write(db, batch, BITKV_DURABILITY_NONE);
    bitkv_batch_destroy(batch);
    return rc;
}

static void expect_held(bitkv *db, uint32_t key, const char *value)
{
    char got[16] = "";
    size_t size = 0;
    ok(bitkv_get_into(db, &key, sizeof key, got, sizeof got - 1, &size));
    assert_string_equal(got, value);
}

/* In a child, which dies as it is. The zeros have to be on the disk before a peer is: it
 * may be synced with other records of the numbers that the batch had. */
static void live_with_a_failed_batch(void)
{
    install();
    bitkv *db = open_two();
    uint32_t a = key_in(db, 0, 1), b = key_in(db, 1, 1);
    ok(write_both(db, a, b, "before"));
    /* Written are the two groups, and the first one's checksum, which fails. */
    fail_writes(3, 1);
    fails(BITKV_ERR_IO, write_both(db, a, b, "failed"));
    unsigned synced = seam.syncs;
    fail_writes(1, 0);
    ok(write_both(db, a, b, "between"));
    _exit(synced >= 2 ? 0 : 3);
}

static void what_a_failed_batch_left_is_gone_for_good_before_others_go_on(void **state)
{
    (void)state;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        live_with_a_failed_batch();
    assert_int_equal(wait_child(child), 0);
    bitkv *db = open_two();
    expect_held(db, key_in(db, 0, 1), "between");
    expect_held(db, key_in(db, 1, 1), "between");
    ok(bitkv_close(db));
}

static ssize_t fail_in_second(int fd, const void *data, size_t size, off_t offset)
{
    char link[64], name[PATH_SIZE] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    (void)readlink(link, name, sizeof name - 1);
    unsigned number = ++seam.writes;
    bool checksum = size == 4, second = strstr(name, "partition_1") != NULL;
    if (checksum || (number > 2 && second)) {
        errno = EIO;
        return -1;
    }
    return bkv_io_kernel.pwrite(fd, data, size, offset);
}

static void live_with_bytes_that_stay(void)
{
    bitkv *db = open_two();
    uint32_t a = key_in(db, 0, 1), b = key_in(db, 1, 1);
    ok(write_both(db, a, b, "before"));
    ops = bkv_io_kernel;
    ops.pwrite = fail_in_second;
    bkv_io = &ops;
    seam.writes = 0;
    fails(BITKV_ERR_IO, write_both(db, a, b, "failed"));
    /* As many records as let the log reach up to where the batch's would. */
    for (uint32_t n = 2; n < 6; n++) {
        uint32_t key = key_in(db, 0, n);
        int rc = bitkv_put(db, &key, sizeof key, "x", 1);
        if (rc != BITKV_OK)
            fails(BITKV_ERR_IO, rc);
    }
    expect_held(db, a, "before");
    expect_held(db, b, "before");
    _exit(0);
}

/* The batch named numbers that its peer gave to other records then, and so half of
 * it was there after the next opening. */
static void a_batch_that_failed_and_cannot_be_erased_stays_away(void **state)
{
    (void)state;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        live_with_bytes_that_stay();
    assert_int_equal(wait_child(child), 0);
    bitkv *db = open_two();
    expect_held(db, key_in(db, 0, 1), "before");
    expect_held(db, key_in(db, 1, 1), "before");
    ok(write_both(db, key_in(db, 0, 1), key_in(db, 1, 1), "after"));
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_a_failed_batch_left_is_gone_for_good_before_others_go_on),
        TEST(a_batch_that_failed_and_cannot_be_erased_stays_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
