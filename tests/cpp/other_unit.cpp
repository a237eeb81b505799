/* SPDX-License-Identifier: MIT */
/* A second translation unit with the header: a program may have many. */
#include <bitkv.hpp>

bitcask::task<bool> other_unit_put(bitcask::database &db, std::string key);

bitcask::task<bool> other_unit_put(bitcask::database &db, std::string key)
{
    auto stored = co_await db.put(std::move(key), "from another unit");
    co_return stored.has_value();
}
