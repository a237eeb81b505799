/* SPDX-License-Identifier: MIT */
/*
 * Openings of logs that need everything recovery can do, every call and every
 * allocation of which fails in turn: the opening fails and says why, or finds what it
 * finds otherwise; and the next one finds it, whatever was half done.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "fault/faults.h"
#include "log/format.h"
#include "log/segment.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define M (&lab_manifest_2)

enum { KEYS = 20 };
static char keys[KEYS][32]; /* of partition 0 */
static char other_key[32];  /* of partition 1 */
static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    unsigned n = 0;
    lab_path(path, "recovery");
    for (unsigned k = 0; k < KEYS; k++)
        n = lab_key(keys[k], M, 0, "k", n) + 1;
    (void)lab_key(other_key, M, 1, "k", 0);
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

/* --- logs ------------------------------------------------------------------------------------ */

/* Key k has what `holds` says: '1', or '-' for nothing. */
struct log_case {
    const char *name;
    void (*make)(struct lab_image *image);
    const char *holds;
    bool large; /* takes its time */
};

static void put_range(struct lab_log *log, uint64_t first, uint64_t last, unsigned key)
{
    for (uint64_t n = first; n <= last; n++)
        (void)lab_log_put(log, n, keys[key++], "1");
}

static void begin_compacted(struct lab_log *log, uint64_t id, uint64_t first, uint64_t last)
{
    lab_log_begin(log, M, 0, id, first);
    struct bkv_segment_header header = {
        .kind = BKV_SEGMENT_COMPACTED, .id = id, .base_sequence = first, .last_sequence = last};
    memcpy(header.database_id, M->database_id, sizeof header.database_id);
    bkv_segment_header_encode(log->data, &header);
}

static void add_other(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 1, 1, 1);
    (void)lab_log_put(&log, 1, other_key, "1");
    lab_log_end(&log, image);
}

/* Inputs of a compaction with their hints, files that were never used, hints of files
 * that are gone, and what was to be renamed. */
static void make_leftovers(struct lab_image *image)
{
    static const uint8_t zeros[4096];
    struct lab_log log;
    for (uint64_t id = 1; id <= 2; id++) {
        lab_log_begin(&log, M, 0, id, id * 5 - 4);
        put_range(&log, id * 5 - 4, id * 5, (unsigned)id * 5 - 5);
        lab_log_end(&log, image);
        lab_add_hint(image, M, 0, id);
    }
    begin_compacted(&log, 3, 1, 10);
    put_range(&log, 1, 10, 0);
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 4, 11);
    put_range(&log, 11, 14, 10);
    lab_log_bytes(&log, NULL, 4096);
    lab_log_end(&log, image);
    (void)lab_image_add(image, "partition_0/data_5.db", zeros, sizeof zeros);
    (void)lab_image_add(image, "partition_0/data_6.db", zeros, sizeof zeros);
    (void)lab_image_add(image, "partition_0/hint_8.ht", "odd", 3);
    (void)lab_image_add(image, "partition_0/hint_9.ht", "odd", 3);
    (void)lab_image_add(image, "partition_0/hint_9.ht.tmp", "odd", 3);
    (void)lab_image_add(image, "partition_0/keydir.ckp.tmp", "odd", 3);
}

/* Rot before what a mark says was durable, and a tail that takes the mark away. */
static void make_rot_and_tail(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 4, 0);
    size_t rot = lab_log_put(&log, 5, keys[4], "1");
    put_range(&log, 6, 8, 5);
    size_t durable = log.size;
    size_t tail = lab_log_put(&log, 9, keys[8], "1");
    (void)lab_log_mark(&log, 10, 1, durable);
    log.data[rot + 22] ^= 1;
    log.data[tail + 22] ^= 1;
    lab_log_end(&log, image);
}

/* A checkpoint and hints that cannot be used, files behind the tail, and the rest of
 * a large record whose beginning never reached the disk. */
static void make_rejected(struct lab_image *image)
{
    static uint8_t lost[12288];
    struct lab_log log;
    (void)lab_image_add(image, "partition_0/keydir.ckp", "odd", 3);
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 1);
    lab_image_find(image, "partition_0/hint_1.ht")->data[60] ^= 1;
    lab_log_begin(&log, M, 0, 2, 6);
    put_range(&log, 6, 8, 5);
    size_t tail = lab_log_put(&log, 9, keys[8], "1");
    log.data[tail + 22] ^= 1;
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 3, 10);
    put_range(&log, 10, 12, 9);
    lab_log_end(&log, image);
    memset(lost + 4096, 0x55, sizeof lost - 4096);
    (void)lab_image_add(image, "partition_0/data_4.db", lost, sizeof lost);
}

