/* SPDX-License-Identifier: MIT */
/*
 * Which tombstones are still needed: those whose key has a value in a segment
 * that is older than the run, which would be the key's latest again once the
 * tombstone is gone.
 *
 * Nothing older: none is needed. Otherwise the keys in question go into a set,
 * and the hints of all older segments are read past it: exact, but for
 * two keys with the same 64 bits of hash, where a tombstone stays. No memory is
 * kept between runs. An expired record is in the same place as a tombstone: an
 * older value of its key must not come back.
 *
 * Reading the older hints costs by their size, so it is done when enough may
 * come of it: tombstones below a sixteenth of those bytes are kept unsieved. That
 * bounds what tombstones can take up.
 *
 * Failure modes: a hint that does not verify, no memory: all are kept.
 */
#include "partition/compact.h"

#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"

#define COST_SHARE 16u

struct keys {
    uint64_t *items;
    size_t count, capacity;
};

/* 0 says that a place is empty. Who shares a number with another keeps his tombstone. */
static uint64_t number_of(uint64_t lo)
{
    return lo | (lo == 0);
}

static int add_key(struct keys *keys, uint64_t lo)
{
    if (!bkv_grow(&keys->items, keys->count, 1, sizeof *keys->items, &keys->capacity))
        return BITKV_ERR_NO_MEMORY;
    keys->items[keys->count++] = number_of(lo);
    return BITKV_OK;
}

typedef int (*entry_cb)(void *user, const struct bkv_entry *entry);

static int for_each_entry(struct bkv_partition *p, const struct bkv_segment *segment,
                          const struct bkv_pace *pace, entry_cb cb, void *user)
{
    struct bkv_hint_info info = bkv_hint_info_of(p, segment);
    struct bkv_hint_reader reader;
    int rc = bkv_hint_open(&reader, &p->store->dir, &info);
    if (rc != BITKV_OK)
        return rc < 0 ? rc : BITKV_ERR_CORRUPT;
    for (;;) {
        struct bkv_entry entries[256];
        size_t count;
        rc = bkv_hint_take(&reader, entries, 256, &count);
        for (size_t i = 0; rc == BITKV_OK && i < count; i++)
            rc = cb(user, &entries[i]);
        if (rc == BITKV_OK && count > 0)
            rc = bkv_pace_slice(pace, 0);
        if (rc != BITKV_OK || count == 0)
            break;
    }
    bkv_hint_close(&reader);
    return rc;
}

/* --- the keys in question -------------------------------------------------------- */

struct collect {
    struct keys keys;
    bool puts; /* those of values, too: some have expired */
};

static int collect_entry(void *user, const struct bkv_entry *entry)
{
    struct collect *collect = user;
    bool wanted = bkv_entry_type(entry) == BKV_RECORD_DELETE || collect->puts;
    return wanted ? add_key(&collect->keys, entry->lo) : BITKV_OK;
}

static bool may_have_expired(const struct bkv_segment *segment, uint64_t now_ms)
{
    return segment->summary.expiring_bytes > 0 && segment->summary.expires_min <= now_ms;
}

static int collect_keys(struct collect *collect, struct bkv_partition *p, const struct bkv_run *run,
                        uint64_t now_ms, const struct bkv_pace *pace)
{
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < run->count && rc == BITKV_OK; i++) {
        const struct bkv_segment *segment = run->segments[i];
        collect->puts = may_have_expired(segment, now_ms);
        if (collect->puts || segment->summary.tombstone_bytes > 0)
            rc = for_each_entry(p, segment, pace, collect_entry, collect);
    }
    return rc;
}

/* --- the set ------------------------------------------------------------------------- */

static size_t place_of(const struct bkv_sieve *sieve, uint64_t lo)
{
    size_t at = (size_t)(lo * 0x9e3779b97f4a7c15u >> 20) & sieve->mask;
    while (sieve->keys[at] != 0 && sieve->keys[at] != lo)
        at = (at + 1) & sieve->mask;
    return at;
}

