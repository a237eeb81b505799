/* SPDX-License-Identifier: MIT */
/* What a key's existence is told by, the head of its record, has rotted: that is damage,
 * and neither presence nor absence. And what is asked for without memory. */
#include "api/fixture.h"

#include "base/memory.h"
#include "log/record.h"

#include <stdatomic.h>

/* The second ends where its key does: with a deadline it would have no room. */
static const struct {
    const char *key, *value;
} records[] = {{"a key of some length", "value"}, {"twelve bytes", ""}};
#define KEY   records[which].key
#define VALUE records[which].value
static size_t which;

static const bitkv_io_mode modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};

static void make(bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    bitkv *db = open_with(&o);
    put_text(db, "before", "1");
    put_text(db, KEY, VALUE);
    put_text(db, "behind", "2");
    ok(bitkv_close(db));
}

/* Where the record is; its checkpoint and the closing have made sure that an opening
 * takes the KeyDir as it is, and reads no record. */
static off_t place_of(int fd, size_t *size)
{
    static uint8_t bytes[1 << 16];
    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    assert_true(got > 0);
    uint8_t *key = memmem(bytes, (size_t)got, KEY, strlen(KEY));
    assert_non_null(key);
    *size = BKV_RECORD_HEADER + strlen(KEY);
    return key - bytes - (off_t)BKV_RECORD_HEADER;
}

static void a_damaged_head_is_neither_presence_nor_absence(void **state)
{
    (void)state;
    char name[PATH_SIZE];
    for (size_t m = 0; m < 4; m++) {
        size_t size = 1;
        which = m / 2;
        for (size_t i = 0; i < size; i++) {
            uint8_t byte;
            make(modes[m % 2]);
            int fd = open(inside(name, path, "partition_0/data_1.db"), O_RDWR | O_CLOEXEC);
            assert_true(fd >= 0);
            off_t at = place_of(fd, &size) + (off_t)i;
            assert_int_equal(pread(fd, &byte, 1, at), 1);
            byte ^= 1;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
            (void)close(fd);
            bitkv_options o = one_partition(modes[m % 2]);
            o.read_only = true;
            bitkv *db = open_with(&o);
            int rc = bitkv_exists(db, KEY, strlen(KEY));
            bitkv_statistics s = statistics_of(db);
            assert_int_equal(s.recovery.log_records, 0); /* or it would have been skipped */
            if (i >= BKV_RECORD_HEADER)
                fails(BITKV_ERR_CORRUPT, rc);
            else /* existence is not told by checksum and sequence number */
                assert_true(rc == BITKV_ERR_CORRUPT || rc == BITKV_OK);
            ok(bitkv_exists(db, "before", 6));
            ok(bitkv_exists(db, "behind", 6));
            ok(bitkv_close(db));
            remove_tree(path);
        }
    }
}

static _Atomic bool no_memory;

static bool allows(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&no_memory);
}

static int count_segment(void *user, const bitkv_segment_info *info)
{
    (void)info;
    ++*(unsigned *)user;
    return 0;
}

static void a_list_of_segments_without_memory_is_an_error(void **state)
{
    (void)state;
    unsigned count = 0;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    bitkv *db = open_with(&o);
    put_text(db, "k", "v");
    bkv_alloc_set_hook(allows, NULL);
    atomic_store(&no_memory, true);
    fails(BITKV_ERR_NO_MEMORY, bitkv_segments(db, 0, count_segment, &count));
    atomic_store(&no_memory, false);
    assert_int_equal(count, 0);
    ok(bitkv_segments(db, 0, count_segment, &count));
    assert_int_equal(count, 1);
    bkv_alloc_set_hook(NULL, NULL);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_damaged_head_is_neither_presence_nor_absence),
        TEST(a_list_of_segments_without_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
