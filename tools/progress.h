/* SPDX-License-Identifier: MIT */
/*
 * A progress line on standard error: only where that is a terminal, a few times a second, and gone
 * when the work is done.
 */
#ifndef BITKV_TOOLS_PROGRESS_H
#define BITKV_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    bool enabled;
    const char *verb;        /* "loading" */
    uint64_t bytes_total;    /* 0: unknown, so no percentage and no time left */
    uint64_t started_ns;     /* of the monotonic clock */
    uint64_t shown_ns;       /* when the line was last drawn */
    uint32_t calls_to_clock; /* until the clock is asked again */
};

uint64_t progress_clock_ns(void);

void progress_begin(struct progress *progress, const char *verb, uint64_t bytes_total, bool wanted);

/* Cheap enough to be called for every record. records: 0 if they are not counted. */
void progress_update(struct progress *progress, uint64_t bytes, uint64_t records);

void progress_end(struct progress *progress);

/* Take the line away, so that a message can be written; the next update draws it again. */
void progress_hide(void);

#endif
