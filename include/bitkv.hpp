/* SPDX-License-Identifier: MIT */
/**
 * @file bitkv.hpp
 * BitKV for C++20: coroutines over the completion queues of bitkv.h.
 *
 *     bitcask::task<void> greet(bitcask::database &db)
 *     {
 *         co_await db.put("greeting", "hello");
 *         auto value = co_await db.get_string("greeting");
 *         if (value && *value)
 *             std::cout << **value << "\n";
 *     }
 *
 * How it works. Awaiting an operation appends it to a batch of the thread's
 * event_loop and suspends the coroutine. When no coroutine of the thread can
 * go on, the loop submits the batch at once, so that all of them share one
 * pipeline, waits for completions, and resumes those whose operations they
 * are. Nothing is allocated for an operation but what its result holds.
 *
 * Conventions, once for all:
 *
 *  1. Threads. A coroutine goes on in the thread that awaited; each thread has
 *     an event_loop of its own. A database may be used by all of them.
 *  2. Results. Operations return a result: a value or an error, never an
 *     exception of the library's. An absent key is no error.
 *  3. Exceptions that leave a task are rethrown to who awaits it. With
 *     -fno-exceptions, they cannot be, and memory exhaustion ends the program.
 *  4. Bytes. Keys and values are anything that is text or a contiguous range of
 *     char, unsigned char or std::byte. What is given as an rvalue that owns its
 *     bytes (std::string, std::vector) is kept by the operation; what else is
 *     given is referred to, and must stay until the operation has been awaited.
 *     An array of char, such as a string literal, is text up to its first NUL,
 *     or all of it if there is none; for bytes with NULs among them give a
 *     std::string_view with a size, a std::span or a std::array.
 *  5. Lifetime. A task may be destroyed while it is suspended: its operations
 *     are canceled first. Those of an event_loop that is destroyed, too; see
 *     there. Closing a database ends what is pending with BITKV_ERR_CLOSED.
 *
 * The namespace is not named after the library, since `bitkv` is the handle's
 * type in bitkv.h.
 */
#ifndef BITKV_HPP
#define BITKV_HPP

#if __cplusplus < 202002L
#error "bitkv.hpp needs C++20: -std=c++20, or target_compile_features(... cxx_std_20)"
#endif

#include <bitkv.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <concepts>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <iosfwd>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <poll.h>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(__cpp_exceptions)
#define BITCASK_EXCEPTIONS_ 1
#else
#define BITCASK_EXCEPTIONS_ 0
#endif

namespace bitcask
{

/* ------------------------------------------------------------------ */
/* Errors and results                                                  */
/* ------------------------------------------------------------------ */

/** What went wrong: a code, its message, and which file, where and why. */
class error
{
  public:
    error() = default;
    explicit error(int code, std::string context = {}) : code_(code), context_(std::move(context))
    {
    }
    /** Of the last call of this thread, which returned `code`. */
    static error of_thread(int code)
    {
        return error(code, bitkv_error_context());
    }

    /** Of ::bitkv_error. */
    int code() const noexcept
    {
        return code_;
    }
    /** Such as "BITKV_ERR_CORRUPT". */
    const char *name() const noexcept
    {
        return bitkv_error_name(code_);
    }
    /** Such as "data is damaged". */
    const char *message() const noexcept
    {
        return bitkv_strerror(code_);
    }
    /** As bitkv_error_context(). */
    const std::string &context() const noexcept
    {
        return context_;
    }
    /** Message and context. */
    std::string text() const
    {
        return context_.empty() ? std::string(message()) : message() + (": " + context_);
    }

    friend bool operator==(const error &e, bitkv_error code) noexcept
    {
        return e.code_ == code;
    }

    template <class Char, class Traits>
    friend std::basic_ostream<Char, Traits> &operator<<(std::basic_ostream<Char, Traits> &out,
                                                        const error &e)
    {
        // cppcheck-suppress stlcstrStream ; a wide stream takes no std::string
        return out << e.text().c_str();
    }

  private:
    int code_ = BITKV_OK;
    std::string context_;
};

#if BITCASK_EXCEPTIONS_
/** Thrown by result::value() of a result without one. */
class bad_result_access : public std::exception
{
  public:
    explicit bad_result_access(const error &e) : code_(e.code()), text_(e.text()) {}
    const char *what() const noexcept override
    {
        return text_.c_str();
    }
    int code() const noexcept
    {
        return code_;
    }

  private:
    int code_;
    std::string text_;
};
#endif

namespace detail
{

[[noreturn]] inline void no_value(const error &e)
{
#if BITCASK_EXCEPTIONS_
    throw bad_result_access(e);
#else
    (void)e;
    std::abort();
#endif
}

/* Text of what converts to a std::string_view; of an array, nothing behind it. */
template <class T> std::string_view text_of(const T &given)
{
    if constexpr (std::is_array_v<T>)
        return {given, ::strnlen(given, std::extent_v<T>)};
    else
        return given;
}

template <class T> inline constexpr bool is_unique_ptr = false;
template <class T, class D> inline constexpr bool is_unique_ptr<std::unique_ptr<T, D>> = true;

} // namespace detail

/**
 * A value, or the error that was met in its stead.
 *
 * `*r` and `r->` want a value to be there; value() throws bad_result_access if
 * there is none (with -fno-exceptions: ends the program).
 */
template <class T> class result
{
  public:
    using value_type = T;

    template <class U = T>
    requires(std::constructible_from<T, U> && !std::same_as<std::remove_cvref_t<U>, result> &&
             !std::same_as<std::remove_cvref_t<U>, bitcask::error>) result(U &&value)
        : value_(std::in_place, std::forward<U>(value))
    {
    }
    result(bitcask::error e) : error_(std::move(e)) {}

    bool has_value() const noexcept
    {
        return value_.has_value();
    }
    explicit operator bool() const noexcept
    {
        return value_.has_value();
    }

    T &value() &
    {
        check();
        return *value_;
    }
    const T &value() const &
    {
        check();
        return *value_;
    }
    T &&value() &&
    {
        check();
        return std::move(*value_);
    }
    template <class U> T value_or(U &&otherwise) const &
    {
        return value_.value_or(std::forward<U>(otherwise));
    }
    template <class U> T value_or(U &&otherwise) &&
    {
        return std::move(value_).value_or(std::forward<U>(otherwise));
    }

    T &operator*() &noexcept
    {
        return *value_;
    }
    const T &operator*() const &noexcept
    {
        return *value_;
    }
    T &&operator*() &&noexcept
    {
        return std::move(*value_);
    }

    /** Of a std::unique_ptr, what it points at: `co_await db->get("key")`. */
    decltype(auto) operator->() noexcept
    {
        if constexpr (detail::is_unique_ptr<T>)
            return value_->get();
        else
            return std::addressof(*value_);
    }
    decltype(auto) operator->() const noexcept
    {
        if constexpr (detail::is_unique_ptr<T>)
            return value_->get();
        else
            return std::addressof(*value_);
    }

    /** Code BITKV_OK if there is a value. */
    const bitcask::error &error() const noexcept
    {
        return error_;
    }

  private:
    void check() const
    {
        if (!value_)
            detail::no_value(error_);
    }

    std::optional<T> value_;
    bitcask::error error_;
};

template <> class result<void>
{
  public:
    using value_type = void;

    result() = default;
    result(bitcask::error e) : error_(std::move(e)) {}

    bool has_value() const noexcept
    {
        return error_.code() == BITKV_OK;
    }
    explicit operator bool() const noexcept
    {
        return has_value();
    }
    void value() const
    {
        if (!has_value())
            detail::no_value(error_);
    }
    const bitcask::error &error() const noexcept
    {
        return error_;
    }

  private:
    bitcask::error error_;
};

/* ------------------------------------------------------------------ */
/* Tasks                                                               */
/* ------------------------------------------------------------------ */

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

/* ------------------------------------------------------------------ */
/* Event loop                                                          */
/* ------------------------------------------------------------------ */

class database;
class event_loop;

namespace detail
{

/* An open database, as its object and the loops that use it share it. */
struct core : std::enable_shared_from_this<core> {
    std::mutex mutex; /* handle; held for no call of the library's, which may wait for the
                       * disk, or call a function that asks for the handle */
    ::bitkv *handle = nullptr;
    std::atomic<bool> closed{false};
    std::atomic<::bitkv *> open{nullptr}; /* the handle, for calls without the mutex */
    std::atomic<std::size_t> calls{0};    /* of those: closing waits for them */
};

/* A call on the handle that takes no queue's way: whoever closes waits for its
 * end. In this order (count, then look; take away, then look at the count) no
 * call slips through. */
class direct_call
{
  public:
    explicit direct_call(core &db) noexcept : db_(db), outer_(innermost_)
    {
        db_.calls.fetch_add(1);
        handle_ = db_.open.load();
        innermost_ = this;
    }
    direct_call(const direct_call &) = delete;
    direct_call &operator=(const direct_call &) = delete;
    ~direct_call()
    {
        innermost_ = outer_;
        db_.calls.fetch_sub(1);
    }

    /* NULL: the database is closed. */
    ::bitkv *handle() const noexcept
    {
        return handle_;
    }
    /* Is this thread inside of one, in a function that it was given? */
    static bool inside(const core &db) noexcept
    {
        const direct_call *call = innermost_;
        while (call != nullptr && &call->db_ != &db)
            call = call->outer_;
        return call != nullptr;
    }

  private:
    static inline thread_local const direct_call *innermost_ = nullptr;

