/* SPDX-License-Identifier: MIT */
#include "log/checkpoint.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/format.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTITION = 12,
    AT_DATABASE_ID = 16,
    AT_START_SEGMENT = 32,
    AT_START_OFFSET = 40,
    AT_START_SEQUENCE = 48,
    AT_END_SEGMENT = 56,
    AT_END_OFFSET = 64,
    AT_NEXT_ID = 72,
    AT_KEYS = 80,
    AT_TABLE = 88,
    AT_SEGMENTS = 96,
    AT_GROUPS = 100,
    AT_GROUPS_CRC = 104,
    AT_HEADER_CRC = 108,
};

static_assert(AT_HEADER_CRC + 4 == BKV_CHECKPOINT_HEADER, "the header ends with its checksum");

static void names(uint32_t partition, char final[BKV_NAME_SIZE], char temporary[BKV_NAME_SIZE])
{
    bkv_name_checkpoint(final, partition);
    (void)snprintf(temporary, BKV_NAME_SIZE, "%.59s.tmp", final);
}

int bkv_checkpoint_begin(struct bkv_checkpoint_writer *writer, struct bkv_dir *dir,
                         uint32_t partition)
{
    char final[BKV_NAME_SIZE];
    char temporary[BKV_NAME_SIZE];
    names(partition, final, temporary);
    writer->dir = dir;
    writer->partition = partition;
    writer->stream.buffer = NULL;
    int rc = bkv_file_open(&writer->file, dir, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (rc != BITKV_OK)
        return rc < 0 ? rc : BITKV_ERR_IO;
    rc = bkv_writer_begin(&writer->stream, &writer->file, BKV_CHECKPOINT_HEADER);
    if (rc != BITKV_OK)
        bkv_checkpoint_abandon(writer);
    return rc;
}

static void encode_segment(uint8_t *bytes, const struct bkv_checkpoint_segment *segment)
{
    bkv_put64(bytes, segment->id);
    bkv_put64(bytes + 8, segment->base_sequence);
    bkv_put64(bytes + 16, segment->size);
    bkv_put64(bytes + 24, segment->last_sequence);
    bkv_put32(bytes + 32, segment->number);
    bkv_put32(bytes + 36, 0);
}

static struct bkv_checkpoint_segment decode_segment(const uint8_t *bytes)
{
    return (struct bkv_checkpoint_segment){
        .id = bkv_get64(bytes),
        .base_sequence = bkv_get64(bytes + 8),
        .size = bkv_get64(bytes + 16),
        .last_sequence = bkv_get64(bytes + 24),
        .number = bkv_get32(bytes + 32),
    };
}

static void encode_header(uint8_t *header, const struct bkv_checkpoint_info *info, uint64_t table,
                          uint32_t groups_crc)
{
    memset(header, 0, BKV_CHECKPOINT_HEADER);
    memcpy(header + AT_MAGIC, BKV_CHECKPOINT_MAGIC, 8);
    bkv_put32(header + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(header + AT_PARTITION, info->partition);
    memcpy(header + AT_DATABASE_ID, info->database_id, 16);
    bkv_put64(header + AT_START_SEGMENT, info->start_segment);
    bkv_put64(header + AT_START_OFFSET, info->start_offset);
    bkv_put64(header + AT_START_SEQUENCE, info->start_sequence);
    bkv_put64(header + AT_END_SEGMENT, info->end_segment);
    bkv_put64(header + AT_END_OFFSET, info->end_offset);
    bkv_put64(header + AT_NEXT_ID, info->next_segment_id);
    bkv_put64(header + AT_KEYS, info->keys);
    bkv_put64(header + AT_TABLE, table);
    bkv_put32(header + AT_SEGMENTS, info->segments);
    bkv_put32(header + AT_GROUPS, info->groups);
    bkv_put32(header + AT_GROUPS_CRC, groups_crc);
}

/* Behind the groups, with a CRC that goes on from the header's. */
static int write_table(struct bkv_checkpoint_writer *writer,
                       const struct bkv_checkpoint_segment *segments, uint32_t count, uint32_t *crc)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[BKV_CHECKPOINT_SEGMENT];
        encode_segment(bytes, &segments[i]);
        *crc = bkv_crc32c(*crc, bytes, sizeof bytes);
        int rc = bkv_writer_add(&writer->stream, bytes, sizeof bytes);
        if (rc != BITKV_OK)
            return rc;
    }
    return bkv_writer_flush(&writer->stream);
}

int bkv_checkpoint_finish(struct bkv_checkpoint_writer *writer,
                          const struct bkv_checkpoint_info *info,
                          const struct bkv_checkpoint_segment *segments, uint64_t *file_size)
{
    char final[BKV_NAME_SIZE];
    char temporary[BKV_NAME_SIZE];
    char directory[BKV_NAME_SIZE];
    names(writer->partition, final, temporary);
    bkv_name_partition(directory, writer->partition);

    uint8_t header[BKV_CHECKPOINT_HEADER];
    encode_header(header, info, writer->stream.offset + writer->stream.used, writer->stream.crc);
    uint32_t crc = bkv_crc32c(0, header, AT_HEADER_CRC);
    int rc = write_table(writer, segments, info->segments, &crc);
    bkv_put32(header + AT_HEADER_CRC, crc);
    if (rc == BITKV_OK)
        rc = bkv_file_write(&writer->file, header, sizeof header, 0);
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&writer->file);
    if (rc == BITKV_OK)
        rc = bkv_dir_rename(writer->dir, temporary, final);
    if (rc == BITKV_OK)
        rc = bkv_dir_sync(writer->dir, directory);
    if (rc != BITKV_OK) {
        bkv_checkpoint_abandon(writer);
        return rc;
    }
    *file_size = writer->stream.offset;
    bkv_writer_end(&writer->stream);
    bkv_file_close(&writer->file);
    return BITKV_OK;
}

