/* SPDX-License-Identifier: MIT */
/*
 * "Quickly Generating Billion-Record Synthetic Databases", Gray and others, SIGMOD
 * 1994.
 */
#include "zipf.h"

#include <math.h>

#define THETA      0.99
#define YCSB_ITEMS 1e10
/* The sum of 1 / i^THETA for all items, as YCSB has it. */
#define YCSB_ZETA 26.46902820178302
/* Terms of the sum that are added one by one; the rest is an integral. */
#define TERMS 100000u

static double zeta_of(uint64_t items)
{
    const uint64_t terms = items < TERMS ? items : TERMS;
    const double last = (double)terms, end = (double)items;
    double sum = 0;

    for (uint64_t i = 1; i <= terms; i++)
        sum += pow((double)i, -THETA);
    return sum + (pow(end, 1 - THETA) - pow(last, 1 - THETA)) / (1 - THETA) +
           (pow(end, -THETA) - pow(last, -THETA)) / 2;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        const uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

static void prepare(struct bench_zipf *zipf, uint64_t ids, double items, double zeta)
{
    const double zeta_2 = 1.0 + pow(0.5, THETA);

    *zipf = (struct bench_zipf){.ids = ids, .items = items, .zeta = zeta, .second = zeta_2};
    zipf->alpha = 1.0 / (1.0 - THETA);
    zipf->eta = (1.0 - pow(2.0 / items, 1.0 - THETA)) / (1.0 - zeta_2 / zeta);
}

void bench_zipf_init(struct bench_zipf *zipf, uint64_t ids)
{
    prepare(zipf, ids, (double)ids, zeta_of(ids));
    zipf->stride = (uint64_t)(0.6180339887 * (double)ids) | 1u;
    while (common_divisor(zipf->stride, ids) != 1)
        zipf->stride += 2;
}

void bench_zipf_init_ycsb(struct bench_zipf *zipf, uint64_t ids)
{
    prepare(zipf, ids, YCSB_ITEMS, YCSB_ZETA);
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
    const double uz = uniform * zipf->zeta;
    uint64_t rank;

    if (uz < 1.0)
        rank = 0;
    else if (uz < zipf->second)
        rank = 1;
    else
        rank = (uint64_t)(zipf->items * pow(zipf->eta * uniform - zipf->eta + 1.0, zipf->alpha));
    if (zipf->stride == 0)
        return scatter(rank) % zipf->ids;
    return rank % zipf->ids * zipf->stride % zipf->ids;
}
