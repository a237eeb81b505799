/* SPDX-License-Identifier: MIT */
/*
 * The promises of keydir/keydir.h, against a plain map.
 *
 * BITKV_TEST_SEED replays a run; every run prints its seed.
 */
#include "base/clock.h"
#include "base/epoch.h"
#include "base/memory.h"
#include "keydir/internal.h"
#include "keydir/keydir.h"

#include <bitkv.h>

#include <pthread.h>
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

/* Hash of key number i. */
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

static struct bkv_keydir *create(void)
{
    struct bkv_keydir *kd = NULL;
    assert_int_equal(bkv_keydir_create(&kd), BITKV_OK);
    return kd;
}

static uint64_t put(struct bkv_keydir *kd, uint64_t key, uint64_t location)
{
    struct bkv_hash h = hash_of(key);
    assert_int_equal(bkv_keydir_prepare(kd, &h), BITKV_OK);
    return bkv_keydir_put(kd, &h, location);
}

static uint64_t get(const struct bkv_keydir *kd, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    uint64_t location = 0;
    return bkv_keydir_find(kd, &h, &location) ? location : 0;
}

static uint64_t del(struct bkv_keydir *kd, uint64_t key)
{
    struct bkv_hash h = hash_of(key);
    return bkv_keydir_remove(kd, &h);
}

static void fill(struct bkv_keydir *kd, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++)
        assert_int_equal(put(kd, i, location_of(i, 0)), 0);
}

/* Every key of the model and nothing else: by find and by scan. */
static void assert_equals_model(struct bkv_keydir *kd, const uint64_t *model, uint64_t keys)
{
    uint64_t present = 0;
    for (uint64_t k = 0; k < keys; k++) {
        assert_int_equal(get(kd, k), model[k]);
        present += model[k] != 0;
    }
    assert_int_equal(bkv_keydir_count(kd), present);
    uint64_t seen = 0, cursor = 0;
    struct bkv_keydir_entries entries = {0};
    do {
        assert_int_equal(bkv_keydir_scan(kd, &cursor, &entries), BITKV_OK);
        for (size_t i = 0; i < entries.count; i++) {
            uint64_t k = key_at(entries.items[i].location);
            struct bkv_hash h = hash_of(k);
            assert_true(k < keys);
            assert_int_equal(model[k], entries.items[i].location);
            assert_true(bkv_keydir_entry_is(&entries.items[i], &h));
            seen++;
        }
    } while (cursor != 0);
    assert_int_equal(seen, present);
    bkv_keydir_entries_free(&entries);
}

/* ---------------------------------------------------------------- single */

static void an_empty_keydir_is_small_and_finds_nothing(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    assert_int_equal(bkv_keydir_count(kd), 0);
    assert_true(bkv_keydir_memory(kd) <= 70u * 1024u);
    assert_int_equal(get(kd, 1), 0);
    assert_int_equal(del(kd, 1), 0);
    struct bkv_hash h = hash_of(1);
    assert_int_equal(bkv_keydir_replace(kd, &h, 1, 2), BITKV_NOT_FOUND);
    assert_int_equal(bkv_keydir_remove_exact(kd, &h, 1), BITKV_NOT_FOUND);
    bkv_keydir_destroy(kd);
    bkv_keydir_destroy(NULL);
}

static void it_does_what_a_plain_map_does_while_it_grows(void **state)
{
    (void)state;
    enum { KEYS = SLOW ? 60000 : 300000 };
    uint64_t *model = calloc(KEYS, sizeof *model);
    assert_non_null(model);
    struct bkv_keydir *kd = create();
    uint64_t r = seed, version = 0, range = 16;
    for (unsigned op = 0; op < (SLOW ? 400000u : 3000000u); op++) {
        if (op % 8 == 0 && range < KEYS)
            range += 1 + range / 50000;
        uint64_t k = rnd(&r) % (range < KEYS ? range : KEYS), old = model[k];
        uint64_t location = location_of(k, ++version);
        struct bkv_hash h = hash_of(k);
        switch (rnd(&r) % 8) {
        case 0:
        case 1:
        case 2:
        case 3:
            assert_int_equal(put(kd, k, location), old);
            model[k] = location;
            break;
        case 4:
            assert_int_equal(del(kd, k), old);
            model[k] = 0;
            break;
        case 5:
            assert_int_equal(bkv_keydir_replace(kd, &h, old, location),
                             old != 0 ? BITKV_OK : BITKV_NOT_FOUND);
            model[k] = old != 0 ? location : 0;
            break;
        case 6:
            assert_int_equal(bkv_keydir_replace(kd, &h, location, location), BITKV_NOT_FOUND);
            assert_int_equal(bkv_keydir_remove_exact(kd, &h, location), BITKV_NOT_FOUND);
            if (op % 4 == 0) {
                assert_int_equal(bkv_keydir_remove_exact(kd, &h, old),
                                 old != 0 ? BITKV_OK : BITKV_NOT_FOUND);
                model[k] = 0;
            }
            break;
        default:
            assert_int_equal(get(kd, k), old);
            break;
        }
    }
    assert_equals_model(kd, model, KEYS);
    for (uint64_t k = 0; k < KEYS; k += 2) {
        assert_int_equal(del(kd, k), model[k]);
        model[k] = 0;
    }
    assert_equals_model(kd, model, KEYS);
    bkv_keydir_destroy(kd);
    free(model);
}

static void a_prepare_serves_the_next_put_only(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    fill(kd, 0, 1000);
    for (uint64_t k = 1000; k < 20000; k++) {
        /* Another change between prepare and put makes the place stale. */
        struct bkv_hash a = hash_of(k), b = hash_of(k - 1000);
        assert_int_equal(bkv_keydir_prepare(kd, &a), BITKV_OK);
        if (k % 2 == 0)
            assert_int_equal(bkv_keydir_remove(kd, &b), location_of(k - 1000, 0));
        assert_int_equal(bkv_keydir_put(kd, &a, location_of(k, 0)), 0);
        if (k % 2 == 0)
            assert_int_equal(put(kd, k - 1000, location_of(k - 1000, 0)), 0);
    }
    for (uint64_t k = 0; k < 20000; k++) {
        struct bkv_hash h = hash_of(k);
        assert_int_equal(bkv_keydir_prepare(kd, &h), BITKV_OK);
        assert_int_equal(bkv_keydir_remove(kd, &h), location_of(k, 0));
        assert_int_equal(bkv_keydir_put(kd, &h, location_of(k, 1)), 0);
    }
    assert_int_equal(bkv_keydir_count(kd), 20000);
    for (uint64_t k = 0; k < 20000; k++)
        assert_int_equal(get(kd, k), location_of(k, 1));
    bkv_keydir_destroy(kd);
}

