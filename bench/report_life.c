/* SPDX-License-Identifier: MIT */
/* The report for people: the life of data. */
#include "report_writer.h"
#include "tasks.h"

#include <math.h>
#include <string.h>

#define TITLES(...)                                                                                \
    static const char *const titles[] = {__VA_ARGS__};                                             \
    bench_write_titles(titles, sizeof(titles) / sizeof(titles[0]))

static double figure_of(const struct bench_writer *writer, const char *engine, const char *phase,
                        const char *what)
{
    char name[96];

    (void)snprintf(name, sizeof(name), "%s.%s", phase, what);
    return bench_results_median(writer->report->results, engine, name);
}

static double own(const struct bench_writer *writer, const char *phase, const char *what)
{
    return figure_of(writer, "bitkv", phase, what);
}

static void cell_ratio(double ratio)
{
    if (isnan(ratio))
        bench_table_cell(&bench_page, "-");
    else
        bench_table_cell(&bench_page, "%.2f x", ratio);
}

/* --- overwriting --------------------------------------------------------------- */

static void row_overwrite(const struct bench_writer *writer, const char *phase,
                          const struct bench_engine *engine)
{
    static const char *const figures[] = {"amplification",    "dirtied",        "disk_live_most",
                                          "disk_live_mean",   "disk_data_most", "disk_data_mean",
                                          "disk_live_counted"};
    const double rate = figure_of(writer, engine->name, phase, "rate");

    if (isnan(rate))
        return;
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "%s", phase);
    bench_table_cell(&bench_page, "%s", engine->title);
    bench_cell_number(rate * 1e-3);
    bench_cell_duration(figure_of(writer, engine->name, phase, "cpu_ns"));
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
        bench_cell_number(figure_of(writer, engine->name, phase, figures[i]));
}

static void write_overwrites(const struct bench_writer *writer)
{
    static const char *const phases[] = {"overwrite-uniform", "overwrite-zipf", "overwrite-ycsb"};
    const struct bench_report *report = writer->report;

    bench_write_heading(writer, "Overwriting for long");
    bench_write_paragraph(
        writer, "2 GB by --scale, overwritten five times; of the last three. `amplification`: of "
                "the bytes that puts append to the log, with compaction's; `dirtied`: of keys and "
                "values, by the kernel's count for the process. `disk`: by du every 0.2 s, of "
                "live records as stored, and of keys and values; `counted`: by the engine's "
                "statistics, at the end. Below a scale of 0.3 hardly a file is ever full.");
    TITLES("phase", "engine", "k/s", "cpu", "amplification", "dirtied", "disk/live, most",
           "disk/live, mean", "disk/data, most", "disk/data, mean", "counted/live");
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        for (size_t e = 0; e < report->engine_count; e++)
            row_overwrite(writer, phases[i], report->engines[e]);
    }
    bench_write_table(writer);
}

/* --- the foreground ------------------------------------------------------------- */

static void row_foreground(const struct bench_writer *writer, const char *kind, const char *state)
{
    char name[80];

    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "%s, %s", kind, state);
    (void)snprintf(name, sizeof(name), "foreground.%s.%s", kind, state);
    bench_cell_number(bench_own_median(writer, name) * 1e-3);
    if (strcmp(kind, "mix") != 0) {
        bench_cells_latency(writer, name);
        return;
    }
    for (unsigned i = 0; i < 4; i++)
        bench_table_cell(&bench_page, "-");
}

/* Of a mix, what either half has seen: latency only. */
static void row_half(const struct bench_writer *writer, const char *half, const char *state)
{
    char name[80];

    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "mix, %s: its %ss", state, half);
    bench_table_cell(&bench_page, "-");
    (void)snprintf(name, sizeof(name), "foreground.mix.%s.%s", state, half);
    bench_cells_latency(writer, name);
}

static void row_ratios(const struct bench_writer *writer, const char *title, const char *kind,
                       const char *half)
{
    static const char *const figures[] = {"", ".p50_ns", ".p99_ns", ".p999_ns", ".max_ns"};

    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "%s, compacting / quiet", title);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        char quiet[96], compacting[96];

        (void)snprintf(quiet, sizeof(quiet), "foreground.%s.quiet%s%s", kind, half, figures[i]);
        (void)snprintf(compacting, sizeof(compacting), "foreground.%s.compacting%s%s", kind, half,
                       figures[i]);
        cell_ratio(bench_own_median(writer, compacting) / bench_own_median(writer, quiet));
    }
}

