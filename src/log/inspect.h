/* SPDX-License-Identifier: MIT */
/*
 * The inspector: verifies every file of a database without opening it, so that
 * one can be looked at that does not open. It changes nothing, and shares the
 * directory with read-only openers.
 */
#ifndef BKV_LOG_INSPECT_H
#define BKV_LOG_INSPECT_H

#include <stdint.h>

enum bkv_inspect_severity {
    BKV_INSPECT_INFO,    /* nothing is wrong */
    BKV_INSPECT_WARNING, /* nothing is lost: the next opening deals with it */
    BKV_INSPECT_ERROR,   /* damage */
};

struct bkv_inspect_result {
    uint64_t records, tombstones, marks; /* headers of batches count as marks */
    uint64_t bytes;                      /* read */
    uint64_t segments, hints, checkpoints;
    uint64_t findings; /* warnings and errors */
};

struct bkv_inspect_options {
    /* `file` is relative to the database; valid during the call. */
    void (*on_finding)(void *user, enum bkv_inspect_severity severity, const char *file,
                       uint64_t offset, uint64_t length, const char *message);
    void (*on_progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);
    void *user;
    struct bkv_inspect_result *result;
};

/* BITKV_OK: no errors were found; BITKV_ERR_CORRUPT: some were, and the
 * findings tell; anything else: the inspection could not be done. */
int bkv_inspect(const char *directory, const struct bkv_inspect_options *options);

#endif
