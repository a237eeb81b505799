/* SPDX-License-Identifier: MIT */
#include "log/scan.h"

#include "base/assert.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/memory.h"

#define BUDGET_FACTOR 4u
#define BUDGET_FLOOR  (64u << 20)

int bkv_scanner_begin(struct bkv_scanner *scanner, const struct bkv_file *file, uint64_t seed,
                      uint64_t start, uint64_t end)
{
    *scanner = (struct bkv_scanner){.file = file, .seed = seed, .position = start, .end = end};
    if (start < end)
        scanner->budget = (end - start) * BUDGET_FACTOR + BUDGET_FLOOR;
    scanner->window = bkv_malloc(BKV_SCAN_WINDOW_BYTES);
    if (scanner->window == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to read %s", file->name);
    return BITKV_OK;
}

void bkv_scanner_seek(struct bkv_scanner *scanner, uint64_t position)
{
    scanner->position = position;
}

void bkv_scanner_end(struct bkv_scanner *scanner)
{
    bkv_mfree(scanner->window);
    scanner->window = NULL;
}

/* Bytes [offset, offset + size) in memory, size being at most the window's.
 * The caller stays below scanner->end; BITKV_ERR_CORRUPT if the file turns out
 * to be shorter. */
static int fetch(struct bkv_scanner *s, uint64_t offset, size_t size, const uint8_t **bytes)
{
    BKV_DEBUG_ASSERT(size <= BKV_SCAN_WINDOW_BYTES && offset + size <= s->end);
    if (BKV_UNLIKELY(offset < s->window_offset ||
                     offset + size > s->window_offset + s->window_size)) {
        size_t want = (size_t)bkv_min64(BKV_SCAN_WINDOW_BYTES, s->end - offset);
        s->window_size = 0;
        int rc = bkv_file_read_exact(s->file, s->window, want, offset);
        if (rc != BITKV_OK)
            return rc;
        s->window_offset = offset;
        s->window_size = want;
    }
    *bytes = s->window + (offset - s->window_offset);
    return BITKV_OK;
}

/* Verifies a record that is larger than the window, a window at a time; `bytes` is
 * its header, in the window for now. */
static int verify_large(struct bkv_scanner *s, uint64_t offset, uint64_t size, const uint8_t *bytes,
                        bool *valid)
{
    uint64_t sequence = bkv_record_peek(bytes).sequence;
    uint32_t expected = bkv_get32(bytes + BKV_RECORD_CRC);
    uint32_t crc = bkv_record_crc_begin(bytes);
    for (uint64_t at = BKV_RECORD_HEADER; at < size;) {
        size_t n = (size_t)bkv_min64(BKV_SCAN_WINDOW_BYTES, size - at);
        int rc = fetch(s, offset + at, n, &bytes);
        if (rc != BITKV_OK)
            return rc;
        crc = bkv_crc32c(crc, bytes, n);
        at += n;
    }
    *valid = bkv_crc32c_words(crc, sequence, s->seed, offset) == expected;
    return BITKV_OK;
}

/* Is there a record at `offset`? If so, fills `item`; else `*tried` is how many
 * bytes it cost to find out. Candidates above `size_max` are not tried. */
static int try_record(struct bkv_scanner *s, uint64_t offset, uint64_t size_max,
                      struct bkv_scan_item *item, bool *valid, uint64_t *tried)
{
    *valid = false;
    *tried = 0;
    if (s->end - offset < BKV_RECORD_HEADER)
        return BITKV_OK;
    const uint8_t *bytes;
    int rc = fetch(s, offset, BKV_RECORD_HEADER, &bytes);
    if (rc != BITKV_OK)
        return rc;
    struct bkv_record record = bkv_record_peek(bytes);
    if (!bkv_record_plausible(&record))
        return BITKV_OK;
    uint64_t size = bkv_record_size_of(&record);
    if (size > s->end - offset || size > size_max)
        return BITKV_OK;
    *tried = size;
    bool whole = size <= BKV_SCAN_WINDOW_BYTES;
    if (whole) {
        rc = fetch(s, offset, (size_t)size, &bytes);
        if (rc == BITKV_OK)
            *valid = bkv_record_verify(bytes, size, s->seed, offset, &record);
    } else {
        rc = verify_large(s, offset, size, bytes, valid);
        if (rc == BITKV_OK && *valid) /* the key, again */
            rc = fetch(s, offset,
                       BKV_RECORD_HEADER + bkv_record_prefix(record.flags) + record.key_size,
                       &bytes);
    }
    if (rc == BITKV_OK && *valid) {
        *item = (struct bkv_scan_item){
            .kind = BKV_SCAN_RECORD,
            .offset = offset,
            .size = size,
            .record = record,
            .deadline = bkv_record_deadline(bytes),
            .key = bkv_record_key(bytes),
            .value = whole ? bkv_record_value(bytes, &record) : NULL,
        };
    }
    return rc;
}

/* Are there only zeros from `offset` on? */
static int zeros_to_end(struct bkv_scanner *s, uint64_t offset, bool *zeros)
{
    *zeros = false;
    for (uint64_t at = offset; at < s->end;) {
        const uint8_t *bytes;
        size_t n = (size_t)bkv_min64(BKV_SCAN_WINDOW_BYTES, s->end - at);
        /* A short look first: most often the answer is no. */
        if (at == offset)
            n = (size_t)bkv_min64(n, 64);
        int rc = fetch(s, at, n, &bytes);
        if (rc != BITKV_OK)
            return rc;
        uint64_t any = 0;
        size_t i = 0;
        for (; i + 8 <= n; i += 8)
            any |= bkv_get64(bytes + i);
        for (; i < n; i++)
            any |= bytes[i];
        if (any != 0)
            return BITKV_OK;
        at += n;
    }
    *zeros = true;
    return BITKV_OK;
}

/* Where the zeros begin that reach to the end; `from` is not among them. */
static int end_without_zeros(struct bkv_scanner *s, uint64_t from, uint64_t *end)
{
    *end = from + BKV_RECORD_ALIGNMENT;
    for (uint64_t at = from; at < s->end;) {
        const uint8_t *bytes;
        size_t n = (size_t)bkv_min64(BKV_SCAN_WINDOW_BYTES, s->end - at);
        int rc = fetch(s, at, n, &bytes);
        if (rc != BITKV_OK)
            return rc;
        size_t used = n;
        while (used > 0 && bytes[used - 1] == 0)
            used--;
        if (used > 0)
            *end = bkv_align_up(at + used, BKV_RECORD_ALIGNMENT);
        at += n;
    }
    *end = bkv_min64(*end, s->end);
    return BITKV_OK;
}

/* The first offset at or above `from` where a record verifies, or the end. */
static int resynchronise(struct bkv_scanner *s, uint64_t from, uint64_t *found)
{
    for (uint64_t at = from; at < s->end; at += BKV_RECORD_ALIGNMENT) {
        struct bkv_scan_item item;
        bool valid;
        uint64_t tried;
        int rc = try_record(s, at, s->budget, &item, &valid, &tried);
        if (rc != BITKV_OK)
            return rc;
        if (valid) {
            *found = at;
            return BITKV_OK;
        }
        s->budget -= tried;
    }
    *found = s->end;
    return BITKV_OK;
}

int bkv_scanner_next(struct bkv_scanner *s, struct bkv_scan_item *item)
{
    uint64_t at = s->position;
    *item = (struct bkv_scan_item){.kind = BKV_SCAN_END, .offset = at};
    if (at >= s->end)
        return BITKV_OK;
    bool valid;
    uint64_t tried;
    int rc = try_record(s, at, s->budget, item, &valid, &tried);
    if (rc != BITKV_OK)
        return rc;
    if (valid) {
        s->position = at + item->size;
        return BITKV_OK;
    }
    s->budget -= tried; /* here too, or a valid record after each claim renews it */
    bool zeros;
    rc = zeros_to_end(s, at, &zeros);
    if (rc != BITKV_OK)
        return rc;
    if (zeros) {
        item->size = s->end - at;
        s->position = s->end;
        return BITKV_OK;
    }
    uint64_t next = s->end;
    rc = resynchronise(s, at + BKV_RECORD_ALIGNMENT, &next);
    if (rc != BITKV_OK)
        return rc;
    if (next == s->end) /* space that was reserved and not reached is no damage */
        rc = end_without_zeros(s, at, &next);
    if (rc != BITKV_OK)
        return rc;
    item->kind = BKV_SCAN_DAMAGE;
    item->size = next - at;
    s->position = next;
    return BITKV_OK;
}

int bkv_scanner_try(struct bkv_scanner *s, struct bkv_scan_item *item, bool *there)
{
    uint64_t tried;
    *there = false;
    if (s->position >= s->end)
        return BITKV_OK;
    int rc = try_record(s, s->position, UINT64_MAX, item, there, &tried);
    if (rc == BITKV_OK && *there)
        s->position += item->size;
    return rc;
}

int bkv_scanner_renew(struct bkv_scanner *s)
{
    s->window_size = 0;
    return bkv_file_size(s->file, &s->end);
}
