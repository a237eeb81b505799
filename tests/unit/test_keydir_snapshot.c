/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of a KeyDir show what it held when they were taken, whatever
 * happens to it later.
 *
 * BITKV_TEST_SEED replays a run; every run prints its seed.
 */
#include "base/clock.h"
#include "base/epoch.h"
#include "base/memory.h"
#include "keydir/keydir.h"

#include <bitkv.h>

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

static uint64_t seed;

static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rnd(uint64_t *state)
{
    return mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

static struct bkv_hash hash_of(uint64_t i)
{
    uint64_t lo = mix(i ^ seed);
    return (struct bkv_hash){.lo = lo, .hi = mix(lo)};
}

/* Locations from which the key can be told: version in the upper bits. */
#define KEY_BITS 32u
static uint64_t location_of(uint64_t key, uint64_t version)
{
    return (version & ((1u << 24) - 1u)) << KEY_BITS | (key + 1);
}

static uint64_t key_at(uint64_t location)
{
    return (location & UINT32_MAX) - 1;
}

/* A KeyDir and what it should hold. */
struct pair {
    struct bkv_keydir *kd;
    uint64_t *model; /* location of each key, 0: absent */
    uint64_t keys, present, version;
};

static void pair_begin(struct pair *p, uint64_t keys)
{
    *p = (struct pair){.keys = keys, .model = calloc(keys, sizeof *p->model)};
    assert_non_null(p->model);
    assert_int_equal(bkv_keydir_create(&p->kd), BITKV_OK);
}

static void pair_end(struct pair *p)
{
    bkv_keydir_destroy(p->kd);
    free(p->model);
}

static void note(struct pair *p, uint64_t key, uint64_t location)
{
    p->present -= p->model[key] != 0;
    p->present += location != 0;
    p->model[key] = location;
}

static void put(struct pair *p, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    uint64_t location = location_of(key, ++p->version);
    assert_int_equal(bkv_keydir_prepare(p->kd, &h), BITKV_OK);
    assert_int_equal(bkv_keydir_put(p->kd, &h, location), p->model[key]);
    note(p, key, location);
}

static void del(struct pair *p, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    assert_int_equal(bkv_keydir_prepare_remove(p->kd, &h), BITKV_OK);
    assert_int_equal(bkv_keydir_remove(p->kd, &h), p->model[key]);
    note(p, key, 0);
}

static void replace(struct pair *p, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    uint64_t location = location_of(key, ++p->version);
    bool there = p->model[key] != 0;
    assert_int_equal(bkv_keydir_replace(p->kd, &h, location, location), BITKV_NOT_FOUND);
    assert_int_equal(bkv_keydir_replace(p->kd, &h, p->model[key], location),
                     there ? BITKV_OK : BITKV_NOT_FOUND);
    note(p, key, there ? location : 0);
}

static void remove_exact(struct pair *p, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    bool there = p->model[key] != 0;
    assert_int_equal(bkv_keydir_remove_exact(p->kd, &h, location_of(key, p->version + 1)),
                     BITKV_NOT_FOUND);
    assert_int_equal(bkv_keydir_remove_exact(p->kd, &h, p->model[key]),
                     there ? BITKV_OK : BITKV_NOT_FOUND);
    note(p, key, 0);
}

static void settle(struct pair *p)
{
    uint64_t dead;
    int rc;
    while ((rc = bkv_keydir_settle_one(p->kd, &dead)) > 0)
        ;
    assert_int_equal(rc, 0);
}

static void defer(struct pair *p, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    uint64_t dead, location = location_of(key, ++p->version);
    bkv_keydir_prefetch_put(p->kd, &h);
    assert_int_equal(bkv_keydir_defer_prepare(p->kd, &h, &dead), BITKV_OK);
    (void)bkv_keydir_defer(p->kd, &h, location);
    note(p, key, location);
}

static void fill(struct pair *p, uint64_t from, uint64_t to)
{
    for (uint64_t k = from; k < to; k++)
        put(p, k);
}

static bool finds(const struct bkv_keydir *kd, uint64_t key, uint64_t location)
{
    struct bkv_hash h = hash_of(key);
    uint64_t found = 0;
    return bkv_keydir_find(kd, &h, &found) ? found == location : location == 0;
}

/* ------------------------------------------------ a snapshot and its model */

struct moment {
    struct bkv_keydir_snapshot *snapshot; /* NULL: this one is free */
    uint64_t *model;
    uint64_t keys, present;
};

static void take(struct pair *p, struct moment *m)
{
    settle(p);
    assert_int_equal(bkv_keydir_snapshot_reserve(p->kd, &m->snapshot), BITKV_OK);
    assert_true(bkv_keydir_snapshot_take(p->kd, m->snapshot));
    m->keys = p->keys;
    m->present = p->present;
    m->model = malloc(p->keys * sizeof *m->model);
    assert_non_null(m->model);
    memcpy(m->model, p->model, p->keys * sizeof *m->model);
}

static void release(struct pair *p, struct moment *m)
{
    bkv_keydir_snapshot_release(p->kd, m->snapshot);
    bkv_keydir_snapshot_free(p->kd, m->snapshot);
    free(m->model);
    *m = (struct moment){0};
}

static bool finds_all(const struct moment *m)
{
    for (uint64_t k = 0; k < m->keys; k++) {
        struct bkv_hash h = hash_of(k);
        uint64_t found = 0;
        bool any = bkv_keydir_snapshot_find(m->snapshot, &h, &found);
        if (found != m->model[k] || any != (found != 0))
            return false;
    }
    return true;
}

static bool is_of(const struct moment *m, const struct bkv_keydir_entry *entry)
{
    uint64_t k = key_at(entry->location);
    struct bkv_hash h = hash_of(k);
    return k < m->keys && m->model[k] == entry->location && bkv_keydir_entry_is(entry, &h);
}

/* Tables `first`, `first` + `step`, ...: UINT64_MAX if something is wrong. */
static uint64_t scan_share(const struct moment *m, uint32_t first, uint32_t step)
{
    struct bkv_keydir_entries entries = {0};
    uint64_t seen = 0;
    bool right = true;
    for (uint32_t t = first; right && t < bkv_keydir_snapshot_tables(m->snapshot); t += step) {
        right = bkv_keydir_snapshot_scan(m->snapshot, t, &entries) == BITKV_OK;
        for (size_t i = 0; right && i < entries.count; i++, seen++)
            right = is_of(m, &entries.items[i]);
    }
    bkv_keydir_entries_free(&entries);
    return right ? seen : UINT64_MAX;
}

static void assert_unchanged(const struct moment *m)
{
    assert_int_equal(bkv_keydir_snapshot_count(m->snapshot), m->present);
    assert_true(finds_all(m));
    assert_int_equal(scan_share(m, 0, 1), m->present);
}

static void assert_equals_model(struct pair *p)
{
    struct moment now;
    take(p, &now);
    assert_int_equal(bkv_keydir_count(p->kd), p->present);
    for (uint64_t k = 0; k < p->keys; k++)
        assert_true(finds(p->kd, k, p->model[k]));
    assert_unchanged(&now);
    release(p, &now);
}

/* ------------------------------------------------------------------ model */

static void a_snapshot_of_an_empty_keydir_stays_empty(void **state)
{
    (void)state;
    struct pair p;
    struct moment m;
    pair_begin(&p, 5000);
    take(&p, &m);
    fill(&p, 0, 5000);
    assert_unchanged(&m);
    release(&p, &m);
    assert_equals_model(&p);
    pair_end(&p);
}

static void change(struct pair *p, uint64_t key, uint64_t dice)
{
    if (dice < 6) {
        defer(p, key);
        return;
    }
    settle(p);
    if (dice < 8)
        put(p, key);
    else if (dice < 11)
        del(p, key);
    else if (dice < 13)
        replace(p, key);
    else
        remove_exact(p, key);
}

/* So many at once that deleted slots are cleared away. */
static void del_most(struct pair *p, uint64_t *r)
{
    settle(p);
    for (uint64_t k = 0; k < p->keys; k++)
        if (rnd(r) % 8 != 0)
            del(p, k);
}

static void overlapping_snapshots_each_show_their_own_moment(void **state)
{
    (void)state;
    enum { KEYS = SLOW ? 12000 : 60000, MOMENTS = 5, OPS = SLOW ? 150000 : 1200000 };
    struct pair p;
    struct moment moments[MOMENTS] = {{0}};
    uint64_t r = seed, range = 16, taken = 0;
    pair_begin(&p, KEYS);
    for (unsigned op = 0; op < OPS; op++) {
        if (op % 8 == 0 && range < KEYS)
            range += 1 + range / 5000;
        change(&p, rnd(&r) % (range < KEYS ? range : KEYS), rnd(&r) % 14);
        if (op % (OPS / 4) == OPS / 8)
            del_most(&p, &r);
        if (rnd(&r) % (OPS / 200) != 0)
            continue;
        struct moment *m = &moments[rnd(&r) % MOMENTS];
        if (m->snapshot != NULL) {
            assert_unchanged(m);
            release(&p, m);
        } else {
            take(&p, m);
            taken++;
        }
    }
    for (unsigned i = 0; i < MOMENTS; i++) {
        if (moments[i].snapshot != NULL) {
            assert_unchanged(&moments[i]);
            release(&p, &moments[i]);
        }
    }
    assert_equals_model(&p);
    struct bkv_keydir_figures f;
    bkv_keydir_figures(p.kd, &f);
    print_message("%llu snapshots, %llu copies, %llu splits, %llu purges\n",
                  (unsigned long long)taken, (unsigned long long)f.copies,
                  (unsigned long long)f.splits, (unsigned long long)f.purges);
    assert_true(taken > 20 && f.copies > taken && f.splits > 0 && f.purges > 0);
    pair_end(&p);
}

static void snapshots_may_be_released_in_any_order(void **state)
{
    (void)state;
    enum { KEYS = 6000, COUNT = 4 };
    static const uint8_t orders[][COUNT] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2},
                                            {2, 0, 3, 1}, {0, 3, 2, 1}, {3, 0, 1, 2}};
    for (unsigned o = 0; o < sizeof orders / sizeof *orders; o++) {
        struct pair p;
        struct moment m[COUNT];
        pair_begin(&p, KEYS);
        fill(&p, 0, KEYS);
        for (unsigned i = 0; i < COUNT; i++) {
            take(&p, &m[i]);
            for (uint64_t k = i; k < KEYS; k += 1u << i)
                put(&p, k);
        }
        for (unsigned i = 0; i < COUNT; i++) {
            release(&p, &m[orders[o][i]]);
            for (uint64_t k = 0; k < KEYS; k += 3) /* what was freed is used again */
                put(&p, k);
            for (unsigned j = i + 1; j < COUNT; j++)
                assert_unchanged(&m[orders[o][j]]);
        }
        assert_equals_model(&p);
        pair_end(&p);
    }
}

