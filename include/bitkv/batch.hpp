/* SPDX-License-Identifier: MIT */
/**
 * @file batch.hpp
 * Puts and deletes that are written together. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_BATCH_HPP
#define BITKV_BATCH_HPP

#include <bitkv.h>
#include <bitkv/options.hpp>

#include <cstddef>
#include <ranges>
#include <utility>

namespace bitcask
{

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

} // namespace bitcask

#endif /* BITKV_BATCH_HPP */
