/* SPDX-License-Identifier: MIT */
/*
 * The commands of bitkv(1): what each is called, which options it takes, what runs it.
 *
 * main.c holds the table. A command is one `run` function that finds everything it needs in its
 * settings and returns an exit status; it never calls exit().
 */
#ifndef BITKV_TOOLS_COMMAND_H
#define BITKV_TOOLS_COMMAND_H

#include "options.h"

/* Exit statuses: part of the command's interface, see bitkv(1). */
enum exit_status {
    EXIT_STATUS_OK = 0,
    EXIT_STATUS_NOT_FOUND = 1, /* of get, exists and del: a key is absent */
    EXIT_STATUS_USAGE = 2,
    EXIT_STATUS_FAILURE = 3,
    EXIT_STATUS_DAMAGE = 4, /* of check and restore-check */
};

struct command {
    const char *name;
    const char *arguments; /* as the usage line shows them */
    const char *summary;   /* one line, no full stop */
    const char *description;
    uint64_t options;  /* OPTION_BIT() of each that it takes */
    int arguments_min; /* behind the directory */
    int arguments_max; /* -1: any number */
    bool writes;       /* opens for writing; the others open read-only */
    bool creates;      /* makes a database where there is none */
    int (*run)(const struct settings *settings);
};

int command_put(const struct settings *settings);
int command_get(const struct settings *settings);
int command_del(const struct settings *settings);
int command_exists(const struct settings *settings);
int command_count(const struct settings *settings);
int command_load(const struct settings *settings);
int command_dump(const struct settings *settings);
int command_stats(const struct settings *settings);
int command_check(const struct settings *settings);
int command_restore_check(const struct settings *settings);
int command_backup(const struct settings *settings);
int command_repartition(const struct settings *settings);
int command_compact(const struct settings *settings);
int command_watch(const struct settings *settings);
int command_expire_stats(const struct settings *settings);

#endif
