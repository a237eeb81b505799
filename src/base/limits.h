/* SPDX-License-Identifier: MIT */
/*
 * Every maximum of the library, in one place. Those of the API itself
 * (key, value, partitions) are in bitkv.h.
 */
#ifndef BKV_BASE_LIMITS_H
#define BKV_BASE_LIMITS_H

#include <bitkv.h>

/* Segment size, by option. The upper bound follows from the 27 offset bits of
 * a location (log/location.h): offsets are in units of 8 bytes. */
#define BKV_SEGMENT_SIZE_MIN     (64u << 10)
#define BKV_SEGMENT_SIZE_MAX     (1u << 30)
#define BKV_SEGMENT_SIZE_DEFAULT (100u << 20)

/* Live segments of one partition: 18 bits of a location. */
#define BKV_SEGMENTS_MAX (1u << 18)

/* Segment ids count up; a name with a larger one is not ours. */
#define BKV_SEGMENT_ID_MAX ((UINT64_C(1) << 63) - 1)

/* Space is reserved ahead of the tail in steps that double from MIN to MAX: a
 * nearly empty database stays small, a busy one seldom asks. */
#define BKV_RESERVE_STEP_MIN (1u << 20)
#define BKV_RESERVE_STEP_MAX (32u << 20)

/* Appends since the last sync go through pwrite up to here, through the mapping
 * from then on (partition/tail.c says why). */
#define BKV_MAPPED_FROM_BYTES (256u << 10)

/* How far ahead of the tail the worker faults pages in, and in which bites. */
#define BKV_FAULT_AHEAD_BYTES (8u << 20)
#define BKV_FAULT_STEP_BYTES  (256u << 10)

#define BKV_SYNC_INTERVAL_MS_DEFAULT 1000u
#define BKV_SYNC_INTERVAL_MS_MAX     3600000u

#define BKV_CHECKPOINT_BYTES_MIN (256u << 20)

#define BKV_RING_DEPTH_DEFAULT 2048u
#define BKV_RING_DEPTH_MAX     32768u

/* Of the pool that makes blocking reads. */
#define BKV_IO_THREADS_DEFAULT 32u
#define BKV_IO_THREADS_MAX     1024u

/* Operations of a completion queue. */
#define BKV_CQ_CAPACITY_DEFAULT 4096u
#define BKV_CQ_CAPACITY_MAX     (1u << 20)

/* Window of sequential reading, in recovery and when a hint is made: memory that
 * each partition may hold for a while. */
#define BKV_SCAN_WINDOW_BYTES (256u << 10)

/* Warnings about single damaged regions that one opening delivers; the rest
 * is counted. */
#define BKV_DAMAGE_WARNINGS_MAX 100u

#define BKV_ERROR_CONTEXT_SIZE 512u

#endif
