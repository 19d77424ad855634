/* One product: a plan of how its views are walked (contraction.h), descriptors and an algorithm for it (kept in the state, under
 * a key of everything they depend on), then a call for each index of the outer loops. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executors/run/contraction.h"
#include "executors/run/cublaslt/cublaslt.h"
#include "executors/run/cublaslt/library.h"

enum { MAX_FOUND = 8, MAX_CANDIDATES = 2 * MAX_FOUND, TIMED_RUNS = 3, MAX_ALIGNMENT = 256 };
static const double timed_at_least = 250, memset_cost = 3; /* microseconds */

/* Parts of a call as cublasLt names them; AUX is its C where something is added, VECTOR its bias pointer. */
enum { A, B, D, AUX, VECTOR, PARTS };

typedef struct key { /* all int64_t: compared by bytes, printed in this order */
  int64_t type, type_result, compute, epilogue, trans_a, trans_b, m, n, k, batch;
  int64_t ld[4], stride[PARTS], alignment[PARTS], workspace;
  int64_t adds;
  int64_t device, deterministic; /* not in the text of tuning records */
} key;

typedef struct state {
  th_library_state base;
  const th__lt_library *library;
  key asked;      /* what this is for; zeros: nothing */
  bool unbatched; /* the library knows no strided batch of it: single products */
  bool ready;     /* there is an algorithm */
  bool settled;   /* and another call would choose no other */
  key key;
  lt_desc desc;
  lt_layout layouts[4]; /* A, B, D, C: D's where nothing is added */
  lt_algo algo;
  size_t workspace; /* bytes it takes */
} state;

typedef struct call { /* of one call of the function */
  const th_library_args *args;
  const th__lt_device *device;
  th_matmul_plan plan;
  int views[PARTS]; /* as th_matmul_part */
} call;

static int cuda_type(th_dtype dtype) {
  return dtype == TH_DTYPE_f64 ? LT_R_64F : dtype == TH_DTYPE_f16 ? LT_R_16F : dtype == TH_DTYPE_bf16 ? LT_R_16BF : LT_R_32F;
}

_Static_assert(sizeof(lt_algo) + sizeof(uint64_t) == TH_TUNING_BYTES, "an algorithm and the workspace it is given");

static void reset(state *s) {
  for (int i = 0; i < 4; i++)
    if (s->layouts[i] && (i < AUX || s->layouts[i] != s->layouts[D])) s->library->lt.layout_destroy(s->layouts[i]);
  if (s->desc) s->library->lt.desc_destroy(s->desc);
  *s = (state){.base = s->base, .library = s->library};
}

static void release(th_library_state *base) {
  state *s = (state *)base;
  reset(s);
  free(s);
}

static bool adds(const call *c) { return c->plan.epilogue == TH_EPILOGUE_ADD; }

static uint8_t *at(const call *c, int part, const int64_t *index) {
  const th_view *v = c->plan.views[c->views[part]];
  int64_t offset = 0;
  for (uint32_t i = 0; i < c->plan.n_outer; i++) offset += index[i] * c->plan.outer_strides[i][c->views[part]];
  return (uint8_t *)v->data + offset * (int64_t)th_dtype_size(v->dtype);
}

/* The alignment that every pointer to `part` has; out_index: where in the outer loops a pointer has no more than that. */
static int64_t alignment(const call *c, int part, int64_t index[TH_RUN_RANK]) {
  const th_view *v = c->plan.views[c->views[part]];
  memset(index, 0, TH_RUN_RANK * sizeof *index);
  if (!v) return 0;
  uint64_t size = th_dtype_size(v->dtype), bits = (uint64_t)(uintptr_t)v->data | MAX_ALIGNMENT;
  int64_t best = (int64_t)(bits & -bits);
  for (uint32_t i = 0; i < c->plan.n_outer; i++) {
    uint64_t stride = (uint64_t)c->plan.outer_strides[i][c->views[part]] * size | MAX_ALIGNMENT;
    if ((int64_t)(stride & -stride) >= best) continue;
    best = (int64_t)(stride & -stride);
    memset(index, 0, TH_RUN_RANK * sizeof *index);
    index[i] = 1;
  }
  return best;
}

