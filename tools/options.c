/* SPDX-License-Identifier: MIT */
#include "options.h"

#include "command.h"
#include "report.h"

#include <bitkv.h>

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

/* getopt_long() returns letters below this and option ids from here on. */
#define LONG_OPTION_BASE 256

struct option_description {
    const char *name;
    char letter;          /* 0: none */
    const char *argument; /* NULL: takes none */
    const char *help;     /* lines behind the first are indented by the printer */
};

static const struct option_description descriptions[OPTION_COUNT] = {
    [OPTION_FILE] = {"file", 'f', "FILE", "take the value from FILE ('-' is standard input)"},
    [OPTION_OUTPUT] = {"output", 'o', "FILE", "write to FILE instead of standard output"},
    [OPTION_KEYS_FROM] = {"keys-from", 0, "FILE",
                          "take more keys from FILE, one a line, coded as dump\n"
                          "--keys-only writes them ('-' is standard input)"},
    [OPTION_HEX] = {"hex", 'x', NULL, "keys and values are hexadecimal digits"},
    [OPTION_BASE64] = {"base64", 'b', NULL, "keys and values are base64"},
    [OPTION_ESCAPE] = {"escape", 'e', NULL, "keys and values have escapes: \\t \\n \\r \\\\ \\xHH"},
    [OPTION_RAW] = {"raw", 0, NULL, "decode the keys only; write values as they are"},
    [OPTION_NEWLINE] = {"newline", 'n', NULL, "add a newline (a terminal gets one anyway)"},
    [OPTION_FORMAT] = {"format", 'F', "FORMAT", "format of the records; see above"},
    [OPTION_KEY_FIELD] = {"key-field", 'k', "NAME",
                          "field of the key (jsonl: key, deb822: Package)"},
    [OPTION_VALUE_FIELD] = {"value-field", 0, "NAME", "field of the value (jsonl: value)"},
    [OPTION_KEY_TEMPLATE] = {"key-template", 't', "TEXT",
                             "compose the key from fields, such as\n"
                             "'{Package}/{Version}' ({{ and }} stand for braces)"},
    [OPTION_WHOLE] = {"whole", 'w', NULL, "the value is the whole JSON object"},
    [OPTION_SKIP_BAD] = {"skip-bad", 's', NULL, "report malformed records and go on"},
    [OPTION_KEYS_ONLY] = {"keys-only", 'K', NULL, "leave the values out"},
    [OPTION_PREFIX] = {"prefix", 'p', "PREFIX", "only keys that begin with PREFIX"},
    [OPTION_LIMIT] = {"limit", 'l', "N", "stop after N records"},
    [OPTION_FROM] = {"from", 0, "FILE",
                     "go on at the position that FILE keeps, and keep it there;\n"
                     "from the oldest change on if there is no FILE yet"},
    [OPTION_FOLLOW] = {"follow", 0, NULL, "wait for more"},
    [OPTION_PARTITIONS_DETAIL] = {"partitions-detail", 'd', NULL, "a column for each partition"},
    [OPTION_SEGMENTS] = {"segments", 0, NULL, "a line for each data file"},
    [OPTION_VERIFY] = {"verify", 0, NULL, "read what is linked, too, and verify every record"},
    [OPTION_NO_LINKS] = {"no-links", 0, NULL, "copy every file, share none with the database"},
    [OPTION_TTL] = {"ttl", 0, "TIME",
                    "the value expires after TIME, such as 500ms, 30s,\n"
                    "15m, 12h or 7d"},
    [OPTION_SYNC] = {"sync", 'S', NULL, "every write waits until it is on the disk"},
    [OPTION_CREATE] = {"create", 'c', NULL, "create the database if there is none"},
    [OPTION_NO_CREATE] = {"no-create", 'C', NULL, "fail if there is no database"},
    [OPTION_PARTITIONS] = {"partitions", 'P', "N",
                           "partitions of a new database (default: one per CPU);\n"
                           "of an existing one, fail if it has another number\n"
                           "(0: take what there is, as by default)"},
    [OPTION_PARTITION] = {"partition", 0, "N", "only partition N, from 0 on"},
    [OPTION_MAX_FILE_SIZE] = {"max-file-size", 'm', "SIZE",
                              "begin a new data file at SIZE bytes, K, M or G\n"
                              "(default 100M; 64K to 1G)"},
    [OPTION_IO_MODE] = {"io-mode", 0, "MODE", "auto, mmap or pwrite"},
    [OPTION_READ_ONLY] = {"read-only", 'r', NULL, "change nothing in the directory (the default)"},
    [OPTION_REPAIR] = {"repair", 0, NULL,
                       "open for writing, so that recovery can tidy up what\n"
                       "a crash left behind"},
    [OPTION_JSON] = {"json", 'j', NULL, "write the result as JSON"},
    [OPTION_QUIET] = {"quiet", 'q', NULL, "no progress, no summary, no notes"},
    [OPTION_VERBOSE] = {"verbose", 'v', NULL, "also show what the library has to tell"},
    [OPTION_HELP] = {"help", 'h', NULL, "show this help and exit"},
};

