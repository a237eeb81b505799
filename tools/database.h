/* SPDX-License-Identifier: MIT */
/* Opening and closing as the settings say, with errors reported. */
#ifndef BITKV_TOOLS_DATABASE_H
#define BITKV_TOOLS_DATABASE_H

#include "options.h"

#include <bitkv.h>

/* Returns an exit status; on failure the user has been told and *db is NULL. */
int database_open(bitkv **db, const struct settings *settings);

/* What the file system has given for the files of a directory; 0 if it cannot be told. */
uint64_t database_disk_bytes(const char *directory);

/*
 * Close, report an error of the final sync.
 * Returns `status` unless that is EXIT_STATUS_OK and closing failed.
 */
int database_close(bitkv *db, const struct settings *settings, int status);

#endif
