/* SPDX-License-Identifier: MIT */
/**
 * @file bitkv.h
 * BitKV: an embedded, persistent key-value store after the Bitcask design.
 *
 * Conventions, once for all calls:
 *
 *  1. Threads. Every function is safe from any thread, but those of a
 *     completion queue, which belongs to one, and of an iterator, a batch or a
 *     feed, which are for one at a time. A call never runs user code on another
 *     thread, except the log callback of the options.
 *  2. Results. Functions return `int`: ::BITKV_OK (0) on success,
 *     ::BITKV_NOT_FOUND (1) when a key is absent, and a negative
 *     ::bitkv_error on failure. Absence is never a failure and no failure is
 *     ever reported as absence.
 *  3. Messages. bitkv_strerror() describes a code. bitkv_error_context() is
 *     what the last failing call of the calling thread had to say about file,
 *     offset and system error. The library never prints.
 *     What a call makes is its first parameter, set to NULL if it fails; what it
 *     reads or counts comes last.
 *  4. Strings and bytes. Keys and values are binary: any byte, length given
 *     beside them. Paths and messages are NUL-terminated.
 *  5. Ownership. The library copies what it is given before it returns
 *     (operations of a completion queue: with ::BITKV_OP_COPY). What it
 *     allocates for the caller is released with bitkv_free(), a view with
 *     bitkv_view_release(), a database with bitkv_close(), a queue with
 *     bitkv_cq_destroy(), a snapshot with bitkv_snapshot_destroy(), an iterator
 *     with bitkv_iterator_destroy(), a batch with bitkv_batch_destroy(), a feed
 *     with bitkv_feed_close().
 *  6. Failure. A call that fails leaves the database and its outputs as they
 *     were, unless its own text says otherwise.
 *  7. ABI. Handles are opaque. Every public structure that may grow begins
 *     with `struct_size`, set by its `_init` function or macro; a library
 *     accepts structures shorter than its own and takes defaults for the
 *     rest. Enumerators and field offsets never change within a soname.
 *     Reserved fields must be zero. Structures without it that callers
 *     allocate (::bitkv_view, ::bitkv_get_item, ::bitkv_recovery, ::bitkv_op,
 *     ::bitkv_completion, ::bitkv_record, ::bitkv_change) never change their layout.
 *  8. fork(). A handle belongs to the process that opened it. In a forked
 *     child every call on it returns ::BITKV_ERR_FORKED and touches nothing.
 *
 * The design is described in docs/architecture.md, the files in
 * docs/format.md, and what survives which disaster in docs/durability.md.
 */
#ifndef BITKV_H
#define BITKV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BITKV_VERSION_MAJOR 0
#define BITKV_VERSION_MINOR 1
#define BITKV_VERSION_PATCH 0

#if defined(BITKV_STATIC)
#define BITKV_API
#else
#define BITKV_API __attribute__((visibility("default")))
#endif

/** Longest key in bytes; the shortest is 1. */
#define BITKV_KEY_SIZE_MAX 65535u
/** Longest value in bytes (1 GiB); the shortest is 0. */
#define BITKV_VALUE_SIZE_MAX (1u << 30)
/** Most partitions that a database can have. */
#define BITKV_PARTITIONS_MAX 1024u

/* ------------------------------------------------------------------ */
/* Errors                                                              */
/* ------------------------------------------------------------------ */

/** Name, value and message of every code. */
#define BITKV_ERROR_MAP(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(NOT_FOUND, 1, "key not found")                                                               \
    X(ERR_INVALID, -1, "invalid argument")                                                         \
    X(ERR_NO_MEMORY, -2, "out of memory")                                                          \
    X(ERR_IO, -3, "input/output error")                                                            \
    X(ERR_NO_SPACE, -4, "no space left on device")                                                 \
    X(ERR_CORRUPT, -5, "data is damaged")                                                          \
    X(ERR_LOCKED, -6, "database is in use by another opener")                                      \
    X(ERR_READ_ONLY, -7, "database was opened read-only")                                          \
    X(ERR_PARTITION_COUNT, -8, "partition count mismatch")                                         \
    X(ERR_NO_DATABASE, -9, "no database in this directory")                                        \
    X(ERR_FORMAT, -10, "unknown format version")                                                   \
    X(ERR_SYNC_FAILED, -11, "an earlier sync failed; partition is read-only")                      \
    X(ERR_BUFFER_TOO_SMALL, -12, "buffer is too small for the value")                              \
    X(ERR_FORKED, -13, "handle was opened before a fork")                                          \
    X(ERR_CLOSED, -14, "database is closed or closing")                                            \
    X(ERR_TOO_MANY_FILES, -15, "file descriptor exhaustion")                                       \
    X(ERR_PERMISSION, -16, "permission denied")                                                    \
    X(ERR_LIMIT, -17, "a limit of the store is reached")                                           \
    X(ERR_EXISTS, -18, "database exists already")                                                  \
    X(ERR_CANCELED, -19, "operation was canceled")                                                 \
    X(ERR_QUEUE_FULL, -20, "completion queue is full")                                             \
    X(ERR_CONFLICT, -21, "the condition of a write does not hold")                                 \
    X(ERR_STALE, -22, "the database was changed under a read-only opening; open it again")         \
    X(ERR_BEHIND, -23, "position is no longer retained")

typedef enum bitkv_error {
#define BITKV_ERROR_ENUM_(name, value, text) BITKV_##name = (value),
    BITKV_ERROR_MAP(BITKV_ERROR_ENUM_)
#undef BITKV_ERROR_ENUM_
} bitkv_error;

/**
 * Message of a code.
 * @param code what a call returned
 * @return a static string, never NULL; "unknown error" for foreign numbers
 */
BITKV_API const char *bitkv_strerror(int code);

/**
 * Name of a code, such as "BITKV_ERR_CORRUPT".
 * @return a static string, never NULL
 */
BITKV_API const char *bitkv_error_name(int code);

/**
 * What went wrong in the last failing call of this thread: which file, which
 * offset, what the system said, what to do.
 * @return a string owned by the thread and valid until its next failing call
 *         (a call that succeeds leaves it); "" if none failed yet; never NULL
 */
BITKV_API const char *bitkv_error_context(void);

/** Version of the library that runs, such as "0.1.0". Static. */
BITKV_API const char *bitkv_version(void);

/* ------------------------------------------------------------------ */
/* Options                                                             */
/* ------------------------------------------------------------------ */

/**
 * How much a write has survived once it is acknowledged. Every level survives
 * the death of the process, kill -9 included; see docs/durability.md.
 */
typedef enum bitkv_durability {
    /** As the options say. */
    BITKV_DURABILITY_DEFAULT = 0,
    /** Never synced on purpose: a power cut may take it (a sync of a later
     *  write, of bitkv_sync() or of the kernel covers it). */
    BITKV_DURABILITY_NONE = 1,
    /** Synced within `sync_interval_ms`, as long as the process lives (else by
     *  the kernel, or at the next opening): a power cut takes that much. */
    BITKV_DURABILITY_INTERVAL = 2,
    /** Synced before the call returns; writers that wait share one sync. */
    BITKV_DURABILITY_SYNC = 3,
} bitkv_durability;

/** Time to live that is none: the key never expires. */
#define BITKV_TTL_NONE UINT64_MAX
/** The key keeps the deadline that it has; none, if it is absent. */
#define BITKV_TTL_KEEP (UINT64_MAX - 1u)
/** Longest time to live in milliseconds; more is ::BITKV_ERR_INVALID, but for the
 *  two above where a call takes them. */
#define BITKV_TTL_MAX (UINT64_C(1) << 62)

/** How segments are written and read. */
typedef enum bitkv_io_mode {
    /** BITKV_IO_MMAP where the file system is known to support it, else
     *  BITKV_IO_PWRITE; bitkv_stats() tells which, and why. */
    BITKV_IO_AUTO = 0,
    /** Memcpy into a mapped, preallocated tail; reads from mappings. Installs
     *  a SIGBUS handler that turns I/O errors under the library's mappings
     *  into BITKV_ERR_IO and passes every other SIGBUS on to the handler that
     *  was there before. */
    BITKV_IO_MMAP = 1,
    /** pwrite() and pread(): no shared mapping, no signal handler. */
    BITKV_IO_PWRITE = 2,
} bitkv_io_mode;

/** What carries out the reads of a completion queue that would block. */
typedef enum bitkv_backend {
    /** BITKV_BACKEND_IO_URING where the kernel lets us, else
     *  BITKV_BACKEND_THREADS; bitkv_stats() tells which, and why. */
    BITKV_BACKEND_AUTO = 0,
    /** A ring of the queue's own. Where the kernel refuses one (seccomp filters
     *  of containers, kernel.io_uring_disabled, no memory), threads serve in
     *  its place: no opening fails for want of io_uring. */
    BITKV_BACKEND_IO_URING = 1,
    /** A pool of threads of the database's, which make blocking reads. */
    BITKV_BACKEND_THREADS = 2,
} bitkv_backend;

typedef enum bitkv_log_level {
    BITKV_LOG_INFO = 0,
    BITKV_LOG_WARNING = 1,
    BITKV_LOG_ERROR = 2,
} bitkv_log_level;

