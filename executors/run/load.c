/* Loading: an Executable is decoded and every index in it checked, its modules are opened from memory, its names resolved. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "executors/run/cuda/program.h"
#include "executors/run/run.h"

#define BAD(...) TH_ERROR(INVALID_ARGUMENT, "plan: " __VA_ARGS__)

static th_status same(const char *name, size_t have, size_t want) { return have == want ? TH_OK : BAD("%s has %zu entries, want %zu", name, have, want); }

static th_status below(const char *name, const uint32_t *at, size_t n, size_t limit) {
  for (size_t i = 0; i < n; i++)
    if (at[i] >= limit) return BAD("entry %zu of %s is %u, want less than %zu", i, name, at[i], limit);
  return TH_OK;
}

static th_status ranges(const char *name, const uint32_t *begin, size_t n, size_t entries, size_t pool) {
  TH_TRY(same(name, n, entries + 1));
  if (begin[0] || begin[entries] != pool) return BAD("%s goes from %u to %u, want 0 to %zu", name, begin[0], begin[entries], pool);
  for (size_t i = 0; i < entries; i++)
    if (begin[i] > begin[i + 1]) return BAD("%s falls at entry %zu", name, i);
  return TH_OK;
}

static th_status check_exprs(const Thunder__Wire__Plan *p) {
  TH_TRY(same("expr_a", p->n_expr_a, p->n_expr_kind));
  TH_TRY(same("expr_b", p->n_expr_b, p->n_expr_kind));
  TH_TRY(below("symbol_value", p->symbol_value, p->n_symbol_value, p->n_expr_kind));
  for (size_t i = 0; i < p->n_expr_kind; i++) {
    uint32_t k = p->expr_kind[i];
    int64_t a = p->expr_a[i], b = p->expr_b[i];
    bool ok = k <= TH_EXPR_WORLD;
    if (k == TH_EXPR_SYMBOL) ok = a >= 0 && (uint64_t)a < p->n_symbol_value && p->expr_kind[p->symbol_value[a]] != TH_EXPR_SYMBOL;
    else if (k >= TH_EXPR_ADD && k <= TH_EXPR_MAX) ok = a >= 0 && b >= 0 && (uint64_t)a < i && (uint64_t)b < i;
    else if (k == TH_EXPR_SIZE || k == TH_EXPR_INTEGER) ok = a >= 0 && (uint64_t)a < p->n_input_tensor;
    if (!ok) return BAD("expression %zu is of kind %u with operands %" PRId64 " and %" PRId64, i, k, a, b);
  }
  TH_TRY(below("equal", p->equal, p->n_equal, p->n_expr_kind));
  if (p->n_equal % 2) return BAD("equal has %zu entries, want pairs", p->n_equal);
  for (size_t i = 0; i < p->n_symbol_value; i++) { /* symbols come from the outside, directly */
    uint32_t k = p->expr_kind[p->symbol_value[i]];
    if (k != TH_EXPR_CONST && k != TH_EXPR_SIZE && k != TH_EXPR_INTEGER) return BAD("symbol %zu is given by an expression of kind %u", i, k);
  }
  return TH_OK;
}

