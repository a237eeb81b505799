/* SPDX-License-Identifier: MIT */
#include "fault/loops.h"

#include "fault/faults.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Runs of a sample, of each scenario, mode and backend. */
#define SAMPLE_CALLS  70u
#define SAMPLE_MEMORY 20u
/* EINTR means "again", for ever if it comes for ever. */
#define INTERRUPTIONS 25u
/* And who lacks a descriptor waits for one, for seconds. */
#define SHORTAGES 150u
/* A run that takes longer hangs. */
#define RUN_SECONDS 300u

#define MEMORY FAULT_COUNT /* in the place of a kind */

struct run {
    int kind;
    uint32_t first, count;
    int error;
    bitkv_io_mode mode;
    bitkv_backend backend;
};

static char folder[LAB_PATH], base[LAB_PATH], work[LAB_PATH];
static char running[200]; /* how to repeat the run that is under way */
static uint64_t call_runs, memory_runs, fired_runs, failed_calls;
static uint64_t random_state;
static time_t began;

/* --- which errors ------------------------------------------------------------------ */

/* Of any call. Those that tell a fact about the files, as ENOENT, EEXIST and ELOOP do,
 * would be lies. */
static const int common[] = {EIO,    ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM,
                             EACCES, EROFS,  EPERM,  EINTR,  EAGAIN, EINVAL};
#define COMMON (sizeof common / sizeof common[0])
#define OWN    3u

/* Besides. */
static const int own[FAULT_COUNT][OWN] = {
    [FAULT_openat] = {ENXIO, EOVERFLOW, EBUSY},
    [FAULT_pwrite] = {EFBIG, EPIPE, ENXIO},
    [FAULT_fallocate] = {EOPNOTSUPP, EFBIG, ENODEV},
    [FAULT_ftruncate] = {EFBIG, ETXTBSY, EBUSY},
    [FAULT_flock] = {ENOLCK},
    [FAULT_renameat] = {EBUSY, EMLINK, EXDEV},
    [FAULT_renameat2] = {EBUSY, ENOSYS, EXDEV},
    [FAULT_linkat] = {EXDEV, EMLINK, EOPNOTSUPP},
    [FAULT_copy_file_range] = {EXDEV, ENOSYS, EOPNOTSUPP},
    [FAULT_unlinkat] = {EBUSY},
    [FAULT_rmdirat] = {EBUSY},
    [FAULT_mkdirat] = {EMLINK},
    [FAULT_mmap] = {ENODEV, EOVERFLOW, ETXTBSY},
    [FAULT_mincore] = {EFAULT, ENOSYS},
    [FAULT_pread_nowait] = {EOPNOTSUPP, ENOSYS},
    [FAULT_ring_read] = {ECANCELED, EBADF, ENXIO},
};

/* 0 behind the last. */
static int error_of(int kind, size_t i)
{
    if (kind == MEMORY)
        return i == 0 ? ENOMEM : 0;
    if (i < COMMON)
        return common[i];
    return i < COMMON + OWN ? own[kind][i - COMMON] : 0;
}

static const char *name_of(int kind)
{
    return kind == MEMORY ? "memory" : fault_name((enum fault_kind)kind);
}

/* --- one run -------------------------------------------------------------------------- */

static void on_alarm(int number)
{
    (void)number;
    static const char text[] = "a run hangs: ";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    (void)!write(STDERR_FILENO, running, strlen(running));
    (void)!write(STDERR_FILENO, "\n", 1);
    abort();
}

/* Over EINTR, however often it comes. Not a sync: a second one proves nothing. */
static bool is_made_again(int kind)
{
    return kind == FAULT_openat || kind == FAULT_pread || kind == FAULT_pwrite ||
           kind == FAULT_fallocate || kind == FAULT_flock || kind == FAULT_ftruncate ||
           kind == FAULT_pread_nowait || kind == FAULT_ring_read;
}

static struct world *begin_world(const struct loop_scenario *s, bitkv_io_mode mode,
                                 bitkv_backend backend)
{
    static struct world w;
    memset(&w, 0, sizeof w);
    lab_join(w.path, work, "db");
    lab_join(w.target, work, "backup");
    w.mode = mode;
    w.backend = backend;
    w.partitions = s->partitions;
    w.by_hand = s->by_hand;
    w.value_size = s->value_size;
    lab_remove(work);
    (void)mkdir(work, 0700);
    return &w;
}

