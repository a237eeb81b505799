/* SPDX-License-Identifier: MIT */
/*
 * Read many values in one call. The store overlaps the cache misses of the
 * keys, which is several times as fast as one get after the other.
 *
 *     multi_get [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>

#define KEYS  1000
#define BATCH 32 /* a few dozen are enough for the full effect */

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-multi_get.db", NULL), "open");

    /* Every odd number has a value: its square. */
    for (unsigned n = 1; n < KEYS; n += 2) {
        unsigned long square = (unsigned long)n * n;
        must(bitkv_put(db, &n, sizeof n, &square, sizeof square), "put");
    }

    unsigned found = 0, absent = 0;
    for (unsigned first = 0; first < KEYS; first += BATCH) {
        unsigned keys[BATCH];
        unsigned long squares[BATCH];
        bitkv_get_item items[BATCH] = {0};
        unsigned count = KEYS - first < BATCH ? KEYS - first : BATCH;
        for (unsigned i = 0; i < count; i++) {
            keys[i] = first + i;
            items[i].key = &keys[i];
            items[i].key_size = sizeof keys[i];
            items[i].buffer = &squares[i]; /* NULL would have it allocated */
            items[i].buffer_size = sizeof squares[i];
        }
        /* BITKV_OK says: each key was read, or is absent. */
        must(bitkv_multi_get(db, items, count), "multi_get");
        for (unsigned i = 0; i < count; i++) {
            if (items[i].status == BITKV_NOT_FOUND) {
                absent++;
            } else if (squares[i] != (unsigned long)keys[i] * keys[i]) {
                fprintf(stderr, "%u: wrong value\n", keys[i]);
                return 1;
            } else {
                found++;
            }
        }
    }
    printf("%u found, %u absent\n", found, absent);

    must(bitkv_close(db), "close");
    return found == KEYS / 2 && absent == KEYS / 2 ? 0 : 1;
}
