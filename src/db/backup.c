/* SPDX-License-Identifier: MIT */
/*
 * Backups of an open database.
 *
 *   1  look at the target: nothing, an empty directory, an earlier backup
 *   2  <target>.partial: made, locked, emptied of what a crash left, marked
 *   3  the moment: all partitions locked, in order of their index, their
 *      segments noted, holds begun; microseconds
 *   4  their files linked or copied, synced, verified (partition/backup.c); of a
 *      follower whose writer has unlinked some: once more from 3, after a refresh
 *   5  MANIFEST, last of all; then the swap, one system call; parent synced
 *   6  the earlier backup, now <target>.partial, removed
 *
 * The marker BACKUP is the first file of a directory that is being filled and
 * the last of one that is being removed, so that whatever a crash leaves can be
 * told from somebody else's directory. It names the database; opening for
 * writing takes it away (open.c), so a backup that has it is as it was made,
 * and nobody's work is lost with it.
 *
 * Failure modes: whatever fails before the swap removes the partial directory,
 * as far as it can be, and leaves the target as it was. If the parent cannot be
 * synced after the swap, that is the error, though the backup is in its place.
 * What is left of an earlier backup is only a warning.
 */
#include "db/call.h"
#include "db/long_call.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "io/site.h"
#include "log/erase.h"
#include "log/filename.h"
#include "log/marker.h"
#include "partition/backup.h"

#include <stdio.h>
#include <string.h>

#define PARTIAL ".partial"

struct backup {
    struct bitkv *db;
    struct bkv_site site;
    struct bkv_dir to;      /* <target>.partial */
    struct bkv_dir earlier; /* what the target is; fd -1: nothing to be replaced */
    bitkv_backup_options options;
    struct bkv_backup_part *parts;
    struct bkv_backup_job job;
};

/* --- options ---------------------------------------------------------------- */

void bitkv_backup_options_init_sized(bitkv_backup_options *options, size_t struct_size)
{
    if (options == NULL)
        return;
    memset(options, 0, struct_size);
    options->struct_size = struct_size;
}

static int check_options(bitkv_backup_options *out, const bitkv_backup_options *given)
{
    bitkv_backup_options_init(out);
    if (given == NULL)
        return BITKV_OK;
    size_t size = given->struct_size;
    if (size != sizeof *out)
        return bkv_error(BITKV_ERR_INVALID,
                         "backup options have %zu bytes, not %zu: call "
                         "bitkv_backup_options_init() first",
                         size, sizeof *out);
    *out = *given;
    for (size_t i = 0; i < sizeof out->reserved / sizeof out->reserved[0]; i++) {
        if (out->reserved[i] != 0)
            return bkv_error(BITKV_ERR_INVALID, "a reserved option is not zero: call "
                                                "bitkv_backup_options_init() first");
    }
    return BITKV_OK;
}

/* --- 1: the target ----------------------------------------------------------- */

static int refuse_target(const struct bkv_dir *dir, bool marked)
{
    return bkv_error(BITKV_ERR_EXISTS,
                     marked ? "%s is a backup of another database; choose another target, or "
                              "remove it"
                            : "%s is not empty, and no backup that was left as it was made; choose "
                              "another target, or move it away",
                     dir->path);
}

static int check_marker(struct backup *b)
{
    uint8_t id[16];
    bool marked = false;
    int rc = bkv_marker_read(&b->earlier, BKV_MARKER_BACKUP, &marked, id, NULL);
    if (rc == BITKV_OK &&
        (!marked || memcmp(id, b->db->store.manifest.database_id, sizeof id) != 0))
        rc = refuse_target(&b->earlier, marked);
    return rc;
}

/* A directory that is there: ours to replace? Stays open if there is something
 * in it. The marker is looked at again under the lock: somebody may just have made a
 * database of it. */
static int judge_target(struct backup *b)
{
    bool empty = false;
    int rc = bkv_dir_empty(&b->earlier, &empty);
    if (rc == BITKV_OK && empty) {
        bkv_dir_leave(&b->earlier);
        return BITKV_OK;
    }
    if (rc == BITKV_OK)
        rc = check_marker(b);
    if (rc == BITKV_OK)
        rc = bkv_dir_lock(&b->earlier);
    if (rc == BITKV_OK)
        rc = check_marker(b);
    return rc == BITKV_OK ? bkv_erase_check(&b->earlier) : rc;
}

static int look_at_target(struct backup *b, const char *target)
{
    bool within;
    int rc = bkv_site_open(&b->site, target);
    if (rc == BITKV_ERR_NO_DATABASE) /* what it is to a database that is looked for */
        return bkv_error(BITKV_ERR_INVALID,
                         "the parent directory of the target, %s, does not exist; create that "
                         "first",
                         target);
    if (rc == BITKV_OK)
        rc = bkv_site_within(&b->site, &b->db->store.dir, &within);
    if (rc == BITKV_OK && within)
        rc = bkv_error(BITKV_ERR_INVALID, "%s is inside of the database; a backup goes elsewhere",
                       b->site.path);
    if (rc == BITKV_OK)
        rc = bkv_site_enter(&b->site, "", &b->earlier);
    if (rc == BITKV_NOT_FOUND)
        return BITKV_OK;
    return rc == BITKV_OK ? judge_target(b) : rc;
}

