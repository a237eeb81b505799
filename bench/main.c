/* SPDX-License-Identifier: MIT */
/*
 * bitkv-bench: BitKV beside other embedded stores.
 *
 * The parent only arranges: repetition by repetition it runs every engine in a
 * child of its own, in an order that rotates, so that what the machine does
 * meanwhile hits all alike; then the phases that are BitKV's own; then it
 * reports. See child.h for the children, task_*.c for what they do.
 */
#include "child.h"
#include "engine.h"
#include "machine.h"
#include "report.h"
#include "results.h"
#include "tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench {
    struct bench_options options;
    struct bench_results results;
    char **argv;
    char base[2048];    /* all databases are made in here */
    const char *engine; /* whose child runs */
    unsigned step, steps;
};

static char base_to_remove[2048];

static void on_signal(int number)
{
    const pid_t child = bench_child_running();

    /* Not all of this is meant for signal handlers, but the process does
     * nothing else than wait for its child, and leaves. */
    if (child > 0)
        (void)kill(child, SIGKILL);
    bench_remove_tree(base_to_remove);
    _exit(128 + number);
}

static void take_figure(void *user, const char *name, double value)
{
    struct bench *bench = user;

    bench_results_figure(&bench->results, bench->engine, name, value);
}

static void take_latency(void *user, const char *name, const struct bench_percentiles *latency)
{
    struct bench *bench = user;

    bench_results_latency(&bench->results, bench->engine, name, latency);
}

static void take_text(void *user, const char *name, const char *text)
{
    struct bench *bench = user;

    bench_results_text(&bench->results, bench->engine, name, text);
}

static void take_wrong(void *user, uint64_t count, const char *text)
{
    struct bench *bench = user;
    char line[400];

    bench->results.wrong += count;
    (void)snprintf(line, sizeof(line), "%llu wrong values: %.340s", (unsigned long long)count,
                   text);
    bench_results_complain(&bench->results, bench->engine, line);
}

static void take_error(void *user, const char *text)
{
    struct bench *bench = user;

    bench->results.failures++;
    bench_results_complain(&bench->results, bench->engine, text);
}

