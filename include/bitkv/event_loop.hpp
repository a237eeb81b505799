/* SPDX-License-Identifier: MIT */
/**
 * @file event_loop.hpp
 * Submits what the coroutines of a thread await, and resumes them. A part of bitkv.hpp: include
 * that.
 */
#ifndef BITKV_EVENT_LOOP_HPP
#define BITKV_EVENT_LOOP_HPP

#include <bitkv.h>
#include <bitkv/queue.hpp>

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <poll.h>
#include <utility>
#include <vector>

namespace bitcask
{

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

} // namespace bitcask

#endif /* BITKV_EVENT_LOOP_HPP */
