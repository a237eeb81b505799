/* SPDX-License-Identifier: MIT */
/*
 * A completion queue: operations go in as batches, completions come out as they
 * are ready. Durable writes share their syncs, and reads the time that they
 * wait for memory or disk; one thread is enough.
 *
 *     queue [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS  1000u
#define BATCH 50u

static void must(int status, const char *what)
{
    if (status >= BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

struct record {
    char key[16];
    char value[32];
    char read[32];
};

static struct record records[KEYS];
static unsigned right;

/* user_data leads back to what the operation was about. */
static void take(const bitkv_completion *completion)
{
    struct record *record = completion->user_data;
    if (completion->status != BITKV_OK) {
        fprintf(stderr, "%s: %s\n", record->key, completion->error);
        exit(1);
    }
    if (completion->kind == BITKV_OP_GET)
        right += completion->value_size == strlen(record->value) &&
                 memcmp(record->read, record->value, completion->value_size) == 0;
}

static void reap(bitkv_cq *cq)
{
    bitkv_completion done[BATCH];
    int count = bitkv_cq_wait(cq, done, BATCH, -1);
    must(count, "wait");
    for (int i = 0; i < count; i++)
        take(&done[i]);
}

/* A full queue accepts what it has room for: reap, then submit the rest. */
static void submit(bitkv_cq *cq, const bitkv_op *ops, size_t count)
{
    while (count > 0) {
        int accepted = bitkv_cq_submit(cq, ops, count, NULL);
        if (accepted == BITKV_ERR_QUEUE_FULL) {
            reap(cq);
            continue;
        }
        must(accepted, "submit");
        ops += accepted;
        count -= (size_t)accepted;
    }
}

static void run(bitkv_cq *cq, bitkv_op_kind kind)
{
    for (unsigned i = 0; i < KEYS; i += BATCH) {
        bitkv_op ops[BATCH] = {0};
        for (unsigned j = 0; j < BATCH; j++) {
            struct record *record = &records[i + j];
            ops[j].kind = kind;
            ops[j].key = record->key;
            ops[j].key_size = strlen(record->key);
            ops[j].user_data = record;
            if (kind == BITKV_OP_PUT) {
                ops[j].value = record->value;
                ops[j].value_size = strlen(record->value);
                ops[j].durability = BITKV_DURABILITY_SYNC;
            } else {
                ops[j].buffer = record->read;
                ops[j].buffer_size = sizeof record->read;
            }
        }
        submit(cq, ops, BATCH);
    }
    while (bitkv_cq_pending(cq) > 0)
        reap(cq);
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-queue.db", NULL), "open");
    bitkv_cq_options options;
    bitkv_cq_options_init(&options);
    options.capacity = 256;
    bitkv_cq *cq;
    must(bitkv_cq_create(&cq, db, &options), "create a queue");

    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(records[i].key, sizeof records[i].key, "key:%u", i);
        snprintf(records[i].value, sizeof records[i].value, "value %u", i);
    }
    run(cq, BITKV_OP_PUT);
    run(cq, BITKV_OP_GET);

    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), "stats");
    const char *why;
    bitkv_backend backend = bitkv_cq_backend(cq, &why);
    printf("%u of %u right, %llu durable writes in %llu syncs, by %s (%s)\n", right, KEYS,
           (unsigned long long)statistics.puts_total, (unsigned long long)statistics.syncs_total,
           backend == BITKV_BACKEND_IO_URING ? "io_uring" : "threads", why);

    must(bitkv_cq_destroy(cq), "destroy the queue");
    must(bitkv_close(db), "close");
    return right == KEYS ? 0 : 1;
}
