/* SPDX-License-Identifier: MIT */
/*
 * A parent is held by its descriptor, so that what happens to the names above
 * it meanwhile does not matter.
 *
 * Moving a directory onto an empty one is a plain rename(2), which takes no
 * directory's place that has something in it; swapping two that are full takes
 * RENAME_EXCHANGE, which ext4, XFS, Btrfs, tmpfs and F2FS have.
 *
 * Failure modes: all are errors with context and nothing changed. A mount point
 * (EBUSY) and a file system without exchange (EINVAL) get words of their own.
 */
#include "io/site.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

/* --- the place --------------------------------------------------------------- */

/* What is there is asked for its real path; else the parent is. */
static int resolve(struct bkv_site *site, char *path)
{
    char *found = realpath(path, NULL);
    if (found != NULL) {
        site->path = bkv_strdup(found);
        free(found);
        return site->path != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
    }
    if (errno != ENOENT)
        return bkv_error_sys(errno, "cannot resolve %s", path);
    char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    if (slash != NULL && slash > path)
        *slash = '\0';
    found = realpath(slash == NULL ? "." : slash == path ? "/" : path, NULL);
    if (found == NULL)
        return bkv_error(BITKV_ERR_NO_DATABASE,
                         "the parent directory of %s does not exist; create "
                         "that first",
                         name);
    size_t size = strlen(found) + strlen(name) + 2;
    site->path = bkv_malloc(size);
    if (site->path != NULL)
        (void)snprintf(site->path, size, "%s/%s", strcmp(found, "/") == 0 ? "" : found, name);
    free(found);
    return site->path != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
}

static int open_parent(struct bkv_site *site)
{
    site->name = strrchr(site->path, '/') + 1;
    if (site->name[0] == '\0' || strcmp(site->name, ".") == 0 || strcmp(site->name, "..") == 0)
        return bkv_error(BITKV_ERR_INVALID, "%s is no directory that has a place in another",
                         site->path);
    size_t size = (size_t)(site->name - site->path);
    char *folder = bkv_strdup(site->path);
    if (folder == NULL)
        return BITKV_ERR_NO_MEMORY;
    folder[size > 1 ? size - 1 : 1] = '\0';
    site->parent = bkv_dir_descriptor(AT_FDCWD, folder, 0);
    int rc = BITKV_OK;
    if (site->parent < 0)
        rc = bkv_error_sys(errno, "cannot open directory %s", folder);
    bkv_mfree(folder);
    return rc;
}

int bkv_site_open(struct bkv_site *site, const char *path)
{
    *site = (struct bkv_site){.parent = -1};
    char *trimmed = bkv_strdup(path);
    int rc = trimmed != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
    for (size_t n = trimmed != NULL ? strlen(trimmed) : 0; n > 1 && trimmed[n - 1] == '/'; n--)
        trimmed[n - 1] = '\0';
    if (rc == BITKV_OK)
        rc = resolve(site, trimmed);
    if (rc == BITKV_OK)
        rc = open_parent(site);
    bkv_mfree(trimmed);
    if (rc == BITKV_ERR_NO_MEMORY)
        (void)bkv_error(rc, "no memory for the path %s", path);
    if (rc != BITKV_OK)
        bkv_site_close(site);
    return rc;
}

void bkv_site_close(struct bkv_site *site)
{
    if (site->parent >= 0)
        (void)bkv_io->close(site->parent);
    bkv_mfree(site->path);
    *site = (struct bkv_site){.parent = -1};
}

/* --- names in it --------------------------------------------------------------- */

struct name {
    char text[NAME_MAX + 1];
};

static int compose(const struct bkv_site *site, const char *suffix, struct name *name)
{
    int n = snprintf(name->text, sizeof name->text, "%s%s", site->name, suffix);
    if (n < 0 || (size_t)n >= sizeof name->text)
        return bkv_error(BITKV_ERR_INVALID, "the name of %s is too long to put %s behind it",
                         site->path, suffix);
    return BITKV_OK;
}

