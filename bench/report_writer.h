/* SPDX-License-Identifier: MIT */
/* What the parts of the report for people are written with. */
#ifndef BENCH_REPORT_WRITER_H
#define BENCH_REPORT_WRITER_H

#include "report.h"
#include "table.h"

struct bench_writer {
    FILE *stream;
    const struct bench_report *report;
    bool markdown;
};

extern struct bench_table bench_page; /* the table being made: large, and one at a time */

void bench_write_heading(const struct bench_writer *writer, const char *text);
void bench_write_paragraph(const struct bench_writer *writer, const char *text);
void bench_write_table(const struct bench_writer *writer);
/* Begins a table with these column titles. */
void bench_write_titles(const char *const *texts, size_t count);

/* Four significant digits, without exponents; "-" for NAN. */
void bench_cell_number(double value);
void bench_cell_duration(double ns);
/* Percentiles of one of BitKV's figures, as four cells. */
void bench_cells_latency(const struct bench_writer *writer, const char *name);

/* Of BitKV's: the median of a figure, and what a phase had to say ("" if nothing). */
double bench_own_median(const struct bench_writer *writer, const char *name);
const char *bench_own_text(const struct bench_writer *writer, const char *name);

/* The phases of the life of data; report_life.c. */
void bench_report_life(const struct bench_writer *writer);

#endif
