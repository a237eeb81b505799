/* SPDX-License-Identifier: MIT */
/*
 * The oracle: what an opening finds, against the notes of the life before.
 *
 * It reads all units, then judges each by its bounds, then, if the power was cut,
 * each partition by the order of its writes. What is absent may be so by any of
 * several deletions; it is taken for the one that claims least.
 */
#include "support/crew.h"

#include "base/hash.h"
#include "db/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARTITIONS 16u
#define NONE       UINT32_MAX

struct oracle {
    struct crew *crew;
    struct crew_model *model;
    bool cut; /* only what is durable must be there */
    uint64_t synced;
    uint32_t found[CREW_UNITS]; /* CREW_ABSENT, or a version */
    uint32_t taken[CREW_UNITS]; /* the version that this is taken for */
    uint32_t count[CREW_WRITERS];
    /* The writes of a unit, from the last one back. */
    uint32_t last[CREW_UNITS], before[CREW_WRITERS][CREW_RING];
    struct {
        uint64_t newest;            /* write that is kept: when it began */
        uint32_t own[CREW_WRITERS]; /* 1 + place of the last one kept */
    } partitions[PARTITIONS];
};

/* --- reading ------------------------------------------------------------------ */

static int read_key(struct crew *crew, crew_reader read, void *from, const char *what,
                    uint32_t unit, unsigned index, uint32_t *version)
{
    static _Thread_local unsigned char wanted[CREW_VALUE];
    struct crew_key key = crew_key(unit, index);
    void *value;
    size_t size;
    uint32_t head[4];
    int rc = read(from, &key, sizeof key, &value, &size);
    *version = CREW_ABSENT;
    if (rc == BITKV_NOT_FOUND)
        return BITKV_OK;
    if (rc != BITKV_OK)
        return rc;
    if (size >= sizeof head) {
        memcpy(head, value, sizeof head);
        *version = head[2];
    }
    if (size < sizeof head || head[0] != unit || head[1] != index ||
        crew_is_absent(unit, head[2]) || size != crew_value(unit, index, head[2], wanted) ||
        memcmp(value, wanted, size) != 0)
        crew_violation(crew, 0, "%s: unit %u, key %u: %zu bytes that nobody wrote (version %d)",
                       what, unit, index, size, (int)*version);
    bitkv_free(value);
    return BITKV_OK;
}

int crew_read_unit(struct crew *crew, crew_reader read, void *from, const char *what, uint32_t unit,
                   uint32_t *version)
{
    for (unsigned i = 0; i < crew_keys(unit); i++) {
        uint32_t of_key;
        int rc = read_key(crew, read, from, what, unit, i, &of_key);
        if (rc != BITKV_OK)
            return rc;
        if (i > 0 && of_key != *version)
            crew_violation(crew, 0, "%s: batch in pieces: unit %u, key %u has version %d, not %d",
                           what, unit, i, (int)of_key, (int)*version);
        *version = of_key;
    }
    return BITKV_OK;
}

static int read_database(void *db, const void *key, size_t key_size, void **value,
                         size_t *value_size)
{
    return bitkv_get(db, key, key_size, value, value_size);
}

/* --- bounds ------------------------------------------------------------------------ */

static struct crew_write *write_at(struct oracle *o, uint32_t unit, uint32_t place)
{
    return &o->crew->rings[crew_owner(unit)].writes[place];
}

static void index_writes(struct oracle *o)
{
    memset(o->last, 0xff, sizeof o->last);
    for (unsigned w = 0; w < CREW_WRITERS; w++) {
        struct crew_ring *ring = &o->crew->rings[w];
        o->count[w] = atomic_load(&ring->life) == o->model->life ? atomic_load(&ring->count) : 0;
        for (uint32_t i = 0; i < o->count[w]; i++) {
            o->before[w][i] = o->last[ring->writes[i].unit];
            o->last[ring->writes[i].unit] = i;
        }
    }
}

