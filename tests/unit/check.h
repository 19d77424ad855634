/* Checks of the plain C tests: a failed one prints where and ends the program with 1. */
#ifndef THUNDER_TESTS_UNIT_CHECK_H
#define THUNDER_TESTS_UNIT_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);   \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)
#define CHECK_INT(got, want)                                                                                     \
  do {                                                                                                           \
    long long got_ = (long long)(got), want_ = (long long)(want);                                                \
    if (got_ != want_) {                                                                                         \
      fprintf(stderr, "%s:%d: %s is %lld, want %lld\n", __FILE__, __LINE__, #got, got_, want_);                  \
      exit(1);                                                                                                   \
    }                                                                                                            \
  } while (0)
#define CHECK_TEXT(got, want)                                                                                    \
  do {                                                                                                           \
    const char *got_ = (got), *want_ = (want);                                                                   \
    if (strcmp(got_, want_)) {                                                                                   \
      fprintf(stderr, "%s:%d: %s is\n  %s\nwant\n  %s\n", __FILE__, __LINE__, #got, got_, want_);                \
      exit(1);                                                                                                   \
    }                                                                                                            \
  } while (0)
#define CHECK_OK(expression)                                                                      \
  do {                                                                                            \
    th_status status_ = (expression);                                                             \
    if (status_) {                                                                                \
      char text_[4096];                                                                           \
      th_status_format(status_, text_, sizeof text_);                                             \
      fprintf(stderr, "%s:%d: %s\n  %s\n", __FILE__, __LINE__, #expression, text_);               \
      exit(1);                                                                                    \
    }                                                                                             \
  } while (0)

#endif
