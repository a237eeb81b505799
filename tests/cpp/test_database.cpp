/* SPDX-License-Identifier: MIT */
/* The promises of bitkv.hpp about databases, one by one. */
#include "cpp/check.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

using namespace bitcask;

task<bool> other_unit_put(database &db, std::string key);

/* --- the quick start --------------------------------------------------------- */

namespace
{

std::string output;

task<void> example(std::string directory)
{
    // Configure database
    bitcask::config config{
        .directory = directory,
        .max_file_size = 100 * 1024 * 1024, // 100MB
        .sync_on_write = false,             // Async writes (faster)
        .auto_compact = true                // Background compaction
    };

    bitcask::io_config io_config{.uring_queue_depth = 2048};

    // Open database with N partitions (typically = CPU cores); examples/quickstart.cpp
    // leaves their number to the database, which may move
    auto db = co_await BitKV::open(config, io_config, std::thread::hardware_concurrency());

    if (!db.has_value()) {
        std::cerr << "Failed to open: " << db.error() << "\n";
        co_return;
    }

    // Put data (string → string)
    co_await db.value()->put("user:1001", "Alice");
    co_await db.value()->put("user:1002", "Bob");

    // Get data
    auto result = co_await db.value()->get_string("user:1001");
    if (result.has_value() && result.value().has_value()) {
        output += "Found: " + result.value().value() + "\n";
    }

    // Update (overwrites previous value)
    co_await db.value()->put("user:1001", "Alice Smith");

    // Delete
    co_await db.value()->del("user:1002");

    // Binary data (vector<char>)
    std::vector<char> binary_data = {0x01, 0x02, '\xFF', '\xFE'};
    co_await db.value()->put("image:logo", std::move(binary_data));

    // Close cleanly (important!)
    co_await db.value()->close();
}

void the_quick_start_works()
{
    scratch s;
    output.clear();
    sync_wait(example(s.path()));
    CHECK(output == "Found: Alice\n");
    auto db = sync_wait(BitKV::open(config{.directory = s.path()}));
    CHECK_OK(db);
    CHECK(sync_wait(db->get_string("user:1001")).value() == "Alice Smith");
    CHECK(!sync_wait(db->get_string("user:1002")).value());
    CHECK(sync_wait(db->get("image:logo")).value() ==
          (std::vector<char>{0x01, 0x02, '\xFF', '\xFE'}));
}

task<void> handle_errors(BitKV *db, std::string &said)
{
    auto result = co_await db->get("key");

    if (!result.has_value()) {
        // Handle error
        std::ostringstream text;
        text << "Error: " << result.error() << "\n";
        said = text.str();
        co_return;
    }

    if (!result.value().has_value()) {
        // Key not found (not an error)
        said = "Key not found\n";
    } else {
        // Success
        auto value = result.value().value();
        said.assign(value.begin(), value.end());
    }
}

void errors_and_absence_are_told_apart()
{
    scratch s;
    auto db = open_in(s);
    std::string said;
    sync_wait(handle_errors(db.get(), said));
    CHECK(said == "Key not found\n");
    CHECK_OK(sync_wait(db->put("key", "value")));
    sync_wait(handle_errors(db.get(), said));
    CHECK(said == "value");
    CHECK_OK(sync_wait(db->close()));
    sync_wait(handle_errors(db.get(), said));
    CHECK(said.starts_with("Error: database is closed or closing"));
}

/* --- closing ------------------------------------------------------------------- */

task<result<std::unique_ptr<BitKV>>> opens_only(std::string path)
{
    auto db = co_await BitKV::open(config{.directory = path});
    co_return std::move(db); // Return, don't close
}

void a_task_may_return_the_database()
{
    scratch s;
    auto db = sync_wait(opens_only(s.path()));
    CHECK_OK(sync_wait(db.value()->close()));
}

task<void> closes_itself(std::string path)
{
    auto db = co_await BitKV::open(config{.directory = path});
    CHECK_OK(co_await db->put("key", "value"));
    CHECK_OK(co_await db->close());
    CHECK_ERROR(co_await db->put("key", "other"), BITKV_ERR_CLOSED);
}

void a_coroutine_may_close()
{
    scratch s;
    sync_wait(closes_itself(s.path()));
    auto db = open_in(s, "other");
    event_loop &loop = event_loop::current();
    loop.spawn(closes_itself(s.path("third")));
    loop.run();
    db = nullptr;
    db = sync_wait(BitKV::open(config{.directory = s.path("third")})).value();
    CHECK(sync_wait(db->get_string("key")).value() == "value");
}

void closing_submits_what_was_awaited_before()
{
    scratch s;
    auto db = open_in(s);
    auto [put, closed] = sync_wait(when_all(db->put("key", "value"), db->close()));
    CHECK_OK(put);
    CHECK_OK(closed);
    db = open_in(s);
    CHECK(sync_wait(db->get_string("key")).value() == "value");
}

void a_closed_database_refuses()
{
    scratch s;
    auto db = open_in(s);
    CHECK(db->handle() != nullptr);
    CHECK_OK(sync_wait(db->close()));
    CHECK(db->handle() == nullptr);
    CHECK_ERROR(sync_wait(db->close()), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->put("k", "v")), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->get("k")), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->get_view("k")), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->del("k")), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->exists("k")), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->sync()), BITKV_ERR_CLOSED);
    CHECK_ERROR(db->stats(), BITKV_ERR_CLOSED);
    CHECK_ERROR(event_loop::current().fd(*db), BITKV_ERR_CLOSED);
}

