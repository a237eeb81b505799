/* SPDX-License-Identifier: MIT */
/*
 * The calls of bitkv.h: check, enter an epoch section, hash, route, act.
 *
 * The section also keeps the database: bitkv_close() sets `closing`, then
 * waits until every section of that moment has been left. The order (enter,
 * then look at `closing`; set `closing`, then scan the sections) is sequential
 * consistency on both sides, so no call slips through.
 */
#include "db/call.h"
#include "db/pipeline.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/memory.h"
#include "io/mapping.h"

#include <string.h>

const char *bitkv_version(void)
{
#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
    return TEXT(BITKV_VERSION_MAJOR) "." TEXT(BITKV_VERSION_MINOR) "." TEXT(BITKV_VERSION_PATCH);
#undef TEXT
#undef TEXT_
}

/* --- reading ----------------------------------------------------------------- */

static inline int get(struct bitkv *db, const void *key, size_t key_size, struct bkv_sink *sink)
{
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_check_key(key, key_size);
    if (BKV_LIKELY(rc == BITKV_OK))
        rc = bkv_begin(db, &slot);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    struct bkv_hash hash = bkv_hash(&db->hash_key, key, key_size);
    rc = bkv_partition_get(bkv_route(db, &hash), slot, &hash, key, key_size, sink);
    bkv_epoch_exit(slot);
    return rc;
}

