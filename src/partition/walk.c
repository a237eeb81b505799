/* SPDX-License-Identifier: MIT */
/*
 * Walking through the records of a snapshot.
 *
 * The KeyDir hands out its entries a table at a time, about a thousand in the
 * order of their hashes; so their records lie anywhere. Two ways:
 *
 *   as they come   while the records are in memory: each record's lines are asked
 *                  for AHEAD entries before it is looked at, so that the misses
 *                  overlap. Sorting would cost more than it saves.
 *   ordered        where records are read from disk, or through descriptors, or
 *                  not all files can be open at a time: the entries of a window of
 *                  tables are sorted by location, and visited forward through the
 *                  files: what lies close together is read together, and each file
 *                  is opened once a window. Windows double up to WINDOW_TABLES,
 *                  so that whoever stops early has not paid for a large one.
 *
 * Which of the two is decided table by table, from a few pages that the kernel is
 * asked about: the first round through cold files makes them warm.
 *
 * What proves a record: its checksum; where values are not read, its key, which
 * has to hash to the entry. A key that lacks the prefix has to prove itself, too:
 * damage must not pass for another key. A record is believed to have expired only
 * if all of it verifies.
 *
 * The mappings of files that were met are kept open, in a table by segment number,
 * so that a visit costs no reference count. They are let go when the partition
 * ends.
 *
 * Failure modes: a record that does not verify, or cannot be read, is skipped and
 * the first of them remembered. No memory for a window: reported, and nothing is
 * skipped; for more than one table: the window stays small.
 */
#include "partition/state.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/io.h"
#include "io/residency.h"
#include "partition/record_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Entries between the prefetch of a record and its visit. */
#define AHEAD 24u
/* Of a record, or of its key; what follows the processor fetches by itself. */
#define PREFETCH_BYTES     192u
#define PREFETCH_KEY_BYTES 64u
/* Of records up to here the checksum costs less than a hash of the key, which is what
 * proves a key whose value is not read. */
#define SMALL_BYTES PREFETCH_BYTES

/* Mappings that are kept: a power of two. */
#define PINS_MAX 256u

/* Some thousand entries each, of 24 bytes, twice while they are gathered. */
#define WINDOW_TABLES 1024u
/* Entries of a table whose pages are asked about. */
#define SAMPLES 8u

/* Where only the key is wanted, this much is read at first. */
#define HEAD_BYTES 512u
/* Through a descriptor: records this close together are read at once. */
#define RUN_BYTES (256u << 10)
#define RUN_GAP   4096u
/* From disk: the kernel is told of this much in advance. */
#define ADVICE_BYTES   (4u << 20)
#define ADVICE_ENTRIES 1024u

/* Entries that are passed over in one section. */
#define SECTION_ENTRIES 1024u

struct pin {
    struct bkv_mapping *mapping; /* a reference; NULL: empty */
    struct bkv_segment *segment;
    uint32_t number;
};

/* Bytes of a file that were read through its descriptor. */
struct window_of_file {
    uint8_t *bytes;
    size_t size, capacity;
    uint64_t offset;
    uint32_t number; /* UINT32_MAX: nothing */
};

struct bkv_walk {
    /* what is wanted */
    bool keys_only;
    size_t prefix_size;
    uint8_t *prefix;

    /* where it is */
    struct bkv_partition *p;
    const struct bkv_keydir_snapshot *keydir;
    uint32_t table, tables, step; /* the next one, and how many there are */
    uint32_t pins_mask;
    struct bkv_keydir_entries entries;
    struct bkv_keydir_entries more; /* of one more table, on its way into `entries` */
    size_t at;

    /* in order */
    bool ordered;
    uint32_t window;           /* tables, next time */
    size_t batch_end, advised; /* entries: the kernel knows of them */
    uint32_t unopened;         /* number of a segment that could not be opened; UINT32_MAX: none */
    struct window_of_file read;

    int failure;
    char failure_text[BKV_ERROR_CONTEXT_SIZE];
    struct pin pins[PINS_MAX];
};

/* --- files -------------------------------------------------------------------------- */