void bkv_checkpoint_abandon(struct bkv_checkpoint_writer *writer)
{
    char final[BKV_NAME_SIZE];
    char temporary[BKV_NAME_SIZE];
    names(writer->partition, final, temporary);
    bkv_writer_end(&writer->stream);
    bkv_file_close(&writer->file);
    (void)bkv_dir_unlink(writer->dir, temporary);
}

#define REJECT(reader, offset, what)                                                               \
    bkv_error(BITKV_ERR_CORRUPT, "%s/%s at offset %d: %s", (reader)->file.dir->path,               \
              (reader)->file.name, (int)(offset), (what))

static int check_header(struct bkv_checkpoint_reader *reader, const uint8_t *header,
                        uint32_t partition, const uint8_t database_id[16])
{
    if (memcmp(header + AT_MAGIC, BKV_CHECKPOINT_MAGIC, 8) != 0)
        return REJECT(reader, AT_MAGIC, "wrong magic");
    if (bkv_get32(header + AT_VERSION) != BKV_FORMAT_VERSION)
        return REJECT(reader, AT_VERSION, "unknown format version");
    if (bkv_get32(header + AT_PARTITION) != partition ||
        memcmp(header + AT_DATABASE_ID, database_id, 16) != 0)
        return REJECT(reader, AT_PARTITION, "belongs to another partition");
    struct bkv_checkpoint_info *info = &reader->info;
    info->partition = partition;
    memcpy(info->database_id, database_id, 16);
    info->start_segment = bkv_get64(header + AT_START_SEGMENT);
    info->start_offset = bkv_get64(header + AT_START_OFFSET);
    info->start_sequence = bkv_get64(header + AT_START_SEQUENCE);
    info->end_segment = bkv_get64(header + AT_END_SEGMENT);
    info->end_offset = bkv_get64(header + AT_END_OFFSET);
    info->next_segment_id = bkv_get64(header + AT_NEXT_ID);
    info->keys = bkv_get64(header + AT_KEYS);
    info->segments = bkv_get32(header + AT_SEGMENTS);
    info->groups = bkv_get32(header + AT_GROUPS);
    reader->groups_crc = bkv_get32(header + AT_GROUPS_CRC);
    uint64_t table = bkv_get64(header + AT_TABLE);
    if (info->segments == 0 || info->segments > BKV_SEGMENTS_MAX || table < BKV_CHECKPOINT_HEADER ||
        table > reader->file_size ||
        reader->file_size - table != (uint64_t)info->segments * BKV_CHECKPOINT_SEGMENT)
        return REJECT(reader, AT_TABLE, "the table does not fit the file's size");
    return BITKV_OK;
}

static int read_table(struct bkv_checkpoint_reader *reader, const uint8_t *header)
{
    uint64_t table = bkv_get64(header + AT_TABLE);
    reader->table = bkv_calloc(reader->info.segments, sizeof *reader->table);
    if (reader->table == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a checkpoint's table");
    struct bkv_reader stream;
    int rc = bkv_reader_begin(&stream, &reader->file, table, reader->file_size);
    stream.crc = bkv_crc32c(0, header, AT_HEADER_CRC);
    for (uint32_t i = 0; rc == BITKV_OK && i < reader->info.segments; i++) {
        uint8_t bytes[BKV_CHECKPOINT_SEGMENT];
        rc = bkv_reader_take(&stream, bytes, sizeof bytes);
        reader->table[i] = decode_segment(bytes);
    }
    if (rc == BITKV_OK && stream.crc != bkv_get32(header + AT_HEADER_CRC))
        rc = REJECT(reader, AT_HEADER_CRC, "wrong checksum of header and table");
    bkv_reader_end(&stream);
    return rc;
}

int bkv_checkpoint_open(struct bkv_checkpoint_reader *reader, struct bkv_dir *dir,
                        uint32_t partition, const uint8_t database_id[16])
{
    char final[BKV_NAME_SIZE];
    char temporary[BKV_NAME_SIZE];
    names(partition, final, temporary);
    *reader = (struct bkv_checkpoint_reader){.file = BKV_FILE_NONE};
    int rc = bkv_file_open(&reader->file, dir, final, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    uint8_t header[BKV_CHECKPOINT_HEADER] = {0};
    rc = bkv_file_size(&reader->file, &reader->file_size);
    if (rc == BITKV_OK)
        rc = bkv_file_read_exact(&reader->file, header, sizeof header, 0);
    if (rc == BITKV_OK)
        rc = check_header(reader, header, partition, database_id);
    if (rc == BITKV_OK)
        rc = read_table(reader, header);
    if (rc == BITKV_OK)
        rc = bkv_reader_begin(&reader->stream, &reader->file, BKV_CHECKPOINT_HEADER,
                              bkv_get64(header + AT_TABLE));
    if (rc != BITKV_OK)
        bkv_checkpoint_close(reader);
    return rc;
}

int bkv_checkpoint_groups_verify(const struct bkv_checkpoint_reader *reader)
{
    if (bkv_reader_left(&reader->stream) != 0 || reader->stream.crc != reader->groups_crc)
        return REJECT(reader, AT_GROUPS_CRC, "wrong checksum of the groups");
    return BITKV_OK;
}

void bkv_checkpoint_close(struct bkv_checkpoint_reader *reader)
{
    bkv_reader_end(&reader->stream);
    bkv_mfree(reader->table);
    reader->table = NULL;
    bkv_file_close(&reader->file);
}
