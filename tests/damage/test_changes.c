/* SPDX-License-Identifier: MIT */
/*
 * Every byte of a small database is changed in turn, and every file cut to
 * every length, and the database opened. What holds, whatever was hit:
 *
 *   1. No crash, and no value that was not once put under its key.
 *   2. An opening fails only with a code and a context, and only because of
 *      the MANIFEST (or, with strict recovery, because of any damage that it
 *      met).
 *   3. If the tail was cut (torn_tails), the byte lay behind the place that
 *      the log was known to be durable up to, and the partition holds exactly
 *      the operations before the cut.
 *   4. Otherwise every key has its newest value, but for the key of the
 *      record that was hit: that may be an error; and if it is absent or
 *      older, a damaged region was counted and a warning given.
 *   5. Hints and checkpoints may be hit anywhere: nothing is lost.
 *   6. The last segment of a log that is cut short is a log that ends there:
 *      the operations before are all there. If nothing else knows better (a
 *      checkpoint does), that can't even be reported.
 *
 * One bit of each byte by default, every bit with BITKV_DAMAGE_BITS=1 (which does
 * nothing else), and all of everything with BITKV_DAMAGE_ALL=1. The two
 * partitions are laid out record by record, then opened and closed by the
 * engine for the clean state.
 */
#include "damage/lab.h"

#include "base/bytes.h"
#include "log/format.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define M (&lab_manifest_2)

/* In the place of the C library's: a read-only opening gives a writer time to explain
 * what it finds, and none is at work here. It reads as often. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    (void)clock, (void)flags, (void)time, (void)left;
    return sched_yield();
}

/* --- the database ---------------------------------------------------------------- */

/* One operation of the log, in order of a partition. */
struct operation {
    uint32_t partition;
    uint64_t segment;
    size_t offset, size;
    uint8_t type;
    char key[32];
    char value[64];
};

static struct operation operations[128];
static size_t operation_count;

/* By partition: below it, the crash image is known to be durable. */
static uint64_t durable_segment[2];
static size_t durable_offset[2];

static struct lab_image crashed; /* as after kill -9 */
static struct lab_image closed;  /* as after bitkv_close() */
static char path[LAB_PATH];

static void note(const struct lab_log *log, uint8_t type, size_t offset, const char *key,
                 const char *value)
{
    struct operation *o = &operations[operation_count++];
    assert_true(operation_count < sizeof operations / sizeof operations[0]);
    *o = (struct operation){.partition = log->partition,
                            .segment = log->id,
                            .offset = offset,
                            .size = log->size - offset,
                            .type = type};
    if (key != NULL)
        (void)snprintf(o->key, sizeof o->key, "%s", key);
    if (value != NULL)
        (void)snprintf(o->value, sizeof o->value, "%s", value);
}

static void put(struct lab_log *log, uint64_t *sequence, const char *key)
{
    char value[64];
    (void)snprintf(value, sizeof value, "%s at %llu", key, (unsigned long long)*sequence);
    note(log, BKV_RECORD_PUT, lab_log_put(log, (*sequence)++, key, value), key, value);
}

static void del(struct lab_log *log, uint64_t *sequence, const char *key)
{
    note(log, BKV_RECORD_DELETE, lab_log_delete(log, (*sequence)++, key), key, NULL);
}

static void mark(struct lab_log *log, uint64_t *sequence)
{
    durable_segment[log->partition] = log->id;
    durable_offset[log->partition] = log->size;
    size_t at = lab_log_mark(log, (*sequence)++, log->id, log->size);
    note(log, BKV_RECORD_MARK, at, NULL, NULL);
}

/* Three segments, the first two with hints; overwrites and deletions within
 * and across them; marks; a tail behind the last mark; reserved space. */
