/* ir/base: statuses, arenas, string buffers, dtypes, fail points. */
#include <signal.h>
#include <time.h>

#include "ir/base/dtype.h"
#include "ir/base/failpoint.h"
#include "ir/base/strbuf.h"
#include "tests/unit/unit.h"

/* --- status */

Test(status, ok_is_null) {
  char text[8];
  cr_assert_eq(th_status_code(TH_OK), TH_CODE_OK);
  cr_assert_str_eq(th_status_message(TH_OK), "");
  cr_assert_str_eq(th_status_file(TH_OK), "");
  cr_assert_eq(th_status_line(TH_OK), 0);
  cr_assert_eq(th_status_format(TH_OK, text, sizeof text), 2);
  cr_assert_str_eq(text, "OK");
  th_status_free(TH_OK);
  cr_assert_null(th_status_prefix(TH_OK, "op %d", 3));
  cr_assert_null(th_status_join(TH_OK, TH_OK));
}

Test(status, prefix_and_join_keep_the_first_code) {
  th_status s = TH_ERROR(NOT_FOUND, "no file %s", "x");
  int line = th_status_line(s);
  s = th_status_prefix(s, "op %d", 3);
  s = th_status_join(s, TH_ERROR(INTERNAL, "cleanup"));
  s = th_status_join(s, TH_OK);
  s = th_status_join(TH_OK, s);
  cr_assert_str_eq(th_status_message(s), "op 3: no file x; then: cleanup");
  cr_assert_eq(th_status_code(s), TH_CODE_NOT_FOUND);
  cr_assert_eq(th_status_line(s), line);
  cr_assert_str_eq(th_status_file(s), "base_test.c");
  th_status_free(s);
}

Test(status, long_texts_are_whole) {
  enum { LONG = 100000 };
  char *text = malloc(LONG + 1), *out = malloc(2 * LONG);
  memset(text, 'x', LONG);
  text[LONG] = 0;
  th_status s = th_status_prefix(TH_ERROR(DATA_LOSS, "%s", text), "%%s%s", "%d"); /* texts are no formats */
  cr_assert_eq(strlen(th_status_message(s)), LONG + strlen("%s%d: "));
  cr_assert_eq(memcmp(th_status_message(s), "%s%d: xxx", 9), 0);
  size_t wanted = th_status_format(s, out, 2 * LONG);
  cr_assert_eq(wanted, strlen(out));
  cr_assert_eq(memcmp(out, "DATA_LOSS: %s%d: xxx", 20), 0);
  /* cut as snprintf cuts, for every small size */
  for (size_t size = 0; size < 64; size++) {
    char small[65];
    memset(small, '#', sizeof small);
    cr_assert_eq(th_status_format(s, small, size), wanted);
    cr_assert_eq(small[size], '#');
    if (size) cr_assert(strlen(small) == size - 1 && !memcmp(small, out, size - 1));
  }
  th_status_free(s);
  free(text);
  free(out);
}

Test(status, every_code_has_its_name) {
  for (int c = 0; c <= 16; c++)
    for (int d = 0; d < c; d++) cr_assert(strcmp(th_code_name((th_code)c), th_code_name((th_code)d)), "%d and %d", c, d);
  cr_assert_str_eq(th_code_name(TH_CODE_UNAUTHENTICATED), "UNAUTHENTICATED");
  cr_assert_str_eq(th_code_name((th_code)17), "UNKNOWN");
  cr_assert_str_eq(th_code_name((th_code)-1), "UNKNOWN");
}

static th_status tries(th_status with, int *reached) {
  TH_TRY(with);
  ++*reached;
  return TH_OK;
}

Test(status, try_returns_early) {
  int reached = 0;
  EXPECT(OK, tries(TH_OK, &reached));
  EXPECT(ABORTED, tries(TH_ERROR(ABORTED, "x"), &reached));
  cr_assert_eq(reached, 1);
}

/* --- arena */

typedef struct greed {
  th_arena *arena;
  size_t piece;
} greed;

