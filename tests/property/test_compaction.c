/* SPDX-License-Identifier: MIT */
/*
 * Compaction of arbitrary runs in arbitrary order, with a crash image at every
 * step: no acknowledged write is lost and no deleted key returns.
 *
 * Rounds of puts and deletes of few keys, then runs that are drawn at random,
 * not chosen by the policy; before and after each system call that changes the
 * directory, its files are copied, as a kill at that moment would leave them.
 * Every image is opened, compared with a plain array, compacted in full,
 * compared, opened once more and compared.
 *
 * BITKV_SEED=n repeats a failure, BITKV_ROUNDS=n sets how many rounds.
 */
#include "api/scratch.h"

#include "db/db.h"
#include "io/io.h"
#include "partition/compact.h"

#include <stdatomic.h>

#define KEYS           120u
#define VALUE_MAX      3000u
#define DEFAULT_ROUNDS 8u
#define IMAGES_MAX     400u

/* version[k] == 0: absent */
static unsigned version[KEYS];
static unsigned next_version;
static struct chance chance;
static uint64_t round_seed;
static char directory[PATH_SIZE];
static char path[PATH_SIZE];

static unsigned pick(unsigned n)
{
    return (unsigned)below(&chance, n);
}

static size_t value_of(unsigned key, unsigned v, unsigned char *out)
{
    struct chance c = {.state = mix(key * 7919ull + v)};
    size_t size = 8 + (size_t)below(&c, below(&c, 4) == 0 ? VALUE_MAX - 8 : 200);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = c.state = mix(c.state);
        memcpy(out + i, &word, size - i < 8 ? size - i : 8);
    }
    return size;
}

static void broken(const char *what, unsigned key, int rc, const char *when)
{
    print_error("%s: key %u (version %u): %s; BITKV_SEED=%llu BITKV_ROUNDS=1 (%s)\n", when, key,
                version[key], what, (unsigned long long)round_seed,
                rc < 0 ? bitkv_error_context() : "");
    fail();
}

static void compare(bitkv *db, const char *when)
{
    static unsigned char wanted[VALUE_MAX + 8];
    static unsigned char got[VALUE_MAX + 8];
    uint64_t keys = 0;
    for (unsigned key = 0; key < KEYS; key++) {
        size_t size = 0;
        int rc = bitkv_get_into(db, &key, sizeof key, got, sizeof got, &size);
        if (version[key] == 0) {
            if (rc != BITKV_NOT_FOUND)
                broken("a deleted key is there", key, rc, when);
            continue;
        }
        keys++;
        if (rc != BITKV_OK)
            broken(bitkv_error_name(rc), key, rc, when);
        if (size != value_of(key, version[key], wanted) || memcmp(got, wanted, size) != 0)
            broken("another value", key, rc, when);
    }
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    ok(bitkv_stats(db, BITKV_ALL_PARTITIONS, &s));
    assert_int_equal(s.keys, keys);
}

static bitkv *open_at(const char *at)
{
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 1;
    o.max_file_size = 64 << 10;
    o.durability = BITKV_DURABILITY_NONE;
    o.auto_compact = false; /* runs are drawn here */
    o.io_mode = pick(2) == 0 ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o.strict_recovery = true;
    o.checkpoint_interval_bytes = pick(2) == 0 ? 100000 : 0;
    bitkv *db;
    ok(bitkv_open(&db, at, &o));
    return db;
}

/* --- crash images ------------------------------------------------------------ */

static struct bkv_io_ops ops;
static _Atomic bool imaging;
static unsigned images;
static pthread_t imager;

static void take_image(void)
{
    /* The worker may change files, too; only our own steps are of interest. */
    if (!atomic_load(&imaging) || !pthread_equal(pthread_self(), imager) || images >= IMAGES_MAX)
        return;
    char name[40];
    char image[PATH_SIZE];
    (void)snprintf(name, sizeof name, "image-%u", images++);
    copy_tree(path, inside(image, directory, name));
}

#define IMAGED(name, parameters, arguments)                                                        \
    static int imaged_##name parameters                                                            \
    {                                                                                              \
        take_image();                                                                              \
        int rc = bkv_io_kernel.name arguments;                                                     \
        take_image();                                                                              \
        return rc;                                                                                 \
    }
IMAGED(renameat, (int fd, const char *from, const char *to), (fd, from, to))
IMAGED(unlinkat, (int fd, const char *name), (fd, name))
IMAGED(fsync, (int fd), (fd))
IMAGED(fdatasync, (int fd), (fd))

static void install(void)
{
    ops = bkv_io_kernel;
    ops.renameat = imaged_renameat;
    ops.unlinkat = imaged_unlinkat;
    ops.fsync = imaged_fsync;
    ops.fdatasync = imaged_fdatasync;
    bkv_io = &ops;
}

