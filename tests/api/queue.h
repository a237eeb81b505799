/* SPDX-License-Identifier: MIT */
/*
 * What tests of completion queues share: a seam that makes every record look as
 * if it were on disk only, holds reads of the pool and syncs, and changes what
 * the kernel says; operations in one line, and reaping that does not hang.
 */
#ifndef TESTS_API_QUEUE_H
#define TESTS_API_QUEUE_H

#include "api/fixture.h"

#include "db/db.h"
#include "io/io.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#define PATIENCE_MS 60000

/* --- the seam ------------------------------------------------------------------ */

static struct {
    _Atomic bool all_cold;
    _Atomic bool hold_reads; /* of the pool's threads */
    _Atomic bool hold_syncs;
    _Atomic int fail_reads;   /* an errno, of the pool's threads */
    _Atomic int fail_syncs;   /* an errno */
    _Atomic unsigned sync_ms; /* what one takes: none is really made, since no power is cut */
    _Atomic unsigned held;    /* calls that wait */
    _Atomic unsigned syncs;
    _Atomic unsigned pool_reads;
    _Atomic unsigned ring_reads;
    ssize_t (*_Atomic ring)(void *data, size_t size, off_t offset, ssize_t result);
} seam;

static struct bkv_io_ops seam_ops;

static inline void hold_while(_Atomic bool *hold)
{
    if (!atomic_load(hold))
        return;
    atomic_fetch_add(&seam.held, 1);
    while (atomic_load(hold))
        sleep_ms(1);
    atomic_fetch_sub(&seam.held, 1);
}

static inline bool in_pool(void)
{
    char name[16] = "";
    (void)prctl(PR_GET_NAME, name, 0, 0, 0);
    return strcmp(name, "bitkv-io") == 0;
}

static inline ssize_t seam_pread(int fd, void *data, size_t size, off_t offset)
{
    if (in_pool()) {
        atomic_fetch_add(&seam.pool_reads, 1);
        hold_while(&seam.hold_reads);
        int error = atomic_load(&seam.fail_reads);
        if (error != 0) {
            errno = error;
            return -1;
        }
    }
    return bkv_io_kernel.pread(fd, data, size, offset);
}

static inline ssize_t seam_pread_nowait(int fd, void *data, size_t size, off_t offset)
{
    if (!atomic_load(&seam.all_cold))
        return bkv_io_kernel.pread_nowait(fd, data, size, offset);
    errno = EAGAIN;
    return -1;
}

static inline int seam_mincore(void *base, size_t size, unsigned char *in_memory)
{
    int result = bkv_io_kernel.mincore(base, size, in_memory);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (atomic_load(&seam.all_cold))
        memset(in_memory, 0, (size + page - 1) / page);
    return result;
}

static inline ssize_t seam_ring_read(void *data, size_t size, off_t offset, ssize_t result)
{
    atomic_fetch_add(&seam.ring_reads, 1);
    ssize_t (*change)(void *, size_t, off_t, ssize_t) = atomic_load(&seam.ring);
    return change != NULL ? change(data, size, offset, result) : result;
}

