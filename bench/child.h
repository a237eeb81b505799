/* SPDX-License-Identifier: MIT */
/*
 * Children. Everything that is measured is measured in a process of its own,
 * forked and executed afresh, so that heaps, mappings and background threads
 * of one engine never meet those of another, and so that a process can be
 * killed to see what survives.
 *
 * A child is this program with its own arguments plus --child TASK. It reports
 * lines to a pipe:
 *
 *   figure NAME VALUE             one figure
 *   latency NAME N P50 P99 P999 P9999 MAX    (ns)
 *   text NAME TEXT                a remark
 *   wrong COUNT TEXT              values that were not right
 *   error TEXT                    the engine or the system failed
 *   ready                         see bench_child_wait_ready()
 */
#ifndef BENCH_CHILD_H
#define BENCH_CHILD_H

#include "histogram.h"
#include "options.h"

#include <sys/types.h>

/* --- in the child --- */

void bench_report_to(int fd);
void bench_report_figure(const char *name, double value);
void bench_report_latency(const char *name, const struct bench_histogram *histogram);
void bench_report_text(const char *name, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void bench_report_wrong(uint64_t count, const char *text);
/* Returns false. */
bool bench_report_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Tells the parent that all is done, then waits to be killed. */
void bench_report_ready_and_wait(void) __attribute__((noreturn));

/* RssAnon of this process in bytes: memory that is not a file's. */
uint64_t bench_rss_anon(void);

/* --- in the parent --- */

struct bench_child_task {
    const char *task;
    const char *engine;
    const char *directory; /* the database's; made if it is missing */
    unsigned setting;
    bool timed;
    bool kill_when_ready; /* SIGKILL it as soon as it reports ready */
};

/* Where a child's lines go. */
struct bench_child_sink {
    void (*figure_cb)(void *user, const char *name, double value);
    void (*latency_cb)(void *user, const char *name, const struct bench_percentiles *latency);
    void (*text_cb)(void *user, const char *name, const char *text);
    void (*wrong_cb)(void *user, uint64_t count, const char *text);
    void (*error_cb)(void *user, const char *text);
    void *user;
};

/* Runs the task to its end. False if it failed; error_cb has been told why. */
bool bench_child_run(char **argv, const struct bench_child_task *task,
                     const struct bench_child_sink *sink);
/* The child that runs now, 0 if none: for signal handlers. */
pid_t bench_child_running(void);

/* Remove a directory and all in it. */
void bench_remove_tree(const char *directory);

#endif
