/* SPDX-License-Identifier: MIT */
/*
 * What the tests of damage, faults and formats share: scratch directories,
 * a database's files held in memory, and logs built record by record through
 * the internal encoders, so that every byte and its meaning is known.
 *
 * Helpers fail the running test rather than return errors.
 */
#ifndef BITKV_TESTS_DAMAGE_LAB_H
#define BITKV_TESTS_DAMAGE_LAB_H

#include "io/file.h"
#include "io/io.h"
#include "log/manifest.h"

#include <bitkv.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAB_PATH 512

/* --- scratch ------------------------------------------------------------- */

/* An absolute path below TMPDIR that does not exist, `name` in it. */
void lab_path(char path[LAB_PATH], const char *name);
/* The same, created. */
void lab_directory(char path[LAB_PATH], const char *name);
/* With everything in it; absent is fine. */
void lab_remove(const char *path);
/* A directory with everything in it; what is zero becomes a hole. */
void lab_copy(const char *from, const char *to);
void lab_join(char path[LAB_PATH], const char *directory, const char *name);
bool lab_exists(const char *path);

/* A directory as the library's own code uses it. */
struct bkv_dir *lab_dir_open(const char *path);
void lab_dir_close(struct bkv_dir *dir);

/* --- files in memory ---------------------------------------------------------- */

struct lab_file {
    char name[80]; /* relative, "partition_0/data_1.db" */
    uint8_t *data;
    size_t size;
};

struct lab_image {
    struct lab_file files[128];
    size_t count;
};

/* Reads all files of a database; trailing zeros of data files beyond `zeros`
 * are left out (space that was reserved, not written); a record may end in
 * zeros, so leave some. */
void lab_image_read(struct lab_image *image, const char *path, size_t zeros);
/* Makes the directory hold just these files. */
void lab_image_write(const struct lab_image *image, const char *path);
void lab_image_copy(struct lab_image *to, const struct lab_image *from);
void lab_image_free(struct lab_image *image);
struct lab_file *lab_image_find(struct lab_image *image, const char *name);
struct lab_file *lab_image_add(struct lab_image *image, const char *name, const void *data,
                               size_t size);
void lab_image_drop(struct lab_image *image, const char *name);
void lab_file_resize(struct lab_file *file, size_t size); /* new bytes are zero */

/* --- logs by hand ------------------------------------------------------------------ */

/* The database that every hand-made log is of. */
extern const struct bkv_manifest lab_manifest_2; /* two partitions */
extern const struct bkv_manifest lab_manifest_1; /* one */

/* A data file in the making. */
struct lab_log {
    const struct bkv_manifest *manifest;
    uint32_t partition;
    uint64_t id;
    uint8_t *data;
    size_t size, capacity;
};

/* Bytes of the MANIFEST. */
void lab_add_manifest(struct lab_image *image, const struct bkv_manifest *manifest);
void lab_log_begin(struct lab_log *log, const struct bkv_manifest *manifest, uint32_t partition,
                   uint64_t id, uint64_t base_sequence);
/* Each returns the record's offset. */
size_t lab_log_put(struct lab_log *log, uint64_t sequence, const char *key, const char *value);
/* With a deadline. */
size_t lab_log_put_until(struct lab_log *log, uint64_t sequence, uint64_t deadline, const char *key,
                         const char *value);
size_t lab_log_delete(struct lab_log *log, uint64_t sequence, const char *key);
size_t lab_log_mark(struct lab_log *log, uint64_t sequence, uint64_t segment_id, uint64_t offset);
size_t lab_log_raw(struct lab_log *log, uint8_t type, uint64_t sequence, const void *key,
                   size_t key_size, const void *value, size_t value_size);
void lab_log_bytes(struct lab_log *log, const void *bytes, size_t size); /* NULL: zeros */
/* Moves the bytes into the image as data_<id>.db. */
void lab_log_end(struct lab_log *log, struct lab_image *image);
/* Writes the hint of a data file of the image into it, through the engine's
 * own writer, as the sealing worker would. */
void lab_add_hint(struct lab_image *image, const struct bkv_manifest *manifest, uint32_t partition,
                  uint64_t id);
/* A key that goes to the partition: "<prefix><n>", n the smallest from `from`
 * on; returns n. */
unsigned lab_key(char key[32], const struct bkv_manifest *manifest, uint32_t partition,
                 const char *prefix, unsigned from);
uint32_t lab_partition_of(const struct bkv_manifest *manifest, const char *key);

/* --- opening ---------------------------------------------------------------------------- */

/* What the library said while a database was open. */
struct lab_log_lines {
    _Atomic unsigned lines, warnings, errors; /* of all levels; of those two */
    char last[512];
};

struct lab_open {
    bool read_only, strict;
    bool by_hand; /* files stay what they are unless bitkv_compact() is called */
    bitkv_io_mode io_mode;
    uint64_t max_file_size; /* 0: the smallest */
    struct lab_log_lines *lines;
};

int lab_open(bitkv **db, const char *path, struct lab_open how);
bitkv_recovery lab_recovery(bitkv *db);
/* The value as a string in a static buffer; *rc is what the get returned. */
const char *lab_get(bitkv *db, const char *key, int *rc);
void lab_put(bitkv *db, const char *key, const char *value);
void lab_expect(bitkv *db, const char *key, const char *value); /* NULL: not found */

/* Syncs become no-ops, for tests that open a thousand times and cut no power.
 * The table stays in force until lab_sync_on(). */
void lab_sync_off(void);
void lab_sync_on(void);

/* Pseudo-random numbers from a seed that is printed; BITKV_TEST_SEED sets it. */
uint64_t lab_seed(void);
uint64_t lab_random(uint64_t *state);

/* Set by the environment: "BITKV_DAMAGE_ALL=1", say. */
bool lab_flag(const char *name);

/* 1 in an ordinary build, more where a sanitizer makes everything slower. */
unsigned lab_slowness(void);

/* Descriptors open in this process, and bytes allocated by malloc. */
unsigned lab_descriptors(void);

#endif
