/* SPDX-License-Identifier: MIT */
/*
 * What is of one moment over all partitions shows one moment: snapshots, by key and
 * by walk, and backups, beside writers, compaction and a growing KeyDir.
 *
 * A writer numbers its writes; write n goes to its key n % SLOTS, and says how far
 * the other writers had come (acknowledged) when it began. So a moment has of each
 * writer a prefix of its writes; the prefix has all that was acknowledged before the
 * moment, nothing that began later, and with a write all that this knew of. A
 * batch writer writes the same number to all of its keys, which lie in all
 * partitions, or deletes all of them.
 *
 *   BITKV_MS=n  milliseconds for each test (default 1000)
 */
#include "api/scratch.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define WRITERS    3u
#define SLOTS      16u
#define BATCH_KEYS 12u
#define PARTITIONS 3u

struct value {
    uint64_t number;
    uint64_t known[WRITERS]; /* writes that were acknowledged before this one */
    unsigned char rest[200];
};

struct writer {
    _Alignas(64) _Atomic uint64_t begun;
    _Atomic uint64_t acknowledged;
};

/* What was seen of one moment: 0 where nothing is. */
struct moment {
    uint64_t acknowledged[WRITERS + 1]; /* before it; the last is the batches' */
    uint64_t begun[WRITERS + 1];        /* after it */
    struct value values[WRITERS][SLOTS];
    uint64_t batch[BATCH_KEYS];
};

static char directory[PATH_SIZE];
static char path[PATH_SIZE];
static char backup_path[PATH_SIZE];
static bitkv *db;
static struct writer writers[WRITERS + 1];
static _Atomic bool stop;
static _Atomic uint64_t failures;

static uint64_t key_of(uint64_t writer, uint64_t slot)
{
    return writer << 32 | slot;
}

static void expect_ok(int rc, const char *what)
{
    if (rc == BITKV_OK)
        return;
    atomic_fetch_add(&failures, 1);
    (void)fprintf(stderr, "%s gave %s (%s)\n", what, bitkv_error_name(rc), bitkv_error_context());
}

/* --- writers ---------------------------------------------------------------------- */

static void *write_numbers(void *argument)
{
    uint64_t me = (uint64_t)(uintptr_t)argument;
    struct value value = {0};
    for (uint64_t n = 1; !atomic_load(&stop); n++) {
        uint64_t key = key_of(me, n % SLOTS);
        value.number = n;
        for (unsigned i = 0; i < WRITERS; i++)
            value.known[i] = atomic_load(&writers[i].acknowledged);
        atomic_store(&writers[me].begun, n);
        expect_ok(bitkv_put_with(db, &key, sizeof key, &value, sizeof value - n % 190,
                                 BITKV_DURABILITY_NONE),
                  "put");
        atomic_store(&writers[me].acknowledged, n);
    }
    return NULL;
}

static bool deletes(uint64_t number)
{
    return number % 5 == 4;
}

static void *write_batches(void *argument)
{
    bitkv_batch *batch = NULL;
    (void)argument;
    expect_ok(bitkv_batch_create(&batch), "batch_create");
    for (uint64_t n = 1; !atomic_load(&stop) && batch != NULL; n++) {
        bitkv_batch_clear(batch);
        for (uint64_t i = 0; i < BATCH_KEYS; i++) {
            uint64_t key = key_of(WRITERS, i);
            expect_ok(deletes(n) ? bitkv_batch_del(batch, &key, sizeof key)
                                 : bitkv_batch_put(batch, &key, sizeof key, &n, sizeof n),
                      "batch");
        }
        atomic_store(&writers[WRITERS].begun, n);
        expect_ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE), "write");
        atomic_store(&writers[WRITERS].acknowledged, n);
    }
    bitkv_batch_destroy(batch);
    return NULL;
}

/* New keys for ever, and everything compacted now and then. */
static void *grow_and_compact(void *argument)
{
    (void)argument;
    for (uint64_t n = 0; !atomic_load(&stop); n++) {
        uint64_t key = key_of(100, n);
        expect_ok(bitkv_put_with(db, &key, sizeof key, &n, sizeof n, BITKV_DURABILITY_NONE),
                  "put of a filler");
        if (n % 3000 == 2999)
            expect_ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL), "compact");
    }
    return NULL;
}

