/* SPDX-License-Identifier: MIT */
/*
 * Single runs of compaction whose end hangs by a thread: an output that fills its buffer
 * at a tombstone or at a record larger than that, an input that changes or goes while it
 * is read, memory that gives out in the last step. Runs are chosen here, not by
 * victims.c, so that something older stays and tombstones are needed.
 *
 * Each says so or succeeds, and everything is there, then, after another run, and after
 * an opening that has nothing but the files.
 */
#include "api/compaction.h"
#include "fault/faults.h"

#include "base/memory.h"
#include "damage/lab.h"
#include "log/hint.h"

#include <stdatomic.h>

#define FILE_BYTES   (2u << 20)
#define LARGE_BYTES  (600u << 10) /* more than the output's buffer */
#define FILLER_BYTES (1600u << 10)

static char base[PATH_SIZE];

/* --- what is in it ----------------------------------------------------------------- */

/* Of the second file, which is the input. All but FRESH have an older value before. */
enum { EXPIRED, DELETED, LASTING, FRESH, NAMED, LARGE_1 = 10, LARGE_2, FILLER_1 = 20, FILLER_2 };

static unsigned char large[FILLER_BYTES];

static void put_large(bitkv *db, uint32_t key, size_t size)
{
    fill(large, size, key);
    ok(bitkv_put(db, &key, sizeof key, large, size));
}

static void expect_large(bitkv *db, uint32_t key, size_t size)
{
    static unsigned char wanted[FILLER_BYTES];
    size_t got = 0;
    ok(bitkv_get_into(db, &key, sizeof key, large, sizeof large, &got));
    assert_int_equal(got, size);
    fill(wanted, size, key);
    assert_memory_equal(large, wanted, size);
}

static void put_for(bitkv *db, uint32_t key, uint64_t ttl_ms)
{
    bitkv_put_options o;
    bitkv_put_options_init(&o);
    o.ttl_ms = ttl_ms;
    ok(bitkv_put_if(db, &key, sizeof key, "for a while", 11, &o, NULL));
}

static bitkv *open_base(void)
{
    bitkv_options o = by_hand(BITKV_IO_MMAP);
    o.max_file_size = FILE_BYTES;
    return open_with(&o);
}

static struct bkv_segment *segment_at(bitkv *db, unsigned n)
{
    struct bkv_segment *s = atomic_load(&db->partitions[0]->first);
    for (; n > 0; n--)
        s = atomic_load(&s->next);
    assert_non_null(s);
    return s;
}

static void await_finished(bitkv *db, unsigned n)
{
    for (unsigned ms = 0; atomic_load(&segment_at(db, n)->phase) != BKV_PHASE_FINISHED; ms++) {
        assert_true(ms < 10000);
        sleep_ms(1);
    }
}

static int make_base(void **state)
{
    (void)make_directory(state);
    fault_install(); /* for its quick syncs */
    bitkv *db = open_base();
    for (uint32_t key = EXPIRED; key <= LASTING; key++)
        put_version(db, key, 1, 100);
    put_large(db, FILLER_1, FILLER_BYTES);

    put_large(db, LARGE_1, LARGE_BYTES);
    put_for(db, EXPIRED, 1);
    put_large(db, LARGE_2, LARGE_BYTES);
    delete_all(db, DELETED, DELETED + 1);
    put_for(db, LASTING, 3600000);
    put_version(db, FRESH, 1, 0);
    put_version(db, NAMED, 1, 50);

    put_large(db, FILLER_2, FILLER_BYTES);
    await_finished(db, 1);
    ok(bitkv_close(db));
    sleep_ms(2);
    inside(base, directory, "base");
    copy_tree(path, base);
    return 0;
}

static int remove_base(void **state)
{
    fault_uninstall();
    return remove_directory(state);
}

static bitkv *open_copy(void)
{
    remove_tree(path);
    copy_tree(base, path);
    return open_base();
}

static void expect_content(bitkv *db)
{
    expect_absent(db, EXPIRED, DELETED + 1);
    expect_version(db, FRESH, 1, 0);
    expect_version(db, NAMED, 1, 50);
    expect_large(db, LARGE_1, LARGE_BYTES);
    expect_large(db, LARGE_2, LARGE_BYTES);
    expect_large(db, FILLER_1, FILLER_BYTES);
    expect_large(db, FILLER_2, FILLER_BYTES);
    char got[32];
    size_t size = 0;
    ok(bitkv_get_into(db, &(uint32_t){LASTING}, sizeof(uint32_t), got, sizeof got, &size));
    assert_int_equal(size, 11);
}

