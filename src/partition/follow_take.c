/* SPDX-License-Identifier: MIT */
/*
 * Following, steps 2 and 4: the walk through the log from where it was left.
 *
 * Of a stream segment the records behind that place are read, as long as each
 * verifies and has the next sequence number. Whatever comes then is not whole yet,
 * and is left for the next refresh; nothing is judged.
 *
 * Of a compacted segment, records up to that place are known: they only tell where
 * a key lies now. A key moves if it lies in a segment that this one replaces;
 * otherwise something later has happened to it. Records behind that place are new,
 * which is seen by their sequence numbers; so the hint, which has none, serves if
 * there are no such records.
 *
 * When all is taken in, a key that still lies in a segment that was replaced was
 * dropped by compaction, since it had expired: it goes. Then the segments go, as
 * in removal.c, but for their files.
 *
 * A record is taken in in the order size of the segment, mapping, KeyDir, place:
 * so readers find nothing that they cannot reach (I3), and what was interrupted is
 * gone on with. Feeds go by `shown`, which changes with the KeyDir.
 *
 * The writer may have written the file anew, under the same name (own.c): what was
 * open of the old one is closed before anything is taken from the new one.
 */
#include "partition/follow.h"

#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "log/filename.h"
#include "log/scan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Keys that are changed in one go under the lock. */
#define BATCH 64u

struct change {
    struct bkv_hash hash;
    uint64_t location;
    enum bkv_record_type type;
    bool known; /* the record itself is not new, only its place */
};

struct take {
    struct bkv_follow *f;
    struct bkv_partition *p;
    const struct bkv_follow_item *item;
    uint64_t sequence; /* of the log so far */
    uint64_t end;      /* offset behind the last record that was read */
    struct change batch[BATCH];
    size_t count;
};

static int vanished(int rc)
{
    return rc == BITKV_NOT_FOUND ? BKV_READ_AGAIN : rc;
}

static int open_data(const struct bkv_partition *p, uint64_t id, struct bkv_file *file,
                     uint64_t *size)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    int rc = vanished(bkv_file_open(file, &p->store->dir, name, O_RDONLY));
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_size(file, size);
    if (rc != BITKV_OK)
        bkv_file_close(file);
    return rc;
}

/* --- where the walk goes on ------------------------------------------------------------ */

static int gap(const struct bkv_partition *p, const struct bkv_follow_item *item, uint64_t sequence)
{
    return bkv_error(BKV_READ_AGAIN,
                     "data_%" PRIu64 ".db of partition %" PRIu32 " begins with record %" PRIu64
                     ", and the log before ends with %" PRIu64,
                     item->id, p->index, item->base_sequence, sequence);
}

enum next {
    NEXT_SKIP, /* it was taken in as a whole, earlier */
    NEXT_READ,
    NEXT_END, /* the log ends before it */
    NEXT_GAP,
};

/* `from`: the offset to read from. */
static enum next next_of(const struct bkv_partition *p, const struct bkv_follow_item *item,
                         uint64_t sequence, uint64_t *from)
{
    const struct bkv_followed *at = &p->followed;
    *from = BKV_SEGMENT_HEADER;
    if (item->segment != NULL && item->segment == at->segment && !item->compacted) {
        *from = at->offset;
        return sequence == at->sequence ? NEXT_READ : NEXT_GAP;
    }
    if (item->segment != NULL && item->segment->followed)
        return NEXT_SKIP;
    if (item->compacted && item->base_sequence <= sequence + 1)
        return NEXT_READ;
    if (item->base_sequence == sequence + 1)
        return NEXT_READ;
    /* Behind a torn tail, which nobody has repaired yet. */
    if (item->id <= at->dropped_id && sequence == at->opened_sequence)
        return NEXT_END;
    return NEXT_GAP;
}

/* --- step 2 ------------------------------------------------------------------------------ */

/* The next record of a stream, if it is whole; *there tells. A file that is being
 * trimmed ends where its records do. */
static int next_record(struct bkv_scanner *scanner, uint64_t sequence, struct bkv_scan_item *item,
                       bool *there)
{
    int rc = bkv_scanner_try(scanner, item, there);
    if (rc == BITKV_ERR_CORRUPT)
        return BKV_READ_AGAIN;
    *there = *there && item->record.sequence == sequence + 1;
    return rc;
}

static int make_room(struct bkv_follow *f, uint32_t peers)
{
    if (!bkv_grow(&f->groups, f->group_count, 1, sizeof *f->groups, &f->group_capacity) ||
        !bkv_grow(&f->peers, f->peer_count, peers, sizeof *f->peers, &f->peer_capacity))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to refresh");
    return BITKV_OK;
}

