/* SPDX-License-Identifier: MIT */
/*
 * Which segments are compacted, and when.
 *
 * Compaction begins, at its ease, a little before the dead share of the disk space,
 * hints included, has reached `fragmentation_threshold`, and earlier for what costs next to
 * nothing: segments of which hardly anything is left, or all of whose records have expired, and
 * files that have become small and many.
 *
 * What is taken is what frees most for what has to be copied, weighted with the
 * age of the data, as old data is what will not die by itself (after the cost and
 * benefit of Rosenblum and Ousterhout, 1992):
 *
 *     garbage x sqrt(age) / (kept + 2 % of a segment)
 *
 * With uniform overwrites that is mostly the oldest segment, at some 25 % alive
 * when half of the disk is dead. Simulated with ten segments of live data: write
 * amplification 1.28 for uniform and 1.36 for Zipf-distributed keys at a disk of
 * twice the live data; without the age 1.28 and 1.42, with linear age as there
 * 1.31 and 1.38. The run is then extended to neighbours that are nearly empty or
 * tiny, as long as the output stays one segment; to take others along, too, makes
 * fewer files and costs 0.05 more.
 *
 * Garbage is what an output would not have: dead bytes, expired ones as far as
 * the hint's summary tells (as if deadlines were spread evenly between the first
 * and the last), marks, and tombstones, but for those that the last sieve found
 * to be needed when little has changed since.
 *
 * Segments with the last `feed_retention_bytes` of the log are no inputs, whatever their
 * garbage: it takes their changes from the feeds (feed.c).
 */
#include "partition/compact.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/epoch.h"
#include "base/error.h"
#include "base/memory.h"

/* Removals of segments after which needed tombstones are looked at again. */
#define SIEVE_AGAIN 8u

/* Garbage that is worth a run when the disk is full. */
#define OUT_OF_SPACE_SHARE 0.03
/* Most bytes that a run takes in: a few segments, but where these are small, enough
 * that its syncs are no large part of what it costs. */
#define INPUT_SEGMENTS  4u
#define INPUT_BYTES_MIN (16u << 20)

/* Files beyond FILES_MIN + FILES_FACTOR x as many as need be are too many. */
#define FILES_MIN    16u
#define FILES_FACTOR 4u

struct gauge {
    struct bkv_segment *segment;
    struct bkv_segment *before;
    uint64_t used, keep, garbage;
    bool fit; /* to be an input */
};

struct survey {
    struct gauge *gauges;
    size_t count, capacity;
    uint64_t segment_bytes; /* of a full one */
    double threshold;
    bool out_of_space; /* nothing else counts */
    uint64_t now_ms, next_sequence;
};

double bkv_look_share(const struct bkv_look *look)
{
    if (look->disk_bytes <= look->live_bytes)
        return 0.0;
    return 1.0 - (double)look->live_bytes / (double)look->disk_bytes;
}

/* Bytes of `live` that have expired by now. */
static uint64_t expired_part(const struct bkv_summary *s, uint64_t live, uint64_t now_ms)
{
    if (s->expiring_bytes == 0 || s->expires_min > now_ms)
        return 0;
    double share = (double)s->expiring_bytes / (double)(s->expiring_bytes + s->permanent_bytes);
    if (s->expires_max > now_ms)
        share *= (double)(now_ms - s->expires_min) / (double)(s->expires_max - s->expires_min);
    return (uint64_t)(share * (double)live);
}

static struct gauge measure(const struct bkv_partition *p, struct bkv_segment *segment,
                            struct bkv_segment *before, uint64_t now_ms)
{
    bool finished =
        atomic_load_explicit(&segment->phase, memory_order_acquire) == BKV_PHASE_FINISHED;
    uint64_t used = atomic_load(&segment->size) - BKV_SEGMENT_HEADER;
    uint64_t live = bkv_min64(used, atomic_load(&segment->live_bytes));
    if (finished)
        live -= expired_part(&segment->summary, live, now_ms);
    uint64_t keep = live;
    if (before != NULL && p->removals - segment->kept_at < SIEVE_AGAIN)
        keep = bkv_min64(used, live + segment->kept_bytes);
    return (struct gauge){
        .segment = segment,
        .before = before,
        .used = used,
        .keep = keep,
        .garbage = used - keep,
        .fit = finished && !segment->unfit && atomic_load(&segment->hint_bytes) != 0,
    };
}

