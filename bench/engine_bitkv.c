/* SPDX-License-Identifier: MIT */
/*
 * BitKV with the options a program gets by default, apart from the durability:
 * BITKV_DURABILITY_NONE is the promise that the other engines give in the
 * normal phases. `bitkv-interval` (not run unless asked for) keeps the
 * default, which syncs every second while the others never do.
 */
#include "engine.h"

#include <bitkv.h>
#include <stdlib.h>

struct engine_db {
    bitkv *handle;
    bool synced;
};

struct engine_session {
    struct engine_db *db;
    bitkv *handle;
    size_t buffer_size;
    unsigned char buffer[];
};

static size_t session_buffer_size;

static int engine_fail(const char *what, int code)
{
    return bench_fail("%s: %s: %s", what, bitkv_strerror(code), bitkv_error_context());
}

static void *open_with(const struct bench_setup *setup, bitkv_durability durability)
{
    struct engine_db *db = malloc(sizeof(*db));
    bitkv_options options;
    int code;

    if (db == NULL) {
        (void)bench_fail("out of memory");
        return NULL;
    }
    bitkv_options_init(&options);
    options.durability = durability;
    code = bitkv_open(&db->handle, setup->directory, &options);
    if (code != BITKV_OK) {
        (void)engine_fail("bitkv_open", code);
        free(db);
        return NULL;
    }
    db->synced = false;
    session_buffer_size = setup->value_size;
    return db;
}

static void *engine_open(const struct bench_setup *setup)
{
    return open_with(setup, BITKV_DURABILITY_NONE);
}

static void *engine_open_interval(const struct bench_setup *setup)
{
    return open_with(setup, BITKV_DURABILITY_INTERVAL);
}

static int engine_close(void *opaque)
{
    struct engine_db *db = opaque;
    int code = bitkv_close(db->handle);

    free(db);
    return code == BITKV_OK ? BENCH_OK : engine_fail("bitkv_close", code);
}

static void *engine_session_begin(void *opaque)
{
    struct engine_session *session = malloc(sizeof(*session) + session_buffer_size);

    if (session == NULL) {
        (void)bench_fail("out of memory");
        return NULL;
    }
    session->db = opaque;
    session->handle = session->db->handle;
    session->buffer_size = session_buffer_size;
    return session;
}

static void engine_session_end(void *session)
{
    free(session);
}

static int engine_put(void *opaque, const void *key, size_t key_size, const void *value,
                      size_t value_size)
{
    struct engine_session *session = opaque;
    int code;

    if (session->db->synced)
        code = bitkv_put_with(session->handle, key, key_size, value, value_size,
                              BITKV_DURABILITY_SYNC);
    else
        code = bitkv_put(session->handle, key, key_size, value, value_size);
    return code == BITKV_OK ? BENCH_OK : engine_fail("bitkv_put", code);
}

static int engine_get(void *opaque, const void *key, size_t key_size, const void **value,
                      size_t *value_size)
{
    struct engine_session *session = opaque;
    int code = bitkv_get_into(session->handle, key, key_size, session->buffer, session->buffer_size,
                              value_size);

    *value = session->buffer;
    if (code == BITKV_OK)
        return BENCH_OK;
    return code == BITKV_NOT_FOUND ? BENCH_ABSENT : engine_fail("bitkv_get_into", code);
}

static int engine_del(void *opaque, const void *key, size_t key_size)
{
    struct engine_session *session = opaque;
    int code = bitkv_del(session->handle, key, key_size);

    if (code == BITKV_OK)
        return BENCH_OK;
    return code == BITKV_NOT_FOUND ? BENCH_ABSENT : engine_fail("bitkv_del", code);
}

static int engine_set_synced(void *opaque, bool on)
{
    struct engine_db *db = opaque;
    int code = bitkv_sync(db->handle);

    db->synced = on;
    return code == BITKV_OK ? BENCH_OK : engine_fail("bitkv_sync", code);
}

static int engine_usage(void *opaque, struct bench_usage *usage)
{
    const struct engine_db *db = opaque;
    bitkv_statistics statistics;
    int code;

    bitkv_statistics_init(&statistics);
    code = bitkv_stats(db->handle, BITKV_ALL_PARTITIONS, &statistics);
    if (code != BITKV_OK)
        return engine_fail("bitkv_stats", code);
    usage->live_bytes = statistics.live_bytes;
    usage->disk_bytes = statistics.disk_bytes;
    usage->log_bytes = statistics.bytes_written;
    usage->compaction_bytes = statistics.compaction_bytes_written;
    return BENCH_OK;
}

static int add_record(void *user, const bitkv_record *record)
{
    bench_sums_add(user, record->key, record->value);
    return 0;
}

static int engine_scan(void *opaque, bool keys_only, struct bench_sums *sums)
{
    const struct engine_db *db = opaque;
    const int code =
        bitkv_scan(db->handle, keys_only ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL, add_record, sums);

    return code == BITKV_OK ? BENCH_OK : engine_fail("bitkv_scan", code);
}

const struct bench_engine bench_engine_bitkv = {
    .name = "bitkv",
    .title = "BitKV",
    .document = "bitkv.h",
    .configuration = "default options; durability none; gets with bitkv_get_into()",
    .durability = "process death: the record is in the mapped log",
    .synced = "BITKV_DURABILITY_SYNC",
    .checksum = "every get",
    .version = bitkv_version,
    .open = engine_open,
    .close = engine_close,
    .session_begin = engine_session_begin,
    .session_end = engine_session_end,
    .put = engine_put,
    .get = engine_get,
    .del = engine_del,
    .set_synced = engine_set_synced,
    .settle = NULL,
    .usage = engine_usage,
    .scan = engine_scan,
};

const struct bench_engine bench_engine_bitkv_interval = {
    .name = "bitkv-interval",
    .title = "BitKV, 1 s sync",
    .document = "bitkv.h",
    .configuration = "default options (synced every second); gets with bitkv_get_into()",
    .durability = "process death, and power cuts but for the last second",
    .synced = "BITKV_DURABILITY_SYNC",
    .checksum = "every get",
    .only_if_named = true,
    .version = bitkv_version,
    .open = engine_open_interval,
    .close = engine_close,
    .session_begin = engine_session_begin,
    .session_end = engine_session_end,
    .put = engine_put,
    .get = engine_get,
    .del = engine_del,
    .set_synced = engine_set_synced,
    .settle = NULL,
    .usage = engine_usage,
    .scan = engine_scan,
};
