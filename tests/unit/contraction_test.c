/* How products of known layouts are walked: one call where that is possible, which orientation, what is refused and why. Random
 * layouts, with the numbers that come out, are in tests/cuda/matmul_test.c. */
#include "executors/run/contraction.h"
#include "tests/unit/check.h"

static th_view view(uint32_t rank, const int64_t *dims, const int64_t *strides) {
  th_view v = {.dtype = TH_DTYPE_bf16, .rank = rank};
  for (uint32_t i = rank; i-- > 0;) {
    v.dims[i] = dims[i];
    v.strides[i] = strides ? strides[i] : i + 1 < rank ? v.dims[i + 1] * v.strides[i + 1] : 1;
  }
  return v;
}
#define D(...) (const int64_t[]){__VA_ARGS__}
#define VIEW(rank, dims, ...) view(rank, dims, __VA_ARGS__)

typedef struct product { int64_t ints[64]; uint32_t n_ints; th_view operands[3], results[2]; uint32_t n_operands, n_results; } product;

static void refused(const product *p, th_code code, const char *text) {
  th_matmul_plan plan;
  th_status status = th_matmul_plan_make(p->ints, p->n_ints, p->operands, p->n_operands, p->results, p->n_results, &plan);
  CHECK_INT(th_status_code(status), code);
  if (!strstr(th_status_message(status), text)) {
    fprintf(stderr, "\"%s\", want \"%s\"\n", th_status_message(status), text);
    exit(1);
  }
  th_status_free(status);
  CHECK(!th_matmul_takes(p->ints, p->n_ints, p->operands, p->n_operands, p->results, p->n_results));
}

static th_matmul_plan made(const product *p) {
  th_matmul_plan plan;
  CHECK_OK(th_matmul_plan_make(p->ints, p->n_ints, p->operands, p->n_operands, p->results, p->n_results, &plan));
  CHECK(th_matmul_takes(p->ints, p->n_ints, p->operands, p->n_operands, p->results, p->n_results));
  return plan;
}

static product linear(th_matmul_epilogue epilogue) { /* x (4, 16, 24) w (40, 24)' */
  product p = {{0, 1, 2, 1, epilogue, 0}, 6, {VIEW(3, D(4, 16, 24), NULL), VIEW(2, D(40, 24), NULL)}, {VIEW(3, D(4, 16, 40), NULL)}, 2, 1};
  if (epilogue == TH_EPILOGUE_BIAS || epilogue == TH_EPILOGUE_BIAS_GELU) p.operands[p.n_operands++] = VIEW(1, D(40), NULL);
  if (epilogue == TH_EPILOGUE_DGELU || epilogue == TH_EPILOGUE_DGELU_SUM || epilogue == TH_EPILOGUE_ADD) p.operands[p.n_operands++] = p.results[0];
  if (epilogue == TH_EPILOGUE_GELU || epilogue == TH_EPILOGUE_BIAS_GELU) p.results[p.n_results++] = p.results[0];
  if (epilogue == TH_EPILOGUE_DGELU_SUM) p.results[p.n_results++] = VIEW(1, D(40), NULL);
  if (epilogue == TH_EPILOGUE_LHS_SUM) p.results[p.n_results++] = VIEW(2, D(4, 16), NULL);
  return p;
}

