/* SPDX-License-Identifier: MIT */
/* Figures for people: `printf("%s", human_count(n).text)`. */
#ifndef BITKV_TOOLS_FIGURES_H
#define BITKV_TOOLS_FIGURES_H

#include <stdint.h>

struct human {
    char text[32];
};

struct human human_count(uint64_t count);                  /* 63,666 */
struct human human_bytes(uint64_t bytes);                  /* 48.9 MiB */
struct human human_duration(uint64_t time_ns);             /* 1.23 s */
struct human human_rate(uint64_t count, uint64_t time_ns); /* 303,171/s */

#endif
