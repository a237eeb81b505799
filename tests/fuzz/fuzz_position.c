/* SPDX-License-Identifier: MIT */
/*
 * Positions of change feeds, which applications keep and hand back. First byte: 1
 * mends the checksum, 2 sets the magic, version, database id and number of
 * partitions; then the bytes.
 *
 * One database serves all executions, and nothing changes it. A position that is
 * taken lies between the oldest change that is retained and the end of the log;
 * one there that is well made is taken; what follows is all that was written behind
 * it, and the feed's own position leads back to the end.
 */
#include "fuzz/fuzz.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"

#include <bitkv.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTITIONS  2u
#define FIXED       32u                          /* before the sequence numbers */
#define SIZE        (FIXED + 8 * PARTITIONS + 4) /* as bitkv_feed_position() says */
#define CHANGES_MAX 400u

static bitkv *db;
static uint8_t oldest[SIZE], end[SIZE];
/* What a feed from the oldest change shows. */
static uint64_t versions[PARTITIONS][CHANGES_MAX];
static unsigned counts[PARTITIONS];

static uint64_t sequence_in(const uint8_t *position, unsigned partition)
{
    return bkv_get64(position + FIXED + 8 * (size_t)partition);
}

static void note_position(const bitkv_feed *feed, uint8_t position[SIZE])
{
    size_t size = 0;
    FUZZ_CHECK(bitkv_feed_position(feed, position, SIZE, &size) == BITKV_OK && size == SIZE,
               "%zu bytes", size);
}

static void fill(void)
{
    static const uint8_t value[3000];
    char key[32];
    for (unsigned i = 0; i < 160; i++) {
        /* What was first is compacted away, so that a position can be behind. */
        if (i == 60)
            FUZZ_CHECK(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL) == BITKV_OK, "%s",
                       bitkv_error_context());
        int size = snprintf(key, sizeof key, "key-%u", i % 20);
        FUZZ_CHECK(bitkv_put(db, key, (size_t)size, value, sizeof value) == BITKV_OK, "%s",
                   bitkv_error_context());
        if (i % 7 == 0)
            FUZZ_CHECK(bitkv_del(db, key, (size_t)size) == BITKV_OK, "%s", bitkv_error_context());
    }
    /* No mark comes of itself later. */
    FUZZ_CHECK(bitkv_sync(db) == BITKV_OK, "%s", bitkv_error_context());
}

static void close_it(void)
{
    (void)bitkv_close(db);
}

static void set_up(void)
{
    static struct lab_image image;
    lab_add_manifest(&image, &lab_manifest_2);
    const char *path = fuzz_scratch();
    fuzz_scratch_write("MANIFEST", image.files[0].data, image.files[0].size);
    fuzz_scratch_write("partition_0/reserve.tmp", NULL, 0); /* for the directory's sake */
    fuzz_scratch_write("partition_1/reserve.tmp", NULL, 0);
    bitkv_options options;
    bitkv_options_init(&options);
    options.auto_compact = false;
    options.max_file_size = 64u << 10;
    FUZZ_CHECK(bitkv_open(&db, path, &options) == BITKV_OK, "%s", bitkv_error_context());
    (void)atexit(close_it);
    fill();
    bitkv_feed *feed;
    FUZZ_CHECK(bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST) == BITKV_OK, "oldest");
    note_position(feed, oldest);
    bitkv_change change;
    while (bitkv_feed_next(feed, &change) == BITKV_OK) {
        FUZZ_CHECK(counts[change.partition] < CHANGES_MAX, "too many changes");
        versions[change.partition][counts[change.partition]++] = change.version;
    }
    note_position(feed, end);
    FUZZ_CHECK(bitkv_feed_close(feed) == BITKV_OK, "close");
    for (unsigned p = 0; p < PARTITIONS; p++)
        FUZZ_CHECK(counts[p] > 0 && sequence_in(oldest, p) > 0, "nothing is behind or ahead");
}

static bool is_retained(const uint8_t *position)
{
    for (unsigned p = 0; p < PARTITIONS; p++) {
        uint64_t sequence = sequence_in(position, p);
        if (sequence < sequence_in(oldest, p) || sequence > sequence_in(end, p))
            return false;
    }
    return true;
}

static bool is_well_made(const uint8_t *position, size_t size)
{
    return size == SIZE && memcmp(position, end, FIXED) == 0 &&
           bkv_crc32c(0, position, SIZE - 4) == bkv_get32(position + SIZE - 4);
}

static void read_on(bitkv_feed *feed, const uint8_t *position)
{
    unsigned next[PARTITIONS] = {0};
    for (unsigned p = 0; p < PARTITIONS; p++) {
        while (next[p] < counts[p] && versions[p][next[p]] <= sequence_in(position, p))
            next[p]++;
    }
    bitkv_change change;
    int rc = bitkv_feed_next(feed, &change);
    for (; rc == BITKV_OK; rc = bitkv_feed_next(feed, &change)) {
        FUZZ_CHECK(change.partition < PARTITIONS &&
                       next[change.partition] < counts[change.partition],
                   "one change too many");
        uint64_t expected = versions[change.partition][next[change.partition]++];
        FUZZ_CHECK(change.version == expected, "version %" PRIu64 ", not %" PRIu64, change.version,
                   expected);
    }
    FUZZ_CHECK(rc == BITKV_NOT_FOUND, "%s: %s", bitkv_error_name(rc), bitkv_error_context());
    for (unsigned p = 0; p < PARTITIONS; p++)
        FUZZ_CHECK(next[p] == counts[p], "%u changes of %u", next[p], counts[p]);
    uint8_t reached[SIZE];
    note_position(feed, reached);
    FUZZ_CHECK(memcmp(reached, end, SIZE) == 0, "it ends elsewhere");
}

static void try_position(const uint8_t *position, size_t size)
{
    bool well_made = is_well_made(position, size);
    int expected = BITKV_ERR_INVALID;
    if (well_made)
        expected = is_retained(position) ? BITKV_OK : BITKV_ERR_BEHIND;
    bitkv_feed *feed;
    int rc = bitkv_feed_open(&feed, db, position, size);
    FUZZ_CHECK(rc == expected, "%s, not %s", bitkv_error_name(rc), bitkv_error_name(expected));
    FUZZ_CHECK((feed != NULL) == (rc == BITKV_OK), "a feed of an error");
    if (rc != BITKV_OK)
        return;
    read_on(feed, position);
    FUZZ_CHECK(bitkv_feed_close(feed) == BITKV_OK, "close");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (db == NULL)
        set_up();
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    uint8_t *position = malloc(in.size + (in.size == 0)); /* exact: a read behind it is seen */
    FUZZ_CHECK(position != NULL, "out of memory");
    if (in.size > 0)
        memcpy(position, in.data, in.size);
    if ((flags & 2) != 0 && in.size >= FIXED)
        memcpy(position, end, FIXED);
    if ((flags & 1) != 0 && in.size >= 4)
        bkv_put32(position + in.size - 4, bkv_crc32c(0, position, in.size - 4));
    try_position(position, in.size);
    free(position);
    return 0;
}
