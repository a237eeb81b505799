/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints, and the KeyDir's image in them. First byte: 1 mends the
 * checksums; then the file in chunks. An image that the KeyDir accepts must be
 * one that it can work with, whoever wrote it: it is scanned, looked up, changed.
 */
#include "fuzz/fuzz.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "damage/lab.h"
#include "keydir/keydir.h"
#include "log/checkpoint.h"

#include <stdlib.h>
#include <string.h>

static bool any_location(void *user, uint64_t location)
{
    (void)user;
    return location != 0;
}

static int load_group(struct bkv_keydir *keydir, struct bkv_reader *stream)
{
    uint8_t header[BKV_KEYDIR_GROUP_HEADER_SIZE];
    void *memory[BKV_KEYDIR_GROUP_PAGES_MAX];
    int rc = bkv_reader_take(stream, header, sizeof header);
    uint32_t pages = rc == BITKV_OK ? bkv_get32(header) : 0;
    if (rc == BITKV_OK)
        rc = bkv_keydir_load_group(keydir, pages, memory);
    for (uint32_t i = 0; rc == BITKV_OK && i < pages; i++)
        rc = bkv_reader_take(stream, memory[i], BKV_KEYDIR_PAGE_SIZE);
    if (rc == BITKV_OK)
        rc = bkv_keydir_load_group_finish(keydir, bkv_get32(header + 4), any_location, NULL);
    return rc;
}

static struct bkv_hash hash_of(const struct bkv_keydir_entry *entry)
{
    return (struct bkv_hash){.lo = entry->lo, .hi = entry->tag};
}

static uint64_t elsewhere(uint64_t location)
{
    uint64_t other = location ^ UINT64_C(1) << 20;
    return other != 0 ? other : 1;
}

/* Each key that a scan shows is found, moves, and goes. */
static void work_with(struct bkv_keydir *keydir)
{
    struct bkv_keydir_entries entries = {0};
    uint64_t cursor = 0;
    uint64_t seen = 0;
    uint64_t count = bkv_keydir_count(keydir);
    do {
        FUZZ_CHECK(bkv_keydir_scan(keydir, &cursor, &entries) == BITKV_OK, "scan");
        seen += entries.count;
        for (size_t i = 0; i < entries.count; i++) {
            struct bkv_hash hash = hash_of(&entries.items[i]);
            uint64_t location = 0;
            FUZZ_CHECK(bkv_keydir_find(keydir, &hash, &location) &&
                           location == entries.items[i].location,
                       "a scanned key is not found");
            FUZZ_CHECK(bkv_keydir_replace(keydir, &hash, location, elsewhere(location)) == BITKV_OK,
                       "replace");
            if (i % 2 == 0) {
                FUZZ_CHECK(bkv_keydir_remove(keydir, &hash) == elsewhere(location), "remove");
                FUZZ_CHECK(!bkv_keydir_find(keydir, &hash, &location), "found what is gone");
            }
        }
    } while (cursor != 0);
    FUZZ_CHECK(seen == count, "%llu keys scanned, %llu counted", (unsigned long long)seen,
               (unsigned long long)count);
    bkv_keydir_entries_free(&entries);
    for (uint64_t i = 0; i < 300; i++) { /* over a step of growth */
        struct bkv_hash hash = bkv_hash(&lab_manifest_1.hash_key, &i, sizeof i);
        uint64_t location = 0;
        int rc = bkv_keydir_prepare(keydir, &hash);
        if (rc == BITKV_ERR_LIMIT) /* hostile keys may crowd; then a put fails */
            continue;
        FUZZ_CHECK(rc == BITKV_OK, "prepare: %d", rc);
        (void)bkv_keydir_put(keydir, &hash, i + 1);
        FUZZ_CHECK(bkv_keydir_find(keydir, &hash, &location) && location == i + 1, "put");
    }
}

static void load(struct bkv_checkpoint_reader *reader)
{
    struct bkv_keydir *keydir;
    FUZZ_CHECK(bkv_keydir_create(&keydir) == BITKV_OK, "create");
    int rc = bkv_keydir_load_begin(keydir, reader->info.groups);
    for (uint32_t i = 0; rc == BITKV_OK && i < reader->info.groups; i++)
        rc = load_group(keydir, &reader->stream);
    if (rc == BITKV_OK)
        rc = bkv_checkpoint_groups_verify(reader);
    if (rc == BITKV_OK)
        rc = bkv_keydir_load_end(keydir);
    if (rc != BITKV_OK)
        bkv_keydir_load_abort(keydir);
    work_with(keydir);
    bkv_keydir_destroy(keydir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct fuzz_file content = {.data = NULL};
    fuzz_files_take(&in, &content, 1);
    if ((flags & 1) != 0)
        fuzz_mend_checkpoint(&content);
    struct bkv_dir *dir = fuzz_memory_begin(content.data, content.size);
    struct bkv_checkpoint_reader reader;
    int rc = bkv_checkpoint_open(&reader, dir, 0, lab_manifest_2.database_id);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT, "open: %d", rc);
    if (rc == BITKV_OK) {
        load(&reader);
        bkv_checkpoint_close(&reader);
    }
    fuzz_memory_end();
    fuzz_files_free(&content, 1);
    return 0;
}
