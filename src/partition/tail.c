/* SPDX-License-Identifier: MIT */
/*
 * The tail: the segment that is written, and the space ahead of it.
 *
 * The happy path costs no system call: the worker has reserved file space
 * (fallocate) and faulted the pages in (MADV_POPULATE_WRITE) some megabytes
 * ahead, and keeps a spare segment, created, reserved and with its directory
 * entry synced, for when this one is full. An append is then a memcpy, and
 * survives the process because the page cache has it.
 *
 * A writer that overtakes the worker does the same work itself: it reserves
 * the next step, creates the next segment, or simply takes the page faults.
 * So a full disk is an error code of the put that needed the space, never a
 * signal in the middle of a copy: pages below `reserved` have their blocks.
 *
 * A store through a mapping has a price of its own at the next sync: it makes
 * the whole folio dirty, up to 2 MiB, where pwrite dirties a block of 4 KiB
 * (measured: 650 us against 100 us for a sync of one record), and so do pages
 * that were faulted in ahead for nothing. So what is synced at once, and what
 * little is written between two syncs, goes through pwrite into the same page
 * cache; once BKV_MAPPED_FROM_BYTES have come since the last sync, through the
 * mapping. A sync costs what was written, and a bulk of writes no system call.
 *
 * Without a mapping everything is as in the first case; space is reserved all the same where the
 * file system can, so that ENOSPC comes early, and else shows in pwrite.
 *
 * Failure modes: no space or no descriptor for more room: the put fails, the
 * tail stays where it is and the next put tries again. A SIGBUS under the
 * mapping (the device failed): the guard counts it, the writer sees the count
 * before it acknowledges, and the partition refuses further writes.
 */
#include "partition/state.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "io/io.h"
#include "log/filename.h"
#include "log/segment.h"
#include "partition/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* --- making segments ----------------------------------------------------------- */

/* Reserved by fallocate? Not where the file system has none: then pwrite finds
 * out about space by itself. */
static int reserve(const struct bkv_partition *p, const struct bkv_file *file, uint64_t from,
                   uint64_t to)
{
    /* Not while a deletion borrows: what is owed has nothing to lend (reserve.c). */
    if (BKV_UNLIKELY(atomic_load_explicit(&p->reserve_owed, memory_order_relaxed)))
        return bkv_error(BITKV_ERR_NO_SPACE,
                         "the disk is full and partition %u is being compacted; writing resumes by "
                         "itself",
                         p->index);
    int rc = bkv_file_reserve(file, from, to - from);
    if (rc != BITKV_OK && rc != BITKV_ERR_NO_SPACE && !p->store->mapped)
        return BITKV_OK;
    return rc;
}

static void discard_file(struct bkv_partition *p, uint64_t id)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    (void)bkv_dir_unlink(&p->store->dir, name); /* a leftover is removed at opening */
}

/* Large folios: fewer faults ahead of the tail, fewer TLB misses of readers. What
 * was written before is read here and there: a fault should read the page, not
 * the 2 MiB around it (28 KB were read for a get of 1 KB). */
static void advise_tail(const struct bkv_mapping *mapping, uint64_t written)
{
    if (mapping->base == NULL)
        return;
    uint64_t old = written & ~4095ull;
    (void)bkv_io->madvise(mapping->base + old, mapping->size - old, MADV_HUGEPAGE);
    if (old > 0) {
        (void)bkv_io->madvise(mapping->base, old, MADV_NOHUGEPAGE);
        (void)bkv_io->madvise(mapping->base, old, MADV_RANDOM);
    }
}

/* Creates the file of segment `id` with `reserved` bytes of space; `map_size`
 * of it are mapped if mappings are used. */
static int create_file(struct bkv_partition *p, uint64_t id, uint64_t reserved, uint64_t map_size,
                       struct bkv_mapping **mapping)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    if (id > BKV_SEGMENT_ID_MAX)
        return bkv_error(BITKV_ERR_LIMIT, "partition %u has used up its segment ids", p->index);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDWR | O_CREAT | O_EXCL);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = reserve(p, &file, 0, reserved);
    if (rc != BITKV_OK)
        bkv_file_close(&file);
    else if (p->store->mapped)
        rc = bkv_mapping_create(mapping, &file, map_size, true, true);
    else
        rc = bkv_mapping_create_unmapped(mapping, &file);
    if (rc != BITKV_OK)
        discard_file(p, id);
    else
        advise_tail(*mapping, 0);
    return rc;
}

