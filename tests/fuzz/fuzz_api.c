/* SPDX-License-Identifier: MIT */
/*
 * Calls on a small database, against a plain array. First byte: 1 BITKV_IO_PWRITE,
 * 2 one partition in place of two. Then one byte for each operation, and what it
 * needs.
 *
 * Times to live and the passing of time are in whole minutes and a half, so that
 * the time that a run takes decides nothing.
 */
#include "fuzz/fuzz.h"

#include "base/clock.h"
#include "damage/lab.h"

#include <bitkv.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS       12u
#define VALUE_MAX  (70u << 10) /* more than a segment */
#define OPERATIONS 200u
#define SNAPSHOTS  2u
#define MINUTE_MS  60000u

struct entry {
    bool present;
    uint32_t number; /* of the operation that put it: what the value is made of */
    size_t size;
    uint64_t version;
    uint64_t deadline_ms; /* by the model's clock; UINT64_MAX: never */
};

struct world {
    struct fuzz_input in;
    const char *path;
    bitkv *db;
    bitkv_io_mode io_mode;
    uint32_t partitions;
    uint32_t number; /* of the operation */
    uint64_t now_ms; /* what the run has let pass */
    struct entry model[KEYS];
    bitkv_snapshot *snapshots[SNAPSHOTS];
    struct entry moments[SNAPSHOTS][KEYS];
};

static uint8_t expected[VALUE_MAX], got[VALUE_MAX];

#define OK(call)                                                                                   \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        FUZZ_CHECK(rc_ == BITKV_OK, "operation %u: %s: %s", w->number, bitkv_error_name(rc_),      \
                   bitkv_error_context());                                                         \
    } while (0)
#define GIVES(call, code)                                                                          \
    do {                                                                                           \
        int rc_ = (call);                                                                          \
        FUZZ_CHECK(rc_ == (code), "operation %u: %s, not %s", w->number, bitkv_error_name(rc_),    \
                   bitkv_error_name(code));                                                        \
    } while (0)

static size_t key_of(unsigned n, char key[300])
{
    int size = snprintf(key, 300, "key-%u", n);
    if (n % 5 == 4) { /* one that is longer than a cache line, or a small buffer */
        memset(key + size, 'k', 280);
        size += 280;
    }
    return (size_t)size;
}

static const uint8_t *make_value(uint32_t number, size_t size)
{
    uint64_t state = number;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = lab_random(&state);
        memcpy(expected + i, &word, size - i < 8 ? size - i : 8);
    }
    return expected;
}

static bool is_there(const struct world *w, const struct entry *entry)
{
    return entry->present && entry->deadline_ms > w->now_ms;
}

static void check_value(const struct world *w, const struct entry *entry, const void *value,
                        size_t size)
{
    FUZZ_CHECK(size == entry->size, "operation %u: %zu bytes, not %zu", w->number, size,
               entry->size);
    FUZZ_CHECK(size == 0 || memcmp(value, make_value(entry->number, size), size) == 0,
               "operation %u: not the value of operation %u", w->number, entry->number);
}

static unsigned take_key(struct world *w)
{
    return fuzz_u8(&w->in) % KEYS;
}

static size_t take_size(struct world *w)
{
    uint8_t kind = fuzz_u8(&w->in);
    if (kind < 0xc0)
        return kind;
    return kind < 0xf8 ? (size_t)fuzz_u16(&w->in) % 8192 : (size_t)fuzz_u16(&w->in) + 4000;
}

/* Half the keys have none. */
static uint64_t take_ttl(struct world *w)
{
    uint8_t minutes = fuzz_u8(&w->in);
    return minutes < 128 ? BITKV_TTL_NONE : (minutes % 8u) * MINUTE_MS + MINUTE_MS / 2;
}

static void note_put(struct world *w, unsigned n, size_t size, uint64_t ttl_ms, uint64_t version)
{
    FUZZ_CHECK(version == 0 || !w->model[n].present || version > w->model[n].version,
               "operation %u: version %" PRIu64, w->number, version);
    w->model[n] = (struct entry){
        .present = true,
        .number = w->number,
        .size = size,
        .version = version != 0 ? version : w->model[n].version,
        .deadline_ms = ttl_ms == BITKV_TTL_NONE ? UINT64_MAX : w->now_ms + ttl_ms,
    };
}

