/* SPDX-License-Identifier: MIT */
#include "demo_report.h"

#include <bitkv.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    DETAILS_SHOWN_MAX = 10,
};

static const char *bold = "";
static const char *dim = "";
static const char *green = "";
static const char *red = "";
static const char *plain = "";

static unsigned headline_count;
static unsigned check_count;
static unsigned failed_count;
static unsigned detail_count;

uint64_t demo_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void demo_report_init(void)
{
    const char *terminal = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    bool color = isatty(STDOUT_FILENO) == 1 && terminal != NULL && strcmp(terminal, "dumb") != 0 &&
                 (no_color == NULL || no_color[0] == '\0');
    if (color) {
        bold = "\033[1m";
        dim = "\033[2m";
        green = "\033[32m";
        red = "\033[31m";
        plain = "\033[0m";
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* in a pipe too: somebody watches */
}

void demo_headline(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("\n%s%u. ", bold, ++headline_count);
    vprintf(format, arguments);
    printf("%s\n", plain);
    va_end(arguments);
}

void demo_figure(const char *label, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("   %-22s ", label);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

bool demo_check(bool holds, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    check_count++;
    failed_count += !holds;
    printf("   %s%s%s ", holds ? green : red, holds ? "ok" : "FAILED", plain);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    return holds;
}

bool demo_call(int code, const char *what)
{
    if (code == BITKV_OK) {
        return true;
    }
    return demo_check(false, "%s: %s (%s)", what, bitkv_strerror(code), bitkv_error_context());
}

void demo_detail(const char *format, ...)
{
    if (detail_count++ >= DETAILS_SHOWN_MAX) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    printf("      %s", red);
    vprintf(format, arguments);
    printf("%s\n", plain);
    va_end(arguments);
}

void demo_remark(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("   %s", dim);
    vprintf(format, arguments);
    printf("%s\n", plain);
    va_end(arguments);
}

bool demo_has_failed(void)
{
    return failed_count > 0;
}

void demo_verdict(uint64_t time_ns)
{
    if (failed_count == 0) {
        printf("\n%s%sAll %u checks passed%s in %s.\n", bold, green, check_count, plain,
               human_duration(time_ns).text);
    } else {
        printf("\n%s%s%u of %u checks FAILED%s after %s.\n", bold, red, failed_count, check_count,
               plain, human_duration(time_ns).text);
    }
}
