/* SPDX-License-Identifier: MIT */
/*
 * A snapshot of a partition: the KeyDir's, which says where everything was, and a
 * hold, which keeps the files that it points into.
 *
 *   reserve   all memory, without the lock
 *   take      under it, some microseconds: the KeyDir's pointers, the hold
 *   release   the KeyDir may change its tables again, the worker unlink files
 *
 * With the deferred keys settled and the lock held, no location points into a
 * segment that was taken out before: a hold from this moment on keeps them all.
 *
 * In a follower nobody keeps the files: its writer unlinks what he has compacted.
 * There every segment is opened at once, and kept open.
 *
 * Failure modes: no memory, before anything has changed. The KeyDir has outgrown
 * the room that was reserved a moment ago: reserve anew.
 */
#include "partition/state.h"

#include "base/error.h"
#include "base/memory.h"

static int no_memory(const struct bkv_partition *p)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a snapshot of partition %u", p->index);
}

static int reserve_segments(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    snapshot->capacity = atomic_load(&p->next_number) + 1;
    snapshot->segments = bkv_calloc(snapshot->capacity, sizeof(struct bkv_segment *));
    return snapshot->segments != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
}

int bkv_partition_snapshot_reserve(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    *snapshot = (struct bkv_partition_snapshot){0};
    int rc = bkv_keydir_snapshot_reserve(p->keydir, &snapshot->keydir);
    if (rc == BITKV_OK && p->store->options.read_only)
        rc = reserve_segments(p, snapshot);
    return rc == BITKV_OK ? rc : no_memory(p);
}

/* Under the lock. No refresh has come between this and the reservation. */
static void note_segments(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    for (struct bkv_segment *s = p->first; s != NULL; s = s->next) {
        BKV_ASSERT(snapshot->count < snapshot->capacity);
        bkv_segment_ref(s);
        snapshot->segments[snapshot->count++] = s;
    }
}

int bkv_partition_snapshot_take(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    int rc = bkv_settle(p);
    if (rc != BITKV_OK)
        return no_memory(p);
    if (p->store->options.read_only)
        note_segments(p, snapshot);
    if (!bkv_keydir_snapshot_take(p->keydir, snapshot->keydir))
        return BKV_OUTGROWN;
    bkv_hold_begin(p, &snapshot->hold);
    snapshot->taken = true;
    return BITKV_OK;
}

static void let_close(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    while (snapshot->open > 0)
        bkv_segment_let_close(p, snapshot->segments[--snapshot->open]);
}

int bkv_partition_snapshot_open(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    int rc = BITKV_OK;
    while (rc == BITKV_OK && snapshot->open < snapshot->count) {
        rc = bkv_segment_keep_open(p, snapshot->segments[snapshot->open]);
        snapshot->open += rc == BITKV_OK;
    }
    if (rc != BITKV_ERR_TOO_MANY_FILES)
        return rc;
    let_close(p, snapshot); /* without mappings: what is unlinked meanwhile is an error then */
    return BITKV_OK;
}

static void release_segments(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    let_close(p, snapshot);
    for (uint32_t i = 0; i < snapshot->count; i++)
        bkv_segment_unref(snapshot->segments[i]);
    bkv_mfree((void *)snapshot->segments);
}

void bkv_partition_snapshot_release(struct bkv_partition *p,
                                    struct bkv_partition_snapshot *snapshot)
{
    release_segments(p, snapshot);
    if (snapshot->taken) {
        bkv_lock(&p->lock);
        bkv_keydir_snapshot_release(p->keydir, snapshot->keydir);
        bkv_unlock(&p->lock);
        bkv_hold_end(p, &snapshot->hold);
    }
    bkv_keydir_snapshot_free(p->keydir, snapshot->keydir);
    *snapshot = (struct bkv_partition_snapshot){0};
}

uint32_t bkv_partition_snapshot_tables(const struct bkv_partition_snapshot *snapshot)
{
    return bkv_keydir_snapshot_tables(snapshot->keydir);
}
