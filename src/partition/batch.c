/* SPDX-License-Identifier: MIT */
/*
 * Batches: writes to several partitions, of which a crash leaves all or none.
 *
 * In the log of each partition involved lies a group: a header (BKV_RECORD_BATCH)
 * that says how many records follow and who the peers are, and the records. A
 * group lies within one segment, behind everything older. What makes it whole
 * after a crash is said elsewhere: that a sync acknowledges no group before its
 * peers are on the disk (sync.c), and that recovery cuts the log before a group
 * whose peers are missing (batch_recovery.c).
 *
 * The participant of the lowest index names all others in its header, those name
 * it alone: a header of n peers for each of n would be n^2.
 *
 * Before the locks, the records are put together with the long part of their
 * checksums, and the KeyDir's lines are asked for. Under the locks of all
 * partitions, taken in order of their index:
 *
 *   1. room, in every partition
 *   2. the bytes of every group, behind the tails, which stay where they are
 *   3. a place in the KeyDir for every key. One that is new gets the location of
 *      the group's header: who finds that reads no put of his key, looks again
 *      under the lock, and so waits for the outcome
 *   4. the checksum of the first group's last record, which was left wrong in 2: a
 *      follower, who sees all bytes, takes a batch for whole from here on
 *   5. tails, sequence numbers and KeyDirs: nothing of this can fail
 *
 * So no reader sees anything of a batch that fails; a batch that succeeds
 * appears key by key within step 5.
 *
 * Failure modes: 1 fails: nothing has changed, but that a full segment may have
 * been sealed. 2, 3 or 4 fails: the new keys are taken out of the KeyDirs, and the
 * bytes are zeroed. They have to be: they are valid records of the sequence
 * numbers that come next, and what was left of them behind a shorter record, or
 * at the end of a segment that is sealed then, recovery would take for more of
 * the log or for its torn end. The zeros are synced, since a peer may go on and be
 * durable: its log would then reach up to the numbers that say that its part is
 * there. If zeroing fails, too, all partitions of the batch refuse writes, so that
 * nothing follows what was left, and no peer's log reaches that far.
 */
#include "partition/batch.h"

#include "base/error.h"
#include "base/schedule.h"
#include "partition/state.h"

#include <string.h>

/* --- before the locks ----------------------------------------------------------------- */

static size_t peers_of(size_t index, size_t count)
{
    return index == 0 ? count - 1 : 1;
}

uint64_t bkv_group_header_size(size_t index, size_t count)
{
    return bkv_record_size(0, BKV_BATCH_FIXED + peers_of(index, count) * BKV_BATCH_PEER);
}

static struct bkv_record record_of(const struct bkv_group_entry *entry)
{
    return (struct bkv_record){
        .value_size = (uint32_t)entry->value_size,
        .key_size = (uint16_t)entry->key_size,
        .type = entry->is_put ? BKV_RECORD_PUT : BKV_RECORD_DELETE,
        .flags = entry->deadline != UINT64_MAX ? BKV_RECORD_EXPIRES : 0,
    };
}

uint64_t bkv_group_record_size(const struct bkv_group_entry *entry)
{
    struct bkv_record record = record_of(entry);
    return bkv_record_size_of(&record);
}

/* Over header and body; the place and the sequence come later. */
static uint32_t begin_crc(const uint8_t *bytes, uint64_t size)
{
    return bkv_crc32c(bkv_record_crc_begin(bytes), bytes + BKV_RECORD_HEADER,
                      size - BKV_RECORD_HEADER);
}

void bkv_group_add(struct bkv_group *group, struct bkv_group_record *r,
                   const struct bkv_group_entry *entry)
{
    struct bkv_record record = record_of(entry);
    uint8_t *bytes = group->bytes + r->offset;
    bkv_record_begin(bytes, &record);
    uint64_t used = BKV_RECORD_HEADER + bkv_record_prefix(record.flags);
    if (record.flags != 0)
        bkv_put64(bytes + BKV_RECORD_HEADER, entry->deadline);
    memcpy(bytes + used, entry->key, entry->key_size);
    used += entry->key_size;
    if (entry->value_size > 0)
        memcpy(bytes + used, entry->value, entry->value_size);
    used += entry->value_size;
    memset(bytes + used, 0, r->size - used);
    r->crc = begin_crc(bytes, r->size);
    r->is_put = entry->is_put;
    bkv_partition_prefetch_put(group->partition, &r->hash);
}

