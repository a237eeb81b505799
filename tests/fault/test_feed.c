/* SPDX-License-Identifier: MIT */
/*
 * Change feeds over files that are damaged, gone, or cannot be read at the moment: what
 * is damaged is told once and passed, what cannot be read is told and comes later, and
 * each change comes exactly once, in order.
 */
#include "api/fixture.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "fault/faults.h"
#include "io/io.h"
#include "log/format.h"
#include "log/segment.h"

#include <stdatomic.h>

#define M (&lab_manifest_1)

static int setup(void **state)
{
    fault_install();
    return make_directory(state);
}

static int teardown(void **state)
{
    fault_disarm();
    fault_uninstall();
    return remove_directory(state);
}

#define FEED_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static bitkv *open_lab(bitkv_io_mode mode)
{
    bitkv *db = NULL;
    ok(lab_open(
        &db, path,
        (struct lab_open){.io_mode = mode, .by_hand = true, .max_file_size = (size_t)4 << 20}));
    return db;
}

static bitkv_feed *feed_at(bitkv *db, const void *position, size_t size)
{
    bitkv_feed *feed = NULL;
    ok(bitkv_feed_open(&feed, db, position, size));
    assert_non_null(feed);
    return feed;
}

/* --- logs ----------------------------------------------------------------------------------- */

/* Keys are the letters from 'a' on, in order of their sequence numbers; most values are
 * the same letter. */
static void put_letters(struct lab_log *log, uint64_t first, uint64_t last)
{
    for (uint64_t n = first; n <= last; n++) {
        char text[2] = {(char)('a' + n - 1), '\0'};
        (void)lab_log_put(log, n, text, text);
    }
}

static void add_stream(struct lab_image *image, uint64_t id, uint64_t first, uint64_t last)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, id, first);
    put_letters(&log, first, last);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, id);
}

static void add_compacted(struct lab_image *image, uint64_t id, uint64_t first, uint64_t last)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, id, first);
    struct bkv_segment_header header = {
        .kind = BKV_SEGMENT_COMPACTED, .id = id, .base_sequence = first, .last_sequence = last};
    memcpy(header.database_id, M->database_id, sizeof header.database_id);
    bkv_segment_header_encode(log.data, &header);
    put_letters(&log, first, last);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, id);
}

static size_t position_at(uint8_t bytes[64], uint64_t sequence)
{
    memset(bytes, 0, 64);
    memcpy(bytes, "BKVP", 4);
    bkv_put32(bytes + 4, 1);
    memcpy(bytes + 8, M->database_id, 16);
    bkv_put32(bytes + 24, 1);
    bkv_put64(bytes + 32, sequence);
    bkv_put32(bytes + 40, bkv_crc32c(0, bytes, 40));
    return 44;
}

/* What a feed brought until there was no more. */
static struct {
    char letters[32];
    unsigned damaged, failed;
    int last_failure;
} brought;

static void drain(bitkv_feed *feed)
{
    bitkv_change change;
    size_t count = strlen(brought.letters);
    int rc;
    while ((rc = bitkv_feed_next(feed, &change)) != BITKV_NOT_FOUND && rc != BITKV_ERR_BEHIND) {
        brought.damaged += rc == BITKV_ERR_CORRUPT;
        brought.failed += rc < 0 && rc != BITKV_ERR_CORRUPT;
        assert_true(brought.failed + brought.damaged < 100);
        if (rc < 0 && rc != BITKV_ERR_CORRUPT)
            brought.last_failure = rc;
        if (rc < 0)
            continue;
        assert_int_equal(rc, BITKV_OK);
        assert_int_equal(change.key_size, 1);
        assert_true(change.value_size >= 1 && count < sizeof brought.letters - 1);
        const char *value = change.value;
        brought.letters[count] = *(const char *)change.key;
        assert_int_equal(value[0], brought.letters[count]);
        assert_int_equal(value[change.value_size - 1], brought.letters[count]);
        brought.letters[++count] = '\0';
    }
    if (rc == BITKV_ERR_BEHIND)
        brought.last_failure = rc;
}

