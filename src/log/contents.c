/* SPDX-License-Identifier: MIT */
#include "log/contents.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/marker.h"

#include <fcntl.h>
#include <stdlib.h>

struct ids {
    uint64_t *items;
    size_t count, capacity;
};

static int on_entry(void *user, const char *name)
{
    struct ids *ids = user;
    uint64_t id;
    if (bkv_name_parse(name, &id) != BKV_FILE_DATA)
        return BITKV_OK;
    if (!bkv_grow(&ids->items, ids->count, 1, sizeof *ids->items, &ids->capacity))
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to list a partition");
    ids->items[ids->count++] = id;
    return BITKV_OK;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int add_file(struct bkv_dir *dir, uint32_t partition, uint64_t id, bool sync,
                    struct bkv_contents *contents)
{
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    uint64_t size;
    bkv_name_data(name, partition, id);
    int rc = bkv_file_open(&file, dir, name, O_RDONLY);
    if (rc != BITKV_OK) /* listed a moment ago */
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = sync ? bkv_file_sync(&file) : BITKV_OK;
    if (rc == BITKV_OK)
        rc = bkv_file_size(&file, &size);
    bkv_file_close(&file);
    if (rc != BITKV_OK)
        return rc;
    uint8_t bytes[20];
    bkv_put32(bytes, partition);
    bkv_put64(bytes + 4, id);
    bkv_put64(bytes + 12, size);
    contents->files++;
    contents->bytes += size;
    contents->digest = bkv_crc32c(contents->digest, bytes, sizeof bytes);
    return BITKV_OK;
}

static int add_partition(struct bkv_dir *dir, uint32_t partition, bool sync,
                         struct bkv_contents *contents)
{
    struct ids ids = {0};
    char folder[BKV_NAME_SIZE];
    bkv_name_partition(folder, partition);
    int rc = bkv_dir_list(dir, folder, &ids, on_entry);
    if (rc == BITKV_NOT_FOUND)
        rc = BITKV_OK;
    if (ids.count > 0)
        qsort(ids.items, ids.count, sizeof *ids.items, by_number);
    for (size_t i = 0; i < ids.count && rc == BITKV_OK; i++)
        rc = add_file(dir, partition, ids.items[i], sync, contents);
    bkv_mfree(ids.items);
    return rc;
}

int bkv_contents_sum(struct bkv_dir *dir, uint32_t partitions, bool sync,
                     struct bkv_contents *contents)
{
    int rc = BITKV_OK;
    *contents = (struct bkv_contents){0};
    for (uint32_t i = 0; i < partitions && rc == BITKV_OK; i++)
        rc = add_partition(dir, i, sync, contents);
    return rc;
}

int bkv_contents_compare(struct bkv_dir *dir, uint32_t partitions, bool *known,
                         struct bkv_contents *had, struct bkv_contents *has)
{
    uint8_t id[16];
    int rc = bkv_marker_read(dir, BKV_MARKER_BACKUP, known, id, had);
    *known = *known && had->files > 0;
    return rc == BITKV_OK && *known ? bkv_contents_sum(dir, partitions, false, has) : rc;
}
