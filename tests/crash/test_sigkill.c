/* SPDX-License-Identifier: MIT */
/*
 * A process at work, killed at any instant, over and over on one database: what
 * was acknowledged is there when it is opened again, batches are whole, and what
 * was deleted stays away.
 *
 * The work is a crew's (support/crew.h): calls, conditional writes, batches and
 * a completion queue on either backend, while compaction runs by itself and by
 * hand, and checkpoints, backups and snapshots are taken. Each life begins with
 * recovering what the one before has left, and may end in that.
 *
 *   BITKV_SEED          of the choices, and how the threads begin
 *   BITKV_KILLS         how many; else as many as fit into
 *   BITKV_KILL_SECONDS  18
 */
#include "api/scratch.h"
#include "support/crew.h"

#include <signal.h>

#define LIVES_OF_DATABASE 100u
#define PATIENCE_MS       60000u

static char directory[PATH_SIZE], path[PATH_SIZE], backup[PATH_SIZE];

struct run {
    struct crew *crew;
    struct chance chance;
    uint64_t seed, kills, in_openings, modes[2], backends[2], keeping[CREW_KEEPING];
};

/* Those of a new database, too: it gets its partitions then. */
static void draw_plan(struct run *run, struct crew_plan *plan)
{
    struct chance *c = &run->chance;
    *plan = (struct crew_plan){.path = path,
                               .backup = backup,
                               .seed = draw(c),
                               .sync_one_in = 1 + (unsigned)below(c, 200),
                               .pause_one_in = one_in(c, 3) ? 8 : 0,
                               .compacts = !one_in(c, 3)};
    bitkv_options *o = &plan->options;
    bitkv_options_init(o);
    o->partitions = 0;
    o->max_file_size = (64u << 10) << below(c, 6);
    o->io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o->backend = one_in(c, 2) ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS;
    o->io_threads = 4;
    o->ring_depth = 64;
    o->sync_interval_ms = 1 + (uint32_t)below(c, 300);
    o->max_open_segments = (uint32_t)below(c, 5);
    o->checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o->auto_compact = !one_in(c, 4);
    o->fragmentation_threshold = one_in(c, 2) ? 0.1 : 0.5;
    o->strict_recovery = true;
    run->modes[o->io_mode == BITKV_IO_PWRITE]++;
    run->backends[o->backend == BITKV_BACKEND_THREADS]++;
}

static void expect_no_trouble(const struct run *run, int end, int wanted)
{
    if (atomic_load(&run->crew->trouble) == 0 && end == wanted)
        return;
    print_error("life %llu ended with %d; BITKV_SEED=%llu\n", (unsigned long long)run->kills, end,
                (unsigned long long)run->seed);
    fail();
}

static void live_and_die(struct run *run)
{
    struct chance *c = &run->chance;
    struct crew_plan plan;
    draw_plan(run, &plan);
    if (run->kills % LIVES_OF_DATABASE == 0)
        plan.options.partitions = 1 + (uint32_t)below(c, 4);
    pid_t child = crew_start(run->crew, &plan);
    if (!one_in(c, 6))
        crew_wait_ready(run->crew, child);
    (void)usleep((useconds_t)below(c, 1u << (8 + below(c, 9))));
    run->in_openings += !atomic_load(&run->crew->ready);
    run->keeping[atomic_load(&run->crew->keeping)]++;
    (void)kill(child, SIGKILL);
    expect_no_trouble(run, wait_child(child), 1000 + SIGKILL);
    run->kills++;
}

/* What is left at the end is opened, checked and closed. */
static void retire(struct run *run)
{
    struct crew_plan plan;
    draw_plan(run, &plan);
    plan.checks_only = true;
    expect_no_trouble(run, crew_wait(crew_start(run->crew, &plan), PATIENCE_MS), 0);
    char partial[PATH_SIZE];
    inside(partial, directory, "backup.partial");
    remove_tree(path);
    remove_tree(backup);
    remove_tree(partial);
    crew_forget(run->crew);
}

static void report(const struct run *run, uint64_t ms)
{
    const struct crew *crew = run->crew;
    print_message("%llu with mappings, %llu with pwrite; %llu on io_uring, %llu on threads; %llu "
                  "while opening, %llu in a compaction by hand, %llu in a backup; %llu "
                  "compactions, %llu snapshots, %llu syncs had ended\n",
                  (unsigned long long)run->modes[0], (unsigned long long)run->modes[1],
                  (unsigned long long)run->backends[0], (unsigned long long)run->backends[1],
                  (unsigned long long)run->in_openings,
                  (unsigned long long)run->keeping[CREW_COMPACTS],
                  (unsigned long long)run->keeping[CREW_BACKS_UP],
                  (unsigned long long)atomic_load(&crew->compactions),
                  (unsigned long long)atomic_load(&crew->snapshots),
                  (unsigned long long)atomic_load(&crew->syncs));
    printf("torture: %llu kills, %llu operations acknowledged, in %.1f s\n",
           (unsigned long long)run->kills, (unsigned long long)crew_acknowledged(crew),
           (double)ms / 1000);
}

static void acknowledged_writes_survive_sigkill(void **state)
{
    (void)state;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    struct run run = {.seed = env_number("BITKV_SEED", (uint64_t)t.tv_sec)};
    run.chance.state = run.seed;
    print_message("BITKV_SEED=%llu\n", (unsigned long long)run.seed);
    make_scratch(directory);
    inside(path, directory, "db");
    inside(backup, directory, "backup");
    run.crew = crew_create(CREW_FEW);
    uint64_t most = env_number("BITKV_KILLS", UINT64_MAX), begun = now_ms();
    uint64_t seconds = env_number("BITKV_KILL_SECONDS", most == UINT64_MAX ? 18 : 1u << 30);
    while (run.kills < most && now_ms() < begun + seconds * 1000) {
        live_and_die(&run);
        if (run.kills % LIVES_OF_DATABASE == 0) /* it has grown: a new one is as good */
            retire(&run);
    }
    if (run.kills % LIVES_OF_DATABASE != 0)
        retire(&run);
    report(&run, now_ms() - begun);
    crew_destroy(run.crew);
    remove_tree(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_writes_survive_sigkill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
