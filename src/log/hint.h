/* SPDX-License-Identifier: MIT */
/*
 * Hint files: what a sealed segment holds, without keys and values, so that
 * an opening need not read them. A hint is written after its segment was
 * synced: that it verifies proves that the whole segment was durable.
 *
 * A hint is bound to its segment by database id, partition, segment id and
 * length, and by checksums over header and entries. One that does not verify
 * is ignored, and made anew.
 */
#ifndef BKV_LOG_HINT_H
#define BKV_LOG_HINT_H

#include "base/hash.h"
#include "io/file.h"
#include "log/format.h"
#include "log/location.h"
#include "log/stream.h"

#include <stdint.h>

/* A record as recovery needs it. */
struct bkv_entry {
    uint64_t lo;     /* of the key's hash */
    uint64_t packed; /* bits 0-11 size code, 12-38 offset, 39-58 tag, 59-60 type */
};

static inline struct bkv_entry bkv_entry(const struct bkv_hash *hash, enum bkv_record_type type,
                                         uint64_t offset, uint64_t size)
{
    return (struct bkv_entry){
        .lo = hash->lo,
        .packed = bkv_location(0, offset, bkv_size_code(size)) |
                  (uint64_t)bkv_hash_tag(hash) << 39 | (uint64_t)type << 59,
    };
}

/* As much of the hash as a KeyDir needs. */
static inline struct bkv_hash bkv_entry_hash(const struct bkv_entry *entry)
{
    return (struct bkv_hash){.lo = entry->lo, .hi = (entry->packed >> 39) & BKV_HASH_TAG_MASK};
}

static inline enum bkv_record_type bkv_entry_type(const struct bkv_entry *entry)
{
    return (enum bkv_record_type)(entry->packed >> 59);
}

/* Location within segment number 0. */
static inline uint64_t bkv_entry_location(const struct bkv_entry *entry)
{
    return entry->packed & ((1ull << 39) - 1);
}

/* What compaction wants to know of a segment. */
struct bkv_summary {
    uint64_t tombstone_bytes;
    uint64_t permanent_bytes;          /* of puts without a deadline */
    uint64_t expiring_bytes;           /* of puts with one */
    uint64_t expires_min, expires_max; /* their deadlines, in ms since 1970 */
};

static inline void bkv_summary_add(struct bkv_summary *s, enum bkv_record_type type, uint64_t size,
                                   uint64_t deadline)
{
    if (type == BKV_RECORD_DELETE)
        s->tombstone_bytes += size;
    if (type == BKV_RECORD_PUT && deadline == UINT64_MAX)
        s->permanent_bytes += size;
    if (type != BKV_RECORD_PUT || deadline == UINT64_MAX)
        return;
    s->expires_min =
        s->expiring_bytes == 0 || deadline < s->expires_min ? deadline : s->expires_min;
    s->expires_max = deadline > s->expires_max ? deadline : s->expires_max;
    s->expiring_bytes += size;
}

struct bkv_hint_info {
    uint32_t partition;
    uint64_t segment_id;
    uint8_t database_id[16];
    uint64_t data_size;      /* bytes of the segment, all described */
    uint64_t count;          /* entries; out of the reader, and counted by the writer */
    uint64_t first_sequence; /* of the first entry; 0: there is none. Compacted: of the range */
    uint64_t last_sequence;  /* in the segment, marks included. Compacted: of the range */
    struct bkv_summary summary;
};

struct bkv_hint_writer {
    struct bkv_dir *dir;
    struct bkv_hint_info info;
    struct bkv_file file;
    struct bkv_writer stream;
};

/* begin, add..., then finish or abandon. The file appears at finish. */
int bkv_hint_begin(struct bkv_hint_writer *writer, struct bkv_dir *dir,
                   const struct bkv_hint_info *info);
int bkv_hint_add(struct bkv_hint_writer *writer, const struct bkv_entry *entry, uint64_t sequence,
                 uint64_t deadline);
int bkv_hint_finish(struct bkv_hint_writer *writer, uint64_t data_size, uint64_t last_sequence,
                    uint64_t *file_size);
void bkv_hint_abandon(struct bkv_hint_writer *writer);

struct bkv_hint_reader {
    struct bkv_hint_info info;
    struct bkv_file file;
    struct bkv_reader stream;
};

/* Verifies the whole file against the four bound fields of `info`. BITKV_OK,
 * BITKV_NOT_FOUND if there is none, BITKV_ERR_CORRUPT with the reason in the
 * context, or a system error. */
int bkv_hint_open(struct bkv_hint_reader *reader, struct bkv_dir *dir,
                  const struct bkv_hint_info *info);
/* The header alone, verified against `info`, which it completes; *file_size of
 * the whole. Results as bkv_hint_open(). */
int bkv_hint_look(struct bkv_dir *dir, struct bkv_hint_info *info, uint64_t *file_size);
/* Entries in order of the log; *count = 0 at the end. */
int bkv_hint_take(struct bkv_hint_reader *reader, struct bkv_entry *entries, size_t max,
                  size_t *count);
void bkv_hint_close(struct bkv_hint_reader *reader);

#endif
