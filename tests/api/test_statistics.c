/* SPDX-License-Identifier: MIT */
/* Each figure of bitkv_stats(), in scenarios small enough to count along. */
#include "api/fixture.h"

#include "log/format.h"
#include "log/record.h"

#include <pthread.h>

static uint64_t file_bytes(const char *name)
{
    char full[PATH_SIZE];
    struct stat status;
    return stat(inside(full, path, name), &status) == 0 ? (uint64_t)status.st_size : 0;
}

static uint64_t partition_bytes(void)
{
    char sub[PATH_SIZE];
    uint64_t sum = 0;
    DIR *dir = opendir(inside(sub, path, "partition_0"));
    assert_non_null(dir);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char name[300];
        (void)snprintf(name, sizeof name, "partition_0/%s", entry->d_name);
        if (entry->d_name[0] != '.')
            sum += file_bytes(name);
    }
    (void)closedir(dir);
    return sum;
}

static void a_fresh_database_is_all_zeros(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_PWRITE);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.struct_size, sizeof s);
    assert_int_equal(s.puts_total | s.gets_total | s.gets_miss_total | s.deletes_total, 0);
    assert_int_equal(s.compactions_total | s.syncs_total | s.checkpoints_total | s.errors_total, 0);
    assert_int_equal(s.bytes_written | s.keys | s.live_bytes | s.dead_bytes | s.disk_bytes, 0);
    assert_int_equal(s.segments | s.segments_open | s.unsynced_bytes, 0);
    assert_true(s.fragmentation == 0.0);
    assert_int_equal(s.partitions, 1);
    assert_int_equal(s.io_mode, BITKV_IO_PWRITE);
    assert_non_null(strstr(s.io_mode_reason, "io_mode"));
    assert_int_equal(s.writes_refused, 0);
    assert_int_equal(s.recovery.log_records | s.recovery.torn_tails, 0);
    ok(bitkv_close(db));
}

static void each_counter_and_gauge_tells_what_happened(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        static char value[1000];
        uint64_t record = bkv_record_size(1, sizeof value);
        uint64_t tombstone = bkv_record_size(1, 0);
        ok(bitkv_put(db, "a", 1, value, sizeof value));
        ok(bitkv_put(db, "b", 1, value, sizeof value));
        ok(bitkv_put(db, "a", 1, value, sizeof value));
        ok(bitkv_put(db, "c", 1, value, sizeof value));
        ok(bitkv_del(db, "b", 1));
        assert_int_equal(bitkv_del(db, "b", 1), BITKV_NOT_FOUND);
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.puts_total, 4);
        assert_int_equal(s.deletes_total, 1);
        assert_int_equal(s.keys, 2);
        assert_int_equal(s.live_bytes, 2 * record);
        assert_int_equal(s.dead_bytes, 2 * record + tombstone);
        assert_int_equal(s.bytes_written, 4 * record + tombstone);
        assert_int_equal(s.unsynced_bytes, 4 * record + tombstone);
        assert_true(s.fragmentation > 0.5 && s.fragmentation < 0.52);
        assert_int_equal(s.segments, 1);
        assert_int_equal(s.segments_open, 1);
        assert_int_equal(s.open_files, 3); /* the directory, the partition's, the segment */
        assert_true(s.keydir_bytes > 0);
        assert_true(s.disk_bytes >= 4 * record);
        assert_int_equal(s.syncs_total, 0);

        void *copy;
        bitkv_view view;
        char buffer[1000];
        ok(bitkv_get(db, "a", 1, &copy, NULL));
        bitkv_free(copy);
        ok(bitkv_get_view(db, "a", 1, &view));
        bitkv_view_release(&view);
        ok(bitkv_get_into(db, "a", 1, buffer, sizeof buffer, NULL));
        ok(bitkv_exists(db, "a", 1));
        fails(BITKV_ERR_BUFFER_TOO_SMALL, bitkv_get_into(db, "a", 1, buffer, 9, NULL));
        assert_int_equal(bitkv_exists(db, "x", 1), BITKV_NOT_FOUND);
        bitkv_get_item items[3] = {
            {.key = "a", .key_size = 1, .buffer = buffer, .buffer_size = 1000},
            {.key = "y", .key_size = 1},
            {.key = NULL}};
        (void)bitkv_multi_get(db, items, 3);
        s = statistics_of(db);
        assert_int_equal(s.gets_total, 8);
        assert_int_equal(s.gets_miss_total, 2);
        assert_int_equal(s.errors_total, 0);

        ok(bitkv_sync(db));
        s = statistics_of(db);
        assert_int_equal(s.syncs_total, 1);
        assert_int_equal(s.unsynced_bytes, 0);
        ok(bitkv_sync(db)); /* nothing to do */
        assert_int_equal(statistics_of(db).syncs_total, 1);
        ok(bitkv_put_with(db, "d", 1, "v", 1, BITKV_DURABILITY_SYNC));
        assert_int_equal(statistics_of(db).syncs_total, 2);
        ok(bitkv_close(db));
    }
}

