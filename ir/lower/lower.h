/* Lowering rules: what each op of level 1 is in lower terms. One function a rule, th__lower_<name>, named in ops.def.
 *
 * A rule reads its operands and attributes from a th_rule and builds its results with the builder. Rules may build
 * other level 1 ops; whoever lowers goes on until what is left suits it. The types of a level 1 op's results are those
 * its rule gives, so the rules are also PyTorch's promotion, broadcasting and shape checks. */
#ifndef THUNDER_IR_LOWER_LOWER_H
#define THUNDER_IR_LOWER_LOWER_H

#include "ir/build.h"

enum { TH_MAX_RESULTS = 4096 };

typedef struct th_rule {
  th_builder *b;
  th_op_kind kind;
  const th_attr *attrs;
  const th_value *in;  /* operands, TH_NO_VALUE where absent */
  uint32_t n_in;
  th_value *out;       /* results, capacity TH_MAX_RESULTS */
  uint32_t n_out;
  const th_trace *source; /* where graphs named by attributes are; may be the trace being built */
} th_rule;

typedef void (*th_lower_rule)(th_rule *r);

#define TH_OP(id, name_, level_, o_, operands_, attrs_, results_, traits_, lower_, vjp_, doc_) void th__lower_##lower_(th_rule *r);
#include "ir/ops.def"
#undef TH_OP
#define th__lower_none NULL

/* The result of a rule with one. */
static inline void th_rule_return(th_rule *r, th_value value) { r->out[r->n_out++] = value; }

const th_attr *th_rule_attr(const th_rule *r, const char *name);
bool th_rule_has(const th_rule *r, const char *name); /* the attribute is there */
double th_rule_float(th_rule *r, const char *name); /* as th_rule_int; NaN when it is absent */
bool th_rule_bool(const th_rule *r, const char *name);
int64_t th_rule_int(th_rule *r, const char *name); /* fails the rule when it is no constant */
th_dim th_rule_dim(const th_rule *r, const char *name);
th_dtype th_rule_dtype(const th_rule *r, const char *name, th_dtype fallback);
/* Dimension numbers wrapped for `rank`; an absent or empty list gives all. Returns how many. */
uint32_t th_rule_dims(th_rule *r, const char *name, uint32_t rank, int64_t *out);
/* A list of n sizes; a list of one is repeated. */
const th_dim *th_rule_sizes(th_rule *r, const char *name, uint32_t n);
/* Fails the rule: INVALID_ARGUMENT "op torch.x: text". */
void th_rule_fail(th_rule *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for what PyTorch allows and no rule can do (yet): UNIMPLEMENTED, so that the client runs it in eager PyTorch. */
void th_rule_refuse(th_rule *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

th_status th_infer_by_lowering(th_trace *trace, th_op_kind kind, const th_value *operands, uint32_t n, const th_attr *attrs,
                               th_type *out_types, uint32_t capacity, uint32_t *out_count);
th_lower_rule th_lower_rule_get(th_op_kind kind); /* NULL: none */

/* The run-time inputs of random ops: graph 0's inputs of kind seed and offset, added when there are none. */
th_value th_seed(th_builder *b);
th_value th_offset(th_builder *b);

#endif
