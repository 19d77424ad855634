/* Matrix products. What torch has already loaded is used (its MKL, exported by libtorch_cpu.so: one library, one thread
 * pool); else OpenBLAS. Symbols are looked up once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "executors/run/library.h"

typedef void (*fortran_gemm)(const char *, const char *, const int *, const int *, const int *, const void *, const void *, const int *, const void *, const int *, const void *, void *, const int *);
typedef void (*batch_gemm)(int, const int *, const int *, const int *, const int *, const int *, const void *, const void **, const int *, const void **, const int *, const void *, void **, const int *, int, const int *);

static struct { const char *name; fortran_gemm s, d; batch_gemm sb, db; int (*threads)(int); } found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look(void) {
  void *torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  if (torch) {
    found.s = (fortran_gemm)dlsym(torch, "sgemm_");
    found.d = (fortran_gemm)dlsym(torch, "dgemm_");
    found.threads = (int (*)(int))dlsym(torch, "MKL_Set_Num_Threads_Local");
    found.sb = (batch_gemm)dlsym(torch, "cblas_sgemm_batch");
    found.db = (batch_gemm)dlsym(torch, "cblas_dgemm_batch");
    if (found.s && found.d) {
      found.name = "torch's";
      return;
    }
  }
  void *blas = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
  if (!blas) blas = dlopen("libblas.so.3", RTLD_NOW | RTLD_LOCAL);
  if (!blas) return;
  found.s = (fortran_gemm)dlsym(blas, "sgemm_");
  found.d = (fortran_gemm)dlsym(blas, "dgemm_");
  found.sb = found.db = NULL;
  if (found.s && found.d) found.name = "openblas";
}

th_status th_gemm_name(const char **out) {
  pthread_once(&once, look);
  *out = found.name;
  return found.name ? TH_OK : TH_ERROR(NOT_FOUND, "no matrix product library: neither torch's nor libopenblas.so.0 is loaded or installed (Debian: apt-get install libopenblas0)");
}

th_status th_gemm_run(const th_gemm *g) {
  const char *name;
  if (!g->m || !g->n || !g->batch) return TH_OK;
  bool f64 = g->dtype == TH_DTYPE_f64;
  float alpha_f = (float)g->alpha, beta_f = (float)g->beta;
  const void *alpha = f64 ? (const void *)&g->alpha : &alpha_f, *beta = f64 ? (const void *)&g->beta : &beta_f;
  int m = (int)g->m, n = (int)g->n, k = (int)g->k, lda = (int)g->lda, ldb = (int)g->ldb, ldc = (int)g->ldc;
  if (m != g->m || n != g->n || k != g->k || lda != g->lda || ldb != g->ldb || ldc != g->ldc)
    return TH_ERROR(OUT_OF_RANGE, "a matrix product of %lld x %lld x %lld is too large for a 32-bit BLAS", (long long)g->m, (long long)g->n, (long long)g->k);
  if (g->batch != (int)g->batch) return TH_ERROR(OUT_OF_RANGE, "%lld matrix products in one call are too many for a 32-bit BLAS", (long long)g->batch);
  TH_TRY(th_gemm_name(&name));
  batch_gemm many = f64 ? found.db : found.sb;
  if (g->batch > 1 && many) {
    int ta = g->trans_a ? 112 : 111, tb = g->trans_b ? 112 : 111, size = (int)g->batch;
    many(101, &ta, &tb, &m, &n, &k, alpha, (const void **)g->a, &lda, (const void **)g->b, &ldb, beta, (void **)g->c, &ldc, 1, &size);
    return TH_OK;
  }
  for (int64_t i = 0; i < g->batch; i++) /* column-major: C' = B' A' */
    (f64 ? found.d : found.s)(g->trans_b ? "T" : "N", g->trans_a ? "T" : "N", &n, &m, &k, alpha, g->b[i], &ldb, g->a[i], &lda, beta, g->c[i], &ldc);
  return TH_OK;
}

int th_gemm_threads(int threads) {
  pthread_once(&once, look);
  return found.threads ? found.threads(threads) : 0;
}
