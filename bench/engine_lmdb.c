/* SPDX-License-Identifier: MIT */
/*
 * LMDB, as the documentation of mdb_env_open() in lmdb.h advises: WRITEMAP
 * "may be slightly faster for DBs that fit entirely in RAM"; NOSYNC in the
 * normal phases (a commit is a store into the shared map, which the death of
 * the process does not undo), taken off with mdb_env_set_flags() in the synced
 * phase; NORDAHEAD "may help random read performance".
 *
 * A put is a write transaction of its own, as a put of the other engines
 * returns accepted: LMDB is much faster if many writes share a transaction,
 * but then none of them is accepted before the last. A get renews the
 * session's reset read transaction, as lmdb.h advises for readers, so that it
 * sees every write that was committed before it.
 */
#include "engine.h"

#include <lmdb.h>
#include <stdlib.h>

struct lmdb {
    MDB_env *env;
    MDB_dbi dbi;
};

struct lmdb_session {
    struct lmdb *db;
    MDB_txn *reader;
};

static int lmdb_fail(const char *what, int code)
{
    return bench_fail("%s: %s", what, mdb_strerror(code));
}

static const char *lmdb_version(void)
{
    return mdb_version(NULL, NULL, NULL);
}

static void *lmdb_open(const struct bench_setup *setup)
{
    struct lmdb *db = malloc(sizeof(*db));
    MDB_txn *txn;
    int code;

    if (db == NULL) {
        (void)bench_fail("out of memory");
        return NULL;
    }
    code = mdb_env_create(&db->env);
    if (code != 0) {
        (void)lmdb_fail("mdb_env_create", code);
        goto err_after_alloc;
    }
    /* Copy-on-write pages that are two thirds full, and their freelist: four
     * times the content is ample. The file is sparse. */
    code = mdb_env_set_mapsize(
        db->env, (setup->keys * (setup->key_size + setup->value_size + 32) * 4 + (1u << 28)) &
                     ~(size_t)4095);
    if (code == 0)
        code = mdb_env_open(db->env, setup->directory, MDB_WRITEMAP | MDB_NOSYNC | MDB_NORDAHEAD,
                            0600);
    if (code != 0) {
        (void)lmdb_fail("mdb_env_open", code);
        goto err_after_env;
    }
    code = mdb_txn_begin(db->env, NULL, 0, &txn);
    if (code != 0) {
        (void)lmdb_fail("mdb_txn_begin", code);
        goto err_after_env;
    }
    code = mdb_dbi_open(txn, NULL, 0, &db->dbi);
    if (code != 0) {
        mdb_txn_abort(txn);
        (void)lmdb_fail("mdb_dbi_open", code);
        goto err_after_env;
    }
    code = mdb_txn_commit(txn);
    if (code != 0) {
        (void)lmdb_fail("mdb_txn_commit", code);
        goto err_after_env;
    }
    return db;

err_after_env:
    mdb_env_close(db->env);
err_after_alloc:
    free(db);
    return NULL;
}

static int lmdb_close(void *opaque)
{
    struct lmdb *db = opaque;
    int code = mdb_env_sync(db->env, 1); /* a close that loses nothing, like the others' */

    mdb_env_close(db->env);
    free(db);
    return code == 0 ? BENCH_OK : lmdb_fail("mdb_env_sync", code);
}

static void *lmdb_session_begin(void *opaque)
{
    struct lmdb_session *session = malloc(sizeof(*session));
    int code;

    if (session == NULL) {
        (void)bench_fail("out of memory");
        return NULL;
    }
    session->db = opaque;
    code = mdb_txn_begin(session->db->env, NULL, MDB_RDONLY, &session->reader);
    if (code != 0) {
        (void)lmdb_fail("mdb_txn_begin", code);
        free(session);
        return NULL;
    }
    mdb_txn_reset(session->reader);
    return session;
}

static void lmdb_session_end(void *opaque)
{
    struct lmdb_session *session = opaque;

    mdb_txn_abort(session->reader);
    free(session);
}

