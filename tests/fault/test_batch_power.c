/* SPDX-License-Identifier: MIT */
/*
 * Batches and power cuts. The disk has of each block of 4 KiB either what was
 * there at the file's last fdatasync() or what is there now, at random, each
 * file for itself: one partition's log may be whole and another's gone. What
 * comes back must have every batch as a whole or not at all, and each that was
 * acknowledged with a sync.
 *
 * The keys of set `s` lie in the partitions of which `s` has a bit, and a batch
 * writes all of a set: so batches are chained through partitions that they share.
 *
 * The process may die, and be followed by another, before the power is cut: what
 * it left in the page cache is recovered then, but was never synced.
 */
#include "damage/lab.h"

#include "io/io.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PARTITIONS 3u
#define SETS       (1u << PARTITIONS) /* 0 is not used */
#define KEYS       3u                 /* of a set in each of its partitions */
#define BLOCK      4096u

static char path[LAB_PATH];
static uint64_t seed;

/* --- the disk ------------------------------------------------------------------ */

/* As of the last sync. */
struct synced {
    char name[64];
    uint8_t *data;
    size_t size;
};

static pthread_mutex_t disk_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct synced disk[512];
static size_t disk_count;

static struct synced *disk_file(const char *name)
{
    for (size_t i = 0; i < disk_count; i++) {
        if (strcmp(disk[i].name, name) == 0)
            return &disk[i];
    }
    struct synced *file = &disk[disk_count++];
    *file = (struct synced){.size = 0};
    (void)snprintf(file->name, sizeof file->name, "%s", name);
    return file;
}

static void disk_clear(void)
{
    for (size_t i = 0; i < disk_count; i++)
        free(disk[i].data);
    disk_count = 0;
}

static void disk_forget(const char *name)
{
    (void)pthread_mutex_lock(&disk_mutex);
    struct synced *file = disk_file(name);
    free(file->data);
    file->data = NULL;
    file->size = 0;
    (void)pthread_mutex_unlock(&disk_mutex);
}

/* Relative to the database: "partition_0/data_1.db". */
static bool name_of(int fd, char name[64])
{
    char link[64], full[LAB_PATH * 2];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, full, sizeof full - 1);
    if (n <= 0)
        return false;
    full[n] = '\0';
    const char *at = strstr(full, "/partition_");
    if (at == NULL)
        return false;
    (void)snprintf(name, 64, "%.60s", at + 1);
    return true;
}

/* What the process does from here on it has not done: it has died. */
static _Atomic bool dead;

static int on_fdatasync(int fd)
{
    char name[64];
    struct stat status;
    if (atomic_load(&dead) || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        !name_of(fd, name))
        return 0;
    (void)pthread_mutex_lock(&disk_mutex);
    struct synced *file = disk_file(name);
    free(file->data);
    file->size = (size_t)status.st_size;
    file->data = calloc(1, file->size + 1);
    ssize_t n = pread(fd, file->data, file->size, 0);
    if (n < 0)
        file->size = 0;
    (void)pthread_mutex_unlock(&disk_mutex);
    return 0;
}

static int on_fsync(int fd)
{
    return on_fdatasync(fd); /* entries of directories are durable here at once */
}

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_EXCL) != 0 && !atomic_load(&dead))
        disk_forget(name);
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

/* One of several ways to lose what was not synced. */
static void lose(struct lab_file *file)
{
    const struct synced *old = disk_file(file->name);
    unsigned way = (unsigned)(lab_random(&seed) % 4);
    size_t prefix = (size_t)(lab_random(&seed) % (file->size + 1));
    for (size_t at = 0; at < file->size; at += BLOCK) {
        bool kept =
            way == 0 || (way == 1 && at < prefix) || (way == 2 && lab_random(&seed) % 2 == 0);
        size_t size = file->size - at < BLOCK ? file->size - at : BLOCK;
        if (kept)
            continue;
        size_t known = at >= old->size ? 0 : old->size - at < size ? old->size - at : size;
        memset(file->data + at, 0, size);
        if (known > 0)
            memcpy(file->data + at, old->data + at, known);
    }
}

