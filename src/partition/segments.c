/* SPDX-License-Identifier: MIT */
/*
 * The table of segments, and which of them are open.
 *
 * A FINISHED segment is opened by the first reader that needs it, and closed
 * when more than the limit are open: the clock algorithm (Corbato, 1968), the
 * usual approximation of LRU, since readers may not take a lock to move list
 * entries. A reader marks the segment, the hand clears marks and closes the
 * first FINISHED segment that has none.
 *
 * A segment that recovery found may be closed before it is FINISHED, too.
 *
 * Closing: `open` is set to NULL, so that no new reader finds the mapping, and
 * the table's reference to it is dropped once every reader of that moment has
 * left. Views hold references of their own.
 *
 * A reader that finds `open` NULL leaves its epoch section (or it would wait
 * for itself), pins the segment here, and looks its key up again: the pinned
 * reference keeps the file even if it is evicted in between.
 *
 * Failure modes: a file that can't be opened is the reader's error, nothing
 * else changes. At EMFILE, what can be closed is closed, and the open tried
 * again as long as descriptors of closed files wait for their readers to leave.
 */
#include "partition/state.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "io/io.h"
#include "log/filename.h"

#include <fcntl.h>
#include <sys/mman.h>

/* How often a reader that gets no descriptor tries again, 0.2 ms apart: while
 * closed files wait for their readers, and at least, for those of siblings. */
#define DESCRIPTOR_WAITS_MAX 5000u
#define DESCRIPTOR_WAITS_MIN 50u

struct bkv_segment *bkv_segment_new(struct bkv_partition *p, uint64_t id)
{
    struct bkv_segment *segment = bkv_calloc(1, sizeof *segment);
    if (segment == NULL) {
        (void)bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a segment");
        return NULL;
    }
    segment->id = id;
    segment->seed = bkv_segment_seed(p->store->manifest.database_id, p->index, id);
    atomic_init(&segment->size, BKV_SEGMENT_HEADER);
    atomic_init(&segment->refs, 1);
    return segment;
}

void bkv_segment_unref(struct bkv_segment *segment)
{
    if (segment != NULL && atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) == 1)
        bkv_mfree(segment);
}

static int table_put(struct bkv_table *table, struct bkv_segment *segment)
{
    struct bkv_segment *_Atomic *_Atomic *slot = &table->chunks[segment->number / BKV_TABLE_FANOUT];
    struct bkv_segment *_Atomic *chunk = atomic_load_explicit(slot, memory_order_relaxed);
    if (chunk == NULL) {
        chunk = bkv_calloc(BKV_TABLE_FANOUT, sizeof *chunk);
        if (chunk == NULL)
            return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for the table of segments");
        atomic_store_explicit(slot, chunk, memory_order_release);
    }
    atomic_store_explicit(&chunk[segment->number % BKV_TABLE_FANOUT], segment,
                          memory_order_release);
    return BITKV_OK;
}

/* One of a segment that is gone, or the next. */
int bkv_segment_number(struct bkv_partition *p, struct bkv_segment *segment)
{
    bool again = p->free_count > 0;
    segment->number = again ? p->free_numbers[p->free_count - 1]
                            : atomic_load_explicit(&p->next_number, memory_order_relaxed);
    int rc = bkv_segment_number_at(p, segment);
    if (rc == BITKV_OK && again)
        p->free_count--;
    return rc;
}

