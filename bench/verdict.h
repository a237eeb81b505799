/* SPDX-License-Identifier: MIT */
/* What was asked of BitKV, and what was seen. */
#ifndef BENCH_VERDICT_H
#define BENCH_VERDICT_H

#include "results.h"

#define BENCH_VERDICTS_MAX 48u

struct bench_verdict {
    char what[80];
    double asked;
    double seen;   /* NAN: not measured in this run */
    bool at_least; /* seen must be asked or more; else asked or less */
    const char *unit;
    char remark[96];
};

/* Fills in all verdicts; returns how many. */
unsigned bench_verdicts(const struct bench_options *options, const struct bench_results *results,
                        struct bench_verdict *verdicts);

/* -1 not measured, 0 missed, 1 reached */
int bench_verdict_reached(const struct bench_verdict *verdict);

#endif
