/* SPDX-License-Identifier: MIT */
/*
 * File systems of a test's own: an image in memory, on a loop device, in a mount
 * namespace that nobody else sees. All of it goes away with the process, however
 * that ends.
 *
 * It takes root, loop devices and mkfs. Where there are none, volume_begin() says
 * why, and the test reports itself as skipped (VOLUME_SKIPPED, which ctest knows).
 */
#ifndef TESTS_SUPPORT_VOLUME_H
#define TESTS_SUPPORT_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VOLUME_SKIPPED 77

enum volume_cut {
    VOLUME_CUT_SYNCED = 0, /* what is dirty is written before: nothing is lost */
    VOLUME_CUT_LOGGED = 1, /* the journal is flushed, the data is not */
    VOLUME_CUT_BARE = 2,   /* nothing is */
};

struct volume {
    char type[16];    /* "ext4", "xfs", "tmpfs" */
    char image[128];  /* "": none */
    char mounted[96]; /* the directory it is mounted at */
    bool thin;        /* its image has holes that may not be filled */
};

/* Once for the process. NULL, or why there are no volumes here. */
const char *volume_begin(void);
/* Can a file system of this type be made and mounted? NULL, or why not. */
const char *volume_lacks(const char *type);

/* A new file system. What fails here ends the process: it is no test's matter. */
void volume_make(struct volume *volume, const char *type, uint64_t bytes, const char *mkfs_options);
/* The same, its image being a file with holes on another one, which is an ext4 and may
 * become full. The loop device then writes past the page cache: through it, it was seen
 * to lose what it had acknowledged, of a program that writes a file and syncs it. */
void volume_make_on(struct volume *volume, const struct volume *below, const char *type,
                    uint64_t bytes, const char *mkfs_options);
void volume_mount(struct volume *volume, const char *options);
/* False if the kernel refuses the image, of which a device that failed has kept a part. */
bool volume_mounts(struct volume *volume, const char *options);
void volume_unmount(struct volume *volume);
void volume_remove(struct volume *volume);

/* From here on the file system refuses everything, and what it has not written is
 * lost: EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN. */
void volume_shut_down(const struct volume *volume, enum volume_cut cut);

#endif