/* The first segment begins small, for databases that stay so. What follows on a
 * full one begins with a large step: the worker may be busy for a while then,
 * syncing the full one, and a writer that has to reserve meanwhile waits for
 * the file system's journal. */
static uint64_t first_step(const struct bkv_partition *p)
{
    uint64_t step = p->last == NULL ? BKV_RESERVE_STEP_MIN : BKV_RESERVE_STEP_MAX;
    return bkv_min64(step, p->store->options.max_file_size);
}

static int make_spare(struct bkv_partition *p, uint64_t id, uint64_t reserved,
                      struct bkv_spare **out)
{
    struct bkv_spare *spare = bkv_calloc(1, sizeof *spare);
    if (spare == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a segment");
    spare->segment = bkv_segment_new(p, id);
    if (spare->segment != NULL)
        spare->segment->lasting = true;
    spare->reserved = reserved;
    int rc = spare->segment != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
    if (rc == BITKV_OK)
        rc = create_file(p, id, spare->reserved, p->store->options.max_file_size, &spare->mapping);
    if (rc != BITKV_OK) {
        bkv_segment_unref(spare->segment);
        bkv_mfree(spare);
        return rc;
    }
    atomic_init(&spare->segment->disk_bytes, spare->reserved);
    *out = spare;
    return BITKV_OK;
}

static void free_spare(struct bkv_partition *p, struct bkv_spare *spare)
{
    discard_file(p, spare->segment->id);
    bkv_mapping_unref(spare->mapping);
    bkv_segment_unref(spare->segment);
    bkv_mfree(spare);
}

void bkv_spare_prepare(struct bkv_partition *p)
{
    if (atomic_load_explicit(&p->spare, memory_order_acquire) != NULL)
        return;
    bkv_lock(&p->lock);
    bool wanted = p->tail.segment != NULL && p->tail.offset > p->tail.limit / 2;
    uint64_t step = first_step(p);
    uint64_t id = wanted ? p->next_id++ : 0;
    bkv_unlock(&p->lock);
    if (!wanted)
        return;
    struct bkv_spare *spare;
    if (make_spare(p, id, step, &spare) != BITKV_OK)
        return;                              /* the writer will try, and report */
    if (bkv_directory_sync(p) != BITKV_OK) { /* a later one would prove nothing */
        free_spare(p, spare);
        (void)bkv_sync_failed(p);
        return;
    }
    atomic_store(&spare->segment->entry_synced, true);
    BKV_SCHEDULE_POINT("spare.made");
    atomic_store_explicit(&p->spare, spare, memory_order_release);
}

void bkv_spare_discard(struct bkv_partition *p)
{
    struct bkv_spare *spare = atomic_exchange(&p->spare, NULL);
    if (spare != NULL)
        free_spare(p, spare);
}

/* --- going on in the next segment ---------------------------------------------------- */

static int write_header(struct bkv_partition *p, const struct bkv_segment *segment,
                        struct bkv_mapping *mapping)
{
    struct bkv_segment_header header = {
        .partition = p->index,
        .kind = BKV_SEGMENT_STREAM,
        .id = segment->id,
        .base_sequence = segment->base_sequence,
    };
    memcpy(header.database_id, p->store->manifest.database_id, sizeof header.database_id);
    uint8_t bytes[BKV_SEGMENT_HEADER];
    bkv_segment_header_encode(bytes, &header);
    return bkv_file_write(&mapping->file, bytes, sizeof bytes, 0);
}

static void set_tail(struct bkv_partition *p, struct bkv_segment *segment,
                     struct bkv_mapping *mapping, uint64_t offset, uint64_t limit,
                     uint64_t reserved)
{
    p->tail.segment = segment;
    p->tail.mapping = mapping;
    p->tail.base = mapping->base;
    p->tail.offset = offset;
    p->tail.limit = limit;
    p->tail.wake_at = offset;
    p->tail.by_mapping = false;
    atomic_store(&p->tail.reserved, reserved);
    atomic_store(&p->tail.faulted, offset);
}

void bkv_tail_seal(struct bkv_partition *p)
{
    struct bkv_segment *segment = p->tail.segment;
    BKV_ASSERT(segment != NULL);
    segment->last_sequence = p->next_sequence - 1;
    segment->end_position = atomic_load_explicit(&p->appended, memory_order_relaxed);
    atomic_store_explicit(&segment->phase, BKV_PHASE_SEALED, memory_order_release);
    p->sealed_count++;
    if (p->sealed_first == NULL)
        p->sealed_first = segment;
    p->tail.segment = NULL;
    p->tail.base = NULL;
    p->tail.mapping = NULL;
    bkv_worker_wake(p);
}

/* The spare, or a segment made on the spot: where there is no room for a step, with
 * as much as a record of `size` bytes needs. */
static int next_segment(struct bkv_partition *p, uint64_t size, struct bkv_spare **spare)
{
    *spare = atomic_exchange_explicit(&p->spare, NULL, memory_order_acq_rel);
    if (*spare != NULL)
        return BITKV_OK;
    uint64_t step = first_step(p), need = bkv_align_up(BKV_SEGMENT_HEADER + size, 4096);
    int rc = make_spare(p, p->next_id++, step, spare);
    return rc == BITKV_ERR_NO_SPACE && need < step ? make_spare(p, p->next_id++, need, spare) : rc;
}

/* Full segments hold their descriptors until they are synced. Beyond a share of
 * the process's limit writers wait for the worker (write.c). */
static int check_sealed(const struct bkv_partition *p)
{
    if (BKV_LIKELY(p->sealed_count < p->store->sealed_max))
        return BITKV_OK;
    return bkv_error(BITKV_ERR_TOO_MANY_FILES,
                     "%u full segments of partition %u wait for their sync, which is as many as "
                     "the descriptor limit and the space for them allow",
                     p->sealed_count, p->index);
}

/* The compactor is told when space runs out, and when it is there again. */
static void note_space(struct bkv_partition *p, int rc)
{
    bool none = rc == BITKV_ERR_NO_SPACE;
    if (atomic_load_explicit(&p->out_of_space, memory_order_relaxed) == none ||
        atomic_load_explicit(&p->lending, memory_order_relaxed))
        return;
    atomic_store(&p->out_of_space, none);
    p->died = UINT64_MAX / 2; /* a reason to look */
    bkv_worker_wake(p);
}

static int rotate(struct bkv_partition *p, uint64_t size)
{
    struct bkv_spare *spare;
    int rc = check_sealed(p);
    if (rc == BITKV_OK)
        rc = next_segment(p, size, &spare);
    note_space(p, rc);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_segment *segment = spare->segment;
    segment->base_sequence = p->next_sequence;
    rc = write_header(p, segment, spare->mapping);
    if (rc == BITKV_OK)
        rc = bkv_segment_install(p, segment);
    if (rc != BITKV_OK) {
        free_spare(p, spare);
        return rc;
    }
    if (p->tail.segment != NULL)
        bkv_tail_seal(p);
    bkv_segment_set_open(p, segment, spare->mapping);
    set_tail(p, segment, spare->mapping, BKV_SEGMENT_HEADER, p->store->options.max_file_size,
             spare->reserved);
    bkv_mfree(spare);
    return BITKV_OK;
}

int bkv_tail_resume(struct bkv_partition *p, struct bkv_segment *segment)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, segment->id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDWR);
    if (rc != BITKV_OK)
        return rc;
    uint64_t limit = p->store->options.max_file_size;
    struct bkv_mapping *mapping;
    if (p->store->mapped)
        rc = bkv_mapping_create(&mapping, &file, limit, true, true);
    else
        rc = bkv_mapping_create_unmapped(&mapping, &file);
    if (rc != BITKV_OK)
        return rc;
    uint64_t size = atomic_load(&segment->size);
    advise_tail(mapping, size);
    bkv_segment_set_open(p, segment, mapping);
    atomic_store(&segment->phase, BKV_PHASE_ACTIVE);
    set_tail(p, segment, mapping, size, limit, size);
    return BITKV_OK;
}

