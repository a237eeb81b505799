/* SPDX-License-Identifier: MIT */
#ifndef BKV_DB_FEED_H
#define BKV_DB_FEED_H

#include "db/db.h"

/* bitkv_close(): no call runs any more. The feeds outlive the database. */
void bkv_feed_detach_all(struct bitkv *db);

#endif
