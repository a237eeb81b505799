/* SPDX-License-Identifier: MIT */
#include "async.h"

#include "child.h"
#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ------------------------------------------------------------------ */
/* The database                                                        */
/* ------------------------------------------------------------------ */

bool bench_async_begin(struct bench_async *async, const struct bench_options *options,
                       uint64_t keys, size_t value_size)
{
    async->directory = options->child_directory;
    async->key_stride = (options->key_size + 7) / 8;
    async->value_stride = (value_size + 7) / 8;
    async->keys = calloc(BENCH_ASYNC_DEPTH_MAX * async->key_stride, sizeof(uint64_t));
    async->values = calloc(BENCH_ASYNC_DEPTH_MAX * async->value_stride, sizeof(uint64_t));
    if (!bench_workload_init(&async->workload, keys, options->key_size, value_size, options->seed,
                             true) ||
        async->keys == NULL || async->values == NULL)
        return bench_report_error("out of memory");
    return true;
}

bool bench_async_end(struct bench_async *async, bool done)
{
    if (async->db != NULL)
        done = bench_async_close(async) && done;
    bench_workload_free(&async->workload);
    free(async->keys);
    free(async->values);
    return done;
}

bool bench_async_open(struct bench_async *async, bitkv_backend backend)
{
    bitkv_options options;

    bitkv_options_init(&options);
    options.durability = BITKV_DURABILITY_NONE;
    options.backend = backend;
    if (bitkv_open(&async->db, async->directory, &options) != BITKV_OK)
        return bench_report_error("open: %s", bitkv_error_context());
    if (bitkv_cq_create(&async->cq, async->db, NULL) != BITKV_OK)
        return bench_report_error("queue: %s", bitkv_error_context());
    return true;
}

bool bench_async_close(struct bench_async *async)
{
    const int destroyed = bitkv_cq_destroy(async->cq);
    const int closed = bitkv_close(async->db);

    async->cq = NULL;
    async->db = NULL;
    if (destroyed != BITKV_OK || closed != BITKV_OK)
        return bench_report_error("close: %s", bitkv_error_context());
    return true;
}

bool bench_async_has_backend(const struct bench_async *async, bitkv_backend backend)
{
    return bitkv_cq_backend(async->cq, NULL) == backend;
}

bool bench_async_fill(struct bench_async *async)
{
    struct bench_workload *workload = &async->workload;

    for (uint64_t id = 0; id < workload->keys; id++) {
        bench_key(workload, id, async->keys);
        bench_value(workload, bench_stamp(id, ++workload->versions[id]), async->values);
        if (bitkv_put(async->db, async->keys, workload->key_size, async->values,
                      workload->value_size) != BITKV_OK)
            return bench_report_error("fill: %s", bitkv_error_context());
    }
    return true;
}

bool bench_async_seal(struct bench_async *async)
{
    static const unsigned char filler[1 << 16];
    bitkv_statistics statistics;
    bitkv_options options;
    uint64_t count;

    bitkv_options_init(&options);
    bitkv_statistics_init(&statistics);
    if (bitkv_stats(async->db, BITKV_ALL_PARTITIONS, &statistics) != BITKV_OK)
        return bench_report_error("stats: %s", bitkv_error_context());
    /* A quarter more than a segment for each partition, on an average. */
    count = statistics.partitions * options.max_file_size / sizeof(filler) * 5 / 4;
    for (uint64_t i = 0; i < count; i++) {
        bench_key(&async->workload, BENCH_ID_ABSENT + i, async->keys);
        if (bitkv_put(async->db, async->keys, async->workload.key_size, filler, sizeof(filler)) !=
            BITKV_OK)
            return bench_report_error("fill: %s", bitkv_error_context());
    }
    return true;
}

