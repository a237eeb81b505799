/* SPDX-License-Identifier: MIT */
/* The promises of bitkv.hpp about tasks and results. */
#include "cpp/check.hpp"

#include <sstream>
#include <thread>

using namespace bitcask;

namespace
{

/* --- results ------------------------------------------------------------------ */

void a_result_is_a_value_or_an_error()
{
    result<int> good = 7;
    CHECK(good && good.has_value() && *good == 7 && good.value() == 7 && good.value_or(1) == 7);
    CHECK(good.error().code() == BITKV_OK);
    result<std::string> bad = error(BITKV_ERR_IO, "disk");
    CHECK(!bad && !bad.has_value() && bad.value_or("other") == "other");
    CHECK(bad.error().code() == BITKV_ERR_IO && bad.error() == BITKV_ERR_IO);
    CHECK(bad.error().context() == "disk");
    CHECK(bad.error().text() == "input/output error: disk");
    std::ostringstream out;
    out << bad.error();
    CHECK(out.str() == bad.error().text());
    result<std::string> text = "text";
    CHECK(text->size() == 4);
    result<std::unique_ptr<std::string>> pointer = std::make_unique<std::string>("pointed at");
    CHECK(pointer->size() == 10);
    CHECK((*std::move(pointer)).get() != nullptr);
    result<void> nothing;
    CHECK(nothing && nothing.has_value());
    nothing.value();
    nothing = error(BITKV_ERR_IO);
    CHECK(!nothing && nothing.error().text() == "input/output error");
    result<result<int>> nested = result<int>(error(BITKV_ERR_IO));
    CHECK(nested && !*nested);
}

/* --- tasks ---------------------------------------------------------------------- */

int running;

struct counted {
    counted()
    {
        running++;
    }
    counted(const counted &) = delete;
    counted &operator=(const counted &) = delete;
    ~counted()
    {
        running--;
    }
};

task<int> returns(int n)
{
    counted here;
    co_return n;
}

task<std::unique_ptr<int>> returns_movable(int n)
{
    co_return std::make_unique<int>(n);
}

task<int> adds(int n)
{
    int sum = 0;
    for (int i = 1; i <= n; i++)
        sum += co_await returns(i);
    co_return sum;
}

task<int> descends(int depth)
{
    counted here;
    if (depth == 0)
        co_return 0;
    co_return 1 + co_await descends(depth - 1);
}

void tasks_await_tasks()
{
    CHECK(sync_wait(adds(100)) == 5050);
    CHECK(sync_wait(descends(1000)) == 1000);
    CHECK(*sync_wait(returns_movable(3)) == 3);
    CHECK(running == 0);
}

task<long> loops(int n)
{
    long sum = 0;
    for (int i = 0; i < n; i++)
        sum += co_await returns(1);
    co_return sum;
}

task<long> loops_between_operations(database &db)
{
    long sum = 0;
    for (int i = 0; i < 3; i++) {
        co_await db.exists("key");
        sum += co_await loops(100000);
    }
    co_return sum;
}

/* Each goes on when the operation at the bottom has completed. */
task<int> descends_to_an_operation(database &db, int depth)
{
    counted here;
    if (depth == 0) {
        co_await db.exists("key");
        co_return 0;
    }
    co_return 1 + co_await descends_to_an_operation(db, depth - 1);
}

void a_loop_of_awaits_takes_no_stack()
{
    scratch s;
    auto db = open_in(s);
    CHECK(sync_wait(loops(1000000)) == 1000000);
    CHECK(sync_wait(loops_between_operations(*db)) == 300000);
    CHECK(sync_wait(descends(5000)) == 5000);
    CHECK(sync_wait(descends_to_an_operation(*db, 5000)) == 5000);
    CHECK(running == 0);
}

void a_task_begins_when_it_is_awaited()
{
    bool begun = false;
    auto begin = [](bool &flag) -> task<void> {
        flag = true;
        co_return;
    };
    {
        task<void> never = begin(begun);
        CHECK(never && !never.done());
        task<void> moved = std::move(never);
        CHECK(moved);
    }
    CHECK(!begun);
    sync_wait(begin(begun));
    CHECK(begun);
}

void many_are_awaited_at_a_time()
{
    auto nothing = []() -> task<void> { co_return; };
    auto [a, b, c] = sync_wait(when_all(returns(1), returns_movable(2), nothing()));
    CHECK(a == 1 && *b == 2);
    (void)c;
    std::vector<task<int>> tasks;
    for (int i = 0; i < 1000; i++)
        tasks.push_back(returns(i));
    std::vector<int> results = sync_wait(when_all(std::move(tasks)));
    for (int i = 0; i < 1000; i++)
        CHECK(results[static_cast<std::size_t>(i)] == i);
    CHECK(sync_wait(when_all(std::vector<task<int>>())).empty());
    std::vector<task<void>> voids;
    voids.push_back(nothing());
    sync_wait(when_all(std::move(voids)));
    CHECK(running == 0);
}

/* Awaits to be resumed by another thread. */
struct elsewhere {
    bool await_ready() const
    {
        return false;
    }
    void await_suspend(std::coroutine_handle<> h)
    {
        std::thread([h] {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            h.resume();
        }).detach();
    }
    void await_resume() const {}
};

void sync_wait_waits_for_other_threads_too()
{
    auto goes_elsewhere = []() -> task<int> {
        co_await elsewhere();
        co_return 5;
    };
    CHECK(sync_wait(goes_elsewhere()) == 5);
}

/* Resumed by another thread at any time, also while it is being suspended. */
struct elsewhere_at_once {
    bool await_ready() const
    {
        return false;
    }
    void await_suspend(std::coroutine_handle<> h)
    {
        std::thread([h] { h.resume(); }).detach();
    }
    void await_resume() const {}
};

void another_thread_may_end_what_is_awaited()
{
    auto goes = [](int n) -> task<int> {
        co_await elsewhere_at_once();
        co_return n;
    };
    auto sums = [&]() -> task<int> {
        int sum = 0;
        for (int i = 0; i < 500; i++)
            sum += co_await goes(i);
        co_return sum;
    };
    CHECK(sync_wait(sums()) == 124750);
}

task<int> waits_inside(database &db)
{
    auto inside = sync_wait(db.get_string("key"));
    co_return static_cast<int>(inside.value()->size());
}

void sync_wait_may_be_called_by_a_coroutine()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    auto [a, b] = sync_wait(when_all(waits_inside(*db), db->get_string("key")));
    CHECK(a == 5 && b.value() == "value");
}

