/* SPDX-License-Identifier: MIT */
/* The crew's memory, its notes, and a life from the opening to its end. */
#include "support/crew.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void rest_us(long us)
{
    struct timespec t = {.tv_nsec = us * 1000};
    (void)nanosleep(&t, NULL);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- memory ----------------------------------------------------------------- */

struct crew *crew_create(uint32_t units)
{
    struct crew *crew =
        mmap(NULL, sizeof *crew, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (crew == MAP_FAILED)
        abort();
    atomic_store(&crew->clock, 1);
    crew->units = units;
    crew_forget(crew);
    return crew;
}

void crew_destroy(struct crew *crew)
{
    (void)munmap(crew, sizeof *crew);
}

void crew_forget(struct crew *crew)
{
    struct crew_model *old = crew_model(crew);
    uint32_t other = 1 - atomic_load(&crew->which);
    struct crew_model *model = &crew->models[other];
    memset(model, 0, sizeof *model);
    model->life = old->life + 1;
    for (uint32_t u = 0; u < crew->units; u++) {
        model->units[u].first = 1;
        atomic_store(&crew->backup_floor[u], 0);
    }
    atomic_store(&crew->backups, 0);
    atomic_store(&crew->backups_checked, 0);
    atomic_store(&crew->which, other);
}

struct crew_model *crew_model(struct crew *crew)
{
    return &crew->models[atomic_load(&crew->which)];
}

uint64_t crew_now(struct crew *crew)
{
    return atomic_fetch_add(&crew->clock, 1);
}

uint64_t crew_acknowledged(const struct crew *crew)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < CREW_WRITERS; i++)
        sum += atomic_load(&crew->rings[i].total);
    return sum;
}

/* --- what versions are --------------------------------------------------------- */

struct crew_key crew_key(uint32_t unit, unsigned index)
{
    return (struct crew_key){.name = "crew/", .unit = unit, .index = index};
}

bool crew_deletes(uint32_t unit, uint32_t version)
{
    return mix((uint64_t)unit << 32 | version) % 5 == 0;
}

bool crew_is_absent(uint32_t unit, uint32_t version)
{
    return version == 0 || crew_deletes(unit, version);
}

static size_t value_size(uint32_t unit, unsigned index, uint32_t version)
{
    uint64_t h = mix(((uint64_t)unit << 32 | version) + 7777 * (uint64_t)index);
    size_t least = 16;
    if (crew_is_group(unit))
        return least + h % 900;
    if (h % 400 == 0)
        return least + h / 400 % (CREW_VALUE - least); /* sometimes more than a segment */
    return least + (h % 5 == 0 ? h / 5 % 5000 : h / 5 % 150);
}

size_t crew_value(uint32_t unit, unsigned index, uint32_t version, unsigned char *value)
{
    size_t size = value_size(unit, index, version), at = 16;
    uint32_t head[4] = {unit, index, version, (uint32_t)size};
    memcpy(value, head, sizeof head);
    uint64_t word = mix((uint64_t)unit << 32 | version) + index;
    for (; at + 8 <= size; at += 8) {
        memcpy(value + at, &word, 8);
        word = word * 6364136223846793005u + 1442695040888963407u;
    }
    memcpy(value + at, &word, size - at);
    return size;
}

/* --- chance --------------------------------------------------------------------- */

uint64_t crew_draw(struct crew_hand *hand, uint64_t n)
{
    return mix(hand->chance++) % n;
}

/* Some are left alone for long: those are rewritten by compaction only. */
uint32_t crew_pick(struct crew_hand *hand, bool singles)
{
    for (;;) {
        uint32_t of_hand = hand->crew->units / CREW_WRITERS;
        uint64_t n = crew_draw(hand, 20) == 0 ? of_hand : of_hand / 4;
        uint32_t unit = (uint32_t)crew_draw(hand, n) * CREW_WRITERS + hand->index;
        if (!singles || !crew_is_group(unit))
            return unit;
    }
}

bitkv_durability crew_durability(struct crew_hand *hand)
{
    if (crew_draw(hand, hand->plan->sync_one_in) == 0)
        return BITKV_DURABILITY_SYNC;
    return crew_draw(hand, 3) == 0 ? BITKV_DURABILITY_NONE : BITKV_DURABILITY_INTERVAL;
}

/* --- notes --------------------------------------------------------------------------- */

struct crew_write *crew_begin(struct crew_hand *hand, uint32_t unit, bitkv_durability how)
{
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    struct crew_unit *u = &crew_model(hand->crew)->units[unit];
    uint32_t at = atomic_load(&ring->count);
    struct crew_write *write = &ring->writes[at];
    write->unit = unit;
    write->version = atomic_load(&u->begun) + 1;
    if (write->version < u->first)
        write->version = u->first;
    atomic_store(&write->effective, 0);
    atomic_store(&write->acknowledged, 0);
    atomic_store(&write->marks, how == BITKV_DURABILITY_NONE ? 0 : CREW_INTERVAL);
    write->begun = crew_now(hand->crew);
    atomic_store(&ring->count, at + 1);
    atomic_store(&u->begun, write->version);
    return write;
}

