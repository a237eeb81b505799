/* SPDX-License-Identifier: MIT */
/*
 * A cursor over the changes of one partition, in order of the log: what
 * db/feed.c makes a change feed of.
 */
#ifndef BKV_PARTITION_FEED_H
#define BKV_PARTITION_FEED_H

#include "partition/partition.h"

struct bkv_segment;
struct bkv_mapping;

struct bkv_feed_cursor {
    uint64_t sequence;           /* of the last record that was passed, the log's own included */
    struct bkv_segment *segment; /* a reference; NULL: to be looked for by the sequence */
    struct bkv_mapping *mapping; /* a reference; NULL: not yet */
    uint64_t offset;             /* of the next record in the segment */
    uint64_t limit;              /* records are whole and committed below */
    uint64_t appended;           /* log position of the partition, when it was last looked at */
    bool idle;                   /* then there was nothing behind `offset` */
    bool torn;                   /* what lay before `offset` was skipped: a gap has been told */
    uint8_t *buffer;             /* a window of a file that is not mapped */
    size_t capacity, buffered;
    uint64_t buffer_offset;
};

/* All in no epoch section, but within a call that has been in one, while the database
 * stays open; one thread at a time.
 * A cursor begins zeroed. */

/* From the first change on that is retained, whatever the log holds before. */
void bkv_feed_begin_oldest(struct bkv_partition *partition, struct bkv_feed_cursor *cursor);
/* From what is written after the call on. */
void bkv_feed_begin_end(struct bkv_partition *partition, struct bkv_feed_cursor *cursor);
/* Behind the record of that sequence number. BITKV_ERR_BEHIND if what follows
 * is not retained, or the log ends before. */
int bkv_feed_begin_after(struct bkv_partition *partition, struct bkv_feed_cursor *cursor,
                         uint64_t sequence);
/* The next change, valid until the next call. BITKV_OK; BITKV_NOT_FOUND if there
 * is none now; BITKV_ERR_BEHIND; BITKV_ERR_CORRUPT: what is damaged has been passed;
 * BITKV_ERR_IO and other failures: nothing has. */
int bkv_feed_next(struct bkv_partition *partition, struct bkv_feed_cursor *cursor,
                  bitkv_change *change);
/* False: bkv_feed_next() would find nothing. Cheap. */
bool bkv_feed_stirred(struct bkv_partition *partition, const struct bkv_feed_cursor *cursor);
/* Gives up what it holds. `partition` NULL: the database is closed. */
void bkv_feed_end(struct bkv_partition *partition, struct bkv_feed_cursor *cursor);

#endif
