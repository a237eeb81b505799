/* SPDX-License-Identifier: MIT */
/*
 * A whole directory of hostile files is opened, read, written, followed, backed up,
 * compacted, closed, opened again and repartitioned.
 *
 *   u8   1 mends the checksum of the MANIFEST, 2 those of segments' headers,
 *        4 of records, 8 of hints, 16 of checkpoints;
 *        32 BITKV_IO_PWRITE, 64 strict recovery
 *   u8   1 read-only first, 2 inspect, 4 feed, 8 compact, 16 backup, and again into
 *        the same target, 32 repartition, 64 a follower beside the writer, 128 walk
 *        a snapshot by iterators
 *   ...  the files in chunks; without a MANIFEST it gets a sound one
 *
 * Nothing may crash, hang, or leak. Of what is served: a scan and a get agree
 * (whoever can make checksums can have an index point at another key's record,
 * which a scan shows and a get does not); what is put is got, at once, after a
 * compaction, after a reopening, by a follower, in a backup, and under another number
 * of partitions, whoever wrote what was there before.
 *
 * Sleeping is yielding here (the linker sees to it): what a follower waits for, in
 * case that a writer is at work, does not come.
 */
#include "fuzz/fuzz.h"

#include "base/bytes.h"
#include "damage/lab.h"
#include "fuzz/names.h"
#include "log/format.h"
#include "log/inspect.h"
#include "log/manifest.h"
#include "log/record.h"

#include <bitkv.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *time,
                           struct timespec *left);

int __wrap_clock_nanosleep(clockid_t clock, int flags, const struct timespec *time,
                           struct timespec *left)
{
    (void)clock, (void)flags, (void)time, (void)left;
    return sched_yield();
}

#define PARTITIONS_MAX 4u /* of more the files take all the time */

static void mend(struct fuzz_file *files, uint8_t flags)
{
    if ((flags & 1) != 0)
        fuzz_mend_manifest(&files[MANIFEST]);
    for (size_t i = 0; i < NAMES; i++) {
        struct fuzz_file *file = &files[i];
        if (names[i].kind == HINT && (flags & 8) != 0)
            fuzz_mend_hint(file);
        if (names[i].kind == CHECKPOINT && (flags & 16) != 0)
            fuzz_mend_checkpoint(file);
        if (names[i].kind == DURABLE && (flags & 16) != 0)
            fuzz_mend_durable(file);
        if (names[i].kind != DATA)
            continue;
        if ((flags & 2) != 0)
            fuzz_mend_segment(file);
        const uint8_t *database_id = lab_manifest_2.database_id;
        if (files[MANIFEST].size >= BKV_MANIFEST_SIZE)
            database_id = files[MANIFEST].data + 16;
        if ((flags & 4) != 0)
            fuzz_mend_records(file, BKV_SEGMENT_HEADER,
                              bkv_segment_seed(database_id, names[i].partition, names[i].id));
    }
}

static void write_files(const struct fuzz_file *files)
{
    if (!files[MANIFEST].there) {
        static struct lab_image image;
        if (image.count == 0)
            lab_add_manifest(&image, &lab_manifest_2);
        fuzz_scratch_write("MANIFEST", image.files[0].data, image.files[0].size);
    }
    for (size_t i = 0; i < NAMES; i++) {
        if (files[i].there)
            fuzz_scratch_write(names[i].name, files[i].data, files[i].size);
    }
}

/* Some checksums were made right. */
#define FORGED 31u

static void on_log(void *user, bitkv_log_level level, const char *message)
{
    (void)user, (void)level;
    FUZZ_CHECK(message[0] != '\0', "an empty message");
    if (getenv("BITKV_TEST_VERBOSE") != NULL)
        (void)fprintf(stderr, "  log: %s\n", message);
}

