/* SPDX-License-Identifier: MIT */
/*
 * bitkv expire-stats: how many keys and bytes expire, and when.
 *
 * A scan leaves expired keys out, so what compaction has still to reclaim of them is the difference
 * to the statistics, which count them.
 */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include <inttypes.h>
#include <string.h>

/* What the callback returns to stop a scan: neither success nor an error of the library. */
#define STOP_SCAN 1000

#define MINUTE UINT64_C(60000)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

static const struct {
    const char *label; /* for people */
    const char *name;  /* in JSON */
    uint64_t below_ms; /* of the remaining time */
} bands[] = {
    {"expired, not yet reclaimed", "expired", 0},
    {"in less than a minute", "minute", MINUTE},
    {"in less than an hour", "hour", HOUR},
    {"in less than a day", "day", DAY},
    {"in less than a week", "week", 7 * DAY},
    {"later", "later", UINT64_MAX},
    {"never", "never", UINT64_MAX},
};

#define BAND_COUNT (sizeof bands / sizeof *bands)
#define NEVER      (BAND_COUNT - 1)

struct histogram {
    const struct settings *settings;
    bitkv *db;
    struct progress progress;
    uint64_t keys[BAND_COUNT];
    uint64_t bytes[BAND_COUNT]; /* of keys and values */
    uint64_t scanned, scanned_bytes;
    int failure; /* of bitkv_info() */
};

static size_t band_of(uint64_t remaining_ms)
{
    if (remaining_ms == UINT64_MAX) {
        return NEVER;
    }
    size_t band = 0;
    while (band < NEVER - 1 && remaining_ms >= bands[band].below_ms) {
        band++;
    }
    return band;
}

static int add_key(void *user, const bitkv_record *record)
{
    struct histogram *h = user;
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    int code = bitkv_info(h->db, record->key, record->key_size, &info);
    if (code < 0) {
        h->failure = code;
        return STOP_SCAN;
    }
    /* One that has expired since the scan saw it is counted as such. */
    size_t band = code == BITKV_OK ? band_of(info.remaining_ms) : 0;
    h->keys[band]++;
    h->bytes[band] += record->key_size + record->value_size;
    h->scanned++;
    h->scanned_bytes += record->key_size + record->value_size;
    progress_update(&h->progress, h->scanned_bytes, h->scanned);
    return interrupted() ? STOP_SCAN : 0;
}

/* Nobody else writes: what the scan does not show has expired. Its size is that of records. */
static void add_expired(struct histogram *h, const bitkv_statistics *statistics)
{
    if (statistics->keys > h->scanned) {
        h->keys[0] += statistics->keys - h->scanned;
    }
}

static int count_all(struct histogram *h)
{
    const struct settings *settings = h->settings;
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    int code = bitkv_stats(h->db, BITKV_ALL_PARTITIONS, &statistics);
    if (code == BITKV_OK) {
        interrupt_catch();
        progress_begin(&h->progress, "counting", statistics.live_bytes, !settings->quiet);
        code = bitkv_scan(h->db, BITKV_SCAN_KEYS, add_key, h);
        progress_end(&h->progress);
    }
    if (code == STOP_SCAN) {
        code = h->failure;
    }
    if (code != BITKV_OK) {
        return report_library(settings->command, settings->directory, code);
    }
    add_expired(h, &statistics);
    return EXIT_STATUS_OK;
}

static int print_json(const struct histogram *h)
{
    json_t *document = json_object();
    for (size_t i = 0; i < BAND_COUNT; i++) {
        json_t *band = json_pack("{s:I}", "keys", (json_int_t)h->keys[i]);
        if (i != 0) {
            json_object_set_new(band, "bytes", json_integer((json_int_t)h->bytes[i]));
        }
        json_object_set_new(document, bands[i].name, band);
    }
    return output_json(h->settings, document);
}

static int print_table(const struct histogram *h)
{
    struct output output;
    int status = output_open(&output, h->settings, NULL);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    fprintf(output.stream, "%-28s %14s %14s\n", "EXPIRES", "KEYS", "BYTES");
    for (size_t i = 0; i < BAND_COUNT; i++) {
        fprintf(output.stream, "%-28s %14s %14s\n", bands[i].label, human_count(h->keys[i]).text,
                i == 0 ? "-" : human_bytes(h->bytes[i]).text);
    }
    return output_close(&output, h->settings, true);
}

int command_expire_stats(const struct settings *settings)
{
    struct histogram histogram = {.settings = settings};
    int status = database_open(&histogram.db, settings);
    if (status == EXIT_STATUS_OK) {
        status = database_close(histogram.db, settings, count_all(&histogram));
    }
    if (status != EXIT_STATUS_OK || interrupted()) {
        return status;
    }
    return settings->json ? print_json(&histogram) : print_table(&histogram);
}
