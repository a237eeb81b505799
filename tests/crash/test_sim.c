/* SPDX-License-Identifier: MIT */
/*
 * The power is cut at every operation (sim.h). A history of puts, deletes,
 * batches, syncs, compactions, backups, closings and repartitions is recorded
 * once; then, at each event of it, the image that a cut leaves is opened and
 * judged:
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
 *   BITKV_SEED          the histories, cuts and policies. The worker's threads run as
 *                       they run, so a journal is not the same from run to run in all.
 *   BITKV_SIM_SECONDS   default 20
 *   BITKV_SIM_STATES    instead: at least so many cuts
 */
#include "crash/sim.h"
#include "damage/lab.h"

#include "base/clock.h"

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define KEYS       18u
#define PARTS_MOST 4u
#define OPS_MOST   600u
#define EPOCHS     4u
#define NEVER      SIZE_MAX
#define NO_BATCH   0u
#define NO_PREFIX  UINT32_MAX
#define STEPS      5u /* after a recovery: what it left, and four writes */

/* --- the history ------------------------------------------------------------------- */

struct op {
    unsigned key, version; /* 0: a delete */
    unsigned batch;
    size_t begun, durable; /* events */
};

/* Between two repartitions: who lives where, and what all had at the beginning. */
struct epoch {
    size_t begun;
    unsigned first_op, partitions;
    unsigned partition[KEYS], base[KEYS];
};

struct backup {
    size_t begun, done;
    unsigned epoch; /* a repartition makes another database, with backups of its own */
    unsigned versions[KEYS];
};

struct history {
    struct op ops[OPS_MOST + STEPS];
    unsigned op_count, version, batches;
    unsigned now[KEYS];
    struct epoch epochs[EPOCHS];
    unsigned epoch_count;
    struct backup backups[4];
    unsigned backup_count;
    bool mapped;
};

static struct history h;
static struct sim *recorded;
static uint64_t seed, states, recoveries;
static char root[LAB_PATH], image[LAB_PATH], image_again[LAB_PATH];
static char value_buffer[80000];
static bool failed = true; /* until the end is reached */

/* What is being judged, for the one who reads the failure. */
static struct {
    uint64_t history_seed, cut_seed;
    size_t event, again;
    enum sim_policy policy, policy_again;
} at;

static void violation(const char *where, const char *format, ...)
{
    char text[400];
    va_list list;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    print_error("%s: %s\n  history %" PRIu64 ", %s, cut before event %zu (%s)", where, text,
                at.history_seed, h.mapped ? "mmap" : "pwrite", at.event,
                sim_policy_name(at.policy));
    if (at.again != NEVER)
        print_error(", again before event %zu of the recovery (%s)", at.again,
                    sim_policy_name(at.policy_again));
    print_error("\n");
    sim_tell(recorded, at.event, 24);
    fail_msg("BITKV_SEED: see above; the images stay in %s and %s", image, image_again);
}

static bool is_large(unsigned version)
{
    return version % 41 == 7; /* than a segment */
}

static size_t make_value(unsigned key, unsigned version)
{
    size_t size = is_large(version) ? 70000 : version % 5 == 0 ? 40 : 300 + version * 97 % 3000;
    memset(value_buffer, 'a' + (int)((key + version) % 26), size);
    value_buffer[snprintf(value_buffer, 40, "%u/%u", key, version)] = ' ';
    return size;
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
    char path[LAB_PATH];
    lab_join(path, where, name);
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 0;
    if (!lab_exists(path) || h.epoch_count == 0)
        o.partitions = 2;
    o.create_if_missing = strcmp(name, "db") == 0;
    o.max_file_size = 64u << 10;
    o.io_mode = h.mapped ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o.checkpoint_interval_bytes = 50000;
    o.sync_interval_ms = 3;
    o.strict_recovery = is_no_damage(at.policy) && is_no_damage(at.policy_again);
    bitkv *db = NULL;
    *rc = bitkv_open(&db, path, &o);
    return db;
}