static bool is_odd(void *user, uint64_t location)
{
    (void)user;
    return (key_at(location) & 1u) != 0;
}

static void a_sweep_leaves_a_snapshot_alone(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    struct pair p;
    struct moment m;
    uint64_t removed;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS);
    take(&p, &m);
    assert_int_equal(bkv_keydir_sweep(p.kd, is_odd, NULL, &removed), BITKV_OK);
    assert_int_equal(removed, KEYS / 2);
    for (uint64_t k = 1; k < KEYS; k += 2)
        note(&p, k, 0);
    assert_unchanged(&m);
    release(&p, &m);
    assert_equals_model(&p);
    pair_end(&p);
}

/* ------------------------------------------------------------------- cost */

static uint64_t copies(const struct pair *p)
{
    struct bkv_keydir_figures f;
    bkv_keydir_figures(p->kd, &f);
    return f.copies;
}

static void a_subtable_is_copied_once_a_snapshot_and_not_without_one(void **state)
{
    (void)state;
    enum { KEYS = 50000 };
    struct pair p;
    struct moment m;
    struct bkv_keydir_figures f;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS);
    assert_int_equal(copies(&p), 0);
    take(&p, &m);
    assert_int_equal(copies(&p), 0);
    for (unsigned round = 0; round < 3; round++)
        fill(&p, 0, KEYS);
    bkv_keydir_figures(p.kd, &f);
    assert_int_equal(f.copies, f.tables);
    release(&p, &m);
    fill(&p, 0, KEYS);
    assert_int_equal(copies(&p), f.tables);
    /* What changes nothing copies nothing. */
    take(&p, &m);
    for (uint64_t k = KEYS; k < KEYS + 1000; k++) {
        struct bkv_hash h = hash_of(k);
        assert_int_equal(bkv_keydir_prepare_remove(p.kd, &h), BITKV_OK);
        assert_int_equal(bkv_keydir_remove(p.kd, &h), 0);
        assert_int_equal(bkv_keydir_replace(p.kd, &h, 1, 1), BITKV_NOT_FOUND);
        assert_int_equal(bkv_keydir_remove_exact(p.kd, &h, 1), BITKV_NOT_FOUND);
    }
    assert_int_equal(copies(&p), f.tables);
    release(&p, &m);
    pair_end(&p);
}