/* A batch's header: who has the other parts. One that makes no sense (somebody made
 * it) is as if a part was missing. */
static int note_group(struct bkv_follow *f, const struct bkv_scan_item *item)
{
    uint32_t peers = bkv_get32(item->value + 4);
    bool sound = item->record.value_size == BKV_BATCH_FIXED + (uint64_t)peers * BKV_BATCH_PEER;
    if (sound && peers == 0)
        return BITKV_OK;
    int rc = make_room(f, sound ? peers : 1);
    if (rc != BITKV_OK)
        return rc;
    f->groups[f->group_count++] = (struct bkv_follow_group){
        .sequence = item->record.sequence,
        .first_peer = f->peer_count,
        .peers = sound ? peers : 1,
    };
    if (!sound)
        f->peers[f->peer_count++] = (struct bkv_follow_peer){.partition = UINT32_MAX};
    for (uint32_t i = 0; sound && i < peers; i++) {
        const uint8_t *bytes = item->value + BKV_BATCH_FIXED + (size_t)i * BKV_BATCH_PEER;
        f->peers[f->peer_count++] = (struct bkv_follow_peer){
            .partition = bkv_get32(bytes),
            .count = bkv_get32(bytes + 4),
            .sequence = bkv_get64(bytes + 8),
        };
    }
    return BITKV_OK;
}

/* All records of the segment that are whole, and of a batch's part only all. */
static int look_at_records(struct bkv_follow *f, struct bkv_scanner *scanner, uint64_t *sequence)
{
    struct bkv_scan_item item;
    uint64_t group = 0; /* number of the header; its last record is */
    uint64_t group_end = 0;
    bool there = true;
    for (;;) {
        int rc = next_record(scanner, *sequence, &item, &there);
        if (rc != BITKV_OK)
            return rc;
        if (!there)
            break;
        ++*sequence;
        if (item.record.type == BKV_RECORD_BATCH) {
            group = *sequence;
            group_end = group + bkv_get32(item.value);
            rc = note_group(f, &item);
            if (rc != BITKV_OK)
                return rc;
        }
    }
    if (*sequence >= group_end)
        return BITKV_OK;
    *sequence = group - 1;
    if (f->group_count > 0 && f->groups[f->group_count - 1].sequence == group)
        f->group_count--;
    return BITKV_OK;
}

static int look_through(struct bkv_follow *f, uint64_t id, uint64_t from, uint64_t *sequence)
{
    const struct bkv_partition *p = f->p;
    struct bkv_file file;
    uint64_t size;
    int rc = open_data(p, id, &file, &size);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_scanner scanner;
    rc = bkv_scanner_begin(&scanner, &file,
                           bkv_segment_seed(p->store->manifest.database_id, p->index, id), from,
                           size);
    if (rc == BITKV_OK)
        rc = look_at_records(f, &scanner, sequence);
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    return rc;
}

int bkv_follow_look(struct bkv_follow *f)
{
    uint64_t sequence = f->p->followed.sequence;
    int rc = BITKV_OK;
    for (size_t i = 0; i < f->count && rc == BITKV_OK; i++) {
        const struct bkv_follow_item *item = &f->items[i];
        uint64_t from;
        enum next next = next_of(f->p, item, sequence, &from);
        if (next == NEXT_END)
            break;
        if (next == NEXT_GAP)
            return gap(f->p, item, sequence);
        if (next == NEXT_READ && item->compacted)
            sequence = bkv_max64(sequence, item->range_last);
        else if (next == NEXT_READ)
            rc = look_through(f, item->id, from, &sequence);
    }
    f->limit = sequence;
    return rc;
}

/* --- into the KeyDir --------------------------------------------------------------------- */

static int full(const struct bkv_partition *p, int rc)
{
    return bkv_error(rc, "the KeyDir of partition %" PRIu32 " cannot take another key", p->index);
}

/* `item` is a compacted one. */
static bool replaces(const struct bkv_follow_item *item, const struct bkv_segment *segment)
{
    return segment != item->segment && segment->base_sequence >= item->base_sequence &&
           segment->base_sequence <= item->range_last;
}

