/* SPDX-License-Identifier: MIT */
/* Bugs of compaction that were found by other means, each with a test of its own. */
#include "api/compaction.h"

#include "base/memory.h"

#include <stdatomic.h>

/* --- no memory from the moment that an output has its name ------------------------------ */

static struct bkv_io_ops scarce_ops;
static _Atomic bool scarce;

static int run_out_at_rename(int dirfd, const char *from, const char *to)
{
    int rc = bkv_io_kernel.renameat(dirfd, from, to);
    if (strstr(to, "data_") != NULL)
        atomic_store(&scarce, true);
    return rc;
}

static bool unless_scarce(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&scarce);
}

static void memory_runs_out(bool so)
{
    scarce_ops = quick_ops;
    scarce_ops.renameat = run_out_at_rename;
    bkv_io = so ? &scarce_ops : &quick_ops;
    bkv_alloc_set_hook(so ? unless_scarce : NULL, NULL);
    atomic_store(&scarce, false);
}

/* So many that copies of the KeyDir need more memory than it has left. */
#define KEYS 20000u
#define SIZE 40u

/* Half of each file is dead; a snapshot makes every change to the KeyDir a copy. */
static bitkv *open_with_garbage(const bitkv_options *o, bitkv_snapshot **snapshot)
{
    bitkv *db = open_with(o);
    put_all(db, KEYS, 1, SIZE);
    for (uint32_t key = 0; key < KEYS; key += 2)
        put_version(db, key, 2, SIZE);
    ok(bitkv_snapshot_create(snapshot, db));
    return db;
}

static void expect_versions(bitkv *db)
{
    for (uint32_t key = 0; key < KEYS; key++)
        expect_version(db, key, key % 2 == 0 ? 2 : 1, SIZE);
    assert_int_equal(statistics_of(db).keys, KEYS);
}

static void expect_after_opening(bitkv_io_mode mode)
{
    bitkv_options o = by_hand(mode);
    o.strict_recovery = true;
    bitkv *db = open_with(&o);
    expect_versions(db);
    compact(db);
    expect_versions(db);
    assert_true(statistics_of(db).dead_bytes < 4096); /* marks */
    ok(bitkv_close(db));
}

/* A run asked for memory for its last step again and again: so did the call that it
 * was made by, and bitkv_close(). */
static void a_compaction_without_memory_ends(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = by_hand(mode);
        bitkv_snapshot *snapshot;
        bitkv *db = open_with_garbage(&o, &snapshot);
        memory_runs_out(true);
        fails(BITKV_ERR_NO_MEMORY, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        assert_true(atomic_load(&scarce));
        atomic_store(&scarce, false);
        expect_versions(db);
        atomic_store(&scarce, true);
        fails(BITKV_ERR_NO_MEMORY, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        memory_runs_out(false);
        put_version(db, 0, 3, SIZE);
        put_version(db, 0, 2, SIZE);
        compact(db);
        expect_versions(db);
        (void)bitkv_snapshot_destroy(snapshot);
        compact(db);
        assert_true(statistics_of(db).dead_bytes < 4096); /* marks */
        ok(bitkv_close(db));
        expect_after_opening(mode);
    }
}

static void a_close_without_memory_ends_a_compaction(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = by_hand(mode);
        bitkv_snapshot *snapshot;
        bitkv *db = open_with_garbage(&o, &snapshot);
        memory_runs_out(true);
        fails(BITKV_ERR_NO_MEMORY, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        int rc = bitkv_close(db); /* no checkpoint: that is all */
        memory_runs_out(false);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_NO_MEMORY);
        (void)bitkv_snapshot_destroy(snapshot);
        expect_after_opening(mode);
    }
}