/* --- opening --------------------------------------------------------------------- */

void the_defaults_are_those_of_the_library()
{
    bitkv_options o;
    bitkv_options_init(&o);
    config c;
    io_config io;
    CHECK(c.max_file_size == o.max_file_size && c.sync_on_write == o.sync_on_write);
    CHECK(c.auto_compact == o.auto_compact && c.partitions == o.partitions);
    CHECK(c.fragmentation_threshold >= o.fragmentation_threshold &&
          c.fragmentation_threshold <= o.fragmentation_threshold);
    CHECK(c.create_if_missing == o.create_if_missing && c.error_if_exists == o.error_if_exists);
    CHECK(c.read_only == o.read_only && c.strict_recovery == o.strict_recovery);
    CHECK(c.durability == o.durability && c.sync_interval_ms == o.sync_interval_ms);
    CHECK(c.file_mode == o.file_mode && c.directory_mode == o.directory_mode);
    CHECK(c.io_mode == o.io_mode && c.max_open_segments == o.max_open_segments);
    CHECK(c.checkpoint_interval_bytes == o.checkpoint_interval_bytes);
    CHECK(c.log == o.log && c.log_user == o.log_user);
    CHECK(c.compact_bytes_per_second == o.compact_bytes_per_second);
    CHECK(c.compact_from_minute == o.compact_from_minute);
    CHECK(c.compact_until_minute == o.compact_until_minute);
    CHECK(io.backend == o.backend && io.io_threads == o.io_threads);
    CHECK(io.uring_queue_depth == 2048);
}

void what_cannot_be_opened_is_an_error_with_a_context()
{
    scratch s;
    auto db = sync_wait(database::open({.directory = s.path("no/where")}));
    CHECK(!db && !db.has_value());
    CHECK_ERROR(db, BITKV_ERR_NO_DATABASE);
    CHECK(db.error().context().find("no") != std::string::npos);
    CHECK(std::string(db.error().name()) == "BITKV_ERR_NO_DATABASE");
    db = sync_wait(database::open({.directory = std::string(5000, 'd')}));
    CHECK_ERROR(db, BITKV_ERR_INVALID);
    db = sync_wait(database::open({.directory = s.path(), .max_file_size = 1}));
    CHECK_ERROR(db, BITKV_ERR_INVALID);
    db = sync_wait(database::open({.directory = s.path(), .create_if_missing = false}));
    CHECK_ERROR(db, BITKV_ERR_NO_DATABASE);
}

void the_partitions_are_those_asked_for()
{
    scratch s;
    auto db = sync_wait(database::open({.directory = s.path(), .partitions = 3}));
    CHECK(db->stats()->partitions == 3);
    db.value().reset();
    db = sync_wait(database::open({.directory = s.path()}, {}, 2));
    CHECK_ERROR(db, BITKV_ERR_PARTITION_COUNT);
    db = sync_wait(database::open({.directory = s.path()}, {}, 3));
    CHECK_OK(db);
}

/* --- operations -------------------------------------------------------------------- */

