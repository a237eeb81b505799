/* SPDX-License-Identifier: MIT */
/*
 * Recovery: from the files of a partition to a partition that serves.
 *
 *   1. list the directory; read and judge every segment's header
 *   2. put segments in order of their first sequence numbers; drop those that
 *      compaction has replaced, and did not come to remove
 *   3. load the checkpoint, if it fits (recovery_load.c)
 *   4. replay what it does not cover (replay.c), wait for the other partitions if
 *      there are batches that lie in several (batch_recovery.c)
 *   5. repair, unless read-only: remove leftovers, cut the torn tail, drop
 *      what was behind it, leave a mark if rot was skipped (proof.c)
 *   6. go on in the last segment, or begin a new one at the first write
 *
 * But for leftovers of interrupted work, nothing is changed on disk before the
 * replay is through: an opening that fails leaves everything as it was. What step 5 removes is
 * removed from the end of the log backwards: a crash in between leaves a shorter tail to be cut the
 * same way.
 *
 * Failure modes: a directory that can't be listed, a file that can't be read:
 * the opening fails, rather than go on with a part of the data. A segment of
 * another database is damage: reported, never touched. One without a valid
 * header is judged by what is in it: its records are still found by their
 * checksums, and tell its place in the log.
 */
#include "partition/recovery.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/record.h"
#include "log/scan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How often a read-only opening reads what changes under it. */
#define READINGS_MAX 40u

bool bkv_recover_doubts(struct bkv_recover *r, const char *what, uint64_t where)
{
    if (!r->p->store->options.read_only || r->settled)
        return false;
    r->doubt = where + 1;
    for (; *what != '\0'; what++)
        r->doubt = (r->doubt ^ (uint8_t)*what) * UINT64_C(0x100000001b3);
    return true;
}

int bkv_recover_damage(struct bkv_recover *r, const char *name, uint64_t offset, uint64_t size,
                       const char *what)
{
    struct bkv_partition *p = r->p;
    if (bkv_recover_doubts(r, name, offset))
        return BKV_READ_AGAIN;
    p->recovery.damaged_regions++;
    p->recovery.damaged_bytes += size;
    if (p->store->options.strict_recovery)
        return bkv_error(BITKV_ERR_CORRUPT,
                         "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": %s; open without "
                         "strict_recovery to skip it",
                         p->store->dir.path, name, offset, size, what);
    if (r->warnings++ < BKV_DAMAGE_WARNINGS_MAX)
        bkv_log(p->store, BITKV_LOG_WARNING,
                "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": %s; skipped", p->store->dir.path,
                name, offset, size, what);
    return BITKV_OK;
}

int bkv_recover_vanished(const struct bkv_recover *r, int rc)
{
    if (rc != BITKV_NOT_FOUND)
        return rc;
    return r->p->store->options.read_only ? BKV_READ_AGAIN : BITKV_ERR_IO;
}

/* --- 1: what is there --------------------------------------------------------------------- */

static int no_memory(void)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list a partition");
}

static int add_found(struct bkv_recover *r, uint64_t id)
{
    if (!bkv_grow(&r->found, r->count, 1, sizeof *r->found, &r->capacity))
        return no_memory();
    r->found[r->count++] = (struct bkv_found){.id = id};
    return BITKV_OK;
}

static int add_hint(struct bkv_recover *r, uint64_t id)
{
    if (!bkv_grow(&r->orphan_hints, r->orphan_count, 1, sizeof *r->orphan_hints,
                  &r->orphan_capacity))
        return no_memory();
    r->orphan_hints[r->orphan_count++] = id;
    return BITKV_OK;
}

static int remove_leftover(struct bkv_recover *r, const char *name)
{
    struct bkv_partition *p = r->p;
    if (p->store->options.read_only)
        return BITKV_OK;
    p->recovery.removed_files++;
    return bkv_dir_unlink(&p->store->dir, name);
}