static int open_it(bitkv **db, const char *path, uint8_t flags, bool read_only)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = read_only;
    options.strict_recovery = (flags & 64) != 0;
    options.io_mode = (flags & 32) != 0 ? BITKV_IO_PWRITE : BITKV_IO_MMAP;
    options.auto_compact = false;
    options.create_if_missing = false;
    options.max_file_size = 64u << 10;
    options.log = on_log;
    int rc = bitkv_open(db, path, &options);
    FUZZ_CHECK((rc == BITKV_OK) == (*db != NULL), "%d", rc);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT ||
                   rc == BITKV_ERR_LIMIT,
               "open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return rc;
}

/* --- what a scan has shown --------------------------------------------------------- */

#define SHOWN_MAX 64

struct shown {
    size_t count;
    struct {
        uint8_t *key, *value;
        size_t key_size, value_size;
        uint64_t deadline_ms;
    } records[SHOWN_MAX];
};

static uint8_t *copy(const void *data, size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    FUZZ_CHECK(bytes != NULL, "out of memory");
    if (size > 0)
        memcpy(bytes, data, size);
    return bytes;
}

static int on_record(void *user, const bitkv_record *record)
{
    struct shown *shown = user;
    FUZZ_CHECK(record->key_size > 0, "an empty key");
    if (shown->count < SHOWN_MAX) {
        size_t n = shown->count++;
        shown->records[n].key = copy(record->key, record->key_size);
        shown->records[n].key_size = record->key_size;
        shown->records[n].value = copy(record->value, record->value_size);
        shown->records[n].value_size = record->value_size;
        shown->records[n].deadline_ms = record->deadline_ms;
    }
    return 0;
}

static void release(struct shown *shown)
{
    for (size_t i = 0; i < shown->count; i++) {
        free(shown->records[i].key);
        free(shown->records[i].value);
    }
}

/* `forged`: some may point at other keys' records. */
static void check_shown(bitkv *db, const struct shown *shown, bool forged)
{
    for (size_t i = 0; i < shown->count; i++) {
        void *value = NULL;
        size_t size = 0;
        int rc = bitkv_get(db, shown->records[i].key, shown->records[i].key_size, &value, &size);
        if (shown->records[i].deadline_ms != UINT64_MAX && rc == BITKV_NOT_FOUND)
            continue;
        if (forged) {
            bitkv_free(value);
            continue;
        }
        FUZZ_CHECK(rc == BITKV_OK, "record %zu: %s: %s", i, bitkv_error_name(rc),
                   bitkv_error_context());
        FUZZ_CHECK(size == shown->records[i].value_size &&
                       memcmp(value, shown->records[i].value, size) == 0,
                   "record %zu has another value", i);
        bitkv_free(value);
    }
}

/* --- the visit ------------------------------------------------------------------------- */

static void expect(bitkv *db, const char *key, const char *value, const char *when)
{
    int rc;
    const char *got = lab_get(db, key, &rc);
    FUZZ_CHECK(rc == BITKV_OK && strcmp(got, value) == 0, "%s %s: %s: %s", key, when,
               bitkv_error_name(rc), rc < 0 ? bitkv_error_context() : got);
}

static void read_feed(bitkv *db)
{
    bitkv_feed *feed;
    int rc = bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST);
    if (rc != BITKV_OK)
        return;
    for (unsigned i = 0; i < 1000 && rc == BITKV_OK; i++) {
        bitkv_change change;
        rc = bitkv_feed_next(feed, &change);
        if (rc == BITKV_OK)
            FUZZ_CHECK(change.key_size > 0, "a change without a key");
    }
    FUZZ_CHECK(bitkv_feed_close(feed) == BITKV_OK, "feed");
}

static const char *const ours[] = {"fuzz-a", "fuzz-b", "fuzz-c", "fuzz-d"};
#define OURS (sizeof ours / sizeof ours[0])

static bool is_ours(const uint8_t *key, size_t size)
{
    for (size_t i = 0; i < OURS; i++) {
        if (size == strlen(ours[i]) && memcmp(key, ours[i], size) == 0)
            return true;
    }
    return false;
}

