/* SPDX-License-Identifier: MIT */
/*
 * Does the checker tell histories that have an order from those that have none?
 * Known ones, and random ones against a search through all orders.
 *
 *   BITKV_SEED=n   of the random histories (default: drawn)
 *   BITKV_MS=n     milliseconds for them (default 500)
 */
#include "api/scratch.h"

#include "concurrent/linearize.h"

#define CALLS(...)                                                                                 \
    (const struct lin_op[])                                                                        \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define POSSIBLE(...)   assert_true(verdict(CALLS(__VA_ARGS__), sizeof CALLS(__VA_ARGS__)))
#define IMPOSSIBLE(...) assert_false(verdict(CALLS(__VA_ARGS__), sizeof CALLS(__VA_ARGS__)))

/* who, from, to */
#define PUT(who, from, to, v)                                                                      \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .effect = LIN_WRITE, .new_value = (v) \
    }
#define PUT_AS(who, from, to, v, as)                                                               \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .effect = LIN_WRITE,                  \
        .new_value = (v), .new_version = (as)                                                      \
    }
#define GET(who, from, to, v)                                                                      \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_VALUE, .value = (v)      \
    }
#define MISS(who, from, to)                                                                        \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_ABSENT                   \
    }
#define DEL(who, from, to)                                                                         \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_PRESENT,                 \
        .effect = LIN_DELETE                                                                       \
    }
#define ADD(who, from, to, n, sum)                                                                 \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .effect = LIN_ADD, .value = (n),      \
        .new_value = (sum)                                                                         \
    }
#define INFO(who, from, to, v)                                                                     \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_VERSION, .version = (v)  \
    }
#define TOUCH(who, from, to)                                                                       \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_PRESENT,                 \
        .effect = LIN_TOUCH                                                                        \
    }
/* A put if the version is `v`. */
#define SWAP(who, from, to, v, new, as)                                                            \
    {                                                                                              \
        .client = (who), .called = (from), .returned = (to), .guard = LIN_VERSION, .version = (v), \
        .effect = LIN_WRITE, .new_value = (new), .new_version = (as)                               \
    }

static bool verdict(const struct lin_op *ops, size_t bytes)
{
    struct lin_checker *c = lin_new();
    bool possible = lin_check(c, ops, bytes / sizeof *ops);
    lin_free(c);
    return possible;
}

static void one_after_the_other(void **state)
{
    (void)state;
    POSSIBLE(MISS(0, 1, 2), PUT(0, 3, 4, 7), GET(0, 5, 6, 7), DEL(0, 7, 8), MISS(0, 9, 10));
    IMPOSSIBLE(PUT(0, 1, 2, 7), MISS(0, 3, 4));
    IMPOSSIBLE(PUT(0, 1, 2, 7), GET(0, 3, 4, 8));
    IMPOSSIBLE(MISS(0, 1, 2), DEL(0, 3, 4));
}

static void a_get_beside_a_put_finds_either(void **state)
{
    (void)state;
    POSSIBLE(PUT(0, 1, 2, 7), PUT(0, 3, 6, 8), GET(1, 4, 5, 7));
    POSSIBLE(PUT(0, 1, 2, 7), PUT(0, 3, 6, 8), GET(1, 4, 5, 8));
    IMPOSSIBLE(PUT(0, 1, 2, 7), PUT(0, 3, 6, 8), GET(1, 4, 5, 9));
}

static void a_stale_get_has_no_order(void **state)
{
    (void)state;
    IMPOSSIBLE(PUT(0, 1, 2, 7), PUT(0, 3, 4, 8), GET(1, 5, 6, 7));
    /* Two gets that follow each other must agree on what came first. */
    IMPOSSIBLE(PUT(0, 1, 2, 7), PUT(0, 3, 10, 8), GET(1, 4, 5, 8), GET(1, 6, 7, 7));
    IMPOSSIBLE(PUT(0, 1, 10, 7), PUT(1, 1, 10, 8), GET(2, 2, 3, 7), GET(2, 4, 5, 8),
               GET(3, 6, 7, 7));
    POSSIBLE(PUT(0, 1, 10, 7), PUT(1, 1, 10, 8), GET(2, 2, 3, 7), GET(2, 4, 5, 8), GET(3, 2, 5, 7));
}

