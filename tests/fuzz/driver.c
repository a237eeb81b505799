/* SPDX-License-Identifier: MIT */
/* Runs a target on files, and on the files of directories: for a build without
 * a fuzzer, which replays the corpus, and for AFL++. */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static unsigned inputs;

static void run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    FUZZ_CHECK(file != NULL, "%s", path);
    FUZZ_CHECK(fseek(file, 0, SEEK_END) == 0, "%s", path);
    long size = ftell(file);
    FUZZ_CHECK(size >= 0 && fseek(file, 0, SEEK_SET) == 0, "%s", path);
    uint8_t *data = malloc((size_t)size + (size == 0)); /* exact: a read behind it is seen */
    FUZZ_CHECK(data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size, "%s", path);
    (void)fclose(file);
    /* What hangs or crashes has to be known by name. */
    (void)printf("%s\n", path);
    (void)fflush(stdout);
    (void)LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    inputs++;
}

static void run(const char *path)
{
    struct stat status;
    FUZZ_CHECK(stat(path, &status) == 0, "%s", path);
    if (!S_ISDIR(status.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    FUZZ_CHECK(count >= 0, "%s", path);
    for (int i = 0; i < count; i++) {
        char name[1024];
        (void)snprintf(name, sizeof name, "%.512s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            run_file(name);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    (void)printf("%u inputs\n", inputs);
    return inputs > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
