/* SPDX-License-Identifier: MIT */
/*
 * Iterators, and the scans that are made of them.
 *
 * The tables of all partitions are counted through, and share i of n has those
 * whose number leaves i when divided by n: parts differ by a table or two.
 *
 * An iterator keeps its snapshot. Each call on it is in epoch sections, as every
 * call, and leaves them now and then while it passes over records that are not
 * wanted: so closing waits for a step, not for the end.
 *
 * Failure modes: those of walk.c.
 */
#include "db/snapshot.h"

#include "base/error.h"
#include "base/memory.h"
#include "db/call.h"
#include "db/long_call.h"

#include <string.h>

struct bitkv_iterator {
    bitkv_snapshot *snapshot; /* a reference */
    struct bkv_walk *walk;
    uint32_t share, shares;
    uint32_t partition, end; /* the next one, and where to stop */
    uint32_t tables;         /* of the partitions before, modulo shares */
    bool walking;            /* in the partition before the next */
};

/* --- creating ----------------------------------------------------------------------- */

void bitkv_iterator_options_init_sized(bitkv_iterator_options *options, size_t struct_size)
{
    static const bitkv_iterator_options defaults = {
        .shares = 1,
        .partition = BITKV_ALL_PARTITIONS,
    };
    if (options == NULL || struct_size < sizeof options->struct_size)
        return;
    memset(options, 0, struct_size);
    memcpy(options, &defaults, struct_size < sizeof defaults ? struct_size : sizeof defaults);
    options->struct_size = struct_size;
}

static int check_prefix(const bitkv_iterator_options *o)
{
    if (o->prefix == NULL && o->prefix_size > 0)
        return bkv_error(BITKV_ERR_INVALID, "the prefix is NULL and its size %zu", o->prefix_size);
    if (o->prefix != NULL && o->prefix_size == 0)
        return bkv_error(BITKV_ERR_INVALID, "a prefix is given, but its size, prefix_size, is 0; "
                                            "for all keys leave prefix NULL");
    if (o->prefix_size > BITKV_KEY_SIZE_MAX)
        return bkv_error(BITKV_ERR_INVALID, "a prefix has up to %u bytes, not %zu",
                         BITKV_KEY_SIZE_MAX, o->prefix_size);
    return BITKV_OK;
}

static int check_options(bitkv_iterator_options *out, const bitkv_iterator_options *given)
{
    bitkv_iterator_options_init(out);
    if (given == NULL)
        return BITKV_OK;
    if (given->struct_size < offsetof(bitkv_iterator_options, reserved) ||
        given->struct_size > sizeof *out)
        return bkv_error(BITKV_ERR_INVALID,
                         "iterator options of %zu bytes: call bitkv_iterator_options_init() first",
                         given->struct_size);
    memcpy(out, given, given->struct_size);
    if ((out->flags & ~(unsigned)BITKV_SCAN_KEYS) != 0)
        return bkv_error(BITKV_ERR_INVALID, "unknown flags %#x of an iterator", out->flags);
    if (out->share >= out->shares)
        return bkv_error(BITKV_ERR_INVALID, "there is no share %u of %u: they count from 0",
                         out->share, out->shares);
    for (size_t i = 0; i < sizeof out->reserved / sizeof out->reserved[0]; i++) {
        if (out->reserved[i] != 0)
            return bkv_error(BITKV_ERR_INVALID, "a reserved iterator option is not zero: call "
                                                "bitkv_iterator_options_init() first");
    }
    return check_prefix(out);
}