/* --- moments ---------------------------------------------------------------------- */

static void before_moment(struct moment *m)
{
    memset(m, 0, sizeof *m);
    for (unsigned i = 0; i <= WRITERS; i++)
        m->acknowledged[i] = atomic_load(&writers[i].acknowledged);
}

static void after_moment(struct moment *m)
{
    for (unsigned i = 0; i <= WRITERS; i++)
        m->begun[i] = atomic_load(&writers[i].begun);
}

static void note(struct moment *m, uint64_t key, const void *bytes, size_t size)
{
    uint64_t writer = key >> 32;
    uint64_t slot = key & UINT32_MAX;
    if (writer < WRITERS)
        memcpy(&m->values[writer][slot], bytes, size);
    else if (writer == WRITERS)
        memcpy(&m->batch[slot], bytes, size);
}

static int note_record(void *user, const bitkv_record *record)
{
    uint64_t key;
    memcpy(&key, record->key, sizeof key);
    note(user, key, record->value, record->value_size);
    return 0;
}

static void check_prefix(const struct moment *m, unsigned writer)
{
    uint64_t last = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        last = m->values[writer][i].number > last ? m->values[writer][i].number : last;
    if (last < m->acknowledged[writer] || last > m->begun[writer])
        fail_msg("writer %u: %" PRIu64 " writes, not %" PRIu64 " to %" PRIu64, writer, last,
                 m->acknowledged[writer], m->begun[writer]);
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        uint64_t wanted = last - (last - slot) % SLOTS; /* the last that went there */
        if (last < slot || (slot == 0 && last < SLOTS))
            wanted = 0;
        if (m->values[writer][slot].number != wanted)
            fail_msg("writer %u, slot %" PRIu64 ": write %" PRIu64 ", not %" PRIu64 " of %" PRIu64,
                     writer, slot, m->values[writer][slot].number, wanted, last);
    }
}

/* Whatever a write knew of, is there with it. */
static void check_knowledge(const struct moment *m)
{
    for (unsigned writer = 0; writer < WRITERS; writer++) {
        for (unsigned slot = 0; slot < SLOTS; slot++) {
            const struct value *v = &m->values[writer][slot];
            for (unsigned other = 0; other < WRITERS; other++) {
                uint64_t n = v->known[other];
                if (m->values[other][n % SLOTS].number < n)
                    fail_msg("write %" PRIu64 " of writer %u is there, but not write %" PRIu64
                             " of writer %u, which came before",
                             v->number, writer, n, other);
            }
        }
    }
}

static void check_batch(const struct moment *m)
{
    uint64_t number = m->batch[0];
    for (unsigned i = 1; i < BATCH_KEYS; i++) {
        if (m->batch[i] != number)
            fail_msg("a part of a batch: key %u has %" PRIu64 ", not %" PRIu64, i, m->batch[i],
                     number);
    }
    for (uint64_t n = m->acknowledged[WRITERS]; n <= m->begun[WRITERS]; n++) {
        if (number == (n == 0 || deletes(n) ? 0 : n))
            return;
    }
    fail_msg("batch %" PRIu64 ", not %" PRIu64 " to %" PRIu64, number, m->acknowledged[WRITERS],
             m->begun[WRITERS]);
}

static void check_moment(const struct moment *m)
{
    for (unsigned i = 0; i < WRITERS; i++)
        check_prefix(m, i);
    check_knowledge(m);
    check_batch(m);
}

static void read_by_key(bitkv_snapshot *snapshot, struct moment *m)
{
    for (uint64_t writer = 0; writer <= WRITERS; writer++) {
        for (uint64_t slot = 0; slot < (writer < WRITERS ? SLOTS : BATCH_KEYS); slot++) {
            uint64_t key = key_of(writer, slot);
            struct value value;
            size_t size = 0;
            int rc =
                bitkv_snapshot_get_into(snapshot, &key, sizeof key, &value, sizeof value, &size);
            if (rc == BITKV_OK)
                note(m, key, &value, size);
            else
                fails(BITKV_NOT_FOUND, rc);
        }
    }
}

static void forget_values(struct moment *m)
{
    memset(m->values, 0, sizeof m->values);
    memset(m->batch, 0, sizeof m->batch);
}

