/* SPDX-License-Identifier: MIT */
/* A thread with a completion queue: writes, reads and syncs in groups, of which
 * some dozens are under way at a time, some with callbacks, some canceled. */
#include "support/crew.h"

#include <string.h>

#define SLOTS     64u
#define MOST      12u /* of a submission */
#define VALUE_MAX 6000u

struct slot {
    struct queue *queue;
    struct crew_write *write;
    uint64_t id;
    uint32_t unit, wanted, before; /* versions: that a get must find; to go back to */
    bitkv_durability how;
    bitkv_op_kind kind;
    bool used, sure; /* sure: of what is wanted */
    unsigned char value[VALUE_MAX];
};

struct queue {
    struct crew_hand *hand;
    bitkv_cq *cq;
    unsigned under_way;
    uint32_t synced;                /* writes of the ring that a sync has covered */
    unsigned writes_of[CREW_UNITS]; /* under way */
    struct slot slots[SLOTS];
    struct crew_key keys[SLOTS];
};

static bool may_fail(const struct queue *q)
{
    return q->hand->plan->tolerated != 0;
}

/* --- completions --------------------------------------------------------------- */

static void complete_write(struct queue *q, struct slot *slot, const bitkv_completion *c)
{
    struct crew_hand *hand = q->hand;
    q->writes_of[slot->unit]--;
    if (c->status == BITKV_OK || c->status == BITKV_NOT_FOUND) {
        if (atomic_load(&slot->write->effective) == 0)
            crew_effective(hand, slot->write);
        crew_acknowledge(hand, slot->write, c->status, slot->how);
        return;
    }
    if (c->status == BITKV_ERR_CANCELED)
        return; /* it stays written */
    if (c->status != BITKV_ERR_SYNC_FAILED) {
        atomic_fetch_or(&slot->write->marks, CREW_FAILED);
        hand->present[slot->unit] = slot->before; /* only one was under way */
    }
    crew_failed(hand, "a write of a queue", c->status);
}

static void complete_get(struct queue *q, const struct slot *slot, const bitkv_completion *c)
{
    struct crew_hand *hand = q->hand;
    const void *data = c->view.pin != NULL || c->view.data != NULL ? c->view.data : c->value;
    if (c->status < 0) {
        if (c->status != BITKV_ERR_CANCELED)
            crew_failed(hand, "a read of a queue", c->status);
        return;
    }
    bool absent = c->status == BITKV_NOT_FOUND;
    bool good = absent == crew_is_absent(slot->unit, slot->wanted);
    if (good && !absent) {
        size_t size = crew_value(slot->unit, 0, slot->wanted, hand->value);
        good = size == c->value_size && memcmp(data, hand->value, size) == 0;
        if (c->value == NULL && !crew_proves(hand->crew))
            good = true; /* a view, of storage that fails: it may read as zeros */
    }
    if (!good && !hand->in_doubt && slot->sure)
        crew_violation(hand->crew, 0, "a get of a queue: unit %u, wanted version %u: %s, %zu bytes",
                       slot->unit, slot->wanted, bitkv_error_name(c->status), c->value_size);
}

static void complete_sync(struct queue *q, const struct slot *slot, const bitkv_completion *c)
{
    struct crew_ring *ring = &q->hand->crew->rings[q->hand->index];
    if (c->status != BITKV_OK) {
        if (c->status != BITKV_ERR_CANCELED)
            crew_failed(q->hand, "a sync of a queue", c->status);
        return;
    }
    if (!crew_proves(q->hand->crew))
        return;
    uint32_t end = (uint32_t)(slot->write - ring->writes);
    for (; q->synced < end; q->synced++) {
        struct crew_write *write = &ring->writes[q->synced];
        if (atomic_load(&write->effective) != 0 &&
            (atomic_load(&write->marks) & (CREW_FAILED | CREW_NOTHING)) == 0)
            atomic_fetch_or(&write->marks, CREW_DURABLE);
    }
}

static void complete(struct slot *slot, const bitkv_completion *c)
{
    struct queue *q = slot->queue;
    switch (slot->kind) {
    case BITKV_OP_PUT:
    case BITKV_OP_DEL:
        complete_write(q, slot, c);
        break;
    case BITKV_OP_SYNC:
        complete_sync(q, slot, c);
        break;
    default:
        complete_get(q, slot, c);
    }
    if (c->value != NULL)
        bitkv_free(c->value);
    bitkv_view view = c->view;
    bitkv_view_release(&view);
    slot->used = false;
    q->under_way--;
}

static void called_back(bitkv_cq *cq, const bitkv_completion *c)
{
    (void)cq;
    complete(c->user_data, c);
}

static void reap(struct queue *q, int timeout_ms)
{
    bitkv_completion done[16];
    int count = bitkv_cq_wait(q->cq, done, sizeof done / sizeof done[0], timeout_ms);
    if (count < 0)
        crew_violation(q->hand->crew, count, "bitkv_cq_wait: %s", bitkv_error_name(count));
    for (int i = 0; i < count; i++)
        complete(done[i].user_data, &done[i]);
}

