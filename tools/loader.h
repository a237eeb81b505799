/* SPDX-License-Identifier: MIT */
/*
 * Records from text in one of several formats.
 *
 * A format is one function that takes the next record out of a reader. It decodes in place: keys
 * and values point into the reader's buffer, or into a parsed document that the loader holds.
 */
#ifndef BITKV_TOOLS_LOADER_H
#define BITKV_TOOLS_LOADER_H

#include "options.h"
#include "reader.h"
#include "template.h"

#include <jansson.h>

/* How a dump tells when a record expires, in milliseconds since 1970: a third column of tsv that
 * begins so, a field of jsonl. */
#define LOADER_DEADLINE_COLUMN "expires="
#define LOADER_DEADLINE_FIELD  "deadline_ms"

enum loader_result {
    LOADER_END = 0,
    LOADER_RECORD = 1,
    LOADER_BAD = 2, /* malformed; the one behind it can be read */
    LOADER_FAILED = -1,
};

struct loader;

struct loader_format {
    const char *name;
    const char *key_field; /* default; NULL: the format has no fields */
    enum loader_result (*next)(struct loader *loader);
};

extern const struct loader_format loader_tsv;
extern const struct loader_format loader_jsonl;
extern const struct loader_format loader_deb822;

struct loader {
    const struct loader_format *format;
    const struct settings *settings;
    struct reader reader;
    struct template template;
    bool has_template;
    const char *key_field;
    json_t *document; /* of jsonl: the record's, parsed */

    /* With LOADER_RECORD; until the next record. */
    const char *key;
    size_t key_size;
    const char *value;
    size_t value_size;
    uint64_t deadline_ms; /* since 1970; UINT64_MAX: it never expires */

    /* Where the record begins; with LOADER_BAD, what is wrong and where. */
    uint64_t line;
    uint64_t problem_line;
    char problem[200];
};

/* The format of that name, NULL if there is none. */
const struct loader_format *loader_format_find(const char *name);

/*
 * Begin with a file; the format is guessed if the settings name none.
 * Returns an exit status; on failure the user has been told and nothing is to be destroyed.
 */
int loader_init(struct loader *loader, const struct settings *settings, int fd, const char *name);
void loader_destroy(struct loader *loader);

/* The next record. LOADER_FAILED: errno tells. */
enum loader_result loader_next(struct loader *loader);

/* For formats: take the deadline from its digits. False: they are none, or too many. */
bool loader_take_deadline(struct loader *loader, const char *text, size_t size);

/* For formats: note what is wrong with the line, return LOADER_BAD. */
__attribute__((format(printf, 3, 4))) enum loader_result
loader_bad(struct loader *loader, uint64_t line, const char *format, ...);

/* For formats: set the key from the template, or from the key field. */
enum loader_result loader_compose_key(struct loader *loader, template_lookup lookup);

#endif
