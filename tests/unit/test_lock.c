/* SPDX-License-Identifier: MIT */
/* The write lock excludes, and nobody waits for ever. */
#include "base/clock.h"
#include "base/lock.h"

#include <pthread.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 4
#define ROUNDS  40000

static struct bkv_lock lock;
static uint64_t counter; /* not atomic: the lock's to protect */

static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        bkv_lock(&lock);
        counter++;
        bkv_unlock(&lock);
    }
    return NULL;
}

static void one_thread_at_a_time(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(counter, (uint64_t)THREADS * ROUNDS);
    assert_int_equal(atomic_load(&lock.state), 0);
}

static void a_held_lock_is_not_taken(void **state)
{
    (void)state;
    bkv_lock(&lock);
    assert_false(bkv_trylock(&lock));
    bkv_unlock(&lock);
    assert_true(bkv_trylock(&lock));
    bkv_unlock(&lock);
}

static void *take(void *unused)
{
    (void)unused;
    bkv_lock(&lock);
    bkv_unlock(&lock);
    return NULL;
}

static void sleepers_are_woken(void **state)
{
    (void)state;
    bkv_lock(&lock);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take, NULL), 0);
    while (atomic_load(&lock.state) != 2)
        (void)usleep(100);
    bkv_unlock(&lock);
    for (int i = 0; i < THREADS; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&lock.state), 0);
}

static void a_futex_wait_ends_by_change_or_by_time(void **state)
{
    (void)state;
    _Atomic uint32_t word = 5;
    bkv_futex_wait(&word, 4, 0); /* differs: returns at once */
    uint64_t begun = bkv_now_ns();
    bkv_futex_wait(&word, 5, 3000000);
    assert_true(bkv_now_ns() - begun >= 2000000 || atomic_load(&word) == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_at_a_time),
        cmocka_unit_test(a_held_lock_is_not_taken),
        cmocka_unit_test(sleepers_are_woken),
        cmocka_unit_test(a_futex_wait_ends_by_change_or_by_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