/* What every run of the scenario begins with; its model, and its files. */
static struct world build(const struct loop_scenario *s, bitkv_io_mode mode, bitkv_backend backend)
{
    fault_disarm(); /* a test that failed may have left it so */
    struct world *w = begin_world(s, mode, backend);
    if (s->build != NULL)
        s->build(w);
    assert_int_equal(w->failures, 0);
    lab_remove(base);
    lab_copy(work, base);
    return *w;
}

static void arm(const struct run *r)
{
    if (r->kind == MEMORY)
        fault_arm_memory(r->first, r->count);
    else
        fault_arm((enum fault_kind)r->kind, r->first, r->count, r->error);
}

/* True if the fault came about. */
static bool run_one(const struct loop_scenario *s, const struct world *built, const struct run *r)
{
    (void)snprintf(running, sizeof running, "BITKV_FAULT_RUN='%s %s %u %u %d %d %d'", s->name,
                   name_of(r->kind), r->first, r->count, r->error, (int)r->mode, (int)r->backend);
    if (lab_flag("BITKV_TEST_VERBOSE"))
        (void)fprintf(stderr, "%s\n", running);
    (void)alarm(RUN_SECONDS * lab_slowness());
    unsigned descriptors = lab_descriptors();
    struct world w = *built;
    lab_remove(work);
    lab_copy(base, work);
    w.may_be_locked = r->kind == FAULT_flock;
    w.may_be_invalid = r->kind == FAULT_renameat2;
    w.memory_only = r->kind == MEMORY;
    w.no_sync_fails = r->kind == FAULT_openat && (r->error == EMFILE || r->error == ENFILE);
    fault_cold(s->queues);
    arm(r);
    s->run(&w);
    uint32_t fired = fault_fired();
    fault_disarm();
    fault_cold(false);
    if (w.failures > 0 && fired == 0)
        fail_msg("calls failed without a fault");
    if (w.failures > 0 && r->error == EINTR && is_made_again(r->kind))
        fail_msg("a call that was interrupted was not made again: %s", bitkv_error_context());
    failed_calls += w.failures;
    w.memory_only = w.may_be_locked = w.may_be_invalid = w.no_sync_fails = false;
    world_check(&w);
    if (lab_descriptors() != descriptors)
        fail_msg("descriptors leaked");
    *(r->kind == MEMORY ? &memory_runs : &call_runs) += 1;
    fired_runs += fired > 0;
    running[0] = '\0';
    return fired > 0;
}

/* --- loops ------------------------------------------------------------------------------- */

/* For ever, or what must do for it. */
static uint32_t burst_of(const struct run *r)
{
    if (r->kind == MEMORY)
        return UINT32_MAX;
    if (r->error == EINTR)
        return INTERRUPTIONS;
    return r->error == EMFILE || r->error == ENFILE ? SHORTAGES : UINT32_MAX;
}

/* Every call, every error. */
static void all_of(const struct loop_scenario *s, const struct world *built, struct run r)
{
    for (size_t e = 0; (r.error = error_of(r.kind, e)) != 0; e++) {
        for (unsigned ever = 0; ever < 2; ever++) {
            bool fired = true;
            r.count = ever == 0 ? 1 : burst_of(&r);
            for (r.first = 0; fired; r.first++)
                fired = run_one(s, built, &r);
        }
    }
}

/* So many calls of the kind there are without a fault. */
static uint32_t calls_of(const struct loop_scenario *s, const struct world *built, struct run r)
{
    r.first = UINT32_MAX;
    r.count = 1;
    r.error = EIO;
    (void)run_one(s, built, &r);
    return fault_calls();
}

static void some_of(const struct loop_scenario *s, const struct world *built, struct run r,
                    unsigned runs)
{
    uint32_t calls = calls_of(s, built, r);
    for (unsigned i = 0; i < runs && calls > 0; i++) {
        size_t errors = 0;
        while (error_of(r.kind, errors) != 0)
            errors++;
        r.error = error_of(r.kind, lab_random(&random_state) % errors);
        r.count = lab_random(&random_state) % 2 == 0 ? 1 : burst_of(&r);
        r.first = (uint32_t)(lab_random(&random_state) % calls);
        (void)run_one(s, built, &r);
    }
}

