/* SPDX-License-Identifier: MIT */
/*
 * A KeyDir at its limits: hashes that are none, no memory at the one moment at which
 * a step needs it, sizes that only a large database has. What is there stays to be
 * found, and it goes on when the limit is gone.
 */
#include "base/bytes.h"
#include "base/memory.h"
#include "keydir/internal.h"

#include <bitkv.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static struct bkv_hash hash_of(uint64_t i)
{
    return (struct bkv_hash){.lo = mix(i), .hi = mix(mix(i))};
}

/* Of one subtable, however many there are. */
static struct bkv_hash crowd_of(uint64_t i)
{
    struct bkv_hash hash = hash_of(i);
    hash.lo &= ~UINT64_C(0x7ffffff);
    return hash;
}

static struct bkv_keydir *create(void)
{
    struct bkv_keydir *kd = NULL;
    assert_int_equal(bkv_keydir_create(&kd), BITKV_OK);
    return kd;
}

static void put(struct bkv_keydir *kd, uint64_t key, uint64_t location)
{
    struct bkv_hash hash = hash_of(key);
    assert_int_equal(bkv_keydir_prepare(kd, &hash), BITKV_OK);
    (void)bkv_keydir_put(kd, &hash, location);
}

static uint64_t find(const struct bkv_keydir *kd, struct bkv_hash hash)
{
    uint64_t location = 0;
    return bkv_keydir_find(kd, &hash, &location) ? location : 0;
}

static void expect_first(const struct bkv_keydir *kd, uint64_t keys)
{
    assert_int_equal(bkv_keydir_count(kd), keys);
    for (uint64_t k = 0; k < keys; k++)
        assert_int_equal(find(kd, hash_of(k)), k + 1);
}

static uint64_t allowed;

static bool allow_some(size_t size, void *user)
{
    (void)size, (void)user;
    return allowed > 0 && allowed-- > 0;
}

/* From now on only `count` allocations succeed. */
static void allow(uint64_t count)
{
    allowed = count;
    bkv_alloc_set_hook(allow_some, NULL);
}

static void allow_all(void)
{
    bkv_alloc_set_hook(NULL, NULL);
}

/* ------------------------------------------------------------------ hashes */

/* An image keeps subtables from splitting until one is too large for it; then a split
 * is tried, and leaves all keys on one side. */
static void keys_that_no_split_parts_end_in_an_error(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t stored = 0;
    int rc = BITKV_OK;
    (void)bkv_keydir_image_begin(kd);
    while (rc == BITKV_OK && stored < 100000) {
        struct bkv_hash hash = crowd_of(stored);
        rc = bkv_keydir_prepare(kd, &hash);
        if (rc == BITKV_OK)
            assert_int_equal(bkv_keydir_put(kd, &hash, ++stored), 0);
    }
    assert_int_equal(rc, BITKV_ERR_LIMIT);
    assert_int_equal(bkv_keydir_image_group_size(kd, 0), 0);
    bkv_keydir_image_end(kd);
    assert_true(stored > BKV_KEYDIR_GROUP_KEYS_MAX / 2);
    assert_int_equal(bkv_keydir_count(kd), stored);
    for (uint64_t k = 0; k < stored; k++)
        assert_int_equal(find(kd, crowd_of(k)), k + 1);
    struct bkv_hash refused = crowd_of(stored);
    assert_int_equal(find(kd, refused), 0);
    struct bkv_hash first = crowd_of(0);
    assert_int_equal(bkv_keydir_remove(kd, &first), 1);
    assert_int_equal(bkv_keydir_count(kd), stored - 1);
    bkv_keydir_destroy(kd);
}

/* ---------------------------------------------------------------- directory */

static void a_directory_ends_where_it_says(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t memory = bkv_keydir_memory(kd);
    assert_int_equal(bkv_directory_reserve(kd, TABLES_MAX), BITKV_ERR_LIMIT);
    assert_int_equal(bkv_keydir_memory(kd), memory);
    bkv_keydir_destroy(kd);
}

/* Until the next put would split the last subtable that the directory's first part
 * has an entry for. */
static uint64_t fill_first_segment(struct bkv_keydir *kd)
{
    uint64_t keys = 0;
    while (tables_now(kd) < DIRECTORY_FIRST || !bkv_grow_split_is_due(kd)) {
        put(kd, keys, keys + 1);
        keys++;
    }
    return keys;
}

static void without_memory_for_the_directory_no_split_is_made(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t keys = fill_first_segment(kd);
    struct bkv_hash hash = hash_of(keys);
    allow(0);
    int rc = bkv_grow_split(kd);
    (void)bkv_keydir_prepare(kd, &hash);
    allow_all();
    assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
    assert_int_equal(tables_now(kd), DIRECTORY_FIRST);
    expect_first(kd, keys);
    put(kd, keys, keys + 1);
    assert_int_equal(tables_now(kd), DIRECTORY_FIRST + 1);
    expect_first(kd, keys + 1);
    bkv_keydir_destroy(kd);
}

