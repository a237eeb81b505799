/* SPDX-License-Identifier: MIT */
/*
 * The binary interface, as programs that are already compiled rely on it:
 * sizes and offsets of the public structures, values of the enumerators, and
 * structures of an older, shorter header. Linked to the shared library.
 *
 * A number here changes with the soname only. A structure that grows at its
 * end, by using up `reserved` or beyond it, adds lines and keeps the others.
 */
#include <bitkv.h>

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), "the size of " #type " changed")
#define OFFSET(type, field, offset)                                                                \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define VALUE(name, value) _Static_assert((int)(name) == (value), "the value of " #name " changed")

/* x86-64, aarch64, riscv64: eight-byte pointers, aligned as wide as they are. */
#if defined(__LP64__)

SIZE(bitkv_error, 4);
SIZE(bitkv_durability, 4);
SIZE(bitkv_io_mode, 4);
SIZE(bitkv_log_level, 4);
SIZE(bitkv_scan_flags, 4);
SIZE(bitkv_backend, 4);
SIZE(bitkv_op_kind, 4);
SIZE(bitkv_op_flags, 4);
SIZE(bitkv_condition, 4);
SIZE(bitkv_change_kind, 4);
SIZE(bitkv_update_action, 4);

SIZE(bitkv_options, 168);
OFFSET(bitkv_options, struct_size, 0);
OFFSET(bitkv_options, partitions, 8);
OFFSET(bitkv_options, create_if_missing, 12);
OFFSET(bitkv_options, error_if_exists, 13);
OFFSET(bitkv_options, read_only, 14);
OFFSET(bitkv_options, strict_recovery, 15);
OFFSET(bitkv_options, sync_on_write, 16);
OFFSET(bitkv_options, durability, 20);
OFFSET(bitkv_options, sync_interval_ms, 24);
OFFSET(bitkv_options, max_file_size, 32);
OFFSET(bitkv_options, file_mode, 40);
OFFSET(bitkv_options, directory_mode, 44);
OFFSET(bitkv_options, auto_compact, 48);
OFFSET(bitkv_options, fragmentation_threshold, 56);
OFFSET(bitkv_options, io_mode, 64);
OFFSET(bitkv_options, max_open_segments, 68);
OFFSET(bitkv_options, ring_depth, 72);
OFFSET(bitkv_options, checkpoint_interval_bytes, 80);
OFFSET(bitkv_options, log, 88);
OFFSET(bitkv_options, log_user, 96);
OFFSET(bitkv_options, backend, 104);
OFFSET(bitkv_options, io_threads, 108);
OFFSET(bitkv_options, compact_bytes_per_second, 112);
OFFSET(bitkv_options, compact_from_minute, 120);
OFFSET(bitkv_options, compact_until_minute, 124);
OFFSET(bitkv_options, default_ttl_ms, 128);
OFFSET(bitkv_options, feed_retention_bytes, 136);
OFFSET(bitkv_options, reserved, 144);

SIZE(bitkv_backup_report, 80);
OFFSET(bitkv_backup_report, files_linked, 0);
OFFSET(bitkv_backup_report, files_copied, 8);
OFFSET(bitkv_backup_report, bytes_linked, 16);
OFFSET(bitkv_backup_report, bytes_copied, 24);
OFFSET(bitkv_backup_report, damaged_bytes, 32);
OFFSET(bitkv_backup_report, duration_ns, 40);

SIZE(bitkv_backup_options, 72);
OFFSET(bitkv_backup_options, struct_size, 0);
OFFSET(bitkv_backup_options, no_links, 8);
OFFSET(bitkv_backup_options, verify, 9);
OFFSET(bitkv_backup_options, accept_damage, 10);
OFFSET(bitkv_backup_options, progress, 16);
OFFSET(bitkv_backup_options, user, 24);
OFFSET(bitkv_backup_options, report, 32);

SIZE(bitkv_repartition_options, 72);
OFFSET(bitkv_repartition_options, struct_size, 0);
OFFSET(bitkv_repartition_options, max_file_size, 8);
OFFSET(bitkv_repartition_options, io_mode, 16);
OFFSET(bitkv_repartition_options, progress, 24);
OFFSET(bitkv_repartition_options, user, 32);

