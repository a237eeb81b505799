/* SPDX-License-Identifier: MIT */
/*
 * Records of one or more lines from a descriptor.
 *
 * A record lies in one piece in the reader's buffer, which grows to the longest record and is
 * otherwise constant. The record may be changed in place, so that decoding needs no copy.
 */
#ifndef BITKV_TOOLS_READER_H
#define BITKV_TOOLS_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
    int fd;
    char *buffer;
    size_t capacity;
    size_t begin;   /* of the record */
    size_t next;    /* first byte behind the lines handed out */
    size_t end;     /* of what has been read */
    uint64_t bytes; /* handed out since the beginning */
    uint64_t line;  /* number of the last line handed out, from 1 */
    bool at_end;    /* read() has returned 0 */
};

enum reader_result {
    READER_END = 0,
    READER_LINE = 1,
    READER_FAILED = -1, /* errno tells; EFBIG: longer than any record */
};

/* The descriptor stays the caller's. */
void reader_init(struct reader *reader, int fd);
void reader_destroy(struct reader *reader);

/* The next line begins a record; the one before is gone. */
void reader_begin(struct reader *reader);

/*
 * Add a line to the record.
 * offset: receives where it begins, counted from the record
 * size:   receives its length without the newline
 */
enum reader_result reader_line(struct reader *reader, size_t *offset, size_t *size);

/* The record. Valid until the next reader_line(). */
char *reader_record(struct reader *reader);
/* Its size, newlines included. */
size_t reader_record_size(const struct reader *reader);

/* What comes next, without consuming it: a line at least, if that is not huge. */
enum reader_result reader_peek(struct reader *reader, const char **text, size_t *size);

/*
 * Read all of a file: a value.
 * size_max: more than that is EFBIG
 * Returns memory for free(), NULL with errno set on failure. An empty file is not NULL.
 */
void *read_whole(int fd, size_t size_max, size_t *size);

#endif
