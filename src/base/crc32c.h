/* SPDX-License-Identifier: MIT */
/*
 * CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected): the checksum of
 * iSCSI, ext4 and every record here. It finds all burst errors up to 32 bits
 * and all but 2^-32 of others. The processor's own instruction computes it
 * where there is one (SSE4.2, ARMv8), tables elsewhere.
 *
 * bkv_crc32c(0, ...) over "123456789" is 0xE3069283; values chain:
 * bkv_crc32c(bkv_crc32c(0, a), b) is the CRC of a and b joined.
 */
#ifndef BKV_BASE_CRC32C_H
#define BKV_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t bkv_crc32c(uint32_t crc, const void *data, size_t size);

/* The table version, which the tests compare with the other. */
uint32_t bkv_crc32c_portable(uint32_t crc, const void *data, size_t size);

/* The CRC continued over three 64-bit words: how a record is tied to its place
 * (log/record.h). */
uint32_t bkv_crc32c_words(uint32_t crc, uint64_t a, uint64_t b, uint64_t c);

#endif
