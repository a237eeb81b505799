/* SPDX-License-Identifier: MIT */
#include "io/mapping.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/memory.h"
#include "io/io.h"
#include "io/residency.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* --- registry of mappings ----------------------------------------------- */
/*
 * Read by a signal handler, so: no locks on the reading side, no memory that
 * is ever freed. An entry is claimed by `base` going from 0 to BUSY, and valid
 * when it holds an address.
 */

#define BLOCK_ENTRIES 256u
#define BUSY          1u

struct entry {
    _Atomic uintptr_t base;
    _Atomic size_t size;
    struct bkv_mapping *_Atomic mapping;
};

struct block {
    struct entry entries[BLOCK_ENTRIES];
    struct block *_Atomic next;
};

static struct block first_block;
static pthread_mutex_t grow_mutex = PTHREAD_MUTEX_INITIALIZER;

static struct block *next_block(struct block *b, bool grow)
{
    struct block *next = atomic_load_explicit(&b->next, memory_order_acquire);
    if (next != NULL || !grow)
        return next;
    (void)pthread_mutex_lock(&grow_mutex);
    next = atomic_load_explicit(&b->next, memory_order_acquire);
    if (next == NULL) {
        next = bkv_calloc(1, sizeof *next);
        atomic_store_explicit(&b->next, next, memory_order_release);
    }
    (void)pthread_mutex_unlock(&grow_mutex);
    return next;
}

static bool registry_add(struct bkv_mapping *mapping)
{
    for (struct block *b = &first_block; b != NULL; b = next_block(b, true)) {
        for (unsigned i = 0; i < BLOCK_ENTRIES; i++) {
            struct entry *e = &b->entries[i];
            uintptr_t none = 0;
            if (!atomic_compare_exchange_strong(&e->base, &none, BUSY))
                continue;
            atomic_store(&e->mapping, mapping);
            atomic_store(&e->size, mapping->size);
            atomic_store(&e->base, (uintptr_t)mapping->base);
            return true;
        }
    }
    return false;
}

static struct entry *registry_find(uintptr_t address)
{
    for (struct block *b = &first_block; b != NULL; b = next_block(b, false)) {
        for (unsigned i = 0; i < BLOCK_ENTRIES; i++) {
            struct entry *e = &b->entries[i];
            uintptr_t base = atomic_load_explicit(&e->base, memory_order_acquire);
            if (base > BUSY && address >= base && address - base < atomic_load(&e->size))
                return e;
        }
    }
    return NULL;
}

static void registry_remove(const struct bkv_mapping *mapping)
{
    struct entry *e = registry_find((uintptr_t)mapping->base);
    BKV_ASSERT(e != NULL && atomic_load(&e->mapping) == mapping);
    atomic_store_explicit(&e->base, 0, memory_order_release);
}

/* --- the guard ------------------------------------------------------------ */

static pthread_mutex_t guard_mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned guard_users;
static bool guard_installed;
static struct sigaction previous;
static size_t page_size;

/* Plain mmap() as the kernel has it, no seam: it runs in a signal handler. */
static bool put_zero_page(uintptr_t address)
{
    void *page = (void *)(address & ~(uintptr_t)(page_size - 1));
    return mmap(page, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                -1, 0) != MAP_FAILED;
}

static void pass_on(int signal_number, siginfo_t *info, void *ucontext)
{
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal_number, info, ucontext);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        /* Return into the same fault with the default action: it kills, and
         * the core dump shows the culprit. */
        (void)signal(signal_number, SIG_DFL);
        if (info->si_code <= 0) /* sent by somebody: there is no fault to return into */
            (void)raise(signal_number);
    } else {
        previous.sa_handler(signal_number);
    }
}

static void on_sigbus(int signal_number, siginfo_t *info, void *ucontext)
{
    int saved_errno = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    struct entry *e = info->si_code > 0 ? registry_find(address) : NULL;
    if (e != NULL) {
        struct bkv_mapping *mapping = atomic_load(&e->mapping);
        atomic_fetch_add_explicit(&mapping->faults, 1, memory_order_release);
        if (put_zero_page(address)) {
            errno = saved_errno;
            return;
        }
    }
    errno = saved_errno;
    pass_on(signal_number, info, ucontext);
}

