/* SPDX-License-Identifier: MIT */
/*
 * A record that has to be read from disk, while its reader does something
 * else: by a ring, or by a thread of the pool.
 *
 * The read was located once, and stays with that: logs are never changed, so
 * what lies there is what the key had at that moment, whatever is put, deleted,
 * expires or is closed meanwhile. A reference to the open file keeps it readable.
 *
 * Descriptors belong to the database: closing it closes them, references or
 * not. So whoever uses `fd` does so in an epoch section of an open database.
 *
 * Failure modes: no descriptor: the pool reads through the mapping. The record
 * does not verify: damage, with file and offset. It is of another key: one
 * with the same fingerprint, and this one is absent (found is settled, see
 * partition.h).
 */
#include "base/error.h"
#include "io/residency.h"
#include "partition/record_read.h"
#include "partition/state.h"

#include <string.h>

static void use_mapping(struct bkv_cold *cold, const struct bkv_segment *segment,
                        struct bkv_mapping *mapping)
{
    cold->mapping = mapping;
    cold->fd = bkv_segment_reader(cold->partition, segment, mapping);
}

void bkv_cold_begin(struct bkv_cold *cold, const struct bkv_located *found)
{
    *cold = (struct bkv_cold){
        .partition = found->partition,
        .fd = -1,
        .location = found->location,
        .offset = found->offset,
        .size = found->size,
        .seed = found->segment->seed,
        .segment_id = found->segment->id,
        .now_ms = bkv_store_now_ms(found->partition->store),
        .partition_index = found->partition->index,
    };
    if (found->mapping == NULL) {
        bkv_segment_ref(found->segment);
        cold->segment = found->segment;
        return;
    }
    bkv_mapping_ref(found->mapping);
    use_mapping(cold, found->segment, found->mapping);
}

static int open_segment(struct bkv_cold *cold)
{
    struct bkv_mapping *mapping;
    int rc = bkv_segment_pin(cold->partition, cold->segment, &mapping);
    if (rc == BITKV_OK)
        use_mapping(cold, cold->segment, mapping);
    /* A follower's file may be gone: then it knows by now where the key lies. */
    return rc == BITKV_ERR_IO && cold->partition->store->options.read_only ? BKV_OTHER_KEY : rc;
}

static int read_bytes(const struct bkv_cold *cold, void *bytes)
{
    const struct bkv_mapping *mapping = cold->mapping;
    if (mapping->base == NULL)
        return bkv_file_read_exact(&mapping->file, bytes, cold->size, cold->offset);
    if (cold->fd >= 0)
        return bkv_file_read_exact(&mapping->reader, bytes, cold->size, cold->offset);
    BKV_DEBUG_ASSERT(cold->offset + cold->size <= mapping->size); /* I8 */
    memcpy(bytes, mapping->base + cold->offset, cold->size);
    return BITKV_OK;
}

int bkv_cold_read(struct bkv_cold *cold, struct bkv_epoch_slot *slot, void *bytes)
{
    bkv_epoch_pause(slot);
    int rc = cold->mapping != NULL ? BITKV_OK : open_segment(cold);
    if (rc == BITKV_OK)
        rc = read_bytes(cold, bytes);
    bkv_epoch_resume(slot);
    return rc;
}

int bkv_cold_deliver(const struct bkv_cold *cold, const char *path, const void *bytes,
                     const void *key, size_t key_size, struct bkv_sink *sink)
{
    struct bkv_record record;
    if (sink->kind == BKV_SINK_NONE && bkv_record_is_of(bytes, cold->size, key, key_size) &&
        bkv_record_deadline(bytes) > cold->now_ms)
        return BITKV_OK;
    if (!bkv_record_verify(bytes, cold->size, cold->seed, cold->offset, &record))
        return bkv_record_damaged(path, cold->partition_index, cold->segment_id, cold->offset,
                                  cold->size, bkv_mapping_faulted(cold->mapping));
    if (cold->mapping->base != NULL)
        bkv_residency_note(cold->mapping, cold->offset, cold->size);
    if (record.type != BKV_RECORD_PUT || record.key_size != key_size ||
        memcmp(bkv_record_key(bytes), key, key_size) != 0)
        return BITKV_NOT_FOUND;
    if (bkv_record_deadline(bytes) <= cold->now_ms)
        return BITKV_NOT_FOUND;
    return bkv_deliver(sink, NULL, bkv_record_value(bytes, &record), record.value_size);
}

void bkv_cold_end(struct bkv_cold *cold)
{
    bkv_mapping_unref(cold->mapping);
    bkv_segment_unref(cold->segment);
    cold->mapping = NULL;
    cold->segment = NULL;
}
