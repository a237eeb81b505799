/* SPDX-License-Identifier: MIT */
/*
 * Memory: the one way in which the library allocates.
 *
 * Every allocation asks the hook first, if one is set, so that a test can fail
 * the n-th allocation and count what is outstanding. Nothing here aborts: an
 * allocation that fails returns NULL, and the caller hands on
 * BITKV_ERR_NO_MEMORY.
 *
 * Must not know about files, logs or keys.
 */
#ifndef BKV_BASE_MEMORY_H
#define BKV_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Asked before every allocation; false makes it fail. Set it while no other
 * thread allocates. NULL takes it out. */
typedef bool (*bkv_alloc_hook)(size_t size, void *user);
void bkv_alloc_set_hook(bkv_alloc_hook hook, void *user);

void *bkv_malloc(size_t size);
void *bkv_calloc(size_t count, size_t size);
void *bkv_realloc(void *old, size_t size);
/* Room for `more` elements behind `count` in a growable array, at least doubling
 * it; `array` is the address of the pointer to its `*capacity` elements, NULL and 0
 * at first. False: no memory, or more than can be counted; nothing has changed. */
bool bkv_grow(void *array, size_t count, size_t more, size_t element, size_t *capacity);
/* Cache-line aligned and zeroed, for structures with hot lines. */
void *bkv_alloc_aligned(size_t size);
void bkv_mfree(void *memory); /* for all four; NULL is ignored */
char *bkv_strdup(const char *text);

/* Zeroed anonymous pages. `size` is a multiple of 4 KiB. With `huge`, size and
 * address are multiples of 2 MiB and the kernel is asked for huge pages.
 * NULL when there are none. */
void *bkv_pages_map(size_t size, bool huge);
/* Faults them in; what is in them stays. Advice. */
void bkv_pages_populate(void *pages, size_t size);
void bkv_pages_unmap(void *pages, size_t size);

#endif
