/* SPDX-License-Identifier: MIT */
/*
 * The KeyDir of one partition: hash of a key -> where its record is. It holds
 * no keys: who finds a location compares the whole key in the record.
 *
 * Conventions, once for all calls:
 *
 *  1. "Writer" calls change the KeyDir: one at a time, under the partition's
 *     write lock. "Reader" calls take no lock and run between
 *     bkv_epoch_enter() and bkv_epoch_exit(); so may any number of them,
 *     beside a writer. A writer may call them too: with the lock held it
 *     needs no epoch section.
 *  2. A location is a number that the KeyDir doesn't look into: 57 bits, not 0.
 *  3. A reader never misses a key that is there all the time, and finds a
 *     location that the key had at some moment of the call - with one
 *     exception, which only the key in the record can show: if the key is
 *     removed (or, if deferred, moved to the table), its slot taken by
 *     another and then by the key again, all within one call, the reader may
 *     be given the other's location. Compare keys; on a mismatch look again
 *     with the lock held.
 *  4. Two keys that agree in the partition and in 73 hash bits are one key
 *     here (docs/keydir.md has the odds).
 *  5. Results are those of bitkv.h. A call that fails leaves the contents as
 *     they were.
 */
#ifndef BKV_KEYDIR_KEYDIR_H
#define BKV_KEYDIR_KEYDIR_H

#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BKV_KEYDIR_LOCATION_BITS 57u
#define BKV_KEYDIR_LOCATION_MAX  ((UINT64_C(1) << BKV_KEYDIR_LOCATION_BITS) - 1u)

/* Bits of bkv_hash_tag() that a slot knows, from bit 0. */
#define BKV_KEYDIR_TAG_BITS 9u
#define BKV_KEYDIR_TAG_MASK ((1u << BKV_KEYDIR_TAG_BITS) - 1u)

#define BKV_KEYDIR_PAGE_SIZE 4096u
/* Most pages of one group of an image, and most keys of one scan step. */
#define BKV_KEYDIR_GROUP_PAGES_MAX 61u
#define BKV_KEYDIR_GROUP_KEYS_MAX  (BKV_KEYDIR_GROUP_PAGES_MAX * (BKV_KEYDIR_PAGE_SIZE / 16u))

struct bkv_keydir;

/* An empty KeyDir takes under 70 KiB. BITKV_ERR_NO_MEMORY. */
int bkv_keydir_create(struct bkv_keydir **out);
/* No reader, no writer and no snapshot may be left. NULL is ignored. */
void bkv_keydir_destroy(struct bkv_keydir *kd);

/* ---------------------------------------------------------------- lookup */

/* Reader. True and *location if there is the key, else *location untouched. */
bool bkv_keydir_find(const struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t *location);

/* Reader. The two stages of a pipelined batch: call A for each key, then B for
 * each, then find (or, with the lock, put). A fetches the descriptor of the
 * subtable, B the first two lines of the probe. Wrong timing only costs time. */
void bkv_keydir_prefetch_table(const struct bkv_keydir *kd, const struct bkv_hash *hash);
void bkv_keydir_prefetch_line(const struct bkv_keydir *kd, const struct bkv_hash *hash);
/* As B, the four lines that a put of a new key looks at. */
void bkv_keydir_prefetch_put(const struct bkv_keydir *kd, const struct bkv_hash *hash);

/* ---------------------------------------------------------------- change */

/* Writer. Makes sure that a put of this hash, as the next change, cannot fail;
 * all growth happens here, at most one bounded step of it per call.
 * BITKV_ERR_NO_MEMORY; BITKV_ERR_LIMIT if 64 or more keys crowd the same 64
 * slots, which no honest hash brings about. */
int bkv_keydir_prepare(struct bkv_keydir *kd, const struct bkv_hash *hash);

/* Writer, right after prepare: the location that the key has; 0 if it is new. */
uint64_t bkv_keydir_prepared(const struct bkv_keydir *kd);

/* Writer, after prepare of the same hash. Sets the location; returns the one
 * before, 0 if the key is new. */
uint64_t bkv_keydir_put(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t location);

/*
 * Writer. A put that does not wait for the table's lines: prefetch_put(hash),
 * something else, then defer_prepare(hash) and defer(hash, location). Readers
 * see the key from then on; the table gets it when some more have come, or is
 * settled. (deferred.c)
 *
 * defer_prepare makes a place, by moving the oldest deferred key to the table:
 * then a defer of this hash, as the next change, cannot fail. Errors of
 * prepare, of that older key. Both report in *dead, or return, a location that
 * no key has any more, or 0.
 *
 * Until bkv_keydir_settled(), count, scan, sweep, image, snapshots, remove and
 * replace do not know of deferred keys; all but count require that there are
 * none.
 */
