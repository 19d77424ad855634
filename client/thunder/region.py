"""Regions: a graph from TorchDynamo as a callable, compiled at its first call.

A region that holds operators Thunder does not compile becomes a row of pieces: those operators run in eager PyTorch, said
once in a warning, the rest as regions of their own."""
import time
import warnings

import torch

from . import capture, device, encode, jobs, runtime, wire
from .errors import CompileError, DaemonError, Unsupported
from .signature import Layout, Signature
from .stats import EagerPiece

_warned = set()


class Settings:
    """What the user asked for: how regions are compiled."""

    def __init__(self, fullgraph=False, executors=None, disabled_passes=()):
        self.fullgraph, self.executors, self.disabled_passes = fullgraph, executors, tuple(disabled_passes)


class Region:
    """One captured graph. `gm` is TorchDynamo's graph, which also serves as the eager form."""

    def __init__(self, gm, states, settings, stats):
        self.gm, self.states, self.settings, self.stats = gm, states, settings, stats
        self.differentiate = torch.is_grad_enabled()
        self.layout = Layout(gm, states)
        self.exported = capture.export(capture.with_hidden_outputs(gm, [n for n, _ in self.layout.hidden]), states=states)
        problems = encode.check(self.exported)
        if problems:
            raise _Problems(problems)
        self.executor = None
        self.constants = [tensor for _, tensor in self.exported.constants]
        self.written = set(self.exported.written)

    def compile(self, arguments):
        started = time.perf_counter()
        signature = Signature(self.layout, self.exported, [*arguments, *self.constants], self.differentiate)
        encoded = encode.encode(self.exported, signature)
        mode = "forward_backward" if signature.differentiated else "forward"
        where = device.of(arguments)
        job = jobs.Job(encoded, mode, where, executors=self.settings.executors, disabled_passes=self.settings.disabled_passes)
        self.stats.captured(started)
        program = job.run(self.stats)
        self.executor = runtime.Executor(program, signature, encoded, where, self.stats)
        self.stats.regions += 1
        self.stats.plans += list(program.plans)
        self.layout = self.exported = None

    def __call__(self, *arguments):
        if self.executor is None:
            self.compile(arguments)
        if self.written and runtime.overlaps(arguments, self.written):
            self._say_overlap()
            return self.gm(*arguments)
        self.stats.calls += 1
        return runtime.call(self.executor, [*arguments, *self.constants] if self.constants else arguments)


    def _say_overlap(self):
        if not self.stats.overlaps:
            warnings.warn("thunder: a tensor that the function writes shares memory with another of its inputs; such calls run in eager "
                          "PyTorch (counted in compile_stats(...).overlaps)", stacklevel=3)
        self.stats.overlaps += 1


class _Problems(Exception):
    def __init__(self, problems):
        super().__init__("; ".join(str(p) for p in problems))
        self.problems = problems


class Pieces:
    """A graph as a row of regions and eager pieces."""

    def __init__(self, gm, states, problems, settings, stats, depth):
        self.problems = {p.node: p for p in problems}
        self.outer, rows = capture.split(gm, set(self.problems), states)
        self.eager = []
        for name, is_eager in rows:
            piece = getattr(self.outer, name)
            if is_eager:
                made = self._eager(piece, stats)
            else:
                alone = capture.return_tuple(piece)
                made = build(piece, settings, stats, depth=depth + 1)
                made = _first(made) if alone else _all(made)
            capture.replace_submodule(self.outer, name, made)

    def _eager(self, piece, stats):
        rows = []
        for node in piece.graph.nodes:
            problem = self.problems.get(capture.node_number(node))
            if problem is not None and node.op not in ("placeholder", "output"):
                file, line, text, _ = encode.source_of(node)
                source = f"{file}:{line}: {text}" if line else None
                rows.append(EagerPiece(problem.operator, problem.reason, source))
        _warn(rows)
        stats.eager_pieces += rows

        def run(*arguments):
            for row in rows:
                row.calls += 1
            return piece(*arguments)
        return run

    def __call__(self, *arguments):
        return self.outer(*arguments)


