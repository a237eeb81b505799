/* SPDX-License-Identifier: MIT */
/*
 * Keys and values as the tool takes them from a command line: hexadecimal, base64,
 * escapes, and templates of keys. First byte: the coding (0 to 3; 4 a template).
 * Then the text.
 *
 * What is decoded is no longer than its text, and comes out the same when it is
 * written and read again. A template's parts lie in the text, and a key composed
 * of them has every field in its place.
 */
#include "fuzz/fuzz.h"

#include "coding.h"
#include "template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *copy(const void *data, size_t size)
{
    char *bytes = malloc(size + (size == 0)); /* exact: an access behind it is seen */
    FUZZ_CHECK(bytes != NULL, "out of memory");
    if (size > 0)
        memcpy(bytes, data, size);
    return bytes;
}

static char *encode(enum coding coding, const void *data, size_t size, size_t *text_size)
{
    char *text;
    FILE *stream = open_memstream(&text, text_size);
    FUZZ_CHECK(stream != NULL, "out of memory");
    coding_write(stream, coding, data, size);
    FUZZ_CHECK(fclose(stream) == 0, "out of memory");
    return text;
}

static void check_round_trip(enum coding coding, const char *bytes, size_t size)
{
    size_t text_size = 0;
    char *text = encode(coding, bytes, size, &text_size);
    FUZZ_CHECK(coding != CODING_ESCAPE || utf8_valid(text, text_size), "not text");
    struct coding_error error;
    FUZZ_CHECK(coding_decode(coding, text, &text_size, &error), "at %zu: %s", error.offset,
               error.message);
    FUZZ_CHECK(text_size == size && (size == 0 || memcmp(text, bytes, size) == 0), "other bytes");
    free(text);
}

static void decode(enum coding coding, const uint8_t *data, size_t size)
{
    char *text = copy(data, size);
    size_t decoded = size;
    struct coding_error error = {.message = NULL};
    if (coding_decode(coding, text, &decoded, &error)) {
        FUZZ_CHECK(decoded <= size, "%zu bytes of %zu", decoded, size);
        check_round_trip(coding, text, decoded);
    } else {
        FUZZ_CHECK(error.message != NULL && error.offset <= size, "at %zu of %zu", error.offset,
                   size);
    }
    free(text);
    check_round_trip(coding, (const char *)data, size);
}

/* Every field is its own name. */
static bool look_up(void *user, const char *name, size_t name_size, const char **text, size_t *size)
{
    (void)user;
    *text = name;
    *size = name_size;
    return true;
}

static bool look_up_nothing(void *user, const char *name, size_t name_size, const char **text,
                            size_t *size)
{
    (void)user, (void)name, (void)name_size, (void)text, (void)size;
    return false;
}

static void check_template(struct template *template)
{
    size_t size = 0;
    bool fields = false;
    for (size_t i = 0; i < template->part_count; i++) {
        size += template->parts[i].size;
        fields |= template->parts[i].is_field;
    }
    const char *key = NULL;
    size_t key_size = 0;
    const struct template_part *missing = NULL;
    FUZZ_CHECK(template_expand(template, look_up, NULL, &key, &key_size, &missing), "expand");
    FUZZ_CHECK(key_size == size, "%zu bytes of parts of %zu", key_size, size);
    for (size_t i = 0, at = 0; i < template->part_count; i++) {
        const struct template_part *part = &template->parts[i];
        FUZZ_CHECK(memcmp(key + at, part->text, part->size) == 0, "part %zu", i);
        at += part->size;
    }
    bool expanded = template_expand(template, look_up_nothing, NULL, &key, &key_size, &missing);
    FUZZ_CHECK(expanded == !fields, "fields that are not there");
    FUZZ_CHECK(expanded || (missing != NULL && missing->is_field), "what is missing?");
}

static void parse_template(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    FUZZ_CHECK(text != NULL, "out of memory");
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    struct template template = {.part_count = 0};
    const char *problem = template_parse(&template, text);
    if (problem == NULL)
        check_template(&template);
    else
        FUZZ_CHECK(problem[0] != '\0', "an empty message");
    template_destroy(&template);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    unsigned kind = fuzz_u8(&in) % 5;
    if (kind == 4)
        parse_template(in.data, in.size);
    else
        decode((enum coding)kind, in.data, in.size);
    return 0;
}
