/* SPDX-License-Identifier: MIT */
/*
 * Finding and changing keys.
 *
 * A key is in the first line of its probe sequence that had room when it came.
 * A lookup walks the sequence and stops at a match, at the first line with an
 * EMPTY slot, or after 16 lines. At the usual loads of 0.75 to 0.85 that is
 * 1.3 lines for a key that is there, about 2 to 3 for one that is not.
 *
 * Nothing is ever moved within published pages: a key stays in its slot from
 * its put to its remove, or until a step (grow.c) replaces the whole subtable,
 * or a copy does because a snapshot needs it as it is (snapshot.c).
 *
 * Invariants (of published pages; 1 to 3 hold at every moment for readers):
 *  1. A line that was ever without EMPTY slots has none until it is replaced.
 *  2. A key at try d: the lines of tries 0 to d - 1 have no EMPTY slot. By 1
 *     this stays so. Hence a reader may stop at the first EMPTY.
 *  3. A slot is cleared to EMPTY if its line has another EMPTY one (so was
 *     never full), else to DELETED. No line has both.
 *  4. No two slots hold the same lo, home and extra bits.
 *  5. A location of a live slot is not 0.
 *  6. A subtable that a live snapshot sees is not changed: whoever is about to
 *     change a slot first makes sure that it is the KeyDir's own.
 *
 * Orders. The writer fills a slot by word 1 (release), then word 0 (release);
 * the reader loads word 0 (acquire), word 1 (acquire), then word 0 again. If
 * both loads of word 0 show the key, word 1 was the key's, or another one's
 * that came and went between: see convention 3 in keydir.h. A word 1 of another
 * try or extra bits is rejected. An update is one store of word 1: readers see
 * the old location or the new one (release: what the location points to was
 * written before).
 *
 * Failure modes: put and remove after a successful prepare have none. prepare
 * without memory: steps that are only good for speed are skipped; without the one
 * that makes room, or the copy that a snapshot asks for, BITKV_ERR_NO_MEMORY.
 */
#include "keydir/internal.h"

#include "base/assert.h"
#include "base/memory.h"

#include <bitkv.h>

#include <string.h>

/* ---------------------------------------------------------------- create */

int bkv_table_start(struct bkv_keydir *kd)
{
    struct subtable *st = bkv_arena_subtable(&kd->arena, 1);
    if (st == NULL)
        return BITKV_ERR_NO_MEMORY;
    memset(st->page[0], 0, sizeof *st->page[0]);
    *directory_counters(kd, 0) = (struct counters){0};
    kd->pages = 1;
    atomic_store_explicit(&kd->count, 0, memory_order_relaxed);
    atomic_store_explicit(directory_entry(kd, 0), st, memory_order_release);
    atomic_store_explicit(&kd->tables, 1, memory_order_release);
    return BITKV_OK;
}

int bkv_keydir_create(struct bkv_keydir **out)
{
    struct bkv_keydir *kd = bkv_alloc_aligned(sizeof *kd);
    if (kd == NULL)
        return BITKV_ERR_NO_MEMORY;
    bkv_arena_account(&kd->arena, sizeof *kd);
    int rc = bkv_directory_reserve(kd, 0);
    if (rc == BITKV_OK)
        rc = bkv_table_start(kd);
    if (rc != BITKV_OK) {
        bkv_keydir_destroy(kd);
        return rc;
    }
    *out = kd;
    return BITKV_OK;
}

void bkv_keydir_destroy(struct bkv_keydir *kd)
{
    if (kd == NULL)
        return;
    bkv_directory_destroy(kd);
    bkv_arena_destroy(&kd->arena);
    bkv_mfree(kd);
}

/* ---------------------------------------------------------------- lookup */

static inline const struct subtable *locate(const struct bkv_keydir *kd, uint64_t lo)
{
    for (;;) {
        /* acquire: the segment and the entry were written before. */
        uint32_t tables = atomic_load_explicit(&kd->tables, memory_order_acquire);
        const struct subtable *st = atomic_load_explicit(
            directory_entry(kd, table_address(lo, tables)), memory_order_acquire);
        if (BKV_LIKELY(subtable_holds(st, lo)))
            return st;
        /* A split came between the two loads: the number is new by now. */
    }
}

/* Fetches the pair of lines that tries `try` and `try` + 1 look at. */
static inline void prefetch_pair(const struct subtable *st, const struct key *key, uint32_t first,
                                 uint32_t distance, uint32_t try)
{
    const struct page *page = st->page[page_at(first, st->pages, try)];
    uint32_t line = line_at(key->home, distance, try);
    prefetch(&page->lines[line]);
    prefetch(&page->lines[line ^ 1u]);
}