static int lmdb_put(void *opaque, const void *key, size_t key_size, const void *value,
                    size_t value_size)
{
    struct lmdb_session *session = opaque;
    MDB_val k = {.mv_size = key_size, .mv_data = (void *)(uintptr_t)key};
    MDB_val v = {.mv_size = value_size, .mv_data = (void *)(uintptr_t)value};
    MDB_txn *txn;
    int code = mdb_txn_begin(session->db->env, NULL, 0, &txn);

    if (code != 0)
        return lmdb_fail("mdb_txn_begin", code);
    code = mdb_put(txn, session->db->dbi, &k, &v, 0);
    if (code != 0) {
        mdb_txn_abort(txn);
        return lmdb_fail("mdb_put", code);
    }
    code = mdb_txn_commit(txn);
    return code == 0 ? BENCH_OK : lmdb_fail("mdb_txn_commit", code);
}

static int lmdb_get(void *opaque, const void *key, size_t key_size, const void **value,
                    size_t *value_size)
{
    struct lmdb_session *session = opaque;
    MDB_val k = {.mv_size = key_size, .mv_data = (void *)(uintptr_t)key};
    MDB_val v;
    int code;

    /* The transaction of the last get ends here, because its value had to stay
     * valid until now. */
    mdb_txn_reset(session->reader);
    code = mdb_txn_renew(session->reader);
    if (code != 0)
        return lmdb_fail("mdb_txn_renew", code);
    code = mdb_get(session->reader, session->db->dbi, &k, &v);
    if (code == MDB_NOTFOUND)
        return BENCH_ABSENT;
    if (code != 0)
        return lmdb_fail("mdb_get", code);
    *value = v.mv_data;
    *value_size = v.mv_size;
    return BENCH_OK;
}

static int lmdb_del(void *opaque, const void *key, size_t key_size)
{
    struct lmdb_session *session = opaque;
    MDB_val k = {.mv_size = key_size, .mv_data = (void *)(uintptr_t)key};
    MDB_txn *txn;
    int code = mdb_txn_begin(session->db->env, NULL, 0, &txn);

    if (code != 0)
        return lmdb_fail("mdb_txn_begin", code);
    code = mdb_del(txn, session->db->dbi, &k, NULL);
    if (code != 0) {
        mdb_txn_abort(txn);
        return code == MDB_NOTFOUND ? BENCH_ABSENT : lmdb_fail("mdb_del", code);
    }
    code = mdb_txn_commit(txn);
    return code == 0 ? BENCH_OK : lmdb_fail("mdb_txn_commit", code);
}

static int lmdb_set_synced(void *opaque, bool on)
{
    struct lmdb *db = opaque;
    int code = mdb_env_sync(db->env, 1);

    if (code == 0)
        code = mdb_env_set_flags(db->env, MDB_NOSYNC, on ? 0 : 1);
    return code == 0 ? BENCH_OK : lmdb_fail("mdb_env_set_flags", code);
}

static int lmdb_scan(void *opaque, bool keys_only, struct bench_sums *sums)
{
    struct lmdb *db = opaque;
    MDB_val k, v;
    MDB_txn *txn;
    MDB_cursor *cursor;
    int code = mdb_txn_begin(db->env, NULL, MDB_RDONLY, &txn);

    if (code != 0)
        return lmdb_fail("mdb_txn_begin", code);
    code = mdb_cursor_open(txn, db->dbi, &cursor);
    if (code == 0) {
        while ((code = mdb_cursor_get(cursor, &k, keys_only ? NULL : &v, MDB_NEXT)) == 0)
            bench_sums_add(sums, k.mv_data, keys_only ? NULL : v.mv_data);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return code == MDB_NOTFOUND ? BENCH_OK : lmdb_fail("mdb_cursor_get", code);
}

const struct bench_engine bench_engine_lmdb = {
    .name = "lmdb",
    .title = "LMDB",
    .document = "lmdb.h, mdb_env_open() and mdb_txn_reset()",
    .configuration = "WRITEMAP, NOSYNC, NORDAHEAD; one write transaction a put; gets renew a "
                     "reset read transaction and use the value in place",
    .durability = "process death: the commit is in the shared map",
    .synced = "NOSYNC taken off: every commit msyncs",
    .checksum = "none",
    .version = lmdb_version,
    .open = lmdb_open,
    .close = lmdb_close,
    .session_begin = lmdb_session_begin,
    .session_end = lmdb_session_end,
    .put = lmdb_put,
    .get = lmdb_get,
    .del = lmdb_del,
    .set_synced = lmdb_set_synced,
    .settle = NULL,
    .usage = NULL,
    .scan = lmdb_scan,
};
