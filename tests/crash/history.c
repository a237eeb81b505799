/* SPDX-License-Identifier: MIT */
#include "crash/history.h"

#include "base/bytes.h"
#include "crash/turns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

struct history history;

static uint64_t seed; /* of the history, as it is used up */
static char root[LAB_PATH];

static unsigned below(unsigned n)
{
    return (unsigned)(lab_random(&seed) % n);
}

/* --- workloads ---------------------------------------------------------------------- */

enum action {
    PUT,
    DELETE,
    BATCH,
    IF_ABSENT,
    IF_VERSION,
    UPDATE,
    ADD,
    TOUCH,
    EXPIRE,
    QUEUE,
    SYNC,
    PAUSE, /* long enough for the interval's sync */
    COMPACT,
    COMPACT_ONE, /* partition */
    BACKUP,
    REOPEN,
    REPARTITION,
    FAIL_SYNC,
    ACTIONS,
};

enum sizes {
    MIXED, /* up to 3 KB, and now and then more than a segment */
    SMALL,
    MEDIUM, /* a segment has a few */
    LARGE,  /* many are larger than a segment */
};

enum { NONE = 1, INTERVAL = 2, SYNCED = 4, ANY = NONE | INTERVAL | SYNCED };

struct workload {
    const char *name;
    unsigned weights[ACTIONS];
    enum sizes sizes;
    unsigned durabilities;
    unsigned partitions;     /* 0: 2 */
    unsigned keys;           /* that are written; 0: all */
    unsigned checkpoint;     /* bytes; 0: 50000 */
    bool no_compaction;      /* by itself */
    bool other_mode_reopens; /* each opening with the other I/O mode */
};

