/* SPDX-License-Identifier: MIT */
#include "fio.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX ((size_t)1 << 20)

static void execute(const struct bench_fio_job *job, int out)
{
    static const char option[] = "--filename=";
    const size_t size = sizeof(option) + strlen(job->files);
    char *filename = malloc(size);
    char iodepth[32], number[48], split[64];
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const char *arguments[] = {"fio",
                               "--name=read",
                               filename,
                               "--readonly",
                               "--allow_file_create=0",
                               "--rw=randread",
                               split,
                               "--blockalign=4k",
                               "--ioengine=io_uring",
                               job->direct ? "--direct=1" : "--direct=0",
                               iodepth,
                               number,
                               "--file_service_type=random",
                               "--invalidate=0",
                               "--lat_percentiles=1",
                               "--clat_percentiles=0",
                               "--percentile_list=50:99:99.9:99.99",
                               "--eta=never",
                               "--output-format=json",
                               NULL};

    if (filename == NULL || null < 0)
        _exit(126);
    (void)snprintf(filename, size, "%s%s", option, job->files);
    (void)snprintf(iodepth, sizeof(iodepth), "--iodepth=%u", job->depth);
    (void)snprintf(number, sizeof(number), "--number_ios=%zu", job->reads);
    (void)snprintf(split, sizeof(split), "--bssplit=4k/%u:8k/%u", 100 - job->two_pages,
                   job->two_pages);
    if (job->two_pages == 0)
        (void)snprintf(split, sizeof(split), "--bs=4k");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(out, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
        _exit(126);
    (void)execvp("fio", (char *const *)(uintptr_t)arguments);
    _exit(127);
}

/* The number behind the first such member after `text`. */
static bool number_of(const char *text, const char *name, double *value)
{
    const char *at = text == NULL ? NULL : strstr(text, name);
    char *end;

    if (at == NULL)
        return false;
    at += strlen(name);
    at += strspn(at, " :");
    *value = strtod(at, &end);
    return end != at;
}

static bool parse(const char *output, struct bench_fio_result *result)
{
    const char *read = strstr(output, "\"read\"");
    const char *latency = read == NULL ? NULL : strstr(read, "\"lat_ns\"");
    double samples = 0.0;

    if (!number_of(read, "\"iops\"", &result->reads_per_second) ||
        !number_of(read, "\"total_ios\"", &samples) ||
        !number_of(latency, "\"max\"", &result->latency.max_ns) ||
        !number_of(latency, "\"50.000000\"", &result->latency.p50_ns) ||
        !number_of(latency, "\"99.000000\"", &result->latency.p99_ns) ||
        !number_of(latency, "\"99.900000\"", &result->latency.p999_ns) ||
        !number_of(latency, "\"99.990000\"", &result->latency.p9999_ns))
        return false;
    result->latency.samples = (uint64_t)samples;
    return true;
}

bool bench_fio_run(const struct bench_fio_job *job, struct bench_fio_result *result,
                   const char **why)
{
    char *output = malloc(OUTPUT_MAX);
    size_t length = 0;
    ssize_t got;
    int ends[2];
    int status = 0;
    pid_t child;
    bool done = false;

    *why = "fio could not be started";
    if (output == NULL || pipe(ends) != 0) {
        free(output);
        return false;
    }
    child = fork();
    if (child == 0) {
        (void)close(ends[0]);
        execute(job, ends[1]);
    }
    (void)close(ends[1]);
    while ((got = read(ends[0], output + length, OUTPUT_MAX - 1 - length)) > 0)
        length += (size_t)got;
    output[length] = '\0';
    (void)close(ends[0]);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)) {
        if (WEXITSTATUS(status) == 127) {
            *why = "fio is not installed";
        } else {
            *why = "fio failed";
            done = WEXITSTATUS(status) == 0 && parse(output, result);
        }
    }
    free(output);
    return done;
}