static void a_close_without_memory_ends_the_compactor(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.fragmentation_threshold = 0.1;
        bitkv_snapshot *snapshot;
        bitkv *db = open_with(&o);
        put_all(db, KEYS, 1, SIZE);
        ok(bitkv_snapshot_create(&snapshot, db));
        memory_runs_out(true);
        char value[SIZE];
        for (uint64_t i = 0; !atomic_load(&scarce); i++) {
            uint32_t key = (uint32_t)(i % KEYS);
            fill(value, sizeof value, (uint64_t)key << 32 | 1); /* what it has */
            (void)bitkv_put(db, &key, sizeof key, value, sizeof value);
        }
        sleep_ms(20); /* it moves keys now, or asks for memory */
        int rc = bitkv_close(db);
        memory_runs_out(false);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_NO_MEMORY);
        (void)bitkv_snapshot_destroy(snapshot);
        o.strict_recovery = true;
        db = open_with(&o);
        expect_all(db, KEYS, 1, SIZE);
        assert_int_equal(statistics_of(db).keys, KEYS);
        ok(bitkv_close(db));
    }
}

/* --- a checkpoint that was removed, but not durably --------------------------------------- */

static struct bkv_io_ops watching_ops;
static _Atomic int steps;      /* 0: nothing; 1: the checkpoint is gone; 2: and that synced */
static _Atomic int sync_error; /* of the next sync of a directory behind that; 0: none */
static _Atomic bool named_early;

static int watch_unlink(int dirfd, const char *name)
{
    if (strstr(name, "keydir.ckp") != NULL)
        atomic_store(&steps, 1);
    return bkv_io_kernel.unlinkat(dirfd, name);
}

static int watch_fsync(int fd)
{
    struct stat status;
    if (atomic_load(&steps) != 1 || fstat(fd, &status) != 0 || !S_ISDIR(status.st_mode))
        return 0;
    errno = atomic_exchange(&sync_error, 0);
    if (errno != 0)
        return -1;
    atomic_store(&steps, 2);
    return 0;
}

static int watch_rename(int dirfd, const char *from, const char *to)
{
    if (strstr(to, "data_") != NULL && atomic_load(&steps) == 1)
        atomic_store(&named_early, true);
    return bkv_io_kernel.renameat(dirfd, from, to);
}

/* A second run took the failed sync for one that had been made. */
static void an_output_waits_until_the_checkpoint_is_durably_gone(void **state)
{
    (void)state;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 600, 1, 500);
    put_all(db, 600, 2, 500);
    ok(bitkv_close(db)); /* with a checkpoint */
    db = open_by_hand(BITKV_IO_AUTO);
    watching_ops = quick_ops;
    watching_ops.unlinkat = watch_unlink;
    watching_ops.fsync = watch_fsync;
    watching_ops.renameat = watch_rename;
    atomic_store(&steps, 0);
    atomic_store(&sync_error, EIO);
    bkv_io = &watching_ops;
    fails(BITKV_ERR_IO, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_int_equal(atomic_load(&steps), 1);
    compact(db);
    assert_int_equal(atomic_load(&steps), 2);
    assert_false(atomic_load(&named_early));
    bkv_io = &quick_ops;
    expect_all(db, 600, 2, 500);
    ok(bitkv_close(db));
}

/* --- an output that has lost its header, beside its inputs ---------------------------------- */

#define GONE 150u

static void expect_merged(bitkv *db)
{
    expect_absent(db, 0, GONE);
    for (uint32_t key = GONE; key < 400; key++)
        expect_version(db, key, 2, 100);
    assert_int_equal(statistics_of(db).keys, 400 - GONE);
}