static th_status check_buffers(const Thunder__Wire__Plan *p) {
  size_t n = p->n_buffer_kind;
  TH_TRY(same("buffer_index", p->n_buffer_index, n));
  TH_TRY(same("buffer_offset", p->n_buffer_offset, n));
  TH_TRY(same("buffer_size", p->n_buffer_size, n));
  TH_TRY(below("buffer_offset", p->buffer_offset, n, p->n_expr_kind));
  TH_TRY(below("buffer_size", p->buffer_size, n, p->n_expr_kind));
  for (size_t i = 0; i < n; i++) {
    uint32_t kind = p->buffer_kind[i];
    size_t limit = kind == TH_BUFFER_BORROWED ? p->n_input_tensor : kind == TH_BUFFER_ESCAPING ? p->n_output_tensor : kind == TH_BUFFER_ARENA ? 1 : kind == TH_BUFFER_CONSTANT ? p->n_constants : kind == TH_BUFFER_STAGED ? 1 : 0;
    if (p->buffer_index[i] >= limit) return BAD("buffer %zu of kind %u has index %u", i, kind, p->buffer_index[i]);
    if (kind == TH_BUFFER_STAGED && !p->has_staged_size) return BAD("buffer %zu is staged, and the plan has no staged_size", i);
  }
  size_t t = p->n_tensor_dtype;
  TH_TRY(same("tensor_buffer", p->n_tensor_buffer, t));
  TH_TRY(same("tensor_offset", p->n_tensor_offset, t));
  TH_TRY(same("tensor_strides", p->n_tensor_strides, p->n_tensor_dims));
  TH_TRY(ranges("tensor_dims_begin", p->tensor_dims_begin, p->n_tensor_dims_begin, t, p->n_tensor_dims));
  TH_TRY(below("tensor_buffer", p->tensor_buffer, t, n));
  TH_TRY(below("tensor_offset", p->tensor_offset, t, p->n_expr_kind));
  TH_TRY(below("tensor_dims", p->tensor_dims, p->n_tensor_dims, p->n_expr_kind));
  TH_TRY(below("tensor_strides", p->tensor_strides, p->n_tensor_strides, p->n_expr_kind));
  for (size_t i = 0; i < t; i++) {
    if (p->tensor_dims_begin[i + 1] - p->tensor_dims_begin[i] > TH_RUN_RANK) return BAD("tensor %zu has more than %d dimensions", i, TH_RUN_RANK);
    if (p->tensor_dtype[i] > 255 || th_dtype_from_wire((int)p->tensor_dtype[i]) == TH_DTYPE_none) return BAD("tensor %zu is of dtype %u", i, p->tensor_dtype[i]);
  }
  return TH_OK;
}

/* In a plan for a device the instructions of the device take what is there (or staged), scalars what the host has. */
static th_status check_places(const Thunder__Wire__Plan *p) {
  for (size_t i = 0; i < p->n_expr_kind; i++)
    if (p->expr_kind[i] == TH_EXPR_INTEGER && !th__input_on_host(p, (uint32_t)p->expr_a[i])) return BAD("expression %zu is the value of input %" PRId64 ", which is on the device", i, p->expr_a[i]);
  for (size_t i = 0; i < p->n_instr_kind; i++) {
    uint32_t begin = p->instr_tensors_begin[i], n = p->instr_tensors_begin[i + 1] - begin, extra = p->n_instr_scratch && p->instr_scratch[i];
    bool scalars = p->instr_kind[i] == TH_INSTR_SCALARS;
    for (uint32_t k = 0; k < n + extra; k++) {
      uint32_t b = p->tensor_buffer[k < n ? p->instr_tensors[begin + k] : p->instr_scratch[i] - 1], kind = p->buffer_kind[b], index = p->buffer_index[b];
      bool on_host = kind == TH_BUFFER_BORROWED && th__input_on_host(p, index), result = k >= n - p->instr_outputs[i];
      bool ok = scalars ? on_host || kind == TH_BUFFER_STAGED || (kind == TH_BUFFER_CONSTANT && !result) : !on_host && !(result && (kind == TH_BUFFER_STAGED || kind == TH_BUFFER_CONSTANT));
      if (!ok) return BAD("instruction %zu of kind %u: tensor %u lies in a buffer of kind %u %s", i, p->instr_kind[i], k, kind, on_host ? "in host memory" : "that it cannot use");
    }
  }
  return TH_OK;
}

