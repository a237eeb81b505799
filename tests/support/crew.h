/* SPDX-License-Identifier: MIT */
/*
 * A crew: several threads of one process that write, delete, compact and back
 * up a database, until the process is killed or the file system goes away under
 * it; and an oracle that knows from shared memory what the next process must
 * find. Killed processes, file systems that are shut down, full disks and the
 * soak all use it.
 *
 * What is written. Keys belong to *units*, and each unit to one thread. A unit
 * is a single key, or a group of keys that are only ever written together, in
 * one batch. Each write of a unit has a version, which its values tell; some
 * versions are deletions. So a unit's state is a number, and the batches of a
 * group are whole if its keys agree. Counters are shared by all threads.
 *
 * What is known. Before a write the thread notes its version as begun, and
 * afterwards as effective and as acknowledged, each with the time of a clock
 * that counts. That makes three rules, for a unit or a partition:
 *
 *   killed   acknowledged <= found <= begun
 *   cut off  durable <= found <= begun, where durable are those that asked for
 *            it, and those acknowledged before a sync that succeeded began
 *   prefix   if a write is found, no write of its partition is missing that was
 *            effective when it began, or that its own thread made before it
 *
 * A life begins with the opening, goes on with the oracle, which settles what
 * was found as the new state, and then with the threads. Settling is one store,
 * so that a life may end anywhere.
 */
#ifndef TESTS_SUPPORT_CREW_H
#define TESTS_SUPPORT_CREW_H

#include <bitkv.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CREW_CALLERS  2u     /* threads that make calls */
#define CREW_WRITERS  3u     /* and one with a completion queue */
#define CREW_UNITS    16384u /* at most */
#define CREW_FEW      192u   /* quickly checked */
#define CREW_GROUP    6u     /* keys of a group */
#define CREW_RING     (1u << 14)
#define CREW_COUNTERS 4u
#define CREW_VALUE    (200u << 10) /* longest value */

/* --- in shared memory ----------------------------------------------------- */

enum crew_mark {
    CREW_DURABLE = 1u,  /* acknowledged as that */
    CREW_INTERVAL = 2u, /* was to be synced soon */
    CREW_FAILED = 4u,   /* must not be seen */
    CREW_NOTHING = 8u,  /* changed nothing: a deletion of what was not there */
};

/* A write. Version and unit are there before `begun` is counted. */
struct crew_write {
    uint32_t unit, version;
    uint64_t begun;
    _Atomic uint64_t effective, acknowledged; /* 0: not known to be */
    _Atomic uint32_t marks;
};

struct crew_unit {
    uint32_t held;  /* version found when this life began */
    uint32_t first; /* that this life may use */
    _Atomic uint32_t begun, acknowledged, durable;
};

struct crew_counter {
    int64_t base;
    _Atomic int64_t durable;
    _Atomic uint32_t begun[CREW_WRITERS], acknowledged[CREW_WRITERS];
};

struct crew_model {
    uint64_t life;
    struct crew_unit units[CREW_UNITS];
    struct crew_counter counters[CREW_COUNTERS];
};

/* What a thread has written in a life, since it last folded. */
struct crew_ring {
    _Atomic uint64_t life;
    _Atomic uint32_t count;
    _Atomic uint64_t total; /* acknowledged, in all lives */
    struct crew_write writes[CREW_RING];
};

enum crew_keeping { CREW_COMPACTS, CREW_BACKS_UP, CREW_LOOKS, CREW_RESTS };
#define CREW_KEEPING (CREW_RESTS + 1)

struct crew {
    uint32_t units;
    _Atomic uint32_t which; /* of the models */
    struct crew_model models[2];
    struct crew_ring rings[CREW_WRITERS];

    _Atomic uint64_t clock;
    _Atomic uint64_t synced;   /* when the last sync that succeeded began */
    _Atomic uint64_t cut_life; /* the life that lost what was not durable */
    _Atomic uint64_t cut_at;   /* ... when that began */
    _Atomic bool rested;       /* ... after its interval had passed */

    _Atomic bool ready;   /* the threads work */
    _Atomic bool hostile; /* the errors that the plan tolerates may come */
    _Atomic bool pause, stop;
    _Atomic int trouble; /* a violation */
    _Atomic int keeping; /* enum crew_keeping: what runs just now, besides writes */

    _Atomic uint32_t backup_floor[CREW_UNITS];
    _Atomic uint64_t backups, backups_checked; /* since the database was new */
    _Atomic uint64_t backups_compared;         /* in all */
    _Atomic uint64_t compactions, snapshots, syncs, refused, recoveries, cut, torn;
};

/* --- lives -------------------------------------------------------------------- */

