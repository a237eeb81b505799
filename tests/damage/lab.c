/* SPDX-License-Identifier: MIT */
#include "damage/lab.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "log/filename.h"
#include "log/hint.h"
#include "log/record.h"
#include "log/scan.h"
#include "log/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* --- scratch ------------------------------------------------------------- */

void lab_path(char path[LAB_PATH], const char *name)
{
    static unsigned number;
    const char *base = getenv("TMPDIR");
    int n = snprintf(path, LAB_PATH, "%s/bitkv-%s-%d-%u", base != NULL ? base : "/tmp", name,
                     (int)getpid(), number++);
    assert_true(n > 0 && n < LAB_PATH);
    lab_remove(path);
}

void lab_directory(char path[LAB_PATH], const char *name)
{
    lab_path(path, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

void lab_remove(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void copy_file(const char *from, const char *to)
{
    static char buffer[1 << 16];
    static const char zeros[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(in >= 0 && out >= 0);
    off_t at = 0;
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0; at += n) {
        if (memcmp(buffer, zeros, (size_t)n) != 0)
            assert_int_equal(pwrite(out, buffer, (size_t)n, at), n);
    }
    assert_int_equal(ftruncate(out, at), 0);
    (void)close(in);
    (void)close(out);
}

void lab_copy(const char *from, const char *to)
{
    DIR *dir = opendir(from);
    assert_non_null(dir);
    assert_int_equal(mkdir(to, 0700), 0);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        char a[LAB_PATH], b[LAB_PATH];
        struct stat status;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        lab_join(a, from, e->d_name);
        lab_join(b, to, e->d_name);
        if (stat(a, &status) != 0) /* a thread of the database has removed it meanwhile */
            continue;
        if (S_ISDIR(status.st_mode))
            lab_copy(a, b);
        else
            copy_file(a, b);
    }
    (void)closedir(dir);
}

void lab_join(char path[LAB_PATH], const char *directory, const char *name)
{
    int n = snprintf(path, LAB_PATH, "%s/%s", directory, name);
    assert_true(n > 0 && n < LAB_PATH);
}

bool lab_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

struct bkv_dir *lab_dir_open(const char *path)
{
    struct bkv_dir *dir = calloc(1, sizeof *dir);
    assert_non_null(dir);
    dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir->fd >= 0);
    dir->path = strdup(path);
    assert_non_null(dir->path);
    dir->file_mode = 0600;
    dir->dir_mode = 0700;
    return dir;
}

void lab_dir_close(struct bkv_dir *dir)
{
    (void)close(dir->fd);
    free(dir->path);
    free(dir);
}

/* --- files in memory ---------------------------------------------------------- */

static void read_whole(struct lab_file *file, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    file->size = (size_t)status.st_size;
    file->data = malloc(file->size + 1);
    assert_non_null(file->data);
    for (size_t done = 0; done < file->size;) {
        ssize_t n = pread(fd, file->data + done, file->size - done, (off_t)done);
        assert_true(n >= 0);
        if (n == 0) /* of an open database: the worker has trimmed it meanwhile */
            file->size = done;
        done += (size_t)n;
    }
    (void)close(fd);
}

static void read_folder(struct lab_image *image, const char *path, const char *prefix)
{
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (const struct dirent *e; (e = readdir(folder)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        char full[LAB_PATH];
        lab_join(full, path, e->d_name);
        struct stat status;
        assert_int_equal(lstat(full, &status), 0);
        if (S_ISDIR(status.st_mode)) {
            char deeper[LAB_PATH];
            (void)snprintf(deeper, sizeof deeper, "%.64s/", e->d_name);
            read_folder(image, full, deeper);
            continue;
        }
        assert_true(image->count < sizeof image->files / sizeof image->files[0]);
        struct lab_file *file = &image->files[image->count++];
        int n = snprintf(file->name, sizeof file->name, "%s%s", prefix, e->d_name);
        assert_true(n > 0 && n < (int)sizeof file->name);
        read_whole(file, full);
    }
    (void)closedir(folder);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lab_file *)a)->name, ((const struct lab_file *)b)->name);
}

