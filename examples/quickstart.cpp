/* SPDX-License-Identifier: MIT */
/*
 * The way through the C++ interface: open, put, get, update, delete, close, in
 * a coroutine.
 *
 *     quickstart [DIRECTORY]
 */
#include <bitkv.hpp>

#include <iostream>

using namespace bitcask;

task<bool> example(const char *directory)
{
    config config{
        .directory = directory,
        .max_file_size = 100 * 1024 * 1024, /* 100 MiB, the default */
        .sync_on_write = false,             /* writes wait for no sync */
        .auto_compact = true,
    };
    io_config io_config{.uring_queue_depth = 2048};

    /* Partitions: as many as the database has, and one for each CPU in a new
     * one. The number is fixed at creation: std::thread::hardware_concurrency()
     * here would be refused once the database moved to another machine. */
    auto db = co_await BitKV::open(config, io_config, 0);
    if (!db.has_value()) {
        std::cerr << "Failed to open: " << db.error() << "\n";
        co_return false;
    }

    /* Put: text to text. Every operation returns a result. */
    auto put = co_await db.value()->put("user:1001", "Alice");
    if (!put) {
        std::cerr << "Failed to put: " << put.error() << "\n";
        co_return false;
    }
    co_await db.value()->put("user:1002", "Bob");

    /* Get: an error, or no value, or a value. */
    auto result = co_await db.value()->get_string("user:1001");
    if (result.has_value() && result.value().has_value())
        std::cout << "Found: " << result.value().value() << "\n";

    /* Update, which replaces the value; delete. */
    co_await db.value()->put("user:1001", "Alice Smith");
    co_await db.value()->del("user:1002");
    auto gone = co_await db.value()->get("user:1002");
    if (gone.has_value() && !gone.value().has_value())
        std::cout << "Key not found\n";

    /* Binary data. What is moved in need not be kept by the caller. */
    std::vector<char> binary_data = {0x01, 0x02, '\xFF', '\xFE'};
    co_await db.value()->put("image:logo", std::move(binary_data));

    /* Close, here as well as anywhere: this reports what a destructor cannot. */
    auto closed = co_await db.value()->close();
    if (!closed)
        std::cerr << "Failed to close: " << closed.error() << "\n";
    co_return closed.has_value();
}

int main(int argc, char **argv)
{
    return sync_wait(example(argc > 1 ? argv[1] : "example-quickstart.db")) ? 0 : 1;
}