static int check_size(const struct bkv_group *g)
{
    uint64_t limit = g->partition->store->options.max_file_size - BKV_SEGMENT_HEADER;
    if (g->size <= limit)
        return BITKV_OK;
    return bkv_error(BITKV_ERR_LIMIT,
                     "the batch has %llu bytes for partition %u, and a segment takes %llu; write a "
                     "smaller batch, or raise max_file_size",
                     (unsigned long long)g->size, g->partition->index, (unsigned long long)limit);
}

/* --- 1: room ---------------------------------------------------------------------------- */

static int make_room(struct bkv_group *g)
{
    struct bkv_partition *p = g->partition;
    int rc = bkv_write_check(p);
    if (rc == BITKV_OK)
        rc = bkv_settle(p);
    return rc == BITKV_OK ? bkv_tail_ensure(p, g->size) : rc;
}

/* --- 2: the bytes ------------------------------------------------------------------------- */

static void put_peer(uint8_t *bytes, const struct bkv_group *peer)
{
    bkv_put32(bytes, peer->partition->index);
    bkv_put32(bytes + 4, peer->count);
    bkv_put64(bytes + 8, peer->partition->next_sequence);
}

/* All locks are held: the sequences of the peers are known. */
static void make_header(const struct bkv_group *groups, size_t count, size_t index)
{
    const struct bkv_group *g = &groups[index];
    const struct bkv_tail *tail = &g->partition->tail;
    size_t peers = peers_of(index, count);
    struct bkv_record record = {
        .value_size = (uint32_t)(BKV_BATCH_FIXED + peers * BKV_BATCH_PEER),
        .type = BKV_RECORD_BATCH,
    };
    memset(g->bytes, 0, g->header_size);
    bkv_record_begin(g->bytes, &record);
    uint8_t *value = g->bytes + BKV_RECORD_HEADER;
    bkv_put32(value, g->count);
    bkv_put32(value + 4, (uint32_t)peers);
    for (size_t i = 0; i < peers; i++)
        put_peer(value + BKV_BATCH_FIXED + i * BKV_BATCH_PEER, &groups[index == 0 ? i + 1 : 0]);
    bkv_record_finish(g->bytes, begin_crc(g->bytes, g->header_size), g->partition->next_sequence,
                      tail->segment->seed, tail->offset);
}

static void finish_records(const struct bkv_group *g)
{
    const struct bkv_tail *tail = &g->partition->tail;
    uint64_t sequence = g->partition->next_sequence;
    for (uint32_t i = 0; i < g->count; i++) {
        const struct bkv_group_record *r = &g->records[i];
        bkv_record_finish(g->bytes + r->offset, r->crc, ++sequence, tail->segment->seed,
                          tail->offset + r->offset);
    }
}

static int check_mapping(const struct bkv_group *g)
{
    struct bkv_partition *p = g->partition;
    const struct bkv_tail *tail = &p->tail;
    if (BKV_LIKELY(!bkv_mapping_faulted(tail->mapping)))
        return BITKV_OK;
    atomic_store(&p->failed, BITKV_ERR_IO);
    return bkv_error(BITKV_ERR_IO,
                     "I/O error under the mapping of %s at offset %llu; partition %u refuses "
                     "writes until reopened",
                     tail->mapping->file.name, (unsigned long long)tail->offset, p->index);
}

/* The group's bytes go behind the tail. */
static int copy_out(const struct bkv_group *g)
{
    const struct bkv_tail *tail = &g->partition->tail;
    if (!g->by_mapping)
        return bkv_file_write(&tail->mapping->file, g->bytes, g->size, tail->offset);
    memcpy(tail->base + tail->offset, g->bytes, g->size);
    return check_mapping(g);
}

static int write_bytes(struct bkv_group *groups, size_t count, size_t index,
                       bitkv_durability durability)
{
    struct bkv_group *g = &groups[index];
    make_header(groups, count, index);
    finish_records(g);
    g->by_mapping = bkv_tail_by_mapping(g->partition, g->size, durability);
    g->written = true; /* a part of it, at least */
    if (index > 0)
        return copy_out(g);
    uint8_t *crc = g->bytes + g->records[g->count - 1].offset + BKV_RECORD_CRC;
    uint32_t whole = bkv_get32(crc);
    bkv_put32(crc, ~whole);
    int rc = copy_out(g);
    bkv_put32(crc, whole);
    return rc;
}

