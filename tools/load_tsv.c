/* SPDX-License-Identifier: MIT */
/*
 * KEY <TAB> VALUE <NEWLINE>, both with the escapes of CODING_ESCAPE: what `bitkv dump` writes. With
 * <TAB> expires=MILLISECONDS behind it, the record has a deadline.
 * Blank lines are skipped. Nothing but escapes is special, so a carriage return is data.
 */
#include "loader.h"

#include <errno.h>
#include <string.h>

static enum loader_result decode(struct loader *loader, const char *what, char *text, size_t *size,
                                 size_t column)
{
    struct coding_error error;
    if (coding_decode(CODING_ESCAPE, text, size, &error)) {
        return LOADER_RECORD;
    }
    return loader_bad(loader, loader->line, "column %zu: bad %s: %s", column + error.offset + 1,
                      what, error.message);
}

static bool take_deadline(struct loader *loader, const char *text, size_t size)
{
    const size_t name_size = sizeof LOADER_DEADLINE_COLUMN - 1;
    return size > name_size && memcmp(text, LOADER_DEADLINE_COLUMN, name_size) == 0 &&
           loader_take_deadline(loader, text + name_size, size - name_size);
}

static enum loader_result tsv_next(struct loader *loader)
{
    size_t offset = 0;
    size_t size = 0;
    do {
        reader_begin(&loader->reader);
        enum reader_result result = reader_line(&loader->reader, &offset, &size);
        if (result != READER_LINE) {
            return result == READER_END ? LOADER_END : LOADER_FAILED;
        }
    } while (size == 0);

    loader->line = loader->reader.line;
    char *line = reader_record(&loader->reader);
    char *tab = memchr(line, '\t', size);
    if (tab == NULL) {
        return loader_bad(loader, loader->line, "no tab between key and value");
    }
    size_t key_size = (size_t)(tab - line);
    char *value = tab + 1;
    size_t value_size = size - key_size - 1;
    const char *second = memchr(value, '\t', value_size);
    if (second != NULL) {
        size_t rest = (size_t)(value + value_size - second) - 1;
        if (!take_deadline(loader, second + 1, rest)) {
            const size_t name_size = sizeof LOADER_DEADLINE_COLUMN - 1;
            if (rest >= name_size && memcmp(second + 1, LOADER_DEADLINE_COLUMN, name_size) == 0) {
                return loader_bad(loader, loader->line,
                                  "column %zu: expires= takes milliseconds since 1970",
                                  (size_t)(second - line) + 2);
            }
            return loader_bad(loader, loader->line,
                              "column %zu: a second tab; write a tab in a value as \\t",
                              (size_t)(second - line) + 1);
        }
        value_size = (size_t)(second - value);
    }
    enum loader_result result = decode(loader, "value", value, &value_size, key_size + 1);
    if (result == LOADER_RECORD) {
        result = decode(loader, "key", line, &key_size, 0);
    }
    loader->key = line;
    loader->key_size = key_size;
    loader->value = value;
    loader->value_size = value_size;
    return result;
}

const struct loader_format loader_tsv = {.name = "tsv", .key_field = NULL, .next = tsv_next};