static int on_entry(void *user, const char *name)
{
    struct bkv_recover *r = user;
    uint64_t id = 0;
    enum bkv_file_kind kind = bkv_name_parse(name, &id);
    if (id > r->max_id)
        r->max_id = id;
    if (kind == BKV_FILE_DATA)
        return add_found(r, id);
    if (kind == BKV_FILE_HINT)
        return add_hint(r, id);
    r->checkpoint_found |= kind == BKV_FILE_CHECKPOINT;
    r->doubtful |= kind == BKV_FILE_DOUBT;
    r->proof_found |= kind == BKV_FILE_DURABLE;
    if (kind != BKV_FILE_TEMPORARY)
        return BITKV_OK;
    char path[BKV_NAME_SIZE];
    (void)snprintf(path, sizeof path, "partition_%" PRIu32 "/%.40s", r->p->index, name);
    return remove_leftover(r, path);
}

static int judge_header(struct bkv_recover *r, struct bkv_found *f, const struct bkv_file *file)
{
    struct bkv_partition *p = r->p;
    struct bkv_segment_header header = {.partition = p->index, .id = f->id};
    memcpy(header.database_id, p->store->manifest.database_id, sizeof header.database_id);
    int rc = bkv_segment_header_read(file, &header, &f->state);
    if (rc != BITKV_OK)
        return rc;
    f->base_sequence = header.base_sequence;
    f->compacted = f->state == BKV_SEGMENT_VALID && header.kind == BKV_SEGMENT_COMPACTED;
    if (f->compacted)
        f->range_last = header.last_sequence;
    switch (f->state) {
    case BKV_SEGMENT_BLANK:
    case BKV_SEGMENT_DAMAGED:
        return bkv_headless_judge(r, f, file);
    case BKV_SEGMENT_FOREIGN:
        return bkv_recover_damage(r, file->name, 0, f->file_size,
                                  "segment of another database, partition or id");
    case BKV_SEGMENT_NEWER:
        return bkv_error(BITKV_ERR_FORMAT, "%s/%s was written by another version",
                         p->store->dir.path, file->name);
    case BKV_SEGMENT_VALID:
        break;
    }
    f->segment->kind = header.kind;
    return BITKV_OK;
}

static int examine(struct bkv_recover *r, struct bkv_found *f)
{
    struct bkv_partition *p = r->p;
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, f->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return bkv_recover_vanished(r, rc);
    rc = bkv_file_size(&file, &f->file_size);
    if (rc == BITKV_OK) {
        f->segment = bkv_segment_new(p, f->id);
        rc = f->segment != NULL ? judge_header(r, f, &file) : BITKV_ERR_NO_MEMORY;
    }
    if (rc == BITKV_OK) {
        atomic_store(&f->segment->disk_bytes, f->file_size);
        f->segment->base_sequence = f->base_sequence;
        f->segment->kind = f->compacted ? BKV_SEGMENT_COMPACTED : BKV_SEGMENT_STREAM;
    }
    bkv_file_close(&file);
    return rc;
}

/* Segments that hold no records of ours leave the list. */
static int sift(struct bkv_recover *r)
{
    size_t kept = 0;
    int rc = BITKV_OK;
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found f = r->found[i];
        if (f.state == BKV_SEGMENT_BLANK || f.state == BKV_SEGMENT_FOREIGN) {
            char name[BKV_NAME_SIZE];
            bkv_name_data(name, r->p->index, f.id);
            if (f.state == BKV_SEGMENT_BLANK && rc == BITKV_OK)
                rc = remove_leftover(r, name);
            if (f.lost && rc == BITKV_OK)
                rc = bkv_headless_note_lost(r, &f);
            bkv_segment_unref(f.segment);
            continue;
        }
        r->found[kept++] = f;
    }
    r->count = kept;
    return rc;
}

/* Of two that begin alike, that which stands for more comes first, and of two
 * that stand for the same, the later one. */
static int by_sequence(const void *a, const void *b)
{
    const struct bkv_found *x = a;
    const struct bkv_found *y = b;
    if (x->base_sequence != y->base_sequence)
        return x->base_sequence < y->base_sequence ? -1 : 1;
    if (x->range_last != y->range_last)
        return x->range_last > y->range_last ? -1 : 1;
    return x->id > y->id ? -1 : x->id < y->id;
}

/* What lies within the bounds of a compacted segment was its input: the files
 * are removed after it is durable, and that may have been interrupted, or taken
 * back by a power cut. Of one that is damaged they do not count either, but stay:
 * they may have what it has not any more. */