static void test_linear(void) {
  for (int e = 0; e < TH_EPILOGUE_COUNT; e++) {
    product p = linear((th_matmul_epilogue)e);
    th_matmul_plan m = made(&p);
    CHECK(m.swapped && m.trans_a && !m.trans_b && m.m == 40 && m.n == 64 && m.k == 24 && m.batch == 1 && !m.n_outer);
    CHECK(m.lda == 24 && m.ldb == 24 && m.ldd == 40 && m.ld_aux == (m.views[TH_MATMUL_AUX] ? 40 : 0));
  }
  product p = linear(TH_EPILOGUE_BIAS); /* a result that lies column after column has no place for it */
  p.results[0] = VIEW(3, D(4, 16, 40), D(16, 1, 64));
  refused(&p, TH_CODE_UNIMPLEMENTED, "epilogue bias: the columns");
  p.ints[4] = TH_EPILOGUE_NONE, p.n_operands = 2;
  th_matmul_plan m = made(&p);
  CHECK(!m.swapped && m.m == 64 && m.n == 40 && m.trans_a && !m.trans_b);
  p = linear(TH_EPILOGUE_GELU); /* P beside it with a leading dimension that is no multiple of 8 */
  p.results[1] = VIEW(3, D(4, 16, 40), D(16 * 41, 41, 1));
  refused(&p, TH_CODE_UNIMPLEMENTED, "epilogue gelu:");
  p = linear(TH_EPILOGUE_DGELU_SUM); /* its rows take two strides: a sum over them takes more than one product */
  p.results[0].strides[0] = p.operands[2].strides[0] = 16 * 40 + 8;
  refused(&p, TH_CODE_UNIMPLEMENTED, "epilogue dgelu_sum:");
  p = linear(TH_EPILOGUE_BIAS);
  p.results[0].strides[0] = 16 * 40 + 8;
  m = made(&p);
  CHECK(m.n == 16 && m.batch == 4 && !m.n_outer && m.batch_strides[TH_MATMUL_RHS] == 0 && m.batch_strides[TH_MATMUL_RESULT] == 648 && m.batch_strides[TH_MATMUL_VECTOR] == 0);
}

static void test_gradients(void) { /* dw = dy' x: contracted over (batch, rows), with the bias' gradient */
  product p = {{0, 2, 0, 1, 0, 1, TH_EPILOGUE_LHS_SUM, 0}, 8, {VIEW(3, D(4, 16, 40), NULL), VIEW(3, D(4, 16, 24), NULL)}, {VIEW(2, D(40, 24), NULL), VIEW(1, D(40), NULL)}, 2, 2};
  th_matmul_plan m = made(&p);
  CHECK(m.swapped && !m.trans_a && m.trans_b && m.m == 24 && m.n == 40 && m.k == 64);
  p.results[0] = VIEW(2, D(40, 24), D(1, 40));
  m = made(&p);
  CHECK(!m.swapped && m.m == 40 && m.n == 24);
  p.operands[1] = VIEW(3, D(4, 16, 24), D(24, 96, 1)); /* the two dimensions the other way round */
  refused(&p, TH_CODE_INVALID_ARGUMENT, "rhs cannot be walked: its contracted");
  p.operands[0] = VIEW(3, D(4, 16, 40), D(16 * 40 + 8, 40, 1));
  refused(&p, TH_CODE_INVALID_ARGUMENT, "lhs cannot be walked: its contracted");
}

static void test_attention(void) { /* q, k out of one (batch 3, length 8, 3 x heads 2 x size 5) buffer: scores (batch, heads, 8, 8) */
  int64_t s[] = {8 * 30, 5, 30, 1};
  product p = {{2, 1, 0, 1, 0, 1, 3, 3, 0, 0}, 10, {VIEW(4, D(3, 2, 8, 5), s), VIEW(4, D(3, 2, 8, 5), s)}, {VIEW(4, D(3, 2, 8, 8), NULL)}, 2, 1};
  th_matmul_plan m = made(&p);
  CHECK(m.swapped && m.trans_a && !m.trans_b && m.m == 8 && m.n == 8 && m.k == 5 && m.batch == 3 && m.n_outer == 1 && m.outer[0] == 2);
  CHECK(m.batch_strides[TH_MATMUL_LHS] == 240 && m.outer_strides[0][TH_MATMUL_LHS] == 5 && m.outer_strides[0][TH_MATMUL_RESULT] == 64);
  th_matmul_plan_unbatch(&m);
  CHECK(m.batch == 1 && m.n_outer == 2 && m.outer[1] == 3 && m.outer_strides[1][TH_MATMUL_LHS] == 240);
  product o = {{2, 1, 0, 1, 0, 1, 3, 2, 0, 0}, 10, {VIEW(4, D(3, 2, 8, 8), NULL), VIEW(4, D(3, 2, 8, 5), s)}, {VIEW(4, D(3, 2, 8, 5), D(80, 5, 10, 1))}, 2, 1};
  m = made(&o); /* and back into (batch, length, heads, size) */
  CHECK(m.swapped && !m.trans_a && !m.trans_b && m.m == 5 && m.n == 8 && m.k == 8 && m.ldd == 10 && m.n_outer == 1);
}