/* The same, but the rest of the large record is all that is wrong. */
static void make_lost(struct lab_image *image)
{
    static uint8_t lost[12288];
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    memset(lost + 4096, 0x55, sizeof lost - 4096);
    (void)lab_image_add(image, "partition_0/data_4.db", lost, sizeof lost);
    (void)lab_image_add(image, "partition_0/data_5.db", lost, sizeof lost);
}

/* And one that was durable, since it has a hint. */
static void make_lost_with_hint(struct lab_image *image)
{
    make_lost(image);
    (void)lab_image_add(image, "partition_0/hint_5.ht", "odd", 3);
}

/* Nothing but the hint of the file behind it says that what has rotted was durable. */
static void make_rot_before_hint(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 3, 0);
    size_t rot = lab_log_put(&log, 4, keys[3], "1");
    put_range(&log, 5, 6, 4);
    log.data[rot + 22] ^= 1;
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 2, 7);
    put_range(&log, 7, 9, 6);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 2);
    lab_log_begin(&log, M, 0, 3, 10);
    put_range(&log, 10, 10, 9);
    lab_log_end(&log, image);
}

/* Space that was reserved behind what a hint describes, a hint that points into its
 * file's header, and a compacted file that leaves out some. */
static void make_hints(struct lab_image *image)
{
    struct lab_log log;
    for (uint64_t id = 1; id <= 2; id++) {
        lab_log_begin(&log, M, 0, id, id * 3 - 2);
        put_range(&log, id * 3 - 2, id * 3, (unsigned)id * 3 - 3);
        lab_log_end(&log, image);
        lab_add_hint(image, M, 0, id);
    }
    struct lab_file *data = lab_image_find(image, "partition_0/data_1.db");
    lab_file_resize(data, data->size + 4096);
    struct lab_file *hint = lab_image_find(image, "partition_0/hint_2.ht");
    uint64_t packed = bkv_get64(hint->data + BKV_HINT_HEADER + 8);
    bkv_put64(hint->data + BKV_HINT_HEADER + 8, (packed >> 39 << 39) | 1u << 12 | 3u);
    bkv_put32(hint->data + 112,
              bkv_crc32c(0, hint->data + BKV_HINT_HEADER, hint->size - BKV_HINT_HEADER));
    bkv_put32(hint->data + 116, bkv_crc32c(0, hint->data, 116));
    begin_compacted(&log, 3, 7, 20);
    put_range(&log, 8, 8, 6);
    put_range(&log, 15, 15, 7);
    lab_log_end(&log, image);
}

/* Logs that end before a file, of which nothing says that it was durable. */
static void make_header_lost(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 2, 6);
    put_range(&log, 6, 8, 5);
    log.data[20] ^= 1;
    lab_log_end(&log, image);
}

static void make_gap(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    lab_log_begin(&log, M, 0, 2, 8);
    put_range(&log, 8, 10, 5);
    lab_log_end(&log, image);
}

static void make_no_beginning(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 2, 8);
    put_range(&log, 8, 10, 5);
    lab_log_end(&log, image);
}

/* More keys than a KeyDir has room for when it is made. */
static void add_many(struct lab_image *image)
{
    struct lab_log log;
    unsigned n = 0;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 10, 0);
    for (uint64_t sequence = 11; sequence <= 2000; sequence++) {
        char key[32];
        n = lab_key(key, M, 0, "m", n) + 1;
        (void)lab_log_put(&log, sequence, key, "");
    }
    lab_log_end(&log, image);
}

static void make_many(struct lab_image *image)
{
    add_many(image);
}

static void make_many_hinted(struct lab_image *image)
{
    add_many(image);
    lab_add_hint(image, M, 0, 1);
}

/* Headers that are lost: of a file whose hint and first record tell its place, and of
 * what compaction made of two others. */
static void make_headless(struct lab_image *image)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, 1, 1);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 1);
    lab_log_begin(&log, M, 0, 2, 6);
    put_range(&log, 6, 10, 5);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 2);
    lab_image_find(image, "partition_0/data_2.db")->data[20] ^= 1;
    lab_log_begin(&log, M, 0, 3, 11);
    put_range(&log, 11, 12, 10);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 3);
    begin_compacted(&log, 4, 1, 5);
    put_range(&log, 1, 5, 0);
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 4);
    lab_image_find(image, "partition_0/data_4.db")->data[20] ^= 1;
}

