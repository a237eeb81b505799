/* SPDX-License-Identifier: MIT */
/*
 * What writes, reads, inspects and erases the files of a database, below the
 * database itself: every system call and every allocation of each of them fails
 * once. It says so, with the code of what failed and never "not found"; gives
 * everything back; leaves no half file under a file's name; and does its work
 * when it is asked again.
 */
#include "base/memory.h"
#include "damage/lab.h"
#include "fault/faults.h"
#include "log/checkpoint.h"
#include "log/erase.h"
#include "log/filename.h"
#include "log/hint.h"
#include "log/inspect.h"
#include "log/marker.h"
#include "log/scan.h"
#include "log/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];
static struct bkv_dir *dir;
static struct lab_image image; /* of a database with everything */

/* More than a buffer of log/stream.c, so that it is flushed on the way. */
#define ENTRIES 9000u
#define GROUPS  140000u
static char large[300 << 10]; /* more than a scanner's window */

/* --- what is done ------------------------------------------------------------- */

static struct bkv_hint_info hint_info(void)
{
    struct bkv_hint_info info = {.segment_id = 7, .data_size = 1 << 20};
    memcpy(info.database_id, lab_manifest_1.database_id, sizeof info.database_id);
    return info;
}

static int write_manifest(void)
{
    return bkv_manifest_write(dir, &lab_manifest_1);
}

static int read_manifest(void)
{
    struct bkv_manifest manifest;
    return bkv_manifest_read(dir, &manifest);
}

static int miss_manifest(void)
{
    int rc = bkv_manifest_missing(dir);
    /* There is data: to be told so is what was asked for. */
    return rc == BITKV_ERR_CORRUPT ? BITKV_OK : rc;
}

static int write_marker(void)
{
    return bkv_marker_write(dir, BKV_MARKER_BACKUP, lab_manifest_1.database_id, NULL);
}

static int read_marker(void)
{
    bool found;
    uint8_t id[16];
    int rc = bkv_marker_read(dir, BKV_MARKER_BACKUP, &found, id, NULL);
    assert_int_equal(found, rc == BITKV_OK);
    return rc;
}

static int write_hint(void)
{
    struct bkv_hint_writer writer;
    struct bkv_hint_info info = hint_info();
    int rc = bkv_hint_begin(&writer, dir, &info);
    if (rc != BITKV_OK)
        return rc;
    for (uint64_t i = 0; i < ENTRIES && rc == BITKV_OK; i++) {
        struct bkv_hash hash = {.lo = i, .hi = i};
        struct bkv_entry entry = bkv_entry(&hash, BKV_RECORD_PUT, 64 + 40 * i, 40);
        rc = bkv_hint_add(&writer, &entry, i + 1, UINT64_MAX);
    }
    if (rc != BITKV_OK) {
        bkv_hint_abandon(&writer);
        return rc;
    }
    uint64_t size;
    return bkv_hint_finish(&writer, 1 << 20, ENTRIES, &size);
}

static int read_hint(void)
{
    struct bkv_hint_reader reader;
    struct bkv_hint_info info = hint_info();
    int rc = bkv_hint_open(&reader, dir, &info);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_entry entries[64];
    size_t count = 1;
    uint64_t seen = 0;
    while (rc == BITKV_OK && count > 0) {
        rc = bkv_hint_take(&reader, entries, 64, &count);
        for (size_t i = 0; rc == BITKV_OK && i < count; i++)
            assert_int_equal(entries[i].lo, seen++);
    }
    bkv_hint_close(&reader);
    if (rc == BITKV_OK)
        assert_int_equal(seen, ENTRIES);
    return rc;
}

static int look_hint(void)
{
    struct bkv_hint_info info = hint_info();
    uint64_t size;
    int rc = bkv_hint_look(dir, &info, &size);
    if (rc == BITKV_OK)
        assert_int_equal(info.count, ENTRIES);
    return rc;
}

static int write_checkpoint(void)
{
    struct bkv_checkpoint_writer writer;
    int rc = bkv_checkpoint_begin(&writer, dir, 0);
    if (rc != BITKV_OK)
        return rc;
    static const uint8_t groups[GROUPS];
    rc = bkv_writer_add(&writer.stream, groups, sizeof groups);
    if (rc != BITKV_OK) {
        bkv_checkpoint_abandon(&writer);
        return rc;
    }
    static struct bkv_checkpoint_segment table[4000];
    for (size_t i = 0; i < 4000; i++)
        table[i].id = 1 + i % 2;
    struct bkv_checkpoint_info info = {.segments = 4000, .groups = 1};
    memcpy(info.database_id, lab_manifest_1.database_id, 16);
    uint64_t size;
    return bkv_checkpoint_finish(&writer, &info, table, &size);
}