/* --- runs ------------------------------------------------------------------------------ */

static int run_with(bitkv *db, unsigned first, const struct bkv_pace *pace)
{
    struct bkv_partition *p = db->partitions[0];
    struct bkv_run run = {
        .before = first > 0 ? segment_at(db, first - 1) : NULL,
        .segments = {segment_at(db, first)},
        .count = 1,
    };
    (void)pthread_mutex_lock(&p->compact_mutex);
    int rc = bkv_compact_go_on(p);
    if (rc == BITKV_OK)
        rc = bkv_compact_run(p, &run, pace);
    (void)pthread_mutex_unlock(&p->compact_mutex);
    return rc;
}

static int run(bitkv *db)
{
    return run_with(db, 1, &(struct bkv_pace){.thorough = true});
}

/* Nothing has changed, another run is made, and so is an opening. */
static void check_aftermath(bitkv *db)
{
    expect_content(db);
    bool writable = statistics_of(db).writes_refused == 0;
    if (writable && segment_at(db, 1)->kind != BKV_SEGMENT_COMPACTED)
        ok(run(db));
    expect_content(db);
    if (writable) { /* what was needed of it: an older value is there */
        assert_int_equal(records_of(db, EXPIRED).tombstones, 1);
        assert_int_equal(records_of(db, DELETED).tombstones, 1);
    }
    int rc = bitkv_close(db);
    assert_true(rc == BITKV_OK || rc == BITKV_ERR_SYNC_FAILED);
    remove_files("keydir");
    remove_files("hint");
    db = open_base();
    expect_content(db);
    assert_int_equal(statistics_of(db).recovery.damaged_regions, 0);
    ok(bitkv_close(db));
}

/* --- calls and memory --------------------------------------------------------------------- */

static void no_write_of_an_output_can_fail_unseen(void **state)
{
    (void)state;
    static const int errors[] = {ENOSPC, EIO};
    for (unsigned e = 0; e < 2; e++) {
        uint32_t fired = 1;
        for (uint32_t n = 0; fired > 0; n++) {
            bitkv *db = open_copy();
            fault_arm(FAULT_pwrite, n, 1, errors[e]);
            int rc = run(db);
            fired = fault_fired();
            fault_disarm();
            if (fired == 0)
                ok(rc);
            check_aftermath(db);
        }
    }
}

static void a_folder_that_takes_no_output_is_an_error(void **state)
{
    (void)state;
    bitkv *db = open_copy();
    fault_arm(FAULT_openat, 0, UINT32_MAX, ENOENT);
    fails(BITKV_ERR_IO, run(db));
    fault_disarm();
    check_aftermath(db);
}

/* Also the call that was to clean up. `of_all`: of any kind, else syncs of folders. An
 * output that may be there or not is the end of writing: *refused. */
static uint32_t run_under_faults(uint32_t n, bool of_all, unsigned *refused)
{
    bitkv *db = open_copy();
    if (of_all)
        fault_arm_all(n, UINT32_MAX, EIO);
    else
        fault_arm(FAULT_fsync, n, UINT32_MAX, EIO);
    int rc = run(db);
    uint32_t fired = fault_fired();
    fault_disarm();
    if (fired == 0)
        ok(rc);
    *refused += statistics_of(db).writes_refused > 0 ||
                bitkv_put(db, "x", 1, "", 0) == BITKV_ERR_SYNC_FAILED;
    expect_content(db);
    (void)bitkv_close(db);
    db = open_base();
    expect_content(db);
    ok(bitkv_close(db));
    return fired;
}

static void whatever_fails_from_one_call_on_loses_nothing(void **state)
{
    (void)state;
    for (unsigned of_all = 0; of_all < 2; of_all++) {
        uint32_t fired = 1;
        unsigned refused = 0;
        for (uint32_t n = 0; fired > 0; n++)
            fired = run_under_faults(n, of_all != 0, &refused);
        assert_true(of_all || refused > 0);
    }
}

static struct {
    uint32_t first;
    _Atomic uint32_t asked;
} memory;

static bool on_allocation(size_t size, void *user)
{
    (void)size;
    (void)user;
    return atomic_fetch_add(&memory.asked, 1) < memory.first;
}

static void refuse_memory(uint32_t first)
{
    memory.first = first;
    atomic_store(&memory.asked, 0);
    bkv_alloc_set_hook(on_allocation, NULL);
}

