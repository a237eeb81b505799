/* SPDX-License-Identifier: MIT */
/*
 * Use after fork is detected. A page that the kernel wipes in a child
 * (MADV_WIPEONFORK) holds the generation of the process; a handle remembers
 * the one it was opened in. One load per call, and it sees every kind of fork,
 * also those that run no handlers.
 *
 * Where handlers do run, the child also gives up its copies of the directory
 * locks, so that a forked child does not keep a database locked that its
 * parent has closed.
 */
#ifndef BKV_DB_FORK_H
#define BKV_DB_FORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bkv_fork_member {
    int *lock_fd; /* closed, and set to -1, in a child */
    struct bkv_fork_member *previous, *next;
};

extern const _Atomic uint32_t *bkv_fork_page;

/* Generation of this process, for a handle that is being opened; 0 with an
 * error in the context if there is no memory for the page. */
uint32_t bkv_fork_generation(void);
void bkv_fork_register(struct bkv_fork_member *member);
void bkv_fork_unregister(struct bkv_fork_member *member);

static inline bool bkv_forked(uint32_t generation)
{
    return atomic_load_explicit(bkv_fork_page, memory_order_relaxed) != generation;
}

#endif
