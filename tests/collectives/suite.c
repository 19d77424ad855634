#include "tests/collectives/suite.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/collectives/numbers.h"
#include "tests/unit/check.h"

enum { MAX_SIZE = 8, MAX_SEGMENTS = 8, CANARY = 16 };
#define CODE(code, expression) check_code((expression), TH_CODE_##code, NULL, __FILE__, __LINE__, #expression)
#define CODE_TEXT(code, text, expression) check_code((expression), TH_CODE_##code, text, __FILE__, __LINE__, #expression)

/* The status has the code, and (not NULL) `text` in its message; ends it. */
static void check_code(th_status status, th_code code, const char *text, const char *file, int line, const char *what) {
  char have[4096];
  th_status_format(status, have, sizeof have);
  if (th_status_code(status) != code || (text && !strstr(th_status_message(status), text))) {
    fprintf(stderr, "%s:%d: %s\n  want %s \"%s\"\n  have %s\n", file, line, what, th_code_name(code), text ? text : "", have);
    exit(1);
  }
  th_status_free(status);
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap(int ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

static th_channel *open_with(suite_rank *r, th_channel_options options) {
  th_channel *channel;
  if (!options.timeout_ms) options.timeout_ms = 30000;
  CHECK_OK(r->backend->open(r, &options, &channel));
  CHECK_INT(th_channel_rank(channel), r->rank);
  CHECK_INT(th_channel_size(channel), r->size);
  CHECK_TEXT(th_channel_kind(channel), r->backend->name);
  return channel;
}
static th_channel *open_plain(suite_rank *r) { return open_with(r, (th_channel_options){0}); }

static void close_lost(suite_rank *r, th_channel *channel) {
  CHECK(th_channel_lost(channel));
  CODE_TEXT(FAILED_PRECONDITION, "the channel broke before", th_channel_barrier(channel));
  CODE(FAILED_PRECONDITION, th_channel_all_reduce(channel, TH_DTYPE_f32, TH_REDUCE_sum, &(float){1}, 1));
  th_channel_close(channel);
  r->lost = true;
}

/* --- one collective with data that is known to every rank */

typedef enum place { APART, IN_PLACE, SAME_POINTER, PLACES } place;
typedef struct job {
  th_collective_call call;
  th_segment segments[MAX_SEGMENTS];
  place where;
  uint64_t seed;
  char *inputs[MAX_SEGMENTS], *outputs[MAX_SEGMENTS]; /* with a canary at each end */
} job;

static bool has_reduce(th_collective_kind kind) { return kind == TH_COLLECTIVE_all_reduce || kind == TH_COLLECTIVE_reduce_scatter; }

static size_t in_count(const job *j, size_t i, int size) {
  return j->segments[i].count * (j->call.kind == TH_COLLECTIVE_reduce_scatter ? (size_t)size : 1);
}
static size_t out_count(const job *j, size_t i, int size) {
  return j->segments[i].count * (j->call.kind == TH_COLLECTIVE_all_gather ? (size_t)size : 1);
}

static uint64_t element_seed(const job *j, int rank, size_t segment, size_t at) {
  return numbers_mix(numbers_mix(j->seed, (uint64_t)rank), segment << 32 | at);
}

static char *guarded(size_t bytes) {
  char *p = malloc(bytes + 2 * CANARY);
  CHECK(p);
  memset(p, 0x5c, bytes + 2 * CANARY);
  return p;
}

static void check_guard(const char *p, size_t bytes) {
  for (int i = 0; i < CANARY; i++) CHECK(p[i] == 0x5c && p[CANARY + bytes + (size_t)i] == 0x5c);
}

static void prepare(suite_rank *r, job *j, th_collective_kind kind, th_dtype dtype, th_reduce reduce, int root, const size_t *counts, size_t n,
                    place where, uint64_t seed) {
  size_t width = th_dtype_size(dtype);
  *j = (job){.where = where, .seed = seed};
  for (size_t i = 0; i < n; i++) {
    th_segment *s = &j->segments[i];
    s->count = counts[i];
    j->call.kind = kind;
    size_t in = in_count(j, i, r->size), out = out_count(j, i, r->size);
    j->inputs[i] = guarded(in * width);
    j->outputs[i] = guarded(out * width);
    char *output = j->outputs[i] + CANARY, *input = j->inputs[i] + CANARY, *mine = output;
    if (kind == TH_COLLECTIVE_all_gather) mine += (size_t)r->rank * in * width;
    for (size_t k = 0; k < in; k++) {
      numbers_element(dtype, element_seed(j, r->rank, i, k), input + k * width);
      if (where != APART) memcpy(mine + k * width, input + k * width, width);
    }
    s->output = output;
    s->input = where == APART ? input : where == IN_PLACE ? NULL : mine;
    if (kind == TH_COLLECTIVE_broadcast && where == APART && r->rank != root) s->input = (void *)(uintptr_t)16; /* ignored */
  }
  j->call = (th_collective_call){
      .kind = kind, .dtype = dtype, .reduce = reduce, .root = root, .segments = j->segments, .segment_count = n, .name = "a case", .op = 7};
}

static void expected(suite_rank *r, const job *j, size_t segment, size_t at, char *out) {
  const th_collective_call *c = &j->call;
  size_t count = j->segments[segment].count;
  if (has_reduce(c->kind)) {
    char elements[MAX_SIZE][16];
    const void *inputs[MAX_SIZE];
    size_t from = c->kind == TH_COLLECTIVE_reduce_scatter ? (size_t)r->rank * count + at : at;
    for (int k = 0; k < r->size; k++) {
      numbers_element(c->dtype, element_seed(j, k, segment, from), elements[k]);
      inputs[k] = elements[k];
    }
    numbers_reduce(c->dtype, c->reduce, r->size, inputs, out);
  } else if (c->kind == TH_COLLECTIVE_all_gather) {
    numbers_element(c->dtype, element_seed(j, (int)(at / count), segment, at % count), out);
  } else {
    numbers_element(c->dtype, element_seed(j, c->root, segment, at), out);
  }
}

static void verify(suite_rank *r, job *j) {
  const th_collective_call *c = &j->call;
  size_t width = th_dtype_size(c->dtype);
  char want[16];
  for (size_t i = 0; i < c->segment_count; i++) {
    size_t in = in_count(j, i, r->size), out = out_count(j, i, r->size);
    for (size_t k = 0; k < out; k++) {
      const char *have = j->outputs[i] + CANARY + k * width;
      expected(r, j, i, k, want);
      if (!numbers_same(c->dtype, have, want)) {
        fprintf(stderr, "rank %d of %d: %s %s of %s, %zu segments, place %d, segment %zu (%zu elements): element %zu is", r->rank, r->size,
                th_collective_kind_name(c->kind), has_reduce(c->kind) ? th_reduce_name(c->reduce) : "", th_dtype_name(c->dtype), c->segment_count,
                (int)j->where, i, j->segments[i].count, k);
        for (size_t b = 0; b < width; b++) fprintf(stderr, " %02x", (unsigned char)have[b]);
        fprintf(stderr, ", want");
        for (size_t b = 0; b < width; b++) fprintf(stderr, " %02x", (unsigned char)want[b]);
        fprintf(stderr, "\n");
        exit(1);
      }
    }
    for (size_t k = 0; k < in; k++) { /* inputs are only read */
      numbers_element(c->dtype, element_seed(j, r->rank, i, k), want);
      CHECK(!memcmp(want, j->inputs[i] + CANARY + k * width, width));
    }
    check_guard(j->outputs[i], out * width);
    check_guard(j->inputs[i], in * width);
    free(j->inputs[i]);
    free(j->outputs[i]);
  }
}

/* --- cases */

static const struct {
  size_t n, counts[MAX_SEGMENTS];
} shapes[] = {{0, {0}},          {1, {0}},       {1, {1}},
              {1, {7}},          {2, {0, 5}},    {3, {5, 0, 3}},
              {4, {1, 1, 1, 1}}, {2, {2049, 3}}, {8, {1, 2, 3, 5, 8, 13, 21, 34}}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void values(suite_rank *r) {
  th_channel *channel = open_plain(r);
  uint64_t done = 0;
  job j;
  for (int kind = 0; kind < TH_COLLECTIVE_barrier; kind++)
    for (int dtype = 1; dtype < TH_DTYPE_COUNT; dtype++)
      for (int reduce = 0; reduce < (has_reduce((th_collective_kind)kind) ? TH_REDUCE_COUNT : 1); reduce++) {
        if (has_reduce((th_collective_kind)kind) && !numbers_allowed((th_dtype)dtype, (th_reduce)reduce)) continue;
        for (int root = 0; root < (kind == TH_COLLECTIVE_broadcast ? r->size : 1); root++)
          for (int shape = 0; shape < N_SHAPES; shape++)
            for (int where = 0; where < (kind == TH_COLLECTIVE_reduce_scatter ? 1 : PLACES); where++) {
              prepare(r, &j, (th_collective_kind)kind, (th_dtype)dtype, (th_reduce)reduce, root, shapes[shape].counts, shapes[shape].n, (place)where,
                      done);
              CHECK_OK(th_channel_run(channel, &j.call));
              verify(r, &j);
              done++;
            }
      }
  CHECK_OK(th_channel_barrier(channel));
  CHECK_INT(th_channel_stats_get(channel).completed, done + 1);
  th_channel_close(channel);
}

static void shortcuts(suite_rank *r) { /* the functions for one tensor */
  th_channel *channel = open_plain(r);
  int64_t n = r->size, me = r->rank, data[2] = {me, 10 * me}, all[2 * MAX_SIZE], part[2], twos[2 * MAX_SIZE];
  CHECK_OK(th_channel_all_reduce(channel, TH_DTYPE_i64, TH_REDUCE_sum, data, 2));
  CHECK(data[0] == n * (n - 1) / 2 && data[1] == 10 * data[0]);
  data[0] = me, data[1] = -me;
  CHECK_OK(th_channel_all_gather(channel, TH_DTYPE_i64, data, all, 2));
  for (int k = 0; k < r->size; k++) CHECK(all[2 * k] == k && all[2 * k + 1] == -k);
  for (int k = 0; k < 2 * r->size; k++) twos[k] = me * 100 + k;
  CHECK_OK(th_channel_reduce_scatter(channel, TH_DTYPE_i64, TH_REDUCE_max, twos, part, 2));
  CHECK(part[0] == (n - 1) * 100 + 2 * me && part[1] == part[0] + 1);
  data[0] = me;
  CHECK_OK(th_channel_broadcast(channel, TH_DTYPE_i64, r->size - 1, data, 1));
  CHECK_INT(data[0], n - 1);
  th_channel_close(channel);
}

static void refused(suite_rank *r) { /* calls that no rank could make: nothing happens */
  th_channel *channel = open_plain(r);
  float x = 0;
  th_request *request;
  th_segment one = {NULL, &x, 1}, none = {NULL, NULL, 1}, huge = {NULL, &x, SIZE_MAX / 4},
             halves[3] = {{NULL, &x, SIZE_MAX / 12}, {NULL, &x, SIZE_MAX / 12}, {NULL, &x, SIZE_MAX / 12}};
#define REFUSED(...)                                                                                                                                 \
  do {                                                                                                                                               \
    request = (th_request *)r;                                                                                                                       \
    CODE(INVALID_ARGUMENT, th_channel_start(channel, &(th_collective_call){__VA_ARGS__}, &request));                                                 \
    CHECK(!request);                                                                                                                                 \
  } while (0)
  for (int dtype = 0; dtype <= TH_DTYPE_COUNT; dtype++)
    for (int reduce = 0; reduce <= TH_REDUCE_COUNT; reduce++) {
      if (dtype && dtype < TH_DTYPE_COUNT && reduce < TH_REDUCE_COUNT && numbers_allowed((th_dtype)dtype, (th_reduce)reduce)) continue;
      REFUSED(.kind = TH_COLLECTIVE_all_reduce, .dtype = (th_dtype)dtype, .reduce = (th_reduce)reduce, .segments = &one, .segment_count = 1);
      REFUSED(.kind = TH_COLLECTIVE_reduce_scatter, .dtype = (th_dtype)dtype, .reduce = (th_reduce)reduce, .segments = &one, .segment_count = 1);
    }
  REFUSED(.kind = TH_COLLECTIVE_KIND_COUNT, .dtype = TH_DTYPE_f32, .segments = &one, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_all_gather, .dtype = TH_DTYPE_none, .segments = &one, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_broadcast, .dtype = TH_DTYPE_f32, .root = r->size, .segments = &one, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_broadcast, .dtype = TH_DTYPE_f32, .root = -1, .segments = &one, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_f32, .segments = &none, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_reduce_scatter, .dtype = TH_DTYPE_f32, .segments = &one, .segment_count = 1); /* in place */
  REFUSED(.kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_c128, .segments = &huge, .segment_count = 1);
  REFUSED(.kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_f64, .segments = halves, .segment_count = 3);
  th_channel_stats stats = th_channel_stats_get(channel);
  CHECK_INT(stats.index, 0);
  CHECK_INT(stats.bytes_sent, 0);
  CHECK(stats.fingerprint == th_fingerprint_seed("world"));
  CHECK(!th_channel_lost(channel));
  x = (float)r->rank;
  CHECK_OK(th_channel_all_reduce(channel, TH_DTYPE_f32, TH_REDUCE_max, &x, 1)); /* and the channel goes on */
  CHECK(x == (float)(r->size - 1));
  th_channel_close(channel);
}

static void in_flight(suite_rank *r) { /* many at once, waited for in an order of each rank's own */
  enum { N = 12, TURNS = 25 };
  static const th_dtype dtypes[] = {TH_DTYPE_f32, TH_DTYPE_bf16, TH_DTYPE_i8, TH_DTYPE_c64, TH_DTYPE_f16, TH_DTYPE_u64};
  th_channel *channel = open_plain(r);
  static _Thread_local job jobs[N];
  th_request *requests[N];
  for (int turn = 0; turn < TURNS; turn++) {
    uint64_t plan = numbers_mix((uint64_t)turn, 99), mine = numbers_mix((uint64_t)turn, 1000 + (uint64_t)r->rank);
    for (int i = 0; i < N; i++) {
      uint64_t h = numbers_mix(plan, (uint64_t)i);
      th_collective_kind kind = (th_collective_kind)(h % TH_COLLECTIVE_KIND_COUNT);
      if (kind == TH_COLLECTIVE_barrier)
        jobs[i] = (job){.call = {.kind = kind}};
      else
        prepare(r, &jobs[i], kind, dtypes[h >> 8 & 3], (th_reduce)0, (int)(h >> 12 & 63) % r->size, shapes[(h >> 20) % N_SHAPES].counts,
                shapes[(h >> 20) % N_SHAPES].n, APART, h);
      CHECK_OK(th_channel_start(channel, &jobs[i].call, &requests[i]));
      if (numbers_mix(mine, (uint64_t)i) % 3 == 0) th_channel_progress(channel);
    }
    int order[N];
    for (int i = 0; i < N; i++) order[i] = i;
    for (int i = N - 1; i > 0; i--) {
      int k = (int)(numbers_mix(mine, 50 + (uint64_t)i) % ((uint64_t)i + 1)), t = order[i];
      order[i] = order[k], order[k] = t;
    }
    for (int i = 0; i < N; i++) {
      bool done = false;
      int at = order[i];
      if (i % 3 == 0) { /* tests do not end it */
        for (int64_t end = now_ms() + 20000; !done;) {
          CHECK_OK(th_request_test(requests[at], 1, &done));
          CHECK(now_ms() < end);
        }
        CHECK_OK(th_request_test(requests[at], 0, &done));
        CHECK(done);
      }
      CHECK_OK(th_request_wait(requests[at], -1));
      if (jobs[at].call.kind != TH_COLLECTIVE_barrier) verify(r, &jobs[at]);
    }
  }
  CHECK_INT(th_channel_stats_get(channel).completed, N * TURNS);
  th_channel_close(channel);
}

/* Rank 0 starts a barrier and looks; the others come to it only when they hear, by another channel, that it has looked. */
static void not_done_before_all_have_come(suite_rank *r) {
  th_channel *channel = open_plain(r), *word = open_with(r, (th_channel_options){.group = "word"});
  CHECK_TEXT(th_channel_group(channel), "world");
  CHECK_TEXT(th_channel_group(word), "word");
  for (int turn = 0; turn < 5; turn++) {
    th_request *request;
    int32_t said = turn;
    bool done = true;
    if (r->rank) CHECK_OK(th_channel_broadcast(word, TH_DTYPE_i32, 0, &said, 1));
    CHECK_OK(th_channel_start(channel, &(th_collective_call){.kind = TH_COLLECTIVE_barrier}, &request));
    if (!r->rank) {
      int64_t start = now_ms();
      CHECK_OK(th_request_test(request, 0, &done));
      CHECK(done == (r->size == 1));
      CHECK_OK(th_request_test(request, 30, &done));
      CHECK(done == (r->size == 1) && (done || now_ms() - start >= 30));
      for (int i = 0; i < 100; i++) th_channel_progress(channel);
      CHECK_INT(th_channel_stats_get(channel).completed, (uint64_t)turn + (r->size == 1));
      CHECK_OK(th_channel_broadcast(word, TH_DTYPE_i32, 0, &said, 1));
    }
    for (int64_t end = now_ms() + 20000; th_channel_stats_get(channel).completed == (uint64_t)turn;) { /* progress alone ends it */
      th_channel_progress(channel);
      CHECK(now_ms() < end);
    }
    CHECK_OK(th_request_wait(request, 0));
  }
  th_channel_close(word);
  th_channel_close(channel);
}

static void statistics(suite_rank *r) {
  th_channel *channel = open_plain(r);
  uint64_t n = (uint64_t)r->size, bytes = 0;
  job j;
  static const size_t counts[] = {5, 0, 4};
  for (int kind = 0; kind < TH_COLLECTIVE_KIND_COUNT; kind++) {
    if (kind == TH_COLLECTIVE_barrier) {
      CHECK_OK(th_channel_barrier(channel));
    } else {
      prepare(r, &j, (th_collective_kind)kind, TH_DTYPE_f64, TH_REDUCE_sum, r->size - 1, counts, 3, APART, 1);
      CHECK_OK(th_channel_run(channel, &j.call));
      verify(r, &j);
    }
    switch (kind) {
      case TH_COLLECTIVE_all_reduce: bytes += 2 * (n - 1) * (9 * 8) / n; break;
      case TH_COLLECTIVE_all_gather:
      case TH_COLLECTIVE_reduce_scatter: bytes += (n - 1) * 9 * 8; break;
      case TH_COLLECTIVE_broadcast: bytes += r->rank == r->size - 1 && n > 1 ? 9 * 8 : 0; break;
    }
    th_channel_stats s = th_channel_stats_get(channel);
    CHECK_INT(s.bytes_sent, bytes);
    CHECK_INT(s.index, kind + 1);
    CHECK_INT(s.completed, kind + 1);
    for (int k = 0; k < TH_COLLECTIVE_KIND_COUNT; k++) CHECK_INT(s.by_kind[k], k <= kind);
    CHECK(s.wait_ns > 0);
  }
  th_channel_close(channel);
}

static void fingerprints(suite_rank *r) {
  th_segment s[2] = {{NULL, s, 4}, {NULL, s, 2}}, t[2] = {{NULL, s, 2}, {NULL, s, 4}}, longer[2] = {{NULL, s, 4}, {NULL, s, 3}};
  th_collective_call base = {.kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_f32, .segments = s, .segment_count = 2}, other[8];
  for (int i = 0; i < 8; i++) other[i] = base;
  other[0].kind = TH_COLLECTIVE_reduce_scatter, other[1].dtype = TH_DTYPE_f64, other[2].reduce = TH_REDUCE_avg, other[3].segments = t,
  other[4].segments = longer, other[5].segment_count = 1;
  other[6].kind = TH_COLLECTIVE_barrier, other[7].kind = TH_COLLECTIVE_broadcast;
  uint64_t seen[16] = {th_fingerprint_seed("world"), th_fingerprint_seed("words"), th_fingerprint_next(th_fingerprint_seed(NULL), &base)};
  CHECK(seen[0] == th_fingerprint_seed(NULL));
  for (int i = 0; i < 8; i++) seen[3 + i] = th_fingerprint_next(seen[0], &other[i]);
  other[7].root = 1;
  seen[11] = th_fingerprint_next(seen[0], &other[7]);
  seen[12] = th_fingerprint_next(seen[3], &base); /* two, in both orders */
  seen[13] = th_fingerprint_next(seen[2], &other[0]);
  for (int i = 0; i < 14; i++)
    for (int k = 0; k < i; k++) CHECK(seen[i] != seen[k]);
  th_collective_call same = base;
  same.name = "x", same.op = 9, same.root = 3;
  CHECK(th_fingerprint_next(seen[0], &same) == seen[2]); /* what is no part of the data's way */

  th_channel *channel = open_plain(r);
  uint64_t mine, all[MAX_SIZE];
  job j;
  for (int i = 0; i < 20; i++) {
    int shape = i % N_SHAPES;
    prepare(r, &j, (th_collective_kind)(i % 4), TH_DTYPE_i32, (th_reduce)0, i % r->size, shapes[shape].counts, shapes[shape].n, APART, 5);
    CHECK_OK(th_channel_run(channel, &j.call));
    verify(r, &j);
    mine = th_channel_stats_get(channel).fingerprint;
    CHECK_OK(th_channel_all_gather(channel, TH_DTYPE_u64, &mine, all, 1));
    for (int k = 0; k < r->size; k++) CHECK(all[k] == mine);
  }
  th_channel_close(channel);
  th_channel *alone; /* a group of one: each rank a sequence of its own */
  CHECK_OK(th_channel_open("local", NULL, &alone));
  for (int i = 0; i <= r->rank; i++) CHECK_OK(th_channel_barrier(alone));
  mine = th_channel_stats_get(alone).fingerprint;
  th_channel_close(alone);
  channel = open_plain(r);
  CHECK_OK(th_channel_all_gather(channel, TH_DTYPE_u64, &mine, all, 1));
  for (int i = 0; i < r->size; i++)
    for (int k = 0; k < i; k++) CHECK(all[i] != all[k]);
  th_channel_close(channel);
}

static void closed_with_live_requests(suite_rank *r) {
  enum { N = 5 };
  static _Thread_local float data[N][100];
  th_request *request;
  th_channel *channel = open_plain(r);
  for (int i = 0; i < N; i++) {
    for (int k = 0; k < 100; k++) data[i][k] = (float)r->rank;
    CHECK_OK(th_channel_start(channel,
                              &(th_collective_call){.kind = TH_COLLECTIVE_all_reduce,
                                                    .dtype = TH_DTYPE_f32,
                                                    .segments = &(th_segment){NULL, data[i], 100},
                                                    .segment_count = 1},
                              &request));
  }
  th_channel_close(channel);
  th_channel_close(NULL);
  for (int i = 0; i < N; i++)
    for (int k = 0; k < 100; k++) CHECK(data[i][k] == (float)(r->size * (r->size - 1)) / 2);
  channel = open_plain(r);
  CHECK_OK(th_channel_barrier(channel));
  th_channel_close(channel);
}

static void opened_wrongly(suite_rank *r) {
  th_channel *channel = (th_channel *)r;
  CODE_TEXT(INVALID_ARGUMENT, "expected auto, local or mpi", th_channel_open("tin cans", NULL, &channel));
  CHECK(!channel);
  static const char *const bad[] = {"0", "-1", "x", "1e10", "5s", "nan"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad && r->backend->meet == NULL; i++) { /* the environment is the process's: not from threads */
    setenv("THUNDER_COLLECTIVE_TIMEOUT", bad[i], 1);
    CODE_TEXT(INVALID_ARGUMENT, "THUNDER_COLLECTIVE_TIMEOUT", r->backend->open(r, &(th_channel_options){0}, &channel));
    CHECK(!channel);
    unsetenv("THUNDER_COLLECTIVE_TIMEOUT");
  }
}

/* --- cases that lose their channel */

static bool is_absent(const suite_rank *r) { return r->rank == r->size - 1; }

/* The rank that does not come stays alive until the others have seen it. */
static void stay_away(suite_rank *r, int ms) {
  if (r->backend->meet)
    r->backend->meet(r);
  else
    nap(ms);
}

/* Who waits for an absent peer ends with `code`; with more waiting ranks also by the word of another one of them. */
static void check_ended(suite_rank *r, th_status status, th_code code, const char *text, int64_t start, int64_t least, int64_t most) {
  int64_t took = now_ms() - start;
  bool other =
      r->backend->ends_together && r->size > 2 && th_status_code(status) == TH_CODE_ABORTED && strstr(th_status_message(status), "gave up waiting");
  if (!other) {
    check_code(status, code, text, __FILE__, __LINE__, "the wait");
    if (took < least || took > most) {
      fprintf(stderr, "rank %d: the wait took %lld ms, want %lld to %lld\n", r->rank, (long long)took, (long long)least, (long long)most);
      exit(1);
    }
    return;
  }
  th_status_free(status);
  CHECK(took <= most);
}

static void deadline(suite_rank *r) {
  th_channel *channel = open_plain(r);
  float *data = calloc(1000, sizeof *data); /* stays: a library may write to it later */
  th_request *request, *second;
  bool done;
  CHECK_OK(th_channel_barrier(channel)); /* all are here */
  if (is_absent(r)) {
    stay_away(r, 1500);
    if (r->backend->ends_together) { /* it comes too late, and is told so */
      CODE_TEXT(ABORTED, "gave up waiting", th_channel_barrier(channel));
      close_lost(r, channel);
    } else {
      r->lost = true;
    }
    free(data);
    return;
  }
  th_segment segment = {NULL, data, 1000};
  CHECK_OK(th_channel_start(
      channel,
      &(th_collective_call){
          .kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_f32, .segments = &segment, .segment_count = 1, .name = "the missed one"},
      &request));
  CHECK_OK(th_channel_start(channel, &(th_collective_call){.kind = TH_COLLECTIVE_barrier}, &second));
  int64_t start = now_ms();
  check_ended(r, th_request_wait(request, 250), TH_CODE_DEADLINE_EXCEEDED, "all_reduce 1 (the missed one) of group world on rank", start, 250,
              250 + 1500);
  CODE(FAILED_PRECONDITION, th_request_test(second, 0, &done));
  CHECK(!done);
  CODE(FAILED_PRECONDITION, th_request_wait(second, 10000));
  th_channel_progress(channel); /* of a lost one: nothing */
  close_lost(r, channel);
  if (r->backend->meet) r->backend->meet(r);
  if (r->backend->outlives_loss) free(data);
}

static void default_deadline(suite_rank *r) { /* options.timeout_ms */
  th_channel *channel = open_with(r, (th_channel_options){.timeout_ms = 200});
  CHECK_OK(th_channel_barrier(channel));
  if (is_absent(r)) {
    stay_away(r, 1500);
    r->lost = true;
    if (r->backend->outlives_loss) th_channel_close(channel);
    return;
  }
  int64_t start = now_ms();
  check_ended(r, th_channel_barrier(channel), TH_CODE_DEADLINE_EXCEEDED, "barrier 1 of group world on rank", start, 200, 200 + 1500);
  close_lost(r, channel);
  if (r->backend->meet) r->backend->meet(r);
}

typedef struct stopper {
  th_channel *channel;
  atomic_int *flag;
  th_progress *page;
} stopper;

static void *stop_soon(void *user) {
  stopper *s = user;
  nap(60);
  if (s->channel) th_channel_abort(s->channel, "the test says so");
  if (s->flag) atomic_store(s->flag, 1);
  if (s->page) th_progress_abort(s->page, "the page says so");
  return NULL;
}

static void stopped(suite_rank *r, stopper how, const char *text) {
  pthread_t thread;
  th_channel_options options = {.abort_flag = how.flag, .progress = how.page};
  th_channel *channel = open_with(r, options);
  CHECK_OK(th_channel_barrier(channel));
  if (is_absent(r)) {
    stay_away(r, 1500);
    r->lost = true;
    if (r->backend->outlives_loss) th_channel_close(channel);
    return;
  }
  bool by_call = !how.flag && !how.page;
  if (by_call) how.channel = channel;
  /* where one stops all, rank 0 alone does */
  bool stops = !(by_call && r->backend->ends_together) || r->rank == 0;
  if (stops) CHECK_INT(pthread_create(&thread, NULL, stop_soon, &how), 0);
  int64_t start = now_ms();
  check_ended(r, th_channel_barrier(channel), TH_CODE_ABORTED, text, start, 50, 60 + 1500);
  if (stops) pthread_join(thread, NULL);
  close_lost(r, channel);
  if (r->backend->meet) r->backend->meet(r);
}

static void aborted(suite_rank *r) { stopped(r, (stopper){0}, "the test says so"); }
static void aborted_by_flag(suite_rank *r) {
  atomic_int flag = 0;
  stopped(r, (stopper){.flag = &flag}, "the caller asked to stop");
}
static void aborted_by_page(suite_rank *r) {
  char path[256];
  th_progress *page;
  const char *tmp = getenv("TMPDIR");
  snprintf(path, sizeof path, "%s/thunder-suite-%d-%d", tmp && *tmp ? tmp : "/tmp", (int)getpid(), r->rank);
  CHECK_OK(th_progress_create(path, &page));
  unlink(path);
  stopped(r, (stopper){.page = page}, "the page says so");
  th_progress_unmap(page);
}

static void aborted_before(suite_rank *r) { /* "now and later" */
  th_channel *channel = open_plain(r);
  CHECK_OK(th_channel_barrier(channel));
  if (r->backend->meet)
    r->backend->meet(r); /* nobody is in that barrier still */
  else
    nap(300);
  th_channel_abort(channel, "long ago");
  th_channel_abort(channel, "not the first");
  CHECK(!th_channel_lost(channel));
  if (!is_absent(r)) {
    CODE_TEXT(ABORTED, "long ago", th_channel_barrier(channel));
    close_lost(r, channel);
  } else {
    stay_away(r, 500);
    r->lost = true;
    if (r->backend->outlives_loss) th_channel_close(channel);
    return;
  }
  if (r->backend->meet) r->backend->meet(r);
}

static void mismatched(suite_rank *r) {
  static _Thread_local float x[64];
  th_segment six[2] = {{x, x + 16, 4}, {x, x + 24, 2}}, other[2] = {{x, x + 16, 2}, {x, x + 24, 4}}, seven[2] = {{x, x + 16, 4}, {x, x + 24, 3}};
  th_collective_call base = {.kind = TH_COLLECTIVE_all_reduce, .dtype = TH_DTYPE_i16, .segments = six, .segment_count = 2}, odd[8];
  for (int i = 0; i < 8; i++) odd[i] = base;
  odd[0].kind = TH_COLLECTIVE_reduce_scatter, odd[1].dtype = TH_DTYPE_i32, odd[2].reduce = TH_REDUCE_max, odd[3].segments = other,
  odd[4].segments = seven, odd[5].segment_count = 1;
  odd[6].kind = TH_COLLECTIVE_barrier, odd[7].kind = TH_COLLECTIVE_broadcast;
  static const char *const names[] = {"reduce_scatter", "i32", "max", "segment 0: ", "7 x i16", "4 x i16", "barrier", "from rank 0"};
  for (int i = 0; i < 8; i++) { /* the last rank starts another one than the others */
    th_collective_call mine = is_absent(r) ? odd[i] : base;
    th_channel *channel = open_plain(r);
    if (i == 7) { /* the others: another root */
      mine = odd[7];
      if (!is_absent(r)) mine.root = r->size - 1;
    }
    char text[1024];
    th_status status = th_channel_run(channel, &mine);
    snprintf(text, sizeof text, "%s", th_status_message(status));
    CODE_TEXT(FAILED_PRECONDITION, "collective 0 differs between ranks: rank", status);
    if (!strstr(text, names[i]) || (i < 7 && !strstr(text, "all_reduce sum of")) || (i == 7 && !strstr(strstr(text, "from rank") + 1, "from rank"))) {
      fprintf(stderr, "the ranks' collectives are not told apart (%s): %s\n", names[i], text);
      exit(1);
    }
    close_lost(r, channel);
  }
}

static void a_peer_leaves(suite_rank *r) {
  th_channel *channel = open_plain(r);
  CHECK_OK(th_channel_barrier(channel));
  if (is_absent(r)) {
    th_channel_close(channel);
    return;
  }
  char text[64];
  snprintf(text, sizeof text, "rank %d left the group", r->size - 1);
  int64_t start = now_ms();
  check_ended(r, th_channel_barrier(channel), TH_CODE_UNAVAILABLE, text, start, 0, 5000);
  close_lost(r, channel);
}

enum { LOSES = 1, PEERS = 2, NAMES = 4, TOGETHER = 8 };
static const struct {
  const char *name;
  void (*run)(suite_rank *r);
  int needs;
} cases[] = {
    {"values", values, 0},
    {"shortcuts", shortcuts, 0},
    {"refused", refused, 0},
    {"in_flight", in_flight, 0},
    {"not_done_before_all_have_come", not_done_before_all_have_come, 0},
    {"statistics", statistics, 0},
    {"fingerprints", fingerprints, 0},
    {"closed_with_live_requests", closed_with_live_requests, 0},
    {"opened_wrongly", opened_wrongly, 0},
    {"deadline", deadline, LOSES | PEERS},
    {"default_deadline", default_deadline, LOSES | PEERS},
    {"aborted", aborted, LOSES | PEERS},
    {"aborted_by_flag", aborted_by_flag, LOSES | PEERS},
    {"aborted_by_page", aborted_by_page, LOSES | PEERS},
    {"aborted_before", aborted_before, LOSES | PEERS},
    {"mismatched", mismatched, LOSES | PEERS | NAMES},
    {"a_peer_leaves", a_peer_leaves, LOSES | PEERS | TOGETHER},
};

int suite_run(suite_rank *r, const char *only) {
  const suite_backend *b = r->backend;
  int ran = 0;
  CHECK(r->size <= MAX_SIZE);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int needs = cases[i].needs;
    bool able = (!(needs & PEERS) || r->size > 1) && (!(needs & NAMES) || b->names_mismatch) && (!(needs & TOGETHER) || b->ends_together);
    if (only ? strcmp(only, cases[i].name) : !able || ((needs & LOSES) && !b->outlives_loss)) continue;
    CHECK(able);
    int64_t start = now_ms();
    cases[i].run(r);
    if (r->rank == 0) {
      fprintf(stderr, "%s, %d ranks: %s (%lld ms)\n", b->name, r->size, cases[i].name, (long long)(now_ms() - start));
    }
    ran++;
  }
  return ran;
}
