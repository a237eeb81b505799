/* SPDX-License-Identifier: MIT */
/*
 * Backups whose files cannot be read, linked or copied, or change while they are stored:
 * one by one, by every way that a segment takes into a backup. Each ends with the new
 * backup or the earlier one, whole, and with a reason; and the next goes through.
 */
#include "api/fixture.h"

#include "base/memory.h"
#include "damage/lab.h"
#include "db/db.h"
#include "fault/faults.h"
#include "io/io.h"
#include "log/format.h"
#include "partition/backup.h"

#include <pthread.h>
#include <stdatomic.h>

#define M (&lab_manifest_1)

enum { LETTERS = 13 };

static char target[PATH_SIZE];
/* The faulty ones, but for what a test sets: of openat beside the library's threads. */
static struct bkv_io_ops ops;
static int (*faulty_openat)(int dirfd, const char *name, int flags, mode_t mode);
static int (*faulty_linkat)(int from, const char *name, int to, const char *as);
static int (*_Atomic current_openat)(int dirfd, const char *name, int flags, mode_t mode);

static int on_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    return atomic_load(&current_openat)(dirfd, name, flags, mode);
}

static int setup(void **state)
{
    fault_install();
    (void)make_directory(state);
    inside(target, directory, "backup");
    ops = *bkv_io;
    faulty_openat = ops.openat;
    atomic_store(&current_openat, faulty_openat);
    ops.openat = on_openat;
    faulty_linkat = ops.linkat;
    bkv_io = &ops;
    return 0;
}

static int teardown(void **state)
{
    fault_disarm();
    fault_uninstall();
    bkv_alloc_set_hook(NULL, NULL);
    return remove_directory(state);
}

#define BACKUP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* --- a database ------------------------------------------------------------------------------ */

/* Keys are letters, and so are values. The last segment says that all was synced. */
static void add_letters(struct lab_image *image, uint64_t id, uint64_t first, uint64_t last)
{
    struct lab_log log;
    lab_log_begin(&log, M, 0, id, first);
    for (uint64_t n = first; n <= last; n++) {
        char text[2] = {(char)('a' + n - 1), '\0'};
        (void)lab_log_put(&log, n, text, text);
    }
    if (last == LETTERS)
        (void)lab_log_mark(&log, last + 1, id, log.size);
    lab_log_end(&log, image);
}

/* Two segments that are finished, and the tail. */
static void write_database(void)
{
    static struct lab_image image;
    lab_add_manifest(&image, M);
    add_letters(&image, 1, 1, 5);
    lab_add_hint(&image, M, 0, 1);
    add_letters(&image, 2, 6, 10);
    lab_add_hint(&image, M, 0, 2);
    add_letters(&image, 3, 11, LETTERS);
    lab_image_write(&image, path);
    lab_image_free(&image);
}

static bitkv *open_lab(bool read_only)
{
    bitkv *db = NULL;
    ok(lab_open(&db, path, (struct lab_open){.by_hand = true, .read_only = read_only}));
    return db;
}

static bitkv *open_anew(bool read_only)
{
    write_database();
    return open_lab(read_only);
}

/* All keys but those of `lost`. */
static void expect_letters(bitkv *db, const char *lost)
{
    for (unsigned i = 0; i < LETTERS; i++) {
        char text[2] = {(char)('a' + i), '\0'};
        if (strchr(lost, text[0]) == NULL)
            expect_text(db, text, text);
    }
}

static void expect_backup(const char *lost)
{
    bitkv *copy = NULL;
    int rc = lab_open(&copy, target, (struct lab_open){.read_only = true, .strict = *lost == '\0'});
    expect_code(rc, BITKV_OK, "opening the backup", __FILE__, __LINE__);
    expect_letters(copy, lost);
    ok(bitkv_close(copy));
}

static bitkv_backup_report back_up(bitkv *db)
{
    bitkv_backup_report report;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.report = &report;
    ok(bitkv_backup(db, target, &options));
    expect_backup("");
    return report;
}