int bkv_keydir_defer_prepare(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t *dead);
uint64_t bkv_keydir_defer(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t location);
/* Writer. Moves one deferred key to the table: 1, or 0 if there was none, or an
 * error of prepare. */
int bkv_keydir_settle_one(struct bkv_keydir *kd, uint64_t *dead);
bool bkv_keydir_settled(const struct bkv_keydir *kd);

/* Writer. Makes sure that a remove of this hash, as the next change, cannot fail.
 * Does nothing unless there is a snapshot, so that recovery may leave it out.
 * BITKV_ERR_NO_MEMORY. */
int bkv_keydir_prepare_remove(struct bkv_keydir *kd, const struct bkv_hash *hash);
/* Writer. Returns the location that was removed, 0 if there was none. May tidy
 * up the subtable. */
uint64_t bkv_keydir_remove(struct bkv_keydir *kd, const struct bkv_hash *hash);

/* Writer. Without preparing: installs `location`, or removes the key, only if the
 * key has exactly `expected`. BITKV_OK if it had; BITKV_NOT_FOUND;
 * BITKV_ERR_NO_MEMORY. */
int bkv_keydir_replace(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t expected,
                       uint64_t location);
int bkv_keydir_remove_exact(struct bkv_keydir *kd, const struct bkv_hash *hash, uint64_t expected);

/* Writer. Removes each key whose location the callback says yes to, in one go
 * over everything (recovery: nobody waits). *removed is how many, also if
 * BITKV_ERR_NO_MEMORY ends it early, which only a snapshot can bring about. */
typedef bool (*bkv_keydir_sweep_cb)(void *user, uint64_t location);
int bkv_keydir_sweep(struct bkv_keydir *kd, bkv_keydir_sweep_cb sweep_cb, void *user,
                     uint64_t *removed);

/* --------------------------------------------------------------- figures */

/* Anybody, any time. */
uint64_t bkv_keydir_count(const struct bkv_keydir *kd);
/* Bytes mapped and allocated, everything included. */
uint64_t bkv_keydir_memory(const struct bkv_keydir *kd);

/* Writer (or a guess from anybody else). */
struct bkv_keydir_figures {
    uint64_t tables;         /* subtables */
    uint64_t pages;          /* in them */
    uint64_t pages_free;     /* ready for reuse, untouched ones of the chunk included */
    uint64_t grows;          /* steps: a subtable got pages */
    uint64_t splits;         /* steps: a subtable became two */
    uint64_t purges;         /* steps: deleted slots were cleared away */
    uint64_t copies;         /* a subtable was copied because a snapshot needs it */
    uint64_t keys_moved;     /* in all steps */
    uint64_t step_pages_max; /* pages read and written in the longest step */
};
void bkv_keydir_figures(const struct bkv_keydir *kd, struct bkv_keydir_figures *out);

/* Whether the next chunk of memory will be needed soon: the writer may then
 * wake whoever calls prepare_memory. Anybody, any time; a relaxed load. */
bool bkv_keydir_wants_memory(const struct bkv_keydir *kd);
/* Anybody, one at a time, no lock: maps the next chunk, and faults it in if it
 * will be needed soon, so that the writer needn't. */
void bkv_keydir_prepare_memory(struct bkv_keydir *kd);

/* ------------------------------------------------------------------ scan */

struct bkv_keydir_entry {
    uint64_t lo; /* bkv_hash.lo as stored: 0 and 1 became 2 and 3 */
    uint64_t location;
    uint32_t tag; /* BKV_KEYDIR_TAG_BITS bits of bkv_hash_tag() */
};

/* Growable; start with {0}, release with bkv_keydir_entries_free(). */
struct bkv_keydir_entries {
    struct bkv_keydir_entry *items;
    size_t count, capacity;
};
void bkv_keydir_entries_free(struct bkv_keydir_entries *entries);

static inline bool bkv_keydir_entry_is(const struct bkv_keydir_entry *entry,
                                       const struct bkv_hash *hash)
{
    uint64_t lo = hash->lo < 2 ? hash->lo + 2 : hash->lo;
    return entry->lo == lo && entry->tag == (bkv_hash_tag(hash) & BKV_KEYDIR_TAG_MASK);
}

/* Writer lock held for the call, free between calls. Replaces the contents of
 * `out` by those of one subtable and moves *cursor on: start with 0; when it
 * is 0 again, the scan is complete. Whatever grows between the calls, each
 * key that is there from beginning to end is delivered exactly once, and a
 * call's work is bounded (some 3,000 slots; 15,616 at the very most).
 * BITKV_ERR_NO_MEMORY: *cursor unmoved. */
int bkv_keydir_scan(const struct bkv_keydir *kd, uint64_t *cursor, struct bkv_keydir_entries *out);

