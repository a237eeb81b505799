/* SPDX-License-Identifier: MIT */
/*
 * One handle, many threads: every call may be made from any of them, without
 * a lock of the program's own. Readers never wait for one another.
 *
 *     threads [DIRECTORY]
 */
#include <bitkv.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 4
#define KEYS    10000u

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

struct job {
    bitkv *db;
    unsigned number;
    unsigned wrong;
};

/* Each writes keys of its own and reads each back at once. */
static void *work(void *argument)
{
    struct job *job = argument;
    for (unsigned i = 0; i < KEYS; i++) {
        unsigned key[2] = {job->number, i};
        unsigned value = 0;
        must(bitkv_put(job->db, key, sizeof key, &i, sizeof i), "put");
        must(bitkv_get_into(job->db, key, sizeof key, &value, sizeof value, NULL), "get");
        job->wrong += value != i;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-threads.db", NULL), "open");

    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.db = db, .number = i};
        if (pthread_create(&threads[i], NULL, work, &jobs[i]) != 0)
            return 1;
    }
    unsigned wrong = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        wrong += jobs[i].wrong;
    }

    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), "stats");
    printf("%llu keys, %llu puts, %u wrong\n", (unsigned long long)statistics.keys,
           (unsigned long long)statistics.puts_total, wrong);

    must(bitkv_close(db), "close");
    return wrong == 0 && statistics.keys == (uint64_t)THREADS * KEYS ? 0 : 1;
}
