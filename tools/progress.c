/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include "figures.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DRAW_INTERVAL_NS UINT64_C(100000000)
/* Large values may take long each, so this must stay small; asking the clock costs some 30 ns. */
#define CALLS_PER_CLOCK 8u

enum {
    LINE_WIDTH_MAX = 200,
    BAR_WIDTH_MIN = 5,
    BAR_WIDTH_MAX = 40,
    BAR_FRAME_WIDTH = 3, /* a space and two brackets */
};

/* Columns that the line on the screen takes; 0: there is none. Atomic as the library's threads may
 * hide it; a line drawn at the same moment is no worse than one drawn after the message. */
static atomic_int columns_shown;

uint64_t progress_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static int terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) {
        return size.ws_col < LINE_WIDTH_MAX ? size.ws_col : LINE_WIDTH_MAX;
    }
    return 80;
}

void progress_begin(struct progress *progress, const char *verb, uint64_t bytes_total, bool wanted)
{
    uint64_t now = progress_clock_ns();
    *progress = (struct progress){
        .enabled = wanted && isatty(STDERR_FILENO) == 1,
        .verb = verb,
        .bytes_total = bytes_total,
        .started_ns = now,
        .shown_ns = now,
    };
}

/* "[#####.....]", as wide as there is room for, or nothing. */
static void format_bar(char *bar, double share, int room)
{
    room = room < BAR_WIDTH_MAX ? room : BAR_WIDTH_MAX;
    if (room < BAR_WIDTH_MIN) {
        bar[0] = '\0';
        return;
    }
    int filled = (int)(share * room);
    *bar++ = ' ';
    *bar++ = '[';
    for (int i = 0; i < room; i++) {
        *bar++ = i < filled ? '#' : '.';
    }
    *bar++ = ']';
    *bar = '\0';
}

static void draw(const struct progress *progress, uint64_t now, uint64_t bytes, uint64_t records)
{
    double seconds = (double)(now - progress->started_ns) / 1e9;
    int width = terminal_width() - 1;
    char percent[8] = "";
    char bar[BAR_WIDTH_MAX + 4] = "";
    char figures[120];
    char left[40] = "";
    int length = 0;
    if (records > 0) {
        length = snprintf(figures, sizeof figures, "  %s records  %s", human_count(records).text,
                          human_rate(records, now - progress->started_ns).text);
    }
    length += snprintf(figures + length, sizeof figures - (size_t)length, "  %.1f MB/s",
                       (double)bytes / seconds / 1e6);
    if (progress->bytes_total > 0) {
        uint64_t done = bytes < progress->bytes_total ? bytes : progress->bytes_total;
        double share = (double)done / (double)progress->bytes_total;
        uint64_t rest = (uint64_t)(share > 0 ? seconds / share - seconds : 0);
        length += snprintf(percent, sizeof percent, " %3.0f%%", share * 100);
        length += snprintf(left, sizeof left, "  ETA %ju:%02ju", (uintmax_t)(rest / 60),
                           (uintmax_t)(rest % 60));
        length += (int)strlen(progress->verb);
        format_bar(bar, share, width - length - BAR_FRAME_WIDTH);
    }
    char line[LINE_WIDTH_MAX + 64];
    length = snprintf(line, sizeof line, "%s%s%s%s%s", progress->verb, percent, bar, figures, left);
    length = length < width ? length : width;
    /* Padded, so that what is left of a longer line goes. */
    fprintf(stderr, "\r%-*.*s", atomic_exchange(&columns_shown, length), width, line);
    fflush(stderr);
}

void progress_update(struct progress *progress, uint64_t bytes, uint64_t records)
{
    if (!progress->enabled) {
        return;
    }
    if (progress->calls_to_clock-- != 0) {
        return;
    }
    progress->calls_to_clock = CALLS_PER_CLOCK;
    uint64_t now = progress_clock_ns();
    if (now - progress->shown_ns >= DRAW_INTERVAL_NS) {
        progress->shown_ns = now;
        draw(progress, now, bytes, records);
    }
}

void progress_end(struct progress *progress)
{
    if (progress->enabled) {
        progress_hide();
        progress->enabled = false;
    }
}

void progress_hide(void)
{
    int columns = atomic_exchange(&columns_shown, 0);
    if (columns > 0) {
        fprintf(stderr, "\r%*s\r", columns, "");
        fflush(stderr);
    }
}