/* The key's location if `slot` holds it with just this mark, else 0. */
static inline uint64_t slot_location(const struct slot *slot, uint64_t lo, uint64_t mark)
{
    uint64_t w1 = atomic_load_explicit(&slot->w1, memory_order_acquire);
    bool is_it = (w1 & ~LOCATION_MASK) == mark &&
                 atomic_load_explicit(&slot->w0, memory_order_relaxed) == lo;
    return is_it ? w1 & LOCATION_MASK : 0;
}

/* Among the deferred puts; 0 if it is none of them. */
static inline uint64_t find_deferred(const struct bkv_keydir *kd, const struct key *key)
{
    uint64_t found = 0;
    for (unsigned match = line_match(line_load(&kd->deferred), key->lo);
         BKV_UNLIKELY(match != 0) && found == 0; match &= match - 1u)
        found =
            slot_location(&kd->deferred.slots[__builtin_ctz(match)], key->lo, deferred_mark(key));
    return found;
}

static inline __attribute__((always_inline)) uint64_t find_in(const struct subtable *st,
                                                              const struct key *key)
{
    uint32_t pages = st->pages;
    uint32_t first = page_of(key->lo, pages);
    uint32_t distance = distance_of(key->lo);
    prefetch_pair(st, key, first, distance, 0);
    for (uint32_t try = 0; try < TRIES; try++) {
        const struct page *page = st->page[page_at(first, pages, try)];
        const struct line *line = &page->lines[line_at(key->home, distance, try)];
        struct line_words words = line_load(line);
        unsigned match = line_match(words, key->lo);
        while (match != 0) {
            const struct slot *slot = &line->slots[__builtin_ctz(match)];
            match &= match - 1u;
            uint64_t found = slot_location(slot, key->lo, mark_of(key->extra, try));
            if (found != 0)
                return found;
        }
        if (line_match(words, SLOT_EMPTY) != 0)
            return 0;
        if (try % 2 == 0 && try < TRIES - 2u) /* the next pair, while we look at the other line */
            prefetch_pair(st, key, first, distance, try + 2u);
    }
    return 0;
}

uint64_t bkv_table_find(const struct subtable *st, const struct key *key)
{
    return find_in(st, key);
}

bool bkv_keydir_find(const struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t *location)
{
    struct key key = key_of(hash);
    uint64_t deferred = find_deferred(kd, &key);
    if (BKV_UNLIKELY(deferred != 0)) {
        *location = deferred;
        return true;
    }
    uint64_t found = find_in(locate(kd, key.lo), &key);
    if (found == 0)
        return false;
    *location = found;
    return true;
}

void bkv_keydir_prefetch_table(const struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    struct key key = key_of(hash);
    uint32_t tables = atomic_load_explicit(&kd->tables, memory_order_acquire);
    prefetch(atomic_load_explicit(directory_entry(kd, table_address(key.lo, tables)),
                                  memory_order_relaxed));
}

void bkv_keydir_prefetch_line(const struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    struct key key = key_of(hash);
    const struct subtable *st = locate(kd, key.lo);
    prefetch_pair(st, &key, page_of(key.lo, st->pages), 0, 0);
}

void bkv_keydir_prefetch_put(const struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    struct key key = key_of(hash);
    const struct subtable *st = locate(kd, key.lo);
    uint32_t first = page_of(key.lo, st->pages);
    uint32_t distance = distance_of(key.lo);
    prefetch_pair(st, &key, first, distance, 0);
    prefetch_pair(st, &key, first, distance, 2);
}

/* ---------------------------------------------------------------- change */

struct probe bkv_table_probe(const struct subtable *st, const struct key *key)
{
    struct probe found = {0};
    uint32_t pages = st->pages;
    uint32_t first = page_of(key->lo, pages);
    uint32_t distance = distance_of(key->lo);
    /* A put of a new key looks at some three lines: fetch four at once. */
    prefetch_pair(st, key, first, distance, 0);
    prefetch_pair(st, key, first, distance, 2);
    for (uint32_t try = 0; try < TRIES; try++) {
        struct page *page = st->page[page_at(first, pages, try)];
        struct line *line = &page->lines[line_at(key->home, distance, try)];
        struct line_words words = line_load(line);
        found.tries = try + 1u;
        unsigned match = line_match(words, key->lo);
        while (match != 0) {
            struct slot *slot = &line->slots[__builtin_ctz(match)];
            match &= match - 1u;
            if ((slot_get(&slot->w1) & ~LOCATION_MASK) == mark_of(key->extra, try)) {
                found.slot = slot;
                found.line = line;
                found.try = try;
                return found;
            }
        }
        unsigned empty = line_match(words, SLOT_EMPTY);
        if (found.free == NULL) {
            unsigned room = empty | line_match(words, SLOT_DELETED);
            if (room != 0) {
                found.free = &line->slots[__builtin_ctz(room)];
                found.try = try;
            }
        }
        if (empty != 0)
            return found;
        if (try % 2 == 0 && try < TRIES - 4u)
            prefetch_pair(st, key, first, distance, try + 4u);
    }
    return found;
}

