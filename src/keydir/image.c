/* SPDX-License-Identifier: MIT */
/*
 * The KeyDir as bytes, and back.
 *
 * Writing: group i is subtable i. While an image is taken nothing splits, so the
 * groups stay the same sets of keys; they may grow. Each is copied as it is
 * at its moment: an image is as fuzzy as the time between its first group and
 * its last, and who loads it replays the log from the first one's. A copy for a
 * snapshot takes a subtable's place with the same keys, so it may come at any
 * time.
 *
 * Loading: the caller reads pages straight into place, then load_group_finish
 * checks what lookups rely on. Index and depth of a group follow from its
 * number and the number of groups: they aren't in the image, so can't lie.
 *
 * What a slot must satisfy (a hostile image is rejected, or harmless):
 *  1. lo belongs to this subtable, and the page it lies in is the one of its try.
 *     (Any home is right for some tag; the stored try says which.)
 *  2. The lines of all earlier tries have no EMPTY slot: it can be found.
 *  3. No earlier slot of its probe sequence is the same key: what is removed
 *     is gone.
 *  4. The location isn't 0, and the caller agrees to it.
 * And a line has not both EMPTY and DELETED slots, and the number of live
 * slots is what the group's header says.
 *
 * Failure modes: BITKV_ERR_CORRUPT or BITKV_ERR_NO_MEMORY; the caller aborts,
 * and the KeyDir is empty again (its memory stays, to be filled otherwise).
 */
#include "keydir/internal.h"

#include "base/memory.h"

#include <bitkv.h>

#include <string.h>

static void put_u32(unsigned char *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8u * i));
}

/* A page between this machine's order and the image's, both ways. */
static void swap_page(void *memory)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    (void)memory;
#else
    unsigned char *p = memory;
    for (size_t at = 0; at < BKV_KEYDIR_PAGE_SIZE; at += 8) {
        uint64_t word;
        memcpy(&word, p + at, sizeof word);
        word = __builtin_bswap64(word);
        memcpy(p + at, &word, sizeof word);
    }
#endif
}

/* ----------------------------------------------------------------- write */

uint32_t bkv_keydir_image_begin(struct bkv_keydir *kd)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    kd->image_active = true;
    kd->image_failed = false;
    return tables_now(kd);
}

size_t bkv_keydir_image_group_size(const struct bkv_keydir *kd, uint32_t group)
{
    if (!kd->image_active || kd->image_failed || group >= tables_now(kd))
        return 0;
    return BKV_KEYDIR_GROUP_HEADER_SIZE +
           (size_t)directory_get(kd, group)->pages * BKV_KEYDIR_PAGE_SIZE;
}

void bkv_keydir_image_group(const struct bkv_keydir *kd, uint32_t group, void *buffer)
{
    const struct subtable *st = directory_get(kd, group);
    unsigned char *out = buffer;
    put_u32(out, st->pages);
    put_u32(out + 4, directory_counters(kd, group)->live);
    out += BKV_KEYDIR_GROUP_HEADER_SIZE;
    for (uint32_t p = 0; p < st->pages; p++, out += BKV_KEYDIR_PAGE_SIZE) {
        memcpy(out, st->page[p], BKV_KEYDIR_PAGE_SIZE);
        swap_page(out);
    }
}

void bkv_keydir_image_end(struct bkv_keydir *kd)
{
    kd->image_active = false;
    kd->image_failed = false;
}

/* ------------------------------------------------------------------ load */

/* Depth of subtable `index` of `tables`: those already split in this round, and
 * their new halves, are one deeper. */
static unsigned depth_of(uint32_t index, uint32_t tables)
{
    unsigned depth = 31u - (unsigned)__builtin_clz(tables);
    uint32_t round = 1u << depth;
    return index < tables - round || index >= round ? depth + 1u : depth;
}

static void drop_all(struct bkv_keydir *kd)
{
    uint32_t tables = tables_now(kd);
    for (uint32_t i = 0; i < tables; i++) {
        struct subtable *st = directory_get(kd, i);
        BKV_ASSERT(st != NULL); /* counted when it is in its place */
        bkv_arena_subtable_free(&kd->arena, st);
        atomic_store_explicit(directory_entry(kd, i), NULL, memory_order_relaxed);
    }
    kd->pages = 0;
    kd->plan.slot = NULL;
    atomic_store_explicit(&kd->tables, 0, memory_order_relaxed);
    atomic_store_explicit(&kd->count, 0, memory_order_relaxed);
}

int bkv_keydir_load_begin(struct bkv_keydir *kd, uint32_t groups)
{
    if (bkv_keydir_count(kd) != 0)
        return BITKV_ERR_INVALID;
    if (groups == 0 || groups > TABLES_MAX)
        return BITKV_ERR_CORRUPT;
    BKV_ASSERT(kd->snapshot_newest == 0);
    kd->load_groups = groups;
    kd->load_next = 0;
    kd->load_table = NULL;
    bkv_arena_reclaim(&kd->arena);
    drop_all(kd);
    return BITKV_OK;
}

