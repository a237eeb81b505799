/* SPDX-License-Identifier: MIT */
/*
 * The files of a partition, into a backup.
 *
 *   FINISHED, with its hint   never changed again: a second name for both files
 *                             (a hard link), or where none can be had, those of
 *                             an earlier backup beside the target, if they are
 *                             the same byte for byte, or a copy
 *   any other                 copied up to where it ended at the moment of the
 *                             backup, without a hint
 *
 * A segment that was full at that moment and became FINISHED since then counts
 * as FINISHED: it is the same bytes. The KeyDir's checkpoint is left out: it may
 * know more than the backup has. Deferred keys need not be settled either, as
 * they are in the log.
 *
 * A linked file is shared with the database, so whoever opens either for
 * writing must not change it. Recovery cuts and appends to segments without a
 * hint only, and never to a file that has further names (repair.c). So here:
 * what is linked has a hint that verifies, describes all of its segment, and is
 * exactly as long.
 *
 * Everything is verified where it has arrived: copies record by record; linked
 * data by header, size and inode, and record by record if that is asked for.
 * The hint of a link is read as a whole: the backup rests on it.
 *
 * Failure modes: any error ends the backup, and db/backup.c removes what is
 * there of it. Damage in the database's own files is BITKV_ERR_CORRUPT, which
 * names it, unless it is accepted; such a segment has no hint, or loses it.
 */
#include "partition/backup.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "io/copy.h"
#include "io/io.h"
#include "log/filename.h"
#include "log/hint.h"
#include "log/scan.h"
#include "log/segment.h"
#include "partition/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Segments that may come between counting them and noting them. */
#define SPARE_ROOM 64u

/* --- the moment ------------------------------------------------------------------ */

int bkv_backup_reserve(struct bkv_backup_part *part, struct bkv_partition *p)
{
    part->partition = p;
    size_t count = SPARE_ROOM;
    bkv_lock(&p->lock);
    for (const struct bkv_segment *s = p->first; s != NULL; s = s->next)
        count++;
    bkv_unlock(&p->lock);
    if (count <= part->capacity)
        return BITKV_OK;
    struct bkv_backup_segment *larger = bkv_realloc(part->segments, count * sizeof *larger);
    if (larger == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list the segments of partition %u",
                         p->index);
    part->segments = larger;
    part->capacity = count;
    return BITKV_OK;
}

bool bkv_backup_fits(const struct bkv_backup_part *part)
{
    size_t count = 0;
    for (const struct bkv_segment *s = part->partition->first; s != NULL; s = s->next)
        count++;
    return count <= part->capacity;
}

void bkv_backup_note(struct bkv_backup_part *part)
{
    struct bkv_partition *p = part->partition;
    part->count = 0;
    for (const struct bkv_segment *s = p->first; s != NULL; s = s->next)
        part->segments[part->count++] = (struct bkv_backup_segment){
            .segment = s, .id = s->id, .seed = s->seed, .size = bkv_segment_committed(p->store, s)};
    bkv_hold_begin(p, &part->hold);
    part->held = true;
}

uint64_t bkv_backup_bytes(const struct bkv_backup_part *part)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < part->count; i++)
        sum += part->segments[i].size;
    return sum;
}

void bkv_backup_end(struct bkv_backup_part *part)
{
    if (part->held)
        bkv_hold_end(part->partition, &part->hold);
    part->held = false;
    bkv_mfree(part->segments);
    part->segments = NULL;
}

/* --- telling and stopping ----------------------------------------------------------- */

static int advance(void *user, uint64_t bytes)
{
    struct bkv_backup_job *job = user;
    job->done += bytes;
    if (atomic_load_explicit(job->stop, memory_order_relaxed))
        return bkv_error(BITKV_ERR_CLOSED, "closed during a backup");
    if (job->options->progress != NULL &&
        job->options->progress(job->options->user, job->done, job->total) != 0)
        return bkv_error(BITKV_ERR_CANCELED, "the backup was canceled by its progress callback");
    return BITKV_OK;
}

/* --- a file of the segment at hand ---------------------------------------------------- */

struct item {
    struct bkv_backup_job *job;
    struct bkv_partition *p;
    const struct bkv_backup_segment *what;
    char data[BKV_NAME_SIZE], hint[BKV_NAME_SIZE];
    bool damaged; /* what arrived does not verify as a whole, and that is accepted */
};

static int open_in(struct bkv_file *file, struct bkv_dir *dir, const char *name, int flags)
{
    int rc = bkv_file_open(file, dir, name, flags);
    return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
}

