/* SPDX-License-Identifier: MIT */
#include "base/error.h"

#include "base/limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char context[BKV_ERROR_CONTEXT_SIZE];

const char *bitkv_strerror(int code)
{
    switch (code) {
#define CASE(name, value, text)                                                                    \
    case (value):                                                                                  \
        return (text);
        BITKV_ERROR_MAP(CASE)
#undef CASE
    default:
        return "unknown error";
    }
}

const char *bitkv_error_name(int code)
{
    switch (code) {
#define CASE(name, value, text)                                                                    \
    case (value):                                                                                  \
        return "BITKV_" #name;
        BITKV_ERROR_MAP(CASE)
#undef CASE
    default:
        return "BITKV_UNKNOWN";
    }
}

const char *bitkv_error_context(void)
{
    return context;
}

void bkv_error_context_set(const char *text)
{
    (void)snprintf(context, sizeof context, "%s", text);
}

int(bkv_error)(int code, const char *format, ...)
{
    /* Formatted aside: an argument may be the present context itself. */
    char text[BKV_ERROR_CONTEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bkv_error_context_set(text);
    return code;
}

int bkv_error_code(int sys_errno)
{
    switch (sys_errno) {
    case ENOMEM:
        return BITKV_ERR_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
        return BITKV_ERR_NO_SPACE;
    case EMFILE:
    case ENFILE:
        return BITKV_ERR_TOO_MANY_FILES;
    case EACCES:
    case EPERM:
    case EROFS:
        return BITKV_ERR_PERMISSION;
    default:
        return BITKV_ERR_IO;
    }
}

/* What the user can do about it, where there is something. */
static const char *advice(int code)
{
    switch (code) {
    case BITKV_ERR_TOO_MANY_FILES:
        return "; raise `ulimit -n` or lower max_open_segments or the partition count";
    case BITKV_ERR_NO_SPACE:
        return "; free some space: writing resumes by itself";
    default:
        return "";
    }
}

int bkv_error_sys(int sys_errno, const char *format, ...)
{
    char what[BKV_ERROR_CONTEXT_SIZE];
    char why[128];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    int code = bkv_error_code(sys_errno);
    const char *text = strerror_r(sys_errno, why, sizeof why);
    return bkv_error(code, "%.380s: %s%s", what, text, advice(code));
}
