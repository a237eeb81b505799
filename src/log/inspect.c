/* SPDX-License-Identifier: MIT */
/*
 * Partition by partition: every record of every data file is verified, every
 * hint compared entry by entry with the records of its segment, checkpoints by
 * their checksums and against the files that they are about.
 *
 * Damage in a data file is an error if a mark says that the log was durable
 * behind it, and else the unsynced tail of a crash, a warning. Marks that tell
 * may come in later files, so damage is kept until a partition is through.
 */
#include "log/inspect.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "io/io.h"
#include "log/checkpoint.h"
#include "log/contents.h"
#include "log/durable.h"
#include "log/filename.h"
#include "log/hint.h"
#include "log/location.h"
#include "log/manifest.h"
#include "log/marker.h"
#include "log/scan.h"
#include "log/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

struct damage {
    size_t file; /* index */
    uint64_t offset, size;
};

struct data_file {
    uint64_t id, size;
    uint64_t first_sequence; /* of its records; 0: none */
    uint64_t begin, end;     /* of the log, this is; 0, 0: not known */
    bool damaged;            /* some of it */
    uint64_t durable;        /* marks or a hint prove that it was durable up to here */
};

struct inspection {
    const struct bkv_inspect_options *options;
    struct bkv_inspect_result *result;
    struct bkv_dir dir;
    struct bkv_manifest manifest;
    uint64_t bytes_total;
    uint64_t errors;

    /* of the partition at hand */
    uint32_t partition;
    struct data_file *files;
    size_t count, capacity;
    uint64_t *hints;
    size_t hint_count, hint_capacity;
    bool checkpoint;
    bool durable; /* there is such a file */
    struct damage *damage;
    size_t damage_count, damage_capacity;
};

static void report(struct inspection *in, enum bkv_inspect_severity severity, const char *file,
                   uint64_t offset, uint64_t length, const char *message)
{
    if (severity != BKV_INSPECT_INFO)
        in->result->findings++;
    if (severity == BKV_INSPECT_ERROR)
        in->errors++;
    if (in->options->on_finding != NULL)
        in->options->on_finding(in->options->user, severity, file, offset, length, message);
}

static void progress(const struct inspection *in)
{
    if (in->options->on_progress != NULL)
        in->options->on_progress(in->options->user, in->result->bytes, in->bytes_total);
}

/* The last failure, said without the directory in front: it is an error that
 * the file is like that, not that the inspection fails. */
static void report_context(struct inspection *in, const char *file)
{
    char text[512];
    (void)snprintf(text, sizeof text, "%s", bitkv_error_context());
    report(in, BKV_INSPECT_ERROR, file, 0, 0, text);
}

static int no_memory(void)
{
    return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to inspect a partition");
}

/* --- data files ---------------------------------------------------------------------------- */

static int keep_damage(struct inspection *in, size_t file, uint64_t offset, uint64_t size)
{
    if (!bkv_grow(&in->damage, in->damage_count, 1, sizeof *in->damage, &in->damage_capacity))
        return no_memory();
    in->files[file].damaged = true;
    in->damage[in->damage_count++] = (struct damage){.file = file, .offset = offset, .size = size};
    return BITKV_OK;
}

struct walk {
    struct inspection *in;
    struct data_file *file;
    const char *name;
    struct bkv_hint_reader *hint; /* NULL: none, or no longer worth comparing */
    uint64_t reported;            /* progress */
};

static bool has_hint(const struct inspection *in, uint64_t id)
{
    for (size_t i = 0; i < in->hint_count; i++) {
        if (in->hints[i] == id)
            return true;
    }
    return false;
}

/* The next entry of the hint has to be this record's, those of damaged ones aside. */
static int compare_hint(struct inspection *in, const struct walk *walk,
                        const struct bkv_scan_item *item, bool *same)
{
    struct bkv_entry entry;
    size_t count;
    do {
        int rc = bkv_hint_take(walk->hint, &entry, 1, &count);
        if (rc != BITKV_OK)
            return rc;
    } while (count == 1 && walk->file->damaged &&
             bkv_location_offset(bkv_entry_location(&entry)) < item->offset);
    struct bkv_hash hash = bkv_hash(&in->manifest.hash_key, item->key, item->record.key_size);
    struct bkv_entry expected =
        bkv_entry(&hash, (enum bkv_record_type)item->record.type, item->offset, item->size);
    *same = count == 1 && entry.lo == expected.lo && entry.packed == expected.packed;
    return BITKV_OK;
}

