/* SPDX-License-Identifier: MIT */
/*
 * The end of a run: the output takes its inputs' place.
 *
 *   1. the log is synced: what made input records dead is durable
 *   2. the output and its hint are
 *   3. the checkpoint, which speaks of the inputs, is removed, durably
 *   4. the output gets its name, durably: from here on it is the log's, and the
 *      inputs are void, whatever comes (recovery.c, drop_superseded())
 *   5. the KeyDir: each key that still has the exact old location, when the output's
 *      pages have been faulted in for those who read the inputs
 *   6. the list; the inputs go (removal.c)
 *
 * 3 to 6 under layout_mutex, so that a checkpoint's locations and its table of
 * segments fit each other.
 *
 * Failure modes: before 4: nothing has changed but the missing checkpoint, which
 * only costs time at the next opening. In 5 and 6 the KeyDir may want memory (a
 * snapshot is open): the run is left as it is then (bkv_partition.unmoved). Its
 * output is the log's, what is not moved is read from the inputs, which stay in
 * the list. It is gone on with before the next run, which could else take the same
 * inputs, and before a checkpoint, whose table would have those that an opening
 * removes. A close without it loses nothing: the files say all.
 */
#include "partition/compact.h"

#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "io/io.h"
#include "log/filename.h"

#include <sys/mman.h>

/* Keys that are moved in one go under the lock. */
#define BATCH 32u
/* Faulted in by one call. */
#define FAULT_BYTES (1u << 20)

/* A run whose output has its name. */
struct bkv_unmoved {
    struct bkv_run run;
    struct bkv_segment *output;
    struct bkv_move *moves;
    size_t count;
    size_t done; /* the moves before are made */
    uint64_t written;
};

static int drop_checkpoint(struct bkv_partition *p)
{
    p->checkpoint_valid = false;
    if (atomic_load(&p->checkpoint_bytes) == 0)
        return BITKV_OK;
    char name[BKV_NAME_SIZE];
    bkv_name_checkpoint(name, p->index);
    int rc = bkv_dir_unlink(&p->store->dir, name);
    if (rc == BITKV_OK)
        rc = bkv_directory_sync(p);
    if (rc == BITKV_OK) /* not before: the next run has to sync, too */
        atomic_store(&p->checkpoint_bytes, 0);
    return rc;
}

