/* SPDX-License-Identifier: MIT */
/* Snapshots: one moment of all partitions, by key, by iterator and by its shares,
 * whatever is written, compacted or closed meanwhile. */
#include "api/fixture.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdatomic.h>

/* --- a model ------------------------------------------------------------------------ */

#define KEYS 3000u
#define NONE UINT64_MAX

/* Operation i of the writer is on key i % KEYS: it stores i, or deletes. So what
 * the database holds says how many operations were done, and every key has to
 * agree. */
static bool deletes(uint64_t i)
{
    return mix(i) % 8 == 0;
}

static size_t value_of(uint64_t number, char value[256])
{
    size_t size = 8 + mix(number ^ 77) % 200;
    fill(value, size, number);
    memcpy(value, &number, sizeof number);
    return size;
}

static void write_one(bitkv *db, uint32_t key, uint64_t number)
{
    char value[256];
    ok(bitkv_put(db, &key, sizeof key, value, value_of(number, value)));
}

static void operate(bitkv *db, uint64_t i)
{
    uint32_t key = (uint32_t)(i % KEYS);
    if (!deletes(i)) {
        write_one(db, key, i);
        return;
    }
    int rc = bitkv_del(db, &key, sizeof key);
    assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
}

/* What was seen of each key: the number of its value, NONE: absent. */
struct contents {
    uint64_t number[KEYS];
    unsigned visits[KEYS];
};

static struct contents *no_contents(void)
{
    struct contents *c = calloc(1, sizeof *c);
    assert_non_null(c);
    for (uint32_t k = 0; k < KEYS; k++)
        c->number[k] = NONE;
    return c;
}

static void see(struct contents *c, uint32_t key, const void *value, size_t size)
{
    char expected[256];
    uint64_t number;
    assert_in_range(key, 0, KEYS - 1);
    assert_true(size >= sizeof number);
    memcpy(&number, value, sizeof number);
    assert_int_equal(size, value_of(number, expected));
    assert_memory_equal(value, expected, size);
    c->number[key] = number;
    c->visits[key]++;
}

static struct contents *by_get(bitkv_snapshot *s)
{
    struct contents *c = no_contents();
    for (uint32_t k = 0; k < KEYS; k++) {
        char value[256];
        size_t size;
        int rc = bitkv_snapshot_get_into(s, &k, sizeof k, value, sizeof value, &size);
        assert_int_equal(bitkv_snapshot_exists(s, &k, sizeof k), rc);
        if (rc != BITKV_NOT_FOUND) {
            ok(rc);
            see(c, k, value, size);
        }
    }
    return c;
}

static void visit_share(bitkv_snapshot *s, uint32_t share, uint32_t shares, struct contents *c)
{
    bitkv_iterator_options o;
    bitkv_iterator_options_init(&o);
    o.share = share;
    o.shares = shares;
    bitkv_iterator *it;
    ok(bitkv_iterator_create(&it, s, &o));
    bitkv_record record;
    int rc;
    while ((rc = bitkv_iterator_next(it, &record)) == BITKV_OK) {
        uint32_t key;
        assert_int_equal(record.key_size, sizeof key);
        memcpy(&key, record.key, sizeof key);
        see(c, key, record.value, record.value_size);
    }
    assert_int_equal(rc, BITKV_NOT_FOUND);
    assert_int_equal(bitkv_iterator_next(it, &record), BITKV_NOT_FOUND);
    ok(bitkv_iterator_destroy(it));
}

static struct contents *by_shares(bitkv_snapshot *s, uint32_t shares)
{
    struct contents *c = no_contents();
    for (uint32_t i = 0; i < shares; i++)
        visit_share(s, i, shares, c);
    return c;
}

static void assert_same(const struct contents *a, const struct contents *b)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        assert_int_equal(a->number[k], b->number[k]);
        assert_int_equal(a->visits[k], b->visits[k]);
        assert_true(a->visits[k] <= 1);
    }
}

/* The number of key k after `done` operations. */
static uint64_t number_after(uint64_t done, uint32_t k)
{
    if (done <= k)
        return NONE;
    uint64_t last = (done - 1 - k) / KEYS * KEYS + k;
    return deletes(last) ? NONE : last;
}

static bool is_state(const struct contents *c, uint64_t done)
{
    for (uint32_t k = 0; k < KEYS; k++)
        if (c->number[k] != number_after(done, k))
            return false;
    return true;
}

