/* SPDX-License-Identifier: MIT */
/*
 * The store against a plain array: random operations, options, reopenings and
 * deaths, and after each of them the same answers from both.
 *
 * An operation is a function of the seed and its number, so a child process
 * can run a stretch of them and die in the middle: the parent replays on the
 * model what the child acknowledged. The one operation in flight may have
 * happened or not; then the model takes the store's word.
 *
 *   BITKV_SEED=n    replays a run (each prints its seed)
 *   BITKV_ROUNDS=n  runs that many databases instead of about 25 seconds
 */
#include "api/scratch.h"

#include "log/record.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define KEYS           600u
#define BUFFER_SIZE    (5u << 20)
#define DEFAULT_BUDGET 25000u /* ms */

struct entry {
    bool present;
    uint64_t version; /* number of the operation that wrote it */
    size_t size;
};

struct world {
    uint64_t seed;
    struct chance chance; /* of the round: what happens between operations */
    uint64_t next_op;
    char path[PATH_SIZE];
    uint32_t partitions;
    uint64_t max_file_size; /* of the smallest opening: what jumbo means */
    bool slow;              /* every write is synced */
    bool long_keys;
    bool created;
    bool compacting; /* in the background; else only when it is called */
    bitkv *db;
    struct entry model[KEYS];
};

static unsigned char scratch_value[BUFFER_SIZE];
static unsigned char scratch_expected[BUFFER_SIZE];
static unsigned char scratch_key[BITKV_KEY_SIZE_MAX + 1];

/* What the library had to say, for people who read a failure. */
static char last_message[512];

static void on_log(void *user, bitkv_log_level level, const char *message)
{
    static _Atomic bool busy;
    (void)user;
    if (getenv("BITKV_LOG") != NULL)
        print_message("log %d: %s\n", (int)level, message);
    if (!atomic_exchange(&busy, true)) {
        (void)snprintf(last_message, sizeof last_message, "%s", message);
        atomic_store(&busy, false);
    }
}

#define broken(w, ...)                                                                             \
    do {                                                                                           \
        print_error(__VA_ARGS__);                                                                  \
        print_error("\nreplay with BITKV_SEED=%llu BITKV_ROUNDS=1 (operation %llu, last context: " \
                    "%s; last message: %s)\n",                                                     \
                    (unsigned long long)(w)->seed, (unsigned long long)(w)->next_op,               \
                    bitkv_error_context(), last_message);                                          \
        if (getenv("BITKV_KEEP") == NULL)                                                          \
            remove_tree((w)->path);                                                                \
        fail();                                                                                    \
    } while (0)

/* --- keys, values, operations: functions of the seed ---------------------------- */

static size_t make_key(const struct world *w, unsigned id, unsigned char *key)
{
    uint64_t h = mix(w->seed * 31 + id);
    size_t size = 3 + h % 40;
    if (id < 40) {
        key[0] = (unsigned char)id; /* the shortest there are */
        return 1;
    }
    if (id % 16 == 3)
        size = 3 + h % 298;
    if (w->long_keys && id % 97 == 50)
        size = BITKV_KEY_SIZE_MAX;
    fill(key, size, h);
    key[0] = (unsigned char)id;
    key[1] = (unsigned char)(id >> 8);
    key[2] = 0xff; /* never a prefix problem: keys are told apart by number */
    return size;
}

enum kind { OP_PUT, OP_DEL, OP_SYNC, OP_GET };

struct op {
    enum kind kind;
    unsigned id;
    size_t size;
    bitkv_durability durability;
};

static size_t draw_size(const struct world *w, struct chance *c)
{
    switch (below(c, 24)) {
    case 0:
    case 1:
        return 0;
    case 2:
        return 1 + below(c, 9);
    case 3:
        return 1990 + below(c, 80); /* whole records of about 2 KiB */
    case 4:
        return 4040 + below(c, 100);
    case 5:
        return below(c, 20000);
    case 6:
        return below(c, 60000);
    case 7: {
        uint64_t jumbo = w->max_file_size - 400 + below(c, 800);
        if (w->max_file_size <= (1u << 20) && one_in(c, 8))
            return jumbo;
        if (w->max_file_size <= (256u << 10) && one_in(c, 8))
            return w->max_file_size * 2 + below(c, w->max_file_size);
        return 100;
    }
    default:
        return below(c, 200);
    }
}

