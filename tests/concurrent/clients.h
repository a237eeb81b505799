/* SPDX-License-Identifier: MIT */
/*
 * Clients of a database whose calls are recorded: what each has seen and done,
 * and when, in the terms of linearize.h. Registers hold values that are all
 * different; counters hold sums.
 *
 * Time is CLOCK_MONOTONIC, which is the same for all processors. Fences keep what a
 * call reads and writes between its two stamps.
 */
#ifndef BITKV_TESTS_CONCURRENT_CLIENTS_H
#define BITKV_TESTS_CONCURRENT_CLIENTS_H

#include "api/scratch.h"

#include "concurrent/linearize.h"

#include <stdatomic.h>

#define REGISTERS 6u
#define COUNTERS  2u
#define KEYS      (REGISTERS + COUNTERS)
#define CLIENTS   8u /* whoever records, numbered from 0 */
#define VALUE_MAX 4096u

/* Bugs that a store could have, for a test that must find them. */
enum client_bug {
    BUG_NONE,
    BUG_STALE_GET,   /* a get returns what the thread has read before */
    BUG_LOST_UPDATE, /* adding is a get and a put */
    BUG_EARLY_ACK,   /* a put returns first, and is made before the thread's next call */
};

struct client {
    bitkv *db;
    uint32_t number;
    enum client_bug bug;
    struct chance chance;
    struct lin_op *ops;
    size_t count, capacity;
    uint64_t values_made;
    uint64_t versions[KEYS]; /* that were seen last */
    uint64_t stale[KEYS];    /* for the bugs */
    bool put_is_owed;
    uint64_t owed_key, owed_value;
};

/* Calls that went wrong by themselves: unexpected codes, values nobody wrote. */
extern _Atomic uint64_t client_troubles;

void client_init(struct client *client, uint32_t number, uint64_t seed, size_t capacity);
void client_free(struct client *client);
/* No room for as many calls as one step makes. */
bool client_is_full(const struct client *client);

uint64_t client_stamp(void);
struct lin_op *client_record(struct client *client, uint32_t key, const char *label);
/* The call has failed otherwise than it may. */
void client_trouble(const struct client *client, const char *label, int rc);

/* A value that no other client makes, nor this one again; its bytes. */
uint64_t client_new_value(struct client *client);
size_t client_encode(void *bytes, uint64_t value);
/* The value of these bytes; 0: nobody can have written them. */
uint64_t client_decode(uint32_t key, const void *bytes, size_t size);
/* Fills in what a read of the key, begun and ended, has seen. */
void client_note_read(struct client *client, struct lin_op *op, int rc, const void *bytes,
                      size_t size);

/* Some call of the interface, with whatever it finds. */
void client_step(struct client *client);
/* What the planted bug has put off. */
void client_flush(struct client *client);

#endif
