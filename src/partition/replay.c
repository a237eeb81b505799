/* SPDX-License-Identifier: MIT */
/*
 * Recovery, second part: replaying the log from where the checkpoint ends, or
 * from its beginning, segment by segment in order of sequence: by hint where
 * there is one that verifies, else by reading every record.
 *
 * The order decides between two records of a key: the later in the log wins,
 * whatever the files are called and whatever the image has seen already.
 *
 * What does not verify is judged by where it lies. `durable` is the place that
 * the log is known to have reached the disk up to: from marks, which follow
 * each sync, from hints, which are written after their segment was synced, and
 * from the checkpoint.
 *
 *   before it   rot: skipped, reported, counted; what follows is good
 *   behind it   the unsynced tail of a crash: the log is cut there, and all
 *               that follows is dropped even if it verifies, because pages
 *               reach the disk in any order and a prefix is owed
 *
 * A gap in the sequence numbers is a hole of the same kind. Marks that come
 * later than the damage count too, so the first damage that is not known to be
 * rot makes recovery look ahead through all the rest for them, once.
 */
#include "partition/recovery.h"

#include "base/clock.h"
#include "base/error.h"
#include "log/filename.h"
#include "log/scan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

/* --- into the KeyDir -------------------------------------------------------------------- */

/* Is location `a` later in the log than `b`? */
static bool later(const struct bkv_partition *p, uint64_t a, uint64_t b)
{
    const struct bkv_segment *sa = bkv_table_get(&p->table, bkv_location_segment(a));
    const struct bkv_segment *sb = bkv_table_get(&p->table, bkv_location_segment(b));
    if (sa != sb)
        return sa->base_sequence > sb->base_sequence;
    return bkv_location_offset(a) > bkv_location_offset(b);
}

static int apply(struct bkv_partition *p, const struct bkv_pending *entry)
{
    uint64_t old = 0;
    bool exists = bkv_keydir_find(p->keydir, &entry->hash, &old);
    if (exists && !later(p, entry->location, old))
        return BITKV_OK;
    if (entry->type == BKV_RECORD_DELETE) {
        if (exists) {
            (void)bkv_keydir_remove(p->keydir, &entry->hash);
            bkv_account(p, old, false);
        }
        return BITKV_OK;
    }
    int rc = bkv_keydir_prepare(p->keydir, &entry->hash);
    if (rc != BITKV_OK)
        return bkv_error(rc, "the KeyDir of partition %" PRIu32 " cannot take another key",
                         p->index);
    (void)bkv_keydir_put(p->keydir, &entry->hash, entry->location);
    if (exists)
        bkv_account(p, old, false);
    bkv_account(p, entry->location, true);
    return BITKV_OK;
}

static int flush(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    int rc = BITKV_OK;
    for (size_t i = 0; i < r->batched; i++)
        bkv_keydir_prefetch_line(p->keydir, &r->batch[i].hash);
    for (size_t i = 0; i < r->batched && rc == BITKV_OK; i++)
        rc = apply(p, &r->batch[i]);
    r->batched = 0;
    return rc;
}

static int add(struct bkv_recover *r, const struct bkv_hash *hash, enum bkv_record_type type,
               uint64_t location)
{
    if (r->waiting)
        return BITKV_OK;
    bkv_keydir_prefetch_table(r->p->keydir, hash);
    r->batch[r->batched++] =
        (struct bkv_pending){.hash = *hash, .location = location, .type = type};
    return r->batched == sizeof r->batch / sizeof r->batch[0] ? flush(r) : BITKV_OK;
}

/* --- the files ------------------------------------------------------------------------------- */

static int open_data(struct bkv_recover *r, const struct bkv_found *f, struct bkv_file *file)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, r->p->index, f->id);
    return bkv_recover_vanished(r, bkv_file_open(file, &r->p->store->dir, name, O_RDONLY));
}

/* A writer that is followed appends to the file and trims it. */
static int measure_again(const struct bkv_recover *r, struct bkv_found *f,
                         const struct bkv_file *file)
{
    return r->p->store->options.read_only ? bkv_file_size(file, &f->file_size) : BITKV_OK;
}

/* --- from a hint ------------------------------------------------------------------------------ */