/* Deletes may have followed the newest value. */
static void assert_is_a_moment(const struct contents *c)
{
    uint64_t done = 0;
    for (uint32_t k = 0; k < KEYS; k++)
        if (c->number[k] != NONE && c->number[k] >= done)
            done = c->number[k] + 1;
    while (!is_state(c, done)) {
        assert_true(deletes(done));
        done++;
    }
}

/* What threads share. */
struct crowd {
    bitkv *db;
    bitkv_snapshot *snapshot;
    uint32_t share;
    struct contents *seen;
    atomic_bool stop;
};

/* All three ways agree; the caller frees what they saw. */
static struct contents *look(bitkv_snapshot *s, uint32_t shares)
{
    struct contents *got = by_get(s);
    struct contents *walked = by_shares(s, 1);
    struct contents *shared = by_shares(s, shares);
    assert_same(got, walked);
    assert_same(got, shared);
    free(walked);
    free(shared);
    return got;
}

static void assert_state(bitkv_snapshot *s, uint64_t done)
{
    struct contents *c = look(s, 5);
    assert_true(is_state(c, done));
    free(c);
}

static bitkv *open_partitions(uint32_t partitions, bitkv_io_mode mode, uint32_t open_segments)
{
    bitkv_options o = one_partition(mode);
    o.partitions = partitions;
    o.auto_compact = false;
    o.max_open_segments = open_segments;
    return open_with(&o);
}

static bitkv_snapshot *snapshot_of(bitkv *db)
{
    bitkv_snapshot *s;
    ok(bitkv_snapshot_create(&s, db));
    return s;
}

static void operate_upto(bitkv *db, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++)
        operate(db, i);
}

static void compact(bitkv *db)
{
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
}

/* --- what a snapshot holds ---------------------------------------------------------- */

static void a_snapshot_outlives_overwrites_deletes_and_compaction(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(3, mode, 0);
        bitkv_snapshot *empty = snapshot_of(db);
        operate_upto(db, 0, 10000);
        bitkv_snapshot *s = snapshot_of(db);
        operate_upto(db, 10000, 15000);
        assert_state(s, 10000);
        compact(db);
        assert_state(s, 10000);
        for (uint32_t k = 0; k < KEYS; k++)
            (void)bitkv_del(db, &k, sizeof k);
        compact(db);
        compact(db);
        assert_state(s, 10000);
        assert_state(empty, 0);
        ok(bitkv_snapshot_destroy(empty));
        assert_state(s, 10000);
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

static void values_are_read_in_every_way(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(2, mode, 0);
        put_text(db, "key", "before");
        bitkv_statistics before = statistics_of(db);
        bitkv_snapshot *s = snapshot_of(db);
        put_text(db, "key", "after");
        put_text(db, "new", "x");
        void *value;
        size_t size;
        ok(bitkv_snapshot_get(s, "key", 3, &value, &size));
        assert_int_equal(size, 6);
        assert_string_equal(value, "before");
        bitkv_free(value);
        char small[3];
        fails(BITKV_ERR_BUFFER_TOO_SMALL,
              bitkv_snapshot_get_into(s, "key", 3, small, sizeof small, &size));
        assert_int_equal(size, 6);
        assert_int_equal(bitkv_snapshot_get(s, "new", 3, &value, &size), BITKV_NOT_FOUND);
        assert_null(value);
        assert_int_equal(bitkv_snapshot_exists(s, "new", 3), BITKV_NOT_FOUND);
        ok(bitkv_snapshot_exists(s, "key", 3));
        bitkv_view view;
        ok(bitkv_snapshot_get_view(s, "key", 3, &view));
        bitkv_statistics after = statistics_of(db);
        assert_int_equal(after.gets_total - before.gets_total, 6);
        assert_int_equal(after.gets_miss_total - before.gets_miss_total, 2);
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
        assert_int_equal(view.size, 6);
        assert_memory_equal(view.data, "before", 6);
        bitkv_view_release(&view);
    }
}

static void snapshots_end_in_any_order(void **state)
{
    (void)state;
    enum { COUNT = 4, ORDERS = 24 };
    bitkv *db = open_partitions(2, BITKV_IO_MMAP, 0);
    uint64_t done = 0;
    for (unsigned order = 0; order < ORDERS; order++) {
        bitkv_snapshot *s[COUNT];
        uint64_t at[COUNT];
        for (unsigned i = 0; i < COUNT; i++) {
            operate_upto(db, done, done + 700);
            done += 700;
            at[i] = done;
            s[i] = snapshot_of(db);
        }
        compact(db);
        unsigned rest = order, left = COUNT;
        while (left > 0) {
            unsigned i = rest % left;
            rest /= left;
            assert_state(s[i], at[i]);
            ok(bitkv_snapshot_destroy(s[i]));
            left--;
            s[i] = s[left];
            at[i] = at[left];
            operate_upto(db, done, done + 100);
            done += 100;
        }
    }
    ok(bitkv_close(db));
}

