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
 * Failure modes: no memory, before anything has changed. The KeyDir has outgrown
 * the room that was reserved a moment ago: reserve anew.
 */
#include "partition/state.h"

#include "base/error.h"

int bkv_partition_snapshot_reserve(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    *snapshot = (struct bkv_partition_snapshot){0};
    int rc = bkv_keydir_snapshot_reserve(p->keydir, &snapshot->keydir);
    return rc == BITKV_OK ? rc
                          : bkv_error(rc, "no memory for a snapshot of partition %u", p->index);
}

int bkv_partition_snapshot_take(struct bkv_partition *p, struct bkv_partition_snapshot *snapshot)
{
    int rc = bkv_settle(p);
    if (rc != BITKV_OK)
        return bkv_error(rc, "no memory for a snapshot of partition %u", p->index);
    if (!bkv_keydir_snapshot_take(p->keydir, snapshot->keydir))
        return BKV_OUTGROWN;
    bkv_hold_begin(p, &snapshot->hold);
    snapshot->taken = true;
    return BITKV_OK;
}

void bkv_partition_snapshot_release(struct bkv_partition *p,
                                    struct bkv_partition_snapshot *snapshot)
{
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
