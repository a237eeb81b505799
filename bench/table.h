/* SPDX-License-Identifier: MIT */
/* A table of text cells, printed aligned or as Markdown. */
#ifndef BENCH_TABLE_H
#define BENCH_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#define BENCH_TABLE_COLUMNS 12u
#define BENCH_TABLE_ROWS    128u
#define BENCH_TABLE_CELL    96u

/* The first row is the heading. First column to the left, others to the
 * right, unless `left`. */
struct bench_table {
    unsigned rows, columns;
    bool left;
    char cells[BENCH_TABLE_ROWS][BENCH_TABLE_COLUMNS][BENCH_TABLE_CELL];
};

void bench_table_clear(struct bench_table *table);
void bench_table_row(struct bench_table *table); /* begin the next row */
/* The next cell of the row. */
void bench_table_cell(struct bench_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void bench_table_print(FILE *stream, const struct bench_table *table, bool markdown);

#endif
