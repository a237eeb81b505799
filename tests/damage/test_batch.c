/* SPDX-License-Identifier: MIT */
/*
 * Headers of batches, made by hand: which logs they end, and that those which
 * make no sense do no harm. Two partitions; all that is behind the last mark is
 * open to doubt, nothing before it is.
 */
#include "damage/lab.h"

#include "base/bytes.h"
#include "log/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_2)

static char path[LAB_PATH];
static char keys[2][2][32]; /* of each partition */

static int setup(void **state)
{
    (void)state;
    lab_path(path, "batch");
    for (uint32_t p = 0; p < 2; p++)
        (void)lab_key(keys[p][1], M, p, "k", lab_key(keys[p][0], M, p, "k", 0) + 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(path);
    return 0;
}

struct header {
    uint32_t count, peers; /* as it says */
    uint32_t partition, peer_count;
    uint64_t sequence;
    size_t entries; /* of peers that there really are: all like that */
};

static void add_header(struct lab_log *log, uint64_t sequence, struct header h)
{
    size_t size = BKV_BATCH_FIXED + h.entries * BKV_BATCH_PEER;
    uint8_t *value = calloc(1, size);
    bkv_put32(value, h.count);
    bkv_put32(value + 4, h.peers);
    for (size_t i = 0; i < h.entries; i++) {
        uint8_t *peer = value + BKV_BATCH_FIXED + i * BKV_BATCH_PEER;
        bkv_put32(peer, h.partition);
        bkv_put32(peer + 4, h.peer_count);
        bkv_put64(peer + 8, h.sequence);
    }
    (void)lab_log_raw(log, BKV_RECORD_BATCH, sequence, NULL, 0, value, size);
    free(value);
}

/* Partition 0: a put, a mark of it if `marked` is 1, the header with one record, a
 * put behind it, and a mark of all if `marked` is 2. Partition 1: a put, and if
 * `other`, its part of the batch. */
static bitkv_recovery recover(struct header h, int marked, bool other, bool read_only)
{
    static struct lab_image image;
    image.count = 0;
    struct lab_log log;
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, keys[0][0], "old");
    (void)lab_log_mark(&log, 2, 1, marked == 1 ? log.size : BKV_SEGMENT_HEADER);
    add_header(&log, 3, h);
    (void)lab_log_put(&log, 4, keys[0][0], "new");
    (void)lab_log_put(&log, 5, keys[0][1], "later");
    (void)lab_log_mark(&log, 6, 1, marked == 2 ? log.size : BKV_SEGMENT_HEADER);
    lab_log_end(&log, &image);
    lab_log_begin(&log, M, 1, 1, 1);
    (void)lab_log_put(&log, 1, keys[1][0], "old");
    if (other) {
        add_header(&log, 2, (struct header){1, 1, 0, 1, 3, 1});
        (void)lab_log_put(&log, 3, keys[1][0], "new");
    }
    lab_log_end(&log, &image);
    lab_image_write(&image, path);
    lab_image_free(&image);
    bitkv *db;
    int rc = lab_open(&db, path, (struct lab_open){.strict = true, .read_only = read_only});
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    bitkv_recovery r = lab_recovery(db);
    bool holds = r.torn_tails == 0;
    for (int again = 0; again < 2; again++) {
        lab_expect(db, keys[0][0], holds ? "new" : "old");
        lab_expect(db, keys[0][1], holds ? "later" : NULL);
        if (!read_only && again == 0)
            assert_int_equal(bitkv_sync(db), BITKV_OK);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        assert_int_equal(lab_open(&db, path, (struct lab_open){.strict = !read_only}), BITKV_OK);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
    return r;
}

static const struct header sound = {1, 1, 1, 1, 2, 1};

static void a_part_counts_if_the_other_is_there(void **state)
{
    (void)state;
    for (int read_only = 0; read_only < 2; read_only++) {
        for (int marked = 0; marked < 2; marked++) {
            assert_int_equal(recover(sound, marked, true, read_only != 0).torn_tails, 0);
            assert_int_equal(recover(sound, marked, false, read_only != 0).torn_tails, 1);
        }
        /* What was durable is decided. */
        assert_int_equal(recover(sound, 2, false, read_only != 0).torn_tails, 0);
    }
}

static void headers_that_make_no_sense_end_the_log(void **state)
{
    (void)state;
    const struct header bad[] = {
        {1, 1, 2, 1, 2, 1},                /* no such partition */
        {1, 1, UINT32_MAX, 1, 2, 1},       /* likewise */
        {1, 1, 0, 1, 2, 1},                /* itself */
        {1, 1, 1, UINT32_MAX, 2, 1},       /* more than there is */
        {1, 1, 1, 1, UINT64_MAX, 1},       /* far away, and its sum overflows */
        {1, 1, 1, 2, 2, 1},                /* one more */
        {3, 1, 1, 1, 2, 1},                /* a mark among its own records */
        {0, 1, 1, 1, 2, 1},                /* none */
        {UINT32_MAX, 0, 0, 0, 0, 0},       /* no end of them */
        {1, 2, 1, 1, 2, 1},                /* peers that are not there */
        {1, UINT32_MAX, 1, 1, 2, 1},       /* likewise */
        {1, 0, 1, 1, 2, 1},                /* and too few */
        {1, 1023, UINT32_MAX, 0, 0, 1023}, /* as many as there may be */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bitkv_recovery r = recover(bad[i], 0, true, false);
        /* The other part, whose peer is cut then, goes with it. */
        if (r.torn_tails != 2)
            fail_msg("header %zu: %u logs cut", i, (unsigned)r.torn_tails);
        assert_int_equal(r.damaged_regions, 0);
        /* Before the mark nothing depends on them. */
        assert_int_equal(recover(bad[i], 2, true, false).torn_tails, 0);
    }
}

static void a_part_without_peers_needs_only_its_records(void **state)
{
    (void)state;
    assert_int_equal(recover((struct header){.count = 1}, 0, false, false).torn_tails, 0);
    assert_int_equal(recover((struct header){.count = 2}, 0, false, false).torn_tails, 0);
    assert_int_equal(recover((struct header){.count = 3}, 0, false, false).torn_tails, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_counts_if_the_other_is_there),
        cmocka_unit_test(headers_that_make_no_sense_end_the_log),
        cmocka_unit_test(a_part_without_peers_needs_only_its_records),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