static void lay_out(uint32_t partition)
{
    char key[6][32];
    unsigned n = 0;
    for (int i = 0; i < 6; i++)
        n = lab_key(key[i], M, partition, "key", n) + 1;
    struct lab_log log;
    uint64_t sequence = 1;
    lab_log_begin(&log, M, partition, 1, sequence);
    put(&log, &sequence, key[0]);
    put(&log, &sequence, key[1]);
    put(&log, &sequence, key[0]);
    mark(&log, &sequence);
    put(&log, &sequence, key[2]);
    del(&log, &sequence, key[1]);
    lab_log_end(&log, &crashed);
    lab_add_hint(&crashed, M, partition, 1);
    lab_log_begin(&log, M, partition, 2, sequence);
    put(&log, &sequence, key[3]);
    put(&log, &sequence, key[2]);
    mark(&log, &sequence);
    put(&log, &sequence, key[1]);
    del(&log, &sequence, key[3]);
    lab_log_end(&log, &crashed);
    if (partition == 0) /* the other has to read its log */
        lab_add_hint(&crashed, M, partition, 2);
    lab_log_begin(&log, M, partition, 3, sequence);
    put(&log, &sequence, key[4]);
    put(&log, &sequence, key[3]);
    mark(&log, &sequence);
    put(&log, &sequence, key[4]);
    put(&log, &sequence, key[5]);
    del(&log, &sequence, key[0]);
    lab_log_bytes(&log, NULL, 64);
    lab_log_end(&log, &crashed);
}

