/* SPDX-License-Identifier: MIT */
/*
 * The demo's crash test: another process writes and acknowledges each write in memory that both
 * share, is killed (SIGKILL) at a moment of chance, and every write that it acknowledged must be
 * there afterwards, byte for byte.
 */
#ifndef BITKV_TOOLS_DEMO_CRASH_H
#define BITKV_TOOLS_DEMO_CRASH_H

#include "demo_corpus.h"

#include <bitkv.h>

/* The argument that turns the program into the writer. */
#define CRASH_WRITER_ARGUMENT "--crash-writer"

enum {
    CRASH_WRITERS = 2, /* threads of the writing process */
};

struct crash_round {
    const struct corpus *corpus;
    const char *directory;
    unsigned number; /* from 1: part of the keys */
    uint64_t seed;

    /* Results. */
    uint64_t acknowledged[CRASH_WRITERS];
    uint64_t acknowledged_total;
    uint64_t in_flight_kept; /* writes not acknowledged that are there all the same */
    uint64_t keys_found;
    uint64_t wrong;
};

/* Start the writer, kill it. The database must be closed. Returns false if it could not be run. */
bool crash_round_run(struct crash_round *round);

/* Compare what is there with what was acknowledged. */
bool crash_round_verify(struct crash_round *round, bitkv *db);

/* main() of the writer. */
int crash_writer_main(int argc, char **argv);

#endif