static unsigned data_files(void)
{
    char name[PATH_SIZE];
    return count_names(inside(name, path, "partition_0"), "data_", ".db");
}

static void files_stay_while_a_snapshot_needs_them_and_go_after(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(1, mode, 0);
        operate_upto(db, 0, 10000);
        ok(bitkv_sync(db));
        unsigned full = data_files();
        assert_true(full > 10);
        bitkv_snapshot *s = snapshot_of(db);
        bitkv_snapshot *second = snapshot_of(db);
        for (uint32_t k = 0; k < KEYS; k++)
            (void)bitkv_del(db, &k, sizeof k);
        compact(db);
        assert_true(data_files() >= full);
        ok(bitkv_snapshot_destroy(s));
        sleep_ms(20);
        assert_true(data_files() >= full);
        assert_state(second, 10000);
        ok(bitkv_snapshot_destroy(second));
        uint64_t until = now_ms() + 20000;
        while (data_files() > full / 2 && now_ms() < until)
            sleep_ms(5);
        assert_in_range(data_files(), 1, full / 2);
        ok(bitkv_close(db));
    }
}

static void snapshots_leave_no_memory_behind(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_MMAP, 0);
    operate_upto(db, 0, 10000);
    uint64_t done = 10000, early = 0;
    for (unsigned i = 0; i < 1000; i++) {
        bitkv_snapshot *s = snapshot_of(db);
        bitkv_iterator *it;
        bitkv_record record;
        ok(bitkv_iterator_create(&it, s, NULL));
        ok(bitkv_iterator_next(it, &record));
        operate_upto(db, done, done + 50);
        done += 50;
        ok(bitkv_iterator_destroy(it));
        ok(bitkv_snapshot_destroy(s));
        if (i == 100)
            early = statistics_of(db).keydir_bytes;
    }
    assert_true(statistics_of(db).keydir_bytes <= 2 * early);
    ok(bitkv_close(db));
}

/* --- iterators ---------------------------------------------------------------------- */