/* Puts that succeeded have to be found from then on. */
static void write_ours(bitkv *db, bool *there)
{
    bitkv_batch *batch;
    FUZZ_CHECK(bitkv_batch_create(&batch) == BITKV_OK, "batch");
    for (size_t i = 0; i < OURS; i++) {
        if (i % 2 == 0)
            there[i] = bitkv_put(db, ours[i], strlen(ours[i]), ours[i], strlen(ours[i])) == 0;
        else
            (void)bitkv_batch_put(batch, ours[i], strlen(ours[i]), ours[i], strlen(ours[i]));
    }
    there[1] = there[3] = bitkv_write(db, batch, BITKV_DURABILITY_DEFAULT) == BITKV_OK;
    bitkv_batch_destroy(batch);
    for (size_t i = 0; i < OURS; i++) {
        if (there[i])
            expect(db, ours[i], ours[i], "when it was put");
    }
}

/* Those of ours that were put and are not found. */
static void expect_ours(bitkv *db, const bool *there, const char *when)
{
    for (size_t i = 0; i < OURS; i++) {
        if (there[i])
            expect(db, ours[i], ours[i], when);
    }
}

static int pass_by(void *user, const bitkv_record *record)
{
    (void)user;
    FUZZ_CHECK(record->key_size > 0, "an empty key");
    return 0;
}

/* Keys only, then two shares with values: together as many as there are keys, if all
 * can be read. */
static void walk(bitkv *db)
{
    bitkv_snapshot *snapshot;
    if (bitkv_snapshot_create(&snapshot, db) != BITKV_OK)
        return;
    (void)bitkv_snapshot_scan(snapshot, BITKV_SCAN_KEYS, pass_by, NULL);
    for (uint32_t share = 0; share < 2; share++) {
        bitkv_iterator_options options;
        bitkv_iterator_options_init(&options);
        options.share = share;
        options.shares = 2;
        bitkv_iterator *iterator;
        if (bitkv_iterator_create(&iterator, snapshot, &options) != BITKV_OK)
            continue;
        bitkv_record record;
        int rc = BITKV_OK;
        for (unsigned i = 0; i < 100000 && rc == BITKV_OK; i++)
            rc = bitkv_iterator_next(iterator, &record);
        FUZZ_CHECK(rc != BITKV_OK, "an iterator without an end");
        FUZZ_CHECK(bitkv_iterator_destroy(iterator) == BITKV_OK, "iterator");
    }
    FUZZ_CHECK(bitkv_snapshot_destroy(snapshot) == BITKV_OK, "snapshot");
}

/* Follows from before our writes on. */
static void follow(bitkv *follower, const bool *there, const char *when)
{
    if (follower == NULL)
        return;
    int rc = bitkv_refresh(follower);
    if (rc == BITKV_OK)
        expect_ours(follower, there, when);
    else
        FUZZ_CHECK(rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_STALE || rc == BITKV_ERR_FORMAT ||
                       rc == BITKV_ERR_LIMIT,
                   "refresh: %s: %s", bitkv_error_name(rc), bitkv_error_context());
}

/* The second replaces the first. A backup that was made can be opened. What it holds
 * is not asked where checksums were forged: records that verify, out of sequence, need
 * the checkpoint's word to be passed over, and a backup has none. */
static void back_up(bitkv *db, const char *path, uint8_t flags, const bool *there)
{
    char target[LAB_PATH];
    (void)snprintf(target, sizeof target, "%.400s.backup", path);
    lab_remove(target);
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    for (unsigned i = 0; i < 2; i++) {
        options.verify = i == 1;
        options.no_links = i == 1;
        int rc = bitkv_backup(db, target, &options);
        FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT ||
                       rc == BITKV_ERR_LIMIT,
                   "backup: %s: %s", bitkv_error_name(rc), bitkv_error_context());
        if (rc != BITKV_OK)
            continue;
        bitkv *backup;
        rc = open_it(&backup, target, flags & 0xbf, true);
        FUZZ_CHECK(rc == BITKV_OK, "a backup: %s: %s", bitkv_error_name(rc), bitkv_error_context());
        if ((flags & FORGED) == 0)
            expect_ours(backup, there, "in a backup");
        FUZZ_CHECK(bitkv_close(backup) == BITKV_OK, "close");
    }
    lab_remove(target);
}

