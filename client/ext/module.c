/* thunder._C: libthunder for Python. Tensors come in and go out through DLPack's C exchange API (torch 2.11 on), without
 * copies; results are PyTorch's own allocations. One build for CPython 3.10 on (limited API).
 *
 *   load(bytes) -> Program      .plans: list of Plan; .source: generated code
 *   Plan.run(inputs) -> list    tensors, or ints and floats for rank-0 inputs; a tensor or None for each output
 *   Plan.device                 "cpu" or "cuda"; Plan.check_errors(), Plan.release(): thunder.h
 *   Plan.run_profiled(inputs, is_step) -> (list, times); Plan.regions, Plan.set_labels(texts): profile.h
 *   set_threads(n), broadcast(tensor), world(), channel_stats(), device_attributes(number)
 *
 * Plan.run_step(inputs) is Plan.run and then counts a training step. Collectives are waited for without the GIL; signals that come
 * meanwhile are handled there (interrupted, below).
 *
 * Plans for CUDA take tensors of one device (and what the plan wants in host memory) and run on PyTorch's current stream. Their memory is
 * PyTorch's as well: a call's own goes back to its allocator when the call returns, which is in stream order; a step's is held by the Plan
 * until release(), or until another plan's does not fit beside it. */
#define _GNU_SOURCE /* gettid */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "client/ext/dlpack_abi.h"
#include "client/ext/identity.h"
#include "executors/run/profile.h"
#include "executors/run/thunder.h"

static const th_dlpack_api *api;
static PyObject *tensor_type, *error_type;

/* Python's handlers of signals that came during a wait for peers: what they raise (KeyboardInterrupt) ends the wait. Only the main
 * thread runs handlers; any other would take the GIL for nothing. */
static const char *interrupted(void) {
  if (gettid() != getpid()) return NULL;
  PyGILState_STATE state = PyGILState_Ensure();
  int raised = PyErr_CheckSignals();
  PyGILState_Release(state);
  return raised ? "a signal's handler raised an exception" : NULL;
}

static PyObject *raise(th_status status) {
  if (PyErr_Occurred()) { /* a handler's exception says more */
    th_status_free(status);
    return NULL;
  }
  if (!error_type) {
    PyObject *errors = PyImport_ImportModule("thunder.errors");
    error_type = errors ? PyObject_GetAttrString(errors, "ThunderError") : NULL;
    Py_XDECREF(errors);
    PyErr_Clear();
  }
  static const struct { th_code code; PyObject **type; } types[] = {{TH_CODE_OUT_OF_RANGE, &PyExc_IndexError}, {TH_CODE_RESOURCE_EXHAUSTED, &PyExc_MemoryError}};
  PyObject *type = error_type ? error_type : PyExc_RuntimeError;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (th_status_code(status) == types[i].code) type = *types[i].type;
  PyObject *text = PyUnicode_FromFormat("%s: %s", th_code_name(th_status_code(status)), th_status_message(status));
  PyObject *error = text ? PyObject_CallFunctionObjArgs(type, text, NULL) : NULL;
  PyObject *code = error && type == error_type ? PyUnicode_FromString(th_code_name(th_status_code(status))) : NULL;
  if (error && (!code || !PyObject_SetAttrString(error, "code", code))) PyErr_SetObject(type, error);
  Py_XDECREF(text);
  Py_XDECREF(error);
  Py_XDECREF(code);
  th_status_free(status);
  return NULL;
}

static int need_torch(void) {
  if (api) return 0;
  PyObject *torch = PyImport_ImportModule("torch"), *capsule = NULL;
  if (torch) tensor_type = PyObject_GetAttrString(torch, "Tensor");
  if (tensor_type) capsule = PyObject_GetAttrString(tensor_type, "__dlpack_c_exchange_api__");
  if (capsule) api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  if (!api && PyErr_ExceptionMatches(PyExc_AttributeError)) PyErr_SetString(PyExc_RuntimeError, "this PyTorch has no DLPack C exchange API; thunder needs torch 2.11 or newer");
  else if (api && api->header.version.major != 1) {
    PyErr_Format(PyExc_RuntimeError, "this PyTorch speaks DLPack %d, thunder speaks 1", (int)api->header.version.major);
    api = NULL;
  }
  Py_XDECREF(capsule); /* the table is PyTorch's, static */
  Py_XDECREF(torch);
  return api ? 0 : -1;
}

/* ---- Plan ---- */

