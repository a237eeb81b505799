/* SPDX-License-Identifier: MIT */
/* The files that a fuzzed directory may have: a chunk names one by its index. */
#ifndef BITKV_TESTS_FUZZ_NAMES_H
#define BITKV_TESTS_FUZZ_NAMES_H

#include <stdint.h>

enum { MANIFEST, DATA, HINT, CHECKPOINT, DURABLE, OTHER };

static const struct {
    const char *name;
    unsigned kind;
    uint32_t partition;
    uint64_t id;
} names[] = {
    {"MANIFEST", MANIFEST, 0, 0},
    {"partition_0/data_1.db", DATA, 0, 1},
    {"partition_0/hint_1.ht", HINT, 0, 1},
    {"partition_0/data_2.db", DATA, 0, 2},
    {"partition_0/hint_2.ht", HINT, 0, 2},
    {"partition_0/data_3.db", DATA, 0, 3},
    {"partition_0/hint_3.ht", HINT, 0, 3},
    {"partition_0/keydir.ckp", CHECKPOINT, 0, 0},
    {"partition_1/data_1.db", DATA, 1, 1},
    {"partition_1/hint_1.ht", HINT, 1, 1},
    {"partition_1/data_2.db", DATA, 1, 2},
    {"partition_1/hint_2.ht", HINT, 1, 2},
    {"partition_1/data_3.db", DATA, 1, 3},
    {"partition_1/hint_3.ht", HINT, 1, 3},
    {"partition_1/keydir.ckp", CHECKPOINT, 1, 0},
    {"partition_0/data_9223372036854775807.db", DATA, 0, UINT64_C(9223372036854775807)},
    {"partition_1/hint_9223372036854775807.ht", HINT, 1, UINT64_C(9223372036854775807)},
    {"partition_0/data_4.db.tmp", OTHER, 0, 0},
    {"partition_1/keydir.ckp.tmp", OTHER, 0, 0},
    {"partition_1/reserve.tmp", OTHER, 0, 0},
    {"partition_1/sync_failed", OTHER, 0, 0},
    {"MANIFEST.tmp", OTHER, 0, 0},
    {"partition_7/data_1.db", OTHER, 7, 1},
    {"partition_0/durable", DURABLE, 0, 0},
};
#define NAMES (sizeof names / sizeof names[0])

#endif
