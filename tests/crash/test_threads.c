/* SPDX-License-Identifier: MIT */
/*
 * Threads that do everything at once, on segments so small and so few of them
 * open that rotation, opening and closing of files are always under way.
 *
 * Each key has versions that only ascend. A writer holds the key's lock,
 * publishes the version as begun, writes it, publishes it as acknowledged.
 * Whoever reads a key knows before the call which version is acknowledged, and
 * after it which has begun: what was read must lie between.
 *
 *   BITKV_MS=n  milliseconds for each test (default 2500)
 */
#include "api/scratch.h"

#include "io/io.h"

#include <pthread.h>
#include <stdatomic.h>

#define KEYS   400u
#define HOT    8u   /* these are written most */
#define STABLE 200u /* from this one on, keys are never deleted */

struct key {
    _Alignas(64) pthread_mutex_t mutex;
    _Atomic uint64_t begun;
    _Atomic uint64_t acknowledged;
};

static struct key keys[KEYS];
static bitkv *db;
static char directory[PATH_SIZE];
static char path[PATH_SIZE];
static _Atomic bool stop;
static _Atomic uint64_t troubles;
static _Atomic uint64_t seeds;

/* Other threads must not end the test by themselves. */
#define trouble(...)                                                                               \
    do {                                                                                           \
        if (atomic_fetch_add(&troubles, 1) < 5) {                                                  \
            char text[400];                                                                        \
            (void)snprintf(text, sizeof text, __VA_ARGS__);                                        \
            (void)fprintf(stderr, "%s (last context: %s)\n", text, bitkv_error_context());         \
        }                                                                                          \
        atomic_store(&stop, true);                                                                 \
    } while (0)

struct value {
    uint32_t key;
    uint32_t size;
    uint64_t version;
    unsigned char rest[3000];
};

static bool deletes(uint32_t key, uint64_t version)
{
    return key < STABLE && version % 5 == 4;
}

static size_t make_value(struct value *v, uint32_t key, uint64_t version)
{
    uint64_t h = mix(version * KEYS + key);
    size_t size = offsetof(struct value, rest) + (h % 10 == 0 ? h % sizeof v->rest : h % 60);
    *v = (struct value){.key = key, .size = (uint32_t)size, .version = version};
    fill(v->rest, size - offsetof(struct value, rest), h);
    return size;
}

/* The version of a value; 0 if it is none that was written for this key. */
static uint64_t version_of(uint32_t key, const void *bytes, size_t size)
{
    struct value got;
    struct value made;
    if (size < offsetof(struct value, rest) || size > sizeof got)
        return 0;
    memcpy(&got, bytes, size);
    if (got.key != key || got.size != size || make_value(&made, key, got.version) != size ||
        memcmp(made.rest, got.rest, size - offsetof(struct value, rest)) != 0)
        return 0;
    return got.version;
}

static void check_read(uint32_t key, uint64_t acknowledged, int rc, const void *bytes, size_t size,
                       const char *how)
{
    uint64_t begun = atomic_load(&keys[key].begun);
    if (rc == BITKV_OK) {
        uint64_t version = version_of(key, bytes, size);
        if (version == 0)
            trouble("%s of key %u: %zu bytes that nobody wrote", how, key, size);
        else if (version < acknowledged || version > begun)
            trouble("%s of key %u: version %llu, not within %llu to %llu", how, key,
                    (unsigned long long)version, (unsigned long long)acknowledged,
                    (unsigned long long)begun);
        return;
    }
    if (rc != BITKV_NOT_FOUND) {
        trouble("%s of key %u gave %s", how, key, bitkv_error_name(rc));
        return;
    }
    for (uint64_t v = acknowledged; v <= begun; v++) {
        if (v == 0 || deletes(key, v))
            return;
    }
    trouble("%s of key %u: not found, but versions %llu to %llu are values", how, key,
            (unsigned long long)acknowledged, (unsigned long long)begun);
}

static uint32_t draw_key(struct chance *c)
{
    return (uint32_t)(one_in(c, 2) ? below(c, HOT) : below(c, KEYS));
}

static void write_key(struct chance *c, uint32_t key)
{
    (void)pthread_mutex_lock(&keys[key].mutex);
    uint64_t version = atomic_load(&keys[key].begun) + 1;
    atomic_store(&keys[key].begun, version);
    int rc;
    if (deletes(key, version)) {
        rc = bitkv_del(db, &key, sizeof key);
    } else {
        struct value value;
        size_t size = make_value(&value, key, version);
        bitkv_durability d = one_in(c, 500) ? BITKV_DURABILITY_SYNC : (bitkv_durability)below(c, 3);
        rc = bitkv_put_with(db, &key, sizeof key, &value, size, d);
    }
    if (rc != BITKV_OK)
        trouble("write of key %u, version %llu, gave %s", key, (unsigned long long)version,
                bitkv_error_name(rc));
    atomic_store(&keys[key].acknowledged, version);
    (void)pthread_mutex_unlock(&keys[key].mutex);
}

