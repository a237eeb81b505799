/* SPDX-License-Identifier: MIT */
/*
 * Deferred puts: the last few keys of a writer, whose lines of the table are
 * still on their way from memory.
 *
 * A put that waits for its line waits for most of its time: some 150 ns of
 * 350. So the line is only asked for (bkv_keydir_prefetch_put()), the key is
 * kept in one cache line of its own, and moves to the table when DEFERRED more
 * keys have come; by then its line is there. Measured: overwrites 1.4 times as
 * fast, with more than four places no better. (Group prefetching after Chen et
 * al., "Improving hash join performance through prefetching", ICDE 2004, spread
 * over calls that do not know of each other.)
 *
 * To everybody else this is part of the KeyDir: bkv_keydir_find() looks here
 * first. A key goes to the table before it leaves this line, so a reader that
 * looks here, then there, meets it.
 *
 * Invariants:
 *  1. A key is in at most one place of the line, and that is newer than what
 *     the table has for it.
 *  2. Growing the table happens on the way out of here, never on the way in: a
 *     put that found a place cannot fail.
 *
 * Orders as in table.c: word 1, then word 0; a place is cleared before it is
 * given to another key.
 *
 * Failure modes: no memory to grow the table, or to change it beside a
 * snapshot: the oldest key stays where it is, readable, and whoever wants its
 * place gets BITKV_ERR_NO_MEMORY.
 */
#include "keydir/internal.h"

#include <bitkv.h>

static bool holds(const struct bkv_keydir *kd, unsigned place, const struct key *key)
{
    const struct key *kept = &kd->deferred_keys[place];
    return slot_get(&kd->deferred.slots[place].w0) == key->lo && kept->home == key->home &&
           kept->extra == key->extra;
}

/* Place of the key, DEFERRED if it is not here. */
static unsigned place_of(const struct bkv_keydir *kd, const struct key *key)
{
    unsigned place = 0;
    while (place < DEFERRED && !holds(kd, place, key))
        place++;
    return place;
}

static bool is_free(const struct bkv_keydir *kd, unsigned place)
{
    return slot_get(&kd->deferred.slots[place].w0) == SLOT_EMPTY;
}

/* The oldest key, if any, goes to the table. */
static int apply(struct bkv_keydir *kd, unsigned place, uint64_t *dead)
{
    struct slot *slot = &kd->deferred.slots[place];
    const struct key *key = &kd->deferred_keys[place];
    int rc = bkv_table_prepare(kd, key);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    *dead = bkv_table_put(kd, key, slot_get(&slot->w1) & LOCATION_MASK);
    atomic_store_explicit(&slot->w0, SLOT_EMPTY, memory_order_release);
    return BITKV_OK;
}

int bkv_keydir_defer_prepare(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t *dead)
{
    struct key key = key_of(hash);
    *dead = 0;
    if (is_free(kd, kd->deferred_next) || place_of(kd, &key) < DEFERRED)
        return BITKV_OK;
    return apply(kd, kd->deferred_next, dead);
}

uint64_t bkv_keydir_defer(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t location)
{
    struct key key = key_of(hash);
    BKV_ASSERT(location != 0 && location <= LOCATION_MASK);
    uint64_t w1 = location | deferred_mark(&key);
    unsigned place = place_of(kd, &key);
    if (place < DEFERRED) {
        uint64_t old = slot_get(&kd->deferred.slots[place].w1);
        atomic_store_explicit(&kd->deferred.slots[place].w1, w1, memory_order_release);
        return old & LOCATION_MASK;
    }
    place = kd->deferred_next;
    BKV_ASSERT(is_free(kd, place)); /* the caller has prepared */
    kd->deferred_next = (place + 1u) % DEFERRED;
    kd->deferred_keys[place] = key;
    atomic_store_explicit(&kd->deferred.slots[place].w1, w1, memory_order_release);
    atomic_store_explicit(&kd->deferred.slots[place].w0, key.lo, memory_order_release);
    return 0;
}

int bkv_keydir_settle_one(struct bkv_keydir *kd, uint64_t *dead)
{
    *dead = 0;
    for (unsigned n = 0; n < DEFERRED; n++) {
        unsigned place = (kd->deferred_next + n) % DEFERRED; /* from the oldest */
        if (!is_free(kd, place)) {
            int rc = apply(kd, place, dead);
            return rc == BITKV_OK ? 1 : rc;
        }
    }
    return 0;
}

bool bkv_keydir_settled(const struct bkv_keydir *kd)
{
    bool settled = true;
    for (unsigned place = 0; place < DEFERRED; place++)
        settled &= is_free(kd, place);
    return settled;
}