static void drain_all(bitkv_feed *feed)
{
    memset(&brought, 0, sizeof brought);
    drain(feed);
}

/* --- where it begins ------------------------------------------------------------------------ */

/* Of what lies between two files only one was compacted, and the other is lost. */
static void a_gap_before_a_compacted_file_is_behind(void **state)
{
    (void)state;
    static struct lab_image image;
    uint8_t position[64];
    lab_add_manifest(&image, M);
    add_stream(&image, 1, 1, 5);
    add_compacted(&image, 3, 11, 15);
    add_stream(&image, 4, 16, 18);
    lab_image_write(&image, path);
    bitkv *db = open_lab(BITKV_IO_AUTO);
    bitkv_feed *feed = NULL;
    for (uint64_t at = 5; at < 15; at++) {
        fails(BITKV_ERR_BEHIND, bitkv_feed_open(&feed, db, position, position_at(position, at)));
        assert_null(feed);
    }
    feed = feed_at(db, position, position_at(position, 2));
    drain_all(feed);
    assert_string_equal(brought.letters, "cde");
    assert_int_equal(brought.last_failure, BITKV_ERR_BEHIND);
    ok(bitkv_feed_close(feed));
    feed = feed_at(db, position, position_at(position, 15));
    drain_all(feed);
    assert_string_equal(brought.letters, "pqr");
    assert_int_equal(brought.last_failure, 0);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
    lab_image_free(&image);
}

static void the_end_may_be_that_of_a_compacted_file(void **state)
{
    (void)state;
    static struct lab_image image;
    uint8_t position[64];
    lab_add_manifest(&image, M);
    add_compacted(&image, 1, 1, 5);
    lab_image_write(&image, path);
    bitkv *db = open_lab(BITKV_IO_AUTO);
    bitkv_feed *feeds[3] = {feed_at(db, NULL, BITKV_FEED_END), feed_at(db, NULL, BITKV_FEED_OLDEST),
                            feed_at(db, position, position_at(position, 5))};
    for (unsigned i = 0; i < 3; i++) {
        drain_all(feeds[i]);
        assert_string_equal(brought.letters, "");
    }
    put_text(db, "x", "x");
    for (unsigned i = 0; i < 3; i++) {
        drain_all(feeds[i]);
        assert_string_equal(brought.letters, "x");
        assert_int_equal(brought.last_failure, 0);
        ok(bitkv_feed_close(feeds[i]));
    }
    ok(bitkv_close(db));
    lab_image_free(&image);
}

/* --- sizes ---------------------------------------------------------------------------------- */

/* A buffer that one of them took is not kept for the small ones. */
static void records_of_all_sizes_come_through_a_descriptor(void **state)
{
    (void)state;
    static const size_t sizes[] = {3u << 20, 200u << 10, 1, 2u << 20, 1, 70u << 10, 1, 1};
    char letters[16] = "";
    char *value = malloc(3u << 20);
    bitkv_options o = one_partition(BITKV_IO_PWRITE);
    o.max_file_size = 64u << 20;
    bitkv *db = open_with(&o);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        letters[i] = (char)('a' + i);
        memset(value, letters[i], sizes[i]);
        ok(bitkv_put(db, &letters[i], 1, value, sizes[i]));
    }
    bitkv_feed *feed = feed_at(db, NULL, BITKV_FEED_OLDEST);
    drain_all(feed);
    assert_string_equal(brought.letters, letters);
    assert_int_equal(brought.last_failure, 0);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
    free(value);
}

/* --- damage --------------------------------------------------------------------------------- */