static void *write_some(void *argument)
{
    struct chance c = {.state = mix(atomic_fetch_add(&seeds, 1))};
    (void)argument;
    while (!atomic_load(&stop))
        write_key(&c, draw_key(&c));
    return NULL;
}

static void *read_some(void *argument)
{
    struct chance c = {.state = mix(atomic_fetch_add(&seeds, 1))};
    (void)argument;
    struct value buffer;
    while (!atomic_load(&stop)) {
        uint32_t key = draw_key(&c);
        uint64_t acknowledged = atomic_load(&keys[key].acknowledged);
        size_t size = 0;
        int rc;
        if (one_in(&c, 3)) {
            void *value;
            rc = bitkv_get(db, &key, sizeof key, &value, &size);
            check_read(key, acknowledged, rc, value, size, "get");
            bitkv_free(value);
        } else {
            rc = bitkv_get_into(db, &key, sizeof key, &buffer, sizeof buffer, &size);
            check_read(key, acknowledged, rc, &buffer, size, "get_into");
        }
    }
    return NULL;
}

/* Views are held while their keys are overwritten and their segments closed. */
static void *look_on(void *argument)
{
    enum { HELD = 8 };
    struct chance c = {.state = mix(atomic_fetch_add(&seeds, 1))};
    (void)argument;
    bitkv_view views[HELD] = {{0}};
    uint32_t of[HELD] = {0};
    uint64_t versions[HELD] = {0};
    while (!atomic_load(&stop)) {
        unsigned i = (unsigned)below(&c, HELD);
        if (views[i].data != NULL && version_of(of[i], views[i].data, views[i].size) != versions[i])
            trouble("a view of key %u has changed", of[i]);
        bitkv_view_release(&views[i]);
        of[i] = draw_key(&c);
        uint64_t acknowledged = atomic_load(&keys[of[i]].acknowledged);
        int rc = bitkv_get_view(db, &of[i], sizeof of[i], &views[i]);
        check_read(of[i], acknowledged, rc, views[i].data, views[i].size, "get_view");
        if (rc == BITKV_OK)
            versions[i] = version_of(of[i], views[i].data, views[i].size);
    }
    for (unsigned i = 0; i < HELD; i++)
        bitkv_view_release(&views[i]);
    return NULL;
}

static void *read_many(void *argument)
{
    enum { MANY = 40 };
    struct chance c = {.state = mix(atomic_fetch_add(&seeds, 1))};
    (void)argument;
    while (!atomic_load(&stop)) {
        uint32_t ids[MANY];
        uint64_t acknowledged[MANY];
        bitkv_get_item items[MANY];
        for (unsigned i = 0; i < MANY; i++) {
            ids[i] = draw_key(&c);
            acknowledged[i] = atomic_load(&keys[ids[i]].acknowledged);
            items[i] = (bitkv_get_item){.key = &ids[i], .key_size = sizeof ids[i]};
        }
        int rc = bitkv_multi_get(db, items, MANY);
        if (rc != BITKV_OK)
            trouble("multi_get gave %s", bitkv_error_name(rc));
        for (unsigned i = 0; i < MANY; i++) {
            check_read(ids[i], acknowledged[i], items[i].status, items[i].value,
                       items[i].value_size, "multi_get");
            bitkv_free(items[i].value);
        }
    }
    return NULL;
}

struct scanned {
    uint64_t acknowledged[KEYS];
    unsigned visits[KEYS];
};

static int on_record(void *user, const bitkv_record *record)
{
    struct scanned *s = user;
    uint32_t key;
    if (record->key_size != sizeof key) {
        trouble("scan shows a key of %zu bytes", record->key_size);
        return 0;
    }
    memcpy(&key, record->key, sizeof key);
    if (key >= KEYS) {
        trouble("scan shows a key that nobody wrote");
        return 0;
    }
    if (s->visits[key]++ == 0 && record->value != NULL)
        check_read(key, s->acknowledged[key], BITKV_OK, record->value, record->value_size, "scan");
    return 0;
}