int bkv_sigbus_guard_acquire(void)
{
    int rc = BITKV_OK;
    (void)pthread_mutex_lock(&guard_mutex);
    if (!guard_installed) {
        page_size = (size_t)sysconf(_SC_PAGESIZE);
        struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
        action.sa_sigaction = on_sigbus;
        (void)sigemptyset(&action.sa_mask);
        if (sigaction(SIGBUS, &action, &previous) != 0)
            rc = bkv_error_sys(errno, "cannot install the SIGBUS guard");
        else
            guard_installed = true;
    }
    if (rc == BITKV_OK)
        guard_users++;
    (void)pthread_mutex_unlock(&guard_mutex);
    return rc;
}

void bkv_sigbus_guard_release(void)
{
    (void)pthread_mutex_lock(&guard_mutex);
    BKV_ASSERT(guard_users > 0);
    if (--guard_users == 0) {
        struct sigaction now;
        /* Somebody who came after us may call us in turn: then stay. */
        bool ours = sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
                    now.sa_sigaction == on_sigbus;
        if (ours && sigaction(SIGBUS, &previous, NULL) == 0)
            guard_installed = false;
    }
    (void)pthread_mutex_unlock(&guard_mutex);
}

/* --- fork --------------------------------------------------------------------- */

void bkv_mapping_before_fork(void)
{
    (void)pthread_mutex_lock(&guard_mutex);
    (void)pthread_mutex_lock(&grow_mutex);
}

void bkv_mapping_after_fork(void)
{
    (void)pthread_mutex_unlock(&grow_mutex);
    (void)pthread_mutex_unlock(&guard_mutex);
}

/* --- mappings --------------------------------------------------------------- */

int bkv_mapping_create_unmapped(struct bkv_mapping **out, struct bkv_file *file)
{
    struct bkv_mapping *mapping = bkv_calloc(1, sizeof *mapping);
    if (mapping == NULL) {
        bkv_file_close(file);
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to open %s", file->name);
    }
    mapping->file = *file;
    *file = BKV_FILE_NONE;
    mapping->reader = BKV_FILE_NONE;
    atomic_init(&mapping->refs, 1);
    *out = mapping;
    return BITKV_OK;
}

int bkv_mapping_create(struct bkv_mapping **out, struct bkv_file *file, size_t size, bool writable,
                       bool keep_file)
{
    struct bkv_mapping *mapping = NULL;
    int rc = bkv_mapping_create_unmapped(&mapping, file);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_sigbus_guard_acquire();
    if (rc != BITKV_OK)
        goto err_mapping;
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = bkv_io->mmap(size, protection, MAP_SHARED, mapping->file.fd);
    if (base == MAP_FAILED) {
        rc = bkv_error_sys(errno, "cannot map %s/%s", mapping->file.dir->path, mapping->file.name);
        goto err_guard;
    }
    mapping->base = base;
    mapping->size = size;
    if (!registry_add(mapping)) {
        rc = bkv_error(BITKV_ERR_NO_MEMORY, "no memory to guard a mapping");
        goto err_base;
    }
    if (!keep_file)
        bkv_file_close(&mapping->file);
    *out = mapping;
    return BITKV_OK;

err_base:
    (void)bkv_io->munmap(mapping->base, size);
    mapping->base = NULL;
err_guard:
    bkv_sigbus_guard_release();
err_mapping:
    bkv_mapping_unref(mapping);
    return rc;
}

void bkv_mapping_ref(struct bkv_mapping *mapping)
{
    atomic_fetch_add_explicit(&mapping->refs, 1, memory_order_relaxed);
}

void bkv_mapping_unref(struct bkv_mapping *mapping)
{
    if (mapping == NULL)
        return;
    if (atomic_fetch_sub_explicit(&mapping->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (mapping->base != NULL) {
        registry_remove(mapping);
        (void)bkv_io->munmap(mapping->base, mapping->size);
        bkv_sigbus_guard_release();
    }
    bkv_file_close(&mapping->reader);
    bkv_file_close(&mapping->file);
    bkv_residency_free(atomic_load_explicit(&mapping->residency, memory_order_relaxed));
    bkv_mfree(mapping);
}
