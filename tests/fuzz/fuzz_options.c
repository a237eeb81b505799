/* SPDX-License-Identifier: MIT */
/*
 * The options of bitkv_open(): the caller's bytes, of the size that the caller
 * names. First byte: 1 sets the size to the structure's; u16 the size.
 *
 * No more is read than the size says, and what is accepted is within its ranges,
 * with every default filled in.
 */
#include "fuzz/fuzz.h"

#include "base/limits.h"
#include "db/options.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MIN (offsetof(bitkv_options, partitions) + sizeof(uint32_t))

static void check_accepted(const bitkv_options *o)
{
    FUZZ_CHECK(o->struct_size == sizeof *o, "%zu bytes", o->struct_size);
    FUZZ_CHECK(o->partitions <= BITKV_PARTITIONS_MAX, "partitions %u", o->partitions);
    FUZZ_CHECK(o->durability > BITKV_DURABILITY_DEFAULT && o->durability <= BITKV_DURABILITY_SYNC,
               "durability %d", (int)o->durability);
    FUZZ_CHECK(!o->sync_on_write || o->durability == BITKV_DURABILITY_SYNC, "durability %d",
               (int)o->durability);
    FUZZ_CHECK(o->sync_interval_ms >= 1 && o->sync_interval_ms <= BKV_SYNC_INTERVAL_MS_MAX,
               "sync_interval_ms %u", o->sync_interval_ms);
    FUZZ_CHECK(o->max_file_size >= BKV_SEGMENT_SIZE_MIN && o->max_file_size <= BKV_SEGMENT_SIZE_MAX,
               "max_file_size %llu", (unsigned long long)o->max_file_size);
    FUZZ_CHECK(o->fragmentation_threshold > 0 && o->fragmentation_threshold <= 1,
               "fragmentation_threshold %g", o->fragmentation_threshold);
    FUZZ_CHECK(o->ring_depth >= 1 && o->ring_depth <= BKV_RING_DEPTH_MAX, "ring_depth %u",
               o->ring_depth);
    FUZZ_CHECK(o->io_threads >= 1 && o->io_threads <= BKV_IO_THREADS_MAX, "io_threads %u",
               o->io_threads);
    FUZZ_CHECK((unsigned)o->io_mode <= BITKV_IO_PWRITE, "io_mode %d", (int)o->io_mode);
    FUZZ_CHECK((unsigned)o->backend <= BITKV_BACKEND_THREADS, "backend %d", (int)o->backend);
    FUZZ_CHECK(o->compact_from_minute < 1440 && o->compact_until_minute < 1440, "minutes");
    FUZZ_CHECK(o->default_ttl_ms <= BITKV_TTL_MAX, "default_ttl_ms %llu",
               (unsigned long long)o->default_ttl_ms);
}

/* A bool has but two values in C, whatever the caller's memory holds. */
static void make_bools(bitkv_options *options, size_t size)
{
    static const size_t offsets[] = {
        offsetof(bitkv_options, create_if_missing), offsetof(bitkv_options, error_if_exists),
        offsetof(bitkv_options, read_only),         offsetof(bitkv_options, strict_recovery),
        offsetof(bitkv_options, sync_on_write),     offsetof(bitkv_options, auto_compact),
    };
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        if (offsets[i] < size)
            ((uint8_t *)options)[offsets[i]] &= 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    size_t claimed = fuzz_u16(&in);
    if ((flags & 1) != 0)
        claimed = sizeof(bitkv_options);
    size_t room = claimed <= sizeof(bitkv_options) ? claimed : sizeof(size_t);
    if (room < sizeof(size_t))
        room = sizeof(size_t);
    bitkv_options *given = malloc(room); /* exact: a read behind it is seen */
    FUZZ_CHECK(given != NULL, "out of memory");
    bitkv_options_init_sized(given, room);
    size_t fields = room - sizeof(size_t);
    const uint8_t *bytes = fuzz_bytes(&in, &fields);
    if (fields > 0)
        memcpy((uint8_t *)given + sizeof(size_t), bytes, fields);
    given->struct_size = claimed;
    make_bools(given, room);
    bitkv_options checked;
    int rc = bkv_options_check(&checked, given);
    FUZZ_CHECK(rc == BITKV_OK || rc == BITKV_ERR_INVALID, "%d", rc);
    FUZZ_CHECK(rc != BITKV_OK || (claimed >= SIZE_MIN && claimed <= sizeof checked),
               "accepted with %zu bytes", claimed);
    FUZZ_CHECK(rc == BITKV_OK || bitkv_error_context()[0] != '\0', "no reason");
    if (rc == BITKV_OK)
        check_accepted(&checked);
    free(given);
    return 0;
}
