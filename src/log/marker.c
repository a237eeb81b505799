/* SPDX-License-Identifier: MIT */
#include "log/marker.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "log/format.h"

#include <fcntl.h>
#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_KIND = 12,
    AT_DATABASE_ID = 16,
    AT_CREATED = 32,
    AT_FILES = 40,
    AT_BYTES = 48,
    AT_DIGEST = 56,
    AT_CRC = 60,
};

const char *bkv_marker_name(enum bkv_marker kind)
{
    return kind == BKV_MARKER_BACKUP ? BKV_BACKUP_NAME : BKV_REPARTITION_NAME;
}

int bkv_marker_write(struct bkv_dir *dir, enum bkv_marker kind, const uint8_t database_id[16],
                     const struct bkv_contents *contents)
{
    uint8_t bytes[BKV_MARKER_SIZE] = {0};
    memcpy(bytes + AT_MAGIC, BKV_MARKER_MAGIC, 8);
    bkv_put32(bytes + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(bytes + AT_KIND, (uint32_t)kind);
    memcpy(bytes + AT_DATABASE_ID, database_id, 16);
    bkv_put64(bytes + AT_CREATED, bkv_wall_ms());
    if (contents != NULL) {
        bkv_put64(bytes + AT_FILES, contents->files);
        bkv_put64(bytes + AT_BYTES, contents->bytes);
        bkv_put32(bytes + AT_DIGEST, contents->digest);
    }
    bkv_put32(bytes + AT_CRC, bkv_crc32c(0, bytes, AT_CRC));
    return bkv_file_replace(dir, NULL, bkv_marker_name(kind), bytes, sizeof bytes);
}

static bool sound(const uint8_t *bytes, size_t size, enum bkv_marker kind)
{
    return size == BKV_MARKER_SIZE && memcmp(bytes + AT_MAGIC, BKV_MARKER_MAGIC, 8) == 0 &&
           bkv_crc32c(0, bytes, AT_CRC) == bkv_get32(bytes + AT_CRC) &&
           bkv_get32(bytes + AT_KIND) == (uint32_t)kind;
}

int bkv_marker_read(struct bkv_dir *dir, enum bkv_marker kind, bool *found, uint8_t database_id[16],
                    struct bkv_contents *contents)
{
    *found = false;
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, bkv_marker_name(kind), O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_OK : rc;
    uint8_t bytes[BKV_MARKER_SIZE + 1] = {0};
    size_t size = 0;
    rc = bkv_file_read(&file, bytes, sizeof bytes, 0, &size);
    bkv_file_close(&file);
    *found = rc == BITKV_OK && sound(bytes, size, kind);
    if (*found)
        memcpy(database_id, bytes + AT_DATABASE_ID, 16);
    if (*found && contents != NULL)
        *contents = (struct bkv_contents){.files = bkv_get64(bytes + AT_FILES),
                                          .bytes = bkv_get64(bytes + AT_BYTES),
                                          .digest = bkv_get32(bytes + AT_DIGEST)};
    return rc;
}

int bkv_marker_remove(struct bkv_dir *dir, enum bkv_marker kind)
{
    return bkv_dir_unlink(dir, bkv_marker_name(kind));
}