/**
 * Receives one message of the library, without a newline.
 * Called from the opening thread and from the library's own threads, possibly
 * from several at once; must not call into the same database.
 * @param user    `log_user` of the options
 * @param level   how bad it is
 * @param message valid during the call only
 */
typedef void (*bitkv_log_cb)(void *user, bitkv_log_level level, const char *message);

/**
 * Options of bitkv_open(). Fill with bitkv_options_init(), then change what
 * should differ. Nothing is kept of the structure after bitkv_open().
 */
typedef struct bitkv_options {
    /** Size of the structure as the caller knows it. Set by _init. */
    size_t struct_size;

    /* --- behaviour ------------------------------------------------- */

    /** Number of partitions. Default 0: as many as the database has; for a
     *  new one, as many as CPUs this process may run on. Fixed at creation:
     *  another number than the database's is BITKV_ERR_PARTITION_COUNT. */
    uint32_t partitions;

    /** Create the database if the directory has none. Default true. Missing
     *  parent directories are not created. */
    bool create_if_missing;

    /** Fail with BITKV_ERR_EXISTS if there is a database. Default false. */
    bool error_if_exists;

    /** Open for reading only: nothing in the directory is created, repaired
     *  or changed, and no lock is taken. Default false. Any number of processes
     *  may do so while another one writes: see bitkv_refresh(). */
    bool read_only;

    /** Refuse to open (BITKV_ERR_CORRUPT) if recovery meets damage, rather
     *  than skip and report it. The unsynced tail that a crash leaves behind
     *  is not damage. Default false. */
    bool strict_recovery;

    /** Every write waits for its sync, whatever durability it or the options
     *  ask for. Default false. */
    bool sync_on_write;

    /** Default durability of writes; BITKV_DURABILITY_DEFAULT stands for
     *  BITKV_DURABILITY_INTERVAL. */
    bitkv_durability durability;

    /** Longest time in milliseconds that a write of BITKV_DURABILITY_INTERVAL
     *  stays unsynced. Default 1000; 1 to 3,600,000. */
    uint32_t sync_interval_ms;

    /** Segment size in bytes at which the log goes on in a new file. Default
     *  100 MiB; 64 KiB to 1 GiB. A record that is larger gets a segment of
     *  its own. May differ from one opening to the next. */
    uint64_t max_file_size;

    /** Permission bits of the files and directories that are created, before
     *  the umask. Defaults 0600 and 0700. */
    uint32_t file_mode;
    uint32_t directory_mode;

    /** Compact in the background, by a thread of each partition that has full
     *  segments. Default true. See fragmentation_threshold, and bitkv_compact()
     *  for doing it by hand. */
    bool auto_compact;

    /** Dead share of a partition's data and hint files, above 0 and at most 1,
     *  that is the signal to compact: overwritten and deleted records, expired
     *  ones, tombstones. Default 0.5, at which the files take about twice the
     *  space of what is alive. Files of which hardly anything is left are
     *  compacted sooner: below 40 % of what the threshold lets live. */
    double fragmentation_threshold;

    /* --- performance ----------------------------------------------- */

    /** How files are written and read. Default BITKV_IO_AUTO. */
    bitkv_io_mode io_mode;

    /** Most segments, over all partitions, that are held open (mapped, or by
     *  descriptor) at a time; the least recently used are closed. Those being
     *  written count, but are never closed; pinned views come on top. Default
     *  0: chosen from the process's descriptor limit. At least 1. */
    uint32_t max_open_segments;

    /** Entries of each io_uring of the asynchronous interface; 0 takes the
     *  default, 2048 (the most: 32,768). No ring is made by synchronous calls. */
    uint32_t ring_depth;

    /** Bytes of log after which a partition writes a KeyDir checkpoint, which
     *  bounds what a crash must replay. Default 0: four times the KeyDir's
     *  size, and at least 256 MiB. */
    uint64_t checkpoint_interval_bytes;

    /* --- reporting ------------------------------------------------- */

    /** Receives warnings about damage, repairs and degraded modes. Default
     *  NULL: none are delivered (bitkv_stats() counts them all the same). */
    bitkv_log_cb log;
    void *log_user;

    /* --- asynchronous operations ------------------------------------- */

    /** What serves completion queues. Default BITKV_BACKEND_AUTO; the
     *  environment variable BITKV_BACKEND=threads then rules io_uring out. */
    bitkv_backend backend;

    /** Most threads of the pool that makes blocking reads for completion
     *  queues; they are started as they are needed. Default 0: 32. At most
     *  1024. */
    uint32_t io_threads;

    /* --- compaction -------------------------------------------------- */

    /** Most bytes a second that compaction in the background reads, of each
     *  partition. Default 0: no limit; it yields to the foreground anyhow, and
     *  hurries only when dead bytes come faster than they go. With a limit the
     *  dead share may grow beyond the threshold. */
    uint64_t compact_bytes_per_second;

    /** Hours of the day for it, in minutes since midnight, local time: from
     *  (inclusive) until (exclusive), over midnight if from is larger. Defaults
     *  0 and 0: equal numbers are all day. At most 1439. */
    uint32_t compact_from_minute;
    uint32_t compact_until_minute;

    /* --- expiry ------------------------------------------------------ */

    /** Time to live in milliseconds of what is put without one: by bitkv_put(),
     *  bitkv_put_with(), completion queues, and where a call's own is 0. At most
     *  BITKV_TTL_MAX. Default 0, as BITKV_TTL_NONE: it never expires. Keys that
     *  are there keep what they have. */
    uint64_t default_ttl_ms;

    /* --- change feeds ------------------------------------------------- */

    /** Bytes at the end of each partition's log whose files compaction leaves
     *  alone, so that a feed that is no further behind misses nothing. They take
     *  that much room beside what is alive. Default 0: it takes what is worth it. */
    uint64_t feed_retention_bytes;

    uint64_t reserved[3];
} bitkv_options;

/**
 * Fill with defaults.
 * @param options to be filled; NULL is ignored
 */
#define bitkv_options_init(options) bitkv_options_init_sized((options), sizeof(bitkv_options))

/** What bitkv_options_init() calls. @param struct_size sizeof(bitkv_options) */
BITKV_API void bitkv_options_init_sized(bitkv_options *options, size_t struct_size);

/* ------------------------------------------------------------------ */
/* Opening and closing                                                 */
/* ------------------------------------------------------------------ */

/** An open database. Opaque. */
typedef struct bitkv bitkv;

/**
 * Open a database, create it if it is missing, recover it if it was not
 * closed.
 *
 * Recovery needs no flag and loses nothing that was acknowledged before the
 * death of a process. What it found is in bitkv_stats().
 *
 * @param db        receives the handle; set to NULL on failure
 * @param directory path of the database; one opener at a time that writes, and
 *                  any number that are read-only
 * @param options   NULL for the defaults
 * @return BITKV_OK; BITKV_ERR_LOCKED if another writer has it, at once;
 *         BITKV_ERR_NO_DATABASE; BITKV_ERR_EXISTS;
 *         BITKV_ERR_PARTITION_COUNT; BITKV_ERR_CORRUPT;
 *         BITKV_ERR_FORMAT if it was written by a newer version;
 *         BITKV_ERR_INVALID with the option's name in the context;
 *         or a system error
 */
BITKV_API int bitkv_open(bitkv **db, const char *directory, const bitkv_options *options);

/**
 * Take in what another process has written since the opening, or since the last
 * refresh: for a database that was opened read-only. It serves the state that it
 * has until then, and the new one when the call returns: all that was
 * acknowledged before the call, and of each partition a prefix of its writes.
 * Reads may go on meanwhile, and see a mixture.
 *
 * Cheap if nothing has changed: some system calls of each partition. It reads what
 * was appended, and the hints of files that compaction has written.
 *
 * Files that the writer's compaction has removed may have been needed still: a
 * read that finds its file gone refreshes by itself, and then returns what the key
 * has now. (Views that are held are not affected.)
 *
 * @return BITKV_OK, at once if the database was opened for writing;
 *         BITKV_ERR_STALE if this is not what was opened any more: another
 *         database is in its place, an older state was restored, or a power cut
 *         has taken writes that were read already. What was there is served on;
 *         close it and open it again. Another error, such as BITKV_ERR_NO_MEMORY:
 *         a part may have been taken in; the next refresh goes on
 */
BITKV_API int bitkv_refresh(bitkv *db);

/**
 * Close: finish the calls in progress, sync, write the checkpoints that make
 * the next opening fast, release everything but views still held.
 *
 * May be called from any thread. Calls that are running when it is called are
 * finished first; one that races with it returns BITKV_ERR_CLOSED. Once it has
 * returned, the handle is gone.
 *
 * @param db the handle; NULL is BITKV_OK
 * @return BITKV_OK, or the first error of the final sync and checkpoint: the
 *         database is closed and the handle gone all the same, and the next
 *         opening recovers. Only two errors leave it open: BITKV_ERR_INVALID
 *         from inside of a callback of bitkv_scan(), bitkv_update(), bitkv_compact()
 *         or another long call on it, which would wait for itself, and
 *         BITKV_ERR_FORKED in a forked child, which must not use the handle
 */
BITKV_API int bitkv_close(bitkv *db);

/* ------------------------------------------------------------------ */
/* Reading and writing                                                 */
/* ------------------------------------------------------------------ */