/* --- room ---------------------------------------------------------------------------------- */

/* The next step doubles with the segment, up to 32 MiB. */
static uint64_t step_end(uint64_t reserved, uint64_t limit, uint64_t need)
{
    uint64_t step = bkv_max64(bkv_min64(reserved, BKV_RESERVE_STEP_MAX), BKV_RESERVE_STEP_MIN);
    return bkv_min64(limit, bkv_max64(reserved + step, bkv_align_up(need, 4096)));
}

/* Under the lock. The worker and the writer may have reserved the same. */
static void note_reserved(struct bkv_tail *tail, struct bkv_segment *segment, uint64_t end)
{
    if (atomic_load(&tail->reserved) >= end)
        return;
    atomic_store(&tail->reserved, end);
    atomic_store_explicit(&segment->disk_bytes, end, memory_order_relaxed);
}

static int reserve_more(struct bkv_partition *p, uint64_t need)
{
    struct bkv_tail *tail = &p->tail;
    uint64_t from = atomic_load(&tail->reserved);
    uint64_t to = step_end(from, tail->limit, need);
    int rc = reserve(p, &tail->mapping->file, from, to);
    if (rc == BITKV_ERR_NO_SPACE && bkv_align_up(need, 4096) < to) {
        to = bkv_min64(tail->limit, bkv_align_up(need, 4096)); /* then just what is needed */
        rc = reserve(p, &tail->mapping->file, from, to);
    }
    if (rc == BITKV_OK)
        note_reserved(tail, tail->segment, to);
    note_space(p, rc);
    return rc;
}

