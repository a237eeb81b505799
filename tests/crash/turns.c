/* SPDX-License-Identifier: MIT */
/*
 * Every thread is a thread of the system, so that thread-local data is what it
 * always is, but only the one whose turn it is runs; the others wait on a
 * condition of their own.
 *
 *   T1  `running` is the only thread that is outside of switch_to().
 *   T2  A thread that waits for an object has let go of nothing but its turn: what
 *       it tests again when it is woken is the object itself.
 *
 * A mutex is the real one, taken only when it is free, so whoever holds it when
 * turns begin or end keeps it.
 */
#include "crash/turns.h"

#include "base/lock.h"
#include "damage/lab.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MOST 64u
#define CALL_NS      40u      /* what a call takes */
#define POLL_NS      1000000u /* until a descriptor is looked at again */
#define STAY         3u       /* in so many of four calls nobody else is let go first */
#define BEGIN_NS     UINT64_C(1000000000000)
#define WALL_NS      UINT64_C(1700000000000000000)

struct turn {
    pthread_t thread;
    pthread_cond_t come;
    void *(*main)(void *);
    void *argument, *result;
    const void *waits_for; /* NULL: may run */
    uint64_t until_ns;     /* 0: for as long as it takes */
    bool used, done;
};

/* What the linker makes of a call, and what the call would have been. */
#define WRAPPED(result, name, ...)                                                                 \
    result __real_##name(__VA_ARGS__);                                                             \
    result __wrap_##name(__VA_ARGS__)

