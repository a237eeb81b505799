/* SPDX-License-Identifier: MIT */
/*
 * Threads and completion queues do everything to a few keys at once, beside
 * compaction, checkpoints, snapshots, backups, a growing KeyDir and reads that are
 * cold; every call is recorded, and a checker for each key decides whether they could
 * have been made one by one (linearize.h).
 *
 * It goes in rounds: the threads run until one has filled its record, all end, the
 * checkers go on with what was recorded. A snapshot, or a backup, counts as a read
 * of every key between its beginning and its end, however late it is looked at; a
 * database that was closed and opened as one that goes on.
 *
 *   BITKV_SEED=n  of what the threads do (default: drawn); not of how they meet
 *   BITKV_MS=n    milliseconds, over all combinations (default 12000)
 */
#include "concurrent/clients.h"

#include "db/db.h"
#include "io/io.h"

#include <inttypes.h>
#include <pthread.h>

#define THREADS   3u
#define QUEUES    2u
#define UPKEEP    (THREADS + QUEUES) /* the client that snapshots and backs up */
#define ROUND_OPS 6000u
/* Submitted and not yet reaped, by a queue. */
#define PENDING 6u
#define FILLERS 4000u

static char directory[PATH_SIZE];
static char path[PATH_SIZE];
static char backup_path[PATH_SIZE];
static bitkv *db;
static struct client clients[CLIENTS];
static struct lin_checker *checkers[KEYS];
static _Atomic bool stop;
static uint64_t seed;
static uint64_t calls_checked;
static uint64_t fillers_made;
static uint64_t backups_made;

/* --- cold reads: what the kernel says of pages is sometimes not believed ------------- */

static struct bkv_io_ops ops;
static _Atomic uint32_t asked;

static int seldom_in_memory(void *base, size_t size, unsigned char *in_memory)
{
    int result = bkv_io_kernel.mincore(base, size, in_memory);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (atomic_fetch_add(&asked, 1) % 2 == 0)
        memset(in_memory, 0, (size + page - 1) / page);
    return result;
}

static ssize_t seldom_at_once(int fd, void *data, size_t size, off_t offset)
{
    if (atomic_fetch_add(&asked, 1) % 2 == 0)
        return bkv_io_kernel.pread_nowait(fd, data, size, offset);
    errno = EAGAIN;
    return -1;
}

/* No power is cut here, and a disk that is busy would leave nothing to be seen. */
static int no_sync(int fd)
{
    (void)fd;
    return 0;
}

/* --- threads that call ---------------------------------------------------------------- */

static void *run_calls(void *argument)
{
    struct client *c = argument;
    while (!atomic_load(&stop) && !client_is_full(c))
        client_step(c);
    client_flush(c);
    atomic_store(&stop, true);
    return NULL;
}

struct submitted {
    size_t record; /* in client.ops */
    uint64_t key;
    bool used;
    unsigned char value[VALUE_MAX];
};

static struct submitted *free_place(struct submitted *places)
{
    for (unsigned i = 0; i < PENDING; i++) {
        if (!places[i].used)
            return &places[i];
    }
    return NULL;
}

static void prepare(struct client *c, struct submitted *s, bitkv_op *op)
{
    static const char *const labels[] = {"", "cq get", "cq put", "cq del", "cq exists"};
    static const bitkv_op_kind kinds[] = {BITKV_OP_GET, BITKV_OP_GET, BITKV_OP_GET,   BITKV_OP_PUT,
                                          BITKV_OP_PUT, BITKV_OP_DEL, BITKV_OP_EXISTS};
    *op = (bitkv_op){.kind = kinds[below(&c->chance, sizeof kinds / sizeof kinds[0])]};
    s->used = true;
    s->key = below(&c->chance, REGISTERS);
    s->record = c->count;
    struct lin_op *record = client_record(c, (uint32_t)s->key, labels[op->kind]);
    op->key = &s->key;
    op->key_size = sizeof s->key;
    op->user_data = s;
    op->flags = one_in(&c->chance, 3) ? BITKV_OP_VIEW : 0;
    op->durability = one_in(&c->chance, 20) ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE;
    if (op->kind == BITKV_OP_PUT) {
        record->effect = LIN_WRITE;
        record->new_value = client_new_value(c);
        op->value = s->value;
        op->value_size = client_encode(s->value, record->new_value);
    }
}

