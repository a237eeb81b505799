/* SPDX-License-Identifier: MIT */
/*
 * What is written before the power fails: a workload drawn from a seed, run on a
 * database that is recorded (sim.h) by threads that take turns (turns.h), so that
 * a seed gives the same journal each time; and what of it must be there after a
 * cut at any of its events.
 *
 * There are few keys. What they can be told by is the version in their values;
 * the last is a counter, whose version is its count.
 */
#ifndef BITKV_TESTS_CRASH_HISTORY_H
#define BITKV_TESTS_CRASH_HISTORY_H

#include "crash/sim.h"
#include "damage/lab.h"

#include <bitkv.h>

#include <stdint.h>

#define KEYS         18u
#define COUNTER      (KEYS - 1)
#define OPS_MOST     600u
#define OPS_BEHIND   8u /* room for what is written after a recovery */
#define EPOCHS_MOST  6u
#define BACKUPS_MOST 6u
#define NEVER        SIZE_MAX
#define NO_BATCH     0u
#define VALUE_MOST   80000u

struct op {
    unsigned key, version; /* 0: a delete, or it has expired when somebody looks */
    unsigned batch;
    size_t begun, durable; /* events */
};

/* From a repartition, or an opening after a failed sync, to the next: who lives where,
 * and what all had at the beginning, which is durable. */
struct epoch {
    size_t begun;
    unsigned first_op, partitions;
    unsigned partition[KEYS], base[KEYS];
};

struct backup {
    size_t begun, done;
    unsigned epoch; /* a repartition makes another database, with backups of its own */
    unsigned versions[KEYS];
};

struct workload;

struct history {
    const struct workload *workload;
    uint64_t seed;
    struct op ops[OPS_MOST + OPS_BEHIND];
    unsigned op_count, version, batches;
    unsigned now[KEYS];
    struct epoch epochs[EPOCHS_MOST];
    unsigned epoch_count;
    struct backup backups[BACKUPS_MOST];
    unsigned backup_count;
    bool mapped;
    size_t end; /* events */
    struct sim *sim;
};

/* The one that is judged. */
extern struct history history;

unsigned history_workloads(void);
/* Of a seed: which workload it is of. */
unsigned history_workload_of(uint64_t seed);
const char *history_workload_name(unsigned number);

/* Records one in `root`, a directory that is made anew. To be freed with sim_free(). */
void history_record(uint64_t seed, const char *root);
/* With the options of the history's workload; `name` is of a folder in `where`. */
bitkv *history_open(const char *where, const char *name, bool strict, int *rc);

/* The value of a version, until the next call. */
const void *history_value(unsigned key, unsigned version, size_t *size);
/* The version that a value is of; 0: it was never put. */
unsigned history_version(unsigned key, const void *value, size_t size);

#endif