static bool plan_fits(const struct plan *plan, const struct key *key)
{
    return plan->slot != NULL && plan->key.lo == key->lo && plan->key.home == key->home &&
           plan->key.extra == key->extra;
}

static inline struct probe probe_table(const struct bkv_keydir *kd, uint32_t table,
                                       const struct key *key)
{
    return bkv_table_probe(directory_get(kd, table), key);
}

/* Makes the subtable the KeyDir's own; *probe is then of the copy. */
static int own(struct bkv_keydir *kd, uint32_t table, const struct key *key, struct probe *probe)
{
    if (!subtable_is_shared(kd, table))
        return BITKV_OK;
    int rc = bkv_snapshot_own(kd, table);
    if (rc == BITKV_OK)
        *probe = probe_table(kd, table, key);
    return rc;
}

static void set_plan(struct bkv_keydir *kd, const struct key *key, uint32_t table,
                     const struct probe *probe)
{
    kd->plan = (struct plan){
        .key = *key,
        .slot = probe->slot != NULL ? probe->slot : probe->free,
        .table = table,
        .try = probe->try,
        .exists = probe->slot != NULL,
    };
}

/* The step that is due, if any. Fails only if there is no room for the key. */
static __attribute__((noinline)) int make_room(struct bkv_keydir *kd, const struct key *key)
{
    uint32_t table = table_address(key->lo, tables_now(kd));
    struct probe probe = bkv_table_probe(directory_get(kd, table), key);
    if (probe.free != NULL) {
        /* For speed only: done without, if memory lacks. */
        if (bkv_grow_split_is_due(kd))
            (void)bkv_grow_split(kd);
        else
            bkv_grow_purge(kd, table);
        table = table_address(key->lo, tables_now(kd));
        probe = bkv_table_probe(directory_get(kd, table), key);
    }
    if (probe.free == NULL) {
        int rc = bkv_grow_table(kd, table, key);
        if (rc != BITKV_OK)
            return rc;
        probe = bkv_table_probe(directory_get(kd, table), key);
        BKV_ASSERT(probe.free != NULL);
    }
    int rc = own(kd, table, key, &probe);
    if (rc == BITKV_OK)
        set_plan(kd, key, table, &probe);
    return rc;
}

int bkv_table_prepare(struct bkv_keydir *kd, const struct key *key)
{
    uint32_t table = table_address(key->lo, tables_now(kd));
    struct probe probe = bkv_table_probe(directory_get(kd, table), key);
    if (probe.slot == NULL) {
        bool purge = probe.tries > PAGE_TRIES && bkv_grow_purge_is_due(kd, table);
        if (BKV_UNLIKELY(probe.free == NULL || purge || bkv_grow_split_is_due(kd)))
            return make_room(kd, key);
    }
    int rc = own(kd, table, key, &probe);
    if (BKV_LIKELY(rc == BITKV_OK))
        set_plan(kd, key, table, &probe);
    return rc;
}

int bkv_keydir_prepare(struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    struct key key = key_of(hash);
    return bkv_table_prepare(kd, &key);
}

uint64_t bkv_table_put(struct bkv_keydir *kd, const struct key *key, uint64_t location)
{
    BKV_ASSERT(location != 0 && location <= LOCATION_MASK);
    if (!plan_fits(&kd->plan, key)) {
        uint32_t table = table_address(key->lo, tables_now(kd));
        struct probe probe = bkv_table_probe(directory_get(kd, table), key);
        BKV_ASSERT(probe.slot != NULL || probe.free != NULL); /* the caller has prepared */
        BKV_ASSERT(!subtable_is_shared(kd, table));
        set_plan(kd, key, table, &probe);
    }
    struct plan plan = kd->plan;
    kd->plan.slot = NULL;
    uint64_t w1 = location | mark_of(key->extra, plan.try);
    if (plan.exists) {
        uint64_t old = slot_get(&plan.slot->w1);
        atomic_store_explicit(&plan.slot->w1, w1, memory_order_release);
        return old & LOCATION_MASK;
    }
    struct counters *counters = directory_counters(kd, plan.table);
    counters->live++;
    counters->deleted -= (uint32_t)(slot_get(&plan.slot->w0) == SLOT_DELETED);
    atomic_store_explicit(&plan.slot->w1, w1, memory_order_release);
    atomic_store_explicit(&plan.slot->w0, key->lo, memory_order_release);
    count_add(kd, 1);
    return 0;
}