#if defined(__cpp_exceptions)
struct thrown {
    int number;
};

task<int> throws(int n)
{
    counted here;
    if (n >= 0)
        throw thrown{n};
    co_return n;
}

task<int> throws_later(database &db, int n)
{
    counted here;
    co_await db.sync();
    co_return co_await throws(n);
}

template <class F> int caught(F f)
{
    try {
        f();
    } catch (const thrown &t) {
        return t.number;
    }
    return -1;
}

void exceptions_reach_who_awaits()
{
    scratch s;
    auto db = open_in(s);
    CHECK(caught([] { sync_wait(throws(1)); }) == 1);
    CHECK(caught([&] { sync_wait(throws_later(*db, 2)); }) == 2);
    CHECK(caught([&] { sync_wait(when_all(returns(1), throws_later(*db, 3), throws(4))); }) == 3);
    CHECK(caught([&] {
              std::vector<task<int>> tasks;
              tasks.push_back(throws(-1));
              tasks.push_back(throws(5));
              sync_wait(when_all(std::move(tasks)));
          }) == 5);
    auto catches = [](database &d) -> task<int> {
        try {
            co_return co_await throws_later(d, 6);
        } catch (const thrown &t) {
            co_return t.number;
        }
    };
    CHECK(sync_wait(catches(*db)) == 6);
    CHECK(running == 0);
}

void value_throws_if_there_is_none()
{
    result<int> bad = error(BITKV_ERR_IO, "disk");
    std::string said;
    try {
        (void)bad.value();
    } catch (const bad_result_access &e) {
        said = e.what();
        CHECK(e.code() == BITKV_ERR_IO);
    }
    CHECK(said == "input/output error: disk");
}
#endif

} // namespace

int main()
{
    return run_tests({
        NAMED(a_result_is_a_value_or_an_error), NAMED(tasks_await_tasks),
            NAMED(a_loop_of_awaits_takes_no_stack), NAMED(a_task_begins_when_it_is_awaited),
            NAMED(many_are_awaited_at_a_time), NAMED(sync_wait_waits_for_other_threads_too),
            NAMED(another_thread_may_end_what_is_awaited),
            NAMED(sync_wait_may_be_called_by_a_coroutine),
#if defined(__cpp_exceptions)
            NAMED(exceptions_reach_who_awaits), NAMED(value_throws_if_there_is_none),
#endif
    });
}
