/* SPDX-License-Identifier: MIT */
/*
 * What `bitkv load` reads. First byte: the format (0 guessed, 1 tsv, 2 jsonl,
 * 3 deb822), 4 a template for keys, 8 whole records, 16 a value field. Then the
 * text.
 *
 * A record is within the limits, and a tsv one that is written as `bitkv dump`
 * does reads the same.
 */
#include "fuzz/fuzz.h"

#include "loader.h"
#include "report.h"

#include <bitkv.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* In the place of those that print (the linker sees to it): formatted, and dropped. */
int __wrap_report_usage(const struct command *command, const char *format, ...);
int __wrap_report_error(const struct command *command, const char *format, ...);
void __wrap_report_hint(const char *format, ...);

__attribute__((format(printf, 1, 0))) static void drop(const char *format, va_list arguments)
{
    char text[512];
    FUZZ_CHECK(vsnprintf(text, sizeof text, format, arguments) > 0, "an empty message");
}

int __wrap_report_usage(const struct command *command, const char *format, ...)
{
    (void)command;
    va_list arguments;
    va_start(arguments, format);
    drop(format, arguments);
    va_end(arguments);
    return 2;
}

int __wrap_report_error(const struct command *command, const char *format, ...)
{
    (void)command;
    va_list arguments;
    va_start(arguments, format);
    drop(format, arguments);
    va_end(arguments);
    return 3;
}

void __wrap_report_hint(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    drop(format, arguments);
    va_end(arguments);
}

static int text_fd(const void *text, size_t size)
{
    int fd = memfd_create("load", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0, "%s", strerror(errno));
    FUZZ_CHECK(write(fd, text, size) == (ssize_t)size, "%s", strerror(errno));
    FUZZ_CHECK(lseek(fd, 0, SEEK_SET) == 0, "%s", strerror(errno));
    return fd;
}

/* Written and read again. */
static void check_round_trip(const struct loader *record)
{
    char *text;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    FUZZ_CHECK(stream != NULL, "%s", strerror(errno));
    coding_write(stream, CODING_ESCAPE, record->key, record->key_size);
    (void)fputc('\t', stream);
    coding_write(stream, CODING_ESCAPE, record->value, record->value_size);
    if (record->deadline_ms != UINT64_MAX)
        (void)fprintf(stream, "\t" LOADER_DEADLINE_COLUMN "%llu",
                      (unsigned long long)record->deadline_ms);
    (void)fputc('\n', stream);
    FUZZ_CHECK(fclose(stream) == 0, "%s", strerror(errno));
    struct settings settings = {.format = "tsv"};
    struct loader loader;
    int fd = text_fd(text, size);
    FUZZ_CHECK(loader_init(&loader, &settings, fd, "again") == 0, "init");
    FUZZ_CHECK(loader_next(&loader) == LOADER_RECORD, "%s", loader.problem);
    FUZZ_CHECK(loader.key_size == record->key_size &&
                   memcmp(loader.key, record->key, record->key_size) == 0,
               "another key");
    FUZZ_CHECK(loader.value_size == record->value_size &&
                   (record->value_size == 0 ||
                    memcmp(loader.value, record->value, record->value_size) == 0),
               "another value");
    FUZZ_CHECK(loader.deadline_ms == record->deadline_ms, "another deadline");
    FUZZ_CHECK(loader_next(&loader) == LOADER_END, "one more record");
    loader_destroy(&loader);
    (void)close(fd);
    free(text);
}

static void read_all(struct loader *loader)
{
    unsigned tried = 0;
    for (;;) {
        enum loader_result result = loader_next(loader);
        if (result == LOADER_END || result == LOADER_FAILED)
            return;
        if (result == LOADER_BAD) {
            FUZZ_CHECK(loader->problem[0] != '\0' && loader->problem_line > 0, "no problem");
            continue;
        }
        FUZZ_CHECK(loader->key_size > 0 && loader->key_size <= BITKV_KEY_SIZE_MAX, "%zu",
                   loader->key_size);
        if (tried++ < 4)
            check_round_trip(loader);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {NULL, "tsv", "jsonl", "deb822"};
    struct fuzz_input in = {data, size};
    uint8_t flags = fuzz_u8(&in);
    struct settings settings = {
        .format = formats[flags & 3],
        .key_template = (flags & 4) != 0 ? "{key}/{Package}" : NULL,
        .whole = (flags & 8) != 0,
        .value_field = (flags & 24) == 16 ? "value" : NULL,
    };
    struct loader loader;
    int fd = text_fd(in.data, in.size);
    if (loader_init(&loader, &settings, fd, "input") == 0) {
        read_all(&loader);
        loader_destroy(&loader);
    }
    (void)close(fd);
    return 0;
}
