"""thunder.compile, thunder.compile_stats, thunder.last_traces, and the backend of torch.compile."""
import copy
import functools
import time
import weakref

import torch

from . import arguments, dynamo
from .region import Backend, Settings, _Raise, left_to_python
from .stats import CompileStats

_stats = weakref.WeakKeyDictionary()
_backend_stats = CompileStats()  # of torch.compile(backend="thunder")


def compile(fn=None, *, fullgraph=False, dynamic=None, executors=None, disabled_passes=()):
    """Compiles a function or an nn.Module: same signature out, PyTorch tensors in and out, autograd works.

    Args:
        fn: function or module. Without it a decorator is returned.
        fullgraph: what cannot be compiled is an error instead of a piece that runs in eager PyTorch.
        dynamic: as torch.compile: True compiles for sizes as symbols, False for each size anew, None decides by itself.
        executors: names in order of priority (default: THUNDER_EXECUTORS, else the compiler's for the device). What none of them can run is an error.
        disabled_passes: names of passes to leave out, for tests and debugging (``thunderc --list-passes``).

    A module comes back as a module that shares everything with the original: parameters, buffers, hooks, training mode,
    ``state_dict`` with the same names. A function comes back as a function.

    Raises TypeError or ValueError at once for an argument that is none of these.

    Nothing is compiled here: the first call is, and a call with other sizes, dtypes or flags, as in torch.compile. Shapes and
    dtypes of the results are eager PyTorch's.

    Such a call raises CompileError when the compile fails or, with fullgraph, when an operator cannot be compiled; DaemonError when
    there is no daemon and none can be started, or it breaks off. Any call raises IndexError for an index out of range in the data,
    MemoryError when memory is short, and ThunderError for another failure of a plan. A UserWarning says which operator runs in eager
    PyTorch, once for each line. Errors of the function itself come as torch.compile raises them.

    Threads: make the first call in one thread. Later calls may come from several; the numbers of compile_stats may then be low.
    """
    arguments.check_compile(fullgraph, dynamic, executors, disabled_passes)
    if fn is None:
        return functools.partial(compile, fullgraph=fullgraph, dynamic=dynamic, executors=executors, disabled_passes=disabled_passes)
    if not callable(fn):
        raise TypeError(f"thunder.compile wants a function or an nn.Module, got {type(fn).__name__}")
    stats = CompileStats()
    backend = Backend(Settings(fullgraph, executors, disabled_passes), stats)
    if isinstance(fn, torch.nn.Module):
        return _compile_module(fn, backend, stats, dict(fullgraph=fullgraph, dynamic=dynamic, executors=executors,
                                                       disabled_passes=disabled_passes))
    inner = _watched(dynamo.compiler(_frame_of(fn), backend, fullgraph, dynamic), stats)

    def compiled(*args, **kwargs):
        return inner(*args, **kwargs)
    functools.update_wrapper(compiled, fn, updated=())
    _stats[compiled] = stats
    return compiled


jit = compile


def _frame_of(fn):
    """A Python frame around `fn` that TorchDynamo evaluates (it leaves PyTorch's own functions alone)."""
    if hasattr(fn, "__code__") and not (getattr(fn, "__module__", None) or "").startswith("torch"):
        return fn

    def call(*args, **kwargs):
        return fn(*args, **kwargs)
    return dynamo.with_own_code(call)


def _watched(inner, stats):
    """`inner` from TorchDynamo, with what it leaves to Python said and counted, or with fullgraph an error."""
    def call(*args, **kwargs):
        stats.called_at = time.perf_counter()
        before = dynamo.frames()
        try:
            result = inner(*args, **kwargs)
        except dynamo.NOT_CAPTURED as error:
            dynamo.breaks()
            raise dynamo.not_captured(error) from error
        if dynamo.frames_since() != before:
            left_to_python(dynamo.breaks(), stats)
        return result
    return call


def _compile_module(module, backend, stats, options):
    original = getattr(module, "_thunder_original", module)

    def call(*args, **kwargs):
        return original(*args, **kwargs)
    inner = _watched(dynamo.compiler(dynamo.with_own_code(call), backend, options["fullgraph"], options["dynamic"]), stats)
    cls = type(original)

    def __call__(self, *args, **kwargs):
        return inner(*args, **kwargs)

    def __reduce__(self):
        return _recompile, (original, options)

    def __deepcopy__(self, memo):
        return compile(copy.deepcopy(original, memo), **options)

    def __repr__(self):
        return repr(original)

    made = type(cls.__name__, (cls,), {
        "__call__": __call__, "__reduce__": __reduce__, "__reduce_ex__": lambda self, protocol: __reduce__(self),
        "__deepcopy__": __deepcopy__, "__repr__": __repr__, "__module__": cls.__module__, "__doc__": cls.__doc__,
        "_thunder_original": property(lambda self: original), "_thunder_stats": property(lambda self: stats)})
    compiled = object.__new__(made)
    object.__setattr__(compiled, "__dict__", original.__dict__)  # one module, seen through two classes
    return compiled


def _recompile(original, options):
    return compile(original, **options)


def compile_stats(fn):
    """The CompileStats of what thunder.compile or thunder.train_step returned: the live object, not a copy. Of
    torch.compile(..., backend="thunder"): of all such functions of the process. TypeError for anything else."""
    try:
        found = getattr(fn, "_thunder_stats", None) if isinstance(fn, torch.nn.Module) else _stats.get(fn)
    except TypeError:  # nothing that a weak reference can point to
        found = None
    if found is None and hasattr(fn, "compile_stats"):
        found = fn.compile_stats
    if found is None:
        if hasattr(fn, "_torchdynamo_orig_callable") or hasattr(fn, "_orig_mod"):
            return _backend_stats
        raise TypeError(f"{fn!r} was not made by thunder.compile or thunder.train_step")
    return found


class TraceText(str):
    """The text of a trace, which prints as it is."""

    title = ""  #: The pass it stands after and, in parentheses, the plan; such as "capture (forward)" or "fuse (backward)".

    def __repr__(self):
        return str(self)


def last_traces(fn, region=-1):
    """The traces of the graph that was compiled last: first the captured one, then the one after each pass.

    Args:
        fn: what thunder.compile or thunder.train_step returned.
        region: which graph, in the order of compilation; as an index of a list.

    Returns a list of TraceText: strings in the IR's text form, with shapes, dtypes and the user's source lines. The daemon runs the
    passes again for it (no C compiler); the plan in use is not touched. Raises RuntimeError before the first compile, IndexError
    for a region that is not there, CompileError and DaemonError as a compile does.
    """
    jobs = compile_stats(fn).jobs
    if not jobs:
        raise RuntimeError("nothing has been compiled yet: call the function first")
    texts = []
    for title, text in jobs[arguments.trace_region(region, len(jobs))].traces():
        texts.append(TraceText(text))
        texts[-1].title = title
    return texts


def dynamo_backend(gm, example_inputs, **options):
    """The backend behind torch.compile(model, backend="thunder"): TorchDynamo calls it with a graph, users do not.
    ``options`` of torch.compile may hold ``executors``, ``fullgraph`` and ``disabled_passes``, as in thunder.compile; the first call
    raises TypeError or ValueError for anything else in it."""
    try:
        settings = Settings(**arguments.check_backend_options(options))
    except (TypeError, ValueError) as error:
        return _Raise(error)  # at the call: TorchDynamo wraps what a backend raises
    return Backend(settings, _backend_stats)(gm, example_inputs)