static void an_early_acknowledgement_has_no_order(void **state)
{
    (void)state;
    IMPOSSIBLE(PUT(0, 1, 2, 7), MISS(1, 3, 4), GET(1, 5, 6, 7));
    POSSIBLE(PUT(0, 1, 5, 7), MISS(1, 3, 4), GET(1, 5, 6, 7));
}

static void a_lost_update_has_no_order(void **state)
{
    (void)state;
    POSSIBLE(ADD(0, 1, 4, 1, 1), ADD(1, 2, 3, 1, 2));
    POSSIBLE(ADD(0, 1, 4, 1, 2), ADD(1, 2, 3, 1, 1));
    IMPOSSIBLE(ADD(0, 1, 4, 1, 1), ADD(1, 2, 3, 1, 1));
    POSSIBLE(ADD(0, 1, 2, 5, 5), ADD(0, 3, 4, (uint64_t)-5, 0), GET(0, 5, 6, 0), DEL(0, 7, 8),
             ADD(0, 9, 10, 1, 1));
    IMPOSSIBLE(PUT_AS(0, 1, 2, 7, 10), SWAP(0, 3, 6, 10, 8, 11), SWAP(1, 4, 5, 10, 9, 12));
}

static void versions_ascend_and_change_with_each_write(void **state)
{
    (void)state;
    POSSIBLE(PUT(0, 1, 2, 7), INFO(0, 3, 4, 20), INFO(1, 5, 6, 20), TOUCH(0, 7, 8),
             INFO(0, 9, 10, 21));
    IMPOSSIBLE(PUT(0, 1, 2, 7), INFO(0, 3, 4, 20), INFO(1, 5, 6, 21));
    IMPOSSIBLE(PUT(0, 1, 2, 7), INFO(0, 3, 4, 20), TOUCH(0, 5, 6), INFO(1, 7, 8, 20));
    IMPOSSIBLE(PUT(0, 1, 2, 7), INFO(0, 3, 4, 20), DEL(0, 5, 6), PUT_AS(1, 7, 8, 7, 19));
    IMPOSSIBLE(PUT_AS(0, 1, 2, 7, 5), PUT_AS(0, 3, 4, 8, 5));
    POSSIBLE(PUT_AS(0, 1, 2, 7, 5), SWAP(0, 3, 4, 5, 8, 6), GET(0, 5, 6, 8));
}

static void a_call_that_saw_another_version_did_not_see_this(void **state)
{
    (void)state;
    struct lin_op conflict = {.called = 3,
                              .returned = 4,
                              .guard = LIN_PRESENT | LIN_OTHER_VERSION,
                              .version = 5,
                              .client = 1};
    const struct lin_op put = PUT_AS(0, 1, 2, 7, 5);
    assert_false(verdict((const struct lin_op[]){put, conflict}, 2 * sizeof put));
    conflict.version = 4;
    assert_true(verdict((const struct lin_op[]){put, conflict}, 2 * sizeof put));
    conflict.version = 0; /* which is none, so another than one that nobody has told */
    const struct lin_op untold = PUT(0, 1, 2, 7);
    assert_true(verdict((const struct lin_op[]){untold, conflict}, 2 * sizeof put));
    conflict.called = 0; /* nothing was there, at any moment of it */
    conflict.returned = 0;
    assert_false(verdict((const struct lin_op[]){put, conflict}, 2 * sizeof put));
}

static void calls_of_a_client_keep_their_order_though_they_overlap(void **state)
{
    (void)state;
    POSSIBLE(PUT(0, 1, 10, 7), PUT(0, 1, 10, 8), GET(1, 11, 12, 8));
    IMPOSSIBLE(PUT(0, 1, 10, 7), PUT(0, 1, 10, 8), GET(1, 11, 12, 7));
    POSSIBLE(PUT(0, 1, 10, 7), PUT(2, 1, 10, 8), GET(1, 11, 12, 7)); /* of two */
    IMPOSSIBLE(GET(0, 1, 10, 7), PUT(0, 1, 10, 7));
}

