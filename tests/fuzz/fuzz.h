/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. Each target is one file fuzz_<name>.c with the
 * entry point that libFuzzer and AFL++ know; driver.c replays files with it.
 *
 * A target decides all it does from its input, so that a file is a test. Where
 * the input says so, checksums are made right first: otherwise a fuzzer would
 * not get past them, and what stands behind them would go untested.
 */
#ifndef BITKV_TESTS_FUZZ_FUZZ_H
#define BITKV_TESTS_FUZZ_FUZZ_H

#include "io/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process, as fuzzers expect of a target that has found something. */
#define FUZZ_CHECK(condition, ...)                                                                 \
    ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition, __VA_ARGS__))
__attribute__((noreturn, format(printf, 4, 5))) void
fuzz_fail(const char *file, int line, const char *condition, const char *format, ...);

/* --- taking an input apart: zeros when it is used up ----------------------------- */

struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

uint8_t fuzz_u8(struct fuzz_input *in);
uint16_t fuzz_u16(struct fuzz_input *in);
/* Up to `*size` bytes; *size is what there are. */
const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t *size);

/*
 * Files within an input, as chunks: u8 file, u16 bytes, u16 zeros, the bytes.
 * Each chunk adds the bytes and then 8 times as many zeros to its file; so the
 * long stretches of zeros in real files take no place in the corpus.
 */
#define FUZZ_FILE_MAX (256u << 10)
struct fuzz_file {
    bool there;
    uint8_t *data;
    size_t size;
};
void fuzz_files_take(struct fuzz_input *in, struct fuzz_file *files, size_t count);
void fuzz_files_free(struct fuzz_file *files, size_t count);

/* --- making checksums right ----------------------------------------------------------- */

void fuzz_mend_manifest(struct fuzz_file *file);
void fuzz_mend_hint(struct fuzz_file *file);
void fuzz_mend_checkpoint(struct fuzz_file *file);
void fuzz_mend_durable(struct fuzz_file *file);
void fuzz_mend_segment(struct fuzz_file *file);
/* Those that follow each other from `at` on. */
void fuzz_mend_records(struct fuzz_file *file, size_t at, uint64_t seed);

/* --- files ------------------------------------------------------------------------------ */

/* Whatever file is opened through the seam is this one, which is only in memory.
 * Nothing else is served. */
struct bkv_dir *fuzz_memory_begin(const uint8_t *data, size_t size);
void fuzz_memory_end(void);

/* An empty directory in a memory file system, if there is one; and no syncs,
 * which nobody waits for. */
const char *fuzz_scratch(void);
void fuzz_scratch_write(const char *name, const void *data, size_t size);

#endif
