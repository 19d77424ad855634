/* cublaslt.matmul over the fakes of cublasLt and the driver: random products of random layouts against a naive loop over the
 * views, with nothing written beside them; algorithms: timed once, by key, fastest taken, captured, deterministic, imported, by another process; and
 * each entry point failing in turn, with an error and nothing left over. THUNDER_TEST_SEED repeats a run. */
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "executors/run/contraction.h"
#include "executors/run/cublaslt/cublaslt.h"
#include "executors/run/tuning.h"
#include "ir/base/log.h"
#include "tests/cuda/fake.h"
#include "tests/unit/check.h"

static fake_control *fake;
static uint64_t state_random;
static int64_t below(int64_t n) {
  state_random ^= state_random >> 12, state_random ^= state_random << 25, state_random ^= state_random >> 27;
  return (int64_t)((state_random * 0x2545f4914f6cdd1du >> 11) % (uint64_t)n);
}
static bool one_in(int64_t n) { return !below(n); }

/* ---- views with memory ---- */

enum { GUARD = 64 };
typedef struct tensor { th_view v; uint8_t *memory; int64_t elements; } tensor; /* elements: of the memory, from v.data on */

static int kind(th_dtype d) { return d == TH_DTYPE_f64 ? 1 : d == TH_DTYPE_f16 ? 2 : d == TH_DTYPE_bf16 ? 14 : 0; }
static int64_t offset_of(const th_view *v, const int64_t *index) {
  int64_t o = 0;
  for (uint32_t i = 0; i < v->rank; i++) o += index[i] * v->strides[i];
  return o;
}
static bool next(uint32_t rank, const int64_t *dims, int64_t *index) {
  for (uint32_t i = rank; i-- > 0;) {
    if (++index[i] < dims[i]) return true;
    index[i] = 0;
  }
  return false;
}
static bool any(const th_view *v) {
  for (uint32_t i = 0; i < v->rank; i++)
    if (!v->dims[i]) return false;
  return true;
}

static void allocate(tensor *t) {
  int64_t last = 0, size = (int64_t)th_dtype_size(t->v.dtype), shift = one_in(2) ? 0 : below(9) * size, index[TH_RUN_RANK] = {0};
  for (uint32_t i = 0; i < t->v.rank; i++)
    if (t->v.dims[i] > 0) last += (t->v.dims[i] - 1) * (t->v.strides[i] > 0 ? t->v.strides[i] : 0);
  t->elements = last + 1;
  CHECK(!posix_memalign((void **)&t->memory, 512, (size_t)((t->elements + GUARD) * size + shift + 512)));
  t->v.data = t->memory + shift;
  memset(t->memory, 0xff, (size_t)((t->elements + GUARD) * size + shift)); /* NaN */
  if (any(&t->v))
    do fake_store(kind(t->v.dtype), t->v.data, offset_of(&t->v, index), (double)(below(9) - 4) / 4);
    while (next(t->v.rank, t->v.dims, index));
}

/* Strides: storage order `order` (outermost first), gaps of `gap` chance, runs rounded up to a multiple of 8 where `round`. */
static void lie(th_view *v, const uint32_t *order, bool round, int64_t gap, int64_t step) {
  int64_t run = step;
  for (uint32_t i = v->rank; i-- > 0;) {
    v->strides[order[i]] = run;
    run *= v->dims[order[i]] ? v->dims[order[i]] : 1;
    if (round) run = (run + 7) / 8 * 8;
    else if (gap && one_in(gap)) run += below(9);
  }
}

/* ---- one random product ---- */

typedef struct product {
  uint32_t nb, nr, nk, nc, n_ints;
  int64_t batch[3], rows[3], contracted[3], columns[3], ints[32];
  uint32_t lb[3], lr[3], lk[3], rb[3], rc[3], rk[3]; /* where each dimension is in lhs and rhs */
  th_matmul_epilogue epilogue;
  tensor t[TH_MATMUL_PARTS]; /* AUX and VECTOR: those that the epilogue has */
  bool has[TH_MATMUL_PARTS], written[TH_MATMUL_PARTS], bias_alone;
  th_view operands[3], results[2];
  uint32_t n_operands, n_results;
  double alpha;
} product;

static void shuffle(uint32_t *list, uint32_t n) {
  for (uint32_t i = n; i > 1; i--) {
    uint32_t j = (uint32_t)below(i), x = list[i - 1];
    list[i - 1] = list[j], list[j] = x;
  }
}