/* --- 2: the directory that is filled -------------------------------------------- */

/* What is in it is removed, if it is ours for sure. A marker that did not get
 * its name yet is all that is ever there without one. */
static int empty_partial(struct backup *b)
{
    uint8_t id[16];
    bool empty = false;
    bool marked = false;
    int rc = bkv_dir_unlink(&b->to, BKV_BACKUP_NAME ".tmp");
    if (rc == BITKV_OK)
        rc = bkv_dir_empty(&b->to, &empty);
    if (rc != BITKV_OK || empty)
        return rc;
    rc = bkv_marker_read(&b->to, BKV_MARKER_BACKUP, &marked, id, NULL);
    if (rc == BITKV_OK &&
        (!marked || memcmp(id, b->db->store.manifest.database_id, sizeof id) != 0))
        rc = bkv_error(BITKV_ERR_EXISTS,
                       "%s is in the way, and not what an interrupted backup of "
                       "this database leaves; move it away",
                       b->to.path);
    if (rc == BITKV_OK)
        rc = bkv_erase_check(&b->to);
    return rc == BITKV_OK ? bkv_erase(&b->to, BKV_BACKUP_NAME) : rc;
}

static int begin_partial(struct backup *b)
{
    const struct bkv_dir *ours = &b->db->store.dir;
    bool same = false;
    int rc = bkv_site_make(&b->site, PARTIAL, ours->dir_mode);
    if (rc == BITKV_OK)
        rc = bkv_site_enter(&b->site, PARTIAL, &b->to);
    if (rc == BITKV_OK)
        rc = bkv_dir_lock(&b->to);
    if (rc == BITKV_OK)
        rc = bkv_site_is(&b->site, PARTIAL, &b->to, &same);
    /* Another backup has just moved it to its place. */
    if (rc == BITKV_NOT_FOUND || (rc == BITKV_OK && !same))
        rc = bkv_error(BITKV_ERR_LOCKED, "another backup to %s is being made", b->site.path);
    if (rc != BITKV_OK) {
        bkv_dir_leave(&b->to);
        return rc;
    }
    b->to.file_mode = ours->file_mode;
    b->to.dir_mode = ours->dir_mode;
    rc = empty_partial(b);
    if (rc != BITKV_OK) {
        bkv_dir_leave(&b->to);
        return rc;
    }
    return bkv_marker_write(&b->to, BKV_MARKER_BACKUP, b->db->store.manifest.database_id, NULL);
}

/* Best effort: the next backup does what is left to do. */
static void drop_partial(struct backup *b)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    if (bkv_erase(&b->to, BKV_BACKUP_NAME) == BITKV_OK)
        (void)bkv_site_remove(&b->site, PARTIAL);
    bkv_error_context_set(context);
}

/* --- 3: the moment --------------------------------------------------------------- */

static int reserve(struct backup *b)
{
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < b->db->partition_count && rc == BITKV_OK; i++)
        rc = bkv_backup_reserve(&b->parts[i], b->db->partitions[i]);
    return rc;
}

/* No write is in the middle of anything while all locks are held, and none that
 * comes later is seen: what is noted is the database at one moment. */
static bool note_all(struct backup *b)
{
    uint32_t count = b->db->partition_count;
    bool fits = true;
    for (uint32_t i = 0; i < count; i++)
        bkv_partition_lock(b->db->partitions[i]);
    for (uint32_t i = 0; i < count && fits; i++)
        fits = bkv_backup_fits(&b->parts[i]);
    for (uint32_t i = 0; i < count && fits; i++)
        bkv_backup_note(&b->parts[i]);
    for (uint32_t i = count; i-- > 0;)
        bkv_partition_unlock(b->db->partitions[i]);
    return fits;
}

