/* SPDX-License-Identifier: MIT */
/*
 * Scans that read through descriptors, window by window, when memory, reads or an index
 * that somebody has forged fail them: each record comes once or the end names what is
 * missing, and the next scan has them all.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "fault/faults.h"
#include "log/format.h"
#include "log/location.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_path(path, "scan-faults");
    fault_install();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fault_disarm();
    fault_uninstall();
    lab_remove(path);
    return 0;
}

/* --- a scan ------------------------------------------------------------------------------- */

enum { KEYS_MAX = 20000 };

/* How often each number came, and how the scan ended. */
static struct {
    uint8_t times[KEYS_MAX];
    unsigned count;
    int end;
} seen;

static bitkv *open_with(uint32_t partitions, bitkv_io_mode mode)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = partitions;
    options.io_mode = mode;
    options.auto_compact = false;
    options.max_file_size = 8u << 20;
    options.durability = BITKV_DURABILITY_NONE;
    bitkv *db = NULL;
    int rc = bitkv_open(&db, path, &options);
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void put_numbers(bitkv *db, uint32_t count)
{
    char value[16];
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(value, sizeof value, "v%u", i);
        assert_int_equal(bitkv_put(db, &i, sizeof i, value, strlen(value)), BITKV_OK);
    }
}

static void note(const bitkv_record *record, bool keys_only)
{
    uint32_t number;
    char value[16];
    assert_int_equal(record->key_size, sizeof number);
    memcpy(&number, record->key, sizeof number);
    assert_true(number < KEYS_MAX);
    (void)snprintf(value, sizeof value, "v%u", number);
    assert_int_equal(record->value_size, strlen(value));
    if (!keys_only)
        assert_memory_equal(record->value, value, strlen(value));
    seen.times[number]++;
    seen.count++;
}

/* With `prefix`, only what begins with that byte. A scan that memory fails goes on if
 * it is asked to. */
static void scan_from(bitkv_snapshot *snapshot, unsigned flags, const char *prefix)
{
    bitkv_iterator_options options;
    bitkv_iterator *iterator = NULL;
    bitkv_record record;
    bitkv_iterator_options_init(&options);
    options.flags = flags;
    options.prefix = prefix;
    options.prefix_size = prefix != NULL ? 1 : 0;
    memset(&seen, 0, sizeof seen);
    seen.end = bitkv_iterator_create(&iterator, snapshot, &options);
    unsigned pauses = 0;
    while (seen.end == BITKV_OK || (seen.end == BITKV_ERR_NO_MEMORY && iterator != NULL)) {
        seen.end = bitkv_iterator_next(iterator, &record);
        if (seen.end == BITKV_OK)
            note(&record, flags == BITKV_SCAN_KEYS);
        else if (seen.end == BITKV_ERR_NO_MEMORY && ++pauses == 3)
            break;
    }
    assert_int_equal(bitkv_iterator_destroy(iterator), BITKV_OK);
}

static void scan(bitkv *db, unsigned flags, const char *prefix)
{
    bitkv_snapshot *snapshot;
    assert_int_equal(bitkv_snapshot_create(&snapshot, db), BITKV_OK);
    scan_from(snapshot, flags, prefix);
    assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
}

/* All multiples of `step` below `count`, once each, and nothing else. */
static void expect_each_once(uint32_t count, uint32_t step)
{
    assert_int_equal(seen.end, BITKV_NOT_FOUND);
    for (uint32_t i = 0; i < KEYS_MAX; i++) {
        unsigned wanted = i < count && i % step == 0;
        if (seen.times[i] != wanted)
            fail_msg("number %u came %u times", i, seen.times[i]);
    }
}

/* --- windows -------------------------------------------------------------------------------- */

