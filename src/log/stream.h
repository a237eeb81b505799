/* SPDX-License-Identifier: MIT */
/* Buffered sequential writing and reading of a file with a running CRC-32C:
 * for hints and checkpoints, which are larger than one likes to hold twice. */
#ifndef BKV_LOG_STREAM_H
#define BKV_LOG_STREAM_H

#include "io/file.h"

#include <stddef.h>
#include <stdint.h>

struct bkv_writer {
    const struct bkv_file *file;
    uint64_t offset; /* of the first buffered byte */
    uint32_t crc;    /* of all that was added since begin or reset */
    size_t used;
    uint8_t *buffer;
};

int bkv_writer_begin(struct bkv_writer *writer, const struct bkv_file *file, uint64_t offset);
int bkv_writer_add(struct bkv_writer *writer, const void *data, size_t size);
/* Room for `size` (at most 4 KiB) bytes to be filled in place; NULL with an
 * error in *rc. To be followed by bkv_writer_commit() with the same size. */
void *bkv_writer_room(struct bkv_writer *writer, size_t size, int *rc);
void bkv_writer_commit(struct bkv_writer *writer, size_t size);
int bkv_writer_flush(struct bkv_writer *writer);
void bkv_writer_end(struct bkv_writer *writer); /* frees; flush before */

struct bkv_reader {
    const struct bkv_file *file;
    uint64_t offset; /* of the next byte to be handed out */
    uint64_t end;
    uint32_t crc; /* of all that was handed out */
    size_t at, filled;
    uint8_t *buffer;
};

int bkv_reader_begin(struct bkv_reader *reader, const struct bkv_file *file, uint64_t offset,
                     uint64_t end);
/* BITKV_ERR_CORRUPT if less than `size` bytes are left. */
int bkv_reader_take(struct bkv_reader *reader, void *data, size_t size);
uint64_t bkv_reader_left(const struct bkv_reader *reader);
void bkv_reader_end(struct bkv_reader *reader);

#endif
