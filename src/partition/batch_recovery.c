/* SPDX-License-Identifier: MIT */
/*
 * Recovery of batches: a part counts if all of them are there.
 *
 * What lies before a partition's durable place is decided: no sync acknowledges,
 * and marks, a batch whose parts are not all on the disk. Behind it:
 *
 *   a group that is not whole         the log ends before it
 *   one without peers                 is applied
 *   one with peers                    is noted. From the first of these on nothing
 *                                     is applied: the rest of the log is only read,
 *                                     so that it is known where it ends and which
 *                                     groups are in it
 *
 * When all partitions have come that far, the opener decides for all: a log is cut
 * before the first group of which a peer's log does not hold its part, and that may
 * take parts from other logs, until nothing changes. So a batch is there as a
 * whole or not at all, and each log is a prefix. Then every partition applies what
 * is left, and cuts its file. Nobody appends before all have done so: the sequence
 * numbers of a part that was cut are given to other records then, and an opening
 * that was interrupted has to be able to decide again as it did before.
 *
 * That a log reaches up to a part's last sequence number says that the part is
 * there, since it is a prefix. So a header names numbers, not contents.
 *
 * Parts that hold are bound together again, as when they had just been written:
 * nothing says yet that they are durable.
 *
 * Failure modes: no memory to note a group: the opening fails. Headers that make
 * no sense (they verify, so somebody made them): as if a peer were missing.
 */
#include "partition/recovery.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"

#include <inttypes.h>

/* --- noting ------------------------------------------------------------------------- */

static int make_room(struct bkv_recover *r, uint32_t peers)
{
    if (!bkv_grow(&r->open_groups, r->open_count, 1, sizeof *r->open_groups, &r->open_capacity) ||
        !bkv_grow(&r->open_peers, r->peer_count, peers, sizeof *r->open_peers, &r->peer_capacity))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to recover batches");
    return BITKV_OK;
}

static int note(struct bkv_recover *r, struct bkv_place place, const struct bkv_scan_item *item)
{
    uint32_t peers = bkv_get32(item->value + 4);
    int rc = make_room(r, peers);
    if (rc != BITKV_OK)
        return rc;
    r->open_groups[r->open_count++] = (struct bkv_open_group){
        .place = place,
        .sequence = item->record.sequence,
        .first_peer = r->peer_count,
        .peers = peers,
    };
    for (uint32_t i = 0; i < peers; i++) {
        const uint8_t *bytes = item->value + BKV_BATCH_FIXED + (size_t)i * BKV_BATCH_PEER;
        r->open_peers[r->peer_count++] = (struct bkv_open_peer){
            .partition = bkv_get32(bytes),
            .count = bkv_get32(bytes + 4),
            .sequence = bkv_get64(bytes + 8),
        };
    }
    return BITKV_OK;
}

static void forget(struct bkv_recover *r)
{
    r->open_count--;
    r->peer_count = r->open_groups[r->open_count].first_peer;
}

/* Behind the header that the scanner has just delivered: as many records of keys
 * as it says, in sequence? */
static int look_for_records(struct bkv_scanner *scanner, uint32_t count, uint64_t sequence,
                            bool *whole)
{
    *whole = count > 0;
    for (uint32_t i = 0; i < count && *whole; i++) {
        struct bkv_scan_item item;
        int rc = bkv_scanner_next(scanner, &item);
        if (rc != BITKV_OK)
            return rc;
        *whole = item.kind == BKV_SCAN_RECORD && !bkv_record_is_keyless(&item.record) &&
                 item.record.sequence == ++sequence;
    }
    return BITKV_OK;
}

static void wait_from(struct bkv_recover *r, struct bkv_place place)
{
    if (r->waiting)
        return;
    r->waiting = true;
    r->wait_place = place;
    r->wait_sequence = r->last_sequence;
}

int bkv_group_take(struct bkv_recover *r, struct bkv_scanner *scanner, struct bkv_place place,
                   const struct bkv_scan_item *item, bool *whole)
{
    /* Copied: the value is not there any more once the scanner has gone on. */
    uint32_t count = bkv_get32(item->value);
    uint32_t peers = bkv_get32(item->value + 4);
    *whole = item->record.value_size == BKV_BATCH_FIXED + (uint64_t)peers * BKV_BATCH_PEER;
    if (!*whole)
        return BITKV_OK;
    int rc = note(r, place, item);
    if (rc != BITKV_OK)
        return rc;
    rc = look_for_records(scanner, count, item->record.sequence, whole);
    bkv_scanner_seek(scanner, item->offset + item->size);
    if (!*whole || peers == 0)
        forget(r);
    else
        wait_from(r, place);
    return rc;
}

