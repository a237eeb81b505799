/* SPDX-License-Identifier: MIT */
/**
 * @file result.hpp
 * Errors, and results that are a value or an error. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_RESULT_HPP
#define BITKV_RESULT_HPP

#include <bitkv.h>

#include <concepts>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__cpp_exceptions)
#define BITCASK_EXCEPTIONS_ 1
#else
#define BITCASK_EXCEPTIONS_ 0
#endif

namespace bitcask
{

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
    /** By value: what it returns may outlive the result, as in a range-based for. */
    T value() &&
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
    T operator*() &&noexcept(std::is_nothrow_move_constructible_v<T>)
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

} // namespace bitcask

#endif /* BITKV_RESULT_HPP */
