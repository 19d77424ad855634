/* ir/base: statuses, arenas, dtypes. */
#include "ir/base/arena.h"
#include "ir/base/dtype.h"
#include "ir/base/strbuf.h"
#include "tests/unit/check.h"

static void statuses(void) {
  CHECK(th_status_code(TH_OK) == TH_CODE_OK);
  th_status s = TH_ERROR(NOT_FOUND, "no file %s", "x");
  s = th_status_prefix(s, "op %d", 3);
  s = th_status_join(s, TH_ERROR(INTERNAL, "cleanup"));
  CHECK_TEXT(th_status_message(s), "op 3: no file x; then: cleanup");
  CHECK(th_status_code(s) == TH_CODE_NOT_FOUND);
  th_status_free(s);
}

static th_status greedy(void *user) {
  th_arena *arena = user;
  for (;;) th_arena_alloc(arena, 1000);
  return TH_OK;
}

static void arenas(void) {
  th_arena *a = th_arena_create(100000);
  unsigned char *bytes = th_arena_alloc(a, 100);
  for (int i = 0; i < 100; i++) CHECK(bytes[i] == 0);
  th_status s = th_arena_guard(a, greedy, a);
  CHECK(th_status_code(s) == TH_CODE_RESOURCE_EXHAUSTED);
  th_status_free(s);
  CHECK(th_arena_used(a) <= 100000);
  th_arena_destroy(a);
  a = th_arena_create(0);
  th_strbuf b = th_strbuf_make(a);
  for (int i = 0; i < 1000; i++) th_strbuf_printf(&b, "%d,", i);
  CHECK_INT(b.length, 3890);
  th_arena_destroy(a);
}

static void dtypes(void) {
  CHECK(th_dtype_promote(TH_DTYPE_u8, TH_DTYPE_i8) == TH_DTYPE_i16);
  CHECK(th_dtype_promote(TH_DTYPE_f16, TH_DTYPE_bf16) == TH_DTYPE_f32);
  CHECK(th_dtype_promote(TH_DTYPE_i64, TH_DTYPE_f16) == TH_DTYPE_f16);
  CHECK(th_dtype_promote(TH_DTYPE_f64, TH_DTYPE_c64) == TH_DTYPE_c128);
  for (int d = 1; d < TH_DTYPE_COUNT; d++) {
    const char *name = th_dtype_name((th_dtype)d);
    CHECK(th_dtype_parse(name, strlen(name)) == (th_dtype)d);
    CHECK(th_dtype_from_wire(th_dtype_to_wire((th_dtype)d)) == (th_dtype)d);
    CHECK(th_dtype_from_dlpack(th_dtype_dlpack_code((th_dtype)d), (int)th_dtype_size((th_dtype)d) * 8) == (th_dtype)d);
  }
}

int main(void) {
  statuses();
  arenas();
  dtypes();
  puts("3 passed, 0 failed");
  return 0;
}
