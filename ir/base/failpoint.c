#include "ir/base/failpoint.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ir/base/log.h"

enum { MAX_POINTS = 16, MAX_NAME = 64 };

typedef enum action { ACTION_KILL, ACTION_EXIT, ACTION_ERROR, ACTION_SLEEP } action;
static const char *const action_names[] = {"kill", "exit", "error", "sleep"};
static const long action_defaults[] = {0, 1, TH_CODE_UNAVAILABLE, -1}; /* -1: required */

typedef struct point {
  char name[MAX_NAME];
  action what;
  long argument;
  long nth; /* 0: every pass */
  atomic_long passes;
} point;

static point points[MAX_POINTS];
static atomic_int point_count;
static pthread_once_t environment_once = PTHREAD_ONCE_INIT;

static bool whole_number(const char *text, long *out) {
  char *end;
  *out = strtol(text, &end, 10);
  return end != text && !*end && *out >= 0;
}

/* name=action[:argument][@n]; writes into `text`. */
static bool parse_point(char *text, point *out) {
  *out = (point){.what = ACTION_KILL};
  char *equals = strchr(text, '=');
  if (!equals || equals == text || equals - text >= MAX_NAME) return false;
  *equals = 0;
  snprintf(out->name, sizeof out->name, "%s", text);
  char *what = equals + 1, *at = strchr(what, '@');
  if (at) {
    *at = 0;
    if (!whole_number(at + 1, &out->nth) || !out->nth) return false;
  }
  char *colon = strchr(what, ':');
  if (colon) *colon = 0;
  for (size_t i = 0; i < sizeof action_names / sizeof *action_names; i++) {
    if (strcmp(what, action_names[i])) continue;
    out->what = (action)i;
    out->argument = action_defaults[i];
    if (colon && !whole_number(colon + 1, &out->argument)) return false;
    return out->argument >= 0;
  }
  return false;
}

th_status th_failpoint_configure(const char *text) {
  atomic_store(&point_count, 0);
  int count = 0;
  char *copy = strdup(text ? text : ""), *rest = NULL;
  if (!copy) return TH_ERROR(RESOURCE_EXHAUSTED, "fail points: out of memory");
  th_status status = TH_OK;
  for (char *one = strtok_r(copy, ",", &rest); one && !status; one = strtok_r(NULL, ",", &rest)) {
    char shown[MAX_NAME];
    snprintf(shown, sizeof shown, "%s", one);
    if (count == MAX_POINTS) {
      status = TH_ERROR(RESOURCE_EXHAUSTED, "THUNDER_FAILPOINTS: more than %d points", MAX_POINTS);
    } else if (!parse_point(one, &points[count])) {
      status = TH_ERROR(INVALID_ARGUMENT, "THUNDER_FAILPOINTS: \"%s\": expected name=kill|exit[:code]|error[:code]|"
                        "sleep:ms, then perhaps @n", shown);
    } else {
      count++;
    }
  }
  free(copy);
  if (!status) atomic_store(&point_count, count);
  return status;
}

static void from_environment(void) {
  const char *text = getenv("THUNDER_FAILPOINTS"), *only = getenv("THUNDER_FAILPOINTS_RANK"), *rank = getenv("RANK");
  if (!text || !*text || (only && (!rank || strcmp(only, rank)))) return;
  th_status status = th_failpoint_configure(text);
  if (status) TH_LOG(ERROR, "%s", th_status_message(status));
  th_status_free(status);
}

th_status th_failpoint_hit(const char *name) {
  pthread_once(&environment_once, from_environment);
  int count = atomic_load(&point_count);
  for (int i = 0; i < count; i++) {
    point *p = &points[i];
    if (strcmp(p->name, name)) continue;
    long pass = atomic_fetch_add(&p->passes, 1) + 1;
    if (p->nth && pass != p->nth) continue;
    switch (p->what) {
      case ACTION_KILL:
        raise(SIGKILL);
        break;
      case ACTION_EXIT:
        _exit((int)p->argument);
      case ACTION_ERROR:
        return th_status_create((th_code)p->argument, __FILE__, __LINE__, "fail point %s", name);
      case ACTION_SLEEP:
        nanosleep(&(struct timespec){p->argument / 1000, p->argument % 1000 * 1000000}, NULL);
        break;
    }
  }
  return TH_OK;
}
