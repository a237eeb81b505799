/* SPDX-License-Identifier: MIT */
/*
 * Operations in.
 *
 * A batch goes through the pipeline in groups: the first stages, which only
 * fetch cache lines, over all of a group; then its operations in order, gets
 * that follow one another as one. So a put is seen by the gets behind it and
 * by none before it, and a group of gets overlaps all of its cache misses.
 *
 * Failure modes: what is wrong with an operation is its own completion's
 * status; the others go on.
 */
#include "db/cq.h"

#include "base/error.h"
#include "db/pipeline.h"

#include <limits.h>
#include <sys/resource.h>
#include <time.h>

/* How long the kernel's answer about pages in memory is believed: 2^9 ms. */
#define STAMP_SHIFT 9u

/* A group that took this long may have waited for the disk. If the thread's
 * major faults say so, the kernel is asked again about everything; if not, it
 * was merely preempted. */
#define SLOW_GROUP_MS 8u

struct batch {
    bitkv_cq *cq;
    struct bitkv *db;
    struct bkv_epoch_slot *slot;
    uint64_t now_ms;
    uint32_t stamp;
};

static uint64_t coarse_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static void set_stamp(struct batch *batch)
{
    uint32_t doubts = atomic_load_explicit(&batch->db->residency_doubts, memory_order_relaxed);
    batch->stamp = (uint32_t)(batch->now_ms >> STAMP_SHIFT) + (doubts << 16) + 1u;
}

static bool is_get(const bitkv_op *op)
{
    return op->kind == BITKV_OP_GET || op->kind == BITKV_OP_EXISTS;
}

static int check(const struct bitkv *db, const bitkv_op *op)
{
    int rc = BITKV_OK;
    if (BKV_UNLIKELY((op->flags & ~(unsigned)(BITKV_OP_COPY | BITKV_OP_VIEW)) != 0))
        return bkv_error(BITKV_ERR_INVALID, "unknown flags %#x of an operation", op->flags);
    switch (op->kind) {
    case BITKV_OP_GET:
        if (BKV_UNLIKELY(op->buffer == NULL && op->buffer_size > 0))
            return bkv_error(BITKV_ERR_INVALID, "the buffer is NULL and its size %zu",
                             op->buffer_size);
        return bkv_check_key(op->key, op->key_size);
    case BITKV_OP_EXISTS:
        return bkv_check_key(op->key, op->key_size);
    case BITKV_OP_PUT:
        rc = bkv_check_write(db, op->key, op->key_size, op->durability);
        return rc == BITKV_OK ? bkv_check_value(op->value, op->value_size) : rc;
    case BITKV_OP_DEL:
        return bkv_check_write(db, op->key, op->key_size, op->durability);
    case BITKV_OP_SYNC:
        return BITKV_OK;
    }
    return bkv_error(BITKV_ERR_INVALID, "%d is no bitkv_op_kind", (int)op->kind);
}

/* BKV_COLD still, if the key is there: now it is certain where. */
static int settle(struct bkv_located *found, struct bkv_epoch_slot *slot,
                  const struct bkv_hash *hash, const bitkv_op *op, struct bkv_sink *sink)
{
    bkv_partition_settle(found, slot, hash);
    if (found->segment != NULL)
        return BKV_COLD;
    return bkv_partition_read_found(found, slot, hash, op->key, op->key_size, sink);
}

static void run_gets(const struct batch *batch, const bitkv_op *ops, struct bkv_stage *stages,
                     size_t count, uint64_t id)
{
    bitkv_cq *cq = batch->cq;
    for (size_t i = 0; i < count; i++)
        bkv_stage_locate(&stages[i], batch->slot);
    for (size_t i = 0; i < count; i++) {
        const bitkv_op *op = &ops[i];
        bkv_stage_renew(&stages[i], batch->slot);
        struct bkv_ready *ready = bkv_cq_complete(cq, op, id + i);
        struct bkv_sink sink = bkv_cq_sink(op, ready);
        struct bkv_located *found = &stages[i].found;
        int rc = bkv_partition_try_found(found, batch->slot, &stages[i].hash, op->key, op->key_size,
                                         &sink, batch->stamp);
        if (BKV_UNLIKELY(rc == BKV_COLD))
            rc = settle(found, batch->slot, &stages[i].hash, op, &sink);
        if (BKV_LIKELY(rc != BKV_COLD)) {
            bkv_cq_fill(ready, op, &sink, rc);
            continue;
        }
        bkv_cq_uncomplete(cq);
        bkv_pending_cold(cq, batch->db, op, id + i, &stages[i].hash, found);
    }
}

