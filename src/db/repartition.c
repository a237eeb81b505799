/* SPDX-License-Identifier: MIT */
/*
 * Another number of partitions, offline: a new database beside the old one, and
 * then the two directories change names.
 *
 *   1  old: opened read-only, but locked against everybody; not changed by that
 *   2  what an earlier run left as <directory>.repartition is removed
 *   3  new: <directory>.repartition, marked, created, filled, closed
 *   4  new: opened as the old one is; every record read, the sums compared
 *   5  the swap, one system call; parent synced
 *   6  old, now <directory>.repartition: its files, the MANIFEST last, removed
 *   7  the marker in the new one removed
 *
 * Which one of the two a leftover is, the marker REPARTITION tells. It holds the
 * id of the database that is to be replaced:
 *
 *   in <directory>.repartition, with the id of <directory>: a new one that was
 *   not finished
 *   in <directory>, with the id of <directory>.repartition: the old one, after
 *   the swap
 *
 * and nothing else is ever removed.
 *
 * The locks are on the directories' inodes, and both are held from before the
 * swap until the old one is gone. Who opens meanwhile gets BITKV_ERR_LOCKED. Who
 * has opened the old directory by its name, and locks it only after we have let
 * it go, sees that the name means another one now, and begins anew (open.c).
 *
 * Failure modes: whatever fails before the swap removes the new directory, as
 * far as it can be; the old one is untouched. After the swap nothing is undone.
 */
#include "db/call.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "base/memory.h"
#include "io/io.h"
#include "io/site.h"
#include "log/erase.h"
#include "log/filename.h"
#include "log/marker.h"
#include "log/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define BESIDE ".repartition"

/* What a database holds, whatever the order. */
struct sums {
    uint64_t records, bytes, digest; /* of what never expires */
    uint64_t expiring;               /* the other records: they may expire between two looks */
};

struct work {
    struct bkv_site site;
    char *beside; /* path of <directory>.repartition */
    uint32_t partitions;
    bitkv_repartition_options options;
    struct bitkv *old, *new;
    uint64_t done, total; /* of progress */
};

/* --- options -------------------------------------------------------------------- */

void bitkv_repartition_options_init_sized(bitkv_repartition_options *options, size_t struct_size)
{
    if (options == NULL)
        return;
    memset(options, 0, struct_size);
    options->struct_size = struct_size;
}

static int check_arguments(struct work *w, const char *directory,
                           const bitkv_repartition_options *given)
{
    bitkv_repartition_options_init(&w->options);
    if (directory == NULL || directory[0] == '\0')
        return bkv_error(BITKV_ERR_INVALID, "bitkv_repartition: no directory");
    if (w->partitions == 0 || w->partitions > BITKV_PARTITIONS_MAX)
        return bkv_error(BITKV_ERR_INVALID, "a database has 1 to %u partitions, not %u",
                         BITKV_PARTITIONS_MAX, w->partitions);
    if (given == NULL)
        return BITKV_OK;
    if (given->struct_size != sizeof *given)
        return bkv_error(BITKV_ERR_INVALID,
                         "repartition options have %zu bytes, not %zu: call "
                         "bitkv_repartition_options_init() first",
                         given->struct_size, sizeof *given);
    w->options = *given;
    for (size_t i = 0; i < sizeof given->reserved / sizeof given->reserved[0]; i++) {
        if (given->reserved[i] != 0)
            return bkv_error(BITKV_ERR_INVALID, "a reserved option is not zero: call "
                                                "bitkv_repartition_options_init() first");
    }
    return BITKV_OK;
}

/* --- 1: the databases --------------------------------------------------------------- */

/* Of their own accord nobody changes anything in it, and nobody else has it. */
static int open_whole(struct work *w, struct bitkv **db, const char *path)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    options.strict_recovery = true;
    options.io_mode = w->options.io_mode;
    return bkv_open_with(db, path, &options, true);
}