int bkv_keydir_load_group(struct bkv_keydir *kd, uint32_t pages, void **memory)
{
    if (pages == 0 || pages > SUBTABLE_PAGES_MAX || kd->load_next >= kd->load_groups ||
        kd->load_table != NULL)
        return BITKV_ERR_CORRUPT;
    int rc = bkv_directory_reserve(kd, kd->load_next);
    if (rc != BITKV_OK)
        return rc;
    struct subtable *st = bkv_arena_subtable(&kd->arena, pages);
    if (st == NULL)
        return BITKV_ERR_NO_MEMORY;
    st->index = kd->load_next;
    st->depth = (uint8_t)depth_of(kd->load_next, kd->load_groups);
    for (uint32_t p = 0; p < pages; p++)
        memory[p] = st->page[p];
    kd->load_table = st;
    return BITKV_OK;
}

/* Per line into kd->fill[0]: 1 if it has an EMPTY slot. */
static int survey_lines(struct bkv_keydir *kd, const struct subtable *st, struct counters *counters)
{
    for (uint32_t p = 0; p < st->pages; p++) {
        for (uint32_t l = 0; l < PAGE_LINES; l++) {
            const struct line *line = &st->page[p]->lines[l];
            uint32_t empty = 0, deleted = 0;
            for (unsigned i = 0; i < LINE_SLOTS; i++) {
                uint64_t lo = slot_get(&line->slots[i].w0);
                empty += lo == SLOT_EMPTY;
                deleted += lo == SLOT_DELETED;
            }
            if (empty != 0 && deleted != 0)
                return BITKV_ERR_CORRUPT;
            counters->live += LINE_SLOTS - empty - deleted;
            counters->deleted += deleted;
            kd->fill[0][p * PAGE_LINES + l] = empty != 0;
        }
    }
    return BITKV_OK;
}

/* The first `slots` slots of the line hold no such key. */
static inline bool line_lacks(const struct line *line, unsigned slots, uint64_t lo, uint64_t mark)
{
    for (unsigned i = 0; i < slots; i++)
        if (BKV_UNLIKELY(slot_get(&line->slots[i].w0) == lo) &&
            (slot_get(&line->slots[i].w1) & ~LOCATION_MASK) == mark)
            return false;
    return true;
}

static inline bool slot_is_sound(const struct bkv_keydir *kd, const struct subtable *st,
                                 uint32_t page, uint32_t l, unsigned i)
{
    const struct line *line = &st->page[page]->lines[l];
    uint64_t lo = slot_get(&line->slots[i].w0);
    uint64_t w1 = slot_get(&line->slots[i].w1);
    uint32_t try = try_of(w1);
    uint32_t first = page_of(lo, st->pages);
    if (!subtable_holds(st, lo) || page_at(first, st->pages, try) != page ||
        (w1 & LOCATION_MASK) == 0 || !line_lacks(line, i, lo, w1 & ~LOCATION_MASK))
        return false;
    if (BKV_LIKELY(try == 0))
        return true;
    uint32_t distance = distance_of(lo);
    uint32_t home = home_of(l, distance, try);
    for (uint32_t t = 0; t < try; t++) {
        uint32_t p = page_at(first, st->pages, t);
        uint32_t earlier = line_at(home, distance, t);
        if (kd->fill[0][p * PAGE_LINES + earlier] != 0 ||
            !line_lacks(&st->page[p]->lines[earlier], LINE_SLOTS, lo, mark_of(extra_of(w1), t)))
            return false;
    }
    return true;
}

int bkv_keydir_load_group_finish(struct bkv_keydir *kd, uint32_t keys, bkv_keydir_check_cb check_cb,
                                 void *user)
{
    struct subtable *st = kd->load_table;
    if (st == NULL)
        return BITKV_ERR_INVALID;
    for (uint32_t p = 0; p < st->pages; p++)
        swap_page(st->page[p]);
    struct counters counters = {0};
    int rc = survey_lines(kd, st, &counters);
    if (rc != BITKV_OK)
        return rc;
    if (counters.live != keys)
        return BITKV_ERR_CORRUPT;
    for (uint32_t p = 0; p < st->pages; p++) {
        for (uint32_t l = 0; l < PAGE_LINES; l++) {
            const struct line *line = &st->page[p]->lines[l];
            for (unsigned i = 0; i < LINE_SLOTS; i++) {
                if (slot_get(&line->slots[i].w0) <= SLOT_DELETED)
                    continue;
                if (!slot_is_sound(kd, st, p, l, i) ||
                    !check_cb(user, slot_get(&line->slots[i].w1) & LOCATION_MASK))
                    return BITKV_ERR_CORRUPT;
            }
        }
    }
    uint32_t index = kd->load_next++;
    *directory_counters(kd, index) = counters;
    kd->pages += st->pages;
    kd->load_table = NULL;
    count_add(kd, keys);
    atomic_store_explicit(directory_entry(kd, index), st, memory_order_release);
    atomic_store_explicit(&kd->tables, kd->load_next, memory_order_release);
    return BITKV_OK;
}

int bkv_keydir_load_end(struct bkv_keydir *kd)
{
    if (kd->load_table != NULL || kd->load_next != kd->load_groups)
        return BITKV_ERR_CORRUPT;
    kd->load_groups = 0;
    return BITKV_OK;
}

void bkv_keydir_load_abort(struct bkv_keydir *kd)
{
    if (kd->load_table != NULL)
        bkv_arena_subtable_free(&kd->arena, kd->load_table);
    kd->load_table = NULL;
    kd->load_groups = 0;
    kd->load_next = 0;
    drop_all(kd);
    /* The pages just freed serve it: this can't fail, if anything was loaded
     * or load_begin() dropped the empty subtable. */
    (void)bkv_table_start(kd);
}
