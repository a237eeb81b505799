/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing.
 *
 *   open: options -> directory, locked -> MANIFEST (made, if missing)
 *         -> I/O mode -> partitions, all recovering at once
 *
 * The lock is flock() on the directory itself: held by the kernel, so that a
 * crash leaves none behind, and there is no lock file that somebody could
 * delete. A writer takes it; read-only openers take none and need none
 * (partition/follow.c).
 *
 * The MANIFEST is written last: a creation that was interrupted leaves empty
 * partition directories, which the next one takes over. Data files without a
 * MANIFEST are a damaged database, never an empty one.
 *
 * Every step that fails undoes those before it, in reverse order.
 */
#include "db/backend.h"
#include "db/cq.h"
#include "db/feed.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/memory.h"
#include "base/schedule.h"
#include "db/io_mode.h"
#include "db/long_call.h"
#include "db/options.h"
#include "db/snapshot.h"
#include "io/io.h"
#include "io/mapping.h"
#include "log/filename.h"
#include "log/marker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Descriptors that a partition cannot do without, and that everything else in
 * the process gets by with. */
#define DESCRIPTORS_OF_PARTITION 2u
#define DESCRIPTORS_BESIDE       16u

/* How often a directory is opened anew that was replaced meanwhile. */
#define DIRECTORY_TRIES 100u

/* --- the directory ---------------------------------------------------------------------- */

/* Makes the entry of the directory durable; `lenient`: if we may. */
static int sync_parent(const struct bkv_dir *dir, bool lenient)
{
    int fd = bkv_dir_descriptor(dir->fd, "..", 0);
    if (fd < 0 && lenient && (errno == EACCES || errno == EPERM))
        return BITKV_OK;
    if (fd < 0)
        return bkv_error_sys(errno, "cannot open the parent directory of %s", dir->path);
    int rc = BITKV_OK;
    if (bkv_io->fsync(fd) != 0)
        rc = bkv_error_sys(errno, "cannot sync the parent directory of %s", dir->path);
    (void)bkv_io->close(fd);
    return rc;
}

