/* SPDX-License-Identifier: MIT */
/*
 * Reads of records that are on disk only: really, their pages dropped from
 * memory, and by the seam. What the kernel may answer a ring, what a thread may
 * meet, and what is canceled at each stage.
 */
#include "api/queue.h"

#include <sys/mman.h>

#define KEYS 500u

static unsigned char values[KEYS][4000];
static unsigned char got[KEYS][4000];
static bitkv_op ops[KEYS];
static bitkv_completion done[KEYS];

static size_t size_of(uint32_t key)
{
    return 1 + mix(key) % sizeof values[0];
}

static uint32_t names[KEYS];

static void fill_database(bitkv *db)
{
    for (uint32_t i = 0; i < KEYS; i++) {
        names[i] = i;
        fill(values[i], size_of(i), i);
        ok(bitkv_put(db, &names[i], sizeof i, values[i], size_of(i)));
    }
}

static bitkv_op get_of(uint32_t key)
{
    return (bitkv_op){.kind = BITKV_OP_GET,
                      .key = &names[key],
                      .key_size = sizeof(uint32_t),
                      .buffer = got[key],
                      .buffer_size = sizeof got[key]};
}

static void expect_key(const bitkv_completion *c, uint32_t key)
{
    expect_code(c->status, BITKV_OK, c->error, __FILE__, __LINE__);
    assert_int_equal(c->value_size, size_of(key));
    assert_memory_equal(got[key], values[key], size_of(key));
}

static void get_all(bitkv *db, bitkv_cq *cq)
{
    forget_pages(db);
    memset(got, 0, sizeof got);
    for (uint32_t i = 0; i < KEYS; i++)
        ops[i] = get_of(i);
    reap_into(cq, done, submit_all(cq, ops, KEYS), KEYS);
    for (uint32_t i = 0; i < KEYS; i++)
        expect_key(&done[i], i);
    expect_empty(cq);
}

/* --- pages dropped from memory -------------------------------------------------------- */

/* Bytes of the file whose pages are in memory. */
static size_t drop_file(const char *name)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fsync(fd), 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    size_t size = (size_t)status.st_size, page = (size_t)sysconf(_SC_PAGESIZE), left = 0;
    if (size > 0) {
        void *base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        assert_true(base != MAP_FAILED);
        unsigned char *pages = calloc(1, size / page + 1);
        assert_int_equal(mincore(base, size, pages), 0);
        for (size_t i = 0; i <= size / page; i++)
            left += pages[i] & 1 ? page : 0;
        free(pages);
        (void)munmap(base, size);
    }
    (void)close(fd);
    return left;
}

static bool drop_pages(void)
{
    char part[PATH_SIZE], name[PATH_SIZE];
    inside(part, path, "partition_0");
    DIR *dir = opendir(part);
    assert_non_null(dir);
    size_t left = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strstr(entry->d_name, ".db") != NULL)
            left += drop_file(inside(name, part, entry->d_name));
    }
    (void)closedir(dir);
    return left == 0;
}

/* As an event loop does it: the descriptor tells when. */
static void get_all_by_descriptor(bitkv_cq *cq)
{
    int fd = bitkv_cq_fd(cq);
    assert_true(fd >= 0);
    memset(got, 0, sizeof got);
    for (uint32_t i = 0; i < KEYS; i++)
        ops[i] = get_of(i);
    uint64_t first = submit_all(cq, ops, KEYS);
    for (unsigned reaped = 0; reaped < KEYS;) {
        bitkv_completion c[7];
        assert_true(readable(fd, PATIENCE_MS));
        int n = bitkv_cq_poll(cq, c, 7);
        assert_true(n >= 0);
        for (int i = 0; i < n; i++)
            expect_key(&c[i], (uint32_t)(c[i].id - first));
        reaped += (unsigned)n;
    }
    expect_empty(cq);
}

static unsigned reap_whatever(bitkv_cq *cq, uint64_t first, int otherwise)
{
    unsigned others = 0;
    reap_into(cq, done, first, KEYS);
    for (uint32_t i = 0; i < KEYS; i++) {
        if (done[i].status == otherwise)
            others++;
        else
            expect_key(&done[i], i);
    }
    expect_empty(cq);
    return others;
}

struct leaver {
    bitkv *db;
    bitkv_cq *cq;
};

static void *leave_reads_in_flight(void *user)
{
    struct leaver *leaver = user;
    leaver->cq = queue_of(leaver->db, 0);
    (void)submit_all(leaver->cq, ops, KEYS);
    return NULL;
}

enum { TO_GET, TO_POLL, TO_CANCEL, TO_CLOSE, TO_DESTROY, TO_LEAVE, WAYS };

