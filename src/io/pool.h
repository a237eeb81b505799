/* SPDX-License-Identifier: MIT */
/*
 * A pool of threads for calls that block: reads, where there is no io_uring,
 * and openings of files, which io_uring would make in a thread as well.
 */
#ifndef BKV_IO_POOL_H
#define BKV_IO_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct bkv_task {
    /* Called once: by a thread of the pool, or with `canceled` by who destroys
     * the pool. The task may be gone when it returns. */
    void (*run)(struct bkv_task *task, bool canceled);
    struct bkv_task *next;
};

struct bkv_pool;

int bkv_pool_create(struct bkv_pool **out, uint32_t threads_max);
/* Cancels what has not begun, waits for the rest. NULL is ignored. */
void bkv_pool_destroy(struct bkv_pool *pool);

/* Any thread. BITKV_ERR_NO_MEMORY if there is no thread and none can be
 * started; nothing was taken then. */
int bkv_pool_submit(struct bkv_pool *pool, struct bkv_task *task);
/* Takes a task back that has not begun. False: it has, or is done. */
bool bkv_pool_withdraw(struct bkv_pool *pool, struct bkv_task *task);

#endif