typedef struct PlanObject {
  PyObject_HEAD
  PyObject *program, *explain;
  th_plan *plan;
  /* Of steps for a device: memory held from one to the next, by one thread at a time. */
  PyObject *arena; /* uint8 tensor */
  void *arena_data;
  int64_t arena_bytes;
  int32_t arena_device;
  bool busy, release_wanted; /* a step is under way; it releases when it is done */
  struct PlanObject *next_held; /* of those that hold memory; guarded by the GIL */
} PlanObject;
typedef struct { PyObject_HEAD th_program *program; } ProgramObject;

/* *device: of the tensors before this one; -1: none was on a device yet. */
static int read_input(th_plan *plan, uint32_t i, PyObject *o, th_tensor_in *in, int64_t *scalar, th_dltensor *t, int32_t *device) {
  bool on_host = th_plan_input_on_host(plan, i);
  if (PyLong_Check(o) || PyFloat_Check(o)) {
    if (!on_host) {
      PyErr_Format(PyExc_ValueError, "input %u is a number; the plan was made for a tensor on cuda", i);
      return -1;
    }
    double f = PyFloat_Check(o) ? PyFloat_AsDouble(o) : 0;
    int64_t n = PyLong_Check(o) ? PyLong_AsLongLong(o) : 0;
    if (PyErr_Occurred()) return -1;
    in->dtype = th_plan_input_dtype(plan, i);
    if (PyLong_Check(o)) f = (double)n;
    float g = (float)f;
    if (in->dtype == TH_DTYPE_f64) memcpy(scalar, &f, 8);
    else if (in->dtype == TH_DTYPE_f32) memcpy(scalar, &g, 4);
    else *scalar = n;
    in->data = scalar;
    return 0;
  }
  static PyTypeObject *known; /* one that is of tensors, as nearly all inputs are */
  int is = Py_TYPE(o) == known ? 1 : PyObject_IsInstance(o, tensor_type);
  if (is < 0) return -1;
  if (is && Py_TYPE(o) != known) {
    PyTypeObject *old = known;
    Py_INCREF(Py_TYPE(o)); /* so that no other type takes its address */
    known = Py_TYPE(o);
    Py_XDECREF(old);
  }
  if (!is) {
    PyErr_Format(PyExc_TypeError, "input %u is neither a tensor nor a number", i);
    return -1;
  }
  if (api->dltensor_from_py_object_no_sync(o, t)) return -1;
  if (on_host && t->device.device_type != 1) {
    PyErr_Format(PyExc_ValueError, th_plan_device(plan) == 1 ? "input %u is not in host memory; the plan was made for the cpu" : "input %u is not in host memory, where the plan wants it", i);
    return -1;
  }
  if (!on_host) {
    if (t->device.device_type != 2) {
      PyErr_Format(PyExc_ValueError, "input %u is not on cuda; the plan was made for it", i);
      return -1;
    }
    if (*device >= 0 && *device != t->device.device_id) {
      PyErr_Format(PyExc_ValueError, "input %u is on cuda:%d, those before it are on cuda:%d; a call runs on one device", i, (int)t->device.device_id, (int)*device);
      return -1;
    }
    *device = t->device.device_id;
  }
  in->data = (char *)t->data + t->byte_offset;
  in->dtype = t->dtype.lanes == 1 ? th_dtype_from_dlpack(t->dtype.code, t->dtype.bits) : TH_DTYPE_none;
  in->rank = (uint32_t)t->ndim;
  in->dims = t->shape;
  in->strides = t->strides;
  return 0;
}

static void set_error(void *context, const char *kind, const char *message) {
  (void)context;
  PyErr_Format(PyExc_RuntimeError, "%s: %s", kind, message);
}

static int dlpack_code(th_dtype dtype) { return dtype == TH_DTYPE_bool ? 6 : th_dtype_dlpack_code(dtype); }

/* A tensor of PyTorch's allocator. */
static PyObject *new_tensor(th_dldevice device, th_dtype dtype, uint32_t rank, const int64_t *dims, void **out_data) {
  th_dltensor prototype = {.device = device, .ndim = (int32_t)rank, .dtype = {(uint8_t)dlpack_code(dtype), (uint8_t)(th_dtype_size(dtype) * 8), 1}, .shape = (int64_t *)dims};
  th_dlmanaged *managed = NULL;
  void *made = NULL;
  if (api->managed_tensor_allocator(&prototype, &managed, NULL, set_error)) return NULL;
  *out_data = (char *)managed->dl_tensor.data + managed->dl_tensor.byte_offset;
  if (api->managed_tensor_to_py_object_no_sync(managed, &made)) return NULL;
  return made;
}

static PyObject *int_tuple(const int64_t *values, uint32_t n) {
  PyObject *t = PyTuple_New(n);
  for (uint32_t i = 0; t && i < n; i++) PyTuple_SetItem(t, i, PyLong_FromLongLong(values[i]));
  return t;
}

