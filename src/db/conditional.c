/* SPDX-License-Identifier: MIT */
/*
 * Expiry and conditional writes: the calls of bitkv.h, checked and routed; the
 * work is done in partition/condition.c.
 *
 * bitkv_update() is made of two of them: it reads, asks the callback out of any
 * epoch section (who knows how long that takes), and writes on the condition that
 * the version is still the one that was read. A location would prove nothing
 * then; a version does, whatever was compacted or closed meanwhile.
 *
 * Failure modes: those of gets and puts; every one leaves the key as it was.
 */
#include "db/call.h"
#include "db/long_call.h"

#include "base/memory.h"

#include <stddef.h>
#include <string.h>

/* --- what every call begins with ------------------------------------------------------ */

/* A call's section, and where its key belongs. */
struct site {
    struct bkv_epoch_slot *slot;
    struct bkv_hash hash;
    struct bkv_partition *partition;
};

static int enter(const struct bitkv *db, const void *key, size_t key_size, struct site *site)
{
    int rc = bkv_begin(db, &site->slot);
    if (rc != BITKV_OK)
        return rc;
    site->hash = bkv_hash(&db->hash_key, key, key_size);
    site->partition = bkv_route(db, &site->hash);
    bkv_partition_prefetch_put(site->partition, &site->hash);
    return BITKV_OK;
}

/* --- expiry ----------------------------------------------------------------------------- */

