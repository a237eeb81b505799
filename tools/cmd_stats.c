/* SPDX-License-Identifier: MIT */
/*
 * bitkv stats: the library's figures, as a table with units or as JSON with their names in
 * bitkv_statistics. One list of fields serves both, sums and single partitions.
 */
#include "command.h"
#include "database.h"
#include "figures.h"
#include "output.h"
#include "report.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum unit { UNIT_COUNT, UNIT_BYTES, UNIT_DURATION };

struct field {
    const char *name; /* of the structure's member, and in JSON */
    const char *label;
    size_t offset;
    enum unit unit;
};

#define FIELD(member, label, unit)                                                                 \
    {                                                                                              \
#member, label, offsetof(bitkv_statistics, member), UNIT_##unit                            \
    }
#define RECOVERY_FIELD(member, label, unit)                                                        \
    {                                                                                              \
#member, label, offsetof(bitkv_statistics, recovery.member), UNIT_##unit                   \
    }

static const struct field gauges[] = {
    FIELD(keys, "live keys", COUNT),
    FIELD(live_bytes, "live data", BYTES),
    FIELD(dead_bytes, "dead data", BYTES),
    FIELD(disk_bytes, "on disk", BYTES),
    FIELD(segments, "data files", COUNT),
    FIELD(segments_open, "data files open", COUNT),
    FIELD(open_files, "descriptors", COUNT),
    FIELD(keydir_bytes, "memory of the KeyDir", BYTES),
    FIELD(unsynced_bytes, "not yet synced", BYTES),
};

/* Of this opening, so mostly zero in a command that only asks. */
static const struct field counters[] = {
    FIELD(puts_total, "puts", COUNT),
    FIELD(gets_total, "gets", COUNT),
    FIELD(gets_miss_total, "gets that missed", COUNT),
    FIELD(deletes_total, "deletes", COUNT),
    FIELD(compactions_total, "compactions", COUNT),
    FIELD(compaction_bytes_read, "read by compaction", BYTES),
    FIELD(compaction_bytes_written, "written by compaction", BYTES),
    FIELD(expired_total, "expired keys removed", COUNT),
    FIELD(syncs_total, "syncs", COUNT),
    FIELD(checkpoints_total, "checkpoints", COUNT),
    FIELD(errors_total, "errors", COUNT),
    FIELD(bytes_written, "written to the log", BYTES),
};

static const struct field recovery[] = {
    RECOVERY_FIELD(duration_ns, "time to open", DURATION),
    RECOVERY_FIELD(checkpoint_keys, "keys from checkpoints", COUNT),
    RECOVERY_FIELD(hint_records, "records from hints", COUNT),
    RECOVERY_FIELD(log_records, "records from the log", COUNT),
    RECOVERY_FIELD(log_bytes, "log replayed", BYTES),
    RECOVERY_FIELD(torn_tails, "torn tails cut", COUNT),
    RECOVERY_FIELD(torn_tail_bytes, "in torn tails", BYTES),
    RECOVERY_FIELD(damaged_regions, "damaged regions", COUNT),
    RECOVERY_FIELD(damaged_bytes, "in damaged regions", BYTES),
    RECOVERY_FIELD(rejected_hints, "hints rejected", COUNT),
    RECOVERY_FIELD(rejected_checkpoints, "checkpoints rejected", COUNT),
    RECOVERY_FIELD(removed_files, "leftovers removed", COUNT),
};

/* Below this many keys, memory per key is that of the empty KeyDir, shared out. */
#define KEYS_WORTH_A_MEAN 1000

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* The sum, and each partition if they are wanted. */
struct figures {
    bitkv_statistics sum;
    bitkv_statistics *partitions;
    uint32_t partition_count; /* 0: not wanted */
    bitkv_segment_info *segments;
    size_t segment_count, segment_room;
};

static uint64_t value_of(const bitkv_statistics *statistics, const struct field *field)
{
    uint64_t value = 0;
    memcpy(&value, (const char *)statistics + field->offset, sizeof value);
    return value;
}

static const char *backend_name(bitkv_backend backend)
{
    return backend == BITKV_BACKEND_IO_URING ? "io_uring" : "threads";
}

static const char *io_mode_name(bitkv_io_mode mode)
{
    switch (mode) {
    case BITKV_IO_MMAP:
        return "mmap";
    case BITKV_IO_PWRITE:
        return "pwrite";
    case BITKV_IO_AUTO:
        break;
    }
    return "auto";
}

/* ------------------------------------------------------------------ */
/* JSON                                                                */
/* ------------------------------------------------------------------ */