bool bench_async_verify(struct bench_async *async, const char *when)
{
    const struct bench_workload *workload = &async->workload;
    uint64_t wrong = 0;

    for (uint64_t id = 0; id < workload->keys; id++) {
        const struct bench_op op = {(uint32_t)id, workload->versions[id]};
        size_t size = 0;

        bench_key(workload, id, async->keys);
        if (bitkv_get_into(async->db, async->keys, workload->key_size, async->values,
                           workload->value_size, &size) != BITKV_OK ||
            !bench_value_right(workload, op, async->values, size, true))
            wrong++;
    }
    if (wrong != 0)
        bench_report_wrong(wrong, when);
    return true;
}

/* ------------------------------------------------------------------ */
/* Operations                                                          */
/* ------------------------------------------------------------------ */

static inline void judge_value(struct bench_async *async, struct bench_op op, const void *value,
                               size_t size)
{
    if (!bench_value_right(&async->workload, op, value, size,
                           async->judged++ % BENCH_FULL_COMPARE == 0))
        async->wrong++;
}

bool bench_async_single(struct bench_async *async, const struct bench_op *ops, size_t count,
                        bitkv_durability durability, struct bench_histogram *histogram)
{
    const struct bench_workload *workload = &async->workload;

    for (size_t i = 0; i < count; i++) {
        const bool put = (ops[i].what & BENCH_OP_PUT) != 0;
        size_t size = 0;
        uint64_t ticks = 0;
        int code;

        bench_key(workload, ops[i].id, async->keys);
        if (put)
            bench_value(workload, bench_stamp(ops[i].id, ops[i].what & BENCH_OP_VERSION),
                        async->values);
        if (histogram != NULL)
            ticks = bench_tick_begin();
        if (!put)
            code = bitkv_get_into(async->db, async->keys, workload->key_size, async->values,
                                  workload->value_size, &size);
        else if (durability == BITKV_DURABILITY_DEFAULT)
            code = bitkv_put(async->db, async->keys, workload->key_size, async->values,
                             workload->value_size);
        else
            code = bitkv_put_with(async->db, async->keys, workload->key_size, async->values,
                                  workload->value_size, durability);
        if (histogram != NULL)
            bench_histogram_add(histogram, bench_tick_end() - ticks);
        if (code < 0)
            return bench_report_error("%s: %s", put ? "put" : "get", bitkv_error_context());
        if (code != BITKV_OK)
            async->wrong++;
        else if (!put)
            judge_value(async, ops[i], async->values, size);
    }
    return true;
}

void bench_async_prepare(struct bench_async *async, unsigned slot, bitkv_op *op,
                         struct bench_op what, bitkv_durability durability)
{
    const struct bench_workload *workload = &async->workload;
    uint64_t *key = async->keys + slot * async->key_stride;
    uint64_t *value = async->values + slot * async->value_stride;

    async->slots[slot].op = what;
    bench_key(workload, what.id, key);
    *op = (bitkv_op){.kind = BITKV_OP_GET,
                     .key = key,
                     .key_size = workload->key_size,
                     .durability = durability,
                     .user_data = &async->slots[slot]};
    if ((what.what & BENCH_OP_PUT) != 0) {
        bench_value(workload, bench_stamp(what.id, what.what & BENCH_OP_VERSION), value);
        op->kind = BITKV_OP_PUT;
        op->value = value;
        op->value_size = workload->value_size;
    } else {
        op->buffer = value;
        op->buffer_size = workload->value_size;
    }
}

bool bench_async_judge(struct bench_async *async, const bitkv_completion *completion)
{
    const struct bench_async_slot *slot = completion->user_data;

    if (completion->status < 0)
        return bench_report_error("asynchronous %s: %s",
                                  completion->kind == BITKV_OP_PUT ? "put" : "get",
                                  completion->error);
    if (completion->status != BITKV_OK)
        async->wrong++;
    else if (completion->kind == BITKV_OP_GET)
        judge_value(async, slot->op, completion->value, completion->value_size);
    return true;
}

