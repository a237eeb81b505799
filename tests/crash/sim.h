/* SPDX-License-Identifier: MIT */
/*
 * A file system whose power can be cut at every operation.
 *
 * Between sim_begin() and sim_end() everything goes through the seam (io/io.h)
 * to real files below `root`, and is written down: writes, stores into mapped
 * files, sizes, names, and syncs, which are not really done. Afterwards a disk
 * is taken through that journal, event by event, and at each of them can be
 * made the image that a cut leaves: all that was synced, and of the rest what
 * the policy takes. One recording thus gives as many crashes as it has events,
 * each under every policy.
 *
 * A sync can be made to fail: what it would have brought to the disk never gets there,
 * though the process sees it, unless it is written again, for the kernel takes it for
 * clean (Rebello et al., "Can applications recover from fsync failures?", ATC 2020).
 *
 * What is assumed of disk and file system is the least that docs/durability.md
 * relies on: a sector has the content of some moment since its last sync; a
 * rename happens or does not; everything else is independent until synced. Only
 * the policies for which sim_names_in_order() keep the order in which the names
 * of one directory change, as file systems with a journal do.
 */
#ifndef BITKV_TESTS_CRASH_SIM_H
#define BITKV_TESTS_CRASH_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim;
struct sim_disk;

enum sim_policy {
    SIM_ALL,      /* as after the death of the process alone */
    SIM_NONE,     /* only what was synced */
    SIM_METADATA, /* names and sizes, where the data should be zeros */
    SIM_DATA,     /* data and sizes, no names */
    SIM_SECTORS,  /* each sector as of any moment; names in order, up to one */
    SIM_TORN,     /* everything, but of the last write only a part */
    SIM_GARBAGE,  /* names and sizes, and noise in sectors that were written */
    SIM_FILES,    /* each file and each directory up to a moment of its own */
    SIM_NAMES,    /* data and sizes; of the changes of names any */
    SIM_MIXED,    /* each sector as of any moment, and of names any */
    SIM_POLICIES
};

const char *sim_policy_name(enum sim_policy policy);
bool sim_names_in_order(enum sim_policy policy);

/* What lies below `root` now is durable. No database may be open. */
struct sim *sim_begin(const char *root);
/* How many events there are, the stores into mapped files till now among them. */
size_t sim_events(struct sim *sim);
/* The next sync of a file fails, or none any more. */
void sim_fail_sync(struct sim *sim, bool fails);
/* Nothing is recorded from here on; the journal stays. */
void sim_end(struct sim *sim);
void sim_free(struct sim *sim);
/* Of the journal: two that differ have another, but for one in 2^32. */
uint32_t sim_checksum(const struct sim *sim);
/* The last events before `event`, for who looks into a failure. */
void sim_tell(const struct sim *sim, size_t event, size_t last);

struct sim_disk *sim_disk_begin(const struct sim *sim);
/* To before `event`; only forwards. */
void sim_disk_advance(struct sim_disk *disk, size_t event);
/* Makes in `to`, an empty directory, what a cut now leaves of `root`. */
void sim_disk_cut(const struct sim_disk *disk, enum sim_policy policy, uint64_t seed,
                  const char *to);
void sim_disk_end(struct sim_disk *disk);
/* Has a sync failed, and its process not said so yet by a file `name`? */
bool sim_disk_is_unmarked(const struct sim_disk *disk, const char *name);
/* The process dies and the power stays: makes in `root`, an empty directory, all that
 * there is in the kernel's memory, and begins to record what its successor does. What was not
 * synced is not durable for that: it stands at the beginning of the new journal. */
struct sim *sim_begin_after(const struct sim_disk *disk, const char *root);

#endif
