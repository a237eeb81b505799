/* SPDX-License-Identifier: MIT */
#include "child.h"

#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------ */
/* In the child                                                        */
/* ------------------------------------------------------------------ */

static FILE *report_stream;

void bench_report_to(int fd)
{
    report_stream = fd >= 0 ? fdopen(fd, "w") : stdout;
    if (report_stream == NULL)
        report_stream = stdout;
}

void bench_report_figure(const char *name, double value)
{
    (void)fprintf(report_stream, "figure %s %.17g\n", name, value);
    (void)fflush(report_stream);
}

void bench_report_latency(const char *name, const struct bench_histogram *histogram)
{
    const struct bench_percentiles p = bench_histogram_percentiles(histogram);

    (void)fprintf(report_stream, "latency %s %" PRIu64 " %.1f %.1f %.1f %.1f %.1f\n", name,
                  p.samples, p.p50_ns, p.p99_ns, p.p999_ns, p.p9999_ns, p.max_ns);
    (void)fflush(report_stream);
}

void bench_report_text(const char *name, const char *format, ...)
{
    va_list arguments;

    (void)fprintf(report_stream, "text %s ", name);
    va_start(arguments, format);
    (void)vfprintf(report_stream, format, arguments);
    va_end(arguments);
    (void)fprintf(report_stream, "\n");
    (void)fflush(report_stream);
}

void bench_report_wrong(uint64_t count, const char *text)
{
    (void)fprintf(report_stream, "wrong %" PRIu64 " %s\n", count, text);
    (void)fflush(report_stream);
}

bool bench_report_error(const char *format, ...)
{
    va_list arguments;

    (void)fprintf(report_stream, "error ");
    va_start(arguments, format);
    (void)vfprintf(report_stream, format, arguments);
    va_end(arguments);
    (void)fprintf(report_stream, "\n");
    (void)fflush(report_stream);
    return false;
}

void bench_report_ready_and_wait(void)
{
    (void)fprintf(report_stream, "ready\n");
    (void)fflush(report_stream);
    for (;;)
        (void)pause();
}

uint64_t bench_rss_anon(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    uint64_t kib = 0;

    if (status == NULL)
        return 0;
    while (fgets(line, sizeof(line), status) != NULL) {
        if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
            break;
    }
    (void)fclose(status);
    return kib * 1024;
}

/* ------------------------------------------------------------------ */
/* In the parent                                                       */
/* ------------------------------------------------------------------ */

static volatile sig_atomic_t running_child;

pid_t bench_child_running(void)
{
    return (pid_t)running_child;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    (void)remove(path);
    return 0;
}

void bench_remove_tree(const char *directory)
{
    (void)nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Handles one line; true if it says "ready". */
static bool take_line(char *line, const struct bench_child_sink *sink, bool *failed)
{
    char name[96];
    int used = 0;

    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "ready") == 0)
        return true;
    if (strncmp(line, "figure ", 7) == 0) {
        double value;

        if (sscanf(line + 7, "%95s %lf", name, &value) == 2)
            sink->figure_cb(sink->user, name, value);
    } else if (strncmp(line, "latency ", 8) == 0) {
        struct bench_percentiles p;

        if (sscanf(line + 8, "%95s %" SCNu64 " %lf %lf %lf %lf %lf", name, &p.samples, &p.p50_ns,
                   &p.p99_ns, &p.p999_ns, &p.p9999_ns, &p.max_ns) == 7)
            sink->latency_cb(sink->user, name, &p);
    } else if (strncmp(line, "text ", 5) == 0) {
        if (sscanf(line + 5, "%95s %n", name, &used) == 1)
            sink->text_cb(sink->user, name, line + 5 + used);
    } else if (strncmp(line, "wrong ", 6) == 0) {
        uint64_t count = 0;

        if (sscanf(line + 6, "%" SCNu64 " %n", &count, &used) == 1)
            sink->wrong_cb(sink->user, count, line + 6 + used);
    } else if (strncmp(line, "error ", 6) == 0) {
        *failed = true;
        sink->error_cb(sink->user, line + 6);
    }
    return false;
}

static void execute(char **argv, const struct bench_child_task *task, int fd)
{
    char fd_text[16], setting_text[16];
    char **arguments;
    size_t count = 0;

    while (argv[count] != NULL)
        count++;
    arguments = calloc(count + 16, sizeof(*arguments));
    if (arguments == NULL)
        _exit(127);
    memcpy(arguments, argv, count * sizeof(*arguments));
    (void)snprintf(fd_text, sizeof(fd_text), "%d", fd);
    (void)snprintf(setting_text, sizeof(setting_text), "%u", task->setting);
    arguments[count++] = (char *)(uintptr_t) "--child";
    arguments[count++] = (char *)(uintptr_t)task->task;
    arguments[count++] = (char *)(uintptr_t) "--child-engine";
    arguments[count++] = (char *)(uintptr_t)task->engine;
    arguments[count++] = (char *)(uintptr_t) "--child-directory";
    arguments[count++] = (char *)(uintptr_t)task->directory;
    arguments[count++] = (char *)(uintptr_t) "--child-setting";
    arguments[count++] = setting_text;
    arguments[count++] = (char *)(uintptr_t) "--child-fd";
    arguments[count++] = fd_text;
    if (task->timed)
        arguments[count++] = (char *)(uintptr_t) "--child-timed";
    (void)execv("/proc/self/exe", arguments);
    _exit(127);
}

bool bench_child_run(char **argv, const struct bench_child_task *task,
                     const struct bench_child_sink *sink)
{
    int ends[2];
    char line[1024];
    char text[256];
    bool failed = false;
    bool killed = false;
    FILE *stream;
    pid_t child;
    int status = 0;

    if (mkdir(task->directory, 0700) != 0 && errno != EEXIST) {
        (void)snprintf(text, sizeof(text), "cannot make the database's directory: %s",
                       strerror(errno));
        sink->error_cb(sink->user, text);
        return false;
    }
    if (pipe(ends) != 0 || (child = fork()) < 0) {
        (void)snprintf(text, sizeof(text), "cannot start a child: %s", strerror(errno));
        sink->error_cb(sink->user, text);
        return false;
    }
    if (child == 0) {
        (void)close(ends[0]);
        execute(argv, task, ends[1]);
    }
    running_child = child;
    (void)close(ends[1]);
    stream = fdopen(ends[0], "r");
    while (stream != NULL && fgets(line, sizeof(line), stream) != NULL) {
        if (take_line(line, sink, &failed)) {
            /* Killed by intent or not: a child that is ready waits for it. */
            (void)kill(child, SIGKILL);
            killed = task->kill_when_ready;
        }
    }
    if (stream != NULL)
        (void)fclose(stream);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    running_child = 0;
    if (killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return !failed;
    if (WIFSIGNALED(status)) {
        (void)snprintf(text, sizeof(text), "the %s process died: %s", task->task,
                       strsignal(WTERMSIG(status)));
        sink->error_cb(sink->user, text);
    } else if (!failed) {
        (void)snprintf(text, sizeof(text), "the %s process failed with status %d", task->task,
                       WEXITSTATUS(status));
        sink->error_cb(sink->user, text);
    }
    return false;
}
