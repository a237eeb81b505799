/* SPDX-License-Identifier: MIT */
/*
 * Use a large value where it lies, without a copy: verified once, and pinned
 * until it is released, whatever happens to its key meanwhile.
 *
 *     zero_copy [DIRECTORY]
 */
#include <bitkv.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE ((size_t)8 * 1024 * 1024)

static void must(int status, const char *what)
{
    if (status == BITKV_OK)
        return;
    fprintf(stderr, "%s: %s (%s)\n", what, bitkv_strerror(status), bitkv_error_context());
    exit(1);
}

static unsigned long sum(const bitkv_view *view)
{
    const unsigned char *bytes = view->data;
    unsigned long total = 0;
    for (size_t i = 0; i < view->size; i++)
        total += bytes[i];
    return total;
}

int main(int argc, char **argv)
{
    bitkv *db;
    must(bitkv_open(&db, argc > 1 ? argv[1] : "example-zero_copy.db", NULL), "open");

    char *blob = malloc(SIZE);
    if (blob == NULL)
        return 1;
    memset(blob, 3, SIZE);
    must(bitkv_put(db, "blob", 4, blob, SIZE), "put");
    free(blob);

    bitkv_view view;
    must(bitkv_get_view(db, "blob", 4, &view), "get");
    unsigned long before = sum(&view);

    /* Neither a delete nor the end of the database touches the bytes. */
    must(bitkv_del(db, "blob", 4), "delete");
    must(bitkv_close(db), "close");
    unsigned long after = sum(&view);

    printf("%zu bytes in place, sum %lu\n", view.size, after);
    bitkv_view_release(&view); /* a held view keeps its whole segment: be brief */
    return before == after && after == 3 * SIZE ? 0 : 1;
}
