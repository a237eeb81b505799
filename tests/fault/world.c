/* SPDX-License-Identifier: MIT */
#include "fault/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VALUE_MAX   90000u
#define PATIENCE_MS 60000
#define ABSENT      0u

static char value_buffer[VALUE_MAX + 1];

/* --- values and keys ------------------------------------------------------------- */

/* Versions of batches begin here: they are small, so that a batch fits a segment. */
#define BATCHES 1000000u

/* Some are larger than a segment. */
static size_t size_of(const struct world *w, unsigned version)
{
    if (version >= BATCHES)
        return 300 + version % 500;
    if (w->value_size != 0)
        return w->value_size + version % 7;
    return version % 16 == 15 ? 80000 : 3000 + version * 37 % 4000;
}

static size_t make_value(const struct world *w, unsigned key, unsigned version)
{
    size_t size = size_of(w, version);
    int n = snprintf(value_buffer, sizeof value_buffer, "key %u version %u size %zu ", key, version,
                     size);
    memset(value_buffer + n, 'a' + (int)(version % 26), size - (size_t)n);
    return size;
}

/* Fails if it is not whole. */
static unsigned version_of(unsigned key, const void *value, size_t size)
{
    unsigned k = 0, v = 0;
    size_t told = 0;
    char head[64] = "";
    memcpy(head, value, size < sizeof head ? size : sizeof head - 1);
    if (sscanf(head, "key %u version %u size %zu ", &k, &v, &told) != 3 || k != key || told != size)
        fail_msg("key %u has a value that is not its own", key);
    int n = snprintf(head, sizeof head, "key %u version %u size %zu ", k, v, told);
    const char *rest = (const char *)value + n;
    for (size_t i = 0; i < size - (size_t)n; i++) {
        if (rest[i] != 'a' + (int)(v % 26))
            fail_msg("key %u version %u is not what was put", key, v);
    }
    return v;
}

static size_t make_key(char name[16], unsigned key)
{
    return (size_t)snprintf(name, 16, "key%u", key);
}

static unsigned key_of(const void *name, size_t size)
{
    char text[16] = "";
    unsigned key = WORLD_KEYS;
    memcpy(text, name, size < sizeof text ? size : sizeof text - 1);
    if (sscanf(text, "key%u", &key) != 1 || key >= WORLD_KEYS)
        fail_msg("a key that nobody has put");
    return key;
}

/* --- the model --------------------------------------------------------------------- */

static void set_known(struct world *w, unsigned key, unsigned version)
{
    w->model.keys[key].known = version;
    w->model.keys[key].maybes = 0;
}

static void set_maybe(struct world *w, unsigned key, unsigned version)
{
    struct world_key *k = &w->model.keys[key];
    if (k->maybes < WORLD_MAYBE)
        k->maybe[k->maybes++] = version;
}

static bool allows(const struct world_model *model, unsigned key, unsigned version)
{
    const struct world_key *k = &model->keys[key];
    bool allowed = k->known == version;
    for (unsigned i = 0; i < k->maybes; i++)
        allowed |= k->maybe[i] == version;
    return allowed;
}

static bool is_known(const struct world_model *model, unsigned key, unsigned version)
{
    return model->keys[key].maybes == 0 && model->keys[key].known == version;
}

static void expect(const struct world_model *model, unsigned key, unsigned version,
                   const char *call)
{
    if (!allows(model, key, version))
        fail_msg("%s: key %u has version %u, and should have %u%s", call, key, version,
                 model->keys[key].known, model->keys[key].maybes > 0 ? " or another" : "");
}

/* A write to `version` ended so. One that waits for its sync is in the log already
 * when there is no descriptor to make it with. */
static void settle(struct world *w, unsigned key, unsigned version, bitkv_durability durability,
                   int rc)
{
    if (rc == BITKV_OK || rc == BITKV_NOT_FOUND)
        set_known(w, key, version);
    else if (rc == BITKV_ERR_SYNC_FAILED ||
             (rc == BITKV_ERR_TOO_MANY_FILES && durability == BITKV_DURABILITY_SYNC))
        set_maybe(w, key, version);
}

static bool excused(const struct world *w, int rc)
{
    switch (rc) {
    case BITKV_ERR_NO_MEMORY:
        return true;
    case BITKV_ERR_IO:
        return !w->memory_only || w->follows;
    case BITKV_ERR_NO_SPACE:
    case BITKV_ERR_TOO_MANY_FILES:
    case BITKV_ERR_PERMISSION:
        return !w->memory_only;
    case BITKV_ERR_LOCKED:
        return w->may_be_locked;
    case BITKV_ERR_INVALID:
        return w->may_be_invalid;
    case BITKV_ERR_SYNC_FAILED:
        return !w->no_sync_fails && !w->memory_only;
    default:
        return false;
    }
}

