/* SPDX-License-Identifier: MIT */
/**
 * @file snapshot.hpp
 * What a database held at one moment, and its records. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_SNAPSHOT_HPP
#define BITKV_SNAPSHOT_HPP

#include <bitkv.h>
#include <bitkv/value.hpp>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitcask
{

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

} // namespace bitcask

#endif /* BITKV_SNAPSHOT_HPP */