/* Strides as the allocator gives them; those of dimensions of size 1 too, which users see. */
static int is_row_major(const th_tensor_out *o) {
  int64_t run = 1;
  for (uint32_t i = o->rank; i-- > 0;) {
    if (o->strides[i] != run) return 0;
    run *= o->dims[i] ? o->dims[i] : 1;
  }
  return 1;
}

static int64_t count_of(const th_tensor_out *o) {
  int64_t n = 1;
  for (uint32_t i = 0; i < o->rank; i++) n *= o->dims[i];
  return n;
}

static PyObject *window(PyObject *base, const th_tensor_out *o) {
  PyObject *dims = int_tuple(o->dims, o->rank), *strides = int_tuple(o->strides, o->rank), *result = NULL;
  if (dims && strides) result = PyObject_CallMethod(base, "as_strided", "OOL", dims, strides, (long long)(o->offset / (int64_t)th_dtype_size(o->dtype)));
  Py_XDECREF(dims);
  Py_XDECREF(strides);
  return result;
}

typedef struct slot { uint32_t output; PyObject *tensor; int direct; } slot;

/* Tensors for the escaping buffers: of the shape of the first output in it when that is all of it, else one-dimensional. */
static int allocate(th_run *run, th_dldevice device, slot *slots) {
  uint32_t output;
  int64_t bytes;
  for (uint32_t i = 0; th_run_escaping(run, i, &output, &bytes); i++) {
    th_tensor_out o;
    void *data;
    th_run_output(run, output, &o);
    int64_t item = (int64_t)th_dtype_size(o.dtype), flat = (bytes + item - 1) / item;
    slots[i].output = output;
    slots[i].direct = !o.borrowed && o.slot == output && o.offset == 0 && is_row_major(&o) && count_of(&o) * item >= bytes;
    slots[i].tensor = slots[i].direct ? new_tensor(device, o.dtype, o.rank, o.dims, &data) : new_tensor(device, o.dtype, 1, &flat, &data);
    if (!slots[i].tensor) return -1;
    th_run_set_escaping(run, i, data);
  }
  return 0;
}

static PyObject *output_of(th_run *run, uint32_t i, slot *slots, uint32_t n_slots, PyObject *inputs) {
  th_tensor_out o;
  th_run_output(run, i, &o);
  if (!o.present) Py_RETURN_NONE;
  if (o.borrowed) {
    PyObject *input = PyList_GetItem(inputs, o.slot);
    if (!input) return NULL;
    if (o.whole || !PyObject_IsInstance(input, tensor_type)) {
      Py_INCREF(input);
      return input;
    }
    PyObject *plain = PyObject_CallMethod(input, "detach", NULL), *offset = plain ? PyObject_CallMethod(plain, "storage_offset", NULL) : NULL;
    th_tensor_out shifted = o;
    if (offset) shifted.offset += PyLong_AsLongLong(offset) * (int64_t)th_dtype_size(o.dtype);
    PyObject *result = offset ? window(plain, &shifted) : NULL;
    Py_XDECREF(plain);
    Py_XDECREF(offset);
    return result;
  }
  for (uint32_t k = 0; k < n_slots; k++)
    if (slots[k].output == o.slot) {
      if (slots[k].direct && i == o.slot) {
        Py_INCREF(slots[k].tensor);
        return slots[k].tensor;
      }
      return window(slots[k].tensor, &o);
    }
  PyErr_Format(PyExc_RuntimeError, "output %u lies in no buffer that leaves the plan", i);
  return NULL;
}

/* The status with the text that the plan's `explain` makes of its message: what the user's program has at that place. */
static th_status explained(PyObject *self, th_status status) {
  PyObject *explain = ((PlanObject *)self)->explain;
  if (!explain || PyErr_Occurred()) return status;
  PyObject *text = PyObject_CallFunction(explain, "s", th_status_message(status)), *bytes = text ? PyUnicode_AsUTF8String(text) : NULL;
  if (bytes) {
    th_status better = th_status_create(th_status_code(status), th_status_file(status), th_status_line(status), "%s", PyBytes_AsString(bytes));
    th_status_free(status);
    status = better;
  }
  PyErr_Clear(); /* then the plain message has to do */
  Py_XDECREF(text);
  Py_XDECREF(bytes);
  return status;
}

/* ---- memory of plans for a device ---- */

static PlanObject *held; /* plans that hold memory */

