/* SPDX-License-Identifier: MIT */
#include "db/call.h"

int bkv_refuse_call(const struct bitkv *db)
{
    if (bkv_forked(db->fork_generation))
        return bkv_error(BITKV_ERR_FORKED, "this handle was opened before a fork; open the "
                                           "database in the child, after the parent closed it");
    return bkv_error(BITKV_ERR_CLOSED, "the database is being closed");
}

int bkv_check_write(const struct bitkv *db, const void *key, size_t key_size,
                    bitkv_durability durability)
{
    int rc = bkv_check_key(key, key_size);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    if (BKV_UNLIKELY((unsigned)durability > BITKV_DURABILITY_SYNC))
        return bkv_error(BITKV_ERR_INVALID, "%d is no bitkv_durability", (int)durability);
    if (BKV_UNLIKELY(db != NULL && db->store.options.read_only))
        return bkv_forked(db->fork_generation)
                   ? bkv_refuse_call(db)
                   : bkv_error(BITKV_ERR_READ_ONLY,
                               "%s was opened read-only; open it with read_only = false to write",
                               db->store.dir.path);
    return BITKV_OK;
}
