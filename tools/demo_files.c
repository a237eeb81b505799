/* SPDX-License-Identifier: MIT */
#include "demo_files.h"

#include "demo_report.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    /* Of a directory's files: the first and the last ones are enough. */
    SHOWN_FIRST = 6,
    SHOWN_LAST = 3,
};

char *demo_directory_make(const char *parent)
{
    if (parent == NULL) {
        parent = getenv("TMPDIR");
    }
    if (parent == NULL || parent[0] == '\0') {
        parent = "/tmp";
    }
    char *path = NULL;
    if (asprintf(&path, "%s/bitkv-demo.XXXXXX", parent) < 0) {
        return NULL;
    }
    if (mkdtemp(path) == NULL) {
        free(path);
        return NULL;
    }
    return path;
}

static int not_dots(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static void list(const char *directory, int indent)
{
    struct dirent **entries = NULL;
    int count = scandir(directory, &entries, not_dots, versionsort);
    for (int i = 0; i < count; i++) {
        char path[4096];
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        bool is_directory = lstat(path, &status) == 0 && S_ISDIR(status.st_mode);
        if (is_directory) {
            printf("   %*s%s/\n", indent, "", entries[i]->d_name);
            list(path, indent + 2);
        } else if (i < SHOWN_FIRST || i >= count - SHOWN_LAST) {
            printf("   %*s%-*s %12s\n", indent, "", 30 - indent, entries[i]->d_name,
                   human_bytes((uint64_t)status.st_size).text);
        } else if (i == SHOWN_FIRST) {
            printf("   %*s... %d more\n", indent, "", count - SHOWN_FIRST - SHOWN_LAST);
        }
        free(entries[i]);
    }
    free(entries);
}

void demo_directory_list(const char *directory)
{
    list(directory, 0);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

bool demo_directory_remove(const char *directory)
{
    return nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) == 0;
}
