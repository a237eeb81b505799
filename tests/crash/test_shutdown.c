/* SPDX-License-Identifier: MIT */
/*
 * File systems that are shut down under a crew at work, as by a power cut: ext4
 * and xfs on loop devices, over and over on one image. Nothing that was
 * acknowledged as durable is lost; of the rest each partition keeps a prefix, and
 * a batch is whole or absent. What calls return in between are clear codes.
 *
 * The kernel writes pages back when it likes, which it hardly does within a
 * life of a fraction of a second. So the parent has random pages of random files
 * written, and files synced, and pages dropped from memory that are clean, so
 * that reads meet the dead file system: through mappings (SIGBUS), calls and both
 * backends of the queues. Then the journal is flushed or not, and the process
 * closes the database, or is killed. The next life, on the image mounted again,
 * begins with the oracle (support/crew.h).
 *
 *   BITKV_SEED              of the choices, and how the threads begin
 *   BITKV_SHUTDOWNS         how many; else as many as fit into
 *   BITKV_SHUTDOWN_SECONDS  8
 */
#include "api/scratch.h"
#include "support/crew.h"
#include "support/volume.h"

#include <signal.h>

#define LIVES_OF_IMAGE 60u
#define IMAGE_BYTES    (400ull << 20)
#define PATIENCE_MS    60000u
#define NEVER          (1u << 30)

/* ext4 turns read-only when its journal is gone. What a page was that could not be
 * written, and was dropped, the disk does not say any more. */
#define TOLERATED                                                                                  \
    (1u << -BITKV_ERR_IO | 1u << -BITKV_ERR_SYNC_FAILED | 1u << -BITKV_ERR_PERMISSION |            \
     1u << -BITKV_ERR_CORRUPT)

struct run {
    struct crew *crew;
    struct volume volume;
    struct chance chance;
    char path[PATH_SIZE], backup[PATH_SIZE];
    unsigned images, lives; /* lives: of this image */
    uint64_t seed, shutdowns, of_type[2], in_openings, modes[2], rested;
    const char *types[2];
    unsigned type_count;
};

static void expect_no_trouble(const struct run *run, int end, bool good_end)
{
    if (atomic_load(&run->crew->trouble) == 0 && good_end)
        return;
    print_error("life %llu, on %s, ended with %d; BITKV_SEED=%llu\n",
                (unsigned long long)run->shutdowns, run->volume.type, end,
                (unsigned long long)run->seed);
    fail();
}

static void draw_plan(struct run *run, struct crew_plan *plan)
{
    struct chance *c = &run->chance;
    *plan = (struct crew_plan){.path = run->path,
                               .backup = run->backup,
                               .seed = draw(c),
                               .tolerated = TOLERATED,
                               .errors_most = 1 + (unsigned)below(c, 30),
                               .sync_one_in = one_in(c, 2) ? 1 + (unsigned)below(c, 300) : NEVER,
                               .pause_one_in = 4 + (unsigned)below(c, 8),
                               .compacts = !one_in(c, 3)};
    bitkv_options *o = &plan->options;
    bitkv_options_init(o);
    o->max_file_size = (64u << 10) << below(c, 5);
    o->io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o->backend = one_in(c, 2) ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS;
    o->io_threads = 4;
    o->ring_depth = 64;
    o->sync_interval_ms = 1 + (uint32_t)below(c, one_in(c, 2) ? 100 : 2000);
    o->max_open_segments = (uint32_t)below(c, 5);
    o->checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o->auto_compact = !one_in(c, 4);
    o->fragmentation_threshold = one_in(c, 2) ? 0.1 : 0.5;
    o->strict_recovery = true;
    run->modes[o->io_mode == BITKV_IO_PWRITE]++;
}

/* --- what the kernel does when it likes ---------------------------------------- */

