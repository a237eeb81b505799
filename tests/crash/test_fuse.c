/* SPDX-License-Identifier: MIT */
/*
 * Faults that come through the kernel, and not through the seam of src/io: a crew
 * on a FUSE file system that fails at random (support-tools/faultfs.c), so that
 * the calls, the rings of io_uring, the pool's threads and the mappings (SIGBUS)
 * all meet them as they would on a failing disk.
 *
 * A life is of one of two kinds. In the one, calls are interrupted and transfers
 * cut short, very often: nobody may notice. In the other, reads, writes, syncs and
 * calls on names fail: calls of the library fail with a clear code, never by
 * saying "not found" or by returning what nobody wrote, and what was acknowledged
 * is there once the disk has recovered; through mappings, which the kernel writes
 * back without telling, only what was synced, and a prefix.
 *
 *   BITKV_SEED          of the choices, and how the threads begin
 *   BITKV_FUSE_SECONDS  4
 */
#include "api/scratch.h"
#include "support-tools/faultfs.h"
#include "support/crew.h"
#include "support/volume.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define LIVES_OF_DATABASE 30u
#define PATIENCE_MS       60000u

struct run {
    struct crew *crew;
    struct chance chance;
    struct faultfs *faults;
    struct volume below, above; /* a tmpfs, and where it is seen through the faults */
    char path[PATH_SIZE], backup[PATH_SIZE];
    int memory;
    pid_t server;
    uint64_t seed, lives, failing, mapped, backends[2];
};

static struct run run;

/* --- the file system ------------------------------------------------------------ */

static void start_server(void)
{
    run.memory = memfd_create("faultfs", 0); /* inherited */
    assert_true(run.memory >= 0);
    assert_int_equal(ftruncate(run.memory, sizeof *run.faults), 0);
    run.faults = mmap(NULL, sizeof *run.faults, PROT_READ | PROT_WRITE, MAP_SHARED, run.memory, 0);
    assert_true(run.faults != MAP_FAILED);
    atomic_store(&run.faults->seed, run.seed);
    volume_make(&run.below, "tmpfs", 0, "");
    volume_mount(&run.below, "size=1G");
    volume_make(&run.above, "tmpfs", 0, ""); /* a name to mount at */
    char number[16];
    (void)snprintf(number, sizeof number, "%d", run.memory);
    struct stat before, now;
    assert_int_equal(stat(run.above.mounted, &before), 0);
    run.server = fork();
    assert_true(run.server >= 0);
    if (run.server == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)execl(BITKV_FAULTFS, "faultfs", run.below.mounted, run.above.mounted, number, NULL);
        _exit(127);
    }
    for (unsigned i = 0; stat(run.above.mounted, &now) == 0 && now.st_dev == before.st_dev; i++) {
        if (i > 5000 || waitpid(run.server, NULL, WNOHANG) != 0)
            fail_msg("faultfs does not mount");
        sleep_ms(2);
    }
}

static void stop_server(void)
{
    volume_unmount(&run.above);
    (void)wait_child(run.server);
    volume_remove(&run.above);
    volume_unmount(&run.below);
    volume_remove(&run.below);
}

static void fail_one_in(enum faultfs_kind kind, uint32_t one_in, int a, int b, int c, int d)
{
    struct faultfs_rule *rule = &run.faults->rules[kind];
    atomic_store(&rule->errors[0], a);
    atomic_store(&rule->errors[1], b);
    atomic_store(&rule->errors[2], c);
    atomic_store(&rule->errors[3], d);
    atomic_store(&rule->one_in, one_in);
}

static void be_sound(void)
{
    for (int kind = 0; kind < FAULTFS_KINDS; kind++)
        atomic_store(&run.faults->rules[kind].one_in, 0);
    atomic_store(&run.faults->short_one_in, 0);
}

