/* SPDX-License-Identifier: MIT */
/*
 * A process with several writers, killed at any instant: what was
 * acknowledged is there when the database is opened again, and no value is a
 * mixture of two.
 *
 * Each thread owns keys and writes them in a fixed order with ascending
 * versions, every seventh operation being a deletion. Before an operation it
 * publishes the number as begun, after it as acknowledged, in memory that
 * outlives the process. So for each key the state after the acknowledged
 * operations is known, but for the one operation that had begun.
 *
 *   BITKV_SEED, BITKV_ROUNDS as in the model test; default about 20 seconds
 */
#include "api/scratch.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define THREADS        4u
#define KEYS_OF_THREAD 300u
#define VALUE_MAX      (200u << 10)
#define DEFAULT_BUDGET 18000u /* ms */

struct progress {
    _Alignas(64) _Atomic uint64_t begun;
    _Atomic uint64_t acknowledged;
};

struct shared {
    struct progress threads[THREADS];
    _Atomic int trouble;
};

static struct shared *shared;
static char path[PATH_SIZE];
static uint64_t seed;

struct key {
    uint32_t thread, id;
};

static struct key key_of(unsigned thread, uint64_t number)
{
    return (struct key){.thread = thread, .id = (uint32_t)(number * 7919 % KEYS_OF_THREAD)};
}

static bool deletes(uint64_t number)
{
    return number % 7 == 6;
}

static size_t size_of(unsigned thread, uint64_t number)
{
    uint64_t h = mix(number * THREADS + thread + seed);
    if (h % 500 == 0)
        return h % VALUE_MAX; /* sometimes more than a segment */
    return h % 5 == 0 ? h % 5000 : h % 150;
}

/* Operation numbers count from 1: 0 means that nothing happened yet. */
static void *write_on(void *argument)
{
    unsigned thread = (unsigned)(uintptr_t)((void **)argument)[0];
    bitkv *db = ((void **)argument)[1];
    struct progress *progress = &shared->threads[thread];
    char *value = malloc(VALUE_MAX);
    /* The next process begins with what this one may have done, or not. */
    for (uint64_t n = atomic_load(&progress->acknowledged) + 1;; n++) {
        struct key key = key_of(thread, n);
        atomic_store(&progress->begun, n);
        int rc;
        if (deletes(n)) {
            rc = bitkv_del(db, &key, sizeof key);
            if (rc == BITKV_NOT_FOUND)
                rc = BITKV_OK;
        } else {
            size_t size = size_of(thread, n);
            fill(value, size, n * THREADS + thread);
            bitkv_durability d = n % 97 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_DEFAULT;
            rc = bitkv_put_with(db, &key, sizeof key, value, size, d);
        }
        if (rc != BITKV_OK) {
            print_error("a write failed: %s (%s)\n", bitkv_error_name(rc), bitkv_error_context());
            atomic_store(&shared->trouble, rc);
            _exit(1);
        }
        atomic_store(&progress->acknowledged, n);
    }
    return NULL;
}

static _Noreturn void be_killed(const bitkv_options *options)
{
    bitkv *db;
    int rc = bitkv_open(&db, path, options);
    if (rc != BITKV_OK) {
        print_error("open: %s (%s)\n", bitkv_error_name(rc), bitkv_error_context());
        atomic_store(&shared->trouble, rc);
        _exit(1);
    }
    static void *arguments[THREADS][2];
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_t thread;
        arguments[i][0] = (void *)(uintptr_t)i;
        arguments[i][1] = db;
        if (pthread_create(&thread, NULL, write_on, arguments[i]) != 0)
            _exit(1);
    }
    for (;;)
        (void)pause();
}

/* What operation `number` leaves behind. */
static bool state_is(unsigned thread, uint64_t number, int rc, const char *value, size_t size)
{
    static char expected[VALUE_MAX];
    if (number == 0 || deletes(number))
        return rc == BITKV_NOT_FOUND;
    if (rc != BITKV_OK || size != size_of(thread, number))
        return false;
    fill(expected, size, number * THREADS + thread);
    return memcmp(expected, value, size) == 0;
}