static void count_record(struct inspection *in, const struct bkv_scan_item *item)
{
    struct bkv_inspect_result *result = in->result;
    if (item->record.type == BKV_RECORD_PUT)
        result->records++;
    else if (item->record.type == BKV_RECORD_DELETE)
        result->tombstones++;
    else
        result->marks++;
}

static void take_place(struct inspection *in, uint64_t id, uint64_t offset)
{
    for (size_t i = 0; i < in->count; i++) {
        if (in->files[i].id == id && in->files[i].durable < offset)
            in->files[i].durable = offset;
    }
}

static void take_mark(struct inspection *in, const struct bkv_scan_item *item)
{
    take_place(in, bkv_get64(item->value), bkv_get64(item->value + 8));
}

static int walk_record(struct walk *walk, const struct bkv_scan_item *item)
{
    struct inspection *in = walk->in;
    count_record(in, item);
    if (walk->file->first_sequence == 0)
        walk->file->first_sequence = item->record.sequence;
    if (walk->file->begin == 0)
        walk->file->begin = item->record.sequence;
    walk->file->end = bkv_max64(walk->file->end, item->record.sequence);
    if (item->record.type == BKV_RECORD_MARK) {
        take_mark(in, item);
        return BITKV_OK;
    }
    if (walk->hint == NULL || bkv_record_is_keyless(&item->record))
        return BITKV_OK;
    bool same = false;
    int rc = compare_hint(in, walk, item, &same);
    if (rc == BITKV_OK && !same) {
        report(in, BKV_INSPECT_ERROR, walk->name, item->offset, item->size,
               "the segment's hint has another entry for this record");
        walk->hint = NULL;
    }
    return rc;
}

static int walk_records(struct walk *walk, struct bkv_scanner *scanner)
{
    struct inspection *in = walk->in;
    for (;;) {
        struct bkv_scan_item item;
        int rc = bkv_scanner_next(scanner, &item);
        if (rc != BITKV_OK)
            return rc;
        if (item.kind == BKV_SCAN_RECORD)
            rc = walk_record(walk, &item);
        else if (item.kind == BKV_SCAN_DAMAGE)
            rc = keep_damage(in, (size_t)(walk->file - in->files), item.offset, item.size);
        else if (item.size > 0)
            report(in, BKV_INSPECT_INFO, walk->name, item.offset, item.size,
                   "reserved space behind the last record");
        if (rc != BITKV_OK)
            return rc;
        uint64_t at = item.offset + item.size;
        in->result->bytes += at - walk->reported;
        walk->reported = at;
        progress(in);
        if (item.kind == BKV_SCAN_END)
            return BITKV_OK;
    }
}

static struct bkv_hint_reader *open_hint(struct inspection *in, const struct data_file *file,
                                         struct bkv_hint_reader *reader)
{
    char name[BKV_NAME_SIZE];
    bkv_name_hint(name, in->partition, file->id);
    if (!has_hint(in, file->id))
        return NULL;
    struct bkv_hint_info info = {
        .partition = in->partition, .segment_id = file->id, .data_size = file->size};
    memcpy(info.database_id, in->manifest.database_id, sizeof info.database_id);
    in->result->hints++;
    if (bkv_hint_open(reader, &in->dir, &info) == BITKV_OK)
        return reader;
    report_context(in, name);
    return NULL;
}

static int walk_file(struct inspection *in, struct data_file *file, const char *name,
                     const struct bkv_file *handle)
{
    struct bkv_hint_reader reader;
    struct bkv_hint_reader *hint = open_hint(in, file, &reader);
    struct walk walk = {.in = in, .file = file, .name = name, .hint = hint};
    uint64_t seed = bkv_segment_seed(in->manifest.database_id, in->partition, file->id);
    struct bkv_scanner scanner;
    int rc = bkv_scanner_begin(&scanner, handle, seed, BKV_SEGMENT_HEADER, file->size);
    if (rc == BITKV_OK)
        rc = walk_records(&walk, &scanner);
    bkv_scanner_end(&scanner);
    if (rc == BITKV_OK && walk.hint != NULL) {
        if (bkv_reader_left(&walk.hint->stream) > 0)
            report(in, BKV_INSPECT_ERROR, name, 0, 0,
                   "the segment's hint has entries for records that are not there");
        /* A hint is written after its segment was synced. */
        file->durable = file->size;
    }
    if (hint != NULL)
        bkv_hint_close(hint);
    return rc;
}

