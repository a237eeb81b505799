/* SPDX-License-Identifier: MIT */
/*
 * The power is cut at every operation (sim.h). A history of puts, deletes,
 * batches, syncs, compactions, backups, closings and repartitions is recorded
 * once (history.h); then, at each event of it, the image that a cut leaves is opened
 * and judged:
 *
 *   - of each partition there is a prefix of what was written, up to the last
 *     write that was acknowledged with a sync at least;
 *   - a batch is there as a whole or not at all;
 *   - a backup that was acknowledged opens, and has its moment;
 *   - what is then written with a sync is there after the next opening, as is
 *     everything else that was; a compaction changes nothing of it;
 *   - a second cut, at any event of the recovery, leaves the same, and nothing
 *     less than was visible once the opening had returned. If it was the process
 *     alone that died before, its successor's syncs cover what it had left.
 *
 *   BITKV_SEED          of the first history, with its cuts and policies: the n-th has
 *                       the seed n - 1 beyond it, and any can be run alone
 *   BITKV_SIM_SECONDS   default 20
 *   BITKV_SIM_STATES    instead: at least so many cuts
 *
 * In less than a minute only some of the events are cut at, so that there is time
 * for histories of every kind.
 */
#include "crash/history.h"
#include "crash/turns.h"

#include "base/clock.h"

#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define NO_PREFIX UINT32_MAX
#define STEPS     5u       /* after a recovery: what it left, and four writes */
#define LATER_MS  3600000u /* by when all deadlines have passed */

static uint64_t states, recoveries;
static uint64_t *states_of; /* a workload */
static char root[LAB_PATH], image[LAB_PATH], image_again[LAB_PATH];
static bool failed = true; /* until the end is reached */

/* What is being judged, for the one who reads the failure. */
static struct {
    uint64_t cut_seed;
    size_t event, again;
    enum sim_policy policy, policy_again;
    const struct sim *recovery;
} at;

static void violation(const char *where, const char *format, ...)
{
    char text[400];
    va_list list;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    print_error("%s: %s\n  %s, %s, cut before event %zu (%s)", where, text,
                history_workload_name(history_workload_of(history.seed)),
                history.mapped ? "mmap" : "pwrite", at.event, sim_policy_name(at.policy));
    if (at.again != NEVER)
        print_error(", again before event %zu of the recovery (%s)", at.again,
                    sim_policy_name(at.policy_again));
    print_error("\n");
    sim_tell(history.sim, at.event, 24);
    if (at.again != NEVER) {
        print_error("the recovery:\n");
        sim_tell(at.recovery, at.again, 24);
    }
    fail_msg("BITKV_SEED=%" PRIu64 " brings it again; the images stay in %s and %s", history.seed,
             image, image_again);
}

/* A power cut is no damage, and a strict opening takes it. Only of a large record without
 * its header recovery cannot tell, unless the whole first page is missing; and that a
 * first file is, where names come in any order. */
static bool is_no_damage(enum sim_policy policy)
{
    return policy != SIM_SECTORS && policy != SIM_GARBAGE && sim_names_in_order(policy);
}

static bitkv *open_at(const char *where, const char *name, int *rc)
{
    bool strict = is_no_damage(at.policy) && is_no_damage(at.policy_again);
    return history_open(where, name, strict, rc);
}

/* --- the oracle ---------------------------------------------------------------------- */

static void observe(bitkv *db, const char *where, unsigned versions[KEYS])
{
    for (unsigned key = 0; key < KEYS; key++) {
        void *value;
        size_t size;
        versions[key] = 0;
        int rc = bitkv_get(db, &key, sizeof key, &value, &size);
        if (rc == BITKV_NOT_FOUND)
            continue;
        if (rc != BITKV_OK)
            violation(where, "get key %u: %s: %s", key, bitkv_error_name(rc),
                      bitkv_error_context());
        versions[key] = history_version(key, value, size);
        if (versions[key] == 0)
            violation(where, "key %u has a value that was never put", key);
        bitkv_free(value);
    }
}

static unsigned differing(const struct epoch *e, unsigned partition, const unsigned *has,
                          const unsigned *seen)
{
    unsigned n = 0;
    for (unsigned key = 0; key < KEYS; key++)
        n += e->partition[key] == partition && has[key] != seen[key];
    return n;
}

/* Which writes are in whatever prefix explains what is seen, and which are in none. */
static bool in_all[OPS_MOST + OPS_BEHIND], in_none[OPS_MOST + OPS_BEHIND];

