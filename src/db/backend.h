/* SPDX-License-Identifier: MIT */
/* What serves the completion queues of a database. */
#ifndef BKV_DB_BACKEND_H
#define BKV_DB_BACKEND_H

#include "db/db.h"

/* Finds out at opening; cannot fail. */
void bkv_backend_choose(struct bitkv *db);

/* The pool of threads, started at the first use. In an epoch section. */
int bkv_backend_pool(struct bitkv *db, struct bkv_pool **pool);
/* No call may be running. */
void bkv_backend_stop(struct bitkv *db);

#endif
