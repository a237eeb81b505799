/* SPDX-License-Identifier: MIT */
/*
 * Calls that take long: scans, compaction, backups. They stay out of the epoch
 * section, or nothing could be reclaimed meanwhile, and are counted instead:
 * closing waits for them, and they look whether it does.
 */
#ifndef BKV_DB_LONG_CALL_H
#define BKV_DB_LONG_CALL_H

#include "db/db.h"

#include "base/epoch.h"

struct bkv_long_call {
    struct bitkv *db;
    const struct bkv_long_call *outer; /* of this thread */
    struct bkv_epoch_slot *slot;       /* until leave */
};

/* Refuses as bkv_begin() does. Still in the section until bkv_long_leave(), which
 * bkv_long_end() is preceded by. */
int bkv_long_begin(struct bkv_long_call *call, struct bitkv *db);
void bkv_long_leave(struct bkv_long_call *call);
void bkv_long_end(struct bkv_long_call *call);
/* Is the calling thread in one of this database? Closing there would wait for
 * itself. */
bool bkv_long_here(const struct bitkv *db);

#endif