static void write_beside(bitkv *db, const char *path, uint8_t flags, uint8_t visits, bool *there)
{
    bitkv *follower = NULL;
    if ((visits & 64) != 0)
        (void)open_it(&follower, path, flags & 0xbf, true);
    write_ours(db, there);
    follow(follower, there, "by a follower");
    if ((visits & 16) != 0)
        back_up(db, path, flags, there);
    if ((visits & 8) != 0) {
        (void)bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
        expect_ours(db, there, "after compaction");
        follow(follower, there, "by a follower, after compaction");
    }
    if ((visits & 128) != 0)
        walk(db);
    FUZZ_CHECK(bitkv_close(follower) == BITKV_OK, "close: %s", bitkv_error_context());
}

/* It goes to more partitions, or stays as it is. */
static void repartition(const char *path, uint8_t flags, const bool *there)
{
    bitkv *db;
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    options.max_file_size = 64u << 10;
    (void)bitkv_repartition(path, 3, &options);
    int rc = open_it(&db, path, flags & 0xbf, false);
    FUZZ_CHECK(rc == BITKV_OK, "after a repartition: %s: %s", bitkv_error_name(rc),
               bitkv_error_context());
    expect_ours(db, there, "after a repartition");
    (void)bitkv_close(db);
    char leftover[LAB_PATH];
    (void)snprintf(leftover, sizeof leftover, "%.400s.repartition", path);
    lab_remove(leftover);
}

static void visit(const char *path, uint8_t flags, uint8_t visits)
{
    bitkv *db;
    struct shown shown = {.count = 0};
    if (open_it(&db, path, flags, false) != BITKV_OK)
        return;
    (void)bitkv_scan(db, BITKV_SCAN_ALL, on_record, &shown);
    check_shown(db, &shown, (flags & FORGED) != 0);
    if ((visits & 4) != 0)
        read_feed(db);
    bool there[OURS];
    write_beside(db, path, flags, visits, there);
    if (shown.count > 0 && !is_ours(shown.records[0].key, shown.records[0].key_size))
        (void)bitkv_del(db, shown.records[0].key, shown.records[0].key_size);
    release(&shown);
    (void)bitkv_close(db);

    int rc = open_it(&db, path, flags & 0xbf, false);
    FUZZ_CHECK(rc == BITKV_OK, "it opened once: %s: %s", bitkv_error_name(rc),
               bitkv_error_context());
    expect_ours(db, there, "after a reopening");
    (void)bitkv_close(db);
    if ((visits & 32) != 0)
        repartition(path, flags, there);
}

static void look(const char *path, uint8_t flags)
{
    bitkv *db;
    struct shown shown = {.count = 0};
    if (open_it(&db, path, flags, true) != BITKV_OK)
        return;
    (void)bitkv_scan(db, BITKV_SCAN_ALL, on_record, &shown);
    check_shown(db, &shown, (flags & FORGED) != 0);
    (void)bitkv_refresh(db);
    FUZZ_CHECK(bitkv_close(db) == BITKV_OK, "close: %s", bitkv_error_context());
    release(&shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    uint8_t visits = fuzz_u8(&in);
    struct fuzz_file files[NAMES] = {{.there = false}};
    fuzz_files_take(&in, files, NAMES);
    const struct fuzz_file *manifest = &files[MANIFEST];
    if (manifest->size < 16 || bkv_get32(manifest->data + 12) <= PARTITIONS_MAX) {
        mend(files, flags);
        const char *path = fuzz_scratch();
        write_files(files);
        if ((visits & 2) != 0) {
            struct bkv_inspect_result result;
            struct bkv_inspect_options options = {.result = &result};
            (void)bkv_inspect(path, &options);
        }
        if ((visits & 1) != 0)
            look(path, flags);
        visit(path, flags, visits);
    }
    fuzz_files_free(files, NAMES);
    return 0;
}
