/* SPDX-License-Identifier: MIT */
/*
 * The pipeline of gets: one stage over a whole group of keys, then the next,
 * so that the cache misses of a stage overlap (Chen et al., "Improving hash
 * join performance through prefetching", ICDE 2004: group prefetching).
 *
 *   begin    hash, route; fetch the descriptor of the KeyDir's subtable
 *   slot     fetch the KeyDir's lines
 *   locate   look up; fetch the record
 *   renew    look up again, if a get before this one has left the section
 *            (its segment had to be opened, or its key to be looked up anew):
 *            what was found may be gone, and is older than what that get saw
 *   then     bkv_partition_read_found() or bkv_partition_try_found()
 *
 * All stages in one epoch section.
 */
#ifndef BKV_DB_PIPELINE_H
#define BKV_DB_PIPELINE_H

#include "db/call.h"

/* Keys in the pipeline together: enough to overlap their misses, few enough to
 * stay in the first-level cache. */
#define BKV_PIPELINE 32u

struct bkv_stage {
    struct bkv_partition *partition; /* NULL: nothing to be looked up */
    struct bkv_hash hash;
    struct bkv_located found;
    uint32_t pauses; /* of the section, when it was found */
};

static inline void bkv_stage_none(struct bkv_stage *stage)
{
    stage->partition = NULL;
}

static inline void bkv_stage_begin(struct bkv_stage *stage, const struct bitkv *db, const void *key,
                                   size_t key_size)
{
    stage->hash = bkv_hash(&db->hash_key, key, key_size);
    stage->partition = bkv_route(db, &stage->hash);
    bkv_partition_prefetch_index(stage->partition, &stage->hash);
}

static inline void bkv_stage_slot(const struct bkv_stage *stage)
{
    if (BKV_LIKELY(stage->partition != NULL))
        bkv_partition_prefetch_slot(stage->partition, &stage->hash);
}

static inline void bkv_stage_locate(struct bkv_stage *stage, const struct bkv_epoch_slot *slot)
{
    if (BKV_UNLIKELY(stage->partition == NULL))
        return;
    stage->pauses = bkv_epoch_pauses(slot);
    bkv_partition_locate(stage->partition, &stage->hash, &stage->found);
}

static inline void bkv_stage_renew(struct bkv_stage *stage, const struct bkv_epoch_slot *slot)
{
    if (BKV_UNLIKELY(stage->pauses != bkv_epoch_pauses(slot)))
        bkv_stage_locate(stage, slot);
}

#endif