static int make(bitkv_snapshot *snapshot, const bitkv_iterator_options *o, bitkv_iterator **out)
{
    bool all = o->partition == BITKV_ALL_PARTITIONS;
    if (!all && o->partition >= snapshot->partition_count)
        return bkv_error(BITKV_ERR_INVALID, "there is no partition %u, there are %u", o->partition,
                         snapshot->partition_count);
    bitkv_iterator *it = bkv_malloc(sizeof *it);
    if (it == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for an iterator");
    *it = (bitkv_iterator){
        .snapshot = snapshot,
        .share = o->share,
        .shares = o->shares,
        .partition = all ? 0 : o->partition,
        .end = all ? snapshot->partition_count : o->partition + 1,
    };
    int rc = bkv_walk_create(&it->walk, o->flags, o->prefix, o->prefix_size);
    if (rc != BITKV_OK) {
        bkv_mfree(it);
        return rc;
    }
    bkv_snapshot_ref(snapshot);
    *out = it;
    return BITKV_OK;
}

int bitkv_iterator_create(bitkv_iterator **iterator, bitkv_snapshot *snapshot,
                          const bitkv_iterator_options *options)
{
    if (iterator == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_iterator_create: no place for the iterator");
    *iterator = NULL;
    bitkv_iterator_options checked;
    int rc = check_options(&checked, options);
    struct bkv_epoch_slot *slot = NULL;
    struct bitkv *db;
    if (rc == BITKV_OK)
        rc = bkv_snapshot_enter(snapshot, &db, &slot);
    if (rc != BITKV_OK)
        return rc;
    rc = make(snapshot, &checked, iterator);
    bkv_epoch_exit(slot);
    return rc;
}

int bitkv_iterator_destroy(bitkv_iterator *iterator)
{
    if (iterator == NULL)
        return BITKV_OK;
    if (bkv_forked(iterator->snapshot->fork_generation))
        return bkv_error(BITKV_ERR_FORKED, "this iterator was created before a fork");
    bkv_walk_destroy(iterator->walk);
    bkv_snapshot_unref(iterator->snapshot);
    bkv_mfree(iterator);
    return BITKV_OK;
}

/* --- going on ----------------------------------------------------------------------- */

/* To the first table of the next partition that is of this share; false: that was
 * the last one. */
static bool next_partition(bitkv_iterator *it, const struct bitkv *db)
{
    it->walking = it->partition < it->end;
    if (!it->walking)
        return false;
    const struct bkv_partition_snapshot *part = &it->snapshot->partitions[it->partition];
    uint32_t before = it->tables;
    uint32_t first = it->share >= before ? it->share - before : it->share + it->shares - before;
    bkv_walk_begin(it->walk, db->partitions[it->partition], part, first, it->shares);
    it->tables = (uint32_t)(((uint64_t)before + bkv_partition_snapshot_tables(part)) % it->shares);
    it->partition++;
    return true;
}

static int step(bitkv_iterator *it, const struct bitkv *db, struct bkv_epoch_slot *slot,
                struct bkv_shown *shown)
{
    int rc = BITKV_NOT_FOUND;
    if (BKV_LIKELY(it->walking))
        rc = bkv_walk_next(it->walk, slot, shown);
    if (BKV_LIKELY(rc != BITKV_NOT_FOUND))
        return rc;
    return next_partition(it, db) ? BKV_WALK_PAUSE : BITKV_NOT_FOUND;
}

static inline int next(bitkv_iterator *it, struct bkv_shown *shown)
{
    int rc;
    do {
        struct bkv_epoch_slot *slot;
        struct bitkv *db;
        rc = bkv_snapshot_enter(it->snapshot, &db, &slot);
        if (BKV_UNLIKELY(rc != BITKV_OK))
            return rc;
        rc = step(it, db, slot, shown);
        bkv_epoch_exit(slot);
    } while (rc == BKV_WALK_PAUSE);
    if (BKV_LIKELY(rc == BITKV_OK))
        shown->record.deadline_ms = shown->deadline;
    if (BKV_UNLIKELY(rc == BITKV_NOT_FOUND)) {
        int failure = bkv_walk_failure(it->walk);
        rc = failure != BITKV_OK ? failure : rc;
    }
    return rc;
}

int bitkv_iterator_next(bitkv_iterator *iterator, bitkv_record *record)
{
    if (BKV_UNLIKELY(iterator == NULL || record == NULL))
        return bkv_error(BITKV_ERR_INVALID, "bitkv_iterator_next: no iterator, or no record");
    struct bkv_shown shown;
    int rc = next(iterator, &shown);
    if (BKV_LIKELY(rc == BITKV_OK))
        *record = shown.record;
    return rc;
}

/* --- scans -------------------------------------------------------------------------- */

static int check_scan(const char *function, unsigned flags, bitkv_scan_cb scan_cb)
{
    if (scan_cb != NULL && (flags & ~(unsigned)BITKV_SCAN_KEYS) == 0)
        return BITKV_OK;
    return bkv_error(BITKV_ERR_INVALID, "%s: no callback, or unknown flags %#x", function, flags);
}

static int scan(bitkv_snapshot *snapshot, unsigned flags, bitkv_scan_cb scan_cb, void *user)
{
    bitkv_iterator_options options;
    bitkv_iterator_options_init(&options);
    options.flags = flags;
    bitkv_iterator *it;
    int rc = bitkv_iterator_create(&it, snapshot, &options);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_shown shown;
    int answer = 0;
    while (answer == 0 && (rc = next(it, &shown)) == BITKV_OK)
        answer = scan_cb(user, &shown.record);
    (void)bitkv_iterator_destroy(it);
    if (answer != 0)
        return answer;
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

int bitkv_snapshot_scan(bitkv_snapshot *snapshot, unsigned flags, bitkv_scan_cb scan_cb, void *user)
{
    int rc = check_scan("bitkv_snapshot_scan", flags, scan_cb);
    return rc == BITKV_OK ? scan(snapshot, flags, scan_cb, user) : rc;
}

/* A long call, so that its callback is not able to wait for itself by closing the
 * database. */
int bitkv_scan(bitkv *db, unsigned flags, bitkv_scan_cb scan_cb, void *user)
{
    int rc = check_scan("bitkv_scan", flags, scan_cb);
    struct bkv_long_call call;
    if (rc == BITKV_OK)
        rc = bkv_long_begin(&call, db);
    if (rc != BITKV_OK)
        return rc;
    bitkv_snapshot *snapshot;
    rc = bitkv_snapshot_create(&snapshot, db);
    bkv_long_leave(&call);
    if (rc == BITKV_OK) {
        rc = scan(snapshot, flags, scan_cb, user);
        bkv_snapshot_unref(snapshot);
    }
    bkv_long_end(&call);
    return rc;
}