static void what_is_in_doubt_may_have_been_or_not(void **state)
{
    (void)state;
    POSSIBLE(PUT(0, 1, LIN_NEVER, 7), MISS(1, 3, 4), MISS(1, 5, 6));
    POSSIBLE(PUT(0, 1, LIN_NEVER, 7), MISS(1, 3, 4), GET(1, 5, 6, 7));
    IMPOSSIBLE(PUT(0, 3, LIN_NEVER, 7), GET(1, 1, 2, 7));
    IMPOSSIBLE(PUT(0, 1, LIN_NEVER, 7), GET(1, 3, 4, 7), MISS(1, 5, 6)); /* and once only */
    POSSIBLE(PUT(0, 1, LIN_NEVER, 7), DEL(0, 3, 4), MISS(1, 5, 6));
    IMPOSSIBLE(PUT(0, 1, LIN_NEVER, 7), DEL(0, 3, 4), GET(1, 5, 6, 7), MISS(1, 7, 8),
               GET(1, 9, 10, 7));
}

static void a_history_goes_on_where_the_last_one_ended(void **state)
{
    (void)state;
    struct lin_checker *c = lin_new();
    const struct lin_op first[] = {PUT(0, 1, 4, 7), PUT(1, 1, 4, 8)};
    const struct lin_op second[] = {GET(0, 5, 6, 7)};
    const struct lin_op third[] = {GET(0, 7, 8, 8)};
    assert_true(lin_check(c, first, 2)); /* either may be there */
    assert_true(lin_check(c, second, 1));
    assert_false(lin_check(c, third, 1));
    lin_free(c);
}

/* --- random histories ------------------------------------------------------------- */

#define SMALL 6u

/* Exists an order? By trying all: without versions and clients. */
static bool any_order(const struct lin_op *ops, size_t count, unsigned made, bool present,
                      uint64_t value)
{
    if (made == (1u << count) - 1)
        return true;
    for (size_t i = 0; i < count; i++) {
        bool may = !(made >> i & 1);
        for (size_t j = 0; j < count && may; j++)
            may = (made >> j & 1) || ops[j].returned >= ops[i].called;
        if (!may || ((ops[i].guard & LIN_ABSENT) && present) ||
            ((ops[i].guard & (LIN_PRESENT | LIN_VALUE)) && !present) ||
            ((ops[i].guard & LIN_VALUE) && value != ops[i].value))
            continue;
        bool there = present;
        uint64_t now = value;
        if (ops[i].effect == LIN_WRITE) {
            there = true;
            now = ops[i].new_value;
        } else if (ops[i].effect == LIN_DELETE) {
            there = false;
        } else if (ops[i].effect == LIN_ADD) {
            now = (there ? value : 0) + ops[i].value;
            there = true;
            if (now != ops[i].new_value)
                continue;
        }
        if (any_order(ops, count, made | 1u << i, there, now))
            return true;
    }
    return false;
}

static struct lin_op random_op(struct chance *chance, uint32_t client)
{
    struct lin_op op = {.client = client, .called = below(chance, 20)};
    op.returned = op.called + below(chance, 8);
    switch (below(chance, 5)) {
    case 0:
        op.guard = LIN_ABSENT;
        break;
    case 1:
        op.guard = LIN_VALUE;
        op.value = below(chance, 3);
        break;
    case 2:
        op.guard = LIN_PRESENT;
        op.effect = LIN_DELETE;
        break;
    case 3:
        op.effect = LIN_ADD;
        op.value = 1;
        op.new_value = 1 + below(chance, 3);
        break;
    default:
        op.effect = LIN_WRITE;
        op.new_value = below(chance, 3);
        break;
    }
    return op;
}

