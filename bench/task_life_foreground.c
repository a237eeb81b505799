/* SPDX-License-Identifier: MIT */
/*
 * What compaction costs those who read and write meanwhile: one thread puts, gets,
 * or does both, first with nothing else going on, then as long as another one is
 * in bitkv_compact(). Before each pair every key has been overwritten once, so that
 * there is as much dead as alive. All is in the page cache. Throughput and latency
 * are from passes of their own.
 */
#include "async.h"
#include "child.h"
#include "clock.h"
#include "life.h"
#include "tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA_BYTES   1e9
#define QUIET_NS     3e9
#define QUIET_NS_MIN 100000000u
#define LOOK_EVERY   64u

const char *const bench_foreground_kinds[] = {"put", "get", "mix", NULL};
static const unsigned puts_in_100[] = {100, 0, 50};

struct foreground {
    struct bench_life life;
    const struct bench_options *options;
    struct bench_histogram put_histogram, get_histogram;
    uint64_t operations;
    uint32_t version;
    atomic_bool compacting; /* as long as the other thread is at it */
    int code;               /* of it */
};

static void *compact_main(void *user)
{
    struct foreground *f = user;

    f->code = bitkv_compact(f->life.db, BITKV_ALL_PARTITIONS, NULL, NULL);
    if (f->code != BITKV_OK)
        (void)bench_report_error("foreground: compact: %s", bitkv_error_context());
    atomic_store(&f->compacting, false);
    return NULL;
}

static inline bool one(struct foreground *f, uint64_t random, unsigned puts, bool timed)
{
    struct bench_life *life = &f->life;
    const uint64_t id = ((random >> 32) * life->workload.keys) >> 32;
    const bool put = (random & 0xffff) % 100 < puts;
    uint64_t ticks;
    bool done;

    if (!timed)
        return put ? bench_life_put(life, id, f->version) : bench_life_get(life, id, f->operations);
    ticks = bench_tick_begin();
    done = put ? bench_life_put(life, id, f->version) : bench_life_get(life, id, f->operations);
    bench_histogram_add(put ? &f->put_histogram : &f->get_histogram, bench_tick_end() - ticks);
    return done;
}

/* Until nobody compacts; if nobody does, until `end_ns`. */
static bool operate(struct foreground *f, unsigned puts, bool timed, uint64_t end_ns)
{
    uint64_t *random = &f->life.workload.random;

    memset(&f->put_histogram, 0, sizeof(f->put_histogram));
    memset(&f->get_histogram, 0, sizeof(f->get_histogram));
    f->operations = 0;
    for (;;) {
        if (!one(f, bench_random(random), puts, timed))
            return false;
        if (++f->operations % LOOK_EVERY != 0)
            continue;
        if (end_ns == 0 ? !atomic_load(&f->compacting) : bench_now_ns() >= end_ns)
            return true;
    }
}

static void report(struct foreground *f, const char *kind, const char *state, bool timed,
                   uint64_t elapsed_ns)
{
    const bool mix = strcmp(kind, "mix") == 0;
    char name[80], part[96];

    (void)snprintf(name, sizeof(name), "foreground.%s.%s", kind, state);
    if (!timed) {
        bench_report_figure(name, (double)f->operations * 1e9 / (double)elapsed_ns);
        return;
    }
    (void)snprintf(part, sizeof(part), "%s%s", name, mix ? ".put" : "");
    if (f->put_histogram.count > 0)
        bench_async_report_latency(part, &f->put_histogram);
    (void)snprintf(part, sizeof(part), "%s%s", name, mix ? ".get" : "");
    if (f->get_histogram.count > 0)
        bench_async_report_latency(part, &f->get_histogram);
}

static bool with_compaction(struct foreground *f, unsigned puts, bool timed)
{
    pthread_t thread;
    bool done;

    atomic_store(&f->compacting, true);
    if (pthread_create(&thread, NULL, compact_main, f) != 0)
        return bench_report_error("cannot start a thread");
    done = operate(f, puts, timed, 0);
    (void)pthread_join(thread, NULL);
    return done && f->code == BITKV_OK;
}

/* Both states. */
static bool pair(struct foreground *f, unsigned kind, bool timed)
{
    const char *name = bench_foreground_kinds[kind];
    const uint64_t quiet_ns = bench_life_scaled(f->options, QUIET_NS, QUIET_NS_MIN);
    uint64_t start_ns;

    if (!bench_life_overwrite(&f->life, f->life.workload.keys, ++f->version) ||
        !bench_life_settle(&f->life))
        return false;
    f->version++;
    bench_life_warm(f->options, f->life.workload.keys);
    start_ns = bench_now_ns();
    if (!operate(f, puts_in_100[kind], timed, start_ns + quiet_ns))
        return false;
    report(f, name, "quiet", timed, bench_now_ns() - start_ns);
    if (!bench_life_settle(&f->life))
        return false;
    bench_life_warm(f->options, f->life.workload.keys);
    start_ns = bench_now_ns();
    if (!with_compaction(f, puts_in_100[kind], timed))
        return false;
    report(f, name, "compacting", timed, bench_now_ns() - start_ns);
    return true;
}

int bench_task_foreground(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct foreground f;
    bool done;

    (void)engine;
    f.options = options;
    f.version = 1;
    done = bench_life_begin(&f.life, options, "foreground", bench_life_keys(options, DATA_BYTES)) &&
           bench_life_open(&f.life, options->child_directory, false, 0);
    if (done)
        bench_life_warm(options, f.life.workload.keys);
    done = done && bench_life_fill(&f.life);
    for (unsigned kind = 0; done && bench_foreground_kinds[kind] != NULL; kind++)
        done = pair(&f, kind, false) && (!options->latency || pair(&f, kind, true));
    done = done && bench_life_verify(&f.life);
    return bench_life_end(&f.life, done) ? EXIT_SUCCESS : EXIT_FAILURE;
}