uint64_t bkv_keydir_prepared(const struct bkv_keydir *kd)
{
    BKV_ASSERT(kd->plan.slot != NULL);
    return kd->plan.exists ? slot_get(&kd->plan.slot->w1) & LOCATION_MASK : 0;
}

uint64_t bkv_keydir_put(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t location)
{
    struct key key = key_of(hash);
    return bkv_table_put(kd, &key, location);
}

/* Takes away what the probe has found; returns its location. */
static uint64_t take_away(struct bkv_keydir *kd, uint32_t table, const struct probe *probe)
{
    BKV_ASSERT(!subtable_is_shared(kd, table)); /* the caller has prepared */
    kd->plan.slot = NULL;
    uint64_t old = slot_get(&probe->slot->w1) & LOCATION_MASK;
    struct counters *counters = directory_counters(kd, table);
    counters->live--;
    count_add(kd, UINT64_MAX);
    if (slot_clear(probe->line, probe->slot)) {
        counters->deleted++;
        if (BKV_UNLIKELY(bkv_grow_purge_is_due(kd, table)))
            bkv_grow_purge(kd, table);
    }
    return old;
}

int bkv_keydir_prepare_remove(struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    struct key key = key_of(hash);
    uint32_t table = table_address(key.lo, tables_now(kd));
    if (!subtable_is_shared(kd, table) || probe_table(kd, table, &key).slot == NULL)
        return BITKV_OK;
    return bkv_snapshot_own(kd, table);
}

uint64_t bkv_keydir_remove(struct bkv_keydir *kd, const struct bkv_hash *hash)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    struct key key = key_of(hash);
    uint32_t table = table_address(key.lo, tables_now(kd));
    struct probe probe = probe_table(kd, table, &key);
    return probe.slot != NULL ? take_away(kd, table, &probe) : 0;
}

/* Finds the key for a change, if it has exactly `expected`: results of
 * bkv_keydir_replace(). */
static int claim(struct bkv_keydir *kd, const struct key *key, uint64_t expected, uint32_t *table,
                 struct probe *probe)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    *table = table_address(key->lo, tables_now(kd));
    *probe = probe_table(kd, *table, key);
    if (probe->slot == NULL || (slot_get(&probe->slot->w1) & LOCATION_MASK) != expected)
        return BITKV_NOT_FOUND;
    return own(kd, *table, key, probe);
}

int bkv_keydir_remove_exact(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t expected)
{
    struct key key = key_of(hash);
    uint32_t table;
    struct probe probe;
    int rc = claim(kd, &key, expected, &table, &probe);
    if (rc == BITKV_OK)
        (void)take_away(kd, table, &probe);
    return rc;
}

int bkv_keydir_replace(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t expected,
                       uint64_t location)
{
    BKV_ASSERT(location != 0 && location <= LOCATION_MASK);
    struct key key = key_of(hash);
    uint32_t table;
    struct probe probe;
    int rc = claim(kd, &key, expected, &table, &probe);
    if (rc == BITKV_OK)
        atomic_store_explicit(&probe.slot->w1, location | mark_of(key.extra, probe.try),
                              memory_order_release);
    return rc;
}

/* --------------------------------------------------------------- figures */

uint64_t bkv_keydir_count(const struct bkv_keydir *kd)
{
    return atomic_load_explicit(&kd->count, memory_order_relaxed);
}

uint64_t bkv_keydir_memory(const struct bkv_keydir *kd)
{
    return atomic_load_explicit(&kd->arena.memory, memory_order_relaxed);
}

void bkv_keydir_figures(const struct bkv_keydir *kd, struct bkv_keydir_figures *out)
{
    const struct arena *arena = &kd->arena;
    *out = (struct bkv_keydir_figures){
        .tables = tables_now(kd),
        .pages = kd->pages,
        .pages_free =
            arena->free_pages + (uint64_t)(arena->fresh_end - arena->fresh) / BKV_KEYDIR_PAGE_SIZE,
        .grows = kd->grows,
        .splits = kd->splits,
        .purges = kd->purges,
        .copies = kd->copies,
        .keys_moved = kd->keys_moved,
        .step_pages_max = kd->step_pages_max,
    };
}