static void name_in(char full[PATH_SIZE], const char *folder, const char *name)
{
    char partition[PATH_SIZE];
    inside(full, inside(partition, folder, "partition_0"), name);
}

static void write_file(const char *folder, const char *name, off_t at, const void *bytes,
                       size_t size)
{
    char full[PATH_SIZE];
    name_in(full, folder, name);
    int fd = open(full, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, at), (ssize_t)size);
    (void)close(fd);
}

static void remove_file(const char *folder, const char *name)
{
    char full[PATH_SIZE];
    name_in(full, folder, name);
    assert_int_equal(unlink(full), 0);
}

static void cut_file(const char *folder, const char *name, off_t size)
{
    char full[PATH_SIZE];
    name_in(full, folder, name);
    assert_int_equal(truncate(full, size), 0);
}

static bool is_path(const char *path_of_call, const char *name)
{
    const char *last = strrchr(path_of_call, '/');
    return strcmp(last != NULL ? last + 1 : path_of_call, name) == 0;
}

/* --- links ------------------------------------------------------------------------------------ */

static bool is_directory(int dirfd, const char *name)
{
    char link[64], where[PATH_SIZE] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
    return readlink(link, where, sizeof where - 1) > 0 && strcmp(where, name) == 0;
}

static int no_links_from_database(int from, const char *name, int to, const char *as)
{
    if (!is_directory(from, path))
        return faulty_linkat(from, name, to, as);
    errno = EXDEV;
    return -1;
}

/* --- failures --------------------------------------------------------------------------------- */

enum { FROM_EARLIER, COPIED, DAMAGED, DAMAGED_COPY, FOLLOWED, WAYS };

static void prepare(int way, bitkv **db, bitkv_backup_options *options)
{
    bitkv_backup_options_init(options);
    options->verify = true;
    options->no_links = way == COPIED || way == DAMAGED_COPY;
    options->accept_damage = way == DAMAGED || way == DAMAGED_COPY;
    *db = open_anew(way == FOLLOWED);
    if (way != DAMAGED_COPY)
        ok(bitkv_backup(*db, target,
                        NULL)); /* by links, or, that the earlier one may have some, by copies */
    if (way == DAMAGED || way == DAMAGED_COPY)
        write_file(path, "data_2.db", 64 + 24 + 20, "?", 1); /* the key g */
    if (way == FROM_EARLIER)
        ops.linkat = no_links_from_database;
}

static const char *lost_by(int way)
{
    return way == DAMAGED || way == DAMAGED_COPY ? "g" : "";
}

static bool there(const char *name)
{
    char full[PATH_SIZE];
    return lab_exists(inside(full, directory, name));
}

enum fault { EACH_CALL, FILE_GONE, NO_MEMORY, FAULTS };

static _Atomic uint32_t files_opened, gone_due;

/* Of the segments' files in the database or the earlier backup, that at `gone_due` is
 * not there. */
static int gone_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    bool counts = strstr(name, "/data_") != NULL || strstr(name, "/hint_") != NULL;
    if (!counts || !(is_directory(dirfd, path) || is_directory(dirfd, target)) ||
        atomic_fetch_add(&files_opened, 1) != atomic_load(&gone_due))
        return bkv_io_kernel.openat(dirfd, name, flags, mode);
    errno = ENOENT;
    return -1;
}

static void arm(enum fault fault, uint32_t n)
{
    if (fault == EACH_CALL)
        fault_arm_all(n, 1, EIO);
    if (fault == NO_MEMORY)
        fault_arm_memory(n, 1);
    if (fault == FILE_GONE) {
        atomic_store(&files_opened, 0);
        atomic_store(&gone_due, n);
        atomic_store(&current_openat, gone_openat);
    }
}

static uint32_t disarm(enum fault fault)
{
    uint32_t fired = fault_fired();
    if (fault == FILE_GONE)
        fired = atomic_load(&files_opened) > atomic_load(&gone_due);
    fault_disarm();
    atomic_store(&current_openat, faulty_openat);
    return fired;
}

