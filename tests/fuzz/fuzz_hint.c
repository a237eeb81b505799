/* SPDX-License-Identifier: MIT */
/* Hints. First byte: 1 mends the checksums. Then u32 bytes of the segment, then
 * the file. */
#include "fuzz/fuzz.h"

#include "damage/lab.h"
#include "log/hint.h"

#include <stdlib.h>
#include <string.h>

static uint64_t read_entries(struct bkv_hint_reader *reader)
{
    uint64_t seen = 0;
    for (;;) {
        struct bkv_entry entries[7]; /* so that a read does not end where a buffer does */
        size_t count = 0;
        int rc = bkv_hint_take(reader, entries, 7, &count);
        FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT, "take: %d", rc);
        if (rc != BITKV_OK || count == 0)
            return seen;
        FUZZ_CHECK(count <= 7, "%zu entries", count);
        seen += count;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct bkv_hint_info info = {.partition = 0, .segment_id = 1};
    info.data_size = fuzz_u16(&in);
    info.data_size |= (uint64_t)fuzz_u16(&in) << 16;
    memcpy(info.database_id, lab_manifest_2.database_id, sizeof info.database_id);
    struct fuzz_file content = {.data = malloc(in.size + 1), .size = in.size};
    FUZZ_CHECK(content.data != NULL, "out of memory");
    if (in.size > 0)
        memcpy(content.data, in.data, in.size);
    if ((flags & 1) != 0)
        fuzz_mend_hint(&content);

    struct bkv_dir *dir = fuzz_memory_begin(content.data, content.size);
    struct bkv_hint_info looked = info;
    uint64_t file_size = 0;
    int look_rc = bkv_hint_look(dir, &looked, &file_size);
    FUZZ_CHECK(look_rc == BITKV_OK || look_rc == BITKV_ERR_CORRUPT, "look: %d", look_rc);
    struct bkv_hint_reader reader;
    int rc = bkv_hint_open(&reader, dir, &info);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT, "open: %d", rc);
    if (rc == BITKV_OK) {
        FUZZ_CHECK(look_rc == BITKV_OK, "the whole verifies, its header does not");
        FUZZ_CHECK(file_size == content.size, "%llu bytes", (unsigned long long)file_size);
        uint64_t seen = read_entries(&reader);
        FUZZ_CHECK(seen == reader.info.count, "%llu entries", (unsigned long long)seen);
        bkv_hint_close(&reader);
    }
    fuzz_memory_end();
    free(content.data);
    return 0;
}
