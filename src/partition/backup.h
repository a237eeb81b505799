/* SPDX-License-Identifier: MIT */
/*
 * A partition's part in a backup:
 *
 *   reserve   room for the list of its segments      not locked
 *   note      the list, as it is now; begins a hold  all partitions locked
 *   store     the files of the list, into the target not locked; long
 *   end       ends the hold                          not locked
 */
#ifndef BKV_PARTITION_BACKUP_H
#define BKV_PARTITION_BACKUP_H

#include "partition/partition.h"

/* A segment, as it was at the moment of the backup. */
struct bkv_backup_segment {
    const struct bkv_segment *segment; /* lives as long as the hold */
    uint64_t id, size, seed;
};

struct bkv_backup_part {
    struct bkv_partition *partition;
    struct bkv_hold hold;
    bool held;
    struct bkv_backup_segment *segments;
    size_t count, capacity;
};

/* What all parts of a backup share. */
struct bkv_backup_job {
    struct bkv_dir *to;      /* the directory that is being filled */
    struct bkv_dir *earlier; /* an earlier backup of the same database; NULL: none */
    const bitkv_backup_options *options;
    const _Atomic bool *stop; /* the database is being closed */
    bool unlinkable;          /* it turned out that nothing can be linked */
    uint64_t done, total;     /* bytes of segments */
    bitkv_backup_report report;
};

int bkv_backup_reserve(struct bkv_backup_part *part, struct bkv_partition *partition);
/* Locked: do they all fit? Else reserve anew. */
bool bkv_backup_fits(const struct bkv_backup_part *part);
void bkv_backup_note(struct bkv_backup_part *part);
uint64_t bkv_backup_bytes(const struct bkv_backup_part *part);
/* BKV_READ_AGAIN: a follower's file is gone; refresh, and begin anew. */
int bkv_backup_store(struct bkv_backup_part *part, struct bkv_backup_job *job);
/* Also of a part that was only reserved. */
void bkv_backup_end(struct bkv_backup_part *part);

#endif
