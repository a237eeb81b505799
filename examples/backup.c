/* SPDX-License-Identifier: MIT */
/*
 * A backup of a database in use, brought up to date, and read.
 *
 *     backup [DIRECTORY [TARGET]]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void put_many(bitkv *db, int from, int to)
{
    char key[32];
    for (int i = from; i < to; i++) {
        int size = snprintf(key, sizeof key, "order:%d", i);
        must(bitkv_put(db, key, (size_t)size, "paid", 4), "put");
    }
}

/* Anything but 0 cancels, and leaves the target as it was. */
static int show(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)user;
    printf("\r%3.0f%%", total_bytes > 0 ? 100.0 * (double)done_bytes / (double)total_bytes : 100.0);
    return 0;
}

static void back_up(bitkv *db, const char *target)
{
    bitkv_backup_report report;
    bitkv_backup_options options;
    bitkv_backup_options_init(&options);
    options.progress = show;
    options.report = &report;
    must(bitkv_backup(db, target, &options), "backup");
    printf("\r%llu files linked, %llu copied, %.1f ms\n", (unsigned long long)report.files_linked,
           (unsigned long long)report.files_copied, (double)report.duration_ns / 1e6);
}

static uint64_t count_keys(const char *directory)
{
    /* Read-only, or it would be a backup no more. */
    bitkv *db;
    bitkv_options options;
    bitkv_options_init(&options);
    options.read_only = true;
    must(bitkv_open(&db, directory, &options), "open the backup");
    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), "stats");
    must(bitkv_close(db), "close the backup");
    return statistics.keys;
}

int main(int argc, char **argv)
{
    const char *target = argc > 2 ? argv[2] : "example-backup.copy";
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-backup.db", NULL), "open");
    put_many(db, 0, 1000);
    back_up(db, target);
    put_many(db, 1000, 2000);
    back_up(db, target); /* takes the place of the first at one moment */
    must(bitkv_close(db), "close");
    uint64_t keys = count_keys(target);
    printf("%llu keys in the backup\n", (unsigned long long)keys);
    return keys == 2000 ? 0 : 1;
}
