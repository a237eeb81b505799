/* SPDX-License-Identifier: MIT */
/*
 * Walks over everything: the scan, subtable by subtable with the lock free in
 * between, and the sweep.
 *
 * Order of the scan: by lo with its bits reversed. In that order a subtable of
 * depth d holds one interval of length 2^(64 - d), and a split cuts an
 * interval in two. The cursor is where the next interval begins. Subtables are
 * never joined, so the cursor always is the beginning of an interval of the
 * present state, nothing before it is visited again and nothing behind it is
 * left out: exactly once, whatever is split meanwhile, and each call visits one
 * subtable. (Redis' dictScan counts in the same order; as its tables may also
 * shrink, it only has at-least-once.)
 */
#include "keydir/internal.h"

#include "base/memory.h"

#include <bitkv.h>

static uint64_t reverse_bits(uint64_t x)
{
    x = (x >> 1 & 0x5555555555555555u) | (x & 0x5555555555555555u) << 1;
    x = (x >> 2 & 0x3333333333333333u) | (x & 0x3333333333333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0fu) | (x & 0x0f0f0f0f0f0f0f0fu) << 4;
    return __builtin_bswap64(x);
}

static int reserve(struct bkv_keydir_entries *entries, size_t count)
{
    if (count <= entries->capacity)
        return BITKV_OK;
    struct bkv_keydir_entry *items = bkv_realloc(entries->items, count * sizeof *items);
    if (items == NULL)
        return BITKV_ERR_NO_MEMORY;
    entries->items = items;
    entries->capacity = count;
    return BITKV_OK;
}

void bkv_keydir_entries_free(struct bkv_keydir_entries *entries)
{
    bkv_mfree(entries->items);
    *entries = (struct bkv_keydir_entries){0};
}

int bkv_scan_table(const struct subtable *st, struct bkv_keydir_entries *out)
{
    uint32_t slots = st->pages * PAGE_SLOTS;
    int rc = reserve(out, slots);
    if (rc != BITKV_OK)
        return rc;
    out->count = 0;
    for (uint32_t p = 0; p < st->pages; p++) {
        for (uint32_t l = 0; l < PAGE_LINES; l++) {
            const struct line *line = &st->page[p]->lines[l];
            prefetch(line + 8);
            for (unsigned i = 0; i < LINE_SLOTS; i++) {
                uint64_t lo = slot_get(&line->slots[i].w0);
                if (lo <= SLOT_DELETED)
                    continue;
                uint64_t w1 = slot_get(&line->slots[i].w1);
                uint32_t home = home_of(l, distance_of(lo), try_of(w1));
                out->items[out->count++] = (struct bkv_keydir_entry){
                    .lo = lo,
                    .location = w1 & LOCATION_MASK,
                    .tag = home | extra_of(w1) << LINE_BITS,
                };
            }
        }
    }
    return BITKV_OK;
}

int bkv_keydir_scan(const struct bkv_keydir *kd, uint64_t *cursor, struct bkv_keydir_entries *out)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    uint32_t index = table_address(reverse_bits(*cursor), tables_now(kd));
    const struct subtable *st = directory_get(kd, index);
    int rc = bkv_scan_table(st, out);
    if (rc != BITKV_OK)
        return rc;
    /* 2^64 becomes 0: done. */
    *cursor = st->depth == 0 ? 0 : *cursor + (UINT64_C(1) << (64u - st->depth));
    return BITKV_OK;
}

static uint64_t sweep_table(struct bkv_keydir *kd, uint32_t index, bkv_keydir_sweep_cb sweep_cb,
                            void *user)
{
    BKV_ASSERT(!subtable_is_shared(kd, index));
    struct subtable *st = directory_get(kd, index);
    struct counters *counters = directory_counters(kd, index);
    uint32_t removed = 0;
    for (uint32_t p = 0; p < st->pages; p++) {
        for (uint32_t l = 0; l < PAGE_LINES; l++) {
            struct line *line = &st->page[p]->lines[l];
            prefetch(line + 8);
            for (unsigned i = 0; i < LINE_SLOTS; i++) {
                struct slot *slot = &line->slots[i];
                if (slot_get(&slot->w0) <= SLOT_DELETED)
                    continue;
                if (!sweep_cb(user, slot_get(&slot->w1) & LOCATION_MASK))
                    continue;
                counters->deleted += slot_clear(line, slot);
                removed++;
            }
        }
    }
    counters->live -= removed;
    count_add(kd, 0 - (uint64_t)removed);
    if (bkv_grow_purge_is_due(kd, index))
        bkv_grow_purge(kd, index);
    return removed;
}

int bkv_keydir_sweep(struct bkv_keydir *kd, bkv_keydir_sweep_cb sweep_cb, void *user,
                     uint64_t *removed)
{
    BKV_ASSERT(bkv_keydir_settled(kd));
    *removed = 0;
    kd->plan.slot = NULL;
    for (uint32_t index = 0; index < tables_now(kd); index++) {
        int rc = bkv_snapshot_own(kd, index);
        if (rc != BITKV_OK)
            return rc;
        *removed += sweep_table(kd, index, sweep_cb, user);
    }
    return BITKV_OK;
}
