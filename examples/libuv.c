/* SPDX-License-Identifier: MIT */
/*
 * A queue in a libuv loop: a uv_poll_t watches its descriptor. Each write that
 * has completed submits the read of its key, from its callback.
 *
 *     libuv [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define KEYS 100u

static void must(int status, const char *what)
{
    if (status >= 0)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static void must_uv(int status, const char *what)
{
    if (status >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, uv_strerror(status));
    exit(1);
}

static unsigned keys[KEYS];
static unsigned right, completed;

static void was_read(bitkv_cq *cq, const bitkv_completion *completion)
{
    (void)cq;
    const unsigned *key = completion->user_data;
    must(completion->status, "read");
    right +=
        completion->value_size == sizeof *key && memcmp(completion->value, key, sizeof *key) == 0;
    bitkv_free(completion->value);
    completed++;
}

static void was_written(bitkv_cq *cq, const bitkv_completion *completion)
{
    unsigned *key = completion->user_data;
    must(completion->status, "write");
    bitkv_op op = {.kind = BITKV_OP_GET,
                   .key = key,
                   .key_size = sizeof *key,
                   .callback = was_read,
                   .user_data = key};
    must(bitkv_cq_submit(cq, &op, 1, NULL), "submit");
    completed++;
}

/* Until nothing is left; then there is nothing to watch, and the loop ends. */
static void readable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    bitkv_cq *cq = poll->data;
    must_uv(status, "uv_poll");
    bitkv_completion unused; /* all have callbacks */
    unsigned before;
    do {
        before = completed;
        must(bitkv_cq_poll(cq, &unused, 1), "poll");
    } while (completed > before);
    if (bitkv_cq_pending(cq) == 0)
        uv_close((uv_handle_t *)poll, NULL);
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-libuv.db", NULL), "open");
    bitkv_cq *cq;
    must(bitkv_cq_create(&cq, db, NULL), "create a queue");
    int fd = bitkv_cq_fd(cq);
    must(fd, "descriptor of the queue");

    uv_loop_t *loop = uv_default_loop();
    uv_poll_t poll = {.data = cq};
    must_uv(uv_poll_init(loop, &poll, fd), "uv_poll_init");
    must_uv(uv_poll_start(&poll, UV_READABLE, readable), "uv_poll_start");

    bitkv_op ops[KEYS];
    for (unsigned i = 0; i < KEYS; i++) {
        keys[i] = i;
        ops[i] = (bitkv_op){.kind = BITKV_OP_PUT,
                            .key = &keys[i],
                            .key_size = sizeof keys[i],
                            .value = &keys[i],
                            .value_size = sizeof keys[i],
                            .durability = BITKV_DURABILITY_SYNC,
                            .callback = was_written,
                            .user_data = &keys[i]};
    }
    must(bitkv_cq_submit(cq, ops, KEYS, NULL), "submit"); /* an empty queue has room */
    must_uv(uv_run(loop, UV_RUN_DEFAULT), "uv_run");
    must_uv(uv_loop_close(loop), "uv_loop_close");
    printf("%u of %u right\n", right, KEYS);

    must(bitkv_cq_destroy(cq), "destroy the queue");
    must(bitkv_close(db), "close");
    return right == KEYS ? 0 : 1;
}