int bkv_tail_ensure(struct bkv_partition *p, uint64_t size)
{
    struct bkv_tail *tail = &p->tail;
    if (BKV_UNLIKELY(tail->segment == NULL || tail->offset + size > tail->limit)) {
        int rc = rotate(p, size);
        if (rc != BITKV_OK)
            return rc;
    }
    uint64_t end = tail->offset + size;
    BKV_ASSERT(end <= tail->limit);
    if (BKV_UNLIKELY(end > atomic_load_explicit(&tail->reserved, memory_order_acquire)))
        return reserve_more(p, end);
    return BITKV_OK;
}

/* Deletions make room, so the last of it is theirs. */
int bkv_tail_ensure_delete(struct bkv_partition *p, uint64_t size)
{
    int rc = bkv_tail_ensure(p, size);
    if (BKV_LIKELY(rc != BITKV_ERR_NO_SPACE) || !bkv_reserve_lend(p))
        return rc;
    atomic_store_explicit(&p->lending, true, memory_order_relaxed);
    rc = bkv_tail_ensure(p, size);
    atomic_store_explicit(&p->lending, false, memory_order_relaxed);
    return rc;
}

/* --- records that are larger than a segment ---------------------------------------------- */

static int write_jumbo_file(struct bkv_partition *p, const struct bkv_segment *segment,
                            struct bkv_mapping *mapping, const struct bkv_jumbo *record)
{
    const struct bkv_file *file = &mapping->file;
    uint8_t head[BKV_RECORD_HEADER + BKV_RECORD_DEADLINE];
    memcpy(head, record->head, record->head_size);
    bkv_record_finish(head, record->crc, p->next_sequence, segment->seed, BKV_SEGMENT_HEADER);
    uint64_t at = BKV_SEGMENT_HEADER;
    int rc = write_header(p, segment, mapping);
    if (rc == BITKV_OK)
        rc = bkv_file_write(file, head, record->head_size, at);
    at += record->head_size;
    if (rc == BITKV_OK)
        rc = bkv_file_write(file, record->key, record->key_size, at);
    at += record->key_size;
    if (rc == BITKV_OK)
        rc = bkv_file_write(file, record->value, record->value_size, at);
    /* The padding: the file was extended with zeros, or is now. */
    if (rc == BITKV_OK)
        rc = bkv_file_truncate(file, atomic_load(&segment->size));
    return rc;
}

