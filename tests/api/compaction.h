/* SPDX-License-Identifier: MIT */
/* What the tests of compaction share: keys with versions, what the files of a
 * database take up, and what records are in them. */
#ifndef TESTS_API_COMPACTION_H
#define TESTS_API_COMPACTION_H

#include "api/fixture.h"

#include "db/db.h"
#include "io/io.h"
#include "log/filename.h"
#include "log/scan.h"
#include "partition/compact.h"

#define SEGMENT_BYTES (64u << 10)
#define VALUE_MAX     (512u << 10)

/* By hand only, unless a test wants it otherwise. */
static inline bitkv_options by_hand(bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.auto_compact = false;
    return o;
}

static inline bitkv *open_by_hand(bitkv_io_mode mode)
{
    bitkv_options o = by_hand(mode);
    return open_with(&o);
}

#define compact(db) ok(bitkv_compact((db), BITKV_ALL_PARTITIONS, NULL, NULL))

/* --- keys are numbers, values tell of which version of which key they are ------- */

static inline void put_version(bitkv *db, uint32_t key, uint32_t version, size_t size)
{
    static unsigned char value[VALUE_MAX];
    assert_true(size <= sizeof value);
    fill(value, size, (uint64_t)key << 32 | version);
    ok(bitkv_put(db, &key, sizeof key, value, size));
}

static inline void expect_version(bitkv *db, uint32_t key, uint32_t version, size_t size)
{
    static unsigned char wanted[VALUE_MAX];
    void *got;
    size_t got_size;
    int rc = bitkv_get(db, &key, sizeof key, &got, &got_size);
    if (rc != BITKV_OK)
        fail_msg("key %u: %s (%s)", key, bitkv_error_name(rc), bitkv_error_context());
    assert_int_equal(got_size, size);
    fill(wanted, size, (uint64_t)key << 32 | version);
    assert_memory_equal(got, wanted, size);
    bitkv_free(got);
}

static inline void put_all(bitkv *db, uint32_t keys, uint32_t version, size_t size)
{
    for (uint32_t key = 0; key < keys; key++)
        put_version(db, key, version, size);
}

static inline void expect_all(bitkv *db, uint32_t keys, uint32_t version, size_t size)
{
    for (uint32_t key = 0; key < keys; key++)
        expect_version(db, key, version, size);
}

static inline void delete_all(bitkv *db, uint32_t first, uint32_t end)
{
    for (uint32_t key = first; key < end; key++)
        ok(bitkv_del(db, &key, sizeof key));
}

static inline void expect_absent(bitkv *db, uint32_t first, uint32_t end)
{
    for (uint32_t key = first; key < end; key++)
        fails(BITKV_NOT_FOUND, bitkv_exists(db, &key, sizeof key));
}

/* --- files ------------------------------------------------------------------------- */

static inline const char *in_partition(char out[PATH_SIZE], const char *name)
{
    char folder[PATH_SIZE];
    return inside(out, inside(folder, path, "partition_0"), name);
}

/* What the file system has given for all files of a directory. */
static inline uint64_t disk_use(const char *of)
{
    uint64_t sum = 0;
    DIR *dir = opendir(of);
    if (dir == NULL)
        return 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char sub[PATH_SIZE];
        struct stat status;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            lstat(inside(sub, of, e->d_name), &status) != 0)
            continue;
        sum += S_ISDIR(status.st_mode) ? disk_use(sub) : (uint64_t)status.st_blocks * 512;
    }
    (void)closedir(dir);
    return sum;
}

static inline unsigned count_files(const char *prefix, const char *suffix)
{
    char folder[PATH_SIZE];
    return count_names(inside(folder, path, "partition_0"), prefix, suffix);
}

static inline void remove_files(const char *prefix)
{
    char folder[PATH_SIZE];
    DIR *dir = opendir(inside(folder, path, "partition_0"));
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char name[PATH_SIZE];
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
            assert_int_equal(unlink(in_partition(name, e->d_name)), 0);
    }
    (void)closedir(dir);
}

/* --- records ------------------------------------------------------------------------- */

struct census {
    unsigned puts, tombstones;
};

static inline void count_records(struct bkv_partition *p, const struct bkv_segment *segment,
                                 uint32_t key, struct census *census)
{
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    struct bkv_scanner scanner;
    struct bkv_scan_item item;
    bkv_name_data(name, p->index, segment->id);
    ok(bkv_file_open(&file, &p->store->dir, name, O_RDONLY));
    ok(bkv_scanner_begin(&scanner, &file, segment->seed, BKV_SEGMENT_HEADER,
                         atomic_load(&segment->size)));
    for (;;) {
        ok(bkv_scanner_next(&scanner, &item));
        if (item.kind == BKV_SCAN_END)
            break;
        if (item.kind != BKV_SCAN_RECORD ||
            (key != UINT32_MAX &&
             (item.record.key_size != sizeof key || memcmp(item.key, &key, sizeof key) != 0)))
            continue;
        census->puts += item.record.type == BKV_RECORD_PUT;
        census->tombstones += item.record.type == BKV_RECORD_DELETE;
    }
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
}

/* In the files of the first partition; UINT32_MAX: of all keys. */
static inline struct census records_of(bitkv *db, uint32_t key)
{
    struct census census = {0};
    struct bkv_partition *p = db->partitions[0];
    for (const struct bkv_segment *s = atomic_load(&p->first); s != NULL; s = atomic_load(&s->next))
        count_records(p, s, key, &census);
    return census;
}

/* Syncs that only cost time here. */
static struct bkv_io_ops quick_ops;

static inline int no_sync(int fd)
{
    (void)fd;
    return 0;
}

static inline void quick_syncs(bool quick)
{
    quick_ops = bkv_io_kernel;
    quick_ops.fsync = no_sync;
    quick_ops.fdatasync = no_sync;
    bkv_io = quick ? &quick_ops : &bkv_io_kernel;
}

#endif
