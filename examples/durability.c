/* SPDX-License-Identifier: MIT */
/*
 * How much a write survives is chosen for each write. All of them survive the
 * death of the process; this is about power cuts.
 *
 *     durability [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void put(bitkv *db, const char *key, bitkv_durability durability)
{
    must(bitkv_put_with(db, key, strlen(key), "x", 1, durability), key);
}

static unsigned long long syncs(bitkv *db)
{
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), "stats");
    return statistics.syncs_total;
}

int main(int argc, char **argv)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.sync_interval_ms = 200; /* for BITKV_DURABILITY_INTERVAL, the default */

    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-durability.db", &options), "open");

    /* A cache entry: nobody minds if a power cut takes it. */
    put(db, "cache:1", BITKV_DURABILITY_NONE);

    /* A page view: a power cut takes the last 200 ms of them. */
    put(db, "view:1", BITKV_DURABILITY_INTERVAL);

    /* A payment: on the disk when the call returns. Threads that wait at the
     * same time share one sync. */
    unsigned long long before = syncs(db);
    put(db, "payment:1", BITKV_DURABILITY_SYNC);
    unsigned long long after = syncs(db);

    /* Everything so far, whatever its level: before a message to somebody who
     * will rely on it, say. */
    put(db, "cache:2", BITKV_DURABILITY_NONE);
    must(bitkv_sync(db), "sync");

    must(bitkv_close(db), "close"); /* syncs as well */
    printf("the payment %s for a sync\n", after > before ? "waited" : "did not wait");
    return after > before ? 0 : 1;
}
