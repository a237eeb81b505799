/* SPDX-License-Identifier: MIT */
/*
 * Data for the demo: what this system's package manager knows (some 60,000 stanzas, 50 MB), or a
 * word list, or, where there is neither, made-up stanzas. The text lies in an anonymous file, so
 * that a process that the demo starts can map the same bytes. Keys and values point into it.
 */
#ifndef BITKV_TOOLS_DEMO_CORPUS_H
#define BITKV_TOOLS_DEMO_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct corpus_record {
    const char *key;
    size_t key_size;
    const char *value;
    size_t value_size;
};

struct corpus {
    const char *origin; /* for people */
    int fd;             /* of the text; not inherited unless asked for */
    bool is_words;
    const char *text;
    size_t size;
    struct corpus_record *records; /* keys are unique */
    size_t count;
    size_t duplicates; /* earlier records of a key, left out */
    uint64_t record_bytes;
    size_t value_size_max;
};

/* words: do not ask the package manager. Returns false with errno; destroy it all the same. */
bool corpus_load(struct corpus *corpus, bool words);

/* The same corpus from the descriptor that corpus_load() left. */
bool corpus_attach(struct corpus *corpus, int fd, bool is_words);

void corpus_destroy(struct corpus *corpus);

#endif
