/* SPDX-License-Identifier: MIT */
/*
 * Errors travel as codes; what they are about travels beside them, in a fixed
 * buffer of the failing thread that bitkv_error_context() shows.
 */
#ifndef BKV_BASE_ERROR_H
#define BKV_BASE_ERROR_H

#include <bitkv.h>

#include <stdarg.h>

/* Sets the context and returns `code`, so that a failing function ends with
 * `return bkv_error(BITKV_ERR_X, "...")`. */
int bkv_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* So that analysers see that what is returned is the code, and no success. */
#define bkv_error(code, ...) ((void)(bkv_error)((code), __VA_ARGS__), (code))

/* The same for a failed system call: chooses the code by errno value and
 * appends its text. */
int bkv_error_sys(int sys_errno, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Code for an errno value. */
int bkv_error_code(int sys_errno);

/* Context from one thread to another (a worker failed on somebody's behalf). */
void bkv_error_context_set(const char *text);

#endif