static void write_foreground(const struct bench_writer *writer)
{
    static const char *const states[] = {"quiet", "compacting"};

    if (isnan(own(writer, "foreground", "put.quiet")))
        return;
    bench_write_heading(writer, "BitKV: reading and writing while it compacts");
    bench_write_paragraph(writer,
                          "One thread, values in memory; 1 GB by --scale and as much dead. "
                          "`compacting`: another thread is in bitkv_compact() all the time; "
                          "`quiet`: nothing is compacted. Latency from passes of its own.");
    TITLES("operation", "k/s", "p50", "p99", "p99.9", "longest");
    for (unsigned k = 0; bench_foreground_kinds[k] != NULL; k++) {
        const char *kind = bench_foreground_kinds[k];
        const bool mix = strcmp(kind, "mix") == 0;

        for (unsigned s = 0; s < 2; s++) {
            row_foreground(writer, kind, states[s]);
            if (mix) {
                row_half(writer, "put", states[s]);
                row_half(writer, "get", states[s]);
            }
        }
        row_ratios(writer, kind, kind, "");
        if (mix) {
            row_ratios(writer, "mix, its puts", kind, ".put");
            row_ratios(writer, "mix, its gets", kind, ".get");
        }
    }
    bench_write_table(writer);
}

/* --- compaction ------------------------------------------------------------------- */

static void write_compaction(const struct bench_writer *writer)
{
    static const char *const states[] = {"cached", "dropped"};
    const double disk = own(writer, "compaction-speed", "disk");

    if (isnan(disk))
        return;
    bench_write_heading(writer, "BitKV: speed of compaction");
    bench_write_paragraph(writer,
                          "bitkv_compact() of 2 GB by --scale, half of each file dead, in MB/s "
                          "(1e6); `of disk`: input and output beside what a plain file takes: 1 "
                          "GB, calls of 1 MiB, and fdatasync. `cpu`: share of its time that the "
                          "calling thread had a processor.");
    TITLES("files", "input", "output", "disk, write", "input of disk", "output of disk", "cpu",
           "dead");
    for (unsigned i = 0; i < 2; i++) {
        const char *phase = i == 0 ? "compaction-speed.cached" : "compaction-speed.dropped";
        const double input = own(writer, "compaction-speed", states[i]);

        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", states[i]);
        bench_cell_number(input * 1e-6);
        bench_cell_number(own(writer, phase, "written") * 1e-6);
        bench_cell_number(disk * 1e-6);
        cell_ratio(input / disk);
        cell_ratio(own(writer, phase, "written") / disk);
        bench_cell_number(own(writer, phase, "cpu_share"));
        bench_cell_number(own(writer, phase, "dead"));
    }
    bench_write_table(writer);
}

/* --- snapshots ---------------------------------------------------------------------- */

static void row_iteration(const struct bench_writer *writer, const char *title, const char *engine,
                          const char *suffix)
{
    char values[32], keys[32];

    (void)snprintf(values, sizeof(values), "values%s", suffix);
    (void)snprintf(keys, sizeof(keys), "keys%s", suffix);
    if (isnan(figure_of(writer, engine, "snapshot", values)))
        return;
    bench_table_row(&bench_page);
    bench_table_cell(&bench_page, "%s", title);
    bench_cell_number(figure_of(writer, engine, "snapshot", values) * 1e-3);
    bench_cell_number(figure_of(writer, engine, "snapshot", keys) * 1e-3);
}

static void write_iteration(const struct bench_writer *writer)
{
    const struct bench_report *report = writer->report;
    bool any = false;

    for (size_t i = 0; i < report->engine_count && !any; i++)
        any = !isnan(figure_of(writer, report->engines[i]->name, "snapshot", "values"));
    if (!any)
        return;
    bench_write_heading(writer, "Going through everything");
    bench_write_paragraph(writer, "10 million keys by --scale, in memory: thousands of records a "
                                  "second, with their values, and keys only.");
    TITLES("engine", "with values", "keys only");
    for (size_t i = 0; i < report->engine_count; i++)
        row_iteration(writer, report->engines[i]->title, report->engines[i]->name, "");
    row_iteration(writer, "BitKV, an iterator", "bitkv", ".1");
    row_iteration(writer, "BitKV, two shares on two threads", "bitkv", ".2");
    bench_write_table(writer);
}

