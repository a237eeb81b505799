/* SPDX-License-Identifier: MIT */
/*
 * One JSON object a line: {"key": "...", "value": "..."}.
 *
 * Bytes that are no UTF-8 come as "key_base64" and "value_base64", and go into the line's buffer,
 * which is longer than what it encodes. Values other than strings are stored as compact JSON: as
 * the text stands in the line, blanks removed, so that 1.10 and 12345678901234567890 stay what
 * they are. Jansson has validated the line by then, so that finding a member's text takes no more
 * than counting brackets outside of strings.
 */
#include "loader.h"

#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Behind the string that begins at *c. */
static const char *skip_string(const char *c)
{
    for (c++; *c != '"'; c++) {
        if (*c == '\\') {
            c++;
        }
    }
    return c + 1;
}

/* Behind the value that begins at *c. */
static const char *skip_value(const char *c, const char *end)
{
    unsigned depth = 0;
    while (c < end) {
        if (*c == '"') {
            c = skip_string(c);
            continue;
        }
        if (*c == '{' || *c == '[') {
            depth++;
        } else if (*c == '}' || *c == ']') {
            if (depth == 0) {
                return c;
            }
            depth--;
        } else if (*c == ',' && depth == 0) {
            return c;
        }
        c++;
    }
    return c;
}

/* The text of the object's nth member, in a line that is valid JSON. */
static const char *member_text(const char *line, size_t line_size, size_t index, size_t *size)
{
    const char *end = line + line_size;
    const char *c = (const char *)memchr(line, '{', line_size) + 1;
    for (;;) {
        while (is_blank(*c) || *c == ',') {
            c++;
        }
        c = skip_string(c);
        while (is_blank(*c) || *c == ':') {
            c++;
        }
        const char *value = c;
        c = skip_value(c, end);
        if (index-- == 0) {
            *size = (size_t)(c - value);
            return value;
        }
    }
}

/* Move the blanks outside of strings to the end, so that the line stays valid and its other members
 * can be found. Returns the size without them. */
static size_t compact_in_place(char *text, size_t size)
{
    const char *end = text + size;
    char *out = text;
    for (const char *c = text; c < end;) {
        if (*c == '"') {
            const char *behind = skip_string(c);
            memmove(out, c, (size_t)(behind - c));
            out += behind - c;
            c = behind;
        } else {
            if (!is_blank(*c)) {
                *out++ = *c;
            }
            c++;
        }
    }
    memset(out, ' ', (size_t)(end - out));
    return (size_t)(out - text);
}

/* Position of a member in the object; jansson keeps the order of the text. */
static size_t member_index(json_t *object, const char *name)
{
    size_t index = 0;
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(object, key, value)
    {
        if (strcmp(key, name) == 0) {
            break;
        }
        index++;
    }
    return index;
}

/* The text of a member as it stands, with its blanks removed. */
static const char *take_text(struct loader *loader, const char *name, size_t *size)
{
    char *line = reader_record(&loader->reader);
    size_t line_size = reader_record_size(&loader->reader);
    size_t index = member_index(loader->document, name);
    size_t text_size = 0;
    char *text = line + (member_text(line, line_size, index, &text_size) - line);
    *size = compact_in_place(text, text_size);
    return text;
}

/* Strings and numbers can be (parts of) keys. */
static bool lookup_field(void *user, const char *name, size_t name_size, const char **text,
                         size_t *size)
{
    struct loader *loader = user;
    char *terminated = strndup(name, name_size);
    json_t *member = terminated != NULL ? json_object_get(loader->document, terminated) : NULL;
    bool found = json_is_string(member) || json_is_number(member);
    if (json_is_string(member)) {
        *text = json_string_value(member);
        *size = json_string_length(member);
    } else if (found) {
        *text = take_text(loader, terminated, size);
    }
    free(terminated);
    return found;
}

/*
 * Look for NAME_base64 and decode it. LOADER_END: there is none.
 * Decoded bytes replace jansson's string, which nobody else holds and which has no other use.
 */