static const struct workload workloads[] = {
    {.name = "mixed",
     .weights = {[PUT] = 40,
                 [DELETE] = 15,
                 [BATCH] = 20,
                 [ADD] = 3,
                 [SYNC] = 5,
                 [COMPACT] = 6,
                 [BACKUP] = 4,
                 [REOPEN] = 2,
                 [REPARTITION] = 1,
                 [PAUSE] = 4},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "puts",
     .weights = {[PUT] = 95, [SYNC] = 2, [PAUSE] = 3},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "puts without sync",
     .weights = {[PUT] = 95, [PAUSE] = 5},
     .sizes = SMALL,
     .durabilities = NONE | INTERVAL},
    {.name = "synced puts", .weights = {[PUT] = 1}, .sizes = SMALL, .durabilities = SYNCED},
    {.name = "one partition",
     .weights = {[PUT] = 70, [DELETE] = 20, [COMPACT] = 6, [REOPEN] = 4},
     .sizes = MIXED,
     .durabilities = ANY,
     .partitions = 1},
    {.name = "four partitions",
     .weights = {[PUT] = 60, [DELETE] = 10, [BATCH] = 25, [SYNC] = 5},
     .sizes = MIXED,
     .durabilities = ANY,
     .partitions = 4},
    {.name = "overwriting",
     .weights = {[PUT] = 97, [PAUSE] = 3},
     .sizes = MEDIUM,
     .durabilities = ANY,
     .partitions = 2,
     .keys = 3},
    {.name = "deletions",
     .weights = {[PUT] = 45, [DELETE] = 45, [COMPACT] = 10},
     .sizes = SMALL,
     .durabilities = ANY},
    {.name = "large values",
     .weights = {[PUT] = 80, [DELETE] = 10, [REOPEN] = 5, [COMPACT] = 5},
     .sizes = LARGE,
     .durabilities = ANY},
    {.name = "sealing",
     .weights = {[PUT] = 97, [SYNC] = 3},
     .sizes = MEDIUM,
     .durabilities = ANY,
     .no_compaction = true},
    {.name = "batches",
     .weights = {[BATCH] = 90, [SYNC] = 5, [PAUSE] = 5},
     .sizes = SMALL,
     .durabilities = ANY,
     .partitions = 4},
    {.name = "batches and puts",
     .weights = {[BATCH] = 45, [PUT] = 45, [REOPEN] = 5, [COMPACT] = 5},
     .sizes = MIXED,
     .durabilities = ANY,
     .partitions = 3},
    {.name = "conditions",
     .weights = {[IF_ABSENT] = 25, [IF_VERSION] = 25, [UPDATE] = 25, [DELETE] = 25},
     .sizes = SMALL,
     .durabilities = ANY},
    {.name = "counters",
     .weights = {[ADD] = 70, [DELETE] = 10, [COMPACT] = 5, [REOPEN] = 5, [PUT] = 10},
     .sizes = SMALL,
     .durabilities = ANY},
    {.name = "deadlines",
     .weights = {[EXPIRE] = 35, [TOUCH] = 20, [PUT] = 35, [COMPACT] = 10},
     .sizes = SMALL,
     .durabilities = ANY},
    {.name = "queues",
     .weights = {[QUEUE] = 80, [PUT] = 10, [SYNC] = 5, [PAUSE] = 5},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "queues and compaction",
     .weights = {[QUEUE] = 75, [COMPACT] = 15, [REOPEN] = 10},
     .sizes = SMALL,
     .durabilities = ANY,
     .partitions = 3},
    {.name = "compaction",
     .weights = {[PUT] = 60, [DELETE] = 15, [COMPACT] = 25},
     .sizes = MEDIUM,
     .durabilities = ANY,
     .partitions = 2,
     .keys = 6},
    {.name = "partial compaction",
     .weights = {[PUT] = 50, [DELETE] = 20, [COMPACT_ONE] = 25, [REOPEN] = 5},
     .sizes = MEDIUM,
     .durabilities = ANY,
     .partitions = 3,
     .no_compaction = true},
    {.name = "checkpoints",
     .weights = {[PUT] = 75, [DELETE] = 20, [REOPEN] = 5},
     .sizes = SMALL,
     .durabilities = ANY,
     .checkpoint = 3000},
    {.name = "backups",
     .weights = {[PUT] = 60, [BATCH] = 15, [BACKUP] = 15, [COMPACT] = 10},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "repartitions",
     .weights = {[PUT] = 60, [DELETE] = 20, [BATCH] = 10, [REPARTITION] = 10},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "openings",
     .weights = {[PUT] = 50, [DELETE] = 20, [REOPEN] = 30},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "both modes",
     .weights = {[PUT] = 60, [DELETE] = 15, [REOPEN] = 20, [COMPACT] = 5},
     .sizes = MEDIUM,
     .durabilities = ANY,
     .other_mode_reopens = true},
    {.name = "failing syncs",
     .weights = {[PUT] = 55,
                 [DELETE] = 15,
                 [BATCH] = 10,
                 [SYNC] = 3,
                 [COMPACT] = 5,
                 [REOPEN] = 3,
                 [FAIL_SYNC] = 9},
     .sizes = MIXED,
     .durabilities = ANY},
    {.name = "interval",
     .weights = {[PUT] = 70, [BATCH] = 15, [PAUSE] = 15},
     .sizes = MIXED,
     .durabilities = INTERVAL},
};

#define WORKLOADS (sizeof workloads / sizeof workloads[0])

unsigned history_workloads(void)
{
    return WORKLOADS;
}

unsigned history_workload_of(uint64_t of)
{
    return (unsigned)(of % WORKLOADS);
}

const char *history_workload_name(unsigned number)
{
    return workloads[number].name;
}

/* --- values ------------------------------------------------------------------------------ */

static bool is_large(unsigned version)
{
    enum sizes sizes = history.workload->sizes;
    return (sizes == MIXED && version % 41 == 7) || (sizes == LARGE && version % 3 == 0);
}

static size_t value_size(unsigned version)
{
    if (is_large(version)) /* than a segment */
        return 70000 + version % 5 * 1000;
    switch (history.workload->sizes) {
    case SMALL:
        return 20 + version * 31 % 100;
    case MEDIUM:
        return 4000 + version * 997 % 12000;
    case LARGE:
        return 300 + version * 997 % 20000;
    case MIXED:
        break;
    }
    return version % 5 == 0 ? 40 : 300 + version * 97 % 3000;
}

const void *history_value(unsigned key, unsigned version, size_t *size)
{
    static char value[VALUE_MOST];
    if (key == COUNTER) {
        bkv_put64((uint8_t *)value, version);
        *size = 8;
        return value;
    }
    *size = value_size(version);
    memset(value, 'a' + (int)((key + version) % 26), *size);
    char head[32];
    memcpy(value, head, (size_t)snprintf(head, sizeof head, "%u/%u ", key, version));
    return value;
}

