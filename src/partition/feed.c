/* SPDX-License-Identifier: MIT */
/*
 * The changes of a partition, read off its log.
 *
 * The log is the change feed: every stream segment has all sequence numbers of
 * its range, in order (I1). A cursor walks it from record to record. What is
 * committed lies below the `size` of its segment (`shown`, of one that is followed) as it
 * is under the partition's lock: the lock is taken once for all that was appended meanwhile, and
 * whoever then reads a key by the KeyDir finds the change, too, as it was set before the lock was
 * given back. Without anything new it is not taken.
 *
 *   find the segment whose range has the next sequence number  (epoch section)
 *   -> its records up to `limit` -> look again (lock) -> it has ended: the next
 *
 * Segments are found by sequence number, never by `next`: compaction may have
 * replaced the one at hand. The reference keeps the file of that one, so that a
 * change in it is delivered all the same. Space that a slow cursor so holds up is
 * one segment for each partition; nobody waits for it (`feeds`, removal.c).
 *
 * Invariants:
 *   F1  Each record of a stream segment is passed once, in order; `sequence` is
 *       that of the last, and what a later cursor goes on from.
 *   F2  A cursor reads no compacted segment: changes are missing there. It is
 *       behind, unless all of that segment lies before it.
 *   F3  `limit` only covers records that are committed: of a batch all, or none.
 *
 * Failure modes: a record that does not verify is looked at again through a
 * descriptor, then skipped up to the next that does, and told as damage once; so
 * are sequence numbers that are missing. What cannot be read now (no descriptor,
 * an I/O error) leaves the cursor where it is.
 */
#include "partition/feed.h"

#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/scan.h"
#include "partition/record_read.h"
#include "partition/state.h"

#include <fcntl.h>
#include <inttypes.h>

/* Read at once where nothing is mapped. */
#define WINDOW_BYTES (64u << 10)

/* --- which segment -------------------------------------------------------------- */

static void leave_segment(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    struct bkv_segment *segment = c->segment;
    bkv_mapping_unref(c->mapping);
    c->mapping = NULL;
    c->segment = NULL;
    c->buffered = 0;
    if (segment == NULL)
        return;
    (void)atomic_fetch_sub(&segment->feeds, 1);
    bkv_segment_unref(segment);
    if (p == NULL)
        return;
    bkv_lock(&p->lock);
    bool removed = p->removed != NULL;
    bkv_unlock(&p->lock);
    if (removed) { /* perhaps this one, which had to wait for us */
        atomic_store(&p->reclaim_asked, true);
        bkv_worker_wake(p);
    }
}

/* In an epoch section or under the lock: it stays from now on. */
static void take_segment(struct bkv_feed_cursor *c, struct bkv_segment *segment, uint64_t offset)
{
    bkv_segment_ref(segment);
    (void)atomic_fetch_add(&segment->feeds, 1);
    c->segment = segment;
    c->offset = c->limit = offset;
}

/* The segment whose range should have `sequence`, and the one behind it. Of those
 * that begin alike the last: the others are empty. In an epoch section. */
static struct bkv_segment *find_segment(struct bkv_partition *p, uint64_t sequence,
                                        struct bkv_segment **after)
{
    struct bkv_segment *found = NULL;
    struct bkv_segment *s = atomic_load_explicit(&p->first, memory_order_acquire);
    while (s != NULL && s->base_sequence <= sequence) {
        found = s;
        s = atomic_load_explicit(&s->next, memory_order_acquire);
    }
    *after = s;
    return found;
}

static int behind(const struct bkv_partition *p, uint64_t wanted)
{
    return bkv_error(BITKV_ERR_BEHIND,
                     "partition %" PRIu32 " has been compacted beyond change %" PRIu64
                     "; begin anew, from a scan or the oldest change retained",
                     p->index, wanted);
}

static int missing(const struct bkv_partition *p, uint64_t first, uint64_t last)
{
    return bkv_error(BITKV_ERR_CORRUPT,
                     "the log of partition %" PRIu32 " lacks changes %" PRIu64 " to %" PRIu64
                     ": lost by damage",
                     p->index, first, last);
}

/* Is `sequence` within the range of the segment, which is the last one, or has one
 * behind it? */