static void add_fields(json_t *object, const bitkv_statistics *statistics,
                       const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_object_set_new(object, fields[i].name,
                            json_integer((json_int_t)value_of(statistics, &fields[i])));
    }
}

static json_t *statistics_json(const bitkv_statistics *statistics)
{
    json_t *object = json_object();
    json_t *recovered = json_object();
    add_fields(object, statistics, counters, COUNT_OF(counters));
    add_fields(object, statistics, gauges, COUNT_OF(gauges));
    json_object_set_new(object, "fragmentation", json_real(statistics->fragmentation));
    add_fields(recovered, statistics, recovery, COUNT_OF(recovery));
    json_object_set_new(object, "recovery", recovered);
    json_object_set_new(object, "partitions", json_integer(statistics->partitions));
    json_object_set_new(object, "io_mode", json_string(io_mode_name(statistics->io_mode)));
    json_object_set_new(object, "io_mode_reason", output_json_text(statistics->io_mode_reason));
    json_object_set_new(object, "backend", json_string(backend_name(statistics->backend)));
    json_object_set_new(object, "backend_reason", output_json_text(statistics->backend_reason));
    json_object_set_new(object, "writes_refused", json_integer(statistics->writes_refused));
    return object;
}

static const char *phase_name(bitkv_segment_phase phase)
{
    switch (phase) {
    case BITKV_SEGMENT_ACTIVE:
        return "active";
    case BITKV_SEGMENT_SEALED:
        return "sealed";
    case BITKV_SEGMENT_FINISHED:
        break;
    }
    return "finished";
}

static json_t *segment_json(const bitkv_segment_info *info)
{
    return json_pack(
        "{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I}", "partition", (json_int_t)info->partition, "id",
        (json_int_t)info->id, "phase", phase_name(info->phase), "bytes", (json_int_t)info->bytes,
        "live_bytes", (json_int_t)info->live_bytes, "dead_bytes", (json_int_t)info->dead_bytes,
        "disk_bytes", (json_int_t)info->disk_bytes, "hint_bytes", (json_int_t)info->hint_bytes);
}

static json_t *segments_json(const struct figures *figures)
{
    json_t *list = json_array();
    for (size_t i = 0; i < figures->segment_count; i++) {
        json_array_append_new(list, segment_json(&figures->segments[i]));
    }
    return list;
}

static int print_json(const struct settings *settings, const struct figures *figures)
{
    json_t *document = statistics_json(&figures->sum);
    if (figures->partition_count > 0) {
        json_t *list = json_array();
        for (uint32_t i = 0; i < figures->partition_count; i++) {
            json_array_append_new(list, statistics_json(&figures->partitions[i]));
        }
        json_object_set_new(document, "partitions_detail", list);
    }
    if (settings->segments) {
        json_object_set_new(document, "segments_detail", segments_json(figures));
    }
    return output_json(settings, document);
}

/* ------------------------------------------------------------------ */
/* Table                                                               */
/* ------------------------------------------------------------------ */

static struct human human_value(uint64_t value, enum unit unit)
{
    switch (unit) {
    case UNIT_BYTES:
        return human_bytes(value);
    case UNIT_DURATION:
        return human_duration(value);
    case UNIT_COUNT:
        break;
    }
    return human_count(value);
}

static void print_percentages(FILE *stream, const struct figures *figures)
{
    fprintf(stream, "  %-22s %13.1f%%", "fragmentation", figures->sum.fragmentation * 100);
    for (uint32_t i = 0; i < figures->partition_count; i++) {
        fprintf(stream, " %12.1f%%", figures->partitions[i].fragmentation * 100);
    }
    fputc('\n', stream);
}

/* only_set: leave out the lines that are zero everywhere. */
static void print_fields(FILE *stream, const struct figures *figures, const struct field *fields,
                         size_t count, bool only_set)
{
    for (size_t i = 0; i < count; i++) {
        const struct field *field = &fields[i];
        uint64_t value = value_of(&figures->sum, field);
        if (only_set && value == 0) {
            continue;
        }
        fprintf(stream, "  %-22s %14s", field->label, human_value(value, field->unit).text);
        for (uint32_t k = 0; k < figures->partition_count; k++) {
            fprintf(stream, " %13s",
                    human_value(value_of(&figures->partitions[k], field), field->unit).text);
        }
        fputc('\n', stream);
    }
}

static void print_heading(FILE *stream, const struct figures *figures)
{
    if (figures->partition_count == 0) {
        return;
    }
    fprintf(stream, "  %-22s %14s", "", "all");
    for (uint32_t i = 0; i < figures->partition_count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        fprintf(stream, " %13s", name);
    }
    fputc('\n', stream);
}