static void drain(struct queue *q)
{
    while (q->under_way > 0)
        reap(q, 1000);
}

/* --- submissions ------------------------------------------------------------------ */

static uint32_t pick_for_write(struct queue *q)
{
    uint32_t unit;
    do
        unit = crew_pick(q->hand, true);
    while (may_fail(q) && q->writes_of[unit] > 0);
    return unit;
}

static void prepare_write(struct queue *q, struct slot *slot, bitkv_op *op)
{
    struct crew_hand *hand = q->hand;
    size_t size;
    slot->unit = pick_for_write(q);
    slot->how = crew_durability(hand);
    do {
        slot->write = crew_begin(hand, slot->unit, slot->how);
        size = crew_value(slot->unit, 0, slot->write->version, hand->value);
        if (size > VALUE_MAX) /* never made */
            atomic_fetch_or(&slot->write->marks, CREW_FAILED);
    } while (size > VALUE_MAX);
    slot->before = hand->present[slot->unit];
    slot->kind = crew_deletes(slot->unit, slot->write->version) ? BITKV_OP_DEL : BITKV_OP_PUT;
    hand->present[slot->unit] = slot->write->version;
    q->writes_of[slot->unit]++;
    memcpy(slot->value, hand->value, size);
    op->value = slot->value;
    op->value_size = size;
    op->durability = slot->how;
    op->flags = crew_draw(hand, 2) == 0 ? BITKV_OP_COPY : 0;
}

static void prepare(struct queue *q, struct slot *slot, bitkv_op *op)
{
    struct crew_hand *hand = q->hand;
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    *op = (bitkv_op){.user_data = slot};
    slot->queue = q;
    slot->used = true;
    q->under_way++;
    uint64_t kind = crew_draw(hand, 100);
    if (kind < 70) {
        prepare_write(q, slot, op);
    } else if (kind < 99) {
        slot->kind = BITKV_OP_GET;
        slot->unit = crew_pick(hand, true);
        slot->wanted = hand->present[slot->unit];
        /* A write that is under way may turn out to have failed. */
        slot->sure = !may_fail(q) || q->writes_of[slot->unit] == 0;
        op->flags = crew_draw(hand, 2) == 0 ? BITKV_OP_VIEW : 0;
    } else {
        slot->kind = BITKV_OP_SYNC;
        slot->write = &ring->writes[atomic_load(&ring->count)];
    }
    op->kind = slot->kind;
    if (slot->kind != BITKV_OP_SYNC) {
        struct crew_key *key = &q->keys[slot - q->slots];
        *key = crew_key(slot->unit, 0);
        op->key = key;
        op->key_size = sizeof *key;
    }
    if (crew_draw(hand, 3) == 0)
        op->callback = called_back;
}

static void submit(struct queue *q)
{
    struct crew_hand *hand = q->hand;
    bitkv_op ops[MOST];
    struct slot *slots[MOST];
    size_t count = 0, wanted = 1 + crew_draw(hand, MOST);
    for (unsigned i = 0; i < SLOTS && count < wanted; i++) {
        if (!q->slots[i].used) {
            slots[count] = &q->slots[i];
            prepare(q, slots[count], &ops[count]);
            count++;
        }
    }
    uint64_t first = 0;
    int accepted = bitkv_cq_submit(q->cq, ops, count, &first);
    if (accepted != (int)count)
        crew_violation(hand->crew, accepted, "bitkv_cq_submit took %d of %zu", accepted, count);
    for (size_t i = 0; i < count; i++) {
        slots[i]->id = first + i;
        bool writes = slots[i]->kind == BITKV_OP_PUT || slots[i]->kind == BITKV_OP_DEL;
        if (writes && crew_proves(hand->crew)) /* else it may have failed */
            crew_effective(hand, slots[i]->write);
    }
    if (crew_draw(hand, 200) == 0)
        (void)bitkv_cq_cancel(q->cq, first + crew_draw(hand, count));
}

void *crew_run_queue(void *argument)
{
    static struct queue q;
    struct crew_hand *hand = argument;
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    q = (struct queue){.hand = hand};
    int rc = bitkv_cq_create(&q.cq, hand->db, NULL);
    if (rc != BITKV_OK) {
        crew_failed(hand, "bitkv_cq_create", rc);
        return NULL;
    }
    while (crew_goes_on(hand)) {
        if (atomic_load(&ring->count) >= CREW_RING - 4 * MOST) {
            drain(&q);
            crew_fold(hand);
            q.synced = atomic_load(&ring->count);
        }
        if (atomic_load(&ring->count) >= CREW_RING - 4 * MOST)
            break; /* that failed, as it may */
        if (q.under_way + MOST <= SLOTS && crew_draw(hand, 4) != 0)
            submit(&q);
        else
            reap(&q, q.under_way + MOST > SLOTS ? 100 : 0);
    }
    drain(&q);
    rc = bitkv_cq_destroy(q.cq);
    if (rc != BITKV_OK)
        crew_failed(hand, "bitkv_cq_destroy", rc);
    return NULL;
}