static bool has_sequence(struct bkv_partition *p, const struct bkv_segment *segment,
                         uint64_t sequence, bool is_last)
{
    if (is_last && segment->kind == BKV_SEGMENT_STREAM)
        return true;    /* sooner or later */
    bkv_lock(&p->lock); /* it may just be being sealed */
    uint64_t last = segment->last_sequence;
    bkv_unlock(&p->lock);
    return sequence <= last;
}

/* In an epoch section. BITKV_NOT_FOUND: there is no such segment yet. */
static int enter_segment(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    uint64_t wanted = c->sequence + 1;
    struct bkv_segment *after;
    struct bkv_segment *found = find_segment(p, wanted, &after);
    if (found != NULL && has_sequence(p, found, wanted, after == NULL)) {
        if (found->kind == BKV_SEGMENT_COMPACTED)
            return behind(p, wanted);
        take_segment(c, found, BKV_SEGMENT_HEADER);
        return BITKV_OK;
    }
    if (after == NULL)
        return BITKV_NOT_FOUND;
    if (after->kind == BKV_SEGMENT_COMPACTED)
        return behind(p, wanted);
    c->sequence = after->base_sequence - 1;
    return missing(p, wanted, c->sequence);
}

/* The call has been in one before, so the thread has its slot. */
static struct bkv_epoch_slot *enter_section(void)
{
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    BKV_ASSERT(slot != NULL);
    return slot;
}

static int seek(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    /* What comes after this number shows, too late for this look. */
    bkv_lock(&p->lock);
    c->appended = atomic_load_explicit(&p->appended, memory_order_relaxed);
    bkv_unlock(&p->lock);
    struct bkv_epoch_slot *slot = enter_section();
    int rc = enter_segment(p, c);
    bkv_epoch_exit(slot);
    return rc;
}

/* All that is in the segment has been passed. Is there more of it, or another?
 * BITKV_NOT_FOUND: neither. */
static int look_again(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    struct bkv_segment *segment = c->segment;
    bkv_lock(&p->lock);
    c->appended = atomic_load_explicit(&p->appended, memory_order_relaxed);
    c->limit = bkv_segment_committed(p->store, segment);
    bool ended = segment != p->last;
    uint64_t last = segment->last_sequence;
    bkv_unlock(&p->lock);
    if (c->offset < c->limit)
        return BITKV_OK;
    if (!ended)
        return BITKV_NOT_FOUND;
    c->sequence = bkv_max64(c->sequence, last); /* damage may have been at its end */
    c->torn = false;
    leave_segment(p, c);
    return BITKV_OK;
}

/* Makes sure that there is a record at the cursor. */
static int approach(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    int rc = BITKV_OK;
    while (rc == BITKV_OK && (c->segment == NULL || c->offset >= c->limit))
        rc = c->segment == NULL ? seek(p, c) : look_again(p, c);
    return rc;
}

/* --- a record --------------------------------------------------------------------- */

/* The mapping of a segment that recovery found is as long as it was then; and of one
 * that is followed there may be another file by now. */
static bool is_current(const struct bkv_partition *p, const struct bkv_feed_cursor *c)
{
    if (c->mapping == NULL || (c->mapping->base != NULL && c->limit > c->mapping->size))
        return false;
    return !p->store->options.read_only || c->mapping == atomic_load(&c->segment->open);
}

static int pin(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    if (is_current(p, c))
        return BITKV_OK;
    bkv_mapping_unref(c->mapping);
    c->mapping = NULL;
    return bkv_segment_pin(p, c->segment, &c->mapping);
}

static int grow_buffer(struct bkv_feed_cursor *c, uint64_t size)
{
    if (size <= c->capacity)
        return BITKV_OK;
    bkv_mfree(c->buffer);
    c->capacity = c->buffered = 0;
    c->buffer = bkv_malloc(size);
    if (c->buffer == NULL)
        return bkv_no_memory_for(size);
    c->capacity = size;
    return BITKV_OK;
}

/* One that is as large as a record of the largest kind is not kept: it ends with that
 * record, and the next header is fetched before more. */
static void shrink_buffer(struct bkv_feed_cursor *c)
{
    if (c->capacity <= (size_t)16 * WINDOW_BYTES)
        return;
    bkv_mfree(c->buffer);
    c->buffer = NULL;
    c->capacity = c->buffered = 0;
}