static void keys_that_differ_in_any_known_bit_are_two(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    struct bkv_hash base = hash_of(7);
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(put(kd, 7, 1), 0);
        for (unsigned bit = 0; bit < 64 + BKV_KEYDIR_TAG_BITS; bit++) {
            struct bkv_hash h = base;
            uint64_t found = 0;
            if (bit < 64)
                h.lo ^= UINT64_C(1) << bit;
            else
                h.hi ^= UINT64_C(1) << (bit - 64);
            assert_false(bkv_keydir_find(kd, &h, &found));
            assert_int_equal(bkv_keydir_prepare(kd, &h), BITKV_OK);
            assert_int_equal(bkv_keydir_put(kd, &h, 2), 0);
            assert_true(bkv_keydir_find(kd, &h, &found));
            assert_int_equal(found, 2);
            assert_int_equal(get(kd, 7), 1);
            assert_int_equal(bkv_keydir_remove(kd, &h), 2);
        }
        assert_int_equal(del(kd, 7), 1);
        fill(kd, 100 + 50000 * round, 50100 + 50000 * round); /* again in a large table */
    }
    bkv_keydir_destroy(kd);
}

static void hashes_of_0_and_1_and_the_largest_location_are_stored(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    for (uint64_t lo = 0; lo < 2; lo++) {
        struct bkv_hash h = {.lo = lo, .hi = 5}, other = {.lo = lo, .hi = 6};
        uint64_t found = 0;
        assert_int_equal(bkv_keydir_prepare(kd, &h), BITKV_OK);
        assert_int_equal(bkv_keydir_put(kd, &h, BKV_KEYDIR_LOCATION_MAX), 0);
        assert_true(bkv_keydir_find(kd, &h, &found));
        assert_int_equal(found, BKV_KEYDIR_LOCATION_MAX);
        assert_false(bkv_keydir_find(kd, &other, &found));
        assert_int_equal(bkv_keydir_remove(kd, &h), BKV_KEYDIR_LOCATION_MAX);
        assert_false(bkv_keydir_find(kd, &h, &found));
    }
    bkv_keydir_destroy(kd);
}

static void a_hash_that_is_none_ends_in_an_error_not_in_a_loop(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    unsigned stored = 0;
    int rc = BITKV_OK;
    for (unsigned i = 0; i < 128; i++) { /* bits that choose neither page nor distance */
        struct bkv_hash h = {.lo = 42 + (i << 20), .hi = 3};
        rc = bkv_keydir_prepare(kd, &h);
        if (rc != BITKV_OK)
            break;
        assert_int_equal(bkv_keydir_put(kd, &h, i + 1), 0);
        stored++;
    }
    assert_int_equal(rc, BITKV_ERR_LIMIT);
    assert_int_equal(stored, 64);
    assert_int_equal(bkv_keydir_count(kd), stored);
    for (unsigned i = 0; i < stored; i++) {
        struct bkv_hash h = {.lo = 42 + (i << 20), .hi = 3};
        uint64_t found = 0;
        assert_true(bkv_keydir_find(kd, &h, &found));
        assert_int_equal(found, i + 1);
    }
    bkv_keydir_destroy(kd);
}

static bool is_odd(void *user, uint64_t location)
{
    (void)user;
    return (key_at(location) & 1u) != 0;
}

static void a_sweep_removes_what_the_callback_says(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    fill(kd, 0, 50001);
    uint64_t removed = 0;
    assert_int_equal(bkv_keydir_sweep(kd, is_odd, NULL, &removed), BITKV_OK);
    assert_int_equal(removed, 25000);
    assert_int_equal(bkv_keydir_count(kd), 25001);
    for (uint64_t k = 0; k < 50001; k++)
        assert_int_equal(get(kd, k), (k & 1u) != 0 ? 0 : location_of(k, 0));
    fill(kd, 60000, 90000);
    assert_int_equal(bkv_keydir_sweep(kd, is_odd, NULL, &removed), BITKV_OK);
    assert_int_equal(removed, 15000);
    bkv_keydir_destroy(kd);
}

/* ---------------------------------------------------------------- memory */

static void memory_stays_below_24_bytes_a_key(void **state)
{
    (void)state;
    struct bkv_keydir *one = create(), *two = create();
    for (uint64_t i = 0; i < 1000000; i++) {
        (void)put(one, i, location_of(i, 0));
        if (i >= 499999)
            assert_true(bkv_keydir_memory(one) <= 24 * (i + 1));
    }
    for (uint64_t i = 0; i < 500000; i++)
        (void)put(two, i, location_of(i, 0));
    double per_key = (double)bkv_keydir_memory(one) / 1e6;
    double per_key_two = (double)bkv_keydir_memory(two) / 5e5;
    print_message("bytes a key: %.2f in one keydir of 1 M, %.2f in each of 2 x 500 k\n", per_key,
                  per_key_two);
    assert_true(per_key <= 24.0);
    assert_true(per_key_two <= 24.0);
    bkv_keydir_destroy(one);
    bkv_keydir_destroy(two);
}

static void churn_at_constant_size_does_not_grow_memory(void **state)
{
    (void)state;
    enum { LIVE = SLOW ? 20000 : 100000, ROUNDS = 30 };
    struct bkv_keydir *kd = create();
    fill(kd, 0, LIVE);
    uint64_t settled = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        /* first out: every slot is deleted and filled again each round */
        for (uint64_t i = 0; i < LIVE; i++) {
            assert_int_equal(del(kd, round * LIVE + i), location_of(round * LIVE + i, 0));
            assert_int_equal(
                put(kd, (round + 1) * LIVE + i, location_of((round + 1) * LIVE + i, 0)), 0);
        }
        if (round == 9)
            settled = bkv_keydir_memory(kd);
    }
    struct bkv_keydir_figures f;
    bkv_keydir_figures(kd, &f);
    print_message("churn: %.2f bytes a key, %llu purges\n", (double)bkv_keydir_memory(kd) / LIVE,
                  (unsigned long long)f.purges);
    assert_true(f.purges > 0);
    assert_true(bkv_keydir_memory(kd) <= settled + settled / 8);
    /* and what an empty one takes, which counts where keys are few */
    assert_true(bkv_keydir_memory(kd) <= 30u * (uint64_t)LIVE + (70u << 10));
    assert_int_equal(bkv_keydir_count(kd), LIVE);
    /* Emptied and filled anew: the pages are reused. */
    for (uint64_t i = 0; i < LIVE; i++)
        assert_int_not_equal(del(kd, (uint64_t)ROUNDS * LIVE + i), 0);
    uint64_t before = bkv_keydir_memory(kd);
    fill(kd, 0, LIVE);
    assert_true(bkv_keydir_memory(kd) <= before + before / 8);
    bkv_keydir_destroy(kd);
}