/* Where the dimensions of an operand stand (batch, free, contracted; the free ones in order), and how they lie in memory. */
static void place(th_view *v, const int64_t *b, uint32_t nb, uint32_t *pb, const int64_t *f, uint32_t nf, uint32_t *pf, const int64_t *k, uint32_t nk, uint32_t *pk) {
  uint32_t at[9], order[9], n = nb + nf + nk, role[9];
  for (uint32_t i = 0; i < n; i++) at[i] = i;
  if (one_in(2)) shuffle(at, n);
  for (uint32_t i = 0; i < nf; i++) /* the free dimensions are taken in the order that they stand in */
    for (uint32_t j = i + 1; j < nf; j++)
      if (at[nb + j] < at[nb + i]) {
        uint32_t x = at[nb + i];
        at[nb + i] = at[nb + j], at[nb + j] = x;
      }
  v->rank = n;
  for (uint32_t i = 0; i < nb; i++) pb[i] = at[i], v->dims[at[i]] = b[i];
  for (uint32_t i = 0; i < nf; i++) pf[i] = at[nb + i], v->dims[at[nb + i]] = f[i];
  for (uint32_t i = 0; i < nk; i++) pk[i] = at[nb + nf + i], v->dims[at[nb + nf + i]] = k[i];
  static const uint8_t groups[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {2, 0, 1}, {0, 1, 2}, {0, 2, 1}};
  const uint8_t *g = groups[below(6)];
  uint32_t from[3] = {0, nb, nb + nf}, size[3] = {nb, nf, nk}, m = 0;
  for (int i = 0; i < 3; i++)
    for (uint32_t j = 0; j < size[g[i]]; j++) role[m++] = from[g[i]] + j;
  if (one_in(6)) shuffle(role, n);
  for (uint32_t i = 0; i < n; i++) order[i] = at[role[i]];
  lie(v, order, false, one_in(3) ? 3 : 0, one_in(20) ? 2 : 1);
  if (one_in(6))
    for (uint32_t i = 0; i < nb; i++) v->strides[pb[i]] = 0; /* expanded over the batch */
}

static void draw(product *p) {
  static const th_dtype dtypes[][2] = {{TH_DTYPE_f32, TH_DTYPE_f32}, {TH_DTYPE_f64, TH_DTYPE_f64}, {TH_DTYPE_bf16, TH_DTYPE_bf16}, {TH_DTYPE_f16, TH_DTYPE_f16},
                                       {TH_DTYPE_bf16, TH_DTYPE_f32}, {TH_DTYPE_f16, TH_DTYPE_f32}};
  static const double alphas[] = {1, 0.5, -2};
  memset(p, 0, sizeof *p);
  const th_dtype *types = dtypes[below(6)];
  p->nb = (uint32_t)below(3), p->nr = (uint32_t)below(3), p->nc = (uint32_t)below(3), p->nk = (uint32_t)below(3);
  int64_t *all[4] = {p->batch, p->rows, p->columns, p->contracted};
  for (int g = 0; g < 4; g++)
    for (int i = 0; i < 3; i++) all[g][i] = one_in(40) ? 0 : one_in(6) ? 8 : 1 + below(5);
  p->epilogue = (th_matmul_epilogue)below(TH_EPILOGUE_COUNT);
  p->alpha = alphas[below(3)];
  th_view *l = &p->t[TH_MATMUL_LHS].v, *r = &p->t[TH_MATMUL_RHS].v, *out = &p->t[TH_MATMUL_RESULT].v;
  l->dtype = r->dtype = types[0], out->dtype = types[1];
  place(l, p->batch, p->nb, p->lb, p->rows, p->nr, p->lr, p->contracted, p->nk, p->lk);
  place(r, p->batch, p->nb, p->rb, p->columns, p->nc, p->rc, p->contracted, p->nk, p->rk);
  out->rank = p->nb + p->nr + p->nc;
  for (uint32_t i = 0; i < p->nb; i++) out->dims[i] = p->batch[i];
  for (uint32_t i = 0; i < p->nr; i++) out->dims[p->nb + i] = p->rows[i];
  for (uint32_t i = 0; i < p->nc; i++) out->dims[p->nb + p->nr + i] = p->columns[i];
  uint32_t order[9], n = 0;
  static const uint8_t groups[6][3] = {{0, 1, 2}, {0, 2, 1}, {0, 1, 2}, {1, 0, 2}, {2, 0, 1}, {0, 1, 2}};
  const uint8_t *g = groups[below(6)];
  uint32_t from[4] = {0, p->nb, p->nb + p->nr, out->rank};
  for (int i = 0; i < 3; i++)
    for (uint32_t j = from[g[i]]; j < from[g[i] + 1]; j++) order[n++] = j;
  if (one_in(8)) shuffle(order, n);
  bool round = !one_in(4);
  lie(out, order, round && one_in(2), one_in(4) ? 3 : 0, one_in(30) ? 2 : 1);
  th_view *x = &p->t[TH_MATMUL_AUX].v, *v = &p->t[TH_MATMUL_VECTOR].v;
  *x = *out;
  if (one_in(8)) shuffle(order, n);
  lie(x, order, round, one_in(4) ? 3 : 0, 1);
  bool of_rows = p->epilogue == TH_EPILOGUE_LHS_SUM, bias = p->epilogue == TH_EPILOGUE_BIAS || p->epilogue == TH_EPILOGUE_BIAS_GELU;
  p->bias_alone = bias && one_in(2);
  v->dtype = out->dtype;
  for (uint32_t i = 0; !p->bias_alone && i < p->nb; i++) v->dims[v->rank++] = p->batch[i];
  for (uint32_t i = 0; i < (of_rows ? p->nr : p->nc); i++) v->dims[v->rank++] = of_rows ? p->rows[i] : p->columns[i];
  for (uint32_t i = 0; i < v->rank; i++) order[i] = i;
  lie(v, order, false, one_in(6) ? 3 : 0, one_in(12) ? 2 : 1);
  if (bias && !p->bias_alone && one_in(3))
    for (uint32_t i = 0; i < p->nb; i++) v->strides[i] = 0;
  th_matmul_epilogue e = p->epilogue;
  p->has[TH_MATMUL_LHS] = p->has[TH_MATMUL_RHS] = p->has[TH_MATMUL_RESULT] = p->written[TH_MATMUL_RESULT] = true;
  p->has[TH_MATMUL_AUX] = e == TH_EPILOGUE_GELU || e == TH_EPILOGUE_BIAS_GELU || e == TH_EPILOGUE_DGELU || e == TH_EPILOGUE_DGELU_SUM || e == TH_EPILOGUE_ADD;
  p->written[TH_MATMUL_AUX] = e == TH_EPILOGUE_GELU || e == TH_EPILOGUE_BIAS_GELU;
  p->has[TH_MATMUL_VECTOR] = bias || of_rows || e == TH_EPILOGUE_DGELU_SUM;
  p->written[TH_MATMUL_VECTOR] = of_rows || e == TH_EPILOGUE_DGELU_SUM;
  int64_t *ints = p->ints;
  uint32_t k = 0;
  ints[k++] = p->nb, ints[k++] = p->nk;
  for (uint32_t i = 0; i < p->nb; i++) ints[k++] = p->lb[i];
  for (uint32_t i = 0; i < p->nb; i++) ints[k++] = p->rb[i];
  for (uint32_t i = 0; i < p->nk; i++) ints[k++] = p->lk[i];
  for (uint32_t i = 0; i < p->nk; i++) ints[k++] = p->rk[i];
  ints[k++] = e, ints[k++] = below(2);
  p->n_ints = k;
  for (int i = 0; i < TH_MATMUL_PARTS; i++)
    if (p->has[i]) allocate(&p->t[i]);
}