static void check_thread(bitkv *db, unsigned thread)
{
    uint64_t acknowledged = atomic_load(&shared->threads[thread].acknowledged);
    uint64_t begun = atomic_load(&shared->threads[thread].begun);
    static uint64_t last[KEYS_OF_THREAD];
    memset(last, 0, sizeof last);
    uint64_t from = acknowledged > KEYS_OF_THREAD ? acknowledged - KEYS_OF_THREAD : 0;
    for (uint64_t n = from + 1; n <= acknowledged; n++)
        last[key_of(thread, n).id] = n;
    for (uint32_t id = 0; id < KEYS_OF_THREAD; id++) {
        struct key key = {.thread = thread, .id = id};
        bitkv_view view;
        int rc = bitkv_get_view(db, &key, sizeof key, &view);
        bool good = state_is(thread, last[id], rc, view.data, view.size);
        if (!good && begun == acknowledged + 1 && key_of(thread, begun).id == id)
            good = state_is(thread, begun, rc, view.data, view.size);
        if (!good) {
            print_error("thread %u, key %u: %s (%s), %zu bytes; acknowledged: write %llu; up to "
                        "%llu; BITKV_SEED=%llu\n",
                        thread, id, bitkv_error_name(rc), rc < 0 ? bitkv_error_context() : "",
                        view.size, (unsigned long long)last[id], (unsigned long long)acknowledged,
                        (unsigned long long)seed);
            fail();
        }
        bitkv_view_release(&view);
    }
}

static uint64_t acknowledged_by_all(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < THREADS; i++)
        sum += atomic_load(&shared->threads[i].acknowledged);
    return sum;
}

struct figures {
    uint64_t operations, ms, records, ns;
};

static bitkv_options draw_options(struct chance *c, bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.max_file_size = (64u << 10) << below(c, 6);
    o.io_mode = mode;
    o.sync_interval_ms = 1 + (uint32_t)below(c, 300);
    o.max_open_segments = (uint32_t)below(c, 5);
    o.checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o.strict_recovery = one_in(c, 2);
    return o;
}

static void live_and_die(struct chance *c, bitkv_io_mode mode, struct figures *figures)
{
    bitkv_options o = draw_options(c, mode);
    uint64_t before = acknowledged_by_all();
    (void)fflush(NULL);
    uint64_t begun = now_ms();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        be_killed(&o);
    (void)usleep((useconds_t)(1000 + below(c, 1u << (10 + below(c, 9)))));
    (void)kill(child, SIGKILL);
    int end = wait_child(child);
    assert_int_equal(atomic_load(&shared->trouble), 0);
    assert_int_equal(end, 1000 + SIGKILL);
    figures->ms += now_ms() - begun;
    figures->operations += acknowledged_by_all() - before;
}

static void recover_and_check(struct chance *c, bitkv_io_mode mode, struct figures *figures)
{
    bitkv_options o = draw_options(c, mode);
    bitkv *db;
    ok(bitkv_open(&db, path, &o));
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    assert_int_equal(s.recovery.damaged_regions, 0);
    assert_int_equal(s.recovery.rejected_checkpoints, 0);
    assert_int_equal(s.recovery.rejected_hints, 0);
    figures->records += s.recovery.log_records + s.recovery.hint_records;
    figures->ns += s.recovery.duration_ns;
    for (unsigned i = 0; i < THREADS; i++)
        check_thread(db, i);
    ok(bitkv_close(db));
}

static void run(bitkv_io_mode mode, uint64_t rounds, uint64_t budget_ms)
{
    char directory[PATH_SIZE];
    make_scratch(directory);
    inside(path, directory, "db");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    struct figures figures = {0};
    struct chance c = {.state = seed + (uint64_t)mode};
    uint64_t until = now_ms() + budget_ms;
    uint64_t done = 0;
    for (; done < rounds && now_ms() < until; done++) {
        if (done % 12 == 11) { /* a database that has grown: a new one is as good */
            remove_tree(path);
            memset(shared, 0, sizeof *shared);
        }
        live_and_die(&c, mode, &figures);
        recover_and_check(&c, mode, &figures);
    }
    print_message("%s: %llu kills; %llu operations/s acknowledged; %llu records/s replayed\n",
                  mode == BITKV_IO_MMAP ? "mmap" : "pwrite", (unsigned long long)done,
                  (unsigned long long)(figures.operations * 1000 / (figures.ms + 1)),
                  (unsigned long long)((double)figures.records * 1e9 / (double)(figures.ns + 1)));
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

static void acknowledged_writes_survive_sigkill_with_mappings(void **state)
{
    (void)state;
    run_mode(BITKV_IO_MMAP);
}

static void acknowledged_writes_survive_sigkill_with_pwrite(void **state)
{
    (void)state;
    run_mode(BITKV_IO_PWRITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_writes_survive_sigkill_with_mappings),
        cmocka_unit_test(acknowledged_writes_survive_sigkill_with_pwrite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