static bool entry_sound(const struct bkv_entry *entry, uint64_t data_size)
{
    uint64_t location = bkv_entry_location(entry);
    uint64_t offset = bkv_location_offset(location);
    uint64_t size = bkv_location_size(location);
    enum bkv_record_type type = bkv_entry_type(entry);
    return (type == BKV_RECORD_PUT || type == BKV_RECORD_DELETE) && offset >= BKV_SEGMENT_HEADER &&
           size > BKV_RECORD_HEADER && offset + size <= data_size;
}

static int replay_entries(struct bkv_recover *r, struct bkv_found *f,
                          struct bkv_hint_reader *reader, uint64_t from)
{
    uint64_t number = bkv_location(f->segment->number, 0, 0);
    for (;;) {
        struct bkv_entry entries[256];
        size_t count;
        int rc = bkv_hint_take(reader, entries, 256, &count);
        if (rc != BITKV_OK || count == 0)
            return rc;
        for (size_t i = 0; i < count && rc == BITKV_OK; i++) {
            if (!entry_sound(&entries[i], reader->info.data_size))
                return bkv_error(BITKV_ERR_CORRUPT, "%s has an entry that points nowhere",
                                 reader->file.name);
            uint64_t location = bkv_entry_location(&entries[i]);
            if (bkv_location_offset(location) < from)
                continue;
            struct bkv_hash hash = bkv_entry_hash(&entries[i]);
            rc = add(r, &hash, bkv_entry_type(&entries[i]), number | location);
            r->p->recovery.hint_records++;
        }
        if (rc != BITKV_OK)
            return rc;
    }
}

static int open_hint(struct bkv_recover *r, const struct bkv_found *f,
                     struct bkv_hint_reader *reader)
{
    struct bkv_hint_info info = bkv_hint_info_for(r->p, f->id, f->file_size);
    return bkv_hint_open(reader, &r->p->store->dir, &info);
}

/* A hint describes all of its segment. Space that was reserved and not yet
 * trimmed may follow, but no record: that hint is of an earlier state. */
static int check_rest(struct bkv_recover *r, struct bkv_found *f, uint64_t described)
{
    if (described == f->file_size)
        return BITKV_OK;
    struct bkv_file file;
    int rc = open_data(r, f, &file);
    if (rc != BITKV_OK)
        return rc;
    rc = measure_again(r, f, &file);
    if (rc != BITKV_OK || described == f->file_size) {
        bkv_file_close(&file);
        return rc;
    }
    struct bkv_scanner scanner;
    struct bkv_scan_item item = {.kind = BKV_SCAN_END};
    rc = bkv_scanner_begin(&scanner, &file, f->segment->seed, described, f->file_size);
    if (rc == BITKV_OK)
        rc = bkv_scanner_next(&scanner, &item);
    bkv_scanner_end(&scanner);
    if (rc == BITKV_OK && item.kind != BKV_SCAN_END)
        rc = bkv_error(BITKV_ERR_CORRUPT,
                       "the hint of %s describes %" PRIu64 " bytes, and there are more", file.name,
                       described);
    bkv_file_close(&file);
    return rc;
}

static int reject_hint(struct bkv_recover *r, struct bkv_found *f)
{
    struct bkv_partition *p = r->p;
    if (bkv_recover_doubts(r, "hint", f->id))
        return BKV_READ_AGAIN;
    f->hint = false;
    f->hint_rejected = true;
    p->recovery.rejected_hints++;
    if (p->store->options.strict_recovery)
        return BITKV_ERR_CORRUPT;
    bkv_log(p->store, BITKV_LOG_WARNING, "hint not used: %s", bitkv_error_context());
    return BITKV_OK;
}

/* *used: the segment is in. Otherwise its log has to be read. */
static int replay_hint(struct bkv_recover *r, struct bkv_found *f, uint64_t from, bool *used)
{
    *used = false;
    if (!f->hint)
        return BITKV_OK;
    struct bkv_hint_reader reader;
    int rc = open_hint(r, f, &reader);
    if (rc == BITKV_OK) {
        rc = check_rest(r, f, reader.info.data_size);
        if (rc == BITKV_OK && reader.info.last_sequence + 1 < f->base_sequence)
            rc =
                bkv_error(BITKV_ERR_CORRUPT, "%s ends before its segment begins", reader.file.name);
        if (rc == BITKV_OK)
            rc = replay_entries(r, f, &reader, from);
        if (rc == BITKV_OK) {
            struct bkv_segment *s = f->segment;
            atomic_store(&s->size, reader.info.data_size);
            atomic_store(&s->hint_bytes, BKV_HINT_HEADER + reader.info.count * BKV_HINT_ENTRY);
            s->summary = reader.info.summary;
            s->lasting = s->summary.expiring_bytes == 0;
            r->last_sequence = reader.info.last_sequence;
            *used = true;
        }
        bkv_hint_close(&reader);
    }
    if (rc == BITKV_ERR_CORRUPT || rc == BITKV_NOT_FOUND)
        return reject_hint(r, f);
    return rc;
}

