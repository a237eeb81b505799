/* SPDX-License-Identifier: MIT */
/*
 * bitkv check: verify every record of every file, tell what is wrong and where. And restore-check:
 * then open it and read every record, as somebody will who needs the backup.
 *
 * The one file of the tool that looks below the public interface: the inspector reads the files
 * without opening the database, so that it can look at one that does not open.
 */
#include "command.h"
#include "figures.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include "log/inspect.h"

struct check {
    const struct settings *settings;
    struct output output;
    struct progress progress;
    json_t *findings;  /* NULL: they are printed as they come */
    uint64_t count[3]; /* by severity */

    /* of restore-check */
    bool opens_too;
    bitkv_statistics statistics;
    uint64_t keys, bytes;
};

static const char *const severity_names[] = {"info", "warning", "error"};

static void take_finding(void *user, enum bkv_inspect_severity severity, const char *file,
                         uint64_t offset, uint64_t length, const char *message)
{
    struct check *check = user;
    size_t level = (size_t)severity < 3 ? (size_t)severity : 2;
    check->count[level]++;
    if (check->findings != NULL) {
        json_array_append_new(check->findings,
                              json_pack("{s:s, s:o, s:I, s:I, s:o}", "severity",
                                        severity_names[level], "file", output_json_text(file),
                                        "offset", (json_int_t)offset, "length", (json_int_t)length,
                                        "message", output_json_text(message)));
        return;
    }
    if (level == 0 && !check->settings->verbose) {
        return;
    }
    progress_hide();
    fprintf(check->output.stream, "%s: %s: offset %ju, %ju bytes: %s\n", severity_names[level],
            file, (uintmax_t)offset, (uintmax_t)length, message);
}

static void take_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    struct check *check = user;
    check->progress.bytes_total = bytes_total;
    progress_update(&check->progress, bytes_done, 0);
}

/* ------------------------------------------------------------------ */
/* Opening it                                                          */
/* ------------------------------------------------------------------ */

static int take_record(void *user, const bitkv_record *record)
{
    struct check *check = user;
    check->keys++;
    check->bytes += record->key_size + record->value_size;
    progress_update(&check->progress, check->bytes, check->keys);
    return 0;
}

static int read_all(struct check *check)
{
    const struct settings *settings = check->settings;
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    options.strict_recovery = true;
    bitkv *db = NULL;
    int code = bitkv_open(&db, settings->directory, &options);
    if (code == BITKV_OK) {
        bitkv_statistics_init(&check->statistics);
        code = bitkv_stats(db, BITKV_ALL_PARTITIONS, &check->statistics);
    }
    if (code == BITKV_OK) {
        progress_begin(&check->progress, "reading", check->statistics.live_bytes, !settings->quiet);
        code = bitkv_scan(db, BITKV_SCAN_ALL, take_record, check);
        progress_end(&check->progress);
    }
    if (code != BITKV_OK) {
        report_library(settings->command, settings->directory, code);
    }
    bitkv_close(db);
    return code;
}

static void add_reading(const struct check *check, json_t *document)
{
    json_object_set_new(document, "keys", json_integer((json_int_t)check->keys));
    json_object_set_new(document, "key_and_value_bytes", json_integer((json_int_t)check->bytes));
    json_object_set_new(document, "partitions", json_integer(check->statistics.partitions));
}

/* ------------------------------------------------------------------ */
/* Results                                                             */
/* ------------------------------------------------------------------ */

static int print_json(const struct check *check, const struct bkv_inspect_result *result)
{
    json_t *document =
        json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "sound",
                  check->count[2] == 0, "records", (json_int_t)result->records, "tombstones",
                  (json_int_t)result->tombstones, "marks", (json_int_t)result->marks, "bytes",
                  (json_int_t)result->bytes, "segments", (json_int_t)result->segments, "hints",
                  (json_int_t)result->hints, "checkpoints", (json_int_t)result->checkpoints,
                  "errors", (json_int_t)check->count[2], "warnings", (json_int_t)check->count[1],
                  "notes", (json_int_t)check->count[0], "findings", check->findings);
    if (check->opens_too && check->count[2] == 0) {
        add_reading(check, document);
    }
    return output_json(check->settings, document);
}

/* "1 data file", "2 data files". */
struct counted {
    char text[64];
};

static struct counted counted(uint64_t count, const char *noun)
{
    struct counted counted;
    snprintf(counted.text, sizeof counted.text, "%s %s%s", human_count(count).text, noun,
             count == 1 ? "" : "s");
    return counted;
}

static int print_summary(struct check *check, const struct bkv_inspect_result *result,
                         uint64_t time_ns)
{
    if (!check->settings->quiet) {
        fprintf(check->output.stream, "%s and %s in %s verified (%s, %s), with %s and %s\n",
                counted(result->records, "record").text,
                counted(result->tombstones, "tombstone").text,
                counted(result->segments, "data file").text, human_bytes(result->bytes).text,
                human_duration(time_ns).text, counted(result->hints, "hint file").text,
                counted(result->checkpoints, "checkpoint").text);
        if (check->count[2] + check->count[1] == 0) {
            fputs("no damage\n", check->output.stream);
        } else {
            fprintf(check->output.stream, "%s, %s\n", counted(check->count[2], "error").text,
                    counted(check->count[1], "warning").text);
        }
        if (check->opens_too && check->count[2] == 0) {
            fprintf(check->output.stream, "opens with %s in %s, %s of keys and values\n",
                    counted(check->keys, "key").text,
                    counted(check->statistics.partitions, "partition").text,
                    human_bytes(check->bytes).text);
        }
    }
    return output_close(&check->output, check->settings, true);
}

static int run(const struct settings *settings, bool opens_too)
{
    struct check check = {.settings = settings, .opens_too = opens_too};
    int status = output_open(&check.output, settings, NULL);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    if (settings->json) {
        check.findings = json_array();
    }
    struct bkv_inspect_result result = {.records = 0};
    struct bkv_inspect_options options = {
        .on_finding = take_finding,
        .on_progress = take_progress,
        .user = &check,
        .result = &result,
    };
    uint64_t started_ns = progress_clock_ns();
    progress_begin(&check.progress, "checking", 0, !settings->quiet);
    int code = bkv_inspect(settings->directory, &options);
    progress_end(&check.progress);
    if (code == BITKV_OK && opens_too) {
        code = read_all(&check);
        check.count[2] += code != BITKV_OK;
        if (code != BITKV_OK && code != BITKV_ERR_CORRUPT) { /* was told already */
            output_close(&check.output, settings, true);
            json_decref(check.findings);
            return EXIT_STATUS_FAILURE;
        }
    }
    if (code != BITKV_OK && code != BITKV_ERR_CORRUPT) {
        output_close(&check.output, settings, true);
        json_decref(check.findings);
        return report_library(settings->command, settings->directory, code);
    }
    status = settings->json ? print_json(&check, &result)
                            : print_summary(&check, &result, progress_clock_ns() - started_ns);
    json_decref(check.findings);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    return code == BITKV_ERR_CORRUPT || check.count[2] > 0 ? EXIT_STATUS_DAMAGE : EXIT_STATUS_OK;
}

int command_check(const struct settings *settings)
{
    return run(settings, false);
}

int command_restore_check(const struct settings *settings)
{
    return run(settings, true);
}
