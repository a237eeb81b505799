/* SPDX-License-Identifier: MIT */
/*
 * Options of all commands: one table gives getopt_long() its input, the help its text and the
 * settings their values, so that none of the three can drift from the others.
 */
#ifndef BITKV_TOOLS_OPTIONS_H
#define BITKV_TOOLS_OPTIONS_H

#include "coding.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct command;

enum option_id {
    OPTION_FILE,
    OPTION_OUTPUT,
    OPTION_KEYS_FROM,
    OPTION_HEX,
    OPTION_BASE64,
    OPTION_ESCAPE,
    OPTION_RAW,
    OPTION_NEWLINE,
    OPTION_FORMAT,
    OPTION_KEY_FIELD,
    OPTION_VALUE_FIELD,
    OPTION_KEY_TEMPLATE,
    OPTION_WHOLE,
    OPTION_SKIP_BAD,
    OPTION_KEYS_ONLY,
    OPTION_PREFIX,
    OPTION_LIMIT,
    OPTION_FROM,
    OPTION_FOLLOW,
    OPTION_PARTITIONS_DETAIL,
    OPTION_SEGMENTS,
    OPTION_VERIFY,
    OPTION_NO_LINKS,
    OPTION_TTL,
    OPTION_SYNC,
    OPTION_CREATE,
    OPTION_NO_CREATE,
    OPTION_PARTITIONS,
    OPTION_PARTITION,
    OPTION_MAX_FILE_SIZE,
    OPTION_IO_MODE,
    OPTION_READ_ONLY,
    OPTION_REPAIR,
    OPTION_JSON,
    OPTION_QUIET,
    OPTION_VERBOSE,
    OPTION_HELP,
    OPTION_COUNT
};

#define OPTION_BIT(id) (UINT64_C(1) << (unsigned)(id))

/* Sets of options that go together. */
#define OPTIONS_CODING                                                                             \
    (OPTION_BIT(OPTION_HEX) | OPTION_BIT(OPTION_BASE64) | OPTION_BIT(OPTION_ESCAPE))
#define OPTIONS_ANY                                                                                \
    (OPTION_BIT(OPTION_QUIET) | OPTION_BIT(OPTION_VERBOSE) | OPTION_BIT(OPTION_HELP) |             \
     OPTION_BIT(OPTION_JSON))
#define OPTIONS_OPEN   (OPTION_BIT(OPTION_PARTITIONS) | OPTION_BIT(OPTION_IO_MODE) | OPTIONS_ANY)
#define OPTIONS_READER (OPTION_BIT(OPTION_READ_ONLY) | OPTION_BIT(OPTION_REPAIR) | OPTIONS_OPEN)
#define OPTIONS_WRITER                                                                             \
    (OPTION_BIT(OPTION_SYNC) | OPTION_BIT(OPTION_CREATE) | OPTION_BIT(OPTION_NO_CREATE) |          \
     OPTION_BIT(OPTION_MAX_FILE_SIZE) | OPTIONS_OPEN)

struct settings {
    const struct command *command;
    const char *directory;
    char **arguments; /* behind the directory; decoding may change them in place */
    int argument_count;

    const char *file;
    const char *output;
    const char *keys_from;
    enum coding coding;
    bool raw;
    bool newline;

    const char *format;
    const char *key_field;
    const char *value_field;
    const char *key_template;
    bool whole;
    bool skip_bad;
    bool keys_only;
    const char *prefix;
    uint64_t limit;   /* 0: none */
    const char *from; /* file of a position */
    bool follow;
    bool partitions_detail;
    bool segments;
    bool verify;
    bool no_links;

    uint64_t ttl_ms; /* 0: none */
    bool sync;
    bool create;
    uint32_t partitions;
    bool one_partition;
    uint32_t partition;     /* that one */
    uint64_t max_file_size; /* 0: the library's default */
    int io_mode;            /* of bitkv_io_mode */
    bool repair;            /* a reading command may open for writing */

    bool json;
    bool quiet;
    bool verbose;
    bool help;
};

/*
 * Parse the words behind a command's name. argv[0] is that name.
 * Returns an exit status; other than EXIT_STATUS_OK the user has been told.
 */
int options_parse(struct settings *settings, const struct command *command, int argc, char **argv);

/* The options of a set, one line or more each, as a help text shows them. */
void options_print(FILE *stream, uint64_t set);

#endif
