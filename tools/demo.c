/* SPDX-License-Identifier: MIT */
/*
 * The demo: real records through the whole life of a database, everything that comes back compared
 * byte by byte with the source, which stays in memory.
 *
 * Each record of the corpus is in one of three states (as loaded, updated, deleted). The functions
 * step_*() bring about states and figures; verify_all() compares the database with the states. It
 * runs after each opening, so that nothing that a step left can go unnoticed.
 */
#include "demo_corpus.h"
#include "demo_crash.h"
#include "demo_files.h"
#include "demo_report.h"
#include "demo_rng.h"

#include <bitkv.h>

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOOKUPS = 200000,
    LOOKUP_PASSES = 3,
    MISSES = 100000,
    BATCH_KEYS = 32,
    ROUNDS_DEFAULT = 4,
    UPDATE_EVERY = 5, /* records: one in five is updated */
    DELETE_EVERY = 10,
    UPDATE_BYTES_MAX = 64, /* of the line that an update adds */
};

enum record_state { STATE_LOADED = 0, STATE_UPDATED, STATE_DELETED };

struct demo {
    /* options */
    bool keep;
    bool words;
    unsigned rounds;
    uint64_t seed;
    const char *parent;

    char *root;      /* everything is below, and goes with it */
    char *directory; /* of the database */
    bitkv *db;
    struct corpus corpus;
    unsigned char *states; /* of enum record_state, by record */
    size_t live;           /* records of the corpus that are not deleted */
    uint64_t crash_keys;   /* that the crash rounds have left */
    struct rng rng;
    char *expected; /* room for any value */
    char *found;
    size_t room;
    uint64_t recovery_ns; /* of the slowest opening after a kill */
};

static volatile sig_atomic_t stop_signal;

static void note_signal(int number)
{
    stop_signal = number;
}

/* ------------------------------------------------------------------ */
/* What is expected                                                    */
/* ------------------------------------------------------------------ */

static size_t expected_value(struct demo *demo, size_t index)
{
    const struct corpus_record *record = &demo->corpus.records[index];
    size_t header = 0;
    if (demo->states[index] == STATE_UPDATED) {
        header =
            (size_t)snprintf(demo->expected, UPDATE_BYTES_MAX, "Updated-By-Demo: %zu\n", index);
    }
    memcpy(demo->expected + header, record->value, record->value_size);
    return header + record->value_size;
}

static bool is_expected(struct demo *demo, size_t index, int code, const void *value, size_t size)
{
    if (demo->states[index] == STATE_DELETED) {
        return code == BITKV_NOT_FOUND;
    }
    if (code != BITKV_OK) {
        return false;
    }
    /* The common case without a copy. */
    if (demo->states[index] == STATE_LOADED) {
        const struct corpus_record *record = &demo->corpus.records[index];
        return size == record->value_size && memcmp(value, record->value, size) == 0;
    }
    return size == expected_value(demo, index) && memcmp(value, demo->expected, size) == 0;
}

static uint64_t note_wrong(const struct demo *demo, size_t index, int code)
{
    const struct corpus_record *record = &demo->corpus.records[index];
    demo_detail("%.*s: %s", (int)record->key_size, record->key,
                code == BITKV_OK ? "another value than expected" : bitkv_strerror(code));
    return 1;
}

/* Get a record by itself. Returns 1 if it is not as expected. */
static uint64_t get_single(struct demo *demo, size_t index)
{
    const struct corpus_record *record = &demo->corpus.records[index];
    size_t size = 0;
    int code =
        bitkv_get_into(demo->db, record->key, record->key_size, demo->found, demo->room, &size);
    return is_expected(demo, index, code, demo->found, size) ? 0 : note_wrong(demo, index, code);
}

static void prepare_item(const struct demo *demo, bitkv_get_item *item, size_t index, size_t slot)
{
    const struct corpus_record *record = &demo->corpus.records[index];
    *item = (bitkv_get_item){.key = record->key,
                             .key_size = record->key_size,
                             .buffer = demo->found + slot * demo->room,
                             .buffer_size = demo->room};
}

