/* SPDX-License-Identifier: MIT */
/*
 * One run of compaction: what survives of some neighbours in the log, copied
 * to one segment.
 *
 * The inputs' hints are read, not the inputs: an entry whose location the KeyDir
 * still has is alive, and only its bytes are fetched, verified, and written with
 * the checksum of their new place. Sequence numbers stay.
 *
 *   a value the KeyDir points at   copied, and noted to be moved
 *   the same, but expired          removed; a tombstone stays if the sieve says so
 *   a value it does not            dead: left behind
 *   a tombstone of a present key   dead: a later value supersedes it
 *   a tombstone of an absent key   copied if the sieve says so
 *   a mark                         left behind: all of this is durable
 *
 * What is judged dead here is so because of records further on in the log, which
 * install.c makes durable before the inputs are given up.
 *
 * Memory: 24 bytes for each survivor, until the run has ended.
 *
 * Failure modes: anything fails: the output is thrown away, and nothing has
 * changed. A record that the KeyDir points at does not verify: damage, which
 * must not be made to look like absence: its segment is left as it is for this
 * opening.
 */
#include "partition/compact.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/segment.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_BYTES (512u << 10)
#define WINDOW_BYTES (256u << 10)
/* Entries of one slice: a few tenths of a millisecond. */
#define SLICE_ENTRIES 256u

void bkv_compact_output_name(char name[BKV_NAME_SIZE], const struct bkv_partition *p, uint64_t id)
{
    char final[BKV_NAME_SIZE];
    bkv_name_data(final, p->index, id);
    (void)snprintf(name, BKV_NAME_SIZE, "%.59s.tmp", final);
}

/* --- the output -------------------------------------------------------------------- */

static uint64_t output_end(const struct bkv_compaction *c)
{
    return c->written + c->used;
}

static int flush(struct bkv_compaction *c)
{
    int rc = bkv_file_write(&c->file, c->buffer, c->used, c->written);
    if (rc == BITKV_OK) {
        c->written += c->used;
        c->used = 0;
    }
    return rc;
}

static int no_memory(const struct bkv_compaction *c)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to compact partition %u", c->p->index);
}

static int grow(uint8_t **buffer, size_t *capacity, size_t size)
{
    if (size <= *capacity)
        return BITKV_OK;
    uint8_t *larger = bkv_realloc(*buffer, size);
    if (larger == NULL)
        return BITKV_ERR_NO_MEMORY;
    *buffer = larger;
    *capacity = size;
    return BITKV_OK;
}

/* Room for a record at the output's end. */
static int make_room(struct bkv_compaction *c, uint64_t size, uint8_t **to)
{
    if (c->used + size > c->capacity) {
        int rc = flush(c);
        if (rc != BITKV_OK)
            return rc;
        if (grow(&c->buffer, &c->capacity, (size_t)size) != BITKV_OK)
            return no_memory(c);
    }
    *to = c->buffer + c->used;
    return BITKV_OK;
}

/* The record that was put into the room, whose checksum but for its place is
 * `crc`, is there to stay. */
static int commit(struct bkv_compaction *c, const struct bkv_hash *hash,
                  const struct bkv_record *record, uint32_t crc, uint64_t *packed)
{
    uint8_t *bytes = c->buffer + c->used;
    uint64_t size = bkv_record_size_of(record);
    uint64_t offset = output_end(c);
    bkv_record_finish(bytes, crc, record->sequence, c->output->seed, offset);
    struct bkv_entry entry = bkv_entry(hash, (enum bkv_record_type)record->type, offset, size);
    c->used += size;
    *packed = entry.packed;
    return bkv_hint_add(&c->hint, &entry, record->sequence, bkv_record_deadline(bytes));
}

