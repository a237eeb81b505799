/* SPDX-License-Identifier: MIT */
/*
 * Overwriting for long: 2 GB of keys and values, then five times as many puts of
 * keys that are there, uniformly or by Zipf's law (zipf.h). Nobody compacts by hand. What
 * is told is of the last three fifths, when space is taken and given back at the
 * same pace: how much is written for what was put, how much the directory takes,
 * and how fast it goes.
 *
 * All operations are written down before (8 bytes each), so that neither Zipf's
 * law nor versions cost time. At the end every key is read.
 */
#include "child.h"
#include "clock.h"
#include "life.h"
#include "tasks.h"
#include "zipf.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DATA_BYTES    2e9
#define TIMES         5u
#define TIMES_TO_WARM 2u
#define LOOK_EVERY    64u

struct overwrite {
    const struct bench_engine *engine;
    const struct bench_options *options;
    const char *phase;
    void *db, *session;
    struct bench_workload workload;
    struct bench_op *ops;
    double live_bytes;
    uint64_t wrong;
};

struct moment {
    struct bench_usage usage;
    uint64_t written_bytes, cpu_ns, now_ns;
};

typedef void (*law_init)(struct bench_zipf *law, uint64_t ids);

/* init: NULL for uniform keys. */
static bool order(struct overwrite *o, law_init init, size_t count)
{
    struct bench_workload *workload = &o->workload;
    struct bench_zipf law;
    size_t got;

    if (init == NULL)
        return bench_workload_order(workload, BENCH_ORDER_OVERWRITE, count, 1, &o->ops, &got) ||
               bench_report_error("out of memory");
    o->ops = malloc(count * sizeof(*o->ops));
    if (o->ops == NULL)
        return bench_report_error("out of memory");
    init(&law, workload->keys);
    for (size_t i = 0; i < count; i++) {
        const uint32_t id = (uint32_t)bench_zipf_id(&law, bench_random(&workload->random));

        o->ops[i] = (struct bench_op){id, ++workload->versions[id] | BENCH_OP_PUT};
    }
    return true;
}

static bool put(struct overwrite *o, uint64_t id, uint32_t version)
{
    const struct bench_workload *workload = &o->workload;
    uint64_t key[BENCH_LIFE_KEY_WORDS];
    uint64_t value[BENCH_LIFE_VALUE_WORDS];

    bench_key(workload, id, key);
    bench_value(workload, bench_stamp(id, version), value);
    return o->engine->put(o->session, key, workload->key_size, value, workload->value_size) ==
               BENCH_OK ||
           bench_report_error("%s: put: %s", o->phase, bench_error());
}

static bool fill(struct overwrite *o)
{
    for (uint64_t id = 0; id < o->workload.keys; id++) {
        if (!put(o, id, 1))
            return false;
        if (id % 65536 == 0)
            bench_life_progress(o->phase, "filling", id, o->workload.keys);
    }
    return true;
}

/* Not before it is time for put number `index`. */
static void keep_pace(const struct overwrite *o, size_t index, uint64_t start_ns)
{
    const uint64_t due_ns = (uint64_t)((double)index * 1e9 / (double)o->options->rate);
    const uint64_t elapsed_ns = bench_now_ns() - start_ns;

    if (due_ns > elapsed_ns + 50000) /* a sleep is longer than it is asked to be */
        (void)usleep((useconds_t)((due_ns - elapsed_ns) / 1000));
}

static bool overwrite(struct overwrite *o, size_t begin, size_t end)
{
    const uint64_t start_ns = bench_now_ns();

    for (size_t i = begin; i < end; i++) {
        if (!put(o, o->ops[i].id, o->ops[i].what & BENCH_OP_VERSION))
            return false;
        if (i % LOOK_EVERY != 0)
            continue;
        if (o->options->rate != 0)
            keep_pace(o, i - begin, start_ns);
        if (i % 65536 == 0)
            bench_life_progress(o->phase, "overwriting", i, o->workload.keys * TIMES);
    }
    return true;
}

static bool verify(struct overwrite *o)
{
    const struct bench_workload *workload = &o->workload;
    uint64_t key[BENCH_LIFE_KEY_WORDS];

    for (uint64_t id = 0; id < workload->keys; id++) {
        const struct bench_op op = {(uint32_t)id, workload->versions[id]};
        const void *value = NULL;
        size_t size = 0;
        int code;

        bench_key(workload, id, key);
        code = o->engine->get(o->session, key, workload->key_size, &value, &size);
        if (code < 0)
            return bench_report_error("%s: get: %s", o->phase, bench_error());
        if (code != BENCH_OK ||
            !bench_value_right(workload, op, value, size, id % BENCH_FULL_COMPARE == 0))
            o->wrong++;
        if (id % 65536 == 0)
            bench_life_progress(o->phase, "verifying", id, workload->keys);
    }
    if (o->wrong != 0)
        bench_report_wrong(o->wrong, o->phase);
    return true;
}

