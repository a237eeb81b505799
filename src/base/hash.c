/* SPDX-License-Identifier: MIT */
#include "base/hash.h"

#include "base/bytes.h"

struct state {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotl(uint64_t x, unsigned n)
{
    return (x << n) | (x >> (64u - n));
}

static inline __attribute__((always_inline)) void rounds(struct state *s, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        s->v0 += s->v1;
        s->v1 = rotl(s->v1, 13) ^ s->v0;
        s->v0 = rotl(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = rotl(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = rotl(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = rotl(s->v1, 17) ^ s->v2;
        s->v2 = rotl(s->v2, 32);
    }
}

/* The last 0-7 bytes, with the length's low byte on top. */
static inline uint64_t last_block(const unsigned char *tail, size_t size)
{
    uint64_t block = (uint64_t)size << 56;
    for (size_t i = 0; i < (size & 7u); i++)
        block |= (uint64_t)tail[i] << (8u * i);
    return block;
}

static inline __attribute__((always_inline)) struct bkv_hash
siphash128(const struct bkv_hash_key *key, const void *data, size_t size, unsigned c, unsigned d)
{
    struct state s = {
        .v0 = 0x736f6d6570736575u ^ key->k0,
        .v1 = 0x646f72616e646f6du ^ key->k1 ^ 0xee,
        .v2 = 0x6c7967656e657261u ^ key->k0,
        .v3 = 0x7465646279746573u ^ key->k1,
    };
    const unsigned char *p = data;
    for (size_t i = 0; i < size / 8; i++, p += 8) {
        uint64_t block = bkv_get64(p);
        s.v3 ^= block;
        rounds(&s, c);
        s.v0 ^= block;
    }
    uint64_t block = last_block(p, size);
    s.v3 ^= block;
    rounds(&s, c);
    s.v0 ^= block;

    struct bkv_hash hash;
    s.v2 ^= 0xee;
    rounds(&s, d);
    hash.lo = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    rounds(&s, d);
    hash.hi = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return hash;
}

struct bkv_hash bkv_siphash128(const struct bkv_hash_key *key, const void *data, size_t size,
                               unsigned c_rounds, unsigned d_rounds)
{
    return siphash128(key, data, size, c_rounds, d_rounds);
}

struct bkv_hash bkv_hash(const struct bkv_hash_key *key, const void *data, size_t size)
{
    return siphash128(key, data, size, 1, 3);
}