static struct op make_op(const struct world *w, uint64_t number)
{
    struct chance c = {.state = mix(w->seed ^ number * 0x10001u)};
    struct op op = {.kind = OP_PUT, .durability = BITKV_DURABILITY_DEFAULT};
    uint64_t k = below(&c, 100);
    op.id = (unsigned)(one_in(&c, 3) ? below(&c, 20) : below(&c, KEYS));
    if (k < 60)
        op.size = draw_size(w, &c);
    else if (k < 82)
        op.kind = OP_DEL;
    else if (k < 83)
        op.kind = OP_SYNC;
    else
        op.kind = OP_GET;
    uint64_t d = below(&c, 100);
    if (d < 20)
        op.durability = BITKV_DURABILITY_NONE;
    else if (d < 40)
        op.durability = BITKV_DURABILITY_INTERVAL;
    else if (d < 43)
        op.durability = BITKV_DURABILITY_SYNC;
    return op;
}

static int run_op(const struct world *w, bitkv *db, const struct op *op, uint64_t number)
{
    size_t key_size = make_key(w, op->id, scratch_key);
    size_t size = 0;
    switch (op->kind) {
    case OP_PUT:
        fill(scratch_value, op->size, number);
        return bitkv_put_with(db, scratch_key, key_size, scratch_value, op->size, op->durability);
    case OP_DEL:
        return bitkv_del_with(db, scratch_key, key_size, op->durability);
    case OP_SYNC:
        return bitkv_sync(db);
    case OP_GET:
        return bitkv_get_into(db, scratch_key, key_size, scratch_value, sizeof scratch_value,
                              &size);
    }
    return BITKV_ERR_INVALID;
}

static void run_on_model(struct world *w, const struct op *op, uint64_t number)
{
    struct entry *e = &w->model[op->id];
    if (op->kind == OP_PUT)
        *e = (struct entry){.present = true, .version = number, .size = op->size};
    else if (op->kind == OP_DEL)
        e->present = false;
}

/* --- comparing -------------------------------------------------------------------- */

static bool value_is(const struct entry *e, const void *value, size_t size)
{
    if (size != e->size)
        return false;
    fill(scratch_expected, size, e->version);
    return memcmp(scratch_expected, value, size) == 0;
}

static void must_hold(struct world *w, unsigned id, int rc, const void *value, size_t size,
                      const char *by)
{
    const struct entry *e = &w->model[id];
    if (rc != (e->present ? BITKV_OK : BITKV_NOT_FOUND))
        broken(w, "%s of key %u gave %s, but it is %s", by, id, bitkv_error_name(rc),
               e->present ? "there" : "not there");
    if (rc == BITKV_OK && !value_is(e, value, size))
        broken(w, "%s of key %u gave %zu bytes that are not those of write %llu (%zu bytes)", by,
               id, size, (unsigned long long)e->version, e->size);
}

static void compare_key(struct world *w, unsigned id, unsigned how)
{
    size_t key_size = make_key(w, id, scratch_key);
    size_t size = 0;
    int rc;
    switch (how) {
    case 0: {
        void *value;
        rc = bitkv_get(w->db, scratch_key, key_size, &value, &size);
        must_hold(w, id, rc, value, size, "get");
        if ((rc == BITKV_OK) != (value != NULL) || (rc == BITKV_OK && ((char *)value)[size] != 0))
            broken(w, "get of key %u: pointer or terminator is wrong", id);
        bitkv_free(value);
        break;
    }
    case 1:
        rc = bitkv_get_into(w->db, scratch_key, key_size, scratch_value, sizeof scratch_value,
                            &size);
        must_hold(w, id, rc, scratch_value, size, "get_into");
        break;
    case 2: {
        bitkv_view view;
        rc = bitkv_get_view(w->db, scratch_key, key_size, &view);
        must_hold(w, id, rc, view.data, view.size, "get_view");
        bitkv_view_release(&view);
        break;
    }
    default:
        rc = bitkv_exists(w->db, scratch_key, key_size);
        if (rc != (w->model[id].present ? BITKV_OK : BITKV_NOT_FOUND))
            broken(w, "exists of key %u gave %s", id, bitkv_error_name(rc));
        break;
    }
}

