/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

static void copy(char *to, size_t size, const char *text)
{
    (void)snprintf(to, size, "%s", text);
}

static void describe_processor(struct bench_machine *machine)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[512];

    copy(machine->processor, sizeof(machine->processor), "unknown");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');

        if (colon != NULL && strncmp(line, "model name", 10) == 0) {
            line[strcspn(line, "\n")] = '\0';
            copy(machine->processor, sizeof(machine->processor), colon + 2);
            break;
        }
    }
    if (file != NULL)
        (void)fclose(file);
}

static void describe_file_system(struct bench_machine *machine, const char *directory)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } known[] = {{EXT4_SUPER_MAGIC, "ext4"},
                 {XFS_SUPER_MAGIC, "xfs"},
                 {BTRFS_SUPER_MAGIC, "btrfs"},
                 {TMPFS_MAGIC, "tmpfs"},
                 {OVERLAYFS_SUPER_MAGIC, "overlayfs"},
                 {F2FS_SUPER_MAGIC, "f2fs"},
                 {NFS_SUPER_MAGIC, "nfs"}};
    struct statfs status;

    copy(machine->file_system, sizeof(machine->file_system), "unknown");
    if (statfs(directory, &status) != 0)
        return;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if ((unsigned long)status.f_type == known[i].magic)
            copy(machine->file_system, sizeof(machine->file_system), known[i].name);
    }
}

static void describe_huge_pages(struct bench_machine *machine)
{
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    char line[128];

    copy(machine->huge_pages, sizeof(machine->huge_pages), "unknown");
    if (file == NULL)
        return;
    if (fgets(line, sizeof(line), file) != NULL) {
        char *start = strchr(line, '[');
        char *end = strchr(line, ']');

        if (start != NULL && end != NULL && end > start) {
            *end = '\0';
            copy(machine->huge_pages, sizeof(machine->huge_pages), start + 1);
        }
    }
    (void)fclose(file);
}

void bench_machine_describe(struct bench_machine *machine, const char *directory)
{
    struct utsname system;
    cpu_set_t set;

    memset(machine, 0, sizeof(*machine));
    describe_processor(machine);
    describe_file_system(machine, directory);
    describe_huge_pages(machine);
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        machine->cores = (unsigned)CPU_COUNT(&set);
    machine->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (uname(&system) == 0)
        (void)snprintf(machine->kernel, sizeof(machine->kernel), "%s %s", system.sysname,
                       system.release);
#if defined(__clang__)
    copy(machine->compiler, sizeof(machine->compiler), "clang " __clang_version__);
#else
    copy(machine->compiler, sizeof(machine->compiler), "gcc " __VERSION__);
#endif
}

static void warm(size_t bytes, size_t page, int advice)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return;
    (void)madvise(memory, bytes, advice);
    for (size_t at = 0; at < bytes; at += page)
        ((volatile char *)memory)[at] = 1;
    (void)munmap(memory, bytes);
}

void bench_machine_warm_memory(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t quarter = (size_t)sysconf(_SC_PHYS_PAGES) / 4 * page;

    /* The allocator keeps blocks of different sizes apart: a page cache that
     * uses large folios does not get what was taken in small pages. */
    bytes = bytes < quarter ? bytes : quarter;
    warm(bytes, page, MADV_NOHUGEPAGE);
    warm(bytes, page, MADV_HUGEPAGE);
}