static key make_key(const call *c) {
  static const int epilogues[TH_EPILOGUE_COUNT] = {
      [TH_EPILOGUE_NONE] = LT_EPILOGUE_DEFAULT, [TH_EPILOGUE_ADD] = LT_EPILOGUE_DEFAULT, [TH_EPILOGUE_BIAS] = LT_EPILOGUE_BIAS, [TH_EPILOGUE_GELU] = LT_EPILOGUE_GELU_AUX,
      [TH_EPILOGUE_BIAS_GELU] = LT_EPILOGUE_GELU_AUX_BIAS, [TH_EPILOGUE_DGELU] = LT_EPILOGUE_DGELU, [TH_EPILOGUE_DGELU_SUM] = LT_EPILOGUE_DGELU_BGRAD};
  const th_matmul_plan *p = &c->plan;
  th_dtype in = p->views[TH_MATMUL_LHS]->dtype;
  int64_t index[TH_RUN_RANK];
  key k = {.type = cuda_type(in), .type_result = cuda_type(p->views[TH_MATMUL_RESULT]->dtype), .trans_a = p->trans_a, .trans_b = p->trans_b,
           .m = p->m, .n = p->n, .k = p->k, .batch = p->batch, .ld = {p->lda, p->ldb, p->ldd, p->ld_aux}, .epilogue = epilogues[p->epilogue],
           .workspace = (int64_t)c->args->scratch_bytes, .adds = adds(c), .device = c->args->device, .deterministic = c->args->deterministic};
  k.compute = in == TH_DTYPE_f64 ? LT_COMPUTE_64F : in == TH_DTYPE_f32 && p->tf32 ? LT_COMPUTE_32F_FAST_TF32 : LT_COMPUTE_32F;
  if (p->epilogue == TH_EPILOGUE_LHS_SUM) k.epilogue = p->swapped ? LT_EPILOGUE_BGRADB : LT_EPILOGUE_BGRADA;
  for (int i = 0; i < PARTS; i++) {
    k.stride[i] = p->batch_strides[c->views[i]];
    k.alignment[i] = alignment(c, i, index);
  }
  return k;
}

static void print_key(const key *k, char text[TH_TUNING_TEXT]) {
  int n = snprintf(text, TH_TUNING_TEXT, "cublaslt.matmul:");
  const int64_t *words = (const int64_t *)k;
  for (size_t i = 0; i < offsetof(key, device) / sizeof *words; i++)
    n += snprintf(text + n, TH_TUNING_TEXT - (size_t)n, "%s%lld", i ? "," : "", (long long)words[i]);
}

/* Sets the epilogue's pointers for one index. */
static th_status point(const call *c, const state *s, const int64_t *aux_index, const int64_t *vector_index) {
  const th__lt_library *l = s->library;
  if (c->plan.views[TH_MATMUL_AUX] && !adds(c)) {
    void *aux = at(c, AUX, aux_index);
    TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_AUX_POINTER, &aux, sizeof aux));
  }
  if (c->plan.views[TH_MATMUL_VECTOR]) {
    void *vector = at(c, VECTOR, vector_index);
    TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_BIAS_POINTER, &vector, sizeof vector));
  }
  return TH_OK;
}

