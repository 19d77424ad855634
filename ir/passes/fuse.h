/* Inside of fuse: its groups, and what its files ask each other. fuse.c grows and writes them; fuse_free.c says what belongs to none,
 * fuse_again.c what readers compute themselves. */
#ifndef THUNDER_IR_PASSES_FUSE_H
#define THUNDER_IR_PASSES_FUSE_H

#include "ir/executor.h"
#include "ir/passes/passes.h"

typedef enum kind { OUTSIDE, PLAIN, ROWS, COLUMNS, WHOLE, ALONE } kind;
enum { MAX_OPS = 256, MAX_RESULTS = 64 /* executors/cpu/codegen.c */, MAX_OPERANDS = 1024, MAX_SUMS = 16 /* executors/cuda/cuda.h */ };
_Static_assert(3 * MAX_OPS <= MAX_OPERANDS, "an op that others join reads three values at most");

typedef struct group {
  kind kind;
  th_type shape, kept;      /* domain; what its reductions keep */
  const th_attr *dims;      /* of its reductions */
  size_t n_ops, ops_capacity, n_deps, deps_capacity;
  uint32_t *ops, *deps;     /* positions in graph 0, rising; groups it reads from */
  uint32_t mark;            /* of a search */
  uint32_t height;          /* above that of each group it reads from: where a search may stop */
  uint32_t *readers;        /* groups that read from it */
  size_t n_readers, readers_capacity;
  bool written;             /* already in the new trace */
  bool host;                /* numbers in host memory */
  bool slow;                /* a number on a device, and not a cheap one */
  const th_op *rows, *columns; /* its first reduction of rows; of columns or of everything */
  uint32_t n_late;          /* ops whose results are known only when all elements are: reductions of columns and of everything */
  uint32_t into;            /* the group it became part of, plus 1; 0: it is one of its own */
} group;

typedef struct users { uint32_t *ops; size_t n, capacity; bool leaves; } users;

typedef struct fuser {
  const th_options *options;
  const th_trace *t;
  th_context *c;
  th_arena *a;
  const th_graph *g;
  group *groups;
  size_t n_groups, groups_capacity;
  uint32_t *group_of;       /* by op; TH_NONE: free */
  uint32_t *position;       /* by value: its op; TH_NONE for inputs */
  bool *moved;              /* by op: a part on its way into a whole, free */
  bool *late;               /* by op: known only when all elements of its group are (executors that keep such sums beside elements) */
  const th_executor *main;  /* that makes most kernels: the first one */
  users *users;             /* by value that is no free op's: who reads it, free ops looked through */
  uint32_t search;
  th_rewriter r;
  th_value *local, *operand; /* by value: its copy in the body being written; the body's operand that is it or a barrier on it; */
  uint32_t *stamp, *operand_stamp, now; /* where these say `now` */
  uint8_t *again;           /* by value: do readers in other groups compute it themselves? 0: not asked yet, 1: yes, 2: no */
  bool *needed;             /* by value: read by such a copy in another group */
} fuser;

static inline th_op *op_of(const fuser *f, th_value v) { return f->t->values[v].def; }
static inline bool is_kernel(const fuser *f, uint32_t g) { return f->groups[g].kind != OUTSIDE && f->groups[g].kind != ALONE && !f->groups[g].host; }

/* ---- fuse.c ---- */

uint32_t th__fuse_whole(const fuser *f, uint32_t g);         /* the group that g became part of */
void th__fuse_add_dep(fuser *f, uint32_t g, uint32_t on);

/* ---- fuse_free.c ---- */

/* What costs nothing: constants, iota, broadcasts, reshapes that only add or drop dimensions of size 1, parts on their way into a whole. */
bool th__fuse_is_free(fuser *f, const th_op *op);
/* The value behind free ops; TH_NO_VALUE when there is none (a constant). */
th_value th__fuse_behind(fuser *f, th_value v);
void th__fuse_find_moved(fuser *f);                          /* fuser.moved */
bool th__fuse_is_moved(const fuser *f, const th_op *op);
bool th__fuse_moves_from(fuser *f, const th_op *op, uint32_t g); /* does op read what group g makes at another index? */

/* ---- fuse_again.c ---- */

bool th__fuse_is_again(fuser *f, th_value v);                /* fuser.again */
/* What copies read is handed out (fuser.needed), and the groups that have the copies come after those that it is from. */
void th__fuse_mark_needed(fuser *f);

#endif