void options_print(FILE *stream, uint64_t set)
{
    for (int id = 0; id < OPTION_COUNT; id++) {
        if ((set & OPTION_BIT(id)) == 0) {
            continue;
        }
        const struct option_description *d = &descriptions[id];
        /* Who cannot create a database has no new one. */
        const char *help = id == OPTION_PARTITIONS && (set & OPTION_BIT(OPTION_CREATE)) == 0
                               ? "fail if the database has another number"
                               : d->help;
        char left[64];
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", d->letter != 0 ? '-' : ' ',
                 d->letter != 0 ? d->letter : ' ', d->letter != 0 ? "," : " ", d->name,
                 d->argument != NULL ? " " : "", d->argument != NULL ? d->argument : "");
        fprintf(stream, "  %-25s ", left);
        for (const char *c = help; *c != '\0'; c++) {
            fputc(*c, stream);
            if (*c == '\n') {
                fprintf(stream, "%-28s", "");
            }
        }
        fputc('\n', stream);
    }
    fputs("\n`--` ends the options: what follows may begin with '-'.\n", stream);
}

/* "64K", "100M", "1G", "65536". */
static bool parse_size(const char *text, uint64_t *size)
{
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    unsigned shift = 0;
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        break;
    case 'm':
    case 'M':
        shift = 20;
        break;
    case 'g':
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift != 0) {
        end++;
        if (strcmp(end, "iB") == 0) {
            end += 2;
        }
    }
    if (*end != '\0' || number > UINT64_MAX >> shift) {
        return false;
    }
    *size = (uint64_t)number << shift;
    return true;
}

/* "500ms", "30s", "15m", "12h", "7d". */
static bool parse_duration_ms(const char *text, uint64_t *ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || text[0] < '0' || text[0] > '9' || number == 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].name) == 0) {
            *ms = (uint64_t)number * units[i].ms;
            return number <= BITKV_TTL_MAX / units[i].ms;
        }
    }
    return false;
}

static int bad_argument(const struct settings *s, int id, const char *argument, const char *wanted)
{
    return report_usage(s->command, "--%s: '%s' is not %s", descriptions[id].name, argument,
                        wanted);
}

static int apply_number(struct settings *s, int id, const char *argument)
{
    uint64_t number = 0;
    if (id == OPTION_PARTITIONS) {
        if (!parse_size(argument, &number) || number > BITKV_PARTITIONS_MAX) {
            return bad_argument(s, id, argument, "a number from 0 to 1024");
        }
        s->partitions = (uint32_t)number;
        return EXIT_STATUS_OK;
    }
    if (id == OPTION_LIMIT) {
        if (!parse_size(argument, &s->limit) || s->limit == 0) {
            return bad_argument(s, id, argument, "a number from 1 on");
        }
        return EXIT_STATUS_OK;
    }
    if (id == OPTION_PARTITION) {
        if (!parse_size(argument, &number) || number >= BITKV_PARTITIONS_MAX) {
            return bad_argument(s, id, argument, "a number from 0 to 1023");
        }
        s->one_partition = true;
        s->partition = (uint32_t)number;
        return EXIT_STATUS_OK;
    }
    if (!parse_size(argument, &number) || number == 0) {
        return bad_argument(s, id, argument, "a size from 64K to 1G, such as 100M");
    }
    s->max_file_size = number;
    return EXIT_STATUS_OK;
}