/* --- tests ------------------------------------------------------------------------ */

static int setup(void **state)
{
    (void)state;
    make_scratch(directory);
    inside(path, directory, "db");
    inside(backup_path, directory, "backup");
    atomic_store(&stop, false);
    atomic_store(&failures, 0);
    for (unsigned i = 0; i <= WRITERS; i++) {
        atomic_store(&writers[i].begun, 0);
        atomic_store(&writers[i].acknowledged, 0);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_tree(directory);
    return 0;
}

static unsigned snapshot_once(void)
{
    static struct moment m;
    bitkv_snapshot *snapshot;
    before_moment(&m);
    ok(bitkv_snapshot_create(&snapshot, db));
    after_moment(&m);
    read_by_key(snapshot, &m);
    check_moment(&m);
    forget_values(&m);
    ok(bitkv_snapshot_scan(snapshot, BITKV_SCAN_ALL, note_record, &m));
    check_moment(&m);
    sleep_ms(2); /* while everything goes on, it stays as it is */
    forget_values(&m);
    read_by_key(snapshot, &m);
    check_moment(&m);
    ok(bitkv_snapshot_destroy(snapshot));
    return 1;
}

static unsigned backup_once(void)
{
    static struct moment m;
    bitkv *copy;
    bitkv_options o;
    bitkv_options_init(&o);
    o.read_only = o.strict_recovery = true;
    before_moment(&m);
    ok(bitkv_backup(db, backup_path, NULL));
    after_moment(&m);
    ok(bitkv_open(&copy, backup_path, &o));
    ok(bitkv_scan(copy, BITKV_SCAN_ALL, note_record, &m));
    ok(bitkv_close(copy));
    check_moment(&m);
    return 1;
}

static void while_all_write(unsigned (*look)(void), const char *what)
{
    enum { THREADS = WRITERS + 2 };
    pthread_t threads[THREADS];
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = PARTITIONS;
    o.max_file_size = 256 << 10;
    o.checkpoint_interval_bytes = 1 << 20;
    ok(bitkv_open(&db, path, &o));
    for (uintptr_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_numbers, (void *)i), 0);
    assert_int_equal(pthread_create(&threads[WRITERS], NULL, write_batches, NULL), 0);
    assert_int_equal(pthread_create(&threads[WRITERS + 1], NULL, grow_and_compact, NULL), 0);
    unsigned looks = 0;
    uint64_t until = now_ms() + env_number("BITKV_MS", 1000);
    while (now_ms() < until && atomic_load(&failures) == 0)
        looks += look();
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&failures), 0);
    assert_true(looks > 0);
    print_message("%u %s beside %" PRIu64 " batches\n", looks, what,
                  atomic_load(&writers[WRITERS].acknowledged));
    ok(bitkv_close(db));
}

static void a_snapshot_shows_one_moment_and_no_part_of_a_batch(void **state)
{
    (void)state;
    while_all_write(snapshot_once, "snapshots");
}

static void a_backup_shows_one_moment_and_no_part_of_a_batch(void **state)
{
    (void)state;
    while_all_write(backup_once, "backups");
}

/* The checks themselves: moments that cannot have been. */
static void what_is_of_two_moments_is_noticed(void **state)
{
    (void)state;
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = PARTITIONS;
    ok(bitkv_open(&db, path, &o));
    pthread_t thread;
    unsigned torn = 0;
    assert_int_equal(pthread_create(&thread, NULL, write_batches, NULL), 0);
    for (uint64_t until = now_ms() + 30000; torn == 0 && now_ms() < until;) {
        uint64_t seen[BATCH_KEYS] = {0};
        for (uint64_t i = 0; i < BATCH_KEYS; i++) { /* gets, each of its own moment */
            uint64_t key = key_of(WRITERS, i);
            int rc = bitkv_get_into(db, &key, sizeof key, &seen[i], sizeof seen[i], NULL);
            if (rc != BITKV_NOT_FOUND)
                ok(rc);
            torn += seen[i] != seen[0];
        }
    }
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    ok(bitkv_close(db));
    assert_true(torn > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_snapshot_shows_one_moment_and_no_part_of_a_batch),
        TEST(a_backup_shows_one_moment_and_no_part_of_a_batch),
        TEST(what_is_of_two_moments_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
