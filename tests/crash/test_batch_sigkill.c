/* SPDX-License-Identifier: MIT */
/*
 * Writers of batches, killed at any moment, over and over on one database. Each
 * thread writes its own keys, all of them in each batch, with one version: what
 * was acknowledged is there, the batch that was under way is there or is not, and
 * no key has another version than its siblings.
 *
 * BITKV_ROUNDS sets the number of kills for each way of writing.
 */
#include "api/scratch.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define THREADS 3u
#define KEYS    24u

static char path[PATH_SIZE];

static struct shared {
    _Atomic uint32_t begun[THREADS], done[THREADS];
} * shared;

static bitkv *open_db(bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 4;
    o.io_mode = mode;
    o.max_file_size = 256 << 10;
    o.sync_interval_ms = 10;
    o.strict_recovery = true;
    bitkv *db = NULL;
    ok(bitkv_open(&db, path, &o));
    return db;
}

struct writer {
    bitkv *db;
    uint32_t index;
};

/* In the child, which nobody waits for: anything that fails ends it with a code. */
static void *write_batches(void *user)
{
    const struct writer *w = user;
    bitkv_batch *batch;
    if (bitkv_batch_create(&batch) != BITKV_OK)
        _exit(3);
    for (uint32_t version = atomic_load(&shared->begun[w->index]) + 1;; version++) {
        uint32_t value[64] = {version};
        bitkv_batch_clear(batch);
        for (uint32_t i = 0; i < KEYS; i++) {
            uint32_t key = w->index * KEYS + i;
            if (bitkv_batch_put(batch, &key, sizeof key, value, 4 + (version * 7 + i) % 252) != 0)
                _exit(3);
        }
        atomic_store(&shared->begun[w->index], version);
        bitkv_durability how =
            version % 50 == 0 ? BITKV_DURABILITY_SYNC : (bitkv_durability)(1 + version % 2);
        if (bitkv_write(w->db, batch, how) != BITKV_OK)
            _exit(4);
        atomic_store(&shared->done[w->index], version);
    }
    return NULL;
}

static void live(bitkv_io_mode mode)
{
    struct writer writers[THREADS];
    pthread_t threads[THREADS];
    bitkv *db = open_db(mode);
    for (uint32_t i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.db = db, .index = i};
        if (pthread_create(&threads[i], NULL, write_batches, &writers[i]) != 0)
            _exit(5);
    }
    for (;;)
        (void)pause();
}

static void check(bitkv_io_mode mode)
{
    bitkv *db = open_db(mode);
    for (uint32_t t = 0; t < THREADS; t++) {
        uint32_t first = 0;
        for (uint32_t i = 0; i < KEYS; i++) {
            uint32_t key = t * KEYS + i, value[64] = {0};
            size_t size = 0;
            int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
            if (rc != BITKV_OK && rc != BITKV_NOT_FOUND)
                ok(rc);
            first = i == 0 ? value[0] : first;
            assert_int_equal(value[0], first);
        }
        assert_in_range(first, atomic_load(&shared->done[t]), atomic_load(&shared->begun[t]));
    }
    ok(bitkv_close(db));
}

static void run(bitkv_io_mode mode)
{
    const char *asked = getenv("BITKV_ROUNDS");
    unsigned rounds = asked != NULL ? (unsigned)strtoul(asked, NULL, 10) : 40;
    char directory[PATH_SIZE];
    make_scratch(directory);
    inside(path, directory, "db");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    for (unsigned round = 0; round < rounds; round++) {
        (void)fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            live(mode);
        struct timespec t = {.tv_nsec = 3000000 + (long)(round * 7919 % 80) * 1000000};
        (void)nanosleep(&t, NULL);
        (void)kill(child, SIGKILL);
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        check(mode);
    }
    print_message("%u kills; %u batches acknowledged\n", rounds, atomic_load(&shared->done[0]));
    (void)munmap(shared, sizeof *shared);
    remove_tree(directory);
}

static void batches_are_whole_after_sigkill_with_mappings(void **state)
{
    (void)state;
    run(BITKV_IO_MMAP);
}

static void batches_are_whole_after_sigkill_with_pwrite(void **state)
{
    (void)state;
    run(BITKV_IO_PWRITE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_whole_after_sigkill_with_mappings),
        cmocka_unit_test(batches_are_whole_after_sigkill_with_pwrite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
