/* SPDX-License-Identifier: MIT */
/*
 * The targets. Ratios are of medians of one run, in which the engines took
 * turns; they are stated for the default sizes.
 */
#include "verdict.h"

#include "tasks.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

struct verdicts {
    const struct bench_options *options;
    const struct bench_results *results;
    struct bench_verdict *list;
    unsigned count;
};

static struct bench_verdict *add(struct verdicts *verdicts, const char *what, bool at_least,
                                 double asked, double seen, const char *unit)
{
    struct bench_verdict *verdict = &verdicts->list[verdicts->count++];

    *verdict =
        (struct bench_verdict){.asked = asked, .seen = seen, .at_least = at_least, .unit = unit};
    (void)snprintf(verdict->what, sizeof(verdict->what), "%s", what);
    return verdict;
}

static double median(const struct verdicts *verdicts, const char *engine, const char *name)
{
    return bench_results_median(verdicts->results, engine, name);
}

/* BitKV's median over a peer's, of the same phase. */
static void add_ratio(struct verdicts *verdicts, const char *what, const char *phase,
                      const char *peer, double asked)
{
    (void)add(verdicts, what, true, asked,
              median(verdicts, "bitkv", phase) / median(verdicts, peer, phase), "x");
}

static void add_scaling(struct verdicts *verdicts, const char *what, const char *phase,
                        double asked)
{
    char one[64], several[64], text[80];

    (void)snprintf(one, sizeof(one), "%s.1", phase);
    (void)snprintf(several, sizeof(several), "%s.%u", phase, verdicts->options->threads);
    (void)snprintf(text, sizeof(text), "%s, %u threads / one", what, verdicts->options->threads);
    (void)add(verdicts, text, true, asked,
              median(verdicts, "bitkv", several) / median(verdicts, "bitkv", one), "x");
}

static void add_memory(struct verdicts *verdicts)
{
    for (unsigned i = 0; i < bench_memory_setting_count; i++) {
        const struct bench_memory_setting *setting = &bench_memory_settings[i];
        const uint64_t keys =
            setting->large ? verdicts->options->large_keys : verdicts->options->keys;
        char name[96], text[80];
        struct bench_verdict *verdict;

        (void)snprintf(name, sizeof(name), "memory.%s.bytes_per_key", setting->name);
        (void)snprintf(text, sizeof(text), "memory, %.3g M keys of %zu bytes", (double)keys * 1e-6,
                       setting->key_size);
        verdict = add(verdicts, text, false, 24.0, median(verdicts, "bitkv", name), "bytes a key");
        (void)snprintf(name, sizeof(name), "memory.%s.bytes_per_key_peak", setting->name);
        (void)snprintf(verdict->remark, sizeof(verdict->remark), "at most %.1f on the way",
                       median(verdicts, "bitkv", name));
    }
}

static void add_reopen(struct verdicts *verdicts)
{
    struct bench_verdict *verdict;

    (void)add(verdicts, "reopen after a clean close", false, 0.5,
              median(verdicts, "bitkv", "reopen-clean.seconds"), "s");
    verdict = add(verdicts, "reopen after SIGKILL, all keys", true, 5.0,
                  median(verdicts, "bitkv", "reopen-kill.keys_per_second") * 1e-6, "M keys/s");
    (void)snprintf(verdict->remark, sizeof(verdict->remark), "default options; %.3g s in all",
                   median(verdicts, "bitkv", "reopen-kill.seconds"));
    verdict = add(verdicts, "reopen after SIGKILL, replayed", true, 5.0,
                  median(verdicts, "bitkv", "reopen-kill-no-checkpoint.replayed_per_second") * 1e-6,
                  "M keys/s");
    (void)snprintf(verdict->remark, sizeof(verdict->remark),
                   "without checkpoints: everything replayed, %.3g s",
                   median(verdicts, "bitkv", "reopen-kill-no-checkpoint.seconds"));
}

/*
 * The longest operation caused by growth: the median over the runs of the
 * longest that was not preempted. The control, at constant size, says how
 * much of it is not growth.
 */
static void add_growth(struct verdicts *verdicts)
{
    static const char *const kinds[] = {"put", "get"};

    for (unsigned i = 0; i < 2; i++) {
        char name[96], text[80];
        struct bench_verdict *verdict;

        (void)snprintf(name, sizeof(name), "growth.growing.%s.p9999_ns", kinds[i]);
        (void)snprintf(text, sizeof(text), "growing, %s: p99.99", kinds[i]);
        (void)add(verdicts, text, false, 100.0, median(verdicts, "bitkv", name) * 1e-3, "us");
        (void)snprintf(name, sizeof(name), "growth.growing.%s.max_own_ns", kinds[i]);
        (void)snprintf(text, sizeof(text), "growing, %s: longest, not preempted", kinds[i]);
        verdict = add(verdicts, text, false, 1000.0, median(verdicts, "bitkv", name) * 1e-3, "us");
        (void)snprintf(name, sizeof(name), "growth.control.%s.max_own_ns", kinds[i]);
        (void)snprintf(verdict->remark, sizeof(verdict->remark), "at constant size %.0f us",
                       median(verdicts, "bitkv", name) * 1e-3);
    }
}

