/* SPDX-License-Identifier: MIT */
/* What a process has little of: descriptors, mappings, memory, threads. Each
 * test runs in a child, where limits can be lowered. */
#include "api/fixture.h"

#include "io/io.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            print_error("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition,                        \
                        bitkv_error_context());                                                    \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void in_a_child(void (*test)(bitkv_io_mode mode), bitkv_io_mode mode)
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        test(mode);
        _exit(0);
    }
    assert_int_equal(wait_child(child), 0);
}

static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;
    check(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = most;
    check(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* --- descriptors -------------------------------------------------------------- */

#define KEYS 900u

static bitkv *shared_db;
static unsigned char value_of_all[21000];

static void *read_at_random(void *argument)
{
    struct chance c = {.state = (uintptr_t)argument};
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t key = (uint32_t)below(&c, KEYS);
        bitkv_view view;
        check(bitkv_get_view(shared_db, &key, sizeof key, &view) == BITKV_OK);
        check(view.size == sizeof value_of_all - key &&
              memcmp(view.data, value_of_all, view.size) == 0);
        bitkv_view_release(&view);
    }
    return NULL;
}

static int count_record(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(unsigned *)user;
    return 0;
}

static void use_many_segments(bitkv_io_mode mode)
{
    limit_descriptors(64);
    fill(value_of_all, sizeof value_of_all, 5);
    bitkv_options o = one_partition(mode);
    o.partitions = 3;
    check(bitkv_open(&shared_db, path, &o) == BITKV_OK);
    for (uint32_t key = 0; key < KEYS; key++)
        check(bitkv_put(shared_db, &key, sizeof key, value_of_all, sizeof value_of_all - key) ==
              BITKV_OK);
    check(bitkv_close(shared_db) == BITKV_OK);
    for (int pass = 0; pass < 2; pass++) {
        o.read_only = pass == 1;
        check(bitkv_open(&shared_db, path, &o) == BITKV_OK);
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; i++)
            check(pthread_create(&threads[i], NULL, read_at_random, (void *)(i + 1)) == 0);
        for (unsigned i = 0; i < 4; i++)
            check(pthread_join(threads[i], NULL) == 0);
        unsigned visited = 0;
        check(bitkv_scan(shared_db, BITKV_SCAN_ALL, count_record, &visited) == BITKV_OK);
        check(visited == KEYS);
        static bitkv_get_item items[KEYS];
        static uint32_t ids[KEYS];
        for (uint32_t i = 0; i < KEYS; i++) {
            ids[i] = i * 7 % KEYS;
            items[i] = (bitkv_get_item){.key = &ids[i], .key_size = sizeof ids[i]};
        }
        check(bitkv_multi_get(shared_db, items, KEYS) == BITKV_OK);
        for (uint32_t i = 0; i < KEYS; i++)
            bitkv_free(items[i].value);
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        check(bitkv_stats(shared_db, BITKV_ALL_PARTITIONS, &s) == BITKV_OK);
        check(s.segments >= 280 && s.open_files < 64 && s.errors_total == 0);
        check(bitkv_close(shared_db) == BITKV_OK);
    }
}

static void hundreds_of_segments_need_few_descriptors_with_mappings(void **state)
{
    (void)state;
    in_a_child(use_many_segments, BITKV_IO_MMAP);
}

static void hundreds_of_segments_need_few_descriptors_with_pwrite(void **state)
{
    (void)state;
    in_a_child(use_many_segments, BITKV_IO_PWRITE);
}

static void recover_many_segments(bitkv_io_mode mode)
{
    fill(value_of_all, sizeof value_of_all, 5);
    bitkv_options o = one_partition(mode);
    limit_descriptors(64);
    check(bitkv_open(&shared_db, path, &o) == BITKV_OK);
    for (uint32_t key = 0; key < 400; key++) {
        check(bitkv_exists(shared_db, &key, sizeof key) == BITKV_OK);
        check(bitkv_put(shared_db, &key, sizeof key, "new", 3) == BITKV_OK);
    }
    check(bitkv_sync(shared_db) == BITKV_OK);
    check(bitkv_close(shared_db) == BITKV_OK);
}