void world_note(struct world *w, int rc, const char *text, const char *call)
{
    if (text == NULL)
        text = bitkv_error_context();
    if (!excused(w, rc) || text[0] == '\0')
        fail_msg("%s: %s (%d), context '%s'", call, bitkv_error_name(rc), rc, text);
    w->failures++;
}

/* --- opening ------------------------------------------------------------------------- */

static void options_of(const struct world *w, bitkv_options *options)
{
    bitkv_options_init(options);
    options->partitions = w->partitions;
    options->max_file_size = 64u << 10;
    options->io_mode = w->mode;
    options->backend = w->backend;
    options->io_threads = 2;
    options->ring_depth = 4;
    options->max_open_segments = 2 + w->partitions;
    options->checkpoint_interval_bytes = 100000;
    options->auto_compact = !w->by_hand;
}

bitkv *world_open(struct world *w, bool read_only)
{
    bitkv_options options;
    options_of(w, &options);
    options.read_only = read_only;
    bitkv *db;
    int rc = bitkv_open(&db, w->path, &options);
    if (rc == BITKV_OK)
        return db;
    assert_null(db);
    world_note(w, rc, NULL, "open");
    return NULL;
}

void world_close(struct world *w, bitkv *db)
{
    int rc = db != NULL ? bitkv_close(db) : BITKV_OK;
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "close");
}

/* --- writing ------------------------------------------------------------------------------ */

void world_put(struct world *w, bitkv *db, unsigned key, bitkv_durability durability)
{
    char name[16];
    size_t name_size = make_key(name, key);
    unsigned version = ++w->model.next_version;
    size_t size = make_value(w, key, version);
    int rc = bitkv_put_with(db, name, name_size, value_buffer, size, durability);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "put");
    settle(w, key, version, durability, rc);
}

void world_del(struct world *w, bitkv *db, unsigned key, bitkv_durability durability)
{
    char name[16];
    size_t name_size = make_key(name, key);
    int rc = bitkv_del_with(db, name, name_size, durability);
    if (rc < 0)
        world_note(w, rc, NULL, "del");
    if (rc == BITKV_NOT_FOUND)
        expect(&w->model, key, ABSENT, "del");
    settle(w, key, ABSENT, durability, rc);
}

static int answer_update(void *user, bitkv_update_step *step)
{
    size_t *size = user;
    step->new_value = value_buffer;
    step->new_value_size = *size;
    return BITKV_UPDATE_PUT;
}

void world_condition(struct world *w, bitkv *db, unsigned key)
{
    char name[16];
    size_t name_size = make_key(name, key);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    int rc = bitkv_info(db, name, name_size, &info);
    if (rc < 0)
        world_note(w, rc, NULL, "info");
    if (rc == BITKV_NOT_FOUND)
        expect(&w->model, key, ABSENT, "info");
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.condition = rc == BITKV_OK ? BITKV_IF_VERSION : BITKV_IF_ABSENT;
    options.version = info.version;
    options.ttl_ms = 1000000000;
    unsigned version = ++w->model.next_version;
    size_t size = make_value(w, key, version);
    int put = bitkv_put_if(db, name, name_size, value_buffer, size, &options, &info.version);
    if (put == BITKV_ERR_CONFLICT && rc >= 0 && w->model.keys[key].maybes == 0)
        fail_msg("key %u: a conflict with nobody", key);
    if (put != BITKV_OK && put != BITKV_ERR_CONFLICT)
        world_note(w, put, NULL, "put_if");
    settle(w, key, version, BITKV_DURABILITY_DEFAULT, put);

    version = ++w->model.next_version;
    size = make_value(w, key, version);
    rc = bitkv_update(db, name, name_size, answer_update, &size, BITKV_DURABILITY_SYNC);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "update");
    settle(w, key, version, BITKV_DURABILITY_SYNC, rc);

    rc = bitkv_touch(db, name, name_size, 2000000000);
    if (rc == BITKV_NOT_FOUND)
        expect(&w->model, key, ABSENT, "touch");
    else if (rc != BITKV_OK)
        world_note(w, rc, NULL, "touch");
    int64_t sum = 0;
    rc = bitkv_add(db, "counter", 7, 1, &sum);
    if (rc == BITKV_OK)
        rc = bitkv_del_if(db, "counter", 7, 1, BITKV_DURABILITY_NONE); /* not its version */
    if (rc != BITKV_ERR_CONFLICT)
        world_note(w, rc, NULL, "add, del_if");
    rc = bitkv_del(db, "counter", 7);
    if (rc < 0)
        world_note(w, rc, NULL, "del");
}

