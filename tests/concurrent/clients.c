/* SPDX-License-Identifier: MIT */
#include "concurrent/clients.h"

#include <inttypes.h>
#include <sched.h>

/* Calls that one step records at most. */
#define STEP_OPS 16u
#define TTL_MS   3600000u /* longer than any test */
/* From this register on they are seldom written: what is read of them may lie in
 * segments that were closed, or compacted. */
#define SELDOM 4u

_Atomic uint64_t client_troubles;

void client_init(struct client *client, uint32_t number, uint64_t seed, size_t capacity)
{
    *client = (struct client){
        .number = number,
        .chance = {.state = mix(seed ^ mix(number + 1))},
        .ops = calloc(capacity, sizeof(struct lin_op)),
        .capacity = capacity,
    };
    assert_non_null(client->ops);
}

void client_free(struct client *client)
{
    free(client->ops);
    client->ops = NULL;
}

bool client_is_full(const struct client *client)
{
    return client->count + STEP_OPS > client->capacity;
}

uint64_t client_stamp(void)
{
    struct timespec t;
    atomic_thread_fence(memory_order_seq_cst);
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    atomic_thread_fence(memory_order_seq_cst);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct lin_op *client_record(struct client *client, uint32_t key, const char *label)
{
    if (client->count == client->capacity)
        abort(); /* client_is_full() was not asked */
    struct lin_op *op = &client->ops[client->count++];
    *op = (struct lin_op){.client = client->number, .key = (uint16_t)key, .label = label};
    return op;
}

void client_trouble(const struct client *client, const char *label, int rc)
{
    if (atomic_fetch_add(&client_troubles, 1) < 5)
        (void)fprintf(stderr, "client %" PRIu32 ": %s gave %s (%s)\n", client->number, label,
                      bitkv_error_name(rc), bitkv_error_context());
}

/* --- values --------------------------------------------------------------------- */

uint64_t client_new_value(struct client *client)
{
    return (uint64_t)(client->number + 1) << 48 | ++client->values_made;
}

static size_t size_of(uint64_t value)
{
    uint64_t h = mix(value);
    return 8 + (size_t)(h % 24 == 0 ? h / 24 % (VALUE_MAX - 8) : h / 24 % 60);
}

size_t client_encode(void *bytes, uint64_t value)
{
    size_t size = size_of(value);
    memcpy(bytes, &value, 8);
    fill((char *)bytes + 8, size - 8, value);
    return size;
}

uint64_t client_decode(uint32_t key, const void *bytes, size_t size)
{
    unsigned char expected[VALUE_MAX];
    uint64_t value = 0;
    if (size < 8 || size > VALUE_MAX)
        return 0;
    memcpy(&value, bytes, 8);
    if (key >= REGISTERS)
        return size == 8 ? value : 0;
    return client_encode(expected, value) == size && memcmp(expected, bytes, size) == 0 ? value : 0;
}

void client_note_read(struct client *client, struct lin_op *op, int rc, const void *bytes,
                      size_t size)
{
    op->guard = LIN_ABSENT;
    if (rc == BITKV_NOT_FOUND)
        return;
    op->guard = LIN_VALUE;
    if (rc != BITKV_OK) {
        client_trouble(client, op->label, rc);
        return;
    }
    op->value = client_decode(op->key, bytes, size);
    if (op->value == 0 && op->key < REGISTERS) {
        (void)fprintf(stderr, "key %u: %zu bytes that nobody wrote\n", op->key, size);
        client_trouble(client, op->label, rc);
    }
}

/* --- reads ---------------------------------------------------------------------- */

static uint64_t draw_register(struct client *c)
{
    return one_in(&c->chance, 2) ? below(&c->chance, 2) : below(&c->chance, REGISTERS);
}

static void read_into(struct client *c, uint64_t key)
{
    unsigned char buffer[VALUE_MAX];
    size_t size = 0;
    struct lin_op *op = client_record(c, (uint32_t)key, "get_into");
    op->called = client_stamp();
    int rc = bitkv_get_into(c->db, &key, sizeof key, buffer, sizeof buffer, &size);
    op->returned = client_stamp();
    client_note_read(c, op, rc, buffer, size);
    if (rc != BITKV_OK || key >= REGISTERS)
        return;
    if (c->bug == BUG_STALE_GET && c->stale[key] != 0 && one_in(&c->chance, 50))
        op->value = c->stale[key];
    c->stale[key] = op->value;
}

static void read_allocated(struct client *c, uint64_t key)
{
    void *value;
    size_t size = 0;
    struct lin_op *op = client_record(c, (uint32_t)key, "get");
    op->called = client_stamp();
    int rc = bitkv_get(c->db, &key, sizeof key, &value, &size);
    op->returned = client_stamp();
    client_note_read(c, op, rc, value, size);
    bitkv_free(value);
}

/* What is pinned is looked at later than it was got. */
static void read_view(struct client *c, uint64_t key)
{
    bitkv_view view;
    struct lin_op *op = client_record(c, (uint32_t)key, "get_view");
    op->called = client_stamp();
    int rc = bitkv_get_view(c->db, &key, sizeof key, &view);
    op->returned = client_stamp();
    if (one_in(&c->chance, 8))
        (void)sched_yield();
    client_note_read(c, op, rc, view.data, view.size);
    bitkv_view_release(&view);
}

static void read_many(struct client *c)
{
    uint64_t keys[REGISTERS];
    bitkv_get_item items[REGISTERS];
    struct lin_op *ops[REGISTERS];
    for (uint64_t i = 0; i < REGISTERS; i++) {
        keys[i] = i;
        items[i] = (bitkv_get_item){.key = &keys[i], .key_size = sizeof keys[i]};
        ops[i] = client_record(c, (uint32_t)i, "multi_get");
    }
    uint64_t called = client_stamp();
    int rc = bitkv_multi_get(c->db, items, REGISTERS);
    uint64_t returned = client_stamp();
    if (rc != BITKV_OK)
        client_trouble(c, "multi_get", rc);
    for (unsigned i = 0; i < REGISTERS; i++) {
        ops[i]->called = called;
        ops[i]->returned = returned;
        client_note_read(c, ops[i], items[i].status, items[i].value, items[i].value_size);
        bitkv_free(items[i].value);
    }
}

static void ask(struct client *c, uint64_t key)
{
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    bool exists = one_in(&c->chance, 3);
    struct lin_op *op = client_record(c, (uint32_t)key, exists ? "exists" : "info");
    op->called = client_stamp();
    int rc =
        exists ? bitkv_exists(c->db, &key, sizeof key) : bitkv_info(c->db, &key, sizeof key, &info);
    op->returned = client_stamp();
    if (rc < 0)
        client_trouble(c, op->label, rc);
    op->guard = rc == BITKV_NOT_FOUND ? LIN_ABSENT : LIN_PRESENT;
    if (rc == BITKV_OK && !exists) {
        op->guard = LIN_VERSION;
        op->version = c->versions[key] = info.version;
    }
}

/* --- writes --------------------------------------------------------------------- */

static bitkv_durability draw_durability(struct client *c)
{
    return one_in(&c->chance, 100) ? BITKV_DURABILITY_SYNC : (bitkv_durability)below(&c->chance, 3);
}

void client_flush(struct client *c)
{
    unsigned char bytes[VALUE_MAX];
    if (!c->put_is_owed)
        return;
    c->put_is_owed = false;
    int rc = bitkv_put(c->db, &c->owed_key, sizeof c->owed_key, bytes,
                       client_encode(bytes, c->owed_value));
    if (rc != BITKV_OK)
        client_trouble(c, "put", rc);
}

static void put(struct client *c, uint64_t key)
{
    unsigned char bytes[VALUE_MAX];
    uint64_t value = client_new_value(c);
    size_t size = client_encode(bytes, value);
    struct lin_op *op = client_record(c, (uint32_t)key, "put");
    op->effect = LIN_WRITE;
    op->new_value = value;
    op->called = client_stamp();
    int rc = BITKV_OK;
    if (c->bug == BUG_EARLY_ACK && one_in(&c->chance, 20)) {
        c->put_is_owed = true;
        c->owed_key = key;
        c->owed_value = value;
    } else {
        rc = bitkv_put_with(c->db, &key, sizeof key, bytes, size, draw_durability(c));
    }
    op->returned = client_stamp();
    if (rc != BITKV_OK)
        client_trouble(c, op->label, rc);
}

static void put_if(struct client *c, uint64_t key)
{
    static const char *const labels[] = {"put_if", "put_if_absent", "put_if_present",
                                         "compare_and_set"};
    static const uint64_t ttls[] = {0, BITKV_TTL_NONE, BITKV_TTL_KEEP, TTL_MS};
    unsigned char bytes[VALUE_MAX];
    uint64_t value = client_new_value(c);
    size_t size = client_encode(bytes, value);
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.condition = (bitkv_condition)below(&c->chance, 4);
    o.durability = draw_durability(c);
    o.ttl_ms = ttls[below(&c->chance, 4)];
    o.version = c->versions[key];
    struct lin_op *op = client_record(c, (uint32_t)key, labels[o.condition]);
    op->called = client_stamp();
    uint64_t version = 0;
    int rc = bitkv_put_if(c->db, &key, sizeof key, bytes, size, &o, &version);
    op->returned = client_stamp();
    if (rc == BITKV_OK) {
        static const uint8_t guards[] = {0, LIN_ABSENT, LIN_PRESENT, LIN_VERSION};
        op->guard = guards[o.condition];
        op->version = o.version;
        op->effect = LIN_WRITE;
        op->new_value = value;
        op->new_version = c->versions[key] = version;
    } else if (rc == BITKV_ERR_CONFLICT) {
        op->guard = o.condition == BITKV_IF_ABSENT ? LIN_PRESENT : LIN_OTHER_VERSION;
        op->version = o.version;
        if (o.condition != BITKV_IF_ABSENT && o.condition != BITKV_IF_VERSION)
            client_trouble(c, op->label, rc);
    } else {
        op->guard = LIN_ABSENT;
        if (rc != BITKV_NOT_FOUND || o.condition < BITKV_IF_PRESENT)
            client_trouble(c, op->label, rc);
    }
}

static void del(struct client *c, uint64_t key)
{
    struct lin_op *op = client_record(c, (uint32_t)key, "del");
    op->called = client_stamp();
    int rc = bitkv_del_with(c->db, &key, sizeof key, draw_durability(c));
    op->returned = client_stamp();
    if (rc < 0)
        client_trouble(c, op->label, rc);
    op->guard = rc == BITKV_NOT_FOUND ? LIN_ABSENT : LIN_PRESENT;
    op->effect = rc == BITKV_NOT_FOUND ? LIN_NOTHING : LIN_DELETE;
}

static void del_if(struct client *c, uint64_t key)
{
    struct lin_op *op = client_record(c, (uint32_t)key, "del_if");
    op->version = c->versions[key];
    op->called = client_stamp();
    int rc = bitkv_del_if(c->db, &key, sizeof key, op->version, draw_durability(c));
    op->returned = client_stamp();
    op->guard = LIN_ABSENT;
    if (rc == BITKV_OK) {
        op->guard = LIN_VERSION;
        op->effect = LIN_DELETE;
    } else if (rc == BITKV_ERR_CONFLICT) {
        op->guard = LIN_OTHER_VERSION;
    } else if (rc != BITKV_NOT_FOUND) {
        client_trouble(c, op->label, rc);
    }
}

static void touch(struct client *c, uint64_t key)
{
    struct lin_op *op = client_record(c, (uint32_t)key, "touch");
    op->called = client_stamp();
    int rc = bitkv_touch(c->db, &key, sizeof key, one_in(&c->chance, 2) ? TTL_MS : BITKV_TTL_NONE);
    op->returned = client_stamp();
    if (rc < 0)
        client_trouble(c, op->label, rc);
    op->guard = rc == BITKV_NOT_FOUND ? LIN_ABSENT : LIN_PRESENT;
    op->effect = rc == BITKV_NOT_FOUND ? LIN_NOTHING : LIN_TOUCH;
}

/* --- read, decide and write ----------------------------------------------------- */

struct update {
    struct client *client;
    struct lin_op *op;
    bitkv_update_action action;
    uint64_t value;
    unsigned char bytes[VALUE_MAX];
};

static int decide(void *user, bitkv_update_step *step)
{
    struct update *u = user;
    u->op->guard = LIN_ABSENT; /* the last attempt counts */
    if (step->present) {
        client_note_read(u->client, u->op, BITKV_OK, step->value, step->value_size);
        u->op->guard = LIN_VALUE | LIN_VERSION;
        u->op->version = u->client->versions[u->op->key] = step->version;
    }
    if (u->action == BITKV_UPDATE_PUT) {
        step->new_value = u->bytes;
        step->new_value_size = client_encode(u->bytes, u->value);
    }
    return (int)u->action;
}

static void update(struct client *c, uint64_t key)
{
    struct update u = {.client = c, .action = (bitkv_update_action)below(&c->chance, 3)};
    u.value = client_new_value(c);
    u.op = client_record(c, (uint32_t)key, "update");
    u.op->called = client_stamp();
    int rc = bitkv_update(c->db, &key, sizeof key, decide, &u, draw_durability(c));
    u.op->returned = client_stamp();
    bool absent = u.op->guard == LIN_ABSENT;
    int wanted = absent && u.action == BITKV_UPDATE_DELETE ? BITKV_NOT_FOUND : BITKV_OK;
    if (rc != wanted)
        client_trouble(c, "update", rc);
    if (u.action == BITKV_UPDATE_PUT) {
        u.op->effect = LIN_WRITE;
        u.op->new_value = u.value;
    } else if (u.action == BITKV_UPDATE_DELETE) {
        u.op->effect = LIN_DELETE;
    }
}

static void write_batch(struct client *c)
{
    bitkv_batch *batch = NULL;
    struct lin_op *ops[REGISTERS];
    unsigned count = 0;
    int rc = bitkv_batch_create(&batch);
    for (uint64_t key = below(&c->chance, 3); key < REGISTERS && rc == BITKV_OK;
         key += 1 + below(&c->chance, 3)) {
        struct lin_op *op = ops[count++] = client_record(c, (uint32_t)key, "write");
        op->effect = LIN_DELETE;
        if (one_in(&c->chance, 4)) {
            rc = bitkv_batch_del(batch, &key, sizeof key);
            continue;
        }
        unsigned char bytes[VALUE_MAX];
        op->effect = LIN_WRITE;
        op->new_value = client_new_value(c);
        rc = bitkv_batch_put(batch, &key, sizeof key, bytes, client_encode(bytes, op->new_value));
    }
    uint64_t called = client_stamp();
    if (rc == BITKV_OK)
        rc = bitkv_write(c->db, batch, draw_durability(c));
    uint64_t returned = client_stamp();
    for (unsigned i = 0; i < count; i++) {
        ops[i]->called = called;
        ops[i]->returned = returned;
    }
    if (rc != BITKV_OK)
        client_trouble(c, "write", rc);
    bitkv_batch_destroy(batch);
}

/* --- counters ------------------------------------------------------------------- */

static int64_t get_counter(struct client *c, uint64_t key)
{
    int64_t value = 0;
    size_t size = 0;
    int rc = bitkv_get_into(c->db, &key, sizeof key, &value, sizeof value, &size);
    return rc == BITKV_OK ? value : 0;
}

static void add(struct client *c, uint64_t key)
{
    int64_t delta = (int64_t)below(&c->chance, 2000) - 1000;
    int64_t sum = 0;
    struct lin_op *op = client_record(c, (uint32_t)key, "add");
    op->effect = LIN_ADD;
    op->value = (uint64_t)delta;
    op->called = client_stamp();
    int rc;
    if (c->bug == BUG_LOST_UPDATE && one_in(&c->chance, 4)) {
        sum = get_counter(c, key) + delta;
        rc = bitkv_put(c->db, &key, sizeof key, &sum, sizeof sum);
    } else {
        rc = bitkv_add(c->db, &key, sizeof key, delta, &sum);
    }
    op->returned = client_stamp();
    op->new_value = (uint64_t)sum;
    if (rc != BITKV_OK)
        client_trouble(c, op->label, rc);
}

static void put_counter(struct client *c, uint64_t key)
{
    struct lin_op *op = client_record(c, (uint32_t)key, "put");
    op->effect = LIN_WRITE;
    op->new_value = draw(&c->chance) >> 8;
    op->called = client_stamp();
    int rc = bitkv_put(c->db, &key, sizeof key, &op->new_value, sizeof op->new_value);
    op->returned = client_stamp();
    if (rc != BITKV_OK)
        client_trouble(c, op->label, rc);
}

static void step_counter(struct client *c)
{
    uint64_t key = REGISTERS + below(&c->chance, COUNTERS);
    switch (below(&c->chance, 12)) {
    case 0:
        del(c, key);
        break;
    case 1:
        put_counter(c, key);
        break;
    case 2:
        touch(c, key);
        break;
    case 3:
        ask(c, key);
        break;
    case 4:
    case 5:
        read_into(c, key);
        break;
    default:
        add(c, key);
        break;
    }
}

/* --- any ---------------------------------------------------------------------------- */

void client_step(struct client *c)
{
    static void (*const any[])(struct client *, uint64_t) = {
        read_into, read_allocated, read_view, ask,    put,   put,
        put_if,    put_if,         del,       del_if, touch, update,
    };
    enum { FIRST_WRITE = 4, ANY = sizeof any / sizeof any[0] };
    client_flush(c);
    unsigned which = (unsigned)below(&c->chance, ANY + 6);
    uint64_t key = draw_register(c);
    if (which >= FIRST_WRITE && which < ANY && key >= SELDOM && !one_in(&c->chance, 30))
        which = (unsigned)below(&c->chance, FIRST_WRITE);
    if (which < ANY)
        any[which](c, key);
    else if (which == ANY)
        write_batch(c);
    else if (which == ANY + 1)
        read_many(c);
    else
        step_counter(c);
}