static int make_set(struct bkv_sieve *sieve, const struct keys *keys)
{
    size_t size = 1024;
    while (size < 2 * keys->count)
        size *= 2;
    sieve->mask = size - 1;
    sieve->keys = bkv_calloc(size, sizeof *sieve->keys);
    sieve->needed = bkv_calloc(size, sizeof *sieve->needed);
    if (sieve->keys == NULL || sieve->needed == NULL)
        return BITKV_ERR_NO_MEMORY;
    for (size_t i = 0; i < keys->count; i++)
        sieve->keys[place_of(sieve, keys->items[i])] = keys->items[i];
    return BITKV_OK;
}

static int note_older(void *user, const struct bkv_entry *entry)
{
    struct bkv_sieve *sieve = user;
    if (bkv_entry_type(entry) != BKV_RECORD_PUT)
        return BITKV_OK;
    uint64_t number = number_of(entry->lo);
    size_t at = place_of(sieve, number);
    if (sieve->keys[at] == number)
        sieve->needed[at] = true;
    return BITKV_OK;
}

/* --- the whole -------------------------------------------------------------------------- */

/* What there is to gain, and what it costs: all older hints. False if one of
 * them is not there to be read. */
static bool worth_it(struct bkv_partition *p, const struct bkv_run *run, uint64_t now_ms,
                     bool thorough)
{
    uint64_t gain = 0, cost = 0;
    for (uint32_t i = 0; i < run->count; i++) {
        gain += run->segments[i]->summary.tombstone_bytes;
        if (may_have_expired(run->segments[i], now_ms))
            gain += run->segments[i]->summary.expiring_bytes;
    }
    for (struct bkv_segment *s = atomic_load(&p->first); s != run->segments[0];
         s = atomic_load(&s->next)) {
        uint64_t hint = atomic_load(&s->hint_bytes);
        if (hint == 0)
            return false;
        cost += hint;
    }
    return gain > 0 && (thorough || gain >= cost / COST_SHARE);
}

static int look_through_older(struct bkv_sieve *sieve, struct bkv_partition *p,
                              const struct bkv_run *run, const struct bkv_pace *pace)
{
    int rc = BITKV_OK;
    for (struct bkv_segment *s = atomic_load(&p->first); s != run->segments[0] && rc == BITKV_OK;
         s = atomic_load(&s->next))
        rc = for_each_entry(p, s, pace, note_older, sieve);
    return rc;
}

int bkv_sieve_begin(struct bkv_sieve *sieve, struct bkv_partition *p, const struct bkv_run *run,
                    uint64_t now_ms, const struct bkv_pace *pace)
{
    *sieve = (struct bkv_sieve){.kind = BKV_SIEVE_NONE_NEEDED};
    if (run->before == NULL)
        return BITKV_OK;
    sieve->kind = BKV_SIEVE_ALL_NEEDED;
    if (!worth_it(p, run, now_ms, pace->thorough))
        return BITKV_OK;
    struct collect collect = {0};
    int rc = collect_keys(&collect, p, run, now_ms, pace);
    if (rc == BITKV_OK)
        rc = make_set(sieve, &collect.keys);
    bkv_mfree(collect.keys.items);
    if (rc == BITKV_OK)
        rc = look_through_older(sieve, p, run, pace);
    if (rc == BITKV_OK)
        sieve->kind = BKV_SIEVE_SET;
    else
        bkv_sieve_end(sieve);
    /* What the pace said ends the run; what lacks here only keeps tombstones. */
    return rc == BITKV_ERR_NO_MEMORY || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_IO ? BITKV_OK
                                                                                      : rc;
}

bool bkv_sieve_needed(const struct bkv_sieve *sieve, uint64_t lo)
{
    if (sieve->kind != BKV_SIEVE_SET)
        return sieve->kind == BKV_SIEVE_ALL_NEEDED;
    uint64_t number = number_of(lo);
    size_t at = place_of(sieve, number);
    return sieve->keys[at] != number || sieve->needed[at]; /* one that nobody asked about stays */
}

void bkv_sieve_end(struct bkv_sieve *sieve)
{
    bkv_mfree(sieve->keys);
    bkv_mfree(sieve->needed);
    sieve->keys = NULL;
    sieve->needed = NULL;
}