static void unpin_all(struct bkv_walk *walk)
{
    for (unsigned i = 0; i < PINS_MAX; i++) {
        bkv_mapping_unref(walk->pins[i].mapping);
        walk->pins[i].mapping = NULL;
    }
}

static uint32_t pins_mask_of(const struct bkv_store *store)
{
    uint32_t pins = PINS_MAX;
    while (pins > 1 && (!store->mapped || pins > store->open_segments_max))
        pins /= 2;
    return pins - 1;
}

/* In the section; NULL: the file is closed. */
static struct bkv_mapping *open_mapping(const struct bkv_segment *segment)
{
    return atomic_load_explicit(&segment->open, memory_order_acquire);
}

/* The hold keeps the segment and its number while the section is left. */
static __attribute__((noinline)) int pin_segment(struct bkv_walk *walk, struct bkv_epoch_slot *slot,
                                                 uint32_t number, struct pin *pin)
{
    bkv_mapping_unref(pin->mapping);
    pin->mapping = NULL;
    struct bkv_segment *segment = bkv_table_get(&walk->p->table, number);
    atomic_store_explicit(&segment->referenced, 1, memory_order_relaxed);
    struct bkv_mapping *mapping = open_mapping(segment);
    if (mapping != NULL) {
        bkv_mapping_ref(mapping);
    } else {
        bkv_epoch_pause(slot);
        int rc = bkv_segment_pin(walk->p, segment, &mapping);
        bkv_epoch_resume(slot);
        if (rc != BITKV_OK)
            return rc;
    }
    *pin = (struct pin){.mapping = mapping, .segment = segment, .number = number};
    return BITKV_OK;
}

static inline struct pin *pin_of(struct bkv_walk *walk, uint32_t number)
{
    return &walk->pins[number & walk->pins_mask];
}

static inline bool is_pinned(const struct pin *pin, uint32_t number)
{
    return BKV_LIKELY(pin->number == number && pin->mapping != NULL);
}

static inline int locate(struct bkv_walk *walk, struct bkv_epoch_slot *slot, uint64_t location,
                         struct bkv_located *t)
{
    uint32_t number = bkv_location_segment(location);
    struct pin *pin = pin_of(walk, number);
    if (!is_pinned(pin, number)) {
        int rc = pin_segment(walk, slot, number, pin);
        if (rc != BITKV_OK)
            return rc;
    }
    *t = (struct bkv_located){
        .partition = walk->p,
        .segment = pin->segment,
        .mapping = pin->mapping,
        .offset = bkv_location_offset(location),
        .size = bkv_location_size(location),
        .location = location,
    };
    return BITKV_OK;
}

/* What is looked at of a record of this size, as far as it is known in advance. */
static inline uint64_t wanted_of(const struct bkv_walk *walk, uint64_t location)
{
    uint64_t size = bkv_location_size(location);
    return walk->keys_only || walk->prefix_size > 0 ? bkv_min64(size, HEAD_BYTES) : size;
}

/* --- memory: prefetch --------------------------------------------------------------- */

static inline void prefetch_record(struct bkv_walk *walk, uint64_t location)
{
    uint32_t number = bkv_location_segment(location);
    const struct pin *pin = pin_of(walk, number);
    const struct bkv_mapping *mapping = is_pinned(pin, number)
                                            ? pin->mapping
                                            : open_mapping(bkv_table_get(&walk->p->table, number));
    if (mapping == NULL || mapping->base == NULL)
        return;
    uint64_t offset = bkv_location_offset(location);
    uint64_t size = bkv_location_size(location);
    uint64_t bytes = walk->keys_only && size > SMALL_BYTES ? PREFETCH_KEY_BYTES : PREFETCH_BYTES;
    uint64_t end = bkv_min64(offset + bkv_min64(size, bytes), mapping->size);
    for (uint64_t line = offset & ~63ull; line < end; line += 64)
        __builtin_prefetch(mapping->base + line);
}

static inline void prefetch_ahead(struct bkv_walk *walk)
{
    size_t index = walk->at + AHEAD;
    if (index < walk->entries.count)
        prefetch_record(walk, walk->entries.items[index].location);
}

static void prefetch_first(struct bkv_walk *walk)
{
    for (size_t i = 0; i < AHEAD && i < walk->entries.count; i++)
        prefetch_record(walk, walk->entries.items[i].location);
}