static void *scan_all(void *argument)
{
    struct chance c = {.state = mix(atomic_fetch_add(&seeds, 1))};
    (void)argument;
    struct scanned *s = malloc(sizeof *s);
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < KEYS; i++) {
            s->visits[i] = 0;
            s->acknowledged[i] = atomic_load(&keys[i].acknowledged);
        }
        int rc = bitkv_scan(db, one_in(&c, 2) ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL, on_record, s);
        if (rc != BITKV_OK)
            trouble("scan gave %s", bitkv_error_name(rc));
        for (unsigned i = STABLE; i < KEYS; i++) {
            if (s->acknowledged[i] > 0 && s->visits[i] != 1)
                trouble("scan visited key %u %u times", i, s->visits[i]);
        }
    }
    free(s);
    return NULL;
}

static void *look_at_statistics(void *argument)
{
    (void)argument;
    while (!atomic_load(&stop)) {
        bitkv_statistics s;
        bitkv_statistics_init(&s);
        int rc = bitkv_stats(db, BITKV_ALL_PARTITIONS, &s);
        if (rc != BITKV_OK || s.keys > KEYS || s.gets_miss_total > s.gets_total ||
            s.errors_total != 0)
            trouble("statistics: %s, %llu keys, %llu errors", bitkv_error_name(rc),
                    (unsigned long long)s.keys, (unsigned long long)s.errors_total);
        if (bitkv_sync(db) != BITKV_OK)
            trouble("sync failed");
        sleep_ms(3);
    }
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    make_scratch(directory);
    inside(path, directory, "db");
    atomic_store(&stop, false);
    atomic_store(&troubles, 0);
    for (unsigned i = 0; i < KEYS; i++) {
        (void)pthread_mutex_init(&keys[i].mutex, NULL);
        atomic_store(&keys[i].begun, 0);
        atomic_store(&keys[i].acknowledged, 0);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KEYS; i++)
        (void)pthread_mutex_destroy(&keys[i].mutex);
    remove_tree(directory);
    return 0;
}

static bitkv_options tiny(bitkv_io_mode mode, uint32_t open_segments)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 2;
    o.max_file_size = 64 << 10;
    o.io_mode = mode;
    o.max_open_segments = open_segments;
    o.sync_interval_ms = 5;
    o.checkpoint_interval_bytes = 300000;
    return o;
}

static void start(pthread_t *thread, void *(*routine)(void *), void *argument)
{
    assert_int_equal(pthread_create(thread, NULL, routine, argument), 0);
}

static void all_at_once(bitkv_io_mode mode, uint32_t open_segments)
{
    static void *(*const jobs[])(void *) = {write_some, write_some, read_some, read_some,
                                            look_on,    read_many,  scan_all,  look_at_statistics};
    enum { JOBS = sizeof jobs / sizeof jobs[0] };
    bitkv_options o = tiny(mode, open_segments);
    ok(bitkv_open(&db, path, &o));
    pthread_t threads[JOBS];
    for (unsigned i = 0; i < JOBS; i++)
        start(&threads[i], jobs[i], NULL);
    uint64_t until = now_ms() + env_number("BITKV_MS", 2500);
    while (now_ms() < until && !atomic_load(&stop))
        sleep_ms(5);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < JOBS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&troubles), 0);
    ok(bitkv_close(db));

    o.strict_recovery = true;
    ok(bitkv_open(&db, path, &o));
    struct value buffer;
    for (uint32_t key = 0; key < KEYS; key++) {
        size_t size = 0;
        int rc = bitkv_get_into(db, &key, sizeof key, &buffer, sizeof buffer, &size);
        check_read(key, atomic_load(&keys[key].acknowledged), rc, &buffer, size, "reopened, get");
    }
    assert_int_equal(atomic_load(&troubles), 0);
    ok(bitkv_close(db));
}

static void readers_never_go_back_in_time_with_mappings(void **state)
{
    (void)state;
    all_at_once(BITKV_IO_MMAP, 1);
}

static void readers_never_go_back_in_time_with_pwrite(void **state)
{
    (void)state;
    all_at_once(BITKV_IO_PWRITE, 3);
}

/* --- a scan beside growth --------------------------------------------------- */

#define FIRST_KEYS 2000u

static _Atomic uint32_t grown;

static void *grow(void *argument)
{
    (void)argument;
    for (uint32_t key = FIRST_KEYS; !atomic_load(&stop); key++) {
        if (bitkv_put_with(db, &key, sizeof key, &key, sizeof key, BITKV_DURABILITY_NONE) !=
            BITKV_OK)
            trouble("put failed");
        atomic_store(&grown, key);
    }
    return NULL;
}