static void compare_many(struct world *w)
{
    enum { MANY = 70 };
    static unsigned char keys[MANY][304];
    static unsigned char buffers[MANY][256];
    static bitkv_get_item items[MANY];
    unsigned ids[MANY];
    unsigned count = (unsigned)below(&w->chance, MANY + 1);
    for (unsigned i = 0; i < count; i++) {
        do
            ids[i] = (unsigned)below(&w->chance, KEYS);
        while (make_key(w, ids[i], scratch_key) > sizeof keys[0]);
        size_t key_size = make_key(w, ids[i], keys[i]);
        bool buffer = one_in(&w->chance, 2);
        items[i] = (bitkv_get_item){.key = keys[i],
                                    .key_size = key_size,
                                    .buffer = buffer ? buffers[i] : NULL,
                                    .buffer_size = sizeof buffers[0]};
    }
    int rc = bitkv_multi_get(w->db, items, count);
    int wanted = BITKV_OK;
    for (unsigned i = 0; i < count; i++) {
        const struct entry *e = &w->model[ids[i]];
        if (items[i].buffer != NULL && e->present && e->size > sizeof buffers[0]) {
            if (items[i].status != BITKV_ERR_BUFFER_TOO_SMALL || items[i].value_size != e->size ||
                items[i].value != NULL)
                broken(w, "multi_get item %u into a small buffer: status %d", i, items[i].status);
            if (wanted == BITKV_OK)
                wanted = BITKV_ERR_BUFFER_TOO_SMALL;
            continue;
        }
        must_hold(w, ids[i], items[i].status, items[i].value, items[i].value_size, "multi_get");
        if (items[i].buffer == NULL)
            bitkv_free(items[i].value);
    }
    if (rc != wanted)
        broken(w, "multi_get gave %s, not %s", bitkv_error_name(rc), bitkv_error_name(wanted));
}

struct scanned {
    struct world *w;
    unsigned flags;
    unsigned visits[KEYS];
    uint64_t count;
};

static int on_record(void *user, const bitkv_record *record)
{
    struct scanned *s = user;
    const unsigned char *key = record->key;
    unsigned id = record->key_size == 1 ? key[0] : key[0] | (unsigned)key[1] << 8;
    size_t size = id < KEYS ? make_key(s->w, id, scratch_key) : 0;
    if (size != record->key_size || memcmp(scratch_key, key, size) != 0)
        broken(s->w, "scan shows a key that nobody wrote");
    s->count++;
    s->visits[id]++;
    if (s->flags == BITKV_SCAN_KEYS && (record->value != NULL || !s->w->model[id].present ||
                                        record->value_size != s->w->model[id].size))
        broken(s->w, "scan of keys shows key %u wrongly", id);
    if (s->flags == BITKV_SCAN_ALL)
        must_hold(s->w, id, BITKV_OK, record->value, record->value_size, "scan");
    return 0;
}

static void compare_scan(struct world *w, unsigned flags)
{
    static struct scanned s;
    memset(&s, 0, sizeof s);
    s.w = w;
    s.flags = flags;
    int rc = bitkv_scan(w->db, flags, on_record, &s);
    if (rc != BITKV_OK)
        broken(w, "scan gave %s", bitkv_error_name(rc));
    for (unsigned id = 0; id < KEYS; id++) {
        if (s.visits[id] != (w->model[id].present ? 1u : 0u))
            broken(w, "scan visited key %u %u times, it is %s", id, s.visits[id],
                   w->model[id].present ? "there" : "not there");
    }
}