static enum loader_result take_base64(struct loader *loader, const char *name, const char **data,
                                      size_t *size)
{
    char *member_name = NULL;
    if (asprintf(&member_name, "%s_base64", name) < 0) {
        errno = ENOMEM;
        return LOADER_FAILED;
    }
    json_t *member = json_object_get(loader->document, member_name);
    free(member_name);
    if (member == NULL) {
        return LOADER_END;
    }
    if (!json_is_string(member)) {
        return loader_bad(loader, loader->line, "\"%s_base64\" is not a string", name);
    }
    struct coding_error error;
    char *text = (char *)(uintptr_t)json_string_value(member);
    *size = json_string_length(member);
    if (!coding_decode(CODING_BASE64, text, size, &error)) {
        return loader_bad(loader, loader->line, "\"%s_base64\": character %zu: %s", name,
                          error.offset + 1, error.message);
    }
    *data = text;
    return LOADER_RECORD;
}

static enum loader_result take_key(struct loader *loader)
{
    if (!loader->has_template) {
        enum loader_result result =
            take_base64(loader, loader->key_field, &loader->key, &loader->key_size);
        if (result != LOADER_END) {
            return result;
        }
        json_t *member = json_object_get(loader->document, loader->key_field);
        if (member != NULL && !json_is_string(member) && !json_is_number(member)) {
            return loader_bad(loader, loader->line, "\"%s\" is neither a string nor a number",
                              loader->key_field);
        }
    }
    return loader_compose_key(loader, lookup_field);
}

static enum loader_result take_value(struct loader *loader)
{
    if (loader->settings->whole) {
        char *line = reader_record(&loader->reader);
        size_t size = reader_record_size(&loader->reader);
        loader->value = line;
        loader->value_size = compact_in_place(line, size);
        return LOADER_RECORD;
    }
    const char *name =
        loader->settings->value_field != NULL ? loader->settings->value_field : "value";
    enum loader_result result = take_base64(loader, name, &loader->value, &loader->value_size);
    if (result != LOADER_END) {
        return result;
    }
    json_t *member = json_object_get(loader->document, name);
    if (member == NULL) {
        return loader_bad(loader, loader->line,
                          "no field \"%s\" to take the value from (--value-field, --whole)", name);
    }
    if (json_is_string(member)) {
        loader->value = json_string_value(member);
        loader->value_size = json_string_length(member);
    } else {
        loader->value = take_text(loader, name, &loader->value_size);
    }
    return LOADER_RECORD;
}

/* A dump's; where options say what the fields mean, it is somebody else's. */
static enum loader_result take_deadline(struct loader *loader)
{
    const struct settings *settings = loader->settings;
    json_t *member = json_object_get(loader->document, LOADER_DEADLINE_FIELD);
    if (member == NULL || settings->whole || settings->value_field != NULL ||
        settings->key_field != NULL || loader->has_template) {
        return LOADER_RECORD;
    }
    size_t size = 0;
    const char *text =
        json_is_number(member) ? take_text(loader, LOADER_DEADLINE_FIELD, &size) : NULL;
    if (text == NULL || !loader_take_deadline(loader, text, size)) {
        return loader_bad(loader, loader->line,
                          "\"" LOADER_DEADLINE_FIELD "\" is not a number of milliseconds");
    }
    return LOADER_RECORD;
}

static enum loader_result jsonl_next(struct loader *loader)
{
    size_t offset = 0;
    size_t size = 0;
    const char *line = NULL;
    size_t blanks = 0;
    do {
        reader_begin(&loader->reader);
        enum reader_result result = reader_line(&loader->reader, &offset, &size);
        if (result != READER_LINE) {
            return result == READER_END ? LOADER_END : LOADER_FAILED;
        }
        line = reader_record(&loader->reader);
        for (blanks = 0; blanks < size && is_blank(line[blanks]);) {
            blanks++;
        }
    } while (blanks == size);

    loader->line = loader->reader.line;
    json_decref(loader->document);
    json_error_t error;
    /* Numbers are taken from the text, so that they need not fit anything. */
    loader->document = json_loadb(
        line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    if (loader->document == NULL) {
        return loader_bad(loader, loader->line, "column %d: %s", error.column, error.text);
    }
    if (!json_is_object(loader->document)) {
        return loader_bad(loader, loader->line, "not a JSON object");
    }
    /* The value first: it may be the whole line, and compacting that moves a key that lies in it.
     */
    enum loader_result result = take_deadline(loader);
    if (result == LOADER_RECORD) {
        result = take_value(loader);
    }
    return result == LOADER_RECORD ? take_key(loader) : result;
}

const struct loader_format loader_jsonl = {.name = "jsonl", .key_field = "key", .next = jsonl_next};
