/* SPDX-License-Identifier: MIT */
/* A handle belongs to the process that opened it. */
#include "api/fixture.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            print_error("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition,                        \
                        bitkv_error_context());                                                    \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static int never(void *user, const bitkv_record *record)
{
    (void)user;
    (void)record;
    return 99;
}

static int never_asked(void *user, bitkv_update_step *step)
{
    (void)user;
    (void)step;
    return BITKV_UPDATE_DELETE;
}

/* In the child: everything is refused, and touches nothing. */
static void expect_forked(bitkv *db)
{
    void *value = &value;
    char buffer[8];
    bitkv_view view = {.data = "x"};
    bitkv_get_item item = {.key = "k", .key_size = 1};
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    check(bitkv_put(db, "k", 1, "w", 1) == BITKV_ERR_FORKED);
    check(bitkv_put_with(db, "k", 1, "w", 1, BITKV_DURABILITY_SYNC) == BITKV_ERR_FORKED);
    check(bitkv_get(db, "k", 1, &value, NULL) == BITKV_ERR_FORKED);
    check(value == NULL);
    check(bitkv_get_into(db, "k", 1, buffer, sizeof buffer, NULL) == BITKV_ERR_FORKED);
    check(bitkv_get_view(db, "k", 1, &view) == BITKV_ERR_FORKED);
    check(view.data == NULL);
    check(bitkv_multi_get(db, &item, 1) == BITKV_ERR_FORKED);
    check(bitkv_del(db, "k", 1) == BITKV_ERR_FORKED);
    check(bitkv_del_with(db, "k", 1, BITKV_DURABILITY_NONE) == BITKV_ERR_FORKED);
    check(bitkv_exists(db, "k", 1) == BITKV_ERR_FORKED);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    check(bitkv_info(db, "k", 1, &info) == BITKV_ERR_FORKED);
    check(bitkv_touch(db, "k", 1, 1) == BITKV_ERR_FORKED);
    check(bitkv_put_if(db, "k", 1, "w", 1, NULL, NULL) == BITKV_ERR_FORKED);
    check(bitkv_del_if(db, "k", 1, 1, BITKV_DURABILITY_NONE) == BITKV_ERR_FORKED);
    check(bitkv_add(db, "k", 1, 1, NULL) == BITKV_ERR_FORKED);
    check(bitkv_update(db, "k", 1, never_asked, NULL, BITKV_DURABILITY_NONE) == BITKV_ERR_FORKED);
    check(bitkv_sync(db) == BITKV_ERR_FORKED);
    check(bitkv_scan(db, BITKV_SCAN_ALL, never, NULL) == BITKV_ERR_FORKED);
    check(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s) == BITKV_ERR_FORKED);
    check(bitkv_close(db) == BITKV_ERR_FORKED);
    check(strstr(bitkv_error_context(), "fork") != NULL);
    check(bitkv_close(db) == BITKV_ERR_FORKED); /* still */
}

static void in_a_forked_child_every_call_is_refused(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "k", "v");
        (void)fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            expect_forked(db);
            exit(0); /* with all that runs at exit */
        }
        put_text(db, "meanwhile", "1");
        assert_int_equal(wait_child(child), 0);
        expect_text(db, "k", "v");
        put_text(db, "after", "2");
        ok(bitkv_close(db));
        db = open_small(mode);
        expect_text(db, "k", "v");
        expect_text(db, "meanwhile", "1");
        expect_text(db, "after", "2");
        ok(bitkv_close(db));
    }
}

static void a_read_only_handle_is_refused_in_a_child_too(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    ok(bitkv_close(db));
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.read_only = true;
    db = open_with(&o);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        expect_forked(db);
        _exit(0);
    }
    assert_int_equal(wait_child(child), 0);
    ok(bitkv_close(db));
}

/* The child waits until the pipe is closed. */
static pid_t linger(int go[2], bool by_system_call)
{
    assert_int_equal(pipe(go), 0);
    (void)fflush(NULL);
    pid_t child =
        by_system_call ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
    assert_true(child >= 0);
    if (child == 0) {
        char byte;
        (void)close(go[1]);
        (void)!read(go[0], &byte, 1);
        _exit(0);
    }
    (void)close(go[0]);
    return child;
}

static void a_child_that_lives_on_does_not_keep_the_database_locked(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    int go[2];
    pid_t child = linger(go, false);
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    (void)close(go[1]);
    assert_int_equal(wait_child(child), 0);
}

