/* SPDX-License-Identifier: MIT */
/*
 * Recovery of segments whose header does not verify. Their records still do: the
 * first one, or the hint, tells the place in the log, and replay.c judges by that
 * whether the header has rotted or did not reach the disk.
 *
 * That it was a compacted segment its header alone has said. But no two stream
 * segments share sequence numbers: one that shares some with others was made of
 * them, or they of it, whichever stands for more. What it stands for its hint says.
 */
#include "partition/recovery.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"

#include <string.h>

/* What a verifying hint knows of the order. */
static int ask_hint(struct bkv_recover *r, struct bkv_found *f, bool *known)
{
    struct bkv_partition *p = r->p;
    struct bkv_hint_info info = bkv_hint_info_for(p, f->id, f->file_size);
    uint64_t hint_size;
    int rc = bkv_hint_look(&p->store->dir, &info, &hint_size);
    if (rc == BITKV_OK && info.first_sequence != 0) {
        f->base_sequence =
            *known ? bkv_min64(f->base_sequence, info.first_sequence) : info.first_sequence;
        f->hint_last = info.last_sequence;
        *known = true;
    }
    return rc == BITKV_ERR_CORRUPT || rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

/* Without a header: the first record that verifies tells the order, and so does the
 * hint: what a compacted segment stands for begins before its first record. `zeros`:
 * there is nothing behind the header. */
static int find_base_sequence(struct bkv_recover *r, struct bkv_found *f,
                              const struct bkv_file *file, bool *known, bool *zeros)
{
    struct bkv_scanner scanner;
    struct bkv_scan_item item = {.kind = BKV_SCAN_DAMAGE};
    *known = false;
    int rc = bkv_scanner_begin(&scanner, file, f->segment->seed, BKV_SEGMENT_HEADER, f->file_size);
    if (rc == BITKV_OK)
        rc = bkv_scanner_next(&scanner, &item);
    *zeros = item.kind == BKV_SCAN_END;
    while (rc == BITKV_OK && item.kind == BKV_SCAN_DAMAGE)
        rc = bkv_scanner_next(&scanner, &item);
    bkv_scanner_end(&scanner);
    if (rc != BITKV_OK)
        return rc;
    if (item.kind == BKV_SCAN_RECORD) {
        f->base_sequence = item.record.sequence;
        *known = true;
    }
    return ask_hint(r, f, known);
}

#define PAGE 4096u

/* Did the first page not reach the disk? */
static int first_page_is_zero(const struct bkv_file *file, bool *zero)
{
    uint8_t bytes[PAGE] = {0};
    size_t got = 0;
    int rc = bkv_file_read(file, bytes, sizeof bytes, 0, &got);
    *zero = rc == BITKV_OK;
    for (size_t i = 0; i < got && *zero; i++)
        *zero = bytes[i] == 0;
    return rc;
}

/* No valid header. One that was never used, or whose header was being written
 * when the process died, has nothing behind it. Otherwise the header is lost,
 * by rot or because its page did not reach the disk: replay.c tells which by
 * its place in the log. With no place in it either, the file is left alone, unless
 * it is a large record without its beginning: bkv_headless_lost() judges that. */
int bkv_headless_judge(struct bkv_recover *r, struct bkv_found *f, const struct bkv_file *file)
{
    bool known;
    bool zeros;
    bool blank = f->state == BKV_SEGMENT_BLANK;
    int rc = find_base_sequence(r, f, file, &known, &zeros);
    if (rc != BITKV_OK)
        return rc;
    f->state = known ? BKV_SEGMENT_DAMAGED : BKV_SEGMENT_BLANK;
    if (known || zeros)
        return BITKV_OK;
    f->state = BKV_SEGMENT_FOREIGN;
    if (blank)
        rc = first_page_is_zero(file, &f->lost);
    if (rc != BITKV_OK || f->lost)
        return rc;
    return bkv_recover_damage(r, file->name, 0, f->file_size, "no record in it verifies");
}

/* --- compacted segments ------------------------------------------------------------------ */

static bool stands_for(const struct bkv_found *f, const struct bkv_found *other)
{
    return f->compacted && f->base_sequence <= other->base_sequence &&
           f->range_last >= other->hint_last;
}

/* Does the segment share sequence numbers with others, of which none stands for it? */
static bool was_made_of_others(const struct bkv_recover *r, const struct bkv_found *f)
{
    bool shares = false;
    for (size_t i = 0; i < r->count; i++) {
        const struct bkv_found *other = &r->found[i];
        if (other == f)
            continue;
        if (stands_for(other, f))
            return false;
        shares |= other->base_sequence >= f->base_sequence && other->base_sequence <= f->hint_last;
    }
    return shares;
}

void bkv_headless_outputs(struct bkv_recover *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        if (f->state != BKV_SEGMENT_DAMAGED || f->hint_last == 0 || !was_made_of_others(r, f))
            continue;
        f->compacted = true;
        f->range_last = f->hint_last;
        f->segment->kind = BKV_SEGMENT_COMPACTED;
    }
}

/* --- files without a place in the log ------------------------------------------------------ */

int bkv_headless_note_lost(struct bkv_recover *r, const struct bkv_found *f)
{
    struct bkv_lost *larger = bkv_realloc(r->lost, (r->lost_count + 1) * sizeof *larger);
    if (larger == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list a partition");
    r->lost = larger;
    r->lost[r->lost_count++] = (struct bkv_lost){.id = f->id, .size = f->file_size};
    return BITKV_OK;
}

bool bkv_headless_is_lost(const struct bkv_recover *r, uint64_t id)
{
    for (size_t i = 0; i < r->lost_count; i++) {
        if (r->lost[i].id == id)
            return true;
    }
    return false;
}

/* Is something missing in what the checkpoint covers? Replay has not looked there. */
static bool covered_has_gap(const struct bkv_recover *r)
{
    uint64_t last = 0;
    for (size_t i = 0; r->adopted && i <= r->start.file; i++) {
        if (r->found[i].base_sequence != last + 1)
            return true;
        last = r->found[i].checkpoint_last;
    }
    return false;
}

/* A file that was durable has left a gap in the log that goes on behind it, or has a
 * hint. If there is neither, it lies behind the log's end. */
int bkv_headless_lost(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    bool whole = p->recovery.damaged_regions == 0 && !r->checkpoint_rejected && !covered_has_gap(r);
    for (size_t i = 0; i < r->lost_count; i++) {
        struct bkv_lost *lost = &r->lost[i];
        char name[BKV_NAME_SIZE];
        bkv_name_data(name, p->index, lost->id);
        if (!whole || bkv_recover_has_hint(r, lost->id)) {
            int rc = bkv_recover_damage(r, name, 0, lost->size, "no record in it verifies");
            if (rc != BITKV_OK)
                return rc;
            continue;
        }
        if (bkv_recover_doubts(r, name, 0))
            return BKV_READ_AGAIN;
        p->recovery.torn_tails += !r->cut && !r->lost_torn;
        p->recovery.torn_tail_bytes += lost->size;
        lost->torn = r->lost_torn = true;
        if (!p->store->options.read_only)
            bkv_log(p->store, BITKV_LOG_WARNING,
                    "%s/%s: unsynced tail of a crash, without its beginning; removed",
                    p->store->dir.path, name);
    }
    return BITKV_OK;
}
