/* Convolutions as matrix products over unfolded patches (im2col), one image and group at a time; any number of spatial
 * dimensions. Operands are packed to row-major f32 or f64 first. */
#include <stdlib.h>
#include <string.h>

#include "executors/run/library.h"

typedef struct geometry {
  uint32_t n;                   /* spatial dimensions */
  int64_t images, channels, filters, groups, in[TH_RUN_RANK], out[TH_RUN_RANK], kernel[TH_RUN_RANK];
  const int64_t *stride, *padding, *dilation;
  int64_t patch, places, pixels; /* channels/groups * kernel; outputs; inputs of one channel */
  th_dtype dtype;
  int32_t threads;
} geometry;

static th_status read_geometry(const th_library_args *args, const th_view *x, const th_view *w, const th_view *y, geometry *g) {
  if (args->n_ints < 2 || args->ints[0] < 1 || args->ints[0] > 8 || args->n_ints != 2 + 3 * args->ints[0]) return TH_ERROR(INVALID_ARGUMENT, "conv: wrong number of ints");
  *g = (geometry){.n = (uint32_t)args->ints[0]};
  g->stride = args->ints + 1, g->padding = g->stride + g->n, g->dilation = g->padding + g->n;
  g->groups = args->ints[args->n_ints - 1];
  if (x->rank != g->n + 2 || w->rank != g->n + 2 || y->rank != g->n + 2 || g->groups < 1) return TH_ERROR(INVALID_ARGUMENT, "conv: ranks do not fit");
  g->images = x->dims[0], g->channels = x->dims[1], g->filters = w->dims[0];
  g->patch = g->channels / g->groups, g->places = g->pixels = 1;
  for (uint32_t i = 0; i < g->n; i++) {
    g->in[i] = x->dims[2 + i], g->out[i] = y->dims[2 + i], g->kernel[i] = w->dims[2 + i];
    g->patch *= g->kernel[i], g->places *= g->out[i], g->pixels *= g->in[i];
  }
  g->dtype = x->dtype == TH_DTYPE_f64 ? TH_DTYPE_f64 : TH_DTYPE_f32;
  g->threads = args->context->threads;
  if (w->dims[1] * g->groups != g->channels || g->filters % g->groups || y->dims[0] != g->images || y->dims[1] != g->filters) return TH_ERROR(INVALID_ARGUMENT, "conv: channels do not fit");
  return TH_OK;
}

/* Row `r` of the patch matrix: channel and kernel position; for each output place the input element or none. */
#define UNFOLD(name, T)                                                                                                        \
  static void unfold_##name(const geometry *g, T *image, T *columns, bool back) {                                              \
    _Pragma("omp parallel for num_threads(g->threads) if (g->patch * g->places > 16384 && !back)")                             \
    for (int64_t r = 0; r < g->patch; r++) {                                                                                   \
      int64_t rest = r, k[8], o[8] = {0}, last = (int64_t)g->n - 1;                                                            \
      for (int64_t i = last; i >= 0; i--) k[i] = rest % g->kernel[i], rest /= g->kernel[i];                                    \
      T *plane = image + rest * g->pixels, *row = columns + r * g->places;                                                     \
      for (int64_t p = 0; p < g->places; p += g->out[last]) {                                                                  \
        int64_t base = 0, left = p / g->out[last];                                                                             \
        bool inside = true;                                                                                                    \
        for (int64_t i = last - 1; i >= 0; i--) o[i] = left % g->out[i], left /= g->out[i];                                    \
        for (int64_t i = 0; i < last; i++) {                                                                                   \
          int64_t q = o[i] * g->stride[i] + k[i] * g->dilation[i] - g->padding[i];                                             \
          inside &= q >= 0 && q < g->in[i];                                                                                    \
          base = base * g->in[i] + q;                                                                                          \
        }                                                                                                                      \
        base *= g->in[last];                                                                                                   \
        for (int64_t j = 0; j < g->out[last]; j++) {                                                                           \
          int64_t q = j * g->stride[last] + k[last] * g->dilation[last] - g->padding[last];                                    \
          bool ok = inside && q >= 0 && q < g->in[last];                                                                       \
          if (!back) row[p + j] = ok ? plane[base + q] : 0;                                                                    \
          else if (ok) plane[base + q] += row[p + j];                                                                          \
        }                                                                                                                      \
      }                                                                                                                        \
    }                                                                                                                          \
  }