static th_status describe(const call *c, state *s) {
  const th__lt_library *l = s->library;
  const key *k = &s->key;
  int32_t ops[2] = {k->trans_a ? LT_OP_T : LT_OP_N, k->trans_b ? LT_OP_T : LT_OP_N}, batch = (int32_t)k->batch;
  uint32_t epilogue = (uint32_t)k->epilogue;
  int64_t rows[4] = {k->trans_a ? k->k : k->m, k->trans_b ? k->n : k->k, k->m, k->m}, columns[4] = {k->trans_a ? k->m : k->k, k->trans_b ? k->k : k->n, k->n, k->n};
  TH_TRY(LT_CALL(l, desc_create, &s->desc, (int)k->compute, k->compute == LT_COMPUTE_64F ? LT_R_64F : LT_R_32F));
  TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_TRANSA, &ops[0], sizeof ops[0]));
  TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_TRANSB, &ops[1], sizeof ops[1]));
  TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  if (c->plan.views[TH_MATMUL_AUX] && !adds(c)) {
    TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_AUX_LD, &k->ld[AUX], sizeof k->ld[AUX]));
    if (batch > 1) TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_AUX_BATCH_STRIDE, &k->stride[AUX], sizeof k->stride[AUX]));
  }
  if (c->plan.views[TH_MATMUL_VECTOR] && batch > 1)
    TH_TRY(LT_CALL(l, desc_set, s->desc, LT_DESC_BIAS_BATCH_STRIDE, &k->stride[VECTOR], sizeof k->stride[VECTOR]));
  for (int i = A; i <= (adds(c) ? AUX : D); i++) {
    TH_TRY(LT_CALL(l, layout_create, &s->layouts[i], (int)(i >= D ? k->type_result : k->type), (uint64_t)rows[i], (uint64_t)columns[i], k->ld[i]));
    if (batch == 1) continue;
    TH_TRY(LT_CALL(l, layout_set, s->layouts[i], LT_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
    TH_TRY(LT_CALL(l, layout_set, s->layouts[i], LT_LAYOUT_STRIDED_BATCH_OFFSET, &k->stride[i], sizeof k->stride[i]));
  }
  if (!adds(c)) s->layouts[AUX] = s->layouts[D];
  return TH_OK;
}

/* Adds what the library would try with `workspace` bytes, the likely fastest first, to `found`. */
static th_status ask(const call *c, const state *s, uint64_t workspace, lt_heuristic found[MAX_CANDIDATES], int *n_found) {
  const th__lt_library *l = s->library;
  static const int attributes[4] = {LT_PREF_MIN_ALIGNMENT_A_BYTES, LT_PREF_MIN_ALIGNMENT_B_BYTES, LT_PREF_MIN_ALIGNMENT_C_BYTES, LT_PREF_MIN_ALIGNMENT_D_BYTES};
  lt_heuristic more[MAX_FOUND];
  lt_pref pref = NULL;
  int n = 0;
  th_status status;
  TH_TRY_CLEANUP(LT_CALL(l, pref_create, &pref));
  TH_TRY_CLEANUP(LT_CALL(l, pref_set, pref, LT_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
  for (int i = 0; i < 4; i++) {
    uint32_t bytes = (uint32_t)s->key.alignment[i < 2 ? i : i == 2 && adds(c) ? AUX : D];
    TH_TRY_CLEANUP(LT_CALL(l, pref_set, pref, attributes[i], &bytes, sizeof bytes));
  }
  int code = l->lt.heuristic(c->device->handle, s->desc, s->layouts[A], s->layouts[B], s->layouts[AUX], s->layouts[D], pref, MAX_FOUND, more, &n);
  if (code != LT_NOT_SUPPORTED) TH_TRY_CLEANUP(th__lt_check(l, code, "cublasLt heuristic"));
  for (int i = 0; code == LT_SUCCESS && i < n && i < MAX_FOUND; i++) {
    bool known = false;
    for (int k = 0; k < *n_found; k++) known |= found[k].workspace == more[i].workspace && !memcmp(&found[k].algo, &more[i].algo, sizeof more[i].algo);
    if (!known && more[i].state == LT_SUCCESS && more[i].workspace <= workspace) found[(*n_found)++] = more[i];
  }
cleanup:
  if (pref) status = th_status_join(status, LT_CALL(l, pref_destroy, pref));
  return status;
}

/* What is worth timing; none (n = 0) is no error. Given no workspace the library (13.1, sm_90) has kernels that go over their tiles in a
 * fixed order; with 4 bytes the same algorithm counts tiles there, and has them set to 0 before each product. */
static th_status candidates(const call *c, const state *s, lt_heuristic found[MAX_CANDIDATES], int *out_n) {
  *out_n = 0;
  TH_TRY(ask(c, s, c->args->scratch_bytes, found, out_n));
  return c->args->scratch_bytes ? ask(c, s, 0, found, out_n) : TH_OK;
}

static th_status run(const call *c, const state *s) {
  const th_library_args *args = c->args;
  int64_t index[TH_RUN_RANK] = {0}, calls = 1;
  float alpha_f = (float)args->alpha, beta_f = adds(c);
  double beta = adds(c);
  bool f64 = s->key.compute == LT_COMPUTE_64F;
  for (uint32_t i = 0; i < c->plan.n_outer; i++) calls *= c->plan.outer[i];
  for (int64_t n = 0; n < calls; n++) {
    void *d = at(c, D, index), *added = adds(c) ? at(c, AUX, index) : d;
    TH_TRY(point(c, s, index, index));
    TH_TRY(LT_CALL(s->library, matmul, c->device->handle, s->desc, f64 ? (const void *)&args->alpha : &alpha_f, at(c, A, index), s->layouts[A], at(c, B, index),
                   s->layouts[B], f64 ? (const void *)&beta : &beta_f, added, s->layouts[AUX], d, s->layouts[D], &s->algo, args->scratch, s->workspace, args->stream));
    for (uint32_t i = c->plan.n_outer; i-- > 0;) {
      if (++index[i] < c->plan.outer[i]) break;
      index[i] = 0;
    }
  }
  return TH_OK;
}

/* Whether memory from the first to the last element of two views has bytes in common; yes too where they only interleave. */
static bool apart(const th_view *a, const th_view *b) {
  const th_view *v[2] = {a, b};
  uintptr_t from[2], to[2];
  for (int i = 0; i < 2; i++) {
    int64_t last = 0;
    for (uint32_t d = 0; d < v[i]->rank; d++)
      if (v[i]->dims[d] > 1) last += (v[i]->dims[d] - 1) * v[i]->strides[d];
    from[i] = (uintptr_t)v[i]->data;
    to[i] = from[i] + (uintptr_t)(last + 1) * th_dtype_size(v[i]->dtype);
  }
  return to[0] <= from[1] || to[1] <= from[0];
}

static bool repeatable(const th_library_args *args) {
  for (uint32_t r = 0; r < args->n_results; r++)
    for (uint32_t o = 0; o < args->n_operands; o++)
      if (!apart(&args->operands[o], &args->results[r])) return false;
  return true;
}

/* One measurement of `n` runs in a row: microseconds a run. */
static th_status measure(const call *c, const state *s, void *start, void *end, int n, double *out_us) {
  const th__lt_library *l = s->library;
  float ms;
  TH_TRY(CU_CALL(l, event_record, start, c->args->stream));
  for (int i = 0; i < n; i++) TH_TRY(run(c, s));
  TH_TRY(CU_CALL(l, event_record, end, c->args->stream));
  TH_TRY(CU_CALL(l, event_synchronize, end));
  TH_TRY(CU_CALL(l, event_elapsed, &ms, start, end));
  *out_us = 1000 * (double)ms / n;
  return TH_OK;
}

/* Runs each candidate, takes the one with the least median. One that fails is passed over, unless all do. Those with a workspace have a
 * memset or a second kernel beside the product: that costs more in a CUDA graph than on a stream, where it is timed. */
static th_status time_candidates(const call *c, state *s, const lt_heuristic *found, int n, double *out_microseconds) {
  const th__lt_library *l = s->library;
  void *start = NULL, *end = NULL;
  th_status status, failed = TH_OK;
  int best = -1;
  TH_TRY_CLEANUP(CU_CALL(l, event_create, &start, 0));
  TH_TRY_CLEANUP(CU_CALL(l, event_create, &end, 0));
  for (int i = 0; i < n; i++) {
    double us[TIMED_RUNS];
    int in_a_row = 1;
    s->algo = found[i].algo;
    s->workspace = found[i].workspace;
    th_status first = run(c, s); /* to warm up: modules are loaded, caches filled */
    if (first) {
      failed = th_status_join(failed, first);
      continue;
    }
    for (int r = 0; r < TIMED_RUNS; r++) {
      TH_TRY_CLEANUP(measure(c, s, start, end, in_a_row, &us[r]));
      if (!r && us[0] < timed_at_least) in_a_row = us[0] < timed_at_least / 8 ? 8 : (int)(timed_at_least / us[0]) + 1;
      for (int j = r; j > 0 && us[j] < us[j - 1]; j--) {
        double swap = us[j];
        us[j] = us[j - 1], us[j - 1] = swap;
      }
    }
    double cost = us[TIMED_RUNS / 2] + (found[i].workspace ? memset_cost : 0);
    if (best < 0 || cost < *out_microseconds) best = i, *out_microseconds = cost;
  }
  if (best < 0) {
    status = failed;
    failed = TH_OK;
  } else {
    s->algo = found[best].algo;
    s->workspace = found[best].workspace;
  }
cleanup:
  th_status_free(failed);
  if (start) status = th_status_join(status, CU_CALL(l, event_destroy, start));
  if (end) status = th_status_join(status, CU_CALL(l, event_destroy, end));
  return status;
}

/* Finds an algorithm for what `s` describes. out_none: the library knows none. */
static th_status choose(const call *c, state *s, bool *out_none) {
  const th_library_args *args = c->args;
  lt_heuristic found[MAX_CANDIDATES];
  char text[TH_TUNING_TEXT];
  th_tuning_choice choice;
  int64_t aux_index[TH_RUN_RANK], vector_index[TH_RUN_RANK];
  int n;
  *out_none = false;
  alignment(c, AUX, aux_index);
  alignment(c, VECTOR, vector_index);
  TH_TRY(point(c, s, aux_index, vector_index)); /* the library reads their alignment off the pointers */
  print_key(&s->key, text);
  if (!args->deterministic) th_tuning_load();
  if (!args->deterministic && th_tuning_find(c->device->where, text, &choice)) {
    lt_heuristic checked = {.workspace = 0};
    uint64_t workspace;
    memcpy(&s->algo, choice.bytes, sizeof s->algo);
    memcpy(&workspace, choice.bytes + sizeof s->algo, sizeof workspace);
    if (s->library->lt.algo_check(c->device->handle, s->desc, s->layouts[A], s->layouts[B], s->layouts[AUX], s->layouts[D], &s->algo, &checked) == LT_SUCCESS &&
        checked.workspace <= args->scratch_bytes && workspace <= args->scratch_bytes) {
      s->workspace = workspace;
      s->ready = s->settled = true;
      return TH_OK;
    }
  }
  TH_TRY(candidates(c, s, found, &n));
  *out_none = !n;
  if (!n) return TH_OK;
  if (args->capturing || args->deterministic || !repeatable(args)) {
    s->algo = found[0].algo;
    s->workspace = found[0].workspace;
    s->settled = !args->capturing || args->deterministic;
  } else {
    s->ready = false; /* until it is known which */
    TH_TRY(time_candidates(c, s, found, n, &choice.microseconds));
    uint64_t workspace = s->workspace;
    memcpy(choice.bytes, &s->algo, sizeof s->algo);
    memcpy(choice.bytes + sizeof s->algo, &workspace, sizeof workspace);
    TH_TRY(th_tuning_keep(c->device->where, text, &choice));
    s->settled = true;
  }
  s->ready = true;
  return TH_OK;
}

static th_status prepare(call *c, state *s) {
  key k = make_key(c);
  bool none;
  if (memcmp(&k, &s->asked, sizeof k)) {
    reset(s);
    s->key = k;
    TH_TRY(describe(c, s));
    s->asked = k; /* last: it is described */
  }
  if (s->unbatched) th_matmul_plan_unbatch(&c->plan);
  if (s->ready && (s->settled || c->args->capturing)) return TH_OK;
  TH_TRY(choose(c, s, &none));
  if (none && c->plan.batch > 1) {
    reset(s);
    th_matmul_plan_unbatch(&c->plan);
    s->key = make_key(c);
    TH_TRY(describe(c, s));
    s->asked = k;
    s->unbatched = true;
    TH_TRY(choose(c, s, &none));
  }
  if (none)
    return TH_ERROR(UNIMPLEMENTED, "cublasLt has no algorithm for %s products of %lld x %lld x %lld (op %c%c, leading dimensions %lld %lld %lld, epilogue %lld, %lld bytes of workspace)",
                    th_dtype_name(c->args->operands[0].dtype), (long long)c->plan.m, (long long)c->plan.n, (long long)c->plan.k, c->plan.trans_a ? 'T' : 'N',
                    c->plan.trans_b ? 'T' : 'N', (long long)c->plan.lda, (long long)c->plan.ldb, (long long)c->plan.ldd, (long long)s->key.epilogue, (long long)s->key.workspace);
  return TH_OK;
}

/* Zeros into every element of `view` that has no two indices for one. */
static th_status zero(const th__lt_library *l, const th_view *v, void *stream) {
  int64_t dims[TH_RUN_RANK], strides[TH_RUN_RANK], size = (int64_t)th_dtype_size(v->dtype), outer = 1;
  uint32_t n = 0;
  for (uint32_t i = 0; i < v->rank; i++) { /* the least stride first; what lies one after the other as one */
    if (!v->dims[i]) return TH_OK;
    uint32_t to = n;
    if (v->dims[i] == 1) continue;
    for (n++; to > 0 && strides[to - 1] > v->strides[i]; to--) dims[to] = dims[to - 1], strides[to] = strides[to - 1];
    dims[to] = v->dims[i], strides[to] = v->strides[i];
  }
  uint32_t merged = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (merged && strides[i] == dims[merged - 1] * strides[merged - 1]) dims[merged - 1] *= dims[i];
    else dims[merged] = dims[i], strides[merged++] = strides[i];
  }
  uint32_t from = 0;
  int64_t width = size, height = 1, pitch = size;
  if (merged && strides[0] == 1) width *= dims[from++];
  pitch = width;
  if (from < merged) height = dims[from], pitch = strides[from++] * size;
  for (uint32_t i = from; i < merged; i++) outer *= dims[i];
  for (int64_t r = 0; r < outer; r++) {
    int64_t rest = r, offset = 0;
    for (uint32_t i = from; i < merged; i++) {
      offset += rest % dims[i] * strides[i];
      rest /= dims[i];
    }
    TH_TRY(CU_CALL(l, memset_2d, (uint64_t)(uintptr_t)v->data + (uint64_t)(offset * size), (size_t)pitch, 0, (size_t)width, (size_t)height, stream));
  }
  return TH_OK;
}

static th_status multiply(call *c) {
  const th_library_args *args = c->args;
  if (args->beta != 0) return TH_ERROR(UNIMPLEMENTED, "beta is %g; only 0 is known", args->beta);
  TH_TRY(th_matmul_plan_make(args->ints, args->n_ints, args->operands, args->n_operands, args->results, args->n_results, &c->plan));
  TH_TRY(th__lt_open(args->device, &c->device));
  for (uint32_t i = 0; c->plan.empty && i < args->n_results; i++) TH_TRY(zero(c->device->library, &args->results[i], args->stream));
  if (c->plan.empty) return TH_OK;
  bool swapped = c->plan.swapped;
  memcpy(c->views, (int[PARTS]){swapped ? TH_MATMUL_RHS : TH_MATMUL_LHS, swapped ? TH_MATMUL_LHS : TH_MATMUL_RHS, TH_MATMUL_RESULT, TH_MATMUL_AUX, TH_MATMUL_VECTOR},
         sizeof c->views);
  th_library_state *own = NULL, **slot = args->state ? args->state : &own;
  if (!*slot) {
    state *new = calloc(1, sizeof *new);
    if (!new) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for its state");
    new->base.release = release;
    new->library = c->device->library;
    *slot = &new->base;
  }
  state *s = (state *)*slot;
  th_status status = prepare(c, s);
  if (!status) status = run(c, s);
  if (own) own->release(own);
  return status;
}

th_status th_lib_cublaslt_matmul(const th_library_args *args) {
  call c = {.args = args};
  th_status status = multiply(&c);
  if (!status) return TH_OK;
  return th_status_prefix(status, "cublaslt.matmul (rank %d, device %d)", args->context ? args->context->rank : 0, args->device);
}