static void note_completion(struct client *c, const bitkv_completion *completion, uint64_t now)
{
    struct submitted *s = completion->user_data;
    struct lin_op *op = &c->ops[s->record];
    s->used = false;
    op->returned = now;
    int rc = completion->status;
    if (completion->kind == BITKV_OP_GET) {
        bitkv_view view = completion->view;
        bool viewed = view.data != NULL;
        client_note_read(c, op, rc, viewed ? view.data : completion->value,
                         viewed ? view.size : completion->value_size);
        bitkv_view_release(&view);
        bitkv_free(completion->value);
        return;
    }
    if (rc < 0 || (rc != BITKV_OK && completion->kind == BITKV_OP_PUT))
        client_trouble(c, op->label, rc);
    if (completion->kind == BITKV_OP_PUT)
        return;
    op->guard = rc == BITKV_OK ? LIN_PRESENT : LIN_ABSENT;
    if (completion->kind == BITKV_OP_DEL && rc == BITKV_OK)
        op->effect = LIN_DELETE;
}

static void reap(struct client *c, bitkv_cq *cq, int timeout_ms)
{
    bitkv_completion done[PENDING];
    int n = bitkv_cq_wait(cq, done, PENDING, timeout_ms);
    uint64_t now = client_stamp();
    if (n < 0)
        client_trouble(c, "cq_wait", n);
    for (int i = 0; i < n; i++)
        note_completion(c, &done[i], now);
}

static void submit_some(struct client *c, bitkv_cq *cq, struct submitted *places)
{
    bitkv_op batch[PENDING];
    unsigned count = 0;
    size_t first = c->count;
    unsigned wanted = 1 + (unsigned)below(&c->chance, PENDING);
    struct submitted *place;
    while (count < wanted && (place = free_place(places)) != NULL)
        prepare(c, place, &batch[count++]);
    uint64_t called = client_stamp();
    for (size_t i = first; i < c->count; i++)
        c->ops[i].called = called;
    if (count == 0)
        return;
    int rc = bitkv_cq_submit(cq, batch, count, NULL);
    if (rc != (int)count)
        client_trouble(c, "cq_submit", rc);
    if (one_in(&c->chance, 4)) /* what is in memory, it has to ask for again */
        atomic_fetch_add(&db->residency_doubts, 1);
}

static void *run_queue(void *argument)
{
    struct client *c = argument;
    struct submitted *places = calloc(PENDING, sizeof *places);
    bitkv_cq *cq = NULL;
    int rc = bitkv_cq_create(&cq, db, NULL);
    if (rc != BITKV_OK || places == NULL)
        client_trouble(c, "cq_create", rc);
    while (rc == BITKV_OK && !atomic_load(&stop) && !client_is_full(c)) {
        submit_some(c, cq, places);
        reap(c, cq, one_in(&c->chance, 3) ? 0 : -1);
    }
    while (rc == BITKV_OK && bitkv_cq_pending(cq) > 0)
        reap(c, cq, -1);
    (void)bitkv_cq_destroy(cq);
    free(places);
    atomic_store(&stop, true);
    return NULL;
}

/* --- beside them ---------------------------------------------------------------------- */

/* Fills segments, makes the KeyDir grow, and leaves work for compaction. */
static void make_fillers(struct client *c)
{
    static const char value[1500];
    for (unsigned i = 0; i < 150 && !atomic_load(&stop); i++) {
        uint64_t key = 1000 + fillers_made++;
        uint64_t old = key - FILLERS;
        int rc = bitkv_put_with(c->db, &key, sizeof key, value, below(&c->chance, sizeof value),
                                BITKV_DURABILITY_NONE);
        if (rc == BITKV_OK && key >= 1000 + FILLERS)
            rc = bitkv_del(c->db, &old, sizeof old);
        if (rc != BITKV_OK)
            client_trouble(c, "filler", rc);
    }
}

static void take_snapshot(struct client *c)
{
    bitkv_snapshot *snapshot;
    unsigned char bytes[VALUE_MAX];
    uint64_t called = client_stamp();
    int rc = bitkv_snapshot_create(&snapshot, c->db);
    uint64_t returned = client_stamp();
    if (rc != BITKV_OK)
        client_trouble(c, "snapshot_create", rc);
    if (rc != BITKV_OK)
        return;
    make_fillers(c); /* what it has seen stays so */
    if (one_in(&c->chance, 2))
        (void)bitkv_compact(c->db, BITKV_ALL_PARTITIONS, NULL, NULL);
    for (uint64_t key = 0; key < KEYS; key++) {
        size_t size = 0;
        struct lin_op *op = client_record(c, (uint32_t)key, "snapshot");
        op->called = called;
        op->returned = returned;
        rc = bitkv_snapshot_get_into(snapshot, &key, sizeof key, bytes, sizeof bytes, &size);
        client_note_read(c, op, rc, bytes, size);
    }
    (void)bitkv_snapshot_destroy(snapshot);
}

