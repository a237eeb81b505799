/* SPDX-License-Identifier: MIT */
/*
 * Keys, values and the order of operations.
 *
 * A key is a bijective hash of its id, so keys are unique, spread over the
 * key space, and made in a few nanoseconds without a table. The first 8 bytes
 * of a value are its stamp, id and version; the rest is a random template
 * that the stamp is mixed into. So every get is checked against exactly the
 * version that it must return, at the cost of a compare, and every 64th is
 * compared byte by byte.
 *
 * The operations of a phase are written down before it is timed: 8 bytes each,
 * read in sequence while it runs. Writing them down plays the phase through,
 * which is how the expected versions are known.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BENCH_KEY_SIZE_MIN   8u
#define BENCH_KEY_SIZE_MAX   500u /* LMDB's limit is 511 */
#define BENCH_VALUE_SIZE_MIN 8u
#define BENCH_VALUE_SIZE_MAX 4096u
#define BENCH_THREADS_MAX    64u
/* Compared whole: one in so many. */
#define BENCH_FULL_COMPARE 64u

/* Ids of keys that are never stored. */
#define BENCH_ID_ABSENT (1ull << 40)

struct bench_op {
    uint32_t id;
    uint32_t what; /* version, and the flags below */
};

#define BENCH_OP_VERSION 0x0fffffffu
#define BENCH_OP_PUT     0x80000000u
/* Another thread may write the key meanwhile: any version from this one on. */
#define BENCH_OP_AT_LEAST 0x40000000u

struct bench_workload {
    uint64_t keys;
    size_t key_size;
    size_t value_size;
    uint64_t seed;
    uint64_t random;                                /* state of the order's generator */
    uint32_t *versions;                             /* of each id: what is stored; 0 if nothing */
    uint64_t words[(BENCH_VALUE_SIZE_MAX + 7) / 8]; /* the template */
};

/* false if memory is lacking */
bool bench_workload_init(struct bench_workload *workload, uint64_t keys, size_t key_size,
                         size_t value_size, uint64_t seed, bool with_versions);
void bench_workload_free(struct bench_workload *workload);

uint64_t bench_random(uint64_t *state);
/* Below a limit of at most 2^32. */
static inline uint64_t bench_random_below(uint64_t *state, uint64_t limit)
{
    return ((bench_random(state) >> 32) * limit) >> 32;
}

enum bench_order {
    BENCH_ORDER_FILL,      /* every id once, in sequence */
    BENCH_ORDER_OVERWRITE, /* puts of random ids */
    BENCH_ORDER_GET,       /* gets of random ids */
    BENCH_ORDER_MISS,      /* gets of ids that are not stored */
    BENCH_ORDER_MIXED_95,  /* gets, and 5 % puts */
    BENCH_ORDER_MIXED_50,  /* gets, and 50 % puts */
    BENCH_ORDER_DELETE,    /* half of the ids, each once, at random */
    BENCH_ORDER_VERIFY,    /* gets of every id, in sequence */
};

/*
 * Writes down `count` operations for each of `threads` (ops[t], malloc'd) and
 * updates the versions. FILL, DELETE and VERIFY divide the ids, their count
 * is their own; with several threads each thread puts ids of its own only, so
 * that the last version of every key is known. counts[t] receives the lengths.
 * false if memory is lacking.
 */
bool bench_workload_order(struct bench_workload *workload, enum bench_order order, uint64_t count,
                          unsigned threads, struct bench_op **ops, size_t *counts);

/* Finaliser of MurmurHash3: a bijection of 64 bits. */
static inline uint64_t bench_mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    x ^= x >> 33;
    return x;
}

/* `key` has room for key_size rounded up to 8. */
static inline void bench_key(const struct bench_workload *workload, uint64_t id, uint64_t *key)
{
    uint64_t word = bench_mix(id ^ workload->seed);

    key[0] = word;
    for (size_t i = 1; i * 8 < workload->key_size; i++) {
        word = (word ^ (word >> 29)) * 0x9e3779b97f4a7c15ull;
        key[i] = word;
    }
}

static inline uint64_t bench_stamp(uint64_t id, uint32_t version)
{
    return id | (uint64_t)version << 36;
}

/* `value` has room for value_size rounded up to 8. */
static inline void bench_value(const struct bench_workload *workload, uint64_t stamp,
                               uint64_t *value)
{
    const uint64_t mixed = (stamp + 1) * 0x9e3779b97f4a7c15ull;
    const size_t words = (workload->value_size + 7) / 8;

    value[0] = stamp;
    for (size_t i = 1; i < words; i++)
        value[i] = workload->words[i] ^ mixed;
}

/* Whether a value is the one that `op` must get. `full`: compare it whole. */
static inline bool bench_value_right(const struct bench_workload *workload, struct bench_op op,
                                     const void *value, size_t size, bool full)
{
    const uint32_t version = op.what & BENCH_OP_VERSION;
    uint64_t stamp;

    if (size != workload->value_size)
        return false;
    memcpy(&stamp, value, sizeof(stamp));
    if (stamp != bench_stamp(op.id, version)) {
        if ((op.what & BENCH_OP_AT_LEAST) == 0 || stamp < bench_stamp(op.id, version) ||
            (stamp & ((1ull << 36) - 1)) != op.id)
            return false;
    }
    if (full) {
        uint64_t expected[(BENCH_VALUE_SIZE_MAX + 7) / 8];

        bench_value(workload, stamp, expected);
        return memcmp(value, expected, size) == 0;
    }
    return true;
}

#endif
