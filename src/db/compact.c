/* SPDX-License-Identifier: MIT */
/* bitkv_compact(): compaction by hand, in the caller's thread. */
#include "db/call.h"
#include "db/long_call.h"

#include "base/error.h"

#include <stdio.h>

struct compaction {
    struct bitkv *db;
    bitkv_progress_cb progress;
    void *user;
    uint64_t done, total;
};

static int on_slice(void *user, uint64_t bytes)
{
    struct compaction *c = user;
    c->done += bytes;
    if (c->done > c->total)
        c->total = c->done;
    if (atomic_load_explicit(&c->db->closing, memory_order_relaxed))
        return bkv_error(BITKV_ERR_CLOSED, "closed during bitkv_compact");
    if (c->progress != NULL && c->progress(c->user, c->done, c->total) != 0)
        return bkv_error(BITKV_ERR_CANCELED, "bitkv_compact was canceled by its callback");
    return BITKV_OK;
}

/* Damage in one partition is no reason to leave the others alone. */
static int compact_each(struct compaction *c, uint32_t first, uint32_t end)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    int result = BITKV_OK;
    for (uint32_t i = first; i < end; i++) {
        int rc = bkv_partition_compact(c->db->partitions[i], on_slice, c);
        if (rc == BITKV_ERR_CORRUPT && result == BITKV_OK)
            (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
        if (rc != BITKV_OK)
            result = rc;
        if (rc != BITKV_OK && rc != BITKV_ERR_CORRUPT)
            return rc;
    }
    if (result != BITKV_OK)
        bkv_error_context_set(context);
    return result;
}

static int compact(struct bitkv *db, uint32_t partition, bitkv_progress_cb progress, void *user)
{
    uint32_t first = partition == BITKV_ALL_PARTITIONS ? 0 : partition;
    uint32_t end = partition == BITKV_ALL_PARTITIONS ? db->partition_count : partition + 1;
    struct compaction c = {.db = db, .progress = progress, .user = user};
    struct bkv_long_call call;
    int rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    for (uint32_t i = first; i < end; i++)
        c.total += bkv_partition_compactable(db->partitions[i]);
    bkv_long_leave(&call);
    rc = compact_each(&c, first, end);
    if (rc == BITKV_OK && progress != NULL)
        (void)progress(user, c.total, c.total);
    bkv_long_end(&call);
    return rc;
}

int bitkv_compact(bitkv *db, uint32_t partition, bitkv_progress_cb progress, void *user)
{
    if (db == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_compact: no database");
    if (partition != BITKV_ALL_PARTITIONS && partition >= db->partition_count)
        return bkv_error(BITKV_ERR_INVALID, "there is no partition %u, there are %u", partition,
                         db->partition_count);
    if (db->store.options.read_only)
        return bkv_error(BITKV_ERR_READ_ONLY, "bitkv_compact: opened read-only");
    return compact(db, partition, progress, user);
}
