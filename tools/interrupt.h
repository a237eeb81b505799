/* SPDX-License-Identifier: MIT */
/*
 * Ctrl-C during a long command: it stops after the record at hand and closes the database, so that
 * the next opening has nothing to recover.
 */
#ifndef BITKV_TOOLS_INTERRUPT_H
#define BITKV_TOOLS_INTERRUPT_H

#include <stdbool.h>

/* From here on SIGINT and SIGTERM are noted; the second one ends the process at once. */
void interrupt_catch(void);

/* True if one came. */
bool interrupted(void);

/* If one came, end the process by it, as its sender expects. */
void interrupt_deliver(void);

#endif
