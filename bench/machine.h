/* SPDX-License-Identifier: MIT */
/* What the figures were measured on, without names of hosts or directories. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdint.h>

struct bench_machine {
    char processor[128];
    unsigned cores; /* that the process may run on */
    uint64_t memory_bytes;
    char kernel[160];
    char file_system[32];
    char huge_pages[64]; /* transparent_hugepage/enabled: what is chosen */
    char compiler[64];
};

void bench_machine_describe(struct bench_machine *machine, const char *directory);

#endif
