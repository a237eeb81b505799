/* SPDX-License-Identifier: MIT */
#include "db/fork.h"

#include "base/epoch.h"
#include "base/error.h"
#include "db/cq.h"
#include "db/snapshot.h"
#include "io/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

const _Atomic uint32_t *bkv_fork_page;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t *page;
static uint32_t last_generation; /* goes on counting in children */
static bool handlers_set;
static struct bkv_fork_member *members;

/* Holds what is the process's, so that no other thread is in the middle of it:
 * the child has none that would finish. */
static void before_fork(void)
{
    (void)pthread_mutex_lock(&mutex);
    bkv_cq_before_fork();
    bkv_snapshot_before_fork();
    bkv_mapping_before_fork();
}

static void after_fork_in_parent(void)
{
    bkv_mapping_after_fork();
    bkv_snapshot_after_fork();
    bkv_cq_after_fork();
    (void)pthread_mutex_unlock(&mutex);
}

static void after_fork_in_child(void)
{
    for (struct bkv_fork_member *m = members; m != NULL; m = m->next) {
        /* Only this copy: the lock itself stays with the parent's. */
        (void)close(*m->lock_fd);
        *m->lock_fd = -1;
    }
    members = NULL;
    bkv_epoch_after_fork();
    bkv_mapping_after_fork();
    bkv_snapshot_after_fork();
    bkv_cq_after_fork();
    (void)pthread_mutex_unlock(&mutex);
}

static bool make_page(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    if (madvise(memory, size, MADV_WIPEONFORK) != 0) {
        int error = errno;
        (void)munmap(memory, size);
        errno = error;
        return false;
    }
    page = memory;
    bkv_fork_page = memory;
    return true;
}

uint32_t bkv_fork_generation(void)
{
    uint32_t generation = 0;
    (void)pthread_mutex_lock(&mutex);
    if (!handlers_set)
        handlers_set = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    if (page != NULL || make_page()) {
        if (atomic_load(page) == 0)
            atomic_store(page, ++last_generation);
        generation = atomic_load(page);
    } else {
        (void)bkv_error_sys(errno, "cannot guard against use after fork");
    }
    (void)pthread_mutex_unlock(&mutex);
    return generation;
}

void bkv_fork_register(struct bkv_fork_member *member)
{
    (void)pthread_mutex_lock(&mutex);
    member->previous = NULL;
    member->next = members;
    if (members != NULL)
        members->previous = member;
    members = member;
    (void)pthread_mutex_unlock(&mutex);
}

void bkv_fork_unregister(struct bkv_fork_member *member)
{
    (void)pthread_mutex_lock(&mutex);
    if (member->previous != NULL)
        member->previous->next = member->next;
    else
        members = member->next;
    if (member->next != NULL)
        member->next->previous = member->previous;
    (void)pthread_mutex_unlock(&mutex);
}