static int drop_superseded(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    uint64_t covered = 0;
    bool sound = true;
    bool synced = p->store->options.read_only;
    size_t kept = 0;
    int rc = BITKV_OK;
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found f = r->found[i];
        if (f.base_sequence > covered || covered == 0) {
            if (f.compacted) {
                covered = f.range_last;
                sound = f.state == BKV_SEGMENT_VALID;
            }
            r->found[kept++] = f;
            continue;
        }
        char name[BKV_NAME_SIZE];
        /* The process may have died between the output's rename and its sync. */
        if (rc == BITKV_OK && sound && !synced) {
            bkv_name_partition(name, p->index);
            rc = bkv_dir_sync(&p->store->dir, name);
            synced = true;
        }
        bkv_name_hint(name, p->index, f.id);
        if (rc == BITKV_OK && f.hint && sound)
            rc = remove_leftover(r, name);
        bkv_name_data(name, p->index, f.id);
        if (rc == BITKV_OK && sound)
            rc = remove_leftover(r, name);
        bkv_segment_unref(f.segment);
    }
    r->count = kept;
    return rc;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

bool bkv_recover_has_hint(const struct bkv_recover *r, uint64_t id)
{
    return r->orphan_count > 0 && bsearch(&id, r->orphan_hints, r->orphan_count,
                                          sizeof *r->orphan_hints, by_number) != NULL;
}

/* Hints go to their segments; what is left over has none. */
static int match_hints(struct bkv_recover *r)
{
    size_t matched = 0;
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        f->hint = bkv_recover_has_hint(r, f->id);
        matched += f->hint;
    }
    for (size_t i = 0; i < r->orphan_count && matched < r->orphan_count; i++) {
        bool owned = bkv_headless_is_lost(r, r->orphan_hints[i]);
        for (size_t k = 0; k < r->count && !owned; k++)
            owned = r->found[k].id == r->orphan_hints[i];
        char name[BKV_NAME_SIZE];
        bkv_name_hint(name, r->p->index, r->orphan_hints[i]);
        int rc = owned ? BITKV_OK : remove_leftover(r, name);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

static int list_files(struct bkv_recover *r)
{
    char directory[BKV_NAME_SIZE];
    bkv_name_partition(directory, r->p->index);
    int rc = bkv_dir_list(&r->p->store->dir, directory, r, on_entry);
    if (rc == BITKV_NOT_FOUND)
        return bkv_error(BITKV_ERR_CORRUPT, "%s/%s is missing", r->p->store->dir.path, directory);
    if (rc == BITKV_OK && !r->p->store->options.read_only)
        rc = bkv_file_open(&r->p->directory, &r->p->store->dir, directory, O_RDONLY | O_DIRECTORY);
    if (r->orphan_count > 0)
        qsort(r->orphan_hints, r->orphan_count, sizeof *r->orphan_hints, by_number);
    if (rc == BITKV_OK && r->doubtful && !r->p->store->options.read_only)
        rc = bkv_doubt_settle(r);
    for (size_t i = 0; i < r->count && rc == BITKV_OK; i++)
        rc = examine(r, &r->found[i]);
    if (rc == BITKV_OK)
        rc = sift(r);
    if (rc == BITKV_OK)
        bkv_headless_outputs(r);
    if (rc == BITKV_OK && r->count > 0)
        qsort(r->found, r->count, sizeof *r->found, by_sequence);
    if (rc == BITKV_OK)
        rc = match_hints(r);
    if (rc == BITKV_OK)
        rc = drop_superseded(r);
    return rc;
}

/* --- 3: numbers -------------------------------------------------------------- */

/* Numbers below `next` that nobody has can be given away. */
static void free_gaps(struct bkv_recover *r, uint32_t next)
{
    for (uint32_t number = 0; number < next; number++) {
        if (bkv_segment_at(&r->p->table, number) == NULL)
            bkv_segment_number_free(r->p, number);
    }
}

/* Segments of the checkpoint keep the numbers that its locations have; the
 * others get the next ones. */
static int install_segments(struct bkv_recover *r)
{
    uint32_t next = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct bkv_found *f = &r->found[i];
        if (f->checkpoint_size != 0 && f->segment->number >= next)
            next = f->segment->number + 1;
    }
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        if (f->checkpoint_size == 0)
            f->segment->number = next++;
        int rc = bkv_segment_install_at(r->p, f->segment);
        if (rc != BITKV_OK) {
            /* Those that are in the list are freed with it. */
            for (; i < r->count; i++)
                bkv_segment_unref(r->found[i].segment);
            r->count = 0;
            return rc;
        }
    }
    free_gaps(r, next);
    return BITKV_OK;
}

