/* SPDX-License-Identifier: MIT */
/*
 * Files that are ours alone. A backup and its database share FINISHED segments
 * by hard links (partition/backup.c), and neither changes those in the normal
 * course. But a hint may rot, or be removed by hand, and then recovery takes the
 * segment for one that may be cut, or gone on in: so it asks here first.
 *
 * (And files that the disk may not have, though the page cache does: doubt.c.)
 *
 * The copy has the same content up to `size`, which is all that recovery found
 * good, and replaces the file atomically: whoever reads it reads on.
 */
#include "partition/state.h"

#include "base/error.h"
#include "io/copy.h"
#include "log/filename.h"

#include <fcntl.h>
#include <stdio.h>

typedef int (*copy_fn)(const struct bkv_file *from, const struct bkv_file *to, uint64_t size);

static int no_progress(void *user, uint64_t bytes)
{
    (void)user, (void)bytes;
    return BITKV_OK;
}

static int copy_any_way(const struct bkv_file *from, const struct bkv_file *to, uint64_t size)
{
    return bkv_file_copy(from, to, size, no_progress, NULL);
}

static int copy_to(struct bkv_partition *p, const struct bkv_file *from, const char *temporary,
                   uint64_t size, copy_fn copy)
{
    struct bkv_file to;
    int rc = bkv_file_open(&to, &p->store->dir, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = copy(from, &to, size);
    if (rc == BITKV_OK)
        rc = bkv_file_sync(&to);
    bkv_file_close(&to);
    return rc;
}

static int replace(struct bkv_partition *p, const struct bkv_file *from, uint64_t size,
                   copy_fn copy)
{
    char temporary[BKV_NAME_SIZE + 4];
    char folder[BKV_NAME_SIZE];
    (void)snprintf(temporary, sizeof temporary, "%s.tmp", from->name);
    bkv_name_partition(folder, p->index);
    int rc = copy_to(p, from, temporary, size, copy);
    if (rc == BITKV_OK)
        rc = bkv_dir_rename(&p->store->dir, temporary, from->name);
    if (rc == BITKV_OK)
        rc = bkv_dir_sync(&p->store->dir, folder);
    else
        (void)bkv_dir_unlink(&p->store->dir, temporary); /* or the next opening does */
    return rc;
}

int bkv_segment_renew(struct bkv_partition *p, uint64_t id)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    struct bkv_file file;
    uint64_t size;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    rc = bkv_file_size(&file, &size);
    if (rc == BITKV_OK)
        rc = replace(p, &file, size, bkv_file_rewrite);
    bkv_file_close(&file);
    return rc;
}

int bkv_segment_own(struct bkv_partition *p, uint64_t id, uint64_t size)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, p->index, id);
    struct bkv_file file;
    int rc = bkv_file_open(&file, &p->store->dir, name, O_RDONLY);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND ? BITKV_ERR_IO : rc;
    bool shared;
    rc = bkv_file_shared(&file, &shared);
    if (rc == BITKV_OK && shared)
        rc = replace(p, &file, size, copy_any_way);
    bkv_file_close(&file);
    return rc;
}