#define READERS 40u /* more than have a counter of their own */
#define GETS    500u

static pthread_barrier_t all_there; /* a thread that has ended leaves its counter to the next */

static void *get_some(void *user)
{
    bitkv *db = user;
    (void)bitkv_exists(db, "k", 1);
    (void)pthread_barrier_wait(&all_there);
    for (unsigned i = 0; i < GETS; i++) {
        char value[8];
        size_t size;
        if (bitkv_get_into(db, "k", 1, value, sizeof value, &size) != BITKV_OK ||
            bitkv_exists(db, "absent", 6) != BITKV_NOT_FOUND)
            return db;
    }
    return NULL;
}

static void no_get_is_left_out_however_many_threads_there_are(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_text(db, "k", "v");
    pthread_t threads[READERS];
    assert_int_equal(pthread_barrier_init(&all_there, NULL, READERS), 0);
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, get_some, db), 0);
    for (unsigned i = 0; i < READERS; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    bitkv_statistics s = statistics_of(db);
    (void)pthread_barrier_destroy(&all_there);
    assert_int_equal(s.gets_total, 2 * READERS * GETS + READERS);
    assert_int_equal(s.gets_miss_total, READERS * GETS);
    ok(bitkv_close(db));
}

static void the_log_has_its_marks_counted_as_dead(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    ok(bitkv_put_with(db, "k", 1, "v", 1, BITKV_DURABILITY_SYNC));
    bitkv_statistics s = statistics_of(db);
    uint64_t mark = bkv_record_size(0, BKV_MARK_SIZE);
    assert_int_equal(s.live_bytes, bkv_record_size(1, 1));
    assert_int_equal(s.dead_bytes, mark);
    assert_int_equal(s.bytes_written, s.live_bytes + s.dead_bytes);
    ok(bitkv_close(db));
}

static void segments_and_disk_bytes_are_those_of_the_directory(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        bitkv *db = open_with(&o);
        static char value[20000];
        for (uint32_t i = 0; i < 31; i++)
            ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
        static char jumbo[100000];
        ok(bitkv_put(db, "jumbo", 5, jumbo, sizeof jumbo));
        put_text(db, "k", "v");
        assert_int_equal(statistics_of(db).segments, 13);
        ok(bitkv_close(db));
        for (int pass = 0; pass < 2; pass++) {
            char name[PATH_SIZE];
            inside(name, path, "partition_0");
            o.read_only = pass == 1;
            db = open_with(&o);
            for (unsigned i = 0; i < 200 && count_names(name, "hint_", ".ht") < 12; i++)
                sleep_ms(5);
            sleep_ms(20);
            bitkv_statistics s = statistics_of(db);
            assert_int_equal(s.segments, 13);
            assert_int_equal(count_names(name, "data_", ".db"), 13);
            assert_int_equal(s.keys, 33);
            if (pass == 1) /* in the other, space is reserved ahead of the tail */
                assert_int_equal(s.disk_bytes, partition_bytes());
            ok(bitkv_close(db));
        }
    }
}

static void a_reopening_tells_what_it_took_from_where(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    bitkv *db = open_with(&o);
    static char value[20000];
    for (uint32_t i = 0; i < 10; i++)
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    ok(bitkv_close(db));
    db = open_with(&o);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.recovery.checkpoint_keys, 10);
    assert_int_equal(s.recovery.log_records, 0);
    assert_int_equal(s.recovery.hint_records, 0);
    assert_true(s.recovery.duration_ns > 0);
    assert_int_equal(s.puts_total, 0);
    assert_int_equal(s.bytes_written, 0);
    ok(bitkv_close(db));
    char name[PATH_SIZE];
    assert_int_equal(unlink(inside(name, path, "partition_0/keydir.ckp")), 0);
    db = open_with(&o);
    s = statistics_of(db);
    assert_int_equal(s.recovery.checkpoint_keys, 0);
    assert_int_equal(s.recovery.hint_records, 9);
    assert_true(s.recovery.log_records >= 2); /* and marks behind it */
    assert_int_equal(s.recovery.log_bytes,
                     bkv_record_size(4, sizeof value) +
                         (s.recovery.log_records - 1) * bkv_record_size(0, BKV_MARK_SIZE));
    ok(bitkv_close(db));

    remove_tree(path);
    die_with_keys(&o, 3, 100);
    inside(name, path, "partition_0/data_1.db");
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    uint64_t end = BKV_SEGMENT_HEADER + 3 * bkv_record_size(4, 100);
    assert_int_equal(pwrite(fd, "torn", 4, (off_t)end + 8), 4);
    (void)close(fd);
    inside(name, path, "partition_0/keydir.ckp.tmp");
    (void)close(open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    o.strict_recovery = true; /* a torn tail is no damage */
    db = open_with(&o);
    s = statistics_of(db);
    assert_int_equal(s.keys, 3);
    assert_int_equal(s.recovery.log_records, 3);
    assert_int_equal(s.recovery.torn_tails, 1);
    assert_in_range(s.recovery.torn_tail_bytes, 4, 64);
    assert_int_equal(s.recovery.damaged_regions, 0);
    assert_int_equal(s.recovery.removed_files, 1);
    ok(bitkv_close(db));
    db = open_with(&o);
    assert_int_equal(statistics_of(db).recovery.torn_tails, 0);
    ok(bitkv_close(db));
}