static int dir_of(const struct bkv_site *site, const char *suffix, int fd, struct bkv_dir *dir)
{
    size_t size = strlen(site->path) + strlen(suffix) + 1;
    *dir = (struct bkv_dir){.fd = fd, .file_mode = 0600, .dir_mode = 0700};
    dir->path = bkv_malloc(size);
    if (dir->path == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for a path");
    (void)snprintf(dir->path, size, "%s%s", site->path, suffix);
    struct stat status;
    if (bkv_io->fstat(fd, &status) != 0)
        return bkv_error_sys(errno, "cannot stat %s", dir->path);
    dir->dir_mode = status.st_mode & 07777;
    dir->file_mode = status.st_mode & 0666;
    return BITKV_OK;
}

int bkv_site_enter(const struct bkv_site *site, const char *suffix, struct bkv_dir *dir)
{
    *dir = (struct bkv_dir){.fd = -1};
    struct name name = {.text = ""};
    int rc = compose(site, suffix, &name);
    if (rc != BITKV_OK)
        return rc;
    int fd = bkv_dir_descriptor(site->parent, name.text, O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return BITKV_NOT_FOUND;
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return bkv_error(BITKV_ERR_EXISTS, "%s%s is there and is no directory", site->path, suffix);
    if (fd < 0)
        return bkv_error_sys(errno, "cannot open directory %s%s", site->path, suffix);
    rc = dir_of(site, suffix, fd, dir);
    if (rc != BITKV_OK)
        bkv_dir_leave(dir);
    return rc;
}

int bkv_site_make(const struct bkv_site *site, const char *suffix, mode_t mode)
{
    struct name name = {.text = ""};
    int rc = compose(site, suffix, &name);
    if (rc == BITKV_OK && bkv_io->mkdirat(site->parent, name.text, mode) != 0 && errno != EEXIST)
        rc = bkv_error_sys(errno, "cannot create directory %s%s", site->path, suffix);
    return rc;
}

static int refuse_move(const struct bkv_site *site, const char *suffix)
{
    switch (errno) {
    case EBUSY:
        return bkv_error(BITKV_ERR_INVALID,
                         "%s is a mount point or otherwise in use, and cannot "
                         "be replaced by another directory; take one below it",
                         site->path);
    case EINVAL:
    case ENOSYS:
    case EOPNOTSUPP:
        return bkv_error(BITKV_ERR_INVALID,
                         "the file system of %s cannot swap two directories "
                         "(RENAME_EXCHANGE)",
                         site->path);
    case ENOTEMPTY:
    case EEXIST:
    case ENOTDIR:
        return bkv_error(BITKV_ERR_EXISTS, "%s is there now, and not empty", site->path);
    default:
        return bkv_error_sys(errno, "cannot put %s%s in the place of %s", site->path, suffix,
                             site->path);
    }
}

int bkv_site_move_in(const struct bkv_site *site, const char *suffix)
{
    struct name name = {.text = ""};
    int rc = compose(site, suffix, &name);
    if (rc == BITKV_OK && bkv_io->renameat(site->parent, name.text, site->name) != 0)
        rc = refuse_move(site, suffix);
    return rc;
}

int bkv_site_exchange(const struct bkv_site *site, const char *suffix)
{
    struct name name = {.text = ""};
    int rc = compose(site, suffix, &name);
    if (rc == BITKV_OK &&
        bkv_io->renameat2(site->parent, name.text, site->name, RENAME_EXCHANGE) != 0)
        rc = refuse_move(site, suffix);
    return rc;
}

int bkv_site_remove(const struct bkv_site *site, const char *suffix)
{
    struct name name = {.text = ""};
    int rc = compose(site, suffix, &name);
    if (rc == BITKV_OK && bkv_io->rmdirat(site->parent, name.text) != 0 && errno != ENOENT)
        rc = bkv_error_sys(errno, "cannot remove directory %s%s", site->path, suffix);
    return rc;
}

int bkv_site_sync(const struct bkv_site *site)
{
    if (bkv_io->fsync(site->parent) != 0)
        return bkv_error_sys(errno, "cannot sync the parent directory of %s", site->path);
    return BITKV_OK;
}

/* --- which directory is which ---------------------------------------------------- */

static int identity(int fd, struct stat *status)
{
    if (bkv_io->fstat(fd, status) != 0)
        return bkv_error_sys(errno, "cannot stat a directory");
    return BITKV_OK;
}

static bool one_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int bkv_site_is(const struct bkv_site *site, const char *suffix, const struct bkv_dir *dir,
                bool *same)
{
    struct bkv_dir now;
    *same = false;
    int rc = bkv_site_enter(site, suffix, &now);
    if (rc != BITKV_OK)
        return rc == BITKV_NOT_FOUND || rc == BITKV_ERR_EXISTS ? BITKV_OK : rc;
    struct stat a;
    struct stat b;
    rc = identity(now.fd, &a);
    if (rc == BITKV_OK)
        rc = identity(dir->fd, &b);
    if (rc == BITKV_OK)
        *same = one_inode(&a, &b);
    bkv_dir_leave(&now);
    return rc;
}

/* From the descriptor `from` upwards; closes it. */
static int climb(int from, const struct stat *wanted, bool *met)
{
    struct stat here;
    int rc = identity(from, &here);
    while (rc == BITKV_OK && !one_inode(&here, wanted)) {
        struct stat below = here;
        int up = bkv_dir_descriptor(from, "..", 0);
        int error = errno;
        (void)bkv_io->close(from);
        from = up;
        if (up < 0)
            return bkv_error_sys(error, "cannot look above a directory");
        rc = identity(from, &here);
        if (rc == BITKV_OK && one_inode(&here, &below))
            break; /* the root is its own parent */
    }
    *met = rc == BITKV_OK && one_inode(&here, wanted);
    (void)bkv_io->close(from);
    return rc;
}

int bkv_site_within(const struct bkv_site *site, const struct bkv_dir *dir, bool *within)
{
    *within = false;
    int rc = bkv_site_is(site, "", dir, within);
    struct stat wanted;
    if (rc == BITKV_OK)
        rc = identity(dir->fd, &wanted);
    if (rc != BITKV_OK || *within)
        return rc;
    int fd = bkv_dir_descriptor(site->parent, ".", 0);
    if (fd < 0)
        return bkv_error_sys(errno, "cannot open the parent directory of %s", site->path);
    return climb(fd, &wanted, within);
}

/* --- locks ------------------------------------------------------------------------ */

int bkv_dir_lock(const struct bkv_dir *dir)
{
    int result;
    do
        result = bkv_io->flock(dir->fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return BITKV_OK;
    if (errno == EWOULDBLOCK)
        return bkv_error(BITKV_ERR_LOCKED, "%s is in use; close it there", dir->path);
    return bkv_error_sys(errno, "cannot lock %s", dir->path);
}

void bkv_dir_leave(struct bkv_dir *dir)
{
    if (dir->fd >= 0) {
        (void)bkv_io->flock(dir->fd, LOCK_UN); /* a forked child may have a copy */
        (void)bkv_io->close(dir->fd);
    }
    dir->fd = -1;
    bkv_mfree(dir->path);
    dir->path = NULL;
}
