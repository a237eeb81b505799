/* SPDX-License-Identifier: MIT */
/* The demo's directory: made, listed, removed. */
#ifndef BITKV_TOOLS_DEMO_FILES_H
#define BITKV_TOOLS_DEMO_FILES_H

#include <stdbool.h>

/* Make a new directory below `parent` (NULL: $TMPDIR or /tmp). Returns its path, for free(), or
 * NULL with errno. */
char *demo_directory_make(const char *parent);

/* Print the files with their sizes. */
void demo_directory_list(const char *directory);

/* Remove it with all that is in it. */
bool demo_directory_remove(const char *directory);

#endif
