/* SPDX-License-Identifier: MIT */
/*
 * One thread at a time, in an order drawn from a seed, by a clock that nobody
 * waits for: a run with threads that can be had again.
 *
 * The linker puts what is here in the place of the calls by which threads meet
 * or tell the time (CMakeLists.txt lists them: --wrap), so the library is the
 * one that users have. Between turns_begin() and turns_end(), a thread runs until
 * it waits, or comes to such a call and is told to let another go first; which,
 * the seed decides. Time passes a little with every call, and at once to the next
 * deadline when all wait. If all wait and none has a deadline, they would for
 * ever: that is told, and the process ends.
 *
 * Not under control: what threads do between those calls (they run alone), and
 * the kernel's io_uring, which is not to be used meanwhile.
 *
 * After the deterministic simulation of FoundationDB (Zhou et al., SIGMOD 2021)
 * and the schedulers of CHESS (Musuvathi et al., OSDI 2008).
 */
#ifndef BITKV_TESTS_CRASH_TURNS_H
#define BITKV_TESTS_CRASH_TURNS_H

#include <stdint.h>

/* By the only thread that there is, which is the first to have its turn. Its clock
 * is what it always is at the beginning, and so much later. */
void turns_begin(uint64_t seed, uint64_t later_ms);
/* By the same, when all others have been joined. */
void turns_end(void);
/* How often another thread was let go first, for who wants to know. */
uint64_t turns_taken(void);

#endif