static void progress(struct bench *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void progress(struct bench *bench, const char *format, ...)
{
    va_list arguments;

    bench->step++;
    if (!isatty(STDERR_FILENO))
        return;
    (void)fprintf(stderr, "\r\033[K[%u/%u] ", bench->step, bench->steps);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fflush(stderr);
}

/* What earlier work left dirty must not be written back at the cost of the
 * next engine. */
static void flush_file_system(const struct bench *bench)
{
    const int fd = open(bench->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        (void)syncfs(fd);
        (void)close(fd);
    }
}

static bool run_child(struct bench *bench, struct bench_child_task task, bool keep)
{
    const struct bench_child_sink sink = {.figure_cb = take_figure,
                                          .latency_cb = take_latency,
                                          .text_cb = take_text,
                                          .wrong_cb = take_wrong,
                                          .error_cb = take_error,
                                          .user = bench};
    char directory[sizeof(bench->base) + 16];
    bool done;

    (void)snprintf(directory, sizeof(directory), "%s/db", bench->base);
    task.directory = directory;
    bench->engine = task.engine;
    flush_file_system(bench);
    done = bench_child_run(bench->argv, &task, &sink);
    if (!keep)
        bench_remove_tree(directory);
    return done;
}

static bool chosen(const struct bench_options *options, const struct bench_engine *engine)
{
    const size_t length = strlen(engine->name);
    const char *at = options->engines;

    if (engine->stores_nothing)
        return true;
    if (options->engines == NULL)
        return !engine->only_if_named;
    while (at != NULL && *at != '\0') {
        if (strncmp(at, engine->name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
    return false;
}

static void run_standard(struct bench *bench, const struct bench_engine *const *engines,
                         size_t count)
{
    const struct bench_options *options = &bench->options;
    const unsigned rounds = options->runs + (options->latency ? 1u : 0u);

    for (unsigned round = 0; round < rounds; round++) {
        const bool timed = round == options->runs;

        for (size_t i = 0; i < count; i++) {
            const struct bench_engine *engine = engines[(i + round) % count];

            progress(bench, "%s, %s %u of %u", engine->title, timed ? "latency run" : "run",
                     timed ? 1 : round + 1, timed ? 1 : options->runs);
            (void)run_child(bench,
                            (struct bench_child_task){
                                .task = "standard", .engine = engine->name, .timed = timed},
                            false);
        }
    }
}

static void run_memory(struct bench *bench)
{
    for (unsigned i = 0; i < bench_memory_setting_count; i++) {
        progress(bench, "memory, %s", bench_memory_settings[i].name);
        (void)run_child(
            bench, (struct bench_child_task){.task = "memory", .engine = "bitkv", .setting = i},
            false);
    }
}

static void run_reopen(struct bench *bench, enum bench_reopen_setting setting, unsigned run)
{
    struct bench_child_task task = {.task = "reopen-fill",
                                    .engine = "bitkv",
                                    .setting = setting,
                                    .kill_when_ready = setting != BENCH_REOPEN_CLEAN};

    progress(bench, "%s, run %u of %u", bench_reopen_settings[setting], run + 1,
             bench->options.special_runs);
    if (run_child(bench, task, true)) {
        task.task = "reopen";
        task.kill_when_ready = false;
        (void)run_child(bench, task, false);
    } else {
        char directory[sizeof(bench->base) + 16];

        (void)snprintf(directory, sizeof(directory), "%s/db", bench->base);
        bench_remove_tree(directory);
    }
}

static void run_special(struct bench *bench)
{
    const struct bench_options *options = &bench->options;

    if (bench_wants(options, BENCH_PHASE_MEMORY))
        run_memory(bench);
    for (unsigned run = 0; run < options->special_runs; run++) {
        if (bench_wants(options, BENCH_PHASE_READS)) {
            progress(bench, "reads, run %u of %u", run + 1, options->special_runs);
            (void)run_child(bench, (struct bench_child_task){.task = "reads", .engine = "bitkv"},
                            false);
        }
        if (bench_wants(options, BENCH_PHASE_REOPEN_CLEAN))
            run_reopen(bench, BENCH_REOPEN_CLEAN, run);
        if (bench_wants(options, BENCH_PHASE_REOPEN_KILL)) {
            run_reopen(bench, BENCH_REOPEN_KILL, run);
            run_reopen(bench, BENCH_REOPEN_KILL_NO_CHECKPOINT, run);
        }
        if (bench_wants(options, BENCH_PHASE_GROWTH)) {
            progress(bench, "growth, run %u of %u", run + 1, options->special_runs);
            (void)run_child(bench, (struct bench_child_task){.task = "growth", .engine = "bitkv"},
                            false);
        }
        for (unsigned phase = BENCH_PHASE_FIRST_ASYNC; phase < BENCH_PHASE_FIRST_LIFE; phase++) {
            const char *task = bench_phase_names[phase];

            if (!bench_wants(options, (enum bench_phase)phase))
                continue;
            progress(bench, "%s, run %u of %u", task, run + 1, options->special_runs);
            (void)run_child(bench, (struct bench_child_task){.task = task, .engine = "bitkv"},
                            false);
        }
    }
}

/* Engine after engine within each repetition, as run_standard(). Counts them only if
 * `count` is given. */
static void run_life(struct bench *bench, const struct bench_engine *const *engines, size_t have,
                     unsigned *count)
{
    const struct bench_options *options = &bench->options;

    for (unsigned run = 0; run < options->runs; run++) {
        for (unsigned phase = BENCH_PHASE_FIRST_LIFE; phase < BENCH_PHASE_COUNT; phase++) {
            const char *task = bench_phase_names[phase];

            for (size_t i = 0; i < have; i++) {
                const struct bench_engine *engine = engines[(i + run) % have];

                if (!bench_wants(options, (enum bench_phase)phase) ||
                    !bench_life_has((enum bench_phase)phase, engine))
                    continue;
                if (count != NULL) {
                    ++*count;
                    continue;
                }
                progress(bench, "%s, %s, run %u of %u", task, engine->title, run + 1,
                         options->runs);
                (void)run_child(
                    bench, (struct bench_child_task){.task = task, .engine = engine->name}, false);
            }
        }
    }
}

static int child_main(const struct bench_options *options)
{
    static const struct {
        const char *name;
        int (*main)(const struct bench_options *, const struct bench_engine *);
    } tasks[] = {
        {"standard", bench_task_standard},
        {"reads", bench_task_reads},
        {"memory", bench_task_memory},
        {"reopen-fill", bench_task_reopen_fill},
        {"reopen", bench_task_reopen},
        {"growth", bench_task_growth},
        {"async-hot", bench_task_async_hot},
        {"async-cold", bench_task_async_cold},
        {"async-synced", bench_task_async_synced},
        {"async-mixed", bench_task_async_mixed},
        {"overwrite-uniform", bench_task_overwrite_uniform},
        {"overwrite-zipf", bench_task_overwrite_zipf},
        {"overwrite-ycsb", bench_task_overwrite_ycsb},
        {"foreground", bench_task_foreground},
        {"compaction-speed", bench_task_compaction_speed},
        {"snapshot", bench_task_snapshot},
        {"backup", bench_task_backup},
        {"batch", bench_task_batch},
    };
    const struct bench_engine *engine = bench_engine_find(options->child_engine);

    bench_report_to(options->child_fd);
    for (size_t i = 0; engine != NULL && i < sizeof(tasks) / sizeof(tasks[0]); i++) {
        if (strcmp(tasks[i].name, options->child) == 0)
            return tasks[i].main(options, engine);
    }
    (void)bench_report_error("no such task or engine");
    return EXIT_FAILURE;
}

static void count_steps(struct bench *bench, size_t engines, bool special)
{
    const struct bench_options *options = &bench->options;

    if ((options->phases & ((1u << BENCH_PHASE_FIRST_SPECIAL) - 1u)) != 0)
        bench->steps = (unsigned)engines * (options->runs + (options->latency ? 1u : 0u));
    if (!special)
        return;
    if (bench_wants(options, BENCH_PHASE_MEMORY))
        bench->steps += bench_memory_setting_count;
    bench->steps +=
        options->special_runs * ((unsigned)bench_wants(options, BENCH_PHASE_READS) +
                                 (unsigned)bench_wants(options, BENCH_PHASE_REOPEN_CLEAN) +
                                 2u * (unsigned)bench_wants(options, BENCH_PHASE_REOPEN_KILL) +
                                 (unsigned)bench_wants(options, BENCH_PHASE_GROWTH));
    for (unsigned phase = BENCH_PHASE_FIRST_ASYNC; phase < BENCH_PHASE_FIRST_LIFE; phase++)
        bench->steps += options->special_runs * bench_wants(options, (enum bench_phase)phase);
}

static bool make_base(struct bench *bench)
{
    struct sigaction action = {.sa_handler = on_signal};

    if (snprintf(bench->base, sizeof(bench->base), "%s/bitkv-bench.XXXXXX",
                 bench->options.directory) >= (int)sizeof(bench->base) ||
        mkdtemp(bench->base) == NULL) {
        (void)fprintf(stderr, "bitkv-bench: cannot make a directory in %s: %s\n",
                      bench->options.directory, strerror(errno));
        return false;
    }
    (void)snprintf(base_to_remove, sizeof(base_to_remove), "%s", bench->base);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
    return true;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    const struct bench_engine *engines[16];
    struct bench_report report;
    size_t count = 0;
    bool special = false;
    bool written;
    const int status = bench_options_parse(&bench.options, argc, argv);

    if (status >= 0)
        return status;
    if (bench.options.child != NULL)
        return child_main(&bench.options);
    if (bench.options.list) {
        bench_report_list(stdout);
        return EXIT_SUCCESS;
    }
    bench.argv = argv;
    for (size_t i = 0; i < bench_engine_count; i++) {
        if (chosen(&bench.options, bench_engines[i])) {
            engines[count++] = bench_engines[i];
            special = special || strcmp(bench_engines[i]->name, "bitkv") == 0;
        }
    }
    if (!make_base(&bench))
        return EXIT_FAILURE;
    report = (struct bench_report){.options = &bench.options,
                                   .results = &bench.results,
                                   .engines = engines,
                                   .engine_count = count};
    bench_machine_describe(&report.machine, bench.base);
    count_steps(&bench, count, special);
    run_life(&bench, engines, count, &bench.steps);
    if ((bench.options.phases & ((1u << BENCH_PHASE_FIRST_SPECIAL) - 1u)) != 0)
        run_standard(&bench, engines, count);
    if (special)
        run_special(&bench);
    run_life(&bench, engines, count, NULL);
    bench_remove_tree(bench.base);
    if (isatty(STDERR_FILENO))
        (void)fprintf(stderr, "\r\033[K");
    written = bench_report_write(&report);
    count = bench.results.failures;
    special = bench.results.wrong != 0;
    bench_results_free(&bench.results);
    return written && count == 0 && !special ? EXIT_SUCCESS : EXIT_FAILURE;
}