    core &db_;
    const direct_call *outer_;
    ::bitkv *handle_;
};

/* A database's queue in a thread. */
struct queue {
    std::shared_ptr<core> db;
    bitkv_cq *cq = nullptr;
    std::vector<bitkv_op> batch; /* to be submitted, from `first` on */
    std::size_t first = 0;
    std::size_t in_flight = 0; /* submitted, not reaped */

    queue() = default;
    queue(const queue &) = delete;
    queue &operator=(const queue &) = delete;
    ~queue()
    {
        (void)bitkv_cq_destroy(cq);
    }
    bool idle() const noexcept
    {
        return in_flight == 0 && first == batch.size();
    }
};

/*
 * An operation that a coroutine awaits; part of the coroutine's frame.
 *
 *     idle -> batched -> submitted -> ready -> idle
 *       append()  flush()       reap()   run_ready()
 *
 * It is in the list of the loop's ready ones while it is ready, and the queue
 * and the library know its address while it is batched or submitted.
 */
class operation
{
  public:
    explicit operation(core *db) noexcept : db_(db) {}
    /* Before it is awaited. */
    operation(operation &&other) noexcept : db_(other.db_) {}
    operation &operator=(operation &&) = delete;
    ~operation()
    {
        if (state_ != state::idle)
            abandon();
    }

  protected:
    /* False if it has failed at once. */
    bool start(std::coroutine_handle<> waiter, const bitkv_op &op);

    const bitkv_completion &outcome() const noexcept
    {
        return outcome_;
    }
    error failure() const
    {
        return error(outcome_.status, text_ ? std::string(text_.get()) : std::string());
    }

  private:
    friend event_loop;
    enum class state : unsigned char { idle, batched, submitted, ready };

    void abandon() noexcept;

    void complete(const bitkv_completion &completion) noexcept
    {
        outcome_ = completion;
        if (completion.status < 0)
            keep_text(completion.error);
    }
    void fail(int status, const char *text) noexcept
    {
        outcome_ = bitkv_completion{};
        outcome_.status = status;
        keep_text(text);
    }
    /* The library's text is gone when the queue is reaped next. */
    void keep_text(const char *text) noexcept
    {
        std::size_t size = std::strlen(text) + 1;
        text_.reset(new (std::nothrow) char[size]);
        if (text_)
            std::memcpy(text_.get(), text, size);
    }
    /* Of a result that nobody takes. */
    void release() noexcept
    {
        bitkv_view_release(&outcome_.view);
        if (allocates_)
            bitkv_free(outcome_.value);
        state_ = state::idle;
    }

    core *db_;
    event_loop *loop_ = nullptr;
    queue *queue_ = nullptr;
    operation *next_ = nullptr, *before_ = nullptr; /* among the ready ones */
    std::coroutine_handle<> waiter_;
    std::uint64_t id_ = 0;
    state state_ = state::idle;
    bool allocates_ = false; /* outcome_.value is to be freed */
    bitkv_completion outcome_{};
    std::unique_ptr<char[]> text_;
};

/* The outermost coroutine of a task that was spawned. */
struct detached {
    struct promise_type {
        event_loop *loop;
        promise_type *next = nullptr, *before = nullptr;

        promise_type(event_loop &l, task<void> &) noexcept;
        promise_type(const promise_type &) = delete;
        promise_type &operator=(const promise_type &) = delete;
        ~promise_type();
        detached get_return_object() const noexcept
        {
            return {};
        }
        std::suspend_never initial_suspend() const noexcept
        {
            return {};
        }
        std::suspend_never final_suspend() const noexcept
        {
            return {};
        }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept
        {
            std::terminate();
        }
    };

    static detached run(event_loop &, task<void> t)
    {
        co_await std::move(t);
    }
};

} // namespace detail

/** Options of an event_loop. */
struct event_loop_options {
    /** Most operations of a database that are submitted at a time; further
     *  ones wait for room. 1 to 1,048,576. */
    std::uint32_t queue_capacity = 4096;
};

/**
 * Submits what the coroutines of a thread await, and resumes them. Each thread
 * has one, made when it is first asked for; sync_wait() drives it. It is
 * used by its thread only.
 *
 * In another loop (epoll, libuv): watch fd() of each database for reading and
 * call poll() when it is readable, and after spawn().
 *
 * Destroying a loop (that of a thread: with the thread) cancels what is pending
 * and destroys the spawned coroutines where they are suspended: their local
 * objects are destroyed, they are not resumed. Writes that were submitted may
 * have taken effect.
 */
class event_loop
{
  public:
    using milliseconds = std::chrono::milliseconds;

    /** That of this thread. */
    static event_loop &current()
    {
        if (current_ == nullptr) [[unlikely]] {
            static thread_local event_loop of_thread;
            current_ = &of_thread;
        }
        return *current_;
    }

    /** Becomes this thread's until it is destroyed; then the one before is
     *  again. Such loops must be nested. */
    explicit event_loop(event_loop_options options = {}) noexcept
        : options_(options), outer_(std::exchange(current_, this))
    {
    }
    event_loop(const event_loop &) = delete;
    event_loop &operator=(const event_loop &) = delete;
    ~event_loop()
    {
        for (auto &q : queues_)
            cancel(*q);
        while (detail::operation *o = pop())
            o->release();
        while (spawned_ != nullptr)
            std::coroutine_handle<detail::detached::promise_type>::from_promise(*spawned_)
                .destroy();
        queues_.clear();
        current_ = outer_;
    }

    /** Runs a task for nobody to await: at once up to where it waits, then out
     *  of this loop. An exception that leaves it ends the program. */
    void spawn(task<void> t)
    {
        detail::detached::run(*this, std::move(t));
    }

    /**
     * Submits what is awaited, waits for something to complete, resumes who
     * awaits it.
     * @param timeout longest wait; negative: no limit; 0: none
     * @return how many coroutines were resumed; 0 at the timeout, and at once
     *         if nothing is pending
     */
    std::size_t run_once(milliseconds timeout = milliseconds(-1))
    {
        flush();
        if (ready_first_ == nullptr)
            wait(timeout);
        std::size_t resumed = run_ready();
        flush();
        if (stale())
            sweep();
        return resumed;
    }

    /** run_once() until nothing is pending. */
    void run()
    {
        while (pending())
            run_once();
    }

    /** For a foreign loop: resumes what can be, without waiting. What is left
     *  keeps fd() readable. @return how many coroutines were resumed */
    std::size_t poll()
    {
        std::size_t total = 0;
        for (int round = 0; round < poll_rounds_max; round++) {
            std::size_t resumed = run_once(milliseconds(0));
            total += resumed;
            if (resumed == 0)
                break;
        }
        return total;
    }

    /** Does a coroutine wait for an operation? */
    bool pending() const noexcept
    {
        return ready_first_ != nullptr || std::any_of(queues_.begin(), queues_.end(),
                                                      [](const auto &q) { return !q->idle(); });
    }

    /**
     * A descriptor for epoll and its kin: readable when operations on this
     * database may have completed in this thread. Valid until poll() or
     * run_once() return after the database was closed; stop watching it before.
     */
    result<int> fd(database &db);

  private:
    friend detail::operation;
    friend detail::detached::promise_type;
    friend database;
    using operation = detail::operation;

    static constexpr int poll_rounds_max = 32;
    static constexpr std::size_t reap_max = 64;

    /* --- queues --- */

    detail::queue *find(const detail::core *db) const noexcept
    {
        for (const auto &q : queues_) {
            if (q->db.get() == db)
                return q.get();
        }
        return nullptr;
    }

    result<detail::queue *> queue_of(detail::core &db);

    bool stale() const noexcept
    {
        for (const auto &q : queues_) {
            if (q->db->closed.load(std::memory_order_relaxed)) [[unlikely]]
                return true;
        }
        return false;
    }
    /* Queues of closed databases, as soon as nothing is left in them. */
    void sweep() noexcept
    {
        std::erase_if(queues_, [](const auto &q) { return q->db->closed.load() && q->idle(); });
    }

    /* --- the ready ones --- */

    void push(operation *o) noexcept
    {
        o->state_ = operation::state::ready;
        o->next_ = nullptr;
        o->before_ = ready_last_;
        (ready_last_ != nullptr ? ready_last_->next_ : ready_first_) = o;
        ready_last_ = o;
    }
    void unlink(operation *o) noexcept
    {
        (o->next_ != nullptr ? o->next_->before_ : ready_last_) = o->before_;
        (o->before_ != nullptr ? o->before_->next_ : ready_first_) = o->next_;
    }
    operation *pop() noexcept
    {
        operation *o = ready_first_;
        if (o != nullptr)
            unlink(o);
        return o;
    }
    std::size_t run_ready()
    {
        std::size_t resumed = 0;
        for (; operation *o = pop(); resumed++) {
            o->state_ = operation::state::idle;
            o->waiter_.resume();
        }
        return resumed;
    }

    /* --- operations in --- */

    static operation *of(void *user_data) noexcept
    {
        return static_cast<operation *>(user_data);
    }

    void flush()
    {
        for (auto &q : queues_) {
            if (q->first < q->batch.size())
                flush(*q);
        }
    }

