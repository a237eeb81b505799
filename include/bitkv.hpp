/* SPDX-License-Identifier: MIT */
/**
 * @file bitkv.hpp
 * BitKV for C++20: coroutines over the completion queues of bitkv.h.
 *
 *     bitcask::task<void> greet(bitcask::database &db)
 *     {
 *         co_await db.put("greeting", "hello");
 *         auto value = co_await db.get_string("greeting");
 *         if (value && *value)
 *             std::cout << **value << "\n";
 *     }
 *
 * How it works. Awaiting an operation appends it to a batch of the thread's
 * event_loop and suspends the coroutine. When no coroutine of the thread can
 * go on, the loop submits the batch at once, so that all of them share one
 * pipeline, waits for completions, and resumes those whose operations they
 * are. Nothing is allocated for an operation but what its result holds.
 *
 * Conventions, once for all:
 *
 *  1. Threads. A coroutine goes on in the thread that awaited; each thread has
 *     an event_loop of its own. A database may be used by all of them.
 *  2. Results. Operations return a result: a value or an error, never an
 *     exception of the library's. An absent key is no error.
 *  3. Exceptions that leave a task are rethrown to who awaits it. With
 *     -fno-exceptions, they cannot be, and memory exhaustion ends the program.
 *  4. Bytes. Keys and values are anything that is text or a contiguous range of
 *     char, unsigned char or std::byte. What is given as an rvalue that owns its
 *     bytes (std::string, std::vector) is kept by the operation; what else is
 *     given is referred to, and must stay until the operation has been awaited.
 *     An array of char, such as a string literal, is text up to its first NUL,
 *     or all of it if there is none; for bytes with NULs among them give a
 *     std::string_view with a size, a std::span or a std::array.
 *  5. Lifetime. A task may be destroyed while it is suspended: its operations
 *     are canceled first. Those of an event_loop that is destroyed, too; see
 *     there. Closing a database ends what is pending with BITKV_ERR_CLOSED.
 *
 * This is the only file to be included; the ones in bitkv/ are its parts.
 *
 * The namespace is not named after the library, since `bitkv` is the handle's
 * type in bitkv.h.
 */
#ifndef BITKV_HPP
#define BITKV_HPP

#if __cplusplus < 202002L
#error "bitkv.hpp needs C++20: -std=c++20, or target_compile_features(... cxx_std_20)"
#endif

#include <bitkv.h>

#include <bitkv/batch.hpp>
#include <bitkv/database.hpp>
#include <bitkv/event_loop.hpp>
#include <bitkv/feed.hpp>
#include <bitkv/operation.hpp>
#include <bitkv/options.hpp>
#include <bitkv/queue.hpp>
#include <bitkv/result.hpp>
#include <bitkv/snapshot.hpp>
#include <bitkv/task.hpp>
#include <bitkv/value.hpp>

#endif /* BITKV_HPP */