static void memory_may_give_out_at_any_record(void **state)
{
    (void)state;
    bool refused = true;
    for (uint32_t n = 0; refused; n++) {
        bitkv *db = open_copy();
        refuse_memory(n);
        int rc = run(db);
        bkv_alloc_set_hook(NULL, NULL);
        refused = atomic_load(&memory.asked) > n;
        if (rc != BITKV_OK)
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
        check_aftermath(db);
    }
}

/* Memory is there until an output has its name, and none from then on. */
static struct bkv_io_ops scarce_ops;
static _Atomic bool scarce;

static int run_out_at_rename(int dirfd, const char *from, const char *to)
{
    int rc = bkv_io_kernel.renameat(dirfd, from, to);
    if (strstr(to, "data_") != NULL)
        atomic_store(&scarce, true);
    return rc;
}

static bool unless_scarce(size_t size, void *user)
{
    (void)size, (void)user;
    return !atomic_load(&scarce);
}

/* The KeyDir has not taken the output in when a sync fails: neither is a checkpoint
 * written at the closing, nor the run ended, and the files say all. */
static void a_run_without_its_end_may_be_left_to_the_next_opening(void **state)
{
    (void)state;
    enum { KEYS = 20000, SIZE = 40 }; /* copies of the KeyDir need more than it has left */
    remove_tree(path);
    bitkv *db = open_by_hand(BITKV_IO_MMAP);
    put_all(db, KEYS, 1, SIZE);
    for (uint32_t key = 0; key < KEYS; key += 2)
        put_version(db, key, 2, SIZE);
    bitkv_snapshot *snapshot = NULL;
    ok(bitkv_snapshot_create(&snapshot, db));
    const struct bkv_io_ops *ops = bkv_io;
    scarce_ops = *ops;
    scarce_ops.renameat = run_out_at_rename;
    bkv_io = &scarce_ops;
    bkv_alloc_set_hook(unless_scarce, NULL);
    fails(BITKV_ERR_NO_MEMORY, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    assert_non_null(db->partitions[0]->unmoved);
    bkv_io = ops;
    bkv_alloc_set_hook(NULL, NULL);
    atomic_store(&scarce, false);
    ok(bitkv_snapshot_destroy(snapshot));
    fault_arm(FAULT_fdatasync, 0, UINT32_MAX, EIO);
    put_version(db, 0, 2, SIZE);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_sync(db));
    assert_non_null(db->partitions[0]->unmoved);
    fails(BITKV_ERR_SYNC_FAILED, bitkv_close(db));
    fault_disarm();
    db = open_by_hand(BITKV_IO_MMAP);
    for (uint32_t key = 0; key < KEYS; key++)
        expect_version(db, key, key % 2 == 0 ? 2 : 1, SIZE);
    compact(db);
    assert_int_equal(records_of(db, UINT32_MAX).puts, KEYS);
    ok(bitkv_close(db));
}

/* --- inputs that change ----------------------------------------------------------------------- */

/* Where the record of a type and key is in the second segment. */
static uint64_t find_record(bitkv *db, uint32_t key)
{
    struct bkv_partition *p = db->partitions[0];
    const struct bkv_segment *s = segment_at(db, 1);
    char name[BKV_NAME_SIZE];
    struct bkv_file file;
    struct bkv_scanner scanner;
    struct bkv_scan_item item;
    bkv_name_data(name, p->index, s->id);
    ok(bkv_file_open(&file, &p->store->dir, name, O_RDONLY));
    ok(bkv_scanner_begin(&scanner, &file, s->seed, BKV_SEGMENT_HEADER, atomic_load(&s->size)));
    do {
        ok(bkv_scanner_next(&scanner, &item));
        assert_true(item.kind != BKV_SCAN_END);
    } while (item.kind != BKV_SCAN_RECORD || item.record.key_size != sizeof key ||
             memcmp(item.key, &key, sizeof key) != 0);
    bkv_scanner_end(&scanner);
    bkv_file_close(&file);
    return item.offset;
}