void world_sync(struct world *w, bitkv *db)
{
    int rc = bitkv_sync(db);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "sync");
}

void world_compact(struct world *w, bitkv *db)
{
    int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "compact");
}

void world_batch(struct world *w, bitkv *db, unsigned first, bitkv_durability durability)
{
    bitkv_batch *batch;
    unsigned versions[WORLD_KEYS];
    int rc = bitkv_batch_create(&batch);
    for (unsigned key = first; key < WORLD_KEYS && rc == BITKV_OK; key += 2) {
        char name[16];
        size_t name_size = make_key(name, key);
        versions[key] = key % 5 == 0 ? ABSENT : BATCHES + ++w->model.next_version;
        rc = versions[key] == ABSENT ? bitkv_batch_del(batch, name, name_size)
                                     : bitkv_batch_put(batch, name, name_size, value_buffer,
                                                       make_value(w, key, versions[key]));
    }
    bool whole = rc == BITKV_OK;
    if (whole)
        rc = bitkv_write(db, batch, durability);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, whole ? "write" : "batch");
    for (unsigned key = first; key < WORLD_KEYS && whole; key += 2)
        settle(w, key, versions[key], durability, rc);
    bitkv_batch_destroy(batch);
}

/* --- reading ------------------------------------------------------------------------------- */

/* What a get of the model's database gave; `value` is not given back. */
static void take_answer(struct world *w, const struct world_model *model, unsigned key, int rc,
                        const void *value, size_t size, const char *call)
{
    if (rc < 0)
        world_note(w, rc, NULL, call);
    else
        expect(model, key, rc == BITKV_OK ? version_of(key, value, size) : ABSENT, call);
}

static void get_from(struct world *w, const struct world_model *model, bitkv *db, unsigned key,
                     const char *call)
{
    char name[16];
    size_t name_size = make_key(name, key);
    void *value;
    size_t size = 0;
    int rc = bitkv_get(db, name, name_size, &value, &size);
    take_answer(w, model, key, rc, value, size, call);
    bitkv_free(value);
}

void world_get(struct world *w, bitkv *db, unsigned key)
{
    get_from(w, &w->model, db, key, "get");
}

static void multi_get(struct world *w, bitkv *db)
{
    static char names[WORLD_KEYS][16];
    bitkv_get_item items[WORLD_KEYS];
    memset(items, 0, sizeof items);
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        items[key].key = names[key];
        items[key].key_size = make_key(names[key], key);
    }
    int rc = bitkv_multi_get(db, items, WORLD_KEYS);
    if (rc < 0)
        world_note(w, rc, NULL, "multi_get");
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        if (items[key].status >= 0)
            take_answer(w, &w->model, key, items[key].status, items[key].value,
                        items[key].value_size, "multi_get");
        bitkv_free(items[key].value);
    }
}

void world_read(struct world *w, bitkv *db)
{
    static char buffer[VALUE_MAX];
    multi_get(w, db);
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        char name[16];
        size_t name_size = make_key(name, key), size = 0;
        bitkv_view view;
        int rc = bitkv_exists(db, name, name_size);
        if (rc < 0)
            world_note(w, rc, NULL, "exists");
        else if (w->model.keys[key].maybes == 0 &&
                 (rc == BITKV_OK) != (w->model.keys[key].known != ABSENT))
            fail_msg("exists: key %u: %s", key, bitkv_error_name(rc));
        if (key % 2 == 0) {
            rc = bitkv_get_into(db, name, name_size, buffer, sizeof buffer, &size);
            take_answer(w, &w->model, key, rc, buffer, size, "get_into");
        } else {
            rc = bitkv_get_view(db, name, name_size, &view);
            take_answer(w, &w->model, key, rc, view.data, view.size, "get_view");
            bitkv_view_release(&view);
        }
    }
}

struct walk {
    const struct world_model *model;
    bool seen[WORLD_KEYS];
};