#define for_writes_of(o, u, i)                                                                     \
    for (uint32_t i = (o)->last[u]; i != NONE; i = (o)->before[crew_owner(u)][i])

static bool is_durable(const struct oracle *o, struct crew_write *write)
{
    uint64_t acknowledged = atomic_load(&write->acknowledged);
    unsigned marks = atomic_load(&write->marks);
    if ((marks & CREW_DURABLE) != 0)
        return true;
    if (acknowledged == 0 || (marks & CREW_NOTHING) != 0)
        return false;
    return acknowledged < o->synced ||
           (atomic_load(&o->crew->rested) && (marks & CREW_INTERVAL) != 0);
}

/* The version that must at least be there. */
static uint32_t least_of(struct oracle *o, uint32_t u)
{
    struct crew_unit *unit = &o->model->units[u];
    if (!o->cut)
        return atomic_load(&unit->acknowledged);
    uint32_t least = atomic_load(&unit->durable);
    for_writes_of(o, u, i)
    {
        struct crew_write *write = write_at(o, u, i);
        if (write->version > least && is_durable(o, write))
            least = write->version;
    }
    return least;
}

static bool has_failed(struct oracle *o, uint32_t u, uint32_t version)
{
    for_writes_of(o, u, i)
    {
        if (write_at(o, u, i)->version == version)
            return (atomic_load(&write_at(o, u, i)->marks) & CREW_FAILED) != 0;
    }
    return false;
}

/* What is known of a unit's writes, before its violation is told. */
static void tell_history(struct oracle *o, uint32_t u)
{
    (void)fprintf(stderr, "cut off at %llu; last sync that succeeded began at %llu; unit %u:\n",
                  (unsigned long long)atomic_load(&o->crew->cut_at), (unsigned long long)o->synced,
                  u);
    for_writes_of(o, u, i)
    {
        struct crew_write *w = write_at(o, u, i);
        unsigned marks = atomic_load(&w->marks);
        (void)fprintf(stderr,
                      "  version %u%s: begun %llu, effective %llu, acknowledged %llu%s%s%s%s\n",
                      w->version, crew_deletes(u, w->version) ? " (deletion)" : "",
                      (unsigned long long)w->begun, (unsigned long long)atomic_load(&w->effective),
                      (unsigned long long)atomic_load(&w->acknowledged),
                      (marks & CREW_DURABLE) != 0 ? ", durable" : "",
                      (marks & CREW_INTERVAL) != 0 ? ", interval" : "",
                      (marks & CREW_FAILED) != 0 ? ", failed" : "",
                      (marks & CREW_NOTHING) != 0 ? ", nothing" : "");
    }
}

static bool may_be(struct oracle *o, uint32_t u, uint32_t least, uint32_t version)
{
    const struct crew_unit *unit = &o->model->units[u];
    if (version < least || version > atomic_load(&unit->begun))
        return version == unit->held && version >= least;
    if (version != unit->held && version < unit->first)
        return false; /* was cut off earlier, and must not come back */
    return !has_failed(o, u, version);
}

static void judge_unit(struct oracle *o, uint32_t u)
{
    const struct crew_unit *unit = &o->model->units[u];
    uint32_t least = least_of(o, u), most = atomic_load(&unit->begun);
    o->taken[u] = o->found[u];
    if (o->found[u] != CREW_ABSENT && may_be(o, u, least, o->found[u]))
        return;
    if (o->found[u] == CREW_ABSENT) {
        if (crew_is_absent(u, unit->held) && may_be(o, u, least, unit->held)) {
            o->taken[u] = unit->held;
            return;
        }
        for (uint32_t v = unit->first > least ? unit->first : least; v <= most; v++) {
            o->taken[u] = v;
            if (crew_deletes(u, v) && may_be(o, u, least, v))
                return;
        }
    }
    tell_history(o, u);
    crew_violation(o->crew, 0,
                   "unit %u has version %d, after %s; held %u, first %u, %s %u, begun %u", u,
                   (int)o->found[u], o->cut ? "a power cut" : "a kill", unit->held, unit->first,
                   o->cut ? "durable" : "acknowledged", least, most);
}