static void the_partitions_add_up_to_the_whole(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.partitions = 4;
    bitkv *db = open_with(&o);
    static char value[1000];
    for (uint32_t i = 0; i < 400; i++) {
        ok(bitkv_put(db, &i, sizeof i, value, i));
        (void)bitkv_exists(db, &i, i % 3 + 1);
    }
    ok(bitkv_sync(db));
    sleep_ms(50); /* for the workers to become quiet */
    bitkv_statistics all = statistics_of(db);
    bitkv_statistics sum = {0};
    for (uint32_t i = 0; i < 4; i++) {
        bitkv_statistics one;
        bitkv_statistics_init(&one);
        ok(bitkv_stats(db, i, &one));
        assert_int_equal(one.partitions, 1);
        assert_true(one.keys > 50 && one.keys < 150); /* keys are spread */
#define ADD(field) sum.field += one.field
        ADD(puts_total), ADD(gets_total), ADD(gets_miss_total), ADD(deletes_total);
        ADD(syncs_total), ADD(checkpoints_total), ADD(errors_total), ADD(bytes_written);
        ADD(keys), ADD(live_bytes), ADD(dead_bytes), ADD(disk_bytes), ADD(segments);
        ADD(segments_open), ADD(keydir_bytes), ADD(unsynced_bytes);
    }
#define SAME(field) assert_int_equal(sum.field, all.field)
    SAME(puts_total), SAME(gets_total), SAME(gets_miss_total), SAME(deletes_total);
    SAME(syncs_total), SAME(checkpoints_total), SAME(errors_total), SAME(bytes_written);
    SAME(keys), SAME(live_bytes), SAME(dead_bytes), SAME(disk_bytes), SAME(segments);
    SAME(segments_open), SAME(keydir_bytes), SAME(unsynced_bytes);
    assert_int_equal(all.keys, 400);
    bitkv_statistics none;
    bitkv_statistics_init(&none);
    fails(BITKV_ERR_INVALID, bitkv_stats(db, 4, &none));
    context_has("4");
    none.struct_size = 0;
    fails(BITKV_ERR_INVALID, bitkv_stats(db, 0, &none));
    context_has("bitkv_statistics_init");
    ok(bitkv_close(db));
}

static void a_shorter_structure_is_filled_as_far_as_it_goes(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    bitkv_statistics s;
    memset(&s, 0xee, sizeof s);
    s.struct_size = offsetof(bitkv_statistics, live_bytes);
    ok(bitkv_stats(db, 0, &s));
    assert_int_equal(s.struct_size, offsetof(bitkv_statistics, live_bytes));
    assert_int_equal(s.keys, 1);
    assert_int_equal(s.live_bytes, 0xeeeeeeeeeeeeeeeeu);
    ok(bitkv_close(db));
}

static void checkpoints_are_written_as_often_as_the_option_says(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.checkpoint_interval_bytes = 100000;
    bitkv *db = open_with(&o);
    static char value[10000];
    for (uint32_t i = 0; i < 60; i++) {
        ok(bitkv_put_with(db, &i, sizeof i, value, sizeof value, BITKV_DURABILITY_INTERVAL));
        sleep_ms(3);
    }
    bitkv_statistics s = statistics_of(db);
    /* The worker may be behind, on a busy machine. */
    for (int i = 0; i < 500 && s.checkpoints_total < 2; i++) {
        ok(bitkv_put(db, "k", 1, value, sizeof value));
        sleep_ms(10);
        s = statistics_of(db);
    }
    assert_in_range(s.checkpoints_total, 2, 7);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_fresh_database_is_all_zeros),
        TEST(each_counter_and_gauge_tells_what_happened),
        TEST(no_get_is_left_out_however_many_threads_there_are),
        TEST(the_log_has_its_marks_counted_as_dead),
        TEST(segments_and_disk_bytes_are_those_of_the_directory),
        TEST(a_reopening_tells_what_it_took_from_where),
        TEST(the_partitions_add_up_to_the_whole),
        TEST(a_shorter_structure_is_filled_as_far_as_it_goes),
        TEST(checkpoints_are_written_as_often_as_the_option_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