/**
 * Store a value under a key, replacing the one that is there.
 *
 * @param db         an open database
 * @param key        1 to BITKV_KEY_SIZE_MAX bytes
 * @param key_size   in bytes
 * @param value      may be NULL if value_size is 0
 * @param value_size 0 to BITKV_VALUE_SIZE_MAX bytes
 * @return BITKV_OK once the write is as durable as the options ask;
 *         BITKV_ERR_NO_SPACE: nothing was written; reads go on, so do deletes
 *         and puts that fit into what is reserved, and writing resumes by
 *         itself when there is room;
 *         BITKV_ERR_SYNC_FAILED: now or earlier a sync failed. Of a call that
 *         waited for that sync, the effect may be visible and may or may not
 *         survive; the partition refuses writes until it is reopened, also those
 *         that would change nothing;
 *         BITKV_ERR_TOO_MANY_FILES: nothing was written; or, of a call that waits
 *         for its sync, there was no descriptor to make it with: as with
 *         BITKV_ERR_SYNC_FAILED, but the next sync is made
 */
BITKV_API int bitkv_put(bitkv *db, const void *key, size_t key_size, const void *value,
                        size_t value_size);

/** bitkv_put() with a durability of its own. */
BITKV_API int bitkv_put_with(bitkv *db, const void *key, size_t key_size, const void *value,
                             size_t value_size, bitkv_durability durability);

/**
 * Read a value into memory of its own.
 *
 * @param value      receives the value, to be released with bitkv_free(), a
 *                   NUL byte behind its last; non-NULL even if it is empty;
 *                   set to NULL unless BITKV_OK
 * @param value_size receives its size in bytes; may be NULL
 * @return BITKV_OK; BITKV_NOT_FOUND; BITKV_ERR_CORRUPT if the record does not
 *         verify (it is never served); BITKV_ERR_IO if it cannot be read
 */
BITKV_API int bitkv_get(bitkv *db, const void *key, size_t key_size, void **value,
                        size_t *value_size);

/**
 * Read a value into the caller's buffer. The fastest way for small values.
 *
 * @param buffer      receives the value; its content is unspecified unless
 *                    BITKV_OK; may be NULL if buffer_size is 0
 * @param buffer_size in bytes
 * @param value_size  receives the value's size, also with
 *                    BITKV_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return as bitkv_get(); BITKV_ERR_BUFFER_TOO_SMALL
 */
BITKV_API int bitkv_get_into(bitkv *db, const void *key, size_t key_size, void *buffer,
                             size_t buffer_size, size_t *value_size);

/** A value in place, pinned until it is released. Its layout never changes. */
typedef struct bitkv_view {
    const void *data; /**< the value; do not write; 8-byte alignment is not promised */
    size_t size;      /**< in bytes */
    void *pin;        /**< private */
} bitkv_view;

/**
 * Read a value without copying it: verified once, then used where it lies.
 *
 * The bytes stay as they are, whatever is put, deleted or closed meanwhile,
 * until bitkv_view_release(). A view keeps its segment mapped, so hold it
 * briefly. (If the storage itself fails later, its bytes may read as zeros.)
 * With BITKV_IO_PWRITE the view is a private copy.
 *
 * @param view receives the value; zeroed unless BITKV_OK
 * @return as bitkv_get()
 */
BITKV_API int bitkv_get_view(bitkv *db, const void *key, size_t key_size, bitkv_view *view);

/**
 * Release a view. Any thread; also after bitkv_close().
 * @param view zeroed by the call; NULL and zeroed views are ignored
 */
BITKV_API void bitkv_view_release(bitkv_view *view);

/** One key of bitkv_multi_get(). Its layout never changes. */
typedef struct bitkv_get_item {
    const void *key;    /**< in: the key */
    size_t key_size;    /**< in: in bytes */
    void *buffer;       /**< in: where the value goes; NULL to have it allocated */
    size_t buffer_size; /**< in: in bytes; ignored if buffer is NULL */
    void *value;        /**< out: the buffer, or memory for bitkv_free(); NULL unless OK */
    size_t value_size;  /**< out: in bytes, also with BITKV_ERR_BUFFER_TOO_SMALL */
    int status;         /**< out: as of bitkv_get_into() */
} bitkv_get_item;

/**
 * Read many values. Several times the speed of single gets where these wait for
 * memory: the keys are
 * hashed, located and fetched as a pipeline whose cache misses overlap (after
 * the group prefetching of Chen et al., "Improving Hash Join Performance
 * through Prefetching", ICDE 2004).
 *
 * Not a snapshot: each key is read at a moment of its own.
 *
 * @param items the keys, and their results
 * @param count how many
 * @return BITKV_OK if every item is BITKV_OK or BITKV_NOT_FOUND, else the
 *         status of the first that is not; every item has its own status
 */
BITKV_API int bitkv_multi_get(bitkv *db, bitkv_get_item *items, size_t count);

/** Release what bitkv_get() and bitkv_multi_get() allocated. NULL is ignored. */
BITKV_API void bitkv_free(void *value);

/**
 * Delete a key.
 * @return BITKV_OK; BITKV_NOT_FOUND if there is none: nothing is written, but
 *         the tombstone of one that has expired, so that no clock that is set
 *         back can return it; else as bitkv_put()
 */
BITKV_API int bitkv_del(bitkv *db, const void *key, size_t key_size);

/** bitkv_del() with a durability of its own. */
BITKV_API int bitkv_del_with(bitkv *db, const void *key, size_t key_size,
                             bitkv_durability durability);

/**
 * Tell whether a key is there. The key is compared, the value not read, unless
 * the key has expired: that is believed only of a record that verifies.
 * @return BITKV_OK if it is; BITKV_NOT_FOUND; or an error as bitkv_get()
 */
BITKV_API int bitkv_exists(bitkv *db, const void *key, size_t key_size);

/**
 * A barrier: when it returns, every write that was acknowledged before the
 * call, by any thread, survives a power cut.
 * @return BITKV_OK or BITKV_ERR_SYNC_FAILED, or the reason it could not run:
 *         BITKV_ERR_TOO_MANY_FILES if a file must be opened for it and there is no
 *         descriptor, which is no failed sync: call again
 */
BITKV_API int bitkv_sync(bitkv *db);

/* ------------------------------------------------------------------ */
/* Expiry                                                              */
/* ------------------------------------------------------------------ */
/*
 * A key that was put with a time to live has a deadline: the moment of the put
 * plus that time. From the deadline on, to the millisecond, every call takes the
 * key for absent; there is nothing to be waited for or swept.
 *
 * The clock is the system's wall clock as it was when the database was opened,
 * and goes on with the time since boot, sleep included. So stepping the wall
 * clock while the database is open neither expires nor returns anything; the
 * next opening goes by the new time. docs/durability.md has more of it.
 *
 * `keys` and `live_bytes` of the statistics count expired keys until compaction
 * has removed them.
 */

/** What is known of a key without its value. */
typedef struct bitkv_key_info {
    size_t struct_size;    /**< in: set it with bitkv_key_info_init() */
    uint64_t version;      /**< of the value: grows with every write of the key */
    uint64_t value_size;   /**< in bytes */
    uint64_t remaining_ms; /**< until it expires; UINT64_MAX: never */
    uint64_t deadline_ms;  /**< when it expires, in milliseconds since 1970; UINT64_MAX: never */
} bitkv_key_info;

#define bitkv_key_info_init(info) ((void)((info)->struct_size = sizeof(bitkv_key_info)))

/**
 * Tell the version, size and deadline of a key. Counts as a read. The record is
 * verified, so that it costs what reading the value in place does.
 * @param info receives them; struct_size must be set
 * @return as bitkv_get()
 */
BITKV_API int bitkv_info(bitkv *db, const void *key, size_t key_size, bitkv_key_info *info);

/**
 * Give a key another time to live: its value is written anew, atomically, with
 * another deadline and a new version, at the options' durability.
 * @param ttl_ms from now on, in milliseconds; 0: as the option default_ttl_ms;
 *               BITKV_TTL_NONE: never expires. Not BITKV_TTL_KEEP
 * @return BITKV_OK; BITKV_NOT_FOUND; else as bitkv_get() and bitkv_put()
 */
BITKV_API int bitkv_touch(bitkv *db, const void *key, size_t key_size, uint64_t ttl_ms);

/* ------------------------------------------------------------------ */
/* Conditional writes                                                  */
/* ------------------------------------------------------------------ */
/*
 * Each of these calls is atomic: between what it finds and what it writes,
 * nobody else has written the key, by whatever call.
 *
 * They take no lock while they look, and look again if the key was written
 * meanwhile. So of the writers that meet at a key one gets on, and none waits
 * for one that was suspended; a single one may have to try any number of times.
 *
 * A *version* is the sequence number of the write that a value is of. In an open
 * database, and over openings of it that lose nothing, no two writes of a key
 * have the same. (A power cut that takes unsynced writes takes their numbers,
 * too, and they are given to others.)
 */

/** What must be so for a write to be made. */
typedef enum bitkv_condition {
    BITKV_ALWAYS = 0,
    BITKV_IF_ABSENT = 1,  /**< else BITKV_ERR_CONFLICT */
    BITKV_IF_PRESENT = 2, /**< else BITKV_NOT_FOUND */
    /** The key has this version; else BITKV_ERR_CONFLICT if it has another,
     *  BITKV_NOT_FOUND if it is absent. */
    BITKV_IF_VERSION = 3,
} bitkv_condition;

