/* SPDX-License-Identifier: MIT */
/* bitkv load: records from files or standard input, streamed. */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "interrupt.h"
#include "loader.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct load {
    const struct settings *settings;
    bitkv *db;
    struct progress progress;
    uint64_t records;
    uint64_t record_bytes; /* of keys and values */
    uint64_t bad;
    uint64_t expired;     /* not stored, since their deadline has passed */
    uint64_t input_bytes; /* of the files before the one being read */
    bool stopped;         /* before the end */
};

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until its deadline, which is still to come. */
static int put_until(struct load *load, const struct loader *loader, uint64_t now_ms)
{
    uint64_t ttl_ms = loader->deadline_ms - now_ms;
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    options.ttl_ms = ttl_ms < BITKV_TTL_MAX ? ttl_ms : BITKV_TTL_MAX;
    return bitkv_put_if(load->db, loader->key, loader->key_size, loader->value, loader->value_size,
                        &options, NULL);
}

static int put_record(struct load *load, const struct loader *loader, const char *name)
{
    int code = BITKV_OK;
    if (loader->deadline_ms == UINT64_MAX) {
        code =
            bitkv_put(load->db, loader->key, loader->key_size, loader->value, loader->value_size);
    } else {
        uint64_t now_ms = clock_ms();
        bool expired = loader->deadline_ms <= now_ms;
        load->expired += expired;
        /* It would have replaced an older value, and is gone itself. */
        code = expired ? bitkv_del(load->db, loader->key, loader->key_size)
                       : put_until(load, loader, now_ms);
        if (expired && (code == BITKV_OK || code == BITKV_NOT_FOUND)) {
            return EXIT_STATUS_OK;
        }
    }
    if (code == BITKV_OK) {
        load->records++;
        load->record_bytes += loader->key_size + loader->value_size;
        return EXIT_STATUS_OK;
    }
    report_library(load->settings->command, load->settings->directory, code);
    return report_error(load->settings->command, "%s:%ju: not stored", name,
                        (uintmax_t)loader->line);
}

static int take_bad(struct load *load, const struct loader *loader, const char *name)
{
    load->bad++;
    report_error(load->settings->command, "%s:%ju: %s", name, (uintmax_t)loader->problem_line,
                 loader->problem);
    if (load->settings->skip_bad) {
        return EXIT_STATUS_OK;
    }
    report_hint("--skip-bad goes on behind malformed records");
    return EXIT_STATUS_FAILURE;
}

static int load_records(struct load *load, struct loader *loader, const char *name)
{
    while (!interrupted()) {
        int status = EXIT_STATUS_OK;
        switch (loader_next(loader)) {
        case LOADER_END:
            return EXIT_STATUS_OK;
        case LOADER_RECORD:
            status = put_record(load, loader, name);
            break;
        case LOADER_BAD:
            status = take_bad(load, loader, name);
            break;
        case LOADER_FAILED:
            if (interrupted()) {
                break;
            }
            status = report_error(load->settings->command, "%s:%ju: %s", name,
                                  (uintmax_t)loader->reader.line + 1,
                                  errno == EFBIG ? "longer than any record" : strerror(errno));
            break;
        }
        if (status != EXIT_STATUS_OK) {
            return status;
        }
        progress_update(&load->progress, load->input_bytes + loader->reader.bytes, load->records);
    }
    return EXIT_STATUS_OK;
}

static int load_file(struct load *load, const char *path)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return report_error(load->settings->command, "%s: %s", name, strerror(errno));
    }
    struct loader loader;
    int status = loader_init(&loader, load->settings, fd, name);
    if (status == EXIT_STATUS_OK) {
        status = load_records(load, &loader, name);
        load->input_bytes += loader.reader.bytes;
        loader_destroy(&loader);
    }
    if (!is_stdin) {
        close(fd);
    }
    return status;
}

/* Bytes that will be read; 0 if a file is none whose size is known. */
static uint64_t total_size(const struct settings *settings)
{
    uint64_t total = 0;
    struct stat status;
    if (settings->argument_count == 0) {
        bool known = fstat(STDIN_FILENO, &status) == 0 && S_ISREG(status.st_mode);
        return known ? (uint64_t)status.st_size : 0;
    }
    for (int i = 0; i < settings->argument_count; i++) {
        if (stat(settings->arguments[i], &status) != 0 || !S_ISREG(status.st_mode)) {
            return 0;
        }
        total += (uint64_t)status.st_size;
    }
    return total;
}

