/* SPDX-License-Identifier: MIT */
/*
 * A disk of which is known what was synced. The seam keeps a copy of every file as
 * of its last fdatasync(), and of every directory's entries as of its last fsync();
 * a cut of the power restores the copies, beside the database, which goes on.
 *
 * Failure modes: a file is known by its inode; what changes it without the seam
 * of src/io/io.h is seen by its next sync.
 */
#ifndef BITKV_TESTS_FAULT_DISK_H
#define BITKV_TESTS_FAULT_DISK_H

#include "damage/lab.h"

#include "io/io.h"

#include <stdint.h>

extern char disk_path[LAB_PATH];     /* of the database, in a directory of its own */
extern char disk_restored[LAB_PATH]; /* what a cut left of it */

/* In force from disk_setup() to disk_teardown(); a test may replace calls of it. */
extern struct bkv_io_ops disk_ops;

int disk_setup(void **state);
int disk_teardown(void **state);

/* An empty disk: no database. */
void disk_fresh(void);
/* What a sync of the file does. Any thread. */
void disk_keep_file(int fd);

/* The disk has what was synced, and nothing else. Fails the test if the entry of
 * the database is not durable. */
void disk_cut(void);
/* The next `count` fdatasync() calls fail, and what they would have brought to the disk
 * never gets there: the page cache has it, takes it for clean, and syncs it no more
 * (as ext4 and XFS do: Rebello et al., "Can applications recover from fsync
 * failures?", ATC 2020). */
void disk_fail_syncs(unsigned count);
/* The database becomes what the last cut left, all of it durable. It is closed. */
void disk_power_returns(void);

/* From now on, `calls` calls that change the disk later, the power is cut once, and
 * of all that was not synced, names and pages, the disk has some, as the seed says. */
void disk_mix_after(uint64_t seed, int calls);
/* The same now, if that has not come. */
void disk_mix_now(void);

#endif