static th_status check_plan(const Thunder__Wire__Plan *p, size_t n_modules) {
  if (!p->name) return BAD("a plan has no name");
  TH_TRY(check_exprs(p));
  TH_TRY(check_buffers(p));
  TH_TRY(below("input_tensor", p->input_tensor, p->n_input_tensor, p->n_tensor_dtype));
  TH_TRY(same("input_kind", p->n_input_kind, p->n_input_tensor));
  TH_TRY(same("input_flags", p->n_input_flags, p->n_input_tensor));
  for (size_t i = 0; i < p->n_input_tensor; i++) {
    uint32_t b = p->tensor_buffer[p->input_tensor[i]];
    if (p->buffer_kind[b] != TH_BUFFER_BORROWED || p->buffer_index[b] != i) return BAD("input %zu does not lie in its own buffer", i);
  }
  for (size_t i = 0; i < p->n_expr_kind; i++)
    if (p->expr_kind[i] == TH_EXPR_SIZE) {
      uint32_t t = p->input_tensor[p->expr_a[i]];
      if (p->expr_b[i] < 0 || p->expr_b[i] >= (int64_t)(p->tensor_dims_begin[t + 1] - p->tensor_dims_begin[t])) return BAD("expression %zu asks for dimension %" PRId64 " of input %" PRId64, i, p->expr_b[i], p->expr_a[i]);
    }
  TH_TRY(below("output_tensor", p->output_tensor, p->n_output_tensor, p->n_tensor_dtype));
  TH_TRY(same("output_kind", p->n_output_kind, p->n_output_tensor));
  TH_TRY(same("output_base", p->n_output_base, p->n_output_tensor));
  for (size_t i = 0; i < p->n_output_tensor; i++) { /* 1 input, 2 view of input, 4 written back; 3 view of output; a gradient's base is the forward half's */
    uint32_t kind = p->output_kind[i], base = p->output_base[i];
    if (kind > 6 || (kind == 3 ? base >= p->n_output_tensor : (kind == 1 || kind == 2 || kind == 4) && base >= p->n_input_tensor))
      return BAD("output %zu is of kind %u with base %u", i, kind, base);
  }
  TH_TRY(same("memory_op", p->n_memory_op, p->n_memory_kind));
  TH_TRY(same("memory_count", p->n_memory_count, p->n_memory_kind));
  TH_TRY(same("memory_bytes", p->n_memory_bytes, p->n_memory_kind));
  size_t n = p->n_instr_kind;
  TH_TRY(same("instr_target", p->n_instr_target, n));
  TH_TRY(same("instr_outputs", p->n_instr_outputs, n));
  TH_TRY(same("instr_op", p->n_instr_op, n));
  TH_TRY(ranges("instr_tensors_begin", p->instr_tensors_begin, p->n_instr_tensors_begin, n, p->n_instr_tensors));
  TH_TRY(ranges("instr_ints_begin", p->instr_ints_begin, p->n_instr_ints_begin, n, p->n_instr_ints));
  TH_TRY(ranges("instr_floats_begin", p->instr_floats_begin, p->n_instr_floats_begin, n, p->n_instr_floats));
  TH_TRY(below("instr_tensors", p->instr_tensors, p->n_instr_tensors, p->n_tensor_dtype));
  TH_TRY(below("instr_ints", p->instr_ints, p->n_instr_ints, p->n_expr_kind));
  TH_TRY(same("kernel_symbol", p->n_kernel_symbol, p->n_kernel_module));
  TH_TRY(below("kernel_module", p->kernel_module, p->n_kernel_module, n_modules));
  for (size_t i = 0; i < n; i++) {
    uint32_t kind = p->instr_kind[i], target = p->instr_target[i], tensors = p->instr_tensors_begin[i + 1] - p->instr_tensors_begin[i];
    bool named = kind == TH_INSTR_LIBRARY || kind == TH_INSTR_START;
    bool ok = kind >= TH_INSTR_KERNEL && kind <= TH_INSTR_SCALARS && p->instr_outputs[i] <= tensors;
    if (kind == TH_INSTR_KERNEL) ok &= target < p->n_kernel_symbol;
    if (named) ok &= target < p->n_strings;
    if (kind == TH_INSTR_START) ok &= tensors == 2 * p->instr_outputs[i];
    if (kind == TH_INSTR_WAIT) ok &= target < i && p->instr_kind[target] == TH_INSTR_START;
    if (kind == TH_INSTR_COPY) ok &= tensors == 2;
    if (kind == TH_INSTR_FILL) ok &= tensors == 1 && (p->instr_ints_begin[i + 1] - p->instr_ints_begin[i] == 1 || p->instr_floats_begin[i + 1] - p->instr_floats_begin[i] == 1);
    if (kind == TH_INSTR_LIBRARY) ok &= p->instr_floats_begin[i + 1] - p->instr_floats_begin[i] == 2;
    if (!ok) return BAD("instruction %zu of kind %u, target %u, %u tensors", i, kind, target, tensors);
  }
  if (!p->has_arena_size || p->arena_size >= p->n_expr_kind) return BAD("arena_size is no expression");
  if (p->has_staged_size && p->staged_size >= p->n_expr_kind) return BAD("staged_size is no expression");
  if (p->n_instr_scratch) TH_TRY(same("instr_scratch", p->n_instr_scratch, n));
  if (p->n_instr_blob) TH_TRY(same("instr_blob", p->n_instr_blob, n));
  TH_TRY(below("instr_scratch", p->instr_scratch, p->n_instr_scratch, p->n_tensor_dtype + 1));
  TH_TRY(below("instr_blob", p->instr_blob, p->n_instr_blob, n_modules + 1));
  if (p->device != TH_DEVICE_HOST && p->device != TH_DEVICE_CUDA) return TH_ERROR(UNIMPLEMENTED, "plan: it is for a device of kind %u; this runtime has 1 (host) and 2 (CUDA)", p->device);
  if (p->device == TH_DEVICE_CUDA) TH_TRY(check_places(p));
  for (size_t i = 0; i < n; i++) /* a launch: blocks in x and y, threads, shared memory */
    if (p->device == TH_DEVICE_CUDA && p->instr_kind[i] == TH_INSTR_KERNEL && p->instr_ints_begin[i + 1] - p->instr_ints_begin[i] < 4) return BAD("instruction %zu is a kernel without a launch", i);
  return TH_OK;
}

