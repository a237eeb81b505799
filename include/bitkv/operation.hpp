/* SPDX-License-Identifier: MIT */
/**
 * @file operation.hpp
 * What the functions of a database return, to be awaited. A part of bitkv.hpp: include that.
 */
#ifndef BITKV_OPERATION_HPP
#define BITKV_OPERATION_HPP

#include <bitkv.h>
#include <bitkv/queue.hpp>
#include <bitkv/value.hpp>

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <utility>

namespace bitcask
{

namespace detail
{

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

} // namespace bitcask

#endif /* BITKV_OPERATION_HPP */
