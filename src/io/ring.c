/* SPDX-License-Identifier: MIT */
/*
 * Set up for one thread that submits and reaps: SINGLE_ISSUER with
 * DEFER_TASKRUN (Linux 6.1) completes reads when that thread asks, without
 * interrupting it; COOP_TASKRUN (5.19) comes close; older kernels do without.
 *
 * The number of reads in flight is limited to the depth, so that neither queue
 * can overflow; room for cancellations and the watch comes on top. (A watch may
 * stay for long: it must not take a read's place.)
 *
 * Failure modes: no ring at all (seccomp: EPERM or ENOSYS, sysctl: EPERM, no
 * memory: ENOMEM): the caller takes threads instead. A submission that the
 * kernel puts off (EAGAIN, EBUSY): what was queued goes with the next.
 */
#include "io/ring.h"

#include "base/memory.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of the submission queue, besides reads: the watch and cancellations. */
#define EXTRA_ENTRIES 8u

/* Reads are handed over in portions, so that the device has something to do
 * while the rest of a large batch is prepared: at 64 in flight 1.3 times the
 * rate of one portion, measured with 4 and 8. */
#define SUBMIT_READS 8u

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

struct bkv_ring {
    struct io_uring uring;
    uint32_t depth;
    uint32_t in_flight;
    uint32_t others; /* of those, no reads */
    const void *watch;
};

static const unsigned setups[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
        IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    0,
};

/* The best setup that the kernel knows. 0, or an errno. */
static int set_up(struct io_uring *uring, uint32_t entries)
{
    int result = -EINVAL;
    for (size_t i = 0; i < sizeof setups / sizeof setups[0] && result == -EINVAL; i++) {
        struct io_uring_params params = {.flags = setups[i] | IORING_SETUP_CLAMP};
        memset(uring, 0, sizeof *uring);
        result = io_uring_queue_init_params(entries, uring, &params);
    }
    return -result;
}

/* Asks for a ring of no entries: whoever may have one is told that this is none
 * (EINVAL). Closing a real one would interrupt the host's next blocking call
 * (EINTR), when the kernel has cleaned up after it. */
bool bkv_ring_usable(const char **reason)
{
    struct io_uring_params params = {0};
    errno = 0;
    (void)syscall(__NR_io_uring_setup, 0, &params);
    switch (errno) {
    case EINVAL:
        *reason = "the kernel grants io_uring";
        return true;
    case ENOSYS:
        *reason = "no io_uring: the kernel has none, or a seccomp filter says so (ENOSYS)";
        return false;
    case EPERM:
    case EACCES:
        *reason = "no io_uring: kernel.io_uring_disabled or a seccomp filter (EPERM)";
        return false;
    case ENOMEM:
        *reason = "no io_uring: no memory, or RLIMIT_MEMLOCK is too small (ENOMEM)";
        return false;
    default:
        *reason = "no io_uring: its set-up failed";
        return false;
    }
}

int bkv_ring_open(struct bkv_ring **out, uint32_t depth)
{
    struct bkv_ring *ring = bkv_calloc(1, sizeof *ring);
    if (ring == NULL)
        return ENOMEM;
    int error = set_up(&ring->uring, depth + EXTRA_ENTRIES);
    if (error != 0) {
        bkv_mfree(ring);
        return error;
    }
    ring->depth = depth;
    *out = ring;
    return 0;
}

void bkv_ring_close(struct bkv_ring *ring)
{
    if (ring == NULL)
        return;
    io_uring_queue_exit(&ring->uring);
    bkv_mfree(ring);
}

uint32_t bkv_ring_in_flight(const struct bkv_ring *ring)
{
    return ring->in_flight;
}

bool bkv_ring_has_room(const struct bkv_ring *ring)
{
    return ring->in_flight - ring->others < ring->depth;
}