/* Get records as a batch. Returns how many are not as expected. */
static uint64_t get_batch(struct demo *demo, const size_t *indexes, size_t count)
{
    bitkv_get_item items[BATCH_KEYS];
    for (size_t i = 0; i < count; i++) {
        prepare_item(demo, &items[i], indexes[i], i);
    }
    bitkv_multi_get(demo->db, items, count);
    uint64_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        if (!is_expected(demo, indexes[i], items[i].status, items[i].value, items[i].value_size)) {
            wrong += note_wrong(demo, indexes[i], items[i].status);
        }
    }
    return wrong;
}

static void check_key_count(const struct demo *demo, uint64_t expected)
{
    bitkv_statistics statistics = {.struct_size = 0};
    bitkv_statistics_init(&statistics);
    if (demo_call(bitkv_stats(demo->db, BITKV_ALL_PARTITIONS, &statistics), "statistics")) {
        demo_check(statistics.keys == expected, "%s keys are there, and none beside them",
                   human_count(statistics.keys).text);
    }
}

/* Every record of the corpus, and that there are no keys beside them. */
static void verify_all(struct demo *demo)
{
    uint64_t wrong = 0;
    for (size_t i = 0; i < demo->corpus.count; i++) {
        wrong += get_single(demo, i);
    }
    demo_check(wrong == 0, "all %s records are as they should be, byte by byte",
               human_count(demo->corpus.count).text);
    check_key_count(demo, demo->live + demo->crash_keys);
}

/* ------------------------------------------------------------------ */
/* Steps                                                               */
/* ------------------------------------------------------------------ */

static void step_load(struct demo *demo)
{
    const struct corpus *corpus = &demo->corpus;
    demo_headline("Loading %s records from %s", human_count(corpus->count).text, corpus->origin);
    uint64_t failed = 0;
    uint64_t started_ns = demo_clock_ns();
    for (size_t i = 0; i < corpus->count; i++) {
        const struct corpus_record *record = &corpus->records[i];
        failed += bitkv_put(demo->db, record->key, record->key_size, record->value,
                            record->value_size) != BITKV_OK;
    }
    uint64_t time_ns = demo_clock_ns() - started_ns;
    demo->live = corpus->count;
    demo_figure("keys and values", "%s in %s", human_bytes(corpus->record_bytes).text,
                human_duration(time_ns).text);
    demo_figure("puts", "%s, %.0f MB/s", human_rate(corpus->count, time_ns).text,
                (double)corpus->record_bytes * 1e3 / (double)time_ns);
    demo_check(failed == 0, "every put was acknowledged");
    verify_all(demo);
}

static size_t pick_record(struct demo *demo)
{
    return (size_t)rng_below(&demo->rng, demo->corpus.count);
}

/* Returns how many values are wrong, over single gets and batches. */
static uint64_t compare_random(struct demo *demo)
{
    uint64_t wrong = 0;
    for (int i = 0; i < LOOKUPS; i += BATCH_KEYS) {
        size_t indexes[BATCH_KEYS];
        for (size_t k = 0; k < BATCH_KEYS; k++) {
            indexes[k] = pick_record(demo);
            wrong += get_single(demo, indexes[k]);
        }
        wrong += get_batch(demo, indexes, BATCH_KEYS);
    }
    return wrong;
}

/* The same look-ups without the comparison, which would take as long as they do. */
static uint64_t time_single(struct demo *demo, uint64_t *failed)
{
    uint64_t started_ns = demo_clock_ns();
    for (int i = 0; i < LOOKUPS; i++) {
        const struct corpus_record *record = &demo->corpus.records[pick_record(demo)];
        *failed += bitkv_get_into(demo->db, record->key, record->key_size, demo->found, demo->room,
                                  NULL) != BITKV_OK;
    }
    return demo_clock_ns() - started_ns;
}

