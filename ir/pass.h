/* Passes: trace in, trace out. One file each in ir/passes/ (or in an executor), listed in pipeline order in
 * ir/passes/passes.def. A pass does not change its input; it makes a new trace in the same context.
 * Threads: thread-compatible. */
#ifndef THUNDER_IR_PASS_H
#define THUNDER_IR_PASS_H

#include "ir/build.h"

typedef enum th_mode { TH_MODE_FORWARD, TH_MODE_FORWARD_BACKWARD, TH_MODE_TRAIN_STEP } th_mode;
typedef enum th_phase { TH_PHASE_UPDATE, TH_PHASE_ACCUMULATE, TH_PHASE_FLUSH } th_phase;
typedef enum th_optimizer { TH_OPTIMIZER_NONE, TH_OPTIMIZER_SGD, TH_OPTIMIZER_ADAM, TH_OPTIMIZER_ADAMW } th_optimizer;

typedef struct th_group { /* compile.proto, Group */
  bool nesterov, momentum, amsgrad, maximize, weight_decay, first_step;
} th_group;

typedef struct th_target {
  const char *name;     /* "cpu", "cuda" */
  const char *arch;     /* "x86-64-v3"; "sm_90", "simt" (CUDA kernels run by the host, for tests) */
  uint32_t threads;     /* of a rank */
  uint64_t memory;      /* bytes; 0 unknown */
  uint32_t sms;         /* multiprocessors of a GPU; 0 unknown */
  uint64_t shared;      /* bytes of shared memory that a block may have; 0 unknown */
  uint64_t l2;          /* bytes of its L2 cache; 0 unknown */
  uint32_t n_libraries;
  const char *const *libraries; /* "cudnn=9.19.0": versions found in the rank */
} th_target;

typedef struct th_executor th_executor; /* ir/executor.h */

typedef struct th_options { /* what a compile is asked for, decoded (compile.proto) */
  th_mode mode;
  th_phase phase;
  th_optimizer optimizer;
  bool clip, accumulates, deterministic;
  bool loss_scale; /* gradients are made of the scaled loss; an update that is not finite is skipped (pass optimizer) */
  bool tf32; /* products of f32 may be made in TF32 */
  uint32_t loss_output;
  uint32_t n_groups, n_param_group;
  const th_group *groups;
  const uint32_t *param_group; /* for each trainable parameter input, in order */
  uint32_t world;              /* ranks of the mesh axis "dp" */
  uint64_t bucket_bytes;
  uint64_t chunk_bytes;        /* at most, of what a product holds at a time where it can be made in parts (pass chunk); 0: the default */
  uint64_t memory_limit;       /* bytes that the plan may need in all, its inputs too; 0: what the target has */
  uint64_t live_limit;         /* bytes at a time of what the plan makes itself (pass remat, an estimate); th_pipeline_run sets it from memory_limit; 0: none */
  uint32_t n_executors;
  const th_executor *const *executors; /* in order of priority */
  uint32_t n_disabled;
  const char *const *disabled; /* passes that are left out (tests, debugging) */
  th_target target;
} th_options;

static inline bool th_target_is_cuda(const th_options *options) { return options->target.name[0] == 'c' && options->target.name[1] == 'u'; }
/* Plan.device: where its memory is (DLPack's numbers). */
static inline uint32_t th_target_device(const th_options *options) { return th_target_is_cuda(options) && options->target.arch[1] == 'm' ? 2 : 1; }

typedef th_status (*th_pass_run)(const th_options *options, const th_trace *in, th_trace **out);
typedef struct th_pass {
  const char *name, *why;
  th_level level; /* of what it makes */
  th_pass_run run;
  bool (*wanted)(const th_options *options); /* NULL: always */
} th_pass;

/* ---- Rewriting: the frame most passes share -------------------------------------------------------------------------
 * A rewriter copies a trace op by op. The pass loops over the ops of a graph, and for each either clones it or emits
 * something else and says what its results became. */
typedef struct th_rewriter {
  const th_trace *from;
  th_builder b;   /* into the new trace; b.graph is the graph being written */
  th_value *map;  /* (from->n_values) value of `from` -> value of the new trace; TH_NO_VALUE: not yet */
} th_rewriter;

/* A new trace with the graphs of `from` (empty), graph inputs copied and mapped, the signature's inputs copied. */
th_rewriter th_rewrite_begin(const th_trace *from);
/* Stamps no_grad, autocast, origin of `op` on what is built next. */
void th_rewrite_at(th_rewriter *r, const th_op *op);
/* Copies `op` with its operands mapped (types as they are, no inference); maps its results. */
th_op *th_rewrite_clone(th_rewriter *r, const th_op *op);
/* The same with these operands, values of the new trace. */
th_op *th_rewrite_clone_with(th_rewriter *r, const th_op *op, const th_value *operands);
static inline void th_rewrite_map(th_rewriter *r, th_value from, th_value to) { r->map[from] = to; }
static inline th_value th_rewrite_value(const th_rewriter *r, th_value v) { return v == TH_NO_VALUE ? v : r->map[v]; }
/* Maps the outputs of graph `graph` and sets them; for graph 0 copies the signature's outputs too. */
void th_rewrite_outputs(th_rewriter *r, uint32_t graph);
/* Clones a whole graph (ops and outputs) unchanged. */
void th_rewrite_graph(th_rewriter *r, uint32_t graph);
/* For passes after which bodies are others' or nobody's: a new trace with graph 0 only, and the same op with copies of its bodies. */
th_rewriter th_rewrite_begin_main(const th_trace *from);
th_op *th_rewrite_clone_deep(th_rewriter *r, const th_op *op);
/* Appends inputs, or ops, of graph `graph` of `from` to graph b.graph. */
void th_rewrite_append_inputs(th_rewriter *r, uint32_t graph);
void th_rewrite_append_ops(th_rewriter *r, uint32_t graph);
/* The new trace, or the first failure. */
th_status th_rewrite_finish(th_rewriter *r, th_trace **out);
/* Copies the ops of graph `graph` of `from` into the builder's graph with inputs bound to `in`; results into `out`
 * (one for each output of the graph). Used to inline bodies. */
th_status th_inline(th_builder *b, const th_trace *from, uint32_t graph, const th_value *in, th_value *out);

/* What a pipeline gives: one trace for each plan of the mode ("forward"; "forward" and "backward"; "step"). */
typedef struct th_plans {
  size_t n;
  const char *names[2];
  th_trace *traces[2];
} th_plans;

/* Runs the pipeline up to and including the pass `last` (NULL: all). `after`, when not NULL, sees the trace of each plan
 * after each pass. */
typedef void (*th_pass_observer)(void *user, const char *plan, const char *pass, const th_trace *trace, uint64_t ns);
th_status th_pipeline_run(const th_options *options, const th_trace *in, const char *last, th_pass_observer after, void *user,
                          th_plans *out);
/* What `pass` made, checked against the rules of its level (and, for a plan, played through). th_pipeline_run does so after
 * every pass where THUNDER_VERIFY=1 is set. INTERNAL, naming the rule. */
th_status th_pass_verify(const th_options *options, const th_pass *pass, const th_trace *made);
/* The pass called `name`; NULL when there is none. Position i of the pipeline; NULL past its end. */
const th_pass *th_pass_find(const char *name);
const th_pass *th_pass_at(size_t i);
#endif
