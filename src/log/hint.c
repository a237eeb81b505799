/* SPDX-License-Identifier: MIT */
#include "log/hint.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "log/filename.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTITION = 12,
    AT_SEGMENT_ID = 16,
    AT_DATABASE_ID = 24,
    AT_DATA_SIZE = 40,
    AT_COUNT = 48,
    AT_FIRST_SEQUENCE = 56,
    AT_LAST_SEQUENCE = 64,
    AT_TOMBSTONES = 72,
    AT_PERMANENT = 80,
    AT_EXPIRING = 88,
    AT_EXPIRES_MIN = 96,
    AT_EXPIRES_MAX = 104,
    AT_ENTRIES_CRC = 112,
    AT_HEADER_CRC = 116,
};

static_assert(AT_HEADER_CRC + 4 == BKV_HINT_HEADER, "the header ends with its checksum");
static_assert(BKV_SIZE_CODE_BITS + BKV_OFFSET_UNIT_BITS == 39,
              "the packed fields lie side by side");

static void temporary_name(char name[BKV_NAME_SIZE], const struct bkv_hint_info *info)
{
    char final[BKV_NAME_SIZE];
    bkv_name_hint(final, info->partition, info->segment_id);
    (void)snprintf(name, BKV_NAME_SIZE, "%.59s.tmp", final);
}

int bkv_hint_begin(struct bkv_hint_writer *writer, struct bkv_dir *dir,
                   const struct bkv_hint_info *info)
{
    char name[BKV_NAME_SIZE];
    writer->dir = dir;
    writer->info = *info;
    writer->info.count = writer->info.first_sequence = 0;
    writer->info.summary = (struct bkv_summary){0};
    temporary_name(name, info);
    int rc = bkv_file_open(&writer->file, dir, name, O_RDWR | O_CREAT | O_TRUNC);
    if (rc != BITKV_OK)
        return rc < 0 ? rc : BITKV_ERR_IO;
    rc = bkv_writer_begin(&writer->stream, &writer->file, BKV_HINT_HEADER);
    if (rc != BITKV_OK)
        bkv_hint_abandon(writer);
    return rc;
}

int bkv_hint_add(struct bkv_hint_writer *writer, const struct bkv_entry *entry, uint64_t sequence,
                 uint64_t deadline)
{
    int rc;
    uint8_t *bytes = bkv_writer_room(&writer->stream, BKV_HINT_ENTRY, &rc);
    if (bytes == NULL)
        return rc;
    bkv_put64(bytes, entry->lo);
    bkv_put64(bytes + 8, entry->packed);
    bkv_writer_commit(&writer->stream, BKV_HINT_ENTRY);
    if (writer->info.count++ == 0)
        writer->info.first_sequence = sequence;
    bkv_summary_add(&writer->info.summary, bkv_entry_type(entry),
                    bkv_location_size(bkv_entry_location(entry)), deadline);
    return BITKV_OK;
}

static void encode_header(uint8_t header[BKV_HINT_HEADER], const struct bkv_hint_info *info,
                          uint32_t entries_crc)
{
    memset(header, 0, BKV_HINT_HEADER);
    memcpy(header + AT_MAGIC, BKV_HINT_MAGIC, 8);
    bkv_put32(header + AT_VERSION, BKV_FORMAT_VERSION);
    bkv_put32(header + AT_PARTITION, info->partition);
    bkv_put64(header + AT_SEGMENT_ID, info->segment_id);
    memcpy(header + AT_DATABASE_ID, info->database_id, 16);
    bkv_put64(header + AT_DATA_SIZE, info->data_size);
    bkv_put64(header + AT_COUNT, info->count);
    bkv_put64(header + AT_FIRST_SEQUENCE, info->first_sequence);
    bkv_put64(header + AT_LAST_SEQUENCE, info->last_sequence);
    bkv_put64(header + AT_TOMBSTONES, info->summary.tombstone_bytes);
    bkv_put64(header + AT_PERMANENT, info->summary.permanent_bytes);
    bkv_put64(header + AT_EXPIRING, info->summary.expiring_bytes);
    bkv_put64(header + AT_EXPIRES_MIN, info->summary.expires_min);
    bkv_put64(header + AT_EXPIRES_MAX, info->summary.expires_max);
    bkv_put32(header + AT_ENTRIES_CRC, entries_crc);
    bkv_put32(header + AT_HEADER_CRC, bkv_crc32c(0, header, AT_HEADER_CRC));
}

