/* SPDX-License-Identifier: MIT */
/*
 * bitkv get, exists and del: one key or many.
 *
 * With one key the result stands alone: the bare value, "yes" or "no". With several, each line says
 * which key it is of. All keys are tried, whatever becomes of the others, unless the database takes
 * no more deletions.
 */
#include "command.h"
#include "database.h"
#include "keys.h"
#include "output.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    /* Keys per bitkv_multi_get(): enough for its pipeline, few enough for large values. */
    BATCH_KEYS = 32,
};

struct run {
    const struct settings *settings;
    bitkv *db;
    struct output output;
    bool several;
    size_t result_count;
    int status;
    bool stopped; /* the database takes no more: nor will it take the next key */
};

/* A failure outweighs an absent key, and the first failure counts. */
static void note_status(struct run *run, int status)
{
    if (run->status == EXIT_STATUS_OK ||
        (run->status == EXIT_STATUS_NOT_FOUND && status != EXIT_STATUS_OK)) {
        run->status = status;
    }
}

static void note_absent(struct run *run, const struct key *key, bool tell)
{
    note_status(run, EXIT_STATUS_NOT_FOUND);
    if (tell && !run->settings->quiet && !run->settings->json) {
        struct report_text quoted;
        report_error(run->settings->command, "%s: not found",
                     report_quote(&quoted, key->data, key->size));
    }
}

static void note_failure(struct run *run, const struct key *key, int code)
{
    struct report_text quoted;
    char subject[512];
    snprintf(subject, sizeof subject, "%s: %s", run->settings->directory,
             report_quote(&quoted, key->data, key->size));
    note_status(run, report_library(run->settings->command, subject, code));
}

/* Begin a result: in JSON an object with the key, else the key where there are several. */
static void begin_result(struct run *run, const struct key *key)
{
    FILE *stream = run->output.stream;
    if (run->settings->json) {
        fputs(!run->several ? "{" : run->result_count == 0 ? "[{" : ",\n {", stream);
        output_json_member(stream, "key", key->data, key->size);
    } else if (run->several) {
        enum coding coding = run->settings->coding;
        coding_write(stream, coding == CODING_NONE ? CODING_ESCAPE : coding, key->data, key->size);
        fputc('\t', stream);
    }
    run->result_count++;
}

static void write_flag(struct run *run, const struct key *key, const char *name, bool flag)
{
    const struct settings *settings = run->settings;
    if (settings->json) {
        begin_result(run, key);
        fprintf(run->output.stream, ",\"%s\":%s}", name, flag ? "true" : "false");
    } else if (!settings->quiet) {
        begin_result(run, key);
        fputs(flag ? "yes\n" : "no\n", run->output.stream);
    }
}

static void write_value(struct run *run, const struct key *key, const void *value, size_t size)
{
    const struct settings *settings = run->settings;
    FILE *stream = run->output.stream;
    if (settings->json) {
        begin_result(run, key);
        fputs(",\"found\":true,", stream);
        output_json_member(stream, "value", value, size);
        fputc('}', stream);
        return;
    }
    enum coding coding = settings->raw ? CODING_NONE : settings->coding;
    bool newline = settings->newline || isatty(fileno(stream)) == 1;
    if (run->several && !settings->raw) {
        begin_result(run, key);
        coding = coding == CODING_NONE ? CODING_ESCAPE : coding;
        newline = true;
    }
    coding_write(stream, coding, value, size);
    if (newline) {
        fputc('\n', stream);
    }
}

static void handle_got(struct run *run, const struct key *key, int code, const void *value,
                       size_t size)
{
    if (code == BITKV_OK) {
        write_value(run, key, value, size);
    } else if (code == BITKV_NOT_FOUND) {
        note_absent(run, key, true);
        if (run->settings->json) {
            begin_result(run, key);
            fputs(",\"found\":false}", run->output.stream);
        }
    } else {
        note_failure(run, key, code);
    }
}