static void test_folding(void) { /* a batch over which one operand stands still is rows or columns */
  product p = {{1, 1, 0, 0, 2, 1, 0, 0}, 8, {VIEW(3, D(4, 16, 24), NULL), VIEW(3, D(4, 24, 40), D(0, 40, 1))}, {VIEW(3, D(4, 16, 40), NULL)}, 2, 1};
  th_matmul_plan m = made(&p);
  CHECK(m.swapped && m.m == 40 && m.n == 64 && m.batch == 1 && !m.n_outer);
  p.operands[0] = VIEW(3, D(4, 16, 24), D(0, 24, 1)); /* the result (batch, rows, columns) with batch inside the columns' side */
  p.operands[1] = VIEW(3, D(4, 24, 40), D(40, 160, 1));
  p.results[0] = VIEW(3, D(4, 16, 40), D(40, 160, 1));
  m = made(&p);
  CHECK(m.swapped && m.m == 160 && m.n == 16 && m.batch == 1 && !m.n_outer);
}

static void test_refused(void) {
  product p = linear(TH_EPILOGUE_NONE), q = p;
  q.operands[0].strides[2] = 2, q.operands[0].strides[1] = 48, q.operands[0].strides[0] = 768;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "lhs cannot be walked: no unit stride");
  q = p, q.operands[1].strides[0] = 0;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "rhs cannot be walked: no unit stride");
  q = p, q.operands[1].strides[0] = 7; /* rows that overlap */
  refused(&q, TH_CODE_INVALID_ARGUMENT, "rhs cannot be walked");
  q = p, q.results[0].strides[0] = 0;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "the result overlaps itself");
  q = p, q.results[0] = VIEW(3, D(4, 16, 40), D(2560, 160, 4));
  refused(&q, TH_CODE_INVALID_ARGUMENT, "the result cannot be walked");
  q = p, q.operands[0].strides[1] = -24;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "stride -24");
  q = p, q.operands[0].dtype = q.operands[1].dtype = TH_DTYPE_i32;
  refused(&q, TH_CODE_UNIMPLEMENTED, "i32");
  q = p, q.operands[0].dtype = TH_DTYPE_f16;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "must be alike");
  q = p, q.results[0].dtype = TH_DTYPE_f16;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "the result too or f32");
  q = p, q.results[0].dtype = TH_DTYPE_f32;
  made(&q);
  q = p, q.results[0].dims[1] = 15;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "dimension 1 of the result");
  q = p, q.ints[4] = TH_EPILOGUE_COUNT;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "no epilogue");
  q = p, q.ints[4] = TH_EPILOGUE_BIAS;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "epilogue bias has 3 operands");
  q = p, q.ints[2] = 3;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "contracted dimensions 3 of lhs");
  q = p, q.ints[0] = INT64_MAX;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "do not fit");
  q = p, q.n_ints = 5;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "must follow");
  q = linear(TH_EPILOGUE_BIAS), q.operands[2].dims[0] = 39;
  refused(&q, TH_CODE_INVALID_ARGUMENT, "wrong shape");
  product twice = {{0, 2, 1, 1, 1, 1, 0, 0}, 8, {VIEW(2, D(3, 3), NULL), VIEW(2, D(3, 3), NULL)}, {VIEW(0, D(0), NULL)}, 2, 1};
  refused(&twice, TH_CODE_INVALID_ARGUMENT, "contracted dimensions 1 of lhs"); /* a dimension named twice */
}

static void test_empty(void) {
  product p = linear(TH_EPILOGUE_NONE);
  p.operands[0].dims[2] = p.operands[1].dims[1] = 0;
  CHECK(made(&p).empty);
  p = linear(TH_EPILOGUE_BIAS);
  p.operands[0].dims[2] = p.operands[1].dims[1] = 0;
  refused(&p, TH_CODE_UNIMPLEMENTED, "contracted dimension of size 0");
  p = linear(TH_EPILOGUE_LHS_SUM);
  p.operands[1].dims[0] = p.results[0].dims[2] = 0;
  refused(&p, TH_CODE_UNIMPLEMENTED, "without columns");
  p = linear(TH_EPILOGUE_DGELU_SUM);
  p.operands[0].dims[0] = p.results[0].dims[0] = p.operands[2].dims[0] = 0;
  CHECK(made(&p).empty);
}

int main(void) {
  test_linear();
  test_gradients();
  test_attention();
  test_folding();
  test_refused();
  test_empty();
  return 0;
}
