/* SPDX-License-Identifier: MIT */
/*
 * Growth in bounded steps. Each step builds one or two new subtables aside,
 * publishes them, and retires the old one:
 *
 *   grow    n -> n + 1 pages, when a key finds all of its 16 lines taken
 *   split   one subtable -> two (linear hashing: always the next in line), when
 *           the average has more than SPLIT_PAGES pages
 *   purge   as many pages as the live keys need, when a quarter of the slots
 *           is marked DELETED
 *
 * Subtables that still wait for their split have up to twice the pages of those
 * just split, so a step reads 3 to 11 pages and writes as many, some ten
 * microseconds' work.
 *
 * A split of s into s and t publishes in this order: entry t, the new number
 * of subtables, entry s. A reader who still computes with the old number goes
 * to s. There it meets either the old descriptor, which has all keys, or the
 * new one, whose depth tells it that its key may have left; having seen that
 * entry (acquire) it also sees the new number (released before).
 *
 * Failure modes: no memory, or no way to place every key in the new pages (then
 * one page more is tried): what was built goes back, nothing was published.
 *
 * Invariants:
 *  1. Between steps, subtable i of T holds exactly the keys with
 *     table_address(lo, T) == i.
 *  2. All slots of a subtable satisfy the probe invariants of table.c.
 *  3. A published descriptor and its pages' slots never change places: only
 *     words within change.
 *  4. While an image is taken there is no split, unless the image failed.
 */
#include "keydir/internal.h"

#include "base/schedule.h"
#include <bitkv.h>

#include <string.h>

/* Average pages of a subtable. More pages: less memory a key (growth by 1/n),
 * longer steps (n pages), more moves an insert (n). */
#define SPLIT_PAGES 5u

/* What a split or purge aims at, slots used of 256 a page. */
#define FILL_TARGET 210u

/* An image fails when a subtable gets this large; splitting then goes on, one
 * per insert, long before any subtable reaches the maximum. */
#define IMAGE_PAGES_MAX (SUBTABLE_PAGES_MAX - 12u)

static uint32_t pages_for(uint32_t keys)
{
    return keys == 0 ? 1u : (keys + FILL_TARGET - 1u) / FILL_TARGET;
}

/* A subtable being built. */
struct build {
    struct subtable *st;
    uint8_t *fill;
    uint32_t live;
};

static int build_begin(struct bkv_keydir *kd, struct build *build, unsigned scratch, uint32_t pages,
                       uint32_t index, unsigned depth)
{
    if (pages > SUBTABLE_PAGES_MAX)
        return BITKV_ERR_LIMIT;
    struct subtable *st = bkv_arena_subtable(&kd->arena, pages);
    if (st == NULL)
        return BITKV_ERR_NO_MEMORY;
    st->index = index;
    st->depth = (uint8_t)depth;
    for (uint32_t p = 0; p < pages; p++)
        memset(st->page[p], 0, sizeof *st->page[p]);
    *build = (struct build){.st = st, .fill = kd->fill[scratch]};
    memset(build->fill, 0, (size_t)pages * PAGE_LINES);
    return BITKV_OK;
}

static inline bool build_add(struct build *build, uint64_t lo, uint32_t home, uint64_t w1)
{
    struct subtable *st = build->st;
    uint32_t first = page_of(lo, st->pages), page = first, line = home, try = 0;
    uint8_t *fill = &build->fill[page * PAGE_LINES + line];
    if (*fill == LINE_SLOTS) { /* one in four */
        uint32_t distance = distance_of(lo);
        do {
            if (++try == TRIES)
                return false;
            page = page_at(first, st->pages, try);
            line = line_at(home, distance, try);
            fill = &build->fill[page * PAGE_LINES + line];
        } while (*fill == LINE_SLOTS);
    }
    struct slot *slot = &st->page[page]->lines[line].slots[(*fill)++];
    slot_set(&slot->w0, lo);
    slot_set(&slot->w1, (w1 & LOCATION_MASK) | mark_of(extra_of(w1), try));
    build->live++;
    return true;
}

