/* SPDX-License-Identifier: MIT */
#include "log/manifest.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "log/filename.h"
#include "log/format.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTITIONS = 12,
    AT_DATABASE_ID = 16,
    AT_HASH_KEY = 32,
    AT_CREATED = 48,
    AT_CRC = 124,
};

static int random_bytes(void *out, size_t size)
{
    if (getentropy(out, size) != 0) /* 256 at most: all of them, uninterrupted */
        return bkv_error_sys(errno, "cannot get random bytes");
    return BITKV_OK;
}

int bkv_manifest_init(struct bkv_manifest *manifest, uint32_t partitions)
{
    manifest->partitions = partitions;
    manifest->created_ms = bkv_wall_ms();
    int rc = random_bytes(manifest->database_id, sizeof manifest->database_id);
    if (rc == BITKV_OK)
        rc = random_bytes(&manifest->hash_key, sizeof manifest->hash_key);
    return rc;
}

int bkv_manifest_write(struct bkv_dir *dir, const struct bkv_manifest *manifest)
{
    uint8_t bytes[BKV_MANIFEST_SIZE] = {0};
    memcpy(bytes + AT_MAGIC, BKV_MANIFEST_MAGIC, 8);
    bkv_put32(bytes + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(bytes + AT_PARTITIONS, manifest->partitions);
    memcpy(bytes + AT_DATABASE_ID, manifest->database_id, 16);
    bkv_put64(bytes + AT_HASH_KEY, manifest->hash_key.k0);
    bkv_put64(bytes + AT_HASH_KEY + 8, manifest->hash_key.k1);
    bkv_put64(bytes + AT_CREATED, manifest->created_ms);
    bkv_put32(bytes + AT_CRC, bkv_crc32c(0, bytes, AT_CRC));
    return bkv_file_replace(dir, NULL, BKV_MANIFEST_NAME, bytes, sizeof bytes);
}

static int decode(const struct bkv_dir *dir, const uint8_t *bytes, struct bkv_manifest *manifest)
{
    if (memcmp(bytes + AT_MAGIC, BKV_MANIFEST_MAGIC, 8) != 0)
        return bkv_error(BITKV_ERR_CORRUPT, "%s/" BKV_MANIFEST_NAME " at offset 0: wrong magic",
                         dir->path);
    uint32_t crc = bkv_crc32c(0, bytes, AT_CRC);
    if (crc != bkv_get32(bytes + AT_CRC))
        return bkv_error(BITKV_ERR_CORRUPT,
                         "%s/" BKV_MANIFEST_NAME " at offset %d: checksum %08x, not %08x",
                         dir->path, AT_CRC, bkv_get32(bytes + AT_CRC), crc);
    uint32_t version = bkv_get32(bytes + AT_VERSION);
    if (version != BKV_FORMAT_VERSION)
        return bkv_error(BITKV_ERR_FORMAT,
                         "%s/" BKV_MANIFEST_NAME " has format version %u, this library knows %u",
                         dir->path, version, BKV_FORMAT_VERSION);
    manifest->partitions = bkv_get32(bytes + AT_PARTITIONS);
    if (manifest->partitions == 0 || manifest->partitions > BITKV_PARTITIONS_MAX)
        return bkv_error(BITKV_ERR_CORRUPT, "%s/" BKV_MANIFEST_NAME " at offset %d: %u partitions",
                         dir->path, AT_PARTITIONS, manifest->partitions);
    memcpy(manifest->database_id, bytes + AT_DATABASE_ID, 16);
    manifest->hash_key.k0 = bkv_get64(bytes + AT_HASH_KEY);
    manifest->hash_key.k1 = bkv_get64(bytes + AT_HASH_KEY + 8);
    manifest->created_ms = bkv_get64(bytes + AT_CREATED);
    return BITKV_OK;
}

int bkv_manifest_read(struct bkv_dir *dir, struct bkv_manifest *manifest)
{
    struct bkv_file file;
    int rc = bkv_file_open(&file, dir, BKV_MANIFEST_NAME, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    uint64_t size;
    rc = bkv_file_size(&file, &size);
    if (rc == BITKV_OK && size != BKV_MANIFEST_SIZE)
        rc = bkv_error(BITKV_ERR_CORRUPT, "%s/" BKV_MANIFEST_NAME " has %llu bytes instead of %u",
                       dir->path, (unsigned long long)size, BKV_MANIFEST_SIZE);
    uint8_t bytes[BKV_MANIFEST_SIZE];
    if (rc == BITKV_OK)
        rc = bkv_file_read_exact(&file, bytes, sizeof bytes, 0);
    bkv_file_close(&file);
    return rc == BITKV_OK ? decode(dir, bytes, manifest) : rc;
}

static int on_data_file(void *user, const char *name)
{
    (void)user;
    uint64_t id;
    return bkv_name_parse(name, &id) == BKV_FILE_DATA ? BITKV_ERR_CORRUPT : BITKV_OK;
}

static int refuse_data(void *user, const char *name)
{
    struct bkv_dir *dir = user;
    static const char prefix[] = "partition_";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strlen(name) >= BKV_NAME_SIZE)
        return BITKV_OK;
    const char *number = name + sizeof prefix - 1;
    if (number[0] == '\0' || number[strspn(number, "0123456789")] != '\0')
        return BITKV_OK;
    int rc = bkv_dir_list(dir, name, NULL, on_data_file);
    if (rc == BITKV_ERR_CORRUPT)
        return bkv_error(rc, "%s has data in %s but no " BKV_MANIFEST_NAME "; restore it",
                         dir->path, name);
    return rc == BITKV_NOT_FOUND ? BITKV_OK : rc; /* what can't be listed may have data */
}

int bkv_manifest_missing(struct bkv_dir *dir)
{
    return bkv_dir_list(dir, NULL, dir, refuse_data);
}
