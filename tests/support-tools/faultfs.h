/* SPDX-License-Identifier: MIT */
/* What a test and its faultfs (faultfs.c) share. */
#ifndef TESTS_SUPPORT_TOOLS_FAULTFS_H
#define TESTS_SUPPORT_TOOLS_FAULTFS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum faultfs_kind {
    FAULTFS_READ,
    FAULTFS_WRITE,
    FAULTFS_OPEN,
    FAULTFS_SYNC,
    FAULTFS_ALLOCATE,
    FAULTFS_TRUNCATE,
    FAULTFS_RENAME,
    FAULTFS_LINK,
    FAULTFS_UNLINK,
    FAULTFS_LIST,
    FAULTFS_KINDS,
};

/* Calls that fail: one in so many, with one of these. */
struct faultfs_rule {
    _Atomic uint32_t one_in; /* 0: none */
    _Atomic int errors[4];   /* negative; drawn from those that are not 0 */
};

struct faultfs {
    _Atomic uint64_t seed;
    struct faultfs_rule rules[FAULTFS_KINDS];
    _Atomic uint32_t short_one_in; /* transfers that are cut short; 0: none */
    _Atomic bool direct;           /* files that are opened have no page cache */
    _Atomic uint64_t failed[FAULTFS_KINDS], interrupted, shortened, calls;
};

#endif