static void compare_statistics(struct world *w)
{
    uint64_t keys = 0;
    uint64_t live = 0;
    for (unsigned id = 0; id < KEYS; id++) {
        if (!w->model[id].present)
            continue;
        keys++;
        live += bkv_record_size(make_key(w, id, scratch_key), w->model[id].size);
    }
    bitkv_statistics all;
    bitkv_statistics_init(&all);
    if (bitkv_stats(w->db, BITKV_ALL_PARTITIONS, &all) != BITKV_OK)
        broken(w, "no statistics");
    if (all.keys != keys || all.live_bytes != live)
        broken(w, "statistics: %llu keys of %llu live bytes, the model has %llu of %llu",
               (unsigned long long)all.keys, (unsigned long long)all.live_bytes,
               (unsigned long long)keys, (unsigned long long)live);
    if (all.errors_total != 0 || all.recovery.damaged_regions != 0 || all.writes_refused != 0 ||
        all.recovery.rejected_hints != 0 || all.recovery.rejected_checkpoints != 0)
        broken(w,
               "statistics tell of trouble: %llu errors, %llu damaged regions, %u refusals, "
               "%llu rejected hints, %llu rejected checkpoints",
               (unsigned long long)all.errors_total,
               (unsigned long long)all.recovery.damaged_regions, all.writes_refused,
               (unsigned long long)all.recovery.rejected_hints,
               (unsigned long long)all.recovery.rejected_checkpoints);
    uint64_t sum[4] = {0};
    for (uint32_t i = 0; i < all.partitions; i++) {
        bitkv_statistics one;
        bitkv_statistics_init(&one);
        if (bitkv_stats(w->db, i, &one) != BITKV_OK)
            broken(w, "no statistics of partition %u", i);
        sum[0] += one.keys;
        sum[1] += one.live_bytes;
        sum[2] += one.segments;
        sum[3] += one.gets_total;
    }
    if (sum[0] != all.keys || sum[1] != all.live_bytes || sum[3] != all.gets_total)
        broken(w, "statistics of the partitions do not add up");
}

static void compare_all(struct world *w)
{
    unsigned how = (unsigned)below(&w->chance, 4);
    for (unsigned id = 0; id < KEYS; id++)
        compare_key(w, id, (how + id) % 4);
    compare_scan(w, one_in(&w->chance, 2) ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL);
    compare_statistics(w);
}

/* --- opening ------------------------------------------------------------------------- */

static bitkv_options draw_options(struct world *w)
{
    static const uint64_t sizes[] = {64u << 10,  64u << 10, 128u << 10, 200000u,
                                     512u << 10, 1u << 20,  4u << 20};
    struct chance *c = &w->chance;
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = one_in(c, 2) || !w->created ? w->partitions : 0;
    o.max_file_size = one_in(c, 3) ? sizes[below(c, 7)] : w->max_file_size;
    o.io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    if (one_in(c, 8))
        o.io_mode = BITKV_IO_AUTO;
    o.durability = one_in(c, 2) ? BITKV_DURABILITY_NONE : BITKV_DURABILITY_INTERVAL;
    if (w->slow)
        o.durability = BITKV_DURABILITY_SYNC;
    o.sync_interval_ms = 1 + (uint32_t)below(c, one_in(c, 2) ? 5 : 2000);
    o.max_open_segments = (uint32_t)below(c, one_in(c, 2) ? 3 : 12);
    o.checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 200000) : 0;
    o.strict_recovery = one_in(c, 2);
    o.auto_compact = w->compacting;
    o.fragmentation_threshold = 0.05 + (double)below(c, 90) / 100.0;
    o.log = on_log;
    return o;
}

static void open_world(struct world *w, const char *why)
{
    bitkv_options o = draw_options(w);
    int rc = bitkv_open(&w->db, w->path, &o);
    if (rc != BITKV_OK)
        broken(w, "%s: open gave %s", why, bitkv_error_name(rc));
}

static void close_world(struct world *w)
{
    int rc = bitkv_close(w->db);
    w->db = NULL;
    if (rc != BITKV_OK)
        broken(w, "close gave %s", bitkv_error_name(rc));
}

/* --- what happens ---------------------------------------------------------------------- */

static void run_here(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t number = w->next_op++;
        struct op op = make_op(w, number);
        const struct entry before = w->model[op.id];
        int rc = run_op(w, w->db, &op, number);
        int wanted = (op.kind == OP_DEL || op.kind == OP_GET) && !before.present ? BITKV_NOT_FOUND
                                                                                 : BITKV_OK;
        if (rc != wanted)
            broken(w, "operation %d on key %u gave %s", op.kind, op.id, bitkv_error_name(rc));
        run_on_model(w, &op, number);
        if (one_in(&w->chance, 4))
            compare_key(w, (unsigned)below(&w->chance, KEYS), (unsigned)below(&w->chance, 4));
        if (one_in(&w->chance, 200))
            compare_many(w);
    }
}