static void judge_partition(const struct epoch *e, unsigned p, unsigned end, size_t event,
                            const unsigned *seen)
{
    unsigned has[KEYS], least = e->first_op, begun = e->first_op;
    unsigned first = NO_PREFIX, last = 0; /* prefixes that explain it */
    memcpy(has, e->base, sizeof has);
    for (unsigned i = e->first_op; i < end; i++) {
        if (e->partition[history.ops[i].key] != p)
            continue;
        if (history.ops[i].durable <= event)
            least = i + 1;
        if (history.ops[i].begun <= event)
            begun = i + 1;
    }
    for (unsigned i = e->first_op; i <= begun; i++) {
        if (i >= least && differing(e, p, has, seen) == 0) {
            first = first == NO_PREFIX ? i : first;
            last = i;
        }
        if (i < begun && e->partition[history.ops[i].key] == p)
            has[history.ops[i].key] = history.ops[i].version;
    }
    if (first == NO_PREFIX) {
        for (unsigned i = e->first_op; i < begun; i++) {
            if (e->partition[history.ops[i].key] == p)
                print_error("  op %u: key %u version %u batch %u%s, seen %u\n", i,
                            history.ops[i].key, history.ops[i].version, history.ops[i].batch,
                            history.ops[i].durable <= event ? ", durable" : "",
                            seen[history.ops[i].key]);
        }
        violation("state", "partition %u has no prefix of its writes from %u to %u", p, least,
                  begun);
    }
    for (unsigned i = e->first_op; i < end; i++) {
        if (e->partition[history.ops[i].key] != p)
            continue;
        in_all[i] = i < first;
        in_none[i] = i >= last;
    }
}

/* Where the names of new segments come in any order, an unsynced one may be missing
 * before another, and nothing tells: there is something of each key that is not
 * older than what was synced of it. */
static void judge_keys(const struct epoch *e, unsigned end, size_t event, const unsigned *seen)
{
    for (unsigned key = 0; key < KEYS; key++) {
        bool right = seen[key] == e->base[key];
        for (unsigned i = e->first_op; i < end && history.ops[i].begun <= event; i++) {
            if (history.ops[i].key != key)
                continue;
            if (history.ops[i].durable <= event)
                right = false;
            right = right || history.ops[i].version == seen[key];
        }
        if (!right)
            violation("state", "key %u is at version %u, older than what was synced", key,
                      seen[key]);
    }
}

static unsigned epoch_at(size_t event)
{
    unsigned number = 0;
    while (number + 1 < history.epoch_count && history.epochs[number + 1].begun <= event)
        number++;
    return number;
}

static void judge(size_t event, const unsigned *seen)
{
    unsigned number = epoch_at(event);
    const struct epoch *e = &history.epochs[number];
    unsigned end =
        number + 1 < history.epoch_count ? history.epochs[number + 1].first_op : history.op_count;
    if (!sim_names_in_order(at.policy) || !sim_names_in_order(at.policy_again)) {
        judge_keys(e, end, event, seen);
        return;
    }
    for (unsigned p = 0; p < e->partitions; p++)
        judge_partition(e, p, end, event, seen);
    for (unsigned i = e->first_op; i + 1 < end; i++) {
        for (unsigned j = i + 1; j < end && history.ops[i].batch != NO_BATCH; j++) {
            if (history.ops[j].batch != history.ops[i].batch)
                break;
            if ((in_all[i] && in_none[j]) || (in_none[i] && in_all[j]))
                violation("state", "batch %u is there in part: writes %u and %u",
                          history.ops[i].batch, i, j);
        }
    }
}