/** Options of bitkv_put_if(). Fill with bitkv_put_options_init(). */
typedef struct bitkv_put_options {
    size_t struct_size;          /**< set by _init */
    bitkv_durability durability; /**< default BITKV_DURABILITY_DEFAULT */
    bitkv_condition condition;   /**< default BITKV_ALWAYS */
    /** Time to live in milliseconds. Default 0: as the option default_ttl_ms.
     *  Or BITKV_TTL_NONE, BITKV_TTL_KEEP. */
    uint64_t ttl_ms;
    uint64_t version; /**< of BITKV_IF_VERSION */
    uint64_t reserved[4];
} bitkv_put_options;

#define bitkv_put_options_init(options)                                                            \
    bitkv_put_options_init_sized((options), sizeof(bitkv_put_options))
/** What bitkv_put_options_init() calls. @param struct_size sizeof(bitkv_put_options) */
BITKV_API void bitkv_put_options_init_sized(bitkv_put_options *options, size_t struct_size);

/**
 * Store a value if a condition holds, with a time to live of its own.
 *
 * @param options NULL for the defaults, with which this is bitkv_put()
 * @param version receives that of the value, if BITKV_OK; may be NULL
 * @return as bitkv_put(); if the condition does not hold, as there is said, and
 *         nothing is written; BITKV_ERR_CORRUPT or BITKV_ERR_IO if that cannot
 *         be told, because the present record is damaged: bitkv_put() and
 *         bitkv_del() need no look at it. A condition that does not hold is not
 *         counted as an error by the statistics
 */
BITKV_API int bitkv_put_if(bitkv *db, const void *key, size_t key_size, const void *value,
                           size_t value_size, const bitkv_put_options *options, uint64_t *version);

/**
 * Delete a key if it has this version.
 * @return BITKV_OK; BITKV_NOT_FOUND; BITKV_ERR_CONFLICT if it has another;
 *         else as bitkv_put_if()
 */
BITKV_API int bitkv_del_if(bitkv *db, const void *key, size_t key_size, uint64_t version,
                           bitkv_durability durability);

/** What the callback of bitkv_update() wants. */
typedef enum bitkv_update_action {
    BITKV_UPDATE_LEAVE = 0,  /**< nothing is written */
    BITKV_UPDATE_PUT = 1,    /**< new_value is stored */
    BITKV_UPDATE_DELETE = 2, /**< BITKV_NOT_FOUND if there is none */
} bitkv_update_action;

/** Given to the callback of bitkv_update(), valid during the call. */
typedef struct bitkv_update_step {
    bool present;          /**< is the key there? If not, what follows is zero */
    const void *value;     /**< the present value, a NUL byte behind it */
    size_t value_size;     /**< in bytes */
    uint64_t version;      /**< of it */
    uint64_t remaining_ms; /**< until it expires; UINT64_MAX: never */
    unsigned attempt;      /**< 0, and one more for each call */

    /* to be set for BITKV_UPDATE_PUT */
    const void *new_value; /**< the caller's, until bitkv_update() returns; may be `value` */
    size_t new_value_size; /**< in bytes */
    uint64_t new_ttl_ms;   /**< as in bitkv_put_options. Is BITKV_TTL_KEEP if the key is there,
                            *   else 0 */
} bitkv_update_step;

/**
 * Decides about one key, for bitkv_update(). Called again, with what is there
 * then, if another writer came between: it should have no effects of its own. May
 * call into the database, but not close it; what it writes to the same key is
 * another writer's.
 * @return a bitkv_update_action; a negative number ends the update, and is what
 *         it returns; anything else is BITKV_ERR_INVALID
 */
typedef int (*bitkv_update_cb)(void *user, bitkv_update_step *step);

/**
 * Read, decide and write as one.
 *
 * @param update_cb called in this thread, without a lock held
 * @param user      handed to it
 * @return BITKV_OK once what it wanted is done; BITKV_NOT_FOUND if it wanted to
 *         delete what is not there; what it returned, if negative;
 *         BITKV_ERR_CLOSED if bitkv_close() was called meanwhile; else as
 *         bitkv_get() and bitkv_put()
 */
BITKV_API int bitkv_update(bitkv *db, const void *key, size_t key_size, bitkv_update_cb update_cb,
                           void *user, bitkv_durability durability);

/**
 * Add to a counter: a value of 8 bytes, a signed number, little-endian. An absent
 * key counts as 0 and gets the time to live of the options; one that is there
 * keeps its deadline. Durability of the options.
 *
 * @param delta  to be added; may be negative
 * @param result receives the sum, if BITKV_OK; may be NULL
 * @return BITKV_OK; BITKV_ERR_INVALID if the value has not 8 bytes;
 *         BITKV_ERR_LIMIT if the sum is no int64_t, and nothing is changed;
 *         else as bitkv_get() and bitkv_put()
 */
BITKV_API int bitkv_add(bitkv *db, const void *key, size_t key_size, int64_t delta,
                        int64_t *result);

/* ------------------------------------------------------------------ */
/* Batches                                                             */
/* ------------------------------------------------------------------ */

/**
 * Puts and deletes that are written together: after a crash of any kind all of
 * them are there or none, whichever partitions their keys are in.
 *
 * A batch belongs to no database and may be written any number of times, to
 * several. Of entries with one key the last counts. A batch may be used by one
 * thread at a time; several may write it at once if none changes it.
 */
typedef struct bitkv_batch bitkv_batch;

/**
 * An empty batch.
 * @param batch receives it, to be destroyed with bitkv_batch_destroy(); NULL on
 *              failure
 * @return BITKV_OK; BITKV_ERR_INVALID; BITKV_ERR_NO_MEMORY
 */
BITKV_API int bitkv_batch_create(bitkv_batch **batch);

/** Destroy a batch. NULL is ignored. */
BITKV_API void bitkv_batch_destroy(bitkv_batch *batch);

/**
 * Add a put. Key and value are copied.
 * @param key        1 to BITKV_KEY_SIZE_MAX bytes
 * @param value      may be NULL if value_size is 0
 * @param value_size 0 to BITKV_VALUE_SIZE_MAX bytes
 * @return BITKV_OK; BITKV_ERR_INVALID; BITKV_ERR_NO_MEMORY: the batch is as it was
 */
BITKV_API int bitkv_batch_put(bitkv_batch *batch, const void *key, size_t key_size,
                              const void *value, size_t value_size);

/**
 * bitkv_batch_put() of a value that expires.
 * @param ttl_ms time to live in milliseconds, from the call of bitkv_write() on
 *               that writes it; 0: the database's default_ttl_ms, as
 *               bitkv_batch_put(); BITKV_TTL_NONE; at most BITKV_TTL_MAX
 */
BITKV_API int bitkv_batch_put_ttl(bitkv_batch *batch, const void *key, size_t key_size,
                                  const void *value, size_t value_size, uint64_t ttl_ms);

/** Add a delete. That the key is absent when the batch is written is no error.
 *  @return as bitkv_batch_put() */
BITKV_API int bitkv_batch_del(bitkv_batch *batch, const void *key, size_t key_size);

/** Entries that were added, those with one key counted each. 0 for NULL. */
BITKV_API size_t bitkv_batch_count(const bitkv_batch *batch);

/** Take all entries out; the memory is kept for the next ones. NULL is ignored. */
BITKV_API void bitkv_batch_clear(bitkv_batch *batch);

/**
 * Write a batch: all of it, or nothing.
 *
 * While it is written, single reads of other threads may find some of its keys
 * already changed and others not yet, for about a microsecond; of a batch that
 * fails they find nothing. Writers of the partitions involved wait as long as
 * the batch is copied.
 *
 * @param batch      is left as it is; an empty one is BITKV_OK
 * @param durability as in bitkv_put_with(). With BITKV_DURABILITY_SYNC all parts
 *                   are durable when the call returns. With less, a power cut
 *                   takes the batch as a whole, and with it what was written to
 *                   its partitions later
 * @return as bitkv_put(), and BITKV_OK whether deleted keys were there or not;
 *         BITKV_ERR_LIMIT if the keys of one partition take more than a segment
 *         (max_file_size, less some bytes); BITKV_ERR_SYNC_FAILED: as in
 *         bitkv_put(), with the effect of the whole batch in doubt
 */
BITKV_API int bitkv_write(bitkv *db, const bitkv_batch *batch, bitkv_durability durability);

/* ------------------------------------------------------------------ */
/* Snapshots, iteration, scan                                          */
/* ------------------------------------------------------------------ */

/** Stands for all partitions. */
#define BITKV_ALL_PARTITIONS UINT32_MAX

/**
 * What the database held at one moment: all of it, or, of a write that was under
 * way then, either everything or nothing.
 *
 * Threads. Any number of them may read a snapshot at the same time. Any number of
 * snapshots may be open, and they end in any order.
 *
 * Cost. Creating one takes microseconds, writers wait for some 40 of them with 10
 * million keys. While it is open, files that it needs are kept though compaction
 * has replaced them, and the first write to each thousand keys copies their part
 * of the index (see docs/keydir.md): hold it as long as it is of use, and no
 * longer.
 *
 * Beside a writer in another process, who removes what he has compacted, a
 * snapshot of a read-only opening has every data file opened at once, and keeps it
 * open, whatever max_open_segments says. Where descriptors do not reach for that
 * (only BITKV_IO_PWRITE needs one for each), reading from a file that the writer
 * has removed is BITKV_ERR_IO.
 *
 * A snapshot outlives its database: after bitkv_close() every call on it returns
 * BITKV_ERR_CLOSED, but bitkv_snapshot_destroy() releases it. Expiry is by the
 * clock, not by the snapshot: a key whose deadline has passed is absent.
 */
