/* SPDX-License-Identifier: MIT */
#include "db/options.h"

#include "base/error.h"
#include "base/limits.h"

#include <inttypes.h>
#include <string.h>

void bitkv_options_init_sized(bitkv_options *options, size_t struct_size)
{
    if (options == NULL)
        return;
    bitkv_options defaults = {
        .struct_size = struct_size,
        .create_if_missing = true,
        .durability = BITKV_DURABILITY_INTERVAL,
        .sync_interval_ms = BKV_SYNC_INTERVAL_MS_DEFAULT,
        .max_file_size = BKV_SEGMENT_SIZE_DEFAULT,
        .file_mode = 0600,
        .directory_mode = 0700,
        .auto_compact = true,
        .fragmentation_threshold = 0.5,
        .io_mode = BITKV_IO_AUTO,
        .ring_depth = BKV_RING_DEPTH_DEFAULT,
    };
    size_t known = struct_size < sizeof defaults ? struct_size : sizeof defaults;
    memset(options, 0, struct_size);
    memcpy(options, &defaults, known);
}

#define WRONG(...) bkv_error(BITKV_ERR_INVALID, __VA_ARGS__)

static int check_behaviour(const bitkv_options *o)
{
    if (o->partitions > BITKV_PARTITIONS_MAX)
        return WRONG("option partitions is %" PRIu32 ", the most is %u", o->partitions,
                     BITKV_PARTITIONS_MAX);
    if ((unsigned)o->durability > BITKV_DURABILITY_SYNC)
        return WRONG("option durability is %d, not a bitkv_durability", (int)o->durability);
    if (o->sync_interval_ms < 1 || o->sync_interval_ms > BKV_SYNC_INTERVAL_MS_MAX)
        return WRONG("option sync_interval_ms is %" PRIu32 ", not within 1 to %u",
                     o->sync_interval_ms, BKV_SYNC_INTERVAL_MS_MAX);
    if (o->max_file_size < BKV_SEGMENT_SIZE_MIN || o->max_file_size > BKV_SEGMENT_SIZE_MAX)
        return WRONG("option max_file_size is %" PRIu64 ", not within %u to %u", o->max_file_size,
                     BKV_SEGMENT_SIZE_MIN, BKV_SEGMENT_SIZE_MAX);
    if ((o->file_mode & ~0777u) != 0 || (o->file_mode & 0600u) != 0600u)
        return WRONG("option file_mode is 0%" PRIo32 ", which is no permission that lets the owner "
                     "read and write",
                     o->file_mode);
    if ((o->directory_mode & ~07777u) != 0 || (o->directory_mode & 0700u) != 0700u)
        return WRONG("option directory_mode is 0%" PRIo32 ", which does not let the owner in",
                     o->directory_mode);
    if (!(o->fragmentation_threshold > 0.0 && o->fragmentation_threshold <= 1.0))
        return WRONG("option fragmentation_threshold is %g, not above 0 and at most 1",
                     o->fragmentation_threshold);
    if (o->read_only && o->error_if_exists)
        return WRONG("options read_only and error_if_exists exclude each other");
    return BITKV_OK;
}

static int check_expiry(const bitkv_options *o)
{
    if (o->default_ttl_ms == BITKV_TTL_KEEP)
        return WRONG("option default_ttl_ms is BITKV_TTL_KEEP, which is for single writes");
    if (o->default_ttl_ms > BITKV_TTL_MAX && o->default_ttl_ms != BITKV_TTL_NONE)
        return WRONG("option default_ttl_ms is %" PRIu64 ", the most is %" PRIu64,
                     o->default_ttl_ms, (uint64_t)BITKV_TTL_MAX);
    return BITKV_OK;
}

static int check_performance(const bitkv_options *o)
{
    if ((unsigned)o->io_mode > BITKV_IO_PWRITE)
        return WRONG("option io_mode is %d, not a bitkv_io_mode", (int)o->io_mode);
    if ((unsigned)o->backend > BITKV_BACKEND_THREADS)
        return WRONG("option backend is %d, not a bitkv_backend", (int)o->backend);
    if (o->io_threads > BKV_IO_THREADS_MAX)
        return WRONG("option io_threads is %" PRIu32 ", the most is %u", o->io_threads,
                     BKV_IO_THREADS_MAX);
    if (o->compact_from_minute >= 24 * 60 || o->compact_until_minute >= 24 * 60)
        return WRONG("options compact_from_minute and compact_until_minute are %" PRIu32
                     " and %" PRIu32 ", the last minute of a day is 1439",
                     o->compact_from_minute, o->compact_until_minute);
    if (o->ring_depth > BKV_RING_DEPTH_MAX)
        return WRONG("option ring_depth is %" PRIu32 ", the most is %u", o->ring_depth,
                     BKV_RING_DEPTH_MAX);
    for (size_t i = 0; i < sizeof o->reserved / sizeof o->reserved[0]; i++) {
        if (o->reserved[i] != 0)
            return WRONG("a reserved option is not zero: call bitkv_options_init() first");
    }
    return BITKV_OK;
}

int bkv_options_check(bitkv_options *out, const bitkv_options *given)
{
    bitkv_options_init(out);
    if (given != NULL) {
        size_t size = given->struct_size;
        if (size < offsetof(bitkv_options, partitions) + sizeof given->partitions)
            return WRONG("options have no struct_size: call bitkv_options_init() first");
        if (size > sizeof *out)
            return WRONG("options have %zu bytes, this library knows %zu: it is older than the "
                         "header",
                         size, sizeof *out);
        memcpy(out, given, size);
        out->struct_size = sizeof *out;
    }
    int rc = check_behaviour(out);
    if (rc == BITKV_OK)
        rc = check_expiry(out);
    if (rc == BITKV_OK)
        rc = check_performance(out);
    if (rc != BITKV_OK)
        return rc;
    if (out->durability == BITKV_DURABILITY_DEFAULT)
        out->durability = BITKV_DURABILITY_INTERVAL;
    if (out->sync_on_write)
        out->durability = BITKV_DURABILITY_SYNC;
    if (out->default_ttl_ms == BITKV_TTL_NONE)
        out->default_ttl_ms = 0;
    if (out->ring_depth == 0)
        out->ring_depth = BKV_RING_DEPTH_DEFAULT;
    if (out->io_threads == 0)
        out->io_threads = BKV_IO_THREADS_DEFAULT;
    /* Segments end where a record could: at a multiple of 8; mapped in pages. */
    out->max_file_size &= ~4095ull;
    return BITKV_OK;
}