int bkv_hint_finish(struct bkv_hint_writer *writer, uint64_t data_size, uint64_t last_sequence,
                    uint64_t *file_size)
{
    char temporary[BKV_NAME_SIZE];
    char final[BKV_NAME_SIZE];
    temporary_name(temporary, &writer->info);
    bkv_name_hint(final, writer->info.partition, writer->info.segment_id);
    writer->info.data_size = data_size;
    writer->info.last_sequence = last_sequence;

    uint8_t header[BKV_HINT_HEADER];
    encode_header(header, &writer->info, writer->stream.crc);
    int rc = bkv_writer_flush(&writer->stream);
    if (rc == BITKV_OK)
        rc = bkv_file_write(&writer->file, header, sizeof header, 0);
    /* Or a power cut would leave a hint that does not verify, which a strict
     * opening takes for damage. That its entry lasts nobody relies on. */
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&writer->file);
    if (rc == BITKV_OK)
        rc = bkv_dir_rename(writer->dir, temporary, final);
    if (rc != BITKV_OK) {
        bkv_hint_abandon(writer);
        return rc;
    }
    *file_size = writer->stream.offset;
    bkv_writer_end(&writer->stream);
    bkv_file_close(&writer->file);
    return BITKV_OK;
}

void bkv_hint_abandon(struct bkv_hint_writer *writer)
{
    char name[BKV_NAME_SIZE];
    temporary_name(name, &writer->info);
    bkv_writer_end(&writer->stream);
    bkv_file_close(&writer->file);
    (void)bkv_dir_unlink(writer->dir, name); /* a leftover is removed at opening */
}

#define REJECT(reader, offset, what)                                                               \
    bkv_error(BITKV_ERR_CORRUPT, "%s/%s at offset %d: %s", (reader)->file.dir->path,               \
              (reader)->file.name, (int)(offset), (what))

static int check_header(struct bkv_hint_reader *reader, const uint8_t *header,
                        const struct bkv_hint_info *expected, uint64_t file_size)
{
    if (memcmp(header + AT_MAGIC, BKV_HINT_MAGIC, 8) != 0)
        return REJECT(reader, AT_MAGIC, "wrong magic");
    if (bkv_crc32c(0, header, AT_HEADER_CRC) != bkv_get32(header + AT_HEADER_CRC))
        return REJECT(reader, AT_HEADER_CRC, "wrong checksum of the header");
    if (bkv_get32(header + AT_VERSION) != BKV_FORMAT_VERSION)
        return REJECT(reader, AT_VERSION, "unknown format version");
    if (bkv_get32(header + AT_PARTITION) != expected->partition ||
        bkv_get64(header + AT_SEGMENT_ID) != expected->segment_id ||
        memcmp(header + AT_DATABASE_ID, expected->database_id, 16) != 0)
        return REJECT(reader, AT_PARTITION, "belongs to another segment");
    if (bkv_get64(header + AT_DATA_SIZE) > expected->data_size)
        return REJECT(reader, AT_DATA_SIZE, "describes more than the segment has");
    uint64_t count = bkv_get64(header + AT_COUNT);
    if (count > (file_size - BKV_HINT_HEADER) / BKV_HINT_ENTRY ||
        file_size != BKV_HINT_HEADER + count * BKV_HINT_ENTRY)
        return REJECT(reader, AT_COUNT, "number of entries does not fit the file's size");
    reader->info = *expected;
    reader->info.data_size = bkv_get64(header + AT_DATA_SIZE);
    reader->info.count = count;
    reader->info.first_sequence = bkv_get64(header + AT_FIRST_SEQUENCE);
    reader->info.last_sequence = bkv_get64(header + AT_LAST_SEQUENCE);
    reader->info.summary = (struct bkv_summary){
        .tombstone_bytes = bkv_get64(header + AT_TOMBSTONES),
        .permanent_bytes = bkv_get64(header + AT_PERMANENT),
        .expiring_bytes = bkv_get64(header + AT_EXPIRING),
        .expires_min = bkv_get64(header + AT_EXPIRES_MIN),
        .expires_max = bkv_get64(header + AT_EXPIRES_MAX),
    };
    return BITKV_OK;
}

