/* SPDX-License-Identifier: MIT */
#include "results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bench_results_free(struct bench_results *results)
{
    free(results->series);
    results->series = NULL;
    results->count = results->capacity = 0;
}

static struct bench_series *find(const struct bench_results *results, const char *engine,
                                 const char *name)
{
    for (size_t i = 0; i < results->count; i++) {
        if (strcmp(results->series[i].engine, engine) == 0 &&
            strcmp(results->series[i].name, name) == 0)
            return &results->series[i];
    }
    return NULL;
}

static struct bench_series *find_or_add(struct bench_results *results, const char *engine,
                                        const char *name)
{
    struct bench_series *series = find(results, engine, name);

    if (series != NULL)
        return series;
    if (results->count == results->capacity) {
        const size_t capacity = results->capacity * 2 + 64;

        series = realloc(results->series, capacity * sizeof(*series));
        if (series == NULL) {
            (void)fprintf(stderr, "bitkv-bench: out of memory\n");
            exit(EXIT_FAILURE);
        }
        results->series = series;
        results->capacity = capacity;
    }
    series = &results->series[results->count++];
    memset(series, 0, sizeof(*series));
    (void)snprintf(series->engine, sizeof(series->engine), "%s", engine);
    (void)snprintf(series->name, sizeof(series->name), "%s", name);
    return series;
}

void bench_results_figure(struct bench_results *results, const char *engine, const char *name,
                          double value)
{
    struct bench_series *series = find_or_add(results, engine, name);

    if (series->count < BENCH_RUNS_MAX)
        series->values[series->count++] = value;
}

void bench_results_latency(struct bench_results *results, const char *engine, const char *name,
                           const struct bench_percentiles *latency)
{
    struct bench_series *series = find_or_add(results, engine, name);

    series->has_latency = true;
    series->latency = *latency;
}

void bench_results_text(struct bench_results *results, const char *engine, const char *name,
                        const char *text)
{
    struct bench_series *series = find_or_add(results, engine, name);

    (void)snprintf(series->text, sizeof(series->text), "%s", text);
}

void bench_results_complain(struct bench_results *results, const char *engine, const char *text)
{
    const unsigned limit = sizeof(results->complaint) / sizeof(results->complaint[0]);

    if (results->complaints < limit)
        (void)snprintf(results->complaint[results->complaints++], sizeof(results->complaint[0]),
                       "%s: %.350s", engine, text);
}

const struct bench_series *bench_results_find(const struct bench_results *results,
                                              const char *engine, const char *name)
{
    return find(results, engine, name);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(const struct bench_series *series)
{
    double sorted[BENCH_RUNS_MAX];

    if (series == NULL || series->count == 0)
        return NAN;
    memcpy(sorted, series->values, series->count * sizeof(sorted[0]));
    qsort(sorted, series->count, sizeof(sorted[0]), compare);
    return (sorted[(series->count - 1) / 2] + sorted[series->count / 2]) / 2.0;
}

double bench_min(const struct bench_series *series)
{
    double least = NAN;

    for (unsigned i = 0; series != NULL && i < series->count; i++) {
        if (i == 0 || series->values[i] < least)
            least = series->values[i];
    }
    return least;
}

double bench_max(const struct bench_series *series)
{
    double most = NAN;

    for (unsigned i = 0; series != NULL && i < series->count; i++) {
        if (i == 0 || series->values[i] > most)
            most = series->values[i];
    }
    return most;
}

double bench_results_median(const struct bench_results *results, const char *engine,
                            const char *name)
{
    return bench_median(bench_results_find(results, engine, name));
}
