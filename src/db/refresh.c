/* SPDX-License-Identifier: MIT */
/* bitkv_refresh(): see partition/follow.c. */
#include "db/call.h"
#include "db/long_call.h"

/* The files that are held open may be those of a directory that was replaced. */
static int refresh(struct bitkv *db)
{
    struct bkv_store *store = &db->store;
    bool same;
    int rc = bkv_directory_is(&store->dir, store->dir.path, &same);
    if (rc != BITKV_OK)
        return rc;
    if (!same)
        return bkv_error(BITKV_ERR_STALE, "%s is another directory now; open it again",
                         store->dir.path);
    return bkv_store_refresh(store);
}

int bitkv_refresh(bitkv *db)
{
    struct bkv_long_call call;
    int rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bkv_long_leave(&call);
    if (db->store.options.read_only)
        rc = refresh(db);
    bkv_long_end(&call);
    return rc;
}