static th_status release(PlanObject *self) {
  if (!self->arena) return TH_OK;
  PyObject *arena = self->arena;
  for (PlanObject **at = &held; *at; at = &(*at)->next_held)
    if (*at == self) {
      *at = self->next_held;
      break;
    }
  self->arena = NULL;
  self->arena_data = NULL;
  self->arena_bytes = 0;
  self->release_wanted = false;
  th_status status = th_plan_release(self->plan); /* waits for its last step, so that the memory can go to any stream */
  Py_DECREF(arena);
  return status;
}

static PyObject *new_arena(th_dldevice device, int64_t bytes, void **out_data) {
  PyObject *arena = new_tensor(device, TH_DTYPE_u8, 1, &bytes, out_data);
  if (arena || !held) return arena;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback); /* out of memory: what others hold between their steps is let go, once */
  for (PlanObject *p = held; p;) { /* from the start again after each: letting go of a tensor may run Python code */
    bool free = !p->busy;
    if (free) th_status_free(release(p));
    p = free ? held : p->next_held;
  }
  arena = new_tensor(device, TH_DTYPE_u8, 1, &bytes, out_data);
  if (arena) {
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
  } else {
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
  }
  return arena;
}

/* The device's memory for a call: that which the plan holds for its steps, else in *out_own, for this call alone. */
static int give_arena(PlanObject *self, th_run *run, th_dldevice device, bool is_step, PyObject **out_own) {
  int64_t bytes = th_run_arena(run);
  void *data = NULL;
  if (!bytes) return 0;
  if (!is_step) {
    if (!(*out_own = new_arena(device, bytes, &data))) return -1;
  } else if (self->arena && self->arena_bytes >= bytes && self->arena_device == device.device_id) {
    data = self->arena_data;
  } else {
    th_status status = release(self);
    if (status) return raise(status), -1;
    PyObject *arena = new_arena(device, bytes, &data);
    if (!arena) return -1;
    self->arena = arena;
    self->arena_data = data;
    self->arena_bytes = bytes;
    self->arena_device = device.device_id;
    self->next_held = held;
    held = self;
  }
  th_run_set_arena(run, data);
  return 0;
}

/* The device that a call without tensors on one runs on: PyTorch's current one. */
static int current_device(int32_t *out) {
  PyObject *cuda = PyImport_ImportModule("torch.cuda"), *number = cuda ? PyObject_CallMethod(cuda, "current_device", NULL) : NULL;
  *out = number ? (int32_t)PyLong_AsLong(number) : 0;
  Py_XDECREF(cuda);
  Py_XDECREF(number);
  return PyErr_Occurred() ? -1 : 0;
}

/* Device, stream and memory of a call of a plan for CUDA. *out_holds: it uses what the plan holds for steps (busy until the caller says
 * otherwise); not while another thread runs a step of it. */
static int prepare(PlanObject *self, th_run *run, th_dldevice *device, bool is_step, bool *out_holds, PyObject **out_own) {
  void *stream = NULL;
  if (device->device_id < 0 && current_device(&device->device_id)) return -1;
  if (api->current_work_stream(device->device_type, device->device_id, &stream)) {
    if (!PyErr_Occurred()) PyErr_Format(PyExc_RuntimeError, "PyTorch gives no current stream of cuda:%d", (int)device->device_id);
    return -1;
  }
  th_run_set_stream(run, device->device_id, stream);
  if (is_step && !self->busy) {
    *out_holds = self->busy = true; /* from here on, as allocating may run Python code */
    th_status status = th_run_set_step(run);
    if (status) return raise(status), -1;
  }
  return give_arena(self, run, *device, *out_holds, out_own);
}

/* (begin, end, [(host begin, host end, device begin, device end, bytes, flops, what the flops are of), ...]): a th_region_times for each region, ns. */
static PyObject *times_of(const th_plan *plan, const th_run *run) {
  uint32_t n = th_plan_region_count(plan);
  int64_t begin, end;
  PyObject *list = PyList_New(n);
  for (uint32_t i = 0; list && i < n; i++) {
    th_region_times t;
    th_run_region(run, i, &t);
    PyObject *row = Py_BuildValue("(LLLLLLs)", (long long)t.host_begin, (long long)t.host_end, (long long)t.device_begin, (long long)t.device_end, (long long)t.bytes,
                                  (long long)t.flops, t.unit);
    if (!row) Py_CLEAR(list);
    else PyList_SetItem(list, i, row);
  }
  if (!list) return NULL;
  th_run_span(run, &begin, &end);
  return Py_BuildValue("(LLN)", (long long)begin, (long long)end, list);
}