static void use_cold(bitkv *db, unsigned way)
{
    for (uint32_t i = 0; i < KEYS; i++)
        ops[i] = get_of(i);
    struct leaver leaver = {.db = db};
    if (way == TO_LEAVE) {
        in_thread(leave_reads_in_flight, &leaver);
        ok(bitkv_cq_destroy(leaver.cq));
        ok(bitkv_close(db));
        return;
    }
    bitkv_cq *cq = queue_of(db, 0);
    if (way == TO_GET) {
        get_all(db, cq);
        assert_true(statistics_of(db).gets_total >= KEYS);
    } else if (way == TO_POLL) {
        get_all_by_descriptor(cq);
    } else {
        uint64_t first = submit_all(cq, ops, KEYS);
        if (way == TO_CANCEL) {
            int rc = bitkv_cq_cancel(cq, BITKV_CQ_ALL);
            assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
            (void)reap_whatever(cq, first, BITKV_ERR_CANCELED);
        } else if (way == TO_CLOSE) {
            ok(bitkv_close(db));
            db = NULL;
            (void)reap_whatever(cq, first, BITKV_ERR_CLOSED);
        }
    }
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

/* A ring reads from files that are open: one page of each is looked at, then
 * they are dropped again, but for those few. */
static void open_segments_of(bitkv *db)
{
    for (uint32_t i = 0; i < KEYS; i += 8)
        ok(bitkv_exists(db, &names[i], sizeof names[i]));
    (void)drop_pages();
    forget_pages(db);
}

static void what_is_on_disk_is_read(void **state)
{
    (void)state;
    static const uint32_t depths[] = {1, 2, 64, 0};
    for_both_modes(mode)
    {
        for (unsigned round = 0; round < 4 * WAYS; round++) {
            bitkv_options o = one_partition(mode);
            o.max_open_segments = round % 3; /* 0: all of them */
            o.ring_depth = depths[round / WAYS];
            o.io_threads = round % 4 == 0 ? 1 : 0;
            bitkv *db = open_with(&o);
            if (round == 0)
                fill_database(db);
            bool opened = (round + round / WAYS) % 2 == 0;
            if (opened)
                o.max_open_segments = 0;
            ok(bitkv_close(db));
            if (!drop_pages()) {
                print_message("pages stay in memory: the file system ignores the wish\n");
                skip();
            }
            db = open_with(&o);
            if (opened)
                open_segments_of(db);
            use_cold(db, round % WAYS);
        }
        unsigned by_ring = atomic_load(&seam.ring_reads), by_pool = atomic_load(&seam.pool_reads);
        print_message("%u reads by rings, %u by threads\n", by_ring, by_pool);
        assert_true(by_ring + by_pool > 0);
    }
}

/* --- few open segments, little room ------------------------------------------------------ */

static void segments_come_and_go_meanwhile(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        for (unsigned round = 0; round < 6; round++) {
            bitkv_options o = one_partition(mode);
            o.max_open_segments = 1 + round % 2;
            o.ring_depth = round % 3 == 2 ? 0 : 1 + round % 3;
            o.io_threads = 1 + round % 3;
            bitkv *db = open_with(&o);
            if (round == 0)
                fill_database(db);
            bitkv_cq *cq = queue_of(db, 0);
            unsigned before = count_descriptors();
            for (unsigned i = 0; i < 3; i++)
                get_all(db, cq);
            for (uint32_t i = 0; i < 64; i++) { /* one at a time: each opens another */
                forget_pages(db);
                bitkv_completion c = one(cq, get_of((i * 37) % KEYS));
                expect_key(&c, (i * 37) % KEYS);
            }
            assert_true(round == 0 || count_descriptors() <= before + 8);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

static void views_of_cold_values_outlive_it_all(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 2;
        bitkv *db = open_with(&o);
        fill_database(db);
        bitkv_cq *cq = queue_of(db, 0);
        for (uint32_t i = 0; i < KEYS; i++) {
            ops[i] = get_of(i);
            ops[i].flags = BITKV_OP_VIEW;
            ops[i].buffer = NULL;
            ops[i].buffer_size = 0;
        }
        reap_into(cq, done, submit_all(cq, ops, KEYS), KEYS);
        for (uint32_t i = 0; i < KEYS; i += 2)
            ok(bitkv_put(db, &i, sizeof i, "new", 3));
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
        for (uint32_t i = 0; i < KEYS; i++) {
            assert_int_equal(done[i].status, BITKV_OK);
            assert_int_equal(done[i].view.size, size_of(i));
            assert_memory_equal(done[i].view.data, values[i], size_of(i));
            bitkv_view_release(&done[i].view);
        }
    }
}

/* --- what the kernel may answer ------------------------------------------------------------- */

static _Atomic unsigned answers;

static ssize_t short_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)offset;
    if (result <= 1 || atomic_fetch_add(&answers, 1) % 3 == 2)
        return result;
    ssize_t some = 1 + (ssize_t)(mix((uint64_t)offset + size) % (uint64_t)result);
    memset((char *)data + some, 0xee, (size_t)(result - some));
    return some;
}

