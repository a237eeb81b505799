/* SPDX-License-Identifier: MIT */
/* The MANIFEST. First byte: 1 mends its checksum. */
#include "fuzz/fuzz.h"

#include "log/manifest.h"

#include <bitkv.h>

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct fuzz_file file = {.data = malloc(in.size + 1), .size = in.size};
    FUZZ_CHECK(file.data != NULL, "out of memory");
    if (in.size > 0)
        memcpy(file.data, in.data, in.size);
    if ((flags & 1) != 0)
        fuzz_mend_manifest(&file);
    struct bkv_manifest manifest;
    int rc = bkv_manifest_read(fuzz_memory_begin(file.data, file.size), &manifest);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT, "%d", rc);
    if (rc == BITKV_OK)
        FUZZ_CHECK(manifest.partitions > 0 && manifest.partitions <= BITKV_PARTITIONS_MAX, "%u",
                   manifest.partitions);
    fuzz_memory_end();
    free(file.data);
    return 0;
}
