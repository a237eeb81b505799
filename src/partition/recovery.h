/* SPDX-License-Identifier: MIT */
/* What the files of recovery share. */
#ifndef BKV_PARTITION_RECOVERY_H
#define BKV_PARTITION_RECOVERY_H

#include "log/checkpoint.h"
#include "log/durable.h"
#include "log/hint.h"
#include "log/scan.h"
#include "log/segment.h"
#include "partition/follow.h"
#include "partition/state.h"

/* A data file that was found, in order of the log after sorting. */
struct bkv_found {
    uint64_t id;
    uint64_t file_size;
    uint64_t base_sequence;
    uint64_t range_last; /* of a compacted segment: it stands for all up to here */
    uint64_t hint_last;  /* of one without a header: what its hint says; 0: nothing */
    enum bkv_segment_state state;
    bool compacted;
    bool hint; /* there is a hint file, and nothing wrong with it so far */
    bool hint_rejected;
    bool covered;             /* by the checkpoint, as a whole */
    bool dropped;             /* behind a cut */
    bool lost;                /* without its first page, and without a place in the log */
    uint64_t checkpoint_size; /* of a segment in the checkpoint's table */
    uint64_t checkpoint_last; /* its last sequence */
    struct bkv_segment *segment;
};

/* A file without a place in the log, which may lie behind its end. */
struct bkv_lost {
    uint64_t id, size;
    bool torn; /* it does */
};

/* A place in the log: index into `found`, offset. */
struct bkv_place {
    size_t file;
    uint64_t offset;
};

/* A batch's group that lies behind `durable`, and is whole. */
struct bkv_open_group {
    struct bkv_place place;
    uint64_t sequence; /* of the header */
    size_t first_peer; /* index into open_peers */
    uint32_t peers;
};

/* A part of the same batch elsewhere. */
struct bkv_open_peer {
    uint32_t partition;
    uint32_t count;    /* records behind the header */
    uint64_t sequence; /* of the header there */
};

struct bkv_recover {
    struct bkv_partition *p;
    struct bkv_found *found;
    size_t count, capacity;
    bool checkpoint_found;
    bool doubtful;            /* a sync had failed */
    bool proof_found;         /* there is a file `durable`, then: one that verifies */
    bool adopted;             /* the checkpoint is in */
    struct bkv_durable proof; /* what it says */
    bool checkpoint_rejected;
    uint64_t *orphan_hints;
    size_t orphan_count, orphan_capacity;
    struct bkv_lost *lost;
    size_t lost_count;
    bool lost_torn; /* some are */

    struct bkv_place start;   /* replay begins here */
    struct bkv_place durable; /* all before it was durable */
    bool looked_ahead;        /* `durable` takes in the marks of all the rest */
    uint64_t last_sequence;   /* of the log so far; 0: none */
    uint64_t max_id;
    bool cut;
    unsigned warnings;
    uint64_t proof_offset; /* of the last record that was read from the log; 0: none */
    uint64_t proof_segment;
    uint64_t dropped_id; /* highest of those behind the cut */

    /* A read-only opening: a writer may be at work. Whatever is found wrong is read
     * again before it is judged. */
    bool settled;   /* what is wrong now stays so */
    uint64_t doubt; /* what was found wrong, as a number */

    /* batch_recovery.c: from the first group on whose peers are elsewhere, nothing
     * goes into the KeyDir before all partitions are known */
    bool waiting;
    struct bkv_place wait_place;
    uint64_t wait_sequence; /* of the log before */
    struct bkv_open_group *open_groups;
    size_t open_count, open_capacity;
    struct bkv_open_peer *open_peers;
    size_t peer_count, peer_capacity;
    uint64_t kept_sequence; /* what is decided: the last of the log */
    bool cut_decided;
    struct bkv_place cut_place;

    /* a batch on its way into the KeyDir */
    struct bkv_pending {
        struct bkv_hash hash;
        uint64_t location;
        enum bkv_record_type type;
    } batch[64];
    size_t batched;
};

static inline bool bkv_place_before(struct bkv_place a, struct bkv_place b)
{
    return a.file < b.file || (a.file == b.file && a.offset < b.offset);
}

static inline void bkv_raise_durable(struct bkv_recover *r, struct bkv_place place)
{
    if (bkv_place_before(r->durable, place))
        r->durable = place;
}

/* headless.c: a file without a valid header. What it is, by what is in it; then, when
 * all are known, which of them compaction has made. */
int bkv_headless_judge(struct bkv_recover *r, struct bkv_found *f, const struct bkv_file *file);
void bkv_headless_outputs(struct bkv_recover *r);
/* Those that have no place in the log: after the replay it is told whether they are
 * the log's torn tail, or damage. */
int bkv_headless_note_lost(struct bkv_recover *r, const struct bkv_found *f);
bool bkv_headless_is_lost(const struct bkv_recover *r, uint64_t id);
int bkv_headless_lost(struct bkv_recover *r);

/* Is there a hint for the segment? Once the files are listed. */
bool bkv_recover_has_hint(const struct bkv_recover *r, uint64_t id);

/* doubt.c: a sync had failed; before any of the files is read. */
int bkv_doubt_settle(struct bkv_recover *r);

/* proof.c: rot that was skipped is known for rot at the next opening, too. What an
 * earlier one has left for it; before and after what is cut is removed. */
int bkv_proof_read(struct bkv_recover *r);
int bkv_proof_keep(struct bkv_recover *r);
int bkv_proof_settle(struct bkv_recover *r);

/* recovery_load.c */
int bkv_recover_checkpoint(struct bkv_recover *r);

/* replay.c */
int bkv_replay(struct bkv_recover *r);
/* Applies what was held back, as far as it was decided to hold. */
int bkv_replay_rest(struct bkv_recover *r);

/* batch_recovery.c */
/* The group whose header the scanner has just delivered, which is not known to be
 * durable: is it whole? If so, and if it has peers, it is noted, and what follows
 * waits. The scanner is left behind the header; what `item` points at is gone. */
int bkv_group_take(struct bkv_recover *r, struct bkv_scanner *scanner, struct bkv_place place,
                   const struct bkv_scan_item *item, bool *whole);
/* Cuts the log as decided. */
void bkv_groups_cut(struct bkv_recover *r);
void bkv_groups_free(struct bkv_recover *r);

/* Of what a repair wrote or cut. If it fails, so does the opening, and the next is told. */
int bkv_recover_sync(struct bkv_recover *r, const struct bkv_file *file);

/* A file that was listed is not there: a code for `rc`, if it is BITKV_NOT_FOUND. */
int bkv_recover_vanished(const struct bkv_recover *r, int rc);

/* Something is wrong, which a writer at work may explain: true if all is to be read
 * again. What it was, and where, tells a second finding from the first. */
bool bkv_recover_doubts(struct bkv_recover *r, const char *what, uint64_t where);

/* Counts a damaged region and warns; BITKV_ERR_CORRUPT with strict recovery. */
int bkv_recover_damage(struct bkv_recover *r, const char *name, uint64_t offset, uint64_t size,
                       const char *what);

#endif
