/* SPDX-License-Identifier: MIT */
#include "template.h"

#include <stdlib.h>
#include <string.h>

/* Cut off a part; adjacent literals are simply two parts. */
static void add_part(struct template *template, const char *text, size_t size, bool is_field)
{
    if (size > 0) {
        template->parts[template->part_count++] =
            (struct template_part){.text = text, .size = size, .is_field = is_field};
    }
}

const char *template_parse(struct template *template, const char *text)
{
    *template = (struct template){.storage = strdup(text)};
    /* A part has one character at least. */
    template->parts = calloc(strlen(text) + 1, sizeof *template->parts);
    if (template->storage == NULL || template->parts == NULL) {
        return "out of memory";
    }
    bool has_field = false;
    for (const char *c = template->storage; *c != '\0';) {
        if ((c[0] == '{' || c[0] == '}') && c[1] == c[0]) {
            add_part(template, c, 1, false);
            c += 2;
        } else if (c[0] == '}') {
            return "'}' without '{'";
        } else if (c[0] == '{') {
            size_t size = strcspn(++c, "{}");
            if (c[size] != '}' || size == 0) {
                return size == 0 ? "'{}' names no field" : "'{' without '}'";
            }
            add_part(template, c, size, true);
            has_field = true;
            c += size + 1;
        } else {
            size_t size = strcspn(c, "{}");
            add_part(template, c, size, false);
            c += size;
        }
    }
    return has_field ? NULL : "there is no {field} in it, so all keys would be the same";
}

void template_destroy(struct template *template)
{
    free(template->storage);
    free(template->parts);
    free(template->key);
    *template = (struct template){.storage = NULL};
}

static bool append(struct template *template, size_t *used, const char *text, size_t size)
{
    if (size > template->key_capacity - *used) {
        size_t capacity = (*used + size) * 2;
        char *key = realloc(template->key, capacity);
        if (key == NULL) {
            return false;
        }
        template->key = key;
        template->key_capacity = capacity;
    }
    if (size > 0) {
        memcpy(template->key + *used, text, size);
    }
    *used += size;
    return true;
}

bool template_expand(struct template *template, template_lookup lookup, void *user,
                     const char **key, size_t *key_size, const struct template_part **missing)
{
    size_t used = 0;
    *missing = NULL;
    for (size_t i = 0; i < template->part_count; i++) {
        const struct template_part *part = &template->parts[i];
        const char *text = part->text;
        size_t size = part->size;
        if (part->is_field && !lookup(user, part->text, part->size, &text, &size)) {
            *missing = part;
            return false;
        }
        if (!append(template, &used, text, size)) {
            return false;
        }
    }
    *key = template->key;
    *key_size = used;
    return true;
}