unsigned history_version(unsigned key, const void *value, size_t size)
{
    unsigned of = KEYS, version = 0;
    if (key == COUNTER)
        version = size == 8 ? (unsigned)bkv_get64(value) : 0;
    else if (sscanf(value, "%u/%u", &of, &version) != 2 || of != key)
        return 0;
    size_t expected_size;
    const void *expected = history_value(key, version, &expected_size);
    return size == expected_size && memcmp(value, expected, size) == 0 ? version : 0;
}

/* --- what is acknowledged -------------------------------------------------------------------- */

static void all_durable(void)
{
    size_t now = sim_events(history.sim);
    for (unsigned i = 0; i < history.op_count; i++) {
        if (now < history.ops[i].durable)
            history.ops[i].durable = now;
    }
}

/* With what lies before them in their partitions. */
static void durable_to(unsigned first, unsigned last)
{
    size_t now = sim_events(history.sim);
    const struct epoch *e = &history.epochs[history.epoch_count - 1];
    for (unsigned i = first; i <= last; i++) {
        for (unsigned j = 0; j <= i; j++) {
            struct op *op = &history.ops[j];
            bool same = e->partition[op->key] == e->partition[history.ops[i].key];
            if (same && now < op->durable)
                op->durable = now;
        }
    }
}

static unsigned next_version(bool small)
{
    do
        history.version++;
    while (small && is_large(history.version));
    return history.version;
}

static unsigned begin_op(unsigned key, unsigned version, unsigned batch)
{
    struct op *op = &history.ops[history.op_count++];
    *op = (struct op){.key = key, .version = version, .batch = batch, .durable = NEVER};
    op->begun = sim_events(history.sim);
    history.now[key] = version;
    return version;
}

static void acknowledged(unsigned first, bitkv_durability how)
{
    if (how == BITKV_DURABILITY_SYNC)
        durable_to(first, history.op_count - 1);
}

static bitkv_durability some_durability(void)
{
    static const bitkv_durability all[] = {BITKV_DURABILITY_NONE, BITKV_DURABILITY_INTERVAL,
                                           BITKV_DURABILITY_SYNC};
    for (;;) {
        unsigned i = below(3);
        if ((history.workload->durabilities & 1u << i) != 0)
            return all[i];
    }
}

static unsigned some_key(void)
{
    unsigned keys = history.workload->keys;
    return below(keys != 0 ? keys : KEYS);
}

static void must(int rc, const char *what)
{
    if (rc < 0)
        fail_msg("history %llu: %s: %s: %s", (unsigned long long)history.seed, what,
                 bitkv_error_name(rc), bitkv_error_context());
}

/* --- writes ------------------------------------------------------------------------------------
 */

static void put(bitkv *db)
{
    unsigned key = some_key(), first = history.op_count;
    bitkv_durability how = some_durability();
    size_t size;
    const void *value = history_value(key, begin_op(key, next_version(false), NO_BATCH), &size);
    must(bitkv_put_with(db, &key, sizeof key, value, size, how), "put");
    acknowledged(first, how);
}

static void delete (bitkv *db)
{
    unsigned key = some_key(), first = history.op_count;
    bitkv_durability how = some_durability();
    bool there = history.now[key] != 0;
    (void)begin_op(key, 0, NO_BATCH);
    int rc = bitkv_del_with(db, &key, sizeof key, how);
    must(rc, "delete");
    assert_int_equal(rc, there ? BITKV_OK : BITKV_NOT_FOUND);
    if (there)
        acknowledged(first, how);
}

static void write_batch(bitkv *db)
{
    bitkv_batch *batch;
    bitkv_durability how = some_durability();
    must(bitkv_batch_create(&batch), "batch");
    unsigned first = history.op_count, number = ++history.batches;
    unsigned keys = 2 + below(5), from = below(KEYS);
    for (unsigned i = 0; i < keys; i++) {
        unsigned key = (from + i) % KEYS;
        unsigned version = begin_op(key, below(4) == 0 ? 0 : next_version(true), number);
        size_t size;
        const void *value = history_value(key, version, &size);
        must(version == 0 ? bitkv_batch_del(batch, &key, sizeof key)
                          : bitkv_batch_put(batch, &key, sizeof key, value, size),
             "batch");
    }
    must(bitkv_write(db, batch, how), "batch");
    bitkv_batch_destroy(batch);
    acknowledged(first, how);
}

