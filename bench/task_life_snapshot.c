/* SPDX-License-Identifier: MIT */
/*
 * Going through everything: 10 million keys in the page cache, with their values and
 * without, beside peers. What is visited is added up, and the sums are compared with
 * what was put. Of BitKV also what is its own: see life_snapshot.h.
 */
#include "child.h"
#include "clock.h"
#include "life.h"
#include "life_snapshot.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

#define KEYS   1e7
#define ROUNDS 3u

struct scan {
    const struct bench_engine *engine;
    const struct bench_options *options;
    struct bench_workload workload;
    struct bench_sums expected;
    void *db;
};

static bool fill(struct scan *s)
{
    const struct bench_workload *workload = &s->workload;
    void *session = s->engine->session_begin(s->db);
    uint64_t key[BENCH_LIFE_KEY_WORDS];
    uint64_t value[BENCH_LIFE_VALUE_WORDS];
    bool done = session != NULL;

    for (uint64_t id = 0; id < workload->keys && done; id++) {
        bench_key(workload, id, key);
        bench_value(workload, bench_stamp(id, 1), value);
        bench_sums_add(&s->expected, key, value);
        done = s->engine->put(session, key, workload->key_size, value, workload->value_size) ==
               BENCH_OK;
        if (id % 65536 == 0)
            bench_life_progress("snapshot", "filling", id, workload->keys);
    }
    if (session != NULL)
        s->engine->session_end(session);
    return done || bench_report_error("snapshot: fill: %s", bench_error());
}

static bool visit(struct scan *s, bool keys_only, const char *figure)
{
    struct bench_sums sums = {0};
    const uint64_t start_ns = bench_now_ns();

    if (s->engine->scan(s->db, keys_only, &sums) != BENCH_OK)
        return bench_report_error("snapshot: %s", bench_error());
    if (figure != NULL)
        bench_life_figure("snapshot", figure,
                          (double)sums.records * 1e9 / (double)(bench_now_ns() - start_ns));
    if (!bench_life_sums_right(&sums, &s->expected, keys_only))
        bench_report_wrong(1, "snapshot: what was visited does not add up");
    return true;
}

static bool run(struct scan *s)
{
    bool done = fill(s);

    if (done && s->engine->settle != NULL)
        s->engine->settle(s->db);
    done = done && visit(s, false, NULL); /* so that all is mapped, for every engine */
    for (unsigned round = 0; round < ROUNDS && done; round++)
        done = visit(s, false, "values") && visit(s, true, "keys");
    if (s->engine->close(s->db) != BENCH_OK)
        done = bench_report_error("snapshot: close: %s", bench_error());
    return done;
}

int bench_task_snapshot(const struct bench_options *options, const struct bench_engine *engine)
{
    struct scan s = {.engine = engine, .options = options};
    const uint64_t keys = bench_life_scaled(options, KEYS, 1000);
    const struct bench_setup setup = {.directory = options->child_directory,
                                      .keys = keys,
                                      .key_size = options->key_size,
                                      .value_size = options->value_size};
    bool done;

    if (!bench_workload_init(&s.workload, keys, options->key_size, options->value_size,
                             options->seed, false)) {
        (void)bench_report_error("out of memory");
        return EXIT_FAILURE;
    }
    bench_life_warm(options, keys);
    s.db = engine->open(&setup);
    done = s.db != NULL || bench_report_error("snapshot: open: %s", bench_error());
    done = done && run(&s);
    if (done && engine == &bench_engine_bitkv)
        done = bench_life_snapshots(options, keys, &s.expected);
    bench_workload_free(&s.workload);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