/* The live slots of a page, packed. */
struct packed {
    uint64_t lo[PAGE_SLOTS + 1], w1[PAGE_SLOTS + 1]; /* one more: see pack_page */
    uint8_t home[PAGE_SLOTS + 1];
};

/* Without branches on what a slot holds, which nobody can predict: every slot is
 * written behind the last live one, and stays if it is live. Fetches the page
 * that comes next. */
static uint32_t pack_page(const struct page *page, const struct page *next, struct packed *packed)
{
    uint32_t count = 0;
    for (uint32_t l = 0; l < PAGE_LINES; l++) {
        const struct line *line = &page->lines[l];
        prefetch(&next->lines[l]);
        for (unsigned i = 0; i < LINE_SLOTS; i++) {
            uint64_t lo = slot_get(&line->slots[i].w0);
            uint64_t w1 = slot_get(&line->slots[i].w1);
            packed->lo[count] = lo;
            packed->w1[count] = w1;
            packed->home[count] = (uint8_t)home_of(l, distance_of(lo), try_of(w1));
            count += lo > SLOT_DELETED;
        }
    }
    return count;
}

/* Distributes all keys: to builds[bit `depth` of lo] for a split, else to
 * builds[0]. BITKV_ERR_LIMIT if one found no place; *failed is whose. */
static int move_keys(const struct subtable *from, struct build *builds, bool split,
                     unsigned *failed)
{
    unsigned shift = split ? from->depth : 0;
    uint64_t mask = split ? 1 : 0;
    struct packed packed;
    for (uint32_t l = 0; l < PAGE_LINES; l++)
        prefetch(&from->page[0]->lines[l]);
    for (uint32_t p = 0; p < from->pages; p++) {
        const struct page *next = from->page[p + 1u < from->pages ? p + 1u : p];
        uint32_t count = pack_page(from->page[p], next, &packed);
        for (uint32_t i = 0; i < count; i++) {
            unsigned side = (unsigned)(packed.lo[i] >> shift & mask);
            if (BKV_UNLIKELY(
                    !build_add(&builds[side], packed.lo[i], packed.home[i], packed.w1[i]))) {
                *failed = side;
                return BITKV_ERR_LIMIT;
            }
        }
    }
    return BITKV_OK;
}

static void publish(struct bkv_keydir *kd, const struct build *build)
{
    uint32_t index = build->st->index;
    *directory_counters(kd, index) = (struct counters){.live = build->live};
    kd->pages += build->st->pages;
    kd->keys_moved += build->live;
    /* release: contents before the pointer. */
    atomic_store_explicit(directory_entry(kd, index), build->st, memory_order_release);
}

static void note_step(struct bkv_keydir *kd, uint64_t pages)
{
    kd->plan.slot = NULL;
    if (pages > kd->step_pages_max)
        kd->step_pages_max = pages;
}

/* Rebuilds one subtable with `pages` pages; if `key` is given, so that it has
 * a place. */
static int rebuild(struct bkv_keydir *kd, uint32_t index, uint32_t pages, const struct key *key)
{
    struct subtable *old = directory_get(kd, index);
    struct build build;
    unsigned failed;
    int rc = build_begin(kd, &build, 0, pages, index, old->depth);
    if (rc != BITKV_OK)
        return rc;
    rc = move_keys(old, &build, false, &failed);
    if (rc == BITKV_OK && key != NULL && bkv_table_probe(build.st, key).free == NULL)
        rc = BITKV_ERR_LIMIT;
    if (rc != BITKV_OK) {
        bkv_arena_subtable_free(&kd->arena, build.st);
        return rc;
    }
    kd->pages -= old->pages;
    publish(kd, &build);
    note_step(kd, (uint64_t)old->pages + pages);
    bkv_arena_subtable_retire(&kd->arena, old);
    return BITKV_OK;
}

