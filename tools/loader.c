/* SPDX-License-Identifier: MIT */
#include "loader.h"

#include "command.h"
#include "report.h"

#include <bitkv.h>

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static const struct loader_format *const formats[] = {&loader_tsv, &loader_jsonl, &loader_deb822,
                                                      NULL};

const struct loader_format *loader_format_find(const char *name)
{
    for (size_t i = 0; formats[i] != NULL; i++) {
        if (strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

/*
 * Guess from the first line that is neither blank nor a comment: an object is jsonl, a tab makes it
 * tsv, "Name:" is deb822. The tab is asked for first, as keys such as user:1001 are more common
 * than fields that are separated from their value by a tab.
 */
static const struct loader_format *guess_format(const char *text, size_t size)
{
    size_t length = 0;
    for (;;) {
        while (size > 0 && strchr(" \t\r\n", *text) != NULL) {
            text++;
            size--;
        }
        if (size == 0) {
            return &loader_tsv; /* nothing in it: any format will do */
        }
        const char *newline = memchr(text, '\n', size);
        length = newline != NULL ? (size_t)(newline - text) : size;
        if (text[0] != '#' || memchr(text, '\t', length) != NULL) {
            break;
        }
        text += length;
        size -= length;
    }
    if (text[0] == '{') {
        size_t blanks = 1;
        while (blanks < length && (text[blanks] == ' ' || text[blanks] == '\t')) {
            blanks++;
        }
        if (blanks < length && (text[blanks] == '"' || text[blanks] == '}')) {
            return &loader_jsonl;
        }
    }
    if (memchr(text, '\t', length) != NULL) {
        return &loader_tsv;
    }
    const char *colon = memchr(text, ':', length);
    if (colon != NULL && colon != text && memchr(text, ' ', (size_t)(colon - text)) == NULL) {
        return &loader_deb822;
    }
    return NULL;
}

static int choose_format(struct loader *loader, const char *name)
{
    const struct settings *settings = loader->settings;
    if (settings->format != NULL) {
        loader->format = loader_format_find(settings->format);
        return EXIT_STATUS_OK;
    }
    const char *text = "";
    size_t size = 0;
    if (reader_peek(&loader->reader, &text, &size) == READER_FAILED) {
        return report_error(settings->command, "%s: %s", name, strerror(errno));
    }
    loader->format = guess_format(text, size);
    if (loader->format == NULL) {
        report_error(settings->command, "%s:1: cannot tell the format", name);
        report_hint("say --format tsv, jsonl or deb822");
        return EXIT_STATUS_FAILURE;
    }
    return EXIT_STATUS_OK;
}

int loader_init(struct loader *loader, const struct settings *settings, int fd, const char *name)
{
    *loader = (struct loader){.settings = settings};
    reader_init(&loader->reader, fd);
    int status = choose_format(loader, name);
    if (status == EXIT_STATUS_OK && settings->key_template != NULL) {
        const char *problem = template_parse(&loader->template, settings->key_template);
        loader->has_template = true;
        if (problem != NULL) {
            status = report_usage(settings->command, "--key-template: %s", problem);
        } else if (loader->format->key_field == NULL) {
            status = report_usage(settings->command, "%s: --key-template: %s has no fields", name,
                                  loader->format->name);
        }
    }
    if (status != EXIT_STATUS_OK) {
        loader_destroy(loader);
        return status;
    }
    loader->key_field =
        settings->key_field != NULL ? settings->key_field : loader->format->key_field;
    return EXIT_STATUS_OK;
}

void loader_destroy(struct loader *loader)
{
    json_decref(loader->document);
    loader->document = NULL;
    if (loader->has_template) {
        template_destroy(&loader->template);
    }
    reader_destroy(&loader->reader);
}

enum loader_result loader_bad(struct loader *loader, uint64_t line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(loader->problem, sizeof loader->problem, format, arguments);
    va_end(arguments);
    loader->problem_line = line;
    return LOADER_BAD;
}

bool loader_take_deadline(struct loader *loader, const char *text, size_t size)
{
    uint64_t deadline_ms = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || deadline_ms > (UINT64_MAX - 9) / 10) {
            return false;
        }
        deadline_ms = deadline_ms * 10 + (uint64_t)(text[i] - '0');
    }
    loader->deadline_ms = deadline_ms;
    return size > 0;
}

enum loader_result loader_compose_key(struct loader *loader, template_lookup lookup)
{
    struct report_text quoted;
    if (!loader->has_template) {
        const char *name = loader->key_field;
        if (lookup(loader, name, strlen(name), &loader->key, &loader->key_size)) {
            return LOADER_RECORD;
        }
        return loader_bad(loader, loader->line, "no field %s to make the key of",
                          report_quote(&quoted, name, strlen(name)));
    }
    const struct template_part *missing = NULL;
    if (template_expand(&loader->template, lookup, loader, &loader->key, &loader->key_size,
                        &missing)) {
        return LOADER_RECORD;
    }
    if (missing == NULL) {
        errno = ENOMEM;
        return LOADER_FAILED;
    }
    return loader_bad(loader, loader->line, "no field %s to make the key of",
                      report_quote(&quoted, missing->text, missing->size));
}

enum loader_result loader_next(struct loader *loader)
{
    loader->value = NULL;
    loader->value_size = 0;
    loader->deadline_ms = UINT64_MAX;
    enum loader_result result = loader->format->next(loader);
    if (result != LOADER_RECORD) {
        return result;
    }
    if (loader->key_size == 0) {
        return loader_bad(loader, loader->line, "the key is empty");
    }
    if (loader->key_size > BITKV_KEY_SIZE_MAX) {
        return loader_bad(loader, loader->line, "the key has %zu bytes; the most is %u",
                          loader->key_size, BITKV_KEY_SIZE_MAX);
    }
    if (loader->value_size > (size_t)BITKV_VALUE_SIZE_MAX) {
        return loader_bad(loader, loader->line, "the value has %zu bytes; the most is 1 GiB",
                          loader->value_size);
    }
    return LOADER_RECORD;
}