static struct lab_image image;

/* What a crash leaves: of the process, or of the power. */
static void take_image(bool power)
{
    (void)pthread_mutex_lock(&disk_mutex);
    lab_image_read(&image, path, SIZE_MAX / 2);
    for (size_t i = 0; i < image.count && power; i++) {
        if (strstr(image.files[i].name, "/data_") != NULL)
            lose(&image.files[i]);
    }
    (void)pthread_mutex_unlock(&disk_mutex);
}

/* The image is what there is; after a power cut all of it is durable. */
static void put_image(bool power)
{
    lab_remove(path);
    lab_image_write(&image, path);
    for (unsigned p = 0; p < PARTITIONS; p++) { /* images have no empty folders */
        char folder[LAB_PATH + 32];
        (void)snprintf(folder, sizeof folder, "%s/partition_%u", path, p);
        (void)mkdir(folder, 0700);
    }
    for (size_t i = 0; i < image.count && power; i++) {
        if (strstr(image.files[i].name, "/data_") == NULL)
            continue;
        struct synced *file = disk_file(image.files[i].name);
        free(file->data);
        file->size = image.files[i].size;
        file->data = malloc(file->size + 1);
        memcpy(file->data, image.files[i].data, file->size);
    }
    lab_image_free(&image);
}

static struct bkv_io_ops recording;

static int setup(void **state)
{
    (void)state;
    lab_path(path, "batch_power");
    recording = bkv_io_kernel;
    recording.fdatasync = on_fdatasync;
    recording.fsync = on_fsync;
    recording.openat = on_openat;
    bkv_io = &recording;
    seed = lab_seed();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bkv_io = &bkv_io_kernel;
    disk_clear();
    lab_remove(path);
    return 0;
}

/* --- the database ----------------------------------------------------------------- */

static unsigned written[SETS], deleted[SETS], kept[SETS]; /* numbers of batches */
static unsigned number;

static bitkv *open_db(bitkv_io_mode mode)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = PARTITIONS;
    o.max_file_size = 64u << 10;
    o.io_mode = mode;
    o.strict_recovery = true; /* a crash is no damage */
    o.sync_interval_ms = 20;
    o.checkpoint_interval_bytes = 150000;
    o.auto_compact = false; /* files are known by name here, and it renames some */
    bitkv *db;
    int rc = bitkv_open(&db, path, &o);
    if (rc != BITKV_OK)
        fail_msg("open: %s: %s", bitkv_error_name(rc), bitkv_error_context());
    return db;
}

/* Keys of each partition, found by trying: the hash key is the database's. */
static unsigned keys[PARTITIONS][SETS][KEYS];

static void find_keys(bitkv *db)
{
    unsigned next = 1;
    for (unsigned p = 0; p < PARTITIONS; p++) {
        for (unsigned s = 1; s < SETS; s++) {
            for (unsigned k = 0; k < KEYS; k++) {
                bitkv_statistics before, after;
                do {
                    next++;
                    bitkv_statistics_init(&before);
                    bitkv_statistics_init(&after);
                    assert_int_equal(bitkv_stats(db, p, &before), BITKV_OK);
                    assert_int_equal(bitkv_exists(db, &next, sizeof next), BITKV_NOT_FOUND);
                    assert_int_equal(bitkv_stats(db, p, &after), BITKV_OK);
                } while (after.gets_total == before.gets_total);
                keys[p][s][k] = next;
            }
        }
    }
}

