/* SPDX-License-Identifier: MIT */
/* The KeyDir from inside: what its files share. docs/keydir.md has the picture. */
#ifndef BKV_KEYDIR_INTERNAL_H
#define BKV_KEYDIR_INTERNAL_H

#include "base/assert.h"
#include "keydir/keydir.h"
#include "keydir/slot.h"

/* ------------------------------------------------------------- subtables */

/*
 * A subtable's descriptor; immutable once published, so that a reader that
 * holds one sees one state of the page list. Holds the keys whose lo agrees
 * with `index` in the lowest `depth` bits.
 */
struct subtable {
    uint32_t index;
    uint16_t pages;
    uint8_t depth;
    uint8_t size_class; /* of the descriptor itself */
    struct page *page[];
    /* at the end of the object: struct subtable_tail */
};

/* The writer's part, touched when the descriptor is retired, or, while there is
 * a snapshot, changed. Both numbers are epoch stamps; see snapshot.c. */
struct subtable_tail {
    uint64_t born;  /* number of the newest snapshot taken before it was made */
    uint64_t stamp; /* of its retirement */
    struct subtable *next;
};

#define SUBTABLE_CLASSES   4u
#define SUBTABLE_SIZE(c)   ((size_t)128u << (c))
#define SUBTABLE_ROOM(c)   ((SUBTABLE_SIZE(c) - 8u - sizeof(struct subtable_tail)) / sizeof(void *))
#define SUBTABLE_PAGES_MAX BKV_KEYDIR_GROUP_PAGES_MAX

_Static_assert(sizeof(struct subtable) == 8, "the first line has seven page pointers");
_Static_assert(SUBTABLE_ROOM(SUBTABLE_CLASSES - 1) >= SUBTABLE_PAGES_MAX, "the largest class");

static inline struct subtable_tail *subtable_tail(struct subtable *st)
{
    char *end = (char *)st + SUBTABLE_SIZE(st->size_class);
    return (struct subtable_tail *)(void *)(end - sizeof(struct subtable_tail));
}

static inline bool subtable_holds(const struct subtable *st, uint64_t lo)
{
    return (lo & ((UINT64_C(1) << st->depth) - 1u)) == st->index;
}

/* ------------------------------------------------------------- directory */

/* Segment k has 64 << k entries, from index 64 * (2^k - 1): an entry never moves. */
#define DIRECTORY_FIRST    64u
#define DIRECTORY_SEGMENTS 20u
#define TABLES_MAX         (DIRECTORY_FIRST * ((1u << DIRECTORY_SEGMENTS) - 1u))

typedef struct subtable *_Atomic subtable_ref;

struct counters {
    uint32_t live, deleted;
};

/* Address of `lo` among `tables` subtables (Litwin, "Linear hashing: a new
 * tool for file and table addressing", VLDB 1980). */
static inline uint32_t table_address(uint64_t lo, uint32_t tables)
{
    uint32_t mask = tables > 1 ? UINT32_MAX >> __builtin_clz(tables - 1u) : 0;
    uint32_t index = (uint32_t)lo & mask;
    return index < tables ? index : index & (mask >> 1);
}

static inline uint32_t segment_of(uint32_t index)
{
    return 25u - (uint32_t)__builtin_clz(index + DIRECTORY_FIRST);
}

static inline uint32_t segment_offset(uint32_t index, uint32_t segment)
{
    return index + DIRECTORY_FIRST - (DIRECTORY_FIRST << segment);
}

/* ----------------------------------------------------------------- arena */

struct chunk {
    void *base;
    size_t size;
};

struct free_page {
    struct free_page *next;
};

/* Subtables in the order in which they are to be looked at. */
struct subtable_queue {
    struct subtable *first, *last;
    uint32_t count;
};

struct arena {
    struct free_page *free;
    char *fresh, *fresh_end; /* untouched rest of the newest chunk */
    struct chunk *chunks;
    uint32_t chunk_count, chunk_capacity;
    uint64_t free_pages;
    struct free_page *free_tables[SUBTABLE_CLASSES];
    struct subtable_queue retired;
    struct bkv_keydir_snapshot *snapshots; /* live ones, the newest first */
    uint64_t era;                          /* number of the newest ever taken */
    _Atomic uint64_t memory;               /* bytes */
    _Atomic uint64_t chunk_bytes;          /* of them in chunks */
    _Atomic uintptr_t spare;               /* base | size / CHUNK_MIN; 0: none */
    _Atomic bool wanted;                   /* a spare */
};

/* -------------------------------------------------------------- deferred */

/* Puts that wait for their lines: as many as one cache line holds. */
#define DEFERRED LINE_SLOTS

/* A place has the tag bits 0-6 above the location; the writer, who has to be
 * exact, keeps the keys besides. */
static inline uint64_t deferred_mark(const struct key *key)
{
    return (uint64_t)(key->home | key->extra << LINE_BITS) << BKV_KEYDIR_LOCATION_BITS;
}

/* ---------------------------------------------------------------- keydir */

/* Where prepare found that a put will go: never into a shared subtable. */
struct plan {
    struct key key;
    struct slot *slot; /* NULL: no plan */
    uint32_t table;
    uint32_t try;
    bool exists;
};

struct bkv_keydir {
    /* Read by everybody, written by splits. */
    _Alignas(64) _Atomic uint32_t tables;
    subtable_ref *segments[DIRECTORY_SEGMENTS];
    struct counters *counters[DIRECTORY_SEGMENTS];

    /* deferred.c: read by everybody, written by every put. */
    struct line deferred;

