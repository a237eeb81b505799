/* SPDX-License-Identifier: MIT */
/*
 * A report that adds up, while others write: a snapshot, gone through by two
 * threads, a share each.
 *
 *     snapshot [DIRECTORY]
 */
#include <bitkv.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCOUNTS 1000
#define THREADS  2

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void set_balance(bitkv *db, int account, int balance)
{
    char key[32];
    int size = snprintf(key, sizeof key, "account:%d", account);
    must(bitkv_put(db, key, (size_t)size, &balance, sizeof balance), "put");
}

struct part {
    bitkv_snapshot *snapshot;
    uint32_t share;
    unsigned accounts;
    long sum;
};

static void *add_up(void *user)
{
    struct part *part = user;
    bitkv_iterator_options options;
    bitkv_iterator_options_init(&options);
    options.prefix = "account:";
    options.prefix_size = 8;
    options.share = part->share;
    options.shares = THREADS;
    bitkv_iterator *iterator;
    must(bitkv_iterator_create(&iterator, part->snapshot, &options), "iterate");
    bitkv_record record;
    int status;
    while ((status = bitkv_iterator_next(iterator, &record)) == BITKV_OK) {
        int balance;
        memcpy(&balance, record.value, sizeof balance);
        part->accounts++;
        part->sum += balance;
    }
    if (status != BITKV_NOT_FOUND) /* the end; all else is a failure */
        must(status, "next");
    must(bitkv_iterator_destroy(iterator), "destroy iterator");
    return NULL;
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-snapshot.db", NULL), "open");
    for (int i = 0; i < ACCOUNTS; i++)
        set_balance(db, i, 100);

    bitkv_snapshot *snapshot;
    must(bitkv_snapshot_create(&snapshot, db), "snapshot");

    /* What comes later is not in it. */
    for (int i = 0; i < ACCOUNTS; i += 2)
        set_balance(db, i, 0);
    must(bitkv_del(db, "account:1", 9), "delete");

    struct part parts[THREADS];
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        parts[i] = (struct part){.snapshot = snapshot, .share = i};
        if (pthread_create(&threads[i], NULL, add_up, &parts[i]) != 0)
            return 1;
    }
    unsigned accounts = 0;
    long sum = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        accounts += parts[i].accounts;
        sum += parts[i].sum;
    }
    printf("%u accounts with %ld\n", accounts, sum);

    int balance;
    must(bitkv_snapshot_get_into(snapshot, "account:1", 9, &balance, sizeof balance, NULL), "get");
    printf("account 1 had %d\n", balance);

    must(bitkv_snapshot_destroy(snapshot), "destroy"); /* soon: it keeps files and memory */
    must(bitkv_close(db), "close");
    return accounts == ACCOUNTS && sum == 100L * ACCOUNTS && balance == 100 ? 0 : 1;
}
