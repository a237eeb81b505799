/* SPDX-License-Identifier: MIT */
/*
 * Bytes as text and back: hexadecimal, base64 and backslash escapes.
 *
 * Encoding streams, whatever the size. Decoding works in place, as no coding is shorter than what
 * it stands for, so that a value of 1 GiB is never held twice.
 */
#ifndef BITKV_TOOLS_CODING_H
#define BITKV_TOOLS_CODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum coding {
    CODING_NONE = 0, /* bytes as they are */
    CODING_HEX,
    CODING_BASE64, /* RFC 4648, with padding */
    CODING_ESCAPE, /* \t \n \r \\ and \xHH; valid UTF-8 as it is */
};

/* What a decoder did not like. */
struct coding_error {
    size_t offset; /* in the text */
    const char *message;
};

/*
 * Decode in place.
 * size: in, of the text; out, of the bytes.
 * Returns false with `error` filled; the text is then unspecified.
 */
bool coding_decode(enum coding coding, char *text, size_t *size, struct coding_error *error);

/* Write bytes in a coding. Errors stay with the stream (ferror()). */
void coding_write(FILE *stream, enum coding coding, const void *data, size_t size);

/* Length of the valid UTF-8 sequence that begins a non-empty text; 0 if none does. */
size_t utf8_sequence(const unsigned char *text, size_t size);

bool utf8_valid(const void *text, size_t size);

#endif