static th_status greedy(void *user) {
  greed *g = user;
  for (;;) th_arena_alloc(g->arena, g->piece);
  return TH_OK;
}

Test(arena, memory_is_zeroed_aligned_and_apart) {
  uint64_t random = unit_seed("arena");
  enum { N = 3000 };
  static unsigned char *at[N];
  static size_t size[N];
  th_arena *a = th_arena_create(0);
  for (int i = 0; i < N; i++) {
    size[i] = unit_random(&random, 10) ? unit_random(&random, 300) : unit_random(&random, 100000);
    at[i] = th_arena_alloc(a, size[i]);
    cr_assert_not_null(at[i]);
    cr_assert_eq((uintptr_t)at[i] % 16, 0);
    for (size_t k = 0; k < size[i]; k++) cr_assert_eq(at[i][k], 0);
    memset(at[i], i % 251 + 1, size[i]);
  }
  for (int i = 0; i < N; i++)
    for (size_t k = 0; k < size[i]; k++) cr_assert_eq(at[i][k], i % 251 + 1);
  th_arena_destroy(a);
  th_arena_destroy(NULL);
}

Test(arena, the_budget_is_a_bound) {
  static const size_t pieces[] = {0, 1, 16, 17, 1000, 20000, 100000, 100001, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX - 15};
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    th_arena *a = th_arena_create(100000);
    greed g = {a, pieces[i]};
    if (!pieces[i]) g.piece = 1;
    EXPECT(RESOURCE_EXHAUSTED, th_arena_guard(a, greedy, &g));
    cr_assert_leq(th_arena_used(a), 100000);
    cr_assert_eq(th_arena_used(a) + th_arena_remaining(a), 100000);
    if (pieces[i] == 100000) cr_assert_eq(th_arena_remaining(a), 0, "all of the budget can be used");
    th_arena_destroy(a);
  }
  th_arena *a = th_arena_create(0);
  cr_assert_eq(th_arena_remaining(a), SIZE_MAX);
  th_arena_destroy(a);
}

static th_status product(void *user) {
  th_arena_calloc(user, SIZE_MAX / 8 + 2, 8); /* 8 after the overflow */
  return TH_OK;
}

Test(arena, sizes_do_not_overflow) {
  th_arena *a = th_arena_create(0);
  EXPECT(RESOURCE_EXHAUSTED, th_arena_guard(a, product, a));
  th_arena_destroy(a);
}

typedef struct nest {
  th_arena *arena;
  int depth, unwound;
} nest;

static th_status nested(void *user) {
  nest *n = user;
  if (n->depth-- == 0) {
    th_arena_fail_after(n->arena, 0);
    th_arena_alloc(n->arena, 1);
    cr_assert_fail("the allocation failed");
  }
  th_status status = th_arena_guard(n->arena, nested, n);
  cr_assert_eq(th_status_code(status), TH_CODE_RESOURCE_EXHAUSTED);
  th_status_free(status);
  th_arena_alloc(n->arena, 1); /* the guard outside holds again */
  n->unwound++;
  th_arena_fail_after(n->arena, 0);
  th_arena_alloc(n->arena, 1);
  return TH_OK;
}

Test(arena, guards_nest) {
  th_arena *a = th_arena_create(0);
  nest n = {a, 5, 0};
  EXPECT(RESOURCE_EXHAUSTED, th_arena_guard(a, nested, &n));
  cr_assert_eq(n.unwound, 5);
  th_arena_destroy(a);
}

Test(arena, without_a_guard_it_aborts, .signal = SIGABRT) {
  th_arena *a = th_arena_create(16);
  th_arena_alloc(a, 17);
}

static th_status pushes(void *user) {
  size_t count = 0, capacity = 0;
  int *items = NULL;
  for (int i = 0; i < 10000; i++) TH_PUSH((th_arena *)user, items, count, capacity, i);
  for (int i = 0; i < 10000; i++)
    if (items[i] != i) return TH_ERROR(INTERNAL, "entry %d is %d", i, items[i]);
  return TH_OK;
}