static void check_images(void)
{
    for (unsigned i = 0; i < images; i++) {
        char name[40];
        char image[PATH_SIZE];
        (void)snprintf(name, sizeof name, "image-%u", i);
        inside(image, directory, name);
        bitkv *db = open_at(image);
        compare(db, "an image");
        ok(bitkv_compact(db, BITKV_ALL_PARTITIONS, NULL, NULL));
        compare(db, "an image, compacted");
        ok(bitkv_close(db));
        db = open_at(image);
        compare(db, "an image, compacted and reopened");
        ok(bitkv_close(db));
        remove_tree(image);
    }
    images = 0;
}

/* --- the rounds ----------------------------------------------------------------- */

static void write_some(bitkv *db, unsigned count)
{
    static unsigned char bytes[VALUE_MAX + 8];
    unsigned range = pick(2) == 0 ? KEYS : 1 + pick(KEYS);
    unsigned deletes = 1 + pick(5);
    for (unsigned i = 0; i < count; i++) {
        unsigned key = pick(range);
        if (pick(6) < deletes) {
            int rc = bitkv_del(db, &key, sizeof key);
            assert_int_equal(rc, version[key] != 0 ? BITKV_OK : BITKV_NOT_FOUND);
            version[key] = 0;
        } else {
            size_t size = value_of(key, ++next_version, bytes);
            ok(bitkv_put(db, &key, sizeof key, bytes, size));
            version[key] = next_version;
        }
    }
}

static bool is_fit(const struct bkv_segment *s)
{
    return atomic_load(&s->phase) == BKV_PHASE_FINISHED && atomic_load(&s->hint_bytes) != 0;
}

static int no_pause(void *user, uint64_t bytes)
{
    (void)user;
    (void)bytes;
    return BITKV_OK;
}

/* Some neighbours, whatever they are worth. */
static bool draw_run(struct bkv_partition *p, struct bkv_run *run)
{
    struct bkv_segment *all[512];
    unsigned count = 0;
    for (struct bkv_segment *s = atomic_load(&p->first); s != NULL && count < 512;
         s = atomic_load(&s->next))
        all[count++] = s;
    if (count == 0)
        return false;
    unsigned first = pick(count);
    if (!is_fit(all[first]))
        return false;
    *run = (struct bkv_run){.before = first > 0 ? all[first - 1] : NULL};
    unsigned most = 1 + pick(4);
    for (unsigned i = first; i < count && run->count < most && is_fit(all[i]); i++) {
        run->segments[run->count++] = all[i];
        run->input_bytes += atomic_load(&all[i]->size);
    }
    return true;
}

static void compact_at_random(bitkv *db, bool image)
{
    struct bkv_partition *p = db->partitions[0];
    struct bkv_pace pace = {.slice = no_pause, .thorough = pick(2) == 0};
    struct bkv_run run;
    if (!draw_run(p, &run))
        return;
    imager = pthread_self();
    atomic_store(&imaging, image);
    (void)pthread_mutex_lock(&p->compact_mutex);
    ok(bkv_compact_run(p, &run, &pace));
    (void)pthread_mutex_unlock(&p->compact_mutex);
    atomic_store(&imaging, false);
}

static void run_round(uint64_t seed)
{
    char name[40];
    round_seed = seed;
    chance.state = mix(seed);
    memset(version, 0, sizeof version);
    next_version = 0;
    (void)snprintf(name, sizeof name, "db-%llu", (unsigned long long)seed);
    inside(path, directory, name);
    bitkv *db = open_at(path);
    unsigned events = 10 + pick(30);
    for (unsigned e = 0; e < events; e++) {
        switch (pick(8)) {
        case 0:
            ok(bitkv_close(db));
            db = open_at(path);
            break;
        case 1:
        case 2:
        case 3:
            write_some(db, pick(700));
            break;
        case 4:
            ok(bitkv_compact(db, 0, NULL, NULL));
            break;
        default:
            compact_at_random(db, pick(4) == 0);
            break;
        }
        compare(db, "the store");
        if (images > 0) {
            ok(bitkv_close(db));
            check_images();
            db = open_at(path);
        }
    }
    ok(bitkv_close(db));
    db = open_at(path);
    compare(db, "the store at the end");
    ok(bitkv_close(db));
    remove_tree(path);
}

static void runs_in_any_order_lose_nothing_and_bring_nothing_back(void **state)
{
    (void)state;
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    const char *given = getenv("BITKV_SEED");
    const char *rounds = getenv("BITKV_ROUNDS");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)t.tv_sec * 1000u;
    unsigned count = rounds != NULL ? (unsigned)strtoul(rounds, NULL, 10) : DEFAULT_ROUNDS;
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    make_scratch(directory);
    install();
    for (unsigned i = 0; i < count; i++)
        run_round(seed + i);
    bkv_io = &bkv_io_kernel;
    remove_tree(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_in_any_order_lose_nothing_and_bring_nothing_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