SIZE(bitkv_segment_info, 56);
OFFSET(bitkv_segment_info, partition, 0);
OFFSET(bitkv_segment_info, phase, 4);
OFFSET(bitkv_segment_info, id, 8);
OFFSET(bitkv_segment_info, bytes, 16);
OFFSET(bitkv_segment_info, live_bytes, 24);
OFFSET(bitkv_segment_info, dead_bytes, 32);
OFFSET(bitkv_segment_info, disk_bytes, 40);
OFFSET(bitkv_segment_info, hint_bytes, 48);

VALUE(BITKV_SEGMENT_ACTIVE, 0);
VALUE(BITKV_SEGMENT_SEALED, 1);
VALUE(BITKV_SEGMENT_FINISHED, 2);

SIZE(bitkv_view, 24);
OFFSET(bitkv_view, data, 0);
OFFSET(bitkv_view, size, 8);
OFFSET(bitkv_view, pin, 16);

SIZE(bitkv_get_item, 56);
OFFSET(bitkv_get_item, key, 0);
OFFSET(bitkv_get_item, key_size, 8);
OFFSET(bitkv_get_item, buffer, 16);
OFFSET(bitkv_get_item, buffer_size, 24);
OFFSET(bitkv_get_item, value, 32);
OFFSET(bitkv_get_item, value_size, 40);
OFFSET(bitkv_get_item, status, 48);

SIZE(bitkv_record, 56);
OFFSET(bitkv_record, key, 0);
OFFSET(bitkv_record, key_size, 8);
OFFSET(bitkv_record, value, 16);
OFFSET(bitkv_record, value_size, 24);
OFFSET(bitkv_record, sequence, 32);
OFFSET(bitkv_record, partition, 40);
OFFSET(bitkv_record, deadline_ms, 48);

SIZE(bitkv_iterator_options, 72);
OFFSET(bitkv_iterator_options, struct_size, 0);
OFFSET(bitkv_iterator_options, flags, 8);
OFFSET(bitkv_iterator_options, share, 12);
OFFSET(bitkv_iterator_options, shares, 16);
OFFSET(bitkv_iterator_options, partition, 20);
OFFSET(bitkv_iterator_options, prefix, 24);
OFFSET(bitkv_iterator_options, prefix_size, 32);
OFFSET(bitkv_iterator_options, reserved, 40);

SIZE(bitkv_recovery, 96);
OFFSET(bitkv_recovery, duration_ns, 0);
OFFSET(bitkv_recovery, checkpoint_keys, 8);
OFFSET(bitkv_recovery, hint_records, 16);
OFFSET(bitkv_recovery, log_records, 24);
OFFSET(bitkv_recovery, log_bytes, 32);
OFFSET(bitkv_recovery, torn_tails, 40);
OFFSET(bitkv_recovery, torn_tail_bytes, 48);
OFFSET(bitkv_recovery, damaged_regions, 56);
OFFSET(bitkv_recovery, damaged_bytes, 64);
OFFSET(bitkv_recovery, rejected_hints, 72);
OFFSET(bitkv_recovery, rejected_checkpoints, 80);
OFFSET(bitkv_recovery, removed_files, 88);