/* --- 5: repair
 * ------------------------------------------------------------------------------------ */

int bkv_recover_sync(struct bkv_recover *r, const struct bkv_file *file)
{
    int rc = bkv_file_sync(file);
    if (rc != BITKV_OK)
        bkv_doubt_raise(r->p); /* the opening fails, and the next one is told */
    return rc;
}

static int trim_file(struct bkv_recover *r, struct bkv_found *f)
{
    struct bkv_partition *p = r->p;
    uint64_t size = atomic_load(&f->segment->size);
    if (size >= f->file_size)
        return BITKV_OK;
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, f->id);
    struct bkv_file file;
    int rc = bkv_segment_own(p, f->id, size);
    if (rc == BITKV_OK)
        rc = bkv_file_open(&file, &p->store->dir, name, O_RDWR);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = bkv_file_truncate(&file, size);
    /* What was cut must not come back behind what is appended next. */
    if (rc == BITKV_OK && r->cut)
        rc = bkv_recover_sync(r, &file);
    bkv_file_close(&file);
    if (rc == BITKV_OK)
        atomic_store(&f->segment->disk_bytes, size);
    return rc;
}

static int drop_file(struct bkv_recover *r, uint64_t id)
{
    char name[BKV_NAME_SIZE];
    bkv_name_hint(name, r->p->index, id);
    int rc = bkv_dir_unlink(&r->p->store->dir, name);
    bkv_name_data(name, r->p->index, id);
    if (rc == BITKV_OK)
        rc = remove_leftover(r, name);
    return rc;
}

/* A copy that did not fit is removed before anything is appended: once the log
 * has grown, it might seem to fit again, and hide what was written since. */
static int drop_rejected(struct bkv_recover *r, bool *dropped)
{
    char name[BKV_NAME_SIZE];
    int rc = BITKV_OK;
    if (r->checkpoint_rejected) {
        bkv_name_checkpoint(name, r->p->index);
        rc = bkv_dir_unlink(&r->p->store->dir, name);
        *dropped = true;
    }
    for (size_t i = 0; i < r->count && rc == BITKV_OK; i++) {
        if (!r->found[i].hint_rejected)
            continue;
        bkv_name_hint(name, r->p->index, r->found[i].id);
        rc = bkv_dir_unlink(&r->p->store->dir, name);
        *dropped = true;
    }
    return rc;
}

static int repair(struct bkv_recover *r)
{
    bool dropped = false;
    int rc = bkv_proof_keep(r);
    if (rc == BITKV_OK)
        rc = drop_rejected(r, &dropped);
    for (size_t i = 0; i < r->lost_count && rc == BITKV_OK; i++) {
        if (!r->lost[i].torn)
            continue;
        rc = drop_file(r, r->lost[i].id);
        dropped = true;
    }
    for (size_t i = r->count; i-- > 0 && rc == BITKV_OK;) {
        struct bkv_found *f = &r->found[i];
        rc = f->dropped ? drop_file(r, f->id) : trim_file(r, f);
        dropped = dropped || f->dropped;
    }
    char directory[BKV_NAME_SIZE];
    bkv_name_partition(directory, r->p->index);
    if (rc == BITKV_OK && dropped)
        rc = bkv_dir_sync(&r->p->store->dir, directory);
    return rc == BITKV_OK ? bkv_proof_settle(r) : rc;
}

/* --- 6: going on
 * ------------------------------------------------------------------------------------ */

/* A file that ends in rot may have an end where no record can begin. And one that
 * begins before its predecessor ends, which takes a forged sequence number, would be
 * superseded as a whole by what compaction makes of that one, with what was written
 * to it since. */
static bool can_resume(const struct bkv_recover *r, const struct bkv_found *f)
{
    const struct bkv_partition *p = r->p;
    uint64_t size = atomic_load(&f->segment->size);
    return f->state == BKV_SEGMENT_VALID && !f->compacted &&
           (f == r->found || f->base_sequence > f[-1].segment->last_sequence) &&
           atomic_load(&f->segment->hint_bytes) == 0 && !f->hint &&
           size % BKV_RECORD_ALIGNMENT == 0 && size + 4096 <= p->store->options.max_file_size;
}

