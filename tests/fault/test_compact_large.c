/* SPDX-License-Identifier: MIT */
/*
 * Compaction of files that are larger than its buffers, with values that expire: the
 * calls and allocations in the middle of it fail in turn, and nothing is lost. And of
 * files whose hints say, since they were opened, what is not so: it ends with an error,
 * and changes nothing.
 */
#include "api/compaction.h"
#include "fault/faults.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"

#include <errno.h>

#define FILE_BYTES (4u << 20)
#define KEYS       300u
#define SIZE       9000u
#define LARGE      400u /* a key whose value is larger than the buffers */
#define LARGE_SIZE VALUE_MAX

static char base[PATH_SIZE];

static bitkv_options large_files(bitkv_io_mode mode)
{
    bitkv_options o = by_hand(mode);
    o.max_file_size = FILE_BYTES;
    return o;
}

static bitkv *open_large(bitkv_io_mode mode)
{
    bitkv_options o = large_files(mode);
    return open_with(&o);
}

static void put_expiring(bitkv *db, uint32_t key)
{
    static unsigned char value[SIZE];
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = 1;
    ok(bitkv_put_if(db, &key, sizeof key, value, sizeof value, &o, NULL));
}

/* Some have an older value in another file, some none: the one needs a tombstone in its
 * place when it has expired, the other nothing. */
static int make_base(void **state)
{
    (void)make_directory(state);
    fault_install();
    bitkv *db = open_large(BITKV_IO_AUTO);
    put_all(db, KEYS, 1, SIZE);
    put_version(db, LARGE, 1, LARGE_SIZE);
    for (uint32_t key = 0; key < KEYS; key += 3)
        put_version(db, key, 2, SIZE);
    for (uint32_t key = 1; key < 60; key += 3)
        put_expiring(db, key);
    for (uint32_t key = 1000; key < 1020; key++)
        put_expiring(db, key);
    delete_all(db, 200, 220);
    for (uint32_t key = 2; key < KEYS; key += 6)
        put_version(db, key, 2, SIZE);
    sleep_ms(5);
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
    for (uint32_t key = 0; key < KEYS; key++) {
        bool deleted = key >= 200 && key < 220 && key % 6 != 2;
        if (deleted || (key < 60 && key % 3 == 1))
            expect_absent(db, key, key + 1);
        else
            expect_version(db, key, key % 3 == 0 || key % 6 == 2 ? 2 : 1, SIZE);
    }
    expect_version(db, LARGE, 1, LARGE_SIZE);
    expect_absent(db, 1000, 1020);
}

static bitkv *open_copy(bitkv_io_mode mode)
{
    remove_tree(path);
    copy_tree(base, path);
    return open_large(mode);
}

static void check_aftermath(bitkv *db, bitkv_io_mode mode)
{
    expect_content(db);
    if (statistics_of(db).writes_refused == 0)
        compact(db);
    expect_content(db);
    (void)bitkv_close(db);
    remove_files("keydir");
    db = open_large(mode);
    expect_content(db);
    ok(bitkv_close(db));
}

enum fault { ONCE, FULL, FROM_THEN_ON, MEMORY, MEMORY_EVER, FAULTS };

static void arm(enum fault fault, uint32_t n)
{
    if (fault == ONCE)
        fault_arm_all(n, 1, EIO);
    else if (fault == FULL)
        fault_arm(FAULT_pwrite, n, 1, ENOSPC);
    else if (fault == FROM_THEN_ON)
        fault_arm_all(n, UINT32_MAX, EIO);
    else
        fault_arm_memory(n, fault == MEMORY ? 1 : UINT32_MAX);
}

static bool compact_under(enum fault fault, uint32_t n, bitkv_io_mode mode)
{
    bitkv *db = open_copy(mode);
    arm(fault, n);
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    bool fired = fault_fired() > 0;
    if (fault == MEMORY_EVER) { /* with what it has not come to the end of */
        (void)bitkv_close(db);
        fault_disarm();
        db = open_large(mode);
    }
    fault_disarm();
    if (rc != BITKV_OK && !fired)
        fail_msg("%s without a fault: %s", bitkv_error_name(rc), bitkv_error_context());
    check_aftermath(db, mode);
    return fired;
}

static void nothing_is_lost_in_the_middle_of_a_large_one(void **state)
{
    (void)state;
    for (enum fault fault = 0; fault < FAULTS; fault++) {
        bool fired = true;
        for (uint32_t n = 0; fired; n += n < 40 ? 1 : 5)
            fired = compact_under(fault, n, n % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE);
    }
}

/* --- hints that change under an open database ------------------------------------------- */

static void forge(unsigned entry, uint64_t packed)
{
    char name[PATH_SIZE];
    int fd = open(in_partition(name, "hint_1.ht"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    uint8_t *bytes = malloc((size_t)status.st_size);
    assert_int_equal(pread(fd, bytes, (size_t)status.st_size, 0), status.st_size);
    bkv_put64(bytes + BKV_HINT_HEADER + (size_t)entry * BKV_HINT_ENTRY + 8, packed);
    bkv_put32(bytes + 112,
              bkv_crc32c(0, bytes + BKV_HINT_HEADER, (size_t)status.st_size - BKV_HINT_HEADER));
    bkv_put32(bytes + 116, bkv_crc32c(0, bytes, 116));
    assert_int_equal(pwrite(fd, bytes, (size_t)status.st_size, 0), status.st_size);
    free(bytes);
    (void)close(fd);
}

static uint64_t packed_of(unsigned entry)
{
    char name[PATH_SIZE];
    uint8_t bytes[8];
    int fd = open(in_partition(name, "hint_1.ht"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, bytes, 8, BKV_HINT_HEADER + (off_t)entry * BKV_HINT_ENTRY + 8), 8);
    (void)close(fd);
    return bkv_get64(bytes);
}

/* The checksums are right, but the entry is not. Keys keep their values, whatever becomes
 * of the compaction: they point at the records themselves. */
static void a_hint_that_was_forged_meanwhile_misleads_no_compaction(void **state)
{
    (void)state;
    const uint64_t location = (UINT64_C(1) << 39) - 1;
    for (unsigned how = 0; how < 4; how++) {
        for_both_modes(mode)
        {
            bitkv *db = open_copy(mode);
            uint64_t packed = packed_of(7);
            if (how == 0) /* a place behind the file */
                packed = (packed & ~location) | bkv_location(0, 1u << 30, 8);
            else if (how == 1) /* of a record that is not one */
                packed = (packed & ~location) | ((packed & location) + (1u << 11));
            else if (how == 2) /* a delete */
                packed = (packed & ((UINT64_C(1) << 59) - 1)) | (uint64_t)BKV_RECORD_DELETE << 59;
            else /* longer than it is */
                packed ^= 1;
            forge(7, packed);
            int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
            assert_true(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT);
            expect_content(db);
            ok(bitkv_close(db));
            (void)unlink(in_partition((char[PATH_SIZE]){0}, "hint_1.ht"));
            remove_files("keydir");
            db = open_large(mode);
            expect_content(db);
            ok(bitkv_close(db));
        }
    }
}

#define BASE_TEST(name) cmocka_unit_test_setup_teardown(name, make_base, remove_base)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BASE_TEST(nothing_is_lost_in_the_middle_of_a_large_one),
        BASE_TEST(a_hint_that_was_forged_meanwhile_misleads_no_compaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
