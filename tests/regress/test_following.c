/* SPDX-License-Identifier: MIT */
/* Bugs of following a writer that were found by other means. */
#include "api/fixture.h"

#include "base/memory.h"
#include "io/io.h"

#include <pthread.h>
#include <stdatomic.h>

/* --- a batch that is taken back ------------------------------------------------------------ */

static struct bkv_io_ops ops;
static bitkv *follower;
static pthread_t writer;
static _Atomic bool armed;
static _Atomic bool written; /* the batch's bytes are in the file */
static _Atomic unsigned refreshed;
static _Atomic int refresh_result;

static ssize_t note_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (atomic_load(&armed) && size > 20000)
        atomic_store(&written, true);
    return bkv_io_kernel.pwrite(fd, data, size, offset);
}

static void *refresh_now(void *nothing)
{
    (void)nothing;
    atomic_store(&refresh_result, bitkv_refresh(follower));
    atomic_fetch_add(&refreshed, 1);
    return NULL;
}

/* The writer's KeyDir asks for memory: a follower reads what there is, then it gets none. */
static bool refresh_and_refuse(size_t size, void *user)
{
    (void)size, (void)user;
    if (!atomic_load(&written) || !pthread_equal(pthread_self(), writer))
        return true;
    pthread_t thread;
    if (atomic_load(&refreshed) == 0 && pthread_create(&thread, NULL, refresh_now, NULL) == 0)
        (void)pthread_join(thread, NULL);
    return false;
}

static void a_batch_that_is_taken_back_is_not_followed(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    for (uint32_t partitions = 1; partitions <= 2; partitions++) {
        remove_tree(path);
        bitkv_options o = one_partition(BITKV_IO_PWRITE);
        o.partitions = partitions;
        o.max_file_size = 4 << 20;
        bitkv *db = open_with(&o);
        put_text(db, "a", "1");
        bitkv_options read_only = o;
        read_only.read_only = true;
        follower = open_with(&read_only);
        bitkv_batch *batch;
        ok(bitkv_batch_create(&batch));
        for (uint32_t key = 0; key < MANY; key++)
            ok(bitkv_batch_put(batch, &key, sizeof key, "v", 1));
        ops = bkv_io_kernel;
        ops.pwrite = note_pwrite;
        bkv_io = &ops;
        writer = pthread_self();
        atomic_store(&written, false);
        atomic_store(&refreshed, 0);
        atomic_store(&armed, true);
        bkv_alloc_set_hook(refresh_and_refuse, NULL);
        fails(BITKV_ERR_NO_MEMORY, bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        bkv_alloc_set_hook(NULL, NULL);
        atomic_store(&armed, false);
        bkv_io = &bkv_io_kernel;
        assert_int_equal(atomic_load(&refreshed), 1);
        ok(atomic_load(&refresh_result));
        uint32_t key = 7;
        fails(BITKV_NOT_FOUND, bitkv_exists(follower, &key, sizeof key));
        put_text(db, "a", "2");
        ok(bitkv_refresh(follower));
        expect_text(follower, "a", "2");
        ok(bitkv_write(db, batch, BITKV_DURABILITY_NONE));
        ok(bitkv_refresh(follower));
        for (key = 0; key < MANY; key++)
            ok(bitkv_exists(follower, &key, sizeof key));
        bitkv_batch_destroy(batch);
        ok(bitkv_close(follower));
        ok(bitkv_close(db));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_batch_that_is_taken_back_is_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
