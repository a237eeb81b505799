/* SPDX-License-Identifier: MIT */
/* The report for people. */
#include "report.h"
#include "report_writer.h"
#include "tasks.h"
#include "verdict.h"

#include <math.h>
#include <string.h>

static const struct bench_series *series_of(const struct bench_writer *writer, const char *engine,
                                            enum bench_phase phase, unsigned threads)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "%s.%u", bench_phase_names[phase], threads);
    return bench_results_find(writer->report->results, engine, name);
}

static void write_setting(const struct bench_writer *writer)
{
    const struct bench_machine *machine = &writer->report->machine;
    const struct bench_options *options = writer->report->options;

    (void)fprintf(writer->stream,
                  writer->markdown ? "# BitKV benchmark\n\n" : "BitKV benchmark\n\n");
    bench_table_clear(&bench_page);
    bench_page.left = true;
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "setting");
    bench_table_cell(&bench_page, "value");
#define SETTING(name, ...)                                                                         \
    do {                                                                                           \
        bench_table_row(&bench_page);                                                              \
        bench_table_cell(&bench_page, name);                                                       \
        bench_table_cell(&bench_page, __VA_ARGS__);                                                \
    } while (false)
    SETTING("processor", "%s, %u cores", machine->processor, machine->cores);
    SETTING("memory", "%.1f GiB, huge pages %s", (double)machine->memory_bytes / 0x1p30,
            machine->huge_pages);
    SETTING("system", "%s, %s", machine->kernel, machine->file_system);
    SETTING("compiler", "%s", machine->compiler);
    SETTING("data", "%llu keys of %zu bytes, values of %zu bytes",
            (unsigned long long)options->keys, options->key_size, options->value_size);
    SETTING("runs", "%u, medians shown; seed %llu", options->runs,
            (unsigned long long)options->seed);
#undef SETTING
    bench_write_table(writer);
}

static void write_engines(const struct bench_writer *writer)
{
    const struct bench_report *report = writer->report;

    bench_write_heading(writer, "Engines");
    for (size_t i = 0; i < report->engine_count; i++) {
        const struct bench_engine *engine = report->engines[i];

        if (engine->stores_nothing)
            continue;
        if (writer->markdown)
            (void)fprintf(writer->stream,
                          "- **%s %s**: %s (after %s). Normal puts survive %s. Synced puts: %s. "
                          "Checksum of gets: %s.\n",
                          engine->title, engine->version(), engine->configuration, engine->document,
                          engine->durability, engine->synced, engine->checksum);
        else
            (void)fprintf(writer->stream,
                          "  %s %s\n      set up:      %s\n      after:       %s\n"
                          "      put:         survives %s\n      synced put:  %s\n"
                          "      checksum:    %s\n",
                          engine->title, engine->version(), engine->configuration, engine->document,
                          engine->durability, engine->synced, engine->checksum);
    }
    for (size_t i = 0; bench_engine_names[i] != NULL; i++) {
        if (bench_engine_find(bench_engine_names[i]) == NULL)
            (void)fprintf(writer->stream, "%s%s: not built, its library was not found\n",
                          writer->markdown ? "- " : "  ", bench_engine_names[i]);
    }
}

