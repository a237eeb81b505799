/* SPDX-License-Identifier: MIT */
/*
 * A snapshot from inside.
 *
 * Who may touch what: `partitions` is constant while the snapshot is attached,
 * and used in an epoch section in which `db` was seen not NULL and not closing.
 * `db`, next and before change under the mutex of snapshot.c.
 */
#ifndef BKV_DB_SNAPSHOT_H
#define BKV_DB_SNAPSHOT_H

#include "db/db.h"

struct bitkv_snapshot {
    struct bitkv *_Atomic db; /* NULL once it is closed: then `partitions` hold nothing */
    uint32_t fork_generation;
    uint32_t partition_count;
    _Atomic uint32_t refs;                /* the user's, and one of each iterator */
    struct bitkv_snapshot *next, *before; /* of the database */
    struct bkv_partition_snapshot partitions[];
};

/* Enters a section in which the snapshot's database stays open. */
int bkv_snapshot_enter(bitkv_snapshot *snapshot, struct bitkv **db, struct bkv_epoch_slot **slot);
void bkv_snapshot_ref(bitkv_snapshot *snapshot);
void bkv_snapshot_unref(bitkv_snapshot *snapshot);

/* bitkv_close(): no call runs any more, but the partitions are there. */
void bkv_snapshot_detach_all(struct bitkv *db);
/* Around fork(), after it in parent and child: as bkv_mapping_before_fork(). */
void bkv_snapshot_before_fork(void);
void bkv_snapshot_after_fork(void);

#endif