struct shared {
    _Atomic uint64_t acknowledged; /* operations before this number */
    _Atomic uint64_t failed_rc;
};

/* In the child: until told to die, or killed. */
static _Noreturn void run_and_die(struct world *w, struct shared *shared, unsigned count,
                                  unsigned manner)
{
    bitkv_options o = draw_options(w);
    int rc = bitkv_open(&w->db, w->path, &o);
    for (unsigned i = 0; i < count && rc == BITKV_OK; i++) {
        uint64_t number = w->next_op++;
        struct op op = make_op(w, number);
        rc = run_op(w, w->db, &op, number);
        if (rc == BITKV_NOT_FOUND)
            rc = BITKV_OK;
        if (rc == BITKV_OK)
            atomic_store(&shared->acknowledged, number + 1);
    }
    if (rc != BITKV_OK) {
        print_error("in the child: %s, %s\n", bitkv_error_name(rc), bitkv_error_context());
        _exit(99);
    }
    if (manner == 0)
        _exit(0);
    if (manner == 1)
        (void)kill(getpid(), SIGKILL);
    for (;;)
        (void)pause(); /* for the parent's signal */
}

/* The operation that was running: done or not, but nothing in between. */
static void settle_flight(struct world *w, uint64_t number)
{
    struct op op = make_op(w, number);
    if (op.kind != OP_PUT && op.kind != OP_DEL)
        return;
    size_t key_size = make_key(w, op.id, scratch_key);
    size_t size = 0;
    int rc =
        bitkv_get_into(w->db, scratch_key, key_size, scratch_value, sizeof scratch_value, &size);
    struct entry after = {.present = true, .version = number, .size = op.size};
    bool happened = op.kind == OP_PUT ? rc == BITKV_OK && value_is(&after, scratch_value, size)
                                      : rc == BITKV_NOT_FOUND;
    if (happened)
        run_on_model(w, &op, number);
    else
        must_hold(w, op.id, rc, scratch_value, size, "after a death, get");
}

static void die_and_recover(struct world *w)
{
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    uint64_t first = w->next_op;
    atomic_store(&shared->acknowledged, first);
    unsigned count = 1 + (unsigned)below(&w->chance, w->slow ? 60 : 1500);
    unsigned manner = (unsigned)below(&w->chance, 3);
    unsigned delay = (unsigned)below(&w->chance, one_in(&w->chance, 3) ? 3000 : 60000);
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        run_and_die(w, shared, count, manner);
    if (manner == 2) {
        (void)usleep(delay);
        (void)kill(child, SIGKILL);
    }
    int end = wait_child(child);
    if (end == 99 || (end != 0 && end != 1000 + SIGKILL))
        broken(w, "the child ended with %d", end);
    uint64_t acknowledged = atomic_load(&shared->acknowledged);
    for (uint64_t n = first; n < acknowledged; n++) {
        struct op op = make_op(w, n);
        run_on_model(w, &op, n);
    }
    (void)munmap(shared, sizeof *shared);
    w->next_op = acknowledged + 1; /* a number is not used twice */
    (void)draw(&w->chance);        /* as the child did */
    open_world(w, "after a death");
    w->created = true;
    if (manner == 2)
        settle_flight(w, acknowledged);
    compare_all(w);
}

static void reopen(struct world *w)
{
    close_world(w);
    open_world(w, "after a close");
    compare_all(w);
}

static void reopen_read_only(struct world *w)
{
    close_world(w);
    uint64_t before = fingerprint(w->path);
    bitkv_options o = draw_options(w);
    o.read_only = true;
    int rc = bitkv_open(&w->db, w->path, &o);
    if (rc != BITKV_OK)
        broken(w, "read-only open gave %s", bitkv_error_name(rc));
    compare_all(w);
    if (bitkv_put(w->db, "k", 1, "v", 1) != BITKV_ERR_READ_ONLY)
        broken(w, "a read-only database was written");
    close_world(w);
    if (fingerprint(w->path) != before)
        broken(w, "a read-only opening changed the directory");
    open_world(w, "after a read-only opening");
}

