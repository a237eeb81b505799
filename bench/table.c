/* SPDX-License-Identifier: MIT */
#include "table.h"

#include <stdarg.h>
#include <string.h>

void bench_table_clear(struct bench_table *table)
{
    memset(table, 0, sizeof(*table));
}

void bench_table_row(struct bench_table *table)
{
    if (table->rows < BENCH_TABLE_ROWS)
        table->rows++;
    table->columns = 0;
    memset(table->cells[table->rows - 1], 0, sizeof(table->cells[0]));
}

void bench_table_cell(struct bench_table *table, const char *format, ...)
{
    va_list arguments;

    if (table->rows == 0 || table->columns == BENCH_TABLE_COLUMNS)
        return;
    va_start(arguments, format);
    (void)vsnprintf(table->cells[table->rows - 1][table->columns++], BENCH_TABLE_CELL, format,
                    arguments);
    va_end(arguments);
}

/* As many columns as the heading has cells. */
static unsigned count_columns(const struct bench_table *table)
{
    unsigned columns = 0;

    while (columns < BENCH_TABLE_COLUMNS && table->cells[0][columns][0] != '\0')
        columns++;
    return columns;
}

static void print_rule(FILE *stream, const struct bench_table *table, const int *widths,
                       unsigned columns, bool markdown)
{
    for (unsigned c = 0; c < columns; c++) {
        const bool right = c != 0 && !table->left;

        if (markdown)
            (void)fprintf(stream, "| %s%s ", right ? "--" : ":-", right ? ":" : "-");
        else
            (void)fprintf(stream, "%s%.*s", c == 0 ? "  " : "  ", widths[c],
                          "----------------------------------------------------------------"
                          "--------------------------------");
    }
    (void)fprintf(stream, markdown ? "|\n" : "\n");
}

void bench_table_print(FILE *stream, const struct bench_table *table, bool markdown)
{
    const unsigned columns = count_columns(table);
    int widths[BENCH_TABLE_COLUMNS] = {0};

    for (unsigned r = 0; r < table->rows; r++) {
        for (unsigned c = 0; c < columns; c++) {
            const int width = (int)strlen(table->cells[r][c]);

            if (width > widths[c])
                widths[c] = width;
        }
    }
    for (unsigned r = 0; r < table->rows; r++) {
        for (unsigned c = 0; c < columns; c++) {
            const char *cell = table->cells[r][c];
            const bool left = c == 0 || table->left;

            if (markdown)
                (void)fprintf(stream, "| %s ", cell);
            else if (left && c + 1 == columns)
                (void)fprintf(stream, "  %s", cell);
            else
                (void)fprintf(stream, left ? "  %-*s" : "  %*s", widths[c], cell);
        }
        (void)fprintf(stream, markdown ? "|\n" : "\n");
        if (r == 0)
            print_rule(stream, table, widths, columns, markdown);
    }
}
