/* SPDX-License-Identifier: MIT */
/*
 * Segments: the header, and the scanner over what follows it. First byte: 1
 * mends the header's checksum, 2 those of the records.
 *
 * The scanner's items must lie one behind the other without a gap, and a record
 * must verify by itself.
 */
#include "fuzz/fuzz.h"

#include "base/bytes.h"
#include "damage/lab.h"
#include "log/record.h"
#include "log/scan.h"
#include "log/segment.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PARTITION 1u
#define ID        5u

static void check_item(const struct bkv_scan_item *item, const struct fuzz_file *file,
                       uint64_t seed)
{
    if (item->kind == BKV_SCAN_END) {
        for (uint64_t i = item->offset; i < item->offset + item->size; i++)
            FUZZ_CHECK(file->data[i] == 0, "not zero at %llu", (unsigned long long)i);
        return;
    }
    FUZZ_CHECK(item->size > 0, "nothing at %llu", (unsigned long long)item->offset);
    if (item->kind != BKV_SCAN_RECORD)
        return;
    const uint8_t *bytes = file->data + item->offset;
    struct bkv_record record;
    FUZZ_CHECK(bkv_record_verify(bytes, item->size, seed, item->offset, &record),
               "the record at %llu", (unsigned long long)item->offset);
    FUZZ_CHECK(memcmp(item->key, bkv_record_key(bytes), record.key_size) == 0, "another key");
    FUZZ_CHECK(item->deadline == bkv_record_deadline(bytes), "another deadline");
    if (item->value != NULL && record.value_size > 0)
        FUZZ_CHECK(memcmp(item->value, bkv_record_value(bytes, &record), record.value_size) == 0,
                   "another value");
}

static void scan(struct bkv_file *file, const struct fuzz_file *content, uint64_t seed)
{
    struct bkv_scanner scanner;
    int rc = bkv_scanner_begin(&scanner, file, seed, BKV_SEGMENT_HEADER, content->size);
    FUZZ_CHECK(rc == BITKV_OK, "begin: %d", rc);
    uint64_t at = BKV_SEGMENT_HEADER;
    for (;;) {
        struct bkv_scan_item item;
        rc = bkv_scanner_next(&scanner, &item);
        FUZZ_CHECK(rc == BITKV_OK, "next: %d", rc);
        FUZZ_CHECK(item.offset == at && item.offset + item.size <= content->size,
                   "[%llu, +%llu) behind %llu", (unsigned long long)item.offset,
                   (unsigned long long)item.size, (unsigned long long)at);
        at += item.size;
        check_item(&item, content, seed);
        if (item.kind == BKV_SCAN_END)
            break;
    }
    FUZZ_CHECK(at == content->size, "ends at %llu", (unsigned long long)at);
    bkv_scanner_end(&scanner);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct fuzz_file content = {.data = NULL};
    fuzz_files_take(&in, &content, 1);
    uint64_t seed = bkv_segment_seed(lab_manifest_2.database_id, PARTITION, ID);
    if ((flags & 1) != 0)
        fuzz_mend_segment(&content);
    if ((flags & 2) != 0)
        fuzz_mend_records(&content, BKV_SEGMENT_HEADER, seed);

    struct bkv_file file;
    struct bkv_dir *dir = fuzz_memory_begin(content.data, content.size);
    FUZZ_CHECK(bkv_file_open(&file, dir, "partition_1/data_5.db", O_RDONLY) == BITKV_OK, "open");
    struct bkv_segment_header header = {.partition = PARTITION, .id = ID};
    memcpy(header.database_id, lab_manifest_2.database_id, sizeof header.database_id);
    enum bkv_segment_state state;
    int rc = bkv_segment_header_read(&file, &header, &state);
    FUZZ_CHECK(rc == BITKV_OK, "header: %d", rc);
    /* Scanned whatever the header is worth: recovery looks behind a damaged one. */
    if (content.size >= BKV_SEGMENT_HEADER)
        scan(&file, &content, seed);
    bkv_file_close(&file);
    fuzz_memory_end();
    fuzz_files_free(&content, 1);
    return 0;
}
