/* SPDX-License-Identifier: MIT */
/*
 * Many coroutines in one thread: what they await goes to the database in
 * batches, so that reads overlap and durable writes share their syncs. Accounts
 * pay each other; each coroutine reads as if it were alone.
 *
 *     coroutines [DIRECTORY]
 */
#include <bitkv.hpp>

#include <iostream>

using namespace bitcask;

constexpr int accounts = 1000;
constexpr int deposit = 100;

static std::string account(int number)
{
    return "account:" + std::to_string(number);
}

static task<result<void>> open_account(database &db, int number)
{
    /* A key that is a temporary is kept by the operation. */
    co_return co_await db.put(account(number), std::to_string(deposit), BITKV_DURABILITY_SYNC);
}

static task<result<int>> balance(database &db, int number)
{
    auto text = co_await db.get_string(account(number));
    if (!text)
        co_return text.error();
    co_return *text ? std::stoi(**text) : 0;
}

/* Two reads at a time, then two writes. */
static task<bool> pay(database &db, int from, int to, int amount)
{
    auto [a, b] = co_await when_all(balance(db, from), balance(db, to));
    if (!a || !b || *a < amount)
        co_return false;
    auto [c, d] = co_await when_all(db.put(account(from), std::to_string(*a - amount)),
                                    db.put(account(to), std::to_string(*b + amount)));
    co_return c &&d;
}

static task<int> run(database &db)
{
    std::vector<task<result<void>>> openings;
    for (int i = 0; i < accounts; i++)
        openings.push_back(open_account(db, i));
    auto all_opened = co_await when_all(std::move(openings));
    for (const auto &opened : all_opened) {
        if (!opened) {
            std::cerr << "open an account: " << opened.error() << "\n";
            co_return 1;
        }
    }

    std::vector<task<bool>> payments; /* of pairs that share no account */
    for (int i = 0; i < accounts; i += 2)
        payments.push_back(pay(db, i, i + 1, i % 150));
    int paid = 0;
    auto all_paid = co_await when_all(std::move(payments));
    for (bool done : all_paid)
        paid += done;

    co_await db.sync();
    std::vector<task<result<int>>> balances;
    for (int i = 0; i < accounts; i++)
        balances.push_back(balance(db, i));
    int sum = 0;
    auto all_balances = co_await when_all(std::move(balances));
    for (const auto &b : all_balances)
        sum += b.value_or(0);
    std::cout << paid << " payments, " << sum << " in all accounts, " << db.stats()->syncs_total
              << " syncs\n";
    bool kept = sum == accounts * deposit;
    co_return kept ? 0 : 1;
}

int main(int argc, char **argv)
{
    auto db =
        sync_wait(database::open({.directory = argc > 1 ? argv[1] : "example-coroutines.db"}));
    if (!db) {
        std::cerr << "open: " << db.error() << "\n";
        return 1;
    }
    int status = sync_wait(run(**db));
    auto closed = sync_wait(db->close());
    return closed ? status : 1;
}
