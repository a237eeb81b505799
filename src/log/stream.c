/* SPDX-License-Identifier: MIT */
#include "log/stream.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/memory.h"

#include <inttypes.h>
#include <string.h>

#define BUFFER_SIZE (128u << 10)

int bkv_writer_begin(struct bkv_writer *writer, const struct bkv_file *file, uint64_t offset)
{
    *writer = (struct bkv_writer){.file = file, .offset = offset};
    writer->buffer = bkv_malloc(BUFFER_SIZE);
    if (writer->buffer == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to write %s", file->name);
    return BITKV_OK;
}

int bkv_writer_flush(struct bkv_writer *writer)
{
    int rc = bkv_file_write(writer->file, writer->buffer, writer->used, writer->offset);
    if (rc == BITKV_OK) {
        writer->offset += writer->used;
        writer->used = 0;
    }
    return rc;
}

void *bkv_writer_room(struct bkv_writer *writer, size_t size, int *rc)
{
    BKV_DEBUG_ASSERT(size <= BUFFER_SIZE);
    *rc = BITKV_OK;
    if (writer->used + size > BUFFER_SIZE)
        *rc = bkv_writer_flush(writer);
    return *rc == BITKV_OK ? writer->buffer + writer->used : NULL;
}

void bkv_writer_commit(struct bkv_writer *writer, size_t size)
{
    writer->crc = bkv_crc32c(writer->crc, writer->buffer + writer->used, size);
    writer->used += size;
}

int bkv_writer_add(struct bkv_writer *writer, const void *data, size_t size)
{
    for (const uint8_t *p = data; size > 0;) {
        if (writer->used == BUFFER_SIZE) {
            int rc = bkv_writer_flush(writer);
            if (rc != BITKV_OK)
                return rc;
        }
        size_t n = size < BUFFER_SIZE - writer->used ? size : BUFFER_SIZE - writer->used;
        memcpy(writer->buffer + writer->used, p, n);
        bkv_writer_commit(writer, n);
        p += n;
        size -= n;
    }
    return BITKV_OK;
}

void bkv_writer_end(struct bkv_writer *writer)
{
    bkv_mfree(writer->buffer);
    writer->buffer = NULL;
}

int bkv_reader_begin(struct bkv_reader *reader, const struct bkv_file *file, uint64_t offset,
                     uint64_t end)
{
    *reader = (struct bkv_reader){.file = file, .offset = offset, .end = end};
    reader->buffer = bkv_malloc(BUFFER_SIZE);
    if (reader->buffer == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to read %s", file->name);
    return BITKV_OK;
}

static int fill(struct bkv_reader *reader)
{
    size_t size = (size_t)bkv_min64(BUFFER_SIZE, reader->end - reader->offset);
    int rc = bkv_file_read_exact(reader->file, reader->buffer, size, reader->offset);
    reader->at = 0;
    reader->filled = rc == BITKV_OK ? size : 0;
    return rc;
}

static void account(struct bkv_reader *reader, const void *data, size_t size)
{
    reader->crc = bkv_crc32c(reader->crc, data, size);
    reader->offset += size;
}

int bkv_reader_take(struct bkv_reader *reader, void *data, size_t size)
{
    if (size > bkv_reader_left(reader))
        return bkv_error(BITKV_ERR_CORRUPT, "%s/%s at offset %" PRIu64 ": %zu bytes too short",
                         reader->file->dir->path, reader->file->name, reader->offset, size);
    for (uint8_t *p = data; size > 0;) {
        if (reader->at == reader->filled) {
            if (size >= BUFFER_SIZE) { /* past the buffer: straight to where it belongs */
                int rc = bkv_file_read_exact(reader->file, p, size, reader->offset);
                if (rc == BITKV_OK)
                    account(reader, p, size);
                return rc;
            }
            int rc = fill(reader);
            if (rc != BITKV_OK)
                return rc;
        }
        size_t n = bkv_min64(size, reader->filled - reader->at);
        memcpy(p, reader->buffer + reader->at, n);
        account(reader, p, n);
        reader->at += n;
        p += n;
        size -= n;
    }
    return BITKV_OK;
}

uint64_t bkv_reader_left(const struct bkv_reader *reader)
{
    return reader->end - reader->offset;
}

void bkv_reader_end(struct bkv_reader *reader)
{
    bkv_mfree(reader->buffer);
    reader->buffer = NULL;
}
