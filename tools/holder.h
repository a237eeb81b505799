/* SPDX-License-Identifier: MIT */
/* Which process has a database open for writing: so that a message can say whom to stop. */
#ifndef BITKV_TOOLS_HOLDER_H
#define BITKV_TOOLS_HOLDER_H

#include <stdbool.h>

struct holder {
    long pid;
    char name[32]; /* of the program, as ps shows it; "" if unknown */
};

/* False if nobody has the directory locked, or the system does not tell who. */
bool holder_find(struct holder *holder, const char *directory);

#endif
