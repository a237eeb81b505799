/* SPDX-License-Identifier: MIT */
/* The promises of bitkv.hpp about event loops: many coroutines, threads,
 * databases, and what happens when something ends while coroutines wait. */
#include "cpp/check.hpp"

#include <atomic>
#include <thread>

#include <poll.h>

using namespace bitcask;

namespace
{

std::string numbered(const char *what, int n)
{
    return what + std::to_string(n);
}

int alive, ended; /* coroutines */

struct life {
    life()
    {
        alive++;
    }
    life(const life &) = delete;
    life &operator=(const life &) = delete;
    ~life()
    {
        alive--;
    }
};

/* --- many ------------------------------------------------------------------------ */

task<void> writes_and_reads(database &db, int n)
{
    for (int i = 0; i < 4; i++) {
        std::string key = numbered("key", n * 4 + i);
        CHECK_OK(co_await db.put(key, numbered("value", n)));
        CHECK((co_await db.get_string(key)).value() == numbered("value", n));
        CHECK((co_await db.exists(key)).value());
        if (i == 3)
            CHECK((co_await db.del(key)).value());
    }
}

task<void> many(database &db, int count)
{
    std::vector<task<void>> tasks;
    for (int i = 0; i < count; i++)
        tasks.push_back(writes_and_reads(db, i));
    co_await when_all(std::move(tasks));
}

void thousands_share_a_thread()
{
    scratch s;
    auto db = open_in(s);
    sync_wait(many(*db, 5000));
    CHECK(db->stats()->keys == 15000);
}

void a_full_queue_makes_operations_wait()
{
    scratch s;
    auto db = open_in(s);
    for (std::uint32_t capacity : {1u, 7u}) {
        event_loop loop({.queue_capacity = capacity});
        sync_wait(many(*db, 500));
    }
    CHECK(db->stats()->keys == 1500);
}

task<void> durable_put(database &db, int n)
{
    life here;
    CHECK_OK(co_await db.put(numbered("key", n), "value", BITKV_DURABILITY_SYNC));
    ended++;
}

void durable_writes_share_syncs()
{
    scratch s;
    auto db = open_in(s);
    ended = 0;
    std::vector<task<void>> tasks;
    for (int i = 0; i < 1000; i++)
        tasks.push_back(durable_put(*db, i));
    sync_wait(when_all(std::move(tasks)));
    CHECK(ended == 1000);
    CHECK(db->stats()->syncs_total < 500);
}

void what_is_awaited_takes_effect_in_order()
{
    scratch s;
    auto db = open_in(s);
    auto [a, b, c, d, e] =
        sync_wait(when_all(db->get("key"), db->put("key", "1"), db->get_string("key"),
                           db->put("key", "2"), db->get_string("key")));
    CHECK(!a.value() && b && d);
    CHECK(c.value() == "1" && e.value() == "2");
}

/* --- spawned ------------------------------------------------------------------------ */

void spawned_tasks_run_out_of_the_loop()
{
    scratch s;
    auto db = open_in(s);
    event_loop &loop = event_loop::current();
    ended = 0;
    for (int i = 0; i < 100; i++)
        loop.spawn(durable_put(*db, i));
    CHECK(alive == 100 && loop.pending());
    loop.run();
    CHECK(alive == 0 && ended == 100 && !loop.pending());
    CHECK(loop.run_once() == 0);
    CHECK(loop.run_once(std::chrono::milliseconds(10)) == 0);
}

void a_foreign_loop_drives_it_by_its_descriptor()
{
    scratch s;
    auto db = open_in(s);
    event_loop &loop = event_loop::current();
    auto fd = loop.fd(*db);
    CHECK_OK(fd);
    ended = 0;
    for (int i = 0; i < 50; i++)
        loop.spawn(durable_put(*db, i));
    for (int i = 0; i < 50; i++)
        loop.spawn(writes_and_reads(*db, i + 100));
    loop.poll();
    while (loop.pending()) {
        pollfd p = {.fd = *fd, .events = POLLIN, .revents = 0};
        CHECK(::poll(&p, 1, 10000) == 1);
        loop.poll();
    }
    CHECK(alive == 0 && ended == 50);
}

/* --- databases and threads ------------------------------------------------------------- */

task<void> copies(database &from, database &to, int count)
{
    for (int i = 0; i < count; i++) {
        auto value = co_await from.get_string(numbered("key", i));
        CHECK_OK(co_await to.put(numbered("key", i), *value.value(),
                                 i % 8 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE));
    }
}

void a_loop_serves_several_databases()
{
    scratch s;
    auto a = open_in(s, "a"), b = open_in(s, "b"), c = open_in(s, "c");
    for (int i = 0; i < 100; i++)
        CHECK_OK(sync_wait(a->put(numbered("key", i), numbered("value", i))));
    sync_wait(when_all(copies(*a, *b, 100), copies(*a, *c, 100)));
    for (int i = 0; i < 100; i++) {
        CHECK(sync_wait(b->get_string(numbered("key", i))).value() == numbered("value", i));
        CHECK(sync_wait(c->get_string(numbered("key", i))).value() == numbered("value", i));
    }
    event_loop::current().spawn(durable_put(*b, 1)); /* and one of several waits alone */
    event_loop::current().run();
}

void threads_have_loops_of_their_own()
{
    scratch s;
    auto db = open_in(s);
    auto work = [&db](int first) {
        std::vector<task<void>> tasks;
        for (int i = 0; i < 500; i++)
            tasks.push_back(writes_and_reads(*db, first + i));
        sync_wait(when_all(std::move(tasks)));
    };
    std::thread a(work, 0), b(work, 1000);
    a.join();
    b.join();
    CHECK(db->stats()->keys == 3000);
}

void databases_come_and_go()
{
    scratch s;
    for (int i = 0; i < 20; i++) {
        auto db = open_in(s);
        CHECK_OK(sync_wait(db->put(numbered("key", i), "value")));
        if (i % 2 == 0)
            CHECK_OK(sync_wait(db->close()));
    }
    CHECK(!event_loop::current().pending());
}

/* --- ends ---------------------------------------------------------------------------- */

std::atomic<int> refused;

task<void> until_closed(database &db, int n)
{
    life here;
    for (int i = 0;; i++) {
        auto put = co_await db.put(numbered("key", n), numbered("value", i),
                                   i % 4 == 0 ? BITKV_DURABILITY_SYNC : BITKV_DURABILITY_NONE);
        if (!put) {
            CHECK_ERROR(put, BITKV_ERR_CLOSED);
            refused++;
            co_return;
        }
    }
}

task<void> closes_after(database &db, int syncs)
{
    for (int i = 0; i < syncs; i++)
        co_await db.sync();
    CHECK_OK(co_await db.close());
}

void closing_ends_what_waits_in_this_thread()
{
    scratch s;
    auto db = open_in(s);
    refused = 0;
    event_loop &loop = event_loop::current();
    for (int i = 0; i < 100; i++)
        loop.spawn(until_closed(*db, i));
    sync_wait(closes_after(*db, 2));
    loop.run();
    CHECK(refused == 100 && alive == 0);
    db.reset();
    open_in(s);
}

void closing_ends_what_waits_in_other_threads()
{
    scratch s;
    auto db = open_in(s);
    refused = 0;
    auto work = [&db](int first) {
        std::vector<task<void>> tasks;
        auto run = [](database &d, int n) -> task<void> {
            for (;;) {
                auto put = co_await d.put(numbered("key", n), "value", BITKV_DURABILITY_SYNC);
                if (!put)
                    break;
            }
            refused++;
        };
        for (int i = 0; i < 50; i++)
            tasks.push_back(run(*db, first + i));
        sync_wait(when_all(std::move(tasks)));
    };
    std::thread a(work, 0), b(work, 100);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK_OK(sync_wait(db->close()));
    a.join();
    b.join();
    CHECK(refused == 100);
}

void a_loop_that_is_destroyed_destroys_what_was_spawned()
{
    scratch s;
    auto db = open_in(s);
    ended = 0;
    {
        event_loop loop;
        for (int i = 0; i < 100; i++)
            loop.spawn(durable_put(*db, i)); /* batched only */
        CHECK(alive == 100);
    }
    CHECK(alive == 0 && ended == 0);
    CHECK(db->stats()->keys == 0);
    {
        event_loop loop({.queue_capacity = 60});
        for (int i = 0; i < 100; i++)
            loop.spawn(durable_put(*db, i));
        loop.run_once(std::chrono::milliseconds(0)); /* submitted, some perhaps done */
    }
    CHECK(alive == 0);
    {
        event_loop loop; /* the database goes first */
        for (int i = 0; i < 100; i++)
            loop.spawn(durable_put(*db, i));
        loop.run_once(std::chrono::milliseconds(0));
        db.reset();
    }
    CHECK(alive == 0);
}

void a_thread_that_ends_destroys_what_was_spawned()
{
    scratch s;
    auto db = open_in(s);
    std::thread([&db] {
        event_loop::current().spawn(until_closed(*db, 1));
        event_loop::current().run_once(std::chrono::milliseconds(0));
    }).join();
    CHECK(alive == 0);
}

task<void> reads_for_ever(database &db)
{
    life here;
    for (;;) {
        auto value = co_await db.get("key");
        auto pinned = co_await db.get_view("key");
        (void)co_await db.put("key", "new value", BITKV_DURABILITY_SYNC);
    }
}

/* The first to end is awaited, the other destroyed where it is. */
task<void> drops_others(database &db)
{
    std::vector<task<void>> others;
    std::size_t never = 1000;
    for (int i = 0; i < 30; i++) {
        others.push_back(reads_for_ever(db));
        others.back().start(std::noop_coroutine(), never);
    }
    CHECK(alive == 30);
    for (int i = 0; i < 10; i++) {
        co_await db.sync();
        others.pop_back();
        others.erase(others.begin());
    }
    CHECK(alive == 10);
}

void a_task_may_be_destroyed_while_it_waits()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    sync_wait(drops_others(*db));
    CHECK(alive == 0);
    CHECK(!event_loop::current().pending());
    CHECK(sync_wait(db->get("key")).value());
}

} // namespace

int main()
{
    return run_tests({
        NAMED(thousands_share_a_thread),
        NAMED(a_full_queue_makes_operations_wait),
        NAMED(durable_writes_share_syncs),
        NAMED(what_is_awaited_takes_effect_in_order),
        NAMED(spawned_tasks_run_out_of_the_loop),
        NAMED(a_foreign_loop_drives_it_by_its_descriptor),
        NAMED(a_loop_serves_several_databases),
        NAMED(threads_have_loops_of_their_own),
        NAMED(databases_come_and_go),
        NAMED(closing_ends_what_waits_in_this_thread),
        NAMED(closing_ends_what_waits_in_other_threads),
        NAMED(a_loop_that_is_destroyed_destroys_what_was_spawned),
        NAMED(a_thread_that_ends_destroys_what_was_spawned),
        NAMED(a_task_may_be_destroyed_while_it_waits),
    });
}