int bkv_tail_write_jumbo(struct bkv_partition *p, const struct bkv_jumbo *record,
                         uint64_t *location)
{
    int rc = check_sealed(p);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_segment *segment = bkv_segment_new(p, p->next_id++);
    if (segment == NULL)
        return BITKV_ERR_NO_MEMORY;
    segment->lasting = true;
    uint64_t file_size = BKV_SEGMENT_HEADER + record->size;
    atomic_store(&segment->size, file_size);
    segment->base_sequence = p->next_sequence;

    struct bkv_mapping *mapping = NULL;
    rc = create_file(p, segment->id, file_size, file_size, &mapping);
    if (rc != BITKV_OK)
        goto err_segment;
    rc = write_jumbo_file(p, segment, mapping, record);
    if (rc == BITKV_OK)
        rc = bkv_segment_install(p, segment);
    if (rc != BITKV_OK)
        goto err_file;
    atomic_store(&segment->disk_bytes, file_size);
    if (p->tail.segment != NULL)
        bkv_tail_seal(p);
    bkv_segment_set_open(p, segment, mapping);
    set_tail(p, segment, mapping, file_size, file_size, file_size);
    *location = bkv_location(segment->number, BKV_SEGMENT_HEADER, bkv_size_code(record->size));
    return BITKV_OK;

err_file:
    bkv_mapping_unref(mapping);
    discard_file(p, segment->id);
err_segment:
    bkv_segment_unref(segment);
    return rc;
}

/* --- the worker's part -------------------------------------------------------------------- */

/* The tail as it was at one moment: by the time that it is used, a writer may
 * have gone on in another segment, to which nothing of this applies. */
struct glance {
    struct bkv_segment *segment;
    struct bkv_mapping *mapping; /* NULL: there is no tail */
    uint64_t offset, limit, reserved, faulted;
    bool by_mapping;
};

static struct glance look_at_tail(struct bkv_partition *p)
{
    const struct bkv_tail *tail = &p->tail;
    bkv_lock(&p->lock);
    struct glance g = {
        .segment = tail->segment,
        .mapping = tail->mapping,
        .offset = tail->offset,
        .limit = tail->limit,
        .reserved = atomic_load(&tail->reserved),
        .faulted = atomic_load(&tail->faulted),
        .by_mapping = tail->by_mapping,
    };
    if (g.mapping != NULL)
        bkv_mapping_ref(g.mapping);
    bkv_unlock(&p->lock);
    return g;
}

/* Reserves the step behind `reserved`, without the lock: the writer may do the
 * same at the same time, and both are right. Failure is left to the writer. */
static void reserve_ahead(struct bkv_partition *p, struct glance *g)
{
    struct bkv_tail *tail = &p->tail;
    /* A trickle of writes needs little ahead of it, a bulk enough for the time
     * of a sync. */
    uint64_t ahead = g->by_mapping ? BKV_RESERVE_STEP_MAX : BKV_RESERVE_STEP_MIN / 4;
    if (g->reserved >= g->limit || g->offset + ahead <= g->reserved)
        return;
    uint64_t to = step_end(g->reserved, g->limit, g->reserved);
    if (reserve(p, &g->mapping->file, g->reserved, to) != BITKV_OK)
        return;
    g->reserved = to;
    bkv_lock(&p->lock);
    if (tail->segment == g->segment)
        note_reserved(tail, g->segment, to);
    bkv_unlock(&p->lock);
}

/* Faults pages in, a bite at a time, as long as the tail is still this one. */
static void fault_ahead(struct bkv_partition *p, const struct glance *g)
{
    struct bkv_tail *tail = &p->tail;
    uint64_t faulted = bkv_max64(g->faulted, g->offset);
    uint64_t end = bkv_min64(g->reserved, g->offset + BKV_FAULT_AHEAD_BYTES);
    bool current = true;
    while (current && faulted < end) {
        /* A writer without a chunk maps one itself, behind our faults. */
        bkv_keydir_prepare_memory(p->keydir);
        uint64_t from = faulted & ~4095ull;
        uint64_t to = bkv_min64(end, bkv_align_up(from + 1, BKV_FAULT_STEP_BYTES));
        if (bkv_io->madvise(g->mapping->base + from, to - from, MADV_POPULATE_WRITE) != 0)
            return; /* an old kernel: the writer takes the faults */
        faulted = to;
        bkv_lock(&p->lock);
        current = tail->segment == g->segment;
        if (current)
            atomic_store(&tail->faulted, faulted);
        bkv_unlock(&p->lock);
    }
}

void bkv_tail_ahead(struct bkv_partition *p)
{
    struct glance g = look_at_tail(p);
    if (g.mapping == NULL)
        return;
    reserve_ahead(p, &g);
    if (g.by_mapping)
        fault_ahead(p, &g);
    bkv_mapping_unref(g.mapping);
}