static int move(const struct take *t, const struct change *c)
{
    struct bkv_partition *p = t->p;
    uint64_t old;
    if (c->type != BKV_RECORD_PUT || !bkv_keydir_find(p->keydir, &c->hash, &old) ||
        !replaces(t->item, bkv_table_get(&p->table, bkv_location_segment(old))))
        return BITKV_OK;
    int rc = bkv_keydir_replace(p->keydir, &c->hash, old, c->location);
    if (rc != BITKV_OK)
        return full(p, rc);
    bkv_account(p, old, false);
    bkv_account(p, c->location, true);
    return BITKV_OK;
}

static int remove_key(struct bkv_partition *p, const struct change *c)
{
    int rc = bkv_keydir_prepare_remove(p->keydir, &c->hash);
    if (rc != BITKV_OK)
        return full(p, rc);
    uint64_t old = bkv_keydir_remove(p->keydir, &c->hash);
    if (old != 0)
        bkv_account(p, old, false);
    return BITKV_OK;
}

static int put_key(struct bkv_partition *p, const struct change *c)
{
    int rc = bkv_keydir_prepare(p->keydir, &c->hash);
    if (rc != BITKV_OK)
        return full(p, rc);
    uint64_t old = bkv_keydir_put(p->keydir, &c->hash, c->location);
    if (old != 0)
        bkv_account(p, old, false);
    bkv_account(p, c->location, true);
    return BITKV_OK;
}

static int apply(const struct take *t, const struct change *c)
{
    if (c->known)
        return move(t, c);
    return c->type == BKV_RECORD_DELETE ? remove_key(t->p, c) : put_key(t->p, c);
}

/* All of the batch, then the place: a failure in between has the next refresh do it
 * again, which changes nothing. */
static int flush(struct take *t)
{
    struct bkv_partition *p = t->p;
    int rc = bkv_segment_grow(p, t->item->segment, t->end);
    if (rc != BITKV_OK)
        return rc;
    BKV_SCHEDULE_POINT("follow.grown");
    bkv_lock(&p->lock);
    for (size_t i = 0; i < t->count; i++)
        bkv_keydir_prefetch_line(p->keydir, &t->batch[i].hash);
    for (size_t i = 0; i < t->count && rc == BITKV_OK; i++)
        rc = apply(t, &t->batch[i]);
    if (rc == BITKV_OK) {
        p->next_sequence = bkv_max64(p->next_sequence, t->sequence + 1);
        atomic_store(&t->item->segment->shown, t->end);
    }
    bkv_unlock(&p->lock);
    t->count = 0;
    return rc;
}

static void add(struct take *t, const struct bkv_hash *hash, enum bkv_record_type type,
                uint64_t offset, uint64_t size, bool known)
{
    t->batch[t->count++] = (struct change){
        .hash = *hash,
        .location = bkv_location(t->item->segment->number, offset, bkv_size_code(size)),
        .type = type,
        .known = known,
    };
}

static void add_record(struct take *t, const struct bkv_scan_item *record, bool known)
{
    if (record->record.key_size == 0) /* the log's own */
        return;
    struct bkv_hash hash =
        bkv_hash(&t->p->store->manifest.hash_key, record->key, record->record.key_size);
    add(t, &hash, (enum bkv_record_type)record->record.type, record->offset, record->size, known);
}

/* --- a segment that is new --------------------------------------------------------- */

/* Under the lock. Into its place in the order of the log, an output before what it
 * replaces: a link leads to what is later, or readers of the list could go round. */
static void insert(struct bkv_partition *p, struct bkv_segment *segment)
{
    struct bkv_segment *before = NULL;
    for (struct bkv_segment *s = p->first; s != NULL; s = s->next) {
        if (s->base_sequence > segment->base_sequence ||
            (s->base_sequence == segment->base_sequence &&
             s->last_sequence <= segment->last_sequence))
            break;
        before = s;
    }
    atomic_store(&segment->next, before != NULL ? before->next : p->first);
    if (before == NULL)
        atomic_store_explicit(&p->first, segment, memory_order_release);
    else
        atomic_store_explicit(&before->next, segment, memory_order_release);
    if (p->last == before)
        p->last = segment;
}

