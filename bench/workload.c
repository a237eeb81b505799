/* SPDX-License-Identifier: MIT */
#include "workload.h"

#include <stdlib.h>

/* splitmix64 */
uint64_t bench_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull;
    return bench_mix(*state);
}

bool bench_workload_init(struct bench_workload *workload, uint64_t keys, size_t key_size,
                         size_t value_size, uint64_t seed, bool with_versions)
{
    memset(workload, 0, sizeof(*workload));
    workload->keys = keys;
    workload->key_size = key_size;
    workload->value_size = value_size;
    workload->random = seed;
    workload->seed = bench_mix(seed + 1);
    for (size_t i = 0; i < sizeof(workload->words) / sizeof(workload->words[0]); i++)
        workload->words[i] = bench_random(&workload->random);
    if (with_versions) {
        workload->versions = calloc(keys, sizeof(*workload->versions));
        return workload->versions != NULL;
    }
    return true;
}

void bench_workload_free(struct bench_workload *workload)
{
    free(workload->versions);
    workload->versions = NULL;
}

static struct bench_op put_of(struct bench_workload *workload, uint64_t id)
{
    return (struct bench_op){(uint32_t)id, ++workload->versions[id] | BENCH_OP_PUT};
}

static bool order_delete(struct bench_workload *workload, struct bench_op *ops)
{
    uint32_t *ids = malloc(workload->keys * sizeof(*ids));

    if (ids == NULL)
        return false;
    for (uint64_t i = 0; i < workload->keys; i++)
        ids[i] = (uint32_t)i;
    /* The first half of a shuffle. */
    for (uint64_t i = 0; i < workload->keys / 2; i++) {
        const uint64_t j = i + bench_random_below(&workload->random, workload->keys - i);
        const uint32_t id = ids[j];

        ids[j] = ids[i];
        ops[i] = (struct bench_op){id, 0};
        workload->versions[id] = 0;
    }
    free(ids);
    return true;
}

/* Operations on random ids. `puts` in 1000 are puts of ids of the thread's
 * own; `before` are the versions that other threads' ids have at least. */
static void order_random(struct bench_workload *workload, const uint32_t *before, unsigned puts,
                         unsigned thread, unsigned threads, struct bench_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t id = bench_random_below(&workload->random, workload->keys);

        if (puts >= 1000 || bench_random_below(&workload->random, 1000) < puts) {
            id = id - id % threads + thread;
            if (id >= workload->keys)
                id -= threads;
            ops[i] = put_of(workload, id);
        } else if (puts != 0 && id % threads != thread) {
            ops[i] = (struct bench_op){(uint32_t)id, before[id] | BENCH_OP_AT_LEAST};
        } else {
            ops[i] = (struct bench_op){(uint32_t)id, workload->versions[id]};
        }
    }
}

static size_t order_length(const struct bench_workload *workload, enum bench_order order,
                           uint64_t count, unsigned thread, unsigned threads)
{
    if (order == BENCH_ORDER_FILL || order == BENCH_ORDER_VERIFY)
        return (size_t)((workload->keys + threads - 1 - thread) / threads);
    if (order == BENCH_ORDER_DELETE)
        return (size_t)(workload->keys / 2);
    return (size_t)((count + threads - 1 - thread) / threads);
}

bool bench_workload_order(struct bench_workload *workload, enum bench_order order, uint64_t count,
                          unsigned threads, struct bench_op **ops, size_t *counts)
{
    static const unsigned puts[] = {[BENCH_ORDER_OVERWRITE] = 1000,
                                    [BENCH_ORDER_GET] = 0,
                                    [BENCH_ORDER_MISS] = 0,
                                    [BENCH_ORDER_MIXED_95] = 50,
                                    [BENCH_ORDER_MIXED_50] = 500};
    uint32_t *before = NULL;
    bool done = true;

    if (threads > 1 && (order == BENCH_ORDER_MIXED_95 || order == BENCH_ORDER_MIXED_50)) {
        before = malloc(workload->keys * sizeof(*before));
        if (before == NULL)
            return false;
        memcpy(before, workload->versions, workload->keys * sizeof(*before));
    }
    for (unsigned t = 0; t < threads; t++)
        ops[t] = NULL;
    for (unsigned t = 0; t < threads && done; t++) {
        counts[t] = order_length(workload, order, count, t, threads);
        ops[t] = malloc((counts[t] + 1) * sizeof(**ops));
        if (ops[t] == NULL) {
            done = false;
            break;
        }
        switch (order) {
        case BENCH_ORDER_FILL:
            for (size_t i = 0; i < counts[t]; i++)
                ops[t][i] = put_of(workload, i * threads + t);
            break;
        case BENCH_ORDER_VERIFY:
            for (size_t i = 0; i < counts[t]; i++)
                ops[t][i] = (struct bench_op){(uint32_t)(i * threads + t),
                                              workload->versions[i * threads + t]};
            break;
        case BENCH_ORDER_DELETE:
            done = order_delete(workload, ops[t]);
            break;
        default:
            order_random(workload, before, puts[order], t, threads, ops[t], counts[t]);
            break;
        }
    }
    free(before);
    if (!done) {
        for (unsigned t = 0; t < threads; t++)
            free(ops[t]);
    }
    return done;
}
