/* SPDX-License-Identifier: MIT */
/*
 * A partition's write lock: held for tens of nanoseconds, so a waiter spins
 * for about as long as a few appends take before it sleeps in the kernel (a
 * hand-over through a futex costs some 50 us, a spin a tenth of one).
 *
 * Three states after Drepper, "Futexes are tricky" (2011): 0 free, 1 held,
 * 2 held with sleepers.
 */
#ifndef BKV_BASE_LOCK_H
#define BKV_BASE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bkv_lock {
    _Atomic uint32_t state;
};

void bkv_lock_slow(struct bkv_lock *lock);
void bkv_unlock_slow(struct bkv_lock *lock);

static inline bool bkv_trylock(struct bkv_lock *lock)
{
    uint32_t free_state = 0;
    return atomic_compare_exchange_strong_explicit(&lock->state, &free_state, 1,
                                                   memory_order_acquire, memory_order_relaxed);
}

static inline void bkv_lock(struct bkv_lock *lock)
{
    if (!bkv_trylock(lock))
        bkv_lock_slow(lock);
}

static inline void bkv_unlock(struct bkv_lock *lock)
{
    if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
        bkv_unlock_slow(lock);
}

/* One processor's worth of politeness in a spin. */
static inline void bkv_spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Futex on a 32-bit word: sleeps while *word == expected, for `timeout_ns` at
 * most (0: no limit). */
void bkv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void bkv_futex_wake(_Atomic uint32_t *word, int count);

#endif
