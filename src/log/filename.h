/* SPDX-License-Identifier: MIT */
/* Names of the files of a database. */
#ifndef BKV_LOG_FILENAME_H
#define BKV_LOG_FILENAME_H

#include "io/file.h"

#include <stdbool.h>
#include <stdint.h>

#define BKV_MANIFEST_NAME "MANIFEST"

enum bkv_file_kind {
    BKV_FILE_OTHER,      /* not ours: left alone */
    BKV_FILE_DATA,       /* data_<id>.db */
    BKV_FILE_HINT,       /* hint_<id>.ht */
    BKV_FILE_CHECKPOINT, /* keydir.ckp */
    BKV_FILE_DOUBT,      /* sync_failed: what the disk has is not known */
    BKV_FILE_DURABLE,    /* durable: up to where the log was, while it is repaired */
    BKV_FILE_TEMPORARY,  /* one of those with .tmp, or reserve.tmp: of interrupted work */
};

void bkv_name_partition(char name[BKV_NAME_SIZE], uint32_t partition);
void bkv_name_data(char name[BKV_NAME_SIZE], uint32_t partition, uint64_t id);
void bkv_name_hint(char name[BKV_NAME_SIZE], uint32_t partition, uint64_t id);
void bkv_name_checkpoint(char name[BKV_NAME_SIZE], uint32_t partition);
/* It is there: a sync has failed. */
void bkv_name_doubt(char name[BKV_NAME_SIZE], uint32_t partition);
void bkv_name_durable(char name[BKV_NAME_SIZE], uint32_t partition);
/* Space that is kept for compaction. */
void bkv_name_reserve(char name[BKV_NAME_SIZE], uint32_t partition);

/* Is that a partition's folder, exactly as bkv_name_partition() spells it? */
bool bkv_name_parse_partition(const char *name, uint32_t *partition);

/* Kind of an entry of a partition's directory; `id` for DATA and HINT. Only
 * the exact spelling counts: no sign, no leading zero. */
enum bkv_file_kind bkv_name_parse(const char *name, uint64_t *id);

#endif
