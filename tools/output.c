/* SPDX-License-Identifier: MIT */
#include "output.h"

#include "coding.h"
#include "command.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------ */
/* Streams                                                             */
/* ------------------------------------------------------------------ */

enum {
    STREAM_BUFFER_BYTES = 1 << 20,
};

static bool pipe_broken;

bool output_pipe_broken(void)
{
    return pipe_broken;
}

/* The temporary sibling gets the permissions of the file that it replaces, or of a new one. */
static int open_beside(struct output *output, const char *path, const struct stat *replaced)
{
    size_t size = strlen(path) + sizeof ".XXXXXX";
    output->temporary = malloc(size);
    if (output->temporary == NULL) {
        return -1;
    }
    snprintf(output->temporary, size, "%s.XXXXXX", path);
    int fd = mkstemp(output->temporary);
    if (fd >= 0) {
        mode_t mask = umask(0);
        umask(mask);
        if (fchmod(fd, replaced != NULL ? replaced->st_mode & 0777 : 0666 & ~mask) == 0) {
            return fd;
        }
        int error = errno;
        unlink(output->temporary);
        close(fd);
        errno = error;
    }
    int error = errno;
    free(output->temporary);
    output->temporary = NULL;
    errno = error;
    return -1;
}

int output_open(struct output *output, const struct settings *settings, const char *path)
{
    *output = (struct output){.stream = stdout};
    if (path != NULL && strcmp(path, "-") != 0) {
        struct stat status;
        bool exists = lstat(path, &status) == 0;
        bool in_place = exists && !S_ISREG(status.st_mode);
        output->path = path;
        if (in_place) {
            output->stream = fopen(path, "we");
        } else {
            int fd = open_beside(output, path, exists ? &status : NULL);
            output->stream = fd >= 0 ? fdopen(fd, "w") : NULL;
        }
        if (output->stream == NULL) {
            return report_error(settings->command, "%s: %s", path, strerror(errno));
        }
    }
    if (isatty(fileno(output->stream)) != 1) {
        setvbuf(output->stream, NULL, _IOFBF, STREAM_BUFFER_BYTES);
    }
    return EXIT_STATUS_OK;
}

/* Which failure set a stream's mark. It may be some calls ago, and errno of another by now; that
 * a pipe has lost its reader can still be asked. */
static int reason_of_failure(FILE *stream)
{
    struct pollfd pipe = {.fd = fileno(stream), .events = POLLOUT};
    if (poll(&pipe, 1, 0) == 1 && (pipe.revents & POLLERR) != 0) {
        return EPIPE;
    }
    return errno != 0 ? errno : EIO;
}

bool output_failed(struct output *output)
{
    if (output->error == 0 && ferror_unlocked(output->stream)) {
        int error = errno;
        output->error = reason_of_failure(output->stream);
        errno = error;
    }
    return output->error != 0;
}

/* A reader that went away is no error to talk about: main() ends the process as it deserves. */
static int report_write_failure(const struct command *command, const char *name, int error)
{
    if (error == EPIPE) {
        pipe_broken = true;
        return EXIT_STATUS_FAILURE;
    }
    return report_error(command, "%s: cannot write: %s", name, strerror(error));
}

int output_close(struct output *output, const struct settings *settings, bool keep)
{
    errno = 0;
    output_failed(output);
    if (fflush(output->stream) != 0 && output->error == 0) {
        output->error = errno;
    }
    bool is_file = output->path != NULL;
    if (is_file && fclose(output->stream) != 0 && output->error == 0) {
        output->error = errno;
    }
    if (output->temporary != NULL) {
        if (output->error != 0 || !keep) {
            unlink(output->temporary);
        } else if (rename(output->temporary, output->path) != 0) {
            output->error = errno;
            unlink(output->temporary);
        }
        free(output->temporary);
        output->temporary = NULL;
    }
    if (output->error == 0) {
        return EXIT_STATUS_OK;
    }
    return report_write_failure(settings->command, is_file ? output->path : "standard output",
                                output->error);
}

int output_finish(const struct command *command, int status)
{
    errno = 0;
    if ((fflush(stdout) == 0 && !ferror(stdout)) || status != EXIT_STATUS_OK) {
        return status; /* another failure has been reported, maybe this very one */
    }
    return report_write_failure(command, "standard output", reason_of_failure(stdout));
}

int output_json(const struct settings *settings, json_t *document)
{
    struct output output;
    int status = output_open(&output, settings, NULL);
    if (status == EXIT_STATUS_OK) {
        if (document == NULL) {
            status = report_error(settings->command, "out of memory");
        } else {
            json_dumpf(document, output.stream, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
            fputc('\n', output.stream);
        }
        int closing = output_close(&output, settings, true);
        status = status != EXIT_STATUS_OK ? status : closing;
    }
    json_decref(document);
    return status;
}

/* ------------------------------------------------------------------ */
/* JSON                                                                */
/* ------------------------------------------------------------------ */

static void write_json_string(FILE *stream, const unsigned char *text, size_t size)
{
    size_t written = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            continue;
        }
        fwrite_unlocked(text + written, 1, i - written, stream);
        written = i + 1;
        const char *letters = c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : NULL;
        if (letters != NULL) {
            fputs_unlocked(letters, stream);
        } else if (c == '"' || c == '\\') {
            char escaped[2] = {'\\', (char)c};
            fwrite_unlocked(escaped, 1, 2, stream);
        } else {
            fprintf(stream, "\\u%04x", c);
        }
        if (ferror_unlocked(stream)) {
            return;
        }
    }
    fwrite_unlocked(text + written, 1, size - written, stream);
}

void output_json_member(FILE *stream, const char *name, const void *data, size_t size)
{
    if (utf8_valid(data, size)) {
        fprintf(stream, "\"%s\":\"", name);
        write_json_string(stream, data, size);
    } else {
        fprintf(stream, "\"%s_base64\":\"", name);
        coding_write(stream, CODING_BASE64, data, size);
    }
    fputc_unlocked('"', stream);
}

json_t *output_json_text(const char *text)
{
    json_t *string = json_string(text);
    if (string != NULL) {
        return string;
    }
    char *escaped = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&escaped, &size);
    if (stream == NULL) {
        return NULL;
    }
    coding_write(stream, CODING_ESCAPE, text, strlen(text));
    fclose(stream);
    string = json_string(escaped);
    free(escaped);
    return string;
}