static void stir_file(struct chance *c, const char *name)
{
    int fd = open(name, O_RDWR | O_CLOEXEC);
    struct stat status;
    if (fd < 0)
        return; /* compaction was quicker */
    if (fstat(fd, &status) == 0 && status.st_size > 0) {
        off_t size = status.st_size, from = (off_t)below(c, (uint64_t)size) & ~4095l;
        off_t length = (off_t)(1 + below(c, 16)) * 4096;
        switch (below(c, 16)) {
        case 0:
            (void)fdatasync(fd);
            break;
        case 1:
        case 2:
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            break;
        default:
            (void)sync_file_range(fd, from, length,
                                  SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        }
    }
    (void)close(fd);
}

/* The file that is written to, mostly, or one of the others. */
static void stir_directory(struct chance *c, const char *of)
{
    DIR *dir = opendir(of);
    char name[PATH_SIZE] = "", each[PATH_SIZE];
    struct stat status;
    struct timespec newest = {0};
    unsigned seen = 0;
    bool any = one_in(c, 4);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (stat(inside(each, of, e->d_name), &status) != 0 || !S_ISREG(status.st_mode))
            continue;
        const struct timespec *t = &status.st_mtim;
        bool newer = t->tv_sec > newest.tv_sec ||
                     (t->tv_sec == newest.tv_sec && t->tv_nsec > newest.tv_nsec);
        if (any ? one_in(c, ++seen) : newer) {
            memcpy(name, each, sizeof name);
            newest = *t;
        }
    }
    if (dir != NULL)
        (void)closedir(dir);
    if (name[0] != '\0')
        stir_file(c, name);
}

static void stir(struct run *run, uint64_t until)
{
    struct chance *c = &run->chance;
    while (now_ms() < until) {
        char partition[32], folder[PATH_SIZE];
        (void)snprintf(partition, sizeof partition, "partition_%u", (unsigned)below(c, 3));
        stir_directory(c, inside(folder, run->path, partition));
        (void)usleep((useconds_t)below(c, 3000));
    }
}

/* --- a life, and its end ------------------------------------------------------------ */

/* Nobody writes any more, for longer than the interval takes. */
static void rest(struct run *run, const struct crew_plan *plan)
{
    atomic_store(&run->crew->pause, true);
    sleep_ms(plan->options.sync_interval_ms + (UNDER_ASAN || UNDER_TSAN ? 2000 : 500));
    atomic_store(&run->crew->rested, atomic_load(&run->crew->ready));
    run->rested++;
}

static void live(struct run *run, const struct crew_plan *plan)
{
    struct chance *c = &run->chance;
    struct crew *crew = run->crew;
    static const enum volume_cut cuts[] = {VOLUME_CUT_SYNCED, VOLUME_CUT_LOGGED, VOLUME_CUT_LOGGED,
                                           VOLUME_CUT_BARE, VOLUME_CUT_BARE};
    pid_t child = crew_start(crew, plan);
    if (!one_in(c, 8)) {
        crew_wait_ready(crew, child);
        stir(run, now_ms() + below(c, 1u << (2 + below(c, 6))));
        if (one_in(c, 25))
            rest(run, plan);
    } else {
        (void)usleep((useconds_t)below(c, 8000));
    }
    run->in_openings += !atomic_load(&crew->ready);
    atomic_store(&crew->hostile, true);
    atomic_store(&crew->cut_at, crew_now(crew));
    volume_shut_down(&run->volume, cuts[below(c, sizeof cuts / sizeof cuts[0])]);
    atomic_store(&crew->pause, false);
    bool killed = one_in(c, 4);
    (void)usleep((useconds_t)below(c, 20000));
    if (killed)
        (void)kill(child, SIGKILL);
    atomic_store(&crew->stop, true);
    int end = crew_wait(child, PATIENCE_MS);
    expect_no_trouble(run, end, end == 0 || end == 2 || (killed && end == 1000 + SIGKILL));
    atomic_store(&crew->cut_life, crew_model(crew)->life);
    atomic_store(&crew->hostile, false);
}

static void mount_volume(struct run *run)
{
    static const char *const ext4[] = {"", "", "data=writeback", "nodelalloc", "commit=1"};
    bool is_ext4 = strcmp(run->volume.type, "ext4") == 0;
    volume_mount(&run->volume,
                 is_ext4 ? ext4[below(&run->chance, sizeof ext4 / sizeof ext4[0])] : "");
}