static int setup(void **state)
{
    (void)state;
    lab_sync_off();
    lab_path(path, "flips");
    lab_add_manifest(&crashed, M);
    lay_out(0);
    lay_out(1);
    lab_image_write(&crashed, path);
    bitkv *db;
    assert_int_equal(lab_open(&db, path, (struct lab_open){0}), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_read(&closed, path, SIZE_MAX / 2); /* as it is */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_image_free(&crashed);
    lab_image_free(&closed);
    lab_remove(path);
    lab_sync_on();
    return 0;
}

/* --- what must hold --------------------------------------------------------------- */

struct hit {
    bool is_data;
    uint32_t partition;
    uint64_t segment;
    size_t offset, end;
    bool truncated;
};

static char hit_text[128]; /* for messages */

static struct hit parse_hit(const char *name, size_t offset)
{
    (void)snprintf(hit_text, sizeof hit_text, "%s at %zu", name, offset);
    unsigned partition;
    unsigned long long segment;
    struct hit hit = {.offset = offset, .end = offset + 1};
    if (sscanf(name, "partition_%u/data_%llu.db", &partition, &segment) == 2) {
        hit.is_data = true;
        hit.partition = partition;
        hit.segment = segment;
    }
    return hit;
}

static bool lies_in(const struct hit *hit, const struct operation *o)
{
    return hit->is_data && hit->partition == o->partition && hit->segment == o->segment &&
           hit->end > o->offset && hit->offset < o->offset + o->size;
}

static bool lies_behind_durable(const struct hit *hit)
{
    uint32_t p = hit->partition;
    return hit->is_data &&
           (hit->segment > durable_segment[p] ||
            (hit->segment == durable_segment[p] && hit->offset >= durable_offset[p]));
}

/* Newest operation on a key among those before (segment, offset) of its
 * partition. */
static const struct operation *newest(const char *key, uint64_t segment, size_t offset)
{
    const struct operation *found = NULL;
    for (size_t i = 0; i < operation_count; i++) {
        const struct operation *o = &operations[i];
        if (strcmp(o->key, key) == 0 &&
            (o->segment < segment || (o->segment == segment && o->offset < offset)))
            found = o;
    }
    return found;
}

static bool was_once(const char *key, const char *value)
{
    for (size_t i = 0; i < operation_count; i++) {
        if (operations[i].type == BKV_RECORD_PUT && strcmp(operations[i].key, key) == 0 &&
            strcmp(operations[i].value, value) == 0)
            return true;
    }
    return false;
}

static bool equals(const struct operation *o, int rc, const char *value)
{
    bool there = o != NULL && o->type == BKV_RECORD_PUT;
    return there ? rc == BITKV_OK && strcmp(value, o->value) == 0 : rc == BITKV_NOT_FOUND;
}

static void check_key(bitkv *db, const struct hit *hit, const char *key, uint32_t partition,
                      const bitkv_recovery *r, unsigned warnings)
{
    int rc;
    const char *value = lab_get(db, key, &rc);
    if (rc == BITKV_OK && !was_once(key, value))
        fail_msg("%s has a value that was never put: %s", key, value);
    bool shorter = hit->truncated && hit->is_data && hit->segment == 3;
    if ((r->torn_tails > 0 || shorter) && partition == hit->partition) {
        /* The cut is at the record that was hit, or at a segment's beginning,
         * or at the end. */
        uint64_t segment = hit->segment;
        size_t offset = hit->offset;
        for (size_t i = 0; i < operation_count; i++) {
            if (lies_in(hit, &operations[i]) && operations[i].offset < offset)
                offset = operations[i].offset;
        }
        if (!equals(newest(key, segment, offset), rc, value))
            fail_msg("%s is %s behind a cut: %s (%s)", key, bitkv_error_name(rc), value, hit_text);
        return;
    }
    const struct operation *now = newest(key, UINT64_MAX, 0);
    if (equals(now, rc, value))
        return;
    bool hit_it = false;
    for (size_t i = 0; i < operation_count; i++)
        hit_it = hit_it || (lies_in(hit, &operations[i]) && strcmp(operations[i].key, key) == 0);
    if (!hit_it)
        fail_msg("%s was not hit, and is %s: %s (%s)", key, bitkv_error_name(rc), value, hit_text);
    if (rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_IO)
        return;
    if (r->damaged_regions == 0 || warnings == 0)
        fail_msg("%s was hit, is %s: %s, and nothing was reported (%s)", key, bitkv_error_name(rc),
                 value, hit_text);
}

static void check_all(bitkv *db, const struct hit *hit, const struct lab_log_lines *lines)
{
    bitkv_recovery r = lab_recovery(db);
    if (r.torn_tails > 0) {
        if (!lies_behind_durable(hit) && !(hit->truncated && hit->segment == 3))
            fail_msg("durable records were cut (%s)", hit_text);
        assert_true(lines->lines > 0);
    }
    for (uint32_t partition = 0; partition < 2; partition++) {
        char key[32];
        unsigned n = 0;
        for (int i = 0; i < 7; i++) { /* six keys, and one that never was */
            n = lab_key(key, M, partition, "key", n) + 1;
            check_key(db, hit, key, partition, &r, lines->warnings);
        }
    }
}

/* Opens in one way, and checks; `strict` may refuse instead. */
static void open_and_check(const struct hit *hit, const char *name, struct lab_open how)
{
    bitkv *db;
    struct lab_log_lines lines = {0};
    how.lines = &lines;
    int rc = lab_open(&db, path, how);
    if (rc != BITKV_OK) {
        assert_null(db);
        assert_string_not_equal(bitkv_error_context(), "");
        bool manifest = strcmp(name, "MANIFEST") == 0;
        if (manifest || how.strict)
            assert_true(rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT);
        else
            fail_msg("open failed: %s: %s (%s)", bitkv_error_name(rc), bitkv_error_context(),
                     hit_text);
        return;
    }
    if (how.strict) {
        bitkv_recovery r = lab_recovery(db);
        assert_int_equal(r.damaged_regions + r.rejected_hints + r.rejected_checkpoints, 0);
    }
    check_all(db, hit, &lines);
    rc = bitkv_close(db);
    if (rc != BITKV_OK)
        fail_msg("close: %s: %s", bitkv_error_name(rc), bitkv_error_context());
}

/* Opened twice for writing: what the first opening made of it must hold. */
static void open_twice(const struct hit *hit, bitkv_io_mode io_mode)
{
    bitkv_recovery first = {0};
    struct lab_log_lines lines = {0};
    for (int i = 0; i < 2; i++) {
        bitkv *db;
        int rc = lab_open(&db, path, (struct lab_open){.lines = &lines, .io_mode = io_mode});
        if (rc != BITKV_OK)
            fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
        bitkv_recovery r = lab_recovery(db);
        if (i == 0)
            first = r;
        else
            assert_int_equal(r.torn_tails, 0);
        /* Damage that the first opening reported is known by now. */
        r.torn_tails += i > 0 ? first.torn_tails : 0;
        r.damaged_regions += i > 0 ? first.damaged_regions : 0;
        for (uint32_t partition = 0; partition < 2; partition++) {
            char key[32];
            unsigned n = 0;
            for (int k = 0; k < 7; k++) {
                n = lab_key(key, M, partition, "key", n) + 1;
                check_key(db, hit, key, partition, &r, lines.warnings);
            }
        }
        char fresh[32];
        (void)lab_key(fresh, M, hit->partition, "fresh", 0);
        if (i == 0)
            lab_put(db, fresh, "new");
        lab_expect(db, fresh, "new");
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

/* Overwrites one byte of a file on disk. */
static void poke(const char *name, size_t offset, uint8_t byte)
{
    char full[LAB_PATH];
    lab_join(full, path, name);
    FILE *file = fopen(full, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)offset, SEEK_SET), 0);
    assert_int_equal(fputc(byte, file), byte);
    assert_int_equal(fclose(file), 0);
}

/* Long stretches of empty slots in a checkpoint are sampled. */
static bool worth(const struct lab_file *file, size_t at)
{
    if (lab_flag("BITKV_DAMAGE_ALL") || strstr(file->name, "keydir.ckp") == NULL)
        return true;
    return at < 200 || at + 200 > file->size || file->data[at] != 0 || at % 509 == 0;
}

static void flip_each(struct lab_image *image, void (*check)(const char *name, size_t offset))
{
    unsigned bits = lab_flag("BITKV_DAMAGE_ALL") || lab_flag("BITKV_DAMAGE_BITS") ? 8 : 1;
    lab_image_write(image, path);
    for (size_t f = 0; f < image->count; f++) {
        struct lab_file *file = &image->files[f];
        for (size_t at = 0; at < file->size; at++) {
            for (unsigned b = 0; b < bits && worth(file, at); b++) {
                unsigned bit = bits == 8 ? b : (unsigned)(at * 5 + f) % 8;
                uint8_t byte = file->data[at];
                file->data[at] = (uint8_t)(byte ^ 1u << bit);
                poke(file->name, at, file->data[at]);
                check(file->name, at);
                file->data[at] = byte;
                poke(file->name, at, byte);
            }
        }
    }
}

static void check_read_only(const char *name, size_t offset)
{
    struct hit hit = parse_hit(name, offset);
    open_and_check(&hit, name, (struct lab_open){.read_only = true});
    open_and_check(&hit, name, (struct lab_open){.read_only = true, .strict = true});
    if (offset % 8 == 0)
        open_and_check(&hit, name,
                       (struct lab_open){.read_only = true, .io_mode = BITKV_IO_PWRITE});
}

static void every_byte_of_a_crashed_database_may_change(void **state)
{
    (void)state;
    flip_each(&crashed, check_read_only);
}

static void every_byte_of_a_closed_database_may_change(void **state)
{
    (void)state;
    flip_each(&closed, check_read_only);
}

static void repair_keeps_what_the_damage_left(void **state)
{
    (void)state;
    struct lab_image *images[] = {&crashed, &closed};
    size_t step = lab_flag("BITKV_DAMAGE_ALL") ? 1 : 13;
    for (size_t n = 0; n < 2; n++) {
        for (size_t f = 0; f < images[n]->count; f++) {
            struct lab_file *file = &images[n]->files[f];
            if (strcmp(file->name, "MANIFEST") == 0)
                continue;
            for (size_t at = f % step; at < file->size; at += step) {
                if (!worth(file, at))
                    continue;
                uint8_t byte = file->data[at];
                file->data[at] ^= 0x10;
                lab_image_write(images[n], path);
                file->data[at] = byte;
                struct hit hit = parse_hit(file->name, at);
                open_twice(&hit, at % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE);
            }
        }
    }
}

static void every_length_of_every_file_may_be(void **state)
{
    (void)state;
    struct lab_image *images[] = {&crashed, &closed};
    for (size_t n = 0; n < 2; n++) {
        for (size_t f = 0; f < images[n]->count; f++) {
            struct lab_file *file = &images[n]->files[f];
            char full[LAB_PATH];
            lab_image_write(images[n], path);
            lab_join(full, path, file->name);
            for (size_t length = file->size; length-- > 0;) {
                if (!worth(file, length))
                    continue;
                assert_int_equal(truncate(full, (off_t)length), 0);
                struct hit hit = parse_hit(file->name, length);
                hit.end = SIZE_MAX;
                hit.truncated = true;
                open_and_check(&hit, file->name, (struct lab_open){.read_only = true});
                open_and_check(&hit, file->name,
                               (struct lab_open){.read_only = true, .strict = true});
            }
        }
    }
}

static void repair_keeps_what_a_truncation_left(void **state)
{
    (void)state;
    struct lab_image *images[] = {&crashed, &closed};
    size_t step = lab_flag("BITKV_DAMAGE_ALL") ? 1 : 11;
    for (size_t n = 0; n < 2; n++) {
        for (size_t f = 0; f < images[n]->count; f++) {
            struct lab_file *file = &images[n]->files[f];
            if (strcmp(file->name, "MANIFEST") == 0)
                continue;
            for (size_t length = f % step; length < file->size; length += step) {
                if (!worth(file, length))
                    continue;
                char full[LAB_PATH];
                lab_image_write(images[n], path);
                lab_join(full, path, file->name);
                assert_int_equal(truncate(full, (off_t)length), 0);
                struct hit hit = parse_hit(file->name, length);
                hit.end = SIZE_MAX;
                hit.truncated = true;
                open_twice(&hit, length % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE);
            }
        }
    }
}

/* What a strict opening lets pass was not met by recovery at all. */
static void strict_recovery_refuses_rot_in_what_it_reads(void **state)
{
    (void)state;
    lab_image_write(&crashed, path);
    for (size_t i = 0; i < operation_count; i++) {
        const struct operation *o = &operations[i];
        /* Partition 1 has no hint for segment 2: its log is read. */
        if (o->partition != 1 || o->segment != 2)
            continue;
        struct lab_file *file = lab_image_find(&crashed, "partition_1/data_2.db");
        poke(file->name, o->offset + 5, (uint8_t)(file->data[o->offset + 5] ^ 1));
        bitkv *db;
        assert_int_equal(lab_open(&db, path, (struct lab_open){.read_only = true, .strict = true}),
                         BITKV_ERR_CORRUPT);
        assert_non_null(strstr(bitkv_error_context(), "data_2.db"));
        poke(file->name, o->offset + 5, file->data[o->offset + 5]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_a_crashed_database_may_change),
        cmocka_unit_test(every_byte_of_a_closed_database_may_change),
        cmocka_unit_test(every_length_of_every_file_may_be),
        cmocka_unit_test(repair_keeps_what_the_damage_left),
        cmocka_unit_test(repair_keeps_what_a_truncation_left),
        cmocka_unit_test(strict_recovery_refuses_rot_in_what_it_reads),
    };
    const struct CMUnitTest bits[] = {
        cmocka_unit_test(every_byte_of_a_crashed_database_may_change),
        cmocka_unit_test(every_byte_of_a_closed_database_may_change),
    };
    if (lab_flag("BITKV_DAMAGE_BITS"))
        return cmocka_run_group_tests(bits, setup, teardown);
    return cmocka_run_group_tests(tests, setup, teardown);
}
