/* SPDX-License-Identifier: MIT */
/*
 * One database for a long time: a crew (support/crew.h) writes, deletes, compacts,
 * takes snapshots and backups, for lives of milliseconds to seconds, most of which
 * a kill ends; now and then the database gets another number of partitions, and
 * that is killed, too, until it succeeds. Every life begins with a full comparison
 * against what is known, of the database and of the last backup, and so does the
 * end. The files take no more than what compaction may leave behind.
 *
 *   BITKV_SEED           of the choices, and how the threads begin
 *   BITKV_SOAK_MINUTES   30 with `make soak`
 *   BITKV_SOAK_SECONDS   5, if there are no minutes
 */
#include "api/compaction.h"
#include "support/crew.h"

#include <signal.h>

#define UNITS       6000u
#define PATIENCE_MS 120000u
#define DISK_MOST   (4ull << 30)

struct run {
    struct crew *crew;
    struct chance chance;
    uint64_t seed, lives, kills, longest_ms, repartitions, repartitions_killed, disk_most;
    uint32_t partitions;
};

static struct run run;
static char backup[PATH_SIZE];

static void expect_no_trouble(int end, bool good_end)
{
    if (atomic_load(&run.crew->trouble) == 0 && good_end)
        return;
    print_error("life %llu ended with %d; BITKV_SEED=%llu\n", (unsigned long long)run.lives, end,
                (unsigned long long)run.seed);
    fail();
}

static void draw_plan(struct crew_plan *plan)
{
    struct chance *c = &run.chance;
    *plan = (struct crew_plan){.path = path,
                               .backup = backup,
                               .seed = draw(c),
                               .sync_one_in = 1 + (unsigned)below(c, 2000),
                               .pause_one_in = 2 + (unsigned)below(c, 20),
                               .compacts = one_in(c, 3)};
    bitkv_options *o = &plan->options;
    bitkv_options_init(o);
    o->partitions = run.partitions;
    o->max_file_size = (256u << 10) << below(c, 6);
    o->io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o->backend = one_in(c, 2) ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS;
    o->sync_interval_ms = 1 + (uint32_t)below(c, 1000);
    o->max_open_segments = one_in(c, 2) ? 0 : 1 + (uint32_t)below(c, 8);
    o->checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 8u << 20) : 0;
    o->fragmentation_threshold = one_in(c, 2) ? 0.2 : 0.5;
    o->strict_recovery = true;
}

static void note_disk_use(void)
{
    uint64_t use = disk_use(path);
    run.disk_most = use > run.disk_most ? use : run.disk_most;
    assert_true(use < DISK_MOST);
}

static void live(uint64_t most_ms)
{
    struct chance *c = &run.chance;
    struct crew_plan plan;
    draw_plan(&plan);
    uint64_t ms = below(c, 16ull << below(c, 12)) % most_ms;
    run.longest_ms = ms > run.longest_ms ? ms : run.longest_ms;
    pid_t child = crew_start(run.crew, &plan);
    crew_wait_ready(run.crew, child);
    sleep_ms((unsigned)ms);
    bool kills = !one_in(c, 5);
    if (kills)
        (void)kill(child, SIGKILL);
    else
        atomic_store(&run.crew->stop, true);
    int end = crew_wait(child, PATIENCE_MS);
    expect_no_trouble(end, end == (kills ? 1000 + SIGKILL : 0));
    run.kills += kills;
    run.lives++;
    note_disk_use();
}

static _Noreturn void repartition_child(uint32_t partitions)
{
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    options.max_file_size = 1u << 20;
    int rc = bitkv_repartition(path, partitions, &options);
    if (rc != BITKV_OK)
        crew_violation(run.crew, rc, "bitkv_repartition: %s (%s)", bitkv_error_name(rc),
                       bitkv_error_context());
    _exit(0);
}

/* Open it, compare all of it, close it. */
static void compare(void)
{
    struct crew_plan plan;
    draw_plan(&plan);
    plan.options.partitions = 0;
    plan.checks_only = true;
    int end = crew_wait(crew_start(run.crew, &plan), PATIENCE_MS);
    expect_no_trouble(end, end == 0);
}

/* The new database is no longer the one that the backup is of. */
static void repartition(void)
{
    struct chance *c = &run.chance;
    char partial[PATH_SIZE];
    compare();
    remove_tree(backup);
    remove_tree(inside(partial, directory, "backup.partial"));
    atomic_store(&run.crew->backups, 0);
    atomic_store(&run.crew->backups_checked, 0);
    uint32_t partitions = 1 + (uint32_t)below(c, 5);
    for (;;) {
        (void)fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            repartition_child(partitions);
        bool kills = one_in(c, 2);
        if (kills) {
            sleep_ms((unsigned)below(c, 200));
            (void)kill(child, SIGKILL);
        }
        int end = crew_wait(child, PATIENCE_MS);
        expect_no_trouble(end, end == 0 || (kills && end == 1000 + SIGKILL));
        compare();
        if (end == 0)
            break;
        run.repartitions_killed++;
    }
    run.partitions = partitions;
    run.repartitions++;
}

static void report(uint64_t ms)
{
    struct crew *crew = run.crew;
    print_message("%llu lives of up to %.1f s; %llu backups compared; %llu compactions by hand, "
                  "%llu snapshots, %llu syncs; on disk %.1f MB at most; %llu runs of "
                  "repartitioning were killed\n",
                  (unsigned long long)run.lives, (double)run.longest_ms / 1000,
                  (unsigned long long)atomic_load(&crew->backups_compared),
                  (unsigned long long)atomic_load(&crew->compactions),
                  (unsigned long long)atomic_load(&crew->snapshots),
                  (unsigned long long)atomic_load(&crew->syncs), (double)run.disk_most / 1e6,
                  (unsigned long long)run.repartitions_killed);
    printf("torture: %llu operations acknowledged, %llu kills, %llu repartitions, in %.1f min\n",
           (unsigned long long)crew_acknowledged(crew), (unsigned long long)run.kills,
           (unsigned long long)run.repartitions, (double)ms / 60000);
}

static void a_long_life_loses_nothing(void **state)
{
    (void)state;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    run.seed = env_number("BITKV_SEED", (uint64_t)t.tv_sec);
    run.chance.state = run.seed;
    run.partitions = 3;
    run.crew = crew_create(UNITS);
    inside(backup, directory, "backup");
    print_message("BITKV_SEED=%llu\n", (unsigned long long)run.seed);
    uint64_t minutes = env_number("BITKV_SOAK_MINUTES", 0), begun = now_ms();
    uint64_t ms = minutes != 0 ? minutes * 60000 : env_number("BITKV_SOAK_SECONDS", 5) * 1000;
    while (now_ms() < begun + ms) {
        live(ms / 10 + 1);
        if (one_in(&run.chance, minutes != 0 ? 40 : 10))
            repartition();
    }
    compare();
    report(now_ms() - begun);
    crew_destroy(run.crew);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_long_life_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
