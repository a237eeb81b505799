/* SPDX-License-Identifier: MIT */
#include "database.h"

#include "command.h"
#include "report.h"

int database_open(bitkv **db, const struct settings *settings)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = settings->partitions;
    options.create_if_missing = settings->create;
    options.read_only = !settings->command->writes && !settings->repair;
    options.sync_on_write = settings->sync;
    options.io_mode = (bitkv_io_mode)settings->io_mode;
    if (settings->max_file_size != 0) {
        options.max_file_size = settings->max_file_size;
    }
    if (!settings->quiet) {
        options.log = report_log;
        /* report_log() only reads it. */
        options.log_user = (void *)(uintptr_t)settings;
    }
    int code = bitkv_open(db, settings->directory, &options);
    return code == BITKV_OK ? EXIT_STATUS_OK
                            : report_library(settings->command, settings->directory, code);
}

int database_close(bitkv *db, const struct settings *settings, int status)
{
    int code = bitkv_close(db);
    if (code == BITKV_OK) {
        return status;
    }
    int failure = report_library(settings->command, settings->directory, code);
    return status == EXIT_STATUS_OK ? failure : status;
}
