/* SPDX-License-Identifier: MIT */
/*
 * A database under faults, and a model of what it must hold: every call may fail,
 * but not lie. What was acknowledged is known; what failed left no trace, but for
 * writes that were waiting for a sync that failed: those may be there or not.
 *
 * Each operation makes one call of the interface, or a few, and compares what it
 * gives with the model. A failure is only counted; world_check(), with all faults
 * gone, wants everything.
 */
#ifndef BITKV_TESTS_FAULT_WORLD_H
#define BITKV_TESTS_FAULT_WORLD_H

#include "damage/lab.h"

#include <bitkv.h>

#include <stdbool.h>
#include <stddef.h>

#define WORLD_KEYS  24u
#define WORLD_MAYBE 12u

/* A version is a number that a value tells of itself; 0: the key is absent. */
struct world_key {
    unsigned known;
    unsigned maybe[WORLD_MAYBE]; /* or one of those */
    unsigned maybes;
};

struct world_model {
    struct world_key keys[WORLD_KEYS];
    unsigned next_version;
};

struct world {
    char path[LAB_PATH];   /* of the database */
    char target[LAB_PATH]; /* of backups */
    bitkv_io_mode mode;
    bitkv_backend backend;
    unsigned partitions;
    bool by_hand;        /* no compaction in the background */
    size_t value_size;   /* of most values; 0: some thousand bytes, and jumbo ones */
    unsigned failures;   /* calls that failed */
    bool may_be_locked;  /* LOCKED is no lie: it was flock() that failed */
    bool may_be_invalid; /* INVALID is none: directories cannot be swapped */
    bool no_sync_fails;  /* SYNC_FAILED is one: nothing was said about the disk */
    bool memory_only;    /* so is everything but NO_MEMORY */
    bool follows;        /* but IO: a file has gone, and a refresh lacked the memory */
    struct world_model model;
    struct world_model backups[2]; /* the target has one of both, with `has_backup` */
    unsigned has_backup;           /* 0: nothing; 1: the first; 2: either; */
};

/* Counts a failure, and fails the test if it is none that a fault excuses. `text`:
 * the context, NULL for this thread's. */
void world_note(struct world *w, int rc, const char *text, const char *call);

/* NULL if the call failed. */
bitkv *world_open(struct world *w, bool read_only);
void world_close(struct world *w, bitkv *db);

void world_put(struct world *w, bitkv *db, unsigned key, bitkv_durability durability);
void world_del(struct world *w, bitkv *db, unsigned key, bitkv_durability durability);
/* Conditional puts, updates, counters, deadlines, all of one key. */
void world_condition(struct world *w, bitkv *db, unsigned key);
/* Every way to read a key, and all of them at once. */
void world_get(struct world *w, bitkv *db, unsigned key);
void world_read(struct world *w, bitkv *db);
void world_scan(struct world *w, bitkv *db);
void world_sync(struct world *w, bitkv *db);
void world_compact(struct world *w, bitkv *db);
/* Puts and deletes of every other key, from `first` on. */
void world_batch(struct world *w, bitkv *db, unsigned first, bitkv_durability durability);
/* One of every operation of a queue, of many keys. */
void world_queue(struct world *w, bitkv *db);
/* Taken, outlived by overwriting and compaction, read by key and walked. */
void world_snapshot(struct world *w, bitkv *db);
void world_backup(struct world *w, bitkv *db);
void world_repartition(struct world *w, unsigned partitions);
/* From the oldest change on to the last, which must be the model's. */
void world_feed(struct world *w, bitkv *db);
/* A follower's read of a key: as it was at the last refresh, or as it is now. */
void world_follow(struct world *w, bitkv *follower, const struct world_model *refreshed);

/* Do all keys of the database have a version that the model allows? */
bool world_holds(bitkv *db, const struct world_model *model);
/* With all faults gone: opens, holds what it must, is written to, and closes; what
 * there is of backups opens, too. */
void world_check(struct world *w);

#endif