WRAPPED(int, pthread_create, pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
WRAPPED(int, pthread_join, pthread_t, void **);
WRAPPED(int, pthread_mutex_lock, pthread_mutex_t *);
WRAPPED(int, pthread_mutex_unlock, pthread_mutex_t *);
WRAPPED(int, pthread_cond_wait, pthread_cond_t *, pthread_mutex_t *);
WRAPPED(int, pthread_cond_signal, pthread_cond_t *);
WRAPPED(int, pthread_cond_broadcast, pthread_cond_t *);
WRAPPED(int, clock_gettime, clockid_t, struct timespec *);
WRAPPED(int, clock_nanosleep, clockid_t, int, const struct timespec *, struct timespec *);
WRAPPED(int, nanosleep, const struct timespec *, struct timespec *);
WRAPPED(int, sched_yield, void);
WRAPPED(int, ppoll, struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
WRAPPED(int, getentropy, void *, size_t);
WRAPPED(void, bkv_futex_wait, _Atomic uint32_t *, uint32_t, uint64_t);
WRAPPED(void, bkv_futex_wake, _Atomic uint32_t *, int);
WRAPPED(void, bkv_lock_slow, struct bkv_lock *);
WRAPPED(void, bkv_unlock_slow, struct bkv_lock *);

static pthread_mutex_t turn_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct turn turns[THREADS_MOST];
static struct turn *running;
static uint64_t random_state, now_ns, switches;
static pthread_key_t last_key;
static pthread_once_t last_once = PTHREAD_ONCE_INIT;

static _Thread_local struct turn *me; /* NULL: not of those that take turns */

/* --- whose turn it is ------------------------------------------------------------------- */

static bool may_run(const struct turn *t)
{
    bool waits = t->waits_for != NULL && (t->until_ns == 0 || t->until_ns > now_ns);
    return t->used && !t->done && !waits;
}

static void tell_and_end(void)
{
    (void)fprintf(stderr, "every thread waits, and none for the clock:\n");
    for (unsigned i = 0; i < THREADS_MOST; i++) {
        if (turns[i].used && !turns[i].done)
            (void)fprintf(stderr, "  thread %u for %p\n", i, turns[i].waits_for);
    }
    abort();
}

/* To when the next one of those that wait may go on. */
static void pass_time(void)
{
    uint64_t next = UINT64_MAX;
    for (unsigned i = 0; i < THREADS_MOST; i++) {
        const struct turn *t = &turns[i];
        if (t->used && !t->done && t->until_ns != 0 && t->until_ns < next)
            next = t->until_ns;
    }
    if (next == UINT64_MAX)
        tell_and_end();
    now_ns = next;
}

static struct turn *choose(void)
{
    struct turn *able[THREADS_MOST];
    unsigned count = 0;
    for (;;) {
        for (unsigned i = 0; i < THREADS_MOST; i++) {
            if (may_run(&turns[i]))
                able[count++] = &turns[i];
        }
        if (count > 0)
            return able[lab_random(&random_state) % count];
        pass_time();
    }
}

/* Under turn_mutex. Returns when it is the caller's turn. */
static void switch_to(struct turn *next)
{
    if (next == me)
        return;
    switches++;
    running = next;
    (void)__real_pthread_cond_signal(&next->come);
    while (running != me)
        (void)__real_pthread_cond_wait(&me->come, &turn_mutex);
}

static void let_go(void)
{
    (void)__real_pthread_mutex_lock(&turn_mutex);
    switch_to(choose());
    (void)__real_pthread_mutex_unlock(&turn_mutex);
}

/* At each call: time passes, and now and then somebody else is first. */
static void step(void)
{
    now_ns += CALL_NS;
    if (lab_random(&random_state) % 4 >= STAY)
        let_go();
}

static void wait_for(const void *object, uint64_t until_ns)
{
    me->waits_for = object;
    me->until_ns = until_ns;
    let_go();
    me->waits_for = NULL;
    me->until_ns = 0;
}

static uint64_t ns_of(const struct timespec *t)
{
    return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static void wake(const void *object, unsigned most)
{
    for (unsigned i = 0; i < THREADS_MOST && most > 0; i++) {
        if (turns[i].used && turns[i].waits_for == object) {
            turns[i].waits_for = NULL;
            turns[i].until_ns = 0;
            most--;
        }
    }
}

/* --- threads -------------------------------------------------------------------------------- */

static struct turn *take_place(void)
{
    for (unsigned i = 0; i < THREADS_MOST; i++) {
        if (!turns[i].used) {
            turns[i] = (struct turn){.used = true};
            (void)pthread_cond_init(&turns[i].come, NULL);
            return &turns[i];
        }
    }
    abort();
}

/* The destructors of thread-local data belong to the thread's turn, too. They come in
 * rounds, in no order; ours goes on to the last. */
static void leave(void *round)
{
    uintptr_t left = (uintptr_t)round - 1;
    if (left > 0) {
        (void)pthread_setspecific(last_key, (void *)left);
        return;
    }
    (void)__real_pthread_mutex_lock(&turn_mutex);
    me->done = true;
    wake(me, THREADS_MOST);
    running = choose();
    (void)__real_pthread_cond_signal(&running->come);
    (void)__real_pthread_mutex_unlock(&turn_mutex);
    me = NULL;
}

static void make_key(void)
{
    if (pthread_key_create(&last_key, leave) != 0)
        abort();
}

static void *main_of_thread(void *place)
{
    me = place;
    (void)pthread_setspecific(last_key, (void *)(uintptr_t)PTHREAD_DESTRUCTOR_ITERATIONS);
    (void)__real_pthread_mutex_lock(&turn_mutex);
    while (running != me)
        (void)__real_pthread_cond_wait(&me->come, &turn_mutex);
    (void)__real_pthread_mutex_unlock(&turn_mutex);
    me->result = me->main(me->argument);
    return me->result;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *argument)
{
    if (me == NULL)
        return __real_pthread_create(thread, attributes, start, argument);
    struct turn *t = take_place();
    t->main = start;
    t->argument = argument;
    int error = __real_pthread_create(&t->thread, attributes, main_of_thread, t);
    t->used = error == 0;
    *thread = t->thread;
    step();
    return error;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    struct turn *t = NULL;
    for (unsigned i = 0; i < THREADS_MOST && me != NULL; i++) {
        if (turns[i].used && pthread_equal(turns[i].thread, thread) && &turns[i] != me)
            t = &turns[i];
    }
    if (t == NULL)
        return __real_pthread_join(thread, result);
    while (!t->done)
        wait_for(t, 0);
    int error = __real_pthread_join(thread, result);
    (void)pthread_cond_destroy(&t->come);
    t->used = false;
    return error;
}

/* --- where they meet ---------------------------------------------------------------------- */

static void take_mutex(pthread_mutex_t *mutex)
{
    while (pthread_mutex_trylock(mutex) != 0)
        wait_for(mutex, 0);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (me == NULL)
        return __real_pthread_mutex_lock(mutex);
    step();
    take_mutex(mutex);
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    int error = __real_pthread_mutex_unlock(mutex);
    if (me != NULL)
        wake(mutex, THREADS_MOST);
    return error;
}

int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    if (me == NULL)
        return __real_pthread_cond_wait(condition, mutex);
    (void)__real_pthread_mutex_unlock(mutex);
    wake(mutex, THREADS_MOST);
    wait_for(condition, 0);
    take_mutex(mutex);
    return 0;
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition)
{
    if (me == NULL)
        return __real_pthread_cond_signal(condition);
    wake(condition, 1);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *condition)
{
    if (me == NULL)
        return __real_pthread_cond_broadcast(condition);
    wake(condition, THREADS_MOST);
    return 0;
}

void __wrap_bkv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    if (me == NULL) {
        __real_bkv_futex_wait(word, expected, timeout_ns);
        return;
    }
    step();
    if (atomic_load(word) == expected)
        wait_for(word, timeout_ns != 0 ? now_ns + timeout_ns : 0);
}

void __wrap_bkv_futex_wake(_Atomic uint32_t *word, int count)
{
    if (me == NULL)
        __real_bkv_futex_wake(word, count);
    else
        wake(word, (unsigned)count);
}

void __wrap_bkv_lock_slow(struct bkv_lock *lock)
{
    if (me == NULL) {
        __real_bkv_lock_slow(lock);
        return;
    }
    while (atomic_exchange(&lock->state, 2) != 0)
        wait_for(lock, 0);
}

void __wrap_bkv_unlock_slow(struct bkv_lock *lock)
{
    if (me == NULL)
        __real_bkv_unlock_slow(lock);
    else
        wake(lock, 1);
}

int __wrap_sched_yield(void)
{
    if (me == NULL)
        return __real_sched_yield();
    now_ns += CALL_NS;
    let_go();
    return 0;
}

/* A descriptor is made ready by one who has a turn: it is looked at now and then. */
int __wrap_ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout,
                 const sigset_t *mask)
{
    if (me == NULL)
        return __real_ppoll(descriptors, count, timeout, mask);
    step();
    uint64_t end = timeout == NULL ? UINT64_MAX : now_ns + ns_of(timeout);
    for (;;) {
        int ready = __real_ppoll(descriptors, count, &(struct timespec){0}, mask);
        if (ready != 0 || now_ns >= end)
            return ready;
        uint64_t again = now_ns + POLL_NS;
        wait_for(descriptors, again < end ? again : end);
    }
}

