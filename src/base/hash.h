/* SPDX-License-Identifier: MIT */
/*
 * Keyed 128-bit hash of a key: SipHash-1-3 with 128-bit output (Aumasson and
 * Bernstein, "SipHash: a fast short-input PRF", 2012; the 1-3 rounds are those
 * of Rust's and CPython's tables). The secret is the database's own, so that
 * who chooses the keys can't choose the collisions.
 *
 * The 128 bits are spent once for all here:
 *
 *   lo            64 bits   the fingerprint, and the KeyDir's growth bits
 *   hi bits 0-19  20 bits   the tag: further bits for the KeyDir
 *   hi bits 48-63 16 bits   the partition
 */
#ifndef BKV_BASE_HASH_H
#define BKV_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct bkv_hash_key {
    uint64_t k0, k1;
};

struct bkv_hash {
    uint64_t lo, hi;
};

#define BKV_HASH_TAG_BITS 20u
#define BKV_HASH_TAG_MASK ((1u << BKV_HASH_TAG_BITS) - 1u)

struct bkv_hash bkv_hash(const struct bkv_hash_key *key, const void *data, size_t size);

/* The general function behind it; tests check it with the published vectors of
 * SipHash-2-4-128. */
struct bkv_hash bkv_siphash128(const struct bkv_hash_key *key, const void *data, size_t size,
                               unsigned c_rounds, unsigned d_rounds);

static inline uint32_t bkv_hash_tag(const struct bkv_hash *hash)
{
    return (uint32_t)hash->hi & BKV_HASH_TAG_MASK;
}

/* Partition of a hash: the same key always takes the same way. Multiply-shift
 * over 16 bits: with 1024 partitions their shares differ by under 2 %. */
static inline uint32_t bkv_hash_partition(const struct bkv_hash *hash, uint32_t partitions)
{
    return (uint32_t)(((hash->hi >> 48) * partitions) >> 16);
}

#endif