static void so_does_their_recovery(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        die_with_keys(&o, 400, 25000);
        in_a_child(recover_many_segments, mode);
    }
}

static void open_too_many_partitions(bitkv_io_mode mode)
{
    limit_descriptors(64);
    bitkv_options o = one_partition(mode);
    o.partitions = 300;
    unsigned before = count_descriptors();
    unsigned threads = count_threads();
    uint64_t begun = now_ms();
    bitkv *db = (bitkv *)&db;
    int rc = bitkv_open(&db, path, &o);
    check(rc == BITKV_ERR_TOO_MANY_FILES);
    check(db == NULL);
    check(strstr(bitkv_error_context(), "partitions") != NULL);
    check(now_ms() - begun < 5000);
    check(count_descriptors() == before);
    check(count_threads() == threads);
}

/* At once, and not at the first write that finds none. */
static void too_many_partitions_for_the_descriptors_are_refused_at_opening(void **state)
{
    (void)state;
    for_both_modes(mode) in_a_child(open_too_many_partitions, mode);
}

static struct bkv_io_ops ops;
static _Atomic bool exhausted;

static int openat_of_few(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&exhausted)) {
        errno = EMFILE;
        return -1;
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static void exhaust_descriptors(bitkv_io_mode mode)
{
    ops = bkv_io_kernel;
    ops.openat = openat_of_few;
    bkv_io = &ops;
    bitkv_options o = one_partition(mode);
    bitkv *db;
    check(bitkv_open(&db, path, &o) == BITKV_OK);
    static char value[30000];
    uint32_t key = 0;
    for (; key < 20; key++)
        check(bitkv_put(db, &key, sizeof key, value, sizeof value) == BITKV_OK);
    atomic_store(&exhausted, true);
    int rc = BITKV_OK;
    for (; key < 60 && rc == BITKV_OK; key++)
        rc = bitkv_put(db, &key, sizeof key, value, sizeof value);
    check(rc == BITKV_ERR_TOO_MANY_FILES);
    key--;
    check(bitkv_exists(db, &key, sizeof key) == BITKV_NOT_FOUND);
    check(bitkv_sync(db) == BITKV_OK); /* what is open can be synced */
    atomic_store(&exhausted, false);
    check(bitkv_put(db, &key, sizeof key, value, sizeof value) == BITKV_OK);
    check(bitkv_close(db) == BITKV_OK);
    check(bitkv_open(&db, path, &o) == BITKV_OK);
    for (uint32_t i = 0; i <= key; i++)
        check(bitkv_exists(db, &i, sizeof i) == BITKV_OK);
    check(bitkv_close(db) == BITKV_OK);
}

static void a_put_without_descriptors_fails_and_the_next_goes_on(void **state)
{
    (void)state;
    for_both_modes(mode) in_a_child(exhaust_descriptors, mode);
}

/* --- nothing is left behind -------------------------------------------------------- */

static size_t anonymous_kib(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    check(file != NULL);
    char line[200];
    size_t kib = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "RssAnon: %zu", &kib) == 1)
            break;
    }
    (void)fclose(file);
    return kib;
}

static void open_and_close(bitkv_io_mode mode, unsigned times)
{
    static char value[3000];
    bitkv_options o = one_partition(mode);
    o.partitions = 2;
    for (unsigned i = 0; i < times; i++) {
        bitkv *db;
        check(bitkv_open(&db, path, &o) == BITKV_OK);
        check(bitkv_put(db, &i, i % 4 + 1, value, sizeof value) == BITKV_OK);
        check(bitkv_exists(db, &i, i % 4 + 1) == BITKV_OK);
        check(bitkv_close(db) == BITKV_OK);
    }
}

