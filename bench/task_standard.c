/* SPDX-License-Identifier: MIT */
/*
 * The comparison: all phases of one engine, once, on a fresh database; then
 * the phases that are run on several threads, on another.
 *
 * Outside of the timed regions, every key is read back after the phases that
 * write, after the deletes and after the reopening.
 */
#include "child.h"
#include "clock.h"
#include "machine.h"
#include "tasks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct session {
    const struct bench_options *options;
    const struct bench_engine *engine;
    struct bench_workload workload;
    struct bench_setup setup;
    char directory[4096];
    void *db;
    unsigned threads;
};

bool bench_outcome_right(const char *phase, const struct bench_outcome *outcome)
{
    if (outcome->failed != 0) {
        (void)bench_report_error("%s: %llu operations failed: %s", phase,
                                 (unsigned long long)outcome->failed, outcome->complaint);
        return false;
    }
    if (outcome->wrong != 0) {
        char text[512];

        (void)snprintf(text, sizeof(text), "%s: %s", phase, outcome->complaint);
        bench_report_wrong(outcome->wrong, text);
    }
    return true; /* go on: the count of wrong values is a result */
}

static void report_phase(const char *name, const struct bench_outcome *outcome)
{
    const double operations = (double)outcome->operations;
    char cpu_name[96];

    bench_report_figure(name, operations * 1e9 / (double)outcome->duration_ns);
    (void)snprintf(cpu_name, sizeof(cpu_name), "cpu.%s.caller_ns", name);
    bench_report_figure(cpu_name, (double)outcome->caller_cpu_ns / operations);
    (void)snprintf(cpu_name, sizeof(cpu_name), "cpu.%s.process_ns", name);
    bench_report_figure(cpu_name, (double)outcome->process_cpu_ns / operations);
}

/* Three times the data, and some. */
static size_t memory_to_warm(const struct bench_options *options)
{
    return 3 * (size_t)options->keys * (options->key_size + options->value_size + 64u) +
           ((size_t)256 << 20);
}

/* One timed phase. */
static bool run(struct session *session, enum bench_phase phase, enum bench_order order,
                enum bench_loop loop, uint64_t count)
{
    struct bench_op *ops[BENCH_THREADS_MAX];
    size_t counts[BENCH_THREADS_MAX];
    struct bench_histogram *histogram = NULL;
    struct bench_outcome outcome;
    char name[64];

    if (!bench_workload_order(&session->workload, order, count, session->threads, ops, counts))
        return bench_report_error("out of memory");
    if (session->options->child_timed) {
        histogram = calloc(1, sizeof(*histogram));
        if (histogram == NULL)
            return bench_report_error("out of memory");
    }
    (void)snprintf(name, sizeof(name), "%s.%u", bench_phase_names[phase], session->threads);
    bench_machine_warm_memory(memory_to_warm(session->options));
    outcome = bench_loop_run(session->engine, session->db, &session->workload, loop,
                             session->threads, ops, counts, histogram);
    for (unsigned t = 0; t < session->threads; t++)
        free(ops[t]);
    if (!bench_outcome_right(name, &outcome)) {
        free(histogram);
        return false;
    }
    if (bench_wants(session->options, phase)) {
        if (histogram != NULL)
            bench_report_latency(name, histogram);
        else
            report_phase(name, &outcome);
    }
    free(histogram);
    return true;
}

static bool run_if_wanted(struct session *session, enum bench_phase phase, enum bench_order order,
                          enum bench_loop loop, uint64_t count)
{
    return !bench_wants(session->options, phase) || run(session, phase, order, loop, count);
}

/* Every key, whole, untimed. */
static bool verify(struct session *session, const char *when)
{
    struct bench_op *ops[1];
    size_t counts[1];
    struct bench_outcome outcome;

    if (!bench_workload_order(&session->workload, BENCH_ORDER_VERIFY, 0, 1, ops, counts))
        return bench_report_error("out of memory");
    outcome = bench_loop_run(session->engine, session->db, &session->workload, BENCH_LOOP_VERIFY, 1,
                             ops, counts, NULL);
    free(ops[0]);
    return bench_outcome_right(when, &outcome);
}

static void settle(const struct session *session)
{
    if (session->engine->settle != NULL)
        session->engine->settle(session->db);
}

static bool open_db(struct session *session)
{
    session->db = session->engine->open(&session->setup);
    if (session->db == NULL)
        return bench_report_error("open: %s", bench_error());
    return true;
}

static bool close_db(struct session *session)
{
    if (session->engine->close(session->db) != BENCH_OK)
        return bench_report_error("close: %s", bench_error());
    return true;
}

static bool synced_phase(struct session *session)
{
    if (!bench_wants(session->options, BENCH_PHASE_SYNCED))
        return true;
    if (session->engine->set_synced(session->db, true) != BENCH_OK)
        return bench_report_error("sync: %s", bench_error());
    if (!run(session, BENCH_PHASE_SYNCED, BENCH_ORDER_OVERWRITE, BENCH_LOOP_PUT,
             session->options->synced_puts))
        return false;
    if (session->engine->set_synced(session->db, false) != BENCH_OK)
        return bench_report_error("sync: %s", bench_error());
    return true;
}

