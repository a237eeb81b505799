/* SPDX-License-Identifier: MIT */
/*
 * Every system call and every allocation of eleven pieces of a database's life
 * fails (loops.h): nothing crashes, hangs or lies; descriptors are given back; and
 * when the fault is gone the database opens and has everything that was
 * acknowledged.
 */
#include "fault/loops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* --- what is there before ------------------------------------------------------------ */

static void put_all(struct world *w, bitkv *db)
{
    for (unsigned key = 0; key < WORLD_KEYS; key++)
        world_put(w, db, key, BITKV_DURABILITY_NONE);
}

/* Several files, dead records and tombstones in all of them; closed. */
static void build_old(struct world *w)
{
    bitkv *db = world_open(w, false);
    for (unsigned round = 0; round < 2; round++)
        put_all(w, db);
    for (unsigned key = 0; key < WORLD_KEYS; key += 4)
        world_del(w, db, key, BITKV_DURABILITY_NONE);
    world_close(w, db);
}

/* And a backup of it, which is not up to date. */
static void build_backed_up(struct world *w)
{
    build_old(w);
    bitkv *db = world_open(w, false);
    world_backup(w, db);
    for (unsigned key = 0; key < WORLD_KEYS; key += 3)
        world_put(w, db, key, BITKV_DURABILITY_NONE);
    world_close(w, db);
}

/* Left by a process that died: a checkpoint that is out of date, files without hints,
 * marks, a batch, and a tail. */
static void build_crashed(struct world *w)
{
    build_old(w);
    struct world *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    *shared = *w;
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv *db = world_open(shared, false);
        world_batch(shared, db, 0, BITKV_DURABILITY_SYNC);
        put_all(shared, db);
        world_batch(shared, db, 1, BITKV_DURABILITY_NONE);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    *w = *shared;
    (void)munmap(shared, sizeof *shared);
}

/* --- what is done ---------------------------------------------------------------------- */

static void run_calls(struct world *w)
{
    for (unsigned round = 0; round < 2; round++) {
        bitkv *db = world_open(w, false);
        if (db == NULL)
            continue;
        put_all(w, db);
        world_put(w, db, 1, BITKV_DURABILITY_SYNC);
        for (unsigned key = 0; key < WORLD_KEYS; key += 7)
            world_del(w, db, key, BITKV_DURABILITY_INTERVAL);
        world_sync(w, db);
        world_scan(w, db);
        for (unsigned key = 0; key < WORLD_KEYS; key += 3)
            world_put(w, db, key, BITKV_DURABILITY_INTERVAL);
        world_read(w, db);
        world_close(w, db);
    }
}

static void run_conditions(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    for (unsigned key = 0; key < WORLD_KEYS; key += 3)
        world_condition(w, db, key);
    world_read(w, db);
    world_close(w, db);
}

static void run_compaction(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_compact(w, db);
    world_read(w, db);
    for (unsigned key = 0; key < WORLD_KEYS; key += 2)
        world_put(w, db, key, BITKV_DURABILITY_NONE);
    world_compact(w, db);
    world_close(w, db);
}

static void run_batches(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_batch(w, db, 0, BITKV_DURABILITY_SYNC);
    world_put(w, db, 0, BITKV_DURABILITY_NONE);
    world_batch(w, db, 1, BITKV_DURABILITY_NONE);
    world_put(w, db, 1, BITKV_DURABILITY_SYNC);
    world_batch(w, db, 0, BITKV_DURABILITY_INTERVAL);
    world_read(w, db);
    world_close(w, db);
}

static void run_snapshots(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_snapshot(w, db);
    world_read(w, db);
    world_close(w, db);
}

static void run_backup(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_put(w, db, 2, BITKV_DURABILITY_NONE);
    world_backup(w, db);
    world_close(w, db);
}

static void run_repartition(struct world *w)
{
    world_repartition(w, 3);
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_read(w, db);
    world_close(w, db);
}

/* Of one that fails a part may have been taken in. */
static bool refresh(struct world *w, bitkv *follower)
{
    int rc = bitkv_refresh(follower);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "refresh");
    else
        world_follow(w, follower, &w->model);
    return rc == BITKV_OK;
}

