/* SPDX-License-Identifier: MIT */
#include "demo_crash.h"

#include "demo_report.h"
#include "demo_rng.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* The kill comes when between these many writes are acknowledged, and then some. */
    KILL_AFTER_MIN = 5000,
    KILL_AFTER_MAX = 60000,
    KILL_DELAY_US_MAX = 3000,
    /* A writer that gets so far waits for the kill, so that the disk does not fill up. */
    WRITES_MAX = 400000,
    HEADER_BYTES_MAX = 100, /* in front of a value */
};

/* A slow machine is killed after this time, wherever it is. */
#define KILL_TIMEOUT_NS  UINT64_C(10000000000)
#define POLL_INTERVAL_US 100

/* ------------------------------------------------------------------ */
/* What both processes know                                            */
/* ------------------------------------------------------------------ */

/* Shared memory. The writer stores with release order after the call has returned; whoever kills
 * the writer and reaps it sees all of it. */
struct crash_page {
    _Atomic int failure; /* code of a call that failed */
    struct {
        _Alignas(64) _Atomic uint64_t acknowledged;
    } writers[CRASH_WRITERS];
};

/* Write number i of a writer is a function of the seed, so that it can be told afterwards. */
struct planned_write {
    bool is_delete;
    uint64_t id; /* of the key */
    const struct corpus_record *record;
};

static struct planned_write plan_write(const struct crash_round *round, unsigned writer, uint64_t i)
{
    uint64_t random = rng_hash(
        round->seed ^ rng_hash(i ^ (uint64_t)writer << 56 ^ (uint64_t)round->number << 48));
    uint64_t kind = random % 100;
    struct planned_write write = {
        .id = i, .record = &round->corpus->records[(random >> 32) % round->corpus->count]};
    if (kind >= 70 && i > 0) {
        write.id = (random >> 8) % i; /* one from before: overwritten, or deleted */
        write.is_delete = kind >= 90;
    }
    return write;
}

static size_t format_key(char *key, size_t size, const struct crash_round *round, unsigned writer,
                         uint64_t id)
{
    return (size_t)snprintf(key, size, "crash/%u/%u/%" PRIu64, round->number, writer, id);
}

/* A header that names the write, then a record of the corpus. */
static size_t compose_value(char *value, const struct crash_round *round, unsigned writer,
                            uint64_t i, const struct corpus_record *record)
{
    int header = snprintf(value, HEADER_BYTES_MAX, "Round: %u\nWriter: %u\nWrite: %" PRIu64 "\n",
                          round->number, writer, i);
    memcpy(value + header, record->value, record->value_size);
    return (size_t)header + record->value_size;
}

static size_t value_room(const struct crash_round *round)
{
    return HEADER_BYTES_MAX + round->corpus->value_size_max;
}

/* ------------------------------------------------------------------ */
/* The writer                                                          */
/* ------------------------------------------------------------------ */

struct writer {
    const struct crash_round *round;
    struct crash_page *page;
    bitkv *db;
    unsigned number;
};

static _Noreturn void wait_for_kill(void)
{
    for (;;) {
        pause();
    }
}

static void *write_until_killed(void *argument)
{
    const struct writer *writer = argument;
    const struct crash_round *round = writer->round;
    _Atomic uint64_t *acknowledged = &writer->page->writers[writer->number].acknowledged;
    char *value = malloc(value_room(round));
    int code = value != NULL ? BITKV_OK : BITKV_ERR_NO_MEMORY;
    for (uint64_t i = 0; i < WRITES_MAX && code >= 0; i++) {
        struct planned_write write = plan_write(round, writer->number, i);
        char key[64];
        size_t key_size = format_key(key, sizeof key, round, writer->number, write.id);
        if (write.is_delete) {
            code = bitkv_del(writer->db, key, key_size); /* may be absent: that is fine */
        } else {
            size_t size = compose_value(value, round, writer->number, i, write.record);
            code = bitkv_put(writer->db, key, key_size, value, size);
        }
        if (code >= 0) {
            atomic_store_explicit(acknowledged, i + 1, memory_order_release);
        }
    }
    if (code < 0) {
        atomic_store(&writer->page->failure, code);
    }
    free(value);
    wait_for_kill();
}

