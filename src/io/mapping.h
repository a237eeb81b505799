/* SPDX-License-Identifier: MIT */
/*
 * An open segment file: a mapping, or a descriptor where mappings are not
 * used, with a reference count, so that it stays while somebody reads it,
 * whatever becomes of the segment.
 *
 * The SIGBUS guard. A page of a mapped file that cannot be read (an I/O error,
 * a file truncated from outside) raises SIGBUS. The guard's handler looks the
 * address up among the library's mappings; if it is one of them, it counts the
 * fault and puts a private zero page in the place of the failing one, so that
 * the access goes on; the checksum then fails, and the reader that sees the
 * count reports BITKV_ERR_IO; a writer checks the count before it acknowledges.
 * Any other address goes to the handler that was installed before, or to the
 * default action: a host program keeps its own handling. A host that installs
 * its handler later should hand on what it does not know; one that cannot live
 * with a handler opens with BITKV_IO_PWRITE, which installs none.
 */
#ifndef BKV_IO_MAPPING_H
#define BKV_IO_MAPPING_H

#include "io/file.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bkv_residency;

struct bkv_mapping {
    uint8_t *base; /* NULL: read through the descriptor */
    size_t size;   /* of the mapping */
    struct bkv_file file;
    struct bkv_file reader;                  /* for reads that do not go through the mapping */
    struct bkv_residency *_Atomic residency; /* io/residency.h; NULL: nobody has asked */
    _Atomic uint32_t refs;
    _Atomic uint32_t faults; /* SIGBUS met under it */
};

/* Takes the file over, whatever the result; with `keep_file` false its
 * descriptor is closed once mapped. One reference is the caller's. */
int bkv_mapping_create(struct bkv_mapping **out, struct bkv_file *file, size_t size, bool writable,
                       bool keep_file);
/* Without a mapping: reads go through the descriptor. Takes the file over. */
int bkv_mapping_create_unmapped(struct bkv_mapping **out, struct bkv_file *file);

void bkv_mapping_ref(struct bkv_mapping *mapping);
void bkv_mapping_unref(struct bkv_mapping *mapping); /* NULL is ignored */

static inline bool bkv_mapping_faulted(const struct bkv_mapping *mapping)
{
    return atomic_load_explicit(&mapping->faults, memory_order_acquire) != 0;
}

/* The guard, counted: one call of each per database that maps, and per mapping,
 * since a view may outlive its database. */
int bkv_sigbus_guard_acquire(void);
void bkv_sigbus_guard_release(void);

/* Around fork(), after it in parent and child: what a lock of this file protects
 * is whole in the child, and the lock free. */
void bkv_mapping_before_fork(void);
void bkv_mapping_after_fork(void);

#endif
