/* SPDX-License-Identifier: MIT */
/*
 * Batches, as the caller sees them: entries are collected here, and sorted into
 * groups, one for each partition involved, when they are written. How a group is
 * written, and all of them or none, is partition/batch.c's.
 *
 * Keys and values lie one behind the other in one block. Nothing of a database is
 * known before bitkv_write(): hashes, deadlines and checksums are made there, in
 * memory of the call's own, so that a batch is not changed by being written.
 *
 * An entry whose key comes again is left out: two entries are of one key if the
 * KeyDir would say so (keydir/keydir.h, 4). A small open hash table finds them.
 *
 * Failure modes: no memory: the batch, or the database, is as it was.
 */
#include "partition/batch.h"

#include "base/memory.h"
#include "db/call.h"
#include "keydir/keydir.h"

#include <string.h>
#include <time.h>

struct entry {
    size_t at; /* of key and value in `bytes` */
    uint64_t ttl_ms;
    uint32_t value_size;
    uint16_t key_size;
    bool is_put;
};

struct bitkv_batch {
    struct entry *entries;
    size_t count, capacity;
    uint8_t *bytes;
    size_t used, size;
};

/* --- collecting --------------------------------------------------------------------- */

int bitkv_batch_create(bitkv_batch **batch)
{
    if (batch == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_batch_create: no place for the batch");
    *batch = bkv_calloc(1, sizeof **batch);
    return *batch != NULL ? BITKV_OK : bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a batch");
}

void bitkv_batch_destroy(bitkv_batch *batch)
{
    if (batch == NULL)
        return;
    bkv_mfree(batch->entries);
    bkv_mfree(batch->bytes);
    bkv_mfree(batch);
}

static int reserve(bitkv_batch *batch, size_t bytes)
{
    if (!bkv_grow(&batch->entries, batch->count, 1, sizeof *batch->entries, &batch->capacity) ||
        !bkv_grow(&batch->bytes, batch->used, bytes, 1, &batch->size))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for another entry of a batch");
    return BITKV_OK;
}

static int add(bitkv_batch *batch, const void *key, size_t key_size, const void *value,
               const struct entry *entry)
{
    if (batch == NULL)
        return bkv_error(BITKV_ERR_INVALID, "no batch");
    int rc = bkv_check_key(key, key_size);
    if (rc == BITKV_OK)
        rc = reserve(batch, key_size + entry->value_size);
    if (rc != BITKV_OK)
        return rc;
    struct entry *added = &batch->entries[batch->count++];
    *added = *entry;
    added->at = batch->used;
    added->key_size = (uint16_t)key_size;
    memcpy(batch->bytes + batch->used, key, key_size);
    if (value != NULL) /* of a delete there is none */
        memcpy(batch->bytes + batch->used + key_size, value, entry->value_size);
    batch->used += key_size + entry->value_size;
    return BITKV_OK;
}

int bitkv_batch_put_ttl(bitkv_batch *batch, const void *key, size_t key_size, const void *value,
                        size_t value_size, uint64_t ttl_ms)
{
    int rc = bkv_check_value(value, value_size);
    if (rc == BITKV_OK)
        rc = bkv_check_ttl(ttl_ms, false);
    struct entry entry = {.ttl_ms = ttl_ms, .value_size = (uint32_t)value_size, .is_put = true};
    return rc == BITKV_OK ? add(batch, key, key_size, value, &entry) : rc;
}

int bitkv_batch_put(bitkv_batch *batch, const void *key, size_t key_size, const void *value,
                    size_t value_size)
{
    return bitkv_batch_put_ttl(batch, key, key_size, value, value_size, 0);
}

int bitkv_batch_del(bitkv_batch *batch, const void *key, size_t key_size)
{
    return add(batch, key, key_size, NULL, &(struct entry){.is_put = false});
}

size_t bitkv_batch_count(const bitkv_batch *batch)
{
    return batch != NULL ? batch->count : 0;
}

void bitkv_batch_clear(bitkv_batch *batch)
{
    if (batch != NULL)
        batch->count = batch->used = 0;
}

/* --- sorting into groups ---------------------------------------------------------------- */

/* An entry on its way. */
struct planned {
    struct bkv_hash hash;
    uint64_t deadline;
    uint32_t partition;
    bool superseded;
};

struct plan {
    struct bitkv *db;
    const bitkv_batch *batch;
    struct planned *entries;
    uint32_t *table; /* index of an entry and 1; 0: free */
    size_t mask;     /* of the table's size */
    struct bkv_group_record *records;
    struct bkv_group *groups;
    uint32_t *group_of; /* by partition */
    size_t group_count;
    uint8_t *bytes; /* of all groups */
};

static struct bkv_group_entry entry_at(const struct plan *plan, size_t i)
{
    const struct entry *e = &plan->batch->entries[i];
    const uint8_t *key = plan->batch->bytes + e->at;
    return (struct bkv_group_entry){
        .key = key,
        .value = key + e->key_size,
        .key_size = e->key_size,
        .value_size = e->value_size,
        .deadline = plan->entries[i].deadline,
        .is_put = e->is_put,
    };
}

/* Milliseconds since 1970; UINT64_MAX: never. */
static uint64_t deadline_of(const struct bkv_store *store, uint64_t ttl_ms)
{
    if (ttl_ms == 0)
        ttl_ms = store->options.default_ttl_ms;
    if (ttl_ms == 0 || ttl_ms == BITKV_TTL_NONE)
        return UINT64_MAX;
    return bkv_store_now_ms(store) + ttl_ms;
}

static bool one_key(const struct planned *a, const struct planned *b)
{
    return a->hash.lo == b->hash.lo && a->partition == b->partition &&
           ((bkv_hash_tag(&a->hash) ^ bkv_hash_tag(&b->hash)) & BKV_KEYDIR_TAG_MASK) == 0;
}

/* Entry `i` takes the place of an earlier one with its key. */
static void supersede(struct plan *plan, size_t i)
{
    size_t at = (size_t)(plan->entries[i].hash.lo >> 16) & plan->mask;
    while (plan->table[at] != 0 && !one_key(&plan->entries[plan->table[at] - 1], &plan->entries[i]))
        at = (at + 1) & plan->mask;
    if (plan->table[at] != 0)
        plan->entries[plan->table[at] - 1].superseded = true;
    plan->table[at] = (uint32_t)i + 1;
}

static void hash_entries(struct plan *plan)
{
    const struct bitkv *db = plan->db;
    for (size_t i = 0; i < plan->batch->count; i++) {
        const struct entry *e = &plan->batch->entries[i];
        struct planned *p = &plan->entries[i];
        p->hash = bkv_hash(&db->hash_key, plan->batch->bytes + e->at, e->key_size);
        p->partition = bkv_hash_partition(&p->hash, db->partition_count);
        p->deadline = e->is_put ? deadline_of(&db->store, e->ttl_ms) : UINT64_MAX;
        p->superseded = false;
        bkv_partition_prefetch_index(db->partitions[p->partition], &p->hash);
        supersede(plan, i);
    }
}

/* Counts what each partition gets. `group_of` has the number of records, then. */
static void count_records(struct plan *plan)
{
    for (size_t i = 0; i < plan->batch->count; i++)
        plan->group_of[plan->entries[i].partition] += !plan->entries[i].superseded;
}

static void make_groups(struct plan *plan)
{
    struct bkv_group_record *records = plan->records;
    for (uint32_t i = 0; i < plan->db->partition_count; i++) {
        uint32_t count = plan->group_of[i];
        if (count == 0)
            continue;
        plan->group_of[i] = (uint32_t)plan->group_count;
        plan->groups[plan->group_count++] =
            (struct bkv_group){.partition = plan->db->partitions[i], .records = records};
        records += count;
    }
}

/* Every record gets its place in its group's bytes. */
static uint64_t place_records(struct plan *plan)
{
    uint64_t total = 0;
    for (size_t i = 0; i < plan->group_count; i++)
        plan->groups[i].size = bkv_group_header_size(i, plan->group_count);
    for (size_t i = 0; i < plan->batch->count; i++) {
        const struct planned *p = &plan->entries[i];
        if (p->superseded)
            continue;
        struct bkv_group *g = &plan->groups[plan->group_of[p->partition]];
        struct bkv_group_entry entry = entry_at(plan, i);
        struct bkv_group_record *r = &g->records[g->count++];
        r->hash = p->hash;
        r->offset = g->size;
        r->size = bkv_group_record_size(&entry);
        g->size += r->size;
        g->expires |= p->deadline != UINT64_MAX;
    }
    for (size_t i = 0; i < plan->group_count; i++)
        total += plan->groups[i].size;
    return total;
}

static void fill_groups(struct plan *plan)
{
    uint8_t *bytes = plan->bytes;
    for (size_t i = 0; i < plan->group_count; i++) {
        plan->groups[i].bytes = bytes;
        bytes += plan->groups[i].size;
        plan->groups[i].count = 0;
    }
    for (size_t i = 0; i < plan->batch->count; i++) {
        if (plan->entries[i].superseded)
            continue;
        struct bkv_group *g = &plan->groups[plan->group_of[plan->entries[i].partition]];
        struct bkv_group_entry entry = entry_at(plan, i);
        bkv_group_add(g, &g->records[g->count++], &entry);
    }
}

/* --- writing ------------------------------------------------------------------------------ */

static void plan_free(struct plan *plan)
{
    bkv_mfree(plan->entries);
    bkv_mfree(plan->table);
    bkv_mfree(plan->records);
    bkv_mfree(plan->groups);
    bkv_mfree(plan->group_of);
    bkv_mfree(plan->bytes);
}

static int no_memory(const bitkv_batch *batch)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to write a batch of %zu entries",
                     batch->count);
}