/* --- disk: what comes next ---------------------------------------------------------- */

/* Entries from `index` on, in order, that lie close together in one file, as a range
 * of it. */
static size_t run_of(const struct bkv_walk *walk, size_t index, uint64_t limit, uint64_t *bytes)
{
    const struct bkv_keydir_entry *items = walk->entries.items;
    uint64_t begin = bkv_location_offset(items[index].location);
    uint64_t end = begin + wanted_of(walk, items[index].location);
    uint32_t number = bkv_location_segment(items[index].location);
    for (index++; index < walk->entries.count; index++) {
        uint64_t location = items[index].location;
        uint64_t offset = bkv_location_offset(location);
        uint64_t to = offset + wanted_of(walk, location);
        if (bkv_location_segment(location) != number || offset > end + RUN_GAP ||
            to - begin > limit)
            break;
        end = bkv_max64(end, to);
    }
    *bytes = end - begin;
    return index;
}

/* The kernel may read it now. In the section. */
static void advise(const struct bkv_walk *walk, uint64_t location, uint64_t bytes)
{
    const struct bkv_segment *segment =
        bkv_table_get(&walk->p->table, bkv_location_segment(location));
    const struct bkv_mapping *mapping = open_mapping(segment);
    if (mapping == NULL || mapping->base == NULL)
        return;
    uint64_t begin = bkv_location_offset(location) & ~UINT64_C(0xffff); /* pages are no larger */
    uint64_t end = bkv_min64(bkv_location_offset(location) + bytes, mapping->size);
    BKV_DEBUG_ASSERT(begin < end); /* I8 */
    (void)bkv_io->madvise(mapping->base + begin, end - begin, MADV_WILLNEED);
}

static size_t advise_batch(const struct bkv_walk *walk, size_t index)
{
    size_t end = index + ADVICE_ENTRIES;
    uint64_t bytes = 0;
    while (index < walk->entries.count && index < end && bytes < ADVICE_BYTES) {
        uint64_t run;
        size_t next = run_of(walk, index, ADVICE_BYTES / 4, &run);
        advise(walk, walk->entries.items[index].location, run);
        bytes += run;
        index = next;
    }
    return index;
}

/* One batch is visited while the next is on its way. Each has an entry or more, so
 * that the visited one, which there is, comes to lie within. */
static void advise_ahead(struct bkv_walk *walk)
{
    BKV_DEBUG_ASSERT(walk->at < walk->entries.count);
    while (walk->at >= walk->batch_end) {
        walk->batch_end = walk->advised;
        walk->advised = advise_batch(walk, walk->advised);
    }
}

/* --- the window --------------------------------------------------------------------- */

static int by_location(const void *a, const void *b)
{
    uint64_t x = ((const struct bkv_keydir_entry *)a)->location;
    uint64_t y = ((const struct bkv_keydir_entry *)b)->location;
    return x < y ? -1 : x > y;
}

/* A few records of the table: is one of them not in memory? Files are mapped here, and
 * all that locations point at lies within (I8). In the section. */
static bool looks_cold(const struct bkv_walk *walk)
{
    size_t stride = walk->entries.count / SAMPLES + 1;
    for (size_t i = 0; i < walk->entries.count; i += stride) {
        uint64_t location = walk->entries.items[i].location;
        const struct bkv_mapping *mapping =
            open_mapping(bkv_table_get(&walk->p->table, bkv_location_segment(location)));
        uint64_t offset = bkv_location_offset(location);
        if (mapping != NULL && !bkv_resident_now(mapping, offset))
            return true;
    }
    return false;
}

static bool wants_order(const struct bkv_walk *walk)
{
    const struct bkv_store *store = walk->p->store;
    return !store->mapped ||
           atomic_load_explicit(&walk->p->next_number, memory_order_relaxed) >
               store->open_segments_max ||
           looks_cold(walk);
}

static int load_table(struct bkv_walk *walk, struct bkv_keydir_entries *out)
{
    int rc = bkv_keydir_snapshot_scan(walk->keydir, walk->table, out);
    if (rc != BITKV_OK)
        return bkv_error(rc, "no memory for entries of partition %u", walk->p->index);
    walk->table = walk->step < walk->tables - walk->table ? walk->table + walk->step : walk->tables;
    return BITKV_OK;
}

