/* SPDX-License-Identifier: MIT */
/* The report: tables as text or Markdown, every figure as JSON. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "engine.h"
#include "machine.h"
#include "options.h"
#include "results.h"

#include <stdio.h>

struct bench_report {
    const struct bench_options *options;
    const struct bench_results *results;
    const struct bench_engine *const *engines; /* that ran */
    size_t engine_count;
    struct bench_machine machine;
};

/* Text to stdout, and the files that the options name. False, after a message
 * on stderr, if a file could not be written. */
bool bench_report_write(const struct bench_report *report);
void bench_report_tables(FILE *stream, const struct bench_report *report, bool markdown);
void bench_report_json(FILE *stream, const struct bench_report *report);

/* Engines and phases, for --list. */
void bench_report_list(FILE *stream);

#endif
