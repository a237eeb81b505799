/* SPDX-License-Identifier: MIT */
/*
 * bitkv watch: the changes of a database, a line each, from a position that a file keeps.
 *
 * The position is stored when the lines have been written, by a rename: what a crash leaves leads
 * on to the first line that was not written, or repeats some.
 */
#include "command.h"
#include "database.h"
#include "interrupt.h"
#include "output.h"
#include "reader.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Longest wait between two looks at a live database, and for Ctrl-C. */
#define WAIT_MS 200

/* Of BITKV_PARTITIONS_MAX partitions. */
#define POSITION_MAX (36u + 8u * BITKV_PARTITIONS_MAX)

struct watch {
    const struct settings *settings;
    bitkv *db;
    bitkv_feed *feed;
    struct output output;
    uint64_t lines;
    bool stored; /* the position, once at least: it may pass what is no change */
    bool damaged;
};

/* ------------------------------------------------------------------ */
/* The position                                                        */
/* ------------------------------------------------------------------ */

static int fail_with_errno(const struct watch *watch, const char *path)
{
    return report_error(watch->settings->command, "%s: %s", path, strerror(errno));
}

/* No file yet: from the oldest change. Returns an exit status. */
static int load_position(const struct watch *watch, void **data, size_t *size)
{
    const char *path = watch->settings->from;
    *data = NULL;
    *size = BITKV_FEED_OLDEST;
    if (path == NULL) {
        return EXIT_STATUS_OK;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? EXIT_STATUS_OK : fail_with_errno(watch, path);
    }
    *data = read_whole(fd, POSITION_MAX, size);
    int status = *data != NULL ? EXIT_STATUS_OK : fail_with_errno(watch, path);
    close(fd);
    return status;
}

static int store_position(struct watch *watch)
{
    const struct settings *settings = watch->settings;
    struct output output;
    uint8_t bytes[POSITION_MAX];
    size_t size = 0;
    if (settings->from == NULL) {
        return EXIT_STATUS_OK;
    }
    int code = bitkv_feed_position(watch->feed, bytes, sizeof bytes, &size);
    if (code != BITKV_OK) {
        return report_library(settings->command, settings->directory, code);
    }
    int status = output_open(&output, settings, settings->from);
    if (status == EXIT_STATUS_OK) {
        fwrite(bytes, 1, size, output.stream);
        status = output_close(&output, settings, true);
    }
    watch->stored = status == EXIT_STATUS_OK;
    return status;
}

/* ------------------------------------------------------------------ */
/* Lines                                                               */
/* ------------------------------------------------------------------ */

static void write_jsonl(FILE *stream, const bitkv_change *change, bool keys_only)
{
    bool is_put = change->kind == BITKV_CHANGE_PUT;
    fprintf(stream, "{\"change\":\"%s\",\"partition\":%" PRIu32 ",\"version\":%" PRIu64 ",",
            is_put ? "put" : "delete", change->partition, change->version);
    if (is_put && change->deadline_ms != UINT64_MAX) {
        fprintf(stream, "\"deadline_ms\":%" PRIu64 ",", change->deadline_ms);
    }
    output_json_member(stream, "key", change->key, change->key_size);
    if (is_put && !keys_only) {
        fputc_unlocked(',', stream);
        output_json_member(stream, "value", change->value, change->value_size);
    }
    fputs_unlocked("}\n", stream);
}

static void write_text(FILE *stream, const bitkv_change *change, const struct settings *settings)
{
    enum coding coding = settings->coding == CODING_NONE ? CODING_ESCAPE : settings->coding;
    bool is_put = change->kind == BITKV_CHANGE_PUT;
    fputs_unlocked(is_put ? "put\t" : "delete\t", stream);
    coding_write(stream, coding, change->key, change->key_size);
    if (is_put && !settings->keys_only) {
        fputc_unlocked('\t', stream);
        coding_write(stream, coding, change->value, change->value_size);
    }
    fputc_unlocked('\n', stream);
}

static void write_change(struct watch *watch, const bitkv_change *change)
{
    if (watch->settings->json) {
        write_jsonl(watch->output.stream, change, watch->settings->keys_only);
    } else {
        write_text(watch->output.stream, change, watch->settings);
    }
    watch->lines++;
}

/* ------------------------------------------------------------------ */
/* The feed                                                            */
/* ------------------------------------------------------------------ */

static bool enough(struct watch *watch)
{
    return interrupted() || output_failed(&watch->output) ||
           (watch->settings->limit != 0 && watch->lines >= watch->settings->limit);
}

/* All that is there now. Damage is told, and passed. */
static int drain(struct watch *watch)
{
    const struct settings *settings = watch->settings;
    while (!enough(watch)) {
        bitkv_change change;
        int code = bitkv_feed_next(watch->feed, &change);
        if (code == BITKV_NOT_FOUND) {
            break;
        }
        if (code == BITKV_OK) {
            write_change(watch, &change);
            continue;
        }
        int status = report_library(settings->command, settings->directory, code);
        if (code != BITKV_ERR_CORRUPT) {
            return status;
        }
        watch->damaged = true;
    }
    return EXIT_STATUS_OK;
}

/* Until there may be more: what a live database's writer has appended comes with a refresh. */
static int await_more(struct watch *watch)
{
    (void)bitkv_feed_wait(watch->feed, WAIT_MS);
    return bitkv_refresh(watch->db);
}

static int follow(struct watch *watch)
{
    int status = EXIT_STATUS_OK;
    for (;;) {
        uint64_t before = watch->lines;
        status = drain(watch);
        bool news = watch->lines != before || !watch->stored;
        if (status == EXIT_STATUS_OK && news && fflush(watch->output.stream) == 0) {
            status = store_position(watch);
        }
        if (status != EXIT_STATUS_OK || enough(watch) || !watch->settings->follow) {
            return status;
        }
        int code = await_more(watch);
        if (code != BITKV_OK) {
            return report_library(watch->settings->command, watch->settings->directory, code);
        }
    }
}

static int watch_in(struct watch *watch)
{
    const struct settings *settings = watch->settings;
    void *position = NULL;
    size_t size = 0;
    int status = load_position(watch, &position, &size);
    if (status == EXIT_STATUS_OK) {
        int code = bitkv_feed_open(&watch->feed, watch->db, position, size);
        if (code != BITKV_OK) {
            status = report_library(settings->command, settings->directory, code);
        }
    }
    free(position);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    status = output_open(&watch->output, settings, NULL);
    if (status == EXIT_STATUS_OK) {
        interrupt_catch();
        status = follow(watch);
        int closing = output_close(&watch->output, settings, true);
        status = status != EXIT_STATUS_OK ? status : closing;
    }
    (void)bitkv_feed_close(watch->feed);
    return status == EXIT_STATUS_OK && watch->damaged ? EXIT_STATUS_FAILURE : status;
}

int command_watch(const struct settings *settings)
{
    struct watch watch = {.settings = settings};
    int status = database_open(&watch.db, settings);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    return database_close(watch.db, settings, watch_in(&watch));
}
