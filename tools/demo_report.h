/* SPDX-License-Identifier: MIT */
/* What the demo says: headlines, figures and checks. Colours only on a terminal. */
#ifndef BITKV_TOOLS_DEMO_REPORT_H
#define BITKV_TOOLS_DEMO_REPORT_H

#include "figures.h"

#include <stdbool.h>
#include <stdint.h>

uint64_t demo_clock_ns(void);

void demo_report_init(void);

/* A numbered headline. */
__attribute__((format(printf, 1, 2))) void demo_headline(const char *format, ...);

/* "  label      text". */
__attribute__((format(printf, 2, 3))) void demo_figure(const char *label, const char *format, ...);

/* A line of what was verified: "ok" or "FAILED". Returns whether it holds. */
__attribute__((format(printf, 2, 3))) bool demo_check(bool holds, const char *format, ...);

/* A call of the library that must succeed; tells the context if it does not. */
bool demo_call(int code, const char *what);

/* Note a detail of a failing check; only the first few are printed. */
__attribute__((format(printf, 1, 2))) void demo_detail(const char *format, ...);

/* True if a check has failed so far. */
bool demo_has_failed(void);

/* "All N checks passed." or how many did not. */
void demo_verdict(uint64_t time_ns);

/* A line of text, dimmed. */
__attribute__((format(printf, 1, 2))) void demo_remark(const char *format, ...);

#endif
