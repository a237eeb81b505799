/* SPDX-License-Identifier: MIT */
/* What recovery says of logs that are far from what a writer leaves. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define M (&lab_manifest_1)

static void a_segment_of_another_version_is_refused(void **state)
{
    (void)state;
    char path[LAB_PATH];
    struct lab_image image = {.count = 0};
    struct lab_log log;
    bitkv *db;
    lab_path(path, "edges");
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    (void)lab_log_put(&log, 1, "a", "1");
    bkv_put32(log.data + 8, BKV_FORMAT_VERSION + 1);
    bkv_put32(log.data + 60, bkv_crc32c(0, log.data, 60));
    lab_log_end(&log, &image);
    lab_image_write(&image, path);
    for (unsigned read_only = 0; read_only < 2; read_only++) {
        assert_int_equal(lab_open(&db, path, (struct lab_open){.read_only = read_only != 0}),
                         BITKV_ERR_FORMAT);
        assert_non_null(strstr(bitkv_error_context(), "data_1.db"));
    }
    lab_image_free(&image);
    lab_remove(path);
}

/* All of it is counted, and some of it told. */
static void a_log_full_of_holes_does_not_flood_the_log_of_messages(void **state)
{
    (void)state;
    enum { HOLES = 300 };
    char path[LAB_PATH], key[16];
    struct lab_image image = {.count = 0};
    struct lab_log log;
    struct lab_log_lines lines = {0};
    bitkv *db;
    lab_path(path, "edges");
    lab_add_manifest(&image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    for (unsigned n = 1; n <= 2 * HOLES; n++) {
        (void)snprintf(key, sizeof key, "k%u", n);
        size_t at = lab_log_put(&log, n, key, "1");
        log.data[at + 22] ^= n % 2 != 0;
    }
    (void)lab_log_mark(&log, 2 * HOLES + 1, 1, log.size);
    lab_log_end(&log, &image);
    lab_image_write(&image, path);
    assert_int_equal(lab_open(&db, path, (struct lab_open){.lines = &lines}), BITKV_OK);
    assert_int_equal(lab_recovery(db).damaged_regions, HOLES);
    assert_in_range(lines.warnings, 100, 110);
    lab_expect(db, "k600", "1");
    assert_int_equal(bitkv_close(db), BITKV_OK);
    lab_image_free(&image);
    lab_remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_segment_of_another_version_is_refused),
        cmocka_unit_test(a_log_full_of_holes_does_not_flood_the_log_of_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
