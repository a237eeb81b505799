/* SPDX-License-Identifier: MIT */
/*
 * Memory of a KeyDir: pages of 4 KiB out of chunks, and descriptors out of
 * pages.
 *
 * Chunks start at 32 KiB and grow with the whole: a sixteenth of what there is, so
 * that what is mapped and not yet used stays below that, up to 2 MiB,
 * which the kernel is asked to back with one huge page. Chunks are given back
 * only when the KeyDir is destroyed.
 *
 * Pages that a step replaced are retired together with the descriptor that
 * lists them, in a queue ordered by epoch stamp, and become free when no
 * reader can be looking at them any more. The free list is last in, first
 * out: the page retired last is the one still in the cache. What a snapshot
 * still needs (snapshot.c) goes from the queue to that snapshot, and back when
 * it is released. A call of reclaim looks at a few only: a snapshot leaves
 * thousands, and a writer's step is to stay short.
 *
 * Ahead of need somebody other than the writer maps the next chunk (the
 * "spare"), at once, and faults it in when the current one runs low: a writer
 * who has to map one himself waits behind every page fault of the process
 * (32 ms were seen, behind a worker that faulted its tail in). The two meet in
 * one atomic word: who prepares swaps it in if there is none, the writer swaps
 * it out. Untouched, it takes no memory and is not counted.
 *
 * Failure modes: no memory: NULL, nothing taken. A reader that never leaves its
 * epoch section, a snapshot that is never released: nothing retired since, or
 * needed by it, becomes free and steps take new memory.
 *
 * Invariants:
 *  1. A page is in exactly one place: a published subtable, one under
 *     construction, the retired queue, a snapshot's queue, the free list, the
 *     fresh rest of the newest chunk, or carved into descriptors (for good).
 *  2. A retired page or descriptor is written to only when the stamp it was
 *     retired with has passed and no live snapshot needs it: the links of the
 *     queues are in a part of the descriptor that readers don't look at.
 *  3. `memory` counts a chunk from before it is used until it is unmapped.
 */
#include "keydir/internal.h"

#include "base/epoch.h"
#include "base/memory.h"
#include "base/schedule.h"

#include <bitkv.h>

#define PAGE_SIZE   ((size_t)BKV_KEYDIR_PAGE_SIZE)
#define CHUNK_MIN   ((size_t)32 << 10)
#define CHUNK_MAX   ((size_t)2 << 20)
#define CHUNK_SHARE 16u

/* A spare is wanted when this much of a chunk is left, but this much at least. */
#define SPARE_SHARE     16u
#define SPARE_BYTES_MIN (8u * PAGE_SIZE)

/* Retired subtables that are looked at together: asking whether readers have left
 * makes a system call (base/epoch.c). More than a step retires. */
#define RECLAIM_BATCH 8u

/* A spare is its address, its size in units of CHUNK_MIN, and whether it is
 * counted: by whoever faults it in, else by the writer who takes it. */
#define SPARE_COUNTED ((uintptr_t)PAGE_SIZE / 2u)
_Static_assert(CHUNK_MAX / CHUNK_MIN < SPARE_COUNTED, "a spare's size fits below its flag");

static void *spare_base(uintptr_t spare)
{
    return (void *)(spare & ~(uintptr_t)(PAGE_SIZE - 1u)); // NOLINT: packed by us
}

static size_t spare_size(uintptr_t spare)
{
    return (spare & (SPARE_COUNTED - 1u)) * CHUNK_MIN;
}

void bkv_arena_account(struct arena *arena, uint64_t bytes)
{
    atomic_fetch_add_explicit(&arena->memory, bytes, memory_order_relaxed);
}

static size_t next_chunk_size(struct arena *arena)
{
    uint64_t share = atomic_load_explicit(&arena->chunk_bytes, memory_order_relaxed) / CHUNK_SHARE;
    size_t size = (size_t)share & ~(CHUNK_MIN - 1u);
    if (size < CHUNK_MIN)
        return CHUNK_MIN;
    return size < CHUNK_MAX ? size : CHUNK_MAX;
}