static void one_shutdown(struct run *run)
{
    struct crew_plan plan;
    draw_plan(run, &plan);
    if (run->lives++ == 0)
        plan.options.partitions = 1 + (uint32_t)below(&run->chance, 3);
    mount_volume(run);
    live(run, &plan);
    volume_unmount(&run->volume);
    run->shutdowns++;
    run->of_type[strcmp(run->volume.type, "xfs") == 0]++;
}

static void begin_image(struct run *run)
{
    const char *type = run->types[run->images++ % run->type_count];
    const char *blocks = strcmp(type, "ext4") != 0 || one_in(&run->chance, 3) ? "" : "-b 4096";
    volume_make(&run->volume, type, IMAGE_BYTES, blocks);
    run->lives = 0;
    inside(run->path, run->volume.mounted, "db");
    inside(run->backup, run->volume.mounted, "backup");
    crew_forget(run->crew);
}

static void end_image(struct run *run)
{
    struct crew_plan plan;
    draw_plan(run, &plan);
    plan.checks_only = true;
    mount_volume(run);
    int end = crew_wait(crew_start(run->crew, &plan), PATIENCE_MS);
    expect_no_trouble(run, end, end == 0);
    volume_unmount(&run->volume);
    volume_remove(&run->volume);
}

static void report(const struct run *run, uint64_t ms)
{
    const struct crew *crew = run->crew;
    print_message("%llu with mappings, %llu with pwrite; %llu while opening, %llu at rest; %llu "
                  "compactions, %llu snapshots, %llu syncs had ended; %llu calls failed; %llu keys "
                  "fell back, %llu tails were cut\n",
                  (unsigned long long)run->modes[0], (unsigned long long)run->modes[1],
                  (unsigned long long)run->in_openings, (unsigned long long)run->rested,
                  (unsigned long long)atomic_load(&crew->compactions),
                  (unsigned long long)atomic_load(&crew->snapshots),
                  (unsigned long long)atomic_load(&crew->syncs),
                  (unsigned long long)atomic_load(&crew->refused),
                  (unsigned long long)atomic_load(&crew->cut),
                  (unsigned long long)atomic_load(&crew->torn));
    printf(
        "torture: %llu shutdowns of ext4, %llu of xfs, %llu operations acknowledged, in %.1f s\n",
        (unsigned long long)run->of_type[0], (unsigned long long)run->of_type[1],
        (unsigned long long)crew_acknowledged(crew), (double)ms / 1000);
}

static struct run run;

static void durable_writes_survive_a_file_system_that_is_shut_down(void **state)
{
    (void)state;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    run.seed = env_number("BITKV_SEED", (uint64_t)t.tv_sec);
    run.chance.state = run.seed;
    print_message("BITKV_SEED=%llu\n", (unsigned long long)run.seed);
    run.crew = crew_create(CREW_FEW);
    uint64_t most = env_number("BITKV_SHUTDOWNS", UINT64_MAX), begun = now_ms();
    uint64_t ms = env_number("BITKV_SHUTDOWN_SECONDS", most == UINT64_MAX ? 8 : 1u << 30) * 1000;
    while (run.shutdowns < most && now_ms() < begun + ms) {
        uint64_t until = now_ms() + ms / run.type_count; /* each type has its turn */
        begin_image(&run);
        do
            one_shutdown(&run);
        while (run.lives < LIVES_OF_IMAGE && run.shutdowns < most && now_ms() < until);
        end_image(&run);
    }
    report(&run, now_ms() - begun);
    crew_destroy(run.crew);
}

int main(void)
{
    const char *why = volume_begin();
    static const char *const types[] = {"ext4", "xfs"};
    for (unsigned i = 0; i < 2 && why == NULL; i++) {
        const char *lack = volume_lacks(types[i]);
        if (lack != NULL)
            printf("without %s: %s\n", types[i], lack);
        else
            run.types[run.type_count++] = types[i];
    }
    if (why == NULL && run.type_count == 0)
        why = "neither ext4 nor xfs";
    if (why != NULL) {
        printf("torture: skipped: %s\n", why);
        return VOLUME_SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durable_writes_survive_a_file_system_that_is_shut_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