void crew_effective(struct crew_hand *hand, struct crew_write *write)
{
    atomic_store(&write->effective, crew_now(hand->crew));
}

bool crew_proves(struct crew *crew)
{
    return !atomic_load(&crew->hostile);
}

static void raise_to(_Atomic uint32_t *to, uint32_t version)
{
    if (atomic_load(to) < version) /* one thread writes it */
        atomic_store(to, version);
}

void crew_acknowledge(struct crew_hand *hand, struct crew_write *write, int rc,
                      bitkv_durability how)
{
    struct crew_unit *u = &crew_model(hand->crew)->units[write->unit];
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    if (rc == BITKV_NOT_FOUND)
        atomic_fetch_or(&write->marks, CREW_NOTHING);
    else if (how == BITKV_DURABILITY_SYNC && crew_proves(hand->crew))
        atomic_fetch_or(&write->marks, CREW_DURABLE);
    atomic_store(&write->acknowledged, crew_now(hand->crew));
    raise_to(&u->acknowledged, write->version);
    atomic_store(&ring->total, atomic_load(&ring->total) + 1);
}

int crew_sync(struct crew_hand *hand)
{
    struct crew *crew = hand->crew;
    struct crew_model *model = crew_model(crew);
    int64_t sums[CREW_COUNTERS];
    for (unsigned i = 0; i < CREW_COUNTERS; i++) {
        sums[i] = model->counters[i].base;
        for (unsigned w = 0; w < CREW_WRITERS; w++)
            sums[i] += atomic_load(&model->counters[i].acknowledged[w]);
    }
    uint64_t begun = crew_now(crew);
    int rc = bitkv_sync(hand->db);
    if (rc != BITKV_OK || !crew_proves(crew))
        return rc;
    for (uint64_t now = atomic_load(&crew->synced); now < begun;)
        if (atomic_compare_exchange_weak(&crew->synced, &now, begun))
            break;
    for (unsigned i = 0; i < CREW_COUNTERS; i++) {
        for (int64_t now = atomic_load(&model->counters[i].durable); now < sums[i];)
            if (atomic_compare_exchange_weak(&model->counters[i].durable, &now, sums[i]))
                break;
    }
    atomic_fetch_add(&crew->syncs, 1);
    return BITKV_OK;
}

/* In this order, so that a life may end in between. */
void crew_fold(struct crew_hand *hand)
{
    struct crew_ring *ring = &hand->crew->rings[hand->index];
    int rc = crew_sync(hand);
    if (rc != BITKV_OK) {
        crew_failed(hand, "bitkv_sync", rc);
        return;
    }
    struct crew_model *model = crew_model(hand->crew);
    uint32_t count = crew_proves(hand->crew) ? atomic_load(&ring->count) : 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct crew_write *write = &ring->writes[i];
        if (atomic_load(&write->acknowledged) != 0 &&
            (atomic_load(&write->marks) & CREW_NOTHING) == 0)
            raise_to(&model->units[write->unit].durable, write->version);
    }
    atomic_store(&ring->count, 0);
}

/* --- trouble ------------------------------------------------------------------------------ */

void crew_violation(struct crew *crew, int rc, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)fprintf(stderr, "VIOLATION: %s\n", text);
    atomic_store(&crew->trouble, rc != 0 ? rc : 1);
    _exit(1);
}

static bool is_tolerated(struct crew *crew, const struct crew_plan *plan, int rc)
{
    return rc < 0 && atomic_load(&crew->hostile) && (plan->tolerated >> -rc & 1) != 0;
}

void crew_failed(struct crew_hand *hand, const char *what, int rc)
{
    if (!is_tolerated(hand->crew, hand->plan, rc))
        crew_violation(hand->crew, rc, "%s of thread %u: %s (%s)", what, hand->index,
                       bitkv_error_name(rc), bitkv_error_context());
    atomic_fetch_add(&hand->crew->refused, 1);
    hand->errors++;
    if (rc == BITKV_ERR_SYNC_FAILED)
        hand->in_doubt = true;
}

bool crew_goes_on(struct crew_hand *hand)
{
    while (atomic_load(&hand->crew->pause) && !atomic_load(&hand->crew->stop))
        rest_us(500);
    if (hand->plan->errors_most != 0 && hand->errors >= hand->plan->errors_most)
        return false;
    if (hand->plan->pause_one_in != 0 && crew_draw(hand, hand->plan->pause_one_in) == 0)
        rest_us((long)crew_draw(hand, 500));
    return !atomic_load(&hand->crew->stop);
}