/* --- operations --------------------------------------------------------------------- */

static void open_it(struct world *w)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = w->partitions;
    options.io_mode = w->io_mode;
    options.auto_compact = false;
    options.max_file_size = 64u << 10;
    OK(bitkv_open(&w->db, w->path, &options));
}

static void put(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    size_t size = take_size(w);
    OK(bitkv_put(w->db, key, key_size, make_value(w->number, size), size));
    note_put(w, n, size, BITKV_TTL_NONE, 0);
}

static void put_if(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    size_t size = take_size(w);
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.condition = (bitkv_condition)(fuzz_u8(&w->in) % 3);
    options.ttl_ms = take_ttl(w);
    bool there = is_there(w, &w->model[n]);
    int code = BITKV_OK;
    if (options.condition == BITKV_IF_ABSENT && there)
        code = BITKV_ERR_CONFLICT;
    if (options.condition == BITKV_IF_PRESENT && !there)
        code = BITKV_NOT_FOUND;
    uint64_t version = 0;
    GIVES(bitkv_put_if(w->db, key, key_size, make_value(w->number, size), size, &options, &version),
          code);
    if (code == BITKV_OK)
        note_put(w, n, size, options.ttl_ms, version);
}

static void del(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    GIVES(bitkv_del(w->db, key, key_size), is_there(w, &w->model[n]) ? BITKV_OK : BITKV_NOT_FOUND);
    w->model[n].present = false;
}

static void touch(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    uint64_t ttl_ms = take_ttl(w);
    bool there = is_there(w, &w->model[n]);
    GIVES(bitkv_touch(w->db, key, key_size, ttl_ms), there ? BITKV_OK : BITKV_NOT_FOUND);
    if (there)
        w->model[n].deadline_ms = ttl_ms == BITKV_TTL_NONE ? UINT64_MAX : w->now_ms + ttl_ms;
}

static void write_batch(struct world *w)
{
    char key[300];
    bitkv_batch *batch;
    OK(bitkv_batch_create(&batch));
    unsigned entries = fuzz_u8(&w->in) % 8;
    struct entry before[KEYS];
    memcpy(before, w->model, sizeof before);
    for (unsigned i = 0; i < entries; i++) {
        unsigned n = take_key(w);
        size_t key_size = key_of(n, key);
        if (fuzz_u8(&w->in) % 3 == 0) {
            OK(bitkv_batch_del(batch, key, key_size));
            w->model[n].present = false;
            continue;
        }
        size_t size = take_size(w) % 9000;
        uint64_t ttl_ms = take_ttl(w);
        OK(bitkv_batch_put_ttl(batch, key, key_size, make_value(w->number, size), size, ttl_ms));
        note_put(w, n, size, ttl_ms, 0);
    }
    int rc = bitkv_write(w->db, batch, BITKV_DURABILITY_DEFAULT);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_LIMIT, "write: %s", bitkv_error_name(rc));
    if (rc != BITKV_OK)
        memcpy(w->model, before, sizeof before);
    bitkv_batch_destroy(batch);
}

static void get(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    const struct entry *entry = &w->model[n];
    bool there = is_there(w, entry);
    int code = there ? BITKV_OK : BITKV_NOT_FOUND;
    GIVES(bitkv_exists(w->db, key, key_size), code);
    void *value;
    size_t size = 0;
    GIVES(bitkv_get(w->db, key, key_size, &value, &size), code);
    if (there)
        check_value(w, entry, value, size);
    bitkv_free(value);
    bitkv_view view;
    GIVES(bitkv_get_view(w->db, key, key_size, &view), code);
    if (there)
        check_value(w, entry, view.data, view.size);
    bitkv_view_release(&view);
    size_t room = fuzz_u16(&w->in);
    GIVES(bitkv_get_into(w->db, key, key_size, got, room, &size),
          there && room < entry->size ? BITKV_ERR_BUFFER_TOO_SMALL : code);
    if (there)
        FUZZ_CHECK(size == entry->size, "%zu bytes", size);
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    GIVES(bitkv_info(w->db, key, key_size, &info), code);
    if (there)
        FUZZ_CHECK((info.remaining_ms == UINT64_MAX) == (entry->deadline_ms == UINT64_MAX) &&
                       info.value_size == entry->size,
                   "operation %u: info", w->number);
}