/* A part of a batch that waits for the other, which is there. */
static void make_batch(struct lab_image *image)
{
    struct lab_log log;
    for (uint32_t p = 0; p < 2; p++) {
        uint8_t value[BKV_BATCH_FIXED + BKV_BATCH_PEER] = {0};
        bkv_put32(value, 1);
        bkv_put32(value + 4, 1);
        bkv_put32(value + 8, 1 - p);
        bkv_put32(value + 12, 1);
        bkv_put64(value + 16, p == 0 ? 2 : 3);
        lab_log_begin(&log, M, p, 1, 1);
        (void)lab_log_put(&log, 1, p == 0 ? keys[0] : other_key, "0");
        if (p == 0)
            (void)lab_log_put(&log, 2, keys[1], "1");
        (void)lab_log_raw(&log, BKV_RECORD_BATCH, p == 0 ? 3 : 2, NULL, 0, value, sizeof value);
        (void)lab_log_put(&log, p == 0 ? 4 : 3, p == 0 ? keys[0] : other_key, "1");
        if (p == 0)
            put_range(&log, 5, 8, 2);
        lab_log_end(&log, image);
    }
}

/* A sync had failed: of the first file nobody need doubt, and the others are large. */
static void make_doubtful(struct lab_image *image)
{
    struct lab_log log;
    for (uint64_t id = 1; id <= 3; id++) {
        lab_log_begin(&log, M, 0, id, id * 4 - 3);
        put_range(&log, id * 4 - 3, id * 4, (unsigned)id * 4 - 4);
        if (id > 1)
            lab_log_bytes(&log, NULL, 80000);
        lab_log_end(&log, image);
    }
    lab_add_hint(image, M, 0, 1);
    (void)lab_image_add(image, "partition_0/sync_failed", "", 0);
}

/* Closed in order: a checkpoint that covers everything. */
static void make_closed(struct lab_image *image)
{
    struct lab_log log;
    struct lab_image made;
    bitkv *db;
    for (uint64_t id = 1; id <= 3; id++) {
        lab_log_begin(&log, M, 0, id, id * 3 - 2);
        put_range(&log, id * 3 - 2, id * 3, (unsigned)id * 3 - 3);
        lab_log_end(&log, image);
    }
    lab_image_write(image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.by_hand = true}), BITKV_OK);
    lab_put(db, keys[9], "1");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(image);
    lab_image_read(&made, path, 4096);
    lab_image_copy(image, &made);
    lab_image_free(&made);
}

static void make_many_closed(struct lab_image *image)
{
    struct lab_image made;
    bitkv *db;
    add_many(image);
    lab_image_write(image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.by_hand = true}), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(image);
    lab_image_read(&made, path, 4096);
    lab_image_copy(image, &made);
    lab_image_free(&made);
}

static const struct log_case cases[] = {
    {"lost with hint", make_lost_with_hint, "11111---------------", false},
    {"rot before hint", make_rot_before_hint, "111-111111----------", false},
    {"hints", make_hints, "11111111------------", false},
    {"header lost", make_header_lost, "11111---------------", false},
    {"gap", make_gap, "11111---------------", false},
    {"no beginning", make_no_beginning, "--------------------", false},
    {"many", make_many, "1111111111----------", true},
    {"many hinted", make_many_hinted, "1111111111----------", true},
    {"many closed", make_many_closed, "1111111111----------", true},
    {"leftovers", make_leftovers, "11111111111111------", false},
    {"rot and tail", make_rot_and_tail, "1111-111------------", false},
    {"rejected", make_rejected, "11111111------------", false},
    {"lost", make_lost, "11111---------------", false},
    {"headless", make_headless, "111111111111--------", false},
    {"batch", make_batch, "111111--------------", false},
    {"doubtful", make_doubtful, "111111111111--------", false},
    {"closed", make_closed, "1111111111----------", false},
};
#define CASES (sizeof cases / sizeof cases[0])

static void make(const struct log_case *c, struct lab_image *image)
{
    image->count = 0;
    lab_add_manifest(image, M);
    if (c->make != make_batch)
        add_other(image);
    c->make(image);
}

static void expect_case(bitkv *db, const struct log_case *c)
{
    for (unsigned k = 0; k < KEYS; k++)
        lab_expect(db, keys[k], c->holds[k] == '1' ? "1" : NULL);
    lab_expect(db, other_key, "1");
}

/* A read may fail, but not lie. */
static void expect_no_lie(bitkv *db, const struct log_case *c)
{
    for (unsigned k = 0; k < KEYS; k++) {
        int rc;
        const char *value = lab_get(db, keys[k], &rc);
        if (rc == BITKV_OK ? c->holds[k] != '1' || strcmp(value, "1") != 0
                           : rc != BITKV_ERR_IO && (rc != BITKV_NOT_FOUND || c->holds[k] == '1'))
            fail_msg("%s: %s: %s", c->name, keys[k], bitkv_error_name(rc));
    }
}

/* --- openings ----------------------------------------------------------------------------------
 */

enum fault { EACH_CALL, FILE_GONE, DISK_FULL, NO_MEMORY, NO_MEMORY_EVER, FAULTS };

