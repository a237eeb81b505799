/* SPDX-License-Identifier: MIT */
#include "base/lock.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* About 2 us: a few dozen appends. */
#define SPINS 200

void bkv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec t = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                         .tv_nsec = (long)(timeout_ns % 1000000000u)};
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ns > 0 ? &t : NULL, NULL,
                  0);
}

void bkv_futex_wake(_Atomic uint32_t *word, int count)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void bkv_lock_slow(struct bkv_lock *lock)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&lock->state, memory_order_relaxed) == 0 && bkv_trylock(lock))
            return;
        bkv_spin_pause();
    }
    while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
        bkv_futex_wait(&lock->state, 2, 0);
}

void bkv_unlock_slow(struct bkv_lock *lock)
{
    bkv_futex_wake(&lock->state, 1);
}
