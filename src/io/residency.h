/* SPDX-License-Identifier: MIT */
/*
 * Which pages of a mapping are probably in memory: what tells a read that can
 * be made at once from one that would wait for the disk.
 *
 * The kernel knows (mincore), but takes a system call to say so. So its answer
 * is kept, some pages at a time, for as long as the caller's stamp stays the
 * same: some fraction of a second, and less when the caller notices that pages
 * have gone. An estimate both ways: what was thrown out since is read through
 * a page fault, what came since is read as if it were on disk.
 */
#ifndef BKV_IO_RESIDENCY_H
#define BKV_IO_RESIDENCY_H

#include "io/mapping.h"

/* Are all pages of [offset, offset + size), which lies within the mapping, in
 * memory? True also where nobody can tell. Any thread. */
bool bkv_resident(struct bkv_mapping *mapping, uint64_t offset, uint64_t size, uint32_t stamp);

/* The same of the page at `offset`, which lies within the mapping, asked of the kernel
 * at once. Any thread. */
bool bkv_resident_now(const struct bkv_mapping *mapping, uint64_t offset);

/* They have been read just now. Any thread. */
void bkv_residency_note(struct bkv_mapping *mapping, uint64_t offset, uint64_t size);

/* With the mapping. */
void bkv_residency_free(struct bkv_residency *residency);

#endif
