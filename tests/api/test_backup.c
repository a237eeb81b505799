/* SPDX-License-Identifier: MIT */
/*
 * Backups: of one moment while writers run, opened and written to without any
 * effect on the database, incremental, across file systems, refused and
 * canceled.
 */
#include "api/fixture.h"

#include "io/io.h"

#include <pthread.h>
#include <stdatomic.h>

static char target[PATH_SIZE];
static char partial[PATH_SIZE];

static int set_up(void **state)
{
    make_directory(state);
    inside(target, directory, "backup");
    inside(partial, directory, "backup.partial");
    return 0;
}

static int tear_down(void **state)
{
    bkv_io = &bkv_io_kernel;
    return remove_directory(state);
}

#define BACKUP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static bool is_there(const char *name)
{
    struct stat status;
    return lstat(name, &status) == 0;
}

/* --- a database of several segments ------------------------------------------------ */

enum { KEYS = 300 };

static void put_number(bitkv *db, uint32_t key, uint64_t number)
{
    char value[1000];
    fill(value, sizeof value, number);
    memcpy(value, &number, sizeof number);
    ok(bitkv_put(db, &key, sizeof key, value, sizeof value));
}

static uint64_t get_number(bitkv *db, uint32_t key)
{
    char value[1000];
    char expected[1000];
    size_t size = 0;
    int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
    if (rc == BITKV_NOT_FOUND)
        return 0;
    expect_code(rc, BITKV_OK, "get", __FILE__, __LINE__);
    uint64_t number;
    memcpy(&number, value, sizeof number);
    fill(expected, sizeof expected, number);
    memcpy(expected, &number, sizeof number);
    assert_int_equal(size, sizeof value);
    assert_memory_equal(value, expected, sizeof value);
    return number;
}

static void put_all(bitkv *db, uint64_t base)
{
    for (uint32_t key = 0; key < KEYS; key++)
        put_number(db, key, base + key);
}

static void expect_all(bitkv *db, uint64_t base)
{
    for (uint32_t key = 0; key < KEYS; key++)
        assert_int_equal(get_number(db, key), base + key);
}

static bitkv *open_at(const char *where, bitkv_io_mode mode, bool read_only)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.io_mode = mode;
    o.max_file_size = 64 << 10;
    o.durability = BITKV_DURABILITY_NONE;
    o.create_if_missing = false;
    o.strict_recovery = true;
    o.read_only = read_only;
    bitkv *db = NULL;
    ok(bitkv_open(&db, where, &o));
    return db;
}

static bitkv *create(uint32_t partitions, bitkv_io_mode mode)
{
    bitkv_options o = one_partition(mode);
    o.partitions = partitions;
    return open_with(&o);
}

/* Until the worker has finished what is full. */
static int count_unfinished(void *user, const bitkv_segment_info *info)
{
    *(unsigned *)user += info->phase == BITKV_SEGMENT_SEALED;
    return 0;
}

static void wait_finished(bitkv *db)
{
    unsigned sealed;
    do {
        sealed = 0;
        ok(bitkv_segments(db, BITKV_ALL_PARTITIONS, count_unfinished, &sealed));
        sleep_ms(2);
    } while (sealed > 0);
}

static bitkv_backup_report back_up_with(bitkv *db, bitkv_backup_options *options)
{
    bitkv_backup_report report = {0};
    options->report = &report;
    ok(bitkv_backup(db, target, options));
    options->report = NULL; /* the caller may go on with the options */
    assert_false(is_there(partial));
    return report;
}

static bitkv_backup_report back_up(bitkv *db)
{
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    return back_up_with(db, &options);
}

/* Names, sizes, times of change and content; links do not count. */
static uint64_t contents_of(const char *where)
{
    struct stat status;
    assert_int_equal(lstat(where, &status), 0);
    uint64_t sum = mix((uint64_t)status.st_size) ^ mix((uint64_t)status.st_mtim.tv_nsec + 7) ^
                   mix((uint64_t)status.st_ino + 3);
    if (S_ISREG(status.st_mode)) {
        int fd = open(where, O_RDONLY | O_CLOEXEC);
        static unsigned char buffer[1 << 16];
        ssize_t n;
        while ((n = read(fd, buffer, sizeof buffer)) > 0) {
            for (ssize_t i = 0; i < n; i++)
                sum = (sum ^ buffer[i]) * 0x100000001b3u;
        }
        (void)close(fd);
        return mix(sum);
    }
    DIR *dir = opendir(where);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char sub[PATH_SIZE];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            sum += contents_of(inside(sub, where, entry->d_name));
    }
    (void)closedir(dir);
    return sum;
}