static int copy_record(struct bkv_compaction *c, const struct bkv_hash *hash, const uint8_t *bytes,
                       const struct bkv_record *record, uint32_t crc, uint64_t *packed)
{
    uint8_t *to;
    uint64_t size = bkv_record_size_of(record);
    int rc = make_room(c, size, &to);
    if (rc != BITKV_OK)
        return rc;
    memcpy(to, bytes, size);
    return commit(c, hash, record, crc, packed);
}

/* In the place of an expired value. */
static int write_tombstone(struct bkv_compaction *c, const struct bkv_hash *hash,
                           const uint8_t *bytes, const struct bkv_record *expired)
{
    struct bkv_record record = {
        .type = BKV_RECORD_DELETE,
        .key_size = expired->key_size,
        .sequence = expired->sequence,
    };
    uint64_t size = bkv_record_size_of(&record);
    uint64_t packed;
    uint8_t *to;
    int rc = make_room(c, size, &to);
    if (rc != BITKV_OK)
        return rc;
    memset(to, 0, size);
    bkv_record_begin(to, &record);
    memcpy(to + BKV_RECORD_HEADER, bkv_record_key(bytes), record.key_size);
    uint32_t crc = bkv_record_crc_begin(to);
    crc = bkv_crc32c(crc, to + BKV_RECORD_HEADER, size - BKV_RECORD_HEADER);
    c->kept_tombstones += size;
    return commit(c, hash, &record, crc, &packed);
}

static int add_move(struct bkv_compaction *c, uint64_t lo, uint64_t from, uint64_t to)
{
    if (c->move_count == c->move_capacity) {
        size_t capacity = c->move_capacity == 0 ? 4096 : c->move_capacity + c->move_capacity / 2;
        struct bkv_move *larger = bkv_realloc(c->moves, capacity * sizeof *larger);
        if (larger == NULL)
            return no_memory(c);
        c->moves = larger;
        c->move_capacity = capacity;
    }
    c->moves[c->move_count++] = (struct bkv_move){.lo = lo, .from = from, .to = to};
    return BITKV_OK;
}

/* --- the inputs ------------------------------------------------------------------------ */

static int fetch(struct bkv_compaction *c, uint64_t offset, uint64_t size, const uint8_t **bytes)
{
    if (offset < c->window_offset || offset + size > c->window_offset + c->window_size) {
        uint64_t end = atomic_load(&c->input->size);
        if (offset + size > end) {
            c->input->unfit = true;
            return bkv_error(BITKV_ERR_CORRUPT, "a location points behind its segment");
        }
        uint64_t want = bkv_min64(bkv_max64(size, WINDOW_BYTES), end - offset);
        if (grow(&c->window, &c->window_capacity, (size_t)want) != BITKV_OK)
            return no_memory(c);
        c->window_size = 0;
        int rc = bkv_file_read_exact(&c->input_file, c->window, (size_t)want, offset);
        if (rc != BITKV_OK)
            return rc;
        c->window_offset = offset;
        c->window_size = (size_t)want;
    }
    *bytes = c->window + (offset - c->window_offset);
    return BITKV_OK;
}

static int damaged(struct bkv_compaction *c, uint64_t offset, uint64_t size)
{
    c->input->unfit = true;
    return bkv_error(BITKV_ERR_CORRUPT,
                     "%s/%s at offset %llu, length %llu: record does not verify; the file is not "
                     "compacted",
                     c->p->store->dir.path, c->input_file.name, (unsigned long long)offset,
                     (unsigned long long)size);
}

/* The record of an entry, verified; *crc: of all of it but its place. */
static int read_record(struct bkv_compaction *c, const struct bkv_entry *entry,
                       const uint8_t **bytes, struct bkv_record *record, uint32_t *crc)
{
    uint64_t offset = bkv_location_offset(entry->packed);
    uint64_t size = bkv_location_size(entry->packed);
    int rc = fetch(c, offset, size, bytes);
    if (rc != BITKV_OK)
        return rc;
    *record = bkv_record_peek(*bytes);
    if (!bkv_record_plausible(record) || bkv_record_size_of(record) != size ||
        record->type != bkv_entry_type(entry))
        return damaged(c, offset, size);
    *crc = bkv_crc32c(bkv_record_crc_begin(*bytes), *bytes + BKV_RECORD_HEADER,
                      size - BKV_RECORD_HEADER);
    if (bkv_crc32c_words(*crc, record->sequence, c->input->seed, offset) !=
        bkv_get32(*bytes + BKV_RECORD_CRC))
        return damaged(c, offset, size);
    return BITKV_OK;
}