static void iterators_visit_what_they_are_asked_for(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(3, mode, 0);
        static char large[70000];
        char key[32];
        for (unsigned i = 0; i < 3000; i++) {
            int size = snprintf(key, sizeof key, "%s:%u", i % 3 == 0 ? "group" : "user", i);
            ok(bitkv_put(db, key, (size_t)size, large, i % 100 == 0 ? sizeof large : i % 1000));
        }
        static char long_key[BITKV_KEY_SIZE_MAX] = "long key";
        ok(bitkv_put(db, long_key, sizeof long_key, "v", 1));
        bitkv_snapshot *s = snapshot_of(db);
        for (unsigned flags = BITKV_SCAN_ALL; flags <= BITKV_SCAN_KEYS; flags++) {
            static const struct {
                const char *prefix;
                unsigned count;
            } cases[] = {{"", 3001},    {"user:", 2000}, {"group:", 1000}, {"group:3", 334 - 0},
                         {"user:7", 0}, {"nobody", 0},   {"long key", 1}};
            for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
                size_t prefix_size = strlen(cases[i].prefix);
                unsigned expected = 0, in_parts = 0;
                for (unsigned k = 0; k < 3000; k++) {
                    (void)snprintf(key, sizeof key, "%s:%u", k % 3 == 0 ? "group" : "user", k);
                    expected += strncmp(key, cases[i].prefix, prefix_size) == 0;
                }
                expected += strncmp("long key", cases[i].prefix, prefix_size) == 0;
                for (uint32_t partition = 0; partition < 3; partition++) {
                    bitkv_iterator_options o;
                    bitkv_iterator_options_init(&o);
                    char *prefix = strdup(cases[i].prefix);
                    o.flags = flags;
                    o.prefix = prefix_size > 0 ? prefix : NULL;
                    o.prefix_size = prefix_size;
                    o.partition = partition;
                    bitkv_iterator *it;
                    ok(bitkv_iterator_create(&it, s, &o));
                    free(prefix);
                    bitkv_record r;
                    int rc;
                    while ((rc = bitkv_iterator_next(it, &r)) == BITKV_OK) {
                        assert_int_equal(r.partition, partition);
                        assert_memory_equal(r.key, cases[i].prefix, prefix_size);
                        assert_int_equal(r.value == NULL, flags == BITKV_SCAN_KEYS);
                        assert_true(r.value_size <= sizeof large);
                        in_parts++;
                    }
                    assert_int_equal(rc, BITKV_NOT_FOUND);
                    ok(bitkv_iterator_destroy(it));
                }
                assert_int_equal(in_parts, expected);
            }
        }
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_MMAP, 0);
    bitkv_snapshot *s = (void *)1;
    fails(BITKV_ERR_INVALID, bitkv_snapshot_create(&s, NULL));
    assert_null(s);
    fails(BITKV_ERR_INVALID, bitkv_snapshot_create(NULL, db));
    s = snapshot_of(db);
    bitkv_iterator *it = (void *)1;
    bitkv_record record;
    fails(BITKV_ERR_INVALID, bitkv_iterator_create(&it, NULL, NULL));
    assert_null(it);
    fails(BITKV_ERR_INVALID, bitkv_iterator_create(NULL, s, NULL));
    bitkv_iterator_options o;
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        bitkv_iterator_options_init(&o);                                                           \
        change;                                                                                    \
        fails(BITKV_ERR_INVALID, bitkv_iterator_create(&it, s, &o));                               \
    } while (0)
    REFUSED(o.flags = 2);
    REFUSED(o.shares = 0);
    REFUSED(o.share = 1);
    REFUSED((o.share = 3, o.shares = 3));
    REFUSED(o.partition = 2);
    REFUSED(o.prefix_size = 1);
    REFUSED(o.prefix = "x"); /* the size was forgotten: that is not "all keys" */
    context_has("prefix_size");
    REFUSED((o.prefix = "x", o.prefix_size = BITKV_KEY_SIZE_MAX + 1));
    REFUSED(o.struct_size = 0);
    REFUSED(o.struct_size++);
    REFUSED(o.reserved[3] = 1);
    fails(BITKV_ERR_INVALID, bitkv_iterator_next(NULL, &record));
    ok(bitkv_iterator_create(&it, s, NULL));
    fails(BITKV_ERR_INVALID, bitkv_iterator_next(it, NULL));
    ok(bitkv_iterator_destroy(it));
    void *value;
    fails(BITKV_ERR_INVALID, bitkv_snapshot_get(s, "", 0, &value, NULL));
    fails(BITKV_ERR_INVALID, bitkv_snapshot_get(s, "k", 1, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_snapshot_get_into(s, "k", 1, NULL, 1, NULL));
    fails(BITKV_ERR_INVALID, bitkv_snapshot_get_view(s, "k", 1, NULL));
    fails(BITKV_ERR_INVALID, bitkv_snapshot_exists(NULL, "k", 1));
    fails(BITKV_ERR_INVALID, bitkv_snapshot_scan(s, 0, NULL, NULL));
    ok(bitkv_iterator_destroy(NULL));
    ok(bitkv_snapshot_destroy(NULL));
    ok(bitkv_snapshot_destroy(s));
    ok(bitkv_close(db));
}

/* With one file open at a time, tables are sorted; and so they are in windows that
 * grow over many tables. */