static bitkv *open_live(void)
{
    int rc;
    bitkv *db = open_at(root, "db", &rc);
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

static void all_durable(void)
{
    size_t now = sim_events(recorded);
    for (unsigned i = 0; i < h.op_count; i++)
        h.ops[i].durable = h.ops[i].durable < now ? h.ops[i].durable : now;
}

/* With what lies before them in their partitions. */
static void durable_to(unsigned first, unsigned last)
{
    size_t now = sim_events(recorded);
    const struct epoch *e = &h.epochs[h.epoch_count - 1];
    for (unsigned i = first; i <= last; i++) {
        for (unsigned j = 0; j <= i; j++) {
            struct op *op = &h.ops[j];
            bool same = e->partition[op->key] == e->partition[h.ops[i].key];
            if (same && now < op->durable)
                op->durable = now;
        }
    }
}

static struct op *begin_op(unsigned key, bool deletion, unsigned batch)
{
    struct op *op = &h.ops[h.op_count++];
    *op = (struct op){.key = key, .batch = batch, .durable = NEVER};
    if (!deletion)
        h.version += batch != NO_BATCH && is_large(h.version + 1) ? 2 : 1; /* not in a batch */
    op->version = deletion ? 0 : h.version;
    op->begun = sim_events(recorded);
    h.now[key] = op->version;
    return op;
}

static void write_one(bitkv *db, bitkv_durability how)
{
    unsigned key = (unsigned)(lab_random(&seed) % KEYS);
    const struct op *op = begin_op(key, lab_random(&seed) % 4 == 0, NO_BATCH);
    int rc;
    if (op->version == 0) {
        rc = bitkv_del_with(db, &key, sizeof key, how);
    } else {
        size_t size = make_value(key, op->version);
        rc = bitkv_put_with(db, &key, sizeof key, value_buffer, size, how);
    }
    assert_true(rc == BITKV_OK || (op->version == 0 && rc == BITKV_NOT_FOUND));
    if (how == BITKV_DURABILITY_SYNC && rc == BITKV_OK)
        durable_to(h.op_count - 1, h.op_count - 1);
}

static void write_batch(bitkv *db, bitkv_durability how)
{
    bitkv_batch *batch;
    assert_int_equal(bitkv_batch_create(&batch), BITKV_OK);
    unsigned first = h.op_count, number = ++h.batches;
    unsigned keys = 2 + (unsigned)(lab_random(&seed) % 5), from = (unsigned)lab_random(&seed);
    for (unsigned i = 0; i < keys; i++) {
        unsigned key = (from + i) % KEYS;
        const struct op *op = begin_op(key, lab_random(&seed) % 4 == 0, number);
        size_t size = op->version != 0 ? make_value(key, op->version) : 0;
        assert_int_equal(op->version == 0
                             ? bitkv_batch_del(batch, &key, sizeof key)
                             : bitkv_batch_put(batch, &key, sizeof key, value_buffer, size),
                         BITKV_OK);
    }
    assert_int_equal(bitkv_write(db, batch, how), BITKV_OK);
    bitkv_batch_destroy(batch);
    if (how == BITKV_DURABILITY_SYNC)
        durable_to(first, h.op_count - 1);
}

static int note_partition(void *user, const bitkv_record *record)
{
    struct epoch *e = user;
    unsigned key;
    assert_int_equal(record->key_size, sizeof key);
    memcpy(&key, record->key, sizeof key);
    if (key < KEYS)
        e->partition[key] = record->partition;
    return 0;
}

/* Every key is written, so that the store tells where it lives: the hash is its own. */
static void begin_epoch(bitkv *db, unsigned partitions)
{
    struct epoch *e = &h.epochs[h.epoch_count];
    e->partitions = partitions;
    e->first_op = h.op_count;
    e->begun = sim_events(recorded);
    memcpy(e->base, h.now, sizeof e->base);
    for (unsigned key = 0; key < KEYS; key++) {
        const struct op *op = begin_op(key, false, NO_BATCH);
        size_t size = make_value(key, op->version);
        assert_int_equal(bitkv_put(db, &key, sizeof key, value_buffer, size), BITKV_OK);
    }
    assert_int_equal(bitkv_scan(db, BITKV_SCAN_KEYS, note_partition, e), BITKV_OK);
    h.epoch_count++;
    if (lab_random(&seed) % 2 == 0) {
        assert_int_equal(bitkv_sync(db), BITKV_OK);
        all_durable();
    }
}

static void back_up(bitkv *db)
{
    if (h.backup_count == sizeof h.backups / sizeof h.backups[0])
        return;
    struct backup *b = &h.backups[h.backup_count];
    char name[32], path[LAB_PATH];
    b->epoch = h.epoch_count - 1;
    (void)snprintf(name, sizeof name, "backup_%u", b->epoch);
    lab_join(path, root, name);
    memcpy(b->versions, h.now, sizeof b->versions);
    b->begun = sim_events(recorded);
    b->done = NEVER;
    h.backup_count++;
    int rc = bitkv_backup(db, path, NULL);
    if (rc != BITKV_OK)
        fail_msg("backup: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    b->done = sim_events(recorded);
}

static bitkv *close_and_open(bitkv *db)
{
    assert_int_equal(bitkv_close(db), BITKV_OK);
    all_durable();
    if (lab_random(&seed) % 3 == 0 && h.epoch_count < EPOCHS) {
        char path[LAB_PATH];
        lab_join(path, root, "db");
        unsigned partitions = 1 + (unsigned)(lab_random(&seed) % PARTS_MOST);
        int rc = bitkv_repartition(path, partitions, NULL);
        if (rc != BITKV_OK)
            fail_msg("repartition: %s: %s", bitkv_error_name(rc), bitkv_error_context());
        db = open_live();
        begin_epoch(db, partitions);
        return db;
    }
    return open_live();
}

static bitkv_durability some_durability(void)
{
    static const bitkv_durability all[] = {BITKV_DURABILITY_NONE, BITKV_DURABILITY_NONE,
                                           BITKV_DURABILITY_INTERVAL, BITKV_DURABILITY_SYNC};
    return all[lab_random(&seed) % 4];
}

static void pause_ms(unsigned ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000L};
    (void)nanosleep(&t, NULL);
}

static bitkv *step(bitkv *db)
{
    unsigned what = (unsigned)(lab_random(&seed) % 100);
    if (what < 58) {
        write_one(db, some_durability());
    } else if (what < 78) {
        write_batch(db, some_durability());
    } else if (what < 83) {
        assert_int_equal(bitkv_sync(db), BITKV_OK);
        all_durable();
    } else if (what < 89) {
        assert_int_equal(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL), BITKV_OK);
    } else if (what < 93) {
        back_up(db);
    } else if (what < 96) {
        db = close_and_open(db);
    } else {
        pause_ms(4); /* the interval's sync */
    }
    return db;
}

