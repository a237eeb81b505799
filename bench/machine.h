/* SPDX-License-Identifier: MIT */
/* What the figures were measured on, without names of hosts or directories. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stddef.h>
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

/*
 * Takes `bytes` of memory in huge pages and as much in small ones, writes to
 * each and gives them back (at most a quarter of what the machine has each;
 * failing that, nothing).
 *
 * A virtual machine may hand free memory back to its host within seconds
 * (free page reporting), and then pays up to 10 us for each page of 4 KiB that
 * it uses again: more than most operations measured here take. Whoever comes
 * first after a pause would pay for all. So every timed phase is preceded by
 * this, for every engine alike.
 */
void bench_machine_warm_memory(size_t bytes);

#endif
