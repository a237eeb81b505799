/* SPDX-License-Identifier: MIT */
/*
 * "Quickly Generating Billion-Record Synthetic Databases", Gray and others, SIGMOD
 * 1994, with the constants of YCSB.
 */
#include "zipf.h"

#include <math.h>

#define ITEMS 1e10
#define THETA 0.99
/* The sum of 1 / i^THETA for all items, as YCSB has it. */
#define ZETA 26.46902820178302

void bench_zipf_init(struct bench_zipf *zipf, uint64_t ids)
{
    const double zeta_2 = 1.0 + pow(0.5, THETA);

    zipf->ids = ids;
    zipf->alpha = 1.0 / (1.0 - THETA);
    zipf->eta = (1.0 - pow(2.0 / ITEMS, 1.0 - THETA)) / (1.0 - zeta_2 / ZETA);
    zipf->second = zeta_2;
}

/* FNV-1a of the eight bytes, as YCSB scatters. */
static uint64_t scatter(uint64_t rank)
{
    uint64_t hash = 0xcbf29ce484222325ull;

    for (unsigned i = 0; i < 8; i++) {
        hash ^= rank & 0xffu;
        hash *= 1099511628211ull;
        rank >>= 8;
    }
    return hash;
}

uint64_t bench_zipf_id(const struct bench_zipf *zipf, uint64_t random)
{
    const double uniform = (double)(random >> 11) * 0x1p-53;
    const double uz = uniform * ZETA;
    uint64_t rank;

    if (uz < 1.0)
        rank = 0;
    else if (uz < zipf->second)
        rank = 1;
    else
        rank = (uint64_t)(ITEMS * pow(zipf->eta * uniform - zipf->eta + 1.0, zipf->alpha));
    return scatter(rank) % zipf->ids;
}
