/* SPDX-License-Identifier: MIT */
/* bitkv put: one value, from an argument, a file or standard input. */
#include "command.h"
#include "database.h"
#include "output.h"
#include "reader.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct value {
    void *data;
    size_t size;
    bool owned; /* else it lies in the arguments */
};

static int value_from_file(struct value *value, const struct settings *settings, const char *path)
{
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        value->data = read_whole(fd, (size_t)BITKV_VALUE_SIZE_MAX, &value->size);
        value->owned = true;
    }
    int error = errno;
    if (fd >= 0 && !is_stdin) {
        close(fd);
    }
    if (value->data != NULL) {
        return EXIT_STATUS_OK;
    }
    return report_error(settings->command, "%s: %s", is_stdin ? "standard input" : path,
                        error == EFBIG ? "longer than the longest value, 1 GiB" : strerror(error));
}

static int value_from_argument(struct value *value, const struct settings *settings, char *text)
{
    struct coding_error error;
    value->data = text;
    value->size = strlen(text);
    if (!coding_decode(settings->coding, text, &value->size, &error)) {
        return report_usage(settings->command, "VALUE: character %zu: %s", error.offset + 1,
                            error.message);
    }
    return EXIT_STATUS_OK;
}

static int find_value(struct value *value, const struct settings *settings)
{
    bool has_argument = settings->argument_count > 1;
    if (settings->file != NULL && has_argument) {
        return report_usage(settings->command, "both a VALUE and --file");
    }
    if (settings->file != NULL) {
        return value_from_file(value, settings, settings->file);
    }
    if (!has_argument || strcmp(settings->arguments[1], "-") == 0) {
        return value_from_file(value, settings, "-");
    }
    return value_from_argument(value, settings, settings->arguments[1]);
}

static int print_json(const struct settings *settings, const char *key, size_t key_size,
                      size_t value_size)
{
    struct output output;
    int status = output_open(&output, settings, NULL);
    if (status == EXIT_STATUS_OK) {
        fputc('{', output.stream);
        output_json_member(output.stream, "key", key, key_size);
        fprintf(output.stream, ",\"value_size\":%zu}\n", value_size);
        status = output_close(&output, settings, true);
    }
    return status;
}

static int put(bitkv *db, const struct settings *settings, const char *key, size_t key_size,
               const struct value *value)
{
    if (settings->ttl_ms == 0) {
        return bitkv_put(db, key, key_size, value->data, value->size);
    }
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.ttl_ms = settings->ttl_ms;
    return bitkv_put_if(db, key, key_size, value->data, value->size, &options, NULL);
}

int command_put(const struct settings *settings)
{
    char *key = settings->arguments[0];
    size_t key_size = strlen(key);
    struct coding_error error;
    if (!coding_decode(settings->coding, key, &key_size, &error)) {
        return report_usage(settings->command, "KEY: character %zu: %s", error.offset + 1,
                            error.message);
    }
    if (key_size == 0) {
        return report_usage(settings->command, "the KEY is empty");
    }
    struct value value = {.data = NULL};
    int status = find_value(&value, settings);
    bitkv *db = NULL;
    if (status == EXIT_STATUS_OK) {
        status = database_open(&db, settings);
    }
    if (status == EXIT_STATUS_OK) {
        int code = put(db, settings, key, key_size, &value);
        if (code != BITKV_OK) {
            status = report_library(settings->command, settings->directory, code);
        }
        status = database_close(db, settings, status);
    }
    if (status == EXIT_STATUS_OK && settings->json) {
        status = print_json(settings, key, key_size, value.size);
    }
    if (value.owned) {
        free(value.data);
    }
    return status;
}