bool bench_async_batches(struct bench_async *async, const struct bench_op *ops, size_t count,
                         unsigned depth, struct bench_histogram *histogram)
{
    for (size_t i = 0; i < count; i += depth) {
        const unsigned batch = count - i < depth ? (unsigned)(count - i) : depth;
        uint64_t ticks = 0;
        unsigned reaped = 0;

        for (unsigned j = 0; j < batch; j++)
            bench_async_prepare(async, j, &async->ops[j], ops[i + j], BITKV_DURABILITY_DEFAULT);
        if (histogram != NULL)
            ticks = bench_tick_begin();
        if (bitkv_cq_submit(async->cq, async->ops, batch, NULL) != (int)batch)
            return bench_report_error("submit: %s", bitkv_error_context());
        while (reaped < batch) {
            const int taken =
                bitkv_cq_wait(async->cq, async->completions + reaped, batch - reaped, -1);

            if (taken < 0)
                return bench_report_error("wait: %s", bitkv_error_context());
            reaped += (unsigned)taken;
        }
        if (histogram != NULL)
            bench_histogram_add(histogram, bench_tick_end() - ticks);
        for (unsigned j = 0; j < batch; j++) {
            if (!bench_async_judge(async, &async->completions[j]))
                return false;
        }
    }
    return true;
}

bool bench_async_flight(struct bench_async *async, const struct bench_op *ops, size_t count,
                        unsigned depth, bitkv_durability durability,
                        struct bench_histogram *histogram)
{
    unsigned vacant[BENCH_ASYNC_DEPTH_MAX];
    unsigned vacancies = depth;
    size_t submitted = 0, done = 0;

    for (unsigned i = 0; i < depth; i++)
        vacant[i] = i;
    while (done < count) {
        unsigned fresh = 0;
        uint64_t ticks;
        int taken;

        for (; vacancies > 0 && submitted < count; fresh++)
            bench_async_prepare(async, vacant[--vacancies], &async->ops[fresh], ops[submitted++],
                                durability);
        ticks = bench_tick_begin();
        for (unsigned j = 0; j < fresh; j++)
            ((struct bench_async_slot *)async->ops[j].user_data)->ticks = ticks;
        if (fresh > 0 && bitkv_cq_submit(async->cq, async->ops, fresh, NULL) != (int)fresh)
            return bench_report_error("submit: %s", bitkv_error_context());
        taken = bitkv_cq_wait(async->cq, async->completions, BENCH_ASYNC_DEPTH_MAX, -1);
        if (taken < 0)
            return bench_report_error("wait: %s", bitkv_error_context());
        ticks = bench_tick_end();
        for (int j = 0; j < taken; j++) {
            const struct bench_async_slot *slot = async->completions[j].user_data;

            bench_histogram_add(histogram, ticks - slot->ticks);
            if (!bench_async_judge(async, &async->completions[j]))
                return false;
            vacant[vacancies++] = (unsigned)(slot - async->slots);
        }
        done += (unsigned)taken;
    }
    return true;
}

void bench_async_report_wrong(struct bench_async *async, const char *name)
{
    if (async->wrong != 0)
        bench_report_wrong(async->wrong, name);
    async->wrong = 0;
}

void bench_async_report_rate(struct bench_async *async, const char *name, size_t count,
                             uint64_t start_ns)
{
    bench_report_figure(name, (double)count * 1e9 / (double)(bench_now_ns() - start_ns));
    bench_async_report_wrong(async, name);
}

void bench_async_report_latency(const char *name, const struct bench_histogram *histogram)
{
    const struct bench_percentiles p = bench_histogram_percentiles(histogram);
    char figure[96];

    (void)snprintf(figure, sizeof(figure), "%s.p50_ns", name);
    bench_report_figure(figure, p.p50_ns);
    (void)snprintf(figure, sizeof(figure), "%s.p99_ns", name);
    bench_report_figure(figure, p.p99_ns);
    (void)snprintf(figure, sizeof(figure), "%s.p999_ns", name);
    bench_report_figure(figure, p.p999_ns);
    (void)snprintf(figure, sizeof(figure), "%s.max_ns", name);
    bench_report_figure(figure, p.max_ns);
}