static int read_checkpoint(void)
{
    struct bkv_checkpoint_reader reader;
    int rc = bkv_checkpoint_open(&reader, dir, 0, lab_manifest_1.database_id);
    if (rc != BITKV_OK)
        return rc;
    static uint8_t groups[GROUPS];
    rc = bkv_reader_take(&reader.stream, groups, sizeof groups);
    if (rc == BITKV_OK)
        rc = bkv_checkpoint_groups_verify(&reader);
    bkv_checkpoint_close(&reader);
    return rc;
}

/* Records, some larger than the window, damage, zeros. */
static int scan(void)
{
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, "partition_0/data_1.db", O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    uint64_t size = 0;
    rc = bkv_file_size(&file, &size);
    struct bkv_scanner scanner = {.window = NULL};
    uint64_t seed = bkv_segment_seed(lab_manifest_1.database_id, 0, 1);
    if (rc == BITKV_OK)
        rc = bkv_scanner_begin(&scanner, &file, seed, BKV_SEGMENT_HEADER, size);
    unsigned records = 0;
    unsigned damages = 0;
    struct bkv_scan_item item = {.kind = BKV_SCAN_RECORD};
    while (rc == BITKV_OK && item.kind != BKV_SCAN_END) {
        rc = bkv_scanner_next(&scanner, &item);
        if (rc == BITKV_OK) {
            records += item.kind == BKV_SCAN_RECORD;
            damages += item.kind == BKV_SCAN_DAMAGE;
        }
    }
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    if (rc == BITKV_OK) {
        assert_int_equal(records, 8);
        assert_int_equal(damages, 3);
    }
    return rc;
}

static int read_header(void)
{
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, "partition_0/data_2.db", O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_segment_header header = {.id = 2};
    memcpy(header.database_id, lab_manifest_1.database_id, 16);
    enum bkv_segment_state state = BKV_SEGMENT_BLANK;
    rc = bkv_segment_header_read(&file, &header, &state);
    bkv_file_close(&file);
    if (rc == BITKV_OK)
        assert_int_equal(state, BKV_SEGMENT_VALID);
    return rc;
}

struct findings {
    unsigned errors;
    uint64_t progress;
};

static void on_finding(void *user, enum bkv_inspect_severity severity, const char *file,
                       uint64_t offset, uint64_t length, const char *message)
{
    struct findings *findings = user;
    (void)offset;
    (void)length;
    assert_non_null(file);
    assert_true(message[0] != '\0');
    findings->errors += severity == BKV_INSPECT_ERROR;
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
    struct findings *findings = user;
    (void)total;
    assert_true(done >= findings->progress);
    findings->progress = done;
}

/* A file that can't be read is something wrong with the database, too. */
static int inspect(void)
{
    struct findings findings = {0};
    struct bkv_inspect_result result;
    const struct bkv_inspect_options options = {
        .on_finding = on_finding, .on_progress = on_progress, .user = &findings, .result = &result};
    int rc = bkv_inspect(path, &options);
    if (rc == BITKV_OK) {
        assert_int_equal(findings.errors, 0);
        assert_int_equal(result.segments, 2);
        assert_int_equal(result.hints, 1);
        assert_int_equal(result.records, 10);
        assert_int_equal(result.findings, 3); /* the damage is a tail: no mark behind it */
    }
    if (rc == BITKV_ERR_CORRUPT)
        assert_true(findings.errors > 0);
    return rc;
}

static int erase_check(void)
{
    return bkv_erase_check(dir);
}

static int is_empty(void)
{
    bool empty = true;
    int rc = bkv_dir_empty(dir, &empty);
    if (rc == BITKV_OK)
        assert_false(empty);
    return rc;
}

static int erase(void)
{
    int rc = bkv_erase(dir, BKV_MANIFEST_NAME);
    char name[LAB_PATH];
    lab_join(name, path, "partition_0");
    if (rc == BITKV_OK)
        assert_false(lab_exists(name));
    lab_join(name, path, BKV_MANIFEST_NAME);
    assert_int_equal(lab_exists(name), rc != BITKV_OK); /* what is named goes last */
    return rc;
}

/* --- the loops ----------------------------------------------------------------- */

enum before {
    EVERYTHING,
    NO_MANIFEST, /* but data */
};