SIZE(bitkv_statistics, 432);
OFFSET(bitkv_statistics, struct_size, 0);
OFFSET(bitkv_statistics, puts_total, 8);
OFFSET(bitkv_statistics, gets_total, 16);
OFFSET(bitkv_statistics, gets_miss_total, 24);
OFFSET(bitkv_statistics, deletes_total, 32);
OFFSET(bitkv_statistics, compactions_total, 40);
OFFSET(bitkv_statistics, syncs_total, 48);
OFFSET(bitkv_statistics, checkpoints_total, 56);
OFFSET(bitkv_statistics, errors_total, 64);
OFFSET(bitkv_statistics, bytes_written, 72);
OFFSET(bitkv_statistics, keys, 80);
OFFSET(bitkv_statistics, live_bytes, 88);
OFFSET(bitkv_statistics, dead_bytes, 96);
OFFSET(bitkv_statistics, disk_bytes, 104);
OFFSET(bitkv_statistics, segments, 112);
OFFSET(bitkv_statistics, segments_open, 120);
OFFSET(bitkv_statistics, open_files, 128);
OFFSET(bitkv_statistics, keydir_bytes, 136);
OFFSET(bitkv_statistics, unsynced_bytes, 144);
OFFSET(bitkv_statistics, fragmentation, 152);
OFFSET(bitkv_statistics, recovery, 160);
OFFSET(bitkv_statistics, partitions, 256);
OFFSET(bitkv_statistics, io_mode, 260);
OFFSET(bitkv_statistics, io_mode_reason, 264);
OFFSET(bitkv_statistics, writes_refused, 360);
OFFSET(bitkv_statistics, backend, 364);
OFFSET(bitkv_statistics, backend_reason, 368);
OFFSET(bitkv_statistics, compaction_bytes_read, 376);
OFFSET(bitkv_statistics, compaction_bytes_written, 384);
OFFSET(bitkv_statistics, expired_total, 392);
OFFSET(bitkv_statistics, reserved, 400);

SIZE(bitkv_put_options, 64);
OFFSET(bitkv_put_options, struct_size, 0);
OFFSET(bitkv_put_options, durability, 8);
OFFSET(bitkv_put_options, condition, 12);
OFFSET(bitkv_put_options, ttl_ms, 16);
OFFSET(bitkv_put_options, version, 24);
OFFSET(bitkv_put_options, reserved, 32);

SIZE(bitkv_key_info, 40);
OFFSET(bitkv_key_info, struct_size, 0);
OFFSET(bitkv_key_info, version, 8);
OFFSET(bitkv_key_info, value_size, 16);
OFFSET(bitkv_key_info, remaining_ms, 24);
OFFSET(bitkv_key_info, deadline_ms, 32);

SIZE(bitkv_change, 56);
OFFSET(bitkv_change, kind, 0);
OFFSET(bitkv_change, partition, 4);
OFFSET(bitkv_change, key, 8);
OFFSET(bitkv_change, key_size, 16);
OFFSET(bitkv_change, value, 24);
OFFSET(bitkv_change, value_size, 32);
OFFSET(bitkv_change, version, 40);
OFFSET(bitkv_change, deadline_ms, 48);

/* The library's own: may grow at its end. */
OFFSET(bitkv_update_step, present, 0);
OFFSET(bitkv_update_step, value, 8);
OFFSET(bitkv_update_step, value_size, 16);
OFFSET(bitkv_update_step, version, 24);
OFFSET(bitkv_update_step, remaining_ms, 32);
OFFSET(bitkv_update_step, attempt, 40);
OFFSET(bitkv_update_step, new_value, 48);
OFFSET(bitkv_update_step, new_value_size, 56);
OFFSET(bitkv_update_step, new_ttl_ms, 64);

#endif /* __LP64__ */

VALUE(BITKV_OK, 0);
VALUE(BITKV_NOT_FOUND, 1);
VALUE(BITKV_ERR_INVALID, -1);
VALUE(BITKV_ERR_NO_MEMORY, -2);
VALUE(BITKV_ERR_IO, -3);
VALUE(BITKV_ERR_NO_SPACE, -4);
VALUE(BITKV_ERR_CORRUPT, -5);
VALUE(BITKV_ERR_LOCKED, -6);
VALUE(BITKV_ERR_READ_ONLY, -7);
VALUE(BITKV_ERR_PARTITION_COUNT, -8);
VALUE(BITKV_ERR_NO_DATABASE, -9);
VALUE(BITKV_ERR_FORMAT, -10);
VALUE(BITKV_ERR_SYNC_FAILED, -11);
VALUE(BITKV_ERR_BUFFER_TOO_SMALL, -12);
VALUE(BITKV_ERR_FORKED, -13);
VALUE(BITKV_ERR_CLOSED, -14);
VALUE(BITKV_ERR_TOO_MANY_FILES, -15);
VALUE(BITKV_ERR_PERMISSION, -16);
VALUE(BITKV_ERR_LIMIT, -17);
VALUE(BITKV_ERR_EXISTS, -18);
VALUE(BITKV_ERR_CANCELED, -19);
VALUE(BITKV_ERR_QUEUE_FULL, -20);
VALUE(BITKV_ERR_CONFLICT, -21);
VALUE(BITKV_ERR_STALE, -22);
VALUE(BITKV_ERR_BEHIND, -23);

