/* SPDX-License-Identifier: MIT */
#include "partition/record_read.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/mapping.h"
#include "log/filename.h"

#include <inttypes.h>
#include <string.h>

int bkv_no_memory_for(uint64_t size)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a value of %" PRIu64 " bytes", size);
}

static int deliver_view(struct bkv_sink *sink, struct bkv_mapping *mapping, const uint8_t *value,
                        uint32_t size)
{
    if (mapping != NULL && mapping->base != NULL) {
        bkv_mapping_ref(mapping);
        *sink->view = (bitkv_view){.data = value, .size = size, .pin = mapping};
        return BITKV_OK;
    }
    /* Read through a descriptor, or a ring: a mapping of its own memory stands in. */
    struct bkv_mapping *copy = bkv_calloc(1, sizeof *copy + size);
    if (copy == NULL)
        return bkv_no_memory_for(size);
    copy->file = copy->reader = BKV_FILE_NONE;
    atomic_init(&copy->refs, 1);
    memcpy(copy + 1, value, size);
    *sink->view = (bitkv_view){.data = copy + 1, .size = size, .pin = copy};
    return BITKV_OK;
}

int bkv_deliver(struct bkv_sink *sink, struct bkv_mapping *mapping, const uint8_t *value,
                uint32_t size)
{
    sink->size = size;
    switch (sink->kind) {
    case BKV_SINK_BUFFER:
        if (size > sink->capacity)
            return bkv_error(BITKV_ERR_BUFFER_TOO_SMALL,
                             "the value has %" PRIu32 " bytes, the buffer %zu", size,
                             sink->capacity);
        if (size > 0)
            memcpy(sink->buffer, value, size);
        return BITKV_OK;
    case BKV_SINK_ALLOCATE:
        sink->buffer = bkv_malloc((size_t)size + 1);
        if (sink->buffer == NULL)
            return bkv_no_memory_for(size);
        memcpy(sink->buffer, value, size);
        ((char *)sink->buffer)[size] = '\0';
        return BITKV_OK;
    case BKV_SINK_VIEW:
        return deliver_view(sink, mapping, value, size);
    default: /* it was to be found, or verified */
        return BITKV_OK;
    }
}

int bkv_record_damaged(const char *path, uint32_t partition, uint64_t segment_id, uint64_t offset,
                       uint64_t size, bool unreadable)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, partition, segment_id);
    if (unreadable)
        return bkv_error(BITKV_ERR_IO,
                         "cannot read %s/%s at offset %" PRIu64 ", length %" PRIu64
                         ": I/O error, or the file was cut",
                         path, name, offset, size);
    return bkv_error(BITKV_ERR_CORRUPT,
                     "%s/%s at offset %" PRIu64 ", length %" PRIu64 ": record does not verify",
                     path, name, offset, size);
}