static void put_if(bitkv *db, bitkv_condition condition)
{
    unsigned key = some_key(), first = history.op_count;
    bool there = history.now[key] != 0, made = there == (condition == BITKV_IF_VERSION);
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.condition = condition;
    o.durability = some_durability();
    bitkv_key_info info = {.struct_size = sizeof info};
    if (condition == BITKV_IF_VERSION && there)
        must(bitkv_info(db, &key, sizeof key, &info), "info");
    o.version = info.version;
    unsigned version = next_version(false);
    if (made)
        (void)begin_op(key, version, NO_BATCH);
    size_t size;
    const void *value = history_value(key, version, &size);
    int rc = bitkv_put_if(db, &key, sizeof key, value, size, &o, NULL);
    if (made) {
        must(rc, "conditional put");
        acknowledged(first, o.durability);
    } else {
        assert_int_equal(rc, there ? BITKV_ERR_CONFLICT : BITKV_NOT_FOUND);
    }
}

/* What was decided when the callback came first; alone, it comes once. */
static int on_update(void *user, bitkv_update_step *step)
{
    unsigned key = *(const unsigned *)user;
    unsigned had = step->present ? history_version(key, step->value, step->value_size) : 0;
    assert_int_equal(had, history.now[key]);
    if (had != 0 && below(3) == 0) {
        (void)begin_op(key, 0, NO_BATCH);
        return BITKV_UPDATE_DELETE;
    }
    step->new_value =
        history_value(key, begin_op(key, next_version(false), NO_BATCH), &step->new_value_size);
    return BITKV_UPDATE_PUT;
}

static void update(bitkv *db)
{
    unsigned key = some_key(), first = history.op_count;
    bitkv_durability how = some_durability();
    must(bitkv_update(db, &key, sizeof key, on_update, &key, how), "update");
    acknowledged(first, how);
}

static void add(bitkv *db)
{
    unsigned key = COUNTER, was = history.now[key];
    unsigned version = begin_op(key, next_version(false), NO_BATCH);
    must(bitkv_add(db, &key, sizeof key, (int64_t)version - was, NULL), "add");
}

static void pause_ms(unsigned ms)
{
    struct timespec t = {.tv_nsec = (long)ms * 1000000};
    (void)nanosleep(&t, NULL);
}

static void touch(bitkv *db)
{
    unsigned key = some_key();
    if (history.now[key] == 0)
        return;
    bool ends = below(2) == 0;
    (void)begin_op(key, ends ? 0 : history.now[key], NO_BATCH);
    must(bitkv_touch(db, &key, sizeof key, ends ? 2 : BITKV_TTL_NONE), "touch");
    pause_ms(ends ? 5 : 0);
}

static void put_expiring(bitkv *db)
{
    unsigned key = some_key(), first = history.op_count;
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.durability = some_durability();
    o.ttl_ms = 2;
    (void)begin_op(key, 0, NO_BATCH);
    size_t size;
    const void *value = history_value(key, next_version(false), &size);
    must(bitkv_put_if(db, &key, sizeof key, value, size, &o, NULL), "put that expires");
    acknowledged(first, o.durability);
    pause_ms(5);
}

static void submit(bitkv *db)
{
    bitkv_cq *cq;
    unsigned first = history.op_count, count = 1 + below(6);
    bitkv_durability how[6];
    must(bitkv_cq_create(&cq, db, NULL), "queue");
    for (unsigned i = 0; i < count; i++) {
        unsigned key = some_key();
        bool deletion = history.now[key] != 0 && below(4) == 0;
        unsigned version = begin_op(key, deletion ? 0 : next_version(false), NO_BATCH);
        how[i] = some_durability();
        bitkv_op op = {.kind = deletion ? BITKV_OP_DEL : BITKV_OP_PUT,
                       .flags = BITKV_OP_COPY,
                       .key = &key,
                       .key_size = sizeof key,
                       .durability = how[i]};
        op.value = history_value(key, version, &op.value_size);
        op.user_data = &history.ops[first + i];
        int n = bitkv_cq_submit(cq, &op, 1, NULL);
        must(n, "submission");
        assert_int_equal(n, 1);
    }
    for (unsigned done = 0; done < count; done++) {
        bitkv_completion c;
        assert_int_equal(bitkv_cq_wait(cq, &c, 1, -1), 1);
        must(c.status, "completion");
        unsigned op = (unsigned)((struct op *)c.user_data - history.ops);
        if (how[op - first] == BITKV_DURABILITY_SYNC)
            durable_to(op, op);
    }
    must(bitkv_cq_destroy(cq), "queue");
}

