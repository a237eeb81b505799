/* SPDX-License-Identifier: MIT */
/* What completion queues, their syncs and their reads could be made to do wrong:
 * found by reading the code with ill will. */
#include "api/queue.h"

#include "base/memory.h"
#include "keydir/keydir.h"

#include <sys/resource.h>

static uint64_t processor_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Nothing is to be done: nobody may be busy. */
static void expect_rest(void)
{
    uint64_t before = processor_ms();
    sleep_ms(600);
    assert_in_range(processor_ms() - before, 0, 200);
}

static bitkv_op durable(const char *key)
{
    bitkv_op op = op_put(key, "value");
    op.durability = BITKV_DURABILITY_SYNC;
    return op;
}

/* Who waits for a single durable write syncs it himself. The worker, who would
 * have come to his aid after a while, kept the time of that for ever, took it
 * for due, and never slept again. */
static void a_worker_rests_after_a_sync_that_another_made(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 0);
    for (unsigned i = 0; i < 3; i++) {
        bitkv_completion c;
        bitkv_op op = durable("key");
        uint64_t first = submit_all(cq, &op, 1);
        struct timespec t = {.tv_nsec = 300000}; /* the worker has looked, and is patient */
        (void)nanosleep(&t, NULL);
        reap_into(cq, &c, first, 1);
        assert_int_equal(c.status, BITKV_OK);
        expect_rest();
    }
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

/* The same with the interval's time, which was still to come when a sync failed. */
static void a_worker_rests_after_a_failed_sync(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.sync_interval_ms = 50;
    bitkv *db = open_with(&o);
    ok(bitkv_put_with(db, "a", 1, "b", 1, BITKV_DURABILITY_INTERVAL));
    sleep_ms(10); /* the worker knows */
    atomic_store(&seam.fail_syncs, EIO);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_put_with(db, "a", 1, "c", 1, BITKV_DURABILITY_SYNC));
    sleep_ms(100);
    expect_rest();
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
}

/* --- descriptors --------------------------------------------------------------------- */

static char large[40000];

/* A batch was one epoch section: what the cache of open segments closed during it
 * kept its descriptor until its end, and there were none for the next segment. */
static void a_batch_fills_more_segments_than_there_are_descriptors(void **state)
{
    (void)state;
    struct rlimit before, few;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 96;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        bitkv_cq *cq = queue_of(db, 0);
        enum { N = 200 };
        static uint32_t keys[N];
        static bitkv_op ops[N];
        static bitkv_completion done[N];
        for (uint32_t i = 0; i < N; i++) {
            keys[i] = i;
            ops[i] = (bitkv_op){.kind = BITKV_OP_PUT,
                                .key = &keys[i],
                                .key_size = sizeof keys[i],
                                .value = large,
                                .value_size = sizeof large};
        }
        uint64_t begun = now_ms();
        reap_into(cq, done, submit_all(cq, ops, N), N);
        for (uint32_t i = 0; i < N; i++)
            expect_code(done[i].status, BITKV_OK, "a put", __FILE__, __LINE__);
        assert_in_range(now_ms() - begun, 0, 20000);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static struct {
    struct bkv_dir *dir;
    _Atomic uint64_t limit; /* of open files; 0: none */
    _Atomic bool met;
} scarce;

static int scarce_openat(int at, const char *name, int flags, mode_t mode)
{
    uint64_t limit = atomic_load(&scarce.limit);
    if (limit != 0 && atomic_load(&scarce.dir->open_files) >= limit) {
        if (!atomic_exchange(&scarce.met, true))
            sleep_ms(200); /* until the other one has come to wait for us */
        errno = EMFILE;
        return -1;
    }
    return bkv_io_kernel.openat(at, name, flags, mode);
}

static void *submit_cold(void *user)
{
    bitkv *db = user;
    bitkv_cq *cq = queue_of(db, 0);
    uint32_t key = 0;
    bitkv_op op = {.kind = BITKV_OP_GET, .key = &key, .key_size = sizeof key};
    bitkv_completion c = one(cq, op); /* its segment has a descriptor to read by now */
    assert_int_equal(c.status, BITKV_OK);
    bitkv_free(c.value);
    sleep_ms(200); /* the worker has its spare segment by then, and takes no more */
    atomic_store(&scarce.limit, atomic_load(&scarce.dir->open_files));
    while (!atomic_load(&scarce.met))
        sleep_ms(1);
    key = 8; /* of another segment, which is open, too */
    forget_pages(db);
    c = one(cq, op);
    expect_code(c.status, BITKV_OK, c.error, __FILE__, __LINE__);
    bitkv_free(c.value);
    ok(bitkv_cq_destroy(cq));
    return NULL;
}

/* Who waited for a descriptor that readers of closed segments were to give back
 * held the lock that a cold read needed before it could leave. */
static void a_cold_read_does_not_keep_descriptors_from_a_reader(void **state)
{
    (void)state;
    seam_ops.openat = scarce_openat;
    bitkv *db = open_small(BITKV_IO_MMAP);
    for (uint32_t i = 0; i < 20; i++)
        ok(bitkv_put(db, &i, sizeof i, large, sizeof large));
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    scarce.dir = &db->store.dir;
    atomic_store(&seam.all_cold, true);
    char got[sizeof large];
    uint32_t key = 8;
    ok(bitkv_get_into(db, &key, sizeof key, got, sizeof got, NULL));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, submit_cold, db), 0);
    while (atomic_load(&scarce.limit) == 0)
        sleep_ms(1);
    key = 4; /* of a segment that is closed */
    ok(bitkv_get_into(db, &key, sizeof key, got, sizeof got, NULL));
    assert_int_equal(pthread_join(thread, NULL), 0);
    atomic_store(&scarce.limit, 0);
    ok(bitkv_close(db));
}