static void write_set(bitkv *db, bitkv_batch *batch, unsigned s, bitkv_durability durability)
{
    static char value[9000];
    bool gone = lab_random(&seed) % 6 == 0;
    bitkv_batch_clear(batch);
    number++;
    memcpy(value, &number, sizeof number);
    for (unsigned p = 0; p < PARTITIONS; p++) {
        for (unsigned k = 0; k < KEYS && (s >> p & 1) != 0; k++) {
            const unsigned *key = &keys[p][s][k];
            size_t size = 4 + lab_random(&seed) % (lab_random(&seed) % 8 == 0 ? 9000 - 4 : 200);
            assert_int_equal(gone ? bitkv_batch_del(batch, key, sizeof *key)
                                  : bitkv_batch_put(batch, key, sizeof *key, value, size),
                             BITKV_OK);
        }
    }
    assert_int_equal(bitkv_write(db, batch, durability), BITKV_OK);
    written[s] = number;
    if (gone)
        deleted[s] = number;
    if (durability == BITKV_DURABILITY_SYNC)
        kept[s] = number;
}

/* Version of the set's keys, which all have the same; 0: absent. */
static unsigned version_of(bitkv *db, unsigned s)
{
    unsigned version = 0, seen = 0;
    for (unsigned p = 0; p < PARTITIONS; p++) {
        for (unsigned k = 0; k < KEYS && (s >> p & 1) != 0; k++) {
            void *value = NULL;
            unsigned one = 0;
            int rc = bitkv_get(db, &keys[p][s][k], sizeof keys[p][s][k], &value, NULL);
            if (rc == BITKV_OK)
                memcpy(&one, value, sizeof one);
            else if (rc != BITKV_NOT_FOUND)
                fail_msg("get: %s: %s", bitkv_error_name(rc), bitkv_error_context());
            bitkv_free(value);
            if (seen++ > 0 && one != version)
                fail_msg("set %u: batch %u here, %u there", s, version, one);
            version = one;
        }
    }
    return version;
}

static void check(bitkv *db, bool power)
{
    for (unsigned s = 1; s < SETS; s++) {
        unsigned version = version_of(db, s);
        unsigned least = power ? kept[s] : written[s];
        bool right = version == 0 ? deleted[s] >= least : version >= least && version <= written[s];
        if (!right && !(version == 0 && least == 0))
            fail_msg("set %u is at %u: %u was acknowledged, %u written, %u deleted", s, version,
                     least, written[s], deleted[s]);
        /* From now on this is what there is. */
        written[s] = version != 0 ? version : deleted[s];
        if (power)
            kept[s] = written[s];
    }
}

static void run(bitkv_io_mode mode, unsigned rounds)
{
    lab_remove(path);
    disk_clear();
    memset(written, 0, sizeof written);
    memset(deleted, 0, sizeof deleted);
    memset(kept, 0, sizeof kept);
    number = 0;
    bitkv *db = open_db(mode);
    find_keys(db);
    bitkv_batch *batch;
    assert_int_equal(bitkv_batch_create(&batch), BITKV_OK);
    for (unsigned round = 0; round < rounds; round++) {
        unsigned batches = (unsigned)(lab_random(&seed) % 25);
        unsigned syncs = 2 + (unsigned)(lab_random(&seed) % 20);
        for (unsigned i = 0; i < batches; i++) {
            unsigned s = 1 + (unsigned)(lab_random(&seed) % (SETS - 1));
            bitkv_durability durability = lab_random(&seed) % syncs == 0
                                              ? BITKV_DURABILITY_SYNC
                                              : (bitkv_durability)(1 + lab_random(&seed) % 2);
            write_set(db, batch, s, durability);
        }
        bool power = lab_random(&seed) % 3 != 0;
        take_image(power);
        atomic_store(&dead, true);
        assert_int_equal(bitkv_close(db), BITKV_OK);
        atomic_store(&dead, false);
        put_image(power);
        db = open_db(mode);
        check(db, power);
    }
    bitkv_batch_destroy(batch);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static void batches_are_whole_after_a_power_cut_with_mappings(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 40; i += lab_slowness())
        run(BITKV_IO_MMAP, 10);
}

static void batches_are_whole_after_a_power_cut_with_pwrite(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 40; i += lab_slowness())
        run(BITKV_IO_PWRITE, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_whole_after_a_power_cut_with_mappings),
        cmocka_unit_test(batches_are_whole_after_a_power_cut_with_pwrite),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