static int install(struct take *t, struct bkv_follow_item *item, uint64_t file_size)
{
    struct bkv_partition *p = t->p;
    t->item = item;
    if (item->segment != NULL)
        return BITKV_OK;
    struct bkv_segment *s = bkv_segment_new(p, item->id);
    if (s == NULL)
        return BITKV_ERR_NO_MEMORY;
    s->kind = item->compacted ? BKV_SEGMENT_COMPACTED : BKV_SEGMENT_STREAM;
    s->base_sequence = item->base_sequence;
    s->last_sequence = item->range_last;
    if (item->compacted) /* it is whole; the KeyDir comes to it */
        atomic_store(&s->size, file_size);
    atomic_store(&s->shown, atomic_load(&s->size));
    atomic_store(&s->disk_bytes, file_size);
    atomic_store(&s->phase, BKV_PHASE_FINISHED);
    bkv_lock(&p->lock);
    int rc = bkv_segment_number(p, s);
    if (rc == BITKV_OK)
        insert(p, s);
    bkv_unlock(&p->lock);
    if (rc != BITKV_OK) {
        bkv_segment_unref(s);
        return rc;
    }
    item->segment = s;
    return BITKV_OK;
}

/* --- stream segments ------------------------------------------------------------------- */

static void set_place(struct take *t)
{
    struct bkv_followed *at = &t->p->followed;
    at->segment = t->item->segment;
    at->offset = t->end;
    at->sequence = t->sequence;
    at->proven = false;
}

/* What a later refresh finds there unless the log was changed. */
static void set_proof(struct take *t, const struct bkv_scan_item *record)
{
    struct bkv_followed *at = &t->p->followed;
    at->proven = true;
    at->proof_offset = record->offset;
    memcpy(at->proof, record->key - bkv_record_prefix(record->record.flags) - BKV_RECORD_HEADER,
           sizeof at->proof);
}

static int take_records(struct take *t, struct bkv_scanner *scanner)
{
    struct bkv_scan_item record;
    bool there = true;
    int rc = BITKV_OK;
    while (rc == BITKV_OK && t->sequence < t->f->limit) {
        rc = next_record(scanner, t->sequence, &record, &there);
        if (rc != BITKV_OK || !there)
            break;
        t->sequence++;
        t->end = record.offset + record.size;
        add_record(t, &record, false);
        if (t->count == BATCH || t->sequence == t->f->limit) {
            rc = flush(t);
            if (rc == BITKV_OK) {
                set_place(t);
                set_proof(t, &record);
            }
        }
    }
    /* The segment ends here, the log goes on. */
    if (rc == BITKV_OK && t->end > atomic_load(&t->item->segment->shown))
        rc = flush(t);
    return rc;
}

/* Another file than the last time: nobody goes on reading the old one. */
static int note_file(struct bkv_partition *p, struct bkv_segment *segment,
                     const struct bkv_file *file)
{
    uint64_t inode;
    int rc = bkv_file_inode(file, &inode);
    if (rc != BITKV_OK || inode == segment->inode)
        return rc;
    if (!bkv_segment_close_file(p, segment))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to follow a segment");
    segment->inode = inode;
    return BITKV_OK;
}

static int take_stream(struct take *t, struct bkv_follow_item *item, uint64_t from)
{
    struct bkv_partition *p = t->p;
    struct bkv_file file;
    uint64_t size;
    int rc = open_data(p, item->id, &file, &size);
    if (rc != BITKV_OK)
        return rc;
    rc = install(t, item, size);
    struct bkv_scanner scanner = {0};
    if (rc == BITKV_OK)
        rc = note_file(p, item->segment, &file);
    if (rc == BITKV_OK) {
        atomic_store(&item->segment->disk_bytes, size);
        rc = bkv_scanner_begin(&scanner, &file, item->segment->seed, from, size);
    }
    t->end = from;
    if (rc == BITKV_OK)
        rc = take_records(t, &scanner);
    if (rc == BITKV_OK && p->followed.sequence != t->sequence)
        set_place(t);
    if (rc == BITKV_OK) {
        item->segment->last_sequence = t->sequence;
        item->segment->followed = true;
    }
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    return rc;
}

/* --- compacted segments ------------------------------------------------------------------ */

static int take_entries(struct take *t, struct bkv_hint_reader *reader)
{
    for (;;) {
        struct bkv_entry entries[BATCH];
        size_t count;
        int rc = bkv_hint_take(reader, entries, BATCH, &count);
        if (rc != BITKV_OK || count == 0)
            return rc;
        for (size_t i = 0; i < count; i++) {
            uint64_t location = bkv_entry_location(&entries[i]);
            uint64_t offset = bkv_location_offset(location);
            uint64_t size = bkv_location_size(location);
            if (offset < BKV_SEGMENT_HEADER || size <= BKV_RECORD_HEADER ||
                offset + size > reader->info.data_size)
                return bkv_error(BITKV_ERR_CORRUPT, "%s has an entry that points nowhere",
                                 reader->file.name);
            struct bkv_hash hash = bkv_entry_hash(&entries[i]);
            add(t, &hash, bkv_entry_type(&entries[i]), offset, size, true);
        }
        rc = flush(t);
        if (rc != BITKV_OK)
            return rc;
    }
}