static void gather(product *p) { /* operands and results from the tensors */
  p->n_operands = p->n_results = 0;
  p->operands[p->n_operands++] = p->t[TH_MATMUL_LHS].v;
  p->operands[p->n_operands++] = p->t[TH_MATMUL_RHS].v;
  p->results[p->n_results++] = p->t[TH_MATMUL_RESULT].v;
  for (int i = TH_MATMUL_AUX; i <= TH_MATMUL_VECTOR; i++)
    if (p->has[i] && !p->written[i]) p->operands[p->n_operands++] = p->t[i].v;
  for (int i = TH_MATMUL_AUX; i <= TH_MATMUL_VECTOR; i++)
    if (p->has[i] && p->written[i]) p->results[p->n_results++] = p->t[i].v;
}

static void drop(product *p) {
  for (int i = 0; i < TH_MATMUL_PARTS; i++) free(p->t[i].memory);
}

static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
static double dgelu(double x) {
  double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

static void spoil(product *p) { /* results: all bytes 0xff */
  for (int i = 0; i < TH_MATMUL_PARTS; i++)
    if (p->written[i]) memset(p->t[i].v.data, 0xff, (size_t)(p->t[i].elements + GUARD) * th_dtype_size(p->t[i].v.dtype));
}

/* What each element of tensor i must be; NaN where nothing is written. */
static void expect(const product *p, double *want[TH_MATMUL_PARTS]) {
  const tensor *t = p->t;
  const th_view *l = &t[TH_MATMUL_LHS].v, *r = &t[TH_MATMUL_RHS].v, *out = &t[TH_MATMUL_RESULT].v, *x = &t[TH_MATMUL_AUX].v, *v = &t[TH_MATMUL_VECTOR].v;
  for (int i = 0; i < TH_MATMUL_PARTS; i++) {
    want[i] = NULL;
    if (!p->written[i]) continue;
    want[i] = malloc((size_t)(t[i].elements + GUARD) * sizeof(double));
    for (int64_t j = 0; j < t[i].elements + GUARD; j++) want[i][j] = NAN;
  }
  int64_t index[TH_RUN_RANK] = {0};
  if (want[TH_MATMUL_VECTOR] && any(v)) {
    do want[TH_MATMUL_VECTOR][offset_of(v, index)] = 0;
    while (next(v->rank, v->dims, index));
  }
  memset(index, 0, sizeof index);
  bool empty_k = false;
  for (uint32_t i = 0; i < p->nk; i++) empty_k |= !p->contracted[i];
  if (!any(out)) return;
  do {
    int64_t li[TH_RUN_RANK] = {0}, ri[TH_RUN_RANK] = {0}, ki[TH_RUN_RANK] = {0}, vi[TH_RUN_RANK] = {0};
    const int64_t *row = index + p->nb, *column = row + p->nr;
    bool first_column = true;
    for (uint32_t i = 0; i < p->nb; i++) li[p->lb[i]] = ri[p->rb[i]] = index[i];
    for (uint32_t i = 0; i < p->nr; i++) li[p->lr[i]] = row[i];
    for (uint32_t i = 0; i < p->nc; i++) ri[p->rc[i]] = column[i], first_column &= !column[i];
    double sum = 0, lhs = 0;
    if (!empty_k) {
      do {
        for (uint32_t i = 0; i < p->nk; i++) li[p->lk[i]] = ri[p->rk[i]] = ki[i];
        double a = fake_load(kind(l->dtype), l->data, offset_of(l, li));
        sum += a * fake_load(kind(r->dtype), r->data, offset_of(r, ri));
        lhs += a;
      } while (next(p->nk, p->contracted, ki));
    }
    sum *= p->alpha;
    uint32_t skip = v->rank - (p->epilogue == TH_EPILOGUE_LHS_SUM ? p->nr : p->nc);
    for (uint32_t i = 0; p->has[TH_MATMUL_VECTOR] && i < v->rank; i++) vi[i] = i < skip ? index[i] : (p->epilogue == TH_EPILOGUE_LHS_SUM ? row : column)[i - skip];
    int64_t at = offset_of(out, index), ax = offset_of(x, index), av = offset_of(v, vi);
    if (p->has[TH_MATMUL_VECTOR] && !p->written[TH_MATMUL_VECTOR]) sum += fake_load(kind(v->dtype), v->data, av);
    if (p->epilogue == TH_EPILOGUE_ADD) sum += fake_load(kind(x->dtype), x->data, ax);
    else if (p->written[TH_MATMUL_AUX]) want[TH_MATMUL_AUX][ax] = sum, sum = gelu(sum);
    else if (p->has[TH_MATMUL_AUX]) sum *= dgelu(fake_load(kind(x->dtype), x->data, ax));
    if (p->epilogue == TH_EPILOGUE_DGELU_SUM) want[TH_MATMUL_VECTOR][av] += sum;
    if (p->epilogue == TH_EPILOGUE_LHS_SUM && first_column) want[TH_MATMUL_VECTOR][av] = lhs;
    want[TH_MATMUL_RESULT][at] = sum;
  } while (next(out->rank, out->dims, index));
}

static void compare(const product *p, const char *what) {
  static const char *const names[] = {"lhs", "rhs", "result", "aux", "vector"};
  double *want[TH_MATMUL_PARTS];
  expect(p, want);
  for (int i = 0; i < TH_MATMUL_PARTS; i++) {
    if (!want[i]) continue;
    int k = kind(p->t[i].v.dtype);
    double eps = k == 1 ? 1e-12 : k == 2 ? 1.0 / 1024 : k == 14 ? 1.0 / 128 : 1e-5;
    for (int64_t j = 0; j < p->t[i].elements + GUARD; j++) {
      double have = fake_load(k, p->t[i].v.data, j), w = want[i][j];
      if (isnan(w) ? isnan(have) : fabs(have - w) <= eps * (0.1 + fabs(w))) continue;
      fprintf(stderr, "%s: element %lld of the %s (epilogue %d, dtype %s) is %g, want %g\n", what, (long long)j, names[i], p->epilogue,
              th_dtype_name(p->t[i].v.dtype), have, w);
      exit(1);
    }
    free(want[i]);
  }
}

static void untouched(const product *p) {
  for (int i = 0; i < TH_MATMUL_PARTS; i++)
    for (int64_t j = 0; p->written[i] && j < (p->t[i].elements + GUARD) * (int64_t)th_dtype_size(p->t[i].v.dtype); j++)
      CHECK_INT(((uint8_t *)p->t[i].v.data)[j], 0xff);
}

static void no_misuse(void) {
  if (!fake->misuses) return;
  fprintf(stderr, "misuse: %s\n", fake->misuse);
  exit(1);
}

static uint8_t scratch[1 << 16] __attribute__((aligned(256)));
static th_kernel_context context = {1, 3, 8};

static th_library_args arguments(product *p, th_library_state **state) {
  gather(p);
  return (th_library_args){.operands = p->operands, .results = p->results, .n_operands = p->n_operands, .n_results = p->n_results, .n_ints = p->n_ints,
                           .ints = p->ints, .alpha = p->alpha, .context = &context, .stream = fake->stream, .device = 0, .scratch = scratch,
                           .scratch_bytes = sizeof scratch, .capturing = fake->capturing, .state = state};
}

static void finish(th_library_state *state) {
  if (state) state->release(state);
  no_misuse();
  CHECK_INT(fake->live, 0);
}

/* ---- random products ---- */

static void test_random(int n) {
  long orientations[2][2][2] = {{{0}}}, epilogues[TH_EPILOGUE_COUNT] = {0}, types[16] = {0}, taken = 0, batched = 0, outer = 0, empty = 0, folded = 0, refused = 0;
  for (int i = 0; i < n; i++) {
    product p;
    th_library_state *state = NULL;
    th_matmul_plan plan;
    draw(&p);
    fake->capturing = one_in(4);
    fake->refuse_batch = one_in(8);
    th_library_args args = arguments(&p, one_in(8) ? NULL : &state);
    args.deterministic = one_in(4);
    if (one_in(4)) args.scratch_bytes = (size_t)below(5000);
    bool takes = th_matmul_takes(args.ints, args.n_ints, args.operands, args.n_operands, args.results, args.n_results);
    spoil(&p);
    th_status status = th_lib_cublaslt_matmul(&args);
    no_misuse();
    if (!takes) {
      CHECK(th_status_code(status) == TH_CODE_INVALID_ARGUMENT || th_status_code(status) == TH_CODE_UNIMPLEMENTED);
      th_status_free(status);
      untouched(&p);
      refused++;
    } else {
      CHECK_OK(status);
      CHECK_OK(th_matmul_plan_make(args.ints, args.n_ints, args.operands, args.n_operands, args.results, args.n_results, &plan));
      compare(&p, "first call");
      taken++;
      epilogues[p.epilogue]++, types[p.t[0].v.dtype]++, empty += plan.empty;
      if (!plan.empty) {
        int64_t columns = 1;
        for (uint32_t c = 0; c < p.nc; c++) columns *= p.columns[c];
        orientations[plan.swapped][plan.trans_a][plan.trans_b] += plan.m > 1 && plan.n > 1 && plan.k > 1;
        batched += plan.batch > 1, outer += plan.n_outer > 0;
        folded += plan.swapped && plan.m > columns;
      }
      long heuristics = fake->heuristics, matmuls = fake->matmuls;
      if (args.state) { /* once more: nothing is looked for */
        spoil(&p);
        args.capturing = fake->capturing = fake->capturing || one_in(2); /* where it was not settled, still captured */
        CHECK_OK(th_lib_cublaslt_matmul(&args));
        compare(&p, "second call");
        CHECK_INT(fake->heuristics, heuristics);
        int64_t calls = plan.empty ? 0 : fake->refuse_batch ? plan.batch : 1;
        for (uint32_t k = 0; !plan.empty && k < plan.n_outer; k++) calls *= plan.outer[k];
        CHECK_INT(fake->matmuls - matmuls, calls);
        if (one_in(2)) { /* other memory, of another alignment */
          for (int t = 0; t < TH_MATMUL_PARTS; t++) {
            if (!p.has[t]) continue;
            free(p.t[t].memory);
            allocate(&p.t[t]);
          }
          gather(&p);
          spoil(&p);
          CHECK_OK(th_lib_cublaslt_matmul(&args));
          compare(&p, "third call, in other memory");
        }
      }
    }
    finish(state);
    drop(&p);
  }
  fake->capturing = fake->refuse_batch = false;
  printf("%ld products taken, %ld refused; %ld in batches, %ld with outer loops, %ld folded into columns, %ld empty\n", taken, refused, batched, outer, folded, empty);
  for (int s = 0; s < 2; s++)
    for (int a = 0; a < 4; a++) printf("  D is the result%s, op %c%c: %ld\n", s ? "'s transpose" : "", "NT"[a >> 1], "NT"[a & 1], orientations[s][a >> 1][a & 1]);
  for (int e = 0; e < TH_EPILOGUE_COUNT; e++) printf("  epilogue %d: %ld\n", e, epilogues[e]);
  for (int s = 0; s < 8; s++) CHECK(orientations[s >> 2][s >> 1 & 1][s & 1] > 0);
  for (int e = 0; e < TH_EPILOGUE_COUNT; e++) CHECK(epilogues[e] > 0);
  CHECK(batched && outer && empty && folded && types[TH_DTYPE_f32] && types[TH_DTYPE_f64] && types[TH_DTYPE_f16] && types[TH_DTYPE_bf16]);
  CHECK(taken > n / 4);
}

/* ---- algorithms ---- */

static product plain(th_matmul_epilogue epilogue) { /* (batch 3, 8, 16) (3, 16, 24) */
  product p;
  memset(&p, 0, sizeof p);
  p.nb = p.nr = p.nc = p.nk = 1;
  p.batch[0] = 3, p.rows[0] = 8, p.contracted[0] = 16, p.columns[0] = 24;
  p.lr[0] = 1, p.lk[0] = 2, p.rk[0] = 1, p.rc[0] = 2;
  p.epilogue = epilogue;
  p.alpha = 1;
  const int64_t ints[] = {1, 1, 0, 0, 2, 1, epilogue, 0};
  memcpy(p.ints, ints, sizeof ints);
  p.n_ints = 8;
  static const int64_t dims[][3] = {{3, 8, 16}, {3, 16, 24}, {3, 8, 24}, {3, 8, 24}, {3, 24, 0}};
  static const uint32_t order[] = {0, 1, 2};
  for (int i = 0; i < TH_MATMUL_PARTS; i++) {
    p.t[i].v.dtype = TH_DTYPE_f32;
    p.t[i].v.rank = i == TH_MATMUL_VECTOR ? 2 : 3;
    memcpy(p.t[i].v.dims, dims[i], sizeof dims[i]);
    lie(&p.t[i].v, order, false, 0, 1);
  }
  p.has[0] = p.has[1] = p.has[2] = p.written[2] = true;
  p.has[TH_MATMUL_AUX] = epilogue == TH_EPILOGUE_DGELU_SUM || epilogue == TH_EPILOGUE_ADD;
  p.has[TH_MATMUL_VECTOR] = p.written[TH_MATMUL_VECTOR] = epilogue == TH_EPILOGUE_DGELU_SUM;
  for (int i = 0; i < TH_MATMUL_PARTS; i++) {
    if (!p.has[i]) continue;
    do { /* aligned */
      free(p.t[i].memory);
      allocate(&p.t[i]);
    } while ((uintptr_t)p.t[i].v.data % 512);
  }
  return p;
}

static long called(th_library_args *args, product *p) { /* products that one call made */
  long before = fake->matmuls;
  spoil(p);
  CHECK_OK(th_lib_cublaslt_matmul(args));
  compare(p, "call");
  no_misuse();
  return fake->matmuls - before;
}

/* What is added lies where the sum goes: nothing is timed, since a second run would add to the first one's. */
static void test_added_in_place(void) {
  th_library_state *state = NULL;
  product p = plain(TH_EPILOGUE_ADD);
  th_library_args args = arguments(&p, &state);
  th_tuning_clear();
  memcpy(p.t[TH_MATMUL_RESULT].v.data, p.t[TH_MATMUL_AUX].v.data, (size_t)p.t[TH_MATMUL_AUX].elements * sizeof(float));
  p.operands[2].data = p.t[TH_MATMUL_RESULT].v.data;
  long before = fake->matmuls;
  CHECK_OK(th_lib_cublaslt_matmul(&args));
  no_misuse();
  CHECK_INT(fake->matmuls - before, 1);
  compare(&p, "in place");
  finish(state);
  drop(&p);
}

/* One algorithm twice, with a workspace and without: which it was is part of the choice. */
static void test_same_algorithm_without_workspace(void) {
  th_library_state *state = NULL;
  product p = plain(TH_EPILOGUE_NONE);
  th_library_args args = arguments(&p, &state);
  char *text;
  size_t size;
  int candidates = fake->n_candidates;
  th_tuning_clear();
  fake->counts_tiles = true, fake->n_candidates = 1;
  CHECK_INT(called(&args, &p), 2 * (1 + 3) + 1);
  CHECK(!fake->last_workspace);
  CHECK_OK(th_tuning_write(&text, &size));
  th_tuning_clear();
  CHECK_OK(th_tuning_read(text, size));
  state->release(state), state = NULL;
  CHECK_INT(called(&args, &p), 1);
  CHECK(!fake->last_workspace);
  free(text);
  fake->counts_tiles = false, fake->n_candidates = candidates;
  finish(state);
  drop(&p);
}

static void test_algorithms(void) {
  th_library_state *a = NULL, *b = NULL;
  product p = plain(TH_EPILOGUE_NONE);
  th_library_args args = arguments(&p, &a);
  const int timed = 4 * (1 + 3) + 1; /* four candidates of five are good */
  th_tuning_clear();

  args.deterministic = true;
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, 0);
  args.deterministic = false; /* another key: timed */
  fake->synchronizations = 0;
  CHECK_INT(called(&args, &p), timed);
  CHECK_INT(fake->last_candidate, fake->fastest);
  CHECK_INT(fake->synchronizations, 12);
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, fake->fastest);

  args.state = &b; /* an equal product: not timed, checked */
  fake->checks = 0;
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, fake->fastest);
  CHECK_INT(fake->checks, 1);
  finish((a->release(a), b));
  a = b = NULL;

  char *text; /* written, forgotten, read: as if it were another process */
  size_t size;
  CHECK_OK(th_tuning_write(&text, &size));
  th_tuning_clear();
  CHECK_OK(th_tuning_read(text, size));
  CHECK(strstr(text, "\nat Fake 0; driver 13000; cublasLt 131000 ") && strstr(text, "\ncublaslt.matmul:"));
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, fake->fastest);
  b->release(b), b = NULL;
  args.device = 1; /* another device: timed there */
  CHECK_INT(called(&args, &p), timed);
  args.device = 0;
  b->release(b), b = NULL;
  fake->refuse_check = true; /* the library no longer takes it: timed anew */
  CHECK_INT(called(&args, &p), timed);
  fake->refuse_check = false;
  b->release(b), b = NULL;
  args.deterministic = true; /* records are not looked at */
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, 0);
  args.deterministic = false;
  b->release(b), b = NULL;
  free(text);

  th_tuning_clear(); /* short ones are timed eight in a row, and a workspace must be worth its memset */
  fake->unit = 0.001;
  CHECK_INT(called(&args, &p), 4 * (1 + 1 + 8 + 8) + 1);
  CHECK_INT(fake->last_candidate, 0);
  fake->unit = 0.3;
  b->release(b), b = NULL;

  th_tuning_clear(); /* captured first: the library's first; timed when a call is not captured */
  args.capturing = fake->capturing = true;
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, 0);
  CHECK_INT(called(&args, &p), 1);
  args.capturing = fake->capturing = false;
  CHECK_INT(called(&args, &p), timed);
  args.capturing = fake->capturing = true;
  CHECK_INT(called(&args, &p), 1);
  CHECK_INT(fake->last_candidate, fake->fastest);
  args.capturing = fake->capturing = false;
  b->release(b), b = NULL;

  th_tuning_clear(); /* one that fails when it runs is passed over */
  fake->broken = fake->fastest;
  fake->fastest = 0;
  CHECK_INT(called(&args, &p), timed - 4);
  CHECK_INT(fake->last_candidate, 0);
  b->release(b), b = NULL;
  th_tuning_clear();
  fake->broken = -2;
  th_status status = th_lib_cublaslt_matmul(&args);
  CHECK_INT(th_status_code(status), TH_CODE_UNIMPLEMENTED);
  CHECK(strstr(th_status_message(status), "rank 3, device 0"));
  th_status_free(status);
  fake->broken = -1, fake->fastest = 2;
  CHECK_INT(called(&args, &p), timed); /* and the state is as good as new */
  b->release(b), b = NULL;

  th_tuning_clear(); /* no strided batch: three products, once found out */
  fake->refuse_batch = true;
  CHECK_INT(called(&args, &p), 3 * timed);
  CHECK_INT(called(&args, &p), 3);
  b->release(b), b = NULL;
  fake->refuse_batch = false;
  th_tuning_clear();
  fake->n_candidates = 0;
  status = th_lib_cublaslt_matmul(&args);
  CHECK_INT(th_status_code(status), TH_CODE_UNIMPLEMENTED);
  CHECK(strstr(th_status_message(status), "no algorithm for f32 products of 24 x 8 x 16"));
  th_status_free(status);
  fake->n_candidates = 5;
  args.beta = 1;
  status = th_lib_cublaslt_matmul(&args);
  CHECK_INT(th_status_code(status), TH_CODE_UNIMPLEMENTED);
  th_status_free(status);
  args.beta = 0;
  args.device = 64;
  status = th_lib_cublaslt_matmul(&args);
  CHECK_INT(th_status_code(status), TH_CODE_OUT_OF_RANGE);
  th_status_free(status);
  finish(b);
  drop(&p);
}

