/* SPDX-License-Identifier: MIT */
/*
 * The driver of fault loops. A scenario is a piece of life: what is there before,
 * what is done under faults, what must be there afterwards. The driver runs it with
 * the n-th call of every kind failing, once and from then on, with every errno that
 * it may plausibly have, in both io modes and, where queues are used, on both
 * backends; and with the n-th allocation failing; for n = 0, 1, ... until a run comes
 * through without a fault. Every run begins from the same files.
 *
 * BITKV_FAULT_EVERY=1 makes all those runs. By default a sample of them is made, by
 * a seed that is printed. A run that fails prints how to repeat it alone.
 */
#ifndef BITKV_TESTS_FAULT_LOOPS_H
#define BITKV_TESTS_FAULT_LOOPS_H

#include "fault/world.h"

struct loop_scenario {
    const char *name;
    unsigned partitions;
    bool queues;       /* worth a run for each backend */
    bool by_hand;      /* see struct world */
    size_t value_size; /* see struct world */
    /* Without faults: what is there before. NULL: nothing. */
    void (*build)(struct world *w);
    void (*run)(struct world *w);
};

/* Below TMPDIR; and what was done. */
void loops_begin(void);
void loops_end(void);

/* Loops over system calls, or allocations; fails the test that calls it. */
void loops_calls(const struct loop_scenario *scenario);
void loops_memory(const struct loop_scenario *scenario);
/* Without faults, but with transfers of one byte, and of random sizes. */
void loops_pieces(const struct loop_scenario *scenario);

#endif
