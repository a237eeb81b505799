/* SPDX-License-Identifier: MIT */
/**
 * @file value.hpp
 * Keys and values: what is taken for one, who keeps it, views. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_VALUE_HPP
#define BITKV_VALUE_HPP

#include <bitkv.h>
#include <bitkv/result.hpp>

#include <concepts>
#include <cstddef>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

namespace bitcask
{

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

} // namespace detail

} // namespace bitcask

#endif /* BITKV_VALUE_HPP */