/* ------------------------------------------------------------- snapshots */
/*
 * What the KeyDir held at one moment, for as long as one likes. Any number of
 * them may live, and end in any order. Taking one copies a pointer for about a
 * thousand keys; after that, the first change to a subtable copies it.
 *
 *   reserve     allocates, without the lock
 *   take        with it: from here on it can be read, and writers pay
 *   release     with it, when nobody reads it any more: writers need pay no longer
 *   free        without it
 *
 * Between take and release any number of threads may read: no lock, no epoch
 * section. A thread that did not take it has to have been handed it in a way
 * that orders memory, and so has the thread that releases it.
 */
struct bkv_keydir_snapshot;

/* Anybody. Room for a snapshot of the KeyDir as it is, and some growth.
 * BITKV_ERR_NO_MEMORY. */
int bkv_keydir_snapshot_reserve(struct bkv_keydir *kd, struct bkv_keydir_snapshot **out);
/* Writer. False if the KeyDir has outgrown the room: free it, and reserve anew. */
bool bkv_keydir_snapshot_take(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot);
/* Writer. In constant time: what only this snapshot needed becomes free with the
 * next steps of growing or copying. */
void bkv_keydir_snapshot_release(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot);
/* Anybody. One that was not taken, or has been released. NULL is ignored. */
void bkv_keydir_snapshot_free(struct bkv_keydir *kd, struct bkv_keydir_snapshot *snapshot);

/* Anybody, between take and release. As bkv_keydir_find(). */
bool bkv_keydir_snapshot_find(const struct bkv_keydir_snapshot *snapshot,
                              const struct bkv_hash *hash, uint64_t *location);
uint64_t bkv_keydir_snapshot_count(const struct bkv_keydir_snapshot *snapshot);
/* All keys are in tables 0 to tables - 1, each in exactly one. */
uint32_t bkv_keydir_snapshot_tables(const struct bkv_keydir_snapshot *snapshot);
/* Replaces the contents of `out` by those of one table: at most
 * BKV_KEYDIR_GROUP_KEYS_MAX, some 1,000 as a rule. BITKV_ERR_NO_MEMORY. */
int bkv_keydir_snapshot_scan(const struct bkv_keydir_snapshot *snapshot, uint32_t table,
                             struct bkv_keydir_entries *out);

/* ----------------------------------------------------------------- image */
/*
 * A fuzzy image: groups 0 to groups - 1, each consistent in itself, written
 * one by one under the write lock while writers go on between them. A group:
 *
 *   u32 pages   1 to BKV_KEYDIR_GROUP_PAGES_MAX
 *   u32 keys    live slots in them
 *   pages x 4096 bytes: 256 slots of two 64-bit words
 *
 * all little-endian. The image has no checksum: its file has.
 */
#define BKV_KEYDIR_GROUP_HEADER_SIZE 8u

/* Writer. Number of groups; until image_end() subtables grow but don't split.
 * One image at a time. */
uint32_t bkv_keydir_image_begin(struct bkv_keydir *kd);
/* Writer. Bytes of a group as of now; 0 if the image has failed, because a
 * subtable outgrew what a group may hold: end it, and begin anew. */
size_t bkv_keydir_image_group_size(const struct bkv_keydir *kd, uint32_t group);
/* Writer, the lock held since image_group_size(). */
void bkv_keydir_image_group(const struct bkv_keydir *kd, uint32_t group, void *buffer);
/* Writer. */
void bkv_keydir_image_end(struct bkv_keydir *kd);

/*
 * Loading into an empty KeyDir that nobody else uses yet:
 *
 *   load_begin(kd, groups)
 *   for each group, in order:
 *       load_group(kd, pages, memory)          memory[p]: read page p there
 *       load_group_finish(kd, keys, cb, user)  checks and installs it
 *   load_end(kd)
 *
 * If anything fails, load_abort() makes the KeyDir empty and usable again.
 * What was accepted can't make a later call crash or loop, whoever wrote it.
 */
int bkv_keydir_load_begin(struct bkv_keydir *kd, uint32_t groups);
/* BITKV_ERR_NO_MEMORY; BITKV_ERR_CORRUPT if `pages` is out of range or there
 * are more groups than announced. */
int bkv_keydir_load_group(struct bkv_keydir *kd, uint32_t pages, void **memory);
/* The callback sees every location: false rejects the image. BITKV_ERR_CORRUPT. */
typedef bool (*bkv_keydir_check_cb)(void *user, uint64_t location);
int bkv_keydir_load_group_finish(struct bkv_keydir *kd, uint32_t keys, bkv_keydir_check_cb check_cb,
                                 void *user);
/* BITKV_ERR_CORRUPT if groups are missing. */
int bkv_keydir_load_end(struct bkv_keydir *kd);
void bkv_keydir_load_abort(struct bkv_keydir *kd);

#endif