/* --- entry by entry ----------------------------------------------------------------------- */

static bool all_expired(const struct bkv_compaction *c)
{
    const struct bkv_summary *s = &c->input->summary;
    return s->permanent_bytes == 0 && s->expiring_bytes > 0 && s->expires_max <= c->now_ms;
}

static int take_value(struct bkv_compaction *c, const struct bkv_entry *entry, uint64_t location)
{
    struct bkv_hash hash = bkv_entry_hash(entry);
    bool needed = bkv_sieve_needed(&c->sieve, entry->lo);
    struct bkv_move gone = {
        .lo = entry->lo, .to = (uint64_t)bkv_hash_tag(&hash) << 39, /* of type NONE */
    };
    if (!needed && all_expired(c)) /* not even read */
        return add_move(c, gone.lo, location, gone.to);
    const uint8_t *bytes;
    struct bkv_record record;
    uint32_t crc;
    uint64_t packed;
    int rc = read_record(c, entry, &bytes, &record, &crc);
    if (rc != BITKV_OK)
        return rc;
    if (bkv_record_deadline(bytes) > c->now_ms) {
        rc = copy_record(c, &hash, bytes, &record, crc, &packed);
        return rc == BITKV_OK ? add_move(c, entry->lo, location, packed) : rc;
    }
    if (needed)
        rc = write_tombstone(c, &hash, bytes, &record);
    return rc == BITKV_OK ? add_move(c, gone.lo, location, gone.to) : rc;
}

static int take_tombstone(struct bkv_compaction *c, const struct bkv_entry *entry)
{
    struct bkv_hash hash = bkv_entry_hash(entry);
    const uint8_t *bytes;
    struct bkv_record record;
    uint32_t crc;
    uint64_t packed;
    if (!bkv_sieve_needed(&c->sieve, entry->lo))
        return BITKV_OK;
    int rc = read_record(c, entry, &bytes, &record, &crc);
    if (rc != BITKV_OK)
        return rc;
    c->kept_tombstones += bkv_location_size(entry->packed);
    return copy_record(c, &hash, bytes, &record, crc, &packed);
}

/* A new key of a batch that is being written has a place behind the log's end,
 * which may yet be taken back (batch.c): the key is absent so far. */
static bool is_uncommitted(const struct bkv_partition *p, uint64_t location)
{
    const struct bkv_segment *segment = bkv_table_get(&p->table, bkv_location_segment(location));
    return bkv_location_offset(location) >=
           atomic_load_explicit(&segment->size, memory_order_acquire);
}

/* Where the key is; 0: nowhere. Asked again behind the log's end: it may be another
 * record's, that came after a batch was taken back, which has made the place look
 * committed. No place is ever behind the end again once the end has passed it. */
static uint64_t find_committed(const struct bkv_partition *p, const struct bkv_hash *hash)
{
    uint64_t location = 0;
    bool found = bkv_keydir_find(p->keydir, hash, &location);
    while (found) {
        uint64_t seen = location;
        if (is_uncommitted(p, seen))
            return 0;
        found = bkv_keydir_find(p->keydir, hash, &location);
        if (found && location == seen)
            return location;
    }
    return 0;
}