/* out_times: NULL, or the call is profiled. */
static PyObject *run_plan(PyObject *self, PyObject *arg, bool is_step, PyObject **out_times) {
  th_plan *plan = ((PlanObject *)self)->plan;
  PyObject *inputs = PySequence_List(arg), *results = NULL;
  if (!inputs) return NULL;
  uint32_t n = (uint32_t)PyList_Size(inputs), n_out = th_plan_output_count(plan);
  th_tensor_in *in = PyMem_Calloc(n + 1, sizeof *in);
  int64_t *scalars = PyMem_Calloc(n + 1, sizeof *scalars);
  th_dltensor *tensors = PyMem_Calloc(n + 1, sizeof *tensors);
  slot *slots = PyMem_Calloc(n_out + 1, sizeof *slots);
  th_run *run = NULL;
  th_status status = TH_OK;
  bool keep = false; /* the collectives' library may still use the tensors */
  th_dldevice device = {th_plan_device(plan), th_plan_device(plan) == 1 ? 0 : -1};
  bool holds = false; /* this call uses what the plan holds */
  PyObject *own = NULL;
  if (!in || !scalars || !tensors || !slots) {
    PyErr_NoMemory();
    goto cleanup;
  }
  if (n != th_plan_input_count(plan)) {
    PyErr_Format(PyExc_ValueError, "plan %s takes %u inputs, %u were given", th_plan_name(plan), th_plan_input_count(plan), n);
    goto cleanup;
  }
  for (uint32_t i = 0; i < n; i++)
    if (read_input(plan, i, PyList_GetItem(inputs, i), &in[i], &scalars[i], &tensors[i], &device.device_id)) goto cleanup;
  status = th_run_begin(plan, in, n, &run);
  if (!status && out_times) status = th_run_set_profile(run);
  if (!status) {
    if (device.device_type != 1 && prepare((PlanObject *)self, run, &device, is_step, &holds, &own)) goto cleanup;
    if (allocate(run, device, slots)) goto cleanup;
    Py_BEGIN_ALLOW_THREADS
    status = th_run_execute(run);
    if (status) { /* here, without the GIL: it may wait for collectives under way */
      th_run_end(run);
      run = NULL;
      keep = th_world_lost();
    } else if (is_step) th_step_done();
    Py_END_ALLOW_THREADS
  }
  if (status) {
    raise(th_status_prefix(explained(self, status), "plan %s", th_plan_name(plan)));
    goto cleanup;
  }
  uint32_t n_slots = 0, unused;
  for (int64_t bytes; th_run_escaping(run, n_slots, &unused, &bytes);) n_slots++;
  results = PyList_New(n_out);
  for (uint32_t i = 0; results && i < n_out; i++) {
    PyObject *o = output_of(run, i, slots, n_slots, inputs);
    if (!o) Py_CLEAR(results);
    else PyList_SetItem(results, i, o);
  }
  if (results && out_times && !(*out_times = times_of(plan, run))) Py_CLEAR(results);
cleanup:
  for (uint32_t i = 0; slots && !keep && i <= n_out; i++) Py_XDECREF(slots[i].tensor);
  th_run_end(run);
  Py_XDECREF(own);
  if (holds) {
    PlanObject *plan_object = (PlanObject *)self;
    plan_object->busy = false;
    if (plan_object->release_wanted) th_status_free(release(plan_object));
  }
  PyMem_Free(in);
  PyMem_Free(tensors);
  PyMem_Free(slots);
  if (!keep) {
    PyMem_Free(scalars);
    Py_DECREF(inputs);
  }
  return results;
}

static PyObject *plan_run(PyObject *self, PyObject *arg) { return run_plan(self, arg, false, NULL); }
static PyObject *plan_run_step(PyObject *self, PyObject *arg) { return run_plan(self, arg, true, NULL); }

static PyObject *plan_run_profiled(PyObject *self, PyObject *args) {
  PyObject *inputs, *times = NULL;
  int is_step;
  if (!PyArg_ParseTuple(args, "Op", &inputs, &is_step)) return NULL;
  PyObject *results = run_plan(self, inputs, is_step, &times);
  return results ? Py_BuildValue("(NN)", results, times) : NULL;
}

static PyObject *plan_regions(PyObject *self, void *unused) {
  th_plan *plan = ((PlanObject *)self)->plan;
  uint32_t n = th_plan_region_count(plan);
  PyObject *list = PyList_New(n);
  (void)unused;
  for (uint32_t i = 0; list && i < n; i++) {
    th_region r;
    th_plan_region(plan, i, &r);
    PyObject *row = Py_BuildValue("(ssL)", r.kind, r.name, r.op == TH_NO_OP ? -1 : (long long)r.op);
    if (!row) Py_CLEAR(list);
    else PyList_SetItem(list, i, row);
  }
  return list;
}

