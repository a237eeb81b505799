/* SPDX-License-Identifier: MIT */
/*
 * Deletions without end, and compaction left to itself: the space that a
 * database takes stays bounded, however often its data has been turned over.
 *
 * One thread puts temporary keys and deletes each when some thousand others
 * have come, overwrites a few keys again and again, and never touches a stable
 * set of old ones, which is checked all along.
 *
 *   BITKV_SOAK_SECONDS   5 by default; `make soak` runs a minute of it
 *   BITKV_SOAK_RATE      MB a second that are written; 40
 */
#include "api/compaction.h"

#define STABLE     4000u
#define HOT        500u
#define TEMPORARY  3000u /* alive at a time */
#define HOT_FIRST  1000000u
#define TEMP_FIRST 2000000u
#define SEGMENT    (1u << 20)

struct soak {
    bitkv *db;
    struct chance chance;
    uint32_t next, hot_versions[HOT];
    uint32_t deleted; /* temporary keys below are gone */
    uint64_t begun_ms, rate;
    uint64_t live_most, use_most, use_sum, samples;
    double worst; /* of use to live bytes, once it has settled */
};

static size_t stable_size(uint32_t key)
{
    return 200 + mix(key) % 1500;
}

static void put_temporary(struct soak *s)
{
    put_version(s->db, TEMP_FIRST + s->next, 1, 100 + below(&s->chance, 2000));
    s->next++;
    while (s->next - s->deleted > TEMPORARY) {
        uint32_t key = TEMP_FIRST + s->deleted++;
        ok(bitkv_del(s->db, &key, sizeof key));
    }
}

static void put_hot(struct soak *s)
{
    uint32_t i = (uint32_t)below(&s->chance, HOT);
    put_version(s->db, HOT_FIRST + i, ++s->hot_versions[i], 1000);
}

static void check_some(struct soak *s)
{
    uint32_t key = (uint32_t)below(&s->chance, STABLE), i = (uint32_t)below(&s->chance, HOT);
    expect_version(s->db, key, 1, stable_size(key));
    if (s->hot_versions[i] != 0)
        expect_version(s->db, HOT_FIRST + i, s->hot_versions[i], 1000);
    if (s->deleted > 0) {
        uint32_t gone = TEMP_FIRST + (uint32_t)below(&s->chance, s->deleted);
        fails(BITKV_NOT_FOUND, bitkv_exists(s->db, &gone, sizeof gone));
    }
}

/* Of what is on disk beyond some segments that are being written or taken in. */
static double use_ratio(const struct soak *s, uint64_t use)
{
    return (double)(use > 4 * SEGMENT ? use - 4 * SEGMENT : 0) /
           (double)statistics_of(s->db).live_bytes;
}

static void take_sample(struct soak *s, uint64_t settled_ms)
{
    bitkv_statistics now = statistics_of(s->db);
    uint64_t use = disk_use(path);
    if (now_ms() - s->begun_ms < settled_ms)
        return;
    double ratio = use_ratio(s, use);
    s->worst = ratio > s->worst ? ratio : s->worst;
    s->use_most = use > s->use_most ? use : s->use_most;
    s->live_most = now.live_bytes > s->live_most ? now.live_bytes : s->live_most;
    s->use_sum += use;
    s->samples++;
}

/* Writers that are faster than the disk are no matter of this test. */
static void keep_rate(const struct soak *s, uint64_t written)
{
    uint64_t due = written * 1000 / s->rate, elapsed = now_ms() - s->begun_ms;
    if (due > elapsed)
        sleep_ms((unsigned)(due - elapsed));
}

static void report(const struct soak *s, uint64_t seconds)
{
    bitkv_statistics now = statistics_of(s->db);
    print_message(
        "%llu s: %.1f MB written, %.1f turnovers of %.1f MB alive; on disk %.1f MB at most, "
        "%.1f MB in the mean, beyond 4 segments %.2f x live at most; %llu runs read %.1f MB and "
        "wrote %.1f MB: write amplification %.2f; %llu files\n",
        (unsigned long long)seconds, (double)now.bytes_written / 1e6,
        (double)now.bytes_written / (double)s->live_most, (double)s->live_most / 1e6,
        (double)s->use_most / 1e6, (double)s->use_sum / (double)(s->samples + 1) / 1e6, s->worst,
        (unsigned long long)now.compactions_total, (double)now.compaction_bytes_read / 1e6,
        (double)now.compaction_bytes_written / 1e6,
        1 + (double)now.compaction_bytes_written / (double)now.bytes_written,
        (unsigned long long)now.segments);
}

static void work(struct soak *s, uint64_t seconds)
{
    uint64_t until = now_ms() + seconds * 1000, next_sample = 0;
    s->begun_ms = now_ms();
    while (now_ms() < until) {
        for (unsigned i = 0; i < 200; i++) {
            put_temporary(s);
            if (i % 4 == 0)
                put_hot(s);
        }
        check_some(s);
        if (now_ms() >= next_sample) {
            take_sample(s, seconds * 1000 / 4);
            next_sample = now_ms() + 100;
        }
        keep_rate(s, statistics_of(s->db).bytes_written);
    }
}

/* On a busy machine compaction may be behind a writer; when that rests it catches up,
 * or it leaves something for ever. */
static void expect_caught_up(const struct soak *s)
{
    uint64_t until = now_ms() + 30000;
    while (use_ratio(s, disk_use(path)) >= 2.1) {
        assert_true(now_ms() < until);
        sleep_ms(20);
    }
}

static void check_after(struct soak *s)
{
    for (uint32_t key = 0; key < STABLE; key++)
        expect_version(s->db, key, 1, stable_size(key));
    for (uint32_t i = 0; i < HOT; i++)
        expect_version(s->db, HOT_FIRST + i, s->hot_versions[i], 1000);
    for (uint32_t i = 0; i < s->deleted; i += 1 + i / 100)
        expect_absent(s->db, TEMP_FIRST + i, TEMP_FIRST + i + 1);
    assert_int_equal(statistics_of(s->db).keys, STABLE + HOT + s->next - s->deleted);
}

static void disk_use_stays_bounded_under_deletions(void **state)
{
    (void)state;
    uint64_t seconds = env_number("BITKV_SOAK_SECONDS", 5);
    static struct soak s;
    s = (struct soak){.chance = {.state = 3}};
    s.rate = env_number("BITKV_SOAK_RATE", UNDER_ASAN || UNDER_TSAN ? 4 : 40) * 1000000;
    bitkv_options o = one_partition(BITKV_IO_AUTO);
    o.max_file_size = SEGMENT;
    s.db = open_with(&o);
    for (uint32_t key = 0; key < STABLE; key++)
        put_version(s.db, key, 1, stable_size(key));
    for (uint32_t i = 0; i < HOT; i++)
        put_version(s.db, HOT_FIRST + i, ++s.hot_versions[i], 1000);
    unsigned descriptors = count_descriptors();
    work(&s, seconds);
    report(&s, seconds);
    assert_true(s.worst < 10.0); /* less than half of what there is if nothing goes */
    expect_caught_up(&s);
    assert_in_range(count_descriptors(), 0, descriptors + 40);
    check_after(&s);
    ok(bitkv_close(s.db));
    remove_files("keydir");
    s.db = open_with(&o);
    check_after(&s);
    ok(bitkv_close(s.db));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(disk_use_stays_bounded_under_deletions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
