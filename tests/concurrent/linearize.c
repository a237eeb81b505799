/* SPDX-License-Identifier: MIT */
/*
 * Open calls have one of 64 slots, so that a set of them is a word.
 *
 * Versions: most writes do not tell theirs. A state then has an unknown one, and
 * `floor`, which it must exceed: versions of a key ascend. The first call that has
 * seen it settles it.
 *
 * Failure modes: more than 64 calls open at a time, or no memory: the process ends,
 * since a history that is not checked must not pass.
 */
#include "concurrent/linearize.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 64u
/* Events that are kept for an explanation. */
#define RECENT 24u

struct state {
    uint64_t value;
    uint64_t version; /* 0: not known */
    uint64_t floor;   /* a version that is not known is larger */
    uint64_t present;
};

struct configuration {
    uint64_t done; /* open calls that have had their moment */
    struct state state;
};

struct configurations {
    struct configuration *items;
    size_t count, capacity;
};

/* Met in this step: open addressing, emptied by a new number of the step. */
struct visited {
    struct configuration *items;
    uint64_t *steps;
    size_t capacity, count;
    uint64_t step;
};

struct lin_checker {
    struct configurations now, next, stack;
    struct visited visited;
    uint64_t visits;

    struct lin_op open[SLOTS];
    uint64_t after[SLOTS]; /* open calls of the same client that were made before */
    uint64_t in_use;

    struct lin_op recent[RECENT];
    uint64_t recent_count;
    struct lin_op failed;
    bool has_failed;
};

struct event {
    uint64_t time;
    uint32_t index;   /* of the call */
    uint32_t returns; /* at the same time, calls come first: then they overlap */
};

static void give_up(const char *why)
{
    (void)fprintf(stderr, "linearize: %s\n", why);
    abort();
}

static void *checked(void *memory)
{
    if (memory == NULL)
        give_up("out of memory");
    return memory;
}

/* --- sets of configurations ------------------------------------------------------- */

static void push(struct configurations *set, const struct configuration *c)
{
    if (set->count == set->capacity) {
        set->capacity = set->capacity * 2 + 16;
        set->items = checked(realloc(set->items, set->capacity * sizeof *set->items));
    }
    set->items[set->count++] = *c;
}

static bool same(const struct configuration *a, const struct configuration *b)
{
    return a->done == b->done && a->state.value == b->state.value &&
           a->state.version == b->state.version && a->state.floor == b->state.floor &&
           a->state.present == b->state.present;
}

static uint64_t hash_of(const struct configuration *c)
{
    const uint64_t words[] = {c->done, c->state.value, c->state.version, c->state.floor,
                              c->state.present};
    uint64_t h = 0;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        h = (h ^ words[i]) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    return h;
}

static bool visit(struct visited *v, const struct configuration *c);

static void enlarge(struct visited *v)
{
    struct visited larger = {.capacity = v->capacity == 0 ? 64 : 2 * v->capacity, .step = 1};
    larger.items = checked(calloc(larger.capacity, sizeof *larger.items));
    larger.steps = checked(calloc(larger.capacity, sizeof *larger.steps));
    for (size_t i = 0; i < v->capacity; i++) {
        if (v->steps[i] == v->step)
            (void)visit(&larger, &v->items[i]);
    }
    free(v->items);
    free(v->steps);
    *v = larger;
}

/* True if it was not met before. */
static bool visit(struct visited *v, const struct configuration *c)
{
    if (v->count * 2 >= v->capacity)
        enlarge(v);
    size_t at = (size_t)hash_of(c) & (v->capacity - 1);
    for (; v->steps[at] == v->step; at = (at + 1) & (v->capacity - 1)) {
        if (same(&v->items[at], c))
            return false;
    }
    v->items[at] = *c;
    v->steps[at] = v->step;
    v->count++;
    return true;
}

static void forget_visits(struct visited *v)
{
    v->step++;
    v->count = 0;
}

/* --- what a call does to a state ---------------------------------------------------- */

