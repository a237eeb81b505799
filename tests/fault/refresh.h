/* SPDX-License-Identifier: MIT */
/* A follower, and two states of the files that it follows, made by hand: those of the
 * earlier are overwritten in place by those of the later. */
#ifndef TESTS_FAULT_REFRESH_H
#define TESTS_FAULT_REFRESH_H

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/memory.h"
#include "damage/lab.h"
#include "db/db.h"
#include "fault/faults.h"
#include "io/io.h"
#include "keydir/internal.h"
#include "log/format.h"
#include "log/segment.h"
#include "partition/state.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define M (&lab_manifest_2)

static char path[LAB_PATH];
static char other_key[32]; /* of partition 1 */

/* Of partition 0. */
enum { KEYS = 150 };
static char keys[KEYS][32];

static inline int setup(void **state)
{
    (void)state;
    lab_path(path, "refresh");
    unsigned n = 0;
    for (unsigned k = 0; k < KEYS; k++)
        n = lab_key(keys[k], M, 0, "k", n) + 1;
    (void)lab_key(other_key, M, 1, "k", 0);
    fault_install();
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    fault_disarm();
    fault_uninstall();
    lab_remove(path);
    return 0;
}

/* --- two states ----------------------------------------------------------------------------- */

static struct lab_image before, after;

static inline void begin_images(void)
{
    lab_image_free(&before);
    lab_image_free(&after);
    lab_add_manifest(&before, M);
    lab_add_manifest(&after, M);
}

static inline void begin_compacted(struct lab_log *log, uint64_t id, uint64_t first, uint64_t last)
{
    lab_log_begin(log, M, 0, id, first);
    struct bkv_segment_header header = {
        .kind = BKV_SEGMENT_COMPACTED, .id = id, .base_sequence = first, .last_sequence = last};
    memcpy(header.database_id, M->database_id, sizeof header.database_id);
    bkv_segment_header_encode(log->data, &header);
}

/* Records `first` to `last`, of the keys from `key` on. */
static inline void put_range(struct lab_log *log, uint64_t first, uint64_t last, unsigned key,
                             const char *value)
{
    for (uint64_t n = first; n <= last; n++)
        (void)lab_log_put(log, n, keys[key++], value);
}

static inline void add_stream(struct lab_image *image, uint32_t partition, uint64_t id,
                              uint64_t first, uint64_t last, unsigned key, const char *value)
{
    struct lab_log log;
    lab_log_begin(&log, M, partition, id, first);
    put_range(&log, first, last, key, value);
    lab_log_end(&log, image);
}

/* The header of a part with one peer. */
static inline void put_group(struct lab_log *log, uint64_t sequence, uint32_t records,
                             uint32_t peer, uint32_t peer_records, uint64_t peer_sequence)
{
    uint8_t value[BKV_BATCH_FIXED + BKV_BATCH_PEER] = {0};
    bkv_put32(value, records);
    bkv_put32(value + 4, 1);
    bkv_put32(value + 8, peer);
    bkv_put32(value + 12, peer_records);
    bkv_put64(value + 16, peer_sequence);
    (void)lab_log_raw(log, BKV_RECORD_BATCH, sequence, NULL, 0, value, sizeof value);
}

static inline void add_other(struct lab_image *image, bool group)
{
    struct lab_log log;
    lab_log_begin(&log, M, 1, 1, 1);
    (void)lab_log_put(&log, 1, other_key, "1");
    if (group) {
        put_group(&log, 2, 1, 0, 1, 151);
        (void)lab_log_put(&log, 3, other_key, "2");
    }
    lab_log_end(&log, image);
}

/* Before: keys 0 to 19 are "1" in two files. After: the first of them was compacted,
 * without key 9, which had expired; the second has all others as "1"; a file behind
 * it has become a compacted one, in which keys 0 to 4 are "2", and key 10 is deleted;
 * and at the end there is a batch of both partitions. */
static inline void make_images(void)
{
    struct lab_log log;
    begin_images();
    add_stream(&before, 0, 1, 1, 10, 0, "1");
    add_stream(&before, 0, 2, 11, 20, 10, "1");
    add_other(&before, false);

    begin_compacted(&log, 5, 1, 10);
    put_range(&log, 1, 9, 0, "1");
    lab_log_end(&log, &after);
    lab_add_hint(&after, M, 0, 5);
    add_stream(&after, 0, 2, 11, 140, 10, "1");
    begin_compacted(&log, 6, 141, 150);
    put_range(&log, 141, 145, 0, "2");
    (void)lab_log_delete(&log, 146, keys[10]);
    lab_log_end(&log, &after);
    lab_log_begin(&log, M, 0, 7, 151);
    put_group(&log, 151, 1, 1, 1, 2);
    (void)lab_log_put(&log, 152, keys[5], "2");
    lab_log_end(&log, &after);
    add_other(&after, true);
}

static inline void write_over(const struct lab_file *file)
{
    char full[LAB_PATH];
    lab_join(full, path, file->name);
    int fd = open(full, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, file->data, file->size, 0), (ssize_t)file->size);
    (void)close(fd);
}

static inline bool has_file(const struct lab_image *image, const char *name)
{
    for (size_t i = 0; i < image->count; i++) {
        if (strcmp(image->files[i].name, name) == 0)
            return true;
    }
    return false;
}

/* The writer was at work. */
static inline void go_on(void)
{
    for (size_t i = 0; i < after.count; i++)
        write_over(&after.files[i]);
    for (size_t i = 0; i < before.count; i++) {
        char full[LAB_PATH];
        lab_join(full, path, before.files[i].name);
        if (!has_file(&after, before.files[i].name))
            (void)unlink(full); /* it may be the second time */
    }
}

static inline bitkv *follow(bitkv_io_mode mode)
{
    bitkv *db = NULL;
    int rc = lab_open(&db, path, (struct lab_open){.read_only = true, .io_mode = mode});
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static inline bitkv *follow_before(bitkv_io_mode mode)
{
    lab_image_write(&before, path);
    return follow(mode);
}

static inline void add_begun(struct lab_image *image)
{
    add_stream(image, 0, 1, 1, 10, 0, "1");
    add_other(image, false);
}

/* From `before` to `after`: what the refresh says, and of which file. */
static inline bitkv *refresh_to_after(int wanted, const char *context)
{
    bitkv *db = follow_before(BITKV_IO_PWRITE);
    go_on();
    int rc = bitkv_refresh(db);
    if (rc != wanted)
        fail_msg("%s: %s", bitkv_error_name(rc), bitkv_error_context());
    if (context != NULL && strstr(bitkv_error_context(), context) == NULL)
        fail_msg("the context does not have %s: %s", context, bitkv_error_context());
    for (unsigned k = 0; k < 10; k++)
        lab_expect(db, keys[k], "1");
    return db;
}

#endif
