/* SPDX-License-Identifier: MIT */
/**
 * @file queue.hpp
 * What coroutines and the completion queues of bitkv.h share: a database, its
 * queue in a thread, an operation that is awaited. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_QUEUE_HPP
#define BITKV_QUEUE_HPP

#include <bitkv.h>
#include <bitkv/task.hpp>

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace bitcask
{

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

} // namespace bitcask

#endif /* BITKV_QUEUE_HPP */
