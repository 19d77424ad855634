#include "client/ext/identity.h"

#include <stdlib.h>

typedef struct addresses { PyObject **list; size_t n, capacity; } addresses;

static int add(addresses *a, PyObject *object) {
  if (a->n == a->capacity) {
    size_t capacity = a->capacity ? 2 * a->capacity : 512;
    PyObject **list = realloc(a->list, capacity * sizeof *list);
    if (!list) return PyErr_NoMemory(), -1;
    a->list = list;
    a->capacity = capacity;
  }
  a->list[a->n++] = object;
  return 0;
}

static PyObject *item(PyObject *sequence, Py_ssize_t i) { return PyTuple_Check(sequence) ? PyTuple_GetItem(sequence, i) : PyList_GetItem(sequence, i); }

static int add_values(addresses *a, PyObject *dict, int deep) {
  PyObject *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(dict, &at, NULL, &value)) {
    int failed = deep && PyDict_Check(value) ? add_values(a, value, 0) : add(a, value);
    if (failed) return -1;
  }
  return 0;
}

static int add_container(addresses *a, PyObject *container) {
  if (PyDict_Check(container)) return add_values(a, container, 1);
  if (!PyTuple_Check(container) && !PyList_Check(container)) {
    PyErr_SetString(PyExc_TypeError, "identity takes tuples, lists and dicts");
    return -1;
  }
  Py_ssize_t n = PyTuple_Check(container) ? PyTuple_Size(container) : PyList_Size(container);
  for (Py_ssize_t i = 0; i < n; i++)
    if (add(a, item(container, i))) return -1;
  return 0;
}

static int add_positions(addresses *a, PyObject *items, PyObject *positions) {
  if ((!PyTuple_Check(items) && !PyList_Check(items)) || !PyTuple_Check(positions)) {
    PyErr_SetString(PyExc_TypeError, "identity takes items (a tuple or list) and their positions (a tuple) first");
    return -1;
  }
  for (Py_ssize_t i = 0; i < PyTuple_Size(positions); i++) {
    Py_ssize_t at = PyLong_AsSsize_t(PyTuple_GetItem(positions, i));
    PyObject *object = at == -1 && PyErr_Occurred() ? NULL : item(items, at);
    if (!object || add(a, object)) return -1;
  }
  return 0;
}

PyObject *th_identity(PyObject *module, PyObject *args) {
  addresses a = {0};
  PyObject *result = NULL;
  Py_ssize_t n = PyTuple_Size(args);
  (void)module;
  if (n < 2) {
    PyErr_SetString(PyExc_TypeError, "identity takes items and their positions first");
    return NULL;
  }
  int failed = add_positions(&a, PyTuple_GetItem(args, 0), PyTuple_GetItem(args, 1));
  for (Py_ssize_t i = 2; i < n && !failed; i++) failed = add_container(&a, PyTuple_GetItem(args, i));
  if (!failed) result = PyBytes_FromStringAndSize((const char *)a.list, (Py_ssize_t)(a.n * sizeof *a.list));
  free(a.list);
  return result;
}
