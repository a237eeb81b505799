/* SPDX-License-Identifier: MIT */
/*
 * Faults through the seam of src/io/io.h: the n-th call of a kind fails with
 * an errno, once or from then on; transfers come in pieces. Syncs succeed
 * without being made, since no power is cut here. Allocations fail the same way.
 */
#ifndef BITKV_TESTS_FAULT_FAULTS_H
#define BITKV_TESTS_FAULT_FAULTS_H

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
    X(readdir)                                                                                     \
    X(close)                                                                                       \
    X(munmap)                                                                                      \
    X(closedir)                                                                                    \
    X(mincore)                                                                                     \
    X(pread_nowait)                                                                                \
    X(ring_read)

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
/* How many calls have failed since fault_arm(), and how many of the kind there were. */
uint32_t fault_fired(void);
uint32_t fault_calls(void);
/* Reads and writes transfer at most `size` bytes at a time; 0: as asked. With
 * `random` each takes as much as it likes of that, by a sequence that the number
 * begins. */
void fault_short_transfers(uint32_t size);
void fault_random_transfers(uint32_t size, uint64_t random);
/* Every record looks as if it were on the disk only, or not; until
 * fault_uninstall(). */
void fault_cold(bool cold);

/* Allocations `first` to `first + count - 1`, counted from now, fail. Set while no
 * other thread allocates. */
void fault_arm_memory(uint32_t first, uint32_t count);

#endif
