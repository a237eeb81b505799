/* SPDX-License-Identifier: MIT */
#include "keys.h"

#include "command.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool key_source_is_several(const struct settings *settings)
{
    return settings->argument_count > 1 || settings->keys_from != NULL;
}

int key_source_open(struct key_source *source, const struct settings *settings)
{
    *source = (struct key_source){.settings = settings};
    if (settings->keys_from == NULL) {
        return EXIT_STATUS_OK;
    }
    bool is_stdin = strcmp(settings->keys_from, "-") == 0;
    source->name = is_stdin ? "standard input" : settings->keys_from;
    int fd = is_stdin ? STDIN_FILENO : open(settings->keys_from, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return report_error(settings->command, "%s: %s", source->name, strerror(errno));
    }
    reader_init(&source->reader, fd);
    source->has_reader = true;
    return EXIT_STATUS_OK;
}

void key_source_close(struct key_source *source)
{
    if (source->has_reader) {
        if (source->reader.fd != STDIN_FILENO) {
            close(source->reader.fd);
        }
        reader_destroy(&source->reader);
        source->has_reader = false;
    }
}

static int copy(struct key_source *source, struct key *key, const char *text, size_t size)
{
    /* One more, as malloc(0) may be NULL. */
    key->data = malloc(size + 1);
    if (key->data == NULL) {
        return report_error(source->settings->command, "out of memory");
    }
    memcpy(key->data, text, size);
    key->size = size;
    return EXIT_STATUS_OK;
}

static int next_argument(struct key_source *source, struct key *key)
{
    const struct settings *settings = source->settings;
    const char *text = settings->arguments[source->next_argument++];
    int status = copy(source, key, text, strlen(text));
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    struct coding_error error;
    if (!coding_decode(settings->coding, key->data, &key->size, &error)) {
        free(key->data);
        return report_usage(settings->command, "KEY '%s': character %zu: %s", text,
                            error.offset + 1, error.message);
    }
    if (key->size == 0) {
        free(key->data);
        return report_usage(settings->command, "a KEY is empty");
    }
    return EXIT_STATUS_OK;
}

/* Lines are coded as dump --keys-only writes them, unless another coding is asked for. */
static int next_line(struct key_source *source, struct key *key, bool *more)
{
    const struct settings *settings = source->settings;
    struct reader *reader = &source->reader;
    size_t offset = 0;
    size_t size = 0;
    do {
        reader_begin(reader);
        enum reader_result result = reader_line(reader, &offset, &size);
        if (result == READER_FAILED) {
            return report_error(settings->command, "%s: %s", source->name, strerror(errno));
        }
        *more = result == READER_LINE;
        if (!*more) {
            return EXIT_STATUS_OK;
        }
    } while (size == 0);
    struct coding_error error;
    enum coding coding = settings->coding == CODING_NONE ? CODING_ESCAPE : settings->coding;
    if (!coding_decode(coding, reader_record(reader), &size, &error)) {
        return report_error(settings->command, "%s:%ju: column %zu: %s", source->name,
                            (uintmax_t)reader->line, error.offset + 1, error.message);
    }
    return copy(source, key, reader_record(reader), size);
}

int key_source_next(struct key_source *source, struct key *key, bool *more)
{
    *more = true;
    if (source->next_argument < source->settings->argument_count) {
        return next_argument(source, key);
    }
    if (source->has_reader) {
        return next_line(source, key, more);
    }
    *more = false;
    return EXIT_STATUS_OK;
}
