/* SPDX-License-Identifier: MIT */
#include "database.h"

#include "command.h"
#include "report.h"

#include <fts.h>
#include <sys/stat.h>

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

uint64_t database_disk_bytes(const char *directory)
{
    char *paths[] = {(char *)(uintptr_t)directory, NULL};
    uint64_t bytes = 0;
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (tree == NULL) {
        return 0;
    }
    for (const FTSENT *entry; (entry = fts_read(tree)) != NULL;) {
        if (entry->fts_info == FTS_F) {
            bytes += (uint64_t)entry->fts_statp->st_blocks * 512;
        }
    }
    fts_close(tree);
    return bytes;
}

int database_close(bitkv *db, const struct settings *settings, int status)
{
    int code = bitkv_close(db);
    if (code == BITKV_OK) {
        return status;
    }
    if (code == BITKV_ERR_NO_SPACE) { /* the checkpoint's; what was written is stored */
        if (status == EXIT_STATUS_OK) {
            report_warning("%s: %s; what was written is stored, but the next opening takes longer",
                           settings->directory, bitkv_error_context());
        }
        return status;
    }
    int failure = report_library(settings->command, settings->directory, code);
    return status == EXIT_STATUS_OK ? failure : status;
}