task<void> every_type(database &db)
{
    /* values */
    std::string text = "text";
    const std::string constant = "constant";
    std::vector<char> chars = {'a', '\0', 'b'};
    std::vector<std::byte> bytes = {std::byte{1}, std::byte{0}};
    std::array<unsigned char, 2> octets = {7, 8};
    CHECK_OK(co_await db.put("literal", "value"));
    CHECK_OK(co_await db.put("text", text));
    CHECK_OK(co_await db.put("constant", constant));
    CHECK_OK(co_await db.put("view", std::string_view("view")));
    CHECK_OK(co_await db.put("chars", chars));
    CHECK_OK(co_await db.put("bytes", bytes));
    CHECK_OK(co_await db.put("span", std::span<const std::byte>(bytes)));
    CHECK_OK(co_await db.put("octets", octets));
    CHECK_OK(co_await db.put("moved", std::move(chars)));
    CHECK_OK(co_await db.put("temporary", std::string(1000, 'x')));
    CHECK_OK(co_await db.put("empty", ""));
    CHECK_OK(co_await db.put("sure", "sync", BITKV_DURABILITY_SYNC));
    CHECK(co_await other_unit_put(db, "other"));
    CHECK((co_await db.get_string("literal")).value() == "value");
    CHECK((co_await db.get_string("text")).value() == "text");
    CHECK((co_await db.get_string("constant")).value() == "constant");
    CHECK((co_await db.get_string("view")).value() == "view");
    CHECK((co_await db.get_string("chars")).value() == std::string("a\0b", 3));
    CHECK((co_await db.get_string("bytes")).value() == std::string("\1\0", 2));
    CHECK((co_await db.get_string("span")).value() == std::string("\1\0", 2));
    CHECK((co_await db.get_string("octets")).value() == "\7\10");
    CHECK((co_await db.get_string("moved")).value() == std::string("a\0b", 3));
    CHECK((co_await db.get_string("temporary")).value() == std::string(1000, 'x'));
    CHECK((co_await db.get_string("empty")).value() == "");
    CHECK((co_await db.get("empty")).value()->empty());
    CHECK((co_await db.get_string("sure")).value() == "sync");
    CHECK((co_await db.get_string("other")).value() == "from another unit");

    /* keys */
    CHECK_OK(co_await db.put(std::string("own"), "1"));
    std::vector<char> key = {'k', '\0'};
    CHECK_OK(co_await db.put(std::move(key), "2"));
    CHECK_OK(co_await db.put(bytes, "3"));
    CHECK((co_await db.get_string("own")).value() == "1");
    CHECK((co_await db.get_string(std::string("k\0", 2))).value() == "2");
    CHECK((co_await db.get_string(std::string("\1\0", 2))).value() == "3");
}

void keys_and_values_are_of_any_type()
{
    scratch s;
    auto db = open_in(s);
    sync_wait(every_type(*db));
}

void an_array_of_char_is_text_up_to_its_nul()
{
    scratch s;
    auto db = open_in(s);
    /* Without NUL, and with more behind it. */
    struct {
        const char constant[3] = {'a', 'b', 'c'};
        char other[3] = {'d', 'e', 'f'};
        char behind[8] = "behind";
    } arrays;
    CHECK_OK(sync_wait(db->put(arrays.constant, arrays.other)));
    CHECK(sync_wait(db->get_string("abc")).value() == "def");
    CHECK(sync_wait(db->exists(arrays.constant)).value());
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "key %d", 7);
    CHECK_OK(sync_wait(db->put(buffer, "cut\0here")));
    CHECK(sync_wait(db->get_string("key 7")).value() == "cut");
    const char *pointer = buffer;
    CHECK(sync_wait(db->get_string(pointer)).value() == "cut");
    CHECK_OK(sync_wait(db->put(std::string_view("a\0b", 3), std::span<const char>("c\0d", 3))));
    CHECK(sync_wait(db->get_string(std::string("a\0b", 3))).value() == std::string("c\0d", 3));
    const unsigned char octets[] = {0, 1};
    CHECK_OK(sync_wait(db->put(octets, octets)));
    CHECK(sync_wait(db->get_string(std::string("\0\1", 2))).value() == std::string("\0\1", 2));
}

void operations_may_be_kept_before_they_are_awaited()
{
    scratch s;
    auto db = open_in(s);
    auto put = db->put(std::string(100, 'k'), std::string(100, 'v'));
    auto moved = std::move(put);
    CHECK_OK(sync_wait(std::move(moved)));
    CHECK(sync_wait(db->get_string(std::string(100, 'k'))).value() == std::string(100, 'v'));
    auto never = db->put("never", "awaited");
    CHECK(sync_wait(db->exists("never")).value() == false);
}

void reading_knows_four_ways()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    CHECK(sync_wait(db->get("key")).value() == (std::vector<char>{'v', 'a', 'l', 'u', 'e'}));
    CHECK(sync_wait(db->get_string("key")).value() == "value");
    auto v = sync_wait(db->get_view("key"));
    CHECK(v.value()->string() == "value" && v.value()->size() == 5);
    char buffer[8] = "";
    CHECK(sync_wait(db->get_into("key", buffer)).value() == 5u);
    CHECK(std::string(buffer, 5) == "value");
    CHECK_ERROR(sync_wait(db->get_into("key", std::span<char>(buffer, 4))),
                BITKV_ERR_BUFFER_TOO_SMALL);
    CHECK_ERROR(sync_wait(db->get_into("key", {})), BITKV_ERR_BUFFER_TOO_SMALL);
    CHECK(!sync_wait(db->get("no")).value());
    CHECK(!sync_wait(db->get_string("no")).value());
    CHECK(!sync_wait(db->get_view("no")).value());
    CHECK(!sync_wait(db->get_into("no", buffer)).value());
    view longer = std::move(*v.value());
    CHECK_OK(sync_wait(db->close()));
    db.reset();
    CHECK(longer.string() == "value"); /* it outlives the database */
    longer = view();
}