    void flush(detail::queue &q)
    {
        std::uint64_t id = 0;
        std::size_t count = q.batch.size() - q.first;
        int accepted = bitkv_cq_submit(q.cq, q.batch.data() + q.first, count, &id);
        if (accepted < 0 && accepted != BITKV_ERR_QUEUE_FULL) {
            fail_batch(q, accepted);
            return;
        }
        std::size_t end = q.first + static_cast<std::size_t>(std::max(accepted, 0));
        for (; q.first < end; q.first++, q.in_flight++) {
            operation *o = of(q.batch[q.first].user_data);
            o->id_ = id++;
            o->state_ = operation::state::submitted;
        }
        /* What found no room stays. */
        if (q.first == q.batch.size() || q.first > q.batch.size() / 2) {
            q.batch.erase(q.batch.begin(), q.batch.begin() + static_cast<std::ptrdiff_t>(q.first));
            q.first = 0;
        }
    }

    void fail_batch(detail::queue &q, int status) noexcept
    {
        const char *text = bitkv_error_context();
        for (; q.first < q.batch.size(); q.first++) {
            operation *o = of(q.batch[q.first].user_data);
            o->fail(status, text);
            push(o);
        }
        q.batch.clear();
        q.first = 0;
    }

    /* --- completions out --- */

    /* How many; negative: an error of the queue. */
    int reap(detail::queue &q, int timeout_ms) noexcept
    {
        bitkv_completion done[reap_max];
        int total = 0;
        for (int count = static_cast<int>(reap_max); count == static_cast<int>(reap_max);
             timeout_ms = 0) {
            count = bitkv_cq_wait(q.cq, done, reap_max, timeout_ms);
            if (count < 0) { /* a forked child: nothing comes any more */
                q.in_flight = 0;
                return count;
            }
            for (int i = 0; i < count; i++) {
                operation *o = of(done[i].user_data);
                o->complete(done[i]);
                push(o);
            }
            q.in_flight -= static_cast<std::size_t>(count);
            total += count;
        }
        return total;
    }

    void wait(milliseconds timeout)
    {
        int timeout_ms =
            timeout.count() < 0
                ? -1
                : static_cast<int>(std::min<milliseconds::rep>(timeout.count(), INT_MAX));
        if (queues_.size() == 1) {
            if (queues_[0]->in_flight > 0)
                (void)reap(*queues_[0], timeout_ms);
            return;
        }
        if (reap_all() || timeout_ms == 0)
            return;
        std::vector<pollfd> fds;
        for (auto &q : queues_) {
            if (q->in_flight > 0)
                fds.push_back({.fd = bitkv_cq_fd(q->cq), .events = POLLIN, .revents = 0});
        }
        if (fds.empty())
            return;
        /* Without a descriptor for each, looking now and then has to do. */
        if (std::any_of(fds.begin(), fds.end(), [](const pollfd &p) { return p.fd < 0; }))
            timeout_ms = timeout_ms < 0 ? 1 : std::min(timeout_ms, 1);
        (void)::poll(fds.data(), fds.size(), timeout_ms);
        reap_all();
    }

    bool reap_all() noexcept
    {
        bool any = false;
        for (auto &q : queues_)
            any |= q->in_flight > 0 && reap(*q, 0) > 0;
        return any;
    }

    /* --- operations taken back --- */

    /* All of a queue: they are ready then, or idle. */
    void cancel(detail::queue &q) noexcept
    {
        for (; q.first < q.batch.size(); q.first++)
            of(q.batch[q.first].user_data)->state_ = operation::state::idle;
        (void)bitkv_cq_cancel(q.cq, BITKV_CQ_ALL);
        while (q.in_flight > 0 && reap(q, -1) >= 0) {
        }
    }

    /* Of a coroutine that is destroyed. */
    void abandon(operation &o) noexcept
    {
        detail::queue &q = *o.queue_;
        if (o.state_ == operation::state::batched) {
            auto at =
                std::find_if(q.batch.begin() + static_cast<std::ptrdiff_t>(q.first), q.batch.end(),
                             [&](const bitkv_op &op) { return op.user_data == &o; });
            q.batch.erase(at);
            o.state_ = operation::state::idle;
            return;
        }
        if (o.state_ == operation::state::submitted)
            (void)bitkv_cq_cancel(q.cq, o.id_);
        while (o.state_ == operation::state::submitted && reap(q, -1) >= 0) {
        }
        if (o.state_ == operation::state::ready)
            unlink(&o);
        o.release();
    }

    static inline constinit thread_local event_loop *current_ = nullptr;