static uint64_t time_batches(struct demo *demo, uint64_t *failed)
{
    uint64_t started_ns = demo_clock_ns();
    for (int i = 0; i < LOOKUPS; i += BATCH_KEYS) {
        bitkv_get_item items[BATCH_KEYS];
        for (size_t k = 0; k < BATCH_KEYS; k++) {
            prepare_item(demo, &items[k], pick_record(demo), k);
        }
        *failed += bitkv_multi_get(demo->db, items, BATCH_KEYS) != BITKV_OK;
    }
    return demo_clock_ns() - started_ns;
}

static void step_lookup(struct demo *demo)
{
    demo_headline("%s random look-ups, one by one and in batches of %d", human_count(LOOKUPS).text,
                  BATCH_KEYS);
    struct rng begin = demo->rng; /* all passes ask for the same keys */
    uint64_t wrong = compare_random(demo);
    uint64_t failed = 0;
    uint64_t single_ns = UINT64_MAX;
    uint64_t batch_ns = UINT64_MAX;
    /* The best of several passes, in turn: other programs only ever make one slower. */
    for (int pass = 0; pass < LOOKUP_PASSES; pass++) {
        demo->rng = begin;
        uint64_t time_ns = time_single(demo, &failed);
        single_ns = time_ns < single_ns ? time_ns : single_ns;
        demo->rng = begin;
        time_ns = time_batches(demo, &failed);
        batch_ns = time_ns < batch_ns ? time_ns : batch_ns;
    }
    demo_figure("get", "%s", human_rate(LOOKUPS, single_ns).text);
    demo_figure("multi-get", "%s (%.1f times that)", human_rate(LOOKUPS, batch_ns).text,
                (double)single_ns / (double)batch_ns);
    demo_check(wrong == 0 && failed == 0, "every value is the source's, byte by byte");
}

static void step_update(struct demo *demo)
{
    demo_headline("Updating one record in %d", UPDATE_EVERY);
    uint64_t failed = 0;
    uint64_t count = 0;
    uint64_t started_ns = demo_clock_ns();
    for (size_t i = 0; i < demo->corpus.count; i += UPDATE_EVERY) {
        const struct corpus_record *record = &demo->corpus.records[i];
        demo->states[i] = STATE_UPDATED;
        size_t size = expected_value(demo, i);
        failed +=
            bitkv_put(demo->db, record->key, record->key_size, demo->expected, size) != BITKV_OK;
        count++;
    }
    uint64_t time_ns = demo_clock_ns() - started_ns;
    demo_figure("updates", "%s in %s, %s", human_count(count).text, human_duration(time_ns).text,
                human_rate(count, time_ns).text);
    demo_check(failed == 0, "every update was acknowledged");
}

static void step_delete(struct demo *demo)
{
    demo_headline("Deleting one record in %d, twice", DELETE_EVERY);
    uint64_t failed = 0;
    uint64_t count = 0;
    uint64_t started_ns = demo_clock_ns();
    for (size_t i = 3; i < demo->corpus.count; i += DELETE_EVERY) {
        const struct corpus_record *record = &demo->corpus.records[i];
        failed += bitkv_del(demo->db, record->key, record->key_size) != BITKV_OK;
        demo->states[i] = STATE_DELETED;
        demo->live--;
        count++;
    }
    uint64_t time_ns = demo_clock_ns() - started_ns;
    demo_figure("deletes", "%s in %s, %s", human_count(count).text, human_duration(time_ns).text,
                human_rate(count, time_ns).text);
    demo_check(failed == 0, "every delete was acknowledged");
    uint64_t found = 0;
    for (size_t i = 3; i < demo->corpus.count; i += DELETE_EVERY) {
        const struct corpus_record *record = &demo->corpus.records[i];
        found += bitkv_del(demo->db, record->key, record->key_size) != BITKV_NOT_FOUND;
    }
    demo_check(found == 0, "the second time every one of them was gone");
    verify_all(demo);
}