typedef struct bitkv_snapshot bitkv_snapshot;

/**
 * Take a snapshot of now: whatever was acknowledged before the call is in it.
 * @param snapshot receives it; NULL on failure
 * @return BITKV_OK; BITKV_ERR_NO_MEMORY; BITKV_ERR_CLOSED; BITKV_ERR_INVALID;
 *         BITKV_ERR_FORKED; of a read-only opening also BITKV_ERR_STALE
 */
BITKV_API int bitkv_snapshot_create(bitkv_snapshot **snapshot, bitkv *db);

/**
 * Release a snapshot; no call on it may run. Before or after bitkv_close(), and
 * before or after its iterators are destroyed: it lasts until the last has gone.
 * @param snapshot NULL is BITKV_OK
 * @return BITKV_OK; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_snapshot_destroy(bitkv_snapshot *snapshot);

/** bitkv_get(), of the snapshot's moment. */
BITKV_API int bitkv_snapshot_get(bitkv_snapshot *snapshot, const void *key, size_t key_size,
                                 void **value, size_t *value_size);
/** bitkv_get_into(), of the snapshot's moment. */
BITKV_API int bitkv_snapshot_get_into(bitkv_snapshot *snapshot, const void *key, size_t key_size,
                                      void *buffer, size_t buffer_size, size_t *value_size);
/** bitkv_get_view(), of the snapshot's moment. The view outlives the snapshot. */
BITKV_API int bitkv_snapshot_get_view(bitkv_snapshot *snapshot, const void *key, size_t key_size,
                                      bitkv_view *view);
/** bitkv_exists(), of the snapshot's moment. */
BITKV_API int bitkv_snapshot_exists(bitkv_snapshot *snapshot, const void *key, size_t key_size);

/** One live record, as scans and iterators show it. Its layout never changes. */
typedef struct bitkv_record {
    const void *key;
    size_t key_size;
    const void *value; /**< NULL with BITKV_SCAN_KEYS */
    size_t value_size;
    uint64_t sequence;    /**< of the write, its version; ascending within a partition */
    uint32_t partition;   /**< where it lives */
    uint64_t deadline_ms; /**< when it expires, in milliseconds since 1970; UINT64_MAX: never */
} bitkv_record;

typedef enum bitkv_scan_flags {
    BITKV_SCAN_ALL = 0,
    BITKV_SCAN_KEYS = 1, /**< values are not read, so not verified either */
} bitkv_scan_flags;

/**
 * Goes through the records of a snapshot, in no order: one that is different for
 * each database, and may be so for each iterator. For one thread at a time; any
 * number of iterators may be open on a snapshot.
 */
typedef struct bitkv_iterator bitkv_iterator;

/** Options of bitkv_iterator_create(). Fill with bitkv_iterator_options_init(). */
typedef struct bitkv_iterator_options {
    size_t struct_size; /**< set by bitkv_iterator_options_init() */
    unsigned flags;     /**< of bitkv_scan_flags. Default BITKV_SCAN_ALL */
    /** Visit one of `shares` parts of the records only, so that as many threads
     *  can divide the work: each record is in exactly one part. Defaults 0 of 1.
     *  Parts are of about a thousand keys: of few keys one may get all. */
    uint32_t share;
    uint32_t shares; /**< at least 1, more than `share` */
    /** 0 to count - 1. Default BITKV_ALL_PARTITIONS. */
    uint32_t partition;
    /** Keys that begin with these bytes only, which are copied. All keys are looked
     *  at: it saves what is done with the others, not the walk. Default NULL: all
     *  keys. */
    const void *prefix;
    /** In bytes, at most BITKV_KEY_SIZE_MAX. Not 0 if there is a prefix: that would
     *  be all keys where somebody forgot the size, and is BITKV_ERR_INVALID. */
    size_t prefix_size;
    uint64_t reserved[4];
} bitkv_iterator_options;

#define bitkv_iterator_options_init(options)                                                       \
    bitkv_iterator_options_init_sized((options), sizeof(bitkv_iterator_options))
/** What bitkv_iterator_options_init() calls. @param struct_size
 *  sizeof(bitkv_iterator_options) */
BITKV_API void bitkv_iterator_options_init_sized(bitkv_iterator_options *options,
                                                 size_t struct_size);

/**
 * Create an iterator, which stands before the first record.
 * @param iterator receives it; NULL on failure
 * @param snapshot an open one; may be destroyed before the iterator
 * @param options  NULL for the defaults
 * @return BITKV_OK; BITKV_ERR_NO_MEMORY; BITKV_ERR_INVALID; BITKV_ERR_CLOSED;
 *         BITKV_ERR_FORKED
 */
BITKV_API int bitkv_iterator_create(bitkv_iterator **iterator, bitkv_snapshot *snapshot,
                                    const bitkv_iterator_options *options);

/**
 * Go on to the next record.
 *
 * Every value has been verified. Records that do not verify, or that cannot be
 * read, are passed over, and the others visited: the end then returns the error of
 * the first such record in place of BITKV_NOT_FOUND, as often as it is asked.
 *
 * @param record receives it; what it points at is valid until the next call with
 *               this iterator, whatever becomes of the database; unchanged unless
 *               BITKV_OK
 * @return BITKV_OK; BITKV_NOT_FOUND at the end; BITKV_ERR_CORRUPT or BITKV_ERR_IO
 *         at the end, too; BITKV_ERR_NO_MEMORY: it may be called again;
 *         BITKV_ERR_CLOSED; BITKV_ERR_INVALID; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_iterator_next(bitkv_iterator *iterator, bitkv_record *record);

/**
 * Destroy an iterator, at the end or earlier; before or after bitkv_close().
 * @param iterator NULL is BITKV_OK
 * @return BITKV_OK; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_iterator_destroy(bitkv_iterator *iterator);

/**
 * Receives a record, valid during the call. May call into the database.
 * @return 0 to go on; anything else stops, and is what the scan returns: a
 *         number above 1 cannot be taken for one of the library's codes
 */
typedef int (*bitkv_scan_cb)(void *user, const bitkv_record *record);

/**
 * Visit every record of a snapshot, in no order: an iterator in one call.
 *
 * @param flags   of bitkv_scan_flags
 * @param scan_cb called in this thread; may close the database, which ends the scan
 *                with BITKV_ERR_CLOSED
 * @param user    handed to it
 * @return BITKV_OK; what the callback returned; BITKV_ERR_CORRUPT or
 *         BITKV_ERR_IO if records could not be read: the others are visited
 *         first, and the context names the first; BITKV_ERR_NO_MEMORY;
 *         BITKV_ERR_CLOSED; BITKV_ERR_INVALID; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_snapshot_scan(bitkv_snapshot *snapshot, unsigned flags, bitkv_scan_cb scan_cb,
                                  void *user);

/**
 * Visit every record that is there when the call begins, in no order: a snapshot
 * for the time of the call. What is written meanwhile, by the callback too, is not
 * seen.
 *
 * @param flags   of bitkv_scan_flags
 * @param scan_cb called in this thread; may not close the database
 * @param user    handed to it
 * @return as bitkv_snapshot_scan()
 */
BITKV_API int bitkv_scan(bitkv *db, unsigned flags, bitkv_scan_cb scan_cb, void *user);

/* ------------------------------------------------------------------ */
/* Change feeds                                                        */
/* ------------------------------------------------------------------ */

/**
 * A cursor over the writes of a database: every put and delete that is
 * acknowledged, once, read off the log.
 *
 * Order. The changes of a partition come in the order in which they took effect,
 * with ascending versions; those of a key are all in one partition. Partitions
 * take turns; between two of them there is no order, and a batch's changes come
 * as those of its partitions. Nothing is delivered of a write that is not
 * visible to bitkv_get() yet, nor of a batch of which a part is not.
 *
 * Expiry is no change: a put is delivered with its deadline, also when that has
 * passed. bitkv_touch() is a put.
 *
 * Exactly once, at least once. An open feed delivers each change once. After a
 * crash of the reader, one that is opened at the last position that he stored
 * goes on from there, and so delivers again what he had seen since.
 *
 * Power cuts. A change is delivered when it is visible, not when it is durable: of
 * what was not synced a power cut takes the end, delivered or not, and the
 * versions are given to other writes. A position beyond the end of the log is
 * ::BITKV_ERR_BEHIND when a feed is opened; one that new writes have reached
 * before cannot be told. Who must not see more than survives writes with
 * ::BITKV_DURABILITY_SYNC, or calls bitkv_sync() before he acts.
 *
 * Retention. A file that was compacted, be it only to merge it with others, is no
 * part of the history any more, also where all of its records live: a position
 * before its end is ::BITKV_ERR_BEHIND. The option `feed_retention_bytes` says how
 * much of the log compaction leaves alone; without it, nothing is sure to stay but
 * the file that is being written. An open feed keeps
 * the file of each partition that it is reading, whatever becomes of it, and so
 * its space: do not let one lie.
 *
 * Threads. Any number of feeds may be open; each is used by one thread at a time.
 * A feed outlives its database: after bitkv_close() its calls return
 * ::BITKV_ERR_CLOSED, but bitkv_feed_position() and bitkv_feed_close().
 */