/* A ratio of two of BitKV's own figures. */
static struct bench_verdict *add_own_ratio(struct verdicts *verdicts, const char *what,
                                           const char *figure, const char *other, double asked)
{
    return add(verdicts, what, true, asked,
               median(verdicts, "bitkv", figure) / median(verdicts, "bitkv", other), "x");
}

/* Of a figure to a peer's phase, if both were part of this run. */
static void add_peer_ratio(struct verdicts *verdicts, const char *what, const char *figure,
                           const char *phase, double asked)
{
    (void)add(verdicts, what, true, asked,
              median(verdicts, "bitkv", figure) / median(verdicts, "tkrzw", phase), "x");
}

static void add_async(struct verdicts *verdicts)
{
    struct bench_verdict *verdict;

    (void)add_own_ratio(verdicts, "gets in batches of 32 / single", "async-hot.get.32",
                        "async-hot.get.single", 4.0);
    add_peer_ratio(verdicts, "gets in batches of 32 / Tkrzw", "async-hot.get.32", "get.1", 6.0);
    (void)add_own_ratio(verdicts, "puts in batches of 32 / single", "async-hot.put.32",
                        "async-hot.put.single", 1.0);
    add_peer_ratio(verdicts, "puts in batches of 32 / Tkrzw, fill", "async-hot.put.32", "fill.1",
                   2.5);
    add_peer_ratio(verdicts, "puts in batches of 32 / Tkrzw, overwrite", "async-hot.put.32",
                   "overwrite.1", 2.5);
    (void)add_own_ratio(verdicts, "cold gets, 64 in flight / one call at a time",
                        "async-cold.io_uring.64", "async-cold.single", 4.0);
    verdict = add_own_ratio(verdicts, "cold gets, 64 in flight / fio", "async-cold.io_uring.64",
                            "async-cold.fio.64", 0.85);
    (void)snprintf(verdict->remark, sizeof(verdict->remark),
                   "%.2f if fio reads two pages where a record lies on two",
                   median(verdicts, "bitkv", "async-cold.io_uring.64") /
                       median(verdicts, "bitkv", "async-cold.fio-records.64"));
    (void)add_own_ratio(verdicts, "cold gets, 64 in flight, threads / io_uring",
                        "async-cold.threads.64", "async-cold.io_uring.64", 0.5);
    (void)add_own_ratio(verdicts, "synced puts, 64 in flight / one", "async-synced.64",
                        "async-synced.1", 20.0);
    verdict = add(verdicts, "hot get, 32 cold pending: p99", false, 50.0,
                  median(verdicts, "bitkv", "async-mixed.io_uring.one.p99_ns") * 1e-3, "us");
    (void)snprintf(verdict->remark, sizeof(verdict->remark), "on threads %.1f us",
                   median(verdicts, "bitkv", "async-mixed.threads.one.p99_ns") * 1e-3);
    verdict = add(verdicts, "hot gets in batches of 32, 32 cold pending: p99", false, 50.0,
                  median(verdicts, "bitkv", "async-mixed.io_uring.batch.p99_ns") * 1e-3, "us");
    (void)snprintf(verdict->remark, sizeof(verdict->remark), "on threads %.1f us",
                   median(verdicts, "bitkv", "async-mixed.threads.batch.p99_ns") * 1e-3);
}

unsigned bench_verdicts(const struct bench_options *options, const struct bench_results *results,
                        struct bench_verdict *list)
{
    struct verdicts verdicts = {.options = options, .results = results, .list = list};

    add_ratio(&verdicts, "fill / Tkrzw", "fill.1", "tkrzw", 2.0);
    add_ratio(&verdicts, "overwrite / Tkrzw", "overwrite.1", "tkrzw", 2.0);
    add_ratio(&verdicts, "fill / RocksDB", "fill.1", "rocksdb", 20.0);
    add_ratio(&verdicts, "overwrite / RocksDB", "overwrite.1", "rocksdb", 20.0);
    add_ratio(&verdicts, "get / Tkrzw", "get.1", "tkrzw", 1.3);
    add_ratio(&verdicts, "get / RocksDB", "get.1", "rocksdb", 7.0);
    add_ratio(&verdicts, "miss / Tkrzw", "miss.1", "tkrzw", 2.0);
    add_ratio(&verdicts, "synced put / RocksDB", "synced.1", "rocksdb", 1.2);
    if (options->threads > 1) {
        add_scaling(&verdicts, "get", "get", 1.8);
        add_scaling(&verdicts, "fill", "fill", 1.5);
        add_scaling(&verdicts, "overwrite", "overwrite", 1.5);
    }
    add_memory(&verdicts);
    add_reopen(&verdicts);
    add_growth(&verdicts);
    add_async(&verdicts);
    return verdicts.count;
}

int bench_verdict_reached(const struct bench_verdict *verdict)
{
    if (isnan(verdict->seen))
        return -1;
    return verdict->at_least ? verdict->seen >= verdict->asked : verdict->seen <= verdict->asked;
}