static PyObject *plan_set_labels(PyObject *self, PyObject *arg) {
  PyObject *texts = PySequence_List(arg);
  Py_ssize_t n = texts ? PyList_Size(texts) : 0;
  const char **labels = texts ? PyMem_Calloc((size_t)n + 1, sizeof *labels) : NULL;
  th_status status = TH_OK;
  if (texts && !labels) PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < n && !PyErr_Occurred(); i++) labels[i] = PyUnicode_AsUTF8AndSize(PyList_GetItem(texts, i), NULL);
  if (!PyErr_Occurred()) status = th_plan_set_labels(((PlanObject *)self)->plan, labels, (uint32_t)n);
  PyMem_Free(labels);
  Py_XDECREF(texts);
  if (status) return raise(status);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject *plan_release(PyObject *self, PyObject *unused) {
  PlanObject *plan = (PlanObject *)self;
  (void)unused;
  if (plan->busy) {
    plan->release_wanted = true;
    Py_RETURN_NONE;
  }
  th_status status = release(plan);
  if (status) return raise(status);
  Py_RETURN_NONE;
}

static PyObject *plan_check_errors(PyObject *self, PyObject *unused) {
  (void)unused;
  th_status status = th_plan_check_errors(((PlanObject *)self)->plan);
  if (status) return raise(th_status_prefix(status, "plan %s", th_plan_name(((PlanObject *)self)->plan)));
  Py_RETURN_NONE;
}

static PyObject *numbers(PyObject *self, uint32_t n, uint32_t (*get)(const th_plan *, uint32_t)) {
  PyObject *list = PyList_New(n);
  for (uint32_t i = 0; list && i < n; i++) PyList_SetItem(list, i, PyLong_FromUnsignedLong(get(((PlanObject *)self)->plan, i)));
  return list;
}

static PyObject *plan_name(PyObject *self, void *unused) { return (void)unused, PyUnicode_FromString(th_plan_name(((PlanObject *)self)->plan)); }
static PyObject *plan_input_kinds(PyObject *self, void *unused) { return (void)unused, numbers(self, th_plan_input_count(((PlanObject *)self)->plan), th_plan_input_kind); }
static PyObject *plan_input_symbols(PyObject *self, void *unused) { return (void)unused, numbers(self, th_plan_input_count(((PlanObject *)self)->plan), th_plan_input_symbol); }
static PyObject *plan_output_kinds(PyObject *self, void *unused) { return (void)unused, numbers(self, th_plan_output_count(((PlanObject *)self)->plan), th_plan_output_kind); }
static PyObject *plan_output_bases(PyObject *self, void *unused) { return (void)unused, numbers(self, th_plan_output_count(((PlanObject *)self)->plan), th_plan_output_base); }
static PyObject *plan_peak(PyObject *self, void *unused) { return (void)unused, PyLong_FromUnsignedLongLong(th_plan_predicted_peak(((PlanObject *)self)->plan)); }
static PyObject *plan_memory(PyObject *self, void *unused) {
  PyObject *list = PyList_New(0);
  th_plan_memory_row row;
  (void)unused;
  for (size_t i = 0; list && th_plan_memory_at(((PlanObject *)self)->plan, i, &row); i++) {
    PyObject *item = Py_BuildValue("(IiIK)", row.kind, (int)row.op, row.count, (unsigned long long)row.bytes);
    if (!item || PyList_Append(list, item)) Py_CLEAR(list);
    Py_XDECREF(item);
  }
  return list;
}
static PyObject *plan_instructions(PyObject *self, void *unused) { return (void)unused, PyLong_FromUnsignedLong(th_plan_instruction_count(((PlanObject *)self)->plan)); }

static PyObject *plan_device(PyObject *self, void *unused) { return (void)unused, PyUnicode_FromString(th_plan_device(((PlanObject *)self)->plan) == 1 ? "cpu" : "cuda"); }
static PyObject *plan_held(PyObject *self, void *unused) { return (void)unused, PyLong_FromLongLong(((PlanObject *)self)->arena_bytes); }

static PyObject *plan_explain(PyObject *self, void *unused) {
  PyObject *explain = ((PlanObject *)self)->explain ? ((PlanObject *)self)->explain : Py_None;
  (void)unused;
  Py_INCREF(explain);
  return explain;
}

static int plan_set_explain(PyObject *self, PyObject *value, void *unused) {
  PyObject *old = ((PlanObject *)self)->explain;
  (void)unused;
  if (value == Py_None) value = NULL;
  Py_XINCREF(value);
  ((PlanObject *)self)->explain = value;
  Py_XDECREF(old);
  return 0;
}

