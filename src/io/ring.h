/* SPDX-License-Identifier: MIT */
/*
 * An io_uring of one thread, for reads. A thin layer over liburing: what the
 * kernel offers is found out at opening.
 *
 * All but bkv_ring_usable() is for the thread that opened the ring; when that
 * has ended, only bkv_ring_close().
 */
#ifndef BKV_IO_RING_H
#define BKV_IO_RING_H

#include <stdbool.h>
#include <stdint.h>

struct bkv_ring;

/* Does the kernel let this process have a ring? *reason gets a static text. */
bool bkv_ring_usable(const char **reason);

/* 0, or an errno. */
int bkv_ring_open(struct bkv_ring **out, uint32_t depth);
/* Nothing may be in flight. NULL is ignored. */
void bkv_ring_close(struct bkv_ring *ring);

/* Requests whose results have not been taken. */
uint32_t bkv_ring_in_flight(const struct bkv_ring *ring);
/* Can take one more. */
bool bkv_ring_has_room(const struct bkv_ring *ring);

/* Queues a request; bkv_ring_submit() hands all to the kernel. There must be
 * room. `user` comes back with the result. */
void bkv_ring_read(struct bkv_ring *ring, int fd, void *data, uint32_t size, uint64_t offset,
                   void *user);
/* Readable: completes once. */
void bkv_ring_watch(struct bkv_ring *ring, int fd, void *user);
/* The request with `user`; it completes with ECANCELED, or as if nothing had
 * happened. */
void bkv_ring_cancel(struct bkv_ring *ring, void *user);
/* 0, or an errno; what was queued stays queued then. */
int bkv_ring_submit(struct bkv_ring *ring);
/* Requests that the kernel has not got yet. */
uint32_t bkv_ring_queued(const struct bkv_ring *ring);
/* Their descriptors are closed: reads among them will complete with EBADF. */
void bkv_ring_void(struct bkv_ring *ring);

/* Takes the newest of what was queued back from a kernel that refuses to hear of
 * it; false if there is nothing. `user` NULL: a cancellation. */
bool bkv_ring_take_back(struct bkv_ring *ring, void **user);
/* A result, if there is one: `result` is as of pread(2), or -errno. */
bool bkv_ring_next(struct bkv_ring *ring, void **user, int *result);
/* There is one, or there will be one when it is asked for. */
bool bkv_ring_has_results(const struct bkv_ring *ring);
/* Sleeps until there is a result, for `timeout_ns` at most (negative: no limit).
 * Submits what was queued. */
void bkv_ring_wait(struct bkv_ring *ring, int64_t timeout_ns);
/* An eventfd that is signaled with each result. 0, or an errno. */
int bkv_ring_signal(struct bkv_ring *ring, int event_fd);

#endif