/* Windows grow from partition to partition, up to the largest. */
static void windows_of_every_size_bring_each_record_once(void **state)
{
    (void)state;
    bitkv *db = open_with(16, BITKV_IO_PWRITE);
    put_numbers(db, 5000);
    scan(db, BITKV_SCAN_ALL, NULL);
    expect_each_once(5000, 1);
    scan(db, BITKV_SCAN_KEYS, NULL);
    expect_each_once(5000, 1);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* Then records are read in order of their places, mapped or not. */
static void what_is_not_in_memory_comes_once_likewise(void **state)
{
    (void)state;
    bitkv *db = open_with(2, BITKV_IO_MMAP);
    put_numbers(db, 5000);
    fault_cold(true);
    scan(db, BITKV_SCAN_ALL, NULL);
    expect_each_once(5000, 1);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* Several windows of one file: the second begins before the first has ended. Then most
 * of the tables are empty. */
static void windows_may_be_nearly_empty(void **state)
{
    (void)state;
    bitkv *db = open_with(1, BITKV_IO_PWRITE);
    put_numbers(db, KEYS_MAX);
    scan(db, BITKV_SCAN_ALL, NULL);
    expect_each_once(KEYS_MAX, 1);
    for (uint32_t i = 0; i < KEYS_MAX; i++) {
        if (i % 2500 != 0)
            assert_int_equal(bitkv_del(db, &i, sizeof i), BITKV_OK);
    }
    scan(db, BITKV_SCAN_ALL, NULL);
    expect_each_once(KEYS_MAX, 2500);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* For a larger window: it stays small. For any: the scan says so, and goes on. */
static void memory_that_lacks_costs_no_record(void **state)
{
    (void)state;
    unsigned unnoticed = 0;
    bitkv_snapshot *snapshot;
    bitkv *db = open_with(1, BITKV_IO_PWRITE);
    put_numbers(db, 5000);
    assert_int_equal(bitkv_snapshot_create(&snapshot, db), BITKV_OK);
    for (uint32_t n = 0, fired = 1; fired > 0; n++) {
        fault_arm_memory(n, 1);
        scan_from(snapshot, BITKV_SCAN_ALL, NULL);
        fired = fault_fired();
        fault_disarm();
        if (n == 0)
            assert_int_equal(seen.end, BITKV_ERR_NO_MEMORY); /* no iterator, even */
        else if (seen.end != BITKV_ERR_NO_MEMORY && seen.count == 5000)
            unnoticed += fired > 0;
        if (seen.end == BITKV_NOT_FOUND)
            expect_each_once(5000, 1);
        scan_from(snapshot, BITKV_SCAN_ALL, NULL);
        expect_each_once(5000, 1);
    }
    assert_true(unnoticed > 0);
    assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* --- reads that fail ------------------------------------------------------------------------ */

/* Values, keys alone, and keys that have to be looked at. */
static void what_cannot_be_read_is_told_at_the_end(void **state)
{
    (void)state;
    static const struct {
        unsigned flags;
        const char *prefix;
        unsigned count;
    } kinds[] = {{BITKV_SCAN_ALL, NULL, 500},
                 {BITKV_SCAN_KEYS, NULL, 500},
                 {BITKV_SCAN_ALL, "\1", 2},
                 {BITKV_SCAN_KEYS, "\1", 2}};
    static const uint32_t failures[] = {1, 2, UINT32_MAX};
    bitkv *db = open_with(1, BITKV_IO_PWRITE);
    put_numbers(db, 500);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        for (size_t k = 0; k < 3; k++) {
            fault_arm(FAULT_pread, 0, failures[k], EIO);
            scan(db, kinds[i].flags, kinds[i].prefix);
            assert_true(fault_fired() > 0);
            fault_disarm();
            if (failures[k] == 1) { /* of neighbours: each is read by itself */
                assert_int_equal(seen.end, BITKV_NOT_FOUND);
                assert_int_equal(seen.count, kinds[i].count);
            } else {
                assert_int_equal(seen.end, BITKV_ERR_IO);
                assert_true(seen.count < kinds[i].count || kinds[i].prefix != NULL);
            }
            scan(db, kinds[i].flags, kinds[i].prefix);
            assert_int_equal(seen.end, BITKV_NOT_FOUND);
            assert_int_equal(seen.count, kinds[i].count);
        }
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* --- an index that leads to something else ------------------------------------------------- */

static void seal_hint(struct lab_file *hint)
{
    bkv_put32(hint->data + 112,
              bkv_crc32c(0, hint->data + BKV_HINT_HEADER, hint->size - BKV_HINT_HEADER));
    bkv_put32(hint->data + 116, bkv_crc32c(0, hint->data, 116));
}

enum odd { ODD_NONE, ODD_TOMBSTONE, ODD_FLAGS, ODD_SIZE, ODDS };

/* Keys a, b, c, of which b is deleted; the index has for `a` the place of that, or its
 * record has flags that there are none of, or another size. */
static void make_odd(enum odd odd, size_t value_size)
{
    static struct lab_image image;
    struct lab_log log;
    char *value = calloc(1, value_size + 1);
    memset(value, 'v', value_size);
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    size_t at = lab_log_put(&log, 1, "a", value);
    (void)lab_log_put(&log, 2, "b", value);
    size_t tombstone = lab_log_delete(&log, 3, "b");
    (void)lab_log_put(&log, 4, "c", value);
    lab_log_end(&log, &image);
    lab_add_hint(&image, M, 0, 1);
    if (odd == ODD_FLAGS)
        lab_image_find(&image, "partition_0/data_1.db")->data[at + BKV_RECORD_FLAGS] ^= 0x80;
    if (odd == ODD_SIZE)
        lab_image_find(&image, "partition_0/data_1.db")->data[at + BKV_RECORD_VALUE_SIZE] ^= 0x40;
    if (odd == ODD_TOMBSTONE) {
        struct lab_file *hint = lab_image_find(&image, "partition_0/hint_1.ht");
        uint8_t *packed = hint->data + BKV_HINT_HEADER + 8;
        uint64_t upper = bkv_get64(packed) >> 39 << 39;
        bkv_put64(packed, upper | bkv_location(0, tombstone, bkv_size_code(24)));
        seal_hint(hint);
    }
    lab_image_write(&image, path);
    lab_image_free(&image);
    free(value);
}

/* By which letters came. */
static int scan_letters(bitkv *db, unsigned flags, const char *prefix, char letters[4])
{
    bitkv_iterator_options options;
    bitkv_iterator *iterator;
    bitkv_snapshot *snapshot;
    bitkv_record record;
    size_t count = 0;
    int rc;
    bitkv_iterator_options_init(&options);
    options.flags = flags;
    options.prefix = prefix;
    options.prefix_size = prefix != NULL ? 1 : 0;
    assert_int_equal(bitkv_snapshot_create(&snapshot, db), BITKV_OK);
    assert_int_equal(bitkv_iterator_create(&iterator, snapshot, &options), BITKV_OK);
    while ((rc = bitkv_iterator_next(iterator, &record)) == BITKV_OK && count < 3)
        letters[count++] = *(const char *)record.key;
    letters[count] = '\0';
    assert_int_equal(bitkv_iterator_destroy(iterator), BITKV_OK);
    assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
    return rc;
}

static void a_forged_index_brings_no_record_of_another_kind(void **state)
{
    (void)state;
    static const bitkv_io_mode modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};
    static const char *const prefixes[] = {NULL, "a", "c"};
    for (unsigned i = 0; i < 2 * ODDS * 2; i++) {
        enum odd odd = (enum odd)(i / 4);
        char letters[4];
        bitkv *db = NULL;
        make_odd(odd, i % 2 != 0 ? 1000 : 1);
        assert_int_equal(
            lab_open(&db, path, (struct lab_open){.io_mode = modes[i / 2 % 2], .read_only = true}),
            BITKV_OK);
        for (unsigned k = 0; k < 6; k++) {
            const char *prefix = prefixes[k / 2];
            unsigned flags = k % 2 != 0 ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL;
            int rc = scan_letters(db, flags, prefix, letters);
            assert_int_equal(rc, odd == ODD_NONE ? BITKV_NOT_FOUND : BITKV_ERR_CORRUPT);
            assert_int_equal(strchr(letters, 'a') != NULL,
                             odd == ODD_NONE && (prefix == NULL || *prefix == 'a'));
            assert_int_equal(strchr(letters, 'c') != NULL, prefix == NULL || *prefix == 'c');
            assert_null(strchr(letters, 'b'));
        }
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(windows_of_every_size_bring_each_record_once, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_not_in_memory_comes_once_likewise, setup, teardown),
        cmocka_unit_test_setup_teardown(windows_may_be_nearly_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_that_lacks_costs_no_record, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_told_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_forged_index_brings_no_record_of_another_kind, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
