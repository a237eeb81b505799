/* SPDX-License-Identifier: MIT */
#include "options.h"

#include "engine.h"
#include "workload.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const bench_phase_names[BENCH_PHASE_COUNT] = {
    "fill",           "overwrite",      "get",         "miss",
    "mixed95",        "mixed50",        "synced",      "delete",
    "close",          "reopen",         "reads",       "memory",
    "reopen-clean",   "reopen-kill",    "growth",      "async-hot",
    "async-cold",     "async-synced",   "async-mixed", "overwrite-uniform",
    "overwrite-zipf", "overwrite-ycsb", "foreground",  "compaction-speed",
    "snapshot",       "backup",         "batch"};

#define PHASES_STANDARD ((1u << BENCH_PHASE_FIRST_SPECIAL) - 1u)
#define PHASES_ALL      ((1u << BENCH_PHASE_COUNT) - 1u)
#define PHASES_LIFE     (PHASES_ALL & ~((1u << BENCH_PHASE_FIRST_LIFE) - 1u))
#define PHASES_ASYNC    (PHASES_ALL & ~PHASES_LIFE & ~((1u << BENCH_PHASE_FIRST_ASYNC) - 1u))
#define PHASES_SPECIAL  (PHASES_ALL & ~PHASES_LIFE & ~PHASES_STANDARD)

static const char usage[] =
    "usage: bitkv-bench [options]\n"
    "\n"
    "Compares BitKV with other embedded stores; every value that is read is\n"
    "checked. The exit status is 1 if an engine gave a wrong value or failed,\n"
    "never because it was slow.\n"
    "\n"
    "  --keys N           keys of the comparison (1,000,000)\n"
    "  --large-keys N     keys of reopen-clean, reopen-kill, growth and half of\n"
    "                     memory (10,000,000)\n"
    "  --key-size N       bytes, 8 to 500 (16)\n"
    "  --value-size N     bytes, 8 to 4096 (100)\n"
    "  --threads N        phases run on one thread, and again on N (2; 1: once)\n"
    "  --runs N           repetitions; figures are medians (5)\n"
    "  --special-runs N   repetitions of the phases that are BitKV's own (3)\n"
    "  --synced-puts N    puts of the synced phase, and of async-synced one at a time;\n"
    "                     more in flight, more puts (2,000)\n"
    "  --cold-reads N     reads of each pass of async-cold, of 64 KB of data each; of\n"
    "                     async-mixed, the cold ones (30,000)\n"
    "  --engines LIST     comma separated (all that are built, without the\n"
    "                     variants bitkv-interval and rocksdb-plain)\n"
    "  --phases LIST      comma separated names, or `standard`, `special`, `async` (the\n"
    "                     special ones of completion queues), `life` (overwriting for\n"
    "                     long, compaction, snapshots, backups, batches; --runs times;\n"
    "                     hours at full size), `all` (all but `life`, if not named)\n"
    "  --scale F          size of the phases of `life`, 0.001 to 100; 1 is, for one, 2 GB\n"
    "                     that are overwritten five times (1)\n"
    "  --rate N           puts a second of the phases overwrite-* (no limit)\n"
    "  --directory DIR    where the databases are made, and removed again (.)\n"
    "  --json FILE        write every figure there\n"
    "  --markdown FILE    write the report as Markdown there\n"
    "  --no-latency       leave out the run that times every operation\n"
    "  --seed N           of keys and order (1)\n"
    "  --quick            100,000 keys, 1,000,000 large, 2 runs, 1 special, 200 synced,\n"
    "                     5,000 cold, a scale of 0.02\n"
    "  --list             show engines, their configuration, and phases\n"
    "  --help             this\n"
    "\n"
    "The phases async-cold and async-mixed drop the page cache of the machine again\n"
    "and again where they are permitted to (root), else that of their files only, and\n"
    "set their reads beside those of fio if it is installed.\n";

enum {
    OPT_KEYS = 256,
    OPT_LARGE_KEYS,
    OPT_KEY_SIZE,
    OPT_VALUE_SIZE,
    OPT_THREADS,
    OPT_RUNS,
    OPT_SPECIAL_RUNS,
    OPT_SYNCED_PUTS,
    OPT_COLD_READS,
    OPT_SCALE,
    OPT_RATE,
    OPT_ENGINES,
    OPT_PHASES,
    OPT_DIRECTORY,
    OPT_JSON,
    OPT_MARKDOWN,
    OPT_NO_LATENCY,
    OPT_SEED,
    OPT_QUICK,
    OPT_LIST,
    OPT_HELP,
    OPT_CHILD,
    OPT_CHILD_ENGINE,
    OPT_CHILD_DIRECTORY,
    OPT_CHILD_SETTING,
    OPT_CHILD_TIMED,
    OPT_CHILD_FD,
};

