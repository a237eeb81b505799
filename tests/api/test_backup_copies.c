/* SPDX-License-Identifier: MIT */
/* Backups that somebody has copied, not quite: what is left of them verifies, and yet
 * something is missing, which whoever restores it has to be told. */
#include "api/compaction.h"

#include "log/inspect.h"

#include <stdatomic.h>

#include <inttypes.h>

static char target[PATH_SIZE];

static const char *in_target(char out[PATH_SIZE], const char *name)
{
    char folder[PATH_SIZE];
    return inside(out, inside(folder, target, "partition_0"), name);
}

static void make_backup(void)
{
    inside(target, directory, "backup");
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 300, 1, 1000);
    ok(bitkv_backup(db, target, NULL));
    ok(bitkv_close(db));
}

static int open_target(bitkv **db, bool strict, bool read_only)
{
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.create_if_missing = false;
    o.strict_recovery = strict;
    o.read_only = read_only;
    return bitkv_open(db, target, &o);
}

static void expect_whole(void)
{
    bitkv *db;
    const struct bkv_inspect_options options = {.result = NULL};
    ok(bkv_inspect(target, &options));
    ok(open_target(&db, true, true));
    ok(bitkv_close(db));
}

static void expect_lack(void)
{
    bitkv *db;
    const struct bkv_inspect_options options = {.result = NULL};
    fails(BITKV_ERR_CORRUPT, bkv_inspect(target, &options));
    fails(BITKV_ERR_CORRUPT, open_target(&db, true, true));
    fails(BITKV_ERR_CORRUPT, open_target(&db, true, false));
    context_has("copy it again");
    ok(open_target(&db, false, true)); /* which warns */
    ok(bitkv_close(db));
}

static void drop(const char *name)
{
    char full[PATH_SIZE];
    (void)unlink(in_target(full, name));
}

static uint64_t last_file(void)
{
    uint64_t id = 1;
    char name[64], full[PATH_SIZE];
    for (;; id++) {
        (void)snprintf(name, sizeof name, "data_%" PRIu64 ".db", id + 1);
        if (access(in_target(full, name), F_OK) != 0)
            return id;
    }
}

static void a_backup_as_it_was_made_is_whole(void **state)
{
    (void)state;
    make_backup();
    expect_whole();
}

static void a_copy_without_its_last_file_is_told(void **state)
{
    (void)state;
    char name[64];
    make_backup();
    (void)snprintf(name, sizeof name, "data_%" PRIu64 ".db", last_file());
    drop(name);
    (void)snprintf(name, sizeof name, "hint_%" PRIu64 ".ht", last_file() + 1);
    drop(name);
    expect_lack();
}

/* At the end of a record, too. */
static void a_copy_that_was_cut_is_told(void **state)
{
    (void)state;
    for (unsigned cut = 0; cut < 3; cut++) {
        char name[64], full[PATH_SIZE];
        struct stat status;
        make_backup();
        (void)snprintf(name, sizeof name, "data_%" PRIu64 ".db", last_file());
        assert_int_equal(stat(in_target(full, name), &status), 0);
        assert_int_equal(truncate(full, cut == 0 ? 64 : status.st_size - 8 * (off_t)cut), 0);
        (void)snprintf(name, sizeof name, "hint_%" PRIu64 ".ht", last_file());
        drop(name);
        expect_lack();
        remove_tree(target);
        remove_tree(path);
    }
}

/* As many files, and as large. */
static void a_file_under_another_name_is_told(void **state)
{
    (void)state;
    char name[64], full[PATH_SIZE], other[PATH_SIZE];
    make_backup();
    (void)snprintf(name, sizeof name, "data_%" PRIu64 ".db", last_file());
    assert_int_equal(rename(in_target(full, name), in_target(other, "data_999.db")), 0);
    bitkv *db;
    fails(BITKV_ERR_CORRUPT, open_target(&db, true, true));
    context_has("copy it again");
}

static void a_folder_that_was_not_copied_has_no_files(void **state)
{
    (void)state;
    char folder[PATH_SIZE];
    const struct bkv_inspect_options options = {.result = NULL};
    make_backup();
    remove_tree(inside(folder, target, "partition_0"));
    fails(BITKV_ERR_CORRUPT, bkv_inspect(target, &options));
    bitkv *db;
    fails(BITKV_ERR_CORRUPT, open_target(&db, true, true));
}

static _Atomic bool vanished;

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&vanished) && strstr(name, "data_") != NULL) {
        errno = ENOENT;
        return -1;
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static void a_file_that_goes_while_it_is_looked_for_is_an_error(void **state)
{
    (void)state;
    struct bkv_io_ops ops = bkv_io_kernel;
    make_backup();
    ops.openat = on_openat;
    bkv_io = &ops;
    atomic_store(&vanished, true);
    bitkv *db;
    fails(BITKV_ERR_IO, open_target(&db, true, false));
    atomic_store(&vanished, false);
    bkv_io = &bkv_io_kernel;
    expect_whole();
}

/* Opened for writing it is a database of its own, whose files come and go. */
static void a_backup_that_is_written_to_is_compared_no_more(void **state)
{
    (void)state;
    bitkv *db;
    make_backup();
    ok(open_target(&db, true, false));
    put_all(db, 300, 2, 1000);
    compact(db);
    ok(bitkv_close(db));
    ok(open_target(&db, true, false));
    expect_all(db, 300, 2, 1000);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_backup_as_it_was_made_is_whole),
        TEST(a_copy_without_its_last_file_is_told),
        TEST(a_copy_that_was_cut_is_told),
        TEST(a_file_under_another_name_is_told),
        TEST(a_folder_that_was_not_copied_has_no_files),
        TEST(a_file_that_goes_while_it_is_looked_for_is_an_error),
        TEST(a_backup_that_is_written_to_is_compared_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