static void step_misses(struct demo *demo)
{
    demo_headline("Asking for %s keys that were never there", human_count(MISSES).text);
    uint64_t found = 0;
    uint64_t started_ns = demo_clock_ns();
    for (int i = 0; i < MISSES; i++) {
        char key[64];
        size_t size = 0;
        int length =
            snprintf(key, sizeof key, "no such package %ju", (uintmax_t)rng_next(&demo->rng));
        found += bitkv_get_into(demo->db, key, (size_t)length, demo->found, demo->room, &size) !=
                 BITKV_NOT_FOUND;
    }
    uint64_t time_ns = demo_clock_ns() - started_ns;
    demo_figure("misses", "%s", human_rate(MISSES, time_ns).text);
    demo_check(found == 0, "none was found");
}

static bool reopen(struct demo *demo, const char *directory, const char *what)
{
    uint64_t started_ns = demo_clock_ns();
    int code = bitkv_open(&demo->db, directory, NULL);
    uint64_t time_ns = demo_clock_ns() - started_ns;
    if (!demo_call(code, what)) {
        return false;
    }
    bitkv_statistics statistics = {.struct_size = 0};
    bitkv_statistics_init(&statistics);
    if (!demo_call(bitkv_stats(demo->db, BITKV_ALL_PARTITIONS, &statistics), "statistics")) {
        return false;
    }
    const bitkv_recovery *recovery = &statistics.recovery;
    demo_figure(what, "%s: %s keys from checkpoints, %s records from hints, %s from the log (%s)",
                human_duration(time_ns).text, human_count(recovery->checkpoint_keys).text,
                human_count(recovery->hint_records).text, human_count(recovery->log_records).text,
                human_bytes(recovery->log_bytes).text);
    demo_check(recovery->damaged_regions == 0, "nothing was damaged");
    demo->recovery_ns = time_ns > demo->recovery_ns ? time_ns : demo->recovery_ns;
    return true;
}

static bool close_database(struct demo *demo, uint64_t *time_ns)
{
    uint64_t started_ns = demo_clock_ns();
    int code = bitkv_close(demo->db);
    demo->db = NULL;
    *time_ns = demo_clock_ns() - started_ns;
    return demo_call(code, "closing");
}

static void step_reopen(struct demo *demo)
{
    demo_headline("Closing and opening again");
    uint64_t time_ns = 0;
    if (close_database(demo, &time_ns)) {
        demo_figure("closing", "%s", human_duration(time_ns).text);
        if (reopen(demo, demo->directory, "opening")) {
            verify_all(demo);
        }
        demo->recovery_ns = 0; /* of a clean close: not what is asked */
    }
}

/* Run a writer on a database that is closed, kill it, open what it left and compare. */
static bool crash(struct demo *demo, const char *directory, unsigned number)
{
    struct crash_round round = {.corpus = &demo->corpus,
                                .directory = directory,
                                .number = number,
                                .seed = rng_next(&demo->rng)};
    bool killed = crash_round_run(&round);
    demo_check(killed && round.acknowledged_total > 0,
               "killed (SIGKILL) after %s acknowledged writes of %d threads",
               human_count(round.acknowledged_total).text, CRASH_WRITERS);
    if (!reopen(demo, directory, "recovering")) {
        return false;
    }
    bool sound = crash_round_verify(&round, demo->db);
    demo->crash_keys += round.keys_found;
    demo_check(sound, "all %s acknowledged writes are there, byte by byte",
               human_count(round.acknowledged_total).text);
    if (round.in_flight_kept > 0) {
        demo_remark("%ju of the writes that were under way had made it as well",
                    (uintmax_t)round.in_flight_kept);
    }
    return true;
}

/* Nothing but its log can tell what was in a database that was never closed. */
static void step_crash_new(struct demo *demo)
{
    demo_headline("A crash of a database that has just been made");
    char *directory = NULL;
    if (asprintf(&directory, "%s/new", demo->root) < 0) {
        demo_check(false, "out of memory");
        return;
    }
    struct demo other = *demo;
    other.db = NULL;
    other.crash_keys = 0;
    if (crash(&other, directory, 0)) {
        check_key_count(&other, other.crash_keys);
    }
    uint64_t time_ns = 0;
    if (other.db != NULL) {
        close_database(&other, &time_ns);
    }
    demo->rng = other.rng;
    demo->recovery_ns = other.recovery_ns;
    free(directory);
}