static int open_directory(struct bkv_dir *dir, const char *path, const bitkv_options *options)
{
    dir->file_mode = (mode_t)options->file_mode;
    dir->dir_mode = (mode_t)options->directory_mode;
    bool create = options->create_if_missing && !options->read_only;
    bool made = create && bkv_io->mkdirat(AT_FDCWD, path, dir->dir_mode) == 0;
    if (create && !made && errno == ENOENT)
        return bkv_error(BITKV_ERR_NO_DATABASE,
                         "cannot create %s: its parent directory does not exist; create that first",
                         path);
    if (create && !made && errno != EEXIST)
        return bkv_error_sys(errno, "cannot create directory %s", path);
    dir->fd = bkv_dir_descriptor(AT_FDCWD, path, 0);
    if (dir->fd < 0) {
        int code = bkv_error_sys(errno, "cannot open directory %s", path);
        if (errno == ENOTDIR)
            return bkv_error(BITKV_ERR_INVALID, "%s is not a directory", path);
        if (errno == ENOENT)
            return bkv_error(BITKV_ERR_NO_DATABASE, "%s does not exist%s", path,
                             options->read_only ? "; read-only openings create none"
                                                : "; create_if_missing = true makes one");
        return code;
    }
    char *absolute = realpath(path, NULL);
    dir->path = bkv_strdup(absolute != NULL ? absolute : path);
    free(absolute);
    if (dir->path == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to open %s", path);
    return made ? sync_parent(dir, false) : BITKV_OK;
}

static void close_directory(struct bkv_dir *dir)
{
    if (dir->fd >= 0) {
        /* Given up by name: a child that was forked a moment ago, or without
         * handlers, may have a copy of the descriptor that would keep it. */
        (void)bkv_io->flock(dir->fd, LOCK_UN);
        (void)bkv_io->close(dir->fd);
    }
    dir->fd = -1;
    bkv_mfree(dir->path);
    dir->path = NULL;
}

static int lock_directory(const struct bkv_dir *dir)
{
    int result;
    do
        result = bkv_io->flock(dir->fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return BITKV_OK;
    if (errno == EWOULDBLOCK)
        return bkv_error(BITKV_ERR_LOCKED,
                         "%s is open in another process, or twice in this one; close it there, or "
                         "open it read-only here",
                         dir->path);
    return bkv_error_sys(errno, "cannot lock %s", dir->path);
}

int bkv_directory_is(const struct bkv_dir *dir, const char *path, bool *same)
{
    *same = false;
    int fd = bkv_dir_descriptor(AT_FDCWD, path, 0);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? BITKV_OK
                   : bkv_error_sys(errno, "cannot open directory %s", path);
    struct stat now;
    struct stat opened;
    int rc = BITKV_OK;
    if (bkv_io->fstat(fd, &now) != 0 || bkv_io->fstat(dir->fd, &opened) != 0)
        rc = bkv_error_sys(errno, "cannot stat directory %s", path);
    else
        *same = now.st_dev == opened.st_dev && now.st_ino == opened.st_ino;
    (void)bkv_io->close(fd);
    return rc;
}

/* Between opening and locking, another directory may have taken this one's
 * place (bitkv_repartition(), bitkv_backup()), and this one be on its way out:
 * who has the lock and finds the name unchanged has the right one. */
static int open_locked(struct bkv_dir *dir, const char *path, const bitkv_options *options,
                       bool lock)
{
    for (unsigned i = 0; i < DIRECTORY_TRIES; i++) {
        bool same = false;
        int rc = open_directory(dir, path, options);
        if (rc == BITKV_OK && lock)
            rc = lock_directory(dir);
        if (rc == BITKV_OK)
            rc = bkv_directory_is(dir, path, &same);
        if (rc != BITKV_OK || same)
            return rc;
        close_directory(dir);
    }
    return bkv_error(BITKV_ERR_LOCKED, "%s is replaced by another directory again and again", path);
}

/* --- the database in it -------------------------------------------------------------------- */

static uint32_t cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : (uint32_t)bkv_min64((uint64_t)count, BITKV_PARTITIONS_MAX);
}

static int make_partitions(struct bkv_dir *dir, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        char name[BKV_NAME_SIZE];
        bkv_name_partition(name, i);
        if (bkv_io->mkdirat(dir->fd, name, dir->dir_mode) != 0 && errno != EEXIST)
            return bkv_error_sys(errno, "cannot create directory %s/%s", dir->path, name);
    }
    return bkv_dir_sync(dir, NULL);
}

/* A partition that is written holds its directory and its tail, and a spare now
 * and then. Refused here, rather than by the first write that finds none. */
static int check_descriptors(const struct bkv_dir *dir, const bitkv_options *options,
                             uint32_t partitions)
{
    struct rlimit limit;
    if (options->read_only || getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY)
        return BITKV_OK;
    uint64_t needed = DESCRIPTORS_OF_PARTITION * (uint64_t)partitions + DESCRIPTORS_BESIDE;
    if (needed <= limit.rlim_cur)
        return BITKV_OK;
    return bkv_error(BITKV_ERR_TOO_MANY_FILES,
                     "%s: %" PRIu32 " partitions need %" PRIu64 " descriptors and the limit is "
                     "%" PRIu64 "; raise `ulimit -n`, or take fewer partitions",
                     dir->path, partitions, needed, (uint64_t)limit.rlim_cur);
}

static int create_database(struct bkv_dir *dir, const bitkv_options *options,
                           struct bkv_manifest *manifest)
{
    int rc =
        bkv_manifest_init(manifest, options->partitions != 0 ? options->partitions : cpu_count());
    if (rc == BITKV_OK)
        rc = check_descriptors(dir, options, manifest->partitions);
    if (rc == BITKV_OK)
        rc = make_partitions(dir, manifest->partitions);
    if (rc == BITKV_OK)
        rc = bkv_manifest_write(dir, manifest);
    return rc;
}

/* A process that died may have left names that are not durable: of a database that it
 * had just made, or had put in another's place. What is written here with a sync must
 * not be lost with them. A parent that may not be read is somebody else's to sync. */
static int settle_names(struct bkv_dir *dir)
{
    int rc = bkv_dir_sync(dir, NULL);
    return rc == BITKV_OK ? sync_parent(dir, true) : rc;
}