/* Closing and reopening, in seconds; the reopening includes the first get. */
static bool reopen_phases(struct session *session)
{
    uint64_t start_ns = bench_now_ns();
    uint64_t key[(BENCH_KEY_SIZE_MAX + 7) / 8];
    struct bench_op op = {0, 0};
    const void *value;
    size_t value_size;
    void *reader;
    int status;

    if (!close_db(session))
        return false;
    if (bench_wants(session->options, BENCH_PHASE_CLOSE) && !session->options->child_timed)
        bench_report_figure("close.1", (double)(bench_now_ns() - start_ns) * 1e-9);

    while (session->workload.versions[op.id] == 0 && op.id < session->workload.keys - 1)
        op.id++;
    op.what = session->workload.versions[op.id];
    bench_key(&session->workload, op.id, key);
    start_ns = bench_now_ns();
    if (!open_db(session))
        return false;
    reader = session->engine->session_begin(session->db);
    if (reader == NULL)
        return bench_report_error("reopen: %s", bench_error());
    status = session->engine->get(reader, key, session->workload.key_size, &value, &value_size);
    if (bench_wants(session->options, BENCH_PHASE_REOPEN) && !session->options->child_timed)
        bench_report_figure("reopen.1", (double)(bench_now_ns() - start_ns) * 1e-9);
    if (!session->engine->stores_nothing &&
        (status != BENCH_OK || !bench_value_right(&session->workload, op, value, value_size, true)))
        bench_report_wrong(1, "the first get after reopening");
    session->engine->session_end(reader);
    return verify(session, "verification after reopening");
}

static bool begin(struct session *session, const char *name, unsigned threads)
{
    const struct bench_options *options = session->options;

    session->threads = threads;
    if (snprintf(session->directory, sizeof(session->directory), "%s/%s", options->child_directory,
                 name) >= (int)sizeof(session->directory))
        return bench_report_error("the directory's name is too long");
    if (mkdir(session->directory, 0700) != 0)
        return bench_report_error("mkdir: %s", strerror(errno));
    session->setup = (struct bench_setup){.directory = session->directory,
                                          .keys = options->keys,
                                          .key_size = options->key_size,
                                          .value_size = options->value_size};
    if (!bench_workload_init(&session->workload, options->keys, options->key_size,
                             options->value_size, options->seed, true))
        return bench_report_error("out of memory");
    return open_db(session);
}

static bool one_thread(struct session *session)
{
    const uint64_t keys = session->options->keys;

    if (!begin(session, "one", 1))
        return false;
    if (!run(session, BENCH_PHASE_FILL, BENCH_ORDER_FILL, BENCH_LOOP_PUT, keys))
        return false;
    settle(session);
    if (!run_if_wanted(session, BENCH_PHASE_OVERWRITE, BENCH_ORDER_OVERWRITE, BENCH_LOOP_PUT, keys))
        return false;
    settle(session);
    if (!run_if_wanted(session, BENCH_PHASE_GET, BENCH_ORDER_GET, BENCH_LOOP_GET, keys) ||
        !run_if_wanted(session, BENCH_PHASE_MISS, BENCH_ORDER_MISS, BENCH_LOOP_MISS, keys) ||
        !run_if_wanted(session, BENCH_PHASE_MIXED_95, BENCH_ORDER_MIXED_95, BENCH_LOOP_MIXED,
                       keys) ||
        !run_if_wanted(session, BENCH_PHASE_MIXED_50, BENCH_ORDER_MIXED_50, BENCH_LOOP_MIXED,
                       keys) ||
        !verify(session, "verification") || !synced_phase(session))
        return false;
    if (!run_if_wanted(session, BENCH_PHASE_DELETE, BENCH_ORDER_DELETE, BENCH_LOOP_DELETE, keys))
        return false;
    settle(session);
    return verify(session, "verification after the deletes") && reopen_phases(session) &&
           close_db(session);
}

static bool several_threads(struct session *session)
{
    const uint64_t keys = session->options->keys;

    if (!begin(session, "several", session->options->threads))
        return false;
    if (!run(session, BENCH_PHASE_FILL, BENCH_ORDER_FILL, BENCH_LOOP_PUT, keys))
        return false;
    settle(session);
    if (!run_if_wanted(session, BENCH_PHASE_OVERWRITE, BENCH_ORDER_OVERWRITE, BENCH_LOOP_PUT, keys))
        return false;
    settle(session);
    return run_if_wanted(session, BENCH_PHASE_GET, BENCH_ORDER_GET, BENCH_LOOP_GET, keys) &&
           run_if_wanted(session, BENCH_PHASE_MIXED_95, BENCH_ORDER_MIXED_95, BENCH_LOOP_MIXED,
                         keys) &&
           run_if_wanted(session, BENCH_PHASE_MIXED_50, BENCH_ORDER_MIXED_50, BENCH_LOOP_MIXED,
                         keys) &&
           verify(session, "verification after several threads") && close_db(session);
}

int bench_task_standard(const struct bench_options *options, const struct bench_engine *engine)
{
    struct session session = {.options = options, .engine = engine};
    bool done = one_thread(&session);

    bench_workload_free(&session.workload);
    if (done && options->threads > 1) {
        bench_remove_tree(session.directory);
        done = several_threads(&session);
        bench_workload_free(&session.workload);
    }
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