static int check_entries(struct bkv_hint_reader *reader, uint32_t expected_crc, uint64_t file_size)
{
    int rc = bkv_reader_begin(&reader->stream, &reader->file, BKV_HINT_HEADER, file_size);
    struct bkv_entry entries[256];
    size_t count = 1;
    while (rc == BITKV_OK && count > 0)
        rc = bkv_hint_take(reader, entries, 256, &count);
    if (rc == BITKV_OK && reader->stream.crc != expected_crc)
        rc = REJECT(reader, AT_ENTRIES_CRC, "wrong checksum of the entries");
    bkv_reader_end(&reader->stream);
    return rc;
}

/* Opens the file and verifies its header. */
static int open_header(struct bkv_hint_reader *reader, struct bkv_dir *dir,
                       const struct bkv_hint_info *info, uint8_t header[BKV_HINT_HEADER],
                       uint64_t *file_size)
{
    char name[BKV_NAME_SIZE];
    bkv_name_hint(name, info->partition, info->segment_id);
    *reader = (struct bkv_hint_reader){.file = BKV_FILE_NONE};
    int rc = bkv_file_open(&reader->file, dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc;
    rc = bkv_file_size(&reader->file, file_size);
    if (rc == BITKV_OK)
        rc = bkv_file_read_exact(&reader->file, header, BKV_HINT_HEADER, 0);
    if (rc == BITKV_OK)
        rc = check_header(reader, header, info, *file_size);
    return rc;
}

int bkv_hint_open(struct bkv_hint_reader *reader, struct bkv_dir *dir,
                  const struct bkv_hint_info *info)
{
    uint64_t file_size = 0;
    uint8_t header[BKV_HINT_HEADER];
    int rc = open_header(reader, dir, info, header, &file_size);
    if (rc == BITKV_OK)
        rc = check_entries(reader, bkv_get32(header + AT_ENTRIES_CRC), file_size);
    if (rc == BITKV_OK) /* once more, from the page cache, to be used */
        rc = bkv_reader_begin(&reader->stream, &reader->file, BKV_HINT_HEADER, file_size);
    if (rc != BITKV_OK)
        bkv_hint_close(reader);
    return rc;
}

int bkv_hint_look(struct bkv_dir *dir, struct bkv_hint_info *info, uint64_t *file_size)
{
    uint8_t header[BKV_HINT_HEADER];
    struct bkv_hint_reader reader;
    int rc = open_header(&reader, dir, info, header, file_size);
    if (rc == BITKV_OK)
        *info = reader.info;
    bkv_hint_close(&reader);
    return rc;
}

int bkv_hint_take(struct bkv_hint_reader *reader, struct bkv_entry *entries, size_t max,
                  size_t *count)
{
    uint64_t left = bkv_reader_left(&reader->stream) / BKV_HINT_ENTRY;
    *count = (size_t)bkv_min64(max, left);
    for (size_t i = 0; i < *count; i++) {
        uint8_t bytes[BKV_HINT_ENTRY];
        int rc = bkv_reader_take(&reader->stream, bytes, sizeof bytes);
        if (rc != BITKV_OK)
            return rc;
        entries[i] = (struct bkv_entry){
            .lo = bkv_get64(bytes),
            .packed = bkv_get64(bytes + 8),
        };
    }
    return BITKV_OK;
}

void bkv_hint_close(struct bkv_hint_reader *reader)
{
    bkv_reader_end(&reader->stream);
    bkv_file_close(&reader->file);
}
