/* SPDX-License-Identifier: MIT */
/*
 * The KeyDir alone: cost of its operations, pauses of its growth, memory a key.
 *
 *   keydir_micro [keys] [keydirs]     default 1000000 1
 *   keydir_micro memory               bytes a key at sizes from 100 k to 20 M
 */
#include "base/clock.h"
#include "base/epoch.h"
#include "keydir/keydir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static struct bkv_hash hash_of(uint64_t i)
{
    uint64_t lo = mix(i);
    return (struct bkv_hash){.lo = lo, .hi = mix(lo)};
}

static void put(struct bkv_keydir *kd, uint64_t i)
{
    struct bkv_hash h = hash_of(i);
    if (bkv_keydir_prepare(kd, &h) != 0) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    (void)bkv_keydir_put(kd, &h, i + 1);
}

static struct bkv_keydir *create(void)
{
    struct bkv_keydir *kd;
    if (bkv_keydir_create(&kd) != 0)
        exit(1);
    return kd;
}

static void show_memory(void)
{
    struct bkv_keydir *kd = create();
    printf("%12d keys %10.2f KiB\n", 0, (double)bkv_keydir_memory(kd) / 1024);
    double sum = 0, worst = 0;
    unsigned points = 0;
    uint64_t next = 100000;
    for (uint64_t i = 0; next <= 20000000; i++) {
        if (i == next) {
            double bytes = (double)bkv_keydir_memory(kd) / (double)i;
            struct bkv_keydir_figures f;
            bkv_keydir_figures(kd, &f);
            printf("%12llu keys %10.2f bytes a key, pages %.2f, load %.3f, free %.2f%%\n",
                   (unsigned long long)i, bytes, (double)f.pages * 4096 / (double)i,
                   (double)i / ((double)f.pages * 256),
                   100.0 * (double)f.pages_free / (double)f.pages);
            if (i >= 500000) {
                sum += bytes;
                worst = bytes > worst ? bytes : worst;
                points++;
            }
            next = next * 21 / 20;
        }
        put(kd, i);
    }
    printf("from 500 k keys: mean %.2f, worst %.2f bytes a key\n", sum / points, worst);
    bkv_keydir_destroy(kd);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Of this thread: the neighbours' time slices don't count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void report(const char *what, uint64_t start, uint64_t n)
{
    printf("%-34s %7.1f ns\n", what, (double)(cpu_ns() - start) / (double)n);
}

static bool accept_all(void *user, uint64_t location)
{
    *(uint64_t *)user += location;
    return true;
}

static void image_and_load(struct bkv_keydir *kd, uint64_t n)
{
    uint32_t groups = bkv_keydir_image_begin(kd);
    size_t size = 0, at = 0;
    for (uint32_t g = 0; g < groups; g++)
        size += bkv_keydir_image_group_size(kd, g);
    unsigned char *image = malloc(size);
    if (image == NULL)
        exit(1);
    memset(image, 0, size);
    uint64_t start = bkv_now_ns();
    for (uint32_t g = 0; g < groups; g++) {
        size_t group = bkv_keydir_image_group_size(kd, g);
        bkv_keydir_image_group(kd, g, image + at);
        at += group;
    }
    printf("%-34s %7.1f ms, %.1f MiB\n", "image", (double)(bkv_now_ns() - start) / 1e6,
           (double)size / (1 << 20));
    bkv_keydir_image_end(kd);

    struct bkv_keydir *copy = create();
    uint64_t sum = 0;
    start = bkv_now_ns();
    int rc = bkv_keydir_load_begin(copy, groups);
    at = 0;
    for (uint32_t g = 0; rc == 0 && g < groups; g++) {
        void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
        uint32_t header[2];
        memcpy(header, image + at, sizeof header);
        at += sizeof header;
        rc = bkv_keydir_load_group(copy, header[0], memory);
        for (uint32_t p = 0; rc == 0 && p < header[0]; p++, at += BKV_KEYDIR_PAGE_SIZE)
            memcpy(memory[p], image + at, BKV_KEYDIR_PAGE_SIZE);
        if (rc == 0)
            rc = bkv_keydir_load_group_finish(copy, header[1], accept_all, &sum);
    }
    if (rc != 0 || bkv_keydir_load_end(copy) != 0 || bkv_keydir_count(copy) != n)
        exit(1);
    printf("%-34s %7.1f ms\n", "load, checked", (double)(bkv_now_ns() - start) / 1e6);
    free(image);
    bkv_keydir_destroy(copy);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "memory") == 0) {
        show_memory();
        return 0;
    }
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    unsigned dirs = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    if (n < 1000 || dirs < 1 || dirs > 64)
        return 2;
    struct bkv_keydir *kds[64] = {0};
    struct bkv_epoch_slot *slot;
    uint64_t start, memory = 0, found = 0, location;

    for (unsigned d = 0; d < dirs; d++)
        kds[d] = create();
    start = cpu_ns();
    for (uint64_t i = 0; i < n; i++)
        put(kds[i % dirs], i);
    report("insert", start, n);
    struct bkv_keydir_figures f = {0};
    uint64_t moved = 0, pages_max = 0;
    for (unsigned d = 0; d < dirs; d++) {
        memory += bkv_keydir_memory(kds[d]);
        bkv_keydir_figures(kds[d], &f);
        moved += f.keys_moved;
        pages_max = f.step_pages_max > pages_max ? f.step_pages_max : pages_max;
    }
    printf("%-34s %7.2f bytes\n", "memory a key", (double)memory / (double)n);
    printf("%-34s %7.2f\n", "keys moved an insert", (double)moved / (double)n);
    printf("%-34s %7llu\n", "pages in the longest step", (unsigned long long)pages_max);
    struct bkv_keydir *kd = kds[0];
    if (dirs > 1)
        return 0;

    slot = bkv_epoch_enter();
    start = cpu_ns();
    for (uint64_t i = 0; i < n; i++) {
        struct bkv_hash h = hash_of(mix(i) % n);
        found += bkv_keydir_find(kd, &h, &location);
    }
    report("find, hit", start, n);
    if (found != n)
        return 1;
    start = cpu_ns();
    for (uint64_t i = 0; i < n; i++) {
        struct bkv_hash h = hash_of(mix(i) % n);
        found += bkv_keydir_find(kd, &h, &location);
        __asm__ volatile("lfence" ::: "memory"); /* the next one doesn't overlap */
    }
    report("find, hit, one after another", start, n);
    start = cpu_ns();
    for (uint64_t i = 0; i < n; i++) {
        struct bkv_hash h = hash_of(n + mix(i) % n);
        found += bkv_keydir_find(kd, &h, &location);
    }
    report("find, miss", start, n);
    start = cpu_ns();
    for (uint64_t i = 0; i + 16 <= n; i += 16) {
        struct bkv_hash h[16];
        for (unsigned j = 0; j < 16; j++) {
            h[j] = hash_of(mix(i + j) % n);
            bkv_keydir_prefetch_table(kd, &h[j]);
        }
        for (unsigned j = 0; j < 16; j++)
            bkv_keydir_prefetch_line(kd, &h[j]);
        for (unsigned j = 0; j < 16; j++)
            found += bkv_keydir_find(kd, &h[j], &location);
    }
    report("find, hit, batches of 16", start, n);
    start = cpu_ns();
    for (uint64_t i = 0; i < n; i++)
        put(kd, mix(i) % n);
    report("update", start, n);
    bkv_epoch_exit(slot);

    struct bkv_keydir_entries entries = {0};
    uint64_t cursor = 0, seen = 0, longest = 0;
    start = cpu_ns();
    do {
        uint64_t before = bkv_now_ns();
        if (bkv_keydir_scan(kd, &cursor, &entries) != 0)
            return 1;
        uint64_t took = bkv_now_ns() - before;
        longest = took > longest ? took : longest;
        seen += entries.count;
    } while (cursor != 0);
    report("scan, a key", start, n);
    printf("%-34s %7.1f us\n", "scan, longest step", (double)longest / 1000);
    if (seen != n)
        return 1;
    bkv_keydir_entries_free(&entries);
    image_and_load(kd, n);
    bkv_keydir_destroy(kd);

    /* Pauses. */
    kd = create();
    uint32_t *times = malloc(n * sizeof *times);
    if (times == NULL)
        return 1;
    memset(times, 0, n * sizeof *times);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t before = bkv_now_ns();
        put(kd, i);
        times[i] = (uint32_t)(bkv_now_ns() - before);
        if (bkv_keydir_wants_memory(kd)) /* the worker's part, not timed */
            bkv_keydir_prepare_memory(kd);
    }
    qsort(times, n, sizeof *times, by_value);
    printf("insert: median %u, 99%% %u, 99.9%% %u, 99.99%% %u, 99.999%% %u, max %u ns\n",
           times[n / 2], times[n - n / 100], times[n - n / 1000], times[n - n / 10000],
           times[n - 1 - n / 100000], times[n - 1]);
    free(times);
    bkv_keydir_destroy(kd);
    return 0;
}