/* Never NULL: whoever queues has room, or hands over what is there first. */
static struct io_uring_sqe *entry(struct bkv_ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
    while (sqe == NULL) {
        (void)io_uring_submit(&ring->uring);
        sqe = io_uring_get_sqe(&ring->uring);
    }
    ring->in_flight++;
    return sqe;
}

void bkv_ring_read(struct bkv_ring *ring, int fd, void *data, uint32_t size, uint64_t offset,
                   void *user)
{
    struct io_uring_sqe *sqe = entry(ring);
    io_uring_prep_read(sqe, fd, data, size, offset);
    io_uring_sqe_set_data(sqe, user);
    if (io_uring_sq_ready(&ring->uring) >= SUBMIT_READS)
        (void)io_uring_submit(&ring->uring);
}

void bkv_ring_watch(struct bkv_ring *ring, int fd, void *user)
{
    struct io_uring_sqe *sqe = entry(ring);
    io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data(sqe, user);
    ring->watch = user;
    ring->others++;
}

void bkv_ring_cancel(struct bkv_ring *ring, void *user)
{
    struct io_uring_sqe *sqe = entry(ring);
    io_uring_prep_cancel(sqe, user, 0);
    io_uring_sqe_set_data(sqe, NULL);
    ring->others++;
}

int bkv_ring_submit(struct bkv_ring *ring)
{
    if (io_uring_sq_ready(&ring->uring) == 0)
        return 0; /* or it would enter the kernel to run what is due there */
    int result = io_uring_submit(&ring->uring);
    return result < 0 && result != -EAGAIN && result != -EBUSY && result != -EINTR ? -result : 0;
}

uint32_t bkv_ring_queued(const struct bkv_ring *ring)
{
    return io_uring_sq_ready(&ring->uring);
}

void bkv_ring_void(struct bkv_ring *ring)
{
    struct io_uring_sq *sq = &ring->uring.sq;
    for (unsigned at = sq->sqe_tail, left = io_uring_sq_ready(&ring->uring); left > 0; left--) {
        struct io_uring_sqe *sqe = &sq->sqes[--at & sq->ring_mask];
        if (sqe->opcode == IORING_OP_READ)
            sqe->fd = -1;
    }
}

/* A request is in flight no more. */
static void count_out(struct bkv_ring *ring, const void *user)
{
    ring->in_flight--;
    ring->others -= user == NULL || user == ring->watch;
}

bool bkv_ring_take_back(struct bkv_ring *ring, void **user)
{
    struct io_uring_sq *sq = &ring->uring.sq;
    if (io_uring_sq_ready(&ring->uring) == 0)
        return false;
    sq->sqe_head = --sq->sqe_tail;
    __atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
    const struct io_uring_sqe *sqe = &sq->sqes[sq->sqe_tail & sq->ring_mask];
    *user = (void *)(uintptr_t)sqe->user_data; // NOLINT: as io_uring_sqe_set_data() put it
    count_out(ring, *user);
    return true;
}

bool bkv_ring_next(struct bkv_ring *ring, void **user, int *result)
{
    struct io_uring_cqe *cqe;
    while (ring->in_flight > 0 && io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
        *user = io_uring_cqe_get_data(cqe);
        *result = cqe->res;
        io_uring_cqe_seen(&ring->uring, cqe);
        count_out(ring, *user);
        if (*user != NULL) /* NULL: how a cancellation went */
            return true;
    }
    return false;
}

bool bkv_ring_has_results(const struct bkv_ring *ring)
{
    unsigned flags = __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED);
    return io_uring_cq_ready(&ring->uring) > 0 ||
           (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

void bkv_ring_wait(struct bkv_ring *ring, int64_t timeout_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec t = {.tv_sec = timeout_ns / 1000000000,
                                  .tv_nsec = timeout_ns % 1000000000};
    (void)io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, timeout_ns < 0 ? NULL : &t, NULL);
}

int bkv_ring_signal(struct bkv_ring *ring, int event_fd)
{
    return -io_uring_register_eventfd(&ring->uring, event_fd);
}
