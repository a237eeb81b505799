/* SPDX-License-Identifier: MIT */
/**
 * @file feed.hpp
 * The changes of a database, as they were written. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_FEED_HPP
#define BITKV_FEED_HPP

#include <bitkv.h>
#include <bitkv/result.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace bitcask
{

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

} // namespace bitcask

#endif /* BITKV_FEED_HPP */
