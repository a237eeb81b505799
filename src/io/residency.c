/* SPDX-License-Identifier: MIT */
/*
 * A table of granules beside a mapping, made at the first question.
 *
 * Orders: `pages` is written before `stamp` (release), and read after it
 * (acquire). Two who refresh a granule at the same time write what they saw;
 * both saw something true a moment ago. A note that a refresh overwrites is
 * lost, and costs one read through the kernel.
 *
 * Failure modes: no memory for the table, no answer from the kernel: "in
 * memory", and the reader takes the fault.
 */
#include "io/residency.h"

#include "base/memory.h"
#include "io/io.h"

#include <unistd.h>

/* Few enough that asking costs a lone cold read little, many enough that the
 * table stays small (16 bytes a granule). */
#define GRANULE_PAGES 16u

struct granule {
    _Atomic uint64_t pages; /* bit i: page i is in memory */
    _Atomic uint32_t stamp; /* of the answer */
};

struct bkv_residency {
    unsigned page_shift; /* pages are of 2^page_shift bytes */
    struct granule granules[];
};

static struct bkv_residency *create(const struct bkv_mapping *mapping)
{
    size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
    size_t granules = mapping->size / page_size / GRANULE_PAGES + 1;
    struct bkv_residency *r = bkv_calloc(1, sizeof *r + granules * sizeof r->granules[0]);
    if (r != NULL)
        r->page_shift = (unsigned)__builtin_ctzl(page_size);
    return r;
}

static struct bkv_residency *table_of(struct bkv_mapping *mapping)
{
    struct bkv_residency *r = atomic_load_explicit(&mapping->residency, memory_order_acquire);
    if (r != NULL)
        return r;
    struct bkv_residency *mine = create(mapping);
    if (mine == NULL)
        return NULL;
    if (atomic_compare_exchange_strong(&mapping->residency, &r, mine))
        return mine;
    bkv_mfree(mine); /* another was faster */
    return r;
}

static uint64_t ask_kernel(const struct bkv_mapping *mapping, size_t page_size, size_t index)
{
    unsigned char in_memory[GRANULE_PAGES];
    size_t from = index * GRANULE_PAGES * page_size;
    size_t bytes = mapping->size - from;
    if (bytes > GRANULE_PAGES * page_size)
        bytes = GRANULE_PAGES * page_size;
    if (bkv_io->mincore(mapping->base + from, bytes, in_memory) != 0)
        return UINT64_MAX;
    uint64_t pages = 0;
    for (size_t i = 0; i * page_size < bytes; i++)
        pages |= (uint64_t)(in_memory[i] & 1u) << i;
    return pages;
}

static uint64_t pages_of(const struct bkv_mapping *mapping, struct bkv_residency *r, size_t index,
                         uint32_t stamp)
{
    struct granule *g = &r->granules[index];
    if (atomic_load_explicit(&g->stamp, memory_order_acquire) == stamp)
        return atomic_load_explicit(&g->pages, memory_order_relaxed);
    uint64_t pages = ask_kernel(mapping, (size_t)1 << r->page_shift, index);
    atomic_store_explicit(&g->pages, pages, memory_order_relaxed);
    atomic_store_explicit(&g->stamp, stamp, memory_order_release);
    return pages;
}

/* Pages first to last, as far as they lie in granule `index`. */
static uint64_t mask_of(uint64_t first, uint64_t last, uint64_t index)
{
    uint64_t begin = index * GRANULE_PAGES;
    uint64_t low = first > begin ? first - begin : 0;
    uint64_t high = last < begin + GRANULE_PAGES - 1 ? last - begin : GRANULE_PAGES - 1;
    return (UINT64_MAX << low) & (UINT64_MAX >> (63 - high));
}

bool bkv_resident(struct bkv_mapping *mapping, uint64_t offset, uint64_t size, uint32_t stamp)
{
    struct bkv_residency *r = table_of(mapping);
    if (r == NULL)
        return true;
    uint64_t first = offset >> r->page_shift, last = (offset + size - 1) >> r->page_shift;
    for (uint64_t index = first / GRANULE_PAGES; index <= last / GRANULE_PAGES; index++) {
        uint64_t mask = mask_of(first, last, index);
        if ((pages_of(mapping, r, index, stamp) & mask) != mask)
            return false;
    }
    return true;
}

bool bkv_resident_now(const struct bkv_mapping *mapping, uint64_t offset)
{
    unsigned char in_memory;
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    if (bkv_io->mincore(mapping->base + (offset & ~(page_size - 1)), 1, &in_memory) != 0)
        return true;
    return (in_memory & 1u) != 0;
}

void bkv_residency_note(struct bkv_mapping *mapping, uint64_t offset, uint64_t size)
{
    struct bkv_residency *r = atomic_load_explicit(&mapping->residency, memory_order_acquire);
    if (r == NULL)
        return;
    uint64_t first = offset >> r->page_shift, last = (offset + size - 1) >> r->page_shift;
    for (uint64_t index = first / GRANULE_PAGES; index <= last / GRANULE_PAGES; index++)
        atomic_fetch_or_explicit(&r->granules[index].pages, mask_of(first, last, index),
                                 memory_order_relaxed);
}

void bkv_residency_free(struct bkv_residency *residency)
{
    bkv_mfree(residency);
}
