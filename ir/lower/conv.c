/* Convolutions and pooling. */
#include "ir/lower/helpers.h"

static th_value add_channel_bias(th_rule *r, th_value y, th_value bias) {
  if (bias == TH_NO_VALUE || r->b->status) return y;
  th_type t = th_rule_type(r->b, y), of_bias = th_rule_type(r->b, bias);
  if (of_bias.rank != 1) {
    th_fail(r->b, TH_ERROR(INVALID_ARGUMENT, "the bias of a convolution has one dimension, its channels; this one has %u", of_bias.rank));
    return y;
  }
  return th_add(r->b, y, th_broadcast(r->b, bias, t.dims, t.rank, (int64_t[]){1}));
}

/* An input without a batch dimension gets one. */
static th_value batched(th_rule *r, uint32_t want, th_value x, bool *added) {
  *added = false;
  if (r->b->status || th_rank(r->b, x) == want) return x;
  if (th_rank(r->b, x) != want - 1) {
    th_rule_fail(r, "the input has rank %u, want %u or %u", th_rank(r->b, x), want - 1, want);
    return x;
  }
  th_type t = th_rule_type(r->b, x);
  th_dim dims[TH_MAX_RANK];
  dims[0] = th_k(r->b, 1);
  memcpy(dims + 1, t.dims, t.rank * sizeof *dims);
  *added = true;
  return th_reshape(r->b, x, dims, t.rank + 1);
}

static th_value unbatched(th_rule *r, th_value y, bool added) {
  if (!added || r->b->status) return y;
  th_type t = th_rule_type(r->b, y);
  return th_reshape(r->b, y, t.dims + 1, t.rank - 1);
}

static void convolution(th_rule *r, bool transposed) {
  th_builder *b = r->b;
  th_context *c = th_ctx(b);
  uint32_t rank = th_rank(b, r->in[1]), n = rank > 2 ? rank - 2 : 0;
  bool added;
  th_value x = batched(r, rank, r->in[0], &added), w = r->in[1];
  const th_dim *stride = th_rule_sizes(r, "stride", n), *padding = th_rule_sizes(r, "padding", n), *dilation = th_rule_sizes(r, "dilation", n);
  th_dim groups = th_rule_dim(r, "groups");
  if (n == 0) th_rule_fail(r, "the weight has rank %u, want at least 3", rank);
  if (b->status) return;
  th_attr s = th_make_ints(c, stride, n), p = th_make_ints(c, padding, n), d = th_make_ints(c, dilation, n), g = th_make_dim(groups);
  th_value y;
  if (!transposed) {
    y = th_build1(b, TH_OP_conv, (th_value[]){x, w}, 2, (th_attr[]){s, p, d, g});
  } else { /* the gradient of a convolution with respect to its input */
    const th_dim *extra = th_rule_sizes(r, "output_padding", n);
    th_type tx = th_rule_type(b, x), tw = th_rule_type(b, w);
    th_dim dims[TH_MAX_RANK], one = th_k(b, 1);
    dims[0] = tx.dims[0];
    dims[1] = th_dim_mul(c, tw.dims[1], groups);
    for (uint32_t i = 0; i < n; i++) { /* (in - 1) * stride - 2 padding + dilation * (kernel - 1) + output_padding + 1 */
      th_dim size = th_dim_mul(c, th_dim_sub(c, tx.dims[2 + i], one), stride[i]);
      size = th_dim_sub(c, size, th_dim_mul(c, padding[i], th_k(b, 2)));
      size = th_dim_add(c, size, th_dim_mul(c, dilation[i], th_dim_sub(c, tw.dims[2 + i], one)));
      dims[2 + i] = th_dim_add(c, th_dim_add(c, size, extra[i]), one);
    }
    y = th_build1(b, TH_OP_conv_grad_x, (th_value[]){x, w}, 2, (th_attr[]){th_make_ints(c, dims, rank), s, p, d, g});
  }
  th_rule_return(r, unbatched(r, add_channel_bias(r, y, r->in[2]), added));
}
void th__lower_convnd(th_rule *r) { convolution(r, false); }
void th__lower_convolution(th_rule *r) { convolution(r, th_rule_bool(r, "transposed")); }

/* ---- pooling over the last two dimensions ---- */

typedef struct window {
  const th_dim *kernel, *stride, *padding, *dilation;
  th_dim shape[2];
} window;