/* --- what it is --------------------------------------------------------------------- */

static void a_backup_is_the_database_and_writing_to_it_leaves_that_alone(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        remove_tree(target);
        bitkv *db = create(3, mode);
        put_all(db, 1000);
        wait_finished(db);
        bitkv_backup_report report = back_up(db);
        assert_true(report.files_linked > 0);
        assert_true(report.bytes_linked > 0);
        assert_int_equal(report.files_copied, 3); /* the tails */
        assert_int_equal(report.damaged_bytes, 0);
        put_all(db, 2000);
        ok(bitkv_close(db));
        uint64_t before = contents_of(path);

        bitkv *copy = open_at(target, mode, true);
        expect_all(copy, 1000);
        assert_int_equal(statistics_of(copy).recovery.torn_tails, 0);
        assert_int_equal(statistics_of(copy).keys, KEYS);
        ok(bitkv_close(copy));
        copy = open_at(target, mode, false);
        put_all(copy, 3000);
        put_all(copy, 4000);
        ok(bitkv_close(copy));
        assert_true(contents_of(path) == before);
        copy = open_at(target, mode, false);
        expect_all(copy, 4000);
        ok(bitkv_close(copy));
        db = open_at(path, mode, false);
        expect_all(db, 2000);
        ok(bitkv_close(db));
    }
}

static void remove_names(const char *where, const char *prefix)
{
    DIR *dir = opendir(where);
    assert_non_null(dir);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char sub[PATH_SIZE];
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            (void)unlink(inside(sub, where, entry->d_name));
    }
    (void)closedir(dir);
}

static void a_backup_that_lost_its_hints_still_leaves_the_database_alone(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        remove_tree(target);
        bitkv_options o = one_partition(mode);
        bitkv *db = open_with(&o);
        put_all(db, 1000);
        ok(bitkv_close(db));
        /* Room in the last segment, which is FINISHED: the log goes on in another. */
        static char large[100000];
        db = open_with(&o);
        put_number(db, 5, 77);
        ok(bitkv_put(db, "large", 5, large, sizeof large));
        wait_finished(db);
        ok(bitkv_close(db));
        db = open_with(&o);
        wait_finished(db);
        bitkv_backup_report report = back_up(db);
        assert_true(report.files_linked > 0);
        ok(bitkv_close(db));
        uint64_t before = contents_of(path);
        char folder[PATH_SIZE];
        remove_names(inside(folder, target, "partition_0"), "hint_");

        o.max_file_size = 1 << 20; /* so that the last segment could be gone on in */
        bitkv *copy = NULL;
        ok(bitkv_open(&copy, target, &o));
        put_all(copy, 5000);
        wait_finished(copy);
        ok(bitkv_close(copy));
        assert_true(contents_of(path) == before);
        db = open_with(&o);
        assert_int_equal(get_number(db, 5), 77);
        assert_int_equal(get_number(db, 6), 1006);
        ok(bitkv_close(db));
    }
}

static void an_empty_database_has_a_backup(void **state)
{
    (void)state;
    bitkv *db = create(4, BITKV_IO_AUTO);
    ok(bitkv_backup(db, target, NULL));
    ok(bitkv_backup(db, target, NULL));
    ok(bitkv_close(db));
    bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
    assert_int_equal(statistics_of(copy).keys, 0);
    assert_int_equal(statistics_of(copy).partitions, 4);
    ok(bitkv_close(copy));
}

static void a_read_only_opener_makes_backups_too(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    put_all(db, 1000);
    ok(bitkv_close(db));
    uint64_t before = contents_of(path);
    db = open_at(path, BITKV_IO_AUTO, true);
    (void)back_up(db);
    ok(bitkv_close(db));
    assert_true(contents_of(path) == before);
    bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
    expect_all(copy, 1000);
    ok(bitkv_close(copy));
}

struct cancel {
    unsigned calls, at;
    uint64_t last, total;
};

static int on_progress(void *user, uint64_t done, uint64_t total)
{
    struct cancel *c = user;
    assert_true(done >= c->last && done <= total);
    c->last = done;
    c->total = total;
    return ++c->calls == c->at;
}