/* What the KeyDir has for each entry; 0: nothing. */
static void look_up(const struct bkv_compaction *c, const struct bkv_entry *entries, size_t count,
                    uint64_t *locations)
{
    const struct bkv_keydir *keydir = c->p->keydir;
    struct bkv_epoch_slot *slot = bkv_epoch_enter_again(); /* the run was chosen in one */
    for (size_t i = 0; i < count; i++) {
        struct bkv_hash hash = bkv_entry_hash(&entries[i]);
        bkv_keydir_prefetch_table(keydir, &hash);
    }
    for (size_t i = 0; i < count; i++) {
        struct bkv_hash hash = bkv_entry_hash(&entries[i]);
        bkv_keydir_prefetch_line(keydir, &hash);
    }
    for (size_t i = 0; i < count; i++) {
        struct bkv_hash hash = bkv_entry_hash(&entries[i]);
        locations[i] = find_committed(c->p, &hash);
    }
    bkv_epoch_exit(slot);
}

#define GROUP 32u

static int take_group(struct bkv_compaction *c, const struct bkv_entry *entries, size_t count)
{
    uint64_t locations[GROUP];
    uint64_t number = bkv_location(c->input->number, 0, 0);
    int rc = BITKV_OK;
    look_up(c, entries, count, locations);
    for (size_t i = 0; i < count && rc == BITKV_OK; i++) {
        uint64_t location = number | bkv_entry_location(&entries[i]);
        if (bkv_entry_type(&entries[i]) == BKV_RECORD_PUT && locations[i] == location)
            rc = take_value(c, &entries[i], location);
        else if (bkv_entry_type(&entries[i]) == BKV_RECORD_DELETE && locations[i] == 0)
            rc = take_tombstone(c, &entries[i]);
    }
    return rc;
}

static int take_entries(struct bkv_compaction *c, struct bkv_hint_reader *reader)
{
    uint64_t reported = BKV_SEGMENT_HEADER;
    for (;;) {
        struct bkv_entry entries[SLICE_ENTRIES];
        size_t count;
        int rc = bkv_hint_take(reader, entries, SLICE_ENTRIES, &count);
        c->input->unfit |= rc == BITKV_ERR_CORRUPT;
        if (rc != BITKV_OK || count == 0)
            return rc;
        for (size_t i = 0; i < count && rc == BITKV_OK; i += GROUP)
            rc = take_group(c, &entries[i], count - i < GROUP ? count - i : GROUP);
        uint64_t at = bkv_location_offset(entries[count - 1].packed);
        if (rc == BITKV_OK)
            rc = bkv_pace_slice(c->pace, at > reported ? at - reported : 0);
        if (rc != BITKV_OK)
            return rc;
        reported = bkv_max64(reported, at);
    }
}

static int open_input(struct bkv_compaction *c, struct bkv_segment *input)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, c->p->index, input->id);
    c->input = input;
    c->window_size = 0;
    int rc = bkv_file_open(&c->input_file, &c->p->store->dir, name, O_RDONLY);
    return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
}

static int take_input(struct bkv_compaction *c, struct bkv_segment *input)
{
    struct bkv_hint_info info = bkv_hint_info_of(c->p, input);
    struct bkv_hint_reader reader;
    int rc = bkv_hint_open(&reader, &c->p->store->dir, &info);
    if (rc == BITKV_ERR_CORRUPT || rc == BITKV_NOT_FOUND) {
        input->unfit = true; /* the next opening makes a new one */
        return BITKV_ERR_CORRUPT;
    }
    if (rc != BITKV_OK)
        return rc;
    rc = open_input(c, input);
    if (rc == BITKV_OK) {
        rc = take_entries(c, &reader);
        bkv_file_close(&c->input_file);
    }
    bkv_hint_close(&reader);
    return rc;
}

/* --- the whole ----------------------------------------------------------------------------- */

