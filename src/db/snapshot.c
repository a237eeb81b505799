/* SPDX-License-Identifier: MIT */
/*
 * Snapshots: life, and reading by key.
 *
 *   create    memory for every partition, without locks; then all their locks, in
 *             order of the partitions, a part of each, and all locks back: that
 *             is the moment
 *   close     detaches: the parts are given back, the snapshot becomes an empty
 *             shell that knows of no database
 *   destroy   of the last reference: gives back what closing did not
 *
 * Giving back is under the mutex, so that either closing does it or destroying,
 * while the partitions are there. Readers are in epoch sections, as all calls;
 * closing waits for them before it detaches, and for those who may just be
 * looking at `db` afterwards, before that goes.
 *
 * Failure modes: no memory for a part: all others are given back. A KeyDir has
 * grown since its room was reserved: once more from the beginning, with more room;
 * what grows by a sixteenth meanwhile is rare, twice in a row unheard of.
 */
#include "db/snapshot.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "db/call.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void bkv_snapshot_before_fork(void)
{
    (void)pthread_mutex_lock(&mutex);
}

void bkv_snapshot_after_fork(void)
{
    (void)pthread_mutex_unlock(&mutex);
}

/* --- taking ------------------------------------------------------------------------- */

static void give_back(bitkv_snapshot *s, const struct bitkv *db)
{
    for (uint32_t i = 0; i < s->partition_count; i++)
        bkv_partition_snapshot_release(db->partitions[i], &s->partitions[i]);
}

/* How often a follower begins anew because its writer has unlinked a file. */
#define REFRESHES_MAX 50u

static int reserve(bitkv_snapshot *s, const struct bitkv *db)
{
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < s->partition_count && rc == BITKV_OK; i++)
        rc = bkv_partition_snapshot_reserve(db->partitions[i], &s->partitions[i]);
    return rc;
}

/* All partitions at one moment: nobody writes between the first lock and the last. */
static int take(bitkv_snapshot *s, const struct bitkv *db)
{
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < s->partition_count; i++)
        bkv_partition_lock(db->partitions[i]);
    for (uint32_t i = 0; i < s->partition_count && rc == BITKV_OK; i++)
        rc = bkv_partition_snapshot_take(db->partitions[i], &s->partitions[i]);
    for (uint32_t i = s->partition_count; i > 0; i--)
        bkv_partition_unlock(db->partitions[i - 1]);
    return rc;
}

static int open_all(bitkv_snapshot *s, const struct bitkv *db)
{
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < s->partition_count && rc == BITKV_OK; i++)
        rc = bkv_partition_snapshot_open(db->partitions[i], &s->partitions[i]);
    return rc;
}

/* One that is torn shows what it has, as gets do. */
static void begin_moment(struct bitkv *db, struct bkv_epoch_slot *slot)
{
    if (!db->store.options.read_only)
        return;
    bkv_epoch_pause(slot);
    (void)bkv_store_moment_begin(&db->store);
    bkv_epoch_resume(slot);
}

static int fill_once(bitkv_snapshot *s, struct bitkv *db, struct bkv_epoch_slot *slot)
{
    begin_moment(db, slot);
    int rc = reserve(s, db);
    BKV_SCHEDULE_POINT("snapshot.reserved");
    if (rc == BITKV_OK)
        rc = take(s, db);
    bkv_store_moment_end(&db->store);
    BKV_SCHEDULE_POINT("snapshot.taken");
    if (rc == BITKV_OK && db->store.options.read_only) {
        bkv_epoch_pause(slot);
        rc = open_all(s, db);
        bkv_epoch_resume(slot);
    }
    if (rc != BITKV_OK)
        give_back(s, db);
    return rc;
}

/* A follower's writer may be faster than we open his files, but not for ever. */
static int fill(bitkv_snapshot *s, struct bitkv *db, struct bkv_epoch_slot *slot)
{
    int rc = BKV_OUTGROWN;
    for (unsigned refreshes = 0; rc == BKV_OUTGROWN;) {
        rc = fill_once(s, db, slot);
        if (rc != BITKV_NOT_FOUND)
            continue;
        bkv_epoch_pause(slot);
        rc = refreshes++ < REFRESHES_MAX ? bkv_store_refresh(&db->store) : BITKV_ERR_IO;
        bkv_epoch_resume(slot);
        if (rc == BITKV_OK)
            rc = BKV_OUTGROWN;
    }
    return rc;
}

static void attach(bitkv_snapshot *s, struct bitkv *db)
{
    (void)pthread_mutex_lock(&mutex);
    s->next = db->snapshots;
    if (s->next != NULL)
        s->next->before = s;
    db->snapshots = s;
    (void)pthread_mutex_unlock(&mutex);
}