static void step_crash(struct demo *demo, unsigned number)
{
    demo_headline("Crash %u of %u: another process writes, and is killed in mid-stream", number,
                  demo->rounds);
    uint64_t time_ns = 0;
    if (close_database(demo, &time_ns) && crash(demo, demo->directory, number)) {
        verify_all(demo);
    }
}

static void step_statistics(struct demo *demo)
{
    demo_headline("What is there now");
    const struct corpus *corpus = &demo->corpus;
    const struct corpus_record *largest = &corpus->records[0];
    const struct corpus_record *smallest = &corpus->records[0];
    for (size_t i = 0; i < corpus->count; i++) {
        const struct corpus_record *record = &corpus->records[i];
        largest = record->value_size > largest->value_size ? record : largest;
        smallest = record->value_size < smallest->value_size ? record : smallest;
    }
    bitkv_statistics s = {.struct_size = 0};
    bitkv_statistics_init(&s);
    if (!demo_call(bitkv_stats(demo->db, BITKV_ALL_PARTITIONS, &s), "statistics")) {
        return;
    }
    demo_figure("live keys", "%s in %u partitions (%s from the source, %s from the crashes)",
                human_count(s.keys).text, s.partitions, human_count(demo->live).text,
                human_count(demo->crash_keys).text);
    demo_figure("largest value", "%s (%.*s)", human_bytes(largest->value_size).text,
                (int)largest->key_size, largest->key);
    demo_figure("smallest value", "%s (%.*s)", human_bytes(smallest->value_size).text,
                (int)smallest->key_size, smallest->key);
    demo_figure("average", "%.0f bytes of key and value",
                (double)corpus->record_bytes / (double)corpus->count);
    demo_figure("live data", "%s, dead %s (%.1f%%)", human_bytes(s.live_bytes).text,
                human_bytes(s.dead_bytes).text, s.fragmentation * 100);
    demo_figure("on disk", "%s: %.2f times the live data", human_bytes(s.disk_bytes).text,
                s.live_bytes > 0 ? (double)s.disk_bytes / (double)s.live_bytes : 0);
    demo_figure("memory of the KeyDir", "%s, %.1f bytes per key", human_bytes(s.keydir_bytes).text,
                s.keys > 0 ? (double)s.keydir_bytes / (double)s.keys : 0);
    demo_figure("slowest recovery", "%s", human_duration(demo->recovery_ns).text);
    demo_figure("files", "written by %s (%s)", s.io_mode == BITKV_IO_MMAP ? "mmap" : "pwrite",
                s.io_mode_reason);
    demo_directory_list(demo->directory);
}

/* ------------------------------------------------------------------ */
/* The whole                                                           */
/* ------------------------------------------------------------------ */

static bool may_go_on(const struct demo *demo)
{
    return demo->db != NULL && stop_signal == 0;
}

static void run_steps(struct demo *demo)
{
    static void (*const steps[])(struct demo *) = {
        step_load, step_lookup, step_update, step_delete, step_misses, step_reopen, step_crash_new,
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps && may_go_on(demo); i++) {
        steps[i](demo);
    }
    for (unsigned i = 1; i <= demo->rounds && may_go_on(demo); i++) {
        step_crash(demo, i);
    }
    if (may_go_on(demo)) {
        step_statistics(demo);
    }
}