/* One key: its value is written from where it lies. */
static void get_one(struct run *run, const struct key *key)
{
    bitkv_view view;
    int code = bitkv_get_view(run->db, key->data, key->size, &view);
    handle_got(run, key, code, code == BITKV_OK ? view.data : NULL,
               code == BITKV_OK ? view.size : 0);
    if (code == BITKV_OK) {
        bitkv_view_release(&view);
    }
}

static void get_batch(struct run *run, const struct key *keys, size_t count)
{
    if (count == 1) {
        get_one(run, &keys[0]);
        return;
    }
    bitkv_get_item items[BATCH_KEYS];
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < count; i++) {
        items[i].key = keys[i].data;
        items[i].key_size = keys[i].size;
    }
    /* Each item has its own status; the context of a failure is that of the last one. */
    bitkv_multi_get(run->db, items, count);
    for (size_t i = 0; i < count; i++) {
        if (!output_failed(&run->output)) {
            handle_got(run, &keys[i], items[i].status, items[i].value, items[i].value_size);
        }
        bitkv_free(items[i].value);
    }
}

static void exists_batch(struct run *run, const struct key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int code = bitkv_exists(run->db, keys[i].data, keys[i].size);
        if (code != BITKV_OK && code != BITKV_NOT_FOUND) {
            note_failure(run, &keys[i], code);
            continue;
        }
        if (code == BITKV_NOT_FOUND) {
            note_absent(run, &keys[i], false);
        }
        write_flag(run, &keys[i], "exists", code == BITKV_OK);
    }
}

static void del_batch(struct run *run, const struct key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int code = bitkv_del(run->db, keys[i].data, keys[i].size);
        if (code != BITKV_OK && code != BITKV_NOT_FOUND) {
            note_failure(run, &keys[i], code);
            run->stopped = code != BITKV_ERR_INVALID;
            if (run->stopped) {
                return;
            }
            continue;
        }
        if (code == BITKV_NOT_FOUND) {
            note_absent(run, &keys[i], true);
        }
        if (run->settings->json) {
            write_flag(run, &keys[i], "deleted", code == BITKV_OK);
        }
    }
}

typedef void (*batch_handler)(struct run *run, const struct key *keys, size_t count);

static void run_batches(struct run *run, struct key_source *source, batch_handler handle)
{
    bool more = true;
    while (more && !run->stopped && !output_failed(&run->output)) {
        struct key keys[BATCH_KEYS];
        size_t count = 0;
        while (more && count < BATCH_KEYS) {
            int status = key_source_next(source, &keys[count], &more);
            if (status != EXIT_STATUS_OK) {
                note_status(run, status);
                more = false;
            } else if (more) {
                count++;
            }
        }
        if (count > 0) {
            handle(run, keys, count);
        }
        while (count > 0) {
            free(keys[--count].data);
        }
    }
}

static int run_command(const struct settings *settings, batch_handler handle)
{
    struct run run = {.settings = settings, .several = key_source_is_several(settings)};
    struct key_source source;
    int status = key_source_open(&source, settings);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    status = database_open(&run.db, settings);
    if (status != EXIT_STATUS_OK) {
        goto err_after_source;
    }
    status = output_open(&run.output, settings, settings->output);
    if (status != EXIT_STATUS_OK) {
        goto err_after_open;
    }
    run_batches(&run, &source, handle);
    if (settings->json && run.several) {
        fputs(run.result_count > 0 ? "]" : "[]", run.output.stream);
    }
    if (settings->json && (run.several || run.result_count > 0)) {
        fputc('\n', run.output.stream);
    }
    /* --output: no file rather than an incomplete one. */
    status = output_close(&run.output, settings, run.status == EXIT_STATUS_OK || run.several);
    note_status(&run, status);
    status = run.status;

err_after_open:
    status = database_close(run.db, settings, status);
err_after_source:
    key_source_close(&source);
    return status;
}

int command_get(const struct settings *settings)
{
    return run_command(settings, get_batch);
}

int command_exists(const struct settings *settings)
{
    return run_command(settings, exists_batch);
}

int command_del(const struct settings *settings)
{
    return run_command(settings, del_batch);
}
