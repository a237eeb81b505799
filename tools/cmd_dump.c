/* SPDX-License-Identifier: MIT */
/*
 * bitkv dump, scan and count: all live records, or those under a prefix. A record that expires has
 * its deadline beside the value, as a moment and not as a time that is left: so that it is the same
 * whenever the dump is loaded.
 */
#include "command.h"
#include "database.h"
#include "interrupt.h"
#include "loader.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the callback returns to stop a scan: neither success nor an error of the library. */
#define STOP_SCAN 1000

struct dump {
    const struct settings *settings;
    struct output output;
    struct progress progress;
    char *prefix;
    size_t prefix_size;
    bool is_jsonl;
    uint64_t records;
    uint64_t bytes;
};

static bool has_prefix(const struct dump *dump, const bitkv_record *record)
{
    return record->key_size >= dump->prefix_size &&
           (dump->prefix_size == 0 || memcmp(record->key, dump->prefix, dump->prefix_size) == 0);
}

static void write_jsonl(FILE *stream, const bitkv_record *record, bool keys_only)
{
    fputc_unlocked('{', stream);
    output_json_member(stream, "key", record->key, record->key_size);
    if (!keys_only) {
        if (record->deadline_ms != UINT64_MAX) {
            fprintf(stream, ",\"" LOADER_DEADLINE_FIELD "\":%" PRIu64, record->deadline_ms);
        }
        fputc_unlocked(',', stream);
        output_json_member(stream, "value", record->value, record->value_size);
    }
    fputs_unlocked("}\n", stream);
}

static void write_tsv(FILE *stream, const bitkv_record *record, enum coding coding, bool keys_only)
{
    coding_write(stream, coding, record->key, record->key_size);
    if (!keys_only) {
        fputc_unlocked('\t', stream);
        coding_write(stream, coding, record->value, record->value_size);
        if (record->deadline_ms != UINT64_MAX) {
            fprintf(stream, "\t" LOADER_DEADLINE_COLUMN "%" PRIu64, record->deadline_ms);
        }
    }
    fputc_unlocked('\n', stream);
}

static int dump_record(void *user, const bitkv_record *record)
{
    struct dump *dump = user;
    if (!has_prefix(dump, record)) {
        return 0;
    }
    bool keys_only = dump->settings->keys_only;
    if (dump->is_jsonl) {
        write_jsonl(dump->output.stream, record, keys_only);
    } else {
        enum coding coding = dump->settings->coding;
        write_tsv(dump->output.stream, record, coding == CODING_NONE ? CODING_ESCAPE : coding,
                  keys_only);
    }
    dump->records++;
    dump->bytes += record->key_size + (keys_only ? 0 : record->value_size);
    progress_update(&dump->progress, dump->bytes, dump->records);
    bool enough = dump->records == dump->settings->limit;
    return enough || output_failed(&dump->output) || interrupted() ? STOP_SCAN : 0;
}

static int count_record(void *user, const bitkv_record *record)
{
    struct dump *dump = user;
    dump->records += has_prefix(dump, record);
    return interrupted() ? STOP_SCAN : 0;
}

/* The prefix, decoded like a key; to be released by the caller whatever is returned. */
static int decode_prefix(struct dump *dump)
{
    const struct settings *settings = dump->settings;
    if (settings->prefix == NULL) {
        return EXIT_STATUS_OK;
    }
    dump->prefix = strdup(settings->prefix);
    if (dump->prefix == NULL) {
        return report_error(settings->command, "out of memory");
    }
    dump->prefix_size = strlen(dump->prefix);
    struct coding_error error;
    if (!coding_decode(settings->coding, dump->prefix, &dump->prefix_size, &error)) {
        free(dump->prefix);
        dump->prefix = NULL;
        return report_usage(settings->command, "--prefix: character %zu: %s", error.offset + 1,
                            error.message);
    }
    return EXIT_STATUS_OK;
}

static int scan(struct dump *dump, bitkv *db, unsigned flags, bitkv_scan_cb callback)
{
    int code = bitkv_scan(db, flags, callback, dump);
    progress_end(&dump->progress);
    if (code == BITKV_OK || code == STOP_SCAN) {
        return EXIT_STATUS_OK;
    }
    return report_library(dump->settings->command, dump->settings->directory, code);
}

static int statistics_of(bitkv *db, const struct settings *settings, bitkv_statistics *statistics)
{
    *statistics = (bitkv_statistics){.struct_size = 0};
    bitkv_statistics_init(statistics);
    int code = bitkv_stats(db, BITKV_ALL_PARTITIONS, statistics);
    return code == BITKV_OK ? EXIT_STATUS_OK
                            : report_library(settings->command, settings->directory, code);
}

static int dump_to(struct dump *dump, bitkv *db)
{
    const struct settings *settings = dump->settings;
    bitkv_statistics statistics;
    int status = statistics_of(db, settings, &statistics);
    if (status == EXIT_STATUS_OK) {
        status = output_open(&dump->output, settings, settings->output);
    }
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    /* A bar would be drawn into what a terminal shows. */
    bool bar = !settings->quiet && isatty(fileno(dump->output.stream)) != 1;
    bool all_bytes = !settings->keys_only && dump->prefix_size == 0 && settings->limit == 0;
    interrupt_catch();
    progress_begin(&dump->progress, "dumping", all_bytes ? statistics.live_bytes : 0, bar);
    status = scan(dump, db, settings->keys_only ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL, dump_record);
    /* What could be read is worth keeping beside the error; of an interrupted dump nothing is. */
    int closing = output_close(&dump->output, settings, !interrupted());
    return status != EXIT_STATUS_OK ? status : closing;
}

int command_dump(const struct settings *settings)
{
    struct dump dump = {.settings = settings, .is_jsonl = settings->json};
    if (settings->format != NULL) {
        dump.is_jsonl = strcmp(settings->format, "jsonl") == 0;
        if (!dump.is_jsonl && strcmp(settings->format, "tsv") != 0) {
            return report_usage(settings->command, "--format: '%s' is not tsv or jsonl",
                                settings->format);
        }
    }
    bitkv *db = NULL;
    int status = decode_prefix(&dump);
    if (status == EXIT_STATUS_OK) {
        status = database_open(&db, settings);
    }
    if (status == EXIT_STATUS_OK) {
        status = database_close(db, settings, dump_to(&dump, db));
    }
    free(dump.prefix);
    return status;
}

int command_count(const struct settings *settings)
{
    struct dump dump = {.settings = settings};
    bitkv *db = NULL;
    int status = decode_prefix(&dump);
    if (status == EXIT_STATUS_OK) {
        status = database_open(&db, settings);
    }
    if (status == EXIT_STATUS_OK) {
        interrupt_catch();
        status = scan(&dump, db, BITKV_SCAN_KEYS, count_record); /* the KeyDir has expired ones */
        status = database_close(db, settings, status);
    }
    free(dump.prefix);
    if (status != EXIT_STATUS_OK || interrupted()) {
        return status;
    }
    if (settings->json) {
        return output_json(settings, json_pack("{s:I}", "keys", (json_int_t)dump.records));
    }
    struct output output;
    status = output_open(&output, settings, NULL);
    if (status == EXIT_STATUS_OK) {
        fprintf(output.stream, "%ju\n", (uintmax_t)dump.records);
        status = output_close(&output, settings, true);
    }
    return status;
}
