/* SPDX-License-Identifier: MIT */
/**
 * @file task.hpp
 * Coroutines that return a result to who awaits them, and several at a time. A part of bitkv.hpp:
 * include that.
 */
#ifndef BITKV_TASK_HPP
#define BITKV_TASK_HPP

#include <bitkv.h>
#include <bitkv/result.hpp>

#include <atomic>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace bitcask
{

template <class T> class task;

namespace detail
{

/* Who goes on when a task has ended: who awaits it, or, if it is one of many
 * (`remaining`), who awaits them all, after the last. */
class promise_base
{
    struct final_awaiter {
        bool await_ready() const noexcept
        {
            return false;
        }
        template <class Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept
        {
            promise_base &promise = ended.promise();
            bool goes_on =
                promise.remaining != nullptr ? --*promise.remaining == 0 : promise.second();
            return goes_on ? promise.continuation : std::noop_coroutine();
        }
        void await_resume() const noexcept {}
    };

  public:
    std::coroutine_handle<> continuation = std::noop_coroutine();
    std::size_t *remaining = nullptr;

    /* Of two that meet here, its end and the return of who began it, the second
     * goes on with the awaiter. Another thread may be the one that ends it. */
    bool second() noexcept
    {
        return met_.exchange(true, std::memory_order_acq_rel);
    }

    std::suspend_always initial_suspend() const noexcept
    {
        return {};
    }
    final_awaiter final_suspend() const noexcept
    {
        return {};
    }
    void unhandled_exception() noexcept
    {
#if BITCASK_EXCEPTIONS_
        thrown_ = std::current_exception();
#else
        std::terminate();
#endif
    }

  protected:
    void rethrow() const
    {
#if BITCASK_EXCEPTIONS_
        if (thrown_)
            std::rethrow_exception(thrown_);
#endif
    }

  private:
    std::atomic<bool> met_{false};
#if BITCASK_EXCEPTIONS_
    std::exception_ptr thrown_;
#endif
};

template <class T> class promise : public promise_base
{
  public:
    task<T> get_return_object() noexcept;

    template <class U = T>
    requires std::constructible_from<T, U>
    void return_value(U &&value)
    {
        value_.emplace(std::forward<U>(value));
    }
    T take()
    {
        rethrow();
        return std::move(*value_);
    }

  private:
    std::optional<T> value_;
};

template <> class promise<void> : public promise_base
{
  public:
    task<void> get_return_object() noexcept;

    void return_void() const noexcept {}
    void take() const
    {
        rethrow();
    }
};

} // namespace detail

/**
 * A coroutine that returns a T, or nothing. It begins when it is awaited, once,
 * by one. Destroying it destroys the coroutine where it is suspended.
 *
 * A task that awaits another takes as much of the stack as a function that
 * calls one: recursion is bounded, loops are not.
 */
template <class T = void> class [[nodiscard]] task
{
    static_assert(!std::is_reference_v<T>, "a task returns a value or void");

  public:
    using value_type = T;
    using promise_type = detail::promise<T>;

    task() noexcept = default;
    task(task &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    task &operator=(task &&other) noexcept
    {
        task old(std::move(*this));
        handle_ = std::exchange(other.handle_, nullptr);
        return *this;
    }
    ~task()
    {
        if (handle_)
            handle_.destroy();
    }

    /** Has it a coroutine? */
    explicit operator bool() const noexcept
    {
        return handle_ != nullptr;
    }
    /** Has it ended? */
    bool done() const noexcept
    {
        return !handle_ || handle_.done();
    }

    auto operator co_await() &&noexcept
    {
        return awaiter{handle_};
    }
    auto operator co_await() &noexcept
    {
        return awaiter{handle_};
    }

    /** For combinators: begins; `then` goes on when this and the others that
     *  count `remaining` down have ended. */
    void start(std::coroutine_handle<> then, std::size_t &remaining)
    {
        handle_.promise().continuation = then;
        handle_.promise().remaining = &remaining;
        handle_.resume();
    }
    /** For combinators: what it returned or threw. */
    T take()
    {
        return handle_.promise().take();
    }

  private:
    friend promise_type;
    using handle = std::coroutine_handle<promise_type>;

    struct awaiter {
        handle task;

        bool await_ready() const noexcept
        {
            return false;
        }
        /* Not by symmetric transfer: unless the compiler makes tail calls of it
         * (gcc: from -O2 on), a loop that awaits what ends at once would take
         * more of the stack with each round. */
        bool await_suspend(std::coroutine_handle<> then) const noexcept
        {
            task.promise().continuation = then;
            task.resume();
            return !task.promise().second();
        }
        T await_resume() const
        {
            return task.promise().take();
        }
    };

    explicit task(handle h) noexcept : handle_(h) {}

    handle handle_ = nullptr;
};

template <class T> task<T> detail::promise<T>::get_return_object() noexcept
{
    return task<T>(std::coroutine_handle<promise>::from_promise(*this));
}

inline task<void> detail::promise<void>::get_return_object() noexcept
{
    return task<void>(std::coroutine_handle<promise>::from_promise(*this));
}

namespace detail
{

template <class T> inline constexpr bool is_task = false;
template <class T> inline constexpr bool is_task<task<T>> = true;

template <class A> decltype(auto) awaiter_of(A &&awaitable)
{
    if constexpr (requires { std::forward<A>(awaitable).operator co_await(); })
        return std::forward<A>(awaitable).operator co_await();
    else
        return std::forward<A>(awaitable);
}

/* What awaiting an A returns. */
template <class A> using awaited_t = decltype(awaiter_of(std::declval<A>()).await_resume());

template <class A>
concept awaitable = !std::is_lvalue_reference_v<A> && requires
{
    typename awaited_t<A>;
};

template <awaitable A> task<awaited_t<A>> wrap(A awaited)
{
    co_return co_await std::move(awaited);
}

template <awaitable A> task<awaited_t<A>> as_task(A &&awaited)
{
    if constexpr (is_task<A>)
        return std::move(awaited);
    else
        return wrap<A>(std::move(awaited));
}

template <class T> using tuple_element = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

template <class T> tuple_element<T> take(task<T> &t)
{
    if constexpr (std::is_void_v<T>) {
        t.take();
        return {};
    } else {
        return t.take();
    }
}

template <class T> class [[nodiscard]] all_of_vector
{
  public:
    explicit all_of_vector(std::vector<task<T>> tasks) : tasks_(std::move(tasks)) {}
    bool await_ready() const noexcept
    {
        return tasks_.empty();
    }
    bool await_suspend(std::coroutine_handle<> then)
    {
        remaining_ = tasks_.size() + 1; /* one for this function */
        for (task<T> &t : tasks_)
            t.start(then, remaining_);
        return --remaining_ > 0;
    }
    auto await_resume()
    {
        if constexpr (std::is_void_v<T>) {
            for (task<T> &t : tasks_)
                t.take();
        } else {
            std::vector<T> results;
            results.reserve(tasks_.size());
            for (task<T> &t : tasks_)
                results.push_back(t.take());
            return results;
        }
    }

  private:
    std::vector<task<T>> tasks_;
    std::size_t remaining_ = 0;
};

template <class... T> class [[nodiscard]] all_of_tuple
{
  public:
    explicit all_of_tuple(task<T>... tasks) : tasks_(std::move(tasks)...) {}
    bool await_ready() const noexcept
    {
        return sizeof...(T) == 0;
    }
    bool await_suspend(std::coroutine_handle<> then)
    {
        remaining_ = sizeof...(T) + 1;
        std::apply([&](auto &...t) { (t.start(then, remaining_), ...); }, tasks_);
        return --remaining_ > 0;
    }
    std::tuple<tuple_element<T>...> await_resume()
    {
        return std::apply(
            [](auto &...t) { return std::tuple<tuple_element<T>...>{detail::take(t)...}; }, tasks_);
    }

  private:
    std::tuple<task<T>...> tasks_;
    std::size_t remaining_ = 0;
};

} // namespace detail

/**
 * Awaits many at a time. co_await returns when the last has ended: their
 * results in a vector, in order; nothing for tasks of void. An exception that
 * one threw is then rethrown, the first in order.
 */
template <class T> detail::all_of_vector<T> when_all(std::vector<task<T>> tasks)
{
    return detail::all_of_vector<T>(std::move(tasks));
}

/** The same for a few tasks or operations, of any types: returns a tuple, with
 *  std::monostate where one returns void. */
template <detail::awaitable... A>
requires(sizeof...(A) > 0) detail::all_of_tuple<detail::awaited_t<A>...> when_all(A &&...awaitables)
{
    return detail::all_of_tuple<detail::awaited_t<A>...>(
        detail::as_task(std::forward<A>(awaitables))...);
}

} // namespace bitcask

#endif /* BITKV_TASK_HPP */