/* Nothing that a caller of the library should notice. */
static void be_restless(void)
{
    uint32_t one_in = 2 + (uint32_t)below(&run.chance, 6);
    fail_one_in(FAULTFS_READ, one_in, -EINTR, -EINTR, -EINTR, -EINTR);
    fail_one_in(FAULTFS_WRITE, one_in, -EINTR, -EINTR, -EINTR, -EINTR);
    fail_one_in(FAULTFS_OPEN, one_in, -EINTR, -EINTR, -EINTR, -EINTR);
    fail_one_in(FAULTFS_ALLOCATE, one_in, -EINTR, -EINTR, -EINTR, -EINTR);
    atomic_store(&run.faults->short_one_in, one_in);
}

/* Some kinds of calls fail, and all transfers may be cut short. */
static void be_failing(void)
{
    struct chance *c = &run.chance;
    for (unsigned i = 1 + (unsigned)below(c, 4); i-- > 0;) {
        enum faultfs_kind kind = (enum faultfs_kind)below(c, FAULTFS_KINDS);
        uint32_t one_in = 1u << below(c, 7);
        switch (kind) {
        case FAULTFS_WRITE:
        case FAULTFS_ALLOCATE:
            fail_one_in(kind, one_in, -EIO, -ENOSPC, -EDQUOT, -EINTR);
            break;
        case FAULTFS_OPEN:
            fail_one_in(kind, one_in, -EIO, -EMFILE, -ENFILE, -EINTR);
            break;
        case FAULTFS_READ:
            fail_one_in(kind, one_in, -EIO, -EIO, -EIO, -EINTR);
            break;
        case FAULTFS_RENAME:
        case FAULTFS_LINK:
            fail_one_in(kind, one_in, -EIO, -ENOSPC, -EIO, -EDQUOT);
            break;
        default:
            fail_one_in(kind, one_in, -EIO, -EIO, -EIO, -EIO);
        }
    }
    atomic_store(&run.faults->short_one_in, 1 + (uint32_t)below(c, 30));
}

/* --- lives ------------------------------------------------------------------------- */

static void expect_no_trouble(int end, bool good_end)
{
    if (atomic_load(&run.crew->trouble) == 0 && good_end)
        return;
    print_error("life %llu, %s, ended with %d; BITKV_SEED=%llu\n", (unsigned long long)run.lives,
                atomic_load(&run.faults->direct) ? "without a page cache" : "with mappings", end,
                (unsigned long long)run.seed);
    fail();
}

#define TOLERATED                                                                                  \
    (1u << -BITKV_ERR_IO | 1u << -BITKV_ERR_SYNC_FAILED | 1u << -BITKV_ERR_NO_SPACE |              \
     1u << -BITKV_ERR_TOO_MANY_FILES)

static void draw_plan(struct crew_plan *plan, bool failing)
{
    struct chance *c = &run.chance;
    *plan = (struct crew_plan){.path = run.path,
                               .backup = run.backup,
                               .seed = draw(c),
                               .tolerated = failing ? TOLERATED : 0,
                               .errors_most = 1 + (unsigned)below(c, 100),
                               .sync_one_in = 1 + (unsigned)below(c, 300),
                               .pause_one_in = 4,
                               .compacts = !one_in(c, 3)};
    bitkv_options *o = &plan->options;
    bitkv_options_init(o);
    o->max_file_size = (64u << 10) << below(c, 4);
    o->io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o->backend = one_in(c, 2) ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS;
    o->io_threads = 4;
    o->ring_depth = 64;
    o->sync_interval_ms = 1 + (uint32_t)below(c, 100);
    o->max_open_segments = (uint32_t)below(c, 5);
    o->checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o->strict_recovery = true;
    run.mapped += o->io_mode == BITKV_IO_MMAP;
    run.backends[o->backend == BITKV_BACKEND_THREADS]++;
}