static ssize_t troubled_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    static const int errors[] = {EINTR, EAGAIN, ECANCELED};
    unsigned n = atomic_fetch_add(&answers, 1);
    if (n % 4 == 3)
        return short_ring(data, size, offset, result);
    memset(data, 0xee, size);
    return -errors[n % 4];
}

static ssize_t refusing_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)offset, (void)result;
    memset(data, 0xee, size);
    return -EAGAIN;
}

static ssize_t failing_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)data, (void)size, (void)offset, (void)result;
    return -EIO;
}

/* The last byte of a record is not what it was. */
static ssize_t damaging_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)offset;
    if (result == (ssize_t)size)
        ((unsigned char *)data)[size - 1] ^= 1;
    return result;
}

static ssize_t ending_ring(void *data, size_t size, off_t offset, ssize_t result)
{
    (void)data, (void)size, (void)offset, (void)result;
    return 0;
}

static void whatever_the_kernel_answers_a_ring(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        for (uint32_t depth = 1; depth <= 64; depth *= 4) {
            bitkv_options o = one_partition(mode);
            o.ring_depth = depth;
            o.io_threads = 2;
            bitkv *db = open_with(&o);
            fill_database(db);
            bitkv_cq *cq = queue_of(db, 0);
            if (!queue_has_ring(cq)) {
                ok(bitkv_cq_destroy(cq));
                ok(bitkv_close(db));
                return;
            }
            atomic_store(&seam.ring, short_ring);
            get_all(db, cq);
            atomic_store(&seam.ring, troubled_ring);
            get_all(db, cq);
            unsigned before = atomic_load(&seam.pool_reads);
            atomic_store(&seam.ring, refusing_ring);
            get_all(db, cq); /* by threads */
            assert_true(atomic_load(&seam.pool_reads) >= before + KEYS);
            uint64_t errors = statistics_of(db).errors_total;
            atomic_store(&seam.ring, failing_ring);
            forget_pages(db);
            reap_into(cq, done, submit_all(cq, ops, KEYS), KEYS);
            for (uint32_t i = 0; i < KEYS; i++) {
                assert_int_equal(done[i].status, BITKV_ERR_IO);
                assert_null(done[i].value);
            }
            bitkv_completion c = one(cq, ops[3]);
            assert_non_null(strstr(c.error, "cannot read"));
            assert_int_equal(statistics_of(db).errors_total, errors + KEYS + 1);
            atomic_store(&seam.ring, ending_ring);
            reap_into(cq, done, submit_all(cq, ops, KEYS), KEYS);
            for (uint32_t i = 0; i < KEYS; i++)
                assert_int_equal(done[i].status, BITKV_ERR_CORRUPT);
            atomic_store(&seam.ring, damaging_ring);
            forget_pages(db);
            assert_int_equal(one(cq, ops[3]).status, BITKV_ERR_CORRUPT);
            bitkv_op exists = ops[3]; /* which does not look at the value */
            exists.kind = BITKV_OP_EXISTS;
            forget_pages(db);
            assert_int_equal(one(cq, exists).status, BITKV_OK);
            atomic_store(&seam.ring, NULL);
            get_all(db, cq);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
            remove_tree(path);
        }
    }
}

static void what_a_thread_cannot_read(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.backend = BITKV_BACKEND_THREADS;
        bitkv *db = open_with(&o);
        fill_database(db);
        bitkv_cq *cq = queue_of(db, 0);
        get_all(db, cq);
        atomic_store(&seam.fail_reads, EIO);
        forget_pages(db);
        reap_into(cq, done, submit_all(cq, ops, KEYS), KEYS);
        for (uint32_t i = 0; i < KEYS; i++)
            assert_int_equal(done[i].status, BITKV_ERR_IO);
        bitkv_statistics s = statistics_of(db);
        assert_int_equal(s.errors_total, KEYS);
        assert_int_equal(s.gets_total, 2 * KEYS);
        atomic_store(&seam.fail_reads, 0);
        get_all(db, cq);
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
    }
}

/* --- canceling -------------------------------------------------------------------------------- */