/* Leaves what was there, or the new one. */
static uint32_t back_up_with_failure(bitkv *db, const bitkv_backup_options *options,
                                     enum fault fault, uint32_t n)
{
    arm(fault, n);
    int rc = bitkv_backup(db, target, options);
    uint32_t fired = disarm(fault);
    if (rc != BITKV_OK) {
        assert_true(fired > 0);
        if (rc != (fault == NO_MEMORY ? BITKV_ERR_NO_MEMORY : BITKV_ERR_IO))
            fail_msg("%s %u: %s: %s", fault == FILE_GONE ? "file" : "call", n, bitkv_error_name(rc),
                     bitkv_error_context());
        assert_string_not_equal(bitkv_error_context(), "");
    }
    return fired;
}

static void a_call_that_fails_costs_one_backup(void **state)
{
    (void)state;
    for (int way = 0; way < WAYS; way++) {
        bitkv *db;
        bitkv_backup_options options;
        remove_tree(target);
        prepare(way, &db, &options);
        for (enum fault fault = 0; fault < FAULTS; fault++) {
            for (uint32_t n = 0; back_up_with_failure(db, &options, fault, n) > 0; n++) {
                if (n % 4 == 0 && there("backup"))
                    expect_backup(lost_by(way));
            }
            expect_backup(lost_by(way)); /* the last one went through */
            assert_false(there("backup.partial"));
            expect_letters(db, lost_by(way));
        }
        ok(bitkv_close(db));
        ops.linkat = faulty_linkat;
    }
}

/* --- files that change meanwhile ----------------------------------------------------------------
 */

static const char *_Atomic struck; /* the file of the call at which something happens */
static void (*strike)(void);

static void strike_at(const char *name)
{
    const char *due = atomic_load(&struck);
    if (due != NULL && is_path(name, due)) {
        atomic_store(&struck, NULL);
        strike();
    }
}

static int striking_linkat(int from, const char *name, int to, const char *as)
{
    strike_at(name);
    return faulty_linkat(from, name, to, as);
}

/* When the file is made in the backup. */
static int striking_openat(int dirfd, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) != 0)
        strike_at(name);
    return faulty_openat(dirfd, name, flags, mode);
}

static void remove_hint(void)
{
    remove_file(path, "hint_1.ht");
}

static void rot_hint(void)
{
    write_file(path, "hint_1.ht", 110, "????", 4);
}

/* A hint is no part of what is backed up: without it the backup has none. */
static void a_hint_that_goes_away_is_done_without(void **state)
{
    (void)state;
    bitkv_backup_report report;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.no_links = true;
    options.report = &report;
    bitkv *db = open_anew(false);
    strike = remove_hint;
    atomic_store(&struck, "data_1.db");
    atomic_store(&current_openat, striking_openat);
    ok(bitkv_backup(db, target, &options));
    assert_null(atomic_load(&struck));
    assert_int_equal(report.files_copied, 4); /* three of data, and a hint */
    expect_backup("");
    ok(bitkv_close(db));
}

static void a_hint_that_rots_while_it_is_copied_is_told(void **state)
{
    (void)state;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.no_links = true;
    bitkv *db = open_anew(false);
    strike = rot_hint;
    atomic_store(&struck, "hint_1.ht");
    atomic_store(&current_openat, striking_openat);
    fails(BITKV_ERR_CORRUPT, bitkv_backup(db, target, &options));
    context_has("hint_1.ht");
    assert_false(there("backup") || there("backup.partial"));
    ok(bitkv_backup(db, target, &options)); /* it is not used any more */
    expect_backup("");
    ok(bitkv_close(db));
}

/* Once more from a later moment, in which it is known to be gone. */
static void a_follower_whose_hint_is_gone_begins_anew(void **state)
{
    (void)state;
    bitkv *db = open_anew(true);
    strike = remove_hint;
    atomic_store(&struck, "hint_1.ht");
    ops.linkat = striking_linkat;
    bitkv_backup_report report = back_up(db);
    assert_null(atomic_load(&struck));
    assert_int_equal(report.files_linked, 2); /* of the second segment */
    assert_int_equal(report.files_copied, 2);
    ok(bitkv_close(db));
}