static void room_that_is_too_small_is_refused_and_may_be_used_later(void **state)
{
    (void)state;
    enum { KEYS = 60000 };
    struct pair p;
    struct bkv_keydir_snapshot *small, *large;
    pair_begin(&p, KEYS);
    uint64_t empty = bkv_keydir_memory(p.kd);
    assert_int_equal(bkv_keydir_snapshot_reserve(p.kd, &small), BITKV_OK);
    assert_true(bkv_keydir_memory(p.kd) > empty);
    assert_true(bkv_keydir_snapshot_take(p.kd, small));
    bkv_keydir_snapshot_release(p.kd, small);
    fill(&p, 0, KEYS);
    assert_false(bkv_keydir_snapshot_take(p.kd, small));
    fill(&p, 0, KEYS);
    assert_int_equal(copies(&p), 0);
    assert_int_equal(bkv_keydir_snapshot_reserve(p.kd, &large), BITKV_OK);
    for (unsigned i = 0; i < 3; i++) { /* one room, several snapshots */
        assert_true(bkv_keydir_snapshot_take(p.kd, large));
        assert_int_equal(bkv_keydir_snapshot_count(large), KEYS);
        bkv_keydir_snapshot_release(p.kd, large);
    }
    uint64_t before = bkv_keydir_memory(p.kd);
    bkv_keydir_snapshot_free(p.kd, small);
    bkv_keydir_snapshot_free(p.kd, large);
    bkv_keydir_snapshot_free(p.kd, NULL);
    assert_true(bkv_keydir_memory(p.kd) < before);
    pair_end(&p);
}