/* The first group's last record verifies now, and with it the batch is there for a
 * follower, who reads the bytes. All others are written before. */
static int close_batch(const struct bkv_group *g)
{
    const struct bkv_tail *tail = &g->partition->tail;
    uint64_t at = g->records[g->count - 1].offset + BKV_RECORD_CRC;
    if (!g->by_mapping)
        return bkv_file_write(&tail->mapping->file, g->bytes + at, sizeof(uint32_t),
                              tail->offset + at);
    atomic_thread_fence(memory_order_release);
    memcpy(tail->base + tail->offset + at, g->bytes + at, sizeof(uint32_t));
    return check_mapping(g);
}

/* --- 3: places in the KeyDir ----------------------------------------------------------------- */

static uint64_t location_of(const struct bkv_group *g, uint64_t offset, uint64_t size)
{
    const struct bkv_tail *tail = &g->partition->tail;
    return bkv_location(tail->segment->number, tail->offset + offset, bkv_size_code(size));
}

static int hold_put(struct bkv_group *g, struct bkv_group_record *r)
{
    struct bkv_keydir *keydir = g->partition->keydir;
    int rc = bkv_keydir_prepare(keydir, &r->hash);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return bkv_keydir_full(g->partition, rc);
    r->old = bkv_keydir_prepared(keydir);
    if (r->old == 0)
        (void)bkv_keydir_put(keydir, &r->hash, location_of(g, 0, g->header_size));
    return BITKV_OK;
}

static int hold_delete(struct bkv_group *g, struct bkv_group_record *r)
{
    struct bkv_keydir *keydir = g->partition->keydir;
    int rc = bkv_keydir_prepare_remove(keydir, &r->hash);
    if (rc != BITKV_OK)
        return bkv_keydir_full(g->partition, rc);
    r->old = 0;
    (void)bkv_keydir_find(keydir, &r->hash, &r->old);
    return BITKV_OK;
}

static int hold_keys(struct bkv_group *g)
{
    for (g->held = 0; g->held < g->count; g->held++) {
        struct bkv_group_record *r = &g->records[g->held];
        int rc = r->is_put ? hold_put(g, r) : hold_delete(g, r);
        if (rc != BITKV_OK)
            return rc;
    }
    return BITKV_OK;
}

/* --- taking back -------------------------------------------------------------------------- */

static void release_keys(struct bkv_group *g)
{
    for (uint32_t i = 0; i < g->held; i++) {
        if (g->records[i].is_put && g->records[i].old == 0)
            (void)bkv_keydir_remove(g->partition->keydir, &g->records[i].hash);
    }
    g->held = 0;
}

static bool erase_bytes(struct bkv_group *g)
{
    memset(g->bytes, 0, g->size);
    g->written = false;
    g->erased = true;
    return copy_out(g) == BITKV_OK && bkv_file_sync(&g->partition->tail.mapping->file) == BITKV_OK;
}

/* The error that led here stays what the caller is told. */
static void take_back(struct bkv_group *groups, size_t count)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    bool gone = true;
    memcpy(context, bitkv_error_context(), strlen(bitkv_error_context()) + 1);
    for (size_t i = 0; i < count; i++) {
        release_keys(&groups[i]);
        if (groups[i].written)
            gone = erase_bytes(&groups[i]) && gone;
    }
    for (size_t i = 0; i < count && !gone; i++) {
        atomic_store(&groups[i].partition->failed, BITKV_ERR_IO);
        bkv_doubt_raise(groups[i].partition);
    }
    bkv_error_context_set(context);
}

/* --- 5: it happens ---------------------------------------------------------------------------- */

/* The record at `location` is the key's from now on, or nothing is. */
static void apply(struct bkv_partition *p, const struct bkv_group_record *r, uint64_t location)
{
    if (r->is_put) {
        (void)bkv_keydir_put(p->keydir, &r->hash, location);
        bkv_account(p, location, true);
        bkv_add_relaxed(&p->puts, 1);
    } else if (r->old != 0) {
        (void)bkv_keydir_remove(p->keydir, &r->hash);
        bkv_add_relaxed(&p->deletes, 1);
    }
    bkv_account_dead(p, r->old);
}

