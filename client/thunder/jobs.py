"""Compile jobs: what is asked of the daemon, and the loaded programs it answers with.

A job holds meaning only (proto/compile.proto): the digest of its bytes is the name of the result everywhere."""
import os
import re
import time

import torch

from . import daemon, device, runtime, wire
from .errors import CompileError

_programs = {}  # digest -> Program: equal graphs of one process share one
_origins = {}   # digest -> _Origins of that program


class _Origins:
    """Where the ops of a program come from: makes of a failure's text, which has an op's number, one with the user's line. Equal graphs
    of several functions share a program; then it may be any of their lines."""

    def __init__(self):
        self.encoded = {}  # names -> Encoded

    def add(self, program, encoded):
        if len(self.encoded) < 8:
            self.encoded.setdefault(encoded.names.SerializeToString(deterministic=True), encoded)
        for plan in program.plans.values():
            plan.native.explain = self

    def __call__(self, text):
        found = re.search(r" \(instruction \d+, captured op (\d+)\)", text)
        op = int(found[1]) if found else -1
        known = [e for e in self.encoded.values() if 0 <= op < len(e.operators)]
        if not known:
            return text
        lines = [line for line in dict.fromkeys(e.source(op) for e in known) if line]
        at = "\n  at " + "\n  or at ".join(lines) if lines else ""
        return text.replace(found[0], f", in a kernel with {known[0].operators[op][0]}") + at


def options(on, mode, executors=None, disabled_passes=(), world=1, train_step=None, deterministic=None, memory_limit=None):
    if executors is None:
        executors = [name for name in os.environ.get("THUNDER_EXECUTORS", "" if on.name == "cuda" else "cpu").split(",") if name]
    if not executors and (on.name != "cuda" or "THUNDER_EXECUTORS" in os.environ):
        raise CompileError("there is no executor to compile for: executors=() or an empty THUNDER_EXECUTORS; this version has \"cpu\"", "INVALID_ARGUMENT")
    o = wire.Options(mode=mode, executors=list(executors), world=world)
    o.deterministic = torch.are_deterministic_algorithms_enabled() if deterministic is None else deterministic
    if on.name == "cuda":
        o.tf32 = torch.backends.cuda.matmul.allow_tf32
    o.disabled_passes.extend(disabled_passes)
    if memory_limit is not None:
        o.memory_limit = memory_limit
    if train_step is not None:
        o.train_step.CopyFrom(train_step)
    return o


def held_bytes():
    """Device memory that loaded plans hold for their steps, which an allocation that fails makes them give back."""
    return sum(plan.native.held_bytes for program in _programs.values() for plan in program.plans.values())


class Job:
    """One compile for the device `where`: its bytes, and after `run` the loaded program."""

    def __init__(self, encoded, mode, where, **kinds):
        self.encoded, on = encoded, device.target(where)
        self.message = wire.CompileJob(version=1, trace=encoded.trace_bytes, options=options(on, mode, **kinds), target=on,
                                       compiler=daemon.build_id())
        self.bytes = self.message.SerializeToString(deterministic=True)
        self.digest = daemon.digest(self.bytes)
        self.origin, self.seconds = None, None  # of its result: where it came from, what its compile took when it was made

    def run(self, stats):
        """The loaded program; compiled by the daemon unless this process has it. Raises CompileError, DaemonError."""
        if self.digest in _programs:
            self.origin = "process"
            _origins[self.digest].add(_programs[self.digest], self.encoded)
            stats.add_compile(self, 0.0, 0.0)
            return _programs[self.digest]
        started = time.perf_counter()
        result = self.compile(stats.progress)
        compiled = time.perf_counter()
        self.origin, self.seconds = result.origin, result.seconds
        try:
            program = runtime.Program(result.data)
        except Exception as error:
            raise CompileError(f"the plan could not be loaded: {error}", "INTERNAL") from error
        _programs[self.digest] = program
        if os.environ.get("THUNDER_NVTX"):
            for plan in program.plans.values():
                plan.label(self.encoded)
        _origins.setdefault(self.digest, _Origins()).add(program, self.encoded)
        stats.add_compile(self, compiled - started, time.perf_counter() - compiled)
        if os.environ.get("THUNDER_DUMP"):
            self.dump_to(os.environ["THUNDER_DUMP"])
        return program

    def compile(self, progress=None):
        """The daemon's Result. Raises CompileError, DaemonError."""
        try:
            return daemon.compile_job(self.bytes, progress)
        except daemon.RemoteError as error:
            self._dump_failed()
            raise daemon.compile_error(error, self.encoded) from None

    def names_bytes(self):
        return self.encoded.names.SerializeToString(deterministic=True)

    def traces(self):
        """[(title, text)]: the captured trace and the trace after every pass."""
        try:
            text = daemon.dump(self.bytes, self.names_bytes())
        except daemon.RemoteError as error:
            raise daemon.compile_error(error, self.encoded) from None
        found, title, lines = [], "capture", []
        for line in text.split("\n"):
            if line.startswith("// after "):
                if lines:
                    found.append((title, "\n".join(lines).strip("\n") + "\n"))
                title, lines = line.removeprefix("// after ").strip(), [line]
            else:
                lines.append(line)
        if any(line.strip() for line in lines):
            found.append((title, "\n".join(lines).strip("\n") + "\n"))
        return found

    def dump_to(self, directory):
        """Writes job, names and all traces below `directory`/<digest>."""
        place = self._write_inputs(directory)
        for i, (title, text) in enumerate(self.traces()):
            name = "".join(ch if ch.isalnum() or ch in "-_" else "_" for ch in title).strip("_")
            with open(os.path.join(place, f"{i:02d}-{name}.tir"), "w") as f:
                f.write(text)

    def _write_inputs(self, directory):
        place = os.path.join(directory, self.digest.hex()[:16])
        os.makedirs(place, exist_ok=True)
        for name, data in (("job.bin", self.bytes), ("trace.bin", self.encoded.trace_bytes), ("names.bin", self.names_bytes())):
            with open(os.path.join(place, name), "wb") as f:
                f.write(data)
        return place

    def _dump_failed(self):
        if os.environ.get("THUNDER_DUMP"):
            self._write_inputs(os.environ["THUNDER_DUMP"])