static int on_record(void *user, const bitkv_record *record)
{
    struct walk *walk = user;
    if (record->key_size == 7 && memcmp(record->key, "counter", 7) == 0)
        return 0;
    unsigned key = key_of(record->key, record->key_size);
    assert_false(walk->seen[key]);
    walk->seen[key] = true;
    expect(walk->model, key, version_of(key, record->value, record->value_size), "scan");
    return 0;
}

static void end_walk(const struct walk *walk)
{
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        if (!walk->seen[key])
            expect(walk->model, key, ABSENT, "scan");
    }
}

void world_scan(struct world *w, bitkv *db)
{
    struct walk walk = {.model = &w->model};
    int rc = bitkv_scan(db, BITKV_SCAN_ALL, on_record, &walk);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "scan");
    else
        end_walk(&walk);
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_OK);
}

/* --- snapshots -------------------------------------------------------------------------------- */

static void walk_snapshot(struct world *w, const struct world_model *model,
                          bitkv_snapshot *snapshot)
{
    bitkv_iterator *iterator;
    bitkv_record record;
    struct walk walk = {.model = model};
    int rc = bitkv_iterator_create(&iterator, snapshot, NULL);
    for (unsigned tries = 0; iterator != NULL && tries < 3;) {
        rc = bitkv_iterator_next(iterator, &record);
        if (rc == BITKV_OK)
            (void)on_record(&walk, &record);
        else if (rc != BITKV_ERR_NO_MEMORY) /* that may be called again */
            break;
        tries += rc != BITKV_OK;
    }
    if (rc == BITKV_NOT_FOUND)
        end_walk(&walk);
    else
        world_note(w, rc, NULL, "iterator");
    assert_int_equal(bitkv_iterator_destroy(iterator), BITKV_OK);
}

void world_snapshot(struct world *w, bitkv *db)
{
    bitkv_snapshot *snapshot;
    struct world_model then = w->model;
    int rc = bitkv_snapshot_create(&snapshot, db);
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "snapshot");
    for (unsigned key = 0; key < WORLD_KEYS; key += 2)
        world_put(w, db, key, BITKV_DURABILITY_NONE);
    for (unsigned key = 0; key < WORLD_KEYS; key += 6)
        world_del(w, db, key, BITKV_DURABILITY_NONE);
    world_compact(w, db);
    for (unsigned key = 0; snapshot != NULL && key < WORLD_KEYS; key++) {
        char name[16];
        void *value;
        size_t size = 0;
        size_t name_size = make_key(name, key);
        rc = bitkv_snapshot_get(snapshot, name, name_size, &value, &size);
        take_answer(w, &then, key, rc, value, size, "snapshot_get");
        bitkv_free(value);
    }
    if (snapshot != NULL)
        walk_snapshot(w, &then, snapshot);
    assert_int_equal(bitkv_snapshot_destroy(snapshot), BITKV_OK);
}

/* --- queues -------------------------------------------------------------------------------------
 */

enum { QUEUE_GETS = 2 * WORLD_KEYS, QUEUE_OPS = QUEUE_GETS + WORLD_KEYS + 1 };

struct queued {
    bitkv_op ops[QUEUE_OPS];
    bitkv_completion done[QUEUE_OPS];
    unsigned versions[QUEUE_OPS];
    char names[WORLD_KEYS][16];
    char buffers[WORLD_KEYS][VALUE_MAX];
};

static void make_ops(struct queued *q)
{
    memset(q->ops, 0, sizeof q->ops);
    memset(q->done, 0, sizeof q->done);
    for (unsigned i = 0; i < QUEUE_OPS - 1; i++) {
        unsigned key = i % WORLD_KEYS;
        bitkv_op *op = &q->ops[i];
        op->key = q->names[key];
        op->key_size = make_key(q->names[key], key);
        op->kind = BITKV_OP_GET;
        if (i < WORLD_KEYS) { /* one into a buffer, one in memory of its own or a view */
            op->buffer = q->buffers[key];
            op->buffer_size = VALUE_MAX;
        } else if (i < QUEUE_GETS) {
            op->flags = key % 3 == 0 ? BITKV_OP_VIEW | BITKV_OP_COPY : BITKV_OP_COPY;
        } else {
            op->kind = key % 4 == 1 ? BITKV_OP_DEL : BITKV_OP_PUT;
            op->durability = key % 2 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE;
        }
    }
    q->ops[QUEUE_OPS - 1].kind = BITKV_OP_SYNC;
}