/* In a process of its own, that ends as programs do; what it kept is in the record on disk then. */
static void process(bool deterministic, long want, int candidate) {
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (!child) {
    th_library_state *state = NULL;
    product p = plain(TH_EPILOGUE_NONE);
    th_library_args args = arguments(&p, &state);
    args.deterministic = deterministic;
    CHECK_INT(called(&args, &p), want);
    CHECK_INT(fake->last_candidate, candidate);
    CHECK((fake->heuristics > 0) == (want > 1 || deterministic));
    finish(state);
    drop(&p);
    exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_INT(status, 0);
}

/* A second process neither asks the library nor times. Before anything else: this process must not have read the record. */
static void test_processes(const char *cache) {
  char folder[128], record[160];
  struct stat s;
  snprintf(folder, sizeof folder, "%s/tuning", cache);
  snprintf(record, sizeof record, "%s/v2", folder);
  process(true, 1, 0);
  CHECK(stat(folder, &s)); /* deterministic: not touched */
  process(false, 4 * (1 + 3) + 1, fake->fastest);
  CHECK(!stat(record, &s));
  process(false, 1, fake->fastest);
  process(true, 1, 0);
  fake->fastest = 3; /* what is chosen stays, and the timing that would find this is not done */
  process(false, 1, 2);
  CHECK(!unlink(record));
  process(false, 4 * (1 + 3) + 1, 3);
  fake->fastest = 2;
  CHECK(!unlink(record));
  snprintf(record, sizeof record, "%s/lock", folder);
  CHECK(!unlink(record));
  CHECK(!rmdir(folder) && !rmdir(cache));
}

static void test_shared_memory(void) { /* lhs' columns and the result's in one buffer: never run more often than asked */
  th_library_state *state = NULL;
  product p = plain(TH_EPILOGUE_NONE);
  th_view *l = &p.t[TH_MATMUL_LHS].v, *out = &p.t[TH_MATMUL_RESULT].v;
  static float both[3 * 8 * 64] __attribute__((aligned(512)));
  for (int i = 0; i < 3 * 8 * 64; i++) both[i] = (float)(i % 7 - 3);
  l->data = both, out->data = both + 32;
  l->strides[0] = out->strides[0] = 8 * 64, l->strides[1] = out->strides[1] = 64;
  th_library_args args = arguments(&p, &state);
  th_tuning_clear();
  long before = fake->matmuls;
  for (int i = 0; i < 2; i++) {
    CHECK_OK(th_lib_cublaslt_matmul(&args));
    CHECK_INT(fake->matmuls - before, 1 + i);
    CHECK_INT(fake->last_candidate, 0);
  }
  for (int b = 0; b < 3; b++)
    for (int r = 0; r < 8; r++)
      for (int c = 0; c < 24; c++) {
        float want = 0;
        for (int k = 0; k < 16; k++) want += both[b * 512 + r * 64 + k] * ((float *)p.t[TH_MATMUL_RHS].v.data)[(b * 16 + k) * 24 + c];
        CHECK(fabsf(both[b * 512 + r * 64 + 32 + c] - want) < 1e-4f);
      }
  finish(state);
  drop(&p);
}

/* ---- failures ---- */

/* The n-th entry point fails, for n = 1, 2, ... until all is done without one. */
static long fail_each(product *p, bool deterministic) {
  long n = 1;
  for (;; n++) {
    th_library_state *state = NULL;
    th_library_args args = arguments(p, &state);
    args.deterministic = deterministic;
    th_tuning_clear();
    spoil(p);
    fake->calls = 0, fake->fail_at = n;
    th_status status = th_lib_cublaslt_matmul(&args);
    bool reached = fake->calls >= n;
    fake->fail_at = 0;
    no_misuse();
    if (!status) compare(p, "a call with a failure that it can do without");
    else CHECK(th_status_code(status) == TH_CODE_INTERNAL);
    CHECK(reached || !status);
    CHECK(!deterministic || !reached || status);
    th_status_free(status);
    spoil(p); /* what is left works */
    CHECK_OK(th_lib_cublaslt_matmul(&args));
    compare(p, "the call after a failure");
    finish(state);
    if (!reached) return n - 1;
  }
}

int main(void) {
  const char *seed = getenv("THUNDER_TEST_SEED");
  unsigned long long s = seed ? strtoull(seed, NULL, 10) : (unsigned long long)time(NULL);
  printf("THUNDER_TEST_SEED=%llu\n", s);
  fflush(stdout);
  state_random = s * 0x9e3779b97f4a7c15u + 1;
  setenv("THUNDER_CUDA_LIBS", FAKES, 1);
  void *driver = dlopen(FAKES "/libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  CHECK(driver);
  fake = dlsym(driver, "fake");
  CHECK(fake);
  fake->stream = &fake;
  char cache[] = "/tmp/thunder-matmul-XXXXXX";
  CHECK(mkdtemp(cache));
  setenv("THUNDER_CACHE_DIR", cache, 1);
  test_processes(cache);
  setenv("THUNDER_CACHE_DIR", "/dev/null", 1); /* no record from here on, */
  int errors = open("/dev/null", O_WRONLY | O_CLOEXEC);
  th_log_fd_set(errors); /* which is said once */
  th_tuning_load();
  th_log_fd_set(-1);
  product p = plain(TH_EPILOGUE_DGELU_SUM);
  printf("entry points failed: %ld deterministic", fail_each(&p, true)); /* first: opening the library is among them */
  printf(", %ld timed", fail_each(&p, false));
  drop(&p);
  p = plain(TH_EPILOGUE_NONE);
  p.contracted[0] = p.t[TH_MATMUL_LHS].v.dims[2] = p.t[TH_MATMUL_RHS].v.dims[1] = 0;
  printf(", %ld of zeros\n", fail_each(&p, true));
  drop(&p);
  test_added_in_place();
  test_same_algorithm_without_workspace();
  test_algorithms();
  test_shared_memory();
  test_random(20000);
  th_tuning_clear();
  return 0;
}
