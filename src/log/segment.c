/* SPDX-License-Identifier: MIT */
#include "log/segment.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"

#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTITION = 12,
    AT_ID = 16,
    AT_DATABASE_ID = 24,
    AT_BASE_SEQUENCE = 40,
    AT_KIND = 48,
    AT_LAST_SEQUENCE = 52,
    AT_CRC = 60,
};

void bkv_segment_header_encode(uint8_t bytes[BKV_SEGMENT_HEADER],
                               const struct bkv_segment_header *header)
{
    memset(bytes, 0, BKV_SEGMENT_HEADER);
    memcpy(bytes + AT_MAGIC, BKV_SEGMENT_MAGIC, 8);
    bkv_put32(bytes + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(bytes + AT_PARTITION, header->partition);
    bkv_put64(bytes + AT_ID, header->id);
    memcpy(bytes + AT_DATABASE_ID, header->database_id, 16);
    bkv_put64(bytes + AT_BASE_SEQUENCE, header->base_sequence);
    bytes[AT_KIND] = header->kind;
    bkv_put64(bytes + AT_LAST_SEQUENCE, header->last_sequence);
    bkv_put32(bytes + AT_CRC, bkv_crc32c(0, bytes, AT_CRC));
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

static enum bkv_segment_state judge(const uint8_t *bytes, const struct bkv_segment_header *expected)
{
    if (all_zero(bytes, BKV_SEGMENT_HEADER))
        return BKV_SEGMENT_BLANK;
    if (memcmp(bytes + AT_MAGIC, BKV_SEGMENT_MAGIC, 8) != 0 ||
        bkv_crc32c(0, bytes, AT_CRC) != bkv_get32(bytes + AT_CRC))
        return BKV_SEGMENT_DAMAGED;
    if (bkv_get32(bytes + AT_VERSION) != BKV_FORMAT_VERSION)
        return BKV_SEGMENT_NEWER;
    if (bkv_get32(bytes + AT_PARTITION) != expected->partition ||
        bkv_get64(bytes + AT_ID) != expected->id ||
        memcmp(bytes + AT_DATABASE_ID, expected->database_id, 16) != 0)
        return BKV_SEGMENT_FOREIGN;
    if (bytes[AT_KIND] > BKV_SEGMENT_COMPACTED)
        return BKV_SEGMENT_NEWER;
    if (bytes[AT_KIND] == BKV_SEGMENT_COMPACTED &&
        (bkv_get64(bytes + AT_LAST_SEQUENCE) < bkv_get64(bytes + AT_BASE_SEQUENCE) ||
         bkv_get64(bytes + AT_LAST_SEQUENCE) > UINT64_MAX / 2))
        return BKV_SEGMENT_DAMAGED;
    return BKV_SEGMENT_VALID;
}

int bkv_segment_header_read(const struct bkv_file *file, struct bkv_segment_header *expected,
                            enum bkv_segment_state *state)
{
    uint8_t bytes[BKV_SEGMENT_HEADER] = {0};
    size_t got;
    int rc = bkv_file_read(file, bytes, sizeof bytes, 0, &got);
    if (rc != BITKV_OK)
        return rc;
    *state = judge(bytes, expected);
    if (*state == BKV_SEGMENT_VALID) {
        expected->base_sequence = bkv_get64(bytes + AT_BASE_SEQUENCE);
        expected->last_sequence = bkv_get64(bytes + AT_LAST_SEQUENCE);
        expected->kind = bytes[AT_KIND];
    }
    return BITKV_OK;
}
