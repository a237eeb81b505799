/* SPDX-License-Identifier: MIT */
/*
 * Sequential reading of a segment: every record verified, and behind one that
 * does not verify the next that does (resynchronisation). Reads with pread():
 * an I/O error is a code, and nothing is mapped. Memory is one window,
 * whatever sizes the file claims.
 *
 * Resynchronising tries every multiple of 8 bytes. What merely looks like a
 * header costs a CRC over the size that it claims, so a hostile file could ask
 * for quadratic work: a budget of a few times the file's length bounds it, and
 * when it is spent, the rest of the file is one damaged region.
 */
#ifndef BKV_LOG_SCAN_H
#define BKV_LOG_SCAN_H

#include "io/file.h"
#include "log/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bkv_scan_kind {
    BKV_SCAN_RECORD, /* offset, size, record, key; value if it fits the window */
    BKV_SCAN_DAMAGE, /* [offset, offset + size) does not verify */
    BKV_SCAN_END,    /* nothing but zeros from offset on, size bytes of them */
};

struct bkv_scan_item {
    enum bkv_scan_kind kind;
    uint64_t offset, size;
    struct bkv_record record;
    uint64_t deadline;    /* UINT64_MAX: never */
    const uint8_t *key;   /* valid until the next call */
    const uint8_t *value; /* NULL if the record is larger than the window */
};

struct bkv_scanner {
    const struct bkv_file *file;
    uint64_t seed;
    uint64_t position, end;
    uint64_t budget; /* bytes of CRC left for resynchronising */
    uint8_t *window;
    uint64_t window_offset;
    size_t window_size;
};

/* Scans [start, end); both multiples of 8 but for the end of a torn file. */
int bkv_scanner_begin(struct bkv_scanner *scanner, const struct bkv_file *file, uint64_t seed,
                      uint64_t start, uint64_t end);
int bkv_scanner_next(struct bkv_scanner *scanner, struct bkv_scan_item *item);
/* The record at the position, if *there, which is then behind it. Nothing is said of
 * what does not verify. BITKV_ERR_CORRUPT if the file has become shorter. */
int bkv_scanner_try(struct bkv_scanner *scanner, struct bkv_scan_item *item, bool *there);
/* The file may have changed: forget what was read, and end where it ends now. */
int bkv_scanner_renew(struct bkv_scanner *scanner);
/* Go on at another position. */
void bkv_scanner_seek(struct bkv_scanner *scanner, uint64_t position);
void bkv_scanner_end(struct bkv_scanner *scanner);

#endif