/* --- a life ------------------------------------------------------------------------------------
 */

static struct crew_hand *new_hand(struct crew *crew, const struct crew_plan *plan, bitkv *db,
                                  unsigned index)
{
    struct crew_hand *hand = calloc(1, sizeof *hand);
    if (hand == NULL || (hand->value = malloc(CREW_VALUE)) == NULL)
        abort();
    hand->crew = crew;
    hand->plan = plan;
    hand->db = db;
    hand->index = index;
    hand->chance = mix(plan->seed + index * 1000003u);
    for (uint32_t u = 0; u < crew->units; u++)
        hand->present[u] = crew_model(crew)->units[u].held;
    if (index < CREW_WRITERS) {
        atomic_store(&crew->rings[index].count, 0);
        atomic_store(&crew->rings[index].life, crew_model(crew)->life);
    }
    return hand;
}

/* Nothing of it can be had: fine in a hostile world, and else a violation. */
static _Noreturn void give_up(struct crew *crew, const struct crew_plan *plan, const char *what,
                              int rc)
{
    if (!is_tolerated(crew, plan, rc))
        crew_violation(crew, rc, "%s: %s (%s)", what, bitkv_error_name(rc), bitkv_error_context());
    _exit(2);
}

static void check_opening(struct crew *crew, const struct crew_plan *plan, bitkv *db)
{
    bitkv_statistics s;
    bitkv_statistics_init(&s);
    int rc = bitkv_stats(db, BITKV_ALL_PARTITIONS, &s);
    if (rc != BITKV_OK)
        give_up(crew, plan, "bitkv_stats", rc);
    if (s.recovery.damaged_regions + s.recovery.rejected_checkpoints + s.recovery.rejected_hints !=
        0)
        crew_violation(crew, 0, "recovery found damage: %llu regions, %llu checkpoints, %llu hints",
                       (unsigned long long)s.recovery.damaged_regions,
                       (unsigned long long)s.recovery.rejected_checkpoints,
                       (unsigned long long)s.recovery.rejected_hints);
    atomic_fetch_add(&crew->torn, s.recovery.torn_tails);
    rc = crew_check(crew, db);
    if (rc != BITKV_OK)
        give_up(crew, plan, "a read after the opening", rc);
    rc = crew_check_backup(crew, plan);
    if (rc != BITKV_OK)
        give_up(crew, plan, "the backup", rc);
}

static void work(struct crew *crew, const struct crew_plan *plan, bitkv *db)
{
    static void *(*const runs[])(void *) = {crew_make_calls, crew_make_calls, crew_run_queue,
                                            crew_keep_house};
    enum { HANDS = sizeof runs / sizeof runs[0] };
    pthread_t threads[HANDS];
    for (unsigned i = 0; i < HANDS; i++) {
        if (pthread_create(&threads[i], NULL, runs[i], new_hand(crew, plan, db, i)) != 0)
            abort();
    }
    atomic_store(&crew->ready, true);
    for (unsigned i = 0; i < HANDS; i++)
        (void)pthread_join(threads[i], NULL);
}

void crew_live(struct crew *crew, const struct crew_plan *plan)
{
    bitkv *db;
    int rc = bitkv_open(&db, plan->path, &plan->options);
    if (rc != BITKV_OK)
        give_up(crew, plan, "bitkv_open", rc);
    atomic_fetch_add(&crew->recoveries, 1);
    check_opening(crew, plan, db);
    if (!plan->checks_only)
        work(crew, plan, db);
    rc = bitkv_close(db);
    if (rc != BITKV_OK && !is_tolerated(crew, plan, rc))
        crew_violation(crew, rc, "bitkv_close: %s (%s)", bitkv_error_name(rc),
                       bitkv_error_context());
    _exit(0);
}

pid_t crew_start(struct crew *crew, const struct crew_plan *plan)
{
    atomic_store(&crew->ready, false);
    atomic_store(&crew->keeping, CREW_RESTS);
    atomic_store(&crew->stop, false);
    atomic_store(&crew->pause, false);
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        crew_live(crew, plan);
    if (child < 0)
        abort();
    return child;
}

static int status_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int crew_wait(pid_t child, uint64_t patience_ms)
{
    int status;
    uint64_t until = now_ms() + patience_ms;
    for (;;) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child)
            return status_of(status);
        if (ended < 0 && errno != EINTR)
            abort();
        if (now_ms() >= until) {
            (void)kill(child, SIGKILL);
            (void)waitpid(child, &status, 0);
            return -1;
        }
        rest_us(200);
    }
}

void crew_wait_ready(struct crew *crew, pid_t child)
{
    siginfo_t info;
    for (;;) {
        info.si_pid = 0;
        if (atomic_load(&crew->ready) || atomic_load(&crew->trouble) != 0 ||
            waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
            info.si_pid == child)
            return;
        rest_us(100);
    }
}