static void what_a_snapshot_needed_is_used_again(void **state)
{
    (void)state;
    enum { KEYS = SLOW ? 20000 : 100000, ROUNDS = 20 };
    struct pair p;
    struct moment steady, m[2];
    uint64_t early = 0, r = seed;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS);
    uint64_t alone = bkv_keydir_memory(p.kd);
    take(&p, &steady); /* an old one does not keep what only newer ones need */
    for (unsigned round = 0; round < ROUNDS; round++) {
        take(&p, &m[0]);
        fill(&p, 0, KEYS / 2);
        take(&p, &m[1]);
        fill(&p, 0, KEYS);
        unsigned first = (unsigned)(rnd(&r) % 2);
        release(&p, &m[first]);
        fill(&p, 0, KEYS);
        release(&p, &m[1 - first]);
        if (round == 3)
            early = bkv_keydir_memory(p.kd);
    }
    assert_unchanged(&steady);
    release(&p, &steady);
    print_message("memory: %llu KiB, with snapshots %llu, after %u rounds %llu\n",
                  (unsigned long long)alone >> 10, (unsigned long long)early >> 10, ROUNDS,
                  (unsigned long long)bkv_keydir_memory(p.kd) >> 10);
    assert_true(bkv_keydir_memory(p.kd) <= early + early / 16);
    assert_true(early <= 5 * alone); /* the KeyDir, three snapshots' own, and some */
    assert_equals_model(&p);
    pair_end(&p);
}