static int inspect_data(struct inspection *in, struct data_file *file)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, in->partition, file->id);
    struct bkv_file handle;
    int rc = bkv_file_open(&handle, &in->dir, name, O_RDONLY);
    if (rc != BITKV_OK) {
        report_context(in, name);
        return BITKV_OK;
    }
    struct bkv_segment_header header = {.partition = in->partition, .id = file->id};
    memcpy(header.database_id, in->manifest.database_id, sizeof header.database_id);
    enum bkv_segment_state state;
    in->result->segments++;
    rc = bkv_file_size(&handle, &file->size);
    if (rc == BITKV_OK)
        rc = bkv_segment_header_read(&handle, &header, &state);
    if (rc == BITKV_OK) {
        if (state == BKV_SEGMENT_BLANK)
            report(in, BKV_INSPECT_INFO, name, 0, file->size, "prepared, not yet used");
        else if (state == BKV_SEGMENT_NEWER)
            report(in, BKV_INSPECT_ERROR, name, 8, 4, "unknown format version");
        else if (state == BKV_SEGMENT_FOREIGN)
            report(in, BKV_INSPECT_ERROR, name, 12, 28,
                   "belongs to another database, partition or id");
        else if (state == BKV_SEGMENT_DAMAGED)
            report(in, BKV_INSPECT_ERROR, name, 0, BKV_SEGMENT_HEADER, "damaged segment header");
        if (state == BKV_SEGMENT_VALID && header.kind == BKV_SEGMENT_COMPACTED) {
            file->durable = file->size; /* it takes its place only then */
            file->begin = header.base_sequence;
            file->end = header.last_sequence;
        }
        if (state == BKV_SEGMENT_VALID || state == BKV_SEGMENT_DAMAGED)
            rc = walk_file(in, file, name, &handle);
    }
    bkv_file_close(&handle);
    if (rc == BITKV_ERR_IO) {
        report_context(in, name);
        rc = BITKV_OK;
    }
    return rc;
}

/* Syncs go in order of the log: if a later segment was durable in part, this
 * one was as a whole. */
static bool was_durable(const struct inspection *in, const struct damage *d)
{
    const struct data_file *file = &in->files[d->file];
    if (d->offset < file->durable)
        return true;
    for (size_t i = 0; i < in->count; i++) {
        const struct data_file *other = &in->files[i];
        if (other->durable > 0 && other->first_sequence > file->first_sequence)
            return true;
    }
    return false;
}

static void report_damage(struct inspection *in)
{
    for (size_t i = 0; i < in->damage_count; i++) {
        const struct damage *d = &in->damage[i];
        char name[BKV_NAME_SIZE];
        bkv_name_data(name, in->partition, in->files[d->file].id);
        bool durable = was_durable(in, d);
        report(in, durable ? BKV_INSPECT_ERROR : BKV_INSPECT_WARNING, name, d->offset, d->size,
               durable ? "damaged: no record verifies here"
                       : "unsynced tail of a crash: the next opening cuts it");
    }
}

/* --- order ---------------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b)
{
    const struct data_file *x = a;
    const struct data_file *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end > y->end ? -1 : x->end < y->end;
}

/* Sequence numbers count from 1 without gaps, those that compaction has left out among
 * them. Where something is damaged it is told already that some are missing. */
static void report_gaps(struct inspection *in)
{
    uint64_t last = 0;
    bool told = false;
    if (in->count > 0)
        qsort(in->files, in->count, sizeof *in->files, by_begin);
    for (size_t i = 0; i < in->count; i++) {
        const struct data_file *file = &in->files[i];
        told = told || file->damaged;
        if (file->begin == 0)
            continue;
        if (file->begin > last + 1 && !told) {
            char name[BKV_NAME_SIZE];
            bkv_name_data(name, in->partition, file->id);
            report(in, file->durable > 0 ? BKV_INSPECT_ERROR : BKV_INSPECT_WARNING, name, 0, 0,
                   file->durable > 0
                       ? "records that were before this file are missing: is a data file gone?"
                       : "unsynced, and what was before it is missing: the next opening cuts it");
        }
        last = bkv_max64(last, file->end);
        told = file->damaged;
    }
}

/* --- checkpoints ------------------------------------------------------------------------------ */

static const struct data_file *find_file(const struct inspection *in, uint64_t id)
{
    for (size_t i = 0; i < in->count; i++) {
        if (in->files[i].id == id)
            return &in->files[i];
    }
    return NULL;
}