/* The one that BITKV_FAULT_RUN names, as a failure has printed it. */
static bool repeats(const struct loop_scenario *s, struct run *r)
{
    const char *text = getenv("BITKV_FAULT_RUN");
    char name[32], kind[32];
    int mode, backend;
    if (text == NULL)
        return false;
    if (sscanf(text, "%31s %31s %" SCNu32 " %" SCNu32 " %d %d %d", name, kind, &r->first, &r->count,
               &r->error, &mode, &backend) != 7 ||
        strcmp(name, s->name) != 0 || mode != (int)r->mode || backend != (int)r->backend)
        return false;
    for (r->kind = 0; r->kind < MEMORY && strcmp(name_of(r->kind), kind) != 0; r->kind++)
        ;
    return strcmp(name_of(r->kind), kind) == 0;
}

static void loop(const struct loop_scenario *s, const struct world *built, struct run r,
                 bool memory)
{
    bool every = lab_flag("BITKV_FAULT_EVERY");
    struct run one = r;
    if (getenv("BITKV_FAULT_RUN") != NULL) {
        if (repeats(s, &one) && (one.kind == MEMORY) == memory)
            (void)run_one(s, built, &one);
        return;
    }
    unsigned slowness = lab_slowness();
    for (r.kind = memory ? MEMORY : 0; r.kind < (memory ? MEMORY + 1 : MEMORY); r.kind++) {
        if (every)
            all_of(s, built, r);
        else
            some_of(s, built, r,
                    (memory ? SAMPLE_MEMORY : 1 + SAMPLE_CALLS / FAULT_COUNT) / slowness + 1);
    }
}

static void for_all_modes(const struct loop_scenario *s, bool memory)
{
    if (running[0] != '\0')
        fail_msg("a run that failed has left its database open");
    static const bitkv_backend backends[] = {BITKV_BACKEND_THREADS, BITKV_BACKEND_IO_URING};
    for (unsigned b = 0; b < (s->queues ? 2u : 1u); b++) {
        for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
            struct run r = {.mode = (bitkv_io_mode)mode, .backend = backends[b]};
            struct world built = build(s, r.mode, r.backend);
            loop(s, &built, r, memory);
        }
    }
}

void loops_calls(const struct loop_scenario *scenario)
{
    for_all_modes(scenario, false);
}

void loops_memory(const struct loop_scenario *scenario)
{
    for_all_modes(scenario, true);
}

void loops_pieces(const struct loop_scenario *s)
{
    static const uint32_t sizes[] = {1, 777, 4096};
    for (unsigned i = 0; i < 3; i++) {
        for (int mode = BITKV_IO_MMAP; mode <= BITKV_IO_PWRITE; mode++) {
            struct loop_scenario one = *s;
            if (sizes[i] == 1) /* a call for each byte */
                one.value_size = 64;
            struct world w = build(&one, (bitkv_io_mode)mode, BITKV_BACKEND_AUTO);
            fault_cold(s->queues);
            if (sizes[i] == 1)
                fault_short_transfers(1);
            else
                fault_random_transfers(sizes[i], lab_random(&random_state) | 1);
            s->run(&w);
            fault_disarm();
            fault_cold(false);
            assert_int_equal(w.failures, 0);
            world_check(&w);
        }
    }
}

/* --- beginning and end ---------------------------------------------------------------------- */

void loops_begin(void)
{
    struct sigaction action = {.sa_handler = on_alarm};
    assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
    random_state = lab_seed();
    began = time(NULL);
    lab_directory(folder, "loops");
    lab_join(base, folder, "base");
    lab_join(work, folder, "work");
    fault_install();
}

void loops_end(void)
{
    if (running[0] != '\0')
        print_error("to repeat it alone: %s\n", running);
    (void)alarm(0);
    fault_disarm();
    fault_uninstall();
    lab_remove(folder);
    printf("torture: %" PRIu64 " runs with failing calls, %" PRIu64 " with failing allocations, "
           "in %" PRIu64 " of them a fault came about and %" PRIu64 " operations failed; %ld s\n",
           call_runs, memory_runs, fired_runs, failed_calls, (long)(time(NULL) - began));
}
