/* SPDX-License-Identifier: MIT */
/*
 * What the benchmark asks of a store: one table of functions an engine.
 *
 * The table is the same for all, so what a call through it costs is the same
 * for all; the null engine measures it. An adapter uses the fastest way that
 * its engine documents for the operation, and keeps per thread, in a session,
 * what its engine advises to reuse: read transactions, buffers.
 *
 * Every engine is set up for the same promise, stated in `durability`: in the
 * normal phases a write that returned survives the death of the process; in
 * the synced phase it survives a power cut.
 */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

enum bench_status {
    BENCH_OK = 0,
    BENCH_ABSENT = 1,
    BENCH_FAILED = -1, /* bench_error() has the reason */
};

struct bench_setup {
    const char *directory; /* exists; the engine's own */
    uint64_t keys;         /* expected, for engines whose tables are sized by hand */
    size_t key_size;
    size_t value_size;
};

/* What an engine knows of its files. */
struct bench_usage {
    uint64_t live_bytes;       /* that a get can find, as stored */
    uint64_t log_bytes;        /* written for puts, since opening */
    uint64_t compaction_bytes; /* written again, since opening */
    uint64_t disk_bytes;       /* that its files take, as it counts them itself */
};

/* All records, added up, so that none is missing or twice. */
struct bench_sums {
    uint64_t records;
    uint64_t keys;   /* of the first 8 bytes of each */
    uint64_t values; /* likewise; 0 if only keys were visited */
};

struct bench_engine {
    const char *name;          /* as in --engines */
    const char *title;         /* as in the report */
    const char *document;      /* whose advice the configuration follows */
    const char *configuration; /* what is set, in words */
    const char *durability;    /* how a normal put survives the process */
    const char *synced;        /* what a synced put does */
    const char *checksum;      /* what a get verifies */
    bool only_if_named;        /* a variant: not run unless --engines has it */
    bool stores_nothing;       /* the null engine: its answers are not judged */

    const char *(*version)(void);

    /* Creates what is not there. NULL on failure. */
    void *(*open)(const struct bench_setup *setup);
    int (*close)(void *db);

    /* One a thread. NULL on failure. */
    void *(*session_begin)(void *db);
    void (*session_end)(void *session);

    int (*put)(void *session, const void *key, size_t key_size, const void *value,
               size_t value_size);
    /* The value stays valid until the session's next call. */
    int (*get)(void *session, const void *key, size_t key_size, const void **value,
               size_t *value_size);
    int (*del)(void *session, const void *key, size_t key_size);

    /* On: sync all there is, and from then on every put. Off: as before. */
    int (*set_synced)(void *db, bool on);
    /* Wait until background work is done, so that reads are not measured
     * against it. NULL if the engine has none to wait for. */
    void (*settle)(void *db);

    /* NULL if the engine does not tell. */
    int (*usage)(void *db, struct bench_usage *usage);
    /* Visits every record, in the engine's own order and its fastest way, and adds
     * it to `sums`. NULL if it is not compared. */
    int (*scan)(void *db, bool keys_only, struct bench_sums *sums);
};

static inline void bench_sums_add(struct bench_sums *sums, const void *key, const void *value)
{
    uint64_t word;

    sums->records++;
    memcpy(&word, key, sizeof(word));
    sums->keys += word;
    if (value != NULL) {
        memcpy(&word, value, sizeof(word));
        sums->values += word;
    }
}

/* Built-in engines, in the report's order, the null engine last. */
extern const struct bench_engine *const bench_engines[];
extern const size_t bench_engine_count;
const struct bench_engine *bench_engine_find(const char *name);

/* Names of all engines this program knows, built or not; NULL behind the last. */
extern const char *const bench_engine_names[];

/* Reason of the calling thread's last BENCH_FAILED. */
int bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *bench_error(void);

extern const struct bench_engine bench_engine_null;
extern const struct bench_engine bench_engine_bitkv;
extern const struct bench_engine bench_engine_bitkv_interval;
extern const struct bench_engine bench_engine_tkrzw;
extern const struct bench_engine bench_engine_kyoto;
extern const struct bench_engine bench_engine_lmdb;
extern const struct bench_engine bench_engine_leveldb;
extern const struct bench_engine bench_engine_rocksdb;
extern const struct bench_engine bench_engine_rocksdb_plain;

#ifdef __cplusplus
}
#endif

#endif
