/* SPDX-License-Identifier: MIT */
/*
 * The directory: subtable index -> descriptor. Segments that double in size,
 * so that no entry ever moves and growth copies nothing; beside each segment
 * of pointers, which readers share, one of counters, which only the writer
 * touches.
 *
 * Failure mode: no memory for a segment: BITKV_ERR_NO_MEMORY, nothing changed.
 *
 * Invariant: segments[s] is set before `tables` first exceeds the segment's
 * first index, and never changes after that.
 */
#include "keydir/internal.h"

#include "base/memory.h"

#include <bitkv.h>

static size_t segment_bytes(uint32_t segment)
{
    size_t entries = (size_t)DIRECTORY_FIRST << segment;
    size_t bytes = entries * (sizeof(subtable_ref) + sizeof(struct counters));
    size_t page = BKV_KEYDIR_PAGE_SIZE;
    return bytes < page ? bytes : (bytes + page - 1u) & ~(page - 1u);
}

int bkv_directory_reserve(struct bkv_keydir *kd, uint32_t index)
{
    if (index >= TABLES_MAX)
        return BITKV_ERR_LIMIT;
    uint32_t segment = segment_of(index);
    if (kd->segments[segment] != NULL)
        return BITKV_OK;
    size_t bytes = segment_bytes(segment);
    /* Large ones come as untouched pages: no pause for clearing them. */
    void *memory =
        bytes < BKV_KEYDIR_PAGE_SIZE ? bkv_alloc_aligned(bytes) : bkv_pages_map(bytes, false);
    if (memory == NULL)
        return BITKV_ERR_NO_MEMORY;
    bkv_arena_account(&kd->arena, bytes);
    kd->segments[segment] = memory;
    kd->counters[segment] = (struct counters *)(uintptr_t)(kd->segments[segment] +
                                                           ((size_t)DIRECTORY_FIRST << segment));
    return BITKV_OK;
}

void bkv_directory_destroy(struct bkv_keydir *kd)
{
    for (uint32_t s = 0; s < DIRECTORY_SEGMENTS; s++) {
        if (kd->segments[s] == NULL)
            continue;
        if (segment_bytes(s) < BKV_KEYDIR_PAGE_SIZE)
            bkv_mfree(kd->segments[s]);
        else
            bkv_pages_unmap(kd->segments[s], segment_bytes(s));
    }
}