static void live(uint32_t partitions)
{
    struct chance *c = &run.chance;
    struct crew_plan plan;
    bool failing = one_in(c, 2);
    draw_plan(&plan, failing);
    plan.options.partitions = partitions;
    bool mapped = plan.options.io_mode == BITKV_IO_MMAP;
    if (failing && mapped) /* a page that could not be written back is dropped, and read again */
        plan.tolerated |= 1u << -BITKV_ERR_CORRUPT;
    atomic_store(&run.faults->direct, !mapped); /* without a page cache nothing is mapped */
    pid_t child = crew_start(run.crew, &plan);
    bool opening = one_in(c, 6);
    if (!opening)
        crew_wait_ready(run.crew, child);
    atomic_store(&run.crew->hostile, failing);
    if (failing)
        be_failing();
    else
        be_restless();
    sleep_ms((unsigned)below(c, 1u << (3 + below(c, 5))));
    bool kills = one_in(c, 3);
    if (kills)
        (void)kill(child, SIGKILL);
    atomic_store(&run.crew->stop, true);
    int end = crew_wait(child, PATIENCE_MS);
    be_sound();
    expect_no_trouble(end, end == 0 || (failing && end == 2) || (kills && end == 1000 + SIGKILL));
    if (failing && mapped)
        atomic_store(&run.crew->cut_life, crew_model(run.crew)->life);
    atomic_store(&run.crew->hostile, false);
    run.failing += failing;
    run.lives++;
}

static void compare_and_remove(void)
{
    struct crew_plan plan;
    char partial[PATH_SIZE];
    draw_plan(&plan, false);
    plan.checks_only = true;
    atomic_store(&run.faults->direct, plan.options.io_mode == BITKV_IO_PWRITE);
    int end = crew_wait(crew_start(run.crew, &plan), PATIENCE_MS);
    expect_no_trouble(end, end == 0);
    remove_tree(run.path);
    remove_tree(run.backup);
    remove_tree(inside(partial, run.above.mounted, "backup.partial"));
    crew_forget(run.crew);
}

static void report(void)
{
    struct faultfs *f = run.faults;
    uint64_t failed = 0;
    for (int kind = 0; kind < FAULTFS_KINDS; kind++)
        failed += atomic_load(&f->failed[kind]);
    print_message("%llu lives, %llu on a failing disk; %llu with mappings; %llu on io_uring, %llu "
                  "on threads; %llu calls of the library failed\n",
                  (unsigned long long)run.lives, (unsigned long long)run.failing,
                  (unsigned long long)run.mapped, (unsigned long long)run.backends[0],
                  (unsigned long long)run.backends[1],
                  (unsigned long long)atomic_load(&run.crew->refused));
    printf("torture: %llu calls of the kernel failed, %llu were interrupted, %llu cut short, of "
           "%llu; %llu operations acknowledged\n",
           (unsigned long long)failed, (unsigned long long)atomic_load(&f->interrupted),
           (unsigned long long)atomic_load(&f->shortened),
           (unsigned long long)atomic_load(&f->calls),
           (unsigned long long)crew_acknowledged(run.crew));
}

static void faults_of_the_kernel_lose_nothing(void **state)
{
    (void)state;
    run.seed = env_number("BITKV_SEED", (uint64_t)time(NULL));
    run.chance.state = run.seed;
    print_message("BITKV_SEED=%llu\n", (unsigned long long)run.seed);
    run.crew = crew_create(CREW_FEW);
    start_server();
    inside(run.path, run.above.mounted, "db");
    inside(run.backup, run.above.mounted, "backup");
    uint64_t until = now_ms() + env_number("BITKV_FUSE_SECONDS", 4) * 1000;
    while (now_ms() < until) {
        uint32_t partitions = 1 + (uint32_t)below(&run.chance, 3);
        for (unsigned i = 0; i < LIVES_OF_DATABASE && now_ms() < until; i++) {
            live(partitions);
            partitions = 0;
        }
        compare_and_remove();
    }
    report();
    stop_server();
    crew_destroy(run.crew);
}

int main(void)
{
    const char *why = volume_begin();
    if (why == NULL && BITKV_FAULTFS[0] == '\0')
        why = "built without libfuse3 (scripts/setup.sh test)";
    if (why == NULL && access("/dev/fuse", R_OK | W_OK) != 0)
        why = "no /dev/fuse";
    if (why != NULL) {
        printf("torture: skipped: %s\n", why);
        return VOLUME_SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_of_the_kernel_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
