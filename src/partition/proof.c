/* SPDX-License-Identifier: MIT */
/*
 * Rot was skipped because something behind it proved that it was durable: a mark, or a
 * hint. If what is cut takes the last proof along, the next opening would take the rot
 * for a tail, and drop all that follows: what was kept now, and what is written from now
 * on. So the log gets a mark at its new end that says the same.
 *
 * Nothing of what was cut may come back behind that mark: it has the sequence number of
 * the first record that was, and the second would follow on it, with a hole before it.
 * And the old proof may not go before the mark is there. So what is proven is written
 * into a file meanwhile, `durable` (log/durable.h):
 *
 *   1. the file is on the disk
 *   2. what is cut goes, for good (recovery.c)
 *   3. the mark is on the disk
 *   4. the file goes. If a power cut brings it back, what it says is still so
 *
 * Failure modes: no space for the file: the mark is written first, which is worse only
 * if the power is cut before 2 is done. No space for the mark: the file stays, and says
 * it to the next opening. A file that does not verify is none.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "log/durable.h"
#include "log/filename.h"
#include "log/record.h"
#include "partition/recovery.h"

#include <fcntl.h>
#include <string.h>

/* Of a mark, with its padding. */
#define MARK_RECORD 40u
_Static_assert(MARK_RECORD == (BKV_RECORD_HEADER + BKV_MARK_SIZE + 7u) / 8u * 8u,
               "a record's size");

int bkv_proof_read(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    if (!r->proof_found)
        return BITKV_OK;
    int rc = bkv_durable_read(&p->store->dir, p->index, p->store->manifest.database_id,
                              &r->proof_found, &r->proof);
    if (rc != BITKV_OK || !r->proof_found)
        return rc;
    for (size_t i = 0; i < r->count; i++) {
        if (r->found[i].id == r->proof.segment_id)
            bkv_raise_durable(r, (struct bkv_place){.file = i, .offset = r->proof.offset});
    }
    return BITKV_OK;
}

/* The last segment that is kept, if the log needs a mark and that can take it. */
static struct bkv_found *to_be_marked(struct bkv_recover *r)
{
    bool proven = r->durable.file > 0 || r->durable.offset > 0;
    bool lost = r->cut || r->proof_found;
    struct bkv_found *f = NULL;
    for (size_t i = 0; i < r->count; i++) {
        lost = lost || r->found[i].hint_rejected;
        f = r->found[i].dropped ? f : &r->found[i];
    }
    if (f == NULL || !lost || !proven || r->p->recovery.damaged_regions == 0)
        return NULL;
    uint64_t size = atomic_load(&f->segment->size);
    BKV_DEBUG_ASSERT(size >= BKV_SEGMENT_HEADER);
    bool takes_it = !f->covered && !f->compacted && !f->hint && size % BKV_RECORD_ALIGNMENT == 0 &&
                    size + MARK_RECORD <= r->p->store->options.max_file_size &&
                    r->last_sequence < UINT64_MAX - 1;
    return takes_it ? f : NULL;
}

/* Up to where the log was durable, but no further than where it ends now. */
static struct bkv_durable known(const struct bkv_recover *r, const struct bkv_found *f)
{
    struct bkv_place end = {.file = (size_t)(f - r->found),
                            .offset = atomic_load(&f->segment->size)};
    struct bkv_place durable = bkv_place_before(end, r->durable) ? end : r->durable;
    return (struct bkv_durable){.segment_id = r->found[durable.file].id, .offset = durable.offset};
}

static int write_mark(struct bkv_recover *r, struct bkv_found *f, const struct bkv_file *file)
{
    uint64_t size = atomic_load(&f->segment->size);
    struct bkv_durable durable = known(r, f);
    struct bkv_record record = {.type = BKV_RECORD_MARK, .value_size = BKV_MARK_SIZE};
    uint8_t bytes[MARK_RECORD] = {0};
    bkv_record_begin(bytes, &record);
    bkv_put64(bytes + BKV_RECORD_HEADER, durable.segment_id);
    bkv_put64(bytes + BKV_RECORD_HEADER + 8, durable.offset);
    uint32_t crc = bkv_crc32c(bkv_record_crc_begin(bytes), bytes + BKV_RECORD_HEADER,
                              sizeof bytes - BKV_RECORD_HEADER);
    bkv_record_finish(bytes, crc, r->last_sequence + 1, f->segment->seed, size);
    int rc = bkv_file_write(file, bytes, sizeof bytes, size);
    if (rc == BITKV_OK)
        rc = bkv_recover_sync(r, file);
    if (rc != BITKV_OK)
        return rc;
    f->segment->last_sequence = ++r->last_sequence;
    atomic_store(&f->segment->size, size + sizeof bytes);
    atomic_store(&f->segment->disk_bytes, size + sizeof bytes);
    return BITKV_OK;
}

/* *marked: as any mark, it is left out where there is no room. */
static int mark(struct bkv_recover *r, struct bkv_found *f, bool *marked)
{
    struct bkv_partition *p = r->p;
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    bkv_name_data(name, p->index, f->id);
    int rc = bkv_segment_own(p, f->id, atomic_load(&f->segment->size));
    if (rc == BITKV_OK)
        rc = bkv_file_open(&file, &p->store->dir, name, O_RDWR);
    if (rc == BITKV_OK) {
        rc = write_mark(r, f, &file);
        bkv_file_close(&file);
    }
    *marked = rc == BITKV_OK;
    if (rc == BITKV_ERR_NO_SPACE)
        return BITKV_OK;
    return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc; /* it was there a moment ago */
}

int bkv_proof_keep(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    struct bkv_found *f = to_be_marked(r);
    if (f == NULL)
        return BITKV_OK;
    struct bkv_durable durable = known(r, f);
    if (r->proof_found && r->proof.segment_id == durable.segment_id &&
        r->proof.offset == durable.offset)
        return BITKV_OK;
    int rc = bkv_durable_write(&p->store->dir, p->index, p->store->manifest.database_id, &durable);
    r->proof_found = rc == BITKV_OK;
    bool marked;
    return rc == BITKV_ERR_NO_SPACE ? mark(r, f, &marked) : rc;
}

int bkv_proof_settle(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    if (!r->proof_found)
        return BITKV_OK;
    struct bkv_found *f = to_be_marked(r);
    bool marked = false;
    int rc = f != NULL ? mark(r, f, &marked) : BITKV_OK;
    if (rc != BITKV_OK || !marked)
        return rc;
    char name[BKV_NAME_SIZE];
    bkv_name_durable(name, p->index);
    return bkv_dir_unlink(&p->store->dir, name);
}