static void change_byte(bitkv *db, uint64_t offset, unsigned char change)
{
    char name[PATH_SIZE], file[BKV_NAME_SIZE];
    bkv_name_data(file, 0, segment_at(db, 1)->id);
    unsigned char byte;
    int fd = open(inside(name, path, file), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= change;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    (void)close(fd);
}

/* A tombstone whose bytes are not what was written may be another key's; a value that
 * has become one is none. */
static void damage_of_any_record_keeps_its_file(void **state)
{
    (void)state;
    static const struct {
        uint32_t key;
        unsigned at;
        unsigned char change;
    } cases[] = {
        {DELETED, BKV_RECORD_HEADER, 0x40},
        {FRESH, BKV_RECORD_TYPE, BKV_RECORD_PUT ^ BKV_RECORD_DELETE}, /* as large, and plausible */
        {NAMED, BKV_RECORD_TYPE, 0x40},
        {NAMED, BKV_RECORD_HEADER + 20, 0x40},
        {LASTING, BKV_RECORD_VALUE_SIZE, 0x20},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bitkv *db = open_copy();
        uint64_t offset = find_record(db, cases[i].key);
        uint64_t id = segment_at(db, 1)->id;
        change_byte(db, offset + cases[i].at, cases[i].change);
        fails(BITKV_ERR_CORRUPT, run(db));
        context_has("does not verify");
        assert_true(segment_at(db, 1)->unfit);
        assert_int_equal(segment_at(db, 1)->id, id);
        compact(db); /* the others, without it */
        assert_int_equal(count_files("data_", ".tmp"), 0);
        change_byte(db, offset + cases[i].at, cases[i].change);
        expect_content(db);
        ok(bitkv_close(db));
    }
}

/* Its checksums are right, so the file was made by somebody, while we had it open. */
static void a_hint_that_points_behind_its_segment_is_damage(void **state)
{
    (void)state;
    bitkv *db = open_copy();
    struct bkv_partition *p = db->partitions[0];
    struct bkv_segment *s = segment_at(db, 1);
    uint64_t size = atomic_load(&s->size);
    struct bkv_hint_info info = bkv_hint_info_of(p, s);
    struct bkv_hint_writer writer;
    ok(bkv_hint_begin(&writer, &p->store->dir, &info));
    struct bkv_hash hash = {.lo = 12345, .hi = 6};
    struct bkv_entry entry = bkv_entry(&hash, BKV_RECORD_DELETE, (size + 63) & ~UINT64_C(63), 64);
    ok(bkv_hint_add(&writer, &entry, s->base_sequence, UINT64_MAX));
    uint64_t hint_bytes;
    ok(bkv_hint_finish(&writer, size, s->last_sequence, &hint_bytes));
    s->summary = (struct bkv_summary){0}; /* of no worth to the sieve: all stay */
    fails(BITKV_ERR_CORRUPT, run(db));
    context_has("behind its segment");
    assert_true(s->unfit);
    expect_content(db);
    ok(bitkv_close(db));
    remove_files("hint");
    remove_files("keydir");
    db = open_base();
    expect_content(db);
    ok(bitkv_close(db));
}

/* One that tells of no values: those that are there are read, and kept. */
static void a_summary_that_is_wrong_drops_nothing(void **state)
{
    (void)state;
    bitkv *db = open_copy();
    segment_at(db, 1)->summary = (struct bkv_summary){0};
    ok(run(db));
    check_aftermath(db);
}

static void an_input_that_is_gone_is_an_error_and_may_come_back(void **state)
{
    (void)state;
    bitkv *db = open_copy();
    expect_content(db); /* all is mapped */
    char file[BKV_NAME_SIZE], name[PATH_SIZE], away[PATH_SIZE];
    bkv_name_data(file, 0, segment_at(db, 1)->id);
    inside(name, path, file);
    inside(away, directory, "away");
    assert_int_equal(rename(name, away), 0);
    fails(BITKV_ERR_IO, run(db));
    expect_content(db);
    assert_int_equal(rename(away, name), 0);
    check_aftermath(db);
}

/* Its deadline was over when the run came to it; now it is another value's key. */
static int put_anew(void *user, uint64_t bytes)
{
    if (bytes > 0)
        put_version(user, 0, 9, 300);
    return BITKV_OK;
}

static void a_key_that_is_put_again_while_its_expired_value_goes_stays(void **state)
{
    (void)state;
    remove_tree(path);
    bitkv *db = open_base();
    put_for(db, 0, 1);
    put_for(db, 1, 1);
    put_for(db, 2, 3600000);
    put_large(db, FILLER_1, FILLER_BYTES);
    put_large(db, FILLER_2, FILLER_BYTES);
    await_finished(db, 0);
    sleep_ms(2);
    ok(run_with(db, 0, &(struct bkv_pace){.slice = put_anew, .user = db}));
    expect_version(db, 0, 9, 300);
    expect_absent(db, 1, 2);
    ok(bitkv_exists(db, &(uint32_t){2}, sizeof(uint32_t)));
    ok(bitkv_close(db));
    remove_files("keydir");
    db = open_base();
    expect_version(db, 0, 9, 300);
    expect_absent(db, 1, 2);
    ok(bitkv_exists(db, &(uint32_t){2}, sizeof(uint32_t)));
    ok(bitkv_close(db));
}

/* --- by hand ---------------------------------------------------------------------------------- */

enum { DAMAGED_KEYS = 200, DAMAGED_SIZE = 2000 };

static bool any_corrupt(bitkv *db)
{
    bool any = false;
    size_t size;
    for (uint32_t key = 0; key < DAMAGED_KEYS; key++)
        any |=
            bitkv_get_into(db, &key, sizeof key, large, sizeof large, &size) == BITKV_ERR_CORRUPT;
    return any;
}

/* One byte of the file, so that some key does not verify; returns where. */
static uint64_t damage_a_key(const char *name)
{
    for (uint64_t offset = 10000;; offset += DAMAGED_SIZE) {
        assert_true(offset < 60000);
        flip_byte(name, offset);
        bitkv *db = open_by_hand(BITKV_IO_MMAP);
        bool corrupt = any_corrupt(db);
        ok(bitkv_close(db));
        if (corrupt)
            return offset;
        flip_byte(name, offset);
    }
}

static void of_two_damaged_files_the_first_is_told(void **state)
{
    (void)state;
    remove_tree(path);
    bitkv *db = open_by_hand(BITKV_IO_MMAP);
    put_all(db, DAMAGED_KEYS, 1, DAMAGED_SIZE);
    for (uint32_t key = 0; key < DAMAGED_KEYS; key += 9)
        put_version(db, key, 1, DAMAGED_SIZE);
    ok(bitkv_close(db));
    static const char *const files[] = {"data_2.db", "data_5.db"};
    char names[2][PATH_SIZE];
    uint64_t offsets[2];
    offsets[0] = damage_a_key(in_partition(names[0], files[0]));
    flip_byte(names[0], offsets[0]);
    offsets[1] = damage_a_key(in_partition(names[1], files[1]));
    flip_byte(names[0], offsets[0]);

    db = open_by_hand(BITKV_IO_MMAP);
    fails(BITKV_ERR_CORRUPT, bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    context_has(files[0]);
    assert_true(statistics_of(db).compactions_total > 0);
    for (unsigned i = 0; i < 2; i++)
        flip_byte(names[i], offsets[i]);
    expect_all(db, DAMAGED_KEYS, 1, DAMAGED_SIZE);
    ok(bitkv_close(db));
}

/* The table of segments and the list of free numbers grow when 64 are there. */
static void the_number_of_an_output_may_lack_memory(void **state)
{
    (void)state;
    remove_tree(path);
    bitkv *db = open_by_hand(BITKV_IO_MMAP);
    for (uint32_t version = 1; atomic_load(&db->partitions[0]->next_number) < 64; version++)
        put_version(db, version % 50, version, 30000);
    ok(bitkv_close(db));
    char full[PATH_SIZE];
    copy_tree(path, inside(full, directory, "full"));
    bool refused = true;
    for (uint32_t n = 0; refused; n++) {
        remove_tree(path);
        copy_tree(full, path);
        db = open_by_hand(BITKV_IO_MMAP);
        uint64_t keys = statistics_of(db).keys;
        refuse_memory(n);
        int rc = bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL);
        bkv_alloc_set_hook(NULL, NULL);
        refused = atomic_load(&memory.asked) > n;
        if (rc != BITKV_OK)
            assert_int_equal(rc, BITKV_ERR_NO_MEMORY);
        assert_int_equal(count_files("data_", ".tmp"), 0);
        compact(db);
        assert_int_equal(statistics_of(db).keys, keys);
        assert_int_equal(records_of(db, UINT32_MAX).puts, keys);
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_write_of_an_output_can_fail_unseen),
        cmocka_unit_test(a_folder_that_takes_no_output_is_an_error),
        cmocka_unit_test(whatever_fails_from_one_call_on_loses_nothing),
        cmocka_unit_test(memory_may_give_out_at_any_record),
        cmocka_unit_test(a_run_without_its_end_may_be_left_to_the_next_opening),
        cmocka_unit_test(damage_of_any_record_keeps_its_file),
        cmocka_unit_test(a_hint_that_points_behind_its_segment_is_damage),
        cmocka_unit_test(a_summary_that_is_wrong_drops_nothing),
        cmocka_unit_test(an_input_that_is_gone_is_an_error_and_may_come_back),
        cmocka_unit_test(a_key_that_is_put_again_while_its_expired_value_goes_stays),
        cmocka_unit_test(of_two_damaged_files_the_first_is_told),
        cmocka_unit_test(the_number_of_an_output_may_lack_memory),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