/* Bytes [offset, offset + size) of the segment, below the limit. */
static int fetch(struct bkv_feed_cursor *c, uint64_t size, const uint8_t **bytes)
{
    BKV_DEBUG_ASSERT(size > 0 && c->offset + size <= c->limit);
    if (c->mapping->base != NULL) {
        BKV_DEBUG_ASSERT(c->limit <= c->mapping->size); /* I8, and pin() */
        *bytes = c->mapping->base + c->offset;
        return BITKV_OK;
    }
    bool here = c->offset >= c->buffer_offset && c->offset + size <= c->buffer_offset + c->buffered;
    if (!here) {
        shrink_buffer(c);
        uint64_t want = bkv_min64(bkv_max64(size, WINDOW_BYTES), c->limit - c->offset);
        int rc = grow_buffer(c, want);
        c->buffered = 0;
        if (rc == BITKV_OK)
            rc = bkv_file_read_exact(&c->mapping->file, c->buffer, want, c->offset);
        if (rc != BITKV_OK)
            return rc;
        c->buffer_offset = c->offset;
        c->buffered = want;
    }
    *bytes = c->buffer + (c->offset - c->buffer_offset);
    return BITKV_OK;
}

/* BITKV_ERR_CORRUPT, without a context: what is there is no record. */
static int read_record(struct bkv_feed_cursor *c, struct bkv_record *record, const uint8_t **bytes,
                       uint64_t *size)
{
    uint64_t left = c->limit - c->offset;
    if (left < BKV_RECORD_HEADER)
        return BITKV_ERR_CORRUPT;
    int rc = fetch(c, BKV_RECORD_HEADER, bytes);
    if (rc != BITKV_OK)
        return rc;
    *record = bkv_record_peek(*bytes);
    *size = bkv_record_plausible(record) ? bkv_record_size_of(record) : UINT64_MAX;
    if (*size > left)
        return BITKV_ERR_CORRUPT;
    rc = fetch(c, *size, bytes);
    if (rc == BITKV_OK && !bkv_record_verify(*bytes, *size, c->segment->seed, c->offset, record))
        rc = BITKV_ERR_CORRUPT;
    return rc;
}

/* --- damage ------------------------------------------------------------------------- */

/* How far the damage at the cursor reaches; 0: read once more it is none. */
static int measure_damage(struct bkv_partition *p, const struct bkv_feed_cursor *c, uint64_t *size)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, c->segment->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    struct bkv_scanner scanner;
    struct bkv_scan_item item = {0};
    rc = bkv_scanner_begin(&scanner, &file, c->segment->seed, c->offset, c->limit);
    if (rc == BITKV_OK)
        rc = bkv_scanner_next(&scanner, &item);
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    if (rc == BITKV_ERR_CORRUPT) { /* the file has become shorter */
        item = (struct bkv_scan_item){.kind = BKV_SCAN_DAMAGE, .size = c->limit - c->offset};
        rc = BITKV_OK;
    }
    *size = item.kind == BKV_SCAN_RECORD ? 0 : item.size;
    return rc;
}

static int pass_damage(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    uint64_t at = c->offset;
    uint64_t size = 0;
    int rc = measure_damage(p, c, &size);
    if (rc != BITKV_OK)
        return rc;
    c->buffered = 0;
    bool unreadable = size == 0;
    if (unreadable) { /* through the mapping only: have another one made */
        bkv_mapping_unref(c->mapping);
        c->mapping = NULL;
    } else {
        c->offset = bkv_min64(at + size, c->limit);
        c->torn = true;
    }
    return bkv_record_damaged(p->store->dir.path, p->index, c->segment->id, at, size, unreadable);
}

/* --- the cursor ----------------------------------------------------------------------- */

static void show(const struct bkv_partition *p, const struct bkv_record *record,
                 const uint8_t *bytes, bitkv_change *change)
{
    bool is_put = record->type == BKV_RECORD_PUT;
    *change = (bitkv_change){
        .kind = is_put ? BITKV_CHANGE_PUT : BITKV_CHANGE_DELETE,
        .partition = p->index,
        .key = bkv_record_key(bytes),
        .key_size = record->key_size,
        .value = is_put ? bkv_record_value(bytes, record) : NULL,
        .value_size = record->value_size,
        .version = record->sequence,
        .deadline_ms = bkv_record_deadline(bytes),
    };
}