static int apply_io_mode(struct settings *s, const char *argument)
{
    if (strcmp(argument, "auto") == 0) {
        s->io_mode = BITKV_IO_AUTO;
    } else if (strcmp(argument, "mmap") == 0) {
        s->io_mode = BITKV_IO_MMAP;
    } else if (strcmp(argument, "pwrite") == 0) {
        s->io_mode = BITKV_IO_PWRITE;
    } else {
        return bad_argument(s, OPTION_IO_MODE, argument, "auto, mmap or pwrite");
    }
    return EXIT_STATUS_OK;
}

static int apply(struct settings *s, int id, const char *argument)
{
    switch (id) {
    case OPTION_FILE:
        s->file = argument;
        break;
    case OPTION_OUTPUT:
        s->output = argument;
        break;
    case OPTION_KEYS_FROM:
        s->keys_from = argument;
        break;
    case OPTION_HEX:
        s->coding = CODING_HEX;
        break;
    case OPTION_BASE64:
        s->coding = CODING_BASE64;
        break;
    case OPTION_ESCAPE:
        s->coding = CODING_ESCAPE;
        break;
    case OPTION_RAW:
        s->raw = true;
        break;
    case OPTION_NEWLINE:
        s->newline = true;
        break;
    case OPTION_FORMAT:
        s->format = argument;
        break;
    case OPTION_KEY_FIELD:
        s->key_field = argument;
        break;
    case OPTION_VALUE_FIELD:
        s->value_field = argument;
        break;
    case OPTION_KEY_TEMPLATE:
        s->key_template = argument;
        break;
    case OPTION_WHOLE:
        s->whole = true;
        break;
    case OPTION_SKIP_BAD:
        s->skip_bad = true;
        break;
    case OPTION_KEYS_ONLY:
        s->keys_only = true;
        break;
    case OPTION_PREFIX:
        s->prefix = argument;
        break;
    case OPTION_FROM:
        s->from = argument;
        break;
    case OPTION_FOLLOW:
        s->follow = true;
        break;
    case OPTION_PARTITIONS_DETAIL:
        s->partitions_detail = true;
        break;
    case OPTION_SEGMENTS:
        s->segments = true;
        break;
    case OPTION_VERIFY:
        s->verify = true;
        break;
    case OPTION_NO_LINKS:
        s->no_links = true;
        break;
    case OPTION_TTL:
        if (!parse_duration_ms(argument, &s->ttl_ms)) {
            return bad_argument(s, id, argument, "a time such as 500ms, 30s, 15m, 12h or 7d");
        }
        break;
    case OPTION_SYNC:
        s->sync = true;
        break;
    case OPTION_CREATE:
        s->create = true;
        break;
    case OPTION_NO_CREATE:
        s->create = false;
        break;
    case OPTION_PARTITIONS:
    case OPTION_PARTITION:
    case OPTION_MAX_FILE_SIZE:
    case OPTION_LIMIT:
        return apply_number(s, id, argument);
    case OPTION_IO_MODE:
        return apply_io_mode(s, argument);
    case OPTION_READ_ONLY:
        s->repair = false;
        break;
    case OPTION_REPAIR:
        s->repair = true;
        break;
    case OPTION_JSON:
        s->json = true;
        break;
    case OPTION_QUIET:
        s->quiet = true;
        break;
    case OPTION_VERBOSE:
        s->verbose = true;
        break;
    case OPTION_HELP:
        s->help = true;
        break;
    default:
        break;
    }
    return EXIT_STATUS_OK;
}

