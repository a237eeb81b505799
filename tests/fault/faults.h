/* SPDX-License-Identifier: MIT */
/*
 * Faults through the seam of src/io/io.h: the n-th call of a kind fails with
 * an errno, once or from then on; transfers come in pieces. Syncs succeed
 * without being made, since no power is cut here.
 *
 * And a workload with a model of what was acknowledged, to be run under them.
 */
#ifndef BITKV_TESTS_FAULT_FAULTS_H
#define BITKV_TESTS_FAULT_FAULTS_H

#include <bitkv.h>

#include <stdbool.h>
#include <stdint.h>

#define FAULT_KINDS(X)                                                                             \
    X(openat)                                                                                      \
    X(pread)                                                                                       \
    X(pwrite)                                                                                      \
    X(fallocate)                                                                                   \
    X(ftruncate)                                                                                   \
    X(fdatasync)                                                                                   \
    X(fsync)                                                                                       \
    X(fstat)                                                                                       \
    X(fstatfs)                                                                                     \
    X(flock)                                                                                       \
    X(renameat)                                                                                    \
    X(renameat2)                                                                                   \
    X(linkat)                                                                                      \
    X(copy_file_range)                                                                             \
    X(rmdirat)                                                                                     \
    X(unlinkat)                                                                                    \
    X(mkdirat)                                                                                     \
    X(mmap)                                                                                        \
    X(mprotect)                                                                                    \
    X(madvise)                                                                                     \
    X(fdopendir)                                                                                   \
    X(readdir)

enum fault_kind {
#define FAULT_ENUM(name) FAULT_##name,
    FAULT_KINDS(FAULT_ENUM)
#undef FAULT_ENUM
        FAULT_COUNT,
};

const char *fault_name(enum fault_kind kind);

/* The seam is in force from here on; nothing fails yet. */
void fault_install(void);
void fault_uninstall(void);

/* Calls `first` to `first + count - 1` of the kind, counted from now, fail. */
void fault_arm(enum fault_kind kind, uint32_t first, uint32_t count, int error);
/* The same for every kind of the table, counted together. */
void fault_arm_all(uint32_t first, uint32_t count, int error);
/* The process dies with `status` in place of call `first` of any kind. */
void fault_arm_death(uint32_t first, int status);
void fault_disarm(void);
/* How many calls have failed since fault_arm(). */
uint32_t fault_fired(void);
/* Reads and writes transfer at most `size` bytes at a time; 0: as asked. */
void fault_short_transfers(uint32_t size);

/* --- the workload -------------------------------------------------------------- */

#define FAULT_KEYS 24

struct fault_model {
    unsigned known[FAULT_KEYS]; /* version that a get must find; 0: none */
    /* A write failed with its sync, so it may be seen or not: any version from
     * `known` to here, or none. */
    unsigned doubtful[FAULT_KEYS];
    bool in_doubt[FAULT_KEYS];
    unsigned next_version;
    unsigned failures; /* calls that failed */
};

/* Open, put over several segments, get, delete, scan, sync, close; and once
 * more. Every call may fail, but not lie. */
void fault_workload(struct fault_model *model, const char *path, bitkv_io_mode mode);

/* With all faults gone: the database opens, and holds what it must. */
void fault_check(const struct fault_model *model, const char *path, bitkv_io_mode mode);

#endif
