/* SPDX-License-Identifier: MIT */
/*
 * A process that writes, deletes and compacts, killed at any instant: nothing
 * that was acknowledged is lost, and no deleted key comes back, however often
 * the files have been rewritten.
 *
 * Each key has one writer. Its version is published as begun before, and as
 * acknowledged after each call, in memory that outlives the process; every
 * third version is a deletion. Compaction runs in the background, with an
 * eager threshold, and by hand in a thread of its own.
 *
 *   BITKV_SEED, BITKV_ROUNDS as in the model test; default about 14 seconds
 */
#include "api/scratch.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define WRITERS        2u
#define KEYS           400u
#define VALUE_MAX      (100u << 10)
#define DEFAULT_BUDGET 14000u /* ms */

struct shared {
    struct {
        _Atomic uint32_t begun, acknowledged;
    } keys[KEYS];
    _Atomic uint64_t runs; /* of compaction by hand */
    _Atomic int trouble;
};

static struct shared *shared;
static char path[PATH_SIZE];
static uint64_t seed;

static bool is_delete(uint32_t version)
{
    return version % 3 == 0;
}

static size_t value_of(uint32_t key, uint32_t version, unsigned char *value)
{
    uint64_t h = mix((uint64_t)key << 32 | version);
    size_t size = h % 300 == 0 ? 70000 + h % 20000 : 8 + h % 1200;
    fill(value, size, (uint64_t)key << 32 | version);
    return size;
}

static _Noreturn void give_up(const char *what, int rc)
{
    print_error("%s: %s (%s)\n", what, bitkv_error_name(rc), bitkv_error_context());
    atomic_store(&shared->trouble, rc);
    _exit(1);
}

struct job {
    bitkv *db;
    uint32_t index;
    uint64_t seed;
};

static void *write_on(void *argument)
{
    const struct job *job = argument;
    struct chance c = {.state = job->seed};
    unsigned char *value = malloc(VALUE_MAX);
    for (;;) {
        /* Some keys are left alone for long: those are rewritten by compaction only. */
        uint32_t range = one_in(&c, 20) ? KEYS : KEYS / 4;
        uint32_t key = (uint32_t)below(&c, range / WRITERS) * WRITERS + job->index;
        uint32_t version = atomic_load(&shared->keys[key].begun) + 1;
        atomic_store(&shared->keys[key].begun, version);
        int rc = is_delete(version)
                     ? bitkv_del(job->db, &key, sizeof key)
                     : bitkv_put(job->db, &key, sizeof key, value, value_of(key, version, value));
        if (rc != BITKV_OK && rc != BITKV_NOT_FOUND)
            give_up("a write failed", rc);
        atomic_store(&shared->keys[key].acknowledged, version);
        if (job->seed % 4 != 0) /* mostly so that compaction gets somewhere */
            (void)usleep(100);
    }
    return NULL;
}

static void *compact_on(void *db)
{
    for (;;) {
        int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
        if (rc != BITKV_OK)
            give_up("a compaction failed", rc);
        atomic_fetch_add(&shared->runs, 1);
    }
    return NULL;
}

static void start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument) != 0)
        _exit(1);
}

static _Noreturn void be_killed(const bitkv_options *o, uint64_t number)
{
    static struct job jobs[WRITERS];
    bitkv *db;
    int rc = bitkv_open(&db, path, o);
    if (rc != BITKV_OK)
        give_up("open", rc);
    for (uint32_t i = 0; i < WRITERS; i++) {
        jobs[i] = (struct job){.db = db, .index = i, .seed = number * WRITERS + i};
        start(write_on, &jobs[i]);
    }
    if (number % 3 != 0)
        start(compact_on, db);
    for (;;)
        (void)pause();
}