void lab_image_read(struct lab_image *image, const char *path, size_t zeros)
{
    image->count = 0;
    read_folder(image, path, "");
    qsort(image->files, image->count, sizeof image->files[0], by_name);
    for (size_t i = 0; i < image->count; i++) {
        struct lab_file *file = &image->files[i];
        if (strstr(file->name, "/data_") == NULL)
            continue;
        size_t used = file->size;
        while (used > 0 && file->data[used - 1] == 0)
            used--;
        used = (used + 7) & ~(size_t)7;
        if (used + zeros < file->size)
            file->size = used + zeros;
    }
}

void lab_image_write(const struct lab_image *image, const char *path)
{
    lab_remove(path);
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < image->count; i++) {
        const struct lab_file *file = &image->files[i];
        char full[LAB_PATH];
        lab_join(full, path, file->name);
        char *slash = strrchr(full, '/');
        *slash = '\0';
        if (mkdir(full, 0700) != 0)
            assert_int_equal(errno, EEXIST);
        *slash = '/';
        int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        for (size_t done = 0; done < file->size;) {
            ssize_t n = pwrite(fd, file->data + done, file->size - done, (off_t)done);
            assert_true(n > 0);
            done += (size_t)n;
        }
        (void)close(fd);
    }
}

void lab_image_copy(struct lab_image *to, const struct lab_image *from)
{
    to->count = 0;
    for (size_t i = 0; i < from->count; i++)
        (void)lab_image_add(to, from->files[i].name, from->files[i].data, from->files[i].size);
}

void lab_image_free(struct lab_image *image)
{
    for (size_t i = 0; i < image->count; i++)
        free(image->files[i].data);
    image->count = 0;
}

struct lab_file *lab_image_find(struct lab_image *image, const char *name)
{
    for (size_t i = 0; i < image->count; i++) {
        if (strcmp(image->files[i].name, name) == 0)
            return &image->files[i];
    }
    fail_msg("the image has no %s", name);
    return NULL;
}

struct lab_file *lab_image_add(struct lab_image *image, const char *name, const void *data,
                               size_t size)
{
    assert_true(image->count < sizeof image->files / sizeof image->files[0]);
    struct lab_file *file = &image->files[image->count++];
    (void)snprintf(file->name, sizeof file->name, "%s", name);
    file->size = size;
    file->data = malloc(size + 1);
    assert_non_null(file->data);
    if (size > 0)
        memcpy(file->data, data, size);
    return file;
}

void lab_image_drop(struct lab_image *image, const char *name)
{
    struct lab_file *file = lab_image_find(image, name);
    free(file->data);
    *file = image->files[--image->count];
}

void lab_file_resize(struct lab_file *file, size_t size)
{
    uint8_t *data = realloc(file->data, size + 1);
    assert_non_null(data);
    if (size > file->size)
        memset(data + file->size, 0, size - file->size);
    file->data = data;
    file->size = size;
}

/* --- logs by hand ------------------------------------------------------------------ */

#define LAB_IDENTITY                                                                               \
    .database_id = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,                                \
                    0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f},                               \
    .hash_key = {.k0 = 0x0706050403020100u, .k1 = 0x0f0e0d0c0b0a0908u},                            \
    .created_ms = 1700000000000u

const struct bkv_manifest lab_manifest_1 = {.partitions = 1, LAB_IDENTITY};
const struct bkv_manifest lab_manifest_2 = {.partitions = 2, LAB_IDENTITY};