/* Statuses of all, each exactly once; how many were canceled. */
static unsigned count_canceled(bitkv_cq *cq, uint64_t first, unsigned count)
{
    unsigned canceled = 0;
    reap_into(cq, done, first, count);
    for (unsigned i = 0; i < count; i++) {
        if (done[i].status == BITKV_ERR_CANCELED) {
            canceled++;
            assert_null(done[i].value);
        } else {
            expect_key(&done[i], i);
        }
    }
    expect_empty(cq);
    return canceled;
}

static void cold_reads_are_canceled(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        for (unsigned round = 0; round < 24; round++) {
            bitkv_options o = one_partition(mode);
            o.ring_depth = round % 3 == 0 ? 1 : round % 3 == 1 ? 8 : 0;
            o.io_threads = 1;
            o.backend = round % 2 == 0 ? BITKV_BACKEND_AUTO : BITKV_BACKEND_THREADS;
            bitkv *db = open_with(&o);
            if (round == 0)
                fill_database(db);
            bitkv_cq *cq = queue_of(db, 0);
            assert_int_equal(bitkv_cq_cancel(cq, BITKV_CQ_ALL), BITKV_NOT_FOUND);
            assert_int_equal(bitkv_cq_cancel(cq, 17), BITKV_NOT_FOUND);
            for (uint32_t i = 0; i < KEYS; i++)
                ops[i] = get_of(i);
            bool hold = round % 2 == 1;
            atomic_store(&seam.hold_reads, hold);
            forget_pages(db);
            uint64_t first = submit_all(cq, ops, KEYS);
            if (hold)
                await_held(1);
            int rc = bitkv_cq_cancel(cq, BITKV_CQ_ALL);
            assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
            assert_true(bitkv_cq_pending(cq) == KEYS);
            if (hold) { /* the one that runs is waited for; it is canceled all the same */
                assert_int_equal(rc, BITKV_OK);
                assert_int_equal(bitkv_cq_cancel(cq, BITKV_CQ_ALL), BITKV_OK);
                atomic_store(&seam.hold_reads, false);
                assert_int_equal(count_canceled(cq, first, KEYS), KEYS);
            } else {
                unsigned canceled = count_canceled(cq, first, KEYS);
                if (round == 0 && queue_has_ring(cq)) /* the backlog has not begun */
                    assert_true(canceled >= KEYS - 8);
            }
            /* One of them, in the middle. */
            atomic_store(&seam.hold_reads, hold);
            forget_pages(db);
            first = submit_all(cq, ops, KEYS);
            rc = bitkv_cq_cancel(cq, first + KEYS / 2);
            if (hold)
                assert_int_equal(rc, BITKV_OK);
            atomic_store(&seam.hold_reads, false);
            unsigned canceled = count_canceled(cq, first, KEYS);
            assert_true(canceled == (rc == BITKV_OK) || !hold);
            assert_true(canceled <= 1);
            if (canceled == 1)
                assert_int_equal(done[KEYS / 2].status, BITKV_ERR_CANCELED);
            assert_int_equal(bitkv_cq_cancel(cq, first), BITKV_NOT_FOUND);
            get_all(db, cq);
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
    }
}

static void a_queue_is_destroyed_with_reads_in_flight(void **state)
{
    (void)state;
    atomic_store(&seam.all_cold, true);
    for_both_modes(mode)
    {
        for (unsigned round = 0; round < 30; round++) {
            bitkv_options o = one_partition(mode);
            o.ring_depth = round % 3 == 0 ? 1 : round % 3 == 1 ? 8 : 0;
            o.io_threads = 1 + round % 4;
            o.max_open_segments = round % 5;
            o.backend = round % 2 == 0 ? BITKV_BACKEND_AUTO : BITKV_BACKEND_THREADS;
            bitkv *db = open_with(&o);
            if (round == 0)
                fill_database(db);
            bitkv_cq *cq = queue_of(db, 0);
            for (uint32_t i = 0; i < KEYS; i++) {
                ops[i] = get_of(i);
                ops[i].buffer = malloc(sizeof got[0]); /* freed at once: nobody writes there */
            }
            (void)submit_all(cq, ops, KEYS);
            bitkv_completion c;
            for (unsigned i = 0; i < round; i++)
                assert_true(bitkv_cq_poll(cq, &c, 1) >= 0);
            ok(bitkv_cq_destroy(cq));
            for (uint32_t i = 0; i < KEYS; i++)
                free(ops[i].buffer);
            ok(bitkv_close(db));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CQ_TEST(what_is_on_disk_is_read),
        CQ_TEST(segments_come_and_go_meanwhile),
        CQ_TEST(views_of_cold_values_outlive_it_all),
        CQ_TEST(whatever_the_kernel_answers_a_ring),
        CQ_TEST(what_a_thread_cannot_read),
        CQ_TEST(cold_reads_are_canceled),
        CQ_TEST(a_queue_is_destroyed_with_reads_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