static void print_segments(FILE *stream, const struct figures *figures)
{
    fprintf(stream, "%9s %6s %-8s %12s %12s %12s %12s\n", "partition", "id", "phase", "bytes",
            "live", "dead", "hint");
    for (size_t i = 0; i < figures->segment_count; i++) {
        const bitkv_segment_info *info = &figures->segments[i];
        fprintf(stream, "%9u %6ju %-8s %12s %12s %12s %12s\n", info->partition, (uintmax_t)info->id,
                phase_name(info->phase), human_bytes(info->bytes).text,
                human_bytes(info->live_bytes).text, human_bytes(info->dead_bytes).text,
                human_bytes(info->hint_bytes).text);
    }
}

static int print_table(const struct settings *settings, const struct figures *figures)
{
    struct output output;
    int status = output_open(&output, settings, NULL);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    const bitkv_statistics *sum = &figures->sum;
    FILE *stream = output.stream;
    fprintf(stream, "%s: %u partition%s, %s (%s)\n", settings->directory, sum->partitions,
            sum->partitions == 1 ? "" : "s", io_mode_name(sum->io_mode), sum->io_mode_reason);
    if (settings->verbose)
        fprintf(stream, "completion queues: %s (%s)\n", backend_name(sum->backend),
                sum->backend_reason);
    print_heading(stream, figures);
    print_fields(stream, figures, gauges, COUNT_OF(gauges), false);
    print_percentages(stream, figures);
    if (sum->keys >= KEYS_WORTH_A_MEAN) {
        fprintf(stream, "  %-22s %8.1f bytes\n", "KeyDir memory per key",
                (double)sum->keydir_bytes / (double)sum->keys);
    }
    fputs("opening\n", stream);
    print_fields(stream, figures, recovery, COUNT_OF(recovery), !settings->verbose);
    if (settings->verbose) {
        fputs("since then\n", stream);
        print_fields(stream, figures, counters, COUNT_OF(counters), false);
    }
    if (settings->segments) {
        print_segments(stream, figures);
    }
    if (sum->writes_refused > 0) {
        fprintf(stream, "%u partition%s after a failed sync\n", sum->writes_refused,
                sum->writes_refused == 1 ? " refuses writes" : "s refuse writes");
    }
    return output_close(&output, settings, true);
}

/* ------------------------------------------------------------------ */
/* The command                                                         */
/* ------------------------------------------------------------------ */

static int add_segment(void *user, const bitkv_segment_info *info)
{
    struct figures *figures = user;
    if (figures->segment_count == figures->segment_room) {
        size_t room = 2 * figures->segment_room + 64;
        bitkv_segment_info *larger = realloc(figures->segments, room * sizeof *larger);
        if (larger == NULL) {
            return BITKV_ERR_NO_MEMORY;
        }
        figures->segments = larger;
        figures->segment_room = room;
    }
    figures->segments[figures->segment_count++] = *info;
    return 0;
}

static int collect(struct figures *figures, bitkv *db, const struct settings *settings)
{
    bitkv_statistics_init(&figures->sum);
    int code = bitkv_stats(db, BITKV_ALL_PARTITIONS, &figures->sum);
    if (code == BITKV_OK && settings->partitions_detail) {
        figures->partitions = calloc(figures->sum.partitions, sizeof *figures->partitions);
        if (figures->partitions == NULL) {
            return report_error(settings->command, "out of memory");
        }
        figures->partition_count = figures->sum.partitions;
    }
    for (uint32_t i = 0; i < figures->partition_count && code == BITKV_OK; i++) {
        bitkv_statistics_init(&figures->partitions[i]);
        code = bitkv_stats(db, i, &figures->partitions[i]);
    }
    if (code == BITKV_OK && settings->segments) {
        code = bitkv_segments(db, BITKV_ALL_PARTITIONS, add_segment, figures);
    }
    return code == BITKV_OK ? EXIT_STATUS_OK
                            : report_library(settings->command, settings->directory, code);
}

int command_stats(const struct settings *settings)
{
    bitkv *db = NULL;
    struct figures figures = {.partitions = NULL};
    int status = database_open(&db, settings);
    if (status != EXIT_STATUS_OK) {
        return status;
    }
    status = database_close(db, settings, collect(&figures, db, settings));
    if (status == EXIT_STATUS_OK) {
        status = settings->json ? print_json(settings, &figures) : print_table(settings, &figures);
    }
    free(figures.partitions);
    free(figures.segments);
    return status;
}
