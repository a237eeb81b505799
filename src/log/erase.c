/* SPDX-License-Identifier: MIT */
#include "log/erase.h"

#include "base/error.h"
#include "io/io.h"
#include "log/filename.h"
#include "log/marker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const root_names[] = {
    BKV_MANIFEST_NAME,      BKV_MANIFEST_NAME ".tmp", BKV_BACKUP_NAME,
    BKV_BACKUP_NAME ".tmp", BKV_REPARTITION_NAME,     BKV_REPARTITION_NAME ".tmp",
};

static bool is_root_name(const char *name)
{
    for (size_t i = 0; i < sizeof root_names / sizeof root_names[0]; i++) {
        if (strcmp(name, root_names[i]) == 0)
            return true;
    }
    return false;
}

struct walk {
    struct bkv_dir *dir;
    const char *folder; /* of the partition at hand */
    unsigned removed;
};

/* --- looking ------------------------------------------------------------------- */

static int check_in_partition(void *user, const char *name)
{
    const struct walk *walk = user;
    uint64_t id;
    if (bkv_name_parse(name, &id) != BKV_FILE_OTHER)
        return BITKV_OK;
    return bkv_error(BITKV_ERR_EXISTS, "%s/%s/%.128s is no file of BitKV's; move it away",
                     walk->dir->path, walk->folder, name);
}

static int check_in_root(void *user, const char *name)
{
    struct walk *walk = user;
    uint32_t partition;
    if (is_root_name(name))
        return BITKV_OK;
    if (!bkv_name_parse_partition(name, &partition))
        return bkv_error(BITKV_ERR_EXISTS, "%s/%.128s is no file of BitKV's; move it away",
                         walk->dir->path, name);
    walk->folder = name;
    return bkv_dir_list(walk->dir, name, walk, check_in_partition);
}

int bkv_erase_check(struct bkv_dir *dir)
{
    struct walk walk = {.dir = dir};
    return bkv_dir_list(dir, NULL, &walk, check_in_root);
}

static int on_any(void *user, const char *name)
{
    (void)name;
    *(bool *)user = false;
    return BITKV_OK;
}

int bkv_dir_empty(struct bkv_dir *dir, bool *empty)
{
    *empty = true;
    return bkv_dir_list(dir, NULL, empty, on_any);
}

/* --- removing -------------------------------------------------------------------- */

static int erase_in_partition(void *user, const char *name)
{
    struct walk *walk = user;
    uint64_t id;
    if (bkv_name_parse(name, &id) == BKV_FILE_OTHER)
        return BITKV_OK;
    char path[BKV_NAME_SIZE];
    (void)snprintf(path, sizeof path, "%s/%.40s", walk->folder, name);
    walk->removed++;
    return bkv_dir_unlink(walk->dir, path);
}

/* A listing from which entries are removed meanwhile may miss some: until there
 * is nothing left. */
static int erase_partition(struct walk *walk, const char *name)
{
    walk->folder = name;
    int rc = BITKV_OK;
    do {
        walk->removed = 0;
        rc = bkv_dir_list(walk->dir, name, walk, erase_in_partition);
    } while (rc == BITKV_OK && walk->removed > 0);
    if (rc == BITKV_OK && bkv_io->rmdirat(walk->dir->fd, name) != 0 && errno != ENOENT)
        rc = bkv_error_sys(errno, "cannot remove directory %s/%s", walk->dir->path, name);
    return rc;
}

static int erase_in_root(void *user, const char *name)
{
    struct walk *walk = user;
    uint32_t partition;
    if (!bkv_name_parse_partition(name, &partition))
        return BITKV_OK;
    unsigned removed = walk->removed;
    char folder[BKV_NAME_SIZE];
    bkv_name_partition(folder, partition);
    int rc = erase_partition(walk, folder);
    walk->removed = removed + 1;
    return rc;
}

int bkv_erase(struct bkv_dir *dir, const char *last)
{
    struct walk walk = {.dir = dir};
    int rc = BITKV_OK;
    do {
        walk.removed = 0;
        rc = bkv_dir_list(dir, NULL, &walk, erase_in_root);
    } while (rc == BITKV_OK && walk.removed > 0);
    for (size_t i = 0; i < sizeof root_names / sizeof root_names[0] && rc == BITKV_OK; i++) {
        if (strcmp(root_names[i], last) != 0)
            rc = bkv_dir_unlink(dir, root_names[i]);
    }
    if (rc == BITKV_OK) /* in this order after a power cut, too */
        rc = bkv_dir_sync(dir, NULL);
    return rc == BITKV_OK ? bkv_dir_unlink(dir, last) : rc;
}