static const struct option long_options[] = {
    {"keys", required_argument, NULL, OPT_KEYS},
    {"large-keys", required_argument, NULL, OPT_LARGE_KEYS},
    {"key-size", required_argument, NULL, OPT_KEY_SIZE},
    {"value-size", required_argument, NULL, OPT_VALUE_SIZE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"runs", required_argument, NULL, OPT_RUNS},
    {"special-runs", required_argument, NULL, OPT_SPECIAL_RUNS},
    {"synced-puts", required_argument, NULL, OPT_SYNCED_PUTS},
    {"cold-reads", required_argument, NULL, OPT_COLD_READS},
    {"scale", required_argument, NULL, OPT_SCALE},
    {"rate", required_argument, NULL, OPT_RATE},
    {"engines", required_argument, NULL, OPT_ENGINES},
    {"phases", required_argument, NULL, OPT_PHASES},
    {"directory", required_argument, NULL, OPT_DIRECTORY},
    {"json", required_argument, NULL, OPT_JSON},
    {"markdown", required_argument, NULL, OPT_MARKDOWN},
    {"no-latency", no_argument, NULL, OPT_NO_LATENCY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"quick", no_argument, NULL, OPT_QUICK},
    {"list", no_argument, NULL, OPT_LIST},
    {"help", no_argument, NULL, OPT_HELP},
    {"child", required_argument, NULL, OPT_CHILD},
    {"child-engine", required_argument, NULL, OPT_CHILD_ENGINE},
    {"child-directory", required_argument, NULL, OPT_CHILD_DIRECTORY},
    {"child-setting", required_argument, NULL, OPT_CHILD_SETTING},
    {"child-timed", no_argument, NULL, OPT_CHILD_TIMED},
    {"child-fd", required_argument, NULL, OPT_CHILD_FD},
    {NULL, 0, NULL, 0},
};

static bool number(const char *name, const char *text, uint64_t least, uint64_t most,
                   uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || *value < least ||
        *value > most) {
        (void)fprintf(stderr, "bitkv-bench: --%s takes a number from %llu to %llu\n", name,
                      (unsigned long long)least, (unsigned long long)most);
        return false;
    }
    return true;
}

static bool scale_of(const char *text, double *scale)
{
    char *end;

    *scale = strtod(text, &end);
    if (end != text && *end == '\0' && *scale >= 0.001 && *scale <= 100.0)
        return true;
    (void)fprintf(stderr, "bitkv-bench: --scale takes a number from 0.001 to 100\n");
    return false;
}

/* Whether the comma separated `list` has the name; moves to the next item. */
static const char *next_item(const char *list, char *item, size_t size)
{
    const size_t length = strcspn(list, ",");

    (void)snprintf(item, size, "%.*s", (int)length, list);
    return list[length] == ',' ? list + length + 1 : list + length;
}

static bool parse_phases(const char *list, uint32_t *phases)
{
    char item[32];

    *phases = 0;
    while (*list != '\0') {
        unsigned phase = 0;

        list = next_item(list, item, sizeof(item));
        if (strcmp(item, "standard") == 0) {
            *phases |= PHASES_STANDARD;
            continue;
        }
        if (strcmp(item, "special") == 0) {
            *phases |= PHASES_SPECIAL;
            continue;
        }
        if (strcmp(item, "async") == 0) {
            *phases |= PHASES_ASYNC;
            continue;
        }
        if (strcmp(item, "life") == 0) {
            *phases |= PHASES_LIFE;
            continue;
        }
        if (strcmp(item, "all") == 0) {
            *phases |= PHASES_ALL;
            continue;
        }
        while (phase < BENCH_PHASE_COUNT && strcmp(item, bench_phase_names[phase]) != 0)
            phase++;
        if (phase == BENCH_PHASE_COUNT) {
            (void)fprintf(stderr, "bitkv-bench: there is no phase '%s'; see --list\n", item);
            return false;
        }
        *phases |= 1u << phase;
    }
    return true;
}

static bool check_engines(const char *list)
{
    char item[32];

    while (*list != '\0') {
        bool known = false;

        list = next_item(list, item, sizeof(item));
        for (size_t i = 0; bench_engine_names[i] != NULL; i++)
            known = known || strcmp(item, bench_engine_names[i]) == 0;
        if (!known) {
            (void)fprintf(stderr, "bitkv-bench: there is no engine '%s'; see --list\n", item);
            return false;
        }
    }
    return true;
}