/* The tool, beside a program whose compaction unlinks what it was about to link. */
static void a_read_only_opener_backs_up_a_later_moment_if_files_are_gone(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.auto_compact = false;
    bitkv *db = open_with(&o);
    put_all(db, 1000);
    put_all(db, 2000);
    bitkv *follower = open_at(path, BITKV_IO_AUTO, true);
    ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
    put_number(db, 0, 3000);
    struct cancel progress = {.at = 0};
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.progress = on_progress;
    options.user = &progress;
    (void)back_up_with(follower, &options);
    assert_int_equal(progress.last, progress.total);
    assert_false(is_there(partial));
    ok(bitkv_close(follower));
    ok(bitkv_close(db));
    bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
    assert_int_equal(get_number(copy, 0), 3000);
    for (uint32_t key = 1; key < KEYS; key++)
        assert_int_equal(get_number(copy, key), 2000 + key);
    ok(bitkv_close(copy));
}

/* --- one moment -------------------------------------------------------------------------- */

enum { WRITERS = 2, RESIDUES = 64 };

static atomic_bool stop_writers;

struct writer {
    pthread_t thread;
    bitkv *db;
    uint32_t number;
};

/* Strictly ascending numbers over keys of all partitions: what there is at one
 * moment is all of them up to one. */
static void *write_series(void *argument)
{
    struct writer *w = argument;
    for (uint64_t n = 1; !atomic_load(&stop_writers); n++) {
        char value[700];
        fill(value, sizeof value, n);
        memcpy(value, &n, sizeof n);
        uint32_t key = w->number * RESIDUES + (uint32_t)(n % RESIDUES);
        if (bitkv_put(w->db, &key, sizeof key, value, sizeof value) != BITKV_OK)
            return argument;
        if (n % 16 == 0) { /* some megabytes a second are enough */
            struct timespec rest = {.tv_nsec = 300000};
            (void)nanosleep(&rest, NULL);
        }
    }
    return NULL;
}

static void expect_series(bitkv *db, uint32_t writer)
{
    uint64_t found[RESIDUES] = {0};
    uint64_t last = 0;
    for (uint32_t r = 0; r < RESIDUES; r++) {
        uint32_t key = writer * RESIDUES + r;
        char value[700];
        size_t size;
        int rc = bitkv_get_into(db, &key, sizeof key, value, sizeof value, &size);
        if (rc == BITKV_NOT_FOUND)
            continue;
        expect_code(rc, BITKV_OK, "get", __FILE__, __LINE__);
        memcpy(&found[r], value, sizeof found[r]);
        last = found[r] > last ? found[r] : last;
    }
    for (uint32_t r = 0; r < RESIDUES; r++) {
        uint64_t expected = last - (last + RESIDUES - r) % RESIDUES;
        if (last < r || (last < RESIDUES && r == 0))
            expected = 0;
        if (found[r] != expected)
            fail_msg("writer %u: %llu is there and of residue %u %llu", writer,
                     (unsigned long long)last, r, (unsigned long long)found[r]);
    }
}

static void a_backup_is_of_one_moment_while_writers_run(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        remove_tree(target);
        bitkv *db = create(5, mode);
        struct writer writers[WRITERS];
        atomic_store(&stop_writers, false);
        for (uint32_t i = 0; i < WRITERS; i++) {
            writers[i] = (struct writer){.db = db, .number = i};
            assert_int_equal(pthread_create(&writers[i].thread, NULL, write_series, &writers[i]),
                             0);
        }
        unsigned rounds = UNDER_TSAN || UNDER_ASAN ? 5 : 12;
        for (unsigned i = 0; i < rounds; i++) {
            sleep_ms(5 + i);
            (void)back_up(db);
            bitkv *copy = open_at(target, mode, true);
            for (uint32_t w = 0; w < WRITERS; w++)
                expect_series(copy, w);
            ok(bitkv_close(copy));
        }
        atomic_store(&stop_writers, true);
        for (uint32_t i = 0; i < WRITERS; i++) {
            void *result;
            assert_int_equal(pthread_join(writers[i].thread, &result), 0);
            assert_null(result);
        }
        ok(bitkv_close(db));
    }
}

/* --- file systems that cannot share -------------------------------------------------------- */

static struct bkv_io_ops ops;
static int link_error; /* 0: none */
static bool from_db_only;

static int on_linkat(int from, const char *name, int to, const char *as)
{
    char link[64];
    char where[PATH_SIZE] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", from);
    (void)readlink(link, where, sizeof where - 1);
    size_t size = strlen(where);
    bool from_db = size >= 3 && strcmp(where + size - 3, "/db") == 0;
    if (link_error != 0 && (from_db || !from_db_only)) {
        errno = link_error;
        return -1;
    }
    return bkv_io_kernel.linkat(from, name, to, as);
}

