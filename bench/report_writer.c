/* SPDX-License-Identifier: MIT */
#include "report_writer.h"

#include <math.h>

struct bench_table bench_page;

void bench_write_heading(const struct bench_writer *writer, const char *text)
{
    (void)fprintf(writer->stream, writer->markdown ? "\n## %s\n\n" : "\n%s\n\n", text);
}

void bench_write_paragraph(const struct bench_writer *writer, const char *text)
{
    (void)fprintf(writer->stream, writer->markdown ? "%s\n\n" : "  %s\n\n", text);
}

void bench_write_table(const struct bench_writer *writer)
{
    bench_table_print(writer->stream, &bench_page, writer->markdown);
}

void bench_cell_number(double value)
{
    if (isnan(value))
        bench_table_cell(&bench_page, "-");
    else
        bench_table_cell(&bench_page, "%.*f",
                         value >= 1000  ? 0
                         : value >= 100 ? 1
                         : value >= 10  ? 2
                                        : 3,
                         value);
}

void bench_cell_duration(double ns)
{
    if (isnan(ns))
        bench_table_cell(&bench_page, "-");
    else if (ns < 1e4)
        bench_table_cell(&bench_page, "%.0f ns", ns);
    else if (ns < 1e7)
        bench_table_cell(&bench_page, "%.0f us", ns * 1e-3);
    else
        bench_table_cell(&bench_page, "%.0f ms", ns * 1e-6);
}

double bench_own_median(const struct bench_writer *writer, const char *name)
{
    return bench_results_median(writer->report->results, "bitkv", name);
}

void bench_write_titles(const char *const *texts, size_t count)
{
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    for (size_t i = 0; i < count; i++)
        bench_table_cell(&bench_page, "%s", texts[i]);
}

void bench_cells_latency(const struct bench_writer *writer, const char *name)
{
    static const char *const figures[] = {"p50_ns", "p99_ns", "p999_ns", "max_ns"};

    for (size_t f = 0; f < sizeof(figures) / sizeof(figures[0]); f++) {
        char figure[96];

        (void)snprintf(figure, sizeof(figure), "%s.%s", name, figures[f]);
        bench_cell_duration(bench_own_median(writer, figure));
    }
}

const char *bench_own_text(const struct bench_writer *writer, const char *name)
{
    const struct bench_series *series = bench_results_find(writer->report->results, "bitkv", name);

    return series == NULL ? "" : series->text;
}
