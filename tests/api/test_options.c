/* SPDX-License-Identifier: MIT */
/* Options: defaults, bounds, and structures of other sizes. */
#include "api/fixture.h"

#include <float.h>
#include <math.h>

/* Refused, with the option's name, and nothing is created. */
static void refuses(const bitkv_options *o, const char *name)
{
    bitkv *db = (bitkv *)&db;
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, o));
    context_has(name);
    assert_null(db);
    assert_int_equal(access(path, F_OK), -1);
}

static void accepts(const bitkv_options *o)
{
    bitkv *db;
    ok(bitkv_open(&db, path, o));
    ok(bitkv_put(db, "k", 1, "v", 1));
    ok(bitkv_close(db));
    remove_tree(path);
}

#define with(field, wrong)                                                                         \
    do {                                                                                           \
        bitkv_options o_;                                                                          \
        bitkv_options_init(&o_);                                                                   \
        o_.field = (wrong);                                                                        \
        refuses(&o_, #field);                                                                      \
    } while (0)

#define with_good(field, right)                                                                    \
    do {                                                                                           \
        bitkv_options o_;                                                                          \
        bitkv_options_init(&o_);                                                                   \
        o_.partitions = 1;                                                                         \
        o_.field = (right);                                                                        \
        accepts(&o_);                                                                              \
    } while (0)

static void refuses_reserved(unsigned index)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.reserved[index] = 1;
    refuses(&o, "reserved");
}

static void each_option_has_bounds_and_an_error_that_names_it(void **state)
{
    (void)state;
    with(partitions, BITKV_PARTITIONS_MAX + 1);
    with(partitions, UINT32_MAX);
    with(durability, (bitkv_durability)4);
    with(durability, (bitkv_durability)-1);
    with(sync_interval_ms, 0);
    with(sync_interval_ms, 3600001);
    with(max_file_size, (64u << 10) - 1);
    with(max_file_size, 0);
    with(max_file_size, (1ull << 30) + 1);
    with(max_file_size, UINT64_MAX);
    with(file_mode, 0);
    with(file_mode, 0400);
    with(file_mode, 01600);
    with(directory_mode, 0600);
    with(directory_mode, 0);
    with(fragmentation_threshold, 0.0);
    with(fragmentation_threshold, -0.5);
    with(fragmentation_threshold, 1.01);
    with(fragmentation_threshold, NAN);
    with(fragmentation_threshold, INFINITY);
    with(io_mode, (bitkv_io_mode)3);
    with(io_mode, (bitkv_io_mode)-1);
    with(ring_depth, 32769);
    with(default_ttl_ms, BITKV_TTL_MAX + 1);
    with(default_ttl_ms, BITKV_TTL_KEEP);
    refuses_reserved(0);
    refuses_reserved(sizeof((bitkv_options *)0)->reserved / sizeof(uint64_t) - 1);
}

static void the_bounds_themselves_are_fine(void **state)
{
    (void)state;
    with_good(sync_interval_ms, 1);
    with_good(sync_interval_ms, 3600000);
    with_good(max_file_size, 64u << 10);
    with_good(max_file_size, (64u << 10) + 1);
    with_good(max_file_size, 1u << 30);
    with_good(fragmentation_threshold, 1.0);
    with_good(fragmentation_threshold, DBL_MIN);
    with_good(ring_depth, 0);
    with_good(ring_depth, 32768);
    with_good(max_open_segments, 1);
    with_good(max_open_segments, UINT32_MAX);
    with_good(checkpoint_interval_bytes, 1);
    with_good(checkpoint_interval_bytes, UINT64_MAX);
    with_good(durability, BITKV_DURABILITY_DEFAULT);
    with_good(sync_on_write, true);
    with_good(auto_compact, false);
    with_good(strict_recovery, true);
    with_good(log_user, NULL);
    with_good(default_ttl_ms, BITKV_TTL_MAX);
    with_good(default_ttl_ms, BITKV_TTL_NONE);
    with_good(default_ttl_ms, 1);
    with_good(feed_retention_bytes, 1);
    with_good(feed_retention_bytes, UINT64_MAX);
}