static void no_step_moves_more_than_a_few_pages(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t longest = 0, keys = SLOW ? 100000 : 1000000;
    for (uint64_t i = 0; i < keys; i++) {
        uint64_t before = bkv_now_ns();
        (void)put(kd, i, location_of(i, 0));
        uint64_t took = bkv_now_ns() - before;
        longest = took > longest ? took : longest;
        if (bkv_keydir_wants_memory(kd))
            bkv_keydir_prepare_memory(kd);
    }
    struct bkv_keydir_figures f;
    bkv_keydir_figures(kd, &f);
    print_message("longest put %.1f us, %llu pages read and written in the longest step\n",
                  (double)longest / 1000, (unsigned long long)f.step_pages_max);
    assert_true(f.step_pages_max <= 40);
    assert_true(f.keys_moved <= 12 * keys);
    bkv_keydir_destroy(kd);
}

static uint64_t allocations_left;

static bool fail_after(size_t size, void *user)
{
    (void)size, (void)user;
    if (allocations_left == 0)
        return false;
    allocations_left--;
    return true;
}

static void a_failed_allocation_leaves_everything_as_it_was(void **state)
{
    (void)state;
    enum { KEYS = 40000 };
    unsigned created = 0;
    for (uint64_t n = 0; created < 3; n++) {
        struct bkv_keydir *kd = NULL;
        allocations_left = n;
        bkv_alloc_set_hook(fail_after, NULL);
        int rc = bkv_keydir_create(&kd);
        bkv_alloc_set_hook(NULL, NULL);
        assert_true(rc == BITKV_OK || (rc == BITKV_ERR_NO_MEMORY && kd == NULL));
        if (rc == BITKV_OK) {
            created++;
            bkv_keydir_destroy(kd);
        }
    }
    struct bkv_keydir *kd = create();
    unsigned failures = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        struct bkv_hash h = hash_of(k);
        allocations_left = 0;
        bkv_alloc_set_hook(fail_after, NULL);
        int rc = bkv_keydir_prepare(kd, &h);
        for (uint64_t allowed = 1; rc != BITKV_OK; allowed++) {
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
            assert_int_equal(bkv_keydir_count(kd), k);
            for (uint64_t j = 0; j < k; j += 1 + k / 100)
                assert_int_equal(get(kd, j), location_of(j, 0));
            failures++;
            allocations_left = allowed;
            rc = bkv_keydir_prepare(kd, &h);
        }
        bkv_alloc_set_hook(NULL, NULL);
        assert_int_equal(bkv_keydir_put(kd, &h, location_of(k, 0)), 0);
    }
    assert_true(failures > 5);
    for (uint64_t k = 0; k < KEYS; k++)
        assert_int_equal(get(kd, k), location_of(k, 0));
    bkv_keydir_destroy(kd);
}

/* -------------------------------------------------------------- deferred */

/* A put through the deferred places; what died by it goes out of `alive`. */
static void defer(struct bkv_keydir *kd, uint64_t key, uint64_t location, uint64_t *alive)
{
    struct bkv_hash h = hash_of(key);
    uint64_t dead;
    bkv_keydir_prefetch_put(kd, &h);
    assert_int_equal(bkv_keydir_defer_prepare(kd, &h, &dead), BITKV_OK);
    *alive -= dead != 0;
    *alive += 1;
    *alive -= bkv_keydir_defer(kd, &h, location) != 0;
}

static void settle(struct bkv_keydir *kd, uint64_t *alive)
{
    uint64_t dead;
    int rc;
    while ((rc = bkv_keydir_settle_one(kd, &dead)) > 0)
        *alive -= dead != 0;
    assert_int_equal(rc, 0);
    assert_true(bkv_keydir_settled(kd));
}

static void deferred_puts_are_seen_at_once_and_counted_when_settled(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t alive = 0;
    assert_true(bkv_keydir_settled(kd));
    for (uint64_t k = 0; k < 3; k++) {
        defer(kd, k, location_of(k, 0), &alive);
        assert_int_equal(get(kd, k), location_of(k, 0));
    }
    assert_false(bkv_keydir_settled(kd));
    assert_int_equal(bkv_keydir_count(kd), 0);
    defer(kd, 1, location_of(1, 7), &alive); /* where it is: no older key has to go */
    assert_int_equal(get(kd, 1), location_of(1, 7));
    assert_int_equal(bkv_keydir_count(kd), 0);
    assert_int_equal(alive, 3);
    settle(kd, &alive);
    assert_int_equal(bkv_keydir_count(kd), 3);
    assert_int_equal(get(kd, 1), location_of(1, 7));
    defer(kd, 1, location_of(1, 8), &alive); /* newer than what the table has */
    assert_int_equal(get(kd, 1), location_of(1, 8));
    settle(kd, &alive);
    assert_int_equal(get(kd, 1), location_of(1, 8));
    assert_int_equal(alive, 3);
    bkv_keydir_destroy(kd);
}

static void deferred_puts_do_what_a_plain_map_does(void **state)
{
    (void)state;
    enum { KEYS = 3000, STEPS = 200000 };
    static uint64_t model[KEYS];
    memset(model, 0, sizeof model);
    struct bkv_keydir *kd = create();
    uint64_t r = seed, alive = 0;
    for (uint64_t step = 1; step <= STEPS; step++) {
        uint64_t k = rnd(&r) % (step % 1000 < 100 ? 6 : KEYS); /* the same few, now and then */
        uint64_t dice = rnd(&r) % 16;
        if (dice < 12) {
            model[k] = location_of(k, step);
            defer(kd, k, model[k], &alive);
        } else if (dice < 14) {
            settle(kd, &alive);
            assert_int_equal(del(kd, k), model[k]);
            alive -= model[k] != 0;
            model[k] = 0;
        }
        uint64_t other = rnd(&r) % KEYS;
        assert_int_equal(get(kd, k), model[k]);
        assert_int_equal(get(kd, other), model[other]);
        if (step % 20000 == 0) {
            settle(kd, &alive);
            assert_equals_model(kd, model, KEYS);
            assert_int_equal(alive, bkv_keydir_count(kd));
        }
    }
    bkv_keydir_destroy(kd);
}