/* What was read record by record is in the page cache, at best: the next sync
 * takes it in. */
static void arm_sync(struct bkv_recover *r, struct bkv_found *f)
{
    struct bkv_place end = {.file = (size_t)(f - r->found), .offset = f->segment->size};
    if (!bkv_place_before(r->durable, end))
        return;
    bkv_unsynced_add(r->p, f->segment);
    r->p->sync_armed = true;
}

/* A hint that the checkpoint made superfluous was not opened; it takes room
 * all the same. One that cannot be opened will be written anew. */
static void measure_hint(struct bkv_recover *r, const struct bkv_found *f)
{
    struct bkv_hint_info info = bkv_hint_info_for(r->p, f->id, f->file_size);
    uint64_t size;
    if (bkv_hint_look(&r->p->store->dir, &info, &size) != BITKV_OK)
        return;
    atomic_store(&f->segment->hint_bytes, size);
    f->segment->summary = info.summary;
    f->segment->lasting = info.summary.expiring_bytes == 0;
}

static int set_phases(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    struct bkv_found *last = NULL;
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        last = f;
        if (f->covered && f->hint)
            measure_hint(r, f);
        bool done = p->store->options.read_only || f->segment->hint_bytes != 0;
        atomic_store(&f->segment->phase, done ? BKV_PHASE_FINISHED : BKV_PHASE_SEALED);
    }
    if (p->store->options.read_only || last == NULL)
        return BITKV_OK;
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        if (atomic_load(&f->segment->phase) == BKV_PHASE_SEALED)
            arm_sync(r, f);
    }
    if (can_resume(r, last)) {
        int rc = bkv_segment_own(p, last->id, atomic_load(&last->segment->size));
        if (rc == BITKV_OK)
            rc = bkv_tail_resume(p, last->segment);
        if (rc != BITKV_OK)
            return rc;
    }
    for (size_t i = 0; i < r->count && p->sealed_first == NULL; i++) {
        struct bkv_found *f = &r->found[i];
        if (atomic_load(&f->segment->phase) == BKV_PHASE_SEALED)
            p->sealed_first = f->segment;
    }
    return BITKV_OK;
}

/* What was behind a cut is the end of the list. No location points there. */
static void drop_segments(struct bkv_recover *r)
{
    while (r->count > 0 && r->found[r->count - 1].dropped) {
        r->count--;
        r->dropped_id = bkv_max64(r->dropped_id, r->found[r->count].id);
        bkv_segment_uninstall_last(r->p, r->count > 0 ? r->found[r->count - 1].segment : NULL);
    }
}

static int settle(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    int rc = p->store->options.read_only ? BITKV_OK : repair(r);
    drop_segments(r);
    p->next_id = r->max_id + 1;
    p->next_sequence = r->last_sequence + 1;
    if (rc == BITKV_OK)
        rc = set_phases(r);
    if (p->sync_armed) {
        /* As if it had just been appended: for the sync, and the checkpoint. */
        atomic_store(&p->appended, bkv_max64(1, p->recovery.log_bytes));
    }
    atomic_store(&p->batch_end, atomic_load(&p->appended));
    p->checkpoint_valid =
        r->adopted && p->recovery.log_records + p->recovery.hint_records == 0 && !r->cut;
    return rc;
}

static void recover_free(struct bkv_recover *r)
{
    bkv_groups_free(r);
    bkv_mfree(r->found);
    bkv_mfree(r->orphan_hints);
    bkv_mfree(r->lost);
    bkv_mfree(r);
}

/* Where a follower goes on. A record that was just read is the proof that the log is
 * the same later; without one it was durable. */
static void begin_following(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    struct bkv_followed *at = &p->followed;
    *at = (struct bkv_followed){.sequence = r->last_sequence,
                                .opened_sequence = r->last_sequence,
                                .dropped_id = r->dropped_id};
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_segment *segment = r->found[i].segment;
        segment->followed = true;
        atomic_store(&segment->shown, atomic_load(&segment->size));
    }
    if (r->count == 0)
        return;
    at->segment = r->found[r->count - 1].segment;
    at->offset = atomic_load(&at->segment->size);
    if (r->cut_decided || r->proof_offset == 0 || r->proof_segment != at->segment->id)
        return;
    struct bkv_file file;
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, at->segment->id);
    if (bkv_file_open(&file, &p->store->dir, name, O_RDONLY) != BITKV_OK)
        return;
    at->proof_offset = r->proof_offset;
    at->proven =
        bkv_file_read_exact(&file, at->proof, sizeof at->proof, at->proof_offset) == BITKV_OK;
    bkv_file_close(&file);
}