static bool is_kind(const Thunder__Wire__Module *m, const char *kind) { return m->kind && !strcmp(m->kind, kind); }

static th_status open_module(const Thunder__Wire__Module *m, void **out) {
  static _Atomic unsigned loaded;
  char path[128];
  if (is_kind(m, "cubin") || is_kind(m, "cudnn-plan")) return TH_OK; /* by the device that runs it */
  if (!is_kind(m, "elf-so")) return TH_ERROR(UNIMPLEMENTED, "plan: a module of kind \"%.40s\"; this runtime loads elf-so, cubin and cudnn-plan", m->kind ? m->kind : "");
  int fd = memfd_create("thunder-kernels", MFD_CLOEXEC);
  if (fd < 0) return TH_ERROR(UNAVAILABLE, "memfd_create: %s", strerror(errno));
  for (size_t done = 0; done < m->code.len;) {
    ssize_t n = write(fd, m->code.data + done, m->code.len - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      close(fd);
      return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for generated code: %s", strerror(errno));
    }
    done += (size_t)n;
  }
  /* The loader takes a name it has seen for the library it has seen, and descriptor numbers come back: each load spells
   * its path in a way of its own ("//" or "/." for each bit of a counter). */
  size_t n = (size_t)snprintf(path, sizeof path, "/proc/self");
  for (unsigned k = loaded++, i = 0; i < 32; i++, n += 2) memcpy(path + n, k >> i & 1 ? "/." : "//", 2);
  snprintf(path + n, sizeof path - n, "/fd/%d", fd);
  *out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const char *why = *out ? NULL : dlerror();
  close(fd);
  return *out ? TH_OK : TH_ERROR(UNAVAILABLE, "the generated code cannot be loaded: %s", why ? why : "unknown");
}

static th_status read_collective(const char *text, th_collective_target *out) {
  char kind[32] = "", reduce[16] = "", axis[32] = "";
  if (sscanf(text, "%31[a-z_]:%15[a-z]:%31s", kind, reduce, axis) != 3 && sscanf(text, "%31[a-z_]::%31s", kind, axis) != 2) return BAD("collective \"%.60s\"", text);
  bool found = false, reduces;
  for (int k = 0; k < TH_COLLECTIVE_KIND_COUNT; k++)
    if (!strcmp(kind, th_collective_kind_name((th_collective_kind)k))) out->kind = (th_collective_kind)k, found = true;
  reduces = found && (out->kind == TH_COLLECTIVE_all_reduce || out->kind == TH_COLLECTIVE_reduce_scatter);
  for (int k = 0; reduces && k < TH_REDUCE_COUNT; k++)
    if (!strcmp(reduce, th_reduce_name((th_reduce)k))) out->reduce = (th_reduce)k, reduces = false;
  return found && !reduces ? TH_OK : BAD("collective \"%.60s\" is unknown", text);
}

