/* SPDX-License-Identifier: MIT */
/*
 * A directory's place in its parent: what is needed to make, swap and remove
 * whole directories by name, atomically and durably. `name` is the directory's
 * own; others of the same parent ("<name>.partial") are given by their suffix.
 */
#ifndef BKV_IO_SITE_H
#define BKV_IO_SITE_H

#include "io/file.h"

struct bkv_site {
    int parent; /* descriptor; -1: closed */
    char *path; /* of the directory itself, absolute, links resolved */
    char *name; /* points into path: its last component */
};

/* The directory need not exist, its parent has to: BITKV_ERR_NO_DATABASE.
 * BITKV_ERR_INVALID for a path that has no last component. */
int bkv_site_open(struct bkv_site *site, const char *path);
void bkv_site_close(struct bkv_site *site);

/* The directory <name><suffix>, for bkv_dir_leave(). BITKV_NOT_FOUND;
 * BITKV_ERR_EXISTS if that is something else. */
int bkv_site_enter(const struct bkv_site *site, const char *suffix, struct bkv_dir *dir);
/* There may be one already. */
int bkv_site_make(const struct bkv_site *site, const char *suffix, mode_t mode);
/* <name><suffix> becomes <name>, which is not there or an empty directory; not
 * durable before bkv_site_sync(). */
int bkv_site_move_in(const struct bkv_site *site, const char *suffix);
/* The two change names, at one moment. */
int bkv_site_exchange(const struct bkv_site *site, const char *suffix);
/* An empty directory; absent is fine. */
int bkv_site_remove(const struct bkv_site *site, const char *suffix);
int bkv_site_sync(const struct bkv_site *site);
/* Is `dir`, a directory that was opened before, what <name><suffix> says now? */
int bkv_site_is(const struct bkv_site *site, const char *suffix, const struct bkv_dir *dir,
                bool *same);
/* Does the place lie in `dir`, at whatever depth, or is it `dir`? */
int bkv_site_within(const struct bkv_site *site, const struct bkv_dir *dir, bool *within);

/* Against every other opener: BITKV_ERR_LOCKED at once. */
int bkv_dir_lock(const struct bkv_dir *dir);
/* Unlocks and closes; a `dir` that was never entered is ignored. */
void bkv_dir_leave(struct bkv_dir *dir);

#endif
