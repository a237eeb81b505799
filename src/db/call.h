/* SPDX-License-Identifier: MIT */
/* What every call of bitkv.h begins with: arguments, epoch section, state. */
#ifndef BKV_DB_CALL_H
#define BKV_DB_CALL_H

#include "base/assert.h"
#include "base/error.h"
#include "base/schedule.h"
#include "db/db.h"

/* Why the handle cannot be used: forked, or closing. */
int bkv_refuse_call(const struct bitkv *db);

/* Enters a section in which the database stays open. */
static inline int bkv_begin(const struct bitkv *db, struct bkv_epoch_slot **slot)
{
    if (BKV_UNLIKELY(db == NULL))
        return bkv_error(BITKV_ERR_INVALID, "no database handle");
    if (BKV_UNLIKELY(bkv_forked(db->fork_generation)))
        return bkv_refuse_call(db);
    *slot = bkv_epoch_enter();
    if (BKV_UNLIKELY(*slot == NULL))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for another thread");
    BKV_SCHEDULE_POINT("call.entered");
    if (BKV_UNLIKELY(atomic_load_explicit(&db->closing, memory_order_seq_cst))) {
        bkv_epoch_exit(*slot);
        return bkv_refuse_call(db);
    }
    BKV_SCHEDULE_POINT("call.begun");
    return BITKV_OK;
}

static inline int bkv_check_key(const void *key, size_t key_size)
{
    if (BKV_UNLIKELY(key_size == 0 || key_size > BITKV_KEY_SIZE_MAX))
        return bkv_error(BITKV_ERR_INVALID, "a key has 1 to %u bytes, not %zu", BITKV_KEY_SIZE_MAX,
                         key_size);
    if (BKV_UNLIKELY(key == NULL))
        return bkv_error(BITKV_ERR_INVALID, "the key is NULL and its size %zu", key_size);
    return BITKV_OK;
}

static inline int bkv_check_value(const void *value, size_t value_size)
{
    if (BKV_UNLIKELY(value_size > BITKV_VALUE_SIZE_MAX))
        return bkv_error(BITKV_ERR_INVALID, "a value has 0 to %u bytes, not %zu",
                         BITKV_VALUE_SIZE_MAX, value_size);
    if (BKV_UNLIKELY(value == NULL && value_size > 0))
        return bkv_error(BITKV_ERR_INVALID, "the value is NULL and its size %zu", value_size);
    return BITKV_OK;
}

/* Of a put or delete. */
int bkv_check_write(const struct bitkv *db, const void *key, size_t key_size,
                    bitkv_durability durability);

/* `may_keep`: the key's present one will do. */
static inline int bkv_check_ttl(uint64_t ttl_ms, bool may_keep)
{
    if (ttl_ms <= BITKV_TTL_MAX || ttl_ms == BITKV_TTL_NONE ||
        (may_keep && ttl_ms == BITKV_TTL_KEEP))
        return BITKV_OK;
    if (ttl_ms == BITKV_TTL_KEEP)
        return bkv_error(BITKV_ERR_INVALID, "BITKV_TTL_KEEP is for bitkv_put_if() and "
                                            "bitkv_update(): here there is nothing to keep");
    return bkv_error(BITKV_ERR_INVALID,
                     "%llu ms is no time to live; the most is BITKV_TTL_MAX, none is "
                     "BITKV_TTL_NONE",
                     (unsigned long long)ttl_ms);
}

static inline struct bkv_partition *bkv_route(const struct bitkv *db, const struct bkv_hash *hash)
{
    return db->partitions[bkv_hash_partition(hash, db->partition_count)];
}

#endif