    event_loop_options options_;
    event_loop *outer_;
    std::vector<std::unique_ptr<detail::queue>> queues_;
    operation *ready_first_ = nullptr, *ready_last_ = nullptr;
    detail::detached::promise_type *spawned_ = nullptr;
};

namespace detail
{

inline detached::promise_type::promise_type(event_loop &l, task<void> &) noexcept
    : loop(&l), next(l.spawned_)
{
    if (next != nullptr)
        next->before = this;
    l.spawned_ = this;
}

inline detached::promise_type::~promise_type()
{
    if (next != nullptr)
        next->before = before;
    (before != nullptr ? before->next : loop->spawned_) = next;
}

inline bool operation::start(std::coroutine_handle<> waiter, const bitkv_op &op)
{
    event_loop &loop = event_loop::current();
    waiter_ = waiter;
    loop_ = &loop;
    queue_ = loop.find(db_);
    if (queue_ == nullptr) [[unlikely]] {
        result<queue *> made = loop.queue_of(*db_);
        if (!made) {
            fail(made.error().code(), made.error().context().c_str());
            return false;
        }
        queue_ = *made;
    }
    bitkv_op &entry = queue_->batch.emplace_back(op);
    entry.user_data = this;
    allocates_ = op.kind == BITKV_OP_GET && op.buffer == nullptr;
    state_ = state::batched;
    return true;
}

inline void operation::abandon() noexcept
{
    loop_->abandon(*this);
}

/* Tells sync_wait() that its task has ended, in whatever thread. */
class gate
{
  public:
    void open()
    {
        std::lock_guard lock(mutex_);
        open_ = true;
        opened_.notify_one();
    }
    bool is_open()
    {
        std::lock_guard lock(mutex_);
        return open_;
    }
    void wait()
    {
        std::unique_lock lock(mutex_);
        opened_.wait(lock, [&] { return open_; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable opened_;
    bool open_ = false;
};

/* Goes on when the task of sync_wait() has ended. */
struct opener {
    struct promise_type {
        opener get_return_object() noexcept
        {
            return {std::coroutine_handle<promise_type>::from_promise(*this)};
        }
        std::suspend_always initial_suspend() const noexcept
        {
            return {};
        }
        std::suspend_never final_suspend() const noexcept
        {
            return {};
        }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept
        {
            std::terminate();
        }
    };
    std::coroutine_handle<promise_type> handle;

    static opener make(gate &g)
    {
        g.open();
        co_return;
    }
};

} // namespace detail

/**
 * Runs a task, or awaits an operation, on this thread, and its event loop until
 * it has ended.
 * @return what it returns; rethrows what it throws
 */
template <detail::awaitable A> detail::awaited_t<A> sync_wait(A &&awaitable)
{
    auto root = detail::as_task(std::forward<A>(awaitable));
    event_loop &loop = event_loop::current();
    detail::gate ended;
    std::size_t remaining = 1;
    root.start(detail::opener::make(ended).handle, remaining);
    while (!ended.is_open()) {
        if (loop.pending())
            loop.run_once();
        else
            ended.wait(); /* for something that this loop does not know of */
    }
    return root.take();
}

/* ------------------------------------------------------------------ */
/* Keys and values                                                     */
/* ------------------------------------------------------------------ */

/** A value in place, pinned until the object goes: hold it briefly. See
 *  bitkv_get_view(). May outlive its database. */
class view
{
  public:
    view() noexcept = default;
    /** Takes over a view of the C interface. */
    explicit view(const bitkv_view &v) noexcept : view_(v) {}
    view(view &&other) noexcept : view_(std::exchange(other.view_, bitkv_view{})) {}
    view &operator=(view &&other) noexcept
    {
        std::swap(view_, other.view_);
        return *this;
    }
    ~view()
    {
        bitkv_view_release(&view_);
    }

    const char *data() const noexcept
    {
        return static_cast<const char *>(view_.data);
    }
    std::size_t size() const noexcept
    {
        return view_.size;
    }
    const char *begin() const noexcept
    {
        return data();
    }
    const char *end() const noexcept
    {
        return data() + size();
    }
    std::string_view string() const noexcept
    {
        return {data(), size()};
    }

  private:
    bitkv_view view_{};
};

namespace detail
{

template <class T>
concept byte = std::same_as < std::remove_cv_t<T>,
char > || std::same_as<std::remove_cv_t<T>, unsigned char> ||
    std::same_as<std::remove_cv_t<T>, std::byte>;

template <class T>
concept text = std::convertible_to<T, std::string_view>;

template <class T>
concept byte_range = std::ranges::contiguous_range<T> && std::ranges::sized_range<T> &&
    byte<std::ranges::range_value_t<T>>;

template <class T>
concept bytes = text<T> || byte_range<T>;

/* An rvalue that owns its bytes is kept, all else referred to. */
template <class T>
concept kept = !std::is_lvalue_reference_v<T> && !std::is_const_v<T> && byte_range<T> &&
               !std::ranges::borrowed_range<T> && !std::is_array_v<T>;

template <bytes T> auto hold(T &&given)
{
    if constexpr (kept<T>)
        return std::remove_cvref_t<T>(std::move(given));
    else if constexpr (text<T>)
        return text_of(given);
    else
        return std::span<const char>(reinterpret_cast<const char *>(std::ranges::data(given)),
                                     std::ranges::size(given));
}

template <class T>
concept keys =
    std::ranges::input_range<T> && bytes<std::ranges::range_reference_t<T>> && !bytes<T> &&
    (std::is_lvalue_reference_v<std::ranges::range_reference_t<T>> ||
     std::ranges::borrowed_range<std::ranges::range_reference_t<T>>);

struct nothing {
};

/* What the kinds of operations differ in. */

template <bitkv_op_kind Kind> struct done_traits {
    using result_type = result<void>;
    static constexpr bitkv_op_kind kind = Kind;
    static constexpr unsigned flags = 0;
    static result_type take(const bitkv_completion &)
    {
        return {};
    }
};

template <bitkv_op_kind Kind> struct found_traits {
    using result_type = result<bool>;
    static constexpr bitkv_op_kind kind = Kind;
    static constexpr unsigned flags = 0;
    static result_type take(const bitkv_completion &c)
    {
        return c.status == BITKV_OK;
    }
};

template <unsigned Flags> struct get_traits_base {
    static constexpr bitkv_op_kind kind = BITKV_OP_GET;
    static constexpr unsigned flags = Flags;
};

template <class Container> struct get_traits : get_traits_base<0> {
    using result_type = result<std::optional<Container>>;
    static result_type take(const bitkv_completion &c)
    {
        if (c.status == BITKV_NOT_FOUND)
            return std::optional<Container>();
        std::unique_ptr<void, void (*)(void *)> value(c.value, bitkv_free);
        const char *data = static_cast<const char *>(c.value);
        return std::optional<Container>(std::in_place, data, data + c.value_size);
    }
};

struct get_into_traits : get_traits_base<0> {
    using result_type = result<std::optional<std::size_t>>;
    static result_type take(const bitkv_completion &c)
    {
        return c.status == BITKV_OK ? std::optional(c.value_size) : std::nullopt;
    }
};

struct get_view_traits : get_traits_base<BITKV_OP_VIEW> {
    using result_type = result<std::optional<view>>;
    static result_type take(const bitkv_completion &c)
    {
        if (c.status == BITKV_NOT_FOUND)
            return std::optional<view>();
        return std::optional<view>(std::in_place, c.view);
    }
};

/* What database's functions return: to be awaited, once. */
template <class Traits, class Key, class Value>
class [[nodiscard]] database_operation : private operation
{
  public:
    database_operation(core *db, Key key, Value value,
                       bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
        : operation(db), key_(std::move(key)), value_(std::move(value)), durability_(durability)
    {
    }

    bool await_ready() const noexcept
    {
        return false;
    }
    bool await_suspend(std::coroutine_handle<> waiter)
    {
        bitkv_op op{};
        op.kind = Traits::kind;
        op.flags = Traits::flags;
        op.durability = durability_;
        if constexpr (!std::same_as<Key, nothing>) {
            op.key = std::ranges::data(key_);
            op.key_size = std::ranges::size(key_);
        }
        if constexpr (std::same_as<Value, std::span<char>>) {
            op.buffer = value_.data() != nullptr ? value_.data() : &nowhere_;
            op.buffer_size = value_.size();
        } else if constexpr (!std::same_as<Value, nothing>) {
            op.value = std::ranges::data(value_);
            op.value_size = std::ranges::size(value_);
        }
        return start(waiter, op);
    }
    typename Traits::result_type await_resume()
    {
        if (outcome().status < 0) [[unlikely]]
            return failure();
        return Traits::take(outcome());
    }

  private:
    static inline char nowhere_; /* for buffers of no bytes; nothing is written */

    Key key_;
    [[no_unique_address]] Value value_;
    bitkv_durability durability_;
};

template <class K> using held = decltype(hold(std::declval<K>()));

/* Awaited without waiting: `f` is called when it is awaited. */
template <class F> class [[nodiscard]] immediate
{
  public:
    explicit immediate(F f) : f_(std::move(f)) {}
    bool await_ready() const noexcept
    {
        return true;
    }
    void await_suspend(std::coroutine_handle<>) const noexcept {}
    auto await_resume()
    {
        return f_();
    }

  private:
    F f_;
};

} // namespace detail

/* ------------------------------------------------------------------ */
/* Times to live                                                       */
/* ------------------------------------------------------------------ */

/** How long a key lives; made from a std::chrono::duration, which is rounded up to
 *  milliseconds and must be more than 0, else BITKV_ERR_INVALID. */
class time_to_live
{
  public:
    /** As the config says. */
    constexpr time_to_live() = default;
    template <class Rep, class Period>
    constexpr time_to_live(std::chrono::duration<Rep, Period> d)
        : ms_(d > d.zero() ? static_cast<std::uint64_t>(
                                 std::chrono::ceil<std::chrono::milliseconds>(d).count())
                           : BITKV_TTL_MAX + 1)
    {
    }
    /** It never expires. */
    static constexpr time_to_live never()
    {
        return time_to_live(BITKV_TTL_NONE);
    }
    /** The deadline that the key has is kept; none, if it is absent. */
    static constexpr time_to_live keep()
    {
        return time_to_live(BITKV_TTL_KEEP);
    }
    /** As in bitkv_put_options. */
    constexpr std::uint64_t milliseconds() const noexcept
    {
        return ms_;
    }

  private:
    explicit constexpr time_to_live(std::uint64_t ms) : ms_(ms) {}
    std::uint64_t ms_ = 0;
};

/* ------------------------------------------------------------------ */
/* Batches                                                             */
/* ------------------------------------------------------------------ */

/** Puts and deletes that database::write() writes together: after a crash all of
 *  them are there or none. Copies what it is given. See bitkv_batch. */
class batch
{
  public:
    batch() = default;
    batch(batch &&other) noexcept : batch_(std::exchange(other.batch_, nullptr)) {}
    batch &operator=(batch &&other) noexcept
    {
        std::swap(batch_, other.batch_);
        return *this;
    }
    ~batch()
    {
        bitkv_batch_destroy(batch_);
    }

    template <detail::bytes K, detail::bytes V> result<void> put(const K &key, const V &value)
    {
        auto k = detail::hold(key);
        auto v = detail::hold(value);
        return add([&] {
            return bitkv_batch_put(batch_, std::ranges::data(k), std::ranges::size(k),
                                   std::ranges::data(v), std::ranges::size(v));
        });
    }
    /** The same with a time to live, which begins when the batch is written; not
     *  time_to_live::keep(). See bitkv_batch_put_ttl(). */
    template <detail::bytes K, detail::bytes V>
    result<void> put(const K &key, const V &value, time_to_live ttl)
    {
        auto k = detail::hold(key);
        auto v = detail::hold(value);
        return add([&] {
            return bitkv_batch_put_ttl(batch_, std::ranges::data(k), std::ranges::size(k),
                                       std::ranges::data(v), std::ranges::size(v),
                                       ttl.milliseconds());
        });
    }
    /** That the key is absent is no error. */
    template <detail::bytes K> result<void> del(const K &key)
    {
        auto k = detail::hold(key);
        return add(
            [&] { return bitkv_batch_del(batch_, std::ranges::data(k), std::ranges::size(k)); });
    }
    std::size_t count() const noexcept
    {
        return bitkv_batch_count(batch_);
    }
    void clear() noexcept
    {
        bitkv_batch_clear(batch_);
    }
    /** For the calls of bitkv.h; NULL if it is empty. */
    const bitkv_batch *handle() const noexcept
    {
        return batch_;
    }

  private:
    template <class F> result<void> add(F f)
    {
        int status = batch_ != nullptr ? BITKV_OK : bitkv_batch_create(&batch_);
        if (status == BITKV_OK)
            status = f();
        return status == BITKV_OK ? result<void>() : result<void>(error::of_thread(status));
    }

    bitkv_batch *batch_ = nullptr;
};

/* ------------------------------------------------------------------ */
/* Change feeds                                                        */
/* ------------------------------------------------------------------ */

/** A write, as feed::next() shows it; see bitkv_change. Valid until the next call on
 *  the feed. */
struct change {
    bitkv_change_kind kind = BITKV_CHANGE_PUT;
    std::uint32_t partition = 0;
    std::string_view key;
    std::string_view value;
    std::uint64_t version = 0;
    std::uint64_t deadline_ms = UINT64_MAX;
};

/** A cursor over the writes of a database, opened by database::feed_from() and its
 *  like; for one thread at a time. May outlive the database. See bitkv_feed. */
class feed
{
  public:
    feed(feed &&other) noexcept : feed_(std::exchange(other.feed_, nullptr)) {}
    feed &operator=(feed &&other) noexcept
    {
        std::swap(feed_, other.feed_);
        return *this;
    }
    ~feed()
    {
        (void)bitkv_feed_close(feed_);
    }

    /** The next change, if there is one now. BITKV_ERR_BEHIND if it is no longer
     *  retained; BITKV_ERR_CORRUPT if some are lost: the next call goes on. */
    result<std::optional<change>> next()
    {
        bitkv_change c{};
        int status = bitkv_feed_next(feed_, &c);
        if (status == BITKV_NOT_FOUND)
            return std::optional<change>();
        if (status != BITKV_OK)
            return error::of_thread(status);
        return std::optional(change{c.kind, c.partition, text(c.key, c.key_size),
                                    text(c.value, c.value_size), c.version, c.deadline_ms});
    }
    /** Blocks the thread until there may be a change. @return false at the timeout */
    result<bool> wait(std::chrono::milliseconds timeout)
    {
        auto ms = std::clamp<std::chrono::milliseconds::rep>(timeout.count(), 0, INT32_MAX);
        int status = bitkv_feed_wait(feed_, static_cast<int>(ms));
        if (status < 0)
            return error::of_thread(status);
        return status == BITKV_OK;
    }
    /** Bytes to be stored, for database::feed_from(). */
    result<std::string> position() const
    {
        std::size_t size = 0;
        (void)bitkv_feed_position(feed_, nullptr, 0, &size);
        std::string bytes(size, '\0');
        int status = bitkv_feed_position(feed_, bytes.data(), bytes.size(), &size);
        if (status != BITKV_OK)
            return error::of_thread(status);
        return bytes;
    }
    /** For the calls of bitkv.h. */
    bitkv_feed *handle() const noexcept
    {
        return feed_;
    }

  private:
    friend class database;

    explicit feed(bitkv_feed *f) noexcept : feed_(f) {}

    static std::string_view text(const void *data, std::size_t size) noexcept
    {
        return size > 0 ? std::string_view(static_cast<const char *>(data), size)
                        : std::string_view();
    }

    bitkv_feed *feed_;
};

/* ------------------------------------------------------------------ */
/* Databases                                                           */
/* ------------------------------------------------------------------ */

/**
 * Path of a database; made from text. It holds the text itself, up to the
 * longest path that Linux takes, so that config has no destructor: gcc 12
 * runs those of braced temporaries in a co_await expression twice.
 */
class directory_path
{
  public:
    directory_path() = default;
    template <class T>
    requires std::convertible_to<const T &, std::string_view> directory_path(const T &text)
    {
        std::string_view path = detail::text_of(text);
        too_long_ = path.size() >= sizeof text_;
        if (!too_long_)
            path.copy(text_, path.size());
    }

    const char *c_str() const noexcept
    {
        return text_;
    }
    operator std::string_view() const noexcept
    {
        return text_;
    }
    bool too_long() const noexcept
    {
        return too_long_;
    }

  private:
    char text_[4096] = "";
    bool too_long_ = false;
};

/** How a database is opened; bitkv_options tells what the fields mean. */
struct config {
    directory_path directory{};
    std::uint64_t max_file_size = std::uint64_t{100} << 20;
    bool sync_on_write = false;
    bool auto_compact = true;
    double fragmentation_threshold = 0.5;
    std::uint32_t partitions = 0;
    bool create_if_missing = true;
    bool error_if_exists = false;
    bool read_only = false;
    bool strict_recovery = false;
    bitkv_durability durability = BITKV_DURABILITY_INTERVAL;
    std::uint32_t sync_interval_ms = 1000;
    std::uint32_t file_mode = 0600;
    std::uint32_t directory_mode = 0700;
    bitkv_io_mode io_mode = BITKV_IO_AUTO;
    std::uint32_t max_open_segments = 0;
    std::uint64_t checkpoint_interval_bytes = 0;
    bitkv_log_cb log = nullptr;
    void *log_user = nullptr;
    std::uint64_t default_ttl_ms = 0;
    std::uint64_t feed_retention_bytes = 0;
    std::uint64_t compact_bytes_per_second = 0;
    std::uint32_t compact_from_minute = 0;
    std::uint32_t compact_until_minute = 0;
};

static_assert(std::is_trivially_destructible_v<config>); /* see directory_path */

/** What serves its operations. */
struct io_config {
    std::uint32_t uring_queue_depth = 2048; /**< as `ring_depth` of bitkv_options */
    bitkv_backend backend = BITKV_BACKEND_AUTO;
    std::uint32_t io_threads = 0;
};

/* ------------------------------------------------------------------ */
/* Snapshots                                                           */
/* ------------------------------------------------------------------ */

/** A record of a snapshot: valid until the range that showed it goes on. */
class record
{
  public:
    record() noexcept = default;
    explicit record(const bitkv_record &r) noexcept : record_(r) {}

    std::string_view key() const noexcept
    {
        return {static_cast<const char *>(record_.key), record_.key_size};
    }
    /** Empty if only keys were asked for. */
    std::string_view value() const noexcept
    {
        if (record_.value == nullptr)
            return {};
        return {static_cast<const char *>(record_.value), record_.value_size};
    }
    /** Also if only keys were asked for. */
    std::size_t value_size() const noexcept
    {
        return record_.value_size;
    }
    /** Of the write, ascending within a partition. */
    std::uint64_t sequence() const noexcept
    {
        return record_.sequence;
    }
    std::uint32_t partition() const noexcept
    {
        return record_.partition;
    }
    /** When it expires, in milliseconds since 1970; UINT64_MAX: never. */
    std::uint64_t deadline_ms() const noexcept
    {
        return record_.deadline_ms;
    }

  private:
    bitkv_record record_{};
};

/** Which records to visit; see bitkv_iterator_options. */
struct record_filter {
    bool keys_only = false;
    std::string_view prefix = {}; /**< is copied */
    std::uint32_t share = 0;      /**< of `shares` parts, to divide the work */
    std::uint32_t shares = 1;
    std::uint32_t partition = BITKV_ALL_PARTITIONS;
};

/**
 * The records of a snapshot, in no order: an input range, gone through once, by one
 * thread at a time. Its elements are results: one without a record, the last, says
 * that some could not be shown.
 *
 *     for (const auto &r : *records) {
 *         if (!r)
 *             return r.error();
 *         use(r->key(), r->value());
 *     }
 */
class record_range
{
  public:
    class iterator
    {
      public:
        using value_type = result<record>;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::input_iterator_tag;

        iterator() noexcept = default;
        const value_type &operator*() const noexcept
        {
            return range_->current_;
        }
        const value_type *operator->() const noexcept
        {
            return &range_->current_;
        }
        iterator &operator++()
        {
            range_->advance();
            return *this;
        }
        void operator++(int)
        {
            range_->advance();
        }
        friend bool operator==(const iterator &it, std::default_sentinel_t) noexcept
        {
            return it.at_end();
        }

      private:
        friend record_range;
        explicit iterator(record_range *range) noexcept : range_(range) {}
        bool at_end() const noexcept
        {
            return range_->done_;
        }
        record_range *range_ = nullptr;
    };

    /** Goes to the first record, or, called again, on to the next. */
    iterator begin()
    {
        advance();
        return iterator(this);
    }
    std::default_sentinel_t end() const noexcept
    {
        return {};
    }

  private:
    friend class snapshot;

    struct destroy {
        void operator()(bitkv_iterator *it) const noexcept
        {
            (void)bitkv_iterator_destroy(it);
        }
    };

    explicit record_range(bitkv_iterator *it) noexcept : iterator_(it) {}

    void advance()
    {
        bitkv_record found{};
        int status = failed_ ? BITKV_NOT_FOUND : bitkv_iterator_next(iterator_.get(), &found);
        done_ = status == BITKV_NOT_FOUND;
        failed_ = failed_ || status < 0;
        if (status == BITKV_OK)
            current_ = record(found);
        else if (status < 0)
            current_ = error::of_thread(status);
    }

    std::unique_ptr<bitkv_iterator, destroy> iterator_;
    result<record> current_ = record();
    bool done_ = false;
    bool failed_ = false;
};

/**
 * What a database held at one moment, for any number of threads; see
 * bitkv_snapshot_create(). Calls block; none is awaited. May outlive the database:
 * after close() calls return BITKV_ERR_CLOSED.
 */
class snapshot
{
  public:
    /** Takes over a snapshot of the C interface. */
    explicit snapshot(bitkv_snapshot *s) noexcept : snapshot_(s) {}

    /** Without a vector if the key was absent. */
    template <detail::bytes K> result<std::optional<std::vector<char>>> get(K &&key) const
    {
        return get_as<std::vector<char>>(std::forward<K>(key));
    }
    /** The same, as a std::string. */
    template <detail::bytes K> result<std::optional<std::string>> get_string(K &&key) const
    {
        return get_as<std::string>(std::forward<K>(key));
    }
    /** In place. The view outlives the snapshot. */
    template <detail::bytes K> result<std::optional<view>> get_view(K &&key) const
    {
        const auto held = detail::hold(std::forward<K>(key));
        bitkv_view found{};
        int status = bitkv_snapshot_get_view(handle(), held.data(), held.size(), &found);
        if (status < 0)
            return error::of_thread(status);
        return status == BITKV_OK ? std::optional<view>(view(found)) : std::nullopt;
    }
    template <detail::bytes K> result<bool> exists(K &&key) const
    {
        const auto held = detail::hold(std::forward<K>(key));
        int status = bitkv_snapshot_exists(handle(), held.data(), held.size());
        if (status < 0)
            return error::of_thread(status);
        return status == BITKV_OK;
    }

    /** The records, to be gone through once; the range may outlive the snapshot. */
    result<record_range> records(const record_filter &filter = {}) const
    {
        bitkv_iterator_options o;
        bitkv_iterator_options_init(&o);
        o.flags = filter.keys_only ? BITKV_SCAN_KEYS : BITKV_SCAN_ALL;
        o.prefix = filter.prefix.empty() ? nullptr : filter.prefix.data();
        o.prefix_size = filter.prefix.size();
        o.share = filter.share;
        o.shares = filter.shares;
        o.partition = filter.partition;
        bitkv_iterator *made = nullptr;
        int status = bitkv_iterator_create(&made, handle(), &o);
        if (status != BITKV_OK)
            return error::of_thread(status);
        return record_range(made);
    }

    /** For the calls of bitkv.h. Do not destroy it. */
    bitkv_snapshot *handle() const noexcept
    {
        return snapshot_.get();
    }

  private:
    struct destroy {
        void operator()(bitkv_snapshot *s) const noexcept
        {
            (void)bitkv_snapshot_destroy(s);
        }
    };

    template <class Container, class K> result<std::optional<Container>> get_as(K &&key) const
    {
        const auto held = detail::hold(std::forward<K>(key));
        bitkv_view found{};
        int status = bitkv_snapshot_get_view(handle(), held.data(), held.size(), &found);
        if (status < 0)
            return error::of_thread(status);
        if (status != BITKV_OK)
            return std::optional<Container>();
        view pinned(found);
        return std::optional<Container>(std::in_place, pinned.begin(), pinned.end());
    }

    std::unique_ptr<bitkv_snapshot, destroy> snapshot_;
};

/** How database::put_if() stores; bitkv_put_options tells what the fields mean. */
struct put_config {
    bitkv_condition condition = BITKV_ALWAYS;
    std::uint64_t version = 0; /**< of BITKV_IF_VERSION */
    time_to_live ttl{};
    bitkv_durability durability = BITKV_DURABILITY_DEFAULT;
};

static_assert(std::is_trivially_destructible_v<put_config>); /* see directory_path */

/** How database::backup() goes about it; see bitkv_backup_options. */
struct backup_config {
    bool no_links = false;
    bool verify = false;
    bool accept_damage = false;
    bitkv_progress_cb progress = nullptr; /**< as of database::compact() */
    void *user = nullptr;
};

/** How database::repartition() goes about it; see bitkv_repartition_options. */
struct repartition_config {
    std::uint64_t max_file_size = 0;
    bitkv_io_mode io_mode = BITKV_IO_AUTO;
    bitkv_progress_cb progress = nullptr; /**< cancels if it does not return 0 */
    void *user = nullptr;
};

static_assert(std::is_trivially_destructible_v<backup_config>); /* see directory_path */

/** What the function of database::update() wants. */
class update_decision
{
  public:
    /** Nothing is written. */
    static update_decision leave()
    {
        return update_decision(BITKV_UPDATE_LEAVE);
    }
    /** The key is deleted, if it is there. */
    static update_decision del()
    {
        return update_decision(BITKV_UPDATE_DELETE);
    }
    /** The value is stored; without a time to live, a key that is there keeps its
     *  deadline, and one that is not gets the config's. */
    static update_decision put(std::string value, std::optional<time_to_live> ttl = {})
    {
        update_decision d(BITKV_UPDATE_PUT);
        d.value_ = std::move(value);
        d.ttl_ = ttl;
        return d;
    }

  private:
    friend class database;

    explicit update_decision(bitkv_update_action action) : action_(action) {}

    bitkv_update_action action_;
    std::string value_;
    std::optional<time_to_live> ttl_;
};

/**
 * An open database, for any number of threads.
 *
 * Operations begin when they are awaited, and take effect in the order in which
 * a thread's coroutines await them. All are to be awaited, or given to
 * sync_wait() or when_all(), while the object lives.
 */
class database
{
  public:
    /**
     * Opens, or creates. co_await returns a result with a std::unique_ptr.
     * Blocks the thread, for recovery; see bitkv_open().
     * @param partitions 0: as config.partitions says
     */
    static auto open(const config &c, const io_config &io = {}, std::size_t partitions = 0)
    {
        return detail::immediate([c, io, partitions] { return open_now(c, io, partitions); });
    }

    database(const database &) = delete;
    database &operator=(const database &) = delete;
    /** Closes, if close() was not called; nobody learns of an error then. */
    ~database()
    {
        (void)close_now();
    }

    /**
     * Closes: what this thread's coroutines have awaited before is submitted
     * first; what is pending in any thread completes or ends with
     * BITKV_ERR_CLOSED. Any thread may close, and any coroutine. Blocks the
     * thread for the last sync and the checkpoints; see bitkv_close().
     * @return co_await: a result<void>; BITKV_ERR_CLOSED if it is closed already
     */
    auto close()
    {
        return detail::immediate([this] { return close_now(); });
    }

    /** Stores a value. @return co_await: a result<void> */
    template <detail::bytes K, detail::bytes V>
    auto put(K &&key, V &&value, bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return detail::database_operation<detail::done_traits<BITKV_OP_PUT>, detail::held<K>,
                                          detail::held<V>>(
            core_.get(), detail::hold(std::forward<K>(key)), detail::hold(std::forward<V>(value)),
            durability);
    }

    /** Reads a value. @return co_await: a result<std::optional<std::vector<char>>>,
     *  without a vector if the key is absent */
    template <detail::bytes K> auto get(K &&key)
    {
        return operation<detail::get_traits<std::vector<char>>>(std::forward<K>(key));
    }

    /** The same, as a std::string. */
    template <detail::bytes K> auto get_string(K &&key)
    {
        return operation<detail::get_traits<std::string>>(std::forward<K>(key));
    }

    /** Reads a value in place. @return co_await: a result<std::optional<view>> */
    template <detail::bytes K> auto get_view(K &&key)
    {
        return operation<detail::get_view_traits>(std::forward<K>(key));
    }

    /**
     * Reads a value into a buffer: the fastest way for small values.
     * @param buffer must stay until the operation has been awaited
     * @return co_await: a result<std::optional<std::size_t>>, the value's size;
     *         BITKV_ERR_BUFFER_TOO_SMALL
     */
    template <detail::bytes K> auto get_into(K &&key, std::span<char> buffer)
    {
        return detail::database_operation<detail::get_into_traits, detail::held<K>,
                                          std::span<char>>(
            core_.get(), detail::hold(std::forward<K>(key)), buffer);
    }

    /** Deletes. @return co_await: a result<bool>: was it there? */
    template <detail::bytes K>
    auto del(K &&key, bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return operation<detail::found_traits<BITKV_OP_DEL>>(std::forward<K>(key), durability);
    }

    /** @return co_await: a result<bool>: is it there? */
    template <detail::bytes K> auto exists(K &&key)
    {
        return operation<detail::found_traits<BITKV_OP_EXISTS>>(std::forward<K>(key));
    }

    /**
     * Stores a value with a time to live of its own, or if a condition holds:
     *
     *     co_await db.put_if("session", id, {.ttl = std::chrono::minutes(30)});
     *
     * As the other calls down to add(), it is no queue's operation: it is done
     * when it is awaited, after what the thread has awaited before (but for what its
     * queue has no room for), and blocks the thread for a sync, if it is to be
     * durable, or a read of the disk.
     * @return co_await: a result<std::optional<std::uint64_t>>: the version of the
     *         value; without one, the condition did not hold
     */
    template <detail::bytes K, detail::bytes V> auto put_if(K &&key, V &&value, const put_config &c)
    {
        return detail::immediate(
            [this, c, key = detail::hold(std::forward<K>(key)),
             value = detail::hold(std::forward<V>(value))] { return put_if_now(key, value, c); });
    }

    /** Deletes a key of this version. @return co_await: a result<bool>: was it so? */
    template <detail::bytes K>
    auto del_if(K &&key, std::uint64_t version,
                bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return detail::immediate(
            [this, version, durability, key = detail::hold(std::forward<K>(key))] {
                return found_now([&](::bitkv *handle) {
                    return bitkv_del_if(handle, std::ranges::data(key), std::ranges::size(key),
                                        version, durability);
                });
            });
    }

    /** Gives a key another time to live. @return co_await: a result<bool>: is it there? */
    template <detail::bytes K> auto touch(K &&key, time_to_live ttl)
    {
        return detail::immediate([this, ttl, key = detail::hold(std::forward<K>(key))] {
            return found_now([&](::bitkv *handle) {
                return bitkv_touch(handle, std::ranges::data(key), std::ranges::size(key),
                                   ttl.milliseconds());
            });
        });
    }

    /** Version, size and deadline of a key. @return co_await: a
     *  result<std::optional<bitkv_key_info>>, without one if the key is absent */
    template <detail::bytes K> auto info(K &&key)
    {
        return detail::immediate(
            [this, key = detail::hold(std::forward<K>(key))] { return info_now(key); });
    }

    /**
     * Reads, decides and writes as one; see bitkv_update().
     * @param decide called with a std::optional<std::string_view>, the present
     *               value, again if another writer comes between; returns an
     *               update_decision. What it throws, is thrown, and nothing written.
     *               May not close the database
     * @return co_await: a result<bool>: was anything written?
     */
    template <detail::bytes K, class F>
    auto update(K &&key, F decide, bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return detail::immediate(
            [this, durability, key = detail::hold(std::forward<K>(key)),
             decide = std::move(decide)]() mutable { return update_now(key, decide, durability); });
    }

    /** Adds to a counter; see bitkv_add(). @return co_await: a result<std::int64_t>, the
     *  sum; BITKV_ERR_LIMIT, BITKV_ERR_INVALID */
    template <detail::bytes K> auto add(K &&key, std::int64_t delta)
    {
        return detail::immediate([this, delta, key = detail::hold(std::forward<K>(key))] {
            return add_now(key, delta);
        });
    }

    /** Everything acknowledged so far is to survive a power cut; see
     *  bitkv_sync(). @return co_await: a result<void> */
    auto sync()
    {
        return detail::database_operation<detail::done_traits<BITKV_OP_SYNC>, detail::nothing,
                                          detail::nothing>(core_.get(), {}, {});
    }

    /** Takes in what another process has written since, of a database that was opened
     *  read-only; at once. See bitkv_refresh(). */
    result<void> refresh()
    {
        return done_now([](::bitkv *handle) { return bitkv_refresh(handle); });
    }

    /** Writes a batch, at once, after what this thread has awaited before: all of it or
     *  nothing. With BITKV_DURABILITY_SYNC the thread waits for the disk; other threads
     *  go on. See bitkv_write(). */
    result<void> write(const batch &batch, bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return done_now([&](::bitkv *handle) {
            return batch.count() > 0 ? bitkv_write(handle, batch.handle(), durability) : BITKV_OK;
        });
    }

    /**
     * Reads many keys, at once, after what this thread has awaited before: as a
     * pipeline whose cache misses overlap. See bitkv_multi_get().
     * @param keys a range of anything that is a key: a std::vector<std::string>, an
     *             array of std::string_view
     * @return for each, in order, what database::get_string() returns when awaited
     */
    template <detail::keys R> std::vector<result<std::optional<std::string>>> multi_get(R &&keys)
    {
        std::vector<bitkv_get_item> items;
        for (auto &&key : keys) {
            auto k = detail::hold(key);
            bitkv_get_item item{};
            item.key = std::ranges::data(k);
            item.key_size = std::ranges::size(k);
            items.push_back(item);
        }
        return get_items(items);
    }
    /** The same: `db.multi_get({"a", "b"})`. */
    std::vector<result<std::optional<std::string>>>
    multi_get(std::initializer_list<std::string_view> keys)
    {
        return multi_get(std::span(keys.begin(), keys.size()));
    }

    /**
     * Compacts now; see bitkv_compact(). Blocks the thread; other threads go on.
     * @param progress called in this thread, cancels if it does not return 0;
     *                 may use the database through bitkv.h, may not close it
     * @return co_await: a result<void>; BITKV_ERR_CLOSED if another thread closes
     */
    auto compact(std::uint32_t partition = BITKV_ALL_PARTITIONS,
                 bitkv_progress_cb progress = nullptr, void *user = nullptr)
    {
        return detail::immediate(
            [this, partition, progress, user] { return compact_now(partition, progress, user); });
    }

    /** The same without a coroutine: it has compacted when it returns. */
    result<void> compact_now(std::uint32_t partition = BITKV_ALL_PARTITIONS,
                             bitkv_progress_cb progress = nullptr, void *user = nullptr)
    {
        listener l{core_.get(), progress, user};
        return long_now(l, [&](::bitkv *handle) {
            return bitkv_compact(handle, partition, &listener::hear, &l);
        });
    }

    /**
     * Makes a backup of this moment; see bitkv_backup(). Blocks the thread; other
     * threads go on.
     * @return co_await: a result<bitkv_backup_report>; BITKV_ERR_EXISTS if the target
     *         is something else; BITKV_ERR_CLOSED if another thread closes
     */
    auto backup(const directory_path &target, const backup_config &c = {})
    {
        return detail::immediate([this, target, c] { return backup_now(target, c); });
    }

    /** The same without a coroutine: it has been made when it returns. */
    result<bitkv_backup_report> backup_now(const directory_path &target,
                                           const backup_config &c = {})
    {
        if (target.too_long())
            return error(BITKV_ERR_INVALID, "the target's path is too long");
        bitkv_backup_report report{};
        listener l{core_.get(), c.progress, c.user};
        bitkv_backup_options o;
        bitkv_backup_options_init(&o);
        o.no_links = c.no_links;
        o.verify = c.verify;
        o.accept_damage = c.accept_damage;
        o.progress = &listener::hear;
        o.user = &l;
        o.report = &report;
        result<void> made =
            long_now(l, [&](::bitkv *handle) { return bitkv_backup(handle, target.c_str(), &o); });
        if (!made)
            return made.error();
        return report;
    }

    /** Gives a database that nobody has open another number of partitions; blocks the
     *  thread. See bitkv_repartition(). */
    static result<void> repartition(const directory_path &directory, std::uint32_t partitions,
                                    const repartition_config &c = {})
    {
        if (directory.too_long())
            return error(BITKV_ERR_INVALID, "the directory's path is too long");
        bitkv_repartition_options o;
        bitkv_repartition_options_init(&o);
        o.max_file_size = c.max_file_size;
        o.io_mode = c.io_mode;
        o.progress = c.progress;
        o.user = c.user;
        int status = bitkv_repartition(directory.c_str(), partitions, &o);
        if (status != BITKV_OK)
            return error::of_thread(status);
        return {};
    }

    /** The data files, in order of the log, at once. See bitkv_segments(). */
    result<std::vector<bitkv_segment_info>>
    segments(std::uint32_t partition = BITKV_ALL_PARTITIONS) const
    {
        std::vector<bitkv_segment_info> infos;
        detail::direct_call here(*core_);
        if (here.handle() == nullptr)
            return was_closed();
        int status = bitkv_segments(here.handle(), partition, &add_segment, &infos);
        if (status == segments_no_memory)
            return error(BITKV_ERR_NO_MEMORY, "no memory to list the segments");
        if (status != BITKV_OK)
            return error::of_thread(status);
        return infos;
    }

    /** Opens a feed of the changes behind a position of feed::position(), at once;
     *  BITKV_ERR_BEHIND if they are no longer retained. See bitkv_feed_open(). */
    result<feed> feed_from(std::string_view position)
    {
        return open_feed(position.empty() ? "" : position.data(), position.size());
    }
    /** The same, from the oldest change that is retained. */
    result<feed> feed_from_oldest()
    {
        return open_feed(nullptr, BITKV_FEED_OLDEST);
    }
    /** The same, of what is written from now on. */
    result<feed> feed_from_now()
    {
        return open_feed(nullptr, BITKV_FEED_END);
    }

    /** Statistics, at once. See bitkv_stats(). */
    result<bitkv_statistics> stats(std::uint32_t partition = BITKV_ALL_PARTITIONS) const
    {
        bitkv_statistics statistics{};
        bitkv_statistics_init(&statistics);
        detail::direct_call here(*core_);
        if (here.handle() == nullptr)
            return was_closed();
        int status = bitkv_stats(here.handle(), partition, &statistics);
        if (status != BITKV_OK)
            return error::of_thread(status);
        return statistics;
    }

    /**
     * Takes a snapshot, at once, with all that this thread's coroutines have
     * awaited before. See bitkv_snapshot_create().
     */
    result<bitcask::snapshot> snapshot()
    {
        bitkv_snapshot *taken = nullptr;
        error failure;
        int status =
            direct([&](::bitkv *handle) { return bitkv_snapshot_create(&taken, handle); }, failure);
        if (status != BITKV_OK)
            return failure;
        return bitcask::snapshot(taken);
    }

    /** For the calls of bitkv.h; NULL once it is closed. Do not close it. */
    ::bitkv *handle() const noexcept
    {
        std::lock_guard lock(core_->mutex);
        return core_->handle;
    }

  private:
    friend event_loop;

    database() : core_(std::make_shared<detail::core>()) {}

    /* Hears of the progress of a long call, and whether somebody closes meanwhile. */
    struct listener {
        const detail::core *core;
        bitkv_progress_cb progress;
        void *user;
        bool closed = false;

        static int hear(void *user, std::uint64_t done, std::uint64_t total)
        {
            auto *l = static_cast<listener *>(user);
            l->closed = l->core->closed;
            return l->closed ? 1 : l->progress != nullptr ? l->progress(l->user, done, total) : 0;
        }
    };

    /* A long call that `l` hears of. */
    template <class Call> result<void> long_now(const listener &l, Call &&call)
    {
        result<void> done = done_now(std::forward<Call>(call));
        if (done.error() == BITKV_ERR_CANCELED && l.closed)
            return error(BITKV_ERR_CLOSED, "closed during a long call");
        return done;
    }

    /* No exception leaves a callback of the library's. */
    static constexpr int segments_no_memory = 1000;

    static int add_segment(void *user, const bitkv_segment_info *info)
    {
        auto *infos = static_cast<std::vector<bitkv_segment_info> *>(user);
#if BITCASK_EXCEPTIONS_
        try {
            infos->push_back(*info);
        } catch (...) {
            return segments_no_memory;
        }
#else
        infos->push_back(*info);
#endif
        return 0;
    }

    result<feed> open_feed(const char *position, std::size_t size)
    {
        bitkv_feed *opened = nullptr;
        result<void> done = done_now(
            [&](::bitkv *handle) { return bitkv_feed_open(&opened, handle, position, size); });
        if (!done)
            return done.error();
        return feed(opened);
    }

    std::vector<result<std::optional<std::string>>> get_items(std::vector<bitkv_get_item> &items)
    {
        struct release {
            std::vector<bitkv_get_item> &items;
            ~release()
            {
                for (bitkv_get_item &item : items)
                    bitkv_free(item.value);
            }
        } guard{items};
        std::vector<result<std::optional<std::string>>> results;
        results.reserve(items.size());
        error failure;
        int status = direct(
            [&](::bitkv *handle) { return bitkv_multi_get(handle, items.data(), items.size()); },
            failure);
        auto failed = std::count_if(items.begin(), items.end(),
                                    [](const bitkv_get_item &i) { return i.status < 0; });
        for (bitkv_get_item &item : items) {
            if (failed == 0 && status < 0) /* the call itself, so that no key was read */
                results.emplace_back(failure);
            else if (item.status == BITKV_OK)
                results.emplace_back(std::optional<std::string>(
                    std::in_place, static_cast<const char *>(item.value), item.value_size));
            else if (item.status == BITKV_NOT_FOUND)
                results.emplace_back(std::optional<std::string>());
            else /* of several failures the context is the last one's: it is nobody's */
                results.emplace_back(failed == 1 ? failure : error(item.status));
        }
        return results;
    }

    static error was_closed()
    {
        return error(BITKV_ERR_CLOSED, "the database was closed");
    }

    template <class Traits, class K>
    auto operation(K &&key, bitkv_durability durability = BITKV_DURABILITY_DEFAULT)
    {
        return detail::database_operation<Traits, detail::held<K>, detail::nothing>(
            core_.get(), detail::hold(std::forward<K>(key)), {}, durability);
    }

    static bitkv_options options_of(const config &c, const io_config &io, std::size_t partitions)
    {
        bitkv_options o;
        bitkv_options_init(&o);
        o.max_file_size = c.max_file_size;
        o.sync_on_write = c.sync_on_write;
        o.auto_compact = c.auto_compact;
        o.fragmentation_threshold = c.fragmentation_threshold;
        o.partitions =
            partitions == 0
                ? c.partitions
                : static_cast<std::uint32_t>(std::min<std::size_t>(partitions, UINT32_MAX));
        o.create_if_missing = c.create_if_missing;
        o.error_if_exists = c.error_if_exists;
        o.read_only = c.read_only;
        o.strict_recovery = c.strict_recovery;
        o.durability = c.durability;
        o.sync_interval_ms = c.sync_interval_ms;
        o.file_mode = c.file_mode;
        o.directory_mode = c.directory_mode;
        o.io_mode = c.io_mode;
        o.max_open_segments = c.max_open_segments;
        o.checkpoint_interval_bytes = c.checkpoint_interval_bytes;
        o.log = c.log;
        o.log_user = c.log_user;
        o.default_ttl_ms = c.default_ttl_ms;
        o.feed_retention_bytes = c.feed_retention_bytes;
        o.compact_bytes_per_second = c.compact_bytes_per_second;
        o.compact_from_minute = c.compact_from_minute;
        o.compact_until_minute = c.compact_until_minute;
        o.ring_depth = io.uring_queue_depth;
        o.backend = io.backend;
        o.io_threads = io.io_threads;
        return o;
    }

    static result<std::unique_ptr<database>> open_now(const config &c, const io_config &io,
                                                      std::size_t partitions)
    {
        if (c.directory.too_long())
            return error(BITKV_ERR_INVALID, "the directory's path is too long");
        std::unique_ptr<database> db(new database);
        bitkv_options options = options_of(c, io, partitions);
        int status = bitkv_open(&db->core_->handle, c.directory.c_str(), &options);
        if (status != BITKV_OK)
            return error::of_thread(status);
        db->core_->open.store(db->core_->handle);
        return db;
    }

    /* What this thread's coroutines have awaited before is submitted. */
    void flush_here()
    {
        event_loop *loop = event_loop::current_; /* at the program's end there may be none */
        detail::queue *q = loop != nullptr ? loop->find(core_.get()) : nullptr;
        if (q != nullptr && q->first < q->batch.size())
            loop->flush(*q);
    }

    /* A call of bitkv.h, in its turn: `call(handle)` returns its status. */
    template <class Call> int direct(Call &&call, error &failure)
    {
        flush_here();
        detail::direct_call here(*core_);
        if (here.handle() == nullptr) {
            failure = was_closed();
            return BITKV_ERR_CLOSED;
        }
        int status = call(here.handle());
        if (status < 0)
            failure = error::of_thread(status);
        return status;
    }

    template <class K, class V>
    result<std::optional<std::uint64_t>> put_if_now(const K &key, const V &value,
                                                    const put_config &c)
    {
        bitkv_put_options o;
        bitkv_put_options_init(&o);
        o.condition = c.condition;
        o.version = c.version;
        o.ttl_ms = c.ttl.milliseconds();
        o.durability = c.durability;
        std::uint64_t version = 0;
        error failure;
        int status = direct(
            [&](::bitkv *handle) {
                return bitkv_put_if(handle, std::ranges::data(key), std::ranges::size(key),
                                    std::ranges::data(value), std::ranges::size(value), &o,
                                    &version);
            },
            failure);
        if (status == BITKV_OK)
            return std::optional(version);
        if (status == BITKV_NOT_FOUND || status == BITKV_ERR_CONFLICT)
            return std::optional<std::uint64_t>();
        return failure;
    }

    /* Of calls that succeed or fail. */
    template <class Call> result<void> done_now(Call &&call)
    {
        error failure;
        if (direct(std::forward<Call>(call), failure) < 0)
            return failure;
        return {};
    }

    /* Of calls that succeed, or find nothing to be done. */
    template <class Call> result<bool> found_now(Call &&call)
    {
        error failure;
        int status = direct(std::forward<Call>(call), failure);
        if (status < 0 && status != BITKV_ERR_CONFLICT)
            return failure;
        return status == BITKV_OK;
    }

    template <class K> result<std::optional<bitkv_key_info>> info_now(const K &key)
    {
        bitkv_key_info info{};
        bitkv_key_info_init(&info);
        result<bool> found = found_now([&](::bitkv *handle) {
            return bitkv_info(handle, std::ranges::data(key), std::ranges::size(key), &info);
        });
        if (!found)
            return found.error();
        return *found ? std::optional(info) : std::nullopt;
    }

    template <class K> result<std::int64_t> add_now(const K &key, std::int64_t delta)
    {
        std::int64_t sum = 0;
        error failure;
        int status = direct(
            [&](::bitkv *handle) {
                return bitkv_add(handle, std::ranges::data(key), std::ranges::size(key), delta,
                                 &sum);
            },
            failure);
        if (status != BITKV_OK)
            return failure;
        return sum;
    }

    /* What passes through the C callback. */
    template <class F> struct updater {
        F &decide;
        update_decision decision = update_decision::leave();
#if BITCASK_EXCEPTIONS_
        std::exception_ptr thrown;
#endif

        explicit updater(F &f) : decide(f) {}

        int step(bitkv_update_step &step)
        {
            std::optional<std::string_view> present;
            if (step.present)
                present.emplace(static_cast<const char *>(step.value), step.value_size);
            decision = decide(present);
            step.new_value = decision.value_.data();
            step.new_value_size = decision.value_.size();
            if (decision.ttl_)
                step.new_ttl_ms = decision.ttl_->milliseconds();
            return decision.action_;
        }

        static int call(void *user, bitkv_update_step *step)
        {
            updater &u = *static_cast<updater *>(user);
#if BITCASK_EXCEPTIONS_
            try {
                return u.step(*step);
            } catch (...) {
                u.thrown = std::current_exception();
                return BITKV_ERR_CANCELED;
            }
#else
            return u.step(*step);
#endif
        }
    };

    template <class K, class F>
    result<bool> update_now(const K &key, F &decide, bitkv_durability durability)
    {
        updater<F> u(decide);
        result<bool> found = found_now([&](::bitkv *handle) {
            return bitkv_update(handle, std::ranges::data(key), std::ranges::size(key),
                                &updater<F>::call, &u, durability);
        });
#if BITCASK_EXCEPTIONS_
        if (u.thrown)
            std::rethrow_exception(u.thrown);
#endif
        if (found && u.decision.action_ == BITKV_UPDATE_LEAVE)
            return false;
        return found;
    }

    result<void> close_now()
    {
        if (detail::direct_call::inside(*core_))
            return error(BITKV_ERR_INVALID, "the database is used by a function that this is "
                                            "called from: return from it first");
        flush_here();
        ::bitkv *handle = take_handle();
        if (handle == nullptr)
            return was_closed();
        while (core_->calls.load() != 0)
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        int status = bitkv_close(handle);
        if (status == BITKV_ERR_INVALID || status == BITKV_ERR_FORKED) { /* it is open still */
            std::lock_guard lock(core_->mutex);
            core_->handle = handle;
            core_->open.store(handle);
            core_->closed = false;
        }
        if (status != BITKV_OK)
            return error::of_thread(status);
        return {};
    }

    ::bitkv *take_handle()
    {
        std::unique_lock lock(core_->mutex);
        core_->closed = true;
        core_->open.store(nullptr);
        return std::exchange(core_->handle, nullptr);
    }

    std::shared_ptr<detail::core> core_;
};

/** The name by which the engine goes. */
using BitKV = database;

inline result<detail::queue *> event_loop::queue_of(detail::core &db)
{
    detail::queue *found = find(&db);
    if (found != nullptr)
        return found;
    auto made = std::make_unique<detail::queue>();
    made->db = db.shared_from_this();
    bitkv_cq_options options;
    bitkv_cq_options_init(&options);
    options.capacity = options_.queue_capacity;
    detail::direct_call here(db);
    if (here.handle() == nullptr)
        return database::was_closed();
    int status = bitkv_cq_create(&made->cq, here.handle(), &options);
    if (status != BITKV_OK)
        return error::of_thread(status);
    queues_.push_back(std::move(made));
    return queues_.back().get();
}

inline result<int> event_loop::fd(database &db)
{
    result<detail::queue *> q = queue_of(*db.core_);
    if (!q)
        return q.error();
    int fd = bitkv_cq_fd((*q)->cq);
    if (fd < 0)
        return error::of_thread(fd);
    return fd;
}

} // namespace bitcask

#endif /* BITKV_HPP */
