/* SPDX-License-Identifier: MIT */
/*
 * Asks /proc/locks, where the kernel lists every lock with the device and inode of its file. Some
 * file systems have another device number there than stat() tells, and a process of another
 * namespace has none at all: then nobody is named, which is no failure.
 */
#include "holder.h"

#include <stdio.h>
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
    bool found = false;
    char line[256];
    while (!found && fgets(line, sizeof line, stream) != NULL) {
        unsigned device_major = 0;
        unsigned device_minor = 0;
        unsigned long long inode = 0;
        /* Lines of those who wait have "->" before the kind, and so do not match. */
        found = sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%llu", &holder->pid, &device_major,
                       &device_minor, &inode) == 4 &&
                holder->pid > 0 && inode == status.st_ino && device_major == major(status.st_dev) &&
                device_minor == minor(status.st_dev);
    }
    fclose(stream);
    if (found) {
        read_name(holder);
    }
    return found;
}
