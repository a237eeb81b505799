/* SPDX-License-Identifier: MIT */
#ifndef BKV_DB_OPTIONS_H
#define BKV_DB_OPTIONS_H

#include <bitkv.h>

/* Copies the caller's options (NULL: defaults) with every default filled in,
 * or says which one is wrong. */
int bkv_options_check(bitkv_options *out, const bitkv_options *given);

#endif