/* Room for all numbers up to this one, so that none is lost when it is given back. */
static int reserve_free(struct bkv_partition *p, uint32_t number)
{
    if (number < p->free_capacity)
        return BITKV_OK;
    uint32_t capacity = number < 32 ? 64 : 2 * number;
    uint32_t *larger = bkv_realloc(p->free_numbers, capacity * sizeof *larger);
    if (larger == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for segment numbers");
    p->free_numbers = larger;
    p->free_capacity = capacity;
    return BITKV_OK;
}

int bkv_segment_number_at(struct bkv_partition *p, struct bkv_segment *segment)
{
    if (segment->number >= BKV_SEGMENTS_MAX)
        return bkv_error(BITKV_ERR_LIMIT, "partition %u has %u segments; raise max_file_size",
                         p->index, BKV_SEGMENTS_MAX);
    int rc = reserve_free(p, segment->number);
    if (rc == BITKV_OK)
        rc = table_put(&p->table, segment);
    if (rc != BITKV_OK)
        return rc;
    /* release: who sees the number finds the segment in the table */
    if (segment->number >= atomic_load_explicit(&p->next_number, memory_order_relaxed))
        atomic_store_explicit(&p->next_number, segment->number + 1, memory_order_release);
    return BITKV_OK;
}

void bkv_segment_number_free(struct bkv_partition *p, uint32_t number)
{
    BKV_ASSERT(p->free_count < p->free_capacity);
    p->free_numbers[p->free_count++] = number;
}

static void append_to_list(struct bkv_partition *p, struct bkv_segment *segment)
{
    if (p->last != NULL)
        atomic_store_explicit(&p->last->next, segment, memory_order_release);
    else
        atomic_store_explicit(&p->first, segment, memory_order_release);
    p->last = segment;
}

int bkv_segment_install(struct bkv_partition *p, struct bkv_segment *segment)
{
    int rc = bkv_segment_number(p, segment);
    if (rc == BITKV_OK)
        append_to_list(p, segment);
    return rc;
}

int bkv_segment_install_at(struct bkv_partition *p, struct bkv_segment *segment)
{
    int rc = bkv_segment_number_at(p, segment);
    if (rc == BITKV_OK)
        append_to_list(p, segment);
    return rc;
}

static void forget_number(struct bkv_partition *p, uint32_t number)
{
    struct bkv_segment *_Atomic *chunk = atomic_load(&p->table.chunks[number / BKV_TABLE_FANOUT]);
    atomic_store(&chunk[number % BKV_TABLE_FANOUT], NULL);
}

void bkv_segment_uninstall_last(struct bkv_partition *p, struct bkv_segment *before)
{
    struct bkv_segment *segment = p->last;
    BKV_ASSERT(before != NULL ? before->next == segment : p->first == segment);
    forget_number(p, segment->number);
    bkv_segment_number_free(p, segment->number);
    if (before != NULL)
        before->next = NULL;
    else
        p->first = NULL;
    p->last = before;
    bkv_segment_unref(segment);
}

/* --- holds ---------------------------------------------------------------------- */

void bkv_hold_begin(struct bkv_partition *p, struct bkv_hold *hold)
{
    *hold = (struct bkv_hold){.removals = p->removals, .next = p->holds};
    if (p->holds != NULL)
        p->holds->previous = hold;
    p->holds = hold;
}

void bkv_hold_end(struct bkv_partition *p, struct bkv_hold *hold)
{
    bkv_lock(&p->lock);
    if (hold->next != NULL)
        hold->next->previous = hold->previous;
    if (hold->previous != NULL)
        hold->previous->next = hold->next;
    else
        p->holds = hold->next;
    bool removed = p->removed != NULL;
    bkv_unlock(&p->lock);
    if (removed) {
        atomic_store(&p->reclaim_asked, true);
        bkv_worker_wake(p);
    }
}

/* --- retiring: under open_mutex ------------------------------------------------- */

static enum bkv_retirement reclaim(struct bkv_partition *p)
{
    enum bkv_retirement left = BKV_RETIRED_NONE;
    for (struct bkv_retired **link = &p->retired; *link != NULL;) {
        struct bkv_retired *r = *link;
        bool passed = bkv_epoch_passed(r->stamp);
        /* Who holds a reference of his own may do so until after the closing,
         * which has to find the descriptors: see let_go(). Asked in this order:
         * until the readers have left, they may take references. */
        if (passed && atomic_load_explicit(&r->mapping->refs, memory_order_acquire) == 1) {
            *link = r->next;
            bkv_mapping_unref(r->mapping);
            bkv_mfree(r);
        } else {
            enum bkv_retirement why = passed ? BKV_RETIRED_HELD : BKV_RETIRED_READ;
            left = why > left ? why : left;
            link = &r->next;
        }
    }
    return left;
}

static bool close_segment(struct bkv_partition *p, struct bkv_segment *segment)
{
    struct bkv_retired *r = bkv_malloc(sizeof *r);
    if (r == NULL)
        return false; /* stays open: over the limit rather than unsafe */
    r->mapping = atomic_load_explicit(&segment->open, memory_order_relaxed);
    atomic_store_explicit(&segment->open, NULL, memory_order_seq_cst);
    BKV_SCHEDULE_POINT("evict.closed");
    r->stamp = bkv_epoch_stamp();
    r->next = p->retired;
    p->retired = r;
    atomic_fetch_sub_explicit(&p->open_count, 1, memory_order_relaxed);
    return true;
}

/* Its descriptor is for writing and syncing, not only for readers (I6). */
static bool in_use(const struct bkv_segment *segment)
{
    if (segment->kept_open > 0)
        return true;
    return atomic_load(&segment->written) &&
           atomic_load_explicit(&segment->phase, memory_order_acquire) != BKV_PHASE_FINISHED;
}

/* Advances the hand to the next segment that may be closed, and closes it. */
static bool close_one(struct bkv_partition *p, const struct bkv_segment *keep)
{
    uint32_t numbers = atomic_load_explicit(&p->next_number, memory_order_acquire);
    /* Twice round: the first may do no more than clear marks. */
    for (uint32_t step = 0; step < 2 * numbers; step++) {
        if (p->clock_hand >= numbers)
            p->clock_hand = 0;
        struct bkv_segment *segment = bkv_segment_at(&p->table, p->clock_hand++);
        if (segment == NULL || segment == keep ||
            atomic_load_explicit(&segment->open, memory_order_relaxed) == NULL || in_use(segment))
            continue;
        if (atomic_exchange_explicit(&segment->referenced, 0, memory_order_relaxed) == 0)
            return close_segment(p, segment);
    }
    return false;
}

static void close_above(struct bkv_partition *p, uint32_t limit, const struct bkv_segment *keep)
{
    while (atomic_load_explicit(&p->open_count, memory_order_relaxed) > limit) {
        if (!close_one(p, keep))
            break;
    }
    (void)reclaim(p);
}

/* --- opening ------------------------------------------------------------------------ */

void bkv_advise_random(const struct bkv_mapping *mapping)
{
    (void)bkv_io->madvise(mapping->base, mapping->size, MADV_NOHUGEPAGE);
    (void)bkv_io->madvise(mapping->base, mapping->size, MADV_RANDOM);
}

/* How much is to be mapped. Whatever the file has become, the mapping spans all
 * that locations may point at: beyond its end the guard turns the access into an
 * error. A writer that is followed may go on in it: that much is mapped, too. */
static int span_of(const struct bkv_partition *p, const struct bkv_segment *segment,
                   const struct bkv_file *file, uint64_t *span)
{
    uint64_t file_size = 0;
    int rc = p->store->options.read_only ? bkv_file_size(file, &file_size) : BITKV_OK;
    *span = bkv_max64(file_size, atomic_load(&segment->size));
    return rc;
}

/* BITKV_NOT_FOUND: the file is gone, not the key; the context says so. */
static int open_file(struct bkv_partition *p, const struct bkv_segment *segment,
                     struct bkv_mapping **mapping)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    if (!p->store->mapped)
        return bkv_mapping_create_unmapped(mapping, &file);
    uint64_t span;
    rc = span_of(p, segment, &file, &span);
    if (rc != BITKV_OK) {
        bkv_file_close(&file);
        return rc;
    }
    rc = bkv_mapping_create(mapping, &file, span, false, false);
    if (rc == BITKV_OK)
        bkv_advise_random(*mapping);
    return rc;
}