static void read_backup(struct client *c, uint64_t called, uint64_t returned)
{
    bitkv *copy;
    bitkv_options o;
    bitkv_options_init(&o);
    o.read_only = true;
    o.strict_recovery = true;
    unsigned char bytes[VALUE_MAX];
    int rc = bitkv_open(&copy, backup_path, &o);
    if (rc != BITKV_OK) {
        client_trouble(c, "opening the backup", rc);
        return;
    }
    for (uint64_t key = 0; key < KEYS; key++) {
        size_t size = 0;
        struct lin_op *op = client_record(c, (uint32_t)key, "backup");
        op->called = called;
        op->returned = returned;
        rc = bitkv_get_into(copy, &key, sizeof key, bytes, sizeof bytes, &size);
        client_note_read(c, op, rc, bytes, size);
    }
    (void)bitkv_close(copy);
}

static void make_backup(struct client *c)
{
    uint64_t called = client_stamp();
    int rc = bitkv_backup(c->db, backup_path, NULL);
    uint64_t returned = client_stamp();
    if (rc != BITKV_OK)
        client_trouble(c, "backup", rc);
    else
        read_backup(c, called, returned);
    backups_made++;
}

static void *run_upkeep(void *argument)
{
    struct client *c = argument;
    while (!atomic_load(&stop) && !client_is_full(c)) {
        make_fillers(c);
        switch (below(&c->chance, 12)) {
        case 0:
            make_backup(c);
            break;
        case 1:
        case 2:
        case 3: {
            int rc = bitkv_compact(c->db, BITKV_ALL_PARTITIONS, NULL, NULL);
            if (rc != BITKV_OK)
                client_trouble(c, "compact", rc);
            break;
        }
        case 4:
        case 5:
        case 6:
            take_snapshot(c);
            break;
        default:
            break;
        }
    }
    return NULL;
}

/* --- rounds --------------------------------------------------------------------------- */

static bool check_key(uint32_t key)
{
    static struct lin_op history[CLIENTS * ROUND_OPS];
    size_t count = 0;
    for (unsigned i = 0; i < CLIENTS; i++) {
        for (size_t j = 0; j < clients[i].count; j++) {
            if (clients[i].ops[j].key == key)
                history[count++] = clients[i].ops[j];
        }
    }
    calls_checked += count;
    return lin_check(checkers[key], history, count);
}

/* The first key whose calls have no order; KEYS: all have. */
static uint32_t check_round(void)
{
    uint32_t wrong = KEYS;
    for (uint32_t key = 0; key < KEYS && wrong == KEYS; key++) {
        if (!check_key(key))
            wrong = key;
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i].count = 0;
    return wrong;
}

static uint32_t run_round(void)
{
    pthread_t threads[UPKEEP + 1];
    atomic_store(&stop, false);
    for (unsigned i = 0; i <= UPKEEP; i++) {
        void *(*job)(void *) = i < THREADS ? run_calls : i < UPKEEP ? run_queue : run_upkeep;
        clients[i].db = db;
        assert_int_equal(pthread_create(&threads[i], NULL, job, &clients[i]), 0);
    }
    for (unsigned i = 0; i <= UPKEEP; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&client_troubles), 0);
    return check_round();
}

static void expect_order(uint32_t wrong)
{
    if (wrong == KEYS)
        return;
    print_error("BITKV_SEED=%" PRIu64 ": the calls for key %" PRIu32 " have no order\n", seed,
                wrong);
    lin_explain(checkers[wrong], stderr);
    fail();
}

/* Everything is read once more: by a client of its own, before anybody writes. */
static uint32_t read_all(void)
{
    struct client *c = &clients[UPKEEP + 1];
    unsigned char bytes[VALUE_MAX];
    for (uint64_t key = 0; key < KEYS; key++) {
        size_t size = 0;
        struct lin_op *op = client_record(c, (uint32_t)key, "reopened");
        op->called = client_stamp();
        int rc = bitkv_get_into(db, &key, sizeof key, bytes, sizeof bytes, &size);
        op->returned = client_stamp();
        client_note_read(c, op, rc, bytes, size);
    }
    return check_round();
}

static bitkv_options options_of(bitkv_io_mode mode, bitkv_backend backend)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 2;
    o.max_file_size = 64 << 10;
    o.io_mode = mode;
    o.backend = backend;
    o.max_open_segments = 4;
    o.sync_interval_ms = 3;
    o.checkpoint_interval_bytes = 200000;
    return o;
}

