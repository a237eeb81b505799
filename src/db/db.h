/* SPDX-License-Identifier: MIT */
/* An open database, for the files of this folder. */
#ifndef BKV_DB_DB_H
#define BKV_DB_DB_H

#include "db/fork.h"
#include "partition/partition.h"

#include "base/limits.h"

#include <bitkv.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct bkv_pool;
struct bkv_feed_home;

struct bitkv {
    /* hot: read by every call */
    struct bkv_partition **partitions;
    struct bkv_hash_key hash_key;
    uint32_t partition_count;
    uint32_t fork_generation;
    _Atomic bool closing;

    struct bkv_store store;
    struct bkv_fork_member fork_member;
    _Atomic uint32_t long_calls; /* that run: closing waits for them */
    bool guarded;                /* the SIGBUS guard is ours to release */

    /* completion queues */
    bitkv_backend backend;      /* never AUTO */
    const char *backend_reason; /* static */
    pthread_mutex_t pool_mutex;
    struct bkv_pool *pool;             /* NULL: not needed yet */
    bitkv_cq *queues;                  /* under the mutex of cq.c */
    _Atomic uint32_t residency_doubts; /* how often it turned out that pages had gone */

    bitkv_snapshot *snapshots;               /* under the mutex of snapshot.c */
    struct bkv_feed_home *_Atomic feed_home; /* NULL: no feed was ever opened */

    uint64_t opened_in_ns;
    char io_mode_reason[96];
};

/* bitkv_open(); with `exclusive` a read-only opening shares the directory with
 * nobody. */
int bkv_open_with(bitkv **db, const char *directory, const bitkv_options *options, bool exclusive);

/* Is the directory that was opened still the one of that name? */
int bkv_directory_is(const struct bkv_dir *dir, const char *path, bool *same);

#endif