static int read_groups(struct bkv_checkpoint_reader *reader)
{
    uint8_t bytes[4096];
    while (bkv_reader_left(&reader->stream) > 0) {
        size_t size = (size_t)bkv_min64(sizeof bytes, bkv_reader_left(&reader->stream));
        int rc = bkv_reader_take(&reader->stream, bytes, size);
        if (rc != BITKV_OK)
            return rc;
    }
    return bkv_checkpoint_groups_verify(reader);
}

static void report_missing(struct inspection *in, const char *checkpoint, uint64_t id)
{
    char text[128];
    (void)snprintf(text, sizeof text,
                   "knows data_%" PRIu64 ".db, which is missing, or a part of it", id);
    report(in, BKV_INSPECT_ERROR, checkpoint, 0, 0, text);
}

static int inspect_checkpoint(struct inspection *in)
{
    char name[BKV_NAME_SIZE];
    bkv_name_checkpoint(name, in->partition);
    struct bkv_checkpoint_reader reader;
    in->result->checkpoints++;
    int rc = bkv_checkpoint_open(&reader, &in->dir, in->partition, in->manifest.database_id);
    if (rc == BITKV_OK) {
        rc = read_groups(&reader);
        for (uint32_t i = 0; rc == BITKV_OK && i < reader.info.segments; i++) {
            const struct data_file *file = find_file(in, reader.table[i].id);
            if (file == NULL || file->size < reader.table[i].size)
                report_missing(in, name, reader.table[i].id);
        }
        in->result->bytes += reader.file_size;
        bkv_checkpoint_close(&reader);
    }
    if (rc == BITKV_ERR_NO_MEMORY)
        return rc;
    if (rc != BITKV_OK)
        report_context(in, name);
    progress(in);
    return BITKV_OK;
}

/* --- partitions -------------------------------------------------------------- */

static int on_entry(void *user, const char *entry)
{
    struct inspection *in = user;
    uint64_t id = 0;
    switch (bkv_name_parse(entry, &id)) {
    case BKV_FILE_DATA:
        if (!bkv_grow(&in->files, in->count, 1, sizeof *in->files, &in->capacity))
            return no_memory();
        in->files[in->count++] = (struct data_file){.id = id};
        return BITKV_OK;
    case BKV_FILE_HINT:
        if (!bkv_grow(&in->hints, in->hint_count, 1, sizeof *in->hints, &in->hint_capacity))
            return no_memory();
        in->hints[in->hint_count++] = id;
        return BITKV_OK;
    case BKV_FILE_CHECKPOINT:
        in->checkpoint = true;
        return BITKV_OK;
    case BKV_FILE_DURABLE:
        in->durable = true;
        return BITKV_OK;
    default: /* temporary, or not ours */
        return BITKV_OK;
    }
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = ((const struct data_file *)a)->id;
    uint64_t y = ((const struct data_file *)b)->id;
    return x < y ? -1 : x > y;
}

static int list_partition(struct inspection *in, uint32_t partition)
{
    char name[BKV_NAME_SIZE];
    in->partition = partition;
    in->count = in->hint_count = in->damage_count = 0;
    in->checkpoint = in->durable = false;
    bkv_name_partition(name, partition);
    int rc = bkv_dir_list(&in->dir, name, in, on_entry);
    if (rc == BITKV_NOT_FOUND) {
        report(in, BKV_INSPECT_ERROR, name, 0, 0, "the partition's directory is missing");
        return BITKV_OK;
    }
    if (in->count > 0)
        qsort(in->files, in->count, sizeof *in->files, by_id);
    return rc;
}

/* An opening was interrupted while it repaired the log. */
static void inspect_durable(struct inspection *in)
{
    char name[BKV_NAME_SIZE];
    struct bkv_durable durable;
    bool found;
    bkv_name_durable(name, in->partition);
    int rc = bkv_durable_read(&in->dir, in->partition, in->manifest.database_id, &found, &durable);
    if (rc != BITKV_OK)
        report_context(in, name);
    else if (found)
        take_place(in, durable.segment_id, durable.offset);
    else
        report(in, BKV_INSPECT_ERROR, name, 0, BKV_DURABLE_SIZE,
               "does not verify, so damage may be taken for the tail of a crash");
}

static int inspect_partition(struct inspection *in, uint32_t partition)
{
    int rc = list_partition(in, partition);
    for (size_t i = 0; i < in->count && rc == BITKV_OK; i++)
        rc = inspect_data(in, &in->files[i]);
    if (rc == BITKV_OK && in->checkpoint)
        rc = inspect_checkpoint(in);
    if (rc == BITKV_OK && in->durable)
        inspect_durable(in);
    if (rc == BITKV_OK)
        report_damage(in);
    if (rc == BITKV_OK)
        report_gaps(in);
    return rc;
}