static void run_follower(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_put(w, db, 0, BITKV_DURABILITY_NONE);
    bitkv *follower = world_open(w, true);
    w->follows = true;
    const struct world_model refreshed = w->model;
    if (follower != NULL) {
        world_follow(w, follower, &refreshed);
        world_batch(w, db, 0, BITKV_DURABILITY_NONE);
        world_follow(w, follower, &refreshed);
        (void)refresh(w, follower);
        world_compact(w, db);
        if (refresh(w, follower))
            world_scan(w, follower);
    }
    world_close(w, follower);
    world_close(w, db);
}

static void run_feed(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_feed(w, db);
    for (unsigned key = 0; key < WORLD_KEYS; key += 2)
        world_put(w, db, key, BITKV_DURABILITY_NONE);
    world_batch(w, db, 1, BITKV_DURABILITY_NONE);
    world_feed(w, db);
    world_close(w, db);
}

static void run_queue(struct world *w)
{
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_queue(w, db);
    world_queue(w, db);
    world_close(w, db);
}

static void run_recovery(struct world *w)
{
    bitkv *follower = world_open(w, true);
    if (follower != NULL)
        world_follow(w, follower, &w->model);
    world_close(w, follower);
    bitkv *db = world_open(w, false);
    if (db == NULL)
        return;
    world_read(w, db);
    world_put(w, db, 5, BITKV_DURABILITY_SYNC);
    world_close(w, db);
}

static struct loop_scenario scenarios[] = {
    {.name = "calls", .partitions = 1, .run = run_calls},
    {.name = "conditions", .partitions = 1, .build = build_old, .run = run_conditions},
    {.name = "compaction",
     .partitions = 1,
     .by_hand = true,
     .build = build_old,
     .run = run_compaction},
    {.name = "batches", .partitions = 3, .build = build_old, .run = run_batches},
    {.name = "snapshots", .partitions = 2, .build = build_old, .run = run_snapshots},
    {.name = "backup", .partitions = 2, .build = build_backed_up, .run = run_backup},
    {.name = "repartition", .partitions = 2, .build = build_old, .run = run_repartition},
    {.name = "follower", .partitions = 2, .build = build_old, .run = run_follower},
    {.name = "feed", .partitions = 2, .by_hand = true, .run = run_feed},
    {.name = "queue", .partitions = 2, .queues = true, .build = build_old, .run = run_queue},
    {.name = "recovery", .partitions = 2, .build = build_crashed, .run = run_recovery},
};
#define SCENARIOS (sizeof scenarios / sizeof scenarios[0])

static void calls_that_fail(void **state)
{
    loops_calls(*state);
}

static void allocations_that_fail(void **state)
{
    loops_memory(*state);
}

static void transfers_in_pieces(void **state)
{
    loops_pieces(*state);
}

static int begin(void **state)
{
    (void)state;
    loops_begin();
    return 0;
}

static int end(void **state)
{
    (void)state;
    loops_end();
    return 0;
}

/* BITKV_FAULT_SCENARIO names one. */
int main(void)
{
    static struct CMUnitTest tests[3 * SCENARIOS];
    static char names[3 * SCENARIOS][64];
    static const struct {
        const char *of;
        CMUnitTestFunction run;
    } kinds[] = {{"costs_no_more_than_its_operation", calls_that_fail},
                 {"without_memory_loses_nothing", allocations_that_fail},
                 {"in_pieces_makes_a_whole", transfers_in_pieces}};
    const char *only = getenv("BITKV_FAULT_SCENARIO");
    size_t count = 0;
    for (size_t i = 0; i < SCENARIOS; i++) {
        for (unsigned k = 0; k < 3; k++) {
            struct loop_scenario *s = &scenarios[i];
            if (only != NULL && strcmp(only, s->name) != 0)
                continue;
            (void)snprintf(names[count], sizeof names[count], "%s_%s", s->name, kinds[k].of);
            tests[count] = (struct CMUnitTest){
                .name = names[count], .test_func = kinds[k].run, .initial_state = s};
            count++;
        }
    }
    return _cmocka_run_group_tests("fault loops", tests, count, begin, end);
}