static bool look(const struct overwrite *o, struct moment *moment)
{
    moment->usage = (struct bench_usage){0};
    if (o->engine->usage != NULL && o->engine->usage(o->db, &moment->usage) != BENCH_OK)
        return bench_report_error("%s: %s", o->phase, bench_error());
    moment->written_bytes = bench_life_written_bytes();
    moment->cpu_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    moment->now_ns = bench_now_ns();
    return true;
}

static void report(const struct overwrite *o, const struct moment *a, const struct moment *b,
                   const struct bench_life_meter *meter, double puts)
{
    const double pair = (double)(o->workload.key_size + o->workload.value_size);
    const double data = (double)o->workload.keys * pair;
    const double mean = bench_life_meter_mean(meter);
    const double log = (double)(b->usage.log_bytes - a->usage.log_bytes);
    const double moved = (double)(b->usage.compaction_bytes - a->usage.compaction_bytes);

    bench_life_figure(o->phase, "rate", puts * 1e9 / (double)(b->now_ns - a->now_ns));
    bench_life_figure(o->phase, "cpu_ns", (double)(b->cpu_ns - a->cpu_ns) / puts);
    bench_life_figure(o->phase, "dirtied",
                      (double)(b->written_bytes - a->written_bytes) / (puts * pair));
    bench_life_figure(o->phase, "disk_data_most", (double)meter->most / data);
    bench_life_figure(o->phase, "disk_data_mean", mean / data);
    if (log <= 0.0)
        return;
    bench_life_figure(o->phase, "amplification", (log + moved) / log);
    bench_life_figure(o->phase, "disk_live_most", (double)meter->most / o->live_bytes);
    bench_life_figure(o->phase, "disk_live_mean", mean / o->live_bytes);
    bench_life_figure(o->phase, "disk_live_counted", (double)b->usage.disk_bytes / o->live_bytes);
}

static bool measure(struct overwrite *o)
{
    const size_t steady = (size_t)o->workload.keys * TIMES_TO_WARM;
    const size_t end = (size_t)o->workload.keys * TIMES;
    struct bench_life_meter meter;
    struct moment before, after;
    bool done;

    /* All values are of one size, so this stays; while a run of compaction is being put
     * in place, the engine's own count is short of it. */
    if (!look(o, &before))
        return false;
    o->live_bytes = (double)before.usage.live_bytes;
    if (!overwrite(o, 0, steady) || !look(o, &before) ||
        !bench_life_meter_start(&meter, o->options->child_directory))
        return false;
    done = overwrite(o, steady, end) && look(o, &after);
    bench_life_meter_stop(&meter);
    if (done)
        report(o, &before, &after, &meter, (double)(end - steady));
    return done;
}

static bool open_engine(struct overwrite *o)
{
    const struct bench_setup setup = {.directory = o->options->child_directory,
                                      .keys = o->workload.keys,
                                      .key_size = o->workload.key_size,
                                      .value_size = o->workload.value_size};

    o->db = o->engine->open(&setup);
    o->session = o->db == NULL ? NULL : o->engine->session_begin(o->db);
    return o->session != NULL || bench_report_error("%s: open: %s", o->phase, bench_error());
}

static int run(const struct bench_options *options, const struct bench_engine *engine,
               const char *phase, law_init init)
{
    struct overwrite o = {.engine = engine, .options = options, .phase = phase};
    const uint64_t keys = bench_life_keys(options, DATA_BYTES);
    bool done;

    if (engine == &bench_engine_bitkv) /* the options that a program gets that sets none */
        o.engine = &bench_engine_bitkv_interval;
    done = bench_workload_init(&o.workload, keys, options->key_size, options->value_size,
                               options->seed, true);
    for (uint64_t id = 0; done && id < keys; id++)
        o.workload.versions[id] = 1;
    done = done && order(&o, init, (size_t)keys * TIMES) && open_engine(&o);
    if (done)
        bench_life_warm(options, keys);
    done = done && fill(&o) && measure(&o) && verify(&o);
    if (o.session != NULL)
        o.engine->session_end(o.session);
    if (o.db != NULL && o.engine->close(o.db) != BENCH_OK)
        done = bench_report_error("%s: close: %s", o.phase, bench_error());
    free(o.ops);
    bench_workload_free(&o.workload);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}

int bench_task_overwrite_uniform(const struct bench_options *options,
                                 const struct bench_engine *engine)
{
    return run(options, engine, "overwrite-uniform", NULL);
}

int bench_task_overwrite_zipf(const struct bench_options *options,
                              const struct bench_engine *engine)
{
    return run(options, engine, "overwrite-zipf", bench_zipf_init);
}

int bench_task_overwrite_ycsb(const struct bench_options *options,
                              const struct bench_engine *engine)
{
    return run(options, engine, "overwrite-ycsb", bench_zipf_init_ycsb);
}