/* --- the database as a whole --------------------------------------------------------------- */

bitkv *history_open(const char *where, const char *name, bool strict, int *rc)
{
    const struct workload *w = history.workload;
    char path[LAB_PATH];
    lab_join(path, where, name);
    bitkv_options o;
    bitkv_options_init(&o);
    if (!lab_exists(path) || history.epoch_count == 0)
        o.partitions = w->partitions != 0 ? w->partitions : 2;
    o.create_if_missing = strcmp(name, "db") == 0;
    o.max_file_size = 64u << 10;
    o.io_mode = history.mapped ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o.backend = BITKV_BACKEND_THREADS; /* the kernel's does not wait for its turn */
    o.checkpoint_interval_bytes = w->checkpoint != 0 ? w->checkpoint : 50000;
    o.sync_interval_ms = 3;
    o.auto_compact = !w->no_compaction;
    o.strict_recovery = strict;
    bitkv *db = NULL;
    *rc = bitkv_open(&db, path, &o);
    return db;
}

static bitkv *open_live(void)
{
    int rc;
    bitkv *db = history_open(root, "db", true, &rc);
    must(rc, "open");
    return db;
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
    struct epoch *e = &history.epochs[history.epoch_count];
    e->partitions = partitions;
    e->first_op = history.op_count;
    e->begun = sim_events(history.sim);
    memcpy(e->base, history.now, sizeof e->base);
    for (unsigned key = 0; key < KEYS; key++) {
        size_t size;
        const void *value = history_value(key, begin_op(key, next_version(false), NO_BATCH), &size);
        must(bitkv_put(db, &key, sizeof key, value, size), "put");
    }
    must(bitkv_scan(db, BITKV_SCAN_KEYS, note_partition, e), "scan");
    history.epoch_count++;
    if (below(2) == 0) {
        must(bitkv_sync(db), "sync");
        all_durable();
    }
}

static void back_up(bitkv *db)
{
    if (history.backup_count == BACKUPS_MOST)
        return;
    struct backup *b = &history.backups[history.backup_count];
    char name[32], path[LAB_PATH];
    b->epoch = history.epoch_count - 1;
    (void)snprintf(name, sizeof name, "backup_%u", b->epoch);
    lab_join(path, root, name);
    memcpy(b->versions, history.now, sizeof b->versions);
    b->begun = sim_events(history.sim);
    b->done = NEVER;
    history.backup_count++;
    must(bitkv_backup(db, path, NULL), "backup");
    b->done = sim_events(history.sim);
}

static bitkv *reopen(bitkv *db)
{
    must(bitkv_close(db), "close");
    all_durable();
    history.mapped ^= history.workload->other_mode_reopens;
    return open_live();
}

static unsigned version_of(bitkv *db, unsigned key)
{
    void *value;
    size_t size;
    int rc = bitkv_get(db, &key, sizeof key, &value, &size);
    must(rc, "get");
    unsigned version = rc == BITKV_OK ? history_version(key, value, size) : 0;
    if (rc == BITKV_OK)
        bitkv_free(value);
    return version;
}

/* False if it waited for the sync that failed, and may be there after a cut or not; or
 * if it was refused, and there was none. */
static bool put_if_it_can_be(bitkv *db)
{
    unsigned key = some_key(), first = history.op_count, had = history.now[key];
    bitkv_durability how = some_durability();
    size_t size;
    const void *value = history_value(key, begin_op(key, next_version(false), NO_BATCH), &size);
    int rc = bitkv_put_with(db, &key, sizeof key, value, size, how);
    if (rc == BITKV_ERR_SYNC_FAILED) {
        history.now[key] = version_of(db, key);
        history.op_count -= history.now[key] == had;
        return false;
    }
    must(rc, "put");
    acknowledged(first, how);
    return true;
}