typedef struct bitkv_feed bitkv_feed;

typedef enum bitkv_change_kind {
    BITKV_CHANGE_PUT = 1,
    BITKV_CHANGE_DELETE = 2,
} bitkv_change_kind;

/** A change, as bitkv_feed_next() shows it. Its layout never changes. */
typedef struct bitkv_change {
    bitkv_change_kind kind;
    uint32_t partition; /**< where the key lives */
    const void *key;    /**< valid until the next call on the feed, as is `value` */
    size_t key_size;    /**< in bytes */
    const void *value;  /**< PUT; else NULL */
    size_t value_size;  /**< PUT: in bytes; else 0 */
    uint64_t version;   /**< of the write; ascending within a partition, with gaps */
    /** PUT: when it expires, in milliseconds since 1970; UINT64_MAX: never, and of
     *  a delete. */
    uint64_t deadline_ms;
} bitkv_change;

/** As position_size, without a position: from the oldest change that is retained. */
#define BITKV_FEED_OLDEST ((size_t)0)
/** As position_size, without a position: from what is written after the call. */
#define BITKV_FEED_END SIZE_MAX

/**
 * Open a feed.
 *
 * To follow a database from its present contents on: open a feed at
 * ::BITKV_FEED_END, then bitkv_scan(), then read the feed. What is written
 * meanwhile may come in both.
 *
 * @param feed          receives it, to be closed with bitkv_feed_close(); NULL on
 *                      failure
 * @param db            an open database
 * @param position      bytes of bitkv_feed_position(), of this database; NULL: see
 *                      position_size. Not used after the call
 * @param position_size in bytes; without a position BITKV_FEED_OLDEST or
 *                      BITKV_FEED_END
 * @return BITKV_OK; BITKV_ERR_BEHIND if changes behind the position are not
 *         retained, or the log ends before it; BITKV_ERR_INVALID if it is no
 *         position, or of another database or number of partitions;
 *         BITKV_ERR_NO_MEMORY; BITKV_ERR_CLOSED
 */
BITKV_API int bitkv_feed_open(bitkv_feed **feed, bitkv *db, const void *position,
                              size_t position_size);

/**
 * Close a feed, before or after bitkv_close().
 * @param feed NULL is BITKV_OK
 * @return BITKV_OK; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_feed_close(bitkv_feed *feed);

/**
 * The next change that is committed.
 *
 * @param change receives it; its pointers are valid until the next call on the
 *               feed. Unspecified unless BITKV_OK
 * @return BITKV_OK; BITKV_NOT_FOUND if there is none now;
 *         BITKV_ERR_BEHIND: what comes next has been compacted away, of one
 *         partition at least; so does every further call;
 *         BITKV_ERR_CORRUPT: changes are lost by damage, which the context names;
 *         the next call goes on behind it;
 *         BITKV_ERR_IO, BITKV_ERR_TOO_MANY_FILES, BITKV_ERR_NO_MEMORY: the next
 *         call tries again; BITKV_ERR_CLOSED; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_feed_next(bitkv_feed *feed, bitkv_change *change);

/**
 * Wait until there may be a change. Looks now and then, up to some milliseconds
 * apart: writers are not slowed down, and do not wake it. Of a read-only opening it
 * refreshes (bitkv_refresh()) to see what the writer has published; bitkv_feed_next()
 * does not, and ends where the last refresh did.
 * @param timeout_ms longest wait in milliseconds; -1 without limit
 * @return BITKV_OK: call bitkv_feed_next(), which may find none all the same;
 *         BITKV_NOT_FOUND at the timeout; BITKV_ERR_CLOSED, also if
 *         bitkv_close() is called meanwhile; BITKV_ERR_FORKED; of a read-only
 *         opening also what bitkv_refresh() has, BITKV_ERR_STALE for one
 */
BITKV_API int bitkv_feed_wait(bitkv_feed *feed, int timeout_ms);

/**
 * Where the feed is: behind the change that it delivered last. Bytes to be
 * stored, 36 and 8 for each partition, and given to bitkv_feed_open().
 *
 * @param buffer   receives them; may be NULL if capacity is 0
 * @param capacity in bytes
 * @param size     receives their number, also with BITKV_ERR_BUFFER_TOO_SMALL
 * @return BITKV_OK; BITKV_ERR_BUFFER_TOO_SMALL; BITKV_ERR_INVALID;
 *         BITKV_ERR_FORKED
 */
BITKV_API int bitkv_feed_position(const bitkv_feed *feed, void *buffer, size_t capacity,
                                  size_t *size);

/* ------------------------------------------------------------------ */
/* Compaction                                                          */
/* ------------------------------------------------------------------ */

/**
 * Hears how far a long operation has come, in the thread that called it.
 * @param done  of `total` bytes; both may grow
 * @return 0 to go on; anything else cancels the operation, which then returns
 *         BITKV_ERR_CANCELED
 */
typedef int (*bitkv_progress_cb)(void *user, uint64_t done, uint64_t total);

/**
 * Compact now, whatever the options say of when: every file with dead, expired or
 * superseded records is replaced by what is alive of it, small neighbours are
 * merged, and every tombstone goes whose key no older file has. The space is
 * given back before the call returns, but for files that a snapshot, a backup
 * or a scan still needs.
 *
 * Reads and writes go on meanwhile. Needs as much free disk space as is alive
 * in one file's worth of data (max_file_size). Runs in the calling thread, one
 * partition after the other. A crash at any moment loses nothing.
 *
 * @param partition 0 to count - 1, or BITKV_ALL_PARTITIONS
 * @param progress  called some thousand times a second at most; NULL: none. May
 *                  read and write the database, may not close it
 * @param user      handed to it
 * @return BITKV_OK; BITKV_ERR_CANCELED: what was done so far stays done;
 *         BITKV_ERR_NO_SPACE; BITKV_ERR_CORRUPT if a live record does not
 *         verify: its file is left as it is; BITKV_ERR_READ_ONLY;
 *         BITKV_ERR_NO_MEMORY; BITKV_ERR_SYNC_FAILED; BITKV_ERR_CLOSED;
 *         BITKV_ERR_INVALID
 */
BITKV_API int bitkv_compact(bitkv *db, uint32_t partition, bitkv_progress_cb progress, void *user);

/* ------------------------------------------------------------------ */
/* Statistics                                                          */
/* ------------------------------------------------------------------ */

/** Where recovery took the KeyDir from. Its layout never changes: bitkv_statistics
 *  has it in its midst. */
typedef struct bitkv_recovery {
    uint64_t duration_ns;          /**< of the opening (of the longest partition) */
    uint64_t checkpoint_keys;      /**< taken from KeyDir checkpoints */
    uint64_t hint_records;         /**< replayed from hint files */
    uint64_t log_records;          /**< replayed from data files */
    uint64_t log_bytes;            /**< that those took */
    uint64_t torn_tails;           /**< unsynced tails that were cut; read-only: ends of logs
                                    *   that no refresh has got beyond */
    uint64_t torn_tail_bytes;      /**< their length, zero fill aside */
    uint64_t damaged_regions;      /**< rot in the middle: skipped */
    uint64_t damaged_bytes;        /**< their length */
    uint64_t rejected_hints;       /**< hint files that did not verify: rebuilt */
    uint64_t rejected_checkpoints; /**< checkpoints that did not verify: rebuilt */
    uint64_t removed_files;        /**< leftovers of interrupted work */
} bitkv_recovery;

/** Counters since opening, and gauges of now. */
typedef struct bitkv_statistics {
    size_t struct_size; /**< in: set it with bitkv_statistics_init() */

    /* counters of operations */
    uint64_t puts_total;
    uint64_t gets_total;        /**< every read of a key, found or not */
    uint64_t gets_miss_total;   /**< of those, absent or expired */
    uint64_t deletes_total;     /**< that removed a key */
    uint64_t compactions_total; /**< runs: some segments became one */
    uint64_t syncs_total;       /**< successful syncs of the log */
    uint64_t checkpoints_total; /**< KeyDir checkpoints written */
    uint64_t errors_total;      /**< reads and writes that failed */
    uint64_t bytes_written;     /**< appended to the log */

    /* gauges */
    uint64_t keys;           /**< live, or expired and not yet removed */
    uint64_t live_bytes;     /**< of the data files: records that a get can find */
    uint64_t dead_bytes;     /**< of the data files: overwritten, deleted, tombstones, marks */
    uint64_t disk_bytes;     /**< data, hint and checkpoint files, as allocated */
    uint64_t segments;       /**< data files */
    uint64_t segments_open;  /**< mapped or held by descriptor now */
    uint64_t open_files;     /**< descriptors held, of the whole database */
    uint64_t keydir_bytes;   /**< memory of the KeyDir, everything included */
    uint64_t unsynced_bytes; /**< appended since the last sync */
    double fragmentation;    /**< dead_bytes / (live_bytes + dead_bytes), 0 if empty */

    bitkv_recovery recovery;

    uint32_t partitions;        /**< in these figures */
    bitkv_io_mode io_mode;      /**< that runs; never AUTO */
    char io_mode_reason[96];    /**< why */
    uint32_t writes_refused;    /**< partitions that refuse writes after a failed sync */
    bitkv_backend backend;      /**< of completion queues; never AUTO */
    const char *backend_reason; /**< why; static */

    uint64_t compaction_bytes_read;    /**< of input segments */
    uint64_t compaction_bytes_written; /**< of output segments */
    uint64_t expired_total;            /**< keys that compaction removed since they had expired */

    uint64_t reserved[4];
} bitkv_statistics;

