/* SPDX-License-Identifier: MIT */
/*
 * Asks /proc/locks, where the kernel lists every lock with the device and inode of its file. Some
 * file systems have another device number there than stat() tells, and a process of another
 * namespace has none at all: then nobody is named, which is no failure.
 */
#include "holder.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void read_name(struct holder *holder)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/comm", holder->pid);
    FILE *stream = fopen(path, "re");
    if (stream == NULL) {
        return;
    }
    if (fgets(holder->name, sizeof holder->name, stream) != NULL) {
        holder->name[strcspn(holder->name, "\n")] = '\0';
    }
    fclose(stream);
}

bool holder_find(struct holder *holder, const char *directory)
{
    *holder = (struct holder){.pid = 0};
    struct stat status;
    FILE *stream = stat(directory, &status) == 0 ? fopen("/proc/locks", "re") : NULL;
    if (stream == NULL) {
        return false;
    }
    char file[64]; /* as a line names it */
    snprintf(file, sizeof file, "%02x:%02x:%ju", major(status.st_dev), minor(status.st_dev),
             (uintmax_t)status.st_ino);
    bool found = false;
    char line[256];
    while (!found && fgets(line, sizeof line, stream) != NULL) {
        char pid[24];
        char inode[64];
        /* Lines of those who wait have "->" before the kind, and so do not match. */
        found = sscanf(line, "%*s FLOCK %*s %*s %23s %63s", pid, inode) == 2 &&
                strcmp(inode, file) == 0;
        holder->pid = found ? strtol(pid, NULL, 10) : 0;
    }
    fclose(stream);
    if (holder->pid <= 0) {
        return false;
    }
    read_name(holder);
    return true;
}