/* --- small things --------------------------------------------------------------------- */

static void a_full_queue_leaves_the_id_alone(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_AUTO);
    bitkv_cq *cq = queue_of(db, 1);
    bitkv_op op = op_put("key", "value");
    uint64_t id = submit_all(cq, &op, 1), other = 77;
    fails(BITKV_ERR_QUEUE_FULL, bitkv_cq_submit(cq, &op, 1, &other));
    assert_int_equal(other, 77);
    bitkv_completion c;
    reap_into(cq, &c, id, 1);
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

/* Among the deferred puts only the first with a key's 64 bits was looked at. */
static void deferred_keys_may_share_their_fingerprint(void **state)
{
    (void)state;
    struct bkv_keydir *kd;
    ok(bkv_keydir_create(&kd));
    for (uint64_t tag = 1; tag <= 3; tag++) {
        struct bkv_hash hash = {.lo = 77, .hi = tag};
        uint64_t dead;
        ok(bkv_keydir_defer_prepare(kd, &hash, &dead));
        assert_int_equal(bkv_keydir_defer(kd, &hash, 1000 + tag), 0);
    }
    for (uint64_t tag = 1; tag <= 3; tag++) {
        struct bkv_hash hash = {.lo = 77, .hi = tag};
        uint64_t location = 0;
        assert_true(bkv_keydir_find(kd, &hash, &location));
        assert_int_equal(location, 1000 + tag);
    }
    bkv_keydir_destroy(kd);
}

/* --- memory that is not there, now and then ------------------------------------------- */

static _Atomic uint64_t allocations;
static _Atomic bool scarce_memory;

static bool sometimes(size_t size, void *user)
{
    (void)size;
    (void)user;
    return !atomic_load(&scarce_memory) || mix(atomic_fetch_add(&allocations, 1)) % 5 != 0;
}

/* What an operation comes to without memory is its own failure: nothing is lost,
 * nothing is done by halves, and what others see stays right. */
