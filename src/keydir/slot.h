/* SPDX-License-Identifier: MIT */
/*
 * What a slot holds, and where a key may be.
 *
 *   word 0   the 64 bits of hash.lo; 0 means EMPTY, 1 DELETED (a lo of 0 or 1
 *            is stored as 2 or 3)
 *   word 1   bits 0-56   location
 *            bits 57-59  tag bits 6-8
 *            bits 60-63  try: at which place of its probe sequence the key is
 *
 * A slot is 16 bytes, a line 4 slots (a cache line), a page 64 lines.
 *
 * A key has 16 places to be, lines all of them. It starts at the page that the
 * top 32 bits of lo choose among the pages of its subtable and at the line that
 * tag bits 0-5 name, and goes on in pairs of lines (128 bytes are fetched almost
 * as fast as 64): first the other line of the pair, then pairs at a distance that
 * is the key's own. Tries 8-15 lie in the next page of the subtable, so that full
 * pages lean on their neighbours.
 *
 * Linear probing would need no distance, but with 16 places it gives up at a load
 * of 0.78 and with 8 at 0.68; the pairs with a distance of their own reach 0.86
 * (docs/keydir.md).
 *
 * Since the try is stored, the home line - 6 more bits of the hash - follows
 * from where a slot lies. A table that grows therefore needs no key: all that
 * it asks for is in the slot or in its position.
 */
#ifndef BKV_KEYDIR_SLOT_H
#define BKV_KEYDIR_SLOT_H

#include "keydir/keydir.h"

#include <stdatomic.h>

#define LINE_SLOTS 4u
#define PAGE_LINES 64u
#define PAGE_PAIRS (PAGE_LINES / 2u)
#define PAGE_SLOTS (PAGE_LINES * LINE_SLOTS)
#define TRIES      16u
#define PAGE_TRIES 8u /* of them in the first page */

#define SLOT_EMPTY   UINT64_C(0)
#define SLOT_DELETED UINT64_C(1)

#define LINE_BITS     6u
#define EXTRA_BITS    3u
#define EXTRA_SHIFT   BKV_KEYDIR_LOCATION_BITS
#define LOCATION_MASK BKV_KEYDIR_LOCATION_MAX

struct slot {
    _Atomic uint64_t w0, w1;
};

struct line {
    struct slot slots[LINE_SLOTS];
};

struct page {
    _Alignas(64) struct line lines[PAGE_LINES];
};

_Static_assert(sizeof(struct line) == 64, "a line is a cache line");
_Static_assert(sizeof(struct page) == BKV_KEYDIR_PAGE_SIZE, "a page is a page");
_Static_assert(LINE_BITS + EXTRA_BITS == BKV_KEYDIR_TAG_BITS, "the tag bits that are known");
_Static_assert(BKV_KEYDIR_LOCATION_BITS + EXTRA_BITS + 4u == 64u, "word 1 is full");

/* A hash as the KeyDir uses it. */
struct key {
    uint64_t lo;
    uint32_t home;  /* line in the page */
    uint32_t extra; /* tag bits 6-8 */
};

static inline struct key key_of(const struct bkv_hash *hash)
{
    uint32_t tag = bkv_hash_tag(hash);
    return (struct key){
        .lo = hash->lo < 2 ? hash->lo + 2 : hash->lo,
        .home = tag & (PAGE_LINES - 1u),
        .extra = (tag >> LINE_BITS) & ((1u << EXTRA_BITS) - 1u),
    };
}

/* Word 1 without its location: what must be equal besides lo. */
static inline uint64_t mark_of(uint32_t extra, uint32_t try)
{
    return (uint64_t)(extra | try << EXTRA_BITS) << EXTRA_SHIFT;
}

static inline uint32_t extra_of(uint64_t w1)
{
    return (uint32_t)(w1 >> EXTRA_SHIFT) & ((1u << EXTRA_BITS) - 1u);
}

static inline uint32_t try_of(uint64_t w1)
{
    return (uint32_t)(w1 >> (EXTRA_SHIFT + EXTRA_BITS));
}

/* Bits 27-31, which neither the page (bits 32-63) nor the subtable (from bit
 * 0) depends on. Odd, so that the 8 pairs of a page-long walk differ. */
static inline uint32_t distance_of(uint64_t lo)
{
    return (uint32_t)(lo >> 27 & (PAGE_PAIRS - 1u)) | 1u;
}

/* Multiply-shift instead of a division (Lemire, "Fast random integer
 * generation in an interval", 2019). Monotonic, so that pages n -> n + 1 are
 * a merge of neighbours. */
static inline uint32_t page_of(uint64_t lo, uint32_t pages)
{
    return (uint32_t)(((lo >> 32) * pages) >> 32);
}

static inline uint32_t page_at(uint32_t first, uint32_t pages, uint32_t try)
{
    uint32_t page = first + (try >= PAGE_TRIES ? 1u : 0u);
    return page == pages ? 0 : page;
}

static inline uint32_t line_at(uint32_t home, uint32_t distance, uint32_t try)
{
    uint32_t pair = ((home >> 1) + (try >> 1) * distance) & (PAGE_PAIRS - 1u);
    return pair << 1 | ((home ^ try) & 1u);
}

/* The inverse: home of a key that lies in `line` at `try`. */
static inline uint32_t home_of(uint32_t line, uint32_t distance, uint32_t try)
{
    uint32_t pair = ((line >> 1) - (try >> 1) * distance) & (PAGE_PAIRS - 1u);
    return pair << 1 | ((line ^ try) & 1u);
}

/* The asm keeps GCC from taking a function that only prefetches for one that
 * has no effect, and leaving out the call (seen with 12.2). */
static inline __attribute__((always_inline)) void prefetch(const void *address)
{
    __builtin_prefetch(address);
    __asm__ volatile("");
}

static inline uint64_t slot_get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline void slot_set(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Words 0 of a line. */
struct line_words {
    uint64_t w[LINE_SLOTS];
};

/* acquire: what a reader finds by them was written before. Costs nothing on
 * x86-64, so the writer loads likewise. */
static inline struct line_words line_load(const struct line *line)
{
    const struct slot *s = line->slots;
    return (struct line_words){{
        atomic_load_explicit(&s[0].w0, memory_order_acquire),
        atomic_load_explicit(&s[1].w0, memory_order_acquire),
        atomic_load_explicit(&s[2].w0, memory_order_acquire),
        atomic_load_explicit(&s[3].w0, memory_order_acquire),
    }};
}

/* Bit i: word 0 of slot i is `value`. Without branches, since which slot it is
 * can't be predicted. */
static inline unsigned line_match(struct line_words words, uint64_t value)
{
    return (unsigned)(words.w[0] == value) | (unsigned)(words.w[1] == value) << 1 |
           (unsigned)(words.w[2] == value) << 2 | (unsigned)(words.w[3] == value) << 3;
}

#endif