/* What getopt_long() is told about the options that this command takes. */
struct getopt_input {
    struct option longs[OPTION_COUNT + 1];
    char letters[2 + 2 * OPTION_COUNT];
};

static void getopt_input_build(struct getopt_input *input, uint64_t set)
{
    memset(input, 0, sizeof *input);
    size_t long_count = 0;
    size_t letter_count = 0;
    input->letters[letter_count++] = ':'; /* tell a missing argument from an unknown option */
    for (int id = 0; id < OPTION_COUNT; id++) {
        if ((set & OPTION_BIT(id)) == 0) {
            continue;
        }
        const struct option_description *d = &descriptions[id];
        struct option *entry = &input->longs[long_count++];
        entry->name = d->name;
        entry->has_arg = d->argument != NULL ? required_argument : no_argument;
        entry->val = LONG_OPTION_BASE + id;
        if (d->letter != 0) {
            input->letters[letter_count++] = d->letter;
            if (d->argument != NULL) {
                input->letters[letter_count++] = ':';
            }
        }
    }
}

static int option_of_letter(int letter)
{
    for (int id = 0; id < OPTION_COUNT; id++) {
        if (descriptions[id].letter == letter) {
            return id;
        }
    }
    return OPTION_COUNT;
}

static void hint_dash(const struct command *command)
{
    if (command->arguments_max != 0) {
        report_hint("`--` ends the options: `bitkv %s -- DIRECTORY -x` takes -x as it is",
                    command->name);
    }
}

static int report_bad_option(const struct command *command, char **argv)
{
    if (optopt >= LONG_OPTION_BASE) {
        return report_usage(command, "option --%s takes no argument",
                            descriptions[optopt - LONG_OPTION_BASE].name);
    }
    int status = optopt != 0
                     ? report_usage(command, "unknown option -%c", optopt)
                     : report_usage(command, "unknown or ambiguous option %s", argv[optind - 1]);
    hint_dash(command);
    return status;
}

/* The operand that is missing, as the usage line calls it. */
static int report_missing(const struct settings *s)
{
    const char *word = s->command->arguments;
    for (int i = 0; i <= s->argument_count; i++) {
        word += strcspn(word, " ");
        word += strspn(word, " ");
    }
    return report_usage(s->command, "the %.*s is missing", (int)strcspn(word, " ."), word);
}

static int check_operands(struct settings *s)
{
    const struct command *command = s->command;
    if (s->directory == NULL) {
        return report_usage(command, "the DIRECTORY of the database is missing");
    }
    int least = s->keys_from != NULL ? 0 : command->arguments_min;
    if (s->argument_count < least) {
        int status = report_missing(s);
        hint_dash(command);
        return status;
    }
    if (command->arguments_max >= 0 && s->argument_count > command->arguments_max) {
        return report_usage(command, "too many arguments: '%s'",
                            s->arguments[command->arguments_max]);
    }
    return EXIT_STATUS_OK;
}

int options_parse(struct settings *settings, const struct command *command, int argc, char **argv)
{
    *settings = (struct settings){.command = command, .create = command->creates};
    struct getopt_input input;
    getopt_input_build(&input, command->options);
    optind = 0; /* GNU: start over, whatever main() has parsed */
    opterr = 0;
    for (;;) {
        int c = getopt_long(argc, argv, input.letters, input.longs, NULL);
        if (c == -1) {
            break;
        }
        if (c == '?') {
            return report_bad_option(command, argv);
        }
        if (c == ':') {
            const char *name = argv[optind - 1];
            return report_usage(command, "option %s needs an argument", name);
        }
        int id = c >= LONG_OPTION_BASE ? c - LONG_OPTION_BASE : option_of_letter(c);
        int status = apply(settings, id, optarg);
        if (status != EXIT_STATUS_OK) {
            return status;
        }
        if (settings->help) {
            return EXIT_STATUS_OK;
        }
    }
    if (optind < argc) {
        settings->directory = argv[optind++];
    }
    settings->arguments = argv + optind;
    settings->argument_count = argc - optind;
    return check_operands(settings);
}
