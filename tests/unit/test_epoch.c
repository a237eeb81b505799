/* SPDX-License-Identifier: MIT */
/* Nothing is reclaimed while a reader that may see it is inside. */
#include "base/epoch.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static _Atomic int stage;

static void *reader(void *unused)
{
    (void)unused;
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    atomic_store(&stage, 1);
    while (atomic_load(&stage) != 2)
        (void)sched_yield();
    bkv_epoch_exit(slot);
    atomic_store(&stage, 3);
    while (atomic_load(&stage) != 4)
        (void)sched_yield();
    return NULL;
}

static void a_stamp_has_passed_when_its_readers_have_left(void **state)
{
    (void)state;
    uint64_t before = bkv_epoch_stamp();
    assert_true(bkv_epoch_passed(before));
    atomic_store(&stage, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, reader, NULL), 0);
    while (atomic_load(&stage) != 1)
        (void)sched_yield();
    assert_true(bkv_epoch_passed(before)); /* it came later */
    uint64_t stamp = bkv_epoch_stamp();
    for (int i = 0; i < 1000; i++)
        assert_false(bkv_epoch_passed(stamp));
    atomic_store(&stage, 2);
    while (atomic_load(&stage) != 3)
        (void)sched_yield();
    assert_true(bkv_epoch_passed(stamp));
    bkv_epoch_wait(stamp);
    atomic_store(&stage, 4);
    (void)pthread_join(thread, NULL);
}

static void sections_nest(void **state)
{
    (void)state;
    struct bkv_epoch_slot *outer = bkv_epoch_enter();
    struct bkv_epoch_slot *inner = bkv_epoch_enter();
    assert_ptr_equal(outer, inner);
    uint64_t stamp = bkv_epoch_stamp();
    bkv_epoch_exit(inner);
    assert_false(bkv_epoch_passed(stamp));
    bkv_epoch_exit(outer);
    assert_true(bkv_epoch_passed(stamp));
}

static void *take_index(void *index)
{
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    *(unsigned *)index = bkv_epoch_slot_index(slot);
    bkv_epoch_exit(slot);
    return NULL;
}

static void slots_of_threads_that_ended_are_used_again(void **state)
{
    (void)state;
    unsigned first = 0;
    for (int i = 0; i < 500; i++) {
        unsigned index = 0;
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, take_index, &index), 0);
        (void)pthread_join(thread, NULL);
        if (i == 0)
            first = index;
        assert_int_equal(index, first);
    }
}

/* --- readers against a writer ------------------------------------------------------- */

#define READERS 4

struct object {
    _Atomic uint64_t alive;
};

static struct object *_Atomic shared;
static _Atomic bool stop;
static _Atomic unsigned dead_seen;

static void *read_loop(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        struct bkv_epoch_slot *slot = bkv_epoch_enter();
        struct object *object = atomic_load(&shared);
        for (int i = 0; i < 20; i++) {
            if (atomic_load_explicit(&object->alive, memory_order_relaxed) != 1)
                atomic_fetch_add(&dead_seen, 1);
        }
        bkv_epoch_exit(slot);
    }
    return NULL;
}

static void a_retired_object_is_not_passed_while_a_reader_is_in(void **state)
{
    (void)state;
    static struct object objects[2];
    atomic_store(&objects[0].alive, 1);
    atomic_store(&shared, &objects[0]);
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_loop, NULL), 0);
    for (int i = 0; i < 3000; i++) {
        struct object *old = &objects[i % 2];
        struct object *fresh = &objects[(i + 1) % 2];
        atomic_store(&fresh->alive, 1);
        atomic_store(&shared, fresh);
        bkv_epoch_wait(bkv_epoch_stamp());
        atomic_store(&old->alive, 0); /* reclaimed */
    }
    atomic_store(&stop, true);
    for (int i = 0; i < READERS; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&dead_seen), 0);
}

static void a_child_of_fork_is_not_held_up_by_the_parent_s_readers(void **state)
{
    (void)state;
    atomic_store(&stage, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, reader, NULL), 0);
    while (atomic_load(&stage) != 1)
        (void)sched_yield();
    pid_t child = fork();
    if (child == 0) {
        bkv_epoch_after_fork();
        _exit(bkv_epoch_passed(bkv_epoch_stamp()) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    atomic_store(&stage, 2);
    while (atomic_load(&stage) != 3)
        (void)sched_yield();
    atomic_store(&stage, 4);
    (void)pthread_join(thread, NULL);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stamp_has_passed_when_its_readers_have_left),
        cmocka_unit_test(sections_nest),
        cmocka_unit_test(slots_of_threads_that_ended_are_used_again),
        cmocka_unit_test(a_retired_object_is_not_passed_while_a_reader_is_in),
        cmocka_unit_test(a_child_of_fork_is_not_held_up_by_the_parent_s_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