VALUE(BITKV_CHANGE_PUT, 1);
VALUE(BITKV_CHANGE_DELETE, 2);

VALUE(BITKV_DURABILITY_DEFAULT, 0);
VALUE(BITKV_DURABILITY_NONE, 1);
VALUE(BITKV_DURABILITY_INTERVAL, 2);
VALUE(BITKV_DURABILITY_SYNC, 3);

VALUE(BITKV_IO_AUTO, 0);
VALUE(BITKV_IO_MMAP, 1);
VALUE(BITKV_IO_PWRITE, 2);

VALUE(BITKV_LOG_INFO, 0);
VALUE(BITKV_LOG_WARNING, 1);
VALUE(BITKV_LOG_ERROR, 2);

VALUE(BITKV_ALWAYS, 0);
VALUE(BITKV_IF_ABSENT, 1);
VALUE(BITKV_IF_PRESENT, 2);
VALUE(BITKV_IF_VERSION, 3);

VALUE(BITKV_UPDATE_LEAVE, 0);
VALUE(BITKV_UPDATE_PUT, 1);
VALUE(BITKV_UPDATE_DELETE, 2);

VALUE(BITKV_SCAN_ALL, 0);
VALUE(BITKV_SCAN_KEYS, 1);

_Static_assert(BITKV_ALL_PARTITIONS == UINT32_MAX, "BITKV_ALL_PARTITIONS changed");
_Static_assert(BITKV_KEY_SIZE_MAX == 65535u, "BITKV_KEY_SIZE_MAX changed");
_Static_assert(BITKV_VALUE_SIZE_MAX == 1u << 30, "BITKV_VALUE_SIZE_MAX changed");
_Static_assert(BITKV_PARTITIONS_MAX == 1024u, "BITKV_PARTITIONS_MAX changed");
_Static_assert(BITKV_TTL_NONE == UINT64_MAX, "BITKV_TTL_NONE changed");
_Static_assert(BITKV_TTL_KEEP == UINT64_MAX - 1, "BITKV_TTL_KEEP changed");
_Static_assert(BITKV_TTL_MAX == UINT64_C(1) << 62, "BITKV_TTL_MAX changed");

/* ------------------------------------------------------------------ */

static char directory[PATH_MAX];

static int make_directory(void **state)
{
    (void)state;
    const char *scratch = getenv("TMPDIR");
    (void)snprintf(directory, sizeof directory, "%s/bitkv-abi-XXXXXX",
                   scratch != NULL ? scratch : "/tmp");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    char command[PATH_MAX + 16];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

/* The heap block ends where the old structure did, so that a sanitizer sees
 * the library read or write beyond it. */
static void *shorter(size_t size)
{
    void *memory = malloc(size);
    assert_non_null(memory);
    memset(memory, 0xa5, size);
    return memory;
}

static void the_library_that_runs_is_the_one_of_the_header(void **state)
{
    (void)state;
    char version[32];
    (void)snprintf(version, sizeof version, "%d.%d.%d", BITKV_VERSION_MAJOR, BITKV_VERSION_MINOR,
                   BITKV_VERSION_PATCH);
    assert_string_equal(bitkv_version(), version);
}

static void shorter_options_are_filled_and_taken(void **state)
{
    (void)state;
    const size_t lengths[] = {
        offsetof(bitkv_options, create_if_missing), offsetof(bitkv_options, max_file_size),
        offsetof(bitkv_options, fragmentation_threshold), offsetof(bitkv_options, reserved)};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bitkv_options *options = shorter(lengths[i]);
        bitkv_options_init_sized(options, lengths[i]);
        assert_int_equal(options->struct_size, lengths[i]);
        options->partitions = 2;
        bitkv *db = NULL;
        assert_int_equal(bitkv_open(&db, directory, options), BITKV_OK);
        free(options);
        assert_int_equal(bitkv_put(db, "k", 1, "v", 1), BITKV_OK);
        bitkv_statistics statistics;
        bitkv_statistics_init(&statistics);
        assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_OK);
        assert_int_equal(statistics.partitions, 2);
        assert_int_equal(bitkv_close(db), BITKV_OK);
    }
}