static void few_open_files_suffice(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(2, mode, 1);
        operate_upto(db, 0, 20000);
        ok(bitkv_close(db)); /* finishes the full ones, so that they can be closed */
        db = open_partitions(2, mode, 1);
        bitkv_snapshot *s = snapshot_of(db);
        operate_upto(db, 20000, 21000);
        assert_true(statistics_of(db).segments > 20);
        assert_state(s, 20000);
        assert_in_range(statistics_of(db).segments_open, 1, 8);
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

static void large_windows_are_complete(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.max_open_segments = 1;
        o.partitions = 2;
        bitkv *db = open_with(&o);
        for (uint32_t i = 0; i < MANY; i++)
            ok(bitkv_put(db, &i, sizeof i, &i, sizeof i));
        uint8_t *seen = calloc(MANY, 1);
        bitkv_snapshot *s = snapshot_of(db);
        for (uint32_t share = 0; share < 5; share++) {
            bitkv_iterator_options options;
            bitkv_iterator_options_init(&options);
            options.share = share;
            options.shares = 5;
            options.flags = share == 0 ? BITKV_SCAN_ALL : BITKV_SCAN_KEYS;
            bitkv_iterator *it;
            ok(bitkv_iterator_create(&it, s, &options));
            bitkv_record r;
            unsigned count = 0;
            while (bitkv_iterator_next(it, &r) == BITKV_OK) {
                uint32_t key;
                memcpy(&key, r.key, sizeof key);
                seen[key]++;
                count++;
            }
            assert_in_range(count, MANY / 5 - MANY / 20, MANY / 5 + MANY / 20);
            ok(bitkv_iterator_destroy(it));
        }
        for (uint32_t i = 0; i < MANY; i++)
            assert_int_equal(seen[i], 1);
        free(seen);
        /* So few have the prefix that most steps pass over thousands. */
        bitkv_iterator_options few;
        bitkv_iterator_options_init(&few);
        uint32_t wanted = 77777;
        few.prefix = &wanted;
        few.prefix_size = sizeof wanted;
        bitkv_iterator *it;
        bitkv_record r;
        ok(bitkv_iterator_create(&it, s, &few));
        ok(bitkv_iterator_next(it, &r));
        assert_memory_equal(r.value, &wanted, sizeof wanted);
        assert_int_equal(bitkv_iterator_next(it, &r), BITKV_NOT_FOUND);
        ok(bitkv_iterator_destroy(it));
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

/* Every byte of one record in turn; the other records are visited, and the damage
 * shows at the end, whatever the prefix. */
static void damage_is_passed_over_and_reported_at_the_end(void **state)
{
    (void)state;
    bitkv *db = open_partitions(1, BITKV_IO_MMAP, 0);
    put_text(db, "user:1", "one");
    put_text(db, "user:2", "two");
    put_text(db, "user:3", "three");
    bitkv_snapshot *s = snapshot_of(db);
    bitkv_view view;
    ok(bitkv_snapshot_get_view(s, "user:2", 6, &view));
    char name[PATH_SIZE];
    DIR *dir = opendir(inside(name, path, "partition_0"));
    struct dirent *entry;
    char file[PATH_SIZE] = "";
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (strncmp(entry->d_name, "data_", 5) == 0)
            inside(file, name, entry->d_name);
    assert_true(dir != NULL && file[0] != '\0');
    (void)closedir(dir);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    static char bytes[65536];
    ssize_t size = pread(fd, bytes, sizeof bytes, 0);
    char *key = memmem(bytes, (size_t)size, "user:2", 6);
    assert_non_null(key);
    for (off_t at = key - bytes; at < key - bytes + 9; at++) {
        char rotten = (char)(bytes[at] ^ 4);
        assert_int_equal(pwrite(fd, &rotten, 1, at), 1);
        bool in_value = at >= key - bytes + 6;
        for (unsigned way = 0; way < 3; way++) {
            bitkv_iterator_options o;
            bitkv_iterator_options_init(&o);
            o.flags = way == 1 ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL;
            o.prefix = way == 2 ? "user:" : NULL;
            o.prefix_size = way == 2 ? 5 : 0;
            bitkv_iterator *it;
            ok(bitkv_iterator_create(&it, s, &o));
            bitkv_record r;
            unsigned count = 0;
            int rc;
            while ((rc = bitkv_iterator_next(it, &r)) == BITKV_OK)
                count++;
            if (way == 1 && in_value) {
                assert_int_equal(rc, BITKV_NOT_FOUND);
                assert_int_equal(count, 3);
            } else {
                assert_int_equal(rc, BITKV_ERR_CORRUPT);
                context_has("does not verify");
                fails(BITKV_ERR_CORRUPT, bitkv_iterator_next(it, &r));
                assert_int_equal(count, 2);
            }
            ok(bitkv_iterator_destroy(it));
        }
        if (in_value) {
            char value[8];
            fails(BITKV_ERR_CORRUPT,
                  bitkv_snapshot_get_into(s, "user:2", 6, value, sizeof value, NULL));
        }
        assert_int_equal(pwrite(fd, &bytes[at], 1, at), 1);
    }
    (void)close(fd);
    bitkv_view_release(&view);
    ok(bitkv_snapshot_destroy(s));
    ok(bitkv_close(db));
}

static int count_and_stop(void *user, const bitkv_record *record)
{
    unsigned *calls = user;
    (void)record;
    return ++*calls == 7 ? 42 : 0;
}

/* By the clock, not by the snapshot. */
static void expired_keys_are_absent_in_snapshots_too(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(2, mode, 0);
        bitkv_put_options put;
        bitkv_put_options_init(&put);
        put.ttl_ms = 300;
        ok(bitkv_put_if(db, "soon", 4, "v", 1, &put, NULL));
        put.ttl_ms = 3600000;
        ok(bitkv_put_if(db, "late", 4, "v", 1, &put, NULL));
        put_text(db, "never", "v");
        bitkv_snapshot *s = snapshot_of(db);
        ok(bitkv_del(db, "late", 4));
        sleep_ms(350);
        compact(db);
        assert_int_equal(bitkv_snapshot_exists(s, "soon", 4), BITKV_NOT_FOUND);
        char value[8];
        assert_int_equal(bitkv_snapshot_get_into(s, "soon", 4, value, sizeof value, NULL),
                         BITKV_NOT_FOUND);
        ok(bitkv_snapshot_exists(s, "late", 4));
        for (unsigned flags = BITKV_SCAN_ALL; flags <= BITKV_SCAN_KEYS; flags++) {
            unsigned calls = 0;
            ok(bitkv_snapshot_scan(s, flags, count_and_stop, &calls));
            assert_int_equal(calls, 2);
        }
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

static void *keep_writing_batches(void *user)
{
    struct crowd *c = user;
    bitkv_batch *batch;
    ok(bitkv_batch_create(&batch));
    for (uint64_t i = 1; !c->stop; i++) {
        bitkv_batch_clear(batch);
        for (uint32_t k = 0; k < 20; k++)
            ok(bitkv_batch_put(batch, &k, sizeof k, &i, sizeof i));
        ok(bitkv_write(c->db, batch, BITKV_DURABILITY_DEFAULT));
    }
    bitkv_batch_destroy(batch);
    return NULL;
}

static void batches_are_whole_in_snapshots(void **state)
{
    (void)state;
    bitkv *db = open_partitions(4, BITKV_IO_MMAP, 0);
    struct crowd c = {.db = db};
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, keep_writing_batches, &c), 0);
    for (unsigned i = 0; i < 200; i++) {
        bitkv_snapshot *s = snapshot_of(db);
        uint64_t first = 0;
        for (uint32_t k = 0; k < 20; k++) {
            uint64_t number = 0;
            int rc = bitkv_snapshot_get_into(s, &k, sizeof k, &number, sizeof number, NULL);
            assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
            if (k == 0)
                first = number;
            assert_int_equal(number, first);
        }
        ok(bitkv_snapshot_destroy(s));
    }
    c.stop = true;
    assert_int_equal(pthread_join(writer, NULL), 0);
    ok(bitkv_close(db));
}

static int close_it(void *user, const bitkv_record *record)
{
    (void)record;
    ok(bitkv_close(user));
    return 0;
}

static void scans_of_a_snapshot_end_early(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_MMAP, 0);
    operate_upto(db, 0, 1000);
    bitkv_snapshot *s = snapshot_of(db);
    unsigned calls = 0;
    assert_int_equal(bitkv_snapshot_scan(s, BITKV_SCAN_ALL, count_and_stop, &calls), 42);
    assert_int_equal(calls, 7);
    fails(BITKV_ERR_CLOSED, bitkv_snapshot_scan(s, BITKV_SCAN_ALL, close_it, db));
    ok(bitkv_snapshot_destroy(s));
}

