/* SPDX-License-Identifier: MIT */
#include "base/memory.h"

#include "base/assert.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)

/* Tests change them while threads of the library allocate. */
static _Atomic bkv_alloc_hook hook;
static void *_Atomic hook_user;

void bkv_alloc_set_hook(bkv_alloc_hook new_hook, void *user)
{
    atomic_store(&hook_user, user);
    atomic_store_explicit(&hook, new_hook, memory_order_release);
}

static bool allowed(size_t size)
{
    bkv_alloc_hook asked = atomic_load_explicit(&hook, memory_order_acquire);
    return BKV_LIKELY(asked == NULL) || asked(size, atomic_load(&hook_user));
}

void *bkv_malloc(size_t size)
{
    return allowed(size) ? malloc(size) : NULL;
}

void *bkv_calloc(size_t count, size_t size)
{
    return allowed(size) ? calloc(count, size) : NULL;
}

void *bkv_realloc(void *old, size_t size)
{
    return allowed(size) ? realloc(old, size) : NULL;
}

bool bkv_grow(void *array, size_t count, size_t more, size_t element, size_t *capacity)
{
    if (BKV_LIKELY(more <= *capacity - count))
        return true;
    size_t doubled, wanted, bytes;
    if (__builtin_add_overflow(count, more, &wanted) ||
        __builtin_mul_overflow(*capacity, 2, &doubled) ||
        __builtin_add_overflow(doubled, 16, &doubled))
        return false;
    wanted = wanted > doubled ? wanted : doubled;
    if (__builtin_mul_overflow(wanted, element, &bytes))
        return false;
    void *old; /* copied, since a T * must not be read as a void * */
    memcpy(&old, array, sizeof old);
    void *larger = bkv_realloc(old, bytes);
    if (larger == NULL)
        return false;
    memcpy(array, &larger, sizeof larger);
    *capacity = wanted;
    return true;
}

void *bkv_alloc_aligned(size_t size)
{
    size_t rounded = (size + 63u) & ~(size_t)63u;
    void *memory = allowed(rounded) ? aligned_alloc(64, rounded) : NULL;
    if (memory != NULL)
        memset(memory, 0, rounded);
    return memory;
}

void bkv_mfree(void *memory)
{
    free(memory);
}

char *bkv_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = bkv_malloc(size);
    if (copy != NULL)
        memcpy(copy, text, size);
    return copy;
}

void *bkv_pages_map(size_t size, bool huge)
{
    if (!allowed(size))
        return NULL;
    size_t slack = huge ? HUGE_PAGE : 0;
    char *base =
        mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    if (!huge)
        return base;
    /* Cut the aligned middle out of the larger mapping. */
    size_t before = (HUGE_PAGE - ((uintptr_t)base & (HUGE_PAGE - 1))) & (HUGE_PAGE - 1);
    if (before > 0)
        (void)munmap(base, before);
    if (slack > before)
        (void)munmap(base + before + size, slack - before);
    (void)madvise(base + before, size, MADV_HUGEPAGE); /* advice: no kernel has to take it */
    return base + before;
}

void bkv_pages_populate(void *pages, size_t size)
{
    (void)madvise(pages, size, MADV_POPULATE_WRITE); /* an old kernel: faults come one by one */
}

void bkv_pages_unmap(void *pages, size_t size)
{
    if (pages != NULL)
        (void)munmap(pages, size);
}
