/* SPDX-License-Identifier: MIT */
/*
 * Is a history of calls linearizable? (Herlihy and Wing, "Linearizability: a
 * correctness condition for concurrent objects", TOPLAS 1990.) That is: is there
 * a moment for each call, between its invocation and its response, such that the
 * calls, made one by one in the order of these moments, would have had the same
 * results?
 *
 * Keys are objects of their own, and a history of many objects is linearizable if
 * that of each is (its locality; Horn and Kroening, "Faster linearizability
 * checking via P-compositionality", FORTE 2015). So there is a checker for each key.
 *
 * The search is Wing and Gong's ("Testing and verifying concurrent objects", JPDC
 * 1993) in Lowe's just-in-time form ("Testing for linearizability", CCPE 2017): a
 * configuration is a state of the key and which of the open calls have had their
 * moment. When a call returns, it must have had it: configurations in which it has
 * not are extended by it, and by whatever open calls come before it. Configurations
 * that were met already are not looked at again. If none is left, there is no
 * order. What has returned is forgotten, so that histories of any length take the
 * memory of the calls that are open at a time.
 *
 * A call is described by what it has seen, and what it did to that: its *guard*
 * and its *effect*. A call whose outcome is not known (a sync that failed) never
 * returns: it may have its moment at any time after its invocation, or none.
 *
 * Calls of one client have their moments in the order in which they were made, also
 * where they overlap, as those of a completion queue do.
 *
 * Not thread-safe: histories are checked when those who made them have ended.
 */
#ifndef BITKV_TESTS_CONCURRENT_LINEARIZE_H
#define BITKV_TESTS_CONCURRENT_LINEARIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What was so at the call's moment. */
enum lin_guard {
    LIN_ABSENT = 1,
    LIN_PRESENT = 2,
    LIN_VALUE = 4,         /* present, with `value` */
    LIN_VERSION = 8,       /* present, with `version` */
    LIN_OTHER_VERSION = 16 /* present, with another one than `version` */
};

/* What the call did then. */
enum lin_effect {
    LIN_NOTHING,
    LIN_WRITE,  /* new_value */
    LIN_DELETE, /* nothing is left */
    LIN_TOUCH,  /* the same value, as a new version */
    LIN_ADD,    /* new_value is the old, or 0, and `value` */
};

#define LIN_NEVER UINT64_MAX

struct lin_op {
    uint64_t called;
    uint64_t returned; /* LIN_NEVER: it is not known whether it had its effect */
    uint64_t value;
    uint64_t version;
    uint64_t new_value;
    uint64_t new_version; /* of what it wrote; 0: nobody has told */
    uint32_t client;
    uint8_t guard;     /* of enum lin_guard, any number of them; 0: nothing was seen */
    uint8_t effect;    /* of enum lin_effect */
    uint16_t key;      /* for the user */
    const char *label; /* of the call, for who has to find out what went wrong */
};

struct lin_checker;

/* Of a key that is absent. */
struct lin_checker *lin_new(void);
void lin_free(struct lin_checker *checker);

/* Goes on with a history: calls of one client in the order in which they were made.
 * All of them are later than what was checked before. False: there is no order;
 * lin_explain() has more, and the checker is of no more use. */
bool lin_check(struct lin_checker *checker, const struct lin_op *ops, size_t count);

/* Which call could have no moment, what was open then, and what the key may have held. */
void lin_explain(const struct lin_checker *checker, FILE *out);

/* Configurations that were visited so far: what the search has cost. */
uint64_t lin_visited(const struct lin_checker *checker);

#endif