static void defaults_are_those_of_the_header(void **state)
{
    (void)state;
    bitkv_options o;
    memset(&o, 0xff, sizeof o);
    bitkv_options_init(&o);
    assert_int_equal(o.struct_size, sizeof o);
    assert_int_equal(o.partitions, 0);
    assert_true(o.create_if_missing);
    assert_false(o.error_if_exists);
    assert_false(o.read_only);
    assert_false(o.strict_recovery);
    assert_false(o.sync_on_write);
    assert_int_equal(o.durability, BITKV_DURABILITY_INTERVAL);
    assert_int_equal(o.sync_interval_ms, 1000);
    assert_int_equal(o.max_file_size, 100 << 20);
    assert_int_equal(o.file_mode, 0600);
    assert_int_equal(o.directory_mode, 0700);
    assert_true(o.auto_compact);
    assert_true(o.fragmentation_threshold == 0.5);
    assert_int_equal(o.io_mode, BITKV_IO_AUTO);
    assert_int_equal(o.max_open_segments, 0);
    assert_int_equal(o.ring_depth, 2048);
    assert_int_equal(o.checkpoint_interval_bytes, 0);
    assert_null(o.log);
    assert_int_equal(o.default_ttl_ms, 0);
    assert_int_equal(o.feed_retention_bytes, 0);
    for (unsigned i = 0; i < sizeof o.reserved / sizeof *o.reserved; i++)
        assert_int_equal(o.reserved[i], 0);
    assert_int_equal(o.backend, BITKV_BACKEND_AUTO);
    assert_int_equal(o.io_threads, 0);
    bitkv_options_init(NULL);
}

static void without_options_there_are_the_defaults(void **state)
{
    (void)state;
    bitkv *db;
    ok(bitkv_open(&db, path, NULL));
    put_text(db, "k", "v");
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.partitions, sysconf(_SC_NPROCESSORS_ONLN) < 1024 ? s.partitions : 1024);
    assert_true(s.partitions >= 1);
    assert_int_not_equal(s.io_mode, BITKV_IO_AUTO);
    assert_true(strlen(s.io_mode_reason) > 0);
    ok(bitkv_close(db));
}

static void a_shorter_structure_means_defaults_for_the_rest(void **state)
{
    (void)state;
    bitkv_options o;
    memset(&o, 0xff, sizeof o);
    bitkv_options_init_sized(&o, offsetof(bitkv_options, create_if_missing));
    o.partitions = 3;
    assert_int_equal(((unsigned char *)&o)[sizeof o - 1], 0xff); /* not touched */
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    assert_int_equal(statistics_of(db).partitions, 3);
    ok(bitkv_close(db));
    o.struct_size = 4; /* not even its own size */
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &o));
    context_has("struct_size");
    memset(&o, 0, sizeof o);
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &o));
    context_has("bitkv_options_init");
}

static void a_longer_structure_is_of_a_newer_header(void **state)
{
    (void)state;
    struct {
        bitkv_options known;
        uint64_t unknown[4];
    } o;
    memset(&o, 0xff, sizeof o);
    bitkv_options_init_sized(&o.known, sizeof o);
    assert_int_equal(o.unknown[3], 0);
    bitkv *db;
    fails(BITKV_ERR_INVALID, bitkv_open(&db, path, &o.known));
    context_has("older");
    assert_null(db);
}

static void read_only_and_error_if_exists_exclude_each_other(void **state)
{
    (void)state;
    bitkv_options o;
    bitkv_options_init(&o);
    o.read_only = true;
    o.error_if_exists = true;
    refuses(&o, "read_only");
}

static void modes_are_those_that_were_asked_for(void **state)
{
    (void)state;
    mode_t mask = umask(0);
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.file_mode = 0640;
    o.directory_mode = 0750;
    bitkv *db = open_with(&o);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    (void)umask(mask);
    static const struct {
        const char *name;
        mode_t mode;
    } expected[] = {{"", 0750},
                    {"/MANIFEST", 0640},
                    {"/partition_0", 0750},
                    {"/partition_0/data_1.db", 0640},
                    {"/partition_0/keydir.ckp", 0640}};
    for (unsigned i = 0; i < 5; i++) {
        char name[PATH_SIZE + 40];
        (void)snprintf(name, sizeof name, "%s%s", path, expected[i].name);
        struct stat status;
        if (stat(name, &status) != 0)
            print_error("%s: %s\n", name, strerror(errno));
        assert_int_equal(status.st_mode & 07777, expected[i].mode);
    }
}

static void by_default_nobody_else_can_look(void **state)
{
    (void)state;
    mode_t mask = umask(0);
    bitkv *db;
    ok(bitkv_open(&db, path, NULL));
    (void)umask(mask);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    char name[PATH_SIZE];
    assert_int_equal(stat(inside(name, path, "MANIFEST"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_option_has_bounds_and_an_error_that_names_it),
        TEST(the_bounds_themselves_are_fine),
        TEST(defaults_are_those_of_the_header),
        TEST(without_options_there_are_the_defaults),
        TEST(a_shorter_structure_means_defaults_for_the_rest),
        TEST(a_longer_structure_is_of_a_newer_header),
        TEST(read_only_and_error_if_exists_exclude_each_other),
        TEST(modes_are_those_that_were_asked_for),
        TEST(by_default_nobody_else_can_look),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
