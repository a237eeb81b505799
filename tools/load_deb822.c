/* SPDX-License-Identifier: MIT */
/*
 * Stanzas of "Field: value" lines, with blank lines between them: Debian's Packages, status and
 * control files, and much else that looks like mail headers (deb822(5)).
 *
 * The value is the stanza as it stands, with the newline of its last line.
 */
#include "loader.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static bool is_separator(const char *line, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') {
            return false;
        }
    }
    return true;
}

/* Length of the field name that begins a line; 0: there is none. */
static size_t field_name(const char *line, size_t size)
{
    size_t length = 0;
    while (length < size && line[length] > ' ' && line[length] < 0x7f && line[length] != ':') {
        length++;
    }
    return length < size && line[length] == ':' && line[0] != '-' ? length : 0;
}

/* The first line of a field's value, trimmed. */
static bool lookup_field(void *user, const char *name, size_t name_size, const char **text,
                         size_t *size)
{
    struct loader *loader = user;
    const char *line = loader->value;
    const char *end = line + loader->value_size;
    while (line < end) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *line_end = newline != NULL ? newline : end;
        size_t length = (size_t)(line_end - line);
        if (length > name_size && line[name_size] == ':' &&
            strncasecmp(line, name, name_size) == 0) {
            const char *value = line + name_size + 1;
            while (value < line_end && (*value == ' ' || *value == '\t')) {
                value++;
            }
            while (line_end > value && strchr(" \t\r", line_end[-1]) != NULL) {
                line_end--;
            }
            *text = value;
            *size = (size_t)(line_end - value);
            return true;
        }
        line = newline != NULL ? newline + 1 : end;
    }
    return false;
}

static const char *problem_of(const char *line, size_t size, bool is_first)
{
    if (line[0] == '#') {
        return NULL; /* a comment */
    }
    if (line[0] == ' ' || line[0] == '\t') {
        return is_first ? "a continuation line without a field" : NULL;
    }
    return field_name(line, size) == 0 ? "neither 'Field: value' nor a continuation line" : NULL;
}

static enum loader_result deb822_next(struct loader *loader)
{
    struct reader *reader = &loader->reader;
    size_t offset = 0;
    size_t size = 0;
    size_t stanza_size = 0;
    const char *problem = NULL;
    uint64_t problem_line = 0;
    reader_begin(reader);
    for (;;) {
        enum reader_result result = reader_line(reader, &offset, &size);
        if (result == READER_FAILED) {
            return LOADER_FAILED;
        }
        const char *line = reader_record(reader) + offset;
        if (result == READER_END || is_separator(line, size)) {
            if (stanza_size > 0) {
                break;
            }
            if (result == READER_END) {
                return LOADER_END;
            }
            reader_begin(reader);
            continue;
        }
        if (stanza_size == 0 && line[0] == '#') {
            reader_begin(reader); /* a comment above the stanza is not of it */
            continue;
        }
        bool is_first = stanza_size == 0;
        if (is_first) {
            loader->line = reader->line;
        }
        stanza_size = reader_record_size(reader);
        if (problem == NULL) {
            problem = problem_of(line, size, is_first);
            problem_line = reader->line;
        }
    }
    if (problem != NULL) {
        return loader_bad(loader, problem_line, "%s", problem);
    }
    loader->value = reader_record(reader);
    loader->value_size = stanza_size;
    return loader_compose_key(loader, lookup_field);
}

const struct loader_format loader_deb822 = {
    .name = "deb822", .key_field = "Package", .next = deb822_next};
