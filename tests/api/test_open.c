/* SPDX-License-Identifier: MIT */
/* Opening: what is created, refused, locked, and left alone. */
#include "api/fixture.h"

#include <pthread.h>
#include <signal.h>
#include <sys/file.h>

static bitkv_options defaults(void)
{
    bitkv_options o;
    bitkv_options_init(&o);
    return o;
}

static void refuses(int code, const bitkv_options *o)
{
    bitkv *db = (bitkv *)&db;
    fails(code, bitkv_open(&db, path, o));
    assert_null(db);
}

/* --- creating ------------------------------------------------------------------ */

static void a_database_is_created_unless_that_is_forbidden(void **state)
{
    (void)state;
    bitkv_options o = defaults();
    o.create_if_missing = false;
    refuses(BITKV_ERR_NO_DATABASE, &o);
    context_has(path);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(mkdir(path, 0700), 0); /* an empty directory is no database */
    refuses(BITKV_ERR_NO_DATABASE, &o);
    o.create_if_missing = true;
    o.read_only = true;
    refuses(BITKV_ERR_NO_DATABASE, &o);
    o.read_only = false;
    bitkv *db = open_with(&o);
    ok(bitkv_close(db));
    o.create_if_missing = false;
    db = open_with(&o);
    ok(bitkv_close(db));
}

static void an_existing_database_can_be_refused(void **state)
{
    (void)state;
    bitkv_options o = defaults();
    o.error_if_exists = true;
    bitkv *db = open_with(&o);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    refuses(BITKV_ERR_EXISTS, &o);
    context_has(path);
    o.error_if_exists = false;
    db = open_with(&o);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void the_number_of_partitions_is_fixed_at_creation(void **state)
{
    (void)state;
    bitkv_options o = defaults();
    o.partitions = 3;
    bitkv *db = open_with(&o);
    ok(bitkv_close(db));
    o.partitions = 4;
    refuses(BITKV_ERR_PARTITION_COUNT, &o);
    context_has("3");
    context_has("4");
    o.partitions = 0;
    db = open_with(&o);
    assert_int_equal(statistics_of(db).partitions, 3);
    ok(bitkv_close(db));
}

static void parents_are_not_created_and_files_are_no_directories(void **state)
{
    (void)state;
    bitkv *db;
    char name[PATH_SIZE];
    assert_true(bitkv_open(&db, inside(name, path, "deeper"), NULL) < 0);
    assert_null(db);
    context_has("deeper");
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    (void)close(fd);
    assert_true(bitkv_open(&db, path, NULL) < 0);
    assert_null(db);
    fails(BITKV_ERR_INVALID, bitkv_open(NULL, path, NULL));
    fails(BITKV_ERR_INVALID, bitkv_open(&db, NULL, NULL));
    fails(BITKV_ERR_INVALID, bitkv_open(&db, "", NULL));
}

/* --- the lock --------------------------------------------------------------------- */

static void a_second_opener_is_refused_at_once(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    uint64_t begun = now_ms();
    bitkv_options o = defaults();
    refuses(BITKV_ERR_LOCKED, &o);
    context_has(path);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        bitkv *other;
        _exit(bitkv_open(&other, path, NULL) == BITKV_ERR_LOCKED ? 0 : 1);
    }
    assert_int_equal(wait_child(child), 0);
    assert_in_range(now_ms() - begun, 0, 1000);
    put_text(db, "k", "v"); /* and the first is not disturbed */
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

static void the_lock_of_a_killed_process_is_gone(void **state)
{
    (void)state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        bitkv *db;
        bitkv_options o = one_partition(BITKV_IO_MMAP);
        if (bitkv_open(&db, path, &o) != BITKV_OK || bitkv_put(db, "k", 1, "v", 1) != BITKV_OK)
            _exit(1);
        (void)!write(ready[1], "r", 1);
        for (;;)
            (void)pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    bitkv_options o = defaults();
    refuses(BITKV_ERR_LOCKED, &o);
    (void)kill(child, SIGKILL);
    assert_int_equal(wait_child(child), 1000 + SIGKILL);
    bitkv *db = open_small(BITKV_IO_MMAP);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
    (void)close(ready[0]);
    (void)close(ready[1]);
}

static void read_only_openers_share_with_a_writer(void **state)
{
    (void)state;
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    bitkv_options o = defaults();
    o.read_only = true;
    bitkv *first = open_with(&o);
    o.io_mode = BITKV_IO_PWRITE;
    bitkv *second = open_with(&o);
    expect_text(first, "k", "v");
    expect_text(second, "k", "v");
    o = defaults();
    db = open_with(&o);
    put_text(db, "k", "w");
    expect_text(first, "k", "v");
    ok(bitkv_refresh(first));
    expect_text(first, "k", "w");
    ok(bitkv_close(first));
    ok(bitkv_close(db));
    ok(bitkv_refresh(second));
    expect_text(second, "k", "w");
    ok(bitkv_close(second));
}

/* --- read only ------------------------------------------------------------------------ */

static int count_record(void *user, const bitkv_record *record)
{
    (void)record;
    ++*(unsigned *)user;
    return 0;
}

static void use_read_only(bitkv_io_mode mode, uint32_t keys)
{
    bitkv_options o = one_partition(mode);
    o.read_only = true;
    o.max_open_segments = 2;
    bitkv *db = open_with(&o);
    for (uint32_t i = 0; i < keys; i++)
        ok(bitkv_exists(db, &i, sizeof i));
    unsigned visited = 0;
    ok(bitkv_scan(db, BITKV_SCAN_ALL, count_record, &visited));
    assert_int_equal(visited, keys);
    fails(BITKV_ERR_READ_ONLY, bitkv_put(db, "k", 1, "v", 1));
    context_has(path);
    fails(BITKV_ERR_READ_ONLY, bitkv_del(db, &keys, sizeof keys));
    uint32_t first = 0;
    fails(BITKV_ERR_READ_ONLY, bitkv_del(db, &first, sizeof first));
    ok(bitkv_sync(db));
    sleep_ms(20); /* for whatever a thread might do */
    ok(bitkv_close(db));
}

static void a_read_only_opening_changes_no_file(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        for (unsigned killed = 0; killed < 2; killed++) {
            remove_tree(path);
            bitkv_options o = one_partition(mode);
            die_with_keys(&o, 50, 7000);
            if (killed == 0) {
                bitkv *db = open_with(&o);
                ok(bitkv_close(db));
            }
            uint64_t before = fingerprint(path);
            use_read_only(mode, 50);
            use_read_only(mode == BITKV_IO_MMAP ? BITKV_IO_PWRITE : BITKV_IO_MMAP, 50);
            assert_true(fingerprint(path) == before);
        }
    }
}

