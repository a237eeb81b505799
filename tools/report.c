/* SPDX-License-Identifier: MIT */
#include "report.h"

#include "coding.h"
#include "command.h"
#include "holder.h"
#include "progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `origin` is a command's name, "hint", "warning" and so on. */
__attribute__((format(printf, 2, 0))) static void print(const char *origin, const char *format,
                                                        va_list arguments)
{
    flockfile(stderr);
    progress_hide();
    fprintf(stderr, "bitkv: %s%s", origin, origin[0] != '\0' ? ": " : "");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    fflush(stderr);
    funlockfile(stderr);
}

int report_usage(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print(command != NULL ? command->name : "", format, arguments);
    va_end(arguments);
    if (command != NULL) {
        report_hint("`bitkv %s --help` shows the options", command->name);
    } else {
        report_hint("`bitkv --help` shows the commands");
    }
    return EXIT_STATUS_USAGE;
}

int report_error(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print(command->name, format, arguments);
    va_end(arguments);
    return EXIT_STATUS_FAILURE;
}

void report_hint(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print("hint", format, arguments);
    va_end(arguments);
}

void report_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print("warning", format, arguments);
    va_end(arguments);
}

/* Whom to stop, and what can be done meanwhile. */
static void hint_at_writer(const struct command *command, const char *directory)
{
    struct holder holder;
    if (holder_find(&holder, directory)) {
        report_hint("process %ld%s%s%s has it open: end that, or let it close the database",
                    holder.pid, holder.name[0] != '\0' ? " (" : "", holder.name,
                    holder.name[0] != '\0' ? ")" : "");
    } else {
        report_hint("end the process that has it open, or let it close the database");
    }
    if ((command->options & OPTION_BIT(OPTION_REPAIR)) != 0) {
        report_hint("without --repair, `bitkv %s` reads beside it", command->name);
    } else {
        report_hint("beside it work get, exists, count, scan, dump, watch, stats, expire-stats and "
                    "backup");
    }
}

/* What the context does not say already. */
static const char *hint_of(const struct command *command, int code, const char *context)
{
    if (strstr(context, "no MANIFEST; restore it") != NULL) {
        return "its 128 bytes are in any backup of this database; they never change";
    }
    if (strstr(context, "create that first") != NULL) {
        return NULL;
    }
    if (strstr(context, "option max_file_size") != NULL) {
        return "--max-file-size takes 64K to 1G, such as 100M";
    }
    switch (code) {
    case BITKV_ERR_NO_DATABASE:
        return command->creates ? "check the path, or let the command make one with --create"
                                : "check the path; `bitkv put` and `bitkv load` make a database";
    case BITKV_ERR_PARTITION_COUNT:
        return "leave --partitions out: the number is fixed when a database is made";
    case BITKV_ERR_CORRUPT:
        return strcmp(command->name, "check") == 0 ? NULL
                                                   : "`bitkv check` tells what is damaged and "
                                                     "where; restore a backup, or dump what "
                                                     "can be read and load it into a new database";
    case BITKV_ERR_BEHIND:
        return "compaction has taken the next changes away: begin anew with another --from FILE, "
               "and see feed_retention_bytes in bitkv(3)";
    case BITKV_ERR_NO_SPACE:
        return "make room on the device; everything written before is safe";
    case BITKV_ERR_FORMAT:
        return "the database was written by a newer version: use that one";
    case BITKV_ERR_SYNC_FAILED:
        return "look into the device (dmesg), then open the database again";
    case BITKV_ERR_TOO_MANY_FILES:
        return "raise the limit of open files (ulimit -n)";
    case BITKV_ERR_PERMISSION:
        if (strstr(context, "Read-only file system") != NULL) {
            return "the file system is mounted read-only";
        }
        return "the directory and its files belong to the user who made the database";
    default:
        return NULL;
    }
}

int report_library(const struct command *command, const char *subject, int code)
{
    const char *context = bitkv_error_context();
    if (context[0] != '\0') {
        report_error(command, "%s: %s (%s)", subject, bitkv_strerror(code), context);
    } else {
        report_error(command, "%s: %s", subject, bitkv_strerror(code));
    }
    /* Of a backup's target, which is locked, too, the context says it all. */
    bool is_target = strcmp(command->name, "backup") == 0 && strstr(context, "backup to") != NULL;
    if (code == BITKV_ERR_LOCKED && !is_target) {
        hint_at_writer(command, subject);
    }
    const char *hint = hint_of(command, code, context);
    if (hint != NULL) {
        report_hint("%s", hint);
    }
    return EXIT_STATUS_FAILURE;
}

__attribute__((format(printf, 2, 3))) static void note(const char *origin, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print(origin, format, arguments);
    va_end(arguments);
}

void report_log(void *user, bitkv_log_level level, const char *message)
{
    const struct settings *settings = user;
    if (level == BITKV_LOG_INFO && !settings->verbose) {
        return;
    }
    note(level == BITKV_LOG_ERROR     ? "error"
         : level == BITKV_LOG_WARNING ? "warning"
                                      : "note",
         "%s", message);
}

const char *report_quote(struct report_text *buffer, const void *data, size_t size)
{
    /* Room for the quotes, the dots, the NUL and, at worst, four characters of the last byte. */
    const size_t room = sizeof buffer->text - 8;
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (stream != NULL) {
        coding_write(stream, CODING_ESCAPE, data, size < room ? size : room);
        fclose(stream);
    }
    bool cut = size > room || length > room;
    size_t shown = length < room ? length : room;
    while (cut && shown > 0 && ((unsigned char)text[shown - 1] & 0xc0) == 0x80) {
        shown--; /* not in the middle of a character */
    }
    snprintf(buffer->text, sizeof buffer->text, "\"%.*s\"%s", (int)shown, text != NULL ? text : "",
             cut ? "..." : "");
    free(text);
    return buffer->text;
}
