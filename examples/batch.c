/* SPDX-License-Identifier: MIT */
/* Writes that belong together: an order, its items and a counter, all or none. */
#include <bitkv.h>

#include <stdio.h>
#include <string.h>

static int add(bitkv_batch *batch, const char *key, const char *value)
{
    return bitkv_batch_put(batch, key, strlen(key), value, strlen(value));
}

int main(void)
{
    bitkv *db;
    bitkv_batch *batch;
    if (bitkv_open(&db, "example_batch.db", NULL) != BITKV_OK ||
        bitkv_batch_create(&batch) != BITKV_OK) {
        (void)fprintf(stderr, "%s\n", bitkv_error_context());
        return 1;
    }
    int rc = add(batch, "order/17", "open");
    if (rc == BITKV_OK)
        rc = add(batch, "order/17/item/1", "apples");
    if (rc == BITKV_OK)
        rc = add(batch, "order/last", "17");
    if (rc == BITKV_OK)
        rc = bitkv_batch_del(batch, "cart/4", 6);
    /* The keys are in several partitions. After a crash, of the process or of the
     * power, all four changes are there or none of them. */
    if (rc == BITKV_OK)
        rc = bitkv_write(db, batch, BITKV_DURABILITY_SYNC);
    if (rc != BITKV_OK)
        (void)fprintf(stderr, "%s\n", bitkv_error_context());
    else
        (void)printf("%zu changes written\n", bitkv_batch_count(batch));
    bitkv_batch_destroy(batch);
    if (bitkv_close(db) != BITKV_OK)
        rc = BITKV_ERR_IO;
    return rc == BITKV_OK ? 0 : 1;
}