/* --- how far the log was durable --------------------------------------------- */

static void take_mark(struct bkv_recover *r, const struct bkv_scan_item *item)
{
    uint64_t id = bkv_get64(item->value);
    uint64_t offset = bkv_get64(item->value + 8);
    for (size_t i = 0; i < r->count; i++) {
        if (r->found[i].id == id)
            bkv_raise_durable(r, (struct bkv_place){.file = i, .offset = offset});
    }
}

static int find_marks(struct bkv_recover *r, const struct bkv_found *f, uint64_t from)
{
    struct bkv_file file;
    int rc = open_data(r, f, &file);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_scanner scanner;
    struct bkv_scan_item item = {.kind = BKV_SCAN_RECORD};
    rc = bkv_scanner_begin(&scanner, &file, f->segment->seed, from, f->file_size);
    while (rc == BITKV_OK && item.kind != BKV_SCAN_END) {
        rc = bkv_scanner_next(&scanner, &item);
        if (rc == BITKV_OK && item.kind == BKV_SCAN_RECORD && item.record.type == BKV_RECORD_MARK)
            take_mark(r, &item);
    }
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    return rc;
}

static int look_ahead(struct bkv_recover *r, struct bkv_place from)
{
    r->looked_ahead = true;
    for (size_t i = from.file; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        if (f->hint) {
            struct bkv_hint_reader reader;
            int opened = open_hint(r, f, &reader);
            if (opened == BITKV_OK) {
                bkv_raise_durable(r,
                                  (struct bkv_place){.file = i, .offset = reader.info.data_size});
                bkv_hint_close(&reader);
                continue;
            }
            /* One that cannot be read now proves nothing, but denies nothing either. */
            if (opened != BITKV_ERR_CORRUPT && opened != BITKV_NOT_FOUND)
                return opened;
        }
        int rc = find_marks(r, f, i == from.file ? from.offset : BKV_SEGMENT_HEADER);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

/* Was everything before `place` durable, so that damage there is rot? */
static int was_durable(struct bkv_recover *r, struct bkv_place place, bool *durable)
{
    if (!bkv_place_before(place, r->durable) && !r->looked_ahead) {
        int rc = look_ahead(r, place);
        if (rc != BITKV_OK)
            return rc;
    }
    *durable = bkv_place_before(place, r->durable);
    return BITKV_OK;
}

/* --- from the log
 * --------------------------------------------------------------------------------- */

struct pass {
    struct bkv_recover *r;
    size_t index;
    struct bkv_found *f;
    struct bkv_scanner scanner;
    char name[BKV_NAME_SIZE];
    uint64_t end;     /* of what is valid */
    bool gap_allowed; /* damage was just met: the sequence may jump */
    unsigned again;   /* how often it was read again from `end` */
};

/* How often the end of the log is read again, and how long a half-written record may
 * take: 0.1 ms, 0.4 ms, ... */
#define READ_AGAIN_MAX     5u
#define READ_AGAIN_STEP_US 100u

/* Behind what is known to be durable a writer may be at work: what does not verify
 * may not be whole yet, and what was read behind it is of another moment. */
static bool may_be_growing(struct pass *pass)
{
    return pass->r->p->store->options.read_only && pass->again < READ_AGAIN_MAX;
}

static int read_again(struct pass *pass)
{
    pass->again++;
    bkv_sleep_us(pass->again * pass->again * READ_AGAIN_STEP_US);
    int rc = bkv_scanner_renew(&pass->scanner);
    pass->f->file_size = pass->scanner.end;
    bkv_scanner_seek(&pass->scanner, pass->end);
    return rc;
}

/* Behind a cut: how much of the file is not zeros, for the report. */
static int measure_torn(struct pass *pass, uint64_t *bytes)
{
    struct bkv_scan_item item = {.kind = BKV_SCAN_RECORD};
    bkv_scanner_seek(&pass->scanner, pass->end);
    while (item.kind != BKV_SCAN_END) {
        int rc = bkv_scanner_next(&pass->scanner, &item);
        if (rc != BITKV_OK)
            return rc;
    }
    *bytes = item.offset - pass->end;
    return BITKV_OK;
}

static int cut_at(struct pass *pass, uint64_t offset)
{
    struct bkv_recover *r = pass->r;
    bitkv_recovery *recovery = &r->p->recovery;
    uint64_t bytes = 0;
    pass->end = offset;
    r->cut = true;
    int rc = measure_torn(pass, &bytes);
    if (rc != BITKV_OK)
        return rc;
    recovery->torn_tails++;
    recovery->torn_tail_bytes += bytes;
    if (r->p->store->options.read_only)
        return BITKV_OK; /* it may be a record on its way: bkv_store_catch_up() tells */
    bkv_log(r->p->store, BITKV_LOG_WARNING,
            "%s/%s at offset %" PRIu64 ": unsynced tail of a crash, %" PRIu64 " bytes cut",
            r->p->store->dir.path, pass->name, offset, bytes);
    return BITKV_OK;
}

/* [offset, offset + size) does not verify, or a record is missing there. */
static int judge(struct pass *pass, uint64_t offset, uint64_t size, const char *what)
{
    struct bkv_recover *r = pass->r;
    struct bkv_place place = {.file = pass->index, .offset = offset};
    bool durable;
    int rc = was_durable(r, place, &durable);
    if (rc != BITKV_OK)
        return rc;
    if (!durable && may_be_growing(pass))
        return BKV_READ_AGAIN;
    if (!durable)
        return cut_at(pass, offset);
    /* Rot up to where the log was durable; behind that, the tail. */
    bool ends_inside = r->durable.file == pass->index && r->durable.offset < offset + size;
    uint64_t rot = ends_inside ? r->durable.offset - offset : size;
    rc = bkv_recover_damage(r, pass->name, offset, rot, what);
    pass->gap_allowed = true;
    if (rc == BITKV_OK && ends_inside)
        rc = cut_at(pass, r->durable.offset);
    return rc;
}

/* Counts a record, and takes it to the KeyDir if it has a key. */
static int apply_record(struct bkv_recover *r, const struct bkv_found *f,
                        const struct bkv_scan_item *item)
{
    struct bkv_partition *p = r->p;
    p->recovery.log_records++;
    p->recovery.log_bytes += item->size;
    if (bkv_record_is_keyless(&item->record))
        return BITKV_OK;
    struct bkv_hash hash = bkv_hash(&p->store->manifest.hash_key, item->key, item->record.key_size);
    return add(r, &hash, (enum bkv_record_type)item->record.type,
               bkv_location(f->segment->number, item->offset, bkv_size_code(item->size)));
}

/* What the header of a batch's group says of a log that may end anywhere. A part
 * of a group that is not whole is none; one that has peers waits for them. */
static int take_group(struct pass *pass, const struct bkv_scan_item *item)
{
    struct bkv_recover *r = pass->r;
    struct bkv_place place = {.file = pass->index, .offset = item->offset};
    bool durable, whole;
    int rc = was_durable(r, place, &durable);
    if (rc != BITKV_OK || durable)
        return rc;
    rc = bkv_group_take(r, &pass->scanner, place, item, &whole);
    return rc != BITKV_OK || whole ? rc : cut_at(pass, place.offset);
}

static int take_record(struct pass *pass, const struct bkv_scan_item *item)
{
    struct bkv_recover *r = pass->r;
    uint64_t sequence = item->record.sequence;
    if (sequence <= r->last_sequence) {
        int rc = judge(pass, item->offset, item->size, "a record out of sequence");
        if (rc == BITKV_OK && !r->cut)
            pass->end = item->offset + item->size;
        return rc;
    }
    if (sequence != r->last_sequence + 1 && !pass->gap_allowed && !pass->f->compacted) {
        int rc = judge(pass, item->offset, 0, "records are missing before this offset");
        if (rc != BITKV_OK || r->cut)
            return rc;
    }
    if (item->record.type == BKV_RECORD_BATCH) {
        int rc = take_group(pass, item);
        if (rc != BITKV_OK || r->cut)
            return rc;
    }
    pass->gap_allowed = false;
    pass->again = 0;
    r->last_sequence = sequence;
    r->proof_offset = item->offset;
    r->proof_segment = pass->f->id;
    pass->end = item->offset + item->size;
    if (item->record.type == BKV_RECORD_MARK)
        take_mark(r, item);
    return r->waiting ? BITKV_OK : apply_record(r, pass->f, item);
}

static int take_item(struct pass *pass, const struct bkv_scan_item *item)
{
    if (item->kind == BKV_SCAN_END)
        return BITKV_OK;
    if (item->kind == BKV_SCAN_RECORD)
        return take_record(pass, item);
    int rc = judge(pass, item->offset, item->size, "damaged");
    if (rc == BITKV_OK && !pass->r->cut)
        pass->end = item->offset + item->size;
    return rc;
}

static int run_pass(struct pass *pass)
{
    for (;;) {
        struct bkv_scan_item item;
        int rc = bkv_scanner_next(&pass->scanner, &item);
        if (rc == BITKV_ERR_CORRUPT && may_be_growing(pass))
            rc = BKV_READ_AGAIN; /* it was trimmed meanwhile */
        if (rc == BITKV_OK)
            rc = take_item(pass, &item);
        if (rc == BKV_READ_AGAIN && may_be_growing(pass)) {
            rc = read_again(pass);
            if (rc == BITKV_OK)
                continue;
        }
        if (rc != BITKV_OK || pass->r->cut || item.kind == BKV_SCAN_END)
            return rc;
    }
}

static int replay_log(struct bkv_recover *r, size_t index, uint64_t from)
{
    struct pass pass = {.r = r, .index = index, .f = &r->found[index], .end = from};
    bkv_name_data(pass.name, r->p->index, pass.f->id);
    /* The first record of a log whose beginning was lost, or of a segment
     * whose header was, has nothing to follow on. */
    pass.gap_allowed = r->last_sequence == 0 || pass.f->state != BKV_SEGMENT_VALID;
    struct bkv_file file;
    int rc = open_data(r, pass.f, &file);
    if (rc != BITKV_OK)
        return rc;
    rc = measure_again(r, pass.f, &file);
    if (rc == BITKV_OK)
        rc =
            bkv_scanner_begin(&pass.scanner, &file, pass.f->segment->seed, from, pass.f->file_size);
    if (rc == BITKV_OK)
        rc = run_pass(&pass);
    atomic_store(&pass.f->segment->size, pass.end);
    bkv_scanner_end(&pass.scanner);
    bkv_file_close(&file);
    return rc;
}

/* --- segment by segment
 * ----------------------------------------------------------------------------- */

/* The log ends before segment `index`, at `place`. */
static int cut_before(struct bkv_recover *r, size_t index, const char *name, struct bkv_place place)
{
    if (bkv_recover_doubts(r, name, place.offset))
        return BKV_READ_AGAIN;
    r->cut = true;
    r->found[index].dropped = true;
    r->p->recovery.torn_tails++;
    if (r->p->store->options.read_only)
        return BITKV_OK;
    bkv_log(r->p->store, BITKV_LOG_WARNING,
            "%s/%s at offset %" PRIu64 ": unsynced tail of a crash, what follows is cut",
            r->p->store->dir.path, name, place.offset);
    return BITKV_OK;
}

/* A segment whose header is lost. */
static int check_header(struct bkv_recover *r, size_t index)
{
    struct bkv_found *f = &r->found[index];
    if (f->state != BKV_SEGMENT_DAMAGED)
        return BITKV_OK;
    struct bkv_place place = {.file = index};
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, r->p->index, f->id);
    bool durable;
    int rc = was_durable(r, place, &durable);
    if (rc != BITKV_OK)
        return rc;
    return durable ? bkv_recover_damage(r, name, 0, bkv_min64(BKV_SEGMENT_HEADER, f->file_size),
                                        "damaged segment header")
                   : cut_before(r, index, name, place);
}

/* Between two segments: does this one begin where the last one ended? */
static int check_joint(struct bkv_recover *r, size_t index)
{
    struct bkv_found *f = &r->found[index];
    if (f->base_sequence <= r->last_sequence + 1)
        return BITKV_OK;
    char name[BKV_NAME_SIZE];
    if (index == 0) {
        /* Of a log that was never synced, a power cut may have left the later
         * files and nothing of the first. */
        struct bkv_place begin = {.file = 0};
        bool synced;
        int judged = was_durable(r, begin, &synced);
        if (judged != BITKV_OK)
            return judged;
        bkv_name_data(name, r->p->index, f->id);
        if (!synced)
            return cut_before(r, index, name, begin);
        judged =
            bkv_recover_damage(r, name, 0, 0, "the log's beginning is missing before this file");
        /* What claims to be older than the file that it is in, is not: the log would go
         * on with numbers below the file's, and be sorted before it. */
        r->last_sequence = f->base_sequence - 1;
        return judged;
    }
    const struct bkv_found *before = &r->found[index - 1];
    struct bkv_place place = {.file = index - 1, .offset = atomic_load(&before->segment->size)};
    bool durable;
    int rc = was_durable(r, place, &durable);
    if (rc != BITKV_OK)
        return rc;
    bkv_name_data(name, r->p->index, before->id);
    if (!durable)
        return cut_before(r, index, name, place);
    rc = bkv_recover_damage(r, name, place.offset, 0, "records are missing from this offset on");
    r->last_sequence = f->base_sequence - 1;
    return rc;
}

static int replay_segment(struct bkv_recover *r, size_t index)
{
    struct bkv_found *f = &r->found[index];
    uint64_t from = index == r->start.file ? r->start.offset : BKV_SEGMENT_HEADER;
    bool used;
    if (f->compacted) /* it was durable as a whole before it had its name */
        bkv_raise_durable(r, (struct bkv_place){.file = index, .offset = f->file_size});
    int rc = check_header(r, index);
    if (rc == BITKV_OK && !r->cut)
        rc = check_joint(r, index);
    if (rc != BITKV_OK || r->cut)
        return rc;
    rc = replay_hint(r, f, from, &used);
    if (rc == BITKV_OK && !used)
        rc = replay_log(r, index, from);
    if (rc == BITKV_OK)
        rc = flush(r);
    if (f->compacted && !r->cut)
        r->last_sequence = f->range_last;
    f->segment->last_sequence = r->last_sequence;
    if (used)
        bkv_raise_durable(r, (struct bkv_place){.file = index, .offset = f->segment->size});
    return rc;
}

/* What a checkpoint covers is taken as it says. */
static void take_covered(struct bkv_found *f)
{
    atomic_store(&f->segment->size, f->checkpoint_size);
    f->segment->last_sequence = f->checkpoint_last;
}

int bkv_replay(struct bkv_recover *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct bkv_found *f = &r->found[i];
        int rc = BITKV_OK;
        if (r->cut)
            f->dropped = true;
        else if (f->covered)
            take_covered(f);
        else
            rc = replay_segment(r, i);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

/* --- what was held back --------------------------------------------------------------- */

/* It has been judged already: what does not verify is skipped. */
static int apply_rest_of(struct bkv_recover *r, const struct bkv_found *f, uint64_t from,
                         uint64_t *last)
{
    struct bkv_file file;
    int rc = open_data(r, f, &file);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_scanner scanner;
    struct bkv_scan_item item = {.kind = BKV_SCAN_RECORD};
    rc = bkv_scanner_begin(&scanner, &file, f->segment->seed, from, atomic_load(&f->segment->size));
    while (rc == BITKV_OK && item.kind != BKV_SCAN_END) {
        rc = bkv_scanner_next(&scanner, &item);
        if (rc != BITKV_OK || item.kind != BKV_SCAN_RECORD || item.record.sequence <= *last)
            continue;
        *last = item.record.sequence;
        rc = apply_record(r, f, &item);
    }
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    return rc;
}

int bkv_replay_rest(struct bkv_recover *r)
{
    if (!r->waiting)
        return BITKV_OK;
    r->waiting = false;
    uint64_t last = r->wait_sequence;
    int rc = BITKV_OK;
    for (size_t i = r->wait_place.file; i < r->count && rc == BITKV_OK; i++) {
        const struct bkv_found *f = &r->found[i];
        uint64_t from = i == r->wait_place.file ? r->wait_place.offset : BKV_SEGMENT_HEADER;
        if (!f->dropped)
            rc = apply_rest_of(r, f, from, &last);
    }
    return rc == BITKV_OK ? flush(r) : rc;
}