#define bitkv_statistics_init(statistics)                                                          \
    ((void)((statistics)->struct_size = sizeof(bitkv_statistics)))

/**
 * Statistics of one partition, or of all.
 *
 * Cheap, takes no lock that a reader or writer waits for long on. Figures of
 * operations running meanwhile may be counted or not.
 *
 * @param partition  0 to count - 1, or BITKV_ALL_PARTITIONS
 * @param statistics receives them; struct_size must be set
 * @return BITKV_OK, BITKV_ERR_INVALID
 */
BITKV_API int bitkv_stats(bitkv *db, uint32_t partition, bitkv_statistics *statistics);

/* ------------------------------------------------------------------ */
/* Backups and partitions                                              */
/* ------------------------------------------------------------------ */

/** What a backup did. Its layout never changes. */
typedef struct bitkv_backup_report {
    uint64_t files_linked;  /**< data and hint files that the backup shares by hard links */
    uint64_t files_copied;  /**< that it has of its own */
    uint64_t bytes_linked;  /**< of data files */
    uint64_t bytes_copied;  /**< of all files */
    uint64_t damaged_bytes; /**< that did not verify, with `accept_damage` */
    uint64_t duration_ns;
    uint64_t reserved[4];
} bitkv_backup_report;

/** Options of bitkv_backup(). */
typedef struct bitkv_backup_options {
    size_t struct_size; /**< set by bitkv_backup_options_init() */
    /** Copy every file, link none. Default false: files that are never changed
     *  again are shared with the database where the file system allows it,
     *  which takes no room and no time, and protects from mistakes, not from
     *  the loss of the disk. */
    bool no_links;
    /** Read what is linked, too, and verify every record. Default false: of
     *  linked data, the header, the size and the hint. Copies are always
     *  verified. */
    bool verify;
    /** Back up a database that has damage, with the damage. Default false: that
     *  is BITKV_ERR_CORRUPT. */
    bool accept_damage;
    bitkv_progress_cb progress;  /**< NULL: none */
    void *user;                  /**< handed to it */
    bitkv_backup_report *report; /**< receives what was done, on success; NULL: nobody asks */
    uint64_t reserved[4];
} bitkv_backup_options;

#define bitkv_backup_options_init(options)                                                         \
    bitkv_backup_options_init_sized((options), sizeof(bitkv_backup_options))
/** What bitkv_backup_options_init() calls. @param struct_size sizeof(bitkv_backup_options) */
BITKV_API void bitkv_backup_options_init_sized(bitkv_backup_options *options, size_t struct_size);

/**
 * Make a backup, while the database serves: its state at one moment, over all
 * partitions, with every write that was acknowledged before the call. Writers
 * are held up for microseconds.
 *
 * The backup is a database: bitkv_open() opens it, under the same identity. So
 * does every copy of it, and its backups take the place of the original's if they
 * go to the same target.
 *
 * Of a database that was opened read-only, the moment is that of its opening or its
 * last refresh.
 * If a writer's compaction has removed files since, it refreshes and takes that moment
 * instead; BITKV_ERR_IO, and the earlier backup stays, if that goes on faster than the
 * files can be stored.
 *
 * Open it read-only, or a copy of it (`cp -r`); opened for writing, it is a
 * backup no more, and no later backup takes its place.
 *
 * It appears under the target's name at once, complete and synced, or not at
 * all; what is being made is called <target>.partial. An earlier backup of the
 * same database is replaced at one moment; what it has of the new one's files
 * is shared with it rather than copied, if the database's own cannot be linked.
 * What a crash leaves behind, the next backup to that target removes.
 *
 * Any thread; one backup to a target at a time. bitkv_close() ends it with
 * BITKV_ERR_CLOSED.
 *
 * @param target_directory not there yet, an empty directory, or an earlier
 *                         backup of this database that nobody has open; its
 *                         parent exists, and is outside of the database
 * @param options          NULL for the defaults
 * @return BITKV_OK; BITKV_ERR_EXISTS if the target is anything else;
 *         BITKV_ERR_INVALID if it is inside of the database, its parent is
 *         missing, or its file system cannot replace an earlier backup;
 *         BITKV_ERR_LOCKED if it is open or being made (read-only openings are not
 *         noticed); BITKV_ERR_CORRUPT if the database is damaged;
 *         BITKV_ERR_CANCELED; BITKV_ERR_CLOSED; or a system error
 */
BITKV_API int bitkv_backup(bitkv *db, const char *target_directory,
                           const bitkv_backup_options *options);

/** Options of bitkv_repartition(). */
typedef struct bitkv_repartition_options {
    size_t struct_size; /**< set by bitkv_repartition_options_init() */
    /** Of the new database, as in bitkv_options. Default 0: that one's default. */
    uint64_t max_file_size;
    bitkv_io_mode io_mode;      /**< of reading and writing. Default BITKV_IO_AUTO */
    bitkv_progress_cb progress; /**< NULL: none */
    void *user;                 /**< handed to it */
    uint64_t reserved[4];
} bitkv_repartition_options;

#define bitkv_repartition_options_init(options)                                                    \
    bitkv_repartition_options_init_sized((options), sizeof(bitkv_repartition_options))
/** What bitkv_repartition_options_init() calls.
 *  @param struct_size sizeof(bitkv_repartition_options) */
BITKV_API void bitkv_repartition_options_init_sized(bitkv_repartition_options *options,
                                                    size_t struct_size);

/**
 * Give a database another number of partitions. Nobody may have it open; of that,
 * read-only openings are not noticed.
 *
 * Every live record is written to a new database, <directory>.repartition,
 * which is synced, read again and compared, and then swapped with the old one,
 * which is removed. Takes as much room again as the live data meanwhile. Until
 * the swap the old database is not touched; a crash leaves it or the new one
 * under its name, complete, and what else it leaves the next call removes. (If
 * only the removal of the old one fails, that is the error, and says so.)
 *
 * The new database has an identity of its own: earlier backups are not replaced
 * by backups of it.
 *
 * @param partitions 1 to BITKV_PARTITIONS_MAX
 * @param options    NULL for the defaults
 * @return BITKV_OK, also if it has that number already; BITKV_ERR_LOCKED;
 *         BITKV_ERR_NO_DATABASE; BITKV_ERR_CORRUPT if it has damage;
 *         BITKV_ERR_EXISTS if there are files in it that are not the library's,
 *         or <directory>.repartition is none of its leftovers;
 *         BITKV_ERR_INVALID if the directory cannot be swapped: a mount point,
 *         or a file system without RENAME_EXCHANGE; BITKV_ERR_CANCELED; or a
 *         system error
 */
BITKV_API int bitkv_repartition(const char *directory, uint32_t partitions,
                                const bitkv_repartition_options *options);

/** How far a segment's life has come. */
typedef enum bitkv_segment_phase {
    /** Is written to. Of a read-only opening, which knows no writer: the last of a
     *  partition, if it has no hint. It is where a writer appends, if there is one. */
    BITKV_SEGMENT_ACTIVE = 0,
    BITKV_SEGMENT_SEALED = 1,   /**< full; waits for its sync and its hint */
    BITKV_SEGMENT_FINISHED = 2, /**< never changes again */
} bitkv_segment_phase;

/** A data file, as bitkv_segments() shows it; valid during the callback. */
typedef struct bitkv_segment_info {
    uint32_t partition;
    bitkv_segment_phase phase;
    uint64_t id;         /**< as in the file's name */
    uint64_t bytes;      /**< used, header included */
    uint64_t live_bytes; /**< of those: records that a get can find */
    uint64_t dead_bytes; /**< the rest, but for the header */
    uint64_t disk_bytes; /**< of the data file, as allocated */
    uint64_t hint_bytes; /**< of the hint file; 0: it has none */
} bitkv_segment_info;

/**
 * Receives a segment of bitkv_segments(). May call into the database.
 * @return 0 to go on; anything else stops, and is what bitkv_segments() returns
 */
typedef int (*bitkv_segment_cb)(void *user, const bitkv_segment_info *info);

/**
 * List the segments of a partition, or of all, in order of the log: as they were
 * at one moment of each partition.
 * @param partition  0 to count - 1, or BITKV_ALL_PARTITIONS
 * @param segment_cb called in this thread
 * @param user       handed to it
 * @return BITKV_OK; what the callback returned; BITKV_ERR_INVALID;
 *         BITKV_ERR_NO_MEMORY
 */
BITKV_API int bitkv_segments(bitkv *db, uint32_t partition, bitkv_segment_cb segment_cb,
                             void *user);

/* ------------------------------------------------------------------ */
/* Completion queues: asynchronous operations                          */
/* ------------------------------------------------------------------ */