/* --- closing, forking ---------------------------------------------------------------- */

static void a_snapshot_outlives_its_database(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(2, mode, 0);
        operate_upto(db, 0, 5000);
        unsigned descriptors = count_descriptors();
        bitkv_snapshot *s = snapshot_of(db);
        bitkv_snapshot *other = snapshot_of(db);
        bitkv_iterator *it;
        bitkv_iterator *orphan;
        bitkv_record record;
        ok(bitkv_iterator_create(&it, s, NULL));
        ok(bitkv_iterator_create(&orphan, other, NULL));
        ok(bitkv_snapshot_destroy(other)); /* the iterator keeps it */
        ok(bitkv_iterator_next(orphan, &record));
        for (unsigned i = 0; i < 10; i++)
            ok(bitkv_iterator_next(it, &record));
        ok(bitkv_close(db));
        assert_true(count_descriptors() < descriptors);
        struct contents *c = no_contents();
        uint32_t key;
        memcpy(&key, record.key, sizeof key);
        see(c, key, record.value, record.value_size); /* still there */
        free(c);
        fails(BITKV_ERR_CLOSED, bitkv_iterator_next(it, &record));
        char value[256];
        fails(BITKV_ERR_CLOSED, bitkv_snapshot_get_into(s, &key, 4, value, sizeof value, NULL));
        fails(BITKV_ERR_CLOSED, bitkv_snapshot_exists(s, &key, 4));
        fails(BITKV_ERR_CLOSED, bitkv_snapshot_scan(s, 0, count_and_stop, &(unsigned){0}));
        bitkv_iterator *late;
        fails(BITKV_ERR_CLOSED, bitkv_iterator_create(&late, s, NULL));
        ok(bitkv_iterator_destroy(orphan));
        ok(bitkv_snapshot_destroy(s));
        fails(BITKV_ERR_CLOSED, bitkv_iterator_next(it, &record));
        ok(bitkv_iterator_destroy(it));
        db = open_partitions(2, mode, 0);
        s = snapshot_of(db);
        assert_state(s, 5000);
        ok(bitkv_snapshot_destroy(s));
        ok(bitkv_close(db));
    }
}

