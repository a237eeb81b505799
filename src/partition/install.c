/* SPDX-License-Identifier: MIT */
/*
 * The end of a run: the output takes its inputs' place.
 *
 *   1. the log is synced: what made input records dead is durable
 *   2. the output and its hint are
 *   3. the checkpoint, which speaks of the inputs, is removed, durably
 *   4. the output gets its name, durably: from here on it is the log's, and the
 *      inputs are void, whatever comes (recovery.c, drop_superseded())
 *   5. the KeyDir: each key that still has the exact old location
 *   6. the list; the inputs go (removal.c)
 *
 * 3 to 6 under layout_mutex, so that a checkpoint's locations and its table of
 * segments fit each other.
 *
 * Failure modes: before 4: nothing has changed but the missing checkpoint, which
 * only costs time at the next opening. In 5 the KeyDir may want memory (a
 * snapshot is open): then it is asked again until it has some; what is not
 * moved is read from the inputs meanwhile.
 */
#include "partition/compact.h"

#include "base/clock.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"

/* Keys that are moved in one go under the lock. */
#define BATCH 32u

static int drop_checkpoint(struct bkv_partition *p)
{
    p->checkpoint_valid = false;
    if (atomic_load(&p->checkpoint_bytes) == 0)
        return BITKV_OK;
    char name[BKV_NAME_SIZE];
    bkv_name_checkpoint(name, p->index);
    int rc = bkv_dir_unlink(&p->store->dir, name);
    if (rc != BITKV_OK)
        return rc;
    atomic_store(&p->checkpoint_bytes, 0);
    bkv_name_partition(name, p->index);
    return bkv_dir_sync(&p->store->dir, name);
}

/* The output is known by its final name; the inputs are void. */
static int give_name(const struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    char temporary[BKV_NAME_SIZE];
    char final[BKV_NAME_SIZE];
    char directory[BKV_NAME_SIZE];
    bkv_compact_output_name(temporary, p, c->output->id);
    bkv_name_data(final, p->index, c->output->id);
    bkv_name_partition(directory, p->index);
    int rc = bkv_dir_rename(&p->store->dir, temporary, final);
    bool known = rc != BITKV_OK;
    if (rc == BITKV_OK)
        rc = bkv_dir_sync(&p->store->dir, directory);
    /* Should it stay or come back: it is right, too. But another run of a part of its
     * inputs would not be: recovery could not tell which of the two is void. */
    if (rc != BITKV_OK && (bkv_dir_unlink(&p->store->dir, final) != BITKV_OK || !known))
        rc = bkv_sync_failed(p);
    return rc;
}

/* The end of all that the KeyDir may have shown to this run: a writer shows its
 * record first, and counts it then, both under the lock. */
static uint64_t end_of_log(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    uint64_t end = atomic_load_explicit(&p->appended, memory_order_relaxed);
    bkv_unlock(&p->lock);
    return end;
}

static int make_durable(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    uint64_t hint_bytes;
    int rc = bkv_sync_upto(p, end_of_log(p));
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&c->file);
    if (rc != BITKV_OK)
        return rc;
    c->hint_open = false; /* finish cleans up by itself */
    rc = bkv_hint_finish(&c->hint, c->written, c->output->last_sequence, &hint_bytes);
    if (rc == BITKV_OK) {
        atomic_store(&c->output->hint_bytes, hint_bytes);
        c->output->summary = c->hint.info.summary;
        c->output->lasting = c->output->summary.expiring_bytes == 0;
    }
    return rc;
}

static int take_number(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    struct bkv_segment *output = c->output;
    atomic_store(&output->disk_bytes, c->written);
    atomic_store(&output->entry_synced, true);
    output->kept_bytes = c->kept_tombstones;
    output->kept_at = p->removals + c->run->count;
    atomic_store_explicit(&output->phase, BKV_PHASE_FINISHED, memory_order_release);
    bkv_lock(&p->lock);
    int rc = bkv_segment_number(p, output);
    bkv_unlock(&p->lock);
    return rc;
}

static void give_number_back(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    (void)bkv_segment_close(p, c->output);
    bkv_lock(&p->lock);
    (void)bkv_segment_number_free(p, c->output->number);
    bkv_unlock(&p->lock);
}

