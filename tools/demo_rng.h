/* SPDX-License-Identifier: MIT */
/* Numbers that look random and follow from a seed (SplitMix64, Steele et al., OOPSLA 2014). */
#ifndef BITKV_TOOLS_DEMO_RNG_H
#define BITKV_TOOLS_DEMO_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_hash(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t number = rng_hash(rng->state);
    rng->state += UINT64_C(0x9e3779b97f4a7c15);
    return number;
}

/* 0 to limit - 1; the bias is below 2^-32 for the limits here. */
static inline uint64_t rng_below(struct rng *rng, uint64_t limit)
{
    return rng_next(rng) % limit;
}

#endif