static void operations_fail_one_by_one_without_memory(void **state)
{
    (void)state;
    enum { NAMES = 300, BATCH = 40 };
    static uint32_t known[NAMES]; /* version; 0: absent */
    static uint32_t keys[BATCH], expected[BATCH], before[BATCH];
    static char values[BATCH][3000];
    static bitkv_op ops[BATCH];
    static bitkv_completion done[BATCH];
    for_both_modes(mode)
    {
        memset(known, 0, sizeof known);
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 3;
        o.checkpoint_interval_bytes = 100000;
        o.ring_depth = 4;
        bkv_alloc_set_hook(sometimes, NULL);
        bitkv *db = open_with(&o);
        bitkv_cq *cq = queue_of(db, 0);
        uint64_t seed = 1;
        unsigned failures = 0;
        for (uint32_t round = 1; round < 300; round++) {
            atomic_store(&seam.all_cold, round % 2);
            bool used[NAMES] = {false};
            for (unsigned i = 0; i < BATCH; i++) {
                uint64_t r = mix(seed++);
                do /* each key once: what fails is known only afterwards */
                    keys[i] = (uint32_t)(mix(seed++) % NAMES);
                while (used[keys[i]]);
                used[keys[i]] = true;
                ops[i] = (bitkv_op){.kind = r % 5 < 2   ? BITKV_OP_GET
                                            : r % 5 < 4 ? BITKV_OP_PUT
                                                        : BITKV_OP_DEL,
                                    .flags = r >> 8 & 1 ? BITKV_OP_COPY : 0,
                                    .key = &keys[i],
                                    .key_size = sizeof keys[i]};
                before[i] = expected[i] = known[keys[i]];
                if (ops[i].kind == BITKV_OP_PUT) {
                    expected[i] = round * BATCH + i;
                    memcpy(values[i], &expected[i], sizeof expected[i]);
                    ops[i].value = values[i];
                    ops[i].value_size = 4 + (r >> 16) % 2990;
                } else if (ops[i].kind == BITKV_OP_DEL) {
                    expected[i] = 0;
                }
                if (r % 7 == 0)
                    ops[i].durability = BITKV_DURABILITY_SYNC;
            }
            atomic_store(&scarce_memory, true);
            reap_into(cq, done, submit_all(cq, ops, BATCH), BATCH);
            atomic_store(&scarce_memory, false);
            for (unsigned i = 0; i < BATCH; i++) {
                if (done[i].status == BITKV_ERR_NO_MEMORY) {
                    failures++;
                    continue;
                }
                int wanted =
                    before[i] == 0 && ops[i].kind != BITKV_OP_PUT ? BITKV_NOT_FOUND : BITKV_OK;
                expect_code(done[i].status, wanted, "an operation", __FILE__, __LINE__);
                known[keys[i]] = expected[i];
                if (ops[i].kind == BITKV_OP_GET && wanted == BITKV_OK) {
                    assert_memory_equal(done[i].value, &before[i], sizeof before[i]);
                    bitkv_free(done[i].value);
                }
            }
        }
        assert_true(failures > 100);
        for (unsigned again = 0; again < 2; again++) {
            uint64_t count = 0;
            for (uint32_t key = 0; key < NAMES; key++) {
                uint32_t *got = NULL;
                int rc = bitkv_get(db, &key, sizeof key, (void **)&got, NULL);
                expect_code(rc, known[key] != 0 ? BITKV_OK : BITKV_NOT_FOUND, "a get", __FILE__,
                            __LINE__);
                count += known[key] != 0;
                if (rc == BITKV_OK)
                    assert_int_equal(*got, known[key]);
                bitkv_free(got);
            }
            assert_int_equal(statistics_of(db).keys, count);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
            db = open_with(&o);
            cq = queue_of(db, 0);
        }
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        bkv_alloc_set_hook(NULL, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(a_worker_rests_after_a_sync_that_another_made),
        CQ_TEST(a_worker_rests_after_a_failed_sync),
        CQ_TEST(a_batch_fills_more_segments_than_there_are_descriptors),
        CQ_TEST(a_cold_read_does_not_keep_descriptors_from_a_reader),
        CQ_TEST(a_full_queue_leaves_the_id_alone),
        CQ_TEST(deferred_keys_may_share_their_fingerprint),
        CQ_TEST(operations_fail_one_by_one_without_memory),
    };
    return cmocka_run_group_tests_name("attacks_async", tests, NULL, NULL);
}