static void plan_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  th_status_free(release((PlanObject *)self));
  Py_XDECREF(((PlanObject *)self)->explain);
  Py_XDECREF(((PlanObject *)self)->program);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

static PyMethodDef plan_methods[] = {{"run", plan_run, METH_O, "run(inputs) -> list: executes the plan on tensors (or numbers for rank-0 inputs)."},
                                     {"run_step", plan_run_step, METH_O, "run_step(inputs) -> list: as run; counts a training step (thunderctl ls)."},
                                     {"run_profiled", plan_run_profiled, METH_VARARGS, "run_profiled(inputs, is_step) -> (list, (begin, end, [times of a region, ...])): as run or run_step, region by region."},
                                     {"set_labels", plan_set_labels, METH_O, "set_labels(texts): names of the regions' NVTX ranges; the first that are given stay."},
                                     {"release", plan_release, METH_NOARGS, "release(): gives back the device memory and the CUDA graph that steps hold."},
                                     {"check_errors", plan_check_errors, METH_NOARGS, "check_errors(): raises what kernels of earlier calls found; complete after torch.cuda.synchronize()."}, {NULL, NULL, 0, NULL}};
static PyGetSetDef plan_getset[] = {{"name", plan_name, NULL, "forward, backward, step", NULL},
                                    {"input_kinds", plan_input_kinds, NULL, "Trace.input_kind of each input", NULL},
                                    {"input_symbols", plan_input_symbols, NULL, "number of the trace's symbol that the input gives; 2**32 - 1 for most", NULL},
                                    {"output_kinds", plan_output_kinds, NULL, "Trace.output_kind of each output", NULL},
                                    {"output_bases", plan_output_bases, NULL, "Trace.output_base of each output", NULL},
                                    {"predicted_peak", plan_peak, NULL, "bytes held at the end of a call", NULL},
                                    {"memory", plan_memory, NULL, "(kind, number of the captured op or -1, values, bytes): who takes the memory of a call", NULL},
                                    {"instructions", plan_instructions, NULL, "how many", NULL},
                                    {"device", plan_device, NULL, "cpu or cuda", NULL},
                                    {"regions", plan_regions, NULL, "(kind, name, number of the captured op or -1) of each region", NULL},
                                    {"held_bytes", plan_held, NULL, "device memory that steps hold", NULL},
                                    {"explain", plan_explain, plan_set_explain, "None, or a function: the text of a failure, with the user's line", NULL},
                                    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot plan_slots[] = {{Py_tp_dealloc, plan_dealloc}, {Py_tp_methods, plan_methods}, {Py_tp_getset, plan_getset}, {0, NULL}};
static PyType_Spec plan_spec = {"thunder._C.Plan", sizeof(PlanObject), 0, Py_TPFLAGS_DEFAULT, plan_slots};
static PyObject *plan_type;

/* ---- Program ---- */

static void program_dealloc(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  th_program_free(((ProgramObject *)self)->program);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

static PyObject *program_plans(PyObject *self, void *unused) {
  th_program *program = ((ProgramObject *)self)->program;
  size_t n = th_program_plan_count(program);
  PyObject *list = PyList_New((Py_ssize_t)n);
  (void)unused;
  for (size_t i = 0; list && i < n; i++) {
    allocfunc make = (allocfunc)PyType_GetSlot((PyTypeObject *)plan_type, Py_tp_alloc);
    PlanObject *plan = (PlanObject *)make((PyTypeObject *)plan_type, 0);
    if (!plan) Py_CLEAR(list);
    else {
      Py_INCREF(self);
      plan->program = self;
      plan->plan = th_program_plan(program, i);
      PyList_SetItem(list, (Py_ssize_t)i, (PyObject *)plan);
    }
  }
  return list;
}

static PyObject *program_source(PyObject *self, void *unused) {
  size_t size;
  const char *text = th_program_source(((ProgramObject *)self)->program, &size);
  (void)unused;
  return PyUnicode_FromStringAndSize(text, (Py_ssize_t)size);
}

static PyGetSetDef program_getset[] = {{"plans", program_plans, NULL, "the plans", NULL}, {"source", program_source, NULL, "generated code", NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot program_slots[] = {{Py_tp_dealloc, program_dealloc}, {Py_tp_getset, program_getset}, {0, NULL}};
static PyType_Spec program_spec = {"thunder._C.Program", sizeof(ProgramObject), 0, Py_TPFLAGS_DEFAULT, program_slots};
static PyObject *program_type;

static PyObject *load(PyObject *self, PyObject *arg) {
  char *bytes;
  Py_ssize_t size;
  th_program *program;
  th_status status;
  (void)self;
  if (PyBytes_AsStringAndSize(arg, &bytes, &size) || need_torch()) return NULL;
  Py_BEGIN_ALLOW_THREADS
  status = th_program_load((const uint8_t *)bytes, (size_t)size, &program);
  Py_END_ALLOW_THREADS
  if (status) return raise(status);
  allocfunc make = (allocfunc)PyType_GetSlot((PyTypeObject *)program_type, Py_tp_alloc);
  ProgramObject *o = (ProgramObject *)make((PyTypeObject *)program_type, 0);
  if (o) o->program = program;
  else th_program_free(program);
  return (PyObject *)o;
}

static PyObject *set_threads(PyObject *self, PyObject *arg) {
  long n = PyLong_AsLong(arg);
  (void)self;
  if (PyErr_Occurred()) return NULL;
  return PyLong_FromLong(th_set_threads((int32_t)n));
}

static PyObject *world(PyObject *self, PyObject *unused) {
  int32_t rank, size;
  (void)self, (void)unused;
  th_world(&rank, &size);
  return Py_BuildValue("(ii)", rank, size);
}

static PyObject *broadcast(PyObject *self, PyObject *arg) {
  th_dltensor t;
  th_status status;
  (void)self;
  if (need_torch() || api->dltensor_from_py_object_no_sync(arg, &t)) return NULL;
  size_t bytes = t.dtype.bits / 8;
  int64_t run = 1;
  for (int32_t i = t.ndim; i-- > 0;) {
    if (t.strides && t.shape[i] != 1 && t.strides[i] != run) {
      PyErr_SetString(PyExc_ValueError, "broadcast wants a contiguous tensor");
      return NULL;
    }
    run *= t.shape[i];
  }
  Py_BEGIN_ALLOW_THREADS
  status = th_world_broadcast((char *)t.data + t.byte_offset, bytes * (size_t)run);
  Py_END_ALLOW_THREADS
  if (!status) Py_RETURN_NONE;
  if (th_world_lost()) Py_INCREF(arg); /* for ever: the library may still use it */
  return raise(status);
}

static PyObject *channel_stats(PyObject *self, PyObject *unused) {
  th_world_counters c = th_world_count();
  (void)self, (void)unused;
  return Py_BuildValue("{sKsKsKsKsK}", "index", c.index, "completed", c.completed, "bytes_sent", c.bytes_sent, "wait_ns", c.wait_ns, "fingerprint", c.fingerprint);
}

static PyObject *device_attributes(PyObject *self, PyObject *arg) {
  th_device_attributes a;
  long number = PyLong_AsLong(arg);
  (void)self;
  if (PyErr_Occurred()) return NULL;
  th_status status = th_device_attributes_get((int32_t)number, &a);
  if (status) return raise(status);
  return Py_BuildValue("{sisisisisi}", "major", (int)a.major, "minor", (int)a.minor, "sms", (int)a.sms, "memory_khz", (int)a.memory_khz, "bus_bits", (int)a.bus_bits);
}

static PyMethodDef methods[] = {{"load", load, METH_O, "load(bytes) -> Program: a serialized Executable, checked and loaded."},
                                {"set_threads", set_threads, METH_O, "set_threads(n) -> int: threads that kernels use; returns how many did."},
                                {"world", world, METH_NOARGS, "world() -> (rank, size) of the job."},
                                {"broadcast", broadcast, METH_O, "broadcast(tensor): rank 0's values to all ranks, in place."},
                                {"identity", th_identity, METH_VARARGS, "identity(items, positions, *containers) -> bytes: which objects they hold (identity.h)."},
                                {"channel_stats", channel_stats, METH_NOARGS, "channel_stats() -> dict: collectives of this rank so far; zeros before the first one."},
                                {"device_attributes", device_attributes, METH_O, "device_attributes(number) -> dict: of a CUDA device, what its peak rates are made of."},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "thunder._C", "libthunder: loads and runs plans.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__C(void);
PyMODINIT_FUNC PyInit__C(void) {
  PyObject *m = PyModule_Create(&definition);
  if (!m) return NULL;
  th_set_interrupt(interrupted);
  plan_type = PyType_FromSpec(&plan_spec);
  program_type = PyType_FromSpec(&program_spec);
  if (!plan_type || !program_type) return NULL;
  Py_INCREF(plan_type);
  Py_INCREF(program_type);
  if (PyModule_AddObject(m, "Plan", plan_type) || PyModule_AddObject(m, "Program", program_type)) return NULL;
  return m;
}
