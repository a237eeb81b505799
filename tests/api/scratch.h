/* SPDX-License-Identifier: MIT */
/*
 * What tests of the interface share: cmocka with its headers, a directory to
 * work in, copies and fingerprints of directories, what a process holds, and
 * random numbers that a seed repeats.
 */
#ifndef TESTS_API_SCRATCH_H
#define TESTS_API_SCRATCH_H

#include <bitkv.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#else
#define UNDER_ASAN 0
#endif

#if UNDER_TSAN
/* A child that was forked, or that dies in the middle, joins no threads. */
__attribute__((visibility("default"), weak)) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "report_thread_leaks=0";
}
#endif

#define PATH_SIZE 512u

/* A call that must succeed; its context explains it if not. */
#define ok(call)          expect_code((call), BITKV_OK, #call, __FILE__, __LINE__)
#define fails(code, call) expect_code((call), (code), #call, __FILE__, __LINE__)

static inline void expect_code(int got, int wanted, const char *call, const char *file, int line)
{
    if (got == wanted)
        return;
    print_error("%s gave %s (%s), not %s\n", call, bitkv_error_name(got), bitkv_error_context(),
                bitkv_error_name(wanted));
    _fail(file, line);
}

#define context_has(text) expect_context((text), __FILE__, __LINE__)

static inline void expect_context(const char *text, const char *file, int line)
{
    if (strstr(bitkv_error_context(), text) != NULL)
        return;
    print_error("the context \"%s\" does not name \"%s\"\n", bitkv_error_context(), text);
    _fail(file, line);
}

/* --- directories ----------------------------------------------------------- */

static inline const char *inside(char out[PATH_SIZE], const char *directory, const char *name)
{
    assert_true(strlen(directory) + 1 + strlen(name) < PATH_SIZE);
    (void)stpcpy(stpcpy(stpcpy(out, directory), "/"), name);
    return out;
}

static inline void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    if (dir != NULL) {
        struct dirent *entry;
        while ((entry = readdir(dir)) != NULL) {
            char sub[PATH_SIZE];
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                continue;
            inside(sub, path, entry->d_name);
            struct stat status;
            if (lstat(sub, &status) == 0 && S_ISDIR(status.st_mode))
                remove_tree(sub);
            else
                (void)unlink(sub);
        }
        (void)closedir(dir);
    }
    (void)rmdir(path);
}

/* A fresh directory; the database goes to a name inside of it. */
static inline void make_scratch(char path[PATH_SIZE])
{
    const char *parent = getenv("TMPDIR");
    (void)snprintf(path, PATH_SIZE, "%s/bitkv-XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(path) == NULL) {
        print_error("mkdtemp %s: %s\n", path, strerror(errno));
        fail();
    }
}

static inline bool copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return false;
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(out >= 0);
    static char buffer[1 << 16];
    static const char zeros[1 << 16];
    ssize_t n;
    off_t at = 0;
    while ((n = read(in, buffer, sizeof buffer)) > 0) {
        if (memcmp(buffer, zeros, (size_t)n) != 0) /* what is zero stays a hole */
            assert_int_equal(pwrite(out, buffer, (size_t)n, at), n);
        at += n;
    }
    assert_int_equal(ftruncate(out, at), 0);
    (void)close(in);
    (void)close(out);
    return true;
}

/* File by file; one that goes away meanwhile is left out. */
static inline void copy_tree(const char *from, const char *to)
{
    (void)mkdir(to, 0700);
    DIR *dir = opendir(from);
    assert_non_null(dir);
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char a[PATH_SIZE];
        char b[PATH_SIZE];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        inside(a, from, entry->d_name);
        inside(b, to, entry->d_name);
        struct stat status;
        if (lstat(a, &status) != 0)
            continue;
        if (S_ISDIR(status.st_mode))
            copy_tree(a, b);
        else
            (void)copy_file(a, b);
    }
    (void)closedir(dir);
}

static inline uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Names, sizes, times and content of everything below a directory, whatever
 * the order in which it is listed. */
static inline uint64_t fingerprint(const char *path)
{
    uint64_t sum = 0;
    struct stat status;
    if (lstat(path, &status) != 0)
        return 0;
    uint64_t h = mix((uint64_t)status.st_ino) ^ mix((uint64_t)status.st_size + 1);
    h = mix(h ^ (uint64_t)status.st_mode) ^ mix((uint64_t)status.st_mtim.tv_nsec);
    h = mix(h ^ (uint64_t)status.st_mtim.tv_sec) ^ mix((uint64_t)status.st_ctim.tv_nsec);
    if (S_ISREG(status.st_mode)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        static unsigned char buffer[1 << 16];
        ssize_t n;
        while ((n = read(fd, buffer, sizeof buffer)) > 0) {
            for (ssize_t i = 0; i < n; i++)
                h = (h ^ buffer[i]) * 0x100000001b3u;
        }
        (void)close(fd);
    }
    sum = mix(h);
    DIR *dir = S_ISDIR(status.st_mode) ? opendir(path) : NULL;
    if (dir != NULL) {
        struct dirent *entry;
        while ((entry = readdir(dir)) != NULL) {
            char sub[PATH_SIZE];
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                sum += fingerprint(inside(sub, path, entry->d_name));
        }
        (void)closedir(dir);
    }
    return sum;
}

/* How many names in a directory begin and end so. */
static inline unsigned count_names(const char *path, const char *prefix, const char *suffix)
{
    unsigned count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        size_t size = strlen(entry->d_name);
        size_t tail = strlen(suffix);
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && size >= tail &&
                 strcmp(entry->d_name + size - tail, suffix) == 0;
    }
    (void)closedir(dir);
    return count;
}

/* --- what this process holds ------------------------------------------------- */

static inline unsigned count_descriptors(void)
{
    return count_names("/proc/self/fd", "", "") - 3; /* ".", ".." and its own */
}

static inline unsigned count_threads(void)
{
    return count_names("/proc/self/task", "", "") - 2;
}

/* --- time and chance ------------------------------------------------------------ */

static inline uint64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0)
        ;
}

struct chance {
    uint64_t state;
};

static inline uint64_t draw(struct chance *c)
{
    return mix(c->state++);
}

/* From 0 to n - 1. */
static inline uint64_t below(struct chance *c, uint64_t n)
{
    return draw(c) % n;
}

static inline bool one_in(struct chance *c, unsigned n)
{
    return below(c, n) == 0;
}

/* Bytes that belong to a number, and to no other. */
static inline void fill(void *bytes, size_t size, uint64_t number)
{
    unsigned char *to = bytes;
    uint64_t word = mix(number);
    for (; size >= 8; size -= 8, to += 8) {
        memcpy(to, &word, 8);
        word = word * 6364136223846793005u + 1442695040888963407u;
    }
    memcpy(to, &word, size);
}

static inline uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && text[0] != '\0' ? strtoull(text, NULL, 0) : otherwise;
}

/* --- other processes -------------------------------------------------------------- */

static inline void flip_byte(const char *name, uint64_t offset)
{
    unsigned char byte;
    int fd = open(name, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    (void)close(fd);
}

/* How a child ended: its exit status, or 1000 + the signal. */
static inline int wait_child(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#endif