static void run_write(const struct batch *batch, const bitkv_op *op, const struct bkv_stage *stage,
                      uint64_t id)
{
    uint64_t unsynced = 0;
    int rc;
    if (op->kind == BITKV_OP_PUT)
        rc = bkv_partition_put(stage->partition, &stage->hash, op->key, op->key_size, op->value,
                               op->value_size, op->durability, &unsynced);
    else
        rc = bkv_partition_del(stage->partition, &stage->hash, op->key, op->key_size,
                               op->durability, &unsynced);
    if (rc == BITKV_OK && unsynced > 0)
        bkv_pending_write(batch->cq, op, id, stage->partition, unsynced);
    else
        bkv_cq_set_status(bkv_cq_complete(batch->cq, op, id), rc);
}

/* The stages that only fetch. What is not in order completes when its turn
 * comes: its check is made again. */
static void fetch(const struct batch *batch, const bitkv_op *ops, struct bkv_stage *stages,
                  bool *right, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        right[i] = check(batch->db, &ops[i]) == BITKV_OK;
        if (BKV_LIKELY(right[i] && ops[i].kind != BITKV_OP_SYNC))
            bkv_stage_begin(&stages[i], batch->db, ops[i].key, ops[i].key_size);
        else
            bkv_stage_none(&stages[i]);
    }
    for (size_t i = 0; i < count; i++) {
        if (is_get(&ops[i]))
            bkv_stage_slot(&stages[i]);
        else if (stages[i].partition != NULL)
            bkv_partition_prefetch_put(stages[i].partition, &stages[i].hash);
    }
}

static void run_group(const struct batch *batch, const bitkv_op *ops, size_t count, uint64_t id)
{
    struct bkv_stage stages[BKV_PIPELINE];
    bool right[BKV_PIPELINE];
    fetch(batch, ops, stages, right, count);
    for (size_t i = 0, n; i < count; i += n) {
        for (n = 0; i + n < count && right[i + n] && is_get(&ops[i + n]);)
            n++;
        if (n > 0) {
            run_gets(batch, ops + i, stages + i, n, id + i);
            continue;
        }
        n = 1;
        if (BKV_UNLIKELY(!right[i])) {
            int rc = check(batch->db, &ops[i]); /* for its text */
            bkv_cq_set_status(bkv_cq_complete(batch->cq, &ops[i], id + i), rc);
        } else if (ops[i].kind == BITKV_OP_SYNC) {
            bkv_pending_sync(batch->cq, batch->db, &ops[i], id + i);
        } else {
            run_write(batch, &ops[i], &stages[i], id + i);
        }
    }
}

static void doubt(struct batch *batch)
{
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) != 0 || usage.ru_majflt == batch->cq->major_faults)
        return;
    batch->cq->major_faults = usage.ru_majflt;
    atomic_fetch_add_explicit(&batch->db->residency_doubts, 1, memory_order_relaxed);
}

static void run_batch(struct batch *batch, const bitkv_op *ops, size_t count, uint64_t id)
{
    for (size_t at = 0; at < count; at += BKV_PIPELINE) {
        size_t rest = count - at;
        if (at > 0) { /* what was closed meanwhile may go: a batch can be long */
            bkv_epoch_pause(batch->slot);
            bkv_epoch_resume(batch->slot);
        }
        run_group(batch, ops + at, rest < BKV_PIPELINE ? rest : BKV_PIPELINE, id + at);
        uint64_t now_ms = coarse_ms();
        if (BKV_UNLIKELY(now_ms - batch->now_ms >= SLOW_GROUP_MS)) {
            batch->now_ms = now_ms;
            doubt(batch);
            set_stamp(batch);
        }
    }
}

int bitkv_cq_submit(bitkv_cq *cq, const bitkv_op *ops, size_t count, uint64_t *first_id)
{
    int rc = bkv_cq_check(cq);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    if (BKV_UNLIKELY(ops == NULL && count > 0))
        return bkv_error(BITKV_ERR_INVALID, "bitkv_cq_submit: no operations");
    if (BKV_UNLIKELY(cq->destroying))
        return bkv_error(BITKV_ERR_CLOSED, "the completion queue is being destroyed");
    struct batch batch = {.cq = cq};
    rc = bkv_cq_enter(cq, &batch.db, &batch.slot);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    if (BKV_UNLIKELY(cq->patient != NULL))
        bkv_pending_urge(cq);
    size_t room = cq->capacity - cq->outstanding;
    count = count < INT_MAX ? count : INT_MAX;
    size_t accepted = count < room ? count : room;
    if (first_id != NULL && (accepted > 0 || count == 0))
        *first_id = cq->next_id;
    uint64_t id = cq->next_id;
    cq->next_id += accepted;
    cq->outstanding += accepted;
    batch.now_ms = coarse_ms();
    set_stamp(&batch);
    run_batch(&batch, ops, accepted, id);
    bkv_pending_flush(cq);
    bkv_epoch_exit(batch.slot);
    if (cq->ready_count > 0)
        bkv_cq_signal_user(cq);
    if (BKV_UNLIKELY(accepted == 0 && count > 0))
        return bkv_error(BITKV_ERR_QUEUE_FULL,
                         "all %u operations of the queue are pending or not reaped: reap some",
                         cq->capacity);
    return (int)accepted;
}