static void without_memory_deferred_keys_stay_readable_and_nothing_is_taken_on(void **state)
{
    (void)state;
    enum { KEYS = 40000 };
    struct bkv_keydir *kd = create();
    uint64_t alive = 0;
    unsigned failures = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        struct bkv_hash h = hash_of(k);
        uint64_t dead;
        allocations_left = 0;
        bkv_alloc_set_hook(fail_after, NULL);
        int rc = bkv_keydir_defer_prepare(kd, &h, &dead);
        bkv_alloc_set_hook(NULL, NULL);
        if (rc != BITKV_OK) {
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
            assert_int_equal(dead, 0);
            assert_int_equal(get(kd, k), 0);
            for (uint64_t j = k - 6; j < k; j++)
                assert_int_equal(get(kd, j), location_of(j, 0));
            failures++;
        }
        defer(kd, k, location_of(k, 0), &alive); /* with memory */
    }
    assert_true(failures > 3);
    settle(kd, &alive);
    assert_int_equal(bkv_keydir_count(kd), KEYS);
    bkv_keydir_destroy(kd);
}

/* --------------------------------------------------------------- threads */

struct shared {
    struct bkv_keydir *kd;
    _Atomic uint64_t filled; /* keys 2, 4, ... below this are there for good */
    _Atomic bool stop;
    _Atomic uint64_t finds;
};

static void *read_all_the_time(void *user)
{
    struct shared *shared = user;
    uint64_t r = (uint64_t)(uintptr_t)&r, finds = 0;
    do {
        uint64_t filled = atomic_load_explicit(&shared->filled, memory_order_acquire);
        if (filled < 4)
            continue;
        struct bkv_epoch_slot *slot = bkv_epoch_enter();
        for (unsigned i = 0; i < 64; i++, finds++) {
            /* some that just come, too */
            uint64_t k = i % 2 == 0 ? rnd(&r) % filled : filled - 2 + i % 16, location = 0;
            struct bkv_hash h = hash_of(k);
            bkv_keydir_prefetch_table(shared->kd, &h);
            bkv_keydir_prefetch_line(shared->kd, &h);
            bool found = bkv_keydir_find(shared->kd, &h, &location);
            /* Odd keys come and go, and may be mistaken (convention 3), but
             * only by keys that come and go. */
            bool wrong = found ? location == 0 || (key_at(location) != k &&
                                                   (k % 2 == 0 || key_at(location) % 2 == 0))
                               : k % 2 == 0 && k < filled;
            if (wrong) {
                fprintf(stderr, "key %llu: found %d, location %llx\n", (unsigned long long)k, found,
                        (unsigned long long)location);
                abort();
            }
        }
        bkv_epoch_exit(slot);
    } while (!atomic_load_explicit(&shared->stop, memory_order_relaxed));
    atomic_fetch_add(&shared->finds, finds);
    return NULL;
}

/* Keys below `filled` are there for good, and always newer: a find gives them,
 * or (convention 3) another key's location, and then not again and again. */
static void *read_the_deferred(void *user)
{
    struct shared *shared = user;
    uint64_t r = (uint64_t)(uintptr_t)&r, finds = 0;
    while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
        uint64_t filled = atomic_load_explicit(&shared->filled, memory_order_acquire);
        if (filled == 0)
            continue;
        struct bkv_epoch_slot *slot = bkv_epoch_enter();
        uint64_t k =
            finds % 2 == 0 ? rnd(&r) % filled : filled - 1 - rnd(&r) % (filled < 8 ? filled : 8);
        struct bkv_hash h = hash_of(k);
        bool right = false;
        for (unsigned attempt = 0; attempt < 3 && !right; attempt++) {
            uint64_t location = 0;
            if (!bkv_keydir_find(shared->kd, &h, &location)) {
                fprintf(stderr, "key %llu is missing\n", (unsigned long long)k);
                abort();
            }
            right = key_at(location) == k;
        }
        if (!right)
            abort();
        finds++;
        bkv_epoch_exit(slot);
    }
    atomic_fetch_add(&shared->finds, finds);
    return NULL;
}

static void readers_never_miss_a_key_that_goes_through_the_deferred_places(void **state)
{
    (void)state;
    enum { READERS = 2, KEYS = SLOW ? 60000 : 600000 };
    struct shared shared = {.kd = create()};
    pthread_t threads[READERS];
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_the_deferred, &shared), 0);
    uint64_t version = 0, alive = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        defer(shared.kd, k, location_of(k, ++version), &alive);
        atomic_store_explicit(&shared.filled, k + 1, memory_order_release);
        defer(shared.kd, k - k % 8, location_of(k - k % 8, ++version), &alive);
        if (k % 64 == 0)
            settle(shared.kd, &alive);
    }
    settle(shared.kd, &alive);
    atomic_store(&shared.stop, true);
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(bkv_keydir_count(shared.kd), KEYS);
    print_message("%llu finds beside the writer\n", (unsigned long long)shared.finds);
    bkv_keydir_destroy(shared.kd);
}

static void *prepare_memory_all_the_time(void *user)
{
    struct shared *shared = user;
    while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
        if (bkv_keydir_wants_memory(shared->kd))
            bkv_keydir_prepare_memory(shared->kd);
        struct timespec t = {.tv_nsec = 20000};
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
    }
    return NULL;
}

static void readers_never_miss_a_key_whatever_a_writer_does(void **state)
{
    (void)state;
    enum { READERS = 3, KEYS = SLOW ? 60000 : 600000 };
    struct shared shared = {.kd = create()};
    pthread_t threads[READERS + 1];
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &shared), 0);
    assert_int_equal(pthread_create(&threads[READERS], NULL, prepare_memory_all_the_time, &shared),
                     0);
    uint64_t r = seed, version = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        (void)put(shared.kd, k, location_of(k, ++version));
        atomic_store_explicit(&shared.filled, k + 1, memory_order_release);
        uint64_t other = rnd(&r) % (k + 1);
        if (other % 2 == 0)
            (void)put(shared.kd, other, location_of(other, ++version));
        else if (get(shared.kd, other) != 0)
            assert_int_equal(key_at(del(shared.kd, other)), other);
        else
            assert_int_equal(put(shared.kd, other, location_of(other, ++version)), 0);
    }
    /* Much deleting: purges under the readers' eyes. */
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t k = 1; k < KEYS; k += 2)
            (void)del(shared.kd, k);
        for (uint64_t k = 1; k < KEYS; k += 2)
            (void)put(shared.kd, k, location_of(k, ++version));
    }
    atomic_store(&shared.stop, true);
    for (unsigned i = 0; i <= READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(bkv_keydir_count(shared.kd), KEYS);
    print_message("%llu finds beside the writer\n", (unsigned long long)shared.finds);
    bkv_keydir_destroy(shared.kd);
}

