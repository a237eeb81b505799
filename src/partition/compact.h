/* SPDX-License-Identifier: MIT */
/*
 * Compaction: what its files share. The way of a run:
 *
 *   victims.c   which neighbours in the log are worth it
 *   sieve.c     which of their tombstones some older segment still needs
 *   compact.c   their survivors, copied to one output segment
 *   reserve.c   space for the output, if the disk is full
 *   install.c   the output takes the inputs' place: on disk by one rename, then
 *               in the KeyDir key by key, then in the list
 *   removal.c   the worker unlinks the inputs when nobody can be reading them
 *   compactor.c the thread that does this in the background, and its pace
 *
 * A run is always of neighbours, so that its output stands for one range of
 * sequence numbers, and the log stays in the order of time: `later wins` needs
 * no more than a place in the log, and data of one age stays together, which is
 * what separates hot from cold (Rosenblum and Ousterhout, "The design and
 * implementation of a log-structured file system", 1992).
 */
#ifndef BKV_PARTITION_COMPACT_H
#define BKV_PARTITION_COMPACT_H

#include "log/hint.h"
#include "partition/state.h"

/* Share of the threshold at which compaction begins. */
#define BKV_COMPACT_BEGIN 0.98

/* Most inputs of one run. */
#define BKV_RUN_MAX 64u

struct bkv_run {
    struct bkv_segment *before; /* in the list; NULL: nothing is older */
    struct bkv_segment *segments[BKV_RUN_MAX];
    uint32_t count;
    uint64_t input_bytes;
    uint64_t keep_bytes; /* of them, as estimated */
};

/* Called between slices of some tenths of a millisecond with the input bytes
 * done since: may rest; anything but BITKV_OK ends the run with that. */
struct bkv_pace {
    int (*slice)(void *user, uint64_t bytes);
    void *user;
    bool thorough; /* the sieve may cost what it likes */
};

/* --- victims.c ------------------------------------------------------------------ */

struct bkv_look {
    uint64_t disk_bytes;  /* data and hints of all segments */
    uint64_t live_bytes;  /* that are neither dead nor expired */
    uint64_t next_due_ms; /* when more will have expired; 0: nothing will */
};

/* Bytes alone, without due times, and under no lock, while a run goes on: by the
 * thread that has chosen it. */
void bkv_look_around(struct bkv_partition *p, struct bkv_look *look);
/* Dead share of the disk space, 0 to 1. */
double bkv_look_share(const struct bkv_look *look);
/* The run that is worth most now, by what the options say; BITKV_NOT_FOUND if none is,
 * BITKV_ERR_NO_MEMORY. One at a time: under compact_mutex, or before a compactor is there. */
int bkv_run_choose(struct bkv_partition *p, struct bkv_look *look, struct bkv_run *run);
/* The next run, from the segment after `after` on (NULL: the first), of those with
 * ids below `end` that have anything to give up or are small. Results as before. */
int bkv_run_next(struct bkv_partition *p, uint64_t after_sequence, uint64_t end_sequence,
                 struct bkv_run *run);

/* --- sieve.c ------------------------------------------------------------------------ */

struct bkv_sieve {
    enum { BKV_SIEVE_NONE_NEEDED, BKV_SIEVE_ALL_NEEDED, BKV_SIEVE_SET } kind;
    uint64_t *keys; /* hash.lo; 0 is empty */
    bool *needed;
    size_t mask;
};

int bkv_sieve_begin(struct bkv_sieve *sieve, struct bkv_partition *p, const struct bkv_run *run,
                    uint64_t now_ms, const struct bkv_pace *pace);
/* May an older segment hold a value of this key? */
bool bkv_sieve_needed(const struct bkv_sieve *sieve, uint64_t lo);
void bkv_sieve_end(struct bkv_sieve *sieve);

/* --- compact.c -------------------------------------------------------------------------- */

/* A key whose location changes. */
struct bkv_move {
    uint64_t lo;
    uint64_t from; /* location; it is moved only if it still has it */
    uint64_t to;   /* entry.packed of the new one; type BKV_RECORD_NONE: it has expired */
};

struct bkv_compaction {
    struct bkv_partition *p;
    const struct bkv_run *run;
    const struct bkv_pace *pace;
    struct bkv_sieve sieve;
    uint64_t now_ms;

    struct bkv_segment *output;
    struct bkv_file file;
    uint8_t *buffer; /* the end of the output, not yet written */
    size_t used, capacity;
    uint64_t written; /* offset of the buffer in the output */
    uint64_t kept_tombstones;
    struct bkv_hint_writer hint;
    bool hint_open;

    struct bkv_move *moves;
    size_t move_count, move_capacity;

    struct bkv_segment *input; /* at hand */
    struct bkv_file input_file;
    uint8_t *window;
    uint64_t window_offset;
    size_t window_size, window_capacity;
};

/* Copies what survives of the run and puts it in its place; when there is no
 * space, once more with the reserve's. The caller holds compact_mutex. After an
 * error nothing has changed, but that without memory the end may still be to come
 * (install.c). */
int bkv_compact_run(struct bkv_partition *p, const struct bkv_run *run,
                    const struct bkv_pace *pace);

static inline int bkv_pace_slice(const struct bkv_pace *pace, uint64_t bytes)
{
    return pace->slice != NULL ? pace->slice(pace->user, bytes) : BITKV_OK;
}

void bkv_compact_output_name(char name[BKV_NAME_SIZE], const struct bkv_partition *p, uint64_t id);

/* --- install.c ------------------------------------------------------------------------------ */

/* The output is whole but for its sync. Without memory to move all keys it is in
 * its place on disk all the same, and the rest is left to bkv_compact_go_on(). */
int bkv_compact_install(struct bkv_compaction *c);
/* Before a run is chosen: the one before may not have ended. BITKV_ERR_NO_MEMORY. */
int bkv_compact_go_on(struct bkv_partition *p);

/* --- reserve.c: under compact_mutex -------------------------------------------------------------
 */

void bkv_reserve_prepare(struct bkv_partition *p);
/* True if there was one: its space is free now. */
bool bkv_reserve_release(struct bkv_partition *p);
/* Under the partition's lock: gives a deletion a piece of it; false if none is left. */
bool bkv_reserve_lend(struct bkv_partition *p);

/* --- removal.c -------------------------------------------------------------------------------- */

/* Under `lock`: the output takes the place of the run in the list. */
void bkv_segments_replace(struct bkv_partition *p, const struct bkv_run *run,
                          struct bkv_segment *output);
/* Is there something to be reclaimed that no hold keeps? */
bool bkv_removed_pending(struct bkv_partition *p);

#endif