    /* The writer's. */
    _Alignas(64) _Atomic uint64_t count;
    unsigned deferred_next; /* place of the oldest, the next to be taken */
    struct key deferred_keys[DEFERRED];
    struct plan plan;
    uint64_t snapshot_newest; /* number of the newest live one; 0: there is none */
    uint64_t pages;           /* of all subtables */
    bool image_active, image_failed;
    uint32_t load_groups, load_next; /* while loading */
    struct subtable *load_table;     /* group being filled */
    uint64_t grows, splits, purges, copies, keys_moved, step_pages_max;
    uint8_t fill[2][SUBTABLE_PAGES_MAX * PAGE_LINES]; /* scratch of a step: slots used per line */

    _Alignas(64) struct arena arena;
};

static inline subtable_ref *directory_entry(const struct bkv_keydir *kd, uint32_t index)
{
    uint32_t segment = segment_of(index);
    return &kd->segments[segment][segment_offset(index, segment)];
}

static inline struct counters *directory_counters(const struct bkv_keydir *kd, uint32_t index)
{
    uint32_t segment = segment_of(index);
    return &kd->counters[segment][segment_offset(index, segment)];
}

/* The writer's way to a subtable: nobody else changes the directory. */
static inline struct subtable *directory_get(const struct bkv_keydir *kd, uint32_t index)
{
    return atomic_load_explicit(directory_entry(kd, index), memory_order_relaxed);
}

static inline uint32_t tables_now(const struct bkv_keydir *kd)
{
    return atomic_load_explicit(&kd->tables, memory_order_relaxed);
}

/* Whether a live snapshot sees what is in the subtable now: then it is not to be
 * changed, but bkv_snapshot_own() first. */
static inline bool subtable_is_shared(const struct bkv_keydir *kd, uint32_t index)
{
    return BKV_UNLIKELY(kd->snapshot_newest != 0) &&
           subtable_tail(directory_get(kd, index))->born < kd->snapshot_newest;
}

static inline void count_add(struct bkv_keydir *kd, uint64_t n)
{
    /* One writer: no read-modify-write needed. */
    uint64_t now = atomic_load_explicit(&kd->count, memory_order_relaxed);
    atomic_store_explicit(&kd->count, now + n, memory_order_relaxed);
}

/* Empties a slot; see invariant 3 in table.c. True if it became DELETED. */
static inline bool slot_clear(struct line *line, struct slot *slot)
{
    bool open = false;
    for (unsigned i = 0; i < LINE_SLOTS; i++)
        open |= slot_get(&line->slots[i].w0) == SLOT_EMPTY;
    atomic_store_explicit(&slot->w0, open ? SLOT_EMPTY : SLOT_DELETED, memory_order_release);
    return !open;
}

/* arena.c */
void bkv_arena_destroy(struct arena *arena);
void *bkv_arena_page(struct arena *arena); /* dirty; NULL if there is no memory */
void bkv_arena_page_free(struct arena *arena, void *page);
/* Descriptor with `pages` dirty pages; NULL, and nothing taken, without memory. */
struct subtable *bkv_arena_subtable(struct arena *arena, uint32_t pages);
void bkv_arena_subtable_free(struct arena *arena, struct subtable *st);   /* never published */
void bkv_arena_subtable_retire(struct arena *arena, struct subtable *st); /* unlinked just now */
void bkv_arena_reclaim(struct arena *arena);                              /* a few of them */
void bkv_arena_account(struct arena *arena, uint64_t bytes);

/* directory.c */
int bkv_directory_reserve(struct bkv_keydir *kd, uint32_t index); /* room for entry `index` */
void bkv_directory_destroy(struct bkv_keydir *kd);

/* grow.c */
bool bkv_grow_split_is_due(const struct bkv_keydir *kd);
int bkv_grow_table(struct bkv_keydir *kd, uint32_t index, const struct key *key);
int bkv_grow_split(struct bkv_keydir *kd);
bool bkv_grow_purge_is_due(const struct bkv_keydir *kd, uint32_t index);
void bkv_grow_purge(struct bkv_keydir *kd, uint32_t index);

/* table.c */
struct probe {
    struct slot *slot; /* of the key, or NULL */
    struct slot *free; /* first that could take it, or NULL */
    struct line *line; /* of slot */
    uint32_t try;      /* of slot if there is one, else of free */
    uint32_t tries;    /* lines looked at */
};
struct probe bkv_table_probe(const struct subtable *st, const struct key *key);
/* bkv_keydir_prepare() and bkv_keydir_put() by key. */
int bkv_table_prepare(struct bkv_keydir *kd, const struct key *key);
uint64_t bkv_table_put(struct bkv_keydir *kd, const struct key *key, uint64_t location);
/* The key's location in a subtable that holds it if any does; 0: none. */
uint64_t bkv_table_find(const struct subtable *st, const struct key *key);
/* An empty subtable 0 of one page. */
int bkv_table_start(struct bkv_keydir *kd);

/* scan.c */
int bkv_scan_table(const struct subtable *st, struct bkv_keydir_entries *out);

/* snapshot.c */
/* If the subtable is shared, a copy takes its place; then it is not until the next
 * snapshot. BITKV_ERR_NO_MEMORY. */
int bkv_snapshot_own(struct bkv_keydir *kd, uint32_t index);
/* The retired subtable goes to the snapshot that needs it; false if none does. */
bool bkv_snapshot_keep(struct arena *arena, struct subtable *st);

static inline void subtable_queue_add(struct subtable_queue *queue, struct subtable *st)
{
    subtable_tail(st)->next = NULL;
    if (queue->last != NULL)
        subtable_tail(queue->last)->next = st;
    else
        queue->first = st;
    queue->last = st;
    queue->count++;
}

#endif
