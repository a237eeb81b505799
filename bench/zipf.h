/* SPDX-License-Identifier: MIT */
/*
 * Zipf's law with 0.99, in two readings that differ by a tenth in what a log costs:
 *
 *   exact   rank r of the ids themselves, with a probability as 1 / r^0.99; ranks are
 *           scattered over the ids one to one
 *   YCSB    its ScrambledZipfianGenerator: of ten thousand million items, hashed to the
 *           ids. With 17 million ids three tenths of the draws are of ranks beyond
 *           them, which come out as uniform.
 */
#ifndef BENCH_ZIPF_H
#define BENCH_ZIPF_H

#include <stdbool.h>
#include <stdint.h>

struct bench_zipf {
    uint64_t ids, stride;                   /* stride 0: scattered by a hash */
    double items, zeta, alpha, eta, second; /* of Gray's method; see zipf.c */
};

void bench_zipf_init(struct bench_zipf *zipf, uint64_t ids);
void bench_zipf_init_ycsb(struct bench_zipf *zipf, uint64_t ids);
/* An id, by a random word. */
uint64_t bench_zipf_id(const struct bench_zipf *zipf, uint64_t random);

#endif