/* All or, if the queue fails as a whole, none. */
static bool submit(struct world *w, bitkv_cq *cq, struct queued *q, uint64_t *first)
{
    static const char *const nothing = "";
    *first = 0;
    int rc = bitkv_cq_submit(cq, q->ops, QUEUE_GETS, first);
    if (rc < 0) {
        world_note(w, rc, NULL, "submit");
        return false;
    }
    assert_int_equal(rc, QUEUE_GETS);
    for (unsigned i = QUEUE_GETS; i < QUEUE_OPS; i++) { /* each value is made in one buffer */
        bitkv_op op = q->ops[i];
        unsigned key = i % WORLD_KEYS;
        if (op.kind == BITKV_OP_PUT) {
            q->versions[i] = ++w->model.next_version;
            op.value = value_buffer;
            op.value_size = make_value(w, key, q->versions[i]);
            op.flags = BITKV_OP_COPY;
        } else {
            q->versions[i] = ABSENT;
        }
        rc = bitkv_cq_submit(cq, &op, 1, NULL);
        if (rc < 0) {
            world_note(w, rc, NULL, "submit");
            q->done[i].id = UINT64_MAX;
            q->done[i].status = rc;
            q->done[i].error = nothing;
        }
    }
    return true;
}

static void reap(bitkv_cq *cq, struct queued *q, uint64_t first)
{
    uint64_t ids[QUEUE_OPS];
    for (unsigned i = 0, n = 0; i < QUEUE_OPS; i++)
        ids[i] = q->done[i].id == UINT64_MAX ? 0 : first + n++;
    while (bitkv_cq_pending(cq) > 0) {
        bitkv_completion c;
        if (bitkv_cq_wait(cq, &c, 1, PATIENCE_MS) != 1)
            fail_msg("an operation does not complete");
        unsigned i = 0;
        while (i < QUEUE_OPS && ids[i] != c.id)
            i++;
        assert_true(i < QUEUE_OPS && q->done[i].id == 0); /* never twice */
        q->done[i] = c;
        if (c.status < 0 && c.error[0] == '\0')
            fail_msg("operation %u: %s without a message", i, bitkv_error_name(c.status));
    }
    for (unsigned i = 0; i < QUEUE_OPS; i++)
        assert_int_not_equal(q->done[i].id, 0);
}

/* Gets find what was there when they were submitted, before the writes. */
static void take_completions(struct world *w, struct queued *q)
{
    for (unsigned i = 0; i < QUEUE_OPS - 1; i++) {
        bitkv_completion *c = &q->done[i];
        unsigned key = i % WORLD_KEYS;
        if (i < QUEUE_GETS && c->status >= 0) {
            bool view = (q->ops[i].flags & BITKV_OP_VIEW) != 0;
            take_answer(w, &w->model, key, c->status, view ? c->view.data : c->value,
                        view ? c->view.size : c->value_size, "queued get");
        } else if (c->status < 0 && c->id != UINT64_MAX) {
            world_note(w, c->status, "told", "operation");
        }
        if (c->status == BITKV_OK && i >= WORLD_KEYS && i < QUEUE_GETS && c->view.data == NULL)
            bitkv_free(c->value);
        bitkv_view_release(&c->view);
    }
    for (unsigned i = QUEUE_GETS; i < QUEUE_OPS - 1; i++)
        settle(w, i % WORLD_KEYS, q->versions[i], q->ops[i].durability, q->done[i].status);
    int rc = q->done[QUEUE_OPS - 1].status;
    if (rc != BITKV_OK && q->done[QUEUE_OPS - 1].id != UINT64_MAX)
        world_note(w, rc, "told", "queued sync");
}

void world_queue(struct world *w, bitkv *db)
{
    static struct queued q;
    bitkv_cq *cq;
    uint64_t first;
    int rc = bitkv_cq_create(&cq, db, NULL);
    if (rc != BITKV_OK) {
        world_note(w, rc, NULL, "cq_create");
        assert_null(cq);
        return;
    }
    make_ops(&q);
    if (submit(w, cq, &q, &first)) {
        reap(cq, &q, first);
        take_completions(w, &q);
    }
    assert_int_equal(bitkv_cq_pending(cq), 0);
    assert_int_equal(bitkv_cq_destroy(cq), BITKV_OK);
}

/* --- backups, partitions, followers, feeds
 * ---------------------------------------------------------- */

void world_backup(struct world *w, bitkv *db)
{
    w->backups[1] = w->model;
    int rc = bitkv_backup(db, w->target, NULL);
    if (rc == BITKV_OK) {
        w->backups[0] = w->model;
        w->has_backup = 1;
    } else {
        world_note(w, rc, NULL, "backup");
        w->has_backup = w->has_backup == 0 ? 3 : 2;
    }
}

