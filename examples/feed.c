/* SPDX-License-Identifier: MIT */
/* A change feed: copies into another database what was written to this one since the last
 * time. Run it again: it goes on where it was, and sees only what is new. */
#include <bitkv.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Room for the position of 64 partitions: 36 bytes, and 8 for each. */
#define POSITION_MAX (36 + 8 * 64)

static void must(int status, const char *what)
{
    if (status != BITKV_OK) {
        (void)fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
        exit(1);
    }
}

static void put(bitkv *db, const char *key, const char *value)
{
    must(bitkv_put(db, key, strlen(key), value, strlen(value)), "put");
}

/* The position lies in another database, together with what was made of the changes: a batch
 * writes both or neither, so that every change counts once, whatever crashes. */
static bitkv_feed *open_feed(bitkv *db, bitkv *copy)
{
    unsigned char position[POSITION_MAX];
    size_t size = 0;
    bitkv_feed *feed = NULL;
    int status = bitkv_get_into(copy, "position", 8, position, sizeof position, &size);
    if (status == BITKV_NOT_FOUND)
        status = bitkv_feed_open(&feed, db, NULL, BITKV_FEED_OLDEST);
    else if (status == BITKV_OK)
        status = bitkv_feed_open(&feed, db, position, size);
    if (status == BITKV_ERR_BEHIND) /* compaction was faster: begin anew with a bitkv_scan() */
        (void)fprintf(stderr, "raise feed_retention_bytes, or read more often\n");
    must(status, "open the feed");
    return feed;
}

static void apply(bitkv_batch *batch, const bitkv_change *change)
{
    char entry[128];
    int size = snprintf(entry, sizeof entry, "copy/%.*s", (int)change->key_size,
                        (const char *)change->key);
    bool is_put = change->kind == BITKV_CHANGE_PUT;
    (void)printf("%s %.*s%s%.*s\n", is_put ? "put" : "delete", (int)change->key_size,
                 (const char *)change->key, is_put ? " = " : "", (int)change->value_size,
                 is_put ? (const char *)change->value : "");
    must(is_put ? bitkv_batch_put(batch, entry, (size_t)size, change->value, change->value_size)
                : bitkv_batch_del(batch, entry, (size_t)size),
         "batch");
}

int main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : "example-feed";
    char path[1024], copy_path[1024];
    if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
        perror(directory);
        return 1;
    }
    (void)snprintf(path, sizeof path, "%s/users.db", directory);
    (void)snprintf(copy_path, sizeof copy_path, "%s/copy.db", directory);
    bitkv_options options;
    bitkv_options_init(&options);
    options.partitions = 4;
    options.feed_retention_bytes = 1 << 20; /* of each partition, compaction leaves that alone */
    bitkv *db, *copy;
    must(bitkv_open(&db, path, &options), "open");
    must(bitkv_open(&copy, copy_path, NULL), "open the copy");

    put(db, "user/1", "Ada, London");
    put(db, "user/2", "Grace, New York");
    put(db, "user/1", "Ada, Paris");
    must(bitkv_del(db, "user/2", 6), "delete");

    bitkv_feed *feed = open_feed(db, copy);
    bitkv_batch *batch;
    must(bitkv_batch_create(&batch), "create a batch");
    bitkv_change change;
    int status;
    while ((status = bitkv_feed_next(feed, &change)) == BITKV_OK)
        apply(batch, &change);
    if (status != BITKV_NOT_FOUND) /* the end of what is there: bitkv_feed_wait() waits for more */
        must(status, "read the feed");

    unsigned char position[POSITION_MAX];
    size_t size;
    must(bitkv_feed_position(feed, position, sizeof position, &size), "position");
    must(bitkv_batch_put(batch, "position", 8, position, size), "batch");
    must(bitkv_write(copy, batch, BITKV_DURABILITY_DEFAULT), "write");

    bitkv_batch_destroy(batch);
    must(bitkv_feed_close(feed), "close the feed");
    must(bitkv_close(copy), "close the copy");
    must(bitkv_close(db), "close");
    return 0;
}
