/* SPDX-License-Identifier: MIT */
/*
 * What coroutines cost: gets of random keys in one thread, one by one
 * (bitkv_get_into), in batches (bitkv_cq_submit), and by coroutines that await.
 * The best of a few turns each, in thousands a second.
 *
 *     bitkv-coroutines-micro DIRECTORY [KEYS]
 */
#include <bitkv.hpp>

#include <array>
#include <cstdio>
#include <filesystem>
#include <functional>

using namespace bitcask;

namespace
{

constexpr std::size_t value_size = 100;
constexpr std::size_t batch_size = 32;
constexpr std::size_t coroutines = 64;
constexpr std::size_t gets = 2'000'000;
constexpr int turns = 5;

using key_bytes = std::array<char, 16>;

key_bytes key_of(std::uint64_t n)
{
    key_bytes key;
    for (char &digit : key) {
        digit = static_cast<char>('0' + n % 10);
        n /= 10;
    }
    return key;
}

std::vector<key_bytes> keys; /* in the order in which they are read */
std::size_t wrong;

const key_bytes &key_at(std::size_t i)
{
    return keys[i % keys.size()];
}

void fill(database &db, std::size_t count)
{
    std::string value(value_size, 'v');
    for (std::size_t i = 0; i < count; i++) {
        key_bytes key = key_of(i);
        keys.push_back(key);
        if (bitkv_put(db.handle(), key.data(), key.size(), value.data(), value.size()) != BITKV_OK)
            wrong++;
    }
    std::uint64_t random = 1;
    for (std::size_t i = count; i > 1; i--) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        std::swap(keys[i - 1], keys[(random >> 33) % i]);
    }
}

void single(database &db)
{
    ::bitkv *handle = db.handle();
    char buffer[value_size];
    for (std::size_t i = 0; i < gets; i++) {
        const key_bytes &key = key_at(i);
        wrong += bitkv_get_into(handle, key.data(), key.size(), buffer, sizeof buffer, nullptr) !=
                 BITKV_OK;
    }
}

void batches(database &db)
{
    bitkv_cq *cq;
    if (bitkv_cq_create(&cq, db.handle(), nullptr) != BITKV_OK)
        return;
    static char buffers[batch_size][value_size];
    bitkv_op ops[batch_size]{};
    bitkv_completion done[batch_size];
    for (std::size_t i = 0; i < gets; i += batch_size) {
        for (std::size_t j = 0; j < batch_size; j++) {
            ops[j].kind = BITKV_OP_GET;
            ops[j].key = key_at(i + j).data();
            ops[j].key_size = key_at(i + j).size();
            ops[j].buffer = buffers[j];
            ops[j].buffer_size = value_size;
        }
        bitkv_cq_submit(cq, ops, batch_size, nullptr);
        while (bitkv_cq_pending(cq) > 0) {
            int count = bitkv_cq_wait(cq, done, batch_size, -1);
            for (int j = 0; j < count; j++)
                wrong += done[j].status != BITKV_OK;
        }
    }
    bitkv_cq_destroy(cq);
}

task<void> reader_into(database &db, std::size_t first)
{
    char buffer[value_size];
    for (std::size_t i = first; i < gets; i += coroutines) {
        auto got = co_await db.get_into(key_at(i), buffer);
        wrong += !got || !*got;
    }
}

task<void> reader_string(database &db, std::size_t first)
{
    for (std::size_t i = first; i < gets; i += coroutines) {
        auto got = co_await db.get_string(key_at(i));
        wrong += !got || !*got;
    }
}

task<void> reader_view(database &db, std::size_t first)
{
    for (std::size_t i = first; i < gets; i += coroutines) {
        auto got = co_await db.get_view(key_at(i));
        wrong += !got || !*got;
    }
}

template <class Reader> void by_coroutines(database &db, Reader reader)
{
    std::vector<task<void>> tasks;
    for (std::size_t i = 0; i < coroutines; i++)
        tasks.push_back(reader(db, i));
    sync_wait(when_all(std::move(tasks)));
}

void measure(const char *name, const std::function<void()> &run)
{
    double best = 0;
    for (int turn = 0; turn < turns; turn++) {
        auto begin = std::chrono::steady_clock::now();
        run();
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        best = std::max(best, static_cast<double>(gets) / took.count() / 1000);
    }
    std::printf("%-28s %8.0f k/s\n", name, best);
    std::fflush(stdout);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: bitkv-coroutines-micro DIRECTORY [KEYS]\n");
        return 2;
    }
    std::size_t count = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1'000'000;
    std::filesystem::remove_all(argv[1]);
    auto opened = sync_wait(database::open({.directory = argv[1]}));
    if (!opened || count == 0) {
        std::fprintf(stderr, "%s: %s\n", argv[1], opened.error().text().c_str());
        return 1;
    }
    database &db = **opened;
    fill(db, count);
    measure("single gets", [&] { single(db); });
    measure("batches of 32", [&] { batches(db); });
    measure("64 coroutines, get_into", [&] { by_coroutines(db, reader_into); });
    measure("64 coroutines, get_view", [&] { by_coroutines(db, reader_view); });
    measure("64 coroutines, get_string", [&] { by_coroutines(db, reader_string); });
    if (wrong > 0)
        std::fprintf(stderr, "%zu operations failed\n", wrong);
    return wrong > 0;
}
