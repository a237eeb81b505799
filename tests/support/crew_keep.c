/* SPDX-License-Identifier: MIT */
/* A thread that keeps house: compaction by hand, backups, snapshots that are
 * compared with what was known when they were taken. */
#include "support/crew.h"

#include <time.h>

static int read_snapshot(void *snapshot, const void *key, size_t key_size, void **value,
                         size_t *value_size)
{
    return bitkv_snapshot_get(snapshot, key, key_size, value, value_size);
}

static void copy_acknowledged(struct crew *crew, uint32_t versions[CREW_UNITS])
{
    for (uint32_t u = 0; u < crew->units; u++) {
        struct crew_unit *unit = &crew_model(crew)->units[u];
        versions[u] = atomic_load(&unit->acknowledged);
    }
}

/* All of its units are of one moment between the beginning and the end. */
static void look_at_snapshot(struct crew_hand *hand)
{
    struct crew *crew = hand->crew;
    uint32_t least[CREW_UNITS];
    bitkv_snapshot *snapshot;
    copy_acknowledged(crew, least);
    int rc = bitkv_snapshot_create(&snapshot, hand->db);
    if (rc != BITKV_OK) {
        crew_failed(hand, "bitkv_snapshot_create", rc);
        return;
    }
    for (uint32_t u = 0; u < crew->units && !atomic_load(&crew->stop); u++) {
        const struct crew_unit *unit = &crew_model(crew)->units[u];
        uint32_t found, most = atomic_load(&unit->begun);
        rc = crew_read_unit(crew, read_snapshot, snapshot, "a snapshot", u, &found);
        if (rc != BITKV_OK) {
            crew_failed(hand, "bitkv_snapshot_get", rc);
            break;
        }
        if (found != CREW_ABSENT && (found < least[u] || found > most))
            crew_violation(crew, 0, "a snapshot: unit %u has version %u, not of %u to %u", u, found,
                           least[u], most);
    }
    rc = bitkv_snapshot_destroy(snapshot);
    if (rc != BITKV_OK)
        crew_failed(hand, "bitkv_snapshot_destroy", rc);
    atomic_fetch_add(&crew->snapshots, 1);
}

static void make_backup(struct crew_hand *hand)
{
    struct crew *crew = hand->crew;
    uint32_t least[CREW_UNITS];
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.verify = crew_draw(hand, 4) == 0;
    options.no_links = crew_draw(hand, 8) == 0;
    copy_acknowledged(crew, least);
    int rc = bitkv_backup(hand->db, hand->plan->backup, &options);
    if (rc != BITKV_OK) {
        crew_failed(hand, "bitkv_backup", rc);
        return;
    }
    if (!crew_proves(crew))
        return;
    for (uint32_t u = 0; u < crew->units; u++)
        atomic_store(&crew->backup_floor[u], least[u]);
    atomic_fetch_add(&crew->backups, 1);
}

static void compact(struct crew_hand *hand)
{
    int rc = bitkv_compact(hand->db, BITKV_ALL_PARTITIONS, NULL, NULL);
    if (rc != BITKV_OK)
        crew_failed(hand, "bitkv_compact", rc);
    else
        atomic_fetch_add(&hand->crew->compactions, 1);
}

static enum crew_keeping choose(struct crew_hand *hand)
{
    uint64_t what = crew_draw(hand, 8);
    if (what < 5 && hand->plan->compacts)
        return CREW_COMPACTS;
    return what == 5 && hand->plan->backup != NULL ? CREW_BACKS_UP : CREW_LOOKS;
}

void *crew_keep_house(void *argument)
{
    struct crew_hand *hand = argument;
    static void (*const chores[])(struct crew_hand *) = {
        [CREW_COMPACTS] = compact, [CREW_BACKS_UP] = make_backup, [CREW_LOOKS] = look_at_snapshot};
    while (crew_goes_on(hand)) {
        struct timespec t = {.tv_nsec = (long)crew_draw(hand, 5000000)};
        (void)nanosleep(&t, NULL);
        enum crew_keeping chore = choose(hand);
        atomic_store(&hand->crew->keeping, (int)chore);
        chores[chore](hand);
        atomic_store(&hand->crew->keeping, CREW_RESTS);
    }
    return NULL;
}
