/* SPDX-License-Identifier: MIT */
/*
 * A queue in an epoll loop, beside what else a server waits for; here a timer,
 * which submits durable writes again and again while others are under way.
 *
 *     epoll [DIRECTORY]
 */
#include <bitkv.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICKS 5u
#define BATCH 20u

static void must(int status, const char *what)
{
    if (status >= 0)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void must_system(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    exit(1);
}

static unsigned completed;

static void write_completed(bitkv_cq *cq, const bitkv_completion *completion)
{
    (void)cq;
    must(completion->status, "write");
    completed++;
}

static void submit_writes(bitkv_cq *cq, unsigned tick)
{
    for (unsigned i = 0; i < BATCH; i++) {
        char key[32];
        int size = snprintf(key, sizeof key, "tick:%u:%u", tick, i);
        bitkv_op op = {.kind = BITKV_OP_PUT,
                       .flags = BITKV_OP_COPY, /* the key goes when this function returns */
                       .key = key,
                       .key_size = (size_t)size,
                       .value = "tock",
                       .value_size = 4,
                       .durability = BITKV_DURABILITY_SYNC,
                       .callback = write_completed};
        must(bitkv_cq_submit(cq, &op, 1, NULL), "submit");
    }
}

/* As the descriptor's promise goes: poll until nothing is left to reap. */
static void reap(bitkv_cq *cq)
{
    bitkv_completion unused; /* all have callbacks */
    unsigned before;
    do {
        before = completed;
        must(bitkv_cq_poll(cq, &unused, 1), "poll");
    } while (completed > before);
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    must_system(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-epoll.db", NULL), "open");
    bitkv_cq *cq;
    must(bitkv_cq_create(&cq, db, NULL), "create a queue");
    int queue_fd = bitkv_cq_fd(cq);
    must(queue_fd, "descriptor of the queue");

    struct itimerspec every_10_ms = {.it_interval.tv_nsec = 10000000, .it_value.tv_nsec = 10000000};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    must_system(timer, "timerfd_create");
    must_system(timerfd_settime(timer, 0, &every_10_ms, NULL), "timerfd_settime");
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    must_system(epoll, "epoll_create1");
    watch(epoll, timer);
    watch(epoll, queue_fd);

    unsigned ticks = 0;
    while (ticks < TICKS || bitkv_cq_pending(cq) > 0) {
        struct epoll_event events[2];
        int count = epoll_wait(epoll, events, 2, 10000);
        if (count < 0 && errno == EINTR) /* io_uring interrupts waits, as signals do */
            continue;
        must_system(count, "epoll_wait");
        for (int i = 0; i < count; i++) {
            unsigned long long expirations;
            if (events[i].data.fd == queue_fd)
                reap(cq);
            else if (read(timer, &expirations, sizeof expirations) > 0 && ticks < TICKS)
                submit_writes(cq, ticks++);
        }
    }
    printf("%u writes completed in %u ticks\n", completed, ticks);

    close(epoll);
    close(timer);
    must(bitkv_cq_destroy(cq), "destroy the queue");
    must(bitkv_close(db), "close");
    return completed == TICKS * BATCH ? 0 : 1;
}
