/* SPDX-License-Identifier: MIT */
/*
 * Backups of 1 GB on the same file system, in the page cache: the first one, the
 * next after one key in a hundred was overwritten, and one that shares no files;
 * beside `cp -r`, and `cp -r` with what makes it as durable as a backup is.
 */
#include "child.h"
#include "clock.h"
#include "life.h"
#include "tasks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA_BYTES 1e9

struct backup {
    const struct bench_options *options;
    struct bench_life life;
    const char *base;
    char database[4096];
};

static void place(const struct backup *b, const char *name, char *path, size_t size)
{
    (void)snprintf(path, size, "%s/%s", b->base, name);
}

static bool sync_base(const struct backup *b)
{
    const int fd = open(b->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool done = fd >= 0 && syncfs(fd) == 0;

    if (fd >= 0)
        (void)close(fd);
    return done || bench_report_error("backup: cannot sync: %s", strerror(errno));
}

/* What others have left dirty is not this one's to write. */
static bool prepare(struct backup *b)
{
    if (!bench_life_settle(&b->life) || !sync_base(b))
        return false;
    bench_life_warm(b->options, b->life.workload.keys);
    return true;
}

static bool back_up(struct backup *b, const char *target, const char *figure, bool no_links)
{
    bitkv_backup_options options;
    bitkv_backup_report report = {0};
    char path[4096], name[64];
    uint64_t start_ns;

    if (!prepare(b))
        return false;
    place(b, target, path, sizeof(path));
    bitkv_backup_options_init(&options);
    options.no_links = no_links;
    options.report = &report;
    start_ns = bench_now_ns();
    if (bitkv_backup(b->life.db, path, &options) != BITKV_OK)
        return bench_report_error("backup: %s", bitkv_error_context());
    bench_life_figure("backup", figure, (double)(bench_now_ns() - start_ns) * 1e-9);
    (void)snprintf(name, sizeof(name), "%s.copied", figure);
    bench_life_figure("backup", name, (double)report.bytes_copied);
    (void)snprintf(name, sizeof(name), "%s.linked", figure);
    bench_life_figure("backup", name, (double)report.bytes_linked);
    return true;
}

static bool run_cp(const char *from, const char *to)
{
    int status = -1;
    const pid_t child = fork();

    if (child == 0) {
        (void)execlp("cp", "cp", "-r", from, to, (char *)NULL);
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return (WIFEXITED(status) && WEXITSTATUS(status) == 0) || bench_report_error("cp -r failed");
}

static bool copy(struct backup *b)
{
    char path[4096];
    uint64_t start_ns, bytes;

    if (!prepare(b))
        return false;
    place(b, "copy", path, sizeof(path));
    start_ns = bench_now_ns();
    if (!run_cp(b->database, path))
        return false;
    bench_life_figure("backup", "cp", (double)(bench_now_ns() - start_ns) * 1e-9);
    if (!sync_base(b))
        return false;
    bench_life_figure("backup", "cp-synced", (double)(bench_now_ns() - start_ns) * 1e-9);
    bytes = bench_life_disk_bytes(path);
    bench_life_figure("backup", "cp.copied", (double)bytes);
    bench_remove_tree(path);
    return true;
}

/* That the last one is what the database is. */
static bool check(struct backup *b)
{
    bitkv_options options;
    bitkv *db = b->life.db;
    char path[4096];
    bool done;

    place(b, "linked", path, sizeof(path));
    bitkv_options_init(&options);
    options.read_only = true;
    if (bitkv_open(&b->life.db, path, &options) != BITKV_OK) {
        b->life.db = db;
        return bench_report_error("backup: open: %s", bitkv_error_context());
    }
    done = bench_life_verify(&b->life);
    done = bench_life_close(&b->life) && done;
    b->life.db = db;
    return done;
}

int bench_task_backup(const struct bench_options *options, const struct bench_engine *engine)
{
    static struct backup b;
    const uint64_t keys = bench_life_keys(options, DATA_BYTES);
    bool done;

    (void)engine;
    b.options = options;
    b.base = options->child_directory;
    place(&b, "database", b.database, sizeof(b.database));
    done = bench_life_begin(&b.life, options, "backup", keys) &&
           bench_life_open(&b.life, b.database, true, 0);
    if (done)
        bench_life_warm(options, keys);
    done = done && bench_life_fill(&b.life) && back_up(&b, "linked", "first", false) && copy(&b) &&
           back_up(&b, "copied", "first-no-links", true) &&
           bench_life_overwrite(&b.life, keys / 100, 2) &&
           back_up(&b, "linked", "incremental", false) &&
           back_up(&b, "copied", "incremental-no-links", true) && check(&b);
    return bench_life_end(&b.life, done) ? EXIT_SUCCESS : EXIT_FAILURE;
}
