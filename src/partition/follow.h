/* SPDX-License-Identifier: MIT */
/* Following a writer: what the files of it share. See follow.c. */
#ifndef BKV_PARTITION_FOLLOW_H
#define BKV_PARTITION_FOLLOW_H

#include "partition/state.h"

/* A data file that counts now. */
struct bkv_follow_item {
    uint64_t id;
    uint64_t base_sequence;
    uint64_t range_last; /* of a compacted segment; else 0 */
    bool compacted;
    bool hint;                   /* there is one */
    bool listed;                 /* the file is there */
    struct bkv_segment *segment; /* NULL: not known yet */
};

/* A batch's part, new in this refresh, that has others elsewhere. */
struct bkv_follow_group {
    uint64_t sequence; /* of the header */
    size_t first_peer;
    uint32_t peers;
};

struct bkv_follow_peer {
    uint32_t partition;
    uint32_t count;    /* records behind the header */
    uint64_t sequence; /* of the header there */
};

/* One partition in a refresh. */
struct bkv_follow {
    struct bkv_partition *p;
    struct bkv_follow_item *items; /* in order of the log, without what is superseded */
    size_t count, capacity;
    bool checkpoint;                 /* there is one */
    uint64_t newest_output;          /* highest id of a compacted segment among them */
    bool output_new;                 /* one of those is not known yet */
    uint64_t limit;                  /* sequence up to which the log can be taken in */
    struct bkv_follow_group *groups; /* below it */
    size_t group_count, group_capacity;
    struct bkv_follow_peer *peers;
    size_t peer_count, peer_capacity;
};

/* follow_list.c: what is there now. BKV_READ_AGAIN. */
int bkv_follow_list(struct bkv_follow *f);

/* follow_take.c */
/* How far the log can be read: sets `limit`. BKV_READ_AGAIN. */
int bkv_follow_look(struct bkv_follow *f);
/* Takes it in up to `limit`, and what compaction has replaced. BKV_READ_AGAIN. */
int bkv_follow_take(struct bkv_follow *f);

#endif