static bool append_table(struct bkv_walk *walk)
{
    struct bkv_keydir_entries *entries = &walk->entries;
    size_t room = entries->count + (size_t)BKV_KEYDIR_GROUP_KEYS_MAX;
    if (room > entries->capacity) {
        size_t capacity = room + entries->capacity;
        struct bkv_keydir_entry *items =
            bkv_realloc(entries->items, capacity * sizeof *entries->items);
        if (items == NULL)
            return false;
        entries->items = items;
        entries->capacity = capacity;
    }
    if (load_table(walk, &walk->more) != BITKV_OK)
        return false;
    if (walk->more.count > 0)
        memcpy(entries->items + entries->count, walk->more.items,
               walk->more.count * sizeof *entries->items);
    entries->count += walk->more.count;
    return true;
}

/* More tables, and all of them in order. Takes long: out of the section. */
static void extend_in_order(struct bkv_walk *walk)
{
    for (uint32_t i = 1; i < walk->window && walk->table < walk->tables; i++) {
        if (!append_table(walk))
            break;
    }
    qsort(walk->entries.items, walk->entries.count, sizeof *walk->entries.items, by_location);
    if (walk->window < WINDOW_TABLES)
        walk->window *= 2;
}

/* BITKV_NOT_FOUND: there is no more. */
static int refill(struct bkv_walk *walk, struct bkv_epoch_slot *slot)
{
    walk->at = walk->entries.count = 0;
    walk->batch_end = walk->advised = 0;
    walk->unopened = UINT32_MAX;
    while (walk->entries.count == 0) {
        if (walk->table >= walk->tables)
            return BITKV_NOT_FOUND;
        int rc = load_table(walk, &walk->entries);
        if (rc != BITKV_OK)
            return rc;
    }
    walk->ordered = wants_order(walk);
    if (walk->ordered) {
        bkv_epoch_pause(slot);
        extend_in_order(walk);
        bkv_epoch_resume(slot);
    } else {
        walk->window = 1;
    }
    prefetch_first(walk);
    return BITKV_OK;
}

/* --- bytes of a record -------------------------------------------------------------- */

static int damaged(const struct bkv_located *t)
{
    return bkv_record_damaged(t->partition->store->dir.path, t->partition->index, t->segment->id,
                              t->offset, t->size, bkv_mapping_faulted(t->mapping));
}

static int read_from(struct bkv_walk *walk, const struct bkv_located *t, size_t size)
{
    struct window_of_file *read = &walk->read;
    read->number = UINT32_MAX;
    if (size > read->capacity) {
        bkv_mfree(read->bytes);
        read->bytes = bkv_malloc(size);
        read->capacity = read->bytes != NULL ? size : 0;
        if (read->bytes == NULL)
            return bkv_no_memory_for(size);
    }
    int rc = bkv_file_read_exact(&t->mapping->file, read->bytes, size, t->offset);
    if (rc == BITKV_OK) {
        read->number = t->segment->number;
        read->offset = t->offset;
        read->size = size;
    }
    return rc;
}

static bool was_read(const struct window_of_file *read, const struct bkv_located *t, uint64_t size)
{
    return read->number == t->segment->number && t->offset >= read->offset &&
           t->offset + size <= read->offset + read->size;
}

/* With its neighbours, or, if that fails, alone: they are not to blame each other. */
static int fetch_unmapped(struct bkv_walk *walk, const struct bkv_located *t, uint64_t size,
                          const uint8_t **bytes)
{
    int rc = BITKV_OK;
    if (!was_read(&walk->read, t, size)) {
        uint64_t run;
        (void)run_of(walk, walk->at, RUN_BYTES, &run);
        rc = read_from(walk, t, bkv_max64(run, size));
        if (rc != BITKV_OK && run > size)
            rc = read_from(walk, t, size);
    }
    if (rc == BITKV_OK)
        *bytes = walk->read.bytes + (t->offset - walk->read.offset);
    return rc;
}