struct walk {
    const struct world *w;
    const struct entry *entries;
    bool seen[KEYS];
};

static int on_record(void *user, const bitkv_record *record)
{
    struct walk *walk = user;
    unsigned n = KEYS;
    char text[16] = "";
    memcpy(text, record->key, record->key_size < 15 ? record->key_size : 15);
    FUZZ_CHECK(sscanf(text, "key-%u", &n) == 1 && n < KEYS && !walk->seen[n], "%s", text);
    FUZZ_CHECK(is_there(walk->w, &walk->entries[n]), "operation %u: %s", walk->w->number, text);
    walk->seen[n] = true;
    check_value(walk->w, &walk->entries[n], record->value, record->value_size);
    return 0;
}

static void check_seen(const struct walk *walk)
{
    for (unsigned n = 0; n < KEYS; n++)
        FUZZ_CHECK(walk->seen[n] == is_there(walk->w, &walk->entries[n]),
                   "operation %u: key %u was not shown", walk->w->number, n);
}

static void scan(struct world *w)
{
    struct walk walk = {.w = w, .entries = w->model};
    OK(bitkv_scan(w->db, BITKV_SCAN_ALL, on_record, &walk));
    check_seen(&walk);
}

static void snapshot(struct world *w)
{
    unsigned s = fuzz_u8(&w->in) % SNAPSHOTS;
    if (w->snapshots[s] == NULL) {
        OK(bitkv_snapshot_create(&w->snapshots[s], w->db));
        memcpy(w->moments[s], w->model, sizeof w->moments[s]);
        return;
    }
    struct walk walk = {.w = w, .entries = w->moments[s]};
    OK(bitkv_snapshot_scan(w->snapshots[s], BITKV_SCAN_ALL, on_record, &walk));
    check_seen(&walk);
    if (fuzz_u8(&w->in) % 2 == 0) {
        OK(bitkv_snapshot_destroy(w->snapshots[s]));
        w->snapshots[s] = NULL;
    }
}

static void close_it(struct world *w)
{
    for (unsigned s = 0; s < SNAPSHOTS; s++) {
        OK(bitkv_snapshot_destroy(w->snapshots[s]));
        w->snapshots[s] = NULL;
    }
    OK(bitkv_close(w->db));
}

static void reopen(struct world *w)
{
    close_it(w);
    w->io_mode = fuzz_u8(&w->in) % 2 == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    open_it(w);
}

static void pass_time(struct world *w)
{
    uint64_t ms = (uint64_t)(fuzz_u8(&w->in) % 8u) * MINUTE_MS;
    bkv_clock_elapse(ms);
    w->now_ms += ms;
}

static void compact(struct world *w)
{
    uint8_t which = fuzz_u8(&w->in);
    OK(bitkv_compact(w->db, which % 3 < w->partitions ? which % 3 : BITKV_ALL_PARTITIONS, NULL,
                     NULL));
}

static void sync_it(struct world *w)
{
    OK(bitkv_sync(w->db));
}

/* --- by version, and by a callback ---------------------------------------------------- */

/* The key's version, or another; what a condition on it gives. */
static uint64_t take_version(struct world *w, unsigned n, int *code)
{
    char key[300];
    size_t key_size = key_of(n, key);
    bool there = is_there(w, &w->model[n]);
    bool right = fuzz_u8(&w->in) % 4 != 0;
    bitkv_key_info info = {.version = 0};
    bitkv_key_info_init(&info);
    GIVES(bitkv_info(w->db, key, key_size, &info), there ? BITKV_OK : BITKV_NOT_FOUND);
    *code = BITKV_NOT_FOUND;
    if (there)
        *code = right ? BITKV_OK : BITKV_ERR_CONFLICT;
    return there && right ? info.version : info.version + 1;
}

static void put_if_version(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    int code;
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.condition = BITKV_IF_VERSION;
    options.version = take_version(w, n, &code);
    options.ttl_ms = take_ttl(w);
    size_t size = take_size(w);
    uint64_t version = 0;
    GIVES(bitkv_put_if(w->db, key, key_size, make_value(w->number, size), size, &options, &version),
          code);
    if (code == BITKV_OK)
        note_put(w, n, size, options.ttl_ms, version);
}