struct crew_plan {
    const char *path;
    const char *backup; /* target; NULL: none are made */
    bitkv_options options;
    uint64_t seed;
    unsigned tolerated;    /* bit 1 << -code: no violation while `hostile` */
    unsigned errors_most;  /* of a thread before it gives up; 0: no end */
    unsigned sync_one_in;  /* writes that ask to be durable */
    unsigned pause_one_in; /* writes after which a thread rests; 0: none */
    bool compacts;         /* by hand, too */
    bool checks_only;      /* no threads */
};

/* A crew that nobody has seen, with CREW_FEW to CREW_UNITS units. */
struct crew *crew_create(uint32_t units);
void crew_destroy(struct crew *crew);
/* The database is gone, and another one begins. */
void crew_forget(struct crew *crew);

/* In a child: one life. Ends with status 0 when it is told to stop, 1 if there
 * was a violation, 2 if the hostile world did not even let it open. */
_Noreturn void crew_live(struct crew *crew, const struct crew_plan *plan);

/* In the parent: a child that lives, and its end; the status, or 1000 + signal,
 * or -1 if it had to be ended after `patience_ms`. */
pid_t crew_start(struct crew *crew, const struct crew_plan *plan);
int crew_wait(pid_t child, uint64_t patience_ms);
/* Until the threads work, or the child has ended. */
void crew_wait_ready(struct crew *crew, pid_t child);

uint64_t crew_acknowledged(const struct crew *crew);

/* --- among the files of the crew ---------------------------------------------- */

/* A thread. What it knows of its own units no other thread changes. */
struct crew_hand {
    struct crew *crew;
    const struct crew_plan *plan;
    bitkv *db;
    unsigned index;
    uint64_t chance;
    uint32_t present[CREW_UNITS]; /* version in effect */
    unsigned errors;
    bool in_doubt; /* after a failed sync nobody knows what is in effect */
    unsigned char *value;
};

struct crew_model *crew_model(struct crew *crew);
uint64_t crew_now(struct crew *crew);
uint64_t crew_draw(struct crew_hand *hand, uint64_t n); /* below n */

static inline unsigned crew_owner(uint32_t unit)
{
    return unit % CREW_WRITERS;
}

static inline bool crew_is_group(uint32_t unit)
{
    return crew_owner(unit) < CREW_CALLERS && unit / CREW_WRITERS % 4 == 0;
}

static inline unsigned crew_keys(uint32_t unit)
{
    return crew_is_group(unit) ? CREW_GROUP : 1;
}

struct crew_key {
    char name[12];
    uint32_t unit, index;
};

struct crew_key crew_key(uint32_t unit, unsigned index);
bool crew_deletes(uint32_t unit, uint32_t version);
/* Of version 0, and of deletions. */
bool crew_is_absent(uint32_t unit, uint32_t version);
size_t crew_value(uint32_t unit, unsigned index, uint32_t version, unsigned char *value);

uint32_t crew_pick(struct crew_hand *hand, bool singles);
bitkv_durability crew_durability(struct crew_hand *hand);
struct crew_write *crew_begin(struct crew_hand *hand, uint32_t unit, bitkv_durability how);
void crew_effective(struct crew_hand *hand, struct crew_write *write);
void crew_acknowledge(struct crew_hand *hand, struct crew_write *write, int rc,
                      bitkv_durability how);
/* Does a sync that has just succeeded prove anything? Not beside a file system that
 * is being shut down: the kernel then lets some succeed that have lost their data, as
 * tests with nothing but pwrite and fdatasync show. Of a real power cut nobody is left
 * to see that. */
bool crew_proves(struct crew *crew);
/* Nothing but what was durable is kept of what the thread has written. */
void crew_fold(struct crew_hand *hand);
int crew_sync(struct crew_hand *hand);
/* A call failed: is that no violation? Ends the process if it is one. */
void crew_failed(struct crew_hand *hand, const char *what, int rc);
_Noreturn void crew_violation(struct crew *crew, int rc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool crew_goes_on(struct crew_hand *hand);

void *crew_make_calls(void *hand);
void *crew_run_queue(void *hand);
void *crew_keep_house(void *hand);

/* Reads a key of a database, a snapshot or a backup, as bitkv_get(): not as a view, whose
 * bytes may become zeros if the storage fails later. */
typedef int (*crew_reader)(void *from, const void *key, size_t key_size, void **value,
                           size_t *value_size);

#define CREW_ABSENT UINT32_MAX
/* The version that all keys of a unit have. An error is returned; what cannot be
 * a state of the unit is a violation, and names `what` is read. */
int crew_read_unit(struct crew *crew, crew_reader read, void *from, const char *what, uint32_t unit,
                   uint32_t *version);
/* What the opening has found, against what it must have, which it settles then. */
int crew_check(struct crew *crew, bitkv *db);
int crew_check_backup(struct crew *crew, const struct crew_plan *plan);

#endif