/* The first `size` bytes of the record. */
static inline int fetch(struct bkv_walk *walk, const struct bkv_located *t, uint64_t size,
                        const uint8_t **bytes)
{
    if (BKV_UNLIKELY(t->mapping->base == NULL))
        return fetch_unmapped(walk, t, size, bytes);
    BKV_DEBUG_ASSERT(t->offset + t->size <= t->mapping->size); /* I8 */
    *bytes = t->mapping->base + t->offset;
    return BITKV_OK;
}

/* Header and key, which fit the record but may be anything. */
static inline int fetch_key(struct bkv_walk *walk, const struct bkv_located *t,
                            const uint8_t **bytes, struct bkv_record *record)
{
    uint64_t size = bkv_min64(t->size, HEAD_BYTES);
    BKV_DEBUG_ASSERT(size > BKV_RECORD_HEADER); /* I3 */
    int rc = fetch(walk, t, size, bytes);
    if (rc != BITKV_OK)
        return rc;
    *record = bkv_record_peek(*bytes);
    if (record->type != BKV_RECORD_PUT || !bkv_record_plausible(record) ||
        bkv_record_size_of(record) != t->size)
        return damaged(t);
    uint64_t key_end = BKV_RECORD_HEADER + bkv_record_prefix(record->flags) + record->key_size;
    return key_end > size ? fetch(walk, t, key_end, bytes) : BITKV_OK;
}

/* --- one record --------------------------------------------------------------------- */

/* The key is the one that the entry is of. */
static bool key_proves_itself(const struct bkv_walk *walk, const struct bkv_keydir_entry *entry,
                              const uint8_t *bytes, const struct bkv_record *record)
{
    struct bkv_hash hash =
        bkv_hash(&walk->p->store->manifest.hash_key, bkv_record_key(bytes), record->key_size);
    return bkv_keydir_entry_is(entry, &hash);
}

static bool has_prefix(const struct bkv_walk *walk, const uint8_t *bytes,
                       const struct bkv_record *record)
{
    return record->key_size >= walk->prefix_size &&
           memcmp(bkv_record_key(bytes), walk->prefix, walk->prefix_size) == 0;
}

static inline bool expired(const struct bkv_walk *walk, const uint8_t *bytes)
{
    uint64_t deadline = bkv_record_deadline(bytes);
    return BKV_UNLIKELY(deadline != UINT64_MAX) && deadline <= bkv_store_now_ms(walk->p->store);
}

static inline void show(const struct bkv_walk *walk, const uint8_t *bytes,
                        const struct bkv_record *record, struct bkv_shown *shown)
{
    shown->record = (bitkv_record){
        .key = bkv_record_key(bytes),
        .key_size = record->key_size,
        .value = walk->keys_only ? NULL : bkv_record_value(bytes, record),
        .value_size = record->value_size,
        .sequence = record->sequence,
        .partition = walk->p->index,
    };
    shown->deadline = bkv_record_deadline(bytes);
}

/* BITKV_NOT_FOUND: it is none of those that are wanted. */
static inline int visit_whole(struct bkv_walk *walk, const struct bkv_located *t,
                              struct bkv_shown *shown)
{
    const uint8_t *bytes = NULL;
    struct bkv_record record;
    int rc = fetch(walk, t, t->size, &bytes);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    if (BKV_UNLIKELY(!bkv_record_verify(bytes, t->size, t->segment->seed, t->offset, &record) ||
                     record.type != BKV_RECORD_PUT))
        return damaged(t);
    if (expired(walk, bytes))
        return BITKV_NOT_FOUND;
    show(walk, bytes, &record, shown);
    return BITKV_OK;
}

static inline int visit_by_key(struct bkv_walk *walk, const struct bkv_located *t,
                               const struct bkv_keydir_entry *entry, struct bkv_shown *shown)
{
    const uint8_t *bytes = NULL;
    struct bkv_record record = {0};
    int rc = fetch_key(walk, t, &bytes, &record);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    if (!has_prefix(walk, bytes, &record))
        return key_proves_itself(walk, entry, bytes, &record) ? BITKV_NOT_FOUND : damaged(t);
    if (!walk->keys_only || expired(walk, bytes)) /* a damaged deadline must not hide a key */
        return visit_whole(walk, t, shown);
    if (BKV_UNLIKELY(!key_proves_itself(walk, entry, bytes, &record)))
        return damaged(t);
    show(walk, bytes, &record, shown);
    return BITKV_OK;
}