static uint64_t count_keys(bitkv *db)
{
    bitkv_statistics statistics = {.struct_size = 0};
    bitkv_statistics_init(&statistics);
    return bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics) == BITKV_OK ? statistics.keys : 0;
}

static int summarize(const struct load *load, uint64_t keys, uint64_t keys_before, uint64_t time_ns)
{
    const struct settings *settings = load->settings;
    if (settings->json) {
        return output_json(settings,
                           json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b}", "records",
                                     (json_int_t)load->records, "record_bytes",
                                     (json_int_t)load->record_bytes, "input_bytes",
                                     (json_int_t)load->input_bytes, "bad", (json_int_t)load->bad,
                                     "expired", (json_int_t)load->expired, "keys_before",
                                     (json_int_t)keys_before, "keys", (json_int_t)keys, "seconds",
                                     (double)time_ns / 1e9, "complete", !load->stopped));
    }
    if (settings->quiet && !load->stopped) {
        return EXIT_STATUS_OK;
    }
    /* Standard output is for results; of a load that stopped, the figures belong to the error. */
    FILE *stream = load->stopped ? stderr : stdout;
    double seconds = (double)time_ns / 1e9;
    fprintf(stream, "%s%s records loaded (%s) in %s, %s, %.1f MB/s; ",
            load->stopped ? "bitkv: load: stopped: " : "", human_count(load->records).text,
            human_bytes(load->record_bytes).text, human_duration(time_ns).text,
            human_rate(load->records, time_ns).text,
            seconds > 0 ? (double)load->input_bytes / seconds / 1e6 : 0);
    if (load->bad > 0) {
        fprintf(stream, "%s malformed; ", human_count(load->bad).text);
    }
    if (load->expired > 0) {
        fprintf(stream, "%s expired, left out; ", human_count(load->expired).text);
    }
    fprintf(stream, "%s keys, %s before\n", human_count(keys).text, human_count(keys_before).text);
    return load->stopped ? EXIT_STATUS_OK : output_finish(settings->command, EXIT_STATUS_OK);
}

/* Before the first record is stored, so that a typing error does not leave half a load. */
static int check_files(const struct settings *settings)
{
    for (int i = 0; i < settings->argument_count; i++) {
        const char *path = settings->arguments[i];
        if (strcmp(path, "-") != 0 && access(path, R_OK) != 0) {
            return report_error(settings->command, "%s: %s", path, strerror(errno));
        }
    }
    return EXIT_STATUS_OK;
}

static int check_settings(const struct settings *settings)
{
    if (settings->format != NULL && loader_format_find(settings->format) == NULL) {
        return report_usage(settings->command, "--format: '%s' is not tsv, jsonl or deb822",
                            settings->format);
    }
    if (settings->key_field != NULL && settings->key_template != NULL) {
        return report_usage(settings->command, "both --key-field and --key-template");
    }
    if (settings->value_field != NULL && settings->whole) {
        return report_usage(settings->command, "both --value-field and --whole");
    }
    if (settings->key_template != NULL) {
        /* Now rather than with the first file, and before a database is made. */
        struct template template;
        const char *problem = template_parse(&template, settings->key_template);
        template_destroy(&template);
        if (problem != NULL) {
            return report_usage(settings->command, "--key-template: %s", problem);
        }
    }
    return check_files(settings);
}

int command_load(const struct settings *settings)
{
    struct load load = {.settings = settings};
    int status = check_settings(settings);
    if (status == EXIT_STATUS_OK) {
        status = database_open(&load.db, settings);
    }
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    interrupt_catch();
    uint64_t keys_before = count_keys(load.db);
    uint64_t started_ns = progress_clock_ns();
    progress_begin(&load.progress, "loading", total_size(settings), !settings->quiet);
    if (settings->argument_count == 0) {
        status = load_file(&load, "-");
    }
    for (int i = 0; i < settings->argument_count && status == EXIT_STATUS_OK; i++) {
        status = load_file(&load, settings->arguments[i]);
    }
    progress_end(&load.progress);
    load.stopped = status != EXIT_STATUS_OK || interrupted();
    uint64_t time_ns = progress_clock_ns() - started_ns;
    uint64_t keys = count_keys(load.db);
    status = database_close(load.db, settings, status);
    load.stopped |= status != EXIT_STATUS_OK;
    int summary_status = summarize(&load, keys, keys_before, time_ns);
    return status != EXIT_STATUS_OK ? status : summary_status;
}