/* What is there must be of a version from the acknowledged one to the begun one. */
static void check_key(bitkv *db, uint32_t key, const char *when)
{
    static unsigned char wanted[VALUE_MAX];
    uint32_t low = atomic_load(&shared->keys[key].acknowledged);
    uint32_t high = atomic_load(&shared->keys[key].begun);
    bitkv_view view;
    int rc = bitkv_get_view(db, &key, sizeof key, &view);
    bool good = false;
    for (uint32_t v = low; v <= high && !good; v++) {
        if (is_delete(v)) /* 0, too: never written */
            good = rc == BITKV_NOT_FOUND;
        else
            good = rc == BITKV_OK && view.size == value_of(key, v, wanted) &&
                   memcmp(view.data, wanted, view.size) == 0;
    }
    if (!good) {
        print_error("%s: key %u, versions %u to %u: %s (%s); BITKV_SEED=%llu\n", when, key, low,
                    high, bitkv_error_name(rc), rc < 0 ? bitkv_error_context() : "",
                    (unsigned long long)seed);
        fail();
    }
    bitkv_view_release(&view);
}

static void check_all(bitkv *db, const char *when)
{
    for (uint32_t key = 0; key < KEYS; key++)
        check_key(db, key, when);
}

static bitkv_options draw_options(struct chance *c, bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 2;
    o.io_mode = mode;
    o.max_file_size = (64u << 10) << below(c, 3);
    o.fragmentation_threshold = 0.1;
    o.checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o.max_open_segments = (uint32_t)below(c, 4);
    o.strict_recovery = true;
    return o;
}

static void live_and_die(struct chance *c, bitkv_io_mode mode, uint64_t number)
{
    bitkv_options o = draw_options(c, mode);
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        be_killed(&o, number);
    (void)usleep((useconds_t)(1000 + below(c, 1u << (12 + below(c, 7)))));
    (void)kill(child, SIGKILL);
    int end = wait_child(child);
    assert_int_equal(atomic_load(&shared->trouble), 0);
    assert_int_equal(end, 1000 + SIGKILL);
}

/* Compacted, too, and opened once more: what is wrong with the files shows. */
static void recover_and_check(struct chance *c, bitkv_io_mode mode)
{
    bitkv_options o = draw_options(c, mode);
    o.auto_compact = one_in(c, 2);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    assert_int_equal(s.recovery.damaged_regions, 0);
    check_all(db, "recovered");
    if (one_in(c, 3)) {
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        check_all(db, "compacted");
        ok(bitkv_close(db));
        ok(bitkv_open(&db, path, &o));
        check_all(db, "reopened");
    }
    ok(bitkv_close(db));
}

static void run(bitkv_io_mode mode, uint64_t rounds, uint64_t budget_ms)
{
    char directory[PATH_SIZE];
    make_scratch(directory);
    inside(path, directory, "db");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    struct chance c = {.state = seed + (uint64_t)mode};
    uint64_t until = now_ms() + budget_ms, done = 0, writes = 0;
    for (; done < rounds && now_ms() < until; done++) {
        live_and_die(&c, mode, done);
        recover_and_check(&c, mode);
    }
    for (uint32_t key = 0; key < KEYS; key++)
        writes += atomic_load(&shared->keys[key].acknowledged);
    print_message("%s: %llu kills, %llu writes, %llu compactions by hand\n",
                  mode == BITKV_IO_MMAP ? "mmap" : "pwrite", (unsigned long long)done,
                  (unsigned long long)writes, (unsigned long long)atomic_load(&shared->runs));
    (void)munmap(shared, sizeof *shared);
    remove_tree(directory);
}

static void run_mode(bitkv_io_mode mode)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    seed = env_number("BITKV_SEED", (uint64_t)t.tv_sec);
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    uint64_t rounds = env_number("BITKV_ROUNDS", 0);
    run(mode, rounds != 0 ? rounds : UINT64_MAX, rounds != 0 ? UINT64_MAX / 2 : DEFAULT_BUDGET / 2);
}

static void a_kill_during_compaction_loses_nothing_with_mappings(void **state)
{
    (void)state;
    run_mode(BITKV_IO_MMAP);
}

static void a_kill_during_compaction_loses_nothing_with_pwrite(void **state)
{
    (void)state;
    run_mode(BITKV_IO_PWRITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kill_during_compaction_loses_nothing_with_mappings),
        cmocka_unit_test(a_kill_during_compaction_loses_nothing_with_pwrite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
