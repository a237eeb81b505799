/* SPDX-License-Identifier: MIT */
/*
 * Disks that are really full: a tmpfs, an ext4, and an ext4 whose device has no
 * blocks left behind its back.
 *
 * On the first two writes fail with BITKV_ERR_NO_SPACE and nothing else does;
 * reads and deletions go on, compaction finds room, and writing resumes by itself
 * when there is some. On the last, file space was promised that the device then
 * does not have: syncs fail, and what they had not covered may be lost, as in a
 * power cut, but no more.
 *
 *   BITKV_SEED          of the choices, and how the threads begin
 *   BITKV_FULL_SECONDS  5, of all tests together
 */
#include "api/compaction.h"
#include "support/crew.h"
#include "support/volume.h"

#include <signal.h>

#define PATIENCE_MS 60000u

static uint64_t seed, cycles, refused, acknowledged;

struct room {
    struct volume volume;
    char database[PATH_SIZE], backup[PATH_SIZE];
    int ballast; /* a file that takes what is left; -1 */
};

/* --- filling and freeing --------------------------------------------------------- */

static void take_all(struct room *room)
{
    char name[PATH_SIZE];
    if (room->ballast < 0)
        room->ballast =
            open(inside(name, room->volume.mounted, "ballast"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(room->ballast >= 0);
    for (off_t piece = 4 << 20; piece >= 4096; piece /= 4) {
        struct stat status;
        do
            assert_int_equal(fstat(room->ballast, &status), 0);
        while (fallocate(room->ballast, 0, status.st_size, piece) == 0);
    }
}

static void give_back(struct room *room)
{
    if (room->ballast >= 0)
        assert_int_equal(ftruncate(room->ballast, 0), 0);
}

static void make_room(struct room *room, const char *type, unsigned megabytes)
{
    char options[64];
    bool tmpfs = strcmp(type, "tmpfs") == 0;
    (void)snprintf(options, sizeof options, tmpfs ? "size=%uM" : "", megabytes);
    room->ballast = -1;
    volume_make(&room->volume, type, (uint64_t)megabytes << 20, "-m 0");
    volume_mount(&room->volume, options);
    inside(room->database, room->volume.mounted, "db");
    inside(room->backup, room->volume.mounted, "backup");
}

static void leave_room(struct room *room)
{
    if (room->ballast >= 0)
        (void)close(room->ballast);
    volume_unmount(&room->volume);
    volume_remove(&room->volume);
}

static uint64_t share_ms(void)
{
    return env_number("BITKV_FULL_SECONDS", 5) * 1000 / 4;
}

/* --- a crew on a disk that is full, and not, and full ----------------------------------- */

static void draw_plan(struct chance *c, const struct room *room, struct crew_plan *plan)
{
    *plan = (struct crew_plan){.path = room->database,
                               .backup = room->backup,
                               .seed = draw(c),
                               .tolerated = 1u << -BITKV_ERR_NO_SPACE,
                               .sync_one_in = 1 + (unsigned)below(c, 1000),
                               .pause_one_in = 4,
                               .compacts = one_in(c, 3)};
    bitkv_options *o = &plan->options;
    bitkv_options_init(o);
    o->max_file_size = (64u << 10) << below(c, 4);
    o->io_mode = one_in(c, 2) ? BITKV_IO_MMAP : BITKV_IO_PWRITE;
    o->backend = one_in(c, 2) ? BITKV_BACKEND_IO_URING : BITKV_BACKEND_THREADS;
    o->io_threads = 4;
    o->sync_interval_ms = 1 + (uint32_t)below(c, 100);
    o->checkpoint_interval_bytes = one_in(c, 2) ? 1 + below(c, 1u << 20) : 0;
    o->strict_recovery = true;
}

static void expect_no_trouble(struct crew *crew, const struct room *room, int end, bool good_end)
{
    if (atomic_load(&crew->trouble) == 0 && good_end)
        return;
    print_error("a life on a full %s ended with %d; BITKV_SEED=%llu\n", room->volume.type, end,
                (unsigned long long)seed);
    fail();
}

/* Until `*count` has grown by `more`; false if it does not. */
static bool grows(struct crew *crew, struct room *room, uint64_t (*count)(struct crew *),
                  uint64_t more, bool takes)
{
    uint64_t goal = count(crew) + more, until = now_ms() + 20000;
    while (count(crew) < goal) {
        if (now_ms() > until || atomic_load(&crew->trouble) != 0)
            return false;
        if (takes)
            take_all(room);
        sleep_ms(2);
    }
    return true;
}

static uint64_t count_refused(struct crew *crew)
{
    return atomic_load(&crew->refused);
}

static uint64_t count_acknowledged(struct crew *crew)
{
    return crew_acknowledged(crew);
}

static void fill_and_free(struct crew *crew, struct room *room, struct chance *c)
{
    for (uint64_t i = 1 + below(c, 3); i-- > 0;) {
        if (!grows(crew, room, count_refused, 100, true))
            fail_msg("nothing was refused; BITKV_SEED=%llu", (unsigned long long)seed);
        give_back(room);
        if (!grows(crew, room, count_acknowledged, 300, false))
            fail_msg("writing did not resume; BITKV_SEED=%llu", (unsigned long long)seed);
        cycles++;
    }
}

static void one_life(struct crew *crew, struct room *room, struct chance *c, uint32_t partitions)
{
    struct crew_plan plan;
    draw_plan(c, room, &plan);
    plan.options.partitions = partitions;
    if (partitions == 0 && one_in(c, 3))
        take_all(room); /* an opening may need space that is not there */
    pid_t child = crew_start(crew, &plan);
    crew_wait_ready(crew, child);
    if (atomic_load(&crew->ready))
        fill_and_free(crew, room, c);
    if (one_in(c, 2))
        take_all(room);
    bool kills = one_in(c, 2);
    if (kills)
        (void)kill(child, SIGKILL);
    atomic_store(&crew->stop, true);
    int end = crew_wait(child, PATIENCE_MS);
    expect_no_trouble(crew, room, end, end == 0 || end == 2 || (kills && end == 1000 + SIGKILL));
    give_back(room);
}

static void crew_on_full(const char *type)
{
    struct chance c = {.state = seed};
    struct room room;
    struct crew *crew = crew_create(CREW_FEW);
    uint64_t until = now_ms() + share_ms();
    make_room(&room, type, 48);
    atomic_store(&crew->hostile, true);
    uint32_t partitions = 1 + (uint32_t)below(&c, 3);
    do {
        one_life(crew, &room, &c, partitions);
        partitions = 0;
    } while (now_ms() < until);
    struct crew_plan plan;
    draw_plan(&c, &room, &plan);
    plan.checks_only = true;
    int end = crew_wait(crew_start(crew, &plan), PATIENCE_MS);
    expect_no_trouble(crew, &room, end, end == 0);
    refused += atomic_load(&crew->refused);
    acknowledged += crew_acknowledged(crew);
    crew_destroy(crew);
    leave_room(&room);
}

static void a_full_tmpfs_refuses_writes_until_there_is_space(void **state)
{
    (void)state;
    crew_on_full("tmpfs");
}

static void a_full_ext4_refuses_writes_until_there_is_space(void **state)
{
    (void)state;
    if (volume_lacks("ext4") != NULL)
        skip();
    crew_on_full("ext4");
}

/* --- one thread, step by step ----------------------------------------------------------- */

static int put_block(bitkv *db, uint32_t key)
{
    static unsigned char value[3000];
    fill(value, sizeof value, key);
    return bitkv_put_with(db, &key, sizeof key, value, sizeof value, BITKV_DURABILITY_NONE);
}

/* How many could be put until nothing makes room for one more. Not so fast that the disk
 * is full before a segment could be finished: compaction keeps its reserve from then on. */
static uint32_t put_until_full(bitkv *db)
{
    uint32_t count = 0;
    for (unsigned refusals = 0; refusals < 20;) {
        if (count % 32 == 0)
            sleep_ms(1);
        int rc = put_block(db, count);
        if (rc == BITKV_OK) {
            count++;
            refusals = 0;
            continue;
        }
        fails(BITKV_ERR_NO_SPACE, rc);
        refusals++;
        sleep_ms(5);
    }
    return count;
}

static void expect_blocks(bitkv *db, uint32_t count, uint32_t deleted)
{
    static unsigned char wanted[3000];
    for (uint32_t key = 0; key < count; key++) {
        bitkv_view view;
        int rc = bitkv_get_view(db, &key, sizeof key, &view);
        if (key < deleted) {
            fails(BITKV_NOT_FOUND, rc);
            continue;
        }
        ok(rc);
        fill(wanted, sizeof wanted, key);
        assert_int_equal(view.size, sizeof wanted);
        assert_memory_equal(view.data, wanted, sizeof wanted);
        bitkv_view_release(&view);
    }
}

static void eventually(bitkv *db, int (*write)(bitkv *db, uint32_t key), uint32_t key)
{
    uint64_t until = now_ms() + 60000;
    int rc;
    while ((rc = write(db, key)) != BITKV_OK) {
        fails(BITKV_ERR_NO_SPACE, rc);
        if (now_ms() > until)
            fail_msg("key %u: no space, though there should be some", key);
        sleep_ms(1);
    }
}

static int delete_block(bitkv *db, uint32_t key)
{
    return bitkv_del_with(db, &key, sizeof key, BITKV_DURABILITY_NONE);
}

static void fill_up(const char *type, bitkv_io_mode mode)
{
    struct room room;
    make_room(&room, type, 24);
    bitkv_options o;
    bitkv_options_init(&o);
    o.partitions = 2;
    o.io_mode = mode;
    o.max_file_size = 512 << 10;
    o.strict_recovery = true;
    bitkv *db;
    ok(bitkv_open(&db, room.database, &o));
    uint32_t count = put_until_full(db), deleted = count / 2, more = count / 4;
    assert_true(count > 3000);
    expect_blocks(db, count, 0);
    for (uint32_t key = 0; key < deleted; key++)
        eventually(db, delete_block, key);
    for (uint32_t key = 0; key < more; key++)
        eventually(db, put_block, count + key);
    expect_blocks(db, count + more, deleted);
    int rc = bitkv_close(db);
    assert_true(rc == BITKV_OK || rc == BITKV_ERR_NO_SPACE);
    ok(bitkv_open(&db, room.database, &o));
    expect_blocks(db, count + more, deleted);
    ok(bitkv_close(db));
    print_message("%s: full with %u keys; deleted %u, then put %u more\n", type, count, deleted,
                  more);
    leave_room(&room);
    cycles++;
}

static void a_full_database_makes_room_by_deletions(void **state)
{
    (void)state;
    bool ext4 = volume_lacks("ext4") == NULL;
    for (unsigned i = 0; i < 2; i++) {
        fill_up("tmpfs", both_modes[i]);
        if (ext4)
            fill_up("ext4", both_modes[i]);
    }
}

/* --- a device that has less than it says ------------------------------------------------ */

/* The image has holes, and what it lies on is nearly full: blocks that ext4 has
 * reserved cannot be written. The kernel tells by EIO from sync, and by nothing else. */
static void one_thin_life(struct crew *crew, struct room *room, struct volume *thin,
                          struct chance *c, uint32_t partitions)
{
    struct crew_plan plan;
    draw_plan(c, room, &plan);
    plan.options.partitions = partitions;
    plan.errors_most = 20;
    plan.tolerated = 1u << -BITKV_ERR_IO | 1u << -BITKV_ERR_SYNC_FAILED |
                     1u << -BITKV_ERR_NO_SPACE | 1u << -BITKV_ERR_PERMISSION |
                     1u << -BITKV_ERR_CORRUPT;
    pid_t child = crew_start(crew, &plan);
    crew_wait_ready(crew, child);
    sleep_ms((unsigned)below(c, 60));
    atomic_store(&crew->hostile, true);
    take_all(room);
    uint64_t until = now_ms() + 300;
    while (atomic_load(&crew->refused) == 0 && now_ms() < until)
        sleep_ms(5);
    atomic_store(&crew->stop, true);
    int end = crew_wait(child, PATIENCE_MS);
    expect_no_trouble(crew, room, end, end == 0 || end == 2);
    refused += atomic_exchange(&crew->refused, 0);
    /* What is dirty is lost, and what the device lacks comes back. */
    volume_shut_down(thin, VOLUME_CUT_BARE);
    atomic_store(&crew->cut_life, crew_model(crew)->life);
    volume_unmount(thin);
    give_back(room);
    atomic_store(&crew->hostile, false);
    cycles++;
}

static void a_device_without_blocks_loses_nothing_that_was_synced(void **state)
{
    (void)state;
    if (volume_lacks("ext4") != NULL)
        skip();
    struct chance c = {.state = seed + 1};
    struct room room;
    struct volume thin;
    struct crew *crew = crew_create(CREW_FEW);
    uint64_t until = now_ms() + share_ms();
    make_room(&room, "ext4", 80);
    volume_make_on(&thin, &room.volume, "ext4", 256ull << 20, "");
    inside(room.database, thin.mounted, "db");
    inside(room.backup, thin.mounted, "backup");
    uint32_t partitions = 2;
    /* ext4 itself may not survive that its journal could not be written. */
    bool mounts = volume_mounts(&thin, "");
    for (unsigned lives = 0; mounts && now_ms() < until && lives < 20; lives++) {
        one_thin_life(crew, &room, &thin, &c, partitions);
        partitions = 0;
        mounts = volume_mounts(&thin, "");
    }
    if (mounts) {
        struct crew_plan plan;
        draw_plan(&c, &room, &plan);
        plan.checks_only = true;
        int end = crew_wait(crew_start(crew, &plan), PATIENCE_MS);
        expect_no_trouble(crew, &room, end, end == 0);
        volume_unmount(&thin);
    }
    volume_remove(&thin);
    acknowledged += crew_acknowledged(crew);
    crew_destroy(crew);
    leave_room(&room);
}

int main(void)
{
    const char *why = volume_begin();
    if (why != NULL) {
        printf("torture: skipped: %s\n", why);
        return VOLUME_SKIPPED;
    }
    seed = env_number("BITKV_SEED", (uint64_t)time(NULL));
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_tmpfs_refuses_writes_until_there_is_space),
        cmocka_unit_test(a_full_ext4_refuses_writes_until_there_is_space),
        cmocka_unit_test(a_full_database_makes_room_by_deletions),
        cmocka_unit_test(a_device_without_blocks_loses_nothing_that_was_synced),
    };
    const char *only = getenv("BITKV_TEST"); /* its name, or a part of it with wildcards */
    if (only != NULL)
        cmocka_set_test_filter(only);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    printf("torture: %llu times full and free again, %llu calls refused, %llu operations "
           "acknowledged\n",
           (unsigned long long)cycles, (unsigned long long)refused,
           (unsigned long long)acknowledged);
    return failures;
}