static int no_link_of_hint(int from, const char *name, int to, const char *as)
{
    if (!is_path(name, "hint_1.ht"))
        return faulty_linkat(from, name, to, as);
    errno = EMLINK;
    return -1;
}

static void a_segment_is_linked_with_its_hint_or_not_at_all(void **state)
{
    (void)state;
    bitkv *db = open_anew(false);
    ops.linkat = no_link_of_hint;
    bitkv_backup_report report = back_up(db);
    assert_int_equal(report.files_linked, 0);
    assert_int_equal(report.bytes_linked, 0);
    assert_int_equal(report.files_copied, 5);
    char name[PATH_SIZE];
    struct stat status;
    name_in(name, path, "data_1.db");
    assert_int_equal(stat(name, &status), 0);
    assert_int_equal(status.st_nlink, 1);
    ok(bitkv_close(db));
}

static int swapping_linkat(int from, const char *name, int to, const char *as)
{
    int result = faulty_linkat(from, name, to, as);
    if (is_path(name, "data_2.db")) {
        assert_int_equal(unlinkat(to, as, 0), 0);
        int fd = openat(to, as, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        (void)close(fd);
    }
    return result;
}

static void a_link_to_another_file_is_none(void **state)
{
    (void)state;
    bitkv *db = open_anew(false);
    (void)back_up(db);
    ops.linkat = swapping_linkat;
    fails(BITKV_ERR_IO, bitkv_backup(db, target, NULL));
    context_has("data_2.db");
    context_has("not the file that was linked");
    expect_backup("");
    ops.linkat = faulty_linkat;
    (void)back_up(db);
    ok(bitkv_close(db));
}

/* One that was put back from an earlier state of the segment verifies, too. */
static void a_hint_that_describes_less_is_not_taken_along(void **state)
{
    (void)state;
    static struct lab_image image;
    bitkv *db = open_anew(false);
    lab_add_manifest(&image, M);
    add_letters(&image, 1, 1, 3);
    lab_add_hint(&image, M, 0, 1);
    const struct lab_file *hint = lab_image_find(&image, "partition_0/hint_1.ht");
    cut_file(path, "hint_1.ht", 0);
    write_file(path, "hint_1.ht", 0, hint->data, hint->size);
    bitkv_backup_report report = back_up(db);
    assert_int_equal(report.files_linked, 2);
    assert_int_equal(report.files_copied, 2);
    ok(bitkv_close(db));
    lab_image_free(&image);
}

/* --- the earlier backup
 * --------------------------------------------------------------------------- */

static void lose_data(void)
{
    remove_file(target, "data_1.db");
}

static void lengthen_data(void)
{
    cut_file(target, "data_1.db", 100000);
}

static void lose_hint(void)
{
    remove_file(target, "hint_1.ht");
}

static void shorten_hint(void)
{
    cut_file(target, "hint_1.ht", 100);
}

static void change_hint(void)
{
    write_file(target, "hint_1.ht", 80, "????", 4);
}

static void change_data(void)
{
    write_file(target, "data_1.db", 64 + 22, "?", 1);
}

/* Whatever has become of that. */
static void an_earlier_backup_gives_only_what_is_the_same(void **state)
{
    (void)state;
    static void (*const changes[])(void) = {lose_data,    lengthen_data, lose_hint,
                                            shorten_hint, change_hint,   change_data};
    ops.linkat = no_links_from_database;
    bitkv *db = open_anew(false);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        remove_tree(target);
        (void)back_up(db);
        changes[i]();
        bitkv_backup_report report = back_up(db);
        assert_int_equal(report.files_linked, 2); /* of the other segment */
        assert_int_equal(report.files_copied, 3);
    }
    ok(bitkv_close(db));
}

