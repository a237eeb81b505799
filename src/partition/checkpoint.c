/* SPDX-License-Identifier: MIT */
/*
 * Writing a KeyDir checkpoint while the partition serves.
 *
 * The image is fuzzy: its groups are copied one by one, each for a few
 * microseconds under the lock, while writers go on in between. That is enough
 * (after the fuzzy checkpoints of Hagmann, "A crash recovery scheme for a
 * memory-resident database system", 1986): replaying the log from where the
 * image was begun gives the same end state, whichever of those writes a group
 * has seen already.
 *
 * What a group may have seen lies before the log's end when the last group was
 * copied. The log is synced up to there before the checkpoint takes its place,
 * so that it never knows a record that a power cut could take.
 *
 * Failure modes: anything fails: the old checkpoint stays, and one more is
 * tried later. A subtable outgrows what the image can hold (a writer that
 * doubled the KeyDir meanwhile): likewise.
 */
#include "partition/state.h"

#include "base/error.h"
#include "base/memory.h"
#include "log/checkpoint.h"

#include <string.h>

struct job {
    struct bkv_checkpoint_writer writer;
    struct bkv_checkpoint_info info;
    struct bkv_checkpoint_segment *segments;
    uint8_t *buffer;
    size_t capacity;
};

/* *any = false: there is nothing to save. */
static int begin_image(struct bkv_partition *p, struct job *job, bool *any)
{
    struct bkv_checkpoint_info *info = &job->info;
    info->partition = p->index;
    memcpy(info->database_id, p->store->manifest.database_id, sizeof info->database_id);
    bkv_lock(&p->lock);
    *any = p->last != NULL;
    int rc = bkv_settle(p); /* what the log has before `start` has to be in the image */
    if (*any && rc == BITKV_OK) {
        info->groups = bkv_keydir_image_begin(p->keydir);
        info->start_segment = p->last->id;
        info->start_offset = atomic_load_explicit(&p->last->size, memory_order_relaxed);
        info->start_sequence = p->next_sequence;
    }
    bkv_unlock(&p->lock);
    return rc;
}

static int grow_buffer(struct job *job, size_t size)
{
    uint8_t *larger = bkv_realloc(job->buffer, size);
    if (larger == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a checkpoint");
    job->buffer = larger;
    job->capacity = size;
    return BITKV_OK;
}

/* Copies a group under the lock; *size = 0 if the image has failed. Room is
 * made without the lock, so the group may have outgrown it: then again. */
static int copy_group(struct bkv_partition *p, struct job *job, uint32_t group, size_t *size)
{
    for (;;) {
        bkv_lock(&p->lock);
        *size = bkv_keydir_image_group_size(p->keydir, group);
        bool fits = *size <= job->capacity;
        if (fits && *size > 0)
            bkv_keydir_image_group(p->keydir, group, job->buffer);
        bkv_unlock(&p->lock);
        if (fits)
            return BITKV_OK;
        int rc = grow_buffer(job, *size);
        if (rc != BITKV_OK)
            return rc;
    }
}

static int write_groups(struct bkv_partition *p, struct job *job)
{
    for (uint32_t group = 0; group < job->info.groups; group++) {
        size_t size;
        int rc = copy_group(p, job, group, &size);
        if (rc == BITKV_OK && size == 0)
            rc = bkv_error(BITKV_ERR_LIMIT, "the KeyDir outgrew its checkpoint while it was "
                                            "written; one more is tried later");
        if (rc == BITKV_OK)
            rc = bkv_writer_add(&job->writer.stream, job->buffer, size);
        if (rc != BITKV_OK)
            return rc;
        if (group % 16 == 0)
            bkv_worker_urgent(p);
    }
    return BITKV_OK;
}

static void end_image(struct bkv_partition *p)
{
    bkv_lock(&p->lock);
    bkv_keydir_image_end(p->keydir);
    bkv_unlock(&p->lock);
}

/* The end of what the image knows, and the segments up to there. The layout is
 * held: none is taken out of the list, and only the last one changes. */
static int list_segments(struct bkv_partition *p, struct job *job)
{
    struct bkv_checkpoint_info *info = &job->info;
    bkv_lock(&p->lock);
    const struct bkv_segment *first = p->first;
    const struct bkv_segment *last = p->last;
    info->end_segment = last->id;
    info->end_offset = atomic_load_explicit(&last->size, memory_order_relaxed);
    info->next_segment_id = p->next_id;
    info->keys = bkv_keydir_count(p->keydir);
    uint64_t last_sequence = p->next_sequence - 1;
    bkv_unlock(&p->lock);

    uint32_t count = 1;
    for (const struct bkv_segment *s = first; s != last; s = s->next)
        count++;
    job->segments = bkv_calloc(count, sizeof *job->segments);
    if (job->segments == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a checkpoint's table");
    const struct bkv_segment *s = first;
    for (uint32_t n = 0; n < count; n++, s = n < count ? s->next : NULL) {
        job->segments[n] = (struct bkv_checkpoint_segment){
            .id = s->id,
            .base_sequence = s->base_sequence,
            .size = s == last ? info->end_offset : atomic_load(&s->size),
            .last_sequence = s == last ? last_sequence : s->last_sequence,
            .number = s->number,
        };
    }
    info->segments = count;
    return BITKV_OK;
}

/* With the layout held, so that no segment goes whose locations are in the image. */
static int write_checkpoint(struct bkv_partition *p)
{
    struct job job = {0};
    uint64_t file_size = 0;
    uint64_t begun_at = atomic_load(&p->appended);
    bool any;
    int rc = begin_image(p, &job, &any);
    if (rc != BITKV_OK || !any)
        return rc;
    rc = bkv_checkpoint_begin(&job.writer, &p->store->dir, p->index);
    if (rc != BITKV_OK) {
        end_image(p);
        return rc;
    }
    rc = write_groups(p, &job);
    end_image(p);
    if (rc == BITKV_OK)
        rc = list_segments(p, &job);
    if (rc == BITKV_OK)
        rc = bkv_sync_all(p);
    if (rc == BITKV_OK) {
        rc = bkv_checkpoint_finish(&job.writer, &job.info, job.segments, &file_size);
    } else {
        bkv_checkpoint_abandon(&job.writer);
    }
    if (rc == BITKV_OK) {
        atomic_store(&p->checkpoint_bytes, file_size);
        atomic_fetch_add(&p->checkpoints, 1);
        p->checkpoint_tail = begun_at;
        p->checkpoint_valid = true;
    }
    bkv_mfree(job.segments);
    bkv_mfree(job.buffer);
    return rc;
}

int bkv_checkpoint_write(struct bkv_partition *p)
{
    (void)pthread_mutex_lock(&p->layout_mutex);
    int rc = bkv_install_go_on(p);
    if (rc == BITKV_OK)
        rc = write_checkpoint(p);
    (void)pthread_mutex_unlock(&p->layout_mutex);
    return rc;
}
