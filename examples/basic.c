/* SPDX-License-Identifier: MIT */
/*
 * Open, put, get, overwrite, delete, close, and what errors look like.
 *
 *     basic [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Good enough for an example: say what happened and leave. */
static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void put(bitkv *db, const char *key, const char *value)
{
    must(bitkv_put(db, key, strlen(key), value, strlen(value)), "put");
}

static void show(bitkv *db, const char *key)
{
    void *value;
    int status = bitkv_get(db, key, strlen(key), &value, NULL);
    if (status == BITKV_NOT_FOUND) { /* an answer, not an error */
        printf("%-12s is not there\n", key);
        return;
    }
    must(status, "get");
    printf("%-12s is %s\n", key, (char *)value); /* a NUL stands behind each value */
    bitkv_free(value);
}

int main(int argc, char **argv)
{
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 2; /* 0, the default: one for each CPU */

    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-basic.db", &options), "open");

    put(db, "user:1001", "Alice");
    put(db, "user:1002", "Bob");
    show(db, "user:1001");

    put(db, "user:1001", "Alice Smith"); /* replaces */
    must(bitkv_del(db, "user:1002", 9), "delete");
    show(db, "user:1001");
    show(db, "user:1002");

    /* Keys and values are bytes: zeros are fine in both. */
    const unsigned char image[] = {0x01, 0x00, 0xff, 0xfe};
    must(bitkv_put(db, "image:logo", 10, image, sizeof image), "put");
    unsigned char buffer[16];
    size_t size;
    must(bitkv_get_into(db, "image:logo", 10, buffer, sizeof buffer, &size), "get");
    printf("%-12s has %zu bytes\n", "image:logo", size);

    must(bitkv_close(db), "close");
    return 0;
}
