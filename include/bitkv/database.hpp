/* SPDX-License-Identifier: MIT */
/**
 * @file database.hpp
 * An open database, and what the event loop has to know of it. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_DATABASE_HPP
#define BITKV_DATABASE_HPP

#include <bitkv.h>
#include <bitkv/batch.hpp>
#include <bitkv/event_loop.hpp>
#include <bitkv/feed.hpp>
#include <bitkv/operation.hpp>
#include <bitkv/options.hpp>
#include <bitkv/snapshot.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace bitcask
{

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

#endif /* BITKV_DATABASE_HPP */