int bitkv_get(bitkv *db, const void *key, size_t key_size, void **value, size_t *value_size)
{
    if (value == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_get: no place for the value");
    *value = NULL;
    struct bkv_sink sink = {.kind = BKV_SINK_ALLOCATE};
    int rc = get(db, key, key_size, &sink);
    if (rc == BITKV_OK) {
        *value = sink.buffer;
        if (value_size != NULL)
            *value_size = sink.size;
    }
    return rc;
}

int bitkv_get_into(bitkv *db, const void *key, size_t key_size, void *buffer, size_t buffer_size,
                   size_t *value_size)
{
    if (buffer == NULL && buffer_size > 0)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_get_into: no buffer");
    struct bkv_sink sink = {.kind = BKV_SINK_BUFFER, .buffer = buffer, .capacity = buffer_size};
    int rc = get(db, key, key_size, &sink);
    if (value_size != NULL && (rc == BITKV_OK || rc == BITKV_ERR_BUFFER_TOO_SMALL))
        *value_size = sink.size;
    return rc;
}

int bitkv_get_view(bitkv *db, const void *key, size_t key_size, bitkv_view *view)
{
    if (view == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_get_view: no view");
    *view = (bitkv_view){0};
    struct bkv_sink sink = {.kind = BKV_SINK_VIEW, .view = view};
    return get(db, key, key_size, &sink);
}

void bitkv_view_release(bitkv_view *view)
{
    if (view == NULL)
        return;
    bkv_mapping_unref(view->pin);
    *view = (bitkv_view){0};
}

void bitkv_free(void *value)
{
    bkv_mfree(value);
}

int bitkv_exists(bitkv *db, const void *key, size_t key_size)
{
    struct bkv_sink sink = {.kind = BKV_SINK_NONE};
    return get(db, key, key_size, &sink);
}

/* --- reading many
 * --------------------------------------------------------------------------------- */

/* The failure to be returned: of the item that comes first, whichever stage or
 * order found it. */
struct first_failure {
    size_t index; /* SIZE_MAX: none */
    int status;
    char context[BKV_ERROR_CONTEXT_SIZE];
};

static void note_failure(struct first_failure *first, size_t index, int status)
{
    if (index >= first->index)
        return;
    first->index = index;
    first->status = status;
    (void)memcpy(first->context, bitkv_error_context(), strlen(bitkv_error_context()) + 1);
}

static void get_item(const struct bkv_stage *stage, struct bkv_epoch_slot *slot,
                     bitkv_get_item *item)
{
    struct bkv_sink sink = {
        .kind = item->buffer != NULL ? BKV_SINK_BUFFER : BKV_SINK_ALLOCATE,
        .buffer = item->buffer,
        .capacity = item->buffer_size,
    };
    item->status = bkv_partition_read_found(&stage->found, slot, &stage->hash, item->key,
                                            item->key_size, &sink);
    item->value_size = sink.size;
    item->value = item->status == BITKV_OK ? sink.buffer : NULL;
}

static void get_group(struct bitkv *db, struct bkv_epoch_slot *slot, bitkv_get_item *items,
                      size_t at, size_t count, struct first_failure *first)
{
    items += at;
    struct bkv_stage stages[BKV_PIPELINE];
    for (size_t i = 0; i < count; i++) {
        items[i].value = NULL;
        items[i].value_size = 0;
        items[i].status = bkv_check_key(items[i].key, items[i].key_size);
        if (BKV_LIKELY(items[i].status == BITKV_OK)) {
            bkv_stage_begin(&stages[i], db, items[i].key, items[i].key_size);
        } else {
            bkv_stage_none(&stages[i]);
            note_failure(first, at + i, items[i].status);
        }
    }
    for (size_t i = 0; i < count; i++)
        bkv_stage_slot(&stages[i]);
    for (size_t i = 0; i < count; i++)
        bkv_stage_locate(&stages[i], slot);
    for (size_t i = 0; i < count; i++) {
        if (BKV_UNLIKELY(stages[i].partition == NULL))
            continue;
        bkv_stage_renew(&stages[i], slot);
        get_item(&stages[i], slot, &items[i]);
        if (BKV_UNLIKELY(items[i].status < 0))
            note_failure(first, at + i, items[i].status);
    }
}

int bitkv_multi_get(bitkv *db, bitkv_get_item *items, size_t count)
{
    if (items == NULL && count > 0)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_multi_get: no items");
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    struct first_failure first; /* its text is not looked at before there is one */
    first.index = SIZE_MAX;
    for (size_t at = 0; at < count; at += BKV_PIPELINE) {
        size_t rest = count - at;
        get_group(db, slot, items, at, rest < BKV_PIPELINE ? rest : BKV_PIPELINE, &first);
    }
    bkv_epoch_exit(slot);
    /* cppcheck-suppress uninitvar ; note_failure() sets all of it, index included */
    return first.index == SIZE_MAX ? BITKV_OK : bkv_error(first.status, "%s", first.context);
}

/* --- writing
 * ---------------------------------------------------------------------------------------- */

int bitkv_put_with(bitkv *db, const void *key, size_t key_size, const void *value,
                   size_t value_size, bitkv_durability durability)
{
    int rc = bkv_check_write(db, key, key_size, durability);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    rc = bkv_check_value(value, value_size);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    struct bkv_epoch_slot *slot = NULL;
    rc = bkv_begin(db, &slot);
    if (BKV_UNLIKELY(rc != BITKV_OK))
        return rc;
    struct bkv_hash hash = bkv_hash(&db->hash_key, key, key_size);
    struct bkv_partition *p = bkv_route(db, &hash);
    bkv_partition_prefetch_put(p, &hash); /* comes while others are put */
    rc = bkv_partition_put(p, &hash, key, key_size, value, value_size, durability, NULL);
    bkv_epoch_exit(slot);
    return rc;
}

int bitkv_put(bitkv *db, const void *key, size_t key_size, const void *value, size_t value_size)
{
    return bitkv_put_with(db, key, key_size, value, value_size, BITKV_DURABILITY_DEFAULT);
}

int bitkv_del_with(bitkv *db, const void *key, size_t key_size, bitkv_durability durability)
{
    int rc = bkv_check_write(db, key, key_size, durability);
    struct bkv_epoch_slot *slot = NULL;
    if (rc == BITKV_OK)
        rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_hash hash = bkv_hash(&db->hash_key, key, key_size);
    struct bkv_partition *p = bkv_route(db, &hash);
    bkv_partition_prefetch_slot(p, &hash);
    rc = bkv_partition_del(p, &hash, key, key_size, durability, NULL);
    bkv_epoch_exit(slot);
    return rc;
}

int bitkv_del(bitkv *db, const void *key, size_t key_size)
{
    return bitkv_del_with(db, key, key_size, BITKV_DURABILITY_DEFAULT);
}

int bitkv_sync(bitkv *db)
{
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    for (uint32_t i = 0; i < db->partition_count; i++) {
        int one = bkv_partition_sync(db->partitions[i]); /* all, whatever one of them says */
        if (rc == BITKV_OK)
            rc = one;
    }
    bkv_epoch_exit(slot);
    return rc;
}

/* --- statistics
 * ---------------------------------------------------------------------------- */

static void fill_statistics(struct bitkv *db, uint32_t partition, bitkv_statistics *s)
{
    uint32_t first = partition == BITKV_ALL_PARTITIONS ? 0 : partition;
    uint32_t last = partition == BITKV_ALL_PARTITIONS ? db->partition_count : partition + 1;
    for (uint32_t i = first; i < last; i++)
        bkv_partition_stats(db->partitions[i], s);
    uint64_t bytes = s->live_bytes + s->dead_bytes;
    s->fragmentation = bytes > 0 ? (double)s->dead_bytes / (double)bytes : 0.0;
    /* the directory's own, and those of segments */
    s->open_files = 1 + atomic_load(&db->store.dir.open_files);
    s->io_mode = db->store.mapped ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    memcpy(s->io_mode_reason, db->io_mode_reason, sizeof s->io_mode_reason);
    s->backend = db->backend;
    s->backend_reason = db->backend_reason;
}

int bitkv_stats(bitkv *db, uint32_t partition, bitkv_statistics *statistics)
{
    if (statistics == NULL || statistics->struct_size < offsetof(bitkv_statistics, gets_total))
        return bkv_error(BITKV_ERR_INVALID,
                         "bitkv_stats: call bitkv_statistics_init() on the structure first");
    struct bkv_epoch_slot *slot = NULL;
    int rc = bkv_begin(db, &slot);
    if (rc != BITKV_OK)
        return rc;
    size_t size = statistics->struct_size;
    bitkv_statistics s = {.struct_size = size};
    if (partition != BITKV_ALL_PARTITIONS && partition >= db->partition_count)
        rc = bkv_error(BITKV_ERR_INVALID, "there is no partition %u, there are %u", partition,
                       db->partition_count);
    else
        fill_statistics(db, partition, &s);
    bkv_epoch_exit(slot);
    if (rc == BITKV_OK)
        memcpy(statistics, &s, size < sizeof s ? size : sizeof s);
    return rc;
}
