/* SPDX-License-Identifier: MIT */
#include "partition/partition.h"

#include "base/error.h"
#include "base/memory.h"
#include "partition/state.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

void bkv_log(const struct bkv_store *store, bitkv_log_level level, const char *format, ...)
{
    if (store->options.log == NULL)
        return;
    char text[BKV_ERROR_CONTEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    store->options.log(store->options.log_user, level, text);
}

/* --- starting and stopping ------------------------------------------------------------ */

static void release(struct bkv_partition *p)
{
    bkv_segments_free(p);
    bkv_file_close(&p->directory);
    bkv_keydir_destroy(p->keydir);
    (void)pthread_cond_destroy(&p->open_wait);
    (void)pthread_mutex_destroy(&p->open_wait_mutex);
    (void)pthread_mutex_destroy(&p->layout_mutex);
    (void)pthread_mutex_destroy(&p->compact_mutex);
    (void)pthread_mutex_destroy(&p->open_mutex);
    (void)pthread_cond_destroy(&p->sync_done);
    (void)pthread_mutex_destroy(&p->sync_mutex);
    bkv_mfree(p);
}

void bkv_thread_signals(sigset_t *blocked)
{
    (void)sigfillset(blocked);
    (void)sigdelset(blocked, SIGBUS);
    (void)sigdelset(blocked, SIGSEGV);
    (void)sigdelset(blocked, SIGILL);
    (void)sigdelset(blocked, SIGFPE);
    (void)sigdelset(blocked, SIGABRT);
}

static int start_thread(struct bkv_partition *p)
{
    sigset_t all;
    sigset_t before;
    bkv_thread_signals(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&p->thread, NULL, bkv_worker_main, p);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return bkv_error_sys(error, "cannot start the thread of partition %u", p->index);
    p->thread_started = true;
    return BITKV_OK;
}

int bkv_partition_start(struct bkv_partition **out, struct bkv_store *store, uint32_t index)
{
    struct bkv_partition *p = bkv_alloc_aligned(sizeof *p);
    if (p == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for partition %u", index);
    p->store = store;
    p->index = index;
    p->directory = BKV_FILE_NONE;
    p->next_sequence = 1;
    p->next_id = 1;
    /* With default attributes these cannot fail on Linux. */
    (void)pthread_mutex_init(&p->sync_mutex, NULL);
    (void)pthread_cond_init(&p->sync_done, NULL);
    (void)pthread_mutex_init(&p->open_mutex, NULL);
    (void)pthread_mutex_init(&p->compact_mutex, NULL);
    (void)pthread_mutex_init(&p->layout_mutex, NULL);
    (void)pthread_mutex_init(&p->open_wait_mutex, NULL);
    (void)pthread_cond_init(&p->open_wait, NULL);
    int rc = bkv_keydir_create(&p->keydir);
    rc = rc == BITKV_OK ? start_thread(p)
                        : bkv_error(rc, "no memory for the KeyDir of partition %u", index);
    if (rc != BITKV_OK) {
        release(p);
        return rc;
    }
    *out = p;
    return BITKV_OK;
}

int bkv_partition_await(struct bkv_partition *p, enum bkv_opening stage)
{
    (void)pthread_mutex_lock(&p->open_wait_mutex);
    while (p->stage < stage) /* one that fails is reached, too, and the last to be awaited */
        (void)pthread_cond_wait(&p->open_wait, &p->open_wait_mutex);
    int rc = p->open_result;
    (void)pthread_mutex_unlock(&p->open_wait_mutex);
    if (rc != BITKV_OK)
        bkv_error_context_set(p->open_context);
    return rc;
}

void bkv_partition_leave(struct bkv_partition *p, enum bkv_opening stage)
{
    (void)pthread_mutex_lock(&p->open_wait_mutex);
    p->leave = stage;
    (void)pthread_cond_broadcast(&p->open_wait);
    (void)pthread_mutex_unlock(&p->open_wait_mutex);
}

int bkv_partition_stop(struct bkv_partition *p, bool clean)
{
    BKV_ASSERT(p->thread_started); /* or it had not been handed out */
    p->stop_clean = clean;
    (void)pthread_mutex_lock(&p->open_wait_mutex);
    atomic_store_explicit(&p->stopping, true, memory_order_release);
    (void)pthread_cond_broadcast(&p->open_wait); /* it may not have begun to work */
    (void)pthread_mutex_unlock(&p->open_wait_mutex);
    bkv_worker_wake(p);
    (void)pthread_join(p->thread, NULL);
    int rc = p->stop_result;
    if (rc != BITKV_OK)
        bkv_error_context_set(p->open_context);
    bkv_sync_abandon(p, rc == BITKV_OK && !clean ? BITKV_ERR_CLOSED : rc);
    release(p);
    return rc;
}

void bkv_partition_lock(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
}

void bkv_partition_unlock(struct bkv_partition *p)
{
    bkv_unlock(&p->lock);
}

/* --- statistics -------------------------------------------------------------------------- */

static void add_keys_and_segments(struct bkv_partition *p, bitkv_statistics *s)
{
    bkv_lock(&p->lock);
    (void)bkv_settle(p); /* or the figures are off by what memory was lacking for */
    s->keys += bkv_keydir_count(p->keydir);
    bkv_unlock(&p->lock);
    /* In the caller's epoch section: what is taken out leads on into the list. */
    for (const struct bkv_segment *g = atomic_load(&p->first); g != NULL;
         g = atomic_load(&g->next)) {
        uint64_t used = atomic_load(&g->size) - BKV_SEGMENT_HEADER;
        uint64_t live = bkv_min64(used, atomic_load(&g->live_bytes));
        s->segments++;
        s->live_bytes += live;
        s->dead_bytes += used - live;
        s->disk_bytes += atomic_load(&g->disk_bytes) + atomic_load(&g->hint_bytes);
    }
    s->disk_bytes += atomic_load(&p->checkpoint_bytes) + atomic_load(&p->reserve_bytes);
}

static void add_recovery(bitkv_recovery *sum, const struct bkv_partition *p)
{
    const bitkv_recovery *one = &p->recovery;
    bool torn = !atomic_load(&p->log_went_on);
    sum->duration_ns = bkv_max64(sum->duration_ns, one->duration_ns);
    sum->checkpoint_keys += one->checkpoint_keys;
    sum->hint_records += one->hint_records;
    sum->log_records += one->log_records;
    sum->log_bytes += one->log_bytes;
    sum->torn_tails += torn ? one->torn_tails : 0;
    sum->torn_tail_bytes += torn ? one->torn_tail_bytes : 0;
    sum->damaged_regions += one->damaged_regions;
    sum->damaged_bytes += one->damaged_bytes;
    sum->rejected_hints += one->rejected_hints;
    sum->rejected_checkpoints += one->rejected_checkpoints;
    sum->removed_files += one->removed_files;
}

void bkv_partition_stats(struct bkv_partition *p, bitkv_statistics *s)
{
    for (unsigned i = 0; i < BKV_STRIPES; i++) {
        s->gets_total += atomic_load(&p->stripes[i].gets);
        s->gets_miss_total += atomic_load(&p->stripes[i].misses);
        s->errors_total += atomic_load(&p->stripes[i].errors);
    }
    s->puts_total += atomic_load(&p->puts);
    s->deletes_total += atomic_load(&p->deletes);
    s->errors_total += atomic_load(&p->write_errors);
    s->bytes_written += atomic_load(&p->bytes_written);
    s->syncs_total += atomic_load(&p->syncs);
    s->checkpoints_total += atomic_load(&p->checkpoints);
    s->compactions_total += atomic_load(&p->compactions);
    s->compaction_bytes_read += atomic_load(&p->compact_read);
    s->compaction_bytes_written += atomic_load(&p->compact_written);
    s->expired_total += atomic_load(&p->expired);
    s->keydir_bytes += bkv_keydir_memory(p->keydir);
    s->segments_open += atomic_load(&p->open_count);
    /* `synced` first: it never passes `appended`. */
    uint64_t synced = atomic_load(&p->synced);
    s->unsynced_bytes += atomic_load(&p->appended) - synced;
    s->writes_refused += atomic_load(&p->failed) != 0;
    s->partitions++;
    add_keys_and_segments(p, s);
    add_recovery(&s->recovery, p);
}