/* Steps retire what no snapshot has seen: it is free at once. */
static void churn_beside_a_snapshot_does_not_grow_memory(void **state)
{
    (void)state;
    enum { LIVE = SLOW ? 10000 : 30000, ROUNDS = 20 };
    struct pair p;
    struct moment m;
    struct bkv_keydir_figures f;
    uint64_t early = 0;
    pair_begin(&p, (uint64_t)LIVE * (ROUNDS + 1));
    fill(&p, 0, LIVE);
    take(&p, &m);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        for (uint64_t k = round * LIVE; k < (round + 1) * LIVE; k++) {
            del(&p, k);
            put(&p, k + LIVE);
        }
        if (round == 7)
            early = bkv_keydir_memory(p.kd);
    }
    bkv_keydir_figures(p.kd, &f);
    assert_true(f.purges > f.tables);
    assert_true(bkv_keydir_memory(p.kd) <= early + early / 16);
    assert_unchanged(&m);
    release(&p, &m);
    pair_end(&p);
}

/* ---------------------------------------------------------- out of memory */

static uint64_t failures;

static bool fail_always(size_t size, void *user)
{
    (void)size, (void)user;
    return false;
}

static void no_memory(void)
{
    bkv_alloc_set_hook(fail_always, NULL);
}

static void memory_again(void)
{
    bkv_alloc_set_hook(NULL, NULL);
}

/* A try without memory: BITKV_OK, or nothing has changed. True if it was. */
static bool went(const struct pair *p, int rc, uint64_t key)
{
    memory_again();
    if (rc == BITKV_OK)
        return true;
    assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
    assert_true(finds(p->kd, key, p->model[key]));
    assert_int_equal(bkv_keydir_count(p->kd), p->present);
    failures++;
    return false;
}

static void prepare_may_fail_but_not_what_follows(struct pair *p, uint64_t key, bool remove)
{
    struct bkv_hash h = hash_of(key);
    no_memory();
    int rc = remove ? bkv_keydir_prepare_remove(p->kd, &h) : bkv_keydir_prepare(p->kd, &h);
    if (!went(p, rc, key))
        assert_int_equal(remove ? bkv_keydir_prepare_remove(p->kd, &h)
                                : bkv_keydir_prepare(p->kd, &h),
                         BITKV_OK);
    uint64_t location = remove ? 0 : location_of(key, ++p->version);
    no_memory();
    uint64_t old = remove ? bkv_keydir_remove(p->kd, &h) : bkv_keydir_put(p->kd, &h, location);
    memory_again();
    assert_int_equal(old, p->model[key]);
    note(p, key, location);
}

static void exact_changes_fail_whole(struct pair *p, uint64_t key, bool remove)
{
    struct bkv_hash h = hash_of(key);
    uint64_t old = p->model[key], location = location_of(key, ++p->version);
    if (old == 0)
        return;
    no_memory();
    int rc = remove ? bkv_keydir_remove_exact(p->kd, &h, old)
                    : bkv_keydir_replace(p->kd, &h, old, location);
    if (!went(p, rc, key))
        assert_int_equal(remove ? bkv_keydir_remove_exact(p->kd, &h, old)
                                : bkv_keydir_replace(p->kd, &h, old, location),
                         BITKV_OK);
    note(p, key, remove ? 0 : location);
}