static bool accept(void *user, uint64_t location)
{
    (void)user;
    return location != 0;
}

static int load(struct bkv_keydir *kd, const struct bkv_keydir *from, uint32_t groups, void *group)
{
    int rc = bkv_keydir_load_begin(kd, groups);
    for (uint32_t g = 0; rc == BITKV_OK && g < groups; g++) {
        void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
        const char *pages = (const char *)group + BKV_KEYDIR_GROUP_HEADER_SIZE;
        bkv_keydir_image_group(from, g, group);
        uint32_t count = bkv_get32(group), keys = bkv_get32((const uint8_t *)group + 4);
        rc = bkv_keydir_load_group(kd, count, memory);
        for (uint32_t p = 0; rc == BITKV_OK && p < count; p++)
            memcpy(memory[p], pages + (size_t)p * BKV_KEYDIR_PAGE_SIZE, BKV_KEYDIR_PAGE_SIZE);
        if (rc == BITKV_OK)
            rc = bkv_keydir_load_group_finish(kd, keys, accept, NULL);
    }
    if (rc == BITKV_OK)
        rc = bkv_keydir_load_end(kd);
    if (rc != BITKV_OK)
        bkv_keydir_load_abort(kd);
    return rc;
}

/* What was got is kept, so that one allocation more each time comes by every place at
 * which one may fail, the directory's growth among them. */
static void a_large_image_that_memory_lacks_for_can_be_loaded_later(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create(), *copy = create();
    uint64_t keys = fill_first_segment(kd);
    put(kd, keys, keys + 1);
    keys++;
    void *group = malloc(BKV_KEYDIR_GROUP_HEADER_SIZE +
                         (size_t)BKV_KEYDIR_GROUP_PAGES_MAX * BKV_KEYDIR_PAGE_SIZE);
    assert_non_null(group);
    uint32_t groups = bkv_keydir_image_begin(kd);
    assert_true(groups > DIRECTORY_FIRST);
    unsigned failures = 0;
    int rc = BITKV_ERR_NO_MEMORY;
    while (rc == BITKV_ERR_NO_MEMORY) {
        allow(1);
        rc = load(copy, kd, groups, group);
        allow_all();
        failures += rc != BITKV_OK;
        assert_true(rc == BITKV_OK || bkv_keydir_count(copy) == 0);
    }
    bkv_keydir_image_end(kd);
    assert_int_equal(rc, BITKV_OK);
    assert_true(failures > 3);
    expect_first(copy, keys);
    free(group);
    bkv_keydir_destroy(kd);
    bkv_keydir_destroy(copy);
}

/* -------------------------------------------------------------------- scan */

static void a_scan_without_memory_stays_where_it_is(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    struct bkv_keydir_entries entries = {0};
    uint64_t cursor = 0;
    for (uint64_t k = 0; k < 10; k++)
        put(kd, k, k + 1);
    allow(0);
    int rc = bkv_keydir_scan(kd, &cursor, &entries);
    allow_all();
    assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
    assert_int_equal(cursor, 0);
    assert_int_equal(bkv_keydir_scan(kd, &cursor, &entries), BITKV_OK);
    assert_int_equal(entries.count, 10);
    assert_int_equal(cursor, 0);
    bkv_keydir_entries_free(&entries);
    bkv_keydir_destroy(kd);
}

/* --------------------------------------------------------------- snapshots */

static struct bkv_keydir_snapshot *take(struct bkv_keydir *kd)
{
    struct bkv_keydir_snapshot *snapshot = NULL;
    assert_int_equal(bkv_keydir_snapshot_reserve(kd, &snapshot), BITKV_OK);
    assert_true(bkv_keydir_snapshot_take(kd, snapshot));
    return snapshot;
}

static void expect_snapshot(const struct bkv_keydir_snapshot *snapshot, uint64_t keys)
{
    assert_int_equal(bkv_keydir_snapshot_count(snapshot), keys);
    for (uint64_t k = 0; k < keys; k++) {
        struct bkv_hash hash = hash_of(k);
        uint64_t location = 0;
        assert_true(bkv_keydir_snapshot_find(snapshot, &hash, &location));
        assert_int_equal(location, k + 1);
    }
}

/* All pages that need no allocation; linked as free ones are. */
static struct free_page *take_pages(struct bkv_keydir *kd)
{
    struct free_page *all = NULL;
    for (struct free_page *page; (page = bkv_arena_page(&kd->arena)) != NULL; all = page)
        page->next = all;
    return all;
}

