/* SPDX-License-Identifier: MIT */
/* A thread that makes calls: puts, deletions, conditional writes and updates of
 * single keys, batches over groups, counters, syncs; and reads what is its own. */
#include "support/crew.h"

#include <string.h>

static int read_database(void *db, const void *key, size_t key_size, void **value,
                         size_t *value_size)
{
    return bitkv_get(db, key, key_size, value, value_size);
}

/* --- single keys ------------------------------------------------------------------- */

struct update {
    struct crew_hand *hand;
    const struct crew_write *write;
    uint32_t found; /* version of what was there */
};

/* Between what it sees and what it writes nobody else has written. */
static int change(void *user, bitkv_update_step *step)
{
    struct update *update = user;
    const struct crew_write *write = update->write;
    uint32_t head[4] = {0};
    if (step->present && step->value_size >= sizeof head)
        memcpy(head, step->value, sizeof head);
    update->found = step->present ? head[2] : CREW_ABSENT;
    if (crew_deletes(write->unit, write->version))
        return BITKV_UPDATE_DELETE;
    step->new_value = update->hand->value;
    step->new_value_size = crew_value(write->unit, 0, write->version, update->hand->value);
    return BITKV_UPDATE_PUT;
}

static void expect_present(struct crew_hand *hand, uint32_t unit, uint32_t found, const char *what)
{
    uint32_t wanted = hand->present[unit];
    bool same = found == CREW_ABSENT ? crew_is_absent(unit, wanted) : found == wanted;
    if (!same && !hand->in_doubt)
        crew_violation(hand->crew, 0, "%s: unit %u has version %d, and not %u", what, unit,
                       (int)found, wanted);
}

static int update_key(struct crew_hand *hand, const struct crew_write *write, bitkv_durability how)
{
    struct crew_key key = crew_key(write->unit, 0);
    struct update update = {.hand = hand, .write = write, .found = CREW_ABSENT};
    int rc = bitkv_update(hand->db, &key, sizeof key, change, &update, how);
    if (rc >= 0)
        expect_present(hand, write->unit, update.found, "bitkv_update");
    return rc;
}

/* By the version that the key has, which nobody else changes. */
static int write_if(struct crew_hand *hand, const struct crew_write *write, bitkv_durability how)
{
    struct crew_key key = crew_key(write->unit, 0);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    int rc = bitkv_info(hand->db, &key, sizeof key, &info);
    if (rc < 0)
        return rc;
    bool absent = rc == BITKV_NOT_FOUND;
    if (crew_deletes(write->unit, write->version))
        return absent ? BITKV_NOT_FOUND
                      : bitkv_del_if(hand->db, &key, sizeof key, info.version, how);
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.durability = how;
    options.condition = absent ? BITKV_IF_ABSENT : BITKV_IF_VERSION;
    options.version = info.version;
    uint64_t version = 0;
    size_t size = crew_value(write->unit, 0, write->version, hand->value);
    rc = bitkv_put_if(hand->db, &key, sizeof key, hand->value, size, &options, &version);
    if (rc == BITKV_OK && !absent && version <= info.version)
        crew_violation(hand->crew, 0, "bitkv_put_if: version %llu after %llu",
                       (unsigned long long)version, (unsigned long long)info.version);
    return rc;
}

static int put_or_delete(struct crew_hand *hand, const struct crew_write *write,
                         bitkv_durability how)
{
    struct crew_key key = crew_key(write->unit, 0);
    if (crew_deletes(write->unit, write->version))
        return bitkv_del_with(hand->db, &key, sizeof key, how);
    size_t size = crew_value(write->unit, 0, write->version, hand->value);
    return bitkv_put_with(hand->db, &key, sizeof key, hand->value, size, how);
}

/* --- groups ------------------------------------------------------------------------------ */