def _first(call):
    return lambda *arguments: call(*arguments)[0]


def _all(call):
    return lambda *arguments: tuple(call(*arguments))


def _warn(rows):
    for row in rows:
        key = (row.operator, row.source or row.reason)
        if key not in _warned:
            _warned.add(key)
            warnings.warn(f"thunder: {row.operator} runs in eager PyTorch ({row.reason})"
                          + (f"\n  at {row.source}" if row.source else ""), stacklevel=2)


def left_to_python(reasons, stats):
    """What TorchDynamo did not capture: it runs in Python and eager PyTorch, like the pieces that Thunder does not compile."""
    rows = [EagerPiece(what, why, source) for what, why, source in reasons]
    for row in rows:
        row.calls = None  # Python's, not counted
    _warn(rows)
    stats.eager_pieces += rows


class WholeEager:
    """A graph that runs in eager PyTorch as a whole."""

    def __init__(self, gm, problem, stats):
        self.gm = gm
        self.row = EagerPiece(problem.operator, problem.reason, None)
        _warn([self.row])
        stats.eager_pieces.append(self.row)

    def __call__(self, *arguments):
        self.row.calls += 1
        return self.gm(*arguments)


def build(gm, settings, stats, bad=(), depth=0):
    """A callable for a TorchDynamo graph: a Region, Pieces around what cannot be compiled, or the graph in eager."""
    states = capture.annotate(gm)
    problems = list(bad)
    if not capture.has_work(gm):
        return gm
    while True:
        if problems:
            if settings.fullgraph:
                raise _fullgraph_error(problems[0], gm)
            calls = {capture.node_number(n) for n in gm.graph.nodes if n.op not in ("placeholder", "output")}
            if depth > 40 or not {p.node for p in problems} <= calls:
                return WholeEager(gm, problems[0], stats)
            return Pieces(gm, states, problems, settings, stats, depth)
        try:
            return LateSplit(Region(gm, states, settings, stats))
        except _Problems as found:
            problems = found.problems
        except Unsupported as error:
            problems = [error]
        depth += 1


class LateSplit:
    """A region whose compile may still say that an operator is not implemented: then it is split around that operator."""

    def __init__(self, region):
        self.region = self.call = region

    def __call__(self, *arguments):
        try:
            return self.call(*arguments)
        except CompileError as error:
            # PyTorch took the program: an operator whose arguments Thunder refuses is one that it does not have whole.
            if error.code not in ("UNIMPLEMENTED", "INVALID_ARGUMENT") or self.region.settings.fullgraph or self.call is not self.region:
                raise
            self.call = self._around(error)
            return self.call(*arguments)

    def _around(self, error):
        region = self.region
        problem = Unsupported(error.operator or "a captured graph", str(error).split("\n")[0], error.node)
        return build(region.gm, region.settings, region.stats, bad=[problem])


def _fullgraph_error(problem, gm):
    source = None
    for node in gm.graph.nodes:
        if problem.node is not None and capture.node_number(node) == problem.node:
            file, line, text, _ = encode.source_of(node)
            source = f"{file}:{line}: {text}" if line else None
    return CompileError(f"{problem.operator} cannot be compiled ({problem.reason}) and fullgraph=True was asked for",
                        "UNIMPLEMENTED", source)


class Backend:
    """A TorchDynamo backend: graph in, callable out. Errors are raised at the first call, where they reach the user as
    they are (TorchDynamo wraps what a backend raises)."""

    def __init__(self, settings, stats):
        self.settings, self.stats = settings, stats

    def __call__(self, gm, example_inputs, **_):
        started = time.perf_counter()
        try:
            made = build(gm, self.settings, self.stats)
        except (CompileError, DaemonError) as error:
            return _Raise(error)
        finally:
            self.stats.captured(started, on=True)  # then TorchDynamo makes its guards
        return made


class _Raise:
    def __init__(self, error):
        self.error = error

    def __call__(self, *_):
        raise self.error