static int read_or_create(struct bkv_dir *dir, const bitkv_options *options,
                          struct bkv_manifest *manifest)
{
    int rc = bkv_manifest_read(dir, manifest);
    if (rc == BITKV_NOT_FOUND) {
        rc = bkv_manifest_missing(dir);
        if (rc != BITKV_OK)
            return rc;
        if (!options->create_if_missing || options->read_only)
            return bkv_error(BITKV_ERR_NO_DATABASE, "%s has no " BKV_MANIFEST_NAME "%s", dir->path,
                             options->read_only ? "; read-only openings create none"
                                                : "; create_if_missing = true makes one");
        return create_database(dir, options, manifest);
    }
    if (rc != BITKV_OK)
        return rc;
    if (options->error_if_exists)
        return bkv_error(BITKV_ERR_EXISTS,
                         "%s has a database already; error_if_exists = false opens it", dir->path);
    if (options->partitions != 0 && options->partitions != manifest->partitions)
        return bkv_error(BITKV_ERR_PARTITION_COUNT,
                         "%s was created with %" PRIu32 " partitions and is opened with %" PRIu32
                         "; 0 takes what it has",
                         dir->path, manifest->partitions, options->partitions);
    return check_descriptors(dir, options, manifest->partitions);
}

/* Shares of each partition. Descriptors bound the open segments with pwrite; a
 * mapping needs none, but the kernel has a limit of mappings (vm.max_map_count,
 * 65,530). Half of the descriptors are the program's, a sixth is for
 * full segments that wait for their sync. */
static void set_shares(struct bkv_store *store)
{
    uint32_t partitions = store->manifest.partitions;
    struct rlimit limit = {.rlim_cur = 1024};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    uint64_t half = bkv_min64(limit.rlim_cur, 8192) / 2;
    uint64_t total = store->options.max_open_segments;
    if (total == 0) {
        uint64_t needed = 5ull * partitions; /* directories, tails, spares, work in progress */
        total = store->mapped ? 16384 : (half > needed ? half - needed : 0);
    }
    store->open_segments_max =
        (uint32_t)bkv_max64(1, bkv_min64(total / partitions, BKV_SEGMENTS_MAX));
    /* What waits for its sync is lost space, too: no more than about 1 GiB. */
    uint64_t waiting = bkv_max64(8, (1u << 30) / store->options.max_file_size);
    store->sealed_max = (uint32_t)bkv_max64(1, bkv_min64(half / 3 / partitions, waiting));
    store->readers_max = half;
}

/* --- the partitions -------------------------------------------------------------------------- */

static void stop_partitions(struct bitkv *db)
{
    for (uint32_t i = 0; i < db->partition_count; i++) {
        if (db->partitions[i] != NULL)
            (void)bkv_partition_stop(db->partitions[i], false);
        db->partitions[i] = NULL;
    }
}

/* All that were started have reached the stage; the first failure is told. */
static int await_partitions(struct bitkv *db, enum bkv_opening stage, int rc, char *context)
{
    for (uint32_t i = 0; i < db->partition_count && db->partitions[i] != NULL; i++) {
        int one = bkv_partition_await(db->partitions[i], stage);
        if (one != BITKV_OK && rc == BITKV_OK) {
            rc = one;
            (void)snprintf(context, BKV_ERROR_CONTEXT_SIZE, "%s", bitkv_error_context());
        }
    }
    return rc;
}

static void leave_partitions(struct bitkv *db, enum bkv_opening stage)
{
    for (uint32_t i = 0; i < db->partition_count; i++)
        bkv_partition_leave(db->partitions[i], stage);
}