/* What was closed keeps its descriptor until the readers of that moment have
 * left; the caller is in no section. Without the mutex: they may want it before
 * they leave (bkv_segment_reader()). */
static void wait_for_readers(struct bkv_partition *p)
{
    (void)pthread_mutex_unlock(&p->open_mutex);
    bkv_sleep_us(200);
    (void)pthread_mutex_lock(&p->open_mutex);
}

/* Under open_mutex, which it may leave meanwhile: then another may have opened
 * the segment, and *mapping is that. */
static int open_segment(struct bkv_partition *p, struct bkv_segment *segment,
                        struct bkv_mapping **mapping)
{
    close_above(p, p->store->open_segments_max - 1, segment);
    int rc = open_file(p, segment, mapping);
    for (unsigned i = 0; rc == BITKV_ERR_TOO_MANY_FILES && i < DESCRIPTOR_WAITS_MAX; i++) {
        if (i > 0)
            wait_for_readers(p);
        *mapping = atomic_load_explicit(&segment->open, memory_order_acquire);
        if (*mapping != NULL)
            return BITKV_OK;
        close_above(p, 0, segment);
        rc = open_file(p, segment, mapping);
        if (p->retired == NULL && i >= DESCRIPTOR_WAITS_MIN)
            break;
    }
    if (rc == BITKV_OK) {
        atomic_store_explicit(&segment->open, *mapping, memory_order_release);
        atomic_fetch_add_explicit(&p->open_count, 1, memory_order_relaxed);
    }
    return rc;
}