static inline int seam_fdatasync(int fd)
{
    atomic_fetch_add(&seam.syncs, 1);
    hold_while(&seam.hold_syncs);
    int error = atomic_load(&seam.fail_syncs);
    (void)fd;
    if (atomic_load(&seam.sync_ms) > 0)
        sleep_ms(atomic_load(&seam.sync_ms));
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

static inline int seam_fsync(int fd)
{
    (void)fd;
    return 0;
}

static inline int seam_setup(void **state)
{
    memset(&seam, 0, sizeof seam);
    seam_ops = bkv_io_kernel;
    seam_ops.pread = seam_pread;
    seam_ops.pread_nowait = seam_pread_nowait;
    seam_ops.mincore = seam_mincore;
    seam_ops.ring_read = seam_ring_read;
    seam_ops.fdatasync = seam_fdatasync;
    seam_ops.fsync = seam_fsync;
    bkv_io = &seam_ops;
    return make_directory(state);
}

static inline int seam_teardown(void **state)
{
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

#define CQ_TEST(name) cmocka_unit_test_setup_teardown(name, seam_setup, seam_teardown)

#define for_hot_and_cold(cold)                                                                     \
    for (int cold = 0; cold < 2 && (atomic_store(&seam.all_cold, cold), true); cold++)

/* What was read is believed to be in memory for a while: no longer. */
static inline void forget_pages(bitkv *db)
{
    atomic_fetch_add(&db->residency_doubts, 1);
}

static inline void await_held(unsigned count)
{
    uint64_t until = now_ms() + PATIENCE_MS;
    while (atomic_load(&seam.held) < count) {
        assert_true(now_ms() < until);
        sleep_ms(1);
    }
}

/* --- operations ------------------------------------------------------------------- */

static inline bitkv_op op_get(const char *key, void *buffer, size_t size)
{
    return (bitkv_op){.kind = BITKV_OP_GET,
                      .key = key,
                      .key_size = strlen(key),
                      .buffer = buffer,
                      .buffer_size = size};
}

static inline bitkv_op op_put(const char *key, const char *value)
{
    return (bitkv_op){.kind = BITKV_OP_PUT,
                      .key = key,
                      .key_size = strlen(key),
                      .value = value,
                      .value_size = strlen(value)};
}

static inline bitkv_op op_key(bitkv_op_kind kind, const char *key)
{
    return (bitkv_op){.kind = kind, .key = key, .key_size = strlen(key)};
}

static inline bitkv_cq *queue_of(bitkv *db, uint32_t capacity)
{
    bitkv_cq_options o;
    bitkv_cq_options_init(&o);
    if (capacity != 0)
        o.capacity = capacity;
    bitkv_cq *cq = NULL;
    ok(bitkv_cq_create(&cq, db, &o));
    assert_non_null(cq);
    return cq;
}

static inline uint64_t submit_all(bitkv_cq *cq, const bitkv_op *ops, size_t count)
{
    uint64_t first = 0;
    int n = bitkv_cq_submit(cq, ops, count, &first);
    if (n != (int)count)
        print_error("submitted %d of %zu: %s\n", n, count, bitkv_error_context());
    assert_int_equal(n, count);
    return first;
}

/* Waits for `count` completions and puts each where its id says. */
static inline void reap_into(bitkv_cq *cq, bitkv_completion *by_id, uint64_t first, size_t count)
{
    for (size_t i = 0; i < count; i++)
        by_id[i].id = 0;
    for (size_t done = 0; done < count;) {
        bitkv_completion some[64];
        size_t room = count - done < 64 ? count - done : 64;
        int n = bitkv_cq_wait(cq, some, room, PATIENCE_MS);
        if (n <= 0)
            print_error("%zu of %zu were reaped, then %d (%s)\n", done, count, n,
                        bitkv_error_context());
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            assert_in_range(some[i].id, first, first + count - 1);
            assert_int_equal(by_id[some[i].id - first].id, 0); /* never twice */
            by_id[some[i].id - first] = some[i];
        }
        done += (size_t)n;
    }
}

static inline bitkv_completion one(bitkv_cq *cq, bitkv_op op)
{
    bitkv_completion c;
    reap_into(cq, &c, submit_all(cq, &op, 1), 1);
    return c;
}

static inline void expect_got(const bitkv_completion *c, const char *value)
{
    expect_code(c->status, BITKV_OK, c->error, __FILE__, __LINE__);
    assert_string_equal(c->error, "");
    assert_int_equal(c->value_size, strlen(value));
    assert_non_null(c->value);
    assert_memory_equal(c->value, value, strlen(value));
}

static inline void expect_empty(bitkv_cq *cq)
{
    bitkv_completion c;
    assert_int_equal(bitkv_cq_pending(cq), 0);
    assert_int_equal(bitkv_cq_wait(cq, &c, 1, -1), 0);
}

static inline bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

static inline bool queue_has_ring(const bitkv_cq *cq)
{
    return bitkv_cq_backend(cq, NULL) == BITKV_BACKEND_IO_URING;
}

/* Runs in a thread of its own, and is joined. */
static inline void in_thread(void *(*run)(void *), void *user)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, user), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

#endif