static void shorter_statistics_are_filled_as_far_as_they_go(void **state)
{
    (void)state;
    bitkv *db = NULL;
    assert_int_equal(bitkv_open(&db, directory, NULL), BITKV_OK);
    assert_int_equal(bitkv_put(db, "k", 1, "v", 1), BITKV_OK);
    const size_t lengths[] = {
        offsetof(bitkv_statistics, gets_total), offsetof(bitkv_statistics, recovery),
        offsetof(bitkv_statistics, io_mode), offsetof(bitkv_statistics, reserved)};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bitkv_statistics *statistics = shorter(lengths[i]);
        statistics->struct_size = lengths[i];
        assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, statistics), BITKV_OK);
        assert_int_equal(statistics->struct_size, lengths[i]);
        assert_int_equal(statistics->puts_total, 1);
        free(statistics);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void shorter_key_infos_and_put_options_are_taken(void **state)
{
    (void)state;
    bitkv *db = NULL;
    assert_int_equal(bitkv_open(&db, directory, NULL), BITKV_OK);
    uint64_t version = 0;
    const size_t sizes[] = {offsetof(bitkv_put_options, reserved), sizeof(bitkv_put_options)};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bitkv_put_options *options = shorter(sizes[i]);
        bitkv_put_options_init_sized(options, sizes[i]);
        assert_int_equal(options->struct_size, sizes[i]);
        assert_int_equal(options->ttl_ms, 0);
        assert_int_equal(bitkv_put_if(db, "k", 1, "v", 1, options, &version), BITKV_OK);
        free(options);
    }
    const size_t lengths[] = {offsetof(bitkv_key_info, value_size),
                              offsetof(bitkv_key_info, deadline_ms)};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bitkv_key_info *info = shorter(lengths[i]);
        info->struct_size = lengths[i];
        assert_int_equal(bitkv_info(db, "k", 1, info), BITKV_OK);
        assert_int_equal(info->struct_size, lengths[i]);
        assert_int_equal(info->version, version);
        free(info);
    }
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void structures_without_a_size_are_refused(void **state)
{
    (void)state;
    bitkv_options options;
    memset(&options, 0, sizeof options);
    bitkv *db = (bitkv *)&options;
    assert_int_equal(bitkv_open(&db, directory, &options), BITKV_ERR_INVALID);
    assert_null(db);

    assert_int_equal(bitkv_open(&db, directory, NULL), BITKV_OK);
    bitkv_statistics statistics;
    memset(&statistics, 0, sizeof statistics);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_ERR_INVALID);
    bitkv_put_options put_options;
    memset(&put_options, 0, sizeof put_options);
    assert_int_equal(bitkv_put_if(db, "k", 1, "v", 1, &put_options, NULL), BITKV_ERR_INVALID);
    bitkv_key_info info;
    memset(&info, 0, sizeof info);
    assert_int_equal(bitkv_info(db, "k", 1, &info), BITKV_ERR_INVALID);
    assert_int_equal(bitkv_info(db, "k", 1, NULL), BITKV_ERR_INVALID);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_library_that_runs_is_the_one_of_the_header),
        cmocka_unit_test_setup_teardown(shorter_options_are_filled_and_taken, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(shorter_statistics_are_filled_as_far_as_they_go,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(shorter_key_infos_and_put_options_are_taken, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(structures_without_a_size_are_refused, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
