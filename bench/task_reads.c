/* SPDX-License-Identifier: MIT */
/*
 * The ways of reading that BitKV offers, over the same random keys: into
 * memory of its own, into the caller's, in place, existence only, and in
 * batches. Each checks what it gets.
 */
#include "child.h"
#include "clock.h"
#include "tasks.h"

#include <bitkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX   128u
#define KEY_WORDS   ((BENCH_KEY_SIZE_MAX + 7) / 8)
#define VALUE_WORDS ((BENCH_VALUE_SIZE_MAX + 7) / 8)

struct reads {
    bitkv *db;
    struct bench_workload workload;
    struct bench_op *ops;
    size_t count;
    uint64_t wrong;
};

static inline void judge(struct reads *reads, size_t index, int code, const void *value,
                         size_t size)
{
    if (code != BITKV_OK || !bench_value_right(&reads->workload, reads->ops[index], value, size,
                                               index % BENCH_FULL_COMPARE == 0))
        reads->wrong++;
}

static void read_get(struct reads *reads)
{
    uint64_t key[KEY_WORDS];

    for (size_t i = 0; i < reads->count; i++) {
        void *value = NULL;
        size_t size = 0;
        int code;

        bench_key(&reads->workload, reads->ops[i].id, key);
        code = bitkv_get(reads->db, key, reads->workload.key_size, &value, &size);
        judge(reads, i, code, value, size);
        bitkv_free(value);
    }
}

static void read_get_into(struct reads *reads)
{
    uint64_t key[KEY_WORDS];
    uint64_t value[VALUE_WORDS];

    for (size_t i = 0; i < reads->count; i++) {
        size_t size = 0;
        int code;

        bench_key(&reads->workload, reads->ops[i].id, key);
        code =
            bitkv_get_into(reads->db, key, reads->workload.key_size, value, sizeof(value), &size);
        judge(reads, i, code, value, size);
    }
}

static void read_get_view(struct reads *reads)
{
    uint64_t key[KEY_WORDS];

    for (size_t i = 0; i < reads->count; i++) {
        bitkv_view view;
        int code;

        bench_key(&reads->workload, reads->ops[i].id, key);
        code = bitkv_get_view(reads->db, key, reads->workload.key_size, &view);
        judge(reads, i, code, view.data, view.size);
        bitkv_view_release(&view);
    }
}

static void read_exists(struct reads *reads)
{
    uint64_t key[KEY_WORDS];

    for (size_t i = 0; i < reads->count; i++) {
        bench_key(&reads->workload, reads->ops[i].id, key);
        if (bitkv_exists(reads->db, key, reads->workload.key_size) != BITKV_OK)
            reads->wrong++;
    }
}

static void read_batches(struct reads *reads, size_t batch)
{
    static uint64_t keys[BATCH_MAX][KEY_WORDS];
    static uint64_t values[BATCH_MAX][VALUE_WORDS];
    bitkv_get_item items[BATCH_MAX];

    for (size_t i = 0; i < reads->count; i += batch) {
        const size_t count = reads->count - i < batch ? reads->count - i : batch;

        for (size_t j = 0; j < count; j++) {
            bench_key(&reads->workload, reads->ops[i + j].id, keys[j]);
            items[j] = (bitkv_get_item){.key = keys[j],
                                        .key_size = reads->workload.key_size,
                                        .buffer = values[j],
                                        .buffer_size = sizeof(values[j])};
        }
        (void)bitkv_multi_get(reads->db, items, count);
        for (size_t j = 0; j < count; j++)
            judge(reads, i + j, items[j].status, items[j].value, items[j].value_size);
    }
}

static void read_batches_8(struct reads *reads)
{
    read_batches(reads, 8);
}

static void read_batches_32(struct reads *reads)
{
    read_batches(reads, 32);
}

static void read_batches_128(struct reads *reads)
{
    read_batches(reads, 128);
}

static bool fill(struct reads *reads)
{
    uint64_t key[KEY_WORDS];
    uint64_t value[VALUE_WORDS];

    for (uint64_t id = 0; id < reads->workload.keys; id++) {
        bench_key(&reads->workload, id, key);
        bench_value(&reads->workload, bench_stamp(id, ++reads->workload.versions[id]), value);
        if (bitkv_put(reads->db, key, reads->workload.key_size, value,
                      reads->workload.value_size) != BITKV_OK)
            return false;
    }
    return true;
}

static void measure(struct reads *reads)
{
    static const struct {
        const char *name;
        void (*read)(struct reads *);
    } variants[] = {
        {"reads.get", read_get},
        {"reads.get_into", read_get_into},
        {"reads.get_view", read_get_view},
        {"reads.exists", read_exists},
        {"reads.multi_get_8", read_batches_8},
        {"reads.multi_get_32", read_batches_32},
        {"reads.multi_get_128", read_batches_128},
    };

    for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
        const uint64_t start_ns = bench_now_ns();

        variants[i].read(reads);
        bench_report_figure(variants[i].name,
                            (double)reads->count * 1e9 / (double)(bench_now_ns() - start_ns));
        if (reads->wrong != 0)
            bench_report_wrong(reads->wrong, variants[i].name);
        reads->wrong = 0;
    }
}

int bench_task_reads(const struct bench_options *options, const struct bench_engine *engine)
{
    struct reads reads = {0};
    bitkv_options db_options;
    bool done = false;

    (void)engine;
    bitkv_options_init(&db_options);
    db_options.durability = BITKV_DURABILITY_NONE;
    if (bitkv_open(&reads.db, options->child_directory, &db_options) != BITKV_OK) {
        (void)bench_report_error("open: %s", bitkv_error_context());
        return EXIT_FAILURE;
    }
    if (!bench_workload_init(&reads.workload, options->keys, options->key_size, options->value_size,
                             options->seed, true)) {
        (void)bench_report_error("out of memory");
    } else if (!fill(&reads)) {
        (void)bench_report_error("fill: %s", bitkv_error_context());
    } else if (!bench_workload_order(&reads.workload, BENCH_ORDER_GET, options->keys, 1, &reads.ops,
                                     &reads.count)) {
        (void)bench_report_error("out of memory");
    } else {
        measure(&reads);
        done = true;
    }
    free(reads.ops);
    bench_workload_free(&reads.workload);
    if (bitkv_close(reads.db) != BITKV_OK)
        done = bench_report_error("close: %s", bitkv_error_context());
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
