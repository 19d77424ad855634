/* cublasLt on host memory by plain loops over column-major matrices, for the entry points of cublaslt_abi.h. It refuses, as a
 * misuse, what the real one would refuse or get wrong: attributes of the wrong size, leading dimensions below the rows, shapes
 * or batches that do not fit, an epilogue without its pointers, pointers less aligned than the preference said, an algorithm
 * of another problem. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "executors/run/cublaslt/cublaslt_abi.h"
#include "tests/cuda/fake.h"

#define EXPORT __attribute__((visibility("default")))
extern fake_control fake; /* of the fake driver */

#define ENTER()                                               \
  do {                                                        \
    if (++fake.calls == fake.fail_at) return LT_INTERNAL_ERROR; \
  } while (0)
#define MISUSE(...)                                                            \
  do {                                                                         \
    if (!fake.misuses++) snprintf(fake.misuse, sizeof fake.misuse, __VA_ARGS__); \
    return LT_INVALID_VALUE;                                                   \
  } while (0)
#define TRY(expression)                \
  do {                                 \
    int status_ = (expression);        \
    if (status_) return status_;       \
  } while (0)

struct lt_desc { int compute, scale, ops[2]; uint32_t epilogue; uint8_t *bias, *aux; int64_t bias_stride, aux_ld, aux_stride; };
struct lt_layout { int type; int64_t rows, columns, ld, stride; int32_t batch; };
struct lt_pref { uint64_t workspace; uint32_t alignment[4]; };

enum { MAGIC = 0x7a11 };
typedef struct chosen { /* lies in lt_algo */
  uint64_t magic;
  int32_t candidate, pad;
  uint64_t problem, workspace;
  uint16_t alignment[8]; /* A, B, D, aux, bias, C */
  uint64_t rest[2];
} chosen;
_Static_assert(sizeof(chosen) == sizeof(lt_algo), "an algorithm is 64 bytes");

#define DECLARE(field, symbol, arguments) int symbol arguments;
LT_FUNCTIONS(DECLARE)
size_t cublasLtGetVersion(void);
const char *cublasLtGetStatusName(int status);

