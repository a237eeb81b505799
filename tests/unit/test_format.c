/* SPDX-License-Identifier: MIT */
/*
 * The worked example of docs/format.md, byte by byte. A database with a known
 * id and hash key is made, written to and closed; the dumps in the document
 * have to be what is in its files. If this fails, the format has changed: then
 * the version has to, and the document.
 *
 * `test_unit_format --print` prints the dumps as the document has them.
 */
#include "base/bytes.h"
#include "log/manifest.h"

#include <bitkv.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "format.XXXXXX";

static const char *const files[] = {"MANIFEST", "partition_0/data_1.db", "partition_0/data_2.db",
                                    "partition_0/hint_1.ht"};

static void make_directory(void)
{
    assert_non_null(mkdtemp(directory));
    char partition[64];
    (void)snprintf(partition, sizeof partition, "%s/partition_0", directory);
    assert_int_equal(mkdir(partition, 0700), 0);
    struct bkv_dir dir = {.fd = open(directory, O_RDONLY | O_DIRECTORY),
                          .path = directory,
                          .file_mode = 0600,
                          .dir_mode = 0700};
    assert_true(dir.fd >= 0);
    struct bkv_manifest manifest = {
        .partitions = 1,
        .hash_key = {.k0 = 0x0706050403020100, .k1 = 0x0f0e0d0c0b0a0908},
        .created_ms = 1767225600000, /* 2026-01-01 */
    };
    for (unsigned i = 0; i < 16; i++)
        manifest.database_id[i] = (uint8_t)(0xd0 + i);
    assert_int_equal(bkv_manifest_write(&dir, &manifest), BITKV_OK);
    (void)close(dir.fd);
}

/* Two puts, a sync (and so a mark), a delete, and a record too large for a
 * segment: the first segment is sealed and gets its hint. */
static void write_example(void)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.durability = BITKV_DURABILITY_NONE;
    options.max_file_size = 64 << 10;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, directory, &options), BITKV_OK);
    assert_int_equal(bitkv_put(db, "apple", 5, "red", 3), BITKV_OK);
    assert_int_equal(bitkv_put(db, "pear", 4, "green", 5), BITKV_OK);
    assert_int_equal(bitkv_sync(db), BITKV_OK);
    assert_int_equal(bitkv_del(db, "apple", 5), BITKV_OK);
    void *large = calloc(1, 70000);
    assert_non_null(large);
    assert_int_equal(bitkv_put(db, "melon", 5, large, 70000), BITKV_OK);
    free(large);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

/* The beginning of a file, as the document prints it. */
#define DUMP_MAX 256u

static size_t read_file(const char *path, void *bytes, size_t size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t got = fread(bytes, 1, size, file);
    (void)fclose(file);
    return got;
}

static void dump(char *text, size_t size, const char *name)
{
    char path[128];
    uint8_t bytes[DUMP_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    size_t count = read_file(path, bytes, strstr(name, "data_2") != NULL ? 96 : sizeof bytes);
    size_t at = (size_t)snprintf(text, size, "%s\n", name);
    for (size_t i = 0; i < count; i += 16) {
        at += (size_t)snprintf(text + at, size - at, "%04zx ", i);
        for (size_t k = i; k < i + 16 && k < count; k++)
            at += (size_t)snprintf(text + at, size - at, " %02x", bytes[k]);
        at += (size_t)snprintf(text + at, size - at, "\n");
    }
}

static void the_documents_dumps_are_what_is_written(void **state)
{
    (void)state;
    char path[512];
    const char *source = getenv("BITKV_SOURCE_DIR");
    (void)snprintf(path, sizeof path, "%s/docs/format.md", source != NULL ? source : ".");
    char *document = calloc(1, 1 << 20);
    assert_non_null(document);
    (void)read_file(path, document, (1 << 20) - 1);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char text[4096];
        dump(text, sizeof text, files[i]);
        if (strstr(document, text) == NULL)
            print_error("docs/format.md does not have:\n%s", text);
        assert_non_null(strstr(document, text));
    }
    free(document);
}

static void the_example_opens_and_reads(void **state)
{
    (void)state;
    bitkv_options options;
    bitkv_options_init(&options);
    options.strict_recovery = true;
    bitkv *db;
    assert_int_equal(bitkv_open(&db, directory, &options), BITKV_OK);
    assert_int_equal(bitkv_exists(db, "apple", 5), BITKV_NOT_FOUND);
    char value[8];
    size_t size = 0;
    assert_int_equal(bitkv_get_into(db, "pear", 4, value, sizeof value, &size), BITKV_OK);
    assert_int_equal(size, 5);
    assert_memory_equal(value, "green", 5);
    assert_int_equal(bitkv_exists(db, "melon", 5), BITKV_OK);
    assert_int_equal(bitkv_close(db), BITKV_OK);
}

static int set_up(void **state)
{
    (void)state;
    make_directory();
    write_example();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        (void)set_up(NULL);
        for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
            char text[4096];
            dump(text, sizeof text, files[i]);
            (void)printf("%s\n", text);
        }
        return tear_down(NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_documents_dumps_are_what_is_written),
        cmocka_unit_test(the_example_opens_and_reads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