/* --- prefixes ---------------------------------------------------------------------- */

static uint32_t partition_of(const bitkv *db, uint32_t unit, unsigned index)
{
    struct crew_key key = crew_key(unit, index);
    struct bkv_hash hash = bkv_hash(&db->hash_key, &key, sizeof key);
    return bkv_hash_partition(&hash, db->partition_count) % PARTITIONS;
}

static void note_kept(struct oracle *o, const bitkv *db, uint32_t u)
{
    for_writes_of(o, u, i)
    {
        struct crew_write *write = write_at(o, u, i);
        if (write->version != o->taken[u] || (atomic_load(&write->marks) & CREW_NOTHING) != 0)
            continue;
        for (unsigned k = 0; k < crew_keys(u); k++) {
            uint32_t p = partition_of(db, u, k);
            if (o->partitions[p].newest < write->begun)
                o->partitions[p].newest = write->begun;
            if (o->partitions[p].own[crew_owner(u)] < i + 1)
                o->partitions[p].own[crew_owner(u)] = i + 1;
        }
    }
}

/* Of absent units the last deletion counts here: it leaves least that is missing. */
static uint32_t last_taken(struct oracle *o, uint32_t u)
{
    if (o->found[u] != CREW_ABSENT)
        return o->taken[u];
    uint32_t last = o->taken[u];
    for_writes_of(o, u, i)
    {
        const struct crew_write *write = write_at(o, u, i);
        if (crew_deletes(u, write->version) && write->version > last)
            last = write->version;
    }
    return last;
}

static void judge_order(struct oracle *o, const bitkv *db, uint32_t u)
{
    uint32_t last = last_taken(o, u);
    for_writes_of(o, u, i)
    {
        struct crew_write *write = write_at(o, u, i);
        uint64_t effective = atomic_load(&write->effective);
        if (write->version <= last || effective == 0 ||
            (atomic_load(&write->marks) & (CREW_FAILED | CREW_NOTHING)) != 0)
            continue;
        for (unsigned k = 0; k < crew_keys(u); k++) {
            uint32_t p = partition_of(db, u, k);
            if (effective >= o->partitions[p].newest &&
                i + 1 >= o->partitions[p].own[crew_owner(u)])
                continue;
            tell_history(o, u);
            crew_violation(o->crew, 0,
                           "a hole: version %u of unit %u is missing from partition %u, which "
                           "has later writes",
                           write->version, u, p);
        }
    }
}

static void judge_prefixes(struct oracle *o, const bitkv *db)
{
    for (uint32_t u = 0; u < o->crew->units; u++)
        note_kept(o, db, u);
    for (uint32_t u = 0; u < o->crew->units; u++)
        judge_order(o, db, u);
}

/* --- counters ------------------------------------------------------------------------ */

static int judge_counter(struct oracle *o, bitkv *db, unsigned i, int64_t *found)
{
    struct crew_counter *counter = &o->model->counters[i];
    struct crew_key key = {.name = "counter/", .unit = i};
    size_t size = sizeof *found;
    int64_t least = counter->base, most = counter->base;
    *found = 0;
    int rc = bitkv_get_into(db, &key, sizeof key, found, sizeof *found, &size);
    if (rc < 0)
        return rc;
    for (unsigned w = 0; w < CREW_WRITERS; w++) {
        least += atomic_load(&counter->acknowledged[w]);
        most += atomic_load(&counter->begun[w]);
    }
    if (o->cut)
        least = atomic_load(&counter->durable);
    if (*found < least || *found > most)
        crew_violation(o->crew, 0, "counter %u has %lld, not %lld to %lld", i, (long long)*found,
                       (long long)least, (long long)most);
    return BITKV_OK;
}

