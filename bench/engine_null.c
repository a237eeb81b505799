/* SPDX-License-Identifier: MIT */
/*
 * The engine that does nothing: what the harness itself costs. Its calls go
 * the same way as every engine's, its answers are compared like every
 * engine's, and found wrong, which nobody minds.
 */
#include "engine.h"

struct null_session {
    uint64_t sink;
    uint64_t value[512];
};

static struct null_session the_session;
static int the_db;

static const char *null_version(void)
{
    return "-";
}

static void *null_open(const struct bench_setup *setup)
{
    if (setup->value_size > sizeof(the_session.value)) {
        (void)bench_fail("the null engine takes values of at most %zu bytes",
                         sizeof(the_session.value));
        return NULL;
    }
    the_session.value[0] = setup->value_size;
    return &the_db;
}

static int null_close(void *db)
{
    (void)db;
    return BENCH_OK;
}

static void *null_session_begin(void *db)
{
    (void)db;
    return &the_session;
}

static void null_session_end(void *session)
{
    (void)session;
}

static int null_put(void *session, const void *key, size_t key_size, const void *value,
                    size_t value_size)
{
    (void)session, (void)key, (void)key_size, (void)value, (void)value_size;
    __asm__ volatile("" : : "r"(key), "r"(value) : "memory");
    return BENCH_OK;
}

static int null_get(void *session, const void *key, size_t key_size, const void **value,
                    size_t *value_size)
{
    const struct null_session *null = session;

    (void)key_size;
    __asm__ volatile("" : : "r"(key) : "memory");
    *value = null->value;
    *value_size = null->value[0];
    return BENCH_OK;
}

static int null_del(void *session, const void *key, size_t key_size)
{
    (void)session, (void)key_size;
    __asm__ volatile("" : : "r"(key) : "memory");
    return BENCH_OK;
}

static int null_set_synced(void *db, bool on)
{
    (void)db, (void)on;
    return BENCH_OK;
}

const struct bench_engine bench_engine_null = {
    .name = "null",
    .title = "(harness)",
    .document = "-",
    .configuration = "does nothing: the cost of the harness itself",
    .durability = "-",
    .synced = "-",
    .checksum = "-",
    .stores_nothing = true,
    .version = null_version,
    .open = null_open,
    .close = null_close,
    .session_begin = null_session_begin,
    .session_end = null_session_end,
    .put = null_put,
    .get = null_get,
    .del = null_del,
    .set_synced = null_set_synced,
    .settle = NULL,
    .usage = NULL,
    .scan = NULL,
};
