/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: what the KeyDir held at one moment, by copy-on-write of subtables.
 *
 * Taking one copies the directory: a pointer for about a thousand keys. From
 * then on a subtable that the snapshot sees is not changed any more. Whoever
 * is about to change one copies it first (bkv_snapshot_own()), publishes the
 * copy as a step of growth publishes what it has built, and changes that. So
 * what a snapshot points to never changes, and who reads it needs no lock.
 *
 * Who needs what follows from numbers, all of them epoch stamps and so all
 * different. A snapshot's is the moment it was taken; a subtable's `born` is
 * the number of the newest snapshot taken before it was made, and its `stamp`
 * the moment at which it was retired, whether by a copy or by a step:
 *
 *   snapshot n needs subtable s  <=>  s.born < n, and s is published or n < s.stamp
 *
 * A replaced subtable is retired as ever. When no reader of the KeyDir can be
 * in it any more, it goes to the newest snapshot that needs it, or becomes
 * free if none does. A snapshot that is released puts what it has back at the
 * front of the retired queue, all at once, and there each is asked again: so
 * snapshots end in any order, and in constant time. (Per-snapshot lists of
 * dead blocks after ZFS' deadlists.)
 *
 * Orders. A page's words were written under the lock before the snapshot was
 * taken under the lock, and whoever hands the snapshot on orders the rest. The
 * copy is published with release, as every subtable.
 *
 * Invariants:
 *  1. kd->snapshot_newest is the number of the first of arena.snapshots, 0 if
 *     that is empty; the list descends. arena.era is not below it.
 *  2. A published subtable with born < snapshot_newest is not changed.
 *  3. A retired subtable is freed only if no live snapshot needs it.
 *
 * Failure modes: no memory for a copy: nothing has changed, and whoever wanted
 * to change the subtable gets BITKV_ERR_NO_MEMORY. A snapshot that lives long:
 * it keeps at worst what the KeyDir took when it was taken.
 */
#include "keydir/internal.h"

#include "base/epoch.h"
#include "base/memory.h"
#include "base/schedule.h"

#include <bitkv.h>

#include <string.h>

struct bkv_keydir_snapshot {
    uint64_t number; /* 0: not taken, or released */
    uint64_t count;
    uint32_t tables, capacity;
    struct bkv_keydir_snapshot *older;
    struct subtable_queue kept; /* retired; this is the newest that needs them */
    const struct subtable *table[];
};

/* ----------------------------------------------------------- begin, end */

static uint64_t snapshot_bytes(uint32_t capacity)
{
    return sizeof(struct bkv_keydir_snapshot) + (uint64_t)capacity * sizeof(struct subtable *);
}

int bkv_keydir_snapshot_reserve(struct bkv_keydir *kd, struct bkv_keydir_snapshot **out)
{
    uint32_t tables = atomic_load_explicit(&kd->tables, memory_order_relaxed);
    uint32_t capacity = tables + tables / 16u + 16u;
    /* Zeroed, so that take() meets no page fault. */
    struct bkv_keydir_snapshot *snapshot = bkv_alloc_aligned(snapshot_bytes(capacity));
    if (snapshot == NULL)
        return BITKV_ERR_NO_MEMORY;
    snapshot->capacity = capacity;
    bkv_arena_account(&kd->arena, snapshot_bytes(capacity));
    *out = snapshot;
    return BITKV_OK;
}

void bkv_keydir_snapshot_free(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    BKV_ASSERT(snapshot->number == 0);
    bkv_arena_account(&kd->arena, 0 - snapshot_bytes(snapshot->capacity));
    bkv_mfree(snapshot);
}

static void note_newest(struct bkv_keydir *kd)
{
    const struct bkv_keydir_snapshot *newest = kd->arena.snapshots;
    kd->snapshot_newest = newest != NULL ? newest->number : 0;
}

bool bkv_keydir_snapshot_take(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot)
{
    BKV_ASSERT(bkv_keydir_settled(kd) && snapshot->number == 0);
    uint32_t tables = tables_now(kd);
    if (tables > snapshot->capacity)
        return false;
    for (uint32_t i = 0; i < tables; i++)
        snapshot->table[i] = directory_get(kd, i);
    snapshot->tables = tables;
    snapshot->count = bkv_keydir_count(kd);
    snapshot->number = bkv_epoch_stamp();
    snapshot->kept = (struct subtable_queue){0};
    snapshot->older = kd->arena.snapshots;
    kd->arena.snapshots = snapshot;
    kd->arena.era = snapshot->number;
    kd->plan.slot = NULL; /* what was prepared may be shared now */
    note_newest(kd);
    return true;
}

/* To the front: the stamps of `kept` have passed, those at the end need not have. */
static void give_back(struct subtable_queue *retired, struct subtable_queue *kept)
{
    if (kept->first == NULL)
        return;
    subtable_tail(kept->last)->next = retired->first;
    retired->first = kept->first;
    if (retired->last == NULL)
        retired->last = kept->last;
    retired->count += kept->count;
    *kept = (struct subtable_queue){0};
}

void bkv_keydir_snapshot_release(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot)
{
    BKV_ASSERT(snapshot->number != 0);
    struct bkv_keydir_snapshot **link = &kd->arena.snapshots;
    while (*link != snapshot)
        link = &(*link)->older;
    *link = snapshot->older;
    snapshot->number = 0;
    give_back(&kd->arena.retired, &snapshot->kept);
    note_newest(kd);
}

/* --------------------------------------------------------- copy on write */

bool bkv_snapshot_keep(struct arena *arena, struct subtable *st)
{
    const struct subtable_tail *tail = subtable_tail(st);
    struct bkv_keydir_snapshot *s = arena->snapshots;
    while (s != NULL && s->number > tail->stamp)
        s = s->older;
    if (s == NULL || s->number <= tail->born)
        return false; /* nor does an older one, whose number is smaller */
    subtable_queue_add(&s->kept, st);
    return true;
}

int bkv_snapshot_own(struct bkv_keydir *kd, uint32_t index)
{
    if (!subtable_is_shared(kd, index))
        return BITKV_OK;
    bkv_arena_reclaim(&kd->arena);
    struct subtable *shared = directory_get(kd, index);
    struct subtable *copy = bkv_arena_subtable(&kd->arena, shared->pages);
    if (copy == NULL)
        return BITKV_ERR_NO_MEMORY;
    copy->index = shared->index;
    copy->depth = shared->depth;
    for (uint32_t p = 0; p < shared->pages; p++)
        memcpy(copy->page[p], shared->page[p], sizeof *copy->page[p]);
    BKV_SCHEDULE_POINT("keydir.copied");
    /* release: contents before the pointer. */
    atomic_store_explicit(directory_entry(kd, index), copy, memory_order_release);
    kd->copies++;
    bkv_arena_subtable_retire(&kd->arena, shared);
    return BITKV_OK;
}

/* ---------------------------------------------------------------- reading */

bool bkv_keydir_snapshot_find(const struct bkv_keydir_snapshot *snapshot,
                              const struct bkv_hash *hash, uint64_t *location)
{
    struct key key = key_of(hash);
    const struct subtable *st = snapshot->table[table_address(key.lo, snapshot->tables)];
    uint64_t found = bkv_table_find(st, &key);
    if (found == 0)
        return false;
    *location = found;
    return true;
}

uint64_t bkv_keydir_snapshot_count(const struct bkv_keydir_snapshot *snapshot)
{
    return snapshot->count;
}

uint32_t bkv_keydir_snapshot_tables(const struct bkv_keydir_snapshot *snapshot)
{
    return snapshot->tables;
}

int bkv_keydir_snapshot_scan(const struct bkv_keydir_snapshot *snapshot, uint32_t table,
                             struct bkv_keydir_entries *out)
{
    return bkv_scan_table(snapshot->table[table], out);
}