static void *map_chunk(size_t size)
{
    return bkv_pages_map(size, size == CHUNK_MAX);
}

static bool reserve_chunk_record(struct arena *arena)
{
    if (arena->chunk_count < arena->chunk_capacity)
        return true;
    uint32_t capacity = arena->chunk_capacity == 0 ? 16 : 2 * arena->chunk_capacity;
    struct chunk *chunks = bkv_realloc(arena->chunks, capacity * sizeof *chunks);
    if (chunks == NULL)
        return false;
    bkv_arena_account(arena, (capacity - arena->chunk_capacity) * sizeof *chunks);
    arena->chunks = chunks;
    arena->chunk_capacity = capacity;
    return true;
}

static bool add_chunk(struct arena *arena)
{
    if (!reserve_chunk_record(arena))
        return false;
    uintptr_t spare = atomic_exchange_explicit(&arena->spare, 0, memory_order_acquire);
    size_t size = spare != 0 ? spare_size(spare) : next_chunk_size(arena);
    void *base = spare != 0 ? spare_base(spare) : map_chunk(size);
    if (base == NULL && size > CHUNK_MIN) {
        size = CHUNK_MIN; /* little may be left where much is not */
        base = map_chunk(size);
    }
    if (base == NULL)
        return false;
    if ((spare & SPARE_COUNTED) == 0)
        bkv_arena_account(arena, size);
    arena->chunks[arena->chunk_count++] = (struct chunk){.base = base, .size = size};
    atomic_fetch_add_explicit(&arena->chunk_bytes, size, memory_order_relaxed);
    arena->fresh = base;
    arena->fresh_end = arena->fresh + size;
    atomic_store_explicit(&arena->wanted, false, memory_order_relaxed);
    return true;
}

void *bkv_arena_page(struct arena *arena)
{
    struct free_page *page = arena->free;
    if (page != NULL) {
        arena->free = page->next;
        arena->free_pages--;
        return page;
    }
    if (arena->fresh == arena->fresh_end && !add_chunk(arena))
        return NULL;
    void *fresh = arena->fresh;
    arena->fresh += PAGE_SIZE;
    size_t rest = (size_t)(arena->fresh_end - arena->fresh);
    size_t low = arena->chunks[arena->chunk_count - 1].size / SPARE_SHARE;
    if (rest <= (low > SPARE_BYTES_MIN ? low : SPARE_BYTES_MIN))
        atomic_store_explicit(&arena->wanted, true, memory_order_relaxed);
    return fresh;
}

void bkv_arena_page_free(struct arena *arena, void *memory)
{
    struct free_page *page = memory;
    page->next = arena->free;
    arena->free = page;
    arena->free_pages++;
}

/* ------------------------------------------------------------ descriptors */

static bool carve_descriptors(struct arena *arena, unsigned size_class)
{
    char *page = bkv_arena_page(arena);
    if (page == NULL)
        return false;
    for (size_t at = 0; at < PAGE_SIZE; at += SUBTABLE_SIZE(size_class)) {
        struct free_page *piece = (struct free_page *)(void *)(page + at);
        piece->next = arena->free_tables[size_class];
        arena->free_tables[size_class] = piece;
    }
    return true;
}

static void free_descriptor(struct arena *arena, struct subtable *st)
{
    unsigned size_class = st->size_class;
    struct free_page *piece = (struct free_page *)(void *)st;
    piece->next = arena->free_tables[size_class];
    arena->free_tables[size_class] = piece;
}

