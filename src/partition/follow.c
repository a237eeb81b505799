/* SPDX-License-Identifier: MIT */
/*
 * Following a writer: a read-only opening takes in what another process has
 * written since. It takes no lock that the writer knows of and changes nothing:
 * files are all that the two share. What makes that safe:
 *
 *   - a record proves itself, and a writer completes a partition's records in
 *     order: what verifies, with the next sequence number, is the log
 *   - a segment's header is written when its predecessor is complete
 *   - compaction's output gets its name when it and its hint are whole, and stands
 *     for a range of sequence numbers (docs/format.md): that alone says which
 *     segments it replaces; their files stay until then
 *   - file ids are not used twice while a follower could know them
 *
 * A refresh goes through all partitions in steps:
 *
 *   1. list   every directory, and the headers of files that are new; all once
 *             more, until no output came meanwhile
 *   2. look   how far each log can be read now
 *   3. decide which of that is shown: a batch as a whole or not at all
 *   4. take   it in: keys that compaction has moved, then the new records in
 *             order, then what compaction has dropped goes
 *
 * Everything that 1 has seen was caused by records that 2 can read: if an output
 * lacks a key since that was overwritten, 2 finds what it was overwritten with.
 *
 * Readers run beside it; I1 to I5 (state.h) hold for them as beside a writer. One
 * that finds a segment's file gone refreshes by itself, and looks again.
 *
 * Failure modes: files that vanish meanwhile, or do not fit together: all is
 * read again, some times. If it stays so, the log is not the one that was opened
 * (a restored copy, a tail that a power cut took): BITKV_ERR_STALE, and what was
 * there is served on. After any failure the next refresh goes on where this one
 * ended; a batch may be visible in part until then.
 */
#include "partition/follow.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

#include <bitkv.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ATTEMPTS_MAX 12u

/* Passes through all directories in which compaction may get in between. */
#define PASSES_MAX 16u

static int stale(const struct bkv_store *store, const char *why)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", why);
    return bkv_error(BITKV_ERR_STALE, "%s: %.300s; open it again", store->dir.path, context);
}

/* Is it still the database that was opened? */
int bkv_store_check_identity(struct bkv_store *store)
{
    struct bkv_manifest now;
    int rc = bkv_manifest_read(&store->dir, &now);
    if (rc == BITKV_NOT_FOUND || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT)
        return stale(store, "its MANIFEST is gone, or another");
    if (rc != BITKV_OK)
        return rc;
    if (memcmp(now.database_id, store->manifest.database_id, sizeof now.database_id) != 0 ||
        now.partitions != store->manifest.partitions)
        return stale(store, "another database is in its place");
    return BITKV_OK;
}

/* --- step 1 -------------------------------------------------------------------------- */

/* *outputs: some are not known yet. *changed: some were named since the last pass. */
static int list_each(struct bkv_follow *all, uint32_t count, bool *outputs, bool *changed)
{
    *outputs = *changed = false;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t before = all[i].newest_output;
        int rc = bkv_follow_list(&all[i]);
        if (rc != BITKV_OK)
            return rc;
        *outputs |= all[i].output_new;
        *changed |= all[i].newest_output != before;
    }
    return BITKV_OK;
}

/* What a compacted segment stands for is not read any more, a batch's part in it is
 * just there: so all lists have to be of a time when it had its name already, or
 * the other parts may lie in files that they do not have. */
static int list_all(struct bkv_follow *all, uint32_t count)
{
    bool outputs = true;
    bool changed = true;
    for (unsigned pass = 0; outputs && changed; pass++) {
        if (pass == PASSES_MAX)
            return bkv_error(BKV_READ_AGAIN, "the files change faster than they are listed");
        int rc = list_each(all, count, &outputs, &changed);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

/* --- step 3 -------------------------------------------------------------------------- */

/* As in batch_recovery.c: a log is a prefix, so it holds a part if it reaches up to
 * its last number. */
static bool peer_is_there(const struct bkv_follow *all, uint32_t count,
                          const struct bkv_follow_peer *peer)
{
    return peer->partition < count && all[peer->partition].limit >= peer->sequence &&
           all[peer->partition].limit - peer->sequence >= peer->count;
}

static bool is_whole(const struct bkv_follow *all, uint32_t count, const struct bkv_follow *f,
                     const struct bkv_follow_group *group)
{
    for (uint32_t k = 0; k < group->peers; k++) {
        if (!peer_is_there(all, count, &f->peers[group->first_peer + k]))
            return false;
    }
    return true;
}

/* Ends the log before the first group that is not there as a whole. */
static bool lower(const struct bkv_follow *all, uint32_t count, struct bkv_follow *f)
{
    for (size_t i = 0; i < f->group_count; i++) {
        if (!is_whole(all, count, f, &f->groups[i])) {
            f->limit = f->groups[i].sequence - 1;
            f->group_count = i;
            return true;
        }
    }
    return false;
}

static void decide(struct bkv_follow *all, uint32_t count)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < count; i++)
            changed |= lower(all, count, &all[i]);
    }
}

