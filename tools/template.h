/* SPDX-License-Identifier: MIT */
/* Keys composed from fields: '{Package}/{Version}'. */
#ifndef BITKV_TOOLS_TEMPLATE_H
#define BITKV_TOOLS_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

struct template_part {
    const char *text; /* literal text, or a field's name */
    size_t size;
    bool is_field;
};

struct template
{
    char *storage;
    struct template_part *parts;
    size_t part_count;
    char *key; /* of the last template_expand() */
    size_t key_capacity;
};

/*
 * Look a field up. Returns false if there is none; the text stays valid until the next record.
 */
typedef bool (*template_lookup)(void *user, const char *name, size_t name_size, const char **text,
                                size_t *size);

/* Returns NULL, or a static text of what is wrong. */
const char *template_parse(struct template *template, const char *text);
void template_destroy(struct template *template);

/*
 * Compose a key, which stays valid until the next call.
 * missing: receives the field that is not there
 * Returns false if a field is missing, or, with missing set to NULL, for want of memory.
 */
bool template_expand(struct template *template, template_lookup lookup, void *user,
                     const char **key, size_t *key_size, const struct template_part **missing);

#endif