/* In stages: what becomes of a batch depends on all partitions in which it lies. */
static int start_partitions(struct bitkv *db)
{
    uint32_t count = db->partition_count;
    int rc = BITKV_OK;
    for (uint32_t i = 0; i < count && rc == BITKV_OK; i++)
        rc = bkv_partition_start(&db->partitions[i], &db->store, i);
    char context[BKV_ERROR_CONTEXT_SIZE] = "";
    if (rc != BITKV_OK)
        (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    rc = await_partitions(db, BKV_OPENING_READ, rc, context);
    if (rc == BITKV_OK) {
        rc = bkv_partitions_decide(db->partitions, count);
        (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    }
    if (rc == BITKV_OK) {
        leave_partitions(db, BKV_OPENING_READ);
        rc = await_partitions(db, BKV_OPENING_RECOVERED, rc, context);
    }
    if (rc == BITKV_OK) {
        leave_partitions(db, BKV_OPENING_RECOVERED);
        return BITKV_OK;
    }
    stop_partitions(db);
    return bkv_error(rc, "%s", context);
}

static int guard_sigbus(struct bitkv *db)
{
    if (!db->store.mapped)
        return BITKV_OK;
    int rc = bkv_sigbus_guard_acquire();
    db->guarded = rc == BITKV_OK;
    return rc;
}

/* A copy of a backup may have left out files, or parts of them, that nothing misses
 * among those that it has. */
static int check_backup(struct bkv_store *store)
{
    bool known;
    struct bkv_contents had;
    struct bkv_contents has;
    int rc = bkv_contents_compare(&store->dir, store->manifest.partitions, &known, &had, &has);
    if (rc != BITKV_OK || !known || bkv_contents_same(&had, &has))
        return rc;
    rc = bkv_error(BITKV_ERR_CORRUPT,
                   "the backup %s was made with %" PRIu64 " data files of %" PRIu64
                   " bytes, and has %" PRIu64 " of %" PRIu64 "; copy it again",
                   store->dir.path, had.files, had.bytes, has.files, has.bytes);
    if (store->options.strict_recovery)
        return rc;
    bkv_log(store, BITKV_LOG_WARNING, "%s", bitkv_error_context());
    return BITKV_OK;
}

/* A backup that is written to is a database of its own from here on: no later
 * backup may take its place (log/marker.h). */
static int leave_backup(struct bkv_dir *dir)
{
    if (bkv_io->unlinkat(dir->fd, BKV_BACKUP_NAME) == 0)
        return bkv_dir_sync(dir, NULL);
    return errno == ENOENT ? BITKV_OK
                           : bkv_error_sys(errno, "cannot remove %s/" BKV_BACKUP_NAME, dir->path);
}

/* How often partitions are started when files that were listed have gone since: the
 * writer compacts. */
#define START_TRIES 20u

/* The partitions were read one by one, while a writer may have gone on: only a
 * refresh brings all of them to one state. */
static int catch_up(struct bitkv *db)
{
    int rc = bkv_store_catch_up(&db->store);
    if (rc == BITKV_OK)
        return BITKV_OK;
    char context[BKV_ERROR_CONTEXT_SIZE];
    (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
    stop_partitions(db);
    return bkv_error(rc, "%s", context);
}

static int open_in(struct bitkv *db)
{
    struct bkv_store *store = &db->store;
    int rc = read_or_create(&store->dir, &store->options, &store->manifest);
    if (rc == BITKV_OK)
        rc = check_backup(store);
    if (rc == BITKV_OK && !store->options.read_only)
        rc = leave_backup(&store->dir);
    if (rc == BITKV_OK && !store->options.read_only)
        rc = settle_names(&store->dir);
    if (rc == BITKV_OK)
        rc = bkv_io_mode_choose(&store->dir, store->options.io_mode, &store->mapped,
                                db->io_mode_reason, sizeof db->io_mode_reason);
    if (rc == BITKV_OK)
        rc = guard_sigbus(db);
    if (rc != BITKV_OK)
        return rc;
    bkv_backend_choose(db);
    db->hash_key = store->manifest.hash_key;
    db->partition_count = store->manifest.partitions;
    set_shares(store);
    db->partitions = bkv_calloc(db->partition_count, sizeof *db->partitions);
    if (db->partitions == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory for %" PRIu32 " partitions",
                         db->partition_count);
    store->partitions = db->partitions;
    rc = start_partitions(db);
    for (unsigned i = 0; rc == BKV_READ_AGAIN && i < START_TRIES; i++)
        rc = start_partitions(db);
    if (rc == BKV_READ_AGAIN)
        return bkv_error(BITKV_ERR_IO, "%s: its files change faster than they are read",
                         store->dir.path);
    return rc == BITKV_OK && store->options.read_only ? catch_up(db) : rc;
}

static void release(struct bitkv *db)
{
    bkv_mfree(db->partitions);
    if (db->guarded)
        bkv_sigbus_guard_release();
    close_directory(&db->store.dir);
    (void)pthread_mutex_destroy(&db->pool_mutex);
    (void)pthread_mutex_destroy(&db->store.refresh_mutex);
    bkv_mfree(db);
}

int bitkv_open(bitkv **out, const char *directory, const bitkv_options *options)
{
    return bkv_open_with(out, directory, options, false);
}

int bkv_open_with(bitkv **out, const char *directory, const bitkv_options *options, bool exclusive)
{
    if (out == NULL)
        return bkv_error(BITKV_ERR_INVALID, "bitkv_open: no place for the handle");
    *out = NULL;
    if (directory == NULL || directory[0] == '\0')
        return bkv_error(BITKV_ERR_INVALID, "bitkv_open: no directory");
    uint64_t begun = bkv_now_ns();
    bitkv_options checked;
    int rc = bkv_options_check(&checked, options);
    if (rc != BITKV_OK)
        return rc;
    struct bitkv *db = bkv_alloc_aligned(sizeof *db);
    if (db == NULL)
        return bkv_error(BITKV_ERR_NO_MEMORY, "no memory to open %s", directory);
    db->store.dir.fd = -1;
    db->store.options = checked;
    bkv_clock_start(&db->store.clock);
    (void)pthread_mutex_init(&db->pool_mutex, NULL);
    (void)pthread_mutex_init(&db->store.refresh_mutex, NULL);
    db->fork_generation = bkv_fork_generation();
    if (db->fork_generation == 0)
        rc = BITKV_ERR_NO_MEMORY;
    if (rc == BITKV_OK)
        rc = open_locked(&db->store.dir, directory, &checked, !checked.read_only || exclusive);
    if (rc == BITKV_OK)
        rc = open_in(db);
    if (rc != BITKV_OK) {
        release(db);
        return rc;
    }
    db->fork_member.lock_fd = &db->store.dir.fd;
    bkv_fork_register(&db->fork_member);
    db->opened_in_ns = bkv_now_ns() - begun;
    *out = db;
    return BITKV_OK;
}

/* --- closing ----------------------------------------------------------------- */

static void wait_for_calls(struct bitkv *db)
{
    /* Calls that saw `closing` unset are in epoch sections; long ones count
     * themselves before they leave theirs. In this order, or a scan that is
     * just about to count itself would be missed. */
    atomic_store_explicit(&db->closing, true, memory_order_seq_cst);
    BKV_SCHEDULE_POINT("close.refused");
    bkv_epoch_wait(bkv_epoch_stamp());
    while (atomic_load(&db->long_calls) > 0) {
        bkv_sleep_us(200);
    }
}

/* Before any of them is gone: a sync of one asks for those with which it shares
 * batches. What goes wrong here each tells again when it stops. */
static void sync_partitions(struct bitkv *db)
{
    for (uint32_t i = 0; i < db->partition_count && !db->store.options.read_only; i++)
        (void)bkv_partition_sync(db->partitions[i]);
}

int bitkv_close(bitkv *db)
{
    if (db == NULL)
        return BITKV_OK;
    if (bkv_forked(db->fork_generation))
        return bkv_error(BITKV_ERR_FORKED, "bitkv_close in a forked child; the handle belongs to "
                                           "the parent");
    if (bkv_long_here(db))
        return bkv_error(BITKV_ERR_INVALID,
                         "bitkv_close from a callback of bitkv_scan, bitkv_update "
                         "or another long call on the same database: return "
                         "from it first");
    wait_for_calls(db);
    BKV_SCHEDULE_POINT("close.alone");
    bkv_snapshot_detach_all(db);
    BKV_SCHEDULE_POINT("close.detached");
    bkv_fork_unregister(&db->fork_member);
    bkv_backend_stop(db);
    sync_partitions(db);
    int rc = BITKV_OK;
    char context[BKV_ERROR_CONTEXT_SIZE] = "";
    for (uint32_t i = 0; i < db->partition_count; i++) {
        int one = bkv_partition_stop(db->partitions[i], true);
        if (one != BITKV_OK && rc == BITKV_OK) {
            rc = one;
            (void)snprintf(context, sizeof context, "%s", bitkv_error_context());
        }
    }
    bkv_cq_detach_all(db);
    bkv_feed_detach_all(db);
    release(db);
    return rc == BITKV_OK ? BITKV_OK : bkv_error(rc, "%s", context);
}
