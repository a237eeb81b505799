/* SPDX-License-Identifier: MIT */
/*
 * Gets of a queue whose record has to be read from disk, and is not there as it should
 * be: its file is gone, no descriptor is to be had, its head is damaged, or a forged
 * index leads to another record. Each completes as the same get from memory does.
 */
#include "api/queue.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "damage/lab.h"
#include "log/format.h"
#include "log/location.h"

#define M (&lab_manifest_1)

static bitkv_io_mode modes[] = {BITKV_IO_MMAP, BITKV_IO_PWRITE};

static bitkv *open_lab(bitkv_io_mode mode)
{
    bitkv *db = NULL;
    ok(lab_open(&db, path, (struct lab_open){.io_mode = mode, .by_hand = true}));
    return db;
}

/* --- files --------------------------------------------------------------------------------- */

/* The writer has compacted it since the follower was opened. */
static void a_cold_get_of_a_file_that_is_gone_finds_where_the_key_lies_now(void **state)
{
    (void)state;
    static const char value[3000] = "value";
    static char names[60][8];
    for_both_modes(mode)
    {
        bitkv_options o = one_partition(mode);
        o.auto_compact = false;
        bitkv *db = open_with(&o);
        for (unsigned i = 0; i < 60; i++) {
            (void)snprintf(names[i], sizeof names[i], "k%u", i);
            for (unsigned k = 0; k < 2; k++)
                ok(bitkv_put(db, names[i], strlen(names[i]), value, sizeof value));
        }
        o.read_only = true;
        bitkv *follower = open_with(&o);
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        bitkv_cq *cq = queue_of(follower, 0);
        for (unsigned i = 0; i < 60; i++) {
            char got[sizeof value];
            bitkv_completion c = one(cq, op_get(names[i], got, sizeof got));
            expect_code(c.status, BITKV_OK, c.error, __FILE__, __LINE__);
            assert_int_equal(c.value_size, sizeof value);
            assert_memory_equal(got, value, sizeof value);
        }
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(follower));
        ok(bitkv_close(db));
    }
}

static _Atomic bool no_descriptors;

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if (atomic_load(&no_descriptors) && strncmp(name, "partition_0/data_", 17) == 0 &&
        (flags & O_ACCMODE) == O_RDONLY) {
        errno = EMFILE;
        return -1;
    }
    return bkv_io_kernel.openat(dirfd, name, flags, mode);
}

static int setup(void **state)
{
    int rc = seam_setup(state);
    atomic_store(&no_descriptors, false);
    seam_ops.openat = on_openat;
    return rc;
}

#define COLD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, seam_teardown)

/* But for those that the mappings were made by. */
static void a_cold_get_without_a_descriptor_is_read_through_the_mapping(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "a", "1");
    put_text(db, "b", "2");
    bitkv_cq *cq = queue_of(db, 0);
    char got[8];
    atomic_store(&no_descriptors, true);
    atomic_store(&seam.all_cold, true);
    forget_pages(db);
    bitkv_completion c = one(cq, op_get("a", got, sizeof got));
    expect_got(&c, "1");
    c = one(cq, op_key(BITKV_OP_EXISTS, "b"));
    assert_int_equal(c.status, BITKV_OK);
    c = one(cq, op_get("c", got, sizeof got));
    assert_int_equal(c.status, BITKV_NOT_FOUND);
    assert_int_equal(atomic_load(&seam.ring_reads) + atomic_load(&seam.pool_reads), 0);
    atomic_store(&no_descriptors, false);
    ok(bitkv_cq_destroy(cq));
    ok(bitkv_close(db));
}

/* --- records ------------------------------------------------------------------------------- */

/* Where keys begin. */
static size_t key_a, key_b;

static void make_log(struct lab_image *image)
{
    struct lab_log log;
    lab_add_manifest(image, M);
    lab_log_begin(&log, M, 0, 1, 1);
    key_a = lab_log_put(&log, 1, "a", "1") + BKV_RECORD_HEADER;
    key_b = lab_log_put(&log, 2, "b", "2") + BKV_RECORD_HEADER;
    (void)lab_log_put(&log, 3, "longer", "3");
    (void)lab_log_delete(&log, 4, "d");
    lab_log_end(&log, image);
    lab_add_hint(image, M, 0, 1);
}

