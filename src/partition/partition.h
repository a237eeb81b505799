/* SPDX-License-Identifier: MIT */
/*
 * A partition: a log, the KeyDir over it, one worker thread; nothing shared
 * with its siblings but what struct bkv_store holds. This header is all that
 * src/db sees of it.
 */
#ifndef BKV_PARTITION_PARTITION_H
#define BKV_PARTITION_PARTITION_H

#include "base/epoch.h"
#include "base/hash.h"
#include "base/limits.h"
#include "io/file.h"
#include "log/manifest.h"

#include <bitkv.h>

/* What the partitions of an open database have in common. Constant while they
 * are open. */
struct bkv_store {
    struct bkv_dir dir;
    struct bkv_manifest manifest;
    bitkv_options options;      /* checked, with every default filled in */
    bool mapped;                /* BITKV_IO_MMAP runs, else BITKV_IO_PWRITE */
    uint32_t open_segments_max; /* of one partition */
    uint32_t sealed_max;        /* full segments of one that wait for their sync */
};

/* A message for the log callback, if there is one. */
void bkv_log(const struct bkv_store *store, bitkv_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

struct bkv_partition;

/* Starts the partition's thread, which recovers it; several may be started
 * before the first is awaited. */
int bkv_partition_start(struct bkv_partition **out, struct bkv_store *store, uint32_t index);
/* Waits for the recovery and returns its result. */
int bkv_partition_await(struct bkv_partition *partition);
/* Seals what is open, stops the thread and frees all. `clean`: sync, trim and
 * checkpoint first; their first error is returned. No operation may run. */
int bkv_partition_stop(struct bkv_partition *partition, bool clean);

/* Where the value that was read goes. */
struct bkv_sink {
    enum bkv_sink_kind {
        BKV_SINK_NONE,     /* only whether the key is there */
        BKV_SINK_BUFFER,   /* into buffer, of size capacity */
        BKV_SINK_ALLOCATE, /* buffer is allocated, with a NUL byte behind the value */
        BKV_SINK_VIEW,     /* view is filled in */
    } kind;
    void *buffer;
    size_t capacity;
    bitkv_view *view;
    size_t size; /* out: of the value, also if it did not fit */
};

/* The calls run in the caller's thread, inside of its epoch section `slot`,
 * which they may leave and enter again. */
int bkv_partition_get(struct bkv_partition *partition, struct bkv_epoch_slot *slot,
                      const struct bkv_hash *hash, const void *key, size_t key_size,
                      struct bkv_sink *sink);
int bkv_partition_put(struct bkv_partition *partition, const struct bkv_hash *hash, const void *key,
                      size_t key_size, const void *value, size_t value_size,
                      bitkv_durability durability);
int bkv_partition_del(struct bkv_partition *partition, const struct bkv_hash *hash, const void *key,
                      size_t key_size, bitkv_durability durability);
int bkv_partition_sync(struct bkv_partition *partition);
/* Records that cannot be shown: the first one's code, and what it was. */
struct bkv_scan_failure {
    int code; /* BITKV_OK: none */
    char context[BKV_ERROR_CONTEXT_SIZE];
};
/* Returns what the callback did, or what kept the scan from going on; records
 * that could not be read are in `failure`, and the others are visited. */
int bkv_partition_scan(struct bkv_partition *partition, unsigned flags, bitkv_scan_cb scan_cb,
                       void *user, const _Atomic bool *stop, struct bkv_scan_failure *failure);
/* Adds its figures to `statistics`; gauges of the whole database are left. */
void bkv_partition_stats(struct bkv_partition *partition, bitkv_statistics *statistics);

/* Stages of a pipelined get: prefetch the way to the KeyDir's slot, then the
 * slot, then the record. Each in the same epoch section as the get. */
void bkv_partition_prefetch_index(struct bkv_partition *partition, const struct bkv_hash *hash);
void bkv_partition_prefetch_slot(struct bkv_partition *partition, const struct bkv_hash *hash);
void bkv_partition_prefetch_record(struct bkv_partition *partition, const struct bkv_hash *hash);

#endif
