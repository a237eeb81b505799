/* SPDX-License-Identifier: MIT */
/*
 * Disk space that is kept for compaction and deletions: they need some before they
 * can give back more, and on a full disk there would be none. A file of a segment
 * and an eighth, there as soon as the partition has a few full ones.
 *
 * The segment is compaction's, so that there is room for what any input leaves,
 * however little of it is dead. When an output finds no space, the file is removed
 * and the run made once more. What that run frees goes to the reserve first: as
 * long as it is owed, writers get no new space, or they would take it all and
 * there would be no second run.
 *
 * The eighth is for tombstones: the file is shortened by a piece when one finds no
 * space in the log, by the writer, under the partition's lock. Shortening a file that
 * compaction is just removing does nothing, or gives back what it would have.
 *
 * Only where the file system has little space left: it costs nothing on a roomy
 * disk.
 *
 * Its name ends in .tmp: what a crash leaves of it is removed at the next
 * opening, like any interrupted work.
 *
 * Failure modes: no space for it, or a file system that cannot reserve: there is
 * none, and a full disk is compacted when space comes from elsewhere.
 */
#include "partition/compact.h"

#include "base/bytes.h"
#include "base/error.h"
#include "io/io.h"
#include "log/filename.h"

#include <fcntl.h>

/* Full segments from which on it is worth its space. */
#define SEGMENTS_MIN 3u

/* Free space, in segments, with which none is needed yet. */
#define ROOMY_SEGMENTS 32u

/* Of a segment: all of it, and what deletions may take. */
#define SIZE_EIGHTHS 9u
#define KEPT_EIGHTHS 8u

/* What a deletion gets at a time: room in the log, or for another segment. */
#define LENT_BYTES (16u << 10)

static bool has_some_segments(const struct bkv_partition *p)
{
    unsigned count = 0;
    for (const struct bkv_segment *s = atomic_load(&p->first); s != NULL && count < SEGMENTS_MIN;
         s = atomic_load(&s->next))
        count += atomic_load(&s->phase) == BKV_PHASE_FINISHED;
    return count == SEGMENTS_MIN;
}

static bool is_roomy(const struct bkv_partition *p)
{
    struct statfs status;
    if (bkv_io->fstatfs(p->store->dir.fd, &status) != 0)
        return false;
    return (uint64_t)status.f_bavail * (uint64_t)status.f_bsize >
           ROOMY_SEGMENTS * p->store->options.max_file_size;
}

void bkv_reserve_prepare(struct bkv_partition *p)
{
    uint64_t eighth = p->store->options.max_file_size / 8;
    uint64_t have = atomic_load(&p->reserve_bytes);
    if (have >= KEPT_EIGHTHS * eighth || !has_some_segments(p) || is_roomy(p))
        return;
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    bkv_name_reserve(name, p->index);
    if (bkv_file_open(&file, &p->store->dir, name, O_RDWR | O_CREAT) != BITKV_OK)
        return;
    uint64_t size = SIZE_EIGHTHS * eighth;
    int rc = bkv_file_reserve(&file, 0, size);
    while (rc == BITKV_ERR_NO_SPACE && size > eighth && size > have) { /* better than none */
        size -= eighth;
        rc = bkv_file_reserve(&file, 0, size);
    }
    bkv_file_close(&file);
    if (rc == BITKV_OK) {
        atomic_store(&p->reserve_owed, false); /* before there is something to lend */
        atomic_store(&p->reserve_bytes, bkv_max64(size, have));
    } else if (have == 0) {
        (void)bkv_dir_unlink(&p->store->dir, name);
    }
}

/* While there is this much, and lend() has something to give, prepare() changes
 * nothing, and release() does so under the lock, too. */
bool bkv_reserve_lend(struct bkv_partition *p)
{
    uint64_t kept = KEPT_EIGHTHS * (p->store->options.max_file_size / 8);
    uint64_t have = atomic_load(&p->reserve_bytes);
    if (have < kept + LENT_BYTES)
        return false;
    uint64_t left = have - LENT_BYTES;
    atomic_store(&p->reserve_bytes, left);
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    bkv_name_reserve(name, p->index);
    if (bkv_file_open(&file, &p->store->dir, name, O_RDWR) != BITKV_OK)
        return false;
    int rc = bkv_file_truncate(&file, left);
    bkv_file_close(&file);
    return rc == BITKV_OK;
}

bool bkv_reserve_release(struct bkv_partition *p)
{
    if (atomic_load(&p->reserve_bytes) == 0)
        return false;
    char name[BKV_NAME_SIZE];
    bkv_name_reserve(name, p->index);
    if (bkv_dir_unlink(&p->store->dir, name) != BITKV_OK)
        return false;
    bkv_lock(&p->lock); /* bkv_reserve_lend() */
    atomic_store(&p->reserve_owed, true);
    atomic_store(&p->reserve_bytes, 0);
    bkv_unlock(&p->lock);
    return true;
}