static void deferred_keys_stay_readable(struct pair *p, uint64_t key)
{
    uint64_t dead;
    defer(p, key);
    no_memory();
    int rc = bkv_keydir_settle_one(p->kd, &dead);
    memory_again();
    assert_true(rc == 1 || rc == BITKV_ERR_NO_MEMORY);
    failures += rc < 0;
    assert_true(finds(p->kd, key, p->model[key]));
    settle(p);
}

static void without_memory_a_change_fails_before_anything_has_changed(void **state)
{
    (void)state;
    enum { KEYS = 30000, OPS = SLOW ? 21000 : 60000 };
    struct pair p;
    struct moment m[3] = {{0}};
    uint64_t r = seed;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS / 2);
    failures = 0;
    no_memory();
    assert_int_equal(bkv_keydir_snapshot_reserve(p.kd, &m[0].snapshot), BITKV_ERR_NO_MEMORY);
    memory_again();
    for (unsigned op = 0; op < OPS; op++) {
        if (op % (OPS / 3) == 0)
            take(&p, &m[op / (OPS / 3)]);
        uint64_t key = rnd(&r) % KEYS, dice = rnd(&r) % 5;
        if (dice < 2)
            prepare_may_fail_but_not_what_follows(&p, key, dice == 0);
        else if (dice < 4)
            exact_changes_fail_whole(&p, key, dice == 2);
        else
            deferred_keys_stay_readable(&p, key);
    }
    print_message("%llu failed for lack of memory\n", (unsigned long long)failures);
    assert_true(failures > 10);
    for (unsigned i = 0; i < 3; i++) {
        assert_unchanged(&m[i]);
        release(&p, &m[i]);
    }
    assert_equals_model(&p);
    pair_end(&p);
}

static void a_sweep_without_memory_says_how_far_it_came(void **state)
{
    (void)state;
    enum { KEYS = 30000 };
    struct pair p;
    struct moment m;
    uint64_t first, second;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS);
    take(&p, &m);
    no_memory();
    assert_int_equal(bkv_keydir_sweep(p.kd, is_odd, NULL, &first), BITKV_ERR_NO_MEMORY);
    memory_again();
    assert_int_equal(bkv_keydir_count(p.kd), KEYS - first);
    assert_int_equal(bkv_keydir_sweep(p.kd, is_odd, NULL, &second), BITKV_OK);
    assert_int_equal(first + second, KEYS / 2);
    assert_unchanged(&m);
    release(&p, &m);
    pair_end(&p);
}

/* ----------------------------------------------------------------- images */

static void change_a_little(struct pair *p, uint64_t *r)
{
    for (unsigned i = 0; i < 200; i++) {
        put(p, 1000 + rnd(r) % (p->keys - 1000));
        del(p, 1000 + rnd(r) % (p->keys - 1000));
    }
}

static bool accept_all(void *user, uint64_t location)
{
    (void)user, (void)location;
    return true;
}