static bool add_gauge(struct survey *survey, struct gauge gauge)
{
    if (!bkv_grow(&survey->gauges, survey->count, 1, sizeof *survey->gauges, &survey->capacity))
        return false;
    survey->gauges[survey->count++] = gauge;
    return true;
}

/* When more of this segment will have expired than is worth a run; 0: never. */
static uint64_t due_ms(const struct bkv_segment *segment, uint64_t now_ms)
{
    const struct bkv_summary *s = &segment->summary;
    if (s->expiring_bytes == 0 || atomic_load(&segment->live_bytes) == 0)
        return 0;
    uint64_t most = s->expires_min + (s->expires_max - s->expires_min) / 5 * 4;
    if (most > now_ms)
        return most;
    return s->expires_max > now_ms ? s->expires_max : 0;
}

/* Segments that hold changes which feeds may still want are left alone: those with
 * the last bytes of the log, up to the first that has lost some anyhow. */
static void retain(struct survey *survey, uint64_t bytes)
{
    uint64_t behind = 0;
    for (size_t i = survey->count; i-- > 0 && behind < bytes;) {
        struct gauge *gauge = &survey->gauges[i];
        if (gauge->segment->kind == BKV_SEGMENT_COMPACTED)
            return;
        gauge->fit = false;
        behind += gauge->used;
    }
}

static uint64_t next_due_ms(const struct survey *survey)
{
    uint64_t next = 0;
    for (size_t i = 0; i < survey->count; i++) {
        const struct gauge *gauge = &survey->gauges[i];
        uint64_t due = gauge->fit ? due_ms(gauge->segment, survey->now_ms) : 0;
        if (due != 0 && (next == 0 || due < next))
            next = due;
    }
    return next;
}

/* Adds a segment to what a look has seen. */
static void see(struct bkv_look *look, const struct gauge *gauge)
{
    look->disk_bytes += gauge->used + atomic_load(&gauge->segment->hint_bytes);
    look->live_bytes += gauge->keep;
}

static bool take_survey(struct bkv_partition *p, struct survey *survey, struct bkv_look *look)
{
    struct bkv_segment *before = NULL;
    *look = (struct bkv_look){0};
    for (struct bkv_segment *s = atomic_load(&p->first); s != NULL; s = atomic_load(&s->next)) {
        struct gauge gauge = measure(p, s, before, survey->now_ms);
        if (!add_gauge(survey, gauge))
            return false;
        see(look, &gauge);
        before = s;
    }
    bkv_lock(&p->lock); /* after the walk: whatever was full then lies before it */
    survey->next_sequence = p->next_sequence;
    bkv_unlock(&p->lock);
    retain(survey, p->store->options.feed_retention_bytes);
    look->next_due_ms = next_due_ms(survey);
    return true;
}

void bkv_look_around(struct bkv_partition *p, struct bkv_look *look)
{
    uint64_t now_ms = bkv_store_now_ms(p->store);
    *look = (struct bkv_look){0};
    struct bkv_epoch_slot *slot = bkv_epoch_enter_again(); /* during a run */
    struct bkv_segment *before = NULL;
    for (struct bkv_segment *s = atomic_load(&p->first); s != NULL; s = atomic_load(&s->next)) {
        struct gauge gauge = measure(p, s, before, now_ms);
        see(look, &gauge);
        before = s;
    }
    bkv_epoch_exit(slot);
}

static int no_memory(const struct bkv_partition *p)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to look for what to compact in partition %u",
                     p->index);
}

static void begin_survey(struct bkv_partition *p, struct survey *survey)
{
    *survey = (struct survey){
        .segment_bytes = p->store->options.max_file_size,
        .threshold = p->store->options.fragmentation_threshold,
        .out_of_space = atomic_load(&p->out_of_space),
        .now_ms = bkv_store_now_ms(p->store),
    };
    /* What the reserve can hold. */
    uint64_t reserve = atomic_load(&p->reserve_bytes);
    if (survey->out_of_space && reserve != 0)
        survey->segment_bytes = bkv_min64(survey->segment_bytes, reserve);
}