/* Less than a header, at the end of a file. */
static void a_scrap_at_the_end_of_a_file_is_damage(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        static struct lab_image image;
        struct lab_log log;
        lab_add_manifest(&image, M);
        lab_log_begin(&log, M, 0, 1, 1);
        put_letters(&log, 1, 3);
        lab_log_bytes(&log, "scrap of", 8);
        lab_log_end(&log, &image);
        add_stream(&image, 2, 4, 6);
        lab_image_write(&image, path);
        bitkv *db = open_lab(mode);
        bitkv_feed *feed = feed_at(db, NULL, BITKV_FEED_OLDEST);
        drain_all(feed);
        assert_string_equal(brought.letters, "abcdef");
        assert_int_equal(brought.damaged, 1);
        assert_int_equal(brought.failed, 0);
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
        lab_image_free(&image);
    }
}

/* One of them is damaged, one is larger than what is read at once. */
static void make_damaged(struct lab_image *image)
{
    struct lab_log log;
    char *large = calloc(1, (100u << 10) + 1);
    memset(large, 'e', 100u << 10);
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    put_letters(&log, 1, 2);
    size_t rot = lab_log_put(&log, 3, "c", "c");
    put_letters(&log, 4, 4);
    (void)lab_log_put(&log, 5, "e", large);
    put_letters(&log, 6, 7);
    lab_log_end(&log, image);
    add_stream(image, 2, 8, 10);
    lab_image_find(image, "partition_0/data_1.db")->data[rot + BKV_RECORD_HEADER] ^= 1;
    free(large);
}

enum fault { EACH_CALL, FILE_GONE, NO_DESCRIPTOR, NO_MEMORY, FAULTS };

static void arm(enum fault fault, uint32_t n)
{
    if (fault == EACH_CALL)
        fault_arm_all(n, 1, EIO);
    else if (fault == NO_MEMORY)
        fault_arm_memory(n, 1);
    else
        fault_arm(FAULT_openat, n, fault == FILE_GONE ? 1 : 60,
                  fault == FILE_GONE ? ENOENT : EMFILE);
}

static void expect_failure(enum fault fault)
{
    if (brought.failed == 0)
        return;
    if (fault == NO_MEMORY)
        assert_int_equal(brought.last_failure, BITKV_ERR_NO_MEMORY);
    else if (fault == NO_DESCRIPTOR)
        assert_int_equal(brought.last_failure, BITKV_ERR_TOO_MANY_FILES);
    else
        assert_int_equal(brought.last_failure, BITKV_ERR_IO);
}

/* Whatever fails, in between or while the damage is measured. */
static void a_failure_passes_no_change_and_damage_is_told_once(void **state)
{
    (void)state;
    static struct lab_image image;
    make_damaged(&image);
    for_both_modes(mode)
    {
        for (enum fault fault = 0; fault < FAULTS; fault++) {
            for (uint32_t n = 0, fired = 1; fired > 0; n++) {
                lab_image_write(&image, path);
                bitkv *db = open_lab(mode);
                bitkv_feed *feed = feed_at(db, NULL, BITKV_FEED_OLDEST);
                memset(&brought, 0, sizeof brought);
                arm(fault, n);
                drain(feed);
                fired = fault_fired();
                fault_disarm();
                drain(feed);
                expect_failure(fault);
                assert_string_equal(brought.letters, "abdefghij");
                assert_int_equal(brought.damaged, 1);
                ok(bitkv_feed_close(feed));
                ok(bitkv_close(db));
            }
        }
    }
    lab_image_free(&image);
}

/* --- a file that was cut, and is whole again ------------------------------------------------- */

static struct lab_image whole;
static struct bkv_io_ops ops;
static _Atomic bool restores;

static void restore(void)
{
    char name[PATH_SIZE];
    const struct lab_file *file = lab_image_find(&whole, "partition_0/data_1.db");
    int fd = open(inside(name, path, file->name), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, file->data, file->size, 0), (ssize_t)file->size);
    (void)close(fd);
}

/* Whoever wants to see what is wrong finds the file whole. */
static int restoring_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&restores) && strstr(name, "data_1.db") != NULL)
        restore();
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static void cut_file(const char *name, off_t size)
{
    char full[PATH_SIZE];
    assert_int_equal(truncate(inside(full, path, name), size), 0);
}