void lab_add_manifest(struct lab_image *image, const struct bkv_manifest *manifest)
{
    char path[LAB_PATH];
    lab_directory(path, "manifest");
    struct bkv_dir *dir = lab_dir_open(path);
    assert_int_equal(bkv_manifest_write(dir, manifest), BITKV_OK);
    lab_dir_close(dir);
    struct lab_image one = {.count = 0};
    lab_image_read(&one, path, 0);
    assert_int_equal(one.count, 1);
    (void)lab_image_add(image, one.files[0].name, one.files[0].data, one.files[0].size);
    lab_image_free(&one);
    lab_remove(path);
}

void lab_log_bytes(struct lab_log *log, const void *bytes, size_t size)
{
    if (log->size + size > log->capacity) {
        log->capacity = 2 * (log->size + size);
        log->data = realloc(log->data, log->capacity);
        assert_non_null(log->data);
    }
    if (bytes != NULL)
        memcpy(log->data + log->size, bytes, size);
    else
        memset(log->data + log->size, 0, size);
    log->size += size;
}

void lab_log_begin(struct lab_log *log, const struct bkv_manifest *manifest, uint32_t partition,
                   uint64_t id, uint64_t base_sequence)
{
    *log = (struct lab_log){.manifest = manifest, .partition = partition, .id = id};
    struct bkv_segment_header header = {
        .partition = partition,
        .kind = BKV_SEGMENT_STREAM,
        .id = id,
        .base_sequence = base_sequence,
    };
    memcpy(header.database_id, manifest->database_id, sizeof header.database_id);
    uint8_t bytes[BKV_SEGMENT_HEADER];
    bkv_segment_header_encode(bytes, &header);
    lab_log_bytes(log, bytes, sizeof bytes);
}

static size_t append_record(struct lab_log *log, const struct bkv_record *record, uint64_t deadline,
                            const void *key, const void *value)
{
    size_t at = log->size;
    size_t size = (size_t)bkv_record_size_of(record);
    lab_log_bytes(log, NULL, size);
    uint8_t *bytes = log->data + at;
    bkv_record_begin(bytes, record);
    uint8_t *to = bytes + BKV_RECORD_HEADER + bkv_record_prefix(record->flags);
    if (record->flags != 0)
        bkv_put64(bytes + BKV_RECORD_HEADER, deadline);
    if (record->key_size > 0)
        memcpy(to, key, record->key_size);
    if (record->value_size > 0)
        memcpy(to + record->key_size, value, record->value_size);
    uint32_t crc = bkv_record_crc_begin(bytes);
    crc = bkv_crc32c(crc, bytes + BKV_RECORD_HEADER, size - BKV_RECORD_HEADER);
    uint64_t seed = bkv_segment_seed(log->manifest->database_id, log->partition, log->id);
    bkv_record_finish(bytes, crc, record->sequence, seed, at);
    return at;
}

size_t lab_log_raw(struct lab_log *log, uint8_t type, uint64_t sequence, const void *key,
                   size_t key_size, const void *value, size_t value_size)
{
    struct bkv_record record = {
        .value_size = (uint32_t)value_size,
        .key_size = (uint16_t)key_size,
        .type = type,
        .sequence = sequence,
    };
    return append_record(log, &record, 0, key, value);
}

size_t lab_log_put_until(struct lab_log *log, uint64_t sequence, uint64_t deadline, const char *key,
                         const char *value)
{
    struct bkv_record record = {
        .value_size = (uint32_t)strlen(value),
        .key_size = (uint16_t)strlen(key),
        .type = BKV_RECORD_PUT,
        .flags = BKV_RECORD_EXPIRES,
        .sequence = sequence,
    };
    return append_record(log, &record, deadline, key, value);
}

size_t lab_log_put(struct lab_log *log, uint64_t sequence, const char *key, const char *value)
{
    return lab_log_raw(log, BKV_RECORD_PUT, sequence, key, strlen(key), value, strlen(value));
}

size_t lab_log_delete(struct lab_log *log, uint64_t sequence, const char *key)
{
    return lab_log_raw(log, BKV_RECORD_DELETE, sequence, key, strlen(key), NULL, 0);
}