static int create(struct bitkv *db, struct bkv_epoch_slot *slot, bitkv_snapshot **out)
{
    bitkv_snapshot *s =
        bkv_calloc(1, sizeof *s + (size_t)db->partition_count * sizeof s->partitions[0]);
    if (s == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a snapshot");
    s->fork_generation = db->fork_generation;
    s->partition_count = db->partition_count;
    atomic_init(&s->refs, 1);
    atomic_init(&s->db, db);
    int rc = fill(s, db, slot);
    if (rc != BITKV_OK) {
        bkv_mfree(s);
        return rc;
    }
    attach(s, db);
    *out = s;
    return BITKV_OK;
}

int bitkv_snapshot_create(bitkv_snapshot **snapshot, bitkv *db)
{
    if (snapshot == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_snapshot_create: no place for the snapshot");
    *snapshot = NULL;
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    rc = create(db, slot, snapshot);
    bkv_epoch_exit(slot);
    return rc;
}

/* --- giving back -------------------------------------------------------------------- */

/* Under the mutex. */
static void detach(bitkv_snapshot *s)
{
    struct bitkv *db = atomic_load_explicit(&s->db, memory_order_relaxed);
    if (db == NULL)
        return;
    if (s->before != NULL)
        s->before->next = s->next;
    else
        db->snapshots = s->next;
    if (s->next != NULL)
        s->next->before = s->before;
    s->next = s->before = NULL;
    atomic_store_explicit(&s->db, NULL, memory_order_seq_cst);
    give_back(s, db);
}

void bkv_snapshot_detach_all(struct bitkv *db)
{
    (void)pthread_mutex_lock(&mutex);
    bool any = db->snapshots != NULL;
    while (db->snapshots != NULL)
        detach(db->snapshots);
    (void)pthread_mutex_unlock(&mutex);
    if (any) /* somebody may just be looking whether the database is open */
        bkv_epoch_wait(bkv_epoch_stamp());
}

void bkv_snapshot_ref(bitkv_snapshot *s)
{
    (void)atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void bkv_snapshot_unref(bitkv_snapshot *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    (void)pthread_mutex_lock(&mutex);
    detach(s);
    (void)pthread_mutex_unlock(&mutex);
    bkv_mfree(s);
}

int bitkv_snapshot_destroy(bitkv_snapshot *snapshot)
{
    if (snapshot == NULL)
        return BITKV_OK;
    if (bkv_forked(snapshot->fork_generation))
        return bkv_error(BITKV_ERR_FORKED, "this snapshot was created before a fork");
    bkv_snapshot_unref(snapshot);
    return BITKV_OK;
}

/* --- reading by key ----------------------------------------------------------------- */

int bkv_snapshot_enter(bitkv_snapshot *s, struct bitkv **db, struct bkv_epoch_slot **slot)
{
    if (BKV_UNLIKELY(s == NULL))
        return bkv_error(BITKV_ERR_INVALID, "no snapshot");
    if (BKV_UNLIKELY(bkv_forked(s->fork_generation)))
        return bkv_error(BITKV_ERR_FORKED, "this snapshot was created before a fork");
    *slot = bkv_epoch_enter();
    if (BKV_UNLIKELY(*slot == NULL))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for another thread");
    BKV_SCHEDULE_POINT("call.entered");
    struct bitkv *open = atomic_load_explicit(&s->db, memory_order_seq_cst);
    if (BKV_LIKELY(open != NULL && !atomic_load_explicit(&open->closing, memory_order_seq_cst))) {
        *db = open;
        BKV_SCHEDULE_POINT("call.begun");
        return BITKV_OK;
    }
    bkv_epoch_exit(*slot);
    return bkv_error(BITKV_ERR_CLOSED, "the snapshot's database was closed");
}

static int get(bitkv_snapshot *s, const void *key, size_t key_size, struct bkv_sink *sink)
{
    struct bkv_epoch_slot *slot = NULL;
    struct bitkv *db = NULL;
    int rc = bkv_check_key(key, key_size);
    if (rc == BITKV_OK)
        rc = bkv_snapshot_enter(s, &db, &slot);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_hash hash = bkv_hash(&db->hash_key, key, key_size);
    uint32_t index = bkv_hash_partition(&hash, s->partition_count);
    rc = bkv_partition_get_at(db->partitions[index], slot, &s->partitions[index], &hash, key,
                              key_size, sink);
    bkv_epoch_exit(slot);
    return rc;
}

int bitkv_snapshot_get(bitkv_snapshot *snapshot, const void *key, size_t key_size, void **value,
                       size_t *value_size)
{
    if (value == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_snapshot_get: no place for the value");
    *value = NULL;
    struct bkv_sink sink = {.kind = BKV_SINK_ALLOCATE};
    int rc = get(snapshot, key, key_size, &sink);
    if (rc == BITKV_OK) {
        *value = sink.buffer;
        if (value_size != NULL)
            *value_size = sink.size;
    }
    return rc;
}

int bitkv_snapshot_get_into(bitkv_snapshot *snapshot, const void *key, size_t key_size,
                            void *buffer, size_t buffer_size, size_t *value_size)
{
    if (buffer == NULL && buffer_size > 0)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_snapshot_get_into: no buffer");
    struct bkv_sink sink = {.kind = BKV_SINK_BUFFER, .buffer = buffer, .capacity = buffer_size};
    int rc = get(snapshot, key, key_size, &sink);
    if (value_size != NULL && (rc == BITKV_OK || rc == BITKV_ERR_BUFFER_TOO_SMALL))
        *value_size = sink.size;
    return rc;
}

int bitkv_snapshot_get_view(bitkv_snapshot *snapshot, const void *key, size_t key_size,
                            bitkv_view *view)
{
    if (view == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_snapshot_get_view: no view");
    *view = (bitkv_view){0};
    struct bkv_sink sink = {.kind = BKV_SINK_VIEW, .view = view};
    return get(snapshot, key, key_size, &sink);
}

int bitkv_snapshot_exists(bitkv_snapshot *snapshot, const void *key, size_t key_size)
{
    struct bkv_sink sink = {.kind = BKV_SINK_NONE};
    return get(snapshot, key, key_size, &sink);
}