/* --- moments
 * -------------------------------------------------------------------------------------- */

static struct {
    bitkv *db;
    pthread_t thread;
    bool closing;
} closer;

static void *close_it(void *unused)
{
    (void)unused;
    ok(bitkv_close(closer.db));
    return NULL;
}

static int close_beside(void *unused, uint64_t done, uint64_t total)
{
    (void)unused;
    assert_true(done <= total);
    if (!closer.closing)
        assert_int_equal(pthread_create(&closer.thread, NULL, close_it, NULL), 0);
    closer.closing = true;
    while (bitkv_exists(closer.db, "a", 1) != BITKV_ERR_CLOSED)
        sleep_ms(1);
    return 0;
}

static void closing_ends_a_backup_and_the_earlier_one_stays(void **state)
{
    (void)state;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.progress = close_beside;
    for (int read_only = 0; read_only < 2; read_only++) {
        bitkv *db = open_anew(read_only != 0);
        (void)back_up(db);
        closer.db = db;
        closer.closing = false;
        fails(BITKV_ERR_CLOSED, bitkv_backup(db, target, &options));
        assert_true(closer.closing);
        assert_int_equal(pthread_join(closer.thread, NULL), 0);
        assert_false(there("backup.partial"));
        expect_backup("");
        db = open_lab(false);
        expect_letters(db, "");
        ok(bitkv_close(db));
    }
}

/* Writers that fill files between the counting of them and the moment. */
enum { GROWTH = 80 };

static struct {
    bitkv *db;
    pthread_t thread;
    unsigned lists; /* that were allocated so far */
    unsigned due;
} grower;

static void put_growth(bitkv *db)
{
    static const char value[60000] = "value";
    unsigned n = 0;
    for (unsigned i = 0; i < GROWTH; i++) {
        char key[32];
        n = lab_key(key, &db->store.manifest, 0, "g", n) + 1;
        ok(bitkv_put(db, key, strlen(key), value, sizeof value));
    }
}

/* Of the partitions' lists; the first is that of the partition that grows. */
static bool grow_meanwhile(size_t size, void *unused)
{
    (void)unused;
    size_t segments = size / sizeof(struct bkv_backup_segment);
    bool list = size % sizeof(struct bkv_backup_segment) == 0 && segments >= 64 && segments < 70;
    if (pthread_equal(pthread_self(), grower.thread) && list && ++grower.lists == grower.due)
        put_growth(grower.db);
    return true;
}

static void a_partition_may_outgrow_its_list_before_the_moment(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.partitions = 2;
    o.auto_compact = false;
    bitkv *db = open_with(&o);
    put_text(db, "a", "1");
    grower.db = db;
    grower.thread = pthread_self();
    grower.lists = 0;
    grower.due = 2;
    bkv_alloc_set_hook(grow_meanwhile, NULL);
    ok(bitkv_backup(db, target, NULL));
    bkv_alloc_set_hook(NULL, NULL);
    assert_true(grower.lists >= grower.due);
    ok(bitkv_close(db));
    o.read_only = true;
    ok(bitkv_open(&db, target, &o));
    expect_text(db, "a", "1");
    assert_int_equal(statistics_of(db).keys, GROWTH + 1);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BACKUP_TEST(a_call_that_fails_costs_one_backup),
        BACKUP_TEST(a_hint_that_goes_away_is_done_without),
        BACKUP_TEST(a_hint_that_rots_while_it_is_copied_is_told),
        BACKUP_TEST(a_follower_whose_hint_is_gone_begins_anew),
        BACKUP_TEST(a_segment_is_linked_with_its_hint_or_not_at_all),
        BACKUP_TEST(a_link_to_another_file_is_none),
        BACKUP_TEST(a_hint_that_describes_less_is_not_taken_along),
        BACKUP_TEST(an_earlier_backup_gives_only_what_is_the_same),
        BACKUP_TEST(closing_ends_a_backup_and_the_earlier_one_stays),
        BACKUP_TEST(a_partition_may_outgrow_its_list_before_the_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