static int gone(const struct bkv_partition *p, const struct bkv_segment *segment)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    return bkv_error(BITKV_ERR_IO, "%s/%s is gone", p->store->dir.path, name);
}

/* A page that could not be read stays away from its mapping, though the disk may have
 * recovered: another one is to be made. Under open_mutex. */
static void close_unreadable(struct bkv_partition *p, struct bkv_segment *segment)
{
    const struct bkv_mapping *open = atomic_load(&segment->open);
    if (open != NULL && bkv_mapping_faulted(open) && !in_use(segment))
        (void)close_segment(p, segment);
}

int bkv_segment_pin(struct bkv_partition *p, struct bkv_segment *segment,
                    struct bkv_mapping **mapping)
{
    int rc = BITKV_OK;
    (void)pthread_mutex_lock(&p->open_mutex);
    close_unreadable(p, segment);
    *mapping = atomic_load_explicit(&segment->open, memory_order_acquire);
    if (*mapping == NULL)
        rc = open_segment(p, segment, mapping);
    if (rc == BITKV_OK)
        bkv_mapping_ref(*mapping);
    (void)pthread_mutex_unlock(&p->open_mutex);
    if (rc != BITKV_NOT_FOUND)
        return rc;
    if (p->store->options.read_only) {
        bkv_store_refresh_since(p->store, atomic_load(&p->store->refreshes));
        if (bkv_store_check_identity(p->store) == BITKV_ERR_STALE)
            return BITKV_ERR_STALE; /* not only this file is gone */
    }
    return gone(p, segment);
}

int bkv_segment_grow(struct bkv_partition *p, struct bkv_segment *segment, uint64_t size)
{
    bool grown = true;
    if (size <= atomic_load_explicit(&segment->size, memory_order_relaxed))
        return BITKV_OK;
    (void)pthread_mutex_lock(&p->open_mutex);
    const struct bkv_mapping *open = atomic_load(&segment->open);
    if (open != NULL && open->base != NULL && open->size < size)
        grown = close_segment(p, segment);
    if (grown) /* who opens it from now on maps enough; if not, the next refresh comes by here */
        atomic_store(&segment->size, size);
    (void)pthread_mutex_unlock(&p->open_mutex);
    return grown ? BITKV_OK : bkv_error(BITKV_ERR_NO_MEMORY, "no memory to follow a segment");
}

bool bkv_segment_close_file(struct bkv_partition *p, struct bkv_segment *segment)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    bool closed = atomic_load(&segment->open) == NULL || close_segment(p, segment);
    (void)pthread_mutex_unlock(&p->open_mutex);
    return closed;
}

bool bkv_segment_close(struct bkv_partition *p, struct bkv_segment *segment)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    bool closed = atomic_load(&segment->open) == NULL || close_segment(p, segment);
    if (closed)
        forget_number(p, segment->number);
    (void)reclaim(p);
    (void)pthread_mutex_unlock(&p->open_mutex);
    return closed;
}

enum bkv_retirement bkv_segments_reclaim(struct bkv_partition *p)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    enum bkv_retirement left = reclaim(p);
    (void)pthread_mutex_unlock(&p->open_mutex);
    return left;
}

