/* SPDX-License-Identifier: MIT */
#include "db/call.h"

/* The databases whose callbacks this thread runs, one inside of the other:
 * closing one of them there would wait for itself. */
static _Thread_local const struct bkv_visit *visiting;

int bkv_visit_begin(struct bkv_visit *visit, struct bitkv *db)
{
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    atomic_fetch_add(&db->scans, 1);
    bkv_epoch_exit(slot);
    *visit = (struct bkv_visit){.db = db, .outer = visiting};
    visiting = visit;
    return BITKV_OK;
}

void bkv_visit_end(struct bkv_visit *visit, struct bitkv *db)
{
    visiting = visit->outer;
    atomic_fetch_sub(&db->scans, 1);
}

bool bkv_db_scanning_here(const struct bitkv *db)
{
    const struct bkv_visit *s = visiting;
    while (s != NULL && s->db != db)
        s = s->outer;
    return s != NULL;
}