int bkv_grow_table(struct bkv_keydir *kd, uint32_t index, const struct key *key)
{
    bkv_arena_reclaim(&kd->arena);
    uint32_t pages = directory_get(kd, index)->pages;
    uint32_t step = 1u + pages / 16u;
    int rc = BITKV_ERR_LIMIT;
    /* The first attempt nearly always does; the last has a load below 0.6, and if
     * that doesn't, the hash isn't one. */
    for (uint32_t attempt = 0; attempt < 6 && rc == BITKV_ERR_LIMIT; attempt++)
        rc = rebuild(kd, index, pages += step, key);
    if (rc != BITKV_OK)
        return rc;
    kd->grows++;
    if (kd->image_active && directory_get(kd, index)->pages > IMAGE_PAGES_MAX)
        kd->image_failed = true;
    return BITKV_OK;
}

bool bkv_grow_purge_is_due(const struct bkv_keydir *kd, uint32_t index)
{
    return directory_counters(kd, index)->deleted >
           directory_get(kd, index)->pages * PAGE_SLOTS / 4u;
}

void bkv_grow_purge(struct bkv_keydir *kd, uint32_t index)
{
    bkv_arena_reclaim(&kd->arena);
    uint32_t pages = directory_get(kd, index)->pages;
    uint32_t fewer = pages_for(directory_counters(kd, index)->live);
    /* A quarter of the slots is deleted, so what lives fits below FILL_TARGET. */
    BKV_ASSERT(fewer <= pages);
    int rc = rebuild(kd, index, fewer, NULL);
    if (rc == BITKV_ERR_LIMIT && fewer < pages)
        rc = rebuild(kd, index, fewer + 1u, NULL);
    if (rc == BITKV_OK)
        kd->purges++;
}

bool bkv_grow_split_is_due(const struct bkv_keydir *kd)
{
    return kd->pages > (uint64_t)SPLIT_PAGES * tables_now(kd) &&
           (!kd->image_active || kd->image_failed);
}

int bkv_grow_split(struct bkv_keydir *kd)
{
    uint32_t tables = tables_now(kd);
    unsigned depth = 31u - (unsigned)__builtin_clz(tables);
    uint32_t source = tables - (1u << depth);
    int rc = bkv_directory_reserve(kd, tables);
    if (rc != BITKV_OK)
        return rc;
    bkv_arena_reclaim(&kd->arena);
    struct subtable *old = directory_get(kd, source);
    uint32_t half = (directory_counters(kd, source)->live + 1u) / 2u;
    uint32_t pages[2] = {pages_for(half), pages_for(half)};
    struct build builds[2];
    for (unsigned attempt = 0;; attempt++) {
        unsigned failed = 0;
        rc = build_begin(kd, &builds[0], 0, pages[0], source, depth + 1u);
        if (rc != BITKV_OK)
            return rc;
        rc = build_begin(kd, &builds[1], 1, pages[1], tables, depth + 1u);
        if (rc == BITKV_OK) {
            rc = move_keys(old, builds, true, &failed);
            if (rc == BITKV_OK)
                break;
            bkv_arena_subtable_free(&kd->arena, builds[1].st);
        }
        bkv_arena_subtable_free(&kd->arena, builds[0].st);
        if (rc != BITKV_ERR_LIMIT || attempt == 4)
            return rc;
        pages[failed]++;
    }
    kd->pages -= old->pages;
    publish(kd, &builds[1]);
    BKV_SCHEDULE_POINT("split.first");
    atomic_store_explicit(&kd->tables, tables + 1u, memory_order_release);
    BKV_SCHEDULE_POINT("split.counted");
    publish(kd, &builds[0]);
    note_step(kd, (uint64_t)old->pages + pages[0] + pages[1]);
    bkv_arena_subtable_retire(&kd->arena, old);
    kd->splits++;
    return BITKV_OK;
}
