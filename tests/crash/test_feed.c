/* SPDX-License-Identifier: MIT */
/*
 * A process that writes, reads its own feed and stores the position now and then,
 * killed at any instant: from the position that it stored last, the next process
 * finds every write that was acknowledged since, in order.
 */
#include "api/fixture.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define ROUNDS      12u
#define WRITES      3000u /* of a round, at least */
#define STORE_EVERY 1000u
#define POSITION    (36u + 8u)

struct stored {
    uint64_t number; /* of the write that the position is behind */
    uint8_t position[POSITION];
};

/* Two places by turns: one is whole whenever the process dies. */
struct shared {
    _Atomic uint64_t acknowledged;
    _Atomic uint32_t current;
    struct stored stored[2];
};

static struct shared *shared;

static bool store(const bitkv_feed *feed, uint64_t number)
{
    uint32_t other = 1 - atomic_load(&shared->current);
    struct stored *to = &shared->stored[other];
    size_t size = 0;
    to->number = number;
    bool good = bitkv_feed_position(feed, to->position, sizeof to->position, &size) == BITKV_OK;
    atomic_store(&shared->current, other);
    return good;
}

static _Noreturn void be_killed(const bitkv_options *options)
{
    bitkv *db = NULL;
    bitkv_feed *feed = NULL;
    bitkv_change change;
    bool good = bitkv_open(&db, path, options) == BITKV_OK &&
                bitkv_feed_open(&feed, db, NULL, BITKV_FEED_END) == BITKV_OK;
    for (uint64_t n = atomic_load(&shared->acknowledged) + 1; good; n++) {
        good = bitkv_put(db, &n, sizeof n, &n, sizeof n) == BITKV_OK &&
               bitkv_feed_next(feed, &change) == BITKV_OK && change.key_size == sizeof n &&
               memcmp(change.key, &n, sizeof n) == 0;
        atomic_store(&shared->acknowledged, n);
        if (good && n % STORE_EVERY == 0)
            good = store(feed, n);
    }
    _exit(1);
}

static void expect_the_rest(const bitkv_options *options)
{
    const struct stored *stored = &shared->stored[atomic_load(&shared->current)];
    bitkv *db = open_with(options);
    bitkv_feed *feed = NULL;
    bitkv_change change;
    ok(bitkv_feed_open(&feed, db, stored->position, sizeof stored->position));
    uint64_t last = stored->number;
    int rc;
    while ((rc = bitkv_feed_next(feed, &change)) == BITKV_OK) {
        uint64_t number;
        memcpy(&number, change.key, sizeof number);
        /* One that was not acknowledged is made again by the next process. */
        assert_true(number == last + 1 || number == last);
        last = number;
    }
    assert_int_equal(rc, BITKV_NOT_FOUND);
    uint64_t acknowledged = atomic_load(&shared->acknowledged);
    assert_true(last == acknowledged || last == acknowledged + 1);
    ok(bitkv_feed_close(feed));
    ok(bitkv_close(db));
}

static void a_stored_position_leads_on_after_a_kill(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.feed_retention_bytes = UINT64_MAX;
    for (unsigned round = 0; round < ROUNDS; round++) {
        o.io_mode = both_modes[round % 2];
        (void)fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            be_killed(&o);
        while (atomic_load(&shared->acknowledged) < (round + 1) * (uint64_t)WRITES)
            sleep_ms(1);
        sleep_ms(round);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(wait_child(child), 1000 + SIGKILL);
        expect_the_rest(&o);
    }
    (void)munmap(shared, sizeof *shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_stored_position_leads_on_after_a_kill),
    };
    return cmocka_run_group_tests_name("feed after a kill", tests, NULL, NULL);
}