static int compose_beside(struct work *w)
{
    size_t size = strlen(w->site.path) + sizeof BESIDE;
    w->beside = bkv_malloc(size);
    if (w->beside == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a path");
    (void)snprintf(w->beside, size, "%s" BESIDE, w->site.path);
    return BITKV_OK;
}

static bool same_id(const uint8_t a[16], const uint8_t b[16])
{
    return memcmp(a, b, 16) == 0;
}

/* --- 2: leftovers ----------------------------------------------------------------------- */

/* Is it the new database of a run that did not come to its swap? */
static int is_unfinished(const struct work *w, struct bkv_dir *dir, bool *yes)
{
    uint8_t id[16];
    int rc = bkv_marker_read(dir, BKV_MARKER_REPARTITION, yes, id, NULL);
    *yes = rc == BITKV_OK && *yes && same_id(id, w->old->store.manifest.database_id);
    return rc;
}

/* Is it the old database of a run that came to its swap? */
static int is_replaced(const struct work *w, struct bkv_dir *dir, bool *yes)
{
    uint8_t id[16];
    struct bkv_manifest manifest;
    int rc = bkv_marker_read(&w->old->store.dir, BKV_MARKER_REPARTITION, yes, id, NULL);
    if (rc != BITKV_OK || !*yes)
        return rc;
    rc = bkv_manifest_read(dir, &manifest);
    *yes = rc == BITKV_OK && same_id(id, manifest.database_id);
    return rc == BITKV_NOT_FOUND || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT ? BITKV_OK
                                                                                      : rc;
}

static int erase_leftover(struct work *w, struct bkv_dir *dir)
{
    bool empty = false;
    bool unfinished = false;
    bool replaced = false;
    int rc = bkv_dir_unlink(dir, BKV_REPARTITION_NAME ".tmp");
    if (rc == BITKV_OK)
        rc = bkv_dir_empty(dir, &empty);
    if (rc == BITKV_OK && !empty)
        rc = is_unfinished(w, dir, &unfinished);
    if (rc == BITKV_OK && !empty && !unfinished)
        rc = is_replaced(w, dir, &replaced);
    if (rc == BITKV_OK && !empty && !unfinished && !replaced)
        rc = bkv_error(BITKV_ERR_EXISTS,
                       "%s is in the way, and nothing that an earlier run on "
                       "this database left; move it away",
                       dir->path);
    if (rc == BITKV_OK)
        rc = bkv_erase_check(dir);
    if (rc == BITKV_OK && !empty)
        rc = bkv_erase(dir, unfinished ? BKV_REPARTITION_NAME : BKV_MANIFEST_NAME);
    return rc;
}

static int remove_leftover(struct work *w)
{
    struct bkv_dir dir;
    int rc = bkv_site_enter(&w->site, BESIDE, &dir);
    if (rc == BITKV_NOT_FOUND)
        return BITKV_OK;
    if (rc == BITKV_OK)
        rc = bkv_dir_lock(&dir);
    if (rc == BITKV_OK)
        rc = erase_leftover(w, &dir);
    if (rc == BITKV_OK)
        rc = bkv_site_remove(&w->site, BESIDE);
    if (rc == BITKV_OK)
        rc = bkv_site_sync(&w->site);
    bkv_dir_leave(&dir);
    return rc;
}

/* --- 3: the new one ------------------------------------------------------------------------ */

static int advance(struct work *w, const bitkv_record *record)
{
    w->done += bkv_record_size(
        record->key_size + (bkv_shown_deadline(record) != UINT64_MAX ? BKV_RECORD_DEADLINE : 0),
        record->value_size);
    w->done = w->done < w->total ? w->done : w->total;
    if (w->options.progress != NULL && w->options.progress(w->options.user, w->done, w->total) != 0)
        return bkv_error(BITKV_ERR_CANCELED, "canceled by the progress callback");
    return BITKV_OK;
}

static uint64_t digest_of(const bitkv_record *record)
{
    uint32_t key = bkv_crc32c(0, record->key, record->key_size);
    uint64_t x = (uint64_t)key << 32 | bkv_crc32c(~key, record->value, record->value_size);
    x ^= (uint64_t)record->key_size << 48 ^ record->value_size;
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
}

static void add_up(struct sums *sums, const bitkv_record *record)
{
    if (bkv_shown_deadline(record) != UINT64_MAX) {
        sums->expiring++;
        return;
    }
    sums->records++;
    sums->bytes += record->key_size + record->value_size;
    sums->digest += digest_of(record);
}

static bool same_sums(const struct sums *old, const struct sums *new)
{
    return new->records == old->records &&new->bytes == old->bytes &&new->digest ==
           old->digest &&new->expiring <= old->expiring;
}

/* The one place that stores a record again. */
static int put_again(struct bitkv *db, const bitkv_record *record)
{
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_hash hash = bkv_hash(&db->hash_key, record->key, record->key_size);
    rc = bkv_partition_put_until(bkv_route(db, &hash), &hash, record, bkv_shown_deadline(record),
                                 BITKV_DURABILITY_NONE);
    bkv_epoch_exit(slot);
    return rc;
}

struct pass {
    struct work *w;
    struct bitkv *to; /* NULL: only add up */
    struct sums sums;
};

static int take_record(void *user, const bitkv_record *record)
{
    struct pass *pass = user;
    add_up(&pass->sums, record);
    int rc = pass->to != NULL ? put_again(pass->to, record) : BITKV_OK;
    return rc == BITKV_OK ? advance(pass->w, record) : rc;
}

/* The new one's files may be read by whoever may read the old one's. */
static int copy_modes(const struct work *w, bitkv_options *options)
{
    struct bkv_dir *dir = &w->old->store.dir;
    struct bkv_file file;
    struct stat folder;
    struct stat manifest;
    int rc = bkv_file_open(&file, dir, BKV_MANIFEST_NAME, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    if (bkv_io->fstat(dir->fd, &folder) != 0 || bkv_io->fstat(file.fd, &manifest) != 0)
        rc = bkv_error_sys(errno, "cannot stat %s", dir->path);
    bkv_file_close(&file);
    if (rc == BITKV_OK) {
        options->directory_mode = (folder.st_mode & 07777) | 0700;
        options->file_mode = (manifest.st_mode & 0777) | 0600;
    }
    return rc;
}

static int mark_new(struct work *w, mode_t mode)
{
    struct bkv_dir dir = {.fd = -1};
    int rc = bkv_site_make(&w->site, BESIDE, mode);
    if (rc == BITKV_OK)
        rc = bkv_site_enter(&w->site, BESIDE, &dir);
    if (rc == BITKV_OK)
        rc = bkv_marker_write(&dir, BKV_MARKER_REPARTITION, w->old->store.manifest.database_id,
                              NULL);
    bkv_dir_leave(&dir);
    return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
}

static int create_new(struct work *w)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = w->partitions;
    options.io_mode = w->options.io_mode;
    options.durability = BITKV_DURABILITY_NONE;
    if (w->options.max_file_size != 0)
        options.max_file_size = w->options.max_file_size;
    int rc = copy_modes(w, &options);
    if (rc == BITKV_OK)
        rc = mark_new(w, options.directory_mode);
    return rc == BITKV_OK ? bitkv_open(&w->new, w->beside, &options) : rc;
}

static int close_new(struct work *w, int rc)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    int closed = bitkv_close(w->new);
    w->new = NULL;
    return rc == BITKV_OK ? closed : bkv_error(rc, "%s", context);
}

