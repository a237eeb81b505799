/* SPDX-License-Identifier: MIT */
/* Codes have names and messages; contexts belong to their thread. */
#include "base/error.h"
#include "base/limits.h"

#include <errno.h>
#include <pthread.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_code_has_a_name_and_a_message(void **state)
{
    (void)state;
#define CHECK(name, value, text)                                                                   \
    assert_int_equal(BITKV_##name, value);                                                         \
    assert_string_equal(bitkv_strerror(value), text);                                              \
    assert_string_equal(bitkv_error_name(value), "BITKV_" #name);
    BITKV_ERROR_MAP(CHECK)
#undef CHECK
    assert_string_equal(bitkv_strerror(12345), "unknown error");
    assert_non_null(bitkv_error_name(-12345));
}

static void system_errors_become_codes_with_their_text(void **state)
{
    (void)state;
    static const struct {
        int error, code;
    } map[] = {
        {ENOMEM, BITKV_ERR_NO_MEMORY},
        {ENOSPC, BITKV_ERR_NO_SPACE},
        {EDQUOT, BITKV_ERR_NO_SPACE},
        {EMFILE, BITKV_ERR_TOO_MANY_FILES},
        {ENFILE, BITKV_ERR_TOO_MANY_FILES},
        {EACCES, BITKV_ERR_PERMISSION},
        {EPERM, BITKV_ERR_PERMISSION},
        {EROFS, BITKV_ERR_PERMISSION},
        {EIO, BITKV_ERR_IO},
        {EINVAL, BITKV_ERR_IO},
    };
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        assert_int_equal(bkv_error_sys(map[i].error, "at offset %d", 42), map[i].code);
        assert_non_null(strstr(bitkv_error_context(), "at offset 42: "));
        assert_non_null(strstr(bitkv_error_context(), strerror(map[i].error)));
    }
}

static void a_long_context_is_cut_not_overrun(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(bkv_error(BITKV_ERR_IO, "%s", text), BITKV_ERR_IO);
    assert_int_equal(strlen(bitkv_error_context()), BKV_ERROR_CONTEXT_SIZE - 1);
    assert_int_equal(bkv_error_sys(EIO, "%s", text), BITKV_ERR_IO);
    /* What the system said is worth more than the end of a path. */
    assert_non_null(strstr(bitkv_error_context(), strerror(EIO)));
}

static void a_context_may_be_part_of_the_next(void **state)
{
    (void)state;
    (void)bkv_error(BITKV_ERR_IO, "inner");
    (void)bkv_error(BITKV_ERR_SYNC_FAILED, "outer: %s", bitkv_error_context());
    assert_string_equal(bitkv_error_context(), "outer: inner");
}

static void *other_thread(void *unused)
{
    (void)unused;
    if (bitkv_error_context()[0] != '\0')
        return (void *)1;
    (void)bkv_error(BITKV_ERR_IO, "theirs");
    return NULL;
}

static void a_context_belongs_to_its_thread(void **state)
{
    (void)state;
    (void)bkv_error(BITKV_ERR_IO, "ours");
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
    (void)pthread_join(thread, &result);
    assert_null(result);
    assert_string_equal(bitkv_error_context(), "ours");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_name_and_a_message),
        cmocka_unit_test(system_errors_become_codes_with_their_text),
        cmocka_unit_test(a_long_context_is_cut_not_overrun),
        cmocka_unit_test(a_context_may_be_part_of_the_next),
        cmocka_unit_test(a_context_belongs_to_its_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
