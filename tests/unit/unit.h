/* Shared by the Criterion tests: a seed that is printed, and the golden traces. */
#ifndef THUNDER_TESTS_UNIT_H
#define THUNDER_TESTS_UNIT_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ir/base/arena.h"

/* Fails with the status' text where it is not `code`; ends it. */
static inline void unit_expect(th_status status, th_code code, const char *file, int line) {
  char text[2048];
  th_status_format(status, text, sizeof text);
  cr_assert(th_status_code(status) == code, "%s:%d: want %s, have %s", file, line, th_code_name(code), text);
  th_status_free(status);
}
#define EXPECT(code, expression) unit_expect((expression), TH_CODE_##code, __FILE__, __LINE__)

/* THUNDER_TEST_SEED, else the clock; printed, so that a failure can be had again. */
static inline uint64_t unit_seed(const char *test) {
  const char *given = getenv("THUNDER_TEST_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
  fprintf(stderr, "%s: THUNDER_TEST_SEED=%llu\n", test, (unsigned long long)seed);
  return seed * 0x9e3779b97f4a7c15u + 1;
}

static inline uint64_t unit_random(uint64_t *state, uint64_t below) { /* xorshift64*; [0, below) */
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return below ? (*state * 0x2545f4914f6cdd1du >> 11) % below : 0;
}

/* The file's text in `arena`, NUL-terminated. */
static inline char *unit_read(th_arena *arena, const char *path, size_t *out_size) {
  FILE *f = fopen(path, "rb");
  cr_assert(f, "%s cannot be read", path);
  fseek(f, 0, SEEK_END);
  *out_size = (size_t)ftell(f);
  rewind(f);
  char *text = th_arena_alloc(arena, *out_size + 1);
  cr_assert_eq(fread(text, 1, *out_size, f), *out_size);
  fclose(f);
  return text;
}

/* Calls `visit` with the path of every tests/conformance/golden/<program>/<name>.tir; returns how many. */
static inline int unit_golden(void (*visit)(const char *path, void *user), void *user) {
  const char *source = getenv("THUNDER_SOURCE_DIR");
  char root[2048], path[4096];
  struct dirent **programs, **files;
  int count = 0;
  snprintf(root, sizeof root, "%s/tests/conformance/golden", source ? source : ".");
  int n = scandir(root, &programs, NULL, alphasort);
  cr_assert(n > 2, "%s: no golden traces; run by ctest, or set THUNDER_SOURCE_DIR", root);
  for (int i = 0; i < n; i++) {
    snprintf(path, sizeof path, "%s/%s", root, programs[i]->d_name);
    int m = programs[i]->d_name[0] == '.' ? 0 : scandir(path, &files, NULL, alphasort);
    for (int k = 0; k < m; k++) {
      const char *dot = strrchr(files[k]->d_name, '.');
      if (dot && !strcmp(dot, ".tir")) {
        snprintf(path, sizeof path, "%s/%s/%s", root, programs[i]->d_name, files[k]->d_name);
        visit(path, user);
        count++;
      }
      free(files[k]);
    }
    if (m > 0) free(files);
    free(programs[i]);
  }
  free(programs);
  return count;
}

#endif
