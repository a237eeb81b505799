/* SPDX-License-Identifier: MIT */
/*
 * What segments a partition has. Counted, then copied under the lock, without
 * which compaction may take some out; in between there may come more, and it is
 * tried again.
 */
#include "partition/segment_list.h"

#include "base/error.h"
#include "base/memory.h"
#include "partition/state.h"

static size_t count_segments(const struct bkv_partition *p)
{
    size_t count = 0;
    for (const struct bkv_segment *s = p->first; s != NULL; s = s->next)
        count++;
    return count;
}

static bitkv_segment_info describe(const struct bkv_partition *p, const struct bkv_segment *s)
{
    uint64_t bytes = atomic_load(&s->size);
    uint64_t live = bkv_min64(bytes - BKV_SEGMENT_HEADER, atomic_load(&s->live_bytes));
    return (bitkv_segment_info){
        .partition = p->index,
        .phase = (bitkv_segment_phase)atomic_load(&s->phase),
        .id = s->id,
        .bytes = bytes,
        .live_bytes = live,
        .dead_bytes = bytes - BKV_SEGMENT_HEADER - live,
        .disk_bytes = atomic_load(&s->disk_bytes),
        .hint_bytes = atomic_load(&s->hint_bytes),
    };
}

/* Under the lock. False: they do not fit. */
static bool copy(struct bkv_partition *p, bitkv_segment_info *infos, size_t room, size_t *count)
{
    *count = count_segments(p);
    if (*count > room)
        return false;
    (void)bkv_settle(p); /* or the figures are off by what memory was lacking for */
    for (const struct bkv_segment *s = p->first; s != NULL; s = s->next)
        *infos++ = describe(p, s);
    return true;
}

int bkv_partition_segments(struct bkv_partition *p, bitkv_segment_info **infos, size_t *count)
{
    size_t room = 0;
    *infos = NULL;
    for (;;) {
        bkv_lock(&p->lock);
        bool done = copy(p, *infos, room, count);
        bkv_unlock(&p->lock);
        if (done)
            return BITKV_OK;
        bkv_mfree(*infos);
        room = *count + 16;
        *infos = bkv_calloc(room, sizeof **infos);
        if (*infos == NULL)
            return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list the segments of partition %u",
                             p->index);
    }
}