static void del_if(struct world *w)
{
    char key[300];
    unsigned n = take_key(w);
    size_t key_size = key_of(n, key);
    int code;
    uint64_t version = take_version(w, n, &code);
    GIVES(bitkv_del_if(w->db, key, key_size, version, BITKV_DURABILITY_DEFAULT), code);
    if (code == BITKV_OK)
        w->model[n].present = false;
}

struct change {
    struct world *w;
    unsigned n;
    bitkv_update_action action;
    size_t size;
};

static int on_update(void *user, bitkv_update_step *step)
{
    const struct change *change = user;
    struct world *w = change->w;
    const struct entry *entry = &w->model[change->n];
    FUZZ_CHECK(step->present == is_there(w, entry), "operation %u: is it there?", w->number);
    if (step->present)
        check_value(w, entry, step->value, step->value_size);
    step->new_value = make_value(w->number, change->size);
    step->new_value_size = change->size;
    return (int)change->action;
}

static void update(struct world *w)
{
    char key[300];
    struct change change = {.w = w, .n = take_key(w)};
    size_t key_size = key_of(change.n, key);
    change.action = (bitkv_update_action)(fuzz_u8(&w->in) % 3);
    change.size = take_size(w);
    struct entry *entry = &w->model[change.n];
    bool there = is_there(w, entry);
    int code = change.action == BITKV_UPDATE_DELETE && !there ? BITKV_NOT_FOUND : BITKV_OK;
    GIVES(bitkv_update(w->db, key, key_size, on_update, &change, BITKV_DURABILITY_DEFAULT), code);
    uint64_t deadline_ms = there ? entry->deadline_ms : UINT64_MAX;
    if (change.action == BITKV_UPDATE_DELETE)
        entry->present = false;
    if (change.action == BITKV_UPDATE_PUT) {
        note_put(w, change.n, change.size, BITKV_TTL_NONE, 0);
        entry->deadline_ms = deadline_ms; /* which it keeps */
    }
}

/* --- queues ---------------------------------------------------------------------------- */

#define QUEUED_MAX 8u

struct queued {
    char key[300];
    uint8_t *value;
    struct entry found; /* of a get: what it has to find */
    int code;
};

static void queue_one(struct world *w, bitkv_op *op, struct queued *queued)
{
    static const bitkv_op_kind kinds[] = {BITKV_OP_GET, BITKV_OP_PUT, BITKV_OP_DEL, BITKV_OP_EXISTS,
                                          BITKV_OP_SYNC};
    uint8_t choice = fuzz_u8(&w->in);
    unsigned n = take_key(w);
    struct entry *entry = &w->model[n];
    *op = (bitkv_op){.kind = kinds[choice % 5], .user_data = queued};
    *queued = (struct queued){.found = *entry, .code = BITKV_OK};
    if (op->kind == BITKV_OP_SYNC)
        return;
    op->key = queued->key;
    op->key_size = key_of(n, queued->key);
    op->flags = (choice & 32) != 0 ? BITKV_OP_COPY : 0;
    if (op->kind == BITKV_OP_PUT) {
        op->value_size = take_size(w);
        op->durability = (choice & 64) != 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_DEFAULT;
        queued->value = malloc(op->value_size + 1);
        FUZZ_CHECK(queued->value != NULL, "out of memory");
        memcpy(queued->value, make_value(w->number, op->value_size), op->value_size);
        op->value = queued->value;
        note_put(w, n, op->value_size, BITKV_TTL_NONE, 0);
        return;
    }
    queued->code = is_there(w, entry) ? BITKV_OK : BITKV_NOT_FOUND;
    if (op->kind == BITKV_OP_GET && (choice & 128) != 0)
        op->flags |= BITKV_OP_VIEW;
    if (op->kind == BITKV_OP_DEL)
        entry->present = false;
}

static void check_completion(struct world *w, bitkv_completion *completion)
{
    const struct queued *queued = completion->user_data;
    GIVES(completion->status, queued->code);
    if (completion->kind != BITKV_OP_GET || completion->status != BITKV_OK)
        return;
    if (completion->view.pin != NULL || completion->value == NULL)
        check_value(w, &queued->found, completion->view.data, completion->view.size);
    else
        check_value(w, &queued->found, completion->value, completion->value_size);
    bitkv_view_release(&completion->view);
    bitkv_free(completion->value);
}