static int take_moment(struct backup *b)
{
    b->parts = bkv_calloc(b->db->partition_count, sizeof *b->parts);
    if (b->parts == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a backup");
    int rc = bkv_store_moment_begin(&b->db->store);
    if (rc == BITKV_OK) {
        do
            rc = reserve(b);
        while (rc == BITKV_OK && !note_all(b));
    }
    bkv_store_moment_end(&b->db->store);
    for (uint32_t i = 0; i < b->db->partition_count && rc == BITKV_OK; i++)
        b->job.total += bkv_backup_bytes(&b->parts[i]);
    return rc;
}

static void end_moment(struct backup *b)
{
    for (uint32_t i = 0; b->parts != NULL && i < b->db->partition_count; i++)
        bkv_backup_end(&b->parts[i]);
    bkv_mfree(b->parts);
    b->parts = NULL;
}

/* --- 4 to 6 ------------------------------------------------------------------------ */

static int fill_once(struct backup *b)
{
    int rc = take_moment(b);
    for (uint32_t i = 0; i < b->db->partition_count && rc == BITKV_OK; i++)
        rc = bkv_backup_store(&b->parts[i], &b->job);
    end_moment(b);
    return rc == BITKV_OK ? bkv_manifest_write(&b->to, &b->db->store.manifest) : rc;
}

/* How often a follower takes a later moment, when its writer has unlinked files. */
#define MOMENTS_MAX 10u

/* All that was stored is of another moment. */
static int begin_anew(struct backup *b, unsigned attempt)
{
    bkv_sleep_us(attempt * 1000);
    int rc = empty_partial(b);
    if (rc == BITKV_OK)
        rc = bkv_marker_write(&b->to, BKV_MARKER_BACKUP, b->db->store.manifest.database_id, NULL);
    b->job.report = (bitkv_backup_report){0};
    b->job.total = b->job.done; /* goes on from there */
    return rc == BITKV_OK ? bkv_store_refresh(&b->db->store) : rc;
}

/* All is there: the marker says what that is. */
static int seal(struct backup *b)
{
    struct bkv_contents contents;
    int rc = bkv_contents_sum(&b->to, b->db->partition_count, true, &contents);
    return rc == BITKV_OK ? bkv_marker_write(&b->to, BKV_MARKER_BACKUP,
                                             b->db->store.manifest.database_id, &contents)
                          : rc;
}

static int fill(struct backup *b)
{
    int rc = fill_once(b);
    for (unsigned i = 1; rc == BKV_READ_AGAIN && i < MOMENTS_MAX; i++) {
        rc = begin_anew(b, i);
        if (rc == BITKV_OK)
            rc = fill_once(b);
    }
    if (rc == BITKV_OK)
        rc = seal(b);
    return rc == BKV_READ_AGAIN ? BITKV_ERR_IO : rc;
}

static void remove_earlier(struct backup *b)
{
    bool is = false;
    int rc = bkv_site_is(&b->site, PARTIAL, &b->earlier, &is);
    if (rc == BITKV_OK && !is)
        rc = bkv_error(BITKV_ERR_LOCKED, "somebody has moved %s" PARTIAL, b->site.path);
    if (rc == BITKV_OK)
        rc = bkv_erase(&b->earlier, BKV_BACKUP_NAME);
    if (rc == BITKV_OK)
        rc = bkv_site_remove(&b->site, PARTIAL);
    if (rc == BITKV_OK)
        rc = bkv_site_sync(&b->site);
    if (rc != BITKV_OK)
        bkv_log(&b->db->store, BITKV_LOG_WARNING, "an earlier backup is not quite removed: %s",
                bitkv_error_context());
}

/* What is exchanged, and what is erased then, is what was looked at and locked. */
static int still_ours(struct backup *b)
{
    bool target = false;
    bool partial = false;
    int rc = bkv_site_is(&b->site, "", &b->earlier, &target);
    if (rc == BITKV_OK)
        rc = bkv_site_is(&b->site, PARTIAL, &b->to, &partial);
    if (rc == BITKV_OK && !(target && partial))
        rc = bkv_error(BITKV_ERR_LOCKED, "somebody has moved %s meanwhile", b->site.path);
    return rc;
}

static int put_in_place(struct backup *b)
{
    bool replaces = b->earlier.fd >= 0;
    int rc = replaces ? still_ours(b) : BITKV_OK;
    if (rc == BITKV_OK)
        rc = replaces ? bkv_site_exchange(&b->site, PARTIAL) : bkv_site_move_in(&b->site, PARTIAL);
    if (rc != BITKV_OK) {
        drop_partial(b);
        return rc;
    }
    rc = bkv_site_sync(&b->site);
    if (rc == BITKV_OK && replaces)
        remove_earlier(b);
    return rc;
}

static int run(struct backup *b, const char *target)
{
    int rc = look_at_target(b, target);
    if (rc != BITKV_OK)
        return rc;
    rc = begin_partial(b);
    if (b->to.fd < 0)
        return rc;
    b->job.to = &b->to;
    b->job.earlier = b->earlier.fd >= 0 ? &b->earlier : NULL;
    b->job.options = &b->options;
    b->job.stop = &b->db->closing;
    if (rc == BITKV_OK)
        rc = fill(b);
    if (rc != BITKV_OK) {
        drop_partial(b);
        return rc;
    }
    return put_in_place(b);
}

int bitkv_backup(bitkv *db, const char *target_directory, const bitkv_backup_options *options)
{
    if (target_directory == NULL || target_directory[0] == '\0')
        return bkv_error(BITKV_ERR_INVALID, "bitkv_backup: no target directory");
    struct backup b = {.db = db, .site = {.parent = -1}, .to = {.fd = -1}, .earlier = {.fd = -1}};
    int rc = check_options(&b.options, options);
    if (rc != BITKV_OK)
        return rc;
    uint64_t begun = bkv_now_ns();
    struct bkv_long_call call;
    rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bkv_long_leave(&call);
    rc = run(&b, target_directory);
    bkv_dir_leave(&b.to);
    bkv_dir_leave(&b.earlier);
    bkv_site_close(&b.site);
    bkv_long_end(&call);
    b.job.report.duration_ns = bkv_now_ns() - begun;
    if (rc == BITKV_OK && b.options.report != NULL)
        *b.options.report = b.job.report;
    return rc;
}