static void *find_one(void *user)
{
    struct shared *shared = user;
    struct bkv_epoch_slot *slot = bkv_epoch_enter();
    uint64_t location = get(shared->kd, shared->filled);
    bkv_epoch_exit(slot);
    return location == location_of(shared->filled, 0) ? shared : NULL;
}

static void *read_the_newest(void *user)
{
    struct shared *shared = user;
    uint64_t finds = 0;
    while (!atomic_load_explicit(&shared->stop, memory_order_relaxed)) {
        struct bkv_epoch_slot *slot = bkv_epoch_enter();
        for (unsigned i = 0; i < 64; i++) {
            uint64_t k = atomic_load_explicit(&shared->filled, memory_order_relaxed), location = 0;
            struct bkv_hash h = {.lo = k, .hi = 0};
            if (bkv_keydir_find(shared->kd, &h, &location)) {
                finds++;
                if (location != k) {
                    fprintf(stderr, "key %llu: found %llu\n", (unsigned long long)k,
                            (unsigned long long)location);
                    abort();
                }
            }
        }
        bkv_epoch_exit(slot);
    }
    atomic_fetch_add(&shared->finds, finds);
    return NULL;
}

/* One slot, and keys that come once each: none may be seen with the location
 * that the slot had before. */
static void a_new_key_is_never_seen_with_an_old_location(void **state)
{
    (void)state;
    struct shared shared = {.kd = create(), .filled = 2};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_the_newest, &shared), 0);
    for (uint64_t k = 3; k < (SLOW ? 200000u : 4000000u); k++) {
        struct bkv_hash h = {.lo = k, .hi = 0};
        atomic_store_explicit(&shared.filled, k, memory_order_relaxed);
        assert_int_equal(bkv_keydir_prepare(shared.kd, &h), BITKV_OK);
        assert_int_equal(bkv_keydir_put(shared.kd, &h, k), 0);
        assert_int_equal(bkv_keydir_remove(shared.kd, &h), k);
    }
    atomic_store(&shared.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    print_message("%llu finds of a key that came and went\n", (unsigned long long)shared.finds);
    bkv_keydir_destroy(shared.kd);
}

/* The moment of a split between a reader's two loads, held still: the number of
 * subtables that it computes with is too small. */
static void a_reader_that_meets_a_split_looks_again(void **state)
{
    (void)state;
    struct shared shared = {.kd = create()};
    fill(shared.kd, 0, 50000);
    uint32_t tables = atomic_load(&shared.kd->tables);
    uint64_t k = 0;
    while (table_address(hash_of(k).lo, tables) != tables - 1)
        k++;
    atomic_store(&shared.filled, k);
    for (unsigned i = 0; i < 3; i++) {
        pthread_t thread;
        void *result = NULL;
        struct timespec t = {.tv_nsec = 20000000};
        atomic_store(&shared.kd->tables, tables - 1);
        assert_int_equal(pthread_create(&thread, NULL, find_one, &shared), 0);
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
        atomic_store(&shared.kd->tables, tables);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_non_null(result);
    }
    bkv_keydir_destroy(shared.kd);
}

/* ------------------------------------------------------------------ scan */

static void a_scan_meets_each_key_once_though_the_table_grows(void **state)
{
    (void)state;
    enum { KEYS = 30000, MORE = 400000 };
    struct bkv_keydir *kd = create();
    uint8_t *seen = calloc(KEYS, 1);
    assert_non_null(seen);
    fill(kd, 0, KEYS);
    struct bkv_keydir_entries entries = {0};
    uint64_t cursor = 0, next = KEYS, steps = 0, longest = 0;
    do {
        assert_int_equal(bkv_keydir_scan(kd, &cursor, &entries), BITKV_OK);
        longest = entries.count > longest ? entries.count : longest;
        for (size_t i = 0; i < entries.count; i++) {
            uint64_t k = key_at(entries.items[i].location);
            if (k < KEYS)
                seen[k]++;
        }
        for (unsigned i = 0; i < 7000 && next < MORE; i++, next++)
            (void)put(kd, next, location_of(next, 0));
        /* present keys move to other locations meanwhile */
        steps++;
        (void)put(kd, steps, location_of(steps, steps));
    } while (cursor != 0);
    for (uint64_t k = 0; k < KEYS; k++)
        assert_int_equal(seen[k], 1);
    assert_true(steps > 30);
    assert_true(longest <= 4000);
    bkv_keydir_entries_free(&entries);
    free(seen);
    bkv_keydir_destroy(kd);
}

/* ----------------------------------------------------------------- image */

struct image {
    uint32_t groups;
    size_t size;
    unsigned char *bytes;
};

/* What happens between two groups. */
typedef void (*between_cb)(struct bkv_keydir *kd, uint64_t *user);

static bool take_image(struct bkv_keydir *kd, struct image *image, between_cb between,
                       uint64_t *user)
{
    *image = (struct image){.groups = bkv_keydir_image_begin(kd)};
    for (uint32_t g = 0; g < image->groups; g++) {
        size_t size = bkv_keydir_image_group_size(kd, g);
        if (size == 0) {
            bkv_keydir_image_end(kd);
            free(image->bytes);
            return false;
        }
        image->bytes = realloc(image->bytes, image->size + size);
        assert_non_null(image->bytes);
        bkv_keydir_image_group(kd, g, image->bytes + image->size);
        image->size += size;
        if (between != NULL)
            between(kd, user);
    }
    bkv_keydir_image_end(kd);
    return true;
}

