/* SPDX-License-Identifier: MIT */
/* What a run is asked to do. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_RUNS_MAX 101u

enum bench_phase {
    /* every engine */
    BENCH_PHASE_FILL,
    BENCH_PHASE_OVERWRITE,
    BENCH_PHASE_GET,
    BENCH_PHASE_MISS,
    BENCH_PHASE_MIXED_95,
    BENCH_PHASE_MIXED_50,
    BENCH_PHASE_SYNCED,
    BENCH_PHASE_DELETE,
    BENCH_PHASE_CLOSE,
    BENCH_PHASE_REOPEN,
    /* bitkv */
    BENCH_PHASE_READS,
    BENCH_PHASE_MEMORY,
    BENCH_PHASE_REOPEN_CLEAN,
    BENCH_PHASE_REOPEN_KILL,
    BENCH_PHASE_GROWTH,
    BENCH_PHASE_ASYNC_HOT,
    BENCH_PHASE_ASYNC_COLD,
    BENCH_PHASE_ASYNC_SYNCED,
    BENCH_PHASE_ASYNC_MIXED,
    /* the life of data: some with peers; run if they are named */
    BENCH_PHASE_OVERWRITE_UNIFORM,
    BENCH_PHASE_OVERWRITE_ZIPF,
    BENCH_PHASE_OVERWRITE_YCSB,
    BENCH_PHASE_FOREGROUND,
    BENCH_PHASE_COMPACTION_SPEED,
    BENCH_PHASE_SNAPSHOT,
    BENCH_PHASE_BACKUP,
    BENCH_PHASE_BATCH,
    BENCH_PHASE_COUNT
};
#define BENCH_PHASE_FIRST_SPECIAL BENCH_PHASE_READS
#define BENCH_PHASE_FIRST_ASYNC   BENCH_PHASE_ASYNC_HOT
#define BENCH_PHASE_FIRST_LIFE    BENCH_PHASE_OVERWRITE_UNIFORM

extern const char *const bench_phase_names[BENCH_PHASE_COUNT];

struct bench_options {
    uint64_t keys;
    uint64_t large_keys; /* of reopen-* and growth, and of the larger memory settings */
    size_t key_size;
    size_t value_size;
    unsigned threads;
    unsigned runs;
    unsigned special_runs; /* of the phases that are bitkv's own */
    uint64_t synced_puts;
    uint64_t cold_reads; /* of each pass of async-cold */
    double scale;        /* of the phases of the life of data: 1 for their full size */
    uint64_t rate;       /* puts a second of overwrite-*; 0: as many as go */
    uint64_t seed;
    uint32_t phases;       /* bits of bench_phase */
    const char *engines;   /* comma separated; NULL for all that are built */
    const char *directory; /* on whose file system the databases are made */
    const char *json;      /* file names, NULL for none */
    const char *markdown;
    bool latency; /* a further run in which every operation is timed by itself */
    bool list;

    /* Of the program's own children; see child.h. */
    const char *child;
    const char *child_engine;
    const char *child_directory;
    unsigned child_setting;
    bool child_timed;
    int child_fd;
};

static inline bool bench_wants(const struct bench_options *options, enum bench_phase phase)
{
    return (options->phases >> phase & 1u) != 0;
}

/*
 * Returns -1 to go on, else the exit status: 0 after --help, 2 on wrong usage,
 * which is explained on stderr.
 */
int bench_options_parse(struct bench_options *options, int argc, char **argv);

#endif
