/* A loaded executable; made by load.c, run by execute.c, host.c and cuda/. */
#ifndef THUNDER_EXECUTORS_RUN_PROGRAM_H
#define THUNDER_EXECUTORS_RUN_PROGRAM_H

#include <pthread.h>
#include <stdatomic.h>

#include "executors/run/library.h"
#include "executors/run/thunder.h"
#include "collectives/channel.h"
#include "proto/plan.pb-c.h"

enum { TH_EXPR_CONST, TH_EXPR_SYMBOL, TH_EXPR_ADD, TH_EXPR_SUB, TH_EXPR_MUL, TH_EXPR_FLOORDIV, TH_EXPR_MOD, TH_EXPR_MIN, TH_EXPR_MAX, TH_EXPR_SIZE, TH_EXPR_INTEGER, TH_EXPR_RANK, TH_EXPR_WORLD };
enum { TH_BUFFER_BORROWED = 1, TH_BUFFER_ESCAPING, TH_BUFFER_ARENA, TH_BUFFER_CONSTANT, TH_BUFFER_STAGED };
enum { TH_INSTR_KERNEL = 1, TH_INSTR_LIBRARY, TH_INSTR_START, TH_INSTR_WAIT, TH_INSTR_COPY, TH_INSTR_FILL, TH_INSTR_SCALARS };
enum { TH_DEVICE_HOST = 1, TH_DEVICE_CUDA = 2 }; /* DLPack's numbers */
enum { TH_INPUT_FLAG_DONATED = 1, TH_INPUT_FLAG_HOST = 4 };

typedef struct th_scalars th_scalars;           /* scalar.c */
typedef struct th_cuda_program th_cuda_program; /* cuda/program.h */
typedef struct th_collective_target { th_collective_kind kind; th_reduce reduce; } th_collective_target;

struct th_plan {
  const th_program *program;
  const Thunder__Wire__Plan *wire; /* checked */
  uint32_t index;                  /* of its program */
  int32_t device;                  /* TH_DEVICE_… */
  th_kernel *kernels;              /* by kernel number; of plans for the host */
  th_library_fn *functions;        /* by instruction; NULL elsewhere */
  th_collective_target *collectives; /* by instruction */
  th_scalars **scalars;            /* by instruction; NULL elsewhere */
  bool *written;                   /* by input: an instruction writes it */
  bool dynamic;                    /* expressions change from call to call */
  _Atomic bool no_graph;           /* a capture of its steps failed: launch by launch from then on */
  uint32_t *escaping;              /* buffers of kind escaping */
  uint32_t n_escaping;
  char **_Atomic labels;           /* of the regions' ranges (profile.h); NULL: none were given */
  int64_t *values;                 /* of expressions, when they are the same in every call; else NULL */
  pthread_mutex_t lock;            /* of what follows */
  void *arena;                     /* kept between calls; taken by one at a time */
  size_t arena_bytes;
};

struct th_program {
  Thunder__Wire__Executable *wire;
  void **modules; /* dlopen'ed; NULL for those that are for a device */
  size_t n_plans;
  th_plan *plans;
  pthread_mutex_t lock;
  th_cuda_program *cuda; /* under lock: what it has on each device that it ran on */
};

/* The job's channel, opened at first use. */
th_status th_world_channel(th_channel **out);

#endif