/* Passes the record at the cursor. BITKV_NOT_FOUND: it is none to be shown. */
static int take_record(struct bkv_partition *p, struct bkv_feed_cursor *c, bitkv_change *change)
{
    struct bkv_record record;
    const uint8_t *bytes = NULL;
    uint64_t size = 0;
    int rc = pin(p, c);
    if (rc == BITKV_OK)
        rc = read_record(c, &record, &bytes, &size);
    if (rc == BITKV_ERR_CORRUPT)
        return pass_damage(p, c);
    if (rc != BITKV_OK)
        return rc;
    bool passed = record.sequence <= c->sequence; /* before where a cursor goes on */
    if (!passed && record.sequence > c->sequence + 1 && !c->torn) {
        c->torn = true;
        return missing(p, c->sequence + 1, record.sequence - 1);
    }
    c->offset += size;
    if (passed)
        return BITKV_NOT_FOUND;
    c->torn = false;
    c->sequence = record.sequence;
    if (bkv_record_is_keyless(&record))
        return BITKV_NOT_FOUND;
    show(p, &record, bytes, change);
    return BITKV_OK;
}

int bkv_feed_next(struct bkv_partition *p, struct bkv_feed_cursor *c, bitkv_change *change)
{
    for (;;) {
        int rc = approach(p, c);
        c->idle = rc == BITKV_NOT_FOUND;
        if (rc != BITKV_OK)
            return rc;
        rc = take_record(p, c, change);
        if (rc != BITKV_NOT_FOUND)
            return rc;
    }
}

/* Marks are not counted by `appended`, but show in the size: passed, they make a
 * position that compaction leaves behind later. */
bool bkv_feed_stirred(struct bkv_partition *p, const struct bkv_feed_cursor *c)
{
    if (!c->idle || atomic_load_explicit(&p->appended, memory_order_relaxed) != c->appended)
        return true;
    return c->segment != NULL && bkv_segment_committed(p->store, c->segment) != c->limit;
}

/* --- where it begins -------------------------------------------------------------------- */

/* Under the lock: at the end of the log. */
static void take_end(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    c->sequence = p->next_sequence - 1;
    c->idle = true;
    c->appended = atomic_load_explicit(&p->appended, memory_order_relaxed);
    if (p->last != NULL && p->last->kind == BKV_SEGMENT_STREAM)
        take_segment(c, p->last, bkv_segment_committed(p->store, p->last));
}

void bkv_feed_begin_end(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    bkv_lock(&p->lock);
    take_end(p, c);
    bkv_unlock(&p->lock);
}

void bkv_feed_begin_oldest(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    struct bkv_segment *oldest = NULL;
    struct bkv_epoch_slot *slot = enter_section();
    struct bkv_segment *s = atomic_load_explicit(&p->first, memory_order_acquire);
    for (; s != NULL; s = atomic_load_explicit(&s->next, memory_order_acquire)) {
        bool compacted = s->kind == BKV_SEGMENT_COMPACTED;
        if (compacted)
            c->sequence = s->last_sequence;
        if (compacted || oldest == NULL)
            oldest = compacted ? NULL : s;
    }
    if (oldest != NULL) { /* held before it can be taken out */
        c->sequence = oldest->base_sequence - 1;
        take_segment(c, oldest, BKV_SEGMENT_HEADER);
    }
    bkv_epoch_exit(slot);
}

int bkv_feed_begin_after(struct bkv_partition *p, struct bkv_feed_cursor *c, uint64_t sequence)
{
    bkv_lock(&p->lock);
    uint64_t last = p->next_sequence - 1;
    if (sequence == last)
        take_end(p, c);
    bkv_unlock(&p->lock);
    if (sequence == last)
        return BITKV_OK;
    if (sequence > last)
        return bkv_error(BITKV_ERR_BEHIND,
                         "the log of partition %" PRIu32 " ends at change %" PRIu64
                         ", before the position's %" PRIu64
                         ": a power cut took what followed; begin anew",
                         p->index, last, sequence);
    c->sequence = sequence;
    int rc = seek(p, c);
    return rc == BITKV_ERR_BEHIND ? rc : BITKV_OK; /* damage is told by the next call */
}

void bkv_feed_end(struct bkv_partition *p, struct bkv_feed_cursor *c)
{
    leave_segment(p, c);
    bkv_mfree(c->buffer);
    *c = (struct bkv_feed_cursor){0};
}