static bitkv *open_image(const char *where)
{
    int rc;
    bitkv *db = open_at(where, "db", &rc);
    if (rc != BITKV_OK)
        violation(where, "open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void close_image(const char *where, bitkv *db)
{
    int rc = bitkv_close(db);
    if (rc != BITKV_OK)
        violation(where, "close: %s: %s", bitkv_error_name(rc), bitkv_error_context());
}

static void expect(const char *where, bitkv *db, const unsigned *expected)
{
    unsigned seen[KEYS];
    observe(db, where, seen);
    for (unsigned key = 0; key < KEYS; key++) {
        if (seen[key] != expected[key])
            violation(where, "key %u was at version %u, and is at %u", key, expected[key],
                      seen[key]);
    }
}

static void judge_backup(unsigned epoch, size_t event)
{
    const unsigned *least = NULL, *racing = NULL;
    for (unsigned i = 0; i < history.backup_count; i++) {
        if (history.backups[i].epoch != epoch)
            continue;
        if (history.backups[i].done <= event)
            least = history.backups[i].versions;
        else if (history.backups[i].begun <= event)
            racing = history.backups[i].versions;
    }
    if (least == NULL && racing == NULL)
        return;
    int rc;
    char name[32];
    (void)snprintf(name, sizeof name, "backup_%u", epoch);
    bitkv *db = open_at(image, name, &rc);
    if (rc != BITKV_OK) {
        if (least != NULL)
            violation("backup", "open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
        return;
    }
    unsigned seen[KEYS];
    observe(db, "backup", seen);
    bool right = (least != NULL && memcmp(seen, least, sizeof seen) == 0) ||
                 (racing != NULL && memcmp(seen, racing, sizeof seen) == 0);
    if (!right)
        violation("backup", "it is neither the last that was made nor the one in the making");
    close_image("backup", db);
}

/* What is written after a recovery, and what all keys have after it. */
struct step {
    size_t begun, done;
    bool synced;
    unsigned key;
    unsigned versions[KEYS];
};

/* Versions beyond those of the history, each synced. Events are of `recovery`, or NULL. */
static void go_on(bitkv *db, struct step steps[STEPS], struct sim *recovery, uint64_t *random)
{
    for (unsigned i = 1; i < STEPS; i++) {
        unsigned key = (unsigned)(lab_random(random) % KEYS);
        bool deletion = i == 3;
        unsigned version = deletion ? 0 : OPS_MOST * 2 + i;
        size_t size;
        const void *value = history_value(key, version, &size);
        steps[i] = steps[i - 1];
        steps[i].versions[key] = version;
        steps[i].key = key;
        steps[i].begun = recovery != NULL ? sim_events(recovery) : 0;
        int rc = deletion
                     ? bitkv_del_with(db, &key, sizeof key, BITKV_DURABILITY_SYNC)
                     : bitkv_put_with(db, &key, sizeof key, value, size, BITKV_DURABILITY_SYNC);
        if (rc != BITKV_OK && rc != BITKV_NOT_FOUND)
            violation("going on", "%s: %s", bitkv_error_name(rc), bitkv_error_context());
        steps[i].done = recovery != NULL ? sim_events(recovery) : 0;
        steps[i].synced = rc == BITKV_OK; /* there was nothing: nothing was written */
    }
    if (lab_random(random) % 4 == 0 &&
        bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL) != BITKV_OK)
        violation("going on", "compact: %s", bitkv_error_context());
}

/* Once the opening has returned, what it showed is durable, and then each step. */
static void judge_steps(const struct step steps[STEPS], size_t event, const unsigned *seen)
{
    unsigned last = 0;
    while (last + 1 < STEPS && steps[last + 1].done <= event)
        last++;
    bool begun = last + 1 < STEPS && steps[last + 1].begun <= event;
    if (memcmp(seen, steps[last].versions, sizeof steps[last].versions) == 0 ||
        (begun && memcmp(seen, steps[last + 1].versions, sizeof steps[last].versions) == 0))
        return;
    for (unsigned key = 0; key < KEYS; key++) {
        if (seen[key] != steps[last].versions[key])
            print_error("  key %u: version %u, and is at %u\n", key, steps[last].versions[key],
                        seen[key]);
    }
    violation("second recovery", "it is not what was there after step %u", last);
}

/* The death of a process loses nothing but what was under way, and syncs nothing: the
 * successor's writes follow on the history, and a sync of theirs covers it. */
static void judge_after_death(const struct step steps[STEPS], size_t event, const unsigned *seen)
{
    static struct history saved;
    saved = history;
    unsigned last[KEYS], first_op = history.epochs[epoch_at(at.event)].first_op;
    const struct epoch *e = &history.epochs[epoch_at(at.event)];
    history.epoch_count = epoch_at(at.event) + 1;
    while (history.op_count > first_op && history.ops[history.op_count - 1].begun > at.event)
        history.op_count--;
    memcpy(last, e->base, sizeof last);
    for (unsigned i = first_op; i < history.op_count; i++)
        last[history.ops[i].key] = history.ops[i].version;
    if (memcmp(last, steps[0].versions, sizeof last) != 0 && history.op_count > first_op) {
        unsigned batch = history.ops[--history.op_count].batch;
        while (batch != NO_BATCH && history.op_count > first_op &&
               history.ops[history.op_count - 1].batch == batch)
            history.op_count--;
    }
    for (unsigned i = 1; i < STEPS && steps[i].begun <= event; i++) {
        unsigned key = steps[i].key;
        bool done = steps[i].synced && steps[i].done <= event;
        history.ops[history.op_count++] =
            (struct op){.key = key, .version = steps[i].versions[key], .durable = done ? 0 : NEVER};
        for (unsigned k = first_op; k < history.op_count && done; k++) {
            if (e->partition[history.ops[k].key] == e->partition[key])
                history.ops[k].durable = 0;
        }
    }
    judge(at.event, seen);
    history = saved;
}

static void fresh(const char *path)
{
    lab_remove(path);
    assert_int_equal(mkdir(path, 0700), 0);
}

static enum sim_policy some_policy(uint64_t *random)
{
    return (enum sim_policy)(lab_random(random) % SIM_POLICIES);
}

static void judge_image(uint64_t *random)
{
    struct step steps[STEPS] = {{.begun = 0}};
    bitkv *db = open_image(image);
    observe(db, "recovery", steps[0].versions);
    judge(at.event, steps[0].versions);
    go_on(db, steps, NULL, random);
    close_image("recovery", db);
    db = open_image(image);
    expect("reopened", db, steps[STEPS - 1].versions);
    close_image("reopened", db);
    for (unsigned i = 0; i < history.epoch_count; i++)
        judge_backup(i, at.event);
}

/* The recovery is recorded in turn, and cut: after a cut, or after the process alone has
 * died, which leaves what it had not synced to be lost still. */
static void cut_recovery(const struct sim_disk *before_it, uint64_t *random)
{
    struct sim *recovery = before_it != NULL ? sim_begin_after(before_it, image) : sim_begin(image);
    struct step steps[STEPS] = {{.begun = 0}};
    size_t from = sim_events(recovery);
    at.recovery = recovery;
    bitkv *db = open_image(image);
    size_t opened = sim_events(recovery);
    observe(db, "recovery", steps[0].versions);
    judge(at.event, steps[0].versions);
    go_on(db, steps, recovery, random);
    close_image("recovery", db);
    size_t end = sim_events(recovery);
    sim_end(recovery);
    struct sim_disk *disk = sim_disk_begin(recovery);
    size_t stride = (end - from) / 8 + 1;
    for (size_t event = from + lab_random(random) % stride; event <= end; event += stride) {
        unsigned seen[KEYS];
        at.again = event;
        at.policy_again = some_policy(random);
        sim_disk_advance(disk, event);
        fresh(image_again);
        sim_disk_cut(disk, at.policy_again, lab_random(random), image_again);
        db = open_image(image_again);
        observe(db, "second recovery", seen);
        if (event >= opened && before_it != NULL)
            judge_after_death(steps, event, seen);
        else if (event >= opened)
            judge_steps(steps, event, seen);
        else
            judge(at.event, seen);
        close_image("second recovery", db);
        states++;
        recoveries++;
    }
    at.again = NEVER;
    at.policy_again = SIM_ALL;
    sim_disk_end(disk);
    sim_free(recovery);
}

/* --- the run ----------------------------------------------------------------------------- */

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *given = getenv(name);
    return given != NULL ? strtoull(given, NULL, 0) : otherwise;
}

static uint64_t states_most, end_ns;
static bool everywhere;

static bool enough(void)
{
    return states_most != 0 ? states >= states_most : bkv_now_ns() >= end_ns;
}

static void record(uint64_t seed)
{
    at.again = NEVER;
    at.policy = at.policy_again = SIM_ALL;
    history_record(seed, root);
    at.event = history.end;
}

static void cut_everywhere(void)
{
    struct sim_disk *disk = sim_disk_begin(history.sim);
    uint64_t seed = history.seed;
    for (size_t event = 0; event <= history.end && !enough(); event++) {
        uint64_t random = at.cut_seed = lab_random(&seed);
        if (!everywhere && random % 8 != 0)
            continue;
        at.event = event;
        at.policy = some_policy(&random);
        sim_disk_advance(disk, event);
        fresh(image);
        states++;
        uint64_t how = lab_random(&random) % 16;
        if (how == 0 && sim_disk_is_unmarked(disk, "sync_failed"))
            how = 1; /* nobody could tell the successor */
        if (how == 0)
            at.policy = SIM_ALL;
        else
            sim_disk_cut(disk, at.policy, lab_random(&random), image);
        turns_begin(at.cut_seed, LATER_MS);
        if (how <= 1)
            cut_recovery(how == 0 ? disk : NULL, &random);
        else
            judge_image(&random);
        turns_end();
    }
    sim_disk_end(disk);
}

/* The first seed from `seed` on that is of the workload. */
static uint64_t seed_of(const char *workload, uint64_t seed)
{
    while (strcmp(history_workload_name(history_workload_of(seed)), workload) != 0)
        seed++;
    return seed;
}

static void the_power_may_fail_at_any_moment(void **state)
{
    (void)state;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    uint64_t base = number_of("BITKV_SEED", (uint64_t)t.tv_sec);
    print_message("BITKV_SEED=%" PRIu64 "\n", base);
    states_most = number_of("BITKV_SIM_STATES", 0);
    states = recoveries = 0;
    uint64_t begun = bkv_now_ns(), seconds = number_of("BITKV_SIM_SECONDS", 20);
    end_ns = begun + seconds * UINT64_C(1000000000);
    everywhere = states_most != 0 || seconds >= 60;
    unsigned histories = 0;
    size_t events = 0;
    for (; !enough(); histories++) {
        uint64_t before = states;
        uint64_t seed = base + histories; /* alone it begins with this one */
        if (getenv("BITKV_SIM_WORKLOAD") != NULL)
            seed = seed_of(getenv("BITKV_SIM_WORKLOAD"), base + histories * history_workloads());
        record(seed);
        events += history.end;
        cut_everywhere();
        sim_free(history.sim);
        states_of[history_workload_of(history.seed)] += states - before;
    }
    for (unsigned i = 0; i < history_workloads(); i++)
        print_message("%8" PRIu64 " states of %s\n", states_of[i], history_workload_name(i));
    double took = (double)(bkv_now_ns() - begun) / 1e9;
    failed = false;
    print_message("torture: %u histories, %zu events, %" PRIu64 " states, %" PRIu64
                  " of them cuts of a recovery; %.0f states/s\n",
                  histories, events, states, recoveries, (double)states / took);
}

/* So that a failure can be had again from its seed, threads and all. */
static void a_history_is_the_same_each_time(void **state)
{
    (void)state;
    for (uint64_t number = 0; number < history_workloads(); number++) {
        size_t events = 0;
        uint32_t checksum = 0;
        for (unsigned time = 0; time < 2; time++) {
            record(number);
            if (time > 0) {
                assert_int_equal(history.end, events);
                assert_int_equal(sim_checksum(history.sim), checksum);
            }
            events = history.end;
            checksum = sim_checksum(history.sim);
            sim_free(history.sim);
        }
    }
}

/* Of a process that dies while it makes its database, or replaces segments by what was
 * compacted of them, names stay that are not durable. Whoever opens next relies on
 * them, and syncs what lies behind them: then they are durable, too. */
static void a_successor_syncs_the_names_it_relies_on(void **state)
{
    (void)state;
    record(seed_of("compaction", 0));
    struct sim_disk *disk = sim_disk_begin(history.sim);
    size_t stride = history.end / 200 + 1;
    for (size_t event = 0; event <= history.end; event += event < 40 ? 1 : stride) {
        uint64_t random = event;
        at.event = event;
        at.policy = SIM_ALL;
        sim_disk_advance(disk, event);
        fresh(image);
        turns_begin(event, LATER_MS);
        cut_recovery(disk, &random);
        turns_end();
    }
    sim_disk_end(disk);
    sim_free(history.sim);
}

/* Images are many and small, and no sync is real: memory serves best. */
static int setup(void **state)
{
    (void)state;
    if (access("/dev/shm", W_OK) == 0)
        (void)setenv("TMPDIR", "/dev/shm", 1);
    lab_path(root, "sim");
    lab_path(image, "sim-cut");
    lab_path(image_again, "sim-again");
    lab_sync_off();
    states_of = calloc(history_workloads(), sizeof *states_of);
    /* Only one thread runs at a time: the turn passes quickest on one processor. */
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    (void)sched_setaffinity(0, sizeof one, &one);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_sync_on();
    free(states_of);
    lab_remove(root);
    if (!failed) {
        lab_remove(image);
        lab_remove(image_again);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_successor_syncs_the_names_it_relies_on),
        cmocka_unit_test(a_history_is_the_same_each_time),
        cmocka_unit_test(the_power_may_fail_at_any_moment),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