/* --- one run ------------------------------------------------------------------ */

static bool is_tiny(const struct survey *survey, const struct gauge *gauge)
{
    return gauge->used <= survey->segment_bytes / 16;
}

/* May the run that keeps `keep` bytes of `input` take in this one, too? The first
 * always: one record may be larger than a segment is to be, and an earlier opening
 * may have had larger ones. */
static bool has_room(const struct survey *survey, uint64_t keep, uint64_t input, uint32_t count,
                     const struct gauge *gauge)
{
    if (!gauge->fit || count == 0)
        return gauge->fit;
    return count < BKV_RUN_MAX && keep + gauge->keep <= survey->segment_bytes &&
           input + gauge->used <=
               bkv_max64(INPUT_SEGMENTS * survey->segment_bytes, INPUT_BYTES_MIN);
}

static void fill_run(const struct survey *survey, size_t first, size_t last, struct bkv_run *run)
{
    *run = (struct bkv_run){.before = survey->gauges[first].before};
    for (size_t i = first; i <= last; i++) {
        const struct gauge *gauge = &survey->gauges[i];
        run->segments[run->count++] = gauge->segment;
        run->input_bytes += gauge->used;
        run->keep_bytes += gauge->keep;
    }
}

/* The share of garbage from which on a segment is cheap to take at any time. */
static double nearly_empty(const struct survey *survey)
{
    return 1.0 - (1.0 - survey->threshold) * 0.4;
}

static bool worth_extending(const struct survey *survey, const struct gauge *gauge)
{
    return is_tiny(survey, gauge) ||
           (double)gauge->garbage >= nearly_empty(survey) * (double)gauge->used;
}

static void extend(const struct survey *survey, size_t seed, struct bkv_run *run)
{
    size_t first = seed, last = seed;
    uint64_t keep = survey->gauges[seed].keep, input = survey->gauges[seed].used;
    bool grown = true;
    while (grown) {
        grown = false;
        if (first > 0) {
            const struct gauge *g = &survey->gauges[first - 1];
            if (worth_extending(survey, g) &&
                has_room(survey, keep, input, (uint32_t)(last - first + 1), g)) {
                first--;
                keep += g->keep;
                input += g->used;
                grown = true;
            }
        }
        if (last + 1 < survey->count) {
            const struct gauge *g = &survey->gauges[last + 1];
            if (worth_extending(survey, g) &&
                has_room(survey, keep, input, (uint32_t)(last - first + 1), g)) {
                last++;
                keep += g->keep;
                input += g->used;
                grown = true;
            }
        }
    }
    fill_run(survey, first, last, run);
}

/* --- what is worth most ---------------------------------------------------------- */

/* Rounded down (Newton), without the mathematical library; not of 0. */
static uint64_t square_root(uint64_t x)
{
    BKV_ASSERT(x > 0);
    uint64_t root = x / 2 + 1;
    uint64_t better = (root + x / root) / 2;
    while (better < root) {
        root = better;
        better = (root + x / root) / 2;
    }
    return root;
}

static double score(const struct survey *survey, const struct gauge *gauge)
{
    uint64_t age = survey->next_sequence - gauge->segment->last_sequence;
    double cost = (double)gauge->keep + 0.02 * (double)survey->segment_bytes;
    return (double)gauge->garbage * (double)square_root(age) / cost;
}

/* The best seed among those with at least `share` garbage; count if there is none. */
static size_t best_seed(const struct survey *survey, double share)
{
    size_t best = survey->count;
    double best_score = 0;
    for (size_t i = 0; i < survey->count; i++) {
        const struct gauge *gauge = &survey->gauges[i];
        if (!gauge->fit || gauge->garbage == 0 || gauge->keep > survey->segment_bytes ||
            (double)gauge->garbage < share * (double)gauge->used)
            continue;
        double s = score(survey, gauge);
        if (s > best_score) {
            best_score = s;
            best = i;
        }
    }
    return best;
}

