/* SPDX-License-Identifier: MIT */
/*
 * How it works. A global counter is the epoch. A thread that enters copies it
 * into its slot; a thread that leaves stores 0 there. A stamp is the counter's
 * value before it is advanced, so whoever enters later carries a larger number:
 *
 *   passed(stamp)  <=>  every slot is 0 or > stamp
 *
 * Orders. The store of a slot must be visible before the reader's loads of
 * shared pointers, and the writer's unlinking store before its scan of the
 * slots: a store-load order on both sides. Reading is frequent and reclaiming
 * rare, so the writer pays for both: it calls membarrier(), which makes every
 * running thread of the process execute a barrier, and the reader gets by with
 * a plain store (Desnoyers et al., "User-level implementations of read-copy
 * update", 2012). That is worth more than the instruction: without a barrier
 * in every get, the processor begins the next get's cache misses while it still
 * waits for this one's. Where membarrier() is refused (and under a thread
 * sanitizer, which does not know it) the reader pays with an atomic exchange.
 * With either missing, writer and reader could both miss each other. A reader
 * leaves with release, the scan acquires: what the reader read happens before
 * what the writer reuses.
 *
 * One scan settles all stamps up to the oldest reader's: `settled` remembers
 * it, so that a run of questions costs one membarrier().
 *
 * Slots live in blocks that are never freed, so a scan needs no lock. A slot
 * is returned by the thread's pthread key destructor. A child of fork()
 * inherits slots of threads that it does not have: they are freed there.
 *
 * Failure mode: no memory for a block of slots: enter returns NULL and the
 * operation reports BITKV_ERR_NO_MEMORY.
 */
#include "base/epoch.h"
#include "base/clock.h"

#include "base/assert.h"
#include "base/lock.h"
#include "base/memory.h"

#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_SLOTS 64u

#if defined(__has_feature)
#define BKV_THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define BKV_THREAD_SANITIZER 0
#endif

struct bkv_epoch_slot {
    _Alignas(64) _Atomic uint64_t epoch; /* 0: outside */
    _Atomic uint64_t call;               /* of a call that has left in between; else 0 */
    uint32_t depth;                      /* of nested sections; the owner's */
    uint32_t index;
    uint32_t pauses; /* ever; the owner's */
    _Atomic uint32_t taken;
};

struct block {
    struct bkv_epoch_slot slots[BLOCK_SLOTS];
    struct block *_Atomic next;
};

static _Atomic uint64_t global_epoch = 1;
static _Atomic uint64_t settled;    /* every stamp below has passed */
static _Atomic bool asymmetric;     /* membarrier() orders for the readers */
static _Atomic uint32_t slots_used; /* slots above were never taken: a scan ends there */
static struct block first_block;
static pthread_mutex_t grow_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t slot_key;
static bool key_made;

static _Thread_local struct bkv_epoch_slot *my_slot __attribute__((tls_model("initial-exec")));

static void give_back(void *slot_pointer)
{
    struct bkv_epoch_slot *slot = slot_pointer;
    my_slot = NULL;
    atomic_store_explicit(&slot->epoch, 0, memory_order_release);
    slot->depth = 0;
    atomic_store_explicit(&slot->taken, 0, memory_order_release);
}