UNFOLD(f32, float)
UNFOLD(f64, double)

static void unfold(const geometry *g, void *image, void *columns, bool back) {
  if (g->dtype == TH_DTYPE_f64) unfold_f64(g, image, columns, back);
  else unfold_f32(g, image, columns, back);
}

typedef enum which { FORWARD, GRAD_X, GRAD_W } which;

static th_status run(const geometry *g, which what, char *x, char *w, char *y) {
  size_t item = th_dtype_size(g->dtype);
  char *columns = malloc((size_t)(g->patch * g->places) * item + 1);
  if (!columns) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for %lld patches", (long long)g->places);
  int64_t filters = g->filters / g->groups;
  th_status status = TH_OK;
  for (int64_t n = 0; n < g->images && !status; n++)
    for (int64_t k = 0; k < g->groups && !status; k++) {
      char *image = x + (size_t)((n * g->channels + k * (g->channels / g->groups)) * g->pixels) * item;
      const void *weights = w + (size_t)(k * filters * g->patch) * item, *c = columns;
      void *result = y + (size_t)((n * g->filters + k * filters) * g->places) * item, *cw = (void *)(uintptr_t)weights, *cc = columns;
      const void *grad = result;
      th_gemm m = {.dtype = g->dtype, .batch = 1, .alpha = 1, .beta = 0};
      if (what != GRAD_X) unfold(g, image, columns, false);
      if (what == FORWARD) m.m = filters, m.n = g->places, m.k = g->patch, m.a = &weights, m.b = &c, m.c = &result, m.lda = g->patch, m.ldb = g->places, m.ldc = g->places;
      if (what == GRAD_W) m.m = filters, m.n = g->patch, m.k = g->places, m.a = &grad, m.b = &c, m.c = &cw, m.lda = g->places, m.ldb = g->places, m.trans_b = true, m.ldc = g->patch, m.beta = n > 0;
      if (what == GRAD_X) m.m = g->patch, m.n = g->places, m.k = filters, m.a = &weights, m.trans_a = true, m.b = &grad, m.c = &cc, m.lda = g->patch, m.ldb = g->places, m.ldc = g->places;
      status = th_gemm_run(&m);
      if (what == GRAD_X && !status) unfold(g, image, columns, true);
    }
  free(columns);
  return status;
}

static th_status convolve(const th_library_args *args, which what) {
  if (args->n_operands != 2 || args->n_results != 1) return TH_ERROR(INVALID_ARGUMENT, "conv: two operands and one result");
  const th_view *x = what == GRAD_X ? &args->results[0] : &args->operands[0], *w = what == GRAD_W ? &args->results[0] : &args->operands[1],
                *y = what == FORWARD ? &args->results[0] : what == GRAD_X ? &args->operands[0] : &args->operands[1];
  geometry g;
  TH_TRY(read_geometry(args, x, w, y, &g));
  th_view p[3] = {{0}};
  const th_view *views[3] = {x, w, y};
  th_status status = TH_OK;
  for (int i = 0; i < 3 && !status; i++) status = th_view_pack(views[i], g.threads, &p[i]);
  int out = what == FORWARD ? 2 : what == GRAD_X ? 0 : 1;
  if (!status) {
    memset(p[out].data, 0, (size_t)th_view_numel(&p[out]) * th_dtype_size(p[out].dtype));
    status = run(&g, what, p[0].data, p[1].data, p[2].data);
  }
  if (!status) th_view_copy(&p[out], &args->results[0], g.threads);
  for (int i = 0; i < 3; i++) free(p[i].data);
  return status;
}

th_status th_lib_conv(const th_library_args *args) { return convolve(args, FORWARD); }
th_status th_lib_conv_grad_x(const th_library_args *args) { return convolve(args, GRAD_X); }
th_status th_lib_conv_grad_w(const th_library_args *args) { return convolve(args, GRAD_W); }