static void compact(struct world *w)
{
    uint32_t one = (uint32_t)below(&w->chance, w->partitions);
    int rc = bitkv_compact(w->db, one_in(&w->chance, 2) ? one : BITKV_ALL_PARTITIONS, NULL, NULL);
    if (rc != BITKV_OK)
        broken(w, "compact gave %s", bitkv_error_name(rc));
}

/* A copy taken while it is open, file by file, is what a crash leaves. */
static void recover_copy(struct world *w)
{
    char original[PATH_SIZE];
    char copy[PATH_SIZE];
    bitkv *db = w->db;
    memcpy(original, w->path, sizeof original);
    (void)snprintf(copy, sizeof copy, "%.500s.copy", w->path);
    remove_tree(copy);
    copy_tree(original, copy);
    memcpy(w->path, copy, sizeof copy);
    bitkv_options o = draw_options(w);
    o.strict_recovery = false; /* files were not copied at one moment */
    bool read_only = one_in(&w->chance, 3);
    uint64_t before = read_only ? fingerprint(copy) : 0;
    o.read_only = read_only;
    int rc = bitkv_open(&w->db, copy, &o);
    if (rc != BITKV_OK)
        broken(w, "open of a copy gave %s", bitkv_error_name(rc));
    for (unsigned id = 0; id < KEYS; id++)
        compare_key(w, id, id % 4);
    compare_scan(w, BITKV_SCAN_ALL);
    close_world(w);
    if (read_only && fingerprint(copy) != before)
        broken(w, "a read-only opening changed a crash image");
    remove_tree(copy);
    memcpy(w->path, original, sizeof original);
    w->db = db;
}

static void run_round(uint64_t seed, const char *directory)
{
    static struct world w;
    memset(&w, 0, sizeof w);
    w.seed = seed;
    w.chance.state = mix(seed);
    struct chance *c = &w.chance;
    char name[40];
    (void)snprintf(name, sizeof name, "db-%llu", (unsigned long long)seed);
    inside(w.path, directory, name);
    w.partitions = 1 + (uint32_t)below(c, 5);
    w.max_file_size = one_in(c, 2) ? 64u << 10 : (64u << 10) << below(c, 6);
    w.slow = one_in(c, 6);
    w.long_keys = one_in(c, 4);
    w.compacting = one_in(c, 2);
    if (one_in(c, 2))
        open_world(&w, "creation");
    else
        die_and_recover(&w); /* never closed yet */
    w.created = true;
    unsigned events = 4 + (unsigned)below(c, 10);
    for (unsigned e = 0; e < events; e++) {
        run_here(&w, (unsigned)below(c, w.slow ? 80 : 1200));
        switch (below(c, 8)) {
        case 0:
            reopen(&w);
            break;
        case 1:
            reopen_read_only(&w);
            break;
        case 2:
            if (!w.compacting) /* files come and go while it does */
                recover_copy(&w);
            break;
        case 5:
        case 6:
            compact(&w);
            break;
        case 3:
        case 4:
            close_world(&w);
            for (unsigned times = 1 + (unsigned)below(c, 3); times > 0; times--) {
                die_and_recover(&w);
                if (times > 1)
                    close_world(&w);
            }
            break;
        default:
            compare_all(&w);
            break;
        }
    }
    close_world(&w);
    open_world(&w, "at the end");
    compare_all(&w);
    close_world(&w);
    remove_tree(w.path);
}

static void the_store_answers_as_a_plain_map_does(void **state)
{
    (void)state;
    char directory[PATH_SIZE];
    make_scratch(directory);
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    bool replay = getenv("BITKV_SEED") != NULL;
    uint64_t seed =
        env_number("BITKV_SEED", (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u);
    uint64_t rounds = env_number("BITKV_ROUNDS", replay ? 1 : UINT64_MAX);
    uint64_t until = rounds == UINT64_MAX ? now_ms() + DEFAULT_BUDGET : UINT64_MAX;
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    uint64_t done = 0;
    for (; done < rounds && now_ms() < until; done++)
        run_round(seed + done, directory);
    print_message("%llu rounds\n", (unsigned long long)done);
    remove_tree(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_store_answers_as_a_plain_map_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
