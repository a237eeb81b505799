/* SPDX-License-Identifier: MIT */
/* The figures of a run, as they come in: series by engine and name. */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include "histogram.h"
#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench_series {
    char engine[24];
    char name[96]; /* phase.threads, or task.figure */
    unsigned count;
    double values[BENCH_RUNS_MAX];
    bool has_latency;
    struct bench_percentiles latency; /* of the run that timed every operation */
    char text[256];                   /* a remark instead of figures */
};

struct bench_results {
    struct bench_series *series;
    size_t count, capacity;
    uint64_t wrong;          /* values that were not right */
    unsigned failures;       /* children that failed */
    char complaint[10][400]; /* the first of either */
    unsigned complaints;
};

void bench_results_free(struct bench_results *results);
void bench_results_figure(struct bench_results *results, const char *engine, const char *name,
                          double value);
void bench_results_latency(struct bench_results *results, const char *engine, const char *name,
                           const struct bench_percentiles *latency);
void bench_results_text(struct bench_results *results, const char *engine, const char *name,
                        const char *text);
void bench_results_complain(struct bench_results *results, const char *engine, const char *text);

/* NULL if there is none. */
const struct bench_series *bench_results_find(const struct bench_results *results,
                                              const char *engine, const char *name);

/* NAN if the series is NULL or has no figures. */
double bench_median(const struct bench_series *series);
double bench_min(const struct bench_series *series);
double bench_max(const struct bench_series *series);
/* The median of engine's series, NAN without one. */
double bench_results_median(const struct bench_results *results, const char *engine,
                            const char *name);

#endif