static int write_group(struct crew_hand *hand, bitkv_batch *batch, const struct crew_write *write,
                       bitkv_durability how)
{
    bitkv_batch_clear(batch);
    bool deletes = crew_deletes(write->unit, write->version);
    for (unsigned i = 0; i < CREW_GROUP; i++) {
        struct crew_key key = crew_key(write->unit, i);
        size_t size = deletes ? 0 : crew_value(write->unit, i, write->version, hand->value);
        int rc = deletes ? bitkv_batch_del(batch, &key, sizeof key)
                         : bitkv_batch_put(batch, &key, sizeof key, hand->value, size);
        if (rc != BITKV_OK)
            return rc;
    }
    return bitkv_write(hand->db, batch, how);
}

/* --- all of it ----------------------------------------------------------------------------- */

/* After a call that failed, what was there before is there still. */
static void note_result(struct crew_hand *hand, struct crew_write *write, int rc,
                        bitkv_durability how)
{
    if (rc == BITKV_OK || rc == BITKV_NOT_FOUND) {
        crew_effective(hand, write);
        crew_acknowledge(hand, write, rc, how);
        hand->present[write->unit] = write->version;
        return;
    }
    if (rc != BITKV_ERR_SYNC_FAILED)
        atomic_fetch_or(&write->marks, CREW_FAILED);
    crew_failed(hand, "a write", rc);
}

static void write_one(struct crew_hand *hand, bitkv_batch *batch)
{
    uint32_t unit = crew_pick(hand, false);
    bitkv_durability how = crew_durability(hand);
    struct crew_write *write = crew_begin(hand, unit, how);
    int rc;
    if (crew_is_group(unit)) {
        rc = write_group(hand, batch, write, how);
    } else {
        switch (crew_draw(hand, 8)) {
        case 0:
            rc = update_key(hand, write, how);
            break;
        case 1:
            rc = write_if(hand, write, how);
            break;
        default:
            rc = put_or_delete(hand, write, how);
        }
    }
    note_result(hand, write, rc, how);
}

static void read_one(struct crew_hand *hand)
{
    uint32_t unit = crew_pick(hand, false), found;
    int rc = crew_read_unit(hand->crew, read_database, hand->db, "a read of its own", unit, &found);
    if (rc != BITKV_OK)
        crew_failed(hand, "bitkv_get", rc);
    else
        expect_present(hand, unit, found, "bitkv_get");
}

static void count_one(struct crew_hand *hand)
{
    unsigned i = (unsigned)crew_draw(hand, CREW_COUNTERS);
    struct crew_counter *counter = &crew_model(hand->crew)->counters[i];
    struct crew_key key = {.name = "counter/", .unit = i};
    atomic_fetch_add(&counter->begun[hand->index], 1);
    int rc = bitkv_add(hand->db, &key, sizeof key, 1, NULL);
    if (rc == BITKV_OK)
        atomic_fetch_add(&counter->acknowledged[hand->index], 1);
    else
        crew_failed(hand, "bitkv_add", rc);
}

void *crew_make_calls(void *argument)
{
    struct crew_hand *hand = argument;
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    bitkv_batch *batch = NULL;
    int rc = bitkv_batch_create(&batch);
    if (rc != BITKV_OK)
        crew_failed(hand, "bitkv_batch_create", rc);
    while (crew_goes_on(hand)) {
        if (atomic_load(&ring->count) >= CREW_RING - 1)
            crew_fold(hand);
        if (atomic_load(&ring->count) >= CREW_RING - 1)
            break; /* that failed, as it may */
        write_one(hand, batch);
        if (crew_draw(hand, 12) == 0)
            read_one(hand);
        if (crew_draw(hand, 30) == 0)
            count_one(hand);
        if (crew_draw(hand, (uint64_t)hand->plan->sync_one_in * 4) == 0 &&
            (rc = crew_sync(hand)) != BITKV_OK)
            crew_failed(hand, "bitkv_sync", rc);
    }
    bitkv_batch_destroy(batch);
    return NULL;
}
