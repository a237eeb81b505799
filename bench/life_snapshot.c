/* SPDX-License-Identifier: MIT */
#include "life_snapshot.h"

#include "child.h"
#include "clock.h"
#include "life.h"

#if BENCH_HAVE_SNAPSHOTS

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CREATIONS   50u
#define BETWEEN_US  20000u
#define SHARES_MAX  2u
#define ROUNDS      3u
#define VERSION_NEW 2u

/* --- creation --------------------------------------------------------------------- */

struct writer {
    struct bench_life *life;
    pthread_t thread;
    atomic_bool stop, failed;
    atomic_uint_fast64_t puts;
    atomic_uint_fast64_t longest_ticks; /* since it was last set to 0 */
};

static void *writer_main(void *user)
{
    struct writer *writer = user;
    struct bench_workload *workload = &writer->life->workload;

    while (!atomic_load(&writer->stop)) {
        const uint64_t id = bench_random_below(&workload->random, workload->keys);
        const uint64_t begin = bench_tick_begin();
        uint64_t ticks;

        if (!bench_life_put(writer->life, id, VERSION_NEW)) {
            atomic_store(&writer->failed, true);
            break;
        }
        ticks = bench_tick_end() - begin;
        if (ticks > atomic_load(&writer->longest_ticks))
            atomic_store(&writer->longest_ticks, ticks);
        atomic_fetch_add(&writer->puts, 1);
    }
    return NULL;
}

/* Until the put that was under way, and one more, have been counted. */
static void wait_for_puts(struct writer *writer)
{
    const uint64_t puts = atomic_load(&writer->puts);

    while (atomic_load(&writer->puts) < puts + 2 && !atomic_load(&writer->failed)) {
    }
}

/* One creation; without `create`, as long a look at the writer alone. */
static bool creation(struct bench_life *life, struct writer *writer, bool create,
                     struct bench_histogram *took, struct bench_histogram *longest)
{
    bitkv_snapshot *snapshot = NULL;
    uint64_t ticks;
    int code = BITKV_OK;

    (void)usleep(BETWEEN_US);
    atomic_store(&writer->longest_ticks, 0);
    ticks = bench_tick_begin();
    if (create)
        code = bitkv_snapshot_create(&snapshot, life->db);
    else
        (void)usleep(100);
    bench_histogram_add(took, bench_tick_end() - ticks);
    wait_for_puts(writer);
    bench_histogram_add(longest, atomic_load(&writer->longest_ticks));
    (void)bitkv_snapshot_destroy(snapshot);
    return code == BITKV_OK || bench_report_error("snapshot: %s", bitkv_error_context());
}

static bool creations(struct bench_life *life)
{
    static struct bench_histogram took, longest, slept, alone;
    struct writer writer = {.life = life};
    bool done = true;

    if (pthread_create(&writer.thread, NULL, writer_main, &writer) != 0)
        return bench_report_error("cannot start a thread");
    for (unsigned i = 0; i < CREATIONS && done; i++)
        done = creation(life, &writer, false, &slept, &alone) &&
               creation(life, &writer, true, &took, &longest);
    atomic_store(&writer.stop, true);
    (void)pthread_join(writer.thread, NULL);
    if (!done || atomic_load(&writer.failed))
        return false;
    bench_life_figure("snapshot", "create.p50_ns", bench_histogram_percentile_ns(&took, 0.5));
    bench_life_figure("snapshot", "create.max_ns", bench_histogram_percentile_ns(&took, 1.0));
    bench_life_figure("snapshot", "put.p50_ns", bench_histogram_percentile_ns(&longest, 0.5));
    bench_life_figure("snapshot", "put.max_ns", bench_histogram_percentile_ns(&longest, 1.0));
    bench_life_figure("snapshot", "put-alone.p50_ns", bench_histogram_percentile_ns(&alone, 0.5));
    bench_life_figure("snapshot", "put-alone.max_ns", bench_histogram_percentile_ns(&alone, 1.0));
    return true;
}

/* --- iteration ---------------------------------------------------------------------- */

struct share {
    bitkv_snapshot *snapshot;
    bitkv_iterator_options options;
    struct bench_sums sums;
    pthread_t thread;
    bool done;
};

static void *iterate(void *user)
{
    struct share *share = user;
    bitkv_iterator *iterator = NULL;
    bitkv_record record;
    int code = bitkv_iterator_create(&iterator, share->snapshot, &share->options);

    while (code == BITKV_OK) {
        code = bitkv_iterator_next(iterator, &record);
        if (code == BITKV_OK)
            bench_sums_add(&share->sums, record.key, record.value);
    }
    share->done = code == BITKV_NOT_FOUND;
    if (!share->done)
        (void)bench_report_error("snapshot: iterator: %s", bitkv_error_context());
    (void)bitkv_iterator_destroy(iterator);
    return NULL;
}

static void begin_share(struct share *share, bitkv_snapshot *snapshot, unsigned index,
                        unsigned shares, bool keys_only)
{
    *share = (struct share){.snapshot = snapshot};
    bitkv_iterator_options_init(&share->options);
    share->options.flags = keys_only ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL;
    share->options.share = index;
    share->options.shares = shares;
}

static bool iterations(bitkv_snapshot *snapshot, unsigned shares, bool keys_only,
                       const struct bench_sums *expected)
{
    struct share share[SHARES_MAX];
    struct bench_sums sums = {0};
    const uint64_t start_ns = bench_now_ns();
    char name[64];
    bool done = true;

    for (unsigned i = 0; i < shares; i++) {
        begin_share(&share[i], snapshot, i, shares, keys_only);
        if (pthread_create(&share[i].thread, NULL, iterate, &share[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < shares; i++) {
        (void)pthread_join(share[i].thread, NULL);
        done = done && share[i].done;
        sums.records += share[i].sums.records;
        sums.keys += share[i].sums.keys;
        sums.values += share[i].sums.values;
    }
    (void)snprintf(name, sizeof(name), "%s.%u", keys_only ? "keys" : "values", shares);
    bench_life_figure("snapshot", name,
                      (double)sums.records * 1e9 / (double)(bench_now_ns() - start_ns));
    if (done && !bench_life_sums_right(&sums, expected, keys_only))
        bench_report_wrong(1, "snapshot: what iterators visited does not add up");
    return done;
}

static bool iterate_all(struct bench_life *life, const struct bench_sums *expected)
{
    bitkv_snapshot *snapshot = NULL;
    bool done = bitkv_snapshot_create(&snapshot, life->db) == BITKV_OK ||
                bench_report_error("snapshot: %s", bitkv_error_context());

    for (unsigned round = 0; round < ROUNDS && done; round++) {
        for (unsigned shares = 1; shares <= SHARES_MAX && done; shares++)
            done = iterations(snapshot, shares, false, expected) &&
                   iterations(snapshot, shares, true, expected);
    }
    (void)bitkv_snapshot_destroy(snapshot);
    return done;
}

bool bench_life_snapshots(const struct bench_options *options, uint64_t keys,
                          const struct bench_sums *expected)
{
    struct bench_life life;
    bool done = bench_life_begin(&life, options, "snapshot", keys) &&
                bench_life_open(&life, options->child_directory, true, 0);

    /* Iteration first: the writer then changes what there is. */
    done = done && iterate_all(&life, expected) && creations(&life);
    return bench_life_end(&life, done);
}

#else

bool bench_life_snapshots(const struct bench_options *options, uint64_t keys,
                          const struct bench_sums *expected)
{
    (void)options, (void)keys, (void)expected;
    bench_report_text("snapshot.missing", "this library has no snapshots");
    return true;
}

#endif