/* Asked once for a file that cannot be opened, not once for each of its records. */
static int open_failure(struct bkv_walk *walk, uint64_t location, int rc)
{
    walk->unopened = bkv_location_segment(location);
    return rc;
}

static inline int visit(struct bkv_walk *walk, struct bkv_epoch_slot *slot, struct bkv_shown *shown)
{
    struct bkv_keydir_entry *entry = &walk->entries.items[walk->at];
    if (BKV_UNLIKELY(bkv_location_segment(entry->location) == walk->unopened))
        return BITKV_NOT_FOUND;
    struct bkv_located t;
    int rc = locate(walk, slot, entry->location, &t);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return open_failure(walk, entry->location, rc);
    if (walk->prefix_size > 0 || (walk->keys_only && t.size > SMALL_BYTES))
        return visit_by_key(walk, &t, entry, shown);
    rc = visit_whole(walk, &t, shown);
    if (BKV_UNLIKELY(rc == BITKV_ERR_CORRUPT && walk->keys_only)) /* its value may be all that is */
        rc = visit_by_key(walk, &t, entry, shown);
    return rc;
}

static __attribute__((noinline)) void keep_failure(struct bkv_walk *walk, int rc)
{
    if (walk->failure != BITKV_OK)
        return;
    walk->failure = rc;
    (void)snprintf(walk->failure_text, sizeof walk->failure_text, "%s", bitkv_error_context());
}

/* --- the walk ----------------------------------------------------------------------- */

int bkv_walk_next(struct bkv_walk *walk, struct bkv_epoch_slot *slot, struct bkv_shown *shown)
{
    for (unsigned passed = 0; passed < SECTION_ENTRIES; passed++) {
        if (walk->at == walk->entries.count) {
            int rc = refill(walk, slot);
            if (rc != BITKV_OK)
                return rc;
        }
        if (walk->ordered)
            advise_ahead(walk);
        prefetch_ahead(walk);
        int rc = visit(walk, slot, shown);
        walk->at++;
        if (BKV_LIKELY(rc == BITKV_OK))
            return rc;
        if (rc < 0)
            keep_failure(walk, rc);
    }
    return BKV_WALK_PAUSE;
}

int bkv_walk_failure(const struct bkv_walk *walk)
{
    return walk->failure == BITKV_OK ? BITKV_OK
                                     : bkv_error(walk->failure, "%s", walk->failure_text);
}

int bkv_walk_create(struct bkv_walk **out, unsigned flags, const void *prefix, size_t prefix_size)
{
    struct bkv_walk *walk = bkv_calloc(1, sizeof *walk + prefix_size);
    if (walk == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for an iterator");
    walk->keys_only = (flags & BITKV_SCAN_KEYS) != 0;
    walk->prefix = (uint8_t *)(walk + 1);
    walk->prefix_size = prefix_size;
    if (prefix_size > 0)
        memcpy(walk->prefix, prefix, prefix_size);
    walk->read.number = UINT32_MAX;
    walk->window = 1;
    *out = walk;
    return BITKV_OK;
}

void bkv_walk_destroy(struct bkv_walk *walk)
{
    unpin_all(walk);
    bkv_keydir_entries_free(&walk->entries);
    bkv_keydir_entries_free(&walk->more);
    bkv_mfree(walk->read.bytes);
    bkv_mfree(walk);
}

void bkv_walk_begin(struct bkv_walk *walk, struct bkv_partition *p,
                    const struct bkv_partition_snapshot *snapshot, uint32_t first, uint32_t step)
{
    unpin_all(walk);
    walk->p = p;
    walk->keydir = snapshot->keydir;
    walk->table = first;
    walk->step = step;
    walk->tables = bkv_keydir_snapshot_tables(snapshot->keydir);
    walk->pins_mask = pins_mask_of(p->store);
    walk->at = walk->entries.count = 0;
    walk->read.number = UINT32_MAX;
}
