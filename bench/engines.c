/* SPDX-License-Identifier: MIT */
/* The engines that this program was built with. */
#include "engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct bench_engine *const bench_engines[] = {
    &bench_engine_bitkv,   &bench_engine_bitkv_interval,
#if BENCH_HAVE_TKRZW
    &bench_engine_tkrzw,
#endif
#if BENCH_HAVE_KYOTO
    &bench_engine_kyoto,
#endif
#if BENCH_HAVE_LMDB
    &bench_engine_lmdb,
#endif
#if BENCH_HAVE_LEVELDB
    &bench_engine_leveldb,
#endif
#if BENCH_HAVE_ROCKSDB
    &bench_engine_rocksdb, &bench_engine_rocksdb_plain,
#endif
    &bench_engine_null,
};
const size_t bench_engine_count = sizeof(bench_engines) / sizeof(bench_engines[0]);

const char *const bench_engine_names[] = {
    "bitkv",   "bitkv-interval", "tkrzw",         "kyoto", "lmdb",
    "leveldb", "rocksdb",        "rocksdb-plain", "null",  NULL};

const struct bench_engine *bench_engine_find(const char *name)
{
    for (size_t i = 0; i < bench_engine_count; i++) {
        if (strcmp(bench_engines[i]->name, name) == 0)
            return bench_engines[i];
    }
    return NULL;
}

static _Thread_local char error_text[512];

int bench_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(error_text, sizeof(error_text), format, arguments);
    va_end(arguments);
    return BENCH_FAILED;
}

const char *bench_error(void)
{
    return error_text;
}