int bitkv_info(bitkv *db, const void *key, size_t key_size, bitkv_key_info *info)
{
    if (info == NULL || info->struct_size < offsetof(bitkv_key_info, value_size))
        return bkv_error(BITKV_ERR_INVALID,
                         "bitkv_info: call bitkv_key_info_init() on the structure first");
    bitkv_key_info found = {.struct_size = info->struct_size};
    struct site site = {0};
    int rc = bkv_check_key(key, key_size);
    if (rc == BITKV_OK)
        rc = enter(db, key, key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_partition_info(site.partition, site.slot, &site.hash, key, key_size, &found);
    bkv_epoch_exit(site.slot);
    if (rc == BITKV_OK)
        memcpy(info, &found, found.struct_size < sizeof found ? found.struct_size : sizeof found);
    return rc;
}

int bitkv_touch(bitkv *db, const void *key, size_t key_size, uint64_t ttl_ms)
{
    struct site site = {0};
    int rc = bkv_check_write(db, key, key_size, BITKV_DURABILITY_DEFAULT);
    if (rc == BITKV_OK)
        rc = bkv_check_ttl(ttl_ms, false);
    if (rc == BITKV_OK)
        rc = enter(db, key, key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_partition_touch(site.partition, site.slot, &site.hash, key, key_size, ttl_ms);
    bkv_epoch_exit(site.slot);
    return rc;
}

/* --- conditions ------------------------------------------------------------------------- */

void bitkv_put_options_init_sized(bitkv_put_options *options, size_t struct_size)
{
    if (options == NULL)
        return;
    memset(options, 0, struct_size);
    options->struct_size = struct_size;
}

static int take_put_options(bitkv_put_options *out, const bitkv_put_options *given)
{
    bitkv_put_options_init(out);
    if (given == NULL)
        return BITKV_OK;
    size_t size = given->struct_size;
    if (size < offsetof(bitkv_put_options, reserved) || size > sizeof *out)
        return bkv_error(BITKV_ERR_INVALID,
                         "put options have %zu bytes: call bitkv_put_options_init() first, and use "
                         "the header of this library",
                         size);
    memcpy(out, given, size);
    if ((unsigned)out->condition > BITKV_IF_VERSION)
        return bkv_error(BITKV_ERR_INVALID, "%d is no bitkv_condition", (int)out->condition);
    for (size_t i = 0; i < sizeof out->reserved / sizeof out->reserved[0]; i++) {
        if (out->reserved[i] != 0)
            return bkv_error(BITKV_ERR_INVALID, "a reserved put option is not zero: call "
                                                "bitkv_put_options_init() first");
    }
    return bkv_check_ttl(out->ttl_ms, true);
}

static int put_if(const struct bitkv *db, const struct bkv_change *change, uint64_t *version)
{
    struct site site = {0};
    int rc = enter(db, change->key, change->key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_partition_put_if(site.partition, site.slot, &site.hash, change, version);
    bkv_epoch_exit(site.slot);
    return rc;
}

static int del_if(const struct bitkv *db, const struct bkv_change *change)
{
    struct site site = {0};
    int rc = enter(db, change->key, change->key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_partition_del_if(site.partition, site.slot, &site.hash, change);
    bkv_epoch_exit(site.slot);
    return rc;
}

int bitkv_put_if(bitkv *db, const void *key, size_t key_size, const void *value, size_t value_size,
                 const bitkv_put_options *options, uint64_t *version)
{
    bitkv_put_options taken;
    int rc = take_put_options(&taken, options);
    if (rc == BITKV_OK)
        rc = bkv_check_write(db, key, key_size, taken.durability);
    if (rc == BITKV_OK)
        rc = bkv_check_value(value, value_size);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_change change = {
        .key = key,
        .key_size = key_size,
        .value = value,
        .value_size = value_size,
        .ttl_ms = taken.ttl_ms,
        .version = taken.version,
        .condition = taken.condition,
        .durability = taken.durability,
    };
    uint64_t nobody_asks;
    return put_if(db, &change, version != NULL ? version : &nobody_asks);
}

int bitkv_del_if(bitkv *db, const void *key, size_t key_size, uint64_t version,
                 bitkv_durability durability)
{
    int rc = bkv_check_write(db, key, key_size, durability);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_change change = {
        .key = key,
        .key_size = key_size,
        .version = version,
        .condition = BITKV_IF_VERSION,
        .durability = durability,
    };
    return del_if(db, &change);
}

int bitkv_add(bitkv *db, const void *key, size_t key_size, int64_t delta, int64_t *result)
{
    struct site site = {0};
    int rc = bkv_check_write(db, key, key_size, BITKV_DURABILITY_DEFAULT);
    if (rc == BITKV_OK)
        rc = enter(db, key, key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    int64_t sum = 0;
    rc = bkv_partition_add(site.partition, site.slot, &site.hash, key, key_size, delta, &sum);
    bkv_epoch_exit(site.slot);
    if (rc == BITKV_OK && result != NULL)
        *result = sum;
    return rc;
}

/* --- updates ------------------------------------------------------------------------------ */

struct update {
    bitkv *db;
    const void *key;
    size_t key_size;
    bitkv_update_cb update_cb;
    void *user;
    bitkv_durability durability;
};

/* Reads what is there into `step`; the value is to be released. */
static int read_present(const struct update *u, bitkv_update_step *step, void **value)
{
    struct site site = {0};
    struct bkv_seen seen = {0};
    struct bkv_sink sink = {.kind = BKV_SINK_ALLOCATE, .seen = &seen};
    int rc = enter(u->db, u->key, u->key_size, &site);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_partition_look(site.partition, site.slot, &site.hash, u->key, u->key_size, &sink);
    bkv_epoch_exit(site.slot);
    if (rc == BITKV_OK) {
        *value = sink.buffer;
        step->present = true;
        step->value = sink.buffer;
        step->value_size = sink.size;
        step->version = seen.sequence;
        step->remaining_ms = bkv_remaining_ms(&u->db->store, seen.deadline);
        step->new_ttl_ms = BITKV_TTL_KEEP;
    }
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

static int store_new(const struct update *u, const bitkv_update_step *step)
{
    int rc = bkv_check_value(step->new_value, step->new_value_size);
    if (rc == BITKV_OK)
        rc = bkv_check_ttl(step->new_ttl_ms, true);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_change change = {
        .key = u->key,
        .key_size = u->key_size,
        .value = step->new_value,
        .value_size = step->new_value_size,
        .ttl_ms = step->new_ttl_ms,
        .version = step->version,
        .condition = step->present ? BITKV_IF_VERSION : BITKV_IF_ABSENT,
        .durability = u->durability,
    };
    uint64_t nobody_asks;
    rc = put_if(u->db, &change, &nobody_asks);
    return rc == BITKV_NOT_FOUND ? BITKV_ERR_CONFLICT : rc; /* it has gone meanwhile */
}

/* What was not there may have expired: it gets its tombstone, as by bitkv_del(). */
static int delete_present(const struct update *u, const bitkv_update_step *step)
{
    struct bkv_change change = {
        .key = u->key,
        .key_size = u->key_size,
        .version = step->version,
        .condition = step->present ? BITKV_IF_VERSION : BITKV_IF_ABSENT,
        .durability = u->durability,
    };
    int rc = del_if(u->db, &change);
    if (step->present)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_CONFLICT : rc; /* it has gone meanwhile */
    return rc == BITKV_OK ? BITKV_NOT_FOUND : rc;
}

static int act(const struct update *u, const bitkv_update_step *step, int action, bool *again)
{
    int rc;
    switch (action) {
    case BITKV_UPDATE_LEAVE:
        return BITKV_OK;
    case BITKV_UPDATE_PUT:
        rc = store_new(u, step);
        break;
    case BITKV_UPDATE_DELETE:
        rc = delete_present(u, step);
        break;
    default:
        return action < 0 ? bkv_error(action, "the callback of bitkv_update ended it")
                          : bkv_error(BITKV_ERR_INVALID, "%d is no bitkv_update_action", action);
    }
    *again = rc == BITKV_ERR_CONFLICT;
    return rc;
}

static int update_once(const struct update *u, unsigned attempt, bool *again)
{
    bitkv_update_step step = {.attempt = attempt};
    void *value = NULL;
    *again = false;
    int rc = read_present(u, &step, &value);
    if (rc == BITKV_OK)
        rc = act(u, &step, u->update_cb(u->user, &step), again);
    bkv_mfree(value);
    return rc;
}

int bitkv_update(bitkv *db, const void *key, size_t key_size, bitkv_update_cb update_cb, void *user,
                 bitkv_durability durability)
{
    if (update_cb == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_update: no callback");
    struct bkv_long_call call;
    int rc = bkv_check_write(db, key, key_size, durability);
    if (rc == BITKV_OK)
        rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bkv_long_leave(&call);
    struct update update = {
        .db = db,
        .key = key,
        .key_size = key_size,
        .update_cb = update_cb,
        .user = user,
        .durability = durability,
    };
    bool again = true;
    for (unsigned attempt = 0; again; attempt++)
        rc = update_once(&update, attempt, &again);
    bkv_long_end(&call);
    return rc;
}