static uint64_t higher(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static bool holds(const struct lin_op *op, struct state *s)
{
    const unsigned present = LIN_PRESENT | LIN_VALUE | LIN_VERSION | LIN_OTHER_VERSION;
    if ((op->guard & LIN_ABSENT) && s->present)
        return false;
    if ((op->guard & present) && !s->present)
        return false;
    if ((op->guard & LIN_VALUE) && s->value != op->value)
        return false;
    if ((op->guard & LIN_OTHER_VERSION) && s->version != 0 && s->version == op->version)
        return false;
    if (op->guard & LIN_VERSION) {
        if (s->version == 0 ? op->version <= s->floor : op->version != s->version)
            return false;
        s->version = op->version;
    }
    return true;
}

static bool write_version(const struct lin_op *op, struct state *s)
{
    s->floor = higher(s->floor, s->version);
    s->version = op->new_version;
    return op->new_version == 0 || op->new_version > s->floor;
}

static bool apply(const struct lin_op *op, struct state *s)
{
    if (!holds(op, s))
        return false;
    switch ((enum lin_effect)op->effect) {
    case LIN_NOTHING:
        return true;
    case LIN_WRITE:
        s->value = op->new_value;
        break;
    case LIN_ADD:
        s->value = (s->present ? s->value : 0) + op->value;
        if (s->value != op->new_value)
            return false;
        break;
    case LIN_TOUCH:
        break;
    case LIN_DELETE:
        s->floor = higher(s->floor, s->version);
        s->present = s->value = s->version = 0;
        return true;
    }
    s->present = 1;
    return write_version(op, s);
}

/* --- the search ----------------------------------------------------------------------- */

static unsigned take_slot(struct lin_checker *c, const struct lin_op *op)
{
    if (c->in_use == UINT64_MAX)
        give_up("more than 64 calls are open at a time");
    unsigned slot = (unsigned)__builtin_ctzll(~c->in_use);
    c->open[slot] = *op;
    c->after[slot] = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        /* One that never returns need not have had its moment when the next is made. */
        if ((c->in_use >> i & 1) && c->open[i].client == op->client &&
            c->open[i].returned != LIN_NEVER)
            c->after[slot] |= UINT64_C(1) << i;
    }
    c->in_use |= UINT64_C(1) << slot;
    return slot;
}

static void free_slot(struct lin_checker *c, unsigned slot)
{
    uint64_t bit = UINT64_C(1) << slot;
    c->in_use &= ~bit;
    for (unsigned i = 0; i < SLOTS; i++)
        c->after[i] &= ~bit;
}

/* Every configuration that one more call leads to; those in which `target` has had
 * its moment are results. */
static void extend(struct lin_checker *c, const struct configuration *from, unsigned target)
{
    for (uint64_t rest = c->in_use & ~from->done; rest != 0; rest &= rest - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(rest);
        struct configuration to = *from;
        if ((c->after[slot] & ~from->done) != 0 || !apply(&c->open[slot], &to.state))
            continue;
        to.done |= UINT64_C(1) << slot;
        c->visits++;
        if (visit(&c->visited, &to))
            push(slot == target ? &c->next : &c->stack, &to);
    }
}

static bool end_call(struct lin_checker *c, unsigned target)
{
    uint64_t bit = UINT64_C(1) << target;
    forget_visits(&c->visited);
    c->next.count = c->stack.count = 0;
    for (size_t i = 0; i < c->now.count; i++) {
        if (visit(&c->visited, &c->now.items[i]))
            push(c->now.items[i].done & bit ? &c->next : &c->stack, &c->now.items[i]);
    }
    while (c->stack.count > 0) {
        struct configuration from = c->stack.items[--c->stack.count];
        extend(c, &from, target);
    }
    for (size_t i = 0; i < c->next.count; i++)
        c->next.items[i].done &= ~bit;
    if (c->next.count == 0) {
        c->failed = c->open[target];
        c->has_failed = true;
        return false; /* `now` is left for the explanation */
    }
    struct configurations before = c->now;
    c->now = c->next;
    c->next = before;
    c->recent[c->recent_count++ % RECENT] = c->open[target];
    free_slot(c, target);
    return true;
}

/* --- histories ---------------------------------------------------------------------------- */

static int compare(const void *left, const void *right)
{
    const struct event *a = left;
    const struct event *b = right;
    if (a->time != b->time)
        return a->time < b->time ? -1 : 1;
    if (a->returns != b->returns)
        return a->returns < b->returns ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static size_t list_events(const struct lin_op *ops, size_t count, struct event *events)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (ops[i].returned < ops[i].called)
            give_up("a call that returned before it was made");
        events[n++] = (struct event){.time = ops[i].called, .index = (uint32_t)i};
        if (ops[i].returned != LIN_NEVER)
            events[n++] =
                (struct event){.time = ops[i].returned, .index = (uint32_t)i, .returns = 1};
    }
    qsort(events, n, sizeof *events, compare);
    return n;
}

