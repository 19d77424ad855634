/* A module `torch` of which thunder._C needs no more than this: Tensor with DLPack's C exchange API. Memory is the host's, whatever the
 * device says (fake_cuda.c). For tests/cuda/test_module.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "client/ext/dlpack_abi.h"

typedef struct TensorObject {
  PyObject_HEAD
  th_dltensor t;
  void *memory;
  size_t bytes;
} TensorObject;

static PyTypeObject *type;
static long fail_next, live; /* allocations that fail from now on; bytes of tensors on devices */

static void dealloc(PyObject *self) {
  TensorObject *o = (TensorObject *)self;
  if (o->t.device.device_type == 2) live -= (long)o->bytes;
  free(o->memory);
  free(o->t.shape);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

static TensorObject *make(th_dldevice device, th_dldtype dtype, int32_t ndim, const int64_t *shape) {
  TensorObject *o = (TensorObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
  if (!o) return NULL;
  int64_t n = 1;
  o->t = (th_dltensor){.device = device, .ndim = ndim, .dtype = dtype, .shape = calloc((size_t)ndim * 2 + 1, 8)};
  o->t.strides = o->t.shape + ndim;
  for (int32_t i = ndim; i-- > 0; n *= shape[i]) o->t.shape[i] = shape[i], o->t.strides[i] = n;
  o->bytes = (size_t)n * dtype.bits / 8;
  o->memory = o->t.data = aligned_alloc(64, (o->bytes + 128) / 64 * 64);
  if (device.device_type == 2) live += (long)o->bytes;
  return o;
}

static PyObject *get_bytes(PyObject *self, PyObject *unused) {
  TensorObject *o = (TensorObject *)self;
  (void)unused;
  return PyBytes_FromStringAndSize((char *)o->t.data, (Py_ssize_t)o->bytes);
}
static PyObject *shift(PyObject *self, PyObject *by) { /* moves its values by some bytes */
  TensorObject *o = (TensorObject *)self;
  size_t n = (size_t)PyLong_AsLong(by);
  memmove((char *)o->memory + n, o->t.data, o->bytes);
  o->t.data = (char *)o->memory + n;
  Py_RETURN_NONE;
}

/* ---- the exchange API ---- */

static void managed_free(th_dlmanaged *m) {
  Py_XDECREF((PyObject *)m->manager_ctx);
  free(m);
}
static int allocator(th_dltensor *p, th_dlmanaged **out, void *context, void (*set_error)(void *, const char *, const char *)) {
  if (fail_next > 0) {
    fail_next--;
    set_error(context, "MemoryError", "no device memory");
    return -1;
  }
  TensorObject *o = make(p->device, p->dtype, p->ndim, p->shape);
  *out = calloc(1, sizeof **out);
  **out = (th_dlmanaged){.manager_ctx = o, .deleter = managed_free, .dl_tensor = o->t};
  return 0;
}
static int to_object(th_dlmanaged *m, void **out) {
  *out = m->manager_ctx;
  free(m);
  return 0;
}
static int from_object(void *object, th_dltensor *out) { return *out = ((TensorObject *)object)->t, 0; }
static int current_stream(int32_t device_type, int32_t device, void **out) { return (void)device, *out = NULL, device_type == 2 ? 0 : -1; }
static const th_dlpack_api table = {.header = {{1, 3}, NULL}, .managed_tensor_allocator = allocator, .managed_tensor_to_py_object_no_sync = to_object, .dltensor_from_py_object_no_sync = from_object, .current_work_stream = current_stream};

static PyObject *tensor(PyObject *self, PyObject *args) { /* tensor(bytes, code, bits, size or -1, device type, device) */
  const char *data;
  Py_ssize_t size;
  int code, bits, device_type, device;
  long long n;
  (void)self;
  if (!PyArg_ParseTuple(args, "y#iiLii", &data, &size, &code, &bits, &n, &device_type, &device)) return NULL;
  int64_t shape[] = {n};
  TensorObject *o = make((th_dldevice){device_type, device}, (th_dldtype){(uint8_t)code, (uint8_t)bits, 1}, n >= 0, shape);
  if (o) memcpy(o->t.data, data, (size_t)size < o->bytes ? (size_t)size : o->bytes);
  return (PyObject *)o;
}
static PyObject *fail_allocations(PyObject *self, PyObject *n) { return (void)self, fail_next = PyLong_AsLong(n), PyLong_FromLong(fail_next); }
static PyObject *live_bytes(PyObject *self, PyObject *unused) { return (void)self, (void)unused, PyLong_FromLong(live); }

static PyMethodDef tensor_methods[] = {{"bytes", get_bytes, METH_NOARGS, ""}, {"shift", shift, METH_O, ""}, {NULL, NULL, 0, NULL}};
static PyType_Slot slots[] = {{Py_tp_dealloc, dealloc}, {Py_tp_methods, tensor_methods}, {0, NULL}};
static PyType_Spec spec = {"torch.Tensor", sizeof(TensorObject), 0, Py_TPFLAGS_DEFAULT, slots};
static PyMethodDef methods[] = {{"tensor", tensor, METH_VARARGS, ""}, {"fail_allocations", fail_allocations, METH_O, ""}, {"live_bytes", live_bytes, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "torch", "", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_torch(void);
PyMODINIT_FUNC PyInit_torch(void) {
  PyObject *m = PyModule_Create(&definition), *capsule = PyCapsule_New((void *)(uintptr_t)&table, "dlpack_exchange_api", NULL);
  type = (PyTypeObject *)PyType_FromSpec(&spec);
  if (!m || !type || !capsule || PyObject_SetAttrString((PyObject *)type, "__dlpack_c_exchange_api__", capsule)) return NULL;
  Py_INCREF(type);
  PyModule_AddObject(m, "Tensor", (PyObject *)type);
  return m;
}
