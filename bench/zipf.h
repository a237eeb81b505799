/* SPDX-License-Identifier: MIT */
/*
 * Zipf's law as YCSB draws from it (ScrambledZipfianGenerator): of ten thousand
 * million items, rank r with a probability as 1 / r^0.99, scattered over the ids
 * by a hash, so that what is popular is not next to each other.
 */
#ifndef BENCH_ZIPF_H
#define BENCH_ZIPF_H

#include <stdint.h>

struct bench_zipf {
    uint64_t ids;
    double alpha, eta, second; /* of Gray's method; see zipf.c */
};

void bench_zipf_init(struct bench_zipf *zipf, uint64_t ids);
/* An id, by a random word. */
uint64_t bench_zipf_id(const struct bench_zipf *zipf, uint64_t random);

#endif
