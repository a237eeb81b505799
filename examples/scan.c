/* SPDX-License-Identifier: MIT */
/*
 * Visit every record: count, pick, stop early; and see what the store says of
 * itself.
 *
 *     scan [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

struct totals {
    size_t users;
    size_t bytes;
};

/* Records come in no order, all of the moment at which the scan began; key and value
 * are valid during the call only. */
static int add_user(void *user, const bitkv_record *record)
{
    struct totals *totals = user;
    if (record->key_size > 5 && memcmp(record->key, "user:", 5) == 0) {
        totals->users++;
        totals->bytes += record->value_size;
    }
    return 0; /* go on */
}

static int stop_at_first(void *user, const bitkv_record *record)
{
    memcpy(user, record->key, record->key_size < 32 ? record->key_size : 31);
    return 42; /* what bitkv_scan() returns then */
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-scan.db", NULL), "open");

    char key[32];
    for (int i = 0; i < 100; i++) {
        int size = snprintf(key, sizeof key, "%s:%d", i % 4 == 0 ? "group" : "user", i);
        must(bitkv_put(db, key, (size_t)size, "0123456789", 10), "put");
    }

    struct totals totals = {0};
    must(bitkv_scan(db, BITKV_SCAN_ALL, add_user, &totals), "scan");
    printf("%zu users with %zu bytes\n", totals.users, totals.bytes);

    /* Without values the scan reads much less. */
    char first[32] = "";
    int status = bitkv_scan(db, BITKV_SCAN_KEYS, stop_at_first, first);
    printf("stopped at %s with %d\n", first, status);

    bitkv_statistics statistics;
    bitkv_statistics_init(&statistics);
    must(bitkv_stats(db, BITKV_ALL_PARTITIONS, &statistics), "stats");
    printf("%llu keys, fragmentation %.0f%%\n", (unsigned long long)statistics.keys,
           statistics.fragmentation * 100);

    must(bitkv_close(db), "close");
    return totals.users == 75 && totals.bytes == 750 && status == 42 ? 0 : 1;
}
