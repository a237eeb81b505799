/* SPDX-License-Identifier: MIT */
/* bitkv(1): the table of commands, and the words in front of them. */
#include "command.h"
#include "interrupt.h"
#include "output.h"
#include "report.h"

#include <signal.h>
#include <string.h>

static const struct command commands[] = {
    {
        .name = "put",
        .arguments = "DIRECTORY KEY [VALUE]",
        .summary = "store a value under a key",
        .description = "The value is VALUE, or comes from --file, or from standard input if there\n"
                       "is neither or VALUE is '-'. The coding options are for KEY and VALUE;\n"
                       "bytes of a file or of standard input are stored as they are.",
        .options =
            OPTION_BIT(OPTION_FILE) | OPTION_BIT(OPTION_TTL) | OPTIONS_CODING | OPTIONS_WRITER,
        .arguments_min = 1,
        .arguments_max = 2,
        .writes = true,
        .creates = true,
        .run = command_put,
    },
    {
        .name = "get",
        .arguments = "DIRECTORY KEY...",
        .summary = "print the value of a key, or of several",
        .description = "One key: the bytes of its value, and a newline only on a terminal or with\n"
                       "--newline. Several: a line 'KEY<tab>VALUE' each, with escapes or in the\n"
                       "coding that is asked for. The exit status is 1 if a key is not there.",
        .options = OPTION_BIT(OPTION_OUTPUT) | OPTION_BIT(OPTION_KEYS_FROM) | OPTIONS_CODING |
                   OPTION_BIT(OPTION_RAW) | OPTION_BIT(OPTION_NEWLINE) | OPTIONS_READER,
        .arguments_min = 1,
        .arguments_max = -1,
        .run = command_get,
    },
    {
        .name = "del",
        .arguments = "DIRECTORY KEY...",
        .summary = "delete a key, or several",
        .description = "The exit status is 1 if a key was not there; the others are deleted.",
        .options = OPTION_BIT(OPTION_KEYS_FROM) | OPTIONS_CODING | OPTION_BIT(OPTION_SYNC) |
                   OPTION_BIT(OPTION_MAX_FILE_SIZE) | OPTIONS_OPEN,
        .arguments_min = 1,
        .arguments_max = -1,
        .writes = true,
        .run = command_del,
    },
    {
        .name = "exists",
        .arguments = "DIRECTORY KEY...",
        .summary = "tell whether a key is there",
        .description =
            "Prints 'yes' or 'no', with several keys a line 'KEY<tab>yes' each; nothing\n"
            "with --quiet. The exit status is 1 if a key is not there.",
        .options = OPTION_BIT(OPTION_KEYS_FROM) | OPTIONS_CODING | OPTIONS_READER,
        .arguments_min = 1,
        .arguments_max = -1,
        .run = command_exists,
    },
    {
        .name = "count",
        .arguments = "DIRECTORY",
        .summary = "print the number of live keys",
        .description = "With --prefix, of the keys that begin so.",
        .options = OPTION_BIT(OPTION_PREFIX) | OPTIONS_CODING | OPTIONS_READER,
        .run = command_count,
    },
    {
        .name = "load",
        .arguments = "DIRECTORY [FILE]...",
        .summary = "store the records of text files",
        .description =
            "Formats (guessed from the first line if --format does not say):\n"
            "  tsv     KEY<tab>VALUE, with the escapes \\t \\n \\r \\\\ \\xHH\n"
            "  jsonl   an object a line: {\"key\": ..., \"value\": ...}; values that are no\n"
            "          strings are stored as JSON; key_base64 and value_base64 hold bytes\n"
            "  deb822  stanzas of 'Field: value' lines; the value is the whole stanza\n"
            "What a dump says of deadlines is restored; records whose deadline has passed\n"
            "are left out, and counted; an older value of their key goes.\n"
            "Without FILE, or with '-', from standard input. Of records with the same key\n"
            "the last one stays. A malformed record stops the load with exit status 3; what\n"
            "was loaded before it stays loaded.",
        .options = OPTION_BIT(OPTION_FORMAT) | OPTION_BIT(OPTION_KEY_FIELD) |
                   OPTION_BIT(OPTION_KEY_TEMPLATE) | OPTION_BIT(OPTION_VALUE_FIELD) |
                   OPTION_BIT(OPTION_WHOLE) | OPTION_BIT(OPTION_SKIP_BAD) | OPTIONS_WRITER,
        .arguments_max = -1,
        .writes = true,
        .creates = true,
        .run = command_load,
    },
    {
        .name = "dump",
        .arguments = "DIRECTORY",
        .summary = "print all live records",
        .description = "As tsv (the default) or jsonl; `bitkv load` reads both. In no order.\n"
                       "Records that expire have their deadline, in milliseconds since 1970, as\n"
                       "a third column 'expires=...' or a field \"deadline_ms\".\n"
                       "The coding options change how tsv writes keys and values.",
        .options = OPTION_BIT(OPTION_FORMAT) | OPTION_BIT(OPTION_OUTPUT) |
                   OPTION_BIT(OPTION_KEYS_ONLY) | OPTION_BIT(OPTION_PREFIX) | OPTIONS_CODING |
                   OPTIONS_READER,
        .run = command_dump,
    },
    {
        .name = "scan",
        .arguments = "DIRECTORY",
        .summary = "list keys and values",
        .description = "As dump does, in no order, but for people who want to look at some:\n"
                       "--prefix, --keys-only and --limit choose what is shown.",
        .options = OPTION_BIT(OPTION_FORMAT) | OPTION_BIT(OPTION_OUTPUT) |
                   OPTION_BIT(OPTION_KEYS_ONLY) | OPTION_BIT(OPTION_PREFIX) |
                   OPTION_BIT(OPTION_LIMIT) | OPTIONS_CODING | OPTIONS_READER,
        .run = command_dump,
    },
    {
        .name = "stats",
        .arguments = "DIRECTORY",
        .summary = "show the statistics of a database",
        .description = "Sizes, memory, and what opening it took. --json has all figures, with\n"
                       "their names in the C interface.",
        .options =
            OPTION_BIT(OPTION_PARTITIONS_DETAIL) | OPTION_BIT(OPTION_SEGMENTS) | OPTIONS_READER,
        .run = command_stats,
    },
    {
        .name = "watch",
        .arguments = "DIRECTORY",
        .summary = "print the changes, in order of each partition",
        .description =
            "A line 'put<tab>KEY<tab>VALUE' or 'delete<tab>KEY' each, from the oldest\n"
            "change that compaction has left, or from where --from says. Overwritten and\n"
            "expired values are printed, too. --json writes an object a line.",
        .options = OPTION_BIT(OPTION_FROM) | OPTION_BIT(OPTION_FOLLOW) | OPTION_BIT(OPTION_LIMIT) |
                   OPTION_BIT(OPTION_KEYS_ONLY) | OPTIONS_CODING | OPTIONS_READER,
        .run = command_watch,
    },
    {
        .name = "expire-stats",
        .arguments = "DIRECTORY",
        .summary = "show how many keys expire, and when",
        .description = "By the time that is left, with the bytes of keys and values. Expired keys\n"
                       "are there until compaction has removed them; their bytes are those on\n"
                       "disk, which it gives back.",
        .options = OPTIONS_READER,
        .run = command_expire_stats,
    },
    {
        .name = "check",
        .arguments = "DIRECTORY",
        .summary = "verify every record of every file",
        .description = "Prints each finding with file, offset and length. Changes nothing.\n"
                       "The exit status is 4 if there is damage.",
        .options = OPTIONS_ANY,
        .run = command_check,
    },
    {
        .name = "backup",
        .arguments = "DIRECTORY TARGET",
        .summary = "make a backup, or bring one up to date",
        .description = "TARGET is not there yet, empty, or an earlier backup of this database,\n"
                       "which is replaced when the new one is complete. Files that are never\n"
                       "changed again are shared with the database by hard links. Works beside a\n"
                       "program that writes.",
        .options = OPTION_BIT(OPTION_VERIFY) | OPTION_BIT(OPTION_NO_LINKS) | OPTIONS_READER,
        .arguments_min = 1,
        .arguments_max = 1,
        .run = command_backup,
    },
    {
        .name = "restore-check",
        .arguments = "DIRECTORY",
        .summary = "prove that a backup can be opened and read",
        .description = "As check does, and then opens it, strictly and read-only, and reads every\n"
                       "record. The exit status is 4 if there is damage.",
        .options = OPTIONS_ANY,
        .run = command_restore_check,
    },
    {
        .name = "repartition",
        .arguments = "DIRECTORY N",
        .summary = "give a database another number of partitions",
        .description = "Writes a new database beside the old one, compares the two, and swaps\n"
                       "them: needs as much room again as the live data. An interruption, or a\n"
                       "crash, leaves the old one or the new one, complete.",
        .options = OPTION_BIT(OPTION_MAX_FILE_SIZE) | OPTION_BIT(OPTION_IO_MODE) | OPTIONS_ANY,
        .arguments_min = 1,
        .arguments_max = 1,
        .writes = true,
        .run = command_repartition,
    },
    {
        .name = "compact",
        .arguments = "DIRECTORY",
        .summary = "give back the space of what was overwritten or deleted",
        .description =
            "Rewrites every data file that has dead records in it. An interruption, or a\n"
            "crash, loses nothing: what was done so far stays done.",
        .options = OPTION_BIT(OPTION_PARTITION) | OPTION_BIT(OPTION_MAX_FILE_SIZE) | OPTIONS_OPEN,
        .writes = true,
        .run = command_compact,
    },
};