static int begin_output(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    const struct bkv_run *run = c->run;
    bkv_lock(&p->lock);
    uint64_t id = p->next_id++;
    bkv_unlock(&p->lock);
    if (id > BKV_SEGMENT_ID_MAX)
        return bkv_error(BITKV_ERR_LIMIT, "partition %u has used up its segment ids", p->index);
    c->output = bkv_segment_new(p, id);
    if (c->output == NULL)
        return BITKV_ERR_NO_MEMORY;
    c->output->kind = BKV_SEGMENT_COMPACTED;
    c->output->base_sequence = run->segments[0]->base_sequence;
    c->output->last_sequence = run->segments[run->count - 1]->last_sequence;
    c->written = BKV_SEGMENT_HEADER;
    if (grow(&c->buffer, &c->capacity, BUFFER_BYTES) != BITKV_OK)
        return no_memory(c);
    char name[BKV_NAME_SIZE];
    bkv_compact_output_name(name, p, id);
    int rc = bkv_file_open(&c->file, &p->store->dir, name, O_RDWR | O_CREAT | O_TRUNC);
    if (rc != BITKV_OK)
        return rc < 0 ? rc : BITKV_ERR_IO;
    struct bkv_hint_info info = bkv_hint_info_of(p, c->output);
    rc = bkv_hint_begin(&c->hint, &p->store->dir, &info);
    c->hint_open = rc == BITKV_OK;
    return rc;
}

static int write_header(struct bkv_compaction *c)
{
    struct bkv_segment_header header = {
        .partition = c->p->index,
        .kind = BKV_SEGMENT_COMPACTED,
        .id = c->output->id,
        .base_sequence = c->output->base_sequence,
        .last_sequence = c->output->last_sequence,
    };
    memcpy(header.database_id, c->p->store->manifest.database_id, sizeof header.database_id);
    uint8_t bytes[BKV_SEGMENT_HEADER];
    bkv_segment_header_encode(bytes, &header);
    return bkv_file_write(&c->file, bytes, sizeof bytes, 0);
}

static int write_output(struct bkv_compaction *c)
{
    int rc = begin_output(c);
    if (rc == BITKV_OK)
        rc = bkv_sieve_begin(&c->sieve, c->p, c->run, c->now_ms, c->pace);
    for (uint32_t i = 0; i < c->run->count && rc == BITKV_OK; i++)
        rc = take_input(c, c->run->segments[i]);
    if (rc == BITKV_OK)
        rc = flush(c);
    if (rc == BITKV_OK)
        rc = write_header(c);
    if (rc == BITKV_OK)
        atomic_store(&c->output->size, c->written);
    return rc;
}

static void abandon(struct bkv_compaction *c)
{
    char name[BKV_NAME_SIZE];
    if (c->hint_open)
        bkv_hint_abandon(&c->hint);
    if (c->file.fd >= 0) {
        bkv_compact_output_name(name, c->p, c->output->id);
        (void)bkv_dir_unlink(&c->p->store->dir, name); /* a leftover is removed at opening */
    }
    bkv_segment_unref(c->output);
}

static int run_once(struct bkv_partition *p, const struct bkv_run *run, const struct bkv_pace *pace)
{
    struct bkv_compaction c = {
        .p = p,
        .run = run,
        .pace = pace,
        .now_ms = bkv_store_now_ms(p->store),
        .file = BKV_FILE_NONE,
        .input_file = BKV_FILE_NONE,
    };
    int rc = write_output(&c);
    if (rc == BITKV_OK)
        rc = bkv_compact_install(&c);
    if (rc != BITKV_OK)
        abandon(&c);
    bkv_file_close(&c.file);
    bkv_sieve_end(&c.sieve);
    bkv_mfree(c.moves);
    bkv_mfree(c.buffer);
    bkv_mfree(c.window);
    return rc;
}

int bkv_compact_run(struct bkv_partition *p, const struct bkv_run *run, const struct bkv_pace *pace)
{
    int rc = run_once(p, run, pace);
    if (rc == BITKV_ERR_NO_SPACE && bkv_reserve_release(p))
        rc = run_once(p, run, pace);
    return rc;
}
