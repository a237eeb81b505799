/* SPDX-License-Identifier: MIT */
#include "db/long_call.h"

#include "db/call.h"

static _Thread_local const struct bkv_long_call *innermost;

int bkv_long_begin(struct bkv_long_call *call, struct bitkv *db)
{
    int rc = bkv_begin(db, &call->slot);
    if (rc != BITKV_OK)
        return rc;
    atomic_fetch_add(&db->long_calls, 1);
    call->db = db;
    call->outer = innermost;
    innermost = call;
    return BITKV_OK;
}

void bkv_long_leave(struct bkv_long_call *call)
{
    bkv_epoch_exit(call->slot);
}

void bkv_long_end(struct bkv_long_call *call)
{
    innermost = call->outer;
    atomic_fetch_sub(&call->db->long_calls, 1);
}

bool bkv_long_here(const struct bitkv *db)
{
    const struct bkv_long_call *call = innermost;
    while (call != NULL && call->db != db)
        call = call->outer;
    return call != NULL;
}