/* Too many files: the neighbours that make most of them one for the least. */
static bool merge_small(const struct survey *survey, struct bkv_run *run)
{
    double best = 0;
    for (size_t i = 0; i < survey->count; i++) {
        uint64_t keep = 0, input = 0;
        uint32_t count = 0;
        while (i + count < survey->count &&
               has_room(survey, keep, input, count, &survey->gauges[i + count])) {
            keep += survey->gauges[i + count].keep;
            input += survey->gauges[i + count].used;
            count++;
        }
        double value = (double)count / (double)(keep + 65536);
        if (count >= 8 && value > best) {
            best = value;
            fill_run(survey, i, i + count - 1, run);
        }
    }
    return best > 0;
}

static bool choose(const struct survey *survey, const struct bkv_look *look, struct bkv_run *run)
{
    bool due = bkv_look_share(look) >= survey->threshold * BKV_COMPACT_BEGIN;
    double share = due ? survey->threshold / 2 : nearly_empty(survey);
    size_t seed = best_seed(survey, survey->out_of_space ? OUT_OF_SPACE_SHARE : share);
    if (seed < survey->count) {
        extend(survey, seed, run);
        return true;
    }
    uint64_t needed = look->disk_bytes / survey->segment_bytes;
    return survey->count > FILES_MIN + FILES_FACTOR * needed && merge_small(survey, run);
}

int bkv_run_choose(struct bkv_partition *p, struct bkv_look *look, struct bkv_run *run)
{
    struct survey survey;
    *look = (struct bkv_look){0};
    struct bkv_epoch_slot *slot = bkv_epoch_enter_again(); /* the list's segments stay */
    begin_survey(p, &survey);
    int rc = take_survey(p, &survey, look) ? BITKV_OK : no_memory(p);
    if (rc == BITKV_OK && !choose(&survey, look, run))
        rc = BITKV_NOT_FOUND;
    bkv_epoch_exit(slot);
    bkv_mfree(survey.gauges);
    return rc;
}

/* --- everything, in order ------------------------------------------------------------- */

/* The longest run from `first` on; false if it would change nothing. */
static bool run_from(const struct survey *survey, size_t first, uint64_t end_sequence,
                     struct bkv_run *run)
{
    uint64_t keep = 0, input = 0, garbage = 0;
    size_t last = first;
    /* `last_sequence` is there to be read once the segment is FINISHED, and so fit. */
    while (last < survey->count && survey->gauges[last].fit &&
           survey->gauges[last].segment->last_sequence < end_sequence &&
           has_room(survey, keep, input, (uint32_t)(last - first), &survey->gauges[last])) {
        keep += survey->gauges[last].keep;
        input += survey->gauges[last].used;
        garbage += survey->gauges[last].garbage;
        last++;
    }
    if (last == first || (garbage == 0 && last - first < 2))
        return false;
    fill_run(survey, first, last - 1, run);
    return true;
}

static bool next_run(const struct survey *survey, uint64_t after_sequence, uint64_t end_sequence,
                     struct bkv_run *run)
{
    bool found = false;
    for (size_t i = 0; i < survey->count && !found; i++) {
        if (survey->gauges[i].segment->base_sequence > after_sequence)
            found = run_from(survey, i, end_sequence, run);
    }
    return found;
}

int bkv_run_next(struct bkv_partition *p, uint64_t after_sequence, uint64_t end_sequence,
                 struct bkv_run *run)
{
    struct survey survey;
    struct bkv_look look;
    struct bkv_epoch_slot *slot = bkv_epoch_enter_again(); /* the call has been in one */
    begin_survey(p, &survey);
    int rc = take_survey(p, &survey, &look) ? BITKV_OK : no_memory(p);
    if (rc == BITKV_OK && !next_run(&survey, after_sequence, end_sequence, run))
        rc = BITKV_NOT_FOUND;
    bkv_epoch_exit(slot);
    bkv_mfree(survey.gauges);
    return rc;
}
