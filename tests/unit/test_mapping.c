/* SPDX-License-Identifier: MIT */
/*
 * The SIGBUS guard: a mapped file that is cut under its readers is an error
 * code; a fault that is not the library's reaches the host's own handler.
 */
#include "damage/lab.h"
#include "io/mapping.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[LAB_PATH];

static int setup(void **state)
{
    (void)state;
    lab_path(path, "mapping");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_remove(path);
    return 0;
}

/* A mapping of two pages of a file that then loses the second. */
static struct bkv_mapping *map_and_cut(struct bkv_dir **dir)
{
    static const uint8_t page[8192] = {1};
    struct lab_image image = {.count = 0};
    (void)lab_image_add(&image, "file", page, sizeof page);
    lab_image_write(&image, path);
    lab_image_free(&image);
    *dir = lab_dir_open(path);
    struct bkv_file file;
    struct bkv_mapping *mapping;
    assert_int_equal(bkv_file_open(&file, *dir, "file", O_RDWR), BITKV_OK);
    assert_int_equal(bkv_mapping_create(&mapping, &file, sizeof page, true, true), BITKV_OK);
    assert_int_equal(bkv_file_truncate(&mapping->file, 4096), BITKV_OK);
    return mapping;
}

static void a_fault_under_a_mapping_reads_as_zeros_and_is_counted(void **state)
{
    (void)state;
    struct bkv_dir *dir;
    assert_int_equal(bkv_sigbus_guard_acquire(), BITKV_OK);
    struct bkv_mapping *mapping = map_and_cut(&dir);
    const volatile uint8_t *bytes = mapping->base;
    assert_int_equal(bytes[0], 1);
    assert_false(bkv_mapping_faulted(mapping));
    assert_int_equal(bytes[5000], 0);
    assert_true(bkv_mapping_faulted(mapping));
    bkv_mapping_unref(mapping);
    assert_int_equal(atomic_load(&dir->open_files), 0);
    lab_dir_close(dir);
    bkv_sigbus_guard_release();
}

static void a_mapping_stays_while_it_is_held(void **state)
{
    (void)state;
    struct bkv_dir *dir;
    struct bkv_mapping *mapping = map_and_cut(&dir);
    bkv_mapping_ref(mapping);
    bkv_mapping_unref(mapping);
    assert_int_equal(*(const volatile uint8_t *)mapping->base, 1);
    bkv_mapping_unref(mapping);
    bkv_mapping_unref(NULL);
    lab_dir_close(dir);
}

/* --- the host's handlers --------------------------------------------------------------- */

static sigjmp_buf jump;
static volatile sig_atomic_t host_calls;
static void *volatile host_address;

static void host_handler(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    host_calls++;
    host_address = info->si_addr;
    siglongjmp(jump, 1);
}

/* Memory that is nobody's of the library: touching it raises SIGBUS. */
static uint8_t *foreign_page(void)
{
    char full[LAB_PATH];
    lab_join(full, path, "foreign");
    int fd = open(full, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    uint8_t *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(page != MAP_FAILED);
    (void)close(fd);
    return page;
}

static void a_host_s_handler_gets_what_is_not_ours(void **state)
{
    (void)state;
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    struct sigaction before;
    action.sa_sigaction = host_handler;
    assert_int_equal(sigaction(SIGBUS, &action, &before), 0);
    struct bkv_dir *dir;
    assert_int_equal(bkv_sigbus_guard_acquire(), BITKV_OK);
    struct bkv_mapping *mapping = map_and_cut(&dir);
    uint8_t *foreign = foreign_page();
    host_calls = 0;
    if (sigsetjmp(jump, 1) == 0)
        (void)*(volatile uint8_t *)(foreign + 100);
    assert_int_equal(host_calls, 1);
    assert_ptr_equal(host_address, foreign + 100);
    assert_int_equal(((volatile uint8_t *)mapping->base)[6000], 0); /* ours: not handed on */
    assert_int_equal(host_calls, 1);
    bkv_mapping_unref(mapping);
    bkv_sigbus_guard_release();
    struct sigaction now;
    assert_int_equal(sigaction(SIGBUS, &before, &now), 0);
    assert_true(now.sa_sigaction == host_handler); /* the guard has left */
    (void)munmap(foreign, 4096);
    lab_dir_close(dir);
}

static void without_a_host_s_handler_a_foreign_fault_kills_as_ever(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* their run-time library has a handler of its own */
#endif
    (void)mkdir(path, 0700);
    uint8_t *foreign = foreign_page();
    pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGBUS, SIG_DFL);
        if (bkv_sigbus_guard_acquire() != BITKV_OK)
            _exit(2);
        (void)*(volatile uint8_t *)foreign;
        _exit(3);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    (void)munmap(foreign, 4096);
}

static void guards_are_counted(void **state)
{
    (void)state;
    struct sigaction before;
    struct sigaction now;
    assert_int_equal(sigaction(SIGBUS, NULL, &before), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(bkv_sigbus_guard_acquire(), BITKV_OK);
    bkv_sigbus_guard_release();
    bkv_sigbus_guard_release();
    assert_int_equal(sigaction(SIGBUS, NULL, &now), 0);
    assert_false(now.sa_sigaction == before.sa_sigaction);
    bkv_sigbus_guard_release();
    assert_int_equal(sigaction(SIGBUS, NULL, &now), 0);
    assert_true(now.sa_sigaction == before.sa_sigaction);
}

/* --- through the store --------------------------------------------------------------------- */

static void a_data_file_cut_under_an_open_database_is_an_error_of_the_get(void **state)
{
    (void)state;
    lab_remove(path);
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 1;
    options.io_mode = BITKV_IO_MMAP;
    options.max_file_size = 64u << 10;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, path, &options), BITKV_OK);
    static char value[20000];
    memset(value, 'v', sizeof value - 1);
    char key[16];
    for (int i = 0; i < 8; i++) {
        (void)snprintf(key, sizeof key, "key%d", i);
        lab_put(db, key, value);
    }
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    char full[LAB_PATH];
    /* Once it has its hint, the worker is through with it: before, it would trim
     * the file to its length again, with zeros. */
    lab_join(full, path, "partition_0/hint_1.ht");
    for (int i = 0; i < 10000 && access(full, F_OK) != 0; i++)
        (void)usleep(1000);
    lab_join(full, path, "partition_0/data_1.db");
    assert_int_equal(truncate(full, 4096), 0);
    int rc;
    (void)lab_get(db, "key2", &rc);
    assert_int_equal(rc, BITKV_ERR_IO);
    assert_non_null(strstr(bitkv_error_context(), "data_1.db"));
    lab_expect(db, "key7", value); /* in another segment */
    lab_put(db, "more", "1");
    lab_expect(db, "more", "1");
    (void)bitkv_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fault_under_a_mapping_reads_as_zeros_and_is_counted),
        cmocka_unit_test(a_mapping_stays_while_it_is_held),
        cmocka_unit_test(a_host_s_handler_gets_what_is_not_ours),
        cmocka_unit_test(without_a_host_s_handler_a_foreign_fault_kills_as_ever),
        cmocka_unit_test(guards_are_counted),
        cmocka_unit_test(a_data_file_cut_under_an_open_database_is_an_error_of_the_get),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
