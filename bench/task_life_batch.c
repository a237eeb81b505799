/* SPDX-License-Identifier: MIT */
/*
 * A hundred puts one by one, and as a batch, with the time that it takes to build
 * it: overwrites of random keys, with one partition and with two. Passes of either
 * kind take turns.
 */
#include "child.h"
#include "clock.h"
#include "life.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>

#define KEYS    1e6
#define HUNDRED 100u
#define ROUNDS  3u

struct batches {
    struct bench_life life;
    bitkv_batch *batch;
    uint32_t version;
};

static bool single(struct batches *b, const uint64_t *ids)
{
    for (unsigned i = 0; i < HUNDRED; i++) {
        if (!bench_life_put(&b->life, ids[i], b->version))
            return false;
    }
    return true;
}

static bool batch(struct batches *b, const uint64_t *ids)
{
    const struct bench_workload *workload = &b->life.workload;
    uint64_t key[BENCH_LIFE_KEY_WORDS];
    uint64_t value[BENCH_LIFE_VALUE_WORDS];
    int code = BITKV_OK;

    bitkv_batch_clear(b->batch);
    for (unsigned i = 0; i < HUNDRED && code == BITKV_OK; i++) {
        bench_key(workload, ids[i], key);
        bench_value(workload, bench_stamp(ids[i], b->version), value);
        code = bitkv_batch_put(b->batch, key, workload->key_size, value, workload->value_size);
    }
    if (code == BITKV_OK)
        code = bitkv_write(b->life.db, b->batch, BITKV_DURABILITY_DEFAULT);
    return code == BITKV_OK || bench_report_error("batch: %s", bitkv_error_context());
}

/* As many hundreds as there are keys for. */
static bool pass(const struct bench_options *options, struct batches *b, unsigned partitions,
                 const char *what, bool (*hundred)(struct batches *b, const uint64_t *ids))
{
    struct bench_workload *workload = &b->life.workload;
    const uint64_t count = workload->keys / HUNDRED;
    uint64_t ids[HUNDRED];
    uint64_t wall_ns, cpu_ns;
    char name[64];

    b->version++;
    if (!bench_life_settle(&b->life))
        return false;
    bench_life_warm(options, workload->keys);
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    wall_ns = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        for (unsigned j = 0; j < HUNDRED; j++)
            ids[j] = bench_random_below(&workload->random, workload->keys);
        if (!hundred(b, ids))
            return false;
    }
    wall_ns = bench_now_ns() - wall_ns;
    cpu_ns = bench_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    (void)snprintf(name, sizeof(name), "%u.%s.wall_ns", partitions, what);
    bench_life_figure("batch", name, (double)wall_ns / (double)count);
    (void)snprintf(name, sizeof(name), "%u.%s.cpu_ns", partitions, what);
    bench_life_figure("batch", name, (double)cpu_ns / (double)count);
    return true;
}

/* There and back again, so that whoever comes first has no part in it. */
static bool round_of(const struct bench_options *options, struct batches *b, unsigned partitions)
{
    return pass(options, b, partitions, "single", single) &&
           pass(options, b, partitions, "batch", batch) &&
           pass(options, b, partitions, "batch", batch) &&
           pass(options, b, partitions, "single", single);
}

static bool passes(const struct bench_options *options, struct batches *b, unsigned partitions)
{
    const uint64_t keys = bench_life_scaled(options, KEYS, 1000);
    char directory[4096];
    bool done;

    (void)snprintf(directory, sizeof(directory), "%s/%u", options->child_directory, partitions);
    b->version = 1;
    done = bench_life_begin(&b->life, options, "batch", keys) &&
           bench_life_open(&b->life, directory, false, partitions);
    if (done)
        bench_life_warm(options, keys);
    done = done && bench_life_fill(&b->life);
    for (unsigned round = 0; done && round < ROUNDS; round++)
        done = round_of(options, b, partitions);
    done = done && bench_life_verify(&b->life);
    done = bench_life_end(&b->life, done);
    bench_remove_tree(directory);
    return done;
}

int bench_task_batch(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct batches b;
    bool done;

    (void)engine;
    if (bitkv_batch_create(&b.batch) != BITKV_OK) {
        (void)bench_report_error("batch: %s", bitkv_error_context());
        return EXIT_FAILURE;
    }
    done = passes(options, &b, 1) && passes(options, &b, 2);
    bitkv_batch_destroy(b.batch);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