static int copy_error;

static ssize_t on_copy_file_range(int from, off_t from_offset, int to, off_t to_offset, size_t size)
{
    static unsigned calls;
    if (copy_error != 0 && calls++ % 2 == 1) { /* some bytes come through first */
        errno = copy_error;
        return -1;
    }
    return bkv_io_kernel.copy_file_range(from, from_offset, to, to_offset,
                                         size > 9000 ? 9000 : size);
}

static void install_seam(void)
{
    ops = bkv_io_kernel;
    ops.linkat = on_linkat;
    ops.copy_file_range = on_copy_file_range;
    bkv_io = &ops;
}

static void where_nothing_can_be_linked_all_is_copied(void **state)
{
    (void)state;
    static const int errors[] = {EXDEV, EPERM, EMLINK};
    static const int copy_errors[] = {EXDEV, ENOSYS, 0};
    install_seam();
    bitkv *db = create(3, BITKV_IO_AUTO);
    put_all(db, 1000);
    wait_finished(db);
    for (size_t i = 0; i < 3; i++) {
        remove_tree(target);
        link_error = errors[i];
        copy_error = copy_errors[i];
        from_db_only = false;
        bitkv_backup_report report = back_up(db);
        assert_int_equal(report.files_linked, 0);
        assert_true(report.files_copied > 6);
        bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
        expect_all(copy, 1000);
        assert_true(statistics_of(copy).recovery.hint_records > 0);
        ok(bitkv_close(copy));
    }
    link_error = copy_error = 0;
    ok(bitkv_close(db));
}

static void what_an_earlier_backup_has_is_not_copied_again(void **state)
{
    (void)state;
    install_seam();
    link_error = EXDEV;
    from_db_only = true;
    bitkv *db = create(3, BITKV_IO_AUTO);
    put_all(db, 1000);
    wait_finished(db);
    bitkv_backup_report first = back_up(db);
    assert_int_equal(first.files_linked, 0);
    for (uint32_t key = 0; key < 30; key++)
        put_number(db, key, 5000 + key);
    wait_finished(db);
    bitkv_backup_report second = back_up(db);
    assert_true(second.files_linked > 0);
    assert_true(second.files_linked <= first.files_copied);
    assert_true(second.bytes_copied < first.bytes_copied);
    bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
    assert_int_equal(get_number(copy, 3), 5003);
    assert_int_equal(get_number(copy, 100), 1100);
    ok(bitkv_close(copy));

    /* Not of files that do not verify. */
    char folder[PATH_SIZE];
    DIR *dir = opendir(inside(folder, target, "partition_0"));
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char name[PATH_SIZE];
        if (strncmp(entry->d_name, "hint_", 5) != 0)
            continue;
        int fd = open(inside(name, folder, entry->d_name), O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "xxxx", 4, 80), 4);
        (void)close(fd);
    }
    (void)closedir(dir);
    (void)back_up(db);
    copy = open_at(target, BITKV_IO_AUTO, true);
    assert_int_equal(statistics_of(copy).recovery.rejected_hints, 0);
    assert_int_equal(get_number(copy, 3), 5003);
    ok(bitkv_close(copy));
    link_error = 0;
    ok(bitkv_close(db));
}

static void copies_are_made_where_they_are_asked_for(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    put_all(db, 1000);
    wait_finished(db);
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.no_links = true;
    assert_int_equal(back_up_with(db, &options).files_linked, 0);
    ok(bitkv_close(db));
    bitkv *copy = open_at(target, BITKV_IO_AUTO, false);
    expect_all(copy, 1000);
    ok(bitkv_close(copy));
}

/* --- damage -------------------------------------------------------------------------------- */

static void damage_is_told_and_backed_up_only_if_that_is_asked_for(void **state)
{
    (void)state;
    bitkv *db = create(1, BITKV_IO_PWRITE);
    put_all(db, 1000);
    wait_finished(db);
    char name[PATH_SIZE];
    int fd = open(inside(name, path, "partition_0/data_1.db"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "rot", 3, 5000), 3);
    (void)close(fd);
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.verify = true;
    fails(BITKV_ERR_CORRUPT, bitkv_backup(db, target, &options));
    context_has("data_1.db at offset");
    assert_false(is_there(target));
    assert_false(is_there(partial));
    options.accept_damage = true;
    bitkv_backup_report report = back_up_with(db, &options);
    assert_true(report.damaged_bytes >= 1000);
    ok(bitkv_close(db));
    uint64_t before = contents_of(path);
    bitkv *copy = NULL;
    ok(bitkv_open(&copy, target, NULL));
    assert_int_equal(statistics_of(copy).recovery.damaged_regions, 1);
    ok(bitkv_close(copy));
    assert_true(contents_of(path) == before);
}

