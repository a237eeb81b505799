/* SPDX-License-Identifier: MIT */
/* What children do; each returns the child's exit status. */
#ifndef BENCH_TASKS_H
#define BENCH_TASKS_H

#include "engine.h"
#include "loops.h"
#include "options.h"

/* All phases of one engine, once. */
int bench_task_standard(const struct bench_options *options, const struct bench_engine *engine);
/* bitkv: variants of reading. */
int bench_task_reads(const struct bench_options *options, const struct bench_engine *engine);
/* Memory a key; child_setting is an index of bench_memory_settings. */
int bench_task_memory(const struct bench_options *options, const struct bench_engine *engine);
/* bitkv: fill, then close, or wait to be killed; and reopen. child_setting is
 * an index of bench_reopen_settings. */
int bench_task_reopen_fill(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_reopen(const struct bench_options *options, const struct bench_engine *engine);
/* The longest put and get while the store grows. */
int bench_task_growth(const struct bench_options *options, const struct bench_engine *engine);
/* bitkv: completion queues. Values in memory, in batches; values on disk, beside
 * fio; puts that are synced; values in memory while others come from disk. */
int bench_task_async_hot(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_async_cold(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_async_synced(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_async_mixed(const struct bench_options *options, const struct bench_engine *engine);

/* The life of data; see each. With peers where they have the same. */
int bench_task_overwrite_uniform(const struct bench_options *options,
                                 const struct bench_engine *engine);
int bench_task_overwrite_zipf(const struct bench_options *options,
                              const struct bench_engine *engine);
int bench_task_overwrite_ycsb(const struct bench_options *options,
                              const struct bench_engine *engine);
int bench_task_foreground(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_compaction_speed(const struct bench_options *options,
                                const struct bench_engine *engine);
int bench_task_snapshot(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_backup(const struct bench_options *options, const struct bench_engine *engine);
int bench_task_batch(const struct bench_options *options, const struct bench_engine *engine);
/* Whether the phase of the life of data has this engine. */
bool bench_life_has(enum bench_phase phase, const struct bench_engine *engine);

/* In flight; each ends with 0. */
extern const unsigned bench_async_hot_depths[];
extern const unsigned bench_async_cold_depths[];
extern const unsigned bench_async_synced_depths[];

/* put, get, mix; NULL behind the last. */
extern const char *const bench_foreground_kinds[];

struct bench_memory_setting {
    const char *name; /* of the figures: memory.NAME.* */
    bool large;       /* --large-keys rather than --keys */
    size_t key_size;
    size_t value_size;
};
extern const struct bench_memory_setting bench_memory_settings[];
extern const unsigned bench_memory_setting_count;

enum bench_reopen_setting {
    BENCH_REOPEN_CLEAN,              /* closed */
    BENCH_REOPEN_KILL,               /* killed; default options */
    BENCH_REOPEN_KILL_NO_CHECKPOINT, /* killed; nothing but the log and its hints */
    BENCH_REOPEN_SETTINGS
};
extern const char *const bench_reopen_settings[BENCH_REOPEN_SETTINGS];

/* Reports what went wrong in a loop; false if something did. */
bool bench_outcome_right(const char *phase, const struct bench_outcome *outcome);

#endif