/* Its size in `dir`; *there = false if it is not there. */
static int size_in(struct bkv_dir *dir, const char *name, bool *there, uint64_t *size)
{
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, name, O_RDONLY);
    *there = rc == BITKV_OK;
    if (!*there)
        return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
    rc = bkv_file_size(&file, size);
    bkv_file_close(&file);
    return rc;
}

static int copy_open(struct item *item, const char *name, const struct bkv_file *from,
                     uint64_t size, bkv_copy_progress progress)
{
    struct bkv_file to;
    int rc = open_in(&to, item->job->to, name, O_RDWR | O_CREAT | O_EXCL);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_copy(from, &to, size, progress, item->job);
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&to);
    bkv_file_close(&to);
    return rc;
}

static int copy_file(struct item *item, const char *name, uint64_t size, bkv_copy_progress progress)
{
    struct bkv_file from;
    int rc = open_in(&from, &item->p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    rc = copy_open(item, name, &from, size, progress);
    bkv_file_close(&from);
    if (rc == BITKV_OK) {
        item->job->report.files_copied++;
        item->job->report.bytes_copied += size;
    }
    return rc;
}

/* For bytes that do not count, or have been counted. */
static int keep_asking(void *user, uint64_t bytes)
{
    (void)bytes;
    return advance(user, 0);
}

/* The file of `dir` under the same name; *linked as of bkv_file_link(). */
static int link_file(struct item *item, struct bkv_dir *dir, const char *name, bool *linked)
{
    int rc = bkv_file_link(dir, item->job->to, name, linked);
    if (rc != BITKV_OK || !*linked)
        return rc;
    struct bkv_file a;
    struct bkv_file b = BKV_FILE_NONE;
    bool same = false;
    rc = open_in(&a, dir, name, O_RDONLY);
    if (rc == BITKV_OK)
        rc = open_in(&b, item->job->to, name, O_RDONLY);
    if (rc == BITKV_OK)
        rc = bkv_file_same(&a, &b, &same);
    if (rc == BITKV_OK && !same)
        rc = bkv_error(BITKV_ERR_IO, "%s/%s is not the file that was linked", item->job->to->path,
                       name);
    bkv_file_close(&a);
    bkv_file_close(&b);
    return rc;
}

/* --- verifying what has arrived ---------------------------------------------------------- */

static int note_damage(struct item *item, const struct bkv_file *file, uint64_t offset,
                       uint64_t size)
{
    if (!item->job->options->accept_damage)
        return bkv_error(BITKV_ERR_CORRUPT,
                         "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": the database is damaged "
                         "here; accept_damage backs up the rest of it",
                         item->p->store->dir.path, file->name, offset, size);
    item->damaged = true;
    item->job->report.damaged_bytes += size;
    bkv_log(item->p->store, BITKV_LOG_WARNING,
            "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": backed up with its damage",
            item->p->store->dir.path, file->name, offset, size);
    return BITKV_OK;
}

static int check_header(struct item *item, const struct bkv_file *file)
{
    struct bkv_segment_header header = {.partition = item->p->index, .id = item->what->id};
    memcpy(header.database_id, item->p->store->manifest.database_id, sizeof header.database_id);
    enum bkv_segment_state state;
    int rc = bkv_segment_header_read(file, &header, &state);
    if (rc == BITKV_OK && state != BKV_SEGMENT_VALID)
        rc = note_damage(item, file, 0, BKV_SEGMENT_HEADER);
    return rc;
}

static int check_records(struct item *item, const struct bkv_file *file, bkv_copy_progress progress)
{
    struct bkv_scanner scanner;
    struct bkv_scan_item found = {.kind = BKV_SCAN_RECORD};
    int rc =
        bkv_scanner_begin(&scanner, file, item->what->seed, BKV_SEGMENT_HEADER, item->what->size);
    uint64_t told = 0;
    while (rc == BITKV_OK && found.kind != BKV_SCAN_END) {
        rc = bkv_scanner_next(&scanner, &found);
        /* Zeros below the end are missing records. */
        if (rc == BITKV_OK && found.kind != BKV_SCAN_RECORD && found.size > 0)
            rc = note_damage(item, file, found.offset, found.size);
        uint64_t at = found.offset + found.size;
        if (rc == BITKV_OK && (at - told > BKV_SCAN_WINDOW_BYTES || found.kind == BKV_SCAN_END)) {
            rc = progress(item->job, at - told);
            told = at;
        }
    }
    bkv_scanner_end(&scanner);
    return rc;
}

/* The data file, whole: size, header, and the records if `progress` is given. */
static int check_data(struct item *item, bkv_copy_progress progress)
{
    struct bkv_file file;
    uint64_t size = 0;
    int rc = open_in(&file, item->job->to, item->data, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_size(&file, &size);
    if (rc == BITKV_OK && size != item->what->size)
        rc = bkv_error(BITKV_ERR_CORRUPT, "%s/%s has %" PRIu64 " bytes, not %" PRIu64,
                       item->job->to->path, item->data, size, item->what->size);
    if (rc == BITKV_OK)
        rc = check_header(item, &file);
    if (rc == BITKV_OK && progress != NULL)
        rc = check_records(item, &file, progress);
    bkv_file_close(&file);
    return rc;
}

/* *sound: the hint in `dir` verifies and describes all of the segment. */
static int check_hint(struct item *item, struct bkv_dir *dir, bool *sound)
{
    struct bkv_hint_info info = bkv_hint_info_for(item->p, item->what->id, item->what->size);
    struct bkv_hint_reader reader;
    int rc = bkv_hint_open(&reader, dir, &info);
    *sound = rc == BITKV_OK && reader.info.data_size == item->what->size;
    if (rc == BITKV_OK)
        bkv_hint_close(&reader);
    return rc == BITKV_ERR_CORRUPT || rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

/* --- a segment that does not change any more ------------------------------------------------ */

static bool is_finished(const struct bkv_backup_segment *what)
{
    const struct bkv_segment *s = what->segment;
    return atomic_load_explicit(&s->phase, memory_order_acquire) == BKV_PHASE_FINISHED &&
           atomic_load(&s->hint_bytes) != 0 && atomic_load(&s->size) == what->size;
}

/* Both files of the segment from `dir`, or neither. */
static int link_both(struct item *item, struct bkv_dir *dir, bool *linked)
{
    int rc = link_file(item, dir, item->data, linked);
    if (rc != BITKV_OK || !*linked)
        return rc;
    rc = link_file(item, dir, item->hint, linked);
    if (rc == BITKV_OK && !*linked)
        rc = bkv_dir_unlink(item->job->to, item->data);
    if (rc == BITKV_OK && *linked) {
        item->job->report.files_linked += 2;
        item->job->report.bytes_linked += item->what->size;
    }
    return rc;
}

static int read_hint_header(struct bkv_dir *dir, const char *name, uint8_t *header)
{
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_read_exact(&file, header, BKV_HINT_HEADER, 0);
    bkv_file_close(&file);
    return rc;
}

/* The data of `dir`, byte for byte that of the database? */
static int same_data(struct item *item, struct bkv_dir *dir, bool *same)
{
    struct bkv_file a;
    struct bkv_file b = BKV_FILE_NONE;
    *same = false;
    int rc = open_in(&a, &item->p->store->dir, item->data, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    rc = open_in(&b, dir, item->data, O_RDONLY);
    if (rc == BITKV_OK)
        rc = bkv_file_equal(&a, &b, item->what->size, keep_asking, item->job, same);
    bkv_file_close(&a);
    bkv_file_close(&b);
    return rc;
}

/* Does the earlier backup have this very segment? Only FINISHED ones have a hint
 * there. The hints' headers hold the checksum of all keys and places, and the
 * sequence numbers from first to last; but a database that was put back to an
 * older state and went on from there has other values under the same numbers, and
 * perhaps in the same places. So hints only say where comparing is worth it. */
static int find_earlier(struct item *item, bool *found)
{
    struct bkv_dir *earlier = item->job->earlier;
    *found = false;
    if (earlier == NULL)
        return BITKV_OK;
    uint64_t size = 0;
    int rc = size_in(earlier, item->data, found, &size);
    if (rc != BITKV_OK || !*found)
        return rc;
    uint8_t ours[BKV_HINT_HEADER] = {0};
    uint8_t theirs[BKV_HINT_HEADER] = {0};
    rc = read_hint_header(&item->p->store->dir, item->hint, ours);
    if (rc == BITKV_OK)
        rc = read_hint_header(earlier, item->hint, theirs);
    *found = rc == BITKV_OK && size == item->what->size && memcmp(ours, theirs, sizeof ours) == 0;
    return rc == BITKV_NOT_FOUND || rc == BITKV_ERR_CORRUPT ? BITKV_OK : rc;
}

static int link_any(struct item *item, bool *linked)
{
    struct bkv_backup_job *job = item->job;
    *linked = false;
    if (job->options->no_links)
        return BITKV_OK;
    int rc = BITKV_OK;
    if (!job->unlinkable) {
        rc = link_both(item, &item->p->store->dir, linked);
        job->unlinkable = rc == BITKV_OK && !*linked;
    }
    if (rc != BITKV_OK || *linked)
        return rc;
    bool earlier;
    rc = find_earlier(item, &earlier);
    if (rc == BITKV_OK && earlier)
        rc = check_hint(item, job->earlier, &earlier);
    if (rc == BITKV_OK && earlier)
        rc = same_data(item, job->earlier, &earlier);
    if (rc == BITKV_OK && earlier)
        rc = link_both(item, job->earlier, linked);
    return rc;
}

static int store_copy(struct item *item)
{
    int rc = copy_file(item, item->data, item->what->size, advance);
    if (rc == BITKV_OK)
        rc = check_data(item, keep_asking);
    return rc;
}

/* Without its hint, which would hide from every opening what is wrong, and so
 * without a link. */
static int store_damaged(struct item *item)
{
    struct bkv_backup_job *job = item->job;
    job->report.files_linked -= 2;
    job->report.bytes_linked -= item->what->size;
    int rc = bkv_dir_unlink(job->to, item->hint);
    if (rc == BITKV_OK)
        rc = bkv_dir_unlink(job->to, item->data);
    if (rc == BITKV_OK)
        rc = copy_file(item, item->data, item->what->size, keep_asking);
    return rc;
}

static int check_linked(struct item *item)
{
    bool verify = item->job->options->verify;
    int rc = check_data(item, verify ? advance : NULL);
    if (rc == BITKV_OK && !verify)
        rc = advance(item->job, item->what->size);
    return rc == BITKV_OK && item->damaged ? store_damaged(item) : rc;
}

static int check_arrived_hint(struct item *item)
{
    bool sound;
    int rc = check_hint(item, item->job->to, &sound);
    if (rc == BITKV_OK && !sound)
        rc = bkv_error(BITKV_ERR_CORRUPT, "%s/%s does not verify", item->job->to->path, item->hint);
    return rc;
}

/* Should somebody have removed it since it was looked at: a copy needs none. */
static int copy_hint(struct item *item)
{
    bool there;
    uint64_t size = 0;
    int rc = size_in(&item->p->store->dir, item->hint, &there, &size);
    if (rc != BITKV_OK || !there)
        return rc;
    rc = copy_file(item, item->hint, size, keep_asking);
    return rc == BITKV_OK ? check_arrived_hint(item) : rc;
}

static int store_finished(struct item *item)
{
    bool sound;
    bool linked;
    int rc = check_hint(item, &item->p->store->dir, &sound);
    if (rc != BITKV_OK)
        return rc;
    if (!sound)
        return store_copy(item);
    rc = link_any(item, &linked);
    if (rc == BITKV_OK && linked)
        return check_linked(item);
    if (rc == BITKV_OK)
        rc = store_copy(item);
    if (rc != BITKV_OK || item->damaged)
        return rc;
    return copy_hint(item);
}

/* --- the part -----------------------------------------------------------------------------------
 */

static int store_segment(struct bkv_backup_job *job, struct bkv_partition *p,
                         const struct bkv_backup_segment *what)
{
    struct item item = {.job = job, .p = p, .what = what};
    bkv_name_data(item.data, p->index, what->id);
    bkv_name_hint(item.hint, p->index, what->id);
    BKV_SCHEDULE_POINT("backup.noted");
    return is_finished(what) ? store_finished(&item) : store_copy(&item);
}

/* A follower's writer unlinks what he has compacted: was it that? */
static int gone_or(int rc, struct bkv_backup_job *job, struct bkv_partition *p,
                   const struct bkv_backup_segment *what)
{
    if (rc == BITKV_OK || !p->store->options.read_only ||
        atomic_load_explicit(job->stop, memory_order_relaxed))
        return rc;
    char context[BKV_ERROR_CONTEXT_SIZE];
    char name[BKV_NAME_SIZE];
    bool data = true;
    bool hint = true;
    uint64_t size;
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    bkv_name_data(name, p->index, what->id);
    (void)size_in(&p->store->dir, name, &data, &size);
    bkv_name_hint(name, p->index, what->id);
    if (is_finished(what))
        (void)size_in(&p->store->dir, name, &hint, &size);
    bkv_error_context_set(context);
    return data && hint ? rc : BKV_READ_AGAIN;
}

int bkv_backup_store(struct bkv_backup_part *part, struct bkv_backup_job *job)
{
    char folder[BKV_NAME_SIZE];
    bkv_name_partition(folder, part->partition->index);
    if (bkv_io->mkdirat(job->to->fd, folder, job->to->dir_mode) != 0)
        return bkv_error_sys(errno, "cannot create directory %s/%s", job->to->path, folder);
    int rc = BITKV_OK;
    for (size_t i = 0; i < part->count && rc == BITKV_OK; i++)
        rc = gone_or(store_segment(job, part->partition, &part->segments[i]), job, part->partition,
                     &part->segments[i]);
    return rc == BITKV_OK ? bkv_dir_sync(job->to, folder) : rc;
}