static void write_throughput(const struct bench_writer *writer, unsigned threads)
{
    const struct bench_report *report = writer->report;
    char text[128];

    (void)snprintf(text, sizeof(text), "Throughput, %u thread%s", threads, threads == 1 ? "" : "s");
    bench_write_heading(writer, text);
    bench_write_paragraph(
        writer, "Thousands of operations a second: median (least to most of the runs). The "
                "last column is what the harness itself takes of an operation.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "phase");
    for (size_t i = 0; i < report->engine_count; i++)
        bench_table_cell(&bench_page, "%s%s", report->engines[i]->title,
                         report->engines[i]->stores_nothing ? ", ns" : "");
    for (unsigned phase = 0; phase <= BENCH_PHASE_DELETE; phase++) {
        bool any = false;

        for (size_t i = 0; i < report->engine_count && !any; i++)
            any = !isnan(bench_median(
                series_of(writer, report->engines[i]->name, (enum bench_phase)phase, threads)));
        if (!any)
            continue;
        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", bench_phase_names[phase]);
        for (size_t i = 0; i < report->engine_count; i++) {
            const struct bench_series *series =
                series_of(writer, report->engines[i]->name, (enum bench_phase)phase, threads);
            const double middle = bench_median(series) * 1e-3;

            if (isnan(middle))
                bench_table_cell(&bench_page, "-");
            else if (report->engines[i]->stores_nothing)
                bench_table_cell(&bench_page, "%.1f", 1e6 / middle * (double)threads);
            else if (middle < 100)
                bench_table_cell(&bench_page, "%.2f (%.2f-%.2f)", middle, bench_min(series) * 1e-3,
                                 bench_max(series) * 1e-3);
            else
                bench_table_cell(&bench_page, "%.0f (%.0f-%.0f)", middle, bench_min(series) * 1e-3,
                                 bench_max(series) * 1e-3);
        }
    }
    bench_write_table(writer);
}

/* Less at the mercy of what else runs on the machine than throughput. */
static void write_processor_time(const struct bench_writer *writer)
{
    const struct bench_report *report = writer->report;

    bench_write_heading(writer, "Processor time, 1 thread");
    bench_write_paragraph(writer,
                          "Nanoseconds an operation, medians: of the calling thread / of the whole "
                          "process, which adds the engine's background threads.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "phase");
    for (size_t i = 0; i < report->engine_count; i++)
        bench_table_cell(&bench_page, "%s", report->engines[i]->title);
    for (unsigned phase = 0; phase <= BENCH_PHASE_DELETE; phase++) {
        if (!bench_wants(report->options, (enum bench_phase)phase))
            continue;
        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", bench_phase_names[phase]);
        for (size_t i = 0; i < report->engine_count; i++) {
            const char *engine = report->engines[i]->name;
            char caller[64], process[64];

            (void)snprintf(caller, sizeof(caller), "cpu.%s.1.caller_ns", bench_phase_names[phase]);
            (void)snprintf(process, sizeof(process), "cpu.%s.1.process_ns",
                           bench_phase_names[phase]);
            bench_table_cell(&bench_page, "%.0f / %.0f",
                             bench_results_median(report->results, engine, caller),
                             bench_results_median(report->results, engine, process));
        }
    }
    bench_write_table(writer);
}

static void write_durations(const struct bench_writer *writer)
{
    static const enum bench_phase phases[] = {BENCH_PHASE_CLOSE, BENCH_PHASE_REOPEN};
    const struct bench_report *report = writer->report;

    if (!bench_wants(report->options, BENCH_PHASE_CLOSE) &&
        !bench_wants(report->options, BENCH_PHASE_REOPEN))
        return;
    bench_write_heading(writer, "Closing, and reopening up to the first get");
    bench_write_paragraph(
        writer, "Milliseconds: median (least to most). What a close makes durable differs "
                "between engines.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "phase");
    for (size_t i = 0; i < report->engine_count; i++) {
        if (!report->engines[i]->stores_nothing)
            bench_table_cell(&bench_page, "%s", report->engines[i]->title);
    }
    for (size_t p = 0; p < 2; p++) {
        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", bench_phase_names[phases[p]]);
        for (size_t i = 0; i < report->engine_count; i++) {
            const struct bench_series *series =
                series_of(writer, report->engines[i]->name, phases[p], 1);

            if (report->engines[i]->stores_nothing)
                continue;
            if (isnan(bench_median(series)))
                bench_table_cell(&bench_page, "-");
            else
                bench_table_cell(&bench_page, "%.2f (%.2f-%.2f)", bench_median(series) * 1e3,
                                 bench_min(series) * 1e3, bench_max(series) * 1e3);
        }
    }
    bench_write_table(writer);
}

static void write_ratios(const struct bench_writer *writer)
{
    const struct bench_report *report = writer->report;
    const unsigned threads[] = {1, report->options->threads};

    if (report->engine_count <= 2 || bench_results_find(report->results, "bitkv", "fill.1") == NULL)
        return;
    bench_write_heading(writer, "BitKV against each");
    bench_write_paragraph(writer, "Ratios of the medians; above 1, BitKV is faster.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "phase");
    for (size_t i = 0; i < report->engine_count; i++) {
        if (!report->engines[i]->stores_nothing && strcmp(report->engines[i]->name, "bitkv") != 0)
            bench_table_cell(&bench_page, "%s", report->engines[i]->title);
    }
    for (unsigned t = 0; t < (report->options->threads > 1 ? 2u : 1u); t++) {
        for (unsigned phase = 0; phase <= BENCH_PHASE_DELETE; phase++) {
            const double own =
                bench_median(series_of(writer, "bitkv", (enum bench_phase)phase, threads[t]));

            if (isnan(own))
                continue;
            bench_table_row(&bench_page);
            bench_table_cell(&bench_page, "%s%s", bench_phase_names[phase],
                             threads[t] == 1 ? "" : ", threads");
            for (size_t i = 0; i < report->engine_count; i++) {
                const char *name = report->engines[i]->name;

                if (!report->engines[i]->stores_nothing && strcmp(name, "bitkv") != 0)
                    bench_cell_number(
                        own /
                        bench_median(series_of(writer, name, (enum bench_phase)phase, threads[t])));
            }
        }
    }
    bench_write_table(writer);
}

static void write_latency(const struct bench_writer *writer)
{
    const struct bench_report *report = writer->report;

    if (!report->options->latency)
        return;
    bench_write_heading(writer, "Latency, one thread");
    bench_write_paragraph(
        writer, "From a run of its own in which every operation is timed. Reading the clock "
                "takes about as long as the harness's operations below say.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "phase");
    bench_table_cell(&bench_page, "engine");
    bench_table_cell(&bench_page, "p50");
    bench_table_cell(&bench_page, "p99");
    bench_table_cell(&bench_page, "p99.9");
    bench_table_cell(&bench_page, "p99.99");
    bench_table_cell(&bench_page, "longest");
    for (unsigned phase = 0; phase <= BENCH_PHASE_DELETE; phase++) {
        for (size_t i = 0; i < report->engine_count; i++) {
            const struct bench_series *series =
                series_of(writer, report->engines[i]->name, (enum bench_phase)phase, 1);

            if (series == NULL || !series->has_latency)
                continue;
            bench_table_row(&bench_page);
            bench_table_cell(&bench_page, "%s", bench_phase_names[phase]);
            bench_table_cell(&bench_page, "%s", report->engines[i]->title);
            bench_cell_duration(series->latency.p50_ns);
            bench_cell_duration(series->latency.p99_ns);
            bench_cell_duration(series->latency.p999_ns);
            bench_cell_duration(series->latency.p9999_ns);
            bench_cell_duration(series->latency.max_ns);
        }
    }
    bench_write_table(writer);
}

static void write_reads(const struct bench_writer *writer)
{
    static const char *const names[] = {"get",         "get_into",     "get_view",     "exists",
                                        "multi_get_8", "multi_get_32", "multi_get_128"};

    if (isnan(bench_own_median(writer, "reads.get")))
        return;
    bench_write_heading(writer, "BitKV: ways of reading");
    bench_write_paragraph(writer,
                          "Thousands of keys a second, one thread; after multi_get_, the batch.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "call");
    bench_table_cell(&bench_page, "k/s");
    bench_table_cell(&bench_page, "of get_into");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char name[64];

        (void)snprintf(name, sizeof(name), "reads.%s", names[i]);
        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "bitkv_%s", names[i]);
        bench_table_cell(&bench_page, "%.0f", bench_own_median(writer, name) * 1e-3);
        bench_table_cell(&bench_page, "%.2f x",
                         bench_own_median(writer, name) /
                             bench_own_median(writer, "reads.get_into"));
    }
    bench_write_table(writer);
}

static void write_memory(const struct bench_writer *writer)
{
    static const char *const figures[] = {"bytes_per_key", "bytes_per_key_peak",
                                          "bytes_per_key_reopened"};
    const struct bench_options *options = writer->report->options;

    if (isnan(bench_own_median(writer, "memory.small-16.bytes_per_key")))
        return;
    bench_write_heading(writer, "BitKV: memory");
    bench_write_paragraph(writer,
                          "Anonymous memory (RssAnon) in bytes a key, everything included; `most`: "
                          "the largest on the way from a tenth of the keys on.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "keys");
    bench_table_cell(&bench_page, "key size");
    bench_table_cell(&bench_page, "value size");
    bench_table_cell(&bench_page, "filled");
    bench_table_cell(&bench_page, "most");
    bench_table_cell(&bench_page, "reopened");
    for (unsigned i = 0; i < bench_memory_setting_count; i++) {
        const struct bench_memory_setting *setting = &bench_memory_settings[i];

        bench_table_row(&bench_page);
        bench_table_cell(
            &bench_page, "%llu",
            (unsigned long long)(setting->large ? options->large_keys : options->keys));
        bench_table_cell(&bench_page, "%zu", setting->key_size);
        bench_table_cell(&bench_page, "%zu", setting->value_size);
        for (size_t f = 0; f < 3; f++) {
            char name[96];

            (void)snprintf(name, sizeof(name), "memory.%s.%s", setting->name, figures[f]);
            bench_cell_number(bench_own_median(writer, name));
        }
    }
    bench_write_table(writer);
}

static void write_reopen(const struct bench_writer *writer)
{
    static const char *const figures[] = {"seconds", "checkpoint_keys", "hint_records",
                                          "log_records"};
    char text[128];

    if (isnan(bench_own_median(writer, "reopen-clean.seconds")) &&
        isnan(bench_own_median(writer, "reopen-kill.seconds")))
        return;
    (void)snprintf(text, sizeof(text), "BitKV: reopening %.3g million keys",
                   (double)writer->report->options->large_keys * 1e-6);
    bench_write_heading(writer, text);
    bench_write_paragraph(writer,
                          "Fresh process, warm page cache, up to the first get; and where the keys "
                          "came from.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "after");
    bench_table_cell(&bench_page, "seconds");
    bench_table_cell(&bench_page, "checkpoint");
    bench_table_cell(&bench_page, "hints");
    bench_table_cell(&bench_page, "log");
    bench_table_cell(&bench_page, "M keys/s");
    for (unsigned i = 0; i < BENCH_REOPEN_SETTINGS; i++) {
        char name[96];

        (void)snprintf(name, sizeof(name), "%s.seconds", bench_reopen_settings[i]);
        if (isnan(bench_own_median(writer, name)))
            continue;
        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", bench_reopen_settings[i]);
        for (size_t f = 0; f < 4; f++) {
            (void)snprintf(name, sizeof(name), "%s.%s", bench_reopen_settings[i], figures[f]);
            bench_cell_number(bench_own_median(writer, name));
        }
        (void)snprintf(name, sizeof(name), "%s.keys_per_second", bench_reopen_settings[i]);
        bench_cell_number(bench_own_median(writer, name) * 1e-6);
    }
    bench_write_table(writer);
}

static void write_growth(const struct bench_writer *writer)
{
    static const char *const phases[] = {"growing", "control"};
    static const char *const kinds[] = {"put", "get"};
    static const char *const figures[] = {"p9999_ns", "p99999_ns", "max_ns", "max_own_ns"};
    char text[128];

    if (isnan(bench_own_median(writer, "growth.growing.put.max_ns")))
        return;
    (void)snprintf(text, sizeof(text), "BitKV: growing from nothing to %.3g million keys",
                   (double)writer->report->options->large_keys * 1e-6);
    bench_write_heading(writer, text);
    bench_write_paragraph(writer,
                          "Every operation timed; medians over the runs. `own`: the longest during "
                          "which the thread was not preempted. Control: as many at constant size.");
    bench_table_clear(&bench_page);
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "operation");
    bench_table_cell(&bench_page, "p99.99");
    bench_table_cell(&bench_page, "p99.999");
    bench_table_cell(&bench_page, "longest");
    bench_table_cell(&bench_page, "own");
    bench_table_cell(&bench_page, "above 1 ms");
    bench_table_cell(&bench_page, "own");
    for (size_t p = 0; p < 2; p++) {
        for (size_t k = 0; k < 2; k++) {
            char name[96];

            bench_table_row(&bench_page);
            bench_table_cell(&bench_page, "%s, %s", kinds[k], phases[p]);
            for (size_t f = 0; f < 4; f++) {
                (void)snprintf(name, sizeof(name), "growth.%s.%s.%s", phases[p], kinds[k],
                               figures[f]);
                bench_cell_duration(bench_own_median(writer, name));
            }
            (void)snprintf(name, sizeof(name), "growth.%s.%s.above_1_ms", phases[p], kinds[k]);
            bench_table_cell(&bench_page, "%.0f", bench_own_median(writer, name));
            (void)snprintf(name, sizeof(name), "growth.%s.%s.above_1_ms_own", phases[p], kinds[k]);
            bench_table_cell(&bench_page, "%.0f", bench_own_median(writer, name));
        }
    }
    bench_write_table(writer);
}

static void row_hot(const struct bench_writer *writer, const char *kind, unsigned depth)
{
    char name[64], single[64], cpu[96];

    (void)snprintf(single, sizeof(single), "async-hot.%s.single", kind);
    (void)snprintf(name, sizeof(name), "async-hot.%s.%u", kind, depth);
    bench_table_row(&bench_page);
    if (depth == 0) {
        (void)snprintf(name, sizeof(name), "%s", single);
        bench_table_cell(&bench_page, "%s, a call each", kind);
    } else {
        bench_table_cell(&bench_page, "%s, batches of %u", kind, depth);
    }
    bench_table_cell(&bench_page, "%.0f", bench_own_median(writer, name) * 1e-3);
    bench_table_cell(&bench_page, "%.2f x",
                     bench_own_median(writer, name) / bench_own_median(writer, single));
    (void)snprintf(cpu, sizeof(cpu), "%s.cpu_ns", name);
    bench_cell_duration(bench_own_median(writer, cpu));
    bench_cells_latency(writer, name);
}

static void write_async_hot(const struct bench_writer *writer)
{
    static const char *const titles[] = {"operation", "k/s", "of single", "cpu",
                                         "p50",       "p99", "p99.9",     "longest"};
    static const char *const kinds[] = {"get", "put"};

    if (isnan(bench_own_median(writer, "async-hot.get.single")))
        return;
    bench_write_heading(writer, "BitKV: completion queue, values in memory");
    bench_write_paragraph(
        writer, "One thread. Thousands of operations a second; processor time of the thread, an "
                "operation; how long a batch takes from "
                "its submission to the last completion, from passes of their own.");
    bench_write_titles(titles, sizeof(titles) / sizeof(titles[0]));
    for (size_t k = 0; k < 2; k++) {
        row_hot(writer, kinds[k], 0);
        for (unsigned i = 0; bench_async_hot_depths[i] != 0; i++)
            row_hot(writer, kinds[k], bench_async_hot_depths[i]);
    }
    bench_write_table(writer);
}

static void row_cold(const struct bench_writer *writer, const char *title, const char *name)
{
    char figure[96];

    if (isnan(bench_own_median(writer, name)))
        return;
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "%s", title);
    bench_cell_number(bench_own_median(writer, name) * 1e-3);
    bench_table_cell(&bench_page, "%.2f x",
                     bench_own_median(writer, name) /
                         bench_own_median(writer, "async-cold.single"));
    bench_cells_latency(writer, name);
    (void)snprintf(figure, sizeof(figure), "%s.cpu_ns", name);
    bench_cell_duration(bench_own_median(writer, figure));
    (void)snprintf(figure, sizeof(figure), "%s.disk_bytes", name);
    bench_cell_number(bench_own_median(writer, figure));
}

static void write_async_cold(const struct bench_writer *writer)
{
    static const char *const titles[] = {"reads", "k/s",     "of single", "p50",       "p99",
                                         "p99.9", "longest", "cpu",       "disk bytes"};
    static const char *const ways[] = {"io_uring", "threads", "fio", "fio-direct", "fio-records"};
    const char *fio, *backend;
    char text[1536];

    if (isnan(bench_own_median(writer, "async-cold.single")))
        return;
    bench_write_heading(writer, "BitKV: completion queue, values on disk");
    fio = bench_own_text(writer, "async-cold.fio");
    backend = bench_own_text(writer, "async-cold.backend");
    (void)snprintf(
        text, sizeof(text),
        "Random gets of 1000 bytes, none twice, so many in flight; page cache %s before "
        "each. fio: random reads of 4 KiB of the same files by io_uring, buffered, direct, "
        "and buffered with 8 KiB for one in four, as records lie. `cpu` and `disk bytes`: "
        "of the process, a get.%s%s%s%s%s%s",
        bench_own_text(writer, "async-cold.cache"), *fio == '\0' ? "" : " Left out: ", fio,
        *fio == '\0' ? "" : ".", *backend == '\0' ? "" : " Left out: ", backend,
        *backend == '\0' ? "" : ".");
    bench_write_paragraph(writer, text);
    bench_write_titles(titles, sizeof(titles) / sizeof(titles[0]));
    row_cold(writer, "bitkv_get_into", "async-cold.single");
    for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
        for (unsigned i = 0; bench_async_cold_depths[i] != 0; i++) {
            char title[64], name[64];

            (void)snprintf(title, sizeof(title), "%s, %u", ways[w], bench_async_cold_depths[i]);
            (void)snprintf(name, sizeof(name), "async-cold.%s.%u", ways[w],
                           bench_async_cold_depths[i]);
            row_cold(writer, title, name);
        }
    }
    bench_write_table(writer);
}

static void write_async_synced(const struct bench_writer *writer)
{
    static const char *const titles[] = {"puts", "k/s", "of one", "p50", "p99", "p99.9", "longest"};

    if (isnan(bench_own_median(writer, "async-synced.put_with")))
        return;
    bench_write_heading(writer, "BitKV: completion queue, synced puts");
    bench_write_paragraph(writer,
                          "One thread, BITKV_DURABILITY_SYNC: one call at a time, and so many in "
                          "flight. Times from submission to reaping.");
    bench_write_titles(titles, sizeof(titles) / sizeof(titles[0]));
    for (unsigned i = 0; i == 0 || bench_async_synced_depths[i - 1] != 0; i++) {
        char name[64];

        bench_table_row(&bench_page);
        if (i == 0) {
            (void)snprintf(name, sizeof(name), "async-synced.put_with");
            bench_table_cell(&bench_page, "bitkv_put_with");
        } else {
            (void)snprintf(name, sizeof(name), "async-synced.%u", bench_async_synced_depths[i - 1]);
            bench_table_cell(&bench_page, "%u in flight", bench_async_synced_depths[i - 1]);
        }
        bench_cell_number(bench_own_median(writer, name) * 1e-3);
        bench_table_cell(&bench_page, "%.2f x",
                         bench_own_median(writer, name) /
                             bench_own_median(writer, "async-synced.1"));
        bench_cells_latency(writer, name);
    }
    bench_write_table(writer);
}

static void write_async_mixed(const struct bench_writer *writer)
{
    static const char *const titles[] = {"hot gets", "hot k/s", "cold k/s", "p50",
                                         "p99",      "p99.9",   "longest"};
    static const char *const backends[] = {"io_uring", "threads"};
    static const char *const ways[] = {"one", "batch"};

    if (isnan(bench_own_median(writer, "async-mixed.io_uring.one")) &&
        isnan(bench_own_median(writer, "async-mixed.threads.one")))
        return;
    bench_write_heading(writer, "BitKV: values in memory while 32 others are read from disk");
    bench_write_paragraph(
        writer, "On the same queue; hot ones one at a time, and in batches of 32. Times of "
                "hot ones from submission to reaping.");
    bench_write_titles(titles, sizeof(titles) / sizeof(titles[0]));
    for (size_t b = 0; b < 2; b++) {
        for (size_t w = 0; w < 2; w++) {
            char name[64], cold[96];

            (void)snprintf(name, sizeof(name), "async-mixed.%s.%s", backends[b], ways[w]);
            (void)snprintf(cold, sizeof(cold), "%s.cold", name);
            if (isnan(bench_own_median(writer, name)))
                continue;
            bench_table_row(&bench_page);
            bench_table_cell(&bench_page, "%s, %s", ways[w], backends[b]);
            bench_cell_number(bench_own_median(writer, name) * 1e-3);
            bench_cell_number(bench_own_median(writer, cold) * 1e-3);
            bench_cells_latency(writer, name);
        }
    }
    bench_write_table(writer);
}

static void write_verdicts(const struct bench_writer *writer)
{
    struct bench_verdict verdicts[BENCH_VERDICTS_MAX];
    unsigned count;
    bool any = false;

    count = bench_verdicts(writer->report->options, writer->report->results, verdicts);
    for (unsigned i = 0; i < count; i++)
        any = any || bench_verdict_reached(&verdicts[i]) >= 0;
    if (!any)
        return;
    bench_write_heading(writer, "Asked and seen");
    bench_table_clear(&bench_page);
    bench_page.left = true;
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "target");
    bench_table_cell(&bench_page, "asked");
    bench_table_cell(&bench_page, "seen");
    bench_table_cell(&bench_page, "reached");
    bench_table_cell(&bench_page, "remark");
    for (unsigned i = 0; i < count; i++) {
        const struct bench_verdict *verdict = &verdicts[i];
        const int reached = bench_verdict_reached(verdict);

        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", verdict->what);
        bench_table_cell(&bench_page, "%s %g %s", verdict->at_least ? ">=" : "<=", verdict->asked,
                         verdict->unit);
        if (reached < 0)
            bench_table_cell(&bench_page, "not measured");
        else
            bench_table_cell(&bench_page, "%.*f", verdict->seen >= 100 ? 0 : 2, verdict->seen);
        bench_table_cell(&bench_page, "%s", reached < 0 ? "-" : reached != 0 ? "yes" : "NO");
        bench_table_cell(&bench_page, "%s", reached < 0 ? "" : verdict->remark);
    }
    bench_write_table(writer);
}

static void write_complaints(const struct bench_writer *writer)
{
    const struct bench_results *results = writer->report->results;

    bench_write_heading(writer, "Correctness");
    (void)fprintf(writer->stream, "%sWrong values: %llu. Failures: %u.\n",
                  writer->markdown ? "" : "  ", (unsigned long long)results->wrong,
                  results->failures);
    for (unsigned i = 0; i < results->complaints; i++)
        (void)fprintf(writer->stream, "%s%s\n", writer->markdown ? "- " : "  ",
                      results->complaint[i]);
}

void bench_report_tables(FILE *stream, const struct bench_report *report, bool markdown)
{
    const struct bench_writer writer = {.stream = stream, .report = report, .markdown = markdown};
    const bool standard = (report->options->phases & ((1u << BENCH_PHASE_FIRST_SPECIAL) - 1u)) != 0;

    write_setting(&writer);
    write_engines(&writer);
    if (standard) {
        write_throughput(&writer, 1);
        if (report->options->threads > 1)
            write_throughput(&writer, report->options->threads);
        write_durations(&writer);
        write_processor_time(&writer);
        write_ratios(&writer);
        write_latency(&writer);
    }
    write_reads(&writer);
    write_memory(&writer);
    write_reopen(&writer);
    write_growth(&writer);
    write_async_hot(&writer);
    write_async_cold(&writer);
    write_async_synced(&writer);
    write_async_mixed(&writer);
    bench_report_life(&writer);
    write_verdicts(&writer);
    write_complaints(&writer);
}