static void commit(struct bkv_group *g, bitkv_durability durability)
{
    struct bkv_partition *p = g->partition;
    struct bkv_tail *tail = &p->tail;
    uint64_t begin = location_of(g, 0, 0);
    tail->offset += g->size; /* first: no location may lie behind it (I3) */
    atomic_store_explicit(&tail->segment->size, tail->offset, memory_order_relaxed);
    if (g->expires)
        tail->segment->lasting = false;
    for (uint32_t i = 0; i < g->count; i++) {
        const struct bkv_group_record *r = &g->records[i];
        apply(p, r, begin + bkv_location(0, r->offset, bkv_size_code(r->size)));
    }
    p->next_sequence += 1 + (uint64_t)g->count;
    bkv_add_relaxed(&p->bytes_written, g->size);
    g->wake = bkv_note_append(p, g->size, durability);
    g->position = atomic_load_explicit(&p->appended, memory_order_relaxed);
}

/* From now on a sync of one is not acknowledged without the others. */
static void bind(const struct bkv_group *groups, size_t count)
{
    struct bkv_peers all = {0};
    for (size_t i = 0; i < count; i++)
        bkv_peers_add(&all, groups[i].partition->index);
    for (size_t i = 0; i < count; i++)
        bkv_sync_bind(groups[i].partition, &all, groups[i].position);
}

/* --- all together --------------------------------------------------------------------------------
 */

/* *at: the group that it failed at. */
static int prepare_all(struct bkv_group *groups, size_t count, bitkv_durability durability,
                       size_t *at)
{
    int rc = BITKV_OK;
    for (*at = 0; *at < count; ++*at) {
        rc = make_room(&groups[*at]);
        if (rc != BITKV_OK)
            return rc;
    }
    for (*at = 0; *at < count; ++*at) {
        rc = write_bytes(groups, count, *at, durability);
        if (rc == BITKV_OK)
            rc = hold_keys(&groups[*at]);
        if (rc != BITKV_OK)
            return rc;
    }
    *at = 0;
    BKV_SCHEDULE_POINT("batch.held");
    return close_batch(&groups[0]);
}

/* Under all locks, in the order of the head of this file. */
static int write_locked(struct bkv_group *groups, size_t count, bitkv_durability durability,
                        size_t *at)
{
    int rc = prepare_all(groups, count, durability, at);
    if (BKV_UNLIKELY(rc != BITKV_OK)) {
        take_back(groups, count);
        return rc;
    }
    for (size_t i = 0; i < count; i++)
        commit(&groups[i], durability);
    if (count > 1)
        bind(groups, count);
    return BITKV_OK;
}

static int sync_all(const struct bkv_group *groups, size_t count)
{
    int rc = BITKV_OK;
    for (size_t i = 0; i < count; i++) {
        int one = bkv_sync_upto(groups[i].partition, groups[i].position);
        if (rc == BITKV_OK)
            rc = one; /* each syncs its peers, too: a failure is everybody's */
    }
    return rc;
}

static int finish(const struct bkv_group *groups, size_t count, bitkv_durability durability)
{
    for (size_t i = 0; i < count; i++) {
        if (BKV_UNLIKELY(groups[i].wake))
            bkv_worker_wake(groups[i].partition);
    }
    return durability == BITKV_DURABILITY_SYNC ? sync_all(groups, count) : BITKV_OK;
}

int bkv_groups_write(struct bkv_group *groups, size_t count, bitkv_durability durability)
{
    size_t at = 0;
    unsigned attempts = 0;
    int rc = BITKV_OK;
    durability = bkv_effective_durability(groups[0].partition, durability);
    for (size_t i = 0; i < count && rc == BITKV_OK; i++) {
        groups[i].header_size = bkv_group_header_size(i, count);
        rc = check_size(&groups[i]);
    }
    if (rc != BITKV_OK)
        return bkv_count_write_error(groups[0].partition, rc);
    do {
        for (size_t i = 0; i < count; i++)
            bkv_lock(&groups[i].partition->lock);
        rc = write_locked(groups, count, durability, &at);
        for (size_t i = count; i-- > 0;)
            bkv_unlock(&groups[i].partition->lock);
    } while (rc != BITKV_OK && !groups[0].erased && /* it is the first to be written */
             bkv_descriptor_may_come(groups[at].partition, rc, &attempts));
    if (rc == BITKV_OK)
        rc = finish(groups, count, durability);
    return bkv_count_write_error(groups[0].partition, rc);
}
