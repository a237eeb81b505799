/* SPDX-License-Identifier: MIT */
/*
 * Runs a program to which the kernel refuses io_uring, as a container's seccomp
 * filter, a sysctl or a limit would:
 *
 *   refuse eperm|enosys|enomem PROGRAM...   io_uring_setup(2) fails with that
 *   refuse none PROGRAM...                  runs it as it is
 *
 * Followed by `memlock`, as in `refuse none memlock PROGRAM...`, the process may
 * lock no memory, which counts for rings on kernels before 5.12.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuse(unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        unsigned error;
    } refusals[] = {{"none", 0}, {"eperm", EPERM}, {"enosys", ENOSYS}, {"enomem", ENOMEM}};
    int at = 2;
    unsigned error = 0;
    int known = 0;
    for (size_t i = 0; argc > 2 && i < sizeof refusals / sizeof refusals[0]; i++) {
        if (strcmp(argv[1], refusals[i].name) == 0) {
            known = 1;
            error = refusals[i].error;
        }
    }
    if (known && strcmp(argv[at], "memlock") == 0) {
        struct rlimit none = {0, 0};
        if (setrlimit(RLIMIT_MEMLOCK, &none) != 0) {
            perror("setrlimit");
            return 125;
        }
        at++;
    }
    if (!known || at >= argc) {
        (void)fprintf(stderr, "usage: refuse none|eperm|enosys|enomem [memlock] PROGRAM...\n");
        return 125;
    }
    if (error != 0 && refuse(error) != 0) {
        perror("seccomp");
        return 125;
    }
    (void)execv(argv[at], argv + at);
    perror(argv[at]);
    return 126;
}