struct bench_op *bench_async_apart(struct bench_workload *workload, uint64_t keys, unsigned spacing,
                                   size_t *count)
{
    struct bench_op *ops;

    *count = (size_t)(keys / spacing);
    ops = malloc((*count + 1) * sizeof(*ops));
    if (ops == NULL)
        return NULL;
    for (size_t i = 0; i < *count; i++) {
        /* Of the first half of each: two neighbours are half a spacing apart. */
        const uint64_t id = i * spacing + bench_random_below(&workload->random, spacing / 2);

        ops[i] = (struct bench_op){(uint32_t)id, workload->versions[id]};
    }
    for (size_t i = *count; i > 1; i--) {
        const size_t j = (size_t)bench_random_below(&workload->random, i);
        const struct bench_op op = ops[j];

        ops[j] = ops[i - 1];
        ops[i - 1] = op;
    }
    return ops;
}

/* ------------------------------------------------------------------ */
/* The page cache                                                      */
/* ------------------------------------------------------------------ */

static bool is_data_file(const char *name)
{
    const size_t length = strlen(name);

    return strncmp(name, "data_", 5) == 0 && length > 3 && strcmp(name + length - 3, ".db") == 0;
}

/* Calls back for every data file. */
static void each_data_file(const char *directory, void (*file_cb)(void *user, const char *path),
                           void *user)
{
    for (unsigned partition = 0; partition < BITKV_PARTITIONS_MAX; partition++) {
        char path[4096];
        DIR *stream;
        const struct dirent *entry;

        (void)snprintf(path, sizeof(path), "%s/partition_%u", directory, partition);
        stream = opendir(path);
        if (stream == NULL)
            return;
        while ((entry = readdir(stream)) != NULL) {
            if (!is_data_file(entry->d_name))
                continue;
            (void)snprintf(path, sizeof(path), "%s/partition_%u/%s", directory, partition,
                           entry->d_name);
            file_cb(user, path);
        }
        (void)closedir(stream);
    }
}

static void drop_file(void *user, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool *done = user;

    if (fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        *done = false;
    if (fd >= 0)
        (void)close(fd);
}

const char *bench_async_drop_caches(const char *directory)
{
    const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    bool done = false;

    sync(); /* what is dirty is not dropped */
    if (fd >= 0) {
        done = write(fd, "3", 1) == 1;
        (void)close(fd);
    }
    if (done)
        return "dropped as a whole (/proc/sys/vm/drop_caches)";
    done = true;
    each_data_file(directory, drop_file, &done);
    if (done)
        return "dropped file by file (posix_fadvise)";
    (void)bench_report_error("the page cache cannot be dropped: %s", strerror(errno));
    return NULL;
}

static void read_file(void *user, const char *path)
{
    static char buffer[1 << 20];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);

    (void)user;
    while (fd >= 0 && read(fd, buffer, sizeof(buffer)) > 0) {
    }
    if (fd >= 0)
        (void)close(fd);
}

void bench_async_read_files(const char *directory)
{
    each_data_file(directory, read_file, NULL);
}

struct names {
    char *text;
    size_t length;
};

static void add_name(void *user, const char *path)
{
    struct names *names = user;
    char *text = realloc(names->text, names->length + 2 * strlen(path) + 2);

    if (text == NULL)
        return;
    names->text = text;
    if (names->length > 0)
        text[names->length++] = ':';
    for (; *path != '\0'; path++) {
        if (*path == ':')
            text[names->length++] = '\\';
        text[names->length++] = *path;
    }
    text[names->length] = '\0';
}

char *bench_async_files(const char *directory)
{
    struct names names = {0};

    each_data_file(directory, add_name, &names);
    return names.text;
}

void bench_async_settle(void)
{
    uint64_t before_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);

    for (unsigned i = 0; i < 50; i++) {
        uint64_t now_ns;

        (void)usleep(200000);
        now_ns = bench_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (now_ns - before_ns < 1000000)
            return;
        before_ns = now_ns;
    }
}