static th_status resolve(th_program *x, th_plan *plan) {
  const Thunder__Wire__Plan *p = plan->wire;
  plan->kernels = calloc(p->n_kernel_symbol + 1, sizeof *plan->kernels);
  plan->functions = calloc(p->n_instr_kind + 1, sizeof *plan->functions);
  plan->collectives = calloc(p->n_instr_kind + 1, sizeof *plan->collectives);
  plan->escaping = calloc(p->n_buffer_kind + 1, sizeof *plan->escaping);
  plan->scalars = calloc(p->n_instr_kind + 1, sizeof *plan->scalars);
  plan->written = calloc(p->n_input_tensor + 1, sizeof *plan->written);
  if (!plan->kernels || !plan->functions || !plan->collectives || !plan->escaping || !plan->scalars || !plan->written) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a plan");
  const char *wanted = p->device == TH_DEVICE_CUDA ? "cubin" : "elf-so";
  for (size_t i = 0; i < p->n_kernel_symbol; i++) {
    const Thunder__Wire__Module *m = x->wire->modules[p->kernel_module[i]];
    if (!is_kind(m, wanted)) return TH_ERROR(UNIMPLEMENTED, "plan: kernel %.60s of a plan for device kind %u is in a module of kind %s, want %s", p->kernel_symbol[i], p->device, m->kind, wanted);
    if (p->device == TH_DEVICE_CUDA) continue;
    *(void **)&plan->kernels[i] = dlsym(x->modules[p->kernel_module[i]], p->kernel_symbol[i]);
    if (!plan->kernels[i]) return BAD("the generated code has no function %.60s", p->kernel_symbol[i]);
  }
  for (size_t i = 0; i < p->n_instr_kind; i++) {
    const char *name = p->instr_kind[i] == TH_INSTR_LIBRARY || p->instr_kind[i] == TH_INSTR_START ? p->strings[p->instr_target[i]] : NULL;
    if (p->instr_kind[i] == TH_INSTR_LIBRARY) {
      plan->functions[i] = !strchr(name, '.') == (p->device == TH_DEVICE_HOST) ? th_library_find(name) : NULL;
      if (!plan->functions[i]) return TH_ERROR(UNIMPLEMENTED, "plan: this runtime has no library function \"%.60s\" for device kind %u", name, p->device);
    }
    if (p->n_instr_blob && p->instr_blob[i] && !is_kind(x->wire->modules[p->instr_blob[i] - 1], "cudnn-plan")) return BAD("the blob of instruction %zu is module %u, which is none", i, p->instr_blob[i] - 1);
    if (p->instr_kind[i] == TH_INSTR_SCALARS) TH_TRY(th__scalars_decode(p, i, &plan->scalars[i]));
    for (uint32_t end = p->instr_tensors_begin[i + 1], k = end - p->instr_outputs[i]; k < end; k++) {
      uint32_t b = p->tensor_buffer[p->instr_tensors[k]];
      if (p->buffer_kind[b] == TH_BUFFER_BORROWED) plan->written[p->buffer_index[b]] = true;
    }
    if (p->instr_kind[i] == TH_INSTR_START) TH_TRY(read_collective(name, &plan->collectives[i]));
  }
  for (size_t i = 0; i < p->n_expr_kind; i++) plan->dynamic |= p->expr_kind[i] == TH_EXPR_SYMBOL || p->expr_kind[i] == TH_EXPR_SIZE || p->expr_kind[i] == TH_EXPR_INTEGER;
  for (uint32_t i = 0; i < p->n_buffer_kind; i++)
    if (p->buffer_kind[i] == TH_BUFFER_ESCAPING) plan->escaping[plan->n_escaping++] = i;
  return TH_OK;
}

static th_status load(th_program *x) {
  Thunder__Wire__Executable *w = x->wire;
  if (w->version != 1) return BAD("version %u; this runtime reads version 1", w->version);
  x->modules = calloc(w->n_modules + 1, sizeof *x->modules);
  x->plans = calloc(w->n_plans + 1, sizeof *x->plans);
  if (!x->modules || !x->plans) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a program");
  for (size_t i = 0; i < w->n_plans; i++) TH_TRY(check_plan(w->plans[i], w->n_modules));
  for (size_t i = 0; i < w->n_modules; i++) TH_TRY(open_module(w->modules[i], &x->modules[i]));
  for (size_t i = 0; i < w->n_plans; i++) {
    th_plan *plan = &x->plans[x->n_plans++];
    plan->program = x;
    plan->wire = w->plans[i];
    plan->index = (uint32_t)i;
    plan->device = (int32_t)w->plans[i]->device;
    pthread_mutex_init(&plan->lock, NULL);
    TH_TRY(resolve(x, plan));
  }
  for (size_t i = 0; i < w->n_modules; i++) { /* loaded: the bytes are not needed again, but for a device's */
    if (!x->modules[i]) continue;
    free(w->modules[i]->code.data);
    w->modules[i]->code = (ProtobufCBinaryData){0};
  }
  return TH_OK;
}

