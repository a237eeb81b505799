/* SPDX-License-Identifier: MIT */
/*
 * Everything is under one mutex. The explorer makes one choice after the other: of
 * those that stand at a point (or have not begun), which goes on. A run follows the
 * choices of the one before up to the last that has an alternative, and takes that.
 *
 * An actor that waits is none of the choices until it has come to a point: it may do
 * that while another one runs, which is what a run leaves to chance. Where that made
 * a difference, the choices of the next run may not fit: they are then cut to what
 * there is, so that the search ends all the same.
 */
#include "concurrent/schedule.h"

#include "api/scratch.h"
#include "base/schedule.h"

#include <pthread.h>
#include <sys/syscall.h>

#define CHOICES_MAX 200u
/* An actor that sleeps for so many looks, a millisecond apart, waits. */
#define LOOKS 3u
/* All wait for so long: they will for ever. */
#define DEADLOCK_MS 30000u
#define HELD_MS     30000u

enum stage {
    READY, /* stands at a point, or has not begun */
    GOING,
    ENDED,
};

struct actor {
    pthread_t thread;
    void (*run)(void);
    pid_t id;
    enum stage stage;
    const char *point; /* at which it stands, or stood last */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static struct actor actors[SCHEDULE_ACTORS];
static unsigned actor_count;
static const struct schedule *current;
static _Thread_local struct actor *me;

static struct {
    unsigned made[CHOICES_MAX], among[CHOICES_MAX];
    const char *points[CHOICES_MAX];
    unsigned count, planned;
} choices;

static bool random_turns;
static struct chance chance;

static const char *held_point;
static bool anybody_held;

/* --- the library's side ----------------------------------------------------------- */

static bool is_listed(const char *point)
{
    for (const char *const *p = current->points; *p != NULL; p++) {
        if (strcmp(*p, point) == 0)
            return true;
    }
    return false;
}

/* Under the mutex. */
static void stand(struct actor *actor, const char *point)
{
    actor->point = point;
    actor->stage = READY;
    (void)pthread_cond_broadcast(&moved);
    while (actor->stage == READY)
        (void)pthread_cond_wait(&moved, &mutex);
}

void bkv_schedule_reached(const char *point)
{
    (void)pthread_mutex_lock(&mutex);
    if (me != NULL && is_listed(point)) {
        stand(me, point);
    } else if (me == NULL && !anybody_held && held_point != NULL &&
               strcmp(held_point, point) == 0) {
        anybody_held = true;
        (void)pthread_cond_broadcast(&moved);
        while (held_point != NULL)
            (void)pthread_cond_wait(&moved, &mutex);
    }
    (void)pthread_mutex_unlock(&mutex);
}

/* --- holding ---------------------------------------------------------------------- */

void schedule_hold(const char *point)
{
    (void)pthread_mutex_lock(&mutex);
    held_point = point;
    anybody_held = false;
    (void)pthread_mutex_unlock(&mutex);
}

bool schedule_await(void)
{
    bool held = false;
    for (uint64_t until = now_ms() + HELD_MS; !held && now_ms() < until; sleep_ms(1)) {
        (void)pthread_mutex_lock(&mutex);
        held = anybody_held;
        (void)pthread_mutex_unlock(&mutex);
    }
    return held;
}

void schedule_release(void)
{
    schedule_hold(NULL);
    (void)pthread_mutex_lock(&mutex);
    (void)pthread_cond_broadcast(&moved);
    (void)pthread_mutex_unlock(&mutex);
}

/* --- actors ----------------------------------------------------------------------- */

static void *act(void *argument)
{
    struct actor *self = argument;
    (void)pthread_mutex_lock(&mutex);
    self->id = (pid_t)syscall(SYS_gettid);
    stand(self, "begin");
    (void)pthread_mutex_unlock(&mutex);
    me = self;
    self->run();
    me = NULL;
    (void)pthread_mutex_lock(&mutex);
    self->stage = ENDED;
    (void)pthread_cond_broadcast(&moved);
    (void)pthread_mutex_unlock(&mutex);
    return NULL;
}

/* Does the kernel say that the thread sleeps? */
static bool sleeps(pid_t id)
{
    char name[64];
    char text[256] = "";
    (void)snprintf(name, sizeof name, "/proc/self/task/%d/stat", (int)id);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, sizeof text - 1);
    (void)close(fd);
    const char *end = size > 0 ? strrchr(text, ')') : NULL;
    return end != NULL && end[1] == ' ' && end[2] == 'S';
}

/* Under the mutex. */
static unsigned count_stage(enum stage stage)
{
    unsigned count = 0;
    for (unsigned i = 0; i < actor_count; i++)
        count += actors[i].stage == stage;
    return count;
}