static const struct act {
    const char *name;
    int (*act)(void);
    enum before before;
    bool changes; /* so begin anew for each run */
} acts[] = {
    {"write a manifest", write_manifest, EVERYTHING, true},
    {"read a manifest", read_manifest, EVERYTHING, false},
    {"miss a manifest", miss_manifest, NO_MANIFEST, false},
    {"write a marker", write_marker, EVERYTHING, true},
    {"read a marker", read_marker, EVERYTHING, false},
    {"write a hint", write_hint, EVERYTHING, true},
    {"read a hint", read_hint, EVERYTHING, false},
    {"look at a hint", look_hint, EVERYTHING, false},
    {"write a checkpoint", write_checkpoint, EVERYTHING, true},
    {"read a checkpoint", read_checkpoint, EVERYTHING, false},
    {"scan", scan, EVERYTHING, false},
    {"read a segment's header", read_header, EVERYTHING, false},
    {"check what would be erased", erase_check, EVERYTHING, false},
    {"is it empty", is_empty, EVERYTHING, false},
    {"erase", erase, EVERYTHING, true},
};

static void prepare(const struct act *act)
{
    lab_dir_close(dir);
    lab_image_write(&image, path);
    dir = lab_dir_open(path);
    if (act->before != NO_MANIFEST)
        return;
    char manifest[LAB_PATH];
    lab_join(manifest, path, BKV_MANIFEST_NAME);
    assert_int_equal(remove(manifest), 0);
}

/* Of a small file it may be: the next attempt writes over it. */
static bool temporary_left(void)
{
    static const char *const names[] = {"partition_0/hint_7.ht.tmp", "partition_0/keydir.ckp.tmp"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[LAB_PATH];
        lab_join(name, path, names[i]);
        if (lab_exists(name))
            return true;
    }
    return false;
}

/* Without the fault it works, on what the run with it has left. An inspection
 * that comes through has seen everything nevertheless: a size that it shows
 * progress by was missing, say. */
static void check_after(const struct act *act, enum fault_kind kind, const char *what, uint32_t n,
                        int rc)
{
    if (atomic_load(&dir->open_files) != 0)
        fail_msg("%s, %s %u: a file stayed open", act->name, what, n);
    if ((rc == BITKV_OK && act->act != inspect) || rc == BITKV_NOT_FOUND)
        fail_msg("%s, %s %u: failed, and the result was %d", act->name, what, n, rc);
    if (kind != FAULT_unlinkat && act->act != erase && temporary_left())
        fail_msg("%s, %s %u: a temporary file was left", act->name, what, n);
    int again = act->act();
    if (again != BITKV_OK)
        fail_msg("%s, after %s %u: %d (%s)", act->name, what, n, again, bitkv_error_context());
}

static void fail_each_call(const struct act *act, enum fault_kind kind)
{
    for (uint32_t n = 0;; n++) {
        if (n == 0 || act->changes)
            prepare(act);
        unsigned descriptors = lab_descriptors();
        fault_arm(kind, n, 1, kind == FAULT_fdopendir ? ENOMEM : EIO);
        int rc = act->act();
        bool fired = fault_fired() > 0;
        fault_disarm();
        if (!fired) {
            assert_int_equal(rc, BITKV_OK);
            return;
        }
        check_after(act, kind, fault_name(kind), n, rc);
        assert_int_equal(lab_descriptors(), descriptors);
    }
}

static void a_call_that_fails_is_an_error_and_costs_nothing_else(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {
        FAULT_openat,   FAULT_pread,   FAULT_pwrite,    FAULT_fdatasync,
        FAULT_fsync,    FAULT_fstat,   FAULT_flock,     FAULT_renameat,
        FAULT_unlinkat, FAULT_rmdirat, FAULT_fdopendir, FAULT_readdir,
    };
    for (size_t a = 0; a < sizeof acts / sizeof acts[0]; a++) {
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
            fail_each_call(&acts[a], kinds[k]);
    }
}

static struct {
    uint32_t first, asked;
    bool refused;
} memory;

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    if (memory.asked++ != memory.first)
        return true;
    memory.refused = true;
    return false;
}

static int starved(const struct act *act, uint32_t n)
{
    memory.first = n;
    memory.asked = 0;
    memory.refused = false;
    bkv_alloc_set_hook(on_allocation, NULL);
    int rc = act->act();
    bkv_alloc_set_hook(NULL, NULL);
    return rc;
}

static void an_allocation_that_fails_is_an_error_and_costs_nothing_else(void **state)
{
    (void)state;
    for (size_t a = 0; a < sizeof acts / sizeof acts[0]; a++) {
        for (uint32_t n = 0;; n++) {
            if (n == 0 || acts[a].changes)
                prepare(&acts[a]);
            int rc = starved(&acts[a], n);
            if (!memory.refused)
                break;
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
            check_after(&acts[a], FAULT_COUNT, "allocation", n, rc);
        }
    }
}

static void a_partition_that_has_gone_has_no_data(void **state)
{
    (void)state;
    const struct act miss = {"miss a manifest", miss_manifest, NO_MANIFEST, true};
    prepare(&miss);
    assert_int_equal(bkv_manifest_missing(dir), BITKV_ERR_CORRUPT);
    fault_arm(FAULT_openat, 1, 1, ENOENT); /* behind the directory itself */
    assert_int_equal(bkv_manifest_missing(dir), BITKV_OK);
    assert_int_equal(fault_fired(), 1);
    fault_disarm();
}