struct subtable *bkv_arena_subtable(struct arena *arena, uint32_t pages)
{
    unsigned size_class = 0;
    while (SUBTABLE_ROOM(size_class) < pages)
        size_class++;
    if (arena->free_tables[size_class] == NULL && !carve_descriptors(arena, size_class))
        return NULL;
    struct free_page *piece = arena->free_tables[size_class];
    arena->free_tables[size_class] = piece->next;
    struct subtable *st = (struct subtable *)(void *)piece;
    *st = (struct subtable){.pages = (uint16_t)pages, .size_class = (uint8_t)size_class};
    subtable_tail(st)->born = arena->era;
    for (uint32_t p = 0; p < pages; p++) {
        st->page[p] = bkv_arena_page(arena);
        if (st->page[p] == NULL) {
            st->pages = (uint16_t)p;
            bkv_arena_subtable_free(arena, st);
            return NULL;
        }
    }
    return st;
}

void bkv_arena_subtable_free(struct arena *arena, struct subtable *st)
{
    for (uint32_t p = st->pages; p > 0; p--)
        bkv_arena_page_free(arena, st->page[p - 1]);
    free_descriptor(arena, st);
}

/* ------------------------------------------------------------ reclamation */

void bkv_arena_subtable_retire(struct arena *arena, struct subtable *st)
{
    subtable_tail(st)->stamp = bkv_epoch_stamp();
    subtable_queue_add(&arena->retired, st);
}

static struct subtable *take_first(struct subtable_queue *queue)
{
    struct subtable *st = queue->first;
    queue->first = subtable_tail(st)->next;
    queue->count--;
    if (queue->first == NULL)
        queue->last = NULL;
    return st;
}

void bkv_arena_reclaim(struct arena *arena)
{
    struct subtable_queue *retired = &arena->retired;
    if (retired->count < RECLAIM_BATCH)
        return;
    /* As a rule everything has passed: one look at the readers then does. */
    bool all = bkv_epoch_passed(subtable_tail(retired->last)->stamp);
    for (unsigned i = 0; i < RECLAIM_BATCH; i++) {
        if (!all && !bkv_epoch_passed(subtable_tail(retired->first)->stamp))
            return;
        struct subtable *st = take_first(retired);
        if (!bkv_snapshot_keep(arena, st))
            bkv_arena_subtable_free(arena, st);
    }
}

void bkv_arena_destroy(struct arena *arena)
{
    uintptr_t spare = atomic_exchange_explicit(&arena->spare, 0, memory_order_acquire);
    if (spare != 0)
        bkv_pages_unmap(spare_base(spare), spare_size(spare));
    for (uint32_t i = 0; i < arena->chunk_count; i++)
        bkv_pages_unmap(arena->chunks[i].base, arena->chunks[i].size);
    bkv_mfree(arena->chunks);
}

/* ------------------------------------------------------------------ spare */

bool bkv_keydir_wants_memory(const struct bkv_keydir *kd)
{
    return atomic_load_explicit(&kd->arena.wanted, memory_order_relaxed);
}

static void map_spare(struct arena *arena)
{
    size_t size = next_chunk_size(arena);
    void *base = map_chunk(size);
    if (base == NULL)
        return; /* the writer will find out */
    /* Nobody else maps one, and the writer only takes it. */
    uintptr_t before = atomic_exchange_explicit(&arena->spare, (uintptr_t)base | (size / CHUNK_MIN),
                                                memory_order_release);
    BKV_ASSERT(before == 0);
    (void)before;
}

void bkv_keydir_prepare_memory(struct bkv_keydir *kd)
{
    struct arena *arena = &kd->arena;
    if (atomic_load_explicit(&arena->spare, memory_order_relaxed) == 0)
        map_spare(arena);
    uintptr_t spare = atomic_load_explicit(&arena->spare, memory_order_relaxed);
    if (!bkv_keydir_wants_memory(kd) || spare == 0 || (spare & SPARE_COUNTED) != 0)
        return;
    /* The writer may take it at any moment: faulting in changes nothing in it. */
    BKV_SCHEDULE_POINT("arena.counting");
    if (!atomic_compare_exchange_strong_explicit(&arena->spare, &spare, spare | SPARE_COUNTED,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    bkv_arena_account(arena, spare_size(spare));
    bkv_pages_populate(spare_base(spare), spare_size(spare));
    atomic_store_explicit(&arena->wanted, false, memory_order_relaxed);
}
