/* SPDX-License-Identifier: MIT */
/*
 * Files whose checksums are right and whose contents are absurd: what an
 * attacker who knows the format can write. They cost no more memory than the
 * files are large, no crash, and no value that the log does not have.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/memory.h"
#include "damage/lab.h"
#include "log/checkpoint.h"
#include "log/format.h"
#include "log/hint.h"
#include "log/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

/* What an opening of a small database may take at a time: the scanner's
 * window, buffers, the KeyDir's first pages. */
#define ALLOCATION_MAX (2u << 20)

static char path[LAB_PATH];
static _Atomic size_t largest;

static bool note_size(size_t size, void *user)
{
    (void)user;
    size_t seen = atomic_load(&largest);
    while (seen < size && !atomic_compare_exchange_weak(&largest, &seen, size))
        ;
    return true;
}

static int setup(void **state)
{
    (void)state;
    lab_sync_off();
    lab_path(path, "hostile");
    bkv_alloc_set_hook(note_size, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bkv_alloc_set_hook(NULL, NULL);
    lab_sync_on();
    lab_remove(path);
    return 0;
}

/* Opens and works a little, whatever it says; a and b are "1" or damaged. */
static void survive(struct lab_image *image)
{
    bitkv *db;
    lab_image_write(image, path);
    atomic_store(&largest, 0);
    for (int i = 0; i < 2; i++) {
        int rc = lab_open(&db, path, (struct lab_open){0});
        if (rc != BITKV_OK) {
            assert_string_not_equal(bitkv_error_context(), "");
            break;
        }
        for (int k = 0; k < 2; k++) {
            const char *value = lab_get(db, k == 0 ? "a" : "b", &rc);
            if (rc == BITKV_OK)
                assert_string_equal(value, "1");
        }
        rc = bitkv_put(db, "new", 3, "1", 1);
        if (rc == BITKV_OK)
            lab_expect(db, "new", "1");
        (void)bitkv_close(db);
    }
    if (atomic_load(&largest) > ALLOCATION_MAX)
        fail_msg("%zu bytes were allocated at once", atomic_load(&largest));
}

static void make(struct lab_image *image)
{
    struct lab_log log;
    image->count = 0;
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    (void)lab_log_put(&log, 2, "b", "1");
    (void)lab_log_mark(&log, 3, 1, log.size);
    lab_log_end(&log, image);
}

static void headers_that_claim_the_largest_sizes(void **state)
{
    (void)state;
    static const uint32_t values[] = {BITKV_VALUE_SIZE_MAX, BITKV_VALUE_SIZE_MAX + 1, UINT32_MAX,
                                      UINT32_MAX - 19, 1u << 31};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct lab_image image;
        make(&image);
        struct lab_file *file = lab_image_find(&image, "partition_0/data_1.db");
        size_t at = file->size;
        lab_file_resize(file, at + 400);
        struct bkv_record record = {
            .type = BKV_RECORD_PUT, .key_size = UINT16_MAX, .value_size = values[i], .sequence = 4};
        bkv_record_begin(file->data + at, &record);
        bkv_put64(file->data + at + BKV_RECORD_SEQUENCE, 4);
        survive(&image);
        lab_image_free(&image);
    }
}

static void marks_that_point_beyond_everything(void **state)
{
    (void)state;
    static const uint64_t ids[] = {0, 1, 2, UINT64_MAX};
    static const uint64_t offsets[] = {0, 1, 63, 1u << 20, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < 4; i++) {
        for (size_t o = 0; o < 6; o++) {
            struct lab_image image = {.count = 0};
            struct lab_log log;
            lab_add_manifest(&image, M);
            lab_log_begin(&log, M, 0, 1, 1);
            (void)lab_log_put(&log, 1, "a", "1");
            (void)lab_log_mark(&log, 2, ids[i], offsets[o]);
            (void)lab_log_put(&log, 3, "b", "1");
            size_t at = lab_log_put(&log, 4, "c", "1");
            log.data[at + 4] ^= 1;
            lab_log_bytes(&log, "odd", 3);
            lab_log_end(&log, &image);
            survive(&image);
            lab_image_free(&image);
        }
    }
}

static void sequence_numbers_at_the_end_of_their_range(void **state)
{
    (void)state;
    static const uint64_t bases[] = {0, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        struct lab_image image;
        struct lab_log log;
        make(&image);
        lab_log_begin(&log, M, 0, 2, bases[i]);
        (void)lab_log_put(&log, bases[i], "a", "1");
        (void)lab_log_put(&log, bases[i] + 1, "b", "1");
        lab_log_end(&log, &image);
        survive(&image);
        lab_image_free(&image);
    }
}

