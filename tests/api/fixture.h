/* SPDX-License-Identifier: MIT */
/* A directory for each test, and how most of them open a database in it. */
#ifndef TESTS_API_FIXTURE_H
#define TESTS_API_FIXTURE_H

#include "api/scratch.h"

static char directory[PATH_SIZE];
static char path[PATH_SIZE]; /* of the database; not there yet */

static inline int make_directory(void **state)
{
    (void)state;
    make_scratch(directory);
    inside(path, directory, "db");
    return 0;
}

static inline int remove_directory(void **state)
{
    (void)state;
    remove_tree(directory);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

/* One partition, so that it is known where things are. */
static inline bitkv_options one_partition(bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 1;
    o.io_mode = mode;
    o.max_file_size = 64 << 10;
    o.durability = BITKV_DURABILITY_NONE;
    return o;
}

static inline bitkv *open_with(const bitkv_options *options)
{
    bitkv *db = NULL;
    ok(bitkv_open(&db, path, options));
    assert_non_null(db);
    return db;
}

static inline bitkv *open_small(bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    return open_with(&o);
}

static inline void put_text(bitkv *db, const char *key, const char *value)
{
    ok(bitkv_put(db, key, strlen(key), value, strlen(value)));
}

static inline void expect_text(bitkv *db, const char *key, const char *value)
{
    char got[256];
    size_t size = 0;
    ok(bitkv_get_into(db, key, strlen(key), got, sizeof got, &size));
    assert_int_equal(size, strlen(value));
    assert_memory_equal(got, value, size);
}

static inline bitkv_statistics statistics_of(bitkv *db)
{
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    return s;
}

/* A process that writes `count` keys (0, 1, ... as uint32_t) and dies without
 * closing, its log not synced. */
static inline void die_with_keys(const bitkv_options *options, uint32_t count, size_t value_size)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv *db;
        char *value = calloc(1, value_size + 1);
        int rc = bitkv_open(&db, path, options);
        for (uint32_t i = 0; i < count && rc == BITKV_OK; i++)
            rc = bitkv_put_with(db, &i, sizeof i, value, value_size, BITKV_DURABILITY_NONE);
        _exit(-rc);
    }
    assert_int_equal(wait_child(child), 0);
}

static const bitkv_io_mode both_modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};
#define for_both_modes(mode)                                                                       \
    for (const bitkv_io_mode *mode_ = both_modes, *end_ = both_modes + 2; mode_ < end_; mode_++)   \
        for (bitkv_io_mode mode = *mode_, once_ = (remove_tree(path), BITKV_IO_MMAP); once_ != 0;  \
             once_ = BITKV_IO_AUTO)

#endif