static void what_is_not_of_a_database_is_left_alone(void **state)
{
    (void)state;
    const struct act everything = {"erase", erase, EVERYTHING, true};
    static const char *const foreign[] = {"letter.txt", "partition_0/letter.txt"};
    for (size_t i = 0; i < 2; i++) {
        prepare(&everything);
        char name[LAB_PATH];
        lab_join(name, path, foreign[i]);
        FILE *file = fopen(name, "w");
        assert_non_null(file);
        (void)fclose(file);
        assert_int_equal(bkv_erase_check(dir), BITKV_ERR_EXISTS);
        assert_non_null(strstr(bitkv_error_context(), "letter.txt"));
        /* Nor does it go if nobody asks; a directory with it in it can't. */
        int rc = bkv_erase(dir, BKV_MANIFEST_NAME);
        assert_int_equal(rc == BITKV_OK, i == 0);
        assert_true(lab_exists(name));
    }
}

/* Somebody else may have removed it. */
static void a_directory_that_has_gone_is_erased(void **state)
{
    (void)state;
    const struct act everything = {"erase", erase, EVERYTHING, true};
    prepare(&everything);
    fault_arm(FAULT_rmdirat, 0, 1, ENOENT);
    assert_int_equal(erase(), BITKV_OK);
    assert_int_equal(fault_fired(), 1);
    fault_disarm();
}

static const struct act inspection = {"inspect", inspect, EVERYTHING, false};

/* What can't be read of a file is a finding; what can't be read of a directory
 * ends the inspection; and nothing is passed over. */
static void an_inspection_that_is_disturbed_says_so(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_openat, FAULT_pread,     FAULT_fstat,
                                            FAULT_flock,  FAULT_fdopendir, FAULT_readdir};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        fail_each_call(&inspection, kinds[k]);
    for (uint32_t n = 0;; n++) {
        int rc = starved(&inspection, n);
        if (!memory.refused)
            break;
        check_after(&inspection, FAULT_COUNT, "allocation", n, rc);
        assert_true(rc == BITKV_ERR_NO_MEMORY || rc == BITKV_ERR_CORRUPT);
    }
}

/* --- the database ------------------------------------------------------------------ */

static void build(void)
{
    struct lab_log log;
    lab_add_manifest(&image, &lab_manifest_1);
    lab_log_begin(&log, &lab_manifest_1, 0, 2, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_delete(&log, 2, "b");
    (void)lab_log_put(&log, 3, "c", "3");
    lab_log_end(&log, &image);
    lab_add_hint(&image, &lab_manifest_1, 0, 2);

    memset(large, 'x', sizeof large - 1);
    lab_log_begin(&log, &lab_manifest_1, 0, 1, 4);
    (void)lab_log_put(&log, 4, "large", large);
    (void)lab_log_put(&log, 5, "k", "small");
    size_t hit = lab_log_put(&log, 6, "k", "hit");
    (void)lab_log_put(&log, 7, "large", large);
    hit = hit + 8;
    (void)lab_log_put(&log, 8, "k", "behind");
    size_t last = lab_log_put(&log, 9, "large", large);
    log.data[hit] ^= 1;
    log.data[last + 100] ^= 1;
    /* Parts of a window, so that some are read in two steps. */
    large[100 << 10] = '\0';
    for (uint64_t i = 10; i < 14; i++)
        (void)lab_log_put(&log, i, "k", large);
    lab_log_bytes(&log, "what a crash has left", 21);
    lab_log_bytes(&log, NULL, 300 << 10);
    lab_log_end(&log, &image);
}

static int setup(void **state)
{
    (void)state;
    lab_path(path, "formats");
    build();
    lab_image_write(&image, path);
    fault_install();
    dir = lab_dir_open(path);
    bool written =
        write_marker() == BITKV_OK && write_hint() == BITKV_OK && write_checkpoint() == BITKV_OK;
    lab_image_free(&image);
    lab_image_read(&image, path, 1 << 20);
    return written ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    lab_dir_close(dir);
    fault_uninstall();
    lab_image_free(&image);
    lab_remove(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_that_fails_is_an_error_and_costs_nothing_else),
        cmocka_unit_test(an_allocation_that_fails_is_an_error_and_costs_nothing_else),
        cmocka_unit_test(a_partition_that_has_gone_has_no_data),
        cmocka_unit_test(what_is_not_of_a_database_is_left_alone),
        cmocka_unit_test(a_directory_that_has_gone_is_erased),
        cmocka_unit_test(an_inspection_that_is_disturbed_says_so),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