void deletes_and_exists_say_whether_the_key_was_there()
{
    scratch s;
    auto db = open_in(s);
    CHECK(sync_wait(db->exists("key")).value() == false);
    CHECK(sync_wait(db->del("key")).value() == false);
    CHECK_OK(sync_wait(db->put("key", "value")));
    CHECK(sync_wait(db->exists("key")).value() == true);
    CHECK(sync_wait(db->del("key", BITKV_DURABILITY_SYNC)).value() == true);
    CHECK(sync_wait(db->exists("key")).value() == false);
}

void a_sync_makes_all_durable()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    CHECK(db->stats()->unsynced_bytes > 0);
    CHECK_OK(sync_wait(db->sync()));
    CHECK(db->stats()->unsynced_bytes == 0);
}

int cancel(void *user, std::uint64_t done, std::uint64_t total)
{
    CHECK(done <= total);
    ++*static_cast<int *>(user);
    return 1;
}

task<void> compacts(BitKV &db)
{
    std::string value(50'000, 'v');
    for (int i = 0; i < 20; i++)
        CHECK_OK(co_await db.put("key", value + std::to_string(i)));
    std::uint64_t dead = db.stats()->dead_bytes;
    int calls = 0;
    CHECK_ERROR(co_await db.compact(BITKV_ALL_PARTITIONS, cancel, &calls), BITKV_ERR_CANCELED);
    CHECK(calls > 0);
    CHECK_OK(co_await db.compact());
    CHECK(db.stats()->dead_bytes < dead / 10);
    CHECK((co_await db.get_string("key")).value() == value + "19");
    CHECK_ERROR(co_await db.compact(7), BITKV_ERR_INVALID);
}

void compaction_gives_space_back()
{
    scratch s;
    auto db = open_in(s);
    sync_wait(compacts(*db));
    CHECK_OK(db->compact_now());
    CHECK_OK(sync_wait(db->close()));
    CHECK_ERROR(db->compact_now(), BITKV_ERR_CLOSED);
    CHECK_ERROR(sync_wait(db->compact()), BITKV_ERR_CLOSED);
}

int say_begun(void *user, std::uint64_t, std::uint64_t)
{
    static_cast<std::atomic<bool> *>(user)->store(true);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return 0;
}

void closing_ends_a_compaction()
{
    scratch s;
    auto db = open_in(s);
    for (int i = 0; i < 40'000; i++)
        CHECK_OK(sync_wait(db->put("key" + std::to_string(i % 20'000), "value")));
    std::atomic<bool> begun = false;
    std::thread thread([&] {
        result<void> done = db->compact_now(BITKV_ALL_PARTITIONS, say_begun, &begun);
        CHECK_ERROR(done, BITKV_ERR_CLOSED);
    });
    while (!begun)
        std::this_thread::yield();
    CHECK_OK(sync_wait(db->close()));
    thread.join();
}

void statistics_count()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    CHECK_OK(sync_wait(db->get("key")));
    CHECK_OK(sync_wait(db->get("no")));
    auto stats = db->stats();
    CHECK(stats->puts_total == 1 && stats->gets_total == 2 && stats->gets_miss_total == 1);
    CHECK(db->stats(0)->keys + db->stats(1)->keys == 1);
    CHECK_ERROR(db->stats(2), BITKV_ERR_INVALID);
}

void a_snapshot_shows_one_moment()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("user:1", "Alice")));
    CHECK_OK(sync_wait(db->put("user:2", "Bob")));
    CHECK_OK(sync_wait(db->put("group:1", "all")));
    auto snap = db->snapshot();
    CHECK_OK(snap);
    CHECK_OK(sync_wait(db->put("user:1", "Carol")));
    CHECK_OK(sync_wait(db->del("user:2")));
    CHECK_OK(sync_wait(db->put("user:3", "Dave")));

    CHECK(snap->get_string("user:1").value() == "Alice");
    CHECK(snap->get(std::string("user:2"))->value() == std::vector<char>({'B', 'o', 'b'}));
    CHECK(!snap->get_string("user:3")->has_value());
    CHECK(snap->exists("user:2").value() && !snap->exists("user:3").value());
    CHECK_ERROR(snap->exists(""), BITKV_ERR_INVALID);
    auto view = snap->get_view("group:1");
    CHECK(view->value().string() == "all");

    std::string seen;
    auto users = snap->records({.prefix = "user:"});
    CHECK_OK(users);
    for (const auto &r : *users) {
        CHECK_OK(r);
        CHECK(r->value_size() == r->value().size() && r->partition() < 2 && r->sequence() > 0);
        seen += r->key() == "user:1" ? "1" + std::string(r->value()) : "";
        seen += r->key() == "user:2" ? "2" + std::string(r->value()) : "";
    }
    CHECK(seen == "1Alice2Bob" || seen == "2Bob1Alice");
    std::size_t keys = 0;
    for (std::uint32_t share = 0; share < 3; share++) {
        auto part = snap->records({.keys_only = true, .share = share, .shares = 3});
        for (const auto &r : *part)
            keys += r.value().value().empty();
    }
    CHECK(keys == 3);
    CHECK_ERROR(snap->records({.share = 1}), BITKV_ERR_INVALID);
}

/* An error is an element: a loop that looks at its elements cannot miss it. */
void records_end_with_the_error()
{
    scratch s;
    auto db = open_in(s);
    CHECK_OK(sync_wait(db->put("key", "value")));
    CHECK_OK(sync_wait(db->put("other", "value")));
    auto snap = std::make_optional(db->snapshot().value());
    auto records = snap->records();
    snap.reset();
    static_assert(std::ranges::input_range<record_range>);
    std::size_t good = 0, bad = 0;
    for (const auto &r : *records) {
        if (r) {
            good++;
            CHECK_OK(sync_wait(db->close()));
            CHECK(r->value() == "value");
        } else {
            bad++;
            CHECK_ERROR(r, BITKV_ERR_CLOSED);
        }
    }
    CHECK(good == 1 && bad == 1);
    CHECK_ERROR(db->snapshot(), BITKV_ERR_CLOSED);
}

void what_is_wrong_with_an_operation_is_in_its_error()
{
    scratch s;
    auto db = open_in(s);
    auto put = sync_wait(db->put("", "value"));
    CHECK_ERROR(put, BITKV_ERR_INVALID);
    CHECK(put.error().context().find("key") != std::string::npos);
    CHECK_ERROR(sync_wait(db->get(std::string(BITKV_KEY_SIZE_MAX + 1, 'k'))), BITKV_ERR_INVALID);
    db.reset();
    auto reader = sync_wait(database::open({.directory = s.path(), .read_only = true}));
    CHECK_ERROR(sync_wait(reader->put("key", "value")), BITKV_ERR_READ_ONLY);
}

void the_environment_rules_the_backend()
{
    scratch s;
    auto db = open_in(s);
    const char *wanted = std::getenv("BITKV_BACKEND");
    if (wanted != nullptr && std::string(wanted) == "threads")
        CHECK(db->stats()->backend == BITKV_BACKEND_THREADS);
    db = sync_wait(database::open({.directory = s.path("t")}, {.backend = BITKV_BACKEND_THREADS}))
             .value();
    CHECK(db->stats()->backend == BITKV_BACKEND_THREADS);
}

/* --- expiry and conditions ------------------------------------------------------ */

task<void> every_condition(database &db)
{
    auto first = co_await db.put_if("k", "1", {.condition = BITKV_IF_ABSENT});
    CHECK_OK(first);
    CHECK(first->has_value());
    auto again = co_await db.put_if("k", "2", {.condition = BITKV_IF_ABSENT});
    CHECK_OK(again);
    CHECK(!again->has_value());
    auto second = co_await db.put_if("k", std::string("3"),
                                     {.condition = BITKV_IF_VERSION, .version = **first});
    CHECK(second.value().has_value());
    CHECK(!(co_await db.del_if("k", **first)).value());
    CHECK((co_await db.get_string("k")).value() == "3");
    CHECK((co_await db.info("k")).value()->version == **second);
    CHECK((co_await db.del_if("k", **second)).value());
    CHECK(!(co_await db.info("k")).value().has_value());
    CHECK(!(co_await db.put_if("k", "4", {.condition = BITKV_IF_PRESENT})).value().has_value());
    CHECK_ERROR(co_await db.put_if("k", "4", {.ttl = std::chrono::seconds(0)}), BITKV_ERR_INVALID);
    CHECK_ERROR(co_await db.put_if("", "4", {}), BITKV_ERR_INVALID);
}

task<void> every_deadline(database &db)
{
    co_await db.put("forever", "v");
    co_await db.put_if("hour", "v", {.ttl = std::chrono::hours(1)});
    auto hour = co_await db.info("hour");
    CHECK(hour.value()->remaining_ms > 3500000);
    CHECK(hour.value()->remaining_ms <= 3600000);
    co_await db.put_if("hour", "w", {.ttl = time_to_live::keep()});
    CHECK((co_await db.info("hour")).value()->deadline_ms == hour.value()->deadline_ms);
    CHECK((co_await db.touch("hour", time_to_live::never())).value());
    CHECK((co_await db.info("hour")).value()->deadline_ms == UINT64_MAX);
    CHECK((co_await db.touch("hour", std::chrono::milliseconds(1))).value());
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    CHECK(!(co_await db.touch("hour", std::chrono::seconds(1))).value());
    CHECK(!(co_await db.exists("hour")).value());
    CHECK(!(co_await db.get("hour")).value().has_value());
    CHECK((co_await db.exists("forever")).value());
}

task<void> every_update(database &db)
{
    CHECK((co_await db.add("n", 40)).value() == 40);
    CHECK((co_await db.add(std::string("n"), 2)).value() == 42);
    CHECK_ERROR(co_await db.add("n", INT64_MAX), BITKV_ERR_LIMIT);
    auto append = [](std::optional<std::string_view> present) {
        return update_decision::put(present ? std::string(*present) + "+" : "new");
    };
    CHECK((co_await db.update("u", append)).value());
    CHECK((co_await db.update("u", append)).value());
    CHECK((co_await db.get_string("u")).value() == "new+");
    CHECK(!(co_await db.update("u", [](auto) { return update_decision::leave(); })).value());
    CHECK((co_await db.update("u", [](auto) { return update_decision::del(); })).value());
    CHECK(!(co_await db.update("u", [](auto) { return update_decision::del(); })).value());
    result<void> closing;
    auto closes = [&](auto) {
        closing = sync_wait(db.close());
        return update_decision::leave();
    };
    CHECK(!(co_await db.update("u", closes)).value());
    CHECK_ERROR(closing, BITKV_ERR_INVALID);
}

void conditions_deadlines_and_updates_are_those_of_the_library()
{
    scratch s;
    auto db = open_in(s);
    sync_wait(every_condition(*db));
    sync_wait(every_deadline(*db));
    sync_wait(every_update(*db));
#if BITCASK_EXCEPTIONS_
    bool thrown = false;
    try {
        (void)sync_wait(db->update("t", [](auto) -> update_decision { throw 7; }));
    } catch (int n) {
        thrown = n == 7;
    }
    CHECK(thrown);
#endif
    CHECK_OK(sync_wait(db->close()));
    CHECK_ERROR(sync_wait(db->add("n", 1)), BITKV_ERR_CLOSED);
    config c{.directory = s.path("ttl")};
    c.default_ttl_ms = 5000;
    db = sync_wait(database::open(c)).value();
    sync_wait(db->put("k", "v"));
    CHECK(sync_wait(db->info("k")).value()->remaining_ms <= 5000);
}

/* What is not a queue's operation keeps its turn among those. */
task<void> puts(database &db)
{
    CHECK_OK(co_await db.put("turn", "1"));
}

task<void> replaces(database &db)
{
    auto changed = co_await db.put_if("turn", "2", {.condition = BITKV_IF_PRESENT});
    CHECK(changed.value().has_value());
}

void direct_calls_keep_their_turn()
{
    scratch s;
    auto db = open_in(s);
    sync_wait(when_all(puts(*db), replaces(*db)));
    CHECK(sync_wait(db->get_string("turn")).value() == "2");
}

void closing_waits_for_direct_calls()
{
    scratch s;
    auto db = open_in(s);
    std::atomic<bool> inside{false};
    std::atomic<int> code{0};
    std::thread other([&] {
        auto decide = [&](auto) {
            inside = true;
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            return update_decision::put("v");
        };
        code = sync_wait(db->update("k", decide)).error().code();
    });
    while (!inside)
        std::this_thread::yield();
    CHECK_OK(sync_wait(db->close()));
    other.join();
    CHECK(code == BITKV_OK); /* it was counted before the database began to close */
    db = open_in(s);
    CHECK(sync_wait(db->exists("k")).value());
}

void a_feed_shows_what_was_written()
{
    scratch s;
    auto db = open_in(s);
    auto all = db->feed_from_oldest();
    auto now = db->feed_from_now();
    CHECK_OK(all);
    CHECK_OK(now);
    sync_wait(db->put("k", "v"));
    sync_wait(db->put("k", ""));
    sync_wait(db->del("k"));
    for (feed *f : {&*all, &*now}) {
        CHECK(f->wait(std::chrono::seconds(5)).value());
        auto first = f->next();
        CHECK(first.value()->kind == BITKV_CHANGE_PUT);
        CHECK(first.value()->key == "k" && first.value()->value == "v");
    }
    std::string position = all->position().value();
    feed moved = std::move(*all);
    CHECK(moved.next().value()->value.empty());
    CHECK(moved.next().value()->kind == BITKV_CHANGE_DELETE);
    CHECK(!moved.next().value().has_value());
    CHECK(!moved.wait(std::chrono::milliseconds(1)).value());
    auto resumed = db->feed_from(position);
    CHECK(resumed->next().value()->value.empty());
    CHECK_ERROR(db->feed_from("nonsense"), BITKV_ERR_INVALID);
    CHECK_ERROR(db->feed_from(""), BITKV_ERR_INVALID);
    CHECK_ERROR(all->next(), BITKV_ERR_INVALID);
    CHECK_OK(sync_wait(db->close()));
    CHECK_ERROR(moved.next(), BITKV_ERR_CLOSED);
    CHECK_ERROR(db->feed_from_now(), BITKV_ERR_CLOSED);
}

void a_batch_is_written_as_a_whole()
{
    scratch s;
    auto db = sync_wait(database::open({.directory = s.path("b")})).value();
    batch changes;
    CHECK(db->write(changes).has_value()); // nothing to write
    CHECK(changes.put("a", "1").has_value());
    CHECK(changes.put(std::string("b"), std::vector<char>{'2'}).has_value());
    CHECK(changes.del("a").has_value());
    CHECK(changes.count() == 3);
    CHECK(!changes.put("", "empty").has_value());
    batch moved = std::move(changes);
    CHECK(changes.count() == 0 && moved.count() == 3);
    CHECK(db->write(moved, BITKV_DURABILITY_SYNC).has_value());
    CHECK(!sync_wait(db->exists("a")).value());
    CHECK(sync_wait(db->get_string("b")).value().value() == "2");
    moved.clear();
    CHECK(moved.count() == 0);
    CHECK(sync_wait(db->close()).has_value());
    CHECK(moved.put("a", "1").has_value());
    CHECK(db->write(moved).error().code() == BITKV_ERR_CLOSED);
}

void a_batch_takes_times_to_live()
{
    scratch s;
    auto db = open_in(s);
    batch b;
    CHECK_OK(b.put("short", "1", std::chrono::milliseconds(200)));
    CHECK_OK(b.put("long", "2", std::chrono::hours(1)));
    CHECK_OK(b.put("never", "3", time_to_live::never()));
    CHECK_ERROR(b.put("keep", "4", time_to_live::keep()), BITKV_ERR_INVALID);
    CHECK_ERROR(b.put("none", "5", std::chrono::seconds(0)), BITKV_ERR_INVALID);
    CHECK(b.count() == 3);
    CHECK_OK(db->write(b));
    CHECK(sync_wait(db->info("long")).value()->remaining_ms <= 3'600'000);
    CHECK(sync_wait(db->info("never")).value()->remaining_ms == UINT64_MAX);
    {
        auto taken = db->snapshot();
        auto records = taken->records({.prefix = "long"});
        for (const auto &r : *records)
            CHECK(r.has_value() && r->deadline_ms() != UINT64_MAX);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    CHECK(!sync_wait(db->exists("short")).value());
    CHECK(sync_wait(db->exists("long")).value());
}

void many_keys_are_read_at_a_time()
{
    scratch s;
    auto db = open_in(s);
    for (int i = 0; i < 100; i++)
        CHECK_OK(sync_wait(db->put("key" + std::to_string(i), std::to_string(i * i))));
    std::vector<std::string> keys;
    for (int i = 0; i < 110; i++)
        keys.push_back("key" + std::to_string(i));
    auto values = db->multi_get(keys);
    CHECK(values.size() == 110);
    for (std::size_t i = 0; i < 110; i++) {
        CHECK(values[i].has_value() && values[i]->has_value() == (i < 100));
        CHECK(i >= 100 || **values[i] == std::to_string(i * i));
    }
    auto some = db->multi_get({"key3", "", "nobody"});
    CHECK(some.size() == 3 && **some[0] == "9");
    CHECK_ERROR(some[1], BITKV_ERR_INVALID);
    CHECK(!some[1].error().context().empty());
    CHECK(some[2].has_value() && !some[2]->has_value());
    CHECK(db->multi_get(std::vector<std::vector<char>>{}).empty());
    std::array<const char *, 2> names{"key1", "key2"};
    CHECK(**db->multi_get(names)[1] == "4");
    CHECK_OK(sync_wait(db->close()));
    auto closed = db->multi_get({"key1", "key2"});
    CHECK(closed.size() == 2);
    CHECK_ERROR(closed[1], BITKV_ERR_CLOSED);
}

task<void> backs_up(BitKV &db, std::string target)
{
    auto report = co_await db.backup(target);
    CHECK(report.has_value() && report->files_linked + report->files_copied > 0);
    report = co_await db.backup(target, {.no_links = true, .verify = true});
    CHECK(report.has_value() && report->files_linked == 0);
    int calls = 0;
    CHECK_ERROR(co_await db.backup(target, {.progress = cancel, .user = &calls}),
                BITKV_ERR_CANCELED);
    CHECK_ERROR(co_await db.backup(target + "/none/there"), BITKV_ERR_INVALID);
}

void backups_and_other_numbers_of_partitions()
{
    scratch s;
    std::string target = s.path() + ".backup";
    {
        auto db = open_in(s);
        for (int i = 0; i < 1000; i++)
            CHECK_OK(sync_wait(db->put("key" + std::to_string(i), "value")));
        sync_wait(backs_up(*db, target));
        CHECK_ERROR(BitKV::repartition(s.path(), 5), BITKV_ERR_LOCKED);
        CHECK_OK(sync_wait(db->close()));
        CHECK_ERROR(db->backup_now(target), BITKV_ERR_CLOSED);
        CHECK_ERROR(db->segments(), BITKV_ERR_CLOSED);
    }
    CHECK_OK(BitKV::repartition(s.path(), 5));
    for (const std::string &directory : {s.path(), target}) {
        auto db = sync_wait(BitKV::open({.directory = directory})).value();
        CHECK(db->stats()->keys == 1000);
        CHECK((db->stats()->partitions == 5) == (directory == s.path()));
        auto segments = db->segments();
        CHECK(segments.has_value() && segments->size() == db->stats()->segments);
        CHECK(db->segments(0)->size() <= segments->size());
        size_t counted = 0;
        for (const auto &segment : *db->segments()) /* of a result that nobody named */
            counted += segment.partition < 5;
        CHECK(counted == segments->size());
        CHECK_ERROR(db->segments(99), BITKV_ERR_INVALID);
    }
    std::filesystem::remove_all(target);
}

/* Writers that wait for their syncs, and a call that another one is made from. */
void writes_hold_up_nobody()
{
    scratch s;
    auto db = open_in(s);
    std::atomic<bool> stop = false;
    std::vector<std::thread> writers;
    std::atomic<int> written = 0;
    for (int t = 0; t < 4; t++)
        writers.emplace_back([&, t] {
            batch b;
            CHECK_OK(b.put("key" + std::to_string(t), "value"));
            while (!stop) {
                CHECK_OK(db->write(b, BITKV_DURABILITY_SYNC));
                written++;
            }
        });
    while (written < 20) {
        CHECK(db->handle() != nullptr);
        CHECK_OK(db->stats());
        CHECK_OK(db->refresh());
        std::this_thread::yield();
    }
    stop = true;
    for (std::thread &writer : writers)
        writer.join();
    auto decide = [&](std::optional<std::string_view>) {
        batch inner;
        CHECK_OK(inner.put("inner", "1"));
        CHECK_OK(db->write(inner));
        CHECK_ERROR(sync_wait(db->close()), BITKV_ERR_INVALID);
        return update_decision::put("outer");
    };
    CHECK_OK(sync_wait(db->update("u", decide)));
    CHECK(sync_wait(db->exists("inner")).value());
}

} // namespace

int main()
{
    return run_tests({
        NAMED(the_quick_start_works),
        NAMED(errors_and_absence_are_told_apart),
        NAMED(a_task_may_return_the_database),
        NAMED(a_coroutine_may_close),
        NAMED(closing_submits_what_was_awaited_before),
        NAMED(a_closed_database_refuses),
        NAMED(the_defaults_are_those_of_the_library),
        NAMED(what_cannot_be_opened_is_an_error_with_a_context),
        NAMED(the_partitions_are_those_asked_for),
        NAMED(keys_and_values_are_of_any_type),
        NAMED(an_array_of_char_is_text_up_to_its_nul),
        NAMED(operations_may_be_kept_before_they_are_awaited),
        NAMED(reading_knows_four_ways),
        NAMED(deletes_and_exists_say_whether_the_key_was_there),
        NAMED(a_sync_makes_all_durable),
        NAMED(compaction_gives_space_back),
        NAMED(closing_ends_a_compaction),
        NAMED(statistics_count),
        NAMED(a_snapshot_shows_one_moment),
        NAMED(records_end_with_the_error),
        NAMED(a_feed_shows_what_was_written),
        NAMED(a_batch_is_written_as_a_whole),
        NAMED(a_batch_takes_times_to_live),
        NAMED(many_keys_are_read_at_a_time),
        NAMED(backups_and_other_numbers_of_partitions),
        NAMED(writes_hold_up_nobody),
        NAMED(what_is_wrong_with_an_operation_is_in_its_error),
        NAMED(the_environment_rules_the_backend),
        NAMED(conditions_deadlines_and_updates_are_those_of_the_library),
        NAMED(direct_calls_keep_their_turn),
        NAMED(closing_waits_for_direct_calls),
    });
}
