/* SPDX-License-Identifier: MIT */
#ifndef BKV_PARTITION_SEGMENT_LIST_H
#define BKV_PARTITION_SEGMENT_LIST_H

#include "partition/partition.h"

/* All segments of the partition at this moment, in order of the log, for
 * bkv_mfree(); NULL if there are none. */
int bkv_partition_segments(struct bkv_partition *partition, bitkv_segment_info **infos,
                           size_t *count);

#endif