void world_repartition(struct world *w, unsigned partitions)
{
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    options.max_file_size = 64u << 10;
    options.io_mode = w->mode;
    int rc = bitkv_repartition(w->path, partitions, &options);
    w->partitions = rc == BITKV_OK ? partitions : 0; /* one of both */
    if (rc != BITKV_OK)
        world_note(w, rc, NULL, "repartition");
}

void world_follow(struct world *w, bitkv *follower, const struct world_model *refreshed)
{
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        char name[16];
        size_t name_size = make_key(name, key);
        void *value;
        size_t size = 0;
        int rc = bitkv_get(follower, name, name_size, &value, &size);
        unsigned version = rc == BITKV_OK ? version_of(key, value, size) : ABSENT;
        if (rc < 0)
            world_note(w, rc, NULL, "follower's get");
        else if (!allows(refreshed, key, version))
            expect(&w->model, key, version, "follower's get");
        bitkv_free(value);
    }
}

void world_feed(struct world *w, bitkv *db)
{
    bitkv_feed *feed;
    bitkv_change change;
    unsigned last[WORLD_KEYS] = {ABSENT};
    uint64_t versions[64] = {0};
    int rc = bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST);
    if (rc != BITKV_OK) {
        world_note(w, rc, NULL, "feed_open");
        return;
    }
    for (unsigned tries = 0; tries < 3;) {
        rc = bitkv_feed_next(feed, &change);
        if (rc == BITKV_NOT_FOUND)
            break;
        if (rc != BITKV_OK) { /* the next call tries again */
            world_note(w, rc, NULL, "feed_next");
            tries++;
            continue;
        }
        unsigned key = key_of(change.key, change.key_size);
        assert_true(change.version > versions[change.partition]); /* in order, none twice */
        versions[change.partition] = change.version;
        last[key] = change.kind == BITKV_CHANGE_PUT
                        ? version_of(key, change.value, change.value_size)
                        : ABSENT;
    }
    for (unsigned key = 0; rc == BITKV_NOT_FOUND && key < WORLD_KEYS; key++)
        expect(&w->model, key, last[key], "feed");
    assert_int_equal(bitkv_feed_close(feed), BITKV_OK);
}

/* --- afterwards ----------------------------------------------------------------------------------
 */

bool world_holds(bitkv *db, const struct world_model *model)
{
    for (unsigned key = 0; key < WORLD_KEYS; key++) {
        char name[16];
        size_t name_size = make_key(name, key);
        void *value;
        size_t size = 0;
        int rc = bitkv_get(db, name, name_size, &value, &size);
        if (rc < 0)
            fail_msg("get key %u: %s: %s", key, bitkv_error_name(rc), bitkv_error_context());
        bool allowed = allows(model, key, rc == BITKV_OK ? version_of(key, value, size) : ABSENT);
        bitkv_free(value);
        if (!allowed)
            return false;
    }
    return true;
}

static void check_backup(struct world *w)
{
    bool there = lab_exists(w->target);
    if (!there) {
        assert_true(w->has_backup == 0 || w->has_backup == 3);
        return;
    }
    assert_int_not_equal(w->has_backup, 0);
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = options.strict_recovery = true;
    bitkv *db;
    int rc = bitkv_open(&db, w->target, &options);
    if (rc != BITKV_OK)
        fail_msg("open the backup: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    bool first = w->has_backup != 3 && world_holds(db, &w->backups[0]);
    bool second = w->has_backup != 1 && world_holds(db, &w->backups[1]);
    if (!first && !second)
        fail_msg("the backup is neither the earlier nor the new one");
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

void world_check(struct world *w)
{
    unsigned failures = w->failures;
    check_backup(w);
    bitkv *db = world_open(w, false);
    if (db == NULL)
        fail_msg("open without faults: %s", bitkv_error_context());
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s), BITKV_OK);
    if (s.recovery.damaged_regions != 0)
        fail_msg("damage was found where there is none");
    for (unsigned key = 0; key < WORLD_KEYS; key++)
        world_get(w, db, key);
    world_scan(w, db);
    for (unsigned key = 0; key < 3; key++)
        world_put(w, db, key, key == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE);
    world_get(w, db, 0);
    assert_true(is_known(&w->model, 0, w->model.next_version - 2));
    world_close(w, db);
    if (w->failures != failures)
        fail_msg("a call failed without a fault: %s", bitkv_error_context());
}
