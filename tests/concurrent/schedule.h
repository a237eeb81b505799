/* SPDX-License-Identifier: MIT */
/*
 * Threads that take turns at the library's schedule points (src/base/schedule.h).
 *
 * schedule_explore() runs a few *actors*, one at a time: an actor goes on until it
 * comes to one of the listed points, ends, or waits for something (a lock, a reader
 * that holds a file), and then any of them may be next. It does so again and again
 * until every choice was made at every place: all interleavings of the listed points
 * (stateless search, as in Musuvathi et al., "Finding and reproducing Heisenbugs in
 * concurrent programs", OSDI 2008; so the runs are few as long as the points are).
 *
 * That an actor waits is seen from outside: the kernel says that it sleeps, and goes
 * on saying so for some milliseconds. If all of them wait, the library's own threads
 * have their time; if that does not help for a while, it is a deadlock, and an error.
 *
 * Threads that are no actors pass all points, but for one that is *held*: for
 * schedules of one's own, which involve the worker.
 */
#ifndef BITKV_TESTS_CONCURRENT_SCHEDULE_H
#define BITKV_TESTS_CONCURRENT_SCHEDULE_H

#include <stdbool.h>

#define SCHEDULE_ACTORS 3u

struct schedule {
    const char *name;
    void (*setup)(void);                   /* before each run; NULL: nothing */
    void (*actors[SCHEDULE_ACTORS])(void); /* NULL from the first that is not there */
    const char *points[12];                /* at which actors stop */
    void (*check)(void);                   /* after each run */
    bool first_begins;                     /* up to its first point, before the others do */
};

/* Goes through all interleavings if BITKV_SCHEDULE_MS milliseconds (default 250) are
 * twice what that takes; if not, spends the second half on turns that are drawn, by
 * BITKV_SEED, from all over. Returns the number of runs. */
unsigned schedule_explore(const struct schedule *schedule);
/* For a test's end: if a check has failed, by which choices. */
void schedule_report(void);

/* The next thread that is no actor and comes to this point is held there. */
void schedule_hold(const char *point);
/* Waits until it has come; false: not in time. */
bool schedule_await(void);
/* Whoever is held goes on, and nobody will be any more. */
void schedule_release(void);

#endif