/* --- 5: the KeyDir ------------------------------------------------------------------ */

static struct bkv_hash hash_of(const struct bkv_move *move)
{
    struct bkv_entry entry = {.lo = move->lo, .packed = move->to};
    return bkv_entry_hash(&entry);
}

/* Under the lock. Only a key that has just this location: what was put or
 * deleted since stays so. */
static int move_one(struct bkv_compaction *c, const struct bkv_move *move)
{
    struct bkv_partition *p = c->p;
    struct bkv_entry entry = {.lo = move->lo, .packed = move->to};
    struct bkv_hash hash = bkv_entry_hash(&entry);
    if (bkv_entry_type(&entry) == BKV_RECORD_NONE) {
        int rc = bkv_keydir_remove_exact(p->keydir, &hash, move->from);
        if (rc == BITKV_OK) {
            bkv_account(p, move->from, false);
            atomic_fetch_add_explicit(&p->expired, 1, memory_order_relaxed);
        }
        return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
    }
    uint64_t to = bkv_location(c->output->number, 0, 0) | bkv_entry_location(&entry);
    int rc = bkv_keydir_replace(p->keydir, &hash, move->from, to);
    if (rc == BITKV_OK) {
        bkv_account(p, move->from, false);
        bkv_account(p, to, true);
    }
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

/* Some moves from `first` on; *done of them went through. */
static int move_some(struct bkv_compaction *c, size_t first, size_t count, size_t *done)
{
    struct bkv_partition *p = c->p;
    *done = 0;
    for (size_t i = 0; i < count; i++) {
        struct bkv_hash hash = hash_of(&c->moves[first + i]);
        bkv_keydir_prefetch_line(p->keydir, &hash);
    }
    bkv_lock(&p->lock);
    int rc = bkv_settle(p);
    while (rc == BITKV_OK && *done < count) {
        rc = move_one(c, &c->moves[first + *done]);
        *done += rc == BITKV_OK;
    }
    bkv_unlock(&p->lock);
    return rc;
}

static void move_keys(struct bkv_compaction *c)
{
    size_t at = 0;
    while (at < c->move_count) {
        size_t left = c->move_count - at;
        size_t done;
        struct bkv_epoch_slot *slot = bkv_epoch_enter(); /* for the prefetch */
        int rc = slot != NULL ? move_some(c, at, left < BATCH ? left : BATCH, &done)
                              : BITKV_ERR_NO_MEMORY;
        if (slot != NULL) {
            bkv_epoch_exit(slot);
            at += done;
        }
        if (rc != BITKV_OK)
            bkv_sleep_us(1000);
    }
}

/* A deferred put leaves the old location in the KeyDir's table: settled once
 * more, no slot has a location of the inputs. */
static void replace_in_list(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    for (;;) {
        bkv_lock(&p->lock);
        int rc = bkv_settle(p);
        if (rc == BITKV_OK)
            bkv_segments_replace(p, c->run, c->output);
        bkv_unlock(&p->lock);
        if (rc == BITKV_OK)
            return;
        bkv_sleep_us(1000);
    }
}

/* --- the whole ------------------------------------------------------------------------- */

static void account(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    atomic_fetch_add_explicit(&p->compactions, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->compact_read, c->run->input_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->compact_written, c->written, memory_order_relaxed);
}

int bkv_compact_install(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    int rc = make_durable(c);
    if (rc != BITKV_OK)
        return rc;
    (void)pthread_mutex_lock(&p->layout_mutex);
    rc = take_number(c);
    if (rc == BITKV_OK) {
        rc = drop_checkpoint(p);
        if (rc == BITKV_OK)
            rc = give_name(c);
        if (rc != BITKV_OK)
            give_number_back(c);
    }
    if (rc == BITKV_OK) {
        move_keys(c);
        replace_in_list(c);
        atomic_store(&p->reclaim_asked, true);
        bkv_worker_wake(p);
        account(c);
    }
    (void)pthread_mutex_unlock(&p->layout_mutex);
    if (rc != BITKV_OK) {
        char name[BKV_NAME_SIZE];
        bkv_name_hint(name, p->index, c->output->id);
        (void)bkv_dir_unlink(&p->store->dir, name);
    }
    return rc;
}
