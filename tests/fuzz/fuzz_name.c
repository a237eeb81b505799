/* SPDX-License-Identifier: MIT */
/* Names of files: what the parser takes for ours is spelled as we spell it. */
#include "fuzz/fuzz.h"

#include "log/filename.h"

#include <stdlib.h>
#include <string.h>

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash != NULL ? slash + 1 : name;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *name = malloc(size + 1);
    FUZZ_CHECK(name != NULL, "out of memory");
    if (size > 0)
        memcpy(name, data, size);
    name[size] = '\0';

    char spelled[BKV_NAME_SIZE] = "";
    uint32_t partition;
    if (bkv_name_parse_partition(name, &partition)) {
        bkv_name_partition(spelled, partition);
        FUZZ_CHECK(strcmp(spelled, name) == 0, "%s for %s", spelled, name);
    }
    uint64_t id = 0;
    enum bkv_file_kind kind = bkv_name_parse(name, &id);
    if (kind == BKV_FILE_DATA)
        bkv_name_data(spelled, 0, id);
    else if (kind == BKV_FILE_HINT)
        bkv_name_hint(spelled, 0, id);
    else if (kind == BKV_FILE_CHECKPOINT)
        bkv_name_checkpoint(spelled, 0);
    if (kind == BKV_FILE_DATA || kind == BKV_FILE_HINT || kind == BKV_FILE_CHECKPOINT)
        FUZZ_CHECK(strcmp(last_part(spelled), name) == 0, "%s for %s", spelled, name);
    FUZZ_CHECK(kind != BKV_FILE_TEMPORARY || strstr(name, ".tmp") != NULL, "%s", name);
    free(name);
    return 0;
}
