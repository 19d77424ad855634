/* ir/context: dimension expressions and what is assumed equal. */
#include "ir/context.h"
#include "tests/unit/unit.h"

static th_arena *arena;
static th_context *c;
static th_dim s[6];
static void make(void) {
  arena = th_arena_create(0);
  c = th_context_create(arena);
  for (uint32_t i = 0; i < 6; i++) s[i] = th_dim_symbol(c, th_symbol_add(c, (th_symbol){.min = 1, .max = -1, .multiple = 1}));
}
static void end(void) { th_arena_destroy(arena); }
TestSuite(dims, .init = make, .fini = end);

static th_dim number(int64_t n) { return th_dim_const(c, n); }
#define MUL(a, b) th_dim_mul(c, a, b)
#define ADD(a, b) th_dim_add(c, a, b)

Test(dims, products_that_are_assumed_equal_have_one_form) {
  cr_assert(th_dim_assume(c, MUL(s[0], s[1]), MUL(s[2], s[3])));
  cr_assert_eq(MUL(s[2], s[3]), MUL(s[1], s[0]));
  cr_assert_eq(MUL(MUL(s[3], number(8)), s[2]), MUL(MUL(s[0], s[1]), number(8)));
  cr_assert_eq(ADD(MUL(MUL(s[3], s[4]), s[2]), number(1)), ADD(MUL(s[4], MUL(s[0], s[1])), number(1)));
  cr_assert_neq(MUL(s[2], s[4]), MUL(s[0], s[1]));
  th_dim quotient;
  cr_assert(th_dim_exact_div(c, MUL(MUL(s[2], s[3]), s[5]), s[5], &quotient));
  cr_assert_eq(quotient, MUL(s[0], s[1]));
}

Test(dims, sums_coefficients_and_chains) {
  cr_assert(th_dim_assume(c, MUL(s[4], s[5]), ADD(MUL(s[0], s[1]), number(1)))); /* s4*s5 -> s0*s1 + 1 */
  cr_assert(th_dim_assume(c, MUL(number(2), MUL(s[0], s[1])), s[2]));           /* 2*s0*s1 -> s2; s0*s1 alone stays */
  cr_assert_eq(MUL(number(4), MUL(s[0], s[1])), MUL(number(2), s[2]));
  cr_assert_neq(MUL(s[0], s[1]), s[2]);
  cr_assert_eq(MUL(number(2), MUL(s[5], s[4])), ADD(s[2], number(2)));
  cr_assert_eq(th_assumption_count(c), 2);
}

Test(dims, what_divides) {
  th_dim product = MUL(s[0], s[1]), half = th_dim_floordiv(c, product, number(2)), third = th_dim_floordiv(c, s[2], number(3));
  cr_assert(th_dim_assume(c, MUL(half, number(2)), product));
  cr_assert(th_dim_assume(c, s[2], MUL(number(3), third)));
  cr_assert_eq(MUL(half, number(6)), MUL(product, number(3)));
  cr_assert_eq(th_dim_floordiv(c, product, number(2)), half);
  cr_assert_eq(MUL(third, number(3)), s[2]);
  cr_assert(th_dim_assume(c, half, th_dim_floordiv(c, MUL(s[3], s[4]), number(2))));
  cr_assert_eq(th_dim_floordiv(c, MUL(s[3], s[4]), number(2)), half);
  cr_assert(th_dim_assume(c, th_dim_floordiv(c, s[5], number(7)), s[0]));
  cr_assert_eq(th_dim_floordiv(c, s[5], number(7)), s[0]);
}

Test(dims, what_follows_from_two) { /* whichever comes first */
  for (int order = 0; order < 2; order++) {
    end();
    make();
    th_dim a = MUL(s[0], s[1]), b = MUL(s[2], s[3]), half_a = th_dim_floordiv(c, a, number(2)), half_b = th_dim_floordiv(c, b, number(2));
    if (order) cr_assert(th_dim_assume(c, half_a, half_b));
    cr_assert(th_dim_assume(c, MUL(half_a, number(2)), a));
    cr_assert(th_dim_assume(c, MUL(half_b, number(2)), b));
    if (!order) cr_assert(th_dim_assume(c, half_a, half_b));
    cr_assert_eq(MUL(s[3], s[2]), MUL(s[0], s[1]), "order %d", order);
  }
}

Test(dims, what_cannot_be_used_is_kept) {
  cr_assert(th_dim_assume(c, s[0], s[1]));
  cr_assert(th_dim_assume(c, s[2], s[2]));
  cr_assert_neq(s[0], ADD(s[1], number(0)));
  cr_assert_not(th_dim_assume(c, ADD(s[0], number(1)), s[0]));
  cr_assert_not(th_dim_assume(c, number(2), number(3)));
  cr_assert_eq(th_assumption_count(c), 2);
}

/* Whatever is assumed, rewriting keeps values where the assumptions hold, and ends. */
Test(dims, rewriting_keeps_values) {
  uint64_t random = unit_seed("dims");
  for (int round = 0; round < 400; round++) {
    end();
    make();
    int64_t values[6];
    for (int i = 0; i < 6; i++) values[i] = 1 + (int64_t)unit_random(&random, 4);
    th_dim pool[64];
    int64_t worth[64];
    size_t n = 0;
    for (; n < 6; n++) pool[n] = s[n], worth[n] = values[n];
    while (n < 64) {
      size_t a = unit_random(&random, n), b = unit_random(&random, n);
      int64_t k = (int64_t)unit_random(&random, 4);
      bool product = worth[a] < 1000 && worth[b] < 1000 && unit_random(&random, 2);
      if (worth[a] > 100000 || worth[b] > 100000) continue;
      bool quotient = !product && !unit_random(&random, 4);
      pool[n] = product ? MUL(pool[a], pool[b]) : quotient ? th_dim_floordiv(c, pool[a], number(k + 1)) : ADD(MUL(pool[a], number(k)), pool[b]);
      worth[n] = product ? worth[a] * worth[b] : quotient ? worth[a] / (k + 1) : worth[a] * k + worth[b];
      cr_assert_eq(th_dim_eval(c, pool[n], values), worth[n]);
      for (size_t i = 0; i < n && th_assumption_count(c) < 8; i++)
        if (worth[i] == worth[n] && !unit_random(&random, 3)) cr_assert(th_dim_assume(c, pool[i], pool[n]));
      n++;
    }
  }
}