/* In the order of submission, whatever the order of completions. */
static void queue(struct world *w)
{
    bitkv_cq *cq;
    OK(bitkv_cq_create(&cq, w->db, NULL));
    bitkv_op ops[QUEUED_MAX];
    static struct queued queued[QUEUED_MAX];
    size_t count = fuzz_u8(&w->in) % QUEUED_MAX + 1;
    for (size_t i = 0; i < count; i++)
        queue_one(w, &ops[i], &queued[i]);
    int accepted = bitkv_cq_submit(cq, ops, count, NULL);
    FUZZ_CHECK(accepted == (int)count, "operation %u: %d accepted", w->number, accepted);
    for (size_t reaped = 0; reaped < count;) {
        bitkv_completion completions[QUEUED_MAX];
        int n = bitkv_cq_wait(cq, completions, QUEUED_MAX, -1);
        FUZZ_CHECK(n > 0, "operation %u: %d completions", w->number, n);
        for (int i = 0; i < n; i++)
            check_completion(w, &completions[i]);
        reaped += (size_t)n;
    }
    FUZZ_CHECK(bitkv_cq_pending(cq) == 0, "operation %u: pending", w->number);
    OK(bitkv_cq_destroy(cq));
    for (size_t i = 0; i < count; i++)
        free(queued[i].value);
}

/* --- iterators and backups ------------------------------------------------------------- */

/* Shares of a snapshot that is gone: together they show each key once. */
static void iterate(struct world *w)
{
    struct walk walk = {.w = w, .entries = w->model};
    bitkv_snapshot *moment;
    bitkv_iterator *iterators[2];
    OK(bitkv_snapshot_create(&moment, w->db));
    for (uint32_t i = 0; i < 2; i++) {
        bitkv_iterator_options options;
        bitkv_iterator_options_init(&options);
        options.share = i;
        options.shares = 2;
        OK(bitkv_iterator_create(&iterators[i], moment, &options));
    }
    OK(bitkv_snapshot_destroy(moment));
    for (uint32_t i = 0; i < 2; i++) {
        bitkv_record record;
        int rc = bitkv_iterator_next(iterators[i], &record);
        for (; rc == BITKV_OK; rc = bitkv_iterator_next(iterators[i], &record))
            (void)on_record(&walk, &record);
        GIVES(rc, BITKV_NOT_FOUND);
        OK(bitkv_iterator_destroy(iterators[i]));
    }
    check_seen(&walk);
}

static void back_up(struct world *w)
{
    char target[LAB_PATH];
    (void)snprintf(target, sizeof target, "%.400s.backup", w->path);
    lab_remove(target);
    OK(bitkv_backup(w->db, target, NULL));
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    bitkv *backup;
    OK(bitkv_open(&backup, target, &options));
    struct walk walk = {.w = w, .entries = w->model};
    OK(bitkv_scan(backup, BITKV_SCAN_ALL, on_record, &walk));
    check_seen(&walk);
    OK(bitkv_close(backup));
    lab_remove(target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const operations[])(struct world * w) = {
        put,    put,    put_if,   put_if, del,       touch,   write_batch, get,
        get,    scan,   snapshot, reopen, pass_time, compact, sync_it,     put_if_version,
        del_if, update, update,   queue,  queue,     iterate, back_up,
    };
    static struct world world;
    struct world *w = &world;
    *w = (struct world){.in = {data, size}};
    uint8_t flags = fuzz_u8(&w->in);
    w->io_mode = (flags & 1) != 0 ? BITKV_IO_PWRITE : BITKV_IO_MMAP;
    w->partitions = (flags & 2) != 0 ? 1 : 2;
    w->path = fuzz_scratch();
    open_it(w);
    for (w->number = 1; w->number <= OPERATIONS && w->in.size > 0; w->number++)
        operations[fuzz_u8(&w->in) % (sizeof operations / sizeof operations[0])](w);
    scan(w);
    close_it(w);
    open_it(w);
    scan(w);
    close_it(w);
    return 0;
}