/* --- the state as it is from here on --------------------------------------------------- */

/* Opening has synced what it kept. */
static void settle(struct oracle *o, const int64_t counters[CREW_COUNTERS])
{
    struct crew *crew = o->crew;
    uint32_t other = 1 - atomic_load(&crew->which);
    struct crew_model *next = &crew->models[other];
    memset(next, 0, sizeof *next);
    next->life = o->model->life + 1;
    uint64_t lost = 0;
    for (uint32_t u = 0; u < o->crew->units; u++) {
        uint32_t begun = atomic_load(&o->model->units[u].begun), held = o->taken[u];
        lost += atomic_load(&o->model->units[u].acknowledged) > held;
        next->units[u].held = held;
        next->units[u].first = begun + 1 > held + 1 ? begun + 1 : held + 1;
        atomic_store(&next->units[u].begun, begun);
        atomic_store(&next->units[u].acknowledged, held);
        atomic_store(&next->units[u].durable, held);
    }
    for (unsigned i = 0; i < CREW_COUNTERS; i++) {
        next->counters[i].base = counters[i];
        atomic_store(&next->counters[i].durable, counters[i]);
    }
    atomic_fetch_add(&crew->cut, lost);
    atomic_store(&crew->rested, false);
    atomic_store(&crew->which, other);
}

int crew_check(struct crew *crew, bitkv *db)
{
    struct oracle *o = calloc(1, sizeof *o);
    if (o == NULL)
        abort();
    o->crew = crew;
    o->model = crew_model(crew);
    o->cut = atomic_load(&crew->cut_life) == o->model->life;
    o->synced = atomic_load(&crew->synced);
    int rc = BITKV_OK;
    int64_t counters[CREW_COUNTERS];
    index_writes(o);
    for (uint32_t u = 0; u < o->crew->units && rc == BITKV_OK; u++)
        rc = crew_read_unit(crew, read_database, db, "the database", u, &o->found[u]);
    for (unsigned i = 0; i < CREW_COUNTERS && rc == BITKV_OK; i++)
        rc = judge_counter(o, db, i, &counters[i]);
    if (rc == BITKV_OK) {
        for (uint32_t u = 0; u < o->crew->units; u++)
            judge_unit(o, u);
        if (o->cut)
            judge_prefixes(o, db);
        settle(o, counters);
    }
    free(o);
    return rc;
}

/* The last backup that was acknowledged, or one that was not in its place. */
int crew_check_backup(struct crew *crew, const struct crew_plan *plan)
{
    uint64_t made = atomic_load(&crew->backups);
    if (plan->backup == NULL || made == 0 || made == atomic_load(&crew->backups_checked))
        return BITKV_OK;
    bitkv *db;
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    options.strict_recovery = true;
    options.io_mode = plan->options.io_mode;
    int rc = bitkv_open(&db, plan->backup, &options);
    if (rc != BITKV_OK)
        return rc;
    for (uint32_t u = 0; u < crew->units && rc == BITKV_OK; u++) {
        uint32_t found, least = atomic_load(&crew->backup_floor[u]);
        uint32_t most = atomic_load(&crew_model(crew)->units[u].begun);
        rc = crew_read_unit(crew, read_database, db, "the backup", u, &found);
        if (rc != BITKV_OK)
            break;
        bool good = found != CREW_ABSENT && found >= least && found <= most;
        for (uint32_t v = least; found == CREW_ABSENT && v <= most && !good; v++)
            good = crew_is_absent(u, v);
        if (!good)
            crew_violation(crew, 0, "the backup: unit %u has version %d, not %u to %u", u,
                           (int)found, least, most);
    }
    int closed = bitkv_close(db);
    atomic_store(&crew->backups_checked, made);
    atomic_fetch_add(&crew->backups_compared, 1);
    return rc != BITKV_OK ? rc : closed;
}