/* Speaks for the tool where there is no command. */
static const struct command nameless = {.name = "help"};

#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static void print_usage(FILE *stream)
{
    fputs("Usage: bitkv COMMAND [OPTION]... DIRECTORY [ARGUMENT]...\n\n"
          "Keeps keys and values in DIRECTORY, on disk, crash-safe.\n\nCommands:\n",
          stream);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        fprintf(stream, "  %-13s %s\n", commands[i].name, commands[i].summary);
    }
    fputs("  help          show the help of a command\n\n"
          "Options:\n"
          "  -h, --help     show this help and exit\n"
          "  -V, --version  show the version and exit\n\n"
          "Exit status: 0 done, 1 a key is not there, 2 wrong usage, 3 failed, 4 damage found.\n"
          "`bitkv COMMAND --help` shows a command's options; bitkv(1) is the manual.\n",
          stream);
}

static void print_command_help(const struct command *command)
{
    printf("Usage: bitkv %s [OPTION]... %s\n\n%c%s.\n\n%s\n\nOptions:\n", command->name,
           command->arguments, command->summary[0] - 'a' + 'A', command->summary + 1,
           command->description);
    options_print(stdout, command->options);
}

static int command_help(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stdout);
        return output_finish(&nameless, EXIT_STATUS_OK);
    }
    const struct command *command = find_command(argv[1]);
    if (command == NULL) {
        return report_usage(NULL, "no command '%s'", argv[1]);
    }
    print_command_help(command);
    return output_finish(command, EXIT_STATUS_OK);
}

static int run_command(const struct command *command, int argc, char **argv)
{
    struct settings settings;
    int status = options_parse(&settings, command, argc, argv);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    if (settings.help) {
        print_command_help(command);
        return output_finish(command, EXIT_STATUS_OK);
    }
    return command->run(&settings);
}

static int dispatch(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    if (word == NULL) {
        print_usage(stderr);
        return EXIT_STATUS_USAGE;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_usage(stdout);
        return output_finish(&nameless, EXIT_STATUS_OK);
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("bitkv %s\n", bitkv_version());
        return output_finish(&nameless, EXIT_STATUS_OK);
    }
    if (strcmp(word, "help") == 0) {
        return command_help(argc - 1, argv + 1);
    }
    const struct command *command = find_command(word);
    if (command == NULL) {
        return report_usage(NULL, "no command '%s'", word);
    }
    return run_command(command, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    /* A reader that goes away must not kill the process while the database is open. */
    signal(SIGPIPE, SIG_IGN);
    int status = dispatch(argc, argv);
    interrupt_deliver();
    if (output_pipe_broken()) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    return status;
}