/* --- the whole -------------------------------------------------------------- */

static int open_directory(struct inspection *in, const char *path)
{
    in->dir.fd = bkv_io->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (in->dir.fd < 0) {
        int code = bkv_error_sys(errno, "cannot open directory %s", path);
        return errno == ENOENT ? BITKV_ERR_NO_DATABASE : code;
    }
    in->dir.path = bkv_strdup(path);
    if (in->dir.path == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to inspect %s", path);
    if (bkv_io->flock(in->dir.fd, LOCK_SH | LOCK_NB) != 0)
        return bkv_error(BITKV_ERR_LOCKED, "%s is being written by another process; close it there",
                         path);
    return BITKV_OK;
}

static int read_manifest(struct inspection *in)
{
    int rc = bkv_manifest_read(&in->dir, &in->manifest);
    if (rc == BITKV_NOT_FOUND) {
        rc = bkv_manifest_missing(&in->dir);
        if (rc == BITKV_OK)
            return bkv_error(BITKV_ERR_NO_DATABASE, "%s has no " BKV_MANIFEST_NAME, in->dir.path);
    }
    if (rc == BITKV_ERR_CORRUPT)
        report_context(in, BKV_MANIFEST_NAME);
    return rc;
}

static uint64_t size_of(struct inspection *in, const char *name)
{
    struct bkv_file file;
    uint64_t size = 0;
    if (bkv_file_open(&file, &in->dir, name, O_RDONLY) == BITKV_OK) {
        (void)bkv_file_size(&file, &size); /* what is wrong with it shows when it is read */
        bkv_file_close(&file);
    }
    return size;
}

/* For the progress bar: what there is to read. */
static int add_up(struct inspection *in)
{
    uint64_t errors = in->errors;
    uint64_t findings = in->result->findings;
    const struct bkv_inspect_options *options = in->options;
    const struct bkv_inspect_options silent = {.result = options->result};
    in->options = &silent;
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < in->manifest.partitions && rc == BITKV_OK; i++) {
        rc = list_partition(in, i);
        char name[BKV_NAME_SIZE];
        for (size_t k = 0; k < in->count; k++) {
            bkv_name_data(name, i, in->files[k].id);
            in->bytes_total += size_of(in, name);
        }
        if (in->checkpoint) {
            bkv_name_checkpoint(name, i);
            in->bytes_total += size_of(in, name);
        }
    }
    in->options = options;
    in->errors = errors;
    in->result->findings = findings;
    return rc;
}

static int inspect_backup(struct inspection *in)
{
    bool known;
    struct bkv_contents had;
    struct bkv_contents has;
    int rc = bkv_contents_compare(&in->dir, in->manifest.partitions, &known, &had, &has);
    if (rc == BITKV_OK && known && !bkv_contents_same(&had, &has)) {
        (void)bkv_error(BITKV_ERR_CORRUPT,
                        "it was made with %" PRIu64 " data files of %" PRIu64
                        " bytes, and has %" PRIu64 " of %" PRIu64,
                        had.files, had.bytes, has.files, has.bytes);
        report_context(in, BKV_BACKUP_NAME);
    }
    return rc;
}

int bkv_inspect(const char *directory, const struct bkv_inspect_options *options)
{
    struct bkv_inspect_result unused = {0};
    struct inspection in = {
        .options = options,
        .result = options->result != NULL ? options->result : &unused,
        .dir = {.fd = -1},
    };
    *in.result = (struct bkv_inspect_result){0};
    int rc = open_directory(&in, directory);
    if (rc == BITKV_OK)
        rc = read_manifest(&in);
    if (rc == BITKV_OK)
        rc = add_up(&in);
    for (uint32_t i = 0; i < in.manifest.partitions && rc == BITKV_OK; i++)
        rc = inspect_partition(&in, i);
    if (rc == BITKV_OK)
        rc = inspect_backup(&in);
    if (rc == BITKV_OK && in.errors > 0)
        rc = bkv_error(BITKV_ERR_CORRUPT, "%s: %llu errors", directory,
                       (unsigned long long)in.errors);
    bkv_mfree(in.files);
    bkv_mfree(in.hints);
    bkv_mfree(in.damage);
    bkv_mfree(in.dir.path);
    if (in.dir.fd >= 0)
        (void)bkv_io->close(in.dir.fd);
    return rc;
}