bool lin_check(struct lin_checker *checker, const struct lin_op *ops, size_t count)
{
    if (checker->has_failed)
        give_up("a checker goes on after it has failed");
    if (count == 0)
        return true;
    struct event *events = checked(calloc(2 * count, sizeof *events));
    uint8_t *slots = checked(calloc(count, 1));
    size_t n = list_events(ops, count, events);
    bool possible = true;
    for (size_t i = 0; i < n && possible; i++) {
        uint32_t index = events[i].index;
        if (events[i].returns)
            possible = end_call(checker, slots[index]);
        else
            slots[index] = (uint8_t)take_slot(checker, &ops[index]);
    }
    free(slots);
    free(events);
    return possible;
}

/* --- explanations --------------------------------------------------------------------------- */

static void print_op(const struct lin_op *op, FILE *out)
{
    static const char *const effects[] = {"", ", wrote", ", deleted", ", touched", ", added to"};
    (void)fprintf(out, "  client %" PRIu32 " %-14s %" PRIu64 " .. ", op->client,
                  op->label != NULL ? op->label : "call", op->called);
    if (op->returned == LIN_NEVER)
        (void)fprintf(out, "?");
    else
        (void)fprintf(out, "%" PRIu64, op->returned);
    (void)fprintf(out, ": saw");
    if (op->guard & LIN_ABSENT)
        (void)fprintf(out, " absence");
    if (op->guard & LIN_PRESENT)
        (void)fprintf(out, " presence");
    if (op->guard & LIN_VALUE)
        (void)fprintf(out, " value %" PRIx64, op->value);
    if (op->guard & LIN_VERSION)
        (void)fprintf(out, " version %" PRIu64, op->version);
    if (op->guard & LIN_OTHER_VERSION)
        (void)fprintf(out, " not version %" PRIu64, op->version);
    (void)fprintf(out, "%s", effects[op->effect]);
    if (op->effect == LIN_ADD)
        (void)fprintf(out, " %" PRIx64 ", giving", op->value);
    if (op->effect == LIN_WRITE || op->effect == LIN_ADD)
        (void)fprintf(out, " %" PRIx64, op->new_value);
    if (op->new_version != 0)
        (void)fprintf(out, " as version %" PRIu64, op->new_version);
    (void)fprintf(out, "\n");
}

void lin_explain(const struct lin_checker *c, FILE *out)
{
    if (!c->has_failed)
        return;
    (void)fprintf(out, "no moment is possible for\n");
    print_op(&c->failed, out);
    (void)fprintf(out, "while these were open\n");
    for (uint64_t rest = c->in_use; rest != 0; rest &= rest - 1)
        print_op(&c->open[__builtin_ctzll(rest)], out);
    (void)fprintf(out, "and the key may have held one of (open calls made: a word of bits)\n");
    for (size_t i = 0; i < c->now.count && i < 12; i++) {
        const struct configuration *now = &c->now.items[i];
        (void)fprintf(
            out, "  %s %" PRIx64 ", version %" PRIu64 " (above %" PRIu64 "), made %" PRIx64 "\n",
            now->state.present ? "value" : "nothing", now->state.value, now->state.version,
            now->state.floor, now->done);
    }
    (void)fprintf(out, "after\n");
    uint64_t kept = c->recent_count < RECENT ? c->recent_count : RECENT;
    for (uint64_t i = c->recent_count - kept; i < c->recent_count; i++)
        print_op(&c->recent[i % RECENT], out);
}

uint64_t lin_visited(const struct lin_checker *checker)
{
    return checker->visits;
}

struct lin_checker *lin_new(void)
{
    struct lin_checker *c = checked(calloc(1, sizeof *c));
    push(&c->now, &(struct configuration){0});
    return c;
}

void lin_free(struct lin_checker *checker)
{
    if (checker == NULL)
        return;
    free(checker->now.items);
    free(checker->next.items);
    free(checker->stack.items);
    free(checker->visited.items);
    free(checker->visited.steps);
    free(checker);
}