static void give_pages(struct bkv_keydir *kd, struct free_page *all)
{
    for (struct free_page *next; all != NULL; all = next) {
        next = all->next;
        bkv_arena_page_free(&kd->arena, all);
    }
}

static int change(struct bkv_keydir *kd, uint64_t key, uint64_t keys)
{
    struct bkv_hash hash = hash_of(key);
    return bkv_keydir_replace(kd, &hash, key + 1, key + 1 + keys);
}

/* A copy that fails, right behind a look at what was retired: all that the snapshot
 * needs, so it is in the queue no more. */
static void a_snapshot_gives_back_to_an_empty_queue(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t keys = fill_first_segment(kd), changed = 0;
    struct bkv_keydir_snapshot *snapshot = take(kd);
    /* As many as are looked at in one go, and none from before the snapshot. */
    while (kd->arena.retired.count != 8 || kd->copies < 16)
        assert_int_equal(change(kd, changed++, keys), BITKV_OK);
    allow(0);
    struct free_page *pages = take_pages(kd);
    int rc = BITKV_OK;
    while (rc == BITKV_OK) { /* on to the next that is shared */
        rc = change(kd, changed, keys);
        changed += rc == BITKV_OK;
    }
    allow_all();
    assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
    assert_null(kd->arena.retired.first);
    give_pages(kd, pages);
    expect_snapshot(snapshot, keys);
    bkv_keydir_snapshot_release(kd, snapshot);
    bkv_keydir_snapshot_free(kd, snapshot);
    assert_non_null(kd->arena.retired.first);
    for (uint64_t k = 0; k < keys; k++) {
        assert_int_equal(find(kd, hash_of(k)), k < changed ? k + 1 + keys : k + 1);
        put(kd, k, k + 1);
    }
    put(kd, keys, keys + 1); /* splits, and uses again what was given back */
    expect_first(kd, keys + 1);
    bkv_keydir_destroy(kd);
}

/* A put that comes upon a split that is due has its subtable copied, too. */
static void without_memory_for_a_copy_a_due_split_helps_nobody(void **state)
{
    (void)state;
    struct bkv_keydir *kd = create();
    uint64_t keys = fill_first_segment(kd);
    struct bkv_keydir_snapshot *snapshot = take(kd);
    unsigned refused = 0;
    allow(0);
    for (uint64_t k = keys; k < keys + 1000; k++) {
        struct bkv_hash hash = hash_of(k);
        int rc = bkv_keydir_prepare(kd, &hash);
        assert_true(rc == BITKV_OK || rc == BITKV_ERR_NO_MEMORY);
        refused += rc != BITKV_OK;
        assert_int_equal(find(kd, hash), 0);
    }
    allow_all();
    assert_true(refused > 0);
    assert_int_equal(tables_now(kd), DIRECTORY_FIRST);
    expect_first(kd, keys);
    expect_snapshot(snapshot, keys);
    put(kd, keys, keys + 1);
    expect_snapshot(snapshot, keys);
    bkv_keydir_snapshot_release(kd, snapshot);
    bkv_keydir_snapshot_free(kd, snapshot);
    expect_first(kd, keys + 1);
    bkv_keydir_destroy(kd);
}

/* ------------------------------------------------------------------- chunks */

/* As if the KeyDir had a gigabyte: its next chunk is a huge page, and no more. */
static void a_large_keydir_grows_by_huge_pages(void **state)
{
    (void)state;
    enum { HUGE_PAGE = 2 << 20 };
    struct bkv_keydir *kd = create();
    atomic_fetch_add(&kd->arena.chunk_bytes, UINT64_C(1) << 30);
    bkv_keydir_prepare_memory(kd);
    uint64_t keys = 0;
    for (uint32_t chunks = kd->arena.chunk_count; kd->arena.chunk_count == chunks; keys++)
        put(kd, keys, keys + 1);
    struct chunk chunk = kd->arena.chunks[kd->arena.chunk_count - 1];
    assert_int_equal(chunk.size, HUGE_PAGE);
    assert_int_equal((uintptr_t)chunk.base % HUGE_PAGE, 0);
    for (uint64_t more = keys + 100000; keys < more; keys++)
        put(kd, keys, keys + 1);
    expect_first(kd, keys);
    bkv_keydir_destroy(kd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_that_no_split_parts_end_in_an_error),
        cmocka_unit_test(a_directory_ends_where_it_says),
        cmocka_unit_test(without_memory_for_the_directory_no_split_is_made),
        cmocka_unit_test(a_large_image_that_memory_lacks_for_can_be_loaded_later),
        cmocka_unit_test(a_scan_without_memory_stays_where_it_is),
        cmocka_unit_test(a_snapshot_gives_back_to_an_empty_queue),
        cmocka_unit_test(without_memory_for_a_copy_a_due_split_helps_nobody),
        cmocka_unit_test(a_large_keydir_grows_by_huge_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