/* --- canceling ---------------------------------------------------------------------------------
 */

static void a_canceled_backup_leaves_what_was_there(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    put_all(db, 1000);
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    struct cancel cancel = {.at = 0};
    options.progress = on_progress;
    options.user = &cancel;
    (void)back_up_with(db, &options);
    assert_int_equal(cancel.last, cancel.total);
    uint64_t before = contents_of(target);
    put_all(db, 2000);
    /* How many calls there are depends on how far the workers have come. */
    unsigned at = 0;
    int rc = BITKV_ERR_CANCELED;
    while (rc == BITKV_ERR_CANCELED) {
        cancel = (struct cancel){.at = ++at};
        rc = bitkv_backup(db, target, &options);
        assert_false(is_there(partial));
        assert_true(rc == BITKV_OK || contents_of(target) == before);
    }
    ok(rc);
    assert_true(at > 2); /* one for each partition at least */
    remove_tree(target);
    cancel = (struct cancel){.at = 1};
    fails(BITKV_ERR_CANCELED, bitkv_backup(db, target, &options));
    assert_false(is_there(target));
    assert_false(is_there(partial));
    ok(bitkv_close(db));
}

static int close_there(void *user, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    fails(BITKV_ERR_INVALID, bitkv_close(user));
    return 0;
}

static void closing_from_the_callback_is_refused(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    put_all(db, 1000);
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.progress = close_there;
    options.user = db;
    (void)back_up_with(db, &options);
    ok(bitkv_close(db));
}

/* --- refusals
 * ------------------------------------------------------------------------------------- */

