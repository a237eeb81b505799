/* SPDX-License-Identifier: MIT */
/* What has expired gives back its space, and nothing older comes back for it. */
#include "api/fixture.h"

#include "base/clock.h"
#include "io/io.h"

#include <stdatomic.h>

#define COUNT 600u

static char bytes[400];

static void put_for(bitkv *db, uint32_t key, uint64_t ttl_ms)
{
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = ttl_ms;
    ok(bitkv_put_if(db, &key, sizeof key, bytes, sizeof bytes, &o, NULL));
}

static void expect_keys(bitkv *db, uint32_t first, uint32_t end, int code)
{
    for (uint32_t key = first; key < end; key++)
        expect_code(bitkv_exists(db, &key, sizeof key), code, "exists", __FILE__, __LINE__);
}

static bitkv *open_by_hand(void)
{
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.auto_compact = false;
    return open_with(&o);
}

static bitkv *reopen_without(bitkv *db, const char *name)
{
    char partition[PATH_SIZE];
    char file[PATH_SIZE];
    ok(bitkv_close(db));
    if (name != NULL)
        (void)unlink(inside(file, inside(partition, path, "partition_0"), name));
    return open_by_hand();
}

static void pass(uint64_t ms)
{
    bkv_clock_elapse(ms);
}

static void the_space_of_expired_keys_comes_back(void **state)
{
    (void)state;
    bitkv *db = open_by_hand();
    for (uint32_t key = 0; key < COUNT; key++)
        put_for(db, key, 60000);
    ok(bitkv_compact(db, 0, NULL, NULL));
    assert_true(statistics_of(db).live_bytes > COUNT * sizeof bytes);
    pass(60001);
    expect_keys(db, 0, COUNT, BITKV_NOT_FOUND);
    ok(bitkv_compact(db, 0, NULL, NULL));
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.keys, 0);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.expired_total, COUNT);
    assert_true(s.live_bytes + s.dead_bytes < 1000);
    ok(bitkv_close(db));
}

/* The expired value has replaced an older one, in an older file: what is left of
 * it has to say so for as long as that is there. */
static void an_older_value_does_not_come_back(void **state)
{
    (void)state;
    bitkv *db = open_by_hand();
    for (uint32_t key = 0; key < COUNT; key++)
        put_for(db, key, BITKV_TTL_NONE);
    for (uint32_t key = 0; key < COUNT; key += 2)
        put_for(db, key, 1000);
    ok(bitkv_close(db)); /* two times: the files of the first pass stay as they are */
    db = open_by_hand();
    pass(1001);
    ok(bitkv_compact(db, 0, NULL, NULL));
    for (unsigned round = 0; round < 3; round++) {
        for (uint32_t key = 0; key < COUNT; key++) {
            int wanted = key % 2 == 0 ? BITKV_NOT_FOUND : BITKV_OK;
            assert_int_equal(bitkv_exists(db, &key, sizeof key), wanted);
        }
        assert_int_equal(statistics_of(db).keys, COUNT / 2);
        db = reopen_without(db, round == 1 ? "keydir.ckp" : NULL);
    }
    ok(bitkv_close(db));
}

static void a_touched_key_stays_and_keeps_its_deadline_through_compaction(void **state)
{
    (void)state;
    bitkv *db = open_by_hand();
    for (uint32_t key = 0; key < COUNT; key++)
        put_for(db, key, 5000);
    for (uint32_t key = 0; key < 10; key++)
        ok(bitkv_touch(db, &key, sizeof key, 100000));
    pass(6000);
    ok(bitkv_compact(db, 0, NULL, NULL));
    db = reopen_without(db, "keydir.ckp");
    expect_keys(db, 0, 10, BITKV_OK);
    expect_keys(db, 10, COUNT, BITKV_NOT_FOUND);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    uint32_t key = 3;
    ok(bitkv_info(db, &key, sizeof key, &info));
    assert_true(info.remaining_ms > 80000 && info.remaining_ms <= 100000);
    pass(100000);
    expect_keys(db, 0, COUNT, BITKV_NOT_FOUND);
    ok(bitkv_compact(db, 0, NULL, NULL));
    assert_int_equal(statistics_of(db).keys, 0);
    ok(bitkv_close(db));
}

/* --- without reading what has expired as a whole --------------------------------- */

static struct bkv_io_ops ops;
static _Atomic uint64_t read_bytes;

static ssize_t counting_pread(int fd, void *data, size_t size, off_t offset)
{
    ssize_t n = bkv_io_kernel.pread(fd, data, size, offset);
    if (n > 0)
        atomic_fetch_add(&read_bytes, (uint64_t)n);
    return n;
}

static void a_file_that_has_expired_as_a_whole_is_not_read(void **state)
{
    (void)state;
    ops = bkv_io_kernel;
    ops.pread = counting_pread;
    bkv_io = &ops;
    bitkv *db = open_by_hand();
    uint32_t another = 0;
    while (statistics_of(db).segments < 6)
        put_for(db, another++, 1000);
    ok(bitkv_sync(db));
    struct timespec t = {.tv_nsec = 300000000};
    (void)nanosleep(&t, NULL); /* the worker makes its hints, and reads for that */
    pass(1001);
    atomic_store(&read_bytes, 0);
    ok(bitkv_compact(db, 0, NULL, NULL));
    assert_int_equal(statistics_of(db).keys, 0);
    /* hints, and the last file, which is sealed and hinted just now */
    assert_true(atomic_load(&read_bytes) < 160000);
    ok(bitkv_close(db));
    bkv_io = &bkv_io_kernel;
}

static void it_happens_by_itself_when_the_time_comes(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    bitkv *db = open_with(&o);
    for (uint32_t key = 0; key < COUNT; key++)
        put_for(db, key, 1500);
    uint64_t before = statistics_of(db).segments;
    assert_true(before > 3);
    struct timespec t = {.tv_nsec = 50000000};
    unsigned left = 200; /* ten seconds */
    while (statistics_of(db).expired_total == 0 && --left > 0)
        (void)nanosleep(&t, NULL);
    assert_true(left > 0);
    uint32_t last = COUNT - 1; /* on a busy machine put much later than the first */
    for (left = 200; bitkv_exists(db, &last, sizeof last) == BITKV_OK && --left > 0;)
        (void)nanosleep(&t, NULL);
    expect_keys(db, 0, COUNT, BITKV_NOT_FOUND);
    ok(bitkv_close(db));
}

int main(void)
{
    memset(bytes, 'e', sizeof bytes);
    const struct CMUnitTest tests[] = {
        TEST(the_space_of_expired_keys_comes_back),
        TEST(an_older_value_does_not_come_back),
        TEST(a_touched_key_stays_and_keeps_its_deadline_through_compaction),
        TEST(a_file_that_has_expired_as_a_whole_is_not_read),
        TEST(it_happens_by_itself_when_the_time_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
