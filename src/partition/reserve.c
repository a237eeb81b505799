/* SPDX-License-Identifier: MIT */
/*
 * Disk space that is kept for compaction: it needs room for an output before it
 * can give back its inputs, and on a full disk there would be none. A file of
 * three quarters of a segment, there as soon as the partition has a few full
 * ones. When an output finds no space, the file is removed and the run made
 * once more. What that run frees goes to the reserve first: as long as it is
 * owed, writers get no new space, or they would take it all and there would be
 * no second run.
 *
 * Its name ends in .tmp: what a crash leaves of it is removed at the next
 * opening, like any interrupted work.
 *
 * Failure modes: no space for it, or a file system that cannot reserve: there is
 * none, and a full disk is compacted when space comes from elsewhere.
 */
#include "partition/compact.h"

#include "base/error.h"
#include "log/filename.h"

#include <fcntl.h>

/* Full segments from which on it is worth its space. */
#define SEGMENTS_MIN 3u

/* Of a segment. */
#define SIZE_EIGHTHS 6u

static bool has_some_segments(const struct bkv_partition *p)
{
    unsigned count = 0;
    for (const struct bkv_segment *s = atomic_load(&p->first); s != NULL && count < SEGMENTS_MIN;
         s = atomic_load(&s->next))
        count += atomic_load(&s->phase) == BKV_PHASE_FINISHED;
    return count == SEGMENTS_MIN;
}

void bkv_reserve_prepare(struct bkv_partition *p)
{
    if (atomic_load(&p->reserve_bytes) != 0 || !has_some_segments(p))
        return;
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    bkv_name_reserve(name, p->index);
    if (bkv_file_open(&file, &p->store->dir, name, O_RDWR | O_CREAT) != BITKV_OK)
        return;
    uint64_t eighth = p->store->options.max_file_size / 8;
    uint64_t size = SIZE_EIGHTHS * eighth;
    int rc = bkv_file_reserve(&file, 0, size);
    while (rc == BITKV_ERR_NO_SPACE && size > eighth) { /* less is better than none */
        size -= eighth;
        rc = bkv_file_reserve(&file, 0, size);
    }
    bkv_file_close(&file);
    if (rc == BITKV_OK) {
        atomic_store(&p->reserve_bytes, size);
        atomic_store(&p->reserve_owed, false);
    } else {
        (void)bkv_dir_unlink(&p->store->dir, name);
    }
}

bool bkv_reserve_release(struct bkv_partition *p)
{
    if (atomic_load(&p->reserve_bytes) == 0)
        return false;
    char name[BKV_NAME_SIZE];
    bkv_name_reserve(name, p->index);
    if (bkv_dir_unlink(&p->store->dir, name) != BITKV_OK)
        return false;
    atomic_store(&p->reserve_owed, true);
    atomic_store(&p->reserve_bytes, 0);
    return true;
}
