/* SPDX-License-Identifier: MIT */
/* What the files of recovery share. */
#ifndef BKV_PARTITION_RECOVERY_H
#define BKV_PARTITION_RECOVERY_H

#include "log/checkpoint.h"
#include "log/hint.h"
#include "log/segment.h"
#include "partition/state.h"

/* A data file that was found, in order of the log after sorting. */
struct bkv_found {
    uint64_t id;
    uint64_t file_size;
    uint64_t base_sequence;
    uint64_t range_last; /* of a compacted segment: it stands for all up to here */
    enum bkv_segment_state state;
    bool compacted;
    bool hint; /* there is a hint file, and nothing wrong with it so far */
    bool hint_rejected;
    bool covered;             /* by the checkpoint, as a whole */
    bool dropped;             /* behind a cut */
    uint64_t checkpoint_size; /* of a segment in the checkpoint's table */
    uint64_t checkpoint_last; /* its last sequence */
    struct bkv_segment *segment;
};

/* A place in the log: index into `found`, offset. */
struct bkv_place {
    size_t file;
    uint64_t offset;
};

struct bkv_recover {
    struct bkv_partition *p;
    struct bkv_found *found;
    size_t count, capacity;
    bool checkpoint_found;
    bool adopted; /* the checkpoint is in */
    bool checkpoint_rejected;
    uint64_t *orphan_hints;
    size_t orphan_count, orphan_capacity;

    struct bkv_place start;   /* replay begins here */
    struct bkv_place durable; /* all before it was durable */
    bool looked_ahead;        /* `durable` takes in the marks of all the rest */
    uint64_t last_sequence;   /* of the log so far; 0: none */
    uint64_t max_id;
    bool cut;
    unsigned warnings;

    /* a batch on its way into the KeyDir */
    struct bkv_pending {
        struct bkv_hash hash;
        uint64_t location;
        enum bkv_record_type type;
    } batch[64];
    size_t batched;
};

static inline bool bkv_place_before(struct bkv_place a, struct bkv_place b)
{
    return a.file < b.file || (a.file == b.file && a.offset < b.offset);
}

/* recovery_load.c */
int bkv_recover_checkpoint(struct bkv_recover *r);

/* replay.c */
int bkv_replay(struct bkv_recover *r);

/* Counts a damaged region and warns; BITKV_ERR_CORRUPT with strict recovery. */
int bkv_recover_damage(struct bkv_recover *r, const char *name, uint64_t offset, uint64_t size,
                       const char *what);

#endif