/* Two files, of which the first is not too short to be mapped. */
static void make_whole(void)
{
    struct lab_log log;
    lab_add_manifest(&whole, M);
    for (uint64_t id = 1; id <= 2; id++) {
        lab_log_begin(&log, M, 0, id, id * 2 - 1);
        put_letters(&log, id * 2 - 1, id * 2);
        lab_log_end(&log, &whole);
    }
    lab_image_write(&whole, path);
    ops = *bkv_io;
    ops.openat = restoring_openat;
    bkv_io = &ops;
}

/* The second change cannot be read while it is looked for, and can be when it is looked
 * at again. */
static bitkv_feed *meet_cut(bitkv *db, off_t size)
{
    bitkv_change change;
    bitkv_feed *feed = feed_at(db, NULL, BITKV_FEED_OLDEST);
    ok(bitkv_feed_next(feed, &change));
    assert_memory_equal(change.key, "a", 1);
    cut_file("partition_0/data_1.db", size);
    atomic_store(&restores, true);
    fails(BITKV_ERR_IO, bitkv_feed_next(feed, &change));
    context_has("data_1.db");
    return feed;
}

static void expect_rest(bitkv_feed *feed)
{
    drain_all(feed);
    atomic_store(&restores, false);
    assert_string_equal(brought.letters, "bcd");
    assert_int_equal(brought.damaged, 0);
    assert_int_equal(brought.failed, 0);
}

/* As after an error of the disk that has passed: pages of a mapping that could not be
 * read stay away from it, so another is made. Or the file was only written to. */
static void what_was_unreadable_once_is_read_later(void **state)
{
    (void)state;
    static const off_t sizes[] = {0, 64};
    for (size_t i = 0; i < 2; i++) {
        make_whole();
        bitkv_change change;
        bitkv *db = open_lab(BITKV_IO_MMAP);
        bitkv_feed *feed = meet_cut(db, sizes[i]);
        fault_arm_memory(0, UINT32_MAX); /* nor can it be closed */
        int rc = bitkv_feed_next(feed, &change);
        fault_disarm();
        if (rc == BITKV_OK) /* the same pages have come back */
            assert_int_equal(sizes[i], 64);
        else
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
        drain_all(feed);
        atomic_store(&restores, false);
        assert_string_equal(brought.letters, rc == BITKV_OK ? "cd" : "bcd");
        assert_int_equal(brought.damaged, 0);
        assert_int_equal(brought.failed, rc == BITKV_OK ? 0 : 1);
        expect_text(db, "a", "a"); /* and by who reads keys */
        expect_text(db, "b", "b");
        ok(bitkv_feed_close(feed));
        ok(bitkv_close(db));
        lab_image_free(&whole);
    }
}

/* A follower's snapshot keeps what it has open: the file may be gone. */
static void what_a_snapshot_keeps_open_is_read_when_that_has_ended(void **state)
{
    (void)state;
    bitkv *db = NULL;
    bitkv_snapshot *snapshot;
    bitkv_change change;
    make_whole();
    ok(lab_open(&db, path, (struct lab_open){.io_mode = BITKV_IO_MMAP, .read_only = true}));
    ok(bitkv_snapshot_create(&snapshot, db));
    bitkv_feed *feed = meet_cut(db, 0);
    fails(BITKV_ERR_IO, bitkv_feed_next(feed, &change));
    fails(BITKV_ERR_IO, bitkv_feed_next(feed, &change));
    ok(bitkv_snapshot_destroy(snapshot));
    expect_rest(feed);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
    lab_image_free(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FEED_TEST(a_gap_before_a_compacted_file_is_behind),
        FEED_TEST(the_end_may_be_that_of_a_compacted_file),
        FEED_TEST(records_of_all_sizes_come_through_a_descriptor),
        FEED_TEST(a_scrap_at_the_end_of_a_file_is_damage),
        FEED_TEST(a_failure_passes_no_change_and_damage_is_told_once),
        FEED_TEST(what_was_unreadable_once_is_read_later),
        FEED_TEST(what_a_snapshot_keeps_open_is_read_when_that_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