/* --- deciding -------------------------------------------------------------------------- */

static bool peer_is_there(struct bkv_recover *const *all, uint32_t count, uint32_t own,
                          const struct bkv_open_peer *peer)
{
    if (peer->partition >= count || peer->partition == own)
        return false;
    uint64_t last = all[peer->partition]->kept_sequence;
    return last >= peer->sequence && last - peer->sequence >= peer->count;
}

/* The first of a log's groups that has to go; its number if all hold. */
static size_t first_broken(struct bkv_recover *const *all, uint32_t count, uint32_t own)
{
    const struct bkv_recover *r = all[own];
    for (size_t i = 0; i < r->open_count; i++) {
        const struct bkv_open_group *g = &r->open_groups[i];
        for (uint32_t k = 0; k < g->peers; k++) {
            if (!peer_is_there(all, count, own, &r->open_peers[g->first_peer + k]))
                return i;
        }
    }
    return r->open_count;
}

static void drop_from(struct bkv_recover *r, size_t group)
{
    r->kept_sequence = r->open_groups[group].sequence - 1;
    r->cut_place = r->open_groups[group].place;
    r->open_count = group;
    r->cut_decided = true;
}

static void bind_again(struct bkv_recover *r)
{
    for (size_t i = 0; i < r->open_count; i++) {
        const struct bkv_open_group *g = &r->open_groups[i];
        for (uint32_t k = 0; k < g->peers; k++)
            bkv_peers_add(&r->p->peers, r->open_peers[g->first_peer + k].partition);
    }
}

static void decide(struct bkv_recover *const *all, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        all[i]->kept_sequence = all[i]->last_sequence;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < count; i++) {
            size_t broken = first_broken(all, count, i);
            if (broken < all[i]->open_count) {
                drop_from(all[i], broken);
                changed = true;
            }
        }
    }
    for (uint32_t i = 0; i < count; i++)
        bind_again(all[i]);
}

int bkv_partitions_decide(struct bkv_partition *const *partitions, uint32_t count)
{
    struct bkv_recover **all = bkv_malloc(count * sizeof *all);
    if (all == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to recover batches");
    for (uint32_t i = 0; i < count; i++)
        all[i] = partitions[i]->recovering;
    decide(all, count);
    bkv_mfree(all);
    return BITKV_OK;
}

/* --- cutting ---------------------------------------------------------------------------- */

/* What lies behind the cut has been found valid: its bytes are those of records. */
static uint64_t drop_behind(struct bkv_recover *r)
{
    struct bkv_place at = r->cut_place;
    struct bkv_segment *last = r->found[at.file].segment;
    uint64_t bytes = atomic_load(&last->size) - at.offset;
    atomic_store(&last->size, at.offset);
    last->last_sequence = r->kept_sequence;
    for (size_t i = at.file + 1; i < r->count; i++) {
        if (!r->found[i].dropped)
            bytes += atomic_load(&r->found[i].segment->size) - BKV_SEGMENT_HEADER;
        r->found[i].dropped = true;
    }
    return bytes;
}

void bkv_groups_cut(struct bkv_recover *r)
{
    if (!r->cut_decided)
        return;
    struct bkv_partition *p = r->p;
    uint64_t bytes = drop_behind(r);
    p->recovery.torn_tails += !r->cut;
    p->recovery.torn_tail_bytes += bytes;
    r->cut = true;
    r->last_sequence = r->kept_sequence;
    if (p->store->options.read_only)
        return; /* its other parts may only have been written since they were looked for */
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, r->found[r->cut_place.file].id);
    bkv_log(p->store, BITKV_LOG_WARNING,
            "%s/%s at offset %" PRIu64 ": a batch of which other partitions have lost their part "
            "in a crash, %" PRIu64 " bytes cut",
            p->store->dir.path, name, r->cut_place.offset, bytes);
}

void bkv_groups_free(struct bkv_recover *r)
{
    bkv_mfree(r->open_groups);
    bkv_mfree(r->open_peers);
}