static void begin(uint64_t history_seed, bool mapped)
{
    lab_remove(root);
    assert_int_equal(mkdir(root, 0700), 0);
    memset(&h, 0, sizeof h);
    at.again = NEVER;
    at.policy = at.policy_again = SIM_ALL;
    at.history_seed = seed = history_seed;
    h.mapped = mapped;
    recorded = sim_begin(root);
}

static void end(bitkv *db)
{
    assert_int_equal(bitkv_close(db), BITKV_OK);
    all_durable();
    at.event = sim_events(recorded);
    sim_end(recorded);
}

static void record(uint64_t history_seed)
{
    begin(history_seed, history_seed % 2 == 0);
    bitkv *db = open_live();
    begin_epoch(db, 2);
    unsigned steps = 10 + (unsigned)(lab_random(&seed) % 90);
    for (unsigned i = 0; i < steps && h.op_count + 2 * KEYS < OPS_MOST; i++)
        db = step(db);
    end(db);
}

/* --- the oracle ---------------------------------------------------------------------- */

static void observe(bitkv *db, const char *where, unsigned versions[KEYS])
{
    for (unsigned key = 0; key < KEYS; key++) {
        void *value;
        size_t size;
        unsigned of = KEYS;
        versions[key] = 0;
        int rc = bitkv_get(db, &key, sizeof key, &value, &size);
        if (rc == BITKV_NOT_FOUND)
            continue;
        if (rc != BITKV_OK)
            violation(where, "get key %u: %s: %s", key, bitkv_error_name(rc),
                      bitkv_error_context());
        if (sscanf(value, "%u/%u", &of, &versions[key]) != 2 || of != key || versions[key] == 0 ||
            size != make_value(key, versions[key]) || memcmp(value, value_buffer, size) != 0)
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
static bool in_all[OPS_MOST + STEPS], in_none[OPS_MOST + STEPS];

static void judge_partition(const struct epoch *e, unsigned p, unsigned end, size_t event,
                            const unsigned *seen)
{
    unsigned has[KEYS], least = e->first_op, begun = e->first_op;
    unsigned first = NO_PREFIX, last = 0; /* prefixes that explain it */
    memcpy(has, e->base, sizeof has);
    for (unsigned i = e->first_op; i < end; i++) {
        if (e->partition[h.ops[i].key] != p)
            continue;
        if (h.ops[i].durable <= event)
            least = i + 1;
        if (h.ops[i].begun <= event)
            begun = i + 1;
    }
    for (unsigned i = e->first_op; i <= begun; i++) {
        if (i >= least && differing(e, p, has, seen) == 0) {
            first = first == NO_PREFIX ? i : first;
            last = i;
        }
        if (i < begun && e->partition[h.ops[i].key] == p)
            has[h.ops[i].key] = h.ops[i].version;
    }
    if (first == NO_PREFIX) {
        for (unsigned i = e->first_op; i < begun; i++) {
            if (e->partition[h.ops[i].key] == p)
                print_error("  op %u: key %u version %u batch %u%s, seen %u\n", i, h.ops[i].key,
                            h.ops[i].version, h.ops[i].batch,
                            h.ops[i].durable <= event ? ", durable" : "", seen[h.ops[i].key]);
        }
        violation("state", "partition %u has no prefix of its writes from %u to %u", p, least,
                  begun);
    }
    for (unsigned i = e->first_op; i < end; i++) {
        if (e->partition[h.ops[i].key] != p)
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
        for (unsigned i = e->first_op; i < end && h.ops[i].begun <= event; i++) {
            if (h.ops[i].key != key)
                continue;
            if (h.ops[i].durable <= event)
                right = false;
            right = right || h.ops[i].version == seen[key];
        }
        if (!right)
            violation("state", "key %u is at version %u, older than what was synced", key,
                      seen[key]);
    }
}

static unsigned epoch_at(size_t event)
{
    unsigned number = 0;
    while (number + 1 < h.epoch_count && h.epochs[number + 1].begun <= event)
        number++;
    return number;
}

static void judge(size_t event, const unsigned *seen)
{
    unsigned number = epoch_at(event);
    const struct epoch *e = &h.epochs[number];
    unsigned end = number + 1 < h.epoch_count ? h.epochs[number + 1].first_op : h.op_count;
    if (!sim_names_in_order(at.policy) || !sim_names_in_order(at.policy_again)) {
        judge_keys(e, end, event, seen);
        return;
    }
    for (unsigned p = 0; p < e->partitions; p++)
        judge_partition(e, p, end, event, seen);
    for (unsigned i = e->first_op; i + 1 < end; i++) {
        for (unsigned j = i + 1; j < end && h.ops[i].batch != NO_BATCH; j++) {
            if (h.ops[j].batch != h.ops[i].batch)
                break;
            if ((in_all[i] && in_none[j]) || (in_none[i] && in_all[j]))
                violation("state", "batch %u is there in part: writes %u and %u", h.ops[i].batch, i,
                          j);
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
    for (unsigned i = 0; i < h.backup_count; i++) {
        if (h.backups[i].epoch != epoch)
            continue;
        if (h.backups[i].done <= event)
            least = h.backups[i].versions;
        else if (h.backups[i].begun <= event)
            racing = h.backups[i].versions;
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
        size_t size = make_value(key, version);
        steps[i] = steps[i - 1];
        steps[i].versions[key] = version;
        steps[i].key = key;
        steps[i].begun = recovery != NULL ? sim_events(recovery) : 0;
        int rc = deletion ? bitkv_del_with(db, &key, sizeof key, BITKV_DURABILITY_SYNC)
                          : bitkv_put_with(db, &key, sizeof key, value_buffer, size,
                                           BITKV_DURABILITY_SYNC);
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
    saved = h;
    unsigned last[KEYS], first_op = h.epochs[epoch_at(at.event)].first_op;
    const struct epoch *e = &h.epochs[epoch_at(at.event)];
    h.epoch_count = epoch_at(at.event) + 1;
    while (h.op_count > first_op && h.ops[h.op_count - 1].begun > at.event)
        h.op_count--;
    memcpy(last, e->base, sizeof last);
    for (unsigned i = first_op; i < h.op_count; i++)
        last[h.ops[i].key] = h.ops[i].version;
    if (memcmp(last, steps[0].versions, sizeof last) != 0 && h.op_count > first_op) {
        unsigned batch = h.ops[--h.op_count].batch;
        while (batch != NO_BATCH && h.op_count > first_op && h.ops[h.op_count - 1].batch == batch)
            h.op_count--;
    }
    for (unsigned i = 1; i < STEPS && steps[i].begun <= event; i++) {
        unsigned key = steps[i].key;
        bool done = steps[i].synced && steps[i].done <= event;
        h.ops[h.op_count++] =
            (struct op){.key = key, .version = steps[i].versions[key], .durable = done ? 0 : NEVER};
        for (unsigned k = first_op; k < h.op_count && done; k++) {
            if (e->partition[h.ops[k].key] == e->partition[key])
                h.ops[k].durable = 0;
        }
    }
    judge(at.event, seen);
    h = saved;
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
    for (unsigned i = 0; i < h.epoch_count; i++)
        judge_backup(i, at.event);
}

/* The recovery is recorded in turn, and cut: after a cut, or after the process alone has
 * died, which leaves what it had not synced to be lost still. */
static void cut_recovery(const struct sim_disk *before_it, uint64_t *random)
{
    struct sim *recovery = before_it != NULL ? sim_begin_after(before_it, image) : sim_begin(image);
    struct step steps[STEPS] = {{.begun = 0}};
    size_t from = sim_events(recovery);
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

static bool enough(void)
{
    return states_most != 0 ? states >= states_most : bkv_now_ns() >= end_ns;
}

static void cut_everywhere(void)
{
    struct sim_disk *disk = sim_disk_begin(recorded);
    size_t end = at.event;
    for (size_t event = 0; event <= end && !enough(); event++) {
        uint64_t random = at.cut_seed = lab_random(&seed);
        at.event = event;
        at.policy = some_policy(&random);
        sim_disk_advance(disk, event);
        fresh(image);
        states++;
        uint64_t how = lab_random(&random) % 16;
        if (how == 0) {
            at.policy = SIM_ALL;
            cut_recovery(disk, &random);
            continue;
        }
        sim_disk_cut(disk, at.policy, lab_random(&random), image);
        if (how == 1)
            cut_recovery(NULL, &random);
        else
            judge_image(&random);
    }
    sim_disk_end(disk);
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
    unsigned histories = 0;
    size_t events = 0;
    for (; !enough(); histories++) {
        record(base + histories); /* alone it begins with this one */
        events += at.event;
        cut_everywhere();
        sim_free(recorded);
    }
    double took = (double)(bkv_now_ns() - begun) / 1e9;
    failed = false;
    print_message("%u histories, %zu events, %" PRIu64 " states, %" PRIu64
                  " of them cuts of a recovery; %.0f states/s\n",
                  histories, events, states, recoveries, (double)states / took);
}

/* Of a process that dies while it makes its database, or replaces segments by what was
 * compacted of them, names stay that are not durable. Whoever opens next relies on
 * them, and syncs what lies behind them: then they are durable, too. */
static void a_successor_syncs_the_names_it_relies_on(void **state)
{
    (void)state;
    begin(1, false);
    bitkv *db = open_live();
    begin_epoch(db, 2);
    for (unsigned i = 0; i < 12; i++)
        write_one(db, i % 3 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE);
    assert_int_equal(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL), BITKV_OK);
    end(db);
    struct sim_disk *disk = sim_disk_begin(recorded);
    for (size_t event = 0, last = at.event; event <= last; event++) {
        uint64_t random = event;
        at.event = event;
        at.policy = SIM_ALL;
        sim_disk_advance(disk, event);
        fresh(image);
        cut_recovery(disk, &random);
    }
    sim_disk_end(disk);
    sim_free(recorded);
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
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_sync_on();
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
        cmocka_unit_test(the_power_may_fail_at_any_moment),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