/* Some forks run no handlers. */
static void nor_does_one_that_was_made_by_a_bare_system_call(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    int go[2];
    pid_t child = linger(go, true);
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    ok(bitkv_close(db));
    (void)close(go[1]);
    assert_int_equal(wait_child(child), 0);
}

static void a_child_of_a_bare_system_call_is_refused_too(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(bitkv_exists(db, "k", 1) == BITKV_ERR_FORKED ? 0 : 1);
    assert_int_equal(wait_child(child), 0);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void a_child_may_open_a_database_itself(void **state)
{
    (void)state;
    if (UNDER_TSAN)
        skip(); /* it allows no threads in a child of a process that has some */
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char other[PATH_SIZE];
        bitkv *own;
        check(bitkv_open(&own, path, NULL) == BITKV_ERR_LOCKED); /* the parent has it */
        check(bitkv_open(&own, inside(other, directory, "own"), NULL) == BITKV_OK);
        check(bitkv_put(own, "k", 1, "w", 1) == BITKV_OK);
        check(bitkv_exists(own, "k", 1) == BITKV_OK);
        check(bitkv_exists(db, "k", 1) == BITKV_ERR_FORKED);
        /* and its children are again refused */
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(bitkv_exists(own, "k", 1) == BITKV_ERR_FORKED &&
                          bitkv_exists(db, "k", 1) == BITKV_ERR_FORKED
                      ? 0
                      : 1);
        int status;
        check(waitpid(grandchild, &status, 0) == grandchild && status == 0);
        check(bitkv_close(own) == BITKV_OK);
        _exit(0);
    }
    assert_int_equal(wait_child(child), 0);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void a_child_may_open_what_its_parent_has_closed(void **state)
{
    (void)state;
    if (UNDER_TSAN)
        skip();
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    int go[2];
    assert_int_equal(pipe(go), 0);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        (void)close(go[1]);
        (void)!read(go[0], &byte, 1);
        bitkv *own;
        check(bitkv_open(&own, path, NULL) == BITKV_OK);
        check(bitkv_exists(own, "k", 1) == BITKV_OK);
        check(bitkv_close(own) == BITKV_OK);
        _exit(0);
    }
    (void)close(go[0]);
    ok(bitkv_close(db));
    (void)close(go[1]);
    assert_int_equal(wait_child(child), 0);
}

static void a_view_may_be_released_in_both(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_small(mode);
        put_text(db, "k", "value");
        bitkv_view view;
        ok(bitkv_get_view(db, "k", 1, &view));
        (void)fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            check(memcmp(view.data, "value", 5) == 0);
            bitkv_view_release(&view);
            _exit(0);
        }
        assert_int_equal(wait_child(child), 0);
        assert_memory_equal(view.data, "value", 5);
        bitkv_view_release(&view);
        ok(bitkv_close(db));
    }
}

static void open_and_close(const char *where)
{
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    bitkv *db;
    bitkv_cq *cq;
    check(bitkv_open(&db, where, &o) == BITKV_OK);
    check(bitkv_cq_create(&cq, db, NULL) == BITKV_OK);
    check(bitkv_cq_destroy(cq) == BITKV_OK);
    check(bitkv_close(db) == BITKV_OK);
}

static void *keep_opening(void *stop)
{
    while (!atomic_load((_Atomic bool *)stop))
        open_and_close(path);
    return NULL;
}

/* Whatever another thread of the parent is in the middle of. */
static void a_child_opens_while_its_parent_does(void **state)
{
    (void)state;
    if (UNDER_TSAN || UNDER_ASAN) /* whose own allocator may be locked in the child */
        skip();
    _Atomic bool stop = false;
    char other[PATH_SIZE];
    pthread_t thread;
    inside(other, directory, "own");
    open_and_close(other); /* handlers are set */
    assert_int_equal(pthread_create(&thread, NULL, keep_opening, &stop), 0);
    for (unsigned i = 0; i < 100; i++) {
        (void)fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(60);
            open_and_close(other);
            _exit(0);
        }
        assert_int_equal(wait_child(child), 0);
    }
    atomic_store(&stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(in_a_forked_child_every_call_is_refused),
        TEST(a_read_only_handle_is_refused_in_a_child_too),
        TEST(a_child_that_lives_on_does_not_keep_the_database_locked),
        TEST(nor_does_one_that_was_made_by_a_bare_system_call),
        TEST(a_child_of_a_bare_system_call_is_refused_too),
        TEST(a_child_may_open_a_database_itself),
        TEST(a_child_may_open_what_its_parent_has_closed),
        TEST(a_view_may_be_released_in_both),
        TEST(a_child_opens_while_its_parent_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
