/* SPDX-License-Identifier: MIT */
/*
 * After a failed sync the page cache has what the disk may not have, and takes it for
 * clean: a later sync succeeds without writing it (Rebello et al., "Can applications
 * recover from fsync failures?", ATC 2020). A new opening would read it, and acknowledge
 * what rests on it, until the machine is started again.
 *
 * So a failed sync leaves the file `sync_failed`, and an opening that finds it writes
 * those segments anew that may be meant, before it reads them: those without a hint,
 * since one is only written once its segment was synced. Each copy is synced, and
 * replaces its segment atomically: nothing that was durable is in danger.
 *
 * The file need not be durable: it is there as long as the page cache is, and after a
 * start of the machine what the disk has is what there is.
 *
 * Failure modes: the file cannot be made: nothing is written anew, which is no worse
 * than before. It stays until all are written, so an opening that dies, or fails, leaves
 * it to the next one. No space for a copy: the partition opens, and refuses writes as
 * after the sync that failed; with space, the next opening helps. A hint that was lost
 * makes a copy that need not be.
 */
#include "base/error.h"
#include "log/filename.h"
#include "partition/recovery.h"
#include "partition/state.h"

#include <fcntl.h>
#include <string.h>

/* The error that led here stays what the caller is told. */
void bkv_doubt_raise(struct bkv_partition *p)
{
    char context[BKV_ERROR_CONTEXT_SIZE];
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    memcpy(context, bitkv_error_context(), strlen(bitkv_error_context()) + 1);
    bkv_name_doubt(name, p->index);
    if (bkv_file_open(&file, &p->store->dir, name, O_WRONLY | O_CREAT) == BITKV_OK)
        bkv_file_close(&file);
    bkv_error_context_set(context);
}

static int write_anew(struct bkv_recover *r)
{
    int rc = BITKV_OK;
    for (size_t i = 0; i < r->count && rc == BITKV_OK; i++) {
        if (!bkv_recover_has_hint(r, r->found[i].id))
            rc = bkv_segment_renew(r->p, r->found[i].id);
    }
    return rc;
}

int bkv_doubt_settle(struct bkv_recover *r)
{
    struct bkv_partition *p = r->p;
    char name[BKV_NAME_SIZE];
    int rc = write_anew(r);
    if (rc == BITKV_ERR_NO_SPACE) {
        atomic_store(&p->failed, BITKV_ERR_SYNC_FAILED);
        bkv_log(p->store, BITKV_LOG_WARNING,
                "an earlier sync failed, and %.300s: partition %u refuses writes; make room and "
                "open again",
                bitkv_error_context(), p->index);
        return BITKV_OK;
    }
    bkv_name_doubt(name, p->index);
    return rc == BITKV_OK ? bkv_dir_unlink(&p->store->dir, name) : rc;
}