/**
 * A queue of operations of one thread.
 *
 * The thread submits operations, singly or in batches, and reaps their
 * completions. What can be done at once is done inside of bitkv_cq_submit():
 * writes are appended, and values that are in memory are read, as a pipeline
 * whose cache misses overlap. What would block is not waited for: reads of
 * values that are probably not in memory go to io_uring or to threads, and
 * writes that are to be durable wait for a sync that they share with all
 * others of their partition.
 *
 * Order. The operations of a queue take effect in the order in which they were
 * submitted: a get finds what the puts before it have stored, and nothing of
 * those behind it, however late it completes. Whether a key has expired is a
 * matter of that moment, too. Completions come in any order.
 *
 * Threads. A queue belongs to the thread that created it; another one that
 * uses it gets BITKV_ERR_INVALID. (bitkv_cq_destroy() may follow the end of
 * that thread.) Any number of queues may be open on a database.
 *
 * Every accepted operation completes exactly once, whatever happens: with its
 * result, with BITKV_ERR_CANCELED if bitkv_cq_cancel() came first, or with
 * BITKV_ERR_CLOSED if bitkv_close() did. A queue outlives its database: what
 * was submitted can be reaped after bitkv_close(), which may be called from
 * any thread, also from a callback of the queue.
 */
typedef struct bitkv_cq bitkv_cq;

typedef enum bitkv_op_kind {
    BITKV_OP_GET = 1,
    BITKV_OP_PUT = 2, /**< with the time to live of the options */
    BITKV_OP_DEL = 3, /**< may have to look at the record's head, if that could expire */
    BITKV_OP_EXISTS = 4,
    BITKV_OP_SYNC = 5, /**< as bitkv_sync(): has no key */
} bitkv_op_kind;

typedef enum bitkv_op_flags {
    /** Nothing that `key` and `value` point at is used after the submission:
     *  they are copied if need be. Without it they must stay as they are until
     *  the operation has been reaped. */
    BITKV_OP_COPY = 1,
    /** GET: the value as a pinned view, to be released by the caller; `buffer`
     *  is not used. No effect on other kinds. */
    BITKV_OP_VIEW = 2,
} bitkv_op_flags;

/** How an operation went. Its layout never changes. */
typedef struct bitkv_completion {
    uint64_t id;        /**< as counted by bitkv_cq_submit() */
    void *user_data;    /**< of the operation */
    bitkv_op_kind kind; /**< of the operation */
    int status;         /**< what the synchronous call would have returned */
    /** GET, BITKV_OK: the operation's buffer, or if that was NULL memory for
     *  bitkv_free(), a NUL byte behind the value. NULL otherwise. */
    void *value;
    size_t value_size; /**< GET: in bytes, also with BITKV_ERR_BUFFER_TOO_SMALL */
    bitkv_view view;   /**< GET with BITKV_OP_VIEW, BITKV_OK: to be released */
    /** What went wrong, where, and what to do; "" if nothing did. Owned by the
     *  queue, valid until the queue is reaped or destroyed next. */
    const char *error;
} bitkv_completion;

/**
 * Receives a completion: in the queue's thread, out of bitkv_cq_poll() or
 * bitkv_cq_wait() (or bitkv_cq_destroy(): then a submission is refused with
 * BITKV_ERR_CLOSED), and nowhere else. May submit and cancel operations and
 * close the database; may not reap or destroy the queue.
 * @param completion valid during the call; what its pointers own is the
 *                   receiver's
 */
typedef void (*bitkv_completion_cb)(bitkv_cq *cq, const bitkv_completion *completion);

/** An operation to be submitted. Zero it, then set what it needs. Its layout
 *  never changes. */
typedef struct bitkv_op {
    bitkv_op_kind kind;
    unsigned flags;     /**< of bitkv_op_flags */
    const void *key;    /**< all but SYNC */
    size_t key_size;    /**< in bytes */
    const void *value;  /**< PUT */
    size_t value_size;  /**< PUT: in bytes */
    void *buffer;       /**< GET: where the value goes, until it is reaped; NULL: allocated */
    size_t buffer_size; /**< GET: in bytes */
    bitkv_durability durability;  /**< PUT and DEL; 0 takes the option's */
    bitkv_completion_cb callback; /**< NULL: the completion is returned by poll and wait */
    void *user_data;              /**< handed back */
} bitkv_op;

/** Options of bitkv_cq_create(). */
typedef struct bitkv_cq_options {
    size_t struct_size; /**< set by bitkv_cq_options_init() */
    /** Most operations that are submitted and not yet reaped. Default 4096; 1
     *  to 1,048,576. */
    uint32_t capacity;
    uint64_t reserved[4];
} bitkv_cq_options;

#define bitkv_cq_options_init(options)                                                             \
    bitkv_cq_options_init_sized((options), sizeof(bitkv_cq_options))
/** What bitkv_cq_options_init() calls. @param struct_size sizeof(bitkv_cq_options) */
BITKV_API void bitkv_cq_options_init_sized(bitkv_cq_options *options, size_t struct_size);

/**
 * Create a queue, for the calling thread.
 * @param cq      receives it; NULL on failure
 * @param db      an open database
 * @param options NULL for the defaults
 * @return BITKV_OK; BITKV_ERR_INVALID; BITKV_ERR_NO_MEMORY; BITKV_ERR_CLOSED
 */
BITKV_API int bitkv_cq_create(bitkv_cq **cq, bitkv *db, const bitkv_cq_options *options);

/**
 * Destroy a queue: cancels what is pending, waits for what cannot be canceled,
 * calls the callbacks that are outstanding, releases results nobody reaped.
 * Before or after bitkv_close().
 * @param cq NULL is BITKV_OK
 * @return BITKV_OK; BITKV_ERR_INVALID from a callback of the queue, which then
 *         lives on; BITKV_ERR_FORKED
 */
BITKV_API int bitkv_cq_destroy(bitkv_cq *cq);

/**
 * Submit operations.
 *
 * @param cq       a queue of this thread
 * @param ops      the operations; not used after the call
 * @param count    how many
 * @param first_id receives the id of the first, at least 1; that of ops[i] is
 *                 *first_id + i. May be NULL
 * @return how many were accepted, from the first on: fewer than `count` if the
 *         queue has become full (reap, then submit the rest). If none was:
 *         BITKV_ERR_QUEUE_FULL, BITKV_ERR_CLOSED, BITKV_ERR_INVALID,
 *         BITKV_ERR_FORKED. What is wrong with a single operation is in its
 *         completion.
 */
BITKV_API int bitkv_cq_submit(bitkv_cq *cq, const bitkv_op *ops, size_t count, uint64_t *first_id);

/**
 * Reap what has completed, without waiting.
 *
 * What a callback submits is left for the next call.
 *
 * @param completions receives the completions of operations without a callback:
 *                    room for `max`, also if all have callbacks
 * @param max         at most this many are taken, those with a callback
 *                    included; not 0
 * @return how many were stored; 0 if there were none, or only such with a
 *         callback; BITKV_ERR_INVALID, BITKV_ERR_FORKED
 */
BITKV_API int bitkv_cq_poll(bitkv_cq *cq, bitkv_completion *completions, size_t max);

/**
 * The same, waiting until at least one has completed.
 *
 * @param timeout_ms longest wait in milliseconds; -1 without limit; 0 is
 *                   bitkv_cq_poll()
 * @return as bitkv_cq_poll(); 0 also at the timeout, and at once if nothing is
 *         pending
 */
BITKV_API int bitkv_cq_wait(bitkv_cq *cq, bitkv_completion *completions, size_t max,
                            int timeout_ms);

/** Operations that were submitted and not yet reaped. */
BITKV_API size_t bitkv_cq_pending(const bitkv_cq *cq);

/** Stands for every operation that is pending. */
#define BITKV_CQ_ALL UINT64_C(0)

/**
 * Cancel an operation that has not completed: it does so with
 * BITKV_ERR_CANCELED, and is reaped as any other. A write that only waits for
 * its sync stays written.
 * @param id of bitkv_cq_submit(), or BITKV_CQ_ALL
 * @return BITKV_OK: it will complete as canceled, or of all, at least one will;
 *         BITKV_NOT_FOUND if it has completed, as gets from memory have when
 *         they are submitted, or there is none;
 *         BITKV_ERR_INVALID, BITKV_ERR_FORKED
 */
BITKV_API int bitkv_cq_cancel(bitkv_cq *cq, uint64_t id);

/**
 * A descriptor for poll(), epoll or an event loop: readable when there may be
 * something to reap, for as long as there is. If it is watched level-triggered,
 * one bitkv_cq_poll() for each event is enough; edge-triggered, call it until it
 * has neither stored a completion nor called a callback. Owned by the queue; do
 * not read or close it. A wait for it may end early with EINTR, without a
 * signal: io_uring completes operations in the thread that submitted them.
 * @return the descriptor; BITKV_ERR_TOO_MANY_FILES, BITKV_ERR_INVALID,
 *         BITKV_ERR_FORKED
 */
BITKV_API int bitkv_cq_fd(bitkv_cq *cq);

/**
 * What serves this queue: the database's backend, or BITKV_BACKEND_THREADS if
 * the kernel refused this queue its ring.
 * @param reason receives why; static or owned by the queue; may be NULL
 */
BITKV_API bitkv_backend bitkv_cq_backend(const bitkv_cq *cq, const char **reason);

#ifdef __cplusplus
}
#endif

#endif /* BITKV_H */
