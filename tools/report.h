/* SPDX-License-Identifier: MIT */
/*
 * What goes to standard error: errors with a hint of what to do, notes, and the library's log.
 *
 * One message is one write, so that those of the library's threads do not mix with ours; each takes
 * the progress bar away first.
 */
#ifndef BITKV_TOOLS_REPORT_H
#define BITKV_TOOLS_REPORT_H

#include <bitkv.h>

struct command;

/* "bitkv: put: MESSAGE" and where to find help. Returns EXIT_STATUS_USAGE. */
__attribute__((format(printf, 2, 3))) int report_usage(const struct command *command,
                                                       const char *format, ...);

/* "bitkv: put: MESSAGE". Returns EXIT_STATUS_FAILURE. */
__attribute__((format(printf, 2, 3))) int report_error(const struct command *command,
                                                       const char *format, ...);

/* What to do about the error just reported: "bitkv: hint: MESSAGE". */
__attribute__((format(printf, 1, 2))) void report_hint(const char *format, ...);

/* What went wrong and does not matter to the result: "bitkv: warning: MESSAGE". */
__attribute__((format(printf, 1, 2))) void report_warning(const char *format, ...);

/*
 * "bitkv: put: SUBJECT: message of the code (context)", and a hint if there is one.
 * To be called before anything else of the library can fail in this thread.
 * Returns EXIT_STATUS_FAILURE.
 */
int report_library(const struct command *command, const char *subject, int code);

/* The log callback of the options; `user` is the settings. */
void report_log(void *user, bitkv_log_level level, const char *message);

/*
 * A key or a path as a message shows it: quoted, escaped, cut if it is long.
 * The text is in `buffer`, which is returned.
 */
struct report_text {
    char text[128];
};
const char *report_quote(struct report_text *buffer, const void *data, size_t size);

#endif
