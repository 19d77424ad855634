/* Which objects containers hold, as bytes that are equal when they hold the same ones in the same order. Needs the GIL. */
#ifndef THUNDER_CLIENT_EXT_IDENTITY_H
#define THUNDER_CLIENT_EXT_IDENTITY_H

#define Py_LIMITED_API 0x030A0000
#include <Python.h>

/* identity(items, positions, *containers) -> bytes: addresses of items[p] for each p of `positions` (a tuple of ints), then of what each list
 * or tuple holds and of each dict's values; of a value that is itself a dict, of its values. Objects that are gone may have given their
 * addresses away: the caller keeps those alive that it compares with. TypeError, IndexError; new reference. */
PyObject *th_identity(PyObject *module, PyObject *args);

#endif