Test(arena, arrays_grow_and_every_failure_is_a_status) {
  for (long n = 0;; n++) {
    th_arena *a = th_arena_create(0);
    th_arena_fail_after(a, n);
    th_status status = th_arena_guard(a, pushes, a);
    th_arena_destroy(a);
    if (!status) {
      cr_assert_geq(n, 11);
      break;
    }
    EXPECT(RESOURCE_EXHAUSTED, status);
  }
}

Test(arena, copies) {
  th_arena *a = th_arena_create(0);
  cr_assert_str_eq(th_arena_strdup(a, "abc"), "abc");
  cr_assert_str_eq(th_arena_strndup(a, "abcdef", 3), "abc");
  cr_assert_str_eq(th_arena_printf(a, "%d-%s-%5.1f", 42, "x", 0.25), "42-x-  0.2");
  cr_assert_eq(memcmp(th_arena_copy(a, "a\0b", 3), "a\0b", 3), 0);
  cr_assert_not_null(th_arena_copy(a, NULL, 0));
  char *text = th_arena_alloc(a, 70001);
  memset(text, 'y', 70000);
  cr_assert_str_eq(th_arena_printf(a, "%s", text), text);
  th_arena_destroy(a);
}

/* --- string buffer */

Test(strbuf, grows_by_every_way) {
  uint64_t random = unit_seed("strbuf");
  th_arena *a = th_arena_create(0);
  th_strbuf b = th_strbuf_make(a);
  cr_assert_str_eq(th_strbuf_text(&b), "");
  static char model[1 << 20];
  size_t length = 0;
  for (int i = 0; i < 3000; i++) {
    char piece[700];
    size_t n = unit_random(&random, i % 100 ? 40 : sizeof piece);
    for (size_t k = 0; k < n; k++) piece[k] = (char)('a' + unit_random(&random, 26));
    piece[n] = 0;
    switch (unit_random(&random, 3)) {
      case 0: th_strbuf_add(&b, piece); break;
      case 1: th_strbuf_add_bytes(&b, piece, n); break;
      default: th_strbuf_printf(&b, "%s", piece);
    }
    memcpy(model + length, piece, n + 1);
    length += n;
    cr_assert_eq(b.length, length);
    cr_assert_str_eq(th_strbuf_text(&b), model);
  }
  th_strbuf_add_bytes(&b, "x\0y", 3);
  cr_assert_eq(b.length, length + 3);
  cr_assert_eq(b.text[length + 2], 'y');
  th_arena_destroy(a);
}

Test(strbuf, printf_of_nothing) {
  th_arena *a = th_arena_create(0);
  th_strbuf b = th_strbuf_make(a);
  th_strbuf_printf(&b, "%s", "");
  cr_assert_str_eq(th_strbuf_text(&b), "");
  th_strbuf_printf(&b, "%d", 7);
  cr_assert_str_eq(th_strbuf_text(&b), "7");
  th_arena_destroy(a);
}

/* --- dtypes */

Test(dtype, names_and_numbers_come_back) {
  for (int d = 1; d < TH_DTYPE_COUNT; d++) {
    const char *name = th_dtype_name((th_dtype)d);
    cr_assert_eq(th_dtype_parse(name, strlen(name)), (th_dtype)d);
    cr_assert_eq(th_dtype_parse(name, strlen(name) - 1) == (th_dtype)d, 0);
    cr_assert_eq(th_dtype_from_wire(th_dtype_to_wire((th_dtype)d)), (th_dtype)d);
    cr_assert_eq(th_dtype_from_dlpack(th_dtype_dlpack_code((th_dtype)d), (int)th_dtype_size((th_dtype)d) * 8), (th_dtype)d);
    cr_assert_eq(th_dtype_size((th_dtype)d) == 0, 0);
  }
  cr_assert_str_eq(th_dtype_name((th_dtype)99), "?");
  cr_assert_str_eq(th_dtype_name(TH_DTYPE_none), "none");
  cr_assert_eq(th_dtype_parse("f33", 3), TH_DTYPE_none);
  cr_assert_eq(th_dtype_from_wire(0), TH_DTYPE_none);
  cr_assert_eq(th_dtype_from_wire(-1), TH_DTYPE_none);
  cr_assert_eq(th_dtype_from_dlpack(2, 8), TH_DTYPE_none);
}