size_t lab_log_mark(struct lab_log *log, uint64_t sequence, uint64_t segment_id, uint64_t offset)
{
    uint8_t value[BKV_MARK_SIZE];
    bkv_put64(value, segment_id);
    bkv_put64(value + 8, offset);
    return lab_log_raw(log, BKV_RECORD_MARK, sequence, NULL, 0, value, sizeof value);
}

void lab_log_end(struct lab_log *log, struct lab_image *image)
{
    char name[BKV_NAME_SIZE];
    bkv_name_data(name, log->partition, log->id);
    (void)lab_image_add(image, name, log->data, log->size);
    free(log->data);
    log->data = NULL;
}

static void copy_entries(struct bkv_hint_writer *writer, struct bkv_scanner *scanner,
                         const struct bkv_manifest *manifest, uint64_t *last)
{
    for (;;) {
        struct bkv_scan_item item;
        assert_int_equal(bkv_scanner_next(scanner, &item), BITKV_OK);
        if (item.kind == BKV_SCAN_END)
            return;
        assert_int_equal(item.kind, BKV_SCAN_RECORD);
        *last = item.record.sequence;
        if (bkv_record_is_keyless(&item.record))
            continue;
        struct bkv_hash hash = bkv_hash(&manifest->hash_key, item.key, item.record.key_size);
        struct bkv_entry entry =
            bkv_entry(&hash, (enum bkv_record_type)item.record.type, item.offset, item.size);
        assert_int_equal(bkv_hint_add(writer, &entry, item.record.sequence, item.deadline),
                         BITKV_OK);
    }
}

void lab_add_hint(struct lab_image *image, const struct bkv_manifest *manifest, uint32_t partition,
                  uint64_t id)
{
    char path[LAB_PATH];
    char data_name[BKV_NAME_SIZE];
    char hint_name[BKV_NAME_SIZE];
    lab_path(path, "hint");
    bkv_name_data(data_name, partition, id);
    bkv_name_hint(hint_name, partition, id);
    struct lab_image one = {.count = 0};
    const struct lab_file *data = lab_image_find(image, data_name);
    (void)lab_image_add(&one, data_name, data->data, data->size);
    lab_image_write(&one, path);
    lab_image_free(&one);

    struct bkv_dir *dir = lab_dir_open(path);
    struct bkv_file file;
    assert_int_equal(bkv_file_open(&file, dir, data_name, O_RDONLY), BITKV_OK);
    struct bkv_hint_info info = {.partition = partition, .segment_id = id};
    memcpy(info.database_id, manifest->database_id, sizeof info.database_id);
    struct bkv_hint_writer writer;
    assert_int_equal(bkv_hint_begin(&writer, dir, &info), BITKV_OK);
    struct bkv_scanner scanner;
    uint64_t seed = bkv_segment_seed(manifest->database_id, partition, id);
    assert_int_equal(bkv_scanner_begin(&scanner, &file, seed, BKV_SEGMENT_HEADER,
                                       lab_image_find(image, data_name)->size),
                     BITKV_OK);
    uint64_t last = 0;
    uint64_t hint_size;
    copy_entries(&writer, &scanner, manifest, &last);
    bkv_scanner_end(&scanner);
    assert_int_equal(
        bkv_hint_finish(&writer, lab_image_find(image, data_name)->size, last, &hint_size),
        BITKV_OK);
    bkv_file_close(&file);
    lab_dir_close(dir);
    lab_image_read(&one, path, SIZE_MAX / 2);
    const struct lab_file *hint = lab_image_find(&one, hint_name);
    (void)lab_image_add(image, hint_name, hint->data, hint->size);
    lab_image_free(&one);
    lab_remove(path);
}