static int count_visit(void *user, const bitkv_record *record)
{
    unsigned char *visits = user;
    uint32_t key;
    memcpy(&key, record->key, sizeof key);
    if (record->key_size == sizeof key && key < FIRST_KEYS)
        visits[key]++;
    return 0;
}

static void a_scan_visits_each_key_once_while_the_keydir_grows(void **state)
{
    (void)state;
    bitkv_options o = tiny(BITKV_IO_MMAP, 0);
    o.max_file_size = 1 << 20;
    ok(bitkv_open(&db, path, &o));
    for (uint32_t key = 0; key < FIRST_KEYS; key++)
        ok(bitkv_put(db, &key, sizeof key, &key, sizeof key));
    pthread_t thread;
    start(&thread, grow, NULL);
    unsigned scans = 0;
    uint64_t until = now_ms() + env_number("BITKV_MS", 1500);
    for (; now_ms() < until && !atomic_load(&stop); scans++) {
        static unsigned char visits[FIRST_KEYS];
        memset(visits, 0, sizeof visits);
        ok(bitkv_scan(db, BITKV_SCAN_KEYS, count_visit, visits));
        for (uint32_t key = 0; key < FIRST_KEYS; key++)
            assert_int_equal(visits[key], 1);
    }
    atomic_store(&stop, true);
    (void)pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&troubles), 0);
    print_message("%u scans while %u keys came\n", scans, atomic_load(&grown));
    ok(bitkv_close(db));
}

/* --- writers that overtake the worker ------------------------------------------- */

static void *write_large(void *argument)
{
    static const char value[30000];
    uint32_t key = (uint32_t)(uintptr_t)argument;
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        if (bitkv_put_with(db, &key, sizeof key, value, i % 7 * 5000, BITKV_DURABILITY_NONE) !=
            BITKV_OK)
            trouble("put failed");
    }
    return NULL;
}

static void writers_that_outrun_the_worker_reserve_for_themselves(void **state)
{
    (void)state;
    bitkv_options o = tiny(BITKV_IO_MMAP, 2);
    o.partitions = 1;
    o.max_file_size = 3 << 20;
    ok(bitkv_open(&db, path, &o));
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++)
        start(&threads[i], write_large, (void *)i);
    sleep_ms((unsigned)env_number("BITKV_MS", 700) / 2);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&troubles), 0);
    ok(bitkv_close(db));
}

/* --- closing while calls are in progress ------------------------------------------
 *
 * No call may begin once bitkv_close() was called, so closing waits until the
 * others are known to be inside: a scan by its callback, the rest by the
 * system calls that they make, seen through the seam. */

static struct bkv_io_ops ops;
static _Atomic int in_progress;   /* slow calls that were met by the seam */
static _Atomic bool slow_opening; /* of data files, by the threads of the test */
static _Atomic bool slow_syncing;
static _Thread_local bool mine;