/* A sync fails, and the database is closed and opened again: what it shows then is
 * durable. */
static bitkv *fail_sync(bitkv *db)
{
    if (history.epoch_count == EPOCHS_MOST)
        return db;
    bool failed = false;
    sim_fail_sync(history.sim, true);
    for (unsigned i = 1 + below(4); i > 0; i--)
        failed = !put_if_it_can_be(db) || failed;
    failed = bitkv_sync(db) != BITKV_OK || failed;
    sim_fail_sync(history.sim, false);
    failed = bitkv_close(db) != BITKV_OK || failed;
    if (!failed) /* it was no sync of the log */
        all_durable();
    db = open_live();
    for (unsigned key = 0; key < KEYS; key++)
        history.now[key] = version_of(db, key);
    const struct epoch *before = &history.epochs[history.epoch_count - 1];
    struct epoch *e = &history.epochs[history.epoch_count++];
    *e = *before;
    e->first_op = history.op_count;
    e->begun = sim_events(history.sim);
    memcpy(e->base, history.now, sizeof e->base);
    return db;
}

static bitkv *repartition(bitkv *db)
{
    if (history.epoch_count == EPOCHS_MOST)
        return db;
    char path[LAB_PATH];
    lab_join(path, root, "db");
    must(bitkv_close(db), "close");
    all_durable();
    unsigned partitions = 1 + below(4);
    must(bitkv_repartition(path, partitions, NULL), "repartition");
    db = open_live();
    begin_epoch(db, partitions);
    return db;
}

/* --- the run ------------------------------------------------------------------------------------
 */

static enum action some_action(void)
{
    unsigned sum = 0, i = 0;
    for (unsigned a = 0; a < ACTIONS; a++)
        sum += history.workload->weights[a];
    for (unsigned at = below(sum); at >= history.workload->weights[i]; i++)
        at -= history.workload->weights[i];
    return (enum action)i;
}

static bitkv *act(bitkv *db, enum action action)
{
    switch (action) {
    case PUT:
        put(db);
        break;
    case DELETE:
        delete (db);
        break;
    case BATCH:
        write_batch(db);
        break;
    case IF_ABSENT:
        put_if(db, BITKV_IF_ABSENT);
        break;
    case IF_VERSION:
        put_if(db, BITKV_IF_VERSION);
        break;
    case UPDATE:
        update(db);
        break;
    case ADD:
        add(db);
        break;
    case TOUCH:
        touch(db);
        break;
    case EXPIRE:
        put_expiring(db);
        break;
    case QUEUE:
        submit(db);
        break;
    case SYNC:
        must(bitkv_sync(db), "sync");
        all_durable();
        break;
    case PAUSE:
        pause_ms(4);
        break;
    case COMPACT:
        must(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL), "compaction");
        break;
    case COMPACT_ONE:
        must(bitkv_compact(db, below(history.epochs[history.epoch_count - 1].partitions), NULL,
                           NULL),
             "compaction");
        break;
    case BACKUP:
        back_up(db);
        break;
    case REOPEN:
        return reopen(db);
    case REPARTITION:
        return repartition(db);
    case FAIL_SYNC:
        return fail_sync(db);
    case ACTIONS:
        break;
    }
    return db;
}

void history_record(uint64_t of, const char *where)
{
    (void)snprintf(root, sizeof root, "%s", where);
    lab_remove(root);
    assert_int_equal(mkdir(root, 0700), 0);
    memset(&history, 0, sizeof history);
    history.seed = seed = of;
    history.workload = &workloads[history_workload_of(of)];
    history.mapped = of / WORKLOADS % 2 == 0;
    turns_begin(of, 0);
    history.sim = sim_begin(root);
    bitkv *db = open_live();
    begin_epoch(db, history.workload->partitions != 0 ? history.workload->partitions : 2);
    unsigned steps = 10 + below(90);
    for (unsigned i = 0; i < steps && history.op_count + 2 * KEYS < OPS_MOST; i++)
        db = act(db, some_action());
    must(bitkv_close(db), "close");
    all_durable();
    history.end = sim_events(history.sim);
    sim_end(history.sim);
    turns_end();
}
