/* SPDX-License-Identifier: MIT */
/*
 * bitkv expire-stats: how many keys and bytes expire, and when.
 *
 * A scan leaves expired keys out, so what compaction has still to reclaim of them is the difference
 * to the statistics, which count them: in bytes, of whole records, as the statistics count. That is
 * why the size of a record is asked of src/log.
 */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "report.h"

#include "log/record.h"

#include <time.h>

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
    struct progress progress;
    uint64_t now_ms; /* since 1970, when the scan began */
    uint64_t keys[BAND_COUNT];
    uint64_t bytes[BAND_COUNT]; /* of keys and values; of those that have expired, of records */
    uint64_t scanned, scanned_bytes;
    uint64_t record_bytes; /* of what was scanned, on disk */
};

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static size_t band_of(const struct histogram *h, uint64_t deadline_ms)
{
    if (deadline_ms == UINT64_MAX) {
        return NEVER;
    }
    /* The scan showed it, so it has not expired; the clocks may differ by a little. */
    uint64_t remaining_ms = deadline_ms > h->now_ms ? deadline_ms - h->now_ms : 0;
    size_t band = 1;
    while (band < NEVER - 1 && remaining_ms >= bands[band].below_ms) {
        band++;
    }
    return band;
}

static uint64_t record_size(const bitkv_record *record)
{
    uint64_t prefix = record->deadline_ms != UINT64_MAX ? BKV_RECORD_DEADLINE : 0;
    return bkv_record_size(record->key_size + prefix, record->value_size);
}

static int add_key(void *user, const bitkv_record *record)
{
    struct histogram *h = user;
    size_t band = band_of(h, record->deadline_ms);
    h->keys[band]++;
    h->bytes[band] += record->key_size + record->value_size;
    h->scanned++;
    h->scanned_bytes += record->key_size + record->value_size;
    h->record_bytes += record_size(record);
    progress_update(&h->progress, h->scanned_bytes, h->scanned);
    return interrupted() ? STOP_SCAN : 0;
}

/* What the opening has and the scan does not show has expired. */
static void add_expired(struct histogram *h, const bitkv_statistics *statistics)
{
    if (statistics->keys > h->scanned && statistics->live_bytes > h->record_bytes) {
        h->keys[0] = statistics->keys - h->scanned;
        h->bytes[0] = statistics->live_bytes - h->record_bytes;
    }
}

static int count_all(struct histogram *h, bitkv *db)
{
    const struct settings *settings = h->settings;
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    int code = bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics);
    if (code == BITKV_OK) {
        interrupt_catch();
        h->now_ms = clock_ms();
        progress_begin(&h->progress, "counting", statistics.live_bytes, !settings->quiet);
        code = bitkv_scan(db, BITKV_SCAN_KEYS, add_key, h);
        progress_end(&h->progress);
    }
    if (code == STOP_SCAN) {
        return EXIT_STATUS_OK; /* interrupted */
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
        json_object_set_new(document, bands[i].name,
                            json_pack("{s:I, s:I}", "keys", (json_int_t)h->keys[i], "bytes",
                                      (json_int_t)h->bytes[i]));
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
                human_bytes(h->bytes[i]).text);
    }
    return output_close(&output, h->settings, true);
}

int command_expire_stats(const struct settings *settings)
{
    struct histogram histogram = {.settings = settings};
    bitkv *db = NULL;
    int status = database_open(&db, settings);
    if (status == EXIT_STATUS_OK) {
        status = database_close(db, settings, count_all(&histogram, db));
    }
    if (status != EXIT_STATUS_OK || interrupted()) {
        return status;
    }
    return settings->json ? print_json(&histogram) : print_table(&histogram);
}