static void what_is_no_backup_of_this_database_is_left_alone(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    put_all(db, 1000);
    char name[PATH_SIZE];
    fails(BITKV_ERR_INVALID, bitkv_backup(db, "", NULL));
    fails(BITKV_ERR_INVALID, bitkv_backup(db, path, NULL));
    context_has("inside of the database");
    fails(BITKV_ERR_INVALID, bitkv_backup(db, inside(name, path, "b"), NULL));
    fails(BITKV_ERR_INVALID, bitkv_backup(db, inside(name, path, "partition_0/b"), NULL));
    fails(BITKV_ERR_INVALID, bitkv_backup(db, "/", NULL));
    fails(BITKV_ERR_INVALID, bitkv_backup(db, inside(name, directory, "none/b"), NULL));
    context_has("the parent directory of the target");
    context_has("none/b");
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, directory, NULL));
    context_has("not empty");

    int fd = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    context_has("no directory");
    (void)unlink(target);

    assert_int_equal(mkdir(target, 0700), 0); /* empty: fine, also through a link */
    inside(name, directory, "link");
    assert_int_equal(symlink(target, name), 0);
    ok(bitkv_backup(db, name, NULL));
    assert_true(is_there(inside(name, target, "MANIFEST")));

    /* A file of somebody else's in it. */
    fd = open(inside(name, target, "notes"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    context_has("notes");
    (void)unlink(name);

    bitkv *copy = open_at(target, BITKV_IO_AUTO, true);
    ok(bitkv_backup(db, target, NULL)); /* who only reads it is not asked */
    fails(BITKV_ERR_STALE, bitkv_refresh(copy));
    ok(bitkv_close(copy));
    copy = open_at(target, BITKV_IO_AUTO, false); /* from here on it is a database */
    ok(bitkv_close(copy));
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    context_has("left as it was made");
    remove_tree(target);

    assert_int_equal(mkdir(partial, 0700), 0);
    fd = open(inside(name, partial, "notes"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    context_has("in the way");
    assert_true(is_there(name));
    ok(bitkv_close(db));
}

static void a_backup_of_another_database_is_left_alone(void **state)
{
    (void)state;
    bitkv *db = create(2, BITKV_IO_AUTO);
    (void)back_up(db);
    ok(bitkv_close(db));
    remove_tree(path);
    db = create(2, BITKV_IO_AUTO);
    fails(BITKV_ERR_EXISTS, bitkv_backup(db, target, NULL));
    context_has("another database");
    ok(bitkv_close(db));
}

/* --- segments
 * ------------------------------------------------------------------------------------------ */

struct sum {
    uint64_t live, dead, count, last_partition;
};

static int add_segment(void *user, const bitkv_segment_info *info)
{
    struct sum *sum = user;
    assert_true(info->partition >= sum->last_partition);
    assert_int_equal(info->bytes, info->live_bytes + info->dead_bytes + 64);
    assert_true(info->disk_bytes >= info->bytes);
    assert_true(info->phase == BITKV_SEGMENT_FINISHED || info->hint_bytes == 0);
    sum->last_partition = info->partition;
    sum->live += info->live_bytes;
    sum->dead += info->dead_bytes;
    sum->count++;
    return sum->count == 1000 ? 77 : 0;
}

static int stop_at_once(void *user, const bitkv_segment_info *info)
{
    (void)user, (void)info;
    return 77;
}

/* Per partition: how many are active, and whether the last is. */
struct phases {
    unsigned active[3], count[3];
    bool last_active[3];
};

static int note_phase(void *user, const bitkv_segment_info *info)
{
    struct phases *phases = user;
    bool active = info->phase == BITKV_SEGMENT_ACTIVE;
    assert_true(active || info->phase == BITKV_SEGMENT_FINISHED);
    phases->active[info->partition] += active;
    phases->last_active[info->partition] = active;
    phases->count[info->partition]++;
    return 0;
}

static void a_reader_beside_a_writer_sees_which_segments_are_active(void **state)
{
    (void)state;
    bitkv *db = create(3, BITKV_IO_AUTO);
    put_all(db, 1000);
    put_all(db, 2000);
    wait_finished(db);
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    bitkv *reader;
    ok(bitkv_open(&reader, path, &options));
    struct phases phases = {0};
    ok(bitkv_segments(reader, BITKV_ALL_PARTITIONS, note_phase, &phases));
    for (unsigned i = 0; i < 3; i++) {
        assert_true(phases.count[i] > 1);
        assert_int_equal(phases.active[i], 1);
        assert_true(phases.last_active[i]);
    }
    ok(bitkv_close(reader));
    ok(bitkv_close(db));
}

static void segments_are_listed_with_what_lives_in_them(void **state)
{
    (void)state;
    bitkv *db = create(3, BITKV_IO_AUTO);
    put_all(db, 1000);
    put_all(db, 2000);
    wait_finished(db);
    bitkv_statistics s = statistics_of(db);
    struct sum all = {0};
    ok(bitkv_segments(db, BITKV_ALL_PARTITIONS, add_segment, &all));
    assert_int_equal(all.live, s.live_bytes);
    assert_true(all.dead > 0);
    assert_int_equal(all.count, s.segments);
    struct sum one = {.last_partition = 2};
    ok(bitkv_segments(db, 2, add_segment, &one));
    assert_true(one.count > 0 && one.count < all.count);
    assert_int_equal(bitkv_segments(db, 0, stop_at_once, NULL), 77);
    fails(BITKV_ERR_INVALID, bitkv_segments(db, 3, add_segment, &one));
    fails(BITKV_ERR_INVALID, bitkv_segments(db, 0, NULL, NULL));
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BACKUP_TEST(a_backup_is_the_database_and_writing_to_it_leaves_that_alone),
        BACKUP_TEST(a_backup_that_lost_its_hints_still_leaves_the_database_alone),
        BACKUP_TEST(an_empty_database_has_a_backup),
        BACKUP_TEST(a_read_only_opener_makes_backups_too),
        BACKUP_TEST(a_read_only_opener_backs_up_a_later_moment_if_files_are_gone),
        BACKUP_TEST(a_backup_is_of_one_moment_while_writers_run),
        BACKUP_TEST(where_nothing_can_be_linked_all_is_copied),
        BACKUP_TEST(what_an_earlier_backup_has_is_not_copied_again),
        BACKUP_TEST(copies_are_made_where_they_are_asked_for),
        BACKUP_TEST(damage_is_told_and_backed_up_only_if_that_is_asked_for),
        BACKUP_TEST(a_canceled_backup_leaves_what_was_there),
        BACKUP_TEST(closing_from_the_callback_is_refused),
        BACKUP_TEST(what_is_no_backup_of_this_database_is_left_alone),
        BACKUP_TEST(a_backup_of_another_database_is_left_alone),
        BACKUP_TEST(segments_are_listed_with_what_lives_in_them),
        BACKUP_TEST(a_reader_beside_a_writer_sees_which_segments_are_active),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