static void a_read_only_opening_needs_no_right_to_write(void **state)
{
    (void)state;
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    die_with_keys(&o, 20, 7000);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char command[3 * PATH_SIZE];
        (void)snprintf(command, sizeof command, "chmod -R a-w,a+rX '%s' '%s'", directory, path);
        bitkv *db;
        o.read_only = true;
        int rc = system(command) == 0 ? BITKV_OK : BITKV_ERR_IO;
        if (rc == BITKV_OK && geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            rc = BITKV_ERR_IO;
        if (access(path, R_OK | X_OK) != 0)
            _exit(0); /* a parent directory does not let that user in: no test */
        if (rc == BITKV_OK)
            rc = bitkv_open(&db, path, &o);
        uint32_t key = 3;
        if (rc == BITKV_OK)
            rc = bitkv_exists(db, &key, sizeof key);
        if (rc == BITKV_OK)
            rc = bitkv_close(db);
        if (rc == BITKV_OK) {
            o.read_only = false;
            rc = bitkv_open(&db, path, &o) == BITKV_ERR_PERMISSION ? BITKV_OK : BITKV_ERR_INVALID;
        }
        if (rc != BITKV_OK)
            print_error("%s: %s\n", bitkv_error_name(rc), bitkv_error_context());
        _exit(-rc);
    }
    int end = wait_child(child);
    char command[3 * PATH_SIZE];
    (void)snprintf(command, sizeof command, "chmod -R u+w '%s'", directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(end, 0);
}

/* --- what must not be taken for something else --------------------------------------------- */

static void make_closed(void)
{
    bitkv *db = open_small(BITKV_IO_MMAP);
    for (uint32_t i = 0; i < 20; i++) {
        static char value[7000];
        ok(bitkv_put(db, &i, sizeof i, value, sizeof value));
    }
    ok(bitkv_close(db));
}

static void data_without_a_manifest_is_refused(void **state)
{
    (void)state;
    make_closed();
    char name[PATH_SIZE];
    assert_int_equal(unlink(inside(name, path, "MANIFEST")), 0);
    uint64_t before = fingerprint(path);
    bitkv_options o = defaults();
    refuses(BITKV_ERR_CORRUPT, &o);
    context_has("MANIFEST");
    o.create_if_missing = false; /* damaged, not missing, for every opening */
    refuses(BITKV_ERR_CORRUPT, &o);
    o.read_only = true;
    refuses(BITKV_ERR_CORRUPT, &o);
    context_has("MANIFEST");
    assert_true(fingerprint(path) == before);
}

static void a_missing_partition_is_refused(void **state)
{
    (void)state;
    make_closed();
    char name[PATH_SIZE];
    remove_tree(inside(name, path, "partition_0"));
    bitkv_options o = defaults();
    refuses(BITKV_ERR_CORRUPT, &o);
    context_has("partition_0");
    assert_int_equal(access(name, F_OK), -1);
}

static void a_manifest_that_does_not_verify_is_refused(void **state)
{
    (void)state;
    make_closed();
    char name[PATH_SIZE];
    int fd = open(inside(name, path, "MANIFEST"), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    for (off_t at = 0; at < 128; at += 9) {
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        bitkv *db;
        int rc = bitkv_open(&db, path, NULL);
        assert_true(rc == BITKV_ERR_CORRUPT || rc == BITKV_ERR_FORMAT);
        context_has("MANIFEST");
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_int_equal(ftruncate(fd, 100), 0);
    bitkv_options o = defaults();
    refuses(BITKV_ERR_CORRUPT, &o);
    assert_int_equal(ftruncate(fd, 0), 0);
    refuses(BITKV_ERR_CORRUPT, &o);
    (void)close(fd);
}

static void symbolic_links_are_not_followed(void **state)
{
    (void)state;
    char from[PATH_SIZE];
    char to[PATH_SIZE];
    static const char *const names[] = {"partition_0/data_1.db", "partition_0", "MANIFEST",
                                        "partition_0/keydir.ckp"};
    for (unsigned i = 0; i < 4; i++) {
        remove_tree(path);
        make_closed();
        inside(from, path, names[i]);
        inside(to, directory, "elsewhere");
        assert_int_equal(rename(from, to), 0);
        assert_int_equal(symlink(to, from), 0);
        bitkv *db;
        int rc = bitkv_open(&db, path, NULL);
        assert_true(rc < 0);
        assert_null(db);
        context_has(strrchr(names[i], '/') != NULL ? strrchr(names[i], '/') + 1 : names[i]);
        remove_tree(to);
        (void)unlink(to);
        (void)unlink(from);
    }
}

static void an_interrupted_creation_is_taken_over(void **state)
{
    (void)state;
    char name[PATH_SIZE];
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(mkdir(inside(name, path, "partition_0"), 0700), 0);
    (void)close(open(inside(name, path, "MANIFEST.tmp"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    bitkv *db = open_small(BITKV_IO_MMAP);
    put_text(db, "k", "v");
    ok(bitkv_close(db));
    db = open_small(BITKV_IO_MMAP);
    expect_text(db, "k", "v");
    ok(bitkv_close(db));
}

/* --- damage ----------------------------------------------------------------------------------- */

static void flip(const char *file, off_t at)
{
    char name[PATH_SIZE];
    int fd = open(inside(name, path, file), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    unsigned char byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void a_damaged_record_is_an_error_with_file_and_offset_never_absence(void **state)
{
    (void)state;
    for_both_modes(mode)
    {
        make_closed();
        flip("partition_0/data_1.db", 64 + 500); /* in the value of key 0 */
        bitkv *db = open_small(mode);
        uint32_t key = 0;
        void *value;
        bitkv_view view;
        char buffer[8000];
        fails(BITKV_ERR_CORRUPT, bitkv_get(db, &key, sizeof key, &value, NULL));
        context_has("partition_0/data_1.db");
        context_has("offset 64");
        assert_null(value);
        fails(BITKV_ERR_CORRUPT, bitkv_get_view(db, &key, sizeof key, &view));
        assert_null(view.data);
        fails(BITKV_ERR_CORRUPT, bitkv_get_into(db, &key, sizeof key, buffer, sizeof buffer, NULL));
        bitkv_get_item item = {.key = &key, .key_size = sizeof key};
        fails(BITKV_ERR_CORRUPT, bitkv_multi_get(db, &item, 1));
        assert_null(item.value);
        ok(bitkv_exists(db, &key, sizeof key)); /* the key is there */
        unsigned visited = 0;
        fails(BITKV_ERR_CORRUPT, bitkv_scan(db, BITKV_SCAN_ALL, count_record, &visited));
        context_has("data_1.db");
        assert_int_equal(visited, 19);
        assert_int_equal(statistics_of(db).errors_total, 4);
        key = 1;
        ok(bitkv_exists(db, &key, sizeof key));
        key = 0;
        ok(bitkv_put(db, &key, sizeof key, "new", 3));
        ok(bitkv_get_into(db, &key, sizeof key, buffer, sizeof buffer, NULL));
        ok(bitkv_close(db));
    }
}

struct messages {
    pthread_mutex_t mutex;
    char text[2000];
    unsigned count;
};

static void keep_message(void *user, bitkv_log_level level, const char *message)
{
    struct messages *m = user;
    (void)pthread_mutex_lock(&m->mutex);
    m->count += level == BITKV_LOG_WARNING;
    if (strchr(message, '\n') != NULL)
        m->count += 1000;
    (void)snprintf(m->text + strlen(m->text), sizeof m->text - strlen(m->text), "%s\n", message);
    (void)pthread_mutex_unlock(&m->mutex);
}

static void damage_that_recovery_meets_is_skipped_told_and_counted(void **state)
{
    (void)state;
    make_closed();
    char name[PATH_SIZE];
    (void)unlink(inside(name, path, "partition_0/keydir.ckp"));
    (void)unlink(inside(name, path, "partition_0/hint_1.ht"));
    flip("partition_0/data_1.db", 64 + 500);
    struct messages m = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.log = keep_message;
    o.log_user = &m;
    o.strict_recovery = true;
    refuses(BITKV_ERR_CORRUPT, &o);
    context_has("data_1.db");
    context_has("offset 64");
    context_has("strict_recovery");
    o.strict_recovery = false;
    bitkv *db = open_with(&o);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.recovery.damaged_regions, 1);
    assert_in_range(s.recovery.damaged_bytes, 7000, 7100);
    assert_int_equal(s.recovery.torn_tails, 0);
    assert_int_equal(s.keys, 19);
    (void)pthread_mutex_lock(&m.mutex);
    assert_in_range(m.count, 1, 2); /* the worker meets it again, for the hint */
    assert_non_null(strstr(m.text, "partition_0/data_1.db"));
    assert_non_null(strstr(m.text, "offset 64"));
    (void)pthread_mutex_unlock(&m.mutex);
    uint32_t key = 0;
    assert_int_equal(bitkv_exists(db, &key, sizeof key), BITKV_NOT_FOUND);
    ok(bitkv_close(db));
}

static void hints_and_checkpoints_that_do_not_verify_are_rebuilt(void **state)
{
    (void)state;
    make_closed();
    flip("partition_0/keydir.ckp", 200);
    flip("partition_0/hint_1.ht", 80);
    bitkv *db = open_small(BITKV_IO_MMAP);
    bitkv_statistics s = statistics_of(db);
    assert_int_equal(s.recovery.rejected_checkpoints, 1);
    assert_int_equal(s.recovery.rejected_hints, 1);
    assert_int_equal(s.recovery.damaged_regions, 0);
    assert_int_equal(s.keys, 20);
    ok(bitkv_close(db));
    bitkv_options o = one_partition(BITKV_IO_MMAP);
    o.strict_recovery = true;
    db = open_with(&o);
    s = statistics_of(db);
    assert_int_equal(s.recovery.rejected_checkpoints + s.recovery.rejected_hints, 0);
    assert_int_equal(s.keys, 20);
    ok(bitkv_close(db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_database_is_created_unless_that_is_forbidden),
        TEST(an_existing_database_can_be_refused),
        TEST(the_number_of_partitions_is_fixed_at_creation),
        TEST(parents_are_not_created_and_files_are_no_directories),
        TEST(a_second_opener_is_refused_at_once),
        TEST(the_lock_of_a_killed_process_is_gone),
        TEST(read_only_openers_share_with_a_writer),
        TEST(a_read_only_opening_changes_no_file),
        TEST(a_read_only_opening_needs_no_right_to_write),
        TEST(data_without_a_manifest_is_refused),
        TEST(a_missing_partition_is_refused),
        TEST(a_manifest_that_does_not_verify_is_refused),
        TEST(symbolic_links_are_not_followed),
        TEST(an_interrupted_creation_is_taken_over),
        TEST(a_damaged_record_is_an_error_with_file_and_offset_never_absence),
        TEST(damage_that_recovery_meets_is_skipped_told_and_counted),
        TEST(hints_and_checkpoints_that_do_not_verify_are_rebuilt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
