/* SPDX-License-Identifier: MIT */
/*
 * Segments that compaction has replaced: how they leave.
 *
 *   out of the list and the KeyDir -> every reader of that moment has left its
 *   section, every reference and every older hold is gone -> out of the table,
 *   closed, hint and data unlinked, the number free -> who had it open by the table
 *   has left, every view is released -> unmapped, and the space free
 *
 * The order matters to none but readers: on disk the inputs are void from the
 * moment that the output has its name, and an opening removes what a crash
 * leaves of them (recovery.c, drop_superseded()).
 *
 * Failure modes: an unlink fails: logged, the file stays until the next
 * opening. No memory to retire a mapping: tried again later.
 */
#include "partition/compact.h"

#include "base/epoch.h"
#include "base/error.h"
#include "base/schedule.h"
#include "log/filename.h"

void bkv_segments_replace(struct bkv_partition *p, const struct bkv_run *run,
                          struct bkv_segment *output)
{
    struct bkv_segment *last = run->segments[run->count - 1];
    atomic_store(&output->next, atomic_load(&last->next));
    if (run->before != NULL)
        atomic_store_explicit(&run->before->next, output, memory_order_release);
    else
        atomic_store_explicit(&p->first, output, memory_order_release);
    if (p->last == last)
        p->last = output;
    uint64_t stamp = bkv_epoch_stamp();
    for (uint32_t i = 0; i < run->count; i++) {
        struct bkv_segment *segment = run->segments[i];
        segment->removal = ++p->removals;
        segment->removal_stamp = stamp;
        segment->next_removed = p->removed;
        p->removed = segment;
    }
}

static void unlink_files(struct bkv_partition *p, const struct bkv_segment *segment)
{
    if (p->store->options.read_only)
        return; /* a follower: that is the writer's */
    char name[BKV_NAME_SIZE];
    bkv_name_hint(name, p->index, segment->id);
    int rc = bkv_dir_unlink(&p->store->dir, name);
    bkv_name_data(name, p->index, segment->id);
    if (rc == BITKV_OK)
        rc = bkv_dir_unlink(&p->store->dir, name);
    if (rc != BITKV_OK)
        bkv_log(p->store, BITKV_LOG_WARNING, "a compacted file stays until the next opening: %s",
                bitkv_error_context());
}

/* The oldest state that somebody holds. */
static uint64_t held_since(struct bkv_partition *p)
{
    uint64_t since = UINT64_MAX;
    for (const struct bkv_hold *hold = p->holds; hold != NULL; hold = hold->next)
        since = bkv_min64(since, hold->removals);
    return since;
}

/* Takes those out that can go; *soon: others only wait for readers. */
static struct bkv_segment *take_free(struct bkv_partition *p, bool *soon)
{
    struct bkv_segment *taken = NULL;
    bkv_lock(&p->lock);
    uint64_t since = held_since(p);
    for (struct bkv_segment **link = &p->removed; *link != NULL;) {
        struct bkv_segment *s = *link;
        bool held = s->removal > since;
        bool used = !bkv_epoch_passed(s->removal_stamp) || atomic_load(&s->refs) > 1;
        if (held || used) {
            /* A feed that leaves it tells, and may take its time. */
            *soon |= !held && atomic_load(&s->feeds) == 0;
            link = &s->next_removed;
        } else {
            *link = s->next_removed;
            s->next_removed = taken;
            taken = s;
            p->leaving++;
        }
    }
    bkv_unlock(&p->lock);
    return taken;
}

static void put_back(struct bkv_partition *p, struct bkv_segment *segment)
{
    bkv_lock(&p->lock);
    segment->next_removed = p->removed;
    p->removed = segment;
    p->leaving--;
    bkv_unlock(&p->lock);
}

static void give_up(struct bkv_partition *p, struct bkv_segment *segment)
{
    BKV_SCHEDULE_POINT("removal.closed");
    unlink_files(p, segment);
    BKV_SCHEDULE_POINT("removal.unlinked");
    bkv_lock(&p->lock);
    bkv_segment_number_free(p, segment->number);
    p->leaving--;
    bkv_unlock(&p->lock);
    bkv_segment_unref(segment);
}

enum bkv_retirement bkv_removed_reclaim(struct bkv_partition *p)
{
    bool soon = false;
    struct bkv_segment *segment = take_free(p, &soon);
    while (segment != NULL) {
        struct bkv_segment *next = segment->next_removed;
        if (bkv_segment_close(p, segment)) {
            give_up(p, segment);
        } else {
            put_back(p, segment);
            soon = true;
        }
        segment = next;
    }
    enum bkv_retirement left = bkv_segments_reclaim(p);
    return soon ? BKV_RETIRED_READ : left;
}

bool bkv_removed_pending(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    bool pending = p->leaving > 0;
    uint64_t since = held_since(p);
    for (const struct bkv_segment *s = p->removed; s != NULL; s = s->next_removed)
        pending |= s->removal <= since && atomic_load(&s->feeds) == 0;
    bkv_unlock(&p->lock);
    return pending || bkv_segments_reclaim(p) == BKV_RETIRED_READ;
}
