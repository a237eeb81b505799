/* SPDX-License-Identifier: MIT */
/*
 * Keys that expire, counters, and writes that depend on what is there: a visit
 * counter with a session, and an account that two may change at once.
 *
 *     ttl_and_counters [DIRECTORY]
 */
#include <bitkv.h>

#include <inttypes.h>
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

/* --- a session, which ends half an hour after the last visit ------------------- */

static void visit(bitkv *db)
{
    const uint64_t half_an_hour = UINT64_C(30) * 60 * 1000;
    if (bitkv_touch(db, "session", 7, half_an_hour) == BITKV_NOT_FOUND) {
        bitkv_put_options options;
        bitkv_put_options_init(&options);
        options.ttl_ms = half_an_hour;
        must(bitkv_put_if(db, "session", 7, "alice", 5, &options, NULL), "put");
    }
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    must(bitkv_info(db, "session", 7, &info), "info");

    int64_t visits; /* several threads may count: none is lost */
    must(bitkv_add(db, "visits", 6, 1, &visits), "add");
    printf("visit %" PRId64 ", the session ends in %" PRIu64 " s\n", visits,
           info.remaining_ms / 1000);
}

/* --- an account: a change is made only to what it was decided by ------------------ */

static int compare_and_set(bitkv *db, int change)
{
    int balance = 0;
    bitkv_key_info info;
    bitkv_key_info_init(&info);
    bitkv_put_options options;
    bitkv_put_options_init(&options);
    int status = bitkv_info(db, "account", 7, &info);
    if (status == BITKV_NOT_FOUND) {
        options.condition = BITKV_IF_ABSENT;
    } else {
        must(status, "info");
        must(bitkv_get_into(db, "account", 7, &balance, sizeof balance, NULL), "get");
        options.condition = BITKV_IF_VERSION;
        options.version = info.version;
    }
    balance += change;
    return bitkv_put_if(db, "account", 7, &balance, sizeof balance, &options, NULL);
}

struct withdrawal {
    int amount;
    int balance;
};

/* The same in one call: what is there, and what is to become of it. May be called
 * again, if somebody else has changed the account meanwhile. */
static int withdraw(void *user, bitkv_update_step *step)
{
    struct withdrawal *w = user;
    w->balance = 0;
    if (step->present && step->value_size == sizeof w->balance)
        memcpy(&w->balance, step->value, sizeof w->balance);
    if (w->balance < w->amount)
        return BITKV_UPDATE_LEAVE;
    w->balance -= w->amount;
    step->new_value = &w->balance;
    step->new_value_size = sizeof w->balance;
    return BITKV_UPDATE_PUT;
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-ttl.db", NULL), "open");
    visit(db);

    int status;
    do /* another writer came between: read again, decide again */
        status = compare_and_set(db, 100);
    while (status == BITKV_ERR_CONFLICT);
    must(status, "deposit");

    struct withdrawal w = {.amount = 30};
    must(bitkv_update(db, "account", 7, withdraw, &w, BITKV_DURABILITY_SYNC), "withdraw");
    printf("balance %d\n", w.balance);
    must(bitkv_close(db), "close");
    return 0;
}
