/* SPDX-License-Identifier: MIT */
#include "support/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Of ext4 and xfs alike; <linux/...> has neither. */
#define IOC_SHUTDOWN _IOR('X', 125, uint32_t)

/* A tmpfs for images and mount points, over a directory that every system has;
 * seen by this process only. */
#define HOME "/mnt"

static bool begun;
static char reason[256];

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *format, ...)
{
    int error = errno;
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, ": %s\n", strerror(error));
    exit(EXIT_FAILURE);
}

static const char *lacks(const char *what)
{
    (void)snprintf(reason, sizeof reason, "%s: %s", what, strerror(errno));
    return reason;
}

const char *volume_begin(void)
{
    if (begun)
        return NULL;
    if (geteuid() != 0)
        return "only root can mount file systems";
    if (unshare(CLONE_NEWNS) != 0)
        return lacks("no mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return lacks("mounts cannot be made private");
    if (mount("bitkv-volumes", HOME, "tmpfs", 0, "size=90%") != 0)
        return lacks("no tmpfs at " HOME);
    begun = true;
    return NULL;
}

static bool have_program(const char *type)
{
    char command[64];
    (void)snprintf(command, sizeof command, "command -v mkfs.%s >/dev/null", type);
    return system(command) == 0; // NOLINT(cert-env33-c): the shell's search is wanted
}

static bool kernel_has(const char *type)
{
    char line[128];
    bool found = false;
    FILE *list = fopen("/proc/filesystems", "re");
    while (list != NULL && !found && fgets(line, sizeof line, list) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        const char *name = strrchr(line, '\t');
        found = name != NULL && strcmp(name + 1, type) == 0;
    }
    if (list != NULL)
        (void)fclose(list);
    return found;
}

const char *volume_lacks(const char *type)
{
    if (!kernel_has(type)) {
        (void)snprintf(reason, sizeof reason, "the kernel has no %s", type);
        return reason;
    }
    if (strcmp(type, "tmpfs") == 0)
        return NULL;
    if (!have_program(type)) {
        (void)snprintf(reason, sizeof reason, "no mkfs.%s (scripts/setup.sh torture)", type);
        return reason;
    }
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0 || ioctl(control, LOOP_CTL_GET_FREE) < 0) {
        const char *why = lacks("no loop device");
        if (control >= 0)
            (void)close(control);
        return why;
    }
    (void)close(control);
    return NULL;
}

static void make_in(const char *folder, struct volume *volume, const char *type, uint64_t bytes,
                    const char *mkfs_options)
{
    static unsigned number;
    *volume = (struct volume){.thin = false};
    (void)snprintf(volume->type, sizeof volume->type, "%s", type);
    (void)snprintf(volume->mounted, sizeof volume->mounted, HOME "/%u", ++number);
    if (mkdir(volume->mounted, 0755) != 0)
        die("mkdir %s", volume->mounted);
    if (strcmp(type, "tmpfs") == 0)
        return;
    (void)snprintf(volume->image, sizeof volume->image, "%s/%u.img", folder, number);
    int fd = open(volume->image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        die("image %s", volume->image);
    (void)close(fd);
    char command[512];
    (void)snprintf(command, sizeof command, "mkfs.%s -q %s %s", type, mkfs_options, volume->image);
    if (system(command) != 0) // NOLINT(cert-env33-c): nothing of it is from outside
        die("%s", command);
}

void volume_make(struct volume *volume, const char *type, uint64_t bytes, const char *mkfs_options)
{
    make_in(HOME, volume, type, bytes, mkfs_options);
}

void volume_make_on(struct volume *volume, const struct volume *below, const char *type,
                    uint64_t bytes, const char *mkfs_options)
{
    make_in(below->mounted, volume, type, bytes, mkfs_options);
    volume->thin = true;
}

/* It is freed when the last one who has it open lets go of it. */
static void attach(int image, bool direct, char device[32])
{
    uint32_t flags = LO_FLAGS_AUTOCLEAR | (direct ? LO_FLAGS_DIRECT_IO : 0);
    struct loop_config config = {.fd = (uint32_t)image, .info = {.lo_flags = flags}};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        die("loop-control");
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        (void)snprintf(device, 32, "/dev/loop%d", number);
        int loop = open(device, O_RDWR | O_CLOEXEC);
        if (number >= 0 && loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
            (void)close(control);
            (void)dup2(loop, image); /* which keeps it until it is mounted */
            (void)close(loop);
            return;
        }
        if (loop >= 0)
            (void)close(loop); /* somebody else was quicker */
    }
    die("no loop device");
}

bool volume_mounts(struct volume *volume, const char *options)
{
    if (volume->image[0] == '\0')
        return mount("bitkv", volume->mounted, volume->type, 0, options) == 0;
    char device[32];
    int image = open(volume->image, O_RDWR | O_CLOEXEC);
    if (image < 0)
        die("image %s", volume->image);
    attach(image, volume->thin, device);
    int rc = mount(device, volume->mounted, volume->type, 0, options);
    int error = errno;
    (void)close(image);
    errno = error;
    return rc == 0;
}

void volume_mount(struct volume *volume, const char *options)
{
    if (!volume_mounts(volume, options))
        die("mount %s (%s)", volume->type, options);
}

void volume_unmount(struct volume *volume)
{
    struct timespec t = {.tv_nsec = 1000000};
    for (unsigned attempt = 0; umount(volume->mounted) != 0; attempt++) {
        if (errno != EBUSY || attempt > 5000)
            die("umount %s", volume->type);
        (void)nanosleep(&t, NULL); /* an io_uring of a process that died lets go late */
    }
}

void volume_remove(struct volume *volume)
{
    if (volume->image[0] != '\0')
        (void)unlink(volume->image);
    (void)rmdir(volume->mounted);
}

void volume_shut_down(const struct volume *volume, enum volume_cut cut)
{
    uint32_t flags = cut;
    int fd = open(volume->mounted, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, IOC_SHUTDOWN, &flags) != 0)
        die("shutting %s down", volume->type);
    (void)close(fd);
}