static int fill_new(struct work *w, struct sums *sums)
{
    int rc = create_new(w);
    if (rc != BITKV_OK)
        return rc;
    struct pass pass = {.w = w, .to = w->new};
    rc = bitkv_scan(w->old, BITKV_SCAN_ALL, take_record, &pass);
    if (rc == BITKV_OK)
        rc = bitkv_sync(w->new);
    *sums = pass.sums;
    return close_new(w, rc);
}

/* --- 4: is it the same? ------------------------------------------------------------------------
 */

static int compare_new(struct work *w, const struct sums *sums)
{
    int rc = open_whole(w, &w->new, w->beside);
    if (rc != BITKV_OK)
        return rc;
    struct pass pass = {.w = w};
    rc = bitkv_scan(w->new, BITKV_SCAN_ALL, take_record, &pass);
    if (rc == BITKV_OK && !same_sums(sums, &pass.sums))
        rc = bkv_error(BITKV_ERR_CORRUPT,
                       "%s has %llu records, and %llu were written; or one differs", w->beside,
                       (unsigned long long)pass.sums.records, (unsigned long long)sums->records);
    return rc == BITKV_OK ? BITKV_OK : close_new(w, rc);
}

/* --- 5 to 7
 * --------------------------------------------------------------------------------------- */