/* --- the whole ------------------------------------------------------------------------ */

static int go_through(struct bkv_follow *all, uint32_t count)
{
    int rc = list_all(all, count);
    for (uint32_t i = 0; i < count && rc == BITKV_OK; i++)
        rc = bkv_follow_look(&all[i]);
    if (rc == BITKV_OK)
        decide(all, count);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_store *store = all[0].p->store;
    store->torn = true;
    for (uint32_t i = 0; i < count && rc == BITKV_OK; i++)
        rc = bkv_follow_take(&all[i]);
    store->torn = rc != BITKV_OK;
    return rc;
}

static int refresh_once(struct bkv_store *store)
{
    uint32_t count = store->manifest.partitions;
    int rc = bkv_store_check_identity(store);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_follow *all = bkv_calloc(count, sizeof *all);
    if (all == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to refresh");
    for (uint32_t i = 0; i < count; i++)
        all[i].p = store->partitions[i];
    rc = go_through(all, count);
    for (uint32_t i = 0; i < count; i++) {
        bkv_mfree(all[i].items);
        bkv_mfree(all[i].groups);
        bkv_mfree(all[i].peers);
    }
    bkv_mfree(all);
    return rc;
}

/* What looked like a torn tail was a record on its way. */
static void note_progress(struct bkv_store *store)
{
    for (uint32_t i = 0; i < store->manifest.partitions; i++) {
        struct bkv_partition *p = store->partitions[i];
        if (p->followed.sequence != p->followed.opened_sequence)
            atomic_store(&p->log_went_on, true);
    }
}

static int refresh_locked(struct bkv_store *store)
{
    atomic_fetch_add(&store->refreshes, 1);
    int rc = refresh_once(store);
    for (unsigned i = 1; rc == BKV_READ_AGAIN && i < ATTEMPTS_MAX; i++) {
        bkv_sleep_us(i * i * 100);
        rc = refresh_once(store);
    }
    note_progress(store);
    return rc == BKV_READ_AGAIN ? stale(store, bitkv_error_context()) : rc;
}

int bkv_store_catch_up(struct bkv_store *store)
{
    int rc = bkv_store_refresh(store);
    for (uint32_t i = 0; i < store->manifest.partitions; i++) {
        const struct bkv_partition *p = store->partitions[i];
        if (p->recovery.torn_tails > 0 && !atomic_load(&p->log_went_on))
            bkv_log(store, BITKV_LOG_INFO,
                    "%s/partition_%" PRIu32 ": the end of the log does not verify: a write on its "
                    "way, or the unsynced tail of a crash",
                    store->dir.path, p->index);
    }
    return rc == BITKV_ERR_STALE ? BITKV_OK : rc;
}

int bkv_store_refresh(struct bkv_store *store)
{
    (void)pthread_mutex_lock(&store->refresh_mutex);
    int rc = refresh_locked(store);
    (void)pthread_mutex_unlock(&store->refresh_mutex);
    return rc;
}

int bkv_store_moment_begin(struct bkv_store *store)
{
    if (!store->options.read_only)
        return BITKV_OK;
    (void)pthread_mutex_lock(&store->refresh_mutex);
    return store->torn ? refresh_locked(store) : BITKV_OK;
}

void bkv_store_moment_end(struct bkv_store *store)
{
    if (store->options.read_only)
        (void)pthread_mutex_unlock(&store->refresh_mutex);
}

void bkv_store_refresh_since(struct bkv_store *store, uint64_t refreshes)
{
    (void)pthread_mutex_lock(&store->refresh_mutex);
    if (atomic_load(&store->refreshes) == refreshes)
        (void)refresh_locked(store);
    (void)pthread_mutex_unlock(&store->refresh_mutex);
}
