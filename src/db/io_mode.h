/* SPDX-License-Identifier: MIT */
#ifndef BKV_DB_IO_MODE_H
#define BKV_DB_IO_MODE_H

#include "io/file.h"

#include <bitkv.h>

/* Decides between mapped tail and pwrite, with a reason for people. */
int bkv_io_mode_choose(const struct bkv_dir *dir, bitkv_io_mode wanted, bool *mapped, char *reason,
                       size_t reason_size);

#endif
