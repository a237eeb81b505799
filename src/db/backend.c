/* SPDX-License-Identifier: MIT */
/*
 * The ladder: io_uring where the kernel lets us, else a pool of threads. The
 * pool is also what opens files for io_uring's side, and what takes over the
 * queue that gets no ring for itself.
 *
 * An operator who has to rule io_uring out for a program sets BITKV_BACKEND in
 * its environment; an option of the program's own goes before that.
 */
#include "db/backend.h"

#include "base/error.h"
#include "io/pool.h"
#include "io/ring.h"

#include <stdlib.h>
#include <string.h>

static void choose(struct bitkv *db, bitkv_backend backend, const char *reason)
{
    db->backend = backend;
    db->backend_reason = reason;
}

void bkv_backend_choose(struct bitkv *db)
{
    bitkv_backend wanted = db->store.options.backend;
    const char *reason = "asked for by option backend";
    if (wanted == BITKV_BACKEND_AUTO) {
        const char *variable = secure_getenv("BITKV_BACKEND");
        if (variable != NULL && strcmp(variable, "threads") == 0)
            wanted = BITKV_BACKEND_THREADS;
        reason = "asked for by BITKV_BACKEND";
    }
    if (wanted == BITKV_BACKEND_THREADS) {
        choose(db, wanted, reason);
        return;
    }
    bool usable = bkv_ring_usable(&reason);
    choose(db, usable ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS, reason);
    if (!usable)
        bkv_log(&db->store, BITKV_LOG_INFO, "threads make blocking reads: %s", reason);
}

int bkv_backend_pool(struct bitkv *db, struct bkv_pool **pool)
{
    int rc = BITKV_OK;
    (void)pthread_mutex_lock(&db->pool_mutex);
    if (db->pool == NULL)
        rc = bkv_pool_create(&db->pool, db->store.options.io_threads);
    *pool = db->pool;
    (void)pthread_mutex_unlock(&db->pool_mutex);
    return rc;
}

void bkv_backend_stop(struct bitkv *db)
{
    bkv_pool_destroy(db->pool);
    db->pool = NULL;
}