/* --- time and chance ----------------------------------------------------------------------- */

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    if (me == NULL)
        return __real_clock_gettime(id, t);
    now_ns += CALL_NS;
    uint64_t ns = now_ns + (id == CLOCK_REALTIME ? WALL_NS : 0);
    *t = (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                           .tv_nsec = (long)(ns % 1000000000u)};
    return 0;
}

int __wrap_clock_nanosleep(clockid_t id, int flags, const struct timespec *t, struct timespec *left)
{
    if (me == NULL)
        return __real_clock_nanosleep(id, flags, t, left);
    uint64_t until = flags == TIMER_ABSTIME ? ns_of(t) : now_ns + ns_of(t);
    wait_for(t, until);
    return 0;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *left)
{
    return me == NULL ? __real_nanosleep(t, left) : __wrap_clock_nanosleep(0, 0, t, left);
}

int __wrap_getentropy(void *data, size_t size)
{
    if (me == NULL)
        return __real_getentropy(data, size);
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = (uint8_t)lab_random(&random_state);
    return 0;
}

/* --- from here, to there ---------------------------------------------------------------------- */

void turns_begin(uint64_t seed, uint64_t later_ms)
{
    (void)pthread_once(&last_once, make_key);
    random_state = seed;
    now_ns = BEGIN_NS + later_ms * 1000000u;
    switches = 0;
    me = running = take_place();
    me->thread = pthread_self();
}

void turns_end(void)
{
    for (unsigned i = 0; i < THREADS_MOST; i++) {
        if (turns[i].used && &turns[i] != me) {
            (void)fprintf(stderr, "thread %u was not joined\n", i);
            abort();
        }
    }
    (void)pthread_cond_destroy(&me->come);
    me->used = false;
    me = running = NULL;
}

uint64_t turns_taken(void)
{
    return switches;
}