/* torch's pooling_output_shape: with ceil_mode the last window must start inside the input or its left padding. */
static bool window_of(th_rule *r, th_value x, window *w) {
  th_builder *b = r->b;
  th_context *c = th_ctx(b);
  w->kernel = th_rule_sizes(r, "kernel_size", 2);
  bool strided = th_rule_has(r, "stride") && th_rule_attr(r, "stride")->count > 0;
  w->stride = strided ? th_rule_sizes(r, "stride", 2) : w->kernel;
  w->padding = th_rule_sizes(r, "padding", 2);
  static const char dilation_name[] = "dilation";
  if (th_op_attr_index(r->kind, dilation_name) >= 0) {
    w->dilation = th_rule_sizes(r, dilation_name, 2);
  } else {
    th_dim *ones = TH_ARENA_ARRAY(th_context_arena(c), th_dim, 2);
    ones[0] = ones[1] = th_k(b, 1);
    w->dilation = ones;
  }
  bool ceil_mode = th_rule_bool(r, "ceil_mode");
  if (b->status) return false;
  th_type t = th_rule_type(b, x);
  if (t.rank < 3 || t.rank > 4) {
    th_rule_fail(r, "the input has rank %u, want 3 or 4", t.rank);
    return false;
  }
  for (uint32_t i = 0; i < 2; i++) {
    th_dim one = th_k(b, 1), in = t.dims[t.rank - 2 + i];
    th_dim reach = th_dim_add(c, th_dim_mul(c, w->dilation[i], th_dim_sub(c, w->kernel[i], one)), one);
    th_dim span = th_dim_sub(c, th_dim_add(c, in, th_dim_mul(c, w->padding[i], th_k(b, 2))), reach);
    if (ceil_mode) span = th_dim_add(c, span, th_dim_sub(c, w->stride[i], one));
    th_dim n = th_dim_add(c, th_dim_floordiv(c, span, w->stride[i]), one);
    int64_t out, s, size, pad;
    if (ceil_mode && th_dim_is_const(c, n, &out) && th_dim_is_const(c, w->stride[i], &s) && th_dim_is_const(c, in, &size) &&
        th_dim_is_const(c, w->padding[i], &pad) && (out - 1) * s >= size + pad)
      n = th_k(b, out - 1);
    if (th_dim_is_const(c, n, &out) && out < 1) th_rule_fail(r, "the window is larger than the padded input");
    w->shape[i] = n;
  }
  return !b->status;
}

static void window_attrs(th_rule *r, const window *w, th_attr *out) {
  th_context *c = th_ctx(r->b);
  out[0] = th_make_ints(c, w->kernel, 2);
  out[1] = th_make_ints(c, w->stride, 2);
  out[2] = th_make_ints(c, w->padding, 2);
  out[3] = th_make_ints(c, w->dilation, 2);
  out[4] = th_make_ints(c, w->shape, 2);
}

void th__lower_max_pool2d(th_rule *r) {
  window w;
  th_attr attrs[5];
  if (!window_of(r, r->in[0], &w)) return;
  window_attrs(r, &w, attrs);
  th_op *op = th_build(r->b, TH_OP_window_max, r->in, 1, attrs);
  if (!op) return;
  th_rule_return(r, op->result);
  if (th_op_spec_get(r->kind)->n_results == 2) th_rule_return(r, op->result + 1);
}

void th__lower_avg_pool2d(th_rule *r) {
  window w;
  th_attr attrs[5];
  th_builder *b = r->b;
  if (!window_of(r, r->in[0], &w)) return;
  window_attrs(r, &w, attrs);
  th_value given = r->in[0], x = th_up(b, given);
  th_value sum = th_build1(b, TH_OP_window_sum, &x, 1, attrs), count;
  if (b->status) return;
  bool padded = !th_dim_is(th_ctx(b), w.padding[0], 0) || !th_dim_is(th_ctx(b), w.padding[1], 0) || th_rule_bool(r, "ceil_mode");
  if (th_rule_has(r, "divisor_override")) {
    count = th_broadcast_like(b, th_const_dim(b, th_rule_dim(r, "divisor_override"), th_dtype_of(b, sum)), sum);
  } else if (!padded || (th_rule_bool(r, "count_include_pad") && !th_rule_bool(r, "ceil_mode"))) {
    count = th_broadcast_like(b, th_const_dim(b, th_dim_mul(th_ctx(b), w.kernel[0], w.kernel[1]), th_dtype_of(b, sum)), sum);
  } else { /* how many elements each window covers: of the input, or of the padded input within its bounds */
    th_type t = th_rule_type(b, x);
    th_value ones = th_like(b, 1, x);
    if (th_rule_bool(r, "count_include_pad")) {
      th_dim low[TH_MAX_RANK];
      for (uint32_t i = 0; i < t.rank; i++) low[i] = i + 2 < t.rank ? th_k(b, 0) : w.padding[i + 2 - t.rank];
      ones = th_pad(b, ones, th_const(b, 1, t.dtype), low, low, NULL);
      attrs[2] = th_make_int64s(th_ctx(b), (int64_t[]){0, 0}, 2);
    }
    count = th_build1(b, TH_OP_window_sum, &ones, 1, attrs);
  }
  th_rule_return(r, th_convert(b, th_div(b, sum, count), th_dtype_of(b, given)));
}