static int plan_begin(struct plan *plan, struct bitkv *db, const bitkv_batch *batch)
{
    size_t count = batch->count;
    size_t slots = 4;
    while (slots < 2 * count)
        slots *= 2;
    size_t groups = count < db->partition_count ? count : db->partition_count;
    *plan = (struct plan){.db = db, .batch = batch, .mask = slots - 1};
    plan->entries = bkv_malloc(count * sizeof *plan->entries);
    plan->table = bkv_calloc(slots, sizeof *plan->table);
    plan->records = bkv_malloc(count * sizeof *plan->records);
    plan->groups = bkv_malloc(groups * sizeof *plan->groups);
    plan->group_of = bkv_calloc(db->partition_count, sizeof *plan->group_of);
    bool all = plan->entries != NULL && plan->table != NULL && plan->records != NULL &&
               plan->groups != NULL && plan->group_of != NULL;
    return all ? BITKV_OK : no_memory(batch);
}

/* In an epoch section. */
static int write_batch(struct bitkv *db, const bitkv_batch *batch, bitkv_durability durability)
{
    struct plan plan;
    int rc = plan_begin(&plan, db, batch);
    if (rc == BITKV_OK) {
        hash_entries(&plan);
        count_records(&plan);
        make_groups(&plan);
        plan.bytes = bkv_malloc(place_records(&plan));
        if (plan.bytes == NULL)
            rc = no_memory(batch);
    }
    if (rc == BITKV_OK) {
        fill_groups(&plan);
        rc = bkv_groups_write(plan.groups, plan.group_count, durability);
    }
    plan_free(&plan);
    return rc;
}

int bitkv_write(bitkv *db, const bitkv_batch *batch, bitkv_durability durability)
{
    if (batch == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_write: no batch");
    if (batch->count > UINT32_MAX / 2)
        return bkv_error(BITKV_ERR_LIMIT, "a batch of %zu entries is too large", batch->count);
    int rc = bkv_check_write(db, "", 1, durability);
    struct bkv_epoch_slot *slot = NULL;
    if (rc == BITKV_OK)
        rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    if (batch->count > 0)
        rc = write_batch(db, batch, durability);
    bkv_epoch_exit(slot);
    return rc;
}
