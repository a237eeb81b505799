/* SPDX-License-Identifier: MIT */
/*
 * Assertions are for bugs of this library, never for input or I/O. They stay
 * on in release builds where they cost nothing that can be measured
 * (BKV_ASSERT), and are left to debug and sanitizer builds on hot paths
 * (BKV_DEBUG_ASSERT). A store that has lost an invariant must not go on
 * writing, so a failed assertion traps.
 *
 * A build that measures coverage takes them for true (BKV_COVERAGE): that no
 * test makes one fail is no branch that tests have missed.
 */
#ifndef BKV_BASE_ASSERT_H
#define BKV_BASE_ASSERT_H

#define BKV_LIKELY(x)   __builtin_expect(!!(x), 1)
#define BKV_UNLIKELY(x) __builtin_expect(!!(x), 0)

#if defined(BKV_COVERAGE)
#define BKV_ASSERT(condition) ((void)0)
#else
#define BKV_ASSERT(condition)                                                                      \
    do {                                                                                           \
        if (BKV_UNLIKELY(!(condition)))                                                            \
            __builtin_trap();                                                                      \
    } while (0)
#endif

#if defined(BKV_DEBUG) || defined(BKV_COVERAGE)
#define BKV_DEBUG_ASSERT(condition) BKV_ASSERT(condition)
#else
#define BKV_DEBUG_ASSERT(condition) ((void)sizeof(condition))
#endif

#endif