/* *used: all of it is in. */
static int take_hint(struct take *t, uint64_t size, bool *used)
{
    struct bkv_partition *p = t->p;
    struct bkv_segment *s = t->item->segment;
    struct bkv_hint_info info = bkv_hint_info_for(p, s->id, size);
    struct bkv_hint_reader reader;
    *used = false;
    int rc = bkv_hint_open(&reader, &p->store->dir, &info);
    if (rc == BITKV_OK) {
        rc = reader.info.data_size == size ? take_entries(t, &reader) : BITKV_ERR_CORRUPT;
        *used = rc == BITKV_OK;
        bkv_hint_close(&reader);
    }
    t->count = 0;
    return rc == BITKV_NOT_FOUND || rc == BITKV_ERR_CORRUPT ? BITKV_OK : rc;
}

/* A compacted segment is whole when it has its name. */
static int take_data(struct take *t, const struct bkv_file *file, uint64_t size)
{
    struct bkv_scanner scanner;
    uint64_t known = t->p->followed.sequence;
    int rc = bkv_scanner_begin(&scanner, file, t->item->segment->seed, BKV_SEGMENT_HEADER, size);
    for (uint64_t at = BKV_SEGMENT_HEADER; rc == BITKV_OK && at < size;) {
        struct bkv_scan_item record;
        bool there = false;
        rc = bkv_scanner_try(&scanner, &record, &there);
        if (rc == BITKV_OK && !there)
            rc = bkv_error(BKV_READ_AGAIN, "%s at offset %" PRIu64 ": a record does not verify",
                           file->name, at);
        if (rc != BITKV_OK)
            break;
        at = record.offset + record.size;
        add_record(t, &record, record.record.sequence <= known);
        if (t->count == BATCH)
            rc = flush(t);
    }
    if (rc == BITKV_OK)
        rc = flush(t);
    bkv_scanner_end(&scanner);
    return rc;
}

static int take_compacted(struct take *t, struct bkv_follow_item *item)
{
    struct bkv_file file;
    uint64_t size;
    int rc = open_data(t->p, item->id, &file, &size);
    if (rc != BITKV_OK)
        return rc;
    bool used = false;
    rc = install(t, item, size);
    t->end = size;
    if (rc == BITKV_OK)
        rc = bkv_segment_grow(t->p, item->segment, size);
    if (rc == BITKV_OK && item->range_last <= t->sequence)
        rc = take_hint(t, size, &used);
    if (rc == BITKV_OK && !used)
        rc = take_data(t, &file, size);
    bkv_file_close(&file);
    if (rc != BITKV_OK)
        return rc;
    item->segment->followed = true;
    bool replaced = t->p->followed.segment == NULL || replaces(item, t->p->followed.segment);
    t->sequence = bkv_max64(t->sequence, item->range_last);
    if (replaced || t->sequence > t->p->followed.sequence) {
        set_place(t);
        bkv_lock(&t->p->lock);
        t->p->next_sequence = t->sequence + 1;
        bkv_unlock(&t->p->lock);
    }
    return BITKV_OK;
}

/* --- what was replaced ----------------------------------------------------------------- */

static bool superseded(const struct bkv_follow *f, const struct bkv_segment *segment)
{
    for (size_t i = 0; i < f->count; i++) {
        const struct bkv_follow_item *item = &f->items[i];
        if (item->compacted && item->segment != NULL && item->segment->followed &&
            replaces(item, segment))
            return true;
    }
    return false;
}

static bool lies_in_superseded(void *user, uint64_t location)
{
    struct bkv_partition *p = user;
    const struct bkv_segment *s = bkv_table_get(&p->table, bkv_location_segment(location));
    if (!s->leaving)
        return false;
    bkv_account(p, location, false);
    atomic_fetch_add_explicit(&p->expired, 1, memory_order_relaxed);
    return true;
}

/* Which segments leave, and what still lies in them. */
static uint64_t mark_leaving(struct bkv_follow *f)
{
    uint64_t live = 0;
    for (struct bkv_segment *s = f->p->first; s != NULL; s = s->next) {
        s->leaving = superseded(f, s);
        if (s->leaving)
            live += atomic_load(&s->live_bytes);
    }
    return live;
}

