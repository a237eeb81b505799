/* SPDX-License-Identifier: MIT */
/*
 * What goes to standard output or to a file: a checked stream, and JSON strings of any bytes.
 */
#ifndef BITKV_TOOLS_OUTPUT_H
#define BITKV_TOOLS_OUTPUT_H

#include "options.h"

#include <jansson.h>

#include <stdbool.h>
#include <stdio.h>

/* ------------------------------------------------------------------ */
/* Streams                                                             */
/* ------------------------------------------------------------------ */

/*
 * A place to write to. A file given by --output is written beside itself and renamed when all is
 * well, so that a failure never leaves half a file where a whole one was.
 */
struct output {
    FILE *stream;
    const char *path; /* NULL: standard output */
    char *temporary;  /* what is renamed to path; NULL: written in place (a device, a pipe) */
    int error;        /* errno of the first failure that was noticed */
};

/* Returns an exit status; on failure the user has been told and nothing is open. */
int output_open(struct output *output, const struct settings *settings, const char *path);

/* True if writing has failed: time to stop. Cheap. */
bool output_failed(struct output *output);

/*
 * Flush, close and report what failed.
 * keep: the result is complete; else a file is not put in place.
 * Returns an exit status. A reader that went away (EPIPE) is EXIT_STATUS_FAILURE without a word:
 * main() ends the process as SIGPIPE would have.
 */
int output_close(struct output *output, const struct settings *settings, bool keep);

/*
 * For what was printed to standard output directly: a summary, a help text.
 * Returns `status`, or EXIT_STATUS_FAILURE if it could not be written, with the user told.
 */
int output_finish(const struct command *command, int status);

/* True if somebody closed the other end of a pipe that we wrote to. */
bool output_pipe_broken(void);

/* Print a document to standard output and release it. Returns an exit status. */
int output_json(const struct settings *settings, json_t *document);

/* ------------------------------------------------------------------ */
/* JSON                                                                */
/* ------------------------------------------------------------------ */

/*
 * Write `"name":"..."`, or `"name_base64":"..."` if the bytes are not UTF-8. Streams, unlike
 * jansson, and so without a copy of a large value.
 */
void output_json_member(FILE *stream, const char *name, const void *data, size_t size);

/* A path or message as a JSON string; what is not UTF-8 is escaped. */
json_t *output_json_text(const char *text);

#endif