/* All files as they are between the rename and the first unlink: a snapshot keeps them. */
static unsigned make_inputs_and_output(const char *copy, unsigned inputs[static 32],
                                       unsigned *count)
{
    bitkv_snapshot *snapshot;
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 400, 1, 700);
    delete_all(db, 0, GONE);
    for (uint32_t key = GONE; key < 400; key++)
        put_version(db, key, 2, 100);
    ok(bitkv_snapshot_create(&snapshot, db));
    compact(db);
    put_version(db, 400, 1, 10); /* the log goes on behind it */
    delete_all(db, 400, 401);
    copy_tree(path, copy);
    unsigned output = 0;
    for (const struct bkv_segment *s = atomic_load(&db->partitions[0]->first); s != NULL;
         s = atomic_load(&s->next)) {
        if (s->kind != BKV_SEGMENT_COMPACTED)
            continue;
        assert_int_equal(output, 0); /* all in one */
        output = (unsigned)s->id;
    }
    *count = 0;
    for (const struct bkv_segment *s = db->partitions[0]->removed; s != NULL; s = s->next_removed)
        inputs[(*count)++] = (unsigned)s->id;
    ok(bitkv_snapshot_destroy(snapshot));
    ok(bitkv_close(db));
    return output;
}

static void remove_segment(unsigned id)
{
    char name[64];
    char full[PATH_SIZE];
    (void)snprintf(name, sizeof name, "data_%u.db", id);
    (void)unlink(in_partition(full, name));
    (void)snprintf(name, sizeof name, "hint_%u.ht", id);
    (void)unlink(in_partition(full, name));
}

static void open_without_header(unsigned output)
{
    char name[64];
    char full[PATH_SIZE];
    (void)snprintf(name, sizeof name, "data_%u.db", output);
    flip_byte(in_partition(full, name), 50);
    bitkv_options o = by_hand(BITKV_IO_AUTO);
    o.strict_recovery = true;
    bitkv *db = NULL;
    fails(BITKV_ERR_CORRUPT, bitkv_open(&db, path, &o));
    for (int again = 0; again < 3; again++) {
        db = open_by_hand(BITKV_IO_AUTO);
        assert_true(statistics_of(db).recovery.damaged_regions > 0);
        expect_merged(db);
        ok(bitkv_close(db));
    }
    db = open_by_hand(BITKV_IO_AUTO);
    put_all(db, 400, 3, 700); /* all of it is dead: the next run takes it */
    delete_all(db, 0, 400);
    compact(db);
    expect_absent(db, 0, 400);
    ok(bitkv_close(db));
    db = open_with(&o);
    expect_absent(db, 0, 400);
    ok(bitkv_close(db));
}

/* It was taken for a part of the stream, beside which its inputs counted: what had
 * been deleted among them was back once the tombstones' file was gone. */
static void an_output_without_a_header_stands_for_its_inputs(void **state)
{
    (void)state;
    char copy[PATH_SIZE];
    inside(copy, directory, "copy");
    unsigned inputs[32];
    unsigned count;
    unsigned output = make_inputs_and_output(copy, inputs, &count);
    assert_true(count > 2);
    for (unsigned only = 0; only <= count; only++) { /* the last time: all of them */
        remove_tree(path);
        copy_tree(copy, path);
        for (unsigned i = 0; i < count && only < count; i++) {
            if (i != only)
                remove_segment(inputs[i]);
        }
        open_without_header(output);
    }
}

/* --- numbers of segments -------------------------------------------------------------------- */

static _Atomic bool no_memory;

static bool unless_told(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&no_memory);
}

/* A number that had been free was lost when its place could not be made, and one that
 * was given back without memory. */