static bool apply(struct bench_options *options, int option, const char *argument)
{
    uint64_t value = 0;

    switch (option) {
    case OPT_KEYS:
        return number("keys", argument, 1000, 1u << 31, &options->keys);
    case OPT_LARGE_KEYS:
        return number("large-keys", argument, 1000, 1u << 31, &options->large_keys);
    case OPT_KEY_SIZE:
        if (!number("key-size", argument, BENCH_KEY_SIZE_MIN, BENCH_KEY_SIZE_MAX, &value))
            return false;
        options->key_size = (size_t)value;
        return true;
    case OPT_VALUE_SIZE:
        if (!number("value-size", argument, BENCH_VALUE_SIZE_MIN, BENCH_VALUE_SIZE_MAX, &value))
            return false;
        options->value_size = (size_t)value;
        return true;
    case OPT_THREADS:
        if (!number("threads", argument, 1, BENCH_THREADS_MAX, &value))
            return false;
        options->threads = (unsigned)value;
        return true;
    case OPT_RUNS:
        if (!number("runs", argument, 1, BENCH_RUNS_MAX, &value))
            return false;
        options->runs = (unsigned)value;
        return true;
    case OPT_SPECIAL_RUNS:
        if (!number("special-runs", argument, 1, BENCH_RUNS_MAX, &value))
            return false;
        options->special_runs = (unsigned)value;
        return true;
    case OPT_SYNCED_PUTS:
        return number("synced-puts", argument, 1, 1u << 31, &options->synced_puts);
    case OPT_COLD_READS:
        return number("cold-reads", argument, 1000, 1u << 20, &options->cold_reads);
    case OPT_SCALE:
        return scale_of(argument, &options->scale);
    case OPT_RATE:
        return number("rate", argument, 1, 1u << 31, &options->rate);
    case OPT_ENGINES:
        options->engines = argument;
        return check_engines(argument);
    case OPT_PHASES:
        return parse_phases(argument, &options->phases);
    case OPT_DIRECTORY:
        options->directory = argument;
        return true;
    case OPT_JSON:
        options->json = argument;
        return true;
    case OPT_MARKDOWN:
        options->markdown = argument;
        return true;
    case OPT_NO_LATENCY:
        options->latency = false;
        return true;
    case OPT_SEED:
        return number("seed", argument, 0, UINT64_MAX, &options->seed);
    case OPT_QUICK:
        options->keys = 100000;
        options->large_keys = 1000000;
        options->runs = 2;
        options->special_runs = 1;
        options->synced_puts = 200;
        options->cold_reads = 5000;
        options->scale = 0.02;
        return true;
    case OPT_LIST:
        options->list = true;
        return true;
    case OPT_CHILD:
        options->child = argument;
        return true;
    case OPT_CHILD_ENGINE:
        options->child_engine = argument;
        return true;
    case OPT_CHILD_DIRECTORY:
        options->child_directory = argument;
        return true;
    case OPT_CHILD_SETTING:
        if (!number("child-setting", argument, 0, 1000, &value))
            return false;
        options->child_setting = (unsigned)value;
        return true;
    case OPT_CHILD_TIMED:
        options->child_timed = true;
        return true;
    case OPT_CHILD_FD:
        if (!number("child-fd", argument, 0, 1u << 20, &value))
            return false;
        options->child_fd = (int)value;
        return true;
    default:
        return false;
    }
}

int bench_options_parse(struct bench_options *options, int argc, char **argv)
{
    int option;

    *options = (struct bench_options){
        .keys = 1000000,
        .large_keys = 10000000,
        .key_size = 16,
        .value_size = 100,
        .threads = 2,
        .runs = 5,
        .special_runs = 3,
        .synced_puts = 2000,
        .cold_reads = 30000,
        .seed = 1,
        .scale = 1.0,
        .phases = PHASES_ALL & ~PHASES_LIFE,
        .directory = ".",
        .latency = true,
        .child_fd = -1,
    };
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == OPT_HELP) {
            (void)fputs(usage, stdout);
            return 0;
        }
        if (option == '?') {
            (void)fputs("bitkv-bench: --help shows the options\n", stderr);
            return 2;
        }
        if (!apply(options, option, optarg))
            return 2;
    }
    if (optind != argc) {
        (void)fprintf(stderr, "bitkv-bench: what is '%s'? --help shows the options\n",
                      argv[optind]);
        return 2;
    }
    return -1;
}
