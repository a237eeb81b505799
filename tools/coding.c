/* SPDX-License-Identifier: MIT */
#include "coding.h"

#include <stdint.h>
#include <string.h>

static const char hex_digits[] = "0123456789abcdef";
static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* ------------------------------------------------------------------ */
/* UTF-8                                                               */
/* ------------------------------------------------------------------ */

size_t utf8_sequence(const unsigned char *text, size_t size)
{
    unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || size < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool surrogate = lead == 0xed && text[1] > 0x9f;
    bool beyond = lead == 0xf4 && text[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : length;
}

bool utf8_valid(const void *text, size_t size)
{
    const unsigned char *bytes = text;
    for (size_t i = 0; i < size;) {
        size_t length = utf8_sequence(bytes + i, size - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

/* ------------------------------------------------------------------ */
/* Decoding                                                            */
/* ------------------------------------------------------------------ */

static bool fail(struct coding_error *error, size_t offset, const char *message)
{
    error->offset = offset;
    error->message = message;
    return false;
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return digit - 'A' + 10;
    }
    return -1;
}

static bool decode_hex(char *text, size_t *size, struct coding_error *error)
{
    for (size_t i = 0; i < *size; i++) {
        if (hex_value(text[i]) < 0) {
            return fail(error, i, "not a hexadecimal digit");
        }
    }
    if (*size % 2 != 0) {
        return fail(error, *size, "odd number of hexadecimal digits");
    }
    size_t count = *size / 2;
    for (size_t i = 0; i < count; i++) {
        text[i] = (char)(hex_value(text[2 * i]) << 4 | hex_value(text[2 * i + 1]));
    }
    *size = count;
    return true;
}

static int base64_value(char digit)
{
    if (digit >= 'A' && digit <= 'Z') {
        return digit - 'A';
    }
    if (digit >= 'a' && digit <= 'z') {
        return digit - 'a' + 26;
    }
    if (digit >= '0' && digit <= '9') {
        return digit - '0' + 52;
    }
    return digit == '+' ? 62 : digit == '/' ? 63 : -1;
}

/* Padding may be left out, but where there is some it must be right, and no stray bits are allowed:
 * one value has one text. */
static bool decode_base64(char *text, size_t *size, struct coding_error *error)
{
    size_t digits = *size;
    while (digits > 0 && text[digits - 1] == '=' && *size - digits < 2) {
        digits--;
    }
    if (digits != *size && *size % 4 != 0) {
        return fail(error, *size, "wrong base64 padding");
    }
    if (digits % 4 == 1) {
        return fail(error, digits, "base64 text is cut short");
    }
    size_t count = 0;
    uint32_t bits = 0;
    unsigned bit_count = 0;
    for (size_t i = 0; i < digits; i++) {
        int value = base64_value(text[i]);
        if (value < 0) {
            return fail(error, i, "not a base64 digit");
        }
        bits = bits << 6 | (uint32_t)value;
        bit_count += 6;
        if (bit_count >= 8) {
            bit_count -= 8;
            text[count++] = (char)(unsigned char)(bits >> bit_count);
            bits &= (1u << bit_count) - 1;
        }
    }
    if (bits != 0) {
        return fail(error, digits, "stray bits at the end of base64 text");
    }
    *size = count;
    return true;
}

static bool decode_escape(char *text, size_t *size, struct coding_error *error)
{
    const char *first = memchr(text, '\\', *size);
    if (first == NULL) {
        return true;
    }
    size_t in = (size_t)(first - text);
    size_t out = in;
    while (in < *size) {
        if (text[in] != '\\') {
            text[out++] = text[in++];
            continue;
        }
        if (*size - in < 2) {
            return fail(error, in, "backslash at the end");
        }
        char byte = 0;
        size_t length = 2;
        switch (text[in + 1]) {
        case 't':
            byte = '\t';
            break;
        case 'n':
            byte = '\n';
            break;
        case 'r':
            byte = '\r';
            break;
        case '\\':
            byte = '\\';
            break;
        case 'x':
            length = 4;
            if (*size - in < 4 || hex_value(text[in + 2]) < 0 || hex_value(text[in + 3]) < 0) {
                return fail(error, in, "\\x needs two hexadecimal digits");
            }
            byte = (char)(hex_value(text[in + 2]) << 4 | hex_value(text[in + 3]));
            break;
        default:
            return fail(error, in, "unknown escape; write a backslash as \\\\");
        }
        text[out++] = byte;
        in += length;
    }
    *size = out;
    return true;
}

bool coding_decode(enum coding coding, char *text, size_t *size, struct coding_error *error)
{
    switch (coding) {
    case CODING_HEX:
        return decode_hex(text, size, error);
    case CODING_BASE64:
        return decode_base64(text, size, error);
    case CODING_ESCAPE:
        return decode_escape(text, size, error);
    case CODING_NONE:
        break;
    }
    return true;
}

/* ------------------------------------------------------------------ */
/* Encoding                                                            */
/* ------------------------------------------------------------------ */

enum {
    CHUNK_BYTES = 3072, /* divisible by 3, so that only the last chunk of base64 is padded */
};

static void write_hex(FILE *stream, const unsigned char *data, size_t size)
{
    char text[2 * CHUNK_BYTES];
    while (size > 0 && !ferror(stream)) {
        size_t count = size < CHUNK_BYTES ? size : CHUNK_BYTES;
        for (size_t i = 0; i < count; i++) {
            text[2 * i] = hex_digits[data[i] >> 4];
            text[2 * i + 1] = hex_digits[data[i] & 15];
        }
        fwrite(text, 1, 2 * count, stream);
        data += count;
        size -= count;
    }
}

static void write_base64(FILE *stream, const unsigned char *data, size_t size)
{
    char text[CHUNK_BYTES / 3 * 4];
    while (size > 0 && !ferror(stream)) {
        size_t count = size < CHUNK_BYTES ? size : CHUNK_BYTES;
        size_t length = 0;
        for (size_t i = 0; i < count; i += 3) {
            size_t left = count - i;
            uint32_t bits = (uint32_t)data[i] << 16;
            bits |= left > 1 ? (uint32_t)data[i + 1] << 8 : 0;
            bits |= left > 2 ? (uint32_t)data[i + 2] : 0;
            text[length++] = base64_digits[bits >> 18];
            text[length++] = base64_digits[bits >> 12 & 63];
            text[length++] = (char)(left > 1 ? base64_digits[bits >> 6 & 63] : '=');
            text[length++] = (char)(left > 2 ? base64_digits[bits & 63] : '=');
        }
        fwrite(text, 1, length, stream);
        data += count;
        size -= count;
    }
}

/* The escape of a byte; returns its length. */
static size_t escape_byte(char text[4], unsigned char byte)
{
    text[0] = '\\';
    switch (byte) {
    case '\t':
        text[1] = 't';
        return 2;
    case '\n':
        text[1] = 'n';
        return 2;
    case '\r':
        text[1] = 'r';
        return 2;
    case '\\':
        text[1] = '\\';
        return 2;
    default:
        text[1] = 'x';
        text[2] = hex_digits[byte >> 4];
        text[3] = hex_digits[byte & 15];
        return 4;
    }
}

static void write_escape(FILE *stream, const unsigned char *data, size_t size)
{
    char text[CHUNK_BYTES];
    size_t length = 0;
    for (size_t i = 0; i < size;) {
        if (length > sizeof text - 4) {
            fwrite_unlocked(text, 1, length, stream);
            length = 0;
            if (ferror_unlocked(stream)) {
                return;
            }
        }
        size_t sequence = utf8_sequence(data + i, size - i);
        if (sequence == 0 || data[i] < 0x20 || data[i] == 0x7f || data[i] == '\\') {
            length += escape_byte(text + length, data[i++]);
        } else {
            memcpy(text + length, data + i, sequence);
            length += sequence;
            i += sequence;
        }
    }
    fwrite_unlocked(text, 1, length, stream);
}

void coding_write(FILE *stream, enum coding coding, const void *data, size_t size)
{
    switch (coding) {
    case CODING_HEX:
        write_hex(stream, data, size);
        break;
    case CODING_BASE64:
        write_base64(stream, data, size);
        break;
    case CODING_ESCAPE:
        write_escape(stream, data, size);
        break;
    case CODING_NONE:
        if (size > 0) {
            fwrite(data, 1, size, stream);
        }
        break;
    }
}