static void random_histories_are_judged_as_by_trying_all_orders(void **state)
{
    (void)state;
    uint64_t seed = env_number("BITKV_SEED", (uint64_t)time(NULL) ^ (uint64_t)getpid());
    uint64_t until = now_ms() + env_number("BITKV_MS", 500);
    struct chance chance = {.state = mix(seed)};
    unsigned verdicts[2] = {0};
    print_message("BITKV_SEED=%llu\n", (unsigned long long)seed);
    while (now_ms() < until || verdicts[0] < 50 || verdicts[1] < 50) {
        struct lin_op ops[SMALL];
        size_t count = 2 + (size_t)below(&chance, SMALL - 1);
        for (size_t i = 0; i < count; i++)
            ops[i] = random_op(&chance, (uint32_t)i);
        bool possible = any_order(ops, count, 0, false, 0);
        if (verdict(ops, count * sizeof *ops) != possible) {
            print_error("%zu calls are %s\n", count, possible ? "possible" : "impossible");
            for (size_t i = 0; i < count; i++)
                print_error("  %llu .. %llu: guard %u value %llu effect %u new value %llu\n",
                            (unsigned long long)ops[i].called, (unsigned long long)ops[i].returned,
                            ops[i].guard, (unsigned long long)ops[i].value, ops[i].effect,
                            (unsigned long long)ops[i].new_value);
            fail();
        }
        verdicts[possible]++;
    }
    print_message("%u possible histories, %u impossible\n", verdicts[1], verdicts[0]);
}

/* Many calls at a time, most of which have many orders: no order is tried twice. */
static void many_calls_are_judged_in_time(void **state)
{
    (void)state;
    enum { CLIENTS = 8, COUNT = UNDER_TSAN || UNDER_ASAN ? 100000 : 1000000 };
    struct lin_op *ops = calloc(COUNT, sizeof *ops);
    struct chance chance = {.state = 1};
    uint64_t free_at[CLIENTS] = {0};
    uint64_t value = 0;
    bool present = false;
    assert_non_null(ops);
    for (size_t i = 0; i < COUNT; i++) {
        /* Its moment is i * 8; it is open for some calls before and after. */
        uint32_t client = (uint32_t)(i % CLIENTS);
        uint64_t moment = (i + 16) * 8;
        struct lin_op *op = &ops[i];
        op->client = client;
        op->called = moment - below(&chance, 28);
        if (op->called <= free_at[client])
            op->called = free_at[client] + 1;
        op->returned = moment + below(&chance, 28);
        free_at[client] = op->returned;
        if (one_in(&chance, 2)) {
            op->guard = present ? LIN_VALUE : LIN_ABSENT;
            op->value = value;
        } else {
            op->effect = LIN_WRITE;
            op->new_value = value = i + 1;
            present = true;
        }
    }
    struct lin_checker *c = lin_new();
    uint64_t begun = now_ms();
    bool possible = lin_check(c, ops, COUNT);
    print_message("%d calls in %llu ms, %llu configurations\n", COUNT,
                  (unsigned long long)(now_ms() - begun), (unsigned long long)lin_visited(c));
    lin_explain(c, stderr);
    assert_true(possible);
    assert_in_range(lin_visited(c), COUNT, 100ull * COUNT);
    lin_free(c);
    free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_after_the_other),
        cmocka_unit_test(a_get_beside_a_put_finds_either),
        cmocka_unit_test(a_stale_get_has_no_order),
        cmocka_unit_test(an_early_acknowledgement_has_no_order),
        cmocka_unit_test(a_lost_update_has_no_order),
        cmocka_unit_test(versions_ascend_and_change_with_each_write),
        cmocka_unit_test(a_call_that_saw_another_version_did_not_see_this),
        cmocka_unit_test(calls_of_a_client_keep_their_order_though_they_overlap),
        cmocka_unit_test(what_is_in_doubt_may_have_been_or_not),
        cmocka_unit_test(a_history_goes_on_where_the_last_one_ended),
        cmocka_unit_test(random_histories_are_judged_as_by_trying_all_orders),
        cmocka_unit_test(many_calls_are_judged_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
