/* SPDX-License-Identifier: MIT */
/* Every figure as JSON; the files; the list. */
#include "report.h"

#include "verdict.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static void json_string(FILE *stream, const char *text)
{
    (void)fputc('"', stream);
    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;

        if (byte == '"' || byte == '\\')
            (void)fprintf(stream, "\\%c", byte);
        else if (byte < 0x20)
            (void)fprintf(stream, "\\u%04x", byte);
        else
            (void)fputc(byte, stream);
    }
    (void)fputc('"', stream);
}

static void json_member(FILE *stream, const char *name, const char *text, const char *behind)
{
    (void)fprintf(stream, "\"%s\": ", name);
    json_string(stream, text);
    (void)fputs(behind, stream);
}

static void json_number(FILE *stream, const char *name, double value, const char *behind)
{
    if (isnan(value) || isinf(value))
        (void)fprintf(stream, "\"%s\": null%s", name, behind);
    else
        (void)fprintf(stream, "\"%s\": %.10g%s", name, value, behind);
}

static void json_setting(FILE *stream, const struct bench_report *report)
{
    const struct bench_machine *machine = &report->machine;
    const struct bench_options *options = report->options;

    (void)fprintf(stream, "  \"machine\": {");
    json_member(stream, "processor", machine->processor, ", ");
    (void)fprintf(stream, "\"cores\": %u, \"memory_bytes\": %llu, ", machine->cores,
                  (unsigned long long)machine->memory_bytes);
    json_member(stream, "kernel", machine->kernel, ", ");
    json_member(stream, "file_system", machine->file_system, ", ");
    json_member(stream, "huge_pages", machine->huge_pages, ", ");
    json_member(stream, "compiler", machine->compiler, "},\n");
    (void)fprintf(stream,
                  "  \"parameters\": {\"keys\": %llu, \"large_keys\": %llu, \"key_size\": %zu, "
                  "\"value_size\": %zu, \"threads\": %u, \"runs\": %u, \"special_runs\": %u, "
                  "\"synced_puts\": %llu, \"cold_reads\": %llu, \"scale\": %g, \"rate\": %llu, "
                  "\"seed\": %llu},\n",
                  (unsigned long long)options->keys, (unsigned long long)options->large_keys,
                  options->key_size, options->value_size, options->threads, options->runs,
                  options->special_runs, (unsigned long long)options->synced_puts,
                  (unsigned long long)options->cold_reads, options->scale,
                  (unsigned long long)options->rate, (unsigned long long)options->seed);
}

static void json_engines(FILE *stream, const struct bench_report *report)
{
    const char *separator = "\n";

    (void)fprintf(stream, "  \"engines\": [");
    for (size_t i = 0; i < report->engine_count; i++) {
        const struct bench_engine *engine = report->engines[i];

        (void)fprintf(stream, "%s    {", separator);
        json_member(stream, "name", engine->name, ", ");
        json_member(stream, "title", engine->title, ", ");
        json_member(stream, "version", engine->version(), ",\n     ");
        json_member(stream, "configuration", engine->configuration, ",\n     ");
        json_member(stream, "document", engine->document, ", ");
        json_member(stream, "durability", engine->durability, ",\n     ");
        json_member(stream, "synced", engine->synced, ", ");
        json_member(stream, "checksum", engine->checksum, "}");
        separator = ",\n";
    }
    (void)fprintf(stream, "\n  ],\n  \"not_built\": [");
    separator = "";
    for (size_t i = 0; bench_engine_names[i] != NULL; i++) {
        if (bench_engine_find(bench_engine_names[i]) == NULL) {
            (void)fputs(separator, stream);
            json_string(stream, bench_engine_names[i]);
            separator = ", ";
        }
    }
    (void)fprintf(stream, "],\n");
}

/* What the figures of a series are. */
static const char *unit_of(const char *name)
{
    static const char *const bytes_a_second[] = {
        "compaction-speed.cached", "compaction-speed.dropped", "compaction-speed.disk"};
    static const char *const seconds[] = {"backup.first",       "backup.first-no-links",
                                          "backup.incremental", "backup.incremental-no-links",
                                          "backup.cp",          "backup.cp-synced"};

    for (size_t i = 0; i < sizeof(bytes_a_second) / sizeof(bytes_a_second[0]); i++) {
        if (strcmp(name, bytes_a_second[i]) == 0)
            return "bytes/s";
    }
    for (size_t i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
        if (strcmp(name, seconds[i]) == 0)
            return "s";
    }
    if (strstr(name, "_ns") != NULL || strncmp(name, "backup.", 7) == 0 ||
        strncmp(name, "compaction-speed.", 17) == 0 ||
        (strncmp(name, "overwrite-", 10) == 0 && strstr(name, ".rate") == NULL))
        return "as named";
    if (strncmp(name, "close.", 6) == 0 || strncmp(name, "reopen.", 7) == 0)
        return "s";
    if (strncmp(name, "cpu.", 4) == 0)
        return "ns";
    if (strncmp(name, "async-", 6) == 0 && (strstr(name, "_ns") != NULL || strstr(name, "_bytes")))
        return "as named";
    if (strncmp(name, "memory.", 7) == 0 || strncmp(name, "reopen-", 7) == 0 ||
        strncmp(name, "growth.", 7) == 0)
        return "as named";
    return "operations/s";
}