static void run_for(uint64_t ms, bitkv_io_mode mode, bitkv_backend backend)
{
    bitkv_options o = options_of(mode, backend);
    uint64_t until = now_ms() + ms;
    unsigned rounds = 0;
    o.strict_recovery = true;
    do {
        ok(bitkv_open(&db, path, &o));
        expect_order(read_all());
        for (unsigned i = 0; i < 8; i++, rounds++)
            expect_order(run_round());
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
        assert_int_equal(s.errors_total, 0);
        if (now_ms() >= until)
            print_message("%u rounds; the last opening made %" PRIu64 " compactions, %" PRIu64
                          " checkpoints, %" PRIu64 " syncs\n",
                          rounds, s.compactions_total, s.checkpoints_total, s.syncs_total);
        ok(bitkv_close(db));
    } while (now_ms() < until);
}

static int setup(void **state)
{
    (void)state;
    make_scratch(directory);
    inside(path, directory, "db");
    inside(backup_path, directory, "backup");
    ops = bkv_io_kernel;
    ops.mincore = seldom_in_memory;
    ops.pread_nowait = seldom_at_once;
    ops.fdatasync = no_sync;
    ops.fsync = no_sync;
    bkv_io = &ops;
    fillers_made = calls_checked = backups_made = 0;
    atomic_store(&client_troubles, 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        client_init(&clients[i], i, seed, ROUND_OPS);
    for (unsigned i = 0; i < KEYS; i++)
        checkers[i] = lin_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bkv_io = &bkv_io_kernel;
    for (unsigned i = 0; i < CLIENTS; i++)
        client_free(&clients[i]);
    for (unsigned i = 0; i < KEYS; i++)
        lin_free(checkers[i]);
    remove_tree(directory);
    return 0;
}

static void calls_are_linearizable(bitkv_io_mode mode, bitkv_backend backend)
{
    uint64_t visits = 0;
    run_for(env_number("BITKV_MS", 12000) / 4, mode, backend);
    for (unsigned i = 0; i < KEYS; i++)
        visits += lin_visited(checkers[i]);
    print_message("%" PRIu64 " calls, %" PRIu64 " configurations, %" PRIu64 " fillers, %" PRIu64
                  " backups\n",
                  calls_checked, visits, fillers_made, backups_made);
    assert_in_range(calls_checked, 1000, UINT64_MAX);
}

static void calls_are_linearizable_with_mappings_and_a_ring(void **state)
{
    (void)state;
    calls_are_linearizable(BITKV_IO_MMAP, BITKV_BACKEND_AUTO);
}

static void calls_are_linearizable_with_mappings_and_threads(void **state)
{
    (void)state;
    calls_are_linearizable(BITKV_IO_MMAP, BITKV_BACKEND_THREADS);
}

static void calls_are_linearizable_with_pwrite_and_a_ring(void **state)
{
    (void)state;
    calls_are_linearizable(BITKV_IO_PWRITE, BITKV_BACKEND_AUTO);
}

static void calls_are_linearizable_with_pwrite_and_threads(void **state)
{
    (void)state;
    calls_are_linearizable(BITKV_IO_PWRITE, BITKV_BACKEND_THREADS);
}

/* --- would a bug be noticed? ---------------------------------------------------------- */

static void notices(enum client_bug bug)
{
    bitkv_options o = options_of(BITKV_IO_AUTO, BITKV_BACKEND_AUTO);
    uint32_t wrong = KEYS;
    unsigned rounds = 0;
    for (unsigned i = 0; i < THREADS; i++)
        clients[i].bug = bug;
    ok(bitkv_open(&db, path, &o));
    for (uint64_t until = now_ms() + 60000; wrong == KEYS && now_ms() < until; rounds++)
        wrong = run_round();
    ok(bitkv_close(db));
    print_message("noticed after %u rounds, %" PRIu64 " calls\n", rounds, calls_checked);
    assert_int_not_equal(wrong, KEYS);
}

static void a_stale_get_is_noticed(void **state)
{
    (void)state;
    notices(BUG_STALE_GET);
}

static void a_lost_update_is_noticed(void **state)
{
    (void)state;
    notices(BUG_LOST_UPDATE);
}

static void an_early_acknowledgement_is_noticed(void **state)
{
    (void)state;
    notices(BUG_EARLY_ACK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    seed = env_number("BITKV_SEED", mix((uint64_t)time(NULL) ^ (uint64_t)getpid() << 32));
    (void)printf("BITKV_SEED=%" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        TEST(calls_are_linearizable_with_mappings_and_a_ring),
        TEST(calls_are_linearizable_with_mappings_and_threads),
        TEST(calls_are_linearizable_with_pwrite_and_a_ring),
        TEST(calls_are_linearizable_with_pwrite_and_threads),
        TEST(a_stale_get_is_noticed),
        TEST(a_lost_update_is_noticed),
        TEST(an_early_acknowledgement_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