/* --crash-writer DIRECTORY ROUND SEED CORPUS_FD IS_WORDS PAGE_FD */
int crash_writer_main(int argc, char **argv)
{
    if (argc != 8) {
        return EXIT_FAILURE;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct corpus corpus;
    struct crash_round round = {.corpus = &corpus,
                                .directory = argv[2],
                                .number = (unsigned)strtoul(argv[3], NULL, 10),
                                .seed = strtoull(argv[4], NULL, 10)};
    bool is_words = strcmp(argv[6], "1") == 0;
    struct crash_page *page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED,
                                   (int)strtol(argv[7], NULL, 10), 0);
    if (page == MAP_FAILED || !corpus_attach(&corpus, (int)strtol(argv[5], NULL, 10), is_words)) {
        perror("bitkv-demo: the writing process");
        return EXIT_FAILURE;
    }
    bitkv *db = NULL;
    int code = bitkv_open(&db, round.directory, NULL);
    if (code != BITKV_OK) {
        fprintf(stderr, "bitkv-demo: the writing process: %s (%s)\n", bitkv_strerror(code),
                bitkv_error_context());
        atomic_store(&page->failure, code);
        return EXIT_FAILURE;
    }
    struct writer writers[CRASH_WRITERS];
    for (unsigned i = 0; i < CRASH_WRITERS; i++) {
        writers[i] = (struct writer){.round = &round, .page = page, .db = db, .number = i};
        pthread_t thread;
        if (i + 1 < CRASH_WRITERS &&
            pthread_create(&thread, NULL, write_until_killed, &writers[i]) != 0) {
            return EXIT_FAILURE;
        }
    }
    write_until_killed(&writers[CRASH_WRITERS - 1]);
    return EXIT_FAILURE; /* not reached */
}

/* ------------------------------------------------------------------ */
/* The killer                                                          */
/* ------------------------------------------------------------------ */

static uint64_t total_acknowledged(const struct crash_page *page)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < CRASH_WRITERS; i++) {
        total += atomic_load_explicit(&page->writers[i].acknowledged, memory_order_acquire);
    }
    return total;
}

/* Between fork() and exec(): the descriptors that the writer is to have lose their close-on-exec
 * flag by being duplicated. */
static void exec_writer(const struct crash_round *round, int page_fd)
{
    char number[16];
    char seed[24];
    char corpus_fd[16];
    char page[16];
    snprintf(number, sizeof number, "%u", round->number);
    snprintf(seed, sizeof seed, "%" PRIu64, round->seed);
    snprintf(corpus_fd, sizeof corpus_fd, "%d", dup(round->corpus->fd));
    snprintf(page, sizeof page, "%d", dup(page_fd));
    execl("/proc/self/exe", "bitkv-demo", CRASH_WRITER_ARGUMENT, round->directory, number, seed,
          corpus_fd, round->corpus->is_words ? "1" : "0", page, (char *)NULL);
    _exit(EXIT_FAILURE);
}

/* Wait for the moment, kill, reap. Returns whether it died of the kill. */
static bool kill_in_mid_stream(struct crash_round *round, const struct crash_page *page, pid_t pid)
{
    struct rng rng = {.state = rng_hash(round->seed + round->number)};
    uint64_t target = KILL_AFTER_MIN + rng_below(&rng, KILL_AFTER_MAX - KILL_AFTER_MIN);
    useconds_t delay_us = (useconds_t)rng_below(&rng, KILL_DELAY_US_MAX);
    uint64_t started_ns = demo_clock_ns();
    int status = 0;
    while (total_acknowledged(page) < target && atomic_load(&page->failure) == 0 &&
           demo_clock_ns() - started_ns < KILL_TIMEOUT_NS) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return demo_check(false, "the writing process ended by itself");
        }
        usleep(POLL_INTERVAL_US);
    }
    usleep(delay_us);
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    int failure = atomic_load(&page->failure);
    if (failure != 0) {
        return demo_check(false, "the writing process: %s", bitkv_strerror(failure));
    }
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