static void no_number_is_lost_without_memory(void **state)
{
    (void)state;
    enum { MANY = 1500 };
    static struct bkv_segment *segments[MANY];
    bitkv *db = open_by_hand(BITKV_IO_AUTO);
    struct bkv_partition *p = db->partitions[0];
    bkv_alloc_set_hook(unless_told, NULL);
    bkv_lock(&p->lock);
    uint32_t before = p->free_count;
    uint32_t next = atomic_load(&p->next_number);
    for (unsigned i = 0; i < MANY; i++) {
        segments[i] = bkv_segment_new(p, 1000 + i);
        assert_non_null(segments[i]);
        atomic_store(&no_memory, true); /* most find their place there */
        int rc = bkv_segment_number(p, segments[i]);
        atomic_store(&no_memory, false);
        if (rc != BITKV_OK)
            ok(bkv_segment_number(p, segments[i]));
    }
    assert_int_equal(atomic_load(&p->next_number), next + MANY);
    atomic_store(&no_memory, true);
    for (unsigned i = 0; i < MANY; i++) {
        (void)bkv_segment_close(p, segments[i]);
        bkv_segment_number_free(p, segments[i]->number);
    }
    assert_int_equal(p->free_count, before + MANY);
    /* One whose place is missing, as behind a gap that an opening found. */
    struct bkv_segment *_Atomic *chunk = atomic_exchange(&p->table.chunks[2], NULL);
    p->free_numbers[p->free_count - 1] = 2 * BKV_TABLE_FANOUT;
    fails(BITKV_ERR_NO_MEMORY, bkv_segment_number(p, segments[0]));
    assert_int_equal(p->free_count, before + MANY);
    atomic_store(&p->table.chunks[2], chunk);
    bkv_unlock(&p->lock);
    bkv_alloc_set_hook(NULL, NULL);
    for (unsigned i = 0; i < MANY; i++)
        bkv_segment_unref(segments[i]);
    ok(bitkv_close(db));
}

/* --- space that an unlinked file has ---------------------------------------------------- */

/* By descriptors and mappings. */
static unsigned count_unlinked(void)
{
    char line[PATH_SIZE + 200];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, "partition_") != NULL && strstr(line, "(deleted)") != NULL;
    (void)fclose(maps);
    DIR *fds = opendir("/proc/self/fd");
    assert_non_null(fds);
    for (const struct dirent *e; (e = readdir(fds)) != NULL;) {
        ssize_t size = readlinkat(dirfd(fds), e->d_name, line, sizeof line - 1);
        line[size > 0 ? size : 0] = '\0';
        count += strstr(line, "partition_") != NULL && strstr(line, "(deleted)") != NULL;
    }
    (void)closedir(fds);
    return count;
}

/* What readers still had when its file was unlinked was unmapped when something else was
 * opened or closed. If nothing was, its space was gone until the database was closed: a
 * full disk of which half was deleted stayed full. */
static void the_space_of_a_compacted_file_comes_back_when_its_view_is_released(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = by_hand(mode);
        bitkv *db = open_with(&o);
        put_all(db, 200, 1, 1000);
        uint32_t key = 1;
        bitkv_view view;
        ok(bitkv_get_view(db, &key, sizeof key, &view));
        put_all(db, 200, 2, 1000);
        compact(db);
        assert_int_equal(count_unlinked() > 0, mode == BITKV_IO_MMAP); /* else it is a copy */
        sleep_ms(200); /* the worker has looked by now, and found it in use */
        bitkv_view_release(&view);
        for (uint64_t until = now_ms() + 30000; count_unlinked() > 0; sleep_ms(10))
            assert_true(now_ms() < until);
        expect_all(db, 200, 2, 1000);
        ok(bitkv_close(db));
        remove_tree(path);
    }
}

static int set_up(void **state)
{
    quick_syncs(true);
    return make_directory(state);
}

static int tear_down(void **state)
{
    quick_syncs(false);
    return remove_directory(state);
}

#define QUICK_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QUICK_TEST(a_compaction_without_memory_ends),
        QUICK_TEST(a_close_without_memory_ends_a_compaction),
        QUICK_TEST(a_close_without_memory_ends_the_compactor),
        QUICK_TEST(an_output_waits_until_the_checkpoint_is_durably_gone),
        QUICK_TEST(an_output_without_a_header_stands_for_its_inputs),
        QUICK_TEST(no_number_is_lost_without_memory),
        QUICK_TEST(the_space_of_a_compacted_file_comes_back_when_its_view_is_released),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