/* Under the mutex, which it leaves: until every actor stands, has ended, or waits. */
static void settle(void)
{
    unsigned looks = 0;
    while (count_stage(GOING) > 0 && looks < LOOKS) {
        struct timespec until;
        unsigned going = count_stage(GOING);
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        int rc = pthread_cond_timedwait(&moved, &mutex, &until);
        bool all = rc == ETIMEDOUT && going == count_stage(GOING);
        for (unsigned i = 0; i < actor_count && all; i++)
            all = actors[i].stage != GOING || sleeps(actors[i].id);
        looks = all ? looks + 1 : 0;
    }
}

static void print_choices(void)
{
    print_error("%s, by these turns:\n", current->name);
    for (unsigned i = 0; i < choices.count; i++)
        print_error("  %u of %u: %s\n", choices.made[i] + 1, choices.among[i], choices.points[i]);
}

/* Under the mutex. */
static void let_one_go(unsigned ready)
{
    unsigned at = choices.count++;
    if (at == CHOICES_MAX) {
        print_choices();
        abort();
    }
    unsigned which = random_turns ? (unsigned)below(&chance, ready) : 0;
    if (!random_turns && at < choices.planned)
        which = choices.made[at];
    which = which < ready ? which : ready - 1;
    choices.made[at] = which;
    choices.among[at] = ready;
    struct actor *chosen = actors;
    for (;; chosen++) {
        if (chosen->stage == READY && which-- == 0)
            break;
    }
    choices.points[at] = chosen->point;
    chosen->stage = GOING;
    (void)pthread_cond_broadcast(&moved);
}

/* Under the mutex, which it leaves. */
static void take_turns(void)
{
    uint64_t since = 0; /* when nobody could be chosen first */
    while (count_stage(ENDED) < actor_count) {
        settle();
        unsigned ready = count_stage(READY);
        if (ready > 0) {
            let_one_go(ready);
            since = 0;
        } else if (since == 0) {
            since = now_ms();
        } else if (now_ms() - since > DEADLOCK_MS) {
            print_choices();
            print_error("all actors wait, for ever\n");
            abort();
        }
    }
}

/* --- the search ------------------------------------------------------------------- */

static void run_once(const struct schedule *s)
{
    choices.count = 0;
    if (s->setup != NULL)
        s->setup();
    (void)pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < actor_count; i++) {
        actors[i] = (struct actor){.run = s->actors[i], .stage = GOING};
        if (pthread_create(&actors[i].thread, NULL, act, &actors[i]) != 0)
            abort();
    }
    while (count_stage(READY) < actor_count)
        (void)pthread_cond_wait(&moved, &mutex);
    if (s->first_begins) {
        actors[0].stage = GOING;
        (void)pthread_cond_broadcast(&moved);
    }
    take_turns();
    (void)pthread_mutex_unlock(&mutex);
    for (unsigned i = 0; i < actor_count; i++)
        (void)pthread_join(actors[i].thread, NULL);
}

/* The next choices in their order; false: all were made. */
static bool plan_next(void)
{
    while (choices.count > 0) {
        unsigned last = choices.count - 1;
        if (choices.made[last] + 1 < choices.among[last]) {
            choices.made[last]++;
            choices.planned = choices.count;
            return true;
        }
        choices.count--;
    }
    return false;
}

void schedule_report(void)
{
    if (current != NULL)
        print_choices();
    current = NULL;
}

static void run_checked(const struct schedule *schedule)
{
    run_once(schedule);
    schedule->check();
}

unsigned schedule_explore(const struct schedule *schedule)
{
    unsigned runs = 0;
    current = schedule;
    actor_count = 0;
    if (chance.state == 0) {
        chance.state = env_number("BITKV_SEED", (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32);
        print_message("BITKV_SEED=%llu\n", (unsigned long long)chance.state);
    }
    while (actor_count < SCHEDULE_ACTORS && schedule->actors[actor_count] != NULL)
        actor_count++;
    uint64_t budget = env_number("BITKV_SCHEDULE_MS", 250);
    uint64_t begun = now_ms();
    bool more = true;
    choices.planned = 0;
    random_turns = false;
    while (more && now_ms() - begun <= budget / 2) {
        run_checked(schedule);
        more = plan_next();
        runs++;
    }
    random_turns = more;
    while (random_turns && (now_ms() - begun <= budget || runs < 2)) {
        run_checked(schedule);
        runs++;
    }
    print_message("%s: %u interleavings%s\n", schedule->name, runs, more ? "" : ", which are all");
    current = NULL;
    return runs;
}