th_status th_program_load(const uint8_t *bytes, size_t size, th_program **out) {
  th_program *x = calloc(1, sizeof *x);
  if (!x) return TH_ERROR(RESOURCE_EXHAUSTED, "no memory for a program");
  pthread_mutex_init(&x->lock, NULL);
  x->wire = thunder__wire__executable__unpack(NULL, size, bytes);
  th_status status = x->wire ? load(x) : BAD("these %zu bytes are not an Executable message", size);
  if (status) {
    th_program_free(x);
    return status;
  }
  *out = x;
  if (th_progress_attached()) th_progress_tick(th_progress_attached()); /* a compile is over */
  return TH_OK;
}

void th_program_free(th_program *x) {
  if (!x) return;
  th__cuda_program_free(x->cuda);
  for (size_t i = 0; i < x->n_plans; i++) {
    th_plan *p = &x->plans[i];
    for (size_t k = 0; p->scalars && k < p->wire->n_instr_kind; k++) th__scalars_free(p->scalars[k]);
    free(p->scalars);
    free(p->written);
    free(p->kernels);
    free(p->functions);
    free(p->collectives);
    free(p->escaping);
    free(p->values);
    free(p->arena);
    free(atomic_load(&p->labels));
    pthread_mutex_destroy(&p->lock);
  }
  for (size_t i = 0; x->modules && i < x->wire->n_modules; i++)
    if (x->modules[i]) dlclose(x->modules[i]);
  free(x->modules);
  free(x->plans);
  pthread_mutex_destroy(&x->lock);
  if (x->wire) thunder__wire__executable__free_unpacked(x->wire, NULL);
  free(x);
}

size_t th_program_plan_count(const th_program *x) { return x->n_plans; }
th_plan *th_program_plan(th_program *x, size_t i) { return &x->plans[i]; }
const char *th_program_source(const th_program *x, size_t *out_size) {
  bool any = x->wire->n_modules && x->wire->modules[0]->has_source;
  *out_size = any ? x->wire->modules[0]->source.len : 0;
  return any ? (const char *)x->wire->modules[0]->source.data : "";
}
const char *th_plan_name(const th_plan *p) { return p->wire->name; }
uint32_t th_plan_input_count(const th_plan *p) { return (uint32_t)p->wire->n_input_tensor; }
uint32_t th_plan_output_count(const th_plan *p) { return (uint32_t)p->wire->n_output_tensor; }
uint32_t th_plan_input_kind(const th_plan *p, uint32_t i) { return p->wire->input_kind[i]; }
uint32_t th_plan_input_symbol(const th_plan *p, uint32_t i) {
  for (size_t s = 0; s < p->wire->n_symbol_value; s++) {
    uint32_t e = p->wire->symbol_value[s];
    if (p->wire->expr_kind[e] == TH_EXPR_INTEGER && p->wire->expr_a[e] == (int64_t)i) return (uint32_t)s;
  }
  return TH_NO_SYMBOL;
}
th_dtype th_plan_input_dtype(const th_plan *p, uint32_t i) { return th_dtype_from_wire((int)p->wire->tensor_dtype[p->wire->input_tensor[i]]); }
int32_t th_plan_device(const th_plan *p) { return p->device; }
bool th_plan_input_on_host(const th_plan *p, uint32_t i) { return p->device == TH_DEVICE_HOST || th__input_on_host(p->wire, i); }
uint32_t th_plan_output_kind(const th_plan *p, uint32_t i) { return p->wire->output_kind[i]; }
uint32_t th_plan_output_base(const th_plan *p, uint32_t i) { return p->wire->output_base[i]; }
uint64_t th_plan_predicted_peak(const th_plan *p) { return p->wire->predicted_peak; }
bool th_plan_memory_at(const th_plan *p, size_t i, th_plan_memory_row *out) {
  const Thunder__Wire__Plan *w = p->wire;
  if (i >= w->n_memory_kind) return false;
  *out = (th_plan_memory_row){w->memory_kind[i], w->memory_op[i], w->memory_count[i], w->memory_bytes[i]};
  return true;
}
uint32_t th_plan_instruction_count(const th_plan *p) { return (uint32_t)p->wire->n_instr_kind; }