static void a_forked_child_may_not_use_it(void **state)
{
    (void)state;
    bitkv *db = open_partitions(2, BITKV_IO_MMAP, 0);
    operate_upto(db, 0, 100);
    bitkv_snapshot *s = snapshot_of(db);
    bitkv_iterator *it;
    ok(bitkv_iterator_create(&it, s, NULL));
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bitkv_record record;
        bitkv_iterator *another;
        bitkv_snapshot *second;
        bool good = bitkv_snapshot_exists(s, "k", 1) == BITKV_ERR_FORKED &&
                    bitkv_iterator_next(it, &record) == BITKV_ERR_FORKED &&
                    bitkv_iterator_create(&another, s, NULL) == BITKV_ERR_FORKED &&
                    bitkv_snapshot_create(&second, db) == BITKV_ERR_FORKED &&
                    bitkv_iterator_destroy(it) == BITKV_ERR_FORKED &&
                    bitkv_snapshot_destroy(s) == BITKV_ERR_FORKED;
        _exit(good ? 0 : 1);
    }
    assert_int_equal(wait_child(child), 0);
    assert_state(s, 100);
    ok(bitkv_iterator_destroy(it));
    ok(bitkv_snapshot_destroy(s));
    ok(bitkv_close(db));
}

/* --- memory -------------------------------------------------------------------------- */

struct budget {
    unsigned left;
    bool failed;
};

static bool within(size_t size, void *user)
{
    struct budget *b = user;
    (void)size;
    if (b->left > 0) {
        b->left--;
        return true;
    }
    b->failed = true;
    return false;
}

static int create_and_walk(bitkv *db, unsigned *count)
{
    bitkv_snapshot *s;
    int rc = bitkv_snapshot_create(&s, db);
    if (rc != BITKV_OK)
        return rc;
    bitkv_iterator *it;
    rc = bitkv_iterator_create(&it, s, NULL);
    if (rc == BITKV_OK) {
        bitkv_record record;
        while ((rc = bitkv_iterator_next(it, &record)) == BITKV_OK)
            ++*count;
        ok(bitkv_iterator_destroy(it));
    }
    ok(bitkv_snapshot_destroy(s));
    return rc;
}

static void a_lack_of_memory_is_reported_and_harmless(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.partitions = 3;
        o.auto_compact = false;
        o.max_file_size = 1 << 20; /* so that no worker allocates */
        bitkv *db = open_with(&o);
        for (uint32_t i = 0; i < 2000; i++)
            write_one(db, i, i);
        unsigned refused = 0;
        for (unsigned n = 0;; n++) {
            struct budget b = {.left = n};
            unsigned count = 0;
            bkv_alloc_set_hook(within, &b);
            int rc = create_and_walk(db, &count);
            bkv_alloc_set_hook(NULL, NULL);
            if (!b.failed) {
                assert_int_equal(rc, BITKV_NOT_FOUND);
                assert_int_equal(count, 2000);
                break;
            }
            refused += rc == BITKV_ERR_NO_MEMORY;
            assert_true(rc == BITKV_ERR_NO_MEMORY || (rc == BITKV_NOT_FOUND && count == 2000));
        }
        assert_true(refused >= 5);
        ok(bitkv_close(db));
    }
}

/* --- many threads --------------------------------------------------------------------- */

static void *keep_writing(void *user)
{
    struct crowd *c = user;
    for (uint64_t i = 0; !c->stop; i++)
        operate(c->db, i);
    return NULL;
}

static void *keep_compacting(void *user)
{
    struct crowd *c = user;
    while (!c->stop)
        compact(c->db);
    return NULL;
}

static void *visit_a_share(void *user)
{
    struct crowd *c = user;
    visit_share(c->snapshot, c->share, 2, c->seen);
    return NULL;
}

