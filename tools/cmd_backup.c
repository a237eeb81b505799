/* SPDX-License-Identifier: MIT */
/*
 * bitkv backup and repartition: long calls with a progress bar, which an interrupt cancels, so that
 * nothing is left half done.
 */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>

static int take_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *progress = user;
    progress->bytes_total = total_bytes;
    progress_update(progress, done_bytes, 0);
    return interrupted();
}

/* After an interrupt main() ends the process by its signal, which says enough. */
static int report_result(const struct settings *settings, const char *subject, int code)
{
    if (code == BITKV_OK) {
        return EXIT_STATUS_OK;
    }
    if (code == BITKV_ERR_CANCELED && interrupted()) {
        return EXIT_STATUS_FAILURE;
    }
    return report_library(settings->command, subject, code);
}

/* ------------------------------------------------------------------ */
/* backup                                                              */
/* ------------------------------------------------------------------ */

static int print_report(const struct settings *settings, const bitkv_backup_report *report)
{
    if (settings->json) {
        return output_json(settings, json_pack("{s:I, s:I, s:I, s:I, s:I}", "files_linked",
                                               (json_int_t)report->files_linked, "files_copied",
                                               (json_int_t)report->files_copied, "bytes_linked",
                                               (json_int_t)report->bytes_linked, "bytes_copied",
                                               (json_int_t)report->bytes_copied, "duration_ns",
                                               (json_int_t)report->duration_ns));
    }
    if (!settings->quiet) {
        printf("%s files linked (%s), %s copied (%s), in %s\n",
               human_count(report->files_linked).text, human_bytes(report->bytes_linked).text,
               human_count(report->files_copied).text, human_bytes(report->bytes_copied).text,
               human_duration(report->duration_ns).text);
    }
    return output_finish(settings->command, EXIT_STATUS_OK);
}

static int back_up(const struct settings *settings, bitkv *db, bitkv_backup_report *report)
{
    struct progress progress;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.verify = settings->verify;
    options.no_links = settings->no_links;
    options.progress = take_progress;
    options.user = &progress;
    options.report = report;
    interrupt_catch();
    progress_begin(&progress, "backing up", 0, !settings->quiet);
    int code = bitkv_backup(db, settings->arguments[0], &options);
    progress_end(&progress);
    return report_result(settings, settings->arguments[0], code);
}

int command_backup(const struct settings *settings)
{
    bitkv *db = NULL;
    bitkv_backup_report report = {.files_linked = 0};
    int status = database_open(&db, settings);
    if (status == EXIT_STATUS_OK) {
        status = database_close(db, settings, back_up(settings, db, &report));
    }
    return status == EXIT_STATUS_OK ? print_report(settings, &report) : status;
}

/* ------------------------------------------------------------------ */
/* repartition                                                         */
/* ------------------------------------------------------------------ */

static bool parse_count(const char *text, uint32_t *count)
{
    char *end = NULL;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    *count = (uint32_t)number;
    return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' && number > 0 &&
           number <= BITKV_PARTITIONS_MAX;
}

int command_repartition(const struct settings *settings)
{
    uint32_t count = 0;
    if (!parse_count(settings->arguments[0], &count)) {
        return report_usage(settings->command, "N: '%s' is not a number from 1 to %u",
                            settings->arguments[0], BITKV_PARTITIONS_MAX);
    }
    struct progress progress;
    bitkv_repartition_options options;
    bitkv_repartition_options_init(&options);
    options.max_file_size = settings->max_file_size;
    options.io_mode = (bitkv_io_mode)settings->io_mode;
    options.progress = take_progress;
    options.user = &progress;
    interrupt_catch();
    uint64_t started_ns = progress_clock_ns();
    progress_begin(&progress, "repartitioning", 0, !settings->quiet);
    int code = bitkv_repartition(settings->directory, count, &options);
    progress_end(&progress);
    int status = report_result(settings, settings->directory, code);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    if (settings->json) {
        return output_json(settings, json_pack("{s:I}", "partitions", (json_int_t)count));
    }
    if (!settings->quiet) {
        printf("%u partition%s, in %s\n", count, count == 1 ? "" : "s",
               human_duration(progress_clock_ns() - started_ns).text);
    }
    return output_finish(settings->command, EXIT_STATUS_OK);
}