static void json_series(FILE *stream, const struct bench_report *report,
                        const struct bench_series *series)
{
    const double middle = bench_median(series);

    (void)fprintf(stream, "    {");
    json_member(stream, "engine", series->engine, ", ");
    json_member(stream, "name", series->name, ", ");
    json_member(stream, "unit", unit_of(series->name), ", ");
    json_number(stream, "median", middle, ", ");
    json_number(stream, "min", bench_min(series), ", ");
    json_number(stream, "max", bench_max(series), ",\n     ");
    (void)fprintf(stream, "\"runs\": [");
    for (unsigned i = 0; i < series->count; i++)
        (void)fprintf(stream, "%s%.10g", i == 0 ? "" : ", ", series->values[i]);
    (void)fprintf(stream, "], ");
    json_number(stream, "ratio_to_tkrzw",
                middle / bench_results_median(report->results, "tkrzw", series->name), ", ");
    json_number(stream, "ratio_to_rocksdb",
                middle / bench_results_median(report->results, "rocksdb", series->name), "");
    if (series->text[0] != '\0') {
        (void)fprintf(stream, ", ");
        json_member(stream, "text", series->text, "");
    }
    if (series->has_latency)
        (void)fprintf(stream,
                      ",\n     \"latency_ns\": {\"samples\": %llu, \"p50\": %.0f, \"p99\": %.0f, "
                      "\"p99.9\": %.0f, \"p99.99\": %.0f, \"max\": %.0f}",
                      (unsigned long long)series->latency.samples, series->latency.p50_ns,
                      series->latency.p99_ns, series->latency.p999_ns, series->latency.p9999_ns,
                      series->latency.max_ns);
    (void)fprintf(stream, "}");
}

void bench_report_json(FILE *stream, const struct bench_report *report)
{
    const struct bench_results *results = report->results;
    struct bench_verdict verdicts[BENCH_VERDICTS_MAX];
    const unsigned count = bench_verdicts(report->options, results, verdicts);

    (void)fprintf(stream, "{\n  \"program\": \"bitkv-bench\",\n  \"format\": 1,\n");
    json_setting(stream, report);
    json_engines(stream, report);
    (void)fprintf(stream, "  \"results\": [\n");
    for (size_t i = 0; i < results->count; i++) {
        json_series(stream, report, &results->series[i]);
        (void)fprintf(stream, i + 1 < results->count ? ",\n" : "\n");
    }
    (void)fprintf(stream, "  ],\n  \"verdicts\": [\n");
    for (unsigned i = 0; i < count; i++) {
        const int reached = bench_verdict_reached(&verdicts[i]);

        (void)fprintf(stream, "    {");
        json_member(stream, "target", verdicts[i].what, ", ");
        json_member(stream, "comparison", verdicts[i].at_least ? ">=" : "<=", ", ");
        json_number(stream, "asked", verdicts[i].asked, ", ");
        json_number(stream, "seen", verdicts[i].seen, ", ");
        json_member(stream, "unit", verdicts[i].unit, ", ");
        (void)fprintf(stream, "\"reached\": %s}%s\n",
                      reached < 0    ? "null"
                      : reached != 0 ? "true"
                                     : "false",
                      i + 1 < count ? "," : "");
    }
    (void)fprintf(stream, "  ],\n  \"wrong_values\": %llu,\n  \"failures\": %u,\n",
                  (unsigned long long)results->wrong, results->failures);
    (void)fprintf(stream, "  \"complaints\": [");
    for (unsigned i = 0; i < results->complaints; i++) {
        (void)fputs(i == 0 ? "" : ", ", stream);
        json_string(stream, results->complaint[i]);
    }
    (void)fprintf(stream, "]\n}\n");
}

static bool write_file(const char *path, const struct bench_report *report, bool json)
{
    FILE *stream = fopen(path, "w");
    bool written;

    if (stream == NULL) {
        (void)fprintf(stderr, "bitkv-bench: cannot write %s: %s\n", path, strerror(errno));
        return false;
    }
    if (json)
        bench_report_json(stream, report);
    else
        bench_report_tables(stream, report, true);
    written = ferror(stream) == 0;
    written = fclose(stream) == 0 && written;
    if (!written)
        (void)fprintf(stderr, "bitkv-bench: cannot write %s: %s\n", path, strerror(errno));
    return written;
}

bool bench_report_write(const struct bench_report *report)
{
    bool written = true;

    bench_report_tables(stdout, report, false);
    if (report->options->json != NULL)
        written = write_file(report->options->json, report, true);
    if (report->options->markdown != NULL)
        written = write_file(report->options->markdown, report, false) && written;
    return written;
}

void bench_report_list(FILE *stream)
{
    (void)fprintf(stream, "engines:\n");
    for (size_t i = 0; bench_engine_names[i] != NULL; i++) {
        const struct bench_engine *engine = bench_engine_find(bench_engine_names[i]);

        if (engine == NULL)
            (void)fprintf(stream, "  %-15s not built\n", bench_engine_names[i]);
        else
            (void)fprintf(stream, "  %-15s %s %s: %s\n", engine->name, engine->title,
                          engine->version(), engine->configuration);
    }
    (void)fprintf(stream, "phases:\n ");
    for (unsigned phase = 0; phase < BENCH_PHASE_COUNT; phase++)
        (void)fprintf(stream, " %s", bench_phase_names[phase]);
    (void)fprintf(stream, "\n");
}
