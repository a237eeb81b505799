/* SPDX-License-Identifier: MIT */
#include "log/filename.h"

#include "base/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void bkv_name_partition(char name[BKV_NAME_SIZE], uint32_t partition)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32, partition);
}

void bkv_name_data(char name[BKV_NAME_SIZE], uint32_t partition, uint64_t id)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/data_%" PRIu64 ".db", partition, id);
}

void bkv_name_hint(char name[BKV_NAME_SIZE], uint32_t partition, uint64_t id)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/hint_%" PRIu64 ".ht", partition, id);
}

void bkv_name_checkpoint(char name[BKV_NAME_SIZE], uint32_t partition)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/keydir.ckp", partition);
}

void bkv_name_doubt(char name[BKV_NAME_SIZE], uint32_t partition)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/sync_failed", partition);
}

void bkv_name_durable(char name[BKV_NAME_SIZE], uint32_t partition)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/durable", partition);
}

void bkv_name_reserve(char name[BKV_NAME_SIZE], uint32_t partition)
{
    (void)snprintf(name, BKV_NAME_SIZE, "partition_%" PRIu32 "/reserve.tmp", partition);
}

static bool parse_numbered(const char *name, const char *prefix, const char *suffix, uint64_t *id)
{
    size_t prefix_size = strlen(prefix);
    if (strncmp(name, prefix, prefix_size) != 0)
        return false;
    const char *p = name + prefix_size;
    if (*p < '1' || *p > '9')
        return false;
    uint64_t n = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(n, 10u, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return false;
    }
    if (n > BKV_SEGMENT_ID_MAX)
        return false;
    *id = n;
    return strcmp(p, suffix) == 0;
}

bool bkv_name_parse_partition(const char *name, uint32_t *partition)
{
    uint64_t number = 0;
    if (strcmp(name, "partition_0") != 0 && !parse_numbered(name, "partition_", "", &number))
        return false;
    *partition = (uint32_t)number;
    return number < BITKV_PARTITIONS_MAX;
}

enum bkv_file_kind bkv_name_parse(const char *name, uint64_t *id)
{
    if (parse_numbered(name, "data_", ".db", id))
        return BKV_FILE_DATA;
    if (parse_numbered(name, "hint_", ".ht", id))
        return BKV_FILE_HINT;
    if (strcmp(name, "keydir.ckp") == 0)
        return BKV_FILE_CHECKPOINT;
    if (strcmp(name, "sync_failed") == 0)
        return BKV_FILE_DOUBT;
    if (strcmp(name, "durable") == 0)
        return BKV_FILE_DURABLE;
    if (parse_numbered(name, "data_", ".db.tmp", id) ||
        parse_numbered(name, "hint_", ".ht.tmp", id) || strcmp(name, "keydir.ckp.tmp") == 0 ||
        strcmp(name, "durable.tmp") == 0 || strcmp(name, "reserve.tmp") == 0)
        return BKV_FILE_TEMPORARY;
    return BKV_FILE_OTHER;
}