static void fail_to_open(unsigned times)
{
    char name[PATH_SIZE];
    bitkv *db;
    bitkv_options wrong;
    bitkv_options_init(&wrong);
    wrong.partitions = 9;
    bitkv_options strict;
    bitkv_options_init(&strict);
    strict.strict_recovery = true;
    bitkv_options absent;
    bitkv_options_init(&absent);
    absent.create_if_missing = false;
    for (unsigned i = 0; i < times; i++) {
        check(bitkv_open(&db, path, &wrong) == BITKV_ERR_PARTITION_COUNT);
        check(bitkv_open(&db, inside(name, directory, "none"), &absent) == BITKV_ERR_NO_DATABASE);
        check(bitkv_open(&db, inside(name, directory, "a/b"), NULL) < 0);
        check(bitkv_open(&db, inside(name, directory, "damaged"), &strict) == BITKV_ERR_CORRUPT);
        check(bitkv_open(&db, inside(name, directory, "halved"), NULL) == BITKV_ERR_CORRUPT);
    }
}

static void make_broken_ones(void)
{
    char name[PATH_SIZE];
    char sub[PATH_SIZE];
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.partitions = 2;
    bitkv *db;
    check(bitkv_open(&db, inside(name, directory, "damaged"), &o) == BITKV_OK);
    for (uint32_t i = 0; i < 100; i++)
        check(bitkv_put(db, &i, sizeof i, "value", 5) == BITKV_OK);
    check(bitkv_close(db) == BITKV_OK);
    copy_tree(name, inside(sub, directory, "halved"));
    int fd = open(inside(sub, name, "partition_1/keydir.ckp"), O_WRONLY | O_CLOEXEC);
    check(pwrite(fd, "damage", 6, 100) == 6);
    (void)close(fd);
    inside(name, directory, "halved");
    remove_tree(inside(sub, name, "partition_1"));
}

/* What the process had before a round and after it. The allocator's own caches
 * count as in use, so a single round may end with more; a leak grows in each. */
static bool a_round_takes_no_memory(bitkv_io_mode mode)
{
    size_t kib = anonymous_kib();
    size_t used = mallinfo2().uordblks;
    open_and_close(mode, 250);
    fail_to_open(100);
    size_t used_now = mallinfo2().uordblks;
    size_t kib_now = anonymous_kib();
    bool same = used_now <= used + 4096 && kib_now <= kib + 2048;
    if (!same)
        print_error("%zu bytes in use before, %zu after; %zu KiB, %zu KiB\n", used, used_now, kib,
                    kib_now);
    return same;
}

static void leave_nothing_behind(bitkv_io_mode mode)
{
    make_broken_ones();
    open_and_close(mode, 20);
    fail_to_open(20);
    unsigned descriptors = count_descriptors();
    unsigned threads = 1;           /* but for the sanitizer's own */
    if (UNDER_TSAN || UNDER_ASAN) { /* their memory is not ours to measure */
        open_and_close(mode, 30);
        fail_to_open(100);
    } else {
        unsigned rounds = 0;
        while (!a_round_takes_no_memory(mode))
            check(++rounds < 3);
    }
    check(count_descriptors() == descriptors);
    for (unsigned i = 0; i < 100 && !UNDER_TSAN && count_threads() > threads; i++)
        sleep_ms(10); /* joined threads may linger in /proc */
    check(count_threads() <= threads || UNDER_TSAN);
}

static void opening_and_closing_leaves_nothing_behind(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        in_a_child(leave_nothing_behind, mode);
        remove_tree(directory);
        assert_int_equal(mkdir(directory, 0700), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hundreds_of_segments_need_few_descriptors_with_mappings),
        TEST(hundreds_of_segments_need_few_descriptors_with_pwrite),
        TEST(so_does_their_recovery),
        TEST(too_many_partitions_for_the_descriptors_are_refused_at_opening),
        TEST(a_put_without_descriptors_fails_and_the_next_goes_on),
        TEST(opening_and_closing_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