static int sweep_expired(struct bkv_follow *f)
{
    struct bkv_partition *p = f->p;
    if (mark_leaving(f) == 0)
        return BITKV_OK;
    uint64_t removed;
    bkv_lock(&p->lock);
    int rc = bkv_keydir_sweep(p->keydir, lies_in_superseded, p, &removed);
    bkv_unlock(&p->lock);
    return rc == BITKV_OK ? BITKV_OK : full(p, rc);
}

/* As bkv_segments_replace(): what leaves leads on into the list. */
static void unlink_leaving(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    struct bkv_segment *before = NULL;
    struct bkv_segment *leaving = NULL;
    for (struct bkv_segment *s = p->first; s != NULL; s = s->next) {
        if (!s->leaving) {
            before = s;
            continue;
        }
        if (before == NULL) /* not the files of a writer: what replaces it comes first */
            atomic_store_explicit(&p->first, s->next, memory_order_release);
        else
            atomic_store_explicit(&before->next, s->next, memory_order_release);
        s->next_removed = leaving;
        leaving = s;
    }
    p->last = before;
    uint64_t stamp = bkv_epoch_stamp();
    while (leaving != NULL) {
        struct bkv_segment *next = leaving->next_removed;
        leaving->removal = ++p->removals;
        leaving->removal_stamp = stamp;
        leaving->next_removed = p->removed;
        p->removed = leaving;
        leaving = next;
    }
    bkv_unlock(&p->lock);
}

/* --- figures ------------------------------------------------------------------------------ */

/* A segment gets its hint when it is full and trimmed. */
static void measure_segment(struct bkv_partition *p, const struct bkv_follow_item *item)
{
    struct bkv_segment *s = item->segment;
    struct bkv_file file;
    uint64_t size;
    uint64_t hint_size;
    if (s == NULL || !item->hint || atomic_load(&s->hint_bytes) != 0 ||
        open_data(p, s->id, &file, &size) != BITKV_OK)
        return;
    bkv_file_close(&file);
    struct bkv_hint_info info = bkv_hint_info_for(p, s->id, size);
    atomic_store(&s->disk_bytes, size);
    if (bkv_hint_look(&p->store->dir, &info, &hint_size) != BITKV_OK)
        return;
    atomic_store(&s->hint_bytes, hint_size);
    s->summary = info.summary;
}

static void measure(struct bkv_follow *f)
{
    struct bkv_partition *p = f->p;
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    uint64_t size = 0;
    for (size_t i = 0; i < f->count; i++)
        measure_segment(p, &f->items[i]);
    bkv_name_checkpoint(name, p->index);
    if (f->checkpoint && bkv_file_open(&file, &p->store->dir, name, O_RDONLY) == BITKV_OK) {
        (void)bkv_file_size(&file, &size);
        bkv_file_close(&file);
    }
    atomic_store(&p->checkpoint_bytes, size);
}

/* --- step 4 ----------------------------------------------------------------------------- */

static int take_item(struct take *t, struct bkv_follow_item *item, bool *end)
{
    uint64_t from;
    enum next next = next_of(t->p, item, t->sequence, &from);
    if (next == NEXT_SKIP)
        return BITKV_OK;
    if (next == NEXT_GAP)
        return gap(t->p, item, t->sequence);
    if (next == NEXT_READ && item->compacted)
        return take_compacted(t, item);
    *end = next == NEXT_END || (t->sequence == t->f->limit && item->segment == NULL);
    return *end ? BITKV_OK : take_stream(t, item, from);
}

/* Whoever looks whether something was appended (feed.c) goes by a number that
 * grows with the log; here that of the last record will do. */
static void stir(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    atomic_store(&p->synced, p->followed.sequence);
    atomic_store(&p->appended, p->followed.sequence);
    bkv_unlock(&p->lock);
}

int bkv_follow_take(struct bkv_follow *f)
{
    struct take *t = bkv_calloc(1, sizeof *t);
    if (t == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to refresh");
    t->f = f;
    t->p = f->p;
    t->sequence = f->p->followed.sequence;
    int rc = BITKV_OK;
    bool end = false;
    for (size_t i = 0; i < f->count && rc == BITKV_OK && !end; i++)
        rc = take_item(t, &f->items[i], &end);
    bkv_mfree(t);
    if (rc == BITKV_OK)
        rc = sweep_expired(f);
    if (rc != BITKV_OK)
        return rc;
    unlink_leaving(f->p);
    stir(f->p);
    measure(f);
    (void)bkv_removed_reclaim(f->p);
    bkv_segments_trim(f->p);
    return BITKV_OK;
}