/* From the image of one KeyDir straight into another. */
static void copy_group(const struct bkv_keydir *from, struct bkv_keydir *kd, uint32_t group)
{
    static unsigned char
        bytes[BKV_KEYDIR_GROUP_HEADER_SIZE + BKV_KEYDIR_GROUP_PAGES_MAX * BKV_KEYDIR_PAGE_SIZE];
    size_t size = bkv_keydir_image_group_size(from, group);
    assert_true(size > 0 && size <= sizeof bytes);
    bkv_keydir_image_group(from, group, bytes);
    void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
    uint32_t keys = (uint32_t)(bytes[4] | bytes[5] << 8 | bytes[6] << 16);
    uint32_t pages = bytes[0];
    assert_int_equal(size, BKV_KEYDIR_GROUP_HEADER_SIZE + (size_t)pages * BKV_KEYDIR_PAGE_SIZE);
    assert_int_equal(bkv_keydir_load_group(kd, pages, memory), BITKV_OK);
    for (uint32_t i = 0; i < pages; i++)
        memcpy(memory[i], bytes + BKV_KEYDIR_GROUP_HEADER_SIZE + (size_t)i * BKV_KEYDIR_PAGE_SIZE,
               BKV_KEYDIR_PAGE_SIZE);
    assert_int_equal(bkv_keydir_load_group_finish(kd, keys, accept_all, NULL), BITKV_OK);
}

static void an_image_taken_beside_snapshots_has_every_steady_key(void **state)
{
    (void)state;
    enum { KEYS = 60000 };
    struct pair p;
    struct moment m[3] = {{0}};
    struct bkv_keydir *copy;
    uint64_t r = seed;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS);
    assert_int_equal(bkv_keydir_create(&copy), BITKV_OK);
    take(&p, &m[0]);
    uint32_t groups = bkv_keydir_image_begin(p.kd);
    assert_int_equal(bkv_keydir_load_begin(copy, groups), BITKV_OK);
    for (uint32_t g = 0; g < groups; g++) {
        copy_group(p.kd, copy, g);
        change_a_little(&p, &r);
        if (g % 8 == 0) {
            struct moment *one = &m[1 + g / 8 % 2];
            if (one->snapshot != NULL)
                release(&p, one);
            take(&p, one);
        }
    }
    bkv_keydir_image_end(p.kd);
    assert_int_equal(bkv_keydir_load_end(copy), BITKV_OK);
    for (uint64_t k = 0; k < 1000; k++)
        assert_true(finds(copy, k, p.model[k]));
    for (unsigned i = 0; i < 3; i++) {
        assert_unchanged(&m[i]);
        release(&p, &m[i]);
    }
    assert_equals_model(&p);
    bkv_keydir_destroy(copy);
    pair_end(&p);
}

/* ---------------------------------------------------------------- threads */

enum { READERS = 2, BOXES = 2 };

/* A moment goes to every reader of a box; who is done with it takes it out. */
struct reader {
    struct moment *_Atomic box[BOXES];
    _Atomic uint64_t *scanned; /* per box: entries seen by all readers */
    _Atomic bool *stop;
    struct pair *pair;
    uint32_t index;
    uint64_t moments, steady;
};

