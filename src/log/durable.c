/* SPDX-License-Identifier: MIT */
#include "log/durable.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "log/filename.h"
#include "log/format.h"

#include <fcntl.h>
#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTITION = 12,
    AT_DATABASE_ID = 16,
    AT_SEGMENT_ID = 32,
    AT_OFFSET = 40,
    AT_CRC = 48,
};

int bkv_durable_write(struct bkv_dir *dir, uint32_t partition, const uint8_t database_id[16],
                      const struct bkv_durable *place)
{
    uint8_t bytes[BKV_DURABLE_SIZE] = {0};
    char name[BKV_NAME_SIZE];
    char folder[BKV_NAME_SIZE];
    memcpy(bytes + AT_MAGIC, BKV_DURABLE_MAGIC, 8);
    bkv_put32(bytes + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(bytes + AT_PARTITION, partition);
    memcpy(bytes + AT_DATABASE_ID, database_id, 16);
    bkv_put64(bytes + AT_SEGMENT_ID, place->segment_id);
    bkv_put64(bytes + AT_OFFSET, place->offset);
    bkv_put32(bytes + AT_CRC, bkv_crc32c(0, bytes, AT_CRC));
    bkv_name_durable(name, partition);
    bkv_name_partition(folder, partition);
    return bkv_file_replace(dir, folder, name, bytes, sizeof bytes);
}

static bool sound(const uint8_t *bytes, size_t size, uint32_t partition,
                  const uint8_t database_id[16])
{
    return size == BKV_DURABLE_SIZE && memcmp(bytes + AT_MAGIC, BKV_DURABLE_MAGIC, 8) == 0 &&
           bkv_crc32c(0, bytes, AT_CRC) == bkv_get32(bytes + AT_CRC) &&
           bkv_get32(bytes + AT_PARTITION) == partition &&
           memcmp(bytes + AT_DATABASE_ID, database_id, 16) == 0;
}

int bkv_durable_read(struct bkv_dir *dir, uint32_t partition, const uint8_t database_id[16],
                     bool *found, struct bkv_durable *place)
{
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    *found = false;
    bkv_name_durable(name, partition);
    int rc = bkv_file_open(&file, dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
    uint8_t bytes[BKV_DURABLE_SIZE + 1] = {0};
    size_t size = 0;
    rc = bkv_file_read(&file, bytes, sizeof bytes, 0, &size);
    bkv_file_close(&file);
    *found = rc == BITKV_OK && sound(bytes, size, partition, database_id);
    if (*found)
        *place = (struct bkv_durable){.segment_id = bkv_get64(bytes + AT_SEGMENT_ID),
                                      .offset = bkv_get64(bytes + AT_OFFSET)};
    return rc;
}