uint32_t lab_partition_of(const struct bkv_manifest *manifest, const char *key)
{
    struct bkv_hash hash = bkv_hash(&manifest->hash_key, key, strlen(key));
    return bkv_hash_partition(&hash, manifest->partitions);
}

unsigned lab_key(char key[32], const struct bkv_manifest *manifest, uint32_t partition,
                 const char *prefix, unsigned from)
{
    for (unsigned n = from;; n++) {
        (void)snprintf(key, 32, "%.16s%u", prefix, n);
        if (lab_partition_of(manifest, key) == partition)
            return n;
    }
}

/* --- opening ---------------------------------------------------------------------------- */

static void on_log(void *user, bitkv_log_level level, const char *message)
{
    /* Several threads may speak at once: counters only need not be exact. */
    struct lab_log_lines *lines = user;
    atomic_fetch_add(&lines->lines, 1);
    if (level == BITKV_LOG_WARNING)
        atomic_fetch_add(&lines->warnings, 1);
    if (level == BITKV_LOG_ERROR)
        atomic_fetch_add(&lines->errors, 1);
    if (lab_flag("BITKV_TEST_VERBOSE"))
        (void)fprintf(stderr, "  log: %s\n", message);
}

int lab_open(bitkv **db, const char *path, struct lab_open how)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = how.read_only;
    options.strict_recovery = how.strict;
    options.io_mode = how.io_mode;
    options.auto_compact = !how.by_hand;
    options.create_if_missing = false;
    options.max_file_size = how.max_file_size != 0 ? how.max_file_size : 64u << 10;
    static struct lab_log_lines nobody;
    options.log = on_log;
    options.log_user = how.lines != NULL ? how.lines : &nobody;
    return bitkv_open(db, path, &options);
}

bitkv_recovery lab_recovery(bitkv *db)
{
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    assert_int_equal(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), BITKV_OK);
    return statistics.recovery;
}

const char *lab_get(bitkv *db, const char *key, int *rc)
{
    static char value[1u << 17];
    size_t size = 0;
    *rc = bitkv_get_into(db, key, strlen(key), value, sizeof value - 1, &size);
    value[*rc == BITKV_OK ? size : 0] = '\0';
    return value;
}

void lab_put(bitkv *db, const char *key, const char *value)
{
    int rc = bitkv_put(db, key, strlen(key), value, strlen(value));
    if (rc != BITKV_OK)
        fail_msg("put %s: %s: %s", key, bitkv_error_name(rc), bitkv_error_context());
}

void lab_expect(bitkv *db, const char *key, const char *value)
{
    int rc;
    const char *got = lab_get(db, key, &rc);
    int expected = value != NULL ? BITKV_OK : BITKV_NOT_FOUND;
    if (rc != expected)
        fail_msg("get %s: %s (%s) instead of %s", key, bitkv_error_name(rc),
                 rc < 0 ? bitkv_error_context() : got, bitkv_error_name(expected));
    if (value != NULL)
        assert_string_equal(got, value);
}

static int no_sync(int fd)
{
    (void)fd;
    return 0;
}

static struct bkv_io_ops without_sync;

void lab_sync_off(void)
{
    without_sync = bkv_io_kernel;
    without_sync.fdatasync = no_sync;
    without_sync.fsync = no_sync;
    bkv_io = &without_sync;
}

void lab_sync_on(void)
{
    bkv_io = &bkv_io_kernel;
}

/* --- odds and ends --------------------------------------------------------------------------- */

uint64_t lab_seed(void)
{
    const char *given = getenv("BITKV_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : bkv_now_ns();
    printf("BITKV_TEST_SEED=%" PRIu64 "\n", seed);
    return seed;
}

uint64_t lab_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

bool lab_flag(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && strcmp(value, "0") != 0 && value[0] != '\0';
}

unsigned lab_slowness(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return 8;
#else
    return 1;
#endif
}

unsigned lab_descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder) != NULL)
        count++;
    (void)closedir(folder);
    return count;
}