static void write_snapshot(const struct bench_writer *writer)
{
    static const char *const rows[][2] = {{"bitkv_snapshot_create()", "create"},
                                          {"longest put meanwhile", "put"},
                                          {"longest put in 0.1 ms without", "put-alone"}};

    write_iteration(writer);
    if (isnan(own(writer, "snapshot", "create.p50_ns")))
        return;
    bench_write_heading(writer, "BitKV: snapshots");
    bench_write_paragraph(writer, "50 of them, while another thread overwrites at full speed.");
    TITLES("duration", "p50", "longest");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char name[64];

        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", rows[i][0]);
        (void)snprintf(name, sizeof(name), "snapshot.%s", rows[i][1]);
        bench_cell_duration(own(writer, name, "p50_ns"));
        bench_cell_duration(own(writer, name, "max_ns"));
    }
    bench_write_table(writer);
}

/* --- backups -------------------------------------------------------------------------- */

static void write_backup(const struct bench_writer *writer)
{
    static const char *const rows[][2] = {
        {"bitkv_backup(), first", "first"},
        {"bitkv_backup(), after 1 % of overwrites", "incremental"},
        {"without links, first", "first-no-links"},
        {"without links, after 1 % of overwrites", "incremental-no-links"},
        {"cp -r", "cp"},
        {"cp -r, and syncfs()", "cp-synced"}};
    const double copy = own(writer, "backup", "cp");

    if (isnan(copy))
        return;
    bench_write_heading(writer, "BitKV: backups");
    bench_write_paragraph(writer, "1 GB by --scale, in memory, on the same file system. A backup "
                                  "is durable when the call returns, a copy is not.");
    TITLES("way", "time", "of cp -r", "MB copied", "MB linked");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char name[64];

        bench_table_row(&bench_page);
        bench_table_cell(&bench_page, "%s", rows[i][0]);
        bench_cell_duration(own(writer, "backup", rows[i][1]) * 1e9);
        cell_ratio(own(writer, "backup", rows[i][1]) / copy);
        (void)snprintf(name, sizeof(name), "backup.%s",
                       strcmp(rows[i][1], "cp-synced") == 0 ? "cp" : rows[i][1]);
        bench_cell_number(own(writer, name, "copied") * 1e-6);
        bench_cell_number(own(writer, name, "linked") * 1e-6);
    }
    bench_write_table(writer);
}

/* --- batches ---------------------------------------------------------------------------- */

static void write_batch(const struct bench_writer *writer)
{
    static const char *const ways[][2] = {{"100 puts", "single"}, {"a batch of 100", "batch"}};

    if (isnan(own(writer, "batch", "1.single.wall_ns")))
        return;
    bench_write_heading(writer, "BitKV: batches");
    bench_write_paragraph(writer, "A hundred overwrites of random keys, the building of the batch "
                                  "included: time, and processor time of the thread.");
    TITLES("partitions", "way", "wall", "cpu", "wall of puts", "cpu of puts");
    for (unsigned partitions = 1; partitions <= 2; partitions++) {
        for (unsigned w = 0; w < 2; w++) {
            char name[64], puts[64];

            (void)snprintf(name, sizeof(name), "batch.%u.%s", partitions, ways[w][1]);
            (void)snprintf(puts, sizeof(puts), "batch.%u.single", partitions);
            bench_table_row(&bench_page);
            bench_table_cell(&bench_page, "%u", partitions);
            bench_table_cell(&bench_page, "%s", ways[w][0]);
            bench_cell_duration(own(writer, name, "wall_ns"));
            bench_cell_duration(own(writer, name, "cpu_ns"));
            cell_ratio(own(writer, name, "wall_ns") / own(writer, puts, "wall_ns"));
            cell_ratio(own(writer, name, "cpu_ns") / own(writer, puts, "cpu_ns"));
        }
    }
    bench_write_table(writer);
}

void bench_report_life(const struct bench_writer *writer)
{
    const uint32_t overwrites = 1u << BENCH_PHASE_OVERWRITE_UNIFORM |
                                1u << BENCH_PHASE_OVERWRITE_ZIPF | 1u << BENCH_PHASE_OVERWRITE_YCSB;

    if ((writer->report->options->phases & overwrites) != 0)
        write_overwrites(writer);
    write_foreground(writer);
    write_compaction(writer);
    write_snapshot(writer);
    write_backup(writer);
    write_batch(writer);
}
