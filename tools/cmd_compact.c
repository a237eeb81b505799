/* SPDX-License-Identifier: MIT */
/* bitkv compact: give back the space of what was overwritten and deleted. */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"

struct compact {
    const struct settings *settings;
    struct progress progress;
    uint64_t bytes_before, bytes_after; /* on disk, of the whole database */
    uint64_t time_ns;
    bool stopped; /* before the end */
};

static int take_progress(void *user, uint64_t done, uint64_t total)
{
    struct compact *compact = user;
    compact->progress.bytes_total = total;
    progress_update(&compact->progress, done, 0);
    return interrupted();
}

/* What was done until an interruption or an error stays done, so it is told, too: as what it is,
 * and beside the error, since standard output is for results. */
static int summarize(const struct compact *c)
{
    const struct settings *settings = c->settings;
    if (settings->json) {
        return output_json(settings, json_pack("{s:I, s:I, s:I, s:b}", "bytes_before",
                                               (json_int_t)c->bytes_before, "bytes_after",
                                               (json_int_t)c->bytes_after, "duration_ns",
                                               (json_int_t)c->time_ns, "complete", !c->stopped));
    }
    if (c->stopped) {
        report_error(settings->command,
                     "stopped after %s: %s before, %s after; what was done stays",
                     human_duration(c->time_ns).text, human_bytes(c->bytes_before).text,
                     human_bytes(c->bytes_after).text);
        return EXIT_STATUS_OK;
    }
    if (settings->quiet) {
        return EXIT_STATUS_OK;
    }
    struct output output;
    int status = output_open(&output, settings, NULL);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    fprintf(output.stream, "%s: %s before, %s after (%s)\n", settings->directory,
            human_bytes(c->bytes_before).text, human_bytes(c->bytes_after).text,
            human_duration(c->time_ns).text);
    return output_close(&output, settings, true);
}

int command_compact(const struct settings *settings)
{
    struct compact compact = {.settings = settings};
    bitkv *db = NULL;
    compact.bytes_before = database_disk_bytes(settings->directory); /* opening reserves space */
    int status = database_open(&db, settings);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    interrupt_catch();
    uint64_t started_ns = progress_clock_ns();
    progress_begin(&compact.progress, "compacting", 0, !settings->quiet);
    int code =
        bitkv_compact(db, settings->one_partition ? settings->partition : BITKV_ALL_PARTITIONS,
                      take_progress, &compact);
    progress_end(&compact.progress);
    compact.time_ns = progress_clock_ns() - started_ns;
    if (code != BITKV_OK && !(code == BITKV_ERR_CANCELED && interrupted())) {
        status = report_library(settings->command, settings->directory, code);
    }
    compact.stopped = code != BITKV_OK;
    status = database_close(db, settings, status);
    compact.bytes_after = database_disk_bytes(settings->directory);
    if (code == BITKV_ERR_INVALID) {
        return status; /* a partition that is not there: nothing was begun */
    }
    int summary_status = summarize(&compact);
    return status != EXIT_STATUS_OK ? status : summary_status;
}