/* Two threads, a share each, which together see it all once. */
static void visit_by_threads(bitkv_snapshot *s, const struct contents *expected)
{
    struct crowd one = {.snapshot = s, .share = 0, .seen = no_contents()};
    struct crowd two = {.snapshot = s, .share = 1, .seen = no_contents()};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, visit_a_share, &one), 0);
    (void)visit_a_share(&two);
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (uint32_t k = 0; k < KEYS; k++) {
        if (two.seen->visits[k] == 0)
            continue;
        one.seen->number[k] = two.seen->number[k];
        one.seen->visits[k] += two.seen->visits[k];
    }
    assert_same(one.seen, expected);
    free(one.seen);
    free(two.seen);
}

static void it_is_one_moment_while_others_write_and_compact(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        bitkv *db = open_partitions(4, mode, 0);
        struct crowd c = {.db = db};
        pthread_t writer, compactor;
        assert_int_equal(pthread_create(&writer, NULL, keep_writing, &c), 0);
        assert_int_equal(pthread_create(&compactor, NULL, keep_compacting, &c), 0);
        for (unsigned i = 0; i < (UNDER_TSAN ? 5 : 25); i++) {
            bitkv_snapshot *s = snapshot_of(db);
            struct contents *first = look(s, 3);
            assert_is_a_moment(first);
            visit_by_threads(s, first);
            struct contents *again = by_get(s);
            assert_same(first, again);
            free(first);
            free(again);
            ok(bitkv_snapshot_destroy(s));
        }
        c.stop = true;
        assert_int_equal(pthread_join(writer, NULL), 0);
        assert_int_equal(pthread_join(compactor, NULL), 0);
        ok(bitkv_close(db));
    }
}

/* Until it is closed. */
static void *keep_reading(void *user)
{
    struct crowd *c = user;
    for (unsigned i = 0;; i++) {
        bitkv_record record;
        uint32_t key = i % KEYS;
        bitkv_iterator *it;
        int rc = bitkv_iterator_create(&it, c->snapshot, NULL);
        while (rc == BITKV_OK)
            rc = bitkv_iterator_next(it, &record);
        if (rc == BITKV_NOT_FOUND)
            rc = bitkv_snapshot_exists(c->snapshot, &key, sizeof key);
        if (it != NULL)
            ok(bitkv_iterator_destroy(it));
        if (rc == BITKV_ERR_CLOSED)
            return NULL;
        assert_true(rc == BITKV_OK || rc == BITKV_NOT_FOUND);
    }
}

static void *keep_taking(void *user)
{
    struct crowd *c = user;
    for (;;) {
        bitkv_snapshot *s;
        if (atomic_load(&c->stop))
            return NULL;
        ok(bitkv_snapshot_create(&s, c->db));
        ok(bitkv_snapshot_destroy(s));
    }
}

static void closing_waits_for_readers_of_snapshots(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        for (unsigned round = 0; round < 5; round++) {
            bitkv *db = open_partitions(3, mode, 0);
            if (round == 0)
                operate_upto(db, 0, 5000);
            struct crowd c = {.db = db, .snapshot = snapshot_of(db)};
            pthread_t threads[3];
            assert_int_equal(pthread_create(&threads[0], NULL, keep_reading, &c), 0);
            assert_int_equal(pthread_create(&threads[1], NULL, keep_reading, &c), 0);
            assert_int_equal(pthread_create(&threads[2], NULL, keep_taking, &c), 0);
            sleep_ms(20);
            c.stop = true; /* the handle may not be used once it is gone */
            assert_int_equal(pthread_join(threads[2], NULL), 0);
            ok(bitkv_close(db));
            assert_int_equal(pthread_join(threads[0], NULL), 0);
            assert_int_equal(pthread_join(threads[1], NULL), 0);
            ok(bitkv_snapshot_destroy(c.snapshot));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_snapshot_outlives_overwrites_deletes_and_compaction),
        TEST(values_are_read_in_every_way),
        TEST(snapshots_end_in_any_order),
        TEST(files_stay_while_a_snapshot_needs_them_and_go_after),
        TEST(snapshots_leave_no_memory_behind),
        TEST(iterators_visit_what_they_are_asked_for),
        TEST(wrong_arguments_are_refused),
        TEST(few_open_files_suffice),
        TEST(large_windows_are_complete),
        TEST(damage_is_passed_over_and_reported_at_the_end),
        TEST(expired_keys_are_absent_in_snapshots_too),
        TEST(batches_are_whole_in_snapshots),
        TEST(scans_of_a_snapshot_end_early),
        TEST(a_snapshot_outlives_its_database),
        TEST(a_forked_child_may_not_use_it),
        TEST(a_lack_of_memory_is_reported_and_harmless),
        TEST(it_is_one_moment_while_others_write_and_compact),
        TEST(closing_waits_for_readers_of_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
