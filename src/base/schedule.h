/* SPDX-License-Identifier: MIT */
/*
 * Schedule points: named places between two steps that a race could come between,
 * where tests of tests/concurrent hold a thread to let another one go first (after
 * RocksDB's sync points). Only the variant of the library that these tests link is
 * compiled with BKV_SCHEDULE; in every other build a point is nothing at all.
 *
 * The name is that of the step before. A test lists the points that it holds: one
 * under a lock is none of a test whose other thread needs that lock.
 */
#ifndef BKV_BASE_SCHEDULE_H
#define BKV_BASE_SCHEDULE_H

#if defined(BKV_SCHEDULE)
/* Of tests/concurrent/schedule.c. */
void bkv_schedule_reached(const char *point);
#define BKV_SCHEDULE_POINT(name) bkv_schedule_reached(name)
#else
#define BKV_SCHEDULE_POINT(name) ((void)0)
#endif

#endif