static void die_if(bool wrong, const char *what)
{
    if (wrong) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

/* The live KeyDir beside it: keys below 100 are always there. */
static void read_live(struct reader *self)
{
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    for (uint64_t k = 0; k < 100; k++) {
        struct bkv_hash h = hash_of(k);
        uint64_t found = 0;
        die_if(!bkv_keydir_find(self->pair->kd, &h, &found), "a steady key is missing");
        self->steady += found != 0;
    }
    bkv_epoch_exit(slot);
}

static void *read_snapshots(void *user)
{
    struct reader *self = user;
    while (!atomic_load_explicit(self->stop, memory_order_acquire)) {
        read_live(self);
        for (unsigned b = 0; b < BOXES; b++) {
            const struct moment *m = atomic_load_explicit(&self->box[b], memory_order_acquire);
            if (m == NULL)
                continue;
            die_if(!finds_all(m), "a snapshot has changed");
            uint64_t seen = scan_share(m, self->index, READERS);
            die_if(seen == UINT64_MAX, "a snapshot's table has changed");
            atomic_fetch_add(&self->scanned[b], seen);
            self->moments++;
            atomic_store_explicit(&self->box[b], NULL, memory_order_release);
        }
    }
    return NULL;
}

static bool all_done(struct reader *readers, unsigned box)
{
    bool done = true;
    for (unsigned i = 0; i < READERS; i++)
        done &= atomic_load_explicit(&readers[i].box[box], memory_order_acquire) == NULL;
    return done;
}

static void end_moment(struct pair *p, struct moment *m, _Atomic uint64_t *scanned)
{
    assert_int_equal(*scanned, m->present); /* the shares of all readers together */
    *scanned = 0;
    release(p, m);
}

static void readers_of_snapshots_see_nothing_of_what_a_writer_does(void **state)
{
    (void)state;
    enum { KEYS = SLOW ? 6000 : 40000, MOMENTS = SLOW ? 16 : 60 };
    struct pair p;
    struct moment moments[BOXES] = {{0}};
    struct reader readers[READERS] = {{.index = 0}};
    _Atomic uint64_t scanned[BOXES] = {0};
    _Atomic bool stop = false;
    pthread_t threads[READERS];
    uint64_t r = seed;
    pair_begin(&p, KEYS);
    fill(&p, 0, KEYS / 4);
    for (uint32_t i = 0; i < READERS; i++) {
        readers[i].scanned = scanned;
        readers[i].stop = &stop;
        readers[i].pair = &p;
        readers[i].index = i;
        assert_int_equal(pthread_create(&threads[i], NULL, read_snapshots, &readers[i]), 0);
    }
    uint64_t changes = 0;
    for (unsigned taken = 0; taken < MOMENTS;) {
        for (unsigned i = 0; i < 500; i++, changes++)
            change(&p, 100 + rnd(&r) % (KEYS - 100), rnd(&r) % 14);
        settle(&p);
        for (unsigned i = 0; i < 10; i++)
            put(&p, rnd(&r) % 100);
        unsigned b = (unsigned)(rnd(&r) % BOXES);
        if (!all_done(readers, b)) {
            (void)sched_yield();
            continue;
        }
        if (moments[b].snapshot != NULL)
            end_moment(&p, &moments[b], &scanned[b]);
        take(&p, &moments[b]);
        taken++;
        for (unsigned i = 0; i < READERS; i++)
            atomic_store_explicit(&readers[i].box[b], &moments[b], memory_order_release);
    }
    for (unsigned b = 0; b < BOXES; b++) {
        while (!all_done(readers, b))
            change(&p, 100 + rnd(&r) % (KEYS - 100), rnd(&r) % 14);
        if (moments[b].snapshot != NULL)
            end_moment(&p, &moments[b], &scanned[b]);
    }
    atomic_store_explicit(&stop, true, memory_order_release);
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    print_message("%llu changes beside %u snapshots, %llu copies\n", (unsigned long long)changes,
                  (unsigned)MOMENTS, (unsigned long long)copies(&p));
    assert_equals_model(&p);
    pair_end(&p);
}

int main(void)
{
    const char *given = getenv("BITKV_TEST_SEED");
    seed = given != NULL ? strtoull(given, NULL, 0) : bkv_now_ns();
    printf("BITKV_TEST_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_of_an_empty_keydir_stays_empty),
        cmocka_unit_test(overlapping_snapshots_each_show_their_own_moment),
        cmocka_unit_test(snapshots_may_be_released_in_any_order),
        cmocka_unit_test(a_sweep_leaves_a_snapshot_alone),
        cmocka_unit_test(a_subtable_is_copied_once_a_snapshot_and_not_without_one),
        cmocka_unit_test(room_that_is_too_small_is_refused_and_may_be_used_later),
        cmocka_unit_test(what_a_snapshot_needed_is_used_again),
        cmocka_unit_test(churn_beside_a_snapshot_does_not_grow_memory),
        cmocka_unit_test(without_memory_a_change_fails_before_anything_has_changed),
        cmocka_unit_test(a_sweep_without_memory_says_how_far_it_came),
        cmocka_unit_test(an_image_taken_beside_snapshots_has_every_steady_key),
        cmocka_unit_test(readers_of_snapshots_see_nothing_of_what_a_writer_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