bool crash_round_run(struct crash_round *round)
{
    bool killed = false;
    int page_fd = memfd_create("bitkv-demo-page", MFD_CLOEXEC);
    if (page_fd < 0 || ftruncate(page_fd, sizeof(struct crash_page)) != 0) {
        return demo_check(false, "shared memory: %s", strerror(errno));
    }
    struct crash_page *page =
        mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
    if (page == MAP_FAILED) {
        demo_check(false, "shared memory: %s", strerror(errno));
        goto err_after_page_fd;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        exec_writer(round, page_fd);
    }
    if (pid < 0) {
        demo_check(false, "fork: %s", strerror(errno));
        goto err_after_page;
    }
    killed = kill_in_mid_stream(round, page, pid);
    for (unsigned i = 0; i < CRASH_WRITERS; i++) {
        round->acknowledged[i] = atomic_load(&page->writers[i].acknowledged);
    }
    round->acknowledged_total = total_acknowledged(page);

err_after_page:
    munmap(page, sizeof *page);
err_after_page_fd:
    close(page_fd);
    return killed;
}

/* ------------------------------------------------------------------ */
/* The verification                                                    */
/* ------------------------------------------------------------------ */

/* The state that a key can be in: the write that put it, or none. */
#define ABSENT UINT64_MAX

struct verification {
    struct crash_round *round;
    bitkv *db;
    unsigned writer;
    uint64_t *last; /* by key: its last acknowledged put, or ABSENT */
    char *expected;
    char *found;
    size_t room;
};

static bool matches(const struct verification *v, uint64_t write, int code, size_t found_size)
{
    if (write == ABSENT) {
        return code == BITKV_NOT_FOUND;
    }
    if (code != BITKV_OK) {
        return false;
    }
    struct planned_write planned = plan_write(v->round, v->writer, write);
    size_t size = compose_value(v->expected, v->round, v->writer, write, planned.record);
    return size == found_size && memcmp(v->expected, v->found, size) == 0;
}

static void verify_key(struct verification *v, uint64_t id)
{
    uint64_t acknowledged = v->round->acknowledged[v->writer];
    char key[64];
    size_t key_size = format_key(key, sizeof key, v->round, v->writer, id);
    size_t size = 0;
    int code = bitkv_get_into(v->db, key, key_size, v->found, v->room, &size);
    v->round->keys_found += code == BITKV_OK;
    if (matches(v, v->last[id], code, size)) {
        return;
    }
    /* The write behind the last acknowledged one was being made: it may be there or not. */
    struct planned_write in_flight = plan_write(v->round, v->writer, acknowledged);
    if (in_flight.id == id && matches(v, in_flight.is_delete ? ABSENT : acknowledged, code, size)) {
        v->round->in_flight_kept++;
        return;
    }
    v->round->wrong++;
    demo_detail("%s: %s", key,
                code == BITKV_OK ? "another value than the one acknowledged"
                                 : bitkv_strerror(code));
}

static bool verify_writer(struct verification *v)
{
    uint64_t count = v->round->acknowledged[v->writer];
    v->last = malloc((size_t)(count + 1) * sizeof *v->last);
    if (v->last == NULL) {
        return demo_check(false, "out of memory");
    }
    for (uint64_t i = 0; i <= count; i++) {
        v->last[i] = ABSENT;
    }
    for (uint64_t i = 0; i < count; i++) {
        struct planned_write write = plan_write(v->round, v->writer, i);
        v->last[write.id] = write.is_delete ? ABSENT : i;
    }
    for (uint64_t id = 0; id <= count; id++) {
        verify_key(v, id);
    }
    free(v->last);
    return true;
}

bool crash_round_verify(struct crash_round *round, bitkv *db)
{
    struct verification v = {.round = round, .db = db, .room = value_room(round)};
    v.expected = malloc(v.room);
    v.found = malloc(v.room);
    bool done = v.expected != NULL && v.found != NULL;
    for (v.writer = 0; v.writer < CRASH_WRITERS && done; v.writer++) {
        done = verify_writer(&v);
    }
    free(v.expected);
    free(v.found);
    return done && round->wrong == 0;
}