EXPORT size_t cublasLtGetVersion(void) { return 131000; }
EXPORT const char *cublasLtGetStatusName(int status) { return status == LT_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_OTHER"; }

EXPORT int cublasLtCreate(lt_handle *out) {
  static int handle;
  ENTER();
  *out = (lt_handle)&handle;
  return 0;
}

EXPORT int cublasLtMatmulDescCreate(lt_desc *out, int compute, int scale) {
  ENTER();
  if (compute == LT_COMPUTE_64F ? scale != LT_R_64F : (compute != LT_COMPUTE_32F && compute != LT_COMPUTE_32F_FAST_TF32) || scale != LT_R_32F)
    MISUSE("compute %d with scale %d", compute, scale);
  *out = calloc(1, sizeof **out);
  (*out)->compute = compute, (*out)->scale = scale, (*out)->epilogue = LT_EPILOGUE_DEFAULT;
  fake.live++;
  return 0;
}
EXPORT int cublasLtMatmulDescDestroy(lt_desc d) {
  free(d);
  fake.live--;
  ENTER();
  return 0;
}
EXPORT int cublasLtMatmulDescSetAttribute(lt_desc d, int attribute, const void *value, size_t size) {
  ENTER();
  struct { int attribute; void *to; size_t size; } all[] = {
      {LT_DESC_TRANSA, &d->ops[0], 4}, {LT_DESC_TRANSB, &d->ops[1], 4}, {LT_DESC_EPILOGUE, &d->epilogue, 4},
      {LT_DESC_BIAS_POINTER, &d->bias, 8}, {LT_DESC_BIAS_BATCH_STRIDE, &d->bias_stride, 8}, {LT_DESC_AUX_POINTER, &d->aux, 8},
      {LT_DESC_AUX_LD, &d->aux_ld, 8}, {LT_DESC_AUX_BATCH_STRIDE, &d->aux_stride, 8}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (all[i].attribute != attribute) continue;
    if (size != all[i].size) MISUSE("attribute %d of a descriptor with %zu bytes", attribute, size);
    memcpy(all[i].to, value, size);
    return 0;
  }
  MISUSE("attribute %d of a descriptor", attribute);
}

EXPORT int cublasLtMatrixLayoutCreate(lt_layout *out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  ENTER();
  if (type != LT_R_32F && type != LT_R_64F && type != LT_R_16F && type != LT_R_16BF) MISUSE("type %d", type);
  if (!rows || !columns || rows > INT32_MAX || columns > INT32_MAX || ld < (int64_t)rows) MISUSE("layout %ld x %ld, ld %ld", (long)rows, (long)columns, (long)ld);
  *out = calloc(1, sizeof **out);
  **out = (struct lt_layout){type, (int64_t)rows, (int64_t)columns, ld, 0, 1};
  fake.live++;
  return 0;
}
EXPORT int cublasLtMatrixLayoutDestroy(lt_layout l) {
  free(l);
  fake.live--;
  ENTER();
  return 0;
}
EXPORT int cublasLtMatrixLayoutSetAttribute(lt_layout l, int attribute, const void *value, size_t size) {
  ENTER();
  if (attribute == LT_LAYOUT_BATCH_COUNT && size == 4) memcpy(&l->batch, value, 4);
  else if (attribute == LT_LAYOUT_STRIDED_BATCH_OFFSET && size == 8) memcpy(&l->stride, value, 8);
  else MISUSE("attribute %d of a layout with %zu bytes", attribute, size);
  if (l->batch < 1 || l->stride < 0) MISUSE("batch %d, stride %ld", l->batch, (long)l->stride);
  return 0;
}

EXPORT int cublasLtMatmulPreferenceCreate(lt_pref *out) {
  ENTER();
  *out = calloc(1, sizeof **out);
  **out = (struct lt_pref){0, {256, 256, 256, 256}};
  fake.live++;
  return 0;
}
EXPORT int cublasLtMatmulPreferenceDestroy(lt_pref p) {
  free(p);
  fake.live--;
  ENTER();
  return 0;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(lt_pref p, int attribute, const void *value, size_t size) {
  ENTER();
  if (attribute == LT_PREF_MAX_WORKSPACE_BYTES && size == 8) memcpy(&p->workspace, value, 8);
  else if (attribute >= LT_PREF_MIN_ALIGNMENT_A_BYTES && attribute <= LT_PREF_MIN_ALIGNMENT_D_BYTES && size == 4) {
    uint32_t bytes;
    memcpy(&bytes, value, 4);
    if (!bytes || bytes > 256 || (bytes & (bytes - 1))) MISUSE("alignment %u", bytes);
    p->alignment[attribute - LT_PREF_MIN_ALIGNMENT_A_BYTES] = bytes;
  } else MISUSE("attribute %d of a preference with %zu bytes", attribute, size);
  return 0;
}

static bool uses_bias(uint32_t e) { return e & (LT_EPILOGUE_BIAS | 16 | LT_EPILOGUE_BGRADA | LT_EPILOGUE_BGRADB); }

static int check(lt_desc e, lt_layout a, lt_layout b, lt_layout c, lt_layout d) {
  static const uint32_t known[] = {LT_EPILOGUE_DEFAULT, LT_EPILOGUE_BIAS, LT_EPILOGUE_GELU_AUX, LT_EPILOGUE_GELU_AUX_BIAS, LT_EPILOGUE_DGELU,
                                   LT_EPILOGUE_DGELU_BGRAD, LT_EPILOGUE_BGRADA, LT_EPILOGUE_BGRADB};
  bool found = false;
  int64_t m = e->ops[0] ? a->columns : a->rows, k = e->ops[0] ? a->rows : a->columns;
  int64_t n = e->ops[1] ? b->rows : b->columns, k2 = e->ops[1] ? b->columns : b->rows;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) found |= known[i] == e->epilogue;
  if (!found) MISUSE("epilogue %u", e->epilogue);
  if (e->ops[0] >> 1 || e->ops[1] >> 1) MISUSE("ops %d, %d", e->ops[0], e->ops[1]);
  if (k != k2 || d->rows != m || d->columns != n) MISUSE("A %ldx%ld op %d, B %ldx%ld op %d, D %ldx%ld", (long)a->rows, (long)a->columns, e->ops[0], (long)b->rows,
                                                           (long)b->columns, e->ops[1], (long)d->rows, (long)d->columns);
  if (c->type != d->type || c->rows != d->rows || c->columns != d->columns || c->batch != d->batch) MISUSE("C is not as D");
  if (a->batch != d->batch || b->batch != d->batch) MISUSE("batches %d %d %d", a->batch, b->batch, d->batch);
  if (d->batch > 1 && !d->stride) MISUSE("products of a batch into one matrix");
  if (a->type != b->type || (d->type != a->type && !(d->type == LT_R_32F && (a->type == LT_R_16F || a->type == LT_R_16BF)))) MISUSE("types %d %d %d", a->type, b->type, d->type);
  if ((e->compute == LT_COMPUTE_64F) != (a->type == LT_R_64F) || (e->compute == LT_COMPUTE_32F_FAST_TF32 && a->type != LT_R_32F)) MISUSE("compute %d of type %d", e->compute, a->type);
  if (uses_bias(e->epilogue) && !e->bias) MISUSE("no bias pointer");
  if (!uses_bias(e->epilogue) && (e->bias || e->bias_stride)) MISUSE("a bias pointer that nothing uses");
  if (e->epilogue & 128) {
    if (!e->aux || e->aux_ld < m || e->aux_ld % 8 || (d->batch > 1 && (e->aux_stride <= 0 || e->aux_stride % 8))) MISUSE("aux: ld %ld, stride %ld", (long)e->aux_ld, (long)e->aux_stride);
  } else if (e->aux || e->aux_ld || e->aux_stride) MISUSE("an aux matrix that nothing uses");
  if (d->batch > 1 && (e->epilogue & 16 || e->epilogue & (LT_EPILOGUE_BGRADA | LT_EPILOGUE_BGRADB)) && !e->bias_stride) MISUSE("sums of a batch into one vector");
  return 0;
}

static uint64_t hash(uint64_t h, const void *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
  return h;
}
static uint64_t problem(lt_desc e, lt_layout a, lt_layout b, lt_layout c, lt_layout d) {
  int64_t words[] = {e->compute, e->scale, e->ops[0], e->ops[1], e->epilogue, e->bias_stride, e->aux_ld, e->aux_stride};
  uint64_t h = hash(14695981039346656037u, words, sizeof words);
  lt_layout all[4] = {a, b, c, d};
  for (int i = 0; i < 4; i++) {
    int64_t layout[] = {all[i]->type, all[i]->rows, all[i]->columns, all[i]->ld, all[i]->stride, all[i]->batch};
    h = hash(h, layout, sizeof layout);
  }
  return h;
}
static uint16_t aligned(const void *p) {
  uintptr_t bits = (uintptr_t)p | 256;
  return (uint16_t)(bits & -bits);
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(lt_handle handle, lt_desc e, lt_layout a, lt_layout b, lt_layout c, lt_layout d, lt_pref pref, int wanted,
                                          lt_heuristic *results, int *out_n) {
  ENTER();
  TRY(check(e, a, b, c, d));
  fake.heuristics++;
  *out_n = 0;
  if (fake.refuse_batch && d->batch > 1) return LT_NOT_SUPPORTED;
  for (int i = 0; i < fake.n_candidates && *out_n < wanted; i++) {
    chosen x = {MAGIC, i, 0, problem(e, a, b, c, d), 1024 * (uint64_t)i, {(uint16_t)pref->alignment[0], (uint16_t)pref->alignment[1], (uint16_t)pref->alignment[3],
                aligned(e->aux), aligned(e->bias), (uint16_t)pref->alignment[2]}, {0}};
    if (x.workspace > pref->workspace) continue;
    lt_heuristic *r = &results[(*out_n)++];
    memset(r, 0xee, sizeof *r);
    memcpy(&r->algo, &x, sizeof x);
    r->workspace = fake.counts_tiles && !i && pref->workspace >= 4 ? 4 : x.workspace;
    r->state = i == 1 && fake.n_candidates > 2 ? LT_NOT_SUPPORTED : LT_SUCCESS; /* the second of several is none */
  }
  return *out_n ? LT_SUCCESS : LT_NOT_SUPPORTED;
}

EXPORT int cublasLtMatmulAlgoCheck(lt_handle handle, lt_desc e, lt_layout a, lt_layout b, lt_layout c, lt_layout d, const lt_algo *algo, lt_heuristic *result) {
  chosen x;
  ENTER();
  TRY(check(e, a, b, c, d));
  fake.checks++;
  memcpy(&x, algo, sizeof x);
  if (fake.refuse_batch && d->batch > 1) return LT_NOT_SUPPORTED;
  if (fake.refuse_check || x.magic != MAGIC || x.problem != problem(e, a, b, c, d)) return LT_INVALID_VALUE;
  result->workspace = x.workspace;
  result->state = LT_SUCCESS;
  return 0;
}

static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
static double dgelu(double x) {
  double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

EXPORT int cublasLtMatmul(lt_handle handle, lt_desc e, const void *alpha, const void *pa, lt_layout a, const void *pb, lt_layout b, const void *beta, const void *pc,
                          lt_layout c, void *pd, lt_layout d, const lt_algo *algo, void *workspace, size_t workspace_bytes, void *stream) {
  chosen x;
  ENTER();
  TRY(check(e, a, b, c, d));
  memcpy(&x, algo, sizeof x);
  if (!handle || stream != fake.stream) MISUSE("no handle, or another stream");
  if (x.magic != MAGIC || x.problem != problem(e, a, b, c, d)) MISUSE("an algorithm of another problem");
  if (x.workspace > workspace_bytes || (workspace_bytes && (!workspace || (uintptr_t)workspace % 256))) MISUSE("workspace of %zu bytes at %p", workspace_bytes, workspace);
  if (x.alignment[0] > aligned(pa) || x.alignment[1] > aligned(pb) || x.alignment[2] > aligned(pd) || (e->aux && x.alignment[3] > aligned(e->aux)) ||
      (e->bias && x.alignment[4] > aligned(e->bias)))
    MISUSE("a pointer is less aligned than was said");
  double al = fake_load(e->scale, alpha, 0), be = fake_load(e->scale, beta, 0);
  if (be != 0 && be != 1) MISUSE("beta %g", be);
  if (pc != pd ? be == 0 || aligned(pc) < x.alignment[5] : memcmp(c, d, sizeof *c) != 0) MISUSE("C lies otherwise than was said");
  if (fake.broken == -2 || x.candidate == fake.broken) return LT_NOT_SUPPORTED;
  fake.matmuls++;
  fake.last_candidate = x.candidate;
  fake.last_workspace = workspace_bytes;
  if (fake.counts_tiles && workspace_bytes) fake.clock += fake.unit;
  fake.clock += fake.unit * (1 + abs(x.candidate - fake.fastest));
  memset(workspace, 0x5a, x.workspace);
  int64_t k = e->ops[0] ? a->rows : a->columns;
  for (int64_t z = 0; z < d->batch; z++) {
    int64_t za = z * a->stride, zb = z * b->stride, zc = z * c->stride, zd = z * d->stride, zx = z * e->aux_stride, zv = z * e->bias_stride;
    for (int64_t i = 0; i < d->rows; i++) {
      double across = 0;
      for (int64_t j = 0; j < d->columns; j++) {
        double p = 0, sum = 0;
        for (int64_t q = 0; q < k; q++) {
          double u = fake_load(a->type, pa, za + (e->ops[0] ? q + i * a->ld : i + q * a->ld)), v = fake_load(b->type, pb, zb + (e->ops[1] ? j + q * b->ld : q + j * b->ld));
          p += u * v;
          sum += e->epilogue == LT_EPILOGUE_BGRADA ? u : v;
        }
        p *= al;
        if (be != 0) p += fake_load(c->type, pc, zc + i + j * c->ld);
        if (e->epilogue == LT_EPILOGUE_BGRADA && !j) fake_store(d->type, e->bias, zv + i, sum);
        if (e->epilogue == LT_EPILOGUE_BGRADB && !i) fake_store(d->type, e->bias, zv + j, sum);
        if (e->epilogue & LT_EPILOGUE_BIAS) p += fake_load(d->type, e->bias, zv + i);
        if (e->epilogue & 32) {
          fake_store(d->type, e->aux, zx + i + j * e->aux_ld, p);
          p = gelu(p);
        }
        if (e->epilogue & 64) p *= dgelu(fake_load(d->type, e->aux, zx + i + j * e->aux_ld));
        across += p;
        fake_store(d->type, pd, zd + i + j * d->ld, p);
      }
      if (e->epilogue == LT_EPILOGUE_DGELU_BGRAD) fake_store(d->type, e->bias, zv + i, across);
    }
  }
  return 0;
}
