/* SPDX-License-Identifier: MIT */
/**
 * @file options.hpp
 * How a database is opened, and how its calls go about it. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_OPTIONS_HPP
#define BITKV_OPTIONS_HPP

#include <bitkv.h>
#include <bitkv/value.hpp>

#include <chrono>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace bitcask
{

class database;

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

} // namespace bitcask

#endif /* BITKV_OPTIONS_HPP */