Test(dtype, promotion_is_torchs) {
  cr_assert_eq(th_dtype_promote(TH_DTYPE_u8, TH_DTYPE_i8), TH_DTYPE_i16);
  cr_assert_eq(th_dtype_promote(TH_DTYPE_f16, TH_DTYPE_bf16), TH_DTYPE_f32);
  cr_assert_eq(th_dtype_promote(TH_DTYPE_i64, TH_DTYPE_f16), TH_DTYPE_f16);
  cr_assert_eq(th_dtype_promote(TH_DTYPE_f64, TH_DTYPE_c64), TH_DTYPE_c128);
  cr_assert_eq(th_dtype_promote(TH_DTYPE_bool, TH_DTYPE_u8), TH_DTYPE_u8);
  cr_assert_eq(th_dtype_promote(TH_DTYPE_i32, TH_DTYPE_c64), TH_DTYPE_c64);
  for (int a = 0; a < TH_DTYPE_COUNT; a++)
    for (int b = 0; b < TH_DTYPE_COUNT; b++) {
      th_dtype p = th_dtype_promote((th_dtype)a, (th_dtype)b);
      cr_assert_eq(p, th_dtype_promote((th_dtype)b, (th_dtype)a), "%s, %s", th_dtype_name((th_dtype)a), th_dtype_name((th_dtype)b));
      if (a && b) cr_assert_geq((int)th_dtype_kind_of(p), (int)th_dtype_kind_of((th_dtype)a));
      if (!b) cr_assert_eq(p, (th_dtype)a);
    }
}

/* --- fail points */

Test(failpoint, refuses_what_it_cannot_read) {
  static const char *const bad[] = {"x",          "=kill",
                                    "a=",         "a=fly",
                                    "a=sleep",    "a=sleep:",
                                    "a=sleep:-1", "a=sleep:1x",
                                    "a=exit:",    "a=kill@0",
                                    "a=kill@",    "a=kill@x",
                                    "a=exit,b",   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=kill"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    th_status s = th_failpoint_configure(bad[i]);
    cr_assert_eq(th_status_code(s), TH_CODE_INVALID_ARGUMENT, "%s", bad[i]);
    th_status_free(s);
    EXPECT(OK, th_failpoint_hit("a")); /* none is on after a refusal */
  }
  char many[512] = "";
  for (int i = 0; i < 17; i++) snprintf(many + strlen(many), sizeof many - strlen(many), "p%d=exit,", i);
  EXPECT(RESOURCE_EXHAUSTED, th_failpoint_configure(many));
  EXPECT(OK, th_failpoint_hit("p0"));
}

Test(failpoint, acts_where_and_when_it_is_told) {
  EXPECT(OK, th_failpoint_configure("one=error@2,two=error:3,three=sleep:30"));
  EXPECT(OK, th_failpoint_hit("one"));
  EXPECT(UNAVAILABLE, th_failpoint_hit("one"));
  EXPECT(OK, th_failpoint_hit("one"));
  EXPECT(INVALID_ARGUMENT, th_failpoint_hit("two"));
  EXPECT(INVALID_ARGUMENT, th_failpoint_hit("two"));
  EXPECT(OK, th_failpoint_hit("four"));
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  EXPECT(OK, th_failpoint_hit("three"));
  clock_gettime(CLOCK_MONOTONIC, &b);
  cr_assert_geq((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000, 29);
  EXPECT(OK, th_failpoint_configure(NULL)); /* none */
  EXPECT(OK, th_failpoint_hit("two"));
}

Test(failpoint, exits, .exit_code = 7) {
  EXPECT(OK, th_failpoint_configure("x=exit:7"));
  th_status_free(th_failpoint_hit("x"));
}

Test(failpoint, kills, .signal = SIGKILL) {
  EXPECT(OK, th_failpoint_configure("x=kill"));
  th_status_free(th_failpoint_hit("x"));
}