int bkv_segment_keep_open(struct bkv_partition *p, struct bkv_segment *segment)
{
    struct bkv_mapping *mapping = NULL;
    int rc = BITKV_OK;
    (void)pthread_mutex_lock(&p->open_mutex);
    if (atomic_load_explicit(&segment->open, memory_order_acquire) == NULL)
        rc = open_segment(p, segment, &mapping);
    if (rc == BITKV_OK)
        segment->kept_open++;
    (void)pthread_mutex_unlock(&p->open_mutex);
    return rc;
}

void bkv_segment_let_close(struct bkv_partition *p, struct bkv_segment *segment)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    segment->kept_open--;
    (void)pthread_mutex_unlock(&p->open_mutex);
}

void bkv_segment_set_open(struct bkv_partition *p, struct bkv_segment *segment,
                          struct bkv_mapping *mapping)
{
    atomic_store(&segment->written, true);
    atomic_store_explicit(&segment->open, mapping, memory_order_release);
    atomic_fetch_add_explicit(&p->open_count, 1, memory_order_relaxed);
}

void bkv_segments_spare_descriptors(struct bkv_partition *p)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    close_above(p, 0, NULL);
    wait_for_readers(p);
    reclaim(p);
    (void)pthread_mutex_unlock(&p->open_mutex);
}

void bkv_segments_trim(struct bkv_partition *p)
{
    (void)pthread_mutex_lock(&p->open_mutex);
    close_above(p, p->store->open_segments_max, NULL);
    (void)pthread_mutex_unlock(&p->open_mutex);
}

int bkv_segment_reader(struct bkv_partition *p, const struct bkv_segment *segment,
                       struct bkv_mapping *mapping)
{
    if (mapping->base == NULL)
        return mapping->file.fd;
    (void)pthread_mutex_lock(&p->open_mutex);
    if (mapping->reader.fd < 0 && atomic_load(&p->store->dir.open_files) < p->store->readers_max) {
        char name[BKV_NAME_SIZE];
        bkv_name_data(name, p->index, segment->id);
        if (bkv_file_open(&mapping->reader, &p->store->dir, name, O_RDONLY) != BITKV_OK)
            mapping->reader = BKV_FILE_NONE;
    }
    int fd = mapping->reader.fd;
    (void)pthread_mutex_unlock(&p->open_mutex);
    return fd;
}

/* A view may keep the mapping, but nothing of the database that is closed. */
static void let_go(struct bkv_mapping *mapping)
{
    if (mapping == NULL)
        return;
    bkv_file_close(&mapping->reader);
    bkv_file_close(&mapping->file);
    bkv_mapping_unref(mapping);
}

static void free_segment(struct bkv_segment *segment)
{
    let_go(atomic_load(&segment->open));
    bkv_segment_unref(segment);
}

void bkv_segments_forget(struct bkv_partition *p)
{
    for (uint32_t i = 0; i < BKV_TABLE_FANOUT; i++)
        atomic_store(&p->table.chunks[i], NULL);
    p->free_numbers = NULL;
    p->free_count = p->free_capacity = 0;
    p->next_number = 0;
}

void bkv_segments_free(struct bkv_partition *p)
{
    for (struct bkv_segment *s = p->first; s != NULL;) {
        struct bkv_segment *next = s->next;
        free_segment(s);
        s = next;
    }
    p->first = p->last = NULL;
    while (p->removed != NULL) {
        struct bkv_segment *s = p->removed;
        p->removed = s->next_removed;
        free_segment(s);
    }
    struct bkv_segment *output = bkv_install_give_up(p);
    if (output != NULL)
        free_segment(output);
    bkv_mfree(p->free_numbers);
    while (p->retired != NULL) {
        struct bkv_retired *r = p->retired;
        p->retired = r->next;
        let_go(r->mapping);
        bkv_mfree(r);
    }
    for (uint32_t i = 0; i < BKV_TABLE_FANOUT; i++)
        bkv_mfree((void *)(uintptr_t)atomic_load(&p->table.chunks[i]));
}
