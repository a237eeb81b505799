/* SPDX-License-Identifier: MIT */
/*
 * Markers: a file in a directory that says what the library means it to be, so
 * that no other directory is ever replaced or removed.
 *
 *   BACKUP       a backup, made or being made, of the database with that id.
 *                Gone once it was opened for writing: then it is a database of
 *                its own, and its data nobody else's
 *   REPARTITION  made, or being made, to replace the database with that id
 *
 *  0  8    magic
 *  8  u32  format version
 * 12  u32  kind
 * 16  16   database id
 * 32  u64  milliseconds since 1970 (for people)
 * 40  u64  BACKUP, finished: data files that it has, else 0
 * 48  u64  their bytes
 * 56  u32  their digest (log/contents.h)
 * 60  u32  CRC-32C of bytes 0-59
 */
#ifndef BKV_LOG_MARKER_H
#define BKV_LOG_MARKER_H

#include "log/contents.h"

#include <stdbool.h>
#include <stdint.h>

#define BKV_MARKER_MAGIC "BITKVMRK"
#define BKV_MARKER_SIZE  64u

#define BKV_BACKUP_NAME      "BACKUP"
#define BKV_REPARTITION_NAME "REPARTITION"

enum bkv_marker {
    BKV_MARKER_BACKUP = 1,
    BKV_MARKER_REPARTITION = 2,
};

const char *bkv_marker_name(enum bkv_marker kind);
/* Durable when it returns. `contents`: of a finished backup, else NULL. */
int bkv_marker_write(struct bkv_dir *dir, enum bkv_marker kind, const uint8_t database_id[16],
                     const struct bkv_contents *contents);
/* *found: there is one that verifies; then `database_id`, and `contents` unless it is
 * NULL, are what it says. Only a system error is a failure. */
int bkv_marker_read(struct bkv_dir *dir, enum bkv_marker kind, bool *found, uint8_t database_id[16],
                    struct bkv_contents *contents);
/* Absent is fine. Not synced. */
int bkv_marker_remove(struct bkv_dir *dir, enum bkv_marker kind);

#endif