static void ids_at_the_end_of_their_range(void **state)
{
    (void)state;
    static const uint64_t ids[] = {UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < 2; i++) {
        struct lab_image image;
        struct lab_log log;
        make(&image);
        lab_log_begin(&log, M, 0, ids[i], 4);
        (void)lab_log_put(&log, 4, "a", "1");
        lab_log_end(&log, &image);
        survive(&image);
        lab_image_free(&image);
    }
}

/* --- hints ---------------------------------------------------------------------------- */

static void seal_hint(struct lab_file *hint)
{
    bkv_put32(hint->data + 112,
              bkv_crc32c(0, hint->data + BKV_HINT_HEADER, hint->size - BKV_HINT_HEADER));
    bkv_put32(hint->data + 116, bkv_crc32c(0, hint->data, 116));
}

static void hint_entries_that_point_anywhere(void **state)
{
    (void)state;
    uint64_t seed = lab_seed();
    for (unsigned round = 0; round < 300; round++) {
        struct lab_image image;
        make(&image);
        lab_add_hint(&image, M, 0, 1);
        struct lab_file *hint = lab_image_find(&image, "partition_0/hint_1.ht");
        uint8_t *entry = hint->data + BKV_HINT_HEADER + (lab_random(&seed) % 2) * BKV_HINT_ENTRY;
        uint64_t noise = lab_random(&seed);
        unsigned field = (unsigned)(lab_random(&seed) % 2) * 8;
        bkv_put64(entry + field,
                  round % 2 != 0 ? noise : bkv_get64(entry + field) ^ (1ull << (noise % 64)));
        if (round % 7 == 0)
            bkv_put64(hint->data + 64, noise); /* last sequence */
        seal_hint(hint);
        survive(&image);
        lab_image_free(&image);
    }
}

/* --- checkpoints ------------------------------------------------------------------------- */

static void checkpoints_with_any_field_changed(void **state)
{
    (void)state;
    uint64_t seed = lab_seed();
    struct lab_image closed;
    make(&closed);
    bitkv *db;
    lab_image_write(&closed, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){0}), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&closed);
    lab_image_read(&closed, path, SIZE_MAX / 2);
    for (unsigned round = 0; round < 600; round++) {
        struct lab_image image;
        lab_image_copy(&image, &closed);
        struct lab_file *ckp = lab_image_find(&image, "partition_0/keydir.ckp");
        uint64_t table = bkv_get64(ckp->data + 88);
        uint64_t noise = lab_random(&seed);
        size_t at;
        switch (round % 3) {
        case 0: /* header */
            at = 32 + (lab_random(&seed) % 19) * 4;
            break;
        case 1: /* table */
            at = table + (lab_random(&seed) % ((ckp->size - table) / 4)) * 4;
            break;
        default: /* groups: counts, or a slot in use */
            at = BKV_CHECKPOINT_HEADER + (lab_random(&seed) % 2) * 4;
            if (round % 2 == 0) {
                at = BKV_CHECKPOINT_HEADER + 8 + (lab_random(&seed) % ((table - 200) / 8)) * 8;
                while (at + 8 < table && bkv_get64(ckp->data + at) == 0)
                    at += 8;
            }
            break;
        }
        switch (noise % 4) {
        case 0:
            bkv_put32(ckp->data + at, (uint32_t)(noise >> 32));
            break;
        case 1:
            bkv_put32(ckp->data + at, UINT32_MAX);
            break;
        case 2:
            bkv_put32(ckp->data + at, bkv_get32(ckp->data + at) + 1);
            break;
        default:
            ckp->data[at + noise % 3] ^= (uint8_t)(1u << (noise >> 8) % 8);
            break;
        }
        uint64_t end = bkv_get64(ckp->data + 88);
        if (end < BKV_CHECKPOINT_HEADER || end > ckp->size)
            end = table;
        bkv_put32(ckp->data + 104,
                  bkv_crc32c(0, ckp->data + BKV_CHECKPOINT_HEADER, end - BKV_CHECKPOINT_HEADER));
        uint32_t crc = bkv_crc32c(0, ckp->data, 108);
        bkv_put32(ckp->data + 108, bkv_crc32c(crc, ckp->data + end, ckp->size - end));
        survive(&image);
        lab_image_free(&image);
    }
    lab_image_free(&closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_that_claim_the_largest_sizes),
        cmocka_unit_test(marks_that_point_beyond_everything),
        cmocka_unit_test(sequence_numbers_at_the_end_of_their_range),
        cmocka_unit_test(ids_at_the_end_of_their_range),
        cmocka_unit_test(hint_entries_that_point_anywhere),
        cmocka_unit_test(checkpoints_with_any_field_changed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