static bool prepare(struct demo *demo)
{
    if (!corpus_load(&demo->corpus, demo->words)) {
        fprintf(stderr, "bitkv-demo: no data: %s\n", strerror(errno));
        return false;
    }
    demo->rng.state = demo->seed;
    demo->room = demo->corpus.value_size_max + UPDATE_BYTES_MAX;
    demo->states = calloc(demo->corpus.count, 1);
    demo->expected = malloc(demo->room);
    demo->found = malloc(demo->room * BATCH_KEYS);
    if (demo->states == NULL || demo->expected == NULL || demo->found == NULL) {
        fputs("bitkv-demo: out of memory\n", stderr);
        return false;
    }
    demo->root = demo_directory_make(demo->parent);
    if (demo->root == NULL || asprintf(&demo->directory, "%s/db", demo->root) < 0) {
        fprintf(stderr, "bitkv-demo: cannot make a directory: %s\n", strerror(errno));
        return false;
    }
    return true;
}

static void run(struct demo *demo)
{
    uint64_t started_ns = demo_clock_ns();
    printf("BitKV %s: a demonstration in %s (seed %ju)\n", bitkv_version(), demo->root,
           (uintmax_t)demo->seed);
    demo_call(bitkv_open(&demo->db, demo->directory, NULL), "opening");
    run_steps(demo);
    if (demo->db != NULL) {
        uint64_t time_ns = 0;
        close_database(demo, &time_ns);
    }
    demo_verdict(demo_clock_ns() - started_ns);
}

static void clean_up(struct demo *demo)
{
    if (demo->root != NULL) {
        if (demo->keep) {
            printf("The database is in %s.\n", demo->directory);
        } else if (!demo_directory_remove(demo->root)) {
            fprintf(stderr, "bitkv-demo: cannot remove %s: %s\n", demo->root, strerror(errno));
        }
    }
    free(demo->root);
    free(demo->directory);
    free(demo->states);
    free(demo->expected);
    free(demo->found);
    corpus_destroy(&demo->corpus);
}

static const char help_text[] =
    "Usage: bitkv-demo [OPTION]...\n\n"
    "Puts real records through the life of a database and compares all that comes back.\n\n"
    "  -k, --keep           leave the database behind and say where it is\n"
    "  -d, --directory DIR  work below DIR (default: $TMPDIR, or /tmp)\n"
    "  -r, --rounds N       crashes to survive (default: 4)\n"
    "  -s, --seed N         repeat the choices of an earlier run\n"
    "  -w, --words          use the word list rather than the package lists\n"
    "  -h, --help           show this help and exit\n\n"
    "Exit status: 0 if all checks passed, 1 if one did not, 2 for wrong usage.\n";

/* Returns -1 to go on, else the exit status. */
static int parse_options(struct demo *demo, int argc, char **argv)
{
    static const struct option options[] = {{"keep", no_argument, NULL, 'k'},
                                            {"directory", required_argument, NULL, 'd'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {"seed", required_argument, NULL, 's'},
                                            {"words", no_argument, NULL, 'w'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int c = 0;
    while ((c = getopt_long(argc, argv, "kd:r:s:wh", options, NULL)) != -1) {
        switch (c) {
        case 'k':
            demo->keep = true;
            break;
        case 'd':
            demo->parent = optarg;
            break;
        case 'r':
            demo->rounds = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 's':
            demo->seed = strtoull(optarg, NULL, 10);
            break;
        case 'w':
            demo->words = true;
            break;
        case 'h':
            fputs(help_text, stdout);
            return EXIT_SUCCESS;
        default:
            fputs(help_text, stderr);
            return 2;
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], CRASH_WRITER_ARGUMENT) == 0) {
        return crash_writer_main(argc, argv);
    }
    struct demo demo = {
        .rounds = ROUNDS_DEFAULT, .seed = demo_clock_ns() % 1000000, .corpus.fd = -1};
    int status = parse_options(&demo, argc, argv);
    if (status >= 0) {
        return status;
    }
    /* Ctrl-C between steps, so that the directory is removed. */
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    demo_report_init();
    bool prepared = prepare(&demo);
    if (prepared) {
        run(&demo);
    }
    clean_up(&demo);
    if (stop_signal != 0) {
        raise(stop_signal);
    }
    return prepared && !demo_has_failed() ? EXIT_SUCCESS : EXIT_FAILURE;
}
