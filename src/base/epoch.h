/* SPDX-License-Identifier: MIT */
/*
 * Epoch-based reclamation (Fraser, "Practical lock-freedom", 2004): readers
 * take no lock, and what they may still be looking at is not reclaimed.
 *
 * A reader brackets its look at shared structures with bkv_epoch_enter() and
 * bkv_epoch_exit(). A writer first makes an object unreachable, then takes a
 * stamp with bkv_epoch_stamp(), and reclaims the object once
 * bkv_epoch_passed(stamp): every reader that could have reached it has left.
 *
 * The domain is the process: a thread has one slot, whatever databases it
 * reads. Slots are taken at a thread's first read and given back when it ends.
 */
#ifndef BKV_BASE_EPOCH_H
#define BKV_BASE_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

struct bkv_epoch_slot; /* a thread's own */

/* The calling thread's slot, entered; NULL if memory for one is lacking.
 * Sections of a thread may nest. */
struct bkv_epoch_slot *bkv_epoch_enter(void);
/* The same for a thread that was in a section before: it has its slot. */
struct bkv_epoch_slot *bkv_epoch_enter_again(void);
void bkv_epoch_exit(struct bkv_epoch_slot *slot);

/* Leaves the section in the middle of a call, for something that takes long, and
 * enters again: what was read before may be reclaimed in between. The call goes
 * on nevertheless, and bkv_epoch_wait() waits for its end. In a nested section
 * both do nothing, but that the pause is counted. */
void bkv_epoch_pause(struct bkv_epoch_slot *slot);
void bkv_epoch_resume(struct bkv_epoch_slot *slot);
/* The calling thread's slot, if it is in a section; else NULL. */
struct bkv_epoch_slot *bkv_epoch_here(void);
/* How often the slot has paused: if the number has changed, what was read
 * before has to be read again. It may be gone, and is out of date. */
uint32_t bkv_epoch_pauses(const struct bkv_epoch_slot *slot);

/* Small number of the slot, from 0, unique among living threads: for striping
 * counters. */
unsigned bkv_epoch_slot_index(const struct bkv_epoch_slot *slot);

/* To be taken after the object was unlinked. */
uint64_t bkv_epoch_stamp(void);
/* True once no reader is left that entered at or before the stamp. Never
 * blocks. */
bool bkv_epoch_passed(uint64_t stamp);
/* Blocks until it has passed, and until every call that began at or before the
 * stamp has ended, those in a pause included; not to be called inside a section. */
void bkv_epoch_wait(uint64_t stamp);

/* In a child of fork(): the other threads are gone, their slots are free. */
void bkv_epoch_after_fork(void);

#endif
