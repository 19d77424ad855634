"""TorchDynamo's front: functions and training steps run through it, what it refuses and what it leaves to Python.

This file and capture.py alone touch private names of PyTorch."""
import collections
import os
import re
import types
import warnings

import torch
import torch._dynamo
from torch._dynamo.utils import counters as _counters
from torch._dynamo.utils import graph_break_reasons
from torch.utils import _pytree as pytree

from .errors import CompileError

FRAME = re.compile(r'File "([^"]*)", line (\d+), in [^\n]*\n?([^\n]*)')
NOT_THE_USERS = (torch.__path__[0], os.path.dirname(os.path.abspath(__file__)) + os.sep)
_known_breaks, _known_frames, _known_reasons = collections.Counter(), 0, 0  # as of the last _remember()


def compiler(fn, backend, fullgraph=False, dynamic=None):
    """`fn` run through TorchDynamo with `backend(graph_module, example_inputs)`. Returns a callable with guards."""
    return torch.compile(fn, backend=backend, fullgraph=fullgraph, dynamic=dynamic)


def with_own_code(fn):
    """The function again. TorchDynamo keeps what it compiled, and counts it against recompile_limit, by code object: closures of one
    `def` would share that."""
    made = types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    made.__kwdefaults__ = fn.__kwdefaults__
    return made


class PerShape:
    """A function that is captured for each combination of its tensors' shapes and dtypes (and of its other arguments but floats)
    by itself, so that their number has no limit."""

    MANY = 32

    def __init__(self, fn, backend):
        self.fn, self.backend, self.made = fn, backend, {}

    def __call__(self, *args, **kwargs):
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf if isinstance(leaf, (int, str)) else None
                    for leaf in pytree.tree_leaves((args, kwargs)))
        call = self.made.get(key)
        if call is None:
            call = self.made[key] = compiler(with_own_code(self.fn), self.backend, True, False)
            if len(self.made) == self.MANY:
                warnings.warn(f"thunder: {self.MANY} shapes of a training step have been compiled; pad batches, or sort them into few shapes",
                              stacklevel=3)
        return call(*args, **kwargs)


NOT_CAPTURED = (torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError, torch._dynamo.exc.FailOnRecompileLimitHit)


def not_captured(error):
    """TorchDynamo's refusal as a CompileError: its first lines, and the user's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(line.removeprefix("Explanation: ") for line in lines[:2])
    frames = [f for f in FRAME.findall(str(error)) if not f[0].startswith(NOT_THE_USERS)]
    source = f"{frames[-1][0]}:{frames[-1][1]}: {frames[-1][2].strip()}" if frames else None
    return CompileError(f"TorchDynamo cannot capture this as one graph: {text}", "UNIMPLEMENTED", source)


def frames():
    """How many Python frames TorchDynamo has looked at in this process. Between two equal numbers nothing was captured or left out."""
    if _counters["frames"]["total"] != _known_frames or len(graph_break_reasons) != _known_reasons:
        _remember()
    return _known_frames


def frames_since():
    return _counters["frames"]["total"]


def _remember():
    global _known_frames, _known_reasons
    _known_frames, _known_reasons = _counters["frames"]["total"], len(graph_break_reasons)
    _known_breaks.clear()
    _known_breaks.update(_counters["unimplemented"] + _counters["graph_break"])


def breaks():
    """What TorchDynamo left to Python since the last call of `frames`: (what, why, "file:line: text" or None) each."""
    found, where = [], [r for r in graph_break_reasons[_known_reasons:] if r.user_stack]
    for text, n in (_counters["unimplemented"] + _counters["graph_break"]).items():
        if n > _known_breaks[text]:
            lines = [line.strip().removeprefix("Explanation: ") for line in text.splitlines()]
            at = next((r for r in where if r.reason.startswith(lines[0])), where[-1] if where else None)
            users = [f for f in at.user_stack if not f.filename.startswith(NOT_THE_USERS)] if at else []
            source = f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}" if users else None
            found.append((lines[0], lines[1] if len(lines) > 1 else "TorchDynamo does not capture it", source))
    _remember()
    return found