static int still_ours(struct work *w)
{
    bool old = false;
    bool new = false;
    int rc = bkv_site_is(&w->site, "", &w->old->store.dir, &old);
    if (rc == BITKV_OK)
        rc = bkv_site_is(&w->site, BESIDE, &w->new->store.dir, &new);
    if (rc == BITKV_OK && !(old && new))
        rc = bkv_error(BITKV_ERR_LOCKED, "somebody has moved %s or %s meanwhile", w->site.path,
                       w->beside);
    return rc;
}

/* With both locks held. */
static int remove_old(struct work *w)
{
    int rc = bkv_erase(&w->old->store.dir, BKV_MANIFEST_NAME);
    if (rc == BITKV_OK)
        rc = bkv_site_remove(&w->site, BESIDE);
    if (rc == BITKV_OK)
        rc = bkv_site_sync(&w->site);
    if (rc == BITKV_OK)
        rc = bkv_marker_remove(&w->new->store.dir, BKV_MARKER_REPARTITION);
    if (rc == BITKV_OK)
        return BITKV_OK;
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    return bkv_error(rc,
                     "%s has its partitions, but what was there before is not quite removed: "
                     "%.300s",
                     w->site.path, context);
}

/* Best effort: the next run does what is left to do. */
static void drop_new(struct work *w)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    (void)remove_leftover(w);
    bkv_error_context_set(context);
}

static int replace(struct work *w)
{
    struct sums sums = {0};
    int rc = fill_new(w, &sums);
    if (rc == BITKV_OK)
        rc = compare_new(w, &sums);
    if (rc == BITKV_OK) {
        rc = still_ours(w);
        if (rc == BITKV_OK)
            rc = bkv_site_exchange(&w->site, BESIDE);
        if (rc != BITKV_OK)
            rc = close_new(w, rc);
    }
    if (rc != BITKV_OK) {
        drop_new(w);
        return rc;
    }
    rc = bkv_site_sync(&w->site);
    return rc == BITKV_OK ? remove_old(w) : rc;
}

static int count_bytes(struct work *w)
{
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    int rc = bitkv_stats(w->old, BITKV_ALL_PARTITIONS, &statistics);
    w->total = 2 * statistics.live_bytes; /* written, and read again */
    return rc;
}

static int run(struct work *w, const char *directory)
{
    int rc = bkv_site_open(&w->site, directory);
    if (rc == BITKV_OK)
        rc = compose_beside(w);
    if (rc == BITKV_OK)
        rc = open_whole(w, &w->old, w->site.path);
    if (rc == BITKV_OK)
        rc = remove_leftover(w);
    if (rc == BITKV_OK)
        rc = bkv_marker_remove(&w->old->store.dir, BKV_MARKER_REPARTITION);
    if (rc != BITKV_OK || w->old->partition_count == w->partitions)
        return rc;
    rc = bkv_erase_check(&w->old->store.dir);
    if (rc == BITKV_OK)
        rc = count_bytes(w);
    return rc == BITKV_OK ? replace(w) : rc;
}

int bitkv_repartition(const char *directory, uint32_t partitions,
                      const bitkv_repartition_options *options)
{
    struct work w = {.site = {.parent = -1}, .partitions = partitions};
    int rc = check_arguments(&w, directory, options);
    if (rc != BITKV_OK)
        return rc;
    rc = run(&w, directory);
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    (void)bitkv_close(w.new); /* read-only: nothing that could fail */
    (void)bitkv_close(w.old);
    bkv_site_close(&w.site);
    bkv_mfree(w.beside);
    return rc == BITKV_OK ? BITKV_OK : bkv_error(rc, "%s", context);
}