/* Nothing of a reading that is made again stays. Nobody else is there yet. */
static int start_over(struct bkv_partition *p)
{
    bkv_segments_free(p);
    bkv_segments_forget(p);
    bkv_keydir_destroy(p->keydir);
    p->keydir = NULL;
    p->recovery = (bitkv_recovery){0};
    atomic_store(&p->checkpoint_bytes, 0);
    return bkv_keydir_create(&p->keydir) == BITKV_OK ? BITKV_OK : no_memory();
}

static int read_log(struct bkv_recover *r)
{
    int rc = list_files(r);
    if (rc == BITKV_OK && r->checkpoint_found)
        rc = bkv_recover_checkpoint(r);
    if (rc == BITKV_OK) {
        rc = install_segments(r);
    } else {
        for (size_t i = 0; i < r->count; i++)
            bkv_segment_unref(r->found[i].segment);
        r->count = 0;
    }
    if (rc == BITKV_OK)
        rc = bkv_proof_read(r);
    if (rc == BITKV_OK)
        rc = bkv_replay(r);
    if (rc == BITKV_OK)
        rc = bkv_headless_lost(r);
    /* Such as a file that was trimmed while it was read. */
    if (rc == BITKV_ERR_CORRUPT && bkv_recover_doubts(r, bitkv_error_context(), 0))
        rc = BKV_READ_AGAIN;
    return rc;
}

static struct bkv_recover *recover_new(struct bkv_partition *p, bool settled)
{
    struct bkv_recover *r = bkv_calloc(1, sizeof *r);
    if (r == NULL) {
        (void)no_memory();
        return NULL;
    }
    r->p = p;
    r->start.offset = BKV_SEGMENT_HEADER;
    r->settled = settled;
    return r;
}

/* Read-only: what was wrong, and explained by a writer at work, is read again. What is
 * wrong twice in the same place is believed. */
static int read_again(struct bkv_partition *p, struct bkv_recover **r, unsigned attempt)
{
    uint64_t doubt = (*r)->doubt;
    bool settled = (*r)->settled || (doubt != 0 && doubt == p->followed.doubt);
    p->followed.doubt = doubt;
    recover_free(*r);
    bkv_sleep_us(attempt * 500);
    int rc = start_over(p);
    *r = rc == BITKV_OK ? recover_new(p, settled) : NULL;
    if (rc != BITKV_OK)
        return rc;
    return *r != NULL ? read_log(*r) : BITKV_ERR_NO_MEMORY;
}

int bkv_recover_begin(struct bkv_partition *p, struct bkv_recover **out)
{
    uint64_t begun = bkv_now_ns();
    *out = NULL;
    struct bkv_recover *r = recover_new(p, false);
    if (r == NULL)
        return BITKV_ERR_NO_MEMORY;
    int rc = read_log(r);
    for (unsigned i = 1; rc == BKV_READ_AGAIN && i <= READINGS_MAX; i++)
        rc = read_again(p, &r, i);
    p->recovery.duration_ns = bkv_now_ns() - begun;
    if (rc != BITKV_OK) {
        if (r != NULL)
            recover_free(r);
        return rc;
    }
    *out = p->recovering = r;
    return BITKV_OK;
}

int bkv_recover_end(struct bkv_partition *p, struct bkv_recover *r, bool go_on)
{
    uint64_t begun = bkv_now_ns();
    int rc = BITKV_ERR_CLOSED;
    if (go_on) {
        bkv_groups_cut(r);
        rc = bkv_replay_rest(r);
    }
    if (rc == BITKV_OK)
        rc = settle(r);
    if (rc == BITKV_OK && p->store->options.read_only)
        begin_following(r);
    p->recovering = NULL;
    recover_free(r);
    p->recovery.duration_ns += bkv_now_ns() - begun;
    return rc;
}
