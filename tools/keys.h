/* SPDX-License-Identifier: MIT */
/* The keys of a command that takes several: its arguments, then the lines of --keys-from. */
#ifndef BITKV_TOOLS_KEYS_H
#define BITKV_TOOLS_KEYS_H

#include "options.h"
#include "reader.h"

struct key_source {
    const struct settings *settings;
    int next_argument;
    struct reader reader;
    bool has_reader;
    const char *name; /* of the file, for messages */
};

struct key {
    char *data; /* for free() */
    size_t size;
};

/* Returns an exit status; on failure the user has been told. */
int key_source_open(struct key_source *source, const struct settings *settings);
void key_source_close(struct key_source *source);

/*
 * The next key.
 * more:  receives false when there are no more
 * Returns an exit status; on failure the user has been told.
 */
int key_source_next(struct key_source *source, struct key *key, bool *more);

/* True if results need to say which key they are of. */
bool key_source_is_several(const struct settings *settings);

#endif