static void arm(enum fault fault, uint32_t n)
{
    switch (fault) {
    case EACH_CALL:
        fault_arm_all(n, 1, EIO);
        break;
    case FILE_GONE:
        fault_arm(FAULT_openat, n, 1, ENOENT);
        break;
    case DISK_FULL:
        fault_arm(FAULT_pwrite, n, 1, ENOSPC);
        break;
    case NO_MEMORY:
        fault_arm_memory(n, 1);
        break;
    default:
        fault_arm_memory(n, UINT32_MAX);
        break;
    }
}

/* A lost file is no damage that an opening could tell: what it says then has to be an
 * error, or the file was not needed. */
static void check_opening(const struct log_case *c, enum fault fault, uint32_t n, bool read_only)
{
    bitkv *db = NULL;
    int rc = lab_open(&db, path, (struct lab_open){.read_only = read_only, .by_hand = true});
    uint32_t fired = fault_fired();
    bool memory = fault == NO_MEMORY || fault == NO_MEMORY_EVER;
    if (rc == BITKV_OK && !memory && fault != FILE_GONE)
        expect_no_lie(db, c);
    if (db != NULL)
        (void)bitkv_close(db);
    fault_disarm();
    if (rc != BITKV_OK && fired == 0)
        fail_msg("%s: %s", c->name, bitkv_error_context());
    if (memory && rc != BITKV_OK && rc != BITKV_ERR_NO_MEMORY)
        fail_msg("%s, allocation %u: %s: %s", c->name, n, bitkv_error_name(rc),
                 bitkv_error_context());
    if (!memory && rc == BITKV_ERR_NO_MEMORY)
        fail_msg("%s, call %u: %s", c->name, n, bitkv_error_context());
}

static void check_next(const struct log_case *c, unsigned openings)
{
    bitkv *db;
    for (unsigned i = 0; i < openings; i++) {
        int rc = lab_open(&db, path, (struct lab_open){.by_hand = true});
        if (rc != BITKV_OK)
            fail_msg("%s: %s: %s", c->name, bitkv_error_name(rc), bitkv_error_context());
        expect_case(db, c);
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

static void open_under(const struct log_case *c, enum fault fault, bool read_only)
{
    static struct lab_image image;
    make(c, &image);
    for (uint32_t n = 0, fired = 1; fired > 0; n++) {
        lab_image_write(&image, path);
        arm(fault, n);
        check_opening(c, fault, n, read_only);
        fired = fault_fired();
        if (!read_only) /* which changes nothing */
            check_next(c, 1 + (n % 4 == 0));
    }
    lab_image_free(&image);
}

static void an_opening_that_is_disturbed_is_made_again(void **state)
{
    const struct log_case *c = *state;
    for (enum fault fault = 0; fault < FAULTS; fault++) {
        if (fault != FILE_GONE)
            open_under(c, fault, false);
        if (fault != DISK_FULL && !c->large)
            open_under(c, fault, true);
    }
}

/* --- files that are shared -------------------------------------------------------------------- */

/* With a backup, by a link: what recovery changes it copies before. */
static void what_a_backup_shares_is_not_changed(void **state)
{
    (void)state;
    static struct lab_image image;
    char ours[LAB_PATH], theirs[LAB_PATH];
    const struct log_case *c = NULL;
    for (size_t i = 0; i < CASES; i++) {
        if (cases[i].make == make_leftovers)
            c = &cases[i];
    }
    assert_non_null(c);
    make(c, &image);
    const struct lab_file *data = lab_image_find(&image, "partition_0/data_4.db");
    lab_path(theirs, "theirs");
    for (enum fault fault = 0; fault < FAULTS; fault++) {
        for (uint32_t n = 0, fired = 1; fired > 0; n++) {
            struct stat status;
            lab_image_write(&image, path);
            lab_join(ours, path, data->name);
            (void)unlink(theirs);
            assert_int_equal(link(ours, theirs), 0);
            arm(fault, n);
            check_opening(c, fault, n, false);
            fired = fault_fired();
            if (fault != FILE_GONE)
                check_next(c, 1);
            assert_int_equal(stat(theirs, &status), 0);
            assert_int_equal(status.st_size, data->size);
        }
    }
    (void)unlink(theirs);
    lab_image_free(&image);
}

int main(void)
{
    static struct CMUnitTest tests[CASES + 1] = {
        [CASES] =
            cmocka_unit_test_setup_teardown(what_a_backup_shares_is_not_changed, setup, teardown),
    };
    for (size_t i = 0; i < CASES; i++)
        tests[i] = (struct CMUnitTest){
            .name = cases[i].name,
            .test_func = an_opening_that_is_disturbed_is_made_again,
            .setup_func = setup,
            .teardown_func = teardown,
            .initial_state = (void *)(uintptr_t)&cases[i],
        };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
