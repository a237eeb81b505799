/* SPDX-License-Identifier: MIT */
/*
 * Removing the files of a database: those that the library makes, by their
 * names, and never another. Whether the directory may be removed at all is the
 * caller's to know (log/marker.h).
 */
#ifndef BKV_LOG_ERASE_H
#define BKV_LOG_ERASE_H

#include "io/file.h"

#include <stdbool.h>

/* BITKV_OK if everything below the directory has a name that the library
 * gives; else BITKV_ERR_EXISTS, which names what has not. */
int bkv_erase_check(struct bkv_dir *dir);

/* Removes all files and folders with such names, the file `last` after all
 * others, so that it speaks for the directory as long as there is something in
 * it. Not synced. */
int bkv_erase(struct bkv_dir *dir, const char *last);

/* *empty: there is no entry in it. */
int bkv_dir_empty(struct bkv_dir *dir, bool *empty);

#endif