static void register_membarrier(void)
{
#if !defined(__SANITIZE_THREAD__) && !BKV_THREAD_SANITIZER
    atomic_store(&asymmetric,
                 syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
#endif
}

static void make_key(void)
{
    register_membarrier();
    key_made = pthread_key_create(&slot_key, give_back) == 0;
}

static void note_use(uint32_t index)
{
    uint32_t used = atomic_load_explicit(&slots_used, memory_order_relaxed);
    while (used <= index &&
           !atomic_compare_exchange_weak_explicit(&slots_used, &used, index + 1,
                                                  memory_order_seq_cst, memory_order_relaxed))
        ;
}

static struct bkv_epoch_slot *take_free_slot(void)
{
    uint32_t base = 0;
    for (struct block *b = &first_block; b != NULL;
         b = atomic_load_explicit(&b->next, memory_order_acquire), base += BLOCK_SLOTS) {
        for (uint32_t i = 0; i < BLOCK_SLOTS; i++) {
            uint32_t free_state = 0;
            if (atomic_compare_exchange_strong_explicit(&b->slots[i].taken, &free_state, 1,
                                                        memory_order_acquire,
                                                        memory_order_relaxed)) {
                b->slots[i].index = base + i;
                note_use(base + i);
                return &b->slots[i];
            }
        }
    }
    return NULL;
}

static bool append_block(void)
{
    struct block *fresh = bkv_alloc_aligned(sizeof *fresh);
    if (fresh == NULL)
        return false;
    struct block *last = &first_block;
    for (;;) {
        struct block *next = atomic_load_explicit(&last->next, memory_order_acquire);
        if (next == NULL)
            break;
        last = next;
    }
    atomic_store_explicit(&last->next, fresh, memory_order_release);
    return true;
}

static __attribute__((noinline)) struct bkv_epoch_slot *take_slot(void)
{
    (void)pthread_once(&key_once, make_key);
    if (!key_made)
        return NULL;
    struct bkv_epoch_slot *slot = take_free_slot();
    if (slot == NULL) {
        (void)pthread_mutex_lock(&grow_mutex);
        slot = take_free_slot(); /* another thread may have appended meanwhile */
        if (slot == NULL && append_block())
            slot = take_free_slot();
        (void)pthread_mutex_unlock(&grow_mutex);
    }
    if (slot == NULL)
        return NULL;
    if (pthread_setspecific(slot_key, slot) != 0) {
        atomic_store_explicit(&slot->taken, 0, memory_order_release);
        return NULL;
    }
    my_slot = slot;
    return slot;
}

struct bkv_epoch_slot *bkv_epoch_enter(void)
{
    struct bkv_epoch_slot *slot = my_slot;
    if (BKV_UNLIKELY(slot == NULL)) {
        slot = take_slot();
        if (slot == NULL)
            return NULL;
    }
    if (slot->depth++ == 0) {
        /* An old epoch is safe: it only delays reclamation. */
        uint64_t now = atomic_load_explicit(&global_epoch, memory_order_relaxed);
        if (BKV_LIKELY(atomic_load_explicit(&asymmetric, memory_order_relaxed))) {
            atomic_store_explicit(&slot->epoch, now, memory_order_relaxed);
            atomic_signal_fence(memory_order_seq_cst); /* for the compiler */
        } else {
            (void)atomic_exchange_explicit(&slot->epoch, now, memory_order_seq_cst);
        }
    }
    return slot;
}

struct bkv_epoch_slot *bkv_epoch_enter_again(void)
{
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    BKV_ASSERT(slot != NULL);
    return slot;
}

void bkv_epoch_exit(struct bkv_epoch_slot *slot)
{
    BKV_DEBUG_ASSERT(slot == my_slot && slot->depth > 0);
    if (--slot->depth > 0)
        return;
    atomic_store_explicit(&slot->epoch, 0, memory_order_release);
    if (BKV_UNLIKELY(atomic_load_explicit(&slot->call, memory_order_relaxed) != 0))
        atomic_store_explicit(&slot->call, 0, memory_order_release);
}

void bkv_epoch_pause(struct bkv_epoch_slot *slot)
{
    BKV_DEBUG_ASSERT(slot == my_slot && slot->depth > 0);
    slot->pauses++;
    if (slot->depth > 1)
        return;
    if (atomic_load_explicit(&slot->call, memory_order_relaxed) == 0)
        atomic_store_explicit(&slot->call, atomic_load_explicit(&slot->epoch, memory_order_relaxed),
                              memory_order_relaxed);
    atomic_store_explicit(&slot->epoch, 0, memory_order_release);
}

uint32_t bkv_epoch_pauses(const struct bkv_epoch_slot *slot)
{
    return slot->pauses;
}

void bkv_epoch_resume(struct bkv_epoch_slot *slot)
{
    if (slot->depth > 1)
        return;
    uint64_t now = atomic_load_explicit(&global_epoch, memory_order_relaxed);
    (void)atomic_exchange_explicit(&slot->epoch, now, memory_order_seq_cst); /* as on entering */
}

struct bkv_epoch_slot *bkv_epoch_here(void)
{
    return my_slot != NULL && my_slot->depth > 0 ? my_slot : NULL;
}

unsigned bkv_epoch_slot_index(const struct bkv_epoch_slot *slot)
{
    return slot->index;
}

uint64_t bkv_epoch_stamp(void)
{
    return atomic_fetch_add_explicit(&global_epoch, 1, memory_order_seq_cst);
}

/* The writer's side of the order, for itself and for all readers. */
static void order_readers(void)
{
    if (atomic_load_explicit(&asymmetric, memory_order_relaxed)) {
        long result = syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
        BKV_ASSERT(result == 0); /* registered: it cannot fail any more */
    } else {
#if !defined(__SANITIZE_THREAD__) && !BKV_THREAD_SANITIZER
        atomic_thread_fence(memory_order_seq_cst);
#endif
    }
}

/* The smallest epoch that a reader is in, or `now`; with `calls`, that a call
 * began in, even if it has left its section for a while. */
static uint64_t oldest_reader(uint64_t now, bool calls)
{
    /* A slot first taken after this load is entered after the unlinking too. */
    uint32_t left = atomic_load_explicit(&slots_used, memory_order_seq_cst);
    for (struct block *b = &first_block; b != NULL && left > 0;
         b = atomic_load_explicit(&b->next, memory_order_acquire)) {
        for (uint32_t i = 0; i < BLOCK_SLOTS && left > 0; i++, left--) {
            uint64_t epoch = atomic_load_explicit(&b->slots[i].epoch, memory_order_seq_cst);
            if (epoch != 0 && epoch < now)
                now = epoch;
            uint64_t call =
                calls ? atomic_load_explicit(&b->slots[i].call, memory_order_acquire) : 0;
            if (call != 0 && call < now)
                now = call;
        }
    }
    return now;
}

bool bkv_epoch_passed(uint64_t stamp)
{
    uint64_t known = atomic_load_explicit(&settled, memory_order_acquire);
    if (stamp < known)
        return true;
    /* Stamps below `now` were taken, and their objects unlinked, before here. */
    uint64_t now = atomic_load_explicit(&global_epoch, memory_order_seq_cst);
    order_readers();
    uint64_t oldest = oldest_reader(now, false);
    while (known < oldest &&
           !atomic_compare_exchange_weak_explicit(&settled, &known, oldest, memory_order_release,
                                                  memory_order_acquire))
        ;
    return stamp < oldest;
}

void bkv_epoch_wait(uint64_t stamp)
{
    /* Who looked before what the stamp stands for shows in its slot from here
     * on; who enters later sees it. */
    order_readers();
    for (unsigned round = 0; oldest_reader(UINT64_MAX, true) <= stamp; round++) {
        if (round < 100) {
            bkv_spin_pause();
            continue;
        }
        /* Readers leave within microseconds, writers that sync within
         * milliseconds: sleep, do not burn their processor. */
        bkv_sleep_us(200);
    }
}

void bkv_epoch_after_fork(void)
{
    (void)pthread_mutex_init(&grow_mutex, NULL); /* its owner may be gone */
    register_membarrier();
    for (struct block *b = &first_block; b != NULL;
         b = atomic_load_explicit(&b->next, memory_order_acquire)) {
        for (uint32_t i = 0; i < BLOCK_SLOTS; i++) {
            struct bkv_epoch_slot *slot = &b->slots[i];
            if (slot == my_slot)
                continue;
            slot->depth = 0;
            atomic_store_explicit(&slot->epoch, 0, memory_order_relaxed);
            atomic_store_explicit(&slot->call, 0, memory_order_relaxed);
            atomic_store_explicit(&slot->taken, 0, memory_order_release);
        }
    }
}