/* Window i covers [floor(i n / m), ceil((i + 1) n / m)): a contraction with a 0/1 matrix per dimension when the windows
 * are unequal, plain windows when m divides n. */
static th_value adaptive_axis(th_builder *b, th_value x, uint32_t dim, int64_t m) {
  if (b->status) return TH_NO_VALUE;
  th_type t = th_rule_type(b, x);
  int64_t n;
  if (m == 1) { /* the mean, of whatever size */
    th_value sum = th_reduce(b, TH_OP_reduce_sum, x, (int64_t[]){dim}, 1, true);
    return th_div(b, sum, th_broadcast_to(b, th_const_dim(b, t.dims[dim], t.dtype), th_type_of(b->trace, sum)->dims, t.rank));
  }
  if (!th_dim_is_const(th_ctx(b), t.dims[dim], &n) || m < 1) {
    th_fail(b, TH_ERROR(UNIMPLEMENTED, "adaptive pooling wants constant sizes"));
    return TH_NO_VALUE;
  }
  if (n % m == 0) {
    th_dim dims[TH_MAX_RANK + 1];
    uint32_t k = 0;
    for (uint32_t i = 0; i < t.rank; i++) {
      if (i == dim) {
        dims[k++] = th_k(b, m);
        dims[k++] = th_k(b, n / m);
      } else {
        dims[k++] = t.dims[i];
      }
    }
    th_value sum = th_reduce(b, TH_OP_reduce_sum, th_reshape(b, x, dims, k), (int64_t[]){dim + 1}, 1, false);
    return th_div(b, sum, th_like(b, (double)(n / m), sum));
  }
  th_dim shape[2] = {th_k(b, m), th_k(b, n)};
  th_value i = th_iota(b, shape, 2, 0, TH_DTYPE_i64), k = th_iota(b, shape, 2, 1, TH_DTYPE_i64);
  th_value from = th_div(b, th_mul_scalar(b, i, (double)n), th_like(b, (double)m, i));
  th_value to = th_div(b, th_add_scalar(b, th_mul_scalar(b, th_add_scalar(b, i, 1), (double)n), (double)(m - 1)), th_like(b, (double)m, i));
  th_value inside = th_convert(b, th_and(b, th_ge(b, k, from), th_lt(b, k, to)), t.dtype);
  th_value weight = th_div(b, inside, th_convert(b, th_sub(b, to, from), t.dtype));
  th_value y = th_dot(b, x, weight, NULL, NULL, 0, (int64_t[]){dim}, (int64_t[]){1}, 1); /* m comes last */
  int64_t p[TH_MAX_RANK];
  for (uint32_t d = 0; d < t.rank; d++) p[d] = d < dim ? d : d == dim ? (int64_t)t.rank - 1 : d - 1;
  return th_transpose(b, y, p);
}

void th__lower_adaptive_avg_pool2d(th_rule *r) {
  th_value x = th_up(r->b, r->in[0]);
  uint32_t rank = th_rank(r->b, x);
  const th_dim *size = th_rule_sizes(r, "output_size", 2);
  int64_t m;
  if (rank < 3) th_rule_fail(r, "the input has rank %u, want 3 or 4", rank);
  for (uint32_t i = 0; i < 2 && !r->b->status; i++) {
    if (!th_dim_is_const(th_ctx(r->b), size[i], &m)) th_rule_refuse(r, "output_size must be constants");
    else x = adaptive_axis(r->b, x, rank - 2 + i, m);
  }
  th_rule_return(r, th_convert(r->b, x, th_dtype_of(r->b, r->in[0])));
}
