/* SPDX-License-Identifier: MIT */
/* What the tests of bitkv.hpp share: checks that end the program, a directory
 * for each test, and a database in it. */
#ifndef TESTS_CPP_CHECK_HPP
#define TESTS_CPP_CHECK_HPP

#include <bitkv.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#define CHECK(condition)                                                                           \
    ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, nullptr))

/* Of a result: there is a value. */
#define CHECK_OK(...)                                                                              \
    do {                                                                                           \
        const auto &checked_ = (__VA_ARGS__);                                                      \
        if (!checked_.has_value())                                                                 \
            check_failed(__FILE__, __LINE__, #__VA_ARGS__, checked_.error().text().c_str());       \
    } while (0)

#define CHECK_ERROR(result, expected)                                                              \
    do {                                                                                           \
        const auto &checked_ = (result);                                                           \
        if (!(checked_.error() == (expected)))                                                     \
            check_failed(__FILE__, __LINE__, #result " fails with " #expected,                     \
                         checked_.error().text().c_str());                                         \
    } while (0)

[[noreturn]] inline void check_failed(const char *file, int line, const char *what,
                                      const char *text)
{
    std::fprintf(stderr, "%s:%d: not so: %s%s%s\n", file, line, what, text ? ": " : "",
                 text ? text : "");
    std::exit(1);
}

/* A directory of its own, removed with the object. */
class scratch
{
  public:
    scratch()
    {
        const char *parent = std::getenv("TMPDIR");
        path_ = std::string(parent ? parent : "/tmp") + "/bitkv-cpp-XXXXXX";
        CHECK(::mkdtemp(path_.data()) != nullptr);
    }
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    ~scratch()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::string path(const char *name = "db") const
    {
        return path_ + "/" + name;
    }

  private:
    std::string path_;
};

inline std::unique_ptr<bitcask::database> open_in(const scratch &s, const char *name = "db")
{
    bitcask::config config{
        .directory = s.path(name), .max_file_size = 1 << 20, .durability = BITKV_DURABILITY_NONE};
    auto db = bitcask::sync_wait(bitcask::database::open(config, {}, 2));
    CHECK_OK(db);
    return std::move(*db);
}

struct test {
    const char *name;
    void (*run)();
};

template <std::size_t N> int run_tests(const test (&tests)[N])
{
    for (const test &t : tests) {
        std::printf("%s\n", t.name);
        std::fflush(stdout);
        t.run();
    }
    return 0;
}

/* TEST(a_promise) {...} and, in main(): run_tests({{"a_promise", a_promise}}) */
#define NAMED(function)                                                                            \
    {                                                                                              \
#function, function                                                                        \
    }

#endif