static uint32_t u32_at(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool accept_all(void *user, uint64_t location)
{
    uint64_t *sum = user;
    *sum += location;
    return true;
}

static int load_image(struct bkv_keydir *kd, const struct image *image, bkv_keydir_check_cb check,
                      void *user)
{
    int rc = bkv_keydir_load_begin(kd, image->groups);
    size_t at = 0;
    for (uint32_t g = 0; rc == BITKV_OK && g < image->groups; g++) {
        void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
        if (image->size - at < BKV_KEYDIR_GROUP_HEADER_SIZE) {
            rc = BITKV_ERR_CORRUPT;
            break;
        }
        uint32_t pages = u32_at(image->bytes + at), keys = u32_at(image->bytes + at + 4);
        at += BKV_KEYDIR_GROUP_HEADER_SIZE;
        if (pages > (image->size - at) / BKV_KEYDIR_PAGE_SIZE)
            rc = BITKV_ERR_CORRUPT;
        if (rc == BITKV_OK)
            rc = bkv_keydir_load_group(kd, pages, memory);
        for (uint32_t p = 0; rc == BITKV_OK && p < pages; p++, at += BKV_KEYDIR_PAGE_SIZE)
            memcpy(memory[p], image->bytes + at, BKV_KEYDIR_PAGE_SIZE);
        if (rc == BITKV_OK)
            rc = bkv_keydir_load_group_finish(kd, keys, check, user);
    }
    if (rc == BITKV_OK)
        rc = bkv_keydir_load_end(kd);
    if (rc != BITKV_OK)
        bkv_keydir_load_abort(kd);
    return rc;
}

static void an_image_loads_as_what_it_was_taken_of(void **state)
{
    (void)state;
    for (uint64_t keys = 0; keys <= 200000; keys = keys * 7 + 1) {
        struct bkv_keydir *kd = create(), *copy = create();
        struct image image;
        fill(kd, 0, keys + keys / 2);
        uint64_t sum = 0, wanted = 0;
        for (uint64_t k = keys; k < keys + keys / 2; k++)
            assert_int_equal(del(kd, k), location_of(k, 0));
        assert_true(take_image(kd, &image, NULL, NULL));
        assert_int_equal(load_image(copy, &image, accept_all, &sum), BITKV_OK);
        assert_int_equal(bkv_keydir_count(copy), keys);
        for (uint64_t k = 0; k < keys; k++) {
            assert_int_equal(get(copy, k), location_of(k, 0));
            wanted += location_of(k, 0);
        }
        assert_int_equal(sum, wanted);
        /* and goes on as any other */
        fill(copy, keys, 2 * keys + 100);
        for (uint64_t k = 0; k < 2 * keys + 100; k++)
            assert_int_equal(get(copy, k), location_of(k, 0));
        free(image.bytes);
        bkv_keydir_destroy(kd);
        bkv_keydir_destroy(copy);
    }
}

static void write_a_little(struct bkv_keydir *kd, uint64_t *next)
{
    for (unsigned i = 0; i < 300; i++, ++*next) {
        (void)put(kd, *next, location_of(*next, 0));               /* comes */
        (void)del(kd, 100000 + *next % 20000);                     /* goes */
        (void)put(kd, *next % 5000, location_of(*next % 5000, 1)); /* moves */
    }
}

static void an_image_taken_beside_a_writer_has_every_steady_key(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create(), *copy = create();
    struct image image;
    fill(kd, 0, 120000);
    uint64_t next = 200000, sum = 0;
    assert_true(take_image(kd, &image, write_a_little, &next));
    assert_int_equal(load_image(copy, &image, accept_all, &sum), BITKV_OK);
    for (uint64_t k = 0; k < 100000; k++) {
        uint64_t location = get(copy, k);
        assert_true(location == location_of(k, 0) || (k < 5000 && location == location_of(k, 1)));
    }
    for (uint64_t k = 200000; k < next; k++) {
        uint64_t location = get(copy, k);
        assert_true(location == 0 || location == location_of(k, 0));
        assert_int_equal(get(kd, k), location_of(k, 0));
    }
    /* Splitting resumes. */
    struct bkv_keydir_figures before, after;
    bkv_keydir_figures(kd, &before);
    fill(kd, next, next + 50000);
    bkv_keydir_figures(kd, &after);
    assert_true(after.tables > before.tables);
    free(image.bytes);
    bkv_keydir_destroy(kd);
    bkv_keydir_destroy(copy);
}

static void write_very_much(struct bkv_keydir *kd, uint64_t *next)
{
    for (unsigned i = 0; i < 100000; i++, ++*next)
        (void)put(kd, *next, location_of(*next, 0));
}

static void an_image_that_a_writer_outruns_fails_and_growth_goes_on(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    struct image image;
    uint64_t next = 20000;
    fill(kd, 0, next);
    assert_false(take_image(kd, &image, write_very_much, &next));
    for (uint64_t k = 0; k < next; k++)
        assert_int_equal(get(kd, k), location_of(k, 0));
    next += 1000;
    fill(kd, next - 1000, next);
    struct bkv_keydir_figures f;
    bkv_keydir_figures(kd, &f);
    assert_true(f.pages <= 7 * f.tables + 7);
    assert_true(take_image(kd, &image, NULL, NULL));
    free(image.bytes);
    bkv_keydir_destroy(kd);
}

static bool reject_seven(void *user, uint64_t location)
{
    (void)user;
    return key_at(location) != 7;
}

static void a_location_that_the_caller_rejects_rejects_the_image(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create(), *copy = create();
    struct image image;
    fill(kd, 0, 10);
    assert_true(take_image(kd, &image, NULL, NULL));
    assert_int_equal(load_image(copy, &image, reject_seven, NULL), BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_keydir_count(copy), 0);
    fill(copy, 0, 1000);
    assert_int_equal(bkv_keydir_count(copy), 1000);
    assert_int_equal(load_image(copy, &image, reject_seven, NULL), BITKV_ERR_INVALID);
    free(image.bytes);
    bkv_keydir_destroy(kd);
    bkv_keydir_destroy(copy);
}

static void an_image_is_loaded_step_by_step_or_not_at_all(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
    uint64_t sum = 0;
    assert_int_equal(bkv_keydir_image_group_size(kd, 0), 0); /* none was begun */
    assert_true(bkv_keydir_image_begin(kd) > 0);
    assert_int_equal(bkv_keydir_image_group_size(kd, 1u << 20), 0);
    bkv_keydir_image_end(kd);
    assert_int_equal(bkv_keydir_load_begin(kd, 1), BITKV_OK);
    assert_int_equal(bkv_keydir_load_group_finish(kd, 0, accept_all, &sum), BITKV_ERR_INVALID);
    assert_int_equal(bkv_keydir_load_end(kd), BITKV_ERR_CORRUPT); /* a group is missing */
    assert_int_equal(bkv_keydir_load_group(kd, 0, memory), BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_keydir_load_group(kd, BKV_KEYDIR_GROUP_PAGES_MAX + 1, memory),
                     BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_keydir_load_group(kd, 1, memory), BITKV_OK);
    memset(memory[0], 0, BKV_KEYDIR_PAGE_SIZE);
    assert_int_equal(bkv_keydir_load_group(kd, 1, memory), BITKV_ERR_CORRUPT); /* one at a time */
    assert_int_equal(bkv_keydir_load_end(kd), BITKV_ERR_CORRUPT);
    assert_int_equal(bkv_keydir_load_group_finish(kd, 0, accept_all, &sum), BITKV_OK);
    assert_int_equal(bkv_keydir_load_group(kd, 1, memory), BITKV_ERR_CORRUPT); /* one too many */
    assert_int_equal(bkv_keydir_load_end(kd), BITKV_OK);
    fill(kd, 0, 300);
    bkv_keydir_destroy(kd);
}

/* Until a load that lacks memory has all it needs. */
static void an_image_that_memory_lacks_for_can_be_loaded_later(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create(), *copy = create();
    struct image image;
    fill(kd, 0, 20000);
    assert_true(take_image(kd, &image, NULL, NULL));
    unsigned failures = 0;
    for (uint64_t n = 0;; n++) {
        uint64_t sum = 0;
        allocations_left = n;
        bkv_alloc_set_hook(fail_after, NULL);
        int rc = load_image(copy, &image, accept_all, &sum);
        bkv_alloc_set_hook(NULL, NULL);
        if (rc == BITKV_OK)
            break;
        assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
        assert_int_equal(bkv_keydir_count(copy), 0);
        failures++;
    }
    assert_true(failures > 0);
    for (uint64_t k = 0; k < 20000; k++)
        assert_int_equal(get(copy, k), location_of(k, 0));
    free(image.bytes);
    bkv_keydir_destroy(kd);
    bkv_keydir_destroy(copy);
}

static void deferred_keys_that_share_half_a_hash_are_two(void **state)
{
    (void)state;
    const struct bkv_hash base = {.lo = mix(seed), .hi = 0};
    for (unsigned bit = 0; bit < BKV_KEYDIR_TAG_BITS; bit++) {
        struct bkv_keydir *kd = create();
        const struct bkv_hash other = {.lo = base.lo, .hi = UINT64_C(1) << bit};
        uint64_t dead, found = 0;
        assert_int_equal(bkv_keydir_defer_prepare(kd, &base, &dead), BITKV_OK);
        assert_int_equal(bkv_keydir_defer(kd, &base, 7), 0);
        if (bit < 7) /* what readers see of a tag there */
            assert_false(bkv_keydir_find(kd, &other, &found));
        assert_int_equal(bkv_keydir_defer_prepare(kd, &other, &dead), BITKV_OK);
        assert_int_equal(bkv_keydir_defer(kd, &other, 8), 0);
        while (bkv_keydir_settle_one(kd, &dead) > 0)
            assert_int_equal(dead, 0);
        assert_true(bkv_keydir_find(kd, &base, &found));
        assert_int_equal(found, 7);
        assert_true(bkv_keydir_find(kd, &other, &found));
        assert_int_equal(found, 8);
        assert_true(bkv_keydir_settled(kd));
        assert_int_equal(bkv_keydir_count(kd), 2);
        /* What was prepared for the one is no plan for the other. */
        assert_int_equal(bkv_keydir_prepare(kd, &base), BITKV_OK);
        assert_int_equal(bkv_keydir_put(kd, &other, 9), 8);
        assert_true(bkv_keydir_find(kd, &base, &found));
        assert_int_equal(found, 7);
        bkv_keydir_destroy(kd);
    }
}

static void an_entry_is_told_from_others_by_all_that_is_known_of_it(void **state)
{
    (void)state;
    for (uint64_t lo = 0; lo < 2; lo++) {
        const struct bkv_keydir_entry entry = {.lo = lo + 2, .location = 1, .tag = 5};
        const struct bkv_hash same = {.lo = lo, .hi = 5};
        const struct bkv_hash another_lo = {.lo = lo + 9, .hi = 5};
        const struct bkv_hash another_tag = {.lo = lo, .hi = 4};
        assert_true(bkv_keydir_entry_is(&entry, &same));
        assert_false(bkv_keydir_entry_is(&entry, &another_lo));
        assert_false(bkv_keydir_entry_is(&entry, &another_tag));
    }
}

/* Whatever was accepted: everything still works and ends. */
static void use_it(struct bkv_keydir *kd, uint64_t keys)
{
    uint64_t present = bkv_keydir_count(kd), seen = 0, cursor = 0;
    struct bkv_keydir_entries entries = {0};
    do {
        assert_int_equal(bkv_keydir_scan(kd, &cursor, &entries), BITKV_OK);
        for (size_t i = 0; i < entries.count; i++) {
            struct bkv_hash h = {.lo = entries.items[i].lo, .hi = entries.items[i].tag};
            uint64_t found = 0;
            assert_true(bkv_keydir_find(kd, &h, &found)); /* whoever is in can be found */
            assert_int_equal(found, entries.items[i].location);
            seen++;
        }
    } while (cursor != 0);
    assert_int_equal(seen, present);
    bkv_keydir_entries_free(&entries);
    for (uint64_t k = 0; k < keys; k++) {
        struct bkv_hash h = hash_of(k);
        (void)bkv_keydir_remove(kd, &h);
        assert_int_equal(get(kd, k), 0);
    }
    for (uint64_t k = 0; k < keys; k++)
        (void)put(kd, k, location_of(k, 0));
    for (uint64_t k = 0; k < keys; k++)
        assert_int_equal(get(kd, k), location_of(k, 0));
}

static void a_hostile_image_is_rejected_or_harmless(void **state)
{
    (void)state;
    enum { KEYS = 1000 };
    struct bkv_keydir *kd = create();
    struct image image;
    fill(kd, 0, 2 * KEYS);
    for (uint64_t k = KEYS; k < 2 * KEYS; k++)
        (void)del(kd, k);
    assert_true(take_image(kd, &image, NULL, NULL));
    uint64_t r = seed ^ 99;
    unsigned accepted = 0, rejected = 0;
    unsigned char *original = malloc(image.size);
    assert_non_null(original);
    memcpy(original, image.bytes, image.size);
    size_t flips = image.size, rounds = flips + (SLOW ? 2000 : 20000);
    size_t stride = SLOW ? 37 : 1;
    struct bkv_keydir *copy = create();
    for (size_t round = 0; round < rounds; round += round < flips ? stride : 1) {
        size_t size = image.size;
        uint32_t groups = image.groups;
        size_t touched[16], n = 0;
        if (round < flips) {
            touched[n++] = round;
            image.bytes[round] ^= (unsigned char)(1u << rnd(&r) % 8);
        } else {
            for (unsigned i = 0, m = 1 + (unsigned)(rnd(&r) % 16); i < m; i++) {
                size_t to = (size_t)(rnd(&r) % (size / 16)) * 16, from = rnd(&r) % (size - 16);
                touched[n++] = to;
                if (rnd(&r) % 2 == 0) /* a slot copied elsewhere */
                    memmove(image.bytes + to, image.bytes + (from & ~(size_t)15) + 8, 16);
                else
                    image.bytes[to + rnd(&r) % 16] = (unsigned char)rnd(&r);
            }
            if (rnd(&r) % 16 == 0)
                image.size -= rnd(&r) % size;
            if (rnd(&r) % 16 == 0)
                image.groups = 1 + (uint32_t)(rnd(&r) % 1000);
        }
        uint64_t sum = 0;
        int rc = load_image(copy, &image, accept_all, &sum);
        if (rc == BITKV_OK) {
            accepted++;
            if (accepted % 64 == 0 || round >= flips)
                use_it(copy, 300);
            bkv_keydir_destroy(copy);
            copy = create();
        } else {
            assert_int_equal(rc, BITKV_ERR_CORRUPT);
            assert_int_equal(bkv_keydir_count(copy), 0);
            if (rejected++ % 64 == 0) {
                fill(copy, 0, 300);
                bkv_keydir_destroy(copy);
                copy = create();
            }
        }
        image.size = size;
        image.groups = groups;
        for (size_t i = 0; i < n; i++)
            memcpy(image.bytes + touched[i], original + touched[i],
                   size - touched[i] < 16 ? size - touched[i] : 16);
    }
    print_message("%u images rejected, %u accepted and used\n", rejected, accepted);
    assert_true(rejected > 100);
    const uint32_t wrong_groups[] = {0, UINT32_MAX, 1u << 30, image.groups + 1};
    for (unsigned i = 0; i < 4; i++) {
        image.groups = wrong_groups[i];
        uint64_t sum = 0;
        assert_int_equal(load_image(copy, &image, accept_all, &sum), BITKV_ERR_CORRUPT);
    }
    bkv_keydir_destroy(copy);
    bkv_keydir_destroy(kd);
    free(original);
    free(image.bytes);
}

/* An image of one page, made by hand. */
static int load_page(const uint64_t words[512], uint32_t keys)
{
    struct bkv_keydir *kd = create();
    struct image image = {.groups = 1, .size = BKV_KEYDIR_GROUP_HEADER_SIZE + 4096};
    unsigned char bytes[BKV_KEYDIR_GROUP_HEADER_SIZE + 4096] = {1};
    bytes[4] = (unsigned char)keys;
    for (unsigned i = 0; i < 512; i++)
        for (unsigned b = 0; b < 8; b++)
            bytes[8 + 8 * i + b] = (unsigned char)(words[i] >> (8 * b));
    image.bytes = bytes;
    uint64_t sum = 0;
    int rc = load_image(kd, &image, accept_all, &sum);
    bkv_keydir_destroy(kd);
    return rc;
}

static void an_image_that_breaks_a_rule_is_rejected(void **state)
{
    (void)state;
    const uint64_t first_try = UINT64_C(1) << 60, extra = UINT64_C(1) << 57;
    uint64_t page[512] = {0};
    assert_int_equal(load_page(page, 0), BITKV_OK);
    assert_int_equal(load_page(page, 1), BITKV_ERR_CORRUPT); /* wrong number of keys */
    page[0] = 77;
    assert_int_equal(load_page(page, 1), BITKV_ERR_CORRUPT); /* location 0 */
    page[1] = 5;
    assert_int_equal(load_page(page, 1), BITKV_OK);
    page[1] = 5 | first_try;
    assert_int_equal(load_page(page, 1), BITKV_ERR_CORRUPT); /* can't be found: line 1 is open */
    page[1] = 5;
    page[2] = 1;
    assert_int_equal(load_page(page, 1), BITKV_ERR_CORRUPT); /* DELETED and EMPTY in a line */
    page[2] = 77;
    page[3] = 6;
    assert_int_equal(load_page(page, 2), BITKV_ERR_CORRUPT); /* the same key twice */
    page[3] = 6 | extra;
    assert_int_equal(load_page(page, 2), BITKV_OK); /* two keys */
    for (unsigned i = 2; i < 4; i++) {
        page[2 * i] = 1; /* line 0: full of DELETED, so line 1 may hold what belongs to it */
        page[2 * i + 1] = 0;
    }
    page[8] = 78;
    page[9] = 9 | first_try;
    assert_int_equal(load_page(page, 3), BITKV_OK);
    page[8] = 77;
    assert_int_equal(load_page(page, 3), BITKV_ERR_CORRUPT); /* the same key at two tries */
}

int main(void)
{
    const char *given = getenv("BITKV_TEST_SEED");
    seed = given != NULL ? strtoull(given, NULL, 0) : bkv_now_ns();
    printf("BITKV_TEST_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_keydir_is_small_and_finds_nothing),
        cmocka_unit_test(it_does_what_a_plain_map_does_while_it_grows),
        cmocka_unit_test(a_prepare_serves_the_next_put_only),
        cmocka_unit_test(keys_that_differ_in_any_known_bit_are_two),
        cmocka_unit_test(hashes_of_0_and_1_and_the_largest_location_are_stored),
        cmocka_unit_test(a_hash_that_is_none_ends_in_an_error_not_in_a_loop),
        cmocka_unit_test(a_sweep_removes_what_the_callback_says),
        cmocka_unit_test(memory_stays_below_24_bytes_a_key),
        cmocka_unit_test(churn_at_constant_size_does_not_grow_memory),
        cmocka_unit_test(no_step_moves_more_than_a_few_pages),
        cmocka_unit_test(a_failed_allocation_leaves_everything_as_it_was),
        cmocka_unit_test(deferred_puts_are_seen_at_once_and_counted_when_settled),
        cmocka_unit_test(deferred_puts_do_what_a_plain_map_does),
        cmocka_unit_test(without_memory_deferred_keys_stay_readable_and_nothing_is_taken_on),
        cmocka_unit_test(readers_never_miss_a_key_whatever_a_writer_does),
        cmocka_unit_test(readers_never_miss_a_key_that_goes_through_the_deferred_places),
        cmocka_unit_test(a_new_key_is_never_seen_with_an_old_location),
        cmocka_unit_test(a_reader_that_meets_a_split_looks_again),
        cmocka_unit_test(a_scan_meets_each_key_once_though_the_table_grows),
        cmocka_unit_test(an_image_loads_as_what_it_was_taken_of),
        cmocka_unit_test(an_image_taken_beside_a_writer_has_every_steady_key),
        cmocka_unit_test(an_image_that_a_writer_outruns_fails_and_growth_goes_on),
        cmocka_unit_test(a_location_that_the_caller_rejects_rejects_the_image),
        cmocka_unit_test(a_hostile_image_is_rejected_or_harmless),
        cmocka_unit_test(an_image_that_breaks_a_rule_is_rejected),
        cmocka_unit_test(an_image_is_loaded_step_by_step_or_not_at_all),
        cmocka_unit_test(an_image_that_memory_lacks_for_can_be_loaded_later),
        cmocka_unit_test(deferred_keys_that_share_half_a_hash_are_two),
        cmocka_unit_test(an_entry_is_told_from_others_by_all_that_is_known_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
