/* SPDX-License-Identifier: MIT */
#include "db/call.h"
#include "db/long_call.h"

#include "base/error.h"
#include "base/memory.h"
#include "partition/segment_list.h"

/* A read-only opening has no active segment of its own. The end of the log is the
 * writer's, who gives a segment its hint when it is full. */
static void mark_last(bitkv_segment_info *infos, size_t count)
{
    if (count > 0 && infos[count - 1].hint_bytes == 0)
        infos[count - 1].phase = BITKV_SEGMENT_ACTIVE;
}

static int show(struct bkv_partition *p, bool read_only, bitkv_segment_cb segment_cb, void *user)
{
    bitkv_segment_info *infos;
    size_t count;
    int rc = bkv_partition_segments(p, &infos, &count);
    if (rc == BITKV_OK && read_only)
        mark_last(infos, count);
    for (size_t i = 0; i < count && rc == BITKV_OK; i++)
        rc = segment_cb(user, &infos[i]);
    bkv_mfree(infos);
    return rc;
}

int bitkv_segments(bitkv *db, uint32_t partition, bitkv_segment_cb segment_cb, void *user)
{
    if (segment_cb == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_segments: no callback");
    struct bkv_long_call call;
    int rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bkv_long_leave(&call);
    bool all = partition == BITKV_ALL_PARTITIONS;
    if (!all && partition >= db->partition_count)
        rc = bkv_error(BITKV_ERR_INVALID, "there is no partition %u, there are %u", partition,
                       db->partition_count);
    uint32_t first = all ? 0 : partition;
    uint32_t last = all ? db->partition_count : partition + 1;
    for (uint32_t i = first; i < last && rc == BITKV_OK; i++)
        rc = show(db->partitions[i], db->store.options.read_only, segment_cb, user);
    bkv_long_end(&call);
    return rc;
}