static void flip(size_t offset)
{
    char name[PATH_SIZE];
    uint8_t byte;
    int fd = open(inside(name, path, "partition_0/data_1.db"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    (void)close(fd);
}

/* That the head names another key is no proof that this one is absent. */
static void damage_in_a_key_is_not_its_absence(void **state)
{
    (void)state;
    static struct lab_image image;
    char got[8];
    make_log(&image);
    for (size_t i = 0; i < 2; i++) {
        lab_image_write(&image, path);
        bitkv *db = open_lab(modes[i]);
        bitkv_cq *cq = queue_of(db, 0);
        for_hot_and_cold(cold)
        {
            for (unsigned damaged = 0; damaged < 2; damaged++) {
                forget_pages(db);
                int wanted = damaged ? BITKV_ERR_CORRUPT : BITKV_OK;
                if (damaged)
                    flip(key_a);
                bitkv_completion c = one(cq, op_key(BITKV_OP_EXISTS, "a"));
                assert_int_equal(c.status, wanted);
                assert_int_equal(strstr(c.error, "data_1.db") != NULL, damaged);
                c = one(cq, op_get("a", got, sizeof got));
                assert_int_equal(c.status, wanted);
                c = one(cq, op_get("b", got, sizeof got));
                expect_got(&c, "2");
                if (damaged)
                    flip(key_a);
            }
        }
        ok(bitkv_cq_destroy(cq));
        ok(bitkv_close(db));
    }
    lab_image_free(&image);
}

static void seal_hint(struct lab_file *hint)
{
    bkv_put32(hint->data + 112,
              bkv_crc32c(0, hint->data + BKV_HINT_HEADER, hint->size - BKV_HINT_HEADER));
    bkv_put32(hint->data + 116, bkv_crc32c(0, hint->data, 116));
}

/* The place of entry `i` for the first, which is that of "a": what two keys with one
 * fingerprint would look like. */
static void forge(struct lab_image *image, unsigned i)
{
    struct lab_file *hint = lab_image_find(image, "partition_0/hint_1.ht");
    uint8_t *first = hint->data + BKV_HINT_HEADER + 8;
    uint64_t place = bkv_get64(first + (size_t)i * BKV_HINT_ENTRY) & ((1ull << 39) - 1);
    bkv_put64(first, bkv_get64(first) >> 39 << 39 | place);
    seal_hint(hint);
}

static void what_is_found_is_of_the_key_or_absent(void **state)
{
    (void)state;
    char got[8];
    for (unsigned entry = 1; entry < 4; entry++) { /* as long; longer; a deletion */
        static struct lab_image image;
        make_log(&image);
        forge(&image, entry);
        for (size_t i = 0; i < 2; i++) {
            lab_image_write(&image, path);
            bitkv *db = open_lab(modes[i]);
            bitkv_cq *cq = queue_of(db, 0);
            for_hot_and_cold(cold)
            {
                forget_pages(db);
                bitkv_completion c = one(cq, op_get("a", got, sizeof got));
                assert_int_equal(c.status, BITKV_NOT_FOUND);
                c = one(cq, op_key(BITKV_OP_EXISTS, "a"));
                assert_int_equal(c.status, BITKV_NOT_FOUND);
                c = one(cq, op_get("b", got, sizeof got));
                expect_got(&c, "2");
                c = one(cq, op_get("longer", got, sizeof got));
                expect_got(&c, "3");
            }
            ok(bitkv_cq_destroy(cq));
            ok(bitkv_close(db));
        }
        lab_image_free(&image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        COLD_TEST(a_cold_get_of_a_file_that_is_gone_finds_where_the_key_lies_now),
        COLD_TEST(a_cold_get_without_a_descriptor_is_read_through_the_mapping),
        COLD_TEST(damage_in_a_key_is_not_its_absence),
        COLD_TEST(what_is_found_is_of_the_key_or_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