static int slow_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (mine && atomic_load(&slow_opening) && strstr(name, "/data_") != NULL) {
        atomic_fetch_add(&in_progress, 1);
        sleep_ms(20);
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static int slow_fdatasync(int fd)
{
    if (mine && atomic_load(&slow_syncing)) {
        atomic_fetch_add(&in_progress, 1);
        sleep_ms(20);
    }
    return bkv_io_kernel.fdatasync(fd);
}

static void hook(void)
{
    ops = bkv_io_kernel;
    ops.openat = slow_openat;
    ops.fdatasync = slow_fdatasync;
    bkv_io = &ops;
    atomic_store(&in_progress, 0);
}

static void unhook(void)
{
    atomic_store(&slow_opening, false);
    atomic_store(&slow_syncing, false);
    bkv_io = &bkv_io_kernel;
}

static void fill_segments(void)
{
    static char value[20000];
    for (uint32_t key = 0; key < 40; key++)
        ok(bitkv_put_with(db, &key, sizeof key, value, sizeof value, BITKV_DURABILITY_NONE));
    ok(bitkv_close(db)); /* and they are closed, all of them */
}

static void *get_once(void *argument)
{
    mine = true;
    uint32_t key = (uint32_t)(uintptr_t)argument;
    void *value;
    int rc = bitkv_get(db, &key, sizeof key, &value, NULL);
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        trouble("get gave %s", bitkv_error_name(rc));
    bitkv_free(value);
    return NULL;
}

static void *get_many_once(void *argument)
{
    mine = true;
    (void)argument;
    uint32_t ids[40];
    bitkv_get_item items[40];
    for (uint32_t i = 0; i < 40; i++) {
        ids[i] = i;
        items[i] = (bitkv_get_item){.key = &ids[i], .key_size = sizeof ids[i]};
    }
    int rc = bitkv_multi_get(db, items, 40);
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        trouble("multi_get gave %s", bitkv_error_name(rc));
    for (unsigned i = 0; i < 40; i++)
        bitkv_free(items[i].value);
    return NULL;
}

static void *put_once(void *argument)
{
    mine = true;
    uint32_t key = (uint32_t)(uintptr_t)argument;
    int rc = bitkv_put_with(db, &key, sizeof key, "new", 3, BITKV_DURABILITY_SYNC);
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        trouble("put gave %s", bitkv_error_name(rc));
    return NULL;
}

static void close_while(void *(*routine)(void *), bitkv_io_mode mode, _Atomic bool *slow)
{
    bitkv_options o = tiny(mode, 1);
    o.partitions = 1;
    ok(bitkv_open(&db, path, &o));
    fill_segments();
    hook();
    ok(bitkv_open(&db, path, &o));
    atomic_store(slow, true);
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++)
        start(&threads[i], routine, (void *)(3 + i * 9));
    /* Of three threads on one partition the first is inside of the system
     * call, the others are behind it, or soon will be. */
    while (atomic_load(&in_progress) == 0)
        sleep_ms(1);
    sleep_ms(10);
    int rc = bitkv_close(db);
    for (unsigned i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
    unhook();
    ok(rc);
    assert_int_equal(atomic_load(&troubles), 0);
    ok(bitkv_open(&db, path, &o));
    for (uint32_t key = 0; key < 40; key++)
        ok(bitkv_exists(db, &key, sizeof key));
    ok(bitkv_close(db));
}

static void closing_finishes_a_get_that_opens_a_segment(void **state)
{
    (void)state;
    close_while(get_once, BITKV_IO_MMAP, &slow_opening);
}

static void closing_finishes_a_get_that_opens_a_segment_with_pwrite(void **state)
{
    (void)state;
    close_while(get_once, BITKV_IO_PWRITE, &slow_opening);
}

static void closing_finishes_a_multi_get_that_opens_segments(void **state)
{
    (void)state;
    close_while(get_many_once, BITKV_IO_MMAP, &slow_opening);
}

static void closing_finishes_a_put_that_waits_for_its_sync(void **state)
{
    (void)state;
    close_while(put_once, BITKV_IO_MMAP, &slow_syncing);
}

static _Atomic int scans_begun;

static int slow_visit(void *user, const bitkv_record *record)
{
    (void)user;
    atomic_fetch_add(&scans_begun, 1);
    sleep_ms(1);
    uint32_t key = 1;
    int rc = bitkv_exists(db, &key, sizeof key); /* begun by a call in progress */
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        trouble("exists from a scan gave %s", bitkv_error_name(rc));
    return record->key_size != sizeof key;
}

static void *scan_once(void *argument)
{
    (void)argument;
    int rc = bitkv_scan(db, BITKV_SCAN_ALL, slow_visit, NULL);
    if (rc != BITKV_OK && rc != BITKV_ERR_CLOSED)
        trouble("scan gave %s", bitkv_error_name(rc));
    return NULL;
}

static void closing_ends_a_scan(void **state)
{
    (void)state;
    bitkv_options o = tiny(BITKV_IO_MMAP, 1);
    ok(bitkv_open(&db, path, &o));
    for (uint32_t key = 0; key < 3000; key++)
        ok(bitkv_put(db, &key, sizeof key, "value", 5));
    atomic_store(&scans_begun, 0);
    pthread_t thread;
    start(&thread, scan_once, NULL);
    while (atomic_load(&scans_begun) == 0)
        sleep_ms(1);
    uint64_t begun = now_ms();
    ok(bitkv_close(db));
    (void)pthread_join(thread, NULL);
    assert_in_range(now_ms() - begun, 0, 1500); /* not all of the 3000 were visited */
    assert_int_equal(atomic_load(&troubles), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(readers_never_go_back_in_time_with_mappings),
        TEST(readers_never_go_back_in_time_with_pwrite),
        TEST(a_scan_visits_each_key_once_while_the_keydir_grows),
        TEST(writers_that_outrun_the_worker_reserve_for_themselves),
        TEST(closing_finishes_a_get_that_opens_a_segment),
        TEST(closing_finishes_a_get_that_opens_a_segment_with_pwrite),
        TEST(closing_finishes_a_multi_get_that_opens_segments),
        TEST(closing_finishes_a_put_that_waits_for_its_sync),
        TEST(closing_ends_a_scan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