/* The output is known by its final name; the inputs are void. */
static int give_name(const struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    char temporary[BKV_NAME_SIZE];
    char final[BKV_NAME_SIZE];
    bkv_compact_output_name(temporary, p, c->output->id);
    bkv_name_data(final, p->index, c->output->id);
    int rc = bkv_dir_rename(&p->store->dir, temporary, final);
    bool known = rc != BITKV_OK;
    if (rc == BITKV_OK)
        rc = bkv_directory_sync(p);
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
    c->hint_open = false;                                   /* finish cleans up by itself */
    c->hint.info.first_sequence = c->output->base_sequence; /* should the header be lost */
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
    bkv_segment_number_free(p, c->output->number);
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
static int move_one(struct bkv_partition *p, const struct bkv_unmoved *u,
                    const struct bkv_move *move)
{
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
    uint64_t to = bkv_location(u->output->number, 0, 0) | bkv_entry_location(&entry);
    int rc = bkv_keydir_replace(p->keydir, &hash, move->from, to);
    if (rc == BITKV_OK) {
        bkv_account(p, move->from, false);
        bkv_account(p, to, true);
    }
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
}

/* The next moves, in an epoch section, for the prefetch. */
static int move_some(struct bkv_partition *p, struct bkv_unmoved *u)
{
    size_t end = u->count - u->done < BATCH ? u->count : u->done + BATCH;
    for (size_t i = u->done; i < end; i++) {
        struct bkv_hash hash = hash_of(&u->moves[i]);
        bkv_keydir_prefetch_line(p->keydir, &hash);
    }
    bkv_lock(&p->lock);
    int rc = bkv_settle(p);
    while (rc == BITKV_OK && u->done < end) {
        rc = move_one(p, u, &u->moves[u->done]);
        u->done += rc == BITKV_OK;
    }
    bkv_unlock(&p->lock);
    return rc;
}

static int move_keys(struct bkv_partition *p, struct bkv_unmoved *u)
{
    int rc = BITKV_OK;
    while (rc == BITKV_OK && u->done < u->count) {
        struct bkv_epoch_slot *slot = bkv_epoch_enter_again(); /* the caller has been in one */
        rc = move_some(p, u);
        bkv_epoch_exit(slot);
        BKV_SCHEDULE_POINT("compact.moved_some");
    }
    return rc;
}

struct strays {
    struct bkv_partition *p;
    const struct bkv_run *run;
};

static bool is_stray(void *user, uint64_t location)
{
    const struct strays *strays = user;
    for (uint32_t i = 0; i < strays->run->count; i++) {
        if (bkv_location_segment(location) == strays->run->segments[i]->number) {
            bkv_account(strays->p, location, false);
            return true;
        }
    }
    return false;
}

/* What every record of the inputs has left, all of their live bytes have left, too.
 * But in an index that somebody has forged, checksums and all, a key may have the
 * place of another one's record, or none that a record begins at: no run moves it,
 * no get finds it, and it must not point into files that are gone. *removed is how
 * many there were. */
static int remove_strays(struct bkv_partition *p, const struct bkv_run *run, uint64_t *removed)
{
    uint64_t live = 0;
    for (uint32_t i = 0; i < run->count; i++)
        live |= atomic_load_explicit(&run->segments[i]->live_bytes, memory_order_relaxed);
    if (BKV_LIKELY(live == 0))
        return BITKV_OK;
    struct strays strays = {.p = p, .run = run};
    return bkv_keydir_sweep(p->keydir, is_stray, &strays, removed);
}

/* A deferred put leaves the old location in the KeyDir's table: settled once
 * more, no slot has a location of the inputs. */
static int replace_in_list(struct bkv_partition *p, const struct bkv_unmoved *u)
{
    uint64_t strays = 0;
    bkv_lock(&p->lock);
    int rc = bkv_settle(p);
    if (rc == BITKV_OK)
        rc = remove_strays(p, &u->run, &strays);
    if (rc == BITKV_OK)
        bkv_segments_replace(p, &u->run, u->output);
    bkv_unlock(&p->lock);
    if (strays > 0)
        bkv_log(p->store, BITKV_LOG_WARNING,
                "%llu keys of partition %u pointed at no record of theirs in what data_%llu.db "
                "replaces; they are absent",
                (unsigned long long)strays, p->index, (unsigned long long)u->output->id);
    return rc;
}

/* --- readers ------------------------------------------------------------------- */

/* Those who read the inputs through their mappings would fault the output's pages
 * in, one get in some hundreds for a few microseconds each: this thread does it for
 * them, while the pages are sure to be in memory. */
static void fault_in(struct bkv_compaction *c)
{
    struct bkv_mapping *mapping;
    bool read = false;
    for (uint32_t i = 0; i < c->run->count; i++)
        read |= atomic_load_explicit(&c->run->segments[i]->open, memory_order_relaxed) != NULL;
    if (!read || bkv_segment_pin(c->p, c->output, &mapping) != BITKV_OK)
        return;
    for (size_t at = 0; mapping->base != NULL && at < mapping->size; at += FAULT_BYTES) {
        size_t size = mapping->size - at < FAULT_BYTES ? mapping->size - at : FAULT_BYTES;
        if (bkv_io->madvise(mapping->base + at, size, MADV_POPULATE_READ) != 0)
            break; /* advice: no kernel has to know it */
    }
    bkv_mapping_unref(mapping);
}

/* --- the whole ------------------------------------------------------------------------- */

static void account(struct bkv_partition *p, const struct bkv_unmoved *u)
{
    atomic_fetch_add_explicit(&p->compactions, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->compact_read, u->run.input_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->compact_written, u->written, memory_order_relaxed);
}

static void forget(struct bkv_partition *p)
{
    bkv_mfree(p->unmoved->moves);
    bkv_mfree(p->unmoved);
    p->unmoved = NULL;
}

int bkv_install_go_on(struct bkv_partition *p)
{
    struct bkv_unmoved *u = p->unmoved;
    if (u == NULL)
        return BITKV_OK;
    BKV_SCHEDULE_POINT("compact.named");
    int rc = move_keys(p, u);
    if (rc == BITKV_OK)
        rc = replace_in_list(p, u);
    if (rc != BITKV_OK)
        return bkv_error(rc,
                         "the KeyDir of partition %u cannot take in data_%llu.db, which compaction "
                         "has made; it is tried again, and the files that it replaces stay",
                         p->index, (unsigned long long)u->output->id);
    BKV_SCHEDULE_POINT("compact.replaced");
    account(p, u);
    forget(p);
    atomic_store(&p->reclaim_asked, true);
    bkv_worker_wake(p);
    return BITKV_OK;
}

int bkv_compact_go_on(struct bkv_partition *p)
{
    (void)pthread_mutex_lock(&p->layout_mutex);
    int rc = bkv_install_go_on(p);
    (void)pthread_mutex_unlock(&p->layout_mutex);
    return rc;
}

struct bkv_segment *bkv_install_give_up(struct bkv_partition *p)
{
    if (p->unmoved == NULL)
        return NULL;
    struct bkv_segment *output = p->unmoved->output;
    forget(p);
    return output;
}

/* Steps 3 and 4, all that can fail for good. */
static int put_in_place(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    struct bkv_unmoved *u = bkv_malloc(sizeof *u);
    if (u == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to compact partition %u", p->index);
    int rc = take_number(c);
    if (rc == BITKV_OK) {
        rc = drop_checkpoint(p);
        if (rc == BITKV_OK)
            rc = give_name(c);
        if (rc != BITKV_OK)
            give_number_back(c);
    }
    if (rc != BITKV_OK) {
        bkv_mfree(u);
        return rc;
    }
    *u = (struct bkv_unmoved){
        .run = *c->run,
        .output = c->output,
        .moves = c->moves,
        .count = c->move_count,
        .written = c->written,
    };
    c->moves = NULL;
    c->move_count = c->move_capacity = 0;
    p->unmoved = u;
    return BITKV_OK;
}

int bkv_compact_install(struct bkv_compaction *c)
{
    struct bkv_partition *p = c->p;
    int rc = make_durable(c);
    if (rc != BITKV_OK)
        return rc;
    (void)pthread_mutex_lock(&p->layout_mutex);
    rc = put_in_place(c);
    bool named = rc == BITKV_OK;
    if (named) {
        fault_in(c);
        rc = bkv_install_go_on(p);
    }
    if (named && rc != BITKV_OK)
        bkv_segment_ref(c->output); /* the caller gives up his */
    (void)pthread_mutex_unlock(&p->layout_mutex);
    if (!named) {
        char name[BKV_NAME_SIZE];
        bkv_name_hint(name, p->index, c->output->id);
        (void)bkv_dir_unlink(&p->store->dir, name);
    }
    return rc;
}
